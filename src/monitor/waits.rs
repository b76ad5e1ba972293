//! Who waits for whom: from what is held and what is wanted to those who will wait for ever.
//!
//! Knows actors and resources, over all processes, and not what they are made of.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use super::findings::{Found, Kind, Site};
use super::{Context, short};
use crate::session::SessionId;

/// How long each of a cycle must have waited: what ends sooner is no cycle that anybody suffers from.
pub const CYCLE_WAIT: Duration = Duration::from_millis(500);

/// How many cycles are found at a time that begin in one process; it has few threads that can be in one.
const MAX_CYCLES: usize = 50;

/// How many members of a cycle its message names.
const MAX_MEMBERS: usize = 8;

/// Who can hold something and wait.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Node {
    /// A thread, by its number.
    Thread(SessionId, u64),
    /// A task, by its id.
    Task(SessionId, String),
}

impl Node {
    /// The process that it is in.
    #[must_use]
    pub fn session(&self) -> SessionId {
        match self {
            Node::Thread(session, _) | Node::Task(session, _) => *session,
        }
    }
}

/// What can be held and waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Resource {
    /// A lock of one process, by its id.
    Lock(SessionId, String),
    /// A lock of several processes, by the name that they all have for it.
    Shared(String),
    /// The end of a task, which the task itself holds.
    End(SessionId, String),
    /// A thread, which is held by whatever blocks it.
    Thread(SessionId, u64),
}

/// One who holds or waits.
#[derive(Debug, Clone)]
pub struct Edge {
    /// Who.
    pub node: Node,
    /// What people call them, with their process.
    pub who: String,
    /// What is held or waited for.
    pub resource: Resource,
    /// What people call that.
    pub what: String,
    /// Where in the program.
    pub site: Option<Site>,
    /// Since when.
    pub since: Instant,
    /// Until when this is known.
    pub seen: Instant,
}

/// All that hold and wait.
#[derive(Debug, Default)]
pub struct Waits {
    waits: Vec<Edge>,
    holds: HashMap<Resource, Vec<Edge>>,
    /// What may be let go of by somebody who is not known.
    free: HashSet<Resource>,
}

/// The cycles that there are.
#[derive(Debug, Default)]
pub struct Cycles {
    /// As findings.
    pub found: Vec<Found>,
    /// What is held in them: it is not told of again because it is held for long.
    pub resources: HashSet<Resource>,
    /// Who waits in them, and is not told of again either.
    pub nodes: HashSet<Node>,
}

impl Waits {
    /// Somebody waits.
    pub fn wait(&mut self, edge: Edge) {
        self.waits.push(edge);
    }

    /// Somebody holds something.
    pub fn hold(&mut self, edge: Edge) {
        self.holds
            .entry(edge.resource.clone())
            .or_default()
            .push(edge);
    }

    /// Somebody unknown may let go of it.
    pub fn free(&mut self, resource: Resource) {
        self.free.insert(resource);
    }

    /// A task does not run on while its thread is blocked.
    fn block_tasks(&mut self, threads: &HashMap<Node, u64>) {
        let mut blocked: HashMap<Node, usize> = HashMap::new();
        let mut waiting = HashSet::new();
        for (at, wait) in self.waits.iter().enumerate() {
            waiting.insert(wait.node.clone());
            if matches!(wait.node, Node::Thread(..)) {
                blocked.insert(wait.node.clone(), at);
            }
        }
        let holders: BTreeSet<Node> = self
            .holds
            .values()
            .flatten()
            .map(|hold| hold.node.clone())
            .collect();
        for task in holders {
            let Some(number) = threads.get(&task).filter(|_| !waiting.contains(&task)) else {
                continue;
            };
            let thread = Node::Thread(task.session(), *number);
            let Some(wait) = blocked.get(&thread).and_then(|at| self.waits.get(*at)) else {
                continue;
            };
            let resource = Resource::Thread(task.session(), *number);
            let held = Edge {
                resource: resource.clone(),
                ..wait.clone()
            };
            let who = self.holds.values().flatten().find(|hold| hold.node == task);
            let who = who.map(|hold| hold.who.clone()).unwrap_or_default();
            self.wait(Edge {
                node: task,
                who,
                what: "its thread".into(),
                site: None,
                ..held.clone()
            });
            if !self.holds.contains_key(&resource) {
                self.hold(held);
            }
        }
    }

    /// The cycles of those who wait for each other; `threads` says in which thread a task runs.
    ///
    /// Whoever waits for something that is let go of by one who can run on can run on too. All others wait for ever,
    /// and behind each of them is a cycle. Processes are not looked at in the same moment: a cycle is one only if
    /// there was a moment in which all of it was so.
    #[must_use]
    pub fn cycles(mut self, context: &Context<'_>, threads: &HashMap<Node, u64>) -> Cycles {
        self.block_tasks(threads);
        let mut cycles = Cycles::default();
        let mut known = BTreeSet::new();
        let mut counts: HashMap<SessionId, usize> = HashMap::new();
        let stuck = self.stuck();
        let mut done: HashSet<&Node> = HashSet::new();
        for start in stuck.keys() {
            let mut path: Vec<(&Edge, &Edge)> = Vec::new();
            let mut at: &Node = start;
            while !done.contains(at) {
                done.insert(at);
                let next = stuck.get(at).and_then(|wait| {
                    let holds = self.holds.get(&wait.resource)?;
                    Some((*wait, holds.first()?))
                });
                let Some((wait, hold)) = next else { break };
                path.push((wait, hold));
                at = &hold.node;
            }
            let Some(first) = path.iter().position(|(wait, _)| wait.node == *at) else {
                continue;
            };
            let cycle = &path[first..];
            let count = counts.entry(at.session()).or_default();
            if !was_so(cycle, context) || *count >= MAX_CYCLES {
                continue;
            }
            let resources = cycle.iter().map(|(wait, _)| wait.resource.clone());
            let members: BTreeSet<Resource> = resources.collect();
            if known.insert(members.clone()) {
                *count += 1;
                cycles.found.push(found(cycle));
                cycles.resources.extend(members);
                let nodes = cycle.iter().map(|(wait, _)| wait.node.clone());
                cycles.nodes.extend(nodes);
            }
        }
        cycles
    }

    /// Those who wait for ever, and what for.
    fn stuck(&self) -> BTreeMap<&Node, &Edge> {
        let mut waits_of: HashMap<&Node, Vec<&Edge>> = HashMap::new();
        let mut waiters_of: HashMap<&Resource, Vec<&Node>> = HashMap::new();
        for wait in &self.waits {
            waits_of.entry(&wait.node).or_default().push(wait);
            waiters_of
                .entry(&wait.resource)
                .or_default()
                .push(&wait.node);
        }
        let mut held_by: HashMap<&Node, Vec<&Resource>> = HashMap::new();
        let mut let_go: VecDeque<&Resource> = VecDeque::new();
        for hold in self.holds.values().flatten() {
            match waits_of.contains_key(&hold.node) {
                true => held_by.entry(&hold.node).or_default().push(&hold.resource),
                false => let_go.push_back(&hold.resource),
            }
        }
        let is_unknown = |resource: &&&Resource| {
            !self.holds.contains_key(**resource) || self.free.contains(**resource)
        };
        let_go.extend(waiters_of.keys().filter(is_unknown).copied());
        // From what is let go of to those who waited for it, and to what they hold.
        let mut stuck: BTreeMap<&Node, &Edge> = BTreeMap::new();
        for (node, waits) in &waits_of {
            // One who waits for several things, as none does that tells the truth, has waited for the first the longest.
            let longest = waits.iter().min_by_key(|wait| wait.since);
            stuck.extend(longest.map(|wait| (*node, *wait)));
        }
        let mut seen = HashSet::new();
        while let Some(resource) = let_go.pop_front() {
            if !seen.insert(resource) {
                continue;
            }
            for waiter in waiters_of.get(resource).into_iter().flatten() {
                if stuck.remove(waiter).is_some() {
                    let_go.extend(held_by.get(waiter).into_iter().flatten());
                }
            }
        }
        stuck
    }
}

/// Whether there was a moment in which a whole cycle was so, and it lasts.
fn was_so(cycle: &[(&Edge, &Edge)], context: &Context<'_>) -> bool {
    let edges = || cycle.iter().flat_map(|(wait, hold)| [*wait, *hold]);
    let from = edges().map(|edge| edge.since).max();
    let to = edges().map(|edge| edge.seen).min();
    let lasts = |(wait, _): &(&Edge, &Edge)| {
        let session = wait.node.session();
        context.running(session, wait.since, wait.seen) >= CYCLE_WAIT
    };
    from <= to && cycle.iter().all(lasts)
}

/// A cycle as a finding: who holds what and waits for what.
fn found(cycle: &[(&Edge, &Edge)]) -> Found {
    // The same one first, whoever was looked at first.
    let start = (0..cycle.len())
        .min_by_key(|at| &cycle[*at].0.node)
        .unwrap_or_default();
    let member = |at: usize| {
        let (wait, _) = cycle[(start + at) % cycle.len()];
        // What it holds is what the one before it waits for.
        let (_, hold) = cycle[(start + at + cycle.len() - 1) % cycle.len()];
        (wait, hold)
    };
    let is_of_tasks = |(wait, _): &(&Edge, &Edge)| matches!(wait.resource, Resource::End(..));
    let kind = match cycle.iter().all(is_of_tasks) {
        true => Kind::TaskCycle,
        false => Kind::LockCycle,
    };
    let (mut said, mut sites, mut sessions, mut key) =
        (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let place = |site: &Option<Site>| match site {
        Some(site) => format!(" ({})", short(site)),
        None => String::new(),
    };
    for at in 0..cycle.len() {
        let (wait, hold) = member(at);
        let holds = match hold.resource {
            Resource::Lock(..) | Resource::Shared(_) => {
                format!("holds {}{} and ", hold.what, place(&hold.site))
            }
            Resource::End(..) | Resource::Thread(..) => String::new(),
        };
        if at < MAX_MEMBERS {
            said.push(format!(
                "{} {holds}waits for {}{}",
                wait.who,
                wait.what,
                place(&wait.site)
            ));
        }
        for site in [&hold.site, &wait.site].into_iter().flatten() {
            if !sites.contains(site) {
                sites.push(site.clone());
            }
        }
        let session = wait.node.session();
        if !sessions.contains(&session) {
            sessions.push(session);
        }
        key.push(format!("{:?}", wait.resource));
    }
    if let [(wait, hold)] = cycle[..]
        && kind == Kind::LockCycle
        && let Some(said) = said.first_mut()
    {
        *said = format!(
            "{} holds {}{} and waits for it again{}, for ever unless another lets go of it",
            wait.who,
            hold.what,
            place(&hold.site),
            place(&wait.site)
        );
    }
    let more = cycle.len().saturating_sub(MAX_MEMBERS);
    if more > 0 {
        said.push(format!("and {more} more"));
    }
    key.sort();
    let since = cycle.iter().map(|(wait, _)| wait.since).max();
    Found {
        kind,
        key: key.join(" "),
        sessions,
        message: format!("deadlock: {}", said.join("; ")),
        since: since.unwrap_or_else(Instant::now),
        sites,
        count: 1,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::super::tests::{Bench, SECOND};
    use super::*;

    const ID: SessionId = Uuid::from_u128(1);

    /// `A+x` is that A holds x, `A-x` that it waits for it; `?x` that x may be let go of by somebody unknown.
    fn cycles(words: &str) -> Vec<String> {
        let bench = Bench::default();
        let mut waits = Waits::default();
        for word in words.split_whitespace() {
            let resource = |name: &str| Resource::Lock(ID, name.to_owned());
            if let Some(name) = word.strip_prefix('?') {
                waits.free(resource(name));
                continue;
            }
            let (who, sign, what) = (&word[..1], &word[1..2], &word[2..]);
            let edge = Edge {
                node: Node::Task(ID, who.into()),
                who: who.into(),
                resource: resource(what),
                what: what.into(),
                site: None,
                since: bench.now - SECOND,
                seen: bench.now,
            };
            match sign {
                "+" => waits.hold(edge),
                _ => waits.wait(edge),
            }
        }
        let cycles = waits.cycles(&bench.context(), &HashMap::new());
        let mut found: Vec<String> = cycles
            .found
            .into_iter()
            .map(|found| found.message)
            .collect();
        found.sort();
        found
    }

    #[test]
    fn who_waits_for_ever() {
        for (words, expected) in [
            ("", vec![]),
            ("A+x B-x", vec![]),
            ("A+x A-y B+y C-x", vec![]),
            (
                "A+x A-y B+y B-x",
                vec!["deadlock: A holds x and waits for y; B holds y and waits for x"],
            ),
            // Who waits behind a cycle is not in it.
            (
                "C-x C+z D-z A+x A-y B+y B-x",
                vec!["deadlock: A holds x and waits for y; B holds y and waits for x"],
            ),
            (
                "A+x A-x",
                vec![
                    "deadlock: A holds x and waits for it again, for ever unless another lets go of it",
                ],
            ),
            (
                "A+x A-y B+y B-z C+z C-x",
                vec![
                    "deadlock: A holds x and waits for y; B holds y and waits for z; C holds z and waits for x",
                ],
            ),
            // Several may hold one: it is enough that one of them can run on.
            ("A+x A-y B+y C+y B-x", vec![]),
            (
                "A+x A-y B+y C+y B-x C-x",
                vec!["deadlock: A holds x and waits for y; B holds y and waits for x"],
            ),
            ("A+x A-y B+y B-x ?x", vec![]),
            // One that seems to wait for two things.
            (
                "A+x A-y B+y B-x B-z A+z",
                vec!["deadlock: A holds x and waits for y; B holds y and waits for x"],
            ),
            // Nobody is known to hold it.
            ("A+x A-y B-x", vec![]),
            (
                "A+x A-y B+y B-x C+u C-v D+v D-u",
                vec![
                    "deadlock: A holds x and waits for y; B holds y and waits for x",
                    "deadlock: C holds u and waits for v; D holds v and waits for u",
                ],
            ),
        ] {
            assert_eq!(cycles(words), expected, "{words}");
        }
    }

    #[test]
    fn one_process_leaves_room_for_the_cycles_of_others() {
        let bench = Bench::default();
        let mut waits = Waits::default();
        let mut cycle = |session: u128, number: u64| {
            let session = Uuid::from_u128(session);
            let edge = Edge {
                node: Node::Thread(session, number),
                who: "t".into(),
                resource: Resource::Lock(session, number.to_string()),
                what: "l".into(),
                site: None,
                since: bench.now - SECOND,
                seen: bench.now,
            };
            waits.hold(edge.clone());
            waits.wait(edge);
        };
        for number in 0..4 * MAX_CYCLES as u64 {
            cycle(1, number);
        }
        cycle(2, 1);
        let found = waits.cycles(&bench.context(), &HashMap::new()).found;
        assert_eq!(found.len(), MAX_CYCLES + 1);
        assert!(
            found
                .iter()
                .any(|found| found.sessions == [Uuid::from_u128(2)])
        );
    }

    #[test]
    fn a_large_crowd_is_looked_through_at_once() {
        let bench = Bench::default();
        let mut waits = Waits::default();
        const COUNT: u64 = 5_000;
        for number in 0..COUNT {
            let edge = |lock: u64| Edge {
                node: Node::Thread(ID, number),
                who: "t".into(),
                resource: Resource::Lock(ID, lock.to_string()),
                what: "l".into(),
                site: None,
                since: bench.now - SECOND,
                seen: bench.now,
            };
            waits.hold(edge(number));
            waits.wait(edge((number + 1) % COUNT));
        }
        let cycles = waits.cycles(&bench.context(), &HashMap::new());
        assert_eq!(cycles.found.len(), 1);
        assert!(cycles.found[0].message.ends_with("and 4992 more"));
    }
}
