//! Processes that say each second how they stand.

use std::thread;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::children::Server;
use crate::crowds::{load, runtime};
use crate::{Effort, Goal, report};

/// How many there are.
const PROCESSES: u32 = 200;

/// How large a sample is at least, in bytes.
const SAMPLE: usize = 5 * 1024;

/// The pid that the first says it has.
const PID: u32 = 2_000_000;

fn frame(message: &Value) -> Vec<u8> {
    let text = message.to_string();
    format!("Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// What a process with some locks and tasks says.
fn sample() -> Vec<u8> {
    let actor = json!({ "thread": 140_737_352_000_000_u64, "name": "Thread-1 (work)", "task": null, "taskName": null });
    let one = |line: u32| json!({ "actor": actor, "site": ["/srv/program/package/module.py", line], "age": 0.01 });
    let (mut locks, mut tasks) = (Vec::new(), Vec::new());
    let body = |locks: &[Value], tasks: &[Value]| {
        json!({
            "cost": 0.0005, "monitors": ["locks", "tasks"],
            "locks": { "total": locks.len(), "dropped": 0, "locks": locks },
            "loops": [{ "thread": actor, "blocked": null, "tasks": tasks.len(), "longest_block": 0.01, "blocks": 0 }],
            "tasks": { "total": tasks.len(), "dropped": 0, "created": 100, "completed": 90, "failed": 0,
                       "cancelled": 0, "unretrieved": [], "tasks": tasks },
        })
    };
    while body(&locks, &tasks).to_string().len() < SAMPLE {
        let number = locks.len();
        locks.push(json!({
            "id": format!("7f3c5a2b{number:04}"), "shared": null, "name": format!("lock {number}"),
            "kind": "threading.Lock", "site": ["/srv/program/package/module.py", number], "holders": [one(12)],
            "waiters": [one(20)], "waiterCount": 1, "acquisitions": 1000, "contended": 10, "timeouts": 0,
            "longest": 0.02, "leaked": false,
        }));
        tasks.push(json!({
            "id": format!("7f3c5a2b{number:04}"), "name": format!("Task-{number}"), "coroutine": "work",
            "state": "waiting", "age": 1.5, "stamped": false, "site": null, "awaits": null,
            "chain": [["main", "/srv/program/package/module.py", 3], ["work", "/srv/program/package/module.py", 7]],
        }));
    }
    let body = body(&locks, &tasks);
    frame(&json!({ "seq": 2, "type": "event", "event": "dbgproxy/monitor", "body": body }))
}

/// 200 processes that each say 5 KiB a second.
pub fn monitor(_: Effort) {
    let daemon = Server::daemon();
    let runtime = runtime();
    let sample = sample();
    let size = sample.len() as f64 / 1024.0;
    let address = daemon.address;
    for number in 0..PROCESSES {
        let sample = sample.clone();
        runtime.spawn(async move {
            let stream = TcpStream::connect(address).await.expect("it listens");
            let (mut read, mut write) = stream.into_split();
            let hello = json!({ "role": "agent", "session": Uuid::new_v4(), "pid": PID + number, "how": "start" });
            let hello = json!({ "seq": 1, "type": "request", "command": "dbgproxy/hello", "arguments": hello });
            write.write_all(&frame(&hello)).await.expect("it reads");
            tokio::spawn(async move { while read.read(&mut [0; 4096]).await.is_ok_and(|count| count > 0) {} });
            let part = Duration::from_secs(1) / PROCESSES;
            tokio::time::sleep(part * number).await;
            let mut second = tokio::time::interval(Duration::from_secs(1));
            loop {
                second.tick().await;
                if write.write_all(&sample).await.is_err() {
                    return;
                }
            }
        });
    }
    thread::sleep(Duration::from_secs(3));
    let load = load(&daemon);
    report(
        "monitor, CPU of samples",
        &format!("{load:.2} %"),
        &format!("{PROCESSES} × {size:.1} KiB a second"),
        (load, "%"),
        Goal::AtMost(5.0),
    );
}
