//! The wire: DAP's framing and the envelope of a message.
//!
//! Bytes come in, [`Message`]s go out and back again.
//! A message is parsed once, no deeper than its envelope, and forwarded as the bytes that it came in;
//! only the digits of `seq` and `request_seq` are replaced on the way out.
//!
//! This module knows no socket, no session, no client and no command by name.

mod frame;
mod message;

pub use frame::{Decoder, MAX_HEADER, MAX_MESSAGE, Outbox};
pub use message::{Kind, Message};

/// What a peer can get wrong in the stream of its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The framing is broken: where the next message starts is unknown, and the connection must be closed.
    Frame(String),
    /// One message is not a DAP message; the next one starts at a known place.
    Message(String),
}

impl std::fmt::Display for Error {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Frame(text) | Error::Message(text) => formatter.write_str(text),
        }
    }
}

impl std::error::Error for Error {}
