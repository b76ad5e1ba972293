//! A connection: its socket, the bytes that came in, the bytes that go out.
//!
//! This module knows TCP and unix sockets, and framing; it knows nothing of what the messages mean.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use tokio::net::{TcpStream, UnixStream};

use crate::wire::{Decoder, Error, Message, Outbox};

/// The least that is read at once, in bytes; an idle connection keeps no larger buffer than this.
const READ_CHUNK: usize = 4 * 1024;

/// The most that is read at once, in bytes, from a peer that keeps filling its buffer.
const MAX_READ_CHUNK: usize = 256 * 1024;

static RECEIVED_BYTES: AtomicU64 = AtomicU64::new(0);
static RECEIVED_MESSAGES: AtomicU64 = AtomicU64::new(0);
static SENT_BYTES: AtomicU64 = AtomicU64::new(0);

/// What has gone over the DAP connections of this program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// The bytes that were read.
    pub received_bytes: u64,
    /// The messages in them.
    pub received_messages: u64,
    /// The bytes that were written.
    pub sent_bytes: u64,
}

/// What has gone over the DAP connections of this program so far.
#[must_use]
pub fn traffic() -> Traffic {
    let value = |count: &AtomicU64| count.load(Ordering::Relaxed);
    Traffic {
        received_bytes: value(&RECEIVED_BYTES),
        received_messages: value(&RECEIVED_MESSAGES),
        sent_bytes: value(&SENT_BYTES),
    }
}

/// A connected socket.
#[derive(Debug)]
pub enum Stream {
    /// TCP, on loopback unless the user asked for more.
    Tcp(TcpStream),
    /// A unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Waits until there is something to read, or the peer has closed.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn readable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.readable().await,
            Stream::Unix(stream) => stream.readable().await,
        }
    }

    async fn writable(&self) -> io::Result<()> {
        match self {
            Stream::Tcp(stream) => stream.writable().await,
            Stream::Unix(stream) => stream.writable().await,
        }
    }

    /// Reads what is there; `WouldBlock` if nothing is.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub fn try_read(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_read_buf(buffer),
            Stream::Unix(stream) => stream.try_read_buf(buffer),
        }
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.try_write(bytes),
            Stream::Unix(stream) => stream.try_write(bytes),
        }
    }

    /// The address on which the peer reached us; none for a unix socket.
    #[must_use]
    pub fn local_address(&self) -> Option<SocketAddr> {
        match self {
            Stream::Tcp(stream) => stream.local_addr().ok(),
            Stream::Unix(_) => None,
        }
    }

    /// Makes the kernel acknowledge at once what has been read.
    ///
    /// pydevd writes the header and the body of a message apart and leaves Nagle's algorithm on, so that
    /// its body waits for the acknowledgement of its header: 40 ms for each message with a delayed one.
    /// The kernel forgets the setting as soon as something is written, hence it is set after every read; an
    /// acknowledgement that it had put off is then sent.
    fn acknowledge_quickly(&self) {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if let Stream::Tcp(stream) = self {
            // A socket that cannot do it is slower, and nothing else.
            let _ = stream.set_quickack(true);
        }
    }
}

/// A connection that speaks DAP.
pub struct Link {
    /// The socket.
    pub stream: Stream,
    /// What came in and is not yet a message.
    pub input: Input,
    /// What goes out.
    pub out: Outbox,
}

/// The reading half of a [`Link`].
pub struct Input {
    decoder: Decoder,
    /// How much the next read may take; it grows while a peer fills it, and falls back when it does not.
    chunk: usize,
    /// Whether the peer is a debug server, whose messages must be acknowledged at once.
    quick: bool,
    /// How many messages have come since the last read.
    messages: u64,
}

impl Link {
    /// A connection whose first bytes have been read into `buffer`.
    #[must_use]
    pub fn new(stream: Stream, buffer: BytesMut) -> Link {
        let input = Input {
            decoder: Decoder::starting_with(buffer),
            chunk: READ_CHUNK,
            quick: false,
            messages: 0,
        };
        Link {
            stream,
            input,
            out: Outbox::default(),
        }
    }

    /// The next message; none at the end of the stream.
    ///
    /// Cancel safe: what was read stays in the link.
    ///
    /// # Errors
    /// A broken stream, socket or message.
    pub async fn next(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            if let Some(message) = self.input.message()? {
                return Ok(Some(message));
            }
            if self.input.read(&self.stream).await? == 0 {
                return Ok(None);
            }
        }
    }

    /// The next message that can be read; what cannot is left out.
    ///
    /// # Errors
    /// A broken stream or socket.
    pub async fn next_readable(&mut self) -> anyhow::Result<Option<Message>> {
        loop {
            match self.next().await {
                Err(error) if matches!(error.downcast_ref(), Some(Error::Message(_))) => {
                    tracing::debug!(%error, "what a peer said is left out");
                }
                result => return result,
            }
        }
    }

    /// Writes everything that goes out.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !try_flush(&self.stream, &mut self.out)? {
            self.stream.writable().await?;
        }
        Ok(())
    }
}

impl Input {
    /// Whether to acknowledge at once: the peer is, or may be, a debug server.
    pub fn set_quick(&mut self, quick: bool) {
        self.quick = quick;
    }

    /// Reads once; gives the number of bytes, 0 at the end of the stream.
    ///
    /// # Errors
    /// What the system says of the socket.
    pub async fn read(&mut self, stream: &Stream) -> io::Result<usize> {
        loop {
            // Nothing is allocated before there is something to read: most connections are idle.
            stream.readable().await?;
            match stream.try_read(self.decoder.space(self.chunk)) {
                Ok(count) => {
                    // Once for each call of the system, which costs a thousand times as much.
                    RECEIVED_BYTES.fetch_add(count as u64, Ordering::Relaxed);
                    RECEIVED_MESSAGES
                        .fetch_add(std::mem::take(&mut self.messages), Ordering::Relaxed);
                    if self.quick {
                        stream.acknowledge_quickly();
                    }
                    self.chunk = if count >= self.chunk {
                        (self.chunk * 2).min(MAX_READ_CHUNK)
                    } else {
                        READ_CHUNK.max(self.chunk / 2)
                    };
                    return Ok(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.decoder.shrink(0);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The next message that has been read whole.
    ///
    /// # Errors
    /// As [`Decoder::message`].
    pub fn message(&mut self) -> Result<Option<Message>, Error> {
        let message = self.decoder.message();
        match message {
            Ok(None) => self.decoder.shrink(0),
            _ => self.messages += 1,
        }
        message
    }
}

/// Writes what can be written now; true when nothing is left.
///
/// # Errors
/// What the system says of the socket.
pub(crate) fn try_flush(stream: &Stream, out: &mut Outbox) -> io::Result<bool> {
    while !out.is_empty() {
        match stream.try_write(out.bytes()) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                SENT_BYTES.fetch_add(count as u64, Ordering::Relaxed);
                out.written(count, READ_CHUNK);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}

/// Waits until the socket takes more bytes.
///
/// # Errors
/// What the system says of the socket.
pub(crate) async fn writable(stream: &Stream) -> io::Result<()> {
    stream.writable().await
}
