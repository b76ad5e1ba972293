//! What something has used over the last minutes: every second of the last ones, and further back only now and then.
//!
//! From it come averages over windows, and whether it grows. It knows neither processes nor hosts.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How many samples are kept as they come.
const RECENT: usize = 12;

/// How far apart at least those before them are; further ones between are left out.
const COARSE: Duration = Duration::from_secs(10);

/// How many samples are kept; the oldest is forgotten first.
const SAMPLES: usize = 40;

/// Over which times it is averaged, in seconds.
pub const WINDOWS: [u64; 3] = [1, 10, 60];

/// Over which time the growth is told.
const SLOPE: Duration = Duration::from_secs(60);

/// Over which time it must grow steadily to be a finding.
pub const GROWTH_SPAN: Duration = Duration::from_secs(180);

/// By how many bytes it must have grown in that time.
pub const GROWTH_LEAST: u64 = 256 << 20;

/// In how many steps that growth must be seen at least.
const GROWTH_STEPS: usize = 5;

/// What was used at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sample {
    /// When.
    pub at: Instant,
    /// How much processor time since the start, in seconds.
    pub cpu: f64,
    /// How much memory, in bytes.
    pub memory: u64,
}

/// What was used over time.
#[derive(Debug, Default)]
pub struct History(VecDeque<Sample>);

/// How much something has grown.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Growth {
    /// Since when.
    pub since: Instant,
    /// From how many bytes.
    pub from: u64,
    /// To how many.
    pub to: u64,
}

impl History {
    /// Keeps one more sample, which is younger than all others.
    pub fn push(&mut self, sample: Sample) {
        let kept = &mut self.0;
        kept.push_back(sample);
        if let Some(leaves) = kept.len().checked_sub(RECENT + 1).filter(|at| *at > 0)
            && kept[leaves]
                .at
                .saturating_duration_since(kept[leaves - 1].at)
                < COARSE
        {
            kept.remove(leaves);
        }
        let excess = kept.len().saturating_sub(SAMPLES);
        kept.drain(..excess);
    }

    /// The last sample.
    #[must_use]
    pub fn last(&self) -> Option<&Sample> {
        self.0.back()
    }

    /// How many processors were used on average over a time, or over the next longer one that is known of, or over all
    /// that is; none if nothing is.
    #[must_use]
    pub fn cpu(&self, window: Duration) -> Option<f64> {
        let last = self.last()?;
        let age = |sample: &&Sample| last.at.saturating_duration_since(sample.at);
        // A timer is never quite on time.
        let is_before = |sample: &&Sample| age(sample) + window / 10 >= window;
        let first = self.0.iter().rev().find(is_before).or(self.0.front())?;
        let span = age(&first).as_secs_f64();
        (span > 0.0).then(|| ((last.cpu - first.cpu) / span).max(0.0))
    }

    /// How many bytes of memory it had on average over a time.
    #[must_use]
    pub fn memory(&self, window: Duration) -> Option<u64> {
        let samples = self.within(window);
        let count = samples.clone().count() as u64;
        let sum: u64 = samples.map(|sample| sample.memory).sum();
        sum.checked_div(count)
    }

    /// By how many bytes a second the memory has grown over a minute; none before half of that is known of.
    #[must_use]
    pub fn slope(&self) -> Option<f64> {
        let last = self.last()?;
        let samples: Vec<(f64, f64)> = self
            .within(SLOPE)
            .map(|sample| {
                let age = last.at.saturating_duration_since(sample.at);
                (-age.as_secs_f64(), sample.memory as f64)
            })
            .collect();
        let count = samples.len() as f64;
        let is_known = samples
            .iter()
            .any(|(age, _)| *age <= -SLOPE.as_secs_f64() / 2.0);
        if !is_known {
            return None;
        }
        let mean = |of: fn(&(f64, f64)) -> f64| samples.iter().map(of).sum::<f64>() / count;
        let (time, memory) = (mean(|it| it.0), mean(|it| it.1));
        let covariance: f64 = samples
            .iter()
            .map(|it| (it.0 - time) * (it.1 - memory))
            .sum();
        let variance: f64 = samples.iter().map(|it| (it.0 - time).powi(2)).sum();
        (variance > 0.0).then(|| covariance / variance)
    }

    /// How much it has grown, if it has steadily: over [`GROWTH_SPAN`] by [`GROWTH_LEAST`], in steps of some seconds
    /// of which four of five go up and none goes down by more than a hundredth.
    #[must_use]
    pub fn growth(&self) -> Option<Growth> {
        let last = *self.last()?;
        let mut steps: Vec<Sample> = Vec::new();
        // The last sample before that time is where it begins.
        let age = |sample: &Sample| last.at.saturating_duration_since(sample.at);
        let start = self
            .0
            .iter()
            .rposition(|sample| age(sample) >= GROWTH_SPAN)?;
        for sample in self.0.range(start..) {
            let is_next =
                |before: &Sample| sample.at.saturating_duration_since(before.at) >= COARSE;
            if steps.last().is_none_or(is_next) {
                steps.push(*sample);
            }
        }
        let first = *steps.first()?;
        let rises = steps
            .windows(2)
            .filter(|pair| pair[1].memory > pair[0].memory)
            .count();
        let falls = |pair: &[Sample]| pair[1].memory < pair[0].memory - pair[0].memory / 100;
        let count = steps.len() - 1;
        let is_steady =
            count >= GROWTH_STEPS && rises * 5 >= count * 4 && !steps.windows(2).any(falls);
        let grown = last.memory.saturating_sub(first.memory);
        (is_steady && grown >= GROWTH_LEAST).then_some(Growth {
            since: first.at,
            from: first.memory,
            to: last.memory,
        })
    }

    fn within(&self, window: Duration) -> impl Iterator<Item = &Sample> + Clone {
        let last = self.last().map(|last| last.at);
        let is_within = move |sample: &&Sample| {
            last.is_some_and(|last| last.saturating_duration_since(sample.at) <= window)
        };
        self.0.iter().rev().take_while(is_within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const MIB: u64 = 1 << 20;

    /// A sample at each of these seconds, with what was used.
    fn history(seconds: impl Iterator<Item = u32>, used: impl Fn(u32) -> (f64, u64)) -> History {
        let (start, mut history) = (Instant::now(), History::default());
        for second in seconds {
            let (cpu, memory) = used(second);
            history.push(Sample {
                at: start + SECOND * second,
                cpu,
                memory,
            });
        }
        history
    }

    fn cpu(history: &History) -> Vec<f64> {
        let over = |seconds| history.cpu(SECOND * seconds).expect("it is known");
        [1, 10, 60].map(over).into()
    }

    #[test]
    fn averages_over_windows() {
        // Half a processor, and a whole one in the last second.
        let used = |second| {
            (
                f64::from(second) / 2.0 + if second == 100 { 0.5 } else { 0.0 },
                MIB,
            )
        };
        let history = history(0..=100, used);
        let over = cpu(&history);
        assert!((over[0] - 1.0).abs() < 1e-9, "{over:?}");
        assert!((over[1] - 0.55).abs() < 0.01, "{over:?}");
        assert!((over[2] - 0.5).abs() < 0.02, "{over:?}");
        assert_eq!(history.memory(SECOND * 10), Some(MIB));
        assert_eq!(history.slope(), Some(0.0));
        assert!(history.0.len() <= SAMPLES, "{}", history.0.len());
    }

    #[test]
    fn what_is_not_known() {
        let one = history(0..1, |_| (0.0, MIB));
        assert_eq!(one.cpu(SECOND), None);
        assert_eq!((one.slope(), one.growth()), (None, None));
        let none = History::default();
        assert_eq!((none.cpu(SECOND), none.memory(SECOND)), (None, None));
        // Only now and then: over the time there is.
        let rare = history([0, 15].into_iter(), |second| (f64::from(second), MIB));
        assert_eq!(cpu(&rare), [1.0, 1.0, 1.0]);
    }

    #[test]
    fn an_hour_is_forty_samples() {
        let history = history(0..3600, |second| (0.0, u64::from(second)));
        assert_eq!(history.0.len(), SAMPLES);
        let slope = history.slope().expect("it is known");
        assert!((slope - 1.0).abs() < 1e-6, "{slope}");
        assert!(history.growth().is_none(), "an hour of nothing");
    }

    #[test]
    fn steady_growth_is_one_that_goes_on() {
        let growth = |memory: fn(u64) -> u64| {
            let memory = |second: u32| (0.0, memory(second.into()));
            let (fine, rare) = (
                history(0..=200, memory),
                history((0..=210).step_by(15), memory),
            );
            let grows = [fine.growth().is_some(), rare.growth().is_some()];
            assert_eq!(grows[0], grows[1], "{fine:?} {rare:?}");
            grows[0]
        };
        assert!(growth(|second| second * 2 * MIB));
        // Too little, one leap, up and down, only at first.
        assert!(!growth(|second| second * MIB));
        assert!(!growth(|second| if second < 100 {
            MIB
        } else {
            4096 * MIB
        }));
        assert!(!growth(|second| (second + second % 30 * 20) * 2 * MIB));
        assert!(!growth(|second| second.min(90) * 8 * MIB));
        let short = history(0..150, |second| (0.0, u64::from(second) * 100 * MIB));
        assert_eq!(short.growth(), None);
    }
}
