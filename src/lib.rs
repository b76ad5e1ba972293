//! dbgproxy: one port for debugging Python programs that are many processes, from any number of IDEs.
#![warn(missing_docs)]

pub mod breakpoints;
pub mod client;
pub mod commands;
pub mod config;
pub mod control;
pub mod detect;
pub mod http;
pub mod hub;
pub mod link;
pub mod mailbox;
pub mod owner;
pub mod pump;
pub mod selector;
pub mod server;
pub mod session;
pub mod wire;
