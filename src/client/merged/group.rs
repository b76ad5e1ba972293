//! The control of a group (`stopPolicy: group`): when one process stops all do, and they run on together.
//!
//! While the group is stopped nothing runs that was not asked to: a process that comes is paused before its first
//! line of user code, and a step is of one process alone.

use serde_json::json;

use super::process::Process;
use super::requests::Asked;
use super::{Fleet, Member};
use crate::client::attach::{Role, StopPolicy};
use crate::wire::Message;

/// How far the pausing of a process is whose group has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Paused {
    /// It is not paused.
    No,
    /// It has been asked to.
    Asked,
    /// It has been asked to, and all run on already: its stop is undone when it comes.
    Outrun,
    /// It is.
    Yes,
}

/// What a process was told that it has not yet done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// To step in this thread; until it stops again, or the thread ends.
    Step(i64),
    /// To run on with its group; until it answers that.
    Continue,
}

impl Fleet {
    /// Whether this client has processes stop and run together. An observer pauses nobody.
    fn is_group(&self) -> bool {
        self.attach.stop_policy == StopPolicy::Group && self.attach.role != Role::Observer
    }

    /// One process of a group has stopped by itself: so do the others.
    pub(super) fn halt(&mut self) {
        if self.is_group() {
            self.halted = true;
            for member in self.joined() {
                self.pause(member);
            }
        }
    }

    /// Pauses a process because its group is stopped, unless it stands still, or has been asked to step.
    ///
    /// One that is about to run on is paused when it does: a pause that overtakes that would take it back in silence.
    pub(super) fn pause(&mut self, member: Member) {
        let Some(process) = self.members.get_mut(&member) else {
            return;
        };
        if !process.stopped.is_empty() || process.told != Told::Nothing {
            return;
        }
        match process.paused {
            Paused::No | Paused::Yes => {
                process.paused = Paused::Asked;
                let request = Message::request("pause", json!({ "threadId": 0 }));
                self.ask(member, &request, Asked::Pause { member });
            }
            // The pause that is on its way will do.
            Paused::Outrun => process.paused = Paused::Asked,
            Paused::Asked => {}
        }
    }

    /// One process of a group is continued: so are the others, also those whose pause is still to come.
    pub(super) fn release(&mut self, member: Member) {
        if !self.is_group() {
            return;
        }
        self.halted = false;
        let mut others = Vec::new();
        for (other, process) in &mut self.members {
            if process.told == Told::Continue {
                // It will not be paused when it does.
            } else if !process.stopped.is_empty() {
                process.paused = Paused::No;
                process.told = Told::Continue;
                if *other != member {
                    others.push(*other);
                }
            } else if process.paused == Paused::Asked {
                process.paused = Paused::Outrun;
            }
        }
        for other in others {
            self.go_on(other);
        }
    }

    /// Lets a process run on that stands still because of its group.
    pub(super) fn go_on(&mut self, member: Member) {
        if let Some(process) = self.members.get_mut(&member) {
            process.told = Told::Continue;
        }
        let request = Message::request("continue", json!({ "threadId": 0 }));
        self.ask(member, &request, Asked::Continue { member });
    }

    /// A process has answered that it runs on.
    pub(super) fn runs_on(&mut self, member: Member) {
        let process = self.members.get_mut(&member);
        if let Some(process) = process.filter(|process| process.told == Told::Continue) {
            process.told = Told::Nothing;
            if self.halted {
                self.pause(member);
            }
        }
    }

    /// A process runs or has gone: the group is no longer stopped when nothing of it is, nor will be.
    pub(super) fn may_run(&mut self) {
        let stops = |process: &Process| {
            process.paused == Paused::Asked || matches!(process.told, Told::Step(_))
        };
        self.halted &= !self.stopped.is_empty() || self.members.values().any(stops);
    }
}
