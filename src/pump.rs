//! The one loop that every DAP connection runs: write, read, take mail, keep deadlines.
//!
//! What a message or a mail means is decided by the [`Peer`], in ordinary functions that do not wait:
//! they push into the connection's [`Outbox`], and the pump writes it.
//! This module knows no session and no client.

use std::io;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::link::{Link, try_flush, writable};
use crate::wire::{Error, Message, Outbox};

/// How many bytes may wait to be written before no more are made: neither mail nor messages are taken
/// from then on, until the receiver has read.
pub const HIGH_WATER: usize = 256 * 1024;

/// How many mails are handled before they are written together.
const BATCH: usize = 512;

/// How long the last bytes of a finished connection may take to be written.
pub const LAST_FLUSH: Duration = Duration::from_secs(1);

/// What owns one end of a connection.
pub trait Peer: Send {
    /// What other tasks send it.
    type Mail: Send;

    /// A message came from the connection.
    fn message(&mut self, message: Message, out: &mut Outbox);

    /// Something came that is no message; the stream goes on behind it.
    fn malformed(&mut self, error: &Error, out: &mut Outbox);

    /// A mail came from another task.
    fn mail(&mut self, mail: Self::Mail, out: &mut Outbox);

    /// When [`Peer::expired`] is to be called, if at all.
    fn deadline(&self) -> Option<Instant>;

    /// The deadline has passed.
    fn expired(&mut self, out: &mut Outbox);

    /// Until when nothing is to be read, because those who would get it have no room; asked before each read.
    fn hold(&mut self) -> Option<Instant> {
        None
    }

    /// Whether the connection is to be closed once everything is written.
    fn finished(&self) -> bool;
}

/// Why a connection's pump ended.
#[derive(Debug)]
pub enum End {
    /// The peer closed the stream, between two messages or within one.
    Closed,
    /// The socket failed.
    Failed(io::Error),
    /// The stream is not DAP's.
    Broken(Error),
    /// [`Peer::finished`] said so.
    Finished,
    /// The daemon stops.
    Stopped,
}

/// Serves a connection until it ends.
pub async fn pump<P: Peer>(
    peer: &mut P,
    link: &mut Link,
    inbox: &mut mpsc::Receiver<P::Mail>,
    stop: &CancellationToken,
) -> End {
    // What came together with the first messages is here already, and no read will tell of it.
    if let Err(error) = hand_over(peer, link) {
        last_flush(link).await;
        return End::Broken(error);
    }
    loop {
        let flushed = match try_flush(&link.stream, &mut link.out) {
            Ok(flushed) => flushed,
            Err(error) => return End::Failed(error),
        };
        if peer.finished() {
            last_flush(link).await;
            return End::Finished;
        }
        let room = link.out.len() < HIGH_WATER;
        let hold = peer.hold();
        let wake = match (hold, peer.deadline()) {
            (Some(hold), Some(deadline)) => Some(hold.min(deadline)),
            (hold, deadline) => hold.or(deadline),
        };
        tokio::select! {
            result = writable(&link.stream), if !flushed => {
                if let Err(error) = result {
                    return End::Failed(error);
                }
            }
            result = link.input.read(&link.stream), if room && hold.is_none() => match result {
                Ok(0) => return End::Closed,
                Ok(_) => {
                    if let Err(error) = hand_over(peer, link) {
                        last_flush(link).await;
                        return End::Broken(error);
                    }
                }
                Err(error) => return End::Failed(error),
            },
            mail = inbox.recv(), if room => {
                let mut next = mail;
                let mut count = 0;
                while let Some(mail) = next {
                    peer.mail(mail, &mut link.out);
                    count += 1;
                    if count == BATCH || link.out.len() >= HIGH_WATER {
                        break;
                    }
                    next = inbox.try_recv().ok();
                }
            }
            () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                if peer.deadline().is_some_and(|deadline| deadline <= Instant::now()) {
                    peer.expired(&mut link.out);
                }
            }
            () = stop.cancelled() => return End::Stopped,
        }
    }
}

/// Hands over every message that has been read whole; an error is one of the stream.
fn hand_over<P: Peer>(peer: &mut P, link: &mut Link) -> Result<(), Error> {
    loop {
        match link.input.message() {
            Ok(Some(message)) => {
                tracing::trace!(kind = ?message.kind(), name = message.name(), bytes = message.size(), "received");
                peer.message(message, &mut link.out);
            }
            Ok(None) => return Ok(()),
            Err(error @ Error::Message(_)) => peer.malformed(&error, &mut link.out),
            Err(error @ Error::Frame(_)) => return Err(error),
        }
    }
}

/// Writes what is left, for a bounded time: a peer that does not read must not hold up its own end.
pub async fn last_flush(link: &mut Link) {
    if let Ok(Err(error)) = tokio::time::timeout(LAST_FLUSH, link.flush()).await {
        tracing::debug!(%error, "the last bytes could not be written");
    }
}
