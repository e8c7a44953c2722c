//! `make fuzz` runs it; the laws are in src/event/laws.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| rollcall_fuzz::event::laws::hold(input));
