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

    /// The body of the next event, [`SESSION`]; none when the daemon stops.
    ///
    /// Who is too slow is told how many it has missed, and finds them by asking for the `sessions`.
    pub async fn next(&mut self) -> Option<Value> {
        let news = tokio::select! {
            news = self.news.recv() => news,
            () = self.stop.cancelled() => return None,
        };
        match news {
            Ok(news) => Some(json!(news)),
            Err(RecvError::Lagged(count)) => Some(missed(count)),
            Err(RecvError::Closed) => None,
        }
    }
}

/// The body of an event that stands for some that were left out.
#[must_use]
pub fn missed(count: u64) -> Value {
    json!({ "reason": "missed", "count": count })
}
