//! Waiting for something that must happen: without sleeping, and never for ever.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::watch;
use tokio::time::timeout;

/// How long anything may take before its test fails; far more than it takes on a slow, busy machine.
pub const LIMIT: Duration = Duration::from_secs(30);

/// Waits for `future`, and fails the test after [`LIMIT`] with what was waited for.
pub async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = timeout(LIMIT, future).await;
    output.unwrap_or_else(|_| panic!("waited {LIMIT:?} in vain for {what}"))
}

/// A value that one side changes and the other waits for.
///
/// It wraps [`watch`], whose sender lets the value be changed in place and whose receivers never miss the last change.
pub struct Watched<T>(watch::Sender<T>);

impl<T> Watched<T> {
    pub fn new(value: T) -> Self {
        Self(watch::Sender::new(value))
    }

    /// Looks at the value, without waiting.
    pub fn read<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.0.borrow())
    }

    /// Changes the value and wakes all who wait.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut result = None;
        self.0.send_modify(|value| result = Some(change(value)));
        result.expect("send_modify runs its closure once")
    }

    /// Waits without a limit until `pick` finds what it looks for in the value.
    pub async fn until<R>(&self, mut pick: impl FnMut(&T) -> Option<R>) -> R {
        let mut receiver = self.0.subscribe();
        loop {
            if let Some(found) = pick(&receiver.borrow_and_update()) {
                return found;
            }
            receiver.changed().await.expect("self keeps the sender");
        }
    }
}

/// What a process has printed on one of its streams.
#[derive(Default, Clone)]
pub struct Printed {
    pub text: String,
    /// True once the last process that could print here has ended.
    pub complete: bool,
}

/// Collects what arrives on a stream, in the background, for as long as there is more.
pub fn collect(mut stream: impl AsyncRead + Unpin + Send + 'static) -> Arc<Watched<Printed>> {
    let printed = Arc::new(Watched::new(Printed::default()));
    let to = printed.clone();
    tokio::spawn(async move {
        let mut piece = vec![0; 16 * 1024];
        // A character that the pieces cut in two is kept for the next one.
        let mut rest = Vec::new();
        while let Ok(count @ 1..) = stream.read(&mut piece).await {
            rest.extend_from_slice(&piece[..count]);
            let whole = match std::str::from_utf8(&rest) {
                Err(error) if error.error_len().is_none() => error.valid_up_to(),
                _ => rest.len(),
            };
            let text = String::from_utf8_lossy(&rest[..whole]).into_owned();
            rest.drain(..whole);
            to.change(|printed| printed.text.push_str(&text));
        }
        to.change(|printed| printed.complete = true);
    });
    printed
}
