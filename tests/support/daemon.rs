//! The daemon under test: the real binary, on a port of its own.

use std::net::SocketAddr;
use std::process::{Output, Stdio};
use std::sync::Arc;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::http::http;
use super::python::clean;
use super::wait::{Printed, Watched, collect, within};

/// What the daemon prints for each address when it is ready.
const READY: &str = "dbgproxy: listening on ";

/// A running `dbgproxy serve`, which is killed when it is dropped.
pub struct Daemon {
    /// Where it listens on loopback.
    pub address: SocketAddr,
    child: Child,
    stdout: Arc<Watched<Printed>>,
    log: Arc<Watched<Printed>>,
}

impl Daemon {
    /// Starts a daemon as it is without any option, on a free port.
    pub async fn start() -> Self {
        Self::with(&[]).await
    }

    /// Starts a daemon with further arguments, on a free port.
    pub async fn with(arguments: &[&str]) -> Self {
        Self::launch(Self::command(0, arguments)).await
    }

    /// Starts a daemon on a port that another one had.
    pub async fn start_on(port: u16) -> Self {
        Self::launch(Self::command(port, &[])).await
    }

    /// The command that starts a daemon, for a test that adds to its environment.
    pub fn command(port: u16, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
        clean(&mut command);
        command
            .env("RUST_LOG", "dbgproxy=debug")
            .args(["serve", "--listen", &format!("127.0.0.1:{port}")])
            .args(arguments);
        command
    }

    /// Starts such a command, and waits until the daemon listens on all its addresses.
    pub async fn launch(mut command: Command) -> Self {
        let addresses = command
            .as_std()
            .get_args()
            .filter(|argument| *argument == "--listen")
            .count();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the daemon's binary can be started");
        let stdout = collect(child.stdout.take().expect("it is a pipe"));
        let log = collect(child.stderr.take().expect("it is a pipe"));
        let ready = stdout.until(|printed| {
            (printed.complete || ready(printed).len() == addresses).then(|| ready(printed))
        });
        let ready = within("the daemon to listen", ready).await;
        let Some(address) = ready.iter().find_map(|address| address.parse().ok()) else {
            let log = log
                .until(|log| log.complete.then(|| log.text.clone()))
                .await;
            panic!("the daemon did not start: {log}");
        };
        Self {
            address,
            child,
            stdout,
            log,
        }
    }

    /// `host:port`, as options and variables take it.
    pub fn connect(&self) -> String {
        self.address.to_string()
    }

    pub fn pid(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    /// What it has logged up to now.
    pub fn log(&self) -> String {
        self.log.read(|log| log.text.clone())
    }

    /// Waits until it has logged `text`.
    pub async fn logged(&self, text: &str) {
        let there = self.log.until(|log| log.text.contains(text).then_some(()));
        within(&format!("{text:?} in the log"), there).await;
    }

    /// Runs another subcommand, which asks this daemon.
    pub async fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
        clean(&mut command);
        command
            .env("DBGPROXY", self.connect())
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = within(&format!("the end of {arguments:?}"), command.output()).await;
        output.expect("the daemon's binary can be started")
    }

    /// What a verb is answered over HTTP: the status, and the body.
    pub async fn verb(&self, verb: &str, arguments: Value) -> (u16, Value) {
        let host = format!("Host: {}", self.connect());
        let headers = [&*host, "Content-Type: application/json"];
        let request = format!("POST /api/v1/{verb}");
        let (status, body) = http(self.address, &request, &headers, &arguments.to_string()).await;
        let body = serde_json::from_str(&body);
        (status, body.expect("an answer is JSON"))
    }

    /// What `dbgproxy sessions --json` lists, with further arguments.
    pub async fn sessions(&self, arguments: &[&str]) -> Vec<Value> {
        let output = self
            .run(&[&["sessions", "--json"], arguments].concat())
            .await;
        assert!(output.status.success(), "{output:?}");
        let mut listing: Value = serde_json::from_slice(&output.stdout).expect("it is JSON");
        serde_json::from_value(listing["sessions"].take()).expect("it lists sessions")
    }

    /// Kills it without a chance to say goodbye, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("it is our child");
    }

    /// Asks it to stop, and waits until it has [ended](Daemon::ended).
    pub async fn stop(self) {
        let pid = Pid::from_raw(self.pid().cast_signed()).expect("no process has id 0");
        kill_process(pid, Signal::TERM).expect("it is our child");
        self.ended().await;
    }

    /// Waits until it has stopped properly, having printed nothing but where it listens.
    pub async fn ended(mut self) {
        let status = within("the daemon to stop", self.child.wait()).await;
        let status = status.expect("it is our child");
        assert!(status.success(), "the daemon stopped with {status}");
        let stdout = self
            .stdout
            .until(|printed| printed.complete.then(|| printed.text.clone()));
        let stdout = within("the end of its output", stdout).await;
        assert!(
            stdout.lines().all(|line| line.starts_with(READY)),
            "talk on stdout: {stdout:?}"
        );
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "=== log of the daemon at {}\n{}===",
                self.address,
                self.log()
            );
        }
    }
}

impl From<&Daemon> for SocketAddr {
    fn from(daemon: &Daemon) -> Self {
        daemon.address
    }
}

/// The addresses that stand in whole lines on the daemon's standard output.
fn ready(printed: &Printed) -> Vec<String> {
    let lines = printed
        .text
        .split_inclusive('\n')
        .filter(|line| line.ends_with('\n'));
    lines
        .filter_map(|line| line.trim_end().strip_prefix(READY))
        .map(String::from)
        .collect()
}
