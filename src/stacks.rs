//! The stacks of many processes as one: equal stacks once, with who is in them, and all of them as a tree.
//!
//! Everything is kept in the tree alone, from the outermost frame inwards: a stack is one of its nodes together
//! with the nodes above it.
//! This module knows nothing of how processes are asked, and of where the answer goes.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::session::SessionId;

/// How many different stacks an answer has; the threads of further ones are counted as omitted.
pub const MAX_STACKS: usize = 4096;

/// How many threads an answer has; further ones are counted as omitted.
pub const MAX_THREADS: usize = 65_536;

/// How many frames of a stack are kept, the innermost ones; one more says how many were left out.
pub const MAX_FRAMES: usize = 256;

/// How deep the tree of an answer is, in frames; what is deeper is in the list of stacks alone.
///
/// Each frame nests JSON two levels deeper, and many readers give up at 128.
pub const MAX_DEPTH: usize = 56;

/// A process whose threads are somewhere.
#[derive(Debug, Clone)]
pub struct Process {
    /// Its session.
    pub session: SessionId,
    /// Its number.
    pub pid: u32,
    /// What people call it.
    pub name: String,
}

/// A thread or task that is somewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Who {
    /// The session of its process.
    pub session: SessionId,
    /// The number of its process.
    pub pid: u32,
    /// What people call its process.
    pub name: String,
    /// Its own name.
    pub thread: String,
    /// What it is.
    pub kind: Kind,
    /// Whether the debugger holds it.
    pub state: State,
}

/// What has a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A thread.
    Thread,
    /// A task of asyncio.
    Task,
}

/// What it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// It runs, or waits for something of its own.
    Running,
    /// The debugger holds it.
    Stopped,
}

/// A line of a function that is under way.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Frame {
    /// The function.
    pub name: String,
    /// Its file.
    pub path: String,
    /// The line in it; 0 if it has none.
    pub line: u64,
}

impl Frame {
    /// Stands for frames that were left out.
    fn left_out(count: u64) -> Frame {
        Frame {
            name: format!("… {count} frames left out"),
            path: String::new(),
            line: 0,
        }
    }
}

/// What the guard of a process answers to `stacks`.
#[derive(Debug, Deserialize)]
pub struct Answer {
    threads: Vec<Thread>,
    /// How many threads and tasks it left out.
    #[serde(default)]
    omitted: u64,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    name: String,
    /// pydevd's number of the thread, if it has one.
    thread_id: Option<i64>,
    kind: Kind,
    /// The innermost first. Between two lines a frame may have no line.
    frames: Vec<(String, String, Option<u64>)>,
    /// How many frames it left out, the outermost ones.
    #[serde(default)]
    omitted: u64,
}

/// Stacks, merged.
#[derive(Debug, Default)]
pub struct Merged {
    /// In the order in which they were seen first; each behind the one that is above it.
    nodes: Vec<Node>,
    /// The node of each frame below another, or below none.
    places: HashMap<(Option<usize>, Arc<Frame>), usize>,
    /// The nodes at which a stack ends, in the order in which the stacks were seen first.
    ends: Vec<usize>,
    /// Who is in no frame at all.
    nowhere: Vec<Who>,
    /// How many threads there are.
    threads: usize,
    /// How many threads were left out.
    omitted: u64,
}

#[derive(Debug)]
struct Node {
    frame: Arc<Frame>,
    above: Option<usize>,
    /// How many threads are in it or deeper.
    count: usize,
    /// Who is in it and not deeper.
    threads: Vec<Who>,
}

/// A stack and who is in it.
#[derive(Debug)]
pub struct Stack<'a> {
    /// The innermost first.
    pub frames: Vec<&'a Frame>,
    /// Who is there, in the order in which they were added.
    pub threads: &'a [Who],
}

/// A frame of the tree.
#[derive(Debug)]
pub struct Branch<'a> {
    /// The frame.
    pub frame: &'a Frame,
    /// How many threads are in it or deeper.
    pub count: usize,
    /// Who is in it and not deeper.
    pub threads: &'a [Who],
    /// What it calls, the most frequent first.
    pub children: Vec<Branch<'a>>,
}

impl Merged {
    /// Adds what a process answered; `is_stopped` says it of a thread, by pydevd's number.
    pub fn add_answer(
        &mut self,
        process: &Process,
        answer: Answer,
        is_stopped: impl Fn(i64) -> bool,
    ) {
        self.omitted = self.omitted.saturating_add(answer.omitted);
        for thread in answer.threads {
            let frame = |(name, path, line): (String, String, Option<u64>)| Frame {
                name,
                path,
                line: line.unwrap_or(0),
            };
            let mut frames: Vec<Frame> = thread.frames.into_iter().map(frame).collect();
            if thread.omitted > 0 {
                frames.push(Frame::left_out(thread.omitted));
            }
            let state = match thread.thread_id {
                Some(id) if is_stopped(id) => State::Stopped,
                _ => State::Running,
            };
            let who = Who {
                session: process.session,
                pid: process.pid,
                name: process.name.clone(),
                thread: thread.name,
                kind: thread.kind,
                state,
            };
            self.add(who, frames);
        }
    }

    /// Adds a thread and its stack, the innermost frame first.
    pub fn add(&mut self, who: Who, mut frames: Vec<Frame>) {
        if frames.len() > MAX_FRAMES + 1 {
            let left_out = frames.len() - MAX_FRAMES;
            frames.truncate(MAX_FRAMES);
            frames.push(Frame::left_out(left_out as u64));
        }
        let frames: Vec<Arc<Frame>> = frames.into_iter().rev().map(Arc::new).collect();
        if self.threads == MAX_THREADS
            || (self.ends.len() == MAX_STACKS && !self.is_known(frames.iter()))
        {
            self.omitted = self.omitted.saturating_add(1);
            return;
        }
        self.threads += 1;
        let mut above = None;
        for frame in frames {
            let next = self.nodes.len();
            let at = *self.places.entry((above, frame.clone())).or_insert(next);
            if at == next {
                self.nodes.push(Node {
                    frame,
                    above,
                    count: 0,
                    threads: Vec::new(),
                });
            }
            self.nodes[at].count += 1;
            above = Some(at);
        }
        let Some(end) = above else {
            self.nowhere.push(who);
            return;
        };
        if self.nodes[end].threads.is_empty() {
            self.ends.push(end);
        }
        self.nodes[end].threads.push(who);
    }

    /// Whether somebody is in this stack, the outermost frame first.
    fn is_known<'a>(&self, frames: impl Iterator<Item = &'a Arc<Frame>>) -> bool {
        let mut above = None;
        for frame in frames {
            match self.places.get(&(above, frame.clone())) {
                Some(at) => above = Some(*at),
                None => return false,
            }
        }
        above.is_none_or(|end| !self.nodes[end].threads.is_empty())
    }

    /// How many threads and tasks were left out.
    #[must_use]
    pub fn omitted(&self) -> u64 {
        self.omitted
    }

    /// The different stacks, the most frequent first, and otherwise in the order in which they were seen.
    #[must_use]
    pub fn stacks(&self) -> Vec<Stack<'_>> {
        let mut stacks: Vec<Stack<'_>> = self
            .ends
            .iter()
            .map(|end| Stack {
                frames: std::iter::successors(Some(&self.nodes[*end]), |node| {
                    node.above.map(|above| &self.nodes[above])
                })
                .map(|node| &*node.frame)
                .collect(),
                threads: &self.nodes[*end].threads,
            })
            .collect();
        if !self.nowhere.is_empty() {
            stacks.push(Stack {
                frames: Vec::new(),
                threads: &self.nowhere,
            });
        }
        stacks.sort_by_key(|stack| Reverse(stack.threads.len()));
        stacks
    }

    /// All stacks as a tree from the outermost frames; siblings in the order of [`Merged::stacks`].
    #[must_use]
    pub fn tree(&self) -> Vec<Branch<'_>> {
        // Each node is behind the one above it, so that from the back all that is below a node is there before it.
        let mut below: HashMap<Option<usize>, Vec<Branch<'_>>> = HashMap::new();
        for (at, node) in self.nodes.iter().enumerate().rev() {
            let mut children = below.remove(&Some(at)).unwrap_or_default();
            order(&mut children);
            below.entry(node.above).or_default().push(Branch {
                frame: &node.frame,
                count: node.count,
                threads: &node.threads,
                children,
            });
        }
        let mut roots = below.remove(&None).unwrap_or_default();
        order(&mut roots);
        roots
    }

    /// The answer of the verb `stacks`, but for its rows: `stacks`, `tree` and `omitted`.
    ///
    /// In the tree a node that is [`MAX_DEPTH`] deep has no children, but says that it is `cut`.
    #[must_use]
    pub fn into_json(self) -> Value {
        let stacks: Vec<Value> = self
            .stacks()
            .into_iter()
            .map(|Stack { frames, threads }| {
                json!({ "count": threads.len(), "frames": frames, "threads": threads })
            })
            .collect();
        let tree: Vec<Value> = self
            .tree()
            .iter()
            .map(|branch| branch.json(MAX_DEPTH))
            .collect();
        json!({ "stacks": stacks, "tree": tree, "omitted": self.omitted })
    }

    /// Reads the `stacks` of an answer; the rest can be made of them.
    ///
    /// # Errors
    /// It is no such answer.
    pub fn from_json(answer: &Value) -> Result<Merged, serde_json::Error> {
        #[derive(Deserialize)]
        struct Same {
            frames: Vec<Frame>,
            threads: Vec<Who>,
        }
        let mut merged = Merged::default();
        for same in Vec::<Same>::deserialize(&answer["stacks"])? {
            for who in same.threads {
                merged.add(who, same.frames.clone());
            }
        }
        merged.omitted += answer["omitted"].as_u64().unwrap_or(0);
        Ok(merged)
    }
}

/// Puts siblings, which come in the opposite of the order in which they were seen, into theirs.
fn order(siblings: &mut [Branch<'_>]) {
    siblings.reverse();
    siblings.sort_by_key(|branch| Reverse(branch.count));
}

impl Branch<'_> {
    fn json(&self, depth: usize) -> Value {
        let is_cut = depth <= 1 && !self.children.is_empty();
        let children: Vec<Value> = if is_cut {
            Vec::new()
        } else {
            self.children
                .iter()
                .map(|child| child.json(depth - 1))
                .collect()
        };
        let mut node = json!({
            "frame": self.frame,
            "count": self.count,
            "threads": self.threads,
            "children": children,
        });
        if is_cut {
            node["cut"] = Value::Bool(true);
        }
        node
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The main thread of a process that is known by its number.
    pub(crate) fn main_thread(pid: u32, name: &str) -> Who {
        Who {
            session: SessionId::from_u128(u128::from(pid)),
            pid,
            name: name.to_owned(),
            thread: "MainThread".to_owned(),
            kind: Kind::Thread,
            state: State::Running,
        }
    }

    /// Frames, the outermost first as people call, each `NAME PATH:LINE`, as a stack.
    pub(crate) fn stack(calls: &[&str]) -> Vec<Frame> {
        let frame = |text: &&str| {
            let (name, place) = text.split_once(' ').unwrap();
            let (path, line) = place.rsplit_once(':').unwrap();
            Frame {
                name: name.to_owned(),
                path: path.to_owned(),
                line: line.parse().unwrap(),
            }
        };
        calls.iter().rev().map(frame).collect()
    }

    #[test]
    fn equal_stacks_are_one_and_shared_callers_too() {
        let mut merged = Merged::default();
        merged.add(main_thread(1, "main"), stack(&["f a.py:1", "wait b.py:9"]));
        merged.add(main_thread(2, "w-1"), stack(&["f a.py:1", "g a.py:5"]));
        merged.add(main_thread(3, "w-2"), stack(&["f a.py:2"]));
        merged.add(main_thread(4, "w-3"), stack(&["f a.py:1", "g a.py:5"]));
        merged.add(main_thread(5, "w-4"), stack(&["f a.py:1"]));
        let frame = |name, path, line: u64| json!({"name": name, "path": path, "line": line});
        let who = |pid: u32, name| serde_json::to_value(main_thread(pid, name)).unwrap();
        assert_eq!(
            who(1, "main"),
            json!({"session": "00000000-0000-0000-0000-000000000001", "pid": 1, "name": "main",
                "thread": "MainThread", "kind": "thread", "state": "running"})
        );
        assert_eq!(
            merged.into_json(),
            json!({
                "stacks": [
                    {"count": 2, "frames": [frame("g", "a.py", 5), frame("f", "a.py", 1)],
                     "threads": [who(2, "w-1"), who(4, "w-3")]},
                    {"count": 1, "frames": [frame("wait", "b.py", 9), frame("f", "a.py", 1)],
                     "threads": [who(1, "main")]},
                    {"count": 1, "frames": [frame("f", "a.py", 2)], "threads": [who(3, "w-2")]},
                    {"count": 1, "frames": [frame("f", "a.py", 1)], "threads": [who(5, "w-4")]},
                ],
                "tree": [
                    {"frame": frame("f", "a.py", 1), "count": 4, "threads": [who(5, "w-4")], "children": [
                        {"frame": frame("g", "a.py", 5), "count": 2,
                         "threads": [who(2, "w-1"), who(4, "w-3")], "children": []},
                        {"frame": frame("wait", "b.py", 9), "count": 1,
                         "threads": [who(1, "main")], "children": []},
                    ]},
                    {"frame": frame("f", "a.py", 2), "count": 1, "threads": [who(3, "w-2")], "children": []},
                ],
                "omitted": 0,
            })
        );
    }

    #[test]
    fn an_answer_of_the_guard() {
        let answer: Answer = serde_json::from_value(json!({
            "threads": [
                {"name": "MainThread", "threadId": 1, "kind": "thread", "omitted": 3,
                 "frames": [["g", "/a.py", null], ["f", "/a.py", 2]]},
                {"name": "Task-1", "threadId": null, "kind": "task", "frames": [], "omitted": 0},
            ],
            "omitted": 4,
        }))
        .unwrap();
        let process = Process {
            session: SessionId::from_u128(7),
            pid: 7,
            name: "p".to_owned(),
        };
        let mut merged = Merged::default();
        merged.add_answer(&process, answer, |thread| thread == 1);
        assert_eq!(merged.omitted(), 4);
        let stacks = merged.stacks();
        let names = |stack: &Stack| -> Vec<String> {
            let name = |frame: &&Frame| format!("{} {}:{}", frame.name, frame.path, frame.line);
            stack.frames.iter().map(name).collect()
        };
        assert_eq!(
            names(&stacks[0]),
            ["g /a.py:0", "f /a.py:2", "… 3 frames left out :0"]
        );
        assert_eq!(stacks[0].threads[0].state, State::Stopped);
        assert!(stacks[1].frames.is_empty());
        assert_eq!(stacks[1].threads[0].kind, Kind::Task);
        assert_eq!(stacks[1].threads[0].state, State::Running);
    }

    #[test]
    fn further_stacks_are_counted_but_known_ones_taken() {
        let mut merged = Merged::default();
        for line in 0..MAX_STACKS as u64 + 5 {
            merged.add(
                main_thread(1, "p"),
                stack(&["f a.py:1", &format!("g a.py:{line}")]),
            );
        }
        merged.add(main_thread(2, "p"), stack(&["f a.py:1", "g a.py:0"]));
        merged.add(main_thread(2, "p"), stack(&["f a.py:1"]));
        assert_eq!(merged.omitted(), 6);
        let stacks = merged.stacks();
        assert_eq!(stacks.len(), MAX_STACKS);
        assert_eq!(stacks[0].threads.len(), 2);
        assert_eq!(merged.tree()[0].count, MAX_STACKS + 1);
    }

    #[test]
    fn a_deep_recursion_keeps_its_innermost_frames_and_can_be_read() {
        let mut merged = Merged::default();
        let mut calls: Vec<String> = (0..1000).map(|line| format!("f a.py:{line}")).collect();
        calls.push("last a.py:7".to_owned());
        let calls: Vec<&str> = calls.iter().map(String::as_str).collect();
        merged.add(main_thread(1, "p"), stack(&calls));
        let stacks = merged.stacks();
        assert_eq!(stacks[0].frames.len(), MAX_FRAMES + 1);
        assert_eq!(stacks[0].frames[0].name, "last");
        assert_eq!(stacks[0].frames[MAX_FRAMES].name, "… 745 frames left out");
        // As deep as it stands in an answer over DAP.
        let answer = json!({ "body": merged.into_json() }).to_string();
        let answer: Value = serde_json::from_str(&answer).expect("not too deep for readers");
        let mut node = &answer["body"]["tree"][0];
        let mut depth = 1;
        while node["cut"].is_null() {
            node = &node["children"][0];
            depth += 1;
        }
        assert_eq!(depth, MAX_DEPTH);
    }

    proptest! {
        #[test]
        fn what_was_added_is_in_the_list_and_in_the_tree(
            stacks in prop::collection::vec(prop::collection::vec(0..3_u64, 0..5), 0..40)
        ) {
            let frames = |lines: &[u64]| -> Vec<Frame> {
                lines.iter().map(|line| Frame { name: "f".into(), path: "a.py".into(), line: *line }).collect()
            };
            let mut merged = Merged::default();
            for (pid, lines) in (0..).zip(&stacks) {
                merged.add(main_thread(pid, "p"), frames(lines));
            }
            let listed = merged.stacks();
            prop_assert!(listed.is_sorted_by_key(|stack| Reverse(stack.threads.len())));
            let mut pids = Vec::new();
            for stack in &listed {
                prop_assert!(!stack.threads.is_empty());
                for who in stack.threads {
                    let own = frames(&stacks[who.pid as usize]);
                    prop_assert_eq!(&stack.frames, &own.iter().collect::<Vec<_>>());
                    pids.push(who.pid);
                }
            }
            pids.sort_unstable();
            prop_assert_eq!(pids, (0..stacks.len() as u32).collect::<Vec<_>>());

            let nowhere = stacks.iter().filter(|lines| lines.is_empty()).count();
            let tree = merged.tree();
            prop_assert_eq!(tree.iter().map(|root| root.count).sum::<usize>() + nowhere, stacks.len());
            let mut waiting: Vec<&Branch> = tree.iter().collect();
            while let Some(branch) = waiting.pop() {
                let below: usize = branch.children.iter().map(|child| child.count).sum();
                prop_assert_eq!(branch.count, branch.threads.len() + below);
                prop_assert!(branch.children.is_sorted_by_key(|child| Reverse(child.count)));
                waiting.extend(&branch.children);
            }

            let json = merged.into_json();
            let read = Merged::from_json(&json).unwrap();
            prop_assert_eq!(read.into_json()["stacks"].clone(), json["stacks"].clone());
        }
    }
}
