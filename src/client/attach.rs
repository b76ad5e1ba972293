//! The `attach` request: what a client asks for, and how it comes to it.

use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::mappings::Mappings;
use super::merged::Fleet;
use super::{Announces, Client, Seat, Stage, View};
use crate::selector::Selector;
use crate::session::SessionId;
use crate::wire::{Message, Outbox};

/// The arguments of `attach` that are ours: no process is told of them, least of all of the token.
const OURS: [&str; 6] = ["view", "sessions", "session", "role", "stopPolicy", "token"];

/// The arguments that only this connection's way to us explains; no process needs them.
const OF_THE_CONNECTION: [&str; 5] = ["host", "port", "connect", "listen", "processId"];

/// What a client has asked for.
pub struct Attach {
    /// How it wants to see sessions.
    view: ViewKind,
    /// Which sessions it sees.
    sessions: Selector,
    /// Whether it may touch what it sees.
    pub role: Role,
    /// What becomes of the other processes when one stops.
    pub stop_policy: StopPolicy,
    target: Target,
    /// Whether `terminate` interrupts the process instead of killing it.
    pub interrupts: bool,
    /// Whether the end of the session asks the client to attach again.
    pub restart: bool,
    /// Where it has the program's files.
    pub(super) mappings: Mappings,
    /// The arguments as the client sent them, for the sessions of children.
    pub original: Map<String, Value>,
    /// The arguments that the process gets.
    pub arguments: Map<String, Value>,
}

/// How a client sees sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ViewKind {
    /// As the rest of its words suggest.
    #[default]
    Auto,
    /// One process.
    Process,
    /// A root, and a session of its own for each process.
    Tree,
    /// All in one session.
    Merged,
}

/// Whether a client may touch what it sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// It may do everything.
    #[default]
    Controller,
    /// It may look.
    Observer,
}

/// What becomes of the other processes of a view when one stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StopPolicy {
    /// They run on.
    #[default]
    One,
    /// They are paused, and run on together.
    Group,
}

/// Which process a client asked for, if it named one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    Any,
    Session(SessionId),
    SubProcess(u32),
    Process(u32),
}

impl Attach {
    /// Reads the arguments of `attach`.
    ///
    /// # Errors
    /// What is wrong with them, in words for the user.
    pub(super) fn read(message: &Message) -> Result<Attach, String> {
        let original: Map<String, Value> = message.decode().map_err(|error| error.to_string())?;
        let view: Option<ViewKind> = argument(&original, "view")?;
        let sessions: Option<Selector> = argument(&original, "sessions")?;
        let session: Option<SessionId> = argument(&original, "session")
            .map_err(|why| format!("{why}; `dbgproxy sessions --json` shows whole ids"))?;
        let role: Option<Role> = argument(&original, "role")?;
        let stop_policy: Option<StopPolicy> = argument(&original, "stopPolicy")?;
        let sub_process_id: Option<u32> = argument(&original, "subProcessId")?;
        let listen: Option<Map<String, Value>> = argument(&original, "listen")?;
        if argument(&original, "noDebug")? == Some(true) {
            return Err("Invalid message: \"noDebug\" is not supported for \"attach\"".into());
        }
        let has = |key: &str| original.get(key).is_some_and(|value| !value.is_null());
        let address = if has("host") || has("port") {
            Some("host\"/\"port")
        } else {
            None
        };
        let ways = [
            address,
            has("listen").then_some("listen"),
            has("connect").then_some("connect"),
            has("processId").then_some("processId"),
            has("subProcessId").then_some("subProcessId"),
        ];
        let exclusive = [
            // As debugpy's adapter has it: who gives an address may still name a process.
            (1, 0),
            (2, 0),
            (1, 2),
            (1, 3),
            (1, 4),
            (3, 4),
        ];
        for (one, other) in exclusive {
            if let (Some(one), Some(other)) = (ways[one], ways[other]) {
                return Err(format!(
                    "Invalid message: \"{one}\" and \"{other}\" are mutually exclusive"
                ));
            }
        }
        let process_id = match original.get("processId") {
            None | Some(Value::Null) => None,
            Some(Value::String(digits)) => Some(digits.trim().parse().ok()),
            Some(value) => Some(value.as_u64().and_then(|pid| u32::try_from(pid).ok())),
        };
        let target = match (session, process_id, sub_process_id) {
            (Some(session), _, _) => Target::Session(session),
            (None, Some(pid), _) => Target::Process(
                pid.ok_or("Invalid message: \"processId\" must be parseable as int")?,
            ),
            (None, None, Some(pid)) => Target::SubProcess(pid),
            (None, None, None) => Target::Any,
        };
        let mut arguments = original.clone();
        for key in OURS.iter().chain(&OF_THE_CONNECTION) {
            arguments.remove(*key);
        }
        Ok(Attach {
            view: view.unwrap_or_default(),
            sessions: sessions.unwrap_or_default(),
            role: role.unwrap_or_default(),
            stop_policy: stop_policy.unwrap_or_default(),
            target,
            interrupts: original
                .get("onTerminate")
                .is_some_and(|how| how == "KeyboardInterrupt"),
            mappings: Mappings::read(&original),
            restart: listen.is_some() && original.get("restart") == Some(&Value::Bool(true)),
            original,
            arguments,
        })
    }
}

/// One argument, if it is given; an error names it.
fn argument<T: DeserializeOwned>(
    all: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>, String> {
    let given = all.get(name).filter(|value| !value.is_null());
    given
        .map(|value| T::deserialize(value).map_err(|error| format!("\"{name}\": {error}")))
        .transpose()
}

impl Attach {
    /// Whether the client names one session, as one that was told of it does.
    #[must_use]
    pub fn names_one(&self) -> bool {
        matches!(self.target, Target::Session(_) | Target::SubProcess(_))
    }

    /// Whether a client of one process hears of its children.
    pub(super) fn announces(&self) -> Announces {
        // A session of a tree keeps the tree's word in its arguments: the root hears of the children.
        let in_tree = self.view == ViewKind::Tree;
        if in_tree || self.original.get("subProcess") == Some(&Value::Bool(false)) {
            Announces::Nothing
        } else {
            Announces::Children
        }
    }
}

impl Client {
    /// Takes the client to the session that it asks for, or lets it wait for it.
    pub(super) fn attach(&mut self, message: &Message, out: &mut Outbox) {
        let attach = match Attach::read(message) {
            Ok(attach) => Arc::new(attach),
            Err(why) => {
                out.send(&Message::failure(message.seq(), "attach", &why));
                return;
            }
        };
        self.attach = Some(attach.clone());
        self.attach_seq = Some(message.seq());
        let can_have_children = self.capabilities.supports_start_debugging_request;
        let view = match attach.view {
            ViewKind::Auto if can_have_children => ViewKind::Tree,
            ViewKind::Auto => ViewKind::Merged,
            view => view,
        };
        match attach.target {
            Target::Session(id) => match self.hub.session(id) {
                Some(session) => self.join(&session, out),
                None => {
                    let why = match self.hub.ended_session(id).and_then(|info| info.ended) {
                        Some(ended) => format!("the session {id} has ended at {ended}"),
                        None => format!(
                            "there is no session {id}; `dbgproxy sessions` lists those there are"
                        ),
                    };
                    self.attach_failed(&why, out);
                }
            },
            Target::SubProcess(pid) => match self.hub.session_of_pid(pid) {
                Some(session) => self.join(&session, out),
                None => {
                    // It may just have ended: a client must not be told of an error then.
                    self.set_stage(Stage::Attaching);
                    self.ended(out);
                }
            },
            Target::Process(pid) => match self.hub.session_of_pid(pid) {
                Some(session) => self.join(&session, out),
                None => {
                    self.wait_for(Some(pid), out);
                    self.inject(pid, message.seq());
                }
            },
            Target::Any if view == ViewKind::Tree => {
                self.set_stage(Stage::Attaching);
                self.seat = Seat::Root;
                *self.handle.view() = View::Tree(attach.sessions.clone());
                self.may_configure(out);
            }
            Target::Any if view == ViewKind::Merged => {
                self.set_stage(Stage::Attaching);
                *self.handle.view() = View::Merged(attach.sessions.clone());
                let mut fleet = Fleet::new(self.handle.clone(), attach);
                let mut sessions = self.sessions_in_view();
                sessions.sort_by_cached_key(|session| session.info().order.number());
                for session in sessions {
                    fleet.join(&session, out);
                }
                self.seat = Seat::Fleet(Box::new(fleet));
                self.may_configure(out);
            }
            Target::Any => self.wait_for(None, out),
        }
    }

    /// Waits for a process: the oldest that lives, or the first that comes, or the one of a pid.
    fn wait_for(&mut self, pid: Option<u32>, out: &mut Outbox) {
        let Some(attach) = self.attach.clone() else {
            return;
        };
        self.set_stage(Stage::Attaching);
        *self.handle.view() = View::Waiting(pid, attach.sessions.clone());
        // Only now that it is known to wait are those looked for that are there: none comes unseen.
        let sessions = self.sessions_in_view();
        let oldest = sessions
            .iter()
            .min_by_key(|session| session.info().order.number());
        match oldest {
            Some(session) => self.join(session, out),
            None => {
                let (host, port) = self.address.map_or((String::new(), 0), |address| {
                    (address.ip().to_string(), address.port())
                });
                out.send(&Message::event(
                    "debugpyWaitingForServer",
                    json!({ "host": host, "port": port }),
                ));
            }
        }
    }

    /// Whether the client waits for a process to come.
    pub(super) fn waits(&self) -> bool {
        self.stage == Stage::Attaching && matches!(&*self.handle.view(), View::Waiting(..))
    }
}
