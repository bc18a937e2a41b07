//! Who may start next: limits, the places taken, and those who wait, into an answer for each. Pure.
//!
//! Restores go before Backups. Among the namespaces that wait, the one with the fewest Jobs at work comes next, and of
//! several the one that was served longest ago; within a namespace, the oldest run. Who waits for a place that is taken
//! is passed over, so that one slow run, or one busy node, holds up nobody else.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;

use jiff::Timestamp;

/// What can be limited.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// A node.
    Node(String),
    /// All nodes together: of a runner that may run on any of them nobody knows beforehand on which.
    AllNodes,
    /// A storage, as `<namespace>/<name>`.
    Storage(String),
    /// A repository, by its directory and its storage.
    Repository(String),
    /// A namespace.
    Namespace(String),
    /// A run, by its uid.
    Run(String),
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(name) => write!(f, "on node {name}"),
            Self::AllNodes => f.write_str("on any node"),
            Self::Storage(name) => write!(f, "at BackupStorage {name}"),
            Self::Repository(name) => write!(f, "at the repository {name}"),
            Self::Namespace(name) => write!(f, "in namespace {name}"),
            Self::Run(_) => f.write_str("in its run"),
        }
    }
}

/// At most so many Jobs in a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limit {
    /// Where.
    pub scope: Scope,
    /// How many.
    pub most: u32,
}

/// What a Job takes a place of, whether it is limited or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Namespace of the run.
    pub namespace: String,
    /// All scopes that it counts in.
    pub scopes: Vec<Scope>,
}

/// Names a Job that is to be started: uid of the run, and component.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// Uid of the run.
    pub run: String,
    /// Name of the component.
    pub component: String,
}

/// Somebody who waits for a place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Waiting {
    /// For which Job.
    pub key: Key,
    /// A Restore: it goes before all Backups.
    pub urgent: bool,
    /// When the run was made.
    pub since: Timestamp,
    /// The place that it needs.
    pub place: Place,
    /// What limits it.
    pub limits: Vec<Limit>,
}

/// What somebody who waits is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// There is a place.
    Go,
    /// It is not known yet which places are taken.
    NotKnown,
    /// There is none.
    Wait {
        /// Which place is missing.
        scope: Scope,
        /// How many are taken.
        in_use: u32,
        /// How many there are.
        most: u32,
        /// Where in the line for it, from 1.
        position: u32,
    },
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Go => f.write_str("has a place"),
            Self::NotKnown => f.write_str("waits until the Jobs at work are listed"),
            Self::Wait { scope, in_use, most, position } => {
                let ordinal = Ordinal(*position);
                write!(f, "waits for a free place {scope} ({in_use} of {most} in use), {ordinal} in line")
            }
        }
    }
}

/// `1st`, `2nd`, `11th`.
struct Ordinal(u32);

impl fmt::Display for Ordinal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ending = match (self.0 % 10, self.0 % 100) {
            (_, 11..=13) => "th",
            (1, _) => "st",
            (2, _) => "nd",
            (3, _) => "rd",
            _ => "th",
        };
        write!(f, "{}{ending}", self.0)
    }
}

/// Answers all who wait. `taken` is what Jobs at work hold, `served` when each namespace last got a place.
pub fn plan(
    taken: &[Place],
    waiting: &[Waiting],
    served: &BTreeMap<String, Timestamp>,
) -> BTreeMap<Key, Answer> {
    let mut usage: HashMap<&Scope, u32> = HashMap::new();
    let mut at_work: HashMap<&str, u32> = HashMap::new();
    for place in taken {
        occupy(&mut usage, &mut at_work, place);
    }
    let mut answers = BTreeMap::new();
    let mut left = Vec::new();
    for urgent in [true, false] {
        let mut line = Line::new(waiting.iter().filter(|one| one.urgent == urgent), &at_work, served);
        while let Some(one) = line.next(|one| full(&usage, one).is_none()) {
            occupy(&mut usage, &mut at_work, &one.place);
            answers.insert(one.key.clone(), Answer::Go);
        }
        // The same turns, as if places came free one by one.
        let mut rest = Line::new(line.passed_over.into_iter(), &at_work, served);
        while let Some(one) = rest.next(|_| true) {
            left.push(one);
        }
    }
    let mut lines: HashMap<&Scope, u32> = HashMap::new();
    for one in left {
        // Nothing came free since it was passed over.
        let Some(limit) = full(&usage, one) else { continue };
        let position = lines.entry(&limit.scope).or_default();
        *position = position.saturating_add(1);
        let answer = Answer::Wait {
            scope: limit.scope.clone(),
            in_use: usage.get(&limit.scope).copied().unwrap_or_default(),
            most: limit.most,
            position: *position,
        };
        answers.insert(one.key.clone(), answer);
    }
    answers
}

fn occupy<'p>(usage: &mut HashMap<&'p Scope, u32>, at_work: &mut HashMap<&'p str, u32>, place: &'p Place) {
    for scope in &place.scopes {
        let count = usage.entry(scope).or_default();
        *count = count.saturating_add(1);
    }
    let count = at_work.entry(&place.namespace).or_default();
    *count = count.saturating_add(1);
}

/// The first limit that leaves no place.
fn full<'w>(usage: &HashMap<&Scope, u32>, one: &'w Waiting) -> Option<&'w Limit> {
    one.limits.iter().find(|limit| usage.get(&limit.scope).copied().unwrap_or_default() >= limit.most)
}

/// Whose turn it is: fewest at work, then served longest ago, then the oldest run, then the name.
type Turn<'w> = (u32, (Timestamp, u32), Timestamp, &'w str);

/// Those who wait, a queue a namespace, and whose turn it is.
struct Line<'w> {
    queues: BTreeMap<&'w str, VecDeque<&'w Waiting>>,
    turns: BTreeSet<Turn<'w>>,
    passed_over: Vec<&'w Waiting>,
    tick: u32,
}

impl<'w> Line<'w> {
    fn new(
        waiting: impl Iterator<Item = &'w Waiting>,
        at_work: &HashMap<&str, u32>,
        served: &BTreeMap<String, Timestamp>,
    ) -> Self {
        let mut sorted: Vec<&Waiting> = waiting.collect();
        sorted.sort_by(|a, b| (a.since, &a.key).cmp(&(b.since, &b.key)));
        let mut queues: BTreeMap<&str, VecDeque<&Waiting>> = BTreeMap::new();
        for one in sorted {
            queues.entry(&one.place.namespace).or_default().push_back(one);
        }
        let turns = queues
            .iter()
            .filter_map(|(&namespace, queue)| {
                let last = served.get(namespace).copied().unwrap_or(Timestamp::MIN);
                let count = at_work.get(namespace).copied().unwrap_or_default();
                Some((count, (last, 0), queue.front()?.since, namespace))
            })
            .collect();
        Self { queues, turns, passed_over: Vec::new(), tick: 0 }
    }

    /// The next one for whom there is a place. Who is passed over stays so: places only become fewer.
    fn next(&mut self, has_place: impl Fn(&Waiting) -> bool) -> Option<&'w Waiting> {
        while let Some((count, _, _, namespace)) = self.turns.pop_first() {
            let Some(queue) = self.queues.get_mut(namespace) else { continue };
            let mut found = None;
            while let Some(one) = queue.pop_front() {
                if has_place(one) {
                    found = Some(one);
                    break;
                }
                self.passed_over.push(one);
            }
            let Some(found) = found else { continue };
            if let Some(next) = queue.front() {
                self.tick = self.tick.saturating_add(1);
                let turn = (count.saturating_add(1), (Timestamp::MAX, self.tick), next.since, namespace);
                self.turns.insert(turn);
            }
            return Some(found);
        }
        None
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
