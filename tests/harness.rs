//! The harness itself: that its scripted debug servers are like the real one, and that its clients notice what is wrong.

mod support;

use serde_json::{Value, json};
use support::wire::{Frames, frame};
use support::{Client, DebugServer, Python, Script, schema, wait};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};

const SOURCE: &str = "\
import time
def work(n):
    total = 0
    for i in range(n):
        total += i  # BREAK
    return total
work(3)  # CALL
while True:
    time.sleep(0.1)
";

/// What is asked: command, arguments, and the last message that belongs to the answer.
fn questions(path: &str, line: i64) -> Vec<(&'static str, Value, Last)> {
    let set = |lines: &[i64]| {
        let breakpoints: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
        json!({ "source": { "path": path }, "breakpoints": breakpoints })
    };
    vec![
        ("pydevdSystemInfo", Value::Null, Last::Response),
        (
            "evaluate",
            json!({ "expression": "import os", "context": "repl" }),
            Last::Response,
        ),
        ("threads", Value::Null, Last::Response),
        ("setBreakpoints", set(&[line]), Last::Response),
        (
            "pydevdAuthorize",
            json!({ "debugServerAccessToken": null }),
            Last::Response,
        ),
        ("initialize", json!({ "adapterID": "test" }), Last::Response),
        ("attach", json!({ "justMyCode": true }), Last::Response),
        ("setBreakpoints", set(&[line]), Last::Response),
        (
            "setFunctionBreakpoints",
            json!({ "breakpoints": [{ "name": "f" }] }),
            Last::Response,
        ),
        (
            "setExceptionBreakpoints",
            json!({ "filters": [] }),
            Last::Response,
        ),
        ("configurationDone", Value::Null, Last::Stop("breakpoint")),
        ("stackTrace", json!({ "threadId": 1 }), Last::Response),
        ("stackTrace", json!({ "threadId": 99 }), Last::Response),
        ("scopes", json!({ "frameId": 2 }), Last::Response),
        (
            "variables",
            json!({ "variablesReference": 4 }),
            Last::Response,
        ),
        (
            "variables",
            json!({ "variablesReference": 99 }),
            Last::Response,
        ),
        (
            "evaluate",
            json!({ "expression": "n", "frameId": 2 }),
            Last::Response,
        ),
        (
            "setVariable",
            json!({ "variablesReference": 4, "name": "n", "value": "3" }),
            Last::Response,
        ),
        ("next", json!({ "threadId": 1 }), Last::Stop("step")),
        ("pause", json!({ "threadId": "*" }), Last::Stop("pause")),
        ("setBreakpoints", set(&[]), Last::Response),
        ("loadedSources", Value::Null, Last::Nothing),
        ("continue", json!({ "threadId": "*" }), Last::Response),
        (
            "variables",
            json!({ "variablesReference": 4 }),
            Last::Response,
        ),
        (
            "evaluate",
            json!({ "expression": "n", "frameId": 2 }),
            Last::Response,
        ),
        // It runs: pydevd puts these off until the next stop.
        ("next", json!({ "threadId": 1 }), Last::Response),
        ("continue", json!({ "threadId": "*" }), Last::Nothing),
        ("pause", json!({ "threadId": "*" }), Last::Stop("step")),
        ("continue", json!({ "threadId": "*" }), Last::Response),
        (
            "disconnect",
            json!({ "terminateDebuggee": false }),
            Last::Response,
        ),
        ("setBreakpoints", set(&[line]), Last::Response),
        // The id of a frame: its reader thread dies of it.
        ("next", json!({ "threadId": 2 }), Last::End),
    ]
}

/// The last message that belongs to the answer to a question.
enum Last {
    Response,
    Stop(&'static str),
    Nothing,
    End,
}

/// Asks everything, and notes of each message what it is and which keys it has.
async fn interview(stream: TcpStream, path: &str, line: i64) -> Vec<String> {
    let (read, mut write) = stream.into_split();
    let mut frames = Frames::new(read);
    let mut heard = Vec::new();
    for (seq, (command, arguments, last)) in (1..).zip(questions(path, line)) {
        let mut request = json!({ "type": "request", "seq": seq, "command": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        let bytes = frame(&request.to_string());
        write.write_all(&bytes).await.expect("it reads");
        heard.push(format!("> {command}"));
        if matches!(last, Last::Nothing) {
            continue;
        }
        loop {
            let next = wait::within(command, frames.next()).await;
            let Some(text) = next.expect("it sends whole messages") else {
                assert!(matches!(last, Last::End), "the end after {heard:#?}");
                break;
            };
            let message: Value = serde_json::from_str(&text).expect("it is JSON");
            let event = &message["event"];
            // What the program prints and imports is not the protocol's business.
            if event == "output" || event == "module" {
                continue;
            }
            let shape = keys(&message["body"]);
            let (success, why) = (&message["success"], &message["message"]);
            heard.push(format!(
                "< {} {event} {success} {shape} {why}",
                message["type"]
            ));
            let ended = match last {
                Last::Response => message["request_seq"] == seq,
                Last::Stop(reason) => event == "stopped" && message["body"]["reason"] == reason,
                Last::Nothing | Last::End => false,
            };
            if ended {
                break;
            }
        }
    }
    heard
}

/// The keys of a body, of its objects and of the first element of its arrays.
fn keys(body: &Value) -> String {
    match body {
        Value::Object(object) => {
            let mut keys: Vec<String> = object
                .iter()
                .map(|(key, value)| format!("{key}{}", keys(value)))
                .collect();
            keys.sort();
            format!("{{{}}}", keys.join(" "))
        }
        Value::Array(array) => format!("[{}]", array.first().map(keys).unwrap_or_default()),
        _ => String::new(),
    }
}

#[tokio::test]
async fn a_scripted_debug_server_answers_as_pydevd_does() {
    let script = Script::new("script.py", SOURCE);
    let path = script.path().to_str().expect("a plain path").to_owned();
    let (line, call) = (script.line("# BREAK"), script.line("# CALL"));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");

    let _program = Python::newest().debug(address, &script, &[]);
    let (stream, _) = wait::within("pydevd", listener.accept())
        .await
        .expect("it connects");
    let real = interview(stream, &path, line).await;

    let server = DebugServer::new(5_000_000)
        .script(&path)
        .connect(address)
        .await;
    server.place(server.main_thread, &[(&path, line), (&path, call)]);
    server.set_local(server.main_thread, "n", "3");
    let (stream, _) = wait::within("a connection", listener.accept())
        .await
        .expect("it connects");
    let interview = tokio::spawn(async move { interview(stream, &path, line).await });
    server.released().await;
    server.stop_at(
        server.main_thread,
        "breakpoint",
        &json!({ "hitBreakpointIds": [0] }),
    );
    let scripted = interview.await.expect("it does not panic");

    assert_eq!(scripted, real);
}

/// What a client says of these messages, after it has sent the request `threads`: nothing, or why they are wrong.
async fn verdict(messages: &[Value]) -> Option<String> {
    let (near, mut far) = tokio::io::duplex(1 << 20);
    let (read, write) = tokio::io::split(near);
    let mut client = Client::over(read, write);
    client.send("threads", Value::Null).await;
    for message in messages {
        let bytes = frame(&message.to_string());
        far.write_all(&bytes).await.expect("there is room");
    }
    drop(far);
    let heard = tokio::spawn(async move { client.closed().await }).await;
    let panic = heard.err()?.into_panic();
    Some(panic.downcast_ref::<String>().expect("a message").clone())
}

#[tokio::test]
async fn a_client_notices_what_is_wrong() {
    let right = json!({
        "seq": 1, "type": "response", "request_seq": 1, "success": true, "command": "threads",
        "body": { "threads": [] },
    });
    let but = |key: &str, value: Value| {
        let mut wrong = right.clone();
        wrong[key] = value;
        wrong
    };
    let start_debugging = json!({
        "seq": 1, "type": "request", "command": "startDebugging", "arguments": { "request": "attach" },
    });
    assert_eq!(verdict(std::slice::from_ref(&right)).await, None);
    for (messages, reason) in [
        (vec![but("seq", 2.into())], "the wrong seq"),
        (
            vec![but("request_seq", 7.into())],
            "nobody waits for this response",
        ),
        (
            vec![right.clone(), but("seq", 2.into())],
            "nobody waits for this response",
        ),
        (
            vec![but("command", "pause".into())],
            "a response to something else",
        ),
        (vec![but("body", json!({}))], "not a valid ThreadsResponse"),
        (vec![start_debugging], "not a valid StartDebuggingRequest"),
    ] {
        let verdict = verdict(&messages).await.expect("it is wrong");
        assert!(verdict.contains(reason), "{verdict}");
    }
}

#[test]
fn the_schema_tells_right_from_wrong() {
    let event =
        |name: &str, body: Value| json!({ "seq": 1, "type": "event", "event": name, "body": body });
    let failure = |body: Option<Value>| {
        let mut failure = json!({
            "seq": 1, "type": "response", "request_seq": 1, "success": false, "command": "threads",
        });
        if let Some(body) = body {
            failure["body"] = body;
        }
        failure
    };
    let stopped = |thread: i64| event("stopped", json!({ "reason": "step", "threadId": thread }));
    for right in [
        stopped(1),
        stopped(i64::from(i32::MAX)),
        event("dbgproxy/session", json!({})),
        failure(None),
        failure(Some(json!({ "error": { "id": 1, "format": "no" } }))),
    ] {
        assert_eq!(schema::violation(&right), None, "{right}");
    }
    for (wrong, definition) in [
        (stopped(1 << 31), "StoppedEvent"),
        (event("stopped", json!({})), "StoppedEvent"),
        (failure(Some(Value::Null)), "ErrorResponse"),
    ] {
        let violation = schema::violation(&wrong).expect("it is wrong");
        assert!(violation.contains(definition), "{violation}");
    }
}
