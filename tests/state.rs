//! The stop state of a process: the daemon keeps it, because pydevd tells it to nobody twice and does requests that
//! come at the wrong time at the next stop, or never.

mod support;

use serde_json::{Value, json};
use support::{Answer, Client, Daemon, DebugServer};

const PATH: &str = "/srv/script.py";

/// A released process, and a client on it.
async fn debugged(daemon: &Daemon) -> (DebugServer, Client) {
    let server = DebugServer::new(5_000_000).connect(daemon).await;
    server.released().await;
    let client = Client::of_process(daemon).named("first").attached().await;
    (server, client)
}

/// What came to a client after its `configurationDone`: the names of its messages, in order.
fn told(client: &Client) -> Vec<String> {
    let mut names = Vec::new();
    let received = client
        .transcript()
        .iter()
        .filter_map(|line| line.split_once("< "));
    let messages =
        received.map(|(_, text)| serde_json::from_str::<Value>(text).expect("it is JSON"));
    for message in messages.skip_while(|message| message["command"] != "configurationDone") {
        let name = match &message["event"] {
            Value::String(event) => event,
            _ => message["command"].as_str().expect("a response has one"),
        };
        names.push(name.to_owned());
    }
    names
}

// Requests at the wrong time.

#[tokio::test]
async fn continue_while_running_is_answered_at_once() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    for thread in [json!(1), json!(99), json!("*"), Value::Null] {
        let body = client
            .request("continue", json!({ "threadId": thread }))
            .await;
        assert_eq!(body["allThreadsContinued"], true);
    }
    client.threads().await;
    assert_eq!(server.count("continue"), 0);

    // None of them is kept for the next stop.
    server.stop_at(1, "breakpoint", &Value::Null);
    assert_eq!(client.stopped().await.reason, "breakpoint");
    client.no_more("continued").await;

    client.continue_(1).await;
    assert_eq!(
        server.received("continue").await["arguments"]["threadId"],
        "*"
    );
    client.continue_(1).await;
    client.threads().await;
    assert_eq!(server.count("continue"), 1);
}

#[tokio::test]
async fn two_clients_press_continue() {
    let daemon = Daemon::start().await;
    let (server, mut first) = debugged(&daemon).await;
    let mut second = Client::of_process(&daemon).named("second").attached().await;
    for _ in 0..20 {
        server.stop_at(1, "breakpoint", &Value::Null);
        first.stopped().await;
        second.stopped().await;
        let (one, other) = (json!({ "threadId": 1 }), json!({ "threadId": 1 }));
        let (one, other) = (
            first.send("continue", one).await,
            second.send("continue", other).await,
        );
        assert_eq!(first.response(one).await["success"], true);
        assert_eq!(second.response(other).await["success"], true);
        assert_eq!(first.events("continued").await.len(), 1);
        assert_eq!(second.events("continued").await.len(), 1);
    }
    // Never both: what comes while nothing is stopped would be kept for the next stop.
    assert_eq!(server.count("continue"), 20);
}

#[tokio::test]
async fn what_comes_while_a_continue_is_under_way() {
    let daemon = Daemon::start().await;
    let (server, mut first) = debugged(&daemon).await;
    let mut second = Client::of_process(&daemon).named("second").attached().await;
    server.stop_at(1, "breakpoint", &Value::Null);
    first.stopped().await;
    second.stopped().await;

    server.on("continue", |_| Answer::Silence);
    let seq = first.send("continue", json!({ "threadId": 1 })).await;
    let asked = server.received("continue").await;
    second.continue_(1).await;
    assert_eq!(
        second.refused("next", json!({ "threadId": 1 })).await,
        "notStopped"
    );

    server.event(
        "continued",
        &json!({ "threadId": 1, "allThreadsContinued": true }),
    );
    server.respond(&asked, &json!({ "allThreadsContinued": true }));
    assert_eq!(first.response(seq).await["success"], true);
    first.event("continued").await;
    second.event("continued").await;

    // A continue that the process refuses leaves it stopped.
    server.on("continue", |_| Answer::Failure("not now".into()));
    server.stop_at(1, "breakpoint", &Value::Null);
    first.stopped().await;
    second.stopped().await;
    assert_eq!(
        first.refused("continue", json!({ "threadId": 1 })).await,
        "not now"
    );
    second.step("next", 1).await;
    assert_eq!(second.stopped().await.reason, "step");
}

/// pydevd keeps the answer to a `continue` back when another thread stops while all are resumed.
#[tokio::test]
async fn a_stop_answers_the_continue_before_it() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    server.stop_at(1, "breakpoint", &Value::Null);
    client.stopped().await;
    server.on("continue", |_| Answer::Silence);
    let seq = client.send("continue", json!({ "threadId": 1 })).await;
    let asked = server.received("continue").await;
    server.stop_at(worker, "breakpoint", &Value::Null);
    assert_eq!(client.response(seq).await["success"], true);
    assert_eq!(client.stopped().await.thread, worker);

    // What pydevd says later is for nobody, and the next one is answered for itself.
    server.respond(&asked, &json!({ "allThreadsContinued": true }));
    let seq = client.send("continue", json!({ "threadId": worker })).await;
    let asked = server.received("continue").await;
    server.event(
        "continued",
        &json!({ "threadId": worker, "allThreadsContinued": true }),
    );
    server.respond(&asked, &json!({ "allThreadsContinued": true }));
    assert_eq!(client.response(seq).await["success"], true);
    client.event("continued").await;
}

#[tokio::test]
async fn a_running_thread_is_not_stepped() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    client
        .event_where("thread", |body| body["threadId"] == worker)
        .await;
    let commands = [
        "next",
        "stepIn",
        "stepOut",
        "goto",
        "stepInTargets",
        "exceptionInfo",
    ];
    for command in commands {
        for thread in [1, worker] {
            let response = client
                .try_request(
                    command,
                    json!({ "threadId": thread, "targetId": 0, "frameId": 1 }),
                )
                .await;
            assert_eq!(response["success"], false, "{response}");
            assert_eq!(response["message"], "notStopped", "{response}");
            let detail = response["body"]["error"]["format"].as_str();
            assert!(
                detail.is_some_and(|text| text.contains("running")),
                "{response}"
            );
        }
        assert_eq!(server.count(command), 0);
    }
    // At the next stop nothing happens that was refused, and now they are all possible.
    server.place(1, &[(PATH, 10)]);
    server.stop_at(1, "breakpoint", &Value::Null);
    client.stopped_at(10).await;
    for command in commands {
        let arguments = json!({ "threadId": 1, "targetId": 0, "frameId": 1 });
        client.request(command, arguments).await;
        if command.starts_with("step") && command != "stepInTargets" || command == "next" {
            assert_eq!(client.stopped().await.reason, "step");
        }
    }
    // All threads are stopped, the other one too.
    client.request("next", json!({ "threadId": worker })).await;
    assert_eq!(client.stopped().await.thread, worker);
}

#[tokio::test]
async fn where_threads_stop_one_by_one_only_those_are_stepped() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    client
        .event_where("thread", |body| body["threadId"] == worker)
        .await;
    server.stop_at(worker, "breakpoint", &json!({ "allThreadsStopped": false }));
    assert_eq!(client.stopped().await.thread, worker);
    assert_eq!(
        client.refused("next", json!({ "threadId": 1 })).await,
        "notStopped"
    );
    client.step("next", worker).await;
    server.received("next").await;
    client.stopped().await;
}

#[tokio::test]
async fn pause_of_a_stopped_process_tells_the_stop_again_to_who_asks() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let mut other = Client::of_process(&daemon).named("other").attached().await;
    server.stop_at(1, "exception", &json!({ "text": "ValueError" }));
    let stopped = client.stopped().await;
    other.stopped().await;
    client.step("pause", 1).await;
    assert_eq!(client.stopped().await.body, stopped.body);
    other.no_more("stopped").await;
    assert_eq!(server.count("pause"), 0);

    client.continue_(1).await;
    other.event("continued").await;
    client.step("pause", 1).await;
    assert_eq!(client.stopped().await.reason, "pause");
    assert_eq!(other.stopped().await.reason, "pause");
    assert_eq!(server.count("pause"), 1);
}

#[tokio::test]
async fn what_pydevd_would_never_answer_does_not_reach_it() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let unanswered = [
        "breakpointLocations",
        "cancel",
        "dataBreakpointInfo",
        "disassemble",
        "loadedSources",
        "locations",
        "readMemory",
        "restart",
        "restartFrame",
        "reverseContinue",
        "runInTerminal",
        "setDataBreakpoints",
        "setInstructionBreakpoints",
        "startDebugging",
        "stepBack",
        "terminateThreads",
        "writeMemory",
        // These it would answer, and they are not for clients.
        "launch",
        "attach",
        "initialize",
        "pydevdAuthorize",
        "nonsense",
        "",
    ];
    for stopped in [false, true] {
        if stopped {
            server.stop_at(1, "breakpoint", &Value::Null);
            client.stopped().await;
        }
        client.threads().await;
        let before = server.requests().len();
        for command in unanswered {
            let arguments =
                json!({ "threadId": 1, "frameId": 1, "source": { "path": PATH }, "line": 1 });
            let why = client.refused(command, arguments).await;
            assert!(!why.is_empty(), "{command}");
        }
        client.threads().await;
        let requests = server.requests().split_off(before);
        assert_eq!(requests.len(), 1, "only `threads`: {requests:?}");
    }
}

// What a newcomer is told.

#[tokio::test]
async fn a_newcomer_is_told_what_there_is_in_order() {
    let daemon = Daemon::start().await;
    let (server, mut first) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    for text in ["one\n", "two\n"] {
        server.output("stdout", text);
    }
    server.stop_at(worker, "exception", &json!({ "text": "ValueError" }));
    let stopped = first.stopped().await;

    let mut newcomer = Client::of_process(&daemon)
        .named("newcomer")
        .attached()
        .await;
    assert_eq!(newcomer.stopped().await.body, stopped.body);
    assert_eq!(
        told(&newcomer),
        [
            "configurationDone",
            "attach",
            "process",
            "thread",
            "thread",
            "output",
            "output",
            "stopped"
        ]
    );
    assert_eq!(
        newcomer.event("process").await["systemProcessId"],
        5_000_000
    );
    let threads = newcomer.events("thread").await;
    assert_eq!(
        threads,
        [1, worker].map(|thread| json!({ "reason": "started", "threadId": thread }))
    );
    let output = newcomer.events("output").await;
    let output: Vec<&str> = output
        .iter()
        .filter_map(|body| body["output"].as_str())
        .collect();
    assert!(output.ends_with(&["one\n", "two\n"]), "{output:?}");

    // Then it is as if it had always been there.
    newcomer.continue_(worker).await;
    first.event("continued").await;
    newcomer.event("continued").await;
    server.output("stdout", "three\n");
    for client in [&mut first, &mut newcomer] {
        client
            .event_where("output", |body| body["output"] == "three\n")
            .await;
        client.no_more("stopped").await;
    }
}

#[tokio::test]
async fn a_newcomer_is_told_of_one_stop_where_all_threads_stop_together() {
    let daemon = Daemon::start().await;
    let (server, mut first) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    // The second stop takes the place of the first: it is the one that pydevd tells as a stop of all.
    for (thread, reason) in [(1, "breakpoint"), (worker, "step")] {
        server.stop_at(thread, reason, &Value::Null);
        first.stopped().await;
    }
    let mut newcomer = Client::of_process(&daemon).attached().await;
    let stopped = newcomer.stopped().await;
    assert_eq!((stopped.thread, &*stopped.reason), (worker, "step"));
    assert_eq!(stopped.body["allThreadsStopped"], true);
    newcomer.no_more("stopped").await;

    newcomer.continue_(worker).await;
    newcomer.event("continued").await;
    let mut latest = Client::of_process(&daemon).attached().await;
    latest.no_more("stopped").await;
}

#[tokio::test]
async fn a_newcomer_is_told_of_every_stop_where_threads_stop_one_by_one() {
    let daemon = Daemon::start().await;
    let (server, mut first) = debugged(&daemon).await;
    let alone = json!({ "allThreadsStopped": false });
    let threads: Vec<i64> = (0..4)
        .map(|number| server.start_thread(&format!("worker {number}")))
        .collect();
    for (thread, reason) in threads
        .iter()
        .zip(["breakpoint", "exception", "step", "pause"])
    {
        server.stop_at(*thread, reason, &alone);
        first.stopped().await;
    }
    server.event(
        "continued",
        &json!({ "threadId": threads[1], "allThreadsContinued": false }),
    );
    first.event("continued").await;
    server.end_thread(threads[2]);
    first
        .event_where("thread", |body| body["reason"] == "exited")
        .await;

    let mut newcomer = Client::of_process(&daemon).attached().await;
    let stops = newcomer.events("stopped").await;
    let stops: Vec<(Option<i64>, &str)> = stops
        .iter()
        .map(|body| {
            (
                body["threadId"].as_i64(),
                body["reason"].as_str().expect("it has one"),
            )
        })
        .collect();
    assert_eq!(
        stops,
        [
            (Some(threads[0]), "breakpoint"),
            (Some(threads[3]), "pause")
        ]
    );
}

#[tokio::test]
async fn a_thread_that_has_ended_is_known_to_nobody() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    let worker = server.start_thread("worker");
    client
        .event_where("thread", |body| body["threadId"] == worker)
        .await;
    client.stack(worker).await;
    let sessions = async |client: &mut Client| {
        client.request("dbgproxy/sessions", Value::Null).await["sessions"][0].take()
    };

    server.stop_at(worker, "breakpoint", &json!({ "allThreadsStopped": false }));
    client.stopped().await;
    let stopped = sessions(&mut client).await;
    assert_eq!(
        (&stopped["state"], &stopped["stopped"]["thread"]),
        (&json!("stopped"), &json!(worker))
    );

    server.end_thread(worker);
    let ended = client
        .event_where("thread", |body| body["reason"] == "exited")
        .await;
    assert_eq!(ended["threadId"], worker);
    assert_eq!(sessions(&mut client).await["state"], "running");
    for command in ["stackTrace", "next", "exceptionInfo"] {
        let before = server.count(command);
        let why = client.refused(command, json!({ "threadId": worker })).await;
        assert!(why.contains(&format!("no thread {worker}")), "{why}");
        assert_eq!(server.count(command), before);
    }
    let mut newcomer = Client::of_process(&daemon).attached().await;
    assert_eq!(
        newcomer.events("thread").await,
        [json!({ "reason": "started", "threadId": 1 })]
    );
    newcomer.no_more("stopped").await;
}

#[tokio::test]
async fn the_list_of_sessions_says_where_a_process_is_stopped() {
    let daemon = Daemon::start().await;
    let (server, mut client) = debugged(&daemon).await;
    server.place(1, &[(PATH, 7), (PATH, 1)]);
    server.stop_at(1, "breakpoint", &Value::Null);
    client.stopped().await;
    for _ in 0..2 {
        let sessions = client.request("dbgproxy/sessions", Value::Null).await;
        assert_eq!(
            sessions["sessions"][0]["stopped"],
            json!({ "thread": 1, "reason": "breakpoint", "file": PATH, "line": 7 })
        );
    }
    assert_eq!(server.count("stackTrace"), 1, "it is asked once a stop");
    client.continue_(1).await;
    client.event("continued").await;
    let sessions = client.request("dbgproxy/sessions", Value::Null).await;
    assert_eq!(sessions["sessions"][0]["state"], "running");
    assert_eq!(sessions["sessions"][0]["stopped"], Value::Null);
}

// The end in the middle.

#[tokio::test]
async fn each_request_is_answered_once_when_the_process_ends() {
    let daemon = Daemon::start().await;
    let (server, first) = debugged(&daemon).await;
    let mut clients = vec![first];
    for name in ["second", "third"] {
        clients.push(Client::of_process(&daemon).named(name).attached().await);
    }
    server.stop_at(1, "breakpoint", &Value::Null);
    for client in &mut clients {
        client.stopped().await;
    }
    let asked = [
        ("evaluate", json!({ "expression": "1", "frameId": 1 })),
        ("variables", json!({ "variablesReference": 1 })),
        ("scopes", json!({ "frameId": 1 })),
        ("stackTrace", json!({ "threadId": 1 })),
        (
            "setBreakpoints",
            json!({ "source": { "path": PATH }, "breakpoints": [{ "line": 1 }] }),
        ),
        ("setExceptionBreakpoints", json!({ "filters": [] })),
        ("continue", json!({ "threadId": 1 })),
    ];
    for (command, _) in &asked {
        server.on(command, |_| Answer::Silence);
    }
    let (mut owed, mut continues) = (vec![Vec::new(); 3], Vec::new());
    for number in 0..18 {
        let (command, arguments) = &asked[number % 6];
        let at = number % 3;
        owed[at].push(clients[at].send(command, arguments.clone()).await);
    }
    // One of these is passed on, the others are answered at once: both ways it is a success.
    for client in &mut clients {
        continues.push(client.send("continue", asked[6].1.clone()).await);
    }
    for (command, count) in [("evaluate", 3), ("setBreakpoints", 3), ("continue", 1)] {
        for _ in 0..count {
            server.received(command).await;
        }
    }
    server.close();
    for ((client, owed), continued) in clients.iter_mut().zip(&owed).zip(continues) {
        for seq in owed {
            let response = client.response(*seq).await;
            assert_eq!(response["success"], false, "{response}");
            let why = response["message"].as_str().expect("a failure says why");
            assert!(why.contains("ended"), "{why}");
        }
        assert_eq!(client.response(continued).await["success"], true);
        client.event("terminated").await;
    }
    for mut client in clients {
        // Afterwards there is nothing any more, and that is said.
        assert!(client.threads().await.is_empty());
        assert!(
            client
                .refused("evaluate", json!({ "expression": "1" }))
                .await
                .contains("ended")
        );
        client.no_more("terminated").await;
        // The harness fails here where anything is unanswered, and before where it was answered twice.
        client.disconnect().await;
    }
}

#[tokio::test]
async fn a_process_that_ends_while_a_client_configures_ends_its_attach_well() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_001).connect(&daemon).await;
    server.released().await;
    let mut client = Client::start(&daemon).connected().await;
    let attach = client.send("attach", json!({ "view": "process" })).await;
    client.initialized(attach).await;
    server.finish();
    assert_eq!(client.response(attach).await["success"], true);
    client.event("terminated").await;
    // It goes on with its sequence, as all do.
    client
        .refused("setBreakpoints", json!({ "source": { "path": PATH } }))
        .await;
    client.refused("configurationDone", Value::Null).await;
    client.disconnect().await;
}
