//! What the program reads and prints: one JSON object per line, as `jvm/README.md` says.

use perennial_persistence::PersistenceId;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::engine::Engine;
use crate::json::Json;
use crate::kind::{Seen, describe};
use crate::tables::{EventRow, SnapshotRow, StateRow};

/// One answer.
#[derive(Serialize)]
pub struct Line {
    kind: Option<String>,
    persistence_id: Option<String>,
    #[serde(flatten)]
    content: Content,
}

impl Line {
    /// The line as it is printed.
    pub fn text(&self) -> String {
        serde_json::to_string(self).expect("a line has text keys and readable values")
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

#[derive(Serialize)]
#[serde(untagged)]
enum Content {
    Journaled {
        highest_seq_nr: u64,
        state: Json,
        #[serde(flatten)]
        tables: Option<JournaledTables>,
    },
    Durable {
        revision: u64,
        state: Json,
        #[serde(flatten)]
        tables: Option<DurableTables>,
    },
    Outcome {
        outcome: String,
    },
    Error {
        error: String,
    },
}

#[derive(Serialize)]
struct JournaledTables {
    #[serde(skip_serializing_if = "Option::is_none")]
    deleted_to: Option<i64>,
    snapshot: Option<SnapshotRow>,
    events: Vec<EventRow>,
}

#[derive(Serialize)]
struct DurableTables {
    row: Option<StateRow>,
}

/// What is to be recovered.
#[derive(Deserialize)]
struct Wanted {
    kind: Option<String>,
    persistence_id: Option<String>,
    id: Option<String>,
}

/// Recovers the entity that a line names; `full` adds what the tables hold.
pub async fn recover(engine: &mut Engine, line: &str, full: bool) -> Line {
    let Wanted {
        kind,
        persistence_id,
        id,
    } = match serde_json::from_str(line) {
        Ok(wanted) => wanted,
        Err(error) => return unreadable(&error),
    };
    let id = persistence_id.or(id);
    let content = match names(kind.as_deref(), id.as_deref()) {
        Ok((kind, id)) if full => whole(engine, kind, &id).await,
        Ok((kind, id)) => seen(engine, kind, &id).await,
        Err(error) => Err(error),
    };
    answer(kind, id, content)
}

/// A command. Which of the fields counts is decided in the order in which they stand here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Command {
    kind: Option<String>,
    id: Option<String>,
    #[serde(rename = "persistence_id")]
    persistence_id: Option<String>,
    persist: Option<Vec<Box<RawValue>>>,
    put: Option<Box<RawValue>>,
    delete: Option<Box<RawValue>>,
    delete_events: Option<i64>,
    stop: Option<Box<RawValue>>,
    full: Option<Box<RawValue>>,
    get: Option<Box<RawValue>>,
}

/// Carries out the command of a line.
pub async fn command(engine: &mut Engine, line: &str) -> Line {
    let mut command: Command = match serde_json::from_str(line) {
        Ok(command) => command,
        Err(error) => return unreadable(&error),
    };
    let kind = command.kind.take();
    let id = command.id.take().or(command.persistence_id.take());
    let content = match names(kind.as_deref(), id.as_deref()) {
        Ok((kind, id)) => run(engine, kind, &id, command, line).await,
        Err(error) => Err(error),
    };
    answer(kind, id, content)
}

async fn run(
    engine: &mut Engine,
    kind: &str,
    id: &PersistenceId,
    command: Command,
    line: &str,
) -> Result<Content, String> {
    if let Some(events) = command.persist {
        let answer = engine.persist(kind, id, events).await?;
        shown(engine, kind, answer)
    } else if let Some(state) = command.put {
        let answer = engine.put(kind, id, state).await?;
        shown(engine, kind, answer)
    } else if command.delete.is_some() {
        let answer = engine.delete(kind, id).await?;
        shown(engine, kind, answer)
    } else if let Some(to) = command.delete_events {
        let outcome = engine.delete_events(kind, id, to).await?;
        Ok(Content::Outcome { outcome })
    } else if command.stop.is_some() {
        engine.stop(kind, id).await?;
        let outcome = "stopped".to_owned();
        Ok(Content::Outcome { outcome })
    } else if command.full.is_some() {
        whole(engine, kind, id).await
    } else if command.get.is_some() {
        seen(engine, kind, id).await
    } else {
        Err(format!("no command in {line}"))
    }
}

async fn seen(engine: &mut Engine, kind: &str, id: &PersistenceId) -> Result<Content, String> {
    let answer = engine.get(kind, id).await?;
    shown(engine, kind, answer)
}

fn shown(engine: &Engine, kind: &str, seen: Seen) -> Result<Content, String> {
    let Seen { number, state } = seen;
    Ok(if engine.kind(kind)?.is_durable() {
        Content::Durable {
            revision: number,
            state,
            tables: None,
        }
    } else {
        Content::Journaled {
            highest_seq_nr: number,
            state,
            tables: None,
        }
    })
}

/// With what the tables hold. Recovery comes first: it may write.
async fn whole(engine: &mut Engine, kind: &str, id: &PersistenceId) -> Result<Content, String> {
    let mut content = seen(engine, kind, id).await?;
    let (known, rows) = (engine.kind(kind)?, engine.tables());
    match &mut content {
        Content::Journaled { tables, .. } => {
            *tables = Some(JournaledTables {
                deleted_to: rows.deleted_to(id).await?,
                snapshot: rows.snapshot(known, id).await?,
                events: rows.events(known, id).await?,
            });
        }
        Content::Durable { tables, .. } => {
            *tables = Some(DurableTables {
                row: rows.state(known, id).await?,
            });
        }
        Content::Outcome { .. } | Content::Error { .. } => {}
    }
    Ok(content)
}

fn names<'a>(kind: Option<&'a str>, id: Option<&str>) -> Result<(&'a str, PersistenceId), String> {
    let kind = kind.ok_or("the line names no `kind`")?;
    let id = id.ok_or("the line names no entity")?;
    let id = PersistenceId::of_unique_id(id).map_err(|error| describe(&error))?;
    Ok((kind, id))
}

fn answer(kind: Option<String>, id: Option<String>, content: Result<Content, String>) -> Line {
    Line {
        kind,
        persistence_id: id,
        content: content.unwrap_or_else(|error| Content::Error { error }),
    }
}

fn unreadable(error: &serde_json::Error) -> Line {
    answer(None, None, Err(format!("the line cannot be read: {error}")))
}
