//! What a process costs whose agent sleeps: at its start, while it runs, and until it is debugged when somebody comes.
//!
//! Bare processes and such with an agent take turns, on each version of Python that is there.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::children::{Prepared, Server, memory};
use crate::peers::Client;
use crate::{Effort, Goal, median, report};

/// Says what of a processor it has used so far, and at each further line how many nanoseconds a call takes; or else spins until it is ended.
const PROGRAM: &str = "\
import sys, time
print(time.process_time(), flush=True)
def work(n):
    return n + 1
def calls():
    start = time.thread_time()
    for n in range(300000):
        work(n)
    return (time.thread_time() - start) / 300000 * 1e9
def spin():
    n = 0
    while True:
        n += 1
        n -= 1
for line in sys.stdin:
    if line == 'spin\\n':
        spin()
    print(calls(), flush=True)
";

/// A line of [`PROGRAM`] that `spin` comes by.
const LINE: u32 = 13;

/// How old a process is that somebody sets a breakpoint in.
const AGE: Duration = Duration::from_secs(3);

/// How long a process gets to say hello and fall asleep.
const HELLO: Duration = Duration::from_millis(100);

/// How long pydevd may take to leave a process that nobody needs it in.
const LEAVE: Duration = Duration::from_secs(30);

/// What all measures on one version need.
struct Setting {
    python: Prepared,
    daemon: Server,
    /// What attaches a process to the daemon.
    environment: BTreeMap<String, String>,
    directory: TempDir,
}

/// A process that is asked by lines; it is killed when it is dropped.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
    /// How long it took to its first line.
    started: Duration,
    /// What of a processor it had used by then.
    used: Duration,
}

impl Program {
    fn start(setting: &Setting, is_attached: bool) -> Program {
        let mut command = Command::new(&setting.python.interpreter);
        command
            .arg(setting.file())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if text.starts_with("PYTHON") || text.starts_with("DBGPROXY") {
                command.env_remove(&name);
            }
        }
        // Else the layout of dictionaries is another each time.
        command.env("PYTHONHASHSEED", "0");
        if is_attached {
            command.envs(&setting.environment);
        }
        let start = Instant::now();
        let mut child = command.spawn().expect("Python starts");
        let stdin = child.stdin.take().expect("it is piped");
        let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("it can be read");
        let used: f64 = line.trim().parse().expect("it is a number");
        Program {
            child,
            stdin,
            stdout,
            started: start.elapsed(),
            used: Duration::from_secs_f64(used),
        }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("the program reads");
    }

    /// Nanoseconds that a call takes.
    fn call(&mut self) -> f64 {
        self.tell("");
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it can be read");
        line.trim().parse().expect("it is a number")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Setting {
    fn new(python: Prepared) -> Setting {
        let directory = tempfile::tempdir().expect("there is room for a file");
        let daemon = Server::daemon();
        let output = Command::new(env!("CARGO_BIN_EXE_dbgproxy"))
            .args(["env", "--shell", "json", "--connect"])
            .arg(daemon.address.to_string())
            .env("XDG_CACHE_HOME", directory.path().join("cache"))
            .output()
            .expect("dbgproxy starts");
        let environment = serde_json::from_slice(&output.stdout).expect("an object of texts");
        let setting = Setting {
            python,
            daemon,
            environment,
            directory,
        };
        std::fs::write(setting.file(), PROGRAM).expect("there is room for a file");
        // The first one compiles the agent.
        drop(Program::start(&setting, true));
        thread::sleep(HELLO);
        setting
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("program.py")
    }

    fn name(&self, what: &str) -> String {
        format!("{what}, {}", self.python.version())
    }

    /// A client of one process, with a breakpoint or none.
    fn client(&self, program: &Program, lines: &[u32]) -> Client {
        let lines: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
        let breakpoints = json!({ "source": { "path": self.file() }, "breakpoints": lines });
        let arguments = json!({ "view": "process", "processId": program.child.id() });
        Client::attach(self.daemon.address, arguments, Some(breakpoints)).expect("it listens")
    }

    /// Waits until pydevd has left all processes.
    fn wait_until_asleep(&self) {
        let nobody = json!({ "view": "merged", "sessions": "name=nobody" });
        let mut client = Client::attach(self.daemon.address, nobody, None).expect("it listens");
        let start = Instant::now();
        loop {
            let listing = client.ask("dbgproxy/sessions", json!({}));
            let listing: Value = listing.decode().expect("it has a body");
            let sessions = listing["sessions"].as_array().expect("it lists them");
            if sessions.iter().all(|session| session["state"] == "dormant") {
                return;
            }
            assert!(start.elapsed() < LEAVE, "pydevd does not leave: {listing}");
            thread::sleep(Duration::from_millis(100));
        }
    }
}

/// What sleeping processes cost.
pub fn asleep(effort: Effort) {
    for python in Prepared::all("sleeping process") {
        let setting = Setting::new(python);
        start(&setting, effort);
        calls(&setting, effort);
        wake(&setting, effort);
    }
}

/// The time to the program's first line, what of a processor that takes, and its memory then.
fn start(setting: &Setting, effort: Effort) {
    let measure = |is_attached| {
        let program = Program::start(setting, is_attached);
        thread::sleep(HELLO);
        let milliseconds = |duration: Duration| duration.as_secs_f64() * 1e3;
        let memory = memory(program.child.id()) as f64 / f64::from(1 << 20);
        let (started, used) = (program.started, program.used);
        [milliseconds(started), milliseconds(used), memory]
    };
    let turns = (0..effort.of(60, 20)).map(|_| (measure(true), measure(false)));
    let (ours, bare): (Vec<_>, Vec<_>) = turns.unzip();
    let kinds = [
        ("start", "ms", 10.0),
        ("start, processor", "ms", 10.0),
        ("memory", "MiB", 2.0),
    ];
    for (at, (what, unit, most)) in kinds.into_iter().enumerate() {
        let of = |all: &[[f64; 3]]| median(&all.iter().map(|one| one[at]).collect::<Vec<_>>());
        let (ours, bare) = (of(&ours), of(&bare));
        report(
            &setting.name(&format!("sleeping agent: {what}")),
            &format!("{ours:.1} {unit}"),
            &format!("bare {bare:.1} {unit}"),
            (ours - bare, &format!("{unit} more")),
            Goal::AtMost(most),
        );
    }
}

/// What a call takes before a process was ever debugged, and after it.
fn calls(setting: &Setting, effort: Effort) {
    let (mut ours, mut bare) = (
        Program::start(setting, true),
        Program::start(setting, false),
    );
    let compare = |when: &str, ours: &mut Program, bare: &mut Program| {
        let turns = (0..effort.of(60, 20)).map(|_| (ours.call(), bare.call()));
        let (calls, bare): (Vec<_>, Vec<_>) = turns.unzip();
        let (calls, bare) = (median(&calls), median(&bare));
        report(
            &setting.name(&format!("call {when}")),
            &format!("{calls:.1} ns"),
            &format!("bare {bare:.1} ns"),
            (calls / bare, "× as long"),
            Goal::AtMost(1.05),
        );
    };
    compare("before activation", &mut ours, &mut bare);
    drop(setting.client(&ours, &[LINE]));
    setting.wait_until_asleep();
    compare("after deactivation", &mut ours, &mut bare);
}

/// From the moment when somebody comes to a busy process until it stops.
fn wake(setting: &Setting, effort: Effort) {
    let times: Vec<f64> = (0..effort.of(9, 3))
        .map(|_| {
            let mut program = Program::start(setting, true);
            program.tell("spin");
            thread::sleep(AGE);
            let start = Instant::now();
            let mut client = setting.client(&program, &[LINE]);
            client.event("stopped");
            start.elapsed().as_secs_f64()
        })
        .collect();
    let longest = times.iter().copied().fold(0.0, f64::max);
    report(
        &setting.name("first stop of a busy process"),
        &format!("{:.2} s", median(&times)),
        &format!("the longest {longest:.2} s"),
        (median(&times), "s"),
        Goal::AtMost(2.0),
    );
}
