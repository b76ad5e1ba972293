//! Every process is a session: however it was started, whatever becomes of it, and with the right parent.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::{Client, Daemon, Program, Python, Script};
use tokio::process::Command;

const CHILD: &str = "\
import sys
print('child', len(sys.argv))  # CHILD
";

/// A client with child sessions that has nothing in view yet.
async fn root(daemon: &Daemon) -> Client {
    Client::start(daemon)
        .named("root")
        .announcing("supportsStartDebuggingRequest")
        .attached()
        .await
}

/// Attaches to the next process that the root is told of, with these breakpoints; returns its session's id too.
async fn next(
    root: &mut Client,
    daemon: &Daemon,
    breakpoints: &[(&Script, &str, i64)],
) -> (Client, Value) {
    let request = root.reverse_request("startDebugging").await;
    let configuration = &request["arguments"]["configuration"];
    let mut start = Client::start(daemon)
        .named(&configuration["name"].to_string())
        .arguments(configuration);
    for (script, name, line) in breakpoints {
        start = start.breakpoints(script.directory().join(name), &[*line]);
    }
    let client = start.attached().await;
    root.respond(&request, true, Value::Null).await;
    (client, configuration["session"].clone())
}

/// The one session with this id.
fn find<'a>(sessions: &'a [Value], id: &Value) -> &'a Value {
    let mut found = sessions.iter().filter(|session| session["id"] == *id);
    let session = found
        .next()
        .unwrap_or_else(|| panic!("no session {id} in {sessions:#?}"));
    assert!(found.next().is_none(), "two sessions {id}");
    session
}

/// Starts children in every way that pydevd knows, one after the other.
const FAMILY: &str = "\
import forks, multiprocessing, subprocess, sys

def work():
    print('work')  # WORK

def main():
    for command in (['child.py', 'x'], ['-m', 'child', 'x'], ['-c', 'import child', 'x']):
        subprocess.run([sys.executable, *command])
    for method in ('fork', 'spawn', 'forkserver'):
        process = multiprocessing.get_context(method).Process(target=work, name='worker ' + method)
        process.start()
        process.join()
    forks.fork()

if __name__ == '__main__':
    main()
";

const FORKS: &str = "\
import os

def fork():
    pid = os.fork()
    if pid == 0:
        print('forked')  # FORK
        os._exit(0)
    os.waitpid(pid, 0)
";

#[tokio::test]
async fn children_of_every_kind_stop_and_have_their_parents() {
    let script = Script::new("family.py", FAMILY)
        .with("child.py", CHILD)
        .with("forks.py", FORKS);
    let child = support::python::line(CHILD, "# CHILD");
    let fork = support::python::line(FORKS, "# FORK");
    let work = script.line("# WORK");
    let breakpoints = [
        (&script, "family.py", work),
        (&script, "child.py", child),
        (&script, "forks.py", fork),
    ];
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut root = root(&daemon).await;
        let mut program = python.debug(&daemon, &script, &[]);
        let (mut main, main_id) = next(&mut root, &daemon, &breakpoints).await;
        let mut ids = Vec::new();
        for line in [child, child, child, work, work, work, fork] {
            let (mut client, id) = next(&mut root, &daemon, &breakpoints).await;
            let stopped = client.stopped_at(line).await;
            client.continue_(stopped.thread).await;
            client.event("terminated").await;
            client.no_more("stopped").await;
            ids.push(id);
        }
        main.event("terminated").await;
        // The helpers are sessions as well, and nobody is told of them.
        root.no_more("startDebugging").await;
        assert_eq!(program.wait().await.code, 0);

        let sessions = daemon.sessions(&["--all"]).await;
        let main = find(&sessions, &main_id);
        assert_eq!(
            (&main["name"], main["parent"].is_null()),
            (&json!("family.py"), true)
        );
        assert_eq!(
            (&main["pid"], &main["state"]),
            (&json!(program.pid()), &json!("ended"))
        );
        let of: Vec<&Value> = ids.iter().map(|id| find(&sessions, id)).collect();
        let names: Vec<&Value> = of.iter().map(|session| &session["name"]).collect();
        assert_eq!(names[..2], ["child.py", "child.py"]);
        assert_eq!(names[3], "worker fork");
        let written: Vec<Vec<&str>> = of
            .iter()
            .map(|session| {
                let argv = session["argv"].as_array().expect("a list");
                let last = argv.iter().rev().take(3).rev();
                last.map(|word| word.as_str().unwrap_or_default()).collect()
            })
            .collect();
        assert_eq!(written[0][1..], ["child.py", "x"]);
        assert_eq!(written[1], ["-m", "child", "x"]);
        assert_eq!(written[2], ["-c", "import child", "x"]);

        let helper = |name: &str| {
            let mut found = sessions.iter().filter(|session| session["name"] == name);
            let session = found
                .next()
                .unwrap_or_else(|| panic!("no {name} in {sessions:#?}"));
            assert_eq!(found.next(), None);
            assert_eq!(
                (&session["helper"], &session["parent"]),
                (&json!(true), &main_id),
                "{session}"
            );
            session
        };
        helper("resource_tracker");
        let forkserver = helper("forkserver");
        for (at, session) in of.iter().enumerate() {
            let parent = if at == 5 { &forkserver["id"] } else { &main_id };
            assert_eq!(
                (&session["parent"], &session["helper"]),
                (parent, &json!(false)),
                "{session}"
            );
        }
        assert_eq!(sessions.len(), 10, "{sessions:#?}");
    }
}

#[tokio::test]
async fn a_program_may_be_a_script_a_module_a_text_or_connect_by_itself() {
    let source = "import debugpy, sys\ndebugpy.connect(sys.argv.pop())\nimport child\n";
    let script = Script::new("connects.py", source).with("child.py", CHILD);
    let line = support::python::line(CHILD, "# CHILD");
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let address = daemon.connect();
        let port = daemon.address.port().to_string();
        let debugpy = ["-m", "debugpy", "--connect", &address];
        for (words, name) in [
            ([&debugpy[..], &["child.py"]].concat(), Some("child.py")),
            ([&debugpy[..], &["-m", "child"]].concat(), Some("child.py")),
            ([&debugpy[..], &["-c", "import child"]].concat(), None),
            (vec!["connects.py", &port], Some("connects.py")),
        ] {
            let mut command = python.command();
            command.args(&words).current_dir(script.directory());
            if words[0] == "connects.py" {
                // A port alone is on this machine.
                let source = source.replace("sys.argv.pop()", "int(sys.argv.pop())");
                std::fs::write(script.path(), source).expect("it can be written to");
            }
            let mut program = Program::start(command);
            let mut client = Client::of_process(&daemon)
                .breakpoints(script.directory().join("child.py"), &[line])
                .attached()
                .await;
            let stopped = client.stopped_at(line).await;
            let sessions = daemon.sessions(&["state=stopped"]).await;
            assert_eq!(sessions.len(), 1, "{sessions:?}");
            assert_eq!(sessions[0]["pid"], program.pid());
            let default = format!("process {}", program.pid());
            assert_eq!(sessions[0]["name"], name.unwrap_or(&default), "{words:?}");
            assert_eq!(sessions[0]["stopped"]["line"], line);
            client.continue_(stopped.thread).await;
            client.event("terminated").await;
            client.disconnect().await;
            let ended = program.wait().await;
            assert_eq!((ended.code, &*ended.stdout), (0, "child 1\n"), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn an_exec_in_place_keeps_the_session() {
    let source = "\
import os, sys
print('first')  # FIRST
os.execv(sys.executable, [sys.executable, 'child.py'])
";
    let script = Script::new("first.py", source).with("child.py", CHILD);
    let (first, second) = (
        script.line("# FIRST"),
        support::python::line(CHILD, "# CHILD"),
    );
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let mut program = python.debug(&daemon, &script, &[]);
        let mut client = Client::of_process(&daemon)
            .breakpoints(script.path(), &[first])
            .breakpoints(script.directory().join("child.py"), &[second])
            .attached()
            .await;
        let stopped = client.stopped_at(first).await;
        let before = daemon.sessions(&[]).await;
        client.continue_(stopped.thread).await;

        // The same client, the same session: another program.
        let stopped = client.stopped_at(second).await;
        let after = daemon.sessions(&["--all"]).await;
        assert_eq!((before.len(), after.len()), (1, 1), "{after:#?}");
        for key in ["id", "pid", "started"] {
            assert_eq!(before[0][key], after[0][key], "{key}");
        }
        assert_eq!(
            (&before[0]["name"], &after[0]["name"]),
            (&json!("first.py"), &json!("child.py"))
        );
        client.no_more("terminated").await;
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        client.disconnect().await;
        let ended = program.wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (0, "first\nchild 1\n"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn an_exec_that_fails_leaves_the_session_alive() {
    // pydevd says before each of the attempts that the process will be replaced.
    let source = "\
import os
os.environ['PATH'] = ':'.join('/nowhere/%d' % number for number in range(16))
try:
    os.execvp('python', ['python', 'child.py'])
except FileNotFoundError:
    failed = True  # FAILED
print('goes on')
print('ends')
";
    let script = Script::new("fails.py", source);
    let line = script.line("# FAILED");
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let mut program = python.debug(&daemon, &script, &[]);
        let mut client = Client::of_process(&daemon)
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let stopped = client.stopped_at(line).await;
        for line in [line + 1, line + 2] {
            client.step("next", stopped.thread).await;
            let stepped = client.stopped_at(line).await;
            assert_eq!(stepped.reason, "step");
        }
        let stack = client.stack(stopped.thread).await;
        assert_eq!(client.evaluate("failed", &stack[0]).await, "True");
        client.no_more("exited").await;
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        let ended = program.wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (0, "goes on\nends\n"),
            "{ended:?}"
        );
        // It is known at once that it is not coming back.
        client.disconnect().await;
    }
}

#[tokio::test]
async fn an_exec_of_something_else_ends_the_session() {
    let source = "import os, sys\nos.execvp(sys.argv[1], sys.argv[1:])\n";
    let script = Script::new("leaves.py", source);
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    // One ends by itself; the other goes on, and nobody can know that it is not Python.
    for words in [&["echo", "hello"][..], &["cat"]] {
        let mut program = Python::newest().debug(&daemon, &script, words);
        let mut client = Client::of_process(&daemon).attached().await;
        client.event("terminated").await;
        client.disconnect().await;
        assert_eq!(daemon.sessions(&[]).await, Vec::<Value>::new());
        if words == ["cat"] {
            program.tell("hello").await;
            program.printed("hello").await;
        } else {
            assert_eq!(program.wait().await.stdout, "hello\n");
        }
    }
}

/// The command that starts another in a PID namespace of its own, where this machine lets us.
async fn unshare() -> Option<Vec<&'static str>> {
    let ways = [
        vec!["--pid", "--fork", "--mount-proc"],
        vec![
            "--user",
            "--map-root-user",
            "--pid",
            "--fork",
            "--mount-proc",
        ],
    ];
    for way in ways {
        let mut command = Command::new("unshare");
        let tried = command.args(&way).arg("true").kill_on_drop(true).output();
        let tried = within("unshare", tried).await;
        if tried.is_ok_and(|output| output.status.success()) {
            return Some(way);
        }
    }
    assert!(
        std::env::var_os("CI").is_none(),
        "CI can make PID namespaces"
    );
    eprintln!("no PID namespaces here: passed over");
    None
}

#[tokio::test]
async fn two_processes_with_one_pid_are_two_sessions() {
    let Some(way) = unshare().await else { return };
    let script = Script::new("child.py", CHILD);
    let line = script.line("# CHILD");
    let daemon = Daemon::start().await;
    let mut root = root(&daemon).await;
    let mut programs = Vec::new();
    for _ in 0..2 {
        let python = Python::newest().command();
        let python = python.as_std();
        let mut command = Command::new("unshare");
        support::python::clean(&mut command);
        command
            .args(&way)
            .arg(python.get_program())
            .args(python.get_args())
            .args(["-m", "debugpy", "--connect", &daemon.connect(), "child.py"])
            .current_dir(script.directory());
        programs.push(Program::start(command));
    }
    let mut clients = Vec::new();
    for _ in 0..2 {
        let (mut client, id) = next(&mut root, &daemon, &[(&script, "child.py", line)]).await;
        let stopped = client.stopped_at(line).await;
        clients.push((client, id, stopped.thread));
    }
    let sessions = daemon.sessions(&["state=stopped"]).await;
    assert_eq!(sessions.len(), 2, "{sessions:#?}");
    for (mut client, id, thread) in clients {
        let session = find(&sessions, &id);
        assert_eq!(
            (&session["pid"], &session["parent"]),
            (&json!(1), &Value::Null)
        );
        client.continue_(thread).await;
        client.event("terminated").await;
    }
    for program in &mut programs {
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stdout), (0, "child 1\n"), "{ended:?}");
    }
}

#[tokio::test]
async fn debugpy_is_injected_into_a_running_process() {
    let gdb = Command::new("gdb")
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    if gdb.is_err() {
        assert!(std::env::var_os("CI").is_none(), "CI has gdb");
        eprintln!("no gdb here: passed over");
        return;
    }
    let source = "\
import time
print('runs')
goes_on = True
while goes_on:
    time.sleep(0.01)  # BREAK
print('ends')
";
    let script = Script::new("runs.py", source);
    let line = script.line("# BREAK");
    for pid in [|pid: i64| json!(pid), |pid: i64| json!(pid.to_string())] {
        let daemon = Daemon::start().await;
        let mut program = Python::newest().run(&script, &[]);
        program.printed("runs").await;
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "processId": pid(program.pid()) }))
            .breakpoints(script.path(), &[line])
            .attached()
            .await;
        let stopped = client.stopped_at(line).await;
        let stack = client.stack(stopped.thread).await;
        let setting = json!({ "expression": "goes_on = False", "context": "repl", "frameId": stack[0]["id"] });
        client.request("evaluate", setting).await;
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        assert_eq!(program.wait().await.stdout, "runs\nends\n");
    }
    // A second client of a process that is connected needs no injection.
    let daemon = Daemon::with(&["--wait-for-ide"]).await;
    let program = Python::newest().debug(&daemon, &script, &[]);
    let by_pid = json!({ "processId": program.pid() });
    let one = Client::of_process(&daemon).breakpoints(script.path(), &[line]);
    let mut one = one.attached().await;
    one.stopped_at(line).await;
    let other = Client::start(&daemon).arguments(&by_pid).attached();
    other.await.stopped_at(line).await;
}

#[tokio::test]
async fn a_process_that_cannot_be_injected_fails_the_attach() {
    let daemon = Daemon::start().await;
    let mut client = Client::start(&daemon).connected().await;
    // No process has this id: it is beyond the largest that Linux gives.
    let arguments = json!({ "processId": 4_194_305 });
    let why = client.refused("attach", arguments).await;
    assert!(
        why.contains("could not be injected into process 4194305"),
        "{why}"
    );
    // It may try again.

    client
        .request("attach", json!({ "subProcessId": 4_194_305 }))
        .await;
    client.event("terminated").await;
    client.disconnect().await;
}
