//! One breakpoint of the daemon itself, as it is listed and kept.
//!
//! This module knows no list: that is the [`super::Store`].

use serde::{Deserialize, Serialize};
use serde_json::Map;

use super::breakpoint::Breakpoint;
use super::path::is_absolute;
use super::scope;
use crate::selector::{Selector, Subject};

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

#[cfg(test)]
pub(super) mod tests {
    use serde_json::{Value, json};

    use super::*;

    /// A breakpoint that is good, but for what more is said of it.
    pub(in super::super) fn stored(more: Value) -> Stored {
        let mut stored = json!({ "id": 0, "file": "/app/main.py", "line": 3 });
        for (name, value) in more.as_object().expect("an object") {
            stored[name] = value.clone();
        }
        serde_json::from_value(stored).expect("it can be read")
    }

    #[test]
    fn what_cannot_be_one_is_refused() {
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
            let error = stored(more.clone()).check().expect_err("it is wrong");
            assert!(error.contains(why), "{more}: {error}");
        }
        for good in [
            json!({ "file": "C:\\x\\main.py" }),
            json!({ "file": "\\\\server\\main.py" }),
            json!({ "condition": "@{rank=0} x", "sessions": "name=a", "hitCondition": "3" }),
        ] {
            stored(good).check().expect("it is good");
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
}
