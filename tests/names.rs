//! What sessions are called, also by names that come late, and the order in which they are listed.

mod support;

use std::collections::BTreeSet;

use serde_json::{Value, json};
use support::wait::within;
use support::{Answer, Client, Daemon, DebugServer, Program, Python, Script};

/// The sessions that match, as the verb gives them.
async fn list(bystander: &mut Client, selector: &str) -> Vec<Value> {
    let arguments = json!({ "selector": selector, "all": true });
    let mut body = bystander.request("dbgproxy/sessions", arguments).await;
    serde_json::from_value(body["sessions"].take()).expect("it lists sessions")
}

/// The names of the sessions that match, in their order.
async fn names(bystander: &mut Client, selector: &str) -> Vec<String> {
    let sessions = list(bystander, selector).await;
    let names = sessions.iter().map(|session| session["name"].as_str());
    names.map(|name| name.expect("a name").into()).collect()
}

/// Waits until the sessions that match are called so, in this order.
async fn called(bystander: &mut Client, selector: &str, expected: &[&str]) {
    let mut last = Vec::new();
    let there = async {
        while last != expected {
            last = names(bystander, selector).await;
        }
    };
    if tokio::time::timeout(support::wait::LIMIT, there)
        .await
        .is_err()
    {
        panic!("{selector} is {last:?} and not {expected:?}");
    }
}

/// A scripted process that has been released.
async fn process(daemon: &Daemon, pid: i64, parent: i64) -> DebugServer {
    let server = DebugServer::new(pid).parent(parent).connect(daemon).await;
    server.released().await;
    server
}

/// What the guard reports, with these differences from a process that has no name.
fn report(more: &Value) -> Value {
    let mut report = json!({ "script": "-c", "python": "3.13.0", "environment": {}, "name": null });
    for (key, value) in more.as_object().expect("an object") {
        report[key] = value.clone();
    }
    report
}

/// A scripted process whose guard says this when it is greeted, and that answers no question after it.
async fn reporting(daemon: &Daemon, pid: i64, more: &Value) -> DebugServer {
    let server = DebugServer::new(pid).on("evaluate", |_| Answer::Silence);
    let server = server.connect(daemon).await;
    let guard = server.received("evaluate").await;
    server.event("dbgproxyReport", &report(more));
    server.respond(&guard, &json!({ "result": "", "variablesReference": 0 }));
    server.released().await;
    server
}

// The order.

#[tokio::test]
async fn sessions_are_listed_as_a_tree() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let (a, b) = (5_000_010, 5_000_020);
    let mut servers = Vec::new();
    for (pid, parent) in [
        (a, 1),
        (b, 1),
        (b + 1, b),
        (a + 1, a),
        (a + 2, a + 1),
        (a + 3, a),
        (a + 4, a + 1),
    ] {
        servers.push(process(&daemon, pid, parent).await);
    }
    // One ends, and a child of its comes after all.
    servers.remove(3).finish();
    let mut ended = Vec::new();
    while ended.len() != 1 {
        ended = list(&mut bystander, &format!("pid={},state=ended", a + 1)).await;
    }
    let late = process(&daemon, a + 5, a + 1).await;

    let all = list(&mut bystander, "all").await;
    let pids: Vec<i64> = all
        .iter()
        .filter_map(|session| session["pid"].as_i64())
        .collect();
    assert_eq!(pids, [a, a + 1, a + 2, a + 4, a + 5, a + 3, b, b + 1]);
    assert_eq!(all[4]["parent"], ended[0]["id"]);
    let live = daemon.sessions(&[]).await;
    let pids: Vec<i64> = live
        .iter()
        .filter_map(|session| session["pid"].as_i64())
        .collect();
    assert_eq!(pids, [a, a + 2, a + 4, a + 5, a + 3, b, b + 1]);
    drop((servers, late));
}

#[tokio::test]
async fn the_oldest_is_the_one_that_started_first() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let root = process(&daemon, 5_000_000, 1).await;
    let oldest = process(&daemon, 5_000_002, 1).await;
    // It stands before the other one in the tree.
    let child = process(&daemon, 5_000_001, 5_000_000).await;
    let client = Client::start(&daemon)
        .arguments(&json!({ "view": "process", "sessions": "pid=5000001..5000002" }))
        .attached()
        .await;
    let sessions = list(&mut bystander, "all").await;
    let clients: Vec<_> = sessions
        .iter()
        .map(|session| (session["pid"].as_i64(), session["clients"].as_i64()))
        .collect();
    let expected = [(5_000_000, 0), (5_000_001, 0), (5_000_002, 1)];
    let expected = expected.map(|(pid, clients)| (Some(pid), Some(clients)));
    assert_eq!(clients, expected);
    drop((root, oldest, child));
    client.disconnect().await;
}

const GENERATIONS: &str = "\
import subprocess, sys
depth = int(sys.argv[1])
if depth:
    children = [
        subprocess.Popen([sys.executable, __file__, str(depth - 1)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    for child in children:
        child.stdout.readline()
print('ready', flush=True)
sys.stdin.readline()
";

#[tokio::test]
async fn three_generations_are_a_tree_and_have_a_number_each() {
    let script = Script::new("family.py", GENERATIONS);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut bystander = Client::bystander(&daemon).await;
        let mut program = python.debug(&daemon, &script, &["2"]);
        program.printed("ready").await;
        let sessions = list(&mut bystander, "all").await;
        assert_eq!(sessions.len(), 7, "{sessions:#?}");
        let place = |id: &Value| sessions.iter().position(|session| session["id"] == *id);
        let parents: Vec<_> = sessions
            .iter()
            .map(|session| place(&session["parent"]))
            .collect();
        let expected = [None, Some(0), Some(1), Some(1), Some(0), Some(4), Some(4)];
        assert_eq!(parents, expected, "{sessions:#?}");
        let numbers: BTreeSet<_> = sessions
            .iter()
            .map(|session| session["name"].to_string())
            .collect();
        let expected = (1..=7).map(|number| match number {
            1 => json!("family.py").to_string(),
            number => json!(format!("family.py ({number})")).to_string(),
        });
        assert_eq!(numbers, expected.collect());
        assert_eq!(sessions[0]["name"], "family.py");
    }
}

// Numbers.

#[tokio::test]
async fn two_of_one_name_get_a_number() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let script = Script::new("worker.py", "print('ready', flush=True)\ninput()\n");
    let mut programs: Vec<Program> = Vec::new();
    for _ in 0..3 {
        let mut program = Python::newest().debug(&daemon, &script, &[]);
        program.printed("ready").await;
        programs.push(program);
    }
    let all = ["worker.py", "worker.py (2)", "worker.py (3)"];
    assert_eq!(names(&mut bystander, "name=worker.py").await, all);
    let second = list(&mut bystander, "\"worker.py (2)\"").await;
    assert_eq!(second.len(), 1);
    assert_eq!(second[0]["pid"], programs[1].pid());
    assert_eq!(
        names(&mut bystander, "name=\"worker.py (4)\"").await.len(),
        0
    );

    // The one that ends keeps its name, and the next has it too.
    let mut first = programs.remove(0);
    first.tell("").await;
    first.wait().await;
    called(&mut bystander, "worker.py,state=ended", &["worker.py"]).await;
    let mut fourth = Python::newest().debug(&daemon, &script, &[]);
    fourth.printed("ready").await;
    let live = names(&mut bystander, "worker.py,state=running").await;
    assert_eq!(live, ["worker.py (2)", "worker.py (3)", "worker.py"]);
    assert_eq!(names(&mut bystander, "worker.py").await[0], "worker.py");
}

#[tokio::test]
async fn a_renamed_session_frees_its_number() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let one = reporting(&daemon, 5_000_001, &json!({ "script": "a.py" })).await;
    let two = reporting(&daemon, 5_000_002, &json!({ "script": "a.py" })).await;
    assert_eq!(names(&mut bystander, "all").await, ["a.py", "a.py (2)"]);
    one.event("dbgproxyReport", &report(&json!({ "name": "Process-1" })));
    called(&mut bystander, "all", &["Process-1", "a.py (2)"]).await;
    let three = reporting(&daemon, 5_000_003, &json!({ "script": "/srv/a.py" })).await;
    let all = ["Process-1", "a.py (2)", "a.py"];
    assert_eq!(names(&mut bystander, "all").await, all);
    // Nothing new is no reason for another number.
    two.event("dbgproxyReport", &report(&json!({ "script": "a.py" })));
    three.event("dbgproxyReport", &report(&json!({ "name": "Process-1" })));
    let all = ["Process-1", "a.py (2)", "Process-1 (2)"];
    called(&mut bystander, "all", &all).await;
}

// Names that come late.

#[tokio::test]
async fn a_package_is_called_by_its_own_name() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    for (number, script, name) in [
        (1, "/srv/shop/__main__.py", "shop"),
        (2, "__main__.py", "__main__.py"),
    ] {
        let pid = 5_000_000 + number;
        let _process = reporting(&daemon, pid, &json!({ "script": script })).await;
        called(&mut bystander, &format!("pid={pid}"), &[name]).await;
    }
}

#[tokio::test]
async fn a_late_name_is_told_to_those_who_show_it_and_found_by_selectors() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let merged = |name: &str| {
        let arguments = json!({ "view": "merged" });
        Client::start(&daemon).named(name).arguments(&arguments)
    };
    let plain = merged("plain").attached();
    let refreshing = merged("refreshing")
        .announcing("supportsInvalidatedEvent")
        .attached();
    let selecting = merged("selecting").arguments(&json!({ "sessions": "label.worker=gw*" }));
    let (mut plain, mut refreshing, mut selecting) =
        tokio::join!(plain, refreshing, selecting.attached());
    let server = reporting(&daemon, 5_000_001, &json!({})).await;
    for client in [&mut plain, &mut refreshing] {
        client.event("thread").await;
        let threads = client.threads().await;
        assert!(
            threads.values().eq(["process 5000001 · MainThread"]),
            "{threads:?}"
        );
    }
    assert!(selecting.threads().await.is_empty());

    let late = json!({ "environment": { "PYTEST_XDIST_WORKER": "gw1" } });
    server.event("dbgproxyReport", &report(&late));
    let areas = refreshing.event("invalidated").await;
    assert_eq!(areas, json!({ "areas": ["threads"] }));
    selecting.event("thread").await;
    called(&mut bystander, "label.worker=gw1", &["gw1"]).await;
    for client in [&mut plain, &mut refreshing, &mut selecting] {
        let threads = client.threads().await;
        assert!(threads.values().eq(["gw1 · MainThread"]), "{threads:?}");
        client.no_more("invalidated").await;
    }
}

#[tokio::test]
async fn a_process_without_a_name_is_asked_again() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let server = reporting(&daemon, 5_000_001, &json!({})).await;
    let answer = json!({ "result": "", "variablesReference": 0 });
    let asked = server.received("evaluate").await;
    let expression = &asked["arguments"]["expression"];
    assert_eq!(expression, "__import__('_dbgproxy').tell()");
    server.event("dbgproxyReport", &report(&json!({ "name": "MainProcess" })));
    server.respond(&asked, &answer);
    let asked = server.received("evaluate").await;
    server.event(
        "dbgproxyReport",
        &report(&json!({ "name": "SpawnProcess-1" })),
    );
    server.respond(&asked, &answer);
    called(&mut bystander, "all", &["SpawnProcess-1"]).await;
}

#[tokio::test]
async fn a_pytest_worker_is_asked_at_each_stop_and_never_twice_at_a_time() {
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let environment = json!({ "PYTEST_XDIST_WORKER": "gw0" });
    let server = reporting(&daemon, 5_000_001, &json!({ "environment": environment })).await;
    let mut client = Client::start(&daemon).attached().await;
    for _ in 0..3 {
        server.stop_at(server.main_thread, "pause", &Value::Null);
        client.stopped().await;
    }
    let answer = json!({ "result": "", "variablesReference": 0 });
    let asked = server.received("evaluate").await;
    client.threads().await;
    assert_eq!(server.count("evaluate"), 2, "one is the guard's");
    for test in ["test_a", "test_b"] {
        let current = format!("test_it.py::{test} (call)");
        let environment = json!({ "PYTEST_XDIST_WORKER": "gw0", "PYTEST_CURRENT_TEST": current });
        server.event(
            "dbgproxyReport",
            &report(&json!({ "environment": environment })),
        );
        called(&mut bystander, "all", &[&format!("gw0 · {test}")]).await;
        if test == "test_a" {
            server.respond(&asked, &answer);
            let again = server.received("evaluate").await;
            server.respond(&again, &answer);
        }
    }
    client.threads().await;
    assert_eq!(
        server.count("evaluate"),
        3,
        "the second answer is for all later stops"
    );
}

const POOLS: &str = "\
import multiprocessing, os, sys

if __name__ == '__main__':
    pools = [multiprocessing.get_context(method).Pool(2) for method in ('fork', 'spawn', 'forkserver')]
    print('ready', flush=True)
    sys.stdin.readline()
";

#[tokio::test]
async fn the_workers_of_every_kind_of_pool_have_their_names() {
    let script = Script::new("pools.py", POOLS);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut bystander = Client::bystander(&daemon).await;
        let mut program = python.debug(&daemon, &script, &[]);
        program.printed("ready").await;
        let mut expected: BTreeSet<String> = ["pools.py", "resource_tracker", "forkserver"]
            .map(str::to_owned)
            .into();
        for (at, method) in ["Fork", "Spawn", "ForkServer"].iter().enumerate() {
            for number in [2 * at + 1, 2 * at + 2] {
                expected.insert(format!("{method}PoolWorker-{number}"));
            }
        }
        let mut found = BTreeSet::new();
        let there = async {
            while found != expected {
                found = names(&mut bystander, "all").await.into_iter().collect();
            }
        };
        if tokio::time::timeout(support::wait::LIMIT, there)
            .await
            .is_err()
        {
            panic!("{found:?} and not {expected:?}");
        }
    }
}

const RANKS: &str = "\
import multiprocessing, sys

def work(ours, theirs):
    theirs.close()
    ours.poll(None)

if __name__ == '__main__':
    pipes = []
    for method in ('fork', 'spawn'):
        context = multiprocessing.get_context(method)
        pipes.append(context.Pipe())
        context.Process(target=work, args=pipes[-1]).start()
        pipes[-1][0].close()
    print('ready', flush=True)
    sys.stdin.readline()
";

#[tokio::test]
async fn what_a_rank_starts_is_told_from_it() {
    let script = Script::new("train.py", RANKS);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut bystander = Client::bystander(&daemon).await;
        let mut command = python.command();
        command
            .args(["-m", "debugpy", "--connect", &daemon.connect()])
            .arg(script.path())
            .env("RANK", "3");
        let mut program = Program::start(command);
        program.printed("ready").await;
        let selector = "rank=3,\"rank 3*Process-*\"";
        let children = ["rank 3 · ForkProcess-1", "rank 3 · SpawnProcess-2"];
        called(&mut bystander, selector, &children).await;
        let main = format!("pid={}", program.pid());
        assert_eq!(names(&mut bystander, &main).await, ["rank 3"]);
    }
}

const TESTS: &str = "\
import pytest

@pytest.mark.parametrize('value', ['a::b (c)'])
def test_x(value):
    assert value  # BREAK
";

#[tokio::test]
async fn a_worker_of_pytest_is_called_after_its_test() {
    let script = Script::new("test_it.py", TESTS);
    let python = Python::all()
        .iter()
        .find(|python| python.packages().join("xdist").exists());
    let Some(python) = python else {
        assert!(std::env::var_os("CI").is_none(), "CI has pytest-xdist");
        eprintln!("no pytest-xdist here: passed over");
        return;
    };
    let daemon = Daemon::start().await;
    let mut bystander = Client::bystander(&daemon).await;
    let mut client = Client::start(&daemon)
        .arguments(&json!({ "view": "merged" }))
        .announcing("supportsInvalidatedEvent")
        .breakpoints(script.path(), &[script.line("# BREAK")])
        .attached()
        .await;
    let mut command = python.command();
    command
        .args(["-m", "debugpy", "--connect", &daemon.connect()])
        .args([
            "-m",
            "pytest",
            "-n",
            "2",
            "-p",
            "no:cacheprovider",
            "test_it.py",
        ])
        .current_dir(script.directory());
    let mut program = Program::start(command);
    let stopped = client.stopped_at(script.line("# BREAK")).await;
    called(&mut bystander, "state=stopped", &["gw0 · test_x"]).await;
    called(&mut bystander, "label.worker=gw1", &["gw1"]).await;
    let named = async {
        while client.threads().await[&stopped.thread] != "gw0 · test_x · MainThread" {
            client.event("invalidated").await;
        }
    };
    within("the thread's new name", named).await;
    client.continue_(stopped.thread).await;
    assert_eq!(program.wait().await.code, 0);
}
