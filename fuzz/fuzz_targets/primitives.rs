#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_persistence::Format;

fuzz_target!(|bytes: &[u8]| {
    for format in [
        Format::Bytes,
        Format::ByteString,
        Format::Long,
        Format::Int,
        Format::Text,
        Format::Boolean,
    ] {
        perennial_fuzz::read(format, bytes);
    }
});
