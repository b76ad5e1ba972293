//! What a client does to debug: the requests that tests make again and again, as one call each.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::{Value, json};

use super::client::Client;

/// What a `stopped` event says.
#[derive(Debug, Clone)]
pub struct Stopped {
    pub thread: i64,
    pub reason: String,
    pub body: Value,
}

impl Client {
    /// Introduces itself; `arguments` are added to those that every client sends.
    pub async fn initialize(&mut self, arguments: &Value) {
        let mut all = json!({
            "clientID": "test", "adapterID": "debugpy", "linesStartAt1": true, "columnsStartAt1": true,
            "pathFormat": "path",
        });
        for (name, value) in arguments.as_object().into_iter().flatten() {
            all[name] = value.clone();
        }
        self.capabilities = self.request("initialize", all).await;
    }

    /// Waits for the event that asks for the configuration, and fails early where `attach` fails instead.
    pub async fn initialized(&mut self, attach: i64) {
        let refused =
            |message: &Value| message["request_seq"] == attach && message["success"] == false;
        let initialized = |message: &Value| message["event"] == "initialized";
        let message = self
            .wait("the event initialized", |message| {
                initialized(message) || refused(message)
            })
            .await;
        assert!(initialized(&message), "attaching failed: {message}");
    }

    /// Waits until something stops.
    pub async fn stopped(&mut self) -> Stopped {
        let body = self.event("stopped").await;
        Stopped {
            thread: body["threadId"].as_i64().expect("our stops name a thread"),
            reason: body["reason"].as_str().expect("the schema says so").into(),
            body,
        }
    }

    /// Waits until something stops on this line, and fails if it stops anywhere else.
    pub async fn stopped_at(&mut self, line: i64) -> Stopped {
        let stopped = self.stopped().await;
        let stack = self.stack(stopped.thread).await;
        assert_eq!(stack[0]["line"], line, "stopped elsewhere: {}", stack[0]);
        stopped
    }

    /// Resumes a thread, which with debugpy resumes all of its process.
    pub async fn continue_(&mut self, thread: i64) {
        self.request("continue", json!({ "threadId": thread }))
            .await;
    }

    /// Sends `next`, `stepIn`, `stepOut` or `pause` for a thread; the stop that follows is for [`Client::stopped`].
    pub async fn step(&mut self, command: &str, thread: i64) {
        self.request(command, json!({ "threadId": thread })).await;
    }

    /// Sets the breakpoints of a file, and returns the verdicts on them.
    pub async fn set_breakpoints(
        &mut self,
        path: impl AsRef<Path>,
        breakpoints: &[Value],
    ) -> Vec<Value> {
        let arguments = json!({ "source": { "path": path.as_ref() }, "breakpoints": breakpoints });
        let mut body = self.request("setBreakpoints", arguments).await;
        let Value::Array(verdicts) = body["breakpoints"].take() else {
            unreachable!("the schema says that it is an array")
        };
        assert_eq!(
            verdicts.len(),
            breakpoints.len(),
            "one verdict for each breakpoint"
        );
        verdicts
    }

    /// The threads: their ids and names.
    pub async fn threads(&mut self) -> BTreeMap<i64, String> {
        let body = self.request("threads", Value::Null).await;
        let threads = body["threads"]
            .as_array()
            .expect("the schema says so")
            .iter();
        threads
            .map(|thread| {
                (
                    thread["id"].as_i64().unwrap_or_default(),
                    thread["name"].as_str().unwrap_or_default().into(),
                )
            })
            .collect()
    }

    /// The stack of a thread, the innermost frame first.
    pub async fn stack(&mut self, thread: i64) -> Vec<Value> {
        let mut body = self
            .request("stackTrace", json!({ "threadId": thread }))
            .await;
        serde_json::from_value(body["stackFrames"].take()).expect("the schema says so")
    }

    /// The local variables of a frame: names and values.
    pub async fn locals(&mut self, frame: &Value) -> BTreeMap<String, String> {
        let body = self
            .request("scopes", json!({ "frameId": frame["id"] }))
            .await;
        let scopes = body["scopes"].as_array().expect("the schema says so");
        let scope = scopes.iter().find(|scope| scope["name"] == "Locals");
        let reference =
            scope.unwrap_or_else(|| panic!("no locals in {body}"))["variablesReference"].clone();
        let body = self
            .request("variables", json!({ "variablesReference": reference }))
            .await;
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let variables = body["variables"]
            .as_array()
            .expect("the schema says so")
            .iter();
        variables
            .map(|variable| (text(&variable["name"]), text(&variable["value"])))
            .collect()
    }

    /// The value of an expression in a frame.
    pub async fn evaluate(&mut self, expression: &str, frame: &Value) -> String {
        let arguments = json!({ "expression": expression, "frameId": frame["id"] });
        let body = self.request("evaluate", arguments).await;
        body["result"].as_str().expect("the schema says so").into()
    }
}
