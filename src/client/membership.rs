//! A client's place in a session: it asks through it, and dropping it is the goodbye.

use std::sync::Arc;

use tokio::sync::mpsc::OwnedPermit;
use tokio::sync::mpsc::error::TrySendError;

use super::{Attach, Handle};
use crate::session::{self, Mail};
use crate::wire::Message;

/// A client's place in a session.
pub(super) struct Membership {
    /// The session.
    pub(super) session: Arc<session::Handle>,
    client: Arc<Handle>,
    /// A place in the session's inbox that is kept for the goodbye.
    goodbye: Option<OwnedPermit<Mail>>,
}

/// Why a session takes no mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// Its process is gone.
    Ended,
    /// It has no place for another client.
    Full,
    /// It has too much to do.
    Busy,
}

impl Closed {
    /// What a client is told.
    pub(super) fn why(self) -> &'static str {
        match self {
            Closed::Ended => "the process has ended",
            Closed::Full => "the process has more clients and requests than it can serve",
            Closed::Busy => "the process does not keep up with what it is asked",
        }
    }
}

impl Closed {
    /// What an inbox says that takes no mail, `full` if it has no room.
    fn of<T>(error: &TrySendError<T>, full: Closed) -> Closed {
        match error {
            TrySendError::Full(_) => full,
            TrySendError::Closed(_) => Closed::Ended,
        }
    }
}

impl Membership {
    /// Asks a session to be let in; it answers with [`super::FromSession::Joined`].
    pub(super) fn enter(
        session: &Arc<session::Handle>,
        client: &Arc<Handle>,
        attach: &Arc<Attach>,
    ) -> Result<Membership, Closed> {
        let goodbye = session.inbox.clone().try_reserve_owned();
        let goodbye = goodbye.map_err(|error| Closed::of(&error, Closed::Full))?;
        let join = session
            .inbox
            .try_send(Mail::Join(client.clone(), attach.clone()));
        join.map_err(|error| Closed::of(&error, Closed::Full))?;
        Ok(Membership {
            session: session.clone(),
            client: client.clone(),
            goodbye: Some(goodbye),
        })
    }

    /// Asks the process something; the answer comes as [`super::FromSession::Response`] with the token.
    pub(super) fn ask(&self, token: i64, message: Message) -> Result<(), Closed> {
        let mail = Mail::Request(self.client.clone(), token, Box::new(message));
        let asked = self.session.inbox.try_send(mail);
        asked.map_err(|error| Closed::of(&error, Closed::Busy))
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        if let Some(goodbye) = self.goodbye.take() {
            goodbye.send(Mail::Leave(self.client.id));
        }
    }
}
