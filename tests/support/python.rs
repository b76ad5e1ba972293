//! The prepared Python interpreters, and scripts for them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use tempfile::TempDir;
use tokio::process::Command;

use super::daemon::Daemon;
use super::program::Program;

/// The script that prepares everything; the stamp that it leaves is a copy of it.
const SETUP: &str = include_str!("../setup.sh");

/// A Python with a debugpy, in a virtual environment of its own.
#[derive(Debug)]
pub struct Python {
    /// As in `3.11`.
    pub version: String,
    /// The version of debugpy.
    pub debugpy: String,
    /// What to start.
    pub executable: PathBuf,
}

impl Python {
    /// Every prepared interpreter, the oldest first.
    ///
    /// The first call prepares them if that has not been done. One that this machine lacks is named on stderr and is
    /// not among them; in CI that fails.
    pub fn all() -> &'static [Python] {
        static ALL: OnceLock<Vec<Python>> = OnceLock::new();
        ALL.get_or_init(|| {
            let all = Python::below("python");
            assert!(
                !all.is_empty(),
                "the tests need one CPython that tests/setup.sh knows"
            );
            all
        })
    }

    /// An interpreter of every version that dbgproxy is for, the oldest first, each with its newest debugpy: for what
    /// depends on each version's own ways. It takes as much longer as there are more of them than of [`Python::all`].
    pub fn matrix() -> &'static [Python] {
        static MATRIX: OnceLock<Vec<Python>> = OnceLock::new();
        MATRIX.get_or_init(|| {
            let mut newest = BTreeMap::new();
            for root in ["python", "matrix"] {
                for python in Python::below(root) {
                    newest.insert(numbers(&python.version), python);
                }
            }
            newest.into_values().collect()
        })
    }

    /// The interpreters that are prepared below a directory, the oldest first.
    fn below(root: &str) -> Vec<Python> {
        prepare();
        let directories = std::fs::read_dir(prepared(root)).expect("the set-up has made it");
        let mut all: Vec<Python> = directories
            .filter_map(|entry| Python::at(&entry.ok()?.path()))
            .collect();
        all.sort_by_key(|python| (numbers(&python.version), numbers(&python.debugpy)));
        all
    }

    /// The newest prepared interpreter, for a test that needs one Python and no particular one.
    pub fn newest() -> &'static Python {
        Python::all().last().expect("it is not empty")
    }

    /// The interpreter with the frameworks that people run, or `None` (after saying so) where this machine lacks it.
    pub fn with_frameworks() -> Option<&'static Python> {
        static FOUND: OnceLock<Option<Python>> = OnceLock::new();
        FOUND
            .get_or_init(|| {
                prepare();
                let directory = prepared("python/integrations");
                if !directory.join("ready").exists() {
                    eprintln!("no interpreter for the frameworks here: passed over");
                    return None;
                }
                Some(Self {
                    version: "3.13".into(),
                    debugpy: "1.8.22".into(),
                    executable: directory.join("bin/python"),
                })
            })
            .as_ref()
    }

    /// The interpreter in a directory such as `3.11-1.8.22`, if it was made to the end.
    fn at(directory: &Path) -> Option<Self> {
        let (version, debugpy) = directory.file_name()?.to_str()?.split_once('-')?;
        directory.join("ready").exists().then(|| Self {
            version: version.into(),
            debugpy: debugpy.into(),
            executable: directory.join("bin/python"),
        })
    }

    /// The directory of its installed packages.
    pub fn packages(&self) -> PathBuf {
        let environment = self
            .executable
            .parent()
            .and_then(Path::parent)
            .expect("bin/python");
        environment.join(format!("lib/python{}/site-packages", self.version))
    }

    /// The interpreter as a command, in an environment that nobody has prepared for debugging.
    pub fn command(&self) -> Command {
        let mut command = Command::new(&self.executable);
        clean(&mut command);
        // A test that waits for a line to be printed must get it when it is printed.
        command.env("PYTHONUNBUFFERED", "1");
        if numbers(&self.version) >= vec![3, 11] {
            // Without this, pydevd warns on stderr that it may miss breakpoints.
            command.args(["-X", "frozen_modules=off"]);
        }
        command
    }

    /// Starts a script under debugpy, connecting to the daemon as a debug server.
    pub fn debug(
        &self,
        daemon: impl Into<SocketAddr>,
        script: &Script,
        arguments: &[&str],
    ) -> Program {
        let mut command = self.command();
        command
            .args(["-m", "debugpy", "--connect", &daemon.into().to_string()])
            .arg(script.path())
            .args(arguments)
            .current_dir(script.directory());
        Program::start(command)
    }

    /// The interpreter as a command, in the environment that attaches a process to a daemon by its agent.
    pub async fn attached(&self, daemon: &Daemon) -> Command {
        let output = daemon.run(&["env", "--shell", "json"]).await;
        assert!(output.status.success(), "{output:?}");
        let environment: BTreeMap<String, String> =
            serde_json::from_slice(&output.stdout).expect("it is an object of texts");
        let mut command = Command::new(&self.executable);
        clean(&mut command);
        command.env("PYTHONUNBUFFERED", "1").envs(environment);
        command
    }

    /// Starts a script with the agent in it, which sleeps until somebody looks.
    pub async fn run_attached(&self, daemon: &Daemon, script: &Script) -> Program {
        let mut command = self.attached(daemon).await;
        command.arg(script.path());
        Program::start(command)
    }

    /// Starts a script as it is, without any debugging.
    pub fn run(&self, script: &Script, arguments: &[&str]) -> Program {
        let mut command = self.command();
        command
            .arg(script.path())
            .args(arguments)
            .current_dir(script.directory());
        Program::start(command)
    }
}

impl fmt::Display for Python {
    fn fmt(&self, formatter: &mut fmt::Formatter) -> fmt::Result {
        write!(
            formatter,
            "CPython {} with debugpy {}",
            self.version, self.debugpy
        )
    }
}

/// A Python file in a temporary directory of its own, which goes when it is dropped.
pub struct Script {
    directory: TempDir,
    path: PathBuf,
    source: String,
}

impl Script {
    pub fn new(name: &str, source: &str) -> Self {
        let directory = TempDir::with_prefix("dbgproxy-test-").expect("a temporary directory");
        // pydevd reports real paths, and the temporary directory is a link on some systems.
        let root = directory.path().canonicalize().expect("it exists");
        let path = root.join(name);
        let parent = path.parent().expect("a file is in a directory");
        std::fs::create_dir_all(parent).expect("a new directory can be written to");
        std::fs::write(&path, source).expect("a new directory can be written to");
        Self {
            directory,
            path,
            source: source.into(),
        }
    }

    /// Adds another file to the directory, for a script that imports or starts it.
    pub fn with(self, name: &str, source: &str) -> Self {
        std::fs::write(self.directory().join(name), source)
            .expect("the directory can be written to");
        self
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn directory(&self) -> &Path {
        self.path.parent().expect("a file is in a directory")
    }

    /// The number of the one line that has the marker, such as `# BREAK`.
    pub fn line(&self, marker: &str) -> i64 {
        line(&self.source, marker)
    }
}

/// The number of the one line of `source` that has the marker.
pub fn line(source: &str, marker: &str) -> i64 {
    let mut lines = (1..)
        .zip(source.lines())
        .filter(|(_, line)| line.contains(marker));
    match (lines.next(), lines.next()) {
        (Some((number, _)), None) => number,
        _ => panic!("the source must have {marker:?} on exactly one line:\n{source}"),
    }
}

/// The sources of a package with its tests, such as `plumbum-2.0.2`; they are where the frameworks are.
pub fn suite(name: &str) -> PathBuf {
    prepared("python/suites").join(name)
}

/// The directory with the node modules, or `None` (after saying so) where there is no node.
pub fn node() -> Option<PathBuf> {
    prepare();
    let modules = prepared("node").join("node_modules");
    if modules.exists() {
        return Some(modules);
    }
    eprintln!("no node here: passed over");
    None
}

/// Takes out of a command's environment whatever would make a Python, or the daemon, behave otherwise.
pub fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["DBGPROXY", "DEBUGPY", "PYDEVD", "PYTHON"]
            .iter()
            .any(|prefix| text.starts_with(prefix))
        {
            command.env_remove(&name);
        }
    }
    // The user's own cache is the user's.
    command.env("XDG_CACHE_HOME", prepared("cache"));
}

/// Runs the set-up, unless it has been run to the end as it is now.
fn prepare() {
    static PREPARED: OnceLock<()> = OnceLock::new();
    PREPARED.get_or_init(|| {
        if std::fs::read_to_string(prepared("python/ready")).is_ok_and(|stamp| stamp == SETUP) {
            return;
        }
        let output = std::process::Command::new(
            Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/setup.sh"),
        )
        .stdin(Stdio::null())
        .output()
        .expect("tests/setup.sh can be run");
        eprint!("{}", String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "tests/setup.sh: {}", output.status);
    });
}

/// Where the set-up puts things.
fn prepared(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target")
        .join(name)
}

/// A version as numbers, which compare as versions do.
fn numbers(version: &str) -> Vec<u32> {
    version
        .split('.')
        .map(|part| part.parse().unwrap_or(0))
        .collect()
}
