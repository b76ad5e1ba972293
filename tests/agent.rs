//! Processes that nobody has started for debugging: the agent in them says hello and sleeps, and pydevd comes when
//! somebody wants to look.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Client, Daemon, Ended, Program, Python, Script};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::Command;

/// A program that goes on until it is told to stop, and says whether debugpy is loaded.
const LOOP: &str = "\
import select, sys
def turn(n):
    return n + 1  # BREAK
n = 0
print('ready', 'debugpy' in sys.modules)
while not select.select([sys.stdin], [], [], 0.005)[0]:
    n = turn(n)
# pydevd is about to leave, maybe.
m = n
while sys.gettrace() and n < m + 10000000:
    n += 1
    turn(n)
print('end', sys.gettrace(), 'debugpy' in sys.modules)
";

async fn start(python: &Python, daemon: &Daemon, script: &Script, arguments: &[&str]) -> Program {
    let mut command = python.attached(daemon).await;
    command.arg(script.path()).args(arguments);
    Program::start(command)
}

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

fn process_view(pid: i64) -> Value {
    json!({ "processId": pid, "view": "process" })
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
    let mut program = start(python, &daemon, &script, &[]).await;
    program.printed("ready False").await;
    let asleep = session(&daemon, program.pid(), "dormant").await;
    assert_eq!(asleep["name"], "loop.py");

    for _ in 0..2 {
        let mut client = Client::start(&daemon)
            .arguments(&process_view(program.pid()))
            .breakpoints(script.path(), &[script.line("# BREAK")])
            .attached()
            .await;
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

/// Where a child of [`WAYS`] comes in the tree.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// It is the process that was started, which another program has taken over.
    Same,
    /// The process that was started is its parent.
    Child,
    /// A process between them is.
    Grandchild,
    /// Nobody knows of it: it does without its environment.
    Nowhere,
}
use Place::{Child, Grandchild, Nowhere, Same};

/// Each way to make a process: what the process is called, how it is made, and where it comes.
///
/// It runs [`WORKER`] from the file `W`, or calls `work()`, which does; [`BEFORE`] comes before it.
const WAYS: [(&str, &str, Place); 33] = [
    (
        "worker.py",
        "end(subprocess.run([sys.executable, W]).returncode)",
        Child,
    ),
    (
        "worker.py",
        "end(os.system(f'{sys.executable} {W}; exit $?') >> 8)",
        Child,
    ),
    (
        "worker.py",
        "end(subprocess.run(f'exec {sys.executable} {W}', shell=True).returncode)",
        Child,
    ),
    (
        "worker.py",
        "os.environ['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ[\"PATH\"]}'\n\
        end(subprocess.run(['env', 'python', W]).returncode)",
        Child,
    ),
    (
        "worker.py",
        "end(os.WEXITSTATUS(os.waitpid(os.posix_spawn(sys.executable, [sys.executable, W], os.environ), 0)[1]))",
        Child,
    ),
    (
        "worker.py",
        "end(os.spawnv(os.P_WAIT, sys.executable, [sys.executable, W]))",
        Child,
    ),
    (
        "worker.py",
        "async def main(): return await (await asyncio.create_subprocess_exec(sys.executable, W)).wait()\n\
        end(asyncio.run(main()))",
        Child,
    ),
    (
        "worker.py",
        "import venv\nvenv.EnvBuilder(symlinks=True).create(D + '/venv')\n\
        os.environ['DBGPROXY_DEBUGPY'] = sysconfig.get_path('purelib')\n\
        end(subprocess.run([D + '/venv/bin/python', W]).returncode)",
        Child,
    ),
    (
        "worker.py",
        "os.environ['PYTHONPATH'] = os.environ.get('PYTHONPATH', '') + ':' + D\n\
        end(subprocess.run([sys.executable, '-m', 'worker']).returncode)",
        Child,
    ),
    (
        "worker.py.sh",
        "with open(W) as f, open(W + '.sh', 'w') as g: g.write(f'#!{sys.executable}\\n{f.read()}')\n\
        os.chmod(W + '.sh', 0o700)\nend(subprocess.run([W + '.sh']).returncode)",
        Child,
    ),
    (
        "process",
        "end(subprocess.run([sys.executable], stdin=open(W)).returncode)",
        Child,
    ),
    (
        "process",
        "end(subprocess.run([sys.executable, '-'], stdin=open(W)).returncode)",
        Child,
    ),
    (
        "process",
        "end(subprocess.run([sys.executable, '-c', open(W).read()]).returncode)",
        Child,
    ),
    ("", "os.execv(sys.executable, [sys.executable, W])", Same),
    (
        "",
        "os.execvp('sh', ['sh', '-c', f'exec {sys.executable} {W}'])",
        Same,
    ),
    (
        "worker.py",
        "pid = os.fork()\nif not pid: os.execv(sys.executable, [sys.executable, W])\n\
        end(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))",
        Child,
    ),
    (
        "worker.py",
        "end(subprocess.run([sys.executable, W], preexec_fn=os.setsid).returncode)",
        Child,
    ),
    // Here a fork is the child of a process that is being debugged, as the client is there before both.
    (
        "way.py (2)",
        "pid = os.fork()\nif not pid: work()\nend(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))",
        Child,
    ),
    (
        "way.py (2)",
        "def fork():\n    pid = os.fork()\n    if not pid:\n        try: work()\n        except SystemExit as e: os._exit(e.code)\n\
        \x20   codes.append(os.WEXITSTATUS(os.waitpid(pid, 0)[1]))\n\
        codes = []\nthread = threading.Thread(target=fork)\nthread.start()\nthread.join()\nend(*codes)",
        Child,
    ),
    // A daemon: its parent has ended.
    (
        "way.py (3)",
        "r, w = os.pipe()\nif not os.fork():\n    os.setsid()\n    if os.fork(): os._exit(0)\n    work()\n\
        os.close(w)\nos.wait()\nos.read(r, 1)\nend(0)",
        Grandchild,
    ),
    ("ForkProcess-1", "process('fork')", Child),
    ("SpawnProcess-1", "process('spawn')", Child),
    ("ForkServerProcess-1", "process('forkserver')", Grandchild),
    ("ForkPoolWorker-1", "pool('fork')", Child),
    ("SpawnPoolWorker-1", "pool('spawn')", Child),
    ("ForkProcess-1", "executor('fork')", Child),
    ("SpawnProcess-1", "executor('spawn')", Child),
    ("ForkServerProcess-1", "executor('forkserver')", Grandchild),
    (
        "",
        "end(subprocess.run([sys.executable, '-I', W]).returncode)",
        Nowhere,
    ),
    (
        "",
        "end(subprocess.run([sys.executable, '-E', W]).returncode)",
        Nowhere,
    ),
    (
        "",
        "end(subprocess.run([sys.executable, '-I', '-S', W]).returncode)",
        Nowhere,
    ),
    (
        "",
        "end(subprocess.run(['env', '-i', sys.executable, W]).returncode)",
        Nowhere,
    ),
    (
        "",
        "end(subprocess.run([sys.executable, W], env={}).returncode)",
        Nowhere,
    ),
];

/// What comes before each of [`WAYS`]; `D` is a directory.
const BEFORE: &str = "\
import asyncio, concurrent.futures.process, multiprocessing, os, subprocess, sys, sysconfig, threading
from concurrent.futures import ProcessPoolExecutor
W = D + '/worker.py'
end = sys.exit
def work():
    with open(W) as f: exec(compile(f.read(), W, 'exec'), {})
def work_on():
    try: work()
    except SystemExit as e: return e.code
def process(method):
    if __name__ == '__main__':
        process = multiprocessing.get_context(method).Process(target=work)
        process.start()
        process.join()
        end(process.exitcode)
def pool(method):
    if __name__ == '__main__':
        pool = multiprocessing.get_context(method).Pool(1)
        code = pool.apply(work_on)
        pool.close()
        pool.join()
        end(code)
def executor(method):
    if __name__ == '__main__':
        with ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
            code = executor.submit(work_on).result()
        if sys.version_info < (3, 9):
            # It raises at the end if anybody, as pydevd does, still knows the thread of a pool that is shut down.
            concurrent.futures.process._threads_wakeups.clear()
        end(code)
";

const WORKER: &str = "print('worker', flush=True)\nraise SystemExit(7)\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_way_to_make_a_process_stops_at_its_first_line() {
    let mut all = tokio::task::JoinSet::new();
    for python in Python::matrix() {
        all.spawn(every_way(python));
    }
    while let Some(done) = all.join_next().await {
        done.expect("each passes");
    }
}

async fn every_way(python: &'static Python) {
    let daemon = Daemon::start().await;
    let script = Script::new("way.py", "").with("worker.py", WORKER);
    let worker = script.directory().join("worker.py");
    let before = format!("D = {:?}\n{BEFORE}", script.directory());
    for (name, way, place) in WAYS {
        if std::env::var("ONLY").is_ok_and(|only| !way.contains(&only)) {
            continue;
        }
        let what = format!("{python}: {way}");
        eprintln!("{what}");
        std::fs::write(script.path(), format!("{before}{way}\n")).expect("it is writable");
        let bare = python.run(&script, &[]).wait().await;
        assert_eq!(bare.stdout, "worker\n", "{what}: {bare:?}");

        let mut client = Client::start(&daemon)
            .arguments(&json!({ "view": "merged" }))
            .breakpoints(&worker, &[1])
            .breakpoints(script.directory().join("worker.py.sh"), &[2])
            // What has no file is called so.
            .breakpoints("<stdin>", &[1])
            .breakpoints("<string>", &[1])
            .attached()
            .await;
        let mut command = python.attached(&daemon).await;
        // A machine that is busy with all of them may take longer to answer than a program waits by itself.
        command.env("DBGPROXY_WAIT", "1").arg(script.path());
        let mut program = Program::start(command);
        if place != Nowhere {
            let stopped = client.stopped().await;
            assert_eq!(stopped.reason, "breakpoint", "{what}");
            assert_eq!(
                program.stdout(),
                "",
                "it has run past its first line: {what}"
            );
            let sessions = listed(&daemon, "state=stopped").await;
            assert_eq!(sessions.len(), 1, "{what}: {sessions:?}");
            let child = &sessions[0];
            let own = listed(&daemon, &format!("pid={}", child["pid"])).await;
            assert_eq!(own.len(), 1, "it is there twice: {what}: {own:?}");
            if place == Same {
                assert_eq!(child["pid"], program.pid(), "{what}");
            } else {
                // What `-m` runs is known a moment later.
                let selector = format!("name=\"{name}\",pid={}", child["pid"]);
                while listed(&daemon, &selector).await.is_empty() {}
                let started = listed(&daemon, &format!("pid={}", program.pid())).await;
                let mut parent = child["parent"].clone();
                if place == Grandchild {
                    let selector = format!("id={}", parent.as_str().expect("it has one"));
                    parent = listed(&daemon, &selector).await[0]["parent"].clone();
                }
                assert_eq!(parent, started[0]["id"], "{what}: {sessions:?} {started:?}");
            }
            client.continue_(stopped.thread).await;
        }
        let ended = program.wait().await;
        // Python's warning of a fork beside threads has the process's number in it.
        let stderr = |of: &Ended| of.stderr.replace(|c: char| c.is_ascii_digit(), "");
        assert_eq!(
            (ended.code, &*ended.stdout, stderr(&ended)),
            (bare.code, &*bare.stdout, stderr(&bare)),
            "{what}"
        );
        if place == Nowhere {
            let all = listed(&daemon, "all").await;
            let started = all.iter().find(|session| session["pid"] == program.pid());
            let id = &started.expect("it has said hello")["id"];
            let children: Vec<_> = all.iter().filter(|other| other["parent"] == *id).collect();
            assert!(children.is_empty(), "{what}: {children:?}");
        }
        client.disconnect().await;
    }
}

/// The sessions of a selector, also those that have ended.
async fn listed(daemon: &Daemon, selector: &str) -> Vec<Value> {
    let arguments = json!({ "selector": selector, "all": true });
    let (_, mut body) = daemon.verb("sessions", arguments).await;
    serde_json::from_value(body["sessions"].take()).expect("the verb says so")
}

#[tokio::test]
async fn sessions_are_back_after_the_daemon_was_killed() {
    let port = support::own_port();
    let daemon = Daemon::start_on(port).await;
    let script = Script::new("loop.py", LOOP);
    let mut programs = Vec::new();
    for python in Python::all() {
        let mut program = start(python, &daemon, &script, &[]).await;
        program.printed("ready False").await;
        let id = session(&daemon, program.pid(), "dormant").await["id"].clone();
        programs.push((program, id));
    }
    // One of them is being debugged, and stopped.
    let mut client = Client::start(&daemon)
        .arguments(&process_view(programs[0].0.pid()))
        .breakpoints(script.path(), &[script.line("# BREAK")])
        .attached()
        .await;
    client.stopped_at(script.line("# BREAK")).await;
    daemon.kill().await;
    drop(client);

    let daemon = Daemon::start_on(port).await;
    for (mut program, id) in programs {
        assert_eq!(session(&daemon, program.pid(), "dormant").await["id"], id);
        let mut client = Client::start(&daemon)
            .arguments(&process_view(program.pid()))
            .breakpoints(script.path(), &[script.line("# BREAK")])
            .attached()
            .await;
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
        let mut program = start(python, &daemon, &script, &[]).await;
        let mut client = Client::start(&daemon)
            .arguments(&process_view(program.pid()))
            .breakpoints(script.path(), &[script.line("# BREAK")])
            .attached()
            .await;
        client.stopped_at(script.line("# BREAK")).await;
        client.disconnect().await;
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
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
    let mut program = start(Python::newest(), &daemon, &script, &[]).await;
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
    let mut program = start(Python::newest(), &daemon, &script, &[]).await;
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
    let attach = client.send("attach", process_view(program.pid())).await;
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

/// On a busy machine there is time between a connection and its first message.
#[tokio::test]
async fn a_debug_server_that_is_announced_after_the_daemon_has_asked_is_one() {
    let daemon = Daemon::start().await;
    let session = "11111111-2222-4333-8444-555555555555";
    let hello = |role: &str| {
        let arguments =
            json!({ "protocol": 1, "role": role, "session": session, "pid": 1, "how": "start" });
        json!({ "seq": 1, "type": "request", "command": "dbgproxy/hello", "arguments": arguments })
    };
    let (mut agent, mut agent_writes) = peer(&daemon).await;
    say(&mut agent_writes, &hello("agent")).await;
    assert_eq!(next(&mut agent).await["command"], "dbgproxy/hello");

    let (mut server, mut server_writes) = peer(&daemon).await;
    let probe = next(&mut server).await;
    assert_eq!(probe["command"], "pydevdSystemInfo");
    say(&mut server_writes, &hello("debugServer")).await;
    let body = json!({ "process": { "pid": 1 } });
    let answer = json!({ "seq": 2, "type": "response", "request_seq": probe["seq"], "success": true,
        "command": "pydevdSystemInfo", "body": body });
    say(&mut server_writes, &answer).await;
    assert_eq!(next(&mut server).await["type"], "request", "it is greeted");
    let sessions = listed(&daemon, "all").await;
    assert_eq!(sessions.len(), 1, "{sessions:?}");
    assert_eq!(sessions[0]["id"], session);
}

async fn peer(daemon: &Daemon) -> (Frames<OwnedReadHalf>, OwnedWriteHalf) {
    let stream = TcpStream::connect(daemon.address)
        .await
        .expect("it listens");
    let (reads, writes) = stream.into_split();
    (Frames::new(reads), writes)
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
