//! A client of the daemon, as an IDE is one: a conversation in DAP, every message of which is checked and kept.

use std::collections::{HashMap, VecDeque};
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::time::Instant;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::schema;
use super::start::Start;
use super::wait::{LIMIT, within};
use super::wire::{Frames, frame};

/// How much of a transcript is printed when a test fails: this many messages from its end, and so much of each.
const PRINTED_MESSAGES: usize = 400;
const PRINTED_LENGTH: usize = 2000;

/// A connection to the daemon (or to any debug adapter) and what has been said on it.
///
/// It reads only while something is awaited of it: a client that is not asked anything is a client that does not
/// read. Whatever it reads must validate against the protocol's schema, have the next `seq`, and if it is a response,
/// answer a request that has not been answered yet; else the test fails.
pub struct Client {
    /// What it is called in the output of a failed test.
    name: String,
    frames: Frames<Box<dyn AsyncRead + Unpin + Send>>,
    writer: Box<dyn AsyncWrite + Unpin + Send>,
    /// The `seq` of the last message to the daemon.
    sent: i64,
    /// The `seq` of the last message from it.
    received: i64,
    /// Requests without a response yet: their `seq` and command.
    pending: HashMap<i64, String>,
    /// Messages that were received and that no test has asked for yet.
    inbox: VecDeque<Value>,
    transcript: Vec<String>,
    since: Instant,
    /// What `initialize` was answered.
    pub capabilities: Value,
    /// The verdicts on the breakpoints that were set at the start, in order.
    pub breakpoints: Vec<Value>,
}

impl Client {
    /// Begins to describe a client and how it attaches.
    pub fn start(to: impl Into<SocketAddr>) -> Start {
        Start::new(to.into())
    }

    /// The same for a client of one process, as all clients of debugpy's own adapter are.
    pub fn of_process(to: impl Into<SocketAddr>) -> Start {
        Start::new(to.into()).arguments(&json!({ "view": "process" }))
    }

    /// A client that has no process in view: it asks for verbs, and changes nothing by being there.
    pub async fn bystander(to: impl Into<SocketAddr>) -> Self {
        let nobody = json!({ "view": "tree", "sessions": "name=nobody" });
        let start = Self::start(to).named("bystander");
        start.arguments(&nobody).attached().await
    }

    /// Connects, and says nothing yet.
    pub async fn connect(to: impl Into<SocketAddr>) -> Self {
        let stream = within("a connection", TcpStream::connect(to.into())).await;
        let stream = stream.expect("the daemon accepts connections");
        stream.set_nodelay(true).expect("a socket has this option");
        let (reader, writer) = stream.into_split();
        Self::over(reader, writer)
    }

    /// A client on any other kind of stream, such as a unix socket.
    pub fn over(
        reader: impl AsyncRead + Unpin + Send + 'static,
        writer: impl AsyncWrite + Unpin + Send + 'static,
    ) -> Self {
        Self {
            name: "client".into(),
            frames: Frames::new(Box::new(reader)),
            writer: Box::new(writer),
            sent: 0,
            received: 0,
            pending: HashMap::new(),
            inbox: VecDeque::new(),
            transcript: Vec::new(),
            since: Instant::now(),
            capabilities: Value::Null,
            breakpoints: Vec::new(),
        }
    }

    /// Gives it a name for the output of a failed test.
    pub fn rename(&mut self, name: &str) {
        self.name = name.into();
    }

    // Saying something.

    /// Sends a request without waiting for its response, and returns its `seq`. `Null` leaves `arguments` out.
    pub async fn send(&mut self, command: &str, arguments: Value) -> i64 {
        let mut request = json!({ "type": "request", "command": command });
        if !arguments.is_null() {
            request["arguments"] = arguments;
        }
        self.say(request).await;
        self.pending.insert(self.sent, command.into());
        self.sent
    }

    /// Sends a request, and returns its response as it is.
    pub async fn try_request(&mut self, command: &str, arguments: Value) -> Value {
        let seq = self.send(command, arguments).await;
        self.response(seq).await
    }

    /// Sends a request that must succeed, and returns the body of its response (`Null` if it has none).
    pub async fn request(&mut self, command: &str, arguments: Value) -> Value {
        let mut response = self.try_request(command, arguments).await;
        assert_eq!(response["success"], true, "{command} failed: {response}");
        response["body"].take()
    }

    /// Sends a request that must fail, and returns the message that says why.
    pub async fn refused(&mut self, command: &str, arguments: Value) -> String {
        let response = self.try_request(command, arguments).await;
        assert_eq!(
            response["success"], false,
            "{command} was not refused: {response}"
        );
        let message = response["message"].as_str();
        message
            .unwrap_or_else(|| panic!("a failure without a message: {response}"))
            .into()
    }

    /// Answers a request of the daemon.
    pub async fn respond(&mut self, request: &Value, success: bool, body: Value) {
        let mut response = json!({
            "type": "response", "request_seq": request["seq"], "command": request["command"], "success": success,
        });
        if !body.is_null() {
            response["body"] = body;
        }
        self.say(response).await;
    }

    /// Sends a text as one message, right or wrong; [`Client::expects`] says what it is to be answered.
    pub async fn send_text(&mut self, text: &str) {
        let end = text.floor_char_boundary(PRINTED_LENGTH);
        self.note(format_args!("> {}", &text[..end]));
        self.send_bytes(&frame(text)).await;
    }

    /// Says that the daemon owes a response: to the request `seq` with this command.
    ///
    /// What is no message has the number 0 and an empty command.
    pub fn expects(&mut self, seq: i64, command: &str) {
        self.pending.insert(seq, command.into());
    }

    /// Goes on numbering after `seq`, for a client that does not begin with 1.
    pub fn number_after(&mut self, seq: i64) {
        self.sent = seq;
    }

    /// Sends bytes as they are.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        let sent = within("the daemon to read", self.writer.write_all(bytes)).await;
        if let Err(error) = sent {
            self.note(format_args!("! {error}"));
        }
    }

    async fn say(&mut self, mut message: Value) {
        self.sent += 1;
        message["seq"] = self.sent.into();
        let text = message.to_string();
        self.note(format_args!("> {text}"));
        self.send_bytes(&frame(&text)).await;
    }

    // Hearing something.

    /// The response to the request with this `seq`.
    pub async fn response(&mut self, seq: i64) -> Value {
        let what = format!(
            "the response to {seq} ({})",
            self.pending.get(&seq).map_or("answered", String::as_str)
        );
        self.wait(&what, |message| {
            message["type"] == "response" && message["request_seq"] == seq
        })
        .await
    }

    /// The next response, to whatever request.
    pub async fn next_response(&mut self) -> Value {
        self.wait("a response", |message| message["type"] == "response")
            .await
    }

    /// The body of the next event of this name that has not been asked for yet (`Null` if it has none).
    pub async fn event(&mut self, name: &str) -> Value {
        self.event_where(name, |_| true).await
    }

    /// The same, passing over those that do not fulfil a condition: they stay to be asked for.
    pub async fn event_where(&mut self, name: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let matches = |message: &Value| message["event"] == name && condition(&message["body"]);
        let mut event = self.wait(&format!("the event {name}"), matches).await;
        event["body"].take()
    }

    /// The next request of the daemon with this command.
    pub async fn reverse_request(&mut self, command: &str) -> Value {
        let matches =
            |message: &Value| message["type"] == "request" && message["command"] == command;
        self.wait(&format!("the request {command}"), matches).await
    }

    /// The bodies of all events of this name that came up to now and have not been asked for.
    ///
    /// "Now" is made certain by a request whose answer comes from the debugged process: what was sent to this client
    /// before it has arrived when the answer has.
    pub async fn events(&mut self, name: &str) -> Vec<Value> {
        self.try_request("threads", Value::Null).await;
        let mut events = Vec::new();
        while let Some(at) = self
            .inbox
            .iter()
            .position(|message| message["event"] == name)
        {
            let mut event = self.inbox.remove(at).expect("it is there");
            events.push(event["body"].take());
        }
        events
    }

    /// Fails if there is an event, or a request of the daemon, of this name that has not been asked for.
    pub async fn no_more(&mut self, name: &str) {
        self.try_request("threads", Value::Null).await;
        let named = |message: &&Value| {
            message["event"] == name || (message["type"] == "request" && message["command"] == name)
        };
        let more: Vec<&Value> = self.inbox.iter().filter(named).collect();
        assert!(more.is_empty(), "{} has more {name}: {more:?}", self.name);
    }

    /// Waits until the daemon closes the connection.
    pub async fn closed(&mut self) {
        let end = async { while self.read().await {} };
        let ended = timeout(LIMIT, end).await.is_ok();
        assert!(
            ended,
            "{}: the connection is still open after {LIMIT:?}",
            self.name
        );
    }

    /// The first message that matches, of those not asked for yet and then of those to come.
    pub(super) async fn wait(&mut self, what: &str, matches: impl Fn(&Value) -> bool) -> Value {
        let name = self.name.clone();
        let mut looked_at = 0;
        let found = timeout(LIMIT, async {
            loop {
                while let Some(message) = self.inbox.get(looked_at) {
                    if matches(message) {
                        return self.inbox.remove(looked_at).expect("it is there");
                    }
                    looked_at += 1;
                }
                assert!(
                    self.read().await,
                    "{name}: the connection ended before {what}"
                );
            }
        });
        found
            .await
            .unwrap_or_else(|_| panic!("{name}: waited {LIMIT:?} in vain for {what}"))
    }

    /// Reads one message, checks it, and puts it into the inbox. False at the end of the stream.
    async fn read(&mut self) -> bool {
        let text = match self.frames.next().await {
            Ok(Some(text)) => text,
            Ok(None) => return false,
            // The daemon was killed while something of ours was on its way to it.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {
                self.note(format_args!("! {error}"));
                return false;
            }
            Err(error) => panic!("{}: {error}", self.name),
        };
        self.note(format_args!("< {text}"));
        let message: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("not JSON, {error}: {text}"));
        let mut checked = message.clone();
        if message["request_seq"] == 0 && self.pending.contains_key(&0) {
            // The schema forbids the number 0, and a client that begins with it must be answered all the same.
            checked["request_seq"] = 1.into();
        }
        if let Some(violation) = schema::violation(&checked) {
            panic!("{}: {violation}: {text}", self.name);
        }
        self.received += 1;
        assert_eq!(
            message["seq"], self.received,
            "{}: the wrong seq: {text}",
            self.name
        );
        if message["type"] == "response" {
            let request = message["request_seq"].as_i64().expect("the schema says so");
            let command = self.pending.remove(&request);
            let command = command
                .unwrap_or_else(|| panic!("{}: nobody waits for this response: {text}", self.name));
            assert_eq!(
                message["command"], *command,
                "{}: a response to something else",
                self.name
            );
        }
        self.inbox.push_back(message);
        true
    }

    // Leaving.

    /// Leaves as an IDE does, and checks all that still comes until the daemon has closed the connection.
    pub async fn disconnect(self) {
        self.disconnect_with(Value::Null).await;
    }

    /// The same with arguments, such as `terminateDebuggee`.
    pub async fn disconnect_with(mut self, arguments: Value) {
        self.request("disconnect", arguments).await;
        self.closed().await;
        assert!(
            self.pending.is_empty(),
            "{}: never answered: {:?}",
            self.name,
            self.pending
        );
    }

    /// Leaves as an IDE does that has been killed: the socket goes, and nothing is said.
    pub fn kill(self) {
        drop(self);
    }

    // What was said.

    fn note(&mut self, line: std::fmt::Arguments) {
        let milliseconds = self.since.elapsed().as_millis();
        self.transcript.push(format!("{milliseconds:>6} {line}"));
    }

    /// All that was said, a line for each message: when (in ms), `>` to the daemon or `<` from it, and the message.
    pub fn transcript(&self) -> &[String] {
        &self.transcript
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        let left_out = self.transcript.len().saturating_sub(PRINTED_MESSAGES);
        let mut text = format!(
            "=== transcript of {} ({left_out} earlier messages left out)\n",
            self.name
        );
        for line in &self.transcript[left_out..] {
            let end = line.floor_char_boundary(PRINTED_LENGTH);
            let more = if end < line.len() { " …" } else { "" };
            let _ = writeln!(text, "{}{more}", &line[..end]);
        }
        eprintln!("{text}===");
    }
}
