//! The lens of the merged view: how the ids of many processes look in one DAP session.
//!
//! Every process counts its threads, frames and variables from 1, so each id is renamed on its way to the client,
//! and back on its way to the process that it belongs to. Names of the view come from one counter that goes round
//! in 31 bits and passes over those in use, so that one that has died means nothing for a long time, and never
//! another thing.
//! This module knows nothing of what requests and events do, nor where they have ids: that is what [`Ids`] finds.

mod ids;

use std::collections::{HashMap, HashSet};

use crate::wire::{Error, Message};
use ids::{Id, Ids, Kind, Native};

/// The largest id that every client can keep: DAP's ids are 32 bits wide and positive.
pub const MAX_ID: i64 = i32::MAX as i64;

/// The most ids of one process that mean something at a time, but for its threads. What it shows beyond is given
/// numbers that mean nothing, until it runs on.
pub const MAX_IDS: usize = 64 * 1024;

/// A process of the view; its number is never used again in it.
pub type Member = u64;

/// What an id of the view stands for.
#[derive(Debug, Clone)]
struct Meaning {
    member: Member,
    kind: Kind,
    native: Native,
    /// The thread with whose stop it dies; none if it dies with any resuming of its process.
    thread: Option<i64>,
}

/// Whose the ids of a request are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner {
    /// The process.
    pub member: Member,
    /// The thread that the answer is about.
    pub thread: Option<i64>,
}

/// The ids of one view.
#[derive(Default)]
pub struct Lens {
    last: i64,
    meanings: HashMap<i64, Meaning>,
    names: HashMap<(Member, Kind, Native), i64>,
    /// By process, the ids that it has in the view.
    of_member: HashMap<Member, HashSet<i64>>,
    /// The view's own breakpoints: each stands for one in every process.
    breakpoints: HashSet<i64>,
}

impl Lens {
    /// A number for a breakpoint of the view.
    pub fn breakpoint(&mut self) -> i64 {
        let id = self.fresh();
        self.breakpoints.insert(id);
        id
    }

    /// A breakpoint of the view is gone.
    pub fn drop_breakpoint(&mut self, id: i64) {
        self.breakpoints.remove(&id);
    }

    /// Whether no id of any process means anything.
    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.meanings.is_empty() && self.names.is_empty() && self.of_member.is_empty()
    }

    fn fresh(&mut self) -> i64 {
        loop {
            self.last = if self.last >= MAX_ID {
                1
            } else {
                self.last + 1
            };
            let in_use =
                self.meanings.contains_key(&self.last) || self.breakpoints.contains(&self.last);
            if !in_use {
                return self.last;
            }
        }
    }

    /// The view's name for a thread of a process; how many it has is for the caller to bound.
    pub fn thread(&mut self, member: Member, thread: i64) -> i64 {
        self.name(member, Kind::Thread, Native::Number(thread), None)
    }

    fn name(&mut self, member: Member, kind: Kind, native: Native, thread: Option<i64>) -> i64 {
        let key = (member, kind, native);
        if let Some(id) = self.names.get(&key) {
            return *id;
        }
        let id = self.fresh();
        let ids = self.of_member.entry(member).or_default();
        if kind != Kind::Thread && ids.len() >= MAX_IDS || key.2.is_too_long() {
            return id;
        }
        ids.insert(id);
        let meaning = Meaning {
            member,
            kind,
            native: key.2.clone(),
            thread,
        };
        self.meanings.insert(id, meaning);
        self.names.insert(key, id);
        id
    }

    /// A message of a process with its ids renamed.
    ///
    /// `thread` is the thread whose stop the message is about. Breakpoints keep their ids: they belong to the
    /// view, which has one for all processes. A thread must have been named before.
    ///
    /// # Errors
    /// Its body cannot be read.
    pub fn outward(
        &mut self,
        member: Member,
        thread: Option<i64>,
        message: &Message,
    ) -> Result<Message, Error> {
        self.rename(member, thread, false, message)
    }

    /// The same for an answer that comes when the process has run on: what belonged to the stop is dead already, and
    /// is given numbers that mean nothing.
    ///
    /// # Errors
    /// Its body cannot be read.
    pub fn outward_late(
        &mut self,
        member: Member,
        thread: Option<i64>,
        message: &Message,
    ) -> Result<Message, Error> {
        self.rename(member, thread, true, message)
    }

    fn rename(
        &mut self,
        member: Member,
        thread: Option<i64>,
        is_late: bool,
        message: &Message,
    ) -> Result<Message, Error> {
        let mut renamed = Vec::new();
        for Id { kind, text } in message.decode::<Ids>()?.0 {
            let Some(native) = Native::of(kind, text).filter(|_| kind != Kind::Breakpoint) else {
                continue;
            };
            let is_text = matches!(native, Native::Text(_));
            let key = (member, kind, native);
            let is_nobodys = kind == Kind::Thread && !self.names.contains_key(&key);
            let id = if is_nobodys || is_late && kind.is_of_a_stop() {
                self.fresh()
            } else {
                self.name(member, kind, key.2, thread)
            };
            let id = match is_text {
                true => format!("\"{id}\""),
                false => id.to_string(),
            };
            renamed.push((text, id));
        }
        Ok(message.replace(&renamed))
    }

    /// A request with its ids renamed back, and whose they are; nobody's if there are no ids in it.
    ///
    /// # Errors
    /// What is wrong with it: an id means nothing any more, or they belong to different processes.
    pub fn inward(&self, request: &Message) -> Result<(Message, Option<Owner>), String> {
        let mut owner: Option<Owner> = None;
        let mut renamed = Vec::new();
        let ids: Ids = request.decode().map_err(|error| error.to_string())?;
        for Id { kind, text } in ids.0 {
            let id = match Native::of(kind, text) {
                None => continue,
                Some(Native::Number(id)) => Some(id),
                Some(Native::Text(text)) => text.parse().ok(),
            };
            let meaning = id.and_then(|id| self.meanings.get(&id));
            let Some(meaning) = meaning.filter(|meaning| meaning.kind == kind) else {
                let what = kind.word();
                return Err(format!(
                    "there is no {what} {text} in this session, or no longer"
                ));
            };
            let thread = match (meaning.kind, &meaning.native) {
                (Kind::Thread, Native::Number(thread)) => Some(*thread),
                _ => meaning.thread,
            };
            let known = owner.get_or_insert(Owner {
                member: meaning.member,
                thread,
            });
            if known.member != meaning.member {
                return Err("the ids belong to different processes".into());
            }
            known.thread = known.thread.or(thread);
            renamed.push((text, meaning.native.text()));
        }
        Ok((request.replace(&renamed), owner))
    }

    /// A process runs on, all of it or one thread: what belonged to the stop means nothing any more.
    pub fn resumed(&mut self, member: Member, thread: Option<i64>) {
        self.drop_if(member, |meaning| {
            meaning.kind.is_of_a_stop()
                && (thread.is_none() || meaning.thread.is_none() || meaning.thread == thread)
        });
    }

    /// A thread has exited.
    pub fn exited(&mut self, member: Member, thread: i64) {
        self.drop_if(member, |meaning| {
            let is_it = meaning.kind == Kind::Thread && meaning.native == Native::Number(thread);
            is_it || meaning.kind.is_of_a_stop() && meaning.thread == Some(thread)
        });
    }

    /// A process has left the view.
    pub fn left(&mut self, member: Member) {
        self.drop_if(member, |_| true);
    }

    fn drop_if(&mut self, member: Member, is_dead: impl Fn(&Meaning) -> bool) {
        let Some(ids) = self.of_member.get_mut(&member) else {
            return;
        };
        let (meanings, names) = (&mut self.meanings, &mut self.names);
        ids.retain(|id| {
            let Some(meaning) = meanings.get(id) else {
                return false;
            };
            if !is_dead(meaning) {
                return true;
            }
            if let Some(meaning) = meanings.remove(id) {
                names.remove(&(meaning.member, meaning.kind, meaning.native));
            }
            false
        });
        if ids.is_empty() {
            self.of_member.remove(&member);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, HashMap};

    use proptest::collection::vec;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::ids::MAX_TEXT;
    use super::*;

    /// Renames the ids in a body that comes from a process.
    fn outward(lens: &mut Lens, member: Member, thread: Option<i64>, body: &mut Value) {
        let message = lens.outward(member, thread, &Message::event("e", &*body));
        *body = message.and_then(|message| message.decode()).unwrap();
    }

    /// Renames the ids of a request back, and says whose they are.
    fn inward(lens: &Lens, arguments: &mut Value) -> Result<Option<Owner>, String> {
        let (request, owner) = lens.inward(&Message::request("r", &*arguments))?;
        *arguments = request.decode().unwrap();
        Ok(owner)
    }

    /// A stack answer of a process, as the client sees it: the ids of its frames.
    fn frames(lens: &mut Lens, member: Member, thread: i64, natives: &[i64]) -> Vec<i64> {
        let frames: Vec<Value> = natives
            .iter()
            .map(|id| json!({ "id": id, "name": "f" }))
            .collect();
        let mut body = json!({ "stackFrames": frames });
        outward(lens, member, Some(thread), &mut body);
        let frames = body["stackFrames"].as_array().cloned().unwrap_or_default();
        frames
            .iter()
            .filter_map(|frame| frame["id"].as_i64())
            .collect()
    }

    fn owner_of_frame(lens: &Lens, id: i64) -> Result<(Member, i64), String> {
        let mut arguments = json!({ "frameId": id, "expression": "x" });
        let owner = inward(lens, &mut arguments)?.map(|owner| owner.member);
        Ok((
            owner.unwrap_or_default(),
            arguments["frameId"].as_i64().unwrap_or_default(),
        ))
    }

    #[test]
    fn ids_of_two_processes_never_meet() {
        let mut lens = Lens::default();
        let one = frames(&mut lens, 1, 1, &[2, 3]);
        let two = frames(&mut lens, 2, 1, &[2, 3]);
        assert_eq!(owner_of_frame(&lens, one[0]), Ok((1, 2)));
        assert_eq!(owner_of_frame(&lens, two[1]), Ok((2, 3)));
        let mut both = json!({ "frameId": one[0], "threadId": lens.thread(2, 1) });
        assert!(inward(&lens, &mut both).is_err());
    }

    #[test]
    fn every_id_of_a_body_is_renamed_and_nothing_else() {
        let mut lens = Lens::default();
        lens.thread(9, 1);
        let mut body = json!({
            "id": 5,
            "variables": [{ "name": "id", "value": "7", "variablesReference": 3, "memoryReference": "0x1" }],
            "source": { "sourceReference": 0, "path": "/a.py" },
            "breakpoints": [{ "id": 4 }],
            "targets": [{ "id": 6, "label": "f" }],
            "module": { "id": 0 },
        });
        outward(&mut lens, 1, None, &mut body);
        assert_eq!(body["id"], 5, "an id of nothing that DAP knows");
        assert_eq!(body["variables"][0]["name"], "id");
        assert_eq!(body["source"]["sourceReference"], 0, "no source");
        assert_eq!(body["breakpoints"][0]["id"], 4, "the view's own");
        let mut back = json!({
            "variablesReference": body["variables"][0]["variablesReference"],
            "memoryReference": body["variables"][0]["memoryReference"],
            "targetId": body["targets"][0]["id"],
            "moduleId": body["module"]["id"],
        });
        assert_eq!(
            inward(&lens, &mut back),
            Ok(Some(Owner {
                member: 1,
                thread: None
            }))
        );
        assert_eq!(
            back,
            json!({ "variablesReference": 3, "memoryReference": "0x1", "targetId": 6, "moduleId": 0 })
        );
    }

    #[test]
    fn what_is_told_of_a_stop_that_is_over_means_nothing() {
        let mut lens = Lens::default();
        lens.thread(1, 1);
        let live = frames(&mut lens, 1, 1, &[2]);
        let body = json!({ "stackFrames": [{ "id": 2 }, { "id": 3 }], "threadId": 1 });
        let late = lens.outward_late(1, Some(1), &Message::event("e", body));
        let body: Value = late.and_then(|message| message.decode()).unwrap();
        for frame in body["stackFrames"].as_array().expect("it was one") {
            let id = frame["id"].as_i64().expect("it was one");
            assert!(owner_of_frame(&lens, id).is_err());
        }
        assert_eq!(owner_of_frame(&lens, live[0]), Ok((1, 2)));
        assert_eq!(lens.thread(1, 1), body["threadId"], "a thread lives on");
    }

    #[test]
    fn the_ids_of_one_process_are_bounded() {
        let mut lens = Lens::default();
        lens.thread(1, 1);
        let all: Vec<i64> = (0..2 * MAX_IDS as i64).collect();
        let shown = frames(&mut lens, 1, 1, &all);
        assert_eq!(lens.meanings.len(), MAX_IDS);
        assert_eq!(owner_of_frame(&lens, shown[7]), Ok((1, 7)));
        assert!(owner_of_frame(&lens, shown[2 * MAX_IDS - 1]).is_err());
        // Others have their own, threads are named all the same, and the next stop has room.
        let other = frames(&mut lens, 2, 1, &[2]);
        assert_eq!(owner_of_frame(&lens, other[0]), Ok((2, 2)));
        let thread = lens.thread(1, 2);
        assert_eq!(
            inward(&lens, &mut json!({ "threadId": thread })),
            Ok(Some(Owner {
                member: 1,
                thread: Some(2)
            }))
        );
        lens.resumed(1, None);
        let shown = frames(&mut lens, 1, 1, &[7]);
        assert_eq!(owner_of_frame(&lens, shown[0]), Ok((1, 7)));
        // Nor does a thread come of a body, or a text without end.
        let mut body = json!({ "threadId": 99, "memoryReference": "x".repeat(MAX_TEXT + 1) });
        outward(&mut lens, 1, None, &mut body);
        let before = lens.meanings.len();
        assert!(inward(&lens, &mut body).is_err());
        assert_eq!(lens.meanings.len(), before);
        lens.left(1);
        lens.left(2);
        assert_eq!(
            (lens.meanings.len(), lens.names.len(), lens.of_member.len()),
            (0, 0, 0)
        );
    }

    #[test]
    fn an_id_of_another_kind_is_no_id() {
        let mut lens = Lens::default();
        let thread = lens.thread(1, 1);
        assert!(owner_of_frame(&lens, thread).is_err());
    }

    #[test]
    fn the_counter_goes_round_and_passes_over_what_lives() {
        let mut lens = Lens::default();
        let first = lens.thread(1, 1);
        let breakpoint = lens.breakpoint();
        lens.last = MAX_ID - 1;
        assert_eq!(lens.thread(1, 2), MAX_ID);
        let next = lens.thread(1, 3);
        assert!(next > breakpoint && breakpoint > first, "{next}");
    }

    #[test]
    fn a_million_stops_leave_nothing_behind() {
        let mut lens = Lens::default();
        lens.thread(1, 1);
        for _ in 0..1_000_000 {
            frames(&mut lens, 1, 1, &[2]);
            lens.resumed(1, None);
        }
        assert_eq!((lens.meanings.len(), lens.names.len()), (1, 1));
        lens.left(1);
        assert_eq!(
            (lens.meanings.len(), lens.names.len(), lens.of_member.len()),
            (0, 0, 0)
        );
    }

    #[derive(Debug, Clone)]
    enum Step {
        /// A process shows frames of a thread.
        Stack(Member, i64, Vec<i64>),
        Resume(Member, Option<i64>),
        Exit(Member, i64),
        Leave(Member),
    }

    fn step() -> impl Strategy<Value = Step> {
        let member = 1..4_u64;
        let thread = 1..3_i64;
        prop_oneof![
            4 => (member.clone(), thread.clone(), vec(10..16_i64, 0..4)).prop_map(|(member, thread, frames)| Step::Stack(member, thread, frames)),
            2 => (member.clone(), proptest::option::of(thread.clone())).prop_map(|(member, thread)| Step::Resume(member, thread)),
            1 => (member.clone(), thread).prop_map(|(member, thread)| Step::Exit(member, thread)),
            1 => member.prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// Over any life of processes: each id that lives means what it was given for, each that has died means
        /// nothing, and none is given twice while it lives.
        #[test]
        fn an_id_means_what_it_was_given_for_or_nothing(steps in vec(step(), 0..60)) {
            let mut lens = Lens::default();
            // By view id, what it was given for; and all that have died.
            let mut live: BTreeMap<i64, (Member, i64, i64)> = BTreeMap::new();
            let mut given: HashMap<(Member, i64), i64> = HashMap::new();
            let mut dead = Vec::new();
            for step in steps {
                let dies = |&(member, thread, _): &(Member, i64, i64)| match step {
                    Step::Stack(..) => false,
                    Step::Resume(of, which) => member == of && which.is_none_or(|which| which == thread),
                    Step::Exit(of, which) => member == of && which == thread,
                    Step::Leave(of) => member == of,
                };
                dead.extend(live.iter().filter(|(_, what)| dies(what)).map(|(id, _)| *id));
                live.retain(|_, what| !dies(what));
                given.retain(|_, id| live.contains_key(id));
                match step {
                    Step::Stack(member, thread, natives) => {
                        // A frame belongs to one thread of its process.
                        let natives: Vec<i64> = natives.iter().map(|native| native * 10 + thread).collect();
                        let ids = frames(&mut lens, member, thread, &natives);
                        for (native, id) in natives.iter().zip(ids) {
                            let known = given.insert((member, *native), id);
                            prop_assert!(known.is_none_or(|known| known == id));
                            prop_assert!(!dead.contains(&id), "an id of the dead");
                            live.insert(id, (member, thread, *native));
                        }
                    }
                    Step::Resume(member, thread) => lens.resumed(member, thread),
                    Step::Exit(member, thread) => lens.exited(member, thread),
                    Step::Leave(member) => lens.left(member),
                }
                for (id, (member, _, native)) in &live {
                    prop_assert_eq!(owner_of_frame(&lens, *id), Ok((*member, *native)));
                }
                for id in &dead {
                    prop_assert!(owner_of_frame(&lens, *id).is_err());
                }
            }
        }
    }
}
