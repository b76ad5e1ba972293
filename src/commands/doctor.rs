//! `dbgproxy doctor`: what on this machine stands between a program and its debugger, and what to do about it.
//!
//! It looks at everything by trying it. What it finds is data; whether that is well is decided in one place, [`Report`].

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde::Serialize;
use serde_json::json;
use tokio::process::Command;
use tokio::time::timeout;

use super::http::Daemon;
use super::python::{self, Interpreter};
use super::{Failure, amiss, env, put};
use crate::agent::package;
use crate::config::Address;
use crate::owner::current_uid;
use crate::server::Listeners;

/// How long whatever is at the port may take to say whether it is a daemon.
const PORT_WAIT: Duration = Duration::from_secs(5);

/// Succeeds where the agent has been loaded.
const LOADED: &str = "import sys; sys.exit('dbgproxy._agent' not in sys.modules)";

/// Where Linux says who may look into whom.
const PTRACE_SCOPE: &str = "/proc/sys/kernel/yama/ptrace_scope";

/// What no setting here changes.
const UNREACHABLE: &str = "not reached: Pythons started with -S; with -I or -E, unless `dbgproxy agent install` was run \
                           for them; and programs whose starter clears the environment";

/// The arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,

    /// Where a daemon is expected.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// What was found.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether programs can be debugged here.
    ok: bool,
    interpreters: Vec<Python>,
    port: Port,
    permissions: Permissions,
    unreachable: &'static str,
    findings: Vec<Finding>,
}

/// An interpreter that runs.
#[derive(Clone, Debug, Serialize)]
struct Python {
    path: PathBuf,
    version: String,
    /// Why it is of no use, if it is of none.
    unsupported: Option<String>,
    /// Its own debugpy's version.
    debugpy: Option<String>,
    /// The version of the copy in the cache.
    copy: Option<String>,
    /// Whether the agent is loaded by `dbgproxy run` and `env`.
    agent: bool,
    /// Whether it is under -I, too.
    isolated: bool,
}

/// What is at the daemon's address.
#[derive(Debug, Serialize)]
struct Port {
    address: Address,
    state: PortState,
    /// The daemon's version.
    version: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum PortState {
    /// A daemon.
    Daemon,
    /// Nothing, and a daemon can be there.
    Free,
    /// Something else.
    Taken,
    /// Nothing, and no daemon can be there.
    Unusable,
}

/// What injecting into a running process needs.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Permissions {
    user: u32,
    ptrace_scope: Option<u32>,
    debugger: Option<PathBuf>,
}

/// Something to know, with what to do about it.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Finding {
    level: Level,
    message: String,
    remedy: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// Nothing can be debugged.
    Error,
    /// Something cannot.
    Warning,
    /// Only for some purposes.
    Note,
}

impl Doctor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let report = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(self.examine());
        if self.json {
            put(format_args!("{:#}\n", json!(report)))?;
        } else {
            put(report.text())?;
        }
        if report.ok {
            return Ok(());
        }
        Err(Failure::Failed(anyhow!(
            "programs cannot be debugged here as it is"
        )))
    }

    async fn examine(&self) -> Report {
        let agent = package::unpack();
        let directory = agent.as_ref().ok().cloned();
        let mut broken = Vec::new();
        let mut interpreters = Vec::new();
        for found in python::find().await {
            match found {
                Ok(interpreter) => interpreters.push((interpreter, directory.clone())),
                Err(error) => broken.push(format!("{error:#}")),
            }
        }
        let look = |(interpreter, directory): (Interpreter, Option<PathBuf>)| async move {
            Python::of(&interpreter, directory.as_deref()).await
        };
        let interpreters = python::each(interpreters, look).await;
        let found = Found {
            agent: agent.err().map(|error| format!("{error:#}")),
            broken,
            interpreters,
            port: Port::at(&self.daemon).await,
            permissions: Permissions::here(),
            amiss: amiss(),
        };
        Report::on(found)
    }
}

impl Python {
    async fn of(interpreter: &Interpreter, agent: Option<&Path>) -> Python {
        let unsupported = interpreter.supported().err();
        let agent = agent.filter(|_| unsupported.is_none());
        Python {
            path: interpreter.path.clone(),
            version: interpreter.version(),
            unsupported,
            debugpy: interpreter.debugpy.clone(),
            copy: interpreter.copy().map(|copy| copy.version),
            agent: loads(interpreter, agent, &[]).await,
            isolated: loads(interpreter, agent, &["-I"]).await,
        }
    }

    fn can_be_debugged(&self) -> bool {
        self.unsupported.is_none() && self.agent && self.has_debugpy()
    }

    fn has_debugpy(&self) -> bool {
        self.debugpy.is_some() || self.copy.is_some()
    }
}

/// Whether the agent is loaded into an interpreter that is started with these options.
async fn loads(interpreter: &Interpreter, agent: Option<&Path>, options: &[&str]) -> bool {
    let Some(agent) = agent else { return false };
    // Nobody is there, so that no daemon hears of it.
    let nobody = Address::Unix(agent.join("nobody.sock"));
    let path = std::env::var_os("PYTHONPATH");
    let Ok(variables) = env::environment(&nobody, agent, path.as_deref()) else {
        return false;
    };
    let mut command = Command::new(&interpreter.path);
    command.args(options).args(["-c", LOADED]).envs(variables);
    let output = python::run(&mut command, python::ANSWER_WAIT).await;
    output.is_ok_and(|output| output.status.success())
}

impl Port {
    async fn at(daemon: &Daemon) -> Port {
        let nothing = json!({});
        let asking = daemon.call("info", &nothing, Duration::ZERO);
        let info = match timeout(PORT_WAIT, asking).await {
            Ok(Ok((_, info))) if info["name"] == "dbgproxy" => Some(info),
            _ => None,
        };
        let address = daemon.address.clone();
        let state = match &info {
            Some(_) => PortState::Daemon,
            None if address.check().is_err() => PortState::Unusable,
            None => match Listeners::bind(std::slice::from_ref(&address)) {
                Ok(_) => PortState::Free,
                Err(error) if is_in_use(&error) => PortState::Taken,
                Err(_) => PortState::Unusable,
            },
        };
        let version = info.and_then(|info| info["version"].as_str().map(str::to_owned));
        Port {
            address,
            state,
            version,
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let cause = error.root_cause().downcast_ref::<std::io::Error>();
    cause.is_some_and(|cause| cause.kind() == std::io::ErrorKind::AddrInUse)
}

impl Permissions {
    fn here() -> Permissions {
        let scope = fs::read_to_string(PTRACE_SCOPE).ok();
        let debugger = ["gdb", "lldb"].map(OsStr::new).into_iter();
        Permissions {
            user: current_uid(),
            ptrace_scope: scope.and_then(|scope| scope.trim().parse().ok()),
            debugger: debugger.filter_map(python::which).next(),
        }
    }
}

/// What there is, before it is judged.
#[derive(Debug)]
struct Found {
    /// Why the agent cannot be unpacked.
    agent: Option<String>,
    /// What looks like an interpreter and does not run.
    broken: Vec<String>,
    interpreters: Vec<Python>,
    port: Port,
    permissions: Permissions,
    /// What is wrong with what is to be watched.
    amiss: Option<String>,
}

impl Report {
    fn on(found: Found) -> Report {
        let mut findings = Findings::default();
        if let Some(why) = &found.agent {
            let remedy = "nothing is debugged until it can be unpacked";
            findings.add(Level::Error, why.clone(), remedy);
        }
        findings.on_interpreters(&found.interpreters, found.agent.is_none());
        for why in found.broken {
            findings.add(Level::Note, why, "take it off PATH, or repair it");
        }
        findings.on_port(&found.port);
        findings.on_permissions(&found.permissions);
        if let Some(why) = found.amiss {
            findings.add(
                Level::Warning,
                why,
                "correct it, or unset it: then it is tasks",
            );
        }
        let findings = findings.0;
        Report {
            ok: findings.iter().all(|finding| finding.level != Level::Error),
            interpreters: found.interpreters,
            port: found.port,
            permissions: found.permissions,
            unreachable: UNREACHABLE,
            findings,
        }
    }

    fn text(&self) -> String {
        let mut rows =
            vec![["interpreter", "Python", "debugpy", "agent", "under -I"].map(String::from)];
        for python in &self.interpreters {
            let debugpy = match (&python.debugpy, &python.copy) {
                (Some(own), _) if own.is_empty() => "its own".to_owned(),
                (Some(own), _) => own.clone(),
                (None, Some(copy)) => format!("{copy} (copy)"),
                (None, None) => "-".to_owned(),
            };
            let loads = |yes: bool| if yes { "loads" } else { "-" }.to_owned();
            rows.push([
                python.path.display().to_string(),
                python.version.clone(),
                debugpy,
                loads(python.agent),
                loads(python.isolated),
            ]);
        }
        let width = |column: usize| {
            let widths = rows.iter().map(|row| row[column].chars().count());
            widths.max().unwrap_or_default()
        };
        let widths = [0, 1, 2, 3].map(width);
        let mut text = String::new();
        for row in &rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths.into_iter().chain([0])) {
                let _ = write!(line, "{cell:width$}  ");
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        let port = match (&self.port.state, &self.port.version) {
            (PortState::Daemon, Some(version)) => format!("dbgproxy {version} is there"),
            (PortState::Daemon, None) => "dbgproxy is there".to_owned(),
            (PortState::Free, _) => {
                "free; `dbgproxy run` and `serve` start a daemon there".to_owned()
            }
            (PortState::Taken, _) => "something else is there".to_owned(),
            (PortState::Unusable, _) => "no daemon is there, and none can be".to_owned(),
        };
        let _ = writeln!(text, "\n{}: {port}", self.port.address);
        let _ = writeln!(text, "{}", self.unreachable);
        for finding in &self.findings {
            let level = match finding.level {
                Level::Error => "error",
                Level::Warning => "warning",
                Level::Note => "note",
            };
            let _ = writeln!(text, "{level}: {}", finding.message);
            let _ = writeln!(text, "  {}", finding.remedy);
        }
        text
    }
}

/// What is worth saying, in the order in which it was found.
#[derive(Default)]
struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, level: Level, message: impl Into<String>, remedy: &str) {
        self.0.push(Finding {
            level,
            message: message.into(),
            remedy: remedy.to_owned(),
        });
    }

    fn on_interpreters(&mut self, interpreters: &[Python], has_agent: bool) {
        let (useful, useless): (Vec<_>, Vec<_>) = interpreters
            .iter()
            .partition(|python| python.unsupported.is_none());
        // One that can be debugged is enough for all to be well, if not for every program.
        let is_well = useful.iter().any(|python| python.can_be_debugged());
        let level = if is_well {
            Level::Warning
        } else {
            Level::Error
        };
        if useful.is_empty() {
            self.add(
                Level::Error,
                "no CPython 3.8 to 3.14 is found: not in VIRTUAL_ENV, on PATH or among pyenv's versions",
                "put one on PATH, or activate the environment of your program",
            );
        }
        for python in useful.iter().filter(|python| !python.agent && has_agent) {
            let path = python.path.display();
            self.add(
                level,
                format!("the agent is not loaded by {path}"),
                &format!(
                    "another sitecustomize may be in front of it, or PYTHONPATH is ignored: `dbgproxy agent \
                     install --python {path}` does without both"
                ),
            );
        }
        let named = |pythons: &[&Python]| {
            let names = pythons
                .iter()
                .map(|python| python.path.display().to_string());
            names.collect::<Vec<_>>().join(", ")
        };
        let lacking: Vec<_> = useful
            .into_iter()
            .filter(|python| !python.has_debugpy())
            .collect();
        let remedy = match lacking[..] {
            [] => String::new(),
            [python] => format!("`dbgproxy setup --python {}`", python.path.display()),
            _ => "`dbgproxy setup --all`".to_owned(),
        };
        if !lacking.is_empty() {
            self.add(
                level,
                format!("there is no debugpy for {}", named(&lacking)),
                &format!("{remedy} gets it; at its first use `dbgproxy run` does, too"),
            );
        }
        if !useless.is_empty() {
            self.add(
                Level::Note,
                format!(
                    "no CPython 3.8 to 3.14, so not to be debugged: {}",
                    named(&useless)
                ),
                "run the program with another one",
            );
        }
    }

    fn on_port(&mut self, port: &Port) {
        let address = &port.address;
        match port.state {
            PortState::Daemon | PortState::Free => {}
            PortState::Taken => self.add(
                Level::Error,
                format!("{address} is taken by something that is no dbgproxy, or not yours"),
                "start the daemon elsewhere: `dbgproxy serve --listen 127.0.0.1:0` takes a free port",
            ),
            PortState::Unusable => self.add(
                Level::Error,
                format!("no daemon is at {address}, and none of this user can be there"),
                "name the address of a daemon with --connect, or none",
            ),
        }
    }

    fn on_permissions(&mut self, permissions: &Permissions) {
        let purpose = "attaching by `processId` to a process that is not connected";
        if permissions.debugger.is_none() {
            self.add(
                Level::Note,
                format!("{purpose} needs gdb or lldb, and neither is on PATH"),
                "install gdb, if you need that",
            );
        }
        match permissions.ptrace_scope {
            Some(scope @ 1..) if permissions.user != 0 => self.add(
                Level::Note,
                format!("{purpose} is forbidden here (kernel.yama.ptrace_scope is {scope})"),
                "`sudo sysctl kernel.yama.ptrace_scope=0` allows it until the next start, if you need that",
            ),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn python() -> Python {
        Python {
            path: "/usr/bin/python3".into(),
            version: "3.11.2".into(),
            unsupported: None,
            debugpy: Some("1.8.22".into()),
            copy: None,
            agent: true,
            isolated: false,
        }
    }

    fn found(interpreters: Vec<Python>, state: PortState) -> Found {
        Found {
            agent: None,
            broken: Vec::new(),
            interpreters,
            port: Port {
                address: Address::default(),
                state,
                version: None,
            },
            permissions: Permissions {
                user: 1000,
                ptrace_scope: Some(0),
                debugger: Some("/usr/bin/gdb".into()),
            },
            amiss: None,
        }
    }

    fn levels(report: &Report) -> Vec<Level> {
        report
            .findings
            .iter()
            .map(|finding| finding.level)
            .collect()
    }

    #[test]
    fn all_is_well() {
        for state in [PortState::Free, PortState::Daemon] {
            let report = Report::on(found(vec![python()], state));
            assert!(report.ok);
            assert_eq!(report.findings, []);
        }
    }

    #[test]
    fn one_that_works_is_enough() {
        let lacking = Python {
            debugpy: None,
            ..python()
        };
        let copied = Python {
            copy: Some("1.8.22".into()),
            ..lacking.clone()
        };
        let unloaded = Python {
            agent: false,
            ..python()
        };
        let old = Python {
            unsupported: Some("it is too old".into()),
            ..python()
        };
        use Level::{Error, Note, Warning};
        for (interpreters, expected) in [
            (vec![copied], vec![]),
            (vec![lacking.clone()], vec![Error]),
            (vec![unloaded.clone()], vec![Error]),
            (vec![lacking, unloaded, python()], vec![Warning, Warning]),
            (vec![old.clone()], vec![Error, Note]),
            (vec![old, python()], vec![Note]),
            (vec![], vec![Error]),
        ] {
            let report = Report::on(found(interpreters, PortState::Free));
            assert_eq!(levels(&report), expected, "{}", report.text());
            assert_eq!(report.ok, !expected.contains(&Error));
        }
    }

    #[test]
    fn what_stands_in_the_way_is_said_with_what_to_do() {
        let taken = Report::on(found(vec![python()], PortState::Taken));
        assert!(!taken.ok);
        assert!(
            taken.text().contains("--listen 127.0.0.1:0"),
            "{}",
            taken.text()
        );

        let mut agent = found(vec![python()], PortState::Free);
        agent.agent = Some("cannot unpack".into());
        assert!(!Report::on(agent).ok);

        let mut closed = found(vec![python()], PortState::Free);
        closed.permissions.ptrace_scope = Some(1);
        closed.permissions.debugger = None;
        let report = Report::on(closed);
        assert!(report.ok);
        assert_eq!(levels(&report), [Level::Note, Level::Note]);
        assert!(
            report.text().contains("ptrace_scope=0"),
            "{}",
            report.text()
        );
    }
}
