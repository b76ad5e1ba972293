//! The state file: the daemon's own breakpoints as they are kept over restarts, whole or not at all.
//!
//! This module knows no daemon: when the file is written is for the [`super::Store`] to say.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::Path;

use anyhow::{anyhow, bail};
use serde::{Deserialize, Serialize};

use super::store::MAX_STORED;
use super::stored::Stored;
#[cfg(unix)]
use crate::owner::current_uid;

/// What is in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct List {
    /// The last number that was given to one.
    #[serde(default)]
    pub(super) last_id: i64,
    /// The oldest first.
    pub(super) breakpoints: Vec<Stored>,
}

impl List {
    /// Reads the file; one that is not there is empty.
    pub(super) fn read(path: &Path) -> anyhow::Result<List> {
        let mut file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                // It could never be written either.
                let directory = directory(path);
                if !directory.is_dir() {
                    bail!("there is no directory {}", directory.display());
                }
                return Ok(List::default());
            }
            Err(error) => return Err(error.into()),
        };
        check_owner(&file.metadata()?)?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let mut list: List = serde_json::from_str(&text)?;
        if list.breakpoints.len() > MAX_STORED {
            bail!("it has more than {MAX_STORED} breakpoints");
        }
        let mut ids = Vec::new();
        for stored in &list.breakpoints {
            let id = stored.id;
            stored
                .check()
                .map_err(|error| anyhow!("breakpoint {id}: {error}"))?;
            if id < 1 || ids.contains(&id) {
                bail!("breakpoint {id}: not a number of its own, from 1 on");
            }
            ids.push(id);
            list.last_id = list.last_id.max(id);
        }
        Ok(list)
    }

    /// Writes the file whole or not at all, for nobody else's eyes.
    pub(super) fn write(&self, path: &Path) -> io::Result<()> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let new = directory(path).join(format!(".{name}.new"));
        // One that a daemon left that was killed while it wrote.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let written = create(&new).and_then(|mut file| {
            serde_json::to_writer_pretty(&mut file, self)?;
            file.write_all(b"\n")?;
            file.sync_all()?;
            fs::rename(&new, path)
        });
        if written.is_err() {
            // What is wrong has been found already.
            let _ = fs::remove_file(&new);
        }
        written
    }
}

/// Conditions are code that runs in the user's programs: nobody else may have written them.
#[cfg(unix)]
fn check_owner(file: &fs::Metadata) -> anyhow::Result<()> {
    use std::os::unix::fs::MetadataExt;
    let uid = file.uid();
    if uid != current_uid() && uid != 0 {
        bail!(
            "it belongs to the user with the uid {uid}, and may hold code that would run in your programs"
        );
    }
    if file.mode() & 0o002 != 0 {
        bail!(
            "everybody may write it, and what they write runs in your programs: chmod o-w it if it is what you left"
        );
    }
    Ok(())
}

#[cfg(not(unix))]
fn check_owner(_file: &fs::Metadata) -> anyhow::Result<()> {
    Ok(())
}

fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn directory(path: &Path) -> &Path {
    let parent = path.parent();
    parent
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::Store;
    #[cfg(unix)]
    use super::super::stored::tests::stored;

    #[cfg(unix)]
    #[test]
    fn the_file_is_nobody_elses() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        let left = directory.path().join(".state.json.new");
        fs::write(&left, "half").expect("it can be written");
        fs::write(&path, r#"{ "breakpoints": [] }"#).expect("it can be written");
        let store = Store::open(Some(&path)).expect("it can be read");
        store
            .add(stored(serde_json::json!({})))
            .expect("it is good");
        let mode = fs::metadata(&path)
            .expect("it is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
        assert!(!left.exists());
    }

    #[cfg(unix)]
    #[test]
    fn what_others_may_have_written_is_not_read() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        fs::write(&path, r#"{ "breakpoints": [] }"#).expect("it can be written");
        let open = |mode: u32| {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("it is ours");
            Store::open(Some(&path))
        };
        let error = open(0o666).expect_err("everybody may have written it");
        assert!(format!("{error:#}").contains("everybody"), "{error:#}");
        open(0o664).expect("a group is one's own affair");
    }

    #[test]
    fn a_file_that_is_of_no_use_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        let one = |more: &str| {
            format!(r#"{{"breakpoints": [{{"id": 1, "file": "/a.py", "line": 1{more}}}]}}"#)
        };
        for (text, why) in [
            ("", "EOF"),
            ("[]", ""),
            ("{}", "breakpoints"),
            (&one("")[..20], "EOF"),
            (&one(r#", "line": 2"#), "duplicate field"),
            (&one(r#", "sessions": "pid=x""#), "expected a number"),
            (
                &one(r#", "condition": "@{pid=x}""#),
                "breakpoint 1: \"condition\"",
            ),
            (
                &one(r#"}, {"id": 1, "file": "/a.py", "line": 2"#),
                "breakpoint 1: not a number of its own",
            ),
        ] {
            fs::write(&path, text).expect("it can be written");
            let error = Store::open(Some(&path)).expect_err(text);
            let error = format!("{error:#}");
            assert!(
                error.contains("state.json is of no use: mend it"),
                "{error}"
            );
            assert!(error.contains(why), "{text}: {error}");
        }
        let missing = directory.path().join("no").join("state.json");
        let error = Store::open(Some(&missing)).expect_err("there is no directory");
        assert!(
            format!("{error:#}").contains("there is no directory"),
            "{error:#}"
        );
    }
}
