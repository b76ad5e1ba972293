//! What a process may ask of the daemon: who there is, breakpoints in itself, and to wait for an IDE.
//!
//! A process is not trusted: it looks at others as any client may, and changes nothing but itself. The list is fixed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::control::{self, Access};
use crate::hub::Hub;
use crate::session;
use crate::wire::Message;

/// The most bytes that an answer has; a longer one is a failure that says so, as the agent takes no longer ones.
pub const LARGEST: usize = 8 * 1024 * 1024;

/// The most breakpoints that one process has set in itself; further ones are refused.
pub const BREAKPOINTS: usize = 256;

/// The longest that one request waits for an IDE; whoever wants to wait longer asks again.
pub const WAIT: Duration = Duration::from_secs(60);

/// What can be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// A verb that looks, with its arguments as they come.
    Look(&'static str),
    /// A breakpoint in the process itself.
    Add,
    /// The end of a breakpoint that it has set.
    Remove,
    /// The answer comes when an IDE is attached and configured.
    WaitForIde,
}

impl What {
    /// Reads a request's command.
    pub(super) fn read(command: &str) -> Option<What> {
        match command {
            "dbgproxy/sessions" => Some(What::Look("sessions")),
            "dbgproxy/session" => Some(What::Look("session")),
            "dbgproxy/info" => Some(What::Look("info")),
            "dbgproxy/breakpoints.add" => Some(What::Add),
            "dbgproxy/breakpoints.remove" => Some(What::Remove),
            "dbgproxy/waitForIde" => Some(What::WaitForIde),
            _ => None,
        }
    }
}

/// Who asks: one agent's connection.
#[derive(Clone)]
pub(super) struct Asking {
    pub(super) hub: Arc<Hub>,
    pub(super) session: Arc<session::Handle>,
    /// The breakpoints that were set by it; nothing once the connection has ended.
    own: Arc<Mutex<Option<BTreeSet<i64>>>>,
}

impl Asking {
    pub(super) fn new(hub: Arc<Hub>, session: Arc<session::Handle>) -> Asking {
        let own = Arc::new(Mutex::new(Some(BTreeSet::new())));
        Asking { hub, session, own }
    }

    fn own(&self) -> MutexGuard<'_, Option<BTreeSet<i64>>> {
        self.own.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Answers a request.
    pub(super) async fn answer(&self, what: What, request: &Message) -> Message {
        let arguments = request.decode().map_err(|error| error.to_string());
        let answer = match arguments {
            Ok(arguments) => self.carry_out(what, arguments).await,
            Err(why) => Err(why),
        };
        let (seq, command) = (request.seq(), request.name());
        let answer = match answer {
            Ok(body) => Message::response(seq, command, body),
            Err(why) => Message::failure(seq, command, &why),
        };
        if answer.size() > LARGEST {
            let why = "there is more to tell than an agent takes; a selector makes it less";
            return Message::failure(seq, command, why);
        }
        answer
    }

    async fn carry_out(&self, what: What, arguments: Value) -> Result<Value, String> {
        match what {
            What::Look(verb) => {
                let answer = control::call(&self.hub, verb, &arguments, Access::Look).await;
                answer.map_err(|error| error.message)
            }
            What::Add => self.add(arguments).await,
            What::Remove => {
                #[derive(Deserialize)]
                struct Arguments {
                    id: i64,
                }
                let Arguments { id } =
                    Arguments::deserialize(arguments).map_err(|error| error.to_string())?;
                let is_own = self.own().as_mut().is_some_and(|own| own.remove(&id));
                if !is_own {
                    return Err(format!("this process has set no breakpoint {id}"));
                }
                self.remove(id).await
            }
            What::WaitForIde => self.wait_for_ide(arguments).await,
        }
    }

    /// Sets a breakpoint in the process itself.
    async fn add(&self, arguments: Value) -> Result<Value, String> {
        if self
            .own()
            .as_ref()
            .is_none_or(|own| own.len() >= BREAKPOINTS)
        {
            return Err(format!(
                "a process sets at most {BREAKPOINTS} breakpoints in itself; remove some first"
            ));
        }
        let call = control::add_own(&self.hub, self.session.id, &arguments);
        let body = call.await.map_err(|error| error.message)?;
        let Some(id) = body["breakpoint"]["id"].as_i64() else {
            return Ok(body);
        };
        let is_noted = self.own().as_mut().map(|own| own.insert(id)).is_some();
        if !is_noted {
            self.remove(id).await?;
        }
        Ok(body)
    }

    async fn remove(&self, id: i64) -> Result<Value, String> {
        let arguments = json!({ "id": id });
        let call = control::call(&self.hub, "breakpoints.remove", &arguments, Access::Touch);
        call.await.map_err(|error| error.message)
    }

    /// The connection has ended: what it has set goes, also what is just being set.
    pub(super) async fn end(&self) {
        let own = self.own().take();
        for id in own.into_iter().flatten() {
            if let Err(why) = self.remove(id).await {
                tracing::debug!(session = %self.session.id, id, why, "a process's breakpoint cannot be removed");
            }
        }
    }

    /// `waitForIde {timeout}`: at most so many seconds.
    async fn wait_for_ide(&self, arguments: Value) -> Result<Value, String> {
        #[derive(Deserialize)]
        struct Arguments {
            timeout: f64,
        }
        let Arguments { timeout } =
            Arguments::deserialize(arguments).map_err(|error| error.to_string())?;
        let timeout = Duration::try_from_secs_f64(timeout.max(0.0)).map_or(WAIT, |it| it.min(WAIT));
        let until = Instant::now() + timeout;
        let (reply, attended) = oneshot::channel();
        self.session
            .tell(session::Mail::AwaitClient(until, reply))?;
        match timeout_at(until, attended).await {
            Ok(Ok(Ok(()))) => Ok(json!({ "attached": true })),
            Ok(Ok(Err(why))) => Err(why),
            // It has given up in the same moment, or its session is at its end.
            Ok(Err(_)) | Err(_) => Ok(json!({ "attached": false })),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_short() {
        for command in ["sessions", "session", "info", "waitForIde"] {
            assert!(What::read(&format!("dbgproxy/{command}")).is_some());
        }
        for command in [
            "dbgproxy/evaluate",
            "dbgproxy/shutdown",
            "dbgproxy/pause",
            "dbgproxy/breakpoints.list",
            "dbgproxy/hello",
            "sessions",
            "",
        ] {
            assert_eq!(What::read(command), None, "{command}");
        }
    }
}
