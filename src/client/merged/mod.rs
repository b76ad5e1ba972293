//! The merged view: one DAP session over all processes that match, now and later.
//!
//! A request goes to the process that owns the ids in it; one without ids is gathered from all, sent to all, or
//! goes to the process that stopped last. Processes come and go as threads.
//! This module knows requests and events; what their ids become is the [`Lens`]'s.

mod events;
mod gather;
mod group;
mod placing;
mod process;
mod requests;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::json;

use super::attach::Attach;
use super::lens::{Lens, Member};
use super::membership::{Closed, Membership};
use super::{FromSession, Handle, notice};
use crate::breakpoints::{Changed, Configuration};
use crate::session::{self, SessionId};
use crate::wire::{Message, Outbox};
use gather::{Gather, What};
use placing::Set;
use process::Process;
use requests::Asked;
pub(super) use requests::Progress;
use settings::Settings;

/// All processes of one client, as one session.
pub(super) struct Fleet {
    handle: Arc<Handle>,
    attach: Arc<Attach>,
    /// The processes, in the order in which they came.
    members: BTreeMap<Member, Process>,
    numbers: HashMap<SessionId, Member>,
    last_member: Member,
    lens: Lens,
    /// By token, what was asked of a process and is not answered.
    asked: HashMap<i64, Asked>,
    last_token: i64,
    gathers: BTreeMap<u64, Gather>,
    last_gather: u64,
    /// What the client has set, to check it, and the requests that set it, for processes that come later.
    configuration: Configuration,
    set: BTreeMap<Changed, Set>,
    sets: u64,
    settings: Settings,
    configured: bool,
    /// The group is stopped: who comes is paused, and who stops pauses nobody anew.
    halted: bool,
    /// The processes that are stopped, the one that stopped last at the end.
    stopped: Vec<Member>,
    /// The process that stopped last, though it may run by now.
    stopped_last: Option<Member>,
}

impl Fleet {
    pub(super) fn new(handle: Arc<Handle>, attach: Arc<Attach>) -> Fleet {
        Fleet {
            handle,
            attach,
            members: BTreeMap::new(),
            numbers: HashMap::new(),
            last_member: 0,
            lens: Lens::default(),
            asked: HashMap::new(),
            last_token: 0,
            gathers: BTreeMap::new(),
            last_gather: 0,
            configuration: Configuration::default(),
            set: BTreeMap::new(),
            sets: 0,
            settings: Settings::default(),
            configured: false,
            halted: false,
            stopped: Vec::new(),
            stopped_last: None,
        }
    }

    /// A process has come.
    pub(super) fn join(&mut self, session: &Arc<session::Handle>, out: &mut Outbox) {
        if self.numbers.contains_key(&session.id) {
            return;
        }
        match Membership::enter(session, &self.handle, &self.attach) {
            Ok(membership) => {
                self.last_member += 1;
                self.numbers.insert(session.id, self.last_member);
                self.members
                    .insert(self.last_member, Process::new(membership));
            }
            Err(Closed::Ended) => {}
            Err(closed) => {
                let name = session.info().name.clone();
                notice(
                    &format!("{name} is not in this view: {}", closed.why()),
                    out,
                );
            }
        }
    }

    /// The view is over: what is under way is answered.
    pub(super) fn close(self, out: &mut Outbox) {
        let why = "the session is over";
        for asked in self.asked.into_values() {
            if let Asked::Client { seq, command, .. } = asked {
                out.send(&Message::failure(seq, &command, why));
            }
        }
        for gather in self.gathers.into_values() {
            out.send(&Message::failure(gather.seq, gather.request.name(), why));
        }
    }

    /// Whether there is no process in the view.
    pub(super) fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The processes that have let us in.
    fn joined(&self) -> Vec<Member> {
        let joined = self.members.iter().filter(|(_, process)| process.joined);
        joined.map(|(member, _)| *member).collect()
    }

    /// A process of the view says something.
    pub(super) fn on_mail(&mut self, session: SessionId, mail: FromSession, out: &mut Outbox) {
        if let FromSession::Response(token, message) = mail {
            return self.on_response(token, &message, out);
        }
        let Some(member) = self.numbers.get(&session).copied() else {
            return;
        };
        match mail {
            FromSession::Joined => self.on_joined(member, out),
            FromSession::Event(event) => self.on_event(member, &event, out),
            FromSession::Events(events) => {
                for event in &events {
                    self.on_event(member, event, out);
                }
            }
            FromSession::Notice(text) => {
                let name = self
                    .members
                    .get(&member)
                    .map(Process::name)
                    .unwrap_or_default();
                notice(&format!("{name}: {text}"), out);
            }
            FromSession::Ended => self.on_ended(member, session, out),
            // The name is looked up wherever it is shown.
            FromSession::Renamed | FromSession::Response(..) => {}
        }
    }

    /// A process has let us in: it gets what the client has set before its user code runs.
    fn on_joined(&mut self, member: Member, out: &mut Outbox) {
        match self.members.get_mut(&member) {
            Some(process) if !process.joined => process.joined = true,
            _ => return,
        }
        // What waits for it, of which breakpoints are set below.
        let waiting = self
            .gathers
            .iter()
            .filter(|(_, gather)| gather.waits_for.contains(&member));
        let waiting: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        let mut of_sets = HashMap::new();
        let mut others = Vec::new();
        for number in waiting {
            match &self.gathers[&number].what {
                What::Breakpoints(changed, set) if self.set.contains_key(changed) => {
                    of_sets.insert(*set, number);
                }
                // Nothing is set there any more, and it has nothing there.
                What::Breakpoints(..) | What::Done { .. } => self.arrived(number, member, out),
                What::Threads | What::Modules(_) => others.push(number),
            }
        }
        let set: Vec<(Changed, Message, u64)> = self
            .set
            .iter()
            .map(|(changed, set)| (changed.clone(), set.request.clone(), set.number))
            .collect();
        for (changed, request, set) in set {
            let gather = of_sets.get(&set).copied();
            let asked = Asked::Breakpoints {
                member,
                changed,
                set,
                gather,
            };
            self.ask(member, &request, asked);
        }
        self.set_properties(member);
        if self.configured {
            if self.halted {
                // pydevd keeps it, and stops at the first line that it is to run.
                self.pause(member);
            }
            let request = Message::request("configurationDone", json!({}));
            self.ask(member, &request, Asked::Quiet);
        }
        for number in others {
            let gather = &self.gathers[&number];
            let (request, asked) = (gather.request.clone(), gather.question(member, number));
            self.ask(member, &request, asked);
        }
    }

    /// Gives a process what was set in the debugger before it came.
    fn set_properties(&mut self, member: Member) {
        for request in self.settings.requests() {
            self.ask(member, &request, Asked::Quiet);
        }
    }

    fn on_ended(&mut self, member: Member, session: SessionId, out: &mut Outbox) {
        let Some(process) = self.members.remove(&member) else {
            return;
        };
        self.numbers.remove(&session);
        self.stopped.retain(|stopped| *stopped != member);
        self.stopped_last = self.stopped_last.filter(|stopped| *stopped != member);
        for thread in process.threads.keys() {
            let id = self.lens.thread(member, *thread);
            out.send(&Message::event(
                "thread",
                json!({ "reason": "exited", "threadId": id }),
            ));
        }
        self.lens.left(member);
        self.may_run();
        let waiting: Vec<u64> = self.gathers.keys().copied().collect();
        for number in waiting {
            self.arrived(number, member, out);
        }
    }
}

#[cfg(test)]
mod tests;
