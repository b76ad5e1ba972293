//! A session: one debugged process, and the task that owns its debug server's connection.
//!
//! It greets the process, keeps its state, gives it the union of what its clients want, and passes what it
//! says on to them. It knows its clients as watchers with a mailbox; it knows nothing of their views, and it
//! touches no socket itself: the [`crate::pump`] does.

mod asker;
mod events;
mod greeting;
mod identity;
mod naming;
mod options;
mod order;
mod placing;
mod requests;
mod state;
mod watchers;

use std::collections::{BTreeMap, HashMap};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use crate::breakpoints::{Changed, Configuration, Place};
use crate::client;
use crate::hub::{Hub, Reason};
use crate::link::Link;
use crate::pump::{End, Peer, last_flush, pump};
use crate::selector::Subject;
use crate::wire::{Error, Message, Outbox};

pub use asker::Owner;
pub(crate) use greeting::meet;
pub use greeting::{Caller, Report};
pub use order::{MAX_DEPTH, Order};
pub use state::StoppedBody;

use asker::Asker;
use naming::Naming;
use requests::Pending;
use state::Threads;
use watchers::{OutputHistory, Reservation, Watcher};

/// The most mails that wait for one session; beyond it a client's request is answered with a failure.
/// It also bounds the clients of one session, each of which keeps a place for its goodbye.
pub const INBOX: usize = 2 * 1024;

/// How long a process that said it will be replaced (`exec`) may take to come back on a new connection.
/// A program that is not Python never does, and pydevd cannot tell; then the session ends after this time.
pub const REPLACEMENT_WAIT: Duration = Duration::from_secs(15);

/// How often to look meanwhile whether the process lives at all.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Which process: a random UUID, because pids collide over time and over namespaces.
pub type SessionId = Uuid;

/// What is publicly known of a session, in the words of the verb `sessions`.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// The session's own number.
    pub id: SessionId,
    /// As the process itself sees it, maybe in a PID namespace of its own.
    pub pid: u32,
    /// The session of the process that started it, if that was debugged.
    pub parent: Option<SessionId>,
    /// The operating system's word for the parent.
    pub ppid: Option<u32>,
    /// What people call it; the number of several that are called the same is part of it.
    pub name: String,
    /// That number; 1 is not shown.
    #[serde(skip)]
    pub number: u32,
    /// What selectors can ask for, such as `rank`.
    pub labels: BTreeMap<String, String>,
    /// Where it stands.
    pub state: State,
    /// Why and where it is stopped, if it is.
    pub stopped: Option<Stopped>,
    /// When it connected.
    pub started: Timestamp,
    /// When it ended.
    pub ended: Option<Timestamp>,
    /// How it ended, where that is known.
    pub exit: Option<i64>,
    /// Whether it is one of multiprocessing's own processes, which nobody means to debug.
    pub helper: bool,
    /// How many clients watch it.
    pub clients: usize,
    /// The version of its Python.
    pub python: Option<String>,
    /// The version of its debugpy.
    pub debugpy: Option<String>,
    /// Its command line as the user would write it.
    pub argv: Vec<String>,
    /// Where it stands among all sessions.
    pub order: Order,
    /// What is the same in two connections of one process and differs between any two processes.
    #[serde(skip)]
    pub identity: Option<String>,
}

/// Where a session stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It is being greeted, or its process is being replaced.
    Starting,
    /// It waits for an IDE before user code runs.
    Held,
    /// User code runs.
    Running,
    /// At least one thread is stopped.
    Stopped,
    /// Its process is gone.
    Ended,
}

impl State {
    /// The word for it in listings and selectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Starting => "starting",
            State::Held => "held",
            State::Running => "running",
            State::Stopped => "stopped",
            State::Ended => "ended",
        }
    }
}

/// Why and where a process is stopped.
#[derive(Debug, Clone, Serialize)]
pub struct Stopped {
    /// The thread that caused it.
    pub thread: i64,
    /// Why, in DAP's words.
    pub reason: String,
    /// The file of the topmost frame, once somebody has asked.
    pub file: Option<String>,
    /// Its line.
    pub line: Option<i64>,
    /// Whether all threads stopped with it.
    #[serde(skip)]
    pub all_threads: bool,
    /// Which of the session's stops it is: two at one place are two.
    #[serde(skip)]
    pub number: u64,
}

impl Info {
    /// What people call it, without the number.
    #[must_use]
    pub fn plain_name(&self) -> &str {
        let number = (self.number > 1).then(|| format!(" ({})", self.number));
        let plain = number.and_then(|number| self.name.strip_suffix(&number));
        plain.unwrap_or(&self.name)
    }

    /// What selectors look at.
    #[must_use]
    pub fn subject(&self) -> Subject<'_> {
        Subject {
            id: self.id,
            pid: self.pid,
            name: &self.name,
            plain_name: self.plain_name(),
            state: self.state.word(),
            labels: &self.labels,
        }
    }
}

/// What the rest of the daemon has of a session.
pub struct Handle {
    /// Which session.
    pub id: SessionId,
    /// Where its mail goes.
    pub inbox: mpsc::Sender<Mail>,
    info: watch::Sender<Info>,
}

impl Handle {
    /// What is publicly known of it now; not to be kept while it may change.
    pub fn info(&self) -> watch::Ref<'_, Info> {
        self.info.borrow()
    }

    /// Changes what is publicly known of it.
    pub(crate) fn update(&self, change: impl FnOnce(&mut Info)) {
        self.info.send_modify(change);
    }

    /// Waits until something is the case of it, or it has ended.
    pub async fn until(&self, mut is_so: impl FnMut(&Info) -> bool) {
        // The sender is here: the channel does not close meanwhile.
        let _ = self
            .info
            .subscribe()
            .wait_for(|info| is_so(info) || info.ended.is_some())
            .await;
    }

    /// Asks the process something, as a client would; the answer is the response.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn ask(&self, request: Message) -> Result<Message, String> {
        self.answer_to(|reply| Mail::Ask(Box::new(request), reply))
            .await
    }

    /// Asks the guard in the process something; the answer's body is what the function gives.
    ///
    /// # Errors
    /// Why it cannot be asked.
    pub async fn ask_guard(
        &self,
        function: &'static str,
        argument: Value,
    ) -> Result<Message, String> {
        self.answer_to(|reply| Mail::AskGuard(function, Box::new(argument), reply))
            .await
    }

    async fn answer_to(
        &self,
        mail: impl FnOnce(oneshot::Sender<Message>) -> Mail,
    ) -> Result<Message, String> {
        let (tx, rx) = oneshot::channel();
        self.inbox.try_send(mail(tx)).map_err(|error| match error {
            TrySendError::Full(_) => "the process does not keep up with what it is asked",
            TrySendError::Closed(_) => "the process has ended",
        })?;
        rx.await
            .map_err(|_| "the process ended before it answered".into())
    }
}

/// What other tasks tell a session.
pub enum Mail {
    /// A client wants to watch; it is answered with [`client::FromSession::Joined`].
    Join(Arc<client::Handle>, Arc<client::Attach>),
    /// A client was told of the process, and may be coming.
    Expect(Arc<client::Handle>),
    /// A client that was told of the process will not attach to it.
    Decline(client::ClientId),
    /// A client has gone, by whatever way.
    Leave(client::ClientId),
    /// A client's request for the process, answered exactly once, under the client's token for it.
    /// Boxed, because an idle session's inbox keeps room for some mails of the largest size.
    Request(Arc<client::Handle>, i64, Box<Message>),
    /// A verb's request for the process, answered once.
    Ask(Box<Message>, oneshot::Sender<Message>),
    /// A verb's question to the guard: its function and what it takes, answered once.
    AskGuard(&'static str, Box<Value>, oneshot::Sender<Message>),
    /// A verb wants its last output.
    Output(oneshot::Sender<Vec<Message>>),
    /// Somebody wants the process to end.
    Terminate,
    /// All clients are to leave it.
    Detach,
    /// Somebody wants to know where the process is stopped; answered by dropping it once [`Info`] says so.
    Locate(oneshot::Sender<()>),
    /// The same process has connected anew, after an `exec`.
    Reconnected(Box<Link>, Box<Caller>),
}

/// One debugged process.
struct Session {
    hub: Arc<Hub>,
    handle: Arc<Handle>,
    stage: Stage,
    /// Who the process said it is; renewed when it is replaced.
    caller: Caller,
    /// Its clients, in the order in which they came.
    watchers: Vec<Watcher>,
    /// Clients that are expected to come before user code runs.
    reservations: Vec<Reservation>,
    threads: Threads,
    /// By our number, the requests that the process has not answered yet.
    pending: HashMap<i64, Pending>,
    /// By what was set, which of pydevd's breakpoints are whose.
    placed: HashMap<Changed, Vec<Placed>>,
    /// By thread that is about to stop, the parts of merged breakpoints that held, as the guard's helper says.
    held_parts: HashMap<i64, Vec<String>>,
    /// The pydevd options in force, and whose they are.
    options: options::Options,
    /// pydevd's `process` event.
    process: Option<Message>,
    output: OutputHistory,
    /// What it is asked for its name's sake.
    naming: Naming,
    /// Whether the process believes that an IDE is connected.
    told_connected: bool,
    /// The process said that it will be replaced.
    replaced: bool,
    /// A client wants the process to end, and it has not yet.
    terminating: bool,
    /// How many stops there were, to tell one from another.
    stops: u64,
    /// Who last made the process run.
    resumed_by: Option<Owner>,
    /// A verb wants the process to stop, or to make a step: it stays stopped then, though nobody watches.
    is_wanted_stopped: bool,
    /// The breakpoints of the daemon itself that hold in this process.
    stored: Configuration,
    /// How many questions the guard was asked, to tell one from another.
    questions: i64,
    /// When those for whom user code waits were last looked after.
    checked: Instant,
    /// Whether a client that does not attach has the process in view all the same.
    was_in_view: bool,
    /// Those who wait to know where the process is stopped.
    locating: Vec<oneshot::Sender<()>>,
    /// The connection that takes the place of this one.
    next: Option<(Box<Link>, Box<Caller>)>,
    /// pydevd has said goodbye: our side closes at once, which spares the process half a second.
    goodbye: bool,
}

/// One of pydevd's breakpoints and its owners.
struct Placed {
    /// pydevd's number.
    id: i64,
    /// Where it is.
    place: Place,
    /// Who wants it, and their own numbers for it.
    parts: Vec<(Owner, i64)>,
}

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Greeted, user code waits.
    Waiting,
    /// User code runs.
    Released,
    /// The connection is gone, and a new one of the same process may come.
    Replaced,
    /// The process is gone.
    Ended,
}

/// Serves a process from its greeting to its end; the task of one session.
pub(crate) async fn run(hub: Arc<Hub>, link: Link, caller: Caller) {
    let (tx, mut inbox) = mpsc::channel(INBOX);
    let mut session = Session::new(hub.clone(), tx, caller);
    let mut link = link;
    session.open(&mut link.out);
    loop {
        let end = pump(&mut session, &mut link, &mut inbox, &hub.stop).await;
        if matches!(end, End::Stopped) {
            session.let_go(&mut link.out);
            last_flush(&mut link).await;
        }
        tracing::debug!(?end, "the debug server's connection ended");
        drop(link);
        let next = match session.next.take() {
            Some(next) => {
                session.lose_link(Stage::Replaced);
                Some(next)
            }
            None if session.replaced && !hub.stop.is_cancelled() => {
                session.replacement(&mut inbox).await
            }
            None => None,
        };
        let Some((next, caller)) = next else { break };
        link = *next;
        session.replace(*caller, &mut link.out);
    }
    session.end();
    inbox.close();
    while let Ok(mail) = inbox.try_recv() {
        match mail {
            // The process has come back just too late for this session: it gets another.
            Mail::Reconnected(link, caller) => {
                hub.tasks.spawn(begin(hub.clone(), *link, *caller));
            }
            mail => session.mail(mail, &mut Outbox::default()),
        }
    }
}

/// [`run`], for itself to start.
fn begin(hub: Arc<Hub>, link: Link, caller: Caller) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(run(hub, link, caller))
}

impl Session {
    fn new(hub: Arc<Hub>, inbox: mpsc::Sender<Mail>, caller: Caller) -> Session {
        let info = caller.info(&hub);
        let handle = Arc::new(Handle {
            id: info.id,
            inbox,
            info: watch::Sender::new(info),
        });
        Session {
            hub,
            handle,
            stage: Stage::Waiting,
            caller,
            watchers: Vec::new(),
            reservations: Vec::new(),
            threads: Threads::default(),
            pending: HashMap::new(),
            placed: HashMap::new(),
            held_parts: HashMap::new(),
            options: options::Options::default(),
            process: None,
            output: OutputHistory::default(),
            naming: Naming::default(),
            told_connected: false,
            replaced: false,
            terminating: false,
            stops: 0,
            resumed_by: None,
            is_wanted_stopped: false,
            stored: Configuration::default(),
            questions: 0,
            checked: Instant::now(),
            was_in_view: false,
            locating: Vec::new(),
            next: None,
            goodbye: false,
        }
    }

    /// Makes the session known, and begins the greeting.
    fn open(&mut self, out: &mut Outbox) {
        let in_view = self.hub.open(&self.handle);
        {
            let info = self.handle.info();
            tracing::info!(session = %info.id, pid = info.pid, name = info.name, helper = info.helper, "process connected");
        }
        if !self.caller.report.is_helper() {
            for client in in_view {
                self.reserve(client);
            }
        }
        self.greet(out);
    }

    /// The same process has come back on a new connection: another program, the same session.
    fn replace(&mut self, caller: Caller, out: &mut Outbox) {
        tracing::info!(session = %self.handle.id, pid = caller.pid, "process replaced itself and is back");
        let fresh = caller.info(&self.hub);
        self.handle.update(|info| {
            *info = Info {
                id: info.id,
                parent: info.parent,
                started: info.started,
                order: info.order.clone(),
                name: info.name.clone(),
                number: info.number,
                labels: info.labels.clone(),
                ..fresh
            };
        });
        self.caller = caller;
        self.name_anew();
        self.replaced = false;
        self.goodbye = false;
        self.process = None;
        self.told_connected = false;
        self.options = options::Options::default();
        self.stage = Stage::Waiting;
        self.greet(out);
        if self.terminating {
            self.terminate(out);
        }
    }

    /// Waits for the process to come back, and goes on answering meanwhile.
    async fn replacement(
        &mut self,
        inbox: &mut mpsc::Receiver<Mail>,
    ) -> Option<(Box<Link>, Box<Caller>)> {
        self.lose_link(Stage::Replaced);
        let until = Instant::now() + REPLACEMENT_WAIT;
        let mut look = tokio::time::interval(LOOK_INTERVAL);
        let stop = self.hub.stop.clone();
        let mut out = Outbox::default();
        loop {
            let mail = tokio::select! {
                mail = tokio::time::timeout_at(until, inbox.recv()) => mail.ok().flatten()?,
                _ = look.tick() => {
                    if identity::is_alive(self.caller.report.identity.as_deref()) == Some(false) {
                        return None;
                    }
                    continue;
                }
                () = stop.cancelled() => return None,
            };
            self.mail(mail, &mut out);
            if self.next.is_some() {
                return self.next.take();
            }
        }
    }

    /// The connection is gone: what is under way is answered, and no thread is stopped any more.
    fn lose_link(&mut self, stage: Stage) {
        self.stage = stage;
        self.placed.clear();
        self.locating.clear();
        self.held_parts.clear();
        self.resumed_by = None;
        self.naming = Naming::default();
        for thread in self.threads.take() {
            let body = serde_json::json!({ "reason": "exited", "threadId": thread });
            self.broadcast(&Message::event("thread", body));
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.answer_lost(pending);
        }
        self.publish();
    }

    /// The process is gone, or the daemon stops: everybody is told, and the session goes to the history.
    fn end(&mut self) {
        self.lose_link(Stage::Ended);
        for watcher in &self.watchers {
            watcher
                .client
                .tell(self.handle.id, client::FromSession::Ended);
        }
        self.watchers.clear();
        self.handle.update(|info| {
            info.ended = Some(Timestamp::now());
            tracing::info!(session = %info.id, pid = info.pid, name = info.name, "process ended");
        });
        self.publish();
        self.hub.close(&self.handle);
    }

    /// Brings what is publicly known up to date, and tells those who want to know.
    fn publish(&self) {
        let clients = self.watchers.len();
        let state = match self.stage {
            Stage::Ended => State::Ended,
            Stage::Replaced => State::Starting,
            Stage::Waiting => State::Held,
            Stage::Released if self.threads.any_stopped() => State::Stopped,
            Stage::Released => State::Running,
        };
        let stop = self.threads.stops().next();
        let stop = stop
            .filter(|_| state == State::Stopped)
            .map(|stop| &stop.body);
        let changed = self.handle.info.send_if_modified(|info| {
            let old = info.stopped.as_ref();
            let is_same_stop = old.map(|old| (old.thread, &*old.reason, old.number))
                == stop.map(|stop| (stop.thread_id, &*stop.reason, self.stops));
            let is_same = is_same_stop && (info.clients, info.state) == (clients, state);
            (info.clients, info.state) = (clients, state);
            if !is_same_stop {
                info.stopped = stop.map(|stop| Stopped {
                    thread: stop.thread_id,
                    reason: stop.reason.clone(),
                    file: None,
                    line: None,
                    all_threads: stop.all_threads_stopped,
                    number: self.stops,
                });
            }
            !is_same
        });
        if changed && self.stage != Stage::Ended {
            self.hub.tell(&self.handle, Reason::Changed);
        }
    }
}

impl Peer for Session {
    type Mail = Mail;

    fn message(&mut self, message: Message, out: &mut Outbox) {
        self.on_message(message, out);
    }

    fn malformed(&mut self, error: &Error, _out: &mut Outbox) {
        tracing::warn!(session = %self.handle.id, %error, "the debug server sent something that is left out");
    }

    fn mail(&mut self, mail: Mail, out: &mut Outbox) {
        match mail {
            Mail::Join(client, attach) => self.join(client, attach, out),
            Mail::Expect(client) => self.expect(client, out),
            Mail::Decline(client) => self.decline(client, out),
            Mail::Leave(client) => self.leave(client, out),
            Mail::Request(client, token, message) => {
                self.on_request(&client, token, &message, out);
            }
            Mail::Ask(message, reply) => {
                let asker = Asker::verb(reply, message.name());
                self.on_ask(asker, &message, out);
            }
            Mail::AskGuard(function, argument, reply) => {
                let asker = Asker::verb(reply, function);
                self.ask_guard(function, &argument, asker, out);
            }
            // Who has given up misses nothing.
            Mail::Output(reply) => drop(reply.send(self.output.events())),
            Mail::Terminate => self.terminate(out),
            Mail::Detach => self.detach(out),
            Mail::Locate(reply) => self.locate(reply, out),
            Mail::Reconnected(link, caller) => self.next = Some((link, caller)),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // Also of a process that says nothing more a slow client is told what it has lost.
        let looks = [
            self.waiting_until(),
            self.look_for_room(),
            self.naming_until(),
        ];
        looks.into_iter().flatten().min()
    }

    fn expired(&mut self, out: &mut Outbox) {
        self.expire(out);
        self.look_for_name(out);
    }

    fn hold(&mut self) -> Option<Instant> {
        self.wait_for_room()
    }

    fn finished(&self) -> bool {
        self.goodbye || self.next.is_some()
    }
}
