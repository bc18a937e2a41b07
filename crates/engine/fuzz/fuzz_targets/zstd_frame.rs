//! See `holdfast_engine_fuzz::zstd_frame`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_engine_fuzz::zstd_frame(data));
