//! `dbgproxy serve`: settings, log, listeners and signals, and then the server has the word.

use std::env;
use std::fs::OpenOptions;
use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::writer::BoxMakeWriter;

use super::{Failure, LogFormat, Options, put, talk};
use crate::breakpoints::Store;
use crate::config::{Address, Config};
use crate::server::{self, Listeners};

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// A file with these options [default: dbgproxy.toml, if there is one]
    #[arg(
        long,
        value_name = "PATH",
        env = "DBGPROXY_CONFIG",
        hide_env_values = true
    )]
    pub config: Option<PathBuf>,

    /// What may also stand in the environment and in the file.
    #[command(flatten)]
    pub options: Options,
}

impl Serve {
    pub(super) fn run(self) -> Result<(), Failure> {
        let file = Options::from_file(self.config.as_deref()).map_err(Failure::Usage)?;
        let options = self.options.or(file);
        let config = options.config().map_err(Failure::Usage)?;
        let filter = filter(options.log.as_deref()).map_err(Failure::Usage)?;
        start_log(
            filter,
            options.log_format.unwrap_or_default(),
            options.log_file.as_deref(),
        )?;

        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(serve(config))
    }
}

async fn serve(config: Config) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    stop_on_signals(&stop).context("cannot listen for signals")?;
    let breakpoints = Store::open(config.state.as_deref())?;
    let listeners =
        Listeners::bind(&config.listen).map_err(|error| cannot_listen(error, &config.listen))?;
    for address in listeners.addresses() {
        match put(format_args!("dbgproxy: listening on {address}\n")) {
            // Whoever started us does not want to know; the daemon is there all the same.
            Ok(()) | Err(Failure::StdoutClosed) => {}
            Err(failure) => return Err(failure),
        }
    }
    Ok(server::run(listeners, config, breakpoints, stop).await?)
}

/// Adds what to do to an error that has a well-known cause.
fn cannot_listen(error: anyhow::Error, listen: &[Address]) -> Failure {
    let in_use = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .any(|cause| cause.kind() == io::ErrorKind::AddrInUse);
    if !in_use {
        return Failure::Failed(error);
    }
    if listen
        .iter()
        .all(|address| matches!(address, Address::Unix(_)))
    {
        return Failure::Failed(anyhow!(
            "{error:#}\n  \
             a daemon listens on that socket already, or it is a file of another kind: name another path"
        ));
    }
    let connect = match listen {
        [only] if *only == Address::default() => String::new(),
        [only] => format!(" --connect {only}"),
        _ => " --connect ADDR".to_owned(),
    };
    Failure::Failed(anyhow!(
        "{error:#}\n  \
         if a dbgproxy runs there, `dbgproxy sessions{connect}` shows it; else a debugpy may hold it\n  \
         a free port: `dbgproxy serve --listen 127.0.0.1:0`"
    ))
}

/// SIGINT and SIGTERM cancel `stop`, however often they come.
#[cfg(unix)]
fn stop_on_signals(stop: &CancellationToken) -> io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    for kind in [SignalKind::interrupt(), SignalKind::terminate()] {
        let mut signal = signal(kind)?;
        let stop = stop.clone();
        tokio::spawn(async move {
            signal.recv().await;
            stop.cancel();
        });
    }
    Ok(())
}

/// Ctrl-C cancels `stop`.
#[cfg(not(unix))]
#[expect(clippy::unnecessary_wraps, reason = "the same signature as on unix")]
fn stop_on_signals(stop: &CancellationToken) -> io::Result<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            stop.cancel();
        }
    });
    Ok(())
}

/// What is logged: as the options say, else as `RUST_LOG` says, else from `info` on.
pub(super) fn filter(option: Option<&str>) -> anyhow::Result<EnvFilter> {
    let environment = env::var("RUST_LOG").ok().filter(|text| !text.is_empty());
    let (text, source) = match (option, &environment) {
        (Some(text), _) => (text, "the log level"),
        (None, Some(text)) => (text.as_str(), "RUST_LOG"),
        (None, None) => ("info", "the default"),
    };
    let wrong = || {
        format!(
            "{source} cannot be `{text}`; write error, warn, info, debug, trace or off, or directives \
             as `info,dbgproxy::session=trace`"
        )
    };
    // A lone word that is no level would mean "only this target", which is a misspelt level.
    let lone = option.is_some() && text.chars().all(char::is_alphanumeric);
    if text.is_empty() || lone && text.parse::<LevelFilter>().is_err() {
        return Err(anyhow!(wrong()));
    }
    EnvFilter::builder().parse(text).with_context(wrong)
}

pub(super) fn start_log(
    filter: EnvFilter,
    format: LogFormat,
    file: Option<&Path>,
) -> anyhow::Result<()> {
    let writer = match file {
        None => BoxMakeWriter::new(io::stderr),
        Some(path) => {
            let file = OpenOptions::new().create(true).append(true).open(path);
            let cannot = || format!("cannot write the log to {}", path.display());
            BoxMakeWriter::new(Arc::new(file.with_context(cannot)?))
        }
    };
    let colour = file.is_none() && io::stderr().is_terminal() && env::var_os("NO_COLOR").is_none();
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(writer)
        .with_ansi(colour)
        // It would be told on stderr with a panic where stderr is gone.
        .log_internal_errors(false);
    let started = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
    if let Err(error) = started {
        // Only a program that has this module inside and a log of its own gets here.
        talk(format_args!(
            "dbgproxy: keeping the log that is there: {error}"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_levels() {
        for text in [
            "info",
            "DEBUG",
            "off",
            "info,dbgproxy::session=trace",
            "dbgproxy[conn]=debug",
        ] {
            assert!(filter(Some(text)).is_ok(), "{text}");
        }
        for text in ["inof", "info,x=y", ""] {
            let error = filter(Some(text)).expect_err(text).to_string();
            assert!(error.contains("write error, warn"), "{error}");
        }
    }

    #[test]
    fn an_address_in_use_says_what_to_do() {
        let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let error = std::net::TcpListener::bind(taken.local_addr().unwrap()).unwrap_err();
        let error = anyhow::Error::new(error).context("cannot listen on 127.0.0.1:5678");
        let Failure::Failed(error) = cannot_listen(error, &[Address::default()]) else {
            panic!("another failure")
        };
        let text = format!("{error:#}");
        for part in [
            "cannot listen on 127.0.0.1:5678",
            "dbgproxy sessions",
            "--listen 127.0.0.1:0",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
