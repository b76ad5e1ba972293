//! `dbgproxy env`: the environment in which every Python becomes a session, in the words of a shell.
//!
//! It asks no daemon: programs look for one themselves, whenever it comes.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{self, IsTerminal};
use std::path::Path;

use anyhow::{anyhow, bail};
use serde_json::{Map, Value};

use super::http::Daemon;
use super::{Failure, amiss, put, talk};
use crate::agent::package;
use crate::config::Address;

/// The arguments of `env`.
#[derive(Debug, clap::Args)]
pub struct Env {
    /// In whose words [default: those of $SHELL, else sh]
    #[arg(long, value_name = "SHELL")]
    pub shell: Option<Shell>,

    /// Whom the programs are to find.
    #[command(flatten)]
    pub daemon: Daemon,
}

/// How a variable is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Shell {
    /// For `eval` in sh, bash, zsh and the like
    Sh,
    /// For `source` in fish
    Fish,
    /// For `Invoke-Expression` in PowerShell
    Powershell,
    /// A file of variables, as editors and test runners read it
    Dotenv,
    /// One object of variable and value
    Json,
}

impl Env {
    pub(super) fn run(self) -> Result<(), Failure> {
        let shell = self
            .shell
            .unwrap_or_else(|| Shell::of(env::var_os("SHELL").as_deref()));
        let directory = package::unpack()?;
        let path = env::var_os("PYTHONPATH");
        let variables = environment(&self.daemon.address, &directory, path.as_deref())?;
        if let Some(why) = amiss() {
            talk(format_args!("dbgproxy: {why}"));
        }
        put(shell.write(&variables)?)?;
        if io::stdout().is_terminal() {
            let how = match shell {
                Shell::Sh => "to set it in this shell: eval \"$(dbgproxy env)\"",
                Shell::Fish => "to set it in this shell: dbgproxy env | source",
                Shell::Powershell => {
                    "to set it in this shell: dbgproxy env | Out-String | Invoke-Expression"
                }
                Shell::Dotenv | Shell::Json => return Ok(()),
            };
            talk(format_args!("dbgproxy: {how}"));
        }
        Ok(())
    }
}

/// What to set so that every Python below finds the agent and the daemon; `path` is the present `PYTHONPATH`.
pub(super) fn environment(
    address: &Address,
    agent: &Path,
    path: Option<&OsStr>,
) -> anyhow::Result<Vec<(&'static str, OsString)>> {
    let address = match address {
        // The program may be in another directory when it looks.
        Address::Unix(socket) => Address::Unix(std::path::absolute(socket)?),
        Address::Tcp(_) => address.clone(),
    };
    Ok(vec![
        ("DBGPROXY", address.to_string().into()),
        ("PYTHONPATH", in_front(agent, path)?),
        // Without it, debugpy warns on stderr that it may miss breakpoints in the standard library.
        ("PYDEVD_DISABLE_FILE_VALIDATION", "1".into()),
    ])
}

/// The path with the agent's directory in front, once.
fn in_front(agent: &Path, path: Option<&OsStr>) -> anyhow::Result<OsString> {
    let agent = agent.as_os_str();
    if agent.as_encoded_bytes().contains(&b':') {
        bail!(
            "the agent is in {}, and PYTHONPATH cannot name a directory with a colon: set XDG_CACHE_HOME to \
             another one",
            agent.display()
        );
    }
    let mut whole = agent.to_owned();
    // An empty PYTHONPATH is none; an empty part of one is the working directory.
    for part in path
        .filter(|path| !path.is_empty())
        .into_iter()
        .flat_map(env::split_paths)
        .filter(|part| part.as_os_str() != agent)
    {
        whole.push(":");
        whole.push(part);
    }
    Ok(whole)
}

impl Shell {
    /// The words of the user's shell.
    fn of(shell: Option<&OsStr>) -> Shell {
        let name = shell.and_then(|path| Path::new(path).file_name());
        match name.and_then(OsStr::to_str) {
            Some("fish") => Shell::Fish,
            Some("pwsh" | "powershell") => Shell::Powershell,
            _ => Shell::Sh,
        }
    }

    fn write(self, variables: &[(&'static str, OsString)]) -> anyhow::Result<String> {
        let mut text = String::new();
        let mut object = Map::new();
        for (name, value) in variables {
            let value = value.to_str().ok_or_else(|| {
                anyhow!(
                    "{name} is {}, which is not valid Unicode; `dbgproxy run` can do with it",
                    value.display()
                )
            })?;
            let line = match self {
                Shell::Sh => format!("export {name}={}\n", quote_sh(value)),
                Shell::Fish => format!("set -gx {name} {}\n", quote_fish(value)),
                Shell::Powershell => format!("$env:{name} = {}\n", quote_powershell(value)),
                Shell::Dotenv => format!("{name}={}\n", quote_dotenv(value)),
                Shell::Json => {
                    object.insert((*name).to_owned(), value.into());
                    continue;
                }
            };
            text.push_str(&line);
        }
        if self == Shell::Json {
            text = format!("{:#}\n", Value::Object(object));
        }
        Ok(text)
    }
}

fn quote_sh(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn quote_fish(text: &str) -> String {
    format!("'{}'", text.replace('\\', r"\\").replace('\'', r"\'"))
}

fn quote_powershell(text: &str) -> String {
    let mut quoted = String::from("'");
    for letter in text.chars() {
        // To PowerShell the typographic ones end the text as well.
        if matches!(letter, '\'' | '\u{2018}'..='\u{201b}') {
            quoted.push(letter);
        }
        quoted.push(letter);
    }
    quoted + "'"
}

/// There is no standard; this is what all readers understand, as far as they can say such a thing at all.
fn quote_dotenv(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_./:@%+,=-".contains(&byte);
    if text.bytes().all(is_plain) {
        return text.to_owned();
    }
    if !text.contains(['\'', '\n', '\r', '\\']) {
        return format!("'{text}'");
    }
    let text = text.replace('\\', r"\\").replace('"', "\\\"");
    let text = text.replace('$', r"\$").replace('\n', r"\n");
    format!("\"{}\"", text.replace('\r', r"\r"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    fn variables(value: &str) -> Vec<(&'static str, OsString)> {
        vec![("DBGPROXY", "x:1".into()), ("PYTHONPATH", value.into())]
    }

    #[test]
    fn what_is_set() {
        let address = "127.0.0.1:5678".parse().unwrap();
        let set = environment(&address, Path::new("/c/agent"), None).unwrap();
        let expected = [
            ("DBGPROXY", "127.0.0.1:5678"),
            ("PYTHONPATH", "/c/agent"),
            ("PYDEVD_DISABLE_FILE_VALIDATION", "1"),
        ];
        let expected: Vec<_> = expected.map(|(name, value)| (name, value.into())).into();
        assert_eq!(set, expected);
        let relative = "unix:x.sock".parse().unwrap();
        let set = environment(&relative, Path::new("/c/agent"), None).unwrap();
        let here = env::current_dir().unwrap().join("x.sock");
        assert_eq!(set[0].1, *format!("unix:{}", here.display()));
    }

    #[test]
    fn in_front_of_the_path_once() {
        for (path, expected) in [
            ("", "/a"),
            ("/b", "/a:/b"),
            ("/b:/c", "/a:/b:/c"),
            ("/a:/b", "/a:/b"),
            ("/b:/a:/a", "/a:/b"),
            ("/a", "/a"),
            // The working directory stays where it was.
            ("/b:", "/a:/b:"),
            (":/b", "/a::/b"),
        ] {
            let found = in_front(Path::new("/a"), Some(OsStr::new(path))).unwrap();
            assert_eq!(found, expected, "{path}");
        }
        assert_eq!(in_front(Path::new("/a"), None).unwrap(), "/a");
        let error = in_front(Path::new("/a:b"), None).unwrap_err().to_string();
        assert!(error.contains("XDG_CACHE_HOME"), "{error}");
    }

    #[test]
    fn the_users_shell() {
        for (shell, expected) in [
            (None, Shell::Sh),
            (Some(""), Shell::Sh),
            (Some("/bin/zsh"), Shell::Sh),
            (Some("/usr/bin/fish"), Shell::Fish),
            (Some("/opt/pwsh"), Shell::Powershell),
        ] {
            assert_eq!(Shell::of(shell.map(OsStr::new)), expected, "{shell:?}");
        }
    }

    #[test]
    fn each_shell_has_its_words() {
        let text = |shell: Shell| {
            shell
                .write(&variables("/a b:it's \\ \"$x\" \u{2019}"))
                .unwrap()
        };
        let lines = |first: &str, second: &str| format!("{first}\n{second}\n");
        assert_eq!(
            text(Shell::Fish),
            lines(
                "set -gx DBGPROXY 'x:1'",
                r#"set -gx PYTHONPATH '/a b:it\'s \\ "$x" ’'"#
            )
        );
        assert_eq!(
            text(Shell::Powershell),
            lines(
                "$env:DBGPROXY = 'x:1'",
                r#"$env:PYTHONPATH = '/a b:it''s \ "$x" ’’'"#
            )
        );
        assert_eq!(
            text(Shell::Dotenv),
            lines("DBGPROXY=x:1", r#"PYTHONPATH="/a b:it's \\ \"\$x\" ’""#)
        );
        let spaced = Shell::Dotenv.write(&variables("/a b")).unwrap();
        assert_eq!(spaced, lines("DBGPROXY=x:1", "PYTHONPATH='/a b'"));
        let object: Value = serde_json::from_str(&text(Shell::Json)).unwrap();
        assert_eq!(object["PYTHONPATH"], "/a b:it's \\ \"$x\" \u{2019}");
        assert_eq!(object["DBGPROXY"], "x:1");
    }

    #[cfg(unix)]
    #[test]
    fn what_is_not_unicode_is_refused() {
        use std::os::unix::ffi::OsStrExt;
        let value = OsStr::from_bytes(b"/a:/\xff").to_owned();
        let error = Shell::Sh.write(&[("PYTHONPATH", value)]).unwrap_err();
        assert!(error.to_string().contains("PYTHONPATH"), "{error}");
    }

    proptest! {
        // Each case starts a shell.
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn sh_reads_what_was_written(value in "[^\0]{0,40}") {
            let mut script = Shell::Sh.write(&variables(&value)).unwrap();
            script.push_str("printf %s \"$PYTHONPATH\"");
            let output = Command::new("sh").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(String::from_utf8(output.stdout).unwrap(), value);
            prop_assert_eq!(output.stderr, b"");
        }
    }
}
