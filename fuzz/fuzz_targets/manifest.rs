#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use perennial_persistence::{Codec, Schema, SerializedPayload, Versions};

/// Names that look like each other.
static SCHEMA: LazyLock<Schema<i64>> = LazyLock::new(|| {
    Schema::of(
        Versions::new("a")
            .version(12)
            .oldest(11)
            .upcast(11, |_| Ok(())),
    )
    .ignored(Versions::new("a1"))
    .ignored(Versions::new(""))
    .build()
    .expect("a schema")
});

fuzz_target!(|input: (i32, &str, &[u8])| {
    let (serializer_id, manifest, bytes) = input;
    for id in [serializer_id, 31, 1_299_408_720] {
        let payload = SerializedPayload::new(id, manifest, bytes.to_vec());
        let mut values = 0;
        let read = SCHEMA.decode_each(&payload, &mut |_| values += 1);
        assert!(values <= usize::from(read.is_ok()));
    }
});
