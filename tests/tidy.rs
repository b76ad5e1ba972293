//! The rules of the house that a machine can check.

use std::fs;
use std::path::{Path, PathBuf};

/// All files below a directory with this ending, but for what builds leave there.
fn files(directory: &str, ending: &str) -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    let mut found = Vec::new();
    let mut waiting = vec![root];
    while let Some(directory) = waiting.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the project") {
            let path = entry.expect("a readable directory").path();
            if path.is_dir() && !path.ends_with("target") {
                waiting.push(path);
            } else if path
                .extension()
                .is_some_and(|extension| extension == ending)
            {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "{directory} has no {ending} files");
    found
}

/// The part of a source file before its unit tests, with its name.
fn sources() -> Vec<(PathBuf, String)> {
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a text");
        // Also tests that are for one system only.
        let tests = [text.find("#[cfg(test)]"), text.find("#[cfg(all(test")];
        let end = tests.into_iter().flatten().min().unwrap_or(text.len());
        (path, text[..end].to_owned())
    };
    files("src", "rs").into_iter().map(read).collect()
}

#[test]
fn every_file_says_what_it_is_for() {
    for directory in ["src", "tests", "benches"] {
        for path in files(directory, "rs") {
            let text = fs::read_to_string(&path).expect("a text");
            // A fuzz target must begin with an attribute.
            let text = text.trim_start_matches("#![no_main]\n").trim_start();
            assert!(
                text.starts_with("//! "),
                "{} has no module doc",
                path.display()
            );
        }
    }
}

#[test]
fn what_the_house_does_without() {
    for (path, text) in sources() {
        let is_command = path.components().any(|part| part.as_os_str() == "commands");
        for (word, instead) in [
            ("unbounded_channel", "every queue has a bound"),
            ("tokio::sync::Mutex", "what one task owns needs no lock"),
            ("todo!(", "main holds finished work"),
            ("unimplemented!(", "main holds finished work"),
            (".unwrap()", "an error says what happened"),
            ("#[ignore", "a test that does not run is none"),
            ("dbg!(", "logs go through tracing"),
        ] {
            assert!(
                !text.contains(word),
                "{}: {word}: {instead}",
                path.display()
            );
        }
        for word in ["println!(", "print!("] {
            assert!(
                is_command || !text.contains(word),
                "{}: stdout belongs to commands/",
                path.display()
            );
        }
    }
}

#[test]
fn every_bound_says_what_it_is() {
    for (path, text) in sources() {
        let lines: Vec<&str> = text.lines().collect();
        for (number, line) in lines.iter().enumerate() {
            let is_bound = line.contains("const ")
                && (line.contains(": usize =") || line.contains(": Duration ="));
            let is_said = number > 0 && lines[number - 1].trim_start().starts_with("///");
            let is_beside = line.contains("//");
            assert!(
                !is_bound || is_said || is_beside,
                "{}:{}: {line}",
                path.display(),
                number + 1
            );
        }
    }
}

#[test]
fn every_dependency_has_its_reason() {
    let manifest = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"));
    let manifest = manifest.expect("the manifest");
    let mut in_dependencies = false;
    let mut said = false;
    for line in manifest.lines() {
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies]");
            said = false;
        } else if in_dependencies && line.starts_with('#') {
            said = true;
        } else if in_dependencies && line.contains('=') {
            assert!(said, "{line}");
        }
    }
}
