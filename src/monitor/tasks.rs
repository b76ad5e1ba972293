//! The task monitor: asyncio's tasks and loops, and what is wrong with them.
//!
//! What it knows of a process is its last sample, and a little of those before: how many tasks there were, which
//! exceptions nobody has asked for, when a loop was blocked.
//! It knows nothing of locks.

use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use serde::Serialize;
use serde_json::json;

use super::findings::{Found, Kind, Site};
use super::sample::{self, Loop, Sample, Task, Tasks, Unretrieved};
use super::waits::{Edge, Node, Resource, Waits};
use super::{Context, Row, seconds, short};
use crate::session::SessionId;

/// How many exceptions of one process are kept; the oldest is forgotten first.
const MAX_EXCEPTIONS: usize = 20;

/// How long an exception is a finding.
const EXCEPTION_KEPT: Duration = Duration::from_secs(60);

/// How long a loop that was blocked is a finding: one that is blocked again and again is one finding.
const BLOCK_KEPT: Duration = Duration::from_secs(10);

/// How often the number of a process's tasks is written down.
const GROWTH_STEP: Duration = Duration::from_secs(10);

/// How many such numbers must each be greater than the one before.
const GROWTH_STEPS: usize = 7;

/// How many tasks there must be more at the end.
const GROWTH: u64 = 100;

/// What the processes say of their tasks.
#[derive(Debug, Default)]
pub struct TaskMonitor {
    processes: BTreeMap<SessionId, Process>,
}

#[derive(Debug)]
struct Process {
    taken: Instant,
    loops: Vec<Loop>,
    tasks: Tasks,
    /// By the loop's thread.
    blocks: HashMap<u64, Blocks>,
    exceptions: VecDeque<Exception>,
    /// How many tasks there were, and when, the last at the end.
    counts: VecDeque<(Instant, u64)>,
    /// Since when a task has waited for another's end.
    awaits: HashMap<(String, String), Instant>,
}

/// How a loop was blocked.
#[derive(Debug, Default)]
struct Blocks {
    /// How often, as long as the loop is known.
    count: u64,
    /// For how long at most.
    longest: Duration,
    /// How it is or was blocked not long ago: what there is a finding of.
    spell: Option<Spell>,
}

/// A time in which a loop was blocked again and again.
#[derive(Debug)]
struct Spell {
    /// How often, up to now.
    count: u64,
    /// When it last was.
    last: Instant,
    since: Instant,
    /// Since when it is, if that goes on.
    current: Option<Instant>,
    /// What blocked it last, as far as that is known.
    latest: Option<sample::Blocked>,
    /// What blocked it for longer than all others of which is known what they were.
    worst: Option<sample::Blocked>,
    /// For how long at most, also if it is not known by what.
    longest: Duration,
}

impl Spell {
    /// Something has blocked it, or goes on to.
    fn note(&mut self, blocked: &sample::Blocked) {
        if self
            .worst
            .as_ref()
            .is_none_or(|worst| blocked.age >= worst.age)
        {
            self.worst = Some(blocked.clone());
        }
        self.latest = Some(blocked.clone());
    }

    /// What blocked it for longest, if that is known.
    fn culprit(&self) -> Option<&sample::Blocked> {
        let worst = self.worst.as_ref();
        worst.filter(|worst| sample::duration(worst.age) >= self.longest)
    }
}

#[derive(Debug)]
struct Exception {
    what: Unretrieved,
    first: Instant,
    last: Instant,
    count: u64,
}

/// What is counted over all processes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Statistics {
    /// The event loops.
    pub loops: u64,
    /// The tasks there are.
    pub tasks: u64,
    /// Those that have been made.
    #[serde(rename = "tasksCreated")]
    pub created: u64,
    /// Those that have come to their end.
    #[serde(rename = "tasksCompleted")]
    pub completed: u64,
    /// Those that an exception has ended.
    #[serde(rename = "tasksFailed")]
    pub failed: u64,
    /// Those that were called off.
    #[serde(rename = "tasksCancelled")]
    pub cancelled: u64,
}

impl TaskMonitor {
    /// A process says what its tasks are: of a sample, the loops and the tasks, which are taken out of it.
    pub fn note(
        &mut self,
        context: &Context<'_>,
        session: SessionId,
        taken: Instant,
        sample: &mut Sample,
    ) {
        let loops = std::mem::take(&mut sample.loops);
        let tasks = sample.tasks.take();
        if loops.is_empty() && tasks.is_none() && !self.processes.contains_key(&session) {
            return;
        }
        let process = self.processes.entry(session).or_insert_with(|| Process {
            taken,
            loops: Vec::new(),
            tasks: Tasks::default(),
            blocks: HashMap::new(),
            exceptions: VecDeque::new(),
            counts: VecDeque::new(),
            awaits: HashMap::new(),
        });
        let before = std::mem::replace(&mut process.taken, taken);
        process.loops = loops;
        process.tasks = tasks.unwrap_or_default();
        process.note_exceptions();
        process.note_awaits();
        let loops: HashSet<u64> = process.loops.iter().map(|one| one.thread.thread).collect();
        process.blocks.retain(|thread, _| loops.contains(thread));
        // What the debugger has stopped meanwhile says nothing of the program.
        let stood = context.clocks.stood(session, before.min(taken), taken);
        if stood.is_zero() && !context.clocks.is_stopped(session) {
            process.note_blocks(context);
            process.note_count();
        }
    }

    /// A process has ended, or nothing is known of it any more.
    pub fn forget(&mut self, session: SessionId) {
        self.processes.remove(&session);
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.processes.is_empty()
    }

    /// Which task waits for which other's end.
    pub fn draw(&self, context: &Context<'_>, waits: &mut Waits) {
        for (session, process) in &self.processes {
            if process.awaits.is_empty() {
                continue;
            }
            let tasks: HashMap<&str, &Task> = process
                .tasks
                .tasks
                .iter()
                .map(|task| (&*task.id, task))
                .collect();
            for ((waiter, awaited), since) in &process.awaits {
                let (Some(waiter), Some(awaited)) = (tasks.get(&**waiter), tasks.get(&**awaited))
                else {
                    continue;
                };
                let edge = |task: &Task, site: Option<Site>| Edge {
                    node: Node::Task(*session, task.id.clone()),
                    who: format!("task {} of {}", task.called(), context.name(*session)),
                    resource: Resource::End(*session, awaited.id.clone()),
                    what: format!("the end of task {}", awaited.called()),
                    site,
                    since: *since,
                    seen: process.taken,
                };
                waits.wait(edge(waiter, waiter.place()));
                waits.hold(edge(awaited, None));
            }
        }
    }

    /// What is wrong now, beside the cycles, in which `in_cycles` wait.
    pub fn findings(&mut self, context: &Context<'_>, in_cycles: &HashSet<Node>) -> Vec<Found> {
        let mut found = Vec::new();
        for (session, process) in &mut self.processes {
            let now = context.now;
            for blocks in process.blocks.values_mut() {
                let is_new =
                    |spell: &mut Spell| now.saturating_duration_since(spell.last) < BLOCK_KEPT;
                blocks.spell.take_if(|spell| !is_new(spell));
            }
            process
                .exceptions
                .retain(|exception| now.saturating_duration_since(exception.last) < EXCEPTION_KEPT);
            process.blocked(context, *session, &mut found);
            process.long(context, *session, in_cycles, &mut found);
            process.unretrieved(context, *session, &mut found);
            found.extend(process.grows(context, *session));
        }
        self.processes.retain(|_, process| !process.is_over());
        found
    }

    /// What is counted.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let mut counts = Statistics::default();
        for Process { loops, tasks, .. } in self.processes.values() {
            counts.loops += loops.len() as u64;
            counts.tasks += tasks.count();
            counts.created += tasks.created;
            counts.completed += tasks.completed;
            counts.failed += tasks.failed;
            counts.cancelled += tasks.cancelled;
        }
        counts
    }

    /// How many tasks there are, also those that did not fit into the samples.
    pub fn count(&self, is_meant: &dyn Fn(SessionId) -> bool) -> u64 {
        let meant = self.meant(is_meant);
        meant.map(|(_, process)| process.tasks.count()).sum()
    }

    /// How many tasks did not fit into the samples of each process.
    pub(super) fn dropped(&self) -> impl Iterator<Item = (SessionId, u64)> {
        let processes = self.processes.iter();
        processes
            .map(|(session, process)| (*session, process.tasks.dropped))
            .filter(|(_, dropped)| *dropped > 0)
    }

    /// The sessions that tasks are known of.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.processes.keys().copied()
    }

    fn meant(
        &self,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl Iterator<Item = (SessionId, &Process)> {
        let processes = self.processes.iter();
        processes
            .map(|(session, process)| (*session, process))
            .filter(|(session, _)| is_meant(*session))
    }

    /// A row for each task, the oldest first. A row is made when it is asked for: there may be many.
    pub fn rows(
        &self,
        context: &Context<'_>,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl ExactSizeIterator<Item = Row> {
        let mut rows = Vec::new();
        for (session, process) in self.meant(is_meant) {
            for task in &process.tasks.tasks {
                let since = sample::since(process.taken, task.age);
                let age = context.age(session, process.taken, since);
                rows.push((session, task, since, age));
            }
        }
        rows.sort_by_key(|(.., age)| Reverse(*age));
        rows.into_iter().map(|(session, task, since, age)| {
            let chain = |frame: &sample::Frame| json!({ "function": frame.0, "file": frame.1, "line": frame.2 });
            let row = json!({
                "id": task.id, "task": task.name, "coroutine": task.coroutine, "state": task.state,
                "age": age.as_secs_f64(), "since": context.time_of(since), "stamped": task.stamped,
                "site": task.site.as_ref().map(Site::from), "awaits": task.awaits, "where": task.place(),
                "chain": task.chain.iter().map(chain).collect::<Vec<_>>(),
            });
            (session, row)
        })
    }

    /// A row for each event loop.
    pub fn loops(
        &self,
        context: &Context<'_>,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl ExactSizeIterator<Item = Row> {
        let meant = self.meant(is_meant);
        let loops = meant.flat_map(|(session, process)| {
            let loops = process.loops.iter();
            loops.map(move |one| (session, process, one))
        });
        let loops: Vec<(SessionId, &Process, &Loop)> = loops.collect();
        loops.into_iter().map(|(session, process, one)| {
            let blocked = one.blocked.as_ref().map(|blocked| {
                // It may be over since: no more is known than was said.
                let since = sample::since(process.taken, blocked.age);
                context.running(session, since, process.taken)
            });
            let blocks = process.blocks.get(&one.thread.thread);
            let longest = blocks.map(|blocks| blocks.longest).max(blocked);
            let tasks = &process.tasks;
            let row = json!({
                "thread": one.thread.name, "blocked": blocked.map(|age| age.as_secs_f64()), "tasks": one.tasks,
                "longestBlock": longest.unwrap_or_default().as_secs_f64(),
                "blocks": blocks.map_or(0, |blocks| blocks.count),
                "created": tasks.created, "completed": tasks.completed, "failed": tasks.failed,
                "cancelled": tasks.cancelled,
            });
            (session, row)
        })
    }
}

impl Process {
    /// Whether it has nothing more to say.
    fn is_over(&self) -> bool {
        self.loops.is_empty() && self.tasks.tasks.is_empty() && self.exceptions.is_empty()
    }

    fn note_exceptions(&mut self) {
        for what in std::mem::take(&mut self.tasks.unretrieved) {
            let is_same = |known: &&mut Exception| {
                (&known.what.message, &known.what.site) == (&what.message, &what.site)
            };
            match self.exceptions.iter_mut().find(is_same) {
                Some(known) => {
                    known.count += 1;
                    known.last = self.taken;
                    known.what = what;
                }
                None => self.exceptions.push_back(Exception {
                    what,
                    first: self.taken,
                    last: self.taken,
                    count: 1,
                }),
            }
        }
        let excess = self.exceptions.len().saturating_sub(MAX_EXCEPTIONS);
        self.exceptions.drain(..excess);
    }

    fn note_awaits(&mut self) {
        let mut awaits = HashMap::new();
        for task in &self.tasks.tasks {
            let Some(awaited) = &task.awaits else {
                continue;
            };
            let key = (task.id.clone(), awaited.clone());
            let since = self.awaits.get(&key).copied().unwrap_or(self.taken);
            awaits.insert(key, since);
        }
        self.awaits = awaits;
    }

    fn note_blocks(&mut self, context: &Context<'_>) {
        let threshold = context.settings.loop_blocked;
        for one in &self.loops {
            let now = self.taken;
            let age = |blocked: &sample::Blocked| sample::duration(blocked.age);
            let counts = |blocked: &&sample::Blocked| {
                let age = age(blocked);
                age >= threshold && !age.is_zero()
            };
            let current = one.blocked.as_ref().filter(counts);
            let over = one.last_block.as_ref().filter(counts);
            let known = || over.into_iter().chain(current);
            let ages = one.blocked.iter().chain(&one.last_block).map(age);
            let known_longest = ages.fold(Duration::ZERO, Duration::max);
            let longest = known_longest.max(sample::duration(one.longest_block));
            let all = self.blocks.entry(one.thread.thread).or_default();
            all.count = all.count.saturating_add(one.blocks);
            all.longest = all.longest.max(longest);
            let blocks = if longest >= threshold { one.blocks } else { 0 };
            if known().next().is_none() && blocks == 0 {
                continue;
            }
            let spell = all.spell.get_or_insert_with(|| Spell {
                count: 0,
                last: now,
                since: sample::since(now, known().last().map_or(0.0, |blocked| blocked.age)),
                current: None,
                latest: None,
                worst: None,
                longest: Duration::ZERO,
            });
            // What went on at the last sample has ended since, and others have come after it: that it was the longest
            // is all that is said of it.
            let went_on = spell.latest.clone().filter(|_| spell.current.is_some());
            if let Some(mut ended) =
                went_on.filter(|it| known_longest < longest && age(it) <= longest)
            {
                ended.age = one.longest_block;
                spell.note(&ended);
            }
            known().for_each(|blocked| spell.note(blocked));
            spell.count = spell.count.saturating_add(blocks);
            spell.last = now;
            spell.current = current.map(|blocked| sample::since(now, blocked.age));
            spell.longest = spell.longest.max(longest);
        }
    }

    /// By what a loop is or was blocked, as people read it.
    fn by(&self, blocked: &sample::Blocked) -> Option<String> {
        let frame = blocked.stack.first()?;
        let place = short(&Site::from(&frame.site()));
        let task = blocked.task.as_ref().and_then(|id| {
            let task = self.tasks.tasks.iter().find(|task| task.id == *id)?;
            Some(format!(" in task {}", task.called()))
        });
        let task = task.unwrap_or_default();
        Some(format!("by `{}` at {place}{task}", frame.0))
    }

    fn blocked(&self, context: &Context<'_>, session: SessionId, found: &mut Vec<Found>) {
        for one in &self.loops {
            let blocks = self.blocks.get(&one.thread.thread);
            let Some(block) = blocks.and_then(|blocks| blocks.spell.as_ref()) else {
                continue;
            };
            let name = context.name(session);
            let current = block.current.filter(|_| block.last == self.taken);
            let current = current.map(|since| context.running(session, since, self.taken));
            let (culprit, latest) = (block.culprit(), block.latest.as_ref());
            let (how, time, who) = match (current, block.count) {
                (Some(age), 0 | 1) => ("has been blocked for", age, latest),
                (Some(age), _) if age >= block.longest => ("has been blocked for", age, latest),
                (None, 0 | 1) => ("was blocked for", block.longest, culprit),
                _ => (
                    "was blocked again and again, for up to",
                    block.longest,
                    culprit,
                ),
            };
            let who_by = who.and_then(|blocked| self.by(blocked));
            let latest_by = latest.and_then(|blocked| self.by(blocked));
            let by = match (&who_by, &latest_by) {
                (Some(who), Some(latest)) if who != latest => format!(" {who}, and last {latest}"),
                (None, Some(latest)) => format!(", and last {latest}"),
                (who, _) => who.iter().map(|who| format!(" {who}")).collect(),
            };
            let stack = |blocked: &sample::Blocked| {
                let frames = blocked.stack.iter();
                frames.map(|frame| Site::from(&frame.site())).collect()
            };
            let mut sites: Vec<Site> = who.or(latest).map(stack).unwrap_or_default();
            let last = latest.and_then(|latest| latest.stack.first());
            let last = last.map(|frame| Site::from(&frame.site()));
            sites.extend(last.filter(|last| !sites.contains(last)));
            found.push(Found {
                kind: Kind::LoopBlocked,
                key: format!("{session} {}", one.thread.thread),
                sessions: vec![session],
                message: format!(
                    "the event loop of {} of {name} {how} {}{by}",
                    one.thread.name,
                    seconds(time),
                ),
                since: block.since,
                sites,
                count: block.count.max(1),
            });
        }
    }

    /// Tasks of one coroutine are one finding: a program may have thousands of them.
    fn long(
        &self,
        context: &Context<'_>,
        session: SessionId,
        in_cycles: &HashSet<Node>,
        found: &mut Vec<Found>,
    ) {
        let is_in_cycle = |task: &Task| in_cycles.contains(&Node::Task(session, task.id.clone()));
        let mut groups: BTreeMap<&str, Vec<(Duration, &Task)>> = BTreeMap::new();
        for task in &self.tasks.tasks {
            let age = context.age(session, self.taken, sample::since(self.taken, task.age));
            if age >= context.settings.task_long && !is_in_cycle(task) {
                groups.entry(&task.coroutine).or_default().push((age, task));
            }
        }
        for (coroutine, group) in groups {
            let Some((age, oldest)) = group.iter().max_by_key(|(age, _)| *age) else {
                continue;
            };
            // Those that did not fit into the sample may be of any coroutine.
            let is_all = self.tasks.count() == self.tasks.tasks.len() as u64;
            let at_least = if is_all { "" } else { "at least " };
            let others = match group.len() {
                1 => String::new(),
                count => format!(", and {at_least}{} others of `{coroutine}`", count - 1),
            };
            let place = match oldest.place() {
                Some(place) => format!(", now at {}", short(&place)),
                None => String::new(),
            };
            found.push(Found {
                kind: Kind::TaskLong,
                key: format!("{session} {coroutine}"),
                sessions: vec![session],
                message: format!(
                    "task {} (`{coroutine}`) of {} has been running for {}{place}{others}",
                    oldest.called(),
                    context.name(session),
                    seconds(*age)
                ),
                since: sample::since(self.taken, oldest.age),
                sites: oldest
                    .place()
                    .into_iter()
                    .chain(oldest.site.as_ref().map(Site::from))
                    .collect(),
                count: 1,
            });
        }
    }

    fn unretrieved(&self, context: &Context<'_>, session: SessionId, found: &mut Vec<Found>) {
        for exception in &self.exceptions {
            let site = exception.what.site.as_ref().map(Site::from);
            let place = site.as_ref().map(|site| format!(" at {}", short(site)));
            found.push(Found {
                kind: Kind::TaskException,
                key: format!("{session} {} {site:?}", exception.what.message),
                sessions: vec![session],
                message: format!(
                    "task {} of {} has ended with {}{}, which nobody has asked for",
                    exception.what.task,
                    context.name(session),
                    exception.what.message,
                    place.unwrap_or_default()
                ),
                since: exception.first,
                sites: site.into_iter().collect(),
                count: exception.count,
            });
        }
    }

    fn note_count(&mut self) {
        let is_due =
            |(last, _): &(Instant, u64)| self.taken.saturating_duration_since(*last) >= GROWTH_STEP;
        if self.counts.back().is_none_or(is_due) {
            self.counts.push_back((self.taken, self.tasks.total));
            let excess = self.counts.len().saturating_sub(GROWTH_STEPS);
            self.counts.drain(..excess);
        }
    }

    fn grows(&self, context: &Context<'_>, session: SessionId) -> Option<Found> {
        let ((since, first), (_, last)) = (self.counts.front()?, self.counts.back()?);
        let only_grows = self
            .counts
            .iter()
            .zip(self.counts.iter().skip(1))
            .all(|(one, next)| one.1 < next.1);
        if self.counts.len() < GROWTH_STEPS || !only_grows || last - first < GROWTH {
            return None;
        }
        Some(Found {
            kind: Kind::TaskGrowth,
            key: session.to_string(),
            sessions: vec![session],
            message: format!(
                "{} has ever more tasks: {last}, after {first} {} ago",
                context.name(session),
                seconds(context.running(session, *since, context.now))
            ),
            since: *since,
            sites: Vec::new(),
            count: 1,
        })
    }
}

impl Tasks {
    /// How many there are, whatever the process says of it: those in the list are.
    fn count(&self) -> u64 {
        self.total.max(self.tasks.len() as u64)
    }
}

impl Task {
    /// What people call it.
    fn called(&self) -> &str {
        if self.name.is_empty() {
            &self.id
        } else {
            &self.name
        }
    }

    /// Where it waits, in the program's own code if it is there, or else where it was made.
    fn place(&self) -> Option<Site> {
        let sites = || {
            self.chain
                .iter()
                .rev()
                .map(|frame| Site::from(&frame.site()))
        };
        let own = sites().find(|site| !is_library(&site.file));
        own.or_else(|| sites().next())
            .or_else(|| self.site.as_ref().map(Site::from))
    }
}

#[cfg(test)]
#[test]
fn files_of_the_library() {
    for (file, is_one) in [
        ("/usr/lib/python3.11/asyncio/locks.py", true),
        ("<frozen runpy>", true),
        ("/usr/lib/python3/dist-packages/a.py", false),
        ("/srv/venv/lib/python3.13/site-packages/a/b.py", false),
        ("/srv/app.py", false),
        ("/srv/python3.x/app.py", false),
    ] {
        assert_eq!(is_library(file), is_one, "{file}");
    }
}

/// Whether a file is one of Python's standard library: below `python3.11/`, and not in a directory of packages there.
fn is_library(file: &str) -> bool {
    let mut parts = file.split(['/', '\\']);
    let is_python = |part: &str| {
        part.strip_prefix("python3.")
            .is_some_and(|minor| minor.bytes().all(|byte| byte.is_ascii_digit()))
    };
    file.starts_with('<')
        || parts.any(is_python) && !matches!(parts.next(), Some("site-packages" | "dist-packages"))
}
