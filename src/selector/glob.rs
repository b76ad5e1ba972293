//! A pattern for a whole text, of characters, `?` and `*`.
//!
//! Knows how it is matched and how it is written down again; the reading is the parser's.

use std::fmt;

/// A pattern for a whole text.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Glob(pub(super) Vec<Piece>);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Piece {
    /// This character.
    Char(char),
    /// `?`
    One,
    /// `*`
    Any,
}

impl Glob {
    /// Goes along both, and after a mismatch lets the last `*` swallow one character more.
    pub(super) fn matches(&self, text: &str) -> bool {
        let pieces = &self.0;
        let mut rest = text.chars();
        let mut at = 0;
        // Where to go on after the last `*`, in the pattern and in the text.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            let mut ahead = rest.clone();
            match (pieces.get(at), ahead.next()) {
                (None, None) => return true,
                (Some(Piece::Any), _) => {
                    at += 1;
                    retry = Some((at, rest.clone()));
                    continue;
                }
                (Some(Piece::One), Some(_)) => {
                    (at, rest) = (at + 1, ahead);
                    continue;
                }
                (Some(Piece::Char(wanted)), Some(found)) if *wanted == found => {
                    (at, rest) = (at + 1, ahead);
                    continue;
                }
                _ => {}
            }
            let Some((after, from)) = &mut retry else {
                return false;
            };
            if from.next().is_none() {
                return false;
            }
            (at, rest) = (*after, from.clone());
        }
    }
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        let special = |c: char| c.is_whitespace() || matches!(c, ',' | '"' | '*' | '?');
        let quoted = self.0.is_empty()
            || self
                .0
                .iter()
                .any(|piece| matches!(piece, Piece::Char(c) if special(*c)));
        if quoted {
            f.write_char('"')?;
        }
        for piece in &self.0 {
            match *piece {
                Piece::Any => f.write_char('*')?,
                Piece::One => f.write_char('?')?,
                Piece::Char(c) => {
                    if quoted && matches!(c, '"' | '\\' | '*' | '?') {
                        f.write_char('\\')?;
                    }
                    f.write_char(c)?;
                }
            }
        }
        if quoted {
            f.write_char('"')?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What a glob means, said as slowly and plainly as possible.
    fn plainly(pieces: &[Piece], text: &[char]) -> bool {
        match (pieces, text) {
            ([], text) => text.is_empty(),
            ([Piece::Any, rest @ ..], text) => {
                (0..=text.len()).any(|from| plainly(rest, &text[from..]))
            }
            ([Piece::One, rest @ ..], [_, text @ ..]) => plainly(rest, text),
            ([Piece::Char(wanted), rest @ ..], [found, text @ ..]) if wanted == found => {
                plainly(rest, text)
            }
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn a_glob_means_what_it_says(
            pieces in prop::collection::vec(
                prop::sample::select(
                    vec![Piece::Any, Piece::One, Piece::Char('a'), Piece::Char('ä')]),
                0..8),
            text in "[aäb]{0,10}",
        ) {
            let chars: Vec<char> = text.chars().collect();
            prop_assert_eq!(Glob(pieces.clone()).matches(&text), plainly(&pieces, &chars));
        }
    }
}
