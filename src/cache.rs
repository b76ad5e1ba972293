//! The directory below the user's cache where the agent and copies of debugpy are kept.
//!
//! What is in it runs inside the user's programs, so it must be the user's alone. It may be emptied at any time, and
//! several processes may fill it at once: what is put there appears complete or not at all.
//! This module knows nothing about what is kept.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use uuid::Uuid;

use crate::owner::current_uid;

/// How names of what is not yet complete begin.
const UNFINISHED: &str = ".new-";

/// After this, what is not complete was left behind by a process that was killed, and is removed.
const ABANDONED: Duration = Duration::from_hours(24);

/// How often a directory is put in its place while others do the same; each of them makes it right, so that one more
/// attempt than there are others who change their mind is enough.
const ATTEMPTS: usize = 16;

/// What to do about a cache that cannot be used.
const REMEDY: &str = "set XDG_CACHE_HOME to a directory that is yours and can be written";

/// Where the cache is: `$XDG_CACHE_HOME/dbgproxy`, else `~/.cache/dbgproxy`. It need not be there.
///
/// # Errors
/// There is no home directory.
pub fn directory() -> anyhow::Result<PathBuf> {
    directory_in(std::env::var_os("XDG_CACHE_HOME"), std::env::home_dir())
}

fn directory_in(cache: Option<OsString>, home: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    // The specification of that variable has relative paths ignored.
    let cache = cache.map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || home.filter(|path| path.is_absolute());
    cache
        .or_else(|| home().map(|home| home.join(".cache")))
        .map(|cache| cache.join("dbgproxy"))
        .ok_or_else(|| anyhow!("there is no home directory (HOME is not set): {REMEDY}"))
}

/// Makes the cache if it is not there, sees to it that it is the user's alone, and gives its path.
///
/// # Errors
/// There is no home directory, it cannot be written, or somebody else's directory is in the place.
pub fn prepare() -> anyhow::Result<PathBuf> {
    let path = directory()?;
    prepare_at(&path)?;
    Ok(path)
}

fn prepare_at(path: &Path) -> anyhow::Result<()> {
    let cannot = |what: &str| format!("cannot {what} {}: {REMEDY}", path.display());
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|error| anyhow!("{} ({error})", cannot("make the directory")))?;
    let at = fs::symlink_metadata(path).with_context(|| cannot("look at"))?;
    let to = fs::metadata(path).with_context(|| cannot("look at"))?;
    // A link is followed if it is the user's own: homes are moved to other disks that way.
    if let Some(other) = [at.uid(), to.uid()]
        .into_iter()
        .find(|uid| *uid != current_uid())
    {
        bail!(
            "{} belongs to the user with the uid {other}, and not to this one ({}): {REMEDY}",
            path.display(),
            current_uid()
        );
    }
    if to.mode() & 0o077 != 0 {
        let permissions = fs::Permissions::from_mode(0o700);
        fs::set_permissions(path, permissions).with_context(|| cannot("close to others"))?;
    }
    Ok(())
}

/// A new directory that is filled before it is put in its place. It is removed if it is not.
#[derive(Debug)]
pub struct Scratch(PathBuf);

impl Scratch {
    /// A new directory beside `place`.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn beside(place: &Path) -> anyhow::Result<Scratch> {
        let parent = place.parent().unwrap_or(Path::new("/"));
        sweep(parent);
        let scratch = Scratch(unfinished(parent));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&scratch.0)
            .with_context(|| format!("cannot make the directory {}", scratch.0.display()))?;
        Ok(scratch)
    }

    /// Where to fill it.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Puts it at `place`, unless what is there is good: then somebody else was faster.
    ///
    /// # Errors
    /// The system does not let it be put there.
    pub fn replace(self, place: &Path, is_good: impl Fn(&Path) -> bool) -> anyhow::Result<()> {
        for _ in 0..ATTEMPTS {
            if is_good(place) {
                return Ok(());
            }
            match fs::rename(&self.0, place) {
                Ok(()) => return Ok(()),
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty
                            | io::ErrorKind::AlreadyExists
                            | io::ErrorKind::NotADirectory
                    ) => {}
                Err(error) => {
                    let to = place.display();
                    return Err(error).with_context(|| format!("cannot put it at {to}"));
                }
            }
            // What is bad goes aside in one step, so that nobody sees a part of it.
            let aside = Scratch(unfinished(place.parent().unwrap_or(Path::new("/"))));
            match fs::rename(place, &aside.0) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    let from = place.display();
                    return Err(error)
                        .with_context(|| format!("what is at {from} cannot be replaced"));
                }
            }
        }
        bail!("others put something else there at the same time; try again")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // It is not there any more where it was put in its place.
        let _ = remove(&self.0);
    }
}

fn unfinished(parent: &Path) -> PathBuf {
    parent.join(format!("{UNFINISHED}{}", Uuid::new_v4()))
}

/// Removes what is at a path, be it a directory, a file or a link.
fn remove(path: &Path) -> io::Result<()> {
    if fs::symlink_metadata(path)?.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    }
}

/// Removes what was left behind.
fn sweep(directory: &Path) {
    let Ok(entries) = fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        let is_unfinished = entry.file_name().to_string_lossy().starts_with(UNFINISHED);
        let changed = || entry.metadata().and_then(|found| found.modified()).ok();
        let age = || changed().and_then(|changed| changed.elapsed().ok());
        if is_unfinished && age().is_some_and(|age| age > ABANDONED) {
            let _ = remove(&entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn where_it_is() {
        let at = |cache: Option<&str>, home: Option<&str>| {
            directory_in(cache.map(Into::into), home.map(Into::into))
                .map(|path| path.display().to_string())
        };
        assert_eq!(at(Some("/c"), Some("/h")).unwrap(), "/c/dbgproxy");
        for none in [None, Some(""), Some("relative")] {
            assert_eq!(at(none, Some("/h")).unwrap(), "/h/.cache/dbgproxy");
            let error = at(none, None).unwrap_err().to_string();
            assert!(error.contains("XDG_CACHE_HOME"), "{error}");
            assert!(at(none, Some("")).is_err());
        }
    }

    #[test]
    fn it_is_the_users_alone() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("a/dbgproxy");
        prepare_at(&path).unwrap();
        let mode = || fs::metadata(&path).unwrap().mode() & 0o777;
        assert_eq!(mode(), 0o700);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o775)).unwrap();
        prepare_at(&path).unwrap();
        assert_eq!(mode(), 0o700);

        // One's own link is followed.
        let link = home.path().join("link");
        symlink(&path, &link).unwrap();
        prepare_at(&link).unwrap();
    }

    #[test]
    fn what_cannot_be_made_says_what_to_do() {
        let home = tempfile::tempdir().unwrap();
        let file = home.path().join("file");
        fs::write(&file, "").unwrap();
        for path in [file.clone(), file.join("dbgproxy"), "/proc/dbgproxy".into()] {
            let error = format!("{:#}", prepare_at(&path).unwrap_err());
            assert!(error.contains("XDG_CACHE_HOME"), "{error}");
            assert!(error.contains(&path.display().to_string()), "{error}");
        }
    }

    #[test]
    fn what_was_left_behind_goes() {
        let cache = tempfile::tempdir().unwrap();
        let old = unfinished(cache.path());
        let new = unfinished(cache.path());
        let other = cache.path().join("other");
        for path in [&old, &new, &other] {
            fs::create_dir(path).unwrap();
        }
        let long_ago = SystemTime::now() - 2 * ABANDONED;
        for path in [&old, &other] {
            let file = fs::File::open(path).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        drop(Scratch::beside(&other).unwrap());
        assert!(!old.exists() && new.exists() && other.exists());
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 2);
    }
}
