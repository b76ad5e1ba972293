//! What happens to sessions, and what the monitor finds, as events for whoever follows them: DAP clients that subscribed,
//! and HTTP streams.

use std::future;

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, News};
use crate::monitor::Alert;

/// The name of the events of sessions, as DAP has it.
pub const SESSION: &str = "dbgproxy/session";

/// The name of the events of findings.
pub const ALERT: &str = "dbgproxy/alert";

/// The events from now on.
pub struct Events {
    news: Receiver<News>,
    /// None if nothing is monitored.
    alerts: Option<Receiver<Alert>>,
    stop: CancellationToken,
}

impl Events {
    /// Follows what happens from now on.
    #[must_use]
    pub fn follow(hub: &Hub) -> Events {
        Events {
            news: hub.news(),
            alerts: hub.monitor().map(|monitor| monitor.alerts()),
            stop: hub.stop.clone(),
        }
    }

    /// What comes next; nothing when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Followed> {
        let alert = async {
            match &mut self.alerts {
                Some(alerts) => alerts.recv().await,
                None => future::pending().await,
            }
        };
        let next = tokio::select! {
            news = self.news.recv() => news.map(|news| Followed::News(json!(news))),
            alert = alert => alert.map(|alert| Followed::Alert(json!(alert))),
            () = self.stop.cancelled() => return None,
        };
        match next {
            Ok(next) => Some(next),
            Err(RecvError::Lagged(count)) => Some(Followed::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// What who follows the daemon is told.
pub enum Followed {
    /// The body of an event of a session.
    News(Value),
    /// The body of an event of a finding.
    Alert(Value),
    /// How many events were left out, because they were not read fast enough. The verbs `sessions` and `report` have
    /// what is now.
    Missed(u64),
}

impl Followed {
    /// How many events it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Followed::News(_) | Followed::Alert(_) => 1,
            Followed::Missed(count) => *count,
        }
    }

    /// The name and the body of the event that says it.
    #[must_use]
    pub fn event(self) -> (&'static str, Value) {
        match self {
            Followed::News(body) => (SESSION, body),
            Followed::Alert(body) => (ALERT, body),
            Followed::Missed(count) => (SESSION, json!({ "reason": "missed", "count": count })),
        }
    }
}
