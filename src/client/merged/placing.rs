//! Breakpoints of the merged view: set in every process, verified when any process has verified them.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::gather::What;
use super::{Fleet, Member};
use crate::breakpoints::Changed;
use crate::wire::{Message, Outbox};

/// What a configuration request has set.
pub(super) struct Set {
    /// A number that no other has, to tell an answer to it from one to what was set before.
    pub(super) number: u64,
    pub(super) request: Message,
    /// The view's numbers of its breakpoints, and what was last said of them.
    pub(super) breakpoints: Vec<(i64, Map<String, Value>)>,
}

impl Fleet {
    /// The client sets breakpoints: in all processes that there are, and in those that come.
    pub(super) fn set_breakpoints(
        &mut self,
        message: &Message,
        out: &mut Outbox,
    ) -> Result<(), String> {
        let request = for_all(message)?;
        let changed = self
            .configuration
            .apply(&request)
            .map_err(|error| error.to_string())?;
        // What was set there before is answered with what is known of it: nobody will say more.
        let old = self.gathers.iter().filter(
            |(_, gather)| matches!(&gather.what, What::Breakpoints(old, _) if *old == changed),
        );
        let old: Vec<u64> = old.map(|(number, _)| *number).collect();
        for number in old {
            self.finish_without(number, &[], out);
        }
        if let Some(old) = self.set.remove(&changed) {
            let old: BTreeSet<i64> = old.breakpoints.iter().map(|(id, _)| *id).collect();
            for process in self.members.values_mut() {
                process.breakpoints.retain(|_, id| !old.contains(id));
            }
            for id in old {
                self.lens.drop_breakpoint(id);
            }
        }
        self.sets += 1;
        let number = self.sets;
        let wanted = self.configuration.breakpoints(&changed);
        if !wanted.is_empty() || changed == Changed::Exceptions {
            let breakpoints = wanted.iter().map(|breakpoint| {
                let id = self.lens.breakpoint();
                let why = breakpoint.withheld();
                let why = why.unwrap_or("set in each process that comes");
                let verdict = json!({ "id": id, "verified": false, "message": why });
                (id, verdict.as_object().cloned().unwrap_or_default())
            });
            let set = Set {
                number,
                breakpoints: breakpoints.collect(),
                request: request.detached(),
            };
            self.set.insert(changed.clone(), set);
        }
        let members = self.members.keys().copied().collect();
        let what = What::Breakpoints(changed, number);
        self.gather_for(message.seq(), &request, members, what, out);
        Ok(())
    }

    /// A process has said what became of breakpoints: one that any process has verified is verified.
    pub(super) fn on_verdicts(
        &mut self,
        member: Member,
        changed: &Changed,
        number: u64,
        message: &Message,
        out: &mut Outbox,
    ) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !message.success() {
            let (command, name) = (message.name(), process.name());
            tracing::warn!(name, command, "a process of a merged view has refused");
        }
        let Some(set) = self.set.get_mut(changed) else {
            return;
        };
        if set.number != number {
            return;
        }
        let renamed = self.lens.outward(member, None, message);
        let mut body: Value = renamed
            .and_then(|message| message.decode())
            .unwrap_or_default();
        let verdicts = body.get_mut("breakpoints").map(Value::take);
        let Some(Value::Array(verdicts)) = verdicts else {
            return;
        };
        let gathered = self
            .gathers
            .values()
            .any(|gather| matches!(gather.what, What::Breakpoints(_, of) if of == number));
        for ((id, known), verdict) in set.breakpoints.iter_mut().zip(verdicts) {
            let Value::Object(verdict) = verdict else {
                continue;
            };
            if let Some(native) = verdict.get("id").and_then(Value::as_i64) {
                process.breakpoints.insert(native, *id);
            }
            if improve(*id, known, verdict) && !gathered {
                let body = json!({ "reason": "changed", "breakpoint": known });
                out.send(&Message::event("breakpoint", body));
            }
        }
    }

    /// A process has changed its mind about a breakpoint.
    pub(super) fn on_breakpoint(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        let renamed = self.lens.outward(member, None, event);
        let Ok(mut body) = renamed.and_then(|event| event.decode::<Value>()) else {
            return;
        };
        let verdict = body.get_mut("breakpoint").map(Value::take);
        let (Some(Value::Object(verdict)), Some(process)) = (verdict, self.members.get(&member))
        else {
            return;
        };
        let native = verdict.get("id").and_then(Value::as_i64);
        let Some(id) = native.and_then(|native| process.breakpoints.get(&native).copied()) else {
            return;
        };
        let mut all = self.set.values_mut().flat_map(|set| &mut set.breakpoints);
        if let Some((_, known)) = all.find(|(of, _)| *of == id)
            && improve(id, known, verdict)
        {
            let body = json!({ "reason": "changed", "breakpoint": known });
            out.send(&Message::event("breakpoint", body));
        }
    }
}

/// What is set in all processes must mean the same in all of them: a source is known by its path.
fn for_all(message: &Message) -> Result<Message, String> {
    if message.name() != "setBreakpoints" {
        return Ok(message.clone());
    }
    let mut arguments: Value = message.decode().map_err(|error| error.to_string())?;
    let Some(source) = arguments.get_mut("source").and_then(Value::as_object_mut) else {
        return Ok(message.clone());
    };
    let reference = source.remove("sourceReference");
    if source.contains_key("path") || reference.is_none() {
        return Ok(Message::request("setBreakpoints", arguments));
    }
    Err("a source without a path is one process's own: set its breakpoints in a session of that process".into())
}

/// Takes over a process's verdict on a breakpoint, if it is better than what is known, or at least newer.
///
/// True if that is news.
fn improve(id: i64, known: &mut Map<String, Value>, mut verdict: Map<String, Value>) -> bool {
    let is_verified = |verdict: &Map<String, Value>| verdict.get("verified") == Some(&true.into());
    verdict.insert("id".into(), id.into());
    let is_better = is_verified(&verdict) || !is_verified(known);
    let is_news = is_better && *known != verdict;
    if is_news {
        *known = verdict;
    }
    is_news
}
