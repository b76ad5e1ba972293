//! The daemon's own breakpoints: for every process, now and later, whether or not somebody watches it.
//!
//! They may be kept in a file over restarts. A breakpoint in the list never changes: it comes and goes, and its
//! number is not used again.
//! This module knows no session; those who apply the list read it anew whenever they are told that it has changed.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::{Breakpoint, normalized, scope};
#[cfg(unix)]
use crate::owner::current_uid;
use crate::selector::{Selector, Subject};

/// The most breakpoints that are stored; a further one is refused.
pub const MAX_STORED: usize = 1024;

/// The most bytes that each text of a stored breakpoint may have; a longer one is refused.
pub const MAX_TEXT: usize = 16 * 1024;

/// A breakpoint of the daemon itself, as it is listed and kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Stored {
    /// Its number, from 1 on.
    pub id: i64,
    /// An absolute path, as the processes know it.
    pub file: String,
    /// Its line, from 1 on.
    pub line: i64,
    /// When it holds; it may begin with a scope, `@{SELECTOR}`.
    #[serde(default)]
    pub condition: Option<String>,
    /// How often it is passed before it stops.
    #[serde(default)]
    pub hit_condition: Option<String>,
    /// What is logged instead of stopping.
    #[serde(default)]
    pub log_message: Option<String>,
    /// In which sessions it holds.
    #[serde(default)]
    pub sessions: Selector,
    /// Whether it is gone as soon as one process has hit it.
    #[serde(default)]
    pub once: bool,
    /// Whether a process has set it in itself: it goes with that, and is kept in no file.
    #[serde(skip)]
    pub is_own: bool,
}

/// What it means that a process has hit a stored breakpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hit {
    /// It stands, and the process stops.
    Stands,
    /// It was there for one process, and it is this one: what is stored for the file has changed.
    Taken(String),
    /// It is there no more: another process has taken it, or somebody has removed it.
    Gone,
}

/// The breakpoints of the daemon itself.
#[derive(Debug, Default)]
pub struct Store {
    list: Mutex<List>,
    /// Where they are kept, if anywhere.
    state: Option<PathBuf>,
    /// Held from the decision on a change until it is in the file: what is written last is the newest.
    writing: Mutex<()>,
}

/// What is in the file.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    /// The last number that was given to one.
    #[serde(default)]
    last_id: i64,
    breakpoints: Vec<Stored>,
}

impl Stored {
    /// Whether it can be one.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let texts = [
            ("file", Some(&self.file)),
            ("condition", self.condition.as_ref()),
            ("hitCondition", self.hit_condition.as_ref()),
            ("logMessage", self.log_message.as_ref()),
        ];
        for (name, text) in texts {
            if text.is_some_and(|text| text.len() > MAX_TEXT) {
                return Err(format!("\"{name}\" is longer than {MAX_TEXT} bytes"));
            }
        }
        if !is_absolute(&self.file) {
            return Err(format!(
                "\"file\" must be an absolute path, as the program knows it, and {:?} is none",
                self.file
            ));
        }
        if self.line < 1 {
            return Err(format!("\"line\" counts from 1, and {} is none", self.line));
        }
        if self.once && self.log_message.is_some() {
            return Err("a log point stops no process, so none can take it with \"once\"".into());
        }
        // The one parser says it, with the place; a state in it would be wrong from the next moment on.
        Selector::of_breakpoint(&self.sessions.to_string())
            .map_err(|error| format!("\"sessions\": {error}"))?;
        scope::read(self.condition.as_deref().unwrap_or_default())
            .map_err(|error| format!("\"condition\": {error}"))?;
        Ok(())
    }

    /// Whether it holds in a session.
    #[must_use]
    pub fn holds_in(&self, session: &Subject<'_>) -> bool {
        let mut breakpoint = self.breakpoint();
        breakpoint.hold_in(session);
        breakpoint.withheld.is_none()
    }

    /// What a session makes of it.
    pub(super) fn breakpoint(&self) -> Breakpoint {
        let mut breakpoint = Breakpoint {
            id: self.id,
            scope: None,
            withheld: None,
            is_announced: true,
            line: Some(self.line),
            name: None,
            condition: self.condition.clone(),
            hit_condition: self.hit_condition.clone(),
            log_message: self.log_message.clone(),
            other: Map::new(),
        };
        breakpoint.read_scope();
        let scope = breakpoint.scope.take().unwrap_or_default();
        breakpoint.scope = Some(self.sessions.clone().and(scope)).filter(|scope| !scope.is_all());
        breakpoint
    }
}

/// Whether a path is absolute for the system that the process runs on, whichever that is.
fn is_absolute(path: &str) -> bool {
    let mut characters = path.chars();
    match (characters.next(), characters.next(), characters.next()) {
        (Some('/'), ..) | (Some('\\'), Some('\\'), _) => true,
        (Some(drive), Some(':'), Some('\\' | '/')) => drive.is_ascii_alphabetic(),
        _ => false,
    }
}

impl Store {
    /// The breakpoints of a state file, in which all changes will be kept. A file that is not there is empty.
    ///
    /// # Errors
    /// The file cannot be read, and what to do.
    pub fn open(state: Option<&Path>) -> anyhow::Result<Store> {
        let Some(path) = state else {
            return Ok(Store::default());
        };
        let list = read(path).with_context(|| {
            format!(
                "the state file {} is of no use: mend it, or remove it and what it keeps, or name another with --state",
                path.display()
            )
        })?;
        Ok(Store {
            list: Mutex::new(list),
            state: Some(path.to_owned()),
            writing: Mutex::default(),
        })
    }

    /// All of them, the oldest first.
    #[must_use]
    pub fn all(&self) -> Vec<Stored> {
        lock(&self.list).breakpoints.clone()
    }

    /// All of them, by file.
    #[must_use]
    pub fn by_file(&self) -> BTreeMap<String, Vec<Stored>> {
        let mut files: BTreeMap<String, Vec<Stored>> = BTreeMap::new();
        for stored in self.all() {
            files.entry(stored.file.clone()).or_default().push(stored);
        }
        files
    }

    /// Those of one file.
    #[must_use]
    pub fn of(&self, file: &str) -> Vec<Stored> {
        let list = lock(&self.list);
        let of_file = list.breakpoints.iter();
        of_file
            .filter(|stored| stored.file == file)
            .cloned()
            .collect()
    }

    /// Adds one under a number of its own. It waits for the disk.
    ///
    /// # Errors
    /// It is wrong, there are too many, or it cannot be kept; nothing has changed then.
    pub fn add(&self, new: Stored) -> Result<Stored, String> {
        new.check()?;
        let file = normalized(&new.file);
        self.change(|list| {
            if list.breakpoints.len() >= MAX_STORED {
                return Err(format!(
                    "{MAX_STORED} breakpoints are stored, and there is no room for more; remove some"
                ));
            }
            list.last_id += 1;
            let stored = Stored {
                id: list.last_id,
                file: file.clone(),
                ..new.clone()
            };
            list.breakpoints.push(stored.clone());
            Ok(stored)
        })
    }

    /// Removes one, or all of them, and gives what was removed. It waits for the disk.
    ///
    /// # Errors
    /// The change cannot be kept; nothing has changed then.
    pub fn remove(&self, id: Option<i64>) -> Result<Vec<Stored>, String> {
        self.change(|list| {
            let all = std::mem::take(&mut list.breakpoints).into_iter();
            let (removed, left) = all.partition(|stored| id.is_none_or(|id| stored.id == id));
            list.breakpoints = left;
            Ok(removed)
        })
    }

    /// A process has hit one of them. It is decided at once who takes one that is for one process only; what has
    /// changed by that is to be saved.
    #[must_use]
    pub fn hit(&self, id: i64) -> Hit {
        let mut list = lock(&self.list);
        let Some(index) = list.breakpoints.iter().position(|stored| stored.id == id) else {
            return Hit::Gone;
        };
        if !list.breakpoints[index].once {
            return Hit::Stands;
        }
        Hit::Taken(list.breakpoints.remove(index).file)
    }

    /// Keeps what there is now. It waits for the disk.
    ///
    /// # Errors
    /// It cannot be kept.
    pub fn save(&self) -> Result<(), String> {
        self.change(|_| Ok(()))
    }

    /// Makes a change once it is in the file.
    fn change<T>(&self, change: impl Fn(&mut List) -> Result<T, String>) -> Result<T, String> {
        let _writing = lock(&self.writing);
        let mut list = lock(&self.list).clone();
        change(&mut list)?;
        if let Some(path) = &self.state {
            list.breakpoints.retain(|stored| !stored.is_own);
            write(path, &list).map_err(|error| {
                let error = format!("cannot write the state file {}: {error}", path.display());
                tracing::error!("{error}");
                error
            })?;
        }
        // A process may have taken one meanwhile, which will be saved after this.
        change(&mut lock(&self.list))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn read(path: &Path) -> anyhow::Result<List> {
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

/// Writes the file whole or not at all, for nobody else's eyes.
fn write(path: &Path, list: &List) -> io::Result<()> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let new = directory(path).join(format!(".{name}.new"));
    // One that a daemon left that was killed while it wrote.
    match fs::remove_file(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let written = create(&new).and_then(|mut file| {
        serde_json::to_writer_pretty(&mut file, list)?;
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
    use serde_json::{Value, json};

    use super::*;

    fn stored(more: Value) -> Stored {
        let mut stored = json!({ "id": 0, "file": "/app/main.py", "line": 3 });
        for (name, value) in more.as_object().expect("an object") {
            stored[name] = value.clone();
        }
        serde_json::from_value(stored).expect("it can be read")
    }

    fn ids(stored: &[Stored]) -> Vec<i64> {
        stored.iter().map(|stored| stored.id).collect()
    }

    #[test]
    fn they_come_and_go_under_numbers_of_their_own() {
        let store = Store::default();
        for more in [
            json!({}),
            json!({ "file": "/app/./x/../main.py" }),
            json!({ "file": "/b.py" }),
        ] {
            store.add(stored(more)).expect("it is good");
        }
        assert_eq!(ids(&store.all()), [1, 2, 3]);
        assert_eq!(ids(&store.of("/app/main.py")), [1, 2]);
        assert_eq!(store.by_file().len(), 2);
        assert_eq!(store.remove(Some(9)).map(|removed| removed.len()), Ok(0));
        assert_eq!(
            store.remove(Some(3)).map(|removed| ids(&removed)),
            Ok(vec![3])
        );
        assert_eq!(store.add(stored(json!({}))).map(|new| new.id), Ok(4));
        assert_eq!(
            store.remove(None).map(|removed| ids(&removed)),
            Ok(vec![1, 2, 4])
        );
        assert!(store.all().is_empty());
    }

    #[test]
    fn what_cannot_be_one_is_refused() {
        let store = Store::default();
        for (more, why) in [
            (json!({ "file": "main.py" }), "absolute"),
            (json!({ "file": "" }), "absolute"),
            (json!({ "file": "C:main.py" }), "absolute"),
            (json!({ "line": 0 }), "from 1"),
            (json!({ "line": -3 }), "from 1"),
            (json!({ "condition": "@{rank=0" }), "never closed"),
            (json!({ "condition": "@{state=held} x" }), "state="),
            (json!({ "sessions": "name=a,state=stopped" }), "state="),
            (json!({ "once": true, "logMessage": "x" }), "log point"),
            (json!({ "condition": "x".repeat(MAX_TEXT + 1) }), "longer"),
        ] {
            let error = store.add(stored(more.clone())).expect_err("it is wrong");
            assert!(error.contains(why), "{more}: {error}");
        }
        for good in [
            json!({ "file": "C:\\x\\main.py" }),
            json!({ "file": "\\\\server\\main.py" }),
            json!({ "condition": "@{rank=0} x", "sessions": "name=a", "hitCondition": "3" }),
        ] {
            store.add(stored(good)).expect("it is good");
        }
        assert_eq!(ids(&store.all()), [1, 2, 3]);
    }

    #[test]
    fn there_is_no_room_for_more_than_the_bound() {
        let store = Store::default();
        for _ in 0..MAX_STORED {
            store.add(stored(json!({}))).expect("there is room");
        }
        let error = store.add(stored(json!({}))).expect_err("there is none");
        assert!(error.contains("remove some"), "{error}");
        store.remove(Some(1)).expect("it can be removed");
        store.add(stored(json!({}))).expect("there is room again");
    }

    #[test]
    fn one_of_many_takes_what_is_there_once() {
        let store = Store::default();
        store.add(stored(json!({}))).expect("it is good");
        let once = stored(json!({ "once": true }));
        for _ in 0..20 {
            let id = store.add(once.clone()).expect("it is good").id;
            let hits: Vec<Hit> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| store.hit(id))).collect();
                let hits = threads.into_iter().map(|thread| thread.join());
                hits.map(|hit| hit.expect("it ends")).collect()
            });
            let count = |what: Hit| hits.iter().filter(|hit| **hit == what).count();
            let taken = Hit::Taken(once.file.clone());
            assert_eq!((count(taken), count(Hit::Gone)), (1, 3));
            assert_eq!(store.hit(1), Hit::Stands);
        }
    }

    #[test]
    fn its_scope_is_both_of_its_selectors() {
        for (sessions, condition, scope, rest) in [
            ("all", "x", None, Some("x")),
            ("all", "@{all}", None, None),
            ("name=a", "x", Some("name=a"), Some("x")),
            ("name=a", "@{rank=0}", Some("name=a,rank=0"), None),
            ("rank=0", "@{rank=0} x", Some("rank=0"), Some("x")),
        ] {
            let stored = stored(json!({ "sessions": sessions, "condition": condition }));
            let breakpoint = stored.breakpoint();
            let text = breakpoint.scope.map(|scope| scope.to_string());
            assert_eq!(
                (text.as_deref(), breakpoint.condition.as_deref()),
                (scope, rest)
            );
        }
    }

    #[test]
    fn what_is_kept_comes_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("state.json");
        let store = Store::open(Some(&path)).expect("a missing file is empty");
        assert!(!path.exists(), "nothing has changed");
        let full = json!({
            "line": 7, "condition": "@{rank=0} x > \"ü\"", "hitCondition": "3", "logMessage": "l",
            "sessions": "name=worker-*",
        });
        store.add(stored(full)).expect("it is good");
        store
            .add(stored(json!({ "once": true })))
            .expect("it is good");
        store.add(stored(json!({}))).expect("it is good");
        let reopen = || {
            Store::open(Some(&path))
                .map(|store| store.all())
                .expect("it can be read")
        };
        assert_eq!(reopen(), store.all());
        assert_eq!(store.hit(2), Hit::Taken("/app/main.py".into()));
        store.save().expect("it can be written");
        assert_eq!(ids(&reopen()), [1, 3]);
        store.remove(Some(3)).expect("it can be written");
        assert_eq!(reopen(), store.all());
        // Nobody would remove what a process had set that has lost its daemon.
        let of_process = Stored {
            is_own: true,
            ..stored(json!({}))
        };
        let id = store.add(of_process).map(|new| new.id);
        assert_eq!((id, store.all().len()), (Ok(4), 2));
        assert_eq!(ids(&reopen()), [1]);
        store.remove(Some(4)).expect("it can be written");
        // A number is not used again, also after a restart.
        let again = Store::open(Some(&path)).expect("it can be read");
        assert_eq!(again.add(stored(json!({}))).map(|new| new.id), Ok(5));
        let names: Vec<_> = fs::read_dir(directory.path())
            .expect("it is there")
            .map(|entry| entry.expect("a name").file_name())
            .collect();
        assert_eq!(names, ["state.json"]);
    }

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
        store.add(stored(json!({}))).expect("it is good");
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
    fn what_cannot_be_kept_is_not_changed() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("sub").join("state.json");
        fs::create_dir(directory.path().join("sub")).expect("it can be made");
        let store = Store::open(Some(&path)).expect("a missing file is empty");
        store.add(stored(json!({}))).expect("it is good");
        fs::remove_dir_all(directory.path().join("sub")).expect("it can be removed");
        for error in [
            store.add(stored(json!({}))).map(|_| ()),
            store.remove(None).map(|_| ()),
            store.save(),
        ] {
            let error = error.expect_err("there is no directory");
            assert!(
                error.contains("state.json") && error.contains("cannot write"),
                "{error}"
            );
        }
        assert_eq!(ids(&store.all()), [1]);
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
