//! An agent without a process: what it says is a test's.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::aged::aged;
use super::wait::within;
use super::wire::{Frames, frame};
use super::{Daemon, DebugServer};

/// The session that an agent proposes unless it is told otherwise.
pub const ID: &str = "8f14e45f-ceea-467f-a0e6-b1c5a1d2e3f4";
/// The pid that it has.
pub const PID: i64 = 5_000_000;

/// An agent without a process.
pub struct Agent {
    frames: Frames<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

/// What an agent or its debug server says first.
pub fn hello(role: &str, more: &Value) -> Value {
    let mut arguments =
        json!({ "role": role, "session": ID, "pid": PID, "how": "start", "script": "/srv/a.py" });
    for (name, value) in more.as_object().expect("an object") {
        arguments[name] = value.clone();
    }
    json!({ "seq": 1, "type": "request", "command": "dbgproxy/hello", "arguments": arguments })
}

impl Agent {
    /// Says hello, and gives what it is answered.
    pub async fn start(daemon: &Daemon, more: &Value) -> (Agent, Value) {
        let stream = within("a connection", TcpStream::connect(daemon.address)).await;
        let (read, write) = stream.expect("the daemon accepts connections").into_split();
        let frames = Frames::new(read);
        let mut agent = Agent { frames, write };
        agent.say(&hello("agent", more)).await;
        // On a busy machine the daemon may have asked meanwhile whether we are a debug server.
        let mut welcome = agent.next().await;
        while welcome["command"] != "dbgproxy/hello" {
            welcome = agent.next().await;
        }
        (agent, welcome["body"].take())
    }

    pub async fn say(&mut self, message: &Value) {
        let said = self.write.write_all(&frame(&message.to_string())).await;
        said.expect("the daemon reads");
    }

    pub async fn next(&mut self) -> Value {
        let text = within("a word of the daemon", self.frames.next()).await;
        let text = text.expect("it can be read").expect("it is there");
        serde_json::from_str(&text).expect("it is JSON")
    }

    /// Waits for a request.
    pub async fn asked(&mut self, command: &str) -> Value {
        let request = self.next().await;
        assert_eq!(request["command"], command, "{request}");
        request
    }

    /// Waits until it is to wake its process, and does so: the debugger comes.
    pub async fn wakes(&mut self, daemon: &Daemon) -> DebugServer {
        self.asked("dbgproxy/activate").await;
        server(daemon, &json!({})).await
    }

    /// Answers a request with a failure.
    pub async fn refuse(&mut self, request: &Value, why: &str) {
        let answer = json!({
            "seq": 2, "type": "response", "request_seq": request["seq"], "success": false,
            "command": request["command"], "message": why,
        });
        self.say(&answer).await;
    }

    /// Waits until the daemon has closed the connection.
    pub async fn ended(&mut self) {
        let end = within("the end", self.frames.next()).await;
        assert!(matches!(end, Ok(None)), "{end:?}");
    }

    /// Says something of itself.
    pub async fn event(&mut self, name: &str, body: Value) {
        let event = json!({ "seq": 2, "type": "event", "event": name, "body": body });
        self.say(&event).await;
    }

    /// Says again and again how its process stands, until it is told to say something else.
    pub fn sampling(self, sample: Value) -> Sampling {
        let (tx, mut rx) = watch::channel(sample);
        let Agent { frames, mut write } = self;
        let start = Instant::now();
        let task = tokio::spawn(async move {
            let _frames = frames;
            loop {
                let body = aged(rx.borrow().clone(), start.elapsed().as_secs_f64());
                let event =
                    json!({ "seq": 2, "type": "event", "event": "dbgproxy/monitor", "body": body });
                if write.write_all(&frame(&event.to_string())).await.is_err() {
                    return;
                }
                tokio::select! {
                    () = sleep(SAMPLING) => {}
                    changed = rx.changed() => if changed.is_err() { return },
                }
            }
        });
        Sampling { says: tx, task }
    }
}

/// How often a process says how it stands.
const SAMPLING: Duration = Duration::from_millis(50);

/// An agent that says how its process stands; it is gone when it is dropped.
pub struct Sampling {
    says: watch::Sender<Value>,
    task: JoinHandle<()>,
}

impl Sampling {
    /// What it says from now on.
    pub fn says(&self, sample: Value) {
        self.says.send_replace(sample);
    }
}

impl Drop for Sampling {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The debug server that the agent announces.
pub async fn server(daemon: &Daemon, more: &Value) -> DebugServer {
    DebugServer::new(more["pid"].as_i64().unwrap_or(PID))
        .preamble(&frame(&hello("debugServer", more).to_string()))
        .connect(daemon)
        .await
}
