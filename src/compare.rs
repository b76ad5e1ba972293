//! The odd one out: which of many answers to one question differ from the others.
//!
//! Texts are compared without the addresses in them, which are different in every process. Numbers that all differ
//! a little are odd where they are far from the middle.
//! This module knows neither who answered nor what was asked.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;

use serde::{Deserialize, Serialize};

/// How many numbers it takes to say that one of them is far from the others.
const FEW: usize = 4;

/// How far from the median is far, in median absolute deviations.
const FAR: f64 = 10.0;

/// How answers compare.
#[derive(Debug, PartialEq)]
pub struct Comparison {
    /// For each answer, whether it is odd; one that is missing is not.
    pub odd: Vec<bool>,
    /// The different answers, the most frequent first, and otherwise in their order.
    pub values: Vec<Count>,
}

/// An answer and how many gave it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Count {
    /// As it was given; without its addresses where these differ.
    pub result: String,
    /// How many gave it.
    pub count: usize,
}

/// Compares answers, of which some may be missing.
///
/// An answer is odd if it is not the most frequent one, where more than one gave that, and more than any other.
/// Of numbers this one must also be more than half; otherwise a number is odd that is far from the median.
#[must_use]
pub fn compare(results: &[Option<&str>]) -> Comparison {
    let mut values: Vec<(Cow<'_, str>, Count)> = Vec::new();
    let mut places = HashMap::new();
    // For each answer, its value.
    let mut value_of = Vec::with_capacity(results.len());
    for result in results {
        let Some(result) = result else {
            value_of.push(None);
            continue;
        };
        let text = without_addresses(result);
        let place = *places.entry(text.clone()).or_insert(values.len());
        value_of.push(Some(place));
        match values.get_mut(place) {
            None => values.push((
                text,
                Count {
                    result: (*result).to_owned(),
                    count: 1,
                },
            )),
            Some((text, value)) => {
                value.count += 1;
                if value.result != *result {
                    value.result = text.to_string();
                }
            }
        }
    }
    let odd = odd(&values);
    let odd = value_of
        .iter()
        .map(|place| place.is_some_and(|place| odd[place]))
        .collect();
    let mut values: Vec<Count> = values.into_iter().map(|(_, value)| value).collect();
    values.sort_by_key(|value| Reverse(value.count));
    Comparison { odd, values }
}

/// Which of these values are odd.
fn odd(values: &[(Cow<'_, str>, Count)]) -> Vec<bool> {
    let counts = || values.iter().map(|(_, value)| value.count);
    let (most, total) = (counts().max().unwrap_or(0), counts().sum::<usize>());
    let is_single = counts().filter(|count| *count == most).count() == 1;
    let numbers: Option<Vec<f64>> = values.iter().map(|(text, _)| number(text)).collect();
    match numbers {
        // Two of many numbers may be the same by chance.
        Some(numbers) if total >= FEW && most * 2 <= total => {
            let all = numbers.iter().zip(counts());
            let all = all.flat_map(|(number, count)| std::iter::repeat_n(*number, count));
            let is_far = far(all.collect());
            numbers.into_iter().map(is_far).collect()
        }
        _ if most >= 2 && is_single => counts().map(|count| count != most).collect(),
        _ => vec![false; values.len()],
    }
}

/// Tells a number that is far from the median of these.
fn far(numbers: Vec<f64>) -> impl Fn(f64) -> bool {
    let total = numbers.len();
    let finite: Vec<f64> = numbers.into_iter().filter(|n| n.is_finite()).collect();
    let is_mostly_finite = finite.len() * 2 > total;
    let middle = median(finite.clone());
    let deviation = median(finite.into_iter().map(|n| (n - middle).abs()).collect());
    move |number| match number.is_finite() {
        true => (number - middle).abs() > FAR * deviation,
        false => is_mostly_finite,
    }
}

/// The middle one, or the mean of the middle two; not a number if there is none.
fn median(mut numbers: Vec<f64>) -> f64 {
    numbers.sort_unstable_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.get(middle) {
        None => f64::NAN,
        Some(upper) if numbers.len() % 2 == 1 => *upper,
        // Halved first, because the sum of two may be too large.
        Some(upper) => numbers[middle - 1] / 2.0 + upper / 2.0,
    }
}

/// An int or a float as Python writes it.
fn number(text: &str) -> Option<f64> {
    let number: f64 = text.parse().ok()?;
    if text.bytes().any(|byte| byte.is_ascii_digit()) {
        // An int may be larger than any float, and is finite all the same.
        return Some(number.clamp(f64::MIN, f64::MAX));
    }
    matches!(text, "nan" | "inf" | "-inf").then_some(number)
}

/// A text without the ` at 0x7f5c…` that Python writes of objects that have nothing else to say.
pub(crate) fn without_addresses(text: &str) -> Cow<'_, str> {
    const BEFORE: &str = " at 0x";
    if !text.contains(BEFORE) {
        return Cow::Borrowed(text);
    }
    let mut parts = text.split(BEFORE);
    let mut clean = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let rest = part.trim_start_matches(|c: char| c.is_ascii_hexdigit());
        if rest.len() == part.len() {
            // No digits, no address.
            clean.push_str(BEFORE);
        }
        clean.push_str(rest);
    }
    Cow::Owned(clean)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The texts that are odd; `-` is a missing one.
    fn odd_of<'a>(texts: &[&'a str]) -> Vec<&'a str> {
        let results: Vec<_> = texts
            .iter()
            .map(|text| Some(*text).filter(|text| *text != "-"))
            .collect();
        let odd = compare(&results).odd;
        let odd = texts.iter().zip(odd).filter(|(_, odd)| *odd);
        odd.map(|(text, _)| *text).collect()
    }

    #[test]
    fn the_odd_ones() {
        for (texts, odd) in [
            (&[][..], &[][..]),
            (&["-", "-"], &[]),
            (&["1"], &[]),
            (&["'a'", "'b'"], &[]),
            (&["'a'", "'a'", "'b'"], &["'b'"]),
            (&["'a'", "-", "'a'", "-"], &[]),
            // Nobody has the majority.
            (&["'a'", "'a'", "'b'", "'b'"], &[]),
            (&["'a'", "'b'", "'c'"], &[]),
            // Numbers with a majority are texts.
            (&["3", "3", "3", "4"], &["4"]),
            (&["3", "3", "4"], &["4"]),
            // Numbers that all differ.
            (&["0.31", "0.32", "0.3", "0.33", "17.5"], &["17.5"]),
            (&["0.31", "0.32", "0.3", "nan"], &["nan"]),
            (&["0.31", "0.32", "-inf", "0.3"], &["-inf"]),
            (&["nan", "nan", "nan", "0.3"], &["0.3"]),
            (&["nan", "inf", "0.1", "0.2"], &[]),
            (&["1", "2", "3", "4"], &[]),
            // Too few to say.
            (&["1", "2", "1000"], &[]),
            // Two that happen to be the same are no majority.
            (&["3", "3", "4", "5", "6", "7", "900"], &["900"]),
            // Not all are numbers.
            (&["1", "2", "3", "'x'", "1000"], &[]),
            (&["1", "2", "3", "infinity", "1000"], &[]),
        ] {
            assert_eq!(odd_of(texts), odd, "{texts:?}");
        }
    }

    #[test]
    fn an_int_beyond_all_floats_is_finite() {
        let googol = format!("1{}", "0".repeat(400));
        assert_eq!(odd_of(&["1", "2", "3", &googol]), [&googol]);
        assert_eq!(odd_of(&["nan", "1", "2", &googol]), ["nan", &googol]);
    }

    #[test]
    fn addresses_do_not_count() {
        let values = compare(&[
            Some("<Lock at 0x7f01>"),
            Some("<Lock at 0x7F02>"),
            Some("None"),
            Some("<Lock at 0xa>"),
        ]);
        assert_eq!(values.odd, [false, false, true, false]);
        let count = |result: &str, count| Count {
            result: result.to_owned(),
            count,
        };
        assert_eq!(values.values, [count("<Lock>", 3), count("None", 1)]);
        // The same one in all processes, as after a fork.
        let values = compare(&[Some("<Lock at 0x7f01>"), Some("<Lock at 0x7f01>")]).values;
        assert_eq!(values, [count("<Lock at 0x7f01>", 2)]);
    }

    #[test]
    fn what_is_an_address() {
        for (text, clean) in [
            ("<a at 0x1f> <b at 0x2F>", "<a> <b>"),
            (" at 0x", " at 0x"),
            (" at 0xg at 0x1", " at 0xg"),
            ("at 0x1", "at 0x1"),
            ("ü at 0x1ü", "üü"),
        ] {
            assert_eq!(without_addresses(text), clean);
        }
    }

    /// Answers of which some are the same, some are numbers, and some are missing.
    fn answers() -> impl Strategy<Value = Vec<Option<String>>> {
        let text = prop_oneof!["[ab]", "[0-9]{1,3}", "(nan|inf|1e5|-0.5)", ".{0,6}"];
        prop::collection::vec(prop::option::of(text), 0..20)
    }

    fn compare_all(answers: &[Option<String>]) -> Comparison {
        compare(&answers.iter().map(Option::as_deref).collect::<Vec<_>>())
    }

    proptest! {
        #[test]
        fn each_answer_is_counted_once(answers in answers()) {
            let found = compare_all(&answers);
            prop_assert_eq!(found.odd.len(), answers.len());
            let counted: usize = found.values.iter().map(|value| value.count).sum();
            prop_assert_eq!(counted, answers.iter().flatten().count());
            prop_assert!(found.values.is_sorted_by_key(|value| Reverse(value.count)));
        }

        #[test]
        fn equal_answers_are_odd_together_and_never_all(answers in answers()) {
            let found = compare_all(&answers);
            let all: Vec<_> = answers.iter().zip(&found.odd).collect();
            for (answer, odd) in &all {
                prop_assert!(answer.is_some() || !**odd);
                prop_assert!(all.iter().all(|(other, same)| other != answer || same == odd));
            }
            let given = answers.iter().flatten().count();
            prop_assert!(given == 0 || found.odd.iter().filter(|odd| **odd).count() < given);
        }

        #[test]
        fn the_order_does_not_matter(answers in answers(), by in 0..20_usize) {
            let mut turned = answers.clone();
            turned.rotate_left(by.min(answers.len()));
            let mut odd = compare_all(&answers).odd;
            odd.rotate_left(by.min(answers.len()));
            prop_assert_eq!(compare_all(&turned).odd, odd);
        }

        #[test]
        fn an_address_makes_no_difference(answers in answers(), address in 0..u64::MAX) {
            let named = |text: &String| format!("<{text}>");
            let at = |text: &String| format!("<{text} at {address:#x}>");
            let plain: Vec<_> = answers.iter().map(|text| text.as_ref().map(named)).collect();
            let placed: Vec<_> = answers.iter().map(|text| text.as_ref().map(at)).collect();
            let mixed = plain.iter().zip(&placed).enumerate();
            let mixed: Vec<_> = mixed.map(|(i, (a, b))| if i % 2 == 0 { a } else { b }.clone()).collect();
            prop_assert_eq!(compare_all(&mixed).odd, compare_all(&plain).odd);
        }
    }
}
