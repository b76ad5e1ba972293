//! Watchdogs: who will end a process because it is stopped, as the libraries in the process say of themselves.
//!
//! A server's master kills a worker that is silent for too long, and does not know that somebody is looking at it.
//! While such a process is stopped there is a finding with the time that is left. What the process has said is kept
//! with its stop: the session that ends meanwhile tells by it who has ended it.
//! This module knows when processes are stopped, and nothing of the debugger.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use tokio::time::timeout;

use super::findings::{Found, Kind};
use super::{Context, seconds};
use crate::hub::{Hub, Reason};
use crate::session::{Info, SessionId};

/// How long before it would be ended a finding begins; an earlier one would be told at every breakpoint.
pub const LEAD: Duration = Duration::from_secs(60);

/// How long a process may take to say who watches it; one that says nothing is not asked again at the same stop.
const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How much earlier than the process says its watchdog may come: it counts by itself.
const SLACK: Duration = Duration::from_millis(500);

/// How much later it may come: it looks now and then only.
const LATE: Duration = Duration::from_secs(2);

/// The most watchdogs of one process; what it says of further ones is left out.
const MAX_WATCHDOGS: usize = 16;

/// Who watches, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Who {
    Gunicorn,
    Uvicorn,
    Celery,
    CelerySoft,
    PytestThread,
    PytestSignal,
    Torch,
}

impl Who {
    /// Its name, what it does and when, without the time, and what sets the time.
    fn words(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Who::Gunicorn => ("gunicorn", "kills a worker that is silent for", "--timeout"),
            Who::Uvicorn => (
                "uvicorn",
                "kills a worker that does not answer for",
                "--timeout-worker-healthcheck",
            ),
            Who::Celery => ("celery", "kills a worker whose task takes", "time_limit"),
            Who::CelerySoft => ("celery", "breaks off a task that takes", "soft_time_limit"),
            Who::PytestThread => ("pytest-timeout", "ends pytest if a test takes", "timeout"),
            Who::PytestSignal => ("pytest-timeout", "breaks off a test that takes", "timeout"),
            Who::Torch => (
                "torch",
                "ends a process whose NCCL watchdog is silent for",
                "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC",
            ),
        }
    }

    /// Whether the process ends of it.
    fn ends_it(self) -> bool {
        !matches!(self, Who::CelerySoft | Who::PytestSignal)
    }
}

/// Somebody who ends a process, or breaks off what it does, if that takes too long.
#[derive(Debug, Clone, PartialEq)]
pub struct Watchdog {
    who: Who,
    /// After which time.
    limit: Duration,
    /// When that is over, if the process stays stopped.
    due: Instant,
}

impl Watchdog {
    /// Reads what a process says; what is nonsense is left out.
    #[must_use]
    pub fn read(answer: &Value, now: Instant) -> Vec<Watchdog> {
        #[derive(Deserialize)]
        struct Said {
            kind: Who,
            limit: f64,
            age: f64,
        }
        let said = answer["watchdogs"].as_array().into_iter().flatten();
        let watchdog = |said: &Value| {
            let Said { kind, limit, age } = Said::deserialize(said).ok()?;
            let limit = Duration::try_from_secs_f64(limit).ok()?;
            let age = Duration::try_from_secs_f64(age).ok()?;
            let due = now.checked_add(limit.saturating_sub(age))?;
            let who = kind;
            (!limit.is_zero()).then_some(Watchdog { who, limit, due })
        };
        said.take(MAX_WATCHDOGS).filter_map(watchdog).collect()
    }

    /// Of those that watch a process: who has most likely ended it, if its stop ended at that moment.
    #[must_use]
    pub fn culprit(watchdogs: &[Watchdog], at: Instant) -> Option<String> {
        Self::first(watchdogs, |due| at + SLACK >= due)
    }

    /// The same if it is said to run meanwhile: only of who comes just when it ends, as its time is over then.
    #[must_use]
    pub fn culprit_of_running(watchdogs: &[Watchdog], at: Instant) -> Option<String> {
        Self::first(watchdogs, |due| at + SLACK >= due && at <= due + LATE)
    }

    /// The first to end a process of those that may have come.
    fn first(watchdogs: &[Watchdog], may_have_come: impl Fn(Instant) -> bool) -> Option<String> {
        let ends_it = |one: &&Watchdog| one.who.ends_it() && may_have_come(one.due);
        let first = watchdogs.iter().filter(ends_it);
        let first = first.min_by_key(|one| one.due)?;
        Some(format!("{} ({})", first.who.words().0, first.setting()))
    }

    /// What sets its limit, and to what.
    fn setting(&self) -> String {
        format!("{} {}", self.who.words().2, self.limit.as_secs_f64())
    }
}

/// Asks a process who watches it, and keeps it with its stop of that number.
pub(super) async fn ask(hub: Arc<Hub>, session: SessionId, stop: u64) {
    let Some(session) = hub.session(session) else {
        return;
    };
    let is_it = |info: &Info| {
        let stopped = info.stopped.as_ref();
        stopped.is_some_and(|stopped| stopped.number == stop)
    };
    // One that sleeps would wake up to answer.
    if !is_it(&session.info()) {
        return;
    }
    let answer = session.ask_guard("watchdogs", Value::Null);
    let Ok(Ok(answer)) = timeout(ANSWER_WAIT, answer).await else {
        return;
    };
    let answer = answer.decode().unwrap_or_default();
    let watchdogs = Watchdog::read(&answer, Instant::now());
    if watchdogs.is_empty() {
        return;
    }
    session.update(|info| {
        let stopped = info.stopped.as_mut();
        if let Some(stopped) = stopped.filter(|stopped| stopped.number == stop) {
            stopped.watchdogs = watchdogs;
        }
    });
    hub.tell(&session, Reason::Changed);
}

/// Which processes are stopped that somebody will end.
#[derive(Debug, Default)]
pub struct WatchdogMonitor {
    stopped: HashMap<SessionId, Watched>,
}

/// A process that is stopped.
#[derive(Debug)]
struct Watched {
    /// Which of its stops it is.
    stop: u64,
    since: Instant,
    /// Whether it has been asked who watches it.
    is_asked: bool,
    watchdogs: Vec<Watchdog>,
}

impl WatchdogMonitor {
    /// A process has come, or what is known of it has changed.
    pub fn note(&mut self, info: &Info, now: Instant) {
        let Some(stopped) = &info.stopped else {
            self.stopped.remove(&info.id);
            return;
        };
        let watched = Watched {
            stop: stopped.number,
            since: now,
            is_asked: false,
            watchdogs: Vec::new(),
        };
        let known = self.stopped.entry(info.id).or_insert(watched);
        if known.stop != stopped.number {
            (known.stop, known.since, known.is_asked) = (stopped.number, now, false);
        }
        known.watchdogs.clone_from(&stopped.watchdogs);
    }

    /// A process has ended, or is forgotten.
    pub fn forget(&mut self, session: SessionId) {
        self.stopped.remove(&session);
    }

    /// The stops, by session and number, of which it is not known yet who watches. They are asked for once, and not at
    /// once: a step is over sooner.
    pub fn unasked(&mut self) -> Vec<(SessionId, u64)> {
        let unasked = self.stopped.iter_mut();
        let unasked = unasked.filter(|(_, watched)| !watched.is_asked);
        let ask = |(session, watched): (&SessionId, &mut Watched)| {
            watched.is_asked = true;
            (*session, watched.stop)
        };
        unasked.map(ask).collect()
    }

    /// The processes that are stopped.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.stopped.keys().copied()
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_over = |one: &Watched| one.is_asked && one.watchdogs.is_empty();
        self.stopped.values().all(is_over)
    }

    /// What is wrong now.
    pub fn findings(&self, context: &Context<'_>) -> Vec<Found> {
        let now = context.now;
        let mut found = Vec::new();
        for (session, watched) in &self.stopped {
            for one in &watched.watchdogs {
                let left = one.due.saturating_duration_since(now);
                if left > LEAD {
                    continue;
                }
                let left = match left.is_zero() {
                    true => {
                        let over = now.saturating_duration_since(one.due);
                        format!("that was {} ago", seconds(over))
                    }
                    false => format!("{} are left", seconds(left)),
                };
                let (who, does, _) = one.who.words();
                found.push(Found {
                    kind: Kind::Watchdog,
                    key: format!("{session} {who} {does}"),
                    sessions: vec![*session],
                    message: format!(
                        "{} is stopped, and {who} {does} {} ({}): {left}",
                        context.name(*session),
                        seconds(one.limit),
                        one.setting()
                    ),
                    since: watched.since,
                    sites: Vec::new(),
                    count: 1,
                });
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::tests::{Bench, SECOND};
    use super::*;
    use crate::session::{State, Stopped};

    fn said(kind: &str, limit: f64, age: f64) -> Value {
        json!({ "kind": kind, "limit": limit, "age": age })
    }

    fn read(said: &[Value], now: Instant) -> Vec<Watchdog> {
        Watchdog::read(&json!({ "watchdogs": said }), now)
    }

    /// A process that is stopped for the `number`th time.
    fn stopped(number: u64, watchdogs: Vec<Watchdog>) -> Info {
        let mut info = Info::example(1);
        info.state = State::Stopped;
        info.stopped = Some(Stopped {
            thread: 1,
            reason: "breakpoint".into(),
            file: None,
            line: None,
            all_threads: true,
            number,
            watchdogs,
        });
        info
    }

    #[test]
    fn what_a_process_says_is_read_as_far_as_it_makes_sense() {
        let now = Instant::now();
        let all = [
            said("gunicorn", 30.0, 5.0),
            said("celerySoft", 2.5, 9.0),
            said("torch", 0.0, 0.0),
            said("torch", -1.0, 0.0),
            said("torch", 1.0, -1.0),
            said("torch", 1e300, 0.0),
            said("somebody", 1.0, 0.0),
            json!({ "kind": "torch", "limit": "1", "age": 0 }),
            json!(5),
        ];
        let due: Vec<(Who, Duration)> = read(&all, now)
            .iter()
            .map(|one| (one.who, one.due - now))
            .collect();
        let expected = [
            (Who::Gunicorn, SECOND * 25),
            (Who::CelerySoft, Duration::ZERO),
        ];
        assert_eq!(due, expected);
        for odd in [json!({}), json!({ "watchdogs": 5 }), json!([])] {
            assert!(Watchdog::read(&odd, now).is_empty(), "{odd}");
        }
        let many = vec![said("torch", 1.0, 0.0); 1000];
        assert_eq!(read(&many, now).len(), MAX_WATCHDOGS);
    }

    #[test]
    fn the_time_that_is_left() {
        let (mut bench, mut monitor) = (Bench::default(), WatchdogMonitor::default());
        assert!(monitor.is_empty());
        monitor.note(&stopped(1, Vec::new()), bench.now);
        assert!(!monitor.is_empty());
        let session = Info::example(1).id;
        assert_eq!(monitor.unasked(), [(session, 1)]);
        assert!(monitor.unasked().is_empty() && monitor.is_empty());
        let watchdogs = read(&[said("gunicorn", 90.0, 0.0)], bench.now);
        monitor.note(&stopped(1, watchdogs), bench.now);
        let message = |bench: &Bench| {
            let found = monitor.findings(&bench.context());
            found.first().map(|found| found.message.clone())
        };
        assert_eq!(message(&bench), None, "there is time");
        bench.now += SECOND * 40;
        let text = message(&bench).expect("it is near");
        let expected = "is stopped, and gunicorn kills a worker that is silent for 90 s (--timeout 90): 50 s are left";
        assert!(text.contains(expected), "{text}");
        bench.now += SECOND * 70;
        let text = message(&bench).expect("it is over");
        assert!(text.ends_with("that was 20 s ago"), "{text}");
        // Another stop is asked for anew.
        monitor.note(&stopped(2, Vec::new()), bench.now);
        assert!(monitor.findings(&bench.context()).is_empty());
        assert_eq!(monitor.unasked(), [(session, 2)]);
        monitor.note(&Info::example(1), bench.now);
        assert!(monitor.is_empty() && monitor.sessions().next().is_none());
    }

    #[test]
    fn who_has_ended_it() {
        let now = Instant::now();
        let watchdogs = [
            said("torch", 480.0, 0.0),
            said("celerySoft", 1.0, 0.0),
            said("celery", 3.5, 1.0),
        ];
        let watchdogs = read(&watchdogs, now);
        let culprit = |after| Watchdog::culprit(&watchdogs, now + after);
        assert_eq!(culprit(SECOND), None, "too soon");
        let celery = Some("celery (time_limit 3.5)".to_owned());
        assert_eq!(culprit(SECOND * 2), celery, "a little too soon");
        assert_eq!(culprit(SECOND * 500), celery, "it is the first");
        assert_eq!(Watchdog::culprit(&[], now), None);
        let culprit = |after| Watchdog::culprit_of_running(&watchdogs, now + after);
        assert_eq!(culprit(SECOND), None, "too soon");
        assert_eq!(culprit(SECOND * 2), celery, "a little too soon");
        assert_eq!(culprit(SECOND * 4), celery, "a little too late");
        assert_eq!(culprit(SECOND * 5), None, "too late");
        let torch = Some("torch (TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC 480)".to_owned());
        assert_eq!(culprit(SECOND * 481), torch);
    }
}
