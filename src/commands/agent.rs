//! `dbgproxy agent`: puts a line into an environment's packages that loads the agent where PYTHONPATH does not reach,
//! as under `python -I`; and takes it out again.
//!
//! Python runs that line at each start, so it does nothing at all unless `DBGPROXY` is set, and nothing is what it does
//! when the agent's directory is gone.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};

use super::python::{self, Interpreter};
use super::{Failure, put};
use crate::agent::package;

/// The file among an environment's packages.
pub(super) const FILE: &str = "dbgproxy.pth";

/// The arguments of `agent`.
#[derive(Debug, clap::Args)]
pub struct Agent {
    /// What to do.
    #[command(subcommand)]
    pub what: What,
}

/// What can be done with the agent in an environment.
#[derive(Debug, clap::Subcommand)]
pub enum What {
    /// Let an environment's Pythons load the agent wherever DBGPROXY is set
    Install(Place),
    /// Undo that
    Uninstall(Place),
}

/// An environment.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The directory of a virtual environment
    #[arg(long, value_name = "VENV", conflicts_with = "python")]
    pub into: Option<PathBuf>,

    /// The environment of this interpreter [default: the active virtual environment's, else python3]
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
}

impl Agent {
    pub(super) fn run(self) -> Result<(), Failure> {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start the runtime")?
            .block_on(self.what.run())
    }
}

impl What {
    async fn run(self) -> Result<(), Failure> {
        match self {
            What::Install(place) => {
                let interpreter = place.interpreter().await?;
                interpreter
                    .supported()
                    .map_err(|why| anyhow!("{} is of no use: {why}", interpreter.path.display()))?;
                let line = line(&package::unpack()?);
                let file = interpreter.packages.join(FILE);
                fs::write(&file, line).with_context(|| {
                    format!(
                        "cannot write {}: name an environment of yours with --into VENV",
                        file.display()
                    )
                })?;
                put(format_args!("{}\n", file.display()))
            }
            What::Uninstall(place) => {
                let file = place.interpreter().await?.packages.join(FILE);
                match fs::remove_file(&file) {
                    Ok(()) => put(format_args!("{}\n", file.display())),
                    Err(error) if error.kind() == ErrorKind::NotFound => Err(Failure::Failed(
                        anyhow!("there is no {}: nothing to undo", file.display()),
                    )),
                    Err(error) => Err(Failure::Failed(
                        anyhow!(error).context(format!("cannot remove {}", file.display())),
                    )),
                }
            }
        }
    }
}

impl Place {
    async fn interpreter(&self) -> anyhow::Result<Interpreter> {
        let path = match (&self.into, &self.python) {
            (Some(environment), _) => {
                let path = environment.join("bin/python");
                python::which(path.as_os_str()).ok_or_else(|| {
                    anyhow!(
                        "{} is no virtual environment: it has no bin/python",
                        environment.display()
                    )
                })?
            }
            (None, Some(path)) => python::which(path.as_os_str())
                .ok_or_else(|| anyhow!("there is no interpreter {}", path.display()))?,
            (None, None) => python::default()?,
        };
        Interpreter::at(&path).await
    }
}

/// The line that loads the agent from a directory. It has names of its own, so that it changes none of site's.
fn line(directory: &Path) -> String {
    let code = format!(
        "try:\n import os, sys\n path = os.fsdecode(b{})\n sys.path.insert(0, path)\n try:\n  import dbgproxy._agent\n \
         finally:\n  sys.path.remove(path)\n dbgproxy._agent.boot()\nexcept BaseException: pass",
        literal(directory.as_os_str().as_bytes())
    );
    format!(
        "import os; os.environ.get(\"DBGPROXY\") and exec({}, {{}})\n",
        literal(code.as_bytes())
    )
}

/// Bytes as a literal of Python, on one line and in ASCII.
fn literal(bytes: &[u8]) -> String {
    format!("\"{}\"", bytes.escape_ascii())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_one_line_that_site_runs() {
        for directory in ["/c/agent", "/c\n/\"it's\"/\\", "/c/\u{e4}"] {
            let line = line(Path::new(directory));
            assert!(
                line.starts_with("import os; os.environ.get(\"DBGPROXY\") and "),
                "{line}"
            );
            assert_eq!(line.matches('\n').count(), 1, "{line}");
            assert!(line.is_ascii(), "{line}");
        }
    }
}
