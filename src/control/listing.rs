//! Who is there: the verbs `sessions`, `session` and `info`.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};
use tokio::sync::oneshot;

use super::arguments::Arguments;
use super::{Code, Error};
use crate::hub::Hub;
use crate::selector::Selector;
use crate::session::{Handle, Info, Mail, SessionId};

/// How long stopped processes may take to say where they are stopped, before the answer goes without it.
const LOCATE_WAIT: Duration = Duration::from_millis(500);

/// How many sessions an error names at most.
const NAMED: usize = 12;

/// `sessions {selector?, all?}`: the sessions that match in the order of their tree, the ended ones too if `all`.
pub(super) async fn sessions(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?.unwrap_or_default();
    let all = arguments.flag("all")?;
    arguments.end()?;
    Ok(json!({ "sessions": matching(hub, &selector, all).await }))
}

/// `session {selector}`: the one session that matches, be it an ended one.
pub(super) async fn session(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?;
    arguments.end()?;
    let selector = selector.ok_or_else(|| Error::new(Code::BadRequest, "which session?"))?;
    let mut found = matching(hub, &selector, true).await;
    match (found.pop(), found.len()) {
        (Some(session), 0) => Ok(json!({ "session": session })),
        (Some(_), others) => {
            let why = format!("{} sessions match {selector}, not one", others + 1);
            Err(Error::new(Code::BadRequest, why))
        }
        (None, _) => Err(nothing_matches(hub, &selector)),
    }
}

async fn matching(hub: &Hub, selector: &Selector, all: bool) -> Vec<Info> {
    locate(&hub.sessions()).await;
    // Some may have ended meanwhile: the history first, so that none is in neither.
    let ended = if all { hub.ended() } else { Vec::new() };
    let known: HashSet<SessionId> = ended.iter().map(|info| info.id).collect();
    let live = hub.sessions();
    let live = live.iter().map(|session| session.info().clone());
    let live = live.filter(|info| info.ended.is_none() && !known.contains(&info.id));
    let mut sessions: Vec<Info> = ended
        .into_iter()
        .chain(live)
        .filter(|info| selector.matches(&info.subject()))
        .collect();
    sessions.sort_by(|one, other| one.order.cmp(&other.order));
    sessions
}

/// Nothing matches: says so, and what there is.
pub(super) fn nothing_matches(hub: &Hub, selector: &Selector) -> Error {
    let sessions = hub.sessions();
    let debugged = sessions.iter().filter(|session| !session.info().helper);
    let names: Vec<String> = debugged
        .map(|session| {
            let info = session.info();
            format!("{} (pid {})", info.name, info.pid)
        })
        .collect();
    let there_are = match names.len() {
        0 => "there are none".to_owned(),
        count if count > NAMED => {
            let named = names[..NAMED].join(", ");
            format!("there are {named} and {} more", count - NAMED)
        }
        _ => format!("there are {}", names.join(", ")),
    };
    let is_helper = |session: &&Arc<Handle>| {
        let info = session.info();
        info.helper && selector.matches(&info.subject())
    };
    let but = match sessions.iter().find(is_helper) {
        Some(_) => " but one of multiprocessing's own processes, which is left alone",
        None => "",
    };
    let why = format!("no session matches {selector}{but}; {there_are}");
    Error::new(Code::NotFound, why)
}

/// Lets stopped processes say where they are stopped: they are asked when somebody wants to know, not at every stop.
pub(super) async fn locate(sessions: &[Arc<Handle>]) {
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

/// `exit {pid, exit}`: whoever started a process says with which code it has ended; nobody else can know.
pub(super) fn exit(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let (pid, exit): (u32, i64) = (arguments.need("pid")?, arguments.need("exit")?);
    arguments.end()?;
    if hub.note_exit(pid, exit) {
        Ok(json!({}))
    } else {
        let why = format!("no process {pid} is there, nor has one just ended");
        Err(Error::new(Code::NotFound, why))
    }
}

/// `info`: the daemon itself.
pub(super) fn info(hub: &Hub) -> Value {
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
