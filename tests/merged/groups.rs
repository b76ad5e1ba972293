//! Processes that stop and run on together.

use serde_json::{Value, json};

use super::support::wait::within;
use super::support::{Answer, Client, Daemon, DebugServer};
use super::{PATH, merged, process, thread_of};

#[tokio::test]
async fn a_group_stops_and_runs_together() {
    let daemon = Daemon::start().await;
    let mut servers = Vec::new();
    for pid in 0..3 {
        servers.push(process(&daemon, 5_000_000 + pid).await);
    }
    let mut client = merged(&daemon, &json!({ "stopPolicy": "group" }))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    client.threads().await;
    for server in &servers {
        assert!(server.reach(PATH, 3));
        let first = client.stopped().await;
        assert_eq!(
            (&*first.reason, &first.body["preserveFocusHint"]),
            ("breakpoint", &json!(false))
        );
        for _ in 0..2 {
            let other = client.stopped().await;
            assert_eq!(
                (&*other.reason, &other.body["preserveFocusHint"]),
                ("pause", &json!(true))
            );
            assert_ne!(other.thread, first.thread);
        }
        client.continue_(first.thread).await;
        for _ in 0..3 {
            client.event("continued").await;
        }
    }
    client.no_more("stopped").await;

    // One whose pause comes only when all run on is not left behind.
    servers[1].on("pause", |_| Answer::Silence);
    assert!(servers[0].reach(PATH, 3));
    let first = client.stopped().await;
    client.stopped().await;
    // It was paused twice before; this is the third time.
    for _ in 0..3 {
        servers[1].received("pause").await;
    }
    client.continue_(first.thread).await;
    let before = servers[1].count("continue");
    servers[1].stop_at(servers[1].main_thread, "pause", &Value::Null);
    let continued = async {
        while servers[1].count("continue") == before {
            servers[1].received("continue").await;
        }
    };
    within("it to be let go", continued).await;
    client.no_more("stopped").await;
    client.disconnect().await;
}

/// Three processes and a client that has them as a group, with a breakpoint on line 3.
async fn group(daemon: &Daemon) -> (Vec<DebugServer>, Client) {
    let mut servers = Vec::new();
    for pid in 0..3 {
        servers.push(process(daemon, 5_000_000 + pid).await);
    }
    let mut client = merged(daemon, &json!({ "stopPolicy": "group" }))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    client.threads().await;
    (servers, client)
}

/// The first process reaches its breakpoint, and all of the group stop; gives its thread.
async fn stop_all(servers: &[DebugServer], client: &mut Client) -> i64 {
    assert!(servers[0].reach(PATH, 3));
    let first = client.stopped_at(3).await;
    for _ in 1..servers.len() {
        assert_eq!(client.stopped().await.reason, "pause");
    }
    first.thread
}

/// Waits until a process has been sent so many requests of a command.
async fn count(server: &DebugServer, command: &str, number: usize) {
    let there = async {
        while server.count(command) < number {
            tokio::task::yield_now().await;
        }
    };
    within(&format!("{number} requests {command}"), there).await;
}

#[tokio::test]
async fn who_comes_while_the_group_is_stopped_is_paused_before_it_runs() {
    let daemon = Daemon::start().await;
    let (mut servers, mut client) = group(&daemon).await;
    stop_all(&servers, &mut client).await;
    let server = process(&daemon, 5_000_003).await;
    let commands: Vec<Value> = server
        .requests()
        .iter()
        .map(|request| request["command"].clone())
        .collect();
    let at = |name: &str| commands.iter().position(|command| command == name);
    assert!(at("setBreakpoints") < at("pause"), "{commands:?}");
    assert!(at("pause") < at("configurationDone"), "{commands:?}");
    let stopped = client.stopped().await;
    assert_eq!(
        (&*stopped.reason, &stopped.body["preserveFocusHint"]),
        ("pause", &json!(true))
    );
    assert_eq!(stopped.thread, thread_of(&mut client, 5_000_003).await);
    servers.push(server);

    // It runs on with the others, whichever is named; and who comes then is not paused.
    client.continue_(stopped.thread).await;
    for _ in &servers {
        client.event("continued").await;
    }
    let later = process(&daemon, 5_000_004).await;
    client.threads().await;
    assert_eq!(later.count("pause"), 0);
    client.no_more("stopped").await;
    client.disconnect().await;
}

#[tokio::test]
async fn a_step_in_a_stopped_group_is_of_one_process_alone() {
    let daemon = Daemon::start().await;
    let (servers, mut client) = group(&daemon).await;
    let thread = stop_all(&servers, &mut client).await;
    client.step("next", thread).await;
    assert_eq!(client.stopped().await.reason, "step");
    // One that takes its time runs by itself, and is not paused for another's stop or coming.
    servers[0].on("next", |_| Answer::Body(json!({})));
    client.step("next", thread).await;
    let running = json!({ "threadId": servers[0].main_thread, "allThreadsContinued": true });
    servers[0].event("continued", &running);
    client.event("continued").await;
    client.event("continued").await;
    let other = thread_of(&mut client, 5_000_001).await;
    client.step("next", other).await;
    assert_eq!(client.stopped().await.reason, "step");
    let late = process(&daemon, 5_000_003).await;
    late.received("pause").await;
    assert_eq!(client.stopped().await.reason, "pause");
    assert_eq!(servers[0].count("pause"), 0);
    for server in &servers {
        assert_eq!(server.count("continue"), 0);
    }
    // Its stop is a stop like any other.
    servers[0].stop_at(servers[0].main_thread, "step", &Value::Null);
    assert_eq!(client.stopped().await.thread, thread);
    client.no_more("stopped").await;
    assert_eq!(servers[1].count("pause") + servers[2].count("pause"), 2);
    client.disconnect().await;
}

#[tokio::test]
async fn a_step_out_of_a_thread_does_not_let_its_process_run() {
    let daemon = Daemon::start().await;
    let (servers, mut client) = group(&daemon).await;
    let server = &servers[0];
    let native = server.start_thread("worker");
    let started = client.event_where("thread", |body| body["reason"] == "started");
    let mut started = started.await;
    while !client.threads().await[&started["threadId"].as_i64().expect("a number")]
        .ends_with("worker")
    {
        started = client.event("thread").await;
    }
    let worker = started["threadId"].as_i64().expect("a number");
    server.stop_at(native, "breakpoint", &Value::Null);
    for _ in 0..4 {
        client.stopped().await;
    }
    server.on("next", |_| Answer::Body(json!({})));
    client.step("next", worker).await;
    let running = json!({ "threadId": native, "allThreadsContinued": true });
    server.event("continued", &running);
    server.end_thread(native);
    server.received("pause").await;
    assert_eq!(client.stopped().await.reason, "pause");
    assert_eq!(server.count("continue"), 0);
    client.disconnect().await;
}

#[tokio::test]
async fn a_continue_is_of_all_wherever_they_are() {
    let daemon = Daemon::start().await;
    let (servers, mut client) = group(&daemon).await;
    // The third is slow to stop, and has not yet when all run on; a thread of it ends meanwhile.
    let worker = servers[2].start_thread("worker");
    servers[2].on("pause", |_| Answer::Body(json!({})));
    assert!(servers[0].reach(PATH, 3));
    let first = client.stopped().await;
    client.stopped().await;
    servers[2].received("pause").await;
    servers[2].end_thread(worker);
    client
        .event_where("thread", |body| body["reason"] == "exited")
        .await;
    client.continue_(first.thread).await;
    for _ in 0..2 {
        client.event("continued").await;
    }
    servers[2].stop_at(servers[2].main_thread, "pause", &Value::Null);
    servers[2].received("continue").await;
    client.no_more("stopped").await;

    // Its own breakpoint meanwhile is a stop that lasts, and the pause that comes late is none.
    assert!(servers[0].reach(PATH, 3));
    let first = client.stopped().await;
    client.stopped().await;
    servers[2].received("pause").await;
    assert!(servers[2].reach(PATH, 3));
    let third = client.stopped().await;
    assert_eq!(third.reason, "breakpoint");
    servers[2].stop_at(servers[2].main_thread, "pause", &Value::Null);
    // What the process itself answers comes behind that.
    client.stack(third.thread).await;
    client.no_more("stopped").await;
    client.continue_(third.thread).await;
    for _ in 0..3 {
        client.event("continued").await;
    }
    client.no_more("stopped").await;
    assert_eq!(first.thread, thread_of(&mut client, 5_000_000).await);
    client.disconnect().await;
}

#[tokio::test]
async fn one_that_is_about_to_run_on_is_paused_all_the_same() {
    let daemon = Daemon::start().await;
    let (servers, mut client) = group(&daemon).await;
    let thread = stop_all(&servers, &mut client).await;
    // The second has not said that it runs when the first stops again.
    servers[1].on("continue", |_| Answer::Silence);
    client.continue_(thread).await;
    let asked = servers[1].received("continue").await;
    for _ in 0..2 {
        client.event("continued").await;
    }
    assert!(servers[0].reach(PATH, 3));
    assert_eq!(client.stopped().await.reason, "breakpoint");
    assert_eq!(client.stopped().await.reason, "pause");
    // A pause that overtook its running on would take it back, and it would say nothing.
    client.no_more("stopped").await;
    assert_eq!(servers[1].count("pause"), 1);
    servers[1].event(
        "continued",
        &json!({ "threadId": 1, "allThreadsContinued": true }),
    );
    servers[1].respond(&asked, &json!({ "allThreadsContinued": true }));
    client.event("continued").await;
    count(&servers[1], "pause", 2).await;
    let stopped = client.stopped().await;
    assert_eq!(stopped.thread, thread_of(&mut client, 5_000_001).await);
    assert_eq!(stopped.body["preserveFocusHint"], true);
    client.disconnect().await;
}

#[tokio::test]
async fn a_pause_by_the_client_is_not_undone() {
    let daemon = Daemon::start().await;
    let (servers, mut client) = group(&daemon).await;
    servers[2].on("pause", |_| Answer::Body(json!({})));
    assert!(servers[0].reach(PATH, 3));
    let first = client.stopped().await;
    client.stopped().await;
    servers[2].received("pause").await;
    client.continue_(first.thread).await;
    for _ in 0..2 {
        client.event("continued").await;
    }
    let third = thread_of(&mut client, 5_000_002).await;
    client.step("pause", third).await;
    servers[2].stop_at(servers[2].main_thread, "pause", &Value::Null);
    let stopped = client.stopped().await;
    assert_eq!((stopped.thread, &*stopped.reason), (third, "pause"));
    assert_eq!(stopped.body["preserveFocusHint"], false);
    for _ in 0..2 {
        assert_eq!(client.stopped().await.body["preserveFocusHint"], true);
    }
    assert_eq!(servers[2].count("continue"), 0);
    client.disconnect().await;
}

#[tokio::test]
async fn a_group_whose_stopped_process_has_gone_is_not_stopped() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({ "stopPolicy": "group" }))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    let alone = process(&daemon, 5_000_000).await;
    assert!(alone.reach(PATH, 3));
    client.stopped().await;
    alone.finish();
    client
        .event_where("thread", |body| body["reason"] == "exited")
        .await;
    alone.closed().await;
    let next = process(&daemon, 5_000_001).await;
    client.threads().await;
    assert_eq!(next.count("pause"), 0);
    client.disconnect().await;
}
