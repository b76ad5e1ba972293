//! Looking into processes: threads, stacks, values, variables, output.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::sync::oneshot;

use super::Error;
use super::arguments::{Arguments, bad};
use super::group::{ANSWER_WAIT, Outcome, ask, each, fields, gather, row, select, stopped};
use crate::compare;
use crate::hub::Hub;
use crate::session::{Handle, Mail};
use crate::stacks::{Answer, Merged, Process};
use crate::wire::Message;

/// How long a process may take to evaluate something, unless the verb is told otherwise with `timeout`.
pub const EVALUATE_WAIT: Duration = Duration::from_secs(10);

/// `threads {selector?}`.
pub(super) async fn threads(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    #[derive(Deserialize)]
    struct Body {
        threads: Vec<Thread>,
    }
    #[derive(Deserialize)]
    struct Thread {
        id: i64,
        name: String,
    }
    let selector = arguments.selector()?.unwrap_or_default();
    arguments.end()?;
    let rows = each(select(hub, &selector)?, ANSWER_WAIT, |session| async move {
        let answer = ask(&session, "threads", json!({})).await?;
        let Body { threads } = answer.decode().map_err(|error| error.to_string())?;
        let threads = threads.into_iter().map(|Thread { id, name }| {
            let state = if is_stopped(&session, id) {
                "stopped"
            } else {
                "running"
            };
            json!({ "id": id, "name": name, "state": state })
        });
        let threads: Vec<Value> = threads.collect();
        Ok(fields(json!({ "threads": threads })))
    });
    Ok(json!({ "rows": rows.await }))
}

/// Whether a thread is stopped, as far as its session tells without being asked.
fn is_stopped(session: &Handle, thread: i64) -> bool {
    let info = session.info();
    let stopped = info.stopped.as_ref();
    stopped.is_some_and(|stopped| stopped.all_threads || stopped.thread == thread)
}

/// `stacks {selector?}`: equal stacks once, with who is in them. Nothing is stopped for it: each process looks at
/// its own threads and tasks.
pub(super) async fn stacks(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?.unwrap_or_default();
    arguments.end()?;
    let sessions = select(hub, &selector)?;
    let answers = gather(&sessions, ANSWER_WAIT, |session| async move {
        let answer = question(&session, "stacks", Value::Null).await?;
        answer.decode::<Answer>().map_err(|error| error.to_string())
    });
    let mut merged = Merged::default();
    let mut rows = Vec::new();
    for (session, answer) in sessions.iter().zip(answers.await) {
        let outcome = answer.map(|answer| {
            let process = {
                let info = session.info();
                Process {
                    session: info.id,
                    pid: info.pid,
                    name: info.name.clone(),
                }
            };
            merged.add_answer(&process, answer, |thread| is_stopped(session, thread));
            Map::new()
        });
        rows.push(row(session, outcome));
    }
    let mut answer = fields(merged.into_json());
    answer.insert("rows".into(), json!(rows));
    Ok(answer.into())
}

/// Asks the guard; a failure is an error.
async fn question(
    session: &Handle,
    function: &'static str,
    argument: Value,
) -> Result<Message, String> {
    let answer = session.ask_guard(function, argument).await?;
    if answer.success() {
        Ok(answer)
    } else {
        Err(answer.message().unwrap_or_default())
    }
}

/// The topmost frame of the stopped thread: its id, and what is said of it.
async fn top_frame(session: &Handle) -> Result<(i64, Value), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        stack_frames: Vec<Top>,
    }
    #[derive(Deserialize)]
    struct Top {
        id: i64,
        name: String,
        line: i64,
        #[serde(default)]
        source: Option<Source>,
    }
    #[derive(Deserialize)]
    struct Source {
        path: Option<String>,
    }
    let (thread, _) = stopped(session)?;
    let arguments = json!({ "threadId": thread, "startFrame": 0, "levels": 1 });
    let answer = ask(session, "stackTrace", arguments).await?;
    let Body { stack_frames } = answer.decode().map_err(|error| error.to_string())?;
    let top = stack_frames.into_iter().next();
    // pydevd keeps to itself what is not the user's, such as the start of the program.
    let top = top.ok_or("it is stopped outside of its own code, as at the start of a program")?;
    let path = top.source.and_then(|source| source.path);
    let frame = json!({ "name": top.name, "path": path, "line": top.line });
    Ok((top.id, frame))
}

/// `evaluate {expression, selector?, context?, timeout?}`: in the topmost frame where a process is stopped, in its
/// `__main__` where it runs; and which of the results is the odd one out.
pub(super) async fn evaluate(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?.unwrap_or_default();
    let expression: Arc<str> = arguments.need::<String>("expression")?.into();
    let context: Arc<str> = arguments
        .take("context")?
        .unwrap_or("watch".to_owned())
        .into();
    let patience = match arguments.take::<f64>("timeout")? {
        None => EVALUATE_WAIT,
        Some(seconds) => Duration::try_from_secs_f64(seconds)
            .map_err(|_| bad("\"timeout\" is a number of seconds"))?,
    };
    arguments.end()?;
    let mut rows = each(select(hub, &selector)?, patience, |session| {
        evaluate_in(session, expression.clone(), context.clone())
    })
    .await;
    let results: Vec<Option<&str>> = rows
        .iter()
        .map(|row| row.get("result").and_then(Value::as_str))
        .collect();
    let compared = compare::compare(&results);
    for (row, odd) in rows.iter_mut().zip(&compared.odd) {
        if row.contains_key("result") {
            row.insert("odd".into(), (*odd).into());
        }
    }
    Ok(json!({ "rows": rows, "values": compared.values }))
}

async fn evaluate_in(session: Arc<Handle>, expression: Arc<str>, context: Arc<str>) -> Outcome {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Body {
        #[serde(default)]
        result: String,
        r#type: Option<String>,
        #[serde(default)]
        variables_reference: i64,
    }
    let (answer, frame) = if stopped(&session).is_ok() {
        let (frame_id, frame) = top_frame(&session).await?;
        let arguments =
            json!({ "expression": &*expression, "frameId": frame_id, "context": &*context });
        let answer = ask(&session, "evaluate", arguments).await;
        (answer.map_err(|why| exception(&why))?, frame)
    } else {
        let argument = Value::from(&*expression);
        (question(&session, "evaluate", argument).await?, Value::Null)
    };
    let body: Body = answer.decode().map_err(|error| error.to_string())?;
    Ok(fields(json!({
        "result": body.result,
        "type": body.r#type,
        "variablesReference": body.variables_reference,
        "frame": frame,
    })))
}

/// What a traceback ends with: the exception, as the guard gives it. The frames above it are pydevd's own.
fn exception(message: &str) -> String {
    const TRACEBACK: &str = "Traceback (most recent call last):\n";
    let Some((_, last)) = message.rsplit_once(TRACEBACK) else {
        return message.to_owned();
    };
    let is_frame = |line: &&str| line.starts_with(' ');
    let lines: Vec<&str> = last.trim_end().lines().skip_while(is_frame).collect();
    match lines[..] {
        [] => message.to_owned(),
        _ => lines.join("\n"),
    }
}

/// `variables {selector?, variablesReference?}`: those of the topmost frame where a process is stopped, or what is
/// in one of them.
pub(super) async fn variables(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    let selector = arguments.selector()?.unwrap_or_default();
    let reference: Option<i64> = arguments.take("variablesReference")?;
    arguments.end()?;
    let sessions = select(hub, &selector)?;
    if reference.is_some() && sessions.len() > 1 {
        let why = "a \"variablesReference\" belongs to one process: select that one";
        return Err(bad(why));
    }
    let rows = each(sessions, ANSWER_WAIT, |session| async move {
        stopped(&session)?;
        match reference {
            Some(reference) => {
                let variables = variables_of(&session, reference).await;
                let variables = variables.map_err(|why| {
                    format!(
                        "it has no variable {reference} now: a reference holds until the process runs on ({why})"
                    )
                })?;
                Ok(fields(json!({ "variables": variables })))
            }
            None => scopes(&session).await,
        }
    });
    Ok(json!({ "rows": rows.await }))
}

async fn scopes(session: &Handle) -> Outcome {
    #[derive(Deserialize)]
    struct Body {
        scopes: Vec<Scope>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Scope {
        name: String,
        variables_reference: i64,
        #[serde(default)]
        presentation_hint: Option<String>,
    }
    let (frame_id, frame) = top_frame(session).await?;
    let answer = ask(session, "scopes", json!({ "frameId": frame_id })).await?;
    let body: Body = answer.decode().map_err(|error| error.to_string())?;
    let mut scopes = Vec::new();
    let mut seen = HashSet::new();
    for scope in body.scopes {
        let is_local =
            scope.presentation_hint.as_deref() == Some("locals") || scope.name == "Locals";
        if !seen.insert(scope.variables_reference) {
            continue;
        }
        let mut said = Map::new();
        said.insert("name".into(), scope.name.into());
        said.insert(
            "variablesReference".into(),
            scope.variables_reference.into(),
        );
        if is_local {
            let variables = variables_of(session, scope.variables_reference).await?;
            said.insert("variables".into(), variables.into());
        }
        scopes.push(Value::Object(said));
    }
    Ok(fields(json!({ "frame": frame, "scopes": scopes })))
}

async fn variables_of(session: &Handle, reference: i64) -> Result<Vec<Value>, String> {
    #[derive(Deserialize)]
    struct Body {
        variables: Vec<Variable>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Variable {
        name: String,
        value: String,
        r#type: Option<String>,
        #[serde(default)]
        variables_reference: i64,
    }
    let arguments = json!({ "variablesReference": reference });
    let answer = ask(session, "variables", arguments).await?;
    let Body { variables } = answer.decode().map_err(|error| error.to_string())?;
    let variables = variables.into_iter().map(|variable| {
        json!({
            "name": variable.name,
            "value": variable.value,
            "type": variable.r#type,
            "variablesReference": variable.variables_reference,
        })
    });
    Ok(variables.collect())
}

/// `output {selector?}`: the last output of processes, as far as it went through the debugger.
pub(super) async fn output(hub: &Hub, mut arguments: Arguments) -> Result<Value, Error> {
    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        category: Option<String>,
        output: String,
    }
    let selector = arguments.selector()?.unwrap_or_default();
    arguments.end()?;
    let rows = each(select(hub, &selector)?, ANSWER_WAIT, |session| async move {
        let (tx, rx) = oneshot::channel();
        session.tell(Mail::Output(tx))?;
        let events = rx.await.map_err(|_| "the process has ended")?;
        let output: Vec<Value> = events
            .iter()
            .filter_map(|event| event.decode::<Body>().ok())
            .map(|Body { category, output }| json!({ "category": category, "output": output }))
            .collect();
        let mut row = Map::new();
        if output.is_empty() {
            let why = "none is kept: an IDE must have attached with \"redirectOutput\"";
            row.insert("message".into(), why.into());
        }
        row.insert("output".into(), output.into());
        Ok(row)
    });
    Ok(json!({ "rows": rows.await }))
}
