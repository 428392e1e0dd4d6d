//! One class of events whose bodies may be large enough to be compressed.

use perennial_persistence::{
    CodecError, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::json::{Json, jackson};
use crate::kind::{Kind, PACKAGE, Snapshots};
use crate::kinds::classed;

#[derive(Serialize, Deserialize)]
pub(crate) struct Revised {
    title: Option<String>,
    body: Option<String>,
    footnotes: Option<Vec<Option<String>>>,
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Doc {
    title: Option<String>,
    body: Option<String>,
    revisions: i64,
    footnotes: Option<Vec<Option<String>>>,
}

impl Default for Doc {
    fn default() -> Self {
        Self {
            title: Some(String::new()),
            body: Some(String::new()),
            revisions: 0,
            footnotes: Some(Vec::new()),
        }
    }
}

impl Kind for Doc {
    const NAME: &'static str = "Doc";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 3,
        keep: 1,
        delete_events: false,
    });
    type Event = Revised;

    fn events() -> SchemaBuilder<Revised> {
        let revised = Versions::new(format!("{PACKAGE}.DocEvent$Revised"));
        Schema::of(revised).format(Format::JacksonJson)
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        let state = Versions::new(format!("{PACKAGE}.DocState"));
        Some(Schema::of(state).format(Format::JacksonJson))
    }

    fn apply(&mut self, event: &Revised, _: Option<&SerializedPayload>) {
        self.title.clone_from(&event.title);
        self.body.clone_from(&event.body);
        self.revisions += 1;
        self.footnotes.clone_from(&event.footnotes);
    }

    fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
        classed::payload("DocEvent", &["Revised"], json)
    }

    fn event_json(event: &Revised) -> Result<Json, CodecError> {
        classed::json(Self::events(), event)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }
}
