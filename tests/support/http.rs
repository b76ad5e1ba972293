//! HTTP as scripts and browsers speak it to the daemon: one request and its answer, and a stream of events.

use std::collections::VecDeque;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::daemon::Daemon;
use super::wait::within;

/// A request and its answer: the status, and the body.
pub async fn http(to: SocketAddr, request: &str, headers: &[&str], body: &str) -> (u16, String) {
    let answer = loop {
        let mut stream = send(to, request, headers, body).await;
        let mut answer = Vec::new();
        // It may end with a reset, where the daemon has not read all that was sent.
        let _ = within("an answer", stream.read_to_end(&mut answer)).await;
        let answer = String::from_utf8(answer).expect("it is text");
        // On a machine so busy that the daemon has heard nothing for a while, it asks whether we are a debug server.
        if !answer.starts_with("Content-Length: ") {
            break answer;
        }
    };
    let (head, body) = answer.split_once("\r\n\r\n").expect("it has a head");
    let status = head.strip_prefix("HTTP/1.1 ").expect("it is HTTP/1.1");
    let status = status[..3].parse().expect("it has a status");
    (status, body.into())
}

/// A request whose answer is still to be read.
pub async fn send(to: SocketAddr, request: &str, headers: &[&str], body: &str) -> TcpStream {
    let mut text = format!("{request} HTTP/1.1\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    let length = body.len();
    text.push_str(&format!(
        "Content-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    ));
    let stream = within("a connection", TcpStream::connect(to)).await;
    let mut stream = stream.expect("the daemon accepts connections");
    let _ = stream.write_all(text.as_bytes()).await;
    stream
}

/// A `text/event-stream` of the daemon.
pub struct Events {
    stream: TcpStream,
    text: String,
    came: VecDeque<Value>,
    alerts: VecDeque<Value>,
}

impl Events {
    /// Follows the events from now on.
    pub async fn follow(daemon: &Daemon) -> Self {
        let host = format!("Host: {}", daemon.connect());
        let stream = send(daemon.address, "GET /api/v1/events", &[&host], "").await;
        let mut events = Self {
            stream,
            text: String::new(),
            came: VecDeque::new(),
            alerts: VecDeque::new(),
        };
        while !events.text.contains("\r\n\r\n") {
            assert!(events.read().await, "no head: {}", events.text);
        }
        let head = events.text.to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        assert!(
            head.contains("content-type: text/event-stream\r\n"),
            "{head}"
        );
        events
    }

    /// The data of the next alert.
    pub async fn alert(&mut self) -> Value {
        loop {
            if let Some(alert) = self.alerts.pop_front() {
                return alert;
            }
            assert!(self.read().await, "no alert before the end");
        }
    }

    /// The data of the next event of a session; none at the end of the stream.
    pub async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(event) = self.came.pop_front() {
                return Some(event);
            }
            if !self.read().await {
                return None;
            }
        }
    }

    /// Reads a piece, and takes out of it whole events.
    async fn read(&mut self) -> bool {
        let mut piece = vec![0; 64 * 1024];
        let count = within("an event", self.stream.read(&mut piece)).await;
        let count = count.unwrap_or(0);
        self.text
            .push_str(std::str::from_utf8(&piece[..count]).expect("the tests' events are ASCII"));
        // The sizes of chunks stand between, on lines of their own.
        while let Some((event, rest)) = self.text.split_once("\n\n") {
            if let Some((_, event)) = event.split_once("event: ") {
                let (name, data) = event.split_once("\ndata: ").expect("it has data");
                let data = serde_json::from_str(data).expect("it is JSON");
                match name {
                    "dbgproxy/session" => self.came.push_back(data),
                    "dbgproxy/alert" => self.alerts.push_back(data),
                    _ => panic!("an event that there is not: {event}"),
                }
            }
            self.text = rest.to_owned();
        }
        count > 0
    }
}
