//! The union: what several clients want of one process, as the requests that pydevd takes.
//!
//! pydevd keeps one breakpoint a line (the last one wins), and one set of exception filters. So what
//! several clients want of one line is merged into one breakpoint whose condition asks each of them in turn.
//! A breakpoint that holds elsewhere only (`@{SELECTOR}`) is in no union.
//! This module knows no connection; it turns lists into lists.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Display;

use serde_json::{Value, json};

use super::breakpoint::Breakpoint;
use super::configuration::{Changed, Configuration};
use super::{condition, exceptions};
use crate::wire::Message;

/// By the line that was asked for, the line where the process has put a breakpoint.
pub type Lines = BTreeMap<i64, i64>;

/// One breakpoint of the union.
#[derive(Debug, Clone, PartialEq)]
pub struct Merged<Owner> {
    /// What the process gets.
    pub breakpoint: Breakpoint,
    /// Whose it is: the owners and their own numbers.
    pub parts: Vec<(Owner, i64)>,
}

/// The request that gives the process the union of what the owners want, and the union's breakpoints in its order.
///
/// With `helper` the process has the guard's `hit`, which asks each part by itself; without it, breakpoints
/// that differ are merged into one that always stops: a stop too many can be continued, one too few is lost.
pub fn union<'a, Owner: Copy + Eq + Display + 'a>(
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
            let newest = owners.filter_map(|(_, of)| of.source(changed)).last();
            let source = match (newest, changed) {
                (Some(newest), _) => newest.clone(),
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
            exceptions::merge(owners.filter_map(|(_, of)| of.exceptions())),
        ),
    };
    (request, merged)
}

/// One breakpoint a place, in the order in which the places are first named.
fn merge<'a, Owner: Copy + Eq + Display>(
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
fn merge_place<Owner: Copy + Display>(
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
        breakpoint.condition = helper.then(|| condition::asking(place));
    }
    let parts = place
        .iter()
        .map(|(owner, breakpoint)| (*owner, breakpoint.id))
        .collect();
    Merged { breakpoint, parts }
}

#[cfg(test)]
mod tests {
    use std::collections::{HashMap, HashSet};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    use super::super::configuration::tests::{PATH, client, set};
    use super::*;

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
