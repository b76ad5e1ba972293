//! The harness of the tests: the real daemon, clients that speak DAP as an IDE does, scripted debug servers, and real
//! Python programs under real debugpy.
//!
//! | module | has |
//! |---|---|
//! | [`daemon`] | [`Daemon`]: the binary under test |
//! | [`client`], [`start`], [`debugging`] | [`Client`]: a conversation with the daemon, every message of which is checked |
//! | [`debug_server`], [`pydevd`] | [`DebugServer`]: a process to be debugged, without Python |
//! | [`agent`], [`aged`] | [`agent::Agent`]: a process that sleeps, without Python |
//! | [`python`], [`program`] | [`Python`], [`Script`], [`Program`]: a process to be debugged, with Python |
//! | [`tap`] | [`Tap`]: between a process and the daemon, to hear the guard and to ask it |
//! | [`http`] | the same daemon as scripts and browsers ask it |
//! | [`report`] | what the monitor has found |
//! | [`schema`] | what every message to a client must look like |
//! | [`wire`], [`wait`] | framing, and waiting with a limit |
//!
//! No test asserts a time and none sleeps to let things settle. Every wait is for something that must happen, and has
//! a generous limit ([`wait::LIMIT`]) so that a failure is a failure and not a hanging run. When a test fails, each
//! of these prints what it saw.

// Each file in tests/ is a crate of its own that has the whole harness and uses a part of it.
#![allow(dead_code, unused_imports, unreachable_pub, missing_docs)]

pub mod aged;
pub mod agent;
pub mod client;
pub mod daemon;
pub mod debug_server;
pub mod debugging;
pub mod http;
pub mod program;
pub mod pydevd;
pub mod python;
pub mod report;
pub mod schema;
pub mod start;
pub mod tap;
pub mod wait;
pub mod wire;

pub use client::Client;
pub use daemon::Daemon;
pub use debug_server::{Answer, DebugServer};
pub use debugging::Stopped;
pub use program::{Ended, Program};
pub use python::{Python, Script};
pub use start::{Attaching, Start};
pub use tap::Tap;

/// A port that no other test gets: a daemon that is killed must not have another one come in its place, to which the
/// agents of its programs would turn. The system gives out none below this range by itself.
pub fn own_port() -> u16 {
    let start = (std::process::id() % 12_000) as u16;
    let mut ports = (0..12_000).map(|step| 20_000 + (start + step) % 12_000);
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    ports.find(is_free).expect("one of them is free")
}

/// Lets this process open as many files as the system grants, for tests with thousands of connections.
///
/// Returns how many that is: a test that needs more says so and makes do with fewer.
pub fn raise_open_files() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).expect("raising to what is allowed is allowed");
    maximum.unwrap_or(u64::MAX)
}
