//! Lines of the debug console that begin with `:` are for the daemon, in every view and at every moment after
//! `attach`; everything else is for the process.

mod support;

use serde_json::{Value, json};
use support::{Client, Daemon, DebugServer};

const PATH: &str = "/srv/script.py";

async fn process(daemon: &Daemon, pid: i64, name: &str) -> DebugServer {
    let server = DebugServer::new(pid)
        .reporting(&json!({ "name": name }))
        .connect(daemon)
        .await;
    server.released().await;
    server.place(server.main_thread, &[(PATH, 3), (PATH, 30)]);
    server
}

fn line(text: &str) -> Value {
    json!({ "expression": text, "context": "repl" })
}

/// What the console shows.
async fn shows(client: &mut Client, text: &str) -> String {
    let mut body = client.request("evaluate", line(text)).await;
    assert_eq!(body["variablesReference"], 0);
    let shown = body["result"].take();
    shown.as_str().expect("the schema says so").to_owned()
}

/// The completions of a line at its end: the texts, and what they take the place of.
async fn completions(
    client: &mut Client,
    text: &str,
    first_column: usize,
) -> Vec<(String, u64, u64)> {
    let column = text.encode_utf16().count() + first_column;
    let arguments = json!({ "text": text, "column": column });
    let body = client.request("completions", arguments).await;
    let targets = body["targets"].as_array().expect("the schema says so");
    let number = |value: &Value| value.as_u64().expect("it is a number");
    targets
        .iter()
        .map(|target| {
            let label = target["label"].as_str().expect("the schema says so");
            (
                label.to_owned(),
                number(&target["start"]),
                number(&target["length"]),
            )
        })
        .collect()
}

#[tokio::test]
async fn in_every_view() {
    let daemon = Daemon::start().await;
    let first = process(&daemon, 5_000_001, "first").await;
    let second = process(&daemon, 5_000_002, "second").await;
    let attach = async |arguments: Value| {
        Client::start(&daemon)
            .arguments(&arguments)
            .attached()
            .await
    };
    let mut root = attach(json!({ "view": "tree" })).await;
    let mut merged = attach(json!({ "view": "merged", "sessions": "first" })).await;
    let mut one = attach(json!({ "view": "process", "processId": 5_000_002 })).await;
    let mut child =
        attach(json!({ "view": "tree", "session": daemon.sessions(&["first"]).await[0]["id"] }))
            .await;

    // What it shows is what the view has, unless others are named.
    for (client, has, not) in [
        (&mut root, &["first", "second"][..], &[][..]),
        (&mut merged, &["first"], &["second"]),
        (&mut one, &["second"], &["first"]),
        (&mut child, &["first"], &["second"]),
    ] {
        let shown = shows(client, ":sessions").await;
        assert!(shown.starts_with("ID "), "{shown}");
        for name in has {
            assert!(shown.contains(name), "{shown}");
        }
        for name in not {
            assert!(!shown.contains(name), "{shown}");
        }
        let shown = shows(client, "  :sessions   all ").await;
        assert!(
            shown.contains("first") && shown.contains("second"),
            "{shown}"
        );
        let shown = shows(client, ":help").await;
        assert!(shown.contains(":eval SELECTOR EXPRESSION"), "{shown}");
    }
    let shown = shows(&mut root, ":bt").await;
    assert!(shown.contains("<- first, second"), "{shown}");

    // And it does what it says.
    let shown = shows(&mut merged, ":pause").await;
    assert_eq!(shown, format!("first  5000001  stopped {PATH}:3 pause\n"));
    merged.stopped_at(3).await;
    let shown = shows(&mut one, ":next first").await;
    assert_eq!(shown, format!("first  5000001  stopped {PATH}:4 step\n"));
    merged.event("continued").await;
    merged.stopped_at(4).await;
    first.set_local(first.main_thread, "x", "1");
    second.set_global("x", "1");
    let shown = shows(&mut root, ":eval all x").await;
    assert_eq!(shown, "first   5000001  1\nsecond  5000002  1\n");
    let shown = shows(&mut child, ":vars").await;
    assert!(shown.contains("x: int  = 1"), "{shown}");
    let shown = shows(&mut root, ":cont").await;
    assert!(shown.starts_with("first   5000001  running\n"), "{shown}");
    merged.event("continued").await;
    one.no_more("stopped").await;
}

#[tokio::test]
async fn at_every_moment_after_attach() {
    let daemon = Daemon::start().await;
    // Before it, there is no session.
    let mut client = Client::start(&daemon).connected().await;
    let why = client.refused("evaluate", line(":sessions")).await;
    assert!(why.contains("before \"attach\""), "{why}");
    // While it waits for a process.
    let attach = client.send("attach", json!({ "view": "process" })).await;
    client.event("debugpyWaitingForServer").await;
    let shown = shows(&mut client, ":sessions").await;
    assert_eq!(shown, "No session is there that matches.\n");
    let why = client.refused("evaluate", line(":bt")).await;
    assert!(why.contains("there are none"), "{why}");
    assert_eq!(
        completions(&mut client, ":he", 1).await,
        [(":help".into(), 1, 3)]
    );
    // While it is to be configured: user code waits.
    let server = DebugServer::new(5_000_001).connect(&daemon).await;
    client.initialized(attach).await;
    let shown = shows(&mut client, ":sessions").await;
    assert!(shown.contains("held"), "{shown}");
    let why = client.refused("evaluate", line(":pause nobody")).await;
    assert!(why.contains("nobody"), "{why}");
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    let shown = shows(&mut client, ":sessions").await;
    assert!(shown.contains("running"), "{shown}");
    // And when its session is over.
    server.finish();
    client.event("terminated").await;
    let shown = shows(&mut client, ":sessions").await;
    assert_eq!(shown, "No session is there that matches.\n");
    client.disconnect().await;
}

#[tokio::test]
async fn what_is_wrong_with_a_line_is_a_failure_that_says_it() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "first").await;
    let merged = json!({ "view": "merged" });
    let mut client = Client::start(&daemon).arguments(&merged).attached().await;
    let before = server.count("pause");
    for (text, hint) in [
        (":", ":help"),
        (":nothing", ":help"),
        (":s", "`:sessions` or `:step` or `:session`"),
        (":pause pid=x", "pid=x\n      ^"),
        (":pause nobody", "first (pid 5000001)"),
        (":eval", "a selector and an expression"),
        (":eval all", "a selector and an expression"),
        (":terminate", "`all`"),
        (":detach", "`all`"),
        (":info all", "takes nothing"),
        (":help me", "takes nothing"),
        (":pause first second", "first second"),
    ] {
        let why = client.refused("evaluate", line(text)).await;
        assert!(why.contains(hint), "{text}: {why}");
    }
    assert_eq!(server.count("pause"), before);
    // What single processes cannot do is what is shown.
    let shown = shows(&mut client, ":next").await;
    assert_eq!(shown, "first: it is running; pause it first\n");
}

#[tokio::test]
async fn everything_else_is_for_the_process() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "first").await;
    let mut client = Client::start(&daemon)
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    server.reach(PATH, 3);
    let stopped = client.stopped_at(3).await;
    let frame = client.stack(stopped.thread).await.swap_remove(0);
    for (text, context) in [
        ("x[1:2]", "repl"),
        ("f'{x:>3}'", "repl"),
        ("lambda: 1", "repl"),
        ("# :bt", "repl"),
        // A console alone has commands.
        (":bt", "hover"),
        (":bt", "watch"),
        (":terminate all", "variables"),
        (":terminate all", "clipboard"),
    ] {
        let arguments = json!({ "expression": text, "context": context, "frameId": frame["id"] });
        let body = client.request("evaluate", arguments).await;
        assert_eq!(body["result"], text, "{context}");
        let request = server.received("evaluate");
        let request = async {
            let mut request = request.await;
            // The guard has come before.
            while request["arguments"]["frameId"].is_null() {
                request = server.received("evaluate").await;
            }
            request
        };
        assert_eq!(request.await["arguments"]["expression"], text);
    }
    let completions = json!({ "text": "x[:", "column": 4, "frameId": frame["id"] });
    client.request("completions", completions).await;
    assert_eq!(server.count("completions"), 1);
    assert_eq!(server.count("disconnect"), 0);
}

#[tokio::test]
async fn completions_fit_into_the_line() {
    let daemon = Daemon::start().await;
    let _servers = [
        process(&daemon, 5_000_001, "worker-1").await,
        process(&daemon, 5_000_002, "Köln 🚀 2").await,
    ];
    let merged = json!({ "view": "merged" });
    for (first_column, starts_at_1) in [(1, true), (0, false)] {
        let mut client = Client::start(&daemon)
            .arguments(&merged)
            .introduced("columnsStartAt1", starts_at_1)
            .attached()
            .await;
        let client = &mut client;
        let first = first_column as u64;
        let of = |labels: &[&str], start: u64, length: u64| -> Vec<(String, u64, u64)> {
            let labels = labels.iter();
            labels
                .map(|label| ((*label).to_owned(), start + first, length))
                .collect()
        };
        for (text, expected) in [
            (":s", of(&[":sessions", ":step", ":session"], 0, 2)),
            (" :he", of(&[":help"], 1, 3)),
            (":nothing", vec![]),
            (":help ", vec![]),
            (":bt w", of(&["name=worker-1"], 4, 1)),
            (":bt name=w", of(&["name=worker-1"], 4, 6)),
            (":bt a", of(&["all"], 4, 1)),
            (
                ":bt pid=5000001,st",
                of(&["state=running", "state=stopped"], 16, 2),
            ),
            // A name with spaces, by itself and in quotes; a rocket has two units.
            (":bt K", of(&["name=\"Köln 🚀 2\""], 4, 1)),
            (":bt \"Kö", of(&["name=\"Köln 🚀 2\""], 4, 3)),
            (":bt name=\"Köln 🚀", of(&["name=\"Köln 🚀 2\""], 4, 13)),
            (":bt name=\"Köln 🚀 2\",a", of(&["all"], 21, 1)),
        ] {
            let found = completions(client, text, first_column).await;
            assert_eq!(found, expected, "{text:?} from {first_column}");
        }
        // Only what stands before the cursor counts.
        let arguments = json!({ "text": ":bt worker", "column": 5 + first_column });
        let body = client.request("completions", arguments).await;
        assert_eq!(body["targets"][0]["label"], "name=worker-1");
        assert_eq!(body["targets"][0]["length"], 1);
    }
}

#[tokio::test]
async fn what_is_completed_can_be_run() {
    let daemon = Daemon::start().await;
    let name = "a \"b\", c=1 \\ *ü";
    let _server = process(&daemon, 5_000_001, name).await;
    let _other = process(&daemon, 5_000_002, "other").await;
    let merged = json!({ "view": "merged" });
    let mut client = Client::start(&daemon).arguments(&merged).attached().await;
    let found = completions(&mut client, ":threads name=", 1).await;
    assert_eq!(found.len(), 2, "{found:?}");
    for (label, _, _) in found {
        let shown = shows(&mut client, &format!(":threads {label}")).await;
        assert_eq!(shown.lines().count(), 2, "{label}: {shown}");
    }
}
