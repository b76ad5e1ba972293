//! What the processes of the merged view say by themselves, and the stops of a group.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Asked, Fleet, MAX_THREADS, Member, Paused, Role, StopPolicy};
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
                if let Ok(mut body) = event.decode::<Value>() {
                    self.lens.outward(member, None, &mut body);
                    out.send(&Message::event(event.name(), body));
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
        let is_known = process.threads.contains_key(&thread_id);
        let has_exited = reason == "exited";
        let is_full = process.threads.len() >= MAX_THREADS;
        if !is_known && (has_exited || is_full) {
            return;
        }
        let id = self.lens.thread(member, thread_id);
        out.send(&Message::event(
            "thread",
            json!({ "reason": reason, "threadId": id }),
        ));
        if !has_exited {
            process.threads.entry(thread_id).or_insert(None);
            return;
        }
        process.threads.remove(&thread_id);
        process.stopped.remove(&thread_id);
        self.lens.exited(member, thread_id);
        if process.threads.is_empty() {
            // It ends, or another program takes its place, which has other things under the same numbers.
            process.runs += 1;
            self.lens.left(member);
        }
        if process.stopped.is_empty() {
            process.all_stopped = false;
            process.paused = Paused::No;
            self.stopped.retain(|other| *other != member);
        }
    }

    /// A process has stopped. The first stop takes the focus, later ones leave it.
    pub(super) fn on_stopped(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        let Ok(mut body) = event.decode::<Map<String, Value>>() else {
            return;
        };
        let thread = body
            .get("threadId")
            .and_then(Value::as_i64)
            .unwrap_or_default();
        let all = body.get("allThreadsStopped") == Some(&Value::Bool(true));
        let by_us = body.get("reason") == Some(&"pause".into());
        let is_asked = matches!(process.paused, Paused::Asked | Paused::Outrun);
        if is_asked && process.stopped.contains(&thread) {
            // It had stopped by itself before it was to be paused, and says so once more.
            process.paused = Paused::No;
            return;
        }
        if process.paused == Paused::Outrun && by_us {
            process.paused = Paused::No;
            let request = Message::request("continue", json!({ "threadId": 0 }));
            self.ask(member, &request, Asked::Quiet);
            return;
        }
        let paused = process.paused == Paused::Asked && by_us;
        process.paused = if paused { Paused::Yes } else { process.paused };
        process.threads.entry(thread).or_insert(None);
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
            let id = self.lens.thread(member, other);
            let body = json!({
                "reason": "pause",
                "description": "stopped with its process",
                "threadId": id,
                "allThreadsStopped": false,
                "preserveFocusHint": true,
            });
            out.send(&Message::event("stopped", body));
        }
        if self.attach.stop_policy == StopPolicy::Group && !paused {
            self.pause_others(member);
        }
    }

    /// One process of a group runs on: so do the others, also those whose pause is still to come.
    pub(super) fn continue_others(&mut self, member: Member) {
        let request = Message::request("continue", json!({ "threadId": 0 }));
        for (other, process) in &mut self.members {
            if *other != member && process.paused == Paused::Asked {
                process.paused = Paused::Outrun;
            }
        }
        for other in self.stopped.clone() {
            if other != member {
                self.ask(other, &request, Asked::Quiet);
            }
        }
    }

    /// One process of a group has stopped: so do the others, if this client may pause them.
    pub(super) fn pause_others(&mut self, member: Member) {
        if self.attach.role == Role::Observer {
            return;
        }
        for other in self.joined() {
            let Some(process) = self.members.get_mut(&other) else {
                continue;
            };
            if other == member || !process.stopped.is_empty() {
                continue;
            }
            match process.paused {
                Paused::No | Paused::Yes => {
                    process.paused = Paused::Asked;
                    let request = Message::request("pause", json!({ "threadId": 0 }));
                    self.ask(other, &request, Asked::Pause { member: other });
                }
                // The pause that is on its way will do.
                Paused::Outrun => process.paused = Paused::Asked,
                Paused::Asked => {}
            }
        }
    }

    pub(super) fn on_continued(&mut self, member: Member, event: &Message, out: &mut Outbox) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[serde(default)]
            thread_id: i64,
            all_threads_continued: Option<bool>,
        }
        let body: Body = event.decode().unwrap_or_default();
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        let all = body.all_threads_continued != Some(false);
        let running: Vec<i64> = if all {
            std::mem::take(&mut process.stopped).into_iter().collect()
        } else {
            process.stopped.take(&body.thread_id).into_iter().collect()
        };
        process.runs += 1;
        process.all_stopped &= !process.stopped.is_empty();
        self.lens.resumed(member, (!all).then_some(body.thread_id));
        if process.stopped.is_empty() {
            if process.paused == Paused::Yes {
                process.paused = Paused::No;
            }
            self.stopped.retain(|other| *other != member);
        }
        for thread in running {
            let id = self.lens.thread(member, thread);
            let body = json!({ "threadId": id, "allThreadsContinued": false });
            out.send(&Message::event("continued", body));
        }
    }
}
