//! Where a client has the files of a program that runs elsewhere: the argument `pathMappings` of its `attach`.
//!
//! pydevd translates the paths that it tells. This is for those that the daemon tells by itself; it knows no messages.

use serde::Deserialize;
use serde_json::{Map, Value};

/// The roots of a client's files, and what they are to the program, in the order in which they are tried.
#[derive(Debug, Default)]
pub(super) struct Mappings(Vec<Mapping>);

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mapping {
    local_root: String,
    remote_root: String,
}

impl Mappings {
    /// Reads the arguments of `attach`. What pydevd makes nothing of is nothing here either: a mapping without a root.
    pub(super) fn read(arguments: &Map<String, Value>) -> Mappings {
        let list = arguments.get("pathMappings").and_then(Value::as_array);
        let mappings = list
            .into_iter()
            .flatten()
            .filter_map(|mapping| Mapping::deserialize(mapping).ok())
            .filter(|mapping| !mapping.local_root.is_empty() && !mapping.remote_root.is_empty());
        Mappings(mappings.collect())
    }

    /// The client's path for a file of the program.
    pub(super) fn to_client(&self, path: &str) -> String {
        let mapped = self.0.iter().find_map(|mapping| mapping.to_client(path));
        mapped.unwrap_or_else(|| path.to_owned())
    }
}

impl Mapping {
    fn to_client(&self, path: &str) -> Option<String> {
        let rest = path.strip_prefix(self.remote_root.trim_end_matches(['/', '\\']))?;
        if !rest.is_empty() && !rest.starts_with(['/', '\\']) {
            return None; // Another directory, whose name only begins alike.
        }
        let local = self.local_root.trim_end_matches(['/', '\\']);
        // The client's system is told by its own root.
        let (separator, other) = match self.local_root.contains('\\') {
            true => ('\\', '/'),
            false => ('/', '\\'),
        };
        let is_of_windows = self.remote_root.contains('\\');
        let rest = match is_of_windows == (separator == '\\') {
            true => rest.to_owned(),
            false => rest.replace(other, &separator.to_string()),
        };
        Some(format!("{local}{rest}"))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_files_of_a_program_are_elsewhere_for_its_client() {
        let arguments = json!({ "pathMappings": [
            { "localRoot": "/home/ada/app", "remoteRoot": "/srv/app" },
            { "localRoot": "/home/ada/all/", "remoteRoot": "/srv/" },
            { "localRoot": "C:\\work", "remoteRoot": "/opt" },
            { "localRoot": "/w", "remoteRoot": "D:\\w" },
            { "localRoot": "/one.py", "remoteRoot": "/two.py" },
            { "localRoot": "", "remoteRoot": "/var" },
            { "localRoot": "/x" },
            7,
        ] });
        let mappings = Mappings::read(arguments.as_object().expect("an object"));
        for (path, expected) in [
            ("/srv/app/a/b.py", "/home/ada/app/a/b.py"),
            ("/srv/app2/a.py", "/home/ada/all/app2/a.py"),
            ("/opt/a/b.py", "C:\\work\\a\\b.py"),
            ("D:\\w\\a\\b.py", "/w/a/b.py"),
            ("/two.py", "/one.py"),
            ("/var/a.py", "/var/a.py"),
            ("/optional/a.py", "/optional/a.py"),
            ("<string>", "<string>"),
        ] {
            assert_eq!(mappings.to_client(path), expected);
        }
        for nothing in [json!({}), json!({ "pathMappings": null })] {
            let mappings = Mappings::read(nothing.as_object().expect("an object"));
            assert_eq!(mappings.to_client("/srv/a.py"), "/srv/a.py");
        }
    }
}
