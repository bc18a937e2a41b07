//! See `holdfast_engine_fuzz::tree`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_engine_fuzz::tree(data));
