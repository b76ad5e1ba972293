//! The figures of the daemon and its monitor, as Prometheus reads them: its text format, version 0.0.4.
//!
//! Each scrape makes them anew out of what the verb `monitor` answers: nothing is counted twice. A client library would
//! keep counters of its own beside those, and take back those of processes that are gone; what is left to do is to put
//! numbers under names, which is all that is here.
//! Label sets are bounded: states, kinds, the processes that use most, and the findings that are open for longest.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::Kind;
use crate::session::State;

/// What an answer of this kind is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Of how many processes there are figures of their own: those that use most.
pub const TOP: usize = 20;

/// How many findings are named, the oldest first; how many more are open is a figure of its own.
pub const NAMED: usize = 20;

/// How many characters of a name make a label; the rest is cut off.
const MAX_LABEL: usize = 100;

/// How many characters of a finding's message do: two who wait for each other are told of whole, even by names of the
/// greatest length that is kept. Stores that limit labels take 2,048 bytes by default.
const MAX_MESSAGE: usize = 2000;

/// What a figure is.
#[derive(Debug, Clone, Copy)]
enum Is {
    /// A number that goes up and down.
    Gauge,
    /// One that only goes up, while the daemon or the process lives.
    Counter,
}

/// Names and values of the labels of one figure.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text, as far as it is written.
#[derive(Default)]
struct Text(String);

impl Text {
    /// A family of figures, without those that are not known; nothing if none is.
    fn family<'a>(
        &mut self,
        name: &str,
        is: Is,
        help: &str,
        figures: impl IntoIterator<Item = (Vec<(&'a str, &'a str)>, Option<f64>)>,
    ) {
        let mut figures = figures.into_iter();
        let known = figures
            .by_ref()
            .filter_map(|(labels, value)| Some((labels, value?)));
        let mut known = known.peekable();
        if known.peek().is_none() {
            return;
        }
        let kind = match is {
            Is::Gauge => "gauge",
            Is::Counter => "counter",
        };
        let _ = writeln!(
            self.0,
            "# HELP dbgproxy_{name} {help}\n# TYPE dbgproxy_{name} {kind}"
        );
        for (labels, value) in known {
            let _ = writeln!(self.0, "dbgproxy_{name}{} {value}", braces(&labels));
        }
    }

    fn figure(&mut self, name: &str, is: Is, help: &str, value: &Value) {
        self.family(name, is, help, [(Vec::new(), value.as_f64())]);
    }
}

fn braces(labels: Labels<'_>) -> String {
    if labels.is_empty() {
        return String::new();
    }
    let label = |(name, value): &(&str, &str)| {
        let length = match *name {
            "message" => MAX_MESSAGE,
            _ => MAX_LABEL,
        };
        let value: String = value.chars().take(length).collect();
        let value = value
            .replace('\\', r"\\")
            .replace('"', "\\\"")
            .replace('\n', r"\n");
        format!("{name}=\"{value}\"")
    };
    let labels: Vec<String> = labels.iter().map(label).collect();
    format!("{{{}}}", labels.join(","))
}

/// All figures: of the states of the live sessions, and of what the verb `monitor` answers for `system` and for
/// `findings`, if anything is monitored.
#[must_use]
pub fn render(states: &[State], opened: u64, monitor: &Value, found: &Value) -> String {
    use Is::{Counter, Gauge};
    let mut text = Text::default();
    let version = [(vec![("version", env!("CARGO_PKG_VERSION"))], Some(1.0))];
    text.family("build_info", Gauge, "Which dbgproxy this is.", version);
    let of_state = |state: State| {
        let count = states.iter().filter(|one| **one == state).count();
        (vec![("state", state.word())], Some(count as f64))
    };
    text.family(
        "sessions",
        Gauge,
        "Debugged processes that are there, by state.",
        State::LIVE.map(of_state),
    );
    text.figure(
        "sessions_opened_total",
        Counter,
        "Debugged processes that have come.",
        &json!(opened),
    );
    findings(&mut text, &monitor["summary"]);
    if let Some(list) = found["findings"].as_array() {
        named(&mut text, list);
    }
    let summary = &monitor["summary"];
    for (name, help, key) in [
        ("locks", "Locks that are monitored.", "locks"),
        ("locks_held", "Locks that are held.", "held"),
        (
            "lock_waiters",
            "Threads and tasks that wait for a lock.",
            "waiters",
        ),
        ("event_loops", "Event loops of asyncio.", "loops"),
        ("tasks", "Tasks of asyncio that have not ended.", "tasks"),
        (
            "monitored_processes",
            "Processes whose locks and tasks are known.",
            "processes",
        ),
    ] {
        text.figure(name, Gauge, help, &summary[key]);
    }
    let cost = &summary["cost"];
    text.figure(
        "monitor_samples_total",
        Counter,
        "Samples of processes.",
        &cost["samples"],
    );
    text.figure(
        "monitor_samples_left_out_total",
        Counter,
        "Samples that there was no time for.",
        &summary["samplesLeftOut"],
    );
    text.figure(
        "monitor_seconds_total",
        Counter,
        "How long the monitor itself has worked.",
        &cost["seconds"],
    );
    host(&mut text, &monitor["system"]);
    daemon(&mut text, &monitor["system"]["daemon"]);
    processes(
        &mut text,
        monitor["processes"].as_array().map_or(&[], Vec::as_slice),
    );
    text.0
}

fn findings(text: &mut Text, summary: &Value) {
    if summary.is_null() {
        return;
    }
    let words: Vec<String> = Kind::ALL
        .iter()
        .filter_map(|kind| Some(json!(kind).as_str()?.to_owned()))
        .collect();
    let open = words.iter().map(|kind| {
        let count = summary["findings"][kind].as_f64().unwrap_or_default();
        (vec![("kind", kind.as_str())], Some(count))
    });
    text.family("findings", Is::Gauge, "What is wrong now, by kind.", open);
    text.figure(
        "findings_opened_total",
        Is::Counter,
        "Findings that there have been.",
        &summary["findingsOpened"],
    );
    text.figure(
        "findings_left_out_total",
        Is::Counter,
        "Findings that there was no room for.",
        &summary["findingsLeftOut"],
    );
}

/// Each finding that is open, as it was first told: a message in which a duration grows would be a new series each time.
fn named(text: &mut Text, list: &[Value]) {
    let since = |one: &Value| one["since"].as_str()?.parse::<Timestamp>().ok();
    let mut open: Vec<(Timestamp, &Value)> = list
        .iter()
        .filter(|one| one["ended"].is_null())
        .filter_map(|one| Some((since(one)?, one)))
        .collect();
    open.sort_by_key(|(since, one)| (*since, one["id"].as_u64()));
    let beyond = open.len().saturating_sub(NAMED);
    open.truncate(NAMED);
    let named = open.iter().map(|(since, one)| {
        let labels = [
            ("finding", "id"),
            ("kind", "kind"),
            ("process", "name"),
            ("pid", "pid"),
            ("message", "first"),
        ];
        let labels = labels.map(|(label, key)| (label, text_of(&one[key])));
        (labels, since.as_millisecond() as f64 / 1000.0)
    });
    let named: Vec<_> = named.collect();
    let figures = named.iter().map(|(labels, since)| {
        let labels = labels.iter().map(|(label, text)| (*label, text.as_str()));
        (labels.collect(), Some(*since))
    });
    text.family(
        "finding_start_timestamp_seconds",
        Is::Gauge,
        "Since when something is wrong, and what: the oldest findings that are open.",
        figures,
    );
    text.figure(
        "findings_unnamed",
        Is::Gauge,
        "Findings that are open beside those.",
        &json!(beyond),
    );
}

/// A field as a label has it: one that is not known is empty, which is none to Prometheus.
fn text_of(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

fn host(text: &mut Text, host: &Value) {
    use Is::{Counter, Gauge};
    let (memory, swap) = (&host["memory"], &host["swap"]);
    text.figure("host_cpus", Gauge, "Processors of the host.", &host["cpus"]);
    text.figure(
        "host_cpu_usage_ratio",
        Gauge,
        "Share of all processors that is used.",
        &host["cpu"],
    );
    text.figure(
        "host_memory_size_bytes",
        Gauge,
        "Memory of the host.",
        &memory["total"],
    );
    text.figure(
        "host_memory_available_bytes",
        Gauge,
        "Memory that can be had.",
        &memory["available"],
    );
    text.figure(
        "host_swap_size_bytes",
        Gauge,
        "Swap space of the host.",
        &swap["total"],
    );
    text.figure(
        "host_swap_free_bytes",
        Gauge,
        "Swap space that is free.",
        &swap["free"],
    );
    let load = host["load"].as_array().map_or(&[][..], Vec::as_slice);
    let load = ["1", "5", "15"].into_iter().zip(load);
    let load = load.map(|(minutes, load)| (vec![("minutes", minutes)], load.as_f64()));
    text.family(
        "host_load",
        Gauge,
        "Processes that run or want to, on average over so many minutes.",
        load,
    );
    let pressure = host["pressure"].as_object().into_iter().flatten();
    let pressure = pressure.flat_map(|(resource, of)| {
        let shares = of.as_object().into_iter().flatten();
        shares.map(move |(who, row)| {
            let labels = vec![("resource", resource.as_str()), ("tasks", who.as_str())];
            (labels, row["total"].as_f64())
        })
    });
    let help = "How long some tasks, or all that could run, have waited for a resource.";
    text.family(
        "host_pressure_waiting_seconds_total",
        Counter,
        help,
        pressure,
    );
}

fn daemon(text: &mut Text, own: &Value) {
    use Is::{Counter, Gauge};
    text.figure(
        "daemon_cpu_seconds_total",
        Counter,
        "Processor time that the daemon has used.",
        &own["cpuTime"],
    );
    text.figure(
        "daemon_resident_memory_bytes",
        Gauge,
        "Memory of the daemon.",
        &own["memory"],
    );
    text.figure(
        "daemon_threads",
        Gauge,
        "Threads of the daemon.",
        &own["threads"],
    );
    text.figure(
        "daemon_open_files",
        Gauge,
        "Files that the daemon has open.",
        &own["files"],
    );
    text.figure(
        "daemon_max_open_files",
        Gauge,
        "Files that the daemon may have open.",
        &own["filesLimit"],
    );
    text.figure(
        "daemon_tasks",
        Gauge,
        "Tasks of the daemon, one for each connection and some more.",
        &own["tasks"],
    );
    text.figure("clients", Gauge, "Connections of IDEs.", &own["clients"]);
    text.figure(
        "queued_mails",
        Gauge,
        "What waits to be handled by sessions and clients.",
        &own["queued"],
    );
    text.figure(
        "received_bytes_total",
        Counter,
        "Bytes read from processes and IDEs.",
        &own["received"]["bytes"],
    );
    text.figure(
        "received_messages_total",
        Counter,
        "Messages in them.",
        &own["received"]["messages"],
    );
    text.figure(
        "sent_bytes_total",
        Counter,
        "Bytes written to processes and IDEs.",
        &own["sent"]["bytes"],
    );
}

fn processes(text: &mut Text, rows: &[Value]) {
    use Is::{Counter, Gauge};
    let top = &rows[..rows.len().min(TOP)];
    let pids: Vec<String> = top.iter().map(|row| row["pid"].to_string()).collect();
    let mut family = |name: &str, is, help: &str, key: &str| {
        let figures = top.iter().zip(&pids).map(|(row, pid)| {
            let name = row["name"].as_str().unwrap_or_default();
            (
                vec![("name", name), ("pid", pid.as_str())],
                row[key].as_f64(),
            )
        });
        text.family(name, is, help, figures);
    };
    family(
        "process_cpu_seconds_total",
        Counter,
        "Processor time of the processes that use most.",
        "cpuTime",
    );
    family(
        "process_resident_memory_bytes",
        Gauge,
        "Memory of the processes that use most.",
        "memory",
    );
    family(
        "process_threads",
        Gauge,
        "Threads of the processes that use most.",
        "threads",
    );
    family(
        "process_open_files",
        Gauge,
        "Open files of the processes that use most.",
        "files",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_under_their_names() {
        let row = |pid: u64| json!({ "name": "a \"b\"\\\nc", "pid": pid, "cpuTime": 1.5, "memory": 7, "threads": null });
        // The youngest first.
        let finding = |number: u64| {
            json!({
                "id": 40 - number, "kind": "lock-held", "name": "a.py", "pid": null, "first": "x".repeat(MAX_MESSAGE + 9),
                "message": "y", "since": format!("2026-01-01T00:00:{:02}.5Z", 40 - number), "ended": null,
            })
        };
        let monitor = json!({
            "summary": { "locks": 3, "findings": { "lock-held": 2 }, "cost": { "samples": 9 } },
            "system": { "load": [0.5, 1, 2], "pressure": { "io": { "some": { "total": 2.5 } } }, "daemon": { "tasks": 4 } },
            "processes": (1..=TOP as u64 + 5).map(row).collect::<Vec<_>>(),
        });
        let text = render(
            &[State::Running, State::Running, State::Stopped],
            12,
            &monitor,
            &json!({ "findings": (0..NAMED as u64 + 5).map(finding).collect::<Vec<_>>() }),
        );
        for line in [
            "# HELP dbgproxy_sessions Debugged processes that are there, by state.",
            "# TYPE dbgproxy_sessions gauge",
            "dbgproxy_sessions{state=\"running\"} 2",
            "dbgproxy_sessions{state=\"held\"} 0",
            "# TYPE dbgproxy_sessions_opened_total counter",
            "dbgproxy_sessions_opened_total 12",
            "dbgproxy_findings{kind=\"lock-held\"} 2",
            "dbgproxy_findings{kind=\"lock-cycle\"} 0",
            "dbgproxy_findings_unnamed 5",
            "dbgproxy_locks 3",
            "dbgproxy_host_load{minutes=\"15\"} 2",
            "dbgproxy_host_pressure_waiting_seconds_total{resource=\"io\",tasks=\"some\"} 2.5",
            "dbgproxy_daemon_tasks 4",
            "dbgproxy_process_cpu_seconds_total{name=\"a \\\"b\\\"\\\\\\nc\",pid=\"1\"} 1.5",
        ] {
            assert!(text.lines().any(|one| one == line), "{line}\n{text}");
        }
        assert_eq!(
            text.matches("dbgproxy_process_resident_memory_bytes{")
                .count(),
            TOP
        );
        let named: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with("dbgproxy_finding_start"))
            .collect();
        assert_eq!(named.len(), NAMED, "{text}");
        let message = "x".repeat(MAX_MESSAGE);
        assert_eq!(
            named[0],
            format!(
                "dbgproxy_finding_start_timestamp_seconds{{finding=\"16\",kind=\"lock-held\",process=\"a.py\",pid=\"\",\
                 message=\"{message}\"}} 1767225616.5"
            )
        );
        // What is not known has no name either.
        assert!(
            !text.contains("process_threads") && !text.contains("host_cpus"),
            "{text}"
        );
        assert!(text.ends_with('\n'));
    }

    #[test]
    fn a_daemon_without_a_monitor_has_sessions() {
        let text = render(&[], 0, &Value::Null, &Value::Null);
        assert!(
            text.contains("dbgproxy_sessions{state=\"stopped\"} 0\n"),
            "{text}"
        );
        assert!(!text.contains("findings"), "{text}");
    }
}
