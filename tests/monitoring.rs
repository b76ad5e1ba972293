//! The monitor from end to end: real programs with their agents, a real daemon, and what an IDE's console, the verbs and
//! the command line say of deadlocks, leaks and blocked loops; and that it is over when it is.

mod support;

use serde_json::{Value, json};
use support::http::http;
use support::report::{gone, open, report};
use support::{Client, Daemon, Ended, Program, Python, Script};

/// A daemon that looks often, and whose patience with locks is short.
async fn daemon() -> Daemon {
    let held = ["--monitor-lock-held", "1"];
    Daemon::with(&[&["--monitor-interval", "0.1"], &held[..]].concat()).await
}

/// Starts a script with everything monitored.
async fn start(python: &Python, daemon: &Daemon, script: &Script) -> Program {
    let mut command = python.attached(daemon).await;
    command
        .env("DBGPROXY_MONITOR", "locks,tasks")
        .arg(script.path());
    Program::start(command)
}

/// The report as soon as there is a finding that has to do with the line, and that finding.
async fn found_at(daemon: &Daemon, kind: &str, script: &Script, marker: &str) -> (Value, Value) {
    let at = site(script, marker);
    let is_it = |it: &&Value| it["sites"].as_array().is_some_and(|all| all.contains(&at));
    let what = format!("{kind} at {marker}");
    let report = report(daemon, &what, |it| open(it, kind).iter().any(is_it)).await;
    let finding = open(&report, kind).into_iter().find(is_it).cloned();
    (report, finding.unwrap_or_default())
}

fn site(script: &Script, marker: &str) -> Value {
    json!({ "file": script.path(), "line": script.line(marker) })
}

/// What a program does until it is debugged: only then breakpoints that it comes by are sure to be in force.
const UNTIL_DEBUGGED: &str = "\
import time
go = False
def is_ready():
    return go  # READY
while not is_ready(): time.sleep(0.01)
";

/// A client that lets such a program go on to these breakpoints.
async fn debug(daemon: &Daemon, script: &Script, more: &Value, lines: &[i64]) -> Client {
    report(daemon, "a process", |it| it["sessions"][0].is_object()).await;
    let mut arguments = more.clone();
    arguments["view"] = "merged".into();
    let ready = script.line("# READY");
    let client = Client::start(daemon).arguments(&arguments);
    let client = client.breakpoints(script.path(), &[ready]);
    let mut client = client.attached().await;
    let stopped = client.stopped_at(ready).await;
    let stack = client.stack(stopped.thread).await;
    client
        .evaluate("globals().update(go=True)", &stack[0])
        .await;
    let lines: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
    client.set_breakpoints(script.path(), &lines).await;
    client.continue_(stopped.thread).await;
    client
}

/// What a line of the console is answered.
async fn console(client: &mut Client, line: &str) -> String {
    let arguments = json!({ "expression": line, "context": "repl" });
    let body = client.request("evaluate", arguments).await;
    body["result"].as_str().unwrap_or_default().to_owned()
}

fn quiet(ended: &Ended) {
    let seen = (ended.code, &*ended.stderr);
    assert_eq!(seen, (0, ""), "{}", ended.stdout);
}

/// The lines that `GET /metrics` has for deadlocks.
async fn named(daemon: &Daemon) -> Vec<String> {
    let host = format!("Host: {}", daemon.connect());
    let (status, text) = http(daemon.address, "GET /metrics", &[&host], "").await;
    assert_eq!(status, 200, "{text}");
    let lines = text.lines().map(str::to_owned);
    let lines = lines.filter(|line| line.contains("kind=\"lock-cycle\",process="));
    lines.collect()
}

const THREADS: &str = "\
import sys, threading
a = threading.Lock()  # A
b = threading.RLock()  # B
first, second = threading.Event(), threading.Event()
def one():
    a.acquire()  # ONE HAS
    first.set()
    second.wait()
    with b:  # ONE WANTS
        pass
def two():
    with b:  # TWO HAS
        second.set()
        first.wait()
        with a:  # TWO WANTS
            pass
both = [threading.Thread(target=each, name=each.__name__) for each in (one, two)]
for thread in both: thread.start()
print('started')
sys.stdin.readline()
a.release()
for thread in both: thread.join()
print('over')
sys.stdin.readline()
";

const TASKS: &str = "\
import asyncio, sys
async def one(a, b, first, second):
    async with a:  # ONE HAS
        first.set()
        await second.wait()
        async with b:  # ONE WANTS
            pass
async def two(a, b, first, second):
    await b.acquire()  # TWO HAS
    second.set()
    await first.wait()
    await a.acquire()  # TWO WANTS
async def main():
    a = asyncio.Lock()  # A
    b = asyncio.Lock()  # B
    first, second = asyncio.Event(), asyncio.Event()
    both = [asyncio.ensure_future(each(a, b, first, second)) for each in (one, two)]
    for task, name in zip(both, ('one', 'two')): task.set_name(name)
    print('started')
    read = lambda: asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await read()
    both[0].cancel()
    await both[1]
    print('over')
    await read()
asyncio.run(main())
";

const PROCESSES: &str = "\
import multiprocessing, sys
def one(a, b, first, second):
    with a:  # ONE HAS
        first.set()
        second.wait()
        with b:  # ONE WANTS
            pass
def two(a, b, first, second):
    b.acquire()  # TWO HAS
    second.set()
    first.wait()
    a.acquire()  # TWO WANTS
    a.release()
if __name__ == '__main__':
    context = multiprocessing.get_context('WAY')
    a = context.Lock()  # A
    b = context.Lock()  # B
    pair = [context.Event() for _ in range(2)]
    both = [context.Process(target=each, args=[a, b, *pair], name=each.__name__) for each in (one, two)]
    for process in both: process.start()
    print('started')
    sys.stdin.readline()
    b.release()
    for process in both: process.join()
    print('over')
    sys.stdin.readline()
";

/// Two are in each other's way, are told of wherever somebody may look, and are no more when they have gone on.
async fn deadlock(python: &Python, script: &Script, one: &str, two: &str) {
    eprintln!("{python}, {}", script.path().display());
    let daemon = daemon().await;
    let mut program = start(python, &daemon, script).await;
    program.printed("started").await;
    let (report, finding) = found_at(&daemon, "lock-cycle", script, "# ONE HAS").await;
    for marker in ["# A", "# B"] {
        let rows = report["locks"].as_array().expect("a list").iter();
        let rows: Vec<&Value> = rows
            .filter(|row| row["site"] == site(script, marker))
            .collect();
        let is_shared = rows[0]["shared"].is_string();
        assert_eq!(rows.len(), 1, "{rows:?}");
        assert_eq!(rows[0]["processes"], if is_shared { 3 } else { 1 });
        let (holder, waiter) = (&rows[0]["holders"][0], &rows[0]["waiters"][0]);
        assert_eq!(
            holder["session"] != waiter["session"],
            is_shared,
            "{rows:?}"
        );
    }
    let message = finding["message"].as_str().unwrap_or_default();
    for part in [one, two] {
        assert!(message.contains(part), "{part}: {message}");
    }
    for marker in ["# A", "# B"] {
        let line = script.line(marker);
        let file = script.path().file_name().unwrap_or_default();
        let name = format!("`{}:{line}`", file.display());
        // One that processes share is called so in all of them, also where it was not made.
        assert!(message.contains(&name), "{name}: {message}");
    }
    let sites = finding["sites"].as_array().expect("a list");
    let markers = ["# ONE HAS", "# ONE WANTS", "# TWO HAS", "# TWO WANTS"];
    for marker in markers {
        assert!(sites.contains(&site(script, marker)), "{marker}: {finding}");
    }
    assert_eq!(sites.len(), 4, "{finding}");

    // An IDE that comes later is told what stands, and may ask.
    let merged = json!({ "view": "merged" });
    let mut client = Client::start(&daemon).arguments(&merged).attached().await;
    let is_told = |body: &Value| {
        let text = body["output"].as_str().unwrap_or_default();
        body["category"] == "important" && text.starts_with("dbgproxy: deadlock: ")
    };
    client.event_where("output", is_told).await;
    let findings = console(&mut client, ":findings").await;
    assert!(findings.contains("! lock-cycle"), "{findings}");
    assert!(findings.contains("deadlock: "), "{findings}");
    let locks = console(&mut client, ":locks").await;
    for marker in ["# ONE HAS", "# TWO HAS"] {
        let file = script.path().file_name().unwrap_or_default().display();
        let place = format!("/{file}:{} ", script.line(marker));
        assert!(locks.contains(&place), "{place}: {locks}");
    }
    let output = daemon.run(&["report"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("! lock-cycle: deadlock: "), "{text}");
    let lines = named(&daemon).await;
    let name = "dbgproxy_finding_start_timestamp_seconds";
    assert!(lines.len() == 1 && lines[0].starts_with(name), "{lines:?}");
    let file = script.path().file_name().unwrap_or_default().display();
    let places = markers.map(|marker| format!("({file}:{})", script.line(marker)));
    for part in places.iter().map(String::as_str).chain([one, two]) {
        assert!(lines[0].contains(part), "{part}: {lines:?}");
    }
    // The program waits in its own code, not in what watches it.
    let (_, stacks) = daemon.verb("stacks", json!({})).await;
    let stacks = stacks.to_string();
    let file = script.path().display().to_string();
    assert!(stacks.contains(&file), "{stacks}");
    assert!(!stacks.contains("_locks.py"), "{stacks}");

    program.tell("").await;
    program.printed("over").await;
    gone(&daemon, "lock-cycle").await;
    assert_eq!(named(&daemon).await, Vec::<String>::new());
    let is_end = |body: &Value| {
        let text = body["output"].as_str().unwrap_or_default();
        text.starts_with("dbgproxy: no longer: deadlock: ")
    };
    let output = client.event_where("output", is_end).await;
    assert_eq!(output["category"], "console");
    let findings = console(&mut client, ":findings").await;
    assert!(!findings.contains("! lock-cycle"), "{findings}");
    client.disconnect().await;
    program.tell("").await;
    quiet(&program.wait().await);
}

#[tokio::test]
async fn threads_in_each_others_way() {
    let script = Script::new("threads.py", THREADS);
    for python in Python::all() {
        deadlock(python, &script, "one of threads.py", "two of threads.py").await;
    }
}

#[tokio::test]
async fn tasks_in_each_others_way() {
    let script = Script::new("tasks.py", TASKS);
    for python in Python::all() {
        let (one, two) = ("task one of tasks.py", "task two of tasks.py");
        deadlock(python, &script, one, two).await;
    }
}

#[tokio::test]
async fn processes_in_each_others_way() {
    for way in ["fork", "spawn"] {
        let script = Script::new("processes.py", &PROCESSES.replace("WAY", way));
        for python in Python::all() {
            deadlock(python, &script, "of one (", "of two (").await;
        }
    }
}

const HELD: &str = "\
import sys, threading
lock = threading.Lock()
def work():
    with lock:  # HOLDS
        print('held')  # INSIDE
        sys.stdin.readline()
    print('free')
    sys.stdin.readline()
work()
";

#[tokio::test]
async fn a_lock_is_held_for_too_long_but_not_while_its_holder_is_stopped() {
    let source = format!("{UNTIL_DEBUGGED}{HELD}");
    let script = Script::new("held.py", &source);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon().await;
        let mut stopped = start(python, &daemon, &script).await;
        let inside = script.line("# INSIDE");
        let mut client = debug(&daemon, &script, &json!({}), &[inside]).await;
        let thread = client.stopped_at(inside).await.thread;
        // Another takes its own later, and holds it for too long.
        let other = Script::new("other.py", HELD);
        let mut runs = start(python, &daemon, &other).await;
        runs.printed("held").await;
        let (report, finding) = found_at(&daemon, "lock-held", &other, "# HOLDS").await;
        assert_eq!(finding["pid"], runs.pid(), "{finding}");
        assert_eq!(open(&report, "lock-held").len(), 1, "{report}");
        let important = |body: &Value| body["category"] == "important";
        let output = client.event_where("output", important).await;
        assert_eq!(
            (&output["source"]["path"], &output["line"]),
            (&json!(other.path()), &json!(other.line("# HOLDS")))
        );
        // The first holds its lock for too long only when it runs.
        client.continue_(thread).await;
        let (_, finding) = found_at(&daemon, "lock-held", &script, "# HOLDS").await;
        assert_eq!(finding["pid"], stopped.pid(), "{finding}");
        for program in [&mut stopped, &mut runs] {
            program.tell("").await;
            program.printed("free").await;
        }
        gone(&daemon, "lock-held").await;
        client.disconnect().await;
        for program in [&mut stopped, &mut runs] {
            program.tell("").await;
            quiet(&program.wait().await);
        }
    }
}

const LOOP: &str = "\
import asyncio, sys, time
kept = []
async def fails():
    raise ValueError('no such thing')  # RAISES
async def main():
    while True:
        word = await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
        if word == 'block\\n':
            time.sleep(1)  # BLOCKS
            print('went on')
        elif word == 'fail\\n':
            kept.append(asyncio.ensure_future(fails()))
        else:
            for task in kept: task.exception()
            break
asyncio.run(main())
";

#[tokio::test]
async fn a_loop_that_is_blocked_and_an_exception_that_nobody_asks_for() {
    let script = Script::new("loop.py", LOOP);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon().await;
        let mut program = start(python, &daemon, &script).await;
        report(&daemon, "a loop", |it| it["loops"][0].is_object()).await;
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "view": "merged" }))
            .attached()
            .await;
        program.tell("block").await;
        let (_, finding) = found_at(&daemon, "loop-blocked", &script, "# BLOCKS").await;
        assert_eq!(finding["sites"][0], site(&script, "# BLOCKS"), "{finding}");
        let message = finding["message"].as_str().unwrap_or_default();
        let by = format!("by `main` at loop.py:{}", script.line("# BLOCKS"));
        assert!(message.contains(&by), "{message}");
        let important = |body: &Value| body["category"] == "important";
        let output = client.event_where("output", important).await;
        assert_eq!(output["line"], script.line("# BLOCKS"), "{output}");
        program.printed("went on").await;

        program.tell("fail").await;
        let (_, finding) = found_at(&daemon, "task-exception", &script, "# RAISES").await;
        let message = finding["message"].as_str().unwrap_or_default();
        assert!(message.contains("ValueError: no such thing"), "{message}");
        let tasks = console(&mut client, ":tasks").await;
        assert!(tasks.contains("Event loops (1):"), "{tasks}");
        assert!(tasks.contains("loop.py"), "{tasks}");
        client.disconnect().await;
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

#[tokio::test]
async fn a_word_that_means_nothing_is_told_and_changes_nothing() {
    let script = Script::new(
        "well.py",
        "import sys\nprint('well')\nsys.stdin.readline()\n",
    );
    for python in Python::all() {
        let daemon = daemon().await;
        let mut command = python.attached(&daemon).await;
        command
            .env("DBGPROXY_MONITOR", "lock,tasks")
            .arg(script.path());
        let mut program = Program::start(command);
        program.printed("well").await;
        let is_told = |it: &Value| it["summary"]["dropped"][0]["message"].is_string();
        let report = report(&daemon, "the word", is_told).await;
        let message = report["summary"]["dropped"][0]["message"].as_str();
        let why = "DBGPROXY_MONITOR says `lock`, which means nothing: it may be tasks, ";
        assert!(message.is_some_and(|it| it.contains(why)), "{message:?}");
        daemon.logged(why).await;
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const LEAKS: &str = "\
import sys, threading, dbgproxy
lock = threading.Lock()
def hold():
    lock.acquire()  # HOLDS
    sys.stdin.readline()
thread = threading.Thread(target=hold, name='gone')
thread.start()
thread.join()
sys.stdin.readline()
lock.release()
sys.stdin.readline()
session = dbgproxy.monitor_session('42', 'import', owner='ada')
session.__enter__()
lock.acquire()  # KEEPS
sys.exit(3)
";

#[tokio::test]
async fn what_is_left_at_the_end_of_a_thread_and_of_a_process() {
    let script = Script::new("leaks.py", LEAKS);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon().await;
        let mut program = start(python, &daemon, &script).await;
        let is_held = |it: &Value| it["locks"][0]["holders"][0]["thread"] == "gone";
        report(&daemon, "a lock that is held", is_held).await;
        program.tell("").await;
        let (_, finding) = found_at(&daemon, "lock-leak", &script, "# HOLDS").await;
        let message = finding["message"].as_str().unwrap_or_default();
        assert!(message.contains("gone of leaks.py"), "{message}");
        program.tell("").await;
        gone(&daemon, "lock-leak").await;
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (3, ""), "{}", ended.stdout);
        let (_, finding) = found_at(&daemon, "lock-leak", &script, "# KEEPS").await;
        let message = finding["message"].as_str().unwrap_or_default();
        assert!(message.contains(" has ended"), "{message}");
        let is_open = |it: &Value| !open(it, "session-open").is_empty();
        let report = report(&daemon, "a session that is open", is_open).await;
        let message = open(&report, "session-open")[0]["message"].to_string();
        assert!(message.contains("42"), "{message}");
    }
}

const LEFT: &str = "\
import importlib.util, multiprocessing, os, sys, threading, time
importlib.util.find_spec('multiprocessing.synchronize')  # Who looks for it has not loaded it.
def keep(lock):
    lock.acquire()  # KEEPS
    time.sleep(1)
    os._exit(0)
def want(lock):
    lock.acquire()  # WANTS
    lock.release()
if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    lock = context.Lock()  # LOCK
    child = context.Process(target=keep, args=[lock])
    child.start()
    child.join()
    waiter = threading.Thread(target=want, args=[lock], name='waiter')
    sys.stdin.readline()
    waiter.start()
    sys.stdin.readline()
    lock.release()
    waiter.join()
    sys.stdin.readline()
";

#[tokio::test]
async fn a_lock_that_an_ended_process_has_is_a_leak_until_it_is_let_go_of() {
    let script = Script::new("left.py", LEFT);
    for python in Python::all() {
        for method in ["fork", "spawn"] {
            eprintln!("{python}, {method}");
            let daemon = daemon().await;
            let mut command = python.attached(&daemon).await;
            command.env("DBGPROXY_MONITOR", "locks");
            command.arg(script.path()).arg(method);
            let mut program = Program::start(command);
            let (leak, finding) = found_at(&daemon, "lock-leak", &script, "# KEEPS").await;
            let message = finding["message"].as_str().unwrap_or_default();
            let called = format!("left.py:{}", script.line("# LOCK"));
            assert!(message.contains(&called), "{message}");
            assert!(message.contains(", which has ended"), "{message}");
            // Its row says who has it, too.
            let row = &leak["locks"][0];
            assert_eq!(row["holders"][0]["site"], site(&script, "# KEEPS"), "{row}");
            assert_eq!(
                (&row["leaked"], &row["acquisitions"]),
                (&json!(true), &json!(1))
            );
            program.tell("").await;
            let (_, finding) = found_at(&daemon, "lock-leak", &script, "# WANTS").await;
            let message = finding["message"].as_str().unwrap_or_default();
            assert!(
                message.contains("; 1 waits for it, first waiter of"),
                "{message}"
            );
            program.tell("").await;
            gone(&daemon, "lock-leak").await;
            program.tell("").await;
            quiet(&program.wait().await);
        }
    }
}

const FINE: &str = "\
import multiprocessing, os, sys, threading, time
lock, done = threading.Lock(), threading.Semaphore(0)
class Lax(threading.BoundedSemaphore):
    def release(self):
        with self._cond:
            self._value += 1
            self._cond.notify()
lax = Lax(2)
def child():
    time.sleep(0.5)
with lock:
    pid = os.fork()
    if not pid:
        child()
        os._exit(0)
os.waitpid(pid, 0)
with lock:
    process = multiprocessing.get_context('fork').Process(target=child)
    process.start()
process.join()
threading.Thread(target=done.release).start()
done.acquire()
for _ in range(3):
    with lax: pass
    lax.acquire()
    lax.release()
time.sleep(0.5)
";

#[tokio::test]
async fn what_ends_as_it_should_is_no_leak() {
    let script = Script::new("fine.py", FINE);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = daemon().await;
        let mut program = start(python, &daemon, &script).await;
        quiet(&program.wait().await);
        let are_over = |it: &Value| {
            let sessions = it["sessions"].as_array().expect("it lists them");
            sessions.len() == 3 && sessions.iter().all(|one| one["ended"].is_string())
        };
        let report = report(&daemon, "the end of all three", are_over).await;
        assert_eq!(report["findings"], json!([]));
    }
}

const STEPS: &str = "\
import asyncio, multiprocessing, sys, threading, dbgproxy
async def tasks():
    lock = asyncio.Lock()
    async with lock:  # TASK FIRST
        n = 1
    async with dbgproxy.monitor_lock('named'):
        n = 2
    return n  # TASK LAST
def work(lock, again, condition, semaphore, shared, other):
    with lock:  # FIRST
        n = 1
    with again, again:
        n = 2
    with condition:
        n = 3
    with semaphore:
        n = 4
    with shared:
        n = 5
    with dbgproxy.monitor_lock('plain', other):
        n = 6
    with dbgproxy.MonitoredLock(name='own'):
        n = 7
    for each in lock, again, semaphore, shared:
        each.acquire()
        each.release()
    lock.acquire(timeout=5)
    lock.release()
    n = threading.Lock()
    return n  # LAST
locks = [threading.Lock(), threading.RLock(), threading.Condition(), threading.Semaphore(), multiprocessing.Lock()]
work(*locks, threading.Lock())
asyncio.run(tasks())
";

/// Steps into whatever there is, until a line is reached.
async fn walk(client: &mut Client, thread: i64, script: &Script, last: i64, just_my_code: bool) {
    let path = script.path().to_string_lossy();
    let mut step = "stepIn";
    let mut lines = Vec::new();
    while lines.last() != Some(&json!(last)) {
        client.step(step, thread).await;
        let thread = client.stopped().await.thread;
        let stack = client.stack(thread).await;
        let at = stack[0]["source"]["path"].as_str().unwrap_or_default();
        let agent = [
            "/_locks.py",
            "/_records.py",
            "/_patch.py",
            "/_monitor.py",
            "/_api.py",
        ];
        let is_ours = agent.iter().any(|file| at.ends_with(file));
        assert!(!is_ours, "{lines:?}: {}", stack[0]);
        if at == path {
            lines.push(stack[0]["line"].clone());
            step = "stepIn";
        } else {
            assert!(!just_my_code, "{lines:?}: {}", stack[0]);
            step = "stepOut"; // The library's own.
        }
    }
}

#[tokio::test]
async fn a_step_passes_over_what_monitors() {
    let script = Script::new("steps.py", &format!("{UNTIL_DEBUGGED}{STEPS}"));
    for python in Python::all() {
        for just_my_code in [true, false] {
            eprintln!("{python}, justMyCode {just_my_code}");
            let daemon = daemon().await;
            let mut program = start(python, &daemon, &script).await;
            let walks = [("# FIRST", "# LAST"), ("# TASK FIRST", "# TASK LAST")];
            let lines = walks.map(|(first, _)| script.line(first));
            let more = json!({ "justMyCode": just_my_code });
            let mut client = debug(&daemon, &script, &more, &lines).await;
            for (first, last) in walks {
                let thread = client.stopped_at(script.line(first)).await.thread;
                walk(
                    &mut client,
                    thread,
                    &script,
                    script.line(last),
                    just_my_code,
                )
                .await;
                client.continue_(thread).await;
            }
            client.disconnect().await;
            quiet(&program.wait().await);
            let report = report(&daemon, "a report", |_| true).await;
            // Locks that only a `with` statement has are not lost.
            assert_eq!(report["findings"], json!([]));
        }
    }
}
