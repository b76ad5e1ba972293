//! What the guard answers when the daemon asks it: the stacks of all threads and tasks, and what expressions give.
//! And the name of a process that gets one late.

mod support;

use serde_json::{Value, json};
use support::tap::Tapped;
use support::wait::within;
use support::{Client, Daemon, Program, Python, Script, Tap};

/// Starts a script under debugpy behind a tap.
async fn tapped(python: &Python, script: &Script) -> (Daemon, Tap, Program, Tapped) {
    eprintln!("{python}");
    let daemon = Daemon::start().await;
    let tap = Tap::start(&daemon).await;
    let program = python.debug(tap.address, script, &[]);
    let process = tap.process(|_| true).await;
    (daemon, tap, program, process)
}

/// The only thread or task of that name in an answer.
fn row<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let rows = answer["threads"].as_array().expect("a list");
    let mut named = rows.iter().filter(|row| row["name"] == name);
    match (named.next(), named.next()) {
        (Some(row), None) => row,
        _ => panic!("not one {name:?} in {answer:#}"),
    }
}

/// The frames of the script, innermost first, as `function:line`.
fn own(row: &Value, script: &Script) -> Vec<String> {
    let path = json!(script.path());
    let frames = row["frames"].as_array().expect("a list").iter();
    frames
        .filter(|frame| frame[1] == path)
        .map(|frame| format!("{}:{}", frame[0].as_str().expect("a name"), frame[2]))
        .collect()
}

/// No answer has a frame or a thread of the debugger, or of the start of Python and of threads.
fn without_debugger(answer: &Value) {
    for row in answer["threads"].as_array().expect("a list") {
        let name = row["name"].as_str().expect("a text");
        assert!(!name.contains("pydevd"), "{row:#}");
        for frame in row["frames"].as_array().expect("a list") {
            let function = frame[0].as_str().expect("a text");
            let path = frame[1].as_str().expect("a text");
            let debugger = path.contains("debugpy") || path.contains("dbgproxy>");
            assert!(!debugger && !path.contains("runpy"), "{row:#}");
            assert!(!function.starts_with("_bootstrap"), "{row:#}");
        }
    }
}

/// Every way in which a thread can stand still without being stopped.
const THREADS: &str = "\
import queue, sys, threading, time

ready = threading.Barrier(8)

def sleeps():
    ready.wait()
    time.sleep(3600)  # SLEEPS

def gets():
    ready.wait()
    queue.Queue().get()  # GETS

def locks():
    lock = threading.Lock()
    lock.acquire()
    ready.wait()
    lock.acquire()  # LOCKS

def spins():
    ready.wait()
    while True: pass  # SPINS

def recurs(depth):
    if depth == 1:
        ready.wait()
        time.sleep(3600)  # DEEPEST
    recurs(depth - 1)  # RECURS

class Odd(threading.Thread):
    name = property(lambda self: 1 / 0, lambda self, name: None)

for target in (sleeps, gets, locks, spins):
    threading.Thread(target=target, name=target.__name__, daemon=True).start()
threading.Thread(target=recurs, args=(700,), name='recurs', daemon=True).start()
threading.Thread(target=sleeps, name='\\ud800 \\N{PILE OF POO} \"', daemon=True).start()
threading.Thread(target=sleeps, name='n' * 10000, daemon=True).start()
ready.wait()
print('began')
sys.stdin.readline()  # MAIN
print('ends')
sys.exit(7)
";

#[tokio::test]
async fn threads_that_run_or_block_in_c_are_seen_and_not_stopped() {
    let script = Script::new("threads.py", THREADS);
    let at = |function: &str, marker: &str| format!("{function}:{}", script.line(marker));
    for python in Python::all() {
        let (_daemon, _tap, mut program, process) = tapped(python, &script).await;
        program.printed("began").await;
        // They have all met, and each will come to the line on which it stays.
        let places = [
            ("MainThread", at("<module>", "# MAIN")),
            ("sleeps", at("sleeps", "# SLEEPS")),
            ("gets", at("gets", "# GETS")),
            ("locks", at("locks", "# LOCKS")),
            ("spins", at("spins", "# SPINS")),
            ("recurs", at("recurs", "# DEEPEST")),
        ];
        let answer = within("all threads to be there", async {
            loop {
                let answer = process.ask("stacks", "None").await;
                let mut places = places.iter();
                if places
                    .all(|(name, place)| own(row(&answer, name), &script).first() == Some(place))
                {
                    break answer;
                }
            }
        })
        .await;
        without_debugger(&answer);
        assert_eq!(answer["omitted"], 0);
        assert_eq!(
            answer["threads"].as_array().map(Vec::len),
            Some(8),
            "{answer:#}"
        );
        let main = row(&answer, "MainThread");
        assert_eq!(main["frames"].as_array().map(Vec::len), Some(1), "{main:#}");
        for (name, place) in &places[..5] {
            assert_eq!(own(row(&answer, name), &script), [place.as_str()]);
        }
        // A surrogate is no Unicode, and a name has a limit.
        let names = answer["threads"].as_array().expect("a list").iter();
        let names: Vec<&str> = names.filter_map(|row| row["name"].as_str()).collect();
        assert!(
            names.iter().any(|name| name.ends_with(" \u{1f4a9} \"")),
            "{names:?}"
        );
        let long = names.iter().find(|name| name.starts_with("nnnn"));
        assert_eq!(long.map(|name| name.chars().count()), Some(4096));

        let deep = row(&answer, "recurs");
        let frames = own(deep, &script);
        assert_eq!(
            deep["omitted"].as_u64().map(|omitted| omitted > 400),
            Some(true)
        );
        assert_eq!(deep["frames"].as_array().map(Vec::len), Some(256));
        let total = frames.len() as u64 + deep["omitted"].as_u64().unwrap_or_default();
        // All of its own, but for what the standard library has on both ends.
        assert!((699..710).contains(&total), "{total}");
        assert_eq!(frames.last(), Some(&at("recurs", "# RECURS")));

        for row in answer["threads"].as_array().expect("a list") {
            assert_eq!(row["kind"], "thread");
            assert!(row["threadId"].is_i64(), "{row:#}");
        }
        program.tell("go on").await;
        let ended = program.wait().await;
        assert_eq!((&*ended.stdout, &*ended.stderr), ("began\nends\n", ""));
        assert_eq!(ended.code, 7);
    }
}

/// Fifty threads, one of which stops.
const STOPS: &str = "\
import threading

ready = threading.Barrier(50)
over = threading.Event()

def inner():
    print('stops')  # BREAK

def stops():
    ready.wait()
    inner()  # CALL

def waits():
    ready.wait()
    over.wait()  # WAITS

threads = [threading.Thread(target=waits, name='waits %d' % n) for n in range(49)]
threads.append(threading.Thread(target=stops, name='stops'))
for thread in threads:
    thread.start()
threads[-1].join()  # MAIN
over.set()
";

#[tokio::test]
async fn a_thread_that_is_stopped_shows_its_own_frames_only() {
    let script = Script::new("stops.py", STOPS);
    let at = |function: &str, marker: &str| format!("{function}:{}", script.line(marker));
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let tap = Tap::start(&daemon).await;
        let line = script.line("# BREAK");
        let waiting = Client::start(&daemon)
            .arguments(&json!({ "view": "process" }))
            .breakpoints(script.path(), &[line])
            .waiting()
            .await;
        let mut program = python.debug(tap.address, &script, &[]);
        let mut client = waiting.attached().await;
        let stopped = client.stopped_at(line).await;
        let process = tap.process(|_| true).await;

        let answer = process.ask("stacks", "None").await;
        without_debugger(&answer);
        let rows = answer["threads"].as_array().expect("a list");
        assert_eq!(rows.len(), 51, "{answer:#}");
        let row = row(&answer, "stops");
        assert_eq!(row["threadId"], stopped.thread);
        let expected = [at("inner", "# BREAK"), at("stops", "# CALL")];
        assert_eq!(own(row, &script), expected);
        assert_eq!(row["frames"][0][0], "inner", "{row:#}");
        // The other ids and names are DAP's too.
        let threads = client.threads().await;
        for row in rows {
            let id = row["threadId"].as_i64().expect("pydevd knows them all");
            assert_eq!(threads.get(&id).map(String::as_str), row["name"].as_str());
        }
        // As pydevd has it, but for what it leaves out as not the user's.
        let stack = client.stack(stopped.thread).await;
        for (theirs, ours) in stack.iter().zip(row["frames"].as_array().expect("a list")) {
            let theirs = json!([theirs["name"], theirs["source"]["path"], theirs["line"]]);
            assert_eq!(theirs, *ours);
        }
        client.continue_(stopped.thread).await;
        assert_eq!(program.wait().await.code, 0);
    }
}

/// Tasks that wait for one another, for time, and for nothing yet.
const TASKS: &str = "\
import asyncio, sys

class Awaitable:
    def __await__(self):
        return innermost().__await__()

async def innermost():
    await asyncio.get_running_loop().create_future()  # INNERMOST

async def generates():
    await Awaitable()  # GENERATES
    yield

async def middle():
    async for _ in generates(): pass  # MIDDLE

async def outer():
    await middle()  # OUTER

async def runs():
    await asyncio.sleep(0.001)
    print('began') or sys.stdin.readline()  # RUNS

async def main():
    tasks = [asyncio.create_task(outer()), asyncio.create_task(innermost()), asyncio.create_task(runs())]
    for task, name in zip(tasks, ('outer', 'innermost', 'runs')):
        task.set_name(name)
    asyncio.current_task().set_name('gathers')
    await asyncio.gather(tasks[2])  # WAITS
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)  # GATHERS
    print('ends')

asyncio.run(main())
";

#[tokio::test]
async fn tasks_show_what_they_await() {
    let script = Script::new("tasks.py", TASKS);
    let at = |function: &str, marker: &str| format!("{function}:{}", script.line(marker));
    for python in Python::all() {
        let (_daemon, _tap, mut program, process) = tapped(python, &script).await;
        program.printed("began").await;
        let answer = process.ask("stacks", "None").await;
        without_debugger(&answer);
        let outer = row(&answer, "outer");
        let expected = [
            at("innermost", "# INNERMOST"),
            at("generates", "# GENERATES"),
            at("middle", "# MIDDLE"),
            at("outer", "# OUTER"),
        ];
        assert_eq!(own(outer, &script), expected);
        assert_eq!(
            (&outer["kind"], &outer["threadId"]),
            (&json!("task"), &Value::Null)
        );
        let innermost = own(row(&answer, "innermost"), &script);
        assert_eq!(innermost, [at("innermost", "# INNERMOST")]);
        assert_eq!(
            own(row(&answer, "gathers"), &script),
            [at("main", "# WAITS")]
        );
        // The one that runs is the stack of the thread.
        let main = own(row(&answer, "MainThread"), &script);
        assert_eq!(main[0], at("runs", "# RUNS"));
        assert_eq!(
            answer["threads"].as_array().map(Vec::len),
            Some(4),
            "{answer:#}"
        );
        program.tell("go on").await;
        let ended = program.wait().await;
        assert_eq!((&*ended.stdout, &*ended.stderr), ("began\nends\n", ""));
        assert_eq!(ended.code, 0);
    }
}

/// More tasks than an answer has room for, that come and go beside the questions.
const CROWD: &str = "\
import asyncio, sys, threading

async def passes():
    await asyncio.sleep(0)

async def waits():
    await asyncio.get_running_loop().create_future()

async def main():
    crowd = [asyncio.create_task(waits()) for _ in range(1500)]
    await asyncio.sleep(0)
    print('began')
    while ends.is_alive():
        for _ in range(50):
            asyncio.create_task(passes())
        await asyncio.sleep(0)

ends = threading.Thread(target=sys.stdin.readline)
ends.start()
asyncio.run(main())
";

#[tokio::test]
async fn an_answer_has_a_limit_and_says_what_is_not_in_it() {
    let script = Script::new("crowd.py", CROWD);
    for python in Python::all() {
        let (_daemon, _tap, mut program, process) = tapped(python, &script).await;
        program.printed("began").await;
        for _ in 0..8 {
            let answer = process.ask("stacks", "None").await;
            assert_eq!(answer["threads"].as_array().map(Vec::len), Some(1000));
            assert!(
                answer["omitted"].as_u64() >= Some(502),
                "{}",
                answer["omitted"]
            );
        }
        program.tell("go on").await;
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""));
    }
}

const EVALUATES: &str = "\
import sys

number = 41

class Fails:
    def __repr__(self):
        raise ValueError('two\\nlines')

def function():
    return number + 1  # BREAK

print('began')
sys.stdin.readline()
print(function())
";

#[tokio::test]
async fn an_expression_is_evaluated_in_main_and_stops_nowhere() {
    let script = Script::new("evaluates.py", EVALUATES);
    let line = script.line("# BREAK");
    let result = |result: &str, kind: &str| json!({ "result": result, "type": kind });
    let error = |text: &str| json!({ "error": text });
    let long = format!("'{}\u{2026}", "x".repeat(65534));
    let cases = [
        ("'number'", result("41", "int")),
        ("'  number + 1'", result("42", "int")),
        ("'__name__'", result("'__main__'", "str")),
        ("'None'", result("None", "NoneType")),
        // With the breakpoint in it.
        ("'function()'", result("42", "int")),
        ("'number = 1'", result("", "")),
        ("'number'", result("1", "int")),
        ("'for x in range(3):\\n  number += x'", result("", "")),
        ("'number, x'", result("(4, 2)", "tuple")),
        (
            "'chr(0xd800) + chr(0x1f4a9)'",
            result("'\\ud800\u{1f4a9}'", "str"),
        ),
        ("'\"x\" * 100000'", result(&long, "str")),
        ("'absent'", error("NameError: name 'absent' is not defined")),
        ("'raise KeyError'", error("KeyError")),
        ("'Fails()'", error("ValueError: two lines")),
        ("'sys.exit(3)'", error("SystemExit: 3")),
    ];
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let tap = Tap::start(&daemon).await;
        let waiting = Client::start(&daemon)
            .arguments(&json!({ "view": "process" }))
            .breakpoints(script.path(), &[line])
            .waiting()
            .await;
        let mut program = python.debug(tap.address, &script, &[]);
        let mut client = waiting.attached().await;
        program.printed("began").await;
        let process = tap.process(|_| true).await;
        for (expression, expected) in &cases {
            let answer = process.ask("evaluate", expression).await;
            assert_eq!(answer, *expected, "{expression}");
        }
        let syntax = process.ask("evaluate", "'1 +'").await;
        let said = syntax["error"].as_str().unwrap_or_default();
        assert!(said.starts_with("SyntaxError: "), "{syntax}");
        let absent = process.ask("exit", "None").await;
        assert_eq!(absent, json!({ "error": "KeyError: 'exit'" }));
        client.no_more("stopped").await;
        // What pytest says of itself changes, and is in the next report.
        let test = "tests/test_it.py::test_it (call)";
        let set = format!("'__import__(\"os\").environ[\"PYTEST_CURRENT_TEST\"] = \"{test}\"'");
        process.ask("evaluate", &set).await;
        process.evaluate("__import__('_dbgproxy').tell()").await;
        let reports = process.events("dbgproxyReport");
        let [first, second] = &reports[..] else {
            panic!("not two reports: {reports:#?}");
        };
        assert_eq!(first["environment"], json!({}));
        assert_eq!(second["environment"]["PYTEST_CURRENT_TEST"], test);
        // The breakpoint is there for the program itself.
        program.tell("go on").await;
        let stopped = client.stopped_at(line).await;
        client.continue_(stopped.thread).await;
        let ended = program.wait().await;
        assert_eq!((&*ended.stdout, &*ended.stderr), ("began\n5\n", ""));
        assert_eq!(ended.code, 0);
    }
}

#[tokio::test]
async fn questions_before_user_code_runs() {
    let script = Script::new("held.py", "print('runs')\n");
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let tap = Tap::start(&daemon).await;
        let mut program = python.debug(tap.address, &script, &[]);
        let process = tap.process(|_| true).await;
        let answer = process.ask("stacks", "None").await;
        let main = row(&answer, "MainThread");
        assert_eq!(main["frames"], json!([]), "{answer:#}");
        assert_eq!(answer["threads"].as_array().map(Vec::len), Some(1));
        let answer = process.ask("evaluate", "'1 + 1'").await;
        assert_eq!(answer, json!({ "result": "2", "type": "int" }));
        let _client = Client::start(&daemon).attached().await;
        let ended = program.wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout, &*ended.stderr),
            (0, "runs\n", "")
        );
    }
}

/// Children that are named late, and what they see of themselves. Importing the main module in them waits for the test.
const NAMES: &str = "\
import multiprocessing, os, sys, time
from multiprocessing.process import BaseProcess, current_process

def work():
    process = current_process()
    print(process.name, repr(process).replace(str(process._parent_pid), 'PID'))
    print(vars(BaseProcess)['name'].fset.__module__, sorted(vars(BaseProcess)))
    process.name = 'renamed'
    print(process.name)
    child = multiprocessing.get_context('fork').Process(target=print, args=('forked',), name='child')
    child.start()
    child.join()

if __name__ == '__main__':
    for method, name in (('spawn', 'loader \\N{PILE OF POO}'), ('forkserver', None)):
        process = multiprocessing.get_context(method).Process(target=work, name=name)
        process.start()
        process.join()
        print(process.exitcode)
elif current_process().name != 'MainProcess':
    print('imported in', current_process().name)
    while 'wait' in sys.argv:
        try:
            os.remove('go on')
            break
        except FileNotFoundError:
            time.sleep(0.01)
";

#[tokio::test]
async fn a_name_that_multiprocessing_gives_late_arrives_before_main_is_imported() {
    let script = Script::new("names.py", NAMES);
    for python in Python::all() {
        eprintln!("{python}");
        let alone = python.run(&script, &[]).wait().await;
        let daemon = Daemon::start().await;
        let tap = Tap::start(&daemon).await;
        let mut program = python.debug(tap.address, &script, &["wait"]);
        for name in ["loader \u{1f4a9}", "ForkServerProcess-2"] {
            let process = tap.process(|report| report["name"] == name).await;
            // Until now it has not got beyond the beginning of the main module.
            std::fs::write(script.directory().join("go on"), "").expect("it can be written to");
            let reports = process.events("dbgproxyReport");
            assert_eq!(reports.len(), 2, "{reports:#?}");
            assert_ne!(reports[0]["name"], name);
            assert_eq!(reports[0]["pid"], reports[1]["pid"]);
        }
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (alone.code, &*alone.stderr));
        assert_eq!(ended.stdout, alone.stdout);
        assert!(ended.stdout.contains("imported in loader"), "{ended:?}");
        // All others were named at once, if at all.
        let mut reports = tap.reports();
        reports.retain(|reports| reports.len() > 1);
        assert_eq!(reports.len(), 2, "{reports:#?}");
    }
}
