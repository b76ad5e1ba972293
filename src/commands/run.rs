//! `dbgproxy run`: a command in the environment in which every Python becomes a session, and a daemon if there is none.
//!
//! The command has our place: our streams, our terminal, our process group, the signals that are sent to us, and its
//! exit code is ours. Of the programs that it starts, this module knows nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use rustix::process::{Pid, Signal, getpgrp, kill_process};
use rustix::termios::tcgetpgrp;
use serde_json::json;
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::http::Daemon;
use super::serve::{filter, start_log};
use super::{Failure, Options, Serve, amiss, env as variables, python, setup, talk};
use crate::agent::package;
use crate::breakpoints::Store;
use crate::config::{Address, Config, DEFAULT_ADDRESS};
use crate::hub::Hub;
use crate::server::{self, Listeners};

/// How long a daemon may take to say that it is one; what is slower is something else.
const LOOK_WAIT: Duration = Duration::from_secs(5);

/// How often a daemon is looked for and its address tried, while others may be doing the same.
const ATTEMPTS: usize = 3;

/// How long a daemon may take to note the command's exit code.
const REPORT_WAIT: Duration = Duration::from_secs(1);

/// How often it is looked whether all clients have left.
const POLL: Duration = Duration::from_millis(100);

/// How many signals may wait to be passed on; further ones are lost, as the system itself loses those that come while
/// one of their kind waits.
const SIGNALS: usize = 16;

/// What is passed on to the command.
const PASSED_ON: [Signal; 6] = [
    Signal::HUP,
    Signal::INT,
    Signal::QUIT,
    Signal::TERM,
    Signal::USR1,
    Signal::USR2,
];

/// The exit code when there is no such command, as shells have it.
const NOT_FOUND: u8 = 127;

/// The exit code when it is there and cannot be executed.
const NOT_EXECUTABLE: u8 = 126;

/// The arguments of `run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The daemon's address, HOST:PORT or unix:PATH; if none answers there, this command becomes it
    /// [default: --listen, else `DBGPROXY`, else 127.0.0.1:5678]
    #[arg(long, value_name = "ADDR")]
    pub connect: Option<Address>,

    /// What to call the command's sessions
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,

    /// What this command is told in case that it becomes the daemon.
    #[command(flatten)]
    pub serve: Serve,

    /// What to run
    #[arg(
        value_name = "COMMAND",
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    pub command: Vec<OsString>,
}

/// The daemon that a command's programs find.
enum Host {
    /// It runs already.
    Running(Address),
    /// It is in this process, and begins when the command has been started.
    Own(Listeners, Config),
}

impl Run {
    pub(super) fn run(self) -> Result<ExitCode, Failure> {
        let file = Options::from_file(self.serve.config.as_deref()).map_err(Failure::Usage)?;
        let variable = env::var("DBGPROXY").ok().filter(|text| !text.is_empty());
        let addresses = Addresses::of(
            self.connect.clone(),
            self.serve.options.listen.clone(),
            variable.as_deref(),
            file.listen.clone(),
        )
        .map_err(Failure::Usage)?;
        let options = Options {
            listen: Some(addresses.listen.clone()),
            ..self.serve.options.clone().or(file)
        };
        // The program's stderr stays its own.
        let quiet = options.log_file.is_none().then_some("warn");
        let filter = filter(options.log.as_deref().or(quiet)).map_err(Failure::Usage)?;
        start_log(
            filter,
            options.log_format.unwrap_or_default(),
            options.log_file.as_deref(),
        )?;
        let agent = package::unpack()?;
        tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(self.attached(&addresses, &options, &agent))
    }

    async fn attached(
        &self,
        addresses: &Addresses,
        options: &Options,
        agent: &Path,
    ) -> Result<ExitCode, Failure> {
        let Some((first, arguments)) = self.command.split_first() else {
            return Err(Failure::Usage(anyhow!("there is no command to run")));
        };
        if let Some(why) = amiss() {
            talk(format_args!("dbgproxy: {why}"));
        }
        setup::provide(first).await;
        let host = addresses.host(options).await?;
        let address = host.address()?;
        let path = env::var_os("PYTHONPATH");
        let mut command = Command::new(first);
        command
            .args(arguments)
            .envs(variables::environment(&address, agent, path.as_deref())?);
        if let Some(name) = &self.name {
            command.env("DBGPROXY_NAME", name);
        }
        let waits = options.wait_for_ide.unwrap_or_default();
        if waits {
            command.env("DBGPROXY_WAIT", "1");
        }
        let mut signals = Signals::listen().context("cannot listen for signals")?;
        // Before the daemon, which may open more files than the command is to inherit as its limit.
        let mut child = match command.spawn() {
            Ok(child) => child,
            Err(error) => return Ok(not_started(first, &error)),
        };
        signals
            .listen_to_ignored()
            .context("cannot listen for signals")?;
        host.announce(addresses, &address, waits);
        let own = host.start();
        let pid = child.id();
        let status = signals.wait(&mut child).await;
        let status = status.context("cannot wait for the command")?;
        let code = exit_code(status);
        if let Some(pid) = pid {
            report_exit(&Daemon { address }, pid, code).await;
        }
        if let Some(own) = own {
            own.end(&mut signals, code).await;
        }
        Ok(ExitCode::from(code))
    }
}

/// Where a daemon is looked for, and where one listens if there is none.
#[derive(Debug, PartialEq, Eq)]
struct Addresses {
    look: Address,
    listen: Vec<Address>,
}

impl Addresses {
    /// What is said nearest counts.
    fn of(
        connect: Option<Address>,
        listen: Option<Vec<Address>>,
        variable: Option<&str>,
        file: Option<Vec<Address>>,
    ) -> anyhow::Result<Addresses> {
        let first = |addresses: &Vec<Address>| addresses.first().cloned();
        let variable = || {
            let address = variable.map(str::parse).transpose();
            address.context("DBGPROXY is not where a daemon can be")
        };
        let look = match connect.or_else(|| listen.as_ref().and_then(first)) {
            Some(look) => Some(look),
            None => variable()?,
        };
        // The file says where daemons listen that are told nothing else.
        let listen = match (listen, &look) {
            (Some(listen), _) => listen,
            (None, Some(look)) => vec![look.clone()],
            (None, None) => file.unwrap_or_else(|| vec![Address::default()]),
        };
        let look = look.or_else(|| first(&listen)).unwrap_or_default();
        Ok(Addresses { look, listen })
    }

    /// The daemon that answers, or the sockets for one of our own.
    async fn host(&self, options: &Options) -> Result<Host, Failure> {
        let mut attempts = 1;
        loop {
            let missing = match self.look().await {
                Ok(()) => return Ok(Host::Running(self.look.clone())),
                Err(missing) => missing,
            };
            let config = match options.config() {
                Ok(config) => config,
                // It is not for us to listen there, but somebody could have been there.
                Err(_) if self.listen == [self.look.clone()] => return Err(missing),
                Err(error) => return Err(Failure::Usage(error)),
            };
            match Listeners::bind(&config.listen) {
                Ok(listeners) => return Ok(Host::Own(listeners, config)),
                Err(error) if is_in_use(&error) && attempts < ATTEMPTS => attempts += 1,
                Err(error) if is_in_use(&error) => {
                    return Err(Failure::Failed(anyhow!(
                        "{error:#}, and no dbgproxy answers there, so the command is not run\n  \
                         with a daemon on a free port: `dbgproxy run --listen 127.0.0.1:0 -- COMMAND`"
                    )));
                }
                Err(error) => return Err(Failure::Failed(error)),
            }
        }
    }

    /// Whether a daemon answers where one is looked for.
    async fn look(&self) -> Result<(), Failure> {
        let address = self.look.clone();
        if matches!(address, Address::Tcp(address) if address.port() == 0) {
            return Err(Failure::NoDaemon("no daemon is on port 0".to_owned()));
        }
        let daemon = Daemon { address };
        let nothing = json!({});
        let asking = daemon.call("info", &nothing, Duration::ZERO);
        match timeout(LOOK_WAIT, asking).await {
            Ok(Ok((_, info))) if info["name"] == "dbgproxy" => Ok(()),
            Ok(Err(failure)) => Err(failure),
            Ok(Ok(_)) | Err(_) => Err(daemon.not_dbgproxy()),
        }
    }
}

fn is_in_use(error: &anyhow::Error) -> bool {
    let mut causes = error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|cause| cause.kind() == ErrorKind::AddrInUse)
}

impl Host {
    /// Where the programs find it.
    fn address(&self) -> anyhow::Result<Address> {
        match self {
            Host::Running(address) => Ok(address.clone()),
            Host::Own(listeners, _) => {
                let addresses = listeners.addresses();
                let first = addresses.first().context("there is nowhere to listen")?;
                Ok(first.parse()?)
            }
        }
    }

    /// Says in one line what a person must know in order to attach.
    fn announce(&self, looked: &Addresses, address: &Address, waits: bool) {
        let waits = if waits {
            "; the command waits for it"
        } else {
            ""
        };
        match self {
            Host::Running(_) if waits.is_empty() => {}
            Host::Running(_) => talk(format_args!("dbgproxy: attach an IDE to {address}{waits}")),
            Host::Own(..) => {
                let connect = match address.to_string() {
                    address if address == DEFAULT_ADDRESS => String::new(),
                    address => format!(" --connect {address}"),
                };
                let none = match &looked.look {
                    Address::Tcp(look) if look.port() == 0 => String::new(),
                    look => format!("no daemon at {look}, so "),
                };
                talk(format_args!(
                    "dbgproxy: {none}one runs here while the command does; attach an IDE to {address} \
                     (`dbgproxy ide vscode{connect}` shows how){waits}"
                ));
            }
        }
    }

    /// Lets the daemon of this process begin, if it is one.
    fn start(self) -> Option<Own> {
        let Host::Own(listeners, config) = self else {
            return None;
        };
        // It ends with its command, and so do its breakpoints.
        let breakpoints = Store::default();
        let stop = CancellationToken::new();
        let hub = Arc::new(Hub::new(config, breakpoints, listeners.addresses(), stop));
        let running = tokio::spawn(server::run_for(hub.clone(), listeners));
        Some(Own { hub, running })
    }
}

/// The daemon in this process.
struct Own {
    hub: Arc<Hub>,
    running: tokio::task::JoinHandle<anyhow::Result<()>>,
}

impl Own {
    /// Stops it when nobody is attached any more, or at once when a signal says so. Programs run on without it.
    async fn end(self, signals: &mut Signals, code: u8) {
        if self.hub.client_count() > 0 {
            talk(format_args!(
                "dbgproxy: the command has ended with {code}; an IDE is still attached, Ctrl-C ends this"
            ));
        }
        while self.hub.client_count() > 0 {
            tokio::select! {
                () = sleep(POLL) => {}
                () = signals.next_of_ours() => break,
            }
        }
        self.hub.stop.cancel();
        match self.running.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!("the daemon has not ended well: {error:#}"),
            Err(error) => tracing::warn!(%error, "the daemon has not ended well"),
        }
    }
}

/// Tells the daemon how the command has ended: nobody else knows. It may know no such session, or not this verb.
async fn report_exit(daemon: &Daemon, pid: u32, code: u8) {
    let exit = json!({ "pid": pid, "exit": code });
    let telling = daemon.call("exit", &exit, Duration::ZERO);
    match timeout(REPORT_WAIT, telling).await {
        Ok(Ok(_)) => {}
        Ok(Err(Failure::Failed(why))) => {
            tracing::debug!(pid, code, %why, "the exit code is not noted");
        }
        Ok(Err(_)) => tracing::debug!(pid, code, "the exit code is not noted"),
        Err(_) => tracing::debug!(pid, code, "the exit code is not noted in time"),
    }
}

/// The signals that would end this process, instead of which they are passed on to the command.
struct Signals {
    inbox: mpsc::Receiver<Signal>,
    outbox: mpsc::Sender<Signal>,
    /// Those that this process was started to ignore, as under nohup, or behind an `&` in a script.
    ignored: Vec<Signal>,
}

impl Signals {
    fn listen() -> io::Result<Signals> {
        let (outbox, inbox) = mpsc::channel(SIGNALS);
        let signals = Signals {
            inbox,
            outbox,
            ignored: ignored(),
        };
        for kind in PASSED_ON {
            if !signals.ignored.contains(&kind) {
                signals.listen_to(kind)?;
            }
        }
        Ok(signals)
    }

    /// Listens to those that were to be ignored, too: the command is there, and has been started to ignore them, but
    /// may have changed its mind.
    fn listen_to_ignored(&self) -> io::Result<()> {
        self.ignored
            .iter()
            .try_for_each(|kind| self.listen_to(*kind))
    }

    fn listen_to(&self, kind: Signal) -> io::Result<()> {
        let mut stream = signal(SignalKind::from_raw(kind.as_raw()))?;
        let outbox = self.outbox.clone();
        tokio::spawn(async move {
            while stream.recv().await.is_some() {
                let _ = outbox.try_send(kind);
            }
        });
        Ok(())
    }

    /// The next one.
    async fn next(&mut self) -> Signal {
        match self.inbox.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    /// The next one that means this process itself.
    async fn next_of_ours(&mut self) {
        loop {
            let signal = self.next().await;
            if !self.ignored.contains(&signal) {
                return;
            }
        }
    }

    /// Waits for the end of the command, and passes on to it what is sent to this process alone.
    async fn wait(&mut self, child: &mut Child) -> io::Result<ExitStatus> {
        loop {
            tokio::select! {
                status = child.wait() => return status,
                signal = self.next() => {
                    // What a key sends reaches the whole process group in the terminal's foreground, the command too.
                    let is_key = matches!(signal, Signal::INT | Signal::QUIT);
                    let pid = child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
                    if let Some(pid) = pid.filter(|_| !(is_key && is_foreground()))
                        && let Err(error) = kill_process(pid, signal)
                    {
                        tracing::debug!(%error, "a signal is not passed on");
                    }
                }
            }
        }
    }
}

/// Whether the keys of a terminal send their signals to this process.
fn is_foreground() -> bool {
    let terminal = std::fs::File::open("/dev/tty");
    terminal.is_ok_and(|terminal| tcgetpgrp(terminal).is_ok_and(|group| group == getpgrp()))
}

/// Which of the signals this process was started to ignore, where the system tells.
fn ignored() -> Vec<Signal> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    ignored_in(&status)
}

fn ignored_in(status: &str) -> Vec<Signal> {
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or_default();
    let is_ignored = |signal: &Signal| mask >> (signal.as_raw() - 1) & 1 == 1;
    PASSED_ON.into_iter().filter(is_ignored).collect()
}

/// The exit code that a shell would show.
fn exit_code(status: ExitStatus) -> u8 {
    let code = match (status.code(), status.signal()) {
        (Some(code), _) => code,
        (None, signal) => 128 + signal.unwrap_or_default(),
    };
    u8::try_from(code).unwrap_or(1)
}

/// Says why the command has not been started, and gives the exit code for it.
fn not_started(word: &OsStr, error: &io::Error) -> ExitCode {
    let shown = word.display();
    let (code, why) = match error.kind() {
        ErrorKind::NotFound if python::which(word).is_some() => {
            let why = format!("cannot run {shown}: the interpreter in its first line is not there");
            (NOT_EXECUTABLE, why)
        }
        ErrorKind::NotFound => (NOT_FOUND, format!("there is no command {shown}")),
        ErrorKind::PermissionDenied if Path::new(word).is_dir() => {
            (NOT_EXECUTABLE, format!("{shown} is a directory"))
        }
        ErrorKind::PermissionDenied => {
            let why = format!("{shown} may not be executed: `chmod +x` allows it");
            (NOT_EXECUTABLE, why)
        }
        _ => (NOT_EXECUTABLE, format!("cannot run {shown}: {error}")),
    };
    talk(format_args!("dbgproxy: {why}"));
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(text: &str) -> Address {
        text.parse().unwrap()
    }

    #[test]
    fn what_is_said_nearest_counts() {
        let default = DEFAULT_ADDRESS;
        for (connect, listen, variable, file, look, at) in [
            (None, None, None, None, default, default),
            (
                Some("[::1]:1"),
                None,
                Some("[::1]:3"),
                Some("[::1]:4"),
                "[::1]:1",
                "[::1]:1",
            ),
            (
                None,
                Some("[::1]:2"),
                Some("[::1]:3"),
                Some("[::1]:4"),
                "[::1]:2",
                "[::1]:2",
            ),
            (
                None,
                None,
                Some("[::1]:3"),
                Some("[::1]:4"),
                "[::1]:3",
                "[::1]:3",
            ),
            (None, None, None, Some("[::1]:4"), "[::1]:4", "[::1]:4"),
            (
                Some("[::1]:1"),
                Some("[::1]:2"),
                None,
                None,
                "[::1]:1",
                "[::1]:2",
            ),
        ] {
            let many = |text: Option<&str>| text.map(|text| vec![address(text)]);
            let found =
                Addresses::of(connect.map(address), many(listen), variable, many(file)).unwrap();
            let expected = Addresses {
                look: address(look),
                listen: vec![address(at)],
            };
            assert_eq!(found, expected);
        }
        let error = Addresses::of(None, None, Some("5678"), None).unwrap_err();
        assert!(format!("{error:#}").contains("DBGPROXY"), "{error:#}");
    }

    #[test]
    fn ignored_signals() {
        assert_eq!(ignored_in("Name:\tx\nSigIgn:\t0000000000001000\n"), []);
        assert_eq!(ignored_in("SigIgn:\t0000000000001001\n"), [Signal::HUP]);
        assert_eq!(
            ignored_in("SigIgn:\t0000000000000006\n"),
            [Signal::INT, Signal::QUIT]
        );
        assert_eq!(ignored_in(""), []);
    }

    #[test]
    fn exit_codes() {
        for (status, code) in [(0, 0), (7 << 8, 7), (255 << 8, 255), (9, 137), (15, 143)] {
            assert_eq!(exit_code(ExitStatus::from_raw(status)), code);
        }
    }
}
