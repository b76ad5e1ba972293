//! The monitors together, fed with samples of processes that are not there, by a clock that a test sets.

// The tests of the whole daemon write their samples the same way.
#[path = "../../tests/support/aged.rs"]
mod aged;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::session::Info;
use aged::aged;

/// The step of a test's clock.
pub(super) const SECOND: Duration = Duration::from_secs(1);

fn who(session: SessionId) -> Option<Who> {
    let number = u32::try_from(session.as_u128()).ok()?;
    Some(Who {
        pid: number,
        name: format!("worker-{number}"),
    })
}

/// What the monitors are told in a test.
pub(super) struct Bench {
    pub(super) now: Instant,
    start: (Instant, Timestamp),
    clocks: Clocks,
    settings: Monitoring,
}

impl Default for Bench {
    fn default() -> Self {
        // So that something may be as old as it likes.
        let now = Instant::now() + SECOND * 1_000_000;
        let start = (now, Timestamp::now());
        Bench {
            now,
            start,
            clocks: Clocks::default(),
            settings: Monitoring::default(),
        }
    }
}

impl Bench {
    pub(super) fn context(&self) -> Context<'_> {
        Context {
            now: self.now,
            time: self.start.1 + (self.now - self.start.0),
            clocks: &self.clocks,
            settings: &self.settings,
            who: &who,
        }
    }
}

/// A monitor, and processes that say each second how they stand.
struct Daemon {
    monitor: ResourceMonitor,
    now: Instant,
    start: (Instant, Timestamp),
    /// By session, what it says; a number of seconds in it stands for the moment when it began.
    says: HashMap<u128, Value>,
    told: Vec<(u64, Alert)>,
}

impl Daemon {
    fn new() -> Daemon {
        let now = Instant::now() + SECOND * 1_000_000;
        Daemon {
            monitor: ResourceMonitor::new(Monitoring::default(), now),
            now,
            start: (now, Timestamp::now()),
            says: HashMap::new(),
            told: Vec::new(),
        }
    }

    fn moment(&self) -> Moment<'static> {
        Moment {
            now: self.now,
            time: self.start.1 + (self.now - self.start.0),
            who: &who,
        }
    }

    /// How many seconds it has run.
    fn second(&self) -> u64 {
        (self.now - self.start.0).as_secs()
    }

    fn says(&mut self, session: u128, sample: Value) {
        self.says.insert(session, sample);
    }

    /// Lets seconds pass.
    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += SECOND;
            let age = self.second() as f64;
            for (session, sample) in self.says.clone() {
                let sample = Sample::read(&aged(sample, age).to_string()).expect("it can be read");
                self.monitor
                    .on_sample(&self.moment(), Uuid::from_u128(session), 1, sample);
            }
            let (second, moment) = (self.second(), self.moment());
            let told = self.monitor.look(&moment);
            self.told
                .extend(told.into_iter().map(|alert| (second, alert)));
        }
    }

    fn is(&mut self, session: u128, state: State) {
        let info = self.info(session, state);
        self.monitor.on_session(&info, self.now);
    }

    fn ends(&mut self, session: u128, exit: Option<i64>) {
        self.says.remove(&session);
        let mut info = self.info(session, State::Ended);
        info.exit = exit;
        info.ended = Some(info.started);
        self.monitor.on_end(&self.moment(), &info);
    }

    fn info(&self, session: u128, state: State) -> Info {
        Info {
            name: "script.py".into(),
            state,
            started: self.moment().time,
            ..Info::example(session as u32)
        }
    }

    /// What was told since it was last asked: when, what became of it, what kind, of which session.
    fn told(&mut self) -> Vec<(u64, Reason, Kind)> {
        let told = std::mem::take(&mut self.told).into_iter();
        told.map(|(second, alert)| (second, alert.reason, alert.finding.kind))
            .collect()
    }

    fn open(&self) -> Vec<Finding> {
        let all = self.monitor.findings.list(self.moment().time, &|_| true);
        let all = all.into_iter();
        all.filter(|finding| finding.ended.is_none())
            .cloned()
            .collect()
    }
}

/// Somebody who holds or waits, since then, in this line.
fn one(thread: u64, task: Option<&str>, line: u32, from: u64) -> Value {
    let actor = json!({ "thread": thread, "name": format!("Thread-{thread}"), "task": task, "taskName": task });
    json!({ "actor": actor, "site": ["/srv/app.py", line], "from": from })
}

fn lock(name: &str, kind: &str, holders: &[Value], waiters: &[Value]) -> Value {
    let shared = kind.starts_with("multiprocessing").then_some(name);
    json!({ "id": name, "name": name, "kind": kind, "shared": shared, "holders": holders, "waiters": waiters,
            "waiterCount": waiters.len(), "acquisitions": 1, "longest": 0.0 })
}

fn locks(locks: &[Value]) -> Value {
    json!({ "locks": { "total": locks.len(), "dropped": 0, "locks": locks } })
}

fn tasks(total: u64, tasks: &[Value]) -> Value {
    json!({ "loops": [{ "thread": { "thread": 1, "name": "MainThread" }, "blocked": null, "tasks": total }],
            "tasks": { "total": total, "tasks": tasks } })
}

fn task(id: &str, from: u64, awaits: Option<&str>) -> Value {
    json!({ "id": id, "name": id, "coroutine": "work", "state": "waiting", "from": from, "awaits": awaits,
            "chain": [["main", "/srv/app.py", 3], ["work", "/srv/app.py", 7]] })
}

use Reason::{Ended, Opened};

#[test]
fn a_lock_held_for_31_seconds_is_found_at_30() {
    let mut daemon = Daemon::new();
    let held = [one(1, None, 12, 0)];
    daemon.says(
        1,
        locks(&[lock("db", "threading.Lock", &held, &[one(2, None, 20, 5)])]),
    );
    daemon.pass(29);
    assert_eq!(daemon.told(), []);
    daemon.pass(2);
    assert_eq!(daemon.told(), [(30, Opened, Kind::LockHeld)]);
    let finding = &daemon.open()[0];
    for part in [
        "`db`",
        "Thread-1 of worker-1 (1)",
        "app.py:12",
        "1 waits",
        "app.py:20",
    ] {
        assert!(finding.message.contains(part), "{}", finding.message);
    }
    assert_eq!((finding.pid, finding.sites[0].line), (Some(1), 12));
    daemon.says(1, locks(&[lock("db", "threading.Lock", &[], &[])]));
    daemon.pass(3);
    assert_eq!(daemon.told(), [(33, Ended, Kind::LockHeld)]);
}

#[test]
fn a_lock_is_not_held_while_its_process_is_stopped() {
    let mut daemon = Daemon::new();
    daemon.says(
        1,
        locks(&[lock("db", "threading.Lock", &[one(1, None, 12, 0)], &[])]),
    );
    daemon.pass(10);
    daemon.is(1, State::Stopped);
    daemon.pass(60);
    let report = daemon
        .monitor
        .report(&daemon.moment(), None, &[daemon.info(1, State::Stopped)]);
    assert_eq!(
        (&report["locks"][0]["held"], &report["locks"][0]["stopped"]),
        (&json!(10.0), &json!(true))
    );
    daemon.is(1, State::Running);
    daemon.pass(19);
    assert_eq!(daemon.told(), []);
    daemon.pass(1);
    assert_eq!(daemon.told(), [(90, Opened, Kind::LockHeld)]);
}

#[test]
fn a_cycle_of_two_threads_is_found_and_gone() {
    let mut daemon = Daemon::new();
    daemon.pass(1);
    let (a, b) = (
        lock(
            "a",
            "threading.Lock",
            &[one(1, None, 3, 1)],
            &[one(2, None, 9, 2)],
        ),
        lock(
            "b",
            "threading.RLock",
            &[one(2, None, 8, 1)],
            &[one(1, None, 4, 2)],
        ),
    );
    daemon.says(1, locks(&[a, b]));
    daemon.pass(40);
    // They are not told of once more because they are held for so long.
    assert_eq!(daemon.told(), [(3, Opened, Kind::LockCycle)]);
    let finding = &daemon.open()[0];
    assert_eq!(
        finding.message,
        "deadlock: Thread-1 of worker-1 (1) holds `a` (threading.Lock) (app.py:3) and waits for `b` (threading.RLock) \
         (app.py:4); Thread-2 of worker-1 (1) holds `b` (threading.RLock) (app.py:8) and waits for `a` (threading.Lock) \
         (app.py:9)"
    );
    let lines: Vec<u32> = finding.sites.iter().map(|site| site.line).collect();
    assert_eq!(lines, [3, 4, 8, 9]);
    daemon.says(
        1,
        locks(&[lock("a", "threading.Lock", &[one(1, None, 3, 1)], &[])]),
    );
    daemon.pass(3);
    let gone = (43, Ended, Kind::LockCycle);
    assert!(daemon.told().contains(&gone));
}

#[test]
fn a_cycle_of_two_tasks_and_of_tasks_that_wait_for_each_other() {
    let mut daemon = Daemon::new();
    let (a, b) = (
        lock(
            "a",
            "asyncio.Lock",
            &[one(1, Some("t1"), 3, 0)],
            &[one(1, Some("t2"), 9, 0)],
        ),
        lock(
            "b",
            "asyncio.Lock",
            &[one(1, Some("t2"), 8, 0)],
            &[one(1, Some("t1"), 4, 0)],
        ),
    );
    daemon.says(1, locks(&[a, b]));
    daemon.says(
        2,
        tasks(2, &[task("t1", 0, Some("t2")), task("t2", 0, Some("t1"))]),
    );
    daemon.pass(2);
    let told = daemon.told();
    assert_eq!(
        told,
        [(1, Opened, Kind::LockCycle), (2, Opened, Kind::TaskCycle)]
    );
    let open = daemon.open();
    assert!(
        open[0]
            .message
            .contains("task t1 of worker-1 (1) holds `a`"),
        "{open:?}"
    );
    assert!(
        open[1]
            .message
            .contains("task t1 of worker-2 (2) waits for the end of task t2"),
        "{open:?}"
    );
    // They are not told of once more because they have run for so long; another one of the coroutine is.
    let other = tasks(
        3,
        &[
            task("t1", 0, Some("t2")),
            task("t2", 0, Some("t1")),
            task("t3", 0, None),
        ],
    );
    daemon.says(2, other);
    daemon.pass(20);
    assert_eq!(daemon.told(), [(10, Opened, Kind::TaskLong)]);
    let open = daemon.open();
    let long = open.iter().find(|finding| finding.kind == Kind::TaskLong);
    let message = long.map_or("", |finding| &finding.message);
    assert!(
        message.starts_with("task t3 ") && !message.contains("others"),
        "{message}"
    );
    // A task that waits for one that holds the lock which it waits for.
    let mut daemon = Daemon::new();
    let mut sample = tasks(2, &[task("t1", 0, Some("t2")), task("t2", 0, None)]);
    let held = lock(
        "a",
        "asyncio.Lock",
        &[one(1, Some("t1"), 3, 0)],
        &[one(1, Some("t2"), 9, 0)],
    );
    sample["locks"] = locks(&[held])["locks"].take();
    daemon.says(1, sample);
    daemon.pass(3);
    assert_eq!(daemon.told(), [(2, Opened, Kind::LockCycle)]);
}

#[test]
fn a_task_does_not_let_go_while_its_thread_is_blocked() {
    let mut daemon = Daemon::new();
    let held = lock(
        "a",
        "threading.Lock",
        &[one(1, Some("t1"), 3, 0)],
        &[one(1, Some("t2"), 9, 0)],
    );
    daemon.says(1, locks(&[held]));
    daemon.pass(1);
    assert_eq!(daemon.told(), [(1, Opened, Kind::LockCycle)]);
    assert!(
        daemon.open()[0].message.contains("its thread"),
        "{:?}",
        daemon.open()
    );
}

#[test]
fn a_cycle_of_two_processes() {
    let mut daemon = Daemon::new();
    let (mine, theirs) = (one(1, None, 3, 0), one(1, None, 4, 1));
    let of = |held: &str, wanted: &str| {
        let kind = "multiprocessing.Lock";
        let (held, wanted) = (
            lock(held, kind, std::slice::from_ref(&mine), &[]),
            lock(wanted, kind, &[], std::slice::from_ref(&theirs)),
        );
        locks(&[held, wanted])
    };
    daemon.says(1, of("a", "b"));
    daemon.says(2, of("b", "a"));
    daemon.pass(3);
    assert_eq!(daemon.told(), [(2, Opened, Kind::LockCycle)]);
    let finding = &daemon.open()[0];
    assert_eq!(finding.sessions.len(), 2);
    assert!(finding.message.contains("worker-1 (1)") && finding.message.contains("worker-2 (2)"));
    // While one of them is stopped, nobody can say that it waits.
    let mut daemon = Daemon::new();
    daemon.says(1, of("a", "b"));
    daemon.says(2, of("b", "a"));
    daemon.is(1, State::Stopped);
    daemon.pass(100);
    assert!(
        daemon
            .told()
            .iter()
            .all(|(_, _, kind)| *kind != Kind::LockCycle)
    );
}

#[test]
fn a_lock_that_processes_share_is_one() {
    let mut daemon = Daemon::new();
    let kind = "multiprocessing.Lock";
    let mut of = |session: u128, name: &str, holders: &[Value], waiters: &[Value]| {
        let mut lock = lock("/mp-1", kind, holders, waiters);
        lock["name"] = name.into();
        lock["id"] = session.to_string().into();
        daemon.says(session, locks(&[lock]));
    };
    of(1, "unknown", &[], &[one(4, None, 20, 9)]);
    of(2, "unknown", &[one(5, None, 12, 1)], &[]);
    of(3, "jobs", &[], &[one(6, None, 30, 2), one(7, None, 30, 3)]);
    let maker = daemon.says.get_mut(&3).expect("it says something");
    maker["locks"]["locks"][0]["site"] = json!(["/srv/app.py", 1]);
    // It has been handed its own once more.
    let again = lock("/mp-1", kind, &[], &[]);
    let list = maker["locks"]["locks"].as_array_mut().expect("a list");
    list.push(again);
    daemon.pass(31);
    let infos = [1, 2, 3].map(|session| daemon.info(session, State::Running));
    // Who asks for one of them is told of all.
    for infos in [&infos[..], &infos[..1]] {
        let moment = daemon.moment();
        let report = daemon.monitor.report(&moment, Some(Part::Locks), infos);
        let rows = report["locks"].as_array().expect("a list");
        assert_eq!(rows.len(), 1, "{report}");
        let row = &rows[0];
        assert_eq!(
            (&row["pid"], &row["lock"], &row["site"]["line"]),
            (&json!(2), &json!("jobs"), &json!(1))
        );
        assert_eq!(
            [&row["processes"], &row["acquisitions"], &row["waiterCount"]],
            [&json!(3), &json!(4), &json!(3)]
        );
        assert_eq!(row["holders"][0]["name"], "worker-2");
        let waiters = row["waiters"].as_array().expect("a list").iter();
        let pids: Vec<u64> = waiters.filter_map(|one| one["pid"].as_u64()).collect();
        assert_eq!(pids, [3, 3, 1], "who waits longest is first");
        assert_eq!(report["summary"]["locks"], 1);
        let text = text::show("monitor", &report);
        for part in [
            "3 processes  jobs",
            "worker-2 · Thread-5",
            "worker-3 · Thread-6 +2",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let open = daemon.open();
    assert_eq!(open.len(), 1, "{open:?}");
    let message = &open[0].message;
    assert!(
        message.starts_with(
            "`jobs` (multiprocessing.Lock) has been held for 30 s by Thread-5 of worker-2 (2)"
        ) && message.ends_with("; 3 wait for it, first Thread-6 of worker-3 (3) at app.py:30"),
        "{message}"
    );
    assert_eq!(open[0].sessions.len(), 3);
}

#[test]
fn a_lock_whose_holder_has_ended_is_a_leak() {
    let mut daemon = Daemon::new();
    let mut leaked = lock("a", "threading.Lock", &[one(1, None, 3, 0)], &[]);
    leaked["leaked"] = true.into();
    daemon.says(1, locks(&[leaked]));
    daemon.pass(1);
    assert_eq!(daemon.told(), [(1, Opened, Kind::LockLeak)]);
    // Or its whole process: as long as somebody waits for it.
    let mut daemon = Daemon::new();
    let kind = "multiprocessing.Lock";
    daemon.says(1, locks(&[lock("a", kind, &[one(1, None, 3, 0)], &[])]));
    daemon.says(2, locks(&[lock("a", kind, &[], &[one(1, None, 5, 0)])]));
    daemon.pass(5);
    daemon.ends(1, None);
    daemon.pass(200);
    let told: Vec<_> = daemon
        .told()
        .into_iter()
        .filter(|told| told.1 == Opened)
        .collect();
    assert_eq!(told, [(6, Opened, Kind::LockLeak)]);
    assert_eq!(daemon.open().len(), 1);
    daemon.says(2, locks(&[lock("a", kind, &[one(1, None, 5, 200)], &[])]));
    daemon.pass(3);
    assert_eq!(daemon.open().len(), 0);
    // Or as long as somebody who can ask it says that it is held.
    for (locked, is_open) in [
        (json!(true), true),
        (json!(false), false),
        (json!(null), false),
    ] {
        let mut daemon = Daemon::new();
        daemon.says(1, locks(&[lock("a", kind, &[one(1, None, 3, 0)], &[])]));
        daemon.pass(1);
        daemon.ends(1, None);
        daemon.pass(1);
        assert_eq!(daemon.open().len(), 1);
        let mut known = lock("a", kind, &[], &[]);
        known["locked"] = locked.clone();
        for _ in 0..20 {
            daemon.says(2, locks(std::slice::from_ref(&known)));
            daemon.pass(5);
        }
        assert_eq!(daemon.open().len(), usize::from(is_open), "{locked}");
        if is_open {
            // Who waits for it is told, too.
            daemon.says(2, locks(&[lock("a", kind, &[], &[one(1, None, 5, 0)])]));
            daemon.pass(1);
            let open = daemon.open();
            let message = &open[0].message;
            assert!(message.contains("by Thread-1 of worker-1 (1), which has ended; 1 waits for it, first Thread-1 of worker-2"), "{message}");
            assert_eq!((open[0].sites.len(), open[0].sessions.len()), (2, 2));
        }
    }
    // What its parent has taken is the parent's, and a semaphore may be a signal.
    let mut daemon = Daemon::new();
    let mut inherited = lock("a", "threading.Lock", &[one(1, None, 3, 0)], &[]);
    inherited["acquisitions"] = 0.into();
    let signal = lock("b", "threading.Semaphore", &[one(1, None, 4, 0)], &[]);
    daemon.says(1, locks(&[inherited, signal]));
    daemon.pass(5);
    daemon.ends(1, Some(0));
    daemon.pass(5);
    assert_eq!(daemon.told(), []);
    // Its own ones are one finding.
    let mut daemon = Daemon::new();
    let own: Vec<Value> = (0..8)
        .map(|id| {
            lock(
                &format!("l{id}"),
                "threading.Lock",
                &[one(1, None, 3, 0)],
                &[],
            )
        })
        .collect();
    daemon.says(1, locks(&own));
    daemon.pass(1);
    daemon.ends(1, Some(9));
    daemon.pass(1);
    let open = daemon.open();
    assert_eq!((open.len(), open[0].count), (1, 1));
    let message = &open[0].message;
    assert!(
        message.contains("has ended with the exit code 9 and held `l0` (threading.Lock), taken by"),
        "{message}"
    );
    assert!(message.ends_with("and 3 more"), "{message}");
    // Who ends properly has let go of its own since its last sample.
    let mut daemon = Daemon::new();
    daemon.says(
        1,
        locks(&[lock("a", "threading.Lock", &[one(1, None, 3, 0)], &[])]),
    );
    daemon.pass(1);
    daemon.says(
        1,
        locks(&[lock("a", "threading.Lock", &[one(1, None, 3, 1)], &[])]),
    );
    daemon.ends(1, Some(0));
    daemon.pass(2);
    assert!(daemon.told().len() <= 1);
}

#[test]
fn tasks_that_run_for_long_are_one_finding_a_coroutine() {
    let mut daemon = Daemon::new();
    let all: Vec<Value> = (0..100)
        .map(|id| task(&format!("t{id}"), 0, None))
        .collect();
    daemon.says(1, tasks(100, &all));
    daemon.pass(9);
    assert_eq!(daemon.told(), []);
    daemon.pass(2);
    assert_eq!(daemon.told(), [(10, Opened, Kind::TaskLong)]);
    let finding = &daemon.open()[0];
    assert!(
        finding.message.contains("and 99 others of `work`"),
        "{}",
        finding.message
    );
    assert_eq!((finding.count, finding.sites[0].line), (1, 7));
}

#[test]
fn tasks_that_do_not_fit_into_a_sample_are_counted() {
    let mut daemon = Daemon::new();
    let all: Vec<Value> = (0..200)
        .map(|id| task(&format!("t{id}"), 0, None))
        .collect();
    for process in [1, 2] {
        daemon.says(process, tasks(2500, &all));
    }
    daemon.pass(11);
    let message = daemon.open()[0].message.clone();
    assert!(
        message.contains("and at least 199 others of `work`"),
        "{message}"
    );
    let moment = daemon.moment();
    let infos = [1, 2].map(|process| daemon.info(process, State::Running));
    let text = daemon.monitor.summary(&moment, &infos);
    assert!(text.contains("\nTasks (5000):\n"), "{text}");
    assert!(text.contains("\n  … and 4600 more\n"), "{text}");
    let one = daemon.monitor.report(&moment, None, &infos[..1]);
    assert_eq!(one["summary"]["rows"]["tasks"], 2500, "only its own");
}

#[test]
fn a_blocked_loop_is_found_with_its_line() {
    let mut daemon = Daemon::new();
    let mut sample = tasks(0, &[]);
    let blocked =
        json!({ "age": 0.2, "stack": [["sleep", "/srv/app.py", 9], ["main", "/srv/app.py", 3]] });
    sample["loops"][0]["blocked"] = blocked;
    daemon.says(1, sample.clone());
    daemon.is(1, State::Stopped);
    daemon.pass(3);
    assert_eq!(daemon.told(), []);
    daemon.is(1, State::Running);
    daemon.pass(2);
    assert_eq!(daemon.told().len(), 1);
    let finding = &daemon.open()[0];
    assert!(
        finding.message.contains("200 ms by `sleep` at app.py:9"),
        "{}",
        finding.message
    );
    daemon.says(1, tasks(0, &[]));
    daemon.pass(20);
    assert_eq!(daemon.open().len(), 0);
    // One that was over when the sample was taken.
    let mut sample = tasks(0, &[]);
    sample["loops"][0]["blocks"] = 3.into();
    sample["loops"][0]["longest_block"] = 0.5.into();
    daemon.says(1, sample);
    daemon.pass(2);
    assert!(daemon.open()[0].message.contains("for up to 500 ms"));
    assert_eq!(daemon.open()[0].kind, Kind::LoopBlocked);
    // Where that was, it may say; and whether it began before the last sample does not matter.
    let mut sample = tasks(0, &[]);
    sample["loops"][0]["last_block"] =
        json!({ "age": 0.7, "stack": [["read", "/srv/app.py", 5]], "task": null });
    daemon.says(1, sample);
    daemon.pass(2);
    let message = daemon.open()[0].message.clone();
    let expected = "again and again, for up to 700 ms by `read` at app.py:5";
    assert!(message.contains(expected), "{message}");
    assert_eq!(daemon.open()[0].sites[0].line, 5);
}

#[test]
fn a_blocked_loop_is_blamed_on_what_blocked_it_longest() {
    let mut daemon = Daemon::new();
    let by = |function: &str, line: u64, age: f64| json!({ "age": age, "stack": [[function, "/srv/mis.py", line]] });
    let sample = |blocks: u64, longest: f64, now: Value, last: Value| {
        let mut sample = tasks(0, &[]);
        sample["loops"][0]["blocks"] = blocks.into();
        sample["loops"][0]["longest_block"] = longest.into();
        sample["loops"][0]["blocked"] = now;
        sample["loops"][0]["last_block"] = last;
        sample
    };
    let told = |daemon: &Daemon| {
        let finding = &daemon.open()[0];
        let lines: Vec<_> = finding.sites.iter().map(|site| site.line).collect();
        (finding.message.clone(), lines)
    };
    daemon.says(1, sample(1, 2.5, by("big", 3, 2.5), Value::Null));
    daemon.pass(1);
    let (message, lines) = told(&daemon);
    assert!(
        message.ends_with("has been blocked for 2.5 s by `big` at mis.py:3"),
        "{message}"
    );
    assert_eq!(lines, [3]);
    // It ends before the next sample, and the last of those after it is told of.
    daemon.says(1, sample(2, 3.0, Value::Null, by("small", 6, 0.15)));
    let expected =
        "again and again, for up to 3.0 s by `big` at mis.py:3, and last by `small` at mis.py:6";
    for _ in 0..3 {
        daemon.pass(1);
        let (message, lines) = told(&daemon);
        assert!(message.ends_with(expected), "{message}");
        assert_eq!(lines, [3, 6]);
        daemon.says(1, sample(2, 0.2, by("small", 6, 0.12), by("other", 9, 0.2)));
    }
    // Nobody is blamed for what nobody has seen.
    daemon.says(1, sample(1, 0.12, Value::Null, by("small", 6, 0.12)));
    daemon.pass(1);
    daemon.says(1, sample(2, 4.0, Value::Null, by("small", 6, 0.15)));
    daemon.pass(1);
    let (message, lines) = told(&daemon);
    let expected = "again and again, for up to 4.0 s, and last by `small` at mis.py:6";
    assert!(message.ends_with(expected), "{message}");
    assert_eq!(lines, [6]);
}

#[test]
fn what_is_said_of_blocked_loops_agrees() {
    let mut daemon = Daemon::new();
    let blocked = |longest: f64, blocked: Value| {
        let mut sample = tasks(0, &[]);
        sample["loops"][0]["blocks"] = 1.into();
        sample["loops"][0]["longest_block"] = longest.into();
        sample["loops"][0]["blocked"] = blocked;
        sample
    };
    let row = |daemon: &mut Daemon| {
        let moment = daemon.moment();
        let infos = [daemon.info(1, State::Running)];
        let report = daemon.monitor.report(&moment, Some(Part::Tasks), &infos);
        let row = &report["loops"][0];
        (row["blocked"].as_f64(), row["longestBlock"].as_f64())
    };
    daemon.says(1, blocked(2.5, Value::Null));
    daemon.pass(1);
    assert_eq!(row(&mut daemon), (None, Some(2.5)));
    assert!(daemon.open()[0].message.contains("was blocked for 2.5 s"));
    // It is blocked again, for less long: it is told of both.
    daemon.says(1, blocked(0.5, json!({ "age": 0.5 })));
    daemon.pass(1);
    assert_eq!(row(&mut daemon), (Some(0.5), Some(2.5)));
    let message = daemon.open()[0].message.clone();
    assert!(
        message.contains("again and again, for up to 2.5 s"),
        "{message}"
    );
    // How it goes on is not known before the next sample.
    daemon.now += SECOND;
    assert_eq!(row(&mut daemon), (Some(0.5), Some(2.5)));
    daemon.says(1, tasks(0, &[]));
    daemon.pass(1);
    assert_eq!(row(&mut daemon), (None, Some(2.5)));
    let message = daemon.open()[0].message.clone();
    assert!(
        message.contains("again and again, for up to 2.5 s"),
        "{message}"
    );
    // One that goes on is the longest before it is over.
    daemon.says(1, blocked(3.0, json!({ "age": 3.0 })));
    daemon.pass(1);
    assert_eq!(row(&mut daemon), (Some(3.0), Some(3.0)));
    let message = daemon.open()[0].message.clone();
    assert!(message.contains("has been blocked for 3.0 s"), "{message}");
    // What was long ago is no part of a new finding, and still the longest that there was.
    daemon.says(1, tasks(0, &[]));
    daemon.pass(20);
    assert_eq!(daemon.open().len(), 0);
    daemon.says(1, blocked(0.5, Value::Null));
    daemon.pass(1);
    assert_eq!(row(&mut daemon), (None, Some(3.0)));
    let message = daemon.open()[0].message.clone();
    assert!(message.contains("was blocked for 500 ms"), "{message}");
}

#[test]
fn exceptions_that_nobody_asks_for_and_tasks_that_only_grow() {
    let mut daemon = Daemon::new();
    let mut sample = tasks(1, &[]);
    sample["tasks"]["unretrieved"] =
        json!([{ "task": "t1", "message": "ValueError: no", "site": ["/srv/app.py", 5] }]);
    daemon.says(1, sample);
    daemon.pass(1);
    daemon.says(1, tasks(1, &[]));
    daemon.pass(70);
    let told = daemon.told();
    assert_eq!(told.first(), Some(&(1, Opened, Kind::TaskException)));
    assert_eq!(told.last().map(|told| told.1), Some(Ended));
    for second in 0..70 {
        daemon.says(1, tasks(10 * second, &[]));
        daemon.pass(1);
    }
    assert_eq!(
        daemon.told().last().map(|told| told.2),
        Some(Kind::TaskGrowth)
    );
}

#[test]
fn sessions_that_wait_that_flap_and_that_stay_open() {
    let mut daemon = Daemon::new();
    daemon.is(1, State::Held);
    daemon.pass(9);
    assert_eq!(daemon.told(), []);
    daemon.pass(1);
    assert_eq!(daemon.told(), [(10, Opened, Kind::SessionWaiting)]);
    daemon.is(1, State::Running);
    daemon.pass(3);
    assert_eq!(daemon.told(), [(12, Ended, Kind::SessionWaiting)]);
    for number in 0..5 {
        assert_eq!(daemon.told(), []);
        daemon.ends(100 + number, Some(1));
        daemon.pass(1);
    }
    assert_eq!(daemon.told(), [(18, Opened, Kind::SessionFlapping)]);
    daemon.pass(100);
    assert!(!daemon.monitor.is_busy(), "nothing is left to look at");
}

#[test]
fn a_liar_harms_its_own_rows_only() {
    let mut daemon = Daemon::new();
    let million: Vec<Value> = (0..5000)
        .map(|id| {
            lock(
                &format!("{id}"),
                "threading.Lock",
                &[one(id, None, 1, 0)],
                &[one(id + 1, None, 1, 0)],
            )
        })
        .collect();
    daemon.says(1, locks(&million[..2000]));
    daemon.says(
        2,
        locks(&[lock("db", "threading.Lock", &[one(1, None, 12, 0)], &[])]),
    );
    daemon.pass(31);
    assert!(daemon.open().iter().any(|finding| finding.pid == Some(2)));
    assert!(daemon.open().len() <= findings::MAX_OPEN_OF_SESSION + 1);
    let infos = [
        daemon.info(1, State::Running),
        daemon.info(2, State::Running),
    ];
    let report = daemon.monitor.report(&daemon.moment(), None, &infos);
    let dropped = &report["summary"]["dropped"];
    assert!(
        dropped[0]["message"]
            .as_str()
            .is_some_and(|message| message.starts_with("55800 × ")),
        "{dropped}"
    );
    let own = daemon
        .monitor
        .report(&daemon.moment(), Some(Part::Locks), &infos[1..]);
    assert_eq!(own["locks"].as_array().map(Vec::len), Some(1));
    assert_eq!(own["summary"]["dropped"], json!([]));
    assert!(own.get("tasks").is_none() && own.get("findings").is_none());
}

#[test]
fn who_says_that_it_has_another_processes_lock_does_not_hide_who_has_it() {
    let mut daemon = Daemon::new();
    let kind = "multiprocessing.Lock";
    daemon.says(
        2,
        locks(&[lock("/mp-1", kind, &[one(1, None, 12, 1)], &[])]),
    );
    for liar in [1, 3] {
        daemon.says(
            liar,
            locks(&[lock("/mp-1", kind, &[one(7, None, 9, 0)], &[])]),
        );
    }
    daemon.pass(32);
    let open = daemon.open();
    let of = |pid| open.iter().find(|finding| finding.pid == Some(pid));
    let finding = of(2).expect("it has held it for 31 seconds");
    assert_eq!(finding.sessions, [Uuid::from_u128(2)]);
    assert!(
        finding.message.contains("worker-2 (2) at app.py:12"),
        "{finding:?}"
    );
    assert_eq!(open.len(), 3, "{open:?}");
}

#[test]
fn what_ended_long_ago_is_not_reported() {
    let mut daemon = Daemon::new();
    let held = lock("db", "threading.Lock", &[one(1, None, 12, 0)], &[]);
    daemon.says(1, locks(&[held]));
    daemon.pass(31);
    daemon.says(1, locks(&[]));
    daemon.pass(3);
    let minutes_ago = |daemon: &Daemon, number: u32, minutes: i64| {
        let ended = daemon.moment().time - jiff::SignedDuration::from_mins(minutes);
        Info {
            state: State::Ended,
            ended: Some(ended),
            ..daemon.info(number.into(), State::Ended)
        }
    };
    let report = |daemon: &mut Daemon| {
        let infos = [
            minutes_ago(daemon, 4, 5),
            minutes_ago(daemon, 3, 11),
            minutes_ago(daemon, 2, 1),
            daemon.info(1, State::Running),
        ];
        let moment = daemon.moment();
        let report = daemon.monitor.report(&moment, None, &infos);
        let rows = report["sessions"].as_array().expect("a list").clone();
        let pids: Vec<u64> = rows.iter().filter_map(|row| row["pid"].as_u64()).collect();
        (pids, report)
    };
    let (pids, before) = report(&mut daemon);
    assert_eq!(pids, [1, 2, 4]);
    assert!(before["findings"][0]["ended"].is_string(), "{before}");
    daemon.pass(RECENT.as_secs());
    let (pids, later) = report(&mut daemon);
    assert_eq!(pids, [1, 2, 4]);
    assert_eq!(later["findings"], json!([]));
}

#[test]
fn numbers_without_end_are_cut_off() {
    let mut daemon = Daemon::new();
    let most = |mut value: Value, names: &[&str]| {
        for name in names {
            value[name] = u64::MAX.into();
        }
        value
    };
    let counts = ["waiterCount", "acquisitions", "contended", "timeouts"];
    let held = lock("db", "threading.Lock", &[one(1, None, 12, 0)], &[]);
    let mut sample = most(locks(&[most(held, &counts)]), &[]);
    sample["locks"] = most(sample["locks"].take(), &["total", "dropped"]);
    sample["loops"] = json!([most(
        json!({ "thread": { "thread": 1 }, "longest_block": 5.0 }),
        &["tasks", "blocks"]
    )]);
    let ends = [
        "total",
        "dropped",
        "created",
        "completed",
        "failed",
        "cancelled",
    ];
    sample["tasks"] = most(json!({ "tasks": [task("t1", 0, None)] }), &ends);
    sample["cost"] = 1e308.into();
    daemon.says(1, sample.clone());
    daemon.says(2, sample);
    daemon.pass(31);
    let statistics = daemon.monitor.statistics(daemon.now);
    assert!(statistics["cost"]["agents"].is_f64(), "{statistics}");
    assert_eq!(statistics["tasksFailed"], 1_u64 << 41);
    assert_eq!(statistics["acquisitions"], 1_u64 << 41);
    assert_eq!(daemon.open().len(), 6);
}

#[test]
fn what_an_agent_said_goes_with_it() {
    let mut daemon = Daemon::new();
    let id = Uuid::from_u128(1);
    let held = locks(&[lock("db", "threading.Lock", &[one(1, None, 12, 0)], &[])]);
    daemon.says(1, held);
    daemon.pass(31);
    assert_eq!(daemon.open().len(), 1);
    daemon.says.clear();
    // Another one has taken its place meanwhile.
    daemon.monitor.on_gone(id, 7, daemon.now);
    daemon.pass(5);
    assert_eq!(daemon.open().len(), 1);
    daemon.monitor.on_gone(id, 1, daemon.now);
    daemon.pass(5);
    assert_eq!(daemon.open().len(), 0);
    assert!(!daemon.monitor.is_busy());
}

#[test]
fn a_report_for_people() {
    let mut daemon = Daemon::new();
    let held = [one(1, None, 12, 0)];
    let mut sample = tasks(1, &[task("t1", 0, None)]);
    sample["locks"] = locks(&[lock(
        "db\u{1b}[2J",
        "threading.Lock",
        &held,
        &[one(2, None, 20, 5)],
    )])["locks"]
        .take();
    daemon.says(1, sample);
    daemon.pass(35);
    for finding in daemon.open() {
        assert!(!finding.message.contains(char::is_control), "{finding:?}");
    }
    let text = daemon
        .monitor
        .summary(&daemon.moment(), &[daemon.info(1, State::Running)]);
    assert!(
        text.starts_with("2 findings:\n\n! lock-held: `db"),
        "{text}"
    );
    for part in [
        "since ",
        "where   /srv/app.py:12",
        "advice  ",
        "Locks (1):",
        "Tasks (1):",
        "Sessions (1):",
        "Host: ",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(!text.contains('\u{1b}'));
}
