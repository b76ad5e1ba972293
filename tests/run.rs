//! `dbgproxy run`: the command has the place of dbgproxy, in every respect, and a daemon.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use support::python::clean;
use support::wait::within;
use support::{Client, Daemon, Program, Python, Script};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::process::Command;

/// A cache of its own for each test.
fn cache() -> TempDir {
    TempDir::with_prefix("dbgproxy-cache-").expect("a temporary directory")
}

/// `dbgproxy run` with these options, before the words of the command. It does not look for a debugpy.
fn run(cache: &TempDir, options: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
    clean(&mut command);
    command
        .env("XDG_CACHE_HOME", cache.path())
        .env("DBGPROXY_DEBUGPY", "/nowhere")
        .current_dir(cache.path())
        .arg("run")
        .args(options);
    command
}

/// With a daemon of its own, on a free port.
const OWN: [&str; 3] = ["--listen", "127.0.0.1:0", "--"];

/// With the words of a shell as the command.
fn shell(cache: &TempDir, options: &[&str], script: &str) -> Program {
    let mut command = run(cache, options);
    command.args(["sh", "-c", script]);
    Program::start(command)
}

/// The address in the one line that a daemon of its own says.
fn announced(stderr: &str) -> String {
    let rest = stderr.split("attach an IDE to ").nth(1).expect(stderr);
    rest.split(' ').next().expect("it is followed").to_owned()
}

/// Waits for that line.
async fn address(program: &Program) -> String {
    within("the daemon's line", async {
        loop {
            let stderr = program.stderr();
            if stderr.ends_with('\n') {
                return announced(&stderr);
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    })
    .await
}

#[tokio::test]
async fn the_exit_code_is_the_commands() {
    let cache = cache();
    for (script, code) in [
        ("exit 0", 0),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", 137),
        ("kill -TERM $$", 143),
        ("kill -INT $$", 130),
    ] {
        let ended = shell(&cache, &OWN, script).wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (code, ""),
            "{script}: {ended:?}"
        );
        assert_eq!(ended.stderr.lines().count(), 1, "{script}: {ended:?}");
    }
}

#[tokio::test]
async fn a_command_that_cannot_be_run_has_the_code_of_shells() {
    let cache = cache();
    let at = |name: &str| cache.path().join(name);
    fs::write(at("text"), "no program").unwrap();
    fs::write(at("script"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(at("script"), fs::Permissions::from_mode(0o755)).unwrap();
    for (word, code, why) in [
        ("dbgproxy-no-such-command", 127, "there is no command"),
        ("./gone", 127, "there is no command"),
        ("./text", 126, "chmod +x"),
        ("./script", 126, "interpreter"),
        ("./", 126, "is a directory"),
    ] {
        let mut command = run(&cache, &OWN);
        command.arg(word);
        let ended = Program::start(command).wait().await;
        assert_eq!(
            (ended.code, &*ended.stdout),
            (code, ""),
            "{word}: {ended:?}"
        );
        assert!(ended.stderr.contains(why), "{word}: {ended:?}");
        assert_eq!(ended.stderr.lines().count(), 1, "{word}: {ended:?}");
    }
}

#[tokio::test]
async fn the_streams_are_the_commands_own() {
    let cache = cache();
    let daemon = Daemon::start().await;
    let mut command = run(&cache, &["--connect", &daemon.connect(), "--"]);
    let mut child = command
        .args(["sh", "-c", "cat; printf 'a\\0b' >&2"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let sent: Vec<u8> = (0..1_000_003_u32)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let mut stdin = child.stdin.take().unwrap();
    let bytes = sent.clone();
    let writing = tokio::spawn(async move { stdin.write_all(&bytes).await });
    let output = within("the command", child.wait_with_output())
        .await
        .unwrap();
    writing.await.unwrap().unwrap();
    assert!(output.status.success());
    assert!(output.stdout == sent, "stdin came out otherwise");
    assert_eq!(output.stderr, b"a\0b", "a running daemon needs no word");
}

#[tokio::test]
async fn the_environment_attaches_every_python_below() {
    let cache = cache();
    let daemon = Daemon::start().await;
    let python = Python::newest();
    let look = "import json, os, sys; print(json.dumps([dict(os.environ), 'dbgproxy._agent' in sys.modules]))";
    let mut command = run(&cache, &["--name", "trainer"]);
    command
        .env("DBGPROXY", daemon.connect())
        .env("PYTHONPATH", "/one:/two")
        .env("LOOK", look)
        .env("PY", &python.executable)
        .args(["--", "sh", "-c", "\"$PY\" -c \"$LOOK\""]);
    let ended = Program::start(command).wait().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let (variables, has_agent): (Value, bool) = serde_json::from_str(&ended.stdout).unwrap();
    assert!(has_agent);
    assert_eq!(variables["DBGPROXY"], daemon.connect());
    assert_eq!(variables["DBGPROXY_NAME"], "trainer");
    let path = variables["PYTHONPATH"].as_str().unwrap();
    let agent = path.strip_suffix(":/one:/two").expect(path);
    assert!(
        Path::new(agent).join("dbgproxy/_guard.py").exists(),
        "{agent}"
    );
    assert_eq!(ended.stderr, "");

    // It is said where the IDE is to attach for which programs wait.
    let options = ["--wait-for-ide", "--connect", &*daemon.connect(), "--"];
    let ended = shell(&cache, &options, "echo $DBGPROXY_WAIT").wait().await;
    assert_eq!((ended.code, &*ended.stdout), (0, "1\n"), "{ended:?}");
    assert_eq!(announced(&ended.stderr), format!("{};", daemon.connect()));
}

#[tokio::test]
async fn limits_and_ignored_signals_stay_as_they_are() {
    let cache = cache();
    let script = "ulimit -Sn; grep SigIgn /proc/self/status";
    let prepare = "ulimit -Sn 300; trap '' HUP USR1;";
    let mut plain = Command::new("sh");
    plain.args(["-c", &format!("{prepare} sh -c '{script}'")]);
    let expected = Program::start(plain).wait().await;
    let mut within = run(&cache, &OWN);
    within.args(["sh", "-c", script]);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("{prepare} exec \"$@\""), "sh"])
        .arg(within.as_std().get_program())
        .args(within.as_std().get_args())
        .env("XDG_CACHE_HOME", cache.path())
        .env("DBGPROXY_DEBUGPY", "/nowhere");
    let ended = Program::start(command).wait().await;
    assert_eq!(ended.stdout, expected.stdout, "{ended:?}");
    assert!(ended.stdout.starts_with("300\n"), "{ended:?}");
}

/// Compiling it takes several times as long as all the rest that it does at a start.
#[tokio::test]
async fn the_agent_is_compiled_once_also_where_python_keeps_nothing() {
    let script = Script::new(
        "writes.py",
        "import sys, other\nprint(sys.dont_write_bytecode)\n",
    );
    let script = script.with("other.py", "");
    for python in Python::all() {
        let cache = cache();
        let mut command = run(&cache, &OWN);
        command
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .arg(&python.executable)
            .arg(script.path());
        let ended = Program::start(command).wait().await;
        assert_eq!(ended.stdout, "True\n", "{ended:?}");
        assert!(!script.directory().join("__pycache__").exists());
        let agents = std::fs::read_dir(cache.path().join("dbgproxy")).expect("it is there");
        let compiled = agents.flatten().any(|agent| {
            let files = std::fs::read_dir(agent.path().join("dbgproxy/__pycache__"));
            let mut files = files.into_iter().flatten().flatten();
            files.any(|file| file.file_name().to_string_lossy().starts_with("_agent."))
        });
        assert!(compiled, "{python} compiles it each time");
    }
}

/// Counts what it is sent, until its input ends.
const COUNTER: &str = "
import os, signal, sys
counts = {}
def count(number, frame):
    name = signal.Signals(number).name
    counts[name] = counts.get(name, 0) + 1
    os.write(1, (name + '\\n').encode())
for name in ('SIGHUP', 'SIGINT', 'SIGQUIT', 'SIGTERM', 'SIGUSR1', 'SIGUSR2'):
    signal.signal(getattr(signal, name), count)
ready = ['ready'] + [str(stream.isatty()) for stream in (sys.stdin, sys.stdout, sys.stderr)]
os.write(1, (' '.join(ready) + '\\n').encode())
sys.stdin.readline()
print(sorted(counts.items()), flush=True)
sys.exit(9)
";

#[tokio::test]
async fn signals_are_passed_on_once() {
    let cache = cache();
    let script = Script::new("counter.py", COUNTER);
    let mut command = run(&cache, &OWN);
    command.arg(&Python::newest().executable).arg(script.path());
    let mut program = Program::start(command);
    program.printed("ready False False False\n").await;
    for (signal, name) in [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::TERM, "SIGTERM"),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "SIGUSR2"),
    ] {
        program.signal(signal);
        program.printed(&format!("{name}\n")).await;
    }
    program.tell("").await;
    let ended = program.wait().await;
    assert_eq!(ended.code, 9, "{ended:?}");
    let counts = "[('SIGHUP', 1), ('SIGINT', 1), ('SIGQUIT', 1), ('SIGTERM', 1), ('SIGUSR1', 1), ('SIGUSR2', 1)]\n";
    assert!(ended.stdout.ends_with(counts), "{ended:?}");
}

/// As behind an `&` in a script: the command is started to ignore the signal, and may want it all the same.
#[tokio::test]
async fn a_signal_that_was_to_be_ignored_is_passed_on() {
    let cache = cache();
    let script = Script::new("counter.py", COUNTER);
    let ours = run(&cache, &OWN);
    let mut command = Command::new("sh");
    clean(&mut command);
    for (name, value) in ours.as_std().get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
        .args(["-c", "trap '' INT; exec \"$@\"", "sh"])
        .arg(ours.as_std().get_program())
        .args(ours.as_std().get_args())
        .arg(&Python::newest().executable)
        .arg(script.path());
    let mut program = Program::start(command);
    program.printed("ready False False False\n").await;
    within("the signal", async {
        while !program.stdout().contains("SIGINT\n") {
            program.signal(Signal::INT);
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    })
    .await;
    program.tell("").await;
    let ended = program.wait().await;
    assert_eq!(ended.code, 9, "{ended:?}");
}

#[tokio::test]
async fn a_signal_that_ends_the_command_ends_us() {
    let cache = cache();
    let mut program = shell(&cache, &OWN, "echo ready; exec sleep 1000");
    program.printed("ready").await;
    program.signal(Signal::TERM);
    let ended = program.wait().await;
    assert_eq!(ended.code, 143, "{ended:?}");
}

/// A terminal with a shell in it that starts its arguments in the foreground and continues them when they are stopped;
/// and somebody who presses Ctrl-Z, Ctrl-C, Ctrl-\\ and the enter key, each when the former has had its effect.
const TERMINAL: &str = r"
import os, pty, signal, sys
pid, terminal = pty.fork()
if pid == 0:
    signal.signal(signal.SIGTTOU, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.tcsetpgrp(0, os.getpid())
        signal.signal(signal.SIGTTOU, signal.SIG_DFL)
        os.execv(sys.argv[1], sys.argv[1:])
    while True:
        _, status = os.waitpid(child, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            os.write(1, b'stopped\n')
            os.tcsetpgrp(0, child)
            os.killpg(child, signal.SIGCONT)
        else:
            os.write(1, b'exit %d\n' % os.waitstatus_to_exitcode(status))
            os._exit(0)
seen = b''
keys = [(b'True\r\n', b'\x1a'), (b'stopped\r\n', b'\x03'), (b'SIGINT\r\n', b'\x1c'), (b'SIGQUIT\r\n', b'\n')]
while True:
    try:
        piece = os.read(terminal, 1000)
    except OSError:
        break
    if not piece:
        break
    seen += piece
    if keys and keys[0][0] in seen:
        os.write(terminal, keys.pop(0)[1])
os.waitpid(pid, 0)
sys.stdout.write(seen.decode().replace('\r', ''))
";

#[tokio::test]
async fn what_is_found_wrong_does_not_come_among_the_commands_words() {
    let cache = cache();
    let held = "import threading\nlock = threading.Lock()\nlock.acquire()\ninput()\n";
    let script = Script::new("held.py", held);
    let mut command = run(&cache, &OWN);
    command
        .env("DBGPROXY_MONITOR", "locks")
        .env("DBGPROXY_MONITOR_INTERVAL", "0.1")
        .env("DBGPROXY_MONITOR_LOCK_HELD", "0.1")
        .arg(&Python::newest().executable)
        .arg(script.path());
    let mut program = Program::start(command);
    let address = address(&program).await;
    within("a finding", async {
        loop {
            let mut report = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
            clean(&mut report);
            let report = report.args(["report", "--connect", &address]).output();
            let report = report.await.expect("it can be asked");
            if String::from_utf8_lossy(&report.stdout).contains("! lock-held: ") {
                break;
            }
        }
    })
    .await;
    program.tell("").await;
    let ended = program.wait().await;
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_terminal_is_the_commands() {
    let cache = cache();
    let counter = Script::new("counter.py", COUNTER).with("terminal.py", TERMINAL);
    let python = Python::newest();
    let within = run(&cache, &OWN);
    let mut command = python.command();
    command
        .arg(counter.directory().join("terminal.py"))
        .arg(within.as_std().get_program())
        .args(within.as_std().get_args())
        .arg(&python.executable)
        .arg(counter.path())
        .env("XDG_CACHE_HOME", cache.path())
        .env("DBGPROXY_DEBUGPY", "/nowhere");
    let ended = Program::start(command).wait().await;
    assert!(ended.stdout.contains("ready True True True\n"), "{ended:?}");
    assert!(ended.stdout.contains("stopped\n"), "{ended:?}");
    // Each key counts once.
    assert!(
        ended.stdout.contains("[('SIGINT', 1), ('SIGQUIT', 1)]\n"),
        "{ended:?}"
    );
    assert!(ended.stdout.ends_with("exit 9\n"), "{ended:?}");
}

#[tokio::test]
async fn a_daemon_of_its_own_debugs() {
    let cache = cache();
    let source = "import time\nwhile True:\n    time.sleep(0.02)  # BREAK\n";
    let script = Script::new("ticking.py", source);
    let python = Python::newest();
    let mut command = run(&cache, &OWN);
    command
        .env_remove("DBGPROXY_DEBUGPY")
        .arg(&python.executable)
        .arg(script.path());
    let mut program = Program::start(command);
    let address: std::net::SocketAddr = address(&program).await.parse().unwrap();
    let line = script.line("# BREAK");
    let mut client = Client::start(address)
        .breakpoints(script.path(), &[line])
        .attached()
        .await;
    client.stopped_at(line).await;
    client.disconnect().await;
    program.signal(Signal::TERM);
    let ended = program.wait().await;
    assert_eq!((ended.code, &*ended.stdout), (143, ""), "{ended:?}");
}

#[tokio::test]
async fn a_daemon_of_its_own_stays_while_somebody_is_attached() {
    let cache = cache();
    for leaves in [true, false] {
        let mut program = shell(&cache, &OWN, "read line; exit 5");
        let address = address(&program).await;
        let address: std::net::SocketAddr = address.parse().unwrap();
        let client = Client::start(address).connected().await;
        program.tell("").await;
        let said = within("what it waits for", async {
            while !program.stderr().contains("still attached") {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        });
        said.await;
        if leaves {
            drop(client);
        } else {
            program.signal(Signal::INT);
        }
        let ended = program.wait().await;
        assert_eq!(ended.code, 5, "{ended:?}");
    }
}

#[tokio::test]
async fn what_runs_in_the_background_runs_on() {
    let cache = cache();
    let mut program = shell(
        &cache,
        &OWN,
        "sleep 1000 </dev/null >/dev/null 2>&1 & echo $!",
    );
    let ended = program.wait().await;
    assert_eq!(ended.code, 0, "{ended:?}");
    let pid = Pid::from_raw(ended.stdout.trim().parse().unwrap()).unwrap();
    test_kill_process(pid).expect("it is still there");
    kill_process(pid, Signal::KILL).unwrap();
}

#[tokio::test]
async fn a_port_of_something_else_is_told() {
    let cache = cache();
    for answer in ["SSH-2.0-OpenSSH\r\n", ""] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        });
        let options = ["--connect", &*address, "--"];
        let ended = shell(&cache, &options, "echo it ran").wait().await;
        assert_eq!((ended.code, &*ended.stdout), (1, ""), "{ended:?}");
        assert!(ended.stderr.contains(&address), "{ended:?}");
        assert!(
            ended.stderr.contains("dbgproxy run --listen 127.0.0.1:0"),
            "{ended:?}"
        );
    }
}

#[tokio::test]
async fn several_at_once_share_one_daemon() {
    let cache = cache();
    let address = format!("127.0.0.1:{}", support::own_port());
    let options = ["--connect", &*address, "--"];
    let script = "echo \"$DBGPROXY\"; read line";
    let mut programs: Vec<_> = (0..4).map(|_| shell(&cache, &options, script)).collect();
    for program in &mut programs {
        program.printed(&format!("{address}\n")).await;
    }
    let mut daemons = 0;
    // The one that has the daemon last, so that it is there for the others.
    for program in &mut programs {
        program.tell("").await;
        let ended = program.wait().await;
        assert_eq!(ended.code, 0, "{ended:?}");
        daemons += ended.stderr.matches("attach an IDE to").count();
    }
    assert_eq!(daemons, 1);
}

#[tokio::test]
async fn the_daemon_is_told_how_the_command_has_ended() {
    let cache = cache();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let options = ["--connect", &*address, "--"];
    let mut program = shell(&cache, &options, "echo $$; exit 7");
    let mut asked = Vec::new();
    for body in [
        r#"{"name":"dbgproxy"}"#,
        r#"{"error":{"code":"not-found","message":"no such verb"}}"#,
    ] {
        let (mut stream, _) = within("a question", listener.accept()).await.unwrap();
        let mut request = String::new();
        while !request.contains("\r\n\r\n") || !request.ends_with('}') {
            request.push(char::from(
                within("more of it", stream.read_u8()).await.unwrap(),
            ));
        }
        let answer = format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
        asked.push(request);
    }
    let ended = program.wait().await;
    assert_eq!((ended.code, &*ended.stderr), (7, ""), "{ended:?}");
    assert!(asked[1].starts_with("POST /api/v1/exit "), "{}", asked[1]);
    let (_, body) = asked[1].split_once("\r\n\r\n").unwrap();
    let pid: i64 = ended.stdout.trim().parse().unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body, json!({ "pid": pid, "exit": 7 }));
}
