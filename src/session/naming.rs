//! What people call a process: the name and the labels that its report gives, and when it is asked again.
//!
//! Some names come late: multiprocessing names the processes that it spawns, and pytest-xdist its workers, when their
//! Python has long begun. Numbers for several of one name are the hub's.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::requests::Pending;
use super::{Report, Session, Stage};
use crate::client::FromSession;
use crate::wire::{Message, Outbox};

/// When a process without a name is asked for it again, counted from its release; after the last time no more.
pub const ASK_AGAIN: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(4),
    Duration::from_secs(16),
];

/// The most characters of a name; what is longer is cut there.
pub const MAX_NAME: usize = 256;

impl Report {
    /// What people call the process.
    pub(super) fn session_name(&self, pid: u32) -> String {
        let rank = self.variable("RANK").or(self.variable("LOCAL_RANK"));
        let process = self.process_name();
        // What a rank starts has the rank's environment.
        let rank = rank.map(|rank| match process {
            Some(process) => format!("rank {rank} · {process}"),
            None => format!("rank {rank}"),
        });
        let given = self.given_name().map(str::to_owned);
        let name = given
            .or(rank)
            .or_else(|| process.map(str::to_owned))
            .or_else(|| self.worker_name())
            .or_else(|| self.script_name().map(str::to_owned))
            .unwrap_or_else(|| format!("process {pid}"));
        match name.char_indices().nth(MAX_NAME) {
            Some(_) => name.chars().take(MAX_NAME - 1).chain(['…']).collect(),
            None => name,
        }
    }

    /// What selectors can ask for.
    pub(super) fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = BTreeMap::new();
        let known = [
            ("rank", "RANK"),
            ("local_rank", "LOCAL_RANK"),
            ("world_size", "WORLD_SIZE"),
            ("worker", "PYTEST_XDIST_WORKER"),
        ];
        for (label, variable) in known {
            if let Some(value) = self.variable(variable) {
                labels.insert(label.to_owned(), value.to_owned());
            }
        }
        for pair in self
            .variable("DBGPROXY_LABELS")
            .unwrap_or_default()
            .split(',')
        {
            if let Some((key, value)) = pair.split_once('=') {
                labels.insert(key.trim().to_owned(), value.trim().to_owned());
            }
        }
        labels
    }

    /// Whether a better name may come: neither the user nor the process itself has given one.
    fn is_unnamed(&self) -> bool {
        self.given_name().is_none()
            && self.process_name().is_none()
            && self.worker_name().is_none()
            && self.script_name().is_none()
    }

    /// The user's name for it.
    fn given_name(&self) -> Option<&str> {
        self.variable("DBGPROXY_NAME")
            .filter(|name| !name.is_empty())
    }

    /// Multiprocessing's name for it.
    fn process_name(&self) -> Option<&str> {
        let name = self.name.as_deref().filter(|name| *name != "MainProcess");
        name.or(self.helper.as_deref())
    }

    /// The name of a worker of pytest-xdist, and of the test that it runs.
    fn worker_name(&self) -> Option<String> {
        let worker = self.variable("PYTEST_XDIST_WORKER")?;
        let test = self.variable("PYTEST_CURRENT_TEST").and_then(test_name);
        Some(match test {
            Some(test) => format!("{worker} · {test}"),
            None => worker.to_owned(),
        })
    }

    /// The file that it runs; of a package that is run with `-m`, the package.
    fn script_name(&self) -> Option<&str> {
        let script = self.script.as_deref();
        let script = script.filter(|script| !matches!(*script, "" | "-" | "-c" | "-m"))?;
        let mut parts = script.rsplit(['/', '\\']).filter(|part| !part.is_empty());
        let last = parts.next().unwrap_or(script);
        match parts.next() {
            Some(package) if last == "__main__.py" => Some(package),
            _ => Some(last),
        }
    }
}

/// The function in what pytest says of the current test: `path::Class::function[parameters] (stage)`.
fn test_name(current: &str) -> Option<&str> {
    let (_, test) = current.split_once("::")?;
    // Parameters may hold anything, also what else stands around them.
    let test = test.split_once('[').map_or(test, |(test, _)| test);
    let test = test.rsplit("::").next().unwrap_or(test);
    let test = test.rsplit_once(" (").map_or(test, |(test, _)| test);
    Some(test).filter(|test| !test.is_empty())
}

/// What is asked of a process for its name's sake.
#[derive(Default)]
pub(super) struct Naming {
    /// When user code was released.
    released: Option<Instant>,
    /// How many of the times in [`ASK_AGAIN`] have passed.
    passed: usize,
    /// It owes an answer; it is never asked twice at a time.
    asked: bool,
    /// Something has happened since it was asked: it is to be asked once more.
    again: bool,
}

impl Naming {
    /// User code runs from now on.
    pub(super) fn released() -> Naming {
        Naming {
            released: Some(Instant::now()),
            ..Naming::default()
        }
    }
}

impl Session {
    /// The process says anew who it is, by its guard.
    pub(super) fn on_report_event(&mut self, event: &Message, out: &mut Outbox) {
        let Ok(fresh) = Report::read(event) else {
            tracing::warn!(session = %self.handle.id, "a report of the guard cannot be read");
            return;
        };
        self.on_report(fresh, out);
    }

    /// The process says anew who it is.
    pub(super) fn on_report(&mut self, fresh: Report, out: &mut Outbox) {
        // What else it says was settled when it was greeted; null is what it does not know.
        let report = &mut self.caller.report;
        report.name = fresh.name.or(report.name.take());
        report.script = fresh.script.or(report.script.take());
        report.environment = fresh.environment.or(report.environment.take());
        self.name_anew();
        self.scope_changed(out);
    }

    /// Gives the session the name and the labels of its report; its clients are told if they are new.
    pub(super) fn name_anew(&mut self) {
        let report = &self.caller.report;
        let (name, labels) = (report.session_name(self.caller.pid), report.labels());
        if !self.hub.rename(&self.handle, &name, labels) {
            return;
        }
        let name = self.handle.info().name.clone();
        tracing::info!(session = %self.handle.id, name, "process has another name or other labels");
        for watcher in &self.watchers {
            // It is a hint only, which a process must not flood a client with.
            if !watcher.client.lags() {
                watcher.client.tell(self.handle.id, FromSession::Renamed);
            }
        }
    }

    /// When to ask for a name that may come.
    pub(super) fn naming_until(&self) -> Option<Instant> {
        let report = &self.caller.report;
        let may_come = self.stage == Stage::Released && report.has_come() && report.is_unnamed();
        let wait = ASK_AGAIN.get(self.naming.passed).filter(|_| may_come)?;
        Some(self.naming.released? + *wait)
    }

    /// Asks for it when it is time.
    pub(super) fn look_for_name(&mut self, out: &mut Outbox) {
        if self
            .naming_until()
            .is_some_and(|until| until <= Instant::now())
        {
            self.naming.passed += 1;
            self.ask_name(out);
        }
    }

    /// A worker of pytest-xdist has stopped, in another test than the last time.
    pub(super) fn ask_test(&mut self, out: &mut Outbox) {
        let report = &self.caller.report;
        if report.has_come() && report.variable("PYTEST_XDIST_WORKER").is_some() {
            self.ask_name(out);
        }
    }

    fn ask_name(&mut self, out: &mut Outbox) {
        self.naming.again = self.naming.asked;
        if !self.naming.asked {
            self.naming.asked = true;
            let tell = "__import__('_dbgproxy').tell()";
            let arguments = json!({ "expression": tell, "context": "watch" });
            self.ask(Message::request("evaluate", arguments), Pending::Name, out);
        }
    }

    /// The process has answered; its report came before.
    pub(super) fn on_name_asked(&mut self, out: &mut Outbox) {
        self.naming.asked = false;
        if self.naming.again {
            self.ask_name(out);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn report(name: Value, script: &str, environment: Value) -> Report {
        let report = json!({ "name": name, "script": script, "environment": environment });
        serde_json::from_value(report).expect("a report")
    }

    #[test]
    fn names() {
        let test = "tests/test_a.py::test_x[a::b (c)] (call)";
        for (name, script, environment, expected) in [
            (json!(null), "/srv/train.py", json!({}), "train.py"),
            (json!("MainProcess"), "C:\\train.py", json!({}), "train.py"),
            (json!(null), "-c", json!({}), "process 7"),
            (json!(null), "", json!(null), "process 7"),
            (json!(null), "-", json!({}), "process 7"),
            (
                json!("SpawnProcess-1"),
                "train.py",
                json!({}),
                "SpawnProcess-1",
            ),
            (
                json!(null),
                "train.py",
                json!({ "RANK": "3", "LOCAL_RANK": "1" }),
                "rank 3",
            ),
            (
                json!("MainProcess"),
                "train.py",
                json!({ "LOCAL_RANK": "1" }),
                "rank 1",
            ),
            (
                json!("loader"),
                "train.py",
                json!({ "RANK": "3" }),
                "rank 3 · loader",
            ),
            (
                json!("loader"),
                "a.py",
                json!({ "RANK": "3", "DBGPROXY_NAME": "me" }),
                "me",
            ),
            (json!(null), "a.py", json!({ "DBGPROXY_NAME": "" }), "a.py"),
            (
                json!(null),
                "-c",
                json!({ "PYTEST_XDIST_WORKER": "gw1" }),
                "gw1",
            ),
            (
                json!("MainProcess"),
                "-c",
                json!({ "PYTEST_XDIST_WORKER": "gw1", "PYTEST_CURRENT_TEST": test }),
                "gw1 · test_x",
            ),
            (
                json!(null),
                "a.py",
                json!({ "PYTEST_CURRENT_TEST": test }),
                "a.py",
            ),
        ] {
            let report = report(name, script, environment);
            assert_eq!(report.session_name(7), expected, "{report:?}");
        }
        let long = report(json!("ä".repeat(MAX_NAME + 1)), "", json!({}));
        let name = long.session_name(7);
        assert!(name.ends_with("ä…") && name.chars().count() == MAX_NAME);
        let longest = report(json!("ä".repeat(MAX_NAME)), "", json!({}));
        assert!(!longest.session_name(7).ends_with('…'));
    }

    #[test]
    fn helpers_are_called_what_they_are() {
        let mut report = report(json!("MainProcess"), "-c", json!({ "RANK": "3" }));
        report.helper = Some("forkserver".into());
        assert_eq!(report.session_name(7), "rank 3 · forkserver");
        report.environment = None;
        assert_eq!(report.session_name(7), "forkserver");
    }

    #[test]
    fn tests() {
        for (current, expected) in [
            ("tests/test_a.py::test_x (setup)", Some("test_x")),
            (
                "tests/test_a.py::TestIt::test_x[1-(2)] (call)",
                Some("test_x"),
            ),
            ("test_a.py::test_x[a::b [c] (d)] (teardown)", Some("test_x")),
            ("test_a.py::test_x", Some("test_x")),
            ("README.md::README.md (call)", Some("README.md")),
            ("nothing of the kind", None),
            ("test_a.py:: (call)", None),
            ("", None),
        ] {
            assert_eq!(test_name(current), expected, "{current}");
        }
    }

    #[test]
    fn a_name_of_a_processs_own_is_not_asked_for_again() {
        let ranked = json!({ "RANK": "3" });
        assert!(report(json!(null), "-c", ranked.clone()).is_unnamed());
        assert!(report(json!("MainProcess"), "", json!({})).is_unnamed());
        assert!(!report(json!("loader"), "-c", ranked).is_unnamed());
        assert!(!report(json!(null), "a.py", json!({})).is_unnamed());
        assert!(!report(json!(null), "-c", json!({ "DBGPROXY_NAME": "me" })).is_unnamed());
        assert!(!report(json!(null), "-c", json!({ "PYTEST_XDIST_WORKER": "gw0" })).is_unnamed());
    }
}
