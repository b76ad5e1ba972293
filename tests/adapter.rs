//! What debugpy's adapter does for a client, dbgproxy does as well: a client cannot tell them apart.
//!
//! Where it is cheap, the real adapter is asked the same and the answers are compared.

mod support;

use std::process::Stdio;

use serde_json::{Value, json};
use support::python::clean;
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Client, Daemon, Program, Python, Script, Start};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// The real adapter, on its standard streams.
struct Adapter {
    frames: Frames<ChildStdout>,
    stdin: ChildStdin,
    sent: i64,
    /// It ends when this is dropped.
    _child: Child,
}

impl Adapter {
    fn start(python: &Python) -> Self {
        let mut command = Command::new(&python.executable);
        clean(&mut command);
        let mut child = command
            .args(["-m", "debugpy.adapter"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("debugpy has an adapter");
        Self {
            frames: Frames::new(child.stdout.take().expect("it is a pipe")),
            stdin: child.stdin.take().expect("it is a pipe"),
            sent: 0,
            _child: child,
        }
    }

    /// Asks it something, and passes over what it says by itself.
    async fn ask(&mut self, command: &str, arguments: &Value) -> Value {
        self.sent += 1;
        let request = json!({ "seq": self.sent, "type": "request", "command": command, "arguments": arguments });
        let written = self.stdin.write_all(&frame(&request.to_string())).await;
        written.expect("it reads");
        loop {
            let text = within("debugpy's adapter", self.frames.next()).await;
            let text = text.expect("it sends messages").expect("it goes on");
            let message: Value = serde_json::from_str(&text).expect("it is JSON");
            if message["request_seq"] == self.sent {
                return message;
            }
        }
    }
}

/// A daemon whose programs wait, one such program, and what is needed to attach to it.
struct Scene {
    daemon: Daemon,
    script: Script,
    program: Program,
}

impl Scene {
    async fn new(python: &Python, source: &str) -> Self {
        eprintln!("{python}");
        let daemon = Daemon::with(&["--wait-for-ide"]).await;
        let script = Script::new("script.py", source);
        let program = python.debug(&daemon, &script, &[]);
        Self {
            daemon,
            script,
            program,
        }
    }

    fn client(&self) -> Start {
        Client::of_process(&self.daemon)
    }

    /// A client that is stopped at the line with this marker: it, the thread and its innermost frame.
    async fn stopped(&self, marker: &str) -> (Client, i64, Value) {
        let line = self.script.line(marker);
        let client = self.client().breakpoints(self.script.path(), &[line]);
        let mut client = client.attached().await;
        let stopped = client.stopped_at(line).await;
        let frame = client.stack(stopped.thread).await.remove(0);
        (client, stopped.thread, frame)
    }
}

/// What a client was told and answered, in order: names of events, and of the requests that were answered.
fn heard(client: &Client) -> Vec<String> {
    let messages = client.transcript().iter();
    let received = messages.filter_map(|line| line.split_once(" < "));
    let name = |(_, text): (&str, &str)| {
        let message: Value = serde_json::from_str(text).expect("it is JSON");
        let word = |key: &str| message[key].as_str().unwrap_or_default().to_owned();
        if message["type"] == "event" {
            format!("event {}", word("event"))
        } else {
            format!("{} {}", word("type"), word("command"))
        }
    };
    received.map(name).collect()
}

/// Where something stands in what was heard.
fn position(heard: &[String], what: &str) -> usize {
    let mut places = (0..heard.len()).filter(|at| heard[*at] == what);
    let place = places.next();
    let place = place.unwrap_or_else(|| panic!("no {what:?} in {heard:#?}"));
    assert_eq!(places.next(), None, "{what:?} twice in {heard:#?}");
    place
}

#[tokio::test]
async fn it_can_what_debugpys_adapter_can() {
    let daemon = Daemon::start().await;
    let ours = Client::start(&daemon).connected().await;
    let ours = &ours.capabilities;
    for python in Python::all() {
        eprintln!("{python}");
        let mut adapter = Adapter::start(python);
        let initialized = adapter
            .ask("initialize", &json!({ "adapterID": "debugpy" }))
            .await;
        let theirs = &initialized["body"];
        for (name, value) in theirs.as_object().expect("it is an object") {
            if name != "exceptionBreakpointFilters" {
                assert_eq!(ours[name], *value, "{name}");
            }
        }
        let filters = |capabilities: &Value| -> Vec<[Value; 3]> {
            let filters = capabilities["exceptionBreakpointFilters"].as_array();
            let filter =
                |filter: &Value| ["filter", "label", "default"].map(|key| filter[key].clone());
            filters.expect("it is a list").iter().map(filter).collect()
        };
        assert_eq!(filters(ours), filters(theirs));
    }
}

#[tokio::test]
async fn it_refuses_in_the_words_of_debugpys_adapter() {
    let daemon = Daemon::start().await;
    let mut client = Client::start(&daemon).connected().await;
    let mut adapter = Adapter::start(Python::newest());
    let introduction = json!({ "adapterID": "debugpy" });
    adapter.ask("initialize", &introduction).await;

    let address = json!({ "host": "127.0.0.1", "port": 1 });
    let (listen, connect) = (json!({ "listen": address }), json!({ "connect": address }));
    let (process, child) = (json!({ "processId": 1 }), json!({ "subProcessId": 1 }));
    for (one, other) in [
        (&address, &listen),
        (&address, &connect),
        (&listen, &connect),
        (&listen, &process),
        (&listen, &child),
        (&process, &child),
        (&json!({ "noDebug": true }), &json!({})),
        (&json!({ "processId": "x" }), &json!({})),
    ] {
        let mut arguments = one.clone();
        for (name, value) in other.as_object().expect("it is an object") {
            arguments[name] = value.clone();
        }
        let theirs = adapter.ask("attach", &arguments).await;
        assert_eq!(client.refused("attach", arguments).await, theirs["message"]);
    }
    let theirs = adapter.ask("initialize", &introduction).await;
    let ours = client.refused("initialize", introduction).await;
    assert_eq!(ours, theirs["message"]);
}

#[tokio::test]
async fn attach_comes_after_initialize_and_once() {
    let daemon = Daemon::start().await;
    let mut early = Client::connect(&daemon).await;
    early.refused("attach", json!({})).await;
    early.closed().await;

    let scene = Scene::new(Python::newest(), "print('runs')  # BREAK\n").await;
    let (mut client, thread, _) = scene.stopped("# BREAK").await;
    let why = client.refused("attach", json!({})).await;
    assert_eq!(why, "Invalid message: Session is already started");
    client.refused("configurationDone", json!({})).await;
    // It is none the worse for it.
    client.continue_(thread).await;
    client.event("terminated").await;
}

#[tokio::test]
async fn the_start_is_in_order() {
    for python in Python::all() {
        let scene = Scene::new(python, "print('runs')  # BREAK\n").await;
        let (mut client, thread, _) = scene.stopped("# BREAK").await;
        client.continue_(thread).await;
        client.event("terminated").await;
        let heard = heard(&client);
        let order = [
            "response initialize",
            "event initialized",
            "response setBreakpoints",
            "response setExceptionBreakpoints",
            "response configurationDone",
            "response attach",
            "event process",
            "event stopped",
            "response continue",
            "event terminated",
        ];
        let places = order.map(|what| position(&heard, what));
        assert!(places.is_sorted(), "{heard:#?}");
        // Nothing of the process comes before `attach` is answered.
        let early = &heard[..position(&heard, "response attach")];
        let early: Vec<&String> = early
            .iter()
            .filter(|what| what.starts_with("event"))
            .collect();
        let others = [
            "event output",
            "event debugpySockets",
            "event debugpyWaitingForServer",
            "event initialized",
        ];
        assert!(
            early.iter().all(|what| others.contains(&what.as_str())),
            "{early:?}"
        );
    }
}

#[tokio::test]
async fn a_process_that_is_not_there_has_just_ended() {
    let daemon = Daemon::start().await;
    let mut client = Client::start(&daemon).connected().await;
    client
        .request("attach", json!({ "subProcessId": 4_194_305 }))
        .await;
    client.event("terminated").await;
    let heard = heard(&client);
    assert!(position(&heard, "response attach") < position(&heard, "event terminated"));
    client.disconnect().await;
}

#[tokio::test]
async fn an_evaluation_holds_up_nothing_else() {
    let source = "\
import threading
gate = threading.Event()
print('runs')  # BREAK
";
    for python in Python::all() {
        let scene = Scene::new(python, source).await;
        let (mut client, thread, frame) = scene.stopped("# BREAK").await;
        let waits = json!({ "expression": "gate.wait() and 'open'", "frameId": frame["id"] });
        let waits = client.send("evaluate", waits).await;
        assert!(client.threads().await.contains_key(&thread));
        let opens = "__import__('sys').modules['__main__'].gate.set()";
        client
            .request("evaluate", json!({ "expression": opens }))
            .await;
        let response = client.response(waits).await;
        assert_eq!(response["body"]["result"], "'open'", "{response}");
        client.continue_(thread).await;
        client.event("terminated").await;
    }
}

const LOOP: &str = "\
import sys
for turn in iter(sys.stdin.readline, ''):
    print('turn', turn)  # BREAK
print('ends')
";

#[tokio::test]
async fn a_client_leaves_and_another_comes() {
    for python in Python::all() {
        let mut scene = Scene::new(python, LOOP).await;
        for turn in 0..3 {
            let line = scene.script.line("# BREAK");
            let client = scene.client().breakpoints(scene.script.path(), &[line]);
            let mut client = client.attached().await;
            scene.program.tell(&turn.to_string()).await;
            let stopped = client.stopped_at(line).await;
            let stack = client.stack(stopped.thread).await;
            assert_eq!(
                client.evaluate("turn", &stack[0]).await,
                format!("'{turn}\\n'")
            );
            client.request("disconnect", json!({})).await;
            client.closed().await;
            let heard = heard(&client);
            let (terminated, answered) = ("event terminated", "response disconnect");
            assert!(position(&heard, terminated) < position(&heard, answered));
            // It goes on, for nobody is there.
            scene.program.printed(&format!("turn {turn}")).await;
        }
    }
}

#[tokio::test]
async fn the_end_is_told_once_and_the_connection_stays() {
    let mut scene = Scene::new(Python::newest(), "print('runs')  # BREAK\n").await;
    let (mut client, thread, _) = scene.stopped("# BREAK").await;
    client.continue_(thread).await;
    client.event("terminated").await;
    scene.program.wait().await;
    client.no_more("terminated").await;
    assert_eq!(client.threads().await.len(), 0);
    client
        .refused("evaluate", json!({ "expression": "1" }))
        .await;
    client.disconnect().await;
}

#[tokio::test]
async fn visual_studio_is_not_told_of_its_own_continue() {
    for name in ["visualstudio", "vsformac", "vscode"] {
        let mut scene = Scene::new(Python::newest(), LOOP).await;
        let line = scene.script.line("# BREAK");
        let start = || scene.client().breakpoints(scene.script.path(), &[line]);
        let mut one = start().introduced("clientID", name).attached().await;
        let mut other = start().attached().await;
        scene.program.tell("1").await;
        let stopped = one.stopped_at(line).await;
        other.stopped_at(line).await;
        one.continue_(stopped.thread).await;
        other.event("continued").await;
        scene.program.printed("turn 1").await;
        if name == "vscode" {
            one.event("continued").await;
        } else {
            one.no_more("continued").await;
        }
        // Of the other's it is told, for how else should it know?
        scene.program.tell("2").await;
        other.stopped_at(line).await;
        one.stopped_at(line).await;
        other.continue_(stopped.thread).await;
        one.event("continued").await;
    }
}

#[tokio::test]
async fn exceptions_stop_where_they_are_asked_to() {
    // The library's loop calls the program's function, whose exception so leaves it for the library.
    let source = "\
import sched
def fail():
    return 1 / 0  # LEAVES
try:
    raise KeyError('caught')  # CAUGHT
except KeyError:
    pass
scheduler = sched.scheduler()
scheduler.enter(0, 0, fail)
try:
    scheduler.run()  # RUN
except ZeroDivisionError:
    pass
raise SystemError('the end')  # END
";
    for python in Python::all() {
        for (filters, markers) in [
            (
                &["raised"][..],
                &["# CAUGHT", "# LEAVES", "# RUN", "# END"][..],
            ),
            (&["uncaught"], &["# END"]),
            // What starts the program is a library, too.
            (&["userUnhandled"], &["# LEAVES", "# END"]),
            (&[], &[]),
        ] {
            let mut scene = Scene::new(python, source).await;
            let mut client = scene.client().exceptions(filters).attached().await;
            for marker in markers {
                let stopped = client.stopped_at(scene.script.line(marker)).await;
                assert_eq!(stopped.reason, "exception");
                let thread = json!({ "threadId": stopped.thread });
                let info = client.request("exceptionInfo", thread).await;
                let exception = match *marker {
                    "# CAUGHT" => "KeyError",
                    "# LEAVES" | "# RUN" => "ZeroDivisionError",
                    _ => "SystemError",
                };
                // pydevd adds a note where the stop is not where the exception was raised.
                let told = info["exceptionId"].as_str().unwrap_or_default();
                assert!(told.starts_with(exception), "{info}");
                client.continue_(stopped.thread).await;
            }
            client.event("terminated").await;
            client.no_more("stopped").await;
            let ended = scene.program.wait().await;
            assert_eq!(ended.code, 1);
            assert!(ended.stderr.contains("SystemError: the end"), "{ended:?}");
        }
    }
}

const STEPS: &str = "\
def inner(n):
    result = n + 1
    return result
def outer(a, b):
    return a * b
value = 20
print(outer(inner(1), inner(2)))  # BREAK
print(value)  # NEXT
skipped = True  # SKIPPED
print('skipped' in dir())  # TARGET
";

#[tokio::test]
async fn steps_and_their_targets() {
    for python in Python::all() {
        let mut scene = Scene::new(python, STEPS).await;
        let (mut client, thread, frame) = scene.stopped("# BREAK").await;

        // Into one of the calls of the line, by its name.
        let targets = client
            .request(
                "stepInTargets",
                json!({ "frameId": frame["id"], "threadId": thread }),
            )
            .await;
        let targets = targets["targets"].as_array().expect("it is a list");
        let labels: Vec<&str> = targets
            .iter()
            .filter_map(|target| target["label"].as_str())
            .map(|label| label.split('(').next().unwrap_or(label).trim())
            .collect();
        assert_eq!(
            labels.iter().filter(|label| **label == "inner").count(),
            2,
            "{labels:?}"
        );
        let outer = labels.iter().position(|label| *label == "outer");
        let target = &targets[outer.expect("it is called")]["id"];
        client
            .request("stepIn", json!({ "threadId": thread, "targetId": target }))
            .await;
        let stopped = client.stopped().await;
        assert_eq!(stopped.reason, "step");
        let stack = client.stack(thread).await;
        assert_eq!(
            (&stack[0]["name"], &stack[1]["name"]),
            (&json!("outer"), &json!("<module>"))
        );
        assert_eq!(client.locals(&stack[0]).await["b"], "3");

        client.step("stepOut", thread).await;
        client.stopped().await;
        client.step("next", thread).await;
        let stopped = client.stopped().await;
        let stack = client.stack(stopped.thread).await;
        assert!(
            [scene.script.line("# NEXT"), scene.script.line("# SKIPPED")]
                .map(Value::from)
                .contains(&stack[0]["line"])
        );

        // Over a line, without running it.
        let line = scene.script.line("# TARGET");
        let source = json!({ "path": scene.script.path() });
        let targets = client
            .request("gotoTargets", json!({ "source": source, "line": line }))
            .await;
        let target = &targets["targets"][0]["id"];
        client
            .request("goto", json!({ "threadId": thread, "targetId": target }))
            .await;
        let stopped = client.stopped_at(line).await;
        assert_eq!(stopped.reason, "goto");
        client.continue_(thread).await;
        client.event("terminated").await;
        let ended = scene.program.wait().await;
        assert_eq!(ended.stdout.lines().next(), Some("6"));
        assert_eq!(ended.stdout.lines().last(), Some("False"), "{ended:?}");
    }
}

#[tokio::test]
async fn variables_are_changed_and_words_completed() {
    for python in Python::all() {
        let mut scene = Scene::new(python, STEPS).await;
        let (mut client, thread, frame) = scene.stopped("# NEXT").await;
        let scopes = client
            .request("scopes", json!({ "frameId": frame["id"] }))
            .await;
        let scope = &scopes["scopes"][0]["variablesReference"];
        let changed = json!({ "variablesReference": scope, "name": "value", "value": "21" });
        let changed = client.request("setVariable", changed).await;
        assert_eq!(
            (&changed["value"], &changed["type"]),
            (&json!("21"), &json!("int"))
        );
        let changed =
            json!({ "expression": "value", "value": "value * 2", "frameId": frame["id"] });
        let changed = client.request("setExpression", changed).await;
        assert_eq!(changed["value"], "42");

        let word = json!({ "text": "val", "column": 4, "frameId": frame["id"] });
        let completions = client.request("completions", word).await;
        let targets = completions["targets"].as_array().expect("it is a list");
        assert!(
            targets.iter().any(|target| target["label"] == "value"),
            "{targets:?}"
        );

        // What is wrong in an expression is told in pydevd's own words.
        let wrong = json!({ "expression": "nothing", "frameId": frame["id"], "context": "watch" });
        let why = client.refused("evaluate", wrong).await;
        assert!(why.contains("NameError"), "{why}");
        client.request("modules", json!({})).await;
        client
            .request("setDebuggerProperty", json!({ "ideOS": "UNIX" }))
            .await;
        let system = client.request("debugpySystemInfo", Value::Null).await;
        assert_eq!(system["debugpy"]["version"], *python.debugpy);
        assert_eq!(system["process"]["pid"], scene.program.pid());
        client.continue_(thread).await;
        client.event("terminated").await;
        let ended = scene.program.wait().await;
        assert_eq!(ended.stdout.lines().nth(1), Some("42"), "{ended:?}");
    }
}

#[tokio::test]
async fn output_is_redirected_where_it_is_asked_for() {
    let source = "\
import sys
print('to stdout')
print('to stderr', file=sys.stderr)
print('ends')  # BREAK
";
    for python in Python::all() {
        for redirects in [true, false] {
            let mut scene = Scene::new(python, source).await;
            let line = scene.script.line("# BREAK");
            let client = scene.client().breakpoints(scene.script.path(), &[line]);
            let client = client.arguments(&json!({ "redirectOutput": redirects }));
            let mut client = client.attached().await;
            let stopped = client.stopped_at(line).await;
            let output = client.events("output").await;
            let of = |category: &str| -> String {
                let of = output.iter().filter(|body| body["category"] == category);
                of.filter_map(|body| body["output"].as_str()).collect()
            };
            let (stdout, stderr) = if redirects {
                ("to stdout\n", "to stderr\n")
            } else {
                ("", "")
            };
            assert_eq!(
                (&*of("stdout"), &*of("stderr")),
                (stdout, stderr),
                "{output:?}"
            );
            client.continue_(stopped.thread).await;
            client.event("terminated").await;
            // The program's own output is where it always was.
            let ended = scene.program.wait().await;
            assert_eq!(
                (&*ended.stdout, &*ended.stderr),
                ("to stdout\nends\n", "to stderr\n")
            );
        }
    }
}

#[tokio::test]
async fn terminate_kills_or_interrupts() {
    let source = "\
import sys, time
try:
    print('runs')
    while True:
        time.sleep(0.01)
except KeyboardInterrupt:
    print('interrupted')
    sys.exit(5)
";
    for python in Python::all() {
        let mut scene = Scene::new(python, source).await;
        let interrupts = json!({ "onTerminate": "KeyboardInterrupt" });
        let mut client = scene.client().arguments(&interrupts).attached().await;
        scene.program.printed("runs\n").await;
        client.request("terminate", json!({})).await;
        client.event("terminated").await;
        client.disconnect().await;
        let ended = scene.program.wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (5, "runs\ninterrupted\n"),
            "{ended:?}"
        );

        let mut scene = Scene::new(python, source).await;
        let mut client = scene.client().attached().await;
        scene.program.printed("runs\n").await;
        client.request("terminate", json!({})).await;
        client.event("terminated").await;
        client.disconnect().await;
        let ended = scene.program.wait().await;
        assert_eq!(ended.stdout, "runs\n", "{ended:?}");
    }
}

#[tokio::test]
async fn what_pydevd_would_answer_never_or_too_late_is_answered() {
    for python in Python::all() {
        let mut scene = Scene::new(python, LOOP).await;
        let line = scene.script.line("# BREAK");
        let client = scene.client().breakpoints(scene.script.path(), &[line]);
        let mut client = client.attached().await;
        // Running: a "continue" is done, and a step is refused.
        let thread = *client
            .threads()
            .await
            .keys()
            .next()
            .expect("it has a thread");
        client.continue_(thread).await;
        for step in ["next", "stepIn", "stepOut"] {
            let why = client.refused(step, json!({ "threadId": thread })).await;
            assert_eq!(why, "notStopped");
        }
        for unknown in [
            "loadedSources",
            "restart",
            "dataBreakpointInfo",
            "breakpointLocations",
            "cancel",
        ] {
            client.refused(unknown, json!({})).await;
        }
        // Nothing of it is made up for at the next stop, and nothing was printed.
        for turn in 1..3 {
            scene.program.tell(&turn.to_string()).await;
            client.stopped_at(line).await;
            client.continue_(thread).await;
            scene.program.printed(&format!("turn {turn}")).await;
        }
        client.no_more("stopped").await;
        assert!(!scene.program.stdout().contains("Unhandled"));
    }
}

#[tokio::test]
async fn a_running_program_is_paused() {
    let source = "\
import time
goes_on = True
print('runs')
while goes_on:
    time.sleep(0.01)
";
    for python in Python::all() {
        let mut scene = Scene::new(python, source).await;
        let mut client = scene.client().attached().await;
        scene.program.printed("runs\n").await;
        let thread = *client
            .threads()
            .await
            .keys()
            .next()
            .expect("it has a thread");
        client.step("pause", thread).await;
        let stopped = client.stopped().await;
        assert_eq!(stopped.reason, "pause");
        let stack = client.stack(stopped.thread).await;
        let frame = stack.iter().find(|frame| frame["name"] == "<module>");
        let frame = frame.expect("the program's own frame");
        let ends =
            json!({ "expression": "goes_on = False", "context": "repl", "frameId": frame["id"] });
        client.request("evaluate", ends).await;
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        assert_eq!(scene.program.wait().await.code, 0);
    }
}

#[tokio::test]
async fn the_first_line_is_where_stop_on_entry_stops() {
    for python in Python::all() {
        let scene = Scene::new(python, "first = 1\nprint(first)\n").await;
        let entry = json!({ "stopOnEntry": true });
        let mut client = scene.client().arguments(&entry).attached().await;
        let stopped = client.stopped_at(1).await;
        assert_eq!(stopped.reason, "entry");
        client.continue_(stopped.thread).await;
        client.event("terminated").await;
        client.no_more("stopped").await;
    }
}

#[tokio::test]
async fn paths_are_mapped() {
    let mut scene = Scene::new(Python::newest(), "print('runs')  # BREAK\n").await;
    let mapped = json!([{ "localRoot": "/on/the/desk", "remoteRoot": scene.script.directory() }]);
    let client = scene.client().arguments(&json!({ "pathMappings": mapped }));
    let mut client = client
        .breakpoints("/on/the/desk/script.py", &[1])
        .attached()
        .await;
    let stopped = client.stopped_at(1).await;
    let stack = client.stack(stopped.thread).await;
    assert_eq!(stack[0]["source"]["path"], "/on/the/desk/script.py");
    client.continue_(stopped.thread).await;
    client.event("terminated").await;
    assert_eq!(scene.program.wait().await.code, 0);
}

#[tokio::test]
async fn no_strange_request_loses_the_process() {
    for python in Python::all() {
        let mut scene = Scene::new(python, STEPS).await;
        let (mut client, thread, frame) = scene.stopped("# BREAK").await;
        let (frame, nobody) = (&frame["id"], 1_000_000);
        for (command, arguments) in [
            ("setDebuggerProperty", json!({ "ideOS": "Linux" })),
            ("setDebuggerProperty", json!({ "ideOS": 7 })),
            (
                "setDebuggerProperty",
                json!({ "skipSuspendOnBreakpointException": ["no.such.Error"] }),
            ),
            ("evaluate", json!({ "expression": "1", "frameId": nobody })),
            ("evaluate", json!({ "expression": "1", "frameId": thread })),
            ("evaluate", json!({ "expression": "1", "frameId": "x" })),
            ("evaluate", json!({})),
            ("evaluate", Value::Null),
            ("stackTrace", json!({ "threadId": frame })),
            (
                "stackTrace",
                json!({ "threadId": thread, "levels": -1, "startFrame": -7 }),
            ),
            ("stackTrace", json!({ "threadId": thread, "levels": "x" })),
            ("scopes", json!({ "frameId": nobody })),
            ("scopes", json!({ "frameId": "x" })),
            ("scopes", json!({})),
            ("variables", json!({ "variablesReference": nobody })),
            ("variables", json!({ "variablesReference": 0 })),
            (
                "variables",
                json!({ "variablesReference": frame, "start": -1, "count": -1, "filter": "x" }),
            ),
            (
                "variables",
                json!({ "variablesReference": frame, "format": 1 }),
            ),
            (
                "setVariable",
                json!({ "variablesReference": nobody, "name": "a", "value": "1" }),
            ),
            (
                "setVariable",
                json!({ "variablesReference": frame, "name": 1, "value": 1 }),
            ),
            ("setExpression", json!({ "expression": "a", "value": "1" })),
            ("completions", json!({ "text": "val", "column": 4 })),
            (
                "completions",
                json!({ "text": "val", "column": 99, "line": 99, "frameId": frame }),
            ),
            (
                "completions",
                json!({ "text": 1, "column": "x", "frameId": frame }),
            ),
            ("source", json!({ "sourceReference": nobody })),
            ("source", json!({ "sourceReference": 0 })),
            ("source", json!({})),
            ("modules", json!({ "startModule": -1 })),
            ("modules", json!({ "startModule": "x" })),
            ("gotoTargets", json!({ "source": {}, "line": 1 })),
            (
                "gotoTargets",
                json!({ "source": { "path": "/nowhere" }, "line": -1 }),
            ),
            (
                "stepInTargets",
                json!({ "frameId": nobody, "threadId": thread }),
            ),
            ("exceptionInfo", json!({ "threadId": thread })),
            ("exceptionInfo", json!({ "threadId": frame })),
            (
                "setPydevdSourceMap",
                json!({ "source": {}, "pydevdSourceMaps": [] }),
            ),
            (
                "setPydevdSourceMap",
                json!({ "source": { "path": "/nowhere" }, "pydevdSourceMaps": [{}] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": { "path": "" }, "breakpoints": [{ "line": 1 }] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": { "path": "/nowhere" }, "breakpoints": [{ "line": -1 }] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": { "path": "/nowhere" }, "breakpoints": [{ "line": 1, "condition": 1 }] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": { "path": "/nowhere" }, "breakpoints": [{ "line": 1, "hitCondition": "x y" }] }),
            ),
            (
                "setFunctionBreakpoints",
                json!({ "breakpoints": [{ "name": "" }] }),
            ),
            ("setExceptionBreakpoints", json!({ "filters": ["nothing"] })),
            (
                "setExceptionBreakpoints",
                json!({ "filters": [], "exceptionOptions": [{}] }),
            ),
            (
                "setExceptionBreakpoints",
                json!({ "filters": [], "exceptionOptions": [{ "breakMode": "x", "path": [{}] }] }),
            ),
            ("threads", json!({ "x": 1 })),
            ("threads", json!([])),
        ] {
            let response = client.try_request(command, arguments.clone()).await;
            let threads = client.threads().await;
            assert!(
                threads.contains_key(&thread),
                "{command} {arguments}: {response}"
            );
        }
        // It is still stopped where it was, and runs to its end.
        assert_eq!(
            client.stack(thread).await[0]["line"],
            scene.script.line("# BREAK")
        );
        client.continue_(thread).await;
        client.event("terminated").await;
        let ended = scene.program.wait().await;
        assert_eq!(
            (ended.code, ended.stdout.lines().next()),
            (0, Some("6")),
            "{ended:?}"
        );
    }
}
