//! The stop state of a process: its threads, and which of them are stopped, and why.
//!
//! pydevd tells this to nobody twice, so the daemon keeps it, for those who come later, and to know which
//! requests make sense now. It is fed by pydevd's own events.
//! This module knows no connection and no client.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use crate::breakpoints::{Changed, Place};
use crate::wire::Message;

/// How many threads of one process are kept; of further ones only their stops are known.
pub const MAX_THREADS: usize = 4096;

/// The threads of one process.
#[derive(Default)]
pub struct Threads {
    /// By pydevd's thread id, the `thread` event that announced it.
    known: BTreeMap<i64, Message>,
    /// The threads of the last list that the process gave.
    listed: BTreeSet<i64>,
    /// The `stopped` events that are in force, by the thread that each names.
    stopped: BTreeMap<i64, Stop>,
    /// Whether one of them stops all threads.
    all_stopped: bool,
    /// A resuming request is under way: what is stopped will run before it is answered.
    resuming: bool,
}

/// A thread that is stopped.
#[derive(Clone)]
pub struct Stop {
    /// The event, as it came.
    pub event: Message,
    /// What it says.
    pub body: StoppedBody,
    /// Where the breakpoints are that were hit: pydevd's numbers for them change whenever they are set anew.
    pub hit: Vec<(Changed, Place)>,
    /// Which parts of merged breakpoints held, as `CLIENT:ID`; empty where nothing is merged.
    pub held: Vec<String>,
}

/// The fields of a `stopped` event that the daemon reads.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StoppedBody {
    /// Why, in DAP's words.
    pub reason: String,
    /// The thread that caused it.
    #[serde(default)]
    pub thread_id: i64,
    /// Whether all threads stopped with it.
    #[serde(default)]
    pub all_threads_stopped: bool,
    /// pydevd's numbers of the breakpoints that were hit.
    #[serde(default)]
    pub hit_breakpoint_ids: Option<Vec<i64>>,
}

impl Threads {
    /// A `thread` event came; true if it is news.
    pub fn on_thread(&mut self, event: &Message) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body<'a> {
            reason: &'a str,
            thread_id: i64,
        }
        let Ok(body) = event.decode::<Body<'_>>() else {
            return false;
        };
        if body.reason == "exited" {
            self.stopped.remove(&body.thread_id);
            self.listed.remove(&body.thread_id);
            self.all_stopped &= !self.stopped.is_empty();
            self.known.remove(&body.thread_id).is_some()
        } else if self.known.contains_key(&body.thread_id) {
            false
        } else {
            if self.known.len() < MAX_THREADS {
                self.known.insert(body.thread_id, event.detached());
            }
            true
        }
    }

    /// The process has listed its threads: one may be there whose `thread` event has not come yet.
    pub fn on_listed(&mut self, threads: impl Iterator<Item = i64>) {
        self.listed = threads.take(MAX_THREADS).collect();
    }

    /// A `stopped` event came.
    pub fn on_stopped(&mut self, stop: &Stop) {
        self.resuming = false;
        if stop.body.all_threads_stopped {
            // One event for the whole world: an older one is no longer what a newcomer should see.
            self.stopped.clear();
            self.all_stopped = true;
        }
        // Who is among them already may always stop anew.
        let thread = stop.body.thread_id;
        if self.stopped.len() < MAX_THREADS || self.stopped.contains_key(&thread) {
            let stop = Stop {
                event: stop.event.detached(),
                ..stop.clone()
            };
            self.stopped.insert(thread, stop);
        }
    }

    /// A `continued` event came; false if it cannot be read.
    pub fn on_continued(&mut self, event: &Message) -> bool {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Body {
            #[serde(default)]
            thread_id: i64,
            /// DAP 1.70: true where it is not said.
            all_threads_continued: Option<bool>,
        }
        let Ok(body) = event.decode::<Body>() else {
            return false;
        };
        self.resuming = false;
        if body.all_threads_continued == Some(false) {
            self.stopped.remove(&body.thread_id);
            self.all_stopped &= !self.stopped.is_empty();
        } else {
            self.running();
        }
        true
    }

    /// A request that makes threads run was sent to the process.
    pub fn on_resume_sent(&mut self) {
        self.resuming = true;
    }

    /// The process refused to resume.
    pub fn on_resume_failed(&mut self) {
        self.resuming = false;
    }

    /// Everything runs: no thread is stopped any more.
    pub fn running(&mut self) {
        self.stopped.clear();
        self.all_stopped = false;
    }

    /// Whether anything is stopped, and stays so for all that is known.
    #[must_use]
    pub fn any_stopped(&self) -> bool {
        !self.resuming && !self.stopped.is_empty()
    }

    /// Whether all threads are stopped.
    #[must_use]
    pub fn all_stopped(&self) -> bool {
        !self.resuming && self.all_stopped
    }

    /// Whether this thread is stopped, so that a step or a question about its frames makes sense.
    #[must_use]
    pub fn is_stopped(&self, thread: i64) -> bool {
        !self.resuming
            && (self.stopped.contains_key(&thread) || self.all_stopped && self.knows(thread))
    }

    /// Whether this thread has been seen and has not ended.
    #[must_use]
    pub fn knows(&self, thread: i64) -> bool {
        self.known.contains_key(&thread)
            || self.stopped.contains_key(&thread)
            || self.listed.contains(&thread)
    }

    /// The stops in force, by thread.
    pub fn stops(&self) -> impl Iterator<Item = &Stop> {
        self.stopped.values()
    }

    /// The `thread` events of all threads that live.
    pub fn started(&self) -> impl Iterator<Item = &Message> {
        self.known.values()
    }

    /// The process image is gone: forgets all threads and gives their numbers.
    pub fn take(&mut self) -> Vec<i64> {
        let threads = std::mem::take(self);
        threads.known.into_keys().collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value, json};

    use super::*;

    /// An event with a body of these fields, null standing for those that are left out.
    fn event(name: &str, body: Value) -> Message {
        let body: Map<String, Value> = serde_json::from_value(body).expect("a body is an object");
        let said = body.into_iter().filter(|(_, value)| !value.is_null());
        Message::event(name, said.collect::<Map<_, _>>())
    }

    fn stop(thread: Option<i64>, all: Option<bool>, reason: &str) -> Stop {
        let event = event(
            "stopped",
            json!({ "reason": reason, "threadId": thread, "allThreadsStopped": all }),
        );
        Stop {
            body: event.decode().expect("it has a reason"),
            event,
            hit: Vec::new(),
            held: Vec::new(),
        }
    }

    /// One line of a conversation: what happened, to which thread, and whether to all.
    fn play(threads: &mut Threads, line: &str) {
        let mut words = line.split_whitespace();
        let what = words.next().unwrap_or_default();
        let mut thread = None;
        let mut all = None;
        let mut reason = "breakpoint";
        for word in words {
            match word {
                "all" => all = Some(true),
                "one" => all = Some(false),
                word => match word.parse() {
                    Ok(number) => thread = Some(number),
                    Err(_) => reason = word,
                },
            }
        }
        match what {
            "started" | "exited" => {
                let event = event("thread", json!({ "reason": what, "threadId": thread }));
                threads.on_thread(&event);
            }
            "stopped" => threads.on_stopped(&stop(thread, all, reason)),
            "continued" => {
                let body = json!({ "threadId": thread, "allThreadsContinued": all });
                assert!(threads.on_continued(&event("continued", body)));
            }
            "resume" => threads.on_resume_sent(),
            "refused" => threads.on_resume_failed(),
            "running" => threads.running(),
            other => panic!("{other} is no part of a conversation"),
        }
    }

    /// The state in words: the threads that are known, `*` at those that are stopped, and whether all are.
    fn show(threads: &Threads) -> String {
        let mut numbers: Vec<i64> = threads.known.keys().copied().collect();
        numbers.extend(threads.stopped.keys());
        numbers.sort_unstable();
        numbers.dedup();
        let mut words: Vec<String> = numbers
            .iter()
            .map(|number| {
                let star = if threads.is_stopped(*number) { "*" } else { "" };
                format!("{number}{star}")
            })
            .collect();
        words.push(
            match (threads.any_stopped(), threads.all_stopped()) {
                (false, false) => "running",
                (true, false) => "some",
                (true, true) => "all",
                (false, true) => "all without any",
            }
            .to_owned(),
        );
        words.join(" ")
    }

    /// Each line is what happens and, behind the arrow, what is the case then.
    fn check(conversation: &str) {
        let mut threads = Threads::default();
        for line in conversation
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
        {
            let (happens, expected) = line.split_once("->").expect("a line has an arrow");
            play(&mut threads, happens);
            assert_eq!(show(&threads), expected.trim(), "after {happens:?}");
        }
    }

    #[test]
    fn threads_come_and_go() {
        check(
            "started 1 -> 1 running
             started 2 -> 1 2 running
             started 1 -> 1 2 running
             exited 3 -> 1 2 running
             exited 1 -> 2 running
             started 1 -> 1 2 running
             exited 1 -> 2 running
             exited 2 -> running",
        );
    }

    #[test]
    fn one_thread_stops_the_world() {
        check(
            "started 1 -> 1 running
             started 2 -> 1 2 running
             stopped 2 all -> 1* 2* all
             started 3 -> 1* 2* 3* all
             exited 1 -> 2* 3* all
             continued 2 all -> 2 3 running
             stopped 3 all -> 2* 3* all
             stopped 2 all step -> 2* 3* all
             exited 2 -> 3 running",
        );
    }

    #[test]
    fn continued_means_all_unless_it_says_otherwise() {
        check(
            "started 1 -> 1 running
             started 2 -> 1 2 running
             stopped 1 all -> 1* 2* all
             continued 1 -> 1 2 running
             stopped 1 -> 1* 2 some
             stopped 2 -> 1* 2* some
             continued 1 -> 1 2 running
             stopped 1 -> 1* 2 some
             continued -> 1 2 running",
        );
    }

    #[test]
    fn threads_may_stop_each_by_itself() {
        check(
            "started 1 -> 1 running
             started 2 -> 1 2 running
             started 3 -> 1 2 3 running
             stopped 1 one -> 1* 2 3 some
             stopped 3 -> 1* 2 3* some
             continued 2 one -> 1* 2 3* some
             continued 1 one -> 1 2 3* some
             stopped 1 one pause -> 1* 2 3* some
             exited 3 -> 1* 2 some
             continued 1 one -> 1 2 running
             continued 1 one -> 1 2 running",
        );
    }

    #[test]
    fn a_stop_of_all_takes_the_place_of_older_ones() {
        check(
            "started 1 -> 1 running
             started 2 -> 1 2 running
             stopped 1 one -> 1* 2 some
             stopped 2 all -> 1* 2* all
             continued 2 one -> 1 2 running",
        );
        let mut threads = Threads::default();
        play(&mut threads, "stopped 1 one");
        play(&mut threads, "stopped 2 all step");
        let reasons: Vec<&str> = threads.stops().map(|stop| &*stop.body.reason).collect();
        assert_eq!(reasons, ["step"]);
    }

    #[test]
    fn a_thread_may_stop_before_it_is_announced() {
        check(
            "stopped 7 all -> 7* all
             started 7 -> 7* all
             continued 7 -> 7 running
             stopped 8 one -> 7 8* some
             exited 8 -> 7 running",
        );
    }

    #[test]
    fn a_resuming_request_counts_before_it_is_answered() {
        check(
            "started 1 -> 1 running
             stopped 1 all -> 1* all
             resume -> 1 running
             refused -> 1* all
             resume -> 1 running
             continued 1 all -> 1 running
             stopped 1 all step -> 1* all
             resume -> 1 running
             stopped 1 all step -> 1* all
             running -> 1 running",
        );
    }

    #[test]
    fn a_continued_event_that_cannot_be_read_changes_nothing() {
        for body in [
            json!({ "threadId": "one", "allThreadsContinued": false }),
            json!({ "threadId": 1, "allThreadsContinued": "no" }),
            json!(5),
        ] {
            let mut threads = Threads::default();
            play(&mut threads, "started 1");
            play(&mut threads, "stopped 1 all");
            assert!(!threads.on_continued(&Message::event("continued", &body)));
            assert_eq!(show(&threads), "1* all", "{body}");
        }
    }

    #[test]
    fn a_listed_thread_is_known_until_it_is_listed_no_more() {
        let mut threads = Threads::default();
        play(&mut threads, "stopped 1 all");
        assert!(!threads.is_stopped(2));
        threads.on_listed([1, 2, 3].into_iter());
        assert!(threads.is_stopped(2) && threads.is_stopped(3));
        play(&mut threads, "exited 3");
        assert!(!threads.knows(3));
        threads.on_listed([1].into_iter());
        assert!(!threads.knows(2) && threads.is_stopped(1));
        threads.on_listed(0..i64::MAX);
        let bound = MAX_THREADS as i64;
        assert!(threads.knows(bound - 1) && !threads.knows(bound));
    }

    #[test]
    fn only_news_is_news() {
        let mut threads = Threads::default();
        let mut news = |reason: &str, thread: Value| {
            threads.on_thread(&event(
                "thread",
                json!({ "reason": reason, "threadId": thread }),
            ))
        };
        assert!(news("started", json!(1)));
        assert!(!news("started", json!(1)));
        assert!(news("exited", json!(1)));
        assert!(!news("exited", json!(1)));
        assert!(!news("started", json!("one")));
        assert!(!news("started", Value::Null));
    }

    #[test]
    fn a_newcomer_is_shown_the_threads_and_their_last_stops() {
        let mut threads = Threads::default();
        for line in [
            "started 2",
            "started 1",
            "started 3",
            "exited 3",
            "stopped 2 one pause",
            "stopped 2 one step",
        ] {
            play(&mut threads, line);
        }
        let started: Vec<String> = threads
            .started()
            .map(|event| format!("{event:?}"))
            .collect();
        let expected = [1, 2].map(|thread| {
            let body = json!({ "reason": "started", "threadId": thread });
            format!("{:?}", event("thread", body))
        });
        assert_eq!(started, expected);
        let stops: Vec<(i64, &str)> = threads
            .stops()
            .map(|stop| (stop.body.thread_id, &*stop.body.reason))
            .collect();
        assert_eq!(stops, [(2, "step")]);

        assert_eq!(threads.take(), [1, 2]);
        assert_eq!(show(&threads), "running");
    }

    #[test]
    fn the_number_of_threads_is_bounded() {
        let bound = MAX_THREADS as i64;
        let mut threads = Threads::default();
        for thread in 0..bound + 10 {
            let body = json!({ "reason": "started", "threadId": thread });
            // Watchers hear of each one, for it is we who keep no more.
            assert!(threads.on_thread(&event("thread", body)));
        }
        assert_eq!(threads.started().count(), MAX_THREADS);
        assert!(threads.knows(bound - 1) && !threads.knows(bound));

        play(&mut threads, &format!("stopped {bound} one"));
        assert!(threads.knows(bound) && threads.is_stopped(bound));
        for thread in 0..bound + 10 {
            play(&mut threads, &format!("stopped {thread} one"));
        }
        assert_eq!(threads.stops().count(), MAX_THREADS);

        // A thread that is among them may stop anew.
        play(&mut threads, "stopped 5 one exception");
        let fifth = threads.stops().find(|stop| stop.body.thread_id == 5);
        assert_eq!(fifth.map(|stop| &*stop.body.reason), Some("exception"));

        // Room is there again once one has ended.
        play(&mut threads, "exited 5");
        play(&mut threads, &format!("started {}", bound + 20));
        play(&mut threads, &format!("stopped {} one", bound + 20));
        assert!(threads.is_stopped(bound + 20));
        assert_eq!(threads.stops().count(), MAX_THREADS);
    }
}
