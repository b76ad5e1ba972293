//! The agent: the small Python package inside a process, and the task that owns its connection to the daemon.
//!
//! It says who its process is, and sleeps. Its session wakes it when somebody wants to look: then pydevd connects, on a
//! connection of its own, which the agent announces.
//! This module knows nothing of clients, and nothing of what a debug server says.

mod asking;
pub mod package;
pub mod watched;

use std::collections::HashMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::hub::{Hub, Reason};
use crate::link::Link;
use crate::pump::{End, Peer, last_flush, pump};
use crate::session::{self, Caller, Report, SessionId};
use crate::wire::{Error, Kind, Message, Outbox};
use asking::{Asking, What};

/// The most mails that wait for one agent: it is told little, and does it at once. Beside them, each answer that is
/// under way has its place.
pub const INBOX: usize = 16 + UNDER_WAY;

/// The most requests of one agent that are under way; further ones are refused.
pub const UNDER_WAY: usize = 32;

/// The most samples of one agent that are taken at a time; further ones are left out and counted.
pub const BURST: u32 = 8;

/// What a process says first: who it is.
#[derive(Debug, Deserialize)]
pub struct Hello {
    role: Role,
    pid: u32,
    ppid: Option<u32>,
    /// The id that the process has given itself, and keeps over connections.
    session: Option<SessionId>,
    /// The id of the process that started it, through whatever shells.
    parent: Option<SessionId>,
    /// How it has come to be.
    #[serde(default)]
    how: How,
}

/// Who says hello.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Role {
    /// The agent, which stays.
    Agent,
    /// A debug server that the agent announces: what follows is pydevd's.
    DebugServer,
}

/// How a process that says hello has come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// It was started.
    #[default]
    Start,
    /// It was forked.
    Fork,
    /// Another program has taken its place.
    Exec,
    /// It has lost its daemon, or that one has let it wait.
    Reconnect,
}

impl Hello {
    /// Reads the request `dbgproxy/hello`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(crate) fn read(message: &Message) -> Result<(Role, Caller), Error> {
        let hello: Hello = message.decode()?;
        // What else it says, it says as the guard does.
        let report = Report::read(message)?;
        let caller = Caller {
            pid: hello.pid,
            ppid: hello.ppid,
            session: hello.session,
            parent: hello.parent,
            how: hello.how,
            system_info: "{}".into(),
            report,
        };
        Ok((hello.role, caller))
    }
}

/// What a session has of its agent.
#[derive(Clone)]
pub struct Handle {
    /// Which connection: a number that is never used again.
    pub number: u64,
    inbox: mpsc::Sender<Mail>,
}

impl Handle {
    /// Tells it something; false if it is gone, or does not listen.
    pub fn tell(&self, mail: Mail) -> bool {
        self.inbox.try_send(mail).is_ok()
    }

    /// Whether its connection has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.inbox.is_closed()
    }
}

/// What a session tells its agent.
#[derive(Debug)]
pub enum Mail {
    /// The answer to its hello: its session, and whether it is to connect pydevd before user code runs.
    Welcome(SessionId, bool),
    /// It is to connect pydevd, while the program runs.
    Activate,
    /// It is to take pydevd out again.
    Deactivate,
    /// Its session has no use for it: it may try again.
    Close,
    /// What came of something that it has asked: the response.
    Answer(Box<Message>),
}

/// What an agent tells its session.
#[derive(Debug)]
pub enum FromAgent {
    /// Its process has another name or other variables now.
    Report(Box<Report>),
    /// pydevd could not be connected, and why.
    Failed(String),
    /// pydevd could not be taken out.
    Stays,
    /// The process ends; with its code, if that is known.
    Exiting(Option<i64>),
    /// The connection has ended.
    Gone,
}

/// One agent's connection.
struct Agent {
    number: u64,
    session: Arc<session::Handle>,
    /// The number of its hello, until it is answered.
    hello: Option<i64>,
    /// By our number, what it was asked.
    asked: HashMap<i64, &'static str>,
    finished: bool,
    /// What it may ask for.
    asking: Asking,
    /// How many of its requests are under way.
    under_way: usize,
    /// When it may say again how its process stands, and how often since the last time it has come too soon.
    sampled: (Option<Instant>, u64),
    /// Keeps the inbox open, and is where answers go.
    handle: Handle,
}

/// Serves an agent that has said hello; the task of one connection.
pub(crate) async fn run(hub: Arc<Hub>, mut link: Link, seq: i64, caller: Caller) {
    let (tx, mut inbox) = mpsc::channel(INBOX);
    let handle = Handle {
        number: hub.next_order(),
        inbox: tx,
    };
    let environment = caller.report.environment.as_ref();
    let watched = environment.and_then(|variables| variables.get(watched::VARIABLE));
    let amiss = watched.and_then(|value| watched::amiss(value));
    let session = session::for_agent(&hub, &handle, caller);
    if let Some(why) = amiss {
        tracing::info!(session = %session.id, "{why}");
        if let Some(monitor) = hub.monitor() {
            monitor.amiss(session.id, why);
        }
    }
    // A place in the session's inbox that is kept for the goodbye.
    let Ok(goodbye) = session.inbox.clone().try_reserve_owned() else {
        tracing::debug!(session = %session.id, "an agent's session has ended already");
        return;
    };
    let mut agent = Agent {
        number: handle.number,
        asking: Asking::new(hub.clone(), session.clone()),
        session,
        hello: Some(seq),
        asked: HashMap::new(),
        finished: false,
        under_way: 0,
        sampled: (None, 0),
        handle,
    };
    let end = pump(&mut agent, &mut link, &mut inbox, &hub.stop).await;
    if matches!(end, End::Stopped) {
        last_flush(&mut link).await;
    }
    tracing::debug!(?end, "the agent's connection ended");
    goodbye.send(session::Mail::FromAgent(agent.number, FromAgent::Gone));
    if let Some(monitor) = hub.monitor().filter(|_| agent.sampled.0.is_some()) {
        monitor.gone(agent.session.id, agent.number).await;
    }
    drop(inbox);
    agent.asking.end().await;
}

impl Agent {
    fn tell(&self, what: FromAgent) {
        let mail = session::Mail::FromAgent(self.number, what);
        if self.session.inbox.try_send(mail).is_err() {
            tracing::warn!(session = %self.session.id, "a session does not take what its agent says");
        }
    }

    fn ask(&mut self, command: &'static str, out: &mut Outbox) {
        // The last one counts: an agent that never answers collects nothing here.
        self.asked.retain(|_, asked| *asked != command);
        let seq = out.send(&Message::request(command, json!({})));
        self.asked.insert(seq, command);
    }

    /// It says how its process stands.
    fn on_sample(&mut self, event: &Message) {
        let Some(monitor) = self.asking.hub.monitor() else {
            return;
        };
        let (session, now) = (self.session.id, Instant::now());
        let (due, too_soon) = &mut self.sampled;
        // Twice as often as it is to, and some at a time: on a busy machine several may come together.
        let earliest = now.checked_sub(monitor.interval * BURST / 2);
        let allowed = (*due).max(earliest).unwrap_or(now);
        if allowed > now {
            *too_soon += 1;
            return;
        }
        *due = Some(allowed + monitor.interval / 2);
        if *too_soon > 0 {
            monitor.dropped(session, std::mem::take(too_soon));
        }
        monitor.sample(session, self.number, event.content().unwrap_or("{}"));
    }

    fn on_event(&mut self, event: &Message) {
        if event.name() == "dbgproxy/monitor" {
            return self.on_sample(event);
        }
        let body: Value = event.decode().unwrap_or_default();
        match event.name() {
            "dbgproxy/report" => match Report::read(event) {
                Ok(report) => self.tell(FromAgent::Report(Box::new(report))),
                Err(error) => {
                    tracing::warn!(session = %self.session.id, %error, "an agent's report cannot be read");
                }
            },
            "dbgproxy/notActivated" => {
                let why = body["message"]
                    .as_str()
                    .unwrap_or("the agent does not say why");
                self.tell(FromAgent::Failed(why.to_owned()));
            }
            "dbgproxy/debugSession" => match event.decode() {
                Ok(said) => {
                    // At once: what the program asks next it asks of a daemon that knows it.
                    self.session.update(|info| info.debug_sessions.note(said));
                    self.asking.hub.tell(&self.session, Reason::Changed);
                }
                Err(error) => {
                    tracing::debug!(session = %self.session.id, %error, "a debug session cannot be read");
                }
            },
            "dbgproxy/exiting" => self.tell(FromAgent::Exiting(body["exitCode"].as_i64())),
            name => {
                tracing::debug!(session = %self.session.id, name, "an event that no agent sends")
            }
        }
    }
}

impl Agent {
    /// Lets a request be carried out, if it is one that a process may make.
    fn on_request(&mut self, request: &Message) -> Result<(), String> {
        // The debuggee is not trusted.
        let what = What::read(request.name()).ok_or(
            "a process says hello once, and may ask for little else; this is not among it",
        )?;
        if self.under_way >= UNDER_WAY {
            return Err(format!(
                "{UNDER_WAY} requests of this process are under way; try again when one is done"
            ));
        }
        let Ok(place) = self.handle.inbox.clone().try_reserve_owned() else {
            return Err("the process does not listen".into());
        };
        self.under_way += 1;
        let (asking, request) = (self.asking.clone(), request.detached());
        let inbox = self.handle.inbox.clone();
        self.asking.hub.tasks.spawn(async move {
            let given_up = async {
                match what {
                    // What is half done could not be undone.
                    What::Add | What::Remove => asking.hub.stop.cancelled().await,
                    _ => inbox.closed().await,
                }
            };
            tokio::select! {
                answer = asking.answer(what, &request) => {
                    place.send(Mail::Answer(Box::new(answer)));
                }
                () = given_up => {}
            }
        });
        Ok(())
    }
}

impl Peer for Agent {
    type Mail = Mail;

    fn message(&mut self, message: Message, out: &mut Outbox) {
        match message.kind() {
            Kind::Event => self.on_event(&message),
            Kind::Response => {
                let asked = self.asked.remove(&message.request_seq());
                match asked.filter(|_| !message.success()) {
                    Some("dbgproxy/activate") => {
                        let why = message.message();
                        let why = why.unwrap_or_else(|| "the agent does not say why".into());
                        self.tell(FromAgent::Failed(why));
                    }
                    Some("dbgproxy/deactivate") => self.tell(FromAgent::Stays),
                    _ => {}
                }
            }
            Kind::Request => {
                if let Err(why) = self.on_request(&message) {
                    out.send(&Message::failure(message.seq(), message.name(), &why));
                }
            }
        }
    }

    fn malformed(&mut self, error: &Error, _out: &mut Outbox) {
        tracing::warn!(session = %self.session.id, %error, "an agent sent something that is left out");
    }

    fn mail(&mut self, mail: Mail, out: &mut Outbox) {
        match mail {
            Mail::Welcome(session, activate) => {
                if let Some(seq) = self.hello.take() {
                    let monitor = self.asking.hub.monitor();
                    let interval = monitor.map(|monitor| monitor.interval.as_secs_f64());
                    let body =
                        json!({ "session": session, "activate": activate, "monitor": interval });
                    out.send(&Message::response(seq, "dbgproxy/hello", body));
                }
            }
            Mail::Activate => self.ask("dbgproxy/activate", out),
            Mail::Deactivate => self.ask("dbgproxy/deactivate", out),
            Mail::Close => self.finished = true,
            Mail::Answer(answer) => {
                self.under_way -= 1;
                out.send(&answer);
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        None
    }

    fn expired(&mut self, _out: &mut Outbox) {}

    fn finished(&self) -> bool {
        self.finished
    }
}
