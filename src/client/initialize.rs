//! `initialize`: what the client says of itself, and what it is told of us.

use serde_json::{Value, json};

use super::Client;
use crate::wire::{Message, Outbox};

/// What the client says of itself in `initialize`.
pub(super) struct Capabilities {
    pub(super) client_id: String,
    pub(super) supports_start_debugging_request: bool,
    pub(super) supports_invalidated_event: bool,
    /// The number that it has for the first column of a line.
    pub(super) first_column: usize,
}

impl Capabilities {
    /// Reads them one by one: what a client gets wrong is that, and nothing else.
    pub(super) fn read(initialize: &Message) -> Capabilities {
        let arguments: Value = initialize.decode().unwrap_or_default();
        // An older nvim-dap spells it so.
        let name = arguments
            .get("clientID")
            .or_else(|| arguments.get("clientId"));
        Capabilities {
            client_id: name.and_then(Value::as_str).unwrap_or_default().to_owned(),
            supports_start_debugging_request: arguments["supportsStartDebuggingRequest"] == true,
            supports_invalidated_event: arguments["supportsInvalidatedEvent"] == true,
            first_column: usize::from(arguments["columnsStartAt1"] != false),
        }
    }
}

impl Client {
    /// Answers `initialize` as debugpy's adapter does, from a fixed list.
    pub(super) fn initialize(&mut self, initialize: &Message, out: &mut Outbox) {
        let version = env!("CARGO_PKG_VERSION");
        for name in ["ptvsd", "debugpy"] {
            let data = json!({ "packageVersion": version });
            let body = json!({ "category": "telemetry", "output": name, "data": data });
            out.send(&Message::event("output", body));
        }
        if let Some(address) = self.address {
            let socket = json!({ "host": address.ip(), "port": address.port(), "internal": false });
            out.send(&Message::event(
                "debugpySockets",
                json!({ "sockets": [socket] }),
            ));
        }
        let supported = [
            "supportsClipboardContext",
            "supportsCompletionsRequest",
            "supportsConditionalBreakpoints",
            "supportsConfigurationDoneRequest",
            "supportsDebuggerProperties",
            "supportsDelayedStackTraceLoading",
            "supportsEvaluateForHovers",
            "supportsExceptionInfoRequest",
            "supportsExceptionOptions",
            "supportsFunctionBreakpoints",
            "supportsGotoTargetsRequest",
            "supportsHitConditionalBreakpoints",
            "supportsLogPoints",
            "supportsModulesRequest",
            "supportsSetExpression",
            "supportsSetVariable",
            "supportsStepInTargetsRequest",
            "supportsTerminateDebuggee",
            "supportsTerminateRequest",
            "supportsValueFormattingOptions",
        ];
        let mut body: Value = supported
            .iter()
            .map(|name| ((*name).to_owned(), Value::Bool(true)))
            .collect();
        let filter = |filter, label, default, description| json!({ "filter": filter, "label": label, "default": default, "description": description });
        body["exceptionBreakpointFilters"] = json!([
            filter(
                "raised",
                "Raised Exceptions",
                false,
                "Stop wherever an exception is raised."
            ),
            filter(
                "uncaught",
                "Uncaught Exceptions",
                true,
                "Stop when an exception nobody handles ends the process."
            ),
            filter(
                "userUnhandled",
                "User Uncaught Exceptions",
                false,
                "Stop when an exception leaves user code for a library."
            ),
        ]);
        out.send(&Message::response(initialize.seq(), "initialize", body));
    }
}
