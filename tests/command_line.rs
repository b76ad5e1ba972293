//! The command line over a running daemon: exit codes, what is data and what is talk, and what each command sends.

mod support;

use std::process::Output;

use serde_json::{Value, json};
use support::{Answer, Daemon, DebugServer};

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

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it is text")
}

/// A command that succeeds: what it prints. It says nothing beside.
async fn done(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.run(arguments).await;
    assert_eq!(code(&output), 0, "{arguments:?}: {output:?}");
    assert_eq!(text(&output.stderr), "", "{arguments:?}");
    text(&output.stdout).to_owned()
}

/// A command that does not: its exit code, what it prints and what it says.
async fn fails(daemon: &Daemon, arguments: &[&str]) -> (i32, String, String) {
    let output = daemon.run(arguments).await;
    let (stdout, stderr) = (text(&output.stdout), text(&output.stderr));
    (code(&output), stdout.to_owned(), stderr.to_owned())
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("it was not killed")
}

#[tokio::test]
async fn each_command_does_what_it_says() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let other = process(&daemon, 5_000_002, "worker-1").await;
    server.set_global("n", "3");
    let stopped =
        |line: i64, reason: &str| format!("train  5000001  stopped {PATH}:{line} {reason}\n");
    assert_eq!(
        done(&daemon, &["pause", "train"]).await,
        stopped(3, "pause")
    );
    assert_eq!(done(&daemon, &["next", "train"]).await, stopped(4, "step"));
    assert_eq!(done(&daemon, &["step", "train"]).await, stopped(5, "step"));
    assert_eq!(done(&daemon, &["out", "train"]).await, stopped(6, "step"));
    assert_eq!(
        (
            other.count("pause"),
            server.count("stepIn"),
            server.count("stepOut")
        ),
        (0, 1, 1)
    );
    server.set_local(server.main_thread, "x", "7");
    let shown = done(&daemon, &["vars", "train"]).await;
    assert!(
        shown.starts_with(&format!(
            "train (5000001) in work {PATH}:6\n  Locals\n    x: int  = 7\n  Globals ["
        )),
        "{shown}"
    );
    // The number in brackets is what there is to ask for.
    let number = shown.trim_end().rsplit('[').next().unwrap_or_default();
    let number = number.trim_end_matches(']');
    let shown = done(&daemon, &["vars", "train", "--inside", number]).await;
    assert_eq!(shown, "train (5000001)\n");
    let shown = done(&daemon, &["threads"]).await;
    assert!(
        shown.contains("worker-1  5000002  MainThread  running  1"),
        "{shown}"
    );
    assert!(
        shown.contains("train     5000001  MainThread  stopped  1"),
        "{shown}"
    );
    let shown = done(&daemon, &["bt"]).await;
    assert!(
        shown.contains("<- worker-1") && shown.contains("train [stopped]"),
        "{shown}"
    );
    let shown = done(&daemon, &["output"]).await;
    assert!(shown.starts_with("train, worker-1: "), "{shown}");
    assert!(shown.contains("redirectOutput"), "{shown}");
    assert_eq!(
        done(&daemon, &["continue", "train"]).await,
        "train  5000001  running\n"
    );
    assert_eq!(
        done(&daemon, &["detach", "train"]).await,
        "train  5000001  detached\n"
    );
    assert_eq!(
        done(&daemon, &["terminate", "train"]).await,
        "train  5000001  terminated\n"
    );
    assert_eq!(server.count("disconnect"), 1);
    assert_eq!(other.count("disconnect"), 0);
}

#[tokio::test]
async fn expressions_as_people_type_them() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let _other = process(&daemon, 5_000_002, "worker-1").await;
    server.set_global("n", "3");
    server.set_global("-n", "-3");
    server.set_global("a b", "'two words'");
    let shows = |value: &str| format!("train  5000001  {value}\n");
    for (arguments, value) in [
        (&["eval", "train", "n"][..], "3"),
        (&["eval", "5000001", "n"], "3"),
        (&["eval", "train", "--", "-n"], "-3"),
        (&["eval", "--", "train", "-n"], "-3"),
        (&["eval", "--timeout", "5", "train", "a b"], "'two words'"),
        (&["eval", "train", "n", "--timeout=5"], "3"),
    ] {
        assert_eq!(
            done(&daemon, arguments).await,
            shows(value),
            "{arguments:?}"
        );
    }
    // Without a selector it is everybody; one that can is enough.
    for (arguments, value) in [
        (&["eval", "n"][..], "3"),
        (&["eval", "--", "-n"], "-3"),
        (&["eval", "n", "--timeout", "5"], "3"),
    ] {
        let shown = done(&daemon, arguments).await;
        assert!(shown.starts_with(&shows(value)), "{arguments:?}: {shown}");
        assert!(shown.contains("worker-1: NameError"), "{shown}");
    }
    for (arguments, hint) in [
        (&["eval"][..], "EXPRESSION"),
        (&["eval", "train", "n", "more"], "more"),
        (&["eval", "train", "-n"], "-- -n"),
        (&["eval", "pid=x", "n"], "pid=x\n      ^"),
        (&["eval", "--timeout", "soon", "n"], "soon"),
        (&["eval", "--timeout", "nan", "n"], "seconds"),
        (&["eval", "--timeout=-1", "n"], "seconds"),
    ] {
        let (code, stdout, stderr) = fails(&daemon, arguments).await;
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?}: {stderr}");
        assert!(stderr.contains(hint), "{arguments:?}: {stderr}");
    }
    server.on("evaluate", |_| Answer::Silence);
    let (code, stdout, stderr) = fails(&daemon, &["eval", "train", "n", "--timeout", "0.3"]).await;
    assert_eq!((code, &*stdout), (1, "train: no answer within 0.3 s\n"));
    assert_eq!(stderr, "dbgproxy: no session has done it\n");
}

#[tokio::test]
async fn what_is_data_and_what_is_talk() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    for (arguments, verb, given) in [
        (&["threads", "--json"][..], "threads", json!({})),
        (&["bt", "--json", "all"], "stacks", json!({})),
        (&["output", "--json"], "output", json!({})),
        (&["pause", "--json"], "pause", json!({})),
        (
            &["eval", "--json", "1"],
            "evaluate",
            json!({ "expression": "1" }),
        ),
        (&["vars", "--json"], "variables", json!({})),
    ] {
        let shown = done(&daemon, arguments).await;
        let shown: Value = serde_json::from_str(&shown).expect("it is JSON");
        let (status, answer) = daemon.verb(verb, given).await;
        assert_eq!(status, 200, "{answer}");
        // Frames and their variables have new numbers each time.
        if verb == "variables" {
            assert_eq!(shown["rows"][0]["frame"], answer["rows"][0]["frame"]);
        } else {
            assert_eq!(shown, answer, "{arguments:?}");
        }
    }

    // Nobody could do it: the rows are data all the same.
    server.on("next", |_| Answer::Failure("not now".into()));
    for json in [true, false] {
        let arguments = if json {
            &["next", "--json"][..]
        } else {
            &["next"]
        };
        let (code, stdout, stderr) = fails(&daemon, arguments).await;
        assert_eq!(code, 1);
        assert!(stdout.contains("not now"), "{stdout}");
        assert_eq!(stderr, "dbgproxy: no session has done it\n");
    }
    // Nobody is meant: an error, and no data.
    for arguments in [&["pause", "nobody"][..], &["pause", "--json", "nobody"]] {
        let (code, stdout, stderr) = fails(&daemon, arguments).await;
        assert_eq!((code, &*stdout), (1, ""));
        assert!(stderr.contains("train (pid 5000001)"), "{stderr}");
    }
}

#[tokio::test]
async fn wrong_usage_is_not_asked_and_nobody_there_is_not_failed() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_001, "train").await;
    let before = server.requests().len();
    for arguments in [
        &["pause", "pid=x"][..],
        &["pause", "all", "all"],
        &["terminate"],
        &["detach"],
        &["vars", "--inside", "x"],
        &["bt", "--connect", ":1"],
        &["nothing"],
        &[],
    ] {
        let (code, stdout, stderr) = fails(&daemon, arguments).await;
        assert_eq!((code, &*stdout), (2, ""), "{arguments:?}: {stderr}");
        assert!(!stderr.is_empty());
    }
    assert_eq!(server.requests().len(), before);
    let nobody = tokio::net::TcpListener::bind("127.0.0.1:0").await;
    let nobody = nobody.expect("a free port").local_addr();
    let nobody = nobody.expect("it is bound").to_string();
    for command in [
        "pause", "continue", "next", "step", "out", "bt", "vars", "threads", "output", "sessions",
    ] {
        let (code, stdout, stderr) = fails(&daemon, &[command, "--connect", &nobody]).await;
        assert_eq!((code, &*stdout), (3, ""), "{command}: {stderr}");
        assert!(stderr.contains("dbgproxy serve --listen"), "{stderr}");
    }
    for command in ["detach", "terminate", "eval"] {
        let (code, ..) = fails(&daemon, &[command, "all", "--connect", &nobody]).await;
        assert_eq!(code, 3, "{command}");
    }
}

#[tokio::test]
async fn a_breakpoint_in_a_file_of_this_directory() {
    let daemon = Daemon::start().await;
    let output = daemon
        .run(&["break", "add", "worker.py:12", "--json"])
        .await;
    assert_eq!(code(&output), 0, "{output:?}");
    let answer: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
    let here = std::env::current_dir().expect("there is one");
    let breakpoint = &answer["breakpoint"];
    assert_eq!(breakpoint["file"], json!(here.join("worker.py")));
    assert_eq!(breakpoint["line"], 12);
}
