//! The shared buffer: each event that some run has taken once, and for each (event, stage) what came before it, by version.
//!
//! Runs own no events. A run knows the node it took last and its version, a Dewey number; of a node's edges it follows the one whose
//! label its version is compatible with. Nodes, edges and events are counted, as in Flink's `SharedBufferAccessor`: what nobody
//! refers to goes at once.

use std::collections::BTreeMap;

/// Time, and how many taken events had that time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    pub ts: i64,
    pub n: u32,
}

/// An event as a stage's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct NodeId {
    pub event: EventId,
    pub stage: u16,
}

/// A Dewey number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version(Vec<u32>);

impl Version {
    pub fn first() -> Self {
        Version(vec![1])
    }

    pub fn of(digits: Vec<u32>) -> Self {
        Version(digits)
    }

    pub fn digits(&self) -> &[u32] {
        &self.0
    }

    pub fn increase(&self, by: i64) -> Self {
        let mut made = self.clone();
        let last = made.0.last_mut().expect("a digit");
        *last = (i64::from(*last) + by) as u32;
        made
    }

    pub fn add_stage(mut self) -> Self {
        self.0.push(0);
        self
    }

    /// Whether a run of this version may go back along an edge with that label.
    fn may_follow(&self, label: &Version) -> bool {
        let (mine, other) = (&self.0, &label.0);
        match mine.len().cmp(&other.len()) {
            std::cmp::Ordering::Greater => mine.starts_with(other),
            std::cmp::Ordering::Less => false,
            std::cmp::Ordering::Equal => {
                let last = mine.len() - 1;
                mine[..last] == other[..last] && mine[last] >= other[last]
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Back {
    pub target: Option<NodeId>,
    pub label: Version,
    pub locks: u32,
}

#[derive(Clone, Debug, Default)]
pub struct Node {
    pub edges: Vec<Back>,
    pub locks: u32,
}

/// The stages of a match in order of their first event, with their events, oldest first.
pub type Path = Vec<(u16, Vec<EventId>)>;

#[derive(Clone, Debug)]
pub struct Buffer<E> {
    pub nodes: BTreeMap<NodeId, Node>,
    pub events: BTreeMap<EventId, (E, u32)>,
    /// By time, how many events of it were taken.
    pub counts: Vec<(i64, u32)>,
}

impl<E> Default for Buffer<E> {
    fn default() -> Self {
        Buffer { nodes: BTreeMap::new(), events: BTreeMap::new(), counts: vec![] }
    }
}

fn release(locks: &mut u32) -> bool {
    *locks = locks.saturating_sub(1);
    *locks == 0
}

impl<E: Clone> Buffer<E> {
    pub fn advance(&mut self, ts: i64) {
        self.counts.retain(|c| c.0 >= ts);
    }

    /// An event that somebody takes; held until it is released.
    pub fn register(&mut self, event: &E, ts: i64) -> EventId {
        let n = match self.counts.iter_mut().find(|c| c.0 == ts) {
            Some(count) => {
                count.1 += 1;
                count.1 - 1
            }
            None => {
                self.counts.push((ts, 1));
                0
            }
        };
        let id = EventId { ts, n };
        self.events.insert(id, (event.clone(), 1));
        id
    }

    pub fn release_event(&mut self, id: EventId) {
        if let std::collections::btree_map::Entry::Occupied(mut entry) = self.events.entry(id) {
            if release(&mut entry.get_mut().1) {
                entry.remove();
            }
        }
    }

    /// One more way to a node, which is made if it is not there.
    pub fn put(&mut self, stage: u16, event: EventId, previous: Option<NodeId>, label: Version) -> NodeId {
        if let Some(previous) = previous {
            self.lock(previous, &label);
        }
        let id = NodeId { event, stage };
        let events = &mut self.events;
        let node = self.nodes.entry(id).or_insert_with(|| {
            if let Some(event) = events.get_mut(&event) {
                event.1 += 1;
            }
            Node::default()
        });
        node.edges.push(Back { target: previous, label, locks: 0 });
        id
    }

    pub fn lock(&mut self, node: NodeId, version: &Version) {
        if let Some(node) = self.nodes.get_mut(&node) {
            node.locks += 1;
            for edge in node.edges.iter_mut().filter(|edge| version.may_follow(&edge.label)) {
                edge.locks += 1;
            }
        }
    }

    pub fn release(&mut self, node: NodeId, version: &Version) {
        let mut todo = vec![(node, version.clone())];
        while let Some((id, version)) = todo.pop() {
            let Some(node) = self.nodes.get_mut(&id) else { break };
            node.edges.retain_mut(|edge| {
                if !version.may_follow(&edge.label) || !release(&mut edge.locks) {
                    return true;
                }
                todo.extend(edge.target.map(|target| (target, edge.label.clone())));
                false
            });
            if release(&mut node.locks) {
                self.nodes.remove(&id);
                self.release_event(id.event);
            }
        }
    }

    /// The way back from a node: depth first, the latest compatible edge first; the first way that ends is the one.
    pub fn path(&self, node: NodeId, version: &Version) -> Path {
        let mut todo: Vec<(Option<NodeId>, Version, Vec<NodeId>)> = vec![(Some(node), version.clone(), vec![])];
        while let Some((at, version, mut path)) = todo.pop() {
            let Some(id) = at else {
                let mut found: Path = vec![];
                for node in path.iter().rev() {
                    match found.iter_mut().find(|(stage, _)| *stage == node.stage) {
                        Some((_, events)) => events.push(node.event),
                        None => found.push((node.stage, vec![node.event])),
                    }
                }
                return found;
            };
            path.push(id);
            let Some(node) = self.nodes.get(&id) else { continue };
            for edge in node.edges.iter().filter(|edge| version.may_follow(&edge.label)) {
                todo.push((edge.target, edge.label.clone(), path.clone()));
            }
        }
        vec![]
    }
}
