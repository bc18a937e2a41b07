//! See `holdfast_engine_fuzz::pack_header`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_engine_fuzz::pack_header(data));
