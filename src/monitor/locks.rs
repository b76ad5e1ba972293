//! The lock monitor: who holds what, who waits for it, since when, and what is wrong with that.
//!
//! What it knows of a process is its last sample, so that a process that says nonsense harms its own rows only, and
//! the row of a lock that it says it shares.
//! It knows nothing of tasks beyond their names.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::iter;
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::findings::{Found, Kind, Site};
use super::sample::{self, Actor, Lock, Locks, Use};
use super::waits::{Edge, Node, Resource, Waits};
use super::{Context, Row, seconds, short};
use crate::session::SessionId;

/// How many leaks of processes that have ended are kept, of locks that others share and of their own; the oldest is
/// forgotten first.
const MAX_LEFT: usize = 100;

/// How long a leak of a process that has ended is a finding, if nobody can say whether the lock is still held.
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
    /// The shared locks that processes held that have ended.
    left: VecDeque<Left>,
    /// What other locks such processes held, and when they ended: they have gone with them.
    gone: VecDeque<(Instant, Found)>,
}

#[derive(Debug)]
struct Process {
    taken: Instant,
    locks: Locks,
}

/// A shared lock that an ended process held.
#[derive(Debug)]
struct Left {
    session: SessionId,
    at: Instant,
    lock: Lock,
}

/// What is counted over all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
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
        self.left.retain(|left| left.session != session);
        self.gone.retain(|(_, found)| found.sessions != [session]);
        let (shared, own): (Vec<Lock>, Vec<Lock>) = process
            .locks
            .locks
            .into_iter()
            .filter(|lock| !lock.holders.is_empty())
            .partition(|lock| lock.shared.is_some());
        self.left.extend(shared.into_iter().map(|lock| Left {
            session,
            at: context.now,
            lock: Lock {
                leaked: true,
                waiters: Vec::new(),
                waiter_count: 0,
                ..lock
            },
        }));
        // Those of the process alone are told of together. What its parent has taken is the parent's to give back, and
        // what counts may be a signal, which nobody gives back.
        let held = |lock: &Lock| {
            let holder = lock.oldest()?;
            let since = sample::since(process.taken, holder.age);
            let held = context.running(session, since, process.taken);
            let is_own = lock.acquisitions > 0 && !lock.is_semaphore();
            let is_leak = is_own && (exit != Some(0) || held >= LEAK_AGE);
            is_leak.then(|| (held_by(lock, holder), sites(holder, lock), since))
        };
        let own: Vec<(String, Vec<Site>, Instant)> = own.iter().filter_map(held).collect();
        if let Some(since) = own.iter().map(|(_, _, since)| *since).min() {
            let ended = match exit {
                Some(code) => format!(" with the exit code {code}"),
                None => String::new(),
            };
            let named = own.iter().take(MAX_NAMED);
            let named: Vec<&str> = named.map(|(held, ..)| held.as_str()).collect();
            let more = match own.len() - named.len() {
                0 => String::new(),
                more => format!(", and {more} more"),
            };
            let found = Found {
                kind: Kind::LockLeak,
                key: format!("{session} end"),
                sessions: vec![session],
                message: format!(
                    "{} has ended{ended} and held {}{more}",
                    context.name(session),
                    named.join(", ")
                ),
                since,
                sites: own.into_iter().flat_map(|(_, sites, _)| sites).collect(),
                count: 1,
            };
            self.gone.push_back((context.now, found));
        }
        let excess = self.left.len().saturating_sub(MAX_LEFT);
        self.left.drain(..excess);
        let excess = self.gone.len().saturating_sub(MAX_LEFT);
        self.gone.drain(..excess);
    }

    /// Forgets what ended processes have left behind where it has been let go of, or nobody has it any more.
    fn settle(&mut self, now: Instant) {
        self.gone
            .retain(|(at, _)| now.saturating_duration_since(*at) < LEFT);
        if self.left.is_empty() {
            return;
        }
        let left = self.left.iter();
        let names: HashSet<Option<String>> = left.map(|left| left.lock.shared.clone()).collect();
        let mut known: HashMap<Option<String>, Vec<(Instant, &Lock)>> = HashMap::new();
        for Process { taken, locks } in self.processes.values() {
            for lock in locks
                .locks
                .iter()
                .filter(|lock| names.contains(&lock.shared))
            {
                let of = known.entry(lock.shared.clone()).or_default();
                of.push((*taken, lock));
            }
        }
        self.left.retain(|left| {
            let known = known.get(&left.lock.shared).map_or(&[][..], Vec::as_slice);
            // What was said before the end is no news.
            let mut later = known.iter().filter(|(taken, _)| *taken > left.at);
            let is_free = |(_, lock): &(Instant, &Lock)| {
                let has_holder = !lock.is_semaphore() && !lock.holders.is_empty();
                lock.locked == Some(false) || has_holder
            };
            if later.clone().any(is_free) {
                return false;
            }
            later.any(|(_, lock)| lock.locked == Some(true))
                || known.iter().any(|(_, lock)| !lock.waiters.is_empty())
                || now.saturating_duration_since(left.at) < LEFT
        });
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty() && self.left.is_empty() && self.gone.is_empty()
    }

    /// All locks, those that processes share once.
    fn all(&self) -> Vec<Whole<'_>> {
        let live = self.processes.iter().flat_map(|(session, process)| {
            process.locks.locks.iter().map(|lock| Part {
                session: *session,
                taken: process.taken,
                lock,
                has_ended: false,
            })
        });
        let left = self.left.iter().map(|left| Part {
            session: left.session,
            taken: left.at,
            lock: &left.lock,
            has_ended: true,
        });
        let mut all: Vec<Whole<'_>> = Vec::new();
        let mut shared = HashMap::new();
        for part in live.chain(left) {
            let place = part
                .lock
                .shared
                .as_deref()
                .map(|name| match shared.get(name) {
                    Some(place) => *place,
                    None => *shared.entry(name).or_insert(all.len()),
                });
            match place.and_then(|place| all.get_mut(place)) {
                Some(whole) => whole.others.push(part),
                None => all.push(Whole {
                    first: part,
                    others: Vec::new(),
                }),
            }
        }
        all
    }

    /// Who holds and waits, and in which thread each task runs.
    pub fn draw(&self, context: &Context<'_>, waits: &mut Waits, threads: &mut HashMap<Node, u64>) {
        for whole in self.all() {
            // Nobody waits behind it.
            if whole.waiters().next().is_none() {
                continue;
            }
            let (resource, what) = (whole.resource(), whole.called());
            let is_of_tasks = whole.first.lock.kind.starts_with("asyncio.");
            let edge = |part: Part<'_>, one: &Use, is_holder: bool| {
                // Who waits for a lock of threads blocks its thread, whatever task that runs.
                let task = one.actor.task.as_ref().filter(|_| is_of_tasks || is_holder);
                let node = match task {
                    Some(task) => Node::Task(part.session, task.clone()),
                    None => Node::Thread(part.session, one.actor.thread),
                };
                Edge {
                    node,
                    who: context.who_is(part.session, &one.actor),
                    resource: resource.clone(),
                    what: what.clone(),
                    site: one.site.as_ref().map(Site::from),
                    since: part.since(one),
                    seen: part.taken,
                }
            };
            for (part, holder) in whole.holders() {
                let edge = edge(part, holder, true);
                if matches!(edge.node, Node::Task(..)) {
                    threads.insert(edge.node.clone(), holder.actor.thread);
                }
                waits.hold(edge);
            }
            for (part, waiter) in whole.waiters() {
                waits.wait(edge(part, waiter, false));
            }
            if whole.parts().any(|part| part.lock.is_let_go_by_others()) {
                waits.free(resource);
            }
        }
    }

    /// What is wrong now, beside the cycles, in which `in_cycles` is held.
    pub fn findings(&mut self, context: &Context<'_>, in_cycles: &HashSet<Resource>) -> Vec<Found> {
        self.settle(context.now);
        let all = self.all().into_iter();
        let found = all.flat_map(|whole| whole.wrong(context, in_cycles));
        let gone = self.gone.iter().map(|(_, found)| found.clone());
        found.chain(gone).collect()
    }

    /// What is counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut counts = Statistics::default();
        for Process { locks, .. } in self.processes.values() {
            counts.locks += locks.total.max(locks.locks.len() as u64);
        }
        for whole in self.all() {
            let live = whole.parts().filter(|part| !part.has_ended).count() as u64;
            counts.locks -= live.saturating_sub(1);
            counts.held += u64::from(whole.oldest().is_some());
            counts.waiters += whole.waiter_count();
            counts.acquisitions += whole.sum(|lock| lock.acquisitions);
            counts.contended += whole.sum(|lock| lock.contended);
            counts.timeouts += whole.sum(|lock| lock.timeouts);
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

    /// A row for each lock that one of the processes that are meant has: those that are waited for, then those that are
    /// held longest, then those that are used most. A row is made when it is asked for: there may be many.
    pub fn rows(
        &self,
        context: &Context<'_>,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl ExactSizeIterator<Item = Row> {
        let mut rows = Vec::new();
        for whole in self.all() {
            if whole.parts().any(|part| is_meant(part.session)) {
                let held = whole.oldest();
                let held = held.map_or(Duration::ZERO, |(part, holder)| part.age(context, holder));
                rows.push((whole.waiter_count(), held, whole));
            }
        }
        rows.sort_by_key(|(waiters, held, whole)| {
            Reverse((*waiters, *held, whole.sum(|lock| lock.acquisitions)))
        });
        rows.into_iter()
            .map(|(_, held, whole)| whole.row(context, held))
    }
}

/// What one process says of a lock.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    session: SessionId,
    taken: Instant,
    lock: &'a Lock,
    /// It held it when it ended.
    has_ended: bool,
}

impl Part<'_> {
    /// Since when somebody holds it or waits.
    fn since(&self, one: &Use) -> Instant {
        sample::since(self.taken, one.age)
    }

    /// For how long.
    fn age(&self, context: &Context<'_>, one: &Use) -> Duration {
        context.age(self.session, self.taken, self.since(one))
    }
}

/// A lock, as all processes together tell of it that have it: one, or those that share it.
#[derive(Debug)]
struct Whole<'a> {
    first: Part<'a>,
    others: Vec<Part<'a>>,
}

impl<'a> Whole<'a> {
    fn parts(&self) -> impl Iterator<Item = Part<'a>> {
        iter::once(self.first).chain(self.others.iter().copied())
    }

    fn holders(&self) -> impl Iterator<Item = (Part<'a>, &'a Use)> {
        self.parts()
            .flat_map(|part| part.lock.holders.iter().map(move |one| (part, one)))
    }

    fn waiters(&self) -> impl Iterator<Item = (Part<'a>, &'a Use)> {
        self.parts()
            .flat_map(|part| part.lock.waiters.iter().map(move |one| (part, one)))
    }

    /// Who has held it longest.
    fn oldest(&self) -> Option<(Part<'a>, &'a Use)> {
        self.holders().min_by_key(|(part, one)| part.since(one))
    }

    /// Who has waited for it longest.
    fn next(&self) -> Option<(Part<'a>, &'a Use)> {
        self.waiters().min_by_key(|(part, one)| part.since(one))
    }

    fn sum(&self, count: impl Fn(&Lock) -> u64) -> u64 {
        self.parts().map(|part| count(part.lock)).sum()
    }

    fn waiter_count(&self) -> u64 {
        self.sum(|lock| lock.waiter_count)
    }

    /// What the process says of it that has made it, which knows where that was; or else any.
    fn made(&self) -> Part<'a> {
        let mut parts = self.parts();
        parts
            .find(|part| part.lock.site.is_some())
            .unwrap_or(self.first)
    }

    fn called(&self) -> String {
        self.made().lock.called()
    }

    fn resource(&self) -> Resource {
        let Part { session, lock, .. } = self.first;
        match &lock.shared {
            Some(shared) => Resource::Shared(shared.clone()),
            None => Resource::Lock(session, lock.id.clone()),
        }
    }

    /// Those who are looked at for holding it: of a semaphore who has held it longest. Of a lock that has one holder,
    /// all who say that they are it: one who lies about that hides nobody.
    fn suspects(&self) -> impl Iterator<Item = (Part<'a>, &'a Use)> {
        let of = |part: Part<'a>| Some((part, part.lock.oldest()?));
        let (counting, others): (Vec<_>, Vec<_>) = self
            .parts()
            .filter_map(of)
            .partition(|(part, _)| part.lock.is_semaphore());
        let oldest = counting
            .into_iter()
            .min_by_key(|(part, one)| part.since(one));
        others.into_iter().chain(oldest)
    }

    /// What is wrong with it, beside the cycles.
    fn wrong(&self, context: &Context<'_>, in_cycles: &HashSet<Resource>) -> Vec<Found> {
        if self.oldest().is_none() {
            return self.gone(context).into_iter().collect();
        }
        self.suspects()
            .filter_map(|(part, holder)| self.held(context, in_cycles, part, holder))
            .collect()
    }

    /// It is there no more, and was held.
    fn gone(&self, context: &Context<'_>) -> Option<Found> {
        let Part {
            session,
            taken,
            lock,
            ..
        } = self.parts().find(|part| part.lock.leaked)?;
        Some(Found {
            kind: Kind::LockLeak,
            key: format!("{session} {}", lock.id),
            sessions: vec![session],
            message: format!(
                "{} of {} was gone before it was let go of",
                lock.called(),
                context.name(session)
            ),
            since: taken,
            sites: lock.site.iter().map(Site::from).collect(),
            count: 1,
        })
    }

    /// Somebody holds it for too long, or has ended.
    fn held(
        &self,
        context: &Context<'_>,
        in_cycles: &HashSet<Resource>,
        part: Part<'a>,
        holder: &Use,
    ) -> Option<Found> {
        let held = part.age(context, holder);
        let waiters = self.waiter_count();
        // What counts may be a signal, which nobody gives back.
        if part.has_ended && part.lock.is_semaphore() && waiters == 0 {
            return None;
        }
        let is_long = held >= context.settings.lock_held
            && (waiters > 0 || !part.lock.is_semaphore())
            && !in_cycles.contains(&self.resource());
        let kind = match (part.lock.leaked, is_long) {
            (true, _) => Kind::LockLeak,
            (false, true) => Kind::LockHeld,
            (false, false) => return None,
        };
        let (called, at_line) = (self.called(), at(holder));
        let who = context.who_is(part.session, &holder.actor);
        let mut message = match kind {
            Kind::LockLeak => format!("{called} is held{at_line} by {who}, which has ended"),
            _ => format!(
                "{called} has been held for {} by {who}{at_line}",
                seconds(held)
            ),
        };
        if waiters > 0 {
            message += &match waiters {
                1 => "; 1 waits for it".to_owned(),
                count => format!("; {count} wait for it"),
            };
        }
        if let Some((part, waiter)) = self.next() {
            let who = context.who_is(part.session, &waiter.actor);
            message += &format!(", first {who}{}", at(waiter));
        }
        let (mut sessions, mut sites) = (vec![part.session], sites(holder, part.lock));
        for (part, waiter) in self.waiters().take(sample::MAX_ACTORS) {
            if !sessions.contains(&part.session) {
                sessions.push(part.session);
            }
            sites.extend(waiter.site.as_ref().map(Site::from));
        }
        Some(Found {
            kind,
            key: format!("{} {} {}", part.session, part.lock.id, holder.actor.thread),
            sessions,
            message,
            since: part.since(holder),
            sites,
            count: 1,
        })
    }

    /// The row is one of the process that has held the lock longest, or waited for it, or made it.
    fn row(&self, context: &Context<'_>, held: Duration) -> Row {
        let row = |(part, one): (Part<'_>, &Use)| {
            let who = (context.who)(part.session);
            json!({
                "session": part.session, "pid": who.as_ref().map(|who| who.pid), "name": who.map(|who| who.name),
                "thread": one.actor.name, "task": one.actor.task_name.as_ref().or(one.actor.task.as_ref()),
                "site": one.site.as_ref().map(Site::from),
                "seconds": part.age(context, one).as_secs_f64(), "since": context.time_of(part.since(one)),
            })
        };
        let made = self.made();
        let of = self.oldest().or_else(|| self.next());
        let session = of.map_or(made.session, |(part, _)| part.session);
        let longest = self.parts().map(|part| part.lock.longest);
        // A process may have it twice, when it was handed to it twice.
        let live = self.parts().filter(|part| !part.has_ended);
        let sessions: BTreeSet<SessionId> = live.map(|part| part.session).collect();
        let lock = made.lock;
        // Who has been at it longest is first.
        let sorted = |mut uses: Vec<(Part<'a>, &'a Use)>| {
            uses.sort_by_key(|(part, one)| part.since(one));
            uses
        };
        let holders = sorted(self.holders().collect());
        let waiters = sorted(self.waiters().collect());
        let row = json!({
            "id": lock.id, "lock": lock.name, "kind": lock.kind, "shared": lock.shared,
            "processes": sessions.len(),
            "site": lock.site.as_ref().map(Site::from), "held": held.as_secs_f64(),
            "holders": holders.into_iter().take(sample::MAX_ACTORS).map(row).collect::<Vec<_>>(),
            "waiters": waiters.into_iter().take(sample::MAX_ACTORS).map(row).collect::<Vec<_>>(),
            "waiterCount": self.waiter_count(),
            "acquisitions": self.sum(|lock| lock.acquisitions), "contended": self.sum(|lock| lock.contended),
            "timeouts": self.sum(|lock| lock.timeouts), "longest": longest.fold(0.0, f64::max),
            "leaked": self.parts().any(|part| part.lock.leaked),
        });
        (session, row)
    }
}

impl Lock {
    /// Who has held it longest.
    fn oldest(&self) -> Option<&Use> {
        let holders = self.holders.iter();
        holders.min_by_key(|holder| Reverse(sample::duration(holder.age)))
    }

    /// Whether others may let go of it than those who are known to hold it.
    fn is_let_go_by_others(&self) -> bool {
        let is_own = |waiter: &Use| {
            let mut holders = self.holders.iter();
            holders.any(|holder| holder.actor == waiter.actor)
        };
        let is_signal = self.is_semaphore() && self.waiters.iter().any(is_own);
        is_signal || self.holders.len() >= sample::MAX_ACTORS
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
