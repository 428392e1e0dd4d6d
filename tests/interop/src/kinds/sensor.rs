//! Events in CBOR.

use std::collections::BTreeMap;

use indexmap::IndexMap;
use perennial_persistence::{
    CodecError, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::value::RawValue;

use crate::java::{Instant, Text};
use crate::json::{Json, jackson};
use crate::kind::{Kind, PACKAGE, Snapshots};
use crate::kinds::{classed, variant};

#[derive(Serialize, Deserialize)]
pub(crate) struct Measured {
    unit: Option<String>,
    #[serde(default)]
    value: f64,
    #[serde(default)]
    precision: f32,
    #[serde(default)]
    status: i32,
    #[serde(default)]
    serial: i64,
    samples: Option<Vec<f64>>,
    codes: Option<Vec<i32>>,
    raw: Option<ByteBuf>,
    minimum: Option<f64>,
    #[serde(default)]
    valid: bool,
    at: Option<Instant>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Calibrated {
    #[serde(default)]
    offset: f64,
    table: Option<IndexMap<String, f64>>,
}

pub(crate) enum SensorEvent {
    Measured(Measured),
    Calibrated(Calibrated),
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sensor {
    count: i64,
    sum: f64,
    last: f64,
    offset: f64,
    per_status: BTreeMap<Text, i64>,
    last_codes: Option<Vec<i32>>,
}

impl Default for Sensor {
    fn default() -> Self {
        Self {
            count: 0,
            sum: 0.0,
            last: 0.0,
            offset: 0.0,
            per_status: BTreeMap::new(),
            last_codes: Some(Vec::new()),
        }
    }
}

fn class(name: &str) -> Versions {
    Versions::new(format!("{PACKAGE}.SensorEvent${name}"))
}

impl Kind for Sensor {
    const NAME: &'static str = "Sensor";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 6,
        keep: 2,
        delete_events: true,
    });
    type Event = SensorEvent;

    fn events() -> SchemaBuilder<SensorEvent> {
        Schema::variants()
            .format(Format::JacksonCbor)
            .variant(
                class("Measured"),
                SensorEvent::Measured,
                variant!(SensorEvent::Measured),
            )
            .variant(
                class("Calibrated"),
                SensorEvent::Calibrated,
                variant!(SensorEvent::Calibrated),
            )
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        let state = Versions::new(format!("{PACKAGE}.SensorState"));
        Some(Schema::of(state).format(Format::JacksonCbor))
    }

    fn apply(&mut self, event: &SensorEvent, _: Option<&SerializedPayload>) {
        match event {
            SensorEvent::Measured(event) => {
                self.count += 1;
                self.sum += event.value;
                self.last = event.value;
                let status = Text(event.status.to_string());
                *self.per_status.entry(status).or_default() += 1;
                self.last_codes.clone_from(&event.codes);
            }
            SensorEvent::Calibrated(event) => self.offset = event.offset,
        }
    }

    fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
        classed::payload("SensorEvent", &["Measured", "Calibrated"], json)
    }

    fn event_json(event: &SensorEvent) -> Result<Json, CodecError> {
        classed::json(Self::events(), event)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }
}
