//! The verbs over groups: one row a session, in the order of their tree, whatever single processes do.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::{Answer, Client, Daemon, DebugServer, http, raise_open_files};

const PATH: &str = "/srv/script.py";

/// Every verb that is done to processes or asks them something, and what it needs beyond a selector.
const OVER_PROCESSES: [(&str, &str); 11] = [
    ("pause", "{}"),
    ("continue", "{}"),
    ("next", "{}"),
    ("stepIn", "{}"),
    ("stepOut", "{}"),
    ("threads", "{}"),
    ("stacks", "{}"),
    ("evaluate", r#"{"expression": "x"}"#),
    ("variables", "{}"),
    ("output", "{}"),
    ("detach", "{}"),
];

/// The requests that the daemon sends by itself, whatever happens.
const ITS_OWN: [&str; 6] = [
    "pydevdSystemInfo",
    "pydevdAuthorize",
    "initialize",
    "attach",
    "configurationDone",
    "setDebuggerProperty",
];

/// Connects a process of that name, and waits until its code runs.
async fn process(daemon: &Daemon, pid: i64, name: &str) -> DebugServer {
    child(daemon, pid, 1, name).await
}

async fn child(daemon: &Daemon, pid: i64, parent: i64, name: &str) -> DebugServer {
    let server = DebugServer::new(pid)
        .parent(parent)
        .reporting(&json!({ "name": name }))
        .connect(daemon)
        .await;
    server.released().await;
    server.place(server.main_thread, &[(PATH, 3), (PATH, 30)]);
    server
}

/// A root with two workers and another root, in an order of coming that is not the tree's.
async fn tree(daemon: &Daemon) -> [DebugServer; 4] {
    let root = process(daemon, 5_000_001, "train").await;
    let other = process(daemon, 5_000_004, "other").await;
    let first = child(daemon, 5_000_002, 5_000_001, "worker-1").await;
    let second = child(daemon, 5_000_003, 5_000_001, "worker-2").await;
    [root, first, second, other]
}

/// What a verb is answered that must succeed.
async fn ask(daemon: &Daemon, verb: &str, arguments: Value) -> Value {
    let (status, body) = daemon.verb(verb, arguments).await;
    assert_eq!(status, 200, "{verb}: {body}");
    body
}

/// A field of each row, by the name of its session.
fn rows(answer: &Value, field: &str) -> Vec<(String, Value)> {
    let rows = answer["rows"].as_array().expect("it has rows");
    let named = |row: &Value| {
        (
            row["name"].as_str().unwrap_or_default().to_owned(),
            row[field].clone(),
        )
    };
    rows.iter().map(named).collect()
}

/// The only row.
fn only(answer: &Value) -> &Value {
    let rows = answer["rows"].as_array().expect("it has rows");
    assert_eq!(rows.len(), 1, "{answer}");
    &rows[0]
}

fn named(pairs: &[(&str, Value)]) -> Vec<(String, Value)> {
    let pairs = pairs.iter();
    pairs
        .map(|(name, value)| ((*name).to_owned(), value.clone()))
        .collect()
}

/// The message of a verb that must fail in this way.
async fn fails(daemon: &Daemon, verb: &str, arguments: Value, status: u16, code: &str) -> String {
    let (got, body) = daemon.verb(verb, arguments.clone()).await;
    assert_eq!(got, status, "{verb} {arguments}: {body}");
    assert_eq!(body["error"]["code"], code, "{verb} {arguments}: {body}");
    let message = body["error"]["message"].as_str();
    message.expect("an error has a message").to_owned()
}

/// What a process was asked beside what the daemon asks by itself.
fn touched(server: &DebugServer) -> Vec<String> {
    let requests = server.requests();
    let asked = requests.iter().filter(|request| {
        let command = request["command"].as_str().unwrap_or_default();
        let is_question = request["arguments"]["expression"]
            .as_str()
            .is_some_and(|expression| expression.starts_with("__import__('_dbgproxy')."));
        !ITS_OWN.contains(&command) && (command != "evaluate" || is_question)
    });
    asked
        .map(|request| request["command"].to_string())
        .collect()
}

/// Where a row says that its process is stopped.
fn place(row: &Value) -> (Value, Value, Value) {
    let stopped = &row["stopped"];
    (
        stopped["reason"].clone(),
        stopped["file"].clone(),
        stopped["line"].clone(),
    )
}

fn stopped_at(reason: &str, line: i64) -> (Value, Value, Value) {
    (json!(reason), json!(PATH), json!(line))
}

// What every verb has in common.

#[tokio::test]
async fn rows_stand_in_the_order_of_the_tree() {
    let daemon = Daemon::start().await;
    let _servers = tree(&daemon).await;
    let all = ["train", "worker-1", "worker-2", "other"];
    for (verb, arguments) in OVER_PROCESSES {
        let arguments: Value = serde_json::from_str(arguments).expect("it is JSON");
        let answer = ask(&daemon, verb, arguments.clone()).await;
        let rows = answer["rows"].as_array().expect("it has rows");
        let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
        assert_eq!(names, all, "{verb}");
        for row in rows {
            assert!(row["session"].is_string() && row["pid"].is_u64(), "{row}");
            // Who did not do it says why.
            let said = row["success"] == true || row["message"].is_string();
            assert!(said, "{verb}: {row}");
        }
        for (selector, expected) in [
            ("worker-*", &all[1..3]),
            ("pid=5000004", &all[3..]),
            ("5000004", &all[3..]),
            ("name=train", &all[..1]),
        ] {
            let mut arguments = arguments.clone();
            arguments["selector"] = selector.into();
            let answer = ask(&daemon, verb, arguments).await;
            let rows = answer["rows"].as_array().expect("it has rows");
            let names: Vec<_> = rows.iter().map(|row| row["name"].clone()).collect();
            assert_eq!(names, expected, "{verb} {selector}");
        }
    }
}

#[tokio::test]
async fn what_cannot_be_asked_touches_nobody() {
    let daemon = Daemon::start().await;
    let servers = tree(&daemon).await;
    for (verb, arguments) in OVER_PROCESSES.into_iter().chain([("terminate", "{}")]) {
        let arguments: Value = serde_json::from_str(arguments).expect("it is JSON");
        let with = |name: &str, value: Value| {
            let mut arguments = arguments.clone();
            arguments[name] = value;
            arguments
        };
        let message = fails(
            &daemon,
            verb,
            with("selector", json!("nobody")),
            404,
            "not-found",
        )
        .await;
        for named in ["nobody", "train (pid 5000001)", "worker-2", "other"] {
            assert!(message.contains(named), "{verb}: {message}");
        }
        for (name, value, hint) in [
            ("selecter", json!("all"), "\"selecter\""),
            ("selector", json!(5), "\"selector\""),
            ("selector", json!(["all"]), "\"selector\""),
            ("selector", json!(""), "a condition is missing"),
            (
                "selector",
                json!("name=x,rnk=1"),
                "name=x,rnk=1\n         ^",
            ),
            ("sessions", json!("pid=x"), "pid=x\n      ^"),
        ] {
            let message = fails(&daemon, verb, with(name, value), 400, "bad-request").await;
            assert!(message.contains(hint), "{verb} {name}: {message}");
        }
        let twice = json!({ "selector": "all", "sessions": "all" });
        let mut arguments = arguments.clone();
        for (name, value) in twice.as_object().expect("it is one") {
            arguments[name] = value.clone();
        }
        let message = fails(&daemon, verb, arguments, 400, "bad-request").await;
        assert!(message.contains("twice"), "{verb}: {message}");
    }
    for (verb, arguments, hint) in [
        ("evaluate", json!({}), "\"expression\" is missing"),
        ("evaluate", json!({ "expression": 1 }), "\"expression\""),
        (
            "evaluate",
            json!({ "expression": "1", "timeout": "soon" }),
            "\"timeout\"",
        ),
        (
            "evaluate",
            json!({ "expression": "1", "timeout": -1 }),
            "\"timeout\"",
        ),
        (
            "evaluate",
            json!({ "expression": "1", "contxt": "repl" }),
            "\"contxt\"",
        ),
        (
            "variables",
            json!({ "variablesReference": "x" }),
            "\"variablesReference\"",
        ),
        (
            "variables",
            json!({ "variablesReference": 5 }),
            "one process",
        ),
        ("terminate", json!({}), "\"selector\""),
        ("shutdown", json!({ "now": true }), "\"now\""),
        ("info", json!({ "selector": "all" }), "\"selector\""),
        ("session", json!({}), "which session"),
        ("session", json!({ "selector": "all" }), "4 sessions match"),
    ] {
        let message = fails(&daemon, verb, arguments, 400, "bad-request").await;
        assert!(message.contains(hint), "{verb}: {message}");
    }
    let message = fails(&daemon, "paus", json!({}), 404, "not-found").await;
    assert!(message.contains("pause"), "{message}");
    for server in &servers {
        assert_eq!(touched(server), [""; 0]);
    }
}

#[tokio::test]
async fn nobody_is_there() {
    let daemon = Daemon::start().await;
    for (verb, arguments) in OVER_PROCESSES {
        let arguments = serde_json::from_str(arguments).expect("it is JSON");
        let message = fails(&daemon, verb, arguments, 404, "not-found").await;
        assert!(message.contains("there are none"), "{verb}: {message}");
    }
}

#[tokio::test]
async fn get_looks_and_does_not_touch() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let host = format!("Host: {}", daemon.connect());
    let get =
        async |path: &str| http::http(daemon.address, &format!("GET {path}"), &[&host], "").await;
    for verb in [
        "sessions",
        "info",
        "threads",
        "stacks",
        "variables",
        "output",
    ] {
        let (status, body) = get(&format!("/api/v1/{verb}")).await;
        assert_eq!(status, 200, "{verb}: {body}");
    }
    let before = server.requests().len();
    for verb in [
        "evaluate?expression=1",
        "pause",
        "continue",
        "next",
        "stepIn",
        "stepOut",
        "detach",
        "terminate?selector=all",
        "shutdown",
    ] {
        let (status, body) = get(&format!("/api/v1/{verb}")).await;
        assert_eq!(status, 400, "{verb}: {body}");
        assert!(body.contains("POST"), "{verb}: {body}");
    }
    assert_eq!(server.requests().len(), before);
}

#[tokio::test]
async fn helpers_are_left_alone() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let helper = DebugServer::new(5_000_002)
        .parent(5_000_001)
        .reporting(&json!({ "helper": "resource_tracker" }))
        .connect(&daemon)
        .await;
    helper.released().await;
    for (verb, arguments) in OVER_PROCESSES {
        let arguments = serde_json::from_str(arguments).expect("it is JSON");
        let answer = ask(&daemon, verb, arguments).await;
        assert_eq!(only(&answer)["name"], "train", "{verb}");
    }
    let message = fails(
        &daemon,
        "pause",
        json!({ "selector": "pid=5000002" }),
        404,
        "not-found",
    )
    .await;
    assert!(message.contains("multiprocessing"), "{message}");
    let answer = ask(&daemon, "terminate", json!({ "selector": "all" })).await;
    assert_eq!(only(&answer)["name"], "train");
    assert_eq!(server.count("disconnect"), 1);
    assert_eq!(touched(&helper), [""; 0]);
}

#[tokio::test]
async fn one_that_is_silent_keeps_nobody_waiting() {
    let daemon = Daemon::start().await;
    let [root, silent, _second, _other] = tree(&daemon).await;
    ask(&daemon, "pause", json!({ "selector": "pid=5000001" })).await;
    for command in ["pause", "threads", "evaluate"] {
        silent.on(command, |_| Answer::Silence);
    }
    for (verb, arguments) in [
        ("pause", json!({})),
        ("threads", json!({})),
        ("stacks", json!({})),
        ("evaluate", json!({ "expression": "x", "timeout": 0.5 })),
    ] {
        let answer = ask(&daemon, verb, arguments).await;
        let names = rows(&answer, "success");
        let names: Vec<_> = names.iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["train", "worker-1", "worker-2", "other"], "{verb}");
        let late = &answer["rows"][1];
        assert_eq!(late["success"], false, "{verb}: {answer}");
        let message = late["message"].as_str().unwrap_or_default();
        assert!(message.contains("no answer within"), "{verb}: {message}");
        if verb != "evaluate" {
            let others = [0, 2, 3].map(|index| answer["rows"][index]["success"] == true);
            assert_eq!(others, [true; 3], "{verb}: {answer}");
        }
    }
    // An answer that comes too late is for nobody, and does no harm.
    for request in silent.requests() {
        if request["command"] == "threads" {
            silent.respond(&request, &json!({ "threads": [] }));
        }
    }
    silent.on("threads", |_| Answer::Usual);
    let answer = ask(&daemon, "threads", json!({ "selector": "worker-1" })).await;
    assert_eq!(only(&answer)["success"], true, "{answer}");
    drop(root);
}

#[tokio::test]
async fn one_that_ends_in_the_middle() {
    let daemon = Daemon::start().await;
    let [_root, dying, _second, _other] = tree(&daemon).await;
    dying.on("threads", |_| Answer::Silence);
    let (answer, ()) = tokio::join!(ask(&daemon, "threads", json!({})), async {
        dying.received("threads").await;
        dying.finish();
    });
    let successes = rows(&answer, "success");
    let expected = named(&[
        ("train", json!(true)),
        ("worker-1", json!(false)),
        ("worker-2", json!(true)),
        ("other", json!(true)),
    ]);
    assert_eq!(successes, expected);
    let message = answer["rows"][1]["message"].as_str().unwrap_or_default();
    assert!(message.contains("ended"), "{message}");
}

#[tokio::test]
async fn one_that_ends_by_its_step() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    ask(&daemon, "pause", json!({})).await;
    server.on("next", |_| Answer::Body(json!({})));
    let (answer, ()) = tokio::join!(ask(&daemon, "next", json!({})), async {
        server.received("next").await;
        server.finish();
    });
    let row = only(&answer);
    assert_eq!(
        (&row["success"], &row["state"]),
        (&json!(true), &json!("ended"))
    );
    assert_eq!(row["stopped"], Value::Null);
}

#[tokio::test]
async fn one_that_is_held_says_so() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let server = DebugServer::new(5_000_001)
        .reporting(&json!({ "name": "train" }))
        .connect(&daemon)
        .await;
    while daemon.sessions(&["state=held"]).await.is_empty() {}
    for verb in ["pause", "continue", "next", "variables"] {
        let answer = ask(&daemon, verb, json!({})).await;
        let row = only(&answer);
        assert_eq!(row["success"], false, "{verb}: {row}");
        let message = row["message"].as_str().unwrap_or_default();
        assert!(message.contains("waits until an IDE"), "{verb}: {message}");
    }
    assert_eq!(touched(&server), [""; 0]);
    // It can be looked into all the same.
    let answer = ask(&daemon, "stacks", json!({})).await;
    assert_eq!(only(&answer)["success"], true);
}

// Running and stopping.

#[tokio::test]
async fn without_a_client_a_process_stays_where_it_was_told_to() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let answer = ask(&daemon, "pause", json!({})).await;
    let row = only(&answer);
    assert_eq!(row["state"], "stopped");
    assert_eq!(row["stopped"]["thread"], server.main_thread);
    assert_eq!(place(row), stopped_at("pause", 3));

    // The place is the one after each step, though the one before is known.
    for (line, verb) in (4..).zip(["next", "stepIn", "stepOut", "next"]) {
        let answer = ask(&daemon, verb, json!({})).await;
        assert_eq!(place(only(&answer)), stopped_at("step", line), "{verb}");
        let sessions = daemon.sessions(&[]).await;
        assert_eq!(sessions[0]["state"], "stopped");
        assert_eq!(place(&sessions[0]), stopped_at("step", line), "{verb}");
    }
    // Once more is no other stop.
    let answer = ask(&daemon, "pause", json!({})).await;
    assert_eq!(place(only(&answer)), stopped_at("step", 7));
    assert_eq!(server.count("pause"), 1);

    let answer = ask(&daemon, "continue", json!({})).await;
    let row = only(&answer);
    assert_eq!(
        (&row["state"], &row["stopped"]),
        (&json!("running"), &Value::Null)
    );
    assert_eq!(server.count("continue"), 1);
    let answer = ask(&daemon, "continue", json!({})).await;
    assert_eq!(only(&answer)["success"], true);
    assert_eq!(server.count("continue"), 1);

    let answer = ask(&daemon, "next", json!({})).await;
    let row = only(&answer);
    assert_eq!(row["success"], false);
    assert_eq!(row["message"], "it is running; pause it first");

    // A stop that nobody asked for does not keep the program.
    server.stop_at(server.main_thread, "breakpoint", &Value::Null);
    server.received("continue").await;
    server.received("continue").await;
}

#[tokio::test]
async fn a_pause_that_comes_to_nothing_is_taken_back() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    for verb in ["continue", "detach"] {
        // As in a long call into C: it is answered, and nothing stops.
        server.on("pause", |_| Answer::Body(json!({})));
        let answer = ask(&daemon, "pause", json!({})).await;
        let row = only(&answer);
        assert_eq!(
            (&row["success"], &row["state"]),
            (&json!(true), &json!("running"))
        );
        let message = row["message"].as_str().unwrap_or_default();
        assert!(message.contains("as soon as"), "{message}");

        let answer = ask(&daemon, verb, json!({})).await;
        assert_eq!(only(&answer)["success"], true);
        server.stop_at(server.main_thread, "pause", &Value::Null);
        server.received("continue").await;
    }
    // If it is not taken back, it holds.
    ask(&daemon, "pause", json!({})).await;
    server.stop_at(server.main_thread, "pause", &Value::Null);
    while daemon.sessions(&["state=stopped"]).await.is_empty() {}
    let answer = ask(&daemon, "threads", json!({})).await;
    assert_eq!(only(&answer)["threads"][0]["state"], "stopped");
    assert_eq!(server.count("continue"), 2);
}

#[tokio::test]
async fn clients_are_told_as_if_another_had_done_it() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let mut first = Client::start(&daemon).named("first").attached().await;
    let merged = json!({ "view": "merged" });
    let mut second = Client::start(&daemon)
        .named("second")
        .arguments(&merged)
        .attached()
        .await;
    ask(&daemon, "pause", json!({})).await;
    for client in [&mut first, &mut second] {
        assert_eq!(client.stopped().await.reason, "pause");
    }
    ask(&daemon, "next", json!({})).await;
    for client in [&mut first, &mut second] {
        client.event("continued").await;
        client.stopped_at(4).await;
    }
    // One of them does it.
    let thread = *first.threads().await.keys().next().expect("it has one");
    first.continue_(thread).await;
    second.event("continued").await;
    first.event("continued").await;
    ask(&daemon, "pause", json!({})).await;
    first.stopped().await;
    second.stopped().await;
    ask(&daemon, "continue", json!({})).await;
    first.event("continued").await;
    second.event("continued").await;
    first.no_more("stopped").await;
    drop(server);
}

#[tokio::test]
async fn the_same_verbs_over_dap() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let tree = json!({ "view": "tree", "sessions": "name=nobody" });
    let mut client = Client::start(&daemon).arguments(&tree).attached().await;
    for (verb, arguments) in OVER_PROCESSES {
        let mut arguments: Value = serde_json::from_str(arguments).expect("it is JSON");
        arguments["selector"] = "all".into();
        let answer = client.request(&format!("dbgproxy/{verb}"), arguments).await;
        assert_eq!(only(&answer)["name"], "train", "{verb}");
    }
    let why = client
        .refused("dbgproxy/pause", json!({ "selector": "nobody" }))
        .await;
    assert!(why.contains("train (pid 5000001)"), "{why}");
    let why = client.refused("dbgproxy/terminate", json!({})).await;
    assert!(why.contains("selector"), "{why}");
    let why = client.refused("dbgproxy/nothing", json!({})).await;
    assert!(why.contains("stacks"), "{why}");

    let body = client
        .request("dbgproxy/terminate", json!({ "selector": "all" }))
        .await;
    assert_eq!(only(&body)["success"], true);
    assert_eq!(server.count("disconnect"), 1);
}

#[tokio::test]
async fn observers_look_and_do_not_touch() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let role = json!({ "role": "observer", "view": "merged" });
    let mut observer = Client::start(&daemon).arguments(&role).attached().await;
    for verb in [
        "sessions",
        "info",
        "threads",
        "stacks",
        "variables",
        "output",
    ] {
        observer
            .request(&format!("dbgproxy/{verb}"), json!({}))
            .await;
    }
    let before = server.requests().len();
    for (verb, arguments) in [
        ("evaluate", json!({ "expression": "x" })),
        ("pause", json!({})),
        ("continue", json!({})),
        ("next", json!({})),
        ("stepIn", json!({})),
        ("stepOut", json!({})),
        ("detach", json!({})),
        ("terminate", json!({ "selector": "all" })),
        ("shutdown", json!({})),
    ] {
        let why = observer
            .refused(&format!("dbgproxy/{verb}"), arguments)
            .await;
        assert!(why.contains("only look"), "{verb}: {why}");
    }
    for line in [":pause", ":eval all 1", ":terminate all"] {
        let arguments = json!({ "expression": line, "context": "repl" });
        let why = observer.refused("evaluate", arguments).await;
        assert!(why.contains("only look"), "{line}: {why}");
    }
    assert_eq!(server.requests().len(), before);
}

// Looking into processes.

#[tokio::test]
async fn threads_and_which_of_them_are_stopped() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let worker = server.start_thread("Thread-1 (worker)");
    let threads = async || only(&ask(&daemon, "threads", json!({})).await)["threads"].clone();
    let expected = |state: &str| {
        json!([
            { "id": 1, "name": "MainThread", "state": state },
            { "id": worker, "name": "Thread-1 (worker)", "state": state },
        ])
    };
    assert_eq!(threads().await, expected("running"));
    ask(&daemon, "pause", json!({})).await;
    assert_eq!(threads().await, expected("stopped"));
}

#[tokio::test]
async fn equal_stacks_are_one() {
    let daemon = Daemon::start().await;
    let [root, first, _second, _other] = tree(&daemon).await;
    root.place(root.main_thread, &[(PATH, 44)]);
    ask(&daemon, "pause", json!({ "selector": "worker-1" })).await;
    let answer = ask(&daemon, "stacks", json!({})).await;
    let stacks = answer["stacks"].as_array().expect("they are there");
    let counts: Vec<_> = stacks.iter().map(|stack| stack["count"].clone()).collect();
    assert_eq!(counts, [3, 1]);
    let frame = |name: &str, line: i64| json!({ "name": name, "path": PATH, "line": line });
    assert_eq!(
        stacks[0]["frames"],
        json!([frame("work", 3), frame("<module>", 30)])
    );
    let who = stacks[0]["threads"].as_array().expect("they are there");
    let who: Vec<_> = who
        .iter()
        .map(|who| (who["name"].clone(), who["state"].clone()))
        .collect();
    assert_eq!(
        who,
        [
            (json!("worker-1"), json!("stopped")),
            (json!("worker-2"), json!("running")),
            (json!("other"), json!("running")),
        ]
    );
    let tree = answer["tree"].as_array().expect("it is there");
    assert_eq!(tree.len(), 2, "{tree:?}");
    assert_eq!(tree[0]["children"][0]["frame"], frame("work", 3));
    assert_eq!(answer["omitted"], 0);
    // Nothing was stopped for it, and nothing resumed.
    assert_eq!((root.count("pause"), first.count("continue")), (0, 0));
}

#[tokio::test]
async fn a_process_without_the_guard_says_so() {
    let daemon = Daemon::start().await;
    let bare = DebugServer::new(5_000_001)
        .on("evaluate", |_| Answer::Failure("no".into()))
        .connect(&daemon)
        .await;
    bare.released().await;
    for (verb, arguments) in [
        ("stacks", json!({})),
        ("evaluate", json!({ "expression": "1" })),
    ] {
        let answer = ask(&daemon, verb, arguments).await;
        let row = only(&answer);
        assert_eq!(row["success"], false);
        let message = row["message"].as_str().unwrap_or_default();
        assert!(message.contains("guard"), "{message}");
    }
}

#[tokio::test]
async fn the_odd_one_out() {
    let daemon = Daemon::start().await;
    let [root, first, second, other] = tree(&daemon).await;
    for (server, value) in [(&root, "1"), (&first, "1"), (&second, "7")] {
        server.set_global("x", value);
    }
    // Where it is stopped, it is evaluated in the frame.
    ask(&daemon, "pause", json!({ "selector": "other" })).await;
    other.set_local(other.main_thread, "x", "1");
    let answer = ask(&daemon, "evaluate", json!({ "expression": "x" })).await;
    let results = rows(&answer, "result");
    let expected = named(&[
        ("train", json!("1")),
        ("worker-1", json!("1")),
        ("worker-2", json!("7")),
        ("other", json!("1")),
    ]);
    assert_eq!(results, expected);
    let odd: Vec<_> = rows(&answer, "odd")
        .into_iter()
        .map(|(_, odd)| odd)
        .collect();
    assert_eq!(odd, [false, false, true, false]);
    assert_eq!(
        answer["values"],
        json!([{ "result": "1", "count": 3 }, { "result": "7", "count": 1 }])
    );
    assert_eq!(answer["rows"][3]["frame"]["line"], 3);
    assert_eq!(answer["rows"][3]["type"], "int");

    // Who cannot say is not odd.
    second.on("evaluate", |_| Answer::Silence);
    let arguments = json!({ "expression": "x", "timeout": 0.5 });
    let answer = ask(&daemon, "evaluate", arguments).await;
    assert_eq!(answer["values"], json!([{ "result": "1", "count": 3 }]));
    assert_eq!(answer["rows"][2]["odd"], Value::Null);

    let answer = ask(
        &daemon,
        "evaluate",
        json!({ "expression": "y@LINE@", "selector": "train" }),
    );
    let answer = answer.await;
    assert_eq!(
        only(&answer)["message"],
        "NameError: name 'y@LINE@' is not defined"
    );
}

#[tokio::test]
async fn what_a_stopped_process_fails_at_is_its_exception() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    ask(&daemon, "pause", json!({})).await;
    for (said, shown) in [
        (
            "Traceback (most recent call last):\n  File \"<string>\", line 1, in <module>\nNameError: name 'y' is not defined\n",
            "NameError: name 'y' is not defined",
        ),
        (
            "Traceback (most recent call last):\n  a\nKeyError: 1\n\nDuring handling of the above exception, another \
             exception occurred:\n\nTraceback (most recent call last):\n  b\nValueError: two\n  lines\n",
            "ValueError: two\n  lines",
        ),
        ("Unable to find thread.", "Unable to find thread."),
    ] {
        server.on("evaluate", move |_| Answer::Failure(said.into()));
        let answer = ask(&daemon, "evaluate", json!({ "expression": "y" })).await;
        assert_eq!(only(&answer)["message"], shown);
    }
}

#[tokio::test]
async fn variables_and_what_is_inside_of_them() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let answer = ask(&daemon, "variables", json!({})).await;
    assert_eq!(only(&answer)["message"], "it is running; pause it first");

    ask(&daemon, "pause", json!({})).await;
    server.set_local(server.main_thread, "n", "3");
    let answer = ask(&daemon, "variables", json!({})).await;
    let row = only(&answer);
    assert_eq!(
        row["frame"],
        json!({ "name": "work", "path": PATH, "line": 3 })
    );
    let n = json!({ "name": "n", "value": "3", "type": "int", "variablesReference": 0 });
    assert_eq!(row["scopes"][0]["name"], "Locals");
    assert_eq!(row["scopes"][0]["variables"], json!([n]));
    // The others are there to be asked for.
    assert_eq!(row["scopes"][1]["name"], "Globals");
    assert_eq!(row["scopes"][1]["variables"], Value::Null);

    let reference = row["scopes"][0]["variablesReference"].clone();
    let inside = json!({ "variablesReference": reference, "selector": "train" });
    let answer = ask(&daemon, "variables", inside.clone()).await;
    assert_eq!(only(&answer)["variables"], json!([n]));

    // It holds until the process runs on.
    ask(&daemon, "next", json!({})).await;
    for arguments in [inside.clone(), json!({ "variablesReference": 5000 })] {
        let answer = ask(&daemon, "variables", arguments).await;
        let row = only(&answer);
        assert_eq!(row["success"], false);
        let message = row["message"].as_str().unwrap_or_default();
        assert!(message.contains("until the process runs on"), "{message}");
    }
    ask(&daemon, "continue", json!({})).await;
    let answer = ask(&daemon, "variables", inside).await;
    assert_eq!(only(&answer)["message"], "it is running; pause it first");
}

#[tokio::test]
async fn the_last_output() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let answer = ask(&daemon, "output", json!({})).await;
    let row = only(&answer);
    assert_eq!(
        (&row["success"], &row["output"]),
        (&json!(true), &json!([]))
    );
    let message = row["message"].as_str().unwrap_or_default();
    assert!(message.contains("redirectOutput"), "{message}");

    let mut client = Client::start(&daemon).attached().await;
    server.output("stdout", "step 1\n");
    server.output("stderr", "late\n");
    for category in ["stdout", "stderr"] {
        client
            .event_where("output", |body| body["category"] == category)
            .await;
    }
    let answer = ask(&daemon, "output", json!({})).await;
    assert_eq!(
        only(&answer)["output"],
        json!([
            { "category": "stdout", "output": "step 1\n" },
            { "category": "stderr", "output": "late\n" },
        ])
    );
    assert_eq!(only(&answer)["message"], Value::Null);
}

#[tokio::test]
async fn one_session_and_the_daemon() {
    let daemon = Daemon::start().await;
    let [_root, first, _second, _other] = tree(&daemon).await;
    let answer = ask(&daemon, "session", json!({ "selector": "worker-1" })).await;
    let sessions = daemon.sessions(&["worker-1"]).await;
    assert_eq!(answer["session"], sessions[0]);
    let id = answer["session"]["id"].clone();
    first.finish();
    while !daemon.sessions(&["worker-1"]).await.is_empty() {}
    // One that has ended, too.
    let answer = ask(&daemon, "session", json!({ "session": id })).await;
    assert_eq!(answer["session"]["state"], "ended");
    let info = ask(&daemon, "info", json!({})).await;
    assert_eq!(
        (&info["sessions"], &info["clients"]),
        (&json!(3), &json!(0))
    );
    assert_eq!(info["pid"], daemon.pid());
}

// Ends.

#[tokio::test]
async fn clients_see_the_end_of_what_is_detached_and_it_runs_on() {
    let daemon = Daemon::with(&["--on-last-detach", "keep"]).await;
    let server = process(&daemon, 5_000_001, "train").await;
    let other = process(&daemon, 5_000_002, "other").await;
    let mut client = Client::start(&daemon)
        .arguments(&json!({ "processId": 5_000_001 }))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    assert!(server.reach(PATH, 3));
    client.stopped_at(3).await;
    let answer = ask(&daemon, "detach", json!({ "selector": "train" })).await;
    let row = only(&answer);
    assert_eq!(
        (&row["success"], &row["state"]),
        (&json!(true), &json!("running"))
    );
    client.event("terminated").await;
    server.received("continue").await;
    server.breakpoints_where(PATH, <[Value]>::is_empty).await;
    // Also one that a verb has stopped, and that no client sees.
    ask(&daemon, "pause", json!({})).await;
    let answer = ask(&daemon, "detach", json!({})).await;
    let states = rows(&answer, "state");
    assert_eq!(
        states,
        named(&[("train", json!("running")), ("other", json!("running"))])
    );
    assert_eq!(other.count("continue"), 1);
    assert_eq!(daemon.sessions(&[]).await.len(), 2);
    assert_eq!(
        (server.count("disconnect"), other.count("disconnect")),
        (0, 0)
    );
}

#[tokio::test]
async fn processes_are_ended_for_all() {
    let daemon = Daemon::start().await;
    let [_root, first, second, _other] = tree(&daemon).await;
    let process = json!({ "processId": 5_000_002 });
    let mut client = Client::start(&daemon).arguments(&process).attached().await;
    // One that does not do it.
    second.on("disconnect", |_| Answer::Body(json!({})));
    let answer = ask(&daemon, "terminate", json!({ "selector": "worker-*" })).await;
    assert_eq!(
        rows(&answer, "success"),
        named(&[("worker-1", json!(true)), ("worker-2", json!(true))])
    );
    assert_eq!(
        rows(&answer, "message"),
        named(&[
            ("worker-1", Value::Null),
            ("worker-2", json!("it has not ended yet"))
        ])
    );
    client.event("terminated").await;
    let request = first.received("disconnect").await;
    assert_eq!(request["arguments"]["terminateDebuggee"], true);
    assert_eq!(daemon.sessions(&[]).await.len(), 3);
}

#[tokio::test]
async fn the_daemon_is_told_to_stop() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let mut client = Client::start(&daemon).attached().await;
    // Whatever is being carried out.
    server.on("evaluate", |_| Answer::Silence);
    let waits = json!({ "expression": "x", "timeout": 1000 });
    client.send("dbgproxy/evaluate", waits).await;
    assert_eq!(ask(&daemon, "shutdown", json!({})).await, json!({}));
    client.event("terminated").await;
    client.closed().await;
    server.closed().await;
    daemon.ended().await;
}

// Who has asked goes.

/// How many files the daemon has open.
fn files(daemon: &Daemon) -> usize {
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
    files.expect("it runs").count()
}

#[tokio::test]
async fn nothing_is_left_of_who_does_not_wait_for_the_answer() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    server.on("threads", |_| Answer::Silence);
    let host = format!("Host: {}", daemon.connect());
    let headers = [&*host, "Content-Type: application/json"];
    let files_before = files(&daemon);
    for _ in 0..50 {
        let stream = http::send(daemon.address, "POST /api/v1/threads", &headers, "{}").await;
        server.received("threads").await;
        drop(stream);
    }
    let mut client = Client::start(&daemon).attached().await;
    let before = server.count("threads");
    client.send("dbgproxy/threads", json!({})).await;
    while server.count("threads") == before {
        client.request("dbgproxy/info", json!({})).await;
    }
    client.kill();
    // What comes too late is for nobody.
    for request in server.requests() {
        if request["command"] == "threads" {
            server.respond(&request, &json!({ "threads": [] }));
        }
    }
    server.on("threads", |_| Answer::Usual);
    let gone = async { while ask(&daemon, "info", json!({})).await["clients"] != 0 {} };
    within("the client to be gone", gone).await;
    let answer = ask(&daemon, "threads", json!({})).await;
    assert_eq!(only(&answer)["success"], true);
    let closed = async {
        while files(&daemon) > files_before {
            tokio::task::yield_now().await;
        }
    };
    within("as few files as before", closed).await;
    daemon.stop().await;
}

#[tokio::test]
async fn one_client_has_so_many_verbs_and_the_rest_is_refused() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let mut client = Client::start(&daemon).attached().await;
    server.on("evaluate", |_| Answer::Silence);
    let waits = json!({ "expression": "x", "timeout": 1000 });
    for _ in 0..32 {
        client.send("dbgproxy/evaluate", waits.clone()).await;
    }
    let why = client.refused("dbgproxy/info", json!({})).await;
    assert!(why.contains("32 verbs"), "{why}");
    client.kill();
    // They end with it: a verb that goes on would keep the daemon.
    daemon.stop().await;
}

// Many.

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_thousand_processes() {
    const COUNT: usize = 2001;
    let open = raise_open_files();
    assert!(open > 2 * COUNT as u64 + 100, "only {open} files");
    let daemon = Daemon::start().await;
    let mut servers = Vec::new();
    for number in 0..COUNT {
        let pid = 5_000_000 + number as i64;
        let name = format!("worker-{number}");
        let server = DebugServer::new(pid)
            .reporting(&json!({ "name": name }))
            .connect(&daemon)
            .await;
        servers.push(server);
    }
    for server in &servers {
        server.released().await;
    }
    // They stand in the order in which they came.
    let sessions = daemon.sessions(&[]).await;
    assert_eq!(sessions.len(), COUNT);
    for (verb, field, value) in [
        ("pause", "state", "stopped"),
        ("next", "state", "stopped"),
        ("stacks", "success", "true"),
        ("continue", "state", "running"),
    ] {
        let started = std::time::Instant::now();
        let answer = ask(&daemon, verb, json!({})).await;
        println!("{verb} of {COUNT}: {:?}", started.elapsed());
        let rows = rows(&answer, field);
        assert_eq!(rows.len(), COUNT, "{verb}");
        for (number, (name, said)) in rows.iter().enumerate() {
            assert_eq!(sessions[number]["name"], *name);
            let said = said.as_str().map_or(said.to_string(), str::to_owned);
            assert_eq!(said, value, "{verb} {name}: {}", answer["rows"][number]);
        }
        if verb == "stacks" {
            assert_eq!(answer["stacks"][0]["count"], COUNT);
        }
    }
}
