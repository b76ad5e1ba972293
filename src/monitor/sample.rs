//! What an agent says of its process once a second: the event `dbgproxy/monitor`, read and bounded.
//!
//! The debuggee is not trusted: what cannot be read is left out and counted, texts are cut off, lists end.
//! This module knows the words of the event, and nothing of what they mean together.

use std::time::{Duration, Instant};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// How many bytes a sample may have; a larger one is left out altogether.
pub const MAX_BODY: usize = 1 << 20;

/// How many locks, and how many tasks, of one process are kept; the agent sends the most telling ones first.
pub const MAX_ROWS: usize = 200;

/// How many holders and waiters of one lock are kept.
pub const MAX_ACTORS: usize = 50;

/// How many event loops of one process are kept.
pub const MAX_LOOPS: usize = 16;

/// How many frames of a stack are kept.
pub const MAX_FRAMES: usize = 20;

/// How many exceptions of one sample are kept.
pub const MAX_EXCEPTIONS: usize = 20;

/// How many bytes a name may have; the rest is cut off.
pub const MAX_NAME: usize = 200;

/// How many bytes a path or a message may have; the rest is cut off.
pub const MAX_TEXT: usize = 1024;

/// The greatest number that is believed: sums over all locks of all processes do not overflow.
const MAX_COUNT: u64 = 1 << 40;

/// The most seconds of a core that a sample is believed to have taken.
const MAX_COST: f64 = 3600.0;

/// The greatest age that is believed.
const MAX_AGE: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// One sample.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Sample {
    /// How many seconds it took the process.
    pub cost: f64,
    /// The locks that are watched.
    pub locks: Option<Locks>,
    /// The event loops that have been seen.
    pub loops: Vec<Loop>,
    /// The tasks of all loops.
    pub tasks: Option<Tasks>,
    /// How many parts of it could not be read, or were too many.
    #[serde(skip)]
    pub left_out: u64,
}

/// The locks of a process.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Locks {
    /// How many are watched.
    pub total: u64,
    /// How many of them are not in the list.
    pub dropped: u64,
    /// The most telling ones.
    pub locks: Vec<Lock>,
}

/// A lock.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Lock {
    /// What no other lock of the process has.
    pub id: String,
    /// What it is called in all processes that share it.
    #[serde(default)]
    pub shared: Option<String>,
    /// Whether anybody has it, of a shared one that the process can ask.
    #[serde(default)]
    pub locked: Option<bool>,
    /// What people call it.
    pub name: String,
    /// `threading.Lock` and the like.
    pub kind: String,
    /// Where it was made.
    #[serde(default)]
    pub site: Option<Site>,
    /// Who has it.
    #[serde(default)]
    pub holders: Vec<Use>,
    /// Who wants it.
    #[serde(default)]
    pub waiters: Vec<Use>,
    /// How many want it, where not all are listed.
    #[serde(default, rename = "waiterCount")]
    pub waiter_count: u64,
    /// How often it was taken.
    #[serde(default)]
    pub acquisitions: u64,
    /// How often somebody had to wait for it.
    #[serde(default)]
    pub contended: u64,
    /// How often somebody gave up.
    #[serde(default)]
    pub timeouts: u64,
    /// For how many seconds it was held at most.
    #[serde(default)]
    pub longest: f64,
    /// Whoever holds it has ended.
    #[serde(default)]
    pub leaked: bool,
}

/// Somebody who has a lock or wants it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Use {
    /// Who.
    pub actor: Actor,
    /// Where in the program.
    #[serde(default)]
    pub site: Option<Site>,
    /// For how many seconds.
    pub age: f64,
}

/// A thread, or a task in one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Actor {
    /// The thread's number.
    pub thread: u64,
    /// The thread's name.
    #[serde(default)]
    pub name: String,
    /// The task's id.
    #[serde(default)]
    pub task: Option<String>,
    /// The task's name.
    #[serde(default, rename = "taskName")]
    pub task_name: Option<String>,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Site(pub String, pub u32);

/// A frame of a stack: its function, and the line.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Frame(pub String, pub String, pub u32);

impl Frame {
    /// Where it is.
    #[must_use]
    pub fn site(&self) -> Site {
        Site(self.1.clone(), self.2)
    }
}

/// An event loop.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Loop {
    /// The thread in which it runs.
    pub thread: Actor,
    /// What blocks it now.
    #[serde(default)]
    pub blocked: Option<Blocked>,
    /// What has blocked it since the last sample, and is over.
    #[serde(default)]
    pub last_block: Option<Blocked>,
    /// How many tasks it has.
    #[serde(default)]
    pub tasks: u64,
    /// For how many seconds it was blocked at most.
    #[serde(default)]
    pub longest_block: f64,
    /// How often it was blocked since the last sample.
    #[serde(default)]
    pub blocks: u64,
}

/// What blocks an event loop.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Blocked {
    /// For how many seconds.
    pub age: f64,
    /// The stack that blocks it, the innermost frame first.
    #[serde(default)]
    pub stack: Vec<Frame>,
    /// The task that blocks it.
    #[serde(default)]
    pub task: Option<String>,
}

/// The tasks of a process.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Tasks {
    /// How many there are.
    pub total: u64,
    /// How many of them are not in the list.
    pub dropped: u64,
    /// How many have been made.
    pub created: u64,
    /// How many have come to their end.
    pub completed: u64,
    /// How many an exception has ended.
    pub failed: u64,
    /// How many were called off.
    pub cancelled: u64,
    /// The exceptions that nobody has asked for.
    pub unretrieved: Vec<Unretrieved>,
    /// The oldest ones.
    pub tasks: Vec<Task>,
}

/// An exception of a task that nobody has asked for.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Unretrieved {
    /// What people call the task.
    #[serde(default)]
    pub task: String,
    /// The exception.
    pub message: String,
    /// Where it was raised.
    #[serde(default)]
    pub site: Option<Site>,
}

/// A task.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Task {
    /// What no other task of the process has.
    pub id: String,
    /// What people call it.
    #[serde(default)]
    pub name: String,
    /// The function that it runs.
    #[serde(default)]
    pub coroutine: String,
    /// `running`, `waiting` or `ready`.
    #[serde(default)]
    pub state: String,
    /// For how many seconds it has been there.
    pub age: f64,
    /// Whether that is since its creation, and not since it was first seen.
    #[serde(default)]
    pub stamped: bool,
    /// Where it was made.
    #[serde(default)]
    pub site: Option<Site>,
    /// The task whose end it waits for.
    #[serde(default)]
    pub awaits: Option<String>,
    /// Where it waits, the outermost frame first.
    #[serde(default)]
    pub chain: Vec<Frame>,
}

impl Sample {
    /// Reads the body of the event.
    ///
    /// # Errors
    /// Why nothing of it can be used.
    pub fn read(body: &str) -> Result<Sample, String> {
        if body.len() > MAX_BODY {
            return Err(format!(
                "a sample of {} bytes, of which at most {MAX_BODY} are read",
                body.len()
            ));
        }
        // A list would do for a struct.
        if !body.trim_start().starts_with('{') {
            return Err("a sample that is no object".into());
        }
        let mut sample = match serde_json::from_str(body) {
            Ok(sample) => sample,
            Err(_) => Sample::salvage(body)?,
        };
        sample.bound();
        Ok(sample)
    }

    /// Reads what can be read of a body in which something is wrong.
    fn salvage(body: &str) -> Result<Sample, String> {
        let unreadable =
            |error: serde_json::Error| format!("a sample that cannot be read: {error}");
        let mut body: Value = serde_json::from_str(body).map_err(unreadable)?;
        let mut left_out = sift::<Lock>(body.pointer_mut("/locks/locks"));
        left_out += sift::<Loop>(body.pointer_mut("/loops"));
        left_out += sift::<Task>(body.pointer_mut("/tasks/tasks"));
        left_out += sift::<Unretrieved>(body.pointer_mut("/tasks/unretrieved"));
        let mut sample: Sample = serde_json::from_value(body).map_err(unreadable)?;
        sample.left_out = left_out;
        Ok(sample)
    }

    fn bound(&mut self) {
        let mut left_out = 0;
        self.cost = self.cost.clamp(0.0, MAX_COST);
        if let Some(locks) = &mut self.locks {
            count([&mut locks.total, &mut locks.dropped]);
            left_out += end(&mut locks.locks, MAX_ROWS);
            for lock in &mut locks.locks {
                lock.bound();
            }
        }
        left_out += end(&mut self.loops, MAX_LOOPS);
        for one in &mut self.loops {
            one.thread.bound();
            count([&mut one.tasks, &mut one.blocks]);
            for blocked in [&mut one.blocked, &mut one.last_block]
                .into_iter()
                .flatten()
            {
                stack(&mut blocked.stack);
            }
        }
        if let Some(tasks) = &mut self.tasks {
            count([
                &mut tasks.total,
                &mut tasks.dropped,
                &mut tasks.created,
                &mut tasks.completed,
                &mut tasks.failed,
                &mut tasks.cancelled,
            ]);
            left_out += end(&mut tasks.tasks, MAX_ROWS);
            left_out += end(&mut tasks.unretrieved, MAX_EXCEPTIONS);
            for task in &mut tasks.tasks {
                for text in [
                    &mut task.id,
                    &mut task.name,
                    &mut task.coroutine,
                    &mut task.state,
                ] {
                    cut(text, MAX_NAME);
                }
                if let Some(awaits) = &mut task.awaits {
                    cut(awaits, MAX_NAME);
                }
                site(&mut task.site);
                stack(&mut task.chain);
            }
            for exception in &mut tasks.unretrieved {
                cut(&mut exception.task, MAX_NAME);
                cut(&mut exception.message, MAX_TEXT);
                site(&mut exception.site);
            }
        }
        self.left_out += left_out;
    }
}

impl Lock {
    fn bound(&mut self) {
        for text in [&mut self.id, &mut self.name, &mut self.kind] {
            cut(text, MAX_NAME);
        }
        if let Some(shared) = &mut self.shared {
            cut(shared, MAX_NAME);
        }
        site(&mut self.site);
        self.waiter_count = self.waiter_count.max(self.waiters.len() as u64);
        count([
            &mut self.waiter_count,
            &mut self.acquisitions,
            &mut self.contended,
            &mut self.timeouts,
        ]);
        for uses in [&mut self.holders, &mut self.waiters] {
            end(uses, MAX_ACTORS);
            for one in uses {
                one.actor.bound();
                site(&mut one.site);
            }
        }
    }
}

impl Actor {
    fn bound(&mut self) {
        cut(&mut self.name, MAX_NAME);
        for text in [&mut self.task, &mut self.task_name].into_iter().flatten() {
            cut(text, MAX_NAME);
        }
    }
}

/// Leaves in a list what can be read, and says how much could not.
fn sift<T: DeserializeOwned>(list: Option<&mut Value>) -> u64 {
    let Some(list) = list else { return 0 };
    let Value::Array(items) = list else {
        let is_nothing = list.is_null();
        *list = Value::Array(Vec::new());
        return u64::from(!is_nothing);
    };
    let before = items.len();
    items.retain(|item| T::deserialize(item).is_ok());
    (before - items.len()) as u64
}

/// Lets a list end, and says how much is left out.
fn end<T>(list: &mut Vec<T>, length: usize) -> u64 {
    let left_out = list.len().saturating_sub(length);
    list.truncate(length);
    left_out as u64
}

fn count<const N: usize>(numbers: [&mut u64; N]) {
    for number in numbers {
        *number = (*number).min(MAX_COUNT);
    }
}

fn stack(frames: &mut Vec<Frame>) {
    end(frames, MAX_FRAMES);
    for Frame(function, file, _) in frames {
        cut(function, MAX_NAME);
        cut(file, MAX_TEXT);
    }
}

fn site(site: &mut Option<Site>) {
    if let Some(Site(file, _)) = site {
        cut(file, MAX_TEXT);
    }
}

fn cut(text: &mut String, length: usize) {
    if text.len() > length {
        text.truncate(text.floor_char_boundary(length));
        text.shrink_to_fit();
    }
}

/// So many seconds, as far as they can be believed.
pub(super) fn duration(seconds: f64) -> Duration {
    let duration = Duration::try_from_secs_f64(seconds).unwrap_or(match seconds > 0.0 {
        true => MAX_AGE,
        false => Duration::ZERO,
    });
    duration.min(MAX_AGE)
}

/// When something has begun that is so many seconds old; the future is now.
pub(super) fn since(taken: Instant, age: f64) -> Instant {
    taken.checked_sub(duration(age)).unwrap_or(taken)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn lock(id: &str) -> Value {
        json!({ "id": id, "name": "db", "kind": "threading.Lock" })
    }

    fn read(body: &Value) -> Sample {
        Sample::read(&body.to_string()).unwrap_or_else(|why| panic!("{why}"))
    }

    #[test]
    fn a_whole_sample() {
        let actor =
            json!({ "thread": 7, "name": "MainThread", "task": "t1", "taskName": "Task-1" });
        let held = json!({ "actor": actor, "site": ["/a.py", 3], "age": 1.5 });
        let mut one = lock("1");
        one["holders"] = json!([held]);
        one["shared"] = Value::Null;
        let sample = read(&json!({
            "cost": 0.001, "monitors": ["locks", "tasks"],
            "locks": { "total": 1, "dropped": 0, "locks": [one] },
            "loops": [{ "thread": { "thread": 7, "name": "MainThread", "task": null, "taskName": null },
                        "blocked": { "age": 0.2, "stack": [["sleep", "/a.py", 4]], "task": "t1" },
                        "tasks": 2, "longest_block": 0.2, "blocks": 1 }],
            "tasks": { "total": 2, "dropped": 0, "created": 2, "completed": 0, "failed": 0, "cancelled": 0,
                       "unretrieved": [{ "task": "Task-2", "message": "ValueError: x", "site": ["/a.py", 9] }],
                       "tasks": [{ "id": "t1", "name": "Task-1", "coroutine": "main", "state": "running", "age": 3,
                                   "stamped": false, "site": null, "awaits": null, "chain": [["main", "/a.py", 4]] }] },
        }));
        assert_eq!(sample.left_out, 0);
        let locks = sample.locks.unwrap();
        assert_eq!(
            locks.locks[0].holders[0].site,
            Some(Site("/a.py".into(), 3))
        );
        assert_eq!(
            sample.loops[0].blocked.as_ref().unwrap().stack[0].site(),
            Site("/a.py".into(), 4)
        );
        assert_eq!(sample.tasks.unwrap().tasks[0].age, 3.0);
        assert_eq!(read(&json!({})), Sample::default());
    }

    #[test]
    fn what_cannot_be_read_is_left_out_and_counted() {
        let sample = read(&json!({
            "locks": { "locks": [lock("1"), { "id": 5 }, "x", null, lock("2")] },
            "loops": "none",
            "tasks": { "tasks": [{ "id": "t", "age": "old" }, { "id": "t", "age": -1 }] },
        }));
        assert_eq!(sample.left_out, 5);
        assert_eq!(sample.locks.unwrap().locks.len(), 2);
        assert_eq!(sample.tasks.unwrap().tasks.len(), 1);
        for nonsense in [
            "",
            "[]",
            "5",
            r#"{"locks":5}"#,
            r#"{"cost":1e999}"#,
            r#"{"cost":NaN}"#,
        ] {
            assert!(Sample::read(nonsense).is_err(), "{nonsense}");
        }
        assert!(Sample::read(&format!("{}{{}}", " ".repeat(MAX_BODY))).is_err());
    }

    #[test]
    fn everything_has_an_end() {
        let many =
            |count: usize| -> Vec<Value> { (0..count).map(|id| lock(&id.to_string())).collect() };
        let mut sample = read(&json!({ "locks": { "locks": many(5000) } }));
        assert_eq!(sample.left_out, 4800);
        assert_eq!(sample.locks.take().unwrap().locks.len(), MAX_ROWS);
        let mut long = lock(&"\u{e4}".repeat(MAX_NAME));
        let held = json!({ "actor": { "thread": 1, "name": "n".repeat(9999) }, "age": 1,
                           "site": ["f".repeat(2000), 1] });
        long["waiters"] = vec![held; 70].into();
        let sample = read(&json!({ "locks": { "locks": [long] } }));
        let lock = &sample.locks.unwrap().locks[0];
        assert_eq!(
            (lock.id.len(), lock.waiters.len(), lock.waiter_count),
            (MAX_NAME, MAX_ACTORS, 70)
        );
        assert_eq!(lock.waiters[0].actor.name.len(), MAX_NAME);
        assert_eq!(lock.waiters[0].site.as_ref().unwrap().0.len(), MAX_TEXT);
    }

    #[test]
    fn no_age_is_absurd() {
        let now = Instant::now();
        assert_eq!(since(now, -5.0), now);
        assert_eq!(since(now, f64::NAN), now);
        assert_eq!(now - since(now, 1.5), Duration::from_millis(1500));
        assert!(now - since(now, 1e300) <= MAX_AGE);
    }
}
