//! Framing: `Content-Length: N`, a blank line, N bytes.
//!
//! Exactly that one header is accepted, so that an HTTP request can never be read as DAP.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Error, Message};

/// The most bytes that a header may have, its blank line included; a longer one ends the connection.
pub const MAX_HEADER: usize = 4 * 1024;

/// The most bytes that a message may have; a larger one ends the connection before any of it is stored.
pub const MAX_MESSAGE: usize = 64 * 1024 * 1024;

/// The one header, as pydevd demands it to the letter; we read its name without regard to case.
const HEADER: &str = "Content-Length: ";

/// Bytes that came in and are not yet messages.
#[derive(Default)]
pub struct Decoder {
    buffer: BytesMut,
    /// The length of the message whose header has been read.
    length: Option<usize>,
}

impl Decoder {
    /// A decoder of a stream whose first bytes have been read already.
    #[must_use]
    pub fn starting_with(buffer: BytesMut) -> Decoder {
        Decoder {
            buffer,
            length: None,
        }
    }

    /// Where a reader puts what it reads.
    ///
    /// There is room for the rest of the message that is being read, up to `chunk` bytes at a time.
    pub fn space(&mut self, chunk: usize) -> &mut BytesMut {
        let missing = self
            .length
            .map_or(0, |length| length.saturating_sub(self.buffer.len()));
        self.buffer.reserve(missing.clamp(chunk, 16 * chunk));
        &mut self.buffer
    }

    /// Whether the stream may end here: not within a message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty() && self.length.is_none()
    }

    /// Gives back memory that a large message needed, once nothing waits in it.
    pub fn shrink(&mut self, keep: usize) {
        if self.buffer.is_empty() && self.buffer.capacity() > keep {
            self.buffer = BytesMut::new();
        }
    }

    /// The next frame's bytes, or none if more must be read first.
    ///
    /// # Errors
    /// [`Error::Frame`], after which the decoder must not be used.
    pub fn frame(&mut self) -> Result<Option<Bytes>, Error> {
        let length = match self.length {
            Some(length) => length,
            None => match self.header()? {
                Some(length) => length,
                None => return Ok(None),
            },
        };
        if self.buffer.len() < length {
            self.length = Some(length);
            return Ok(None);
        }
        self.length = None;
        Ok(Some(self.buffer.split_to(length).freeze()))
    }

    /// The next message, or none if more must be read first.
    ///
    /// # Errors
    /// As [`Decoder::frame`], and [`Error::Message`], after which the next message can be read.
    pub fn message(&mut self) -> Result<Option<Message>, Error> {
        self.frame()?.map(Message::parse).transpose()
    }

    /// Takes a whole header off the buffer, and gives the length that it announces.
    fn header(&mut self) -> Result<Option<usize>, Error> {
        let head = &self.buffer[..self.buffer.len().min(MAX_HEADER)];
        let prefix = &head[..head.len().min(HEADER.len())];
        if !HEADER.as_bytes()[..prefix.len()].eq_ignore_ascii_case(prefix) {
            return Err(Error::Frame(format!(
                "the header is not \"Content-Length: N\" but starts with {:?}",
                String::from_utf8_lossy(&head[..head.len().min(32)])
            )));
        }
        let Some(digits) = head.get(HEADER.len()..) else {
            return Ok(None);
        };
        let count = digits
            .iter()
            .take_while(|byte| byte.is_ascii_digit())
            .count();
        let (digits, end) = digits.split_at(count);
        let blank = b"\r\n\r\n";
        let seen = &end[..end.len().min(blank.len())];
        if seen != &blank[..seen.len()] || (digits.is_empty() && !seen.is_empty()) {
            return Err(Error::Frame(
                "only digits and a blank line may follow \"Content-Length: \"".into(),
            ));
        }
        // Twenty digits hold any length that could be meant; leading zeros beyond that are a game.
        if digits.len() > 20 {
            return Err(too_large(&String::from_utf8_lossy(digits)));
        }
        if seen.len() < blank.len() {
            return Ok(None);
        }
        let text = std::str::from_utf8(digits).unwrap_or_default();
        let length = text.parse().ok().filter(|length| *length <= MAX_MESSAGE);
        let length = length.ok_or_else(|| too_large(text))?;
        self.buffer.advance(HEADER.len() + count + blank.len());
        Ok(Some(length))
    }
}

fn too_large(length: &str) -> Error {
    Error::Frame(format!(
        "a message of {length} bytes is over the limit of {MAX_MESSAGE} bytes"
    ))
}

/// Bytes that go out: it alone frames and numbers the messages of its connection.
#[derive(Default)]
pub struct Outbox {
    buffer: BytesMut,
    /// The number of the last message; 0 before the first.
    last_seq: i64,
}

impl Outbox {
    /// Sends a message under the next number, and gives that number.
    pub fn send(&mut self, message: &Message) -> i64 {
        self.splice(message, None)
    }

    /// Sends a response as the answer to the receiver's request `request_seq`.
    pub fn answer(&mut self, message: &Message, request_seq: i64) {
        self.splice(message, Some(request_seq));
    }

    fn splice(&mut self, message: &Message, request_seq: Option<i64>) -> i64 {
        self.last_seq += 1;
        // The length is known without writing: the text, less the old digits, plus the new ones.
        let mut length = 0;
        message.splice(self.last_seq, request_seq, |part| length += part.len());
        self.buffer.reserve(HEADER.len() + 24 + length);
        self.buffer.put_slice(HEADER.as_bytes());
        self.buffer
            .put_slice(itoa::Buffer::new().format(length).as_bytes());
        self.buffer.put_slice(b"\r\n\r\n");
        message.splice(self.last_seq, request_seq, |part| {
            self.buffer.put_slice(part)
        });
        self.last_seq
    }

    /// The bytes that have not been written yet.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer
    }

    /// How many bytes have not been written yet.
    #[must_use]
    pub fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Whether everything has been written.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.buffer.is_empty()
    }

    /// Forgets `count` bytes that have been written.
    ///
    /// A buffer larger than `keep` bytes is given back once it is empty.
    pub fn written(&mut self, count: usize, keep: usize) {
        self.buffer.advance(count);
        if self.buffer.is_empty() {
            if self.buffer.capacity() > keep {
                self.buffer = BytesMut::new();
            } else {
                self.buffer.clear();
            }
        }
    }
}
