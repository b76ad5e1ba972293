//! What one client has configured in one session, request by request.
//!
//! This module knows one client and no process: what several want together is the [`super::union()`].

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};

use super::breakpoint::{Breakpoint, Own};
use super::exceptions::Exceptions;
use super::null_is_empty;
use super::path::normalized;
use super::stored::Stored;
use crate::selector::Subject;
use crate::wire::{Error, Message};

/// The breakpoints of one source, replaced as a whole by every `setBreakpoints`.
#[derive(Debug, Clone)]
struct Source {
    /// DAP's `Source`, as the client gave it.
    source: Value,
    /// In the client's order, which is that of the answer.
    breakpoints: Vec<Breakpoint>,
}

/// Everything that a client has configured in one session.
#[derive(Debug, Default)]
pub struct Configuration {
    /// By [`Changed::Source`] or [`Changed::Reference`].
    sources: BTreeMap<Changed, Source>,
    functions: Vec<Breakpoint>,
    exceptions: Option<Exceptions>,
    last_id: i64,
}

/// What a request has changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Changed {
    /// The breakpoints of the source with this path, as the client sent it.
    Source(String),
    /// The breakpoints of the source without a path that has this `sourceReference`.
    Reference(i64),
    /// The function breakpoints.
    Functions,
    /// The exception filters.
    Exceptions,
}

impl Configuration {
    /// Takes over what a configuration request says; an error changes nothing.
    ///
    /// # Errors
    /// [`Error::Message`], if the arguments are not those of the request.
    pub fn apply(&mut self, message: &Message) -> Result<Changed, Error> {
        #[derive(Deserialize)]
        struct OfSource {
            source: Value,
            #[serde(default, deserialize_with = "null_is_empty")]
            breakpoints: Vec<Breakpoint>,
        }
        #[derive(Deserialize)]
        struct OfFunctions {
            #[serde(deserialize_with = "null_is_empty")]
            breakpoints: Vec<Breakpoint>,
        }
        let wrong = |what: &str| Err(Error::Message(format!("{}: {what}", message.name())));
        match message.name() {
            "setBreakpoints" => {
                let OfSource {
                    mut source,
                    mut breakpoints,
                } = message.decode()?;
                let key = match (source.get("path"), source.get("sourceReference")) {
                    (Some(Value::String(path)), _) => {
                        // pydevd takes two spellings for two sources, of which only one is heard.
                        let path = normalized(path);
                        source["path"] = path.as_str().into();
                        Changed::Source(path)
                    }
                    (_, Some(Value::Number(reference))) if reference.is_i64() => {
                        Changed::Reference(reference.as_i64().unwrap_or_default())
                    }
                    _ => return wrong("\"source\" has neither a path nor a sourceReference"),
                };
                if breakpoints
                    .iter()
                    .any(|breakpoint| breakpoint.line.is_none())
                {
                    return wrong("a breakpoint has no \"line\"");
                }
                self.number(&mut breakpoints);
                self.replace(key.clone(), source, breakpoints);
                Ok(key)
            }
            "setFunctionBreakpoints" => {
                let OfFunctions { mut breakpoints } = message.decode()?;
                if breakpoints
                    .iter()
                    .any(|breakpoint| breakpoint.name.is_none())
                {
                    return wrong("a breakpoint has no \"name\"");
                }
                self.number(&mut breakpoints);
                self.functions = breakpoints;
                Ok(Changed::Functions)
            }
            "setExceptionBreakpoints" => {
                self.exceptions = Some(message.decode()?);
                Ok(Changed::Exceptions)
            }
            _ => wrong("not a configuration request"),
        }
    }

    fn number(&mut self, breakpoints: &mut [Breakpoint]) {
        for breakpoint in breakpoints {
            self.last_id += 1;
            breakpoint.id = self.last_id;
            breakpoint.read_scope();
        }
    }

    fn replace(&mut self, key: Changed, source: Value, breakpoints: Vec<Breakpoint>) {
        if breakpoints.is_empty() {
            self.sources.remove(&key);
        } else {
            let source = Source {
                source,
                breakpoints,
            };
            self.sources.insert(key, source);
        }
    }

    /// Takes over what is stored for a file, under the store's own numbers; true if the process is to get something
    /// else than until now.
    pub fn set_stored(&mut self, file: &str, stored: &[Stored], session: &Subject<'_>) -> bool {
        let key = Changed::Source(file.to_owned());
        let given = |own: Vec<Own>| -> Vec<i64> {
            let given = own.into_iter().filter(|own| own.withheld.is_none());
            given.map(|own| own.id).collect()
        };
        let old = given(self.own(&key));
        let breakpoints = stored.iter().map(Stored::breakpoint).collect();
        self.replace(key.clone(), json!({ "path": file }), breakpoints);
        self.hold_in(&key, session);
        given(self.own(&key)) != old
    }

    /// Finds out what of a part of it holds in a session; gives what did otherwise until now.
    pub fn hold_in(&mut self, changed: &Changed, session: &Subject<'_>) -> Vec<Own> {
        let breakpoints = match changed {
            Changed::Source(_) | Changed::Reference(_) => match self.sources.get_mut(changed) {
                Some(source) => &mut source.breakpoints,
                None => return Vec::new(),
            },
            Changed::Functions => &mut self.functions,
            Changed::Exceptions => return Vec::new(),
        };
        let changed = breakpoints
            .iter_mut()
            .filter_map(|breakpoint| breakpoint.hold_in(session).then(|| breakpoint.own()));
        changed.collect()
    }

    /// What the owner is to be told of its breakpoints where a change happened, in its own order.
    #[must_use]
    pub fn own(&self, changed: &Changed) -> Vec<Own> {
        let breakpoints = self.breakpoints(changed).iter();
        breakpoints.map(Breakpoint::own).collect()
    }

    /// Whether it has any breakpoint that the process is to have.
    #[must_use]
    pub fn holds_any(&self) -> bool {
        let mut all = self.all();
        all.any(|breakpoint| breakpoint.withheld.is_none())
    }

    /// Whether it has the breakpoint, and the process is to have it.
    #[must_use]
    pub fn holds(&self, id: i64) -> bool {
        self.find(id)
            .is_some_and(|breakpoint| breakpoint.withheld.is_none())
    }

    /// Whether it has the breakpoint, and the process is not to have it.
    #[must_use]
    pub fn withholds(&self, id: i64) -> bool {
        self.find(id)
            .is_some_and(|breakpoint| breakpoint.withheld.is_some())
    }

    fn find(&self, id: i64) -> Option<&Breakpoint> {
        self.all().find(|breakpoint| breakpoint.id == id)
    }

    fn all(&self) -> impl Iterator<Item = &Breakpoint> {
        let sources = self.sources.values().flat_map(|source| &source.breakpoints);
        sources.chain(&self.functions)
    }

    /// The breakpoints that this client has where a change happened, in its own order.
    #[must_use]
    pub fn breakpoints(&self, changed: &Changed) -> &[Breakpoint] {
        match changed {
            Changed::Source(_) | Changed::Reference(_) => self
                .sources
                .get(changed)
                .map_or(&[], |source| &source.breakpoints),
            Changed::Functions => &self.functions,
            Changed::Exceptions => &[],
        }
    }

    /// DAP's `Source` of a source in which this client has breakpoints, as it gave it.
    pub(super) fn source(&self, changed: &Changed) -> Option<&Value> {
        Some(&self.sources.get(changed)?.source)
    }

    /// The exception filters, if this client has ever set any.
    pub(super) fn exceptions(&self) -> Option<&Exceptions> {
        self.exceptions.as_ref()
    }

    /// Everything in it, as changes: what another process has to be told, or what is gone with its owner.
    #[must_use]
    pub fn everything(&self) -> Vec<Changed> {
        let mut all: Vec<Changed> = self.sources.keys().cloned().collect();
        if !self.functions.is_empty() {
            all.push(Changed::Functions);
        }
        if self.exceptions.is_some() {
            all.push(Changed::Exceptions);
        }
        all
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::HashSet;

    use super::*;

    /// The source that most tests are about.
    pub(in super::super) const PATH: &str = "/app/main.py";

    /// The request that sets a source's breakpoints.
    pub(in super::super) fn set(path: &str, breakpoints: &Value) -> Message {
        let arguments = json!({ "source": { "path": path }, "breakpoints": breakpoints });
        Message::request("setBreakpoints", arguments)
    }

    /// A client that has sent these requests, all of which are good.
    pub(in super::super) fn client(requests: &[Message]) -> Configuration {
        let mut configuration = Configuration::default();
        for request in requests {
            configuration.apply(request).expect("it is a good request");
        }
        configuration
    }

    #[test]
    fn a_bad_request_changes_nothing() {
        let mut configuration = client(&[
            set(PATH, &json!([{ "line": 1 }, { "line": 2 }])),
            Message::request(
                "setFunctionBreakpoints",
                json!({ "breakpoints": [{ "name": "f" }] }),
            ),
            Message::request("setExceptionBreakpoints", json!({ "filters": ["raised"] })),
        ]);
        let before = format!("{configuration:?}");
        let source = json!({ "path": PATH });
        let bad = [
            ("setBreakpoints", json!({})),
            ("setBreakpoints", json!({ "breakpoints": [] })),
            ("setBreakpoints", json!({ "source": {}, "breakpoints": [] })),
            (
                "setBreakpoints",
                json!({ "source": null, "breakpoints": [] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": PATH, "breakpoints": [] }),
            ),
            ("setBreakpoints", json!({ "source": { "path": 5 } })),
            (
                "setBreakpoints",
                json!({ "source": { "sourceReference": 1.5 } }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": {} }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": [5] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": [{}] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": [{ "line": 3 }, { "line": "4" }] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": [{ "line": 3 }, { "name": "f" }] }),
            ),
            (
                "setBreakpoints",
                json!({ "source": source, "breakpoints": [{ "line": 3, "condition": 5 }] }),
            ),
            ("setFunctionBreakpoints", json!({})),
            ("setFunctionBreakpoints", json!({ "breakpoints": [{}] })),
            (
                "setFunctionBreakpoints",
                json!({ "breakpoints": [{ "line": 1 }] }),
            ),
            ("setExceptionBreakpoints", json!({})),
            ("setExceptionBreakpoints", json!([["raised"], []])),
            ("setExceptionBreakpoints", json!({ "filters": "raised" })),
            (
                "setExceptionBreakpoints",
                json!({ "filters": [], "exceptionOptions": {} }),
            ),
            ("setDataBreakpoints", json!({ "breakpoints": [] })),
        ];
        for (command, arguments) in bad {
            let request = Message::request(command, &arguments);
            let error = configuration.apply(&request).unwrap_err();
            assert!(error.to_string().starts_with(command), "{error}");
            assert_eq!(
                format!("{configuration:?}"),
                before,
                "{command} {arguments}"
            );
        }
    }

    #[test]
    fn a_configuration_says_what_it_holds() {
        let mut configuration = Configuration::default();
        assert_eq!(configuration.everything(), []);
        let reference =
            json!({ "source": { "sourceReference": 7 }, "breakpoints": [{ "line": 1 }] });
        let requests = [
            set("/b.py", &json!([{ "line": 1 }])),
            set("/a.py", &json!([])),
            Message::request("setBreakpoints", reference),
            Message::request("setExceptionBreakpoints", json!({ "filters": [] })),
            Message::request(
                "setFunctionBreakpoints",
                json!({ "breakpoints": [{ "name": "f" }] }),
            ),
        ];
        let source = |key: &str| Changed::Source(key.into());
        let changes = [
            source("/b.py"),
            source("/a.py"),
            Changed::Reference(7),
            Changed::Exceptions,
            Changed::Functions,
        ];
        for (request, changed) in requests.iter().zip(&changes) {
            assert_eq!(configuration.apply(request).as_ref(), Ok(changed));
        }
        let everything: HashSet<Changed> = configuration.everything().into_iter().collect();
        let held = changes
            .iter()
            .filter(|changed| **changed != source("/a.py"));
        assert_eq!(everything, held.cloned().collect());
        let count = |changed: &Changed| configuration.breakpoints(changed).len();
        let counts = [&changes[1], &changes[0], &changes[2]].map(count);
        assert_eq!(counts, [0, 1, 1]);
        assert_eq!(count(&source("/c.py")), 0);
        assert_eq!(count(&source("7")), 0, "a path is no reference");
    }
}
