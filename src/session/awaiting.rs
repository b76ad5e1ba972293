//! The program itself waits for an IDE: `dbgproxy.wait_for_ide()`.
//!
//! While it does, its process is wanted, so that it is not loading its debugger only when the IDE comes.

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::{Session, Stage};

/// The most that wait in one process, each thread for itself; further ones are refused.
pub const MAX_AWAITING: usize = 64;

/// What one who waits is told: that an IDE is there, or why none can be.
pub(crate) type Attended = Result<(), String>;

/// Those of one process who wait for an IDE.
#[derive(Default)]
pub(super) struct Awaiting(Vec<(Instant, oneshot::Sender<Attended>)>);

impl Awaiting {
    /// Whether anybody waits.
    pub(super) fn is_any(&self) -> bool {
        let now = Instant::now();
        let mut all = self.0.iter();
        all.any(|(until, reply)| *until > now && !reply.is_closed())
    }

    /// When the first of them gives up.
    pub(super) fn until(&self) -> Option<Instant> {
        self.0.iter().map(|(until, _)| *until).min()
    }

    /// Forgets those who have given up.
    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        self.0
            .retain(|(until, reply)| *until > now && !reply.is_closed());
    }

    /// Tells all of them.
    pub(super) fn tell(&mut self, what: &Attended) {
        for (_, reply) in std::mem::take(&mut self.0) {
            // Who has given up misses nothing.
            let _ = reply.send(what.clone());
        }
    }
}

impl Session {
    /// The program waits for an IDE until then; it is told once one is configured.
    pub(super) fn await_client(&mut self, until: Instant, reply: oneshot::Sender<Attended>) {
        self.awaiting.expire();
        if self.stage == Stage::Released && self.live().next().is_some() {
            let _ = reply.send(Ok(()));
        } else if self.awaiting.0.len() >= MAX_AWAITING {
            let _ = reply.send(Err("too much waits already for an IDE".into()));
        } else {
            self.awaiting.0.push((until, reply));
            self.want();
        }
    }
}
