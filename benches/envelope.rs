//! What the envelope costs, next to what it would cost to take each message apart.
//!
//! The ratios are the point, and the reason why bodies are forwarded as they came; the times depend on the machine.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bytes::Bytes;
use dbgproxy::wire::{Message, Outbox};
use serde_json::{Value, json};

/// How long one measurement takes; the best of several is taken, as the one that was disturbed least.
const SAMPLE: Duration = Duration::from_millis(60);

/// How many measurements there are of each thing.
const SAMPLES: u32 = 7;

fn main() {
    println!(
        "{:>9} {:>11} {:>11} {:>6} {:>11} {:>11} {:>6}",
        "bytes", "envelope", "Value", "ratio", "splice", "round trip", "ratio"
    );
    for size in [200, 2 * 1024, 18 * 1024, 1024 * 1024] {
        let bytes = variables(size);
        let envelope = time(|| Message::parse(bytes.clone()).expect("it is a message"));
        let value = time(|| serde_json::from_slice::<Value>(&bytes).expect("it is JSON"));

        // What the proxy does with a message that it forwards, and what it would do without splicing.
        let mut out = Outbox::default();
        let splice = time(|| {
            let message = Message::parse(bytes.clone()).expect("it is a message");
            out.answer(&message, 7);
            out.written(out.len(), usize::MAX);
        });
        let mut written = Vec::new();
        let round_trip = time(|| {
            let mut value: Value = serde_json::from_slice(&bytes).expect("it is JSON");
            value["seq"] = json!(1);
            value["request_seq"] = json!(7);
            let body = serde_json::to_vec(&value).expect("a value is JSON");
            written.clear();
            written.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
            written.extend_from_slice(&body);
        });
        println!(
            "{:>9} {:>11} {:>11} {:>6.1} {:>11} {:>11} {:>6.1}",
            bytes.len(),
            text(envelope),
            text(value),
            value / envelope,
            text(splice),
            text(round_trip),
            round_trip / splice
        );
    }
}

/// An answer as pydevd gives it, its `seq` last, of about this size.
fn variables(size: usize) -> Bytes {
    let mut message = String::from(
        r#"{"type": "response", "request_seq": 42, "success": true, "command": "variables", "body": {"variables": ["#,
    );
    let end = r#"]}, "seq": 1234}"#;
    let mut index = 0;
    while message.len() + end.len() < size || index == 0 {
        if index > 0 {
            message.push_str(", ");
        }
        message.push_str(&format!(
            r#"{{"name": "v{index}", "value": "'caf\u00e9 \\n {index}'", "type": "str", "evaluateName": "v{index}"}}"#
        ));
        index += 1;
    }
    message.push_str(end);
    Bytes::from(message)
}

/// The seconds that it takes.
fn time<T>(mut work: impl FnMut() -> T) -> f64 {
    let mut best = f64::INFINITY;
    for _ in 0..SAMPLES {
        let start = Instant::now();
        let mut count = 0_u32;
        while start.elapsed() < SAMPLE {
            // The clock is asked once for several, lest it be what is measured.
            for _ in 0..16 {
                black_box(work());
            }
            count += 16;
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(count));
    }
    best
}

fn text(seconds: f64) -> String {
    if seconds < 1e-6 {
        format!("{:.0} ns", seconds * 1e9)
    } else if seconds < 1e-3 {
        format!("{:.2} µs", seconds * 1e6)
    } else {
        format!("{:.2} ms", seconds * 1e3)
    }
}
