//! What a process tells of its locks, loops and tasks, to a daemon that is played by a script; and that what is
//! monitored behaves as if it were not.

mod support;

use std::net::SocketAddr;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Daemon, Ended, Program, Python, Script};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::mpsc;

/// Samples that wait to be looked at; a test looks at all of them.
const SAMPLES: usize = 10_000;

/// Plays the daemon for any number of agents, and hears their samples.
struct Peer {
    address: SocketAddr,
    samples: mpsc::Receiver<(i64, Value)>,
}

impl Peer {
    async fn start() -> Self {
        Self::wanting(0.05).await
    }

    /// One that wants samples so often.
    async fn wanting(interval: f64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("it has one");
        let (tx, samples) = mpsc::channel(SAMPLES);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(hear(stream, interval, tx.clone()));
            }
        });
        Self { address, samples }
    }

    /// The next sample of any process that is as wanted.
    async fn sample(&mut self, what: &str, is_wanted: impl Fn(&Value) -> bool) -> Value {
        self.sample_of(what, |_, sample| is_wanted(sample)).await.1
    }

    async fn sample_of(
        &mut self,
        what: &str,
        is_wanted: impl Fn(i64, &Value) -> bool,
    ) -> (i64, Value) {
        let mut last = Value::Null;
        let wanted = async {
            loop {
                let (pid, sample) = self.samples.recv().await.expect("it listens");
                if is_wanted(pid, &sample) {
                    return (pid, sample);
                }
                last = sample;
            }
        };
        within(what, wanted).await
    }
}

/// Welcomes one agent and passes its samples on.
async fn hear(stream: TcpStream, interval: f64, samples: mpsc::Sender<(i64, Value)>) {
    let (read, mut write) = stream.into_split();
    let mut frames = Frames::new(read);
    let mut pid = 0;
    while let Ok(Some(text)) = frames.next().await {
        let message: Value = serde_json::from_str(&text).expect("it is JSON");
        if message["command"] == "dbgproxy/hello" {
            pid = message["arguments"]["pid"].as_i64().unwrap_or_default();
            let welcome = json!({
                "seq": 1, "type": "response", "request_seq": message["seq"], "success": true,
                "command": "dbgproxy/hello", "body": { "activate": false, "monitor": interval },
            });
            if write.write_all(&frame(&welcome.to_string())).await.is_err() {
                return;
            }
        } else if message["event"] == "dbgproxy/monitor" {
            let _ = samples.send((pid, message["body"].clone())).await;
        }
    }
}

/// A Python whose agent looks for its daemon at the address.
async fn attached(python: &Python, address: &str, monitor: Option<&str>) -> Command {
    let daemon = Daemon::start().await;
    let mut command = python.attached(&daemon).await;
    command.env("DBGPROXY", address);
    if let Some(monitor) = monitor {
        command.env("DBGPROXY_MONITOR", monitor);
    }
    command
}

async fn start(python: &Python, peer: &Peer, monitor: Option<&str>, script: &Script) -> Program {
    let mut command = attached(python, &peer.address.to_string(), monitor).await;
    command.arg(script.path());
    Program::start(command)
}

fn quiet(ended: &Ended) {
    let seen = (ended.code, &*ended.stderr);
    assert_eq!(seen, (0, ""), "{}", ended.stdout);
}

fn locks(sample: &Value) -> impl Iterator<Item = &Value> {
    sample["locks"]["locks"].as_array().into_iter().flatten()
}

fn tasks(sample: &Value) -> impl Iterator<Item = &Value> {
    sample["tasks"]["tasks"].as_array().into_iter().flatten()
}

/// The lock that was made on that line.
fn made_at<'a>(sample: &'a Value, script: &Script, marker: &str) -> &'a Value {
    let site = json!([script.path(), script.line(marker)]);
    let mut found = locks(sample).filter(|lock| lock["site"] == site);
    found.next().unwrap_or(&Value::Null)
}

/// Whether the line is where somebody is who holds a lock, or waits for it.
fn is_at(actor: &Value, script: &Script, marker: &str) -> bool {
    actor["site"] == json!([script.path(), script.line(marker)]) && actor["age"].is_number()
}

const THREADS: &str = "\
import os, sys, threading
a = threading.Lock()  # A
b = threading.RLock()  # B
first, second = threading.Event(), threading.Event()
def one():
    with a:  # ONE HAS
        first.set()
        second.wait()
        with b:  # ONE WANTS
            pass
def two():
    b.acquire()  # TWO HAS
    second.set()
    first.wait()
    with b:
        a.acquire()  # TWO WANTS
for function in (one, two):
    threading.Thread(target=function, name=function.__name__, daemon=True).start()
sys.stdin.readline()
os._exit(0)
";

#[tokio::test]
async fn locks_of_one_line_have_numbers() {
    let mut peer = Peer::start().await;
    let pair = "import sys, threading\na, b = threading.Lock(), threading.Lock()\na.acquire(), b.acquire()\nsys.stdin.readline()\n";
    let script = Script::new("pair.py", pair);
    let mut program = start(Python::newest(), &peer, Some("locks"), &script).await;
    let sample = peer
        .sample("two locks", |sample| locks(sample).count() == 2)
        .await;
    let mut names: Vec<&str> = locks(&sample)
        .filter_map(|lock| lock["name"].as_str())
        .collect();
    names.sort_unstable();
    assert_eq!(names, ["pair.py:2", "pair.py:2 #2"]);
    program.tell("").await;
    assert_eq!(program.wait().await.code, 0);
}

#[tokio::test]
async fn threads_that_wait_for_each_other_are_seen() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("threads.py", THREADS);
        let mut program = start(python, &peer, Some("locks"), &script).await;
        let sample = peer
            .sample("two threads in each other's way", |sample| {
                locks(sample).filter(|it| it["waiterCount"] == 1).count() == 2
            })
            .await;
        assert_eq!(sample["monitors"], json!(["locks", "tasks"]));
        let a = made_at(&sample, &script, "# A");
        let b = made_at(&sample, &script, "# B");
        assert_eq!(
            (&a["kind"], &b["kind"]),
            (&json!("threading.Lock"), &json!("threading.RLock"))
        );
        assert_eq!(a["name"], format!("threads.py:{}", script.line("# A")));
        for (lock, holder, has, waiter, wants) in [
            (a, "one", "# ONE HAS", "two", "# TWO WANTS"),
            (b, "two", "# TWO HAS", "one", "# ONE WANTS"),
        ] {
            assert_eq!(lock["holders"][0]["actor"]["name"], holder, "{lock}");
            assert_eq!(lock["waiters"][0]["actor"]["name"], waiter, "{lock}");
            assert!(is_at(&lock["holders"][0], &script, has), "{lock}");
            assert!(is_at(&lock["waiters"][0], &script, wants), "{lock}");
            assert!(lock["leaked"].is_null(), "{lock}");
        }
        assert_eq!(
            a["holders"][0]["actor"]["thread"],
            b["waiters"][0]["actor"]["thread"]
        );
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const TASKS: &str = "\
import asyncio, os, sys
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
    both = [asyncio.ensure_future(each(a, b, first, second)) for each in (one, two)]  # MADE
    both[0].set_name('first')
    both[1].set_name('second')
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    os._exit(0)
asyncio.run(main())
";

#[tokio::test]
async fn tasks_that_wait_for_each_other_are_seen() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("tasks.py", TASKS);
        let mut program = start(python, &peer, Some("locks, tasks+"), &script).await;
        let sample = peer
            .sample("two tasks in each other's way", |sample| {
                locks(sample).filter(|it| it["waiterCount"] == 1).count() == 2
                    && tasks(sample).count() == 3
            })
            .await;
        assert_eq!(sample["monitors"], json!(["locks", "tasks"]));
        let find = |name: &str| {
            tasks(&sample)
                .find(|task| task["name"] == name)
                .unwrap_or_else(|| panic!("{name}: {sample}"))
        };
        for (marker, holder, has, waiter, wants) in [
            ("# A", "first", "# ONE HAS", "second", "# TWO WANTS"),
            ("# B", "second", "# TWO HAS", "first", "# ONE WANTS"),
        ] {
            let lock = made_at(&sample, &script, marker);
            assert_eq!(lock["kind"], "asyncio.Lock", "{lock}");
            assert_eq!(lock["holders"][0]["actor"]["taskName"], holder, "{lock}");
            assert_eq!(lock["waiters"][0]["actor"]["taskName"], waiter, "{lock}");
            assert_eq!(lock["holders"][0]["actor"]["task"], find(holder)["id"]);
            assert!(is_at(&lock["holders"][0], &script, has), "{lock}");
            assert!(is_at(&lock["waiters"][0], &script, wants), "{lock}");
        }
        let first = find("first");
        assert_eq!(
            (&first["coroutine"], &first["state"]),
            (&json!("one"), &json!("waiting"))
        );
        assert_eq!(first["stamped"], true);
        assert_eq!(first["site"], json!([script.path(), script.line("# MADE")]));
        assert_eq!(
            first["chain"][0],
            json!(["one", script.path(), script.line("# ONE WANTS")])
        );
        assert_eq!(sample["tasks"]["total"], 3);
        assert_eq!(sample["loops"][0]["tasks"], 3);
        assert_eq!(sample["loops"][0]["thread"]["name"], "MainThread");
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

#[tokio::test]
async fn without_any_patch_it_is_seen_which_tasks_wait_for_a_lock() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("tasks.py", TASKS);
        let mut program = start(python, &peer, None, &script).await;
        let sample = peer
            .sample("two locks with waiters", |sample| {
                locks(sample).filter(|it| it["waiterCount"] == 1).count() == 2
            })
            .await;
        assert_eq!(sample["monitors"], json!(["tasks"]));
        let waiters: Vec<&Value> = locks(&sample).map(|lock| &lock["waiters"][0]).collect();
        for (name, wants) in [("first", "# ONE WANTS"), ("second", "# TWO WANTS")] {
            let mut own = waiters.iter().filter(|it| it["actor"]["taskName"] == name);
            let waiter = own.next().unwrap_or_else(|| panic!("{sample}"));
            assert!(is_at(waiter, &script, wants), "{waiter}");
        }
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const PROCESSES: &str = "\
import multiprocessing, sys
def one(a, b, first, second):
    with a:  # ONE HAS
        first.set()
        second.wait()
        b.acquire()  # ONE WANTS
def two(a, b, first, second):
    with b:
        with b:
            pass
        second.set()
        first.wait()
        with a:  # TWO WANTS
            pass
if __name__ == '__main__':
    context = multiprocessing.get_context(sys.argv[1])
    a = context.Lock()  # A
    b = context.RLock()  # B
    queue, pair = context.Queue(), [context.Event() for _ in range(2)]
    both = [context.Process(target=each, args=[a, b, *pair], name=each.__name__) for each in (one, two)]
    for process in both: process.start()
    print(both[0].pid, both[1].pid, 'started')
    sys.stdin.readline()
    for process in both: process.terminate()
    for process in both: process.join()
";

#[tokio::test]
async fn processes_that_wait_for_each_other_are_seen() {
    for python in Python::all() {
        for way in ["fork", "spawn", "forkserver"] {
            eprintln!("{python}, {way}");
            let mut peer = Peer::start().await;
            let script = Script::new("processes.py", PROCESSES);
            let address = peer.address.to_string();
            let mut command = attached(python, &address, Some("locks")).await;
            command.arg(script.path()).arg(way);
            let mut program = Program::start(command);
            let waits = |sample: &Value, marker: &str| {
                locks(sample).any(|it| is_at(&it["waiters"][0], &script, marker))
            };
            let (first, one) = peer
                .sample_of("the first waits", |_, it| waits(it, "# ONE WANTS"))
                .await;
            let (second, two) = peer
                .sample_of("the second waits", |_, it| waits(it, "# TWO WANTS"))
                .await;
            assert_ne!(first, second);
            // Each holds what the other one waits for.
            for (mine, theirs) in [(&one, &two), (&two, &one)] {
                let held = locks(mine).find(|it| it["holders"][0].is_object());
                let held = held.unwrap_or_else(|| panic!("{mine}"));
                let wanted = locks(theirs).find(|it| it["waiterCount"] == 1);
                assert!(held["shared"].is_string(), "{held}");
                assert_eq!(held["shared"], wanted.unwrap_or(&Value::Null)["shared"]);
                assert!(held["leaked"].is_null(), "{held}");
            }
            // What the library makes for itself is not among them.
            assert_eq!(one["locks"]["total"], 2, "{one}");
            program.tell("").await;
            quiet(&program.wait().await);
        }
    }
}

const LEAK: &str = "\
import os, sys, threading
lock = threading.Lock()  # LOCK
again = threading.RLock()  # AGAIN
def hold():
    lock.acquire()  # HOLDS
thread = threading.Thread(target=hold, name='gone')
thread.start()
thread.join()
def lose():
    threading.Lock().acquire()  # LOSES
lose()
assert not lock.acquire(timeout=0.01) and not lock.acquire(False)
with again:  # OUTER
    with again:
        with again: pass
        print('held')
        sys.stdin.readline()
        child = os.fork()
        if not child:
            print('forked', os.getpid())
            sys.stdin.readline()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
lock.release()
with again: pass
print('free')
sys.stdin.readline()
";

#[tokio::test]
async fn a_lock_whose_holder_is_gone_is_leaked_but_not_in_a_forked_child() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("leak.py", LEAK);
        let mut program = start(python, &peer, Some("locks"), &script).await;
        program.printed("held").await;
        let pid = program.pid();
        let is_held =
            |sample: &Value| made_at(sample, &script, "# AGAIN")["holders"][0].is_object();
        let sample = peer.sample("locks that are held", is_held).await;
        let lock = made_at(&sample, &script, "# LOCK");
        assert_eq!(lock["leaked"], true, "{lock}");
        assert!(is_at(&lock["holders"][0], &script, "# HOLDS"), "{lock}");
        assert_eq!(
            (&lock["timeouts"], &lock["contended"]),
            (&json!(1), &json!(2))
        );
        assert!(
            locks(&sample)
                .any(|it| it["leaked"] == true && is_at(&it["holders"][0], &script, "# LOSES"))
        );
        let again = made_at(&sample, &script, "# AGAIN");
        assert_eq!(
            (&again["acquisitions"], &again["contended"]),
            (&json!(1), &json!(0))
        );
        assert!(is_at(&again["holders"][0], &script, "# OUTER"), "{again}");

        // The child holds what its one thread held.
        program.tell("").await;
        program.printed("forked").await;
        let (_, child) = peer
            .sample_of("the child", |from, it| from != pid && is_held(it))
            .await;
        let lock = made_at(&child, &script, "# LOCK");
        assert!(
            lock["leaked"].is_null() && lock["holders"] == json!([]),
            "{lock}"
        );
        assert!(locks(&child).all(|it| it["leaked"].is_null()), "{child}");
        program.tell("").await;
        program.printed("free").await;
        let sample = peer
            .sample_of("free locks", |from, it| {
                from == pid && made_at(it, &script, "# AGAIN")["acquisitions"] == 2
            })
            .await
            .1;
        let lock = made_at(&sample, &script, "# LOCK");
        assert!(
            lock["leaked"].is_null() && lock["holders"] == json!([]),
            "{lock}"
        );
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const BLOCKED: &str = "\
import asyncio, sys, time
def nap():
    while not done:
        time.sleep(0.01)  # HERE
done = []
async def nearly():
    raise ValueError('nobody asks')  # RAISED
async def main():
    lost = asyncio.ensure_future(nearly())
    lost.set_name('lost')
    loop = asyncio.get_running_loop()
    reading = loop.run_in_executor(None, lambda: done.append(sys.stdin.readline()))
    await asyncio.sleep(0)
    nap()  # CALLS
    await loop.run_in_executor(None, sys.stdin.readline)
    lost.exception()
asyncio.run(main())
print('over')
sys.stdin.readline()
";

/// Seconds between samples, when only a last one is wanted.
const SELDOM: f64 = 3600.0;

#[tokio::test]
async fn a_forked_child_says_at_its_end_what_it_holds() {
    let script = Script::new(
        "children.py",
        "\
import multiprocessing, os, sys, threading
lock = threading.Lock()  # LOCK
def use():
    with lock: pass
def keep():
    lock.acquire()  # HOLDS
def parent():
    child = multiprocessing.get_context('fork').Process(target=keep)
    child.start()
    child.join()
if __name__ == '__main__':
    sys.stdin.readline()
    for target in use, keep, parent:
        child = multiprocessing.get_context('fork').Process(target=target)
        child.start()
        child.join()
",
    );
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::wanting(SELDOM).await;
        let mut program = start(python, &peer, Some("locks"), &script).await;
        program.tell("").await;
        let mut told = vec![program.pid()];
        for (name, is_held) in [("use", false), ("keep", true)] {
            let used = |from: i64, it: &Value| {
                !told.contains(&from) && made_at(it, &script, "# LOCK")["acquisitions"] == 1
            };
            let (pid, sample) = peer.sample_of(name, used).await;
            let lock = made_at(&sample, &script, "# LOCK");
            let holds = is_at(&lock["holders"][0], &script, "# HOLDS");
            assert_eq!(holds, is_held, "{lock}");
            told.push(pid);
        }
        // The child of a child says it too.
        let held = |from: i64, it: &Value| {
            !told.contains(&from) && made_at(it, &script, "# LOCK")["holders"][0].is_object()
        };
        peer.sample_of("a grandchild", held).await;
        quiet(&program.wait().await);
    }
}

const FORGOTTEN: &str = "\
import asyncio, sys, threading
async def fails():
    raise KeyError('forgotten')  # RAISED
async def main():
    for _ in range(3):
        asyncio.ensure_future(fails()).set_name('brief')
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    print('failed', flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
async def before():
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    await main()
asyncio.run(before())
";

#[tokio::test]
async fn exceptions_of_tasks_that_no_sample_has_seen_are_told() {
    let script = Script::new("forgotten.py", FORGOTTEN);
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let mut program = start(python, &peer, None, &script).await;
        let one = |it: &Value| it["tasks"]["total"] == 1;
        peer.sample("its only task", one).await;
        program.tell("").await;
        let mut told = 0;
        while told < 3 {
            let some = |it: &Value| it["tasks"]["unretrieved"][0].is_object();
            let sample = peer.sample("exceptions", some).await;
            let rows = sample["tasks"]["unretrieved"].as_array().expect("a list");
            for row in rows {
                assert_eq!(
                    (&row["task"], &row["message"]),
                    (&json!("brief"), &json!("KeyError: forgotten"))
                );
                assert_eq!(row["site"], json!([script.path(), script.line("# RAISED")]));
            }
            told += rows.len();
        }
        assert_eq!(told, 3, "each is told once");
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!(ended.code, 0);
        // asyncio has said it as ever.
        let said = ended
            .stderr
            .matches("Task exception was never retrieved")
            .count();
        assert_eq!(said, 3, "{}", ended.stderr);
    }
}

const DEBUGGERS: &str = "\
import asyncio, sys, time
slow = {}
exec(compile('def work(): sleep(0.5)', '/x/debugpy/_vendored/pydevd/work.py', 'exec'), {'sleep': time.sleep}, slow)
async def main():
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    slow['work']()
    print('worked', flush=True)
    await asyncio.sleep(0.2)
    time.sleep(0.5)  # HERE
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
";

#[tokio::test]
async fn what_the_debugger_takes_does_not_block_a_loop() {
    let script = Script::new("debuggers.py", DEBUGGERS);
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let mut program = start(python, &peer, None, &script).await;
        let running = |it: &Value| it["loops"][0].is_object();
        peer.sample("a loop", running).await;
        program.tell("").await;
        let is_blocked = |it: &Value| it["loops"][0]["blocked"].is_object();
        let sample = peer.sample("a blocked loop", is_blocked).await;
        let stack = &sample["loops"][0]["blocked"]["stack"];
        let here = json!(["main", script.path(), script.line("# HERE")]);
        assert_eq!(stack[0], here, "{stack}");
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const LARGE: &str = "\
import sys, threading
source = 'def take(lock): lock.acquire()\\ndef make(threading): return threading.Lock()'
made = {}
exec(compile(source, '/' + 30 * 'a-long-directory/' + 'x.py', 'exec'), made)
locks = [made['make'](threading) for _ in range(200)]
for lock in locks:
    lock.acquire()
waiters = [threading.Thread(target=made['take'], args=[lock], daemon=True) for lock in locks for _ in range(10)]
for waiter in waiters: waiter.start()
print('wait', flush=True)
sys.stdin.readline()
";

#[tokio::test]
async fn a_sample_that_would_be_too_large_has_fewer_rows() {
    let script = Script::new("large.py", LARGE);
    let python = Python::newest();
    let mut peer = Peer::start().await;
    let mut program = start(python, &peer, Some("locks"), &script).await;
    program.printed("wait").await;
    let large = |it: &Value| it["locks"]["dropped"].as_i64() > Some(0);
    let sample = peer.sample("a shortened sample", large).await;
    let told = locks(&sample).count() as i64;
    assert!(0 < told && told < 200, "{told}");
    assert_eq!(sample["locks"]["dropped"], 200 - told);
    assert!(sample.to_string().len() < 1 << 20);
    program.tell("").await;
    quiet(&program.wait().await);
}

#[tokio::test]
async fn what_is_held_at_the_end_of_a_process_is_told_with_its_goodbye() {
    let script = Script::new(
        "end.py",
        "\
import sys, threading
lock = threading.Lock()  # LOCK
sys.stdin.readline()
lock.acquire()  # HOLDS
",
    );
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::wanting(SELDOM).await;
        let mut program = start(python, &peer, Some("locks"), &script).await;
        program.tell("").await;
        quiet(&program.wait().await);
        let is_held = |sample: &Value| made_at(sample, &script, "# LOCK")["holders"][0].is_object();
        let sample = peer.sample("a lock that is held", is_held).await;
        let lock = made_at(&sample, &script, "# LOCK");
        assert!(is_at(&lock["holders"][0], &script, "# HOLDS"), "{lock}");
        assert!(lock["leaked"].is_null(), "{lock}");
    }
}

#[tokio::test]
async fn a_loop_that_is_blocked_is_seen_with_the_line_and_an_exception_is_told_once() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("blocked.py", BLOCKED);
        let mut program = start(python, &peer, None, &script).await;
        let sample = peer
            .sample("the exception", |it| {
                it["tasks"]["unretrieved"] != json!([]) && it["tasks"].is_object()
            })
            .await;
        let error = &sample["tasks"]["unretrieved"][0];
        assert_eq!(error["message"], "ValueError: nobody asks");
        assert_eq!(error["task"], "lost");
        assert_eq!(
            error["site"],
            json!([script.path(), script.line("# RAISED")])
        );
        let sample = peer
            .sample("a blocked loop", |it| it["loops"][0]["blocked"].is_object())
            .await;
        let blocked = &sample["loops"][0]["blocked"];
        assert_eq!(
            blocked["stack"],
            json!([
                ["nap", script.path(), script.line("# HERE")],
                ["main", script.path(), script.line("# CALLS")]
            ])
        );
        let main = tasks(&sample).find(|task| task["coroutine"] == "main");
        assert_eq!(blocked["task"], main.expect("it is a task")["id"]);
        assert!(blocked["age"].as_f64() >= Some(0.05), "{blocked}");
        program.tell("").await;
        let sample = peer
            .sample("a loop that runs", |it| {
                assert!(it["tasks"]["unretrieved"] == json!([]), "{it}");
                it["loops"][0]["blocked"].is_null() && it["loops"][0]["last_block"].is_object()
            })
            .await;
        assert!(sample["loops"][0]["longest_block"].as_f64() >= Some(0.05));
        assert_eq!(sample["tasks"]["failed"], 1);
        program.tell("").await;
        program.printed("over").await;
        // Nothing is there any more, which is said.
        let empty = |it: &Value| it["loops"] == json!([]) && it["tasks"]["total"] == 0;
        peer.sample("an empty sample", empty).await;
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const MANY: &str = "\
import asyncio, sys
async def inner():
    await asyncio.sleep(3600)
async def worker():
    await asyncio.ensure_future(inner())
async def main():
    every = [asyncio.ensure_future(worker()) for _ in range(5000)]
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
    for task in every: task.cancel()
    await asyncio.gather(*every, return_exceptions=True)
    print('cancelled')
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.readline)
asyncio.run(main())
";

#[tokio::test]
async fn of_ten_thousand_tasks_the_oldest_are_told() {
    for python in Python::all() {
        eprintln!("{python}");
        let mut peer = Peer::start().await;
        let script = Script::new("many.py", MANY);
        let mut program = start(python, &peer, None, &script).await;
        let sample = peer
            .sample("all tasks, as soon as they wait", |it| {
                let waits = |it: &Value| it["coroutine"] == "worker" && it["awaits"].is_string();
                it["tasks"]["total"] == 10_001 && tasks(it).any(waits)
            })
            .await;
        assert_eq!(tasks(&sample).count(), 200);
        assert_eq!(sample["tasks"]["dropped"], 9_801);
        assert_eq!(sample["tasks"]["created"], 10_001);
        assert!(sample["cost"].is_number());
        program.tell("").await;
        program.printed("cancelled").await;
        let sample = peer
            .sample("one task", |it| it["tasks"]["total"] == 1)
            .await;
        let ended = ["completed", "cancelled"].map(|how| sample["tasks"][how].as_i64());
        assert_eq!(ended[0].zip(ended[1]).map(|(a, b)| a + b), Some(10_000));
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

#[tokio::test]
async fn a_daemon_that_does_not_read_is_not_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("it has one").to_string();
    let deaf = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.expect("it comes");
        let (read, mut write) = stream.into_split();
        let mut frames = Frames::new(read);
        let hello = frames
            .next()
            .await
            .expect("it is DAP")
            .expect("it is there");
        let hello: Value = serde_json::from_str(&hello).expect("it is JSON");
        let welcome = json!({
            "seq": 1, "type": "response", "request_seq": hello["seq"], "success": true,
            "command": "dbgproxy/hello", "body": { "activate": false, "monitor": 0.05 },
        });
        let said = write.write_all(&frame(&welcome.to_string())).await;
        said.expect("it reads");
        (frames, write)
    });
    let script = Script::new(
        "goes.py",
        "\
import asyncio, dbgproxy
async def worker(): await asyncio.sleep(3600)
async def main():
    every = [asyncio.ensure_future(worker()) for _ in range(1000)]
    for n in range(200):
        with dbgproxy.debug_session('block', metadata={'x': 'y' * 3000}): await asyncio.sleep(0.01)
    print('well')
asyncio.run(main())
",
    );
    let mut command = attached(Python::newest(), &address, None).await;
    command.arg(script.path());
    let ended = Program::start(command).wait().await;
    quiet(&ended);
    assert_eq!(ended.stdout, "well\n");
    drop(deaf.await.expect("it was told"));
}

#[tokio::test]
async fn where_there_is_nothing_to_tell_nothing_is_sent() {
    const IDLE: &str = "\
import sys, time, threading
with threading.Lock(): time.sleep(0.3)
assert 'dbgproxy._monitor' not in sys.modules and 'asyncio' not in sys.modules
";
    const OFF: &str = "\
import asyncio, sys, time, threading, dbgproxy, _thread
with dbgproxy.MonitoredLock(): asyncio.run(asyncio.sleep(0.3))
assert type(threading.Lock()) is _thread.LockType
";
    for python in Python::all() {
        for (monitor, source) in [(None, IDLE), (Some("off"), OFF), (Some("locks,off"), OFF)] {
            eprintln!("{python}, {monitor:?}");
            let mut peer = Peer::start().await;
            let script = Script::new("idle.py", source);
            quiet(&start(python, &peer, monitor, &script).await.wait().await);
            assert!(peer.samples.try_recv().is_err());
        }
    }
}

/// What is to be the same, whether locks are monitored or not.
const SAME: &str = "\
import asyncio, concurrent.futures, contextlib, copy, gc, logging, multiprocessing, os, pickle, queue, signal, sys
import threading, time, warnings, weakref, _thread
warnings.simplefilter('ignore')  # That a process that forks has had threads.
class Stop(Exception): pass
def stop(*_): raise Stop
signal.signal(signal.SIGALRM, stop)
def refuses(kind, function, *args, **kwargs):
    try:
        function(*args, **kwargs)
    except kind:
        return
    assert False, function

for make in (threading.Lock, threading.RLock):
    lock = make()
    assert isinstance(lock, type(lock)) and isinstance(lock, (_thread.LockType, _thread.RLock))
    assert lock.__enter__() is True and lock.__exit__(None, None, None) is None
    assert lock.acquire() is True and lock.release() is None
    assert lock.acquire(False) is True and lock.release() is None
    assert lock.acquire(blocking=True, timeout=1) is True and lock.release() is None
    assert lock.acquire(True, -1) is True and lock.release() is None
    refuses(RuntimeError, lock.release)
    refuses(ValueError, lock.acquire, False, 1)
    refuses(ValueError, lock.acquire, True, -2)
    refuses(OverflowError, lock.acquire, True, 1e100)
    refuses(TypeError, lock.acquire, True, 'x')
    for way in (pickle.dumps, copy.copy, copy.deepcopy):
        refuses(TypeError, way, lock)
    with contextlib.ExitStack() as stack:
        assert stack.enter_context(lock) is True
    try:
        with lock: raise Stop
    except Stop: pass
    ref = weakref.ref(lock)
    taken, done = threading.Event(), threading.Event()
    def hold():
        with lock:
            taken.set()
            done.wait()
    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    assert lock.acquire(False) is False and lock.acquire(timeout=0.01) is False
    # A signal ends the wait, and leaves nothing behind.
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    refuses(Stop, lock.acquire)
    signal.setitimer(signal.ITIMER_REAL, 0.05)
    refuses(Stop, lock.__enter__)
    done.set()
    thread.join()
    with lock: pass
    del lock, hold, thread, stack, way
    gc.collect()
    assert ref() is None

assert isinstance(_thread.allocate_lock(), type(threading.Lock()))
class Own(threading.Condition): pass
for condition in (threading.Condition(), threading.Condition(threading.Lock()), Own(threading.RLock()), Own()):
    assert isinstance(condition, threading.Condition)
    refuses(RuntimeError, condition.notify)
    woken = []
    def wait():
        with condition:
            with_two = condition.wait_for(lambda: woken, 60)
            woken.append(with_two)
    thread = threading.Thread(target=wait)
    thread.start()
    with condition:
        assert condition.wait(0.01) is False
        woken.append(1)
        condition.notify_all()
    thread.join()
    assert len(woken) == 2
for make in (threading.Semaphore, threading.BoundedSemaphore):
    semaphore = make(2)
    with semaphore, semaphore:
        assert semaphore.acquire(blocking=False) is False and semaphore.acquire(timeout=0.01) is False
    assert semaphore.acquire() is True
    semaphore.release()
refuses(ValueError, semaphore.release)
refuses(ValueError, threading.Semaphore, -1)

channel = queue.Queue()
assert type(channel.mutex) is _thread.LockType
with concurrent.futures.ThreadPoolExecutor(4) as pool:
    assert list(pool.map(abs, range(-100, 0))) == list(range(100, 0, -1))
logging.getLogger('x').addHandler(logging.StreamHandler())

async def coroutines():
    lock = asyncio.Lock()
    assert await lock.acquire() is True and lock.locked() and lock.release() is None
    refuses(RuntimeError, lock.release)
    seen = []
    async def work(n):
        async with lock:
            seen.append(n)
            await asyncio.sleep(0)
            seen.append(n)
    await asyncio.gather(*[work(n) for n in range(20)])
    assert seen == [n for n in range(20) for _ in range(2)], seen
    await lock.acquire()
    waiting = asyncio.ensure_future(lock.acquire())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    try:
        await asyncio.wait_for(lock.acquire(), 0.01)
        assert False
    except asyncio.TimeoutError: pass
    lock.release()
    class Own(asyncio.Lock):
        async def acquire(self):
            seen.append('own')
            return await super().acquire()
    async with Own() as nothing: assert nothing is None
    assert seen[-1] == 'own'
    async with asyncio.Condition() as nothing, asyncio.BoundedSemaphore(1): assert nothing is None
asyncio.run(coroutines())

def child(lock, again, condition, semaphore, value, answers):
    with lock, again, again, condition, semaphore, value.get_lock():
        value.value += 1
    answers.put(lock.acquire(timeout=5))
    lock.release()
if __name__ == '__main__':
    for way in ('fork', 'spawn'):
        context = multiprocessing.get_context(way)
        parts = [
            context.Lock(), context.RLock(), context.Condition(), context.BoundedSemaphore(2), context.Value('i'),
            context.Queue(),
        ]
        both = [context.Process(target=child, args=parts) for _ in range(2)]
        for process in both: process.start()
        for process in both: assert parts[-1].get() is True
        for process in both:
            process.join()
            assert process.exitcode == 0
        assert parts[4].value == 2 and parts[0].acquire(False) and not parts[0].acquire(True, 0.01)
        parts[0].release()
        refuses(ValueError, parts[0].release)
        refuses(AssertionError, parts[1].release)
        assert isinstance(parts[0], multiprocessing.synchronize.Lock)
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    pid = os.fork()
    if not pid:
        with threading.Lock(), threading.RLock(): os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    print('same')
";

#[tokio::test]
async fn monitored_locks_behave_as_locks() {
    let script = Script::new("same.py", SAME);
    for python in Python::all() {
        for monitor in [Some("off"), Some("locks,tasks+")] {
            eprintln!("{python}, {monitor:?}");
            let peer = Peer::start().await;
            let ended = start(python, &peer, monitor, &script).await.wait().await;
            quiet(&ended);
            assert_eq!(ended.stdout, "same\n");
        }
    }
}

const EXPLICIT: &str = "\
import asyncio, multiprocessing, sys, threading, dbgproxy
plain = threading.Lock()
for _ in range(3):
    with dbgproxy.monitor_lock('plain', plain) as got: assert got is True
one = dbgproxy.monitor_lock('by name')
assert dbgproxy.monitor_lock('by name') is one and not one.locked()
with dbgproxy.monitor_lock('for a while'):
    # Nobody but the statement has it.
    assert dbgproxy.monitor_lock('for a while').locked()
with one:
    assert one.locked() and not dbgproxy.monitor_lock('by name').acquire(False)
again = dbgproxy.MonitoredLock(threading.RLock(), 'again')
with again, again: assert again._is_owned()
assert isinstance(again, dbgproxy.MonitoredLock)
condition = dbgproxy.MonitoredLock(threading.Condition(), 'condition')
with condition: condition.notify_all()
semaphore = dbgproxy.MonitoredLock(threading.BoundedSemaphore(1), name='semaphore')
with semaphore: assert not semaphore.acquire(blocking=False)
shared = dbgproxy.MonitoredLock(multiprocessing.Lock(), 'shared')
with shared: assert not shared.acquire(False) and not shared.acquire(timeout=0.01)
both = threading.Condition(dbgproxy.MonitoredLock(name='below'))
with both: both.wait(0.01)
class Odd:
    __slots__ = 'taken'
    def acquire(self, blocking=True): self.taken = True; return True
    def release(self): self.taken = False
odd = dbgproxy.MonitoredLock(Odd(), 'odd')
with odd: assert odd.taken
assert not odd.taken
async def main():
    lock = asyncio.Lock()
    async with dbgproxy.monitor_lock('async', lock) as got: assert lock.locked() and got is None
    other = dbgproxy.MonitoredLock(lock, 'other')
    assert await other.acquire() and other.locked()
    other.release()
    limit = dbgproxy.MonitoredLock(asyncio.Semaphore(1), 'limit')
    async with limit: assert limit.locked()
    inside = []
    async def work():
        async with dbgproxy.monitor_lock('by name'):
            inside.append(1)
            assert len(inside) == 1
            await asyncio.sleep(0.01)
            inside.pop()
    await asyncio.gather(*[work() for _ in range(5)])
asyncio.run(main())
held = dbgproxy.MonitoredLock(name='held').__enter__
held()
print('well')
sys.stdin.readline()
";

#[tokio::test]
async fn a_program_names_its_own_locks() {
    let script = Script::new("explicit.py", EXPLICIT);
    for python in Python::all() {
        for monitor in [None, Some("locks")] {
            eprintln!("{python}, {monitor:?}");
            let mut peer = Peer::start().await;
            let mut program = start(python, &peer, monitor, &script).await;
            let named = |sample: &Value, name: &str| {
                locks(sample)
                    .find(|it| it["name"] == name)
                    .cloned()
                    .unwrap_or_default()
            };
            let sample = peer
                .sample("the lock that is held", |it| {
                    named(it, "held")["holders"][0].is_object()
                })
                .await;
            assert_eq!(named(&sample, "plain")["acquisitions"], 3, "{sample}");
            assert_eq!(named(&sample, "again")["acquisitions"], 1, "{sample}");
            assert_eq!(named(&sample, "by name")["acquisitions"], 6, "{sample}");
            assert_eq!(named(&sample, "odd")["acquisitions"], 1, "{sample}");
            assert!(named(&sample, "shared")["acquisitions"] == 1, "{sample}");
            for lock in locks(&sample).filter(|it| it["name"] != "held") {
                assert_eq!(lock["holders"], json!([]), "{lock}");
            }
            program.tell("").await;
            quiet(&program.wait().await);
        }
        // Without a daemon the same.
        let mut command = attached(python, "127.0.0.1:1", None).await;
        command.env_remove("DBGPROXY").arg(script.path());
        let mut program = Program::start(command);
        program.tell("").await;
        quiet(&program.wait().await);
    }
}

const ODD: &str = "\
import _thread, asyncio, contextlib, multiprocessing, signal, sys, threading, time, dbgproxy
from dbgproxy import _monitor

def told(name=None):
    rows = _monitor.Monitor(frozenset(['locks']), 1.0).sample_locks(time.monotonic(), {})['locks']
    if name is None: return [row for row in rows if row['holders']]
    return [row for row in rows if row['name'] == name][0]

def here(what):
    row, = told()
    file, line = row['holders'][0]['site']
    assert file == __file__, (what, file, line)

# Several tasks that wait by one wrapper are several.
lock = dbgproxy.MonitoredLock(threading.Lock(), 'one')
async def several():
    async def work():
        async with lock: pass
    lock.acquire()
    tasks = [asyncio.ensure_future(work()) for _ in range(3)]
    await asyncio.sleep(0.01)
    assert told('one')['waiterCount'] == 3
    lock.release()
    await asyncio.gather(*tasks)
    assert told('one')['contended'] == 3
asyncio.run(several())
# A task that is over is not taken for the thread that takes the lock after it.
with lock: assert 'leaked' not in told('one'), told('one')
for named in [dbgproxy.MonitoredLock(threading.Lock(), 'named')._lock]:
    async def task():
        async with dbgproxy.monitor_lock('named', named): pass
    asyncio.run(task())
    with dbgproxy.monitor_lock('named', named): assert 'leaked' not in told('named')
# Nor does a coroutine wait for what its own thread holds.
again = dbgproxy.MonitoredLock(threading.RLock(), 'again')
async def within():
    with again:
        async with again: assert again._is_owned()
asyncio.run(asyncio.wait_for(within(), 60))

# A thread that `threading` hears of later is the same.
raw = threading.Lock()
go, done = _thread.allocate_lock(), _thread.allocate_lock()
def unknown():
    with raw:
        done.release()
        go.acquire()
        threading.current_thread()
        done.release()
        go.acquire()
    done.release()
go.acquire()
done.acquire()
_thread.start_new_thread(unknown, ())
done.acquire()
monitor = _monitor.Monitor(frozenset(['locks']), 1.0)
for _ in range(2):
    rows = monitor.sample_locks(time.monotonic(), {})['locks']
    assert any(row['holders'] for row in rows) and not any(row.get('leaked') for row in rows), rows
    go.release()
    done.acquire()
# Nor has a thread of C callers, or makers.
mute = threading.Lock()
_thread.start_new_thread(mute.acquire, ())
while not mute.locked(): time.sleep(0.001)
_thread.start_new_thread(threading.Lock, ())
mute.release()

# What waits on a Condition does not hold it.
condition = threading.Condition()
with condition: condition.wait(0.05)
assert condition._lock._record.longest == 0.0
# It has it again where the program waits.
for condition in (threading.Condition(), threading.Condition(threading.Lock()), multiprocessing.Condition()):
    with condition:
        condition.wait(0.01)
        here(condition)
shared = multiprocessing.Lock()
with contextlib.ExitStack() as stack:
    stack.enter_context(shared)
    here('a stack')
assert not told()
async def given():
    lock = asyncio.Lock()
    async with contextlib.AsyncExitStack() as stack:
        await lock.acquire()
        stack.callback(lock.release)
        # Python 3.12 and later run it in the task.
        if sys.version_info >= (3, 12):
            lock.release()
            await asyncio.wait_for(lock.acquire(), 60)
        here('wait_for')
    await lock.acquire()
    try: await asyncio.wait_for(lock.acquire(), 0.01)
    except asyncio.TimeoutError: pass
    assert lock._dbgproxy.contended == 1
asyncio.run(given())

# Locks of others, whose `acquire` is told other things, or nothing.
class File:
    def __init__(self): self.bare = _thread.allocate_lock()
    def acquire(self, timeout=-1):
        if not self.bare.acquire(True, timeout): raise TimeoutError
        return self
    def release(self): self.bare.release()
    def __enter__(self): return self.acquire()
    def __exit__(self, *error): self.release()
class Bare:
    def __init__(self): self.bare = _thread.allocate_lock()
    def acquire(self): self.bare.acquire()
    def release(self): self.bare.release()
for inner in (File(), Bare()):
    other = dbgproxy.MonitoredLock(inner, 'other')
    other.acquire()
    here(inner)
    waits = threading.Thread(target=lambda: (other.__enter__(), other.__exit__(None, None, None)))
    waits.start()
    while told('other')['waiterCount'] < 1: time.sleep(0.001)
    other.release()
    waits.join()
    with other as got: assert inner.bare.locked() and got is (inner if type(inner) is File else None)
    assert not inner.bare.locked() and told('other')['acquisitions'] == 3, told('other')
    del other, waits
class Remote:
    def __init__(self): self.bare = asyncio.Lock()
    async def acquire(self): return await self.bare.acquire()
    async def release(self): self.bare.release()
    async def locked(self): return self.bare.locked()
async def remote():
    inner = Remote()
    other = dbgproxy.MonitoredLock(inner, 'remote')
    for _ in range(2):
        async with other: assert inner.bare.locked() and told('remote')['holders']
        assert not inner.bare.locked() and not told('remote')['holders']
    assert await other.acquire() and await other.release() is None and not inner.bare.locked()
    assert told('remote')['contended'] == 0
asyncio.run(remote())

# An exception that was told, and asked for later, is not taken for another one that has its number.
async def late():
    async def fails(): raise ValueError
    monitor = _monitor.Monitor(frozenset(['tasks']), 1.0)
    task = asyncio.ensure_future(fails())
    monitor.sample(time.monotonic())
    await asyncio.wait([task])
    for _ in range(2): monitor.sample(time.monotonic())
    assert list(_monitor._seen) == [id(task._exception)]
    task.exception()
    monitor.sample(time.monotonic())
    assert not _monitor._seen
asyncio.run(late())

# What is gone is counted among what is told.
def loses(): threading.Lock().acquire()
loses()
sample = _monitor.Monitor(frozenset(['locks']), 1.0).sample_locks(time.monotonic(), {})
assert sample['total'] == len(sample['locks']) and sample['locks'][0]['leaked'], sample

# What is no lock is refused with a word about what may have been meant.
try: dbgproxy.MonitoredLock('a name')
except TypeError as error: assert 'name=' in str(error)
else: assert False

# A signal that ends a block also gives the lock back. (Before Python 3.10 it may miss the block of any lock.)
class Stop(Exception): pass
def stop(*args): raise Stop
signal.signal(signal.SIGALRM, stop)
makers = [threading.Lock, threading.RLock, multiprocessing.Lock] if sys.version_info >= (3, 10) else []
bare = threading.Lock()
for take in [lambda lock=make(): lock for make in makers] + [lambda: dbgproxy.monitor_lock('signal', bare)] * len(makers[:1]):
    for _ in range(100):
        try:
            signal.setitimer(signal.ITIMER_REAL, 0.001)
            while True:
                with take(): pass
        except Stop: pass
        lock = take()
        assert not (lock._is_owned() if hasattr(lock, '_is_owned') else lock._semlock._is_zero()), lock
print('true')
";

#[tokio::test]
async fn what_is_told_of_locks_is_true_and_locks_of_any_kind_work() {
    let script = Script::new("odd.py", ODD);
    for python in Python::all() {
        eprintln!("{python}");
        // Nobody else looks.
        let mut command = attached(python, "127.0.0.1:1", Some("locks")).await;
        command.arg(script.path());
        let ended = Program::start(command).wait().await;
        quiet(&ended);
        assert_eq!(ended.stdout, "true\n");
    }
}
