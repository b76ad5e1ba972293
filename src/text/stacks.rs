//! Where everybody is: the stacks of all processes as a tree, and below it each place on a line.
//!
//! In the tree a frame stands below the one that called it, further to the right only where several go different
//! ways; `<-` points at who is in a frame, which is the innermost one of theirs. The lines at the end, where a
//! terminal leaves the eye, say who waits in what, and from which line of their own.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::fmt::Write;

use serde_json::Value;

use super::names::compress;
use super::rows::{Rows, digits};
use super::{printable, table};
use crate::session::SessionId;
use crate::stacks::{Branch, Frame, Merged, Stack, State, Who};

/// How many lines the tree has; what is further down, and thus rarer, is left to the lines below it.
const MAX_TREE: usize = 1000;

/// How many different places are said, the most frequent ones; of further ones only how many.
const MAX_PLACES: usize = 32;

/// How many parts of a path are said before all of it is.
const MAX_PARTS: usize = 16;

/// How many functions of others are named between a line of the user's own and the innermost frame.
const MAX_BETWEEN: usize = 3;

/// The answer of `stacks`; none if it is not one.
pub(super) fn show(answer: &Value, rows: &Rows<'_>) -> Option<String> {
    let merged = Merged::from_json(answer).ok()?;
    let stacks = merged.stacks();
    let tree = merged.tree();
    let frames = || stacks.iter().flat_map(|stack| stack.frames.iter().copied());
    let counts = tree.first().map(|root| root.count);
    let most = counts
        .max(stacks.first().map(|stack| stack.threads.len()))
        .unwrap_or(0);
    let look = Look {
        rows,
        paths: short(frames().map(|frame| frame.path.as_str())),
        width: digits(most),
    };
    let mut text = look.tree(&tree);
    if stacks.len() > 1 {
        let _ = writeln!(text, "\n{}", heading(&stacks));
        text += &look.places(&stacks);
    } else if stacks.is_empty() && !rows.done.is_empty() {
        text.push_str("No thread is in Python code.\n");
    }
    match merged.omitted() {
        0 => {}
        1 => text.push_str("1 further thread or task is left out.\n"),
        omitted => {
            let _ = writeln!(text, "{omitted} further threads and tasks are left out.");
        }
    }
    Some(text + &rows.rest())
}

/// How many are in how many places.
fn heading(stacks: &[Stack<'_>]) -> String {
    let threads = || stacks.iter().flat_map(|stack| stack.threads);
    let processes: HashSet<SessionId> = threads().map(|who| who.session).collect();
    let count = |count: usize, one: &str, many: &str| match count {
        1 => format!("1 {one}"),
        _ => format!("{count} {many}"),
    };
    format!(
        "{} of {} in {}:",
        count(threads().count(), "thread", "threads"),
        count(processes.len(), "process", "processes"),
        count(stacks.len(), "place", "places"),
    )
}

struct Look<'a> {
    rows: &'a Rows<'a>,
    /// What to write for each path.
    paths: HashMap<&'a str, String>,
    /// How many digits the largest count has.
    width: usize,
}

/// How a branch stands to the frame above it.
#[derive(Clone, Copy)]
enum Below {
    /// There is none above.
    Nothing,
    /// All that are in the one above are here too.
    Same,
    /// Some of them are.
    Some,
}

impl Look<'_> {
    fn tree(&self, roots: &[Branch<'_>]) -> String {
        let mut lines = Vec::new();
        let mut omitted = 0;
        let mut waiting: Vec<(usize, Below, &Branch<'_>)> = Vec::new();
        waiting.extend(roots.iter().rev().map(|root| (0, Below::Nothing, root)));
        while let Some((depth, below, branch)) = waiting.pop() {
            let depth = depth + usize::from(matches!(below, Below::Some));
            let is_same = branch.threads.is_empty() && branch.children.len() == 1;
            let next = if is_same { Below::Same } else { Below::Some };
            waiting.extend(
                branch
                    .children
                    .iter()
                    .rev()
                    .map(|child| (depth, next, child)),
            );
            if lines.len() >= MAX_TREE {
                omitted += 1;
                continue;
            }
            if matches!(below, Below::Nothing) && !lines.is_empty() {
                lines.push([String::new(), String::new(), String::new()]);
            }
            lines.push(self.line(depth, below, branch));
        }
        let mut text = table(&lines);
        if omitted > 0 {
            let _ = writeln!(text, "… {omitted} further frames");
        }
        text
    }

    fn line(&self, depth: usize, below: Below, branch: &Branch<'_>) -> [String; 3] {
        let count = match below {
            Below::Same => String::new(),
            Below::Nothing | Below::Some => branch.count.to_string(),
        };
        let indent = (self.width + 2) * depth;
        let name = printable(&branch.frame.name);
        let who = match branch.threads {
            [] => String::new(),
            threads => format!("<- {}", self.who(threads)),
        };
        [
            format!("{:indent$}{count:>width$}  {name}", "", width = self.width),
            self.place(branch.frame),
            who,
        ]
    }

    /// One line for each different stack.
    fn places(&self, stacks: &[Stack<'_>]) -> String {
        let line = |stack: &Stack<'_>| {
            [
                format!("{:width$}", stack.threads.len(), width = self.width),
                self.who(stack.threads),
                self.calls(&stack.frames),
            ]
        };
        let shown = stacks.iter().take(MAX_PLACES).map(line);
        let mut text = table(&shown.collect::<Vec<_>>());
        if stacks.len() > MAX_PLACES {
            let _ = writeln!(text, "… {} further places", stacks.len() - MAX_PLACES);
        }
        text
    }

    /// From the last line of the user's own, through what it called, to the innermost frame.
    fn calls(&self, frames: &[&Frame]) -> String {
        let [innermost, callers @ ..] = frames else {
            return "in no Python code".to_owned();
        };
        let innermost_text = self.call(innermost);
        if is_own(innermost) {
            return innermost_text;
        }
        let own = callers.iter().position(|frame| is_own(frame));
        let between = &callers[..own.unwrap_or(callers.len())];
        // What the own line called says the most, and what is near the end.
        let name = |frame: &&Frame| printable(&frame.name);
        let mut words: Vec<String> = match between.len() {
            0..=MAX_BETWEEN => between.iter().rev().map(name).collect(),
            _ => {
                let last = between[..MAX_BETWEEN - 1].iter().rev().map(name);
                let first = own.and(between.last()).map(name);
                first
                    .into_iter()
                    .chain(["…".to_owned()])
                    .chain(last)
                    .collect()
            }
        };
        if let Some(own) = own {
            words.insert(0, self.call(callers[own]));
        }
        words.push(innermost_text);
        words.join(" > ")
    }

    fn call(&self, frame: &Frame) -> String {
        let text = format!("{} {}", printable(&frame.name), self.place(frame));
        text.trim_end().to_owned()
    }

    fn place(&self, frame: &Frame) -> String {
        let path = self.paths.get(frame.path.as_str());
        match path.map_or("", String::as_str) {
            "" => String::new(),
            path => format!("{}:{}", printable(path), frame.line),
        }
    }

    /// Processes, with their threads where it is not the main one.
    fn who(&self, threads: &[Who]) -> String {
        // Of each process its threads, and then of all with the same threads the processes.
        let mut processes: Vec<(String, bool, Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        for who in threads {
            let is_stopped = who.state == State::Stopped;
            let place = *places
                .entry((who.session, is_stopped))
                .or_insert(processes.len());
            if place == processes.len() {
                let name = self.rows.labels.of(&printable(&who.name), who.pid.into());
                processes.push((name, is_stopped, Vec::new()));
            }
            processes[place].2.push(printable(&who.thread));
        }
        let mut groups: Vec<((bool, String), Vec<String>)> = Vec::new();
        let mut places = HashMap::new();
        for (name, is_stopped, threads) in processes {
            let key = (is_stopped, compress(&threads));
            let place = *places.entry(key.clone()).or_insert(groups.len());
            match groups.get_mut(place) {
                None => groups.push((key, vec![name])),
                Some((_, names)) => names.push(name),
            }
        }
        let said = groups.iter().map(|((is_stopped, threads), names)| {
            let names = compress(names);
            let stopped = if *is_stopped { " [stopped]" } else { "" };
            match threads.as_str() {
                "MainThread" => format!("{names}{stopped}"),
                threads => format!("{names} · {threads}{stopped}"),
            }
        });
        said.collect::<Vec<_>>().join("; ")
    }
}

/// Whether a frame is of the user's own code, and not of Python or of what was installed.
fn is_own(frame: &Frame) -> bool {
    let path = frame.path.replace('\\', "/");
    let others = [
        "/site-packages/",
        "/dist-packages/",
        "/lib/python3",
        "/Lib/",
    ];
    !path.is_empty()
        && !path.starts_with("<frozen ")
        && !others.iter().any(|other| path.contains(other))
}

/// For each path its last two parts, or so many that no other path has the same.
fn short<'a>(paths: impl Iterator<Item = &'a str>) -> HashMap<&'a str, String> {
    let mut left: BTreeSet<&str> = paths.collect();
    let mut found = HashMap::new();
    let mut count = 2;
    while !left.is_empty() {
        let mut same: HashMap<&str, Vec<&str>> = HashMap::new();
        for path in &left {
            let text = match count {
                ..=MAX_PARTS => last(path, count),
                _ => path,
            };
            same.entry(text).or_default().push(path);
        }
        for (text, paths) in same {
            if let [path] = paths[..] {
                found.insert(path, text.replace('\\', "/"));
                left.remove(path);
            }
        }
        count += 1;
    }
    found
}

/// The last parts of a path; all of it if it has not more.
pub(super) fn last(path: &str, count: usize) -> &str {
    let is_slash = |c: char| c == '/' || c == '\\';
    match path.rmatch_indices(is_slash).nth(count - 1) {
        Some((at, _)) => &path[at + 1..],
        None => path,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::stacks::tests::{main_thread, stack};

    /// What is shown of processes' threads, each with a stack, the outermost call first.
    fn shown(threads: Vec<(Who, Vec<&str>)>) -> String {
        let mut rows: Vec<Value> = Vec::new();
        let mut merged = Merged::default();
        for (who, calls) in threads {
            rows.push(
                json!({"session": who.session, "pid": who.pid, "name": who.name, "success": true}),
            );
            merged.add(who, stack(&calls));
        }
        let mut answer = merged.into_json();
        answer["rows"] = json!(rows);
        super::super::show("stacks", &answer)
    }

    fn thread(pid: u32, name: &str, thread: &str) -> Who {
        Who {
            thread: thread.to_owned(),
            ..main_thread(pid, name)
        }
    }

    const MULTIPROCESSING: &str = "/usr/lib/python3.12/multiprocessing";

    /// How multiprocessing starts a process's own function.
    fn child<'a>(calls: &[&'a str]) -> Vec<&'a str> {
        let start = [
            "<module> /x/app/main.py:30",
            "start /usr/lib/python3.12/multiprocessing/process.py:121",
            "_bootstrap /usr/lib/python3.12/multiprocessing/process.py:314",
            "run /usr/lib/python3.12/multiprocessing/process.py:108",
        ];
        start.iter().chain(calls).copied().collect()
    }

    #[test]
    fn two_that_wait_for_each_other() {
        let get = format!("get {MULTIPROCESSING}/queues.py:103");
        let receive = format!("recv_bytes {MULTIPROCESSING}/connection.py:216");
        let read = format!("_recv {MULTIPROCESSING}/connection.py:395");
        let text = shown(vec![
            (
                main_thread(40, "main.py"),
                vec![
                    "<module> /x/app/main.py:33",
                    "join /usr/lib/python3.12/multiprocessing/process.py:149",
                    "poll /usr/lib/python3.12/multiprocessing/popen_fork.py:27",
                ],
            ),
            (
                main_thread(41, "producer"),
                child(&["produce /x/app/main.py:14", &get, &receive, &read]),
            ),
            (
                main_thread(42, "consumer"),
                child(&["consume /x/app/main.py:22", &get, &receive, &read]),
            ),
        ]);
        assert_eq!(
            text,
            "\
2  <module>       app/main.py:30
   start          multiprocessing/process.py:121
   _bootstrap     multiprocessing/process.py:314
   run            multiprocessing/process.py:108
   1  produce     app/main.py:14
      get         multiprocessing/queues.py:103
      recv_bytes  multiprocessing/connection.py:216
      _recv       multiprocessing/connection.py:395  <- producer
   1  consume     app/main.py:22
      get         multiprocessing/queues.py:103
      recv_bytes  multiprocessing/connection.py:216
      _recv       multiprocessing/connection.py:395  <- consumer

1  <module>       app/main.py:33
   join           multiprocessing/process.py:149
   poll           multiprocessing/popen_fork.py:27   <- main.py

3 threads of 3 processes in 3 places:
1  main.py   <module> app/main.py:33 > join > poll multiprocessing/popen_fork.py:27
1  producer  produce app/main.py:14 > get > recv_bytes > _recv multiprocessing/connection.py:395
1  consumer  consume app/main.py:22 > get > recv_bytes > _recv multiprocessing/connection.py:395
"
        );
    }

    #[test]
    fn a_pool_of_64_fits_one_screen() {
        let calls = |rest: &[String]| -> Vec<String> {
            let chain = [
                "<module> /x/app/train.py:40".to_owned(),
                format!("Pool {MULTIPROCESSING}/context.py:119"),
                format!("__init__ {MULTIPROCESSING}/pool.py:215"),
                format!("_repopulate_pool {MULTIPROCESSING}/pool.py:306"),
                format!("start {MULTIPROCESSING}/process.py:121"),
                format!("_Popen {MULTIPROCESSING}/context.py:281"),
                format!("_launch {MULTIPROCESSING}/popen_fork.py:71"),
                format!("_bootstrap {MULTIPROCESSING}/process.py:314"),
                format!("run {MULTIPROCESSING}/process.py:108"),
            ];
            chain.iter().chain(rest).cloned().collect()
        };
        let worker = format!("worker {MULTIPROCESSING}/pool.py:114");
        let get = format!("get {MULTIPROCESSING}/queues.py:364");
        let lock = format!("__enter__ {MULTIPROCESSING}/synchronize.py:95");
        let receive = format!("recv_bytes {MULTIPROCESSING}/connection.py:216");
        let read = format!("_recv {MULTIPROCESSING}/connection.py:379");
        let task = format!("worker {MULTIPROCESSING}/pool.py:125");
        let waiting = calls(&[worker.clone(), get.clone(), lock]);
        let receiving = calls(&[worker, get, receive, read]);
        let working = calls(&[task, "step /x/app/train.py:12".to_owned()]);
        let bootstrap = "_bootstrap /usr/lib/python3.12/threading.py:1032";
        let run = "run /usr/lib/python3.12/threading.py:1012";
        let mut threads = vec![
            (
                main_thread(100, "train.py"),
                vec![
                    "<module> /x/app/train.py:44",
                    "map /usr/lib/python3.12/multiprocessing/pool.py:367",
                    "get /usr/lib/python3.12/multiprocessing/pool.py:768",
                    "wait /usr/lib/python3.12/threading.py:655",
                ],
            ),
            (
                thread(100, "train.py", "Thread-1 (_handle_workers)"),
                vec![
                    bootstrap,
                    run,
                    "_handle_workers /usr/lib/python3.12/multiprocessing/pool.py:522",
                    "select /usr/lib/python3.12/selectors.py:415",
                ],
            ),
            (
                thread(100, "train.py", "Thread-2 (_handle_tasks)"),
                vec![
                    bootstrap,
                    run,
                    "_handle_tasks /usr/lib/python3.12/multiprocessing/pool.py:531",
                    "get /usr/lib/python3.12/queue.py:171",
                ],
            ),
        ];
        for n in 1..=64 {
            let who = main_thread(100 + n, &format!("ForkPoolWorker-{n}"));
            let calls = match n {
                17 => &working,
                64 => &receiving,
                _ => &waiting,
            };
            threads.push((who, calls.iter().map(String::as_str).collect()));
        }
        let text = shown(threads);
        assert_eq!(
            text,
            "\
64  <module>             app/train.py:40
    Pool                 multiprocessing/context.py:119
    __init__             multiprocessing/pool.py:215
    _repopulate_pool     multiprocessing/pool.py:306
    start                multiprocessing/process.py:121
    _Popen               multiprocessing/context.py:281
    _launch              multiprocessing/popen_fork.py:71
    _bootstrap           multiprocessing/process.py:314
    run                  multiprocessing/process.py:108
    63  worker           multiprocessing/pool.py:114
        get              multiprocessing/queues.py:364
        62  __enter__    multiprocessing/synchronize.py:95  <- ForkPoolWorker-1…-16, -18…-63 (62)
         1  recv_bytes   multiprocessing/connection.py:216
            _recv        multiprocessing/connection.py:379  <- ForkPoolWorker-64
     1  worker           multiprocessing/pool.py:125
        step             app/train.py:12                    <- ForkPoolWorker-17

 2  _bootstrap           python3.12/threading.py:1032
    run                  python3.12/threading.py:1012
     1  _handle_workers  multiprocessing/pool.py:522
        select           python3.12/selectors.py:415        <- train.py · Thread-1 (_handle_workers)
     1  _handle_tasks    multiprocessing/pool.py:531
        get              python3.12/queue.py:171            <- train.py · Thread-2 (_handle_tasks)

 1  <module>             app/train.py:44
    map                  multiprocessing/pool.py:367
    get                  multiprocessing/pool.py:768
    wait                 python3.12/threading.py:655        <- train.py

67 threads of 65 processes in 6 places:
62  ForkPoolWorker-1…-16, -18…-63 (62)     <module> app/train.py:40 > Pool > … > worker > get > __enter__ multiprocessing/synchronize.py:95
 1  train.py                               <module> app/train.py:44 > map > get > wait python3.12/threading.py:655
 1  train.py · Thread-1 (_handle_workers)  _bootstrap > run > _handle_workers > select python3.12/selectors.py:415
 1  train.py · Thread-2 (_handle_tasks)    _bootstrap > run > _handle_tasks > get python3.12/queue.py:171
 1  ForkPoolWorker-17                      step app/train.py:12
 1  ForkPoolWorker-64                      <module> app/train.py:40 > Pool > … > get > recv_bytes > _recv multiprocessing/connection.py:379
"
        );
    }

    #[test]
    fn threads_stopped_ones_and_those_that_cannot_say() {
        let main = "main /x/app/main.py:5";
        let stopped = |who: Who| Who {
            state: State::Stopped,
            ..who
        };
        let task = |pid, name: &str, task: &str| Who {
            kind: crate::stacks::Kind::Task,
            ..thread(pid, name, task)
        };
        let mut merged = Merged::default();
        merged.add(main_thread(41, "job.py"), stack(&[main]));
        merged.add(main_thread(42, "job.py"), stack(&[main]));
        merged.add(stopped(main_thread(43, "other")), stack(&[main]));
        for n in 1..=4 {
            merged.add(
                task(43, "other", &format!("Task-{n}")),
                stack(&[main, "step /x/app/main.py:9"]),
            );
            let name = format!("w-{n}");
            merged.add(
                thread(50 + n, &name, "Feeder"),
                stack(&[main, "step /x/app/main.py:9"]),
            );
            merged.add(thread(50 + n, &name, "Monitor"), Vec::new());
        }
        let row = |pid: u32, name: &str| {
            json!({
                "session": SessionId::from_u128(u128::from(pid)), "pid": pid, "name": name, "success": true
            })
        };
        let mut answer = merged.into_json();
        answer["omitted"] = json!(3);
        answer["rows"] = json!([
            row(41, "job.py"), row(42, "job.py"), row(43, "other"),
            {"session": "1", "pid": 60, "name": "late-1", "success": false, "message": "it did not answer in 5 s"},
            {"session": "2", "pid": 61, "name": "late-2", "success": false, "message": "it did not answer in 5 s"},
        ]);
        let text = super::super::show("stacks", &answer);
        assert_eq!(
            text,
            "\
11  main      app/main.py:5  <- job.py (41, 42); other [stopped]
     8  step  app/main.py:9  <- other · Task-1…-4 (4); w-1…-4 (4) · Feeder

15 threads of 7 processes in 3 places:
 8  other · Task-1…-4 (4); w-1…-4 (4) · Feeder  step app/main.py:9
 4  w-1…-4 (4) · Monitor                        in no Python code
 3  job.py (41, 42); other [stopped]            main app/main.py:5
3 further threads and tasks are left out.
late-1, -2: it did not answer in 5 s
"
        );
    }

    #[test]
    fn nothing_to_show() {
        let show = |rows: Value| {
            let answer = json!({"rows": rows, "stacks": [], "tree": [], "omitted": 0});
            super::super::show("stacks", &answer)
        };
        assert_eq!(show(json!([])), "No session is there that matches.\n");
        let row = json!({"session": "1", "pid": 1, "name": "p", "success": true});
        assert_eq!(show(json!([row])), "No thread is in Python code.\n");
    }

    #[test]
    fn much_is_cut_and_said_so() {
        let calls: Vec<String> = (0..2000).map(|line| format!("f /x/a.py:{line}")).collect();
        let threads = calls
            .iter()
            .map(|call| (main_thread(1, "p"), vec![call.as_str()]));
        let text = shown(threads.collect());
        assert!(
            text.contains("\n… 1499 further frames\n\n2000 threads of 1 process in 2000 places:\n")
        );
        assert!(
            text.ends_with("1  p  f x/a.py:31\n… 1968 further places\n"),
            "{text}"
        );
    }

    #[test]
    fn as_much_of_a_path_as_it_takes() {
        let deep = format!("{}/x/y.py", "/a".repeat(40));
        let paths = [
            "/x/one/core/io.py",
            "/x/two/core/io.py",
            "core/io.py",
            "/core/io.py",
            "/x/main.py",
            "C:\\app\\jobs\\run.py",
            "<string>",
            "",
            &deep,
            &format!("/b{deep}"),
        ];
        let short = short(paths.iter().copied());
        let short: Vec<&str> = paths.iter().map(|path| short[path].as_str()).collect();
        assert_eq!(
            short[..8],
            [
                "one/core/io.py",
                "two/core/io.py",
                "core/io.py",
                "/core/io.py",
                "x/main.py",
                "jobs/run.py",
                "<string>",
                ""
            ]
        );
        assert_eq!(short[8..], paths[8..]);
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        let text = shown(vec![(
            thread(1, "p\u{1b}[2J", "t\n"),
            vec!["f\u{7} /x/\u{1b}.py:1"],
        )]);
        assert_eq!(
            text,
            "1  f\u{fffd}  x/\u{fffd}.py:1  <- p\u{fffd}[2J · t\u{fffd}\n"
        );
    }
}
