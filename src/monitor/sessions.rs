//! The session monitor: how far processes and the parts of their work are, and what is wrong with that.
//!
//! It keeps something of a process only while there is something to keep: that it waits, that it ended badly. What is
//! listed comes from who asks, for the directory knows it.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::findings::{Found, Kind};
use super::{Context, Row, is_recent, seconds};
use crate::session::{DebugSession, Info, SessionId, State};

/// How many bad ends within [`FLAPPING`] make a finding.
pub const FLAPS: usize = 5;

/// Within which time.
pub const FLAPPING: Duration = Duration::from_secs(60);

/// How long a process lives at most whose bad end counts.
pub const SHORT_LIFE: Duration = Duration::from_secs(10);

/// Of how many names bad ends are kept; the one whose last is longest ago is forgotten first.
const MAX_NAMES: usize = 1000;

/// How many ends with open debug sessions are kept; the oldest is forgotten first.
const MAX_LEFT: usize = 100;

/// How long such an end is a finding.
const LEFT: Duration = Duration::from_secs(60);

/// How many debug sessions a finding names.
const MAX_NAMED: usize = 5;

/// What is kept of processes.
#[derive(Debug, Default)]
pub struct SessionMonitor {
    /// Since when a process has waited for an IDE.
    waiting: HashMap<SessionId, Instant>,
    /// By name, the ends that were bad and came soon.
    bad: HashMap<String, Bad>,
    left: VecDeque<(Instant, Found)>,
}

#[derive(Debug, Default)]
struct Bad {
    times: VecDeque<Instant>,
    last: Option<(SessionId, i64)>,
    count: u64,
}

impl SessionMonitor {
    /// A process has come, or what is known of it has changed.
    pub fn note(&mut self, info: &Info, now: Instant) {
        if info.state == State::Held {
            self.waiting.entry(info.id).or_insert(now);
        } else {
            self.waiting.remove(&info.id);
        }
    }

    /// A process has ended.
    pub fn end(&mut self, context: &Context<'_>, info: &Info) {
        self.waiting.remove(&info.id);
        self.note_open(context, info);
        let lived = info.ended.map(|ended| ended.duration_since(info.started));
        let is_short = lived.is_some_and(|lived| lived.unsigned_abs() < SHORT_LIFE);
        let Some(code) = info.exit.filter(|code| *code != 0 && is_short) else {
            return;
        };
        if self.bad.len() >= MAX_NAMES && !self.bad.contains_key(info.plain_name()) {
            let oldest = self.bad.iter().min_by_key(|(_, bad)| bad.times.back());
            if let Some(oldest) = oldest.map(|(name, _)| name.clone()) {
                self.bad.remove(&oldest);
            }
        }
        let bad = self.bad.entry(info.plain_name().to_owned()).or_default();
        bad.times.push_back(context.now);
        let excess = bad.times.len().saturating_sub(FLAPS);
        bad.times.drain(..excess);
        bad.last = Some((info.id, code));
        bad.count += 1;
    }

    fn note_open(&mut self, context: &Context<'_>, info: &Info) {
        let open: Vec<&DebugSession> = info
            .debug_sessions
            .all()
            .iter()
            .filter(|one| one.is_cut_off)
            .collect();
        if open.is_empty() {
            return;
        }
        let names: Vec<&str> = open.iter().take(MAX_NAMED).map(|one| &*one.name).collect();
        let more = if open.len() > names.len() {
            ", …"
        } else {
            ""
        };
        let count = match open.len() {
            1 => "1 session".to_owned(),
            count => format!("{count} sessions"),
        };
        let found = Found {
            kind: Kind::SessionOpen,
            key: info.id.to_string(),
            sessions: vec![info.id],
            message: format!(
                "{} ended with {count} of its own still open: {}{more}",
                info.name,
                names.join(", ")
            ),
            since: context.now,
            sites: Vec::new(),
            count: 1,
        };
        self.left.push_back((context.now, found));
        let excess = self.left.len().saturating_sub(MAX_LEFT);
        self.left.drain(..excess);
    }

    /// The processes that wait for an IDE.
    pub(super) fn waiting(&self) -> impl Iterator<Item = SessionId> {
        self.waiting.keys().copied()
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.bad.is_empty() && self.left.is_empty()
    }

    /// What is wrong now.
    pub fn findings(&mut self, context: &Context<'_>) -> Vec<Found> {
        let now = context.now;
        let is_new = |at: &Instant, kept| now.saturating_duration_since(*at) < kept;
        self.left.retain(|(at, _)| is_new(at, LEFT));
        self.bad
            .retain(|_, bad| bad.times.back().is_some_and(|at| is_new(at, FLAPPING)));
        let mut found: Vec<Found> = self.left.iter().map(|(_, found)| found.clone()).collect();
        for (session, since) in &self.waiting {
            let waited = now.saturating_duration_since(*since);
            if waited >= context.settings.session_waiting {
                found.push(Found {
                    kind: Kind::SessionWaiting,
                    key: session.to_string(),
                    sessions: vec![*session],
                    message: format!(
                        "{} has been waiting for an IDE for {}, before its first line",
                        context.name(*session),
                        seconds(waited)
                    ),
                    since: *since,
                    sites: Vec::new(),
                    count: 1,
                });
            }
        }
        for (name, bad) in &self.bad {
            let (Some(first), Some((session, code))) = (bad.times.front(), bad.last) else {
                continue;
            };
            if bad.times.len() < FLAPS || !is_new(first, FLAPPING) {
                continue;
            }
            found.push(Found {
                kind: Kind::SessionFlapping,
                key: name.clone(),
                // Each end is another session, and the finding is the same.
                sessions: vec![session],
                message: format!(
                    "{name} ends again and again: {} times with an error soon after its start, last with {code}",
                    bad.count
                ),
                since: *first,
                sites: Vec::new(),
                count: bad.count,
            });
        }
        found
    }

    /// A row for each process and each of its debug sessions: those that are there in the order of their tree, then
    /// those that have ended not long ago, the last first. A row is made when it is asked for: there may be many.
    pub fn rows(&self, infos: &[Info], time: Timestamp) -> impl ExactSizeIterator<Item = Row> {
        let mut rows: Vec<(&Info, Option<&DebugSession>)> = Vec::new();
        for info in infos {
            rows.push((info, None));
            let own = info.debug_sessions.all().iter();
            rows.extend(own.map(|one| (info, Some(one))));
        }
        let ended = |(info, one): &(&Info, Option<&DebugSession>)| {
            one.and_then(|one| one.ended).or(info.ended)
        };
        rows.retain(|row| is_recent(ended(row), time));
        // Those of one process stay as they are.
        rows.sort_by(|one, other| {
            ended(one)
                .is_some()
                .cmp(&ended(other).is_some())
                .then(ended(other).cmp(&ended(one)))
                .then_with(|| one.0.order.cmp(&other.0.order))
        });
        let duration = move |started: Timestamp, ended: Option<Timestamp>| {
            let duration = ended.unwrap_or(time).duration_since(started);
            duration.as_secs_f64().max(0.0)
        };
        rows.into_iter().map(move |(info, one)| {
            let row = match one {
                None => json!({
                    "id": info.id, "type": "process", "owner": info.parent, "status": status(info), "state": info.state,
                    "created": info.started, "ended": info.ended, "duration": duration(info.started, info.ended),
                    "exit": info.exit, "ending": info.ending, "error": Value::Null, "clients": info.clients,
                }),
                Some(one) => json!({
                    "id": one.id, "debugSession": one.name, "type": one.r#type, "owner": one.owner,
                    "status": one.status, "created": one.created, "started": one.started, "ended": one.ended,
                    "duration": duration(one.started, one.ended), "error": one.error,
                }),
            };
            (info.id, row)
        })
    }
}

/// How far a process is, in the words of sessions of all kinds.
fn status(info: &Info) -> &'static str {
    match info.state {
        State::Starting | State::Held => "created",
        State::Dormant | State::Running => "running",
        State::Stopped => "stopped",
        State::Ended if info.ending.is_some() => "failed",
        State::Ended => match info.exit {
            None | Some(0) => "completed",
            Some(_) => "failed",
        },
    }
}
