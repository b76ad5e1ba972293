//! What pydevd does with each request, as far as a debugger can see it; it knows no socket.
//!
//! Everything here was seen of the real one, its oddities included: the daemon has to live with them.
//!
//! [`process`] has the threads and ids that the requests are about, [`wording`] how the answers look on the wire, and
//! [`guard`] what the daemon's own module in the process says.

mod guard;
mod process;
mod wording;

use std::collections::{BTreeMap, HashMap, VecDeque};

use serde_json::{Value, json};

use process::{Thing, Thread};
use wording::capabilities;

/// Requests of DAP that pydevd knows and never answers.
const UNANSWERED: [&str; 16] = [
    "breakpointLocations",
    "cancel",
    "dataBreakpointInfo",
    "disassemble",
    "loadedSources",
    "readMemory",
    "restart",
    "restartFrame",
    "reverseContinue",
    "runInTerminal",
    "setDataBreakpoints",
    "setInstructionBreakpoints",
    "startDebugging",
    "stepBack",
    "terminateThreads",
    "writeMemory",
];

/// Something to be put on the wire.
pub enum Out {
    /// A message without its `seq` and closing brace, which are added when it is sent.
    Message(String),
    /// Bytes as they are.
    Bytes(Vec<u8>),
    /// The end of the connection.
    Close,
}

/// The state of a scripted process.
pub struct Pydevd {
    pub pid: i64,
    /// The id of the process that started it.
    pub parent: i64,
    pub script: String,
    /// What waits to be sent.
    pub out: VecDeque<Out>,
    /// Whether user code has been let go.
    pub released: bool,
    /// What the guard reports of the process when it is installed; nothing if null.
    pub report: Value,
    /// What there is in `__main__`: names and values.
    pub globals: HashMap<String, String>,
    /// Who ends it when it is stopped, as the guard says.
    pub watchdogs: Vec<Value>,
    attached: bool,
    /// It was paused before user code was let go.
    pauses_at_first_line: bool,
    things: HashMap<i64, Thing>,
    threads: BTreeMap<i64, Thread>,
    /// Breakpoints by the path as it was sent, each with the id that it was given.
    breakpoints: HashMap<String, Vec<(i64, Value)>>,
    next_breakpoint: i64,
    /// The `seq` of each `continue` that came while nothing was stopped: answered at the next resume.
    continues: Vec<Value>,
}

impl Pydevd {
    pub fn new(pid: i64, parent: i64, script: &str) -> Self {
        let mut pydevd = Self {
            pid,
            parent,
            script: script.into(),
            out: VecDeque::new(),
            released: false,
            report: Value::Null,
            globals: HashMap::new(),
            watchdogs: Vec::new(),
            attached: false,
            pauses_at_first_line: false,
            things: HashMap::new(),
            threads: BTreeMap::new(),
            breakpoints: HashMap::new(),
            next_breakpoint: 0,
            continues: Vec::new(),
        };
        pydevd.start_thread("MainThread");
        pydevd
    }

    /// Does what pydevd does with a request.
    pub fn handle(&mut self, request: &Value) {
        let command = request["command"].as_str().unwrap_or_default();
        let arguments = &request["arguments"];
        if UNANSWERED.contains(&command) {
            return;
        }
        if let Some(id) = self.wrong_id(arguments) {
            return self.fail(request, &format!("Wrong ID sent from the client: {id}"));
        }
        match command {
            "pydevdSystemInfo" => self.respond(request, &self.system_info()),
            "pydevdAuthorize" => self.respond(request, &json!({ "clientAccessToken": null })),
            "initialize" => self.respond(request, &capabilities(self.pid)),
            "attach" | "launch" => self.attach(request),
            "configurationDone" => self.configuration_done(request),
            "setBreakpoints" => self.set_breakpoints(request),
            "setFunctionBreakpoints" => {
                let count = arguments["breakpoints"].as_array().map_or(0, Vec::len);
                let ids = (0..count).map(|_| self.breakpoint_id()).collect::<Vec<_>>();
                let verdicts = ids
                    .iter()
                    .map(|id| json!({ "verified": true, "id": id, "source": {} }));
                let body = json!({ "breakpoints": verdicts.collect::<Vec<_>>() });
                self.respond(request, &body);
            }
            "setExceptionBreakpoints" | "setDebuggerProperty" | "setPydevdSourceMap" | "goto" => {
                self.respond(request, &json!({}));
            }
            "threads" => {
                let threads = self
                    .threads
                    .iter()
                    .map(|(id, thread)| json!({ "id": id, "name": thread.name }));
                let body = json!({ "threads": threads.collect::<Vec<_>>() });
                self.respond(request, &body);
            }
            "continue" => self.on_continue(request),
            "pause" => {
                self.respond(request, &Value::Null);
                self.pauses_at_first_line = !self.released;
                if self.released {
                    self.pause();
                }
            }
            "next" | "stepIn" | "stepOut" => self.step(request),
            "stackTrace" => self.stack_trace(request),
            "scopes" => self.scopes(request),
            "variables" => self.variables(request),
            "setVariable" | "setExpression" => self.set_variable(request),
            "evaluate" => self.evaluate(request),
            "exceptionInfo" => {
                let body = json!({ "exceptionId": "ValueError", "breakMode": "unhandled", "description": "scripted" });
                self.respond(request, &body);
            }
            "modules" => {
                let modules =
                    json!({ "modules": [{ "id": 0, "name": "__main__", "path": self.script }] });
                self.respond(request, &modules);
            }
            "completions" | "stepInTargets" | "gotoTargets" => {
                self.respond(request, &json!({ "targets": [] }));
            }
            "source" => self.respond(request, &json!({ "content": "" })),
            "disconnect" if arguments["terminateDebuggee"] != true => self.disconnect(request),
            "disconnect" | "terminate" => {
                self.respond(request, &Value::Null);
                self.out.push_back(Out::Close);
            }
            _ => self.fail(
                request,
                &format!("Unable to create message from dict: {command} not in [..]"),
            ),
        }
    }

    // Requests.

    fn pause(&mut self) {
        if let Some(thread) = self.threads.keys().next().copied() {
            self.stop(thread, "pause", &json!({ "preserveFocusHint": true }));
        }
    }

    fn attach(&mut self, request: &Value) {
        self.attached = true;
        let body = json!({
            "name": self.script, "systemProcessId": self.pid, "isLocalProcess": true, "startMethod": "attach",
        });
        self.event("process", &body);
        self.event("initialized", &Value::Null);
        self.respond(request, &Value::Null);
    }

    fn configuration_done(&mut self, request: &Value) {
        self.respond(request, &Value::Null);
        if !std::mem::replace(&mut self.released, true) && self.attached {
            for id in self.threads.keys().copied().collect::<Vec<_>>() {
                self.thread_event("started", id);
            }
        }
        if std::mem::take(&mut self.pauses_at_first_line) {
            self.pause();
        }
    }

    fn set_breakpoints(&mut self, request: &Value) {
        if !self.attached {
            let body = json!({ "breakpoints": [] });
            return self.fail_with(
                request,
                &body,
                "Breakpoints may only be set after the launch request is received.",
            );
        }
        let arguments = &request["arguments"];
        let path = arguments["source"]["path"].as_str().unwrap_or_default();
        let asked = arguments["breakpoints"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        let asked: Vec<(i64, Value)> = asked
            .into_iter()
            .map(|breakpoint| (self.breakpoint_id(), breakpoint))
            .collect();
        let verdict = |(id, breakpoint): &(i64, Value)| json!({ "verified": true, "id": id, "source": arguments["source"], "line": breakpoint["line"] });
        let body = json!({ "breakpoints": asked.iter().map(verdict).collect::<Vec<_>>() });
        self.breakpoints.insert(path.into(), asked);
        self.respond(request, &body);
    }

    fn on_continue(&mut self, request: &Value) {
        let stopped = self.threads.iter().find(|(_, thread)| thread.stopped);
        let Some(id) = stopped.map(|(id, _)| *id) else {
            return self.continues.push(request.clone());
        };
        self.resume(id);
        self.respond(request, &json!({ "allThreadsContinued": true }));
    }

    fn step(&mut self, request: &Value) {
        let id = request["arguments"]["threadId"]
            .as_i64()
            .unwrap_or_default();
        let Some(thread) = self.threads.get_mut(&id) else {
            // The id of a frame, say: its reader thread dies of an exception, and with it the connection.
            self.event("terminated", &json!({}));
            return self.out.push_back(Out::Close);
        };
        thread.step_at_next_stop = !thread.stopped;
        let now = thread.stopped;
        self.respond(request, &Value::Null);
        if now {
            self.finish_step(id);
        }
    }

    fn finish_step(&mut self, id: i64) {
        // A `continue` that waited for the stop has resumed it already.
        if self.thread(id).stopped {
            self.resume(id);
        }
        if let Some((_, line)) = self.thread(id).stack.first_mut() {
            *line += 1;
        }
        self.stop(id, "step", &Value::Null);
    }

    fn stack_trace(&mut self, request: &Value) {
        let id = request["arguments"]["threadId"]
            .as_i64()
            .unwrap_or_default();
        let (stack, mut frames) = match self.threads.get(&id) {
            Some(thread) => (thread.stack.clone(), thread.frames.clone()),
            None => (Vec::new(), Vec::new()),
        };
        while frames.len() < stack.len() {
            frames.push(self.id(Thing::Frame(id)));
        }
        let innermost_first = stack.iter().zip(&frames).enumerate();
        let described: Vec<Value> = innermost_first
            .map(|(depth, ((path, line), frame))| {
                let name = if depth + 1 == stack.len() {
                    "<module>"
                } else {
                    "work"
                };
                let source = json!({ "path": path, "sourceReference": 0 });
                json!({ "id": frame, "name": name, "line": line, "column": 1, "source": source })
            })
            .collect();
        if let Some(thread) = self.threads.get_mut(&id) {
            thread.frames = frames;
        }
        let body = json!({ "totalFrames": described.len(), "stackFrames": described });
        self.respond(request, &body);
    }

    fn scopes(&mut self, request: &Value) {
        let frame = request["arguments"]["frameId"].as_i64().unwrap_or_default();
        let Some(Thing::Frame(_)) = self.things.get(&frame) else {
            return self.respond(request, &json!({ "scopes": [] }));
        };
        let (locals, globals) = (
            self.id(Thing::Locals(frame)),
            self.id(Thing::Globals(frame)),
        );
        let body = json!({ "scopes": [
            {
                "name": "Locals", "variablesReference": locals, "expensive": false,
                "presentationHint": "locals", "source": {},
            },
            { "name": "Globals", "variablesReference": globals, "expensive": false, "source": {} },
        ] });
        self.respond(request, &body);
    }

    fn variables(&mut self, request: &Value) {
        let reference = &request["arguments"]["variablesReference"];
        let Some(frame) = self.frame_of(reference) else {
            let message = "Unable to find thread to evaluate variable reference.";
            return self.fail_with(request, &json!({ "variables": [] }), message);
        };
        let is_locals = matches!(
            self.things.get(&reference.as_i64().unwrap_or_default()),
            Some(Thing::Locals(_))
        );
        let thread = self.thread_of(frame).filter(|_| is_locals);
        let variables = thread.into_iter().flat_map(|thread| &thread.locals).map(|(name, value)| {
            json!({ "name": name, "value": value, "type": "int", "evaluateName": name, "variablesReference": 0 })
        });
        let body = json!({ "variables": variables.collect::<Vec<_>>() });
        self.respond(request, &body);
    }

    fn set_variable(&mut self, request: &Value) {
        let arguments = &request["arguments"];
        let of = if arguments["frameId"].is_null() {
            "variablesReference"
        } else {
            "frameId"
        };
        let named = arguments["name"]
            .as_str()
            .or(arguments["expression"].as_str());
        let thread = self
            .frame_of(&arguments[of])
            .and_then(|frame| self.thread_id_of(frame));
        let (Some(thread), Some(name), Some(value)) = (thread, named, arguments["value"].as_str())
        else {
            return self.fail(request, "Unable to find thread to change variable.");
        };
        self.set_local(thread, name, value);
        let body = json!({ "value": value, "type": "int", "variablesReference": 0 });
        self.respond(request, &body);
    }

    fn evaluate(&mut self, request: &Value) {
        let arguments = &request["arguments"];
        let mut body = json!({ "result": "", "variablesReference": 0, "presentationHint": {} });
        if arguments["frameId"].is_null() {
            self.ask_guard(arguments["expression"].as_str().unwrap_or_default());
            return self.respond(request, &body);
        }
        let expression = arguments["expression"].as_str().unwrap_or_default();
        let Some(thread) = self
            .frame_of(&arguments["frameId"])
            .and_then(|frame| self.thread_of(frame))
        else {
            return self.fail_with(request, &body, "Unable to find thread for evaluation.");
        };
        body["type"] = "int".into();
        body["result"] = thread
            .locals
            .get(expression)
            .map_or(expression, String::as_str)
            .into();
        self.respond(request, &body);
    }

    /// The connection stays, and so do the process and its released state.
    fn disconnect(&mut self, request: &Value) {
        self.attached = false;
        self.breakpoints.clear();
        self.respond(request, &Value::Null);
        let stopped = self.threads.iter().find(|(_, thread)| thread.stopped);
        if let Some(id) = stopped.map(|(id, _)| *id) {
            self.resume(id);
        }
    }
}
