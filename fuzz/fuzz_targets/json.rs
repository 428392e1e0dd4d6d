#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_persistence::Format;

fuzz_target!(|bytes: &[u8]| perennial_fuzz::read(Format::JacksonJson, bytes));
