//! Who is calling: what the daemon makes of the first bytes of a connection, and that it is harmed by none of them.

mod support;

use serde_json::{Value, json};
use support::wait::within;
use support::wire::{Frames, frame};
use support::{Client, Daemon, DebugServer};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// The one request that a silent peer gets, to the byte.
const PROBE: &str = r#"{"seq":1,"type":"request","command":"pydevdSystemInfo","arguments":{}}"#;

const PATH: &str = "/srv/script.py";

async fn connect(daemon: &Daemon) -> TcpStream {
    let stream = within("a connection", TcpStream::connect(daemon.address)).await;
    let stream = stream.expect("the daemon accepts connections");
    stream.set_nodelay(true).expect("a socket has this option");
    stream
}

/// All that comes until the daemon closes. It may close with a reset, where it has not read all that was sent.
async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let _ = within("the daemon to close", stream.read_to_end(&mut bytes)).await;
    bytes
}

/// Sends bytes as an only word, and gives all that comes back.
async fn answer_to(daemon: &Daemon, bytes: &[u8]) -> Vec<u8> {
    let mut stream = connect(daemon).await;
    let _ = stream.write_all(bytes).await;
    rest(&mut stream).await
}

/// An HTTP request and its answer: the status, and the body.
async fn http(daemon: &Daemon, request: &str, headers: &[&str], body: &str) -> (u16, String) {
    support::http::http(daemon.address, request, headers, body).await
}

/// `GET` as a browser on this machine sends it.
async fn get(daemon: &Daemon, path: &str) -> (u16, String) {
    let host = format!("Host: {}", daemon.connect());
    http(daemon, &format!("GET {path}"), &[&host], "").await
}

async fn get_json(daemon: &Daemon, path: &str) -> Value {
    let (status, body) = get(daemon, path).await;
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).expect("it is JSON")
}

/// The error code that an HTTP failure names; it must have a message too.
fn error_code(body: &str) -> String {
    let body: Value = serde_json::from_str(body).expect("an error is JSON");
    let message = body["error"]["message"].as_str().unwrap_or_default();
    assert!(!message.is_empty(), "no word of why: {body}");
    body["error"]["code"].as_str().unwrap_or_default().into()
}

/// A process comes, a client attaches, a breakpoint is hit: the daemon is well.
async fn all_is_well(daemon: &Daemon) {
    let server = DebugServer::new(5_000_000).connect(daemon).await;
    server.released().await;
    let mut client = Client::start(daemon)
        .breakpoints(PATH, &[3])
        .attached()
        .await;
    assert!(server.reach(PATH, 3), "the breakpoint is set");
    let stopped = client.stopped_at(3).await;
    client.continue_(stopped.thread).await;
    client.disconnect().await;
    server.finish();
    server.closed().await;
}

/// What a process has of what may leak.
#[derive(Debug)]
struct Usage {
    files: usize,
    threads: usize,
    /// In KiB.
    memory: usize,
}

fn usage(pid: u32) -> Usage {
    let count = |what: &str| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/{what}"));
        entries.expect("the daemon runs").count()
    };
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.expect("it has memory").trim().trim_end_matches(" kB");
    Usage {
        files: count("fd"),
        threads: count("task"),
        memory: memory.parse().expect("a number"),
    }
}

/// Waits until the daemon has no more files open than before, then looks at the rest.
async fn back_to(daemon: &Daemon, before: &Usage) {
    let closed = async {
        // Each round asks the daemon something, which gives it the time to close what it has to.
        while usage(daemon.pid()).files > before.files {
            get(daemon, "/healthz").await;
        }
    };
    within("the daemon's files to be closed", closed).await;
    let after = usage(daemon.pid());
    assert!(after.threads <= before.threads, "{before:?} {after:?}");
    assert!(
        after.memory <= before.memory + 16 * 1024,
        "{before:?} {after:?}"
    );
}

// Nothing is said.

#[tokio::test]
async fn a_silent_peer_is_probed_once_and_with_nothing_else() {
    let daemon = Daemon::start().await;
    let mut silent = connect(&daemon).await;
    let expected = frame(PROBE);
    let mut probe = vec![0; expected.len()];
    within("the probe", silent.read_exact(&mut probe))
        .await
        .expect("the connection lives");
    assert_eq!(
        String::from_utf8_lossy(&probe),
        String::from_utf8_lossy(&expected)
    );

    // Others come and go meanwhile, and it is not spoken to again.
    all_is_well(&daemon).await;
    daemon.stop().await;
    assert_eq!(rest(&mut silent).await, b"");
}

#[tokio::test]
async fn a_debug_server_is_greeted_after_its_answer() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_001).connect(&daemon).await;
    server.released().await;
    let requests = server.requests();
    let commands: Vec<&str> = requests
        .iter()
        .map(|request| request["command"].as_str().expect("a request has one"))
        .collect();
    let done = commands
        .iter()
        .position(|command| *command == "configurationDone");
    let (greeting, after) = commands.split_at(done.expect("it is released") + 1);
    assert_eq!(greeting.first(), Some(&"pydevdSystemInfo"));
    // It is told that no IDE is there, and nothing more.
    assert!(
        after.iter().all(|command| *command == "initialize"),
        "{after:?}"
    );
    for (expected, request) in (1..).zip(&requests) {
        assert_eq!(request["seq"], expected, "{requests:?}");
    }
    let count = |name| greeting.iter().filter(|command| **command == name).count();
    assert_eq!(count("pydevdSystemInfo"), 1);
    assert_eq!(count("initialize"), 1);
    assert_eq!(count("attach"), 1);
    assert_eq!(count("disconnect"), 0);
}

#[tokio::test]
async fn an_ide_that_speaks_only_after_the_probe_becomes_a_client() {
    let daemon = Daemon::start().await;
    let server = DebugServer::new(5_000_002).connect(&daemon).await;
    server.released().await;

    // Every kind of answer that IDEs give to a request that they do not know, none included.
    for (success, body) in [
        (None, Value::Null),
        (Some(false), Value::Null),
        (Some(true), Value::Null),
        (Some(true), json!({})),
        (Some(true), json!({ "process": { "pid": "no number" } })),
    ] {
        for before_initialize in [true, false] {
            let mut client = Client::connect(&daemon).await;
            // The harness checks that what follows goes on numbering after the probe.
            let probe = client.reverse_request("pydevdSystemInfo").await;
            assert_eq!(probe["seq"], 1);
            if let (true, Some(success)) = (before_initialize, success) {
                client.respond(&probe, success, body.clone()).await;
            }
            client.initialize(&json!({})).await;
            if let (false, Some(success)) = (before_initialize, success) {
                client.respond(&probe, success, body.clone()).await;
            }
            let attach = client.send("attach", json!({})).await;
            client.initialized(attach).await;
            client.request("configurationDone", Value::Null).await;
            client.response(attach).await;
            client.no_more("pydevdSystemInfo").await;
            client.disconnect().await;
        }
    }
}

// The wrong thing is said.

#[tokio::test]
async fn a_first_request_that_is_not_initialize_is_answered_and_the_end() {
    let daemon = Daemon::start().await;
    for command in [
        "attach",
        "launch",
        "threads",
        "disconnect",
        "dbgproxy/sessions",
        "dbgproxy/hello",
        "",
    ] {
        let mut client = Client::connect(&daemon).await;
        let why = client.refused(command, Value::Null).await;
        assert!(!why.is_empty());
        client.closed().await;

        // The same of one that was slow.
        let mut client = Client::connect(&daemon).await;
        client.reverse_request("pydevdSystemInfo").await;
        client.refused(command, Value::Null).await;
        client.closed().await;
    }
    let mut client = Client::connect(&daemon).await;
    let why = client.refused("threads", Value::Null).await;
    assert!(why.contains("initialize"), "{why}");
    client.closed().await;

    for text in [
        r#"{"seq":1,"type":"event","event":"initialized"}"#,
        r#"{"seq":1,"type":"response","request_seq":1,"success":true,"command":"initialize"}"#,
    ] {
        let answer = answer_to(&daemon, &frame(text)).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("\"success\":false"), "{text}: {answer}");
    }
    for text in ["{}", "[]", "1", "{", r#"{"seq":1}"#] {
        let mut client = Client::connect(&daemon).await;
        client.expects(0, "");
        client.send_text(text).await;
        let answer = client.response(0).await;
        assert_eq!(answer["success"], false, "{text}");
        client.closed().await;
    }
    all_is_well(&daemon).await;
}

#[tokio::test]
async fn garbage_is_closed_without_an_answer() {
    let daemon = Daemon::start().await;
    let long = format!("Content-Length: {}", "1".repeat(5000));
    for bytes in [
        &b"\0"[..],
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"101\t1\t\n",
        b"get /healthz HTTP/1.1\r\n\r\n",
        b"{\"seq\":1,\"type\":\"request\",\"command\":\"initialize\"}",
        b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
        b"Content-Length:5\r\n\r\n{}   ",
        b"Content-Length: \r\n\r\n",
        b"Content-Length: x\r\n\r\n",
        b"Content-Length: -1\r\n\r\n",
        b"Content-Length: 67108865\r\n\r\n",
        b"Content-Length: 2\r\nHost: 127.0.0.1\r\n\r\n{}",
        b"Content-Length: 2\n\n{}",
        long.as_bytes(),
    ] {
        let answer = answer_to(&daemon, bytes).await;
        assert_eq!(answer, b"", "{:?}", String::from_utf8_lossy(bytes));
    }
    all_is_well(&daemon).await;
    assert!(
        !daemon.log().contains("client connected, "),
        "{}",
        daemon.log()
    );
}

// HTTP.

#[tokio::test]
async fn http_is_served_on_the_same_port() {
    let daemon = Daemon::start().await;
    assert_eq!(get(&daemon, "/healthz").await, (200, "ok\n".into()));
    assert_eq!(
        get_json(&daemon, "/api/v1/sessions").await,
        json!({ "sessions": [] })
    );

    let server = DebugServer::new(5_000_003).connect(&daemon).await;
    server.released().await;
    let sessions = get_json(&daemon, "/api/v1/sessions").await;
    assert_eq!(sessions["sessions"][0]["pid"], 5_000_003);
    assert_eq!(sessions["sessions"][0]["state"], "running");
    let none = get_json(&daemon, "/api/v1/sessions?selector=pid%3D1").await;
    assert_eq!(none, json!({ "sessions": [] }));

    let info = get_json(&daemon, "/api/v1/info").await;
    assert_eq!(info["name"], "dbgproxy");
    assert_eq!(info["pid"], daemon.pid());
    assert_eq!(info["addresses"], json!([daemon.connect()]));
    assert_eq!(
        (&info["sessions"], &info["clients"]),
        (&json!(1), &json!(0))
    );

    for path in [
        "/nothing",
        "/api/v1/nothing",
        "/api/v2/sessions",
        "/api/v1/sessions/x",
    ] {
        let (status, body) = get(&daemon, path).await;
        assert_eq!((status, &*error_code(&body)), (404, "not-found"), "{path}");
    }
    let (status, body) = get(&daemon, "/api/v1/sessions?selector=pid%3Dx").await;
    assert_eq!((status, &*error_code(&body)), (400, "bad-request"));
}

#[tokio::test]
async fn http_lets_no_web_page_in() {
    let daemon = Daemon::start().await;
    let address = daemon.connect();
    let host = format!("Host: {address}");
    let json_body = "Content-Type: application/json";
    let post = "POST /api/v1/sessions";
    for wrong in [
        "Host: evil.example",
        "Host: evil.example:5678",
        "Host: 127.0.0.1.nip.io",
        "Host: ",
        "X-Host: none",
    ] {
        for request in ["GET /healthz", "GET /api/v1/sessions", "GET /nothing", post] {
            let (status, body) = http(&daemon, request, &[wrong, json_body], "").await;
            assert_eq!(
                (status, &*error_code(&body)),
                (403, "forbidden"),
                "{wrong} {request}"
            );
        }
    }
    for origin in [
        "Origin: http://evil.example",
        "Origin: null",
        "Origin: https://127.0.0.1",
        "Origin: http://localhost:1",
    ] {
        for request in ["GET /api/v1/sessions", post] {
            let (status, body) = http(&daemon, request, &[&host, origin, json_body], "").await;
            assert_eq!(
                (status, &*error_code(&body)),
                (403, "forbidden"),
                "{origin} {request}"
            );
        }
    }
    let own = format!("Origin: http://{address}");
    for request in ["GET /api/v1/sessions", post] {
        let (status, body) = http(&daemon, request, &[&host, &own, json_body], "").await;
        assert_eq!((status, &*body), (200, r#"{"sessions":[]}"#));
    }
    // What a form of a page can send is not enough.
    for kind in [
        "X-Kind: none",
        "Content-Type: text/plain",
        "Content-Type: application/x-www-form-urlencoded",
    ] {
        let (status, body) = http(&daemon, post, &[&host, kind], "{}").await;
        assert_eq!(
            (status, &*error_code(&body)),
            (400, "bad-request"),
            "{kind}"
        );
    }
    for body in ["[]", "{", "1", "\u{1}"] {
        let (status, answer) = http(&daemon, post, &[&host, json_body], body).await;
        assert_eq!(
            (status, &*error_code(&answer)),
            (400, "bad-request"),
            "{body}"
        );
    }
    for request in [
        "DELETE /api/v1/sessions",
        "PUT /api/v1/sessions",
        "OPTIONS /api/v1/sessions",
    ] {
        let (status, _) = http(&daemon, request, &[&host, json_body], "{}").await;
        assert!((400..500).contains(&status), "{request}: {status}");
    }
}

#[tokio::test]
async fn an_http_request_never_reaches_dap() {
    let daemon = Daemon::start().await;
    let host = format!("Host: {}", daemon.connect());
    let initialize =
        r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"debugpy"}}"#;
    let framed = String::from_utf8(frame(initialize)).expect("it is text");

    // As a page of the web can have it sent: the body is a whole message, or a whole stream of them.
    for body in [initialize, &framed] {
        for kind in ["Content-Type: text/plain", "Content-Type: application/json"] {
            let (status, answer) = http(&daemon, "POST /", &[&host, kind], body).await;
            assert_eq!((status, &*error_code(&answer)), (404, "not-found"));
        }
    }
    // With the length as its first header, and with a body that is shorter than what follows.
    for length in [0, 1, initialize.len(), framed.len()] {
        let text = format!(
            "POST / HTTP/1.1\r\nContent-Length: {length}\r\n{host}\r\nConnection: close\r\n\r\n{framed}"
        );
        let answer = answer_to(&daemon, text.as_bytes()).await;
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
        assert!(!answer.contains("request_seq"), "{answer}");
    }
    // Without its first line it is no HTTP, and with a further header it is no DAP.
    let text = format!(
        "Content-Length: {}\r\n{host}\r\n\r\n{initialize}",
        initialize.len()
    );
    assert_eq!(answer_to(&daemon, text.as_bytes()).await, b"");

    assert_eq!(get_json(&daemon, "/api/v1/info").await["clients"], 0);
    assert!(
        !daemon.log().contains("client connected"),
        "{}",
        daemon.log()
    );
}

#[tokio::test]
async fn http_may_come_in_pieces_and_more_than_once() {
    let daemon = Daemon::start().await;
    let mut stream = connect(&daemon).await;
    let request = format!(
        "GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n",
        daemon.connect()
    );
    for _ in 0..2 {
        for byte in request.bytes() {
            stream.write_all(&[byte]).await.expect("it reads");
        }
        let mut answer = String::new();
        while !answer.ends_with("\r\n\r\nok\n") {
            let mut piece = [0; 1024];
            let count = within("an answer", stream.read(&mut piece)).await;
            let count = count.expect("the connection lives");
            assert_ne!(count, 0, "closed after {answer:?}");
            answer.push_str(std::str::from_utf8(&piece[..count]).expect("it is text"));
        }
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    }
}

// It is said in part.

#[tokio::test]
async fn opening_and_closing_the_port_is_harmless() {
    let daemon = Daemon::start().await;
    all_is_well(&daemon).await;
    let before = usage(daemon.pid());
    for _ in 0..5000 {
        drop(connect(&daemon).await);
    }
    all_is_well(&daemon).await;
    back_to(&daemon, &before).await;
    assert_eq!(
        get_json(&daemon, "/api/v1/sessions").await,
        json!({ "sessions": [] })
    );
    // A health check every second must not fill the log of a daemon that nobody has set to debug.
    let log = daemon.log();
    let loud = log
        .lines()
        .find(|line| line.contains(" WARN ") || line.contains(" ERROR "));
    assert_eq!(loud, None);
}

#[tokio::test]
async fn a_message_that_breaks_off_anywhere_is_harmless() {
    let daemon = Daemon::start().await;
    all_is_well(&daemon).await;
    let before = usage(daemon.pid());
    let initialize =
        r#"{"seq":1,"type":"request","command":"initialize","arguments":{"adapterID":"debugpy"}}"#;
    let bytes = frame(initialize);
    for end in 0..bytes.len() {
        let mut at_once = connect(&daemon).await;
        at_once.write_all(&bytes[..end]).await.expect("it reads");
        drop(at_once);

        let mut in_pieces = connect(&daemon).await;
        for byte in &bytes[..end] {
            in_pieces.write_all(&[*byte]).await.expect("it reads");
        }
        in_pieces.shutdown().await.expect("it is open");
        // Where it had not even begun, it may have been probed.
        let answer = rest(&mut in_pieces).await;
        assert!(answer.is_empty() || end == 0 && answer == frame(PROBE));
    }
    // The whole of it, byte by byte, is as good as at once.
    let stream = connect(&daemon).await;
    let (read, mut write) = stream.into_split();
    for byte in &bytes {
        write.write_all(&[*byte]).await.expect("it reads");
    }
    let mut frames = Frames::new(read);
    loop {
        let message = within("an answer", frames.next()).await;
        let message = message.expect("whole messages").expect("the response");
        let message: Value = serde_json::from_str(&message).expect("it is JSON");
        if message["request_seq"] == 1 {
            assert_eq!(message["success"], true);
            break;
        }
    }
    drop((frames, write));
    all_is_well(&daemon).await;
    back_to(&daemon, &before).await;
}
