//! What the process says by itself.
//!
//! The debuggee is not trusted: only the events that pydevd is known to send reach a client, and its requests
//! reach nobody.

use serde::Deserialize;
use serde_json::Value;

use super::{Session, Stage, StoppedBody};
use crate::client::ClientId;
use crate::wire::{Kind, Message, Outbox};

impl Session {
    /// A message came from the process.
    pub(super) fn on_message(&mut self, message: Message, out: &mut Outbox) {
        match message.kind() {
            Kind::Response => self.on_response(message),
            Kind::Event => self.on_event(&message),
            Kind::Request => {
                tracing::warn!(session = %self.handle.id, command = message.name(), "a request from the debuggee is refused");
                let why = "requests from the debuggee are not allowed";
                out.send(&Message::failure(message.seq(), message.name(), why));
            }
        }
    }

    fn on_event(&mut self, event: &Message) {
        match event.name() {
            "output" => {
                self.output.push(event);
                self.offer(event);
            }
            "module" => self.offer(event),
            "thread" => {
                if self.threads.on_thread(event) {
                    self.broadcast(event);
                }
            }
            "stopped" => self.on_stopped(event),
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
            "terminated" => self.goodbye = true,
            "dbgproxyHit" => {
                #[derive(Deserialize)]
                struct Body {
                    keys: Vec<String>,
                }
                self.held_parts = event
                    .decode::<Body>()
                    .map(|body| body.keys)
                    .unwrap_or_default();
            }
            "pydevdInputRequested" => self.broadcast(event),
            // Each client gets its own, when its configuration may begin.
            "initialized" | "dbgproxyReport" => {}
            name => {
                tracing::debug!(session = %self.handle.id, name, "an event that pydevd does not send is left out");
            }
        }
    }

    fn on_stopped(&mut self, event: &Message) {
        let Some(body) = self.threads.on_stopped(event) else {
            tracing::warn!(session = %self.handle.id, ?event, "a stopped event cannot be read");
            return;
        };
        self.resumed_by = None;
        self.publish();
        for watcher in self.live() {
            let event = self.translate_stop(watcher.client.id, event, &body);
            watcher
                .client
                .tell(crate::client::FromSession::Event(event));
        }
    }

    fn on_continued(&mut self, event: &Message) {
        self.threads.on_continued(event);
        self.held_parts.clear();
        self.publish();
        for watcher in self.live() {
            // Visual Studio takes the event badly after its own request (debugpy's adapter never sends it).
            if !(watcher.client.is_visual_studio() && self.resumed_by == Some(watcher.client.id)) {
                watcher
                    .client
                    .tell(crate::client::FromSession::Event(event.clone()));
            }
        }
    }

    /// The stop as one client sees it: with its own numbers of the breakpoints that were hit.
    pub(super) fn translate_stop(
        &self,
        client: ClientId,
        event: &Message,
        body: &StoppedBody,
    ) -> Message {
        let Some(hit) = &body.hit_breakpoint_ids else {
            return event.clone();
        };
        let mut ids = Vec::new();
        for placed in self
            .placed
            .values()
            .flatten()
            .filter(|placed| hit.contains(&placed.id))
        {
            let merged = placed.parts.len() > 1 && !self.held_parts.is_empty();
            for (owner, id) in &placed.parts {
                let holds = !merged || self.held_parts.contains(&format!("{owner}:{id}"));
                if *owner == client && holds {
                    ids.push(*id);
                }
            }
        }
        rewritten(event, |body| body["hitBreakpointIds"] = ids.into())
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
            if let Some(watcher) = self.live().find(|watcher| watcher.client.id == *owner) {
                let event = rewritten(event, |body| body["breakpoint"]["id"] = (*own).into());
                watcher
                    .client
                    .tell(crate::client::FromSession::Event(event));
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
            self.handle.info().exit = body.exit_code;
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
