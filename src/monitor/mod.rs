//! The monitor: what is wrong with locks, tasks and sessions, found while the programs run.
//!
//! [`ResourceMonitor`] is made of monitors that each know one thing, are fed by samples and news, and are told what time
//! it is. The daemon's own is at work in `handle`, behind a [`Handle`].
//! It keeps nothing of a process of which there is nothing to say, and sleeps while there is nothing to look at.
//! This module knows sessions by what is publicly known of them, and no connection.

mod clock;
pub mod findings;
mod handle;
pub mod history;
pub mod locks;
pub mod log;
pub mod metrics;
pub mod process;
pub mod sample;
pub mod sessions;
pub mod system;
pub mod tasks;
pub mod waits;
pub mod watchdog;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::config::Monitoring;
use crate::selector::Selector;
use crate::session::{Info, SessionId, State};
use crate::text;

pub use clock::Clocks;
pub use findings::{Alert, Finding, Findings, Kind, Reason, Site};
pub use handle::Handle;
pub(crate) use handle::{start, trace};
pub use locks::LockMonitor;
pub use sample::Sample;
pub use sessions::SessionMonitor;
pub use system::SystemMonitor;
pub use tasks::TaskMonitor;
pub use watchdog::{Watchdog, WatchdogMonitor};

/// How many rows of one part an answer has; the summary says how many there are.
pub const MAX_ROWS: usize = 1000;

/// How long what a process has said last is taken for what is the case now. Beyond it, its clocks stand.
pub const SILENCE: Duration = Duration::from_secs(30);

/// How long what a process has said last is kept when its agent is gone, and the process is not known to have ended.
const GONE_WAIT: Duration = Duration::from_secs(2);

/// For how long a report tells of what has ended: of findings, of processes and of the sessions of their own.
/// The monitor's log keeps findings for longer, and the verb `sessions` processes.
pub const RECENT: Duration = Duration::from_secs(600);

/// How many processes the summary names whose samples were not whole.
const MAX_DROPPED: usize = 100;

/// A row of an answer, without what all rows of its process have in common.
pub type Row = (SessionId, Value);

/// Who a process is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Who {
    /// Its pid.
    pub pid: u32,
    /// What people call it.
    pub name: String,
}

/// What the monitors are told at each call.
pub struct Context<'a> {
    /// What time it is.
    pub now: Instant,
    /// The same by the calendar.
    pub time: Timestamp,
    /// How long processes have run.
    pub clocks: &'a Clocks,
    /// From when on something is wrong.
    pub settings: &'a Monitoring,
    /// Who a process is, if that is still known.
    pub who: &'a dyn Fn(SessionId) -> Option<Who>,
}

impl Context<'_> {
    /// For how long a process has run between two moments.
    #[must_use]
    pub fn running(&self, session: SessionId, since: Instant, now: Instant) -> Duration {
        self.clocks.running(session, since, now)
    }

    /// How old something is of which a sample has told.
    #[must_use]
    pub fn age(&self, session: SessionId, taken: Instant, since: Instant) -> Duration {
        self.running(session, since, self.now.min(taken + SILENCE))
    }

    /// What people call a process.
    #[must_use]
    pub fn name(&self, session: SessionId) -> String {
        match (self.who)(session) {
            Some(who) => format!("{} ({})", who.name, who.pid),
            None => "a process that is gone".into(),
        }
    }

    /// The calendar's word for a moment.
    #[must_use]
    pub fn time_of(&self, moment: Instant) -> Timestamp {
        findings::back(self.time, self.now.saturating_duration_since(moment))
    }
}

/// What time it is, and who the processes are.
pub struct Moment<'a> {
    /// What time it is.
    pub now: Instant,
    /// The same by the calendar.
    pub time: Timestamp,
    /// Who a process is.
    pub who: &'a dyn Fn(SessionId) -> Option<Who>,
}

impl Moment<'_> {
    fn context<'a>(&'a self, clocks: &'a Clocks, settings: &'a Monitoring) -> Context<'a> {
        Context {
            now: self.now,
            time: self.time,
            clocks,
            settings,
            who: self.who,
        }
    }
}

/// What can be asked for by itself; also on the command line, whose help these words are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Part {
    /// Locks: who holds what, and who waits for it.
    Locks,
    /// asyncio's tasks and event loops.
    Tasks,
    /// Processes, and the sessions of their own.
    Sessions,
    /// The host.
    System,
    /// What is wrong.
    Findings,
}

/// What somebody wants to know.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// A part, or everything.
    pub part: Option<Part>,
    /// Of which processes.
    pub selector: Selector,
}

/// Everything that is watched.
#[derive(Debug)]
pub struct ResourceMonitor {
    settings: Monitoring,
    /// How long processes have run.
    pub clocks: Clocks,
    /// The locks.
    pub locks: LockMonitor,
    /// The tasks.
    pub tasks: TaskMonitor,
    /// The sessions.
    pub sessions: SessionMonitor,
    /// The host, and what the processes use.
    pub system: SystemMonitor,
    /// Who will end a stopped process.
    pub watchdogs: WatchdogMonitor,
    /// What is wrong.
    pub findings: Findings,
    /// Which agent's samples are kept, and what they cost.
    agents: HashMap<SessionId, Source>,
    dropped: BTreeMap<SessionId, Dropped>,
    started: Instant,
    samples: u64,
    /// How long the monitor itself has worked.
    worked: Duration,
}

/// Where the samples of a process come from.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Source {
    agent: u64,
    /// How many seconds the last one took the process.
    cost: f64,
    /// Since when it is gone.
    gone: Option<Instant>,
}

/// What is counted, on one level.
#[derive(Serialize)]
struct Statistics {
    #[serde(flatten)]
    locks: locks::Statistics,
    #[serde(flatten)]
    tasks: tasks::Statistics,
    #[serde(flatten)]
    rest: Value,
}

/// What was left out of what a process said.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    why: String,
}

impl ResourceMonitor {
    /// A monitor that knows nothing yet.
    #[must_use]
    pub fn new(settings: Monitoring, now: Instant) -> ResourceMonitor {
        ResourceMonitor {
            settings,
            clocks: Clocks::default(),
            locks: LockMonitor::default(),
            tasks: TaskMonitor::default(),
            sessions: SessionMonitor::default(),
            system: SystemMonitor::default(),
            watchdogs: WatchdogMonitor::default(),
            findings: Findings::default(),
            agents: HashMap::new(),
            dropped: BTreeMap::new(),
            started: now,
            samples: 0,
            worked: Duration::ZERO,
        }
    }

    /// A process has come, or what is known of it has changed.
    pub fn on_session(&mut self, info: &Info, now: Instant) {
        match info.state {
            State::Stopped | State::Held => self.clocks.stop(info.id, now),
            _ => self.clocks.go(info.id, now),
        }
        self.sessions.note(info, now);
        self.system.note(info);
        self.watchdogs.note(info, now);
    }

    /// A process has ended.
    pub fn on_end(&mut self, moment: &Moment<'_>, info: &Info) {
        let context = moment.context(&self.clocks, &self.settings);
        self.locks.end(&context, info.id, info.exit);
        self.sessions.end(&context, info);
        self.watchdogs.forget(info.id);
        self.forget(info.id);
        self.clocks.forget(info.id);
        self.system.forget(info.id);
    }

    /// A process says how it stands, by the agent of that number.
    pub fn on_sample(
        &mut self,
        moment: &Moment<'_>,
        session: SessionId,
        agent: u64,
        mut sample: Sample,
    ) {
        self.samples += 1;
        if sample.left_out > 0 {
            let why = "parts of its samples that cannot be read, or are too many".into();
            self.on_dropped(session, sample.left_out, why);
        }
        let context = moment.context(&self.clocks, &self.settings);
        self.locks.note(session, moment.now, sample.locks.take());
        self.tasks.note(&context, session, moment.now, &mut sample);
        let cost = sample.cost;
        let source = Source {
            agent,
            cost,
            gone: None,
        };
        self.agents.insert(session, source);
    }

    /// A process has said how it stands, but has ended before that was read: it is how it stood at its end.
    pub fn on_last_sample(&mut self, moment: &Moment<'_>, info: &Info, mut sample: Sample) {
        let context = moment.context(&self.clocks, &self.settings);
        self.locks.note(info.id, moment.now, sample.locks.take());
        self.locks.end(&context, info.id, info.exit);
        self.forget(info.id);
    }

    /// Something of what a process said was left out.
    pub fn on_dropped(&mut self, session: SessionId, count: u64, why: String) {
        if self.dropped.len() < MAX_DROPPED || self.dropped.contains_key(&session) {
            let dropped = self.dropped.entry(session).or_default();
            dropped.count += count;
            dropped.why = why;
        }
    }

    /// The agent of that number is gone. Its process may have ended: until that is known, what it has said last counts.
    pub fn on_gone(&mut self, session: SessionId, agent: u64, now: Instant) {
        let source = self.agents.get_mut(&session);
        if let Some(source) = source.filter(|source| source.agent == agent) {
            source.gone = Some(now);
        }
    }

    fn forget(&mut self, session: SessionId) {
        self.locks.forget(session);
        self.tasks.forget(session);
        self.agents.remove(&session);
        self.dropped.remove(&session);
    }

    /// Whether there is anything to look at.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        !self.locks.is_empty()
            || !self.tasks.is_empty()
            || !self.sessions.is_empty()
            || !self.watchdogs.is_empty()
            || self.findings.any_open()
    }

    /// Looks what is wrong; gives what is to be told.
    pub fn look(&mut self, moment: &Moment<'_>) -> Vec<Alert> {
        let has_left = |source: &Source| {
            let gone = source.gone;
            gone.is_some_and(|gone| moment.now.saturating_duration_since(gone) >= GONE_WAIT)
        };
        let left: Vec<SessionId> = self
            .agents
            .iter()
            .filter_map(|(session, source)| has_left(source).then_some(*session))
            .collect();
        for session in left {
            self.forget(session);
        }
        let context = moment.context(&self.clocks, &self.settings);
        let (mut waits, mut threads) = (waits::Waits::default(), HashMap::new());
        self.locks.draw(&context, &mut waits, &mut threads);
        self.tasks.draw(&context, &mut waits);
        let waits::Cycles {
            mut found,
            resources,
            nodes,
        } = waits.cycles(&context, &threads);
        found.extend(self.locks.findings(&context, &resources));
        found.extend(self.tasks.findings(&context, &nodes));
        found.extend(self.sessions.findings(&context));
        found.extend(self.system.findings(&context));
        found.extend(self.watchdogs.findings(&context));
        // Two samples without it: one may have come at an unlucky moment.
        let patience = self.settings.interval.unwrap_or_default() * 2;
        self.findings.update(&context, found, patience)
    }

    /// What is counted, over all processes.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Value {
        let open: serde_json::Map<String, Value> = self
            .findings
            .open_counts()
            .into_iter()
            .filter_map(|(kind, count)| Some((json!(kind).as_str()?.to_owned(), count.into())))
            .collect();
        let up = now.saturating_duration_since(self.started).as_secs_f64();
        json!(Statistics {
            locks: self.locks.statistics(),
            tasks: self.tasks.statistics(),
            rest: json!({
                "findings": open, "findingsOpened": self.findings.opened(), "findingsLeftOut": self.findings.left_out(),
                "processes": self.agents.len(),
                "cost": {
                    "samples": self.samples,
                    "seconds": self.worked.as_secs_f64(),
                    "daemon": if up > 0.0 { self.worked.as_secs_f64() / up } else { 0.0 },
                    "agents": self.agents.values().map(|source| source.cost).sum::<f64>(),
                },
            }),
        })
    }

    /// What somebody wants to know; `infos` are the sessions that are meant.
    pub fn report(&mut self, moment: &Moment<'_>, part: Option<Part>, infos: &[Info]) -> Value {
        let meant: HashSet<SessionId> = infos.iter().map(|info| info.id).collect();
        let is_meant = |session: SessionId| meant.contains(&session);
        let wants = |this: Part| part.is_none_or(|part| part == this);
        let context = moment.context(&self.clocks, &self.settings);
        let mut summary = self.statistics(moment.now);
        let mut report = json!({ "time": moment.time });
        let mut put = |name: &str, rows: &mut dyn ExactSizeIterator<Item = Row>| {
            summary["rows"][name] = rows.len().into();
            let rows = rows.take(MAX_ROWS);
            report[name] = rows.map(|row| of_process(&context, row)).collect();
        };
        if wants(Part::Locks) {
            put("locks", &mut self.locks.rows(&context, &is_meant));
        }
        if wants(Part::Tasks) {
            put("tasks", &mut self.tasks.rows(&context, &is_meant));
            put("loops", &mut self.tasks.loops(&context, &is_meant));
        }
        if wants(Part::Sessions) {
            put("sessions", &mut self.sessions.rows(infos, moment.time));
        }
        if wants(Part::System) {
            self.system.ask(moment.now);
            put(
                "processes",
                &mut self.system.rows(moment.now, &is_meant).into_iter(),
            );
            report["system"] = self.system.statistics(moment.now);
        }
        if wants(Part::Findings) {
            report["findings"] = json!(self.findings.list(moment.time, &is_meant));
        }
        if wants(Part::Tasks) {
            summary["rows"]["tasks"] = self.tasks.count(&is_meant).into();
        }
        if wants(Part::System) {
            summary["rows"]["processes"] = self.system.count(&is_meant).into();
        }
        summary["dropped"] = self.dropped(&context, &is_meant);
        report["summary"] = summary;
        report
    }

    /// The report of everything as people read it.
    pub fn summary(&mut self, moment: &Moment<'_>, infos: &[Info]) -> String {
        let report = self.report(moment, None, infos);
        text::show("report", &report)
    }

    /// What was left out, one line a process.
    fn dropped(&self, context: &Context<'_>, is_meant: &dyn Fn(SessionId) -> bool) -> Value {
        let mut lines = Vec::new();
        for (session, Dropped { count, why }) in &self.dropped {
            let times = match count {
                1 => String::new(),
                count => format!("{count} × "),
            };
            lines.push((*session, format!("{times}{why}")));
        }
        let locks = self.locks.dropped().map(|dropped| (dropped, "locks"));
        let tasks = self.tasks.dropped().map(|dropped| (dropped, "tasks"));
        for ((session, count), what) in locks.chain(tasks) {
            let why = format!("{count} {what} that did not fit into its sample");
            lines.push((session, why));
        }
        let lines = lines.into_iter().filter(|(session, _)| is_meant(*session));
        let line = |(session, message)| {
            let who = (context.who)(session);
            json!({ "session": session, "pid": who.as_ref().map(|who| who.pid), "name": who.map(|who| who.name),
                    "message": message })
        };
        lines.take(MAX_DROPPED).map(line).collect()
    }

    /// The sessions that something is kept of, to compare them with those that there are.
    fn known(&self) -> HashSet<SessionId> {
        let known = self.clocks.sessions().chain(self.agents.keys().copied());
        known
            .chain(self.locks.sessions())
            .chain(self.tasks.sessions())
            .chain(self.sessions.waiting())
            .chain(self.system.sessions())
            .chain(self.watchdogs.sessions())
            .collect()
    }
}

/// Whether something goes on, or has ended not long ago.
fn is_recent(ended: Option<Timestamp>, time: Timestamp) -> bool {
    ended.is_none_or(|ended| ended >= findings::back(time, RECENT))
}

/// A row with what all rows of its process have.
fn of_process(context: &Context<'_>, (session, mut row): Row) -> Value {
    let who = (context.who)(session);
    row["session"] = json!(session);
    row["pid"] = json!(who.as_ref().map(|who| who.pid));
    row["name"] = json!(who.map(|who| who.name));
    // Its clocks stand.
    row["stopped"] = context.clocks.is_stopped(session).into();
    row
}

/// A line of a file, in few words.
fn short(site: &Site) -> String {
    let file = Path::new(&site.file).file_name();
    let file = file.map_or_else(|| site.file.as_str().into(), |file| file.to_string_lossy());
    format!("{file}:{}", site.line)
}

/// A duration in words.
fn seconds(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..10 => format!("{:.1} s", duration.as_secs_f64()),
        10..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        _ => format!("{} h", seconds / 3600),
    }
}

#[cfg(test)]
mod tests;
