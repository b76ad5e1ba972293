//! What several processes answer together: asked of all, put into one answer, within a bounded time.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::process::{Process, Thread};
use super::requests::Asked;
use super::{Fleet, Member};
use crate::breakpoints::Changed;
use crate::client::notice;
use crate::wire::{Message, Outbox};

/// How long processes may take to answer what all are asked; then the answer goes without the slow ones, and says so.
const GATHER_WAIT: Duration = Duration::from_secs(2);

/// An answer that is put together from the answers of several processes.
pub(super) struct Gather {
    pub(super) seq: i64,
    pub(super) request: Message,
    pub(super) waits_for: BTreeSet<Member>,
    pub(super) until: Instant,
    pub(super) what: What,
}

/// What is gathered.
pub(super) enum What {
    /// The names of threads, kept in [`Process::threads`].
    Threads,
    /// The modules.
    Modules(Vec<Value>),
    /// The verdicts on breakpoints of the set with this number, kept in [`Set::breakpoints`](super::placing::Set).
    Breakpoints(Changed, u64),
    /// That they have done it; whether one has, and whether one has not.
    Done { done: bool, refused: bool },
}

impl Fleet {
    /// When [`Fleet::expire`] is to be called.
    pub(in super::super) fn deadline(&self) -> Option<Instant> {
        self.gathers.values().map(|gather| gather.until).min()
    }

    /// Answers what has waited long enough.
    pub(in super::super) fn expire(&mut self, out: &mut Outbox) {
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

    /// Asks several processes, and answers the client when they have, or when their time is up.
    ///
    /// One that has not let us in yet is asked when it has. One that has let an answer wait too long is not waited
    /// for again, and not asked again what only an answer is wanted of.
    pub(super) fn gather(
        &mut self,
        message: &Message,
        members: Vec<Member>,
        what: What,
        out: &mut Outbox,
    ) {
        self.gather_for(message.seq(), message, members, what, out);
    }

    pub(super) fn gather_for(
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
                late.push(process.name());
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
    pub(super) fn arrived(&mut self, number: u64, member: Member, out: &mut Outbox) {
        if let Some(gather) = self.gathers.get_mut(&number) {
            gather.waits_for.remove(&member);
            if gather.waits_for.is_empty() {
                self.finish(number, out);
            }
        }
    }

    /// The time of a gather is up: it is said on the console who has not answered, and nobody waits for it again.
    pub(super) fn say_missing(&mut self, number: u64, out: &mut Outbox) {
        let Some(gather) = self.gathers.get(&number) else {
            return;
        };
        for member in &gather.waits_for {
            if let Some(process) = self.members.get_mut(member) {
                process.is_late = true;
                let (command, name) = (gather.request.name(), process.name());
                notice(
                    &format!("\"{command}\" goes without {name}: no answer in time"),
                    out,
                );
            }
        }
    }

    /// Answers the client with what has come; whoever is late is named.
    pub(super) fn finish(&mut self, number: u64, out: &mut Outbox) {
        let late = self.members.values().filter(|process| process.is_late);
        let late: Vec<String> = late.map(Process::name).collect();
        self.finish_without(number, &late, out);
    }

    pub(super) fn finish_without(&mut self, number: u64, late: &[String], out: &mut Outbox) {
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
                    self.settings.forget(&gather.request);
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

    /// All threads of all processes, children behind their parents.
    pub(super) fn threads(&mut self) -> Vec<Value> {
        let mut members: Vec<_> = self.members.iter().collect();
        members
            .sort_by_cached_key(|(_, process)| process.membership.session.info().order.to_owned());
        let mut threads = Vec::new();
        for (member, process) in members {
            let called = process.name();
            for (thread, Thread { name, .. }) in &process.threads {
                let unknown = format!("thread {thread}");
                let name = format!("{called} · {}", name.as_ref().unwrap_or(&unknown));
                let id = self.lens.thread(*member, *thread);
                threads.push(json!({ "id": id, "name": name }));
            }
        }
        threads
    }

    pub(super) fn on_part(&mut self, member: Member, gather: u64, message: &Message) {
        #[derive(Default, Deserialize)]
        struct Body {
            #[serde(default)]
            threads: Vec<Named>,
            #[serde(default)]
            modules: Vec<Value>,
        }
        #[derive(Deserialize)]
        struct Named {
            id: i64,
            name: String,
        }
        let body: Body = message.decode().unwrap_or_default();
        let gathering = self.gathers.get_mut(&gather).map(|gather| &mut gather.what);
        if let Some(What::Done { done, refused }) = gathering {
            *done |= message.success();
            *refused |= !message.success();
            return;
        }
        let is_known = self.members.contains_key(&member);
        if let Some(process) = self.members.get_mut(&member) {
            for Named { id, name } in body.threads {
                if let Some(thread) = process.thread(id) {
                    thread.name = Some(name);
                }
            }
        }
        if let Some(Gather {
            what: What::Modules(all),
            ..
        }) = self.gathers.get_mut(&gather).filter(|_| is_known)
            && let Ok(renamed) = self.lens.outward(member, None, message)
        {
            let renamed: Body = renamed.decode().unwrap_or_default();
            all.extend(renamed.modules);
        }
    }

    /// A process answers after all.
    pub(super) fn is_heard(&mut self, member: Member) {
        if let Some(process) = self.members.get_mut(&member) {
            process.is_late = false;
        }
    }
}

impl Gather {
    /// What a process is asked for it.
    pub(super) fn question(&self, member: Member, number: u64) -> Asked {
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
