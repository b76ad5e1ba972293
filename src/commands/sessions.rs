//! `dbgproxy sessions`: the daemon's list of sessions, as a table for people or as it came.

use std::io::{self, IsTerminal};
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until};

use super::http::Daemon;
use super::{Failure, put, talk};
use crate::selector::Selector;
use crate::text::Listing;

/// How often `--watch` asks.
const PERIOD: Duration = Duration::from_secs(1);

/// To the upper left corner of an emptied terminal.
const CLEAR: &str = "\x1b[2J\x1b[H";

/// The arguments of `sessions`.
#[derive(Debug, clap::Args)]
pub struct Sessions {
    /// Which sessions: pid=41, name=worker-*, rank=0..3, state=stopped, id=3fa8, label.KEY=VALUE;
    /// a comma is "and"
    #[arg(default_value = "all")]
    pub selector: Selector,

    /// Print the daemon's answer as it is
    #[arg(long)]
    pub json: bool,

    /// Go on until Ctrl-C: redraw the table, or with --json print a line whenever something changed
    #[arg(long)]
    pub watch: bool,

    /// Ended sessions too
    #[arg(long)]
    pub all: bool,

    /// Whom to ask.
    #[command(flatten)]
    pub daemon: Daemon,
}

impl Sessions {
    pub(super) fn run(self) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(async {
                if !self.watch {
                    return self.show().await;
                }
                tokio::select! {
                    ended = self.watch() => ended,
                    stop = tokio::signal::ctrl_c() => {
                        stop.context("cannot listen for Ctrl-C").map_err(Failure::from)
                    }
                }
            })
    }

    async fn show(&self) -> Result<(), Failure> {
        let (body, listing) = self.ask().await?;
        if self.json {
            return put(format_args!("{}\n", body.trim_end()));
        }
        put(listing.table(Timestamp::now()))?;
        if listing.is_empty() {
            talk("dbgproxy: no session is there that matches; --all lists ended ones too");
        }
        Ok(())
    }

    async fn watch(&self) -> Result<(), Failure> {
        let redraw = !self.json && io::stdout().is_terminal();
        let mut last = String::new();
        let mut next = Instant::now();
        loop {
            let (body, listing) = self.ask().await?;
            if redraw {
                put(format_args!("{CLEAR}{}", listing.table(Timestamp::now())))?;
            } else if body != last {
                if self.json {
                    // In JSON a line break is never inside a text, so that a space will do.
                    put(format_args!("{}\n", body.trim().replace(['\n', '\r'], " ")))?;
                } else {
                    put(format_args!("{}\n", listing.table(Timestamp::now())))?;
                }
                last = body;
            }
            next = Instant::now().max(next + PERIOD);
            sleep_until(next).await;
        }
    }

    /// The daemon's answer, as it came and as we read it.
    async fn ask(&self) -> Result<(String, Listing), Failure> {
        let arguments = json!({ "selector": self.selector, "all": self.all });
        let asking = self.daemon.call("sessions", &arguments, Duration::ZERO);
        let (body, answer) = asking.await?;
        match Listing::deserialize(&answer) {
            Ok(listing) => Ok((body, listing)),
            Err(_) => Err(self.daemon.not_dbgproxy()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::http::tests::{answer, scripted};
    use super::*;

    fn sessions(daemon: Daemon) -> Sessions {
        let selector = "worker-*,state=stopped".parse().unwrap();
        Sessions {
            selector,
            json: false,
            watch: false,
            all: true,
            daemon,
        }
    }

    #[tokio::test]
    async fn asks_the_verb() {
        let (daemon, asked) = scripted(answer("200 OK", r#"{"sessions":[],"more":1}"#)).await;
        let (body, listing) = sessions(daemon).ask().await.unwrap();
        assert_eq!(body, r#"{"sessions":[],"more":1}"#);
        assert!(listing.is_empty());
        let asked = asked.await.unwrap();
        assert!(asked.starts_with("POST /api/v1/sessions "), "{asked}");
        let arguments = r#"{"all":true,"selector":"name=worker-*,state=stopped"}"#;
        assert!(asked.ends_with(arguments), "{asked}");
    }

    #[tokio::test]
    async fn another_http_server_is_no_daemon() {
        let (daemon, _asked) = scripted(answer("200 OK", "<html>")).await;
        assert!(matches!(
            sessions(daemon).ask().await,
            Err(Failure::NoDaemon(_))
        ));
    }
}
