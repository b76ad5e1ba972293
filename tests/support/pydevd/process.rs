//! The scripted process behind pydevd: its threads, where they are, and the ids that stand for things in it.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Pydevd;

/// What an id stands for. There is one counter for all ids of a process, as in pydevd.
#[derive(Clone, Copy)]
pub(super) enum Thing {
    Thread,
    Frame(i64),
    Locals(i64),
    Globals(i64),
}

/// A thread of the scripted process.
pub(super) struct Thread {
    pub(super) name: String,
    pub(super) stopped: bool,
    /// Where it is: path and line, the innermost frame first. Frame ids live as long as the stop.
    pub(super) stack: Vec<(String, i64)>,
    pub(super) frames: Vec<i64>,
    pub(super) locals: BTreeMap<String, String>,
    /// A step that was asked for while it ran, which pydevd makes at its next stop.
    pub(super) step_at_next_stop: bool,
}

impl Pydevd {
    /// A new thread, which is announced if the process is being debugged.
    pub fn start_thread(&mut self, name: &str) -> i64 {
        let id = self.id(Thing::Thread);
        let thread = Thread {
            name: name.into(),
            stopped: false,
            stack: vec![(self.script.clone(), 1)],
            frames: Vec::new(),
            locals: BTreeMap::new(),
            step_at_next_stop: false,
        };
        self.threads.insert(id, thread);
        if self.attached && self.released {
            self.thread_event("started", id);
        }
        id
    }

    pub fn end_thread(&mut self, id: i64) {
        self.threads.remove(&id);
        self.thread_event("exited", id);
    }

    /// Puts a thread somewhere: path and line of its frames, the innermost first.
    pub fn place(&mut self, thread: i64, stack: Vec<(String, i64)>) {
        self.thread(thread).stack = stack;
    }

    pub fn set_local(&mut self, thread: i64, name: &str, value: &str) {
        self.thread(thread).locals.insert(name.into(), value.into());
    }

    /// The ids of the breakpoints on this line.
    pub fn breakpoints_on(&self, path: &str, line: i64) -> Vec<i64> {
        let breakpoints = self.breakpoints.get(path).into_iter().flatten();
        breakpoints
            .filter(|(_, breakpoint)| breakpoint["line"] == line)
            .map(|(id, _)| *id)
            .collect()
    }

    /// The breakpoints of a file, as they were asked for.
    pub fn breakpoints(&self, path: &str) -> Vec<Value> {
        let breakpoints = self.breakpoints.get(path).into_iter().flatten();
        breakpoints
            .map(|(_, breakpoint)| breakpoint.clone())
            .collect()
    }

    /// Stops the world in a thread; `more` is added to the event's body or replaces what is there.
    pub fn stop(&mut self, id: i64, reason: &str, more: &Value) {
        for thread in self.threads.values_mut() {
            thread.stopped = true;
        }
        let mut body = json!({
            "reason": reason, "threadId": id, "preserveFocusHint": false, "allThreadsStopped": true,
        });
        for (name, value) in more.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.event("stopped", &body);
        // What waited for a stop is done now.
        let continues = std::mem::take(&mut self.continues);
        if !continues.is_empty() {
            self.resume(id);
            for request in continues {
                self.respond(&request, &json!({ "allThreadsContinued": true }));
            }
        }
        if std::mem::take(&mut self.thread(id).step_at_next_stop) {
            self.finish_step(id);
        }
    }

    /// Resumes the world. The ids of frames are of no use from now on.
    pub(super) fn resume(&mut self, id: i64) {
        for thread in self.threads.values_mut() {
            thread.stopped = false;
            thread.frames.clear();
        }
        self.event(
            "continued",
            &json!({ "threadId": id, "allThreadsContinued": true }),
        );
    }

    pub(super) fn thread_event(&mut self, reason: &str, id: i64) {
        self.event("thread", &json!({ "reason": reason, "threadId": id }));
    }

    pub(super) fn thread(&mut self, id: i64) -> &mut Thread {
        self.threads
            .get_mut(&id)
            .expect("the test names a thread of this process")
    }

    pub(super) fn id(&mut self, thing: Thing) -> i64 {
        let id = i64::try_from(self.things.len()).expect("far fewer") + 1;
        self.things.insert(id, thing);
        id
    }

    pub(super) fn breakpoint_id(&mut self) -> i64 {
        self.next_breakpoint += 1;
        self.next_breakpoint - 1
    }

    /// An id among the arguments that was never handed out.
    pub(super) fn wrong_id(&self, arguments: &Value) -> Option<i64> {
        let ids = ["threadId", "frameId", "variablesReference"]
            .iter()
            .filter_map(|name| arguments[name].as_i64());
        ids.into_iter().find(|id| !self.things.contains_key(id))
    }

    /// The frame that an id of a frame or of its variables belongs to, while its thread is stopped.
    pub(super) fn frame_of(&self, id: &Value) -> Option<i64> {
        let id = id.as_i64()?;
        let frame = match self.things.get(&id)? {
            Thing::Thread => return None,
            Thing::Frame(_) => id,
            Thing::Locals(frame) | Thing::Globals(frame) => *frame,
        };
        self.thread_of(frame).map(|_| frame)
    }

    pub(super) fn thread_of(&self, frame: i64) -> Option<&Thread> {
        self.threads.get(&self.thread_id_of(frame)?)
    }

    pub(super) fn thread_id_of(&self, frame: i64) -> Option<i64> {
        let Some(Thing::Frame(id)) = self.things.get(&frame) else {
            return None;
        };
        self.threads
            .get(id)
            .filter(|thread| thread.stopped && thread.frames.contains(&frame))
            .map(|_| *id)
    }
}
