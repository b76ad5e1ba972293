//! Your program comes first: a daemon that dies, at whatever moment, neither stops nor breaks nor silences it, and
//! what it starts later starts as if nothing were set.
//!
//! Not shown, because it does not hold: the time between a process's connection and the moment in which it has read
//! the guard's `evaluate` is not protected (README.md, "Limits"). A connection that is reset takes with it what was
//! sent and not read.

mod support;

use std::net::SocketAddr;

use serde_json::Value;
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Client, Daemon, Program, Python, Script};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// A program that starts children in every way that pydevd knows, and says how each of them ended.
const SOURCE: &str = "\
import forks, multiprocessing, subprocess, sys

def work(method):
    print(method)
    sys.exit(3)

def main():
    print('began')
    if len(sys.argv) > 1:
        sys.stdin.readline()
    print('goes on')  # BREAK
    for command in (['child.py'], ['-m', 'child'], ['-c', 'import child']):
        print(subprocess.run([sys.executable, *command]).returncode)
    for method in ('fork', 'spawn', 'forkserver'):
        process = multiprocessing.get_context(method).Process(target=work, args=(method,))
        process.start()
        process.join()
        print(process.exitcode)
    print(forks.fork())
    sys.exit(7)

if __name__ == '__main__':
    main()
";

const CHILD: &str = "import sys\nprint('child')\nsys.exit(3)\n";

/// In a module of its own: Python warns of a fork beside other threads only where the main script makes it.
const FORKS: &str = "\
import os

def fork():
    pid = os.fork()
    if pid == 0:
        print('os.fork')
        os._exit(3)
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
";

const STDOUT: &str = "\
began\ngoes on\nchild\n3\nchild\n3\nchild\n3\nfork\n3\nspawn\n3\nforkserver\n3\nos.fork\n3\n";

fn script() -> Script {
    Script::new("program.py", SOURCE)
        .with("child.py", CHILD)
        .with("forks.py", FORKS)
}

/// The program must end as it does without any debugging.
async fn ends_by_itself(mut program: Program) {
    let ended = program.wait().await;
    assert_eq!((&*ended.stdout, &*ended.stderr), (STDOUT, ""));
    assert_eq!(ended.code, 7);
}

/// How a connection ends when the kernel closes it for a killed daemon.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// Everything had been read.
    Closed,
    /// Something had not been read.
    Reset,
}

/// Stands between a program and the daemon, and is gone, with its port, once it has passed on a request of this name.
async fn relay(daemon: SocketAddr, last: &'static str, end: End) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("it is bound");
    let relay = async move {
        let (mut program, _) = listener.accept().await.expect("the program connects");
        let mut daemon = TcpStream::connect(daemon).await.expect("the daemon runs");
        if end == End::Reset {
            program.set_zero_linger().expect("a socket has this option");
        }
        let (mut from_program, mut to_program) = program.split();
        let (from_daemon, mut to_daemon) = daemon.split();
        let back = tokio::io::copy(&mut from_program, &mut to_daemon);
        let there = async {
            let mut frames = Frames::new(from_daemon);
            loop {
                let text = frames
                    .next()
                    .await
                    .expect("the daemon sends whole messages");
                let text = text.expect("the daemon goes on until the last request");
                let message: Value = serde_json::from_str(&text).expect("it is JSON");
                let written = to_program.write_all(&frame(&text)).await;
                written.expect("the program reads");
                if message["command"] == last {
                    break;
                }
            }
        };
        tokio::select! {
            () = there => {}
            _ = back => panic!("the program closed before {last:?}"),
        }
        drop(listener);
        if end == End::Closed {
            // What is unread when a socket is closed makes a reset of it, so everything is read until the end.
            let shut = to_program.shutdown().await;
            shut.expect("the program has not closed yet");
            let mut rest = tokio::io::sink();
            let rest = tokio::io::copy(&mut from_program, &mut rest).await;
            rest.expect("the program closes in its turn");
        }
    };
    (address, tokio::spawn(relay))
}

/// Runs the program through a relay that goes at this step of the greeting.
async fn dies_in_the_greeting(python: &Python, script: &Script, last: &'static str, end: End) {
    eprintln!("{python}: {last}, {end:?}");
    let daemon = Daemon::start().await;
    let (address, relay) = relay(daemon.address, last, end).await;
    let program = python.debug(address, script, &[]);
    let relayed = within("the step of the greeting", relay).await;
    relayed.expect("the relay saw the step");
    ends_by_itself(program).await;
}

/// The steps of the greeting from which on a process is protected.
const STEPS: [&str; 4] = ["evaluate", "initialize", "attach", "configurationDone"];

#[tokio::test]
async fn a_daemon_that_dies_at_any_step_of_the_greeting() {
    let script = script();
    for python in Python::all() {
        for steps in STEPS.chunks(2) {
            tokio::join!(
                dies_in_the_greeting(python, &script, steps[0], End::Closed),
                dies_in_the_greeting(python, &script, steps[1], End::Closed),
            );
        }
    }
}

#[tokio::test]
async fn a_connection_that_is_reset_at_any_step_of_the_greeting() {
    let script = script();
    // A reset may keep pydevd from reading what came before it: only from the guard's answer on it is protected.
    for step in &STEPS[1..] {
        dies_in_the_greeting(Python::newest(), &script, step, End::Reset).await;
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_programs_wait_for_an_ide() {
    let script = script();
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let program = python.debug(&daemon, &script, &[]);
        let held = async { while daemon.sessions(&["state=held"]).await.is_empty() {} };
        within("the program to be held", held).await;
        assert_eq!(program.stdout(), "");
        daemon.kill().await;
        ends_by_itself(program).await;
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_a_program_runs() {
    let script = script();
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut program = python.debug(&daemon, &script, &["wait"]);
        program.printed("began").await;
        daemon.kill().await;
        program.tell("go on").await;
        ends_by_itself(program).await;
    }
}

#[tokio::test]
async fn a_daemon_that_is_killed_while_a_program_is_stopped() {
    let script = script();
    let line = script.line("# BREAK");
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let client = Client::of_process(&daemon).breakpoints(script.path(), &[line]);
        let waiting = client.waiting().await;
        let program = python.debug(&daemon, &script, &[]);
        let mut client = waiting.attached().await;
        client.stopped_at(line).await;
        assert_eq!(program.stdout(), "began\n");
        daemon.kill().await;
        client.closed().await;
        ends_by_itself(program).await;
    }
}

#[tokio::test]
async fn a_daemon_that_is_asked_to_stop_while_a_program_is_stopped() {
    let script = script();
    let line = script.line("# BREAK");
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let program = Python::newest().debug(&daemon, &script, &[]);
    let mut client = Client::of_process(&daemon)
        .breakpoints(script.path(), &[line])
        .attached()
        .await;
    client.stopped_at(line).await;
    daemon.stop().await;
    client.event("terminated").await;
    client.closed().await;
    ends_by_itself(program).await;
}

/// A program whose children do the work, while it waits for them.
const POOL: &str = "\
import multiprocessing, sys

def square(number):
    return number * number  # BREAK

if __name__ == '__main__':
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        print(pool.map(square, range(2), chunksize=1))
";

#[tokio::test]
async fn a_daemon_that_is_killed_while_all_children_are_stopped() {
    let script = Script::new("pool.py", POOL);
    let line = script.line("# BREAK");
    for method in ["fork", "spawn", "forkserver"] {
        eprintln!("{method}");
        let daemon = Daemon::start().await;
        let mut root = Client::start(&daemon)
            .announcing("supportsStartDebuggingRequest")
            .attached()
            .await;
        let mut program = Python::newest().debug(&daemon, &script, &[method]);
        let mut clients = Vec::new();
        for _ in 0..3 {
            let request = root.reverse_request("startDebugging").await;
            let client = Client::start(&daemon)
                .arguments(&request["arguments"]["configuration"])
                .breakpoints(script.path(), &[line]);
            clients.push(client.attached().await);
        }
        for worker in &mut clients[1..] {
            worker.stopped_at(line).await;
        }
        daemon.kill().await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stdout), (0, "[0, 1]\n"), "{ended:?}");
        assert_eq!(ended.stderr, "");
    }
}

#[tokio::test]
async fn what_a_program_asks_debugpy_for_when_the_daemon_is_gone() {
    // It waits for an IDE when the daemon dies, and after that waits again and stops at its own breakpoint.
    let source = "\
import debugpy
print('waits')
debugpy.wait_for_client()
print('is released')
debugpy.wait_for_client()
debugpy.breakpoint()
print('ends')
";
    let script = Script::new("waits.py", source);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut program = python.debug(&daemon, &script, &[]);
        program.printed("waits").await;
        daemon.kill().await;
        let ended = program.wait().await;
        assert_eq!(ended.stdout, "waits\nis released\nends\n");
        assert_eq!((ended.code, &*ended.stderr), (0, ""));
    }
}
