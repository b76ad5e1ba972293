//! The parts of its work that a process tells the daemon of: `dbgproxy.debug_session` in its program.
//!
//! They are listed with their process. A process that tells nonsense, or too much, harms its own list only.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::value::RawValue;

/// How many are kept of one process; the oldest that has ended goes first, or else the oldest.
pub const DEBUG_SESSIONS: usize = 100;

/// How many bytes of their texts are kept of one process; they go in the same order.
pub const DEBUG_SESSIONS_BYTES: usize = 64 * 1024;

/// How many bytes a name, an id or an error's text may have; the rest is cut off.
pub const TEXT: usize = 1024;

/// How many bytes the metadata of one may have as JSON; more is left out altogether.
pub const METADATA: usize = 8 * 1024;

/// What is said of one that has not ended when its process does.
const CUT_OFF: &str = "the process ended before it did";

/// A part of a process's work, in the words of the verb `sessions`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DebugSession {
    /// The id that the program has given it.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What kind of work it is.
    #[serde(default)]
    pub r#type: Option<String>,
    /// For whom it is done.
    #[serde(default)]
    pub owner: Option<String>,
    /// How far it is.
    pub status: Status,
    /// Whatever else the program says of it.
    pub metadata: Option<Box<RawValue>>,
    /// Why it has failed.
    pub error: Option<Failure>,
    /// When the daemon first heard of it.
    #[serde(skip_deserializing, default = "Timestamp::now")]
    pub created: Timestamp,
    /// When the daemon first heard that it is under way; of one that is not yet, when it was created.
    #[serde(skip_deserializing, default = "Timestamp::now")]
    pub started: Timestamp,
    /// When the daemon heard of its end.
    #[serde(skip_deserializing)]
    pub ended: Option<Timestamp>,
    /// Its process has ended before it did.
    #[serde(skip)]
    pub is_cut_off: bool,
}

/// How far a part of the work is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// It is there, and has not begun.
    Created,
    /// It is under way.
    Running,
    /// It has come to its end.
    Completed,
    /// An exception has ended it, or its process has.
    Failed,
    /// It was called off.
    Cancelled,
}

impl Status {
    /// Whether it has not ended.
    fn is_open(self) -> bool {
        matches!(self, Status::Created | Status::Running)
    }

    /// The word for it.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Status::Created => "created",
            Status::Running => "running",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
        }
    }
}

/// What has ended it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Failure {
    /// The exception's type, if it was one.
    pub r#type: Option<String>,
    /// What it says.
    pub message: String,
}

/// Those of one process, the oldest first. A copy costs nothing: what is publicly known of a session is copied often.
#[derive(Debug, Clone, Default)]
pub struct DebugSessions(Arc<Vec<DebugSession>>);

impl Serialize for DebugSessions {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl DebugSessions {
    /// All of them, the oldest first.
    #[must_use]
    pub fn all(&self) -> &[DebugSession] {
        &self.0
    }

    /// Takes over what the process says of one.
    pub(crate) fn note(&mut self, mut said: DebugSession) {
        said.bound();
        said.ended = (!said.status.is_open()).then(Timestamp::now);
        let all = Arc::make_mut(&mut self.0);
        match all.iter_mut().find(|known| known.id == said.id) {
            Some(known) => {
                let has_begun_anew = known.ended.is_some() && said.status.is_open();
                if !has_begun_anew {
                    said.created = known.created;
                    if known.status != Status::Created {
                        said.started = known.started;
                    }
                }
                *known = said;
            }
            None => all.push(said),
        }
        while all.len() > DEBUG_SESSIONS
            || all.iter().map(DebugSession::size).sum::<usize>() > DEBUG_SESSIONS_BYTES
        {
            let ended = all.iter().position(|known| known.ended.is_some());
            all.remove(ended.unwrap_or(0));
        }
    }

    /// Their process has ended, or another program has taken its place.
    pub(super) fn cut_off(&mut self) {
        if self.0.iter().all(|known| known.ended.is_some()) {
            return;
        }
        for known in Arc::make_mut(&mut self.0) {
            if known.ended.is_none() {
                known.status = Status::Failed;
                known.error = Some(Failure {
                    r#type: None,
                    message: CUT_OFF.into(),
                });
                known.ended = Some(Timestamp::now());
                known.is_cut_off = true;
            }
        }
    }
}

impl DebugSession {
    /// Cuts off what is too long.
    fn bound(&mut self) {
        cut(&mut self.id);
        cut(&mut self.name);
        for text in [&mut self.r#type, &mut self.owner].into_iter().flatten() {
            cut(text);
        }
        if let Some(error) = &mut self.error {
            cut(&mut error.message);
            if let Some(kind) = &mut error.r#type {
                cut(kind);
            }
        }
        self.metadata
            .take_if(|metadata| metadata.get().len() > METADATA);
    }

    /// How many bytes its texts have.
    fn size(&self) -> usize {
        let error = self.error.as_ref();
        let kind = error.and_then(|error| error.r#type.as_ref());
        let metadata = self.metadata.as_ref();
        let texts = [&self.r#type, &self.owner];
        let texts = texts.into_iter().flatten().map(String::len);
        self.id.len()
            + self.name.len()
            + texts.sum::<usize>()
            + error.map_or(0, |error| error.message.len())
            + kind.map_or(0, String::len)
            + metadata.map_or(0, |metadata| metadata.get().len())
    }
}

fn cut(text: &mut String) {
    text.truncate(text.floor_char_boundary(TEXT));
    text.shrink_to_fit();
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(id: usize, status: &str, metadata: serde_json::Value) -> DebugSession {
        let text =
            json!({ "id": id.to_string(), "name": "n", "status": status, "metadata": metadata });
        serde_json::from_str(&text.to_string()).unwrap()
    }

    fn ids(all: &DebugSessions) -> Vec<&str> {
        all.0.iter().map(|known| &*known.id).collect()
    }

    #[test]
    fn the_oldest_that_has_ended_goes_first() {
        let mut all = DebugSessions::default();
        for id in 0..DEBUG_SESSIONS {
            all.note(said(id, "running", json!(null)));
        }
        all.note(said(5, "completed", json!(null)));
        all.note(said(3, "failed", json!(null)));
        for id in 1000..1003 {
            all.note(said(id, "running", json!(null)));
        }
        assert_eq!(all.0.len(), DEBUG_SESSIONS);
        assert_eq!(ids(&all)[..4], ["1", "2", "4", "6"]);
        assert_eq!(ids(&all)[97..], ["1000", "1001", "1002"]);
    }

    #[test]
    fn texts_are_bounded() {
        let mut all = DebugSessions::default();
        let mut long = said(1, "failed", json!("x".repeat(METADATA)));
        long.name = "\u{e4}".repeat(TEXT);
        long.id = format!("x{}", "\u{e4}".repeat(TEXT));
        all.note(long);
        assert_eq!(all.0[0].name.len(), TEXT);
        assert_eq!(all.0[0].id.len(), TEXT - 1);
        assert!(all.0[0].metadata.is_none());
        for id in 0..DEBUG_SESSIONS {
            all.note(said(id, "running", json!("x".repeat(METADATA - 2))));
        }
        let sizes: usize = all.0.iter().map(DebugSession::size).sum();
        assert!(sizes <= DEBUG_SESSIONS_BYTES && sizes > DEBUG_SESSIONS_BYTES - 2 * METADATA);
        assert_eq!(ids(&all).last(), Some(&"99"));
    }

    #[test]
    fn one_that_is_created_has_not_begun() {
        let mut all = DebugSessions::default();
        let mut created = said(1, "created", json!(null));
        created.owner = Some("\u{e4}".repeat(TEXT));
        all.note(created);
        let known = all.0[0].clone();
        assert_eq!(known.status, Status::Created);
        assert!(known.ended.is_none());
        assert_eq!(known.owner.as_ref().map(String::len), Some(TEXT));
        all.note(said(1, "running", json!(null)));
        let running = all.0[0].clone();
        assert_eq!(running.created, known.created);
        assert!(running.started >= known.started && running.ended.is_none());
        all.note(said(1, "completed", json!(null)));
        assert_eq!(all.0[0].created, known.created);
        assert_eq!(all.0[0].started, running.started);
        all.note(said(2, "created", json!(null)));
        all.cut_off();
        assert_eq!(all.0[1].status, Status::Failed);
    }

    #[test]
    fn times_are_those_of_begin_and_end() {
        let mut all = DebugSessions::default();
        all.note(said(1, "running", json!({ "a": 1.5 })));
        let started = all.0[0].started;
        assert!(all.0[0].ended.is_none());
        all.note(said(1, "completed", json!({})));
        assert_eq!(all.0[0].started, started);
        let ended = all.0[0].ended.unwrap();
        all.note(said(2, "running", json!({})));
        let shown = all.clone();
        all.cut_off();
        assert_eq!(all.0[0].status, Status::Completed);
        assert_eq!(all.0[0].ended, Some(ended));
        assert_eq!(all.0[1].status, Status::Failed);
        assert_eq!(shown.0[1].status, Status::Running);
        all.note(said(1, "running", json!({})));
        assert!(all.0[0].ended.is_none() && all.0[0].started >= ended);
    }
}
