#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_persistence::Format;

fuzz_target!(|bytes: &[u8]| {
    for magic in [&b"\x1F\x8B\x08\0\0\0\0\0\0\xFF"[..], b"\x87\xD9\x6D\xF6"] {
        let stored = [magic, bytes].concat();
        perennial_fuzz::read_as::<perennial_fuzz::Node>(Format::JacksonJson, &stored);
        perennial_fuzz::read_as::<perennial_fuzz::Node>(Format::JacksonCbor, &stored);
    }
    let stored = [b"\x87\xD9\x6D\xF6\0\0", bytes].concat();
    perennial_fuzz::read_as::<String>(Format::JacksonJson, &stored);
});
