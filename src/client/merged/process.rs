//! One process of the merged view, and its threads: what they do, as far as the view has heard.
//!
//! This module knows neither the other processes nor the ids that the client has.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::group::{Paused, Told};
use crate::client::membership::Membership;

/// The most threads of one process that are kept; of further ones only their stops are told.
const MAX_THREADS: usize = 4096;

/// One process of the view.
pub(super) struct Process {
    pub(super) membership: Membership,
    pub(super) threads: BTreeMap<i64, Thread>,
    /// The threads that are stopped.
    pub(super) stopped: BTreeSet<i64>,
    /// They are all stopped, also those that start meanwhile.
    pub(super) all_stopped: bool,
    /// Whether it was paused because another one stopped.
    pub(super) paused: Paused,
    pub(super) told: Told,
    /// How often something of it has run on.
    pub(super) runs: u64,
    /// It has let an answer that all were asked for wait too long, and none has come since: nobody waits for it.
    pub(super) is_late: bool,
    /// Its program has been announced, so that another announcement is one of another program.
    pub(super) has_begun: bool,
    /// Its own numbers of the view's breakpoints.
    pub(super) breakpoints: HashMap<i64, i64>,
    /// The session has let us in.
    pub(super) joined: bool,
}

/// One thread of a process.
pub(super) struct Thread {
    /// Its name, once the process was asked.
    pub(super) name: Option<String>,
    /// How often something of its process had run on when it last did: what is said of a stop before is old.
    pub(super) ran: u64,
}

impl Process {
    /// One that has come, and has not let us in yet.
    pub(super) fn new(membership: Membership) -> Process {
        Process {
            membership,
            threads: BTreeMap::new(),
            stopped: BTreeSet::new(),
            all_stopped: false,
            paused: Paused::No,
            told: Told::Nothing,
            runs: 0,
            is_late: false,
            has_begun: false,
            breakpoints: HashMap::new(),
            joined: false,
        }
    }

    /// What people call it now.
    pub(super) fn name(&self) -> String {
        self.membership.session.info().name.clone()
    }

    /// A thread that may not have been heard of; none if there is no room for one more.
    pub(super) fn thread(&mut self, thread: i64) -> Option<&mut Thread> {
        if self.threads.len() >= MAX_THREADS && !self.threads.contains_key(&thread) {
            return None;
        }
        let (name, ran) = (None, self.runs);
        Some(self.threads.entry(thread).or_insert(Thread { name, ran }))
    }

    /// Whether a thread is stopped, by itself or with its process, and not about to run on.
    pub(super) fn is_stopped(&self, thread: i64) -> bool {
        self.told != Told::Continue && (self.all_stopped || self.stopped.contains(&thread))
    }

    /// A number that changes when a thread runs on or ends, or, if none is meant, when any runs on.
    pub(super) fn stop(&self, thread: Option<i64>) -> Option<u64> {
        thread.map_or(Some(self.runs), |thread| {
            Some(self.threads.get(&thread)?.ran)
        })
    }
}
