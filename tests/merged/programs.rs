//! Real programs with real debugpy in one session.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::support::wait::within;
use super::support::{Daemon, Python, Script};
use super::{merged, top};

const WORKER: &str = "\
import sys
number = int(sys.argv[1])

def work(number):
    double = number * 2  # BREAK
    triple = number * 3  # AFTER
    return double + triple

print(work(number))
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eight_workers_and_a_ninth() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let script = Script::new("worker.py", WORKER);
    let python = Python::newest();
    let (line, after) = (script.line("# BREAK"), script.line("# AFTER"));
    let mut programs = BTreeMap::new();
    for number in 0..8 {
        let program = python.debug(&daemon, &script, &[&number.to_string()]);
        programs.insert(number, program);
    }
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(script.path(), &[line])
        .attached()
        .await;
    let own = client.breakpoints[0]["id"].clone();

    // Each stops once, the first of them takes the focus, and each shows its own.
    let mut threads = BTreeMap::new();
    for turn in 0..8 {
        let stopped = client.stopped_at(line).await;
        assert_eq!(stopped.reason, "breakpoint");
        assert_eq!(stopped.body["hitBreakpointIds"], json!([own]));
        assert_eq!(stopped.body["preserveFocusHint"], turn > 0);
        let (frame, _) = top(&mut client, stopped.thread).await;
        let number = client.locals(&frame).await["number"].clone();
        threads.insert(number, stopped.thread);
    }
    let numbers: Vec<String> = threads.keys().cloned().collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7"]);
    let names = client.threads().await;
    for (number, thread) in &threads {
        let pid = programs[&number.parse::<i64>().expect("a number")].pid();
        let name = &names[thread];
        assert!(name.ends_with(" · MainThread"), "{name}");
        let sessions = daemon.sessions(&[&format!("pid={pid}")]).await;
        let session = sessions[0]["name"].as_str().expect("it has a name");
        assert!(name.starts_with(session), "{name}");
    }
    let modules = client.request("modules", json!({})).await;
    let modules = modules["modules"].as_array().expect("the schema says so");
    let ids: BTreeSet<String> = modules
        .iter()
        .map(|module| module["id"].to_string())
        .collect();
    assert_eq!(ids.len(), modules.len());

    // A step is of one of them alone.
    client.step("next", threads["3"]).await;
    let stopped = client.stopped_at(after).await;
    assert_eq!((stopped.thread, &*stopped.reason), (threads["3"], "step"));
    for (number, thread) in &threads {
        let frame = client.stack(*thread).await.swap_remove(0);
        assert_eq!(frame["line"], if number == "3" { after } else { line });
    }

    // One goes to its end, and takes its thread with it.
    client.continue_(threads["5"]).await;
    let gone = threads.remove("5").expect("it is there");
    client
        .event_where("thread", |body| {
            body["reason"] == "exited" && body["threadId"] == gone
        })
        .await;
    assert_eq!(
        programs
            .remove(&5)
            .expect("it is there")
            .wait()
            .await
            .stdout,
        "25\n"
    );

    // One that comes later stops before it has run past the line.
    let mut ninth = python.debug(&daemon, &script, &["8"]);
    let stopped = client.stopped_at(line).await;
    assert_eq!(stopped.body["hitBreakpointIds"], json!([own]));
    assert_eq!(ninth.stdout(), "");
    let (frame, _) = top(&mut client, stopped.thread).await;
    assert_eq!(client.evaluate("number", &frame).await, "8");

    // Each is continued, each ends, and the session goes on.
    client.continue_(stopped.thread).await;
    assert_eq!(ninth.wait().await.stdout, "40\n");
    for thread in threads.values() {
        client.continue_(*thread).await;
    }
    for (number, program) in &mut programs {
        let ended = program.wait().await;
        assert_eq!((ended.code, ended.stdout), (0, format!("{}\n", number * 5)));
    }
    let empty = async { while !client.threads().await.is_empty() {} };
    within("the last thread to go", empty).await;
    client.no_more("terminated").await;
    client.disconnect().await;
    daemon.stop().await;
}

const EXEC: &str = "\
import os, sys
turn = sys.argv[1]
print(turn)  # BREAK
if turn == 'first':
    os.execv(sys.executable, [sys.executable, '-X', 'frozen_modules=off', __file__, 'second'])
";

#[tokio::test]
async fn a_process_that_replaces_itself_begins_anew() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let script = Script::new("exec.py", EXEC);
    let mut program = Python::newest().debug(&daemon, &script, &["first"]);
    let line = script.line("# BREAK");
    let mut client = merged(&daemon, &json!({}))
        .breakpoints(script.path(), &[line])
        .attached()
        .await;
    let first = client.stopped_at(line).await;
    let (old, _) = top(&mut client, first.thread).await;
    client.continue_(first.thread).await;
    client
        .event_where("thread", |body| {
            body["reason"] == "exited" && body["threadId"] == first.thread
        })
        .await;
    let second = client.stopped_at(line).await;
    assert_ne!(second.thread, first.thread);
    assert_eq!(second.body["preserveFocusHint"], false);
    client
        .refused("scopes", json!({ "frameId": old["id"] }))
        .await;
    let (frame, _) = top(&mut client, second.thread).await;
    assert_eq!(client.evaluate("turn", &frame).await, "'second'");
    client.continue_(second.thread).await;
    assert_eq!(program.wait().await.stdout, "first\nsecond\n");
    client.disconnect().await;
}
