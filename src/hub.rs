//! The directory: which sessions and clients there are, which sessions there were, and who has whom in view.
//!
//! It is asked when something comes or goes, never for a message.
//! It knows no socket and decides nothing about a process.

mod names;

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use dashmap::DashMap;
use dashmap::mapref::entry::Entry;
use jiff::Timestamp;
use serde::Serialize;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agent::How;
use crate::breakpoints::Store;
use crate::client::{self, ClientId};
use crate::config::Config;
use crate::monitor::{self, Alert, Who};
use crate::selector::Selector;
use names::Names;

use crate::session::{self, Caller, Info, Order, SessionId};

/// How many ended sessions are remembered; the oldest is forgotten first.
pub const HISTORY: usize = 1000;

/// How many news of sessions are kept for who follows them; who is further behind is told how many it has missed.
pub const NEWS: usize = 1024;

/// How long an ended session is remembered.
pub const HISTORY_AGE: Duration = Duration::from_secs(60 * 60);

/// How long after its end a session is still the parent of a process that comes: as long as a process may take from its
/// start to the port. Beyond it another process is likelier to have the pid.
pub const ORPHAN_WAIT: Duration = Duration::from_secs(30);

/// What all tasks of the daemon share.
pub struct Hub {
    /// What the user has set.
    pub config: Config,
    /// Cancelled when the daemon is to stop.
    pub stop: CancellationToken,
    /// Every connection's task.
    pub tasks: TaskTracker,
    /// Since when the daemon runs.
    pub started: Timestamp,
    /// Where it can be reached.
    pub addresses: Vec<String>,
    /// The daemon's own breakpoints.
    pub breakpoints: Arc<Store>,
    sessions: DashMap<SessionId, Arc<session::Handle>>,
    /// The live sessions of each pid, the oldest first; several where there are several PID namespaces.
    by_pid: DashMap<u32, Vec<Arc<session::Handle>>>,
    clients: DashMap<ClientId, Arc<client::Handle>>,
    /// The names of the live sessions, the only place that gives them their numbers. It is locked while the session's
    /// [`Info`] is, never the other way round.
    names: Mutex<Names>,
    history: Mutex<VecDeque<Info>>,
    last_order: AtomicU64,
    /// How many sessions there have been.
    opened: AtomicU64,
    news: broadcast::Sender<News>,
    monitor: OnceLock<monitor::Handle>,
}

/// Something about a session that others may want to know: the event `dbgproxy/session`.
#[derive(Debug, Clone, Serialize)]
pub struct News {
    /// What happened to it.
    pub reason: Reason,
    /// What is known of it now.
    pub session: Info,
}

/// What can happen to a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It has come.
    Opened,
    /// What is known of it has changed.
    Changed,
    /// It has ended.
    Closed,
}

impl Hub {
    /// An empty directory.
    #[must_use]
    pub fn new(
        config: Config,
        breakpoints: Store,
        addresses: Vec<String>,
        stop: CancellationToken,
    ) -> Hub {
        Hub {
            config,
            stop,
            tasks: TaskTracker::new(),
            started: Timestamp::now(),
            addresses,
            breakpoints: Arc::new(breakpoints),
            sessions: DashMap::new(),
            by_pid: DashMap::new(),
            clients: DashMap::new(),
            names: Mutex::default(),
            history: Mutex::new(VecDeque::new()),
            last_order: AtomicU64::new(0),
            opened: AtomicU64::new(0),
            news: broadcast::Sender::new(NEWS),
            monitor: OnceLock::new(),
        }
    }

    /// The monitor, if there is one.
    #[must_use]
    pub fn monitor(&self) -> Option<&monitor::Handle> {
        self.monitor.get()
    }

    /// There is a monitor now; false if there was one.
    pub(crate) fn set_monitor(&self, monitor: monitor::Handle) -> bool {
        self.monitor.set(monitor).is_ok()
    }

    /// What the daemon counts of itself.
    pub(crate) fn figures(&self) -> monitor::system::Daemon {
        let inboxes = self.sessions.iter();
        let inboxes =
            inboxes.map(|session| session.inbox.max_capacity() - session.inbox.capacity());
        let mailboxes = self.clients.iter().map(|client| client.waiting());
        monitor::system::Daemon {
            sessions: self.sessions.len(),
            clients: self.clients.len(),
            tasks: tokio::runtime::Handle::current()
                .metrics()
                .num_alive_tasks(),
            queued: inboxes.chain(mailboxes).sum(),
            traffic: crate::link::traffic(),
        }
    }

    /// Tells a finding to those who follow them, and to the clients that have its processes in view.
    pub(crate) fn alert(&self, alert: &Alert) {
        monitor::trace(alert);
        if let Some(monitor) = self.monitor() {
            monitor.publish(alert);
        }
        let (concerned, shown) = self.concerned(alert);
        for client in &self.clients {
            client.tell_alert(alert, &concerned, &shown);
        }
    }

    /// Tells a finding that stands to a client that has just come, if it has its processes in view.
    pub(crate) fn alert_to(&self, client: &client::Handle, alert: &Alert) {
        let (concerned, shown) = self.concerned(alert);
        client.tell_alert(alert, &concerned, &shown);
    }

    /// The sessions that a finding is about, and those of them that have a child session of a tree.
    fn concerned(&self, alert: &Alert) -> (Vec<Info>, HashSet<SessionId>) {
        let sessions = alert.finding.sessions.iter();
        let concerned: Vec<Info> = sessions.filter_map(|id| self.info(*id)).collect();
        // The root of a tree leaves to its child sessions what they show.
        let shown: HashSet<SessionId> = concerned
            .iter()
            .map(|info| info.id)
            .filter(|id| {
                self.clients
                    .iter()
                    .any(|client| client.is_child_session_of(*id))
            })
            .collect();
        (concerned, shown)
    }

    /// What is known of a session, be it an ended one.
    pub(crate) fn info(&self, id: SessionId) -> Option<Info> {
        let live = self.session(id).map(|session| session.info().clone());
        live.or_else(|| self.ended_session(id))
    }

    /// Who a process is, or was, as long as it is remembered.
    pub(crate) fn who(&self, session: SessionId) -> Option<Who> {
        let who = |info: &Info| Who {
            pid: info.pid,
            name: info.name.clone(),
        };
        let live = self.session(session).map(|session| who(&session.info()));
        live.or_else(|| self.ended_session(session).as_ref().map(who))
    }

    /// What is known of the sessions that are meant, the ended ones first.
    pub(crate) fn infos(&self, selector: &Selector) -> Vec<Info> {
        // Some may end meanwhile: the history first, so that none is in neither.
        let ended = self.ended();
        let known: HashSet<SessionId> = ended.iter().map(|info| info.id).collect();
        let live = self.sessions();
        let live = live.iter().map(|session| session.info().clone());
        let live = live.filter(|info| !known.contains(&info.id));
        let all = ended.into_iter().chain(live);
        all.filter(|info| selector.matches(&info.subject()))
            .collect()
    }

    /// The news of sessions from now on.
    #[must_use]
    pub fn news(&self) -> broadcast::Receiver<News> {
        self.news.subscribe()
    }

    /// Tells those who follow the news of a session.
    pub(crate) fn tell(&self, session: &session::Handle, reason: Reason) {
        if self.news.receiver_count() > 0 {
            let session = session.info().clone();
            // Those who follow may just have gone.
            let _ = self.news.send(News { reason, session });
        }
    }

    /// Tells all sessions that what is stored for a file has changed.
    ///
    /// One that has no room for it finds out when its process hits what is gone.
    pub(crate) fn tell_stored(&self, file: &str) {
        for session in &self.sessions {
            let _ = session
                .inbox
                .try_send(session::Mail::Stored(file.into(), None));
        }
    }

    /// How many sessions there have been.
    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }

    /// A number that grows with everything that comes.
    pub(crate) fn next_order(&self) -> u64 {
        self.last_order.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Makes a session known, and tells it to the clients that have it in view, which it gives.
    ///
    /// A client that comes at the same moment finds the session by itself: both look after both are known.
    pub(crate) fn open(&self, session: &Arc<session::Handle>) -> Vec<Arc<client::Handle>> {
        session.update(|info| {
            info.number = self.names().take(&info.name);
            info.name = names::shown(&info.name, info.number);
        });
        let pid = session.info().pid;
        self.sessions.insert(session.id, session.clone());
        // Its process may have been given up and be back, under its own id.
        self.history().retain(|info| info.id != session.id);
        self.by_pid.entry(pid).or_default().push(session.clone());
        self.opened.fetch_add(1, Ordering::Relaxed);
        self.tell(session, Reason::Opened);
        self.tell_of(session)
    }

    /// A session is called something else now, and has other labels: it gets another number, and clients that have
    /// it in view by them are told of it. Gives whether anything has changed.
    pub(crate) fn rename(
        &self,
        session: &Arc<session::Handle>,
        plain: &str,
        labels: BTreeMap<String, String>,
    ) -> bool {
        let is_called_so = session.info().plain_name() == plain;
        if is_called_so && session.info().labels == labels {
            return false;
        }
        session.update(|info| {
            info.labels = labels;
            if !is_called_so {
                let mut names = self.names();
                names.release(info.plain_name(), info.number);
                info.number = names.take(plain);
                info.name = names::shown(plain, info.number);
            }
        });
        self.tell(session, Reason::Changed);
        self.tell_of(session);
        true
    }

    /// Tells the clients that have a session in view of it; those that know it already leave it at that.
    fn tell_of(&self, session: &Arc<session::Handle>) -> Vec<Arc<client::Handle>> {
        let announcer = self.announcer(session);
        let in_view: Vec<_> = self
            .clients
            .iter()
            .filter(|client| client.has_in_view(session, announcer))
            .map(|client| client.clone())
            .collect();
        for client in &in_view {
            client.tell_of(session.clone());
        }
        in_view
    }

    /// The session whose clients are told of a new one: its nearest ancestor that somebody means to debug.
    pub(crate) fn announcer(&self, session: &session::Handle) -> Option<SessionId> {
        let (mut parent, mut order) = {
            let info = session.info();
            (info.parent?, info.order.clone())
        };
        while let Some(ancestor) = self.session(parent) {
            let info = ancestor.info();
            // Who says to be the parent of its own parent must not lead round.
            if !info.helper || !info.order.is_above(&order) {
                return Some(parent);
            }
            (parent, order) = (info.parent?, info.order.clone());
        }
        Some(parent)
    }

    /// A session has ended.
    pub(crate) fn close(&self, session: &session::Handle) {
        let info = {
            let info = session.info();
            self.names().release(info.plain_name(), info.number);
            info.clone()
        };
        // History first: at no moment is the session unknown.
        let mut history = self.history();
        history.push_back(info);
        while history.len() > HISTORY || history.front().is_some_and(is_old) {
            history.pop_front();
        }
        drop(history);
        self.sessions.remove(&session.id);
        self.tell(session, Reason::Closed);
        let pid = session.info().pid;
        if let Entry::Occupied(mut sessions) = self.by_pid.entry(pid) {
            sessions.get_mut().retain(|other| other.id != session.id);
            if sessions.get().is_empty() {
                sessions.remove();
            }
        }
    }

    fn of_pid(&self, pid: u32) -> Vec<Arc<session::Handle>> {
        self.by_pid
            .get(&pid)
            .map(|sessions| sessions.clone())
            .unwrap_or_default()
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn history(&self) -> MutexGuard<'_, VecDeque<Info>> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A live session.
    #[must_use]
    pub fn session(&self, id: SessionId) -> Option<Arc<session::Handle>> {
        self.sessions.get(&id).map(|session| session.clone())
    }

    /// All live sessions in the order of their tree, see [`Order`].
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<session::Handle>> {
        let mut sessions: Vec<_> = self
            .sessions
            .iter()
            .map(|session| session.clone())
            .collect();
        sessions.sort_by_cached_key(|session| session.info().order.clone());
        sessions
    }

    /// What is remembered of ended sessions, the oldest first.
    #[must_use]
    pub fn ended(&self) -> Vec<Info> {
        let history = self.history();
        history
            .iter()
            .filter(|info| !is_old(info))
            .cloned()
            .collect()
    }

    /// What is remembered of one ended session.
    #[must_use]
    pub fn ended_session(&self, id: SessionId) -> Option<Info> {
        let history = self.history();
        history
            .iter()
            .find(|info| info.id == id && !is_old(info))
            .cloned()
    }

    /// The newest live session of a pid.
    #[must_use]
    pub fn session_of_pid(&self, pid: u32) -> Option<Arc<session::Handle>> {
        self.of_pid(pid).pop()
    }

    /// The session of the process that started another, and its place, as far as pids and PID namespaces tell; that
    /// process may just have ended.
    ///
    /// A process that has come back may be here before its parent: it has no place behind it yet, see [`Hub::adopt`].
    pub(crate) fn parent_of(&self, caller: &Caller) -> Option<(SessionId, Option<Order>)> {
        let namespace = |identity: &Option<String>| {
            let (namespace, _) = identity.as_deref()?.rsplit_once('/')?.0.rsplit_once('/')?;
            Some(namespace.to_owned())
        };
        let own = namespace(&caller.report.identity);
        let is_near = |info: &Info| {
            let theirs = namespace(&info.identity);
            own.is_none() || theirs.is_none() || own == theirs
        };
        let place = |info: &Info| is_near(info).then(|| (info.id, Some(info.order.clone())));
        if let Some(parent) = caller.parent.filter(|id| caller.session != Some(*id)) {
            // Its agent knows better than pids do.
            let live = self
                .session(parent)
                .map(|session| session.info().order.clone());
            let order = live.or_else(|| self.ended_session(parent).map(|info| info.order));
            let may_come = caller.how == How::Reconnect;
            return (order.is_some() || may_come).then_some((parent, order));
        }
        let ppid = caller.ppid?;
        let live = self.of_pid(ppid);
        let live = live.iter().rev().find_map(|session| place(&session.info()));
        // One that ends meanwhile is in the history before it is no longer among the live.
        live.or_else(|| {
            let history = self.history();
            let mut recent = history
                .iter()
                .rev()
                .take_while(|info| !has_ended_before(info, ORPHAN_WAIT));
            recent.find_map(|info| place(info).filter(|_| info.pid == ppid))
        })
    }

    /// Puts those behind a session that has come back who were back before it, and have named it as their parent.
    pub(crate) fn adopt(&self, parent: &session::Handle) {
        let above = parent.info().order.clone();
        // All that there are come back at once when a daemon is back: who looks through all of them must be quick.
        let children: Vec<Order> = self
            .sessions
            .iter()
            .filter_map(|child| {
                let info = child.info();
                let is_behind = above.is_above(&info.order) || info.order.is_above(&above);
                let is_child = info.parent == Some(parent.id) && info.id != parent.id;
                (is_child && !is_behind).then(|| info.order.clone())
            })
            .collect();
        if children.is_empty() {
            return;
        }
        let sessions = self.sessions();
        for order in children {
            let place = Order::new(Some(&above), order.number());
            for other in &sessions {
                let moved = other.info().order.moved(&order, &place);
                if let Some(moved) = moved {
                    other.update(|info| info.order = moved);
                    self.tell(other, Reason::Changed);
                }
            }
        }
    }

    /// The live session that a caller belongs to already: the same process on a new connection.
    ///
    /// A session that it names must be one of its pid, and of its identity where both are known: a fork's child has
    /// its parent's session in its memory, and whoever reads an environment knows the session in it.
    pub(crate) fn session_of(&self, caller: &Caller) -> Option<Arc<session::Handle>> {
        let identity = caller.report.identity.as_ref();
        let named = caller.session.and_then(|id| self.session(id));
        let named = named.filter(|session| {
            let info = session.info();
            let is_other = |known: &String| identity.is_some_and(|own| own != known);
            info.pid == caller.pid && !info.identity.as_ref().is_some_and(is_other)
        });
        named.or_else(|| {
            let identity = identity?;
            let mut of_pid = self.of_pid(caller.pid).into_iter();
            of_pid.find(|session| session.info().identity.as_ref() == Some(identity))
        })
    }

    /// Notes the exit code of a process that is about to end or has just ended; false if there is none.
    pub(crate) fn note_exit(&self, pid: u32, exit: i64) -> bool {
        if let Some(session) = self.session_of_pid(pid) {
            session.update(|info| info.exit = Some(exit));
            return true;
        }
        let mut history = self.history();
        let mut recent = history.iter_mut().rev();
        let ended = recent.find(|info| info.pid == pid && !has_ended_before(info, ORPHAN_WAIT));
        ended.map(|info| info.exit = Some(exit)).is_some()
    }

    /// Makes a client known.
    pub(crate) fn register(&self, client: &Arc<client::Handle>) {
        self.clients.insert(client.id, client.clone());
    }

    /// A client has gone.
    pub(crate) fn unregister(&self, client: ClientId) {
        self.clients.remove(&client);
    }

    /// How many clients there are.
    #[must_use]
    pub fn client_count(&self) -> usize {
        self.clients.len()
    }

    /// Where a client that came by a unix socket can tell others to connect to, if anywhere.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        self.addresses
            .iter()
            .find_map(|address| address.parse().ok())
    }
}

/// Whether an ended session is to be forgotten.
fn is_old(info: &Info) -> bool {
    has_ended_before(info, HISTORY_AGE)
}

/// Whether a session ended longer ago than this.
fn has_ended_before(info: &Info, age: Duration) -> bool {
    let ended = info
        .ended
        .map(|ended| Timestamp::now().duration_since(ended));
    ended.is_some_and(|ended| ended.unsigned_abs() > age)
}
