//! How pydevd words what it says, so that the daemon gets the bytes that it would get of the real one.

use serde::Serialize;
use serde_json::{Value, json};

use super::{Out, Pydevd};

/// `pydevd_cmd_id` of a response, and of an event that has none of its own.
const CMD_RETURN: u32 = 502;

impl Pydevd {
    /// An event of the process.
    pub fn event(&mut self, name: &str, body: &Value) {
        let number = match name {
            "thread" => 103,
            "output" => 116,
            "terminated" => 129,
            "stopped" => 157,
            "continued" => 158,
            "module" => 203,
            "process" => 204,
            _ => CMD_RETURN,
        };
        let body = if body.is_null() {
            String::new()
        } else {
            format!(", \"body\": {}", text(body))
        };
        self.message(
            &format!(r#"{{"type": "event", "event": "{name}"{body}"#),
            number,
        );
    }

    pub(super) fn system_info(&self) -> Value {
        json!({
            "python": {
                "version": "3.13.0final0",
                "implementation": { "name": "cpython", "version": "3.13.0final0", "description": "CPython" },
            },
            "platform": { "name": "linux" },
            "process": { "pid": self.pid, "ppid": self.parent, "executable": "python", "bitness": 64 },
            "pydevd": { "usingCython": true, "usingFrameEval": false },
        })
    }

    pub fn respond(&mut self, request: &Value, body: &Value) {
        let body = if body.is_null() {
            String::new()
        } else {
            format!(", \"body\": {}", text(body))
        };
        self.message(&format!("{}{body}", response(request, true)), CMD_RETURN);
    }

    pub fn fail(&mut self, request: &Value, message: &str) {
        let head = response(request, false);
        self.message(
            &format!("{head}, \"message\": {}", text(message)),
            CMD_RETURN,
        );
    }

    pub(super) fn fail_with(&mut self, request: &Value, body: &Value, message: &str) {
        let head = response(request, false);
        self.message(
            &format!(
                "{head}, \"body\": {}, \"message\": {}",
                text(body),
                text(message)
            ),
            CMD_RETURN,
        );
    }

    /// `seq` stands near or at the end of a message, as in the real one.
    pub(super) fn message(&mut self, head: &str, number: u32) {
        self.out
            .push_back(Out::Message(format!("{head}, \"pydevd_cmd_id\": {number}")));
    }
}

/// The head of a response, without `seq`.
fn response(request: &Value, success: bool) -> String {
    let (seq, command) = (&request["seq"], &request["command"]);
    format!(
        r#"{{"type": "response", "request_seq": {seq}, "success": {success}, "command": {command}"#
    )
}

/// JSON as Python writes it: with a blank after each colon and comma.
fn text<T: Serialize + ?Sized>(value: &T) -> String {
    struct Python;

    impl serde_json::ser::Formatter for Python {
        fn begin_object_key<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first {
                Ok(())
            } else {
                writer.write_all(b", ")
            }
        }

        fn begin_object_value<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
        ) -> std::io::Result<()> {
            writer.write_all(b": ")
        }

        fn begin_array_value<W: ?Sized + std::io::Write>(
            &mut self,
            writer: &mut W,
            first: bool,
        ) -> std::io::Result<()> {
            if first {
                Ok(())
            } else {
                writer.write_all(b", ")
            }
        }
    }

    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, Python);
    value
        .serialize(&mut serializer)
        .expect("a vector takes everything");
    String::from_utf8(bytes).expect("JSON is UTF-8")
}

/// What pydevd answers to `initialize`, word by word.
pub(super) fn capabilities(pid: i64) -> Value {
    let mut all = json!({
        "exceptionBreakpointFilters": [
            { "filter": "raised", "label": "Raised Exceptions", "default": false },
            { "filter": "uncaught", "label": "Uncaught Exceptions", "default": true },
            { "filter": "userUnhandled", "label": "User Uncaught Exceptions", "default": false },
        ],
        "completionTriggerCharacters": [],
        "additionalModuleColumns": [],
        "supportedChecksumAlgorithms": [],
        "pydevd": { "processId": pid },
    });
    for supported in [
        "supportsConfigurationDoneRequest",
        "supportsFunctionBreakpoints",
        "supportsConditionalBreakpoints",
        "supportsHitConditionalBreakpoints",
        "supportsEvaluateForHovers",
        "supportsSetVariable",
        "supportsGotoTargetsRequest",
        "supportsStepInTargetsRequest",
        "supportsCompletionsRequest",
        "supportsModulesRequest",
        "supportsExceptionOptions",
        "supportsValueFormattingOptions",
        "supportsExceptionInfoRequest",
        "supportTerminateDebuggee",
        "supportsDelayedStackTraceLoading",
        "supportsLogPoints",
        "supportsSetExpression",
        "supportsTerminateRequest",
        "supportsClipboardContext",
        "supportsDebuggerProperties",
    ] {
        all[supported] = true.into();
    }
    for unsupported in [
        "supportsStepBack",
        "supportsRestartFrame",
        "supportsRestartRequest",
        "supportsLoadedSourcesRequest",
        "supportsTerminateThreadsRequest",
        "supportsDataBreakpoints",
        "supportsReadMemoryRequest",
        "supportsDisassembleRequest",
    ] {
        all[unsupported] = false.into();
    }
    all
}
