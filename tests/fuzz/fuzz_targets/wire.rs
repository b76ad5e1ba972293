//! Any bytes, in any chunks, through everything that the wire layer does.
//!
//! The first byte says how the rest is cut up, and whether it is a stream as it stands or the bodies of
//! frames (apart from each other by 0xff, which no JSON has), so that the fuzzer need not count lengths.
#![no_main]

use bytes::BytesMut;
use dbgproxy::wire::{Decoder, Error, Kind, Message, Outbox};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The least room that the reader asks for; small, so that much happens at its edges.
const CHUNK: usize = 16;

/// What the stream said last.
#[derive(Debug, PartialEq)]
enum Last {
    /// All that was there has been read.
    Waiting { within_a_message: bool },
    /// A frame was broken.
    Broken,
}

fuzz_target!(|data: &[u8]| {
    let Some((&how, rest)) = data.split_first() else {
        return;
    };
    let stream = if how & 1 == 0 {
        rest.to_vec()
    } else {
        let frame = |body: &[u8]| {
            let header = format!("Content-Length: {}\r\n\r\n", body.len());
            [header.as_bytes(), body].concat()
        };
        rest.split(|byte| *byte == 0xff).flat_map(frame).collect()
    };
    let step = match how >> 1 {
        0 => 1,
        step => usize::from(step),
    };

    let (at_once, last) = read(&stream, stream.len().max(1));
    let (in_parts, last_in_parts) = read(&stream, step);
    let texts = |all: &[Option<Message>]| -> Vec<Option<String>> {
        let text = |one: &Option<Message>| one.as_ref().map(|message| format!("{message:?}"));
        all.iter().map(text).collect()
    };
    assert_eq!(texts(&at_once), texts(&in_parts));
    assert_eq!(last, last_in_parts);

    let messages: Vec<Message> = at_once.into_iter().flatten().collect();
    send_and_read_back(&messages, None);
    for request_seq in [0, i64::MIN, i64::MAX] {
        send_and_read_back(&messages, Some(request_seq));
    }
});

/// Reads a stream in steps; gives its messages (none for what was not a message) and how it ended.
fn read(stream: &[u8], step: usize) -> (Vec<Option<Message>>, Last) {
    let mut decoder = Decoder::default();
    let mut read = Vec::new();
    for chunk in stream.chunks(step) {
        decoder.space(CHUNK).extend_from_slice(chunk);
        loop {
            match decoder.message() {
                Ok(None) => break,
                Ok(Some(message)) => read.push(Some(message.detached())),
                Err(Error::Message(_)) => read.push(None),
                Err(Error::Frame(_)) => return (read, Last::Broken),
            }
        }
        decoder.shrink(CHUNK);
        // However much was announced, the buffer has room for what came, doubled, and for the next few chunks.
        let room = decoder.space(CHUNK).capacity();
        assert!(
            room <= 2 * stream.len() + 64 * CHUNK,
            "{room} bytes of room"
        );
    }
    let within_a_message = !decoder.is_empty();
    (read, Last::Waiting { within_a_message })
}

/// What the outbox wrote is read back as the same JSON but for the numbers.
fn send_and_read_back(messages: &[Message], request_seq: Option<i64>) {
    let mut out = Outbox::default();
    for (message, number) in messages.iter().zip(1..) {
        match request_seq {
            Some(request_seq) => out.answer(message, request_seq),
            None => assert_eq!(out.send(message), number),
        }
    }
    let mut decoder = Decoder::starting_with(BytesMut::from(out.bytes()));
    for (before, number) in messages.iter().zip(1..) {
        let after = decoder.message().unwrap().unwrap();
        let answered = match (before.kind(), request_seq) {
            (Kind::Response, Some(request_seq)) => request_seq,
            _ => before.request_seq(),
        };
        assert_eq!((after.seq(), after.request_seq()), (number, answered));
        assert_eq!(after.kind(), before.kind());
        assert_eq!(after.name(), before.name());
        assert_eq!(after.success(), before.success());
        assert_eq!(after.content(), before.content());

        // Some JSON is more than a Value can hold (a lone surrogate, a deep array): then the parts above must do.
        let value = |message: &Message| serde_json::from_str::<Value>(&format!("{message:?}"));
        if let (Ok(Value::Object(mut before)), Ok(Value::Object(mut after))) =
            (value(before), value(&after))
        {
            for number in ["seq", "request_seq"] {
                before.remove(number);
                after.remove(number);
            }
            assert_eq!(before, after);
        }
    }
    assert!(decoder.is_empty());
    out.written(out.len(), CHUNK);
    assert!(out.is_empty());
}
