//! What the merged view costs beside the view of one process, where only ids stay as they are.

use std::time::Instant;

use serde_json::{Value, json};

use crate::children::Server;
use crate::peers::{Canned, Client, client_with, debug_server};
use crate::{Effort, Goal, median, micros, percentile, report};

/// The pid that scripted debug servers begin with.
const PID: u32 = 3_000_000;

/// A client, and a thread of its only process that is stopped.
struct View {
    client: Client,
    thread: i64,
    _daemon: Server,
}

impl View {
    /// A daemon with one process, and a client with this view of it.
    fn new(view: &str) -> View {
        let daemon = Server::daemon();
        debug_server(daemon.address, PID);
        let mut client = client_with(daemon.address, view);
        // A storm of nothing starts a thread, once the process is there.
        let started = loop {
            client.start_storm(0, true);
            client.ask("threads", json!({}));
            let threads = client.ask("threads", json!({}));
            let threads: Value = threads.decode().expect("it has a body");
            if let Some(thread) = threads.pointer("/threads/0/id").and_then(Value::as_i64) {
                break thread;
            }
        };
        client.send("pause", json!({ "threadId": started }));
        let stopped: Value = client.event("stopped").decode().expect("it has a body");
        let thread = stopped["threadId"].as_i64().expect("it names a thread");
        // The process has answered all else when it has answered this.
        client.ask("stackTrace", json!({ "threadId": thread }));
        View {
            client,
            thread,
            _daemon: daemon,
        }
    }
}

/// Lets both views take turns; gives what each round has measured: the merged view's, that of one process.
fn rounds(effort: Effort, round: impl Fn(&mut View) -> f64) -> (f64, f64) {
    let mut all = (Vec::new(), Vec::new());
    // How the system places the threads of a process lasts: several are asked.
    for _ in 0..effort.of(6, 3) {
        let (mut merged, mut process) = (View::new("merged"), View::new("process"));
        round(&mut merged);
        round(&mut process);
        for _ in 0..5 {
            all.0.push(round(&mut merged));
            all.1.push(round(&mut process));
        }
    }
    (median(&all.0), median(&all.1))
}

/// A small request in the merged view, and a storm of events to it.
pub fn merged(effort: Effort) {
    let requests = effort.of(2000, 1000);
    let (merged, process) = rounds(effort, |view| {
        let mut canned = Canned::stack_request(view.thread);
        let times: Vec<f64> = (1..=requests)
            .map(|seq| {
                let start = Instant::now();
                view.client.wire.write(canned.numbered(1000 + seq as i64));
                let frame = view.client.wire.frame().expect("the daemon is there");
                let time = micros(start.elapsed());
                assert!(frame.len() > 500, "{}", String::from_utf8_lossy(frame));
                time
            })
            .collect();
        percentile(&times, 0.5)
    });
    report(
        "merged view, round trip p50",
        &format!("{merged:.1} µs"),
        &format!("view of a process {process:.1} µs"),
        (merged / process, "×"),
        Goal::AtMost(1.3),
    );
    let events = 100 * 1024;
    let (merged, process) = rounds(effort, |view| {
        let start = Instant::now();
        view.client.start_storm(events, false);
        view.client.weather_storm() as f64 / start.elapsed().as_secs_f64()
    });
    report(
        "merged view, event storm",
        &format!("{merged:.0} /s"),
        &format!("view of a process {process:.0} /s"),
        (process / merged, "× slower"),
        Goal::AtMost(1.5),
    );
}
