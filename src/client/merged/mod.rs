//! The merged view: one DAP session over all processes that match, now and later.
//!
//! A request goes to the process that owns the ids in it; one without ids is gathered from all, sent to all, or
//! goes to the process that stopped last. Processes come and go as threads.
//! This module knows requests and events; what their ids become is the [`Lens`]'s.

mod events;
mod gather;
mod group;
mod placing;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::attach::{Attach, Role, StopPolicy};
use super::lens::{Lens, Member};
use super::membership::{Closed, Membership};
use super::{FromSession, Handle, notice};
use crate::breakpoints::{Changed, Configuration};
use crate::session::{self, SessionId};
use crate::wire::{Message, Outbox};
use group::{Paused, Told};

/// How long processes may take to answer what all are asked; then the answer goes without the slow ones, and says so.
pub const GATHER_WAIT: Duration = Duration::from_secs(2);

/// The most requests that may be under way in one view; further ones are refused.
pub const MAX_ASKED: usize = 64 * 1024;

/// The most threads of one process that are kept; of further ones only their stops are told.
const MAX_THREADS: usize = 4096;

/// The most source maps that are kept for processes that come later.
const MAX_SOURCE_MAPS: usize = 1024;

/// What a `continue` is answered: all threads of one process run, which are not all of this session.
const CONTINUED: Continued = Continued {
    all_threads_continued: false,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Continued {
    all_threads_continued: bool,
}

/// What a request has led to beyond its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Progress {
    /// Nothing.
    None,
    /// The client is configured: its `attach` is to be answered.
    Configured,
}

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
    /// The debugger's properties that were set last, and the source maps by their sources.
    properties: Map<String, Value>,
    source_maps: BTreeMap<String, Message>,
    configured: bool,
    /// The group is stopped: who comes is paused, and who stops pauses nobody anew.
    halted: bool,
    /// The processes that are stopped, the one that stopped last at the end.
    stopped: Vec<Member>,
    /// The process that stopped last, though it may run by now.
    stopped_last: Option<Member>,
}

/// One process of the view.
struct Process {
    membership: Membership,
    threads: BTreeMap<i64, Thread>,
    /// The threads that are stopped.
    stopped: BTreeSet<i64>,
    /// They are all stopped, also those that start meanwhile.
    all_stopped: bool,
    /// Whether it was paused because another one stopped.
    paused: Paused,
    told: Told,
    /// How often something of it has run on.
    runs: u64,
    /// It has let an answer that all were asked for wait too long, and none has come since: nobody waits for it.
    is_late: bool,
    /// Its program has been announced, so that another announcement is one of another program.
    has_begun: bool,
    /// Its own numbers of the view's breakpoints.
    breakpoints: HashMap<i64, i64>,
    /// The session has let us in.
    joined: bool,
}

/// One thread of a process.
struct Thread {
    /// Its name, once the process was asked.
    name: Option<String>,
    /// How often something of its process had run on when it last did: what is said of a stop before is old.
    ran: u64,
}

impl Process {
    /// What people call it now.
    fn name(&self) -> String {
        self.membership.session.info().name.clone()
    }

    /// A thread that may not have been heard of; none if there is no room for one more.
    fn thread(&mut self, thread: i64) -> Option<&mut Thread> {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&thread) {
            return None;
        }
        let (name, ran) = (None, self.runs);
        Some(self.threads.entry(thread).or_insert(Thread { name, ran }))
    }

    /// Whether a thread is stopped, by itself or with its process, and not about to run on.
    fn is_stopped(&self, thread: i64) -> bool {
        self.told != Told::Continue && (self.all_stopped || self.stopped.contains(&thread))
    }

    /// A number that changes when a thread runs on or ends, or, if none is meant, when any runs on.
    fn stop(&self, thread: Option<i64>) -> Option<u64> {
        thread.map_or(Some(self.runs), |thread| {
            Some(self.threads.get(&thread)?.ran)
        })
    }
}

/// What a configuration request has set.
struct Set {
    /// A number that no other has, to tell an answer to it from one to what was set before.
    number: u64,
    request: Message,
    /// The view's numbers of its breakpoints, and what was last said of them.
    breakpoints: Vec<(i64, Map<String, Value>)>,
}

/// A request that a process owes an answer to.
enum Asked {
    /// The client's: its number, command, and the thread that it is about.
    Client {
        member: Member,
        thread: Option<i64>,
        seq: i64,
        command: Box<str>,
        /// The [`Process::stop`] that it is about.
        stop: Option<u64>,
    },
    /// A part of what all were asked.
    Part { member: Member, gather: u64 },
    /// Breakpoints; the gather waits for it, if there still is one.
    Breakpoints {
        member: Member,
        changed: Changed,
        set: u64,
        gather: Option<u64>,
    },
    /// The pausing of a process whose group has stopped.
    Pause { member: Member },
    /// The running on of a process whose group does.
    Continue { member: Member },
    /// Nobody waits for it.
    Quiet,
}

/// An answer that is put together from the answers of several processes.
struct Gather {
    seq: i64,
    request: Message,
    waits_for: BTreeSet<Member>,
    until: Instant,
    what: What,
}

/// What is gathered.
enum What {
    /// The names of threads, kept in [`Process::threads`].
    Threads,
    /// The modules.
    Modules(Vec<Value>),
    /// The verdicts on breakpoints of the set with this number, kept in [`Set::breakpoints`].
    Breakpoints(Changed, u64),
    /// That they have done it; whether one has, and whether one has not.
    Done { done: bool, refused: bool },
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
            properties: Map::new(),
            source_maps: BTreeMap::new(),
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
                let process = Process {
                    membership,
                    threads: BTreeMap::new(),
                    stopped: BTreeSet::new(),
                    all_stopped: false,
                    paused: Paused::No,
                    told: Told::Nothing,
                    runs: 0,
                    is_late: false,
                    has_begun: false,
                    breakpoints: HashMap::new(),
                    joined: false,
                };
                self.members.insert(self.last_member, process);
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

    /// When [`Fleet::expire`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.gathers.values().map(|gather| gather.until).min()
    }

    /// Answers what has waited long enough.
    pub(super) fn expire(&mut self, out: &mut Outbox) {
        let now = Instant::now();
        let late = self
            .gathers
            .iter()
            .filter(|(_, gather)| gather.until <= now);
        let late: Vec<u64> = late.map(|(number, _)| *number).collect();
        for number in late {
            self.say_missing(number, out);
            self.finish(number, out);
        }
    }

    /// The client asks something.
    pub(super) fn on_request(&mut self, message: &Message, out: &mut Outbox) -> Progress {
        if let Err(why) = self.request(message, out) {
            out.send(&Message::failure(message.seq(), message.name(), &why));
            return Progress::None;
        }
        if message.name() == "configurationDone" {
            Progress::Configured
        } else {
            Progress::None
        }
    }

    fn request(&mut self, message: &Message, out: &mut Outbox) -> Result<(), String> {
        if self.asked.len() >= MAX_ASKED || self.gathers.len() >= MAX_ASKED {
            return Err("too many requests are under way".into());
        }
        let seq = message.seq();
        match message.name() {
            "configurationDone" => {
                out.send(&Message::response(seq, "configurationDone", json!({})));
                self.configured = true;
                for member in self.joined() {
                    self.ask(member, message, Asked::Quiet);
                }
            }
            "setBreakpoints" | "setFunctionBreakpoints" | "setExceptionBreakpoints" => {
                self.set_breakpoints(message, out)?;
            }
            "setDebuggerProperty" | "setPydevdSourceMap" => {
                self.keep(message)?;
                let done = What::Done {
                    done: false,
                    refused: false,
                };
                let members = self.members.keys().copied().collect();
                self.gather(message, members, done, out);
            }
            "threads" => {
                // Of a process that has not named any it is not known whether it has some.
                let unknown = |process: &Process| {
                    process.threads.is_empty()
                        || process.threads.values().any(|thread| thread.name.is_none())
                };
                let members = self.members.iter().filter(|(_, process)| unknown(process));
                let members = members.map(|(member, _)| *member).collect();
                self.gather(message, members, What::Threads, out);
            }
            "modules" => {
                let members = self.members.keys().copied().collect();
                self.gather(message, members, What::Modules(Vec::new()), out);
            }
            _ => self.of_one(message, out)?,
        }
        Ok(())
    }

    /// Keeps what is set in the debugger, for processes that come later.
    fn keep(&mut self, message: &Message) -> Result<(), String> {
        let arguments: Map<String, Value> = message.decode().map_err(|error| error.to_string())?;
        if message.name() == "setDebuggerProperty" {
            // What is not named stays as it was.
            let named = arguments.into_iter().filter(|(_, value)| !value.is_null());
            self.properties.extend(named);
            return Ok(());
        }
        let source = arguments
            .get("source")
            .and_then(|source| source.get("path"));
        let source = source.and_then(Value::as_str).unwrap_or_default();
        if self.source_maps.len() >= MAX_SOURCE_MAPS && !self.source_maps.contains_key(source) {
            return Err("there are too many source maps in this session".into());
        }
        self.source_maps.insert(source.into(), message.detached());
        Ok(())
    }

    /// What was set is not kept after all.
    fn forget(&mut self, message: &Message) {
        let arguments: Map<String, Value> = message.decode().unwrap_or_default();
        if message.name() == "setDebuggerProperty" {
            self.properties
                .retain(|key, _| !arguments.contains_key(key));
        } else {
            let source = arguments
                .get("source")
                .and_then(|source| source.get("path"));
            let source = source.and_then(Value::as_str).unwrap_or_default();
            self.source_maps.remove(source);
        }
    }

    /// A request that one process answers.
    fn of_one(&mut self, message: &Message, out: &mut Outbox) -> Result<(), String> {
        let (request, owner) = self.lens.inward(message)?;
        let (member, thread) = match owner {
            Some(owner) => (owner.member, owner.thread),
            None if matches!(
                message.name(),
                "continue" | "pause" | "next" | "stepIn" | "stepOut" | "stackTrace"
            ) =>
            {
                return Err(format!(
                    "\"{}\" needs a threadId of this session",
                    message.name()
                ));
            }
            None => (
                self.focus().ok_or("there is no process in this session")?,
                None,
            ),
        };
        let process = self.members.get_mut(&member);
        let process = process.ok_or("the process has left this session")?;
        let (seq, stop) = (message.seq(), process.stop(thread));
        let needs_stop = matches!(
            message.name(),
            "next" | "stepIn" | "stepOut" | "goto" | "stepInTargets" | "exceptionInfo"
        );
        if needs_stop && thread.is_some_and(|thread| !process.is_stopped(thread)) {
            // The process would say so too, and call the thread by its own number.
            let why = "the thread is running; pause it first";
            out.send(&Message::refusal(seq, message.name(), "notStopped", why));
            return Ok(());
        }
        match message.name() {
            "continue" => {
                let runs = process.stopped.is_empty() || process.told == Told::Continue;
                self.release(member);
                if runs && self.attach.role != Role::Observer {
                    // Or is about to: a stop that the client has not heard of is not what it means.
                    out.send(&Message::response(seq, "continue", CONTINUED));
                    return Ok(());
                }
            }
            // A stop that the client wants is not undone.
            "pause" => process.paused = Paused::No,
            name if steps(name) => process.told = thread.map_or(Told::Nothing, Told::Step),
            _ => {}
        }
        self.ask(
            member,
            &request,
            Asked::Client {
                member,
                thread,
                seq,
                command: message.name().into(),
                stop,
            },
        );
        Ok(())
    }

    /// The process that a question without ids is about: of those that are stopped the one that stopped last,
    /// else the one that did before it ran on, else the oldest.
    fn focus(&self) -> Option<Member> {
        let oldest = || {
            self.members
                .iter()
                .find(|(_, process)| process.joined)
                .map(|(member, _)| *member)
        };
        let last = self.stopped.last().copied().or(self.stopped_last);
        last.or_else(oldest)
    }

    fn joined(&self) -> Vec<Member> {
        let joined = self.members.iter().filter(|(_, process)| process.joined);
        joined.map(|(member, _)| *member).collect()
    }

    /// Asks a process; one that cannot be asked answers at once that it cannot.
    fn ask(&mut self, member: Member, request: &Message, asked: Asked) {
        let Some(process) = self.members.get(&member) else {
            return;
        };
        self.last_token += 1;
        let token = self.last_token;
        self.asked.insert(token, asked);
        if let Err(closed) = process.membership.ask(token, request.clone()) {
            let session = process.membership.session.id;
            let failure = Message::failure(token, request.name(), closed.why());
            // As if it came from there: answers are handled in one place.
            self.handle
                .tell(session, FromSession::Response(token, failure));
        }
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
        if !self.properties.is_empty() {
            let request = Message::request("setDebuggerProperty", &self.properties);
            self.ask(member, &request, Asked::Quiet);
        }
        let maps: Vec<Message> = self.source_maps.values().cloned().collect();
        for request in maps {
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

    fn on_response(&mut self, token: i64, message: &Message, out: &mut Outbox) {
        let Some(asked) = self.asked.remove(&token) else {
            return;
        };
        match asked {
            Asked::Client {
                member,
                thread,
                seq,
                command,
                stop,
            } => {
                let answer = self.outward(member, thread, stop, message);
                out.answer(&answer, seq);
                let Some(process) = self.members.get_mut(&member) else {
                    return;
                };
                let is_step = steps(&command) && matches!(process.told, Told::Step(_));
                if is_step && !message.success() {
                    process.told = Told::Nothing;
                }
                if message.success() && resumes(&command) && process.stop(thread) == stop {
                    // The process says that it runs just now; the client may ask before that.
                    let thread = thread.filter(|_| &*command != "continue");
                    self.lens.resumed(member, thread);
                }
                if &*command == "continue" {
                    self.runs_on(member);
                }
            }
            Asked::Part { member, gather } => {
                self.is_heard(member);
                self.on_part(member, gather, message);
                self.arrived(gather, member, out);
            }
            Asked::Breakpoints {
                member,
                changed,
                set,
                gather,
            } => {
                self.is_heard(member);
                self.on_verdicts(member, &changed, set, message, out);
                if let Some(gather) = gather {
                    self.arrived(gather, member, out);
                }
            }
            Asked::Pause { member } => {
                let process = self.members.get_mut(&member);
                if let Some(process) = process.filter(|_| !message.success()) {
                    process.paused = Paused::No;
                }
            }
            Asked::Continue { member } => self.runs_on(member),
            Asked::Quiet if !message.success() => {
                tracing::warn!(
                    command = message.name(),
                    "a process of a merged view has refused"
                );
            }
            Asked::Quiet => {}
        }
    }

    /// An answer as the client is to see it.
    fn outward(
        &mut self,
        member: Member,
        thread: Option<i64>,
        stop: Option<u64>,
        message: &Message,
    ) -> Message {
        if !message.success() || message.content().is_none() {
            return message.clone();
        }
        let command = message.name();
        if command == "continue" {
            return Message::response(0, command, CONTINUED);
        }
        let Some(process) = self.members.get(&member) else {
            return Message::failure(0, command, "the process has left this session");
        };
        // Of a thread that runs the stack can be had, but nothing can be asked about its frames.
        let runs = thread.is_some_and(|thread| !process.is_stopped(thread));
        let answer = if runs || process.stop(thread) != stop {
            self.lens.outward_late(member, thread, message)
        } else {
            self.lens.outward(member, thread, message)
        };
        answer.unwrap_or_else(|_| {
            Message::failure(0, command, "the answer of the process cannot be read")
        })
    }
}

/// Whether a request makes threads run.
fn resumes(command: &str) -> bool {
    matches!(command, "continue" | "next" | "stepIn" | "stepOut")
}

/// Whether a request makes a thread run only to stop again.
fn steps(command: &str) -> bool {
    matches!(command, "next" | "stepIn" | "stepOut" | "goto")
}

/// What is set in all processes must mean the same in all of them: a source is known by its path.
fn for_all(message: &Message) -> Result<Message, String> {
    if message.name() != "setBreakpoints" {
        return Ok(message.clone());
    }
    let mut arguments: Value = message.decode().map_err(|error| error.to_string())?;
    let Some(source) = arguments.get_mut("source").and_then(Value::as_object_mut) else {
        return Ok(message.clone());
    };
    let reference = source.remove("sourceReference");
    if source.contains_key("path") || reference.is_none() {
        return Ok(Message::request("setBreakpoints", arguments));
    }
    Err("a source without a path is one process's own: set its breakpoints in a session of that process".into())
}

#[cfg(test)]
mod tests;
