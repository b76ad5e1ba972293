//! What is wrong: each finding from when it opens over its repetitions to its end, told sparingly.
//!
//! A monitor says what is the case now; here that becomes news. What ends and begins anew within a minute is the same
//! finding, and is not told again.
//! This module knows nothing of locks, tasks and sessions.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use serde::{Serialize, Serializer};

use super::{Context, is_recent, sample};
use crate::session::SessionId;
use crate::text::printable;

/// How many findings are kept, open and ended ones; the one that ended first is forgotten first.
pub const FINDINGS: usize = 1000;

/// How many findings may be open; further ones are left out, and counted.
pub const MAX_OPEN: usize = 500;

/// How many of them may be of one process.
pub const MAX_OPEN_OF_SESSION: usize = 50;

/// How long a finding is not told again, while it lasts or when it comes back.
pub const REPETITION: Duration = Duration::from_secs(60);

/// How many sites a finding names.
const MAX_SITES: usize = 32;

/// What kind of thing is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Somebody ends a process because it is stopped.
    Watchdog,
    /// Some wait for each other's locks.
    LockCycle,
    /// Some wait for each other's ends.
    TaskCycle,
    /// Who holds a lock has ended.
    LockLeak,
    /// A lock is held for too long.
    LockHeld,
    /// An event loop does not come round.
    LoopBlocked,
    /// An exception of a task that nobody has asked for.
    TaskException,
    /// A task runs for too long.
    TaskLong,
    /// There are ever more tasks.
    TaskGrowth,
    /// A process waits for an IDE.
    SessionWaiting,
    /// A process ends again and again.
    SessionFlapping,
    /// A part of a process's work had not ended when the process did.
    SessionOpen,
    /// A process takes ever more memory.
    MemoryGrowth,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 13] = [
        Kind::Watchdog,
        Kind::LockCycle,
        Kind::TaskCycle,
        Kind::LockLeak,
        Kind::LockHeld,
        Kind::LoopBlocked,
        Kind::TaskException,
        Kind::TaskLong,
        Kind::TaskGrowth,
        Kind::SessionWaiting,
        Kind::SessionFlapping,
        Kind::SessionOpen,
        Kind::MemoryGrowth,
    ];

    /// What to do about it.
    #[must_use]
    pub fn advice(self) -> &'static str {
        match self {
            Kind::Watchdog => "let it run, or start it with a longer limit while you debug",
            Kind::LockCycle => {
                "take the locks in the same order everywhere, or with a timeout; what its holder takes again is to be an RLock"
            }
            Kind::TaskCycle => "one of them must not wait for the other",
            Kind::LockLeak => "release it in a `finally`, or hold it with `with`",
            Kind::LockHeld => "look at what the holder does: `dbgproxy bt` shows it",
            Kind::LoopBlocked => {
                "use what can be awaited, or `await asyncio.to_thread(…)`, for what takes its time"
            }
            Kind::TaskException => "await the task, or ask it for its `exception()`",
            Kind::TaskLong => "if it is not meant to, look where it waits, and give that a timeout",
            Kind::TaskGrowth => "tasks are made faster than they end: bound their number",
            Kind::SessionWaiting => {
                "attach an IDE, or start without --wait-for-ide and DBGPROXY_WAIT"
            }
            Kind::SessionFlapping => "look at what it says last: its exit code and its output",
            Kind::MemoryGrowth => {
                "see what it keeps: two snapshots of `tracemalloc` compared show where it is made"
            }
            Kind::SessionOpen => "end it in a `finally`, or use it with `with`",
        }
    }
}

/// A line of a file, as DAP's sources have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Site {
    /// The file.
    pub file: String,
    /// The line.
    pub line: u32,
}

impl From<&sample::Site> for Site {
    fn from(site: &sample::Site) -> Site {
        Site {
            file: site.0.clone(),
            line: site.1,
        }
    }
}

/// What a monitor says is the case.
#[derive(Debug, Clone)]
pub struct Found {
    /// What kind of thing.
    pub kind: Kind,
    /// What it is about: the same text and kind the next time is the same finding.
    pub key: String,
    /// The processes concerned, the one that it is about first.
    pub sessions: Vec<SessionId>,
    /// What, who, where, for how long.
    pub message: String,
    /// Since when.
    pub since: Instant,
    /// Where in the program.
    pub sites: Vec<Site>,
    /// How often it has happened so far.
    pub count: u64,
}

/// A finding.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// A number that is never used again.
    pub id: u64,
    /// What kind of thing.
    pub kind: Kind,
    /// What, who, where, for how long.
    pub message: String,
    /// The message when it opened, which stays as it was.
    pub first: String,
    /// The process that it is about.
    pub session: Option<SessionId>,
    /// Its pid.
    pub pid: Option<u32>,
    /// Its name.
    pub name: Option<String>,
    /// All processes concerned.
    pub sessions: Vec<SessionId>,
    /// Since when.
    pub since: Timestamp,
    /// When it was no longer so.
    pub ended: Option<Timestamp>,
    /// How often.
    pub count: u64,
    /// Where in the program.
    pub sites: Vec<Site>,
    /// What to do about it.
    pub advice: &'static str,
}

/// What has become of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Reason {
    /// It is new.
    Opened,
    /// It lasts, or it is back.
    Repeated,
    /// It is no longer so.
    Ended,
}

/// News of a finding: the event `dbgproxy/alert`.
#[derive(Debug, Clone, Serialize)]
pub struct Alert {
    /// What has become of it.
    pub reason: Reason,
    /// The finding.
    #[serde(serialize_with = "whole")]
    pub finding: Arc<Finding>,
}

fn whole<S: Serializer>(finding: &Arc<Finding>, serializer: S) -> Result<S::Ok, S::Error> {
    finding.as_ref().serialize(serializer)
}

/// What a finding is known by.
type Key = (Kind, String);

/// The findings there are, and those there were.
#[derive(Debug, Default)]
pub struct Findings {
    open: HashMap<Key, Open>,
    /// Those that have ended, the last at the end.
    ended: VecDeque<(Key, Open)>,
    last: u64,
    left_out: u64,
    /// Those that were left out when it was last looked, at most [`FINDINGS`]: they are counted once.
    excess: HashSet<Key>,
}

#[derive(Debug)]
struct Open {
    finding: Finding,
    /// When it was last the case.
    seen: Instant,
    /// When it was last told that it is.
    told: Instant,
    /// It is back, and that has not been told.
    is_quiet: bool,
    /// How often it had happened before it came back.
    before: u64,
}

impl Open {
    fn alert(&self, reason: Reason) -> Alert {
        Alert {
            reason,
            finding: Arc::new(self.finding.clone()),
        }
    }

    /// Takes over what is said of it now.
    fn renew(&mut self, found: Found, now: Instant) {
        self.seen = now;
        // It has names in it that programs give, and is shown in terminals, logs and consoles, on one line.
        self.finding.message = printable(&found.message);
        self.finding.sites = found.sites;
        self.finding.sites.truncate(MAX_SITES);
        self.finding.sessions = found.sessions;
        self.finding.count = self.finding.count.max(self.before + found.count.max(1));
    }
}

impl Findings {
    /// What is the case now; gives what is to be told. What is no longer the case for `patience` has ended.
    pub fn update(
        &mut self,
        context: &Context<'_>,
        found: Vec<Found>,
        patience: Duration,
    ) -> Vec<Alert> {
        let now = context.now;
        let mut alerts = Vec::new();
        let mut excess = HashSet::new();
        let mut count: HashMap<Option<SessionId>, usize> = HashMap::new();
        for open in self.open.values() {
            *count.entry(open.finding.session).or_default() += 1;
        }
        for found in found {
            let session = found.sessions.first().copied();
            let key = (found.kind, found.key.clone());
            if let Some(open) = self.open.get_mut(&key) {
                open.renew(found, now);
                if now.saturating_duration_since(open.told) >= REPETITION {
                    open.told = now;
                    open.is_quiet = false;
                    alerts.push(open.alert(Reason::Repeated));
                }
                continue;
            }
            let of_session = count.entry(session).or_default();
            if self.open.len() >= MAX_OPEN || *of_session >= MAX_OPEN_OF_SESSION {
                self.left_out += u64::from(!self.excess.contains(&key));
                if excess.len() < FINDINGS {
                    excess.insert(key);
                }
                continue;
            }
            *of_session += 1;
            let is_back = |(known, open): &(Key, Open)| {
                *known == key && now.saturating_duration_since(open.seen) < REPETITION
            };
            let at = self.ended.iter().rposition(is_back);
            let open = match at.and_then(|at| self.ended.remove(at)) {
                Some((_, mut open)) => {
                    open.finding.ended = None;
                    open.before = open.finding.count;
                    open.is_quiet = now.saturating_duration_since(open.told) < REPETITION;
                    open.renew(found, now);
                    if !open.is_quiet {
                        open.told = now;
                        alerts.push(open.alert(Reason::Repeated));
                    }
                    open
                }
                None => {
                    let open = self.begin(context, found);
                    alerts.push(open.alert(Reason::Opened));
                    open
                }
            };
            self.open.insert(key, open);
        }
        self.excess = excess;
        let is_over = |open: &Open| now.saturating_duration_since(open.seen) >= patience;
        for (key, mut open) in self.open.extract_if(|_, open| is_over(open)) {
            open.finding.ended = Some(context.time);
            if !open.is_quiet {
                // A finding that comes and goes is told at most so often.
                open.told = now;
                alerts.push(open.alert(Reason::Ended));
            }
            self.ended.push_back((key, open));
        }
        let room = FINDINGS.saturating_sub(self.open.len());
        self.ended.drain(..self.ended.len().saturating_sub(room));
        alerts
    }

    fn begin(&mut self, context: &Context<'_>, found: Found) -> Open {
        self.last += 1;
        let session = found.sessions.first().copied();
        let who = session.and_then(|session| (context.who)(session));
        let finding = Finding {
            id: self.last,
            kind: found.kind,
            message: String::new(),
            first: String::new(),
            session,
            pid: who.as_ref().map(|who| who.pid),
            name: who.map(|who| who.name),
            sessions: Vec::new(),
            since: context.time_of(found.since),
            ended: None,
            count: 0,
            sites: Vec::new(),
            advice: found.kind.advice(),
        };
        let mut open = Open {
            finding,
            seen: context.now,
            told: context.now,
            is_quiet: false,
            before: 0,
        };
        open.renew(found, context.now);
        open.finding.first.clone_from(&open.finding.message);
        open
    }

    /// Whether there are any that are not over.
    #[must_use]
    pub fn any_open(&self) -> bool {
        !self.open.is_empty()
    }

    /// Those that are open and have been told, as they are told to somebody who has not heard of them; the oldest first.
    #[must_use]
    pub fn standing(&self) -> Vec<Alert> {
        let mut open: Vec<&Open> = self.open.values().filter(|open| !open.is_quiet).collect();
        open.sort_by_key(|open| open.finding.id);
        open.into_iter()
            .map(|open| open.alert(Reason::Opened))
            .collect()
    }

    /// How many of each kind are open.
    #[must_use]
    pub fn open_counts(&self) -> HashMap<Kind, usize> {
        let mut counts = HashMap::new();
        for (kind, _) in self.open.keys() {
            *counts.entry(*kind).or_default() += 1;
        }
        counts
    }

    /// How many there have been.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.last
    }

    /// How many were left out because there were too many.
    #[must_use]
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// Those that concern one of the processes that are meant: the open ones, the gravest first, then those that have
    /// ended not long ago, the last first.
    pub fn list(&self, time: Timestamp, is_meant: &dyn Fn(SessionId) -> bool) -> Vec<&Finding> {
        let concerns =
            |finding: &&Finding| finding.sessions.iter().any(|session| is_meant(*session));
        let mut open: Vec<&Finding> = self.open.values().map(|open| &open.finding).collect();
        open.sort_by_key(|finding| (finding.kind, finding.since, finding.id));
        let ended = self.ended.iter().rev().map(|(_, open)| &open.finding);
        let ended = ended.filter(|finding| is_recent(finding.ended, time));
        open.into_iter().chain(ended).filter(concerns).collect()
    }
}

/// A duration back from a moment.
pub(super) fn back(time: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::ZERO);
    time.checked_sub(by).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::RECENT;
    use super::super::tests::{Bench, SECOND};
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(2);

    fn found(bench: &Bench, session: u128, key: usize) -> Found {
        Found {
            kind: Kind::LockHeld,
            key: format!("{session} {key}"),
            sessions: vec![Uuid::from_u128(session)],
            message: format!("at {key}"),
            since: bench.now,
            sites: vec![],
            count: 1,
        }
    }

    fn reasons(alerts: &[Alert]) -> Vec<Reason> {
        alerts.iter().map(|alert| alert.reason).collect()
    }

    #[test]
    fn from_opened_over_repeated_to_ended() {
        let (mut bench, mut findings) = (Bench::default(), Findings::default());
        let mut told = Vec::new();
        for second in 0..150 {
            let is_so = second < 130;
            let found = if is_so {
                vec![found(&bench, 1, 1)]
            } else {
                vec![]
            };
            let alerts = findings.update(&bench.context(), found, PATIENCE);
            told.extend(reasons(&alerts).into_iter().map(|reason| (second, reason)));
            bench.now += SECOND;
        }
        use Reason::{Ended, Opened, Repeated};
        assert_eq!(
            told,
            [(0, Opened), (60, Repeated), (120, Repeated), (131, Ended)]
        );
        assert!(!findings.any_open());
        let time = bench.context().time;
        let all = findings.list(time, &|_| true);
        assert!(all.len() == 1 && all[0].ended.is_some());
        assert!(findings.list(time, &|_| false).is_empty());
        let later = time + RECENT;
        assert!(findings.list(later, &|_| true).is_empty());
    }

    #[test]
    fn what_flickers_is_told_once_a_minute() {
        let (mut bench, mut findings) = (Bench::default(), Findings::default());
        let mut told = 0;
        for second in 0..600 {
            let found = if second % 4 == 0 {
                vec![found(&bench, 1, 1)]
            } else {
                vec![]
            };
            told += findings.update(&bench.context(), found, PATIENCE).len();
            bench.now += SECOND;
        }
        assert!((10..=22).contains(&told), "{told}");
        let all = findings.list(bench.context().time, &|_| true);
        assert_eq!(all.len(), 1, "{all:?}");
        assert!(all[0].count >= 100, "{all:?}");
    }

    #[test]
    fn one_process_leaves_room_for_the_others() {
        let (mut bench, mut findings) = (Bench::default(), Findings::default());
        let many = (0..10_000).map(|key| found(&bench, 1, key)).collect();
        let alerts = findings.update(&bench.context(), many, PATIENCE);
        assert_eq!(alerts.len(), MAX_OPEN_OF_SESSION);
        assert_eq!(findings.left_out(), 10_000 - MAX_OPEN_OF_SESSION as u64);
        for _ in 0..3 {
            let more = (0..60).map(|key| found(&bench, 3, key)).collect();
            findings.update(&bench.context(), more, PATIENCE);
        }
        assert_eq!(
            findings.left_out(),
            10_000 - MAX_OPEN_OF_SESSION as u64 + 10,
            "one that lasts is counted once"
        );
        let other = vec![found(&bench, 2, 1)];
        assert_eq!(findings.update(&bench.context(), other, PATIENCE).len(), 1);
        for key in 0..3 * FINDINGS {
            bench.now += REPETITION;
            findings.update(&bench.context(), vec![found(&bench, 2, key)], PATIENCE);
        }
        assert!(findings.open.len() + findings.ended.len() <= FINDINGS);
    }
}
