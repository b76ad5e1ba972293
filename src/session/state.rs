//! The stop state of a process: its threads, and which of them are stopped, and why.
//!
//! pydevd tells this to nobody twice, so the daemon keeps it, for those who come later, and to know which
//! requests make sense now. It is fed by pydevd's own events.
//! This module knows no connection and no client.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::breakpoints::{Changed, Place};
use crate::wire::Message;

/// How many threads of one process are kept; of further ones only their stops are known.
pub const MAX_THREADS: usize = 4096;

/// The threads of one process.
#[derive(Default)]
pub struct Threads {
    /// By pydevd's thread id, the `thread` event that announced it.
    known: BTreeMap<i64, Message>,
    /// The threads of the last list that the process gave.
    listed: BTreeSet<i64>,
    /// The `stopped` events that are in force, by the thread that each names.
    stopped: BTreeMap<i64, Stop>,
    /// Whether one of them stops all threads.
    all_stopped: bool,
    /// A resuming request is under way: what is stopped will run before it is answered.
    resuming: bool,
}

/// A thread that is stopped.
#[derive(Clone)]
pub struct Stop {
    /// The event, as it came.
    pub event: Message,
    /// What it says.
    pub body: StoppedBody,
    /// Where the breakpoints are that were hit: pydevd's numbers for them change whenever they are set anew.
    pub hit: Vec<(Changed, Place)>,
    /// Which parts of merged breakpoints held, as `CLIENT:ID`; empty where nothing is merged.
    pub held: Vec<String>,
}

/// The fields of a `stopped` event that the daemon reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedBody {
    /// Why, in DAP's words.
    pub reason: String,
    /// The thread that caused it.
    #[serde(default)]
    pub thread_id: i64,
    /// Whether all threads stopped with it.
    #[serde(default)]
    pub all_threads_stopped: bool,
    /// pydevd's numbers of the breakpoints that were hit.
    #[serde(default)]
    pub hit_breakpoint_ids: Option<Vec<i64>>,
}

impl Threads {
    /// A `thread` event came; true if it is news.
    pub fn on_thread(&mut self, event: &Message) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            reason: &'a str,
            thread_id: i64,
        }
        let Ok(body) = event.decode::<Body<'_>>() else {
            return false;
        };
        if body.reason == "exited" {
            self.stopped.remove(&body.thread_id);
            self.listed.remove(&body.thread_id);
            self.all_stopped &= !self.stopped.is_empty();
            self.known.remove(&body.thread_id).is_some()
        } else if self.known.contains_key(&body.thread_id) {
            false
        } else {
            if self.known.len() < MAX_THREADS {
                self.known.insert(body.thread_id, event.detached());
            }
            true
        }
    }

    /// The process has listed its threads: one may be there whose `thread` event has not come yet.
    pub fn on_listed(&mut self, threads: impl Iterator<Item = i64>) {
        self.listed = threads.take(MAX_THREADS).collect();
    }

    /// A `stopped` event came.
    pub fn on_stopped(&mut self, stop: &Stop) {
        self.resuming = false;
        if stop.body.all_threads_stopped {
            // One event for the whole world: an older one is no longer what a newcomer should see.
            self.stopped.clear();
            self.all_stopped = true;
        }
        if self.stopped.len() < MAX_THREADS {
            let stop = Stop {
                event: stop.event.detached(),
                ..stop.clone()
            };
            self.stopped.insert(stop.body.thread_id, stop);
        }
    }

    /// A `continued` event came.
    pub fn on_continued(&mut self, event: &Message) {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[serde(default)]
            thread_id: i64,
            /// DAP 1.70: true where it is not said.
            all_threads_continued: Option<bool>,
        }
        self.resuming = false;
        match event.decode::<Body>() {
            Ok(Body {
                thread_id,
                all_threads_continued: Some(false),
            }) => {
                self.stopped.remove(&thread_id);
                self.all_stopped &= !self.stopped.is_empty();
            }
            _ => self.running(),
        }
    }

    /// A request that makes threads run was sent to the process.
    pub fn on_resume_sent(&mut self) {
        self.resuming = true;
    }

    /// The process refused to resume.
    pub fn on_resume_failed(&mut self) {
        self.resuming = false;
    }

    /// Everything runs: no thread is stopped any more.
    pub fn running(&mut self) {
        self.stopped.clear();
        self.all_stopped = false;
    }

    /// Whether anything is stopped, and stays so for all that is known.
    #[must_use]
    pub fn any_stopped(&self) -> bool {
        !self.resuming && !self.stopped.is_empty()
    }

    /// Whether all threads are stopped.
    #[must_use]
    pub fn all_stopped(&self) -> bool {
        !self.resuming && self.all_stopped
    }

    /// Whether this thread is stopped, so that a step or a question about its frames makes sense.
    #[must_use]
    pub fn is_stopped(&self, thread: i64) -> bool {
        !self.resuming
            && (self.stopped.contains_key(&thread) || self.all_stopped && self.knows(thread))
    }

    /// Whether this thread has been seen and has not ended.
    #[must_use]
    pub fn knows(&self, thread: i64) -> bool {
        self.known.contains_key(&thread)
            || self.stopped.contains_key(&thread)
            || self.listed.contains(&thread)
    }

    /// The stops in force, by thread.
    pub fn stops(&self) -> impl Iterator<Item = &Stop> {
        self.stopped.values()
    }

    /// The `thread` events of all threads that live.
    pub fn started(&self) -> impl Iterator<Item = &Message> {
        self.known.values()
    }

    /// The process image is gone: forgets all threads and gives their numbers.
    pub fn take(&mut self) -> Vec<i64> {
        let threads = std::mem::take(self);
        threads.known.into_keys().collect()
    }
}
