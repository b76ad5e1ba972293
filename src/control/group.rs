//! Groups: what is done to every session that a selector picks, at once, with one row of outcome each.
//!
//! One that does not answer in time has a row that says so, and keeps nobody else waiting.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Error;
use super::arguments::Arguments;
use super::listing::{locate, nothing_matches};
use crate::hub::Hub;
use crate::selector::Selector;
use crate::session::{ACTIVATION_WAIT, Handle, Info, Mail, State};
use crate::wire::Message;

/// How long a process may take to answer, unless the verb is told otherwise.
pub const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// How long a process may take to stop that was asked to, or to arrive at the end of a step, or to end, before its
/// row says that it has not yet.
pub const OUTCOME_WAIT: Duration = Duration::from_secs(1);

/// What is said of one session: the fields of its row, or why not.
pub(super) type Outcome = Result<Map<String, Value>, String>;

/// Which sessions a verb is about: those that match and that somebody means to debug, or an error that says what
/// there is.
pub(super) fn select(hub: &Hub, selector: &Selector) -> Result<Vec<Arc<Handle>>, Error> {
    let mut sessions = hub.sessions();
    sessions.retain(|session| {
        let info = session.info();
        !info.helper && info.ended.is_none() && selector.matches(&info.subject())
    });
    if sessions.is_empty() {
        return Err(nothing_matches(hub, selector));
    }
    Ok(sessions)
}

/// Does something with every session at once, and gives what came of it in their order.
pub(super) async fn gather<T, Act, Doing>(
    sessions: &[Arc<Handle>],
    patience: Duration,
    act: Act,
) -> Vec<Result<T, String>>
where
    T: Send + 'static,
    Act: Fn(Arc<Handle>) -> Doing,
    Doing: Future<Output = Result<T, String>> + Send + 'static,
{
    let mut tasks = JoinSet::new();
    for (index, session) in sessions.iter().enumerate() {
        // One that sleeps is woken first.
        let patience = match session.info().state {
            State::Dormant => patience + ACTIVATION_WAIT,
            _ => patience,
        };
        let doing = timeout(patience, act(session.clone()));
        tasks.spawn(async move { (index, doing.await) });
    }
    let failed = |_| Err("the daemon failed at this".to_owned());
    let mut outcomes: Vec<Result<T, String>> = sessions.iter().map(failed).collect();
    while let Some(done) = tasks.join_next().await {
        if let Ok((index, outcome)) = done {
            let late = || format!("no answer within {} s", patience.as_secs_f64());
            outcomes[index] = outcome.unwrap_or_else(|_| Err(late()));
        }
    }
    outcomes
}

/// Does something with every session at once, and gives the rows in their order.
pub(super) async fn each<Act, Doing>(
    sessions: Vec<Arc<Handle>>,
    patience: Duration,
    act: Act,
) -> Vec<Map<String, Value>>
where
    Act: Fn(Arc<Handle>) -> Doing,
    Doing: Future<Output = Outcome> + Send + 'static,
{
    let outcomes = gather(&sessions, patience, act).await;
    let rows = sessions.iter().zip(outcomes);
    rows.map(|(session, outcome)| row(session, outcome))
        .collect()
}

/// The row of a session.
pub(super) fn row(session: &Handle, outcome: Outcome) -> Map<String, Value> {
    let mut row = Map::new();
    {
        let info = session.info();
        row.insert("session".into(), json!(info.id));
        row.insert("pid".into(), info.pid.into());
        row.insert("name".into(), info.name.as_str().into());
    }
    row.insert("success".into(), outcome.is_ok().into());
    match outcome {
        Ok(fields) => row.extend(fields),
        Err(message) => drop(row.insert("message".into(), message.into())),
    }
    row
}

/// The fields of a JSON object.
pub(super) fn fields(object: Value) -> Map<String, Value> {
    match object {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// Asks a process; a failure is an error.
pub(super) async fn ask(
    session: &Handle,
    command: &str,
    arguments: Value,
) -> Result<Message, String> {
    let answer = session.ask(Message::request(command, arguments)).await?;
    if answer.success() {
        return Ok(answer);
    }
    // DAP's short word for the reason is for programs, what stands in the body for people.
    #[derive(serde::Deserialize)]
    struct Body {
        error: Detail,
    }
    #[derive(serde::Deserialize)]
    struct Detail {
        format: String,
    }
    let detail = answer.decode::<Body>().map(|body| body.error.format);
    Err(detail.unwrap_or_else(|_| answer.message().unwrap_or_default()))
}

/// Where a process stands now, as fields of its row.
async fn standing(session: &Arc<Handle>) -> Map<String, Value> {
    locate(std::slice::from_ref(session)).await;
    let info = session.info();
    fields(json!({ "state": info.state, "stopped": info.stopped }))
}

/// `pause {selector?}`.
pub(super) async fn pause(hub: &Hub, arguments: Arguments) -> Result<Value, Error> {
    let sessions = selected(hub, arguments)?;
    let rows = each(sessions, ANSWER_WAIT + OUTCOME_WAIT, |session| async move {
        let state = session.info().state;
        has_begun(state)?;
        ask(&session, "pause", json!({ "threadId": 0 })).await?;
        let stops = session.until(|info| info.state != State::Running);
        let in_time = timeout(OUTCOME_WAIT, stops).await.is_ok();
        let mut row = standing(&session).await;
        if !in_time {
            let why = "it stops as soon as it runs Python code again";
            row.insert("message".into(), why.into());
        }
        Ok(row)
    });
    Ok(json!({ "rows": rows.await }))
}

/// `continue {selector?}`.
pub(super) async fn resume(hub: &Hub, arguments: Arguments) -> Result<Value, Error> {
    let sessions = selected(hub, arguments)?;
    let rows = each(sessions, ANSWER_WAIT, |session| async move {
        let state = session.info().state;
        has_begun(state)?;
        ask(&session, "continue", json!({ "threadId": 0 })).await?;
        Ok(standing(&session).await)
    });
    Ok(json!({ "rows": rows.await }))
}

/// `next`, `stepIn`, `stepOut` `{selector?}`: a step of the thread that is stopped.
pub(super) async fn step(hub: &Hub, command: &str, arguments: Arguments) -> Result<Value, Error> {
    let sessions = selected(hub, arguments)?;
    let command: Arc<str> = command.into();
    let rows = each(sessions, ANSWER_WAIT + OUTCOME_WAIT, |session| {
        let command = command.clone();
        async move {
            let (thread, number) = stopped(&session)?;
            ask(&session, &command, json!({ "threadId": thread })).await?;
            let arrives = session.until(|info| {
                let stopped = info.stopped.as_ref();
                stopped.is_some_and(|stopped| stopped.number != number)
            });
            let in_time = timeout(OUTCOME_WAIT, arrives).await.is_ok();
            let mut row = standing(&session).await;
            if !in_time {
                row.insert("message".into(), "the step is not at its end yet".into());
            }
            Ok(row)
        }
    });
    Ok(json!({ "rows": rows.await }))
}

/// `terminate {selector}`: ends processes, for all. Which ones must be said, be it `all`.
pub(super) async fn terminate(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?;
    arguments.end()?;
    let selector = selector.ok_or_else(|| {
        let why = "which processes are to end? say it with \"selector\", be it \"all\"";
        super::arguments::bad(why)
    })?;
    let sessions = select(hub, &selector)?;
    let rows = each(sessions, ANSWER_WAIT, |session| async move {
        let told = session.tell(Mail::Terminate);
        if session.info().ended.is_some() {
            // Another one of them may have taken it along.
            return Ok(Map::new());
        }
        told?;
        let ends = timeout(OUTCOME_WAIT, session.until(|_| false)).await;
        let mut row = Map::new();
        if ends.is_err() {
            row.insert("message".into(), "it has not ended yet".into());
        }
        Ok(row)
    });
    Ok(json!({ "rows": rows.await }))
}

/// `detach {selector?}`: every client leaves the processes, which run on.
pub(super) async fn detach(hub: &Hub, arguments: Arguments) -> Result<Value, Error> {
    let sessions = selected(hub, arguments)?;
    let rows = each(sessions, ANSWER_WAIT, |session| async move {
        session.tell(Mail::Detach)?;
        let is_done = |info: &Info| info.clients == 0 && info.state != State::Stopped;
        session.until(is_done).await;
        Ok(standing(&session).await)
    });
    Ok(json!({ "rows": rows.await }))
}

/// The sessions that arguments of nothing but a selector pick.
fn selected(hub: &Hub, mut arguments: Arguments) -> Result<Vec<Arc<Handle>>, Error> {
    let selector = arguments.selector()?.unwrap_or_default();
    arguments.end()?;
    select(hub, &selector)
}

/// Whether the user's code is what runs or is stopped in a process.
fn has_begun(state: State) -> Result<(), String> {
    match state {
        State::Dormant | State::Running | State::Stopped => Ok(()),
        State::Starting => Err("it is about to start; try again".into()),
        State::Held => Err("its code has not begun: it waits until an IDE has attached".into()),
        State::Ended => Err("it has ended".into()),
    }
}

/// The thread for which a process is stopped, and in which of its stops.
pub(super) fn stopped(session: &Handle) -> Result<(i64, u64), String> {
    let info = session.info();
    let stopped = info.stopped.as_ref();
    let stopped = stopped.map(|stopped| (stopped.thread, stopped.number));
    has_begun(info.state)?;
    stopped.ok_or_else(|| "it is running; pause it first".into())
}
