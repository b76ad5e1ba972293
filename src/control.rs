//! The verbs: the daemon's own operations, the same over DAP, HTTP and the command line.
//!
//! Each takes and gives JSON. This module knows no connection.

use std::collections::HashSet;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::oneshot;

use crate::hub::Hub;
use crate::selector::Selector;
use crate::session::{Handle, Info, Mail, SessionId};

/// How long stopped processes may take to say where they are stopped, before the list goes without it.
const LOCATE_WAIT: Duration = Duration::from_millis(500);

/// Why a verb came to nothing.
#[derive(Debug, Serialize)]
pub struct Error {
    /// What kind of failure.
    pub code: Code,
    /// What happened, to what, and what to do next.
    pub message: String,
}

/// The kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// There is no such thing.
    NotFound,
    /// The question is wrong.
    BadRequest,
    /// Not now.
    Unavailable,
    /// Not you.
    Forbidden,
    /// It took too long.
    Timeout,
}

impl Error {
    /// An error of a kind.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Error {
        Error {
            code,
            message: message.into(),
        }
    }
}

/// Carries out a verb.
///
/// # Errors
/// [`Error`], in words for the user.
pub async fn call(hub: &Hub, verb: &str, arguments: &Value) -> Result<Value, Error> {
    match verb {
        "sessions" => sessions(hub, arguments).await,
        "info" => Ok(info(hub)),
        _ => Err(Error::new(
            Code::NotFound,
            format!("there is no verb {verb:?}; there are \"sessions\" and \"info\""),
        )),
    }
}

/// `sessions {selector?, all?}`: the sessions that match, the ended ones too if `all`.
async fn sessions(hub: &Hub, arguments: &Value) -> Result<Value, Error> {
    let selector = match arguments.get("selector") {
        None | Some(Value::Null) => Selector::default(),
        Some(Value::String(text)) => text
            .parse()
            .map_err(|error| Error::new(Code::BadRequest, format!("{error}")))?,
        Some(_) => return Err(Error::new(Code::BadRequest, "\"selector\" is not a text")),
    };
    let all = match arguments.get("all") {
        None | Some(Value::Null) => false,
        // A query string has no booleans.
        Some(value) => value == &Value::Bool(true) || value == "true" || value == "1",
    };
    locate(&hub.sessions()).await;
    // Some may have ended meanwhile: the history first, so that none is in neither.
    let ended = if all { hub.ended() } else { Vec::new() };
    let known: HashSet<SessionId> = ended.iter().map(|info| info.id).collect();
    let live = hub.sessions();
    let live = live.iter().map(|session| session.info().clone());
    let live = live.filter(|info| info.ended.is_none() && !known.contains(&info.id));
    let sessions: Vec<Info> = ended
        .into_iter()
        .chain(live)
        .filter(|info| selector.matches(&info.subject()))
        .collect();
    Ok(json!({ "sessions": sessions }))
}

/// Lets stopped processes say where they are stopped: they are asked when somebody wants to know, not at every stop.
async fn locate(sessions: &[std::sync::Arc<Handle>]) {
    let mut answers = Vec::new();
    for session in sessions {
        let unknown = session
            .info()
            .stopped
            .as_ref()
            .is_some_and(|stopped| stopped.file.is_none());
        let (tx, rx) = oneshot::channel();
        if unknown && session.inbox.try_send(Mail::Locate(tx)).is_ok() {
            answers.push(rx);
        }
    }
    let all = async {
        for answer in answers {
            // It is answered by being dropped.
            let _ = answer.await;
        }
    };
    let _ = tokio::time::timeout(LOCATE_WAIT, all).await;
}

/// `info`: the daemon itself.
fn info(hub: &Hub) -> Value {
    let pid = std::process::id();
    let this = [Pid::from_u32(pid)];
    // Where the system does not tell, neither do we.
    let memory = System::new().ok().and_then(|mut system| {
        let kind = ProcessRefreshKind::nothing().with_memory();
        system.refresh_processes_specifics(ProcessesToUpdate::Some(&this), true, kind);
        system.process(this[0]).map(sysinfo::Process::memory)
    });
    json!({
        "name": "dbgproxy",
        "version": env!("CARGO_PKG_VERSION"),
        "pid": pid,
        "started": hub.started,
        "addresses": hub.addresses,
        "sessions": hub.sessions().len(),
        "clients": hub.client_count(),
        "memory": memory,
    })
}
