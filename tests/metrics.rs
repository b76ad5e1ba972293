//! The figures for Prometheus, read by its own tools, and the monitor's log.

mod support;

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command as Plain, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use support::agent::{Agent, ID, PID};
use support::http::http;
use support::report::{found, gone, open, report};
use support::wait::within;
use support::{Client, Daemon, DebugServer, Program, Python, Script};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::sleep;

/// How often something is looked at that cannot be waited for.
const AGAIN: Duration = Duration::from_millis(50);

/// What `GET /metrics` answers.
async fn metrics(daemon: &Daemon) -> String {
    let host = format!("Host: {}", daemon.connect());
    let (status, text) = http(daemon.address, "GET /metrics", &[&host], "").await;
    assert_eq!(status, 200, "{text}");
    text
}

/// The value of a figure, if it is there.
fn figure(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.starts_with(name))?;
    line.rsplit_once(' ')?.1.parse().ok()
}

fn held() -> Value {
    let actor = json!({ "thread": 1, "name": "MainThread", "task": null, "taskName": null });
    let holder = json!({ "actor": actor, "site": ["/srv/a.py", 12], "from": 0 });
    let lock = json!({
        "id": "1", "name": "db", "kind": "threading.Lock", "site": ["/srv/a.py", 1], "holders": [holder],
        "waiters": [], "waiterCount": 0, "acquisitions": 7, "contended": 1, "timeouts": 0, "longest": 0.5,
    });
    json!({ "monitors": ["locks"], "locks": { "total": 1, "dropped": 0, "locks": [lock] } })
}

/// The report as soon as it says how much of a core the process uses.
async fn measured(daemon: &Daemon) -> Value {
    let is_so = |report: &Value| report["processes"][0]["cpu"].is_f64();
    report(daemon, "what the process uses", is_so).await
}

/// A daemon that looks often, and has little patience.
async fn daemon(more: &[&str]) -> Daemon {
    let arguments = ["--monitor-interval", "0.05", "--monitor-lock-held", "0.1"];
    Daemon::with(&[&arguments, more].concat()).await
}

/// A process that sleeps until it is told to end.
async fn sleeper(daemon: &Daemon, name: &str) -> (Program, Script) {
    let script = Script::new(name, "print('up')\ninput()\n");
    let mut program = Python::newest().run_attached(daemon, &script).await;
    program.printed("up").await;
    (program, script)
}

#[tokio::test]
async fn promtool_has_nothing_to_say() {
    let daemon = daemon(&[]).await;
    let (_program, _script) = sleeper(&daemon, "odd \"name\".py").await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let _sampling = agent.sampling(held());
    found(&daemon, "lock-held").await;
    measured(&daemon).await;
    let text = metrics(&daemon).await;
    for (name, value) in [
        ("dbgproxy_sessions{state=\"dormant\"}", 2.0),
        ("dbgproxy_sessions{state=\"stopped\"}", 0.0),
        ("dbgproxy_sessions_opened_total", 2.0),
        ("dbgproxy_findings{kind=\"lock-held\"}", 1.0),
        ("dbgproxy_findings{kind=\"lock-cycle\"}", 0.0),
        ("dbgproxy_findings_unnamed", 0.0),
        ("dbgproxy_locks_held", 1.0),
    ] {
        assert_eq!(figure(&text, name), Some(value), "{name}\n{text}");
    }
    for name in [
        "dbgproxy_process_resident_memory_bytes{name=\"odd \\\"name\\\".py\"",
        "dbgproxy_process_threads",
        "dbgproxy_host_memory_size_bytes",
        "dbgproxy_daemon_resident_memory_bytes",
        "dbgproxy_daemon_tasks",
        "dbgproxy_finding_start_timestamp_seconds{finding=\"1\",kind=\"lock-held\",process=\"a.py\",",
        "dbgproxy_received_bytes_total",
        "dbgproxy_received_messages_total",
        "dbgproxy_sent_bytes_total",
        "dbgproxy_monitor_samples_total",
    ] {
        assert!(figure(&text, name) > Some(0.0), "{name}\n{text}");
    }
    let mut promtool = Plain::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool is there: install Debian's package `prometheus`");
    let mut stdin = promtool.stdin.take().expect("it is a pipe");
    stdin.write_all(text.as_bytes()).expect("it reads");
    drop(stdin);
    let output = promtool.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}\n{text}");
    assert!(
        output.stdout.is_empty() && output.stderr.is_empty(),
        "{output:?}\n{text}"
    );
}

#[tokio::test]
async fn a_daemon_that_does_not_monitor_has_figures_all_the_same() {
    let daemon = Daemon::with(&["--monitor-interval", "0"]).await;
    let text = metrics(&daemon).await;
    assert_eq!(
        figure(&text, "dbgproxy_sessions{state=\"running\"}"),
        Some(0.0),
        "{text}"
    );
    assert_eq!(figure(&text, "dbgproxy_findings"), None, "{text}");
}

#[tokio::test]
async fn a_real_prometheus_scrapes_it() {
    let daemon = daemon(&[]).await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let _sampling = agent.sampling(held());
    let directory = tempfile::tempdir().expect("a directory");
    let config = directory.path().join("prometheus.yml");
    let target = daemon.connect();
    let text = format!(
        "global: {{scrape_interval: 1s, scrape_timeout: 1s}}\nscrape_configs:\n- job_name: dbgproxy\n  \
         static_configs: [{{targets: ['{target}']}}]\n"
    );
    std::fs::write(&config, text).expect("it can be written");
    let free = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let address: SocketAddr = free.expect("a free port");
    let _prometheus = Command::new("prometheus")
        .arg(format!("--config.file={}", config.display()))
        .arg(format!(
            "--storage.tsdb.path={}",
            directory.path().join("data").display()
        ))
        .arg(format!("--web.listen-address={address}"))
        .arg("--log.level=error")
        .kill_on_drop(true)
        .spawn()
        .expect("prometheus is there: install Debian's package `prometheus`");
    let up = async {
        while TcpStream::connect(address).await.is_err() {
            sleep(AGAIN).await;
        }
    };
    within("prometheus to listen", up).await;
    let query = |query: &'static str| async move {
        loop {
            let request = format!("GET /api/v1/query?query={query}");
            let (_, body) = http(address, &request, &["Host: localhost"], "").await;
            let body = body
                .find('{')
                .zip(body.rfind('}'))
                .map(|(from, to)| &body[from..=to]);
            let answer: Value = serde_json::from_str(body.unwrap_or("{}")).unwrap_or_default();
            if answer["data"]["result"][0]["value"][1].is_string() {
                return answer["data"]["result"][0].clone();
            }
            sleep(AGAIN).await;
        }
    };
    let dormant = query("dbgproxy_sessions%7Bstate%3D%22dormant%22%7D");
    let dormant = within("a series of ours in prometheus", dormant).await;
    assert_eq!(dormant["metric"]["job"], "dbgproxy", "{dormant}");
    assert_eq!(dormant["value"][1], "1", "{dormant}");
    let held = within(
        "the finding",
        query("dbgproxy_findings%7Bkind%3D%22lock-held%22%7D%20%3D%3D%201"),
    );
    assert_eq!(held.await["metric"]["kind"], "lock-held");
    let named = query("dbgproxy_finding_start_timestamp_seconds");
    let named = within("its name", named).await;
    let message = named["metric"]["message"].as_str().unwrap_or_default();
    assert!(
        message.starts_with("`db` (threading.Lock) has been held for ")
            && message.ends_with(" by MainThread of a.py (5000000) at a.py:12"),
        "{named}"
    );
}

#[tokio::test]
async fn processes_are_seen_as_the_system_sees_them() {
    let daemon = daemon(&[]).await;
    let (program, _script) = sleeper(&daemon, "sleeper.py").await;
    let report = measured(&daemon).await;
    let row = &report["processes"][0];
    assert_eq!(
        (&row["name"], &row["pid"]),
        (&json!("sleeper.py"), &json!(program.pid()))
    );
    assert!(row["memory"].as_u64() > Some(1 << 20), "{row}");
    assert!(
        row["threads"].as_u64() >= Some(1) && row["files"].as_u64() >= Some(3),
        "{row}"
    );
    let system = &report["system"];
    assert!(
        system["memory"]["total"].as_u64() > Some(1 << 20),
        "{system}"
    );
    assert_eq!(system["daemon"]["sessions"], 1, "{system}");
    let shown = daemon.run(&["monitor", "system"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for part in ["Processes (1):", "sleeper.py", "MiB", "Host: ", "Daemon: "] {
        assert!(shown.contains(part), "{part}\n{shown}");
    }
}

#[tokio::test]
async fn the_log_has_each_finding_and_how_things_stand() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("monitor.jsonl");
    let daemon = daemon(&["--monitor-log", path.to_str().expect("a text")]).await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let sampling = agent.sampling(held());
    found(&daemon, "lock-held").await;
    sampling.says(json!({ "monitors": ["locks"] }));
    gone(&daemon, "lock-held").await;
    let lines = || -> Vec<Value> {
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).expect("it is JSON"))
            .collect()
    };
    let written = async {
        while lines().len() < 3 {
            sleep(AGAIN).await;
        }
    };
    within("three lines", written).await;
    let lines = lines();
    let events: Vec<&str> = lines
        .iter()
        .filter_map(|line| line["event"].as_str())
        .collect();
    assert_eq!(events[..3], ["summary", "opened", "ended"], "{lines:?}");
    assert_eq!(lines[1]["finding"]["kind"], "lock-held");
    assert_eq!(lines[1]["finding"]["session"], ID);
    assert!(
        lines[0]["summary"]["locks"].is_u64() && lines[0]["time"].is_string(),
        "{lines:?}"
    );
}

#[tokio::test]
async fn a_log_that_cannot_be_written_harms_nothing() {
    let daemon = daemon(&["--monitor-log", "/dev/full"]).await;
    daemon.logged("cannot write the monitor's log").await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let _sampling = agent.sampling(held());
    found(&daemon, "lock-held").await;
    assert_eq!(
        daemon
            .log()
            .matches("cannot write the monitor's log")
            .count(),
        1
    );
}

#[tokio::test]
async fn who_ends_a_stopped_process_is_told_and_named_when_it_has() {
    let daemon = daemon(&[]).await;
    let server = DebugServer::new(PID).connect(&daemon).await;
    let mut client = Client::start(&daemon)
        .arguments(&json!({ "pid": PID, "view": "process" }))
        .attached()
        .await;
    server.is_watched("gunicorn", 0.2);
    server.stop_at(server.main_thread, "breakpoint", &json!({}));
    client.event("stopped").await;
    let threatened = found(&daemon, "watchdog").await;
    let finding = &threatened["findings"][0];
    let message = finding["message"].as_str().unwrap_or_default();
    assert!(
        message.contains("is stopped, and gunicorn kills a worker that is silent for"),
        "{finding}"
    );
    assert_eq!(finding["pid"], PID);
    let is_over = |report: &Value| {
        report["findings"][0]["message"]
            .as_str()
            .is_some_and(|text| text.contains("that was"))
    };
    report(&daemon, "that it is over", is_over).await;
    drop(server);
    let ending = "ended while it was stopped, most likely by gunicorn (--timeout 0.2)";
    let is_named = |body: &Value| {
        let output = body["output"].as_str();
        output == Some(&format!("dbgproxy: the process {ending}\n"))
    };
    client.event_where("output", is_named).await;
    client.event("terminated").await;
    let all = daemon.sessions(&["--all"]).await;
    assert_eq!(all[0]["ending"], ending, "{all:?}");
    let ended = gone(&daemon, "watchdog").await;
    assert_eq!(ended["sessions"][0]["ending"], ending, "{ended}");
    assert_eq!(ended["sessions"][0]["status"], "failed", "{ended}");
}

#[tokio::test]
async fn who_ends_a_process_that_stands_though_it_is_said_to_run_is_named() {
    // The signal of the first limit lets pydevd say so, before the time of the second is over.
    let limit = Duration::from_secs(2);
    for (by_itself, ending) in [
        (
            false,
            json!("ended while it was stopped, most likely by celery (time_limit 2)"),
        ),
        (true, Value::Null),
    ] {
        let daemon = daemon(&[]).await;
        let server = DebugServer::new(PID).connect(&daemon).await;
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "pid": PID, "view": "process" }))
            .attached()
            .await;
        server.is_watched("celerySoft", 0.2);
        server.is_watched("celery", limit.as_secs_f64());
        server.stop_at(server.main_thread, "breakpoint", &json!({}));
        client.event("stopped").await;
        found(&daemon, "watchdog").await;
        server.event("continued", &json!({ "threadId": server.main_thread }));
        client.event("continued").await;
        sleep(limit).await;
        if by_itself {
            server.finish();
        } else {
            drop(server);
        }
        client.event("terminated").await;
        let ended = gone(&daemon, "watchdog").await;
        assert_eq!(ended["sessions"][0]["ending"], ending, "{ended}");
    }
}

#[tokio::test]
async fn who_is_not_to_blame_is_not_named() {
    // One goes on and ends by itself, one is in time, one ends because a client wants it to; and one goes on and is ended.
    let after = "ended after it was stopped, most likely by gunicorn (--timeout 0.2)";
    for (limit, request, by_itself, ending) in [
        (0.2, Some("continue"), true, Value::Null),
        (60.0, None, false, Value::Null),
        (60.0, Some("continue"), false, Value::Null),
        (0.2, Some("terminate"), false, Value::Null),
        (0.2, Some("continue"), false, after.into()),
    ] {
        let daemon = daemon(&[]).await;
        let server = DebugServer::new(PID).connect(&daemon).await;
        let mut client = Client::start(&daemon)
            .arguments(&json!({ "pid": PID, "view": "process" }))
            .attached()
            .await;
        server.is_watched("gunicorn", limit);
        server.stop_at(server.main_thread, "breakpoint", &json!({}));
        client.event("stopped").await;
        found(&daemon, "watchdog").await;
        let is_over = |report: &Value| {
            let mut messages = open(report, "watchdog").into_iter();
            messages.any(|it| it["message"].to_string().contains("that was"))
        };
        if limit < 1.0 {
            report(&daemon, "that it is over", is_over).await;
        }
        if let Some(request) = request {
            let arguments = json!({ "threadId": server.main_thread });
            client.request(request, arguments).await;
        }
        if by_itself {
            server.finish();
        } else {
            drop(server);
        }
        client.event("terminated").await;
        let ended = async {
            loop {
                let last = daemon.sessions(&["--all"]).await.pop().expect("a session");
                if last["state"] == "ended" {
                    return last;
                }
            }
        };
        let last = within("its end", ended).await;
        assert_eq!(last["ending"], ending, "{last}");
    }
}
