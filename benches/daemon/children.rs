//! The processes that are measured, and what the system says they used.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::remark;

/// An interpreter that `tests/setup.sh` has prepared, with debugpy.
pub struct Prepared {
    name: &'static str,
    pub interpreter: PathBuf,
}

impl Prepared {
    /// The versions that are there; those that are not are said to be passed over in this measure.
    pub fn all(measure: &str) -> Vec<Prepared> {
        let find = |name| {
            let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python");
            let interpreter = directory.join(name).join("bin/python");
            if interpreter.exists() {
                return Some(Prepared { name, interpreter });
            }
            let path = interpreter.display();
            let text = format_args!("passed over: there is no {path}; tests/setup.sh makes it");
            remark(measure, text);
            None
        };
        let names = ["3.9-1.8.21", "3.11-1.8.22", "3.13-1.8.22"];
        names.into_iter().filter_map(find).collect()
    }

    /// Of Python, such as `3.11`.
    pub fn version(&self) -> &str {
        self.name.split('-').next().unwrap_or_default()
    }
}

/// A child process that listens; it is killed when it is dropped.
pub struct Server {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
}

impl Server {
    /// dbgproxy itself, as a user starts it.
    pub fn daemon() -> Server {
        Server::start(Command::new(env!("CARGO_BIN_EXE_dbgproxy")).args([
            "serve",
            "--listen",
            "127.0.0.1:0",
        ]))
    }

    /// dbgproxy that keeps a process until a client is there.
    pub fn waiting_daemon() -> Server {
        Server::start(Command::new(env!("CARGO_BIN_EXE_dbgproxy")).args([
            "serve",
            "--wait-for-ide",
            "--listen",
            "127.0.0.1:0",
        ]))
    }

    /// This program in another role: `relay` or `acceptor`.
    pub fn role(role: &str) -> Server {
        let own = std::env::current_exe().expect("this program has a path");
        Server::start(Command::new(own).args(["--as", role]))
    }

    fn start(command: &mut Command) -> Server {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {command:?}: {error}"));
        // Each of them says where it listens as the last word of its first line.
        let mut line = String::new();
        let stdout = child.stdout.take().expect("stdout is piped");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("its stdout can be read");
        let address = line.split_whitespace().last().unwrap_or_default();
        let address = address
            .parse()
            .unwrap_or_else(|_| panic!("{command:?} said {line:?}, and no address"));
        Server { child, address }
    }

    /// The processor time that it has used.
    pub fn cpu(&self) -> Duration {
        let pid = self.child.id();
        let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process lives");
        // The scheduler counts in nanoseconds, but a thread at a time.
        let exact: u64 = threads
            .filter_map(|thread| fs::read_to_string(thread.ok()?.path().join("schedstat")).ok())
            .filter_map(|text| text.split(' ').next()?.parse::<u64>().ok())
            .sum();
        if exact > 0 {
            return Duration::from_nanos(exact);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process lives");
        // The name of the program, in parentheses, may have spaces; `utime` is the twelfth word after it.
        let words = stat.rsplit_once(')').map_or("", |(_, words)| words);
        let ticks: u64 = words
            .split_whitespace()
            .skip(11)
            .take(2)
            .filter_map(|word| word.parse::<u64>().ok())
            .sum();
        Duration::from_millis(ticks * 10)
    }

    /// The memory that it occupies, in bytes.
    pub fn memory(&self) -> u64 {
        memory(self.child.id())
    }
}

/// The memory that a process occupies, in bytes.
pub fn memory(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.expect("Linux says VmRSS") * 1024
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself, which is as good.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
