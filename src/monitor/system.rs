//! The system monitor: what the host has, and how much of it the debugged processes and the daemon use.
//!
//! While somebody looks it samples once a second, else only now and then, for what grows. A look takes at most a
//! hundredth of the time since the last one, or a thousandth while nobody looks: with very many processes each is seen
//! less often, and the monitor costs no more.
//! This module knows of sessions which process they are, and nothing else.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};
use sysinfo::System;

use super::findings::{Found, Kind};
use super::history::{Growth, History, Sample, WINDOWS};
use super::process::{self, Here, Reading};
use super::{Context, MAX_ROWS, Row, seconds};
use crate::session::{Info, SessionId};
use crate::text::bytes;

/// How often is looked while somebody wants to know.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// How often is looked while nobody does.
pub const RARE_INTERVAL: Duration = Duration::from_secs(15);

/// For how long somebody who has asked is taken to want to know: longer than Prometheus waits between two scrapes.
pub const ATTENTION: Duration = Duration::from_secs(90);

/// The part of the time since the last look that a look may take while somebody looks.
const SHARE: u32 = 100;

/// The same while nobody does.
const RARE_SHARE: u32 = 1000;

/// How long a look may always take.
const LEAST_BUDGET: Duration = Duration::from_millis(1);

/// How long a look may take at most: other tasks wait for it.
const MOST_BUDGET: Duration = Duration::from_millis(50);

/// What there is pressure on, see the kernel's documentation of PSI.
const RESOURCES: [&str; 3] = ["cpu", "memory", "io"];

/// What the daemon counts of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Daemon {
    /// The processes that are there.
    pub sessions: usize,
    /// The connections of IDEs.
    pub clients: usize,
    /// The tasks of the runtime.
    pub tasks: usize,
    /// The mails that wait for sessions and clients.
    pub queued: usize,
    /// What went over DAP connections.
    pub traffic: crate::link::Traffic,
}

/// What is known of the host, the debugged processes and the daemon.
pub struct SystemMonitor {
    here: Here,
    host: Host,
    own: Process,
    /// What the daemon has last counted of itself.
    pub daemon: Daemon,
    processes: HashMap<SessionId, Process>,
    /// Whose turn it is; those that have gone are taken out when it is theirs.
    turns: VecDeque<SessionId>,
    looked: Option<Instant>,
    /// When somebody wanted to know last.
    asked: Option<Instant>,
}

impl fmt::Debug for SystemMonitor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("SystemMonitor")
            .field("processes", &self.processes.len())
            .finish_non_exhaustive()
    }
}

/// What is known of one process.
#[derive(Debug, Default)]
struct Process {
    pid: u32,
    /// By which it is known to be this one.
    start: Option<u64>,
    last: Option<Reading>,
    history: History,
    /// How much it has grown, if it does steadily.
    growth: Option<Growth>,
    /// How many files it has open, and may have.
    files: Option<(u64, Option<u64>)>,
}

impl Process {
    /// Looks at it once; false if it is gone.
    fn look(&mut self, now: Instant, with_files: bool) -> bool {
        let Some(reading) = process::read(self.pid) else {
            return false;
        };
        if *self.start.get_or_insert(reading.start) != reading.start {
            // Another process has its pid.
            return false;
        }
        self.push(Sample {
            at: now,
            cpu: reading.cpu.as_secs_f64(),
            memory: reading.memory,
        });
        self.files = with_files.then(|| process::files(self.pid)).flatten();
        self.last = Some(reading);
        true
    }

    fn push(&mut self, sample: Sample) {
        self.history.push(sample);
        self.growth = self.history.growth();
    }

    fn show(&self, now: Instant, boot: u64) -> Value {
        let Some(reading) = &self.last else {
            return Value::Null;
        };
        let sampled = self.history.last().map(|last| last.at);
        let age = sampled.map(|at| now.saturating_duration_since(at).as_secs_f64());
        json!({
            "cpu": self.history.cpu(INTERVAL), "cpuOver": over(|window| self.history.cpu(window)),
            "cpuTime": reading.cpu.as_secs_f64(),
            "memory": reading.memory, "memoryOver": over(|window| self.history.memory(window)),
            "growth": self.history.slope(),
            "threads": reading.threads,
            "files": self.files.map(|(open, _)| open), "filesLimit": self.files.and_then(|(_, limit)| limit),
            "started": process::started(reading, boot), "processState": reading.state, "age": age,
        })
    }
}

/// A value for each window, by its seconds.
fn over<T: serde::Serialize>(value: impl Fn(Duration) -> Option<T>) -> Value {
    let pair = |window: u64| {
        (
            window.to_string(),
            json!(value(Duration::from_secs(window))),
        )
    };
    Value::Object(WINDOWS.into_iter().map(pair).collect())
}

/// What is known of the host.
#[derive(Default)]
struct Host {
    /// None where the system does not tell, or before somebody has asked.
    system: Option<System>,
    history: History,
    /// How much processor time has been used since the first look, over all processors.
    busy: f64,
    boot: u64,
}

impl Host {
    fn look(&mut self, now: Instant) {
        if self.system.is_none() {
            self.system = System::new().ok();
            self.boot = System::boot_time().unwrap_or_default();
        }
        let Some(system) = &mut self.system else {
            return;
        };
        let last = self.history.last().map(|last| last.at);
        let since = last.map_or(Duration::ZERO, |at| now.saturating_duration_since(at));
        if last.is_some() && since < sysinfo::MINIMUM_CPU_UPDATE_INTERVAL {
            return;
        }
        system.refresh_memory();
        system.refresh_cpu_usage();
        // The first time it is what was used since the host started.
        let used = f64::from(system.global_cpu_usage()) / 100.0 * system.cpus().len() as f64;
        self.busy += used * since.as_secs_f64();
        self.history.push(Sample {
            at: now,
            cpu: self.busy,
            memory: system.used_memory(),
        });
    }

    fn show(&self) -> Value {
        let Some(system) = &self.system else {
            return json!({});
        };
        let cpus = system.cpus().len();
        let share = |used: f64| used / cpus.max(1) as f64;
        let load = System::load_average().ok();
        let cores: Option<Vec<f64>> = self.history.cpu(INTERVAL).map(|_| {
            let usage = |cpu: &sysinfo::Cpu| f64::from(cpu.usage()) / 100.0;
            system.cpus().iter().map(usage).collect()
        });
        json!({
            "cpus": cpus,
            // Shares of all processors, and of each.
            "cpu": self.history.cpu(INTERVAL).map(share),
            "cpuOver": over(|window| self.history.cpu(window).map(share)),
            "cores": cores,
            "memory": {
                "total": system.total_memory(), "available": system.available_memory(),
                "used": system.used_memory(), "usedOver": over(|window| self.history.memory(window)),
            },
            "swap": { "total": system.total_swap(), "free": system.free_swap() },
            "load": load.map(|load| [load.one, load.five, load.fifteen]),
            "pressure": pressure(|resource| fs::read_to_string(format!("/proc/pressure/{resource}")).ok()),
        })
    }
}

/// For how much of the time somebody has waited for a resource, where the kernel tells: the shares of the last 10, 60
/// and 300 s, and how many seconds since the start.
fn pressure(read: impl Fn(&str) -> Option<String>) -> Value {
    let mut pressure = Map::new();
    for resource in RESOURCES {
        // Kernels that could tell may have it turned off: then it cannot be read.
        let text = read(resource).unwrap_or_default();
        for line in text.lines() {
            let mut words = line.split_ascii_whitespace();
            // "some": at least one had to wait; "full": none could work.
            let Some(who @ ("some" | "full")) = words.next() else {
                continue;
            };
            let values: HashMap<&str, f64> = words
                .filter_map(|word| word.split_once('='))
                .filter_map(|(name, value)| Some((name, value.parse().ok()?)))
                .collect();
            let share = |name| values.get(name).map(|percent| percent / 100.0);
            let total = values.get("total").map(|micros| micros / 1e6);
            let over =
                json!({ "10": share("avg10"), "60": share("avg60"), "300": share("avg300") });
            let row = json!({ "over": over, "total": total });
            let of = pressure.entry(resource).or_insert_with(|| json!({}));
            of[who] = row;
        }
    }
    if pressure.is_empty() {
        return Value::Null;
    }
    Value::Object(pressure)
}

impl Default for SystemMonitor {
    fn default() -> Self {
        SystemMonitor {
            here: Here::find(),
            host: Host::default(),
            own: Process {
                pid: std::process::id(),
                ..Process::default()
            },
            daemon: Daemon::default(),
            processes: HashMap::new(),
            turns: VecDeque::new(),
            looked: None,
            asked: None,
        }
    }
}

impl SystemMonitor {
    /// A process has come, or more is known of it.
    pub fn note(&mut self, info: &Info) {
        if self.processes.contains_key(&info.id) {
            return;
        }
        if let Some(start) = self.here.start_of(info.pid, info.identity.as_deref()) {
            let process = Process {
                pid: info.pid,
                start,
                ..Process::default()
            };
            self.processes.insert(info.id, process);
            self.turns.push_front(info.id);
        }
    }

    /// A process has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.processes.remove(&session);
    }

    /// The processes that are looked at.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.processes.keys().copied()
    }

    /// Somebody wants to know, now and maybe again soon; gives him what is the case.
    pub fn ask(&mut self, now: Instant) {
        self.asked = Some(now);
        let is_new = |looked: Instant| now.saturating_duration_since(looked) < INTERVAL / 2;
        if !self.looked.is_some_and(is_new) {
            self.look(now);
        }
    }

    fn is_watched(&self, now: Instant) -> bool {
        self.asked
            .is_some_and(|asked| now.saturating_duration_since(asked) < ATTENTION)
    }

    /// When to look next, if at all.
    #[must_use]
    pub fn next_look(&self, now: Instant) -> Option<Instant> {
        let is_watched = self.is_watched(now);
        let interval = if is_watched { INTERVAL } else { RARE_INTERVAL };
        let is_needed = is_watched || !self.processes.is_empty();
        is_needed.then(|| self.looked.map_or(now, |looked| looked + interval))
    }

    /// Looks at the host, the daemon, and as many processes as there is time for.
    pub fn look(&mut self, now: Instant) {
        let is_watched = self.is_watched(now);
        let (share, interval) = match is_watched {
            true => (SHARE, INTERVAL),
            false => (RARE_SHARE, RARE_INTERVAL),
        };
        let since = self
            .looked
            .map(|looked| now.saturating_duration_since(looked));
        let budget = since.map_or(MOST_BUDGET, |since| since / share);
        let budget = budget.clamp(LEAST_BUDGET, MOST_BUDGET);
        self.looked = Some(now);
        let start = Instant::now();
        if is_watched {
            self.host.look(now);
            self.own.look(now, true);
        }
        for count in 0..self.turns.len() {
            let Some(session) = self.turns.front().copied() else {
                return;
            };
            let Some(process) = self.processes.get_mut(&session) else {
                self.turns.pop_front();
                continue;
            };
            let last = process.history.last().map(|last| last.at);
            // They are in the order in which they were looked at. A timer is never quite on time.
            let is_new = |at: Instant| now.saturating_duration_since(at) < interval * 9 / 10;
            // At least one has its turn, however slow all is.
            if last.is_some_and(is_new) || count > 0 && start.elapsed() >= budget {
                return;
            }
            self.turns.pop_front();
            if process.look(now, is_watched) {
                self.turns.push_back(session);
            } else {
                // It has ended, and soon its session will.
                self.processes.remove(&session);
            }
        }
    }

    /// What is known of the host and the daemon.
    #[must_use]
    pub fn statistics(&self, now: Instant) -> Value {
        let mut statistics = self.host.show();
        let mut own = self.own.show(now, self.host.boot);
        let Daemon {
            sessions,
            clients,
            tasks,
            queued,
            traffic,
        } = self.daemon;
        if own.is_null() {
            own = json!({});
        }
        own["pid"] = self.own.pid.into();
        own["sessions"] = sessions.into();
        own["clients"] = clients.into();
        own["tasks"] = tasks.into();
        own["queued"] = queued.into();
        own["received"] =
            json!({ "bytes": traffic.received_bytes, "messages": traffic.received_messages });
        own["sent"] = json!({ "bytes": traffic.sent_bytes });
        statistics["daemon"] = own;
        statistics
    }

    /// How many processes there are rows for.
    #[must_use]
    pub fn count(&self, is_meant: &dyn Fn(SessionId) -> bool) -> usize {
        self.meant(is_meant).count()
    }

    /// A row for each process, at most [`MAX_ROWS`]: those that use most, first.
    #[must_use]
    pub fn rows(&self, now: Instant, is_meant: &dyn Fn(SessionId) -> bool) -> Vec<Row> {
        let minute = Duration::from_secs(60);
        let mut meant: Vec<(f64, u64, SessionId, &Process)> = self
            .meant(is_meant)
            .map(|(session, process)| {
                let memory = process.last.as_ref().map_or(0, |reading| reading.memory);
                let cpu = process.history.cpu(minute).unwrap_or_default();
                (cpu, memory, session, process)
            })
            .collect();
        meant.sort_by(|one, other| other.0.total_cmp(&one.0).then(other.1.cmp(&one.1)));
        let row = |(_, _, session, process): (f64, u64, SessionId, &Process)| {
            (session, process.show(now, self.host.boot))
        };
        meant.into_iter().take(MAX_ROWS).map(row).collect()
    }

    fn meant(
        &self,
        is_meant: &dyn Fn(SessionId) -> bool,
    ) -> impl Iterator<Item = (SessionId, &Process)> {
        let looked_at = self.processes.iter();
        looked_at
            .filter(|(session, process)| process.last.is_some() && is_meant(**session))
            .map(|(session, process)| (*session, process))
    }

    /// What is wrong now.
    #[must_use]
    pub fn findings(&self, context: &Context<'_>) -> Vec<Found> {
        let growing = self
            .processes
            .iter()
            .filter_map(|(session, process)| Some((*session, process.growth?)));
        let found = |(session, growth): (SessionId, Growth)| {
            let Growth { since, from, to } = growth;
            let span = context.now.saturating_duration_since(since);
            let rate = (to - from) as f64 / span.as_secs_f64().max(1.0);
            Found {
                kind: Kind::MemoryGrowth,
                key: session.to_string(),
                sessions: vec![session],
                message: format!(
                    "{} takes ever more memory: {} now, {} more than {} ago ({}/s)",
                    context.name(session),
                    bytes(to as f64),
                    bytes((to - from) as f64),
                    seconds(span),
                    bytes(rate)
                ),
                since,
                sites: Vec::new(),
                count: 1,
            }
        };
        growing.map(found).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{Bench, SECOND};
    use super::*;
    use std::io::{Read, Write};
    use std::process::{Child, Command, Stdio};

    /// A process that ends when its input does.
    fn cat() -> Child {
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("there is a cat");
        // From here on it is what it will be.
        let (stdin, stdout) = (child.stdin.as_mut(), child.stdout.as_mut());
        stdin.expect("a pipe").write_all(b"x").expect("it reads");
        stdout
            .expect("a pipe")
            .read_exact(&mut [0])
            .expect("it writes");
        child
    }

    /// What is known of a session of that process.
    fn info(number: u32, child: &Child) -> Info {
        let here = Here::find();
        let start = process::read(child.id()).expect("it runs").start;
        let mut info = Info::example(number);
        info.pid = child.id();
        info.identity = Some(here.identity(child.id(), start));
        info
    }

    #[test]
    fn a_process_from_its_start_to_its_end() {
        let (mut monitor, mut child) = (SystemMonitor::default(), cat());
        let mut info = info(1, &child);
        let now = Instant::now();
        assert_eq!(monitor.next_look(now), None);
        monitor.note(&info);
        assert_eq!(monitor.next_look(now), Some(now));
        monitor.ask(now);
        let rows = monitor.rows(now, &|_| true);
        let (session, row) = rows.first().expect("a row");
        assert_eq!(*session, info.id);
        assert!(row["memory"].as_u64() > Some(100_000), "{row}");
        assert!(
            row["threads"] == 1 && row["files"].as_u64() >= Some(3),
            "{row}"
        );
        assert!(row["cpu"].is_null() && row["started"].is_string(), "{row}");
        assert!(monitor.rows(now, &|_| false).is_empty());
        assert_eq!(
            (monitor.count(&|_| true), monitor.count(&|_| false)),
            (1, 0)
        );
        monitor.look(now + SECOND);
        let row = &monitor.rows(now, &|_| true)[0].1;
        assert!(
            row["cpu"].is_f64() && row["cpuOver"]["60"].is_f64(),
            "{row}"
        );
        // Another process has its pid: the session is of one that is gone.
        let identity = info.identity.take().expect("it has one");
        info.identity = Some(identity + "1");
        info.id = uuid::Uuid::from_u128(2);
        monitor.note(&info);
        assert_eq!(monitor.sessions().count(), 2);
        monitor.look(now + SECOND * 2);
        assert_eq!(monitor.sessions().count(), 1);
        drop(child.stdin.take());
        child.wait().expect("it ends");
        monitor.look(now + SECOND * 3);
        assert_eq!(monitor.sessions().count(), 0);
        assert!(monitor.turns.is_empty());
    }

    #[test]
    fn who_is_elsewhere_is_left_out() {
        let mut monitor = SystemMonitor::default();
        let mut info = Info::example(1);
        info.pid = std::process::id();
        for identity in [None, Some("boot/1/2/3".to_owned()), Some(String::new())] {
            info.identity = identity;
            monitor.note(&info);
        }
        assert_eq!(monitor.sessions().count(), 0);
    }

    #[test]
    fn it_looks_rarely_unless_somebody_does() {
        let (mut monitor, child) = (SystemMonitor::default(), cat());
        monitor.note(&info(1, &child));
        let start = Instant::now();
        monitor.look(start);
        assert_eq!(monitor.next_look(start), Some(start + RARE_INTERVAL));
        let asked = start + SECOND * 20;
        monitor.ask(asked);
        assert_eq!(monitor.next_look(asked), Some(asked + INTERVAL));
        let late = asked + ATTENTION;
        assert_eq!(monitor.next_look(late), Some(asked + RARE_INTERVAL));
    }

    #[test]
    fn the_host() {
        let mut monitor = SystemMonitor::default();
        let now = Instant::now();
        monitor.ask(now);
        std::thread::sleep(sysinfo::MINIMUM_CPU_UPDATE_INTERVAL);
        monitor.look(now + SECOND);
        let host = monitor.statistics(now + SECOND);
        let cpu = host["cpu"].as_f64().expect("a share");
        assert!((0.0..=1.0).contains(&cpu), "{host}");
        let cores = host["cores"].as_array().expect("one each").len();
        assert_eq!(Some(cores as u64), host["cpus"].as_u64());
        assert!(host["memory"]["total"].as_u64() > host["memory"]["available"].as_u64());
        assert!(host["daemon"]["memory"].as_u64() > Some(100_000), "{host}");
    }

    #[test]
    fn pressure_where_the_kernel_has_it() {
        let some = "some avg10=50.00 avg60=1.50 avg300=0.00 total=2500000\n";
        let full = "full avg10=0.00 avg60=0.00 avg300=0.00 total=0\nodd\n";
        let read = |resource: &str| (resource == "io").then(|| format!("{some}{full}"));
        let expected = json!({ "io": {
            "some": { "over": { "10": 0.5, "60": 0.015, "300": 0.0 }, "total": 2.5 },
            "full": { "over": { "10": 0.0, "60": 0.0, "300": 0.0 }, "total": 0.0 },
        }});
        assert_eq!(pressure(read), expected);
        assert_eq!(pressure(|_| None), Value::Null);
    }

    #[test]
    fn steady_growth_is_a_finding_until_it_ends() {
        let (mut bench, mut monitor) = (Bench::default(), SystemMonitor::default());
        let id = uuid::Uuid::from_u128(1);
        let mut found = Vec::new();
        monitor.processes.insert(id, Process::default());
        for second in 0..400_u64 {
            let process = monitor.processes.get_mut(&id).expect("it is there");
            process.push(Sample {
                at: bench.now,
                cpu: 0.0,
                memory: (second.min(250) << 21) + 1,
            });
            found.push(monitor.findings(&bench.context()));
            bench.now += SECOND;
        }
        let first = found.iter().position(|found| !found.is_empty());
        assert_eq!(first, Some(180));
        let message = &found[180][0].message;
        assert!(
            message.contains("360.0 MiB now") && message.contains("2.0 MiB/s"),
            "{message}"
        );
        assert!(found[399].is_empty());
    }
}
