//! What the verbs answer, as people read it: the same on the command line and in an IDE's console.
//!
//! Plain text with aligned columns. All that comes from debugged programs is made harmless to a terminal.
//! This module knows the shapes of the answers, and neither how they came about nor where the text is shown.

mod monitoring;
mod names;
mod rows;
mod screen;
mod sessions;
mod stacks;

use std::fmt::Write;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Map, Value};

use rows::{NOBODY, Rows};
pub(crate) use screen::Screen;
pub(crate) use sessions::Listing;

/// How wide a column is at most, in characters; a longer cell pushes what is beside it to the right.
const MAX_WIDTH: usize = 60;

/// The answer of a verb as text; each line of it ends with a line break.
#[must_use]
pub fn show(verb: &str, answer: &Value) -> String {
    let rows = || Rows::of(answer);
    let shown = match verb {
        "sessions" => Listing::deserialize(answer)
            .ok()
            .map(|listing| match listing.is_empty() {
                true => NOBODY.to_owned(),
                false => listing.table(Timestamp::now()),
            }),
        "session" => answer["session"].as_object().map(fields),
        "info" => answer.as_object().map(fields),
        "pause" | "continue" | "next" | "stepIn" | "stepOut" => rows().map(|rows| rows.say(state)),
        "terminate" => rows().map(|rows| rows.say(|_| "terminated".to_owned())),
        "detach" => rows().map(|rows| rows.say(|_| "detached".to_owned())),
        "threads" => rows().map(|rows| threads(&rows)),
        "stacks" => rows().and_then(|rows| stacks::show(answer, &rows)),
        "evaluate" => rows().map(|rows| rows.say(|row| lines(&row["result"]).join("\n"))),
        "variables" => rows().map(|rows| rows.each(variables)),
        "report" | "monitor" => monitoring::show(answer),
        "output" => rows().map(|rows| rows.each(output)),
        "breakpoints.add" => rows().map(|rows| {
            let breakpoint = breakpoints(std::slice::from_ref(&answer["breakpoint"]));
            match rows.is_empty() {
                // It waits for the first.
                true => breakpoint,
                false => breakpoint + &rows.say(verdict),
            }
        }),
        "breakpoints.list" => answer["breakpoints"]
            .as_array()
            .map(|list| match &list[..] {
                [] => "No breakpoint is set.\n".to_owned(),
                list => breakpoints(list),
            }),
        "breakpoints.remove" => answer["removed"].as_array().map(|list| match &list[..] {
            [] => "No breakpoint was removed.\n".to_owned(),
            list => "Removed:\n".to_owned() + &breakpoints(list),
        }),
        _ => None,
    };
    // What has no look of its own is shown as it came.
    shown.unwrap_or_else(|| {
        let text = format!("{answer:#}");
        text.lines().map(|line| printable(line) + "\n").collect()
    })
}

/// Names and values come from debugged programs: they must not reach the terminal as commands to it, nor turn
/// around what stands beside them.
pub(crate) fn printable(text: &str) -> String {
    let is_harmful =
        |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.replace(is_harmful, "\u{fffd}")
}

/// A number of bytes in few characters.
pub(crate) fn bytes(bytes: f64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    let mut number = bytes / 1024.0;
    let mut unit = UNITS[0];
    for larger in &UNITS[1..] {
        if number.abs() < 1024.0 {
            break;
        }
        number /= 1024.0;
        unit = larger;
    }
    format!("{number:.1} {unit}")
}

/// A value of an answer on one line.
fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => printable(text),
        Value::Array(list) => list.iter().map(word).collect::<Vec<_>>().join(" "),
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| format!("{}={}", printable(key), word(value));
            fields.iter().map(field).collect::<Vec<_>>().join(" ")
        }
        Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// A text of an answer, line by line.
fn lines(value: &Value) -> Vec<String> {
    let text = value.as_str().unwrap_or_default();
    text.lines()
        // A carriage return overwrites what was before it, as progress bars do.
        .map(|line| line.trim_end_matches('\r'))
        .map(|line| line.rsplit('\r').next().unwrap_or_default())
        .map(|line| printable(&line.replace('\t', "    ")))
        .collect()
}

/// Cells in aligned columns, without those that are empty; a cell of several lines goes on below itself.
fn table<const N: usize>(rows: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            let lines = cell.lines().map(|line| line.chars().count());
            *width = lines.max().unwrap_or(0).min(MAX_WIDTH).max(*width);
        }
    }
    let mut text = String::new();
    for row in rows {
        let height = row.iter().map(|cell| cell.lines().count()).max();
        for line in 0..height.unwrap_or(0).max(1) {
            let start = text.len();
            for (width, cell) in widths.iter().zip(row).filter(|(width, _)| **width > 0) {
                let cell = cell.lines().nth(line).unwrap_or_default();
                let _ = write!(text, "{cell:width$}  ");
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
    }
    text
}

/// How a process stands after it was told to run or to stop.
fn state(row: &Value) -> String {
    let stopped = &row["stopped"];
    let mut words = vec![word(&row["state"])];
    if stopped["file"].is_string() {
        words.push(format!(
            "{}:{}",
            word(&stopped["file"]),
            word(&stopped["line"])
        ));
    }
    words.push(word(&stopped["reason"]));
    words.retain(|word| !word.is_empty());
    words.join(" ")
}

/// What a process says of a new breakpoint; the message is said beside it.
fn verdict(row: &Value) -> String {
    match (row["verified"] == true, &row["line"]) {
        (true, Value::Null) => "verified".to_owned(),
        (true, line) => format!("verified in line {}", word(line)),
        (false, _) => "not verified".to_owned(),
    }
}

fn threads(rows: &Rows<'_>) -> String {
    let head = ["NAME", "PID", "THREAD", "STATE", "ID"];
    let mut lines = vec![head.map(str::to_owned)];
    for row in &rows.done {
        // The name and the pid once.
        let mut process = [word(&row["name"]), word(&row["pid"])];
        let threads = row["threads"].as_array().map_or(&[][..], Vec::as_slice);
        // A process without threads has a line too.
        for thread in threads
            .iter()
            .chain(threads.is_empty().then_some(&Value::Null))
        {
            let [name, pid] = std::mem::take(&mut process);
            let (thread, state, id) = (&thread["name"], &thread["state"], &thread["id"]);
            lines.push([name, pid, word(thread), word(state), word(id)]);
        }
    }
    let table = if lines.len() > 1 {
        table(&lines)
    } else {
        String::new()
    };
    table + &rows.rest()
}

/// Where a process is stopped, and its variables there; or the children of one variable.
fn variables(row: &Value) -> (String, String) {
    let list = |variables: &Value, indent: &str| {
        let line = |variable: &Value| {
            let kind = word(&variable["type"]);
            let colon = if kind.is_empty() { "" } else { ": " };
            let equals = if variable["value"] == "" { "" } else { "= " };
            let value = lines(&variable["value"]).join("\n");
            // What there is to see inside is asked for by this number.
            let inside = match variable["variablesReference"].as_i64() {
                Some(reference) if reference > 0 => format!("[{reference}]"),
                _ => String::new(),
            };
            let name = format!("{indent}{}{colon}{kind}", word(&variable["name"]));
            [name, format!("{equals}{value}"), inside]
        };
        let lines = variables.as_array().into_iter().flatten().map(line);
        table(&lines.collect::<Vec<_>>())
    };
    let frame = &row["frame"];
    let place = match frame["path"].as_str() {
        Some(_) => format!(
            " in {} {}:{}",
            word(&frame["name"]),
            word(&frame["path"]),
            word(&frame["line"])
        ),
        None => String::new(),
    };
    let mut below = list(&row["variables"], "");
    for scope in row["scopes"].as_array().into_iter().flatten() {
        // What is not listed can be asked for by its number, too.
        let inside = match scope["variables"].is_null() {
            true => format!(" [{}]", word(&scope["variablesReference"])),
            false => String::new(),
        };
        let _ = writeln!(below, "{}{inside}", word(&scope["name"]));
        below += &list(&scope["variables"], "  ");
    }
    (place, below)
}

/// What a process wrote; lines of stderr begin with `!`.
fn output(row: &Value) -> (String, String) {
    let mut parts: Vec<(&Value, String)> = Vec::new();
    for part in row["output"].as_array().into_iter().flatten() {
        let (category, text) = (&part["category"], part["output"].as_str());
        let text = text.unwrap_or_default();
        // A line may come in several parts.
        match parts.last_mut() {
            Some((last, so_far)) if *last == category => so_far.push_str(text),
            _ => parts.push((category, text.to_owned())),
        }
    }
    let mut below = String::new();
    for (category, text) in parts {
        let sign = if category == "stderr" { "! " } else { "" };
        for line in lines(&Value::String(text)) {
            let _ = writeln!(below, "{sign}{line}");
        }
    }
    let more = if below.is_empty() {
        " has written nothing"
    } else {
        ""
    };
    (more.to_owned(), below)
}

fn breakpoints(list: &[Value]) -> String {
    let mut lines = vec![["ID", "WHERE", "WHEN", "SESSIONS", "STATE"].map(str::to_owned)];
    for breakpoint in list {
        let mut when = Vec::new();
        for (key, before) in [
            ("condition", "if "),
            ("hitCondition", "hit "),
            ("logMessage", "log "),
        ] {
            let text = word(&breakpoint[key]);
            if !text.is_empty() {
                when.push(format!("{before}{text}"));
            }
        }
        if breakpoint["once"] == true {
            when.push("once".to_owned());
        }
        let mut state = match breakpoint["verified"] == true {
            true => "verified".to_owned(),
            false => "not verified".to_owned(),
        };
        if !breakpoint["message"].is_null() {
            state = format!("{state}: {}", word(&breakpoint["message"]));
        }
        lines.push([
            word(&breakpoint["id"]),
            format!(
                "{}:{}",
                word(&breakpoint["file"]),
                word(&breakpoint["line"])
            ),
            when.join(", "),
            word(&breakpoint["sessions"]),
            state,
        ]);
    }
    table(&lines)
}

/// One thing with its fields, what it is called first.
fn fields(answer: &Map<String, Value>) -> String {
    let first = |key: &str| {
        ["name", "id", "pid", "state"]
            .iter()
            .position(|name| *name == key)
    };
    let mut fields: Vec<_> = answer.iter().collect();
    fields.sort_by_key(|(key, _)| (first(key).unwrap_or(usize::MAX), *key));
    let line = |(key, value): (&String, &Value)| [printable(key), word(value)];
    let lines = fields.into_iter().map(line);
    table(
        &lines
            .filter(|[_, value]| !value.is_empty())
            .collect::<Vec<_>>(),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A row of a process that did what it was asked.
    fn row(pid: u32, name: &str, more: Value) -> Value {
        let mut row =
            json!({"session": format!("s{pid}"), "pid": pid, "name": name, "success": true});
        for (key, value) in more.as_object().unwrap() {
            row[key] = value.clone();
        }
        row
    }

    fn failed(pid: u32, name: &str, message: &str) -> Value {
        row(pid, name, json!({"success": false, "message": message}))
    }

    #[test]
    fn few_that_were_asked() {
        let text = show(
            "evaluate",
            &json!({"rows": [
                row(41, "train.py", json!({"result": "0.31", "type": "float", "odd": false})),
                row(42, "worker-1", json!({"result": "array([[1, 2],\n       [3, 4]])", "odd": true})),
                row(1043, "worker-2\u{1b}[2J", json!({"result": "0.31", "message": "another thread was asked"})),
                failed(44, "worker-3", "name 'loss' is not defined"),
                failed(45, "worker-4", "name 'loss' is not defined"),
                failed(46, "worker-5", "Traceback:\n  x.py\u{7}"),
            ], "values": []}),
        );
        assert_eq!(
            text,
            "\
train.py      41    0.31
worker-1      42    array([[1, 2],                   <- odd
                           [3, 4]])
worker-2\u{fffd}[2J  1043  0.31 (another thread was asked)
worker-3, -4: name 'loss' is not defined
worker-5: Traceback:
    x.py\u{fffd}
"
        );
    }

    #[test]
    fn many_that_were_asked() {
        let mut rows: Vec<Value> = (1..=16)
            .map(|n| {
                let lock = format!("<Lock at {n:#x}>");
                let (result, odd) = match n {
                    3 | 11 => ("'late'", true),
                    7 => ("array([[1, 2],\n       [3, 4]])", true),
                    _ => (lock.as_str(), false),
                };
                row(
                    100 + n,
                    &format!("ForkPoolWorker-{n}"),
                    json!({"result": result, "odd": odd}),
                )
            })
            .collect();
        rows.push(failed(99, "train.py", "it is stopped"));
        let text = show("evaluate", &json!({ "rows": rows }));
        assert_eq!(
            text,
            "\
13 × <Lock>                   ForkPoolWorker-1, -2, -4…-6, -8…-10, -12…-16 (13)
 2 × 'late'           <- odd  ForkPoolWorker-3, -11
 1 × array([[1, 2],   <- odd  ForkPoolWorker-7
            [3, 4]])
train.py: it is stopped
"
        );
    }

    #[test]
    fn how_processes_run_and_stop() {
        let text = show(
            "pause",
            &json!({"rows": [
                row(41, "train.py", json!({"state": "stopped", "stopped":
                    {"thread": 1, "reason": "pause", "file": "/x/train.py", "line": 12}})),
                row(42, "worker-1", json!({"state": "running", "stopped": null,
                    "message": "it has not stopped yet"})),
            ]}),
        );
        assert_eq!(
            text,
            "\
train.py  41  stopped /x/train.py:12 pause
worker-1  42  running (it has not stopped yet)
"
        );
    }

    #[test]
    fn many_that_run() {
        let rows: Vec<Value> = (0..64)
            .map(|n| {
                row(
                    n,
                    &format!("rank{n}"),
                    json!({"state": "running", "stopped": null}),
                )
            })
            .collect();
        let rows = json!({ "rows": rows });
        assert_eq!(show("continue", &rows), "64 × running  rank0…63 (64)\n");
        assert_eq!(show("terminate", &rows), "64 × terminated  rank0…63 (64)\n");
        let one = json!({"rows": [row(1, "a", json!({}))]});
        assert_eq!(show("detach", &one), "a  1  detached\n");
    }

    #[test]
    fn the_threads_of_processes() {
        let text = show(
            "threads",
            &json!({"rows": [
                row(41, "train.py", json!({"threads": [
                    {"id": 1, "name": "MainThread", "state": "stopped"},
                    {"id": 12, "name": "Thread-1 (feed)", "state": "running"}]})),
                failed(43, "worker-2", "it is held"),
                row(44, "worker-3", json!({"threads": []})),
                row(42, "worker-1", json!({"threads": [
                    {"id": 1, "name": "MainThread", "state": "running"}]})),
            ]}),
        );
        assert_eq!(
            text,
            "\
NAME      PID  THREAD           STATE    ID
train.py  41   MainThread       stopped  1
               Thread-1 (feed)  running  12
worker-3  44
worker-1  42   MainThread       running  1
worker-2: it is held
"
        );
    }

    #[test]
    fn the_variables_of_processes() {
        let text = show(
            "variables",
            &json!({"rows": [
                row(41, "train.py", json!({
                    "frame": {"name": "loop", "path": "/x/train.py", "line": 12},
                    "scopes": [
                        {"name": "Locals", "variables": [
                            {"name": "special variables", "value": "", "type": "", "variablesReference": 8},
                            {"name": "loss", "value": "0.31", "type": "float", "variablesReference": 0},
                            {"name": "batch", "value": "[1, 2]", "type": "list", "variablesReference": 9}]},
                        {"name": "Globals", "variablesReference": 12}]})),
                row(42, "worker-1", json!({"variables": [
                    {"name": "0", "value": "array([[1],\n       [2]])", "type": "ndarray", "variablesReference": 3}]})),
            ]}),
        );
        assert_eq!(
            text,
            "\
train.py (41) in loop /x/train.py:12
  Locals
    special variables            [8]
    loss: float        = 0.31
    batch: list        = [1, 2]  [9]
  Globals [12]
worker-1 (42)
  0: ndarray  = array([[1],  [3]
                     [2]])
"
        );
    }

    #[test]
    fn the_output_of_processes() {
        let text = show(
            "output",
            &json!({"rows": [
                row(41, "train.py", json!({"output": [
                    {"category": "stdout", "output": "step"},
                    {"category": "stdout", "output": " 1\n 10%\r 20%\r\n\ta\u{1b}[2J\n"},
                    {"category": "stderr", "output": "late\n"}]})),
                row(42, "worker-1", json!({"output": []})),
                row(43, "worker-2", json!({"output": [], "message": "none is kept"})),
                row(44, "worker-3", json!({"output": [], "message": "none is kept"})),
                failed(45, "worker-4", "no answer"),
            ]}),
        );
        assert_eq!(
            text,
            "\
train.py (41)
  step 1
   20%
      a\u{fffd}[2J
  ! late
worker-1 (42) has written nothing
worker-2, -3: none is kept
worker-4: no answer
"
        );
    }

    #[test]
    fn a_new_breakpoint() {
        let text = show(
            "breakpoints.add",
            &json!({
                "breakpoint": {"id": 3, "file": "/x/train.py", "line": 12, "condition": "loss > 3",
                    "hitCondition": null, "logMessage": null, "sessions": "all", "once": true, "verified": true},
                "rows": [
                    row(41, "train.py", json!({"verified": true, "line": 13})),
                    row(42, "worker-1", json!({"verified": false, "line": 12, "message": "no such file"})),
                ],
            }),
        );
        assert_eq!(
            text,
            "\
ID  WHERE           WHEN               SESSIONS  STATE
3   /x/train.py:12  if loss > 3, once  all       verified
train.py  41  verified in line 13
worker-1  42  not verified (no such file)
"
        );
    }

    #[test]
    fn a_breakpoint_for_processes_to_come() {
        let breakpoint =
            json!({"id": 1, "file": "a.py", "line": 2, "sessions": "all", "verified": false});
        assert_eq!(
            show(
                "breakpoints.add",
                &json!({"breakpoint": breakpoint, "rows": []})
            ),
            show("breakpoints.list", &json!({"breakpoints": [breakpoint]})),
        );
    }

    #[test]
    fn breakpoints_that_are_or_were_there() {
        let list = json!([
            {"id": 3, "file": "/x/train.py", "line": 12, "condition": null, "hitCondition": "2",
             "logMessage": "at {step}", "sessions": "rank=0", "once": false, "verified": true},
            {"id": 12, "file": "b.py", "line": 1, "sessions": "all", "once": false, "verified": false,
             "message": "no process has this file"},
        ]);
        let text = show("breakpoints.list", &json!({ "breakpoints": list }));
        assert_eq!(
            show("breakpoints.remove", &json!({ "removed": list })),
            format!("Removed:\n{text}")
        );
        assert_eq!(
            text,
            "\
ID  WHERE           WHEN                  SESSIONS  STATE
3   /x/train.py:12  hit 2, log at {step}  rank=0    verified
12  b.py:1                                all       not verified: no process has this file
"
        );
    }

    #[test]
    fn one_session() {
        let text = show(
            "session",
            &json!({"session": {"id": "3fa8", "pid": 41, "parent": null, "name": "train.py", "state": "stopped",
                "labels": {"rank": "0"}, "helper": false, "argv": ["python", "train.py"],
                "stopped": {"thread": 1, "reason": "pause", "file": "/x/train.py", "line": 12}}}),
        );
        assert_eq!(
            text,
            "\
name     train.py
id       3fa8
pid      41
state    stopped
argv     python train.py
helper   false
labels   rank=0
stopped  file=/x/train.py line=12 reason=pause thread=1
"
        );
    }

    #[test]
    fn nothing_is_a_sentence() {
        for verb in [
            "pause",
            "threads",
            "stacks",
            "evaluate",
            "variables",
            "output",
            "detach",
        ] {
            let answer = json!({"rows": [], "stacks": [], "values": []});
            assert_eq!(show(verb, &answer), NOBODY, "{verb}");
        }
        assert_eq!(show("sessions", &json!({"sessions": []})), NOBODY);
        for (verb, key, said) in [
            ("breakpoints.list", "breakpoints", "No breakpoint is set.\n"),
            (
                "breakpoints.remove",
                "removed",
                "No breakpoint was removed.\n",
            ),
        ] {
            assert_eq!(show(verb, &json!({ key: [] })), said);
        }
    }

    #[test]
    fn what_has_no_look_is_shown_as_it_came() {
        let answer = json!({"a": ["\u{202e}"]});
        for verb in ["monitor", "evaluate", "stacks", "sessions"] {
            assert_eq!(
                show(verb, &answer),
                "{\n  \"a\": [\n    \"\u{fffd}\"\n  ]\n}\n"
            );
        }
    }
}
