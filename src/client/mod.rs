//! A client: one connection that speaks DAP as an IDE does, and the task that owns it.
//!
//! It takes the client from `initialize` over `attach` to the session that it asked for, passes its requests
//! on and what comes back.
//! It knows sessions by their mail alone, and nothing of how a process is spoken to.

mod attach;
mod console;
mod handle;
mod initialize;
mod inject;
mod lens;
mod mappings;
mod membership;
mod merged;
mod tree;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use crate::control::{self, Access, Followed};
use crate::hub::Hub;
use crate::link::Link;
use crate::mailbox::{Scale, mailbox};
use crate::monitor::{Alert, Reason};
use crate::pump::{End, Peer, last_flush, pump};
use crate::session::{self, SessionId};
use crate::wire::{Error, Kind, Message, Outbox};

pub use attach::{Attach, Role, ViewKind};
pub use handle::{Announces, ClientId, FromSession, Handle, Mail, View};
use initialize::Capabilities;
use membership::{Closed, Membership};
use merged::{Fleet, Progress};

/// How long a client may stay without an `attach` after its `initialize`, or without a `disconnect` after the
/// end of its session. Then its connection is closed.
pub const IDLE_WAIT: Duration = Duration::from_secs(600);

/// How long a session may take to answer what it owes when the daemon stops.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// How often it is looked whether a client that has missed news of sessions can take some again.
const CATCH_UP_INTERVAL: Duration = Duration::from_millis(20);

/// The most verbs of one client that are being carried out; further ones are refused.
pub const MAX_VERBS: usize = 32;

/// How deep a request may be nested. pydevd's JSON reader gives up somewhere below, and then never answers.
pub const MAX_DEPTH: usize = 128;

/// How far a client is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Initialized; `attach` is to come.
    Initialized,
    /// Attached to something that is not there yet.
    Attaching,
    /// It has been told `initialized`, and sets its breakpoints.
    Configuring,
    /// It gets what happens.
    Live,
    /// Its session is over; `disconnect` is to come.
    Ended,
}

/// What a client sits in front of.
enum Seat {
    /// Nothing, or nothing yet.
    Nobody,
    /// One process.
    Process(Membership),
    /// The root of a tree, which has no process.
    Root,
    /// All processes that match, in one session.
    Fleet(Box<Fleet>),
    /// Nothing any more: the merged view is over, and all that was asked in it has been answered.
    Over,
}

/// One DAP connection of an IDE.
struct Client {
    hub: Arc<Hub>,
    handle: Arc<Handle>,
    scale: Scale,
    stage: Stage,
    /// Since when, for the waits that are bounded.
    since: Instant,
    capabilities: Capabilities,
    /// What it asked for with its `attach`, and the number of that request until it is answered.
    attach: Option<Arc<Attach>>,
    attach_seq: Option<i64>,
    configuration_done_seq: Option<i64>,
    seat: Seat,
    /// The sessions that it has been told of, and the numbers of their orders: one that is back has another.
    announced: HashMap<SessionId, u64>,
    /// By the number of its `startDebugging`, those of which it has not said whether it will attach.
    unanswered: HashMap<i64, SessionId>,
    /// What the root of a tree has configured; only looked at to answer it.
    configuration: crate::breakpoints::Configuration,
    /// Where it reached us: where its child sessions can, too.
    address: Option<SocketAddr>,
    /// How many verbs are being carried out for it.
    verbs: usize,
    /// What follows the news of sessions for it, if it asked for them.
    subscription: Option<AbortOnDropHandle<()>>,
    finished: bool,
}

/// Serves a client whose first message, `initialize`, has come; the task of one client.
pub(crate) async fn run(hub: Arc<Hub>, mut link: Link, initialize: Message) {
    let (mailbox, mut inbox, scale) = mailbox(&hub.stop);
    let stop = scale.overrun.clone();
    let capabilities = Capabilities::read(&initialize);
    let id = ClientId(hub.next_order());
    let name = capabilities.client_id.clone();
    let handle = Arc::new(Handle::new(id, name, mailbox));
    let address = link.stream.local_address().or_else(|| hub.tcp_address());
    let mut client = Client {
        hub: hub.clone(),
        handle: handle.clone(),
        scale,
        stage: Stage::Initialized,
        since: Instant::now(),
        capabilities,
        attach: None,
        attach_seq: None,
        configuration_done_seq: None,
        seat: Seat::Nobody,
        announced: HashMap::new(),
        unanswered: HashMap::new(),
        configuration: crate::breakpoints::Configuration::default(),
        address,
        verbs: 0,
        subscription: None,
        finished: false,
    };
    tracing::info!(client = %handle.id, name = handle.name, "client connected");
    client.initialize(&initialize, &mut link.out);
    hub.register(&handle);
    let end = pump(&mut client, &mut link, &mut inbox, &stop).await;
    hub.unregister(handle.id);
    match &end {
        End::Stopped if hub.stop.is_cancelled() => {
            // Its session stops as well, and answers first what it owes.
            while client.owes_answers() {
                match timeout(LAST_ANSWERS, inbox.recv()).await {
                    Ok(Some(mail)) => client.mail(mail, &mut link.out),
                    _ => break,
                }
            }
            client.ended(&mut link.out);
            last_flush(&mut link).await;
        }
        End::Stopped => {
            tracing::warn!(client = %handle.id, "a client that does not read what it is sent is closed")
        }
        End::Broken(error) => {
            tracing::warn!(client = %handle.id, %error, "a client's stream is not DAP's, and is closed")
        }
        End::Closed | End::Failed(_) | End::Finished => {}
    }
    tracing::info!(client = %handle.id, ?end, "client disconnected");
}

impl Client {
    /// Whether a session or a verb may still have something to say to it.
    fn owes_answers(&self) -> bool {
        let by_session = match &self.seat {
            Seat::Process(_) => true,
            Seat::Fleet(fleet) => !fleet.is_empty(),
            Seat::Root | Seat::Nobody | Seat::Over => false,
        };
        by_session || self.verbs > 0
    }

    fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
        self.since = Instant::now();
    }

    fn on_request(&mut self, message: &Message, out: &mut Outbox) {
        let fail = |out: &mut Outbox, why: &str| {
            out.send(&Message::failure(message.seq(), message.name(), why));
        };
        match (message.name(), self.stage) {
            ("initialize", _) => fail(out, "Invalid message: Session is already initialized"),
            ("disconnect", _) => self.disconnect(message, out),
            ("attach", Stage::Initialized) => self.attach(message, out),
            ("attach", _) => fail(out, "Invalid message: Session is already started"),
            ("launch", _) => fail(
                out,
                "\"attach\" expected: start the program with `python -m debugpy --connect HOST:PORT`, and attach to it",
            ),
            (name, Stage::Initialized) => fail(
                out,
                &format!("\"{name}\" is not possible before \"attach\""),
            ),
            (name, _) if name.starts_with("dbgproxy/") => self.verb(message, out),
            ("evaluate" | "completions", _) if self.console(message, out) => {}
            ("terminate", Stage::Attaching | Stage::Configuring | Stage::Live) => {
                self.terminate(message, out)
            }
            (name, Stage::Attaching) => fail(
                out,
                &format!("\"{name}\" is not possible yet: there is no process"),
            ),
            ("threads", Stage::Ended) => {
                out.send(&Message::response(
                    message.seq(),
                    "threads",
                    json!({ "threads": [] }),
                ));
            }
            (_, Stage::Ended) => fail(out, "the session has ended"),
            ("configurationDone", Stage::Live) => fail(out, "the session is already configured"),
            _ if message.depth() > MAX_DEPTH => {
                fail(
                    out,
                    &format!("the message is nested deeper than {MAX_DEPTH} levels"),
                );
            }
            _ => match &mut self.seat {
                Seat::Process(_) => self.forward(message, out),
                Seat::Fleet(fleet) => {
                    if fleet.on_request(message, out) == Progress::Configured {
                        self.live(out);
                    }
                }
                Seat::Root | Seat::Nobody | Seat::Over => self.root_request(message, out),
            },
        }
    }

    /// Passes a request to the process.
    fn forward(&mut self, message: &Message, out: &mut Outbox) {
        if message.name() == "configurationDone" && self.configuration_done_seq.is_some() {
            let why = "the session is already configured";
            out.send(&Message::failure(message.seq(), message.name(), why));
            return;
        }
        let Seat::Process(membership) = &self.seat else {
            return;
        };
        if let Err(closed) = membership.ask(message.seq(), message.clone()) {
            let why = closed.why();
            out.send(&Message::failure(message.seq(), message.name(), why));
        } else if message.name() == "configurationDone" {
            self.configuration_done_seq = Some(message.seq());
        }
    }

    /// Begins to watch a session.
    fn join(&mut self, session: &Arc<session::Handle>, out: &mut Outbox) {
        let Some(attach) = self.attach.clone() else {
            return;
        };
        *self.handle.view() = View::Process(session.id, attach.announces());
        self.set_stage(Stage::Attaching);
        match Membership::enter(session, &self.handle, &attach) {
            Ok(membership) => self.seat = Seat::Process(membership),
            Err(Closed::Ended) => self.ended(out),
            Err(closed) => self.attach_failed(closed.why(), out),
        }
    }

    /// The `attach` comes to nothing; another one may be tried.
    fn attach_failed(&mut self, why: &str, out: &mut Outbox) {
        *self.handle.view() = View::Nothing;
        self.set_stage(Stage::Initialized);
        self.attach = None;
        if let Some(seq) = self.attach_seq.take() {
            out.send(&Message::failure(seq, "attach", why));
        }
    }

    fn on_session_mail(&mut self, session: SessionId, mail: FromSession, out: &mut Outbox) {
        if let Seat::Fleet(fleet) = &mut self.seat {
            let is_renamed = matches!(mail, FromSession::Renamed) && self.stage == Stage::Live;
            if is_renamed && self.capabilities.supports_invalidated_event {
                // Its name is part of its threads' names.
                let body = json!({ "areas": ["threads"] });
                out.send(&Message::event("invalidated", body));
            }
            return fleet.on_mail(session, mail, out);
        }
        if matches!(self.seat, Seat::Over) {
            return;
        }
        match mail {
            // What was under way when the client's session ended is still answered, and nothing else told.
            FromSession::Response(seq, message) => {
                out.answer(&message, seq);
                if self.configuration_done_seq == Some(seq) {
                    self.configuration_done_seq = None;
                    if message.success() {
                        self.live(out);
                    }
                }
            }
            _ if self.stage == Stage::Ended => {}
            FromSession::Joined => self.may_configure(out),
            FromSession::Event(event) => {
                out.send(&event);
            }
            FromSession::Events(events) => {
                for event in &events {
                    out.send(event);
                }
            }
            FromSession::Notice(text) => notice(&text, out),
            // Nothing that a client of one process shows has its name.
            FromSession::Renamed => {}
            FromSession::Ended => self.ended(out),
        }
    }

    /// The client may set its breakpoints.
    fn may_configure(&mut self, out: &mut Outbox) {
        if self.stage == Stage::Attaching {
            self.set_stage(Stage::Configuring);
            out.send(&Message::event("initialized", json!({})));
        }
    }

    /// The client is configured: only now its `attach` is answered.
    fn live(&mut self, out: &mut Outbox) {
        self.set_stage(Stage::Live);
        self.handle.is_live();
        self.answer_attach(out);
        self.announce_known(out);
        if let Some(monitor) = self.hub.monitor() {
            monitor.came(self.handle.clone());
        }
    }

    fn answer_attach(&mut self, out: &mut Outbox) {
        if let Some(seq) = self.attach_seq.take() {
            out.send(&Message::response(seq, "attach", json!({})));
        }
    }

    /// The client's session is over: it is told so, once.
    fn ended(&mut self, out: &mut Outbox) {
        self.answer_attach(out);
        self.terminated(out);
    }

    fn terminated(&mut self, out: &mut Outbox) {
        if self.stage != Stage::Ended && self.stage != Stage::Initialized {
            let restart = self.attach.as_ref().is_some_and(|attach| attach.restart);
            let body = if restart {
                json!({ "restart": true })
            } else {
                json!({})
            };
            out.send(&Message::event("terminated", body));
        }
        self.over(out);
    }

    fn over(&mut self, out: &mut Outbox) {
        *self.handle.view() = View::Nothing;
        self.seat = match std::mem::replace(&mut self.seat, Seat::Nobody) {
            Seat::Fleet(fleet) => {
                fleet.close(out);
                Seat::Over
            }
            Seat::Over => Seat::Over,
            Seat::Process(_) | Seat::Root | Seat::Nobody => Seat::Nobody,
        };
        self.set_stage(Stage::Ended);
    }

    /// The client leaves; `terminated` comes before the answer, as debugpy's adapter has it.
    fn disconnect(&mut self, message: &Message, out: &mut Outbox) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Arguments {
            #[serde(default)]
            terminate_debuggee: Option<bool>,
        }
        let Arguments { terminate_debuggee } = message.decode().unwrap_or_default();
        if terminate_debuggee == Some(true) {
            self.terminate_debuggees();
        }
        self.answer_attach(out);
        if !matches!(self.stage, Stage::Ended | Stage::Initialized) {
            out.send(&Message::event("terminated", json!({})));
        }
        self.over(out);
        out.send(&Message::response(message.seq(), "disconnect", json!({})));
        self.finished = true;
    }

    /// The client ends the process, or all that it has in view.
    fn terminate(&mut self, message: &Message, out: &mut Outbox) {
        let attach = self.attach.clone();
        if attach
            .as_ref()
            .is_some_and(|attach| attach.role == Role::Observer)
        {
            out.send(&Message::failure(
                message.seq(),
                "terminate",
                "this client is an observer: it may look, not touch",
            ));
        } else if matches!(self.seat, Seat::Process(_))
            && attach.is_some_and(|attach| attach.interrupts)
        {
            // The process ends by itself, by the KeyboardInterrupt that pydevd raises in it.
            self.forward(message, out);
        } else {
            self.terminate_debuggees();
            if !matches!(self.stage, Stage::Ended) {
                self.answer_attach(out);
                out.send(&Message::event("terminated", json!({})));
            }
            self.over(out);
            out.send(&Message::response(message.seq(), "terminate", json!({})));
        }
    }

    fn terminate_debuggees(&mut self) {
        if self
            .attach
            .as_ref()
            .is_none_or(|attach| attach.role == Role::Observer)
        {
            return;
        }
        let sessions = match &self.seat {
            Seat::Process(membership) => vec![membership.session.clone()],
            Seat::Root | Seat::Fleet(_) => self.sessions_in_view(),
            Seat::Nobody | Seat::Over => Vec::new(),
        };
        for session in sessions {
            if session.inbox.try_send(session::Mail::Terminate).is_err() {
                tracing::warn!(session = %session.id, "the process cannot be asked to end");
            }
        }
    }

    /// Carries out one of the daemon's own operations.
    fn verb(&mut self, message: &Message, out: &mut Outbox) {
        let name = message.name().strip_prefix("dbgproxy/");
        let name = name.unwrap_or_default().to_owned();
        let arguments: Value = match message.decode() {
            Ok(arguments) => arguments,
            Err(error) => {
                let why = error.to_string();
                out.send(&Message::failure(message.seq(), message.name(), &why));
                return;
            }
        };
        if name == "subscribe" {
            let answer = match control::takes_nothing(&arguments) {
                Ok(()) => {
                    self.subscribe();
                    Message::response(message.seq(), message.name(), json!({}))
                }
                Err(error) => Message::failure(message.seq(), message.name(), &error.message),
            };
            out.send(&answer);
            return;
        }
        let hub = self.hub.clone();
        let may = self.may();
        self.answer_later(message, out, async move {
            control::call(&hub, &name, &arguments, may).await
        });
    }

    /// Carries out a line of the console, or completes it, if it is a command for the daemon.
    fn console(&mut self, message: &Message, out: &mut Outbox) -> bool {
        #[derive(Deserialize)]
        struct Arguments {
            /// Of `evaluate`.
            expression: Option<String>,
            context: Option<String>,
            /// Of `completions`.
            text: Option<String>,
            column: Option<usize>,
        }
        let Ok(arguments) = message.decode::<Arguments>() else {
            return false;
        };
        let (Some(line), None | Some("repl")) = (
            arguments.expression.or(arguments.text),
            arguments.context.as_deref(),
        ) else {
            return false;
        };
        if !console::is_command(&line) {
            return false;
        }
        if message.name() == "completions" {
            let first = self.capabilities.first_column;
            let column = arguments.column.unwrap_or_default().saturating_sub(first);
            let typed: Vec<u16> = line.encode_utf16().take(column).collect();
            let mut targets = console::complete(&self.hub, &String::from_utf16_lossy(&typed));
            for target in &mut targets {
                target["start"] =
                    (target["start"].as_u64().unwrap_or_default() + first as u64).into();
            }
            let body = json!({ "targets": targets });
            out.send(&Message::response(message.seq(), "completions", body));
            return true;
        }
        let (hub, view, may) = (self.hub.clone(), self.in_view(), self.may());
        self.answer_later(message, out, async move {
            let shown = console::run(&hub, &line, &view, may).await?;
            Ok(json!({ "result": shown, "variablesReference": 0 }))
        });
        true
    }

    /// What the daemon's operations may do for this client.
    fn may(&self) -> Access {
        match &self.attach {
            Some(attach) if attach.role == Role::Controller => Access::Touch,
            _ => Access::Look,
        }
    }

    /// Answers a request with what comes of something that takes its time, and that ends when the client leaves.
    fn answer_later(
        &mut self,
        message: &Message,
        out: &mut Outbox,
        doing: impl Future<Output = Result<Value, control::Error>> + Send + 'static,
    ) {
        let (seq, command) = (message.seq(), message.name().to_owned());
        if self.verbs >= MAX_VERBS {
            let why = format!(
                "{MAX_VERBS} verbs are being carried out for this client; try again when one is done"
            );
            out.send(&Message::failure(seq, &command, &why));
            return;
        }
        self.verbs += 1;
        let handle = self.handle.clone();
        self.hub.tasks.spawn(async move {
            let done = tokio::select! {
                done = doing => done,
                () = handle.mailbox.closed() => return,
            };
            let answer = match done {
                Ok(body) => Message::response(seq, &command, body),
                Err(error) => Message::failure(seq, &command, &error.message),
            };
            handle.mailbox.send(Mail::Answer(answer));
        });
    }

    /// Writes what has become of a finding to the console, with the place in the client's own words.
    fn tell_finding(&self, Alert { reason, finding }: &Alert, out: &mut Outbox) {
        let (category, before) = match reason {
            Reason::Opened => ("important", ""),
            Reason::Repeated => ("console", "still: "),
            Reason::Ended => ("console", "no longer: "),
        };
        let text = format!("dbgproxy: {before}{}\n", finding.message);
        let mut body = json!({ "category": category, "output": text });
        if let Some((site, attach)) = finding.sites.first().zip(self.attach.as_ref()) {
            body["source"] = json!({ "path": attach.mappings.to_client(&site.file) });
            body["line"] = site.line.into();
        }
        out.send(&Message::event("output", body));
    }

    /// Follows the news of sessions and the alerts; a client that lags misses some, and is told how many.
    fn subscribe(&mut self) {
        if self.subscription.is_some() {
            // Another one would begin now, and what the first has not told yet would be lost.
            return;
        }
        let mut events = control::Events::follow(&self.hub);
        let handle = self.handle.clone();
        let follow = self.hub.tasks.spawn(async move {
            // How many it has missed and not been told of.
            let mut missed = 0;
            loop {
                let next = tokio::select! {
                    next = events.next() => next,
                    () = caught_up(&handle), if missed > 0 => {
                        let missed = Followed::Missed(std::mem::take(&mut missed));
                        handle.tell_news(missed.event());
                        continue;
                    }
                };
                let Some(next) = next else { break };
                if missed > 0 || handle.lags() {
                    missed += next.count();
                } else {
                    handle.tell_news(next.event());
                }
            }
        });
        self.subscription = Some(AbortOnDropHandle::new(follow));
    }
}

impl Peer for Client {
    type Mail = Mail;

    fn message(&mut self, message: Message, out: &mut Outbox) {
        match message.kind() {
            Kind::Request => self.on_request(&message, out),
            Kind::Response => self.on_response(&message),
            Kind::Event => {
                tracing::debug!(client = %self.handle.id, event = message.name(), "an event from a client is left out")
            }
        }
    }

    fn malformed(&mut self, error: &Error, out: &mut Outbox) {
        out.send(&Message::failure(0, "", &error.to_string()));
    }

    fn mail(&mut self, mail: Mail, out: &mut Outbox) {
        self.scale.take_off(&mail);
        match mail {
            Mail::Session(session, mail) => self.on_session_mail(session, mail, out),
            Mail::Opened(session) => self.on_opened(&session, out),
            Mail::Answer(message) => {
                self.verbs = self.verbs.saturating_sub(1);
                out.send(&message);
            }
            Mail::News(event) => {
                out.send(&event);
            }
            Mail::Finding(alert) => {
                if matches!(self.stage, Stage::Configuring | Stage::Live) {
                    self.tell_finding(&alert, out);
                }
            }
            Mail::NotInjected(seq, why) => {
                // Unless the process has come all the same.
                if self.attach_seq == Some(seq) && matches!(self.seat, Seat::Nobody) {
                    self.attach_failed(&why, out);
                }
            }
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (&self.seat, self.stage) {
            (_, Stage::Initialized | Stage::Ended) => Some(self.since + IDLE_WAIT),
            (Seat::Fleet(fleet), _) => fleet.deadline(),
            _ => None,
        }
    }

    fn expired(&mut self, out: &mut Outbox) {
        if let Seat::Fleet(fleet) = &mut self.seat {
            fleet.expire(out);
        } else {
            tracing::info!(client = %self.handle.id, "a client that asks for nothing is closed");
            self.finished = true;
        }
    }

    fn finished(&self) -> bool {
        self.finished
    }
}

/// Waits until a client that has lagged has room again.
async fn caught_up(handle: &Handle) {
    while !handle.has_caught_up() {
        tokio::time::sleep(CATCH_UP_INTERVAL).await;
    }
}

/// Tells the user something in the debug console.
fn notice(text: &str, out: &mut Outbox) {
    out.send(&Message::event(
        "output",
        json!({ "category": "console", "output": format!("dbgproxy: {text}\n") }),
    ));
}
