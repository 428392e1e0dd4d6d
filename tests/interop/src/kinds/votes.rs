//! A replicated kind. It is read, and never written: perennial makes no replication metadata.

use std::collections::BTreeSet;

use perennial_persistence::{
    CodecError, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};

use crate::java::Text;
use crate::json::{Json, jackson};
use crate::kind::{Kind, PACKAGE};

#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Votes {
    votes: BTreeSet<Text>,
    /// What stood beside the last event: its origin and version on the JVM.
    #[serde(skip)]
    metadata: Option<SerializedPayload>,
}

impl Votes {
    /// What stood beside the last event that was replayed.
    #[cfg(test)]
    pub(crate) fn metadata(&self) -> Option<&SerializedPayload> {
        self.metadata.as_ref()
    }
}

impl Kind for Votes {
    const NAME: &'static str = "Votes";
    const READ_ONLY: Option<&'static str> = Some(
        "Votes is replicated on the JVM: its events need the metadata of a replica, which perennial \
         does not write; write it there",
    );
    type Event = String;

    fn events() -> SchemaBuilder<String> {
        Schema::primitive(Format::Text)
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        let state = Versions::new(format!("{PACKAGE}.VotesState"));
        Some(Schema::of(state).format(Format::JacksonJson))
    }

    fn apply(&mut self, vote: &String, metadata: Option<&SerializedPayload>) {
        self.votes.insert(Text(vote.clone()));
        self.metadata = metadata.cloned();
    }

    fn event_json(vote: &String) -> Result<Json, CodecError> {
        crate::json::plain(vote)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_metadata_of_the_last_event_is_kept() {
        let mut votes = Votes::default();
        let metadata = SerializedPayload::new(40, "RE", &b"\x0A\x04DC-A"[..]);
        votes.apply(&"a".to_owned(), Some(&metadata));
        assert_eq!(votes.metadata(), Some(&metadata));
        votes.apply(&"b".to_owned(), None);
        assert_eq!(votes.metadata(), None);
    }
}
