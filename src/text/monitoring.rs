//! What the monitor knows: what is wrong first, then short tables.
//!
//! Of each table only the most telling rows are shown, and only the columns in which something is. Of rows that are as
//! they should be, locks that nobody holds or has waited for and sessions that have completed, only the number is told.
//! `--json` has all.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value;

use super::{bytes, lines, printable, stacks, table, word};

/// How many rows of a table are shown.
const MAX_ROWS: usize = 20;

/// How wide prose is at most, in characters, so that it can be read on narrow screens, too; a longer word stands out.
const WIDTH: usize = 78;

/// How many sites of a finding are named.
const MAX_SITES: usize = 8;

/// The answer of the verbs `report` and `monitor`; nothing if it is none.
pub(super) fn show(answer: &Value) -> Option<String> {
    answer["summary"].as_object()?;
    let list = |name: &str| answer[name].as_array();
    let mut text = String::new();
    if let Some(list) = list("findings") {
        text += &findings(list, answer["time"].as_str().unwrap_or_default());
    }
    let of = |name: &str| answer["summary"]["rows"][name].as_u64().unwrap_or_default();
    if let Some(rows) = list("locks") {
        text += &match rows.is_empty() {
            // Those of a program are none of its own accord.
            true => "\nLocks: none that are watched; DBGPROXY_MONITOR=locks watches a program's\n"
                .into(),
            false => {
                let telling = rows.iter().filter(|row| is_telling(row));
                let quiet = rows.len() - telling.clone().count();
                let quiet = Quiet(quiet as u64, "that nobody holds or has waited for");
                part("Locks", of("locks"), LOCKS, each(telling, lock), quiet)
            }
        };
    }
    if let Some(rows) = list("loops") {
        text += &part(
            "Event loops",
            of("loops"),
            LOOPS,
            each(rows, event_loop),
            NO_QUIET,
        );
    }
    if let Some(rows) = list("tasks") {
        text += &part("Tasks", of("tasks"), TASKS, tasks(rows), NO_QUIET);
    }
    if let Some(rows) = list("sessions") {
        let telling = rows.iter().filter(|row| !has_completed(row));
        let quiet = rows.len() - telling.clone().count();
        let quiet = Quiet(quiet as u64, "completed");
        let telling = each(telling, session);
        text += &part("Sessions", of("sessions"), SESSIONS, telling, quiet);
    }
    if let Some(rows) = list("processes") {
        text += &part(
            "Processes",
            of("processes"),
            PROCESSES,
            each(rows, used),
            NO_QUIET,
        );
    }
    if let Some(system) = answer.get("system") {
        text.push('\n');
        host(system).iter().for_each(|line| text += &wrapped(line));
    }
    let dropped = answer["summary"]["dropped"].as_array();
    if let Some(dropped) = dropped.filter(|dropped| !dropped.is_empty()) {
        text += "\nLeft out, or not understood:\n";
        for one in dropped {
            let said = format!("- {}: {}", name(one), word(&one["message"]));
            text += &wrapped(&said);
        }
    }
    Some(text.trim_start_matches('\n').to_owned())
}

/// What is wrong: each finding with since when, where and what to do.
fn findings(list: &[Value], now: &str) -> String {
    let (open, ended): (Vec<&Value>, Vec<&Value>) =
        list.iter().partition(|one| one["ended"].is_null());
    if list.is_empty() {
        return "Nothing is wrong.\n".to_owned();
    }
    let mut text = match open.len() {
        0 => "Nothing is wrong now.\n".to_owned(),
        1 => "1 finding:\n".to_owned(),
        count => format!("{count} findings:\n"),
    };
    for one in open.iter().take(MAX_ROWS) {
        let said = format!("! {}: {}", word(&one["kind"]), message(one));
        let _ = write!(text, "\n{}", wrapped(&said));
        let count = match one["count"].as_u64() {
            Some(count @ 2..) => format!(", {count} times"),
            _ => String::new(),
        };
        let _ = writeln!(text, "  since   {}{count}", time(&one["since"], now));
        let sites = one["sites"].as_array().map_or(&[][..], Vec::as_slice);
        for (number, site) in sites.iter().take(MAX_SITES).enumerate() {
            let head = if number == 0 { "where" } else { "" };
            let _ = writeln!(text, "  {head:7} {}", place(site));
        }
        if one["advice"].is_string() {
            let _ = writeln!(text, "  advice  {}", word(&one["advice"]));
        }
    }
    text += &more(open.len().saturating_sub(MAX_ROWS) as u64);
    if !ended.is_empty() {
        text += "\nEnded not long ago:\n";
        for one in ended.iter().take(MAX_ROWS) {
            let (kind, ended) = (word(&one["kind"]), time(&one["ended"], now));
            text += &wrapped(&format!("- {kind}: {}", message(one)));
            let _ = writeln!(text, "  ended   {ended}");
        }
        text += &more(ended.len().saturating_sub(MAX_ROWS) as u64);
    }
    text
}

/// Prose on lines of a bearable width, all but the first a little to the right. Of those who wait for each other, one
/// stands below the other.
fn wrapped(text: &str) -> String {
    let mut wrapped = String::new();
    for part in text.split_inclusive("; ") {
        let mut width = if wrapped.is_empty() { 0 } else { WIDTH };
        for word in part.split_whitespace() {
            let long = word.chars().count();
            if width == 0 {
                width = long;
            } else if width + 1 + long > WIDTH {
                wrapped.push_str("\n  ");
                width = 2 + long;
            } else {
                wrapped.push(' ');
                width += 1 + long;
            }
            wrapped.push_str(word);
        }
    }
    wrapped + "\n"
}

/// What a finding says, on one line.
pub(super) fn message(finding: &Value) -> String {
    lines(&finding["message"]).join(" ")
}

/// A line of a table, and how many rows it stands for.
type Line<const N: usize> = ([String; N], u64);

fn each<'a, const N: usize>(
    rows: impl IntoIterator<Item = &'a Value>,
    cells: impl Fn(&Value) -> [String; N],
) -> Vec<Line<N>> {
    rows.into_iter().map(|row| (cells(row), 1)).collect()
}

/// How many rows a table does not show because they are as they should be, and how that is.
struct Quiet(u64, &'static str);

/// Of a table in which every row is of interest.
const NO_QUIET: Quiet = Quiet(0, "");

/// Whether a lock is held, leaked or waited for, or was waited for once.
pub(super) fn is_telling(lock: &Value) -> bool {
    let counts = ["waiterCount", "contended", "timeouts"];
    let is_held = lock["holders"]
        .as_array()
        .is_some_and(|all| !all.is_empty());
    is_held || lock["leaked"] == true || counts.iter().any(|count| lock[count].as_u64() > Some(0))
}

/// Whether a session has ended as it should.
fn has_completed(session: &Value) -> bool {
    session["status"] == "completed" && !session["ended"].is_null()
}

/// A table with a heading, if there is anything in it; `count` rows there are in all, also those that are quiet.
fn part<const N: usize>(
    name: &str,
    count: u64,
    head: [&str; N],
    mut lines: Vec<Line<N>>,
    Quiet(quiet, how): Quiet,
) -> String {
    let rows = |lines: &[Line<N>]| lines.iter().map(|(_, rows)| rows).sum::<u64>();
    let count = count.max(rows(&lines) + quiet);
    lines.truncate(MAX_ROWS);
    let left = more(count.saturating_sub(rows(&lines) + quiet));
    if lines.is_empty() {
        return match quiet {
            0 => format!("\n{name}: none\n"),
            quiet => format!("\n{name} ({count}): {quiet} {how}\n{left}"),
        };
    }
    let quiet = match quiet {
        0 => String::new(),
        quiet => format!("  … and {quiet} {how}\n"),
    };
    let mut shown = vec![head.map(str::to_owned)];
    shown.extend(lines.into_iter().map(|(cells, _)| cells));
    for column in 0..N {
        if shown[1..].iter().all(|cells| cells[column].is_empty()) {
            shown[0][column].clear();
        }
    }
    format!(
        "\n{name} ({count}):\n{}{left}{quiet}",
        indented(&table(&shown))
    )
}

fn more(left: u64) -> String {
    match left {
        0 => String::new(),
        left => format!("  … and {left} more\n"),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

pub(super) const LOCKS: [&str; 8] = [
    "PROCESS",
    "LOCK",
    "HELD BY",
    "FOR",
    "AT",
    "WAITED FOR BY",
    "USED",
    "KIND",
];

pub(super) fn lock(row: &Value) -> [String; 8] {
    let list = |name: &str| row[name].as_array().map_or(&[][..], Vec::as_slice);
    let (holders, waiters) = (list("holders"), list("waiters"));
    let processes = row["processes"].as_u64().unwrap_or(1);
    // The first, and how many more; of a lock that processes share, with their processes.
    let actors = |list: &[Value], count: u64| match (list.first(), processes) {
        (None, _) => String::new(),
        (Some(first), 1) => actor(first) + &and_more(count),
        (Some(first), _) => format!("{} · {}", process(first), actor(first)) + &and_more(count),
    };
    let count = row["waiterCount"].as_u64().unwrap_or_default();
    [
        match processes {
            1 => process(row),
            count => format!("{count} processes"),
        },
        word(&row["lock"]),
        actors(holders, holders.len() as u64),
        match holders {
            [] => String::new(),
            _ => duration(&row["held"]),
        },
        holders
            .first()
            .map(|holder| short_place(&holder["site"]))
            .unwrap_or_default(),
        actors(waiters, count),
        word(&row["acquisitions"]),
        word(&row["kind"]),
    ]
}

/// How many there are beside the first.
fn and_more(count: u64) -> String {
    match count {
        0 | 1 => String::new(),
        count => format!(" +{}", count - 1),
    }
}

const LOOPS: [&str; 6] = [
    "PROCESS",
    "THREAD",
    "TASKS",
    "BLOCKED",
    "LONGEST BLOCK",
    "FAILED",
];

fn event_loop(row: &Value) -> [String; 6] {
    [
        process(row),
        word(&row["thread"]),
        word(&row["tasks"]),
        duration(&row["blocked"]),
        duration(&row["longestBlock"]),
        word(&row["failed"]),
    ]
}

pub(super) const TASKS: [&str; 6] = ["PROCESS", "TASK", "COROUTINE", "STATE", "AGE", "WHERE"];

/// A line for each task; those that are at the same point are one, called by the oldest.
pub(super) fn tasks(rows: &[Value]) -> Vec<Line<6>> {
    let mut all: Vec<Line<6>> = Vec::new();
    let mut places = HashMap::new();
    for row in rows {
        let key = ["session", "coroutine", "state", "where"].map(|key| row[key].to_string());
        let place = *places.entry(key).or_insert(all.len());
        match all.get_mut(place) {
            Some((_, count)) => *count += 1,
            None => all.push((task(row), 1)),
        }
    }
    for (cells, count) in &mut all {
        cells[1] += &and_more(*count);
    }
    all
}

fn task(row: &Value) -> [String; 6] {
    [
        process(row),
        word(&row["task"]),
        word(&row["coroutine"]),
        word(&row["state"]),
        duration(&row["age"]),
        short_place(&row["where"]),
    ]
}

const SESSIONS: [&str; 7] = [
    "PROCESS", "SESSION", "TYPE", "OWNER", "STATUS", "FOR", "ERROR",
];

fn session(row: &Value) -> [String; 7] {
    let is_process = row["type"] == "process" && row["debugSession"].is_null();
    let owner = if is_process {
        &Value::Null
    } else {
        &row["owner"]
    };
    let error = match (&row["error"]["message"], row["exit"].as_i64()) {
        (Value::Null, _) if row["ending"].is_string() => word(&row["ending"]),
        (Value::Null, None | Some(0)) => String::new(),
        (Value::Null, Some(code)) => format!("exit code {code}"),
        (message, _) => word(message),
    };
    [
        process(row),
        word(&row["debugSession"]),
        word(&row["type"]),
        word(owner),
        word(&row["status"]),
        duration(&row["duration"]),
        error,
    ]
}

const PROCESSES: [&str; 7] = [
    "PROCESS", "PID", "CPU", "MEMORY", "PER MIN", "THREADS", "FILES",
];

fn used(row: &Value) -> [String; 7] {
    let growth = row["growth"].as_f64().map(|growth| growth * 60.0);
    // What is less is noise.
    let growth = growth.filter(|growth| growth.abs() >= f64::from(1 << 20));
    [
        process(row),
        word(&row["pid"]),
        percent(&row["cpu"]),
        row["memory"].as_f64().map(bytes).unwrap_or_default(),
        growth
            .map(|growth| format!("{}{}", if growth > 0.0 { "+" } else { "" }, bytes(growth)))
            .unwrap_or_default(),
        word(&row["threads"]),
        word(&row["files"]),
    ]
}

pub(super) fn percent(share: &Value) -> String {
    share
        .as_f64()
        .map(|share| format!("{:.0} %", share * 100.0))
        .unwrap_or_default()
}

/// The host on one line, and the daemon on another.
pub(super) fn host(system: &Value) -> [String; 2] {
    let size = |value: &Value| bytes(value.as_f64().unwrap_or_default());
    let memory = &system["memory"];
    let mut said = vec![format!(
        "{} of {} of memory free",
        size(&memory["available"]),
        size(&memory["total"])
    )];
    if system["cpu"].is_f64() {
        said.push(format!(
            "{} of {} processors used",
            percent(&system["cpu"]),
            word(&system["cpus"])
        ));
    }
    if let Some(load) = system["load"].as_array() {
        let load = load
            .iter()
            .filter_map(Value::as_f64)
            .map(|load| format!("{load:.2}"));
        said.push(format!("load {}", load.collect::<Vec<_>>().join(" ")));
    }
    // What waits for nothing need not be told.
    for (resource, pressure) in system["pressure"].as_object().into_iter().flatten() {
        let share = pressure["some"]["over"]["10"].as_f64().unwrap_or_default();
        if share >= 0.01 {
            said.push(format!(
                "{:.0} % of the time something waits for {}",
                share * 100.0,
                printable(resource)
            ));
        }
    }
    let own = &system["daemon"];
    let mut used = vec![format!("{} of memory", size(&own["memory"]))];
    if let Some(cpu) = own["cpu"].as_f64() {
        used.push(format!("{:.1} % of a processor", cpu * 100.0));
    }
    used.push(counted(&own["sessions"], "session"));
    used.push(counted(&own["clients"], "client"));
    [
        format!("Host: {}", said.join(", ")),
        format!("Daemon: {}", used.join(", ")),
    ]
}

/// So many of something.
pub(super) fn counted(count: &Value, what: &str) -> String {
    match count.as_u64() {
        Some(1) => format!("1 {what}"),
        _ => format!("{} {what}s", word(count)),
    }
}

/// What people call the process of a row, and that it is stopped: its clocks stand.
fn process(row: &Value) -> String {
    let stopped = if row["stopped"] == true {
        " (stopped)"
    } else {
        ""
    };
    name(row) + stopped
}

/// What people call the process of a row.
pub(super) fn name(row: &Value) -> String {
    match &row["name"] {
        Value::Null => word(&row["session"]).chars().take(8).collect(),
        name => word(name),
    }
}

fn actor(one: &Value) -> String {
    match &one["task"] {
        Value::Null => word(&one["thread"]),
        task => format!("task {}", word(task)),
    }
}

fn place(site: &Value) -> String {
    match site["file"].as_str() {
        Some(file) => format!("{}:{}", printable(file), word(&site["line"])),
        None => String::new(),
    }
}

/// The same in few characters, as tables have it.
fn short_place(site: &Value) -> String {
    match site["file"].as_str() {
        Some(file) => {
            let file = stacks::last(file, 2);
            format!("{}:{}", printable(file), word(&site["line"]))
        }
        None => String::new(),
    }
}

/// A number of seconds in few characters.
pub(super) fn duration(value: &Value) -> String {
    match value.as_f64() {
        None => String::new(),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1000.0),
        Some(seconds) if seconds < 120.0 => format!("{seconds:.1} s"),
        Some(seconds) if seconds < 7200.0 => format!("{:.0} min", seconds / 60.0),
        Some(seconds) => format!("{:.1} h", seconds / 3600.0),
    }
}

/// How long ago a moment was, and when.
fn time(value: &Value, now: &str) -> String {
    let text = value.as_str().unwrap_or_default();
    let clock = text.get(11..19).unwrap_or(text);
    format!(
        "{} ago ({} UTC)",
        super::sessions::since(text, now.parse().unwrap_or_default()),
        printable(clock)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tables_for_people() {
        let task = |name: &str, line: u32| {
            json!({ "session": "s", "name": "shop.py", "stopped": true, "task": name, "coroutine": "fetch",
                    "state": "waiting", "age": 12.25, "where": { "file": "/srv/shop/app.py", "line": line } })
        };
        let process = |name: &str, exit: Value| {
            json!({ "session": name, "name": name, "type": "process", "status": "failed", "duration": 90.0,
                    "exit": exit })
        };
        let tasks = [task("a", 7), task("b", 7), task("c", 7), task("d", 8)];
        let report = json!({
            "summary": { "dropped": [{ "name": "shop.py", "message": "3 × a sample that cannot be read" }] },
            "time": "2026-01-01T00:01:00Z",
            "findings": [{ "kind": "lock-cycle", "message": format!("deadlock: a {} waits; b waits", "x".repeat(90)),
                           "ended": null, "count": 1, "since": "2026-01-01T00:00:52.5Z" },
                         { "kind": "lock-held", "message": "it was held; 1 waits", "count": 2,
                           "since": "2026-01-01T00:00:00Z", "ended": "2026-01-01T00:00:30Z" }],
            "tasks": tasks,
            "sessions": [process("one", json!(3)), process("two", json!(0))],
            "loops": [],
        });
        assert_eq!(
            show(&report).unwrap_or_default(),
            "\
1 finding:

! lock-cycle: deadlock: a
  xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx
  waits;
  b waits
  since   7s ago (00:00:52 UTC)

Ended not long ago:
- lock-held: it was held;
  1 waits
  ended   30s ago (00:00:30 UTC)

Event loops: none

Tasks (4):
  PROCESS            TASK  COROUTINE  STATE    AGE     WHERE
  shop.py (stopped)  a +2  fetch      waiting  12.2 s  shop/app.py:7
  shop.py (stopped)  d     fetch      waiting  12.2 s  shop/app.py:8

Sessions (2):
  PROCESS  TYPE     STATUS  FOR     ERROR
  one      process  failed  90.0 s  exit code 3
  two      process  failed  90.0 s

Left out, or not understood:
- shop.py: 3 × a sample that cannot be read
"
        );
    }

    #[test]
    fn what_is_as_it_should_be_is_only_counted() {
        let lock = |name: &str| json!({ "name": "a.py", "lock": name, "holders": [], "waiterCount": 0, "contended": 0, "timeouts": 0 });
        let with = |name: &str, key: &str, value: Value| {
            let mut lock = lock(name);
            lock[key] = value;
            lock
        };
        let session = |name: &str, status: &str, ended: Value| json!({ "name": name, "status": status, "ended": ended });
        let ended = || json!("2026-01-01T00:00:00Z");
        let mut report = json!({
            "summary": { "rows": { "locks": 12 } },
            "locks": [
                lock("free"), with("held", "holders", json!([{ "thread": "Main" }])), with("waited", "waiterCount", json!(1)),
                with("contended", "contended", json!(1)), with("impatient", "timeouts", json!(1)),
                with("leaked", "leaked", json!(true)), lock("idle"),
            ],
            "sessions": [
                session("live", "running", Value::Null), session("good", "completed", ended()),
                session("bad", "failed", ended()), session("off", "cancelled", ended()),
            ],
        });
        assert_eq!(
            show(&report).unwrap_or_default(),
            "\
Locks (12):
  PROCESS  LOCK       HELD BY
  a.py     held       Main
  a.py     waited
  a.py     contended
  a.py     impatient
  a.py     leaked
  … and 5 more
  … and 2 that nobody holds or has waited for

Sessions (4):
  PROCESS  STATUS
  live     running
  bad      failed
  off      cancelled
  … and 1 completed
"
        );
        report["locks"] = json!([lock("free")]);
        report["sessions"] = json!([session("good", "completed", ended())]);
        report["summary"] = json!({});
        assert_eq!(
            show(&report).unwrap_or_default(),
            "Locks (1): 1 that nobody holds or has waited for\n\nSessions (1): 1 completed\n"
        );
        report["locks"] = vec![with("held", "leaked", json!(true)); 100].into();
        let text = show(&report).unwrap_or_default();
        assert_eq!(text.lines().count(), 1 + 1 + MAX_ROWS + 1 + 1 + 1, "{text}");
    }
}
