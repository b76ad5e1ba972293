//! The commands that are verbs of the daemon: asked, and shown as a console shows them.
//!
//! What each shows is [`crate::text`]'s; this module knows what a person types.

use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, anyhow};
use serde_json::{Map, Value, json};

use super::http::Daemon;
use super::{Failure, put};
use crate::monitor::Part;
use crate::selector::Selector;
use crate::text;

/// How a command asks, and how it answers.
#[derive(Debug, clap::Args)]
pub struct Asking {
    /// Print the daemon's answer as it is
    #[arg(long)]
    pub json: bool,

    /// Whom to ask.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// The arguments of a command over sessions.
#[derive(Debug, clap::Args)]
pub struct Over {
    /// Which sessions: pid=41, name=worker-*, rank=0..3, state=stopped, id=3fa8, label.KEY=VALUE;
    /// a comma is "and"
    #[arg(default_value = "all")]
    pub selector: Selector,

    /// How.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `vars`.
#[derive(Debug, clap::Args)]
pub struct Vars {
    /// What is inside of one of them instead: the number that stands beside it in brackets. It holds
    /// until the process runs on
    #[arg(long, value_name = "NUMBER")]
    pub inside: Option<u32>,

    /// Of which sessions.
    #[command(flatten)]
    pub over: Over,
}

/// The arguments of `monitor`.
#[derive(Debug, clap::Args)]
pub struct Monitor {
    /// What to show, if not everything
    pub part: Option<Part>,

    /// Of which sessions.
    #[command(flatten)]
    pub over: Over,
}

/// The arguments of `terminate` and `detach`, for which sessions must be named.
#[derive(Debug, clap::Args)]
pub struct OverNamed {
    /// Which sessions, be it `all`
    pub selector: Selector,

    /// How.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `eval`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "dbgproxy eval [OPTIONS] [SELECTOR] EXPRESSION\n       \
                            dbgproxy eval [OPTIONS] -- [SELECTOR] -EXPRESSION"
)]
pub struct Eval {
    /// Which sessions, if not all, and what to evaluate: in the topmost frame where a process is
    /// stopped, in its `__main__` where it runs
    #[arg(value_name = "EXPRESSION", num_args = 1..=2, required = true)]
    pub words: Vec<String>,

    /// How many seconds a process may take for it
    #[arg(long, value_name = "SECONDS", default_value_t = 10.0)]
    pub timeout: f64,

    /// How.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `break`.
#[derive(Debug, clap::Args)]
pub struct Break {
    /// What to do with the daemon's own breakpoints.
    #[command(subcommand)]
    pub what: BreakWhat,
}

/// What can be done with the daemon's own breakpoints.
#[derive(Debug, clap::Subcommand)]
pub enum BreakWhat {
    /// Set one, in the processes there are and in those that come
    Add(BreakAdd),
    /// List them
    List(Asking),
    /// Remove one, or all
    Remove {
        /// Its number, as `list` shows it, or `all`
        #[arg(value_name = "ID|all")]
        which: Which,

        /// How.
        #[command(flatten)]
        asking: Asking,
    },
}

/// The arguments of `break add`.
#[derive(Debug, clap::Args)]
pub struct BreakAdd {
    /// Where
    #[arg(value_name = "FILE:LINE")]
    pub place: Place,

    /// Stop only where this holds
    #[arg(long = "if", value_name = "COND", allow_hyphen_values = true)]
    pub condition: Option<String>,

    /// Stop at the N-th hit; also `>= N`, `% N` and the like
    #[arg(long, value_name = "N")]
    pub hit: Option<String>,

    /// Do not stop, but print this; {expressions} in braces
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub log: Option<String>,

    /// Only in these sessions
    #[arg(long, value_name = "SELECTOR")]
    pub sessions: Option<Selector>,

    /// The first process that hits it takes it for all
    #[arg(long)]
    pub once: bool,

    /// How.
    #[command(flatten)]
    pub asking: Asking,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    file: PathBuf,
    line: u32,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Place, String> {
        let (file, line) = text
            .rsplit_once(':')
            .filter(|(file, _)| !file.is_empty())
            .ok_or("expected FILE:LINE, as `worker.py:12`")?;
        let line = line.parse().ok().filter(|line| *line > 0);
        let line = line.ok_or("the line is a number from 1")?;
        let file = file.into();
        Ok(Place { file, line })
    }
}

/// Which breakpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The one of this number.
    One(u64),
    /// All.
    All,
}

impl FromStr for Which {
    type Err = String;

    fn from_str(text: &str) -> Result<Which, String> {
        match text {
            "all" => Ok(Which::All),
            number => number
                .parse()
                .map(Which::One)
                .map_err(|_| "expected a number, or `all`".into()),
        }
    }
}

impl Over {
    pub(super) fn run(self, verb: &str) -> Result<(), Failure> {
        let arguments = json!({ "selector": self.selector });
        self.asking.run(verb, &arguments, Duration::ZERO)
    }
}

impl Vars {
    pub(super) fn run(self) -> Result<(), Failure> {
        let arguments = json!({
            "selector": self.over.selector,
            "variablesReference": self.inside,
        });
        self.over
            .asking
            .run("variables", &arguments, Duration::ZERO)
    }
}

impl Monitor {
    pub(super) fn run(self) -> Result<(), Failure> {
        let arguments = json!({ "part": self.part, "selector": self.over.selector });
        self.over.asking.run("monitor", &arguments, Duration::ZERO)
    }
}

impl OverNamed {
    pub(super) fn run(self, verb: &str) -> Result<(), Failure> {
        let arguments = json!({ "selector": self.selector });
        self.asking.run(verb, &arguments, Duration::ZERO)
    }
}

impl Eval {
    pub(super) fn run(self) -> Result<(), Failure> {
        let patience = Duration::try_from_secs_f64(self.timeout)
            .map_err(|_| Failure::Usage(anyhow!("--timeout is a number of seconds")))?;
        let (expression, before) = match self.words.split_last() {
            Some((expression, before)) => (expression.as_str(), before.first()),
            None => ("", None),
        };
        let selector: Selector = before
            .map_or(Ok(Selector::default()), |selector| selector.parse())
            .map_err(|error| Failure::Usage(anyhow!("{error}")))?;
        let arguments = json!({
            "selector": selector,
            "expression": expression,
            "context": "repl",
            "timeout": self.timeout,
        });
        self.asking.run("evaluate", &arguments, patience)
    }
}

impl Break {
    pub(super) fn run(self) -> Result<(), Failure> {
        let none = Duration::ZERO;
        match self.what {
            BreakWhat::Add(add) => add.run(),
            BreakWhat::List(asking) => asking.run("breakpoints.list", &json!({}), none),
            BreakWhat::Remove { which, asking } => {
                let arguments = match which {
                    Which::One(id) => json!({ "id": id }),
                    Which::All => json!({ "all": true }),
                };
                asking.run("breakpoints.remove", &arguments, none)
            }
        }
    }
}

impl BreakAdd {
    fn run(self) -> Result<(), Failure> {
        let file = absolute(&self.place.file)?;
        let mut arguments = Map::new();
        arguments.insert("file".into(), file.into());
        arguments.insert("line".into(), self.place.line.into());
        let optional = [
            ("condition", self.condition),
            ("hitCondition", self.hit),
            ("logMessage", self.log),
            ("sessions", self.sessions.map(String::from)),
        ];
        for (name, text) in optional {
            arguments.extend(text.map(|text| (name.to_owned(), text.into())));
        }
        arguments.insert("once".into(), self.once.into());
        let arguments = Value::Object(arguments);
        self.asking
            .run("breakpoints.add", &arguments, Duration::ZERO)
    }
}

/// The file as every process knows it, whatever its directory.
fn absolute(file: &Path) -> Result<String, Failure> {
    let path = std::path::absolute(file)
        .with_context(|| format!("cannot find out where {} is", file.display()))?;
    path.into_os_string()
        .into_string()
        .map_err(|path| Failure::Usage(anyhow!("{} is not valid Unicode", path.display())))
}

impl Asking {
    /// Asks for a verb, which may take `patience` for itself, and shows what comes of it.
    pub(super) fn run(
        &self,
        verb: &str,
        arguments: &Value,
        patience: Duration,
    ) -> Result<(), Failure> {
        let asking = self.daemon.call(verb, arguments, patience);
        let (body, answer) = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(asking)?;
        if self.json {
            put(format_args!("{}\n", body.trim_end()))?;
        } else {
            put(format_args!("{}\n", text::show(verb, &answer).trim_end()))?;
        }
        let rows = answer["rows"].as_array();
        match rows {
            Some(rows) if !rows.is_empty() && rows.iter().all(|row| row["success"] == false) => {
                Err(Failure::Failed(anyhow!("no session has done it")))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let place = |text: &str| text.parse::<Place>();
        let expected = Place {
            file: "a:b.py".into(),
            line: 12,
        };
        assert_eq!(place("a:b.py:12"), Ok(expected));
        for wrong in ["a.py", ":12", "a.py:", "a.py:0", "a.py:x", "a.py:-1"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn which_breakpoints() {
        assert_eq!("7".parse(), Ok(Which::One(7)));
        assert_eq!("all".parse(), Ok(Which::All));
        assert!("seven".parse::<Which>().is_err());
    }
}
