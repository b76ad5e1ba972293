//! The exception filters and options of several clients, as the one set that pydevd has.
//!
//! This module knows how pydevd reads them, and nothing of breakpoints.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::null_is_empty;

/// The arguments of `setExceptionBreakpoints`, as far as pydevd honours them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Exceptions {
    filters: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    exception_options: Vec<Value>,
}

/// All filters and all options; filters become options where somebody has options, because pydevd then
/// looks at nothing else.
pub(super) fn merge<'a>(all: impl Iterator<Item = &'a Exceptions>) -> Value {
    let mut merged = Exceptions::default();
    for exceptions in all {
        for filter in &exceptions.filters {
            // Who has options means them instead of the filters.
            if exceptions.exception_options.is_empty() && !merged.filters.contains(filter) {
                merged.filters.push(filter.clone());
            }
        }
        merged
            .exception_options
            .extend(exceptions.exception_options.iter().cloned());
    }
    if !merged.exception_options.is_empty() {
        for filter in &merged.filters {
            let mode = match filter.as_str() {
                "raised" => "always",
                "uncaught" => "unhandled",
                "userUnhandled" => "userUnhandled",
                _ => continue,
            };
            merged
                .exception_options
                .push(json!({ "path": [{ "names": ["Python Exceptions"] }], "breakMode": mode }));
        }
    }
    json!(merged)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::configuration::tests::client;
    use super::super::{Changed, Configuration, Lines, union};
    use crate::wire::Message;

    #[test]
    fn exception_filters_and_options_are_united() {
        let option =
            |mode: &str, name: &str| json!({ "path": [{ "names": [name] }], "breakMode": mode });
        let all = |mode: &str| option(mode, "Python Exceptions");
        let key_error = option("always", "KeyError");
        let cases = [
            (vec![], json!({ "filters": [] })),
            (
                vec![json!({ "filters": ["raised"] })],
                json!({ "filters": ["raised"] }),
            ),
            (
                vec![
                    json!({ "filters": ["uncaught", "raised"] }),
                    json!({ "filters": [], "exceptionOptions": null }),
                    json!({ "filters": ["userUnhandled", "uncaught"], "exceptionOptions": [] }),
                ],
                json!({ "filters": ["uncaught", "raised", "userUnhandled"] }),
            ),
            // Where one has options, pydevd does not look at the filters of the other.
            (
                vec![
                    json!({ "filters": ["raised"], "exceptionOptions": [key_error] }),
                    json!({ "filters": ["uncaught", "userUnhandled", "unknown"] }),
                ],
                json!({
                    "filters": ["uncaught", "userUnhandled", "unknown"],
                    "exceptionOptions": [key_error, all("unhandled"), all("userUnhandled")],
                }),
            ),
            (
                vec![
                    json!({ "filters": ["raised"] }),
                    json!({ "filters": [], "exceptionOptions": [key_error] }),
                ],
                json!({ "filters": ["raised"], "exceptionOptions": [key_error, all("always")] }),
            ),
        ];
        for (requests, expected) in cases {
            let clients: Vec<Configuration> = requests
                .iter()
                .map(|request| client(&[Message::request("setExceptionBreakpoints", request)]))
                .collect();
            let clients = (1..).zip(&clients);
            let (request, merged) = union(&Changed::Exceptions, &Lines::new(), clients, true);
            let arguments: Value = request.decode().expect("it has arguments");
            assert_eq!(arguments, expected, "{requests:?}");
            assert!(merged.is_empty());
        }
    }
}
