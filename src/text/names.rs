//! Many names in few words: `ForkPoolWorker-1…-64 (64)`.
//!
//! Knows nothing of what is named.

use std::collections::{HashMap, HashSet};
use std::hash::Hash;

/// How many names or ranges of them are said before the rest is only counted.
const MAX_SAID: usize = 8;

/// How many names in a row make a range.
const MIN_RANGE: usize = 3;

/// How many digits a number in a name has at most; longer ones are text.
const MAX_DIGITS: usize = 18;

/// What to call each process: its name, and its pid too where another has the same name.
pub(super) struct Labels {
    ambiguous: HashSet<String>,
}

impl Labels {
    /// For processes of which each is some key and a name; one may come several times.
    pub(super) fn new<K: Hash + Eq>(processes: impl Iterator<Item = (K, String)>) -> Labels {
        let mut first: HashMap<String, K> = HashMap::new();
        let mut ambiguous = HashSet::new();
        for (key, name) in processes {
            match first.get(&name) {
                None => {
                    first.insert(name, key);
                }
                Some(other) if *other != key => {
                    ambiguous.insert(name);
                }
                Some(_) => {}
            }
        }
        Labels { ambiguous }
    }

    pub(super) fn of(&self, name: &str, pid: u64) -> String {
        match self.ambiguous.contains(name) {
            true => format!("{name} ({pid})"),
            false => name.to_owned(),
        }
    }
}

/// Names that differ in one number only.
struct Series<'a> {
    before: &'a str,
    after: &'a str,
    /// Each number and its digits.
    numbers: Vec<(u64, &'a str)>,
}

/// Says many names in few words: ranges of those that differ in their last number, and of more than a few the first.
pub(super) fn compress<S: AsRef<str>>(names: &[S]) -> String {
    let (mut said, mut is_short) = (Vec::new(), false);
    let mut room = MAX_SAID;
    for mut series in series(names) {
        if room == 0 {
            is_short = true;
            break;
        }
        if series.numbers.is_empty() {
            said.push(series.before.to_owned());
            room -= 1;
            continue;
        }
        series.numbers.sort_unstable();
        let mut pieces: Vec<String> = Vec::new();
        // What stands before each number but the first: `worker-1, -3`.
        let dash = match series.before.chars().last() {
            Some(dash @ ('-' | '_' | ':' | '#')) => String::from(dash),
            _ => String::new(),
        };
        let mut add = |piece: String| match pieces.last() {
            None => pieces.push(piece),
            Some(_) => pieces.push(format!("{dash}{piece}")),
        };
        for run in series.numbers.chunk_by(|a, b| a.0 + 1 == b.0) {
            match run {
                [(_, first), .., (_, last)] if run.len() >= MIN_RANGE => {
                    is_short = true;
                    add(format!("{first}…{dash}{last}"));
                }
                _ => run.iter().for_each(|(_, digits)| add((*digits).to_owned())),
            }
        }
        is_short |= pieces.len() > room;
        pieces.truncate(room);
        room -= pieces.len();
        said.push(format!(
            "{}{}{}",
            series.before,
            pieces.join(", "),
            series.after
        ));
    }
    let mut text = said.join(", ");
    if is_short {
        if room == 0 {
            text.push_str(", …");
        }
        text.push_str(&format!(" ({})", names.len()));
    }
    text
}

/// The series among names, in the order of their first names; a name without a number is a series by itself.
fn series<S: AsRef<str>>(names: &[S]) -> Vec<Series<'_>> {
    let mut found: Vec<Series<'_>> = Vec::new();
    let mut places: HashMap<(&str, &str), usize> = HashMap::new();
    let mut seen = HashSet::new();
    for name in names {
        let name = name.as_ref();
        if !seen.insert(name) {
            continue;
        }
        let (before, digits, after) = split(name);
        let number: Option<u64> = digits.parse().ok();
        let place = *places.entry((before, after)).or_insert(found.len());
        if place == found.len() {
            found.push(Series {
                before,
                after,
                numbers: Vec::new(),
            });
        }
        found[place]
            .numbers
            .extend(number.map(|number| (number, digits)));
    }
    found
}

/// A name before, in and after its last number; all of it is before if it has none.
fn split(name: &str) -> (&str, &str, &str) {
    let head = name.trim_end_matches(|c: char| !c.is_ascii_digit());
    let before = head.trim_end_matches(|c: char| c.is_ascii_digit());
    let digits = &head[before.len()..];
    match digits.len() {
        1..=MAX_DIGITS => (before, digits, &name[head.len()..]),
        _ => (name, "", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_names_in_few_words() {
        let pool = |numbers: &mut dyn Iterator<Item = u32>| -> Vec<String> {
            numbers.map(|n| format!("ForkPoolWorker-{n}")).collect()
        };
        for (names, said) in [
            (vec![], ""),
            (vec!["main".to_owned()], "main"),
            (pool(&mut (1..=1)), "ForkPoolWorker-1"),
            (pool(&mut (1..=2)), "ForkPoolWorker-1, -2"),
            (pool(&mut (1..=64)), "ForkPoolWorker-1…-64 (64)"),
            (pool(&mut (1..=64).rev()), "ForkPoolWorker-1…-64 (64)"),
            (
                pool(&mut (1..=9).chain(11..=12)),
                "ForkPoolWorker-1…-9, -11, -12 (11)",
            ),
            (
                pool(&mut (1..=40).step_by(2)),
                "ForkPoolWorker-1, -3, -5, -7, -9, -11, -13, -15, … (20)",
            ),
        ] {
            assert_eq!(compress(&names), said);
        }
        for (names, said) in [
            (&["rank0", "rank1", "rank2"][..], "rank0…2 (3)"),
            (&["a_1", "a_2", "a_3"], "a_1…_3 (3)"),
            (&["w-08", "w-09", "w-10"], "w-08…-10 (3)"),
            (&["Process-1:1", "Process-1:2"], "Process-1:1, :2"),
            (
                &["Thread-1 (f)", "Thread-2 (f)", "Thread-3 (f)"],
                "Thread-1…-3 (f) (3)",
            ),
            (&["t.py (40)", "t.py (41)", "t.py (42)"], "t.py (40…42) (3)"),
            (&["main", "w-1", "w-2", "w-3"], "main, w-1…-3 (4)"),
            (&["a", "b", "a"], "a, b"),
            (
                &["a", "b", "c", "d", "e", "f", "g", "h"],
                "a, b, c, d, e, f, g, h",
            ),
            (
                &["a", "b", "c", "d", "e", "f", "g", "h", "i"],
                "a, b, c, d, e, f, g, h, … (9)",
            ),
            (&["é1ü", "é2ü"], "é1, 2ü"),
            (&["18446744073709551616"], "18446744073709551616"),
        ] {
            assert_eq!(compress(names), said);
        }
    }

    #[test]
    fn a_pid_where_the_name_is_not_enough() {
        let processes = [(1, "a"), (2, "b"), (3, "a"), (2, "b")];
        let labels = Labels::new(
            processes
                .iter()
                .map(|(key, name)| (key, (*name).to_owned())),
        );
        assert_eq!(labels.of("a", 41), "a (41)");
        assert_eq!(labels.of("b", 42), "b");
    }
}
