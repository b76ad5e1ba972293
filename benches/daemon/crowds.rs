//! Many debug servers, and none.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use dbgproxy::link::Link;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::children::Server;
use crate::peers::{released, stay};
use crate::{Effort, Goal, median, remark, report};

/// How long processor time is watched.
const WATCH: Duration = Duration::from_secs(5);

/// How long a daemon has to come to rest before it is watched.
const SETTLE: Duration = Duration::from_secs(2);

/// The pid that the first of a crowd says it has.
const PID: u32 = 2_000_000;

const MIB: f64 = (1 << 20) as f64;

/// The part of a processor that a daemon uses, in percent.
pub fn load(daemon: &Server) -> f64 {
    let before = daemon.cpu();
    thread::sleep(WATCH);
    100.0 * (daemon.cpu() - before).as_secs_f64() / WATCH.as_secs_f64()
}

/// A daemon that nobody has connected to.
pub fn idle(_: Effort) {
    let daemon = Server::daemon();
    thread::sleep(SETTLE);
    let load = load(&daemon);
    let memory = daemon.memory() as f64 / MIB;
    let figure = format!("{memory:.1} MiB");
    report(
        "idle daemon, memory",
        &figure,
        "",
        (memory, "MiB"),
        Goal::AtMost(12.0),
    );
    let figure = format!("{load:.3} %");
    report(
        "idle daemon, CPU",
        &figure,
        "",
        (load, "%"),
        Goal::AtMost(0.1),
    );
}

pub fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .expect("the runtime starts")
}

/// Lets a crowd connect at once, and waits until each has been released.
async fn come(address: SocketAddr, pids: std::ops::Range<u32>) -> Vec<(u32, Link)> {
    let mut coming = JoinSet::new();
    for pid in pids {
        coming.spawn(async move { (pid, released(address, pid).await) });
    }
    let come = coming.join_all().await;
    come.into_iter()
        .map(|(pid, link)| (pid, link.expect("each is greeted")))
        .collect()
}

/// 1,000 debug servers that connect at once.
pub fn crowd(effort: Effort) {
    const CROWD: u32 = 1000;
    let runtime = runtime();
    let time = |server: Server| {
        let start = Instant::now();
        let links = runtime.block_on(come(server.address, PID..PID + CROWD));
        let time = start.elapsed().as_secs_f64();
        drop(links);
        time
    };
    let (ours, theirs): (Vec<_>, Vec<_>) = (0..effort.of(7, 3))
        .map(|_| (time(Server::daemon()), time(Server::role("acceptor"))))
        .unzip();
    let (ours, theirs) = (median(&ours), median(&theirs));
    report(
        "1,000 debug servers at once",
        &format!("{ours:.3} s"),
        &format!("bare greeter {theirs:.3} s"),
        (ours - theirs, "s"),
        Goal::AtMost(1.0),
    );
}

/// 10,000 sessions in which nothing happens.
pub fn sleepers(effort: Effort) {
    const WANTED: u64 = 10_000;
    /// How many connect at a time.
    const TROOP: usize = 500;
    /// Files that are open besides, in either process.
    const OTHERS: u64 = 100;

    let limit = getrlimit(Resource::Nofile);
    let most = limit.maximum.unwrap_or(u64::MAX);
    let raised = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        remark(
            "idle sessions",
            format_args!("the limit of open files stays: {error}"),
        );
    }
    let wanted = effort.of(WANTED as usize, 2000) as u64;
    let count = wanted.min(most.saturating_sub(OTHERS)) as u32;
    if u64::from(count) < wanted {
        remark(
            "idle sessions",
            format_args!("{count} only, for {most} files may be open"),
        );
    }
    let daemon = Server::daemon();
    let runtime = runtime();
    thread::sleep(SETTLE);
    let empty = daemon.memory();
    for pid in (PID..PID + count).step_by(TROOP) {
        let troop = pid..(pid + TROOP as u32).min(PID + count);
        let links = runtime.block_on(come(daemon.address, troop));
        for (pid, link) in links {
            runtime.spawn(stay(pid, link));
        }
    }
    thread::sleep(SETTLE);
    let load = load(&daemon);
    let each = (daemon.memory() - empty) as f64 / f64::from(count) / 1024.0;
    report(
        "idle sessions, memory of each",
        &format!("{each:.1} KiB"),
        &format!("{count} sessions"),
        (each, "KiB"),
        Goal::AtMost(16.0),
    );
    report(
        "idle sessions, CPU of all",
        &format!("{load:.3} %"),
        &format!("{count} sessions"),
        (load, "%"),
        Goal::AtMost(1.0),
    );
}
