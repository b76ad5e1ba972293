//! Scripted debug servers and clients.
//!
//! Those that are timed are threads that block on their socket, so that what is measured is the daemon and
//! the kernel, and not a runtime on this side; a crowd of idle ones are tasks.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::LazyLock;
use std::thread;

use bytes::{Bytes, BytesMut};
use dbgproxy::link::{Link, Stream};
use dbgproxy::wire::{Kind, Message, Outbox};
use serde::Deserialize;
use serde_json::{Value, json};

/// The least room for what comes in, in bytes.
const ROOM: usize = 256 * 1024;

/// How many events of a storm are written at once, by a debug server that gathers them.
const GUST: usize = 256;

/// A message that is sent many times, framed once; only its number is written anew.
pub struct Canned {
    bytes: Vec<u8>,
    number: Range<usize>,
}

impl Canned {
    /// A message from its text, in which `@` stands where the number is to be.
    fn new(text: &str) -> Canned {
        // Spaces before a number are as good as nothing, and keep the length.
        let text = text.replace('@', &" ".repeat(12));
        let header = format!("Content-Length: {}\r\n\r\n", text.len());
        let at = header.len() + text.find(&" ".repeat(12)).expect("the text has an @");
        Canned {
            bytes: (header + &text).into_bytes(),
            number: at..at + 12,
        }
    }

    /// A small request.
    pub fn threads_request() -> Canned {
        Canned::new(r#"{"seq":@,"type":"request","command":"threads","arguments":{}}"#)
    }

    /// A request whose answer is large.
    pub fn variables_request() -> Canned {
        let arguments = r#"{"variablesReference":7}"#;
        Canned::new(&format!(
            r#"{{"seq":@,"type":"request","command":"variables","arguments":{arguments}}}"#
        ))
    }

    /// Its answer of about 200 bytes.
    fn threads_answer() -> Canned {
        let body =
            r#"{"threads":[{"id":1,"name":"MainThread"},{"id":2,"name":"Thread-1 (work)"}]}"#;
        Canned::new(&format!(
            r#"{{"type":"response","request_seq":@,"success":true,"command":"threads","body":{body},"seq":42,"pydevd_cmd_id":502}}"#
        ))
    }

    /// Its answer of 1 MiB.
    fn variables_answer() -> Canned {
        let one = r#"{"name":"x","value":"'some text that is a value'","type":"str","variablesReference":0},"#;
        let all = one.repeat((1 << 20) / one.len());
        let all = all.trim_end_matches(',');
        Canned::new(&format!(
            r#"{{"type":"response","request_seq":@,"success":true,"command":"variables","body":{{"variables":[{all}]}},"seq":42,"pydevd_cmd_id":502}}"#
        ))
    }

    /// A request for the stack of a stopped thread.
    pub fn stack_request(thread: i64) -> Canned {
        let arguments = json!({ "threadId": thread, "startFrame": 0, "levels": 20 });
        Canned::new(&format!(
            r#"{{"seq":@,"type":"request","command":"stackTrace","arguments":{arguments}}}"#
        ))
    }

    /// Its answer: five frames, in about 1 KB.
    fn stack_answer() -> Canned {
        let frame = |id: i64| {
            let source = json!({ "path": "/srv/program/package/module.py", "sourceReference": 0 });
            json!({ "id": id, "name": "function", "line": 40 + id, "column": 1, "source": source })
        };
        let frames: Vec<Value> = (2..7).map(frame).collect();
        let body = json!({ "stackFrames": frames, "totalFrames": 5 });
        Canned::new(&format!(
            r#"{{"type":"response","request_seq":@,"success":true,"command":"stackTrace","body":{body},"seq":42,"pydevd_cmd_id":502}}"#
        ))
    }

    /// Its framed bytes under a number.
    pub fn numbered(&mut self, number: i64) -> &[u8] {
        self.bytes[self.number.clone()].copy_from_slice(format!("{number:12}").as_bytes());
        &self.bytes
    }
}

/// One line of output, as pydevd says it: the header, and the rest.
static OUTPUT: LazyLock<(Vec<u8>, Vec<u8>)> = LazyLock::new(|| {
    let text = r#"{"type":"event","event":"output","body":{"category":"stdout","output":"a line of output that the program printed\n","source":{}},"seq":1234,"pydevd_cmd_id":123}"#;
    let header = format!("Content-Length: {}\r\n\r\n", text.len());
    (header.into_bytes(), text.into())
});

/// A socket that is read and written by a thread.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// What of the buffer has been read and not yet taken.
    unread: Range<usize>,
}

impl Wire {
    /// Connects.
    pub fn connect(address: SocketAddr) -> io::Result<Wire> {
        let stream = TcpStream::connect(address)?;
        // pydevd has Nagle's algorithm on, but its 40 ms would hide what is measured here.
        stream.set_nodelay(true)?;
        Ok(Wire {
            stream,
            buffer: vec![0; ROOM],
            unread: 0..0,
        })
    }

    /// Sends bytes that are framed already.
    pub fn write(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("the peer reads");
    }

    /// Sends all that is in an outbox.
    pub fn flush(&mut self, out: &mut Outbox) {
        self.write(out.bytes());
        out.written(out.len(), usize::MAX);
    }

    /// The next message's text, none at the end of the stream.
    pub fn frame(&mut self) -> Option<&[u8]> {
        loop {
            let seen = &self.buffer[self.unread.clone()];
            let missing = match head(seen) {
                Some((header, length)) if seen.len() >= header + length => {
                    let start = self.unread.start + header;
                    self.unread.start = start + length;
                    return Some(&self.buffer[start..start + length]);
                }
                Some((header, length)) => header + length - seen.len(),
                None => 1,
            };
            if self.buffer.len() - self.unread.end < missing.max(ROOM / 2) {
                self.buffer.copy_within(self.unread.clone(), 0);
                self.unread = 0..self.unread.len();
                let least = (self.unread.end + missing).max(ROOM);
                self.buffer.resize(least.max(self.buffer.len()), 0);
            }
            match self.stream.read(&mut self.buffer[self.unread.end..]) {
                Ok(0) => return None,
                Ok(count) => self.unread.end += count,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("the socket cannot be read: {error}"),
            }
        }
    }

    /// The next message, which must be one.
    pub fn message(&mut self) -> Message {
        let frame = self.frame().expect("the peer is there");
        Message::parse(Bytes::copy_from_slice(frame)).expect("the peer speaks DAP")
    }
}

/// The length of a message's header, and of the message.
fn head(bytes: &[u8]) -> Option<(usize, usize)> {
    let digits = bytes.get("Content-Length: ".len()..)?;
    let count = digits.iter().position(|byte| *byte == b'\r')?;
    let length = digits[..count]
        .iter()
        .fold(0, |length, digit| length * 10 + usize::from(digit - b'0'));
    Some(("Content-Length: ".len() + count + 4, length))
}

/// What a debug server answers to a request of the greeting.
fn answer(pid: u32, request: &Message, out: &mut Outbox) {
    let body = match request.name() {
        "pydevdSystemInfo" => json!({
            "python": { "version": "3.11.7final0" },
            "process": { "pid": pid, "ppid": 1 }
        }),
        "evaluate" => {
            let report = json!({ "identity": format!("bench/{pid}"), "argv": null, "name": null });
            out.send(&Message::event("dbgproxyReport", report));
            json!({ "result": "None", "variablesReference": 0 })
        }
        "attach" => {
            let process = json!({ "name": "bench.py", "systemProcessId": pid });
            out.send(&Message::event("process", process));
            out.send(&Message::event("initialized", json!({})));
            json!({})
        }
        "setBreakpoints" | "setFunctionBreakpoints" => json!({ "breakpoints": [] }),
        _ => json!({}),
    };
    out.send(&Message::response(request.seq(), request.name(), body));
}

/// Starts a debug server on a thread of its own, which ends with its connection.
///
/// What it does beyond the greeting is asked of it by its clients: `threads`, `variables` and `stackTrace` are
/// answered, `pause` stops its first thread, `modules` brings a storm of `count` events and one of a new thread behind them.
pub fn debug_server(address: SocketAddr, pid: u32) {
    let mut wire = Wire::connect(address).expect("the middleman listens");
    thread::spawn(move || {
        let mut threads = Canned::threads_answer();
        let mut variables = Canned::variables_answer();
        let mut stack = Canned::stack_answer();
        let mut out = Outbox::default();
        let mut storms = 0;
        let (header, text) = &*OUTPUT;
        let gust = [header.as_slice(), text].concat().repeat(GUST);
        while let Some(frame) = wire.frame() {
            let request = Message::parse(Bytes::copy_from_slice(frame)).expect("DAP is spoken");
            match request.name() {
                "threads" => wire.write(threads.numbered(request.seq())),
                "variables" => wire.write(variables.numbered(request.seq())),
                "stackTrace" => wire.write(stack.numbered(request.seq())),
                "pause" => {
                    let stopped =
                        json!({ "reason": "pause", "threadId": 1, "allThreadsStopped": true });
                    out.send(&Message::event("stopped", stopped));
                    answer(pid, &request, &mut out);
                    wire.flush(&mut out);
                }
                "modules" => {
                    storms += 1;
                    let storm: Storm = request.decode().expect("it says how strong");
                    if storm.gathered {
                        for _ in 0..storm.count / GUST {
                            wire.write(&gust);
                        }
                    } else {
                        for _ in 0..storm.count {
                            wire.write(header);
                            wire.write(text);
                        }
                    }
                    let end = json!({ "reason": "started", "threadId": storms });
                    out.send(&Message::event("thread", end));
                    answer(pid, &request, &mut out);
                    wire.flush(&mut out);
                }
                _ => {
                    answer(pid, &request, &mut out);
                    wire.flush(&mut out);
                }
            }
        }
    });
}

/// How strong a storm is to be.
#[derive(Deserialize)]
struct Storm {
    count: usize,
    /// Whether many events are written at once; pydevd writes each in two parts.
    gathered: bool,
}

/// A client that has attached and is configured.
pub struct Client {
    /// Its socket, for what is timed.
    pub wire: Wire,
    out: Outbox,
}

impl Client {
    /// Attaches with these arguments, and sets breakpoints in the file if there is one.
    pub fn attach(
        address: SocketAddr,
        arguments: Value,
        breakpoints: Option<Value>,
    ) -> io::Result<Client> {
        let mut client = Client {
            wire: Wire::connect(address)?,
            out: Outbox::default(),
        };
        let who = json!({ "clientID": "bench", "adapterID": "debugpy", "pathFormat": "path" });
        client.ask("initialize", who);
        let attach = client.out.send(&Message::request("attach", arguments));
        client.wire.flush(&mut client.out);
        client.event("initialized");
        if let Some(breakpoints) = breakpoints {
            client.ask("setBreakpoints", breakpoints);
        }
        let done = client.send("configurationDone", json!({}));
        // `attach` is answered before or after `configurationDone`, as each adapter has it.
        let mut open = vec![attach, done];
        while !open.is_empty() {
            let message = client.wire.message();
            check(&message);
            open.retain(|seq| *seq != message.request_seq());
        }
        Ok(client)
    }

    /// Sends a request, and gives its number.
    pub fn send(&mut self, command: &str, arguments: Value) -> i64 {
        let seq = self.out.send(&Message::request(command, arguments));
        self.wire.flush(&mut self.out);
        seq
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, command: &str, arguments: Value) -> Message {
        let seq = self.send(command, arguments);
        loop {
            let message = self.wire.message();
            if message.kind() == Kind::Response && message.request_seq() == seq {
                check(&message);
                return message;
            }
        }
    }

    /// Waits for an event.
    pub fn event(&mut self, name: &str) -> Message {
        loop {
            let message = self.wire.message();
            check(&message);
            if message.kind() == Kind::Event && message.name() == name {
                return message;
            }
        }
    }

    /// Starts a storm of so many events, each written as pydevd does, or many at once.
    pub fn start_storm(&mut self, count: usize, gathered: bool) {
        self.send("modules", json!({ "count": count, "gathered": gathered }));
    }

    /// Reads until the storm is over, and gives how many output events came.
    pub fn weather_storm(&mut self) -> usize {
        let mut count = 0;
        loop {
            let frame = self.wire.frame().expect("the middleman is there");
            // Both sides leave the order of keys as it was; the name of the event stands where it stood.
            if frame.starts_with(br#"{"type":"event","event":"output","body":{"category":"stdout""#)
            {
                count += 1;
            } else if frame.windows(8).any(|window| window == br#""thread""#) {
                return count;
            }
        }
    }
}

fn check(message: &Message) {
    let well = message.success() && message.name() != "terminated";
    assert!(well, "{:?}: {message:?}", message.name());
}

/// A debug server and its client, with something between them.
pub fn pair(address: SocketAddr, pid: u32) -> Client {
    debug_server(address, pid);
    client(address)
}

/// A client of the only process, which is there or will be.
pub fn client(address: SocketAddr) -> Client {
    client_with(address, "process")
}

/// A client with this view.
pub fn client_with(address: SocketAddr, view: &str) -> Client {
    let arguments = json!({ "view": view });
    Client::attach(address, arguments, None).expect("the middleman listens")
}

/// One of many debug servers: connects, and gives the connection once user code may run.
pub async fn released(address: SocketAddr, pid: u32) -> anyhow::Result<Link> {
    let stream = tokio::net::TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut link = Link::new(Stream::Tcp(stream), BytesMut::new());
    while let Some(request) = link.next().await? {
        answer(pid, &request, &mut link.out);
        link.flush().await?;
        if request.name() == "configurationDone" {
            return Ok(link);
        }
    }
    anyhow::bail!("the greeter has gone");
}

/// Goes on answering until the greeter goes.
pub async fn stay(pid: u32, mut link: Link) {
    while let Ok(Some(request)) = link.next().await {
        answer(pid, &request, &mut link.out);
        if link.flush().await.is_err() {
            return;
        }
    }
}
