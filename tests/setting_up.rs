//! What makes programs ready to be debugged: `env`, `setup`, `doctor` and `agent`, with real interpreters and no network.

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;
use support::python::clean;
use support::{Daemon, Ended, Program, Python};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::process::Command;

/// A home with nothing in it, as dbgproxy and pip see it.
struct Home(TempDir);

impl Home {
    fn new() -> Home {
        Home(TempDir::with_prefix("dbgproxy-home-").expect("a temporary directory"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// What is in the cache, in order.
    fn cached(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache/dbgproxy")).expect("the cache is there");
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<String> = names.collect();
        names.sort();
        names
    }

    /// A command of dbgproxy that finds this home, one interpreter, and no package index.
    fn command(&self, python: &Python, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_dbgproxy"));
        clean(&mut command);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PIP_") {
                command.env_remove(name);
            }
        }
        let path = format!(
            "{}:/usr/bin:/bin",
            python.executable.parent().unwrap().display()
        );
        command
            .env("HOME", self.0.path())
            .env("XDG_CACHE_HOME", self.path("cache"))
            .env("VIRTUAL_ENV", python.executable.ancestors().nth(2).unwrap())
            .env("PYENV_ROOT", self.path("pyenv"))
            .env("PATH", path)
            .env("PIP_CONFIG_FILE", "/dev/null")
            .env("PIP_INDEX_URL", "http://127.0.0.1:9")
            .current_dir(self.0.path())
            .args(arguments);
        command
    }

    async fn run(&self, python: &Python, arguments: &[&str]) -> Ended {
        Program::start(self.command(python, arguments)).wait().await
    }

    /// A virtual environment without debugpy and pip.
    async fn environment(&self, python: &Python) -> PathBuf {
        let path = self.path("environment");
        let mut command = python.command();
        command.args(["-m", "venv", "--without-pip"]).arg(&path);
        let ended = Program::start(command).wait().await;
        assert_eq!(ended.code, 0, "{ended:?}");
        path
    }

    /// A package that pip takes for a debugpy of this version.
    async fn wheel(&self, python: &Python, version: &str) {
        let code = "
import sys, zipfile
directory, version = sys.argv[1:]
info = 'debugpy-%s.dist-info/' % version
with zipfile.ZipFile('%s/debugpy-%s-py3-none-any.whl' % (directory, version), 'w') as wheel:
    wheel.writestr('debugpy/__init__.py', '')
    wheel.writestr(info + 'METADATA', 'Metadata-Version: 2.1\\nName: debugpy\\nVersion: %s\\n' % version)
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";
        fs::create_dir_all(self.path("wheels")).unwrap();
        let mut command = python.command();
        command
            .args(["-c", code])
            .arg(self.path("wheels"))
            .arg(version);
        let ended = Program::start(command).wait().await;
        assert_eq!(ended.code, 0, "{ended:?}");
    }
}

/// Whether the agent is loaded, as a Python says it that is started like this.
async fn is_loaded(executable: &Path, options: &[&str], variables: &[(&str, &str)]) -> bool {
    let mut command = Command::new(executable);
    clean(&mut command);
    command
        .envs(variables.iter().copied())
        .args(options)
        .args(["-c", "import sys; print('dbgproxy._agent' in sys.modules)"]);
    let ended = Program::start(command).wait().await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    ended.stdout == "True\n"
}

#[tokio::test]
async fn a_shell_takes_the_environment() {
    let python = Python::newest();
    let home = Home::new();
    let ended = home
        .run(
            python,
            &["env", "--shell", "json", "--connect", "127.0.0.1:9"],
        )
        .await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    let object: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(object["DBGPROXY"], "127.0.0.1:9");

    let program = env!("CARGO_BIN_EXE_dbgproxy");
    let script = format!("eval \"$({program} env --connect 127.0.0.1:9)\"; exec \"$@\"");
    let mut command = home.command(python, &[]);
    let mut shell = Command::new("sh");
    clean(&mut shell);
    for (name, value) in command.as_std().get_envs() {
        match value {
            Some(value) => shell.env(name, value),
            None => shell.env_remove(name),
        };
    }
    command = shell;
    let look = "import os, sys; print(os.environ['DBGPROXY'], sys.path[1], 'dbgproxy._agent' in sys.modules)";
    command
        .env("SHELL", "/bin/sh")
        .env("PYTHONPATH", "/it's one:/two")
        .args(["-c", &script, "sh"])
        .arg(&python.executable)
        .args(["-c", look]);
    let ended = Program::start(command).wait().await;
    let path = object["PYTHONPATH"].as_str().unwrap();
    assert_eq!(
        ended.stdout,
        format!("127.0.0.1:9 {path} True\n"),
        "{ended:?}"
    );
}

#[tokio::test]
async fn every_interpreter_loads_the_agent() {
    for python in Python::all() {
        eprintln!("{python}");
        let home = Home::new();
        let ended = home.run(python, &["env", "--shell", "json"]).await;
        let object: Value = serde_json::from_str(&ended.stdout).unwrap();
        let path = object["PYTHONPATH"].as_str().unwrap();
        let nobody = [("PYTHONPATH", path), ("DBGPROXY", "unix:/nowhere")];
        assert!(is_loaded(&python.executable, &[], &nobody).await);
        // Without that variable there is no agent.
        assert!(!is_loaded(&python.executable, &[], &nobody[..1]).await);
    }
}

#[tokio::test]
async fn many_unpack_at_once() {
    let python = Python::newest();
    let home = Home::new();
    let start = |_| Program::start(home.command(python, &["env", "--shell", "sh"]));
    let programs: Vec<Program> = (0..8).map(start).collect();
    let mut printed = Vec::new();
    for mut program in programs {
        let ended = program.wait().await;
        assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
        printed.push(ended.stdout);
    }
    printed.dedup();
    assert_eq!(printed.len(), 1);
    assert_eq!(home.cached().len(), 1, "{:?}", home.cached());
}

#[tokio::test]
async fn without_a_place_for_the_agent_it_says_what_to_do() {
    let python = Python::newest();
    let home = Home::new();
    fs::write(home.path("cache"), "in the way").unwrap();
    for arguments in [
        &["env"][..],
        &["run", "--listen", "127.0.0.1:0", "echo", "it ran"],
    ] {
        let ended = home.run(python, arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (1, ""), "{ended:?}");
        assert!(ended.stderr.contains("XDG_CACHE_HOME"), "{ended:?}");
    }
}

#[tokio::test]
async fn setup_offline_says_what_to_do_and_run_runs() {
    let python = Python::newest();
    let home = Home::new();
    let ended = home.run(python, &["setup"]).await;
    assert_eq!((ended.code, &*ended.stdout), (1, ""), "{ended:?}");
    assert!(ended.stderr.contains("pip cannot get debugpy"), "{ended:?}");
    assert!(ended.stderr.contains(".whl"), "{ended:?}");
    assert!(home.cached().is_empty(), "{:?}", home.cached());

    // One that has no debugpy of its own. It has no pip, too.
    let bare = home.environment(python).await.join("bin/python");
    let bare = bare.to_str().unwrap();
    for why in ["ensurepip", "has just failed"] {
        let arguments = [
            "run",
            "--listen",
            "127.0.0.1:0",
            "--",
            bare,
            "-c",
            "print(1)",
        ];
        let ended = home.run(python, &arguments).await;
        assert_eq!((ended.code, &*ended.stdout), (0, "1\n"), "{ended:?}");
        assert_eq!(ended.stderr.lines().count(), 2, "{ended:?}");
        assert!(
            ended.stderr.lines().next().unwrap().contains(why),
            "{ended:?}"
        );
    }
    // One that has its own is not held up.
    let own = python.executable.to_str().unwrap();
    let ended = home
        .run(
            python,
            &["run", "--listen", "127.0.0.1:0", own, "-c", "print(1)"],
        )
        .await;
    assert_eq!((ended.code, &*ended.stdout), (0, "1\n"), "{ended:?}");
    assert_eq!(ended.stderr.lines().count(), 1, "{ended:?}");
}

#[tokio::test]
async fn setup_gets_the_newest() {
    let python = Python::newest();
    let home = Home::new();
    let directory = format!("debugpy-{}", python.version);
    for version in ["9.9", "9.10", "9.10"] {
        home.wheel(python, version).await;
        let mut command = home.command(python, &["setup"]);
        command
            .env("PIP_NO_INDEX", "1")
            .env("PIP_FIND_LINKS", home.path("wheels"));
        // Settings for other installations.
        command
            .env("PIP_USER", "1")
            .env("PIP_REQUIRE_VIRTUALENV", "1");
        let ended = Program::start(command).wait().await;
        let place = home.path("cache/dbgproxy").join(&directory);
        let expected = format!(
            "Python {}: debugpy {version} in {}\n",
            python.version,
            place.display()
        );
        assert_eq!(
            (ended.code, ended.stdout, &*ended.stderr),
            (0, expected, "")
        );
        assert!(place.join("debugpy/__init__.py").exists());
        assert_eq!(home.cached(), [&*directory]);
    }
}

#[tokio::test]
async fn doctor_tells_what_is_there() {
    let python = Python::newest();
    let home = Home::new();
    let daemon = Daemon::start().await;
    let ended = home
        .run(
            python,
            &["doctor", "--json", "--connect", &daemon.connect()],
        )
        .await;
    assert_eq!((ended.code, &*ended.stderr), (0, ""), "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(report["ok"], true);
    let found = &report["interpreters"][0];
    let version = found["version"].as_str().unwrap();
    assert!(version.starts_with(&python.version), "{version}");
    assert_eq!(found["debugpy"], python.debugpy);
    assert_eq!(
        (&found["agent"], &found["isolated"]),
        (&true.into(), &false.into())
    );
    assert_eq!(report["port"]["state"], "daemon");
    assert_eq!(report["port"]["address"], daemon.connect());
    let text = home
        .run(python, &["doctor", "--connect", &daemon.connect()])
        .await;
    assert_eq!(text.code, 0, "{text:?}");
    assert!(text.stdout.contains(&python.debugpy), "{text:?}");

    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    tokio::spawn(async move { while taken.accept().await.is_ok() {} });
    let ended = home
        .run(python, &["doctor", "--json", "--connect", &address])
        .await;
    assert_eq!(ended.code, 1, "{ended:?}");
    let report: Value = serde_json::from_str(&ended.stdout).unwrap();
    assert_eq!(
        (&report["ok"], &report["port"]["state"]),
        (&false.into(), &"taken".into())
    );
    for finding in report["findings"].as_array().unwrap() {
        assert_ne!(finding["remedy"], "", "{finding}");
    }
}

#[tokio::test]
async fn what_is_to_be_watched_is_read_before_a_program_runs() {
    let python = Python::newest();
    let home = Home::new();
    let executable = python.executable.to_string_lossy();
    let run = ["run", "--listen", "127.0.0.1:0", "--", &executable];
    let run = [&run[..], &["-c", "print('well')"]].concat();
    let env = ["env", "--shell", "json"];
    let doctor = ["doctor", "--connect", "127.0.0.1:9"];
    for (value, is_amiss) in [("lock", true), ("locks,tasks+", false)] {
        for arguments in [&run[..], &env, &doctor] {
            let mut command = home.command(python, arguments);
            command.env("DBGPROXY_MONITOR", value);
            let ended = Program::start(command).wait().await;
            assert_eq!(ended.code, 0, "{ended:?}");
            let said = ended.stdout.clone() + &ended.stderr;
            let why = "DBGPROXY_MONITOR says `lock`, which means nothing: it may be tasks, tasks+, locks, off";
            assert_eq!(said.contains(why), is_amiss, "{ended:?}");
            if arguments == run {
                assert_eq!(ended.stdout, "well\n");
            }
        }
    }
}

#[tokio::test]
async fn the_agent_is_loaded_by_a_line_among_the_packages() {
    for python in Python::all() {
        eprintln!("{python}");
        let home = Home::new();
        let environment = home.environment(python).await;
        let executable = environment.join("bin/python");
        let into = environment.to_str().unwrap();
        let wanted = [("DBGPROXY", "unix:/nowhere")];
        assert!(!is_loaded(&executable, &["-I"], &wanted).await);

        let ended = home
            .run(python, &["agent", "install", "--into", into])
            .await;
        assert_eq!(ended.code, 0, "{ended:?}");
        assert!(
            ended.stdout.trim().ends_with("site-packages/dbgproxy.pth"),
            "{ended:?}"
        );
        assert!(is_loaded(&executable, &[], &wanted).await);
        assert!(is_loaded(&executable, &["-I"], &wanted).await);
        assert!(!is_loaded(&executable, &["-I"], &[]).await);

        // Nothing happens where the agent is gone.
        fs::rename(home.path("cache"), home.path("elsewhere")).unwrap();
        assert!(!is_loaded(&executable, &["-I"], &wanted).await);
        fs::rename(home.path("elsewhere"), home.path("cache")).unwrap();

        for code in [0, 1] {
            let ended = home
                .run(python, &["agent", "uninstall", "--into", into])
                .await;
            assert_eq!(ended.code, code, "{ended:?}");
        }
        assert!(!is_loaded(&executable, &["-I"], &wanted).await);
    }
}
