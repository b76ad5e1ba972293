//! Interpreters: where they are, what they are like, and a copy of debugpy for those that have none.
//!
//! An interpreter is asked by running it, because nothing else knows what it will do; each question has a time limit.

use std::collections::HashSet;
use std::env;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use serde::Deserialize;
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cache::{self, Scratch};

/// How long an interpreter may take for an answer: from a slow disk it takes seconds to start.
pub(super) const ANSWER_WAIT: Duration = Duration::from_secs(10);

/// How many interpreters are looked at; further ones are not found.
const MAX_INTERPRETERS: usize = 48;

/// How many interpreters run at the same time while they are looked at.
const AT_ONCE: usize = 4;

/// The CPython versions that the agent and debugpy are made for.
const SUPPORTED: std::ops::RangeInclusive<(u32, u32)> = (3, 8)..=(3, 14);

/// Asks an interpreter, in words that any version understands, and prints the answer as the last line.
const QUESTION: &str = include_str!("python/question.py");

/// What an interpreter says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(super) struct Interpreter {
    /// What was started.
    #[serde(skip)]
    pub(super) path: PathBuf,
    /// As in `[3, 11, 7]`.
    version: (u32, u32, u32),
    /// As in `CPython`.
    implementation: String,
    /// Its environment's directory.
    prefix: PathBuf,
    /// Where its packages are installed.
    pub(super) packages: PathBuf,
    /// The version of its own debugpy, empty if that cannot be told.
    pub(super) debugpy: Option<String>,
}

/// A copy of debugpy in the user's cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Copy {
    pub(super) directory: PathBuf,
    pub(super) version: String,
}

impl Interpreter {
    /// Asks the interpreter at `path`.
    ///
    /// # Errors
    /// It does not run, or is no Python.
    pub(super) async fn at(path: &Path) -> anyhow::Result<Interpreter> {
        let mut command = Command::new(path);
        // The agent is not to be asked.
        command.args(["-c", QUESTION]).env_remove("DBGPROXY");
        let output = run(&mut command, ANSWER_WAIT)
            .await
            .with_context(|| format!("cannot run {}", path.display()))?;
        let answer = String::from_utf8_lossy(&output.stdout);
        let answer = answer.lines().last().unwrap_or_default();
        let Ok(interpreter) = serde_json::from_str(answer) else {
            bail!(
                "{} does not answer as a Python does: {}",
                path.display(),
                last_words(&output)
            );
        };
        Ok(Interpreter {
            path: path.to_owned(),
            ..interpreter
        })
    }

    /// As in `3.11.7`.
    pub(super) fn version(&self) -> String {
        let (major, minor, patch) = self.version;
        format!("{major}.{minor}.{patch}")
    }

    /// Whether the agent and debugpy are made for it, or why not.
    pub(super) fn supported(&self) -> Result<(), String> {
        let (major, minor, _) = self.version;
        if self.implementation == "CPython" && SUPPORTED.contains(&(major, minor)) {
            return Ok(());
        }
        let ((first, oldest), (last, newest)) = (*SUPPORTED.start(), *SUPPORTED.end());
        Err(format!(
            "it is {} {}, and dbgproxy is made for CPython {first}.{oldest} to {last}.{newest}",
            self.implementation,
            self.version()
        ))
    }

    /// Where the cache has a copy of debugpy for it, if it has one.
    fn place(&self) -> anyhow::Result<PathBuf> {
        let (major, minor, _) = self.version;
        Ok(cache::directory()?.join(format!("debugpy-{major}.{minor}")))
    }

    /// The cache's copy of debugpy for it.
    pub(super) fn copy(&self) -> Option<Copy> {
        Copy::at(&self.place().ok()?)
    }

    /// The file that tells of an installation that has failed: it is there for as long as that one would be
    /// repeated in vain.
    pub(super) fn failure_file(&self) -> anyhow::Result<PathBuf> {
        let (major, minor, _) = self.version;
        Ok(cache::directory()?.join(format!("debugpy-{major}.{minor}.failed")))
    }

    /// Installs the newest debugpy that it supports into the cache.
    ///
    /// # Errors
    /// It has no pip, the package cannot be had within `wait`, or the cache cannot be written: says what to do.
    pub(super) async fn install(&self, wait: Duration) -> anyhow::Result<Copy> {
        self.supported().map_err(|why| anyhow!(why))?;
        cache::prepare()?;
        let place = self.place()?;
        let scratch = Scratch::beside(&place)?;
        let mut command = Command::new(&self.path);
        command
            .args(["-m", "pip", "install", "--quiet", "--no-input"])
            .args(["--no-deps", "--disable-pip-version-check"])
            // What is offline is so at the second attempt too.
            .args(["--retries", "1", "--target"])
            .arg(scratch.path())
            .arg("debugpy")
            .env_remove("DBGPROXY")
            // A user's settings for other installations would contradict --target.
            .env("PIP_USER", "0")
            .env("PIP_REQUIRE_VIRTUALENV", "0");
        let path = self.path.display();
        let output = run(&mut command, wait)
            .await
            .with_context(|| format!("`{path} -m pip install debugpy` has not come to an end"))?;
        if !output.status.success() {
            let words = last_words(&output);
            if words.contains("No module named pip") {
                bail!(
                    "{path} has no pip: get it one with `{path} -m ensurepip`, or install debugpy where the \
                     program runs"
                );
            }
            bail!(
                "pip cannot get debugpy ({words}): try again when the network is there, or install a wheel \
                 with `{path} -m pip install --no-deps --target {} debugpy-….whl`",
                place.display()
            );
        }
        let new = Copy::at(scratch.path())
            .ok_or_else(|| anyhow!("pip has said that it installed debugpy, and has not"))?;
        let version = new.version;
        let is_same = |place: &Path| Copy::at(place).is_some_and(|copy| copy.version == version);
        scratch.replace(&place, is_same)?;
        // It was of an earlier attempt, if it is there at all.
        let _ = fs::remove_file(self.failure_file()?);
        Ok(Copy {
            directory: place,
            version,
        })
    }
}

impl Copy {
    /// The copy in a directory, if there is a whole one.
    fn at(directory: &Path) -> Option<Copy> {
        // pip writes this last.
        let version = fs::read_dir(directory).ok()?.flatten().find_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let version = name.strip_prefix("debugpy-")?.strip_suffix(".dist-info")?;
            Some(version.to_owned())
        })?;
        directory
            .join("debugpy/__init__.py")
            .is_file()
            .then(|| Copy {
                directory: directory.to_owned(),
                version,
            })
    }
}

/// The interpreter that a command starts, as far as one can see: its first word, else `python3`.
pub(super) fn of_command(first: &OsStr) -> Option<PathBuf> {
    let name = Path::new(first).file_name()?;
    if name.as_encoded_bytes().starts_with(b"python") {
        return which(first);
    }
    which(OsStr::new("python3"))
}

/// The interpreter that is meant where none is named: the active virtual environment's, else `python3`.
pub(super) fn default() -> anyhow::Result<PathBuf> {
    let environment = env::var_os("VIRTUAL_ENV").map(|path| Path::new(&path).join("bin/python"));
    environment
        .filter(|path| is_executable(path))
        .or_else(|| which(OsStr::new("python3")))
        .ok_or_else(|| {
            anyhow!("there is no python3 on PATH; name an interpreter with --python PATH")
        })
}

/// The file that a shell would start for a word.
pub(super) fn which(word: &OsStr) -> Option<PathBuf> {
    if word.as_encoded_bytes().contains(&b'/') {
        let path = PathBuf::from(word);
        return is_executable(&path).then_some(path);
    }
    let path = env::var_os("PATH")?;
    env::split_paths(&path)
        .map(|directory| directory.join(word))
        .find(|path| is_executable(path))
}

fn is_executable(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}

/// Every interpreter of this machine that is easily found, each once: the active environment's, those on PATH, pyenv's.
/// One that does not run is there as the reason.
pub(super) async fn find() -> Vec<anyhow::Result<Interpreter>> {
    let home = env::home_dir();
    let candidates = candidates(
        env::var_os("VIRTUAL_ENV").map(PathBuf::from),
        env::var_os("PATH").iter().flat_map(env::split_paths),
        env::var_os("PYENV_ROOT")
            .map(PathBuf::from)
            .or_else(|| home.map(|home| home.join(".pyenv"))),
    );
    let ask = |path: PathBuf| async move { Interpreter::at(&path).await };
    let mut asked = each(candidates, ask).await;
    let mut known = HashSet::new();
    asked.retain(|answer| match answer {
        // One environment has many names for its interpreter.
        Ok(found) => known.insert((found.prefix.clone(), found.version)),
        Err(_) => true,
    });
    asked
}

/// Does something with each of many interpreters, a few of them at a time.
pub(super) async fn each<I, O, F>(items: Vec<I>, work: impl Fn(I) -> F) -> Vec<O>
where
    O: Send + 'static,
    F: Future<Output = O> + Send + 'static,
{
    let mut done = Vec::new();
    let mut items = items.into_iter().peekable();
    while items.peek().is_some() {
        let mut tasks = JoinSet::new();
        for (number, item) in items.by_ref().take(AT_ONCE).enumerate() {
            let work = work(item);
            tasks.spawn(async move { (number, work.await) });
        }
        let mut some = tasks.join_all().await;
        some.sort_by_key(|(number, _)| *number);
        done.extend(some.into_iter().map(|(_, output)| output));
    }
    done
}

/// Paths of what may be interpreters, the likeliest first.
fn candidates(
    environment: Option<PathBuf>,
    path: impl Iterator<Item = PathBuf>,
    pyenv: Option<PathBuf>,
) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = environment.into_iter().map(|at| at.join("bin")).collect();
    // The shims of pyenv are in front of other interpreters, which are found by themselves.
    directories.extend(path.filter(|directory| !directory.ends_with("shims")));
    let versions = pyenv.and_then(|root| fs::read_dir(root.join("versions")).ok());
    let mut versions: Vec<PathBuf> = versions
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path().join("bin"))
        .collect();
    versions.sort();
    directories.extend(versions);
    let mut known = HashSet::new();
    let mut found = Vec::new();
    for directory in directories {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let mut paths: Vec<PathBuf> = entries
            .filter(|entry| is_interpreter(&entry.file_name()))
            .map(|entry| entry.path())
            .filter(|path| is_executable(path))
            .collect();
        paths.sort();
        for path in paths {
            // In one directory, `python3` and `python3.11` are one; in another it may be a virtual environment.
            let target = fs::canonicalize(&path).unwrap_or_else(|_| path.clone());
            if known.insert((directory.clone(), target)) {
                found.push(path);
            }
        }
    }
    found.truncate(MAX_INTERPRETERS);
    found
}

/// `python3`, `python3.11`, and the `python` of a virtual environment.
fn is_interpreter(name: &OsStr) -> bool {
    let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("python")) else {
        return false;
    };
    let minor = rest.strip_prefix("3.").unwrap_or("0");
    (rest.is_empty() || rest.starts_with('3'))
        && (rest.len() <= 1 || rest.starts_with("3."))
        && !minor.is_empty()
        && minor.bytes().all(|byte| byte.is_ascii_digit())
}

/// What a command prints; it is killed after `wait`.
pub(super) async fn run(command: &mut Command, wait: Duration) -> anyhow::Result<Output> {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = timeout(wait, command.output());
    match output.await {
        Ok(output) => Ok(output?),
        Err(_) => bail!("it has not ended after {} s", wait.as_secs()),
    }
}

/// The line in which a program says why it failed.
pub(super) fn last_words(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let last = lines.clone().next_back();
    // pip says other things after it.
    match lines.rfind(|line| line.starts_with("ERROR:")).or(last) {
        Some(line) => line.trim_start_matches("ERROR: ").to_owned(),
        None => output.status.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn names_of_interpreters() {
        for name in ["python", "python3", "python3.8", "python3.14"] {
            assert!(is_interpreter(OsStr::new(name)), "{name}");
        }
        for name in [
            "python2",
            "python3-config",
            "python3.11-config",
            "python3.",
            "python3.13t",
            "pythonw",
            "python31",
            "ipython3",
        ] {
            assert!(!is_interpreter(OsStr::new(name)), "{name}");
        }
    }

    fn executable(path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "#!/bin/sh\n").unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    #[test]
    fn where_interpreters_are() {
        let root = tempfile::tempdir().unwrap();
        let at = |path: &str| root.path().join(path);
        executable(&at("usr/python3.11"));
        symlink(at("usr/python3.11"), at("usr/python3")).unwrap();
        executable(&at("usr/python3-config"));
        fs::write(at("usr/python3.12"), "not executable").unwrap();
        fs::create_dir_all(at("venv/bin")).unwrap();
        symlink(at("usr/python3.11"), at("venv/bin/python")).unwrap();
        executable(&at("pyenv/versions/3.9.1/bin/python3"));
        executable(&at("pyenv/shims/python3"));
        let found = candidates(
            Some(at("venv")),
            [at("pyenv/shims"), at("gone"), at("usr")].into_iter(),
            Some(at("pyenv")),
        );
        let expected = [
            "venv/bin/python",
            "usr/python3",
            "pyenv/versions/3.9.1/bin/python3",
        ];
        assert_eq!(found, expected.map(at));
        for number in 0..MAX_INTERPRETERS {
            executable(&at(&format!("many/python3.{number}")));
        }
        let found = candidates(Some(at("venv")), [at("many")].into_iter(), None);
        assert_eq!(found.len(), MAX_INTERPRETERS);
    }

    #[test]
    fn which_versions() {
        let interpreter = |implementation: &str, version| Interpreter {
            path: "/p".into(),
            version,
            implementation: implementation.into(),
            prefix: "/".into(),
            packages: "/".into(),
            debugpy: None,
        };
        for version in [(3, 8, 0), (3, 11, 7), (3, 14, 2)] {
            assert_eq!(interpreter("CPython", version).supported(), Ok(()));
        }
        for (implementation, version) in [
            ("CPython", (3, 7, 16)),
            ("CPython", (2, 7, 18)),
            ("CPython", (3, 15, 0)),
            ("PyPy", (3, 11, 0)),
        ] {
            let why = interpreter(implementation, version)
                .supported()
                .unwrap_err();
            assert!(why.contains("CPython 3.8 to 3.14"), "{why}");
        }
    }

    #[test]
    fn a_copy_is_whole_or_none() {
        let directory = tempfile::tempdir().unwrap();
        let at = |path: &str| directory.path().join(path);
        assert_eq!(Copy::at(directory.path()), None);
        fs::create_dir(at("debugpy")).unwrap();
        fs::write(at("debugpy/__init__.py"), "").unwrap();
        assert_eq!(Copy::at(directory.path()), None);
        fs::create_dir(at("debugpy-1.8.22.dist-info")).unwrap();
        assert_eq!(Copy::at(directory.path()).unwrap().version, "1.8.22");
        fs::remove_file(at("debugpy/__init__.py")).unwrap();
        assert_eq!(Copy::at(directory.path()), None);
    }

    #[tokio::test]
    async fn what_is_no_python_is_told_by_its_words() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("python3");
        executable(&path);
        fs::write(&path, "#!/bin/sh\necho 'no version is set' >&2\nexit 127\n").unwrap();
        let error = Interpreter::at(&path).await.unwrap_err().to_string();
        assert!(error.ends_with(": no version is set"), "{error}");
        let error = Interpreter::at(&directory.path().join("gone")).await;
        assert!(format!("{:#}", error.unwrap_err()).contains("cannot run"));
    }
}
