//! One DAP message: its JSON bytes, and where its envelope stands in them.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::Error;

/// The three kinds of DAP messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Asks for something; has a `command` and maybe `arguments`.
    Request,
    /// Answers a request; has a `command`, a `request_seq`, `success` and maybe a `body` or a `message`.
    Response,
    /// Tells something; has an `event` and maybe a `body`.
    Event,
}

/// A DAP message as it came, cheap to clone.
#[derive(Clone)]
pub struct Message {
    /// The JSON text, without framing.
    bytes: Bytes,
    kind: Kind,
    /// The value of `command` or `event`.
    name: Name,
    /// Where the digits of `seq` stand, and what they say.
    seq: Number,
    /// The same for `request_seq`; only in responses.
    request_seq: Option<Number>,
    /// `success` of a response; true in other messages.
    success: bool,
    /// Where the value of `arguments` (of a request) or `body` stands; empty if there is none.
    content: Range<usize>,
}

/// A whole number in the text of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Number {
    at: Range<usize>,
    value: i64,
}

/// A name that is usually found in the message's own text, and owned only if it was written with escapes.
#[derive(Clone)]
enum Name {
    At(Range<usize>),
    Owned(Box<str>),
}

/// The envelope as serde sees it: everything that is not looked into stays raw.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    seq: Option<&'a RawValue>,
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    command: Option<Text<'a>>,
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    request_seq: Option<&'a RawValue>,
    success: Option<bool>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    body: Option<&'a RawValue>,
}

/// A string that stays where it is, unless it was written with escapes.
///
/// A type of its own, because serde would copy what stands in an `Option<Cow<str>>` each time.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl Message {
    /// Reads the envelope of one message.
    ///
    /// # Errors
    /// [`Error::Message`], when the text is not a JSON object with the envelope that DAP demands:
    /// `seq` (a whole number of 64 bits), `type`, and the fields of that type.
    pub fn parse(bytes: Bytes) -> Result<Message, Error> {
        let text = std::str::from_utf8(&bytes)
            .map_err(|error| Error::Message(format!("not a DAP message: {error}")))?;
        // Serde takes an array for a structure, too.
        if !is_object(text) {
            return Err(Error::Message(
                "not a DAP message: not a JSON object".into(),
            ));
        }
        let envelope: Envelope<'_> = serde_json::from_str(text)
            .map_err(|error| Error::Message(format!("not a DAP message: {error}")))?;
        let number = |name: &str, raw: Option<&RawValue>| {
            let raw = raw.ok_or_else(|| missing(name))?;
            let value = raw.get().parse().map_err(|_| {
                Error::Message(format!(
                    "not a DAP message: \"{name}\" is not a whole number"
                ))
            })?;
            Ok(Number {
                at: place(&bytes, raw.get()),
                value,
            })
        };
        let seq = number("seq", envelope.seq)?;
        let kind = match envelope.kind.as_ref().map(|kind| &*kind.0) {
            Some("request") => Kind::Request,
            Some("response") => Kind::Response,
            Some("event") => Kind::Event,
            Some(other) => {
                return Err(Error::Message(format!(
                    "not a DAP message: \"type\" is {other:?}, not request, response or event"
                )));
            }
            None => return Err(missing("type")),
        };
        let (name, content) = match kind {
            Kind::Request => (
                envelope.command.ok_or_else(|| missing("command"))?,
                envelope.arguments,
            ),
            Kind::Response => (
                envelope.command.ok_or_else(|| missing("command"))?,
                envelope.body,
            ),
            Kind::Event => (
                envelope.event.ok_or_else(|| missing("event"))?,
                envelope.body,
            ),
        };
        let (request_seq, success) = match kind {
            Kind::Response => (
                Some(number("request_seq", envelope.request_seq)?),
                envelope.success.ok_or_else(|| missing("success"))?,
            ),
            Kind::Request | Kind::Event => (None, true),
        };
        let name = match name.0 {
            Cow::Borrowed(text) => Name::At(place(&bytes, text)),
            Cow::Owned(text) => Name::Owned(text.into()),
        };
        let content = content.map_or(0..0, |raw| place(&bytes, raw.get()));
        Ok(Message {
            kind,
            name,
            seq,
            request_seq,
            success,
            content,
            bytes,
        })
    }

    /// A request of our own; its `seq` is given by the [`super::Outbox`] that sends it.
    #[must_use]
    pub fn request(command: &str, arguments: impl Serialize) -> Message {
        #[derive(Serialize)]
        struct Request<'a, T> {
            seq: i64,
            r#type: &'a str,
            command: &'a str,
            arguments: T,
        }
        Message::make(&Request {
            seq: 0,
            r#type: "request",
            command,
            arguments,
        })
    }

    /// An event of our own.
    #[must_use]
    pub fn event(event: &str, body: impl Serialize) -> Message {
        #[derive(Serialize)]
        struct Event<'a, T> {
            seq: i64,
            r#type: &'a str,
            event: &'a str,
            body: T,
        }
        Message::make(&Event {
            seq: 0,
            r#type: "event",
            event,
            body,
        })
    }

    /// A successful response of our own to the request `command` that had the number `request_seq`.
    #[must_use]
    pub fn response(request_seq: i64, command: &str, body: impl Serialize) -> Message {
        #[derive(Serialize)]
        struct Response<'a, T> {
            seq: i64,
            r#type: &'a str,
            request_seq: i64,
            success: bool,
            command: &'a str,
            body: T,
        }
        Message::make(&Response {
            seq: 0,
            r#type: "response",
            request_seq,
            success: true,
            command,
            body,
        })
    }

    /// A failure of our own, with `message` said to whoever asked.
    ///
    /// It has no `body` where there is no more to say: some clients take `"body": null` badly.
    #[must_use]
    pub fn failure(request_seq: i64, command: &str, message: &str) -> Message {
        #[derive(Serialize)]
        struct Failure<'a> {
            seq: i64,
            r#type: &'a str,
            request_seq: i64,
            success: bool,
            command: &'a str,
            message: &'a str,
        }
        Message::make(&Failure {
            seq: 0,
            r#type: "response",
            request_seq,
            success: false,
            command,
            message,
        })
    }

    /// A failure with one of DAP's own words as its `message`, and what there is to say about it.
    #[must_use]
    pub fn refusal(request_seq: i64, command: &str, word: &str, detail: &str) -> Message {
        #[derive(Serialize)]
        struct Refusal<'a> {
            seq: i64,
            r#type: &'a str,
            request_seq: i64,
            success: bool,
            command: &'a str,
            message: &'a str,
            body: serde_json::Value,
        }
        let body = serde_json::json!({ "error": { "id": 1, "format": detail } });
        Message::make(&Refusal {
            seq: 0,
            r#type: "response",
            request_seq,
            success: false,
            command,
            message: word,
            body,
        })
    }

    /// Serialises a message of our own, and reads it as if it had come from a peer.
    fn make(message: &impl Serialize) -> Message {
        let bytes = serde_json::to_vec(message).expect("our own messages have string keys only");
        Message::parse(bytes.into()).expect("our own messages have an envelope")
    }

    /// Whether it is a request, a response or an event.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The value of `command` or `event`.
    #[must_use]
    pub fn name(&self) -> &str {
        match &self.name {
            Name::At(at) => std::str::from_utf8(&self.bytes[at.clone()]).unwrap_or_default(),
            Name::Owned(text) => text,
        }
    }

    /// The number that its sender gave it.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq.value
    }

    /// The number of the request that a response answers; 0 for other messages.
    #[must_use]
    pub fn request_seq(&self) -> i64 {
        self.request_seq.as_ref().map_or(0, |number| number.value)
    }

    /// Whether a response says success; true for other messages.
    #[must_use]
    pub fn success(&self) -> bool {
        self.success
    }

    /// The JSON text of `arguments` (of a request) or `body` (of a response or an event).
    #[must_use]
    pub fn content(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes[self.content.clone()]).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// What a failure says to whoever asked, if it says anything.
    #[must_use]
    pub fn message(&self) -> Option<String> {
        #[derive(Deserialize)]
        struct Failure {
            message: Option<String>,
        }
        serde_json::from_slice::<Failure>(&self.bytes).ok()?.message
    }

    /// Decodes `arguments` or `body` into the fields that its reader uses.
    ///
    /// # Errors
    /// [`Error::Message`], which names the command and what does not fit.
    pub fn decode<'a, T: Deserialize<'a>>(&'a self) -> Result<T, Error> {
        let content = self.content().unwrap_or("{}");
        if !is_object(content) {
            let what = if self.kind == Kind::Request {
                "arguments"
            } else {
                "body"
            };
            let why = format!("{}: \"{what}\" is not an object", self.name());
            return Err(Error::Message(why));
        }
        serde_json::from_str(content)
            .map_err(|error| Error::Message(format!("{}: {error}", self.name())))
    }

    /// How deep the objects and arrays of the message are nested.
    #[must_use]
    pub fn depth(&self) -> usize {
        let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
        for byte in &self.bytes {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = in_text,
                b'"' => in_text = !in_text,
                b'{' | b'[' if !in_text => {
                    depth += 1;
                    deepest = deepest.max(depth);
                }
                b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
        deepest
    }

    /// The size of the JSON text in bytes.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// A copy in memory of its own: it keeps nothing else alive of what was read together with it.
    #[must_use]
    pub fn detached(&self) -> Message {
        Message {
            bytes: Bytes::copy_from_slice(&self.bytes),
            ..self.clone()
        }
    }

    /// The same message with other text for parts of its `arguments` or `body`.
    ///
    /// Each part is a value that was borrowed from [`Message::content`], in the order of the text; what is put in its
    /// place is JSON. The rest stays as it came.
    #[must_use]
    pub fn replace(&self, parts: &[(&str, String)]) -> Message {
        if parts.is_empty() {
            return self.clone();
        }
        let added: usize = parts.iter().map(|(_, text)| text.len()).sum();
        let mut bytes = Vec::with_capacity(self.bytes.len() + added);
        let mut rest = 0;
        for (part, text) in parts {
            let at = place(&self.bytes, part);
            bytes.extend_from_slice(&self.bytes[rest..at.start]);
            bytes.extend_from_slice(text.as_bytes());
            rest = at.end;
        }
        bytes.extend_from_slice(&self.bytes[rest..]);
        // What stands behind the content has moved.
        let (content, old, new) = (&self.content, self.bytes.len(), bytes.len());
        let now = |at: usize| if at < content.end { at } else { at + new - old };
        let moved = |at: &Range<usize>| now(at.start)..now(at.end);
        let renumbered = |number: &Number| Number {
            at: moved(&number.at),
            value: number.value,
        };
        Message {
            kind: self.kind,
            name: match &self.name {
                Name::At(at) => Name::At(moved(at)),
                Name::Owned(text) => Name::Owned(text.clone()),
            },
            seq: renumbered(&self.seq),
            request_seq: self.request_seq.as_ref().map(renumbered),
            success: self.success,
            content: moved(content),
            bytes: bytes.into(),
        }
    }

    /// Writes the JSON text with `seq`, and with `request_seq` if that is given, in place of its own.
    pub(super) fn splice(&self, seq: i64, request_seq: Option<i64>, mut write: impl FnMut(&[u8])) {
        let own = Replacement {
            at: &self.seq.at,
            value: seq,
        };
        let other = match (&self.request_seq, request_seq) {
            (Some(number), Some(value)) => Some(Replacement {
                at: &number.at,
                value,
            }),
            _ => None,
        };
        let (first, second) = match other {
            Some(other) if other.at.start < own.at.start => (other, Some(own)),
            other => (own, other),
        };
        let mut digits = itoa::Buffer::new();
        write(&self.bytes[..first.at.start]);
        write(digits.format(first.value).as_bytes());
        let mut rest = first.at.end;
        if let Some(second) = second {
            write(&self.bytes[rest..second.at.start]);
            write(digits.format(second.value).as_bytes());
            rest = second.at.end;
        }
        write(&self.bytes[rest..]);
    }
}

impl std::fmt::Debug for Message {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&String::from_utf8_lossy(&self.bytes))
    }
}

/// New digits for a number in the text.
struct Replacement<'a> {
    at: &'a Range<usize>,
    value: i64,
}

/// Whether a JSON text is an object, if it is JSON at all.
fn is_object(text: &str) -> bool {
    text.trim_ascii_start().starts_with('{')
}

fn missing(name: &str) -> Error {
    Error::Message(format!("not a DAP message: \"{name}\" is missing"))
}

/// Where `part`, a borrowed piece of `bytes`, stands in it.
fn place(bytes: &[u8], part: &str) -> Range<usize> {
    let start = part.as_ptr() as usize - bytes.as_ptr() as usize;
    start..start + part.len()
}
