//! A client's mailbox: bounded in messages and in bytes, with a mark from which a client lags.
//!
//! Up to the mark everything is taken. Above it the sender waits a little, then leaves out what can be left
//! out; what cannot is still taken, up to the bound, and a client that has not even room for that is closed.
//! This module knows nothing of what the mail says.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// The most mails that wait for one client. A client with this many is closed.
pub const CAPACITY: usize = 8 * 1024;

/// From so many waiting mails on a client lags.
pub const LAG: usize = 2 * 1024;

/// From so many waiting bytes on a client lags: the size of a few large answers.
pub const LAG_BYTES: usize = 16 * 1024 * 1024;

/// The most bytes that wait for one client: some answers of the largest size. A client with more is closed.
pub const CAPACITY_BYTES: usize = 256 * 1024 * 1024;

/// Mail has a weight.
pub trait Weight {
    /// Its size in bytes, as far as it grows with what a process or a client says.
    fn weight(&self) -> usize;
}

/// The sending end, cheap to clone.
pub struct Mailbox<M> {
    tx: mpsc::Sender<M>,
    bytes: Arc<AtomicUsize>,
    /// Cancelled when the receiver is beyond help; it then ends its connection.
    overrun: CancellationToken,
}

/// What the receiver of the mails needs to know of the sending end.
pub struct Scale {
    bytes: Arc<AtomicUsize>,
    /// Cancelled when more was sent than the mailbox can hold, and when the daemon stops.
    pub overrun: CancellationToken,
}

/// A mailbox, its receiver, and the scale on which the receiver takes off what it has read.
///
/// What stops the daemon stops the receiver.
#[must_use]
pub fn mailbox<M: Weight>(stop: &CancellationToken) -> (Mailbox<M>, mpsc::Receiver<M>, Scale) {
    let (tx, rx) = mpsc::channel(CAPACITY);
    let bytes = Arc::new(AtomicUsize::new(0));
    let overrun = stop.child_token();
    let mailbox = Mailbox {
        tx,
        bytes: bytes.clone(),
        overrun: overrun.clone(),
    };
    (mailbox, rx, Scale { bytes, overrun })
}

impl<M: Weight> Mailbox<M> {
    /// Puts a mail in; if there is no room for it, the receiver is told to end.
    ///
    /// Gives whether it was taken.
    pub fn send(&self, mail: M) -> bool {
        let weight = mail.weight();
        let before = self.bytes.fetch_add(weight, Ordering::Relaxed);
        let taken =
            (before == 0 || before + weight <= CAPACITY_BYTES) && self.tx.try_send(mail).is_ok();
        if !taken {
            self.bytes.fetch_sub(weight, Ordering::Relaxed);
            self.overrun.cancel();
        }
        taken
    }

    /// Whether the receiver lags so far that what can wait or be left out should be.
    #[must_use]
    pub fn lags(&self) -> bool {
        self.tx.capacity() < CAPACITY - LAG || self.bytes.load(Ordering::Relaxed) > LAG_BYTES
    }

    /// Whether the receiver has worked off most of what had piled up.
    #[must_use]
    pub fn has_caught_up(&self) -> bool {
        self.tx.capacity() > CAPACITY - LAG / 4
            && self.bytes.load(Ordering::Relaxed) <= LAG_BYTES / 4
    }

    /// Whether the receiver is gone.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.tx.is_closed() || self.overrun.is_cancelled()
    }
}

impl<M> Clone for Mailbox<M> {
    fn clone(&self) -> Self {
        Mailbox {
            tx: self.tx.clone(),
            bytes: self.bytes.clone(),
            overrun: self.overrun.clone(),
        }
    }
}

impl Scale {
    /// A mail has been taken out.
    pub fn take_off(&self, mail: &impl Weight) {
        self.bytes.fetch_sub(mail.weight(), Ordering::Relaxed);
    }
}
