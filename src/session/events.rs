//! What the process says by itself.
//!
//! The debuggee is not trusted: only the events that pydevd is known to send reach a client, and its requests
//! reach nobody.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

use super::asker::Owner;
use super::requests::Pending;
use super::state::{MAX_THREADS, Stop};
use super::watchers::Watcher;
use super::{Session, Stage, StoppedBody};
use crate::breakpoints::Hit;
use crate::client::{self, FromSession};
use crate::config::OnLastDetach;
use crate::wire::{Kind, Message, Outbox};

/// What a stop is, the weightiest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Judgement {
    /// It is none.
    Void,
    /// It is one.
    Stands,
    /// It is one that the daemon itself wants: the process stays stopped, though nobody watches.
    Ours,
}

impl Session {
    /// A message came from the process.
    pub(super) fn on_message(&mut self, message: Message, out: &mut Outbox) {
        match message.kind() {
            Kind::Response => self.on_response(message, out),
            Kind::Event => self.on_event(&message, out),
            Kind::Request => {
                tracing::warn!(session = %self.handle.id, command = message.name(), "a request from the debuggee is refused");
                let why = "requests from the debuggee are not allowed";
                out.send(&Message::failure(message.seq(), message.name(), why));
            }
        }
    }

    fn on_event(&mut self, event: &Message, out: &mut Outbox) {
        match event.name() {
            "output" => {
                self.output.push(event);
                self.offer(event);
            }
            "module" => self.offer(event),
            "thread" => {
                let had_stops = self.threads.any_stopped();
                if self.threads.on_thread(event) {
                    self.broadcast(event);
                }
                if had_stops {
                    // It may have been the thread that was stopped.
                    self.publish();
                }
            }
            "stopped" => self.on_stopped(event, out),
            "continued" => self.on_continued(event),
            "process" => {
                // A further `attach` repeats it.
                if self.process.is_none() {
                    self.process = Some(event.detached());
                    self.broadcast(event);
                }
            }
            "breakpoint" => self.on_breakpoint(event),
            "exited" => self.on_exited(event),
            "terminated" => {
                // It ends by itself: an exec that it spoke of has failed.
                self.replaced = false;
                self.goodbye = true;
            }
            "dbgproxyHit" => {
                #[derive(Deserialize)]
                #[serde(rename_all = "camelCase")]
                struct Body {
                    keys: Vec<String>,
                    thread_id: i64,
                }
                if let Ok(Body { keys, thread_id }) = event.decode()
                    && self.held_parts.len() < MAX_THREADS
                {
                    self.held_parts.insert(thread_id, keys);
                }
            }
            "dbgproxyAnswer" => self.on_guard_answer(event),
            "pydevdInputRequested" => self.broadcast(event),
            "dbgproxyReport" => self.on_report_event(event, out),
            // Each client gets its own, when its configuration may begin.
            "initialized" => {}
            name => {
                tracing::debug!(session = %self.handle.id, name, "an event that pydevd does not send is left out");
            }
        }
    }

    fn on_stopped(&mut self, event: &Message, out: &mut Outbox) {
        let body = match event.decode::<StoppedBody>() {
            // DAP's ids are positive and 32 bits wide; a client may take others for anything.
            Ok(body) if i32::try_from(body.thread_id).is_ok() => body,
            Ok(body) => {
                tracing::warn!(session = %self.handle.id, thread = body.thread_id, "a stopped event names no thread");
                return;
            }
            Err(error) => {
                tracing::warn!(session = %self.handle.id, %error, "a stopped event cannot be read");
                return;
            }
        };
        let held = self.held_parts.remove(&body.thread_id).unwrap_or_default();
        let hit_ids = body.hit_breakpoint_ids.as_deref().unwrap_or_default();
        let hit = self
            .placed_lately()
            .filter(|(_, placed)| hit_ids.contains(&placed.id))
            .map(|(changed, placed)| (changed.clone(), placed.place.clone()))
            .collect();
        let is_ours = match self.judge(&body, &held) {
            Judgement::Stands => false,
            Judgement::Ours => true,
            Judgement::Void if self.is_stop_awaited => false,
            Judgement::Void => return self.undo_stop(out),
        };
        let stop = Stop {
            event: event.clone(),
            body,
            hit,
            held,
        };
        self.is_stop_awaited = false;
        self.is_undoing = false;
        self.is_wanted_stopped |= is_ours;
        self.answer_continues();
        self.threads.on_stopped(&stop);
        self.stops += 1;
        self.resumed_by = None;
        self.publish();
        for watcher in self.live() {
            self.tell_stop(&watcher.client, &stop);
        }
        self.ask_test(out);
        // What was asked for by a client that has left meanwhile must not keep the program.
        let nobody = self.watchers.is_empty() && !self.is_wanted_stopped;
        if nobody && self.hub.config.on_last_detach == OnLastDetach::Resume {
            self.resume_all(out);
        }
    }

    /// Whether a stop is one: it is not if all breakpoints that were hit hold here no more, or were another's to take.
    fn judge(&mut self, body: &StoppedBody, held: &[String]) -> Judgement {
        if !body.reason.ends_with("breakpoint") {
            return Judgement::Stands;
        }
        let parts: BTreeSet<(Owner, i64)> = if held.is_empty() {
            let ids = body.hit_breakpoint_ids.as_deref().unwrap_or_default();
            let hit = self.placed_lately();
            hit.filter(|(_, placed)| ids.contains(&placed.id))
                .flat_map(|(_, placed)| placed.parts.iter().copied())
                .collect()
        } else {
            // The guard knows which of those that share a place, and knows it before pydevd has said what it placed.
            held.iter().filter_map(|key| self.part(key)).collect()
        };
        if parts.is_empty() {
            // Nobody says which one it was. It may be the daemon's own, if there is no guard that would have said so.
            let is_ours = |(owner, _): &(Owner, i64)| *owner == Owner::Daemon;
            let mut placed = self.placed.values().flatten();
            let may_be_ours = placed.any(|placed| placed.parts.iter().any(is_ours));
            return if may_be_ours && !self.caller.report.guarded {
                Judgement::Ours
            } else {
                Judgement::Stands
            };
        }
        let mut judgement = Judgement::Void;
        for (owner, id) in parts {
            let part = match owner {
                Owner::Client(client) => match self.watcher(client) {
                    Some(watcher) if watcher.configuration.withholds(id) => Judgement::Void,
                    _ => Judgement::Stands,
                },
                Owner::Daemon if self.stored.holds(id) => self.hit_stored(id),
                Owner::Daemon => Judgement::Void,
            };
            judgement = judgement.max(part);
        }
        judgement
    }

    /// Whose breakpoint the guard speaks of, and its number; none of somebody who has left.
    fn part(&self, key: &str) -> Option<(Owner, i64)> {
        let (owner, id) = key.rsplit_once(':')?;
        let clients = self.watchers.iter().map(|watcher| watcher.client.id);
        let mut owners = std::iter::once(Owner::Daemon).chain(clients.map(Owner::Client));
        let owner = owners.find(|known| known.to_string() == owner)?;
        Some((owner, id.parse().ok()?))
    }

    /// The process has hit one of the daemon's own breakpoints.
    fn hit_stored(&mut self, id: i64) -> Judgement {
        match self.hub.breakpoints.hit(id) {
            Hit::Gone => Judgement::Void,
            Hit::Stands => Judgement::Ours,
            Hit::Taken(file) => {
                tracing::info!(session = %self.handle.id, breakpoint = id, "the process takes a breakpoint that is there once");
                self.hub.tell_stored(&file);
                let store = self.hub.breakpoints.clone();
                // It has said itself what went wrong.
                self.hub.tasks.spawn_blocking(move || drop(store.save()));
                Judgement::Ours
            }
        }
    }

    /// Lets the process run on from a stop that is none, of which nobody is told.
    fn undo_stop(&mut self, out: &mut Outbox) {
        tracing::debug!(session = %self.handle.id, "the process runs on from a breakpoint that holds here no more");
        if self.threads.any_stopped() {
            // It has stopped for another reason too, and runs on when that is over.
            return;
        }
        self.answer_continues();
        self.is_undoing = true;
        self.ask(
            Message::request("continue", json!({ "threadId": "*" })),
            Pending::Own,
            out,
        );
    }

    fn on_continued(&mut self, event: &Message) {
        if self.is_undoing && self.threads.stops().next().is_none() {
            return;
        }
        if !self.threads.on_continued(event) {
            tracing::warn!(session = %self.handle.id, "a continued event cannot be read");
            return;
        }
        self.held_parts.clear();
        self.replaced = false;
        self.publish();
        for watcher in self.live() {
            // Visual Studio takes the event badly after its own request (debugpy's adapter never sends it).
            if !(watcher.client.is_visual_studio()
                && self.resumed_by == Some(Owner::Client(watcher.client.id)))
            {
                watcher
                    .client
                    .tell(self.handle.id, FromSession::Event(event.clone()));
            }
        }
    }

    /// Tells a client of a stop, with its own numbers of the breakpoints that were hit.
    pub(super) fn tell_stop(&self, client: &client::Handle, stop: &Stop) {
        let mut ids = Vec::new();
        for (changed, place) in &stop.hit {
            let placed = self.placed.get(changed).into_iter().flatten();
            for (owner, id) in placed
                .filter(|placed| placed.place == *place)
                .flat_map(|placed| &placed.parts)
            {
                let holds = stop.held.is_empty() || stop.held.contains(&format!("{owner}:{id}"));
                if *owner == Owner::Client(client.id) && holds {
                    ids.push(*id);
                }
            }
        }
        let event = match &stop.body.hit_breakpoint_ids {
            None => stop.event.clone(),
            Some(_) => rewritten(&stop.event, |body| match body.as_object_mut() {
                // A client that has no breakpoint there is not told of none: it would look for it.
                Some(body) if ids.is_empty() => drop(body.remove("hitBreakpointIds")),
                _ => body["hitBreakpointIds"] = ids.into(),
            }),
        };
        client.tell(self.handle.id, FromSession::Event(event));
    }

    /// The same for somebody who asks for a stop that is already there.
    pub(super) fn tell_stop_again(&self, owner: Owner, stop: &Stop) {
        if let Owner::Client(client) = owner
            && let Some(watcher) = self.watcher(client)
        {
            self.tell_stop(&watcher.client, stop);
        }
    }

    /// A breakpoint's verdict has changed: its owners are told, each under its own number.
    fn on_breakpoint(&self, event: &Message) {
        let Ok(body) = event.decode::<Value>() else {
            return;
        };
        let id = body.pointer("/breakpoint/id").and_then(Value::as_i64);
        let placed = self
            .placed
            .values()
            .flatten()
            .filter(|placed| Some(placed.id) == id);
        for (owner, own) in placed.flat_map(|placed| &placed.parts) {
            let is_owner = |watcher: &&Watcher| Owner::Client(watcher.client.id) == *owner;
            if let Some(watcher) = self.live().find(is_owner) {
                let event = rewritten(event, |body| body["breakpoint"]["id"] = (*own).into());
                watcher
                    .client
                    .tell(self.handle.id, FromSession::Event(event));
            }
        }
    }

    fn on_exited(&mut self, event: &Message) {
        #[derive(Default, Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            exit_code: Option<i64>,
            pydevd_reason: Option<String>,
        }
        let body: Body = event.decode().unwrap_or_default();
        if body.pydevd_reason.as_deref() == Some("processReplaced") {
            // Said before every attempt, also of one that fails: only the end of the connection tells.
            self.replaced = true;
        } else if self.stage == Stage::Released {
            self.handle.update(|info| info.exit = body.exit_code);
            self.broadcast(event);
        }
    }
}

/// An event with another body.
fn rewritten(event: &Message, change: impl FnOnce(&mut Value)) -> Message {
    match event.decode::<Value>() {
        Ok(mut body) => {
            change(&mut body);
            Message::event(event.name(), body)
        }
        Err(_) => event.clone(),
    }
}
