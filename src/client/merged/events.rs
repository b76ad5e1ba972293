//! What the processes of the merged view say by themselves.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::group::{Paused, Told};
use super::{Fleet, Member};
use crate::wire::{Message, Outbox};

impl Fleet {
    pub(super) fn on_event(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        match event.name() {
            // Of one process, and this session is of many: they come and go as threads.
            "process" => self.on_process(member, out),
            "exited" | "terminated" => {}
            "thread" => self.on_thread(member, event, out),
            "stopped" => self.on_stopped(member, event, out),
            "continued" => self.on_continued(member, event, out),
            "breakpoint" => self.on_breakpoint(member, event, out),
            "output"
                if !event
                    .content()
                    .is_some_and(|body| body.contains("Reference\"")) =>
            {
                out.send(event);
            }
            _ => {
                if let Ok(event) = self.lens.outward(member, None, event) {
                    out.send(&event);
                }
            }
        }
    }

    /// A process says which program it runs; it says so again when another one has taken its place.
    pub(super) fn on_process(&mut self, member: Member, out: &mut Outbox) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !std::mem::replace(&mut process.has_begun, true) {
            return;
        }
        // Threads of the old program that only their stops have told of.
        let left: Vec<i64> = process.threads.keys().copied().collect();
        for thread in left {
            let body = json!({ "reason": "exited", "threadId": thread });
            self.on_thread(member, &Message::event("thread", body), out);
        }
        self.set_properties(member);
        if self.halted {
            // It was running, or it could not have become another.
            self.pause(member);
        }
    }

    pub(super) fn on_thread(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            reason: String,
            thread_id: i64,
        }
        let (Ok(Body { reason, thread_id }), Some(process)) =
            (event.decode(), self.members.get_mut(&member))
        else {
            return;
        };
        let id = |fleet: &mut Fleet| fleet.lens.thread(member, thread_id);
        if reason != "exited" {
            if process.thread(thread_id).is_none() {
                return;
            }
            let is_stopped = process.all_stopped && process.stopped.insert(thread_id);
            let id = id(self);
            let body = json!({ "reason": reason, "threadId": id });
            out.send(&Message::event("thread", body));
            if is_stopped {
                stopped_with_its_process(id, out);
            }
            return;
        }
        if process.threads.remove(&thread_id).is_none() {
            return;
        }
        let was_stopped = process.stopped.remove(&thread_id);
        let has_stepped = process.told == Told::Step(thread_id);
        let is_empty = process.threads.is_empty();
        if is_empty || has_stepped {
            process.told = Told::Nothing;
        }
        if is_empty {
            // It ends, or another program takes its place, which has other things under the same numbers.
            process.runs += 1;
        }
        let body = json!({ "reason": "exited", "threadId": id(self) });
        out.send(&Message::event("thread", body));
        self.lens.exited(member, thread_id);
        if is_empty {
            self.lens.left(member);
        }
        if was_stopped || is_empty {
            self.may_have_run_on(member);
        }
        if has_stepped && !is_empty && self.halted {
            // The step has led out of the thread: what is left runs, and was not asked to.
            self.pause(member);
        }
    }

    /// If nothing of a process is stopped any more, it is none of those that are.
    fn may_have_run_on(&mut self, member: Member) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !process.stopped.is_empty() {
            return;
        }
        process.all_stopped = false;
        if process.paused == Paused::Yes || process.threads.is_empty() {
            process.paused = Paused::No;
        }
        self.stopped.retain(|other| *other != member);
        self.may_run();
    }

    /// A process has stopped. The first stop takes the focus, later ones leave it.
    pub(super) fn on_stopped(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        let Ok(mut body) = event.decode::<Map<String, Value>>() else {
            return;
        };
        if process.told == Told::Continue {
            // A stop that it is about to leave: the answer comes before whatever stops it anew.
            return;
        }
        let named = body.get("threadId").and_then(Value::as_i64);
        let all = named.is_none() || body.get("allThreadsStopped") == Some(&Value::Bool(true));
        // One that is not named, or for which there is no room, is told of another's.
        let room = named.filter(|thread| process.thread(*thread).is_some());
        let first = || process.threads.keys().next().copied();
        let thread = room.or_else(first).unwrap_or_default();
        let by_us = body.get("reason") == Some(&"pause".into());
        let is_asked = matches!(process.paused, Paused::Asked | Paused::Outrun);
        if is_asked && process.stopped.contains(&thread) {
            // It had stopped by itself before it was to be paused, and says so once more.
            process.paused = Paused::No;
            return;
        }
        process.told = Told::Nothing;
        if process.paused == Paused::Outrun && by_us {
            process.paused = Paused::No;
            return self.go_on(member);
        }
        let paused = process.paused == Paused::Asked && by_us;
        process.paused = if paused { Paused::Yes } else { process.paused };
        process.thread(thread);
        let others: Vec<i64> = process
            .threads
            .keys()
            .copied()
            .filter(|other| all && *other != thread && !process.stopped.contains(other))
            .collect();
        process.all_stopped |= all;
        process.stopped.insert(thread);
        process.stopped.extend(&others);
        let focus_is_taken = self.stopped.iter().any(|other| *other != member) || paused;
        self.stopped.retain(|other| *other != member);
        if paused {
            // Paused because of another: it is not what one wants to see first.
            self.stopped.insert(0, member);
        } else {
            self.stopped.push(member);
            self.stopped_last = Some(member);
        }
        if let Some(Value::Array(hit)) = body.get_mut("hitBreakpointIds") {
            let ids = hit
                .iter()
                .filter_map(|id| process.breakpoints.get(&id.as_i64()?));
            let ids: Vec<Value> = ids.map(|id| (*id).into()).collect();
            *hit = ids;
            if hit.is_empty() {
                body.remove("hitBreakpointIds");
            }
        }
        body.insert("threadId".into(), self.lens.thread(member, thread).into());
        // Not all threads of this session, only those of one process.
        body.insert("allThreadsStopped".into(), false.into());
        let hint = focus_is_taken || body.get("preserveFocusHint") == Some(&Value::Bool(true));
        body.insert("preserveFocusHint".into(), hint.into());
        out.send(&Message::event("stopped", &body));
        for other in others {
            stopped_with_its_process(self.lens.thread(member, other), out);
        }
        if !paused {
            self.halt();
        }
    }

    pub(super) fn on_continued(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            thread_id: Option<i64>,
            all_threads_continued: Option<bool>,
        }
        let body: Body = event.decode().unwrap_or_default();
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        // All but those of which it is said that they are alone.
        let alone = body
            .thread_id
            .filter(|_| body.all_threads_continued == Some(false));
        process.runs += 1;
        let ran = process.runs;
        let running: Vec<i64> = if let Some(thread) = alone {
            if let Some(thread) = process.threads.get_mut(&thread) {
                thread.ran = ran;
            }
            process.stopped.take(&thread).into_iter().collect()
        } else {
            for thread in process.threads.values_mut() {
                thread.ran = ran;
            }
            std::mem::take(&mut process.stopped).into_iter().collect()
        };
        self.lens.resumed(member, alone);
        self.may_have_run_on(member);
        for thread in running {
            let id = self.lens.thread(member, thread);
            let body = json!({ "threadId": id, "allThreadsContinued": false });
            out.send(&Message::event("continued", body));
        }
    }
}

/// Tells of a thread that is stopped because its process is.
fn stopped_with_its_process(id: i64, out: &mut Outbox) {
    let body = json!({
        "reason": "pause",
        "description": "stopped with its process",
        "threadId": id,
        "allThreadsStopped": false,
        "preserveFocusHint": true,
    });
    out.send(&Message::event("stopped", body));
}
