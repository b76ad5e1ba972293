//! The names that live sessions have: of several with one name each has a number.
//!
//! The first keeps its plain name, the next is `NAME (2)`, then `NAME (3)`: always the smallest number that is free.
//! It knows names alone, and no session.

use std::collections::{BTreeSet, HashMap};

/// The names in use. It has an entry for each plain name, and in it no more numbers than there were sessions of
/// that name at a time.
#[derive(Default)]
pub(super) struct Names(HashMap<Box<str>, Numbers>);

/// The numbers of one plain name.
#[derive(Default)]
struct Numbers {
    /// The largest that was given.
    last: u32,
    /// Those up to it that nobody has.
    free: BTreeSet<u32>,
}

/// A plain name as it is shown with its number.
pub(super) fn shown(plain: &str, number: u32) -> String {
    if number == 1 {
        plain.to_owned()
    } else {
        format!("{plain} ({number})")
    }
}

impl Names {
    /// Gives one more session of this plain name the smallest number with which no other is shown alike.
    pub(super) fn take(&mut self, plain: &str) -> u32 {
        let mut numbers = self.0.remove(plain).unwrap_or_default();
        let is_unlike = |number: &u32| !self.is_shown_alike(plain, *number);
        let number = numbers.free.iter().copied().find(is_unlike);
        let number = number.unwrap_or_else(|| {
            loop {
                numbers.last += 1;
                if is_unlike(&numbers.last) {
                    break numbers.last;
                }
                numbers.free.insert(numbers.last);
            }
        });
        numbers.free.remove(&number);
        self.0.insert(plain.into(), numbers);
        number
    }

    /// A session of this plain name does not have its number any more.
    pub(super) fn release(&mut self, plain: &str, number: u32) {
        if let Some(numbers) = self.0.get_mut(plain) {
            numbers.free.insert(number);
            if numbers.free.len() == numbers.last as usize {
                self.0.remove(plain);
            }
        }
    }

    /// Whether a session of another plain name is shown as this one would be with the number: somebody may have
    /// called a process `worker (2)`.
    fn is_shown_alike(&self, plain: &str, number: u32) -> bool {
        if number > 1 {
            return self.has(&shown(plain, number), 1);
        }
        let parts = plain
            .strip_suffix(')')
            .and_then(|rest| rest.rsplit_once(" ("));
        parts.is_some_and(|(other, digits)| {
            let number = digits.parse().unwrap_or(1);
            number > 1 && shown(other, number) == plain && self.has(other, number)
        })
    }

    /// Whether there is a session of this plain name that has the number.
    fn has(&self, plain: &str, number: u32) -> bool {
        let numbers = self.0.get(plain);
        numbers.is_some_and(|numbers| number <= numbers.last && !numbers.free.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each word takes a name and is shown as the next one says; `-` before a shown name frees it.
    fn check(conversation: &[(&str, &str)]) {
        let mut names = Names::default();
        let mut held: Vec<(String, u32)> = Vec::new();
        for (name, expected) in conversation {
            if let Some(freed) = name.strip_prefix('-') {
                let at = held
                    .iter()
                    .position(|(plain, number)| shown(plain, *number) == freed);
                let (plain, number) = held.remove(at.expect("somebody has it"));
                names.release(&plain, number);
            } else {
                let number = names.take(name);
                assert_eq!(shown(name, number), *expected, "{name} in {held:?}");
                held.push(((*name).to_owned(), number));
            }
            let all: BTreeSet<String> = held.iter().map(|(plain, n)| shown(plain, *n)).collect();
            assert_eq!(all.len(), held.len(), "no two are shown alike: {held:?}");
        }
        for (plain, number) in held {
            names.release(&plain, number);
        }
        assert!(names.0.is_empty(), "nothing stays behind");
    }

    #[test]
    fn the_smallest_free_number() {
        check(&[
            ("worker.py", "worker.py"),
            ("worker.py", "worker.py (2)"),
            ("train.py", "train.py"),
            ("worker.py", "worker.py (3)"),
            ("-worker.py (2)", ""),
            ("worker.py", "worker.py (2)"),
            ("-worker.py", ""),
            ("-worker.py (2)", ""),
            ("worker.py", "worker.py"),
            ("worker.py", "worker.py (2)"),
            ("worker.py", "worker.py (4)"),
        ]);
    }

    #[test]
    fn a_name_may_look_like_one_with_a_number() {
        check(&[
            ("w (2)", "w (2)"),
            ("w", "w"),
            ("w", "w (3)"),
            ("-w (2)", ""),
            ("w", "w (2)"),
            ("w (2)", "w (2) (2)"),
            ("w (3)", "w (3) (2)"),
            ("w (02)", "w (02)"),
            ("w (1)", "w (1)"),
            (" (4)", " (4)"),
            ("", ""),
            ("", " (2)"),
            ("-w (2)", ""),
            ("w (2)", "w (2)"),
            ("w", "w (4)"),
        ]);
    }

    #[test]
    fn ten_thousand_of_one_name_cost_no_more_than_of_many() {
        let mut names = Names::default();
        let mut numbers: Vec<u32> = (0..10_000).map(|_| names.take("worker.py")).collect();
        assert!(numbers.iter().copied().eq(1..=10_000));
        assert!(names.0["worker.py"].free.is_empty());
        for number in numbers.drain(..).filter(|number| number % 3 == 0) {
            names.release("worker.py", number);
        }
        assert_eq!(names.take("worker.py"), 3);
        assert_eq!(names.take("worker.py"), 6);
    }
}
