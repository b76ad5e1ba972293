//! A process to be debugged without any Python: pydevd's side of the wire, played by a script.
//!
//! Thousands of them fit into one test process. [`super::pydevd`] has what they do by themselves.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::task::JoinHandle;

use super::pydevd::{Out, Pydevd};
use super::wait::{Watched, within};
use super::wire::{Frames, header};

/// What a test wants to be done with a request.
pub enum Answer {
    /// What pydevd would do.
    Usual,
    /// A success with this body.
    Body(Value),
    /// A failure with this message.
    Failure(String),
    /// Nothing, for ever.
    Silence,
}

/// How many debug servers print their requests when a test fails; a test may have thousands.
const MAX_PRINTED: usize = 8;
static PRINTED: AtomicUsize = AtomicUsize::new(0);

type Handler = Box<dyn FnMut(&Value) -> Answer + Send + Sync>;

/// A scripted debug server that is connected to the daemon. Dropping it closes the connection.
pub struct DebugServer {
    shared: Arc<Watched<Shared>>,
    reader: JoinHandle<()>,
    writer: JoinHandle<()>,
    /// The id of the thread that every process has.
    pub main_thread: i64,
}

/// What the tasks of a debug server and the test share.
struct Shared {
    pydevd: Pydevd,
    handlers: HashMap<String, Handler>,
    /// The requests that came, as text, which takes less room than values do.
    requests: Vec<Box<str>>,
    /// How many requests of each command the test has taken.
    taken: HashMap<String, usize>,
    /// Whether the daemon has closed the connection.
    closed: bool,
}

/// A scripted debug server that is not connected yet.
#[must_use = "it does nothing before `connect`"]
pub struct Described {
    pydevd: Pydevd,
    handlers: HashMap<String, Handler>,
    preamble: Vec<u8>,
}

impl Described {
    /// The id of the process that started it.
    pub fn parent(mut self, pid: i64) -> Self {
        self.pydevd.parent = pid;
        self
    }

    /// The script that it pretends to run.
    pub fn script(mut self, path: &str) -> Self {
        let Pydevd {
            pid,
            parent,
            report,
            ..
        } = self.pydevd;
        self.pydevd = Pydevd::new(pid, parent, path);
        self.pydevd.report = report;
        self
    }

    /// What the guard reports of it, such as `{"name": "worker-1"}`.
    pub fn reporting(mut self, report: &Value) -> Self {
        self.pydevd.report = report.clone();
        self
    }

    /// Decides what is done with requests of a command.
    pub fn on(
        mut self,
        command: &str,
        handler: impl FnMut(&Value) -> Answer + Send + Sync + 'static,
    ) -> Self {
        self.handlers.insert(command.into(), Box::new(handler));
        self
    }

    /// Sends these bytes first, as a debug server does that an agent announces.
    pub fn preamble(mut self, bytes: &[u8]) -> Self {
        self.preamble = bytes.into();
        self
    }

    /// Connects, and is silent until it is spoken to.
    pub async fn connect(mut self, to: impl Into<SocketAddr>) -> DebugServer {
        let stream = within("a connection", TcpStream::connect(to.into())).await;
        let stream = stream.expect("the daemon accepts connections");
        if !self.preamble.is_empty() {
            self.pydevd.out.push_back(Out::Bytes(self.preamble));
        }
        let (read, write) = stream.into_split();
        let shared = Arc::new(Watched::new(Shared {
            pydevd: self.pydevd,
            handlers: self.handlers,
            requests: Vec::new(),
            taken: HashMap::new(),
            closed: false,
        }));
        DebugServer {
            reader: tokio::spawn(receive(shared.clone(), read)),
            writer: tokio::spawn(transmit(shared.clone(), write)),
            shared,
            main_thread: 1,
        }
    }
}

impl DebugServer {
    /// Describes a process with this id. An id that no process can have keeps real processes out of it.
    #[allow(clippy::new_ret_no_self)]
    pub fn new(pid: i64) -> Described {
        Described {
            pydevd: Pydevd::new(pid, 1, "/srv/script.py"),
            handlers: HashMap::new(),
            preamble: Vec::new(),
        }
    }

    /// Decides from now on what is done with requests of a command.
    pub fn on(&self, command: &str, handler: impl FnMut(&Value) -> Answer + Send + Sync + 'static) {
        self.shared
            .change(|shared| shared.handlers.insert(command.into(), Box::new(handler)));
    }

    // What it was asked.

    /// Waits until user code has been let go.
    pub async fn released(&self) {
        let released = self
            .shared
            .until(|shared| shared.pydevd.released.then_some(()));
        within("configurationDone", released).await;
    }

    pub fn is_released(&self) -> bool {
        self.shared.read(|shared| shared.pydevd.released)
    }

    /// The next request of this command that has not been asked for yet.
    pub async fn received(&self, command: &str) -> Value {
        let take = self.shared.until(|shared| {
            let skip = shared.taken.get(command).copied().unwrap_or(0);
            shared.of(command).nth(skip)
        });
        let request = within(&format!("the request {command}"), take).await;
        self.shared
            .change(|shared| *shared.taken.entry(command.into()).or_default() += 1);
        request
    }

    /// All requests that came up to now.
    pub fn requests(&self) -> Vec<Value> {
        self.shared
            .read(|shared| shared.requests.iter().map(|text| parse(text)).collect())
    }

    /// How many requests of this command came up to now.
    pub fn count(&self, command: &str) -> usize {
        self.shared.read(|shared| shared.of(command).count())
    }

    /// The breakpoints of a file, as the daemon has set them.
    pub fn breakpoints(&self, path: &str) -> Vec<Value> {
        self.shared.read(|shared| shared.pydevd.breakpoints(path))
    }

    /// Waits until the breakpoints of a file fulfil a condition.
    pub async fn breakpoints_where(
        &self,
        path: &str,
        condition: impl Fn(&[Value]) -> bool,
    ) -> Vec<Value> {
        let there = self
            .shared
            .until(|shared| Some(shared.pydevd.breakpoints(path)).filter(|them| condition(them)));
        within(&format!("other breakpoints in {path}"), there).await
    }

    // What it does.

    /// Starts a thread and returns its id.
    pub fn start_thread(&self, name: &str) -> i64 {
        self.pydevd(|pydevd| pydevd.start_thread(name))
    }

    pub fn end_thread(&self, thread: i64) {
        self.pydevd(|pydevd| pydevd.end_thread(thread));
    }

    /// Gives a thread a stack: path and line of each frame, the innermost first.
    pub fn place(&self, thread: i64, stack: &[(&str, i64)]) {
        let stack = stack
            .iter()
            .map(|(path, line)| ((*path).to_owned(), *line))
            .collect();
        self.pydevd(|pydevd| pydevd.place(thread, stack));
    }

    pub fn set_local(&self, thread: i64, name: &str, value: &str) {
        self.pydevd(|pydevd| pydevd.set_local(thread, name, value));
    }

    /// Gives `__main__` a name that can be evaluated while the process runs.
    pub fn set_global(&self, name: &str, value: &str) {
        self.pydevd(|pydevd| pydevd.globals.insert(name.into(), value.into()));
    }

    /// Somebody ends it when it is stopped for so many seconds: one of the guard's kinds.
    pub fn is_watched(&self, kind: &str, limit: f64) {
        let watchdog = json!({ "kind": kind, "limit": limit, "age": 0 });
        self.pydevd(|pydevd| pydevd.watchdogs.push(watchdog));
    }

    /// Stops in a thread; `body` is added to the usual body of the event (`Null` for nothing).
    pub fn stop_at(&self, thread: i64, reason: &str, body: &Value) {
        self.pydevd(|pydevd| pydevd.stop(thread, reason, body));
    }

    /// The main thread comes to a line, and stops there if there is a breakpoint. Says whether there is.
    pub fn reach(&self, path: &str, line: i64) -> bool {
        let thread = self.main_thread;
        self.pydevd(|pydevd| {
            let ids = pydevd.breakpoints_on(path, line);
            pydevd.place(thread, vec![(path.into(), line)]);
            // With two on one line pydevd does not say which ones they are.
            let body = if ids.len() == 1 {
                json!({ "hitBreakpointIds": ids })
            } else {
                Value::Null
            };
            if !ids.is_empty() {
                pydevd.stop(thread, "breakpoint", &body);
            }
            !ids.is_empty()
        })
    }

    /// Prints something, which arrives whether or not the daemon has asked for output.
    pub fn output(&self, category: &str, text: &str) {
        self.event(
            "output",
            &json!({ "output": text, "category": category, "source": {} }),
        );
    }

    /// Any event (`Null` for no body).
    pub fn event(&self, name: &str, body: &Value) {
        self.pydevd(|pydevd| pydevd.event(name, body));
    }

    /// Answers a request to which [`Answer::Silence`] was the answer at first.
    pub fn respond(&self, request: &Value, body: &Value) {
        self.pydevd(|pydevd| pydevd.respond(request, body));
    }

    /// Bytes as they are, right or wrong.
    pub fn send_bytes(&self, bytes: &[u8]) {
        self.pydevd(|pydevd| pydevd.out.push_back(Out::Bytes(bytes.into())));
    }

    // How it ends.

    /// Ends as a program does that comes to its end: says `terminated`, and closes.
    pub fn finish(&self) {
        self.event("terminated", &json!({}));
        self.close();
    }

    /// Closes the connection without a word, after all that is still to be sent.
    pub fn close(&self) {
        self.pydevd(|pydevd| pydevd.out.push_back(Out::Close));
    }

    /// Waits until the daemon has closed the connection.
    pub async fn closed(&self) {
        within(
            "the daemon to close",
            self.shared.until(|shared| shared.closed.then_some(())),
        )
        .await;
    }

    fn pydevd<R>(&self, act: impl FnOnce(&mut Pydevd) -> R) -> R {
        self.shared.change(|shared| act(&mut shared.pydevd))
    }
}

impl Drop for DebugServer {
    fn drop(&mut self) {
        self.reader.abort();
        self.writer.abort();
        if std::thread::panicking() && PRINTED.fetch_add(1, Ordering::Relaxed) < MAX_PRINTED {
            let (pid, requests) = self
                .shared
                .read(|shared| (shared.pydevd.pid, shared.requests.join("\n")));
            eprintln!("=== requests to the debug server of pid {pid}\n{requests}\n===");
        }
    }
}

impl Shared {
    /// The requests of a command.
    fn of<'a>(&'a self, command: &'a str) -> impl Iterator<Item = Value> + 'a {
        let all = self.requests.iter().map(|text| parse(text));
        all.filter(move |request| request["command"] == command)
    }

    fn handle(&mut self, text: String) {
        let request = parse(&text);
        if text.contains(").answer(") && text.contains("'watchdogs'") {
            // The monitor asks it some time after a stop, and no test waits for it.
            return self.pydevd.handle(&request);
        }
        self.requests.push(text.into());
        let command = request["command"].as_str().unwrap_or_default();
        let answer = self
            .handlers
            .get_mut(command)
            .map_or(Answer::Usual, |handler| handler(&request));
        match answer {
            Answer::Usual => self.pydevd.handle(&request),
            Answer::Body(body) => self.pydevd.respond(&request, &body),
            Answer::Failure(message) => self.pydevd.fail(&request, &message),
            Answer::Silence => {}
        }
    }
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text)
        .unwrap_or_else(|error| panic!("the daemon sent no JSON, {error}: {text}"))
}

/// Takes requests until the daemon closes.
async fn receive(shared: Arc<Watched<Shared>>, read: OwnedReadHalf) {
    let mut frames = Frames::new(read);
    while let Ok(Some(text)) = frames.next().await {
        shared.change(|shared| shared.handle(text));
    }
    shared.change(|shared| shared.closed = true);
}

/// Sends what there is to send, header and body in two writes and without `TCP_NODELAY`, as pydevd does.
///
/// It does not wait for the other task: pydevd goes on reading while the daemon does not.
async fn transmit(shared: Arc<Watched<Shared>>, mut write: OwnedWriteHalf) {
    let mut seq = 0;
    loop {
        shared
            .until(|shared| (!shared.pydevd.out.is_empty()).then_some(()))
            .await;
        let out = shared.change(|shared| std::mem::take(&mut shared.pydevd.out));
        for item in out {
            let sent = match item {
                Out::Message(head) => {
                    seq += 2;
                    let body = format!("{head}, \"seq\": {seq}}}");
                    let header = header(&body);
                    match write.write_all(&header).await {
                        Ok(()) => write.write_all(body.as_bytes()).await,
                        failed => failed,
                    }
                }
                Out::Bytes(bytes) => write.write_all(&bytes).await,
                Out::Close => write.shutdown().await,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}
