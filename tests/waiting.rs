//! Who is waited for before user code runs, who is not, and who is told of which process.

mod support;

use serde_json::{Value, json};
use support::debug_server::Described;
use support::wait::within;
use support::{Answer, Client, Daemon, DebugServer};

const PATH: &str = "/srv/script.py";

/// Connects a process whose guard reports this of it.
async fn reporting(daemon: &Daemon, server: Described, report: Value) -> DebugServer {
    let server = server
        .on("evaluate", |_| Answer::Silence)
        .connect(daemon)
        .await;
    let guard = server.received("evaluate").await;
    server.event("dbgproxyReport", &report);
    server.on("evaluate", |_| Answer::Usual);
    server.respond(&guard, &json!({ "result": "", "variablesReference": 0 }));
    server
}

/// The session of a process, once it is in this state.
async fn session(bystander: &mut Client, pid: i64, state: &str) -> Value {
    let selector = json!({ "selector": format!("pid={pid},state={state}") });
    let there = async {
        loop {
            let sessions = bystander
                .request("dbgproxy/sessions", selector.clone())
                .await;
            let session = sessions["sessions"].get(0).cloned().unwrap_or_default();
            if !session.is_null() {
                return session;
            }
        }
    };
    within(&format!("process {pid} to be {state}"), there).await
}

/// Attaches, sets a breakpoint, and stops before `configurationDone`; gives the number of the open `attach`.
async fn nearly_attached(client: &mut Client, arguments: Value) -> i64 {
    let attach = client.send("attach", arguments).await;
    client.initialized(attach).await;
    client.set_breakpoints(PATH, &[json!({ "line": 3 })]).await;
    client
        .request("setExceptionBreakpoints", json!({ "filters": [] }))
        .await;
    attach
}

async fn configured(client: &mut Client, attach: i64) {
    client.request("configurationDone", Value::Null).await;
    assert_eq!(client.response(attach).await["success"], true);
}

/// The configuration of the next session that the client is asked to start.
async fn told_of(client: &mut Client) -> Value {
    let mut request = client.reverse_request("startDebugging").await;
    request["arguments"]["configuration"].take()
}

/// User code was let go, and there were breakpoints before.
fn configured_before_it_ran(server: &DebugServer) {
    let requests = server.requests();
    let first = |command: &str| {
        let found = requests
            .iter()
            .position(|request| request["command"] == command);
        found.unwrap_or_else(|| panic!("no {command}"))
    };
    assert!(first("attach") < first("setBreakpoints"));
    assert!(first("setBreakpoints") < first("configurationDone"));
}

fn tree(daemon: &Daemon) -> support::start::Start {
    Client::start(daemon).announcing("supportsStartDebuggingRequest")
}

// Waiting for anybody.

#[tokio::test]
async fn wait_for_ide_holds_a_process_until_a_client_is_configured() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let mut bystander = Client::bystander(&daemon).await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    session(&mut bystander, 5_000_000, "held").await;
    assert!(!server.is_released());

    // One that leaves before it is configured is nobody.
    let mut client = Client::start(&daemon).connected().await;
    nearly_attached(&mut client, json!({ "view": "process" })).await;
    client.disconnect().await;
    let mut client = Client::start(&daemon).connected().await;
    nearly_attached(&mut client, json!({ "view": "process" })).await;
    client.kill();
    server.breakpoints_where(PATH, <[Value]>::is_empty).await;
    session(&mut bystander, 5_000_000, "held").await;
    assert!(!server.is_released());

    let mut client = Client::start(&daemon).connected().await;
    let attach = nearly_attached(&mut client, json!({ "view": "process" })).await;
    client.threads().await;
    assert!(!server.is_released());
    configured(&mut client, attach).await;
    server.released().await;
    configured_before_it_ran(&server);
    session(&mut bystander, 5_000_000, "running").await;
}

#[tokio::test]
async fn a_process_may_ask_to_wait_by_itself() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let waits = json!({ "environment": { "DBGPROXY_WAIT": "1", "DBGPROXY_NAME": "patient" } });
    let waiting = reporting(&daemon, DebugServer::new(5_000_000), waits).await;
    for (pid, report) in [
        (5_000_001, json!({ "environment": {} })),
        (
            5_000_002,
            json!({ "environment": { "DBGPROXY_WAIT": "0" } }),
        ),
        (5_000_003, json!({})),
    ] {
        let server = reporting(&daemon, DebugServer::new(pid), report).await;
        server.released().await;
    }
    assert_eq!(
        session(&mut bystander, 5_000_000, "held").await["name"],
        "patient"
    );
    assert!(!waiting.is_released());
    let mut client = Client::start(&daemon).connected().await;
    let attach = nearly_attached(
        &mut client,
        json!({ "view": "process", "sessions": "name=patient" }),
    )
    .await;
    assert!(!waiting.is_released());
    configured(&mut client, attach).await;
    waiting.released().await;
    configured_before_it_ran(&waiting);
}

#[tokio::test]
async fn helper_processes_are_let_go_at_once() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let mut root = tree(&daemon).attached().await;
    let mut waiting = Client::start(&daemon).connected().await;
    let attach = waiting.send("attach", json!({ "view": "process" })).await;
    waiting.event("debugpyWaitingForServer").await;
    let mut helpers = Vec::new();
    for (pid, helper) in [(5_000_001, "resource_tracker"), (5_000_002, "forkserver")] {
        let report = json!({ "helper": helper, "environment": { "DBGPROXY_WAIT": "1" } });
        let server = reporting(&daemon, DebugServer::new(pid), report).await;
        server.released().await;
        helpers.push(server);
    }
    // Nobody is told of them, and whoever waits for a process does not mean them.
    root.no_more("startDebugging").await;
    let server = DebugServer::new(5_000_003).connect(&daemon).await;
    waiting.initialized(attach).await;
    configured(&mut waiting, attach).await;
    assert_eq!(waiting.event("process").await["systemProcessId"], 5_000_003);
    // Who asks for one by its pid gets it.
    let named = json!({ "subProcessId": 5_000_002 });
    let mut client = Client::start(&daemon).arguments(&named).attached().await;
    assert_eq!(client.event("process").await["systemProcessId"], 5_000_002);
    drop(server);
}

// Waiting for those who have it in view.

#[tokio::test]
async fn a_client_that_waits_is_waited_for() {
    let daemon = Daemon::start().await;
    let (mut first, mut second) = (
        Client::start(&daemon).named("first").connected().await,
        Client::start(&daemon).named("second").connected().await,
    );
    let attaches = (
        first.send("attach", json!({ "view": "process" })).await,
        second
            .send(
                "attach",
                json!({ "view": "process", "sessions": "pid=5000000" }),
            )
            .await,
    );
    first.event("debugpyWaitingForServer").await;
    second.event("debugpyWaitingForServer").await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    first.initialized(attaches.0).await;
    second.initialized(attaches.1).await;
    first.set_breakpoints(PATH, &[json!({ "line": 3 })]).await;
    configured(&mut first, attaches.0).await;
    // The other one is still at it.
    first.threads().await;
    assert!(!server.is_released());
    second.set_breakpoints(PATH, &[json!({ "line": 5 })]).await;
    second.threads().await;
    assert!(!server.is_released());
    configured(&mut second, attaches.1).await;
    server.released().await;
    configured_before_it_ran(&server);
    let requests = server.requests();
    let done = requests
        .iter()
        .position(|request| request["command"] == "configurationDone");
    let before = &requests[..done.expect("it is released")];
    let set = before
        .iter()
        .rfind(|request| request["command"] == "setBreakpoints")
        .expect("they are set");
    let set = set["arguments"]["breakpoints"].as_array().expect("a list");
    let mut lines: Vec<Option<i64>> = set.iter().map(|one| one["line"].as_i64()).collect();
    lines.sort_unstable();
    assert_eq!(lines, [Some(3), Some(5)]);
}

#[tokio::test]
async fn a_client_that_goes_is_not_waited_for() {
    let daemon = Daemon::start().await;
    let mut first = Client::start(&daemon).named("first").connected().await;
    let attach = first.send("attach", json!({ "view": "process" })).await;
    first.event("debugpyWaitingForServer").await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    first.initialized(attach).await;
    assert!(!server.is_released());
    first.kill();
    server.released().await;
}

#[tokio::test]
async fn a_late_client_that_configures_does_not_stop_the_process() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut client = Client::start(&daemon).connected().await;
    let attach = nearly_attached(&mut client, json!({ "view": "process" })).await;
    assert_eq!((server.count("pause"), server.count("disconnect")), (0, 0));
    configured(&mut client, attach).await;
    assert!(server.reach(PATH, 3));
    client.stopped_at(3).await;
}

#[tokio::test]
async fn a_child_is_adopted_before_it_runs() {
    let daemon = Daemon::start().await;
    let parent = DebugServer::new(5_000_000).connect(&daemon).await;
    parent.released().await;
    let mut root = tree(&daemon).named("root").attached().await;
    let configuration = told_of(&mut root).await;
    let mut of_parent = tree(&daemon).arguments(&configuration).attached().await;

    // Two at once, adopted in the other order.
    let mut children = Vec::new();
    for pid in [5_000_001, 5_000_002] {
        let server = DebugServer::new(pid)
            .parent(5_000_000)
            .connect(&daemon)
            .await;
        let configuration = told_of(&mut root).await;
        assert_eq!(configuration["subProcessId"], pid);
        children.push((server, configuration));
    }
    while let Some((server, configuration)) = children.pop() {
        assert!(!server.is_released());
        let mut client = tree(&daemon).connected().await;
        let attach = nearly_attached(&mut client, configuration).await;
        assert!(!server.is_released());
        configured(&mut client, attach).await;
        server.released().await;
        configured_before_it_ran(&server);
        client.disconnect().await;
    }
    of_parent.no_more("startDebugging").await;
    root.no_more("startDebugging").await;
}

#[tokio::test]
async fn who_ignores_what_it_is_told_is_waited_for_once() {
    let daemon = Daemon::start().await;
    let parent = DebugServer::new(5_000_000).connect(&daemon).await;
    parent.released().await;
    let mut client = Client::of_process(&daemon).named("deaf").attached().await;
    let given_up = || daemon.log().matches("not attach").count();
    let first = DebugServer::new(5_000_001)
        .parent(5_000_000)
        .connect(&daemon)
        .await;
    client.event("debugpyAttach").await;
    assert_eq!((first.is_released(), given_up()), (false, 0));
    first.released().await;
    assert_eq!(given_up(), 1);
    for pid in 5_000_002..5_000_022 {
        let child = DebugServer::new(pid)
            .parent(5_000_000)
            .connect(&daemon)
            .await;
        child.released().await;
        assert_eq!(client.event("debugpyAttach").await["subProcessId"], pid);
    }
    assert_eq!(given_up(), 1, "only the first was kept waiting");
}

// Who is told.

#[tokio::test]
async fn grandchildren_are_told_to_the_clients_of_the_child() {
    let daemon = Daemon::start().await;
    let parent = DebugServer::new(5_000_000).connect(&daemon).await;
    parent.released().await;
    let own = json!({ "justMyCode": false, "host": "localhost", "port": daemon.address.port(), "name": "mine" });
    let mut of_parent = Client::of_process(&daemon)
        .named("of parent")
        .arguments(&own)
        .attached()
        .await;

    let child = DebugServer::new(5_000_001)
        .parent(5_000_000)
        .connect(&daemon)
        .await;
    let told = of_parent.event("debugpyAttach").await;
    assert_eq!(told["subProcessId"], 5_000_001);
    assert_eq!(told["name"], "Subprocess 5000001");
    assert_eq!(
        told["connect"],
        json!({ "host": "localhost", "port": daemon.address.port() })
    );
    assert_eq!(told["justMyCode"], false);
    let mut of_child = Client::start(&daemon)
        .named("of child")
        .arguments(&told)
        .attached()
        .await;
    child.released().await;

    let grandchild = DebugServer::new(5_000_002)
        .parent(5_000_001)
        .connect(&daemon)
        .await;
    let told = of_child.event("debugpyAttach").await;
    assert_eq!(told["subProcessId"], 5_000_002);
    let of_grandchild = Client::start(&daemon)
        .named("of grandchild")
        .arguments(&told)
        .attached()
        .await;
    grandchild.released().await;
    let stranger = DebugServer::new(5_000_003).connect(&daemon).await;
    stranger.released().await;
    of_parent.no_more("debugpyAttach").await;
    of_child.no_more("debugpyAttach").await;

    // Who comes later is told of the children that are there, and of no others.
    let mut late = Client::start(&daemon)
        .arguments(&json!({ "subProcessId": 5_000_000 }))
        .attached()
        .await;
    assert_eq!(late.event("debugpyAttach").await["subProcessId"], 5_000_001);
    late.no_more("debugpyAttach").await;
    drop(of_grandchild);
}

#[tokio::test]
async fn a_tree_has_a_root_without_threads_that_is_told_of_all_and_stays() {
    let daemon = Daemon::start().await;
    let before = DebugServer::new(5_000_000).connect(&daemon).await;
    before.released().await;
    let mut root = tree(&daemon).named("root").attached().await;
    assert!(root.threads().await.is_empty());
    assert_eq!(
        root.request("modules", Value::Null).await["modules"],
        json!([])
    );
    for command in ["stackTrace", "evaluate", "pause", "continue", "next"] {
        let why = root
            .refused(command, json!({ "threadId": 1, "expression": "1" }))
            .await;
        assert!(why.contains("sessions below"), "{why}");
    }
    // What is there, and what comes, whether it is a child of something or not.
    let mut configurations = vec![told_of(&mut root).await];
    let mut servers = vec![before];
    for (pid, parent) in [
        (5_000_001, 5_000_000),
        (5_000_002, 5_000_001),
        (5_000_003, 1),
    ] {
        servers.push(DebugServer::new(pid).parent(parent).connect(&daemon).await);
        configurations.push(told_of(&mut root).await);
    }
    let mut clients = Vec::new();
    for ((pid, server), configuration) in (5_000_000..).zip(&servers).zip(configurations) {
        assert_eq!(configuration["subProcessId"], pid);
        let mut client = tree(&daemon)
            .named("child")
            .arguments(&configuration)
            .attached()
            .await;
        assert_eq!(client.event("process").await["systemProcessId"], pid);
        server.released().await;
        clients.push(client);
    }
    // Each was told once, and by the root alone.
    root.no_more("startDebugging").await;
    for client in &mut clients {
        client.no_more("startDebugging").await;
        client.no_more("debugpyAttach").await;
    }
    // All of them end, and the root stays for the next.
    for (server, mut client) in servers.into_iter().zip(clients) {
        server.finish();
        client.event("terminated").await;
        client.disconnect().await;
    }
    root.no_more("terminated").await;
    let next = DebugServer::new(5_000_000).connect(&daemon).await;
    assert_eq!(told_of(&mut root).await["subProcessId"], 5_000_000);
    root.disconnect().await;
    // Nobody is there to come any more.
    next.released().await;
}

#[tokio::test]
async fn a_selector_picks_what_a_tree_shows() {
    let daemon = Daemon::start().await;
    let rank = |rank: u32| json!({ "environment": { "RANK": rank.to_string() } });
    let mut servers = Vec::new();
    for number in 0..3 {
        let server = reporting(
            &daemon,
            DebugServer::new(5_000_000 + i64::from(number)),
            rank(number),
        )
        .await;
        server.released().await;
        servers.push(server);
    }
    let mut root = tree(&daemon)
        .arguments(&json!({ "sessions": "rank=1..4" }))
        .attached()
        .await;
    for pid in [5_000_001, 5_000_002] {
        assert_eq!(told_of(&mut root).await["subProcessId"], pid);
    }
    // Who is not in view is not kept waiting.
    for number in [5, 6] {
        let server = reporting(
            &daemon,
            DebugServer::new(5_000_000 + i64::from(number)),
            rank(number),
        )
        .await;
        server.released().await;
        servers.push(server);
    }
    let server = reporting(&daemon, DebugServer::new(5_000_004), rank(4)).await;
    let configuration = told_of(&mut root).await;
    assert_eq!(configuration["name"], "rank 4 (5000004)");
    assert!(!server.is_released());
    Client::start(&daemon)
        .arguments(&configuration)
        .attached()
        .await;
    server.released().await;
    root.no_more("startDebugging").await;
}

#[tokio::test]
async fn the_children_of_helpers_belong_to_who_started_the_helper() {
    let daemon = Daemon::start().await;
    let main = DebugServer::new(5_000_000).connect(&daemon).await;
    main.released().await;
    let mut client = Client::of_process(&daemon)
        .named("of main")
        .attached()
        .await;
    let mut root = tree(&daemon).named("root").attached().await;
    assert_eq!(told_of(&mut root).await["subProcessId"], 5_000_000);

    let mut helpers = Vec::new();
    for (pid, parent, helper) in [
        (5_000_001, 5_000_000, "resource_tracker"),
        (5_000_002, 5_000_000, "forkserver"),
        (5_000_003, 5_000_002, "forkserver"),
    ] {
        let described = DebugServer::new(pid).parent(parent);
        let server = reporting(&daemon, described, json!({ "helper": helper })).await;
        server.released().await;
        helpers.push(server);
    }
    client.no_more("debugpyAttach").await;

    // Workers of the forkserver, and of a forkserver's forkserver.
    for (pid, parent) in [(5_000_004, 5_000_002), (5_000_005, 5_000_003)] {
        let worker = DebugServer::new(pid).parent(parent).connect(&daemon).await;
        let told = client.event("debugpyAttach").await;
        assert_eq!(told["subProcessId"], pid);
        assert_eq!(told_of(&mut root).await["subProcessId"], pid);
        assert!(!worker.is_released());
        // Both are expected; both come.
        let mut adopters = Vec::new();
        for _ in 0..2 {
            adopters.push(Client::start(&daemon).arguments(&told).attached().await);
        }
        worker.released().await;
        client.no_more("debugpyAttach").await;
        root.no_more("startDebugging").await;
        helpers.push(worker);
    }
}

#[tokio::test]
async fn a_process_that_replaces_itself_stays_the_same_session() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    // Another machine's boot: whether the process lives cannot be looked up here.
    let report = json!({ "identity": "0000-boot/4026531836/5000000/77", "script": "before.py" });
    let server = reporting(&daemon, DebugServer::new(5_000_000), report).await;
    server.released().await;
    let before = session(&mut bystander, 5_000_000, "running").await;
    let mut root = tree(&daemon).named("root").attached().await;
    let configuration = told_of(&mut root).await;
    let mut client = Client::start(&daemon)
        .arguments(&configuration)
        .breakpoints(PATH, &[3])
        .attached()
        .await;

    // pydevd says it before each attempt.
    for _ in 0..3 {
        server.event(
            "exited",
            &json!({ "exitCode": -1, "pydevdReason": "processReplaced" }),
        );
    }
    server.close();
    client
        .event_where("thread", |body| body["reason"] == "exited")
        .await;
    // Meanwhile nothing hangs.
    client
        .refused("evaluate", json!({ "expression": "1" }))
        .await;
    client.set_breakpoints(PATH, &[json!({ "line": 4 })]).await;

    let report = json!({ "identity": "0000-boot/4026531836/5000000/77", "script": "after.py" });
    let server = reporting(&daemon, DebugServer::new(5_000_000), report).await;
    server.released().await;
    configured_before_it_ran(&server);
    assert!(server.reach(PATH, 4));
    client.stopped_at(4).await;
    let after = session(&mut bystander, 5_000_000, "stopped").await;
    assert_eq!(
        (&after["id"], &after["started"]),
        (&before["id"], &before["started"])
    );
    assert_eq!(
        (&before["name"], &after["name"]),
        (&json!("before.py"), &json!("after.py"))
    );
    client.no_more("terminated").await;
    client.no_more("exited").await;
    root.no_more("startDebugging").await;

    // The second time it is gone for good.
    server.finish();
    client.event("terminated").await;
}
