//! The options of the daemon and where they come from: flags first, then `DBGPROXY_*`, then
//! `dbgproxy.toml`.
//!
//! There is one list of them, [`Options`]: clap fills it from flags and environment, serde from the
//! file, and [`Options::or`] lays one over the other. A new option is a field here, a line in `or`
//! and its use.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Deserialize;

use crate::config::{Address, Config, Monitoring, OnLastDetach, Seconds};

/// The file that is read if none is named and it is there.
const DEFAULT_FILE: &str = "dbgproxy.toml";

/// How often the monitor looks at most: each look costs every process a sample.
const MIN_INTERVAL: Duration = Duration::from_millis(10);

/// What may be said to the daemon; `None` where nothing was said.
#[derive(Clone, Debug, Default, PartialEq, clap::Args, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Options {
    /// Where to listen: HOST:PORT or unix:PATH; repeatable; port 0 is any free one [default:
    /// 127.0.0.1:5678]
    #[arg(
        long,
        value_name = "ADDR",
        value_delimiter = ',',
        env = "DBGPROXY_LISTEN",
        hide_env_values = true
    )]
    pub listen: Option<Vec<Address>>,

    /// Hold every process before its user code until an IDE is attached to it
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_parser = clap::builder::BoolishValueParser::new(),
        hide_possible_values = true,
        env = "DBGPROXY_WAIT_FOR_IDE",
        hide_env_values = true
    )]
    pub wait_for_ide: Option<bool>,

    /// What becomes of stopped threads when the last IDE leaves [default: resume]
    #[arg(
        long,
        value_name = "WHAT",
        env = "DBGPROXY_ON_LAST_DETACH",
        hide_env_values = true
    )]
    pub on_last_detach: Option<OnLastDetach>,

    /// Keep the daemon's own breakpoints in this file over restarts
    #[arg(
        long,
        value_name = "FILE",
        env = "DBGPROXY_STATE",
        hide_env_values = true
    )]
    pub state: Option<PathBuf>,

    /// What to log: error, warn, info, debug, trace, or directives as in `RUST_LOG` [default:
    /// `RUST_LOG`, else info]
    #[arg(
        long,
        value_name = "LEVEL",
        env = "DBGPROXY_LOG",
        hide_env_values = true
    )]
    pub log: Option<String>,

    /// How to write the log [default: text]
    #[arg(
        long,
        value_name = "FORMAT",
        env = "DBGPROXY_LOG_FORMAT",
        hide_env_values = true
    )]
    pub log_format: Option<LogFormat>,

    /// Append the log to this file instead of writing it to stderr
    #[arg(
        long,
        value_name = "PATH",
        env = "DBGPROXY_LOG_FILE",
        hide_env_values = true
    )]
    pub log_file: Option<PathBuf>,

    /// How often to look for locks, tasks and sessions that are stuck, in seconds; 0 is never
    /// [default: 1]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "DBGPROXY_MONITOR_INTERVAL",
        hide_env_values = true
    )]
    pub monitor_interval: Option<Seconds>,

    /// How long a lock may be held before it is a finding, in seconds [default: 30]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "DBGPROXY_MONITOR_LOCK_HELD",
        hide_env_values = true
    )]
    pub monitor_lock_held: Option<Seconds>,

    /// How long an asyncio task may run before it is a finding, in seconds [default: 10]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "DBGPROXY_MONITOR_TASK_LONG",
        hide_env_values = true
    )]
    pub monitor_task_long: Option<Seconds>,

    /// How long an event loop may be blocked before it is a finding, in seconds [default: 0.1]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "DBGPROXY_MONITOR_LOOP_BLOCKED",
        hide_env_values = true
    )]
    pub monitor_loop_blocked: Option<Seconds>,

    /// How long a process may wait for an IDE before it is a finding, in seconds [default: 10]
    #[arg(
        long,
        value_name = "SECONDS",
        env = "DBGPROXY_MONITOR_SESSION_WAITING",
        hide_env_values = true
    )]
    pub monitor_session_waiting: Option<Seconds>,

    /// A file for what the monitor finds, as JSON lines; when it is large it is put aside as PATH.1
    #[arg(
        long,
        value_name = "PATH",
        env = "DBGPROXY_MONITOR_LOG",
        hide_env_values = true
    )]
    pub monitor_log: Option<PathBuf>,
}

/// How a line of the log looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl Options {
    /// What is said here, and where nothing is said, what `other` says.
    #[must_use]
    pub fn or(self, other: Options) -> Options {
        Options {
            listen: self.listen.or(other.listen),
            wait_for_ide: self.wait_for_ide.or(other.wait_for_ide),
            on_last_detach: self.on_last_detach.or(other.on_last_detach),
            state: self.state.or(other.state),
            log: self.log.or(other.log),
            log_format: self.log_format.or(other.log_format),
            log_file: self.log_file.or(other.log_file),
            monitor_interval: self.monitor_interval.or(other.monitor_interval),
            monitor_lock_held: self.monitor_lock_held.or(other.monitor_lock_held),
            monitor_task_long: self.monitor_task_long.or(other.monitor_task_long),
            monitor_loop_blocked: self.monitor_loop_blocked.or(other.monitor_loop_blocked),
            monitor_session_waiting: self
                .monitor_session_waiting
                .or(other.monitor_session_waiting),
            monitor_log: self.monitor_log.or(other.monitor_log),
        }
    }

    /// The options in the file at `path`; without a path, those in `dbgproxy.toml` if there is
    /// one.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is no TOML, or has an unknown key or a wrong value: names the file,
    /// the line and the key.
    pub fn from_file(path: Option<&Path>) -> anyhow::Result<Options> {
        let file = path.unwrap_or(Path::new(DEFAULT_FILE));
        match std::fs::read_to_string(file) {
            Ok(text) => Self::from_toml(file, &text),
            Err(error) if path.is_none() && error.kind() == ErrorKind::NotFound => {
                Ok(Options::default())
            }
            Err(error) => {
                Err(error).with_context(|| format!("cannot read the file {}", file.display()))
            }
        }
    }

    fn from_toml(file: &Path, text: &str) -> anyhow::Result<Options> {
        toml::from_str(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
            let key = key_at(text, at)
                .map(|key| format!("{key}: "))
                .unwrap_or_default();
            let message = error.message().trim_end().replace('\n', "; ");
            anyhow::anyhow!("{}:{line}: {key}{message}", file.display())
        })
    }

    /// The daemon's settings, with a default where nothing is said.
    ///
    /// # Errors
    ///
    /// There is nowhere to listen, or an address where the daemon may not.
    pub fn config(&self) -> anyhow::Result<Config> {
        let default = Config::default();
        let listen = self.listen.clone().unwrap_or(default.listen);
        if listen.is_empty() {
            bail!("`listen` is empty; name an address, as 127.0.0.1:5678, or leave it out");
        }
        for address in &listen {
            address.check()?;
        }
        Ok(Config {
            listen,
            wait_for_ide: self.wait_for_ide.unwrap_or(default.wait_for_ide),
            on_last_detach: self.on_last_detach.unwrap_or(default.on_last_detach),
            state: self.state.clone(),
            monitoring: self.monitoring()?,
        })
    }

    fn monitoring(&self) -> anyhow::Result<Monitoring> {
        let default = Monitoring::default();
        let interval = match self.monitor_interval {
            None => default.interval,
            Some(Seconds(Duration::ZERO)) => None,
            Some(Seconds(interval)) if interval < MIN_INTERVAL => bail!(
                "`monitor-interval` is at least {} seconds, or 0 for never",
                MIN_INTERVAL.as_secs_f64()
            ),
            Some(Seconds(interval)) => Some(interval),
        };
        let or = |set: Option<Seconds>, default| set.map_or(default, |Seconds(set)| set);
        Ok(Monitoring {
            interval,
            lock_held: or(self.monitor_lock_held, default.lock_held),
            task_long: or(self.monitor_task_long, default.task_long),
            loop_blocked: or(self.monitor_loop_blocked, default.loop_blocked),
            session_waiting: or(self.monitor_session_waiting, default.session_waiting),
            log: self.monitor_log.clone(),
        })
    }
}

/// The key whose line or value holds byte `at`, if the text is TOML at all.
fn key_at(text: &str, at: usize) -> Option<String> {
    let table = toml::de::DeTable::parse(text).ok()?;
    let mut entries = table.get_ref().iter();
    let (key, _) = entries.find(|(key, value)| {
        let end = value.span().end.max(key.span().end);
        (key.span().start..end).contains(&at)
    })?;
    Some(key.get_ref().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> anyhow::Result<Options> {
        Options::from_toml(Path::new("dbgproxy.toml"), text)
    }

    #[test]
    fn every_option_in_the_file() {
        let options = read(
            r#"
            # where
            listen = ["127.0.0.1:0", "unix:/tmp/x.sock"]
            wait-for-ide = true
            on-last-detach = "keep"
            state = "/tmp/dbgproxy.json"
            log = "debug"
            log-format = "json"
            log-file = "/tmp/dbgproxy.log"
            monitor-interval = 2
            monitor-lock-held = 60
            monitor-task-long = 5.5
            monitor-loop-blocked = 0.25
            monitor-session-waiting = 20
            monitor-log = "/tmp/monitor.jsonl"
            "#,
        );
        let expected = Options {
            listen: Some(vec![
                "127.0.0.1:0".parse().unwrap(),
                "unix:/tmp/x.sock".parse().unwrap(),
            ]),
            wait_for_ide: Some(true),
            on_last_detach: Some(OnLastDetach::Keep),
            state: Some("/tmp/dbgproxy.json".into()),
            log: Some("debug".into()),
            log_format: Some(LogFormat::Json),
            log_file: Some("/tmp/dbgproxy.log".into()),
            monitor_interval: "2".parse().ok(),
            monitor_lock_held: "60".parse().ok(),
            monitor_task_long: "5.5".parse().ok(),
            monitor_loop_blocked: "0.25".parse().ok(),
            monitor_session_waiting: "20".parse().ok(),
            monitor_log: Some("/tmp/monitor.jsonl".into()),
        };
        assert_eq!(options.unwrap(), expected);
        // Whatever an option is, the upper layer wins and the lower one fills in.
        assert_eq!(Options::default().or(expected.clone()), expected);
        assert_eq!(
            expected
                .clone()
                .or(read("listen = []\nwait-for-ide = false").unwrap()),
            expected
        );
    }

    #[test]
    fn what_is_wrong_in_the_file_is_named() {
        for (text, line, key, what) in [
            ("\nlisen = []", 2, "lisen", "unknown field"),
            ("wait_for_ide = true", 1, "wait_for_ide", "unknown field"),
            (
                "log = 'x'\nwait-for-ide = 'yes'",
                2,
                "wait-for-ide",
                "expected a boolean",
            ),
            ("listen = '127.0.0.1:1'", 1, "listen", "expected a sequence"),
            (
                "listen = [\n  '127.0.0.1:1',\n  '5678',\n]",
                1,
                "listen",
                "`127.0.0.1:5678`",
            ),
            (
                "on-last-detach = 'kill'",
                1,
                "on-last-detach",
                "`resume` or `keep`",
            ),
            ("[serve]\nlisten = []", 1, "serve", "unknown field"),
            ("log = 1\n", 1, "log", "expected a string"),
            (
                "monitor-interval = -1",
                1,
                "monitor-interval",
                "from 0 to 86400",
            ),
            (
                "monitor-lock-held = 'x'",
                1,
                "monitor-lock-held",
                "expected f64",
            ),
            ("log = 'a'\nlog = 'b'", 2, "", "duplicate key"),
            ("log = \n", 1, "", "string"),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert!(
                error.starts_with(&format!("dbgproxy.toml:{line}: {key}")),
                "{text}: {error}"
            );
            assert!(error.contains(what), "{text}: {error}");
            assert!(!error.contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn a_named_file_must_be_there() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("x.toml");
        let error = Options::from_file(Some(&file)).unwrap_err();
        assert!(format!("{error:#}").contains("x.toml"), "{error:#}");
        std::fs::write(&file, "log = 'warn'").unwrap();
        assert_eq!(
            Options::from_file(Some(&file)).unwrap().log.as_deref(),
            Some("warn")
        );
    }

    #[test]
    fn defaults_and_refusals() {
        assert_eq!(Options::default().config().unwrap(), Config::default());
        assert!(read("listen = []").unwrap().config().is_err());
        let never = read("monitor-interval = 0").unwrap().config().unwrap();
        assert_eq!(never.monitoring.interval, None);
        let error = read("monitor-interval = 0.001")
            .unwrap()
            .config()
            .unwrap_err();
        assert!(error.to_string().contains("at least 0.01"), "{error}");
        let error = read("listen = ['0.0.0.0:5678']")
            .unwrap()
            .config()
            .unwrap_err();
        assert!(error.to_string().contains("ssh -L"), "{error}");
    }
}
