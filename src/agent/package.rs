//! The agent's Python files: in this binary, and unpacked into a directory that a Python can load them from.
//!
//! Each content has a directory of its own below the user's cache, so that an older daemon and a newer one do not
//! change the files of each other's programs. It knows nothing about what the files do.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::cache::{self, Scratch};
use crate::owner::current_uid;

/// The package's own directory, the only one below the one that is put on Python's path.
const PACKAGE: &str = "dbgproxy";

/// Every file, by its path below the directory that is put on Python's path.
pub const FILES: [(&str, &str); 15] = [
    ("sitecustomize.py", include_str!("python/sitecustomize.py")),
    (
        "dbgproxy/__init__.py",
        include_str!("python/dbgproxy/__init__.py"),
    ),
    ("dbgproxy/_api.py", include_str!("python/dbgproxy/_api.py")),
    (
        "dbgproxy/_agent.py",
        include_str!("python/dbgproxy/_agent.py"),
    ),
    (
        "dbgproxy/_link.py",
        include_str!("python/dbgproxy/_link.py"),
    ),
    (
        "dbgproxy/_process.py",
        include_str!("python/dbgproxy/_process.py"),
    ),
    (
        "dbgproxy/_activate.py",
        include_str!("python/dbgproxy/_activate.py"),
    ),
    (
        "dbgproxy/_watchdog.py",
        include_str!("python/dbgproxy/_watchdog.py"),
    ),
    (
        "dbgproxy/_code.py",
        include_str!("python/dbgproxy/_code.py"),
    ),
    (
        "dbgproxy/_records.py",
        include_str!("python/dbgproxy/_records.py"),
    ),
    (
        "dbgproxy/_locks.py",
        include_str!("python/dbgproxy/_locks.py"),
    ),
    (
        "dbgproxy/_monitor.py",
        include_str!("python/dbgproxy/_monitor.py"),
    ),
    (
        "dbgproxy/_patch.py",
        include_str!("python/dbgproxy/_patch.py"),
    ),
    ("dbgproxy/_guard.py", include_str!("../session/guard.py")),
    (
        "dbgproxy/py.typed",
        include_str!("python/dbgproxy/py.typed"),
    ),
];

/// Unpacks the agent, unless it is there as it should be, and gives the directory to put on Python's path.
///
/// # Errors
/// There is no cache directory that is ours and can be written; says what to do.
pub fn unpack() -> anyhow::Result<PathBuf> {
    let directory = cache::prepare()?.join(name());
    unpack_to(&directory).with_context(|| {
        format!(
            "cannot unpack the agent to {} (XDG_CACHE_HOME may name another directory)",
            directory.display()
        )
    })?;
    Ok(directory)
}

fn unpack_to(directory: &Path) -> anyhow::Result<()> {
    if is_intact(directory) {
        return Ok(());
    }
    let scratch = Scratch::beside(directory)?;
    fill(scratch.path()).context("cannot write the files")?;
    scratch.replace(directory, is_intact)
}

fn fill(directory: &Path) -> io::Result<()> {
    let package = directory.join(PACKAGE);
    fs::DirBuilder::new().mode(0o700).create(&package)?;
    for (path, text) in FILES {
        fs::write(directory.join(path), text)?;
    }
    Ok(())
}

/// Whether the agent is there, all of it, and nobody else can change it.
fn is_intact(directory: &Path) -> bool {
    let is_ours = |path: &Path| {
        fs::symlink_metadata(path).is_ok_and(|found| {
            found.is_dir() && found.uid() == current_uid() && found.mode() & 0o077 == 0
        })
    };
    let is_as_written = |(path, text): &(&str, &str)| {
        let path = directory.join(path);
        fs::symlink_metadata(&path).is_ok_and(|found| found.is_file())
            && fs::read(&path).is_ok_and(|bytes| bytes == text.as_bytes())
    };
    is_ours(directory) && is_ours(&directory.join(PACKAGE)) && FILES.iter().all(is_as_written)
}

/// The directory's name: another one whenever a file is another one.
fn name() -> String {
    // FNV-1a, with something between the parts that is in none of them.
    let parts = FILES.iter().flat_map(|(path, text)| [path, text]);
    let bytes = parts.flat_map(|part| part.bytes().chain([0]));
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("agent-{}-{hash:016x}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn target() -> (tempfile::TempDir, PathBuf) {
        let cache = tempfile::tempdir().unwrap();
        let directory = cache.path().join(name());
        (cache, directory)
    }

    fn entries(directory: &Path) -> usize {
        fs::read_dir(directory).unwrap().count()
    }

    #[test]
    fn every_python_file_of_the_tree_is_embedded() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/agent/python");
        let mut waiting = vec![root.clone()];
        while let Some(directory) = waiting.pop() {
            for entry in fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    if !path.ends_with("__pycache__") {
                        waiting.push(path);
                    }
                    continue;
                }
                let path = path.strip_prefix(&root).unwrap().to_str().unwrap();
                assert!(FILES.iter().any(|(file, _)| *file == path), "{path}");
            }
        }
        for (path, text) in FILES {
            assert!(text.is_ascii(), "{path}");
        }
    }

    #[test]
    fn it_says_the_version_of_the_daemon() {
        let version = format!("__version__ = \"{}\"\n", env!("CARGO_PKG_VERSION"));
        assert!(include_str!("python/dbgproxy/__init__.py").contains(&version));
    }

    #[test]
    fn unpacks_and_leaves_what_is_there() {
        let (cache, directory) = target();
        unpack_to(&directory).unwrap();
        for (path, text) in FILES {
            assert_eq!(fs::read_to_string(directory.join(path)).unwrap(), text);
        }
        let mode = fs::metadata(&directory).unwrap().mode();
        assert_eq!(mode & 0o777, 0o700);
        // What Python has compiled stays.
        let compiled = directory.join("dbgproxy/__pycache__");
        fs::create_dir(&compiled).unwrap();
        unpack_to(&directory).unwrap();
        assert!(compiled.exists());
        assert_eq!(entries(cache.path()), 1);
    }

    #[test]
    fn what_is_damaged_is_replaced() {
        let elsewhere = tempfile::tempdir().unwrap();
        type Damage<'a> = (&'a str, &'a dyn Fn(&Path));
        let damages: [Damage<'_>; 7] = [
            ("a file is changed", &|directory| {
                fs::write(directory.join("sitecustomize.py"), "import evil").unwrap();
            }),
            ("a file is gone", &|directory| {
                fs::remove_file(directory.join("dbgproxy/_guard.py")).unwrap();
            }),
            ("a file is a link", &|directory| {
                let file = directory.join("dbgproxy/_agent.py");
                fs::rename(&file, elsewhere.path().join("copy.py")).unwrap();
                symlink(elsewhere.path().join("copy.py"), file).unwrap();
            }),
            ("others may write", &|directory| {
                let permissions = fs::Permissions::from_mode(0o777);
                fs::set_permissions(directory, permissions).unwrap();
            }),
            ("it is a link", &|directory| {
                fs::rename(directory, elsewhere.path().join("copy")).unwrap();
                symlink(elsewhere.path().join("copy"), directory).unwrap();
            }),
            ("it is a file", &|directory| {
                fs::remove_dir_all(directory).unwrap();
                fs::write(directory, "").unwrap();
            }),
            ("it is empty", &|directory| {
                fs::remove_dir_all(directory).unwrap();
                fs::create_dir(directory).unwrap();
            }),
        ];
        for (what, damage) in damages {
            let (cache, directory) = target();
            unpack_to(&directory).unwrap();
            damage(&directory);
            assert!(!is_intact(&directory), "{what}");
            unpack_to(&directory).expect(what);
            assert!(is_intact(&directory), "{what}");
            assert_eq!(entries(cache.path()), 1, "{what}");
        }
        assert!(
            elsewhere.path().join("copy").exists(),
            "links are not followed"
        );
    }

    #[test]
    fn many_at_once() {
        for damaged in [false, true] {
            let (cache, directory) = target();
            if damaged {
                fs::create_dir(&directory).unwrap();
                fs::write(directory.join("sitecustomize.py"), "").unwrap();
            }
            std::thread::scope(|scope| {
                for _ in 0..16 {
                    scope.spawn(|| unpack_to(&directory).unwrap());
                }
            });
            assert!(is_intact(&directory));
            assert_eq!(entries(cache.path()), 1);
        }
    }
}
