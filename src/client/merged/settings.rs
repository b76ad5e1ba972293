//! What the client has set in the debugger of every process, kept for those that come later.
//!
//! This module knows no process.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::wire::Message;

/// The most source maps that are kept for processes that come later.
const MAX_SOURCE_MAPS: usize = 1024;

/// The debugger's properties that were set last, and the source maps by their sources.
#[derive(Default)]
pub(super) struct Settings {
    properties: Map<String, Value>,
    source_maps: BTreeMap<String, Message>,
}

impl Settings {
    /// Takes over what a request sets.
    pub(super) fn keep(&mut self, message: &Message) -> Result<(), String> {
        let arguments: Map<String, Value> = message.decode().map_err(|error| error.to_string())?;
        if message.name() == "setDebuggerProperty" {
            // What is not named stays as it was.
            let named = arguments.into_iter().filter(|(_, value)| !value.is_null());
            self.properties.extend(named);
            return Ok(());
        }
        let source = source(&arguments);
        if self.source_maps.len() >= MAX_SOURCE_MAPS && !self.source_maps.contains_key(source) {
            return Err("there are too many source maps in this session".into());
        }
        self.source_maps.insert(source.into(), message.detached());
        Ok(())
    }

    /// What was set is not kept after all.
    pub(super) fn forget(&mut self, message: &Message) {
        let arguments: Map<String, Value> = message.decode().unwrap_or_default();
        if message.name() == "setDebuggerProperty" {
            self.properties
                .retain(|key, _| !arguments.contains_key(key));
        } else {
            self.source_maps.remove(source(&arguments));
        }
    }

    /// The requests that give a process all of it.
    pub(super) fn requests(&self) -> Vec<Message> {
        let properties = (!self.properties.is_empty())
            .then(|| Message::request("setDebuggerProperty", &self.properties));
        let maps = self.source_maps.values().cloned();
        properties.into_iter().chain(maps).collect()
    }
}

/// The path of the source that a source map is of.
fn source(arguments: &Map<String, Value>) -> &str {
    let source = arguments.get("source");
    let path = source.and_then(|source| source.get("path"));
    path.and_then(Value::as_str).unwrap_or_default()
}
