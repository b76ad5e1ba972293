//! Breakpoints of several clients in one process: what each has asked for, and the union that the process gets.
//!
//! pydevd keeps one breakpoint a line (the last one wins), and one set of exception filters. So what
//! several clients want of one line is merged into one breakpoint whose condition asks each of them in turn;
//! the helper that it calls is part of the guard that the greeting installs (`session/guard.py`).
//! A breakpoint that holds elsewhere only (`@{SELECTOR}`) is in no union.
//! This module knows no connection; it turns lists into lists.

mod scope;
pub mod store;

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::selector::{Selector, Subject};
use crate::wire::{Error, Message};
use store::Stored;

/// A breakpoint as DAP's `SourceBreakpoint` or `FunctionBreakpoint` has it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Breakpoint {
    /// The number under which its owner knows it; never sent to the process.
    #[serde(skip)]
    pub id: i64,
    /// In which sessions it holds, if not in all.
    #[serde(skip)]
    scope: Option<Selector>,
    /// Why the process is not given it, if it is not.
    #[serde(skip)]
    withheld: Option<String>,
    /// The helper is asked even if it is alone at its place: it says that it was this one, as not every pydevd does.
    #[serde(skip)]
    is_announced: bool,
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
        // A name makes a function breakpoint only where there is no line.
        let name = self.name.clone().filter(|_| self.line.is_none());
        Place {
            line: self.line,
            name,
        }
    }

    /// The line of a source breakpoint.
    #[must_use]
    pub fn line(&self) -> Option<i64> {
        self.line
    }

    /// Why the process is not given it, if it is not.
    #[must_use]
    pub fn withheld(&self) -> Option<&str> {
        self.withheld.as_deref()
    }

    /// Takes the scope off the condition. One that cannot be read holds nowhere: to stop everywhere is not what was
    /// meant.
    fn read_scope(&mut self) {
        match scope::read(self.condition.as_deref().unwrap_or_default()) {
            Ok(None) => {}
            Ok(Some(scoped)) => {
                self.scope = Some(scoped.scope);
                self.condition = scoped.condition;
            }
            Err(error) => self.withheld = Some(error.to_string()),
        }
    }

    /// Finds out whether it holds in a session; true if it did otherwise until now.
    fn hold_in(&mut self, session: &Subject<'_>) -> bool {
        let Some(scope) = &self.scope else {
            return false;
        };
        let withheld = (!scope.matches(session))
            .then(|| format!("holds only in {scope}, which this process is not"));
        let has_changed = withheld.is_some() != self.withheld.is_some();
        self.withheld = withheld;
        has_changed
    }

    fn own(&self) -> Own {
        Own {
            id: self.id,
            withheld: self.withheld.clone(),
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

/// By the line that was asked for, the line where the process has put a breakpoint.
pub type Lines = BTreeMap<i64, i64>;

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
    /// By [`Changed::Source`] or [`Changed::Reference`].
    sources: BTreeMap<Changed, Source>,
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
    /// The breakpoints of the source with this path, as the client sent it.
    Source(String),
    /// The breakpoints of the source without a path that has this `sourceReference`.
    Reference(i64),
    /// The function breakpoints.
    Functions,
    /// The exception filters.
    Exceptions,
}

/// What the owner of a breakpoint is to be told of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Own {
    /// The owner's number.
    pub id: i64,
    /// Why the process is not given it, if it is not.
    pub withheld: Option<String>,
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

/// The request that gives the process the union of what the owners want, and the union's breakpoints in its order.
///
/// With `helper` the process has the guard's `hit`, which asks each part by itself; without it, breakpoints
/// that differ are merged into one that always stops: a stop too many can be continued, one too few is lost.
pub fn union<'a, Owner: Copy + Eq + std::fmt::Display + 'a>(
    changed: &Changed,
    lines: &Lines,
    owners: impl Iterator<Item = (Owner, &'a Configuration)> + Clone,
    helper: bool,
) -> (Message, Vec<Merged<Owner>>) {
    let lists = owners
        .clone()
        .map(|(owner, of)| (owner, of.breakpoints(changed)));
    let merged = merge(lists, lines, helper);
    let breakpoints: Vec<&Breakpoint> = merged.iter().map(|merged| &merged.breakpoint).collect();
    let request = match changed {
        Changed::Source(_) | Changed::Reference(_) => {
            // The newest client's word for the source; when nobody is left, its name alone clears it.
            let newest = owners.filter_map(|(_, of)| of.sources.get(changed)).last();
            let source = match (newest, changed) {
                (Some(newest), _) => newest.source.clone(),
                (None, Changed::Reference(reference)) => json!({ "sourceReference": reference }),
                (None, Changed::Source(path)) => json!({ "path": path }),
                (None, _) => Value::Null,
            };
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
fn merge<'a, Owner: Copy + Eq + std::fmt::Display>(
    lists: impl Iterator<Item = (Owner, &'a [Breakpoint])>,
    lines: &Lines,
    helper: bool,
) -> Vec<Merged<Owner>> {
    let mut places: Vec<Vec<(Owner, &Breakpoint)>> = Vec::new();
    let mut index = HashMap::new();
    for (owner, breakpoints) in lists {
        let given = breakpoints.iter();
        for breakpoint in given.filter(|breakpoint| breakpoint.withheld.is_none()) {
            let mut place = breakpoint.place();
            place.line = place.line.map(|line| *lines.get(&line).unwrap_or(&line));
            let place = *index.entry(place).or_insert(places.len());
            if place == places.len() {
                places.push(Vec::new());
            }
            places[place].push((owner, breakpoint));
        }
    }
    let mut owners = places.iter().flatten().map(|(owner, _)| *owner);
    let first = owners.next();
    let is_shared = owners.any(|owner| Some(owner) != first);
    places
        .iter()
        .map(|place| merge_place(place, lines, is_shared, helper))
        .collect()
}

/// Merges what stands at one place. In a source that is shared, the helper counts hits: pydevd forgets its own
/// counts whenever anybody sets the source's breakpoints anew.
fn merge_place<Owner: Copy + std::fmt::Display>(
    place: &[(Owner, &Breakpoint)],
    lines: &Lines,
    is_shared: bool,
    helper: bool,
) -> Merged<Owner> {
    let mut breakpoint = place[0].1.clone();
    breakpoint.line = breakpoint
        .line
        .map(|line| *lines.get(&line).unwrap_or(&line));
    let differ = place.iter().any(|(_, other)| !other.acts_like(&breakpoint));
    let counts = place.iter().any(|(_, other)| other.hit_condition.is_some());
    let announced = place.iter().any(|(_, other)| other.is_announced);
    if differ || (counts && is_shared || announced) && helper {
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

/// A path without `.`, `..` and empty parts, as far as that can be told from its text.
fn normalized(path: &str) -> String {
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

/// Several clients say `null` where they mean an empty list.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};
    use std::io::Write;
    use std::process::{Command, Stdio};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    use super::*;

    /// The source that most tests are about.
    const PATH: &str = "/app/main.py";

    fn set(path: &str, breakpoints: &Value) -> Message {
        let arguments = json!({ "source": { "path": path }, "breakpoints": breakpoints });
        Message::request("setBreakpoints", arguments)
    }

    /// A client that has sent these requests, all of which are good.
    fn client(requests: &[Message]) -> Configuration {
        let mut configuration = Configuration::default();
        for request in requests {
            configuration.apply(request).expect("it is a good request");
        }
        configuration
    }

    /// What the process is sent, and whose the breakpoints are; the clients are 1, 2, 3, ….
    fn united(
        changed: &Changed,
        clients: &[Configuration],
        helper: bool,
    ) -> (Value, Vec<Merged<u32>>) {
        let (request, merged) = union(changed, &Lines::new(), (1..).zip(clients), helper);
        (request.decode().expect("it has arguments"), merged)
    }

    /// What each client has set in one source; what the process gets, with `OWNER:ID …` before each.
    fn check(clients: &[Value], helper: bool, expected: &[(&str, Value)]) {
        let clients: Vec<Configuration> = clients
            .iter()
            .map(|breakpoints| client(&[set(PATH, breakpoints)]))
            .collect();
        let (arguments, merged) = united(&Changed::Source(PATH.into()), &clients, helper);
        let parts: Vec<String> = merged.iter().map(parts).collect();
        let (expected_parts, expected): (Vec<&str>, Vec<&Value>) = expected
            .iter()
            .map(|(parts, value)| (*parts, value))
            .unzip();
        assert_eq!(arguments["breakpoints"], json!(expected));
        assert_eq!(arguments["source"], json!({ "path": PATH }));
        assert_eq!(parts, expected_parts);
    }

    fn parts(merged: &Merged<u32>) -> String {
        let parts: Vec<String> = merged
            .parts
            .iter()
            .map(|(owner, id)| format!("{owner}:{id}"))
            .collect();
        parts.join(" ")
    }

    #[test]
    fn what_only_one_client_wants_stays_as_it_is() {
        let odd = json!({
            "line": 3, "column": 7, "condition": "x > 1", "hitCondition": ">= 2", "logMessage": "{x}",
            "mode": "hardware", "vendor": { "deep": [1, 2.5, null, "ü"] }, "breakpointId": "a-1",
        });
        let plain = json!({ "line": 9 });
        for helper in [true, false] {
            let own = [("1:1", odd.clone()), ("1:2", plain.clone())];
            check(&[json!([odd, plain])], helper, &own);
        }
        let mut counted = odd.clone();
        counted.as_object_mut().unwrap().remove("hitCondition");
        check(
            &[json!([counted, plain]), json!([{ "line": 4 }])],
            true,
            &[
                ("1:1", counted.clone()),
                ("1:2", plain.clone()),
                ("2:1", json!({ "line": 4 })),
            ],
        );
    }

    #[test]
    fn hits_in_a_shared_source_are_counted_by_the_helper() {
        let counted = json!({ "line": 3, "hitCondition": "10" });
        let clients = [json!([counted]), json!([{ "line": 4 }])];
        let condition =
            r#"__import__('_dbgproxy').hit([["1:1", None, "10", None]], globals(), locals())"#;
        let other = ("2:1", json!({ "line": 4 }));
        let asked = json!({ "line": 3, "condition": condition });
        check(&clients, true, &[("1:1", asked), other.clone()]);
        check(&clients, false, &[("1:1", counted), other]);
    }

    #[test]
    fn what_the_process_moves_to_one_line_is_merged_there() {
        let clients = [
            client(&[set(PATH, &json!([{ "line": 4 }]))]),
            client(&[set(PATH, &json!([{ "line": 3, "condition": "False" }]))]),
        ];
        let lines = Lines::from([(4, 3)]);
        let (_, merged) = union(
            &Changed::Source(PATH.into()),
            &lines,
            (1..).zip(&clients),
            true,
        );
        assert_eq!(merged.len(), 1);
        assert_eq!(merged[0].breakpoint.line(), Some(3));
        assert_eq!(merged[0].parts, [(1, 1), (2, 1)]);
    }

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

    #[test]
    fn equal_ones_become_one_and_belong_to_both() {
        let one = json!({ "line": 3, "condition": "x", "logMessage": "m" });
        for helper in [true, false] {
            check(
                &[json!([one]), json!([{ "line": 8 }, one]), json!([one])],
                helper,
                &[("1:1 2:2 3:1", one.clone()), ("2:1", json!({ "line": 8 }))],
            );
        }
        // Null is nothing.
        check(
            &[
                json!([{ "line": 3 }]),
                json!([{ "line": 3, "condition": null, "hitCondition": null }]),
            ],
            true,
            &[("1:1 2:1", json!({ "line": 3 }))],
        );
    }

    #[test]
    fn different_ones_are_asked_one_by_one() {
        let clients = [
            json!([{ "line": 3, "condition": "x == \"a\"", "mode": "m" }]),
            json!([{ "line": 3, "hitCondition": ">2" }, { "line": 3, "logMessage": "{x}\n" }]),
            json!([{ "line": 3 }]),
        ];
        let condition = r#"__import__('_dbgproxy').hit([["1:1", "x == \"a\"", None, None], ["2:1", None, ">2", None], ["2:2", None, None, "{x}\n"], ["3:1", None, None, None]], globals(), locals())"#;
        let all = "1:1 2:1 2:2 3:1";
        check(
            &clients,
            true,
            &[(
                all,
                json!({ "line": 3, "mode": "m", "condition": condition }),
            )],
        );
        // Who cannot ask stops.
        check(&clients, false, &[(all, json!({ "line": 3, "mode": "m" }))]);
    }

    #[test]
    fn one_that_differs_in_any_respect_is_asked() {
        let full = json!({ "line": 3, "condition": "c", "hitCondition": "h", "logMessage": "l" });
        for field in ["condition", "hitCondition", "logMessage"] {
            for value in [json!("other"), Value::Null] {
                let mut other = full.clone();
                other[field] = value;
                let clients = [json!([full]), json!([other])].map(|all| client(&[set(PATH, &all)]));
                let (arguments, _) = united(&Changed::Source(PATH.into()), &clients, true);
                let merged = arguments["breakpoints"][0].as_object().unwrap();
                let keys: Vec<&String> = merged.keys().collect();
                assert_eq!(keys, ["condition", "line"], "{other}");
                assert!(
                    merged["condition"]
                        .as_str()
                        .unwrap()
                        .contains("_dbgproxy').hit([")
                );
            }
        }
    }

    #[test]
    fn functions_are_merged_by_name() {
        let functions = |breakpoints: Value| {
            client(&[Message::request(
                "setFunctionBreakpoints",
                json!({ "breakpoints": breakpoints }),
            )])
        };
        let clients = [
            functions(json!([{ "name": "f" }, { "name": "g", "condition": "a" }])),
            functions(json!([{ "name": "g", "condition": "b" }, { "name": "f" }])),
            Configuration::default(),
        ];
        let (arguments, merged) = united(&Changed::Functions, &clients, false);
        assert_eq!(
            arguments,
            json!({ "breakpoints": [{ "name": "f" }, { "name": "g" }] })
        );
        let parts: Vec<String> = merged.iter().map(parts).collect();
        assert_eq!(parts, ["1:1 2:2", "1:2 2:1"]);
    }

    #[test]
    fn a_source_that_nobody_wants_any_more_is_cleared() {
        let changed = Changed::Source(PATH.into());
        let (arguments, merged) = united(&changed, &[], true);
        assert_eq!(
            arguments,
            json!({ "source": { "path": PATH }, "breakpoints": [] })
        );
        assert!(merged.is_empty());
        // The source is described in the words of who came last.
        let named =
            json!({ "source": { "path": PATH, "name": "main" }, "breakpoints": [{ "line": 1 }] });
        let clients = [
            client(&[set(PATH, &json!([{ "line": 1 }]))]),
            client(&[Message::request("setBreakpoints", named)]),
            client(&[set("/else.py", &json!([{ "line": 2 }]))]),
        ];
        let (arguments, _) = united(&changed, &clients, true);
        assert_eq!(
            arguments,
            json!({ "source": { "path": PATH, "name": "main" }, "breakpoints": [{ "line": 1 }] })
        );
    }

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
            let (arguments, merged) = united(&Changed::Exceptions, &clients, true);
            assert_eq!(arguments, expected, "{requests:?}");
            assert!(merged.is_empty());
        }
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

    /// Text that would break out of a string literal that is written carelessly.
    fn text() -> impl Strategy<Value = String> {
        prop_oneof![
            select(vec![
                "",
                "'",
                "\"",
                "'''",
                "\"\"\"",
                "\\",
                "\\\\\"",
                "\\N{BULLET}",
                "\\x41\\u0041\\101",
                "a\nb\r\nc\rd\te\u{b}\u{c}",
                "\0",
                "\u{1}\u{1f}\u{7f}\u{80}\u{85}\u{9f}",
                "\u{2028}\u{2029}\u{feff}\u{fffd}\u{fffe}\u{ffff}",
                "\u{d7ff}\u{e000}",
                "🐍\u{10000}\u{10ffff}",
                "{x!r:>{width}} %s $y",
                "], globals(), locals()) or True #",
                "None",
            ])
            .prop_map(String::from),
            any::<String>(),
            vec(
                select(vec![
                    '\\', '"', '\'', '\n', '\r', '\0', 'n', 'u', '0', '🐍', '{'
                ]),
                0..12
            )
            .prop_map(|characters| characters.into_iter().collect()),
        ]
    }

    #[test]
    fn python_reads_what_we_write() {
        let python = ["python3", "python"]
            .into_iter()
            .find(|name| Command::new(name).arg("--version").output().is_ok());
        let python = python.expect("there is a Python to ask");

        let part = [text(), text(), text()].map(proptest::option::of);
        let line = vec(part, 2..5);
        let mut runner = TestRunner::deterministic();
        let mut conditions = Vec::new();
        let mut expected = Vec::new();
        while conditions.len() < 500 {
            let parts = line
                .new_tree(&mut runner)
                .expect("nothing is rejected")
                .current();
            let clients: Vec<Configuration> = parts
                .iter()
                .map(|[condition, hit, log]| {
                    let one = json!({ "line": 1, "condition": condition, "hitCondition": hit, "logMessage": log });
                    client(&[set(PATH, &json!([one]))])
                })
                .collect();
            let (arguments, _) = united(&Changed::Source(PATH.into()), &clients, true);
            let condition = arguments["breakpoints"][0]["condition"].clone();
            if parts.iter().all(|part| *part == parts[0]) {
                assert_eq!(condition, json!(parts[0][0]));
                continue;
            }
            conditions.push(condition);
            let rows = parts.iter().zip(1..);
            expected.push(
                rows.map(|([condition, hit, log], owner)| {
                    json!([format!("{owner}:1"), condition, hit, log])
                })
                .collect::<Value>(),
            );
        }

        // The condition is one call, and its first argument is data.
        let program = r#"
import ast, json, sys
out = []
for text in json.loads(sys.stdin.buffer.read()):
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call) and len(call.args) == 3, text
    assert ast.unparse(call.func) == "__import__('_dbgproxy').hit", text
    assert [ast.unparse(arg) for arg in call.args[1:]] == ["globals()", "locals()"], text
    out.append(ast.literal_eval(call.args[0]))
sys.stdout.write(json.dumps(out))
"#;
        let mut child = Command::new(python)
            .args(["-I", "-c", program])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let input = json!(conditions).to_string();
        let mut stdin = child.stdin.take().expect("it is a pipe");
        stdin.write_all(input.as_bytes()).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success());
        let read: Vec<Value> = serde_json::from_slice(&output.stdout).expect("it answers");
        assert_eq!(read, expected);
    }

    /// A breakpoint on one of a few lines, so that several clients meet there.
    fn breakpoint() -> impl Strategy<Value = Value> {
        let words = || proptest::option::weighted(0.3, select(vec!["a", "b"]));
        let extra = proptest::option::weighted(0.2, any::<i64>());
        (1..5_i64, words(), words(), words(), extra).prop_map(
            |(line, condition, hit, log, extra)| {
                let all = json!({
                    "line": line, "condition": condition, "hitCondition": hit, "logMessage": log, "x": extra,
                });
                let Value::Object(all) = all else {
                    unreachable!()
                };
                all.into_iter().filter(|(_, value)| !value.is_null()).collect()
            },
        )
    }

    proptest! {
        #[test]
        fn each_breakpoint_is_in_exactly_one_part(
            requests in vec((0..4_usize, 0..2_usize, vec(breakpoint(), 0..5)), 0..12),
            helper in any::<bool>(),
        ) {
            let paths = ["/a.py", "/b.py"];
            let mut clients: Vec<Configuration> = (0..4).map(|_| Configuration::default()).collect();
            // By client and id: the source, and what was said of the breakpoint when it was set.
            let mut wanted: HashMap<(usize, usize), Vec<Value>> = HashMap::new();
            let mut seen = HashSet::new();
            for (who, path, breakpoints) in requests {
                let request = set(paths[path], &json!(breakpoints));
                let changed = clients[who].apply(&request).unwrap();
                let set_now = clients[who].breakpoints(&changed);
                prop_assert_eq!(set_now.len(), breakpoints.len());
                for breakpoint in set_now {
                    // A number is never used again, or an answer might be to an older breakpoint.
                    prop_assert!(seen.insert((who, breakpoint.id)));
                }
                wanted.insert((who, path), breakpoints);
            }
            for (index, path) in paths.iter().enumerate() {
                let changed = Changed::Source((*path).to_owned());
                let (arguments, merged) = united(&changed, &clients, helper);
                let sent = arguments["breakpoints"].as_array().unwrap();
                prop_assert_eq!(sent.len(), merged.len());
                let owners: HashSet<u32> =
                    merged.iter().flat_map(|merged| merged.parts.iter().map(|part| part.0)).collect();

                let mut places = HashSet::new();
                let mut met = HashSet::new();
                for (sent, merged) in sent.iter().zip(&merged) {
                    prop_assert!(places.insert(merged.breakpoint.place()));
                    prop_assert!(!merged.parts.is_empty());
                    let mut said = Vec::new();
                    for (owner, id) in &merged.parts {
                        prop_assert!(met.insert((*owner, *id)));
                        let who = *owner as usize - 1;
                        let own = clients[who].breakpoints(&changed);
                        let place = own.iter().position(|own| own.id == *id).unwrap();
                        prop_assert_eq!(own[place].place(), merged.breakpoint.place());
                        said.push(wanted[&(who, index)][place].clone());
                    }
                    let acts = |value: &Value| {
                        ["condition", "hitCondition", "logMessage"].map(|field| value.get(field).cloned())
                    };
                    let first = acts(&said[0]);
                    let counted = said.iter().any(|said| acts(said)[1].is_some());
                    let by_helper = helper && owners.len() > 1 && counted;
                    if said.iter().all(|said| acts(said) == first) && !by_helper {
                        prop_assert_eq!(sent, &said[0]);
                    } else {
                        prop_assert_eq!(sent.get("hitCondition"), None);
                        prop_assert_eq!(sent.get("logMessage"), None);
                        prop_assert_eq!(sent.get("condition").is_some(), helper);
                        for (owner, id) in &merged.parts {
                            let key = format!("[\"{owner}:{id}\", ");
                            let condition = sent.get("condition").and_then(Value::as_str);
                            prop_assert!(condition.is_none_or(|text| text.matches(&key).count() == 1));
                        }
                    }
                }
                let own: usize = clients.iter().map(|client| client.breakpoints(&changed).len()).sum();
                prop_assert_eq!(met.len(), own);
            }
        }
    }
}
