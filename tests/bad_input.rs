//! What is wrong is answered with what is wrong about it, or ends the connection that it came on, and touches nobody else.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Answer, Client, Daemon, DebugServer};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const PATH: &str = "/srv/script.py";

/// A client that does nothing wrong, and that must notice nothing of those who do.
struct Witness {
    client: Client,
    /// How many messages it has been sent up to the last look.
    heard: usize,
}

impl Witness {
    async fn new(daemon: &Daemon, arguments: &Value) -> Self {
        let client = Client::of_process(daemon)
            .named("witness")
            .arguments(arguments)
            .breakpoints(PATH, &[3])
            .attached()
            .await;
        let mut witness = Self { client, heard: 0 };
        witness.client.threads().await;
        witness.heard = witness.count();
        witness
    }

    fn count(&self) -> usize {
        let transcript = self.client.transcript().iter();
        transcript.filter(|line| line.contains(" < ")).count()
    }

    /// A round trip to its process works, and its answer is all that came since the last look.
    async fn is_undisturbed(&mut self, by: &str) {
        self.client.threads().await;
        self.heard += 1;
        let transcript = self.client.transcript();
        assert_eq!(
            self.count(),
            self.heard,
            "after {by}: {:?}",
            transcript.last()
        );
    }
}

/// A process with a witness, and a client on it that will misbehave.
async fn scene(daemon: &Daemon) -> (DebugServer, Witness, Client) {
    let server = DebugServer::new(5_000_000).connect(daemon).await;
    server.released().await;
    let witness = Witness::new(daemon, &json!({})).await;
    let client = Client::of_process(daemon).named("bad").attached().await;
    (server, witness, client)
}

/// A conversation with nothing checked, for numbers that the schema forbids.
struct Raw {
    frames: Frames<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Raw {
    async fn connect(daemon: &Daemon) -> Self {
        let stream = within("a connection", TcpStream::connect(daemon.address)).await;
        let (read, write) = stream.expect("it accepts").into_split();
        let frames = Frames::new(read);
        Self { frames, write }
    }

    async fn send(&mut self, text: &str) {
        let sent = self.write.write_all(&frame(text)).await;
        sent.expect("the daemon reads");
    }

    /// The next response.
    async fn response(&mut self) -> Value {
        loop {
            let text = within("a response", self.frames.next()).await;
            let text = text.expect("whole messages").expect("the connection lives");
            let message: Value = serde_json::from_str(&text).expect("it is JSON");
            if message["type"] == "response" {
                return message;
            }
        }
    }
}

fn request(seq: &str, command: &str, arguments: &str) -> String {
    format!(r#"{{"seq":{seq},"type":"request","command":"{command}","arguments":{arguments}}}"#)
}

/// Arrays in arrays.
fn nested(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

// From a client: no message.

#[tokio::test]
async fn what_is_no_message_is_answered_and_forgotten() {
    let daemon = Daemon::start().await;
    let (server, mut witness, mut client) = scene(&daemon).await;
    for (text, why) in [
        ("", "object"),
        ("{", "EOF"),
        ("nonsense", "object"),
        ("[]", "object"),
        ("1", "object"),
        ("null", "object"),
        (r#""request""#, "object"),
        // With as many elements as the envelope has fields.
        (
            r#"[7,"request","threads",null,null,null,{},null]"#,
            "object",
        ),
        ("{}", "\"seq\" is missing"),
        (
            r#"{"type":"request","command":"threads"}"#,
            "\"seq\" is missing",
        ),
        (
            r#"{"seq":null,"type":"request","command":"threads"}"#,
            "\"seq\" is missing",
        ),
        (
            r#"{"seq":"7","type":"request","command":"threads"}"#,
            "\"seq\" is not a whole number",
        ),
        (
            r#"{"seq":1.5,"type":"request","command":"threads"}"#,
            "\"seq\" is not a whole number",
        ),
        (
            r#"{"seq":9223372036854775808,"type":"request","command":"threads"}"#,
            "\"seq\" is not a whole number",
        ),
        (
            r#"{"seq":7,"seq":8,"type":"request","command":"threads"}"#,
            "duplicate",
        ),
        (r#"{"seq":7,"command":"threads"}"#, "\"type\" is missing"),
        (
            r#"{"seq":7,"type":"question","command":"threads"}"#,
            "question",
        ),
        (r#"{"seq":7,"type":1,"command":"threads"}"#, "invalid type"),
        (r#"{"seq":7,"type":"request"}"#, "\"command\" is missing"),
        (
            r#"{"seq":7,"type":"request","command":["threads"]}"#,
            "invalid type",
        ),
        (r#"{"seq":7,"type":"event"}"#, "\"event\" is missing"),
        (
            r#"{"seq":7,"type":"response","command":"threads","success":true}"#,
            "\"request_seq\" is missing",
        ),
        (
            r#"{"seq":7,"type":"response","command":"threads","request_seq":1}"#,
            "\"success\" is missing",
        ),
        (
            r#"{"seq":7,"type":"request","command":"threads"} {}"#,
            "trailing",
        ),
        (
            "{\"seq\":7,\"type\":\"request\",\"command\":\"thr\0eads\"}",
            "control character",
        ),
    ] {
        client.expects(0, "");
        client.send_text(text).await;
        let answer = client.response(0).await;
        assert_eq!(answer["success"], false, "{text}");
        let message = answer["message"].as_str().unwrap_or_default();
        assert!(message.contains(why), "{text}: {message}");
        client.threads().await;
        witness.is_undisturbed(text).await;
    }
    // Bytes that are no text.
    client.expects(0, "");
    client
        .send_bytes(b"Content-Length: 4\r\n\r\n{\"\xff\xfe")
        .await;
    let answer = client.response(0).await;
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(message.contains("utf-8"), "{message}");
    client.threads().await;
    witness.is_undisturbed("bytes").await;
    assert!(server.reach(PATH, 3), "the breakpoint is still there");
}

#[tokio::test]
async fn a_broken_frame_ends_the_connection_with_one_line() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut witness = Witness::new(&daemon, &json!({})).await;
    let long = format!("Content-Length: {}", "0".repeat(5000));
    let warnings = |daemon: &Daemon| daemon.log().matches(" WARN ").count();
    for bytes in [
        &b"Content-Length: x\r\n\r\n"[..],
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 67108865\r\n\r\n",
        b"Content-Length: 99999999999999999999999\r\n\r\n",
        b"Content-Length: 2\r\nX: y\r\n\r\n{}",
        b"Content-Length: 2\n\n{}",
        b"Content-Type: x\r\n\r\n{}",
        b"GET / HTTP/1.1\r\n\r\n",
        b"{\"seq\":1}",
        b"\0\0\0\0",
        long.as_bytes(),
    ] {
        let text = String::from_utf8_lossy(&bytes[..bytes.len().min(30)]).into_owned();
        let mut client = Client::of_process(&daemon).named("bad").attached().await;
        let before = warnings(&daemon);
        client.send_bytes(bytes).await;
        client.closed().await;
        witness.is_undisturbed(&text).await;
        // The line is written before the connection is closed, and read here by another way.
        let there = async {
            while warnings(&daemon) == before {
                witness.is_undisturbed(&text).await;
            }
        };
        within("the line in the log", there).await;
        assert_eq!(warnings(&daemon), before + 1, "{text}");
    }
    assert!(server.reach(PATH, 3), "the breakpoint is still there");
    witness.client.stopped_at(3).await;
}

#[tokio::test]
async fn responses_to_nothing_and_events_are_left_out() {
    let daemon = Daemon::start().await;
    let (server, mut witness, mut client) = scene(&daemon).await;
    let before = server.requests().len();
    for text in [
        r#"{"seq":50,"type":"response","request_seq":1,"success":true,"command":"threads"}"#,
        r#"{"seq":50,"type":"response","request_seq":999,"success":false,"command":"startDebugging"}"#,
        r#"{"seq":50,"type":"response","request_seq":-9223372036854775808,"success":true,"command":"pydevdSystemInfo","body":{"process":{"pid":1}}}"#,
        r#"{"seq":50,"type":"event","event":"stopped","body":{"reason":"step","threadId":1}}"#,
        r#"{"seq":50,"type":"event","event":"terminated"}"#,
    ] {
        client.send_text(text).await;
        client.threads().await;
        witness.is_undisturbed(text).await;
    }
    let requests = server.requests().split_off(before);
    assert!(
        requests
            .iter()
            .all(|request| request["command"] == "threads"),
        "{requests:?}"
    );
}

#[tokio::test]
async fn every_number_is_answered_under_that_number() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut witness = Witness::new(&daemon, &json!({})).await;
    let mut raw = Raw::connect(&daemon).await;
    raw.send(&request("-9223372036854775808", "initialize", "{}"))
        .await;
    assert_eq!(raw.response().await["request_seq"], i64::MIN);
    raw.send(&request("9223372036854775807", "attach", "{}"))
        .await;
    raw.send(&request("0", "configurationDone", "{}")).await;
    let answers = [raw.response().await, raw.response().await];
    assert_eq!(
        answers.map(|answer| answer["request_seq"].clone()),
        [json!(0), json!(i64::MAX)]
    );
    // It may count as it likes, and use a number again: each request gets its own answer.
    for seq in [i64::MAX, i64::MIN, -1, 0, 7, 7, 7, i64::MAX] {
        for (command, arguments) in [
            ("threads", "{}"),
            ("evaluate", r#"{"expression":"1"}"#),
            ("nonsense", "{}"),
        ] {
            raw.send(&request(&seq.to_string(), command, arguments))
                .await;
            let answer = raw.response().await;
            assert_eq!(
                (&answer["request_seq"], &answer["command"]),
                (&json!(seq), &json!(command))
            );
        }
    }
    for _ in 0..3 {
        raw.send(&request("7", "evaluate", r#"{"expression":"1"}"#))
            .await;
    }
    for _ in 0..3 {
        assert_eq!(raw.response().await["request_seq"], 7);
    }
    raw.send(&request("7", "disconnect", "{}")).await;
    assert_eq!(raw.response().await["command"], "disconnect");
    witness.is_undisturbed("numbers").await;
    for (expected, request) in (1..).zip(server.requests()) {
        assert_eq!(
            request["seq"], expected,
            "the process sees our numbers only"
        );
    }
}

#[tokio::test]
async fn what_is_huge_or_deep_is_carried_or_refused() {
    let daemon = Daemon::start().await;
    let (server, mut witness, mut client) = scene(&daemon).await;
    let deep = nested(10_000);
    for (command, arguments) in [
        ("evaluate", format!(r#"{{"expression":"1","deep":{deep}}}"#)),
        ("evaluate", deep.clone()),
        ("variables", format!(r#"{{"variablesReference":{deep}}}"#)),
        ("next", format!(r#"{{"threadId":{deep}}}"#)),
        (
            "setBreakpoints",
            format!(r#"{{"source":{{"path":"/x.py"}},"breakpoints":[{{"line":1,"x":{deep}}}]}}"#),
        ),
        (
            "setBreakpoints",
            format!(r#"{{"source":{deep},"breakpoints":[]}}"#),
        ),
        ("dbgproxy/sessions", deep.clone()),
        ("nonsense", deep.clone()),
    ] {
        let before = server.count(command);
        client.expects(5000, command);
        client
            .send_text(&request("5000", command, &arguments))
            .await;
        let answer = client.response(5000).await;
        assert_eq!(answer["success"], false, "{command}");
        assert!(!answer["message"].as_str().unwrap_or_default().is_empty());
        assert_eq!(
            server.count(command),
            before,
            "{command} must not reach the process"
        );
        client.threads().await;
        witness.is_undisturbed(command).await;
    }
    // Beside the arguments, and only seemingly deep.
    let text = format!(r#"{{"seq":5001,"type":"request","command":"threads","deep":{deep}}}"#);
    client.expects(5001, "threads");
    client.send_text(&text).await;
    assert_eq!(client.response(5001).await["success"], false);
    let seemingly = json!({ "expression": format!("\"\\{deep}") });
    client.request("evaluate", seemingly.clone()).await;
    let evaluate = server.requests().pop().expect("it came");
    assert_eq!(evaluate["arguments"], seemingly);

    // A text of many megabytes is only a text.
    let huge = "x".repeat(8 << 20);
    client
        .request("evaluate", json!({ "expression": huge }))
        .await;
    let evaluate = server.requests().pop().expect("it came");
    assert_eq!(
        evaluate["arguments"]["expression"].as_str().map(str::len),
        Some(8 << 20)
    );
    let command = "x".repeat(1 << 20);
    client.refused(&command, Value::Null).await;
    client.refused("next", json!({ "threadId": huge })).await;
    client.threads().await;
    witness.is_undisturbed("a huge text").await;

    let mut other = Client::start(&daemon).connected().await;
    other.refused("attach", json!({ "sessions": huge })).await;
    other.refused("attach", json!({ "session": huge })).await;
    other.expects(5002, "attach");
    other
        .send_text(&request(
            "5002",
            "attach",
            &format!(r#"{{"rules":{deep}}}"#),
        ))
        .await;
    assert_eq!(other.response(5002).await["success"], false);
    other.disconnect().await;
    witness.is_undisturbed("an attach").await;
}

// From a client: the wrong request.

#[tokio::test]
async fn nothing_is_possible_before_attach() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut witness = Witness::new(&daemon, &json!({})).await;
    let before = server.requests().len();
    let mut client = Client::start(&daemon).named("bad").connected().await;
    for command in [
        "threads",
        "configurationDone",
        "setBreakpoints",
        "evaluate",
        "pause",
        "continue",
        "terminate",
        "dbgproxy/sessions",
        "nonsense",
        "pydevdSystemInfo",
    ] {
        let why = client
            .refused(command, json!({ "threadId": 1, "expression": "1" }))
            .await;
        assert!(why.contains("before \"attach\""), "{command}: {why}");
    }
    let why = client.refused("initialize", json!({})).await;
    assert!(why.contains("already initialized"), "{why}");
    let why = client.refused("launch", json!({ "program": "x.py" })).await;
    assert!(why.contains("\"attach\" expected"), "{why}");
    assert_eq!(server.requests().len(), before);
    // It can still do everything right.
    let attach = client.send("attach", json!({})).await;
    client.initialized(attach).await;
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    client.threads().await;
    witness.is_undisturbed("a late attach").await;
}

#[tokio::test]
async fn an_attach_that_cannot_be_says_why() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut witness = Witness::new(&daemon, &json!({})).await;

    // A session that has ended.
    let ended = DebugServer::new(5_000_001).connect(&daemon).await;
    ended.released().await;
    let sessions = witness
        .client
        .request("dbgproxy/sessions", json!({ "selector": "pid=5000001" }))
        .await;
    let id = sessions["sessions"][0]["id"]
        .as_str()
        .expect("it is there")
        .to_owned();
    ended.finish();
    ended.closed().await;
    let gone = async {
        loop {
            let live = witness
                .client
                .request(
                    "dbgproxy/sessions",
                    json!({ "selector": format!("id={id}") }),
                )
                .await;
            if live["sessions"] == json!([]) {
                break;
            }
        }
    };
    within("the end of the session", gone).await;
    witness.heard = witness.count();

    let before = server.requests().len();
    let mut client = Client::start(&daemon).named("bad").connected().await;
    for (arguments, why) in [
        (
            json!({ "session": "00000000-0000-4000-8000-000000000000" }),
            "no session 00000000",
        ),
        (json!({ "session": id }), "has ended"),
        (json!({ "session": "not a UUID" }), "\"session\""),
        (json!({ "session": "" }), "\"session\""),
        (json!({ "session": 1 }), "\"session\""),
        (json!({ "session": [] }), "\"session\""),
        (json!({ "sessions": "pid=x" }), "\"sessions\""),
        (json!({ "sessions": "" }), "\"sessions\""),
        (json!({ "sessions": "state=asleep" }), "\"sessions\""),
        (json!({ "sessions": 1 }), "\"sessions\""),
        (json!({ "sessions": ["all"] }), "\"sessions\""),
        (json!({ "view": "everything" }), "\"view\""),
        (json!({ "view": 1 }), "\"view\""),
        (json!({ "view": {} }), "\"view\""),
        (json!({ "role": "boss" }), "\"role\""),
        (json!({ "role": true }), "\"role\""),
        (json!({ "stopPolicy": "all" }), "stopPolicy"),
        (json!({ "stopPolicy": 1 }), "\"stopPolicy\""),
        (json!({ "subProcessId": "one" }), "\"subProcessId\""),
        (json!({ "subProcessId": -1 }), "\"subProcessId\""),
        (json!({ "subProcessId": 1.5 }), "\"subProcessId\""),
        (json!({ "subProcessId": 1_i64 << 40 }), "\"subProcessId\""),
        (json!({ "processId": "one" }), "\"processId\""),
        (json!({ "processId": -1 }), "\"processId\""),
        (json!({ "processId": {} }), "\"processId\""),
        (json!({ "processId": true }), "\"processId\""),
        (json!({ "listen": "127.0.0.1:1" }), "\"listen\""),
        (json!({ "noDebug": true }), "\"noDebug\""),
        (json!({ "noDebug": "yes" }), "\"noDebug\""),
        (json!({ "connect": {}, "listen": {} }), "mutually exclusive"),
        (json!({ "connect": {}, "port": 1 }), "mutually exclusive"),
        (
            json!({ "processId": 1, "subProcessId": 1 }),
            "mutually exclusive",
        ),
        (json!([]), "arguments"),
        (json!("all"), "arguments"),
        (json!(1), "arguments"),
    ] {
        let message = client.refused("attach", arguments.clone()).await;
        assert!(message.contains(why), "{arguments}: {message}");
        witness.is_undisturbed(&arguments.to_string()).await;
    }
    let commands: Vec<Value> = server.requests().split_off(before);
    assert!(
        commands
            .iter()
            .all(|request| request["command"] == "threads"),
        "{commands:?}"
    );

    // It has attached to nothing, and the end of it is quiet.
    client.request("disconnect", Value::Null).await;
    client.closed().await;
    let terminated = client
        .transcript()
        .iter()
        .find(|line| line.contains("\"terminated\""));
    assert_eq!(terminated, None);
}

#[tokio::test]
async fn a_failed_attach_can_be_tried_again() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut client = Client::start(&daemon).connected().await;
    client.refused("attach", json!({ "view": 1 })).await;
    client
        .refused(
            "attach",
            json!({ "session": "00000000-0000-4000-8000-000000000000" }),
        )
        .await;
    let attach = client.send("attach", json!({})).await;
    client.initialized(attach).await;
    let why = client.refused("attach", json!({})).await;
    assert!(why.contains("already started"), "{why}");
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    client.threads().await;
    client.disconnect().await;
}

#[tokio::test]
async fn a_wrong_request_says_why() {
    let daemon = Daemon::start().await;
    let (server, mut witness, mut client) = scene(&daemon).await;
    // Another process, with threads that this one does not have.
    let other = DebugServer::new(5_000_001).connect(&daemon).await;
    other.released().await;
    for _ in 0..40 {
        other.start_thread("foreign");
    }
    let foreign = other.start_thread("foreign");
    server.place(1, &[(PATH, 3)]);
    server.stop_at(1, "breakpoint", &Value::Null);
    client.stopped_at(3).await;
    let frame = client.stack(1).await[0]["id"].clone();
    witness.client.stopped().await;
    witness.heard = witness.count();

    let before = server.requests().len();
    let nonsense = [
        json!(foreign),
        frame,
        json!(0),
        json!(-1),
        json!(i64::MAX),
        json!(u64::MAX),
        json!(1e300),
        json!(1.5),
        json!("1"),
        json!("*"),
        json!(true),
        json!([1]),
        json!({}),
        Value::Null,
    ];
    for command in [
        "next",
        "stepIn",
        "stepOut",
        "stackTrace",
        "exceptionInfo",
        "stepInTargets",
        "goto",
    ] {
        for thread in &nonsense {
            let why = client
                .refused(command, json!({ "threadId": thread, "frameId": thread }))
                .await;
            assert!(
                why.contains("thread") || why.contains(command),
                "{command} {thread}: {why}"
            );
        }
        for arguments in [Value::Null, json!({}), json!([]), json!("x")] {
            client.refused(command, arguments).await;
        }
        witness.is_undisturbed(command).await;
    }
    let path = json!({ "path": PATH });
    for (command, arguments) in [
        ("setBreakpoints", Value::Null),
        ("setBreakpoints", json!([])),
        ("setBreakpoints", json!({ "breakpoints": [] })),
        (
            "setBreakpoints",
            json!({ "source": null, "breakpoints": [] }),
        ),
        ("setBreakpoints", json!({ "source": {}, "breakpoints": [] })),
        ("setBreakpoints", json!({ "source": [], "breakpoints": [] })),
        (
            "setBreakpoints",
            json!({ "source": { "path": 1 }, "breakpoints": [] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": PATH, "breakpoints": [] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": {} }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": 3 }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [3] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [null] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [{}] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [{ "line": "3" }] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [{ "line": 3.5 }] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [{ "line": 3, "condition": 1 }] }),
        ),
        (
            "setBreakpoints",
            json!({ "source": path, "breakpoints": [{ "line": 3 }, { "name": "f" }] }),
        ),
        ("setFunctionBreakpoints", Value::Null),
        ("setFunctionBreakpoints", json!({ "breakpoints": [{}] })),
        (
            "setFunctionBreakpoints",
            json!({ "breakpoints": [{ "name": 1 }] }),
        ),
        ("setFunctionBreakpoints", json!({ "breakpoints": "f" })),
        ("setExceptionBreakpoints", Value::Null),
        ("setExceptionBreakpoints", json!({ "filters": "raised" })),
        ("setExceptionBreakpoints", json!({ "filters": [1] })),
        (
            "setExceptionBreakpoints",
            json!({ "filters": [], "exceptionOptions": 1 }),
        ),
        ("nonsense", json!({})),
        ("", json!({})),
        ("set\u{0}Breakpoints", json!({})),
        ("launch", json!({})),
        ("attach", json!({})),
        ("initialize", json!({})),
        ("configurationDone", Value::Null),
        ("configurationDone", json!({})),
        ("dbgproxy/nonsense", json!({})),
        ("dbgproxy/sessions", json!({ "selector": "pid=x" })),
        ("dbgproxy/sessions", json!({ "selector": 1 })),
        ("dbgproxy/sessions", json!([])),
    ] {
        let why = client.refused(command, arguments.clone()).await;
        assert!(!why.is_empty(), "{command} {arguments}");
        witness
            .is_undisturbed(&format!("{command} {arguments}"))
            .await;
    }
    let reached = server.requests().split_off(before);
    assert!(
        reached
            .iter()
            .all(|request| request["command"] == "threads"),
        "{reached:?}"
    );
    assert_eq!(
        server.breakpoints(PATH).len(),
        1,
        "the witness's is as it was"
    );
    client.continue_(1).await;
    witness.client.event("continued").await;
}

#[tokio::test]
async fn configuration_done_counts_once() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut client = Client::start(&daemon).connected().await;
    let attach = client.send("attach", json!({ "view": "process" })).await;
    client.initialized(attach).await;
    let first = client.send("configurationDone", Value::Null).await;
    let second = client.send("configurationDone", Value::Null).await;
    assert_eq!(client.response(first).await["success"], true);
    assert_eq!(client.response(second).await["success"], false);
    assert_eq!(client.response(attach).await["success"], true);
    client.refused("configurationDone", Value::Null).await;
    assert_eq!(
        client.events("process").await.len(),
        1,
        "the snapshot came once"
    );
}

// From a debug server.

/// A process that will misbehave with a client on it, and another with a witness.
async fn two_processes(daemon: &Daemon) -> (DebugServer, Client, DebugServer, Witness) {
    let bad = DebugServer::new(5_000_000).connect(daemon).await;
    bad.released().await;
    let client = Client::of_process(daemon)
        .named("of the bad")
        .attached()
        .await;
    let good = DebugServer::new(5_000_001).connect(daemon).await;
    good.released().await;
    let witness = Witness::new(daemon, &json!({ "subProcessId": 5_000_001 })).await;
    (bad, client, good, witness)
}

#[tokio::test]
async fn a_debug_server_that_breaks_its_stream_ends_its_own_session() {
    let daemon = Daemon::start().await;
    for bytes in [
        &b"101\t1\t\n"[..],
        b"\0",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 67108865\r\n\r\n",
        b"Content-Length: 2\r\nX: y\r\n\r\n{}",
        b"Traceback (most recent call last):\n",
    ] {
        let (bad, mut client, good, mut witness) = two_processes(&daemon).await;
        bad.on("evaluate", |_| Answer::Silence);
        let owed = client.send("evaluate", json!({ "expression": "1" })).await;
        // The guard's own request was the first.
        bad.received("evaluate").await;
        bad.received("evaluate").await;
        bad.send_bytes(bytes);
        client.event("terminated").await;
        assert_eq!(client.response(owed).await["success"], false);
        bad.closed().await;
        client.disconnect().await;
        witness
            .is_undisturbed(&String::from_utf8_lossy(bytes))
            .await;
        assert!(good.reach(PATH, 3), "the breakpoint is still there");
        witness.client.stopped_at(3).await;
    }
}

#[tokio::test]
async fn a_debug_server_that_breaks_its_greeting_ends_alone() {
    let daemon = Daemon::start().await;
    let (_bad, mut client, _good, mut witness) = two_processes(&daemon).await;
    for bytes in [
        &b"\0"[..],
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: 5\r\n\r\n{}",
    ] {
        let server = DebugServer::new(5_000_002)
            .on("evaluate", |_| Answer::Silence)
            .connect(&daemon)
            .await;
        server.received("evaluate").await;
        server.send_bytes(bytes);
        server.close();
        server.closed().await;
        assert!(!server.is_released());
        witness.is_undisturbed("a broken greeting").await;
    }
    client.threads().await;
    let sessions = client
        .request("dbgproxy/sessions", json!({ "all": true }))
        .await;
    assert_eq!(sessions["sessions"].as_array().map(Vec::len), Some(2));
}

#[tokio::test]
async fn what_a_debug_server_should_not_say_reaches_no_client() {
    let daemon = Daemon::start().await;
    let (bad, client, _good, mut witness) = two_processes(&daemon).await;
    let mut client = Witness { heard: 0, client };
    client.client.threads().await;
    client.heard = client.count();
    let event = |name: &str, body: &str| {
        format!(r#"{{"seq":2,"type":"event","event":"{name}","body":{body}}}"#)
    };
    let start = r#"{"request":"attach","configuration":{"name":"x","connect":{"host":"127.0.0.1","port":1}}}"#;
    for text in [
        // Requests: an IDE would run a program on the user's machine.
        request("2", "runInTerminal", r#"{"cwd":"/","args":["touch","/tmp/x"]}"#),
        request("2", "startDebugging", start),
        request("-1", "runInTerminal", "{}"),
        request("9223372036854775807", "startDebugging", "{}"),
        request("2", "nonsense", "{}"),
        // Events that it has no business to send.
        event("debugpyAttach", start),
        event("startDebugging", start),
        event("runInTerminal", "{}"),
        event("dbgproxy/session", "{}"),
        event("dbgproxy/alert", "{}"),
        event("debugpySockets", r#"{"sockets":[]}"#),
        event("debugpyWaitingForServer", r#"{"host":"x","port":1}"#),
        event("dbgproxyReport", r#"{"helper":"forkserver"}"#),
        event("dbgproxyHit", r#"{"keys":1}"#),
        event("initialized", "{}"),
        event("capabilities", r#"{"capabilities":{}}"#),
        event("nonsense", "{}"),
        event("", "{}"),
        // Answers to nothing, and to what has been answered.
        r#"{"seq":2,"type":"response","request_seq":1,"success":true,"command":"pydevdSystemInfo","body":{}}"#.into(),
        r#"{"seq":2,"type":"response","request_seq":999,"success":true,"command":"threads","body":{"threads":[]}}"#.into(),
        r#"{"seq":2,"type":"response","request_seq":-9223372036854775808,"success":false,"command":"x"}"#.into(),
        r#"{"seq":2,"type":"response","request_seq":1,"command":"threads"}"#.into(),
        // No messages.
        String::new(),
        "{".into(),
        "1".into(),
        "[]".into(),
        r#"[2,"event",null,"output",null,null,null,{"output":"x"}]"#.into(),
        r#"{"type":"event","event":"output","body":{"output":"x"}}"#.into(),
        r#"{"seq":2,"type":"event","body":{}}"#.into(),
        r#"{"seq":2,"type":"nonsense"}"#.into(),
        // Stops that stop nothing.
        r#"{"seq":2,"type":"event","event":"stopped"}"#.into(),
        event("stopped", "{}"),
        event("stopped", "null"),
        event("stopped", "1"),
        event("stopped", r#"["breakpoint",1,true]"#),
        event("stopped", r#"{"threadId":1}"#),
        event("stopped", r#"{"reason":1,"threadId":1}"#),
        event("stopped", r#"{"reason":"breakpoint","threadId":"1"}"#),
        event("stopped", r#"{"reason":"breakpoint","threadId":1.5}"#),
        event("stopped", r#"{"reason":"breakpoint","threadId":1,"allThreadsStopped":"yes"}"#),
        event("stopped", r#"{"reason":"breakpoint","threadId":1,"hitBreakpointIds":"x"}"#),
        event("continued", r#"{"threadId":"1"}"#),
        event("continued", "[]"),
        event("thread", r#"{"reason":"started"}"#),
        event("thread", r#"{"reason":"started","threadId":"1"}"#),
        event("breakpoint", r#"{"reason":"changed"}"#),
        event("breakpoint", r#"{"reason":"changed","breakpoint":{"id":77,"verified":true}}"#),
    ] {
        bad.send_bytes(&frame(&text));
        client.is_undisturbed(&text).await;
        witness.is_undisturbed(&text).await;
    }
    bad.send_bytes(b"Content-Length: 6\r\n\r\n{\"\xff\xfe\"}");
    client.is_undisturbed("bytes").await;
    // Its requests were answered with a failure, so that it does not wait.
    let refused = bad.requests();
    let refused = refused
        .iter()
        .filter(|message| message["type"] == "response");
    assert_eq!(
        refused
            .filter(|message| message["success"] == false)
            .count(),
        5
    );

    // Nothing is stopped: this is answered at once, and not passed on.
    client.client.continue_(1).await;
    assert_eq!(bad.count("continue"), 0);
    // And all is as it was.
    bad.stop_at(1, "breakpoint", &Value::Null);
    assert_eq!(client.client.stopped().await.reason, "breakpoint");
}

#[tokio::test]
async fn an_answer_that_comes_twice_is_passed_on_once() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut client = Client::of_process(&daemon).attached().await;
    server.on("evaluate", |_| Answer::Silence);
    let seq = client.send("evaluate", json!({ "expression": "1" })).await;
    // The guard's own request was the first.
    server.received("evaluate").await;
    let request = server.received("evaluate").await;
    for _ in 0..3 {
        server.respond(&request, &json!({ "result": "1", "variablesReference": 0 }));
    }
    assert_eq!(client.response(seq).await["body"]["result"], "1");
    // The harness fails here if another one came.
    client.threads().await;
}
