//! The whole view with scripted processes, without sockets and without a runtime: any life of them, in any order of
//! what they are asked and what they say.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Fleet;
use super::group::Told;
use crate::client::{Attach, ClientId, FromSession, Handle, Mail};
use crate::mailbox::mailbox;
use crate::session;
use crate::wire::{Decoder, Kind, Message, Outbox};

/// A process, with its session: what it is asked waits, and what it says.
struct Scripted {
    handle: Arc<session::Handle>,
    inbox: mpsc::Receiver<session::Mail>,
    said: VecDeque<FromSession>,
    /// How often it has run on, and how often the view has heard that.
    epoch: u64,
    heard: u64,
    threads: Vec<i64>,
    /// By its own number, which thing of which epoch that is. Numbers come back for other things.
    things: BTreeMap<i64, (String, u64)>,
    last_thread: i64,
    last_thing: i64,
    released: bool,
    stopped: bool,
    pausing: bool,
    stepping: bool,
    /// Somebody else may have continued it alone.
    runs_alone: bool,
    /// A thread has ended, and with it what was its own.
    has_lost: bool,
}

/// The view, its processes, and the client's idea of them.
struct World {
    fleet: Fleet,
    mails: mpsc::Receiver<Mail>,
    out: Outbox,
    processes: Vec<Scripted>,
    /// By id of the view, what it was given for: the process, and the thing with its epoch or the thread.
    things: BTreeMap<i64, Label>,
    threads: BTreeMap<i64, (usize, i64)>,
    /// The threads that have been said to exit.
    gone: HashSet<i64>,
    last_seq: i64,
    open: HashMap<i64, Question>,
}

#[derive(Debug, Clone, PartialEq)]
struct Label {
    process: usize,
    name: String,
    epoch: u64,
    /// The process has not run on between the question that brought it and its answer, nor been told to.
    is_sure: bool,
}

/// What the client has asked and waits for.
#[derive(Debug)]
struct Question {
    command: &'static str,
    about: Option<Label>,
    process: Option<usize>,
    /// What the view had heard of the process, and whether the thing must be there.
    heard: u64,
    must_be: bool,
}

#[derive(Debug, Clone)]
enum Step {
    /// A process comes, does what it is asked next, says the next thing, stops, has a thread more or less, is paused
    /// at last, is continued by somebody else, ends.
    Come,
    Work(Index),
    Hear(Index),
    Stop(Index),
    StartThread(Index),
    EndThread(Index),
    Settle(Index),
    Continued(Index),
    End(Index),
    /// The client asks something about a thread or a thing of any time.
    OfThread(&'static str, Index),
    OfThing(Index),
    Threads,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<Index>;
    let command = prop::sample::select(vec!["continue", "next", "pause"]);
    prop_oneof![
        2 => Just(Step::Come),
        12 => index().prop_map(Step::Work),
        12 => index().prop_map(Step::Hear),
        4 => index().prop_map(Step::Stop),
        1 => index().prop_map(Step::StartThread),
        1 => index().prop_map(Step::EndThread),
        3 => index().prop_map(Step::Settle),
        1 => index().prop_map(Step::Continued),
        1 => index().prop_map(Step::End),
        6 => (command, index()).prop_map(|(command, at)| Step::OfThread(command, at)),
        6 => index().prop_map(|at| Step::OfThread("stackTrace", at)),
        8 => index().prop_map(Step::OfThing),
        1 => Just(Step::Threads),
    ]
}

impl Scripted {
    fn new(number: u32) -> Scripted {
        let (tx, inbox) = mpsc::channel(session::INBOX);
        Scripted {
            handle: Arc::new(session::Handle::scripted(number, tx)),
            inbox,
            said: VecDeque::new(),
            epoch: 0,
            heard: 0,
            threads: vec![1],
            things: BTreeMap::new(),
            last_thread: 1,
            last_thing: 100,
            released: false,
            stopped: false,
            pausing: false,
            stepping: false,
            runs_alone: false,
            has_lost: false,
        }
    }

    fn say(&mut self, event: &str, body: Value) {
        let event = Message::event(event, body);
        self.said.push_back(FromSession::Event(event));
    }

    fn stop(&mut self, reason: &str) {
        if self.released && !self.stopped && !self.threads.is_empty() {
            (self.stopped, self.pausing, self.stepping) = (true, false, false);
            // What is shown of the next stop has the numbers of this one.
            self.last_thing = 100;
            let thread = self.threads[0];
            self.say(
                "stopped",
                json!({ "reason": reason, "threadId": thread, "allThreadsStopped": true }),
            );
        }
    }

    fn run(&mut self) {
        if self.stopped {
            (self.stopped, self.pausing) = (false, false);
            self.epoch += 1;
            self.say("continued", json!({ "allThreadsContinued": true }));
        }
    }

    /// Something new to show, and its number.
    fn show(&mut self) -> (i64, String, u64) {
        self.last_thing += 1;
        let name = format!("{}/{}/{}", self.handle.id, self.epoch, self.last_thing);
        let epoch = if self.stopped { self.epoch } else { u64::MAX };
        self.things.insert(self.last_thing, (name.clone(), epoch));
        (self.last_thing, name, epoch)
    }

    /// The next of what it was asked.
    fn work(&mut self) {
        match self.inbox.try_recv() {
            Ok(session::Mail::Join(..)) => self.said.push_back(FromSession::Joined),
            Ok(session::Mail::Request(_, token, request)) => {
                let answer = match self.answer(&request) {
                    Ok(body) => Message::response(0, request.name(), body),
                    Err(why) => Message::failure(0, request.name(), why),
                };
                self.said.push_back(FromSession::Response(token, answer));
                if request.name() == "next" && self.stopped {
                    self.run();
                    self.stepping = true;
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, request: &Message) -> Result<Value, &'static str> {
        let arguments: Value = request.decode().unwrap_or_default();
        match request.name() {
            "configurationDone" if !self.released => {
                self.released = true;
                for thread in self.threads.clone() {
                    self.say("thread", json!({ "reason": "started", "threadId": thread }));
                }
                Ok(json!({}))
            }
            "threads" => {
                let thread = |id: &i64| json!({ "id": id, "name": format!("{id}") });
                let threads: Vec<Value> = self.threads.iter().map(thread).collect();
                Ok(json!({ "threads": threads }))
            }
            "pause" => {
                self.pausing = !self.stopped;
                if self.stopped {
                    let thread = self.threads[0];
                    let body = json!({ "reason": "breakpoint", "threadId": thread, "allThreadsStopped": true });
                    self.say("stopped", body);
                }
                Ok(json!({}))
            }
            "continue" => {
                self.run();
                Ok(json!({ "allThreadsContinued": true }))
            }
            "next" if !self.stopped => Err("notStopped"),
            "stackTrace" => {
                let frames = [self.show(), self.show()];
                let frame = |(id, name, epoch)| json!({ "id": id, "name": name, "epoch": epoch });
                let frames = frames.map(frame);
                Ok(json!({ "stackFrames": frames }))
            }
            "scopes" => {
                let thing = arguments["frameId"]
                    .as_i64()
                    .and_then(|id| self.things.get(&id));
                let alive = |epoch: u64| self.stopped && epoch == self.epoch;
                let (of, _) = thing
                    .filter(|(_, epoch)| alive(*epoch))
                    .ok_or("no such frame")?;
                Ok(json!({ "scopes": [], "of": of, "epoch": self.epoch }))
            }
            _ => Ok(json!({})),
        }
    }
}

impl World {
    fn new(policy: &str) -> World {
        let (mailbox, mails, _) = mailbox(&CancellationToken::new());
        let handle = Arc::new(Handle::new(ClientId(1), "test".into(), mailbox));
        let attach = Message::request("attach", json!({ "stopPolicy": policy }));
        let attach = Attach::read(&attach).expect("the arguments are right");
        let mut world = World {
            fleet: Fleet::new(handle, Arc::new(attach)),
            mails,
            out: Outbox::default(),
            processes: Vec::new(),
            things: BTreeMap::new(),
            threads: BTreeMap::new(),
            gone: HashSet::new(),
            last_seq: 0,
            open: HashMap::new(),
        };
        world.ask("configurationDone", json!({}), None, None);
        world
    }

    fn ask(
        &mut self,
        command: &'static str,
        arguments: Value,
        about: Option<Label>,
        process: Option<usize>,
    ) {
        self.last_seq += 1;
        let process = about.as_ref().map(|label| label.process).or(process);
        let scripted = process.map(|process| &self.processes[process]);
        let heard = scripted.map_or(0, |process| process.heard);
        let question = Question {
            command,
            heard,
            must_be: scripted
                .zip(about.as_ref())
                .is_some_and(|(process, label)| {
                    label.is_sure
                        && !process.has_lost
                        && process.stopped
                        && label.epoch == heard
                        && process.epoch == heard
                }),
            about,
            process,
        };
        self.open.insert(self.last_seq, question);
        let request = json!({ "seq": self.last_seq, "type": "request", "command": command, "arguments": arguments });
        let request = Message::parse(Bytes::from(request.to_string())).expect("it is one");
        self.fleet.on_request(&request, &mut self.out);
        self.listen();
    }

    /// The view hears the next thing that a process has said.
    fn hear(&mut self, process: usize) {
        let scripted = &mut self.processes[process];
        let Some(said) = scripted.said.pop_front() else {
            return;
        };
        if matches!(&said, FromSession::Event(event) if event.name() == "continued") {
            scripted.heard += 1;
        }
        let session = scripted.handle.id;
        self.fleet.on_mail(session, said, &mut self.out);
        self.listen();
    }

    /// The client reads all that there is to read.
    fn listen(&mut self) {
        while let Ok(Mail::Session(session, mail)) = self.mails.try_recv() {
            self.fleet.on_mail(session, mail, &mut self.out);
        }
        let bytes = BytesMut::from(self.out.bytes());
        self.out.written(bytes.len(), 0);
        let mut decoder = Decoder::starting_with(bytes);
        while let Ok(Some(message)) = decoder.message() {
            let body: Value = message.decode().unwrap_or_default();
            match message.kind() {
                Kind::Response => self.answered(&message, &body),
                _ if message.name() == "thread" => {
                    let thread = body["threadId"].as_i64().expect("it has one");
                    if body["reason"] == "exited" {
                        self.gone.insert(thread);
                    }
                }
                _ => {}
            }
        }
    }

    fn answered(&mut self, message: &Message, body: &Value) {
        let question = self.open.remove(&message.request_seq());
        let question = question.expect("each request is answered once");
        match (question.command, &question.about) {
            ("stackTrace", _) => {
                for frame in body["stackFrames"].as_array().into_iter().flatten() {
                    let id = frame["id"].as_i64().expect("it has one");
                    let name = frame["name"].as_str().expect("it has one");
                    let process = question.process.expect("a stack is one process's");
                    let member = self.fleet.numbers.get(&self.processes[process].handle.id);
                    let is_told = member
                        .is_some_and(|member| self.fleet.members[member].told != Told::Nothing);
                    let owner = self.processes[process].handle.id.to_string();
                    assert!(name.starts_with(&owner), "the stack of another process");
                    let epoch = frame["epoch"].as_u64().expect("it has one");
                    let label = Label {
                        process,
                        name: name.into(),
                        epoch,
                        is_sure: epoch == question.heard && !is_told,
                    };
                    let other = self.things.insert(id, label);
                    assert_eq!(other, None, "{id} is given a second time");
                }
            }
            ("scopes", Some(label)) if message.success() => {
                // What it was given for; or the process ran on meanwhile, and the view had not heard of it.
                let owner = self.processes[label.process].handle.id.to_string();
                let of = body["of"].as_str().expect("it says so");
                assert!(of.starts_with(&owner), "another process was asked");
                assert!(of == label.name || body["epoch"] != question.heard);
                assert!(
                    label.epoch >= question.heard,
                    "it is of a stop that is over"
                );
            }
            ("scopes", Some(label)) => {
                let process = &self.processes[label.process];
                let raced = process.epoch != question.heard || process.inbox.is_closed();
                assert!(!question.must_be || raced, "{label:?} is there");
            }
            ("threads", _) => {
                for thread in body["threads"].as_array().into_iter().flatten() {
                    let id = thread["id"].as_i64().expect("it has one");
                    assert!(!self.gone.contains(&id), "{id} has exited");
                    let name = thread["name"].as_str().unwrap_or_default();
                    let (process, native) = name.split_once(" · ").expect("it names both");
                    let native = native.trim_start_matches("thread ").parse();
                    let whose = (
                        process.parse().expect("a number"),
                        native.expect("a number"),
                    );
                    let known = self.threads.insert(id, whose);
                    assert!(known.is_none_or(|known| known == whose));
                }
            }
            _ => {}
        }
    }

    fn take(&mut self, step: &Step) {
        let at = |at: &Index, count: usize| (count > 0).then(|| at.index(count.max(1)));
        let count = self.processes.len();
        match step {
            Step::Come => {
                let number = u32::try_from(count).expect("there are few");
                let process = Scripted::new(number);
                self.fleet.join(&process.handle, &mut self.out);
                self.processes.push(process);
            }
            Step::Threads => self.ask("threads", json!({}), None, None),
            Step::OfThing(index) => {
                if let Some(at) = at(index, self.things.len()) {
                    let (id, label) = self.things.iter().nth(at).expect("it is there");
                    let (id, label) = (*id, label.clone());
                    self.ask("scopes", json!({ "frameId": id }), Some(label), None);
                }
            }
            Step::OfThread(command, index) => {
                if let Some(at) = at(index, self.threads.len()) {
                    let (id, (process, _)) = self.threads.iter().nth(at).expect("it is there");
                    let (id, process) = (*id, *process);
                    self.ask(command, json!({ "threadId": id }), None, Some(process));
                }
            }
            Step::Hear(index) => {
                if let Some(process) = at(index, count) {
                    self.hear(process);
                }
            }
            Step::Work(index)
            | Step::Stop(index)
            | Step::StartThread(index)
            | Step::EndThread(index)
            | Step::Settle(index)
            | Step::Continued(index)
            | Step::End(index) => {
                if let Some(process) = at(index, count) {
                    self.processes[process].take(step);
                }
            }
        }
    }

    /// All processes end, and leave nothing.
    fn end(&mut self) {
        for scripted in &mut self.processes {
            if !scripted.inbox.is_closed() {
                scripted.end();
            }
        }
        self.settle();
        assert!(self.fleet.is_empty() && self.fleet.lens.is_empty());
        assert!(!self.fleet.halted);
    }

    /// Everything that is under way comes to its end, pauses too.
    fn settle(&mut self) {
        let mut is_quiet = false;
        while !is_quiet {
            is_quiet = true;
            for process in 0..self.processes.len() {
                let scripted = &mut self.processes[process];
                if scripted.pausing {
                    scripted.stop("pause");
                }
                is_quiet &= scripted.inbox.is_empty() && scripted.said.is_empty();
                scripted.work();
                self.hear(process);
            }
        }
    }
}

impl Scripted {
    fn take(&mut self, step: &Step) {
        if self.inbox.is_closed() {
            return;
        }
        match step {
            Step::Work(_) => self.work(),
            Step::Stop(_) => self.stop(if self.stepping { "step" } else { "breakpoint" }),
            Step::Settle(_) if self.pausing => self.stop("pause"),
            Step::Continued(_) => {
                self.runs_alone = true;
                self.run();
            }
            Step::StartThread(_) if self.released && self.threads.len() < 4 => {
                self.last_thread += 1;
                self.threads.push(self.last_thread);
                let body = json!({ "reason": "started", "threadId": self.last_thread });
                self.say("thread", body);
            }
            Step::EndThread(_) if self.threads.len() > 1 => {
                self.has_lost = true;
                let thread = self.threads.pop();
                self.say("thread", json!({ "reason": "exited", "threadId": thread }));
            }
            Step::End(_) => self.end(),
            _ => {}
        }
    }

    /// It goes: its session answers what is open, and says so.
    fn end(&mut self) {
        self.inbox.close();
        while let Ok(mail) = self.inbox.try_recv() {
            if let session::Mail::Request(_, token, request) = mail {
                let answer = Message::failure(0, request.name(), "the process has ended");
                self.said.push_back(FromSession::Response(token, answer));
            }
        }
        for thread in std::mem::take(&mut self.threads) {
            self.say("thread", json!({ "reason": "exited", "threadId": thread }));
        }
        (self.stopped, self.pausing, self.stepping) = (false, false, false);
        self.said.push_back(FromSession::Ended);
    }
}

fn live(policy: &str, steps: &[Step]) {
    let mut world = World::new(policy);
    for step in steps {
        world.take(step);
    }
    world.settle();
    assert!(world.open.is_empty(), "not answered: {:?}", world.open);
    assert!(world.fleet.asked.is_empty() && world.fleet.gathers.is_empty());
    let halted = world.fleet.halted;
    for scripted in &world.processes {
        let member = world.fleet.numbers.get(&scripted.handle.id);
        assert_eq!(member.is_none(), scripted.inbox.is_closed());
        let Some(member) = member else { continue };
        let process = &world.fleet.members[member];
        assert_eq!(process.stopped.is_empty(), !scripted.stopped);
        assert!(
            policy != "group"
                || scripted.stopped == halted
                || halted && (scripted.stepping || scripted.runs_alone),
            "halted: {halted}, stopped: {}, stepping: {}, {:?}, {:?}",
            scripted.stopped,
            scripted.stepping,
            process.paused,
            process.told,
        );
    }
    world.end();
}

#[test]
fn two_hundred_processes_of_fifty_threads_stop_and_run_as_a_group() {
    let (processes, threads) = (200, 50);
    let mut world = World::new("group");
    for _ in 0..processes {
        world.take(&Step::Come);
    }
    for scripted in &mut world.processes {
        scripted.threads = (1..=threads).collect();
    }
    world.settle();
    world.ask("threads", json!({}), None, None);
    world.settle();
    assert_eq!(world.threads.len(), 10_000);
    for stops in [0, processes / 2] {
        world.processes[stops].stop("breakpoint");
        world.settle();
        assert!(world.processes.iter().all(|scripted| scripted.stopped));
        let of = |of: &&(usize, i64)| of.0 == processes - 1;
        let last = world.threads.iter().find(|(_, whose)| of(whose));
        let last = *last.expect("it is there").0;
        for command in ["stackTrace", "continue"] {
            let arguments = json!({ "threadId": last });
            world.ask(command, arguments, None, Some(processes - 1));
        }
        world.settle();
        assert!(world.processes.iter().all(|scripted| !scripted.stopped));
    }
    assert!(world.open.is_empty());
    world.end();
}

proptest! {
    /// Each request is answered once, each id means what it was given for or nothing, none is given twice; a group
    /// that is stopped is stopped whole, and one that runs runs whole; nothing is left behind.
    #[test]
    fn any_life_of_processes(steps in vec(step(), 0..120)) {
        live("one", &steps);
    }

    #[test]
    fn any_life_of_a_group(steps in vec(step(), 0..120)) {
        live("group", &steps);
    }
}
