//! What the rest of the daemon has of a client: its mailbox, what it has in view, and whether it comes when told.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::Value;
use tokio::time::Instant;

use crate::mailbox::{Mailbox, Weight};
use crate::monitor::Alert;
use crate::selector::Selector;
use crate::session::{self, Info, SessionId};
use crate::wire::Message;

/// Which client: a number that is never used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClientId(pub(super) u64);

impl fmt::Display for ClientId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(formatter)
    }
}

/// Which sessions a client has in view.
#[derive(Debug, Clone)]
pub enum View {
    /// It has not attached, or its session is over.
    Nothing,
    /// It waits for a process to come: the first that matches, or the one of this pid.
    Waiting(Option<u32>, Selector),
    /// One process; its children are announced, unless the root of a tree does that.
    Process(SessionId, Announces),
    /// All that match, each announced to it.
    Tree(Selector),
    /// All that match, in one session.
    Merged(Selector),
}

/// Whether a client of one process is told of the children.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Announces {
    /// Yes, as debugpy does.
    Children,
    /// No: it belongs to a tree, whose root is told.
    Nothing,
}

/// What the rest of the daemon has of a client.
pub struct Handle {
    /// Which client.
    pub id: ClientId,
    /// What it calls itself (`clientID`), empty if it does not say.
    pub name: String,
    pub(super) mailbox: Mailbox<Mail>,
    view: Mutex<View>,
    adoption: Mutex<Adoption>,
}

/// Whether a client attaches to what it is told of.
struct Adoption {
    /// Assumed until it fails to.
    adopts: bool,
    /// Since when it is configured, and can be told of anything.
    live: Option<Instant>,
    /// When it last attached to something that it was told of, or said that it will. An IDE attaches to many
    /// processes one after the other: while it does, the others wait.
    last: Option<Instant>,
}

/// What other tasks tell a client.
pub enum Mail {
    /// A session that it watches says something.
    Session(SessionId, FromSession),
    /// A session that it has in view has come.
    Opened(Arc<session::Handle>),
    /// What came of a verb: the response.
    Answer(Message),
    /// News that it follows: the event.
    News(Message),
    /// Something is wrong with a session that it has in view, or no longer.
    Finding(Alert),
    /// A process could not be brought here, for the `attach` of that number.
    NotInjected(i64, String),
}

/// What a session tells a client that watches it.
pub enum FromSession {
    /// The client's configuration may begin.
    Joined,
    /// An event, as the client is to see it.
    Event(Message),
    /// Several events that belong together, in one mail: a process may have thousands of threads.
    Events(Vec<Message>),
    /// The answer to its request of that token.
    Response(i64, Message),
    /// Something to be told on its console.
    Notice(String),
    /// The process has another name or other labels.
    Renamed,
    /// The process has ended.
    Ended,
}

impl Weight for Mail {
    fn weight(&self) -> usize {
        match self {
            Mail::Session(_, FromSession::Event(message) | FromSession::Response(_, message))
            | Mail::Answer(message)
            | Mail::News(message) => message.size(),
            Mail::Finding(alert) => alert.finding.message.len(),
            Mail::Session(_, FromSession::Events(events)) => events.iter().map(Message::size).sum(),
            Mail::Session(_, FromSession::Notice(text)) | Mail::NotInjected(_, text) => text.len(),
            Mail::Session(_, FromSession::Joined | FromSession::Renamed | FromSession::Ended)
            | Mail::Opened(_) => 0,
        }
    }
}

impl Handle {
    /// A client that has not attached yet.
    pub(super) fn new(id: ClientId, name: String, mailbox: Mailbox<Mail>) -> Handle {
        Handle {
            id,
            name,
            mailbox,
            view: Mutex::new(View::Nothing),
            adoption: Mutex::new(Adoption {
                adopts: true,
                live: None,
                last: None,
            }),
        }
    }

    /// Tells it something of a session. A client that has no room for it is closed.
    pub fn tell(&self, session: SessionId, mail: FromSession) {
        self.mailbox.send(Mail::Session(session, mail));
    }

    /// Tells it that a session has come.
    pub fn tell_of(&self, session: Arc<session::Handle>) {
        self.mailbox.send(Mail::Opened(session));
    }

    /// Tells it news that it follows.
    pub(super) fn tell_news(&self, (name, body): (&str, Value)) {
        let event = Message::event(name, body);
        self.mailbox.send(Mail::News(event));
    }

    /// Tells its console that something is wrong with a session that it has in view, or no longer. A client that lags
    /// misses it, as it misses other output.
    pub(crate) fn tell_alert(&self, alert: &Alert, concerned: &[Info], shown: &HashSet<SessionId>) {
        if self.lags() || !concerned.iter().any(|info| self.shows(info, shown)) {
            return;
        }
        self.mailbox.send(Mail::Finding(alert.clone()));
    }

    /// Whether it is a child session of a tree, and shows this process.
    pub(crate) fn is_child_session_of(&self, session: SessionId) -> bool {
        matches!(&*self.view(), View::Process(id, Announces::Nothing) if *id == session)
    }

    /// Whether a session, maybe an ended one, is among what it shows; `shown` are those that have a child session.
    fn shows(&self, info: &Info, shown: &HashSet<SessionId>) -> bool {
        match &*self.view() {
            View::Nothing | View::Waiting(..) => false,
            View::Process(id, _) => *id == info.id,
            View::Tree(_) if shown.contains(&info.id) => false,
            View::Tree(selector) | View::Merged(selector) => {
                !info.helper && selector.matches(&info.subject())
            }
        }
    }

    /// How many mails wait for it.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.mailbox.waiting()
    }

    /// Whether its mailbox is so full that what can be left out should be.
    #[must_use]
    pub fn lags(&self) -> bool {
        self.mailbox.lags()
    }

    /// Whether it has worked off what had piled up.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.mailbox.has_caught_up()
    }

    /// Whether its connection has ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.mailbox.is_closed()
    }

    /// Whether it is one of those that take a `continued` event badly after their own request.
    #[must_use]
    pub fn is_visual_studio(&self) -> bool {
        matches!(self.name.as_str(), "visualstudio" | "vsformac")
    }

    /// Whether it can be expected to attach to what it is told of.
    #[must_use]
    pub fn adopts(&self) -> bool {
        self.adoption().adopts
    }

    /// When it last was heard to do something about what it was told of; none if it is not told yet.
    #[must_use]
    pub fn last_adoption(&self) -> Option<Instant> {
        let adoption = self.adoption();
        adoption.last.max(adoption.live)
    }

    /// It is configured: from now on it is told of what comes.
    pub fn is_live(&self) {
        self.adoption().live = Some(Instant::now());
    }

    /// It says that it will attach to what it was told of.
    pub fn will_adopt(&self) {
        self.adoption().last = Some(Instant::now());
    }

    /// It attaches to what it is told of.
    pub fn has_adopted(&self) {
        let mut adoption = self.adoption();
        adoption.adopts = true;
        adoption.last = Some(Instant::now());
    }

    /// It has let its time pass: nothing is kept waiting for it again, until it attaches to something after all.
    pub fn has_ignored(&self) {
        self.adoption().adopts = false;
    }

    fn adoption(&self) -> MutexGuard<'_, Adoption> {
        self.adoption.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is to be told of a session; `announcer` is the session whose clients hear of this one.
    #[must_use]
    pub fn has_in_view(&self, session: &session::Handle, announcer: Option<SessionId>) -> bool {
        let info = session.info();
        let in_view = match &*self.view() {
            View::Nothing | View::Process(_, Announces::Nothing) => false,
            View::Waiting(pid, selector) => {
                pid.is_none_or(|pid| pid == info.pid) && selector.matches(&info.subject())
            }
            View::Process(parent, Announces::Children) => announcer == Some(*parent),
            View::Tree(selector) | View::Merged(selector) => selector.matches(&info.subject()),
        };
        in_view && !info.helper
    }

    /// Whether it watches a session, or has asked to.
    #[must_use]
    pub fn is_in(&self, session: &session::Handle) -> bool {
        matches!(&*self.view(), View::Process(id, _) if *id == session.id)
    }

    pub(super) fn view(&self) -> MutexGuard<'_, View> {
        self.view.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
