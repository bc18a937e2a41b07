//! See `holdfast_engine_fuzz::sealed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| holdfast_engine_fuzz::sealed(data));
