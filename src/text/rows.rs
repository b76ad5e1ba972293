//! The rows that most verbs answer, one a process: who says what, and who could not.
//!
//! Knows nothing of single verbs.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::fmt::Write;

use serde_json::Value;

use super::names::{Labels, compress};
use super::{lines, table, word};
use crate::compare::without_addresses;

/// How many processes are shown with a line each; of more, equal ones are one line.
const MAX_LINES: usize = 8;

/// What is said where there is nothing to show.
pub(super) const NOBODY: &str = "No session is there that matches.\n";

/// The rows of an answer, one a process.
pub(super) struct Rows<'a> {
    /// Those that did what they were asked.
    pub(super) done: Vec<&'a Value>,
    failed: Vec<&'a Value>,
    /// What to call them.
    pub(super) labels: Labels,
}

impl<'a> Rows<'a> {
    pub(super) fn of(answer: &'a Value) -> Option<Rows<'a>> {
        let rows = answer["rows"].as_array()?;
        let (done, failed) = rows.iter().partition(|row| row["success"] != false);
        let named = rows.iter().map(|row| (&row["session"], word(&row["name"])));
        let labels = Labels::new(named);
        Some(Rows {
            done,
            failed,
            labels,
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.done.is_empty() && self.failed.is_empty()
    }

    fn label(&self, row: &Value) -> String {
        let pid = row["pid"].as_u64().unwrap_or_default();
        self.labels.of(&word(&row["name"]), pid)
    }

    /// What each process says; of many, what several say is one line.
    pub(super) fn say(&self, what: impl Fn(&Value) -> String) -> String {
        let what = |row: &Value| match &row["message"] {
            Value::Null => what(row),
            remark => format!("{} ({})", what(row), lines(remark).join(" ")),
        };
        let said = match self.done.len() > MAX_LINES {
            true => self.groups(what),
            false => {
                let line = |row: &&Value| {
                    let odd = if row["odd"] == true { "<- odd" } else { "" };
                    let (name, pid) = (word(&row["name"]), word(&row["pid"]));
                    [name, pid, what(row), odd.to_owned()]
                };
                table(&self.done.iter().map(line).collect::<Vec<_>>())
            }
        };
        said + &self.rest()
    }

    /// The most frequent first: how many, what, whether it is odd, and who.
    fn groups(&self, what: impl Fn(&Value) -> String) -> String {
        let mut groups: Vec<(String, Vec<&Value>)> = Vec::new();
        let mut places = HashMap::new();
        for row in &self.done {
            let what = what(row);
            let key = without_addresses(&what).into_owned();
            let place = *places.entry(key.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                None => groups.push((what, vec![row])),
                Some((said, rows)) => {
                    rows.push(row);
                    if *said != what {
                        *said = key;
                    }
                }
            }
        }
        groups.sort_by_key(|(_, rows)| Reverse(rows.len()));
        let width = groups.first().map_or(1, |(_, rows)| digits(rows.len()));
        let line = |(what, rows): (String, Vec<&Value>)| {
            let is_odd = rows.iter().any(|row| row["odd"] == true);
            let odd = if is_odd { "<- odd" } else { "" };
            let count = format!("{:width$} ×", rows.len());
            // So that the text stands beside the sign, and not a column away from it.
            let what = what.lines().collect::<Vec<_>>();
            let below = format!("\n{}", " ".repeat(count.chars().count() + 1));
            let who: Vec<String> = rows.iter().map(|row| self.label(row)).collect();
            [
                format!("{count} {}", what.join(&below)),
                odd.to_owned(),
                compress(&who),
            ]
        };
        table(&groups.into_iter().map(line).collect::<Vec<_>>())
    }

    /// Each process with a heading, and what is to be said of it below. Of those of which there is nothing but a
    /// remark, equal ones are one line.
    pub(super) fn each(&self, what: impl Fn(&Value) -> (String, String)) -> String {
        let mut text = String::new();
        let mut remarks = Vec::new();
        for row in &self.done {
            let (more, below) = what(row);
            if below.is_empty() && !row["message"].is_null() {
                remarks.push(*row);
                continue;
            }
            let pid = word(&row["pid"]);
            let _ = writeln!(text, "{} ({pid}){more}", word(&row["name"]));
            for line in below.lines() {
                let _ = writeln!(text, "  {line}");
            }
        }
        text + &self.messages(&remarks) + &self.rest()
    }

    /// Who failed and why; or that nobody is there at all.
    pub(super) fn rest(&self) -> String {
        match self.is_empty() {
            true => NOBODY.to_owned(),
            false => self.messages(&self.failed),
        }
    }

    /// The messages of rows, each once and with who says it.
    fn messages(&self, rows: &[&Value]) -> String {
        let mut messages: Vec<(String, Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        for row in rows {
            let message = lines(&row["message"]).join("\n  ");
            let place = *places.entry(message.clone()).or_insert(messages.len());
            match messages.get_mut(place) {
                Some((_, who)) => who.push(self.label(row)),
                None => messages.push((message, vec![self.label(row)])),
            }
        }
        let line =
            |(message, who): (String, Vec<String>)| format!("{}: {message}\n", compress(&who));
        messages.into_iter().map(line).collect()
    }
}

/// How wide a number is.
pub(super) fn digits(number: usize) -> usize {
    number.to_string().len()
}
