//! A session: one debugged process, and the task that owns its debug server's connection.
//!
//! It greets the process, keeps its state, gives it the union of what its clients want, and passes what it
//! says on to them. It knows its clients as watchers with a mailbox; it knows nothing of their views, and it
//! touches no socket itself: the [`crate::pump`] does.

mod asker;
mod awaiting;
mod debug_sessions;
mod dormancy;
mod ending;
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

use std::collections::{BTreeMap, HashMap, VecDeque};
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

use crate::agent::{self, FromAgent, How};
use crate::breakpoints::{Changed, Configuration};
use crate::client;
use crate::hub::{Hub, Reason};
use crate::link::Link;
use crate::monitor::Watchdog;
use crate::pump::{End, Peer, last_flush, pump};
use crate::selector::Subject;
use crate::wire::{Error, Message, Outbox};

pub use asker::Owner;
pub(crate) use awaiting::Attended;
pub use debug_sessions::{DebugSession, DebugSessions};
pub(crate) use dormancy::for_agent;
pub use dormancy::{ACTIVATION_WAIT, LINGER};
pub(crate) use greeting::meet;
pub use greeting::{Caller, Report};
pub use order::{MAX_DEPTH, Order};
pub use state::StoppedBody;

use asker::Asker;
use awaiting::Awaiting;
use dormancy::{Dormancy, Question};
use ending::LastStop;
use naming::Naming;
use placing::Placed;
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
    /// By whom it was ended most likely, if it had been stopped for longer than somebody has patience: what it did.
    pub ending: Option<String>,
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
    /// The parts of its work that it tells of.
    #[serde(rename = "debugSessions")]
    pub debug_sessions: DebugSessions,
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
    /// User code runs, and pydevd is not loaded.
    Dormant,
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
    /// Those of a process that is there.
    pub const LIVE: [State; 5] = [
        State::Dormant,
        State::Starting,
        State::Held,
        State::Running,
        State::Stopped,
    ];

    /// The word for it in listings and selectors.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            State::Dormant => "dormant",
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
    /// Who ends the process if it stays so, as it says itself once the monitor has asked.
    #[serde(skip)]
    pub watchdogs: Vec<Watchdog>,
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

    /// Puts a mail into its inbox.
    ///
    /// # Errors
    /// Why that cannot be done.
    pub fn tell(&self, mail: Mail) -> Result<(), String> {
        self.inbox.try_send(mail).map_err(|error| match error {
            TrySendError::Full(_) => "the process does not keep up with what it is asked".into(),
            TrySendError::Closed(_) => "the process has ended".into(),
        })
    }

    async fn answer_to(
        &self,
        mail: impl FnOnce(oneshot::Sender<Message>) -> Mail,
    ) -> Result<Message, String> {
        let (tx, rx) = oneshot::channel();
        self.tell(mail(tx))?;
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
    /// What the daemon stores for a file may have changed; who asks for an answer gets its verdicts.
    Stored(Box<str>, Option<oneshot::Sender<Message>>),
    /// A verb wants to know what the process says of the daemon's own breakpoints: DAP's `Breakpoint`s, under the
    /// daemon's numbers.
    Verdicts(oneshot::Sender<Vec<Value>>),
    /// A verb wants its last output.
    Output(oneshot::Sender<Vec<Message>>),
    /// Somebody wants the process to end.
    Terminate,
    /// All clients are to leave it.
    Detach,
    /// The program waits for an IDE, until then.
    AwaitClient(Instant, oneshot::Sender<Attended>),
    /// Somebody wants to know where the process is stopped; answered by dropping it once [`Info`] says so.
    Locate(oneshot::Sender<()>),
    /// The same process has connected anew, after an `exec` or out of its sleep.
    Reconnected(Box<Link>, Box<Caller>),
    /// An agent speaks for the process.
    Agent(agent::Handle, Box<Caller>),
    /// The agent with that number says something.
    FromAgent(u64, FromAgent),
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
    /// What pydevd had before it was told anew, the last at the end.
    former: VecDeque<(Changed, Placed)>,
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
    /// Who last made the process run; none if it did by itself.
    resumed_by: Option<Owner>,
    /// How the last stop ended, if somebody watches the process; emptied by the next one.
    last_stop: Option<LastStop>,
    /// Somebody has asked for a pause or a step, and no stop has come since.
    is_stop_awaited: bool,
    /// A verb wants the process to stop, or to make a step, or a breakpoint of the daemon's own was hit: it stays
    /// stopped then, though nobody watches.
    is_wanted_stopped: bool,
    /// A stop that nobody was told of is being undone: nor is anybody told that the process continues.
    is_undoing: bool,
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
    /// What it has of its agent.
    dormancy: Dormancy,
    /// Those in the program who wait for an IDE.
    awaiting: Awaiting,
    /// User code has been let go.
    has_run: bool,
    /// Another program has taken the place of the one that this connection is of.
    is_over: bool,
    /// The process says that it ends.
    is_exiting: bool,
    /// The connection that takes the place of this one.
    next: Option<(Box<Link>, Box<Caller>)>,
    /// pydevd has said goodbye: our side closes at once, which spares the process half a second.
    goodbye: bool,
}

/// How a process has come to us.
pub(crate) enum Arrival {
    /// Its debug server has connected.
    DebugServer(Box<Link>, Caller),
    /// Its agent has: it sleeps.
    Agent(agent::Handle, Caller),
}

/// How far the process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// It has an agent and no debug server.
    Dormant,
    /// Greeted, user code waits unless it runs already.
    Waiting,
    /// User code runs.
    Released,
    /// The connection is gone, and a new one of the same process may come.
    Replaced,
    /// The process is gone.
    Ended,
}

/// Serves a process from its debug server's greeting to its end; the task of one session.
pub(crate) async fn run(hub: Arc<Hub>, link: Link, caller: Caller) {
    let (session, inbox, link) = prepare(&hub, Arrival::DebugServer(Box::new(link), caller));
    serve(session, inbox, link).await;
}

/// Begins a session in a task of its own.
fn begin(hub: &Arc<Hub>, arrival: Arrival) -> Arc<Handle> {
    let (session, inbox, link) = prepare(hub, arrival);
    let handle = session.handle.clone();
    let serving: Pin<Box<dyn Future<Output = ()> + Send>> = Box::pin(serve(session, inbox, link));
    hub.tasks.spawn(serving);
    handle
}

/// A session that everybody knows of, and whose process is greeted.
fn prepare(
    hub: &Arc<Hub>,
    arrival: Arrival,
) -> (Box<Session>, mpsc::Receiver<Mail>, Option<Box<Link>>) {
    let (tx, inbox) = mpsc::channel(INBOX);
    match arrival {
        Arrival::DebugServer(mut link, caller) => {
            let mut session = Box::new(Session::new(hub.clone(), tx, caller));
            session.open();
            session.greet(&mut link.out);
            (session, inbox, Some(link))
        }
        Arrival::Agent(agent, caller) => {
            let mut session = Box::new(Session::new(hub.clone(), tx, caller));
            session.open();
            session.dormancy.agent = Some(agent.clone());
            session.welcome(&agent);
            (session, inbox, None)
        }
    }
}

/// Serves a process to its end.
async fn serve(
    mut session: Box<Session>,
    mut inbox: mpsc::Receiver<Mail>,
    mut link: Option<Box<Link>>,
) {
    let hub = session.hub.clone();
    loop {
        if let Some(mut link) = link.take() {
            let end = pump(&mut *session, &mut link, &mut inbox, &hub.stop).await;
            if matches!(end, End::Stopped) {
                session.let_go(&mut link.out);
                last_flush(&mut link).await;
            }
            tracing::debug!(?end, "the debug server's connection ended");
        }
        let next = match session.next.take() {
            Some(next) => {
                session.lose_link(Stage::Replaced);
                Some(next)
            }
            None if !hub.stop.is_cancelled() && session.may_come_back() => {
                session.unlinked(&mut inbox).await
            }
            None => None,
        };
        let Some((next, caller)) = next else { break };
        let mut next = next;
        session.replace(*caller, &mut next.out);
        link = Some(next);
    }
    session.end();
    inbox.close();
    while let Ok(mail) = inbox.try_recv() {
        match mail {
            // The process has come back just too late for this session: it gets another.
            Mail::Reconnected(link, caller) => {
                begin(&hub, Arrival::DebugServer(link, *caller));
            }
            // It tries again.
            Mail::Agent(agent, _) => drop(agent.tell(agent::Mail::Close)),
            mail => session.mail(mail, &mut Outbox::default()),
        }
    }
}

/// Sleeps until then, if there is a then.
async fn sleep_until(until: Option<Instant>) {
    tokio::time::sleep_until(until.unwrap_or_else(Instant::now)).await;
}

impl Session {
    fn new(hub: Arc<Hub>, inbox: mpsc::Sender<Mail>, caller: Caller) -> Session {
        let mut info = caller.info(&hub);
        info.id = Session::free_id(&hub, &caller).unwrap_or(info.id);
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
            former: VecDeque::new(),
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
            last_stop: None,
            is_stop_awaited: false,
            is_wanted_stopped: false,
            is_undoing: false,
            stored: Configuration::default(),
            questions: 0,
            checked: Instant::now(),
            was_in_view: false,
            locating: Vec::new(),
            dormancy: Dormancy::default(),
            awaiting: Awaiting::default(),
            has_run: false,
            is_over: false,
            is_exiting: false,
            next: None,
            goodbye: false,
        }
    }

    /// Makes the session known, and expects those who have it in view.
    fn open(&mut self) {
        let in_view = self.hub.open(&self.handle);
        {
            let info = self.handle.info();
            tracing::info!(session = %info.id, pid = info.pid, name = info.name, helper = info.helper, "process connected");
        }
        if self.caller.how == How::Reconnect {
            self.hub.adopt(&self.handle);
        }
        if !self.caller.report.is_helper() {
            for client in in_view {
                self.reserve(client);
            }
        }
        // It is known from here on: what changes later, it is told.
        self.read_all_stored();
    }

    /// The process has a debug server again: it slept, or it is another program of the same process.
    fn replace(&mut self, caller: Caller, out: &mut Outbox) {
        if self.dormancy.agent.is_none() {
            tracing::info!(session = %self.handle.id, pid = caller.pid, "process replaced itself and is back");
            self.renew(caller);
            self.has_run = false;
        } else {
            self.caller.system_info = caller.system_info;
            self.caller.report.absorb(caller.report);
            let (python, debugpy) = (
                self.caller.report.python.clone(),
                self.caller.report.debugpy.clone(),
            );
            self.handle
                .update(|info| (info.python, info.debugpy) = (python, debugpy));
            self.name_anew();
        }
        self.replaced = false;
        self.goodbye = false;
        self.is_over = false;
        self.process = None;
        self.told_connected = false;
        self.options = options::Options::default();
        self.stage = Stage::Waiting;
        let rescoped = self.rescope();
        self.greet(out);
        self.send_rescoped(rescoped, out);
        self.tell_all_joined();
        self.on_activated(out);
        if self.terminating {
            self.terminate(out);
        }
    }

    /// Takes over who the process is now.
    fn renew(&mut self, caller: Caller) {
        let fresh = caller.info(&self.hub);
        self.handle.update(|info| {
            info.debug_sessions.cut_off();
            *info = Info {
                id: info.id,
                parent: info.parent,
                started: info.started,
                order: info.order.clone(),
                name: info.name.clone(),
                number: info.number,
                labels: info.labels.clone(),
                debug_sessions: info.debug_sessions.clone(),
                ..fresh
            };
        });
        self.caller = caller;
        self.name_anew();
        self.read_all_stored();
    }

    /// Whether the process may have a debug server again.
    fn may_come_back(&self) -> bool {
        // At an exec both connections end, the agent's maybe first.
        let dormancy = &self.dormancy;
        let is_known = dormancy.is_known && self.is_alive() == Some(true);
        self.replaced || dormancy.agent.is_some() || is_known
    }

    /// Whether the process lives, where that can be known.
    fn is_alive(&self) -> Option<bool> {
        identity::is_alive(self.caller.report.identity.as_deref())
    }

    /// Whether it owes an answer to anybody else than the daemon.
    fn owes_answers(&self) -> bool {
        let is_own = |pending: &Pending| matches!(pending, Pending::Own | Pending::Name);
        !self.pending.values().all(is_own)
    }

    /// The connection is gone: what is under way is answered, and no thread is stopped any more.
    fn lose_link(&mut self, stage: Stage) {
        self.stage = stage;
        self.placed.clear();
        self.former.clear();
        self.locating.clear();
        self.held_parts.clear();
        self.naming = Naming::default();
        self.is_stop_awaited = false;
        self.is_undoing = false;
        let exited = |thread| {
            let body = serde_json::json!({ "reason": "exited", "threadId": thread });
            Message::event("thread", body)
        };
        let exited: Vec<Message> = self.threads.take().into_iter().map(exited).collect();
        if !exited.is_empty() {
            self.broadcast_all(&exited);
        }
        for (_, pending) in std::mem::take(&mut self.pending) {
            self.answer_lost(pending);
        }
        self.publish();
        self.resumed_by = None;
    }

    /// The process is gone, or the daemon stops: everybody is told, and the session goes to the history.
    fn end(&mut self) {
        self.lose_link(Stage::Ended);
        let ending = self.ending();
        for watcher in &self.watchers {
            let tell = |mail| watcher.client.tell(self.handle.id, mail);
            if let Some(ending) = &ending {
                tell(client::FromSession::Notice(format!("the process {ending}")));
            }
            tell(client::FromSession::Ended);
        }
        self.watchers.clear();
        if let Some(agent) = self.dormancy.agent.take() {
            // Its process lives, maybe: then it comes back, as another session.
            agent.tell(agent::Mail::Close);
        }
        self.handle.update(|info| {
            info.ended = Some(Timestamp::now());
            info.ending = ending;
            info.debug_sessions.cut_off();
            tracing::info!(session = %info.id, pid = info.pid, name = info.name, "process ended");
        });
        self.publish();
        self.hub.close(&self.handle);
    }

    /// By whom the process was ended most likely, if it was not by itself or by us.
    fn ending(&mut self) -> Option<String> {
        let last = self.last_stop.take()?;
        let is_ours = self.terminating || self.hub.stop.is_cancelled();
        let says_so = self.goodbye || self.is_exiting;
        let exit = self.handle.info().exit;
        (!is_ours).then(|| last.ending(exit, says_so))?
    }

    /// Brings what is publicly known up to date, and tells those who want to know.
    fn publish(&mut self) {
        let clients = self.watchers.len();
        let state = match self.stage {
            Stage::Dormant => State::Dormant,
            Stage::Ended => State::Ended,
            Stage::Replaced => State::Starting,
            Stage::Waiting if self.has_run => State::Running,
            Stage::Waiting => State::Held,
            Stage::Released if self.threads.any_stopped() => State::Stopped,
            Stage::Released if self.is_asleep() => State::Dormant,
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
            if !is_same_stop {
                let now = Instant::now();
                let ended = old.filter(|old| stop.is_none() && !old.watchdogs.is_empty());
                self.last_stop = ended.map(|old| LastStop {
                    watchdogs: old.watchdogs.clone(),
                    ended: now,
                    is_resumed: self.resumed_by.is_some(),
                });
            }
            (info.clients, info.state) = (clients, state);
            if !is_same_stop {
                info.stopped = stop.map(|stop| Stopped {
                    thread: stop.thread_id,
                    reason: stop.reason.clone(),
                    file: None,
                    line: None,
                    all_threads: stop.all_threads_stopped,
                    number: self.stops,
                    watchdogs: Vec::new(),
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
                if self.is_asleep() {
                    self.ask_later(asker, Question::Request(message));
                } else {
                    self.on_ask(asker, &message, out);
                }
            }
            Mail::AskGuard(function, argument, reply) => {
                let asker = Asker::verb(reply, function);
                if self.is_asleep() {
                    self.ask_later(asker, Question::Guard(function, argument));
                } else {
                    self.ask_guard(function, &argument, asker, out);
                }
            }
            Mail::Stored(file, reply) => {
                let asker = reply.map(|reply| Asker::verb(reply, "setBreakpoints"));
                self.take_stored(&file, asker, out);
            }
            // Who has given up misses nothing.
            Mail::Verdicts(reply) => drop(reply.send(self.stored_verdicts())),
            Mail::Output(reply) => drop(reply.send(self.output.events())),
            Mail::Terminate => self.terminate(out),
            Mail::Detach => self.detach(out),
            Mail::AwaitClient(until, reply) => self.await_client(until, reply),
            Mail::Locate(reply) => self.locate(reply, out),
            Mail::Reconnected(link, caller) => self.next = Some((link, caller)),
            Mail::Agent(agent, caller) => self.on_agent(agent, *caller),
            Mail::FromAgent(number, what) => self.on_agent_mail(number, what, out),
        }
    }

    fn deadline(&self) -> Option<Instant> {
        // Also of a process that says nothing more a slow client is told what it has lost.
        let looks = [
            self.waiting_until(),
            self.look_for_room(),
            self.naming_until(),
            self.idle_until(),
            self.awaiting.until(),
        ];
        looks.into_iter().flatten().min()
    }

    fn expired(&mut self, out: &mut Outbox) {
        self.expire(out);
        self.look_for_name(out);
        self.awaiting.expire();
        self.leave_if_idle(out);
    }

    fn hold(&mut self) -> Option<Instant> {
        self.look_idle();
        self.wait_for_room()
    }

    fn finished(&self) -> bool {
        self.goodbye || self.is_over || self.next.is_some()
    }
}

#[cfg(test)]
impl Info {
    /// What is known of a process that is not there; the number is its name.
    pub(crate) fn example(number: u32) -> Info {
        Info {
            id: Uuid::from_u128(number.into()),
            pid: number,
            parent: None,
            ppid: None,
            name: number.to_string(),
            labels: BTreeMap::new(),
            state: State::Starting,
            stopped: None,
            started: Timestamp::now(),
            ended: None,
            exit: None,
            ending: None,
            helper: false,
            clients: 0,
            python: None,
            debugpy: None,
            argv: Vec::new(),
            debug_sessions: DebugSessions::default(),
            order: Default::default(),
            number: 1,
            identity: None,
        }
    }
}

#[cfg(test)]
impl Handle {
    /// A session without a task, which a test plays itself; the number is its name.
    pub(crate) fn scripted(number: u32, inbox: mpsc::Sender<Mail>) -> Handle {
        let info = Info::example(number);
        let (id, info) = (info.id, watch::Sender::new(info));
        Handle { id, inbox, info }
    }
}
