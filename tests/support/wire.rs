//! DAP framing as the tests read and write it: strict in what it accepts, so that the daemon cannot send anything else.

use std::io::{Error, ErrorKind, Result};

use tokio::io::{AsyncRead, AsyncReadExt};

/// One framed message: header and body.
pub fn frame(body: &str) -> Vec<u8> {
    let mut bytes = header(body);
    bytes.extend_from_slice(body.as_bytes());
    bytes
}

/// The header that announces `body`.
pub fn header(body: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes()
}

/// The messages of a stream, one after the other.
pub struct Frames<R> {
    stream: R,
    /// Bytes that were read; those before `start` have been handed out.
    buffer: Vec<u8>,
    start: usize,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    pub fn new(stream: R) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            start: 0,
        }
    }

    /// The next message, or `None` at the end of the stream.
    ///
    /// # Errors
    ///
    /// Anything but exactly one `Content-Length` header, and an end in the middle of a message.
    ///
    /// # Cancel safety
    ///
    /// What has been read of a message stays in the buffer.
    pub async fn next(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(body) = self.take()? {
                return Ok(Some(body));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                let rest = String::from_utf8_lossy(&self.buffer);
                let message = format!("the stream ended inside of a message: {rest:?}");
                return Err(Error::new(ErrorKind::UnexpectedEof, message));
            }
        }
    }

    /// A message that is in the buffer as a whole.
    fn take(&mut self) -> Result<Option<String>> {
        let bytes = &self.buffer[self.start..];
        let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") else {
            return Ok(None);
        };
        let header = String::from_utf8_lossy(&bytes[..end]);
        let length = header
            .strip_prefix("Content-Length: ")
            .and_then(|digits| digits.parse::<usize>().ok())
            .ok_or_else(|| {
                Error::new(
                    ErrorKind::InvalidData,
                    format!("not a DAP header: {header:?}"),
                )
            })?;
        let Some(body) = bytes.get(end + 4..end + 4 + length) else {
            return Ok(None);
        };
        let body = String::from_utf8(body.to_vec())
            .map_err(|error| Error::new(ErrorKind::InvalidData, error))?;
        self.start += end + 4 + length;
        Ok(Some(body))
    }
}
