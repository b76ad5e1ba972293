//! The wire: what is read is what was sent, however it was cut up and written down, and nothing else is read.

use std::collections::HashMap;

use bytes::{Bytes, BytesMut};
use dbgproxy::wire::{Decoder, Error, Kind, MAX_HEADER, MAX_MESSAGE, Message, Outbox};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

/// The keys of an envelope; every other key at the top level is unknown to us.
const KNOWN: [&str; 8] = [
    "seq",
    "type",
    "command",
    "event",
    "request_seq",
    "success",
    "arguments",
    "body",
];

/// Strings in which a careless reader would find an envelope.
const TRAPS: [&str; 16] = [
    "seq",
    "request_seq",
    "type",
    "body",
    "\"seq\":5",
    "\"seq\": 5, \"type\": \"event\"",
    "}{",
    "\\",
    "\\\"",
    "\"",
    "\r\n\r\nContent-Length: 2\r\n\r\n{}",
    "\u{0}\u{1f}\u{7f}",
    "\u{2028}\u{feff}",
    "naïve ☃ 🐍",
    "",
    " ",
];

/// One message, in the words of its bytes and of what they mean.
#[derive(Debug, Clone)]
struct Sample {
    /// The text before, between and behind the numbers.
    pieces: Vec<Piece>,
    kind: Kind,
    name: String,
    seq: i64,
    request_seq: i64,
    success: bool,
    content: Option<String>,
}

#[derive(Debug, Clone)]
enum Piece {
    Text(String),
    Seq,
    RequestSeq,
}

impl Sample {
    /// The text with these numbers.
    fn text(&self, seq: i64, request_seq: i64) -> String {
        let piece = |piece: &Piece| match piece {
            Piece::Text(text) => text.clone(),
            Piece::Seq => seq.to_string(),
            Piece::RequestSeq => request_seq.to_string(),
        };
        self.pieces.iter().map(piece).collect()
    }

    fn original(&self) -> String {
        self.text(self.seq, self.request_seq)
    }

    fn message(&self) -> Message {
        parse(&self.original()).expect("a sample is a message")
    }
}

/// How JSON is written down: a supply of decisions that proptest can shrink.
struct Pen {
    decisions: Vec<u8>,
    next: usize,
}

impl Pen {
    fn decide(&mut self, options: usize) -> usize {
        let decision = self.decisions.get(self.next).copied().unwrap_or(0);
        self.next += 1;
        if self.next >= self.decisions.len() {
            self.next = 0;
        }
        usize::from(decision) % options
    }

    /// White space, as JSON has it between any two tokens.
    fn space(&mut self) -> &'static str {
        ["", "", "", " ", "\n", "\r\n", "\t", "  \t\r\n "][self.decide(8)]
    }

    /// A string with some of its characters escaped, in any of the ways that there are.
    fn string(&mut self, text: &str) -> String {
        let mut out = String::from('"');
        for character in text.chars() {
            let must = matches!(character, '"' | '\\' | '\0'..='\u{1f}');
            match (self.decide(6), character) {
                (0, _) => {
                    for unit in character.encode_utf16(&mut [0; 2]) {
                        out.push_str(&format!("\\u{unit:04x}"));
                    }
                }
                (1, '/') => out.push_str("\\/"),
                _ if must => {
                    let quoted = Value::from(character.to_string()).to_string();
                    out.push_str(&quoted[1..quoted.len() - 1]);
                }
                _ => out.push(character),
            }
        }
        out.push('"');
        out
    }

    fn value(&mut self, value: &Value) -> String {
        match value {
            Value::String(text) => self.string(text),
            Value::Array(items) => {
                let items: Vec<String> = items
                    .iter()
                    .map(|item| format!("{}{}{}", self.space(), self.value(item), self.space()))
                    .collect();
                format!("[{}]", items.join(","))
            }
            Value::Object(fields) => {
                let fields: Vec<String> = fields
                    .iter()
                    .map(|(key, value)| {
                        let key = self.string(key);
                        let value = self.value(value);
                        let space: [&str; 4] = std::array::from_fn(|_| self.space());
                        format!(
                            "{}{key}{}:{}{value}{}",
                            space[0], space[1], space[2], space[3]
                        )
                    })
                    .collect();
                format!("{{{}}}", fields.join(","))
            }
            other => other.to_string(),
        }
    }
}

/// What a field of the envelope holds.
#[derive(Debug, Clone)]
enum Field {
    Seq,
    RequestSeq,
    Content(Value),
    Other(Value),
}

fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        select(TRAPS.to_vec()).prop_map(String::from),
        "[a-zA-Z_/]{1,12}",
        any::<String>(),
    ]
}

fn number() -> impl Strategy<Value = i64> {
    prop_oneof![
        select(vec![0, 1, -1, 9, 10, 99, 100, i64::MAX, i64::MIN]),
        any::<i64>(),
        0..100_000_i64,
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        number().prop_map(Value::from),
        (-1e9..1e9).prop_map(|number: f64| Value::from(number)),
        word().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 10, 4, |inner| {
        prop_oneof![
            vec(inner.clone(), 0..4).prop_map(Value::from),
            vec((word(), inner), 0..4)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

/// Any message: its fields in any order, with any others between them, written down in any way.
fn sample() -> impl Strategy<Value = Sample> {
    let kind = select(vec![Kind::Request, Kind::Response, Kind::Event]);
    let content = proptest::option::of(json());
    let unknown = vec((word(), json()), 0..3);
    let head = (
        kind,
        number(),
        number(),
        any::<bool>(),
        word(),
        content,
        unknown,
    );
    head.prop_flat_map(
        |(kind, seq, request_seq, success, name, content, unknown)| {
            let (word, name_key, content_key) = match kind {
                Kind::Request => ("request", "command", "arguments"),
                Kind::Response => ("response", "command", "body"),
                Kind::Event => ("event", "event", "body"),
            };
            let mut fields = vec![
                ("seq".to_owned(), Field::Seq),
                ("type".to_owned(), Field::Other(word.into())),
                (name_key.to_owned(), Field::Other(name.clone().into())),
            ];
            if kind == Kind::Response {
                fields.push(("request_seq".to_owned(), Field::RequestSeq));
                fields.push(("success".to_owned(), Field::Other(success.into())));
            }
            if let Some(content) = content {
                fields.push((content_key.to_owned(), Field::Content(content)));
            }
            let mut unknown: Map<String, Value> = unknown.into_iter().collect();
            unknown.retain(|key, _| !KNOWN.contains(&key.as_str()));
            fields.extend(unknown.into_iter().map(|(k, v)| (k, Field::Other(v))));
            let decisions = vec(any::<u8>(), 1..64);
            (Just(fields).prop_shuffle(), decisions).prop_map(move |(fields, decisions)| {
                let pen = Pen { decisions, next: 0 };
                write_down(pen, fields, |pieces, content| Sample {
                    pieces,
                    kind,
                    name: name.clone(),
                    seq,
                    request_seq: if kind == Kind::Response {
                        request_seq
                    } else {
                        0
                    },
                    success: kind != Kind::Response || success,
                    content,
                })
            })
        },
    )
}

fn write_down(
    mut pen: Pen,
    fields: Vec<(String, Field)>,
    finish: impl FnOnce(Vec<Piece>, Option<String>) -> Sample,
) -> Sample {
    let mut pieces = Vec::new();
    let mut content = None;
    let mut text = format!("{}{{", pen.space());
    for (index, (key, field)) in fields.into_iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(pen.space());
        text.push_str(&pen.string(&key));
        text.push_str(pen.space());
        text.push(':');
        text.push_str(pen.space());
        match field {
            Field::Seq => pieces.extend([Piece::Text(std::mem::take(&mut text)), Piece::Seq]),
            Field::RequestSeq => {
                pieces.extend([Piece::Text(std::mem::take(&mut text)), Piece::RequestSeq]);
            }
            Field::Content(value) => {
                let written = pen.value(&value);
                text.push_str(&written);
                // Null says that there is none.
                content = (!value.is_null()).then_some(written);
            }
            Field::Other(value) => text.push_str(&pen.value(&value)),
        }
        text.push_str(pen.space());
    }
    text.push('}');
    text.push_str(pen.space());
    pieces.push(Piece::Text(text));
    finish(pieces, content)
}

fn parse(text: &str) -> Result<Message, Error> {
    Message::parse(Bytes::copy_from_slice(text.as_bytes()))
}

fn framed(text: &str) -> Vec<u8> {
    format!("Content-Length: {}\r\n\r\n{text}", text.len()).into_bytes()
}

/// Everything that a stream says when it arrives in these pieces, up to the first broken frame.
fn read(chunks: &[&[u8]]) -> Vec<Result<String, Error>> {
    let mut decoder = Decoder::default();
    let mut read = Vec::new();
    for chunk in chunks {
        decoder.space(16).extend_from_slice(chunk);
        loop {
            match decoder.message() {
                Ok(None) => break,
                Ok(Some(message)) => read.push(Ok(format!("{message:?}"))),
                Err(error) => {
                    let broken = matches!(error, Error::Frame(_));
                    read.push(Err(error));
                    if broken {
                        return read;
                    }
                }
            }
        }
    }
    read
}

/// The stream at once, and byte by byte, must say the same; gives what it says.
fn read_both_ways(stream: &[u8]) -> Vec<Result<String, Error>> {
    let at_once = read(&[stream]);
    let bytes: Vec<&[u8]> = stream.chunks(1).collect();
    let one_by_one = read(&bytes);
    // The words of a frame's error may say how much of it was there.
    let shape = |all: &[Result<String, Error>]| -> Vec<Result<String, bool>> {
        let error = |error| matches!(error, Error::Frame(_));
        all.iter().map(|one| one.clone().map_err(error)).collect()
    };
    assert_eq!(
        shape(&at_once),
        shape(&one_by_one),
        "{:?}",
        String::from_utf8_lossy(stream)
    );
    at_once
}

proptest! {
    #[test]
    fn the_envelope_is_found_in_any_order_and_writing(sample in sample()) {
        let text = sample.original();
        let message = parse(&text).map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
        prop_assert_eq!(message.kind(), sample.kind);
        prop_assert_eq!(message.name(), &sample.name);
        prop_assert_eq!(message.seq(), sample.seq);
        prop_assert_eq!(message.request_seq(), sample.request_seq);
        prop_assert_eq!(message.success(), sample.success);
        prop_assert_eq!(message.content(), sample.content.as_deref());
        prop_assert_eq!(message.size(), text.len());
        let copy = message.detached();
        prop_assert_eq!(format!("{copy:?}"), text);
        prop_assert_eq!((copy.name(), copy.content()), (message.name(), message.content()));
    }

    #[test]
    fn only_the_numbers_are_replaced(samples in vec((sample(), proptest::option::of(number())), 1..4)) {
        let mut out = Outbox::default();
        let mut expected = Vec::new();
        for (index, (sample, answer)) in samples.iter().enumerate() {
            let number = index as i64 + 1;
            let message = sample.message();
            match answer {
                Some(request_seq) => out.answer(&message, *request_seq),
                None => prop_assert_eq!(out.send(&message), number),
            }
            let text = sample.text(number, answer.unwrap_or(sample.request_seq));
            expected.extend_from_slice(&framed(&text));
            // It is the same JSON value but for the numbers.
            let mut before: Value = serde_json::from_str(&sample.original()).unwrap();
            before["seq"] = number.into();
            if let (Kind::Response, Some(answer)) = (sample.kind, answer) {
                before["request_seq"] = (*answer).into();
            }
            let after: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(before, after);
        }
        prop_assert_eq!(out.bytes(), &expected[..]);
        prop_assert_eq!(out.len(), expected.len());

        let back = read(&[out.bytes()]);
        prop_assert_eq!(back.len(), samples.len());
        for (index, text) in back.iter().enumerate() {
            let message = parse(text.as_ref().unwrap()).unwrap();
            prop_assert_eq!(message.seq(), index as i64 + 1);
            prop_assert_eq!(message.name(), &samples[index].0.name);
        }
    }

    #[test]
    fn parts_of_the_content_are_replaced_and_nothing_else(sample in sample(), answer in number()) {
        let message = sample.message();
        let fields: HashMap<String, &RawValue> = message.decode().unwrap_or_default();
        let mut parts: Vec<(&str, String)> = Vec::new();
        let mut expected: Value = serde_json::from_str(&sample.original()).unwrap();
        let content = if sample.kind == Kind::Request { "arguments" } else { "body" };
        for (index, (key, value)) in fields.iter().enumerate() {
            let other = json!("}\"".repeat(index % 5));
            parts.push((value.get(), other.to_string()));
            expected[content][key] = other;
        }
        parts.sort_by_key(|(part, _)| part.as_ptr());
        let replaced = message.replace(&parts);
        let text = format!("{replaced:?}");
        prop_assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        // What is known of it is what would be read in it.
        let read = parse(&text).unwrap();
        prop_assert_eq!((replaced.kind(), replaced.name()), (read.kind(), read.name()));
        prop_assert_eq!((replaced.seq(), replaced.request_seq()), (read.seq(), read.request_seq()));
        prop_assert_eq!((replaced.success(), replaced.content()), (read.success(), read.content()));
        let (mut out, mut other) = (Outbox::default(), Outbox::default());
        out.answer(&replaced, answer);
        other.answer(&read, answer);
        prop_assert_eq!(out.bytes(), other.bytes());
    }

    #[test]
    fn any_split_of_the_stream_gives_the_same_messages(
        samples in vec(sample(), 0..4),
        garbage in vec(any::<(u8, bool)>(), 0..3),
        cuts in vec(any::<prop::sample::Index>(), 0..20),
    ) {
        let mut stream = Vec::new();
        for (index, sample) in samples.iter().enumerate() {
            stream.extend_from_slice(&framed(&sample.original()));
            // Between them, frames that hold no message.
            if let Some((byte, true)) = garbage.get(index) {
                stream.extend_from_slice(b"content-length: 2\r\n\r\n{");
                stream.push(*byte | 0x80);
            }
        }
        let whole = read_both_ways(&stream);
        let mut places: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        places.extend([0, stream.len()]);
        places.sort_unstable();
        let chunks: Vec<&[u8]> = places.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
        prop_assert_eq!(&read(&chunks), &whole);
        let messages: Vec<String> = whole.into_iter().filter_map(Result::ok).collect();
        let sent: Vec<String> = samples.iter().map(Sample::original).collect();
        prop_assert_eq!(messages, sent);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(stream in vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let mut bytes = Vec::new();
        if header {
            bytes = format!("Content-Length: {}\r\n\r\n", stream.len()).into_bytes();
        }
        bytes.extend_from_slice(&stream);
        read_both_ways(&bytes);
    }

    #[test]
    fn what_has_been_written_in_parts_is_forgotten_in_parts(
        samples in vec(sample(), 1..4),
        parts in vec(1_usize..200, 1..40),
    ) {
        let mut out = Outbox::default();
        let mut wire = Vec::new();
        let mut parts = parts.iter().cycle();
        for sample in &samples {
            out.send(&sample.message());
            let count = out.len().min(*parts.next().unwrap());
            wire.extend_from_slice(&out.bytes()[..count]);
            out.written(count, 64);
        }
        while !out.is_empty() {
            let count = out.len().min(*parts.next().unwrap());
            wire.extend_from_slice(&out.bytes()[..count]);
            out.written(count, 64);
        }
        let expected: Vec<u8> = samples
            .iter()
            .zip(1..)
            .flat_map(|(sample, number)| framed(&sample.text(number, sample.request_seq)))
            .collect();
        prop_assert_eq!(wire, expected);
    }
}

#[test]
fn numbers_at_the_edges() {
    let cases = [
        ("0", Some(0)),
        ("-0", Some(0)),
        ("1", Some(1)),
        ("-1", Some(-1)),
        ("9223372036854775807", Some(i64::MAX)),
        ("-9223372036854775808", Some(i64::MIN)),
        ("9223372036854775808", None),
        ("-9223372036854775809", None),
        ("18446744073709551616", None),
        ("99999999999999999999999999999999", None),
        ("1.0", None),
        ("1.5", None),
        ("1e2", None),
        ("1E2", None),
        ("1e-2", None),
        ("01", None),
        ("+5", None),
        ("0x5", None),
        ("- 5", None),
        ("5 5", None),
        ("\"5\"", None),
        ("true", None),
        ("null", None),
        ("[5]", None),
        ("{\"seq\":5}", None),
        ("NaN", None),
        ("Infinity", None),
        ("", None),
    ];
    for (text, value) in cases {
        let event = parse(&format!(r#"{{"seq":{text},"type":"event","event":"e"}}"#));
        assert_eq!(event.ok().map(|event| event.seq()), value, "seq {text}");
        let response = parse(&format!(
            r#"{{"seq":1,"type":"response","command":"c","success":true,"request_seq":{text}}}"#
        ));
        let found = response.ok().map(|response| response.request_seq());
        assert_eq!(found, value, "request_seq {text}");
        // In a message that answers nothing it means nothing, so long as it is JSON.
        if serde_json::from_str::<Value>(text).is_ok() {
            let event = parse(&format!(
                r#"{{"seq":1,"type":"event","event":"e","request_seq":{text}}}"#
            ));
            assert_eq!(event.unwrap().request_seq(), 0);
        }
    }
}

#[test]
fn new_digits_may_be_more_or_fewer() {
    for text in ["-0", "7", "-9223372036854775808", "9223372036854775807"] {
        let message = parse(&format!(
            r#"{{"request_seq":{text} ,"success":false,"command":"c","type":"response","seq":{text}}}"#
        ));
        let message = message.unwrap();
        for request_seq in [0, 5, i64::MIN, i64::MAX] {
            let mut out = Outbox::default();
            out.answer(&message, request_seq);
            let expected = format!(
                r#"{{"request_seq":{request_seq} ,"success":false,"command":"c","type":"response","seq":1}}"#
            );
            assert_eq!(out.bytes(), framed(&expected));
        }
    }
}

#[test]
fn a_name_may_be_written_with_escapes() {
    let message =
        parse(r#"{"s\u0065q":3,"\u0074ype":"\u0072equest","command":"\u0061ttach"}"#).unwrap();
    assert_eq!(message.kind(), Kind::Request);
    assert_eq!(message.name(), "attach");
    let mut out = Outbox::default();
    out.send(&message);
    let sent = r#"{"s\u0065q":1,"\u0074ype":"\u0072equest","command":"\u0061ttach"}"#;
    assert_eq!(out.bytes(), framed(sent));
}

#[test]
fn a_name_without_escapes_is_not_copied() {
    let text = r#"{"seq":3,"type":"event","event":"output","body":{}}"#;
    let bytes = Bytes::from_static(text.as_bytes());
    let message = Message::parse(bytes.clone()).unwrap();
    let content = message.content().unwrap();
    for part in [message.name(), content] {
        assert!(bytes.as_ptr_range().contains(&part.as_ptr()), "{part}");
    }
}

#[test]
fn what_is_no_message_is_said_and_the_next_one_is_read() {
    let good = r#"{"seq":1,"type":"event","event":"e"}"#;
    let bad: &[&[u8]] = &[
        b"",
        b" \r\n",
        b"null",
        b"true",
        b"5",
        b"\"seq\"",
        b"[]",
        b"[{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}]",
        // The fields' values without their names: to serde a struct may look like this.
        b"[5,\"request\",\"next\",null,null,null,null,null]",
        b" [5,\"event\",null,\"e\",null,null,null,null]",
        b"{}",
        b"{",
        b"}",
        b"{]",
        b"{\"seq\":1}",
        b"{\"type\":\"event\",\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"event\"}",
        b"{\"seq\":1,\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"event\",\"command\":\"e\"}",
        b"{\"seq\":1,\"type\":\"request\",\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"request\",\"command\":null}",
        b"{\"seq\":1,\"type\":\"request\",\"command\":5}",
        b"{\"seq\":1,\"type\":\"Request\",\"command\":\"c\"}",
        b"{\"seq\":1,\"type\":\"\",\"command\":\"c\"}",
        b"{\"seq\":1,\"type\":[\"request\"],\"command\":\"c\"}",
        b"{\"seq\":1,\"type\":\"response\",\"command\":\"c\",\"request_seq\":1}",
        b"{\"seq\":1,\"type\":\"response\",\"command\":\"c\",\"success\":true}",
        b"{\"seq\":1,\"type\":\"response\",\"command\":\"c\",\"request_seq\":1,\"success\":1}",
        b"{\"seq\":1,\"type\":\"response\",\"command\":\"c\",\"request_seq\":1,\"success\":null}",
        // Twice the same key: which of the two its receiver would believe is not ours to guess.
        b"{\"seq\":1,\"seq\":1,\"type\":\"event\",\"event\":\"e\"}",
        b"{\"seq\":1,\"s\\u0065q\":2,\"type\":\"event\",\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"event\":\"f\"}",
        b"{\"seq\":1,\"type\":\"event\",\"type\":\"event\",\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":{},\"body\":null}",
        // Not JSON.
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\"",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}x",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}{}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}\0",
        b"{'seq':1,'type':'event','event':'e'}",
        b"{seq:1,\"type\":\"event\",\"event\":\"e\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"x\":nul}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"x\":NaN}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":{\"x\":tru}}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":\"\x01\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\\q\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"\\ud800\"}",
        b"{\"seq\":1,/**/\"type\":\"event\",\"event\":\"e\"}",
        b"\xef\xbb\xbf{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}",
        b"\xa0{\"seq\":1,\"type\":\"event\",\"event\":\"e\"}",
        // Not UTF-8: a lone byte, an overlong form, a surrogate, a character cut off.
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"\xff\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":\"\xc0\xaf\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":\"\xed\xa0\x80\"}",
        b"{\"seq\":1,\"type\":\"event\",\"event\":\"e\",\"body\":\"\xf0\x9f\x90",
    ];
    for bad in bad {
        let mut stream = format!("Content-Length: {}\r\n\r\n", bad.len()).into_bytes();
        stream.extend_from_slice(bad);
        stream.extend_from_slice(&framed(good));
        let read = read_both_ways(&stream);
        let what = String::from_utf8_lossy(bad);
        assert_eq!(read.len(), 2, "{what}: {read:?}");
        assert!(
            matches!(read[0], Err(Error::Message(_))),
            "{what}: {read:?}"
        );
        assert_eq!(read[1].as_deref(), Ok(good), "{what}");
    }
}

#[test]
fn pythons_lone_surrogates_pass_in_bodies() {
    // json.dumps writes them for file names that are not UTF-8.
    let text =
        r#"{"seq":1,"type":"event","event":"output","body":{"output":"\udce9"},"x":["\ud800"]}"#;
    let mut out = Outbox::default();
    out.send(&parse(text).unwrap());
    assert_eq!(out.bytes(), framed(text));
}

#[test]
fn a_body_may_be_nested_as_deep_as_it_likes() {
    let deep = 200_000;
    let body = format!(r#"{{"a":{}{}}}"#, "[".repeat(deep), "]".repeat(deep));
    let text = format!(r#"{{"x":{body},"type":"event","event":"e","body":{body},"seq":1}}"#);
    let message = parse(&text).unwrap();
    assert_eq!(message.content(), Some(&*body));
    // Whoever looks into it is told, and does not run out of stack.
    assert!(message.decode::<Value>().is_err());
    let mut out = Outbox::default();
    out.send(&message);
    assert_eq!(out.bytes(), framed(&text));
}

#[test]
fn the_header_is_read_to_the_letter() {
    let body = r#"{"seq":1,"type":"event","event":"e"}"#;
    let length = body.len();
    let good = [
        format!("Content-Length: {length}\r\n\r\n"),
        format!("content-length: {length}\r\n\r\n"),
        format!("CONTENT-LENGTH: {length}\r\n\r\n"),
        format!("cOnTeNt-LeNgTh: {length}\r\n\r\n"),
        format!("Content-Length: 0{length}\r\n\r\n"),
        format!("Content-Length: {length:020}\r\n\r\n"),
    ];
    for header in good {
        let stream = format!("{header}{body}{header}{body}");
        let read = read_both_ways(stream.as_bytes());
        assert_eq!(read, [Ok(body.to_owned()), Ok(body.to_owned())], "{header}");
    }
    let bad = [
        // White space: one space, no more, no less, and nowhere else.
        format!("Content-Length:{length}\r\n\r\n"),
        format!("Content-Length:  {length}\r\n\r\n"),
        format!("Content-Length:\t{length}\r\n\r\n"),
        format!("Content-Length : {length}\r\n\r\n"),
        format!("Content-Length: {length} \r\n\r\n"),
        format!(" Content-Length: {length}\r\n\r\n"),
        format!("\r\nContent-Length: {length}\r\n\r\n"),
        format!("\nContent-Length: {length}\r\n\r\n"),
        format!("Content-Length: {length}\r\n \r\n"),
        // Line ends.
        format!("Content-Length: {length}\n\n"),
        format!("Content-Length: {length}\r\r"),
        format!("Content-Length: {length}\r\n\n"),
        format!("Content-Length: {length}\n\r\n"),
        format!("Content-Length: {length}{body}"),
        // Numbers.
        "Content-Length: \r\n\r\n".to_owned(),
        format!("Content-Length: +{length}\r\n\r\n"),
        format!("Content-Length: -{length}\r\n\r\n"),
        "Content-Length: -1\r\n\r\n".to_owned(),
        format!("Content-Length: {length}.0\r\n\r\n"),
        format!("Content-Length: 0x{length:x}\r\n\r\n"),
        format!("Content-Length: {length}e0\r\n\r\n"),
        format!("Content-Length: 1_{length}\r\n\r\n"),
        format!("Content-Length: {length},{length}\r\n\r\n"),
        format!("Content-Length: {length};\r\n\r\n"),
        format!("Content-Length: \"{length}\"\r\n\r\n"),
        "Content-Length: ٣٦\r\n\r\n".to_owned(),
        format!("Content-Length: {length:021}\r\n\r\n"),
        // Other headers, before and behind.
        format!("Content-Length: {length}\r\nContent-Length: {length}\r\n\r\n"),
        format!(
            "Content-Length: {length}\r\nContent-Type: application/vscode-jsonrpc; charset=utf-8\r\n\r\n"
        ),
        format!("Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n"),
        format!("Content-Length: {length}\r\nHost: localhost\r\n\r\n"),
        format!("Content-Lengths: {length}\r\n\r\n"),
        format!("Content_Length: {length}\r\n\r\n"),
        format!("Content-Len: {length}\r\n\r\n"),
        // What looks like the name and is not: a Cyrillic letter, a mark before it.
        format!("\u{421}ontent-Length: {length}\r\n\r\n"),
        format!("\u{feff}Content-Length: {length}\r\n\r\n"),
        format!("\0Content-Length: {length}\r\n\r\n"),
    ];
    for header in bad {
        let read = read_both_ways(format!("{header}{body}").as_bytes());
        assert!(
            matches!(&read[..], [Err(Error::Frame(_))]),
            "{header:?}: {read:?}"
        );
        // The stream behind a good message is read no less strictly.
        let stream = [framed(body), header.clone().into_bytes()].concat();
        let read = read_both_ways(&[&stream, body.as_bytes()].concat());
        assert!(
            matches!(&read[..], [Ok(_), Err(Error::Frame(_))]),
            "{header:?}: {read:?}"
        );
    }
}

#[test]
fn http_is_never_read_as_dap() {
    let body = r#"{"seq":1,"type":"request","command":"initialize","arguments":{}}"#;
    let length = body.len();
    let headers = [
        format!("Content-Length: {length}"),
        "Host: localhost:5678".to_owned(),
        "Content-Type: text/plain".to_owned(),
    ];
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        for first in [
            "POST / HTTP/1.1\r\n",
            "GET / HTTP/1.1\r\n",
            "Content-Length: 5 HTTP/1.1\r\n",
            "Content-Length: /5 HTTP/1.1\r\n",
            // A request line that a sloppy proxy has swallowed.
            "",
        ] {
            let lines = order.map(|index| headers[index].as_str()).join("\r\n");
            let stream = format!("{first}{lines}\r\n\r\n{body}");
            let read = read_both_ways(stream.as_bytes());
            assert!(
                matches!(&read[..], [Err(Error::Frame(_))]),
                "{stream}: {read:?}"
            );
        }
    }
}

#[test]
fn what_cannot_become_a_header_is_refused_before_it_ends() {
    for start in ["G", "Content-Length: x", "Content-Length: 5 ", "{"] {
        let read = read(&[start.as_bytes()]);
        assert!(matches!(&read[..], [Err(Error::Frame(_))]), "{start}");
    }
    // Digits without end are no way to make a header longer than it may be.
    let digits = format!("Content-Length: {}", "0".repeat(2 * MAX_HEADER));
    let mut decoder = Decoder::default();
    let taken = digits.as_bytes().iter().take_while(|byte| {
        decoder.space(1).extend_from_slice(&[**byte]);
        matches!(decoder.message(), Ok(None))
    });
    assert!(taken.count() < MAX_HEADER);
}

#[test]
fn a_length_over_the_limit_is_refused_before_anything_is_stored() {
    let over = [
        (MAX_MESSAGE + 1).to_string(),
        u32::MAX.to_string(),
        u64::MAX.to_string(),
        "99999999999".to_owned(),
        "18446744073709551616".to_owned(),
        "99999999999999999999".to_owned(),
        "9".repeat(50),
        "9".repeat(MAX_HEADER),
    ];
    for length in over {
        let mut decoder = Decoder::default();
        let header = format!("Content-Length: {length}\r\n\r\n");
        decoder.space(16).extend_from_slice(header.as_bytes());
        let size = decoder.space(0).capacity();
        let error = decoder.message().unwrap_err();
        assert!(matches!(error, Error::Frame(_)), "{length}");
        assert!(decoder.space(0).capacity() <= size, "{length}");
    }
}

#[test]
fn a_message_of_the_largest_size_is_read_as_it_comes() {
    let mut decoder = Decoder::default();
    let header = format!("Content-Length: {MAX_MESSAGE}\r\n\r\n");
    decoder.space(16).extend_from_slice(header.as_bytes());
    assert_eq!(decoder.frame(), Ok(None));
    // What is announced costs nothing until it comes.
    assert!(decoder.space(4096).capacity() <= 16 * 4096 + 4096);
    let chunk = vec![b' '; 1 << 20];
    for _ in 0..MAX_MESSAGE / chunk.len() - 1 {
        decoder.space(4096).extend_from_slice(&chunk);
        assert_eq!(decoder.frame(), Ok(None));
    }
    assert!(!decoder.is_empty());
    decoder.space(4096).extend_from_slice(&chunk);
    let frame = decoder.frame().unwrap().unwrap();
    assert_eq!(frame.len(), MAX_MESSAGE);
    assert!(decoder.is_empty());
    // And it is given back.
    drop(frame);
    decoder.shrink(4096);
    assert!(decoder.space(16).capacity() <= 4096);
}

#[test]
fn an_empty_stream_may_end_and_a_half_one_may_not() {
    let stream = framed(r#"{"seq":1,"type":"event","event":"e"}"#);
    for cut in 0..=stream.len() {
        let mut decoder = Decoder::starting_with(BytesMut::from(&stream[..cut]));
        let message = decoder.message().unwrap();
        assert_eq!(message.is_some(), cut == stream.len());
        assert_eq!(decoder.is_empty(), cut == 0 || cut == stream.len(), "{cut}");
    }
}

#[test]
fn only_an_object_is_decoded() {
    #[derive(Debug, serde::Deserialize)]
    struct Body {
        category: Option<String>,
    }
    let decode = |body: &str| {
        let text = format!(r#"{{"seq":1,"type":"event","event":"output"{body}}}"#);
        let body = parse(&text).unwrap().decode::<Body>();
        body.map(|body| body.category)
    };
    let stderr = Ok(Some("stderr".to_owned()));
    assert_eq!(decode(r#","body": {"category":"stderr"}"#), stderr);
    // Where nothing is said, nothing is missing.
    assert_eq!(decode(""), Ok(None));
    assert_eq!(decode(r#","body":null"#), Ok(None));
    for body in [r#"["stderr"]"#, "5", "\"stderr\"", r#"{"category":5}"#] {
        let error = decode(&format!(r#","body":{body}"#)).unwrap_err();
        assert!(matches!(error, Error::Message(_)), "{body}");
        assert!(error.to_string().starts_with("output: "), "{error}");
    }
}

#[test]
fn our_own_messages_are_what_the_protocol_says() {
    let cases = [
        (
            Message::request("next", json!({ "threadId": 1 })),
            json!({ "seq": 1, "type": "request", "command": "next", "arguments": { "threadId": 1 } }),
        ),
        (
            Message::event("a\"b", json!({})),
            json!({ "seq": 1, "type": "event", "event": "a\"b", "body": {} }),
        ),
        (
            Message::response(7, "threads", json!({ "threads": [] })),
            json!({ "seq": 1, "type": "response", "request_seq": 7, "success": true, "command": "threads", "body": { "threads": [] } }),
        ),
        (
            Message::failure(7, "c", "no\n"),
            json!({ "seq": 1, "type": "response", "request_seq": 7, "success": false, "command": "c", "message": "no\n" }),
        ),
        (
            Message::refusal(7, "c", "notStopped", "it runs"),
            json!({ "seq": 1, "type": "response", "request_seq": 7, "success": false, "command": "c", "message": "notStopped",
                "body": { "error": { "id": 1, "format": "it runs" } } }),
        ),
    ];
    for (message, expected) in cases {
        let mut out = Outbox::default();
        assert_eq!(out.send(&message), 1);
        let [Ok(text)] = &read(&[out.bytes()])[..] else {
            panic!("{message:?} cannot be read back");
        };
        assert_eq!(serde_json::from_str::<Value>(text).unwrap(), expected);
    }
}
