//! What an agent watches of its program: the words of `DBGPROXY_MONITOR`, and what is to be said of others.
//!
//! The agent itself goes by those that it knows; this module knows neither it nor its process.

use crate::text::printable;

/// The variable in which a program's environment says it.
pub const VARIABLE: &str = "DBGPROXY_MONITOR";

/// The words that mean something.
pub const WORDS: [&str; 4] = ["tasks", "tasks+", "locks", "off"];

/// How many unknown words are named.
const MAX_NAMED: usize = 3;

/// How many characters of each.
const MAX_WORD: usize = 30;

/// What is wrong with a value of the variable, for the user.
#[must_use]
pub fn amiss(value: &str) -> Option<String> {
    let words = value.split(',').map(str::trim);
    let unknown = words.filter(|word| !word.is_empty() && !WORDS.contains(word));
    let named: Vec<String> = unknown
        .take(MAX_NAMED)
        .map(|word| word.chars().take(MAX_WORD).collect::<String>())
        .map(|word| format!("`{}`", printable(&word)))
        .collect();
    if named.is_empty() {
        return None;
    }
    Some(format!(
        "{VARIABLE} says {}, which means nothing: it may be {}, joined by commas",
        named.join(" and "),
        WORDS.join(", ")
    ))
}

#[cfg(test)]
#[test]
fn words_that_mean_nothing() {
    for well in [
        "",
        "tasks",
        "locks, tasks+",
        " off ",
        "locks,",
        "tasks,locks,off",
    ] {
        assert_eq!(amiss(well), None, "{well}");
    }
    let why = amiss("lock,tasks,Off,a,b\u{1b}").unwrap_or_default();
    assert_eq!(
        why,
        "DBGPROXY_MONITOR says `lock` and `Off` and `a`, which means nothing: it may be tasks, tasks+, locks, off, \
         joined by commas"
    );
    assert!(amiss("\u{1b}[2J").is_some_and(|why| !why.contains('\u{1b}')));
}
