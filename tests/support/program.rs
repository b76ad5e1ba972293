//! A program that a test starts: what it prints, how it ends, and that nothing of it stays behind.

use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

use super::wait::{Printed, Watched, collect};

/// How long a program may take to its end: start, debugging and end on a slow, busy machine.
const LIMIT: Duration = Duration::from_mins(1);

/// A running program and its children, which are killed when it is dropped.
pub struct Program {
    child: Child,
    /// Its process group, in which its children are unless they leave it.
    group: Pid,
    stdin: Option<ChildStdin>,
    stdout: Arc<Watched<Printed>>,
    stderr: Arc<Watched<Printed>>,
}

/// How a program has ended.
#[derive(Debug)]
pub struct Ended {
    /// The exit code, or 128 and the number of the signal, as a shell says it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Program {
    /// Starts a command in a process group of its own, with its three streams as pipes.
    pub fn start(mut command: Command) -> Self {
        let mut child = command
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} cannot be started: {error}"));
        let id = child.id().expect("it has not been waited for");
        Self {
            group: Pid::from_raw(id.cast_signed()).expect("no process has id 0"),
            stdin: child.stdin.take(),
            stdout: collect(child.stdout.take().expect("it is a pipe")),
            stderr: collect(child.stderr.take().expect("it is a pipe")),
            child,
        }
    }

    pub fn pid(&self) -> i64 {
        self.group.as_raw_nonzero().get().into()
    }

    /// What a client asks for that wants to see this process alone.
    pub fn view(&self) -> Value {
        json!({ "processId": self.pid(), "view": "process" })
    }

    /// Waits until `text` stands on its standard output.
    pub async fn printed(&mut self, text: &str) {
        self.limited(
            &format!("{text:?} on stdout"),
            self.stdout.until(|printed| {
                let there = printed.text.contains(text);
                assert!(
                    there || !printed.complete,
                    "the program ended without printing {text:?}"
                );
                there.then_some(())
            }),
        )
        .await;
    }

    /// Writes a line to its standard input.
    pub async fn tell(&mut self, line: &str) {
        let stdin = self.stdin.as_mut().expect("it is open until the end");
        let line = format!("{line}\n");
        stdin
            .write_all(line.as_bytes())
            .await
            .expect("the program reads");
    }

    /// Waits until it has ended and, with it, all its children that share its streams.
    pub async fn wait(&mut self) -> Ended {
        let code = self.exit().await;
        let (stdout, stderr) = (self.stdout.clone(), self.stderr.clone());
        let complete = |printed: &Printed| printed.complete.then(|| printed.text.clone());
        let (stdout, stderr) = self
            .limited("the end of its output", async {
                tokio::join!(stdout.until(complete), stderr.until(complete))
            })
            .await;
        Ended {
            code,
            stdout,
            stderr,
        }
    }

    /// Waits until the program itself has ended, whatever its children do.
    pub async fn exit(&mut self) -> i32 {
        use std::os::unix::process::ExitStatusExt;
        let ended = timeout(LIMIT, self.child.wait()).await;
        let status = ended.unwrap_or_else(|_| panic!("the program has not ended after {LIMIT:?}"));
        let status = status.expect("it is our child");
        status
            .code()
            .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
    }

    /// Sends a signal to the program alone. It must not have been waited for.
    pub fn signal(&self, signal: Signal) {
        assert!(self.child.id().is_some(), "the program has ended");
        kill_process(self.group, signal).expect("it is our child");
    }

    pub fn stdout(&self) -> String {
        self.stdout.read(|printed| printed.text.clone())
    }

    pub fn stderr(&self) -> String {
        self.stderr.read(|printed| printed.text.clone())
    }

    async fn limited<F: Future>(&self, what: &str, future: F) -> F::Output {
        let result = timeout(LIMIT, future).await;
        result.unwrap_or_else(|_| panic!("waited {LIMIT:?} in vain for {what}"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (pid, stdout, stderr) = (self.pid(), self.stdout(), self.stderr());
            eprintln!("=== program {pid}: stdout\n{stdout}=== program {pid}: stderr\n{stderr}===");
        }
        // It fails where nothing is left to kill, which is what is wanted.
        let _ = kill_process_group(self.group, Signal::KILL);
    }
}
