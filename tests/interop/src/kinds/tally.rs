//! Events in JSON without a type property: only the manifest tells the class.

use std::collections::BTreeMap;

use perennial_persistence::{
    CodecError, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::java::Text;
use crate::json::{Json, jackson};
use crate::kind::{Kind, PACKAGE, Snapshots};
use crate::kinds::{classed, variant};

#[derive(Serialize, Deserialize)]
pub(crate) struct Added {
    name: Text,
    #[serde(default)]
    delta: i64,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Renamed {
    from: Text,
    to: Text,
}

pub(crate) enum TallyEvent {
    Added(Added),
    Renamed(Renamed),
    Reset,
}

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Tally {
    counts: BTreeMap<Text, i64>,
    resets: i64,
}

impl Tally {
    fn add(&mut self, name: &Text, delta: i64) {
        let count = self.counts.entry(name.clone()).or_default();
        *count = count.wrapping_add(delta);
    }
}

fn class(name: &str) -> Versions {
    Versions::new(format!("{PACKAGE}.TallyEvent${name}"))
}

impl Kind for Tally {
    const NAME: &'static str = "Tally";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 5,
        keep: 1,
        delete_events: true,
    });
    type Event = TallyEvent;

    fn events() -> SchemaBuilder<TallyEvent> {
        Schema::variants()
            .format(Format::JacksonJson)
            .variant(
                class("Added"),
                TallyEvent::Added,
                variant!(TallyEvent::Added),
            )
            .variant(
                class("Renamed"),
                TallyEvent::Renamed,
                variant!(TallyEvent::Renamed),
            )
            .unit_variant(
                class("Reset"),
                || TallyEvent::Reset,
                |event| matches!(event, TallyEvent::Reset),
            )
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        let state = Versions::new(format!("{PACKAGE}.TallyState"));
        Some(Schema::of(state).format(Format::JacksonJson))
    }

    fn apply(&mut self, event: &TallyEvent, _: Option<&SerializedPayload>) {
        match event {
            TallyEvent::Added(event) => self.add(&event.name, event.delta),
            TallyEvent::Renamed(event) => {
                if let Some(count) = self.counts.remove(&event.from) {
                    self.add(&event.to, count);
                }
            }
            TallyEvent::Reset => {
                self.counts.clear();
                self.resets += 1;
            }
        }
    }

    fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
        classed::payload("TallyEvent", &["Added", "Renamed", "Reset"], json)
    }

    fn event_json(event: &TallyEvent) -> Result<Json, CodecError> {
        classed::json(Self::events(), event)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }
}
