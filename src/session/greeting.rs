//! The greeting: what the daemon says to a debug server before user code runs.
//!
//! It is in two parts.
//! [`meet`] learns who is there and installs the guard (`guard.py`), without which a program would hang for
//! ever if the daemon died, and its children would not start.
//! Then the session initializes, attaches, sets the breakpoints, and with `configurationDone` lets user code run.

use std::collections::BTreeMap;
use std::sync::LazyLock;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;
use uuid::Uuid;

use super::naming::Naming;
use super::requests::Pending;
use super::{DebugSessions, Info, Order, Session, SessionId, Stage, State};
use crate::agent::How;
use crate::hub::Hub;
use crate::link::Link;
use crate::wire::{Error, Kind, Message, Outbox};

/// How long the process may take to run the guard. Greeting goes on without it afterwards: a program that
/// cannot be protected is better than one that hangs.
pub const GUARD_WAIT: Duration = Duration::from_secs(5);

/// The guard's request. Its text says how it is to be sent, and what it reports.
static GUARD: LazyLock<Message> = LazyLock::new(|| {
    let source = json!(include_str!("guard.py"));
    let expression = format!(
        "__import__('builtins').exec(compile({source}, '<frozen dbgproxy>', 'exec'), __import__('sys').modules\
         .setdefault('_dbgproxy', type(__import__('sys'))('_dbgproxy')).__dict__)"
    );
    Message::request(
        "evaluate",
        json!({ "expression": expression, "context": "watch" }),
    )
});

/// Who has connected.
pub struct Caller {
    /// As the process sees itself.
    pub pid: u32,
    /// Its parent as pydevd knows it: the Python process that started it.
    pub ppid: Option<u32>,
    /// The id that it has given itself, or by which its agent announces it.
    pub session: Option<SessionId>,
    /// The session of the process that started it, if it knows.
    pub parent: Option<SessionId>,
    /// How it has come to be, if it has an agent.
    pub how: How,
    /// The answer to `pydevdSystemInfo` as it came: read into a tree it would take several times the memory.
    pub system_info: Box<str>,
    /// What the guard says.
    pub report: Report,
}

/// What the guard says of its process; nothing is known where it could not run.
#[derive(Debug, Clone, Default, Deserialize)]
pub struct Report {
    /// Whether the guard is in, and with it the helper for merged breakpoints.
    #[serde(skip)]
    pub guarded: bool,
    /// What is the same in two connections of one process and differs between any two processes.
    pub identity: Option<String>,
    /// The command line as the user would write it.
    pub argv: Option<Vec<String>>,
    /// `sys.argv[0]`.
    pub script: Option<String>,
    /// The process name that multiprocessing gave it.
    pub name: Option<String>,
    /// Which of multiprocessing's own processes it is.
    pub helper: Option<String>,
    /// The version of debugpy.
    pub debugpy: Option<String>,
    /// The version of Python.
    pub python: Option<String>,
    /// The variables that name and label it.
    pub environment: Option<BTreeMap<String, String>>,
}

/// The most bytes that are kept of each text of a report, which is in the history for long; the rest is cut off.
pub const TEXT: usize = 4 * 1024;

/// The most variables that are kept of a report; further ones are left out.
pub const VARIABLES: usize = 64;

/// The most bytes that are kept of all arguments together; further arguments are left out.
pub const ARGV: usize = 4 * TEXT;

impl Report {
    /// Reads what is said of a process in a message, as far as it is kept.
    pub(crate) fn read(message: &Message) -> Result<Report, Error> {
        let mut report: Report = message.decode()?;
        let texts = [
            &mut report.identity,
            &mut report.script,
            &mut report.name,
            &mut report.helper,
            &mut report.debugpy,
            &mut report.python,
        ];
        texts.into_iter().flatten().for_each(cut);
        if let Some(argv) = &mut report.argv {
            argv.iter_mut().for_each(cut);
            let mut bytes = 0;
            let fits = |text: &&String| {
                bytes += text.len() + 1;
                bytes <= ARGV
            };
            let fitting = argv.iter().take_while(fits).count();
            argv.truncate(fitting);
            argv.shrink_to_fit();
        }
        if let Some(environment) = &mut report.environment {
            environment.values_mut().for_each(cut);
            let kept = std::mem::take(environment).into_iter();
            *environment = kept
                .filter(|(name, _)| name.len() <= TEXT)
                .take(VARIABLES)
                .collect();
        }
        Ok(report)
    }

    /// Takes over what another report knows.
    pub(super) fn absorb(&mut self, newer: Report) {
        fn take<T>(old: &mut Option<T>, new: Option<T>) {
            if new.is_some() {
                *old = new;
            }
        }
        self.guarded = newer.guarded;
        take(&mut self.identity, newer.identity);
        take(&mut self.argv, newer.argv);
        take(&mut self.script, newer.script);
        take(&mut self.name, newer.name);
        take(&mut self.helper, newer.helper);
        take(&mut self.debugpy, newer.debugpy);
        take(&mut self.python, newer.python);
        take(&mut self.environment, newer.environment);
    }

    /// Whether nobody means to debug this process.
    #[must_use]
    pub fn is_helper(&self) -> bool {
        self.helper.is_some()
    }

    /// Whether its environment asks that user code waits for an IDE.
    #[must_use]
    pub fn asks_to_wait(&self) -> bool {
        self.variable("DBGPROXY_WAIT") == Some("1")
    }

    /// Whether a report has come at all: each names the version of Python.
    pub(super) fn has_come(&self) -> bool {
        self.python.is_some()
    }

    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.environment.as_ref()?.get(name).map(String::as_str)
    }
}

fn cut(text: &mut String) {
    if text.len() > TEXT {
        text.truncate(text.floor_char_boundary(TEXT));
        text.shrink_to_fit();
    }
}

impl Caller {
    /// Reads the answer to `pydevdSystemInfo`.
    #[must_use]
    pub fn read(answer: &Message) -> Option<Caller> {
        #[derive(Deserialize)]
        struct Body {
            process: Process,
        }
        #[derive(Deserialize)]
        struct Process {
            pid: u32,
            ppid: Option<u32>,
        }
        let Body { process } = answer.decode().ok()?;
        Some(Caller {
            pid: process.pid,
            ppid: process.ppid,
            session: None,
            parent: None,
            how: How::default(),
            system_info: answer.content()?.into(),
            report: Report::default(),
        })
    }

    /// The answer to `pydevdSystemInfo`.
    pub(super) fn system_info(&self) -> Value {
        serde_json::from_str(&self.system_info).unwrap_or_default()
    }

    /// The public face of a new session of this process.
    pub(super) fn info(&self, hub: &Hub) -> Info {
        let report = &self.report;
        let system_info = self.system_info();
        let version = system_info
            .pointer("/python/version")
            .and_then(Value::as_str);
        let parent = hub.parent_of(self);
        let above = parent.as_ref().and_then(|(_, order)| order.as_ref());
        let order = Order::new(above, hub.next_order());
        Info {
            id: Uuid::new_v4(),
            pid: self.pid,
            parent: parent.map(|(id, _)| id),
            ppid: self.ppid,
            name: report.session_name(self.pid),
            number: 1,
            labels: report.labels(),
            state: State::Starting,
            stopped: None,
            started: Timestamp::now(),
            ended: None,
            exit: None,
            ending: None,
            helper: report.is_helper(),
            clients: 0,
            python: report.python.clone().or_else(|| version.map(str::to_owned)),
            debugpy: report.debugpy.clone(),
            argv: report.argv.clone().unwrap_or_default(),
            debug_sessions: DebugSessions::default(),
            order,
            identity: report.identity.clone(),
        }
    }
}

/// Installs the guard in a debug server that has answered the probe, and learns who it is.
///
/// # Errors
/// The connection's own; a process that has not answered in time is none.
pub(crate) async fn meet(link: &mut Link, caller: &mut Caller) -> anyhow::Result<()> {
    // A token of null is what unlocks a debug server that was locked by another.
    link.out.send(&Message::request(
        "pydevdAuthorize",
        json!({ "debugServerAccessToken": null }),
    ));
    let guard = link.out.send(&GUARD);
    let answered = timeout(GUARD_WAIT, async {
        link.flush().await?;
        while let Some(message) = link.next_readable().await? {
            match message.kind() {
                Kind::Event if message.name() == "dbgproxyReport" => match Report::read(&message) {
                    Ok(report) => caller.report = report,
                    Err(error) => {
                        tracing::warn!(pid = caller.pid, %error, "the guard's report cannot be read")
                    }
                },
                Kind::Response if message.request_seq() == guard => {
                    caller.report.guarded = message.success();
                    return Ok(());
                }
                _ => {}
            }
        }
        anyhow::bail!("the debug server closed the connection while it was greeted")
    });
    match answered.await {
        Ok(result) => result?,
        Err(_) => tracing::warn!(
            pid = caller.pid,
            "the process has not run the guard in time"
        ),
    }
    if !caller.report.guarded {
        tracing::warn!(
            pid = caller.pid,
            "the guard is not in: the process may hang if this daemon dies"
        );
    }
    Ok(())
}

impl Session {
    /// Begins the greeting; user code may wait for clients afterwards.
    pub(super) fn greet(&mut self, out: &mut Outbox) {
        self.initialize(out);
        if !self.watchers.is_empty() {
            self.adopt_first_options(out);
        }
        self.try_release(out);
        self.publish();
    }

    /// Tells the process that a debugger is there, and that no IDE is.
    fn initialize(&mut self, out: &mut Outbox) {
        let arguments =
            json!({ "adapterID": "dbgproxy", "clientID": "dbgproxy", "pathFormat": "path" });
        self.ask(Message::request("initialize", arguments), Pending::Own, out);
        self.told_connected = false;
    }

    /// Lets user code run, with all breakpoints set.
    pub(super) fn release(&mut self, out: &mut Outbox) {
        if !self.options.is_attached() {
            self.attach_without_client(out);
        }
        self.stage = Stage::Released;
        self.has_run = true;
        self.naming = Naming::released();
        self.told_connected = true;
        self.ask(
            Message::request("configurationDone", json!({})),
            Pending::Own,
            out,
        );
        self.tell_connected(out);
    }

    /// The daemon stops: nobody will come for whom user code waits.
    pub(super) fn let_go(&mut self, out: &mut Outbox) {
        if self.stage == Stage::Waiting {
            self.release(out);
        }
    }

    /// Brings the process's idea of whether an IDE is there up to date: `debugpy.is_client_connected()`,
    /// `wait_for_client()` and `breakpoint()` mean an IDE, not the daemon.
    pub(super) fn tell_connected(&mut self, out: &mut Outbox) {
        if self.stage != Stage::Released {
            return;
        }
        let connected = self.live().next().is_some();
        if connected {
            self.awaiting.tell(&Ok(()));
        }
        if connected && !self.told_connected {
            self.told_connected = true;
            self.ask(
                Message::request("configurationDone", json!({})),
                Pending::Own,
                out,
            );
        } else if !connected && self.told_connected {
            self.initialize(out);
        }
    }
}
