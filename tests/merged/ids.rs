//! What an id of the session stands for, and for how long.

use serde_json::{Value, json};

use super::support::{Answer, Daemon};
use super::{PATH, merged, process, thread_of, top};

#[tokio::test]
async fn ids_of_processes_that_number_alike_never_mix() {
    let daemon = Daemon::start().await;
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    let pids = [5_000_001, 5_000_002];
    let mut servers = Vec::new();
    let mut shown = Vec::new();
    for pid in pids {
        let server = process(&daemon, pid).await;
        server.set_local(server.main_thread, "n", &pid.to_string());
        let changed = client.event_where("thread", |body| body["reason"] == "started");
        let thread = changed.await["threadId"].as_i64().expect("a number");
        assert!(server.reach(PATH, 3));
        let stopped = client.stopped_at(3).await;
        assert_eq!(stopped.thread, thread);
        assert_eq!(
            stopped.body["hitBreakpointIds"],
            json!([client.breakpoints[0]["id"]])
        );
        let (frame, variables) = top(&mut client, thread).await;
        shown.push((thread, frame, variables));
        servers.push(server);
    }
    for ((thread, frame, _), pid) in shown.iter().zip(pids) {
        assert_eq!(client.evaluate("n", frame).await, pid.to_string());
        assert_eq!(client.locals(frame).await["n"], pid.to_string());
        assert_eq!(thread_of(&mut client, pid).await, *thread);
    }
    let (one, other) = (&shown[0], &shown[1]);
    let both = json!({ "threadId": one.0, "frameId": other.1["id"] });
    let why = client.refused("exceptionInfo", both).await;
    assert!(why.contains("different processes"), "{why}");

    // What belonged to the stop of one is gone at once when it runs; the other's stays.
    client.continue_(one.0).await;
    let scopes = json!({ "frameId": one.1["id"] });
    client.refused("scopes", scopes.clone()).await;
    let variables = json!({ "variablesReference": one.2 });
    client.refused("variables", variables.clone()).await;
    assert!(servers[0].reach(PATH, 3));
    client.stopped().await;
    client.refused("scopes", scopes).await;
    client.refused("variables", variables).await;
    assert_eq!(client.evaluate("n", &other.1).await, "5000002");

    // Nobody's thread, and no thread at all.
    let nobody = json!({ "threadId": 999_999 });
    for command in ["continue", "next", "pause", "stackTrace"] {
        client.refused(command, nobody.clone()).await;
        client.refused(command, json!({ "threadId": 0 })).await;
    }
    client
        .refused("continue", json!({ "threadId": one.1["id"] }))
        .await;
    client.disconnect().await;
}

#[tokio::test]
async fn a_step_of_a_running_thread_is_refused_without_its_own_number() {
    let daemon = Daemon::start().await;
    let _server = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    let thread = thread_of(&mut client, 5_000_001).await;
    let refusal = client
        .try_request("next", json!({ "threadId": thread }))
        .await;
    assert_eq!(refusal["message"], "notStopped");
    client.disconnect().await;
}

#[tokio::test]
async fn an_answer_of_the_wrong_shape_harms_nobody() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    let thread = thread_of(&mut client, 5_000_001).await;
    server.stop_at(server.main_thread, "pause", &Value::Null);
    client.stopped().await;
    server.on("continue", |_| Answer::Body(json!("yes")));
    client.continue_(thread).await;
    server.on("setBreakpoints", |_| {
        Answer::Body(json!({ "breakpoints": [1, null, "x"] }))
    });
    let verdicts = client.set_breakpoints(PATH, &[json!({ "line": 3 })]).await;
    assert_eq!(verdicts[0]["verified"], false);
    client.disconnect().await;
}

// Threads.

#[tokio::test]
async fn a_thread_that_starts_while_all_are_stopped_is_stopped_too() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    server.stop_at(server.main_thread, "breakpoint", &Value::Null);
    let first = client.stopped().await.thread;
    let native = server.start_thread("late");
    let started = client.event_where("thread", |body| body["threadId"] != first);
    let late = started.await["threadId"].clone();
    let stopped = client.stopped().await;
    assert_eq!(late, stopped.thread);
    assert_eq!(stopped.body["preserveFocusHint"], true);
    assert!(client.threads().await[&stopped.thread].ends_with("late"));
    // It is asked like the others, and runs on with them.
    let stack = client.stack(stopped.thread).await;
    client.continue_(first).await;
    let mut running = [
        client.event("continued").await,
        client.event("continued").await,
    ];
    running.sort_by_key(|body| body["threadId"].as_i64());
    assert_eq!(
        (&running[0]["threadId"], &running[1]["threadId"]),
        (&json!(first), &late)
    );
    client
        .refused("scopes", json!({ "frameId": stack[0]["id"] }))
        .await;
    // One that starts while they run is not.
    server.end_thread(native);
    server.start_thread("later");
    client.no_more("stopped").await;
    client.disconnect().await;
}

#[tokio::test]
async fn threads_that_stop_one_by_one_keep_what_is_their_own() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    let second = server.start_thread("second");
    let mut client = merged(&daemon, &json!({ "stopAllThreadsOnSuspend": false }))
        .attached()
        .await;
    // The first was the daemon's own.
    server.received("attach").await;
    let attach = server.received("attach").await;
    assert_eq!(attach["arguments"]["stopAllThreadsOnSuspend"], false);
    let alone = json!({ "allThreadsStopped": false });
    let mut shown = Vec::new();
    for thread in [server.main_thread, second] {
        server.stop_at(thread, "breakpoint", &alone);
        let stopped = client.stopped().await;
        let (frame, variables) = top(&mut client, stopped.thread).await;
        shown.push((stopped.thread, frame["id"].clone(), variables));
    }
    client.no_more("stopped").await;
    // One runs on; while it does, an answer about the other is under way.
    server.on("stackTrace", |_| Answer::Silence);
    let asked = client
        .send("stackTrace", json!({ "threadId": shown[1].0 }))
        .await;
    for _ in &shown {
        server.received("stackTrace").await;
    }
    let request = server.received("stackTrace").await;
    assert_eq!(request["arguments"]["threadId"], second);
    server.event(
        "continued",
        &json!({ "threadId": server.main_thread, "allThreadsContinued": false }),
    );
    let continued = client.event("continued").await;
    assert_eq!(continued["threadId"], shown[0].0);
    let frames = json!({ "stackFrames": [{ "id": 77, "name": "f", "line": 1, "column": 1 }] });
    server.respond(&request, &frames);
    let answer = client.response(asked).await;
    let frame = answer["body"]["stackFrames"][0]["id"].clone();
    server.on("scopes", |request| {
        let reference = request["arguments"]["frameId"].as_i64().unwrap_or_default() + 1;
        let scope =
            json!({ "name": "Locals", "variablesReference": reference, "expensive": false });
        Answer::Body(json!({ "scopes": [scope] }))
    });
    client.request("scopes", json!({ "frameId": frame })).await;
    client
        .request("scopes", json!({ "frameId": shown[1].1 }))
        .await;
    client
        .refused("scopes", json!({ "frameId": shown[0].1 }))
        .await;
    let refusal = client
        .try_request("next", json!({ "threadId": shown[0].0 }))
        .await;
    assert_eq!(refusal["message"], "notStopped");
    client.disconnect().await;
}

#[tokio::test]
async fn a_stop_that_names_no_thread_is_one_of_all() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001).await;
    server.start_thread("second");
    let mut client = merged(&daemon, &json!({})).attached().await;
    let threads = client.threads().await;
    server.event("stopped", &json!({ "reason": "pause" }));
    let stopped = [client.stopped().await, client.stopped().await];
    for (thread, stopped) in threads.keys().zip(&stopped) {
        assert_eq!(*thread, stopped.thread);
        assert_eq!(stopped.body["allThreadsStopped"], false);
    }
    // No thread has come of it.
    assert_eq!(client.threads().await, threads);
    server.event("continued", &json!({}));
    for thread in threads.keys() {
        assert_eq!(client.event("continued").await["threadId"], *thread);
    }
    client.disconnect().await;
}

// Bounds.

#[tokio::test]
async fn a_process_that_shows_too_much_harms_itself_alone() {
    const SHOWN: i64 = 70_000;
    let daemon = Daemon::start().await;
    let greedy = process(&daemon, 5_000_001).await;
    let other = process(&daemon, 5_000_002).await;
    let mut client = merged(&daemon, &json!({})).attached().await;
    for server in [&greedy, &other] {
        server.stop_at(server.main_thread, "breakpoint", &Value::Null);
    }
    let thread = thread_of(&mut client, 5_000_001).await;
    let (_, variables) = top(&mut client, thread).await;
    greedy.on("variables", |_| {
        let variable =
            |id: i64| json!({ "name": "v", "value": "v", "variablesReference": 100 + id });
        Answer::Body(json!({ "variables": (0..SHOWN).map(variable).collect::<Vec<_>>() }))
    });
    let arguments = json!({ "variablesReference": variables });
    let body = client.request("variables", arguments.clone()).await;
    let reference =
        |at: usize| json!({ "variablesReference": body["variables"][at]["variablesReference"] });
    let last = usize::try_from(SHOWN).expect("it is positive") - 1;
    greedy.on("variables", |_| Answer::Body(json!({ "variables": [] })));
    client.request("variables", reference(0)).await;
    client.refused("variables", reference(last)).await;
    // What was shown before is as it was, the other process is, and so is a thread that comes.
    client.request("variables", arguments).await;
    let theirs = thread_of(&mut client, 5_000_002).await;
    top(&mut client, theirs).await;
    greedy.start_thread("late");
    let named = |body: &Value| body["reason"] == "started";
    let late = client.event_where("thread", named).await;
    assert!(late["threadId"].is_number());
    client.continue_(thread).await;
    // It has room again.
    client.events("stopped").await;
    greedy.stop_at(greedy.main_thread, "breakpoint", &Value::Null);
    client.stopped().await;
    top(&mut client, thread).await;
    client.disconnect().await;
}
