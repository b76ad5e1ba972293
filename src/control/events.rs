//! What happens to sessions, as events for whoever follows them: DAP clients that subscribed, and HTTP streams.

use serde_json::{Value, json};
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio_util::sync::CancellationToken;

use crate::hub::{Hub, News};

/// The name of the events, as DAP has it.
pub const SESSION: &str = "dbgproxy/session";

/// The events from now on.
pub struct Events {
    news: Receiver<News>,
    stop: CancellationToken,
}

impl Events {
    /// Follows what happens from now on.
    #[must_use]
    pub fn follow(hub: &Hub) -> Events {
        Events {
            news: hub.news(),
            stop: hub.stop.clone(),
        }
    }

    /// What comes next; nothing when the daemon stops.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<Followed> {
        let news = tokio::select! {
            news = self.news.recv() => news,
            () = self.stop.cancelled() => return None,
        };
        match news {
            Ok(news) => Some(Followed::News(json!(news))),
            Err(RecvError::Lagged(count)) => Some(Followed::Missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// What who follows sessions is told.
pub enum Followed {
    /// The body of an event.
    News(Value),
    /// How many events were left out, because they were not read fast enough. The verb `sessions` has what is now.
    Missed(u64),
}

impl Followed {
    /// How many events it stands for.
    #[must_use]
    pub fn count(&self) -> u64 {
        match self {
            Followed::News(_) => 1,
            Followed::Missed(count) => *count,
        }
    }

    /// The body of the event [`SESSION`] that says it.
    #[must_use]
    pub fn body(self) -> Value {
        match self {
            Followed::News(body) => body,
            Followed::Missed(count) => json!({ "reason": "missed", "count": count }),
        }
    }
}
