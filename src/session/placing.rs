//! Breakpoints in the process: the union of what its clients want, and what the process says became of it.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::asker::{Asker, Owner};
use super::requests::Pending;
use super::{Placed, Session};
use crate::breakpoints::{Changed, Configuration, Lines, Merged, union};
use crate::wire::{Message, Outbox};

/// A union of breakpoints that the process was given.
pub(super) struct Union {
    pub(super) changed: Changed,
    /// In its order, whose they are.
    pub(super) merged: Vec<Merged<Owner>>,
    /// The lines are those to which the process has moved them.
    pub(super) is_moved: bool,
    /// Who is to be answered, and its own numbers, in its order.
    pub(super) answer: Option<(Asker, Vec<i64>)>,
}

impl Session {
    /// Somebody sets breakpoints: its own are replaced, and the process gets the new union.
    pub(super) fn configure(&mut self, asker: Asker, message: &Message, out: &mut Outbox) {
        let is_linked = self.is_linked();
        let Some(configuration) = self.configuration(asker.owner()) else {
            return asker.lost();
        };
        match configuration.apply(message) {
            Err(error) => asker.fail(&error.to_string()),
            Ok(changed) => {
                let ids = configuration.breakpoints(&changed).iter();
                let ids: Vec<i64> = ids.map(|breakpoint| breakpoint.id).collect();
                if !is_linked {
                    let verdicts = ids
                        .into_iter()
                        .map(|id| unverified(id, "the process is being replaced"))
                        .collect();
                    asker.succeed(verdict_body(&changed, verdicts));
                } else {
                    self.send_union(changed, Some((asker, ids)), out);
                }
            }
        }
    }

    /// What somebody has set.
    fn configuration(&mut self, owner: Owner) -> Option<&mut Configuration> {
        let id = match owner {
            Owner::Daemon => return Some(&mut self.stored),
            Owner::Client(id) => id,
        };
        let mut watchers = self.watchers.iter_mut();
        let watcher = watchers.find(|watcher| watcher.client.id == id)?;
        Some(&mut watcher.configuration)
    }

    /// Everything that is set, with its owners: the daemon first, then the clients as they came.
    fn configurations(&self) -> impl Iterator<Item = (Owner, &Configuration)> + Clone {
        let of_clients = self
            .watchers
            .iter()
            .map(|watcher| (Owner::Client(watcher.client.id), &watcher.configuration));
        std::iter::once((Owner::Daemon, &self.stored)).chain(of_clients)
    }

    /// Gives the process what all clients together want where something changed.
    pub(super) fn send_union(
        &mut self,
        changed: Changed,
        answer: Option<(Asker, Vec<i64>)>,
        out: &mut Outbox,
    ) {
        self.send_union_at(changed, &Lines::default(), answer, out);
    }

    /// The same, where it is known to which lines the process moves breakpoints.
    pub(super) fn send_union_at(
        &mut self,
        changed: Changed,
        lines: &Lines,
        answer: Option<(Asker, Vec<i64>)>,
        out: &mut Outbox,
    ) {
        let owners = self.configurations();
        let (request, merged) = union(&changed, lines, owners, self.caller.report.guarded);
        let union = Union {
            changed,
            merged,
            is_moved: !lines.is_empty(),
            answer,
        };
        self.ask(request, Pending::Breakpoints(union), out);
    }

    /// Gives the process everything that all clients together want.
    pub(super) fn send_all_unions(&mut self, out: &mut Outbox) {
        let all = self
            .configurations()
            .flat_map(|(_, configuration)| configuration.everything());
        let all: BTreeSet<Changed> = all.collect();
        for changed in all {
            self.send_union(changed, None, out);
        }
    }

    /// The process has said what became of a union of breakpoints.
    pub(super) fn on_placed(&mut self, union: Union, message: &Message, out: &mut Outbox) {
        #[derive(Default, Deserialize)]
        struct Body {
            #[serde(default)]
            breakpoints: Vec<Map<String, Value>>,
        }
        let Body { breakpoints } = message.decode().unwrap_or_default();
        let lines = breakpoints
            .iter()
            .map(|verdict| verdict.get("line").and_then(Value::as_i64));
        if let Some(lines) = moved_together(&union, lines) {
            // The process keeps one of them only: they are merged where it has put them.
            return self.send_union_at(union.changed, &lines, union.answer, out);
        }
        let Union {
            changed,
            merged,
            answer,
            ..
        } = union;
        if let Some((asker, ids)) = answer {
            if message.success() {
                let verdicts = ids
                    .into_iter()
                    .map(|id| {
                        let part = (asker.owner(), id);
                        let index = merged
                            .iter()
                            .position(|merged| merged.parts.contains(&part));
                        match index.and_then(|index| breakpoints.get(index)) {
                            Some(verdict) => {
                                let mut verdict = verdict.clone();
                                verdict.insert("id".into(), id.into());
                                Value::Object(verdict)
                            }
                            None => unverified(id, "the process said nothing of this breakpoint"),
                        }
                    })
                    .collect();
                asker.succeed(verdict_body(&changed, verdicts));
            } else {
                asker.answer(message.clone());
            }
        }
        let ids = breakpoints
            .iter()
            .map(|verdict| verdict.get("id").and_then(Value::as_i64));
        let placed: Vec<Placed> = ids
            .zip(merged)
            .filter_map(|(id, merged)| {
                Some(Placed {
                    id: id?,
                    place: merged.breakpoint.place(),
                    parts: merged.parts,
                })
            })
            .collect();
        if placed.is_empty() {
            self.placed.remove(&changed);
        } else {
            self.placed.insert(changed, placed);
        }
    }
}

/// Where the process puts breakpoints, if it puts several of a union on one line.
///
/// It moves one from a line without code to the nearest line before that has some.
fn moved_together(union: &Union, lines: impl Iterator<Item = Option<i64>>) -> Option<Lines> {
    if union.is_moved || !matches!(union.changed, Changed::Source(_) | Changed::Reference(_)) {
        return None;
    }
    let wanted = union.merged.iter().map(|merged| merged.breakpoint.line());
    let moves = wanted
        .zip(lines)
        .filter_map(|(wanted, line)| Some((wanted?, line?)));
    let moves: Lines = moves.collect();
    let distinct: BTreeSet<i64> = moves.values().copied().collect();
    (distinct.len() < moves.len()).then_some(moves)
}

pub(super) fn unverified(id: i64, message: &str) -> Value {
    json!({ "id": id, "verified": false, "message": message })
}

/// `setExceptionBreakpoints` has no verdicts to give.
fn verdict_body(changed: &Changed, verdicts: Vec<Value>) -> Value {
    match changed {
        Changed::Exceptions => json!({}),
        _ => json!({ "breakpoints": verdicts }),
    }
}
