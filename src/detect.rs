//! Who is calling: told by what comes first on a new connection, and once for all.
//!
//! An IDE and a browser speak first; a debug server never does.
//! This module knows the first words of each kind of peer, and nothing of what follows.

use std::time::Duration;

use anyhow::bail;
use bytes::BytesMut;
use serde_json::json;
use tokio::time::timeout;

use crate::agent::{Hello, Role};
use crate::link::{Link, Stream};
use crate::pump::last_flush;
use crate::session::{Caller, SessionId};
use crate::wire::{Kind, Message};

/// How long a peer may be silent before it is taken for a debug server and probed.
/// The clients that are known speak within 2 to 16 ms; one that is slower is recognised by its answer.
pub const GRACE: Duration = Duration::from_millis(25);

/// How long the first bytes of a peer that speaks may take to say what it is, and its first message to be whole.
pub const FIRST_WORDS_WAIT: Duration = Duration::from_secs(10);

/// How long a silent peer is waited for. It is long because a debug server that is suspended must not be
/// given up: its program would hang for ever without a greeting.
pub const SILENCE_WAIT: Duration = Duration::from_secs(600);

/// The longest first word.
const LONGEST_WORD: usize = DAP.len();

const DAP: &[u8] = b"Content-Length: ";

const HTTP: [&[u8]; 9] = [
    b"GET ",
    b"POST ",
    b"HEAD ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
];

/// A peer that has said what it is.
pub(crate) enum Detected {
    /// An IDE, with its `initialize`.
    Client(Link, Message),
    /// A debug server, with its answer to the probe.
    DebugServer(Link, Caller),
    /// An agent, with the number of its hello and what it says of its process.
    Agent(Link, i64, Caller),
    /// An HTTP client, with what it has sent so far.
    Http(Stream, BytesMut),
    /// It closed without a word: a health check.
    Nobody,
}

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum FirstWords {
    Dap,
    Http,
    Unknown,
    /// They may become any of several.
    TooFew,
}

fn first_words(bytes: &[u8]) -> FirstWords {
    let seen = bytes.len().min(DAP.len());
    if DAP[..seen].eq_ignore_ascii_case(&bytes[..seen]) {
        return if seen == DAP.len() {
            FirstWords::Dap
        } else {
            FirstWords::TooFew
        };
    }
    for method in HTTP {
        let seen = bytes.len().min(method.len());
        if method[..seen] == bytes[..seen] {
            return if seen == method.len() {
                FirstWords::Http
            } else {
                FirstWords::TooFew
            };
        }
    }
    FirstWords::Unknown
}

/// Finds out who is calling.
///
/// # Errors
/// Why the connection is of no use; it is to be closed.
pub(crate) async fn detect(stream: Stream) -> anyhow::Result<Detected> {
    let mut buffer = BytesMut::new();
    match timeout(GRACE, read_first(&stream, &mut buffer)).await {
        Err(_) => return timeout(SILENCE_WAIT, probe(Link::new(stream, buffer), None)).await?,
        Ok(Ok(0)) => return Ok(Detected::Nobody),
        Ok(result) => drop(result?),
    }
    let heard = timeout(FIRST_WORDS_WAIT, async {
        loop {
            match first_words(&buffer) {
                FirstWords::Dap => return hear(Link::new(stream, buffer)).await,
                FirstWords::Http => return Ok(Heard::Detected(Detected::Http(stream, buffer))),
                FirstWords::Unknown => {
                    let start = &buffer[..buffer.len().min(LONGEST_WORD)];
                    bail!(
                        "neither DAP nor HTTP: it begins with {:?}",
                        String::from_utf8_lossy(start)
                    );
                }
                FirstWords::TooFew if read_first(&stream, &mut buffer).await? == 0 => {
                    return Ok(Heard::Detected(Detected::Nobody));
                }
                FirstWords::TooFew => {}
            }
        }
    });
    match heard.await?? {
        Heard::Detected(detected) => Ok(detected),
        Heard::Announced(link, session) => timeout(SILENCE_WAIT, probe(link, session)).await?,
    }
}

/// What a peer's first message says.
#[allow(clippy::large_enum_variant)] // There is one at a time.
enum Heard {
    /// What it is.
    Detected(Detected),
    /// That it is the debug server of this session, which does not speak before it is spoken to.
    Announced(Link, Option<SessionId>),
}

async fn read_first(stream: &Stream, buffer: &mut BytesMut) -> std::io::Result<usize> {
    loop {
        stream.readable().await?;
        buffer.reserve(1024);
        match stream.try_read(buffer) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            result => return result,
        }
    }
}

/// A peer that speaks DAP: its first message says whether it is an IDE.
async fn hear(mut link: Link) -> anyhow::Result<Heard> {
    let message = match link.next().await {
        Ok(Some(message)) => message,
        Ok(None) => return Ok(Heard::Detected(Detected::Nobody)),
        Err(error) => {
            if let Some(crate::wire::Error::Message(why)) = error.downcast_ref() {
                link.out.send(&Message::failure(0, "", why));
                last_flush(&mut link).await;
            }
            return Err(error);
        }
    };
    first_message(link, message).await
}

async fn first_message(mut link: Link, message: Message) -> anyhow::Result<Heard> {
    let why = match (message.kind(), message.name()) {
        (Kind::Request, "initialize") => {
            return Ok(Heard::Detected(Detected::Client(link, message)));
        }
        (Kind::Request, "dbgproxy/hello") => match Hello::read(&message) {
            Ok((Role::Agent, caller)) => {
                let agent = Detected::Agent(link, message.seq(), caller);
                return Ok(Heard::Detected(agent));
            }
            Ok((Role::DebugServer, caller)) => return Ok(Heard::Announced(link, caller.session)),
            Err(error) => &format!("this is no hello: {error}"),
        },
        (Kind::Request, _) => "the first request must be \"initialize\"",
        (Kind::Response | Kind::Event, _) => "the first message must be the request \"initialize\"",
    };
    link.out
        .send(&Message::failure(message.seq(), message.name(), why));
    last_flush(&mut link).await;
    bail!("{why}, not {:?}", message.name())
}

/// A silent peer, or the debug server that a session's agent has announced: asked what only a debug server can answer,
/// and what does no harm to others.
async fn probe(mut link: Link, mut announced: Option<SessionId>) -> anyhow::Result<Detected> {
    link.input.set_quick(true);
    let probe = link
        .out
        .send(&Message::request("pydevdSystemInfo", json!({})));
    link.flush().await?;
    loop {
        let message = match link.next_readable().await? {
            Some(message) => message,
            None => return Ok(Detected::Nobody),
        };
        match message.kind() {
            Kind::Response if message.request_seq() == probe && message.success() => {
                match Caller::read(&message) {
                    Some(caller) => {
                        let session = announced;
                        return Ok(Detected::DebugServer(link, Caller { session, ..caller }));
                    }
                    // Some IDEs answer any request with a success, and initialize only then.
                    None => {
                        tracing::debug!(answer = ?message, "the answer to the probe says nothing")
                    }
                }
            }
            // It speaks after all, behind something slow; an IDE's answer to the probe says nothing.
            Kind::Request => {
                link.input.set_quick(false);
                match first_message(link, message).await? {
                    Heard::Detected(detected) => return Ok(detected),
                    // On a busy machine its word comes late. The probe waits in the socket for pydevd all the same.
                    Heard::Announced(back, session) => (link, announced) = (back, session),
                }
                link.input.set_quick(true);
            }
            Kind::Response | Kind::Event => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DAP, FirstWords, HTTP, first_words};

    #[test]
    fn every_prefix_of_a_first_word_waits_for_more() {
        for word in HTTP.into_iter().chain([DAP]) {
            for length in 0..word.len() {
                assert_eq!(
                    first_words(&word[..length]),
                    FirstWords::TooFew,
                    "{length} of {word:?}"
                );
            }
        }
    }

    #[test]
    fn whole_first_words_are_told_apart() {
        assert_eq!(first_words(b"Content-Length: 12\r\n"), FirstWords::Dap);
        assert_eq!(first_words(b"content-length: 12\r\n"), FirstWords::Dap);
        assert_eq!(first_words(b"CONNECT example"), FirstWords::Http);
        for method in HTTP {
            assert_eq!(first_words(method), FirstWords::Http);
        }
    }

    #[test]
    fn anything_else_is_nobody_at_its_first_wrong_byte() {
        for bytes in [
            &b"\x16\x03\x01"[..],
            b"SSH-2.0",
            b"get ",
            b"Content-Type: ",
            b"101\t1\t\n",
            b"\0",
        ] {
            assert_eq!(first_words(bytes), FirstWords::Unknown, "{bytes:?}");
        }
    }
}
