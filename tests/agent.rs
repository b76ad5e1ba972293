//! Processes that nobody has started for debugging: the agent in them says hello and sleeps, and pydevd comes when
//! somebody wants to look.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Client, Daemon, Program, Python, Script};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

/// A program that goes on until it is told to stop, and says whether debugpy is loaded.
const LOOP: &str = "\
import os, select, sys, time
def turn(n):
    return n + 1  # BREAK
n = 0
print('ready', 'debugpy' in sys.modules)
while not select.select([0], [], [], 0.005)[0]:
    n = turn(n)
os.read(0, 1)
# pydevd is about to leave, unless we are told that it is not.
until = time.monotonic() + 30
while sys.gettrace() and time.monotonic() < until and not select.select([0], [], [], 0.005)[0]:
    turn(n)
print('end', sys.gettrace(), 'debugpy' in sys.modules)
";

/// The session of a process, once it is in that state.
async fn session(daemon: &Daemon, pid: i64, state: &str) -> Value {
    loop {
        let arguments = json!({ "selector": format!("pid={pid}"), "all": true });
        let (_, mut body) = daemon.verb("sessions", arguments).await;
        let sessions = body["sessions"].as_array_mut().expect("the verb says so");
        if let Some(session) = sessions.pop() {
            if session["state"] == state {
                return session;
            }
            assert_ne!(session["state"], "ended", "{session}");
        }
        tokio::task::yield_now().await;
    }
}

/// A client of a program alone, which is to stop it in its loop.
async fn debugging(daemon: &Daemon, program: &Program, script: &Script) -> Client {
    Client::start(daemon)
        .arguments(&program.view())
        .breakpoints(script.path(), &[script.line("# BREAK")])
        .attached()
        .await
}

#[tokio::test]
async fn a_process_sleeps_until_somebody_looks_and_sleeps_again() {
    let mut all = tokio::task::JoinSet::new();
    for python in Python::all() {
        all.spawn(sleep_wake_and_sleep_again(python));
    }
    while let Some(done) = all.join_next().await {
        done.expect("each passes");
    }
}

async fn sleep_wake_and_sleep_again(python: &'static Python) {
    eprintln!("{python}");
    let daemon = Daemon::start().await;
    let script = Script::new("loop.py", LOOP);
    let mut program = python.run_attached(&daemon, &script).await;
    program.printed("ready False").await;
    let asleep = session(&daemon, program.pid(), "dormant").await;
    assert_eq!(asleep["name"], "loop.py");

    for _ in 0..2 {
        let mut client = debugging(&daemon, &program, &script).await;
        let stopped = client.stopped_at(script.line("# BREAK")).await;
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.evaluate("n >= 0", &stack[0]).await, "True");
        client.continue_(stopped.thread).await;
        client.stopped_at(script.line("# BREAK")).await;
        client.disconnect().await;
        let again = session(&daemon, program.pid(), "dormant").await;
        assert_eq!(again["id"], asleep["id"]);
    }
    program.tell("").await;
    let ended = program.wait().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    assert!(ended.stdout.contains("end None True"), "{ended:?}");
    assert_eq!(ended.stderr, "");
}

/// A main thread that calls nothing and never waits, and has run for a while when it says so.
const SPIN: &str = "\
running = True
def spin():
    n = 0
    while running:
        n += 1  # SPIN
        if n == 1000000:
            print('spins')
    print('end')
spin()
";

#[tokio::test]
async fn a_busy_main_thread_stops_at_what_is_set_later() {
    for python in Python::matrix() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = Script::new("spin.py", SPIN);
        let line = script.line("# SPIN");
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("spins").await;
        // Once with what is set before pydevd comes, and once with what is set when it is there.
        let mut client = Client::start(&daemon)
            .arguments(&program.view())
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let stopped = client.stopped_at(line).await;
        client.set_breakpoints(script.path(), &[]).await;
        client.continue_(stopped.thread).await;
        let set = json!({ "line": line });
        client.set_breakpoints(script.path(), &[set]).await;
        let stopped = client.stopped_at(line).await;
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.evaluate("n > 1000000", &stack[0]).await, "True");
        let end = "globals().update(running=False)";
        client.evaluate(end, &stack[0]).await;
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        let ended = program.wait().await;
        let seen = (ended.code, &*ended.stdout, &*ended.stderr);
        assert_eq!(seen, (0, "spins\nend\n", ""), "{python}");
        client.disconnect().await;
    }
}

/// A coroutine of each kind, and a generator, that are suspended until there is something to read.
const SUSPENDED: &str = "\
import asyncio

def generator():
    yield 1
    yield 2  # GENERATOR

async def asynchronous_generator():
    yield 1
    yield 2  # ASYNCHRONOUS

async def inner(event):
    await event.wait()
    return 2  # INNER

async def outer(event):
    return await inner(event)

async def main():
    event, first, second = asyncio.Event(), generator(), asynchronous_generator()
    next(first)
    await second.__anext__()
    task = asyncio.ensure_future(outer(event))
    asyncio.get_running_loop().add_reader(0, event.set)
    await asyncio.sleep(0)
    print('ready')
    await event.wait()
    asyncio.get_running_loop().remove_reader(0)  # MAIN
    print(await task, next(first), await second.__anext__())

asyncio.run(main())
";

#[tokio::test]
async fn what_is_suspended_stops_at_what_is_set_meanwhile() {
    let mut all = tokio::task::JoinSet::new();
    for python in Python::matrix() {
        for is_awake in [false, true] {
            all.spawn(suspended(python, is_awake));
        }
    }
    while let Some(done) = all.join_next().await {
        done.expect("each passes");
    }
}

/// Waits until pydevd is in all threads of a process that has been running: it is configured a moment before.
async fn settled(client: &mut Client) {
    let agent = "__import__('sys').modules['dbgproxy._agent'].agent";
    let expression = format!("{agent}.busy.acquire(True, 20) and {agent}.busy.release()");
    let arguments = json!({ "expression": expression, "context": "repl" });
    client.request("evaluate", arguments).await;
}

/// Sets breakpoints where pydevd is in the process already, or comes only then.
async fn suspended(python: &'static Python, is_awake: bool) {
    let daemon = Daemon::start().await;
    let script = Script::new("suspended.py", SUSPENDED);
    // In the order in which they are passed: the task has waited first.
    let markers = ["# INNER", "# MAIN", "# GENERATOR", "# ASYNCHRONOUS"];
    let lines = markers.map(|marker| script.line(marker));
    let mut program = python.run_attached(&daemon, &script).await;
    program.printed("ready").await;
    let client = Client::start(&daemon)
        .named(&format!("{python}, awake: {is_awake}"))
        .arguments(&program.view());
    let mut client = if is_awake {
        let mut client = client.attached().await;
        let breakpoints = lines.map(|line| json!({ "line": line }));
        client.set_breakpoints(script.path(), &breakpoints).await;
        client
    } else {
        client.breakpoints(script.path(), &lines).attached().await
    };
    settled(&mut client).await;
    program.tell("").await;
    for line in lines {
        let stopped = client.stopped_at(line).await;
        client.continue_(stopped.thread).await;
    }
    client.event("terminated").await;
    let ended = program.wait().await;
    let seen = (ended.code, &*ended.stdout, &*ended.stderr);
    assert_eq!(seen, (0, "ready\n2 2 2\n", ""), "{python}");
    client.disconnect().await;
}

#[tokio::test]
async fn sessions_are_back_after_the_daemon_was_killed() {
    let port = support::own_port();
    let daemon = Daemon::start_on(port).await;
    let script = Script::new("loop.py", LOOP);
    let mut programs = Vec::new();
    for python in Python::all() {
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("ready False").await;
        let id = session(&daemon, program.pid(), "dormant").await["id"].clone();
        programs.push((program, id));
    }
    // One of them is being debugged, and stopped.
    let mut client = debugging(&daemon, &programs[0].0, &script).await;
    client.stopped_at(script.line("# BREAK")).await;
    daemon.kill().await;
    drop(client);

    let daemon = Daemon::start_on(port).await;
    for (mut program, id) in programs {
        assert_eq!(session(&daemon, program.pid(), "dormant").await["id"], id);
        let mut client = debugging(&daemon, &program, &script).await;
        let stopped = client.stopped_at(script.line("# BREAK")).await;
        assert_eq!(stopped.reason, "breakpoint");
        client.disconnect().await;
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    }
}

/// A client may name a process that has just been started and has not said hello yet: it is not injected by force.
#[tokio::test]
async fn a_process_that_is_just_starting_is_waited_for() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let script = Script::new("loop.py", LOOP);
        let mut program = python.run_attached(&daemon, &script).await;
        let mut client = debugging(&daemon, &program, &script).await;
        client.stopped_at(script.line("# BREAK")).await;
        client.disconnect().await;
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    }
}

#[tokio::test]
async fn twenty_processes_survive_three_daemons() {
    let port = support::own_port();
    let mut daemon = Daemon::start_on(port).await;
    let script = Script::new("loop.py", LOOP);
    let mut programs = Vec::new();
    for python in Python::all().iter().cycle().take(20) {
        programs.push(python.run_attached(&daemon, &script).await);
    }
    let mut ids = Vec::new();
    for program in &mut programs {
        program.printed("ready False").await;
        ids.push(session(&daemon, program.pid(), "dormant").await["id"].clone());
    }
    for _ in 0..3 {
        daemon.kill().await;
        daemon = Daemon::start_on(port).await;
        for (program, id) in programs.iter().zip(&ids) {
            assert_eq!(session(&daemon, program.pid(), "dormant").await["id"], *id);
        }
    }
    let mut client = Client::start(&daemon)
        .arguments(&json!({ "view": "merged" }))
        .breakpoints(script.path(), &[script.line("# BREAK")])
        .attached()
        .await;
    let mut stopped = std::collections::BTreeSet::new();
    while stopped.len() < programs.len() {
        let stop = client.stopped().await;
        assert_eq!(stop.reason, "breakpoint");
        assert!(stopped.insert(stop.thread), "it has run on by itself");
    }
    client.disconnect().await;
    for mut program in programs {
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
        assert_eq!(ended.stdout, "ready False\nend None True\n");
    }
}

#[tokio::test]
async fn what_was_stopped_runs_on_without_the_daemon_and_does_not_stop_for_the_next() {
    for python in Python::all() {
        let port = support::own_port();
        let daemon = Daemon::start_on(port).await;
        let script = Script::new("loop.py", LOOP);
        let mut program = python.run_attached(&daemon, &script).await;
        program.printed("ready False").await;
        let mut client = debugging(&daemon, &program, &script).await;
        client.stopped_at(script.line("# BREAK")).await;
        daemon.kill().await;
        drop(client);

        let daemon = Daemon::start_on(port).await;
        session(&daemon, program.pid(), "dormant").await;
        let mut client = Client::start(&daemon)
            .arguments(&program.view())
            .attached()
            .await;
        client.no_more("stopped").await;
        // The debugger stays: there is a client.
        program.tell("\n").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{python}: {ended:?}");
        client.event("terminated").await;
        client.no_more("stopped").await;
        client.disconnect().await;
    }
}

/// A daemon that dies at its first message to the agent, or when the debugger comes.
#[tokio::test]
async fn a_daemon_that_dies_at_the_start_leaves_the_program_alone() {
    let helper = Daemon::start().await;
    let script = Script::new("ends.py", "import sys\nprint('ran')\nsys.exit(3)\n");
    for python in Python::all() {
        for answers in [false, true] {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let address = listener.local_addr().expect("it has one").to_string();
            let daemon = tokio::spawn(die(listener, answers));
            let mut command = python.attached(&helper).await;
            command.env("DBGPROXY", address).env("DBGPROXY_WAIT", "1");
            command.arg(script.path());
            let ended = Program::start(command).wait().await;
            let seen = (ended.code, &*ended.stdout, &*ended.stderr);
            assert_eq!(seen, (3, "ran\n", ""), "{python}, answers: {answers}");
            daemon.await.expect("it was asked");
        }
    }
}

/// Hears an agent's hello, and its debugger's if the agent is answered, and is gone.
async fn die(listener: TcpListener, answers: bool) {
    let (stream, _) = listener.accept().await.expect("the agent calls");
    let (reads, mut writes) = stream.into_split();
    let mut agent = Frames::new(reads);
    let hello = next(&mut agent).await;
    if answers {
        let body = json!({ "session": hello["arguments"]["session"], "activate": true });
        let answer = json!({ "seq": 1, "type": "response", "request_seq": hello["seq"], "success": true,
            "command": "dbgproxy/hello", "body": body });
        say(&mut writes, &answer).await;
        let (server, _) = listener.accept().await.expect("the debugger calls");
        let hello = next(&mut Frames::new(server.into_split().0)).await;
        assert_eq!(hello["arguments"]["role"], "debugServer");
    }
}

#[tokio::test]
async fn an_environment_within_an_environment_is_one() {
    let daemon = Daemon::start().await;
    let script = Script::new("once.py", "print('once')\n");
    for python in Python::all() {
        let mut command = python.attached(&daemon).await;
        let (_, path) = command
            .as_std()
            .get_envs()
            .find(|(name, _)| *name == "PYTHONPATH")
            .expect("it is set");
        let path = path.and_then(|path| path.to_str()).expect("it is a text");
        let twice = format!("{path}:{path}");
        command.env("PYTHONPATH", twice).arg(script.path());
        let ended = Program::start(command).wait().await;
        let seen = (ended.code, &*ended.stdout, &*ended.stderr);
        assert_eq!(seen, (0, "once\n", ""), "{python}");
    }
    assert_eq!(daemon.sessions(&["--all"]).await.len(), Python::all().len());
}

#[tokio::test]
async fn a_verb_wakes_a_sleeping_process() {
    let daemon = Daemon::start().await;
    let script = Script::new("loop.py", LOOP);
    let mut program = Python::newest().run_attached(&daemon, &script).await;
    program.printed("ready False").await;
    session(&daemon, program.pid(), "dormant").await;
    let (status, answer) = daemon
        .verb("evaluate", json!({ "expression": "turn(41)" }))
        .await;
    assert_eq!(
        (status, &answer["rows"][0]["result"]),
        (200, &json!("42")),
        "{answer}"
    );
    let (_, answer) = daemon.verb("pause", json!({})).await;
    assert_eq!(answer["rows"][0]["state"], "stopped", "{answer}");
    let (_, answer) = daemon.verb("continue", json!({})).await;
    assert_eq!(answer["rows"][0]["state"], "running", "{answer}");
    session(&daemon, program.pid(), "dormant").await;
    program.tell("").await;
    assert_eq!(program.wait().await.code, 0);
}

#[tokio::test]
async fn a_process_waits_for_an_ide_that_is_asked_for() {
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let script = Script::new("loop.py", LOOP);
    let mut program = Python::newest().run_attached(&daemon, &script).await;
    session(&daemon, program.pid(), "held").await;
    assert_eq!(program.stdout(), "");
    let client = Client::start(&daemon).attached().await;
    program.printed("ready True").await;
    client.disconnect().await;
    program.tell("").await;
    assert_eq!(program.wait().await.code, 0);
}

#[tokio::test]
async fn without_debugpy_everybody_is_told_what_to_do_and_the_program_runs() {
    let daemon = Daemon::start().await;
    let script = Script::new("loop.py", LOOP);
    // An interpreter's own packages are left out.
    let mut command = Python::newest().attached(&daemon).await;
    command.arg("-S").arg("-c").arg(format!(
        "import runpy; exec('try: import sitecustomize\\nexcept ImportError: pass'); \
         runpy.run_path({:?}, run_name='__main__')",
        script.path()
    ));
    let mut program = Program::start(command);
    program.printed("ready False").await;
    session(&daemon, program.pid(), "dormant").await;
    let (_, answer) = daemon.verb("evaluate", json!({ "expression": "1" })).await;
    let message = answer["rows"][0]["message"].as_str().unwrap_or_default();
    assert!(message.contains("dbgproxy setup"), "{answer}");
    let mut client = Client::connect(&daemon).await;
    client.initialize(&json!({})).await;
    let attach = client.send("attach", program.view()).await;
    let said = client
        .event_where("output", |body| {
            let text = body["output"].as_str().unwrap_or_default();
            text.contains("dbgproxy setup")
        })
        .await;
    assert_eq!(said["category"], "console");
    client.event("terminated").await;
    client.response(attach).await;
    client.disconnect().await;
    program.tell("").await;
    assert_eq!(program.wait().await.code, 0);
}

async fn say(to: &mut OwnedWriteHalf, message: &Value) {
    let bytes = frame(&message.to_string());
    to.write_all(&bytes).await.expect("it reads");
}

async fn next(from: &mut Frames<OwnedReadHalf>) -> Value {
    let text = within("a message", from.next()).await;
    let text = text.expect("it is DAP").expect("it is still connected");
    serde_json::from_str(&text).expect("it is JSON")
}

/// A program's output and code with the environment of a daemon that is not there, or says nothing.
#[tokio::test]
async fn a_daemon_that_is_of_no_use_costs_nothing() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let silent = silent.local_addr().expect("it has one").to_string();
    let daemon = Daemon::start().await;
    let script = Script::new(
        "ends.py",
        "import os, subprocess, sys\nprint(os.getpid() > 0)\nsubprocess.run([sys.executable, '-c', 'print(2)'])\nsys.exit(3)\n",
    );
    for python in Python::all() {
        for address in ["127.0.0.1:1", &silent, "nonsense", "unix:/nonexistent/x"] {
            let mut command: Command = python.attached(&daemon).await;
            command.env("DBGPROXY", address).arg(script.path());
            let ended = Program::start(command).wait().await;
            let seen = (ended.code, &*ended.stdout, &*ended.stderr);
            assert_eq!(seen, (3, "True\n2\n", ""), "{python} {address}");
        }
    }
}
