//! Three programs that have nothing to do with each other, on one port: each is a session, and each stops.

mod support;

use serde_json::{Value, json};
use support::{Client, Daemon, Program, Python, Script};

const NAMES: [&str; 3] = ["one.py", "two.py", "three.py"];

/// Three scripts that differ in their names, their lines and what they compute.
fn scripts() -> Vec<Script> {
    let script = |(lines, name): (usize, &&str)| {
        let source = format!(
            "{}name = {name:?}\nprint(name)  # BREAK\n",
            "\n".repeat(lines)
        );
        Script::new(name, &source)
    };
    NAMES.iter().enumerate().map(script).collect()
}

/// Sees a client's program stop where it should, and lets it run to its end.
async fn see_through(client: &mut Client, script: &Script, program: &mut Program) {
    let stopped = client.stopped_at(script.line("# BREAK")).await;
    let stack = client.stack(stopped.thread).await;
    assert_eq!(stack[0]["source"]["path"], json!(script.path()));
    let name = script.path().file_name().expect("it has a name");
    let name = name.to_str().expect("a plain name");
    assert_eq!(
        client.evaluate("name", &stack[0]).await,
        format!("'{name}'")
    );
    assert!(
        client
            .evaluate("__import__('os').getpid()", &stack[0])
            .await
            == program.pid().to_string()
    );
    client.continue_(stopped.thread).await;
    client.event("terminated").await;
    let ended = program.wait().await;
    assert_eq!((ended.code, ended.stdout), (0, format!("{name}\n")));
}

#[tokio::test]
async fn a_tree_has_three_programs() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let mut root = Client::start(&daemon)
            .named("root")
            .announcing("supportsStartDebuggingRequest")
            .attached()
            .await;
        let scripts = scripts();
        let mut programs: Vec<Program> = scripts
            .iter()
            .map(|script| python.debug(&daemon, script, &[]))
            .collect();

        // All are stopped at the same time, and then seen to their ends.
        let mut clients = Vec::new();
        for _ in &scripts {
            let request = root.reverse_request("startDebugging").await;
            let configuration = &request["arguments"]["configuration"];
            let at = programs
                .iter()
                .position(|program| configuration["subProcessId"] == program.pid());
            let at = at.expect("it is one of ours");
            let client = Client::start(&daemon)
                .named(NAMES[at])
                .arguments(configuration)
                .breakpoints(scripts[at].path(), &[scripts[at].line("# BREAK")])
                .attached()
                .await;
            root.respond(&request, true, Value::Null).await;
            clients.push((at, client));
        }
        let sessions = daemon.sessions(&[]).await;
        assert!(
            sessions.iter().all(|session| session["parent"].is_null()),
            "none is the parent of another: {sessions:?}"
        );
        for (at, mut client) in clients {
            see_through(&mut client, &scripts[at], &mut programs[at]).await;
        }
        root.no_more("terminated").await;
    }
}

#[tokio::test]
async fn three_clients_wait_each_for_its_own_program() {
    for python in Python::all() {
        eprintln!("{python}");
        let daemon = Daemon::start().await;
        let scripts = scripts();
        let mut waiting = Vec::new();
        for (name, script) in NAMES.iter().zip(&scripts) {
            let client = Client::of_process(&daemon)
                .named(name)
                .arguments(&json!({ "sessions": format!("name={name}") }))
                .breakpoints(script.path(), &[script.line("# BREAK")]);
            waiting.push(client.waiting().await);
        }

        // They come in the opposite order, and each finds the one that waits for it.
        let mut clients = Vec::new();
        for script in scripts.iter().rev() {
            let program = python.debug(&daemon, script, &[]);
            let client = waiting.pop().expect("as many clients as scripts");
            clients.push((client.attached().await, script, program));
        }
        // Nobody was waited for in vain.
        assert!(!daemon.log().contains("does not attach"));
        for (mut client, script, mut program) in clients {
            see_through(&mut client, script, &mut program).await;
            client.disconnect().await;
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn three_clients_wait_for_the_first_program_and_share_it() {
    let daemon = Daemon::start().await;
    let scripts = scripts();
    let mut waiting = Vec::new();
    for name in NAMES {
        let mut client = Client::of_process(&daemon).named(name);
        for script in &scripts {
            client = client.breakpoints(script.path(), &[script.line("# BREAK")]);
        }
        waiting.push(client.waiting().await);
    }
    let mut first = Python::newest().debug(&daemon, &scripts[0], &[]);
    let mut clients = Vec::new();
    for client in waiting {
        clients.push(client.attached().await);
    }
    let line = scripts[0].line("# BREAK");
    let mut thread = 0;
    for client in &mut clients {
        thread = client.stopped_at(line).await.thread;
    }
    // The others run by themselves: nobody has them in view.
    for script in &scripts[1..] {
        let ended = Python::newest().debug(&daemon, script, &[]).wait().await;
        assert_eq!(ended.code, 0, "{ended:?}");
    }
    clients[0].continue_(thread).await;
    for client in &mut clients {
        client.event("terminated").await;
        client.no_more("stopped").await;
    }
    assert_eq!(first.wait().await.code, 0);
}
