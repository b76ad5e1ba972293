//! The monitor, fed by agents that are played by scripts: what it finds, and where that is told.

mod support;

use serde_json::{Value, json};
use support::agent::{Agent, ID, PID};
use support::http::Events;
use support::report::{found, gone, report};
use support::{Client, Daemon, DebugServer};

const OTHER: &str = "8f14e45f-ceea-467f-a0e6-b1c5a1d2e3f5";
const FILE: &str = "/srv/app.py";

/// A daemon that looks often, and has little patience.
async fn daemon(more: &[&str]) -> Daemon {
    let arguments = ["--monitor-interval", "0.05", "--monitor-lock-held", "0.3"];
    Daemon::with(&[&arguments, more].concat()).await
}

/// Somebody who holds or waits, in this line.
fn one(thread: u64, line: u32) -> Value {
    let actor = json!({ "thread": thread, "name": format!("Thread-{thread}"), "task": null, "taskName": null });
    json!({ "actor": actor, "site": [FILE, line], "from": 0 })
}

fn lock(name: &str, holders: &[Value], waiters: &[Value]) -> Value {
    let shared = name.starts_with('/').then_some(name);
    let kind = if shared.is_some() {
        "multiprocessing.Lock"
    } else {
        "threading.Lock"
    };
    json!({ "id": name, "name": name, "kind": kind, "shared": shared, "site": [FILE, 1], "holders": holders,
            "waiters": waiters, "waiterCount": waiters.len(), "acquisitions": 7, "contended": 1, "timeouts": 0,
            "longest": 0.5 })
}

fn locks(locks: &[Value]) -> Value {
    json!({ "cost": 0.001, "monitors": ["locks"], "loops": [],
            "locks": { "total": locks.len(), "dropped": 0, "locks": locks } })
}

fn held() -> Value {
    locks(&[lock("db", &[one(1, 12)], &[one(2, 20)])])
}

#[tokio::test]
async fn what_is_wrong_is_told_over_http_dap_and_the_command_line() {
    let daemon = daemon(&[]).await;
    let (agent, welcome) = Agent::start(&daemon, &json!({})).await;
    assert_eq!(welcome["monitor"], 0.05);
    let _process = agent.sampling(held());
    let report = found(&daemon, "lock-held").await;
    let finding = &report["findings"][0];
    assert_eq!(
        (&finding["session"], &finding["pid"]),
        (&json!(ID), &json!(PID))
    );
    assert_eq!(finding["sites"][0], json!({ "file": FILE, "line": 12 }));
    let row = &report["locks"][0];
    assert_eq!(
        (&row["session"], &row["name"], &row["lock"]),
        (&json!(ID), &json!("a.py"), &json!("db"))
    );
    assert_eq!(
        (&row["waiterCount"], &row["holders"][0]["thread"]),
        (&json!(1), &json!("Thread-1"))
    );
    assert_eq!(report["sessions"][0]["status"], "running");
    assert!(report["system"]["memory"]["total"].as_u64() > Some(0));
    assert_eq!(report["summary"]["dropped"], json!([]));

    // A part of it, of some; and nothing is said of nobody.
    let of = |name: &str| json!({ "part": "locks", "selector": format!("name={name}") });
    let (_, body) = daemon.verb("monitor", of("a.py")).await;
    assert_eq!(
        (&body["locks"][0]["lock"], body.get("tasks")),
        (&json!("db"), None)
    );
    let (status, body) = daemon.verb("monitor", of("nobody")).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (404, &json!("not-found")),
        "{body}"
    );
    let mut client = Client::bystander(&daemon).await;
    let body = client
        .request("dbgproxy/monitor", json!({ "part": "findings" }))
        .await;
    assert_eq!(body["findings"][0]["kind"], "lock-held");
    for (verb, arguments) in [
        ("dbgproxy/monitor", json!({ "part": "looks" })),
        ("dbgproxy/report", json!({ "part": "locks" })),
    ] {
        let why = client.refused(verb, arguments).await;
        assert!(why.contains("part"), "{why}");
    }

    let output = daemon.run(&["report"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.starts_with("1 finding:\n\n! lock-held: `db` (threading.Lock) has been held for "),
        "{text}"
    );
    for part in [
        "  where   /srv/app.py:12\n",
        "  advice  ",
        "Locks (1):",
        "Sessions (1):",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let output = daemon.run(&["report", "pid=1"]).await;
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("no session matches pid=1; there are a.py"),
        "{text}"
    );
    assert_eq!((output.status.code(), output.stdout.len()), (Some(1), 0));
    let output = daemon.run(&["monitor", "locks"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.starts_with("Locks (1):\n  PROCESS  LOCK"), "{text}");
    assert_eq!(
        daemon.run(&["monitor", "looks"]).await.status.code(),
        Some(2)
    );
    assert!(daemon.log().contains(" finding id=1 kind=\"lock-held\" "));
}

#[tokio::test]
async fn alerts_come_to_who_follows_them() {
    let daemon = daemon(&[]).await;
    let mut stream = Events::follow(&daemon).await;
    let mut client = Client::bystander(&daemon).await;
    client.request("dbgproxy/subscribe", Value::Null).await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let process = agent.sampling(held());
    let opened = client.event("dbgproxy/alert").await;
    assert_eq!(opened, stream.alert().await);
    assert_eq!(
        (&opened["reason"], &opened["finding"]["kind"]),
        (&json!("opened"), &json!("lock-held"))
    );
    process.says(locks(&[lock("db", &[], &[])]));
    let ended = client.event("dbgproxy/alert").await;
    assert_eq!(ended, stream.alert().await);
    assert_eq!(
        (&ended["reason"], &ended["finding"]["id"]),
        (&json!("ended"), &opened["finding"]["id"])
    );
    assert!(ended["finding"]["ended"].is_string());
    // It has no process in view.
    let told = client.transcript().iter();
    let mut told = told.filter(|line| line.contains("important"));
    assert_eq!(told.next(), None);
}

#[tokio::test]
async fn the_consoles_that_show_a_process_are_told() {
    let daemon = daemon(&[]).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    let attaching = Client::start(&daemon)
        .arguments(&json!({ "view": "merged" }))
        .attached();
    let (mut merged, _server) = tokio::join!(attaching, agent.wakes(&daemon));
    let one = json!({ "view": "process", "session": ID });
    let mut one = Client::start(&daemon).arguments(&one).attached().await;
    let process = agent.sampling(held());
    for client in [&mut merged, &mut one] {
        let output = client
            .event_where("output", |body| body["category"] == "important")
            .await;
        assert_eq!(
            (&output["source"]["path"], &output["line"]),
            (&json!(FILE), &json!(12))
        );
        let text = output["output"].as_str().unwrap_or_default();
        assert!(
            text.starts_with("dbgproxy: `db` (threading.Lock) has been held"),
            "{text}"
        );
    }
    // Who comes when it has been found is told, too.
    let late = json!({ "view": "merged" });
    let mut late = Client::start(&daemon).arguments(&late).attached().await;
    let output = late
        .event_where("output", |body| body["category"] == "important")
        .await;
    assert_eq!(output["line"], 12);
    // Each has the file where its mappings say.
    let mapped = json!({ "view": "merged",
                         "pathMappings": [{ "localRoot": "/home/ada", "remoteRoot": "/srv" }] });
    let mut mapped = Client::start(&daemon).arguments(&mapped).attached().await;
    let output = mapped
        .event_where("output", |body| body["category"] == "important")
        .await;
    assert_eq!(output["source"]["path"], "/home/ada/app.py");
    process.says(locks(&[]));
    for client in [&mut merged, &mut one, &mut late] {
        let is_end = |body: &Value| {
            let text = body["output"].as_str().unwrap_or_default();
            text.starts_with("dbgproxy: no longer: `db`")
        };
        let output = client.event_where("output", is_end).await;
        assert_eq!(output["category"], "console");
    }
}

#[tokio::test]
async fn a_deadlock_of_two_processes_is_found_and_gone() {
    let daemon = daemon(&[]).await;
    let of = |held: &str, line: u32, wanted: &str| {
        let held = lock(held, &[one(1, line)], &[]);
        locks(&[held, lock(wanted, &[], &[one(1, line + 1)])])
    };
    let (first, _) = Agent::start(&daemon, &json!({})).await;
    let second = json!({ "session": OTHER, "pid": PID + 1 });
    let (second, _) = Agent::start(&daemon, &second).await;
    let (_first, second) = (
        first.sampling(of("/a", 3, "/b")),
        second.sampling(of("/b", 8, "/a")),
    );
    let report = found(&daemon, "lock-cycle").await;
    let finding = &report["findings"][0];
    assert_eq!(finding["sessions"], json!([ID, OTHER]));
    let message = finding["message"].as_str().unwrap_or_default();
    let parts = [
        "a.py (5000000)",
        "a.py (2) (5000001)",
        "app.py:3",
        "app.py:4",
        "app.py:8",
        "app.py:9",
        "`/a`",
        "`/b`",
    ];
    for part in parts {
        assert!(message.contains(part), "{part}: {message}");
    }
    assert_eq!(finding["sites"].as_array().map(Vec::len), Some(4));
    // One of them is killed: nobody lets go of what it held.
    drop(second);
    let left = gone(&daemon, "lock-cycle").await;
    assert!(!left["locks"].as_array().expect("a list").is_empty());
    found(&daemon, "lock-leak").await;
}

#[tokio::test]
async fn a_process_that_waits_for_an_ide_is_found() {
    let waiting = ["--wait-for-ide", "--monitor-session-waiting", "0.2"];
    let daemon = daemon(&waiting).await;
    let _server = DebugServer::new(PID).connect(&daemon).await;
    let report = found(&daemon, "session-waiting").await;
    assert_eq!(report["sessions"][0]["status"], "created");
    let merged = json!({ "view": "merged" });
    let _client = Client::start(&daemon).arguments(&merged).attached().await;
    gone(&daemon, "session-waiting").await;
}

#[tokio::test]
async fn the_sessions_of_a_program_are_listed_and_missed_at_its_end() {
    let daemon = daemon(&[]).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    let own =
        json!({ "id": "1", "name": "import", "status": "created", "type": "job", "owner": "ada" });
    agent.event("dbgproxy/debugSession", own.clone()).await;
    let is_there = |report: &Value| report["sessions"][1]["debugSession"] == "import";
    let listed = report(&daemon, "a session that is there", is_there).await;
    let row = &listed["sessions"][1];
    assert_eq!(
        (&row["type"], &row["owner"], &row["status"]),
        (&json!("job"), &json!("ada"), &json!("created"))
    );
    assert_eq!((&row["session"], &row["pid"]), (&json!(ID), &json!(PID)));
    let created = row["created"].clone();
    let mut begun = own;
    begun["status"] = json!("running");
    agent.event("dbgproxy/debugSession", begun).await;
    let runs = |report: &Value| report["sessions"][1]["status"] == "running";
    let row = &report(&daemon, "a session that runs", runs).await["sessions"][1];
    assert_eq!(row["created"], created);
    assert!(row["started"].as_str() > created.as_str(), "{row}");
    drop(agent);
    let ended = found(&daemon, "session-open").await;
    assert!(
        ended["findings"][0]["message"]
            .as_str()
            .is_some_and(|message| message.contains("import"))
    );
}

#[tokio::test]
async fn the_console_has_the_parts_as_commands() {
    let daemon = daemon(&["--monitor-task-long", "0.3"]).await;
    let (mut agent, _) = Agent::start(&daemon, &json!({})).await;
    let attaching = Client::start(&daemon)
        .arguments(&json!({ "view": "merged" }))
        .attached();
    let (mut client, _server) = tokio::join!(attaching, agent.wakes(&daemon));
    let mut sample = held();
    sample["loops"] = json!([{ "thread": { "thread": 1, "name": "MainThread" }, "tasks": 1 }]);
    sample["tasks"] = json!({ "total": 1, "created": 1, "tasks": [
        { "id": "t", "name": "Task-1", "coroutine": "main", "state": "waiting", "from": 0,
          "chain": [["main", FILE, 30]] },
    ] });
    let _process = agent.sampling(sample);
    found(&daemon, "lock-held").await;
    found(&daemon, "task-long").await;
    for (line, parts) in [
        (
            ":locks",
            &["Locks (1):", "db", "Thread-1", " srv/app.py:12"][..],
        ),
        (
            ":tasks all",
            &[
                "Event loops (1):",
                "Tasks (1):",
                "Task-1",
                "main",
                " srv/app.py:30",
            ],
        ),
        (
            ":findings",
            &[
                "2 findings:",
                "! lock-held",
                "! task-long",
                "task Task-1 (`main`)",
            ],
        ),
        (
            ":report",
            &["2 findings:", "Locks (1):", "Tasks (1):", "Sessions (1):"],
        ),
        (
            ":help",
            &[
                ":locks [SELECTOR]",
                ":tasks [SELECTOR]",
                ":findings [SELECTOR]",
            ],
        ),
    ] {
        let arguments = json!({ "expression": line, "context": "repl" });
        let body = client.request("evaluate", arguments).await;
        let text = body["result"].as_str().unwrap_or_default();
        for part in parts {
            assert!(text.contains(part), "{line}: {part}: {text}");
        }
    }
    let monitor = json!({ "expression": ":monitor", "context": "repl" });
    let why = client.refused("evaluate", monitor).await;
    assert!(why.contains("did you mean `:locks` or"), "{why}");
    let nobody = json!({ "expression": ":locks name=nobody", "context": "repl" });
    let why = client.refused("evaluate", nobody).await;
    assert!(why.contains("no session matches name=nobody"), "{why}");
    let completions = json!({ "text": ":fin", "column": 5 });
    let body = client.request("completions", completions).await;
    assert_eq!(body["targets"][0]["label"], ":findings");
    let completions = json!({ "text": ":locks a.", "column": 10 });
    let body = client.request("completions", completions).await;
    assert_eq!(body["targets"][0]["label"], "name=a.py");
}

#[tokio::test]
async fn a_daemon_that_does_not_monitor_says_so() {
    let daemon = Daemon::with(&["--monitor-interval", "0"]).await;
    let (agent, welcome) = Agent::start(&daemon, &json!({})).await;
    assert_eq!(welcome["monitor"], Value::Null);
    let _process = agent.sampling(held());
    let (status, body) = daemon.verb("report", json!({})).await;
    assert_eq!(
        (status, &body["error"]["code"]),
        (503, &json!("unavailable"))
    );
    let output = daemon.run(&["report"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--monitor-interval 0"));
}

#[tokio::test]
async fn a_liar_harms_itself_alone() {
    let daemon = daemon(&[]).await;
    let other = json!({ "session": OTHER, "pid": PID + 1 });
    let (other, _) = Agent::start(&daemon, &other).await;
    let (mut liar, _) = Agent::start(&daemon, &json!({})).await;
    let future = |age: f64| {
        let mut lock = lock("x", &[one(1, 1)], &[]);
        lock["holders"][0]["age"] = age.into();
        lock
    };
    let million: Vec<Value> = (0..5000)
        .map(|id| lock(&id.to_string(), &[], &[]))
        .collect();
    for body in [
        json!("nonsense"),
        json!({ "locks": "x" }),
        json!({ "locks": { "locks": "x".repeat(2 << 20) } }),
        json!({ "loops": [[[[]]]], "tasks": { "total": -1 } }),
        locks(&[future(-1e9), future(1e300)]),
        locks(&million),
    ] {
        for _ in 0..10 {
            liar.event("dbgproxy/monitor", body.clone()).await;
        }
    }
    let _other = other.sampling(held());
    let found = report(&daemon, "what is left out", |report| {
        let findings = report["findings"].as_array().expect("a list");
        let dropped = report["summary"]["dropped"].as_array().expect("a list");
        findings.iter().any(|finding| finding["session"] == OTHER) && !dropped.is_empty()
    });
    let found = found.await;
    let dropped = found["summary"]["dropped"].as_array().expect("a list");
    assert!(
        dropped.iter().all(|line| line["session"] == ID),
        "{dropped:?}"
    );
    assert!(found["locks"].as_array().expect("a list").len() <= 201);
    assert_eq!(daemon.sessions(&[]).await.len(), 2);
}
