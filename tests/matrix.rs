//! Every way to make a Python process, on every version of CPython that dbgproxy is for: each process is one session,
//! in its place in the tree, and stops at its first line; and nobody in it notices.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};
use support::{Client, Daemon, Ended, Program, Python, Script};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// What a client is told of each session.
const EVENT: &str = "dbgproxy/session";

/// How many ways are tried at once on one version: most of the time of each goes by with waiting.
const AT_ONCE: usize = 3;

/// One way to make processes.
struct Way {
    /// What the started process does. It runs [`WORKER`] from the file `W`, or calls `work()`, which does; [`BEFORE`]
    /// comes before it.
    code: &'static str,
    /// The processes that it makes: each by the names on the way to it from the one that is started, with a star if it
    /// stops. The one that is started is there without being named; it is called `.` where it stops itself.
    tree: &'static str,
    /// Is it tried once more where the process that is started is being debugged itself?
    twice: bool,
}

const fn way(tree: &'static str, code: &'static str) -> Way {
    Way {
        code,
        tree,
        twice: false,
    }
}

const fn twice(tree: &'static str, code: &'static str) -> Way {
    Way {
        code,
        tree,
        twice: true,
    }
}

const WAYS: [Way; 41] = [
    // A program with a file.
    twice(
        "worker.py*",
        "end(subprocess.run([sys.executable, W]).returncode)",
    ),
    way(
        "worker.py*",
        "end(os.system(f'{sys.executable} {W}; exit $?') >> 8)",
    ),
    way(
        "worker.py*",
        "end(subprocess.run(f'exec {sys.executable} {W}', shell=True).returncode)",
    ),
    way(
        "worker.py*",
        "os.environ['PATH'] = f'{os.path.dirname(sys.executable)}:{os.environ[\"PATH\"]}'\n\
         end(subprocess.run(['env', 'python', W]).returncode)",
    ),
    way(
        "worker.py*",
        "end(status(os.posix_spawn(sys.executable, [sys.executable, W], os.environ)))",
    ),
    way(
        "worker.py*",
        "end(os.spawnv(os.P_WAIT, sys.executable, [sys.executable, W]))",
    ),
    way(
        "worker.py*",
        "import asyncio\n\
         async def main(): return await (await asyncio.create_subprocess_exec(sys.executable, W)).wait()\n\
         end(asyncio.run(main()))",
    ),
    way(
        "worker.py*",
        "import sysconfig, venv\nvenv.EnvBuilder(symlinks=True).create(D + '/venv')\n\
         os.environ['DBGPROXY_DEBUGPY'] = sysconfig.get_path('purelib')\n\
         end(subprocess.run([D + '/venv/bin/python', W]).returncode)",
    ),
    way(
        "worker.py*",
        "os.environ['PYTHONPATH'] = os.environ.get('PYTHONPATH', '') + ':' + D\n\
         end(subprocess.run([sys.executable, '-m', 'worker']).returncode)",
    ),
    way(
        "worker.py.sh*",
        "with open(W) as f, open(W + '.sh', 'w') as g: g.write(f'#!{sys.executable}\\n{f.read()}')\n\
         os.chmod(W + '.sh', 0o700)\n\
         end(subprocess.run([W + '.sh']).returncode)",
    ),
    // A program without one. In `<stdin>` pydevd knows no breakpoints: it is there, and runs on.
    way(
        "process",
        "end(subprocess.run([sys.executable], stdin=open(W)).returncode)",
    ),
    way(
        "process",
        "end(subprocess.run([sys.executable, '-'], stdin=open(W)).returncode)",
    ),
    way(
        "process*",
        "end(subprocess.run([sys.executable, '-c', '\\n' + open(W).read()]).returncode)",
    ),
    // A program in the place of another.
    twice(".*", "os.execv(sys.executable, [sys.executable, W])"),
    way(
        ".*",
        "os.execvp('sh', ['sh', '-c', f'exec {sys.executable} {W}'])",
    ),
    twice(
        "worker.py*",
        "pid = os.fork()\n\
         if not pid: os.execv(sys.executable, [sys.executable, W])\n\
         end(status(pid))",
    ),
    way(
        "worker.py*",
        "end(subprocess.run([sys.executable, W], preexec_fn=os.setsid).returncode)",
    ),
    // Forks.
    twice(
        "way.py*",
        "pid = os.fork()\n\
         if not pid: work()\n\
         end(status(pid))",
    ),
    twice(
        "way.py*",
        "import threading\n\
         def fork():\n\
         \x20   pid = os.fork()\n\
         \x20   if not pid: os._exit(work_on())\n\
         \x20   codes.append(status(pid))\n\
         codes = []\n\
         thread = threading.Thread(target=fork)\n\
         thread.start()\n\
         thread.join()\n\
         end(*codes)",
    ),
    way(
        "way.py*",
        "pid, terminal = os.forkpty()\n\
         if not pid: work()\n\
         print(os.read(terminal, 100).decode(), end='', flush=True)\n\
         end(status(pid))",
    ),
    // A daemon: its parent has ended.
    twice(
        "way.py way.py/way.py*",
        "r, w = os.pipe()\n\
         if not os.fork():\n\
         \x20   os.setsid()\n\
         \x20   if os.fork(): os._exit(0)\n\
         \x20   work()\n\
         os.close(w)\n\
         os.wait()\n\
         os.read(r, 1)\n\
         end(0)",
    ),
    // A server with workers of its own.
    way(
        "way.py* way.py*",
        "import socket\n\
         server = socket.create_server(('127.0.0.1', 0))\n\
         def serve():\n\
         \x20   pid = os.fork()\n\
         \x20   if pid: return pid\n\
         \x20   server.accept()\n\
         \x20   os._exit(work_on())\n\
         workers = [serve(), serve()]\n\
         calls = [socket.create_connection(server.getsockname()) for _ in workers]\n\
         end(max(map(status, workers)))",
    ),
    // multiprocessing.
    way("ForkProcess-1*", "process('fork')"),
    twice("resource_tracker SpawnProcess-1*", "process('spawn')"),
    twice(
        "resource_tracker forkserver forkserver/ForkServerProcess-1*",
        "process('forkserver')",
    ),
    way(
        "ForkProcess-1 ForkProcess-1/worker.py*",
        "process('fork', work_below)",
    ),
    way(
        "resource_tracker forkserver forkserver/ForkServerProcess-1 forkserver/ForkServerProcess-1/worker.py*",
        "process('forkserver', work_below)",
    ),
    way("ForkPoolWorker-1* ForkPoolWorker-2*", "pool('fork', 2)"),
    way("resource_tracker SpawnPoolWorker-1*", "pool('spawn', 1)"),
    way(
        "resource_tracker forkserver forkserver/ForkServerPoolWorker-1*",
        "pool('forkserver', 1)",
    ),
    way("ForkProcess-1*", "executor('fork')"),
    way("resource_tracker SpawnProcess-1*", "executor('spawn')"),
    way(
        "resource_tracker forkserver forkserver/ForkServerProcess-1*",
        "executor('forkserver')",
    ),
    // What nobody runs to debug it.
    way(
        "pip",
        "end(subprocess.run([sys.executable, '-m', 'pip', '--version'], stdout=-3).returncode)",
    ),
    way(
        "compileall",
        "end(subprocess.run([sys.executable, '-m', 'compileall', '-q', W]).returncode)",
    ),
    // What does without its environment.
    way(
        "",
        "end(subprocess.run([sys.executable, '-I', W]).returncode)",
    ),
    way(
        "",
        "end(subprocess.run([sys.executable, '-E', W]).returncode)",
    ),
    way(
        "",
        "end(subprocess.run([sys.executable, '-I', '-S', W]).returncode)",
    ),
    way(
        "",
        "end(subprocess.run(['env', '-i', sys.executable, W]).returncode)",
    ),
    way(
        "",
        "end(subprocess.run([sys.executable, W], env={}).returncode)",
    ),
    // What runs no program.
    way(
        "",
        "end(subprocess.run([sys.executable, '--version'], stdout=-3).returncode)",
    ),
];

/// What comes before the code of a way, which begins when it is told to. `D` is a directory.
///
/// What it makes then waits for the client, which has it in view by its label: a machine that is busy with all of this
/// may take longer to answer than a program waits by itself.
const BEFORE: &str = "\
import os, sys
D = os.path.dirname(os.path.abspath(__file__))
W = D + '/worker.py'
end = sys.exit
def work():
    with open(W) as f: exec(compile(f.read(), W, 'exec'), {})
def work_on(_=None):
    try: work()
    except SystemExit as e: return e.code
def work_below():
    import subprocess
    end(subprocess.run([sys.executable, W]).returncode)
def status(pid):
    return os.WEXITSTATUS(os.waitpid(pid, 0)[1])
def process(method, target=work):
    import multiprocessing
    process = multiprocessing.get_context(method).Process(target=target)
    process.start()
    process.join()
    end(process.exitcode)
def pool(method, workers):
    import multiprocessing
    pool = multiprocessing.get_context(method).Pool(workers)
    codes = pool.map(work_on, range(workers), 1)
    pool.close()
    pool.join()
    end(max(codes))
def executor(method):
    import concurrent.futures, multiprocessing
    with concurrent.futures.ProcessPoolExecutor(1, multiprocessing.get_context(method)) as executor:
        code = executor.submit(work_on).result()
    end(code)
if __name__ == '__main__':
    import subprocess
    os.environ.update(DBGPROXY_LABELS='made=yes', DBGPROXY_WAIT='1')
    os.read(0, 1)
";

/// What the processes do that are made.
const WORKER: &str = "__import__('os').write(1, b'worker\\n')\nraise SystemExit(7)\n";

macro_rules! on_each_version {
    ($($test:ident: $version:literal,)*) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $test() {
            every_way_on($version).await;
        }
    )*};
}

on_each_version! {
    every_process_is_one_session_on_3_8: "3.8",
    every_process_is_one_session_on_3_9: "3.9",
    every_process_is_one_session_on_3_10: "3.10",
    every_process_is_one_session_on_3_11: "3.11",
    every_process_is_one_session_on_3_12: "3.12",
    every_process_is_one_session_on_3_13: "3.13",
}

async fn every_way_on(version: &str) {
    let Some(python) = Python::matrix()
        .iter()
        .find(|python| python.version == version)
    else {
        return eprintln!("no CPython {version} here: passed over");
    };
    let places = Arc::new(Semaphore::new(AT_ONCE));
    let mut all = JoinSet::new();
    for way in &WAYS {
        let places = places.clone();
        all.spawn(async move {
            let _place = places.acquire().await;
            try_way(python, way).await;
        });
    }
    let mut failed = 0;
    while let Some(done) = all.join_next().await {
        failed += usize::from(done.is_err());
    }
    assert_eq!(failed, 0, "see above");
}

async fn try_way(python: &'static Python, way: &Way) {
    let code = way.code.replace('\n', "\n    ");
    let script = Script::new("way.py", &format!("{BEFORE}    {code}\n"));
    let script = script.with("worker.py", WORKER);
    let mut bare = python.run(&script, &[]);
    bare.tell("").await;
    let bare = bare.wait().await;
    for is_debugged in [false, true] {
        if way.twice || !is_debugged {
            let trial = Trial {
                python,
                script: &script,
                is_debugged,
                daemon: Daemon::start().await,
                expected: way
                    .tree
                    .split(' ')
                    .filter(|path| !path.is_empty())
                    .collect(),
                what: format!("{python}, debugged: {is_debugged}\n{}", way.code),
            };
            trial.run(&bare).await;
        }
    }
}

/// One way on one version.
struct Trial<'a> {
    python: &'static Python,
    script: &'a Script,
    /// Is the process that is started being debugged itself?
    is_debugged: bool,
    daemon: Daemon,
    /// [`Way::tree`], in its parts.
    expected: Vec<&'a str>,
    /// What it is, for people.
    what: String,
}

impl Trial<'_> {
    async fn run(self, bare: &Ended) {
        let (what, expected) = (&self.what, &self.expected);
        let directory = self.script.directory();
        let mut client = Client::start(&self.daemon)
            .arguments(&json!({ "view": "merged", "sessions": "label.made=yes" }))
            .breakpoints(directory.join("worker.py"), &[1])
            .breakpoints(directory.join("worker.py.sh"), &[2])
            // What `-c` runs is called so.
            .breakpoints("<string>", &[2])
            .named(what)
            .attached()
            .await;
        client.request("dbgproxy/subscribe", Value::Null).await;
        let mut command = self.python.attached(&self.daemon).await;
        if self.is_debugged {
            command
                .env("DBGPROXY_LABELS", "made=yes")
                .env("DBGPROXY_WAIT", "1");
        }
        command.arg(self.script.path());
        let mut program = Program::start(command);
        let state = ["dormant", "running"][usize::from(self.is_debugged)];
        let mut news = Vec::new();
        let is_begun = |event: &Value| {
            event["session"]["pid"] == program.pid() && event["session"]["state"] == state
        };
        follow(&mut client, &mut news, is_begun).await;
        program.tell("").await;

        let mut stops = Vec::new();
        for _ in expected.iter().filter(|path| path.ends_with('*')) {
            stops.push(client.stopped().await);
        }
        if !stops.is_empty() {
            let stopped = self.listed("state=stopped").await;
            assert_eq!(stopped.len(), stops.len(), "{what}: {stopped:?}");
            let printed = program.stdout();
            assert_eq!(printed, "", "something has run past its first line: {what}");
        }
        for stop in stops {
            assert_eq!(stop.reason, "breakpoint", "{what}");
            client.continue_(stop.thread).await;
        }
        let ended = program.wait().await;
        assert_eq!(seen(&ended), seen(bare), "{what}");

        let is_closed = |event: &Value| event["reason"] == "closed";
        // The one that is called `.` is the program itself, which is there in any case.
        let all = expected.iter().filter(|path| **path != ".*").count() + 1;
        for _ in 0..all {
            follow(&mut client, &mut news, is_closed).await;
        }
        news.extend(client.events(EVENT).await);
        let sessions = self.listed("all").await;
        client.no_more("stopped").await;
        client.disconnect().await;
        self.check(&sessions, &news, program.pid());
    }

    /// Checks that the sessions are those, and what became of each.
    fn check(&self, sessions: &[Value], news: &[Value], program: i64) {
        let what = &self.what;
        let pids: BTreeSet<_> = sessions.iter().map(|one| one["pid"].as_i64()).collect();
        assert_eq!(pids.len(), sessions.len(), "{what}: {sessions:#?}");
        let mut tree = Vec::new();
        for session in sessions {
            let of_it = |event: &&Value| event["session"]["id"] == session["id"];
            let states = news.iter().filter(of_it);
            let states: Vec<_> = states
                .map(|event| event["session"]["state"].as_str())
                .collect();
            let has_slept = states
                .iter()
                .all(|state| ["starting", "dormant", "ended"].map(Some).contains(state));
            let star = ["", "*"][usize::from(states.contains(&Some("stopped")))];
            let path = path(session, sessions, program) + star;
            let is_program = session["pid"] == program;
            assert!(
                has_slept || session["helper"] == false,
                "{what}: {path}: {states:?}"
            );
            assert!(
                has_slept || !is_program || self.is_debugged || path == ".*",
                "{what}: {states:?}"
            );
            if path != "." {
                tree.push(path);
            }
        }
        tree.sort();
        let mut expected = self.expected.clone();
        expected.sort();
        assert_eq!(tree, expected, "{what}: {sessions:#?}");
    }

    /// The sessions of a selector, also those that have ended.
    async fn listed(&self, selector: &str) -> Vec<Value> {
        let arguments = json!({ "selector": selector, "all": true });
        let (_, mut body) = self.daemon.verb("sessions", arguments).await;
        serde_json::from_value(body["sessions"].take()).expect("the verb says so")
    }
}

/// What of a program's end must be as it is without us. Python's warning of a fork beside threads has a pid in it.
fn seen(ended: &Ended) -> (i32, &str, String) {
    let stderr = ended.stderr.replace(|c: char| c.is_ascii_digit(), "");
    (ended.code, &ended.stdout, stderr)
}

/// Keeps what the client is told of sessions, up to what is waited for.
async fn follow(client: &mut Client, news: &mut Vec<Value>, is_there: impl Fn(&Value) -> bool) {
    loop {
        news.push(client.event(EVENT).await);
        if news.last().is_some_and(&is_there) {
            return;
        }
    }
}

/// The names on the way from the process that was started to a session, without the numbers in them.
fn path(session: &Value, sessions: &[Value], program: i64) -> String {
    if session["pid"] == program {
        return ".".into();
    }
    let name = session["name"].as_str().expect("it has one");
    let name = name.split(' ').next().unwrap_or(name);
    let parent = sessions
        .iter()
        .find(|other| other["id"] == session["parent"]);
    match parent.map(|parent| path(parent, sessions, program)) {
        Some(parent) if parent == "." => name.into(),
        Some(parent) => format!("{parent}/{name}"),
        None => format!("?/{name}"),
    }
}
