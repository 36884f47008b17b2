//! What a key's state is as bytes.
//!
//! ```text
//! shape of the automata (8) │ waiting: n × (time, n × event) │ due: n × time │ runs of the first │ others: (due │ runs) …
//! runs: none (0), or 1 │ partial │ complete │ nodes │ events │ counts, or 2 │ the same │ matches that may become longer
//! ```
//!
//! Where events came by several lanes, `waiting` is LANED × n × (time, lane, n × event).
//!
//! States and stages are numbers, so state is read only by automata of the same shapes. Where there is one pattern, what is due of it
//! stands with the events; where there are several, before the others. Patterns that come and go have numbers:
//!
//! ```text
//! NUMBERED (8) │ waiting │ due │ n × (number, due, runs), of those that have any
//! ```

use std::collections::{BTreeMap, HashSet};
use std::num::NonZeroU64;

use super::automaton::{Automaton, State};
use super::buffer::{Back, Buffer, EventId, Node, NodeId, Place, Taken, Version};
use super::event::Event;
use super::heap::Heap;
use super::keyed::{Keyed, Watch};
use super::matcher::{Best, Known, Run, Runs};
use super::waiting::{Times, Waiting};
use crate::datum::Datum;
use crate::wire::{Reader, Writer};

/// Of its states, edges and stages: what conditions and windows say may change.
pub fn shape(automaton: &Automaton) -> u64 {
    let of = |s: &State| {
        let edges: Vec<_> = s.edges.iter().map(|e| (e.action, e.target)).collect();
        format!("{} {:?} {edges:?}", s.name, s.kind)
    };
    let states: Vec<String> = automaton.states.iter().map(of).collect();
    crate::frame::schema_hash(&states.join("\n"))
}

/// Of several at once.
pub fn shape_of(automata: &[Automaton]) -> u64 {
    match automata {
        [one] => shape(one),
        several => {
            let shapes: Vec<String> = several.iter().map(|a| shape(a).to_string()).collect();
            crate::frame::schema_hash(&shapes.join("\n"))
        }
    }
}

/// Most keys are smaller.
const ROOM: usize = 512;

/// Instead of a shape: what follows says itself whose it is.
const NUMBERED: u64 = u64::MAX;

/// Of patterns that have these numbers. Taken events are kept as their bytes from then on, as with [`write`].
pub fn write_numbered(keyed: &mut Keyed<Event>, numbers: &[u32]) -> Result<Vec<u8>, String> {
    let mut w = Writer { bytes: Vec::with_capacity(ROOM) };
    w.u64(NUMBERED);
    write_waiting(&mut w, keyed)?;
    write_due(&mut w, &keyed.due);
    for (watch, number) in keyed.each.iter_mut().zip(numbers).filter(|(w, _)| w.runs.is_some() || !w.due.is_empty()) {
        w.varint(u64::from(*number));
        write_due(&mut w, &watch.due);
        write_runs(&mut w, &mut watch.runs)?;
    }
    Ok(w.bytes)
}

/// What belongs to another number is left out.
pub fn read_numbered(bytes: &[u8], numbers: &[u32]) -> Result<Keyed<Event>, Unread> {
    let mut r = Reader::new(bytes);
    match r.u64() {
        Some(NUMBERED) => {}
        Some(_) => return Err(Unread::OtherShape),
        None => return Err(Unread::Broken),
    }
    let mut read = || -> Option<Keyed<Event>> {
        let (waiting, due) = (read_waiting(&mut r)?, read_due(&mut r)?);
        let mut keyed = Keyed { waiting, due, ..Keyed::of(numbers.len()) };
        while !r.rest.is_empty() {
            let number = r.varint()? as u32;
            let watch = Watch::of(read_due(&mut r)?, read_runs(&mut r)?);
            if let Some(place) = numbers.iter().position(|n| *n == number) {
                keyed.each[place] = watch;
            }
        }
        Some(keyed)
    };
    read().ok_or(Unread::Broken)
}

/// Instead of a number of times.
const LANED: u64 = u64::MAX;

fn write_waiting(w: &mut Writer, keyed: &Keyed<Event>) -> Result<(), String> {
    let all = keyed.waiting.in_order();
    let laned = all.iter().any(|((_, lane), _)| *lane > 0);
    if laned {
        w.varint(LANED);
    }
    w.varint(all.chunk_by(|a, b| a.0 == b.0).count() as u64);
    for events in all.chunk_by(|a, b| a.0 == b.0) {
        let (ts, lane) = events[0].0;
        w.zigzag(ts);
        if laned {
            w.varint(u64::from(lane));
        }
        w.varint(events.len() as u64);
        for (_, event) in events {
            event.encode(w)?;
        }
    }
    Ok(())
}

fn read_waiting(r: &mut Reader<'_>) -> Option<Waiting<Event>> {
    let mut waiting = Waiting::default();
    let (laned, count) = match r.varint()? {
        LANED => (true, r.varint()?),
        count => (false, count),
    };
    for _ in 0..count {
        let ts = r.zigzag()?;
        let lane = if laned { r.varint()? as u32 } else { 0 };
        for _ in 0..r.varint()? {
            waiting.add((ts, lane), Event::Live(Datum::decode(r)?), Known::default());
        }
    }
    Some(waiting)
}

/// Errors are of events that cannot become bytes. Those that are taken are kept as theirs from then on.
pub fn write(keyed: &mut Keyed<Event>, shape: u64) -> Result<Vec<u8>, String> {
    let mut w = Writer { bytes: Vec::with_capacity(ROOM) };
    w.u64(shape);
    write_waiting(&mut w, keyed)?;
    match &mut keyed.each[..] {
        [only] => {
            let mut due = keyed.due.clone();
            due.extend(only.due.iter());
            write_due(&mut w, &due);
            write_runs(&mut w, &mut only.runs)?;
        }
        [first, others @ ..] => {
            write_due(&mut w, &keyed.due);
            write_runs(&mut w, &mut first.runs)?;
            write_due(&mut w, &first.due);
            for watch in others {
                write_due(&mut w, &watch.due);
                write_runs(&mut w, &mut watch.runs)?;
            }
        }
        [] => {}
    }
    Ok(w.bytes)
}

fn write_due(w: &mut Writer, due: &Times) {
    w.varint(due.len() as u64);
    due.iter().for_each(|ts| w.zigzag(ts));
}

fn write_runs(w: &mut Writer, runs: &mut Option<Box<Runs<Event>>>) -> Result<(), String> {
    let Some(runs) = runs else {
        w.u8(0);
        return Ok(());
    };
    runs.buffer.events.iter_mut().try_for_each(|taken| taken.event.keep())?;
    w.u8(if runs.bests_made > 0 { 2 } else { 1 });
    let buffer = &runs.buffer;
    let id = |place: Place| buffer.id(buffer.nodes.get(place).expect("it is held"));
    for heap in [&runs.partial, &runs.complete] {
        w.varint(heap.len() as u64);
        heap.iter().for_each(|run| write_run(w, run, run.node.map(id)));
    }
    let mut nodes: Vec<(NodeId, &Node)> = buffer.nodes.iter().map(|(_, node)| (buffer.id(node), node)).collect();
    nodes.sort_unstable_by_key(|(id, _)| *id);
    w.varint(nodes.len() as u64);
    for (of, node) in nodes {
        write_node(w, of);
        w.varint(node.locks.into());
        w.varint(node.edges.len() as u64);
        for edge in &node.edges {
            w.u8(edge.target.is_some().into());
            edge.target.iter().for_each(|target| write_node(w, id(*target)));
            write_version(w, &edge.label);
            w.varint(edge.locks.into());
        }
    }
    let mut events: Vec<&Taken<Event>> = buffer.events.iter().map(|(_, event)| event).collect();
    events.sort_unstable_by_key(|event| event.id);
    w.varint(events.len() as u64);
    for event in events {
        write_event(w, event.id);
        w.varint(event.locks.into());
        event.event.encode(w)?;
    }
    w.varint(runs.buffer.counts.len() as u64);
    for (ts, n) in &runs.buffer.counts {
        w.zigzag(*ts);
        w.varint((*n).into());
    }
    if runs.bests_made > 0 {
        w.varint(runs.bests_made);
        w.varint(runs.bests.len() as u64);
        for (number, best) in &runs.bests {
            w.varint(number.get() - 1);
            write_node(w, id(best.node));
            write_version(w, &best.version);
            let start = best.start.unwrap_or(id(best.node).event);
            write_event(w, start);
            w.zigzag(start.ts);
            w.varint(best.held.into());
        }
    }
    Ok(())
}

/// Why state cannot be read.
#[derive(Debug, PartialEq)]
pub enum Unread {
    OtherShape,
    Broken,
}

pub fn read(bytes: &[u8], shape: u64) -> Result<Keyed<Event>, Unread> {
    let mut r = Reader::new(bytes);
    match r.u64() {
        Some(found) if found == shape => read_rest(&mut r).ok_or(Unread::Broken),
        Some(_) => Err(Unread::OtherShape),
        None => Err(Unread::Broken),
    }
}

fn read_rest(r: &mut Reader<'_>) -> Option<Keyed<Event>> {
    let waiting = read_waiting(r)?;
    let (due, runs) = (read_due(r)?, read_runs(r)?);
    let mut keyed = Keyed { waiting, due, each: vec![Watch::of(Times::default(), runs)] };
    if r.rest.is_empty() {
        let events: HashSet<i64> = keyed.waiting.in_order().iter().map(|((ts, _), _)| *ts).collect();
        let of_events = |due: &i64| events.contains(due) || events.contains(&due.saturating_sub(1)); // or a lag later
        let (of_events, of_runs): (Vec<i64>, Vec<i64>) = keyed.due.iter().partition(of_events);
        keyed.due = of_events.into_iter().collect();
        keyed.each[0].due = of_runs.into_iter().collect();
    } else {
        keyed.each[0].due = read_due(r)?;
    }
    while !r.rest.is_empty() {
        keyed.each.push(Watch::of(read_due(r)?, read_runs(r)?));
    }
    Some(keyed)
}

fn read_due(r: &mut Reader<'_>) -> Option<Times> {
    (0..r.varint()?).map(|_| r.zigzag()).collect()
}

/// The place of an id, of those in order.
fn found<I: Ord + Copy>(all: &[(I, Place)], id: I) -> Option<Place> {
    all.binary_search_by_key(&id, |(id, _)| *id).ok().map(|at| all[at].1)
}

fn read_runs(r: &mut Reader<'_>) -> Option<Option<Runs<Event>>> {
    let kind = r.u8()?;
    if kind == 0 {
        return Some(None);
    }
    let heap = |r: &mut Reader<'_>| -> Option<Vec<(Run, Option<NodeId>)>> {
        (0..r.varint()?).map(|_| read_run(r)).collect::<Option<_>>()
    };
    let (partial, complete) = (heap(r)?, heap(r)?);
    let mut buffer = Buffer::default();
    let mut nodes = vec![];
    for _ in 0..r.varint()? {
        let (id, locks) = (read_node(r)?, r.varint()? as u32);
        let edges = (0..r.varint()?).map(|_| {
            let target = if r.u8()? == 1 { Some(read_node(r)?) } else { None };
            Some((target, read_version(r)?, r.varint()? as u32))
        });
        nodes.push((id, locks, edges.collect::<Option<Vec<_>>>()?));
    }
    let mut events = vec![];
    for _ in 0..r.varint()? {
        let (id, locks) = (read_event(r)?, r.varint()? as u32);
        events.push((id, buffer.events.add(Taken { id, event: Event::read(r)?, locks })));
    }
    events.sort_unstable_by_key(|(id, _)| *id); // as they were written
                                                // First the places, then the ways between them.
    let mut places = vec![];
    for (id, locks, _) in &nodes {
        let event = found(&events, id.event)?;
        places.push((*id, buffer.nodes.add(Node { event, stage: id.stage, locks: *locks, edges: vec![] })));
    }
    let in_order: Vec<Place> = places.iter().map(|(_, place)| *place).collect();
    places.sort_unstable_by_key(|(id, _)| *id);
    let lies = |node: Option<NodeId>| match node {
        Some(node) => Some(Some(found(&places, node)?)),
        None => Some(None),
    };
    for ((_, _, edges), place) in nodes.into_iter().zip(in_order) {
        let edges = edges.into_iter().map(|(target, label, locks)| {
            let target = lies(target)?;
            Some(Back { target, label, locks })
        });
        buffer.nodes.get_mut(place)?.edges = edges.collect::<Option<Vec<_>>>()?;
    }
    let placed = |runs: Vec<(Run, Option<NodeId>)>| -> Option<Heap<Run>> {
        let runs = runs.into_iter().map(|(run, node)| Some(Run { node: lies(node)?, ..run }));
        Some(Heap::from_array(runs.collect::<Option<_>>()?))
    };
    let (partial, complete) = (placed(partial)?, placed(complete)?);
    for _ in 0..r.varint()? {
        buffer.counts.push((r.zigzag()?, r.varint()? as u32));
    }
    let (mut bests, mut bests_made) = (BTreeMap::new(), 0);
    if kind == 2 {
        bests_made = r.varint()?;
        for _ in 0..r.varint()? {
            let (number, node, version) = (read_number(r)?, found(&places, read_node(r)?)?, read_version(r)?);
            let start = Some(read_event(r)?);
            r.zigzag()?; // its time, once more
            bests.insert(number, Best { node, version, start, held: r.varint()? as u32 });
        }
    }
    Some(Some(Runs { partial, complete, buffer, bests, bests_made, quiet_until: i64::MIN }))
}

/// How much a key has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Partial matches under way.
    pub live_runs: u64,
    /// Matches held back while an older run lives.
    pub withheld: u64,
    /// Events that runs have taken.
    pub buffered: u64,
    /// Events that wait for the watermark.
    pub waiting: u64,
}

impl Counts {
    /// Of a key's bytes, whatever the patterns.
    pub fn of(bytes: &[u8]) -> Option<Counts> {
        let mut r = Reader::new(bytes);
        let keyed = match r.u64()? {
            NUMBERED => {
                let (waiting, due) = (read_waiting(&mut r)?, read_due(&mut r)?);
                let mut keyed = Keyed { waiting, due, ..Keyed::of(0) };
                while !r.rest.is_empty() {
                    r.varint()?;
                    keyed.each.push(Watch::of(read_due(&mut r)?, read_runs(&mut r)?));
                }
                keyed
            }
            _ => read_rest(&mut r)?,
        };
        let mut counts = Counts { waiting: keyed.waiting.len() as u64, ..Counts::default() };
        for runs in keyed.each.iter().filter_map(|watch| watch.runs.as_ref()) {
            counts.live_runs += runs.partial.len() as u64 - 1;
            counts.withheld += runs.complete.len() as u64;
            counts.buffered += runs.buffer.events.len() as u64;
        }
        Some(counts)
    }
}

fn write_event(w: &mut Writer, id: EventId) {
    w.zigzag(id.ts);
    w.varint(id.n().into());
}
fn read_event(r: &mut Reader<'_>) -> Option<EventId> {
    Some(EventId::of(r.zigzag()?, r.varint()? as u32))
}

fn write_node(w: &mut Writer, id: NodeId) {
    write_event(w, id.event);
    w.varint(id.stage.into());
}
fn read_node(r: &mut Reader<'_>) -> Option<NodeId> {
    Some(NodeId { event: read_event(r)?, stage: r.varint()? as u16 })
}

fn write_version(w: &mut Writer, version: &Version) {
    w.varint(version.digits().len() as u64);
    version.digits().iter().for_each(|d| w.varint((*d).into()));
}
fn read_version(r: &mut Reader<'_>) -> Option<Version> {
    let digits: Vec<u32> = (0..r.varint()?).map(|_| Some(r.varint()? as u32)).collect::<Option<_>>()?;
    (!digits.is_empty()).then(|| Version::of(&digits))
}

fn write_run(w: &mut Writer, run: &Run, node: Option<NodeId>) {
    w.varint(run.state.into());
    write_version(w, &run.version);
    w.zigzag(run.start_ms());
    w.zigzag(run.previous_ms);
    for (id, more) in [(node.map(|n| n.event), false), (run.start, run.best.is_some())] {
        w.u8(u8::from(id.is_some()) | u8::from(more) << 1);
        id.iter().for_each(|id| write_event(w, *id));
    }
    node.iter().for_each(|n| w.varint(n.stage.into()));
    run.best.iter().for_each(|best| w.varint(best.get() - 1));
}

/// A run that has no place yet, and its node.
fn read_run(r: &mut Reader<'_>) -> Option<(Run, Option<NodeId>)> {
    let state = r.varint()? as u16;
    let version = read_version(r)?;
    r.zigzag()?; // the time of its start, once more
    let previous_ms = r.zigzag()?;
    let optional = |r: &mut Reader<'_>| {
        let flags = r.u8()?;
        Some((if flags & 1 == 1 { Some(read_event(r)?) } else { None }, flags & 2 == 2))
    };
    let ((event, _), (start, more)) = (optional(r)?, optional(r)?);
    let node = match event {
        Some(event) => Some(NodeId { event, stage: r.varint()? as u16 }),
        None => None,
    };
    let best = if more { Some(read_number(r)?) } else { None };
    Some((Run { state, node: None, version, start, previous_ms, best }, node))
}

fn read_number(r: &mut Reader<'_>) -> Option<NonZeroU64> {
    NonZeroU64::new(r.varint()?.checked_add(1)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::keyed::{Life, Watched};
    use super::super::matcher::{Conditions, History};
    use super::*;
    use crate::expr::Fault;

    /// Conditions are numbers that an event is.
    struct Numbers;

    impl Conditions<Event> for Numbers {
        fn holds(&mut self, condition: u16, history: &History<'_, Event>) -> Result<bool, Fault> {
            Ok(*history.event.datum() == Datum::Int(condition.into()))
        }
    }

    fn watched(longest: bool) -> Watched {
        let stages = json!([
            {"name": "a", "contiguity": "strict", "where": {"is": 0}},
            {"name": "b", "contiguity": "skip_till_any", "where": {"is": 1}, "times": {"from": 1, "to": 1}, "looping": true},
            {"name": "c", "contiguity": "skip_till_next", "where": {"is": 2}, "optional": true, "within": 9},
        ]);
        let pattern = serde_json::from_value(json!({"stages": stages, "skip": "to_next", "longest": longest})).unwrap();
        let automata = vec![Automaton::compile(&pattern).unwrap()];
        Watched { automata, lives: vec![Life::ALWAYS], timed_out: vec![true], lag: 0 }
    }

    proptest! {
        #[test]
        fn a_key_that_is_stored_at_any_time_goes_on_as_one_that_is_not(
            events in prop::collection::vec((0i64..3, 0i64..4, any::<bool>()), 1..30), longest: bool,
        ) {
            let watched = watched(longest);
            let shape = shape_of(&watched.automata);
            let (mut kept, mut stored) = (Keyed::of(1), Keyed::of(1));
            let mut now = 0;
            for (step, kind, stores) in events {
                now += step;
                let both = [&mut kept, &mut stored].map(|keyed| {
                    let mut said = vec![];
                    keyed.arrive(Event::Live(Datum::Int(kind)), now, 0, Known::default(), &watched);
                    keyed.fire(&watched, now - 1, &mut |_| (), &mut Numbers, &mut said);
                    format!("{said:?}")
                });
                prop_assert_eq!(&both[0], &both[1]);
                let bytes = write(&mut stored, shape).unwrap();
                prop_assert_eq!(&bytes, &write(&mut kept, shape).unwrap());
                if stores {
                    stored = read(&bytes, shape).unwrap();
                    prop_assert_eq!(&bytes, &write(&mut stored, shape).unwrap());
                }
                for cut in 0..bytes.len() {
                    let _ = read(&bytes[..cut], shape); // never a panic
                }
            }
        }
    }
}
