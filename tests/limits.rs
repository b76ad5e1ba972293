//! What has a bound, what happens at it, and that nothing is left of those who have gone.

mod support;

use std::path::Path;
use std::process::Stdio;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::frame;
use support::{Answer, Client, Daemon, DebugServer, raise_open_files};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio::process::Command;

const PATH: &str = "/srv/script.py";

/// What the daemon answers to `GET`.
async fn get(daemon: &Daemon, path: &str) -> Value {
    let exchange = async {
        let mut stream = TcpStream::connect(daemon.address).await?;
        let host = daemon.connect();
        let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = within("an answer", exchange)
        .await
        .expect("the daemon answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("it has a head");
    serde_json::from_str(body).expect("it is JSON")
}

/// Waits until the daemon has neither sessions nor clients; each look gives it the time for what it has to do.
async fn nobody_is_there(daemon: &Daemon) {
    let gone = async {
        loop {
            let info = get(daemon, "/api/v1/info").await;
            if info["sessions"] == 0 && info["clients"] == 0 {
                break;
            }
        }
    };
    within("everybody to be gone", gone).await;
}

/// What a process has of what may leak: files, threads, and memory in KiB.
fn usage(pid: u32) -> (usize, usize, usize) {
    let count = |what: &str| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/{what}"));
        entries.expect("the daemon runs").count()
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.expect("it has memory").trim().trim_end_matches(" kB");
    (
        count("fd"),
        count("task"),
        memory.parse().expect("a number"),
    )
}

/// Waits until the daemon has closed what it had opened since `before`, then compares the rest.
async fn back_to(daemon: &Daemon, before: (usize, usize, usize), more_memory: usize) {
    let closed = async {
        while usage(daemon.pid()).0 > before.0 {
            get(daemon, "/api/v1/info").await;
        }
    };
    within("the daemon's files to be closed", closed).await;
    let after = usage(daemon.pid());
    assert!(after.1 <= before.1, "threads: {before:?} {after:?}");
    assert!(
        after.2 <= before.2 + more_memory,
        "memory: {before:?} {after:?}"
    );
}

/// A client whose socket takes little, so that it is soon full where the client does not read.
async fn small(daemon: &Daemon) -> Client {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket
        .set_recv_buffer_size(4096)
        .expect("a socket has this option");
    let stream = within("a connection", socket.connect(daemon.address)).await;
    let (read, write) = stream.expect("the daemon accepts").into_split();
    Client::over(read, write)
}

async fn attach(client: &mut Client) {
    client.initialize(&json!({})).await;
    let attach = client.send("attach", json!({ "view": "process" })).await;
    client.initialized(attach).await;
    client.request("configurationDone", Value::Null).await;
    client.response(attach).await;
    client.threads().await;
}

// Slow clients.

#[tokio::test]
async fn a_client_that_does_not_read_is_closed_and_nobody_else_notices() {
    const STOPS: usize = 12_000;
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut deaf = small(&daemon).await;
    deaf.rename("deaf");
    attach(&mut deaf).await;
    let mut client = Client::of_process(&daemon).attached().await;

    // Nothing of this may be left out, so that at some point there is no room for it.
    let text = "x".repeat(2000);
    let mut heard = 0;
    for number in 0..STOPS {
        server.stop_at(
            1,
            "step",
            &json!({ "text": text, "description": number.to_string() }),
        );
        if number % 500 == 499 {
            while heard <= number {
                let stopped = client.stopped().await;
                assert_eq!(stopped.body["description"], heard.to_string());
                heard += 1;
            }
        }
    }
    daemon
        .logged("a client that does not read what it is sent is closed")
        .await;
    client.no_more("stopped").await;
    client.continue_(1).await;
    client.disconnect().await;
    server.finish();
    // It has not closed its end, and is gone all the same.
    nobody_is_there(&daemon).await;
    deaf.kill();
}

#[tokio::test]
async fn a_slow_client_loses_output_is_told_how_much_and_loses_nothing_else() {
    const LINES: usize = 20_000;
    const STOPS: usize = 50;
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut slow = small(&daemon).await;
    slow.rename("slow");
    attach(&mut slow).await;
    let mut quick = Client::of_process(&daemon).named("quick").attached().await;

    // It asks a lot, and then does not read for a while.
    let mut owed = Vec::new();
    for number in 0..STOPS {
        owed.push(
            slow.send("evaluate", json!({ "expression": number.to_string() }))
                .await,
        );
    }
    let text = "x".repeat(500);
    for number in 0..LINES {
        server.output("stdout", &format!("{number} {text}\n"));
        if number % (LINES / STOPS) == 0 {
            server.stop_at(1, "step", &json!({ "description": number.to_string() }));
        }
        if number % 500 == 499 {
            // The other one keeps up, and so hears every line.
            let last = format!("{number} ");
            quick
                .event_where("output", |body| {
                    body["output"]
                        .as_str()
                        .is_some_and(|line| line.starts_with(&last))
                })
                .await;
        }
    }
    assert_eq!(quick.events("stopped").await.len(), STOPS);
    let output = quick.events("output").await;
    let lines = output.iter().filter(|body| body["category"] == "stdout");
    // One of each 500 has been waited for.
    assert_eq!(lines.count() + LINES / 500, LINES);

    for seq in owed {
        assert_eq!(slow.response(seq).await["success"], true);
    }
    let stops = slow.events("stopped").await;
    let numbers: Vec<usize> = stops
        .iter()
        .map(|body| {
            body["description"]
                .as_str()
                .expect("it has one")
                .parse()
                .expect("a number")
        })
        .collect();
    assert!(
        numbers
            .into_iter()
            .eq((0..STOPS).map(|stop| stop * (LINES / STOPS)))
    );

    let is_notice = |body: &Value| {
        let text = body["output"].as_str().unwrap_or_default();
        body["category"] == "console" && text.contains("were left out")
    };
    let notice = slow.event_where("output", is_notice).await;
    let notice = notice["output"].as_str().expect("it is text");
    let lost: usize = notice
        .split(' ')
        .find_map(|word| word.parse().ok())
        .expect("a number");
    let output = slow.events("output").await;
    let lines = output
        .iter()
        .filter(|body| body["category"] == "stdout")
        .count();
    assert!(lost > 0);
    assert_eq!(lines + lost, LINES, "{notice}");
    // It has caught up, and gets everything again.
    server.output("stdout", "again\n");
    slow.event_where("output", |body| body["output"] == "again\n")
        .await;
}

#[tokio::test]
async fn a_flood_of_requests_is_refused_at_the_bound() {
    const REQUESTS: usize = 10_000;
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let mut client = Client::of_process(&daemon).named("flood").attached().await;
    let mut other = Client::of_process(&daemon).named("other").attached().await;
    server.on("evaluate", |_| Answer::Silence);
    for _ in 0..REQUESTS {
        client.send("evaluate", json!({ "expression": "1" })).await;
    }
    // What is refused is answered at once, and what another asks is answered too where the process is not needed.
    let (mut refused, mut lost) = (0, 0);
    let why = client.next_response().await["message"].take();
    let is_refusal = |why: &Value| {
        let why = why.as_str().expect("a failure says why");
        why.contains("owes too many") || why.contains("does not keep up")
    };
    assert!(is_refusal(&why), "{why}");
    refused += 1;
    other.refused("loadedSources", Value::Null).await;
    server.close();
    while refused + lost < REQUESTS {
        let answer = client.next_response().await;
        assert_eq!(answer["success"], false);
        let why = &answer["message"];
        if is_refusal(why) {
            refused += 1;
        } else {
            assert!(
                why.as_str().is_some_and(|why| why.contains("ended")),
                "{why}"
            );
            lost += 1;
        }
    }
    assert!((1..=4096).contains(&lost), "{lost}");
    // The guard's own request is among those that it has.
    assert!(server.count("evaluate") - 1 <= 4096);
    client.event("terminated").await;
    client.disconnect().await;
    other.event("terminated").await;
}

// Many.

/// What clients have said when they go.
const CLIENTS: [&[&str]; 5] = [
    &[INITIALIZE],
    &[INITIALIZE, DISCONNECT],
    &[
        INITIALIZE,
        r#"{"seq":2,"type":"request","command":"attach","arguments":{}}"#,
    ],
    &[
        INITIALIZE,
        r#"{"seq":2,"type":"request","command":"attach","arguments":{"view":"tree"}}"#,
        r#"{"seq":3,"type":"request","command":"configurationDone"}"#,
    ],
    &[
        INITIALIZE,
        r#"{"seq":2,"type":"request","command":"attach","arguments":{"sessions":"name=nobody"}}"#,
        DISCONNECT,
    ],
];
const INITIALIZE: &str =
    r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"debugpy"}}"#;
const DISCONNECT: &str = r#"{"seq":9,"type":"request","command":"disconnect"}"#;

#[tokio::test]
async fn thousands_come_and_go_and_nothing_is_left_of_them() {
    const BATCH: usize = 250;
    const BATCHES: usize = 40;
    raise_open_files();
    let daemon = Daemon::launch({
        let mut command = Daemon::command(0, &[]);
        command.env("RUST_LOG", "warn");
        command
    })
    .await;
    // A first round, so that what is kept for later use is there.
    let mut warm = Some(usage(daemon.pid()));
    for round in 0..=BATCHES {
        let mut servers = Vec::new();
        for number in 0..BATCH {
            let pid = 5_000_000 + i64::try_from(round * BATCH + number).expect("small");
            servers.push(DebugServer::new(pid).connect(&daemon).await);
        }
        for server in &servers {
            server.released().await;
        }
        for (number, server) in servers.iter().enumerate() {
            // By a word, without one, and by being killed.
            match number % 3 {
                0 => server.finish(),
                1 => server.close(),
                _ => {}
            }
        }
        drop(servers);
        if round == 0 {
            nobody_is_there(&daemon).await;
            warm = Some(usage(daemon.pid()));
        }
    }
    nobody_is_there(&daemon).await;
    assert_eq!(
        get(&daemon, "/api/v1/sessions").await,
        json!({ "sessions": [] })
    );
    let all = get(&daemon, "/api/v1/sessions?all=true").await;
    let all = all["sessions"].as_array().expect("a list");
    assert_eq!(all.len(), 1000, "the last ones are remembered");
    assert!(
        all.iter()
            .all(|session| session["state"] == "ended" && !session["ended"].is_null())
    );
    let warm = warm.expect("it was taken");
    back_to(&daemon, warm, 24 * 1024).await;

    let server = DebugServer::new(6_000_000).connect(&daemon).await;
    server.released().await;
    for _ in 0..BATCHES {
        let mut clients = Vec::new();
        for number in 0..BATCH {
            let stream = within("a connection", TcpStream::connect(daemon.address)).await;
            let mut stream = stream.expect("the daemon accepts");
            let say = CLIENTS[number % CLIENTS.len()].iter();
            let words: Vec<u8> = say.flat_map(|text| frame(text)).collect();
            stream.write_all(&words).await.expect("the daemon reads");
            clients.push(stream);
        }
        for (number, mut stream) in clients.into_iter().enumerate() {
            // Some go when they have been answered, and the others before.
            if number % 2 == 0 {
                let mut bytes = [0; 16];
                let read = within("an answer", stream.read_exact(&mut bytes)).await;
                read.expect("the daemon answers");
            }
        }
        let mut client = Client::of_process(&daemon)
            .breakpoints(PATH, &[3])
            .attached()
            .await;
        client.threads().await;
        client.disconnect().await;
    }
    server.breakpoints_where(PATH, <[Value]>::is_empty).await;
    let listed =
        async { while get(&daemon, "/api/v1/sessions").await["sessions"][0]["clients"] != 0 {} };
    within("the clients to be gone", listed).await;
    server.finish();
    nobody_is_there(&daemon).await;
    back_to(&daemon, warm, 24 * 1024).await;
}

// The daemon itself.

#[tokio::test]
async fn a_daemon_that_is_stopped_says_goodbye_to_all() {
    let daemon = Daemon::start().await;
    let mut servers = Vec::new();
    for pid in 5_000_000..5_000_010 {
        let server = DebugServer::new(pid).connect(&daemon).await;
        server.released().await;
        servers.push(server);
    }
    let mut clients = Vec::new();
    for server in 5_000_000..5_000_010 {
        let named = json!({ "subProcessId": server });
        clients.push(Client::start(&daemon).arguments(&named).attached().await);
    }
    clients.push(
        Client::start(&daemon)
            .announcing("supportsStartDebuggingRequest")
            .attached()
            .await,
    );
    // One that waits, one that configures, one that has only introduced itself, and one that says nothing.
    let mut waiting = Client::start(&daemon).connected().await;
    waiting
        .send(
            "attach",
            json!({ "view": "process", "sessions": "name=nobody" }),
        )
        .await;
    waiting.event("debugpyWaitingForServer").await;
    let mut configuring = Client::start(&daemon).connected().await;
    let attach = configuring
        .send("attach", json!({ "view": "process" }))
        .await;
    configuring.initialized(attach).await;
    clients.extend([waiting, configuring]);
    let mut introduced = Client::start(&daemon).connected().await;
    let mut silent = Client::connect(&daemon).await;
    silent.reverse_request("pydevdSystemInfo").await;
    for (server, client) in servers.iter().zip(&mut clients) {
        server.stop_at(1, "breakpoint", &Value::Null);
        client.stopped().await;
    }
    // Its exit code and what it has printed are checked there.
    daemon.stop().await;
    for mut client in clients {
        client.event("terminated").await;
        client.closed().await;
    }
    introduced.closed().await;
    silent.closed().await;
    for server in servers {
        server.closed().await;
        // The processes run on: nobody has asked them to end.
        assert_eq!(
            (server.count("disconnect"), server.count("terminate")),
            (0, 0)
        );
    }
}

#[tokio::test]
async fn a_unix_socket_is_as_good_and_private() {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt};
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("dbgproxy.sock");
    let listen = format!("unix:{}", path.display());
    // A file that a daemon has left behind that was killed.
    let dead = Daemon::with(&["--listen", &listen]).await;
    dead.kill().await;
    assert!(path.exists());

    let daemon = Daemon::with(&["--listen", &listen]).await;
    let metadata = std::fs::metadata(&path).expect("it is there");
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert_eq!(
        get(&daemon, "/api/v1/info").await["addresses"],
        json!([daemon.connect(), listen])
    );

    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let stream = within("a connection", UnixStream::connect(&path)).await;
    let (read, write) = stream.expect("it accepts").into_split();
    let mut client = Client::over(read, write);
    attach(&mut client).await;
    server.stop_at(1, "breakpoint", &Value::Null);
    client.stopped().await;
    // Its children can be reached by TCP.
    let _child = DebugServer::new(5_000_001)
        .parent(5_000_000)
        .connect(&daemon)
        .await;
    assert_eq!(
        client.event("debugpyAttach").await["connect"]["port"],
        daemon.address.port()
    );

    // A second daemon does not take the place of one that lives.
    let second = refused(Daemon::command(0, &["--listen", &listen])).await;
    assert_eq!(second.0, Some(1), "{}", second.1);
    assert!(second.1.contains(&listen), "{}", second.1);
    client.threads().await;
    assert!(path.exists());

    daemon.stop().await;
    client.event("terminated").await;
    client.closed().await;
    assert!(!path.exists(), "the file goes with the daemon");
}

#[tokio::test]
async fn one_daemon_on_several_addresses() {
    let mut command = Daemon::command(0, &["--listen", "127.0.0.1:0", "--listen", "[::1]:0"]);
    command.env("RUST_LOG", "dbgproxy=debug");
    let daemon = Daemon::launch(command).await;
    let info = get(&daemon, "/api/v1/info").await;
    let addresses = info["addresses"].as_array().expect("a list");
    assert_eq!(addresses.len(), 3);
    for (address, pid) in addresses.iter().zip(5_000_000..) {
        let address: std::net::SocketAddr = address.as_str().expect("text").parse().expect("one");
        let server = DebugServer::new(pid).connect(address).await;
        server.released().await;
        let mut client = Client::start(address)
            .arguments(&json!({ "subProcessId": pid }))
            .attached()
            .await;
        client.threads().await;
        // Its children are told to come where it came.
        let child = DebugServer::new(pid + 100)
            .parent(pid)
            .connect(address)
            .await;
        let connect = client.event("debugpyAttach").await["connect"].take();
        assert_eq!(
            connect,
            json!({ "host": address.ip(), "port": address.port() })
        );
        client.disconnect().await;
        child.released().await;
    }
    daemon.stop().await;
}

/// Runs a daemon that must not start: its exit code, and what it says of why.
async fn refused(mut command: Command) -> (Option<i32>, String) {
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = within("the daemon to give up", command.output()).await;
    let output = output.expect("it can be started");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "",
        "stdout is for addresses"
    );
    (
        output.status.code(),
        String::from_utf8_lossy(&output.stderr).into_owned(),
    )
}

#[tokio::test]
async fn where_a_daemon_may_not_or_cannot_listen_it_says_so() {
    let daemon = Daemon::start().await;
    let (code, why) = refused(Daemon::command(daemon.address.port(), &[])).await;
    assert_eq!(code, Some(1), "{why}");
    assert!(
        why.contains(&daemon.connect()) && why.contains("dbgproxy sessions"),
        "{why}"
    );
    // All addresses or none.
    let (code, why) = refused(Daemon::command(0, &["--listen", &daemon.connect()])).await;
    assert_eq!(code, Some(1), "{why}");
    let (code, why) = refused(Daemon::command(0, &["--listen", "unix:/nowhere/at/all"])).await;
    assert_eq!(code, Some(1), "{why}");
    assert!(why.contains("/nowhere/at/all"), "{why}");
    for address in [
        "0.0.0.0:0",
        "[::]:0",
        "192.0.2.1:5678",
        "[::ffff:10.0.0.1]:1",
    ] {
        let (code, why) = refused(Daemon::command(0, &["--listen", address])).await;
        assert_eq!(code, Some(2), "{why}");
        assert!(why.contains("ssh -L"), "{why}");
    }
    for arguments in [
        &["--listen", "5678"][..],
        &["--listen", ""],
        &["--nonsense"],
        &["--on-last-detach", "kill"],
    ] {
        assert_eq!(
            refused(Daemon::command(0, arguments)).await.0,
            Some(2),
            "{arguments:?}"
        );
    }
    assert_eq!(get(&daemon, "/api/v1/info").await["sessions"], 0);
}

#[tokio::test]
async fn another_user_is_not_let_in() {
    // Only root can become somebody else; for others there is nothing to test here.
    if !rustix::process::getuid().is_root() || !Path::new("/usr/bin/setpriv").exists() {
        eprintln!("not root, or no setpriv: nothing is tested");
        return;
    }
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_000).connect(&daemon).await;
    server.released().await;
    let initialize =
        r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"x"}}"#;
    let initialize = String::from_utf8(frame(initialize)).expect("it is text");
    let health = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        daemon.connect()
    );
    let port = daemon.address.port();
    for (uid, let_in) in [(65534, false), (0, true)] {
        for (words, answer) in [
            (&health, "200 OK"),
            (&initialize, "supportsConfigurationDoneRequest"),
        ] {
            // The shell opens the connection after it has become the other user, speaks, and prints one answer.
            let script = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{port}; printf %s \"$1\" >&3; timeout 20 head -c 1500 <&3"
            );
            let child = Command::new("setpriv")
                .args([
                    &format!("--reuid={uid}"),
                    "--clear-groups",
                    "bash",
                    "-c",
                    &script,
                    "bash",
                    words,
                ])
                .current_dir("/")
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output();
            let output = within("the other user's answer", child)
                .await
                .expect("it can be started");
            let printed = String::from_utf8_lossy(&output.stdout);
            assert_eq!(printed.contains(answer), let_in, "{uid}: {output:?}");
            assert_eq!(printed.is_empty(), !let_in, "{uid}: {output:?}");
        }
    }
    let refusals = daemon
        .log()
        .matches("it belongs to the user with the uid 65534")
        .count();
    assert_eq!(refusals, 2);
    assert_eq!(get(&daemon, "/api/v1/info").await["sessions"], 1);
}
