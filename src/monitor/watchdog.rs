//! Watchdogs: who will end a process because it is stopped, as far as command lines and environments tell.
//!
//! A server's master kills a worker that is silent for too long, and does not know that somebody is looking at it.
//! While such a process is stopped there is a finding with the time that is left; when it ends meanwhile, one that says
//! by whom most likely.
//! This module knows when processes are stopped, and nothing of the debugger.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::findings::{Found, Kind};
use super::process::{self, Here};
use super::{Context, seconds};
use crate::session::{Info, SessionId, State};

/// How long before it would be ended a finding begins; an earlier one would be told at every breakpoint.
pub const LEAD: Duration = Duration::from_secs(60);

/// How long after a stop an end still counts as one during the stop: the connection breaks before the end is known.
const END_WAIT: Duration = Duration::from_secs(5);

/// How long the end of a process is a finding.
const ENDED: Duration = Duration::from_secs(60);

/// How many such ends are kept; the oldest is forgotten first.
const MAX_ENDED: usize = 100;

/// How many ancestors of a process are looked at.
const MAX_ANCESTORS: usize = 16;

/// How long gunicorn lets a worker be silent unless it is told otherwise.
const GUNICORN: f64 = 30.0;

/// How long uvicorn waits for the answer of a worker unless it is told otherwise.
const UVICORN: f64 = 5.0;

/// Somebody who ends a process, or breaks off what it does, if that takes too long.
#[derive(Debug, Clone, PartialEq)]
pub struct Watchdog {
    /// Who.
    pub who: &'static str,
    /// What it does, and when, without the time.
    does: &'static str,
    /// After which time.
    pub limit: Duration,
    /// Where that time comes from.
    pub source: String,
    /// Whether the process ends of it.
    ends_it: bool,
}

/// What is known of a process to find its watchdogs.
#[derive(Debug, Default)]
pub struct Lineage {
    /// The command lines of the process and its ancestors, its own first.
    pub commands: Vec<Vec<String>>,
    /// The variables with which it was started, where they can be read.
    pub environment: Vec<(String, String)>,
    /// Whether an agent is in it, which keeps up its heartbeat while it is stopped.
    pub has_agent: bool,
}

impl Lineage {
    /// What is known of a session's process; `session` tells of other sessions.
    pub fn read(info: &Info, session: &dyn Fn(SessionId) -> Option<Info>) -> Lineage {
        let here = Here::find();
        let is_here = |info: &Info| here.start_of(info.pid, info.identity.as_deref()).is_some();
        let mut commands = vec![info.argv.clone()];
        let mut last = info.clone();
        while commands.len() < MAX_ANCESTORS
            && let Some(parent) = last.parent.and_then(session)
        {
            commands.push(parent.argv.clone());
            last = parent;
        }
        // Beyond the first process that is debugged only the system knows.
        let mut pid = is_here(&last).then_some(last.pid);
        while commands.len() < MAX_ANCESTORS
            && let Some(parent) = pid.and_then(process::parent).filter(|pid| *pid > 1)
        {
            commands.extend(process::command(parent));
            pid = Some(parent);
        }
        let environment = is_here(info).then(|| process::environment(info.pid));
        Lineage {
            commands,
            environment: environment.unwrap_or_default(),
            has_agent: info.has_agent,
        }
    }

    fn variable(&self, name: &str) -> Option<&str> {
        let found = self.environment.iter().find(|(own, _)| own == name);
        found.map(|(_, value)| value.as_str())
    }

    /// The arguments of the program of that name that runs in the `n`th of the processes.
    fn arguments(&self, n: usize, name: &str) -> Option<&[String]> {
        let (own, arguments) = program(self.commands.get(n)?)?;
        (own == name).then_some(arguments)
    }

    /// The arguments of the master, if the process is a worker that it has started itself: a process that a worker has
    /// started is nobody's worker.
    fn master(&self, name: &str) -> Option<&[String]> {
        let arguments = self.arguments(1, name)?;
        self.arguments(2, name).is_none().then_some(arguments)
    }
}

/// The name of the program or module that a command runs, and its arguments.
fn program(command: &[String]) -> Option<(&str, &[String])> {
    let (first, mut rest) = command.split_first()?;
    let first = stem(first);
    if !first.starts_with("python") && !first.starts_with("pypy") {
        return Some((first, rest));
    }
    while let Some((word, others)) = rest.split_first() {
        match word.as_str() {
            "-m" => {
                let (module, arguments) = others.split_first()?;
                return Some((module.split('.').next()?, arguments));
            }
            "-c" => return None,
            "-X" | "-W" => rest = others.get(1..)?,
            option if option.starts_with('-') => rest = others,
            script => {
                // What is run with `-m` shows the path of the package's own file.
                let package = script.strip_suffix("/__main__.py").unwrap_or(script);
                return Some((stem(package), others));
            }
        }
    }
    None
}

/// The name of a program's file.
fn stem(path: &str) -> &str {
    let file = path.rsplit(['/', '\\']).next().unwrap_or(path);
    file.strip_suffix(".exe").unwrap_or(file)
}

/// What an option is set to: the last that is said counts.
fn option<'a>(arguments: &'a [String], names: &[&str]) -> Option<&'a str> {
    let mut found = None;
    let mut words = arguments.iter();
    while let Some(word) = words.next() {
        for name in names {
            let Some(value) = word.strip_prefix(name) else {
                continue;
            };
            let is_long = name.starts_with("--");
            match (value, value.strip_prefix('=')) {
                ("", _) => found = words.as_slice().first().map(String::as_str).or(found),
                (_, Some(value)) => found = Some(value),
                (value, None) if !is_long => found = Some(value),
                _ => {}
            }
        }
    }
    found
}

/// A time that is a limit: none is 0, and nonsense.
fn limit(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value)
        .ok()
        .filter(|limit| !limit.is_zero())
}

/// Who will end a process if it is stopped for too long.
#[must_use]
pub fn watchdogs(lineage: &Lineage) -> Vec<Watchdog> {
    let found = [
        gunicorn(lineage),
        uvicorn(lineage),
        celery(
            lineage,
            "--time-limit",
            "kills a worker whose task takes",
            true,
        ),
        celery(
            lineage,
            "--soft-time-limit",
            "breaks off a task that takes",
            false,
        ),
        pytest(lineage),
        torch(lineage),
    ];
    found.into_iter().flatten().collect()
}

/// A limit that an option or a variable sets, or that is one by default, and which of them.
fn set(set: Option<(&str, &str)>, default: Option<f64>) -> Option<(Duration, String)> {
    match set {
        Some((name, value)) => Some((
            limit(value.trim().parse().ok()?)?,
            format!("{name} {value}"),
        )),
        None => Some((limit(default?)?, "by default".into())),
    }
}

fn gunicorn(lineage: &Lineage) -> Option<Watchdog> {
    const NAMES: [&str; 2] = ["--timeout", "-t"];
    let arguments = lineage.master("gunicorn").filter(|_| !lineage.has_agent)?;
    let variable = lineage.variable("GUNICORN_CMD_ARGS").unwrap_or_default();
    let variable: Vec<String> = variable.split_whitespace().map(str::to_owned).collect();
    let value = option(arguments, &NAMES).or_else(|| option(&variable, &NAMES));
    let (limit, source) = set(value.map(|value| ("--timeout", value)), Some(GUNICORN))?;
    Some(Watchdog {
        who: "gunicorn",
        does: "kills a worker that is silent for",
        limit,
        source,
        ends_it: true,
    })
}

fn uvicorn(lineage: &Lineage) -> Option<Watchdog> {
    let arguments = lineage.master("uvicorn").filter(|_| !lineage.has_agent)?;
    let workers = option(arguments, &["--workers"]).or_else(|| lineage.variable("WEB_CONCURRENCY"));
    // One alone nobody watches.
    workers.filter(|workers| workers.parse().is_ok_and(|workers: u32| workers > 1))?;
    let name = "--timeout-worker-healthcheck";
    let value = option(arguments, &[name]).map(|value| (name, value));
    let (limit, source) = set(value, Some(UVICORN))?;
    Some(Watchdog {
        who: "uvicorn",
        does: "kills a worker that does not answer for",
        limit,
        source,
        ends_it: true,
    })
}

fn celery(lineage: &Lineage, name: &str, does: &'static str, ends_it: bool) -> Option<Watchdog> {
    let value = option(lineage.master("celery")?, &[name])?;
    let (limit, source) = set(Some((name, value)), None)?;
    Some(Watchdog {
        who: "celery",
        does,
        limit,
        source,
        ends_it,
    })
}

fn pytest(lineage: &Lineage) -> Option<Watchdog> {
    let of = |n| {
        lineage
            .arguments(n, "pytest")
            .or_else(|| lineage.arguments(n, "py.test"))
    };
    // pytest-xdist's workers have what they are told from the first process.
    let own = lineage.commands.first()?;
    let is_worker = || {
        own.iter()
            .any(|word| word.contains("exec(eval(sys.stdin.readline()))"))
    };
    let arguments = of(0).or_else(|| of(1).filter(|_| is_worker()))?;
    let value = option(arguments, &["--timeout"]).map(|value| ("--timeout", value));
    let variable = || Some(("PYTEST_TIMEOUT", lineage.variable("PYTEST_TIMEOUT")?));
    let (limit, source) = set(value.or_else(variable), None)?;
    Some(Watchdog {
        who: "pytest-timeout",
        does: "ends a test that takes",
        limit,
        source,
        ends_it: true,
    })
}

fn torch(lineage: &Lineage) -> Option<Watchdog> {
    let name = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC";
    let value = lineage.variable(name)?;
    let is_off = matches!(
        lineage.variable("TORCH_NCCL_ENABLE_MONITORING"),
        Some("0" | "false" | "no")
    );
    let (limit, source) = set(Some((name, value)), None).filter(|_| !is_off)?;
    Some(Watchdog {
        who: "torch",
        does: "ends a process whose NCCL watchdog is silent for",
        limit,
        source,
        ends_it: true,
    })
}

/// Which processes are stopped that somebody will end.
#[derive(Debug, Default)]
pub struct WatchdogMonitor {
    /// The processes that have ever been stopped; those of most are none.
    known: HashMap<SessionId, Watched>,
    ended: VecDeque<(Instant, Found)>,
}

#[derive(Debug)]
struct Watched {
    watchdogs: Vec<Watchdog>,
    /// Since when it is stopped, or was last.
    since: Instant,
    until: Option<Instant>,
}

impl Watched {
    /// For how long it has been stopped, if it is, or was a moment ago.
    fn stopped(&self, now: Instant) -> Option<Duration> {
        let is_over = |until: Instant| now.saturating_duration_since(until) > END_WAIT;
        let until = self.until.unwrap_or(now);
        (!self.until.is_some_and(is_over)).then(|| until.saturating_duration_since(self.since))
    }
}

impl WatchdogMonitor {
    /// A process has come, or what is known of it has changed; `lineage` is asked when it is first stopped.
    pub fn note(&mut self, info: &Info, now: Instant, lineage: impl FnOnce() -> Lineage) {
        let is_stopped = info.state == State::Stopped;
        match self.known.get_mut(&info.id) {
            None if is_stopped => {
                let watched = Watched {
                    watchdogs: watchdogs(&lineage()),
                    since: now,
                    until: None,
                };
                self.known.insert(info.id, watched);
            }
            Some(watched) if is_stopped && watched.until.is_some() => {
                (watched.since, watched.until) = (now, None);
            }
            Some(watched) if !is_stopped => {
                watched.until.get_or_insert(now);
            }
            _ => {}
        }
    }

    /// A process has ended.
    pub fn end(&mut self, context: &Context<'_>, info: &Info) {
        let Some(watched) = self.known.remove(&info.id) else {
            return;
        };
        let stopped = watched.stopped(context.now).unwrap_or_default();
        // Who counts may have begun before the stop, at its last sign of life.
        let is_over = |one: &&Watchdog| one.ends_it && stopped >= one.limit / 2;
        let mut likely = watched.watchdogs.iter().filter(is_over);
        let Some(watchdog) = likely.next() else {
            return;
        };
        let how = match info.exit {
            None => "ended".to_owned(),
            Some(code) if code < 0 => format!("was ended by signal {}", code.unsigned_abs()),
            Some(code) if code > 128 => format!("was ended by signal {}", code - 128),
            // It has ended by itself.
            Some(_) => return,
        };
        let Watchdog { who, source, .. } = watchdog;
        let found = Found {
            kind: Kind::Watchdog,
            key: format!("{} end", info.id),
            sessions: vec![info.id],
            message: format!(
                "{} ({}) {how} while it was stopped, after {}: most likely {who} has killed it ({source})",
                info.name,
                info.pid,
                seconds(stopped)
            ),
            since: context.now,
            sites: Vec::new(),
            count: 1,
        };
        self.ended.push_back((context.now, found));
        let excess = self.ended.len().saturating_sub(MAX_ENDED);
        self.ended.drain(..excess);
    }

    /// A process is forgotten.
    pub fn forget(&mut self, session: SessionId) {
        self.known.remove(&session);
    }

    /// The processes that have been stopped.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.known.keys().copied()
    }

    /// Whether there is nothing to look at.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let is_threatened = |one: &Watched| one.until.is_none() && !one.watchdogs.is_empty();
        self.ended.is_empty() && !self.known.values().any(is_threatened)
    }

    /// What is wrong now.
    pub fn findings(&mut self, context: &Context<'_>) -> Vec<Found> {
        let now = context.now;
        self.ended
            .retain(|(at, _)| now.saturating_duration_since(*at) < ENDED);
        let mut found: Vec<Found> = self.ended.iter().map(|(_, found)| found.clone()).collect();
        for (session, watched) in &self.known {
            if watched.until.is_some() {
                continue;
            }
            let stopped = now.saturating_duration_since(watched.since);
            for Watchdog {
                who,
                does,
                limit,
                source,
                ..
            } in &watched.watchdogs
            {
                let left = limit.saturating_sub(stopped);
                if left > LEAD {
                    continue;
                }
                let left = match left.is_zero() {
                    true => format!("that was {} ago", seconds(stopped.saturating_sub(*limit))),
                    false => format!("at most {} are left", seconds(left)),
                };
                found.push(Found {
                    kind: Kind::Watchdog,
                    key: format!("{session} {who} {does}"),
                    sessions: vec![*session],
                    message: format!(
                        "{} is stopped, and {who} {does} {} ({source}): {left}",
                        context.name(*session),
                        seconds(*limit)
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
    use super::super::tests::{Bench, SECOND};
    use super::*;

    fn words(command: &str) -> Vec<String> {
        command.split(' ').map(str::to_owned).collect()
    }

    /// What is known of a process: the command lines, its own first, and its environment.
    fn lineage(commands: &[&str], environment: &[(&str, &str)]) -> Lineage {
        Lineage {
            commands: commands.iter().map(|command| words(command)).collect(),
            environment: environment
                .iter()
                .map(|(name, value)| ((*name).into(), (*value).into()))
                .collect(),
            has_agent: false,
        }
    }

    fn found(commands: &[&str], environment: &[(&str, &str)]) -> Vec<String> {
        let watchdogs = watchdogs(&lineage(commands, environment));
        let show = |one: &Watchdog| format!("{} {:?} {}", one.who, one.limit, one.source);
        watchdogs.iter().map(show).collect()
    }

    #[test]
    fn gunicorn_watches_its_workers() {
        let master = "/venv/bin/python /venv/bin/gunicorn -w 2 -t 10 app:app";
        let expected = ["gunicorn 10s --timeout 10"];
        assert_eq!(found(&[master, master], &[]), expected);
        assert_eq!(found(&[master, master, "bash", "init"], &[]), expected);
        // Nobody watches the master, nor what a worker has started.
        assert!(found(&[master], &[]).is_empty());
        assert!(found(&[master, "bash"], &[]).is_empty());
        assert!(found(&[master, master, master], &[]).is_empty());
        let plain = "python -m gunicorn app:app";
        assert_eq!(found(&[plain, plain], &[]), ["gunicorn 30s by default"]);
        let variable = [("GUNICORN_CMD_ARGS", "--workers 3 --timeout=90")];
        assert_eq!(
            found(&[plain, plain], &variable),
            ["gunicorn 90s --timeout 90"]
        );
        assert_eq!(found(&[master, master], &variable), expected);
        for never in [
            "gunicorn --timeout 0 a:a",
            "gunicorn --timeout x a:a",
            "hunicorn a:a",
        ] {
            assert!(found(&[never, never], &[]).is_empty(), "{never}");
        }
        let mut with_agent = lineage(&[master, master], &[]);
        with_agent.has_agent = true;
        assert!(watchdogs(&with_agent).is_empty());
    }

    #[test]
    fn others_that_watch() {
        let worker = "/usr/bin/python3 -c spawn_main() --multiprocessing-fork";
        let uvicorn =
            "/usr/bin/python3 -X dev /usr/lib/python3/uvicorn/__main__.py --workers 2 a:a";
        assert_eq!(found(&[worker, uvicorn], &[]), ["uvicorn 5s by default"]);
        let one = "uvicorn --timeout-worker-healthcheck 9 a:a";
        assert!(found(&[worker, one], &[]).is_empty());
        let expected = ["uvicorn 9s --timeout-worker-healthcheck 9"];
        assert_eq!(found(&[worker, one], &[("WEB_CONCURRENCY", "4")]), expected);

        let celery = "celery -A app worker --time-limit=60 --soft-time-limit 50.5";
        let expected = [
            "celery 60s --time-limit 60",
            "celery 50.5s --soft-time-limit 50.5",
        ];
        assert_eq!(found(&[celery, celery], &[]), expected);
        assert!(found(&[celery], &[]).is_empty());

        let pytest = "python -m pytest -x --timeout 20 tests";
        assert_eq!(found(&[pytest], &[]), ["pytest-timeout 20s --timeout 20"]);
        let variable = [("PYTEST_TIMEOUT", "7")];
        assert_eq!(
            found(&["pytest"], &variable),
            ["pytest-timeout 7s PYTEST_TIMEOUT 7"]
        );
        assert!(found(&["python x.py"], &variable).is_empty());
        let xdist = "python -u -c import\u{a0}sys;exec(eval(sys.stdin.readline()))";
        assert_eq!(
            found(&[xdist, pytest], &[]),
            ["pytest-timeout 20s --timeout 20"]
        );
        assert!(found(&["python child.py", pytest], &[]).is_empty());

        let name = "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC";
        let expected = ["torch 480s TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC 480"];
        assert_eq!(found(&["python train.py"], &[(name, "480")]), expected);
        let off = [(name, "480"), ("TORCH_NCCL_ENABLE_MONITORING", "0")];
        assert!(found(&["python train.py"], &off).is_empty());
        for odd in ["", "-m", "python", "python -X", "python -m", "-t"] {
            assert!(found(&[odd, odd], &[]).is_empty(), "{odd}");
        }
    }

    fn info(state: State, exit: Option<i64>) -> Info {
        let mut info = Info::example(1);
        (info.state, info.exit) = (state, exit);
        info
    }

    fn gunicorn() -> Lineage {
        let command = "gunicorn --timeout 90 a:a";
        lineage(&[command, command], &[])
    }

    #[test]
    fn the_time_that_is_left() {
        let (mut bench, mut monitor) = (Bench::default(), WatchdogMonitor::default());
        monitor.note(&info(State::Running, None), bench.now, || {
            panic!("it is not stopped")
        });
        monitor.note(&info(State::Stopped, None), bench.now, gunicorn);
        assert!(!monitor.is_empty());
        let mut message = |bench: &Bench| {
            let found = monitor.findings(&bench.context());
            found.first().map(|found| found.message.clone())
        };
        assert_eq!(message(&bench), None, "there is time");
        bench.now += SECOND * 40;
        let text = message(&bench).expect("it is near");
        let expected = "is stopped, and gunicorn kills a worker that is silent for 90 s (--timeout 90): at most 50 s are left";
        assert!(text.contains(expected), "{text}");
        bench.now += SECOND * 70;
        let text = message(&bench).expect("it is over");
        assert!(text.ends_with("that was 20 s ago"), "{text}");
        monitor.note(&info(State::Running, None), bench.now, || {
            panic!("that is known")
        });
        assert!(monitor.findings(&bench.context()).is_empty() && monitor.is_empty());
        // Another stop has its own time.
        monitor.note(&info(State::Stopped, None), bench.now, || {
            panic!("that is known")
        });
        assert!(monitor.findings(&bench.context()).is_empty());
    }

    #[test]
    fn who_has_killed_it() {
        let ends = |stopped: u32, runs: u32, exit: Option<i64>| {
            let (mut bench, mut monitor) = (Bench::default(), WatchdogMonitor::default());
            monitor.note(&info(State::Stopped, None), bench.now, gunicorn);
            bench.now += SECOND * stopped;
            // Its connection breaks first.
            monitor.note(&info(State::Dormant, None), bench.now, || {
                panic!("that is known")
            });
            bench.now += SECOND * runs;
            monitor.end(&bench.context(), &info(State::Ended, exit));
            let found = monitor.findings(&bench.context());
            let found: Vec<String> = found.into_iter().map(|found| found.message).collect();
            bench.now += ENDED;
            assert!(monitor.findings(&bench.context()).is_empty() && monitor.is_empty());
            found
        };
        let text = ends(91, 1, Some(137)).concat();
        let expected = "was ended by signal 9 while it was stopped, after 91 s: most likely gunicorn has killed it (--timeout 90)";
        assert!(text.contains(expected), "{text}");
        assert_eq!(ends(91, 0, None).len(), 1);
        assert_eq!(ends(91, 0, Some(-6)).len(), 1);
        assert!(ends(10, 0, Some(137)).is_empty(), "too soon");
        assert!(ends(91, 10, Some(137)).is_empty(), "it ran");
        assert!(ends(91, 0, Some(0)).is_empty(), "it ended by itself");
    }
}
