//! What the client of a merged view asks, what processes are asked for it, and what they answer.
//!
//! This module knows whom a request is for; to put many answers together is for `gather`.

use serde::Serialize;
use serde_json::json;

use super::gather::What;
use super::group::{Paused, Told};
use super::process::Process;
use super::{Fleet, Member};
use crate::breakpoints::Changed;
use crate::client::FromSession;
use crate::client::attach::Role;
use crate::wire::{Message, Outbox};

/// The most requests that may be under way in one view; further ones are refused.
const MAX_ASKED: usize = 64 * 1024;

/// What a `continue` is answered: all threads of one process run, which are not all of this session.
const CONTINUED: Continued = Continued {
    all_threads_continued: false,
};

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Continued {
    all_threads_continued: bool,
}

/// What a request has led to beyond its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Progress {
    /// Nothing.
    None,
    /// The client is configured: its `attach` is to be answered.
    Configured,
}

/// A request that a process owes an answer to.
pub(super) enum Asked {
    /// The client's: its number, command, and the thread that it is about.
    Client {
        member: Member,
        thread: Option<i64>,
        seq: i64,
        command: Box<str>,
        /// The [`Process::stop`] that it is about.
        stop: Option<u64>,
    },
    /// A part of what all were asked.
    Part { member: Member, gather: u64 },
    /// Breakpoints; the gather waits for it, if there still is one.
    Breakpoints {
        member: Member,
        changed: Changed,
        set: u64,
        gather: Option<u64>,
    },
    /// The pausing of a process whose group has stopped.
    Pause { member: Member },
    /// The running on of a process whose group does.
    Continue { member: Member },
    /// Nobody waits for it.
    Quiet,
}

impl Fleet {
    /// The client asks something.
    pub(in super::super) fn on_request(&mut self, message: &Message, out: &mut Outbox) -> Progress {
        if let Err(why) = self.request(message, out) {
            out.send(&Message::failure(message.seq(), message.name(), &why));
            return Progress::None;
        }
        if message.name() == "configurationDone" {
            Progress::Configured
        } else {
            Progress::None
        }
    }

    fn request(&mut self, message: &Message, out: &mut Outbox) -> Result<(), String> {
        if self.asked.len() >= MAX_ASKED || self.gathers.len() >= MAX_ASKED {
            return Err("too many requests are under way".into());
        }
        let seq = message.seq();
        match message.name() {
            "configurationDone" => {
                out.send(&Message::response(seq, "configurationDone", json!({})));
                self.configured = true;
                for member in self.joined() {
                    self.ask(member, message, Asked::Quiet);
                }
            }
            "setBreakpoints" | "setFunctionBreakpoints" | "setExceptionBreakpoints" => {
                self.set_breakpoints(message, out)?;
            }
            "setDebuggerProperty" | "setPydevdSourceMap" => {
                self.settings.keep(message)?;
                let done = What::Done {
                    done: false,
                    refused: false,
                };
                let members = self.members.keys().copied().collect();
                self.gather(message, members, done, out);
            }
            "threads" => {
                // Of a process that has not named any it is not known whether it has some.
                let unknown = |process: &Process| {
                    process.threads.is_empty()
                        || process.threads.values().any(|thread| thread.name.is_none())
                };
                let members = self.members.iter().filter(|(_, process)| unknown(process));
                let members = members.map(|(member, _)| *member).collect();
                self.gather(message, members, What::Threads, out);
            }
            "modules" => {
                let members = self.members.keys().copied().collect();
                self.gather(message, members, What::Modules(Vec::new()), out);
            }
            _ => self.of_one(message, out)?,
        }
        Ok(())
    }

    /// A request that one process answers.
    fn of_one(&mut self, message: &Message, out: &mut Outbox) -> Result<(), String> {
        let (request, owner) = self.lens.inward(message)?;
        let (member, thread) = match owner {
            Some(owner) => (owner.member, owner.thread),
            None if matches!(
                message.name(),
                "continue" | "pause" | "next" | "stepIn" | "stepOut" | "stackTrace"
            ) =>
            {
                return Err(format!(
                    "\"{}\" needs a threadId of this session",
                    message.name()
                ));
            }
            None => (
                self.focus().ok_or("there is no process in this session")?,
                None,
            ),
        };
        let process = self.members.get_mut(&member);
        let process = process.ok_or("the process has left this session")?;
        let (seq, stop) = (message.seq(), process.stop(thread));
        let needs_stop = matches!(
            message.name(),
            "next" | "stepIn" | "stepOut" | "goto" | "stepInTargets" | "exceptionInfo"
        );
        if needs_stop && thread.is_some_and(|thread| !process.is_stopped(thread)) {
            // The process would say so too, and call the thread by its own number.
            let why = "the thread is running; pause it first";
            out.send(&Message::refusal(seq, message.name(), "notStopped", why));
            return Ok(());
        }
        match message.name() {
            "continue" => {
                let runs = process.stopped.is_empty() || process.told == Told::Continue;
                self.release(member);
                if runs && self.attach.role != Role::Observer {
                    // Or is about to: a stop that the client has not heard of is not what it means.
                    out.send(&Message::response(seq, "continue", CONTINUED));
                    return Ok(());
                }
            }
            // A stop that the client wants is not undone.
            "pause" => process.paused = Paused::No,
            name if steps(name) => process.told = thread.map_or(Told::Nothing, Told::Step),
            _ => {}
        }
        self.ask(
            member,
            &request,
            Asked::Client {
                member,
                thread,
                seq,
                command: message.name().into(),
                stop,
            },
        );
        Ok(())
    }

    /// The process that a question without ids is about: of those that are stopped the one that stopped last,
    /// else the one that did before it ran on, else the oldest.
    fn focus(&self) -> Option<Member> {
        let oldest = || {
            self.members
                .iter()
                .find(|(_, process)| process.joined)
                .map(|(member, _)| *member)
        };
        let last = self.stopped.last().copied().or(self.stopped_last);
        last.or_else(oldest)
    }

    /// Asks a process; one that cannot be asked answers at once that it cannot.
    pub(super) fn ask(&mut self, member: Member, request: &Message, asked: Asked) {
        let Some(process) = self.members.get(&member) else {
            return;
        };
        self.last_token += 1;
        let token = self.last_token;
        self.asked.insert(token, asked);
        if let Err(closed) = process.membership.ask(token, request.clone()) {
            let session = process.membership.session.id;
            let failure = Message::failure(token, request.name(), closed.why());
            // As if it came from there: answers are handled in one place.
            self.handle
                .tell(session, FromSession::Response(token, failure));
        }
    }

    /// A process answers.
    pub(super) fn on_response(&mut self, token: i64, message: &Message, out: &mut Outbox) {
        let Some(asked) = self.asked.remove(&token) else {
            return;
        };
        match asked {
            Asked::Client {
                member,
                thread,
                seq,
                command,
                stop,
            } => {
                let answer = self.outward(member, thread, stop, message);
                out.answer(&answer, seq);
                let Some(process) = self.members.get_mut(&member) else {
                    return;
                };
                let is_step = steps(&command) && matches!(process.told, Told::Step(_));
                if is_step && !message.success() {
                    process.told = Told::Nothing;
                }
                if message.success() && resumes(&command) && process.stop(thread) == stop {
                    // The process says that it runs just now; the client may ask before that.
                    let thread = thread.filter(|_| &*command != "continue");
                    self.lens.resumed(member, thread);
                }
                if &*command == "continue" {
                    self.runs_on(member);
                }
            }
            Asked::Part { member, gather } => {
                self.is_heard(member);
                self.on_part(member, gather, message);
                self.arrived(gather, member, out);
            }
            Asked::Breakpoints {
                member,
                changed,
                set,
                gather,
            } => {
                self.is_heard(member);
                self.on_verdicts(member, &changed, set, message, out);
                if let Some(gather) = gather {
                    self.arrived(gather, member, out);
                }
            }
            Asked::Pause { member } => {
                let process = self.members.get_mut(&member);
                if let Some(process) = process.filter(|_| !message.success()) {
                    process.paused = Paused::No;
                }
            }
            Asked::Continue { member } => self.runs_on(member),
            Asked::Quiet if !message.success() => {
                tracing::warn!(
                    command = message.name(),
                    "a process of a merged view has refused"
                );
            }
            Asked::Quiet => {}
        }
    }

    /// An answer as the client is to see it.
    fn outward(
        &mut self,
        member: Member,
        thread: Option<i64>,
        stop: Option<u64>,
        message: &Message,
    ) -> Message {
        if !message.success() || message.content().is_none() {
            return message.clone();
        }
        let command = message.name();
        if command == "continue" {
            return Message::response(0, command, CONTINUED);
        }
        let Some(process) = self.members.get(&member) else {
            return Message::failure(0, command, "the process has left this session");
        };
        // Of a thread that runs the stack can be had, but nothing can be asked about its frames.
        let runs = thread.is_some_and(|thread| !process.is_stopped(thread));
        let answer = if runs || process.stop(thread) != stop {
            self.lens.outward_late(member, thread, message)
        } else {
            self.lens.outward(member, thread, message)
        };
        answer.unwrap_or_else(|_| {
            Message::failure(0, command, "the answer of the process cannot be read")
        })
    }
}

/// Whether a request makes threads run.
fn resumes(command: &str) -> bool {
    matches!(command, "continue" | "next" | "stepIn" | "stepOut")
}

/// Whether a request makes a thread run only to stop again.
fn steps(command: &str) -> bool {
    matches!(command, "next" | "stepIn" | "stepOut" | "goto")
}
