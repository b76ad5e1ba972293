//! How the text of a selector is read, and how one that cannot be is pointed at.

use std::fmt;
use std::ops::RangeInclusive;
use std::str::FromStr;

use super::glob::{Glob, Piece};
use super::{Condition, MAX_LENGTH, RANK, STATES, Selector};

/// What is wrong with the text of a selector, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseError {
    message: String,
    /// At most [`MAX_LENGTH`] characters of it.
    text: String,
    at: usize,
}

impl ParseError {
    /// What is wrong with a text, and at which of its characters.
    pub(crate) fn new(message: impl Into<String>, text: &str, at: usize) -> ParseError {
        ParseError {
            message: message.into(),
            text: text.chars().take(MAX_LENGTH).collect(),
            at,
        }
    }

    /// What is wrong, in one line.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Where, in characters from the start; the length of the text if something is missing there.
    #[must_use]
    pub fn at(&self) -> usize {
        self.at
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // One column a character, so that the mark stands under its place.
        let text: String = self
            .text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .collect();
        write!(f, "{}\n  {text}\n  {:at$}^", self.message, "", at = self.at)
    }
}

impl std::error::Error for ParseError {}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        Selector::read(text, true)
    }
}

impl Selector {
    /// Reads a selector that says where a breakpoint holds. It cannot ask for a state: whoever is at a breakpoint
    /// is running.
    ///
    /// # Errors
    /// What is wrong with the text, and where.
    pub fn of_breakpoint(text: &str) -> Result<Selector, ParseError> {
        Selector::read(text, false)
    }

    fn read(text: &str, may_ask_state: bool) -> Result<Selector, ParseError> {
        let mut parser = Parser {
            chars: text.chars().take(MAX_LENGTH + 1).collect(),
            at: 0,
            may_ask_state,
        };
        let parsed = if parser.chars.len() > MAX_LENGTH {
            Err(Wrong::at(
                MAX_LENGTH,
                format!("a selector has at most {MAX_LENGTH} characters"),
            ))
        } else {
            parser.selector()
        };
        parsed.map_err(|Wrong { at, message }| ParseError::new(message, text, at))
    }
}

/// An error on its way to becoming a [`ParseError`].
struct Wrong {
    at: usize,
    message: String,
}

impl Wrong {
    fn at(at: usize, message: impl Into<String>) -> Self {
        Wrong {
            at,
            message: message.into(),
        }
    }
}

struct Parser {
    chars: Vec<char>,
    at: usize,
    /// Whether `state=` means anything where the selector stands.
    may_ask_state: bool,
}

/// A value as it was written.
struct Value {
    /// Its first character's place (the quote's, if quoted).
    at: usize,
    quoted: bool,
    /// Each character, and whether a backslash stood before it.
    chars: Vec<(char, bool)>,
}

impl Parser {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while self.peek().is_some_and(char::is_whitespace) {
            self.at += 1;
        }
    }

    fn selector(&mut self) -> Result<Selector, Wrong> {
        let mut conditions = Vec::new();
        loop {
            self.skip_space();
            conditions.extend(self.condition()?);
            self.skip_space();
            match self.peek() {
                None => return Ok(Selector { conditions }),
                Some(',') => self.at += 1,
                Some('"') => {
                    return Err(Wrong::at(self.at, "quotes must stand around a whole value"));
                }
                Some(_) => {
                    return Err(Wrong::at(
                        self.at,
                        "expected a comma or the end; a value with spaces needs double quotes",
                    ));
                }
            }
        }
    }

    /// `None` for `all`.
    fn condition(&mut self) -> Result<Option<Condition>, Wrong> {
        let at = self.at;
        match self.peek() {
            None | Some(',') => {
                return Err(Wrong::at(
                    at,
                    "a condition is missing; `all` picks every session",
                ));
            }
            Some('"') => return Ok(Some(Condition::Name(self.value()?.glob()))),
            Some(_) => {}
        }
        let word: String = self.take_while(|c| !matches!(c, ',' | '=' | '"') && !c.is_whitespace());
        let after = self.at;
        self.skip_space();
        if self.peek() == Some('=') {
            if word == "state" && !self.may_ask_state {
                return Err(Wrong::at(
                    at,
                    "whoever is at a breakpoint is running, so `state=` picks nothing there",
                ));
            }
            self.at += 1;
            self.skip_space();
            let value = self.value()?;
            return value.condition(at, &word).map(Some);
        }
        self.at = after;
        if word == "all" {
            return Ok(None);
        }
        let value = Value {
            at,
            quoted: false,
            chars: word.chars().map(|c| (c, false)).collect(),
        };
        if word.bytes().all(|byte| byte.is_ascii_digit()) {
            return Ok(Some(Condition::Pid(value.range()?)));
        }
        Ok(Some(Condition::Name(value.glob())))
    }

    fn take_while<T: FromIterator<char>>(&mut self, wanted: impl Fn(char) -> bool) -> T {
        let start = self.at;
        while self.peek().is_some_and(&wanted) {
            self.at += 1;
        }
        self.chars[start..self.at].iter().copied().collect()
    }

    fn value(&mut self) -> Result<Value, Wrong> {
        let at = self.at;
        if self.peek() != Some('"') {
            let text: Vec<char> =
                self.take_while(|c| !matches!(c, ',' | '"') && !c.is_whitespace());
            if text.is_empty() {
                return Err(Wrong::at(
                    at,
                    "a value is missing; an empty one is written \"\"",
                ));
            }
            let chars = text.into_iter().map(|c| (c, false)).collect();
            return Ok(Value {
                at,
                quoted: false,
                chars,
            });
        }
        self.at += 1;
        let mut chars = Vec::new();
        loop {
            let escaped = self.peek() == Some('\\');
            if escaped {
                self.at += 1;
            }
            let Some(c) = self.peek() else {
                return Err(Wrong::at(at, "this quote is never closed"));
            };
            self.at += 1;
            if c == '"' && !escaped {
                return Ok(Value {
                    at,
                    quoted: true,
                    chars,
                });
            }
            chars.push((c, escaped));
        }
    }
}

impl Value {
    fn text(&self) -> String {
        self.chars.iter().map(|(c, _)| c).collect()
    }

    /// The condition that `key`, which stands at `key_at`, makes of this value.
    fn condition(&self, key_at: usize, key: &str) -> Result<Condition, Wrong> {
        match key {
            "pid" => self.range().map(Condition::Pid),
            RANK if !self.quoted && self.is_range() => self.range().map(Condition::Rank),
            RANK => Ok(Condition::Label(RANK.to_owned(), self.glob())),
            "state" => self.state().map(Condition::State),
            "id" => self.id().map(Condition::Id),
            "name" => Ok(Condition::Name(self.glob())),
            _ => match key.strip_prefix("label.") {
                Some("") => Err(Wrong::at(key_at, "a label has a key: `label.KEY=VALUE`")),
                Some(label) => Ok(Condition::Label(label.to_owned(), self.glob())),
                None => Err(Wrong::at(
                    key_at,
                    format!(
                        "there is no `{key}=`; there are pid=, name=, rank=, state=, id= and label.KEY="
                    ),
                )),
            },
        }
    }

    fn glob(&self) -> Glob {
        let piece = |(c, escaped): &(char, bool)| match c {
            '*' if !escaped => Piece::Any,
            '?' if !escaped => Piece::One,
            c => Piece::Char(*c),
        };
        Glob(self.chars.iter().map(piece).collect())
    }

    /// Whether this is meant as a number or a range, well written or not.
    fn is_range(&self) -> bool {
        let text = self.text();
        !text.is_empty()
            && text.chars().all(|c| c.is_ascii_digit() || c == '.')
            && (text.contains("..") || !text.contains('.'))
    }

    fn range(&self) -> Result<RangeInclusive<u32>, Wrong> {
        let text = self.text();
        let number = |text: &str| {
            if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
                text.parse()
                    .map_err(|_| format!("{text} is too large; at most {}", u32::MAX))
            } else {
                Err("expected a number, or a range with both its ends: `0..3`".to_owned())
            }
        };
        let range = match text.split_once("..") {
            None => number(&text).map(|only| only..=only),
            Some((first, last)) => match (number(first), number(last)) {
                (Ok(first), Ok(last)) if first > last => {
                    Err(format!("a range goes upwards: `{last}..{first}`"))
                }
                (Ok(first), Ok(last)) => Ok(first..=last),
                (Err(message), _) | (_, Err(message)) => Err(message),
            },
        };
        range.map_err(|message| Wrong::at(self.at, message))
    }

    fn state(&self) -> Result<&'static str, Wrong> {
        let text = self.text();
        STATES
            .into_iter()
            .find(|state| *state == text)
            .ok_or_else(|| {
                Wrong::at(
                    self.at,
                    format!("there is no such state; there are {}", STATES.join(", ")),
                )
            })
    }

    fn id(&self) -> Result<String, Wrong> {
        let mut prefix = String::new();
        for (index, (c, _)) in self.chars.iter().enumerate() {
            match c {
                '-' => {}
                c if c.is_ascii_hexdigit() => prefix.push(c.to_ascii_lowercase()),
                // Behind a quote with escapes the place is not exact, but inside the value.
                _ => {
                    return Err(Wrong::at(
                        self.at + index + usize::from(self.quoted),
                        "an id has hexadecimal digits and hyphens only",
                    ));
                }
            }
        }
        match prefix.len() {
            0 => Err(Wrong::at(
                self.at,
                "the start of an id is missing: `id=3fa8`",
            )),
            1..=32 => Ok(prefix),
            _ => Err(Wrong::at(self.at, "an id has 32 digits at most")),
        }
    }
}
