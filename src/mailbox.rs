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

    /// How many mails wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        CAPACITY.saturating_sub(self.tx.capacity())
    }

    /// Waits until the receiver is gone.
    pub async fn closed(&self) {
        self.tx.closed().await;
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

#[cfg(test)]
mod tests {
    use super::*;

    struct Mail(usize);

    impl Weight for Mail {
        fn weight(&self) -> usize {
            self.0
        }
    }

    struct Ends {
        mailbox: Mailbox<Mail>,
        rx: mpsc::Receiver<Mail>,
        scale: Scale,
    }

    impl Ends {
        fn new() -> Ends {
            let (mailbox, rx, scale) = mailbox(&CancellationToken::new());
            Ends { mailbox, rx, scale }
        }

        fn send(&self, mails: &[usize]) -> bool {
            mails.iter().all(|weight| self.mailbox.send(Mail(*weight)))
        }

        /// Takes so many mails out, as a receiver does.
        fn receive(&mut self, count: usize) {
            for _ in 0..count {
                let mail = self.rx.try_recv().expect("there is one more");
                self.scale.take_off(&mail);
            }
        }

        fn waiting(&self) -> usize {
            self.scale.bytes.load(Ordering::Relaxed)
        }

        /// What a sender is told: whether the receiver lags, has caught up, is closed.
        fn state(&self) -> (bool, bool, bool) {
            let mailbox = &self.mailbox;
            (mailbox.lags(), mailbox.has_caught_up(), mailbox.is_closed())
        }
    }

    const AT_EASE: (bool, bool, bool) = (false, true, false);
    const BETWEEN: (bool, bool, bool) = (false, false, false);
    const LAGGING: (bool, bool, bool) = (true, false, false);
    const CLOSED: (bool, bool, bool) = (true, false, true);

    #[test]
    fn the_number_of_mails_is_bounded() {
        let ends = Ends::new();
        assert!(ends.send(&vec![1; CAPACITY]));
        assert_eq!(ends.state(), LAGGING);
        assert!(!ends.scale.overrun.is_cancelled());
        assert!(!ends.send(&[1]));
        assert_eq!(ends.state(), CLOSED);
        assert!(ends.scale.overrun.is_cancelled());
        // What was not taken does not weigh.
        assert_eq!(ends.waiting(), CAPACITY);
    }

    #[test]
    fn the_bytes_are_bounded() {
        let mut ends = Ends::new();
        assert!(ends.send(&[CAPACITY_BYTES - 1, 1, 0]));
        assert_eq!(ends.state(), LAGGING);
        assert!(!ends.send(&[1]));
        assert_eq!(ends.state(), CLOSED);
        assert_eq!(ends.waiting(), CAPACITY_BYTES);
        // Nobody comes back from there, however much is read.
        ends.receive(3);
        assert_eq!(ends.waiting(), 0);
        assert!(ends.mailbox.is_closed());
    }

    #[test]
    fn one_mail_over_the_bound_is_taken_when_it_is_alone() {
        let mut ends = Ends::new();
        assert!(ends.send(&[CAPACITY_BYTES + 1]));
        assert_eq!(ends.state(), LAGGING);
        ends.receive(1);
        assert_eq!(ends.state(), AT_EASE);
        assert!(ends.send(&[1]));
        assert!(!ends.send(&[CAPACITY_BYTES]));
        assert_eq!(ends.waiting(), 1);
    }

    #[test]
    fn who_lags_by_mails_has_caught_up_much_later() {
        let mut ends = Ends::new();
        assert_eq!(ends.state(), AT_EASE);
        assert!(ends.send(&vec![0; LAG]));
        assert_eq!(ends.state(), BETWEEN);
        assert!(ends.send(&[0]));
        assert_eq!(ends.state(), LAGGING);
        ends.receive(1);
        assert_eq!(ends.state(), BETWEEN);
        ends.receive(LAG - LAG / 4);
        assert_eq!(ends.state(), BETWEEN);
        ends.receive(1);
        assert_eq!(ends.state(), AT_EASE);
    }

    #[test]
    fn who_lags_by_bytes_has_caught_up_much_later() {
        let mut ends = Ends::new();
        let quarter = LAG_BYTES / 4;
        assert!(ends.send(&[1, quarter, quarter, quarter, quarter - 1]));
        assert_eq!(ends.state(), BETWEEN);
        assert!(ends.send(&[1]));
        assert_eq!(ends.state(), LAGGING);
        ends.receive(1);
        assert_eq!(ends.state(), BETWEEN);
        ends.receive(2);
        assert_eq!(ends.state(), BETWEEN);
        ends.receive(1);
        assert_eq!(ends.state(), AT_EASE);
    }

    #[test]
    fn a_mailbox_closes_with_its_receiver() {
        let Ends { mailbox, rx, scale } = Ends::new();
        let other = mailbox.clone();
        drop(rx);
        assert!(mailbox.is_closed());
        assert!(!other.send(Mail(5)));
        assert_eq!(scale.bytes.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn what_stops_the_daemon_stops_each_receiver_and_an_overrun_only_one() {
        let stop = CancellationToken::new();
        let (one, _one_rx, _) = mailbox::<Mail>(&stop);
        let (two, _two_rx, scale) = mailbox::<Mail>(&stop);
        assert!(one.send(Mail(1)));
        assert!(!one.send(Mail(CAPACITY_BYTES)));
        assert!(one.is_closed());
        assert!(!two.is_closed() && !stop.is_cancelled());
        stop.cancel();
        assert!(two.is_closed() && scale.overrun.is_cancelled());
    }
}
