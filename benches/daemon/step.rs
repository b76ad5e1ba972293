//! One step with the refresh that an IDE does, in a real Python process: through dbgproxy, and through
//! debugpy's own adapter.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::children::Server;
use crate::peers::Client;
use crate::{Effort, Goal, median, remark, report};

/// The variable that names a Python with debugpy.
const PYTHON: &str = "DBGPROXY_BENCH_PYTHON";

/// The program that is stepped through, and the line where it is stopped first.
const PROGRAM: &str = "\
def work():
    total = 0
    names = ['a', 'b', 'c']
    while True:
        total += 1
        total += len(names)
        total %= 1000

work()
";
const LINE: u32 = 5;

/// How long debugpy's adapter may take to listen.
const START: Duration = Duration::from_secs(20);

/// A Python program that is killed when it is dropped.
struct Program(Child);

impl Program {
    fn start(python: &Path, arguments: &[&str], file: &Path) -> Program {
        let child = Command::new(python)
            .args(["-X", "frozen_modules=off", "-m", "debugpy"])
            .args(arguments)
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Program(child.expect("Python starts"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A client of a program that is stopped.
struct Stopped {
    client: Client,
    thread: i64,
}

impl Stopped {
    /// Attaches, and waits until the program is at its breakpoint.
    fn attach(address: SocketAddr, file: &Path) -> io::Result<Stopped> {
        let breakpoints = json!({
            "source": { "path": file },
            "breakpoints": [{ "line": LINE }]
        });
        let arguments = json!({ "view": "process", "justMyCode": true });
        let mut client = Client::attach(address, arguments, Some(breakpoints))?;
        let thread = thread_of(&mut client);
        // From here on it is to stop at each line, not only at that one.
        let none = json!({ "source": { "path": file }, "breakpoints": [] });
        client.ask("setBreakpoints", none);
        Ok(Stopped { client, thread })
    }

    /// One step, and all that an IDE asks for after it.
    fn step(&mut self) -> f64 {
        let start = Instant::now();
        let client = &mut self.client;
        client.send("next", json!({ "threadId": self.thread }));
        self.thread = thread_of(client);
        client.ask("threads", json!({}));
        let stack = json!({ "threadId": self.thread, "startFrame": 0, "levels": 20 });
        let stack = client.ask("stackTrace", stack);
        let frame = number(&stack, "/stackFrames/0/id");
        let scopes = client.ask("scopes", json!({ "frameId": frame }));
        let reference = number(&scopes, "/scopes/0/variablesReference");
        client.ask("variables", json!({ "variablesReference": reference }));
        start.elapsed().as_secs_f64() * 1e3
    }
}

fn thread_of(client: &mut Client) -> i64 {
    number(&client.event("stopped"), "/threadId")
}

fn number(message: &dbgproxy::wire::Message, pointer: &str) -> i64 {
    let body: Value = message.decode().expect("it has a body");
    let number = body.pointer(pointer).and_then(Value::as_i64);
    number.unwrap_or_else(|| panic!("{:?} has no {pointer}: {body}", message.name()))
}

fn python() -> PathBuf {
    let usual =
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/3.11-1.8.22/bin/python");
    std::env::var_os(PYTHON).map_or_else(usual, PathBuf::from)
}

/// A port that nobody listens on, as far as one can know.
fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
    listener.local_addr().expect("it has an address")
}

/// A step with its refresh.
pub fn step(effort: Effort) {
    let python = python();
    if !python.exists() {
        let python = python.display();
        remark(
            "step with refresh",
            format_args!(
                "passed over: there is no {python}; tests/setup.sh makes it, or set {PYTHON}"
            ),
        );
        return;
    }
    let directory = tempfile::tempdir().expect("there is room for a file");
    let file = directory.path().join("program.py");
    std::fs::write(&file, PROGRAM).expect("there is room for a file");

    let daemon = Server::waiting_daemon();
    let connect = ["--connect", &daemon.address.to_string()];
    let _ours = Program::start(&python, &connect, &file);
    let mut ours = Stopped::attach(daemon.address, &file).expect("the daemon listens");

    let address = free_address();
    let listen = ["--listen", &address.to_string(), "--wait-for-client"];
    let _theirs = Program::start(&python, &listen, &file);
    let start = Instant::now();
    let mut theirs = loop {
        match Stopped::attach(address, &file) {
            Ok(theirs) => break theirs,
            Err(error) => assert!(start.elapsed() < START, "debugpy does not listen: {error}"),
        }
        thread::sleep(Duration::from_millis(50));
    };

    let (ours, theirs): (Vec<_>, Vec<_>) = (0..effort.of(40, 10))
        .map(|_| (ours.step(), theirs.step()))
        .unzip();
    let (ours, theirs) = (median(&ours), median(&theirs));
    report(
        "step with refresh, real debugpy",
        &format!("{ours:.2} ms"),
        &format!("its own adapter {theirs:.1} ms"),
        (theirs / ours, "× faster"),
        Goal::AtLeast(50.0),
    );
}
