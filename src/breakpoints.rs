//! Breakpoints of several clients in one process: what each has asked for, and the union that the process gets.
//!
//! pydevd keeps one breakpoint a line (the last one wins), and one set of exception filters. So what
//! several clients want of one line is merged into one breakpoint whose condition asks each of them in turn;
//! the helper that it calls is part of the guard that the greeting installs (`session/guard.py`).
//! This module knows no connection; it turns lists into lists.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::wire::{Error, Message};

/// A breakpoint as DAP's `SourceBreakpoint` or `FunctionBreakpoint` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breakpoint {
    /// The number under which its owner knows it; never sent to the process.
    #[serde(skip)]
    pub id: i64,
    /// The line of a source breakpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    line: Option<i64>,
    /// The function of a function breakpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    hit_condition: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    log_message: Option<String>,
    /// What else the client said, for the process to make of it what it can.
    #[serde(flatten)]
    other: Map<String, Value>,
}

impl Breakpoint {
    /// Two breakpoints at one place can only be one in the process.
    #[must_use]
    pub fn place(&self) -> Place {
        Place {
            line: self.line,
            name: self.name.clone(),
        }
    }

    /// Whether the two stop or log at the same times.
    fn acts_like(&self, other: &Breakpoint) -> bool {
        (&self.condition, &self.hit_condition, &self.log_message)
            == (&other.condition, &other.hit_condition, &other.log_message)
    }
}

/// Where a breakpoint is, within what its client has set at once: a line of a source, or a function.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    line: Option<i64>,
    name: Option<String>,
}

/// The breakpoints of one source, replaced as a whole by every `setBreakpoints`.
#[derive(Debug, Clone)]
pub struct Source {
    /// DAP's `Source`, as the client gave it.
    pub source: Value,
    /// In the client's order, which is that of the answer.
    pub breakpoints: Vec<Breakpoint>,
}

/// Everything that a client has configured in one session.
#[derive(Debug, Default)]
pub struct Configuration {
    /// By the path that the client sent (its `sourceReference` where it has none).
    sources: BTreeMap<String, Source>,
    functions: Vec<Breakpoint>,
    exceptions: Option<Exceptions>,
    last_id: i64,
}

/// The arguments of `setExceptionBreakpoints`, as far as pydevd honours them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Exceptions {
    filters: Vec<String>,
    #[serde(
        default,
        skip_serializing_if = "Vec::is_empty",
        deserialize_with = "null_is_empty"
    )]
    exception_options: Vec<Value>,
}

/// What a request has changed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Changed {
    /// The breakpoints of this source.
    Source(String),
    /// The function breakpoints.
    Functions,
    /// The exception filters.
    Exceptions,
}

/// One breakpoint of the union.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged<Owner> {
    /// What the process gets.
    pub breakpoint: Breakpoint,
    /// Whose it is: the owners and their own numbers.
    pub parts: Vec<(Owner, i64)>,
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
                    source,
                    mut breakpoints,
                } = message.decode()?;
                let key = match (source.get("path"), source.get("sourceReference")) {
                    (Some(Value::String(path)), _) => path.clone(),
                    (_, Some(reference)) if reference.is_i64() => reference.to_string(),
                    _ => return wrong("\"source\" has neither a path nor a sourceReference"),
                };
                if breakpoints
                    .iter()
                    .any(|breakpoint| breakpoint.line.is_none())
                {
                    return wrong("a breakpoint has no \"line\"");
                }
                self.number(&mut breakpoints);
                self.sources.insert(
                    key.clone(),
                    Source {
                        source,
                        breakpoints,
                    },
                );
                Ok(Changed::Source(key))
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
        }
    }

    /// The breakpoints that this client has where a change happened, in its own order.
    #[must_use]
    pub fn breakpoints(&self, changed: &Changed) -> &[Breakpoint] {
        match changed {
            Changed::Source(key) => self
                .sources
                .get(key)
                .map_or(&[], |source| &source.breakpoints),
            Changed::Functions => &self.functions,
            Changed::Exceptions => &[],
        }
    }

    /// Everything in it, as changes: what another process has to be told, or what is gone with its owner.
    #[must_use]
    pub fn everything(&self) -> Vec<Changed> {
        let mut all: Vec<Changed> = self.sources.keys().cloned().map(Changed::Source).collect();
        if !self.functions.is_empty() {
            all.push(Changed::Functions);
        }
        if self.exceptions.is_some() {
            all.push(Changed::Exceptions);
        }
        all
    }
}

/// The request that gives the process the union of what the owners want, and the union's breakpoints in its order.
///
/// With `helper` the process has the guard's `hit`, which asks each part by itself; without it, breakpoints
/// that differ are merged into one that always stops: a stop too many can be continued, one too few is lost.
pub fn union<'a, Owner: Copy + std::fmt::Display + 'a>(
    changed: &Changed,
    owners: impl Iterator<Item = (Owner, &'a Configuration)> + Clone,
    helper: bool,
) -> (Message, Vec<Merged<Owner>>) {
    let lists = owners
        .clone()
        .map(|(owner, of)| (owner, of.breakpoints(changed)));
    let merged = merge(lists, helper);
    let breakpoints: Vec<&Breakpoint> = merged.iter().map(|merged| &merged.breakpoint).collect();
    let request = match changed {
        Changed::Source(key) => {
            // The newest client's word for the source; when nobody is left, its path alone clears it.
            let source = owners.filter_map(|(_, of)| of.sources.get(key)).last();
            let source =
                source.map_or_else(|| json!({ "path": key }), |source| source.source.clone());
            Message::request(
                "setBreakpoints",
                json!({ "source": source, "breakpoints": breakpoints }),
            )
        }
        Changed::Functions => Message::request(
            "setFunctionBreakpoints",
            json!({ "breakpoints": breakpoints }),
        ),
        Changed::Exceptions => Message::request(
            "setExceptionBreakpoints",
            merge_exceptions(owners.filter_map(|(_, of)| of.exceptions.as_ref())),
        ),
    };
    (request, merged)
}

/// One breakpoint a place, in the order in which the places are first named.
fn merge<'a, Owner: Copy + std::fmt::Display>(
    lists: impl Iterator<Item = (Owner, &'a [Breakpoint])>,
    helper: bool,
) -> Vec<Merged<Owner>> {
    let mut places: Vec<Vec<(Owner, &Breakpoint)>> = Vec::new();
    let mut index = HashMap::new();
    for (owner, breakpoints) in lists {
        for breakpoint in breakpoints {
            let place = *index.entry(breakpoint.place()).or_insert(places.len());
            if place == places.len() {
                places.push(Vec::new());
            }
            places[place].push((owner, breakpoint));
        }
    }
    places
        .iter()
        .map(|place| merge_place(place, helper))
        .collect()
}

fn merge_place<Owner: Copy + std::fmt::Display>(
    place: &[(Owner, &Breakpoint)],
    helper: bool,
) -> Merged<Owner> {
    let mut breakpoint = place[0].1.clone();
    if place.iter().any(|(_, other)| !other.acts_like(&breakpoint)) {
        breakpoint.hit_condition = None;
        breakpoint.log_message = None;
        breakpoint.condition = helper.then(|| {
            let parts: Vec<String> = place
                .iter()
                .map(|(owner, part)| python_part(*owner, part))
                .collect();
            format!(
                "__import__('_dbgproxy').hit([{}], globals(), locals())",
                parts.join(", ")
            )
        });
    }
    let parts = place
        .iter()
        .map(|(owner, breakpoint)| (*owner, breakpoint.id))
        .collect();
    Merged { breakpoint, parts }
}

/// `[key, condition, hitCondition, logMessage]` as a Python list.
fn python_part(owner: impl std::fmt::Display, part: &Breakpoint) -> String {
    // A JSON string is a Python string literal too, and null is the one word that differs.
    let literal = |text: &Option<String>| {
        text.as_ref()
            .map_or("None".into(), |text| Value::from(text.as_str()).to_string())
    };
    format!(
        "[\"{owner}:{}\", {}, {}, {}]",
        part.id,
        literal(&part.condition),
        literal(&part.hit_condition),
        literal(&part.log_message)
    )
}

/// All filters and all options; filters become options where somebody has options, because pydevd then
/// looks at nothing else.
fn merge_exceptions<'a>(all: impl Iterator<Item = &'a Exceptions>) -> Value {
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

/// Several clients say `null` where they mean an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
