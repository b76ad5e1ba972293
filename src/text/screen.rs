//! What the monitor knows on one screen: the host and the daemon in two lines, then what is wrong, the processes, the
//! locks and the tasks, each as many rows as there is room for.
//!
//! A frame is plain text, with no line wider and no more lines than the screen has.

use serde_json::Value;

use super::monitoring::{self, LOCKS, TASKS};
use super::{bytes, printable, table, word};

/// How much of a screen what is wrong takes at most: one part in this many.
const FINDINGS_SHARE: usize = 3;

/// How many lines there are at least, whatever the screen says.
const MIN_HEIGHT: usize = 6;

/// How large a screen is, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Screen {
    /// How wide.
    pub(crate) width: usize,
    /// How high.
    pub(crate) height: usize,
}

impl Screen {
    /// A line as far as there is room for it.
    pub(crate) fn cut(self, line: &str) -> String {
        match line.chars().count() > self.width {
            true => line
                .chars()
                .take(self.width.saturating_sub(1))
                .chain(['…'])
                .collect(),
            false => line.to_owned(),
        }
    }

    /// The answer of the verb `report` as one frame.
    pub(crate) fn draw(self, title: &str, report: &Value) -> String {
        let height = self.height.max(MIN_HEIGHT);
        let time = report["time"].as_str().unwrap_or_default();
        let time = time.get(11..19).unwrap_or(time);
        let mut frame = vec![format!(
            "{} · {} UTC · {}",
            printable(title),
            printable(time),
            sessions(report)
        )];
        frame.extend(monitoring::host(&report["system"]));
        let list = |name: &str| report[name].as_array().map_or(&[][..], Vec::as_slice);
        let wrong: Vec<String> = list("findings")
            .iter()
            .filter(|one| one["ended"].is_null())
            .map(|one| format!("! {}: {}", word(&one["kind"]), monitoring::message(one)))
            .collect();
        let room = height.saturating_sub(frame.len());
        if wrong.is_empty() {
            frame.push("Nothing is wrong.".into());
        } else {
            frame.extend(shortened(wrong, (room / FINDINGS_SHARE).max(1)));
        }
        let live: Vec<&Value> = list("sessions")
            .iter()
            .filter(|row| row["ended"].is_null() && row["debugSession"].is_null())
            .collect();
        let usage = |row: &Value| {
            let is_same = |used: &&Value| used["session"] == row["session"];
            list("processes")
                .iter()
                .find(is_same)
                .unwrap_or(&Value::Null)
        };
        let mut processes: Vec<(&Value, &Value)> =
            live.into_iter().map(|row| (row, usage(row))).collect();
        // Those that use most, then those that have come last.
        processes.sort_by(|(_, one), (_, other)| {
            let cpu = |used: &Value| used["cpuOver"]["10"].as_f64().unwrap_or_default();
            cpu(other).total_cmp(&cpu(one))
        });
        let process = |(row, used): &(&Value, &Value)| process(row, used);
        // Locks that are held and tasks that are old come first already.
        let parts = [
            part(&PROCESSES, processes.iter().map(process)),
            part(
                &LOCKS,
                list("locks")
                    .iter()
                    .filter(|lock| monitoring::is_telling(lock))
                    .map(monitoring::lock),
            ),
            part(
                &TASKS,
                monitoring::tasks(list("tasks"))
                    .into_iter()
                    .map(|(cells, _)| cells),
            ),
        ];
        let parts: Vec<Vec<String>> = parts.into_iter().filter(|part| part.len() > 1).collect();
        let room = height.saturating_sub(frame.len());
        for (part, share) in parts.iter().zip(shares(&parts, room)) {
            if share > 2 {
                frame.push(String::new());
                frame.extend(shortened(part.clone(), share - 1));
            }
        }
        frame.truncate(height);
        let frame: Vec<String> = frame.iter().map(|line| self.cut(line)).collect();
        frame.join("\n") + "\n"
    }
}

/// How many lines each part gets, an empty one before it counted: none more than it needs, and the rest is shared.
fn shares(parts: &[Vec<String>], room: usize) -> Vec<usize> {
    let needs: Vec<usize> = parts.iter().map(|part| part.len() + 1).collect();
    let mut order: Vec<usize> = (0..parts.len()).collect();
    order.sort_by_key(|at| needs[*at]);
    let (mut shares, mut room) = (vec![0; parts.len()], room);
    for (done, at) in order.into_iter().enumerate() {
        shares[at] = needs[at].min(room / (parts.len() - done));
        room -= shares[at];
    }
    shares
}

/// So many lines, the last of which says how many are left out, if any are.
fn shortened(mut lines: Vec<String>, room: usize) -> Vec<String> {
    if lines.len() > room {
        let left = lines.len() + 1 - room.max(1);
        lines.truncate(room.saturating_sub(1));
        lines.push(format!("  … and {left} more"));
    }
    lines
}

/// The lines of a table with its heading.
fn part<const N: usize>(head: &[&str; N], rows: impl Iterator<Item = [String; N]>) -> Vec<String> {
    let mut cells = vec![head.map(str::to_owned)];
    cells.extend(rows);
    table(&cells).lines().map(str::to_owned).collect()
}

/// How many sessions there are, and how they stand.
fn sessions(report: &Value) -> String {
    let rows = report["sessions"].as_array().map_or(&[][..], Vec::as_slice);
    let live = rows
        .iter()
        .filter(|row| row["ended"].is_null() && row["debugSession"].is_null());
    let states: Vec<String> = live.map(|row| word(&row["state"])).collect();
    let count = |state: &str| states.iter().filter(|one| *one == state).count();
    let mut said = monitoring::counted(&states.len().into(), "session");
    for state in ["running", "stopped", "held", "starting", "dormant"] {
        if count(state) > 0 {
            said += &format!(", {} {state}", count(state));
        }
    }
    said
}

const PROCESSES: [&str; 9] = [
    "PROCESS", "PID", "STATE", "FOR", "CPU", "MEMORY", "THREADS", "FILES", "CLIENTS",
];

fn process(row: &Value, used: &Value) -> [String; 9] {
    [
        monitoring::name(row),
        word(&row["pid"]),
        word(&row["state"]),
        monitoring::duration(&row["duration"]),
        monitoring::percent(&used["cpu"]),
        used["memory"].as_f64().map(bytes).unwrap_or_default(),
        word(&used["threads"]),
        word(&used["files"]),
        word(&row["clients"]),
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn report(count: u64) -> Value {
        let row = |number: u64| {
            let mut row = json!({
                "session": number, "pid": 100 + number, "name": format!("worker-{number}"), "state": "running",
                "duration": 5.0, "clients": 1, "ended": null,
            });
            if number == 2 {
                row["ended"] = json!("2026-01-01T00:00:00Z");
            }
            row
        };
        let used = |number: u64| json!({ "session": number, "cpu": 0.5, "cpuOver": { "10": number }, "memory": 5 << 20 });
        let lock = json!({ "name": "worker-1", "lock": "pool", "kind": "threading.Lock", "holders": [], "acquisitions": 4, "contended": 1 });
        let finding = json!({ "kind": "lock-held", "message": "pool is held\nfor \u{1b}[31m40 s", "ended": null });
        json!({
            "time": "2026-01-01T12:34:56.7Z", "summary": {}, "system": { "cpus": 2, "daemon": {} },
            "findings": vec![finding; count as usize], "locks": vec![lock; count as usize], "tasks": [],
            "sessions": (1..=count).map(row).collect::<Vec<_>>(), "processes": (1..=count).map(used).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn a_frame_fits_the_screen() {
        for (width, height) in [(120, 50), (80, 24), (20, 10), (1, 6), (200, 1000)] {
            for count in [0, 1, 5, 100] {
                let screen = Screen { width, height };
                let frame = screen.draw("dbgproxy", &report(count));
                assert!(
                    frame.lines().count() <= height,
                    "{width}x{height} {count}\n{frame}"
                );
                let widest = frame.lines().map(|line| line.chars().count()).max();
                assert!(widest <= Some(width), "{width}x{height} {count}\n{frame}");
                assert!(!frame.contains('\u{1b}'), "{frame}");
            }
        }
    }

    #[test]
    fn what_is_on_it() {
        let screen = Screen {
            width: 120,
            height: 30,
        };
        let frame = screen.draw("dbgproxy at x", &report(5));
        for part in [
            "dbgproxy at x · 12:34:56 UTC · 4 sessions, 4 running",
            "! lock-held: pool is held for",
            "PROCESS   PID  STATE    FOR    CPU   MEMORY",
            "worker-5  105  running  5.0 s  50 %  5.0 MiB",
            "pool",
        ] {
            assert!(frame.contains(part), "{part}\n{frame}");
        }
        assert!(!frame.contains("worker-2"), "it has ended\n{frame}");
        let mut quiet = report(5);
        quiet["locks"][0]["contended"] = 0.into();
        quiet["locks"][0]["lock"] = "idle".into();
        assert!(!screen.draw("x", &quiet).contains("idle"));
        let position = |part| frame.find(part);
        assert!(position("worker-5") < position("worker-3"), "{frame}");
        let small = Screen {
            width: 120,
            height: 24,
        }
        .draw("x", &report(100));
        assert!(small.matches(" more\n").count() >= 3, "{small}");
        let empty = screen.draw("x", &report(0));
        assert!(
            empty.contains("0 sessions") && empty.contains("Nothing is wrong."),
            "{empty}"
        );
    }
}
