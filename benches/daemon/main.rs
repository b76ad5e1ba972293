//! How fast the daemon is, as ratios against a blind byte relay in the same run.
//!
//! `cargo bench --bench daemon [-- [--quick] [NAME]…]` runs all measures, or those whose name contains one of
//! the words. Rounds of the daemon and of what it is compared with take turns, so that what else the machine
//! does meets both, and medians are compared. The goals are those of the design.

mod agents;
mod children;
mod crowds;
mod locks;
mod monitor;
mod peers;
mod roles;
mod step;
mod traffic;
mod views;

use std::fmt::Display;
use std::time::Duration;

/// How long and how often to measure.
#[derive(Clone, Copy)]
struct Effort {
    quick: bool,
}

impl Effort {
    /// So many, or fewer where it must be quick.
    fn of(self, usual: usize, quick: usize) -> usize {
        if self.quick { quick } else { usual }
    }
}

type Measure = fn(Effort);

const MEASURES: [(&str, Measure); 12] = [
    ("idle", crowds::idle),
    ("round-trip", traffic::round_trip),
    ("storm", traffic::storm),
    ("large", traffic::large),
    ("fan-out", traffic::fan_out),
    ("merged", views::merged),
    ("crowd", crowds::crowd),
    ("sleepers", crowds::sleepers),
    ("samples", monitor::monitor),
    ("step", step::step),
    ("asleep", agents::asleep),
    ("locks", locks::locks),
];

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, role] = arguments.as_slice()
        && flag == "--as"
    {
        return roles::play(role);
    }
    let effort = Effort {
        quick: arguments.iter().any(|argument| argument == "--quick"),
    };
    // Cargo adds a `--bench` of its own.
    let words: Vec<&String> = arguments
        .iter()
        .filter(|argument| !argument.starts_with("--"))
        .collect();
    for (name, measure) in MEASURES {
        if words.is_empty() || words.iter().any(|word| name.contains(word.as_str())) {
            measure(effort);
        }
    }
}

/// What is to be reached.
#[derive(Clone, Copy)]
enum Goal {
    AtMost(f64),
    AtLeast(f64),
}

impl Goal {
    fn is_met(self, value: f64) -> bool {
        match self {
            Goal::AtMost(most) => value <= most,
            Goal::AtLeast(least) => value >= least,
        }
    }
}

/// Prints one line: what was measured, what it is compared with, what counts, and the goal of that.
fn report(name: &str, figure: &str, against: &str, counts: (f64, &str), goal: Goal) {
    let (value, unit) = counts;
    let (sign, bound) = match goal {
        Goal::AtMost(bound) => ("≤", bound),
        Goal::AtLeast(bound) => ("≥", bound),
    };
    let verdict = if goal.is_met(value) { "met" } else { "MISSED" };
    let value = number(value);
    let bound = format!("{sign} {bound} {unit}");
    let counts = format!("{value} {unit}");
    println!("{name:<34} {figure:>16}  {against:<26} {counts:>14}  goal {bound:<12} {verdict}");
}

/// Prints a line about a measure that is no figure.
fn remark(name: &str, text: impl Display) {
    println!("{name:<34} {text}");
}

fn number(value: f64) -> String {
    if value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

/// The value that as many lie below as above.
fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value below which a part of all lies.
fn percentile(values: &[f64], part: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let at = (sorted.len() as f64 * part) as usize;
    sorted[at.min(sorted.len() - 1)]
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
