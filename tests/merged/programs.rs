//! Real programs with real debugpy in one session.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

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

// A tree of processes, tasks, threads.

const TREE: &str = "\
import multiprocessing, subprocess, sys

def work(number):
    command = [sys.executable, '-X', 'frozen_modules=off', 'leaf.py', str(number)]
    if sys.version_info < (3, 11):
        del command[1:3]
    return int(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)

if __name__ == '__main__':
    with multiprocessing.get_context('fork').Pool(2) as pool:
        print(pool.map(work, [3, 4], 1))
";

const LEAF: &str = "\
import sys
number = int(sys.argv[1])
print(number * number)  # BREAK
";

#[tokio::test]
async fn a_tree_of_three_levels() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let script = Script::new("tree.py", TREE).with("leaf.py", LEAF);
        let leaf = script.directory().join("leaf.py");
        let mut client = merged(&daemon, &json!({}))
            .breakpoints(&leaf, &[3])
            .attached()
            .await;
        let mut program = python.debug(&daemon, &script, &[]);
        let mut numbers = BTreeMap::new();
        while numbers.len() < 2 {
            let stopped = client.stopped_at(3).await;
            let (frame, _) = top(&mut client, stopped.thread).await;
            numbers.insert(client.evaluate("number", &frame).await, stopped.thread);
        }
        assert_eq!(numbers.keys().collect::<Vec<_>>(), ["3", "4"]);

        // Each level is there, by its name, and hangs on the one above.
        let names = client.threads().await;
        for thread in numbers.values() {
            // The one that came first keeps its plain name.
            let name = names[thread].replace(" (2)", "");
            assert_eq!(name, "leaf.py · MainThread");
        }
        for worker in ["ForkPoolWorker-1", "ForkPoolWorker-2"] {
            let name = format!("{worker} · MainThread");
            assert!(names.values().any(|other| *other == name), "{names:?}");
        }
        assert!(names.values().any(|name| name == "tree.py · MainThread"));
        let sessions = daemon.sessions(&[]).await;
        let parent = |session: &Value| {
            let is_it = |other: &&Value| other["id"] == session["parent"];
            sessions.iter().find(is_it).cloned().unwrap_or_default()
        };
        let leaves = sessions
            .iter()
            .filter(|session| session["argv"].to_string().contains("leaf.py"));
        let leaves: Vec<&Value> = leaves.collect();
        assert_eq!(leaves.len(), 2);
        for leaf in leaves {
            let worker = parent(leaf);
            let name = worker["name"].as_str().unwrap_or_default();
            assert!(name.starts_with("ForkPoolWorker"), "{worker}");
            assert_eq!(parent(&worker)["name"], "tree.py");
        }
        for thread in numbers.values() {
            client.continue_(*thread).await;
        }
        assert_eq!(program.wait().await.stdout, "[9, 16]\n");
        client.disconnect().await;
    }
}

const TASKS: &str = "\
import asyncio, sys
name = sys.argv[1]

async def inner(number):
    await asyncio.sleep(0)
    return number * 2  # BREAK

async def outer(number):
    return await inner(number) + 1

async def main():
    print(name, await asyncio.gather(outer(1), outer(2)))

asyncio.run(main())
";

#[tokio::test]
async fn tasks_in_two_processes() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let script = Script::new("tasks.py", TASKS);
        let line = script.line("# BREAK");
        let mut programs = ["a", "b"].map(|name| python.debug(&daemon, &script, &[name]));
        let mut client = merged(&daemon, &json!({}))
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let mut seen = BTreeSet::new();
        for _ in 0..4 {
            let stopped = client.stopped_at(line).await;
            let stack = client.stack(stopped.thread).await;
            assert_eq!(
                (&stack[0]["name"], &stack[1]["name"]),
                (&json!("inner"), &json!("outer"))
            );
            let name = client.evaluate("name", &stack[0]).await;
            let number = client.locals(&stack[0]).await["number"].clone();
            let outer = client.evaluate("number", &stack[1]).await;
            assert_eq!(number, outer);
            assert!(seen.insert((name, number)));
            client.continue_(stopped.thread).await;
        }
        for (name, program) in ["a", "b"].iter().zip(&mut programs) {
            assert_eq!(program.wait().await.stdout, format!("{name} [3, 5]\n"));
        }
        client.disconnect().await;
    }
}

const THREADS: &str = "\
import threading
def work(number):
    print(number)  # BREAK
for number, name in enumerate(['alpha', 'beta']):
    thread = threading.Thread(target=work, args=(number,), name=name)
    thread.start()
    thread.join()
";

#[tokio::test]
async fn threads_in_two_processes() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let script = Script::new("threads.py", THREADS);
        let line = script.line("# BREAK");
        let mut programs = [(); 2].map(|()| python.debug(&daemon, &script, &[]));
        let mut client = merged(&daemon, &json!({}))
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let mut seen = BTreeSet::new();
        let mut stops = 0;
        while stops < 4 {
            let stopped = client.stopped().await;
            if stopped.reason != "breakpoint" {
                // The main thread waits for the other, and stops with it.
                continue;
            }
            stops += 1;
            let stack = client.stack(stopped.thread).await;
            assert_eq!(
                (&stack[0]["name"], &stack[0]["line"]),
                (&json!("work"), &json!(line))
            );
            let number = client.locals(&stack[0]).await["number"].clone();
            let name = client.threads().await[&stopped.thread].replace(" (2)", "");
            let expected = ["alpha", "beta"][number.parse::<usize>().expect("a number")];
            assert_eq!(name, format!("threads.py · {expected}"));
            assert!(seen.insert(stopped.thread), "{name} twice");
            client.continue_(stopped.thread).await;
        }
        for program in &mut programs {
            assert_eq!(program.wait().await.stdout, "0\n1\n");
        }
        client.disconnect().await;
    }
}

const GROUP: &str = "\
import sys
print('runs')
number = int(sys.argv[1])
print(number)  # BREAK
print('ends')
";

#[tokio::test]
async fn a_program_that_comes_to_a_stopped_group_has_run_no_line() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let script = Script::new("group.py", GROUP);
        let line = script.line("# BREAK");
        let mut client = merged(&daemon, &json!({ "stopPolicy": "group" }))
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let mut first = python.debug(&daemon, &script, &["1"]);
        let stopped = client.stopped_at(line).await;
        let mut second = python.debug(&daemon, &script, &["2"]);
        let paused = client.stopped().await;
        assert_eq!(paused.reason, "pause");
        assert_ne!(paused.thread, stopped.thread);
        // A step of the first is its own.
        client.step("next", stopped.thread).await;
        assert_eq!(client.stopped().await.thread, stopped.thread);
        first.printed("1\n").await;
        assert_eq!(second.stdout(), "");
        // Both run on, whichever is named; the second to its breakpoint, if the first has not stopped it before.
        client.continue_(paused.thread).await;
        let next = client.stopped_at(line).await;
        assert_eq!((next.thread, &*next.reason), (paused.thread, "breakpoint"));
        assert_eq!(second.stdout(), "runs\n");
        client.continue_(next.thread).await;
        assert_eq!(first.wait().await.stdout, "runs\n1\nends\n");
        assert_eq!(second.wait().await.stdout, "runs\n2\nends\n");
        client.disconnect().await;
    }
}
