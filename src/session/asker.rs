//! Who asks something of a process: a client, or the daemon itself for one of its verbs.
//!
//! Each is answered exactly once. This module knows nothing of what is asked.

use std::fmt;
use std::sync::Arc;

use serde_json::json;
use tokio::sync::oneshot;

use super::SessionId;
use crate::client::{self, ClientId, FromSession};
use crate::wire::Message;

/// Whose something in a process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// A client's.
    Client(ClientId),
    /// The daemon's own, for its verbs.
    Daemon,
}

impl fmt::Display for Owner {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Owner::Client(client) => client.fmt(formatter),
            Owner::Daemon => formatter.write_str("daemon"),
        }
    }
}

/// Somebody who waits for an answer.
pub(super) struct Asker {
    reply: Reply,
    pub(super) command: Box<str>,
}

/// Where an answer goes.
enum Reply {
    Client {
        client: Arc<client::Handle>,
        session: SessionId,
        /// What the client calls its request.
        token: i64,
    },
    /// To a verb that is being carried out; it may have given up.
    Verb(oneshot::Sender<Message>),
}

impl Asker {
    /// A client that waits for the answer to its request of that token.
    pub(super) fn client(
        client: Arc<client::Handle>,
        session: SessionId,
        token: i64,
        command: &str,
    ) -> Asker {
        let reply = Reply::Client {
            client,
            session,
            token,
        };
        Asker {
            reply,
            command: command.into(),
        }
    }

    /// A verb that waits for an answer.
    pub(super) fn verb(reply: oneshot::Sender<Message>, command: &str) -> Asker {
        Asker {
            reply: Reply::Verb(reply),
            command: command.into(),
        }
    }

    /// Who it is.
    pub(super) fn owner(&self) -> Owner {
        match &self.reply {
            Reply::Client { client, .. } => Owner::Client(client.id),
            Reply::Verb(_) => Owner::Daemon,
        }
    }

    /// Whether it waits no more, so that what it asked for should not be done.
    pub(super) fn has_given_up(&self) -> bool {
        match &self.reply {
            Reply::Client { client, .. } => client.is_gone(),
            Reply::Verb(reply) => reply.is_closed(),
        }
    }

    pub(super) fn answer(self, message: Message) {
        match self.reply {
            Reply::Client {
                client,
                session,
                token,
            } => client.tell(session, FromSession::Response(token, message)),
            // Who has given up misses nothing.
            Reply::Verb(reply) => drop(reply.send(message.detached())),
        }
    }

    pub(super) fn succeed(self, body: impl serde::Serialize) {
        let message = Message::response(0, &self.command, body);
        self.answer(message);
    }

    pub(super) fn fail(self, message: &str) {
        let message = Message::failure(0, &self.command, message);
        self.answer(message);
    }

    /// Refuses with DAP's word for the reason, and what to do.
    pub(super) fn refuse(self, word: &str, detail: &str) {
        let message = Message::refusal(0, &self.command, word, detail);
        self.answer(message);
    }

    /// The process has gone without an answer.
    pub(super) fn lost(self) {
        if &*self.command == "continue" {
            // It ran, or it would not have ended.
            self.succeed(json!({ "allThreadsContinued": true }));
        } else {
            self.fail("the process ended before it answered");
        }
    }
}
