//! Breakpoints that hold in some processes only, and those of the daemon itself: for processes to come, for nobody in
//! particular, for the first that comes by, and over restarts.

mod support;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Answer, Client, Daemon, DebugServer, Program, Python, Script};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

const PATH: &str = "/srv/script.py";

/// A scripted process whose guard says that it has this rank.
async fn ranked(daemon: &Daemon, pid: i64, rank: i64) -> DebugServer {
    let server = DebugServer::new(pid).on("evaluate", |_| Answer::Silence);
    let server = server.connect(daemon).await;
    let guard = server.received("evaluate").await;
    report(&server, pid, rank);
    server.respond(&guard, &json!({ "result": "", "variablesReference": 0 }));
    server.released().await;
    server
}

/// The guard says, now or once more, which rank its process has.
fn report(server: &DebugServer, pid: i64, rank: i64) {
    let identity = format!("boot/namespace/{pid}/1");
    let environment = json!({ "RANK": rank.to_string() });
    let body = json!({ "identity": identity, "script": "-c", "python": "3.13.0", "environment": environment });
    server.event("dbgproxyReport", &body);
}

/// A client of one process.
async fn client_of(daemon: &Daemon, pid: i64) -> Client {
    let start = Client::start(daemon).named(&format!("client of {pid}"));
    start
        .arguments(&json!({ "subProcessId": pid }))
        .attached()
        .await
}

async fn add(bystander: &mut Client, line: i64, more: &Value) -> Value {
    let mut arguments = json!({ "file": PATH, "line": line });
    for (name, value) in more.as_object().expect("an object") {
        arguments[name] = value.clone();
    }
    bystander
        .request("dbgproxy/breakpoints.add", arguments)
        .await
}

/// What is listed.
async fn stored(bystander: &mut Client) -> Vec<Value> {
    let mut body = bystander
        .request("dbgproxy/breakpoints.list", json!({}))
        .await;
    serde_json::from_value(body["breakpoints"].take()).expect("it lists breakpoints")
}

/// Waits until so many sessions match, and gives them.
async fn matching(bystander: &mut Client, selector: &str, count: usize) -> Vec<Value> {
    let there = async {
        loop {
            let arguments = json!({ "selector": selector });
            let mut body = bystander.request("dbgproxy/sessions", arguments).await;
            let sessions: Vec<Value> =
                serde_json::from_value(body["sessions"].take()).expect("it lists sessions");
            // On a busy machine a stopped process may not say at once where it is.
            let is_vague = |session: &Value| {
                session["stopped"].is_object() && session["stopped"]["line"].is_null()
            };
            if sessions.len() == count && !sessions.iter().any(is_vague) {
                return sessions;
            }
        }
    };
    within(&format!("{count} sessions with {selector}"), there).await
}

fn lines(breakpoints: &[Value]) -> Vec<i64> {
    let lines = breakpoints.iter();
    lines
        .map(|breakpoint| breakpoint["line"].as_i64().expect("a line"))
        .collect()
}

fn verified(verdicts: &[Value]) -> Vec<bool> {
    let verdicts = verdicts.iter();
    verdicts
        .map(|verdict| verdict["verified"].as_bool().expect("a verdict"))
        .collect()
}

// Scopes.

#[tokio::test]
async fn a_scope_keeps_a_breakpoint_out_of_other_processes() {
    let daemon = Daemon::start().await;
    let servers = [
        ranked(&daemon, 5_000_000, 0).await,
        ranked(&daemon, 5_000_001, 1).await,
    ];
    let asked = [
        json!({ "line": 3, "condition": " @{rank=0} n > 3" }),
        json!({ "line": 4, "condition": "@{rank=1}", "hitCondition": "5" }),
        json!({ "line": 5, "condition": "@{rank=0..1}n", "logMessage": "n is {n}" }),
        json!({ "line": 6 }),
    ];
    let elsewhere = |rank: i64| format!("holds only in rank={rank}, which this process is not");
    for (index, (pid, has, lacks)) in [(5_000_000, [0, 2, 3], 1), (5_000_001, [1, 2, 3], 0)]
        .into_iter()
        .enumerate()
    {
        let mut client = client_of(&daemon, pid).await;
        let verdicts = client.set_breakpoints(PATH, &asked).await;
        for at in has {
            assert_eq!(verdicts[at]["verified"], true, "{verdicts:?}");
        }
        assert_eq!(verdicts[lacks]["verified"], false);
        assert_eq!(verdicts[lacks]["message"], elsewhere(lacks as i64));
        let conditions = [Some("n > 3"), None, Some("n"), None];
        let given: Vec<Value> = has
            .iter()
            .map(|at| {
                let mut given = asked[*at].clone();
                given["condition"] = json!(conditions[*at]);
                let given = given.as_object().expect("an object").clone();
                given
                    .into_iter()
                    .filter(|(_, value)| !value.is_null())
                    .collect()
            })
            .collect();
        assert_eq!(servers[index].breakpoints(PATH), given);

        let functions = json!({ "breakpoints": [
            { "name": "f", "condition": format!("@{{rank={lacks}}} n") },
            { "name": "g", "condition": "@{all} n" },
        ] });
        let body = client.request("setFunctionBreakpoints", functions).await;
        assert_eq!(body["breakpoints"][0]["verified"], false);
        assert_eq!(body["breakpoints"][0]["message"], elsewhere(lacks as i64));
        assert_eq!(body["breakpoints"][1]["verified"], true);
        let request = servers[index].received("setFunctionBreakpoints").await;
        assert_eq!(
            request["arguments"]["breakpoints"],
            json!([{ "name": "g", "condition": "n" }])
        );
    }
}

#[tokio::test]
async fn a_wrong_scope_is_pointed_at_and_holds_nowhere() {
    let daemon = Daemon::start().await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    let mut client = client_of(&daemon, 5_000_000).await;
    let asked: Vec<Value> = [
        "@{rank=0 n > 3",
        "@{colour=red} n",
        "@{rank=0,state=running} n",
        "@{rank=0} n",
    ]
    .iter()
    .zip(1..)
    .map(|(condition, line)| json!({ "line": line, "condition": condition }))
    .collect();
    let verdicts = client.set_breakpoints(PATH, &asked).await;
    assert_eq!(verified(&verdicts), [false, false, false, true]);
    for (verdict, text) in verdicts.iter().zip([
        "this `@{` is never closed by a `}`\n  @{rank=0 n > 3\n  ^",
        "there is no `colour=`; there are pid=, name=, rank=, state=, id= and label.KEY=\n  colour=red\n  ^",
        "whoever is at a breakpoint is running, so `state=` picks nothing there\n  rank=0,state=running\n         ^",
    ]) {
        assert_eq!(verdict["message"], text);
    }
    assert_eq!(lines(&server.breakpoints(PATH)), [4]);
}

#[tokio::test]
async fn a_process_that_is_named_anew_gets_and_loses_what_is_scoped() {
    let daemon = Daemon::start().await;
    let server = ranked(&daemon, 5_000_000, 1).await;
    let mut client = client_of(&daemon, 5_000_000).await;
    let asked = [
        json!({ "line": 3, "condition": "@{rank=0} n" }),
        json!({ "line": 4 }),
    ];
    let verdicts = client.set_breakpoints(PATH, &asked).await;
    assert_eq!(verified(&verdicts), [false, true]);

    report(&server, 5_000_000, 0);
    let body = client.event("breakpoint").await;
    assert_eq!(body["reason"], "changed");
    assert_eq!(body["breakpoint"]["id"], verdicts[0]["id"]);
    assert_eq!(body["breakpoint"]["verified"], true);
    assert_eq!(lines(&server.breakpoints(PATH)), [3, 4]);
    assert!(server.reach(PATH, 3));
    let stopped = client.stopped_at(3).await;
    assert_eq!(stopped.body["hitBreakpointIds"], json!([verdicts[0]["id"]]));
    client.continue_(stopped.thread).await;
    client.event("continued").await;

    // The process is slow to give it up, and hits it meanwhile: that is nobody's stop.
    server.on("setBreakpoints", |_| Answer::Silence);
    let sets = server.count("setBreakpoints");
    let continues = server.count("continue");
    report(&server, 5_000_000, 2);
    while server.count("setBreakpoints") == sets {
        client.try_request("threads", Value::Null).await;
    }
    assert!(server.reach(PATH, 3));
    while server.count("continue") == continues {
        client.try_request("threads", Value::Null).await;
    }
    client.no_more("stopped").await;
    client.no_more("continued").await;
    // What still holds is a stop as ever.
    assert!(server.reach(PATH, 4));
    let stopped = client.stopped_at(4).await;
    client.continue_(stopped.thread).await;
    client.event("continued").await;

    let requests = server.requests();
    let last = requests
        .iter()
        .rfind(|request| request["command"] == "setBreakpoints");
    let last = last.expect("it was told").clone();
    server.respond(
        &last,
        &json!({ "breakpoints": [{ "id": 9, "verified": true, "line": 4 }] }),
    );
    let body = client.event("breakpoint").await;
    assert_eq!(body["breakpoint"]["id"], verdicts[0]["id"]);
    assert_eq!(body["breakpoint"]["verified"], false);
    assert_eq!(
        body["breakpoint"]["message"],
        "holds only in rank=0, which this process is not"
    );
    client.no_more("breakpoint").await;
}

#[tokio::test]
async fn another_program_in_the_same_process_has_what_holds_in_it() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 5, &json!({ "sessions": "rank=0" })).await;
    add(&mut bystander, 6, &json!({ "sessions": "rank=1" })).await;
    let server = ranked(&daemon, 5_000_000, 1).await;
    let mut client = client_of(&daemon, 5_000_000).await;
    let asked = [
        json!({ "line": 3, "condition": "@{rank=0} n" }),
        json!({ "line": 4, "condition": "@{rank=1} n" }),
    ];
    let verdicts = client.set_breakpoints(PATH, &asked).await;
    assert_eq!(verified(&verdicts), [false, true]);
    assert_eq!(lines(&server.breakpoints(PATH)), [6, 4]);

    server.event(
        "exited",
        &json!({ "exitCode": 0, "pydevdReason": "processReplaced" }),
    );
    server.close();
    server.closed().await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    for (verdict, is_verified) in verdicts.iter().zip([true, false]) {
        let is_it = |body: &Value| body["breakpoint"]["id"] == verdict["id"];
        let body = client.event_where("breakpoint", is_it).await;
        assert_eq!(body["breakpoint"]["verified"], is_verified);
    }
    assert_eq!(lines(&server.breakpoints(PATH)), [5, 3]);
    let requests = server.requests();
    let at = |command: &str| {
        requests
            .iter()
            .position(|request| request["command"] == command)
    };
    assert!(at("setBreakpoints") < at("configurationDone"));
}

#[tokio::test]
async fn in_the_merged_view_it_is_verified_where_it_holds() {
    let daemon = Daemon::start().await;
    let merged = json!({ "view": "merged" });
    let mut client = Client::start(&daemon).arguments(&merged).attached().await;
    let asked = [
        json!({ "line": 3, "condition": "@{rank=0} n" }),
        json!({ "line": 4, "condition": "@{rank=7}" }),
        json!({ "line": 5, "condition": "@{rank=" }),
    ];
    // With no process there, a scope that cannot be read is told all the same.
    let verdicts = client.set_breakpoints(PATH, &asked).await;
    assert_eq!(verdicts[0]["message"], "set in each process that comes");
    let wrong = "this `@{` is never closed by a `}`\n  @{rank=\n  ^";
    assert_eq!(verdicts[2]["message"], wrong);

    let mut servers = Vec::new();
    for rank in 0..3 {
        servers.push(ranked(&daemon, 5_000_000 + rank, rank).await);
    }
    let verdicts = client.set_breakpoints(PATH, &asked).await;
    assert_eq!(verified(&verdicts), [true, false, false]);
    assert_eq!(
        verdicts[1]["message"],
        "holds only in rank=7, which this process is not"
    );
    assert_eq!(verdicts[2]["message"], wrong);
    for (rank, server) in servers.iter().enumerate() {
        let expected: &[i64] = if rank == 0 { &[3] } else { &[] };
        assert_eq!(lines(&server.breakpoints(PATH)), expected, "rank {rank}");
    }
    // One in which the other holds comes later.
    let late = ranked(&daemon, 5_000_007, 7).await;
    let is_it = |body: &Value| {
        body["breakpoint"]["id"] == verdicts[1]["id"] && body["breakpoint"]["verified"] == true
    };
    client.event_where("breakpoint", is_it).await;
    assert_eq!(lines(&late.breakpoints(PATH)), [4]);
    assert!(late.reach(PATH, 4));
    let stopped = client.stopped_at(4).await;
    assert_eq!(stopped.body["hitBreakpointIds"], json!([verdicts[1]["id"]]));
}

// The daemon's own.

#[tokio::test]
async fn what_is_stored_is_set_in_every_process_now_and_later() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let here = ranked(&daemon, 5_000_000, 0).await;
    let other = ranked(&daemon, 5_000_001, 1).await;

    let more = json!({ "condition": "n > 3", "sessions": "rank=0,pid=5000000..5000009" });
    let body = add(&mut bystander, 3, &more).await;
    let expected = json!({
        "id": 1, "file": PATH, "line": 3, "condition": "n > 3", "hitCondition": null, "logMessage": null,
        "sessions": "rank=0,pid=5000000..5000009", "once": false, "verified": true,
    });
    assert_eq!(body["breakpoint"], expected);
    let rows = body["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 1, "{rows:?}");
    let row = &rows[0];
    assert_eq!(
        (&row["pid"], &row["name"]),
        (&json!(5_000_000), &json!("rank 0"))
    );
    assert_eq!(
        (&row["success"], &row["verified"], &row["line"]),
        (&json!(true), &json!(true), &json!(3))
    );
    let condition =
        r#"__import__('_dbgproxy').hit([["daemon:1", "n > 3", None, None]], globals(), locals())"#;
    let given = json!({ "line": 3, "condition": condition });
    assert_eq!(here.breakpoints(PATH), std::slice::from_ref(&given));
    assert!(other.breakpoints(PATH).is_empty());

    // A scope in the condition counts too, and where nothing matches nothing is verified.
    let body = add(&mut bystander, 4, &json!({ "condition": "@{rank=7}" })).await;
    assert_eq!(
        (&body["breakpoint"]["verified"], &body["rows"]),
        (&json!(false), &json!([]))
    );
    let message = body["breakpoint"]["message"].as_str().unwrap_or_default();
    assert!(message.contains("each process that comes"), "{message}");
    assert_eq!(
        stored(&mut bystander).await,
        [expected.clone(), body["breakpoint"].clone()]
    );

    // Who comes later has it before its code runs.
    let late = ranked(&daemon, 5_000_002, 0).await;
    assert_eq!(late.breakpoints(PATH), [given]);
    let commands: Vec<Value> = late
        .requests()
        .into_iter()
        .map(|mut request| request["command"].take())
        .collect();
    let at = |command: &str| commands.iter().position(|other| other == command);
    assert!(at("attach") < at("setBreakpoints"), "{commands:?}");
    assert!(
        at("setBreakpoints") < at("configurationDone"),
        "{commands:?}"
    );
    // And what becomes of it by another name too.
    report(&other, 5_000_001, 7);
    other
        .breakpoints_where(PATH, |them| lines(them) == [4])
        .await;
    assert_eq!(verified(&stored(&mut bystander).await), [true, true]);

    let body = bystander
        .request("dbgproxy/breakpoints.remove", json!({ "id": 1 }))
        .await;
    assert_eq!(body["removed"][0]["id"], 1);
    here.breakpoints_where(PATH, <[Value]>::is_empty).await;
    late.breakpoints_where(PATH, <[Value]>::is_empty).await;
    let why = bystander
        .refused("dbgproxy/breakpoints.remove", json!({ "id": 1 }))
        .await;
    assert!(why.contains("there is no breakpoint 1"), "{why}");
    let body = bystander
        .request("dbgproxy/breakpoints.remove", json!({ "all": true }))
        .await;
    assert_eq!(body["removed"][0]["id"], 2);
    other.breakpoints_where(PATH, <[Value]>::is_empty).await;
    assert!(stored(&mut bystander).await.is_empty());
}

#[tokio::test]
async fn what_cannot_be_stored_is_refused_with_the_reason() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let add = "dbgproxy/breakpoints.add";
    for (arguments, why) in [
        (json!({ "line": 3 }), "\"file\" is missing"),
        (json!({ "file": PATH }), "\"line\" is missing"),
        (json!({ "file": PATH, "line": 0 }), "from 1"),
        (json!({ "file": "script.py", "line": 1 }), "absolute"),
        (
            json!({ "file": PATH, "line": 1, "sessions": "pid=x" }),
            "expected a number",
        ),
        (
            json!({ "file": PATH, "line": 1, "sessions": "state=held" }),
            "state=",
        ),
        (
            json!({ "file": PATH, "line": 1, "condition": "@{rank=0 x" }),
            "never closed",
        ),
        (json!({ "file": PATH, "line": 1, "onse": true }), "onse"),
    ] {
        let text = bystander.refused(add, arguments).await;
        assert!(text.contains(why), "{why}: {text}");
    }
    for arguments in [json!({}), json!({ "id": 1, "all": true })] {
        let why = bystander
            .refused("dbgproxy/breakpoints.remove", arguments)
            .await;
        assert!(why.contains("\"id\""), "{why}");
    }
    assert!(stored(&mut bystander).await.is_empty());
}

#[tokio::test]
async fn a_process_that_is_held_is_given_it_at_once() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let mut bystander = Client::bystander(&daemon).await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    matching(&mut bystander, "state=held", 1).await;
    let body = add(&mut bystander, 3, &json!({})).await;
    assert_eq!(body["rows"][0]["verified"], true, "{body}");
    assert_eq!(lines(&server.breakpoints(PATH)), [3]);
    assert!(!server.is_released());
    let client = client_of(&daemon, 5_000_000).await;
    server.released().await;
    assert_eq!(lines(&server.breakpoints(PATH)), [3]);
    client.disconnect().await;
}

/// What an agent says first, and then what it is answered and asked.
async fn agent(daemon: &Daemon, hello: &Value) -> (Frames<OwnedReadHalf>, OwnedWriteHalf) {
    let stream = within("a connection", TcpStream::connect(daemon.address)).await;
    let (read, mut write) = stream.expect("the daemon accepts connections").into_split();
    let said = write.write_all(&frame(&hello.to_string())).await;
    said.expect("the daemon reads");
    (Frames::new(read), write)
}

fn hello(role: &str, pid: i64, rank: i64) -> Value {
    json!({ "seq": 1, "type": "request", "command": "dbgproxy/hello", "arguments": {
        "role": role, "pid": pid, "how": "start", "script": "-c", "environment": { "RANK": rank.to_string() },
    } })
}

async fn next(frames: &mut Frames<OwnedReadHalf>) -> Value {
    let text = within("a word of the daemon", frames.next()).await;
    let text = text.expect("it can be read").expect("it is there");
    serde_json::from_str(&text).expect("it is JSON")
}

#[tokio::test]
async fn a_sleeping_process_is_woken_for_what_holds_in_it() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 3, &json!({ "sessions": "rank=0" })).await;
    // One wakes before its code runs, the other when there is something for it.
    let (mut early, _write) = agent(&daemon, &hello("agent", 5_000_000, 0)).await;
    assert_eq!(next(&mut early).await["body"]["activate"], true);
    let (mut late, _other) = agent(&daemon, &hello("agent", 5_000_001, 1)).await;
    let mut welcome = next(&mut late).await;
    assert_eq!(welcome["body"]["activate"], false);
    let arguments = json!({ "file": PATH, "line": 4, "sessions": "rank=1" });
    let add = bystander.send("dbgproxy/breakpoints.add", arguments).await;
    assert_eq!(next(&mut late).await["command"], "dbgproxy/activate");
    let mut announcement = hello("debugServer", 5_000_001, 1);
    announcement["arguments"]["session"] = welcome["body"]["session"].take();
    let server = DebugServer::new(5_000_001)
        .preamble(&frame(&announcement.to_string()))
        .connect(&daemon)
        .await;
    let body = bystander.response(add).await["body"].take();
    assert_eq!(body["rows"][0]["verified"], true, "{body}");
    assert_eq!(lines(&server.breakpoints(PATH)), [4]);
    // It sleeps again when nothing holds in it any more.
    bystander
        .request("dbgproxy/breakpoints.remove", json!({ "id": 2 }))
        .await;
    assert_eq!(next(&mut late).await["command"], "dbgproxy/deactivate");
}

#[tokio::test]
async fn a_process_stays_stopped_though_nobody_watches() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 3, &json!({})).await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    assert!(server.reach(PATH, 3));
    let sessions = matching(&mut bystander, "state=stopped", 1).await;
    assert_eq!(sessions[0]["stopped"]["reason"], "breakpoint");
    assert_eq!(server.count("continue"), 0);

    // Somebody comes, and finds it; it is no breakpoint of theirs.
    let mut client = client_of(&daemon, 5_000_000).await;
    let stopped = client.stopped_at(3).await;
    assert_eq!(stopped.body["hitBreakpointIds"], Value::Null);
    client.continue_(stopped.thread).await;
    // The last client leaves a process that has stopped again: it runs on, and the breakpoint stays.
    assert!(server.reach(PATH, 3));
    client.stopped_at(3).await;
    client.disconnect().await;
    server.received("continue").await;
    server.received("continue").await;
    matching(&mut bystander, "state=running", 1).await;
    assert!(server.reach(PATH, 3));
    matching(&mut bystander, "state=stopped", 1).await;
}

#[tokio::test]
async fn a_stop_that_nobody_stored_does_not_stay() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 3, &json!({})).await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    server.stop_at(server.main_thread, "step", &Value::Null);
    server.received("continue").await;
    // Removed a moment ago, and hit all the same.
    server.on("setBreakpoints", |_| Answer::Silence);
    bystander
        .request("dbgproxy/breakpoints.remove", json!({ "all": true }))
        .await;
    assert!(server.reach(PATH, 3));
    server.received("continue").await;
    matching(&mut bystander, "state=running", 1).await;
}

#[tokio::test]
async fn a_hit_counts_before_the_process_has_said_what_it_placed() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    server.on("setBreakpoints", |_| Answer::Silence);
    for once in [false, true] {
        let add = json!({ "file": PATH, "line": 3, "once": once });
        let add = bystander.send("dbgproxy/breakpoints.add", add).await;
        let request = server.received("setBreakpoints").await;
        // The guard says which one it was; of pydevd there is nothing.
        let hit = json!({ "keys": [format!("daemon:{}", 1 + i64::from(once))], "threadId": 1 });
        server.event("dbgproxyHit", &hit);
        server.stop_at(1, "breakpoint", &Value::Null);
        matching(&mut bystander, "state=stopped", 1).await;
        assert_eq!(lines(&stored(&mut bystander).await), [3]);
        let verdicts = json!({ "breakpoints": [{ "id": 0, "verified": true, "line": 3 }] });
        server.respond(&request, &verdicts);
        bystander.response(add).await;
        bystander.request("dbgproxy/continue", json!({})).await;
        matching(&mut bystander, "state=running", 1).await;
    }
    // The one that was there once is not hit again, whatever the process says.
    let continues = server.count("continue");
    server.event(
        "dbgproxyHit",
        &json!({ "keys": ["daemon:2"], "threadId": 1 }),
    );
    server.stop_at(1, "breakpoint", &Value::Null);
    let undone = async {
        while server.count("continue") == continues {
            stored(&mut bystander).await;
        }
    };
    within("the process to be let go", undone).await;
}

#[tokio::test]
async fn the_first_takes_what_is_there_once_and_nobody_hears_of_the_others() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 3, &json!({ "once": true })).await;
    let winner = ranked(&daemon, 5_000_000, 0).await;
    let slow = ranked(&daemon, 5_000_001, 1).await;
    let quick = ranked(&daemon, 5_000_002, 2).await;
    let alone = ranked(&daemon, 5_000_003, 3).await;
    let shared = ranked(&daemon, 5_000_004, 4).await;
    let mut clients = [
        client_of(&daemon, 5_000_001).await,
        client_of(&daemon, 5_000_002).await,
    ];
    let mut sharing = client_of(&daemon, 5_000_004).await;
    let own = sharing.set_breakpoints(PATH, &[json!({ "line": 3 })]).await;
    // These do not come to removing it before they hit it.
    for server in [&slow, &alone, &shared] {
        server.on("setBreakpoints", |_| Answer::Silence);
    }

    assert!(winner.reach(PATH, 3));
    matching(&mut bystander, "pid=5000000,state=stopped", 1).await;
    assert!(stored(&mut bystander).await.is_empty());
    winner.breakpoints_where(PATH, <[Value]>::is_empty).await;
    assert_eq!(winner.count("continue"), 0);

    // One hits it before it has removed it, another has removed it when its stop comes.
    assert!(slow.reach(PATH, 3));
    quick.breakpoints_where(PATH, <[Value]>::is_empty).await;
    quick.stop_at(
        quick.main_thread,
        "breakpoint",
        &json!({ "hitBreakpointIds": [0] }),
    );
    for (server, client) in [&slow, &quick].into_iter().zip(&mut clients) {
        server.received("continue").await;
        client.no_more("stopped").await;
        client.no_more("continued").await;
    }
    // So does one without a client.
    assert!(alone.reach(PATH, 3));
    alone.received("continue").await;
    let arguments = json!({ "selector": "state=stopped" });
    let body = bystander.request("dbgproxy/sessions", arguments).await;
    assert_eq!(body["sessions"].as_array().map(Vec::len), Some(1), "{body}");
    // Where somebody else has a breakpoint too, it is a stop, and theirs.
    assert!(shared.reach(PATH, 3));
    let stopped = sharing.stopped_at(3).await;
    assert_eq!(stopped.body["hitBreakpointIds"], json!([own[0]["id"]]));
    assert_eq!(shared.count("continue"), 0);
    // What was undone leaves nothing behind: the next stop is one, and is continued for all to see.
    slow.stop_at(slow.main_thread, "pause", &Value::Null);
    let stopped = clients[0].stopped().await;
    clients[0].continue_(stopped.thread).await;
    clients[0].event("continued").await;
}

#[tokio::test]
async fn a_stop_that_somebody_asked_for_is_told_whatever_was_hit() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    add(&mut bystander, 3, &json!({})).await;
    let server = ranked(&daemon, 5_000_000, 0).await;
    let mut client = client_of(&daemon, 5_000_000).await;
    server.on("setBreakpoints", |_| Answer::Silence);
    server.on("pause", |_| Answer::Body(json!({})));
    bystander
        .request("dbgproxy/breakpoints.remove", json!({ "all": true }))
        .await;
    client
        .request("pause", json!({ "threadId": server.main_thread }))
        .await;
    assert!(server.reach(PATH, 3));
    client.stopped_at(3).await;
    assert_eq!(server.count("continue"), 0);
}

// Over restarts.

fn state(path: &Path) -> [&str; 2] {
    ["--state", path.to_str().expect("a plain path")]
}

#[tokio::test]
async fn what_is_kept_outlives_a_daemon_that_is_killed() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.json");
    let daemon = Daemon::with(&state(&path)).await;
    let mut one = Client::bystander(&daemon).await;
    add(
        &mut one,
        3,
        &json!({ "condition": "@{rank=0} n", "sessions": "pid=5000000..5000001" }),
    )
    .await;
    add(&mut one, 4, &json!({ "once": true })).await;
    add(&mut one, 5, &json!({ "hitCondition": "3" })).await;
    one.request("dbgproxy/breakpoints.remove", json!({ "id": 3 }))
        .await;
    let before = stored(&mut one).await;
    daemon.kill().await;

    let daemon = Daemon::with(&state(&path)).await;
    let mut other = Client::bystander(&daemon).await;
    assert_eq!(stored(&mut other).await, before);
    let server = ranked(&daemon, 5_000_000, 0).await;
    assert_eq!(lines(&server.breakpoints(PATH)), [3, 4]);
    // What a process takes is not there the next time, when this daemon has stopped by itself.
    assert!(server.reach(PATH, 4));
    matching(&mut other, "state=stopped", 1).await;
    drop(other);
    daemon.stop().await;
    let mut command = Daemon::command(0, &[]);
    command.env("DBGPROXY_STATE", &path);
    let daemon = Daemon::launch(command).await;
    let mut third = Client::bystander(&daemon).await;
    assert_eq!(stored(&mut third).await, before[..1]);
    assert_eq!(add(&mut third, 6, &json!({})).await["breakpoint"]["id"], 4);

    // What cannot be kept is an error, and not there.
    drop(directory);
    let arguments = json!({ "file": PATH, "line": 7 });
    let why = third.refused("dbgproxy/breakpoints.add", arguments).await;
    assert!(why.contains("cannot write the state file"), "{why}");
    daemon.logged("cannot write the state file").await;
    assert_eq!(lines(&stored(&mut third).await), [3, 6]);
}

#[tokio::test]
async fn a_state_file_that_is_of_no_use_is_said_before_listening() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("state.json");
    std::fs::write(&path, "{ \"breakpoints\": [{ \"id\": 1 }] }").expect("it can be written");
    let mut command = Daemon::command(0, &state(&path));
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = within("the daemon to give up", output).await;
    let output = output.expect("the daemon's binary can be started");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let stderr = String::from_utf8_lossy(&output.stderr);
    for part in ["state.json", "mend it, or remove it", "missing field"] {
        assert!(stderr.contains(part), "{stderr}");
    }
    let text = std::fs::read_to_string(&path).expect("it is there");
    assert_eq!(
        text, "{ \"breakpoints\": [{ \"id\": 1 }] }",
        "it is as it was"
    );
}

// Real processes.

const WORK: &str = "\
def work():
    n = 0
    while n < 6:
        n += 1
        m = n  # BREAK
    return m

print('works', work())
";

const POOL: &str = "\
import os, subprocess, sys
worker = os.path.join(os.path.dirname(__file__), 'work.py')
ranks = [subprocess.Popen([sys.executable, worker], env={**os.environ, 'RANK': str(rank)}) for rank in range(3)]
print([rank.wait() for rank in ranks])
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_workers_of_one_rank_stop() {
    let daemon = Daemon::start().await;
    let script = Script::new("pool.py", POOL).with("work.py", WORK);
    let worker = script.directory().join("work.py");
    let line = support::python::line(WORK, "# BREAK");
    let breakpoint = json!({ "line": line, "condition": "@{rank=0} n > 3" });
    let mut client = Client::start(&daemon)
        .arguments(&json!({ "view": "merged" }))
        .breakpoint(&worker, breakpoint)
        .attached()
        .await;
    let mut program = Python::newest().debug(&daemon, &script, &[]);
    for n in 4..=6 {
        let stopped = client.stopped_at(line).await;
        let names = client.threads().await;
        assert!(names[&stopped.thread].starts_with("rank 0"), "{names:?}");
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.locals(&stack[0]).await["n"], n.to_string());
        client.continue_(stopped.thread).await;
    }
    let ended = program.wait().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert_eq!(ended.stdout, "works 6\nworks 6\nworks 6\n[0, 0, 0]\n");
    client.no_more("stopped").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_stops_for_a_breakpoint_that_was_there_before_it() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut bystander = Client::bystander(&daemon).await;
        let script = Script::new("work.py", WORK);
        let line = script.line("# BREAK");
        let arguments = json!({ "file": script.path(), "line": line, "condition": "n == 2" });
        bystander
            .request("dbgproxy/breakpoints.add", arguments)
            .await;
        let mut program = python.debug(&daemon, &script, &[]);
        let sessions = matching(&mut bystander, "state=stopped", 1).await;
        assert_eq!(sessions[0]["stopped"]["line"], line, "{sessions:?}");
        assert_eq!(verified(&stored(&mut bystander).await), [true]);
        let mut client = client_of(&daemon, program.pid()).await;
        let stopped = client.stopped_at(line).await;
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.locals(&stack[0]).await["n"], "2");
        client.continue_(stopped.thread).await;
        assert_eq!(program.wait().await.stdout, "works 6\n");
    }
}

const RACE: &str = "\
import multiprocessing, os

def work(barrier):
    barrier.wait()
    os.write(1, b'runs\\n')  # BREAK

if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(4)
    workers = [context.Process(target=work, args=(barrier,)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print('ends', [worker.exitcode for worker in workers])
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_worker_of_four_takes_what_is_there_once() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut bystander = Client::bystander(&daemon).await;
        let script = Script::new("race.py", RACE);
        let line = script.line("# BREAK");
        let arguments = json!({ "file": script.path(), "line": line, "once": true });
        bystander
            .request("dbgproxy/breakpoints.add", arguments)
            .await;
        let mut program: Program = python.debug(&daemon, &script, &[]);
        program.printed("runs\nruns\nruns\n").await;
        let sessions = matching(&mut bystander, "state=stopped", 1).await;
        assert_eq!(sessions[0]["stopped"]["line"], line, "{sessions:?}");
        assert!(stored(&mut bystander).await.is_empty());
        let arguments = json!({ "selector": "state=stopped" });
        bystander.request("dbgproxy/continue", arguments).await;
        let ended = program.wait().await;
        assert_eq!(
            ended.stdout, "runs\nruns\nruns\nruns\nends [0, 0, 0, 0]\n",
            "{ended:?}"
        );
    }
}
