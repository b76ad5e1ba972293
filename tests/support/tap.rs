//! A tap on the connections of processes to the daemon: a test reads there what the guard sends, and asks it itself.
//!
//! Everything else passes through as it is, so the daemon greets, and clients debug, as they always do.

use std::net::SocketAddr;
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::wait::{Watched, within};
use super::wire::{Frames, frame};

/// The number of the first request of a test, far above those of any daemon.
const FIRST: i64 = 1 << 40;

/// Stands between processes and the daemon.
pub struct Tap {
    /// Where processes are to connect.
    pub address: SocketAddr,
    connections: Connections,
}

type Connections = Arc<Watched<Vec<Connection>>>;

/// What is known of a connection.
struct Connection {
    /// The guard's events, and the responses to the test's own requests, in their order.
    heard: Vec<Value>,
    requests: mpsc::Sender<String>,
    /// The number of the last request.
    last: i64,
}

impl Connection {
    fn events(&self, name: &str) -> impl Iterator<Item = &Value> {
        let events = self
            .heard
            .iter()
            .filter(move |message| message["event"] == name);
        events.map(|event| &event["body"])
    }
}

/// One process, as seen from the tap.
pub struct Tapped {
    connections: Connections,
    number: usize,
}

impl Tap {
    pub async fn start(daemon: impl Into<SocketAddr>) -> Self {
        let daemon = daemon.into();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let connections = Connections::new(Watched::new(Vec::new()));
        let all = connections.clone();
        tokio::spawn(async move {
            while let Ok((process, _)) = listener.accept().await {
                let (requests, asked) = mpsc::channel(16);
                let number = all.change(|all| {
                    let (heard, last) = (Vec::new(), FIRST);
                    all.push(Connection {
                        heard,
                        requests,
                        last,
                    });
                    all.len() - 1
                });
                let daemon = TcpStream::connect(daemon).await.expect("the daemon runs");
                let connections = all.clone();
                let tapped = Tapped {
                    connections,
                    number,
                };
                tokio::spawn(pass(process, daemon, tapped, asked));
            }
        });
        Self {
            address,
            connections,
        }
    }

    /// Waits for a process of which a report is as asked for.
    pub async fn process(&self, wanted: impl Fn(&Value) -> bool) -> Tapped {
        let number = self.connections.until(|all| {
            all.iter()
                .position(|connection| connection.events("dbgproxyReport").any(&wanted))
        });
        let number = within("the report of a process", number).await;
        let connections = self.connections.clone();
        Tapped {
            connections,
            number,
        }
    }

    /// All reports so far, those of each process together.
    pub fn reports(&self) -> Vec<Vec<Value>> {
        self.connections.read(|all| {
            let reports = |one: &Connection| one.events("dbgproxyReport").cloned().collect();
            all.iter().map(reports).collect()
        })
    }
}

impl Tapped {
    /// The bodies of the events of this name so far.
    pub fn events(&self, name: &str) -> Vec<Value> {
        self.connections
            .read(|all| all[self.number].events(name).cloned().collect())
    }

    /// Lets the process evaluate something without a frame; returns the response.
    pub async fn evaluate(&self, expression: &str) -> Value {
        let (seq, requests) = self.connections.change(|all| {
            let connection = &mut all[self.number];
            connection.last += 1;
            (connection.last, connection.requests.clone())
        });
        let arguments = json!({ "expression": expression, "context": "watch" });
        let request = json!({
            "type": "request", "seq": seq, "command": "evaluate", "arguments": arguments,
        });
        let sent = requests.send(request.to_string()).await;
        sent.expect("the process is connected");
        let answered = self.connections.until(|all| {
            let mut heard = all[self.number].heard.iter();
            heard.find(|message| message["request_seq"] == seq).cloned()
        });
        within("the response to evaluate", answered).await
    }

    /// Asks the guard; `argument` is as in the request, a Python literal.
    ///
    /// The answer must have come before the response, which must have no result of its own.
    pub async fn ask(&self, function: &str, argument: &str) -> Value {
        let token = self.connections.read(|all| all[self.number].last);
        let expression =
            format!("__import__('_dbgproxy').answer({token}, '{function}', {argument})");
        let response = self.evaluate(&expression).await;
        assert_eq!(response["success"], true, "{response}");
        let result = response.pointer("/body/result").and_then(Value::as_str);
        assert_eq!(result.unwrap_or_default(), "", "{response}");
        let answers = self.connections.read(|all| {
            let heard = all[self.number].heard.iter();
            let before =
                heard.take_while(|message| message["request_seq"] != response["request_seq"]);
            let answers = before.filter(|message| message["event"] == "dbgproxyAnswer");
            let own = answers.filter(|event| event["body"]["token"] == token);
            own.map(|event| event["body"]["body"].clone())
                .collect::<Vec<_>>()
        });
        let [answer] = &answers[..] else {
            panic!("not one answer before the response: {answers:?}");
        };
        answer.clone()
    }
}

/// Passes messages on in both directions until one side closes.
async fn pass(
    process: TcpStream,
    daemon: TcpStream,
    tapped: Tapped,
    mut asked: mpsc::Receiver<String>,
) {
    let (from_process, mut to_process) = process.into_split();
    let (from_daemon, mut to_daemon) = daemon.into_split();
    let there = async {
        let mut frames = Frames::new(from_daemon);
        loop {
            let text = tokio::select! {
                text = frames.next() => match text {
                    Ok(Some(text)) => text,
                    _ => break,
                },
                Some(text) = asked.recv() => text,
            };
            if to_process.write_all(&frame(&text)).await.is_err() {
                break;
            }
        }
    };
    let back = async {
        let mut frames = Frames::new(from_process);
        while let Ok(Some(text)) = frames.next().await {
            let message: Value = serde_json::from_str(&text).expect("pydevd sends JSON");
            let own = message["request_seq"]
                .as_i64()
                .is_some_and(|seq| seq >= FIRST);
            let event = message["event"].as_str().unwrap_or_default();
            if own || event.starts_with("dbgproxy") {
                tapped
                    .connections
                    .change(|all| all[tapped.number].heard.push(message));
            }
            if !own && to_daemon.write_all(&frame(&text)).await.is_err() {
                break;
            }
        }
    };
    // A process that closes must be seen to close, and a daemon too.
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
