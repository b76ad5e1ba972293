//! The merged view: all processes that match, now and later, in one session.

#[path = "../support/mod.rs"]
mod support;

mod groups;
mod ids;
mod programs;
mod scale;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::wait::within;
use support::{Answer, Client, Daemon, DebugServer, Start};

const PATH: &str = "/srv/script.py";

fn merged(daemon: &Daemon, more: &Value) -> Start {
    let arguments = json!({ "view": "merged" });
    Client::start(daemon).arguments(&arguments).arguments(more)
}

async fn process(daemon: &Daemon, pid: i64) -> DebugServer {
    let server = DebugServer::new(pid).connect(daemon).await;
    server.released().await;
    server
}

/// The view's thread of the process with this number, which its name has.
async fn thread_of(client: &mut Client, pid: i64) -> i64 {
    let threads = client.threads().await;
    let named = threads
        .iter()
        .find(|(_, name)| name.contains(&pid.to_string()));
    *named
        .unwrap_or_else(|| panic!("no thread of {pid}: {threads:?}"))
        .0
}

/// What a thread shows: its first frame and the reference of its locals.
async fn top(client: &mut Client, thread: i64) -> (Value, Value) {
    let frame = client.stack(thread).await.swap_remove(0);
    let scopes = client
        .request("scopes", json!({ "frameId": frame["id"] }))
        .await;
    (frame, scopes["scopes"][0]["variablesReference"].clone())
}

// What later processes get.

#[tokio::test]
async fn what_was_set_before_any_process_reaches_those_that_come() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(PATH, &[3, 5])
        .function("work")
        .exceptions(&["uncaught"])
        .attached()
        .await;
    assert_eq!(client.breakpoints.len(), 3);
    assert!(
        client
            .breakpoints
            .iter()
            .all(|verdict| verdict["verified"] == false)
    );
    client
        .request(
            "setDebuggerProperty",
            json!({ "skipSuspendOnBreakpointException": ["A"] }),
        )
        .await;
    client
        .request(
            "setDebuggerProperty",
            json!({ "skipPrintBreakpointException": ["B"] }),
        )
        .await;
    client
        .set_breakpoints("/srv/other.py", &[json!({ "line": 1 })])
        .await;
    client.set_breakpoints("/srv/other.py", &[]).await;
    let own: BTreeSet<i64> = client
        .breakpoints
        .iter()
        .filter_map(|verdict| verdict["id"].as_i64())
        .collect();

    let server = process(&daemon, 5_000_001).await;
    let mut told = BTreeSet::new();
    for _ in 0..3 {
        let body = client.event("breakpoint").await;
        assert_eq!(
            (&body["reason"], &body["breakpoint"]["verified"]),
            (&json!("changed"), &json!(true))
        );
        told.extend(body["breakpoint"]["id"].as_i64());
    }
    assert_eq!(told, own);
    let functions = server.received("setFunctionBreakpoints").await;
    assert_eq!(functions["arguments"]["breakpoints"][0]["name"], "work");
    let exceptions = server.received("setExceptionBreakpoints").await;
    assert_eq!(exceptions["arguments"]["filters"], json!(["uncaught"]));
    let properties = server.received("setDebuggerProperty").await;
    assert_eq!(
        properties["arguments"],
        json!({ "skipSuspendOnBreakpointException": ["A"], "skipPrintBreakpointException": ["B"] })
    );
    assert!(server.breakpoints("/srv/other.py").is_empty());
    let commands: Vec<String> = server
        .requests()
        .iter()
        .map(|request| request["command"].as_str().unwrap_or_default().into())
        .collect();
    let at = |name: &str| commands.iter().position(|command| command == name);
    for name in [
        "setBreakpoints",
        "setFunctionBreakpoints",
        "setDebuggerProperty",
    ] {
        assert!(at(name) < at("configurationDone"), "{commands:?}");
    }

    // Another process has nothing new to say of them.
    let second = process(&daemon, 5_000_002).await;
    assert!(second.reach(PATH, 5));
    client.stopped().await;
    client.no_more("breakpoint").await;

    // Those that are there are waited for: the answer has their word.
    let verdicts = client.set_breakpoints(PATH, &[json!({ "line": 7 })]).await;
    assert_eq!(verdicts[0]["verified"], true);
    client.no_more("breakpoint").await;
    client.disconnect().await;
}

#[tokio::test]
async fn those_that_set_one_source_twice_at_once_are_each_answered_with_their_own() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    server.on("setBreakpoints", |_| Answer::Silence);
    let lines = |lines: &[i64]| {
        let breakpoints: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
        json!({ "source": { "path": PATH }, "breakpoints": breakpoints })
    };
    let first = client.send("setBreakpoints", lines(&[1, 2])).await;
    let second = client.send("setBreakpoints", lines(&[3, 4])).await;
    let first = client.response(first).await;
    assert_eq!(
        first["body"]["breakpoints"].as_array().map(Vec::len),
        Some(2)
    );
    // The process's word on the first comes now, and is no word on the second.
    let verdicts = |id: i64| {
        let verdict = |id: i64| json!({ "id": id, "verified": true, "line": id });
        json!({ "breakpoints": [verdict(id), verdict(id + 1)] })
    };
    let asked = (
        server.received("setBreakpoints").await,
        server.received("setBreakpoints").await,
    );
    server.respond(&asked.0, &verdicts(1));
    server.respond(&asked.1, &verdicts(3));
    let second = client.response(second).await;
    assert_eq!(second["body"]["breakpoints"][0]["line"], 3);
    assert_eq!(second["body"]["breakpoints"][1]["line"], 4);
    assert_ne!(
        first["body"]["breakpoints"][0]["id"],
        second["body"]["breakpoints"][0]["id"]
    );
    client.no_more("breakpoint").await;
    client.disconnect().await;
}

#[tokio::test]
async fn a_property_that_no_process_takes_is_not_kept() {
    let daemon = Daemon::start().await;
    let _server = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    let good = json!({ "skipPrintBreakpointException": ["B"] });
    client.request("setDebuggerProperty", good.clone()).await;
    let bad = json!({ "dontTraceStartPatterns": 7 });
    client.refused("setDebuggerProperty", bad).await;
    let later = process(&daemon, 5_000_002).await;
    let properties = later.received("setDebuggerProperty").await;
    assert_eq!(properties["arguments"], good);
    client.disconnect().await;
}

#[tokio::test]
async fn source_maps_reach_those_that_come_and_the_last_of_a_source_counts() {
    let daemon = Daemon::start().await;
    let there = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    let map = |path: &str, cell: &str| {
        let map =
            json!({ "line": 1, "endLine": 2, "runtimeSource": { "path": cell }, "runtimeLine": 1 });
        json!({ "source": { "path": path }, "pydevdSourceMaps": [map] })
    };
    for (path, cell) in [
        ("/srv/a.ipynb", "<1>"),
        ("/srv/b.ipynb", "<2>"),
        ("/srv/a.ipynb", "<3>"),
    ] {
        client.request("setPydevdSourceMap", map(path, cell)).await;
    }
    assert_eq!(there.count("setPydevdSourceMap"), 3);
    // What no process takes is not kept.
    there.on("setPydevdSourceMap", |_| Answer::Failure("no".into()));
    client
        .refused("setPydevdSourceMap", map("/srv/c.ipynb", "<4>"))
        .await;
    let later = process(&daemon, 5_000_002).await;
    for (path, cell) in [("/srv/a.ipynb", "<3>"), ("/srv/b.ipynb", "<2>")] {
        let request = later.received("setPydevdSourceMap").await;
        assert_eq!(request["arguments"], map(path, cell));
    }
    client.threads().await;
    assert_eq!(later.count("setPydevdSourceMap"), 2);
    client.disconnect().await;
}

// Those who do not answer.

#[tokio::test]
async fn a_silent_process_is_named_and_not_waited_for_again() {
    let daemon = Daemon::start().await;
    let silent = process(&daemon, 5_000_001).await;
    let _other = process(&daemon, 5_000_002).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    for command in ["threads", "modules", "setBreakpoints"] {
        silent.on(command, |_| Answer::Silence);
    }
    let body = client.request("threads", Value::Null).await;
    let missing = body["missing"].as_str().expect("one is missing");
    assert!(missing.contains("5000001"), "{missing}");
    assert_eq!(body["threads"].as_array().map(Vec::len), Some(2));
    client
        .event_where("output", |body| {
            body["category"] == "console"
                && body["output"]
                    .as_str()
                    .is_some_and(|text| text.contains("5000001") && text.contains("threads"))
        })
        .await;
    let modules = client.request("modules", json!({})).await;
    assert_eq!(modules["missing"], missing);
    assert_eq!(modules["modules"].as_array().map(Vec::len), Some(1));
    let arguments = json!({ "source": { "path": PATH }, "breakpoints": [{ "line": 3 }] });
    let set = client.request("setBreakpoints", arguments).await;
    assert_eq!(set["missing"], missing);
    assert_eq!(set["breakpoints"][0]["verified"], true);
    // It was asked what it must know, and nothing that nobody waits for.
    silent.received("setBreakpoints").await;
    assert_eq!((silent.count("threads"), silent.count("modules")), (1, 0));
    // It answers after all, and is asked again.
    let asked = silent.received("threads").await;
    silent.respond(
        &asked,
        &json!({ "threads": [{ "id": 1, "name": "MainThread" }] }),
    );
    silent.on("modules", |_| Answer::Usual);
    let whole = async { while !client.request("modules", json!({})).await["missing"].is_null() {} };
    within("all modules", whole).await;
    assert!(
        client
            .threads()
            .await
            .values()
            .all(|name| name.ends_with("MainThread"))
    );
    client.disconnect().await;
}

#[tokio::test]
async fn each_request_is_answered_once_when_processes_die_in_the_middle() {
    let daemon = Daemon::start().await;
    let mut servers = Vec::new();
    for pid in 0..4 {
        servers.push(process(&daemon, 5_000_000 + pid).await);
    }
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    client.threads().await;
    let mut asked = Vec::new();
    for server in &servers {
        assert!(server.reach(PATH, 3));
        let stopped = client.stopped().await;
        for command in ["stackTrace", "modules", "setBreakpoints", "continue"] {
            server.on(command, |_| Answer::Silence);
        }
        asked.push(
            client
                .send("stackTrace", json!({ "threadId": stopped.thread }))
                .await,
        );
        asked.push(
            client
                .send("continue", json!({ "threadId": stopped.thread }))
                .await,
        );
    }
    let arguments = json!({ "source": { "path": PATH }, "breakpoints": [{ "line": 3 }] });
    asked.push(client.send("setBreakpoints", arguments).await);
    asked.push(client.send("modules", json!({})).await);
    asked.push(client.send("evaluate", json!({ "expression": "1" })).await);
    for server in &servers {
        server.received("modules").await;
        server.close();
    }
    for seq in asked {
        client.response(seq).await;
    }
    let empty = async { while !client.threads().await.is_empty() {} };
    within("the last thread to go", empty).await;
    client.disconnect().await;
}

#[tokio::test]
async fn two_hundred_come_and_go_and_leave_nothing() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    let mut started = BTreeSet::new();
    for round in 0..10 {
        let mut servers = Vec::new();
        for number in 0..20 {
            servers.push(process(&daemon, 5_000_000 + round * 20 + number).await);
        }
        for server in &servers {
            assert!(server.reach(PATH, 3));
        }
        for _ in &servers {
            let stopped = client.stopped_at(3).await;
            assert!(started.insert(stopped.thread), "an id twice");
        }
        for server in servers {
            server.finish();
            server.closed().await;
        }
    }
    assert_eq!(started.len(), 200);
    let empty = async { while !client.threads().await.is_empty() {} };
    within("the last thread to go", empty).await;
    for event in client.events("thread").await {
        if event["reason"] == "exited" {
            started.remove(&event["threadId"].as_i64().expect("a number"));
        }
    }
    assert!(started.is_empty(), "never said to have gone: {started:?}");
    let why = client
        .refused("evaluate", json!({ "expression": "1" }))
        .await;
    assert!(why.contains("no process"), "{why}");
    client.no_more("terminated").await;
    client.disconnect().await;
}

// The process that stopped last.

#[tokio::test]
async fn what_names_nothing_goes_to_the_process_that_stopped_last() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    let evaluate = json!({ "expression": "who", "context": "repl" });
    let completions = json!({ "text": "wh", "column": 3 });
    client.refused("evaluate", evaluate.clone()).await;
    client.refused("completions", completions.clone()).await;
    let mut servers = Vec::new();
    for pid in 0..3 {
        let server = process(&daemon, 5_000_000 + pid).await;
        server.on("evaluate", move |_| {
            Answer::Body(json!({ "result": pid.to_string(), "variablesReference": 0 }))
        });
        server.on("completions", move |_| {
            Answer::Body(json!({ "targets": [{ "label": pid.to_string() }] }))
        });
        servers.push(server);
    }
    for stops in [1, 0, 2, 1] {
        let server = &servers[stops];
        server.stop_at(server.main_thread, "breakpoint", &Value::Null);
        client.stopped().await;
        let body = client.request("evaluate", evaluate.clone()).await;
        assert_eq!(body["result"], stops.to_string());
        let body = client.request("completions", completions.clone()).await;
        assert_eq!(body["targets"][0]["label"], stops.to_string());
    }
    let thread = thread_of(&mut client, 5_000_001).await;
    client.continue_(thread).await;
    let body = client.request("evaluate", evaluate).await;
    assert_eq!(body["result"], "2", "of those that are stopped");
    client.disconnect().await;
}

// Others beside it.

#[tokio::test]
async fn a_selector_picks_and_helpers_are_left_out() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({ "sessions": "pid=5000001" }))
        .attached()
        .await;
    let other = process(&daemon, 5_000_002).await;
    let server = process(&daemon, 5_000_001).await;
    other.stop_at(other.main_thread, "breakpoint", &Value::Null);
    server.stop_at(server.main_thread, "breakpoint", &Value::Null);
    client.stopped().await;
    assert_eq!(client.threads().await.len(), 1);
    thread_of(&mut client, 5_000_001).await;
    client.no_more("stopped").await;
    client.disconnect().await;

    let mut client = merged(&daemon, &json!({})).attached().await;
    let helper = DebugServer::new(5_000_003)
        .on("evaluate", |_| Answer::Silence)
        .connect(&daemon)
        .await;
    let guard = helper.received("evaluate").await;
    helper.event("dbgproxyReport", &json!({ "helper": "resource_tracker" }));
    helper.on("evaluate", |_| Answer::Usual);
    helper.respond(&guard, &json!({ "result": "", "variablesReference": 0 }));
    helper.released().await;
    let sessions = daemon.sessions(&["pid=5000003"]).await;
    assert_eq!(sessions[0]["helper"], true);
    assert_eq!(client.threads().await.len(), 2);
    client.disconnect().await;
}

#[tokio::test]
async fn a_client_of_one_process_beside_it_keeps_its_own_ids() {
    let daemon = Daemon::start().await;
    let _first = process(&daemon, 5_000_000).await;
    let server = process(&daemon, 5_000_001).await;
    server.set_local(server.main_thread, "n", "7");
    let mut all = merged(&daemon, &json!({}))
        .named("all")
        .breakpoints(PATH, &[1, 3])
        .attached()
        .await;
    let mut one = Client::start(&daemon)
        .named("one")
        .arguments(&json!({ "subProcessId": 5_000_001 }))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    for _ in 0..2 {
        assert!(server.reach(PATH, 3));
        let (own, theirs) = (one.stopped_at(3).await, all.stopped_at(3).await);
        assert_eq!(own.thread, server.main_thread);
        assert_ne!(theirs.thread, own.thread);
        assert_eq!(
            own.body["hitBreakpointIds"],
            json!([one.breakpoints[0]["id"]])
        );
        assert_eq!(
            theirs.body["hitBreakpointIds"],
            json!([all.breakpoints[1]["id"]])
        );
        for (client, thread) in [(&mut one, own.thread), (&mut all, theirs.thread)] {
            let (frame, _) = top(client, thread).await;
            assert_eq!(client.evaluate("n", &frame).await, "7");
        }
        one.continue_(own.thread).await;
        assert_eq!(all.event("continued").await["threadId"], theirs.thread);
    }
    one.disconnect().await;
    all.disconnect().await;
}

#[tokio::test]
async fn an_observer_looks_and_does_not_touch() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    let other = process(&daemon, 5_000_002).await;
    let mut client = merged(
        &daemon,
        &json!({ "role": "observer", "stopPolicy": "group" }),
    )
    .breakpoints(PATH, &[3])
    .attached()
    .await;
    assert_eq!(client.breakpoints[0]["verified"], false);
    server.stop_at(server.main_thread, "breakpoint", &Value::Null);
    let stopped = client.stopped().await;
    top(&mut client, stopped.thread).await;
    client
        .refused("continue", json!({ "threadId": stopped.thread }))
        .await;
    let running = thread_of(&mut client, 5_000_002).await;
    client
        .refused("continue", json!({ "threadId": running }))
        .await;
    client
        .refused("evaluate", json!({ "expression": "1" }))
        .await;
    client.refused("setDebuggerProperty", json!({})).await;
    assert_eq!((other.count("pause"), server.count("continue")), (0, 0));
    client.disconnect().await;
}

#[tokio::test]
async fn one_who_comes_after_the_stops_sees_them() {
    let daemon = Daemon::with(&["--on-last-detach", "keep"]).await;
    let servers = [
        process(&daemon, 5_000_001).await,
        process(&daemon, 5_000_002).await,
    ];
    let mut first = merged(&daemon, &json!({})).attached().await;
    for server in &servers {
        server.start_thread("second");
        server.stop_at(server.main_thread, "breakpoint", &Value::Null);
        // The thread that caused it, and the other one of its process.
        assert_eq!(first.stopped().await.reason, "breakpoint");
        assert_eq!(first.stopped().await.reason, "pause");
    }
    let mut later = merged(&daemon, &json!({})).attached().await;
    let mut threads = BTreeSet::new();
    let mut takes_focus = 0;
    for _ in 0..4 {
        let stopped = later.stopped().await;
        takes_focus += usize::from(stopped.body["preserveFocusHint"] == false);
        threads.insert(stopped.thread);
    }
    assert_eq!((threads.len(), takes_focus), (4, 1));
    assert_eq!(later.threads().await.len(), 4);
    later.no_more("stopped").await;
    first.disconnect().await;
    later.disconnect().await;
}
