//! dbgproxy: one port for debugging Python programs that are many processes, from any number of IDEs.
//!
//! A Python process connects its debug server (pydevd, the part of debugpy that lives in the process) to the
//! port and becomes a *session*. Any number of *clients* (IDEs, editors, scripts) connect to the same port and
//! see the sessions. The daemon takes the place of debugpy's adapter: it greets every process itself, so that no
//! client is ever "first", and none that leaves takes anything with it.
//!
//! ```text
//!   python ── pydevd ──┐                                        ┌── DAP ── IDE
//!   python ── pydevd ──┤ session ──mail──▶ client ──────────────┤── DAP ── IDE
//!   python ── pydevd ──┘         ◀──mail──                      └── HTTP ─ browser, command line
//!                          └──────── hub ────────┘
//! ```
//!
//! # The house
//!
//! In reading order:
//!
//! | module | is | knows nothing of |
//! |---|---|---|
//! | [`wire`] | a message and its framing; only the digits of `seq` are ever rewritten | sockets, commands |
//! | [`link`] | a socket with what came in and what goes out | the meaning of messages |
//! | [`pump`] | the one loop that every DAP connection runs | sessions, clients |
//! | [`detect`] | who is calling, by the first bytes | what follows them |
//! | [`server`] | listens, admits, and gives each connection its task | messages |
//! | [`session`] | one process: greeting, stop state, requests, its watchers | views |
//! | [`agent`] | the small Python package in a process: its files, and its connection | clients, pydevd |
//! | [`breakpoints`] | what several clients want of one process, merged; the daemon's own, stored | connections |
//! | [`client`] | one IDE: `initialize`, `attach`, and its view: a process, a tree, all merged | how a process is spoken to |
//! | [`mailbox`] | a client's bounded inbox, and when it lags | what mail says |
//! | [`hub`] | the directory: who is there, who was, who has whom in view | sockets |
//! | [`control`] | the verbs: the daemon's own operations | connections |
//! | [`monitor`] | what is wrong with locks, tasks, sessions and the system, and since when; figures for Prometheus | connections |
//! | [`stacks`] | the stacks of many processes as one | how processes are asked |
//! | [`compare`] | which of many answers is the odd one out | who answered |
//! | [`text`] | what the verbs answer, as people read it | where it is shown |
//! | [`http`] | the same verbs for browsers and scripts | DAP |
//! | [`selector`] | `name=worker-*,state=stopped` | sessions' inner life |
//! | [`owner`] | which user a TCP peer is | DAP |
//! | [`cache`] | the user's cache of what runs inside programs | what is in it |
//! | [`config`], [`commands`] | what the user sets, and the command line | messages |
//!
//! # Invariants
//!
//! 1. One task owns a connection, its socket and its state. Tasks exchange closed enums over bounded channels.
//! 2. What handles a message is an ordinary function that pushes bytes into a buffer; only the pump waits.
//! 3. Only [`server`], [`detect`], [`link`] and [`pump`] touch the sockets of DAP connections.
//! 4. A process is greeted by the daemon and by nobody else. Joining is a snapshot, then what happens, live.
//! 5. A body is decoded only by who needs a field of it, and forwarded as the bytes that it came in.
//! 6. Each request is answered exactly once, also when its process ends.
//! 7. Every queue, buffer, wait and history has a bound: a constant beside the code that it bounds, with its
//!    unit and what happens at it.
//! 8. The daemon never stops or ends a process unless someone asked for it, and a program whose daemon dies
//!    runs on (`session/guard.py`).
//! 9. The debuggee is not trusted: only the events of pydevd reach a client, and its requests reach nobody. Its agent
//!    may ask the daemon for a short, fixed list of things (`agent/asking.rs`).
#![warn(missing_docs)]

pub mod agent;
pub mod breakpoints;
pub mod cache;
pub mod client;
pub mod commands;
pub mod compare;
pub mod config;
pub mod control;
pub mod detect;
pub mod http;
pub mod hub;
pub mod link;
pub mod mailbox;
pub mod monitor;
pub mod owner;
pub mod pump;
pub mod selector;
pub mod server;
pub mod session;
pub mod stacks;
pub mod text;
pub mod wire;
