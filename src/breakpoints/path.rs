//! The path of a source: what can be told from its text, on whichever system its process runs.
//!
//! This module knows no file system.

/// A path without `.`, `..` and empty parts, as far as that can be told from its text.
pub(super) fn normalized(path: &str) -> String {
    if !path.starts_with('/') || path.starts_with("//") {
        return path.to_owned();
    }
    let mut parts = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Whether a path is absolute for the system that the process runs on, whichever that is.
pub(super) fn is_absolute(path: &str) -> bool {
    let mut characters = path.chars();
    match (characters.next(), characters.next(), characters.next()) {
        (Some('/'), ..) | (Some('\\'), Some('\\'), _) => true,
        (Some(drive), Some(':'), Some('\\' | '/')) => drive.is_ascii_alphabetic(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::normalized;

    #[test]
    fn a_path_is_one_in_every_spelling() {
        for (path, is) in [
            ("/a/b.py", "/a/b.py"),
            ("/a/./b//../c.py", "/a/c.py"),
            ("/../a.py", "/a.py"),
            ("a/../b.py", "a/../b.py"),
            ("C:\\a\\..\\b.py", "C:\\a\\..\\b.py"),
            ("//server/a/../b.py", "//server/a/../b.py"),
            ("", ""),
        ] {
            assert_eq!(normalized(path), is);
        }
    }
}
