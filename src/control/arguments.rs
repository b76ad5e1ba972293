//! The arguments of a verb: taken one by one, and what is left over is an error that names it.
//!
//! A misspelt `selector` must not make a verb act on everything.
//! This module knows no verb.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Code, Error};
use crate::selector::Selector;

/// What a verb was given and has not looked at yet.
pub(super) struct Arguments {
    left: Map<String, Value>,
}

impl Arguments {
    /// The arguments of a verb, none if there are none.
    pub(super) fn read(given: &Value) -> Result<Arguments, Error> {
        match given {
            Value::Null => Ok(Arguments { left: Map::new() }),
            Value::Object(given) => Ok(Arguments {
                left: given.clone(),
            }),
            _ => Err(bad("the arguments of a verb are a JSON object")),
        }
    }

    /// Takes one, if it is given. A query string has only texts, so a text that is JSON counts as what it says.
    pub(super) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Error> {
        let Some(value) = self.left.remove(name).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        T::deserialize(&value)
            .or_else(|error| {
                let text = value
                    .as_str()
                    .and_then(|text| serde_json::from_str(text).ok());
                text.ok_or(error)
            })
            .map(Some)
            .map_err(|error| bad(&format!("\"{name}\": {error}")))
    }

    /// Takes one that must be given.
    pub(super) fn need<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Error> {
        self.take(name)?
            .ok_or_else(|| bad(&format!("\"{name}\" is missing")))
    }

    /// Whether something is said to be so; `1` is the same as `true`.
    pub(super) fn flag(&mut self, name: &str) -> Result<bool, Error> {
        match self.left.get(name) {
            Some(one) if one == 1 || one == "1" => {
                self.left.remove(name);
                Ok(true)
            }
            _ => Ok(self.take(name)?.unwrap_or(false)),
        }
    }

    /// Which sessions are meant: `selector`, or `sessions` as `attach` calls it, or one `session` by its id.
    pub(super) fn selector(&mut self) -> Result<Option<Selector>, Error> {
        let mut given = None;
        for name in ["selector", "sessions", "session"] {
            let Some(text) = self.take::<String>(name)? else {
                continue;
            };
            if given.is_some() {
                return Err(bad("sessions are selected twice"));
            }
            let text = if name == "session" {
                format!("id={text}")
            } else {
                text
            };
            given = Some(text.parse().map_err(|error| bad(&format!("{error}")))?);
        }
        Ok(given)
    }

    /// Nothing else may be there.
    pub(super) fn end(self) -> Result<(), Error> {
        match self.left.keys().next() {
            None => Ok(()),
            Some(name) => Err(bad(&format!("this verb takes no argument {name:?}"))),
        }
    }
}

pub(super) fn bad(message: &str) -> Error {
    Error::new(Code::BadRequest, message)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(given: Value) -> Arguments {
        match Arguments::read(&given) {
            Ok(arguments) => arguments,
            Err(error) => panic!("{}", error.message),
        }
    }

    #[test]
    fn texts_of_a_query_string_are_what_they_say() {
        let mut arguments =
            read(json!({ "line": "7", "file": "7", "all": "1", "once": "true", "no": false }));
        assert_eq!(arguments.take::<i64>("line").ok(), Some(Some(7)));
        assert_eq!(
            arguments.take::<String>("file").ok(),
            Some(Some("7".into()))
        );
        for (name, so) in [
            ("all", true),
            ("once", true),
            ("no", false),
            ("none", false),
        ] {
            assert_eq!(arguments.flag(name).ok(), Some(so), "{name}");
        }
        assert!(arguments.end().is_ok());
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |given: Value| {
            let mut arguments = read(given);
            let selector = arguments.selector().err();
            let line = arguments.need::<i64>("line").err();
            selector
                .or(line)
                .or(arguments.end().err())
                .map(|error| error.message)
        };
        for (given, named) in [
            (json!({ "line": 1, "slector": "all" }), "slector"),
            (json!({ "line": "x" }), "\"line\""),
            (json!({}), "\"line\" is missing"),
            (
                json!({ "line": 1, "selector": "pid=x" }),
                "expected a number",
            ),
            (json!({ "line": 1, "selector": 5 }), "\"selector\""),
            (
                json!({ "line": 1, "selector": "all", "sessions": "all" }),
                "twice",
            ),
        ] {
            let message = wrong(given.clone()).unwrap_or_default();
            assert!(message.contains(named), "{given}: {message}");
        }
        assert_eq!(wrong(json!({ "line": 1, "session": "3fa8" })), None);
        assert!(Arguments::read(&json!([])).is_err());
    }
}
