//! One process as the system knows it: what it uses, and when it started.
//!
//! It is read from `/proc` where there is one, which says more and costs less, else from `sysinfo`.
//! This module knows no session, and keeps nothing.

use std::fs;
use std::time::Duration;

use jiff::Timestamp;
use sysinfo::{Pid, ProcessRefreshKind, ProcessesToUpdate, System};

/// In how many ticks of a second Linux tells processor times: a part of its interface on all machines that matter.
const TICKS: u64 = 100;

/// What a process uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// When it started, as the system counts: with the pid it is the same for one process only.
    pub start: u64,
    /// What it does, in a word.
    pub state: &'static str,
    /// How much processor time it has used.
    pub cpu: Duration,
    /// How much memory it has, in bytes: its resident set.
    pub memory: u64,
    /// How many threads it has, where the system tells.
    pub threads: Option<u64>,
}

/// Reads what a process uses; none if it is not there.
#[must_use]
pub fn read(pid: u32) -> Option<Reading> {
    if has_proc() {
        parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    } else {
        of_system(pid)
    }
}

/// Whether processes are told of in `/proc` as Linux does.
fn has_proc() -> bool {
    cfg!(any(target_os = "linux", target_os = "android"))
}

/// Reads `/proc/PID/stat`: the name in parentheses may hold anything, behind it come numbers.
fn parse(stat: &str) -> Option<Reading> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    let state = state(fields.next()?);
    let mut fields = fields.map(|field| field.parse::<i64>().unwrap_or_default());
    // The third field of all was the state.
    let mut field = |skip: usize| Some(fields.nth(skip)?.unsigned_abs());
    let (user, kernel) = (field(10)?, field(0)?);
    let threads = field(4)?;
    let start = field(1)?;
    let pages = field(1)?;
    Some(Reading {
        start,
        state,
        cpu: Duration::from_millis((user + kernel) * 1000 / TICKS),
        memory: pages.saturating_mul(page_size()),
        threads: Some(threads),
    })
}

fn state(letter: &str) -> &'static str {
    match letter {
        "R" => "running",
        "S" | "I" => "sleeping",
        "D" => "blocked",
        "T" | "t" => "stopped",
        "Z" | "X" => "ended",
        _ => "unknown",
    }
}

fn page_size() -> u64 {
    #[cfg(unix)]
    let size = rustix::param::page_size() as u64;
    #[cfg(not(unix))]
    let size = 4096;
    size
}

/// What `sysinfo` says of a process.
fn of_system(pid: u32) -> Option<Reading> {
    let mut system = System::new().ok()?;
    let pid = Pid::from_u32(pid);
    let kind = ProcessRefreshKind::nothing().with_cpu().with_memory();
    system.refresh_processes_specifics(ProcessesToUpdate::Some(&[pid]), true, kind);
    let process = system.process(pid)?;
    Some(Reading {
        start: process.start_time(),
        state: "unknown",
        cpu: Duration::from_millis(process.accumulated_cpu_time()),
        memory: process.memory(),
        threads: None,
    })
}

/// When a process started, by the calendar.
#[must_use]
pub fn started(reading: &Reading, boot: u64) -> Option<Timestamp> {
    let seconds = if has_proc() {
        boot + reading.start / TICKS
    } else {
        reading.start
    };
    Timestamp::from_second(i64::try_from(seconds).ok()?).ok()
}

/// How many files a process has open, and how many it may have; none where the system does not tell.
#[must_use]
pub fn files(pid: u32) -> Option<(u64, Option<u64>)> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.count() as u64;
    let limits = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let limit = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))
        .and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
    Some((open, limit))
}

/// Which processes can be looked at from here: those of this machine and of this PID namespace.
#[derive(Debug)]
pub struct Here {
    boot: String,
    namespace: String,
}

impl Here {
    /// Where this process is.
    #[must_use]
    pub fn find() -> Here {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let link = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
        let namespace = link.to_string_lossy();
        let namespace = namespace.chars().filter(char::is_ascii_digit).collect();
        Here {
            boot: boot.trim().to_owned(),
            namespace,
        }
    }

    /// The identity of a process here.
    #[cfg(test)]
    pub(super) fn identity(&self, pid: u32, start: u64) -> String {
        format!("{}/{}/{pid}/{start}", self.boot, self.namespace)
    }

    /// The start by which the process of a pid is known to be the one that has this identity,
    /// `BOOT_ID/PID_NAMESPACE/PID/START_TICKS`; none if it is elsewhere.
    ///
    /// Where there are no identities, the first process that is seen under the pid is taken for it.
    #[must_use]
    pub fn start_of(&self, pid: u32, identity: Option<&str>) -> Option<Option<u64>> {
        let Some(identity) = identity else {
            return (!has_proc()).then_some(None);
        };
        let mut parts = identity.split('/');
        let (boot, namespace) = (parts.next()?, parts.next()?);
        let (own, start) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse());
        let is_here = boot == self.boot && namespace == self.namespace && own == pid;
        is_here.then_some(start.ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_stat() {
        let stat = "4242 (a (b) c) S 1 4242 4242 0 -1 4194560 1234 5 6 7 250 150 8 9 20 0 17 0 987654 \
                    1000000 300 18446744073709551615 1 1 0 0";
        let reading = parse(stat).expect("a line of stat");
        let expected = Reading {
            start: 987_654,
            state: "sleeping",
            cpu: Duration::from_secs(4),
            memory: 300 * page_size(),
            threads: Some(17),
        };
        assert_eq!(reading, expected);
        assert_eq!(parse("4242 (x) S 1 2"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn this_process() {
        let pid = std::process::id();
        let reading = read(pid).expect("it runs");
        assert!(reading.memory > 100_000, "{reading:?}");
        assert!(reading.threads >= Some(1), "{reading:?}");
        let (open, limit) = files(pid).expect("it has files");
        assert!(open >= 3 && limit >= Some(open), "{open} {limit:?}");
        let boot = System::boot_time().expect("a boot");
        let started = started(&reading, boot).expect("a time");
        assert!(started < Timestamp::now(), "{started}");
        assert_eq!(read(u32::MAX), None);
        assert_eq!(files(u32::MAX), None);
    }

    #[test]
    fn what_other_systems_say() {
        let own = of_system(std::process::id()).expect("it runs");
        assert!(own.memory > 100_000 && own.start > 0, "{own:?}");
    }

    #[test]
    fn who_is_here() {
        let here = Here::find();
        let own = here.identity(7, 99);
        let elsewhere = format!("{}/1/7/99", here.boot);
        assert_eq!(here.start_of(7, Some(&own)), Some(Some(99)));
        assert_eq!(here.start_of(8, Some(&own)), None);
        assert_eq!(here.start_of(7, Some(&elsewhere)), None);
        assert_eq!(here.start_of(7, Some("nonsense")), None);
        assert_eq!(here.start_of(7, None), None);
    }
}
