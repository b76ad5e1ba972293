//! Following sessions: the same events over DAP and HTTP, in order, for who keeps up and for who does not.

mod support;

use std::sync::Arc;

use serde_json::{Value, json};
use support::http::Events;
use support::wait::within;
use support::{Answer, Client, Daemon, DebugServer};
use tokio::sync::Notify;

const EVENT: &str = "dbgproxy/session";

/// A client that follows, and has no process in view.
async fn follower(daemon: &Daemon) -> Client {
    let mut client = Client::bystander(daemon).await;
    let body = client.request("dbgproxy/subscribe", Value::Null).await;
    assert_eq!(body, json!({}));
    client
}

async fn process(daemon: &Daemon, pid: i64, report: &Value) -> DebugServer {
    let server = DebugServer::new(pid)
        .reporting(report)
        .connect(daemon)
        .await;
    server.released().await;
    server
}

/// What happened, and how the session stood then.
fn brief(event: &Value) -> (String, String) {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&event["reason"]), text(&event["session"]["state"]))
}

#[tokio::test]
async fn what_happens_to_a_session_comes_in_order() {
    let daemon = Daemon::start().await;
    let mut stream = Events::follow(&daemon).await;
    let mut client = follower(&daemon).await;
    let server = process(&daemon, 5_000_001, &json!({ "name": "worker-1" })).await;
    daemon.verb("pause", json!({})).await;
    daemon.verb("continue", json!({})).await;
    server.finish();

    let mut events = Vec::new();
    while events
        .last()
        .is_none_or(|event: &Value| event["reason"] != "closed")
    {
        let event = stream.next().await.expect("the daemon runs");
        assert_eq!(client.event(EVENT).await, event);
        events.push(event);
    }
    client.no_more(EVENT).await;
    let all: Vec<_> = events.iter().map(brief).collect();
    let expected = [
        ("opened", "starting"),
        ("changed", "running"),
        ("changed", "stopped"),
        // Its place is known once somebody has asked.
        ("changed", "stopped"),
        ("changed", "running"),
        ("closed", "ended"),
    ];
    let expected = expected.map(|(reason, state)| (reason.to_owned(), state.to_owned()));
    assert_eq!(all, expected);
    for event in &events {
        let session = &event["session"];
        assert_eq!(
            (&session["pid"], &session["name"], &session["id"]),
            (
                &json!(5_000_001),
                &json!("worker-1"),
                &events[0]["session"]["id"]
            )
        );
        for field in [
            "parent", "labels", "stopped", "started", "ended", "exit", "helper", "clients",
            "python", "argv",
        ] {
            assert!(session.get(field).is_some(), "no {field}: {session}");
        }
    }
    assert_eq!(events[3]["session"]["stopped"]["file"], "/srv/script.py");
    assert_ne!(events[5]["session"]["ended"], Value::Null);
    // The last event of a session is what the list has of it.
    let listed = daemon.sessions(&["--all"]).await;
    assert_eq!(listed[0], events[5]["session"]);
}

#[tokio::test]
async fn twice_is_once() {
    let daemon = Daemon::start().await;
    let mut client = follower(&daemon).await;
    client.request("dbgproxy/subscribe", json!({})).await;
    let server = process(&daemon, 5_000_001, &Value::Null).await;
    server.finish();
    let closed = |body: &Value| body["reason"] == "closed";
    client.event_where(EVENT, closed).await;
    let rest = client.events(EVENT).await;
    let rest: Vec<_> = rest.iter().map(brief).collect();
    let opened = rest.iter().filter(|(reason, _)| reason == "opened");
    assert_eq!(opened.count(), 1, "{rest:?}");
    assert!(!rest.iter().any(|(reason, _)| reason == "closed"));
}

#[tokio::test]
async fn who_may_follow() {
    let daemon = Daemon::start().await;
    // Nobody who has not attached.
    let mut client = Client::start(&daemon).connected().await;
    let why = client.refused("dbgproxy/subscribe", json!({})).await;
    assert!(why.contains("before \"attach\""), "{why}");
    // An observer, too.
    let observer = json!({ "role": "observer", "view": "merged" });
    let mut client = Client::start(&daemon).arguments(&observer).attached().await;
    let why = client
        .refused("dbgproxy/subscribe", json!({ "selector": "all" }))
        .await;
    assert!(why.contains("\"selector\""), "{why}");
    client.request("dbgproxy/subscribe", json!({})).await;
    // And a client that waits for its process.
    let mut waiting = Client::start(&daemon).connected().await;
    waiting.send("attach", json!({ "view": "process" })).await;
    waiting.event("debugpyWaitingForServer").await;
    waiting.request("dbgproxy/subscribe", json!({})).await;
    // It is held for the one that waits.
    let _server = DebugServer::new(5_000_001).connect(&daemon).await;
    for client in [&mut client, &mut waiting] {
        assert_eq!(client.event(EVENT).await["reason"], "opened");
    }
}

#[tokio::test]
async fn the_end_of_the_daemon_is_the_end_of_the_events() {
    let daemon = Daemon::start().await;
    let mut stream = Events::follow(&daemon).await;
    let mut client = follower(&daemon).await;
    let _server = process(&daemon, 5_000_001, &Value::Null).await;
    daemon.verb("shutdown", json!({})).await;
    let mut last = Value::Null;
    while let Some(event) = stream.next().await {
        last = event;
    }
    assert_eq!(last["session"]["pid"], 5_000_001);
    client.closed().await;
    daemon.ended().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_too_slow_is_told_how_much_was_missed() {
    // So large that the buffers of the system hold few events, and just what is kept of a report.
    let filler = "x".repeat(4_000);
    let labels = format!("filler={filler}");
    let report = json!({
        "argv": [filler, filler, filler, filler],
        "environment": { "DBGPROXY_LABELS": labels },
    });
    const STOPS: usize = 1200;
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, &report).await;
    while daemon.sessions(&["state=running"]).await.is_empty() {}
    let mut stream = Events::follow(&daemon).await;
    let mut client = follower(&daemon).await;
    // Nobody watches: each stop is a change, and the resuming another.
    let resumed = Arc::new(Notify::new());
    let notify = resumed.clone();
    server.on("continue", move |_| {
        notify.notify_one();
        Answer::Usual
    });
    for _ in 0..STOPS {
        server.stop_at(server.main_thread, "breakpoint", &Value::Null);
        within("the process to be resumed", resumed.notified()).await;
    }
    server.finish();
    while !daemon.sessions(&[]).await.is_empty() {}

    let mut came = (0, 0);
    let mut closed = false;
    while !closed {
        let event = stream.next().await.expect("the daemon runs");
        closed = count(&event, &mut came);
    }
    assert_eq!(came.0 + came.1, 2 * STOPS as u64 + 1);
    assert_ne!(came.1, 0, "the stream has missed nothing");

    // Also who has missed the very last is told so.
    let mut came = (0, 0);
    while came.0 + came.1 < 2 * STOPS as u64 + 1 {
        count(&client.event(EVENT).await, &mut came);
    }
    assert_eq!(came.0 + came.1, 2 * STOPS as u64 + 1);
    assert_ne!(came.1, 0, "the client has missed nothing");
    // And from then on it misses nothing more.
    let _other = process(&daemon, 5_000_002, &Value::Null).await;
    assert_eq!(client.event(EVENT).await["reason"], "opened");
}

/// Counts what came and what was missed; whether it was the end.
fn count(event: &Value, (came, missed): &mut (u64, u64)) -> bool {
    if event["reason"] == "missed" {
        *missed += event["count"].as_u64().expect("it is a number");
        false
    } else {
        *came += 1;
        event["reason"] == "closed"
    }
}

#[tokio::test]
async fn followers_that_leave_leave_nothing() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, &Value::Null).await;
    let files = || {
        let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid()));
        files.expect("it runs").count()
    };
    let before = files();
    for number in 0..100 {
        let stream = Events::follow(&daemon).await;
        let client = follower(&daemon).await;
        if number % 2 == 0 {
            client.kill();
        } else {
            client.disconnect().await;
        }
        drop(stream);
    }
    while daemon.verb("info", json!({})).await.1["clients"] != 0 {}
    let gone = async {
        // A stream is noticed to be gone when there is something to write.
        while files() > before + 1 {
            server.stop_at(server.main_thread, "breakpoint", &Value::Null);
            server.received("continue").await;
        }
    };
    within("the streams to be closed", gone).await;
    daemon.stop().await;
}
