//! The tree view: a root without threads, and the telling of processes that get sessions of their own.
//!
//! The children of a single process are told in the same way.

use std::sync::Arc;

use serde_json::{Value, json};

use super::{Client, Seat, Stage, View};
use crate::session::{self, SessionId};
use crate::wire::{Message, Outbox};

/// What of the root's own `attach` means nothing for another process, as in debugpy's adapter.
const NOT_FOR_CHILDREN: [&str; 10] = [
    "args",
    "host",
    "listen",
    "port",
    "postDebugTask",
    "preLaunchTask",
    "processId",
    "processName",
    "pythonArgs",
    "restart",
];

/// From so many announced sessions on, those that have ended are forgotten.
const MAX_ANNOUNCED: usize = 4096;

impl Client {
    /// A session that the client has in view has come.
    pub(super) fn on_opened(&mut self, session: &Arc<session::Handle>, out: &mut Outbox) {
        if let Seat::Fleet(fleet) = &mut self.seat {
            fleet.join(session, out);
        } else if self.waits() {
            self.join(session, out);
        } else if self.stage == Stage::Live {
            self.announce(session, out);
        }
        // Whoever is not configured yet looks for itself when it is.
    }

    /// Tells of the sessions that are there already.
    pub(super) fn announce_known(&mut self, out: &mut Outbox) {
        if matches!(self.seat, Seat::Fleet(_)) {
            return;
        }
        for session in self.sessions_in_view() {
            self.announce(&session, out);
        }
    }

    /// The sessions of which the client is told, in the order of their tree.
    pub(super) fn sessions_in_view(&self) -> Vec<Arc<session::Handle>> {
        let mut sessions = self.hub.sessions();
        sessions.retain(|session| {
            self.handle
                .has_in_view(session, self.hub.announcer(session))
        });
        sessions
    }

    /// Tells of a session, once.
    fn announce(&mut self, session: &session::Handle, out: &mut Outbox) {
        let Some(attach) = self.attach.clone() else {
            return;
        };
        let number = session.info().order.number();
        if self.announced.insert(session.id, number) == Some(number) {
            return;
        }
        if self.announced.len() > MAX_ANNOUNCED {
            let lives = |id: &SessionId| self.hub.session(*id).is_some();
            self.announced.retain(|id, _| lives(id));
            self.unanswered.retain(|_, id| lives(id));
        }
        let in_tree = matches!(&*self.handle.view(), View::Tree(_));
        let info = session.info().clone();
        let mut body = attach.original.clone();
        body.remove("request");
        for key in NOT_FOR_CHILDREN {
            body.remove(key);
        }
        let address = |key: &str| attach.original.get(key).cloned();
        let mut connect = match body.remove("connect") {
            Some(Value::Object(connect)) => connect,
            _ => serde_json::Map::new(),
        };
        if let Some(own) = self.address {
            connect
                .entry("host")
                .or_insert(address("host").unwrap_or_else(|| json!(own.ip())));
            connect
                .entry("port")
                .or_insert(address("port").unwrap_or_else(|| json!(own.port())));
        }
        body.insert("connect".into(), connect.into());
        body.insert("subProcessId".into(), info.pid.into());
        body.insert("session".into(), json!(info.id));
        if in_tree {
            body.insert("view".into(), "tree".into());
            let pid = format!(" ({})", info.pid);
            let pid = if info.name.ends_with(&info.pid.to_string()) {
                ""
            } else {
                &pid
            };
            body.insert("name".into(), format!("{}{pid}", info.name).into());
        } else {
            body.insert("name".into(), format!("Subprocess {}", info.pid).into());
        }
        if self.capabilities.supports_start_debugging_request {
            let arguments = json!({ "request": "attach", "configuration": body });
            let seq = out.send(&Message::request("startDebugging", arguments));
            self.unanswered.insert(seq, session.id);
        } else {
            body.insert("request".into(), "attach".into());
            out.send(&Message::event("debugpyAttach", body));
        }
        // If there is no room for it, the process does not wait.
        let _ = session
            .inbox
            .try_send(session::Mail::Expect(self.handle.clone()));
    }

    /// The client says whether it will attach to what it was told of; nothing waits for its word.
    pub(super) fn on_response(&mut self, message: &Message) {
        let Some(session) = self.unanswered.remove(&message.request_seq()) else {
            tracing::debug!(client = %self.handle.id, command = message.name(), "an answer to nothing is left out");
            return;
        };
        if message.success() {
            self.handle.will_adopt();
            return;
        }
        tracing::info!(client = %self.handle.id, %session, "the client will not attach");
        if let Some(session) = self.hub.session(session) {
            // If there is no room for it, the process waits a little longer.
            let _ = session
                .inbox
                .try_send(session::Mail::Decline(self.handle.id));
        }
    }

    /// A request to the root of a tree: it has no process, and so no threads.
    pub(super) fn root_request(&mut self, message: &Message, out: &mut Outbox) {
        let body = match message.name() {
            "configurationDone" => {
                out.send(&Message::response(
                    message.seq(),
                    "configurationDone",
                    json!({}),
                ));
                self.live(out);
                return;
            }
            "setBreakpoints" | "setFunctionBreakpoints" | "setExceptionBreakpoints" => {
                match self.configuration.apply(message) {
                    Ok(changed) => {
                        let verdicts: Vec<Value> = self
                            .configuration
                            .breakpoints(&changed)
                            .iter()
                            .map(|breakpoint| {
                                let why = "set in each process, by the session of that process";
                                let why = breakpoint.withheld().unwrap_or(why);
                                json!({ "id": breakpoint.id, "verified": false, "message": why })
                            })
                            .collect();
                        json!({ "breakpoints": verdicts })
                    }
                    Err(error) => {
                        out.send(&Message::failure(
                            message.seq(),
                            message.name(),
                            &error.to_string(),
                        ));
                        return;
                    }
                }
            }
            "threads" => json!({ "threads": [] }),
            "modules" => json!({ "modules": [] }),
            "setDebuggerProperty" => json!({}),
            "debugpySystemInfo" => json!({ "debugpy": { "version": null } }),
            name => {
                let why = format!(
                    "\"{name}\" needs a process: choose one of the sessions below this one"
                );
                out.send(&Message::failure(message.seq(), name, &why));
                return;
            }
        };
        out.send(&Message::response(message.seq(), message.name(), body));
    }
}
