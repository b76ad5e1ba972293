//! Several clients on one process: each has its own breakpoints and its own numbers for them, and all see one truth.

mod support;

use serde_json::{Value, json};
use support::{Client, Daemon, Program, Python, Script, Start};

const SOURCE: &str = "\
def work():
    for i in range(10):
        a = i  # A
        b = i  # B
    return b

print(work())
print('ends')  # END
";

/// A program that waits for clients, and what they need to find their way in it.
struct Scene {
    daemon: Daemon,
    script: Script,
    program: Program,
}

impl Scene {
    async fn new(python: &Python, options: &[&str]) -> Self {
        Self::of(python, SOURCE, options).await
    }

    async fn of(python: &Python, source: &str, options: &[&str]) -> Self {
        let daemon = Daemon::with(&[&["--wait-for-ide"], options].concat()).await;
        let script = Script::new("shared.py", source);
        let program = python.debug(&daemon, &script, &[]);
        Self {
            daemon,
            script,
            program,
        }
    }

    fn client(&self, name: &str) -> Start {
        Client::of_process(&self.daemon).named(name)
    }

    /// A breakpoint on a marked line, with whatever else belongs to it.
    fn breakpoint(&self, marker: &str, more: Value) -> Value {
        let mut breakpoint = more;
        breakpoint["line"] = self.script.line(marker).into();
        breakpoint
    }

    /// Two clients that are both configured before the program runs; each has one breakpoint.
    async fn two(&self, one: Value, other: Value) -> (Client, Client) {
        let path = self.script.path();
        let one = self.client("one").breakpoint(path, one);
        let other = self.client("other").breakpoint(path, other);
        // The program runs once nobody is left who has joined and is not configured.
        let (one, other) = (one.joined().await, other.joined().await);
        tokio::join!(one.attached(), other.attached())
    }

    async fn ends(mut self) {
        let ended = self.program.wait().await;
        assert_eq!((ended.code, &*ended.stdout), (0, "9\nends\n"), "{ended:?}");
    }
}

/// The value of `i` where a client has stopped, and the breakpoints of its own that it is told of.
async fn stop(client: &mut Client) -> (i64, String, Value) {
    let stopped = client.stopped().await;
    let stack = client.stack(stopped.thread).await;
    let i = client.evaluate("i", &stack[0]).await;
    (stopped.thread, i, stopped.body["hitBreakpointIds"].clone())
}

/// The number that a client has for its only breakpoint.
fn own(client: &Client) -> Value {
    json!([client.breakpoints[0]["id"]])
}

#[tokio::test]
async fn each_has_its_own_breakpoints_and_numbers() {
    let scene = Scene::new(Python::newest(), &[]).await;
    let (a, b) = (scene.script.line("# A"), scene.script.line("# B"));
    let (mut one, mut other) = scene
        .two(
            scene.breakpoint("# A", json!({})),
            scene.breakpoint("# B", json!({})),
        )
        .await;

    // At A: it is one's breakpoint; other is told of the stop, and of no breakpoint.
    let stopped = one.stopped_at(a).await;
    assert_eq!(stopped.body["hitBreakpointIds"], own(&one));
    assert_eq!(
        other.stopped_at(a).await.body["hitBreakpointIds"],
        Value::Null
    );
    // Who did not press "continue" is told.
    one.continue_(stopped.thread).await;
    other.event("continued").await;

    let stopped = other.stopped_at(b).await;
    assert_eq!(stopped.body["hitBreakpointIds"], own(&other));
    assert_eq!(
        one.stopped_at(b).await.body["hitBreakpointIds"],
        Value::Null
    );

    // Both have the line now, each under a number of its own.
    let verdicts = one
        .set_breakpoints(
            scene.script.path(),
            &[json!({ "line": a }), json!({ "line": b })],
        )
        .await;
    other.continue_(stopped.thread).await;
    let stopped = one.stopped_at(a).await;
    one.continue_(stopped.thread).await;
    let stopped = one.stopped_at(b).await;
    assert_eq!(stopped.body["hitBreakpointIds"], json!([verdicts[1]["id"]]));
    // The one at A, which is past.
    other.stopped().await;
    assert_eq!(other.stopped().await.body["hitBreakpointIds"], own(&other));

    // Clearing one's own leaves the other's.
    one.set_breakpoints(scene.script.path(), &[]).await;
    one.continue_(stopped.thread).await;
    let stopped = one.stopped_at(b).await;
    assert_eq!(stopped.body["hitBreakpointIds"], Value::Null);
    other.stopped_at(b).await;
    other.set_breakpoints(scene.script.path(), &[]).await;
    other.continue_(stopped.thread).await;
    one.event("terminated").await;
    other.event("terminated").await;
    scene.ends().await;
}

#[tokio::test]
async fn conditions_on_one_line_are_asked_each_for_its_own() {
    for python in Python::all() {
        eprintln!("{python}");
        let scene = Scene::new(python, &[]).await;
        let (mut one, mut other) = scene
            .two(
                scene.breakpoint("# A", json!({ "condition": "i % 4 == 2" })),
                scene.breakpoint("# A", json!({ "condition": "i > 5" })),
            )
            .await;
        // 2 is one's, 6 is both's, 7, 8 and 9 are the other's.
        for (i, ones, others) in [
            (2, true, false),
            (6, true, true),
            (7, false, true),
            (8, false, true),
            (9, false, true),
        ] {
            let (thread, value, ids) = stop(&mut one).await;
            let (_, others_value, others_ids) = stop(&mut other).await;
            assert_eq!((&*value, &*others_value), (&*i.to_string(), &*value));
            if python.debugpy == "1.8.22" {
                assert_eq!(ids, if ones { own(&one) } else { Value::Null }, "at {i}");
                assert_eq!(
                    others_ids,
                    if others { own(&other) } else { Value::Null },
                    "at {i}"
                );
            }
            one.continue_(thread).await;
        }
        one.event("terminated").await;
        other.event("terminated").await;
        scene.ends().await;
    }
}

#[tokio::test]
async fn a_log_point_and_a_breakpoint_share_a_line() {
    for python in Python::all() {
        eprintln!("{python}");
        let scene = Scene::new(python, &[]).await;
        let (mut one, mut other) = scene
            .two(
                scene.breakpoint("# A", json!({ "logMessage": "i is {i}" })),
                scene.breakpoint("# A", json!({ "condition": "i == 5" })),
            )
            .await;
        let (thread, value, ids) = stop(&mut other).await;
        assert_eq!(value, "5");
        if python.debugpy == "1.8.22" {
            assert_eq!(ids, own(&other));
        }
        // A log point is not why it stopped.
        assert_eq!(one.stopped().await.body["hitBreakpointIds"], Value::Null);
        other.continue_(thread).await;
        one.event("terminated").await;
        let output = one.events("output").await;
        let logged: String = output
            .iter()
            .filter_map(|body| body["output"].as_str())
            .filter(|text| text.starts_with("i is"))
            .collect();
        let all: String = (0..10).map(|i| format!("i is {i}\n")).collect();
        assert_eq!(logged, all);
        one.no_more("stopped").await;
        scene.ends().await;
    }
}

#[tokio::test]
async fn hit_conditions_are_counted_for_each() {
    for python in Python::all() {
        eprintln!("{python}");
        let scene = Scene::new(python, &[]).await;
        let (mut one, mut other) = scene
            .two(
                scene.breakpoint("# A", json!({ "hitCondition": "3" })),
                scene.breakpoint("# A", json!({ "hitCondition": "% 5" })),
            )
            .await;
        // The third pass is i == 2, every fifth is 4 and 9.
        for (i, ones) in [(2, true), (4, false), (9, false)] {
            let (thread, value, ids) = stop(&mut one).await;
            let (_, _, others_ids) = stop(&mut other).await;
            assert_eq!(value, i.to_string());
            if python.debugpy == "1.8.22" {
                assert_eq!(ids, if ones { own(&one) } else { Value::Null });
                assert_eq!(others_ids, if ones { Value::Null } else { own(&other) });
            }
            other.continue_(thread).await;
        }
        one.event("terminated").await;
        other.event("terminated").await;
        scene.ends().await;
    }
}

#[tokio::test]
async fn function_and_exception_breakpoints_are_joined() {
    let source = "\
def one(): pass
def other(): pass
one()
other()
try:
    raise KeyError('caught')  # CAUGHT
except KeyError:
    pass
print(9)
print('ends')
";
    let scene = Scene::of(Python::newest(), source, &[]).await;
    let one = scene
        .client("one")
        .function("one")
        .exceptions(&["uncaught"]);
    let other = scene
        .client("other")
        .function("other")
        .exceptions(&["raised"]);
    let (one, other) = (one.joined().await, other.joined().await);
    let (mut one, mut other) = tokio::join!(one.attached(), other.attached());

    for name in ["one", "other"] {
        let stopped = one.stopped().await;
        assert_eq!(stopped.reason, "function breakpoint");
        assert_eq!(one.stack(stopped.thread).await[0]["name"], name);
        other.stopped().await;
        one.continue_(stopped.thread).await;
    }
    // pydevd has one set of filters; that of the other is in it.
    let stopped = one.stopped_at(scene.script.line("# CAUGHT")).await;
    assert_eq!(stopped.reason, "exception");
    other.stopped().await;
    other.continue_(stopped.thread).await;
    other.event("terminated").await;
    scene.ends().await;
}

#[tokio::test]
async fn an_observer_may_look_and_not_touch() {
    let scene = Scene::new(Python::newest(), &[]).await;
    let path = scene.script.path();
    let line = scene.script.line("# A");
    let controller = scene.client("controller").breakpoints(path, &[line]);
    let mut controller = controller.attached().await;
    let stopped = controller.stopped_at(line).await;

    let observer = Client::of_process(&scene.daemon).named("observer");
    let mut observer = observer
        .arguments(&json!({ "role": "observer" }))
        .attached()
        .await;
    let seen = observer.stopped_at(line).await;
    let stack = observer.stack(seen.thread).await;
    assert_eq!(observer.locals(&stack[0]).await["i"], "0");
    let thread = json!({ "threadId": seen.thread });
    let evaluate = json!({ "expression": "i", "frameId": stack[0]["id"] });
    for (command, arguments) in [
        ("continue", thread.clone()),
        ("next", thread.clone()),
        ("stepIn", thread.clone()),
        ("stepOut", thread.clone()),
        ("pause", thread),
        ("evaluate", evaluate),
        ("terminate", json!({})),
    ] {
        let why = observer.refused(command, arguments).await;
        assert!(why.contains("observer"), "{command}: {why}");
    }
    // Its leaving, even with a wish, changes nothing.
    observer
        .disconnect_with(json!({ "terminateDebuggee": true }))
        .await;
    controller.no_more("continued").await;
    controller.set_breakpoints(path, &[]).await;
    controller.continue_(stopped.thread).await;
    controller.event("terminated").await;
    scene.ends().await;
}

#[tokio::test]
async fn who_leaves_takes_its_breakpoints_and_nothing_else() {
    let scene = Scene::new(Python::newest(), &[]).await;
    let (a, b) = (scene.script.line("# A"), scene.script.line("# B"));
    let (mut one, mut other) = scene
        .two(
            scene.breakpoint("# A", json!({})),
            scene.breakpoint("# B", json!({})),
        )
        .await;
    one.stopped_at(a).await;
    let stopped = other.stopped_at(a).await;
    one.disconnect().await;
    // It is still stopped for the other, whose breakpoint is the only one now.
    other.no_more("continued").await;
    for i in 0..3 {
        other.continue_(stopped.thread).await;
        let (_, value, ids) = stop(&mut other).await;
        assert_eq!((value, ids), (i.to_string(), own(&other)));
        assert_eq!(other.stack(stopped.thread).await[0]["line"], b);
    }
    // The last one leaves: nobody is there to continue, so it goes on.
    other.disconnect().await;
    scene.ends().await;
}

#[tokio::test]
async fn the_last_one_is_killed_and_the_program_goes_on() {
    let scene = Scene::new(Python::newest(), &[]).await;
    let line = scene.script.line("# A");
    let client = scene
        .client("only")
        .breakpoints(scene.script.path(), &[line]);
    let mut client = client.attached().await;
    let stopped = client.stopped_at(line).await;
    client
        .send("stackTrace", json!({ "threadId": stopped.thread }))
        .await;
    client.kill();
    scene.ends().await;
}

#[tokio::test]
async fn a_stop_may_be_kept_for_who_comes_back() {
    let scene = Scene::new(Python::newest(), &["--on-last-detach", "keep"]).await;
    let line = scene.script.line("# A");
    let start = || {
        scene
            .client("only")
            .breakpoints(scene.script.path(), &[line])
    };
    let mut client = start().attached().await;
    let first = client.stopped_at(line).await;
    client.disconnect().await;
    let sessions = scene.daemon.sessions(&["state=stopped"]).await;
    assert_eq!(sessions[0]["stopped"]["line"], line, "{sessions:#?}");

    let mut client = start().attached().await;
    let again = client.stopped_at(line).await;
    assert_eq!((again.thread, &again.reason), (first.thread, &first.reason));
    client.kill();
    let mut client = start().attached().await;
    let again = client.stopped_at(line).await;
    client.set_breakpoints(scene.script.path(), &[]).await;
    client.continue_(again.thread).await;
    client.event("terminated").await;
    drop(client);
    scene.ends().await;
}

#[tokio::test]
async fn who_ends_the_process_ends_it_for_all() {
    for (command, arguments) in [
        ("terminate", json!({})),
        ("disconnect", json!({ "terminateDebuggee": true })),
    ] {
        let mut scene = Scene::new(Python::newest(), &[]).await;
        let a = || scene.breakpoint("# A", json!({}));
        let (mut one, mut other) = scene.two(a(), a()).await;
        one.stopped().await;
        other.stopped().await;
        one.request(command, arguments).await;
        one.event("terminated").await;
        other.event("terminated").await;
        other.disconnect().await;
        let ended = scene.program.wait().await;
        assert_eq!(ended.stdout, "", "it was stopped before it could print");
    }
}

#[tokio::test]
async fn the_options_of_the_first_stay_and_the_second_is_told() {
    let scene = Scene::new(Python::newest(), &[]).await;
    let line = scene.script.line("# END");
    let path = scene.script.path();
    let start = |name: &str, options: Value| {
        scene
            .client(name)
            .arguments(&options)
            .breakpoints(path, &[line])
    };
    let mut first = start("first", json!({ "redirectOutput": true }))
        .attached()
        .await;
    let stopped = first.stopped_at(line).await;
    first
        .event_where("output", |body| body["output"] == "9")
        .await;

    let second = start(
        "second",
        json!({ "redirectOutput": false, "showReturnValue": true }),
    );
    let mut second = second.attached().await;
    second.stopped_at(line).await;
    let told = second
        .event_where("output", |body| body["category"] == "console")
        .await;
    let text = told["output"].as_str().expect("it is text");
    assert!(text.contains("redirectOutput is true, not false"), "{text}");
    assert!(
        text.contains("showReturnValue is false, not true"),
        "{text}"
    );
    // It has the output that came before it, for the options are the first's.
    second
        .event_where("output", |body| body["output"] == "9")
        .await;

    // One that wants the same is told nothing.
    let third = start("third", json!({ "redirectOutput": true }));
    let mut third = third.attached().await;
    third.stopped_at(line).await;
    let output = third.events("output").await;
    assert!(
        output.iter().all(|body| body["category"] != "console"),
        "{output:?}"
    );
    first.continue_(stopped.thread).await;
    for client in [&mut first, &mut second, &mut third] {
        client
            .event_where("output", |body| body["output"] == "ends")
            .await;
        client.event("terminated").await;
    }
    scene.ends().await;
}

#[tokio::test]
async fn a_program_that_asks_for_a_client_means_an_ide() {
    let source = "\
import debugpy, sys
def ask():
    print(debugpy.is_client_connected())
    sys.stdin.readline()
debugpy.breakpoint()
ask()
debugpy.wait_for_client()
ask()
debugpy.breakpoint()
ask()  # HERE
debugpy.breakpoint()
print('ends')
";
    let script = Script::new("asks.py", source);
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut program = python.debug(&daemon, &script, &[]);
        // Nobody is there: it does not stop, and it is told so.
        program.printed("False\n").await;
        program.tell("go on").await;

        let mut client = Client::of_process(&daemon).attached().await;
        program.printed("False\nTrue\n").await;
        program.tell("go on").await;
        let stopped = client.stopped_at(script.line("# HERE")).await;
        client.continue_(stopped.thread).await;
        program.printed("False\nTrue\nTrue\n").await;
        // It leaves: nobody is there again.
        client.disconnect().await;
        program.tell("go on").await;
        let ended = program.wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (0, "False\nTrue\nTrue\nends\n"),
            "{ended:?}"
        );
    }
}
