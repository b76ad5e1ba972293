//! The lock monitor: who holds what, who waits for it, since when, and what is wrong with that.
//!
//! What it knows of a process is its last sample, so that a process that says nonsense harms its own rows only.
//! It knows nothing of tasks beyond their names.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::findings::{Found, Kind, Site};
use super::sample::{self, Actor, Lock, Locks, Use};
use super::waits::{Edge, Node, Resource, Waits};
use super::{Context, Row, seconds, short};
use crate::session::SessionId;

/// How many leaks of processes that have ended are kept; the oldest is forgotten first.
const MAX_LEFT: usize = 100;

/// How long a leak of a process that has ended is a finding, if nobody waits for the lock.
const LEFT: Duration = Duration::from_secs(60);

/// How many locks a finding of an ended process names.
const MAX_NAMED: usize = 5;

/// How long a lock of one process alone must have been held for its end to be the lock's: it may have been let go of
/// since the last sample.
const LEAK_AGE: Duration = Duration::from_secs(1);

/// What the processes say of their locks.
#[derive(Debug, Default)]
pub struct LockMonitor {
    processes: BTreeMap<SessionId, Process>,
    /// What processes that have ended have left behind.
    left: VecDeque<Left>,
}

#[derive(Debug)]
struct Process {
    taken: Instant,
    locks: Locks,
}

/// A lock that an ended process held.
#[derive(Debug)]
struct Left {
    shared: Option<String>,
    at: Instant,
    found: Found,
}

/// What is counted over all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// The locks that are watched.
    pub locks: u64,
    /// Those that somebody holds.
    pub held: u64,
    /// How many wait for one.
    pub waiters: u64,
    /// How often one was taken.
    pub acquisitions: u64,
    /// How often somebody had to wait.
    pub contended: u64,
    /// How often somebody gave up.
    pub timeouts: u64,
}

impl LockMonitor {
    /// A process says what its locks are.
    pub fn note(&mut self, session: SessionId, taken: Instant, locks: Option<Locks>) {
        match locks.filter(|locks| locks.total > 0 || !locks.locks.is_empty()) {
            Some(locks) => self.processes.insert(session, Process { taken, locks }),
            None => self.processes.remove(&session),
        };
    }

    /// Nothing is known of a process any more.
    pub fn forget(&mut self, session: SessionId) {
        self.processes.remove(&session);
    }

    /// A process has ended, with a code if that is known.
    pub fn end(&mut self, context: &Context<'_>, session: SessionId, exit: Option<i64>) {
        let Some(process) = self.processes.remove(&session) else {
            return;
        };
        // What it says last counts, also if its end was known before.
        self.left.retain(|left| left.found.sessions != [session]);
        let ended = match exit {
            Some(code) => format!(
                "{} has ended with the exit code {code}",
                context.name(session)
            ),
            None => format!("{} has ended", context.name(session)),
        };
        // Those of the process alone have gone with it, and are told of together.
        let mut own: Vec<(&Lock, &Use, Instant)> = Vec::new();
        for lock in &process.locks.locks {
            let Some((holder, since)) = process.oldest(lock) else {
                continue;
            };
            if lock.shared.is_none() {
                let held = context.running(session, since, process.taken);
                if exit != Some(0) || held >= LEAK_AGE {
                    own.push((lock, holder, since));
                }
                continue;
            }
            let message = format!("{ended} and held {}", held_by(lock, holder));
            let found = Found {
                kind: Kind::LockLeak,
                key: format!("{session} end {}", lock.id),
                sessions: vec![session],
                message,
                since,
                sites: sites(holder, lock),
                count: 1,
            };
            self.left.push_back(Left {
                shared: lock.shared.clone(),
                at: context.now,
                found,
            });
        }
        if let Some(since) = own.iter().map(|(_, _, since)| *since).min() {
            let named = own.iter().take(MAX_NAMED);
            let named: Vec<String> = named
                .map(|(lock, holder, _)| held_by(lock, holder))
                .collect();
            let more = match own.len() - named.len() {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let found = Found {
                kind: Kind::LockLeak,
                key: format!("{session} end"),
                sessions: vec![session],
                message: format!("{ended} and held {}{more}", named.join(", ")),
                since,
                sites: own
                    .iter()
                    .flat_map(|(lock, holder, _)| sites(holder, lock))
                    .collect(),
                count: own.len() as u64,
            };
            self.left.push_back(Left {
                shared: None,
                at: context.now,
                found,
            });
        }
        let excess = self.left.len().saturating_sub(MAX_LEFT);
        self.left.drain(..excess);
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.left.is_empty()
    }

    /// Who holds and waits, and in which thread each task runs.
    pub fn draw(&self, context: &Context<'_>, waits: &mut Waits, threads: &mut HashMap<Node, u64>) {
        for (session, process) in &self.processes {
            for lock in &process.locks.locks {
                // Nobody waits behind it, unless in another process.
                if lock.waiters.is_empty() && lock.shared.is_none() {
                    continue;
                }
                let resource = lock.resource(*session);
                let is_of_tasks = lock.kind.starts_with("asyncio.");
                let edge = |one: &Use, is_holder: bool| {
                    // Who waits for a lock of threads blocks its thread, whatever task that runs.
                    let task = one.actor.task.as_ref().filter(|_| is_of_tasks || is_holder);
                    let node = match task {
                        Some(task) => Node::Task(*session, task.clone()),
                        None => Node::Thread(*session, one.actor.thread),
                    };
                    Edge {
                        node,
                        who: context.who_is(*session, &one.actor),
                        resource: resource.clone(),
                        what: lock.called(),
                        site: one.site.as_ref().map(Site::from),
                        since: sample::since(process.taken, one.age),
                        seen: process.taken,
                    }
                };
                for holder in &lock.holders {
                    let edge = edge(holder, true);
                    if matches!(edge.node, Node::Task(..)) {
                        threads.insert(edge.node.clone(), holder.actor.thread);
                    }
                    waits.hold(edge);
                }
                for waiter in &lock.waiters {
                    waits.wait(edge(waiter, false));
                }
                // Semaphores are let go of by others than those who took them, too.
                let is_own = |waiter: &Use| {
                    lock.holders
                        .iter()
                        .any(|holder| holder.actor == waiter.actor)
                };
                let is_signal = lock.is_semaphore() && lock.waiters.iter().any(is_own);
                if is_signal || lock.holders.len() >= sample::MAX_ACTORS {
                    waits.free(resource);
                }
            }
        }
    }

    /// What is wrong now, beside the cycles, in which `in_cycles` is held.
    pub fn findings(&mut self, context: &Context<'_>, in_cycles: &HashSet<Resource>) -> Vec<Found> {
        let mut found = Vec::new();
        let mut wanted: HashSet<&str> = HashSet::new();
        let mut held: HashSet<&str> = HashSet::new();
        for (session, process) in &self.processes {
            for lock in &process.locks.locks {
                if let Some(shared) = &lock.shared {
                    if !lock.waiters.is_empty() {
                        wanted.insert(shared);
                    }
                    if !lock.holders.is_empty() {
                        held.insert(shared);
                    }
                }
                found.extend(process.wrong(context, *session, lock, in_cycles));
            }
        }
        self.left.retain(|left| match left.shared.as_deref() {
            // Somebody has it again, or it was let go of after all.
            Some(shared) if held.contains(shared) => false,
            Some(shared) if wanted.contains(shared) => true,
            _ => context.now.saturating_duration_since(left.at) < LEFT,
        });
        found.extend(self.left.iter().map(|left| left.found.clone()));
        found
    }

    /// What is counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut counts = Statistics::default();
        for process in self.processes.values() {
            counts.locks += process.locks.total.max(process.locks.locks.len() as u64);
            for lock in &process.locks.locks {
                counts.held += u64::from(!lock.holders.is_empty());
                counts.waiters += lock.waiter_count;
                counts.acquisitions += lock.acquisitions;
                counts.contended += lock.contended;
                counts.timeouts += lock.timeouts;
            }
        }
        counts
    }

    /// How many locks did not fit into the samples of each process.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (SessionId, u64)> {
        let processes = self.processes.iter();
        processes
            .map(|(session, process)| (*session, process.locks.dropped))
            .filter(|(_, dropped)| *dropped > 0)
    }

    /// The sessions that locks are known of.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.processes.keys().copied()
    }

    /// A row for each lock: those that are waited for, then those that are held longest, then those that are used most.
    /// A row is made when it is asked for: there may be many.
    pub fn rows(
        &self,
        context: &Context<'_>,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl ExactSizeIterator<Item = Row> {
        let mut rows = Vec::new();
        for (session, process) in &self.processes {
            if !is_meant(*session) {
                continue;
            }
            for lock in &process.locks.locks {
                let held = process.oldest(lock);
                let held = held.map_or(0.0, |(_, since)| {
                    context.age(*session, process.taken, since).as_secs_f64()
                });
                rows.push((*session, process, lock, held));
            }
        }
        rows.sort_by(|(_, _, one, held), (_, _, other, longer)| {
            other
                .waiter_count
                .cmp(&one.waiter_count)
                .then(longer.total_cmp(held))
                .then(other.acquisitions.cmp(&one.acquisitions))
        });
        rows.into_iter().map(|(session, process, lock, held)| {
            (session, process.row(context, session, lock, held))
        })
    }
}

impl Process {
    /// Who has held a lock longest, and since when.
    fn oldest<'a>(&self, lock: &'a Lock) -> Option<(&'a Use, Instant)> {
        let holders = lock.holders.iter();
        let holders = holders.map(|holder| (holder, sample::since(self.taken, holder.age)));
        holders.min_by_key(|(_, since)| *since)
    }

    fn wrong(
        &self,
        context: &Context<'_>,
        session: SessionId,
        lock: &Lock,
        in_cycles: &HashSet<Resource>,
    ) -> Option<Found> {
        let (holder, since) = match self.oldest(lock) {
            Some(oldest) => oldest,
            None if lock.leaked => {
                return Some(Found {
                    kind: Kind::LockLeak,
                    key: format!("{session} {}", lock.id),
                    sessions: vec![session],
                    message: format!(
                        "{} of {} was gone before it was let go of",
                        lock.called(),
                        context.name(session)
                    ),
                    since: self.taken,
                    sites: lock.site.iter().map(Site::from).collect(),
                    count: 1,
                });
            }
            None => return None,
        };
        let held = context.age(session, self.taken, since);
        let is_wanted = lock.waiter_count > 0;
        let is_long = held >= context.settings.lock_held
            && (is_wanted || !lock.is_semaphore())
            && !in_cycles.contains(&lock.resource(session));
        let kind = match (lock.leaked, is_long) {
            (true, _) => Kind::LockLeak,
            (false, true) => Kind::LockHeld,
            (false, false) => return None,
        };
        let who = context.who_is(session, &holder.actor);
        let mut message = match kind {
            Kind::LockLeak => format!(
                "{} is held{} by {who}, which has ended",
                lock.called(),
                at(holder)
            ),
            _ => format!(
                "{} has been held for {} by {who}{}",
                lock.called(),
                seconds(held),
                at(holder)
            ),
        };
        if is_wanted {
            message += &match lock.waiter_count {
                1 => "; 1 waits for it".to_owned(),
                count => format!("; {count} wait for it"),
            };
            if let Some(waiter) = lock.waiters.first() {
                message += &format!(
                    ", first {}{}",
                    context.who_is(session, &waiter.actor),
                    at(waiter)
                );
            }
        }
        let mut sites = sites(holder, lock);
        sites.extend(
            lock.waiters
                .iter()
                .filter_map(|waiter| waiter.site.as_ref())
                .map(Site::from),
        );
        Some(Found {
            kind,
            key: format!("{session} {} {}", lock.id, holder.actor.thread),
            sessions: vec![session],
            message,
            since,
            sites,
            count: 1,
        })
    }

    fn row(&self, context: &Context<'_>, session: SessionId, lock: &Lock, held: f64) -> Value {
        let uses = |uses: &[Use]| -> Vec<Value> {
            let row = |one: &Use| {
                let since = sample::since(self.taken, one.age);
                json!({
                    "thread": one.actor.name, "task": one.actor.task_name.as_ref().or(one.actor.task.as_ref()),
                    "site": one.site.as_ref().map(Site::from),
                    "seconds": context.age(session, self.taken, since).as_secs_f64(),
                    "since": context.time_of(since),
                })
            };
            uses.iter().map(row).collect()
        };
        json!({
            "id": lock.id, "lock": lock.name, "kind": lock.kind, "shared": lock.shared,
            "site": lock.site.as_ref().map(Site::from), "held": held,
            "holders": uses(&lock.holders), "waiters": uses(&lock.waiters), "waiterCount": lock.waiter_count,
            "acquisitions": lock.acquisitions, "contended": lock.contended, "timeouts": lock.timeouts,
            "longest": lock.longest, "leaked": lock.leaked,
        })
    }
}

impl Lock {
    fn resource(&self, session: SessionId) -> Resource {
        match &self.shared {
            Some(shared) => Resource::Shared(shared.clone()),
            None => Resource::Lock(session, self.id.clone()),
        }
    }

    fn is_semaphore(&self) -> bool {
        self.kind.contains("Semaphore")
    }

    /// What people call it.
    fn called(&self) -> String {
        format!("`{}` ({})", self.name, self.kind)
    }
}

impl Context<'_> {
    /// What people call a thread or a task of a process.
    fn who_is(&self, session: SessionId, actor: &Actor) -> String {
        let task = actor.task_name.as_ref().or(actor.task.as_ref());
        let who = match task {
            Some(task) => format!("task {task}"),
            None if actor.name.is_empty() => format!("thread {}", actor.thread),
            None => actor.name.clone(),
        };
        format!("{who} of {}", self.name(session))
    }
}

/// What people call a lock, and who held it where.
fn held_by(lock: &Lock, holder: &Use) -> String {
    let who = match holder
        .actor
        .task_name
        .as_ref()
        .or(holder.actor.task.as_ref())
    {
        Some(task) => format!("task {task}"),
        None => holder.actor.name.clone(),
    };
    format!("{}, taken by {who}{}", lock.called(), at(holder))
}

/// Where somebody took a lock, or wants to.
fn at(one: &Use) -> String {
    match &one.site {
        Some(site) => format!(" at {}", short(&site.into())),
        None => String::new(),
    }
}

/// Where a lock was taken, or else where it was made.
fn sites(holder: &Use, lock: &Lock) -> Vec<Site> {
    let site = holder.site.as_ref().or(lock.site.as_ref());
    site.map(Site::from).into_iter().collect()
}
