//! Looking into real programs of many processes with the verbs: where they are, what they have, and how they stop.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::{Client, Daemon, Python, Script};

/// What a process with debugpy takes at most, in KiB, where it is forked of another.
const MEMORY: u64 = 64 * 1024;

/// Workers that sleep, of which one is not like the others.
const POOL: &str = "\
import multiprocessing, sys, time

def work(number):
    global rate
    rate = 0.5 if number == 3 else 0.1
    there.release()
    time.sleep(3600)  # SLEEPS

if __name__ == '__main__':
    count = int(sys.argv[1])
    rate = 0.1
    context = multiprocessing.get_context('fork')
    there = context.Semaphore(0)
    with context.Pool(count) as pool:
        result = pool.map_async(work, range(count), chunksize=1)
        for _ in range(count):
            there.acquire()
        print('ready')
        result.get()
";

/// Two processes, each of which waits for the other to say something first.
const HUNG: &str = "\
import multiprocessing

def ask(questions, answers):
    answers.get()  # ASKS
    questions.put('?')

def answer(questions, answers):
    questions.get()  # ANSWERS
    answers.put('!')

if __name__ == '__main__':
    questions, answers = multiprocessing.Queue(), multiprocessing.Queue()
    both = [
        multiprocessing.Process(target=function, args=(questions, answers), name=function.__name__)
        for function in (ask, answer)
    ]
    for process in both:
        process.start()
    print('hung')
    for process in both:
        process.join()
";

/// A main thread inside of one long call, beside a loop with tasks.
const WAITS: &str = "\
import asyncio, sys, threading, time

def blocked():
    sys.stdin.readline()  # BLOCKED

async def step():
    await asyncio.sleep(3600)  # WAITS

async def main():
    await asyncio.gather(*(asyncio.create_task(step(), name='job-%d' % n) for n in range(3)))

threading.Thread(target=asyncio.run, args=(main(),), daemon=True, name='loop').start()
value = 41
print('began')
blocked()
value += 1
while True:
    time.sleep(0.01)
";

/// What a command prints that succeeds.
async fn shows(daemon: &Daemon, arguments: &[&str]) -> String {
    let output = daemon.run(arguments).await;
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("it is text")
}

async fn ask(daemon: &Daemon, verb: &str, arguments: Value) -> Value {
    let (status, body) = daemon.verb(verb, arguments).await;
    assert_eq!(status, 200, "{verb}: {body}");
    body
}

/// How much memory there is, in KiB.
fn available() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").expect("this is Linux");
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"));
    let line = line.expect("it says so").trim().trim_end_matches(" kB");
    line.parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_64_processes_are_is_one_screen() {
    let count = if available() > 2 * 64 * MEMORY {
        64
    } else {
        32
    };
    let script = Script::new("train.py", POOL);
    let daemon = Daemon::start().await;
    let mut program = Python::newest().debug(&daemon, &script, &[&count.to_string()]);
    program.printed("ready").await;
    let started = std::time::Instant::now();
    let answer = ask(&daemon, "stacks", json!({})).await;
    println!("stacks of {count} workers: {:?}", started.elapsed());
    let rows = answer["rows"].as_array().expect("they are there");
    assert_eq!(rows.len(), count + 1);
    let failed = rows.iter().find(|row| row["success"] != true);
    assert_eq!(failed, None);
    // All workers are in one stack.
    let sleeping = &answer["stacks"][0];
    assert_eq!(sleeping["count"], count);
    assert_eq!(sleeping["frames"][0]["name"], "work");
    assert_eq!(sleeping["frames"][0]["line"], script.line("# SLEEPS"));
    assert_eq!(answer["omitted"], 0);

    let started = std::time::Instant::now();
    let text = shows(&daemon, &["bt"]).await;
    println!("dbgproxy bt: {:?}\n{text}", started.elapsed());
    assert!(
        text.contains(&format!("<- ForkPoolWorker-1…-{count} ({count})")),
        "{text}"
    );
    let lines = text.lines().count();
    assert!(lines <= 50, "{lines} lines:\n{text}");
    // Nothing was stopped for it.
    assert!(daemon.sessions(&["state=stopped"]).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hung_program_shows_who_waits_for_whom() {
    let script = Script::new("hung.py", HUNG);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let merged = json!({ "view": "merged" });
        let mut client = Client::start(&daemon).arguments(&merged).attached().await;
        let mut program = python.debug(&daemon, &script, &[]);
        program.printed("hung").await;
        let places = [("ask", "# ASKS"), ("answer", "# ANSWERS")]
            .map(|(function, marker)| (function, format!("hung.py:{}", script.line(marker))));
        let is_at = |text: &str, (function, place): &(&str, String)| {
            let mut lines = text.lines();
            lines.any(|line| line.contains(&format!("{function} ")) && line.ends_with(place))
        };
        // A process forks before it hangs.
        let both = async {
            loop {
                let arguments = json!({ "expression": ":bt all", "context": "repl" });
                let mut response = client.try_request("evaluate", arguments).await;
                let text = response["body"]["result"].take();
                let text = text.as_str().unwrap_or_default().to_owned();
                if places.iter().all(|place| is_at(&text, place)) {
                    break text;
                }
            }
        };
        let text = within("both to hang where they hang", both).await;
        for who in ["<- ask", "<- answer", "<- hung.py"] {
            assert!(text.contains(who), "{who}\n{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_in_one_long_call_is_seen_into_and_stops_later() {
    let script = Script::new("waits.py", WAITS);
    let (blocked, waits) = (script.line("# BLOCKED"), script.line("# WAITS"));
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut program = python.debug(&daemon, &script, &[]);
        program.printed("began").await;
        let text = async {
            loop {
                let text = shows(&daemon, &["bt"]).await;
                if text.contains("<- waits.py\n") && text.contains("waits.py · job-0…-2 (3)") {
                    break text;
                }
            }
        };
        let text = within("tasks and a blocked thread", text).await;
        for (function, line) in [("blocked", blocked), ("step", waits)] {
            let place = format!("waits.py:{line}");
            let at = |text: &str| text.contains(function) && text.contains(&place);
            assert!(text.lines().any(at), "{function} {place}\n{text}");
        }
        assert!(text.contains("waits.py · loop"), "{text}");
        assert!(!text.contains("pydevd"), "{text}");
        let shown = shows(&daemon, &["eval", "value"]).await;
        assert!(shown.trim_end().ends_with("  41"), "{shown}");

        let answer = ask(&daemon, "pause", json!({})).await;
        let row = &answer["rows"][0];
        assert_eq!(
            (&row["success"], &row["state"]),
            (&json!(true), &json!("running"))
        );
        let message = row["message"].as_str().unwrap_or_default();
        assert!(message.contains("as soon as"), "{row}");
        program.tell("go on").await;
        let stopped = async { while daemon.sessions(&["state=stopped"]).await.is_empty() {} };
        within("the program to stop", stopped).await;
        let answer = ask(&daemon, "stacks", json!({})).await;
        let stopped = answer["stacks"].as_array().into_iter().flatten();
        let stopped = stopped.flat_map(|stack| stack["threads"].as_array().into_iter().flatten());
        let main = stopped.clone().find(|who| who["thread"] == "MainThread");
        assert_eq!(
            main.map(|who| &who["state"]),
            Some(&json!("stopped")),
            "{answer}"
        );
        let shown = shows(&daemon, &["vars"]).await;
        assert!(shown.contains("waits.py:"), "{shown}");
        // It stays, and runs on when it is told to.
        let shown = shows(&daemon, &["continue"]).await;
        assert!(shown.contains("running"), "{shown}");
        let goes_on =
            async { while !shows(&daemon, &["eval", "value"]).await.contains("  42\n") {} };
        within("the program to go on", goes_on).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_that_is_not_like_the_others() {
    let script = Script::new("train.py", POOL);
    let daemon = Daemon::start().await;
    let mut program = Python::newest().debug(&daemon, &script, &["8"]);
    program.printed("ready").await;
    let workers = "ForkPoolWorker-*";
    let answer = ask(
        &daemon,
        "evaluate",
        json!({ "selector": workers, "expression": "rate" }),
    )
    .await;
    assert_eq!(
        answer["values"],
        json!([{ "result": "0.1", "count": 7 }, { "result": "0.5", "count": 1 }])
    );
    let rows = answer["rows"].as_array().expect("they are there");
    let odd: Vec<&Value> = rows.iter().filter(|row| row["odd"] == true).collect();
    assert_eq!(odd.len(), 1, "{answer}");
    assert_eq!(odd[0]["result"], "0.5");
    let shown = shows(&daemon, &["eval", workers, "rate"]).await;
    let odd: Vec<&str> = shown
        .lines()
        .filter(|line| line.ends_with("<- odd"))
        .collect();
    assert_eq!(odd.len(), 1, "{shown}");

    // A statement, and what cannot be evaluated.
    shows(&daemon, &["eval", workers, "rate = rate * 2"]).await;
    let answer = ask(&daemon, "evaluate", json!({ "expression": "rate" })).await;
    assert_eq!(answer["values"][0], json!({ "result": "0.2", "count": 7 }));
    for (expression, error) in [("nothing", "NameError: "), ("for x in", "SyntaxError: ")] {
        let arguments = json!({ "expression": expression, "selector": "train.py" });
        let answer = ask(&daemon, "evaluate", arguments.clone()).await;
        let running = answer["rows"][0]["message"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(running.starts_with(error), "{running}");
    }
    // The same of a process that is stopped.
    let loops = "import time\nprint('began')\nwhile True:\n    time.sleep(0.01)\n";
    let loops = Script::new("loop.py", loops);
    let mut program = Python::newest().debug(&daemon, &loops, &[]);
    // Before that a process may be stopped in what starts it, which pydevd does not show.
    program.printed("began").await;
    let only = json!({ "selector": "loop.py" });
    let stopped = async {
        while ask(&daemon, "pause", only.clone()).await["rows"][0]["state"] != "stopped" {}
    };
    within("it to stop", stopped).await;
    for (expression, error) in [("nothing", "NameError: "), ("for x in", "SyntaxError: ")] {
        let arguments =
            json!({ "expression": expression, "selector": "loop.py", "context": "repl" });
        let answer = ask(&daemon, "evaluate", arguments).await;
        let message = answer["rows"][0]["message"].as_str().unwrap_or_default();
        assert!(message.starts_with(error), "{message}");
    }
    let answer = ask(&daemon, "next", only).await;
    let place = &answer["rows"][0]["stopped"];
    assert_eq!(place["file"], json!(loops.path()));
    assert!(
        [3, 4].contains(&place["line"].as_i64().unwrap_or_default()),
        "{place}"
    );
}

/// A process that is forked beside a thread with a loop.
const FORKS: &str = "\
import asyncio, multiprocessing, threading, time

async def main():
    started.set()
    await asyncio.sleep(3600)

def work():
    time.sleep(3600)

if __name__ == '__main__':
    started = threading.Event()
    threading.Thread(target=asyncio.run, args=(main(),), daemon=True).start()
    started.wait()
    multiprocessing.get_context('fork').Process(target=work, name='child', daemon=True).start()
    work()
";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_has_no_part_in_the_tasks_that_it_left_behind() {
    let script = Script::new("forks.py", FORKS);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let _program = python.debug(&daemon, &script, &[]);
        let answer = async {
            loop {
                let (_, answer) = daemon.verb("stacks", json!({})).await;
                let stacks = answer["stacks"].as_array().into_iter().flatten();
                let mut working = stacks.filter(|stack| stack["frames"][0]["name"] == "work");
                if working.any(|stack| stack["threads"].to_string().contains("\"child\"")) {
                    break answer;
                }
            }
        };
        let answer = within("the child to work", answer).await;
        let stacks = answer["stacks"].as_array().into_iter().flatten();
        let all = stacks.flat_map(|stack| stack["threads"].as_array().into_iter().flatten());
        let tasks: Vec<&Value> = all.filter(|who| who["kind"] == "task").collect();
        assert_eq!(tasks.len(), 1, "{tasks:?}");
        assert_eq!(tasks[0]["name"], "forks.py");
    }
}
