//! The frameworks that people run their programs with: each example as it stands in examples/, under `dbgproxy run`.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use support::http::send;
use support::python::{clean, suite};
use support::report::report;
use support::wait::within;
use support::{Client, Daemon, Ended, Program, Python, Script, Stopped, own_port};
use tokio::io::AsyncReadExt;
use tokio::process::Command;
use tokio::task::JoinHandle;

/// Where each example is to have its breakpoint.
const BREAK: &str = "# set a breakpoint here";

/// A copy of an example, which may be changed and may leave files behind, and the command that it tells people to run.
struct Example {
    python: &'static Python,
    script: Script,
    words: Vec<String>,
}

impl Example {
    /// The example of this name, and of its commands the one that begins like this.
    fn new(python: &'static Python, name: &str, beginning: &str) -> Self {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let source = fs::read_to_string(path.join(name)).expect("an example");
        let words = commands(&source)
            .find(|command| command.starts_with(beginning))
            .unwrap_or_else(|| panic!("{name} has no command {beginning:?}"))
            .split(' ')
            .map(String::from)
            .collect();
        let script = Script::new(&format!("examples/{name}"), &source);
        Self {
            python,
            script,
            words,
        }
    }

    fn and(mut self, more: &str) -> Self {
        self.words.extend(more.split(' ').map(String::from));
        self
    }

    /// Starts the command as it stands, without dbgproxy; or, with a daemon, under it.
    fn start(&self, daemon: Option<&Daemon>) -> Program {
        Program::start(command(daemon, self.python, &self.root(), &self.words))
    }

    /// Where people are when they run it.
    fn root(&self) -> PathBuf {
        let examples = self.script.directory();
        examples.parent().expect("it has one").to_owned()
    }

    fn line(&self) -> i64 {
        self.script.line(BREAK)
    }

    /// A merged view with a breakpoint like this on the example's line.
    async fn attach(&self, daemon: &Daemon, mut breakpoint: Value) -> Client {
        breakpoint["line"] = self.line().into();
        Client::start(daemon)
            .arguments(&json!({ "view": "merged" }))
            .breakpoint(self.script.path(), breakpoint)
            .attached()
            .await
    }

    /// It ends by itself, without dbgproxy and under it without a client: the same, and nobody is debugged.
    async fn undisturbed(&self) {
        let bare = self.start(None).wait().await;
        let daemon = Daemon::start().await;
        let run = self.start(Some(&daemon)).wait().await;
        assert_eq!(run.code, bare.code, "{run:?}");
        assert_eq!(gist(&run.stdout), gist(&bare.stdout), "{run:?}");
        assert_eq!(gist(&run.stderr), gist(&bare.stderr), "{run:?}");
        nobody_was_activated(&daemon);
        nothing_stays(&daemon).await;
    }
}

/// The commands that the example's own words tell people to run under dbgproxy.
fn commands(source: &str) -> impl Iterator<Item = &str> {
    let lines = source.lines().map(str::trim);
    lines.filter_map(|line| line.strip_prefix("dbgproxy run -- "))
}

/// A command of this environment, without dbgproxy; or, with a daemon, under it.
fn command(
    daemon: Option<&Daemon>,
    python: &Python,
    directory: &Path,
    words: &[String],
) -> Command {
    let program = python.executable.with_file_name(&words[0]);
    let mut command = match daemon {
        None => Command::new(program),
        Some(daemon) => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
            command.args(["run", "--connect", &daemon.connect(), "--"]);
            command.arg(program);
            command
        }
    };
    clean(&mut command);
    command
        .args(&words[1..])
        .current_dir(directory)
        .env("HOME", directory)
        .env("PYTHONUNBUFFERED", "1")
        .env("CELERY_FILES", directory.join("files"));
    command
}

/// What people find in README.md is what is run here.
#[test]
fn the_commands_of_the_readme_are_those_of_the_examples() {
    let readme = include_str!("../README.md");
    let section = readme
        .split("\n## Frameworks\n")
        .nth(1)
        .and_then(|rest| rest.split("\n## ").next())
        .expect("README.md has a section on frameworks");
    let told: BTreeSet<_> = section
        .split('`')
        .filter_map(|code| code.strip_prefix("dbgproxy run -- "))
        .map(String::from)
        .collect();
    let mut given = BTreeSet::new();
    for example in [
        "asgi_app.py",
        "celery_app.py",
        "django_app.py",
        "executors.py",
        "flask_app.py",
        "ranks.py",
        "test_parallel.py",
        "wsgi_app.py",
    ] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
        let source = fs::read_to_string(path.join(example)).expect("an example");
        given.extend(commands(&source).map(String::from));
    }
    assert_eq!(told, given);
}

/// All sessions that have been, by their ids.
async fn sessions(daemon: &Daemon) -> BTreeMap<String, Value> {
    let all = daemon.sessions(&["--all"]).await;
    let of = |session: Value| (session["id"].as_str().expect("an id").to_owned(), session);
    all.into_iter().map(of).collect()
}

/// Who has stopped at the breakpoint: its session's name and its parent's, which are as they should be if the process
/// says that it has the session's pid.
async fn who(daemon: &Daemon, client: &mut Client, stopped: &Stopped) -> (i64, String, String) {
    let frame = client.stack(stopped.thread).await.swap_remove(0);
    let pid = client.evaluate("__import__('os').getpid()", &frame).await;
    let pid: i64 = pid.parse().expect("a pid");
    let sessions = sessions(daemon).await;
    let session = sessions
        .values()
        .find(|session| session["pid"] == pid)
        .unwrap_or_else(|| panic!("no session of {pid}: {sessions:?}"));
    assert_eq!(session["state"], "stopped", "{session}");
    let name = session["name"].as_str().expect("a name");
    let thread = &client.threads().await[&stopped.thread];
    assert!(thread.starts_with(&format!("{name} · ")), "{thread}");
    let parent = session["parent"].as_str();
    let parent = parent.map_or("", |id| sessions[id]["name"].as_str().expect("a name"));
    (pid, plain(name), plain(parent))
}

/// A name without the number that tells it from others of that name: which is free depends on when the end of a
/// former process is noticed.
fn plain(name: &str) -> String {
    let numbered = name
        .strip_suffix(')')
        .and_then(|rest| rest.rsplit_once(" ("));
    numbered.map_or(name, |(plain, _)| plain).to_owned()
}

/// Numbers and the order of lines are of no account: pids, times, and what several processes say.
fn gist(text: &str) -> Vec<String> {
    let mut lines: Vec<_> = text
        .lines()
        .map(|line| {
            let mut gist = String::new();
            for character in line.chars() {
                match character.is_ascii_digit() {
                    true if gist.ends_with('#') => {}
                    true => gist.push('#'),
                    false => gist.push(character),
                }
            }
            gist
        })
        .collect();
    lines.sort();
    lines
}

/// So many processes are being debugged: those that run already are woken one after another, when a client comes.
async fn awake(daemon: &Daemon, count: usize) {
    let awake = async {
        loop {
            let sessions = sessions(daemon).await;
            let is_running = |session: &&Value| session["state"] == "running";
            if sessions.values().filter(is_running).count() >= count {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("all processes to be debugged", awake).await;
}

/// Nobody has needed pydevd in any process that there has been.
fn nobody_was_activated(daemon: &Daemon) {
    assert!(!daemon.log().contains("is activated"), "{}", daemon.log());
}

/// Whether there is such a process. One that has ended and that nobody asks for its exit code is none.
fn runs(pid: i64) -> bool {
    let pid = Pid::from_raw(pid as i32).expect("no process has id 0");
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let is_zombie = status
        .rsplit(')')
        .next()
        .is_some_and(|rest| rest.starts_with(" Z"));
    test_kill_process(pid).is_ok() && !is_zombie
}

/// Every process that there has been has ended, and the daemon knows it.
async fn nothing_stays(daemon: &Daemon) {
    let ended = async {
        loop {
            let sessions = sessions(daemon).await;
            assert!(!sessions.is_empty());
            if sessions.values().all(|session| session["state"] == "ended") {
                return sessions;
            }
            tokio::task::yield_now().await;
        }
    };
    for session in within("the end of all", ended).await.values() {
        let pid = session["pid"].as_i64().expect("a pid");
        assert!(!runs(pid), "{session}");
    }
}

/// Waits for a stop at the breakpoint; with it, the other threads of its process stop too.
async fn hit(client: &mut Client, line: i64) -> Stopped {
    let is_hit = |body: &Value| body["reason"] == "breakpoint";
    let body = client.event_where("stopped", is_hit).await;
    let thread = body["threadId"].as_i64().expect("our stops name a thread");
    let stack = client.stack(thread).await;
    assert_eq!(stack[0]["line"], line, "stopped elsewhere: {}", stack[0]);
    Stopped {
        thread,
        reason: "breakpoint".into(),
        body,
    }
}

/// Nobody else has come to the breakpoint.
async fn no_more_hits(client: &mut Client) {
    let stopped = client.events("stopped").await;
    let hits = stopped.iter().filter(|body| body["reason"] == "breakpoint");
    assert_eq!(hits.count(), 0, "{stopped:?}");
}

/// Continues each stop on the line until so many have been, and returns whose they were.
async fn stops(
    daemon: &Daemon,
    client: &mut Client,
    line: i64,
    count: usize,
) -> Vec<(i64, String, String)> {
    let mut all = Vec::new();
    for _ in 0..count {
        let stopped = hit(client, line).await;
        all.push(who(daemon, client, &stopped).await);
        client.continue_(stopped.thread).await;
    }
    all
}

// The standard library.

async fn pool(kind: &str, method: &str, names: [&str; 2], parent: &str) {
    let mut example = Example::new(Python::newest(), "executors.py", "python ");
    example.words.truncate(2);
    let example = example.and(kind).and(method);
    example.undisturbed().await;

    let daemon = Daemon::start().await;
    let mut client = example.attach(&daemon, json!({})).await;
    let mut program = example.start(Some(&daemon));
    for (_, name, its_parent) in stops(&daemon, &mut client, example.line(), 4).await {
        assert!(names.contains(&&*name), "{name}");
        assert_eq!(its_parent, parent);
    }
    let ended = program.wait().await;
    assert_eq!(
        (ended.code, &*ended.stdout),
        (0, "[0, 1, 4, 9]\n"),
        "{ended:?}"
    );
    nothing_stays(&daemon).await;
    no_more_hits(&mut client).await;
}

#[tokio::test]
async fn an_executor_that_spawns() {
    pool(
        "executor",
        "spawn",
        ["SpawnProcess-1", "SpawnProcess-2"],
        "executors.py",
    )
    .await;
}

#[tokio::test]
async fn an_executor_that_forks() {
    pool(
        "executor",
        "fork",
        ["ForkProcess-1", "ForkProcess-2"],
        "executors.py",
    )
    .await;
}

#[tokio::test]
async fn a_pool_that_spawns() {
    pool(
        "pool",
        "spawn",
        ["SpawnPoolWorker-1", "SpawnPoolWorker-2"],
        "executors.py",
    )
    .await;
}

#[tokio::test]
async fn a_pool_that_forks() {
    pool(
        "pool",
        "fork",
        ["ForkPoolWorker-1", "ForkPoolWorker-2"],
        "executors.py",
    )
    .await;
}

#[tokio::test]
async fn an_executor_with_a_fork_server() {
    let names = ["ForkServerProcess-1", "ForkServerProcess-2"];
    pool("executor", "forkserver", names, "forkserver").await;
}

// Servers.

/// An example that is a server.
struct Server {
    example: Example,
    port: u16,
}

impl Server {
    /// The example with the command that begins like this and these words behind it, `PORT` among them. `None` where
    /// this machine lacks the interpreter.
    fn new(name: &str, beginning: &str, more: &str) -> Option<Self> {
        let port = own_port();
        let example = Example::new(Python::with_frameworks()?, name, beginning);
        let example = example.and(&more.replace("PORT", &port.to_string()));
        Some(Self { example, port })
    }

    /// Sends a request, again and again until somebody listens.
    fn request(&self) -> JoinHandle<String> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        tokio::spawn(async move {
            let host = format!("Host: {address}");
            let answered = async {
                loop {
                    // Nobody may listen yet, or one who is about to end.
                    if tokio::net::TcpStream::connect(address).await.is_ok() {
                        let mut stream = send(address, "GET /", &[&host], "").await;
                        let mut answer = String::new();
                        if matches!(stream.read_to_string(&mut answer).await, Ok(1..)) {
                            return answer;
                        }
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            within("the server's answer", answered).await
        })
    }

    async fn answers(&self) {
        let answer = self.request().await.expect("it does not panic");
        assert!(answer.ends_with("answer: 42\n"), "{answer}");
    }

    /// A request stops in a worker, which is returned, and is answered when it is continued.
    async fn stops(&self, daemon: &Daemon, client: &mut Client) -> (i64, String, String) {
        let request = self.request();
        let all = stops(daemon, client, self.example.line(), 1).await;
        let answer = request.await.expect("it does not panic");
        assert!(answer.ends_with("answer: 42\n"), "{answer}");
        all.into_iter().next().expect("there was one")
    }

    /// As people do who have changed something.
    fn touch(&self) {
        let path = self.example.script.path();
        let mut source = fs::read_to_string(path).expect("it is there");
        source.push_str("# changed\n");
        fs::write(path, source).expect("it can be written to");
    }

    /// The same as without dbgproxy, and nobody is debugged.
    ///
    /// It is ended when `ready` has been said twice, by each of its workers. The exit code is returned.
    async fn undisturbed(&self, ready: Option<&str>) -> i32 {
        let daemon = Daemon::start().await;
        let mut seen = Vec::new();
        for daemon in [None, Some(&daemon)] {
            let mut program = self.example.start(daemon);
            self.answers().await;
            let all_ready = async {
                while ready.is_some_and(|ready| program.stderr().matches(ready).count() < 2) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            within("both workers", all_ready).await;
            program.signal(Signal::TERM);
            let ended = program.wait().await;
            seen.push((ended.code, gist(&ended.stdout), gist(&ended.stderr)));
        }
        assert_eq!(seen[0], seen[1]);
        nobody_was_activated(&daemon);
        nothing_stays(&daemon).await;
        seen[0].0
    }

    /// Without an IDE it is as without dbgproxy. With one a request stops in a process with one of these names and
    /// this parent; with `reloads`, in the next one too when the file has changed; and then the end is the same.
    async fn is_debugged(&self, ready: Option<&str>, names: &[&str], parent: &str, reloads: bool) {
        let code = self.undisturbed(ready).await;
        let daemon = Daemon::start().await;
        let mut program = self.example.start(Some(&daemon));
        self.answers().await;
        let mut client = self.example.attach(&daemon, json!({})).await;
        let all = sessions(&daemon).await;
        let is_process = |session: &&Value| session["helper"] == false;
        awake(&daemon, all.values().filter(is_process).count()).await;
        let first = self.stops(&daemon, &mut client).await;
        assert!(names.contains(&&*first.1), "{first:?}");
        assert_eq!(first.2, parent, "{first:?}");
        if reloads {
            self.touch();
            let ended = async {
                while runs(first.0) {
                    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                }
            };
            within("the end of the former process", ended).await;
            let second = self.stops(&daemon, &mut client).await;
            assert_ne!(second.0, first.0);
            assert!(names.contains(&&*second.1), "{second:?}");
            assert_eq!(second.2, parent, "{second:?}");
        }
        program.signal(Signal::TERM);
        let ended = program.wait().await;
        assert_eq!(ended.code, code, "{ended:?}");
        nothing_stays(&daemon).await;
    }
}

#[tokio::test]
async fn gunicorn() {
    let Some(server) = Server::new("wsgi_app.py", "gunicorn ", "--bind 127.0.0.1:PORT") else {
        return;
    };
    server
        .is_debugged(Some("Booting worker"), &["gunicorn"], "gunicorn", false)
        .await;
}

#[tokio::test]
async fn uvicorn_with_workers() {
    let command = "uvicorn --app-dir examples --workers ";
    let Some(server) = Server::new("asgi_app.py", command, "--port PORT") else {
        return;
    };
    server
        .is_debugged(
            Some("startup complete"),
            &["SpawnProcess-1", "SpawnProcess-2"],
            "uvicorn",
            false,
        )
        .await;
}

#[tokio::test]
async fn uvicorn_that_reloads() {
    let command = "uvicorn --app-dir examples --reload ";
    let Some(server) = Server::new("asgi_app.py", command, "--port PORT") else {
        return;
    };
    server
        .is_debugged(None, &["SpawnProcess-1", "SpawnProcess-2"], "uvicorn", true)
        .await;
}

#[tokio::test]
async fn flask_that_reloads() {
    let Some(server) = Server::new("flask_app.py", "flask ", "--port PORT") else {
        return;
    };
    server.is_debugged(None, &["flask"], "flask", true).await;
}

#[tokio::test]
async fn django_that_reloads() {
    let Some(server) = Server::new("django_app.py", "python ", "PORT") else {
        return;
    };
    server
        .is_debugged(None, &["django_app.py"], "django_app.py", true)
        .await;
}

/// A worker that is stopped is silent, as one that hangs is; its master replaces the latter alone.
async fn outlives_the_timeout(name: &str, beginning: &str, more: &str) {
    let Some(server) = Server::new(name, beginning, more) else {
        return;
    };
    let daemon = Daemon::start().await;
    let mut program = server.example.start(Some(&daemon));
    let mut client = server.example.attach(&daemon, json!({})).await;
    let request = server.request();
    let stopped = hit(&mut client, server.example.line()).await;
    let (pid, ..) = who(&daemon, &mut client, &stopped).await;
    // Another one falls silent after it, so its end says that the time of both is over.
    let silenced = async {
        loop {
            for session in sessions(&daemon).await.into_values() {
                let other = session["pid"].as_i64().expect("a pid");
                let id = Pid::from_raw(other as i32).expect("no process has id 0");
                let is_worker = session["parent"].is_string() && session["helper"] == false;
                let is_other = is_worker && other != pid;
                if is_other && runs(other) && kill_process(id, Signal::STOP).is_ok() {
                    return other;
                }
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let other = within("another worker", silenced).await;
    let killed = async {
        while runs(other) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    within("the end of the worker that hangs", killed).await;
    client.continue_(stopped.thread).await;
    let answer = request.await.expect("it does not panic");
    assert!(answer.ends_with("answer: 42\n"), "{answer}");
    assert!(runs(pid));
    nobody_threatens(&daemon).await;
    program.signal(Signal::TERM);
    assert_eq!(program.wait().await.code, 0);
    nothing_stays(&daemon).await;
}

// What takes the place of a killed worker may be told to end before it listens to that: then the master waits, as long
// as it is told.

#[tokio::test]
async fn gunicorn_leaves_a_stopped_worker_alive() {
    let more = "--timeout 4 --graceful-timeout 2 --bind 127.0.0.1:PORT";
    outlives_the_timeout("wsgi_app.py", "gunicorn ", more).await;
}

#[tokio::test]
async fn gunicorn_leaves_a_stopped_worker_with_threads_alive() {
    let more = "--timeout 4 --graceful-timeout 2 --threads 2 --bind 127.0.0.1:PORT";
    outlives_the_timeout("wsgi_app.py", "gunicorn ", more).await;
}

#[tokio::test]
async fn uvicorn_leaves_a_stopped_worker_alive() {
    let more = "--timeout-worker-healthcheck 4 --port PORT";
    outlives_the_timeout("asgi_app.py", "uvicorn --app-dir examples --workers ", more).await;
}

// Workers of other kinds.

#[tokio::test]
async fn celery() {
    let Some(python) = Python::with_frameworks() else {
        return;
    };
    let example = Example::new(python, "celery_app.py", "celery ");
    let ask = ["python", "examples/celery_app.py"].map(String::from);
    let ask = || Program::start(command(None, python, &example.root(), &ask));
    let daemon = Daemon::start().await;
    let mut seen = Vec::new();
    for daemon in [None, Some(&daemon)] {
        let mut worker = example.start(daemon);
        let task = ask().wait().await;
        assert_eq!((task.code, &*task.stdout), (0, "answer: 36\n"), "{task:?}");
        worker.signal(Signal::TERM);
        let ended = worker.wait().await;
        // Where in memory it is.
        let banner = gist(&ended.stdout).into_iter();
        let banner: Vec<_> = banner.filter(|line| !line.contains(".> app:")).collect();
        seen.push((ended.code, banner));
    }
    assert_eq!(seen[0], seen[1]);
    nobody_was_activated(&daemon);

    let mut client = example.attach(&daemon, json!({})).await;
    let mut worker = example.start(Some(&daemon));
    let mut task = ask();
    let all = stops(&daemon, &mut client, example.line(), 1).await;
    let (_, name, parent) = &all[0];
    assert!(name.starts_with("ForkPoolWorker-"), "{name}");
    assert_eq!(parent, "celery");
    assert_eq!(task.wait().await.stdout, "answer: 36\n");
    worker.signal(Signal::TERM);
    assert_eq!(worker.wait().await.code, seen[0].0);
    nothing_stays(&daemon).await;
}

#[tokio::test]
async fn pytest_in_parallel() {
    let Some(python) = Python::with_frameworks() else {
        return;
    };
    let example = Example::new(python, "test_parallel.py", "pytest ").and("-q -p no:cacheprovider");
    example.undisturbed().await;

    let daemon = Daemon::start().await;
    let mut client = example.attach(&daemon, json!({})).await;
    let mut program = example.start(Some(&daemon));
    let connected = async { while sessions(&daemon).await.len() < 3 {} };
    within("both workers", connected).await;
    let mut workers = BTreeSet::new();
    for _ in 0..4 {
        let stopped = hit(&mut client, example.line()).await;
        let frame = client.stack(stopped.thread).await.swap_remove(0);
        let worker = "__import__('os').environ['PYTEST_XDIST_WORKER']";
        workers.insert(client.evaluate(worker, &frame).await);
        client.continue_(stopped.thread).await;
    }
    let expected = ["'gw0'", "'gw1'"].map(String::from);
    assert_eq!(workers, BTreeSet::from(expected));
    assert_eq!(program.wait().await.code, 0);
    let sessions = sessions(&daemon).await;
    let root = sessions
        .values()
        .find(|session| session["parent"].is_null());
    let root = root.expect("there is one");
    assert_eq!(root["name"], "pytest");
    for session in sessions
        .values()
        .filter(|session| session["id"] != root["id"])
    {
        assert_eq!(session["parent"], root["id"]);
        let name = session["name"].as_str().expect("a name");
        assert!(name.starts_with("gw"), "{session}");
    }
    nothing_stays(&daemon).await;
}

#[tokio::test]
async fn a_launcher_of_ranks() {
    let example = Example::new(Python::newest(), "ranks.py", "python ");
    example.undisturbed().await;

    let daemon = Daemon::start().await;
    let condition = json!({ "condition": "@{rank=0} step == 2" });
    let mut client = example.attach(&daemon, condition).await;
    let mut program = example.start(Some(&daemon));
    let stopped = hit(&mut client, example.line()).await;
    let frame = client.stack(stopped.thread).await.swap_remove(0);
    assert_eq!(client.evaluate("rank, step", &frame).await, "(0, 2)");
    let (_, name, parent) = who(&daemon, &mut client, &stopped).await;
    assert_eq!((&*name, &*parent), ("rank 0", "ranks.py"));
    client.continue_(stopped.thread).await;
    assert_eq!(program.wait().await.code, 0);
    no_more_hits(&mut client).await;
    nothing_stays(&daemon).await;
}

// Who ends what is stopped: what the program says of itself is what happens.

/// A daemon that notices early that something is wrong.
async fn watchful() -> Daemon {
    Daemon::with(&["--monitor-interval", "0.1"]).await
}

/// The command as somebody starts it who knows debugpy alone: there is no agent.
fn by_debugpy(daemon: &Daemon, example: &Example) -> Program {
    let connect = daemon.connect();
    let words = ["python", "-X", "frozen_modules=off", "-m", "debugpy"];
    let words = words.into_iter().chain(["--connect", &connect, "-m"]);
    let words: Vec<String> = words.map(String::from).collect();
    let words = [words, example.words.clone()].concat();
    Program::start(command(None, example.python, &example.root(), &words))
}

/// What the report says of watchdogs, now or before.
fn watchdogs(report: &Value) -> Vec<String> {
    let findings = report["findings"].as_array().expect("it lists findings");
    let kind = |one: &&Value| one["kind"] == "watchdog";
    let message = |one: &Value| one["message"].as_str().expect("a text").to_owned();
    findings.iter().filter(kind).map(message).collect()
}

/// Waits until somebody is found to threaten a process with this.
async fn threatened(daemon: &Daemon, what: &str) {
    let is_said = |report: &Value| watchdogs(report).iter().any(|it| it.contains(what));
    report(daemon, what, is_said).await;
}

/// Nobody has been found to threaten anything.
async fn nobody_threatens(daemon: &Daemon) {
    let report = report(daemon, "a report", |_| true).await;
    assert_eq!(watchdogs(&report), Vec::<String>::new());
}

/// The process that is stopped.
async fn pid_of(client: &mut Client, stopped: &Stopped) -> i64 {
    let frame = client.stack(stopped.thread).await.swap_remove(0);
    let pid = client.evaluate("__import__('os').getpid()", &frame).await;
    pid.parse().expect("a pid")
}

/// Waits for the end of a process: what is said of it, and what the client's console says.
async fn ending(daemon: &Daemon, client: &mut Client, pid: i64) -> String {
    let ended = async {
        loop {
            let all = sessions(daemon).await;
            let mut ended = all.into_values().filter(|it| it["state"] == "ended");
            if let Some(session) = ended.find(|session| session["pid"] == pid) {
                return session;
            }
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    let session = within("the end of the process", ended).await;
    let ending = session["ending"].as_str().unwrap_or_default().to_owned();
    let said = format!("the process {ending}\n");
    let is_said = |body: &Value| {
        body["output"]
            .as_str()
            .is_some_and(|it| it.ends_with(&said))
    };
    client.event_where("output", is_said).await;
    ending
}

/// A worker that is stopped is ended by its master, where no agent speaks for it.
async fn is_ended_by_its_master(name: &str, beginning: &str, more: &str, threat: &str, by: &str) {
    let Some(server) = Server::new(name, beginning, more) else {
        return;
    };
    // Found in the directory where it is started.
    let settings = server.example.root().join("gunicorn.conf.py");
    fs::write(settings, "timeout = 4\ngraceful_timeout = 2\n").expect("it can be written");
    let daemon = watchful().await;
    let mut client = server.example.attach(&daemon, json!({})).await;
    let mut program = by_debugpy(&daemon, &server.example);
    let request = server.request();
    let stopped = hit(&mut client, server.example.line()).await;
    // It would be made again.
    request.abort();
    let pid = pid_of(&mut client, &stopped).await;
    threatened(&daemon, threat).await;
    let ending = ending(&daemon, &mut client, pid).await;
    assert_eq!(
        ending,
        format!("ended while it was stopped, most likely by {by}")
    );
    program.signal(Signal::TERM);
    program.wait().await;
    nothing_stays(&daemon).await;
}

#[tokio::test]
async fn gunicorn_ends_a_stopped_worker_that_has_no_agent() {
    is_ended_by_its_master(
        "wsgi_app.py",
        "gunicorn ",
        "--bind 127.0.0.1:PORT",
        "gunicorn kills a worker that is silent for 4.0 s (--timeout 4)",
        "gunicorn (--timeout 4)",
    )
    .await;
}

#[tokio::test]
async fn uvicorn_ends_a_stopped_worker_that_has_no_agent() {
    is_ended_by_its_master(
        "asgi_app.py",
        "uvicorn --app-dir examples --workers ",
        "--timeout-worker-healthcheck 4 --port PORT",
        "uvicorn kills a worker that does not answer for 4.0 s",
        "uvicorn (--timeout-worker-healthcheck 4)",
    )
    .await;
}

/// Celery's worker ends the process that is stopped in a task. The example's task has these options and its application
/// these settings.
async fn celery_ends(options: &str, settings: &str, arguments: &str, has_agent: bool, limit: &str) {
    let Some(python) = Python::with_frameworks() else {
        return;
    };
    let mut example = Example::new(python, "celery_app.py", "celery ");
    if !arguments.is_empty() {
        example = example.and(arguments);
    }
    let source = fs::read_to_string(example.script.path()).expect("it is there");
    let (task, ask) = ("@app.task(name=\"square\"", "if __name__");
    assert!(source.contains(task) && source.contains(ask));
    let source = source.replace(task, &format!("{task}{options}"));
    let source = source.replace(ask, &format!("{settings}\n{ask}"));
    fs::write(example.script.path(), source).expect("it can be written");

    let daemon = watchful().await;
    let mut client = example.attach(&daemon, json!({})).await;
    let mut worker = match has_agent {
        true => example.start(Some(&daemon)),
        false => by_debugpy(&daemon, &example),
    };
    let ask = ["python", "examples/celery_app.py"].map(String::from);
    let mut task = Program::start(command(None, python, &example.root(), &ask));
    let stopped = hit(&mut client, example.line()).await;
    let pid = pid_of(&mut client, &stopped).await;
    let threat = format!("celery kills a worker whose task takes {limit}.0 s (time_limit {limit})");
    threatened(&daemon, &threat).await;
    let ending = ending(&daemon, &mut client, pid).await;
    let by = format!("celery (time_limit {limit})");
    assert_eq!(
        ending,
        format!("ended while it was stopped, most likely by {by}")
    );
    let ended = task.wait().await;
    assert!(ended.stderr.contains("TimeLimitExceeded"), "{ended:?}");
    worker.signal(Signal::TERM);
    worker.wait().await;
    nothing_stays(&daemon).await;
}

#[tokio::test]
async fn celery_ends_a_task_that_is_stopped_by_its_command_line() {
    celery_ends("", "", "--time-limit 4", true, "4").await;
}

#[tokio::test]
async fn celery_ends_a_task_that_is_stopped_by_the_task_itself() {
    celery_ends(", time_limit=4", "", "--time-limit 60", true, "4").await;
}

#[tokio::test]
async fn celery_ends_a_task_that_is_stopped_by_its_settings() {
    celery_ends("", "app.conf.task_time_limit = 4", "", false, "4").await;
}

/// A test that has stopped under pytest-timeout.
struct StoppedTest {
    daemon: Daemon,
    client: Client,
    stopped: Stopped,
    pid: i64,
    program: Program,
    _example: Example,
}

impl StoppedTest {
    /// With these settings in pytest's own file, and an option; `None` where this machine lacks the interpreter.
    async fn new(settings: &str, option: &str) -> Option<StoppedTest> {
        let python = Python::with_frameworks()?;
        let source = format!("def test():\n    assert True  {BREAK}\n");
        let settings = format!("[pytest]\n{settings}\n");
        let script = Script::new("tests/test_it.py", &source).with("pytest.ini", &settings);
        let words = ["pytest", "-q", "-p", "no:cacheprovider", option, "tests"];
        let example = Example {
            python,
            script,
            words: words.map(String::from).into(),
        };
        let daemon = watchful().await;
        let mut client = example.attach(&daemon, json!({})).await;
        let program = example.start(Some(&daemon));
        let stopped = hit(&mut client, example.line()).await;
        let pid = pid_of(&mut client, &stopped).await;
        Some(StoppedTest {
            daemon,
            client,
            stopped,
            pid,
            program,
            _example: example,
        })
    }

    /// How many seconds are left until the alarm, as Python writes it.
    async fn left(&mut self) -> String {
        let frame = self.client.stack(self.stopped.thread).await.swap_remove(0);
        let left = "__import__('signal').getitimer(0)[0]";
        self.client.evaluate(left, &frame).await
    }
}

#[tokio::test]
async fn pytest_timeout_ends_a_test_that_was_stopped_if_it_is_to_ignore_debuggers() {
    let settings = "timeout = 2\ntimeout_method = thread";
    let option = "--timeout-disable-debugger-detection";
    let Some(mut test) = StoppedTest::new(settings, option).await else {
        return;
    };
    let threat = "pytest-timeout ends pytest if a test takes 2.0 s (timeout 2): that was";
    threatened(&test.daemon, threat).await;
    // Its thread is stopped too.
    test.client.continue_(test.stopped.thread).await;
    let ending = ending(&test.daemon, &mut test.client, test.pid).await;
    let expected = "ended after it was stopped, most likely by pytest-timeout (timeout 2)";
    assert_eq!(ending, expected);
    assert_eq!(test.program.wait().await.code, 1);
}

#[tokio::test]
async fn pytest_timeout_breaks_off_a_test_that_is_stopped_if_it_is_to_ignore_debuggers() {
    let settings = "timeout = 4\ntimeout_method = signal";
    let option = "--timeout-disable-debugger-detection";
    let Some(mut test) = StoppedTest::new(settings, option).await else {
        return;
    };
    let threat = "pytest-timeout breaks off a test that takes 4.0 s (timeout 4)";
    threatened(&test.daemon, threat).await;
    test.client.event("continued").await;
    // pydevd says so, but holds the thread in whose stop the exception has come.
    for verb in ["pause", "continue"] {
        let (status, answer) = test.daemon.verb(verb, json!({})).await;
        assert_eq!(status, 200, "{answer}");
    }
    let ended = test.program.wait().await;
    assert_eq!(ended.code, 1, "{ended:?}");
    assert!(ended.stdout.contains("Timeout (>4.0s)"), "{ended:?}");
    let all = sessions(&test.daemon).await;
    let ending = |session: &Value| session["ending"].is_null();
    assert!(all.values().all(ending), "{all:?}");
}

#[tokio::test]
async fn pytest_timeout_lets_a_test_be_that_is_stopped() {
    let settings = "timeout = 3\ntimeout_method = signal";
    let Some(mut test) = StoppedTest::new(settings, "--strict-markers").await else {
        return;
    };
    assert_ne!(test.left().await, "0.0");
    let over = async { while test.left().await != "0.0" {} };
    within("the alarm", over).await;
    test.client.continue_(test.stopped.thread).await;
    let ended = test.program.wait().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    nobody_threatens(&test.daemon).await;
    let all = sessions(&test.daemon).await;
    let session = all.values().find(|session| session["pid"] == test.pid);
    assert!(session.expect("it is there")["ending"].is_null(), "{all:?}");
}

/// Variables that a program sets itself nobody sees from outside.
#[tokio::test]
async fn torch_says_for_how_long_it_waits() {
    let name = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC";
    let source = format!("import os\nos.environ['{name}'] = '50'\nprint('here')  {BREAK}\n");
    for python in Python::all() {
        eprintln!("{python}");
        let script = Script::new("train.py", &source);
        let daemon = watchful().await;
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "view": "merged" }))
            .breakpoints(script.path(), &[script.line(BREAK)])
            .attached()
            .await;
        let mut program = python.debug(&daemon, &script, &[]);
        let stopped = hit(&mut client, script.line(BREAK)).await;
        let threat = format!("ends a process whose NCCL watchdog is silent for 50 s ({name} 50)");
        threatened(&daemon, &threat).await;
        client.continue_(stopped.thread).await;
        assert_eq!(program.wait().await.code, 0);
    }
}

// The tests of others, which look closely at the processes that they start.

/// The tests of a package end as they do without dbgproxy.
///
/// Left out are those that need more time or another machine, and those that fail on a busy one.
async fn passes_its_tests(package: &str, words: &[&str]) {
    let Some(python) = Python::with_frameworks() else {
        return;
    };
    let bare = outcomes(None, python, package, words);
    let daemon = Daemon::start().await;
    let run = outcomes(Some(&daemon), python, package, words);
    let (bare, run) = tokio::join!(bare, run);
    assert_eq!(bare.code, 0, "{}{}", bare.stdout, bare.stderr);
    assert_eq!(run.code, bare.code, "{}{}", run.stdout, run.stderr);
    let tests = verdicts(&run.stdout);
    assert!(tests.len() > 50, "{}", run.stdout);
    assert_eq!(tests, verdicts(&bare.stdout));
    assert!(sessions(&daemon).await.len() > 5);
    nobody_was_activated(&daemon);
    nothing_stays(&daemon).await;
}

/// Runs the tests of a package in a copy of its sources.
async fn outcomes(
    daemon: Option<&Daemon>,
    python: &Python,
    package: &str,
    words: &[&str],
) -> Ended {
    let sources = Script::new("sources", "");
    let copied = std::process::Command::new("cp")
        .arg("-R")
        .args([suite(package), sources.directory().join(package)])
        .status();
    assert!(copied.expect("cp is there").success());
    let directory = sources.directory().join(package);
    let all = ["pytest", "-v", "-p", "no:cacheprovider", "-o", "addopts="];
    let all: Vec<_> = all.iter().chain(words).map(ToString::to_string).collect();
    Program::start(command(daemon, python, &directory, &all))
        .wait()
        .await
}

/// What pytest says of each test. Whether one that is expected to fail does so is chance.
fn verdicts(stdout: &str) -> BTreeMap<&str, String> {
    let lines = stdout.lines().filter(|line| line.contains("::"));
    let lines = lines.filter_map(|line| {
        let (test, rest) = line.split_once(' ')?;
        let verdict = rest.split_whitespace().next()?;
        Some((test, verdict.replace("XPASS", "XFAIL")))
    });
    lines.collect()
}

#[tokio::test]
async fn the_tests_of_execnet() {
    passes_its_tests(
        "execnet-2.1.2",
        &["testing/test_basics.py", "testing/test_termination.py"],
    )
    .await;
}

#[tokio::test]
async fn the_tests_of_plumbum() {
    passes_its_tests(
        "plumbum-2.0.2",
        &[
            "-k",
            "not timeout",
            // The others leave their working directory, which these look at.
            "tests/test_async_local.py",
            "tests/test_local.py",
            "tests/test_daemon_launcher.py",
            "tests/test_pipelines.py",
            "tests/test_subprocess_lifecycle.py",
        ],
    )
    .await;
}
