//! `dbgproxy sessions`: the daemon's list of sessions, as a table for people or as it came.

use std::collections::HashMap;
use std::fmt::Write;
use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;
use serde::de::IgnoredAny;
use tokio::time::{Instant, sleep_until};

use super::http::{Daemon, encode};
use super::{Failure, put, talk};
use crate::selector::Selector;

/// How often `--watch` asks.
const PERIOD: Duration = Duration::from_secs(1);

/// To the upper left corner of an emptied terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The arguments of `sessions`.
#[derive(Debug, clap::Args)]
pub struct Sessions {
    /// Which sessions: pid=41, name=worker-*, rank=0..3, state=stopped, id=3fa8, label.KEY=VALUE;
    /// a comma is "and"
    #[arg(default_value = "all")]
    pub selector: Selector,

    /// Print the daemon's answer as it is
    #[arg(long)]
    pub json: bool,

    /// Go on until Ctrl-C: redraw the table, or with --json print a line whenever something changed
    #[arg(long)]
    pub watch: bool,

    /// Ended sessions too
    #[arg(long)]
    pub all: bool,

    /// Whom to ask.
    #[command(flatten)]
    pub daemon: Daemon,
}

impl Sessions {
    pub(super) fn run(self) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(async {
                if !self.watch {
                    return self.show().await;
                }
                tokio::select! {
                    ended = self.watch() => ended,
                    stop = tokio::signal::ctrl_c() => {
                        stop.context("cannot listen for Ctrl-C").map_err(Failure::from)
                    }
                }
            })
    }

    async fn show(&self) -> Result<(), Failure> {
        let (body, listing) = self.ask().await?;
        if self.json {
            return put(format_args!("{}\n", body.trim_end()));
        }
        put(listing.table(Timestamp::now()))?;
        if listing.sessions.is_empty() {
            talk("dbgproxy: no session is there that matches; --all lists ended ones too");
        }
        Ok(())
    }

    async fn watch(&self) -> Result<(), Failure> {
        let redraw = !self.json && io::stdout().is_terminal();
        let mut last = String::new();
        let mut next = Instant::now();
        loop {
            let (body, listing) = self.ask().await?;
            if redraw {
                put(format_args!("{CLEAR}{}", listing.table(Timestamp::now())))?;
            } else if body != last {
                if self.json {
                    // In JSON a line break is never inside a text, so that a space will do.
                    put(format_args!("{}\n", body.trim().replace(['\n', '\r'], " ")))?;
                } else {
                    put(format_args!("{}\n", listing.table(Timestamp::now())))?;
                }
                last = body;
            }
            next = Instant::now().max(next + PERIOD);
            sleep_until(next).await;
        }
    }

    /// The daemon's answer, as it came and as we read it.
    async fn ask(&self) -> Result<(String, Listing), Failure> {
        let body = self.daemon.get(&self.path()).await?;
        match serde_json::from_str(&body) {
            Ok(listing) => Ok((body, listing)),
            Err(_) => Err(self.daemon.not_dbgproxy()),
        }
    }

    fn path(&self) -> String {
        let selector = encode(&self.selector.to_string());
        let all = if self.all { "&all=true" } else { "" };
        format!("/api/v1/sessions?selector={selector}{all}")
    }
}

/// What the table needs of the answer of the verb `sessions`.
#[derive(Debug, Deserialize)]
struct Listing {
    sessions: Vec<Row>,
}

#[derive(Debug, Deserialize)]
struct Row {
    id: String,
    pid: u32,
    parent: Option<String>,
    name: String,
    state: String,
    stopped: Option<Stopped>,
    started: Option<String>,
    /// A code or the name of a signal; anything else is not shown.
    exit: Option<serde_json::Value>,
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
    fn table(&self, now: Timestamp) -> String {
        let mut lines =
            vec![["ID", "PID", "NAME", "STATE", "CLIENTS", "STARTED", "WHERE"].map(String::from)];
        for (depth, row) in self.tree() {
            lines.push(row.cells(depth, now).map(|cell| printable(&cell)));
        }
        let mut widths = [0; 7];
        for line in &lines {
            for (width, cell) in widths.iter_mut().zip(line) {
                *width = cell.chars().count().max(*width);
            }
        }
        let mut text = String::new();
        for line in &lines {
            let start = text.len();
            for (width, cell) in widths.iter().zip(line) {
                let _ = write!(text, "{cell:width$}  ");
            }
            text.truncate(start + text[start..].trim_end().len());
            text.push('\n');
        }
        text
    }

    /// Every row with its depth, children behind their parents, otherwise in the daemon's order.
    fn tree(&self) -> Vec<(usize, &Row)> {
        let places: HashMap<&str, usize> = self
            .sessions
            .iter()
            .enumerate()
            .map(|(at, row)| (row.id.as_str(), at))
            .collect();
        let mut children: Vec<Vec<usize>> = vec![Vec::new(); self.sessions.len()];
        let mut roots = Vec::new();
        for (at, row) in self.sessions.iter().enumerate() {
            match row.parent.as_deref().and_then(|parent| places.get(parent)) {
                Some(parent) => children[*parent].push(at),
                // The parent may be ended, or not selected.
                None => roots.push(at),
            }
        }
        // Behind the roots all others once more: those that are nobody's descendant, should the
        // daemon ever tell of parents in a circle.
        let mut waiting: Vec<(usize, usize)> = roots
            .into_iter()
            .chain(0..self.sessions.len())
            .map(|at| (0, at))
            .rev()
            .collect();
        let mut seen = vec![false; self.sessions.len()];
        let mut tree = Vec::with_capacity(self.sessions.len());
        while let Some((depth, at)) = waiting.pop() {
            if std::mem::replace(&mut seen[at], true) {
                continue;
            }
            tree.push((depth, &self.sessions[at]));
            waiting.extend(children[at].iter().rev().map(|child| (depth + 1, *child)));
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
        match &self.exit {
            Some(serde_json::Value::Number(code)) => format!("exit {code}"),
            Some(serde_json::Value::String(text)) => format!("exit {text}"),
            _ => String::new(),
        }
    }
}

/// The time from `text` (RFC 3339) to `now`, in its two largest units.
fn since(text: &str, now: Timestamp) -> String {
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

/// Names and files come from debugged programs: they must not reach the terminal as commands to it.
fn printable(text: &str) -> String {
    text.chars()
        .map(|c| {
            if c.is_control() {
                char::REPLACEMENT_CHARACTER
            } else {
                c
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::http::tests::{answer, scripted};
    use super::*;

    fn sessions(daemon: Daemon) -> Sessions {
        let selector = "worker-*,state=stopped".parse().unwrap();
        Sessions {
            selector,
            json: false,
            watch: false,
            all: true,
            daemon,
        }
    }

    #[tokio::test]
    async fn asks_the_verb() {
        let (daemon, asked) = scripted(answer("200 OK", r#"{"sessions":[],"more":1}"#)).await;
        let (body, listing) = sessions(daemon).ask().await.unwrap();
        assert_eq!(body, r#"{"sessions":[],"more":1}"#);
        assert!(listing.sessions.is_empty());
        let asked = asked.await.unwrap();
        let path = "GET /api/v1/sessions?selector=name%3Dworker-%2A%2Cstate%3Dstopped&all=true ";
        assert!(asked.starts_with(path), "{asked}");
    }

    #[tokio::test]
    async fn another_http_server_is_no_daemon() {
        let (daemon, _asked) = scripted(answer("200 OK", "<html>")).await;
        assert!(matches!(
            sessions(daemon).ask().await,
            Err(Failure::NoDaemon(_))
        ));
    }

    #[test]
    fn a_table_for_people() {
        let listing: Listing = serde_json::from_str(
            r#"{"sessions": [
                {"id": "3fa85f64-5717-4562-b3fc-2c963f66afa6", "pid": 41, "name": "train.py",
                 "parent": null, "state": "running", "stopped": null, "clients": 2, "labels": {},
                 "started": "2026-01-02T03:04:05.678Z"},
                {"id": "00000000-0000-0000-0000-000000000003", "pid": 7, "name": "lost\u001b[2J",
                 "parent": "ffffffff-0000-0000-0000-000000000000", "state": "ended", "exit": 137},
                {"id": "00000000-0000-0000-0000-000000000001", "pid": 1234567, "name": "worker-0",
                 "parent": "3fa85f64-5717-4562-b3fc-2c963f66afa6", "state": "stopped",
                 "clients": [{"id": 1}], "started": "2026-01-02T03:07:00Z",
                 "stopped": {"thread": 1, "reason": "breakpoint", "file": "/x/train.py", "line": 12}}
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
"
        );
    }

    #[test]
    fn parents_in_a_circle_are_shown_once() {
        let row = |id: &str, parent: &str| {
            format!(
                r#"{{"id":"{id}","pid":1,"name":"{id}","state":"running","parent":"{parent}"}}"#
            )
        };
        let text = format!(
            r#"{{"sessions":[{},{},{},{}]}}"#,
            row("a", "b"),
            row("b", "a"),
            row("c", "c"),
            row("d", "none")
        );
        let listing: Listing = serde_json::from_str(&text).unwrap();
        let tree: Vec<_> = listing
            .tree()
            .iter()
            .map(|(depth, row)| (*depth, row.id.as_str()))
            .collect();
        assert_eq!(tree, [(0, "d"), (0, "a"), (1, "b"), (0, "c")]);
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
