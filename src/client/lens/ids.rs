//! The ids in a body: where DAP has them, of which kind they are, and how they are written.
//!
//! This module knows no process and no view: what an id means is for the [`super::Lens`] to say.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

/// The longest id that is a text, in bytes; a longer one is given a number that means nothing.
pub(super) const MAX_TEXT: usize = 1024;

/// What an id is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A thread; lives until it exits.
    Thread,
    /// A stack frame; lives while its thread is stopped.
    Frame,
    /// A scope or a variable with children; lives while its thread is stopped.
    Variables,
    /// A source without a file; lives while its thread is stopped.
    Source,
    /// Where `goto` and `stepIn` can go; lives while its thread is stopped.
    Target,
    /// A breakpoint; lives until it is set anew.
    Breakpoint,
    /// A module; lives as long as its process.
    Module,
    /// Where something is declared; lives while its thread is stopped.
    Location,
    /// What a `progress` event is about; lives as long as its process.
    Progress,
    /// An address; lives while its thread is stopped.
    Memory,
}

impl Kind {
    /// Whether it dies when its thread runs.
    pub(super) fn is_of_a_stop(self) -> bool {
        matches!(
            self,
            Kind::Frame
                | Kind::Variables
                | Kind::Source
                | Kind::Target
                | Kind::Location
                | Kind::Memory
        )
    }

    /// What DAP calls it, for errors.
    pub(super) fn word(self) -> &'static str {
        match self {
            Kind::Thread => "thread",
            Kind::Frame => "frame",
            Kind::Variables => "variables reference",
            Kind::Source => "source reference",
            Kind::Target => "target",
            Kind::Breakpoint => "breakpoint",
            Kind::Module => "module",
            Kind::Location => "location reference",
            Kind::Progress => "progress",
            Kind::Memory => "memory reference",
        }
    }

    /// The kind of the id that stands under `key`, in an object or a list that stands under `parent`.
    fn of(key: &str, parent: &str) -> Option<Kind> {
        Some(match (key, parent) {
            ("threadId", _) | ("id", "threads") => Kind::Thread,
            ("frameId", _) | ("id", "stackFrames") => Kind::Frame,
            ("variablesReference", _) => Kind::Variables,
            ("sourceReference", _) => Kind::Source,
            ("targetId", _) | ("id", "targets") => Kind::Target,
            ("id", "breakpoints" | "breakpoint") | ("hitBreakpointIds", _) => Kind::Breakpoint,
            ("moduleId", _) | ("id", "modules" | "module") => Kind::Module,
            (
                "locationReference" | "declarationLocationReference" | "valueLocationReference",
                _,
            ) => Kind::Location,
            ("progressId", _) => Kind::Progress,
            ("memoryReference" | "instructionPointerReference" | "instructionReference", _) => {
                Kind::Memory
            }
            _ => return None,
        })
    }
}

/// An id as its process knows it: a number, or a text where DAP has texts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Native {
    Number(i64),
    Text(String),
}

impl Native {
    /// The id that a JSON value is, if it is one: in references, 0 means that there is none.
    pub(super) fn of(kind: Kind, value: &str) -> Option<Native> {
        if value.starts_with('"') {
            return serde_json::from_str(value).ok().map(Native::Text);
        }
        let number = value.parse().ok()?;
        let none = matches!(kind, Kind::Variables | Kind::Source | Kind::Location);
        (!(none && number <= 0)).then_some(Native::Number(number))
    }

    /// Whether it is longer than any that is kept.
    pub(super) fn is_too_long(&self) -> bool {
        matches!(self, Native::Text(text) if text.len() > MAX_TEXT)
    }

    /// As JSON.
    pub(super) fn text(&self) -> String {
        match self {
            Native::Number(number) => number.to_string(),
            Native::Text(text) => Value::from(text.as_str()).to_string(),
        }
    }
}

/// What stands in a body where DAP has an id.
pub(super) struct Id<'a> {
    pub(super) kind: Kind,
    /// The value, as it stands there.
    pub(super) text: &'a str,
}

/// What stands in a body where DAP has ids, in the order of the text.
pub(super) struct Ids<'a>(pub(super) Vec<Id<'a>>);

impl<'de> Deserialize<'de> for Ids<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut found = Vec::new();
        let search = Search {
            parent: "",
            found: &mut found,
        };
        search.deserialize(deserializer)?;
        Ok(Ids(found))
    }
}

/// Looks for ids in a value that stands under `parent`. What is none is passed over without a copy: a tree of values
/// would cost several times what the search does.
struct Search<'a, 'de> {
    parent: &'a str,
    found: &'a mut Vec<Id<'de>>,
}

/// A key of an object, which stays where it is, unless it was written with escapes.
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> DeserializeSeed<'de> for Search<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Search<'_, 'de> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut object: A) -> Result<(), A::Error> {
        while let Some(Key(key)) = object.next_key()? {
            if let Some(kind) = Kind::of(&key, self.parent) {
                let text = object.next_value::<&RawValue>()?.get();
                self.found.push(Id { kind, text });
            } else {
                object.next_value_seed(Search {
                    parent: &key,
                    found: self.found,
                })?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        let (parent, found) = (self.parent, self.found);
        while list.next_element_seed(Search { parent, found })?.is_some() {}
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
