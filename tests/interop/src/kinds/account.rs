//! Events in JSON with a type property, of which two have changed.
//!
//! References may be null in Java, so they may be missing here.

use indexmap::IndexMap;
use perennial_persistence::{
    CodecError, Decimal, Format, Schema, SchemaBuilder, SerializedPayload, Versions,
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::java::{Duration, Instant, Uuid};
use crate::json::{Json, jackson, jackson_payload, text_of};
use crate::kind::{Kind, PACKAGE, Snapshots, json_payload};
use crate::kinds::variant;

#[derive(Clone, Serialize, Deserialize)]
enum Tier {
    #[serde(rename = "BASIC")]
    Basic,
    #[serde(rename = "GOLD")]
    Gold,
}

#[derive(Clone, Serialize, Deserialize)]
struct Limit {
    name: Option<String>,
    #[serde(default)]
    cents: i64,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Opened {
    account_id: Option<Uuid>,
    owner: Option<String>,
    tier: Option<Tier>,
    opened_at: Option<Instant>,
    birthday: Option<String>,
    grace: Option<Duration>,
    rate: Option<Decimal>,
    limits: Option<Vec<Limit>>,
    attributes: Option<IndexMap<String, Option<String>>>,
}

/// The JVM's class still has the field of version 1, and takes it in a command of today.
#[derive(Serialize, Deserialize)]
pub(crate) struct Deposited {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    amount: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cents: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    channel: Option<String>,
    memo: Option<String>,
    labels: Option<Vec<Vec<String>>>,
}

impl Deposited {
    fn value(&self) -> i64 {
        self.cents.or(self.amount).unwrap_or(0)
    }
}

/// `Withdrawn` as it was in version 1. Version 2 exists because the JVM has a migration for it, and
/// is written for a command that asks for this class.
#[derive(Serialize, Deserialize)]
pub(crate) struct Debited {
    #[serde(default)]
    amount: i64,
    at: Option<Instant>,
    /// What version 1 becomes has this instead of the amount.
    #[serde(default, skip_serializing)]
    cents: Option<i64>,
}

impl Debited {
    fn into_event(self) -> AccountEvent {
        match self.cents {
            None => AccountEvent::Debited(self),
            Some(cents) => AccountEvent::Withdrawn(Withdrawn {
                cents,
                reason: None,
                at: self.at,
            }),
        }
    }
}

#[derive(Serialize, Deserialize)]
pub(crate) struct Withdrawn {
    #[serde(default)]
    cents: i64,
    reason: Option<String>,
    at: Option<Instant>,
}

pub(crate) enum AccountEvent {
    Opened(Opened),
    Deposited(Deposited),
    Withdrawn(Withdrawn),
    Debited(Debited),
    Closed,
}

fn class(name: &str) -> Versions {
    Versions::new(format!("{PACKAGE}.AccountEvent${name}")).tagged(name.to_lowercase())
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Account {
    open: bool,
    owner: Option<String>,
    balance_cents: i64,
    deposits: i64,
    withdrawals: i64,
    limits: Option<Vec<Limit>>,
    last_memo: Option<String>,
    opened_at: Option<Instant>,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            open: false,
            owner: None,
            balance_cents: 0,
            deposits: 0,
            withdrawals: 0,
            limits: Some(Vec::new()),
            last_memo: None,
            opened_at: None,
        }
    }
}

/// The type property of an event in the lines.
#[derive(Deserialize)]
struct Type {
    r#type: String,
}

impl Kind for Account {
    const NAME: &'static str = "Account";
    const SNAPSHOTS: Option<Snapshots> = Some(Snapshots {
        every: 7,
        keep: 2,
        delete_events: false,
    });
    type Event = AccountEvent;

    fn events() -> SchemaBuilder<AccountEvent> {
        let deposited = class("Deposited").version(2).upcast(1, |event| {
            event.rename("amount", "cents")?;
            event.set("channel", "legacy")
        });
        let debited = class("Debited")
            .version(2)
            .upcast(1, |event| event.rename("amount", "cents"));
        Schema::variants()
            .format(Format::JacksonJson)
            .type_property("type")
            .variant(
                class("Opened"),
                AccountEvent::Opened,
                variant!(AccountEvent::Opened),
            )
            .variant(
                deposited,
                AccountEvent::Deposited,
                variant!(AccountEvent::Deposited),
            )
            .variant(
                class("Withdrawn"),
                AccountEvent::Withdrawn,
                variant!(AccountEvent::Withdrawn),
            )
            .variant(
                debited,
                Debited::into_event,
                variant!(AccountEvent::Debited),
            )
            .unit_variant(
                class("Closed"),
                || AccountEvent::Closed,
                |event| matches!(event, AccountEvent::Closed),
            )
    }

    fn states() -> Option<SchemaBuilder<Self>> {
        let state = Versions::new(format!("{PACKAGE}.AccountState"))
            .version(2)
            .upcast(1, |state| state.rename("balance", "balanceCents"));
        Some(Schema::of(state).format(Format::JacksonJson))
    }

    fn apply(&mut self, event: &AccountEvent, _: Option<&SerializedPayload>) {
        match event {
            AccountEvent::Opened(event) => {
                self.open = true;
                self.owner.clone_from(&event.owner);
                self.limits.clone_from(&event.limits);
                self.opened_at.clone_from(&event.opened_at);
            }
            AccountEvent::Deposited(event) => {
                self.balance_cents = self.balance_cents.wrapping_add(event.value());
                self.deposits += 1;
                self.last_memo.clone_from(&event.memo);
            }
            AccountEvent::Withdrawn(event) => {
                self.balance_cents = self.balance_cents.wrapping_sub(event.cents);
                self.withdrawals += 1;
            }
            AccountEvent::Debited(event) => {
                self.balance_cents = self.balance_cents.wrapping_sub(event.amount);
                self.withdrawals += 1;
            }
            AccountEvent::Closed => self.open = false,
        }
    }

    fn tags(event: &AccountEvent) -> Vec<String> {
        let tags: &[&str] = match event {
            AccountEvent::Opened(_) => &[],
            AccountEvent::Deposited(event) if event.value() >= 100_000 => {
                &["money", "입금", "large"]
            }
            AccountEvent::Deposited(_) => &["money", "입금"],
            AccountEvent::Withdrawn(_) | AccountEvent::Debited(_) => &["money", "출금 out"],
            AccountEvent::Closed => &["closed"],
        };
        tags.iter().map(|&tag| tag.to_owned()).collect()
    }

    fn event_payload(json: &RawValue) -> Result<SerializedPayload, String> {
        let Type { r#type } = serde_json::from_str(json.get())
            .map_err(|error| format!("an event of Account has a `type`: {error}"))?;
        let class = match r#type.as_str() {
            "opened" => "Opened",
            "deposited" => "Deposited#2",
            "withdrawn" => "Withdrawn",
            "debited" => "Debited#2",
            "closed" => "Closed",
            other => return Err(format!("no event of Account has the type {other}")),
        };
        let manifest = format!("{PACKAGE}.AccountEvent${class}");
        Ok(json_payload(&manifest, json))
    }

    fn event_json(event: &AccountEvent) -> Result<Json, CodecError> {
        text_of(&jackson_payload(Self::events(), event)?)
    }

    fn state_json(&self) -> Result<Json, CodecError> {
        jackson(self)
    }
}
