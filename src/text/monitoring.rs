//! What the monitor knows: what is wrong first, then short tables.
//!
//! Of each table only the most telling rows are shown; `--json` has them all.

use std::fmt::Write;

use serde_json::Value;

use super::{bytes, lines, printable, table, word};

/// How many rows of a table are shown.
const MAX_ROWS: usize = 20;

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
        text += &part("Locks", of("locks"), &LOCKS, rows, lock);
    }
    if let Some(rows) = list("loops") {
        text += &part("Event loops", of("loops"), &LOOPS, rows, event_loop);
    }
    if let Some(rows) = list("tasks") {
        text += &part("Tasks", of("tasks"), &TASKS, rows, task);
    }
    if let Some(rows) = list("sessions") {
        text += &part("Sessions", of("sessions"), &SESSIONS, rows, session);
    }
    if let Some(rows) = list("processes") {
        text += &part("Processes", of("processes"), &PROCESSES, rows, used);
    }
    if let Some(system) = answer.get("system") {
        text += &host(system);
    }
    for dropped in answer["summary"]["dropped"]
        .as_array()
        .into_iter()
        .flatten()
    {
        let who: String = word(&dropped["session"]).chars().take(8).collect();
        let _ = writeln!(text, "left out of {who}: {}", word(&dropped["message"]));
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
        let _ = writeln!(
            text,
            "\n! {}: {}",
            word(&one["kind"]),
            lines(&one["message"]).join(" ")
        );
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
    text += &more(open.len());
    if !ended.is_empty() {
        let row = |one: &&Value| {
            let message = lines(&one["message"]).join(" ");
            [time(&one["ended"], now), word(&one["kind"]), message]
        };
        let rows: Vec<[String; 3]> = ended.iter().take(MAX_ROWS).map(row).collect();
        let _ = write!(
            text,
            "\nNo longer, since:\n{}{}",
            indented(&table(&rows)),
            more(ended.len())
        );
    }
    text
}

/// A table with a heading, if there is anything in it.
fn part<const N: usize>(
    name: &str,
    count: u64,
    head: &[&str; N],
    rows: &[Value],
    cells: impl Fn(&Value) -> [String; N],
) -> String {
    if rows.is_empty() {
        return format!("\n{name}: none\n");
    }
    let mut shown = vec![head.map(str::to_owned)];
    shown.extend(rows.iter().take(MAX_ROWS).map(cells));
    let count = usize::try_from(count).unwrap_or(usize::MAX).max(rows.len());
    format!(
        "\n{name} ({count}):\n{}{}",
        indented(&table(&shown)),
        more(count)
    )
}

fn more(count: usize) -> String {
    match count.saturating_sub(MAX_ROWS) {
        0 => String::new(),
        left => format!("  … and {left} more (--json has them)\n"),
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}

pub(super) const LOCKS: [&str; 8] = [
    "PROCESS",
    "LOCK",
    "KIND",
    "HELD BY",
    "FOR",
    "AT",
    "WAITED FOR BY",
    "USED",
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
        word(&row["kind"]),
        actors(holders, holders.len() as u64),
        match holders {
            [] => String::new(),
            _ => duration(&row["held"]),
        },
        holders
            .first()
            .map(|holder| place(&holder["site"]))
            .unwrap_or_default(),
        actors(waiters, count),
        word(&row["acquisitions"]),
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

pub(super) fn task(row: &Value) -> [String; 6] {
    [
        process(row),
        word(&row["task"]),
        word(&row["coroutine"]),
        word(&row["state"]),
        duration(&row["age"]),
        place(&row["where"]),
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
    let error = match &row["error"]["message"] {
        Value::Null => &row["exit"],
        message => message,
    };
    [
        process(row),
        word(&row["debugSession"]),
        word(&row["type"]),
        word(owner),
        word(&row["status"]),
        duration(&row["duration"]),
        word(error),
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
pub(super) fn host(system: &Value) -> String {
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
    let daemon = format!(
        "Daemon: {} of memory, {} of a processor, {} sessions, {} clients",
        size(&own["memory"]),
        if own["cpu"].is_f64() {
            format!("{:.1} %", own["cpu"].as_f64().unwrap_or_default() * 100.0)
        } else {
            "?".into()
        },
        word(&own["sessions"]),
        word(&own["clients"])
    );
    format!("\nHost: {}\n{daemon}\n", said.join(", "))
}

/// What people call the process of a row; a star where its clocks stand.
pub(super) fn process(row: &Value) -> String {
    let star = if row["stopped"] == true { " *" } else { "" };
    match &row["name"] {
        Value::Null => word(&row["session"]).chars().take(8).collect(),
        name => format!("{}{star}", word(name)),
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

/// A moment, and how long ago it was.
fn time(value: &Value, now: &str) -> String {
    let text = value.as_str().unwrap_or_default();
    let clock = text.get(11..19).unwrap_or(text);
    format!(
        "{} ({} ago)",
        printable(clock),
        super::sessions::since(text, now.parse().unwrap_or_default())
    )
}
