//! A crowd: twenty processes reach a breakpoint at the same time, and five clients watch each of them.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::{Client, Daemon, Python, Script};
use tokio::task::JoinSet;

const PROCESSES: usize = 20;
const CLIENTS: usize = 5;
/// How many times each process stops.
const ROUNDS: usize = 3;

/// All meet at a barrier before each round, and reach the breakpoint from there.
const SOURCE: &str = "\
import multiprocessing, sys

def work(number, barrier):
    for turn in range(3):
        barrier.wait()
        total = number + turn  # BREAK
    barrier.wait()

if __name__ == '__main__':
    context = multiprocessing.get_context('fork')
    barrier = context.Barrier(20 + 1)
    processes = [context.Process(target=work, args=(number, barrier)) for number in range(20)]
    for process in processes:
        process.start()
    print('started')
    sys.stdin.readline()
    for turn in range(4):
        barrier.wait()
    for process in processes:
        process.join()
    print([process.exitcode for process in processes] == [0] * 20)
";

/// A stop as one client sees it: it asks everything at once, and then takes the answers. Returns `number` and `turn`.
async fn look(client: &mut Client, line: i64) -> (i64, String, String) {
    let stopped = client.stopped().await;
    let own = &client.breakpoints[0]["id"];
    assert_eq!(stopped.body["hitBreakpointIds"], json!([own]));
    let thread = json!({ "threadId": stopped.thread });
    let threads = client.send("threads", Value::Null).await;
    let modules = client.send("modules", json!({})).await;
    let stack = client.send("stackTrace", thread).await;
    let nothing = client.send("readMemory", json!({})).await;
    let stack = client.response(stack).await;
    let frame = &stack["body"]["stackFrames"][0];
    assert_eq!(frame["line"], line, "{stack}");
    let locals = client.locals(frame).await;
    assert_eq!(client.response(threads).await["success"], true);
    assert_eq!(client.response(modules).await["success"], true);
    assert_eq!(client.response(nothing).await["success"], false);
    (
        stopped.thread,
        locals["number"].clone(),
        locals["turn"].clone(),
    )
}

/// The clients of one process, from its first stop to its end. Returns the number that the process has.
async fn watch(mut clients: Vec<Client>, line: i64) -> String {
    let mut numbers = Vec::new();
    for round in 0..ROUNDS {
        let mut thread = 0;
        for client in &mut clients {
            let (stopped, number, turn) = look(client, line).await;
            assert_eq!(turn, round.to_string(), "each stop once, and none left out");
            thread = stopped;
            numbers.push(number);
        }
        // One after the other lets it run on.
        clients[round % CLIENTS].continue_(thread).await;
        for client in &mut clients {
            client.event("continued").await;
        }
    }
    for client in &mut clients {
        client.event("terminated").await;
        client.no_more("stopped").await;
        client.no_more("continued").await;
        client.no_more("terminated").await;
    }
    // It is checked on the way that every request has been answered once.
    for client in clients {
        client.disconnect().await;
    }
    numbers.dedup();
    assert_eq!(numbers.len(), 1, "one process, one number: {numbers:?}");
    numbers.remove(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_client_gets_every_stop_once_and_every_answer() {
    let script = Script::new("crowd.py", SOURCE);
    let line = script.line("# BREAK");
    let daemon = Daemon::start().await;
    let mut program = Python::newest().debug(&daemon, &script, &[]);
    program.printed("started").await;
    let all_there = async {
        loop {
            let sessions = daemon.sessions(&["state=running"]).await;
            if sessions.len() == 1 + PROCESSES {
                return sessions;
            }
        }
    };
    let sessions = within("all processes", all_there).await;

    let mut watched = JoinSet::new();
    for session in sessions {
        if session["parent"].is_null() {
            continue;
        }
        let mut clients = Vec::new();
        for number in 0..CLIENTS {
            let client = Client::start(&daemon)
                .named(&format!("{number} of {}", session["pid"]))
                .arguments(&json!({ "session": session["id"] }))
                .breakpoints(script.path(), &[line]);
            clients.push(client.attached().await);
        }
        watched.spawn(watch(clients, line));
    }
    program.tell("go").await;
    let mut numbers = watched.join_all().await;
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), PROCESSES);
    let ended = program.wait().await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, "started\nTrue\n"),
        "{ended:?}"
    );
    daemon.stop().await;
}
