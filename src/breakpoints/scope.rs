//! The scope of a breakpoint: `@{SELECTOR} condition` holds in the sessions that match, and in no other.
//!
//! This module knows no session; what it reads is a selector and what is left of a condition.

use crate::selector::{ParseError, Selector};

/// What a condition says besides being one.
#[derive(Debug, PartialEq)]
pub(super) struct Scoped {
    /// Where the breakpoint holds.
    pub(super) scope: Selector,
    /// The condition itself, if there is one.
    pub(super) condition: Option<String>,
}

/// Reads a condition; none if it has no scope, and so is one as it stands.
///
/// # Errors
/// What is wrong with the scope, and where.
pub(super) fn read(condition: &str) -> Result<Option<Scoped>, ParseError> {
    let condition = condition.trim();
    let Some(inside) = condition.strip_prefix("@{") else {
        return Ok(None);
    };
    let end = end(inside).map_err(|quote| {
        let (message, at) = match quote {
            Some(quote) => ("this quote is never closed", 2 + quote),
            None => ("this `@{` is never closed by a `}`", 0),
        };
        ParseError::new(message, condition, at)
    })?;
    let rest = inside[end + 1..].trim();
    Ok(Some(Scoped {
        scope: Selector::of_breakpoint(&inside[..end])?,
        condition: (!rest.is_empty()).then(|| rest.to_owned()),
    }))
}

/// The byte where the scope is closed; else the character of the quote that is not, if one is to blame.
fn end(inside: &str) -> Result<usize, Option<usize>> {
    let mut quote = None;
    let mut escaped = false;
    for (at, (byte, character)) in inside.char_indices().enumerate() {
        match character {
            _ if escaped => escaped = false,
            '\\' if quote.is_some() => escaped = true,
            '"' if quote.is_some() => quote = None,
            '"' => quote = Some(at),
            '}' if quote.is_none() => return Ok(byte),
            _ => {}
        }
    }
    Err(quote)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_stands_in_front() {
        for (text, expected) in [
            ("", None),
            ("x > 1", None),
            ("x == '@{rank=0}'", None),
            ("@ {rank=0}", None),
            ("@{rank=0} loss > 3", Some(("rank=0", Some("loss > 3")))),
            ("@{rank=0}", Some(("rank=0", None))),
            (" \t@{ rank = 0 }  ", Some(("rank=0", None))),
            ("@{all}x", Some(("all", Some("x")))),
            (
                "@{rank=0..3,name=a-*}d == {1: '}'}",
                Some(("rank=0..3,name=a-*", Some("d == {1: '}'}"))),
            ),
            (
                r#"@{name="a}\"b}", pid=1} y"#,
                Some((r#"name="a}\"b}",pid=1"#, Some("y"))),
            ),
            (
                "@{rank=0} @{rank=1} z",
                Some(("rank=0", Some("@{rank=1} z"))),
            ),
        ] {
            let read = read(text).unwrap_or_else(|error| panic!("{text}: {error}"));
            let read = read.map(|read| (read.scope.to_string(), read.condition));
            let expected = expected.map(|(scope, condition): (&str, Option<&str>)| {
                (scope.to_owned(), condition.map(str::to_owned))
            });
            assert_eq!(read, expected, "{text}");
        }
    }

    #[test]
    fn what_is_wrong_is_pointed_at() {
        for (text, expected) in [
            (
                "@{rank=0 x > 3",
                "this `@{` is never closed by a `}`\n  @{rank=0 x > 3\n  ^",
            ),
            ("@{", "this `@{` is never closed by a `}`\n  @{\n  ^"),
            (
                "  @{name=\"ä} x",
                "this quote is never closed\n  @{name=\"ä} x\n         ^",
            ),
            (
                "@{}",
                "a condition is missing; `all` picks every session\n  \n  ^",
            ),
            (
                "@{all,pid=x} y",
                "expected a number, or a range with both its ends: `0..3`\n  all,pid=x\n          ^",
            ),
            (
                "@{rank=0, state=stopped} y",
                "whoever is at a breakpoint is running, so `state=` picks nothing there\n  \
                 rank=0, state=stopped\n          ^",
            ),
        ] {
            let error = read(text).expect_err(text).to_string();
            assert_eq!(error, expected, "{text}");
        }
    }
}
