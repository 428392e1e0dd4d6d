//! The kinds, by name.

mod account;
mod doc;
mod durable;
mod primitive;
mod sensor;
mod tally;
mod votes;

use std::collections::BTreeMap;
use std::marker::PhantomData;

use crate::kind::{AnyKind, Events, Kind, StateKind, States};

/// All kinds by name.
pub type Kinds = BTreeMap<&'static str, Box<dyn AnyKind>>;

/// All kinds by name.
pub fn all() -> Kinds {
    let mut kinds = Kinds::new();
    journaled::<primitive::Note>(&mut kinds);
    journaled::<primitive::Memo>(&mut kinds);
    journaled::<primitive::CounterInt>(&mut kinds);
    journaled::<primitive::CounterLong>(&mut kinds);
    journaled::<primitive::Flag>(&mut kinds);
    journaled::<primitive::Blob>(&mut kinds);
    journaled::<primitive::Frame>(&mut kinds);
    journaled::<account::Account>(&mut kinds);
    journaled::<tally::Tally>(&mut kinds);
    journaled::<doc::Doc>(&mut kinds);
    journaled::<sensor::Sensor>(&mut kinds);
    journaled::<votes::Votes>(&mut kinds);
    durable::<durable::Profile>(&mut kinds);
    durable::<durable::Motto>(&mut kinds);
    durable::<durable::Gauge>(&mut kinds);
    kinds
}

fn journaled<K: Kind>(kinds: &mut Kinds) {
    kinds.insert(K::NAME, Box::new(Events::<K>::new()));
}

fn durable<S: StateKind>(kinds: &mut Kinds) {
    kinds.insert(S::TYPE, Box::new(States::<S>(PhantomData)));
}

/// The content of a variant, taken out of its event.
macro_rules! variant {
    ($event:ident::$variant:ident) => {
        |event| match event {
            $event::$variant(content) => Some(content),
            _ => None,
        }
    };
}
use variant;

/// Events without a type property: the lines name their class beside their fields.
mod classed {
    use perennial_persistence::{CodecError, SchemaBuilder, SerializedPayload};
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use crate::json::{Json, jackson_payload, raw, text_of};
    use crate::kind::{PACKAGE, json_payload};

    #[derive(Deserialize)]
    struct Class {
        class: String,
    }

    pub(super) fn payload(
        events: &str,
        known: &[&str],
        json: &RawValue,
    ) -> Result<SerializedPayload, String> {
        let Class { class } = serde_json::from_str(json.get())
            .map_err(|error| format!("an event of {events} has a `class`: {error}"))?;
        if !known.contains(&class.as_str()) {
            return Err(format!("no class {class} in {events}"));
        }
        Ok(json_payload(&format!("{PACKAGE}.{events}${class}"), json))
    }

    pub(super) fn json<T: 'static>(
        schema: SchemaBuilder<T>,
        event: &T,
    ) -> Result<Json, CodecError> {
        let payload = jackson_payload(schema, event)?;
        let class = payload
            .manifest
            .rsplit_once('$')
            .map_or("", |(_, class)| class);
        let json = text_of(&payload)?;
        let fields = json.get().trim_start_matches('{');
        let comma = if fields == "}" { "" } else { "," };
        raw(format!("{{\"class\":\"{class}\"{comma}{fields}"))
    }
}
