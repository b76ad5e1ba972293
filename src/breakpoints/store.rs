//! The daemon's own breakpoints: for every process, now and later, whether or not somebody watches it.
//!
//! They may be kept in a file over restarts. A breakpoint in the list never changes: it comes and goes, and its
//! number is not used again.
//! This module knows no session; those who apply the list read it anew whenever they are told that it has changed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context;

use super::path::normalized;
use super::state_file::List;
use super::stored::Stored;

/// The most breakpoints that are stored; a further one is refused.
pub const MAX_STORED: usize = 1024;

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

impl Store {
    /// The breakpoints of a state file, in which all changes will be kept. A file that is not there is empty.
    ///
    /// # Errors
    /// The file cannot be read, and what to do.
    pub fn open(state: Option<&Path>) -> anyhow::Result<Store> {
        let Some(path) = state else {
            return Ok(Store::default());
        };
        let list = List::read(path).with_context(|| {
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
            list.write(path).map_err(|error| {
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

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::super::stored::tests::stored;
    use super::*;

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
        let wrong = stored(json!({ "line": 0 }));
        assert!(store.add(wrong).is_err());
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
}
