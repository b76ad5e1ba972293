//! The start, the work and the end of real clients, as they were recorded: what each of them does otherwise than others.

mod support;

use serde_json::{Value, json};
use support::{Client, Daemon, DebugServer};

const PATH: &str = "/srv/script.py";

/// A process that runs.
async fn process(daemon: &Daemon, pid: i64) -> DebugServer {
    let server = DebugServer::new(pid).connect(daemon).await;
    server.released().await;
    server.place(server.main_thread, &[(PATH, 3), (PATH, 1)]);
    server.set_local(server.main_thread, "n", "7");
    server
}

/// Sends requests without waiting between them, and then takes their responses, all of which must be a success.
async fn together(client: &mut Client, requests: &[(&str, Value)]) -> Vec<Value> {
    let mut sent = Vec::new();
    for (command, arguments) in requests {
        sent.push(client.send(command, arguments.clone()).await);
    }
    let mut bodies = Vec::new();
    for seq in sent {
        let mut response = client.response(seq).await;
        assert_eq!(response["success"], true, "{response}");
        bodies.push(response["body"].take());
    }
    bodies
}

fn set_breakpoints(lines: &[i64]) -> (&'static str, Value) {
    let breakpoints: Vec<Value> = lines.iter().map(|line| json!({ "line": line })).collect();
    let source = json!({ "name": "script.py", "path": PATH });
    let arguments = json!({ "source": source, "lines": lines, "breakpoints": breakpoints, "sourceModified": false });
    ("setBreakpoints", arguments)
}

/// The daemon has sent nothing that this client would take badly.
fn has_no_null_body(client: &Client) {
    let bad = client
        .transcript()
        .iter()
        .find(|line| line.contains(" < ") && line.replace(": ", ":").contains("\"body\":null"));
    assert_eq!(bad, None);
}

/// The view's thread of the process with this number, which its name has.
async fn thread_of(client: &mut Client, pid: i64) -> i64 {
    let threads = client.threads().await;
    let named = threads
        .iter()
        .find(|(_, name)| name.contains(&pid.to_string()));
    *named
        .unwrap_or_else(|| panic!("no thread of {pid}: {threads:?}"))
        .0
}

/// Children of the process come to a client that has all in its one session: they run at once, with its breakpoints,
/// and are there as threads.
async fn children_join(daemon: &Daemon, client: &mut Client, parent: i64) -> Vec<DebugServer> {
    let mut children = Vec::new();
    for pid in [parent + 1, parent + 2] {
        let child = DebugServer::new(pid).parent(parent).connect(daemon).await;
        child.released().await;
        assert!(child.reach(PATH, 3));
        let stopped = client.stopped_at(3).await;
        assert_eq!(stopped.thread, thread_of(client, pid).await);
        client.continue_(stopped.thread).await;
        children.push(child);
    }
    assert_eq!(daemon.log().matches("not attach").count(), 0);
    client.no_more("debugpyAttach").await;
    client.no_more("startDebugging").await;
    children
}

/// A child of the process comes, and runs although nobody attaches to it; so does the next.
async fn children_run_on(daemon: &Daemon, parent: i64) -> Vec<DebugServer> {
    let mut children = Vec::new();
    for pid in [parent + 1, parent + 2] {
        let child = DebugServer::new(pid).parent(parent).connect(daemon).await;
        child.released().await;
        children.push(child);
    }
    // Only the first has been waited for.
    assert_eq!(daemon.log().matches("not attach").count(), 1);
    children
}

// VS Code.

/// What VS Code says of itself.
fn vscode() -> Value {
    json!({
        "clientID": "vscode", "clientName": "Visual Studio Code", "adapterID": "debugpy", "pathFormat": "path",
        "linesStartAt1": true, "columnsStartAt1": true, "supportsVariableType": true, "supportsVariablePaging": true,
        "supportsRunInTerminalRequest": true, "locale": "en", "supportsProgressReporting": true,
        "supportsInvalidatedEvent": true, "supportsMemoryReferences": true, "supportsArgsCanBeInterpretedByShell": true,
        "supportsMemoryEvent": true, "supportsStartDebuggingRequest": true, "supportsANSIStyling": true,
    })
}

/// The start of one of its sessions: everything on `initialized` at once, `threads` before the `attach` response.
async fn vscode_session(daemon: &Daemon, configuration: Value) -> Client {
    let mut client = Client::connect(daemon).await;
    client.initialize(&vscode()).await;
    let attach = client.send("attach", configuration).await;
    client.initialized(attach).await;
    let bodies = together(
        &mut client,
        &[
            set_breakpoints(&[3, 5]),
            ("setFunctionBreakpoints", json!({ "breakpoints": [] })),
            (
                "setExceptionBreakpoints",
                json!({ "filters": ["uncaught"], "filterOptions": [] }),
            ),
            ("configurationDone", Value::Null),
            ("threads", Value::Null),
        ],
    )
    .await;
    assert_eq!(bodies[0]["breakpoints"].as_array().map(Vec::len), Some(2));
    assert_eq!(client.response(attach).await["success"], true);
    client
}

#[tokio::test]
async fn vs_code() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let configuration = json!({
        "name": "dbgproxy", "type": "debugpy", "request": "attach", "connect": { "host": "127.0.0.1", "port": daemon.address.port() },
        "justMyCode": true, "clientOS": "unix", "debugOptions": ["RedirectOutput", "ShowReturnValue"],
        "showReturnValue": true, "workspaceFolder": "/srv", "__configurationTarget": 6, "__sessionId": "root-session",
    });
    let mut root = vscode_session(&daemon, configuration).await;
    root.rename("root");
    assert!(root.threads().await.is_empty());

    // The process gets a session of its own, with what the root's configuration says.
    let start = root.reverse_request("startDebugging").await;
    assert_eq!(start["arguments"]["request"], "attach");
    let mut configuration = start["arguments"]["configuration"].clone();
    assert_eq!(configuration["__sessionId"], "root-session");
    assert_eq!(configuration["subProcessId"], 5_000_000);
    assert_eq!(configuration["justMyCode"], true);
    assert_eq!(configuration["connect"]["port"], daemon.address.port());
    configuration["type"] = "debugpy".into();
    configuration["request"] = "attach".into();
    configuration["__sessionId"] = "child-session".into();
    let mut child = vscode_session(&daemon, configuration).await;
    child.rename("child");
    root.respond(&start, true, Value::Null).await;
    assert_eq!(child.event("process").await["systemProcessId"], 5_000_000);
    assert_eq!(child.threads().await.len(), 1);

    assert!(server.reach(PATH, 3));
    let stopped = child.stopped().await;
    let thread = stopped.thread;
    let bodies = together(
        &mut child,
        &[
            ("threads", Value::Null),
            (
                "stackTrace",
                json!({ "threadId": thread, "startFrame": 0, "levels": 1 }),
            ),
            (
                "stackTrace",
                json!({ "threadId": thread, "startFrame": 1, "levels": 19 }),
            ),
        ],
    )
    .await;
    let frame = bodies[1]["stackFrames"][0].clone();
    let scopes = child
        .request("scopes", json!({ "frameId": frame["id"] }))
        .await;
    assert_eq!(scopes["scopes"][0]["name"], "Locals");
    assert_eq!(child.locals(&frame).await["n"], "7");
    child.step("next", thread).await;
    child.event("continued").await;
    assert_eq!(child.stopped().await.reason, "step");
    child.continue_(thread).await;

    // The child's end is not the root's.
    server.finish();
    child.event("terminated").await;
    child.disconnect_with(json!({ "restart": false })).await;
    root.no_more("terminated").await;
    let next = DebugServer::new(5_000_001).connect(&daemon).await;
    let start = root.reverse_request("startDebugging").await;
    assert_eq!(
        start["arguments"]["configuration"]["subProcessId"],
        5_000_001
    );
    root.respond(&start, true, Value::Null).await;
    let child = vscode_session(&daemon, start["arguments"]["configuration"].clone()).await;
    next.released().await;
    assert_eq!(next.breakpoints(PATH).len(), 2);
    child.disconnect_with(json!({ "restart": false })).await;
    root.disconnect_with(json!({ "restart": false })).await;
    // Only the clients have gone.
    next.breakpoints_where(PATH, <[Value]>::is_empty).await;
    assert_eq!((next.count("disconnect"), next.count("terminate")), (0, 0));
}

#[tokio::test]
async fn vs_code_after_a_failed_attach() {
    let daemon = Daemon::start().await;
    let mut client = Client::connect(&daemon).await;
    client.initialize(&vscode()).await;
    let arguments =
        json!({ "__sessionId": "x", "session": "00000000-0000-4000-8000-000000000000" });
    let why = client.refused("attach", arguments).await;
    assert!(why.contains("no session"), "{why}");
    client
        .request("disconnect", json!({ "restart": false }))
        .await;
    client.closed().await;
    has_no_null_body(&client);
}

#[tokio::test]
async fn vs_code_waits_quietly_for_an_attach_that_waits_for_a_process() {
    let daemon = Daemon::start().await;
    let mut client = Client::connect(&daemon).await;
    client.initialize(&vscode()).await;
    let attach = client
        .send("attach", json!({ "view": "process", "__sessionId": "x" }))
        .await;
    let waiting = client.event("debugpyWaitingForServer").await;
    assert_eq!(waiting["port"], daemon.address.port());
    // The process comes, and waits for the configuration.
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    client.initialized(attach).await;
    let requests = [
        set_breakpoints(&[3]),
        ("setExceptionBreakpoints", json!({ "filters": [] })),
    ];
    together(&mut client, &requests).await;
    assert!(!server.is_released());
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    server.released().await;
    // Pressing "stop" meanwhile is the same as ever.
    client.disconnect_with(json!({ "restart": false })).await;

    let mut client = Client::connect(&daemon).await;
    client.initialize(&vscode()).await;
    let attach = client
        .send(
            "attach",
            json!({ "view": "process", "sessions": "name=later" }),
        )
        .await;
    client.event("debugpyWaitingForServer").await;
    let disconnect = client.send("disconnect", json!({ "restart": false })).await;
    assert_eq!(client.response(disconnect).await["success"], true);
    client.closed().await;
    // The attach that came to nothing is answered like any other request.
    assert_eq!(client.response(attach).await["command"], "attach");
}

// nvim-dap.

#[tokio::test]
async fn nvim_dap() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let mut root = Client::connect(&daemon).await;
    // The older one begins with 0, and has its own spelling.
    root.number_after(-1);
    let introduction = json!({
        "clientId": "neovim", "clientname": "neovim", "adapterID": "nvim-dap", "pathFormat": "path",
        "columnsStartAt1": true, "linesStartAt1": true, "supportsRunInTerminalRequest": true,
        "supportsVariableType": true, "supportsStartDebuggingRequest": true, "locale": "en_US.UTF-8",
    });
    let capabilities = root.request("initialize", introduction.clone()).await;
    assert!(capabilities["exceptionBreakpointFilters"].is_array());
    let attach = root
        .send(
            "attach",
            json!({ "name": "dbgproxy", "type": "dbgproxy", "request": "attach" }),
        )
        .await;
    root.initialized(attach).await;
    root.request(
        "setExceptionBreakpoints",
        json!({ "filters": ["uncaught"] }),
    )
    .await;
    root.request("configurationDone", Value::Null).await;
    assert_eq!(root.response(attach).await["success"], true);

    // It answers no reverse request that its core does not know; the child is started all the same.
    let start = root.reverse_request("startDebugging").await;
    let mut child = Client::connect(&daemon).await;
    child.number_after(-1);
    child.request("initialize", introduction).await;
    let attach = child
        .send("attach", start["arguments"]["configuration"].clone())
        .await;
    child.initialized(attach).await;
    together(&mut child, &[set_breakpoints(&[3])]).await;
    child
        .request(
            "setExceptionBreakpoints",
            json!({ "filters": ["uncaught"] }),
        )
        .await;
    child.request("configurationDone", Value::Null).await;
    child.response(attach).await;
    assert!(server.reach(PATH, 3));
    let stopped = child.stopped().await;
    together(
        &mut child,
        &[
            ("threads", Value::Null),
            (
                "stackTrace",
                json!({ "threadId": stopped.thread, "startFrame": 0 }),
            ),
        ],
    )
    .await;

    // On `terminated` it closes without a word.
    server.finish();
    child.event("terminated").await;
    child.kill();
    root.kill();
    // And it tries to connect again and again, which is always the same.
    let _next = process(&daemon, 5_000_001).await;
    Client::start(&daemon).attached().await.threads().await;
}

// vimspector.

#[tokio::test]
async fn vimspector() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    // The harness is as strict with the spelling of `Content-Length` as this client is.
    let mut root = Client::connect(&daemon).await;
    let introduction = json!({
        "adapterID": "dbgproxy", "clientID": "vimspector", "clientName": "vimspector", "linesStartAt1": true,
        "columnsStartAt1": true, "locale": "en_GB", "pathFormat": "path", "supportsVariableType": true,
        "supportsVariablePaging": false, "supportsRunInTerminalRequest": true, "supportsStartDebuggingRequest": true,
    });
    root.request("initialize", introduction.clone()).await;
    let port = daemon.address.port().to_string();
    let attach = root
        .send(
            "attach",
            json!({ "request": "attach", "host": "127.0.0.1", "port": port }),
        )
        .await;
    root.initialized(attach).await;
    let configuration = [
        set_breakpoints(&[3]),
        ("setFunctionBreakpoints", json!({ "breakpoints": [] })),
        (
            "setExceptionBreakpoints",
            json!({ "filters": ["uncaught"] }),
        ),
    ];
    together(&mut root, &configuration).await;
    root.request("configurationDone", Value::Null).await;
    root.response(attach).await;

    // The child goes where the parent went, whatever its configuration says, and never gets an answer of its own.
    let start = root.reverse_request("startDebugging").await;
    let mut child = Client::connect(&daemon).await;
    child.request("initialize", introduction).await;
    let attach = child
        .send("attach", start["arguments"]["configuration"].clone())
        .await;
    child.initialized(attach).await;
    together(&mut child, &configuration).await;
    child.request("configurationDone", Value::Null).await;
    child.response(attach).await;
    assert!(server.reach(PATH, 3));
    let stopped = child.stopped().await;
    child.refused("stackTrace", json!({ "threadId": 99 })).await;
    child.refused("loadedSources", Value::Null).await;
    child.continue_(stopped.thread).await;

    // It goes on sending breakpoints afterwards; they are answered.
    server.finish();
    child.event("terminated").await;
    let (command, arguments) = set_breakpoints(&[]);
    for client in [&mut root, &mut child] {
        client.try_request(command, arguments.clone()).await;
        client
            .try_request("setExceptionBreakpoints", json!({ "filters": [] }))
            .await;
    }
    has_no_null_body(&root);
    has_no_null_body(&child);
    child
        .disconnect_with(json!({ "terminateDebuggee": false }))
        .await;
    root.disconnect_with(json!({ "terminateDebuggee": false }))
        .await;
}

// Emacs.

#[tokio::test]
async fn dape() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let introduction = json!({
        "clientID": "dape", "adapterID": "debugpy", "pathFormat": "path", "linesStartAt1": true, "columnsStartAt1": true,
        "supportsRunInTerminalRequest": true, "supportsProgressReporting": true, "supportsStartDebuggingRequest": true,
    });
    let mut root = Client::connect(&daemon).await;
    root.request("initialize", introduction.clone()).await;
    // One after the other, exceptions first.
    let configure = async |client: &mut Client, configuration: Value| {
        let attach = client.send("attach", configuration).await;
        client.initialized(attach).await;
        client
            .request(
                "setExceptionBreakpoints",
                json!({ "filters": ["uncaught"] }),
            )
            .await;
        let (command, arguments) = set_breakpoints(&[3]);
        client.request(command, arguments).await;
        client.request("configurationDone", Value::Null).await;
        client.response(attach).await;
    };
    configure(
        &mut root,
        json!({ "type": "python", "request": "attach", "port": daemon.address.port() }),
    )
    .await;

    // Its answer is a success, under the request's own number.
    let start = root.reverse_request("startDebugging").await;
    let seq = &start["seq"];
    let answer = format!(
        r#"{{"seq":{seq},"type":"response","request_seq":{seq},"success":true,"command":"startDebugging"}}"#
    );
    root.send_text(&answer).await;
    let mut configuration = start["arguments"]["configuration"].clone();
    configuration
        .as_object_mut()
        .expect("it is one")
        .remove("connect");
    let mut child = Client::connect(&daemon).await;
    child.request("initialize", introduction).await;
    configure(&mut child, configuration).await;
    assert_eq!(child.event("process").await["systemProcessId"], 5_000_000);
    assert!(server.reach(PATH, 3));
    let stopped = child.stopped().await;
    child.threads().await;
    child.stack(stopped.thread).await;
    child.continue_(stopped.thread).await;

    // On `terminated` it sends `terminate`, and closes a little later. The other process is not concerned.
    let other = process(&daemon, 5_000_001).await;
    server.finish();
    child.event("terminated").await;
    child.try_request("terminate", Value::Null).await;
    child.kill();
    root.disconnect_with(json!({ "terminateDebuggee": false }))
        .await;
    Client::start(&daemon).attached().await.threads().await;
    assert_eq!(
        (other.count("terminate"), other.count("disconnect")),
        (0, 0)
    );
}

#[tokio::test]
async fn dap_mode() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let mut client = Client::connect(&daemon).await;
    let introduction = json!({
        "clientID": "vscode", "clientName": "Visual Studio Code", "adapterID": "python", "pathFormat": "path",
        "linesStartAt1": true, "columnsStartAt1": true, "supportsVariableType": true, "supportsVariablePaging": true,
        "supportsRunInTerminalRequest": true, "locale": "en-us",
    });
    client.request("initialize", introduction).await;
    let arguments = json!({
        "type": "python", "request": "attach", "name": "x", "host": "127.0.0.1", "port": daemon.address.port(),
    });
    let attach = client.send("attach", arguments).await;
    client.initialized(attach).await;
    together(
        &mut client,
        &[
            set_breakpoints(&[3]),
            ("setExceptionBreakpoints", json!({ "filters": [] })),
        ],
    )
    .await;
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;

    let thread = thread_of(&mut client, 5_000_000).await;
    let children = children_join(&daemon, &mut client, 5_000_000).await;
    assert!(server.reach(PATH, 3));
    assert_eq!(client.stopped_at(3).await.thread, thread);
    client.step("next", thread).await;
    assert_eq!(client.stopped().await.reason, "step");
    client.continue_(thread).await;
    // Its end is that of a thread; the session lives until the client closes it without a word.
    server.finish();
    let exited = |body: &Value| body["reason"] == "exited" && body["threadId"] == thread;
    client.event_where("thread", exited).await;
    assert_eq!(client.threads().await.len(), 2);
    client.no_more("terminated").await;
    client.kill();
    for child in &children {
        child.breakpoints_where(PATH, <[Value]>::is_empty).await;
        assert_eq!(
            (child.count("disconnect"), child.count("terminate")),
            (0, 0)
        );
    }
}

// Kate, Helix, and the library.

#[tokio::test]
async fn kate() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let mut kate = Client::connect(&daemon).await;
    kate.rename("kate");
    kate.number_after(-1);
    let introduction = json!({
        "adapterID": "debugpy", "path": "path", "linesStartAt1": true, "columnsStartAt1": true, "locale": "en_US",
        "supportsRunInTerminalRequest": false, "supportsMemoryReferences": false, "supportsProgressReporting": false,
        "supportsInvalidatedEvent": false, "supportsVariableType": true, "supportsVariablePaging": true,
    });
    kate.request("initialize", introduction).await;
    let port = daemon.address.port();
    let attach = kate
        .send(
            "attach",
            json!({ "command": "attach", "host": "127.0.0.1", "port": port, "justMyCode": false }),
        )
        .await;
    kate.initialized(attach).await;

    // Nobody waits while it waits for its user: another client does all that it has to do.
    let mut other = Client::of_process(&daemon)
        .named("other")
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    assert!(server.reach(PATH, 3));
    other.stopped_at(3).await;
    // A process that comes now waits for what the user is about to set.
    let next = DebugServer::new(5_000_001).connect(&daemon).await;
    next.received("attach").await;
    kate.threads().await;
    assert!(!next.is_released());

    let (command, arguments) = set_breakpoints(&[3, 5]);
    kate.request(command, arguments).await;
    kate.request("configurationDone", Value::Null).await;
    kate.response(attach).await;
    next.released().await;
    assert_eq!(next.breakpoints(PATH).len(), 2);
    // It has missed the stop, and is told of it.
    let thread = kate.stopped().await.thread;
    assert_eq!(thread, thread_of(&mut kate, 5_000_000).await);
    let stack = kate
        .request(
            "stackTrace",
            json!({ "threadId": thread, "startFrame": 0, "levels": 0 }),
        )
        .await;
    assert_eq!(stack["stackFrames"].as_array().map(Vec::len), Some(1));
    let scopes = kate
        .request(
            "scopes",
            json!({ "frameId": stack["stackFrames"][0]["id"] }),
        )
        .await;
    let reference = &scopes["scopes"][0]["variablesReference"];
    let variables = json!({ "variablesReference": reference, "start": 0, "count": 0 });
    assert_eq!(
        kate.request("variables", variables).await["variables"][0]["value"],
        "7"
    );
    kate.continue_(thread).await;
    other.event("continued").await;
    kate.disconnect_with(json!({})).await;
    // Its breakpoints have gone with it, the other's have not.
    server
        .breakpoints_where(PATH, |breakpoints| breakpoints.len() == 1)
        .await;
    other.disconnect().await;
}

#[tokio::test]
async fn helix() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let mut client = Client::connect(&daemon).await;
    let introduction = json!({
        "clientID": "hx", "clientName": "helix", "adapterID": "debugpy", "locale": "en-us", "linesStartAt1": true,
        "columnsStartAt1": true, "pathFormat": "path", "supportsVariableType": true, "supportsVariablePaging": false,
        "supportsRunInTerminalRequest": true, "supportsMemoryReferences": false, "supportsProgressReporting": false,
        "supportsInvalidatedEvent": false,
    });
    client.request("initialize", introduction).await;
    let attach = client
        .send(
            "attach",
            json!({ "mode": "remote", "host": "127.0.0.1", "port": daemon.address.port() }),
        )
        .await;
    client.initialized(attach).await;
    let (command, arguments) = set_breakpoints(&[3]);
    client.request(command, arguments).await;
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    let children = children_join(&daemon, &mut client, 5_000_000).await;

    assert!(server.reach(PATH, 3));
    let stopped = client.stopped().await;
    client.threads().await;
    client.stack(stopped.thread).await;
    client.request("disconnect", Value::Null).await;
    client.closed().await;
    // Whoever was the last leaves nothing stopped behind.
    server.received("continue").await;
    drop(children);
}

#[tokio::test]
async fn the_library_testsupport() {
    let daemon = Daemon::start().await;
    let server = process(&daemon, 5_000_000).await;
    let mut client = Client::connect(&daemon).await;
    let introduction = json!({
        "clientID": "vscode-debugadapter-testsupport", "adapterID": "debugpy", "linesStartAt1": true,
        "columnsStartAt1": true, "pathFormat": "path", "supportsStartDebuggingRequest": true,
    });
    client.request("initialize", introduction).await;
    // It announces what it then drops; it names its process.
    let attach = client
        .send("attach", json!({ "subProcessId": 5_000_000 }))
        .await;
    client.initialized(attach).await;
    together(
        &mut client,
        &[
            set_breakpoints(&[3]),
            ("setExceptionBreakpoints", json!({ "filters": [] })),
        ],
    )
    .await;
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    assert!(server.reach(PATH, 3));
    client.stopped_at(3).await;
    let children = children_run_on(&daemon, 5_000_000).await;
    server.finish();
    client.event("terminated").await;
    client.disconnect().await;
    drop(children);
}

/// A client that announced `startDebugging`, is asked, answers as `answer` does, and attaches to nothing.
async fn announced_in_vain(answer: Option<bool>) {
    let daemon = Daemon::start().await;
    let _parent = process(&daemon, 5_000_000).await;
    let mut root = Client::start(&daemon)
        .announcing("supportsStartDebuggingRequest")
        .attached()
        .await;
    let children = children_run_on(&daemon, 5_000_000).await;
    for pid in [5_000_000, 5_000_001, 5_000_002] {
        let start = root.reverse_request("startDebugging").await;
        assert_eq!(start["arguments"]["configuration"]["subProcessId"], pid);
        if let Some(success) = answer {
            root.respond(&start, success, Value::Null).await;
        }
    }
    root.no_more("startDebugging").await;
    // Whoever attaches after all is welcome, and is waited for again.
    let mut late = Client::start(&daemon)
        .arguments(&json!({ "subProcessId": 5_000_002 }))
        .attached()
        .await;
    assert!(!late.threads().await.is_empty());
    root.disconnect().await;
    drop(children);
}

#[tokio::test]
async fn a_client_that_says_yes_and_does_nothing() {
    announced_in_vain(Some(true)).await;
}

#[tokio::test]
async fn a_client_that_says_no() {
    announced_in_vain(Some(false)).await;
}

#[tokio::test]
async fn a_client_that_says_nothing() {
    announced_in_vain(None).await;
}
