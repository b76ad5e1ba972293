//! What pydevd keeps once per process: the options of `attach`, which belong to one client at a time.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::requests::Pending;
use super::{Session, Stage};
use crate::client::{ClientId, FromSession, Role};
use crate::wire::{Message, Outbox};

/// The arguments of `attach` that pydevd reads (`pydevd_process_net_command_json.py` of debugpy 1.8.22), with the
/// values that they have at first. pydevd keeps a former value of a key that is absent from a later `attach`.
fn defaults() -> Map<String, Value> {
    let defaults = json!({
        "autoReload": { "enable": false },
        "breakOnSystemExit": [],
        "breakOnSystemExitZero": false,
        "clientOS": null,
        "debugOptions": null,
        "debugStdLib": null,
        "django": false,
        "flask": false,
        "guiEventLoop": "matplotlib",
        "isOutputRedirected": null,
        "jinja": false,
        "justMyCode": true,
        "maxExceptionStackFrames": 0,
        "onTerminate": "kill",
        "options": null,
        "pathMappings": [],
        "redirectOutput": false,
        "resolveSymlinks": null,
        "rules": [],
        "showReturnValue": false,
        "steppingResumesAllThreads": true,
        "stopAllThreadsOnSuspend": true,
        "stopOnEntry": false,
        "terminateChildProcesses": true,
        "variablePresentation": null,
    });
    match defaults {
        Value::Object(defaults) => defaults,
        _ => Map::new(),
    }
}

/// The options in force.
#[derive(Default)]
pub(super) struct Options {
    /// Whose they are; nobody's are pydevd's defaults.
    owner: Option<ClientId>,
    /// Whether pydevd has been sent an `attach` on this connection.
    attached: bool,
    /// The keys that any of them had, and that pydevd has kept.
    kept: BTreeSet<String>,
}

impl Options {
    pub(super) fn is_attached(&self) -> bool {
        self.attached
    }
}

impl Session {
    /// Takes the options of a client that has joined, if they are anybody's to set.
    ///
    /// True if the process is asked, so that the client must wait for its answer.
    pub(super) fn adopt_options(&mut self, client: ClientId, out: &mut Outbox) -> bool {
        let Some(watcher) = self.watcher(client) else {
            return false;
        };
        if watcher.attach.role == Role::Observer {
            if !self.options.attached {
                self.attach_without_client(out);
            }
            return false;
        }
        if let Some(owner) = self.options.owner.and_then(|owner| self.watcher(owner)) {
            let (ours, theirs) = (&watcher.attach.arguments, &owner.attach.arguments);
            let different: Vec<String> = defaults()
                .iter()
                .filter_map(|(key, default)| {
                    let (ours, theirs) = (ours.get(key), theirs.get(key));
                    let (ours, theirs) = (ours.unwrap_or(default), theirs.unwrap_or(default));
                    (ours != theirs).then(|| format!("{key} is {theirs}, not {ours}"))
                })
                .collect();
            if !different.is_empty() {
                watcher.client.tell(self.handle.id, FromSession::Notice(format!(
                    "a process has one set of options, and those of the client that attached first stay in force: {}",
                    different.join("; ")
                )));
            }
            return false;
        }
        let arguments = watcher.attach.arguments.clone();
        self.options.owner = Some(client);
        self.attach(&arguments, Some(client), out);
        true
    }

    /// Attaches to a process that has come back with the options of the clients that are already there.
    pub(super) fn adopt_first_options(&mut self, out: &mut Outbox) {
        self.options.owner = None;
        match self.first_controller() {
            Some((client, arguments)) => {
                self.options.owner = Some(client);
                self.attach(&arguments, None, out);
            }
            None => self.attach_without_client(out),
        }
    }

    /// The client whose options were in force has gone: the next one's are.
    pub(super) fn options_owner_left(&mut self, client: ClientId, out: &mut Outbox) {
        if self.options.owner != Some(client) {
            return;
        }
        self.options.owner = None;
        if let Some((client, arguments)) = self.first_controller() {
            self.options.owner = Some(client);
            self.attach(&arguments, None, out);
        }
    }

    /// The process takes a client's options for wrong; it stays debugged, with those it has.
    pub(super) fn tell_refused(&self, client: ClientId, answer: &Message) {
        let why = answer.message().unwrap_or_default();
        let text = format!("the process refuses the options of this attach: {why}");
        if let Some(watcher) = self.watcher(client) {
            watcher
                .client
                .tell(self.handle.id, FromSession::Notice(text));
        }
    }

    pub(super) fn attach_without_client(&mut self, out: &mut Outbox) {
        self.attach(&Map::new(), None, out);
    }

    fn first_controller(&self) -> Option<(ClientId, Map<String, Value>)> {
        let watcher = self
            .watchers
            .iter()
            .find(|watcher| watcher.attach.role == Role::Controller)?;
        Some((watcher.client.id, watcher.attach.arguments.clone()))
    }

    /// pydevd takes a further `attach` at any time, and forgets neither breakpoints nor stops by it.
    fn attach(&mut self, given: &Map<String, Value>, client: Option<ClientId>, out: &mut Outbox) {
        let is_first = !std::mem::replace(&mut self.options.attached, true);
        let mut arguments = given.clone();
        for (key, default) in defaults() {
            if given.contains_key(&key) {
                self.options.kept.insert(key);
            } else if self.options.kept.contains(&key) && !default.is_null() {
                arguments.insert(key, default);
            }
        }
        if arguments.is_empty() {
            // debugpy takes an empty object for a missing one.
            arguments.insert("name".into(), "dbgproxy".into());
        }
        // Only `launch` honours `stopOnEntry`, and only before user code runs does it make sense.
        let on_entry = given.get("stopOnEntry") == Some(&Value::Bool(true));
        let waiting = self.stage == Stage::Waiting;
        let command = if on_entry && waiting {
            "launch"
        } else {
            "attach"
        };
        self.ask(
            Message::request(command, arguments),
            Pending::Attach(client),
            out,
        );
        if is_first {
            // From here on pydevd takes breakpoints.
            self.send_all_unions(out);
        }
    }
}
