//! The list of sessions as a table.

use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::{printable, table};
use crate::session::Order;

/// What the table needs of the answer of the verb `sessions`.
#[derive(Debug, Deserialize)]
pub(crate) struct Listing {
    sessions: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    pid: u32,
    name: String,
    state: String,
    /// Its place in the tree, in whose order the rows are.
    #[serde(default)]
    order: Order,
    stopped: Option<Stopped>,
    started: Option<String>,
    /// A code or the name of a signal; anything else is not shown.
    exit: Option<serde_json::Value>,
    /// By whom it was ended, in words.
    ending: Option<String>,
    clients: Option<Clients>,
}

#[derive(Debug, Deserialize)]
struct Stopped {
    reason: Option<String>,
    file: Option<String>,
    line: Option<u64>,
}

/// How many they are, or who.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    Count(u64),
    List(Vec<IgnoredAny>),
}

impl Listing {
    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// The sessions as a table; `now` is what their ages are told by.
    pub(crate) fn table(&self, now: Timestamp) -> String {
        let head = ["ID", "PID", "NAME", "STATE", "CLIENTS", "STARTED", "WHERE"];
        let mut lines = vec![head.map(String::from)];
        for (depth, row) in self.tree() {
            lines.push(row.cells(depth, now).map(|cell| printable(&cell)));
        }
        table(&lines)
    }

    /// Every row with its depth: how many of the rows are its ancestors.
    fn tree(&self) -> Vec<(usize, &Row)> {
        let mut above: Vec<&Order> = Vec::new();
        let mut tree = Vec::with_capacity(self.sessions.len());
        for row in &self.sessions {
            // Of those that came before only ancestors can be ancestors of what comes later.
            while above.pop_if(|order| !order.is_above(&row.order)).is_some() {}
            tree.push((above.len(), row));
            above.push(&row.order);
        }
        tree
    }
}

impl Row {
    fn cells(&self, depth: usize, now: Timestamp) -> [String; 7] {
        let clients = match &self.clients {
            None => "-".to_owned(),
            Some(Clients::Count(count)) => count.to_string(),
            Some(Clients::List(list)) => list.len().to_string(),
        };
        let started = self
            .started
            .as_deref()
            .map_or_else(|| "-".to_owned(), |text| since(text, now));
        [
            self.id.chars().take(8).collect(),
            self.pid.to_string(),
            format!("{}{}", "  ".repeat(depth), self.name),
            self.state.clone(),
            clients,
            started,
            self.place(),
        ]
    }

    /// Where it stopped and why, or how it ended.
    fn place(&self) -> String {
        if let Some(Stopped { reason, file, line }) = &self.stopped {
            let place = match (file, line) {
                (Some(file), Some(line)) => format!("{file}:{line} "),
                (Some(file), None) => format!("{file} "),
                (None, _) => String::new(),
            };
            return place + reason.as_deref().unwrap_or_default();
        }
        let exit = match &self.exit {
            Some(serde_json::Value::Number(code)) => Some(format!("exit {code}")),
            Some(serde_json::Value::String(text)) => Some(format!("exit {text}")),
            _ => None,
        };
        let parts: Vec<String> = exit.into_iter().chain(self.ending.clone()).collect();
        parts.join(", ")
    }
}

/// The time from `text` (RFC 3339) to `now`, in its two largest units.
pub(super) fn since(text: &str, now: Timestamp) -> String {
    let Ok(then) = text.parse::<Timestamp>() else {
        return "?".to_owned();
    };
    let seconds = now.duration_since(then).as_secs().max(0);
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86400);
    match () {
        () if days > 0 => format!("{days}d{}h", hours % 24),
        () if hours > 0 => format!("{hours}h{}m", minutes % 60),
        () if minutes > 0 => format!("{minutes}m{}s", seconds % 60),
        () => format!("{seconds}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_for_people() {
        let listing: Listing = serde_json::from_str(
            r#"{"sessions": [
                {"id": "3fa85f64-5717-4562-b3fc-2c963f66afa6", "pid": 41, "name": "train.py",
                 "order": [2], "state": "running", "stopped": null, "clients": 2, "labels": {},
                 "started": "2026-01-02T03:04:05.678Z"},
                {"id": "00000000-0000-0000-0000-000000000001", "pid": 1234567, "name": "worker-0",
                 "order": [2, 5], "state": "stopped",
                 "clients": [{"id": 1}], "started": "2026-01-02T03:07:00Z",
                 "stopped": {"thread": 1, "reason": "breakpoint", "file": "/x/train.py", "line": 12}},
                {"id": "00000000-0000-0000-0000-000000000003", "pid": 7, "name": "lost\u001b[2J",
                 "order": [1, 3], "state": "ended", "exit": 137},
                {"id": "00000000-0000-0000-0000-000000000004", "pid": 8, "name": "wsgi",
                 "order": [4], "state": "ended", "exit": 137, "ending": "ended by gunicorn"},
                {"id": "00000000-0000-0000-0000-000000000005", "pid": 9, "name": "wsgi",
                 "order": [5], "state": "ended", "exit": null, "ending": "ended by gunicorn"}
            ]}"#,
        )
        .unwrap();
        let now = "2026-01-02T03:07:18Z".parse().unwrap();
        assert_eq!(
            listing.table(now),
            "\
ID        PID      NAME        STATE    CLIENTS  STARTED  WHERE
3fa85f64  41       train.py    running  2        3m12s
00000000  1234567    worker-0  stopped  1        18s      /x/train.py:12 breakpoint
00000000  7        lost\u{fffd}[2J    ended    -        -        exit 137
00000000  8        wsgi        ended    -        -        exit 137, ended by gunicorn
00000000  9        wsgi        ended    -        -        ended by gunicorn
"
        );
    }

    #[test]
    fn a_row_is_indented_by_those_of_its_ancestors_that_are_shown() {
        let row = |name: &str, order: &str| {
            format!(
                r#"{{"id":"{name}","pid":1,"name":"{name}","state":"running","order":[{order}]}}"#
            )
        };
        let rows = [
            row("root", "1"),
            row("child", "1,2"),
            // Its parent, the third, is not among those selected.
            row("grandchild", "1,3,4"),
            row("another child", "1,5"),
            row("another root", "6"),
        ];
        let listing: Listing =
            serde_json::from_str(&format!(r#"{{"sessions":[{}]}}"#, rows.join(","))).unwrap();
        let tree = listing.tree();
        let depths: Vec<usize> = tree.iter().map(|(depth, _)| *depth).collect();
        assert_eq!(depths, [0, 1, 1, 1, 0]);
    }

    #[test]
    fn ages() {
        let now = "2026-01-10T00:00:00Z".parse().unwrap();
        for (text, age) in [
            ("2026-01-09T23:59:59.9Z", "0s"),
            ("2026-01-09T23:59:01Z", "59s"),
            ("2026-01-09T23:56:48Z", "3m12s"),
            ("2026-01-09T21:55:00Z", "2h5m"),
            ("2026-01-06T21:00:00Z", "3d3h"),
            ("2026-01-11T00:00:00Z", "0s"),
            ("yesterday", "?"),
        ] {
            assert_eq!(since(text, now), age, "{text}");
        }
    }
}
