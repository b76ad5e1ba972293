//! The daemon's own breakpoints: added, listed, removed.
//!
//! A change is made and told to all sessions in one go: who asks for it and then hangs up leaves nothing half done.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::task::block_in_place;
use tokio::time::{Instant, timeout_at};

use super::arguments::{Arguments, bad};
use super::group::{ANSWER_WAIT, Outcome, fields, gather, row};
use super::{Code, Error};
use crate::breakpoints::{Store, Stored};
use crate::hub::Hub;
use crate::selector::Selector;
use crate::session::{ACTIVATION_WAIT, Mail, SessionId, State};
use crate::wire::Message;

/// What is said of a breakpoint of which no process has said anything.
const NOWHERE: &str =
    "it is set in each process that comes and in which it holds; there is none now";

/// What a process has said of a breakpoint, as DAP has it.
#[derive(Debug, Clone, Default, Deserialize)]
struct Verdict {
    id: Option<i64>,
    verified: bool,
    message: Option<String>,
    line: Option<i64>,
}

/// `breakpoints.add {file, line, condition?, hitCondition?, logMessage?, sessions?, once?}`.
pub(super) async fn add(hub: &Hub, arguments: Arguments) -> Result<Value, Error> {
    add_for(hub, arguments, None).await
}

/// The same for a process in itself, if one is named: in another one, a condition would be code that runs there.
pub(super) async fn add_for(
    hub: &Hub,
    mut arguments: Arguments,
    own: Option<SessionId>,
) -> Result<Value, Error> {
    let sessions = arguments.take::<Selector>("sessions")?;
    if own.is_some() && sessions.is_some() {
        return Err(bad(
            "a process sets breakpoints in itself, and names no sessions",
        ));
    }
    let new = Stored {
        id: 0,
        file: arguments.need("file")?,
        line: arguments.need("line")?,
        condition: arguments.take("condition")?,
        hit_condition: arguments.take("hitCondition")?,
        log_message: arguments.take("logMessage")?,
        sessions: own.map(Selector::of_id).or(sessions).unwrap_or_default(),
        once: arguments.flag("once")?,
        is_own: own.is_some(),
    };
    arguments.end()?;
    new.check().map_err(|why| bad(&why))?;
    let stored = change(hub, |store| store.add(new))?;
    let mut asked = Vec::new();
    for session in hub.sessions() {
        let (is_asked, patience) = {
            let info = session.info();
            let patience = match info.state {
                // One that sleeps is woken first.
                State::Dormant => ANSWER_WAIT + ACTIVATION_WAIT,
                _ => ANSWER_WAIT,
            };
            (!info.helper && stored.holds_in(&info.subject()), patience)
        };
        let (reply, answer) = oneshot::channel();
        let mail = Mail::Stored(stored.file.as_str().into(), is_asked.then_some(reply));
        let told = session.inbox.try_send(mail);
        if is_asked {
            asked.push((session, told.map(|()| answer), Instant::now() + patience));
        }
    }
    let mut rows = Vec::new();
    let mut verdicts = Vec::new();
    for (session, answer, until) in asked {
        let outcome: Outcome = match answer {
            Err(_) => Err("the process does not keep up with what it is asked".into()),
            Ok(answer) => match timeout_at(until, answer).await {
                Err(_) => Err("it has not answered yet".into()),
                Ok(Err(_)) => Err("the process ended before it answered".into()),
                Ok(Ok(answer)) => verdict(&answer, stored.id).map(|verdict| {
                    verdicts.push(verdict.clone());
                    fields(json!({
                        "verified": verdict.verified,
                        "line": verdict.line,
                        "message": verdict.message,
                    }))
                }),
            },
        };
        let mut row = row(&session, outcome);
        row.retain(|name, value| name != "message" || !value.is_null());
        rows.push(row);
    }
    Ok(json!({ "breakpoint": shown(&stored, &verdicts), "rows": rows }))
}

/// `breakpoints.list`.
pub(super) async fn list(hub: &Hub, arguments: Arguments) -> Result<Value, Error> {
    arguments.end()?;
    let all = hub.breakpoints.all();
    let mut verdicts: BTreeMap<i64, Vec<Verdict>> = BTreeMap::new();
    if !all.is_empty() {
        let sessions = hub.sessions();
        let answers = gather(&sessions, ANSWER_WAIT, |session| async move {
            let (reply, answer) = oneshot::channel();
            let told = session.inbox.try_send(Mail::Verdicts(reply));
            told.map_err(|error| error.to_string())?;
            answer.await.map_err(|error| error.to_string())
        });
        // Who does not answer has nothing better to say.
        for verdict in answers.await.into_iter().flatten().flatten() {
            if let Ok(verdict) = serde_json::from_value::<Verdict>(verdict) {
                let id = verdict.id.unwrap_or_default();
                verdicts.entry(id).or_default().push(verdict);
            }
        }
    }
    let none = Vec::new();
    let breakpoints = all.iter().map(|stored| {
        let verdicts = verdicts.get(&stored.id).unwrap_or(&none);
        shown(stored, verdicts)
    });
    Ok(json!({ "breakpoints": breakpoints.collect::<Vec<_>>() }))
}

/// `breakpoints.remove {id}` or `{all: true}`.
pub(super) async fn remove(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let id: Option<i64> = arguments.take("id")?;
    let all = arguments.flag("all")?;
    arguments.end()?;
    if all == id.is_some() {
        return Err(bad(
            "name one breakpoint by its \"id\", or say \"all\": true",
        ));
    }
    let removed = change(hub, |store| store.remove(id))?;
    if let Some(id) = id
        && removed.is_empty()
    {
        let why = format!("there is no breakpoint {id}; breakpoints.list shows what there is");
        return Err(Error::new(Code::NotFound, why));
    }
    let files: BTreeSet<&str> = removed.iter().map(|stored| &*stored.file).collect();
    for file in files {
        hub.tell_stored(file);
    }
    let removed = removed.iter().map(|stored| shown(stored, &[]));
    Ok(json!({ "removed": removed.collect::<Vec<_>>() }))
}

/// Changes what is stored, which waits for the disk.
fn change<T>(hub: &Hub, change: impl FnOnce(&Store) -> Result<T, String>) -> Result<T, Error> {
    block_in_place(|| change(&hub.breakpoints)).map_err(|why| Error::new(Code::Unavailable, why))
}

/// What a process has answered of one breakpoint.
fn verdict(answer: &Message, id: i64) -> Result<Verdict, String> {
    #[derive(Deserialize)]
    struct Body {
        breakpoints: Vec<Verdict>,
    }
    if !answer.success() {
        return Err(answer.message().unwrap_or_default());
    }
    let body: Body = answer.decode().map_err(|error| error.to_string())?;
    let mut verdicts = body.breakpoints.into_iter();
    // It may have been removed again, or hit already.
    verdicts
        .find(|verdict| verdict.id == Some(id))
        .ok_or_else(|| "it is there no more".into())
}

/// A breakpoint as it is listed, with the best that any process has said of it.
fn shown(stored: &Stored, verdicts: &[Verdict]) -> Value {
    let mut shown = json!(stored);
    let best = verdicts.iter().find(|verdict| verdict.verified);
    let best = best.or(verdicts.first());
    let (verified, message) = match best {
        None => (false, Some(NOWHERE)),
        Some(verdict) => (verdict.verified, verdict.message.as_deref()),
    };
    shown["verified"] = verified.into();
    if let Some(message) = message {
        shown["message"] = message.into();
    }
    shown
}
