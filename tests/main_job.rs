//! The main job, as README.md tells it: one daemon, a program that is many processes, and IDEs that stop in each.
//!
//! The commands are taken from the README, so that what it promises is what is run.

mod support;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use support::python::{clean, line};
use support::wait::within;
use support::{Client, Daemon, Program, Python};
use tokio::process::Command;

const README: &str = include_str!("../README.md");
const POOL: &str = include_str!("../examples/pool.py");
/// Where the README says that the daemon listens.
const ADDRESS: &str = "127.0.0.1:5678";
/// How many workers the pool has, each of which has one number to square.
const WORKERS: usize = 4;

/// The commands of the README that begin like this, of which there must be one.
fn command(beginning: &str) -> Vec<&'static str> {
    let blocks = README
        .split("```sh\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next());
    let mut commands = blocks
        .flat_map(str::lines)
        .filter(|line| line.starts_with(beginning));
    let command = commands
        .next()
        .unwrap_or_else(|| panic!("README.md has no command {beginning:?}"));
    assert_eq!(commands.next(), None, "README.md has two such commands");
    command.split_whitespace().collect()
}

/// The README's daemon: the built binary in the place of cargo, on a free port.
async fn daemon(more: &[&str]) -> Daemon {
    let words = command("cargo run ");
    let end = words
        .iter()
        .position(|word| *word == "--")
        .expect("cargo's words end with --");
    assert_eq!(words[end + 1..], ["serve"], "the README starts a daemon");
    Daemon::with(more).await
}

/// The README's program, with a Python that has debugpy, and connecting to the daemon's port.
fn program(python: &Python, daemon: &Daemon) -> Program {
    let mut words = command("python -m debugpy ").into_iter();
    assert_eq!(words.next(), Some("python"));
    let mut command = python.command();
    let mut connects = false;
    for word in words {
        connects |= word == ADDRESS;
        command.arg(if word == ADDRESS {
            daemon.connect()
        } else {
            word.into()
        });
    }
    assert!(connects, "the README's program connects to {ADDRESS}");
    command.current_dir(env!("CARGO_MANIFEST_DIR"));
    Program::start(command)
}

/// The file and the line that the example asks to set a breakpoint on.
fn place() -> (PathBuf, i64) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/pool.py");
    let path = path.canonicalize().expect("the example is there");
    (path, line(POOL, "set a breakpoint here"))
}

/// What a worker is about to square, in the frame where it is stopped.
async fn number(worker: &mut Client, thread: i64) -> String {
    let stack = worker.stack(thread).await;
    assert_eq!(stack[0]["name"], "square");
    worker.locals(&stack[0]).await["number"].clone()
}

/// Lets every worker run on, and sees the program to its end.
async fn finish(mut workers: Vec<(Client, i64)>, mut program: Program) {
    for (worker, thread) in &mut workers {
        worker.continue_(*thread).await;
    }
    for (mut worker, _) in workers {
        worker.event("terminated").await;
        worker.disconnect().await;
    }
    let ended = program.wait().await;
    assert_eq!((ended.code, &*ended.stdout), (0, "[0, 1, 4, 9]\n"));
    assert_eq!(ended.stderr, "");
}

/// The README's first command: a program that nobody has prepared, and a daemon of its own, on a free port.
#[tokio::test]
async fn a_program_under_run_stops_in_every_worker() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut words = command("dbgproxy run ").into_iter().skip(2).peekable();
        let mut run = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
        clean(&mut run);
        run.current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["run", "--listen", "127.0.0.1:0"]);
        while let Some(option) = words.next_if(|word| *word != "--") {
            run.arg(option);
        }
        assert_eq!((words.next(), words.next()), (Some("--"), Some("python")));
        run.arg("--").arg(&python.executable).args(words);
        let program = Program::start(run);
        let address = within("the daemon's line", async {
            loop {
                let said = program.stderr();
                let rest = said.split("attach an IDE to ").nth(1);
                if let Some((address, _)) = rest.and_then(|rest| rest.split_once(' ')) {
                    return address.parse::<std::net::SocketAddr>().expect("an address");
                }
                tokio::task::yield_now().await;
            }
        });
        let (path, line) = place();
        let mut client = Client::start(address.await)
            .breakpoints(&path, &[line])
            .attached()
            .await;
        let mut numbers = BTreeSet::new();
        for _ in 0..WORKERS {
            let stopped = client.stopped_at(line).await;
            numbers.insert(number(&mut client, stopped.thread).await);
            client.continue_(stopped.thread).await;
        }
        assert_eq!(numbers, ["0", "1", "2", "3"].map(String::from).into());
        let mut program = program;
        program.printed("[0, 1, 4, 9]\n").await;
        client.disconnect().await;
        assert_eq!(program.wait().await.code, 0);
    }
}

#[tokio::test]
async fn a_breakpoint_stops_in_every_worker_of_a_tree() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon(&[]).await;
        let (path, line) = place();
        let mut root = Client::start(&daemon)
            .named("root")
            .announcing("supportsStartDebuggingRequest")
            .attached()
            .await;
        let program = program(python, &daemon);

        let mut main = None;
        let mut workers = Vec::new();
        while workers.len() < WORKERS {
            let request = root.reverse_request("startDebugging").await;
            assert_eq!(request["arguments"]["request"], "attach");
            let configuration = request["arguments"]["configuration"].clone();
            let mut client = Client::start(&daemon)
                .named(&configuration["name"].to_string())
                .announcing("supportsStartDebuggingRequest")
                .arguments(&configuration)
                .breakpoints(&path, &[line])
                .attached()
                .await;
            root.respond(&request, true, Value::Null).await;
            assert_eq!(client.breakpoints[0]["verified"], true);
            if main.is_none() {
                assert_eq!(configuration["subProcessId"], program.pid());
                main = Some(client);
                continue;
            }
            let stopped = client.stopped_at(line).await;
            assert_eq!(stopped.reason, "breakpoint");
            // Older ones do not say which breakpoint was hit.
            if python.debugpy == "1.8.22" {
                let own = &client.breakpoints[0]["id"];
                assert_eq!(stopped.body["hitBreakpointIds"], json!([own]));
            }
            workers.push((client, stopped.thread));
        }

        let mut numbers = BTreeSet::new();
        for (worker, thread) in &mut workers {
            numbers.insert(number(worker, *thread).await);
        }
        assert_eq!(numbers, ["0", "1", "2", "3"].map(String::from).into());
        finish(workers, program).await;
        let mut main = main.expect("the first was the program itself");
        main.event("terminated").await;
        root.no_more("terminated").await;
        root.no_more("startDebugging").await;
    }
}

#[tokio::test]
async fn a_breakpoint_stops_in_every_worker_of_a_plain_client() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon(&[]).await;
        let (path, line) = place();
        let waiting = Client::of_process(&daemon)
            .named("main")
            .breakpoints(&path, &[line])
            .waiting()
            .await;
        let program = program(python, &daemon);
        let mut main = waiting.attached().await;

        let mut workers = Vec::new();
        while workers.len() < WORKERS {
            let body = main.event("debugpyAttach").await;
            let mut worker = Client::start(&daemon)
                .named(&body["name"].to_string())
                .arguments(&body)
                .breakpoints(&path, &[line])
                .attached()
                .await;
            let stopped = worker.stopped_at(line).await;
            workers.push((worker, stopped.thread));
        }
        finish(workers, program).await;
        main.event("terminated").await;
        main.disconnect().await;
        daemon.stop().await;
    }
}

#[tokio::test]
async fn two_clients_see_one_stop_and_a_killed_one_comes_back_to_it() {
    let daemon = daemon(&["--wait-for-ide"]).await;
    let (path, line) = place();
    let program = program(Python::newest(), &daemon);
    let mut main = Client::of_process(&daemon).named("main").attached().await;
    let first = main.event("debugpyAttach").await;
    let ide = |name: &str, configuration: &Value| {
        Client::start(&daemon)
            .named(name)
            .arguments(configuration)
            .breakpoints(&path, &[line])
    };

    let mut one = ide("one", &first).attached().await;
    let stopped = one.stopped_at(line).await;
    // All stop before one goes on: it would take another number.
    let mut workers = Vec::new();
    for _ in 1..WORKERS {
        let body = main.event("debugpyAttach").await;
        let mut worker = ide("worker", &body).attached().await;
        let stopped = worker.stopped_at(line).await;
        workers.push((worker, stopped.thread));
    }

    let mut other = ide("other", &first).attached().await;
    let same = other.stopped_at(line).await;
    assert_eq!(
        (&same.reason, same.thread),
        (&stopped.reason, stopped.thread)
    );
    let value = number(&mut one, stopped.thread).await;
    assert_eq!(number(&mut other, stopped.thread).await, value);

    // It dies with an answer under way: its socket is reset.
    one.send("stackTrace", json!({ "threadId": stopped.thread }))
        .await;
    one.kill();
    let mut back = ide("back", &first).attached().await;
    let again = back.stopped_at(line).await;
    assert_eq!(again.thread, stopped.thread);
    assert_eq!(number(&mut back, again.thread).await, value);
    other.no_more("continued").await;

    // One goes on, and the other is told.
    back.continue_(again.thread).await;
    other.event("continued").await;
    back.disconnect().await;
    finish(workers, program).await;
    other.event("terminated").await;
}

#[tokio::test]
async fn the_options_of_the_readme_are_those_of_the_help() {
    let mut help = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
    clean(&mut help);
    let help = within("the help", help.args(["serve", "--help"]).output()).await;
    let help = help.expect("the daemon's binary can be started");
    let help = String::from_utf8(help.stdout).expect("it is text");
    let option = |line: &str| {
        let line = &line[line.find("--")?..];
        let end = line.find(|c: char| !(c.is_ascii_lowercase() || c == '-'));
        Some(line[..end.unwrap_or(line.len())].to_owned())
    };
    let of_help: BTreeSet<String> = help
        .lines()
        .filter(|line| line.trim_start().starts_with('-'))
        .filter_map(option)
        .filter(|option| option != "--help")
        .collect();
    let of_readme: BTreeSet<String> = README
        .lines()
        .filter(|line| line.starts_with("| `--"))
        .filter_map(option)
        .collect();
    assert_eq!(of_readme, of_help);

    // So are the variables, but for RUST_LOG, which is not ours.
    let variables = |text: &str| -> BTreeSet<String> {
        text.split(|c: char| !(c.is_ascii_uppercase() || c == '_'))
            .filter(|word| word.starts_with("DBGPROXY_"))
            .map(String::from)
            .collect()
    };
    let rows = README.lines().filter(|line| line.starts_with("| `--"));
    let of_readme = variables(&rows.collect::<String>());
    assert_eq!(of_readme, variables(&help));
}
