//! The merged view: one DAP session over all processes that match, now and later.
//!
//! A request goes to the process that owns the ids in it; one without ids is gathered from all, sent to all, or
//! goes to the process that stopped last. Processes come and go as threads.
//! This module knows requests and events; what their ids become is the [`Lens`]'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::attach::{Attach, Role, StopPolicy};
use super::lens::{Lens, Member};
use super::membership::{Closed, Membership};
use super::{FromSession, Handle, notice};
use crate::breakpoints::{Changed, Configuration};
use crate::session::{self, SessionId};
use crate::wire::{Message, Outbox};

/// How long processes may take to answer what all are asked; then the answer goes without the slow ones, and says so.
pub const GATHER_WAIT: Duration = Duration::from_secs(2);

/// The most requests that may be under way in one view; further ones are refused.
pub const MAX_ASKED: usize = 64 * 1024;

/// The most threads of one process that are kept; of further ones only their stops are told.
const MAX_THREADS: usize = 4096;

/// The most source maps that are kept for processes that come later.
const MAX_SOURCE_MAPS: usize = 1024;

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
    /// The processes that are stopped, the one that stopped last at the end.
    stopped: Vec<Member>,
    /// The process that stopped last, though it may run by now.
    stopped_last: Option<Member>,
}

/// One process of the view.
struct Process {
    membership: Membership,
    name: String,
    /// Its threads, and their names once it was asked.
    threads: BTreeMap<i64, Option<String>>,
    /// The threads that are stopped.
    stopped: BTreeSet<i64>,
    /// They are all stopped, also those that start meanwhile.
    all_stopped: bool,
    /// Whether it was paused because another one stopped.
    paused: Paused,
    /// How often it has run on: what it says of a stop before the last one is old.
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

/// How far the pausing of a process is whose group has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Paused {
    /// It is not paused.
    No,
    /// It has been asked to.
    Asked,
    /// It has been asked to, and all run on already: its stop is undone when it comes.
    Outrun,
    /// It is.
    Yes,
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
        /// How often the process had run on when it was asked.
        runs: u64,
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
                let name = session.info().name.clone();
                let process = Process {
                    membership,
                    name,
                    threads: BTreeMap::new(),
                    stopped: BTreeSet::new(),
                    all_stopped: false,
                    paused: Paused::No,
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
                    process.threads.is_empty() || process.threads.values().any(Option::is_none)
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
        let mut arguments: Value = message.decode().map_err(|error| error.to_string())?;
        let owner = self
            .lens
            .inward(&mut arguments)
            .map_err(|stale| stale.message)?;
        let (member, thread) = match owner {
            Some(owner) => owner,
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
        let request = Message::request(message.name(), arguments);
        let process = self.members.get(&member);
        let process = process.ok_or("the process has left this session")?;
        let (seq, runs) = (message.seq(), process.runs);
        let needs_stop = matches!(
            message.name(),
            "next" | "stepIn" | "stepOut" | "goto" | "stepInTargets" | "exceptionInfo"
        );
        let runs_now = |thread: i64| !process.all_stopped && !process.stopped.contains(&thread);
        if needs_stop && thread.is_some_and(runs_now) {
            // The process would say so too, and call the thread by its own number.
            let why = "the thread is running; pause it first";
            out.send(&Message::refusal(seq, message.name(), "notStopped", why));
            return Ok(());
        }
        if message.name() == "continue" && self.attach.stop_policy == StopPolicy::Group {
            self.continue_others(member);
        }
        self.ask(
            member,
            &request,
            Asked::Client {
                member,
                thread,
                seq,
                command: message.name().into(),
                runs,
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

    /// Asks several processes, and answers the client when they have, or when their time is up.
    ///
    /// One that has not let us in yet is asked when it has. One that has let an answer wait too long is not waited
    /// for again, and not asked again what only an answer is wanted of.
    fn gather(&mut self, message: &Message, members: Vec<Member>, what: What, out: &mut Outbox) {
        self.gather_for(message.seq(), message, members, what, out);
    }

    fn gather_for(
        &mut self,
        seq: i64,
        message: &Message,
        members: Vec<Member>,
        what: What,
        out: &mut Outbox,
    ) {
        self.last_gather += 1;
        let number = self.last_gather;
        let only_asks = matches!(what, What::Threads | What::Modules(_));
        let mut gather = Gather {
            seq,
            request: message.detached(),
            waits_for: BTreeSet::new(),
            until: Instant::now() + GATHER_WAIT,
            what,
        };
        let mut late = Vec::new();
        let mut asked = Vec::new();
        for member in members {
            let Some(process) = self.members.get(&member) else {
                continue;
            };
            if process.is_late {
                late.push(process.name.clone());
            } else {
                gather.waits_for.insert(member);
            }
            if process.joined && !(process.is_late && only_asks) {
                asked.push((member, gather.question(member, number)));
            }
        }
        let is_complete = gather.waits_for.is_empty();
        self.gathers.insert(number, gather);
        for (member, asked) in asked {
            self.ask(member, message, asked);
        }
        if is_complete {
            self.finish_without(number, &late, out);
        }
    }

    /// One of those that a gather waits for has answered, or never will.
    fn arrived(&mut self, number: u64, member: Member, out: &mut Outbox) {
        if let Some(gather) = self.gathers.get_mut(&number) {
            gather.waits_for.remove(&member);
            if gather.waits_for.is_empty() {
                self.finish(number, out);
            }
        }
    }

    /// The time of a gather is up: it is said on the console who has not answered, and nobody waits for it again.
    fn say_missing(&mut self, number: u64, out: &mut Outbox) {
        let Some(gather) = self.gathers.get(&number) else {
            return;
        };
        for member in &gather.waits_for {
            if let Some(process) = self.members.get_mut(member) {
                process.is_late = true;
                let (command, name) = (gather.request.name(), &process.name);
                notice(
                    &format!("\"{command}\" goes without {name}: no answer in time"),
                    out,
                );
            }
        }
    }

    /// Answers the client with what has come; whoever is late is named.
    fn finish(&mut self, number: u64, out: &mut Outbox) {
        let late = self.members.values().filter(|process| process.is_late);
        let late: Vec<String> = late.map(|process| process.name.clone()).collect();
        self.finish_without(number, &late, out);
    }

    fn finish_without(&mut self, number: u64, late: &[String], out: &mut Outbox) {
        let Some(gather) = self.gathers.remove(&number) else {
            return;
        };
        let command = gather.request.name();
        let mut body = match gather.what {
            What::Threads => json!({ "threads": self.threads() }),
            What::Modules(modules) => json!({ "totalModules": modules.len(), "modules": modules }),
            What::Breakpoints(Changed::Exceptions, _) => json!({}),
            What::Done { done, refused } => {
                if refused && !done {
                    // Nor would a later one.
                    self.forget(&gather.request);
                    let why = "no process of this session takes it";
                    out.send(&Message::failure(gather.seq, command, why));
                    return;
                }
                json!({})
            }
            What::Breakpoints(changed, _) => {
                let set = self.set.get(&changed);
                let breakpoints = set
                    .map(|set| set.breakpoints.as_slice())
                    .unwrap_or_default();
                let verdicts: Vec<_> = breakpoints.iter().map(|(_, verdict)| verdict).collect();
                json!({ "breakpoints": verdicts })
            }
        };
        if !late.is_empty() {
            body["missing"] = late.join(", ").into();
        }
        out.send(&Message::response(gather.seq, command, body));
    }

    /// All threads of all processes.
    fn threads(&mut self) -> Vec<Value> {
        let lens = &mut self.lens;
        let of = |(member, process): (&Member, &Process)| {
            let threads = process.threads.iter().map(|(thread, name)| {
                let unknown = format!("thread {thread}");
                let name = format!("{} · {}", process.name, name.as_ref().unwrap_or(&unknown));
                json!({ "id": lens.thread(*member, *thread), "name": name })
            });
            threads.collect::<Vec<Value>>()
        };
        self.members.iter().flat_map(of).collect()
    }

    /// The client sets breakpoints: in all processes that there are, and in those that come.
    fn set_breakpoints(&mut self, message: &Message, out: &mut Outbox) -> Result<(), String> {
        let request = for_all(message)?;
        let changed = self
            .configuration
            .apply(&request)
            .map_err(|error| error.to_string())?;
        // What was set there before is answered with what is known of it: nobody will say more.
        let old = self.gathers.iter().filter(
            |(_, gather)| matches!(&gather.what, What::Breakpoints(old, _) if *old == changed),
        );
        let old: Vec<u64> = old.map(|(number, _)| *number).collect();
        for number in old {
            self.finish_without(number, &[], out);
        }
        if let Some(old) = self.set.remove(&changed) {
            let old: BTreeSet<i64> = old.breakpoints.iter().map(|(id, _)| *id).collect();
            for process in self.members.values_mut() {
                process.breakpoints.retain(|_, id| !old.contains(id));
            }
            for id in old {
                self.lens.drop_breakpoint(id);
            }
        }
        self.sets += 1;
        let number = self.sets;
        let count = self.configuration.breakpoints(&changed).len();
        if count > 0 || changed == Changed::Exceptions {
            let breakpoints = (0..count).map(|_| {
                let id = self.lens.breakpoint();
                let why = "set in each process that comes";
                let verdict = json!({ "id": id, "verified": false, "message": why });
                (id, verdict.as_object().cloned().unwrap_or_default())
            });
            let set = Set {
                number,
                breakpoints: breakpoints.collect(),
                request: request.detached(),
            };
            self.set.insert(changed.clone(), set);
        }
        let members = self.members.keys().copied().collect();
        let what = What::Breakpoints(changed, number);
        self.gather_for(message.seq(), &request, members, what, out);
        Ok(())
    }

    /// A process has said what became of breakpoints: one that any process has verified is verified.
    fn on_verdicts(
        &mut self,
        member: Member,
        changed: &Changed,
        number: u64,
        message: &Message,
        out: &mut Outbox,
    ) {
        let mut body: Value = message.decode().unwrap_or_default();
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !message.success() {
            let (command, name) = (message.name(), &process.name);
            tracing::warn!(name, command, "a process of a merged view has refused");
        }
        let Some(set) = self.set.get_mut(changed) else {
            return;
        };
        if set.number != number {
            return;
        }
        self.lens.outward(member, None, &mut body);
        let verdicts = body.get_mut("breakpoints").map(Value::take);
        let Some(Value::Array(verdicts)) = verdicts else {
            return;
        };
        let gathered = self
            .gathers
            .values()
            .any(|gather| matches!(gather.what, What::Breakpoints(_, of) if of == number));
        for ((id, known), verdict) in set.breakpoints.iter_mut().zip(verdicts) {
            let Value::Object(verdict) = verdict else {
                continue;
            };
            if let Some(native) = verdict.get("id").and_then(Value::as_i64) {
                process.breakpoints.insert(native, *id);
            }
            if improve(*id, known, verdict) && !gathered {
                let body = json!({ "reason": "changed", "breakpoint": known });
                out.send(&Message::event("breakpoint", body));
            }
        }
    }

    /// A process has changed its mind about a breakpoint.
    fn on_breakpoint(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        let Ok(mut body) = event.decode::<Value>() else {
            return;
        };
        self.lens.outward(member, None, &mut body);
        let verdict = body.get_mut("breakpoint").map(Value::take);
        let (Some(Value::Object(verdict)), Some(process)) = (verdict, self.members.get(&member))
        else {
            return;
        };
        let native = verdict.get("id").and_then(Value::as_i64);
        let Some(id) = native.and_then(|native| process.breakpoints.get(&native).copied()) else {
            return;
        };
        let mut all = self.set.values_mut().flat_map(|set| &mut set.breakpoints);
        if let Some((_, known)) = all.find(|(of, _)| *of == id)
            && improve(id, known, verdict)
        {
            let body = json!({ "reason": "changed", "breakpoint": known });
            out.send(&Message::event("breakpoint", body));
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
            FromSession::Notice(text) => {
                let name = self
                    .members
                    .get(&member)
                    .map_or("", |process| &process.name);
                notice(&format!("{name}: {text}"), out);
            }
            FromSession::Ended => self.on_ended(member, session, out),
            FromSession::Response(..) => {}
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
                runs,
            } => {
                let runs_on = message.success() && resumes(&command);
                let answer = self.outward(member, thread, runs, message);
                out.answer(&answer, seq);
                let process = self.members.get(&member);
                if runs_on && process.is_some_and(|process| process.runs == runs) {
                    // The process says that it runs just now; the client may ask before that.
                    let thread = thread.filter(|_| &*command != "continue");
                    self.lens.resumed(member, thread);
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
            Asked::Quiet if !message.success() => {
                tracing::warn!(
                    command = message.name(),
                    "a process of a merged view has refused"
                );
            }
            Asked::Quiet => {}
        }
    }

    /// A process answers after all.
    fn is_heard(&mut self, member: Member) {
        if let Some(process) = self.members.get_mut(&member) {
            process.is_late = false;
        }
    }

    /// An answer as the client is to see it.
    fn outward(
        &mut self,
        member: Member,
        thread: Option<i64>,
        runs: u64,
        message: &Message,
    ) -> Message {
        if !message.success() || message.content().is_none() {
            return message.clone();
        }
        let command = message.name();
        if command == "continue" {
            // Of all threads of this process, which are not all of this session.
            return Message::response(0, command, json!({ "allThreadsContinued": false }));
        }
        let Ok(mut body) = message.decode::<Value>() else {
            return Message::failure(0, command, "the answer of the process cannot be read");
        };
        match self.members.get(&member) {
            Some(process) if process.runs == runs => self.lens.outward(member, thread, &mut body),
            Some(_) => self.lens.outward_late(member, thread, &mut body),
            None => return Message::failure(0, command, "the process has left this session"),
        }
        Message::response(0, command, body)
    }

    fn on_part(&mut self, member: Member, gather: u64, message: &Message) {
        #[derive(Default, Deserialize)]
        struct Body {
            #[serde(default)]
            threads: Vec<Thread>,
            #[serde(default)]
            modules: Vec<Value>,
        }
        #[derive(Deserialize)]
        struct Thread {
            id: i64,
            name: String,
        }
        let Body { threads, modules } = message.decode().unwrap_or_default();
        let gathering = self.gathers.get_mut(&gather).map(|gather| &mut gather.what);
        if let Some(What::Done { done, refused }) = gathering {
            *done |= message.success();
            *refused |= !message.success();
            return;
        }
        let is_known = self.members.contains_key(&member);
        if let Some(process) = self.members.get_mut(&member) {
            for thread in threads {
                if process.threads.len() < MAX_THREADS || process.threads.contains_key(&thread.id) {
                    process.threads.insert(thread.id, Some(thread.name));
                }
            }
        }
        if let Some(Gather {
            what: What::Modules(all),
            ..
        }) = self.gathers.get_mut(&gather).filter(|_| is_known)
        {
            let mut modules = json!({ "modules": modules });
            self.lens.outward(member, None, &mut modules);
            if let Some(Value::Array(modules)) = modules.get_mut("modules") {
                all.append(modules);
            }
        }
    }

    fn on_event(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        match event.name() {
            // Of one process, and this session is of many: they come and go as threads.
            "process" => self.on_process(member, out),
            "exited" | "terminated" => {}
            "thread" => self.on_thread(member, event, out),
            "stopped" => self.on_stopped(member, event, out),
            "continued" => self.on_continued(member, event, out),
            "breakpoint" => self.on_breakpoint(member, event, out),
            "output"
                if !event
                    .content()
                    .is_some_and(|body| body.contains("Reference\"")) =>
            {
                out.send(event);
            }
            _ => {
                if let Ok(mut body) = event.decode::<Value>() {
                    self.lens.outward(member, None, &mut body);
                    out.send(&Message::event(event.name(), body));
                }
            }
        }
    }

    /// A process says which program it runs; it says so again when another one has taken its place.
    fn on_process(&mut self, member: Member, out: &mut Outbox) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !std::mem::replace(&mut process.has_begun, true) {
            return;
        }
        process.name = process.membership.session.info().name.clone();
        // Threads of the old program that only their stops have told of.
        let left: Vec<i64> = process.threads.keys().copied().collect();
        for thread in left {
            let body = json!({ "reason": "exited", "threadId": thread });
            self.on_thread(member, &Message::event("thread", body), out);
        }
        self.set_properties(member);
    }

    fn on_thread(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            reason: String,
            thread_id: i64,
        }
        let (Ok(Body { reason, thread_id }), Some(process)) =
            (event.decode(), self.members.get_mut(&member))
        else {
            return;
        };
        let is_known = process.threads.contains_key(&thread_id);
        let has_exited = reason == "exited";
        let is_full = process.threads.len() >= MAX_THREADS;
        if !is_known && (has_exited || is_full) {
            return;
        }
        let id = self.lens.thread(member, thread_id);
        out.send(&Message::event(
            "thread",
            json!({ "reason": reason, "threadId": id }),
        ));
        if !has_exited {
            process.threads.entry(thread_id).or_insert(None);
            return;
        }
        process.threads.remove(&thread_id);
        process.stopped.remove(&thread_id);
        self.lens.exited(member, thread_id);
        if process.threads.is_empty() {
            // It ends, or another program takes its place, which has other things under the same numbers.
            process.runs += 1;
            self.lens.left(member);
        }
        if process.stopped.is_empty() {
            process.all_stopped = false;
            process.paused = Paused::No;
            self.stopped.retain(|other| *other != member);
        }
    }

    /// A process has stopped. The first stop takes the focus, later ones leave it.
    fn on_stopped(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        let Ok(mut body) = event.decode::<Map<String, Value>>() else {
            return;
        };
        let thread = body
            .get("threadId")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        let all = body.get("allThreadsStopped") == Some(&Value::Bool(true));
        let by_us = body.get("reason") == Some(&"pause".into());
        let is_asked = matches!(process.paused, Paused::Asked | Paused::Outrun);
        if is_asked && process.stopped.contains(&thread) {
            // It had stopped by itself before it was to be paused, and says so once more.
            process.paused = Paused::No;
            return;
        }
        if process.paused == Paused::Outrun && by_us {
            process.paused = Paused::No;
            let request = Message::request("continue", json!({ "threadId": 0 }));
            self.ask(member, &request, Asked::Quiet);
            return;
        }
        let paused = process.paused == Paused::Asked && by_us;
        process.paused = if paused { Paused::Yes } else { process.paused };
        process.threads.entry(thread).or_insert(None);
        let others: Vec<i64> = process
            .threads
            .keys()
            .copied()
            .filter(|other| all && *other != thread && !process.stopped.contains(other))
            .collect();
        process.all_stopped |= all;
        process.stopped.insert(thread);
        process.stopped.extend(&others);
        let focus_is_taken = self.stopped.iter().any(|other| *other != member) || paused;
        self.stopped.retain(|other| *other != member);
        if paused {
            // Paused because of another: it is not what one wants to see first.
            self.stopped.insert(0, member);
        } else {
            self.stopped.push(member);
            self.stopped_last = Some(member);
        }
        if let Some(Value::Array(hit)) = body.get_mut("hitBreakpointIds") {
            let ids = hit
                .iter()
                .filter_map(|id| process.breakpoints.get(&id.as_i64()?));
            let ids: Vec<Value> = ids.map(|id| (*id).into()).collect();
            *hit = ids;
            if hit.is_empty() {
                body.remove("hitBreakpointIds");
            }
        }
        body.insert("threadId".into(), self.lens.thread(member, thread).into());
        // Not all threads of this session, only those of one process.
        body.insert("allThreadsStopped".into(), false.into());
        let hint = focus_is_taken || body.get("preserveFocusHint") == Some(&Value::Bool(true));
        body.insert("preserveFocusHint".into(), hint.into());
        out.send(&Message::event("stopped", &body));
        for other in others {
            let id = self.lens.thread(member, other);
            let body = json!({
                "reason": "pause",
                "description": "stopped with its process",
                "threadId": id,
                "allThreadsStopped": false,
                "preserveFocusHint": true,
            });
            out.send(&Message::event("stopped", body));
        }
        if self.attach.stop_policy == StopPolicy::Group && !paused {
            self.pause_others(member);
        }
    }

    /// One process of a group runs on: so do the others, also those whose pause is still to come.
    fn continue_others(&mut self, member: Member) {
        let request = Message::request("continue", json!({ "threadId": 0 }));
        for (other, process) in &mut self.members {
            if *other != member && process.paused == Paused::Asked {
                process.paused = Paused::Outrun;
            }
        }
        for other in self.stopped.clone() {
            if other != member {
                self.ask(other, &request, Asked::Quiet);
            }
        }
    }

    /// One process of a group has stopped: so do the others, if this client may pause them.
    fn pause_others(&mut self, member: Member) {
        if self.attach.role == Role::Observer {
            return;
        }
        for other in self.joined() {
            let Some(process) = self.members.get_mut(&other) else {
                continue;
            };
            if other == member || !process.stopped.is_empty() {
                continue;
            }
            match process.paused {
                Paused::No | Paused::Yes => {
                    process.paused = Paused::Asked;
                    let request = Message::request("pause", json!({ "threadId": 0 }));
                    self.ask(other, &request, Asked::Pause { member: other });
                }
                // The pause that is on its way will do.
                Paused::Outrun => process.paused = Paused::Asked,
                Paused::Asked => {}
            }
        }
    }

    fn on_continued(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[serde(default)]
            thread_id: i64,
            all_threads_continued: Option<bool>,
        }
        let body: Body = event.decode().unwrap_or_default();
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        let all = body.all_threads_continued != Some(false);
        let running: Vec<i64> = if all {
            std::mem::take(&mut process.stopped).into_iter().collect()
        } else {
            process.stopped.take(&body.thread_id).into_iter().collect()
        };
        process.runs += 1;
        process.all_stopped &= !process.stopped.is_empty();
        self.lens.resumed(member, (!all).then_some(body.thread_id));
        if process.stopped.is_empty() {
            if process.paused == Paused::Yes {
                process.paused = Paused::No;
            }
            self.stopped.retain(|other| *other != member);
        }
        for thread in running {
            let id = self.lens.thread(member, thread);
            let body = json!({ "threadId": id, "allThreadsContinued": false });
            out.send(&Message::event("continued", body));
        }
    }
}

impl Gather {
    /// What a process is asked for it.
    fn question(&self, member: Member, number: u64) -> Asked {
        match &self.what {
            What::Breakpoints(changed, set) => Asked::Breakpoints {
                member,
                changed: changed.clone(),
                set: *set,
                gather: Some(number),
            },
            What::Threads | What::Modules(_) | What::Done { .. } => Asked::Part {
                member,
                gather: number,
            },
        }
    }
}

/// Takes over a process's verdict on a breakpoint, if it is better than what is known, or at least newer.
///
/// True if that is news.
fn improve(id: i64, known: &mut Map<String, Value>, mut verdict: Map<String, Value>) -> bool {
    let is_verified = |verdict: &Map<String, Value>| verdict.get("verified") == Some(&true.into());
    verdict.insert("id".into(), id.into());
    let is_better = is_verified(&verdict) || !is_verified(known);
    let is_news = is_better && *known != verdict;
    if is_news {
        *known = verdict;
    }
    is_news
}

/// Whether a request makes threads run.
fn resumes(command: &str) -> bool {
    matches!(command, "continue" | "next" | "stepIn" | "stepOut")
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
