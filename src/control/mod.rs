//! The verbs: the daemon's own operations, the same over DAP, HTTP and the command line.
//!
//! Each takes and gives JSON. Those over a selector answer with one row a session, in the order of the sessions.
//! This module knows no connection.

mod arguments;
mod breakpoints;
mod events;
mod group;
mod inspect;
mod listing;
mod monitoring;

use serde::Serialize;
use serde_json::{Value, json};

use crate::hub::Hub;
use crate::session::SessionId;
use arguments::Arguments;
pub use events::{ALERT, Events, Followed, SESSION};

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

/// What a verb does to the processes and the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// It looks.
    Look,
    /// It changes something, or may.
    Touch,
}

/// Every verb, and what it does.
const VERBS: [(&str, Access); 22] = [
    ("sessions", Access::Look),
    ("session", Access::Look),
    ("info", Access::Look),
    ("threads", Access::Look),
    ("stacks", Access::Look),
    ("variables", Access::Look),
    ("output", Access::Look),
    ("report", Access::Look),
    ("monitor", Access::Look),
    ("breakpoints.list", Access::Look),
    ("breakpoints.add", Access::Touch),
    ("breakpoints.remove", Access::Touch),
    ("evaluate", Access::Touch),
    ("pause", Access::Touch),
    ("continue", Access::Touch),
    ("next", Access::Touch),
    ("stepIn", Access::Touch),
    ("stepOut", Access::Touch),
    ("terminate", Access::Touch),
    ("detach", Access::Touch),
    ("exit", Access::Touch),
    ("shutdown", Access::Touch),
];

/// What a verb does, if it is one.
///
/// # Errors
/// There is no such verb.
pub fn access(verb: &str) -> Result<Access, Error> {
    let found = VERBS.iter().find(|(name, _)| *name == verb);
    found.map(|(_, access)| *access).ok_or_else(|| {
        let names: Vec<&str> = VERBS.iter().map(|(name, _)| *name).collect();
        let names = names.join(", ");
        Error::new(
            Code::NotFound,
            format!("there is no verb {verb:?}; there are {names}"),
        )
    })
}

/// Checks that something that takes no arguments was given none.
///
/// # Errors
/// The argument that it was given.
pub fn takes_nothing(arguments: &Value) -> Result<(), Error> {
    Arguments::read(arguments)?.end()
}

/// Sets a breakpoint for a process in itself, which is to be removed when that lets go of the daemon.
///
/// # Errors
/// [`Error`], in words for the user; nothing was done then.
pub async fn add_own(hub: &Hub, session: SessionId, arguments: &Value) -> Result<Value, Error> {
    breakpoints::add_for(hub, Arguments::read(arguments)?, Some(session)).await
}

/// Carries out a verb for somebody who may do as much as `may`.
///
/// # Errors
/// [`Error`], in words for the user; nothing was done then.
pub async fn call(hub: &Hub, verb: &str, arguments: &Value, may: Access) -> Result<Value, Error> {
    if access(verb)? == Access::Touch && may == Access::Look {
        let why = format!("{verb:?} may change something, and who asks may only look");
        return Err(Error::new(Code::Forbidden, why));
    }
    let arguments = Arguments::read(arguments)?;
    match verb {
        "sessions" => listing::sessions(hub, arguments).await,
        "session" => listing::session(hub, arguments).await,
        "info" => {
            arguments.end()?;
            Ok(listing::info(hub))
        }
        "threads" => inspect::threads(hub, arguments).await,
        "stacks" => inspect::stacks(hub, arguments).await,
        "variables" => inspect::variables(hub, arguments).await,
        "output" => inspect::output(hub, arguments).await,
        "report" => monitoring::report(hub, arguments).await,
        "monitor" => monitoring::monitor(hub, arguments).await,
        "evaluate" => inspect::evaluate(hub, arguments).await,
        "exit" => listing::exit(hub, arguments),
        "breakpoints.add" => breakpoints::add(hub, arguments).await,
        "breakpoints.list" => breakpoints::list(hub, arguments).await,
        "breakpoints.remove" => breakpoints::remove(hub, arguments).await,
        "terminate" => group::terminate(hub, arguments).await,
        "detach" => group::detach(hub, arguments).await,
        "shutdown" => {
            arguments.end()?;
            tracing::info!("the daemon is told to stop");
            hub.stop.cancel();
            Ok(json!({}))
        }
        "pause" => group::pause(hub, arguments).await,
        "continue" => group::resume(hub, arguments).await,
        step => group::step(hub, step, arguments).await,
    }
}
