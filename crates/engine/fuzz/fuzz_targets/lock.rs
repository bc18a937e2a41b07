//! See `holdfast_engine_fuzz::lock`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_engine_fuzz::lock(data));
