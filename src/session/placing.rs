//! Breakpoints in the process: the union of what its owners want, and what the process says became of it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::asker::{Asker, Owner};
use super::dormancy::Question;
use super::requests::{MAX_PENDING, Pending};
use super::{Session, Stage};
use crate::breakpoints::{Changed, Configuration, Lines, Merged, Own, Place, union};
use crate::client::{ClientId, FromSession};
use crate::wire::{Message, Outbox};

/// How many breakpoints are remembered that the process was told to forget, the latest of them: a stop at one may be
/// on its way.
const FORMER: usize = 256;

/// A union of breakpoints that the process was given.
pub(super) struct Union {
    changed: Changed,
    /// In its order, whose they are.
    merged: Vec<Merged<Owner>>,
    /// The lines are those to which the process has moved them.
    is_moved: bool,
    pub(super) audience: Audience,
}

/// Who waits for the process's word on a union of breakpoints.
#[derive(Default)]
pub(super) struct Audience {
    /// Who is to be answered, and its own breakpoints, in its order.
    pub(super) answer: Option<(Asker, Vec<Own>)>,
    /// Whose verdict is another than it was told.
    news: Vec<(ClientId, Own)>,
}

/// One of pydevd's breakpoints and its owners.
pub(super) struct Placed {
    /// pydevd's number.
    pub(super) id: i64,
    /// Where it is.
    pub(super) place: Place,
    /// Who wants it, and their own numbers for it.
    pub(super) parts: Vec<(Owner, i64)>,
    /// What pydevd said of it, if it is one of the daemon's own, of which somebody may ask later.
    verdict: Option<Map<String, Value>>,
}

impl Session {
    /// Somebody sets breakpoints: its own are replaced, and the process gets the new union.
    pub(super) fn configure(&mut self, asker: Asker, message: &Message, out: &mut Outbox) {
        let Owner::Client(client) = asker.owner() else {
            return asker.fail("the daemon's own breakpoints are those that it stores");
        };
        let handle = self.handle.clone();
        let mut watchers = self.watchers.iter_mut();
        let Some(watcher) = watchers.find(|watcher| watcher.client.id == client) else {
            return asker.lost();
        };
        match watcher.configuration.apply(message) {
            Err(error) => asker.fail(&error.to_string()),
            Ok(changed) => {
                watcher
                    .configuration
                    .hold_in(&changed, &handle.info().subject());
                let own = watcher.configuration.own(&changed);
                self.send_union_for(changed, asker, own, out);
            }
        }
    }

    /// What the daemon stores for a file has changed, as far as is known: it is taken over as it is now.
    pub(super) fn take_stored(&mut self, file: &str, asker: Option<Asker>, out: &mut Outbox) {
        if self.stage == Stage::Ended {
            return asker.map_or((), Asker::lost);
        }
        if self.pending.len() >= MAX_PENDING {
            let why =
                "the process already owes too many answers; add it again when it has answered";
            return asker.map_or((), |asker| asker.fail(why));
        }
        let is_new = self.read_stored(file);
        let changed = Changed::Source(file.to_owned());
        match asker {
            Some(asker) if self.is_asleep() => {
                self.ask_later(asker, Question::Stored(file.into()));
            }
            Some(asker) => {
                let own = self.stored.own(&changed);
                self.send_union_for(changed, asker, own, out);
            }
            None if is_new && self.takes_breakpoints() => {
                self.send_union(changed, Audience::default(), out);
            }
            None if is_new => self.want(),
            None => {}
        }
    }

    /// Whether pydevd takes breakpoints now. If not, it gets everything with its first `attach`.
    fn takes_breakpoints(&self) -> bool {
        self.is_linked() && self.options.is_attached()
    }

    /// True if the process is to get something else than until now.
    fn read_stored(&mut self, file: &str) -> bool {
        let stored = self.hub.breakpoints.of(file);
        let info = self.handle.info();
        self.stored.set_stored(file, &stored, &info.subject())
    }

    /// Takes over all that the daemon stores.
    pub(super) fn read_all_stored(&mut self) {
        self.stored = Configuration::default();
        for (file, stored) in self.hub.breakpoints.by_file() {
            let info = self.handle.info();
            self.stored.set_stored(&file, &stored, &info.subject());
        }
    }

    /// What the process says of the daemon's own breakpoints that it was given.
    pub(super) fn stored_verdicts(&self) -> Vec<Value> {
        let mut verdicts = Vec::new();
        for placed in self.placed.values().flatten() {
            for (owner, id) in &placed.parts {
                if let (Owner::Daemon, Some(verdict)) = (owner, &placed.verdict) {
                    verdicts.push(with_id(verdict, *id));
                }
            }
        }
        verdicts
    }

    /// The name or the labels of the session have changed: what holds here now, or no more, is given to the process
    /// or taken from it, and its owner is told.
    pub(super) fn scope_changed(&mut self, out: &mut Outbox) {
        if self.pending.len() >= MAX_PENDING {
            // It answers nothing: a process that calls itself something else all the time is given no more of it.
            return;
        }
        let rescoped = self.rescope();
        self.send_rescoped(rescoped, out);
    }

    /// Finds out what holds here; gives what did otherwise until now, by what is to be set for it.
    pub(super) fn rescope(&mut self) -> BTreeMap<Changed, Vec<(ClientId, Own)>> {
        let info = self.handle.info();
        let subject = info.subject();
        let mut rescoped: BTreeMap<Changed, Vec<(ClientId, Own)>> = BTreeMap::new();
        for changed in self.stored.everything() {
            if !self.stored.hold_in(&changed, &subject).is_empty() {
                rescoped.entry(changed).or_default();
            }
        }
        for watcher in &mut self.watchers {
            for changed in watcher.configuration.everything() {
                for own in watcher.configuration.hold_in(&changed, &subject) {
                    let news = rescoped.entry(changed.clone()).or_default();
                    news.push((watcher.client.id, own));
                }
            }
        }
        rescoped
    }

    /// Gives the process what holds here now, and tells the owners.
    pub(super) fn send_rescoped(
        &mut self,
        rescoped: BTreeMap<Changed, Vec<(ClientId, Own)>>,
        out: &mut Outbox,
    ) {
        if !self.takes_breakpoints() {
            return;
        }
        for (changed, news) in rescoped {
            let answer = None;
            self.send_union(changed, Audience { answer, news }, out);
        }
    }

    /// Everything that is set, with its owners: the daemon first, then the clients as they came.
    fn configurations(&self) -> impl Iterator<Item = (Owner, &Configuration)> + Clone {
        let of_clients = self
            .watchers
            .iter()
            .map(|watcher| (Owner::Client(watcher.client.id), &watcher.configuration));
        std::iter::once((Owner::Daemon, &self.stored)).chain(of_clients)
    }

    /// Gives the process what all want together, and answers one of them with what becomes of its own.
    fn send_union_for(&mut self, changed: Changed, asker: Asker, own: Vec<Own>, out: &mut Outbox) {
        if !self.is_linked() {
            let verdicts = own.into_iter().map(|own| {
                let why = own.withheld.as_deref();
                unverified(own.id, why.unwrap_or("the process is being replaced"))
            });
            return asker.succeed(verdict_body(&changed, verdicts.collect()));
        }
        if !self.options.is_attached() {
            // pydevd takes breakpoints from there on only.
            self.attach_without_client(out);
        }
        let audience = Audience {
            answer: Some((asker, own)),
            news: Vec::new(),
        };
        self.send_union(changed, audience, out);
    }

    /// Gives the process what all want together where something changed.
    pub(super) fn send_union(&mut self, changed: Changed, audience: Audience, out: &mut Outbox) {
        self.send_union_at(changed, &Lines::default(), audience, out);
    }

    /// The same, where it is known to which lines the process moves breakpoints.
    fn send_union_at(
        &mut self,
        changed: Changed,
        lines: &Lines,
        audience: Audience,
        out: &mut Outbox,
    ) {
        let owners = self.configurations();
        let (request, merged) = union(&changed, lines, owners, self.caller.report.guarded);
        let union = Union {
            changed,
            merged,
            is_moved: !lines.is_empty(),
            audience,
        };
        self.ask(request, Pending::Breakpoints(union), out);
    }

    /// Gives the process everything that all want together.
    pub(super) fn send_all_unions(&mut self, out: &mut Outbox) {
        let all = self
            .configurations()
            .flat_map(|(_, configuration)| configuration.everything());
        let all: BTreeSet<Changed> = all.collect();
        for changed in all {
            self.send_union(changed, Audience::default(), out);
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
            return self.send_union_at(union.changed, &lines, union.audience, out);
        }
        let Union {
            changed,
            merged,
            audience: Audience { answer, news },
            ..
        } = union;
        let verdict = |owner: Owner, Own { id, withheld }: Own| {
            let part = (owner, id);
            let index = merged
                .iter()
                .position(|merged| merged.parts.contains(&part));
            match (withheld, index.and_then(|index| breakpoints.get(index))) {
                (Some(why), _) => unverified(id, &why),
                (None, Some(verdict)) => with_id(verdict, id),
                (None, None) => unverified(id, "the process said nothing of this breakpoint"),
            }
        };
        if let Some((asker, own)) = answer {
            if message.success() {
                let owner = asker.owner();
                let verdicts = own.into_iter().map(|own| verdict(owner, own)).collect();
                asker.succeed(verdict_body(&changed, verdicts));
            } else {
                asker.answer(message.clone());
            }
        }
        for (client, own) in news {
            let verdict = verdict(Owner::Client(client), own);
            let body = json!({ "reason": "changed", "breakpoint": verdict });
            let event = FromSession::Event(Message::event("breakpoint", body));
            if let Some(watcher) = self.watcher(client) {
                watcher.client.tell(self.handle.id, event);
            }
        }
        let placed: Vec<Placed> = breakpoints
            .into_iter()
            .zip(merged)
            .filter_map(|(verdict, merged)| {
                let is_ours = |(owner, _): &(Owner, i64)| *owner == Owner::Daemon;
                Some(Placed {
                    id: verdict.get("id").and_then(Value::as_i64)?,
                    place: merged.breakpoint.place(),
                    verdict: merged.parts.iter().any(is_ours).then_some(verdict),
                    parts: merged.parts,
                })
            })
            .collect();
        let old = if placed.is_empty() {
            self.placed.remove(&changed)
        } else {
            self.placed.insert(changed.clone(), placed)
        };
        for mut placed in old.into_iter().flatten() {
            placed.verdict = None;
            self.former.push_back((changed.clone(), placed));
        }
        let too_many = self.former.len().saturating_sub(FORMER);
        self.former.drain(..too_many);
    }

    /// Everything that the process has, or had a moment ago.
    pub(super) fn placed_lately(&self) -> impl Iterator<Item = (&Changed, &Placed)> {
        let now = self.placed.iter();
        let now = now.flat_map(|(changed, all)| all.iter().map(move |placed| (changed, placed)));
        now.chain(
            self.former
                .iter()
                .map(|(changed, placed)| (changed, placed)),
        )
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

/// A verdict under its owner's number.
fn with_id(verdict: &Map<String, Value>, id: i64) -> Value {
    let mut verdict = verdict.clone();
    verdict.insert("id".into(), id.into());
    Value::Object(verdict)
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
