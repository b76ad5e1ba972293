//! `dbgproxy top`: one frame where there is no terminal, and a terminal that is left as it was.

mod support;

use serde_json::{Value, json};
use support::agent::Agent;
use support::report::found;
use support::{Daemon, Program, Python, Script};

#[tokio::test]
async fn without_a_terminal_it_is_one_frame() {
    let daemon = Daemon::start().await;
    let (_agent, _) = Agent::start(&daemon, &json!({})).await;
    for arguments in [&["top"][..], &["top", "--once"]] {
        let output = daemon.run(arguments).await;
        let frame = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{output:?}");
        let title = format!("dbgproxy at {} · ", daemon.connect());
        assert!(frame.starts_with(&title), "{frame}");
        for part in [
            "1 session, 1 dormant",
            "Host: ",
            "Daemon: ",
            "Nothing is wrong.",
            "a.py",
        ] {
            assert!(frame.contains(part), "{part}\n{frame}");
        }
        assert!(!frame.contains('\u{1b}'), "{frame:?}");
    }
}

#[tokio::test]
async fn without_a_terminal_no_finding_is_cut() {
    let more = ["--monitor-interval", "0.05", "--monitor-lock-held", "0.1"];
    let daemon = Daemon::with(&more).await;
    let (agent, _) = Agent::start(&daemon, &json!({})).await;
    let name = "pool".repeat(40);
    let actor = json!({ "thread": 1, "name": "MainThread", "task": null, "taskName": null });
    let holder = json!({ "actor": actor, "site": ["/srv/a.py", 12], "from": 0 });
    let lock = json!({
        "id": "1", "name": name, "kind": "threading.Lock", "site": ["/srv/a.py", 1], "holders": [holder],
        "waiters": [], "waiterCount": 0, "acquisitions": 7, "contended": 1, "timeouts": 0, "longest": 0.5,
    });
    let locks = json!({ "total": 1, "dropped": 0, "locks": [lock] });
    let _sampling = agent.sampling(json!({ "monitors": ["locks"], "locks": locks }));
    found(&daemon, "lock-held").await;
    let output = daemon.run(&["top", "--once"]).await;
    let frame = String::from_utf8_lossy(&output.stdout);
    let is_it = |line: &&str| line.starts_with("! lock-held: ");
    let line = frame.lines().find(is_it).unwrap_or_default();
    assert!(
        line.contains(&name) && line.ends_with(" at a.py:12"),
        "{frame}"
    );
}

#[tokio::test]
async fn json_is_a_report_a_line() {
    let daemon = Daemon::start().await;
    let output = daemon.run(&["top", "--json", "--once"]).await;
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(text.lines().count(), 1, "{text}");
    let report: Value = serde_json::from_str(&text).expect("it is JSON");
    assert!(report["system"]["cpus"].is_u64(), "{report}");
}

#[tokio::test]
async fn nobody_to_ask_is_said_on_the_screen_that_stays() {
    let daemon = Daemon::start().await;
    for more in ["--once", "--json"] {
        let output = daemon.run(&["top", more, "--connect", "127.0.0.1:1"]).await;
        assert_eq!(output.status.code(), Some(3), "{output:?}");
        assert!(output.stdout.is_empty(), "{output:?}");
    }
}

/// Runs a command in a terminal, looks at it in two sizes, and ends it: by a key, or by a signal.
const IN_A_TERMINAL: &str = r#"
import fcntl, os, pty, re, signal, struct, subprocess, sys, termios

end, command = sys.argv[1], sys.argv[2:]
master, slave = pty.openpty()

def resize(height, width):
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

def own_terminal():
    os.setsid()
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)

resize(30, 100)
before = termios.tcgetattr(slave)
process = subprocess.Popen(command, stdin=slave, stdout=slave, stderr=slave, preexec_fn=own_terminal)
said = ""

def until(is_so):
    global said
    while not is_so(said):
        said += os.read(master, 65536).decode("utf-8", "replace")

def frames(text):
    return [frame.replace("\x1b[K", "").split("\r\n") for frame in re.findall("\x1b\\[H(.*?)\x1b\\[J", text, re.S)]

until(frames)
first = frames(said)[0]
assert "dbgproxy at" in first[0], first
assert said.startswith("\x1b[?1049h\x1b[?25l"), said
assert max(map(len, first)) > 40 and len(first) > 3, first
assert not termios.tcgetattr(slave)[3] & termios.ECHO
resize(8, 40)
until(lambda said: max(map(len, frames(said)[-1])) <= 40 and len(frames(said)[-1]) <= 8)
if end == "signal":
    process.send_signal(signal.SIGTERM)
else:
    os.write(master, end.encode())
code = process.wait()
until(lambda said: said.endswith("\x1b[?25h\x1b[?1049l"))
assert termios.tcgetattr(slave) == before
print("left", code, flush=True)
"#;

#[tokio::test]
async fn a_terminal_is_left_as_it_was() {
    let daemon = Daemon::start().await;
    let (_agent, _) = Agent::start(&daemon, &json!({})).await;
    let script = Script::new("in_a_terminal.py", IN_A_TERMINAL);
    for end in ["q", "\u{3}", "signal"] {
        let mut command = Python::newest().command();
        command
            .arg(script.path())
            .args([end, env!("CARGO_BIN_EXE_dbgproxy"), "top", "--connect"])
            .arg(daemon.connect());
        let mut program = Program::start(command);
        let ended = program.wait().await;
        assert_eq!(
            (ended.code, ended.stdout.trim()),
            (0, "left 0"),
            "{end:?} {ended:?}"
        );
    }
}
