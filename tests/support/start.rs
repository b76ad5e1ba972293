//! How a client attaches: what it announces, asks for and sets, and the sequence in which IDEs do that.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::client::Client;

/// The description of a client that is about to attach.
///
/// ```ignore
/// let mut client = Client::start(&daemon).breakpoints(script.path(), &[3]).attached().await;
/// ```
#[must_use = "it does nothing before `connected` or `attached`"]
pub struct Start {
    to: SocketAddr,
    name: Option<String>,
    initialize: Value,
    command: &'static str,
    arguments: Value,
    breakpoints: Vec<(PathBuf, Vec<Value>)>,
    functions: Vec<Value>,
    filters: Vec<String>,
}

impl Start {
    pub(super) fn new(to: SocketAddr) -> Self {
        Self {
            to,
            name: None,
            initialize: json!({}),
            command: "attach",
            // IDEs send the whole configuration; debugpy 1.6.7 takes none at all for an error.
            arguments: json!({ "name": "test", "type": "debugpy", "request": "attach" }),
            breakpoints: Vec::new(),
            functions: Vec::new(),
            filters: Vec::new(),
        }
    }

    /// What it is called in the output of a failed test.
    pub fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Announces a capability, such as `supportsStartDebuggingRequest`.
    pub fn announcing(mut self, capability: &str) -> Self {
        self.initialize[capability] = true.into();
        self
    }

    /// Another argument of `initialize`, such as `clientID`.
    pub fn introduced(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.initialize[name] = value.into();
        self
    }

    /// Arguments of `attach`, or the configuration that a `startDebugging` request brought.
    pub fn arguments(mut self, arguments: &Value) -> Self {
        for (name, value) in arguments.as_object().expect("arguments are an object") {
            self.arguments[name] = value.clone();
        }
        self
    }

    /// Sends `launch` instead of `attach`.
    pub fn launch(mut self) -> Self {
        self.command = "launch";
        self
    }

    /// Sets plain breakpoints on these lines of a file.
    pub fn breakpoints(mut self, path: impl AsRef<Path>, lines: &[i64]) -> Self {
        let breakpoints = lines.iter().map(|line| json!({ "line": line })).collect();
        self.breakpoints.push((path.as_ref().into(), breakpoints));
        self
    }

    /// Sets one breakpoint with all that belongs to it, as in `{"line": 3, "condition": "n > 1"}`.
    pub fn breakpoint(mut self, path: impl AsRef<Path>, breakpoint: Value) -> Self {
        match self
            .breakpoints
            .iter_mut()
            .find(|(of, _)| of == path.as_ref())
        {
            Some((_, breakpoints)) => breakpoints.push(breakpoint),
            None => self
                .breakpoints
                .push((path.as_ref().into(), vec![breakpoint])),
        }
        self
    }

    /// Sets a function breakpoint.
    pub fn function(mut self, name: &str) -> Self {
        self.functions.push(json!({ "name": name }));
        self
    }

    /// Asks to stop at these exceptions, such as `uncaught`.
    pub fn exceptions(mut self, filters: &[&str]) -> Self {
        self.filters = filters.iter().map(ToString::to_string).collect();
        self
    }

    /// Connects and initializes, and does not attach.
    pub async fn connected(&self) -> Client {
        let mut client = Client::connect(self.to).await;
        if let Some(name) = &self.name {
            client.rename(name);
        }
        client.initialize(&self.initialize).await;
        client
    }

    /// Runs the whole sequence, up to both the responses to `configurationDone` and to `attach`.
    pub async fn attached(self) -> Client {
        self.attaching().await.attached().await
    }

    /// Runs the sequence up to where there is no process yet, and the daemon says that it waits for one.
    pub async fn waiting(self) -> Attaching {
        let mut attaching = self.attaching().await;
        attaching.client.event("debugpyWaitingForServer").await;
        attaching
    }

    /// Runs the sequence up to where the client may be configured: user code waits for it.
    pub async fn joined(self) -> Attaching {
        let mut attaching = self.attaching().await;
        attaching.client.initialized(attaching.attach).await;
        attaching.joined = true;
        attaching
    }

    async fn attaching(self) -> Attaching {
        let mut client = self.connected().await;
        let attach = client.send(self.command, self.arguments.clone()).await;
        Attaching {
            start: self,
            client,
            attach,
            joined: false,
        }
    }
}

/// A client that has sent `attach`, which is not answered before the client is configured.
#[must_use = "it does nothing more before `attached`"]
pub struct Attaching {
    start: Start,
    client: Client,
    attach: i64,
    /// It has been asked for its configuration.
    joined: bool,
}

impl Attaching {
    /// Runs the rest of the sequence, up to both the responses to `configurationDone` and to `attach`.
    pub async fn attached(self) -> Client {
        let Self {
            start,
            mut client,
            attach,
            joined,
        } = self;
        if !joined {
            client.initialized(attach).await;
        }
        for (path, breakpoints) in &start.breakpoints {
            let verdicts = client.set_breakpoints(path, breakpoints).await;
            client.breakpoints.extend(verdicts);
        }
        if !start.functions.is_empty() {
            let arguments = json!({ "breakpoints": start.functions });
            let mut body = client.request("setFunctionBreakpoints", arguments).await;
            let verdicts: Vec<Value> =
                serde_json::from_value(body["breakpoints"].take()).expect("the schema says so");
            client.breakpoints.extend(verdicts);
        }
        client
            .request(
                "setExceptionBreakpoints",
                json!({ "filters": start.filters }),
            )
            .await;
        client.request("configurationDone", Value::Null).await;
        let response = client.response(attach).await;
        assert_eq!(
            response["success"], true,
            "{} failed: {response}",
            start.command
        );
        client
    }
}
