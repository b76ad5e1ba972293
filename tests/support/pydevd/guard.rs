//! What the guard in a scripted process answers to the daemon's questions.

use serde_json::{Value, json};

use super::Pydevd;

impl Pydevd {
    /// An `evaluate` without a frame, which the daemon alone sends: it installs the guard, or asks it something.
    pub(super) fn ask_guard(&mut self, expression: &str) {
        let question = expression.strip_prefix("__import__('_dbgproxy').answer(");
        let Some((token, question)) = question.and_then(|rest| rest.split_once(", '")) else {
            if !self.attached && !self.report.is_null() {
                let report = self.report.clone();
                self.event("dbgproxyReport", &report);
            }
            return;
        };
        let token: i64 = token.parse().expect("a token is a number");
        let (function, argument) = question.split_once("', ").expect("it takes an argument");
        let argument = argument.strip_suffix(')').expect("that is all");
        let body = match function {
            "stacks" => {
                assert_eq!(argument, "None");
                self.stacks()
            }
            "watchdogs" => json!({ "watchdogs": self.watchdogs }),
            "evaluate" => {
                // The literal is a JSON text but for this.
                let argument = argument.replace("\\x40", "@");
                let expression: String = serde_json::from_str(&argument).expect("a text");
                self.evaluate_global(&expression)
            }
            other => json!({ "error": format!("KeyError: '{other}'") }),
        };
        self.event("dbgproxyAnswer", &json!({ "token": token, "body": body }));
    }

    /// All threads, each in frames that are called as [`Pydevd::stack_trace`] calls them.
    fn stacks(&self) -> Value {
        let threads = self.threads.iter().map(|(id, thread)| {
            let outermost = thread.stack.len().saturating_sub(1);
            let frames = thread.stack.iter().enumerate().map(|(depth, (path, line))| {
                let name = if depth == outermost { "<module>" } else { "work" };
                json!([name, path, line])
            });
            let frames: Vec<Value> = frames.collect();
            json!({ "name": thread.name, "threadId": id, "kind": "thread", "frames": frames, "omitted": 0 })
        });
        json!({ "threads": threads.collect::<Vec<_>>(), "omitted": 0 })
    }

    fn evaluate_global(&self, expression: &str) -> Value {
        match self.globals.get(expression) {
            Some(value) => json!({ "result": value, "type": "int" }),
            None => json!({ "error": format!("NameError: name '{expression}' is not defined") }),
        }
    }
}
