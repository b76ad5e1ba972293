//! The protocol's own JSON schema: whatever a client is sent must validate against it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use jsonschema::{Draft, Validator};
use serde_json::{Value, json};

use super::python::Python;

/// What is wrong with a message from the daemon, or `None` if nothing is.
///
/// A message is held against the definition that its event or command names, and where the protocol has no such
/// definition, as for `dbgproxy/session`, against the base of its type.
pub fn violation(message: &Value) -> Option<String> {
    let schema = Schema::get();
    let definition = schema.definition(message);
    let errors: Vec<String> = schema
        .validator(&definition)
        .iter_errors(message)
        .map(|error| format!("{} at {}", error, error.instance_path()))
        .collect();
    (!errors.is_empty()).then(|| format!("not a valid {definition}: {}", errors.join("; ")))
}

struct Schema {
    definitions: Value,
    /// A validator takes a while to compile, and a test needs few of them: each is compiled when it is first needed.
    validators: Mutex<HashMap<String, Arc<Validator>>>,
}

impl Schema {
    fn get() -> &'static Self {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| {
            let path = path();
            eprintln!("protocol schema: {}", path.display());
            let text = std::fs::read_to_string(&path).expect("the schema can be read");
            let mut schema: Value = serde_json::from_str(&text).expect("the schema is JSON");
            let mut definitions = schema["definitions"].take();
            bound_integers(&mut definitions);
            Schema {
                definitions,
                validators: Mutex::default(),
            }
        })
    }

    /// The name of the definition that a message must fulfil.
    fn definition(&self, message: &Value) -> String {
        let (base, name) = match message["type"].as_str() {
            Some("event") => ("Event", &message["event"]),
            Some("request") => ("Request", &message["command"]),
            Some("response") if message["success"] == false => {
                let detailed = message.get("body").is_some();
                return if detailed {
                    "ErrorResponse"
                } else {
                    "Response"
                }
                .into();
            }
            Some("response") => ("Response", &message["command"]),
            _ => return "ProtocolMessage".into(),
        };
        let mut letters = name.as_str().unwrap_or_default().chars();
        let first = letters.next().map(|letter| letter.to_ascii_uppercase());
        let own: String = first
            .into_iter()
            .chain(letters)
            .chain(base.chars())
            .collect();
        let known = self.definitions.get(&own).is_some();
        if known { own } else { base.into() }
    }

    fn validator(&self, definition: &str) -> Arc<Validator> {
        let mut validators = self.validators.lock().expect("no panic while it is held");
        if let Some(validator) = validators.get(definition) {
            return validator.clone();
        }
        let schema = json!({
            "allOf": [{ "$ref": format!("#/definitions/{definition}") }],
            "definitions": self.definitions,
        });
        let validator = jsonschema::options()
            .with_draft(Draft::Draft4)
            .build(&schema)
            .expect("the protocol's schema is a schema");
        let validator = Arc::new(validator);
        validators.insert(definition.into(), validator.clone());
        validator
    }
}

/// The published schema where the machine has it, else the somewhat older one that debugpy carries.
fn path() -> PathBuf {
    let published =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/schema/debugAdapterProtocol.json");
    if published.exists() {
        return published;
    }
    Python::newest()
        .packages()
        .join("debugpy/_vendored/pydevd/_pydevd_bundle/_debug_adapter/debugProtocol.json")
}

/// Makes bounds of what the schema only notes as a format, since clients do keep ids in 32 bits.
///
/// An integer without a format has 32 bits too: the older schema has no formats.
fn bound_integers(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            let is_integer = object.get("type").is_some_and(|kind| kind == "integer");
            let format = object.get("format").and_then(Value::as_str);
            let (minimum, maximum) = match format {
                Some("int32") | None if is_integer => (i64::from(i32::MIN), i64::from(i32::MAX)),
                Some("uint32") => (0, i64::from(u32::MAX)),
                _ => return object.values_mut().for_each(bound_integers),
            };
            object.entry("minimum").or_insert(minimum.into());
            object.entry("maximum").or_insert(maximum.into());
        }
        Value::Array(array) => array.iter_mut().for_each(bound_integers),
        _ => {}
    }
}
