//! By whom a process was ended: who watches it is known from its last stop, and how it ended from its end.
//!
//! This module knows nothing of how watchdogs are found, and guesses: it says "most likely".

use std::time::Duration;

use tokio::time::Instant;

use crate::monitor::Watchdog;

/// How long a process may take to end after a stop that has lasted too long: a signal may make it try to end by itself,
/// and another come when it does not; or who is to end it was stopped with it. One that ends later has ended by itself.
const ENDING_WAIT: Duration = Duration::from_secs(10);

/// Exit codes that are greater stand for a signal, as shells have it.
const LAST_CODE: i64 = 128;

/// How the last stop ended of a process that somebody watches.
#[derive(Debug)]
pub(super) struct LastStop {
    /// Who does, and when the time is over that each gives it.
    pub(super) watchdogs: Vec<Watchdog>,
    /// When it ended.
    pub(super) ended: Instant,
    /// Whether somebody had let the process run.
    pub(super) is_resumed: bool,
}

impl LastStop {
    /// By whom the process was ended most likely, if it was not by itself: it has ended with that exit code, if one is
    /// known, and has said so or not.
    pub(super) fn ending(self, exit: Option<i64>, says_so: bool) -> Option<String> {
        let LastStop {
            watchdogs,
            ended,
            is_resumed,
        } = self;
        // A signal may have made it end by itself, if nobody let it run.
        if exit == Some(0) || is_resumed && says_so {
            return None;
        }
        let in_time = ended.elapsed() <= ENDING_WAIT;
        let culprit = in_time.then(|| Watchdog::culprit(&watchdogs, ended.into_std()));
        let culprit = culprit.flatten().or_else(|| {
            // A signal, as that of a limit that ends nothing, makes pydevd say that a process runs that stands.
            let is_killed = !says_so && exit.is_none_or(|code| !(0..=LAST_CODE).contains(&code));
            let now = Instant::now().into_std();
            is_killed.then(|| Watchdog::culprit_of_running(&watchdogs, now))?
        })?;
        let when = if is_resumed { "after" } else { "while" };
        Some(format!(
            "ended {when} it was stopped, most likely by {culprit}"
        ))
    }
}
