//! The daemon's monitor at work: its task, which feeds the monitors and tells what they find, and what the rest of the
//! daemon has of it.
//!
//! Nobody waits for the task who is not asked by a user: samples that it has no room for are left out and counted.
//! It knows when to look, and nothing of what there is to find.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::{MissedTickBehavior, sleep_until};

use super::{Alert, Moment, Question, Reason, ResourceMonitor, Sample, Who, log, watchdog};
use crate::client;
use crate::hub::{Hub, News, Reason as NewsReason};
use crate::session::SessionId;

/// The most samples and questions that wait for the monitor; further samples are left out and counted.
pub const INBOX: usize = 256;

/// How many alerts are kept for who follows them; who is further behind is told how many it has missed.
pub const ALERTS: usize = 256;

/// How long an agent's goodbye waits for room among what the monitor has to read.
const GOODBYE_WAIT: Duration = Duration::from_secs(10);

/// What the rest of the daemon has of the monitor.
pub struct Handle {
    inbox: mpsc::Sender<Mail>,
    alerts: broadcast::Sender<Alert>,
    /// How often agents are to say how their processes stand.
    pub interval: Duration,
    /// How many samples were left out because the monitor did not keep up.
    left_out: AtomicU64,
}

/// What other tasks tell the monitor.
enum Mail {
    /// An agent's sample, and how long it took to read.
    Sample(SessionId, u64, Box<Sample>, Duration),
    /// An agent has said something that is left out.
    Dropped(SessionId, u64, String),
    /// An agent is gone.
    Gone(SessionId, u64),
    /// A client has come, which has heard of no finding yet.
    Came(Arc<client::Handle>),
    /// Somebody wants to know something.
    Ask(Question, oneshot::Sender<Value>),
}

impl Handle {
    /// An agent says how its process stands: the body of its event.
    pub(crate) fn sample(&self, session: SessionId, agent: u64, body: &str) {
        let start = Instant::now();
        let mail = match Sample::read(body) {
            Ok(sample) => Mail::Sample(session, agent, Box::new(sample), start.elapsed()),
            Err(why) => Mail::Dropped(session, 1, why),
        };
        self.tell(mail);
    }

    /// An agent says more than it should, and it is left out.
    pub(crate) fn dropped(&self, session: SessionId, count: u64) {
        self.tell(Mail::Dropped(
            session,
            count,
            "samples that came too soon after another".into(),
        ));
    }

    /// A process is not watched as its environment says, because that cannot be.
    pub(crate) fn amiss(&self, session: SessionId, why: String) {
        self.tell(Mail::Dropped(session, 1, why));
    }

    /// A client is told of the findings that stand.
    pub(crate) fn came(&self, client: Arc<client::Handle>) {
        self.tell(Mail::Came(client));
    }

    /// An agent is gone. Nobody says so again, so it waits for its turn where a sample would be left out.
    pub(crate) async fn gone(&self, session: SessionId, agent: u64) {
        let mail = Mail::Gone(session, agent);
        if self.inbox.send_timeout(mail, GOODBYE_WAIT).await.is_err() {
            tracing::debug!(%session, "the monitor was not told that an agent is gone");
        }
    }

    fn tell(&self, mail: Mail) {
        if self.inbox.try_send(mail).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What somebody wants to know; nothing if the daemon stops.
    pub async fn ask(&self, question: Question) -> Option<Value> {
        let (tx, rx) = oneshot::channel();
        self.inbox.send(Mail::Ask(question, tx)).await.ok()?;
        let mut answer = rx.await.ok()?;
        answer["summary"]["samplesLeftOut"] = self.left_out.load(Ordering::Relaxed).into();
        Some(answer)
    }

    /// The alerts from now on.
    #[must_use]
    pub fn alerts(&self) -> broadcast::Receiver<Alert> {
        self.alerts.subscribe()
    }

    /// Tells those who follow the alerts.
    pub(crate) fn publish(&self, alert: &Alert) {
        // There may be none.
        let _ = self.alerts.send(alert.clone());
    }
}

/// Writes a finding to the daemon's log.
pub(crate) fn trace(Alert { reason, finding }: &Alert) {
    // Under a name of its own: `message` is what the event itself is called by.
    let (id, kind, what) = (finding.id, json!(finding.kind), &*finding.message);
    // No warning, which would come among the words of a program under `dbgproxy run`: it is the program's matter.
    match reason {
        Reason::Opened => tracing::info!(id, %kind, what, "finding"),
        Reason::Repeated => tracing::info!(id, %kind, what, "a finding lasts"),
        Reason::Ended => tracing::info!(id, %kind, what, "a finding has ended"),
    }
}

/// Starts the monitor's task, unless the user wants none.
pub(crate) fn start(hub: &Arc<Hub>) {
    let Some(interval) = hub.config.monitoring.interval else {
        return;
    };
    let (tx, inbox) = mpsc::channel(INBOX);
    let handle = Handle {
        inbox: tx,
        alerts: broadcast::Sender::new(ALERTS),
        interval,
        left_out: AtomicU64::new(0),
    };
    // Before anybody can come.
    let news = hub.news();
    if hub.set_monitor(handle) {
        hub.tasks.spawn(run(hub.clone(), interval, news, inbox));
    }
}

/// The monitor's task.
async fn run(
    hub: Arc<Hub>,
    interval: Duration,
    mut news: broadcast::Receiver<News>,
    mut inbox: mpsc::Receiver<Mail>,
) {
    let mut monitor = ResourceMonitor::new(hub.config.monitoring.clone(), Instant::now());
    let mut log = hub.config.monitoring.log.as_deref().and_then(|path| {
        let log = log::Log::start(path);
        log.inspect_err(|error| tracing::warn!("{error:#}")).ok()
    });
    let mut summary = tokio::time::interval(log::SUMMARY_INTERVAL);
    summary.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut tick = tokio::time::interval(interval);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let who = |session: SessionId| hub.who(session);
    loop {
        let (start, moment);
        let system = monitor.system.next_look(Instant::now());
        tokio::select! {
            heard = news.recv() => {
                (start, moment) = begin(&who);
                match heard {
                    Ok(News { reason: NewsReason::Closed, session }) => monitor.on_end(&moment, &session),
                    Ok(News { session, .. }) => monitor.on_session(&session, moment.now),
                    Err(RecvError::Lagged(_)) => catch_up(&hub, &mut monitor, &moment),
                    Err(RecvError::Closed) => break,
                }
            }
            mail = inbox.recv() => {
                (start, moment) = begin(&who);
                match mail {
                    Some(Mail::Sample(session, agent, sample, read)) => {
                        monitor.worked += read;
                        if hub.session(session).is_some() {
                            monitor.on_sample(&moment, session, agent, *sample);
                        } else if let Some(info) = hub.ended_session(session) {
                            monitor.on_last_sample(&moment, &info, *sample);
                        }
                    }
                    Some(Mail::Dropped(session, count, why)) => {
                        if hub.session(session).is_some() {
                            monitor.on_dropped(session, count, why);
                        }
                    }
                    Some(Mail::Gone(session, agent)) => monitor.on_gone(session, agent, moment.now),
                    Some(Mail::Came(client)) => {
                        for alert in monitor.findings.standing() {
                            hub.alert_to(&client, &alert);
                        }
                    }
                    Some(Mail::Ask(Question { part, selector }, reply)) => {
                        let infos = hub.infos(&selector);
                        monitor.system.daemon = hub.figures();
                        // Who has given up misses nothing.
                        let _ = reply.send(monitor.report(&moment, part, &infos));
                    }
                    None => break,
                }
            }
            _ = tick.tick(), if monitor.is_busy() => {
                (start, moment) = begin(&who);
                for (session, stop) in monitor.watchdogs.unasked() {
                    hub.tasks.spawn(watchdog::ask(hub.clone(), session, stop));
                }
                tell(&hub, &mut log, moment.time, &monitor.look(&moment));
            }
            () = sleep_until(system.unwrap_or_else(Instant::now).into()), if system.is_some() => {
                (start, moment) = begin(&who);
                monitor.system.look(moment.now);
                tell(&hub, &mut log, moment.time, &monitor.look(&moment));
            }
            _ = summary.tick(), if log.is_some() => {
                (start, moment) = begin(&who);
                if let Some(log) = &mut log {
                    log.summary(moment.time, monitor.statistics(moment.now));
                }
            }
            () = hub.stop.cancelled() => break,
        }
        monitor.worked += start.elapsed();
    }
    if let Some(log) = log {
        log.end().await;
    }
}

/// Tells what has become of findings to all who want to know.
fn tell(hub: &Hub, log: &mut Option<log::Log>, time: Timestamp, alerts: &[Alert]) {
    for alert in alerts {
        hub.alert(alert);
        if let Some(log) = log {
            log.alert(time, alert);
        }
    }
}

fn begin<'a>(who: &'a dyn Fn(SessionId) -> Option<Who>) -> (Instant, Moment<'a>) {
    let now = Instant::now();
    let time = Timestamp::now();
    (now, Moment { now, time, who })
}

/// News were missed: looks what there is.
fn catch_up(hub: &Hub, monitor: &mut ResourceMonitor, moment: &Moment<'_>) {
    for session in hub.sessions() {
        monitor.on_session(&session.info(), moment.now);
    }
    for session in monitor.known() {
        if hub.session(session).is_some() {
            continue;
        }
        match hub.ended_session(session) {
            Some(info) => monitor.on_end(moment, &info),
            None => {
                monitor.forget(session);
                monitor.clocks.forget(session);
                monitor.system.forget(session);
                monitor.watchdogs.forget(session);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::tests::SECOND;
    use super::*;

    #[tokio::test]
    async fn that_an_agent_is_gone_is_not_left_out() {
        let (tx, mut inbox) = mpsc::channel(1);
        let handle = Handle {
            inbox: tx,
            alerts: broadcast::Sender::new(1),
            interval: SECOND,
            left_out: AtomicU64::new(0),
        };
        let id = Uuid::from_u128(1);
        handle.sample(id, 1, "{}");
        handle.sample(id, 1, "{}");
        assert_eq!(handle.left_out.load(Ordering::Relaxed), 1);
        let read = async {
            tokio::task::yield_now().await;
            (inbox.recv().await, inbox.recv().await)
        };
        let ((), (first, last)) = tokio::join!(handle.gone(id, 1), read);
        assert!(matches!(first, Some(Mail::Sample(..))));
        assert!(matches!(last, Some(Mail::Gone(session, 1)) if session == id));
    }
}
