//! The clients of one session: those who watch, those who are expected, and what they are told.
//!
//! Joining is the same for everyone: a snapshot once configured, then what happens, live.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::placing::Audience;
use super::{Session, SessionId, Stage};
use crate::breakpoints::Configuration;
use crate::client::{self, ClientId, FromSession};
use crate::config::OnLastDetach;
use crate::wire::{Message, Outbox};

/// How long a client that was told of a process may take to attach to it before user code runs, counted from
/// when it was told, or last attached to another, or was configured itself; [`CONFIGURATION_WAIT`] at most.
/// One that lets it pass is not waited for again: it ignores what it is told.
pub const ADOPTION_WAIT: Duration = Duration::from_secs(3);

/// How long a client that has attached may take to be configured before user code runs.
pub const CONFIGURATION_WAIT: Duration = Duration::from_secs(60);

/// How often expected clients are looked after while user code waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(50);

/// How long the session waits for a client's room before it leaves out what can be left out.
pub const ROOM_WAIT: Duration = Duration::from_millis(100);

/// How often room is looked for meanwhile.
const ROOM_INTERVAL: Duration = Duration::from_millis(1);

/// How much of the last output a newcomer is given, in bytes of its messages.
pub const OUTPUT_HISTORY: usize = 64 * 1024;

/// One client of the session.
pub(super) struct Watcher {
    pub(super) client: Arc<client::Handle>,
    pub(super) attach: Arc<client::Attach>,
    /// It has been told that its configuration may begin.
    told: bool,
    /// Its `configurationDone` has come: it has the snapshot and gets what happens.
    pub(super) configured: bool,
    /// What it has set.
    pub(super) configuration: Configuration,
    joined: Instant,
    /// Since when its mailbox is too full.
    lags_since: Option<Instant>,
    /// How many events it has lost since it began to lag.
    lost: u64,
}

impl Watcher {
    /// Passes on an event that may be left out when there is no room for it.
    fn offer(&mut self, session: SessionId, event: &Message) {
        if self.sheds() {
            self.lost += 1;
        } else {
            self.client.tell(session, FromSession::Event(event.clone()));
        }
    }

    /// Whether it has had its time to make room.
    fn sheds(&self) -> bool {
        self.lags_since
            .is_some_and(|since| since.elapsed() >= ROOM_WAIT)
    }
}

/// A client that has the process in view and may attach.
pub(super) struct Reservation {
    client: Arc<client::Handle>,
    since: Instant,
    /// It is not waited for. It stays known, for one who comes late is one who comes.
    given_up: bool,
}

impl Reservation {
    /// Whether its time has passed: some time without a sign of it, and in any case a long one.
    fn is_late(&self) -> bool {
        let sign = self.client.last_adoption().map(|sign| self.since.max(sign));
        sign.is_some_and(|sign| sign.elapsed() >= ADOPTION_WAIT)
            || self.since.elapsed() >= CONFIGURATION_WAIT
    }
}

/// The last output of a process, for newcomers.
#[derive(Default)]
pub(super) struct OutputHistory {
    events: VecDeque<Message>,
    bytes: usize,
}

impl OutputHistory {
    /// The oldest first.
    pub(super) fn events(&self) -> Vec<Message> {
        self.events.iter().cloned().collect()
    }

    pub(super) fn push(&mut self, event: &Message) {
        if event.size() > OUTPUT_HISTORY {
            return;
        }
        self.bytes += event.size();
        self.events.push_back(event.detached());
        while self.bytes > OUTPUT_HISTORY {
            self.bytes -= self.events.pop_front().map_or(0, |event| event.size());
        }
    }
}

impl Session {
    /// A client wants to watch.
    pub(super) fn join(
        &mut self,
        client: Arc<client::Handle>,
        attach: Arc<client::Attach>,
        out: &mut Outbox,
    ) {
        if self.stage == Stage::Ended {
            client.tell(self.handle.id, FromSession::Ended);
            return;
        }
        let id = client.id;
        self.consume_reservation(&client, &attach);
        tracing::info!(session = %self.handle.id, client = %id, name = client.name, "client joined");
        self.watchers.push(Watcher {
            client,
            attach,
            told: false,
            configured: false,
            configuration: Configuration::default(),
            joined: Instant::now(),
            lags_since: None,
            lost: 0,
        });
        if self.is_asleep() {
            // It is told when pydevd is there.
            self.want();
        } else if self.stage == Stage::Replaced || !self.adopt_options(id, out) {
            self.tell_joined(id);
        }
        self.publish();
    }

    /// The client's configuration may begin.
    pub(super) fn tell_joined(&mut self, client: ClientId) {
        let session = self.handle.id;
        let mut watchers = self.watchers.iter_mut();
        if let Some(watcher) = watchers.find(|watcher| watcher.client.id == client) {
            watcher.told = true;
            watcher.client.tell(session, FromSession::Joined);
        }
    }

    /// The same for all who wait for it.
    pub(super) fn tell_all_joined(&mut self) {
        for client in self.untold() {
            self.tell_joined(client);
        }
    }

    /// Those who wait for it.
    pub(super) fn untold(&self) -> Vec<ClientId> {
        let untold = self.watchers.iter().filter(|watcher| !watcher.told);
        untold.map(|watcher| watcher.client.id).collect()
    }

    /// Whether a client is expected to come.
    pub(super) fn is_expected(&self) -> bool {
        self.reservations.iter().any(|expected| !expected.given_up)
    }

    /// Whether user code is to wait for an IDE; what runs already does not.
    pub(super) fn asks_to_wait(&self) -> bool {
        !self.has_run && (self.caller.report.asks_to_wait() || self.hub.config.wait_for_ide)
    }

    /// Keeps user code waiting for a client, if it is one that comes.
    pub(super) fn reserve(&mut self, client: Arc<client::Handle>) {
        let known = self
            .reservations
            .iter()
            .any(|expected| expected.client.id == client.id);
        if !known {
            let given_up = !client.adopts();
            self.was_in_view |= given_up;
            let since = Instant::now();
            self.reservations.push(Reservation {
                client,
                since,
                given_up,
            });
        }
    }

    /// A client was told of the process.
    pub(super) fn expect(&mut self, client: Arc<client::Handle>, out: &mut Outbox) {
        match self.stage {
            Stage::Waiting => {
                self.reserve(client);
                self.try_release(out);
                self.publish();
            }
            Stage::Dormant => {
                self.reserve(client);
                self.want();
            }
            Stage::Released | Stage::Replaced | Stage::Ended => {}
        }
    }

    /// The client that was expected has come, by itself or by the session that it was to open.
    fn consume_reservation(&mut self, client: &client::Handle, attach: &client::Attach) {
        let position = self
            .reservations
            .iter()
            .position(|expected| expected.client.id == client.id);
        let position = position.or_else(|| {
            let is_it = |expected: &Reservation| expected.client.name == client.name;
            let named = attach.names_one();
            named
                .then(|| self.reservations.iter().position(is_it))
                .flatten()
        });
        if let Some(position) = position {
            let expected = self.reservations.remove(position);
            expected.client.has_adopted();
        }
    }

    /// A client has gone, and with it what it has set.
    pub(super) fn leave(&mut self, client: ClientId, out: &mut Outbox) {
        let Some(position) = self
            .watchers
            .iter()
            .position(|watcher| watcher.client.id == client)
        else {
            return;
        };
        let watcher = self.watchers.remove(position);
        tracing::info!(session = %self.handle.id, %client, "client left");
        if self.is_linked() {
            for changed in watcher.configuration.everything() {
                self.send_union(changed, Audience::default(), out);
            }
            self.options_owner_left(client, out);
            if self.watchers.is_empty() && self.hub.config.on_last_detach == OnLastDetach::Resume {
                self.resume_all(out);
            }
            self.tell_connected(out);
            self.try_release(out);
        }
        self.publish();
    }

    /// All clients leave, as if the process had ended for them, and it runs on.
    pub(super) fn detach(&mut self, out: &mut Outbox) {
        let clients: Vec<_> = self
            .watchers
            .iter()
            .map(|watcher| watcher.client.clone())
            .collect();
        for client in clients {
            client.tell(self.handle.id, FromSession::Ended);
            self.leave(client.id, out);
        }
        self.resume_all(out);
    }

    /// The client has configured its session: it gets the snapshot, and from now on what happens.
    pub(super) fn configured(&mut self, client: ClientId, out: &mut Outbox) {
        let Some(watcher) = self
            .watchers
            .iter_mut()
            .find(|watcher| watcher.client.id == client)
        else {
            return;
        };
        watcher.configured = true;
        // From here on it is only looked at, beside the rest of the session.
        let Some(watcher) = self.watcher(client) else {
            return;
        };
        let snapshot = self
            .process
            .iter()
            .chain(self.threads.started())
            .chain(&self.output.events);
        let snapshot = FromSession::Events(snapshot.cloned().collect());
        watcher.client.tell(self.handle.id, snapshot);
        for stop in self.threads.stops() {
            self.tell_stop(&watcher.client, stop);
        }
        self.tell_connected(out);
        self.try_release(out);
        self.publish();
    }

    pub(super) fn watcher(&self, client: ClientId) -> Option<&Watcher> {
        self.watchers
            .iter()
            .find(|watcher| watcher.client.id == client)
    }

    /// The clients that are told what happens.
    pub(super) fn live(&self) -> impl Iterator<Item = &Watcher> {
        self.watchers.iter().filter(|watcher| watcher.configured)
    }

    /// Tells every client something that none must miss.
    pub(super) fn broadcast(&self, event: &Message) {
        for watcher in self.live() {
            watcher
                .client
                .tell(self.handle.id, FromSession::Event(event.clone()));
        }
    }

    /// Tells every client several things that none must miss.
    pub(super) fn broadcast_all(&self, events: &[Message]) {
        for watcher in self.live() {
            let events = FromSession::Events(events.to_vec());
            watcher.client.tell(self.handle.id, events);
        }
    }

    /// Tells every client something that one who cannot keep up may miss.
    pub(super) fn offer(&mut self, event: &Message) {
        let session = self.handle.id;
        for watcher in self
            .watchers
            .iter_mut()
            .filter(|watcher| watcher.configured)
        {
            watcher.offer(session, event);
        }
    }

    /// Until when to wait for room before more is read from the process.
    pub(super) fn wait_for_room(&mut self) -> Option<Instant> {
        let mut waits = false;
        for watcher in self
            .watchers
            .iter_mut()
            .filter(|watcher| watcher.configured)
        {
            match watcher.lags_since {
                None if watcher.client.lags() => {
                    watcher.lags_since = Some(Instant::now());
                    waits = true;
                }
                None => {}
                Some(_) if watcher.client.has_caught_up() => {
                    watcher.lags_since = None;
                    if watcher.lost > 0 {
                        tracing::warn!(client = %watcher.client.id, lost = watcher.lost, "a slow client has lost events");
                        watcher.client.tell(self.handle.id, FromSession::Notice(format!(
                            "{} events (output, modules) were left out because this client was too slow",
                            std::mem::take(&mut watcher.lost)
                        )));
                    }
                }
                Some(_) => waits |= !watcher.sheds(),
            }
        }
        waits.then(|| Instant::now() + ROOM_INTERVAL)
    }

    /// When to look again whether a client that lags has caught up; the look itself is [`Self::wait_for_room`].
    pub(super) fn look_for_room(&self) -> Option<Instant> {
        let lags = self
            .watchers
            .iter()
            .any(|watcher| watcher.lags_since.is_some());
        lags.then(|| Instant::now() + ROOM_WAIT)
    }

    /// When to look again after those for whom user code waits.
    pub(super) fn waiting_until(&self) -> Option<Instant> {
        let waits = !self.reservations.is_empty()
            || self.watchers.iter().any(|watcher| !watcher.configured);
        (waits && self.stage == Stage::Waiting).then(|| self.checked + CHECK_INTERVAL)
    }

    /// Looks after those for whom user code waits.
    pub(super) fn expire(&mut self, out: &mut Outbox) {
        self.checked = Instant::now();
        let session = &self.handle;
        let announcer = self.hub.announcer(session);
        self.reservations.retain(|Reservation { client, .. }| {
            !client.is_gone() && (client.has_in_view(session, announcer) || client.is_in(session))
        });
        for expected in &mut self.reservations {
            if !expected.given_up && expected.is_late() {
                tracing::info!(session = %session.id, client = %expected.client.id, "the client did not attach; no process waits for it again");
                expected.client.has_ignored();
                expected.given_up = true;
                self.was_in_view = true;
            }
        }
        self.try_release(out);
        self.publish();
    }

    /// A client will not attach to the process.
    pub(super) fn decline(&mut self, client: ClientId, out: &mut Outbox) {
        for expected in &mut self.reservations {
            expected.given_up |= expected.client.id == client;
        }
        self.was_in_view = true;
        self.try_release(out);
        self.publish();
    }

    /// Lets user code run, unless somebody is to come first.
    pub(super) fn try_release(&mut self, out: &mut Outbox) {
        if self.stage != Stage::Waiting {
            return;
        }
        let someone = self.live().next().is_some();
        let coming = self.is_expected()
            || self.watchers.iter().any(|watcher| {
                !watcher.configured && watcher.joined.elapsed() < CONFIGURATION_WAIT
            });
        let held = self.asks_to_wait();
        let released =
            self.caller.report.is_helper() || !coming && (someone || self.was_in_view || !held);
        if released {
            self.release(out);
        }
    }
}
