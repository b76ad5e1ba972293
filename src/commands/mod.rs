//! The command line: what the user wrote becomes calls, and what comes of them an exit code.
//!
//! One file a subcommand. stdout is data and stderr is talk; nothing outside this module prints.
//! The commands know no session: apart from `serve` and `run` they ask a daemon over HTTP (`http.rs`), as
//! anybody could.

mod agent;
mod doctor;
mod env;
mod http;
mod ide;
mod options;
mod python;
mod run;
mod serve;
mod sessions;
mod setup;
mod top;
mod verbs;

use std::fmt::Display;
use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::agent::watched;

pub use agent::{Agent, Place as AgentPlace, What as AgentWhat};
pub use doctor::Doctor;
pub use env::{Env, Shell};
pub use ide::{Editor, Ide};
pub use options::{LogFormat, Options};
pub use run::Run;
pub use serve::Serve;
pub use sessions::Sessions;
pub use setup::Setup;
pub use top::Top;
pub use verbs::{
    Asking, Break, BreakAdd, BreakWhat, Eval, Monitor, Over, OverNamed, Place, Vars, Which,
};

/// One port for debugging Python programs that are many processes, from any number of IDEs
#[derive(Debug, Parser)]
#[command(name = "dbgproxy", version, max_term_width = 100)]
pub struct Arguments {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the daemon
    Serve(Serve),
    /// Run a command with every Python under it attached
    Run(Run),
    /// Print the environment in which every Python becomes a session
    Env(Env),
    /// Print a ready configuration for an editor
    Ide(Ide),
    /// Check this machine: interpreters, debugpy, the port, permissions
    Doctor(Doctor),
    /// Get a copy of debugpy for programs whose environment has none
    Setup(Setup),
    /// Load the agent where PYTHONPATH does not reach
    Agent(Agent),
    /// List sessions
    Sessions(Sessions),
    /// Watch sessions, locks, tasks and the system in the terminal, until `q`
    Top(Top),
    /// Show what is wrong: locks, asyncio tasks and sessions that are stuck, and since when
    Report(Over),
    /// Show what the monitor knows: locks, tasks, sessions, the system, findings
    Monitor(Monitor),
    /// Set, list and remove breakpoints of the daemon's own
    Break(Break),
    /// Pause processes
    Pause(Over),
    /// Let processes run
    Continue(Over),
    /// Step over a line in each that is stopped
    Next(Over),
    /// Step into a call in each that is stopped
    Step(Over),
    /// Step out of a function in each that is stopped
    Out(Over),
    /// Show where all threads and tasks are, equal stacks once, without stopping anything
    Bt(Over),
    /// Evaluate an expression in each process, and see which one differs
    Eval(Eval),
    /// Show the local variables where processes are stopped
    Vars(Vars),
    /// List threads
    Threads(Over),
    /// Show the last output of processes, as far as an IDE redirects it
    Output(Over),
    /// Let all clients leave processes, which run on
    Detach(OverNamed),
    /// End processes
    Terminate(OverNamed),
}

/// Does what the process's arguments say, and says how it went: 0 done, 1 failed, 2 wrong usage,
/// 3 no daemon there; for `run` it is the command's own code.
#[must_use]
pub fn run() -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // With stdout or stderr gone there is nobody to tell.
            let _ = error.print();
            return u8::try_from(error.exit_code()).map_or(ExitCode::FAILURE, ExitCode::from);
        }
    };
    let done = match arguments.command {
        Command::Serve(serve) => serve.run(),
        Command::Run(run) => match run.run() {
            Ok(code) => return code,
            Err(failure) => Err(failure),
        },
        Command::Env(env) => env.run(),
        Command::Ide(ide) => ide.run(),
        Command::Doctor(doctor) => doctor.run(),
        Command::Setup(setup) => setup.run(),
        Command::Agent(agent) => agent.run(),
        Command::Sessions(sessions) => sessions.run(),
        Command::Top(top) => top.run(),
        Command::Report(over) => over.run("report"),
        Command::Monitor(monitor) => monitor.run(),
        Command::Break(line) => line.run(),
        Command::Pause(over) => over.run("pause"),
        Command::Continue(over) => over.run("continue"),
        Command::Next(over) => over.run("next"),
        Command::Step(over) => over.run("stepIn"),
        Command::Out(over) => over.run("stepOut"),
        Command::Bt(over) => over.run("stacks"),
        Command::Eval(eval) => eval.run(),
        Command::Vars(vars) => vars.run(),
        Command::Threads(over) => over.run("threads"),
        Command::Output(over) => over.run("output"),
        Command::Detach(over) => over.run("detach"),
        Command::Terminate(over) => over.run("terminate"),
    };
    match done {
        Ok(()) | Err(Failure::StdoutClosed) => ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => fail(1, format_args!("{error:#}")),
        Err(Failure::Usage(error)) => fail(2, format_args!("{error:#}")),
        Err(Failure::NoDaemon(message)) => fail(3, message),
    }
}

fn fail(code: u8, message: impl Display) -> ExitCode {
    talk(format_args!("dbgproxy: {message}"));
    ExitCode::from(code)
}

/// Why a command did not do what it was told; each has an exit code.
#[derive(Debug)]
enum Failure {
    /// It was tried and went wrong: 1.
    Failed(anyhow::Error),
    /// What was asked for makes no sense, and nothing was done: 2.
    Usage(anyhow::Error),
    /// Nothing answers at the daemon's address, or what answers is no daemon: 3.
    NoDaemon(String),
    /// Whoever read our output has had enough, as `head` does: not our failure, 0.
    StdoutClosed,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

/// Writes data to stdout, at once.
fn put(text: impl Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    write!(stdout, "{text}")
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::StdoutClosed,
            _ => Failure::Failed(anyhow::Error::new(error).context("cannot write to stdout")),
        })
}

/// Says something to the person, on a line of stderr; nobody may be listening.
fn talk(text: impl Display) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// What is wrong with what the environment at hand says is to be watched of programs.
fn amiss() -> Option<String> {
    let value = std::env::var_os(watched::VARIABLE)?;
    watched::amiss(&value.to_string_lossy())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    /// Reads a command line as if its last argument were the whole of the environment.
    fn parse(line: &str) -> Result<Command, clap::Error> {
        Arguments::try_parse_from(line.split(' ')).map(|arguments| arguments.command)
    }

    #[test]
    fn serve_takes_its_options() {
        let line = "dbgproxy serve --listen 127.0.0.1:0,[::1]:0 --listen unix:x --wait-for-ide \
                    --on-last-detach keep --log debug --log-format json --log-file y --config z";
        let Ok(Command::Serve(serve)) = parse(line) else {
            panic!("not serve")
        };
        let config = serve.options.config().unwrap();
        let listen: Vec<String> = config.listen.iter().map(ToString::to_string).collect();
        assert_eq!(listen, ["127.0.0.1:0", "[::1]:0", "unix:x"]);
        assert!(config.wait_for_ide);
        assert_eq!(config.on_last_detach, crate::config::OnLastDetach::Keep);
    }

    #[test]
    fn wrong_usage_is_2_and_says_what_to_write() {
        for (line, hint) in [
            ("dbgproxy serve --listen 5678", "`127.0.0.1:5678`"),
            ("dbgproxy serve --on-last-detach kill", "resume, keep"),
            ("dbgproxy serve --wait-for-ide=maybe", "--wait-for-ide"),
            ("dbgproxy sessions pid=x", "expected a number"),
            ("dbgproxy sessions --connect :1", "`127.0.0.1:1`"),
            ("dbgproxy break add worker.py", "FILE:LINE"),
            ("dbgproxy break remove x", "`all`"),
            ("dbgproxy eval", "EXPRESSION"),
            ("dbgproxy terminate", "SELECTOR"),
            ("dbgproxy", "Usage"),
        ] {
            let error = parse(line).expect_err(line);
            assert_eq!(error.exit_code(), 2, "{line}");
            assert!(error.to_string().contains(hint), "{line}: {error}");
        }
    }
}
