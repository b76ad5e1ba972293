//! Dormancy: a process whose agent sleeps, without a debug server, until somebody wants to look.
//!
//! It is activated when somebody needs it and deactivated when nobody does any more. What was asked of it meanwhile is
//! kept, and carried out when pydevd is there.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::asker::Asker;
use super::{Arrival, Caller, Handle, Mail, Session, SessionId, Stage, begin};
use crate::agent::{self, FromAgent, How};
use crate::client::FromSession;
use crate::hub::Hub;
use crate::pump::Peer;
use crate::wire::{Message, Outbox};

/// How long an agent may take to bring pydevd, or to take it out: it imports debugpy, from a slow disk, on a busy machine.
pub const ACTIVATION_WAIT: Duration = Duration::from_secs(30);

/// How long pydevd stays in a process that nobody needs it in: clients come back, and verbs come one after the other.
pub const LINGER: Duration = Duration::from_secs(5);

/// The most requests that wait for a process to be activated; further ones are refused.
const MAX_WAITING: usize = 256;

/// How far the activation of a dormant process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Activation {
    /// It is not wanted.
    #[default]
    None,
    /// The agent was asked for it.
    Asked(Instant),
    /// It has failed; it is tried again for the next who asks.
    Failed,
}

/// What a session has of its agent, if its process has one.
#[derive(Default)]
pub(super) struct Dormancy {
    pub(super) agent: Option<agent::Handle>,
    /// An agent has spoken for the process, and will again if another program takes its place.
    pub(super) is_known: bool,
    activation: Activation,
    /// What is to be asked once pydevd is there.
    waiting: Vec<(Asker, Question)>,
    /// Since when nobody has needed pydevd.
    idle_since: Option<Instant>,
    /// Since when the agent is to take pydevd out.
    leaving: Option<Instant>,
}

/// Something to be asked of a process.
pub(super) enum Question {
    /// pydevd is to answer it.
    Request(Box<Message>),
    /// The guard is to answer it.
    Guard(&'static str, Box<serde_json::Value>),
    /// What becomes of the daemon's own breakpoints in a file.
    Stored(Box<str>),
}

/// The session of an agent that has said hello: the one that its process has already, or a new one.
pub(crate) fn for_agent(hub: &Arc<Hub>, agent: &agent::Handle, caller: Caller) -> Arc<Handle> {
    let mut caller = Box::new(caller);
    if let Some(known) = hub.session_of(&caller) {
        match known.inbox.try_send(Mail::Agent(agent.clone(), caller)) {
            Ok(()) => return known,
            // It has just ended, or has no room: the process is a session of its own then.
            Err(error) => match error.into_inner() {
                Mail::Agent(_, back) => caller = back,
                _ => return known,
            },
        }
    }
    begin(hub, Arrival::Agent(agent.clone(), *caller))
}

impl Session {
    /// Whether there is a debug server to speak to.
    pub(super) fn is_linked(&self) -> bool {
        matches!(self.stage, Stage::Waiting | Stage::Released)
    }

    /// Whether there is none to speak to, or soon none: what it was asked now it would not answer.
    pub(super) fn is_asleep(&self) -> bool {
        self.stage == Stage::Dormant
            || self.stage == Stage::Released && self.dormancy.leaving.is_some()
    }

    /// Whether somebody needs pydevd in the process.
    fn is_wanted(&self) -> bool {
        let dormancy = &self.dormancy;
        let is_held = !self.caller.report.is_helper() && self.asks_to_wait();
        !self.watchers.is_empty()
            || self.is_expected()
            || is_held
            || self.terminating
            || self.stored.holds_any()
            || self.awaiting.is_any()
            || !dormancy.waiting.is_empty()
    }

    /// Asks the agent for pydevd, if it is wanted and not there.
    fn activate_if_wanted(&mut self) {
        if self.stage == Stage::Dormant
            && self.dormancy.activation == Activation::None
            && self.is_wanted()
            && let Some(agent) = &self.dormancy.agent
        {
            tracing::info!(session = %self.handle.id, "process is activated");
            self.dormancy.activation = Activation::Asked(Instant::now());
            if !agent.tell(agent::Mail::Activate) {
                if agent.is_gone() {
                    // Another program is taking the place of its own, or it has ended.
                    self.dormancy.agent = None;
                    self.dormancy.activation = Activation::None;
                } else {
                    self.on_activation_failed("its agent does not listen");
                }
            }
        }
    }

    /// Somebody needs the process: a failure of the past does not count.
    pub(super) fn want(&mut self) {
        if self.dormancy.activation == Activation::Failed {
            self.dormancy.activation = Activation::None;
        }
    }

    /// Keeps a question until pydevd is there.
    pub(super) fn ask_later(&mut self, asker: Asker, question: Question) {
        if self.dormancy.waiting.len() >= MAX_WAITING {
            return asker.fail("too much waits already for the process to be activated");
        }
        self.want();
        self.dormancy.waiting.push((asker, question));
    }

    /// pydevd is there: what has waited for it is asked.
    pub(super) fn on_activated(&mut self, out: &mut Outbox) {
        self.dormancy.activation = Activation::None;
        self.dormancy.idle_since = None;
        self.dormancy.leaving = None;
        self.ask_waiting(out);
    }

    /// pydevd has not left after all: who has come meanwhile is let in.
    fn stay(&mut self, out: &mut Outbox) {
        if self.dormancy.leaving.take().is_none() || !self.is_linked() {
            return;
        }
        for client in self.untold() {
            if !self.adopt_options(client, out) {
                self.tell_joined(client);
            }
        }
        self.ask_waiting(out);
        self.publish();
    }

    fn ask_waiting(&mut self, out: &mut Outbox) {
        for (asker, question) in std::mem::take(&mut self.dormancy.waiting) {
            if asker.has_given_up() {
                continue;
            }
            match question {
                Question::Request(message) => self.on_ask(asker, &message, out),
                Question::Guard(function, argument) => {
                    self.ask_guard(function, &argument, asker, out);
                }
                Question::Stored(file) => self.take_stored(&file, Some(asker), out),
            }
        }
    }

    /// pydevd will not come: whoever waits for it is told why, and leaves.
    fn on_activation_failed(&mut self, why: &str) {
        tracing::warn!(session = %self.handle.id, why, "the process cannot be activated");
        self.dormancy.activation = Activation::Failed;
        self.terminating = false;
        self.reservations.clear();
        self.awaiting.tell(&Err(why.to_owned()));
        for (asker, _) in std::mem::take(&mut self.dormancy.waiting) {
            asker.fail(why);
        }
        let name = self.handle.info().name.clone();
        for watcher in std::mem::take(&mut self.watchers) {
            let text = format!("{name} cannot be debugged: {why}");
            watcher
                .client
                .tell(self.handle.id, FromSession::Notice(text));
            watcher.client.tell(self.handle.id, FromSession::Ended);
        }
        self.publish();
    }

    /// The session goes to sleep, or is asleep from the start.
    pub(super) fn be_dormant(&mut self) {
        self.lose_link(Stage::Dormant);
        self.dormancy.activation = Activation::None;
        self.dormancy.leaving = None;
        self.activate_if_wanted();
    }

    /// An agent speaks for the process: from its start, after an exec, or after it had lost us.
    pub(super) fn on_agent(&mut self, agent: agent::Handle, caller: Caller) {
        let is_same_program = caller.how == How::Reconnect;
        self.caller.how = caller.how;
        if let Some(old) = self.dormancy.agent.replace(agent.clone()) {
            old.tell(agent::Mail::Close);
        }
        if !is_same_program {
            self.renew(caller);
            self.has_run = false;
        }
        if self.is_linked() {
            if is_same_program {
                agent.tell(agent::Mail::Welcome(self.handle.id, false));
                return;
            }
            // The debug server of the program that was there before is gone, or will be.
            self.is_over = true;
            self.lose_link(Stage::Dormant);
        }
        self.welcome(&agent);
    }

    /// Answers an agent's hello, and sleeps unless somebody wants to look.
    pub(super) fn welcome(&mut self, agent: &agent::Handle) {
        self.stage = Stage::Dormant;
        self.has_run |= self.caller.how == How::Reconnect;
        self.dormancy.is_known = true;
        let activate = self.is_wanted();
        self.has_run |= !activate;
        self.dormancy.activation = match activate {
            true => Activation::Asked(Instant::now()),
            false => Activation::None,
        };
        agent.tell(agent::Mail::Welcome(self.handle.id, activate));
        self.publish();
    }

    /// The agent says something.
    pub(super) fn on_agent_mail(&mut self, number: u64, what: FromAgent, out: &mut Outbox) {
        let is_ours = |agent: &agent::Handle| agent.number == number;
        if !self.dormancy.agent.as_ref().is_some_and(is_ours) {
            return;
        }
        match what {
            FromAgent::Report(report) => self.on_report(*report, out),
            FromAgent::Failed(why) if self.stage == Stage::Dormant => {
                // If it was to wait, it does so no more.
                self.has_run = true;
                self.on_activation_failed(&why);
            }
            FromAgent::Failed(_) => {}
            FromAgent::Stays => self.stay(out),
            FromAgent::Exiting(code) => {
                self.is_exiting = true;
                if code.is_some() {
                    self.handle.update(|info| info.exit = info.exit.or(code));
                }
            }
            FromAgent::Gone => {
                self.dormancy.agent = None;
                self.stay(out);
            }
        }
    }

    /// When a dormant process is to be given up that was to be activated.
    pub(super) fn activation_until(&self) -> Option<Instant> {
        match self.dormancy.activation {
            Activation::Asked(since) => Some(since + ACTIVATION_WAIT),
            Activation::None | Activation::Failed => None,
        }
    }

    /// It has not come in time.
    pub(super) fn expire_activation(&mut self) {
        if self
            .activation_until()
            .is_some_and(|until| until <= Instant::now())
        {
            let why = format!("pydevd did not come within {} s", ACTIVATION_WAIT.as_secs());
            self.on_activation_failed(&why);
        }
    }

    /// Notes since when nobody has needed pydevd.
    pub(super) fn look_idle(&mut self) {
        let is_idle = self.dormancy.agent.is_some()
            && self.stage == Stage::Released
            && !self.is_wanted()
            && !self.threads.any_stopped()
            && !self.owes_answers();
        match (is_idle, self.dormancy.idle_since) {
            (true, None) => self.dormancy.idle_since = Some(Instant::now()),
            (false, Some(_)) => self.dormancy.idle_since = None,
            _ => {}
        }
    }

    /// When pydevd is to leave the process, or to have left it.
    pub(super) fn idle_until(&self) -> Option<Instant> {
        let Dormancy {
            leaving,
            idle_since,
            ..
        } = &self.dormancy;
        let left = leaving.map(|since| since + ACTIVATION_WAIT);
        left.or(idle_since.map(|since| since + LINGER))
    }

    /// Lets pydevd leave when it is time.
    pub(super) fn leave_if_idle(&mut self, out: &mut Outbox) {
        if self.idle_until().is_none_or(|until| until > Instant::now()) {
            return;
        }
        if self.dormancy.leaving.is_some() {
            self.stay(out);
        } else if let Some(agent) = &self.dormancy.agent {
            tracing::info!(session = %self.handle.id, "nobody needs the process: it is deactivated");
            let is_told = agent.tell(agent::Mail::Deactivate);
            self.dormancy.leaving = is_told.then(Instant::now);
            self.dormancy.idle_since = None;
            self.publish();
        }
    }

    /// Handles mail without a debug server until one comes, or the process is gone.
    pub(super) async fn unlinked(
        &mut self,
        inbox: &mut mpsc::Receiver<Mail>,
    ) -> Option<(Box<crate::link::Link>, Box<Caller>)> {
        // A program that has said goodbye is about to end, unless it said so because we let it sleep.
        let ends = self.replaced || self.is_over || self.goodbye && self.dormancy.leaving.is_none();
        if self.is_linked() {
            if self.dormancy.agent.is_some() && !ends {
                self.be_dormant();
            } else {
                self.lose_link(Stage::Replaced);
            }
        }
        self.is_over = false;
        let mut lost = Instant::now();
        let mut look = tokio::time::interval(super::LOOK_INTERVAL);
        let stop = self.hub.stop.clone();
        let mut out = Outbox::default();
        loop {
            if self.stage == Stage::Dormant && self.dormancy.agent.is_none() {
                // Another program may be taking its place, or it has ended.
                if self.is_alive() != Some(true) {
                    return None;
                }
                self.lose_link(Stage::Replaced);
                lost = Instant::now();
            }
            let is_dormant = self.stage == Stage::Dormant;
            let until = match is_dormant {
                true => self.activation_until(),
                false => Some(lost + super::REPLACEMENT_WAIT),
            };
            tokio::select! {
                mail = inbox.recv() => self.mail(mail?, &mut out),
                () = super::sleep_until(until), if until.is_some() => match is_dormant {
                    true => self.expire_activation(),
                    false if self.dormancy.agent.is_some() => self.be_dormant(),
                    false => return None,
                },
                _ = look.tick(), if !is_dormant => {
                    let is_alive = self.is_alive();
                    if is_alive == Some(false) || is_alive.is_none() && self.is_exiting {
                        return None;
                    }
                }
                () = stop.cancelled() => return None,
            }
            if self.next.is_some() {
                return self.next.take();
            }
            self.activate_if_wanted();
        }
    }

    /// The id that the process is to have: its own, if nobody has it.
    pub(super) fn free_id(hub: &Hub, caller: &Caller) -> Option<SessionId> {
        caller.session.filter(|id| hub.session(*id).is_none())
    }
}
