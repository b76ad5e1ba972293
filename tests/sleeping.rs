//! Sleeping processes at their edges, played by scripts: who may say that it is which process, what is asked while
//! pydevd comes or goes, and what has come to nothing.

mod support;

use serde_json::{Value, json};
use support::agent::{Agent, ID, PID, hello, server};
use support::wire::frame;
use support::{Answer, Client, Daemon, DebugServer};

async fn all(daemon: &Daemon) -> Vec<Value> {
    let (_, mut body) = daemon.verb("sessions", json!({ "all": true })).await;
    match body["sessions"].take() {
        Value::Array(sessions) => sessions,
        other => panic!("{other}"),
    }
}

async fn state(daemon: &Daemon) -> Value {
    let (_, mut body) = daemon
        .verb("session", json!({ "selector": format!("id={ID}") }))
        .await;
    body["session"]["state"].take()
}

/// A process that slept until the bystander has asked it something.
async fn woken(daemon: &Daemon, bystander: &mut Client) -> (Agent, DebugServer) {
    let (mut agent, _) = Agent::start(daemon, &json!({})).await;
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    let server = agent.wakes(daemon).await;
    bystander.response(threads).await;
    (agent, server)
}

/// The one process that there is has answered the bystander.
async fn answered(bystander: &mut Client, seq: i64) {
    let body = bystander.response(seq).await["body"].take();
    assert_eq!(body["rows"][0]["success"], true, "{body}");
}

#[tokio::test]
async fn children_that_are_back_before_their_parents_get_behind_them() {
    let daemon = Daemon::start().await;
    let id = |number: i64| format!("8f14e45f-ceea-467f-a0e6-b1c5a1d2e3{number:02}");
    let back = |number: i64, parent: Value| {
        json!({
            "session": id(number), "pid": PID + number, "how": "reconnect", "parent": parent,
            "identity": format!("boot/1/{}/7", PID + number),
        })
    };
    let mut agents = Vec::new();
    // A grandchild, a child, somebody else, their ancestor, and another child.
    for (number, parent) in [
        (3, json!(id(2))),
        (2, json!(id(1))),
        (9, Value::Null),
        (1, Value::Null),
        (4, json!(id(1))),
    ] {
        agents.push(Agent::start(&daemon, &back(number, parent)).await);
    }
    let listed: Vec<(Value, Value)> = all(&daemon)
        .await
        .iter()
        .map(|session| (session["id"].clone(), session["parent"].clone()))
        .collect();
    let expected = [
        (9, None),
        (1, None),
        (2, Some(1)),
        (3, Some(2)),
        (4, Some(1)),
    ];
    let expected = expected.map(|(own, parent)| (json!(id(own)), json!(parent.map(id))));
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn nobody_takes_over_the_session_of_another_process() {
    let daemon = Daemon::start().await;
    let ours = json!({ "identity": "boot/1/5000000/7" });
    let (_agent, welcome) = Agent::start(&daemon, &ours).await;
    assert_eq!(welcome["session"], ID);
    // Of another namespace, with the same number.
    let theirs = json!({ "identity": "boot/2/5000000/8" });
    let (_other, welcome) = Agent::start(&daemon, &theirs).await;
    assert_ne!(welcome["session"], ID);
    // A fork's child that still says what its parent says.
    let (_child, welcome) = Agent::start(&daemon, &json!({ "pid": 5_000_001 })).await;
    assert_ne!(welcome["session"], ID);
    let stranger = server(&daemon, &json!({ "pid": 5_000_002 })).await;
    stranger.released().await;
    assert_eq!(all(&daemon).await.len(), 4);
    assert_eq!(state(&daemon).await, "dormant");
}

#[tokio::test]
async fn a_program_that_runs_already_is_not_held() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let (mut agent, welcome) = Agent::start(&daemon, &json!({ "how": "reconnect" })).await;
    assert_eq!(welcome["activate"], false);
    assert_eq!(state(&daemon).await, "dormant");
    let process = async {
        let server = agent.wakes(&daemon).await;
        server.released().await;
        server
    };
    let (asked, _server) = tokio::join!(daemon.verb("threads", json!({})), process);
    assert_eq!(asked.1["rows"][0]["success"], true, "{asked:?}");
    agent.asked("dbgproxy/deactivate").await;
}

#[tokio::test]
async fn what_is_asked_while_the_debugger_leaves_is_asked_when_it_is_back() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, leaving) = woken(&daemon, &mut bystander).await;
    agent.asked("dbgproxy/deactivate").await;
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    bystander.request("dbgproxy/output", json!({})).await;
    leaving.close();
    let _back = agent.wakes(&daemon).await;
    answered(&mut bystander, threads).await;
    assert_eq!(leaving.count("threads"), 1);
}

#[tokio::test]
async fn a_debugger_that_does_not_leave_is_asked_all_the_same() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, server) = woken(&daemon, &mut bystander).await;
    let request = agent.asked("dbgproxy/deactivate").await;
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    bystander.request("dbgproxy/output", json!({})).await;
    agent.refuse(&request, "it cannot be taken out").await;
    answered(&mut bystander, threads).await;
    assert_eq!(server.count("threads"), 2);
}

#[tokio::test]
async fn who_has_given_up_has_nothing_done() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    bystander.send("dbgproxy/pause", json!({})).await;
    agent.asked("dbgproxy/activate").await;
    bystander.kill();
    while daemon.verb("info", json!({})).await.1["clients"] != 0 {}
    let server = server(&daemon, &json!({})).await;
    server.released().await;
    let (_, body) = daemon.verb("threads", json!({})).await;
    assert_eq!(body["rows"][0]["success"], true, "{body}");
    assert_eq!(server.count("pause"), 0);
}

#[tokio::test]
async fn a_session_that_is_back_is_none_of_those_that_have_ended() {
    let daemon = Daemon::start().await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    drop(agent);
    while state(&daemon).await != "ended" {}
    let (_agent, welcome) = Agent::start(&daemon, &json!({ "how": "reconnect" })).await;
    assert_eq!(welcome["session"], ID);
    assert_eq!(state(&daemon).await, "dormant");
    assert_eq!(all(&daemon).await.len(), 1);
}

#[tokio::test]
async fn nobody_is_its_own_ancestor() {
    let daemon = Daemon::start().await;
    let helper = json!({ "helper": "forkserver" });
    let (agent, _) = Agent::start(&daemon, &helper).await;
    drop(agent);
    while state(&daemon).await != "ended" {}
    let own = json!({ "helper": "forkserver", "parent": ID });
    let (_agent, welcome) = Agent::start(&daemon, &own).await;
    assert_eq!(welcome["session"], ID);
    assert_eq!(all(&daemon).await[0]["parent"], Value::Null);
}

#[tokio::test]
async fn an_end_that_is_asked_for_wakes_also_whom_nobody_could_wake() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    let request = agent.asked("dbgproxy/activate").await;
    agent.refuse(&request, "there is no debugpy").await;
    let body = bystander.response(threads).await["body"].take();
    assert_eq!(body["rows"][0]["message"], "there is no debugpy", "{body}");
    let end = json!({ "selector": "all" });
    bystander.send("dbgproxy/terminate", end).await;
    agent.asked("dbgproxy/activate").await;
}

#[tokio::test]
async fn an_agent_whose_session_has_ended_may_try_again() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, server) = woken(&daemon, &mut bystander).await;
    let exiting = json!({ "seq": 2, "type": "event", "event": "dbgproxy/exiting", "body": {} });
    agent.say(&exiting).await;
    server.event(
        "exited",
        &json!({ "exitCode": 0, "pydevdReason": "processReplaced" }),
    );
    server.close();
    agent.ended().await;
    assert_eq!(state(&daemon).await, "ended");
}

#[tokio::test]
async fn a_program_in_the_place_of_another_sleeps_at_once() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (_agent, _former) = woken(&daemon, &mut bystander).await;
    let (mut agent, welcome) = Agent::start(&daemon, &json!({ "how": "exec" })).await;
    assert_eq!(
        welcome,
        json!({ "session": ID, "activate": false, "monitor": 1.0 })
    );
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    let _server = agent.wakes(&daemon).await;
    answered(&mut bystander, threads).await;
}

#[tokio::test]
async fn what_is_kept_of_a_process_is_bounded() {
    let daemon = Daemon::start().await;
    let labels: Vec<String> = (0..10_000)
        .map(|key| format!("{key}={}", "v".repeat(100)))
        .collect();
    let much = json!({
        "argv": ["a.py", "x".repeat(1 << 20), "y".repeat(1 << 20), "z"],
        "python": "3".repeat(1 << 20),
        "environment": { "DBGPROXY_LABELS": labels.join(","), "RANK": "7".repeat(1 << 20) },
    });
    let (_agent, _) = Agent::start(&daemon, &much).await;
    let sessions = all(&daemon).await;
    assert!(sessions[0].to_string().len() < 64 * 1024);
    assert_eq!(sessions[0]["argv"][0], "a.py");
    assert_eq!(sessions[0]["labels"]["0"], "v".repeat(100));
}

#[tokio::test]
async fn a_debug_server_may_be_announced_late() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    let threads = bystander.send("dbgproxy/threads", json!({})).await;
    agent.asked("dbgproxy/activate").await;
    let server = DebugServer::new(PID).on("pydevdSystemInfo", |_| Answer::Silence);
    let server = server.connect(&daemon).await;
    let probe = server.received("pydevdSystemInfo").await;
    let announcement = hello("debugServer", &json!({}));
    server.send_bytes(&frame(&announcement.to_string()));
    server.respond(&probe, &json!({ "process": { "pid": PID, "ppid": 1 } }));
    answered(&mut bystander, threads).await;
    assert_eq!(all(&daemon).await.len(), 1);
}

#[tokio::test]
async fn a_client_is_told_of_a_session_that_is_back() {
    let daemon = Daemon::start().await;
    let start = Client::start(&daemon).announcing("supportsStartDebuggingRequest");
    let mut root = start.arguments(&json!({ "view": "tree" })).attached().await;
    let mut how = "start";
    for _ in 0..2 {
        let (agent, _) = Agent::start(&daemon, &json!({ "how": how })).await;
        let start = root.reverse_request("startDebugging").await;
        assert_eq!(start["arguments"]["configuration"]["session"], ID);
        root.respond(&start, false, json!({})).await;
        drop(agent);
        while state(&daemon).await != "ended" {}
        how = "reconnect";
    }
}
