//! Clocks that stand still: how long something has gone on while its process was let run.
//!
//! A process that a debugger stops holds its locks, and its tasks grow old, and neither is anybody's fault.
//! This module knows when sessions were stopped, and nothing of what is timed.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::session::SessionId;

/// How many stops of one process are kept apart; older ones are joined to one span that knows their sum.
const SPANS: usize = 64;

/// The clocks of the processes that were ever stopped; all others run.
#[derive(Debug, Default)]
pub struct Clocks {
    clocks: HashMap<SessionId, Clock>,
}

#[derive(Debug, Default)]
struct Clock {
    /// When it stood, the oldest first.
    spans: VecDeque<Span>,
    stopped: Option<Instant>,
}

/// A time in which a clock stood for a while.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: Instant,
    to: Instant,
    /// For how long of it.
    stood: Duration,
}

impl Span {
    /// How long the clock stood between two moments, at most.
    fn stood_in(&self, since: Instant, now: Instant) -> Duration {
        let overlap = self
            .to
            .min(now)
            .saturating_duration_since(self.from.max(since));
        overlap.min(self.stood)
    }
}

impl Clocks {
    /// A process is stopped.
    pub fn stop(&mut self, session: SessionId, now: Instant) {
        self.clocks
            .entry(session)
            .or_default()
            .stopped
            .get_or_insert(now);
    }

    /// A process runs.
    pub fn go(&mut self, session: SessionId, now: Instant) {
        let Some(clock) = self.clocks.get_mut(&session) else {
            return;
        };
        let Some(from) = clock.stopped.take() else {
            return;
        };
        let stood = now.saturating_duration_since(from);
        let to = now.max(from);
        clock.spans.push_back(Span { from, to, stood });
        if clock.spans.len() > SPANS
            && let (Some(oldest), Some(next)) = (clock.spans.pop_front(), clock.spans.front_mut())
        {
            next.from = oldest.from;
            next.stood += oldest.stood;
        }
    }

    /// A process has ended.
    pub fn forget(&mut self, session: SessionId) {
        self.clocks.remove(&session);
    }

    /// Whether its clock stands.
    #[must_use]
    pub fn is_stopped(&self, session: SessionId) -> bool {
        let clock = self.clocks.get(&session);
        clock.is_some_and(|clock| clock.stopped.is_some())
    }

    /// For how long the process has run between two moments.
    #[must_use]
    pub fn running(&self, session: SessionId, since: Instant, now: Instant) -> Duration {
        let whole = now.saturating_duration_since(since);
        whole.saturating_sub(self.stood(session, since, now))
    }

    /// For how long it stood between two moments.
    #[must_use]
    pub fn stood(&self, session: SessionId, since: Instant, now: Instant) -> Duration {
        let Some(clock) = self.clocks.get(&session) else {
            return Duration::ZERO;
        };
        let current = clock.stopped.map(|from| Span {
            from,
            to: now.max(from),
            stood: now.saturating_duration_since(from),
        });
        let spans = clock.spans.iter().chain(&current);
        spans.map(|span| span.stood_in(since, now)).sum()
    }

    /// The sessions whose clocks have stood.
    pub(super) fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.clocks.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn what_was_stopped_does_not_count() {
        let (mut clocks, id, start) = (Clocks::default(), Uuid::from_u128(1), Instant::now());
        let running = |clocks: &Clocks, from: u32, to: u32| {
            clocks.running(id, start + SECOND * from, start + SECOND * to)
        };
        assert_eq!(running(&clocks, 0, 31), SECOND * 31);
        clocks.stop(id, start + SECOND * 10);
        clocks.stop(id, start + SECOND * 20);
        assert!(clocks.is_stopped(id));
        assert_eq!(running(&clocks, 0, 40), SECOND * 10);
        assert_eq!(running(&clocks, 15, 40), Duration::ZERO);
        clocks.go(id, start + SECOND * 70);
        clocks.go(id, start + SECOND * 80);
        assert!(!clocks.is_stopped(id));
        assert_eq!(running(&clocks, 0, 91), SECOND * 31);
        assert_eq!(running(&clocks, 60, 91), SECOND * 21);
        assert_eq!(running(&clocks, 91, 60), Duration::ZERO);
        clocks.go(Uuid::from_u128(2), start);
        clocks.forget(id);
        assert_eq!(clocks.sessions().count(), 0);
    }

    #[test]
    fn a_million_stops_are_a_few_spans() {
        let (mut clocks, id, start) = (Clocks::default(), Uuid::from_u128(1), Instant::now());
        for number in 0..10_000 {
            clocks.stop(id, start + SECOND * 2 * number);
            clocks.go(id, start + SECOND * (2 * number + 1));
        }
        assert_eq!(clocks.clocks[&id].spans.len(), SPANS);
        assert_eq!(
            clocks.running(id, start, start + SECOND * 20_000),
            SECOND * 10_000
        );
    }
}
