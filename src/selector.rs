//! A selector: the text that picks sessions.
//!
//! ```text
//! selector  = condition { "," condition }           every one of them must hold
//! condition = "all"
//!           | "pid=" range | "rank=" (range | glob) | "state=" state
//!           | "id=" prefix | "name=" glob | "label." KEY "=" glob
//!           | digits                                a pid
//!           | glob                                  a name
//! range     = number [ ".." number ]                both ends included
//! ```
//!
//! A name is that of the session as it is shown, or without the number that tells it from others of the same name:
//! `worker.py` picks all of them, `"worker.py (2)"` one. In a glob `*` stands for any text and `?` for one character. A value in double quotes may hold
//! commas and spaces; in it a backslash takes the meaning away from the next character (`\"`, `\*`),
//! and what looks like a number is text. White space around conditions and `=` is ignored. The empty
//! text is an error and not `all`: it is what an unset shell variable leaves behind.
//!
//! This module knows no session; it sees the few facts in a [`Subject`].

mod glob;
mod parse;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use glob::Glob;
pub use parse::ParseError;

/// The longest text that is read, in characters; a longer one is an error. Matching costs at most
/// the product of its length and the name's.
pub const MAX_LENGTH: usize = 4096;

/// The states of a session, as the contract names them.
const STATES: [&str; 6] = ["dormant", "starting", "held", "running", "stopped", "ended"];

/// The label that `rank=` looks at.
const RANK: &str = "rank";

/// Which sessions: those for which every condition holds. The default is all of them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Selector {
    /// In the order written; empty is `all`.
    conditions: Vec<Condition>,
}

/// What a selector looks at in a session.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The session's id.
    pub id: Uuid,
    /// The process's id.
    pub pid: u32,
    /// The session's name as it is shown.
    pub name: &'a str,
    /// The same without the number that tells it from others.
    pub plain_name: &'a str,
    /// Its state, in the contract's words.
    pub state: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Condition {
    Pid(RangeInclusive<u32>),
    Rank(RangeInclusive<u32>),
    /// One of [`STATES`].
    State(&'static str),
    /// Lower-case hexadecimal digits without hyphens, 1 to 32 of them.
    Id(String),
    Name(Glob),
    /// A label by its key; `rank` written as text is one too.
    Label(String, Glob),
}

impl Selector {
    /// The one session of that id.
    #[must_use]
    pub fn of_id(id: Uuid) -> Selector {
        Selector {
            conditions: vec![Condition::Id(id.simple().to_string())],
        }
    }

    /// The sessions of exactly that name.
    #[must_use]
    pub fn named(name: &str) -> Selector {
        let exact = name.chars().map(glob::Piece::Char).collect();
        Selector {
            conditions: vec![Condition::Name(Glob(exact))],
        }
    }

    /// Whether this selects every session there is.
    #[must_use]
    pub fn is_all(&self) -> bool {
        self.conditions.is_empty()
    }

    /// What both select.
    #[must_use]
    pub fn and(mut self, other: Selector) -> Selector {
        for condition in other.conditions {
            if !self.conditions.contains(&condition) {
                self.conditions.push(condition);
            }
        }
        self
    }

    /// Whether every condition holds for `subject`.
    #[must_use]
    pub fn matches(&self, subject: &Subject<'_>) -> bool {
        self.conditions
            .iter()
            .all(|condition| condition.holds(subject))
    }
}

impl Condition {
    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Condition::Pid(range) => range.contains(&subject.pid),
            Condition::Rank(range) => subject
                .labels
                .get(RANK)
                .and_then(|rank| rank.parse().ok())
                .is_some_and(|rank| range.contains(&rank)),
            Condition::State(state) => *state == subject.state,
            Condition::Id(prefix) => {
                let mut buffer = Uuid::encode_buffer();
                subject
                    .id
                    .simple()
                    .encode_lower(&mut buffer)
                    .starts_with(prefix)
            }
            Condition::Name(glob) => glob.matches(subject.name) || glob.matches(subject.plain_name),
            Condition::Label(key, glob) => subject
                .labels
                .get(key)
                .is_some_and(|value| glob.matches(value)),
        }
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_all() {
            return f.write_str("all");
        }
        for (index, condition) in self.conditions.iter().enumerate() {
            if index > 0 {
                f.write_str(",")?;
            }
            write!(f, "{condition}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Condition::Pid(range) => write!(f, "pid={}", Range(range)),
            Condition::Rank(range) => write!(f, "rank={}", Range(range)),
            Condition::State(state) => write!(f, "state={state}"),
            Condition::Id(prefix) => write!(f, "id={prefix}"),
            Condition::Name(glob) => write!(f, "name={glob}"),
            Condition::Label(key, glob) => write!(f, "label.{key}={glob}"),
        }
    }
}

/// A range as it is written.
struct Range<'a>(&'a RangeInclusive<u32>);

impl fmt::Display for Range<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (first, last) = (self.0.start(), self.0.end());
        if first == last {
            write!(f, "{first}")
        } else {
            write!(f, "{first}..{last}")
        }
    }
}

impl From<Selector> for String {
    fn from(selector: Selector) -> Self {
        selector.to_string()
    }
}

impl TryFrom<String> for Selector {
    type Error = ParseError;

    fn try_from(text: String) -> Result<Self, ParseError> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::glob::Piece;
    use super::*;

    fn parse(text: &str) -> Selector {
        text.parse().unwrap_or_else(|error| panic!("{error}"))
    }

    /// Whether `text` picks pid 41 `worker-3 (2)` (stopped, rank 3, `role=data loader`).
    #[track_caller]
    fn check(text: &str, expected: bool) {
        let labels = [
            ("rank", "3"),
            ("role", "data loader"),
            ("host", "a,b*c"),
            ("k", "a=b"),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let subject = Subject {
            id: "3fa85f64-5717-4562-b3fc-2c963f66afa6".parse().unwrap(),
            pid: 41,
            name: "worker-3 (2)",
            plain_name: "worker-3",
            state: "stopped",
            labels: &labels,
        };
        assert_eq!(parse(text).matches(&subject), expected, "{text}");
    }

    #[test]
    fn picks() {
        for text in "all| all |all,all|41|pid=41|pid=40..41|pid=\"41\"|worker-3|worker-*|name=*|\
             name=w?rker-?|name=*-3*|name=w*k*-*3|rank=3|rank=0..3|rank=03|rank=\"3\"|\
             rank=?|state=stopped|id=3fa8|id=3FA8|id=3fa85f64-57|id=3fa85f645717|\
             id=3fa85f64-5717-4562-b3fc-2c963f66afa6|label.role=data*|\
             label.role=\"data loader\"|label.host=\"a,b\\*c\"|label.k=a=b|label.rank=3|\
             worker-*,state=stopped|all,41|  pid = 41 ,\tname = worker-3 |\"worker-3\"|\
             name=\"worker-3 (2)\"|\"worker-3 (?)\"|name=*)"
            .split('|')
        {
            check(text, true);
        }
        for text in "42|pid=42..50|worker|worker-|worker-3?|Worker-3|name=\"\"|name=\"41\"|\
             \"41\"|name=all|name=\"worker-3 (3)\"|\"worker-3 \"|rank=0..2|rank=4|rank=x*|state=running|id=3fa9|\
             label.role=data|label.none=*|label.host=\"a,b\\?c\"|worker-*,state=running|\
             all,42|name=worker-\\*"
            .split('|')
        {
            check(text, false);
        }
    }

    #[test]
    fn a_rank_that_is_no_number_is_text() {
        let labels = [("rank".to_owned(), "ps.0".to_owned())].into();
        let subject = Subject {
            id: Uuid::nil(),
            pid: 1,
            name: "",
            plain_name: "",
            state: "running",
            labels: &labels,
        };
        assert!(parse("rank=ps.*").matches(&subject));
        assert!(!parse("rank=0..9").matches(&subject));
    }

    #[test]
    fn canonical_text() {
        for (text, canonical) in [
            ("all", "all"),
            ("41", "pid=41"),
            ("pid=7..7", "pid=7"),
            ("worker-*", "name=worker-*"),
            ("\"all\"", "name=all"),
            ("id=3FA8-5F", "id=3fa85f"),
            (" rank = 0..3 , state=stopped ", "rank=0..3,state=stopped"),
            ("rank=\"0..3\"", "label.rank=0..3"),
            ("label.a=\"b\"", "label.a=b"),
            (r#"name="a \"b\" \* *""#, r#"name="a \"b\" \* *""#),
            ("name=C:\\x", "name=C:\\x"),
        ] {
            assert_eq!(parse(text).to_string(), canonical, "{text}");
        }
        assert_eq!(Selector::named("rank 3").to_string(), r#"name="rank 3""#);
        let id = "3fa85f64-5717-4562-b3fc-2c963f66afa6";
        let one = Selector::of_id(id.parse().unwrap());
        assert_eq!(one, parse(&format!("id={id}")));
        assert_eq!(Selector::default(), parse("all"));
        assert!(Selector::default().is_all());
    }

    #[test]
    fn errors_point_at_the_place() {
        for (text, at) in [
            ("", 0),
            ("  ", 2),
            ("a,", 2),
            ("a,,b", 2),
            (",", 0),
            ("=x", 0),
            ("nam=x", 0),
            ("all, colour=red", 5),
            ("label.=x", 0),
            ("name=", 5),
            ("name= ,b", 6),
            ("my worker", 3),
            ("name=my worker", 8),
            ("name=a\"b\"", 6),
            ("name=\"a\"b", 8),
            ("ä,name=\"a", 7),
            ("name=\"a\\", 5),
            ("pid=x", 4),
            ("pid=1..", 4),
            ("pid=-1", 4),
            ("pid=3..1", 4),
            ("99999999999", 0),
            ("rank=3..", 5),
            ("rank=3..0", 5),
            ("state=stoped", 6),
            ("id=", 3),
            ("id=-", 3),
            ("id=3fx", 5),
            ("id=\"3fx\"", 6),
        ] {
            let error = text.parse::<Selector>().expect_err(text);
            assert_eq!(error.at(), at, "{error}");
        }
        let error = "pid=1, state=stoped".parse::<Selector>().unwrap_err();
        assert_eq!(
            error.to_string(),
            "there is no such state; there are dormant, starting, held, running, stopped, ended\n  \
             pid=1, state=stoped\n               ^"
        );
    }

    #[test]
    fn a_text_without_end_is_refused_and_not_repeated() {
        let error = "x".repeat(1_000_000).parse::<Selector>().unwrap_err();
        assert_eq!(error.at(), MAX_LENGTH);
        assert!(error.to_string().len() < 3 * MAX_LENGTH);
    }

    #[test]
    fn json_is_the_text() {
        let selector: Selector = serde_json::from_str(r#""41,state=stopped""#).unwrap();
        assert_eq!(
            serde_json::to_string(&selector).unwrap(),
            r#""pid=41,state=stopped""#
        );
        let error = serde_json::from_str::<Selector>(r#""pid=x""#).unwrap_err();
        assert!(error.to_string().contains("expected a number"), "{error}");
    }

    fn glob() -> impl Strategy<Value = Glob> {
        let piece = prop_oneof![
            Just(Piece::Any),
            Just(Piece::One),
            any::<char>().prop_map(Piece::Char),
            prop::sample::select(vec!['"', '\\', ',', ' ', '*', '?', '.', '=', '7', 'a'])
                .prop_map(Piece::Char),
        ];
        prop::collection::vec(piece, 0..12).prop_map(Glob)
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let range = || (any::<u32>(), any::<u32>()).prop_map(|(a, b)| a.min(b)..=a.max(b));
        let condition = prop_oneof![
            range().prop_map(Condition::Pid),
            range().prop_map(Condition::Rank),
            prop::sample::select(&STATES[..]).prop_map(Condition::State),
            "[0-9a-f]{1,32}".prop_map(Condition::Id),
            glob().prop_map(Condition::Name),
            ("[a-zA-Z0-9_.-]{1,8}|rank", glob())
                .prop_map(|(key, glob)| Condition::Label(key, glob)),
        ];
        prop::collection::vec(condition, 0..6).prop_map(|conditions| Selector { conditions })
    }

    proptest! {
        #[test]
        fn display_reads_back(selector in selector()) {
            prop_assert_eq!(parse(&selector.to_string()), selector);
        }

        #[test]
        fn anything_parses_or_says_where_not(
            text in prop_oneof![
                any::<String>(),
                r#"[a-f=,."\\*? 0-9]{0,20}"#,
                r#"((pid|rank|id|state|name|label\.k)=)?["0-9.a-f\\]{0,6},?"#,
            ]
        ) {
            match text.parse::<Selector>() {
                Ok(selector) => prop_assert_eq!(parse(&selector.to_string()), selector),
                Err(error) => {
                    prop_assert!(error.at() <= text.chars().count());
                    prop_assert!(error.to_string().ends_with('^'));
                }
            }
        }
    }
}
