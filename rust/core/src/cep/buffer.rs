//! The shared buffer: each event that some run has taken once, and for each (event, stage) what came before it, by version.
//!
//! Runs own no events. A run knows the node it took last and its version, a Dewey number; of a node's edges it follows the one whose
//! label its version is compatible with. Nodes, edges and events are counted, as in Flink's `SharedBufferAccessor`: what nobody
//! refers to goes at once.

use std::num::NonZeroU32;

/// Time, and how many taken events had that time before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EventId {
    pub ts: i64,
    /// One more than there were: an id that may be missing takes no more room.
    rank: NonZeroU32,
}

impl EventId {
    pub fn of(ts: i64, n: u32) -> Self {
        EventId { ts, rank: NonZeroU32::MIN.saturating_add(n) }
    }

    pub fn n(self) -> u32 {
        self.rank.get() - 1
    }
}

/// An event as a stage's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub event: EventId,
    pub stage: u16,
}

/// A Dewey number. Most are short, and have no memory of their own.
#[derive(Clone, Debug)]
pub enum Version {
    Short(u8, [u32; SHORT]),
    Long(Box<[u32]>),
}

const SHORT: usize = 5;

impl PartialEq for Version {
    fn eq(&self, other: &Self) -> bool {
        self.digits() == other.digits()
    }
}

impl Eq for Version {}

impl Version {
    pub fn first() -> Self {
        Version::of(&[1])
    }

    pub fn of(digits: &[u32]) -> Self {
        let mut short = [0; SHORT];
        match short.get_mut(..digits.len()) {
            Some(place) => {
                place.copy_from_slice(digits);
                Version::Short(digits.len() as u8, short)
            }
            None => Version::Long(digits.into()),
        }
    }

    pub fn digits(&self) -> &[u32] {
        match self {
            Version::Short(count, digits) => &digits[..usize::from(*count)],
            Version::Long(digits) => digits,
        }
    }

    pub fn increase(&self, by: i64) -> Self {
        let mut made = self.clone();
        let digits = match &mut made {
            Version::Short(count, digits) => &mut digits[..usize::from(*count)],
            Version::Long(digits) => digits,
        };
        let last = digits.last_mut().expect("a digit");
        *last = (i64::from(*last) + by) as u32;
        made
    }

    pub fn add_stage(&self) -> Self {
        match self {
            Version::Short(count, digits) if usize::from(*count) < SHORT => Version::Short(count + 1, *digits),
            _ => Version::Long(self.digits().iter().copied().chain([0]).collect()),
        }
    }

    /// Whether a run of this version may go back along an edge with that label.
    fn may_follow(&self, label: &Version) -> bool {
        let (mine, other) = (self.digits(), label.digits());
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

/// Where a node or an event lies while somebody refers to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place(NonZeroU32);

impl Place {
    fn index(self) -> usize {
        self.0.get() as usize - 1
    }
}

/// What lies in places. Those of what is gone are given again.
#[derive(Clone, Debug)]
pub struct Places<T> {
    all: Vec<Option<T>>,
    free: Vec<Place>,
}

impl<T> Default for Places<T> {
    fn default() -> Self {
        Places { all: vec![], free: vec![] }
    }
}

impl<T> Places<T> {
    pub fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, place: Place) -> Option<&T> {
        self.all.get(place.index())?.as_ref()
    }

    pub fn get_mut(&mut self, place: Place) -> Option<&mut T> {
        self.all.get_mut(place.index())?.as_mut()
    }

    pub fn add(&mut self, item: T) -> Place {
        if let Some(place) = self.free.pop() {
            self.all[place.index()] = Some(item);
            return place;
        }
        if self.all.len() == self.all.capacity() {
            self.all.reserve_exact(self.all.len() / 2 + 1); // most keys have one or two
        }
        self.all.push(Some(item));
        Place(NonZeroU32::MIN.saturating_add(self.all.len() as u32 - 1))
    }

    fn remove(&mut self, place: Place) -> Option<T> {
        let gone = self.all.get_mut(place.index())?.take()?;
        match self.len() == 1 {
            true => *self = Places::default(),
            false => self.free.push(place),
        }
        Some(gone)
    }

    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.all.iter_mut().flatten()
    }

    pub fn iter(&self) -> impl Iterator<Item = (Place, &T)> {
        let places = (1..).filter_map(NonZeroU32::new).map(Place);
        places.zip(&self.all).filter_map(|(place, item)| Some((place, item.as_ref()?)))
    }
}

#[derive(Clone, Debug)]
pub struct Back {
    pub target: Option<Place>,
    pub label: Version,
    pub locks: u32,
}

#[derive(Clone, Debug)]
pub struct Node {
    pub event: Place,
    pub stage: u16,
    pub locks: u32,
    pub edges: Vec<Back>,
}

/// An event that somebody took.
#[derive(Clone, Debug)]
pub struct Taken<E> {
    pub id: EventId,
    pub event: E,
    pub locks: u32,
}

/// The stages of a match in order of their first event, with their events, oldest first.
pub type Path = Vec<(u16, Vec<Place>)>;

#[derive(Clone, Debug)]
pub struct Buffer<E> {
    pub nodes: Places<Node>,
    pub events: Places<Taken<E>>,
    /// By time, how many events of it were taken.
    pub counts: Vec<(i64, u32)>,
}

impl<E> Default for Buffer<E> {
    fn default() -> Self {
        Buffer { nodes: Places::default(), events: Places::default(), counts: vec![] }
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
    pub fn register(&mut self, event: &E, ts: i64) -> Place {
        let n = match self.counts.iter_mut().find(|c| c.0 == ts) {
            Some(count) => {
                count.1 += 1;
                count.1 - 1
            }
            None => {
                self.counts.reserve_exact(1);
                self.counts.push((ts, 1));
                0
            }
        };
        self.events.add(Taken { id: EventId::of(ts, n), event: event.clone(), locks: 1 })
    }

    pub fn release_event(&mut self, place: Place) {
        if self.events.get_mut(place).is_some_and(|event| release(&mut event.locks)) {
            self.events.remove(place);
        }
    }

    pub fn event(&self, place: Place) -> &Taken<E> {
        self.events.get(place).expect("it is held")
    }

    /// `made`: the nodes that were made of the event.
    fn find(&self, stage: u16, event: Place, made: &[Place]) -> Option<Place> {
        let is = |node: &Node| node.event == event && node.stage == stage;
        made.iter().copied().find(|place| self.nodes.get(*place).is_some_and(is))
    }

    /// One more way to a node, which is made if it is not there: if it is none of those that were made of the event.
    pub fn put(
        &mut self,
        stage: u16,
        event: Place,
        previous: Option<Place>,
        label: Version,
        made: &mut Vec<Place>,
    ) -> Place {
        if let Some(previous) = previous {
            self.lock(previous, &label);
        }
        let place = self.find(stage, event, made).unwrap_or_else(|| {
            if let Some(event) = self.events.get_mut(event) {
                event.locks += 1;
            }
            let place = self.nodes.add(Node { event, stage, locks: 0, edges: Vec::with_capacity(1) });
            made.push(place);
            place
        });
        if let Some(node) = self.nodes.get_mut(place) {
            node.edges.push(Back { target: previous, label, locks: 0 });
        }
        place
    }

    pub fn lock(&mut self, node: Place, version: &Version) {
        if let Some(node) = self.nodes.get_mut(node) {
            node.locks += 1;
            for edge in node.edges.iter_mut().filter(|edge| version.may_follow(&edge.label)) {
                edge.locks += 1;
            }
        }
    }

    pub fn release(&mut self, node: Place, version: &Version) {
        let (mut next, mut todo) = (Some((node, version.clone())), vec![]);
        while let Some((place, version)) = next {
            let Some(node) = self.nodes.get_mut(place) else { break };
            next = None;
            node.edges.retain_mut(|edge| {
                if !version.may_follow(&edge.label) || !release(&mut edge.locks) {
                    return true;
                }
                if let Some(target) = edge.target {
                    // The last one is the next.
                    todo.extend(next.replace((target, edge.label.clone())));
                }
                false
            });
            if release(&mut node.locks) {
                let event = node.event;
                self.nodes.remove(place);
                self.release_event(event);
            }
            next = next.or_else(|| todo.pop());
        }
    }

    /// The way back from a node: depth first, the latest compatible edge first; the first way that ends is the one.
    pub fn path(&self, node: Place, version: &Version) -> Path {
        let mut todo: Vec<(Option<Place>, &Version, Vec<Place>)> = vec![];
        let mut next = Some((Some(node), version, vec![]));
        while let Some((at, version, mut path)) = next.take() {
            let Some(place) = at else { return self.by_stage(&path) };
            path.push(place);
            let edges = self.nodes.get(place).map_or(&[][..], |node| &node.edges);
            let mut last: Option<&Back> = None;
            for edge in edges.iter().filter(|edge| version.may_follow(&edge.label)) {
                todo.extend(last.replace(edge).map(|edge| (edge.target, &edge.label, path.clone())));
            }
            next = last.map(|edge| (edge.target, &edge.label, path)).or_else(|| todo.pop());
        }
        vec![]
    }

    /// Of nodes, the latest first.
    fn by_stage(&self, path: &[Place]) -> Path {
        let mut found: Path = vec![];
        for node in path.iter().rev().filter_map(|place| self.nodes.get(*place)) {
            match found.iter_mut().find(|(stage, _)| *stage == node.stage) {
                Some((_, events)) => events.push(node.event),
                None => found.push((node.stage, vec![node.event])),
            }
        }
        found
    }

    pub fn id(&self, node: &Node) -> NodeId {
        NodeId { event: self.event(node.event).id, stage: node.stage }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_version_is_its_digits(digits in prop::collection::vec(1u32..9, 1..9), by in 0i64..5) {
            let version = Version::of(&digits);
            prop_assert_eq!(version.digits(), &digits[..]);
            let longer: Vec<u32> = digits.iter().copied().chain([0]).collect();
            let added = version.add_stage();
            prop_assert_eq!(added.digits(), &longer[..]);
            prop_assert_eq!(version.add_stage(), Version::of(&longer));
            let mut more = digits.clone();
            *more.last_mut().unwrap() += by as u32;
            prop_assert_eq!(version.increase(by), Version::of(&more));
        }
    }

    #[test]
    fn places_of_what_is_gone_are_given_again() {
        let mut places = Places::default();
        let (a, b) = (places.add('a'), places.add('b'));
        assert_eq!((places.remove(a), places.remove(a), places.len()), (Some('a'), None, 1));
        let c = places.add('c');
        assert_eq!((c, places.get(c), places.get(b)), (a, Some(&'c'), Some(&'b')));
        assert_eq!(places.iter().map(|(place, item)| (place, *item)).collect::<Vec<_>>(), [(c, 'c'), (b, 'b')]);
        assert_eq!((places.remove(b), places.remove(c)), (Some('b'), Some('c')));
        assert!(places.is_empty() && places.get(a).is_none());
    }
}
