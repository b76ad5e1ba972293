//! What the monitor costs a program: locks that are monitored, tasks that are stamped, and ten thousand of them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::children::{Prepared, Server};
use crate::{Effort, Goal, remark, report};

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/daemon/locks.py");

/// The most that monitoring may take in addition, in nanoseconds: what prototypes took on 3.11 to 3.13 that noted less.
const PATCHED: f64 = 240.0;
const REUSED: f64 = 430.0;
const NEW: f64 = 640.0;
const MULTIPROCESSING: f64 = 81.0;

/// Figures of one run of the program, by their names.
type Figures = Vec<(String, f64)>;

fn run(python: &Path, agent: &Path, what: &str, rounds: usize, more: &[(&str, &str)]) -> Figures {
    let output = Command::new(python)
        .args([PROGRAM, what, &rounds.to_string()])
        .env("PYTHONPATH", agent)
        .env_remove("DBGPROXY")
        .envs(more.iter().copied())
        .stderr(Stdio::inherit())
        .output()
        .expect("Python starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let pairs = text.lines().filter_map(|line| line.split_once(' '));
    let figures = pairs.filter_map(|(name, value)| Some((name.to_owned(), value.parse().ok()?)));
    figures.collect()
}

fn figure(figures: &Figures, name: &str) -> f64 {
    let found = figures.iter().find(|(each, _)| each == name);
    found.map_or(f64::NAN, |(_, value)| *value)
}

/// Nanoseconds that a lock takes in addition, of a pair of acquire and release; and the part of a core that is used.
pub fn locks(effort: Effort) {
    let agent = dbgproxy::agent::package::unpack().expect("the cache can be written to");
    let daemon = Server::daemon();
    let address = daemon.address.to_string();
    let rounds = effort.of(200, 60);
    for python in Prepared::all("locks") {
        let version = python.version();
        // Nobody listens there: what is measured is the locks.
        let on = [
            ("DBGPROXY", "127.0.0.1:1"),
            ("DBGPROXY_MONITOR", "locks,tasks+"),
        ];
        let figures = run(&python.interpreter, &agent, "locks", rounds, &on);
        for (what, bare, most) in [
            ("Lock,patched", "Lock,bare", PATCHED),
            ("RLock,patched", "RLock,bare", PATCHED),
            ("Lock,reused", "Lock,bare", REUSED),
            ("Lock,new", "Lock,bare", NEW),
        ] {
            let (taken, before) = (figure(&figures, what), figure(&figures, bare));
            report(
                &format!("{version}: {what}"),
                &format!("{taken:.0} ns"),
                &format!("{before:.0} ns bare"),
                (taken - before, "ns more"),
                Goal::AtMost(most),
            );
        }
        let (least, before) = (
            figure(&figures, "Lock,prototype"),
            figure(&figures, "Lock,bare"),
        );
        let text = format!("{least:.0} ns, {:.0} ns more", least - before);
        remark(&format!("{version}: the least wrapper in Python"), text);
        let plain = run(&python.interpreter, &agent, "others", rounds, &[]);
        let monitored = run(&python.interpreter, &agent, "others", rounds, &on);
        for (what, before) in &plain {
            let taken = figure(&monitored, what);
            let (name, more) = (format!("{version}: {what}"), taken - before);
            if what == "multiprocessing" {
                let (taken, before) = (format!("{taken:.0} ns"), format!("{before:.0} ns plain"));
                let goal = Goal::AtMost(MULTIPROCESSING);
                report(&name, &taken, &before, (more, "ns more"), goal);
            } else {
                let text = format!("{taken:.0} ns, {before:.0} ns plain, {more:.0} ns more");
                remark(&name, text);
            }
        }
        let on = [("DBGPROXY", &*address)];
        let many = figure(
            &run(&python.interpreter, &agent, "many", rounds, &on),
            "many",
        );
        report(
            &format!("{version}: a program with 10,000 tasks"),
            &format!("{many:.2} %"),
            "one sample a second",
            (many, "% of a core"),
            Goal::AtMost(1.0),
        );
    }
}
