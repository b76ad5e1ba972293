//! `attach` by `processId` to a process that is not connected: debugpy's own injector brings it here.
//!
//! The injector needs an interpreter that has debugpy, and on Linux gdb or lldb, and the right to trace the process.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::process::Command;
use tokio::time::{sleep, timeout};

use super::{Client, Mail};
use crate::hub::Hub;
use crate::owner::current_uid;

/// How long the injector may take.
pub const INJECTION_WAIT: Duration = Duration::from_secs(60);

/// How long the process may take to connect once it is injected, as in debugpy's adapter.
const CONNECTION_WAIT: Duration = Duration::from_secs(15);

/// How long a process whose environment names a daemon may take to connect by itself before it is injected.
const AGENT_WAIT: Duration = Duration::from_secs(1);

/// How often to look meanwhile.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long an interpreter may take to say whether it has debugpy.
const PROBE_WAIT: Duration = Duration::from_secs(10);

/// How much of the injector's words a failure repeats, in characters.
const OUTPUT_TAIL: usize = 2000;

impl Client {
    /// Starts the injector; a failure of it is the failure of the `attach` with the number `seq`.
    pub(super) fn inject(&self, pid: u32, seq: i64) {
        let handle = self.handle.clone();
        let fail = move |why: &str| {
            let why = format!("debugpy could not be injected into process {pid}: {why}");
            handle.mailbox.send(Mail::NotInjected(seq, why));
        };
        let Some(address) = self.hub.tcp_address() else {
            return fail("the daemon listens on no TCP address, and debugpy knows no other");
        };
        let hub = self.hub.clone();
        self.hub.tasks.spawn(async move {
            if comes_by_itself(&hub, pid).await {
                return;
            }
            let stop = &hub.stop;
            let injected = tokio::select! {
                injected = timeout(INJECTION_WAIT, inject(pid, address.to_string())) => injected,
                () = stop.cancelled() => return,
            };
            match injected {
                Ok(Ok(())) => {
                    tokio::select! {
                        () = sleep(CONNECTION_WAIT) => {}
                        () = stop.cancelled() => return,
                    }
                    fail("it was, but has not connected since");
                }
                Ok(Err(error)) => fail(&format!("{error:#}")),
                Err(_) => fail(&format!(
                    "the injector did not finish within {} s",
                    INJECTION_WAIT.as_secs()
                )),
            }
        });
    }
}

/// Whether the process has an agent, which is about to connect: stopped in its midst by a debugger of C, a Python that
/// is just starting may never go on.
async fn comes_by_itself(hub: &Hub, pid: u32) -> bool {
    let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    let mut variables = environment.split(|byte| *byte == 0);
    if !variables.any(|variable| variable.starts_with(b"DBGPROXY=")) {
        return false;
    }
    let connected = async {
        while hub.session_of_pid(pid).is_none() {
            sleep(LOOK_INTERVAL).await;
        }
    };
    timeout(AGENT_WAIT, connected).await.is_ok()
}

/// Runs debugpy's injector with the interpreter of the process itself, or another that has debugpy.
async fn inject(pid: u32, address: String) -> anyhow::Result<()> {
    let mut tried = Vec::new();
    for python in interpreters(pid) {
        if !has_debugpy(&python).await {
            tried.push(python.display().to_string());
            continue;
        }
        let output = Command::new(&python)
            .args([
                "-m",
                "debugpy",
                "--connect",
                &address,
                "--pid",
                &pid.to_string(),
            ])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await?;
        if output.status.success() {
            return Ok(());
        }
        let mut said = String::from_utf8_lossy(&output.stdout).into_owned();
        said.push_str(&String::from_utf8_lossy(&output.stderr));
        let said = said.trim();
        let start = said
            .char_indices()
            .rev()
            .nth(OUTPUT_TAIL)
            .map_or(0, |(at, _)| at);
        anyhow::bail!(
            "{} says ({}): {}",
            python.display(),
            output.status,
            &said[start..]
        );
    }
    anyhow::bail!(
        "no interpreter with debugpy was found (tried {}); if it is a Python process, install debugpy in its environment",
        tried.join(", ")
    )
}

/// The interpreters that may have debugpy, the process's own first.
fn interpreters(pid: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    // What another user's process calls itself must not be run by us.
    let process = format!("/proc/{pid}");
    let is_ours = std::fs::metadata(&process).is_ok_and(|process| process.uid() == current_uid());
    if is_ours {
        // A virtual environment is known by the path it was started with, not by the binary behind it.
        if let Ok(line) = std::fs::read(format!("{process}/cmdline")) {
            let first = line.split(|byte| *byte == 0).next().unwrap_or_default();
            found.push(PathBuf::from(String::from_utf8_lossy(first).into_owned()));
        }
        found.extend(std::fs::read_link(format!("{process}/exe")));
        found.retain(|path| path.is_absolute() && is_python(path));
    }
    found.push("python3".into());
    found.dedup();
    found
}

/// Whether a program is a Python by its name: another one would be run with Python's arguments.
fn is_python(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with("python") || name.starts_with("pypy")
}

async fn has_debugpy(python: &PathBuf) -> bool {
    let probe = Command::new(python)
        .args(["-c", "import debugpy"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .status();
    matches!(timeout(PROBE_WAIT, probe).await, Ok(Ok(status)) if status.success())
}
