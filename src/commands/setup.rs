//! `dbgproxy setup`: a copy of debugpy for each version of Python, for programs whose environment has none.
//!
//! `run` does the same at its first use, in silence and with less patience.

use std::ffi::OsStr;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use anyhow::{Context, anyhow};

use super::python::{self, Interpreter};
use super::{Failure, put, talk};

/// How long pip may take when it is asked for; it downloads a few megabytes.
const PATIENCE: Duration = Duration::from_mins(5);

/// How long `run` may be held up by what nobody has asked for.
const QUIET_WAIT: Duration = Duration::from_secs(30);

/// For how long `run` does not try again what has failed, so that it is not slow each time on a machine without a
/// network.
const RETRY_AFTER: Duration = Duration::from_mins(10);

/// The arguments of `setup`.
#[derive(Debug, clap::Args)]
pub struct Setup {
    /// For this interpreter's version; repeatable [default: the active virtual environment's, else
    /// python3]
    #[arg(long, value_name = "PATH")]
    pub python: Vec<PathBuf>,

    /// For every interpreter that `dbgproxy doctor` finds
    #[arg(long, conflicts_with = "python")]
    pub all: bool,
}

impl Setup {
    pub(super) fn run(self) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(self.set_up())
    }

    async fn set_up(self) -> Result<(), Failure> {
        let mut interpreters = Vec::new();
        if self.all {
            let found = python::find().await.into_iter().flatten();
            interpreters.extend(found.filter(|found| found.supported().is_ok()));
        } else if self.python.is_empty() {
            interpreters.push(Interpreter::at(&python::default()?).await?);
        } else {
            for path in &self.python {
                let path = python::which(path.as_os_str())
                    .ok_or_else(|| anyhow!("there is no interpreter {}", path.display()))?;
                interpreters.push(Interpreter::at(&path).await?);
            }
        }
        if interpreters.is_empty() {
            return Err(Failure::Failed(anyhow!(
                "no interpreter is found; name one with --python PATH"
            )));
        }
        // One version has one copy.
        let mut done = Vec::new();
        let mut failed = false;
        for interpreter in interpreters {
            let version = interpreter.version();
            let minor = version
                .rsplit_once('.')
                .map_or(&*version, |(minor, _)| minor);
            if done.contains(&minor.to_owned()) {
                continue;
            }
            match interpreter.install(PATIENCE).await {
                Ok(copy) => {
                    put(format_args!(
                        "Python {minor}: debugpy {} in {}\n",
                        copy.version,
                        copy.directory.display()
                    ))?;
                    done.push(minor.to_owned());
                }
                Err(error) => {
                    failed = true;
                    talk(format_args!(
                        "dbgproxy: no debugpy for {} (Python {version}): {error:#}",
                        interpreter.path.display()
                    ));
                }
            }
        }
        if failed {
            return Err(Failure::Failed(anyhow!(
                "not every version has got its debugpy"
            )));
        }
        Ok(())
    }
}

/// Sees to it that there is a debugpy for the Python that a command starts, as far as one can see which that is. What
/// stands in the way is said in one line, and does not keep the command from running.
pub(super) async fn provide(first: &OsStr) {
    if std::env::var_os("DBGPROXY_DEBUGPY").is_some() {
        return;
    }
    let Some(path) = python::of_command(first) else {
        return;
    };
    // What does not run, or is too old, is the command's own business.
    let Ok(interpreter) = Interpreter::at(&path).await else {
        return;
    };
    let has_one = interpreter.debugpy.is_some() || interpreter.copy().is_some();
    if has_one || interpreter.supported().is_err() {
        return;
    }
    let complain = |why: &str| {
        talk(format_args!(
            "dbgproxy: {} has no debugpy, so the command runs and cannot be debugged: {why}",
            path.display()
        ));
    };
    if has_failed_lately(&interpreter) {
        return complain("getting it has just failed; `dbgproxy setup` tries again");
    }
    if let Err(error) = interpreter.install(QUIET_WAIT).await {
        complain(&format!("{error:#}"));
        // Where it cannot be written, each run is slow, and says why.
        let _ = interpreter
            .failure_file()
            .and_then(|file| Ok(fs::write(file, format!("{error:#}\n"))?));
    }
}

fn has_failed_lately(interpreter: &Interpreter) -> bool {
    let failed = interpreter
        .failure_file()
        .and_then(|file| Ok(fs::metadata(file)?.modified()?));
    let since = failed
        .ok()
        .map(|failed| SystemTime::now().duration_since(failed));
    // A time to come is a clock that was set back.
    matches!(since, Some(Ok(since)) if since < RETRY_AFTER)
}
