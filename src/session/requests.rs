//! Requests: what clients ask of the process, what the daemon asks for itself, and what came of it.
//!
//! Each request of a client is answered exactly once, also when its process ends.
//! A request that pydevd would answer late, never, or at the wrong time is answered here instead.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::asker::{Asker, Owner};
use super::placing::{Audience, Union, unverified};
use super::{Session, Stage};
use crate::client::{self, ClientId, Role};
use crate::hub::Reason;
use crate::wire::{Message, Outbox};

/// The most requests that one process may owe an answer to; further ones are refused.
pub const MAX_PENDING: usize = 4 * 1024;

/// The most waiting for the place where a process is stopped.
const MAX_LOCATING: usize = 64;

/// Requests that pydevd implements and that need no care of ours
/// (`pydevd_process_net_command_json.py` of debugpy 1.8.22); what stands nowhere here it would never answer.
const FORWARDED: [&str; 14] = [
    "completions",
    "evaluate",
    "gotoTargets",
    "modules",
    "pydevdSystemInfo",
    "scopes",
    "setDebuggerProperty",
    "setExpression",
    "setPydevdSourceMap",
    "setVariable",
    "source",
    "terminate",
    "threads",
    "variables",
];

/// What an observer may ask: what changes nothing.
const FOR_OBSERVERS: [&str; 12] = [
    "configurationDone",
    "debugpySystemInfo",
    "exceptionInfo",
    "gotoTargets",
    "modules",
    "pydevdSystemInfo",
    "scopes",
    "source",
    "stackTrace",
    "stepInTargets",
    "threads",
    "variables",
];

/// A request that the process owes an answer to.
pub(super) enum Pending {
    /// The daemon's own, of whose success nothing depends.
    Own,
    /// The daemon's own `attach`; the client, if any, may begin its configuration when it is answered.
    Attach(Option<ClientId>),
    /// The daemon's own resuming of everything.
    Resume,
    /// Somebody's, passed on.
    Asked(Asker),
    /// Somebody's that makes threads run.
    AskedResume(Asker),
    /// A question to the guard, of that number.
    Guard(i64, Asker),
    /// A union of breakpoints.
    Breakpoints(Union),
    /// The daemon's own question who the process is; its report answers it.
    Name,
    /// The daemon's own look at the topmost frame of a stopped thread, in the stop of that number.
    Locate(u64),
}

impl Session {
    /// Asks the process something.
    pub(super) fn ask(&mut self, message: Message, pending: Pending, out: &mut Outbox) {
        let seq = out.send(&message);
        self.pending.insert(seq, pending);
    }

    /// A client asks something of the process.
    pub(super) fn on_request(
        &mut self,
        client: &Arc<client::Handle>,
        token: i64,
        message: &Message,
        out: &mut Outbox,
    ) {
        let asker = Asker::client(client.clone(), self.handle.id, token, message.name());
        let Some(watcher) = self.watcher(client.id) else {
            return asker.lost();
        };
        let observes = watcher.attach.role == Role::Observer;
        match message.name() {
            command if observes && !FOR_OBSERVERS.contains(&command) => {
                refuse_observer(asker, message);
            }
            "configurationDone" if watcher.configured => {
                asker.fail("the session is already configured");
            }
            "configurationDone" => {
                asker.succeed(json!({}));
                self.configured(client.id, out);
            }
            _ => self.on_ask(asker, message, out),
        }
    }

    /// A client or a verb asks something of the process.
    pub(super) fn on_ask(&mut self, asker: Asker, message: &Message, out: &mut Outbox) {
        if self.pending.len() >= MAX_PENDING {
            return asker
                .fail("the process already owes too many answers; try again when it has answered");
        }
        if let Err(why) = check_arguments(message) {
            return asker.fail(&why);
        }
        let command = message.name();
        match command {
            "setBreakpoints" | "setFunctionBreakpoints" | "setExceptionBreakpoints" => {
                self.configure(asker, message, out);
            }
            "debugpySystemInfo" => asker.succeed(self.system_info()),
            _ if !self.is_linked() => {
                asker
                    .fail("the process is being replaced (exec), and cannot be asked anything now");
            }
            "continue" if !self.threads.any_stopped() => {
                // A pause that has not come to anything is taken back; pydevd would answer at the next resume only.
                self.is_wanted_stopped &= asker.owner() != Owner::Daemon;
                asker.succeed(json!({ "allThreadsContinued": true }));
            }
            "continue" => self.resume(asker, every_thread(message), out),
            "pause" if self.threads.all_stopped() => {
                // pydevd would stop once more; the client is told what it has missed instead.
                let owner = asker.owner();
                asker.succeed(json!({}));
                for stop in self.threads.stops() {
                    self.tell_stop_again(owner, stop);
                }
            }
            "pause" => {
                self.is_stop_awaited = true;
                self.is_wanted_stopped |= asker.owner() == Owner::Daemon;
                self.ask(every_thread(message), Pending::Asked(asker), out);
            }
            "next" | "stepIn" | "stepOut" | "goto" | "stepInTargets" | "exceptionInfo" => {
                let thread = match self.known_thread(message) {
                    Ok(thread) => thread,
                    Err(why) => return asker.fail(&why),
                };
                if !self.threads.is_stopped(thread) {
                    // pydevd would keep it, and carry it out at the thread's next stop.
                    let why = format!("thread {thread} is running; pause it first");
                    asker.refuse("notStopped", &why);
                } else if matches!(command, "next" | "stepIn" | "stepOut") {
                    self.resume(asker, message.clone(), out);
                } else {
                    self.is_stop_awaited |= command == "goto";
                    self.ask(message.clone(), Pending::Asked(asker), out);
                }
            }
            "stackTrace" => match self.known_thread(message) {
                Ok(_) => self.ask(message.clone(), Pending::Asked(asker), out),
                Err(why) => asker.fail(&why),
            },
            _ if FORWARDED.contains(&command) => {
                self.ask(message.clone(), Pending::Asked(asker), out)
            }
            _ => asker.fail(&format!(
                "\"{command}\" is not supported by the debug server"
            )),
        }
    }

    /// A verb asks the guard something.
    pub(super) fn ask_guard(
        &mut self,
        function: &str,
        argument: &Value,
        asker: Asker,
        out: &mut Outbox,
    ) {
        if !self.caller.report.guarded {
            return asker.fail("the guard is not in this process, which did not let it in");
        }
        if !self.is_linked() || self.pending.len() >= MAX_PENDING {
            return asker.fail("the process cannot be asked anything now; try again");
        }
        self.questions += 1;
        let token = self.questions;
        // A JSON text is a Python literal too; the argument is at most one of those. pydevd would make a line break of
        // the word LINE between two at signs.
        let argument = match argument {
            Value::Null => "None".to_owned(),
            argument => argument.to_string().replace('@', "\\x40"),
        };
        let expression =
            format!("__import__('_dbgproxy').answer({token}, '{function}', {argument})");
        let arguments = json!({ "expression": expression, "context": "watch" });
        self.ask(
            Message::request("evaluate", arguments),
            Pending::Guard(token, asker),
            out,
        );
    }

    /// The guard answers: its event comes before the response to the `evaluate` that asked for it.
    pub(super) fn on_guard_answer(&mut self, event: &Message) {
        #[derive(Deserialize)]
        struct Answer {
            token: i64,
            body: Value,
        }
        let Ok(Answer { token, body }) = event.decode() else {
            return;
        };
        let pending = self
            .pending
            .values_mut()
            .find(|pending| matches!(pending, Pending::Guard(of, _) if *of == token));
        if let Some(pending) = pending
            && let Pending::Guard(_, asker) = std::mem::replace(pending, Pending::Own)
        {
            match body.get("error").and_then(Value::as_str) {
                Some(why) => asker.fail(why),
                None => asker.succeed(body),
            }
        }
    }

    /// The thread that a request names.
    ///
    /// A number that pydevd has given to something else, such as a frame, would end pydevd's reader.
    fn known_thread(&self, message: &Message) -> Result<i64, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Arguments {
            thread_id: i64,
        }
        let Arguments { thread_id } = message.decode().map_err(|error| error.to_string())?;
        if self.threads.knows(thread_id) {
            Ok(thread_id)
        } else {
            Err(format!("there is no thread {thread_id} in this session"))
        }
    }

    /// Passes on a request that makes threads run.
    fn resume(&mut self, asker: Asker, message: Message, out: &mut Outbox) {
        self.resumed_by = Some(asker.owner());
        self.is_stop_awaited = &*asker.command != "continue";
        self.is_wanted_stopped = self.is_stop_awaited && asker.owner() == Owner::Daemon;
        self.threads.on_resume_sent();
        self.ask(message, Pending::AskedResume(asker), out);
    }

    /// Lets everything run that is stopped.
    pub(super) fn resume_all(&mut self, out: &mut Outbox) {
        self.is_wanted_stopped = false;
        if self.threads.any_stopped() {
            self.resumed_by = Some(Owner::Daemon);
            self.threads.on_resume_sent();
            self.ask(
                Message::request("continue", json!({ "threadId": "*" })),
                Pending::Resume,
                out,
            );
        }
    }

    /// Answers every `continue` that the process has not: a stop has come, so they are over.
    ///
    /// When a thread stops while all are resumed, pydevd keeps the answer until the next time that all run.
    pub(super) fn answer_continues(&mut self) {
        let is_continue = |pending: &&mut Pending| matches!(pending, Pending::AskedResume(asker) if &*asker.command == "continue");
        for pending in self.pending.values_mut().filter(is_continue) {
            // What pydevd answers later is for nobody.
            if let Pending::AskedResume(asker) = std::mem::replace(pending, Pending::Own) {
                asker.succeed(json!({ "allThreadsContinued": true }));
            }
        }
    }

    /// Ends the process, for all.
    pub(super) fn terminate(&mut self, out: &mut Outbox) {
        self.terminating = true;
        self.want();
        if self.is_linked() {
            tracing::info!(session = %self.handle.id, "a client ends the process");
            let arguments = json!({ "terminateDebuggee": true });
            self.ask(Message::request("disconnect", arguments), Pending::Own, out);
        }
    }

    /// Finds out where the process is stopped.
    pub(super) fn locate(&mut self, reply: oneshot::Sender<()>, out: &mut Outbox) {
        let thread = match &self.handle.info().stopped {
            Some(stopped) if stopped.file.is_none() => stopped.thread,
            _ => return,
        };
        if self.locating.len() < MAX_LOCATING {
            if self.locating.is_empty() {
                let arguments = json!({ "threadId": thread, "startFrame": 0, "levels": 1 });
                self.ask(
                    Message::request("stackTrace", arguments),
                    Pending::Locate(self.stops),
                    out,
                );
            }
            self.locating.push(reply);
        }
    }

    /// The process has answered.
    pub(super) fn on_response(&mut self, message: Message, out: &mut Outbox) {
        let Some(pending) = self.pending.remove(&message.request_seq()) else {
            tracing::debug!(session = %self.handle.id, command = message.name(), "an answer to nothing is left out");
            return;
        };
        if !message.success() {
            tracing::debug!(session = %self.handle.id, command = message.name(), "the process refused");
        }
        match pending {
            Pending::Asked(asker) => {
                if &*asker.command == "threads" {
                    self.on_threads_listed(&message);
                }
                asker.answer(message);
            }
            Pending::AskedResume(asker) => {
                if !message.success() {
                    self.threads.on_resume_failed();
                }
                asker.answer(message);
            }
            Pending::Resume if !message.success() => self.threads.on_resume_failed(),
            Pending::Attach(Some(client)) => {
                if !message.success() {
                    self.tell_refused(client, &message);
                }
                self.tell_joined(client);
            }
            // The guard's word would have come before.
            Pending::Guard(_, asker) => asker.fail("the process gave no answer"),
            Pending::Breakpoints(union) => self.on_placed(union, &message, out),
            Pending::Locate(stop) => self.on_located(stop, &message),
            Pending::Name => self.on_name_asked(out),
            Pending::Own | Pending::Resume | Pending::Attach(None) => {}
        }
    }

    fn on_threads_listed(&mut self, message: &Message) {
        #[derive(Deserialize)]
        struct Body {
            threads: Vec<Thread>,
        }
        #[derive(Deserialize)]
        struct Thread {
            id: i64,
        }
        if let Ok(Body { threads }) = message.decode() {
            self.threads
                .on_listed(threads.iter().map(|thread| thread.id));
        }
    }

    fn on_located(&mut self, stop: u64, message: &Message) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            stack_frames: Vec<Frame>,
        }
        #[derive(Deserialize)]
        struct Frame {
            line: i64,
            source: Option<Source>,
        }
        #[derive(Deserialize)]
        struct Source {
            path: Option<String>,
        }
        let frame = message
            .decode::<Body>()
            .ok()
            .and_then(|body| body.stack_frames.into_iter().next());
        let frame = frame.filter(|_| stop == self.stops);
        if let Some(frame) = frame {
            self.handle.update(|info| {
                if let Some(stopped) = &mut info.stopped {
                    stopped.file = frame.source.and_then(|source| source.path);
                    stopped.line = Some(frame.line);
                }
            });
            self.hub.tell(&self.handle, Reason::Changed);
        }
        self.locating.clear();
    }

    /// The process is gone, and with it the answer.
    pub(super) fn answer_lost(&mut self, pending: Pending) {
        match pending {
            Pending::Asked(asker)
            | Pending::AskedResume(asker)
            | Pending::Guard(_, asker)
            | Pending::Breakpoints(Union {
                audience:
                    Audience {
                        answer: Some((asker, _)),
                        ..
                    },
                ..
            }) => asker.lost(),
            Pending::Attach(Some(client)) if self.stage == Stage::Replaced => {
                self.tell_joined(client);
            }
            _ => {}
        }
    }

    /// What debugpy's adapter answers to `debugpySystemInfo`: its own version and pydevd's system info.
    fn system_info(&self) -> Value {
        let mut info = self.caller.system_info();
        info["debugpy"] = json!({ "version": self.caller.report.debugpy });
        info
    }
}

/// Refuses arguments that pydevd takes, and then never answers or is never right again (debugpy 1.6.7).
fn check_arguments(message: &Message) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Evaluate {
        #[serde(rename = "expression")]
        _expression: String,
    }
    #[derive(Deserialize)]
    struct Completions {
        #[serde(rename = "column")]
        _column: u64,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Properties {
        #[serde(rename = "dontTraceStartPatterns")]
        _start: Option<Vec<String>>,
        #[serde(rename = "dontTraceEndPatterns")]
        _end: Option<Vec<String>>,
    }
    match message.name() {
        "evaluate" => message.decode::<Evaluate>().map(drop),
        "completions" => message.decode::<Completions>().map(drop),
        "setDebuggerProperty" => message.decode::<Properties>().map(drop),
        _ => Ok(()),
    }
    .map_err(|error| error.to_string())
}

fn refuse_observer(asker: Asker, message: &Message) {
    if !message.name().ends_with("Breakpoints") {
        return asker.fail("this client is an observer: it may look, not touch");
    }
    // A client that sets its breakpoints at the start, as all do, must not fail by it.
    #[derive(Default, Deserialize)]
    struct Arguments {
        #[serde(default)]
        breakpoints: Option<Vec<Value>>,
    }
    let Arguments { breakpoints } = message.decode().unwrap_or_default();
    let ids = 1..=breakpoints.map_or(0, |breakpoints| breakpoints.len() as i64);
    let verdicts: Vec<Value> = ids
        .map(|id| unverified(id, "not set: this client is an observer"))
        .collect();
    asker.succeed(json!({ "breakpoints": verdicts }));
}

/// One process is resumed and paused as a whole, as debugpy's adapter does.
fn every_thread(message: &Message) -> Message {
    Message::request(message.name(), json!({ "threadId": "*" }))
}
