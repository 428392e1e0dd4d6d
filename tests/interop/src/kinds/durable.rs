//! Kinds of which only the latest state is kept.

use perennial_core::DurableState;
use perennial_persistence::{
    CodecError, Format, PersistenceId, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::java::Instant;
use crate::json::{Json, jackson, plain};
use crate::kind::{Notices, PACKAGE, StateKind, json_payload};

#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Contact {
    Phone {
        number: Option<String>,
    },
    Mail {
        address: Option<String>,
        #[serde(default)]
        verified: bool,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Profile {
    name: Option<String>,
    email: Option<String>,
    #[serde(default)]
    age: i32,
    contacts: Option<Vec<Contact>>,
    updated_at: Option<Instant>,
    /// Whether it gets the tag; no part of what is stored.
    #[serde(skip)]
    vip: bool,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            name: Some(String::new()),
            email: None,
            age: 0,
            contacts: Some(Vec::new()),
            updated_at: Some(Instant::epoch()),
            vip: false,
        }
    }
}

impl DurableState for Profile {
    const TYPE: &'static str = "Profile";
    type Services = Notices;
}

impl StateKind for Profile {
    fn states() -> SchemaBuilder<Self> {
        let state = Versions::new(format!("{PACKAGE}.Profile"));
        Schema::of(state).format(Format::JacksonJson)
    }

    fn state_payload(json: &RawValue) -> SerializedPayload {
        json_payload(&format!("{PACKAGE}.Profile"), json)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }

    fn tag_of(&mut self, id: &PersistenceId) {
        self.vip = id.as_str().contains("vip");
    }

    fn tags(&self) -> Vec<String> {
        self.vip.then(|| "vip".to_owned()).into_iter().collect()
    }
}

#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(crate) struct Motto(String);

impl DurableState for Motto {
    const TYPE: &'static str = "Motto";
    type Services = Notices;
}

impl StateKind for Motto {
    fn states() -> SchemaBuilder<Self> {
        Schema::primitive(Format::Text)
    }

    fn state_payload(json: &RawValue) -> SerializedPayload {
        json_payload("", json)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        plain(&self.0)
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Gauge {
    #[serde(default)]
    level: f64,
    history: Option<Vec<i32>>,
}

impl Default for Gauge {
    fn default() -> Self {
        Self {
            level: 0.0,
            history: Some(Vec::new()),
        }
    }
}

impl DurableState for Gauge {
    const TYPE: &'static str = "Gauge";
    type Services = Notices;
}

impl StateKind for Gauge {
    fn states() -> SchemaBuilder<Self> {
        let state = Versions::new(format!("{PACKAGE}.Gauge"));
        Schema::of(state).format(Format::JacksonCbor)
    }

    fn state_payload(json: &RawValue) -> SerializedPayload {
        json_payload(&format!("{PACKAGE}.Gauge"), json)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }

    fn tags(&self) -> Vec<String> {
        vec!["gauge".to_owned()]
    }
}
