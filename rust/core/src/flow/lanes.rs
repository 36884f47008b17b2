//! Lanes of records: which task moved a record by key, and how far time had come there.
//!
//! ```text
//!   task 0 ─ to ─▶ stamp (lane 0, clock) ─┐
//!   task 1 ─ to ─▶ stamp (lane 1, clock) ─┼─▶ topic ─▶ source: takes the stamp off ─▶ whose time goes by lanes
//!     │                                   │                └─▶ port 1: a clock alone
//!     └─ a generation ends: the clock ────┘
//! ```
//!
//! What `op/edge.rs` says of rows: behind a shuffle records of several partitions meet in any order, some partitions are read
//! sooner than others, and one clock for all would make the slow ones late by chance. So a record is late by its own lane's clock,
//! which goes along with it, and time is where the slowest lane is. A partition that a lane wrote nothing to in a generation is told the
//! clock alone: a record without key and value.

use super::{Cx, Done, Headers, Node, Record};
use crate::op::Outgoing;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

/// The header of a stamp. The source takes it off.
const HEADER: &str = "adstream.lane";

/// Where a record came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    pub lane: u32,
    pub lanes: u32,
    /// The largest time that had left by the lane before; `NO_TIME`: nothing had.
    pub clock: i64,
    /// There is no record: the clock alone.
    pub alone: bool,
}

impl Stamp {
    fn bytes(&self) -> Vec<u8> {
        let mut w = Writer::default();
        w.u8(self.alone.into());
        w.varint(self.lane.into());
        w.varint(self.lanes.into());
        w.zigzag(self.clock);
        w.bytes
    }

    fn read(bytes: &[u8]) -> Option<Stamp> {
        let mut r = Reader::new(bytes);
        let alone = r.u8()? == 1;
        let (lane, lanes, clock) = (r.varint()?, r.varint()?, r.zigzag()?);
        let (lane, lanes) = (u32::try_from(lane).ok()?, u32::try_from(lanes).ok()?);
        (lane < lanes).then_some(Stamp { lane, lanes, clock, alone })
    }
}

/// What a task that moves records knows of its lane.
pub struct Sending {
    /// The topics that feed the task: it has as many lanes beside it as the widest has partitions.
    feeds: Vec<usize>,
    clock: i64,
    /// By partition: the clock that was last told.
    told: Vec<i64>,
}

impl Sending {
    pub fn new(feeds: Vec<usize>) -> Sending {
        Sending { feeds, clock: NO_TIME, told: vec![] }
    }

    fn stamp(&self, alone: bool, cx: Cx<'_>) -> (String, Option<Vec<u8>>) {
        let lanes = self.feeds.iter().map(|&topic| cx.env.partitions[topic]).max().unwrap_or(1);
        let lane = cx.env.task_partition;
        let stamp = Stamp { lane, lanes: lanes.max(lane + 1), clock: self.clock, alone };
        (HEADER.to_string(), Some(stamp.bytes()))
    }

    /// The header of a record that goes to these partitions.
    pub fn record(&mut self, ts: i64, partitions: &[u32], cx: Cx<'_>) -> (String, Option<Vec<u8>>) {
        let header = self.stamp(false, cx);
        self.clock = self.clock.max(ts);
        for &p in partitions {
            self.told.resize(self.told.len().max(p as usize + 1), NO_TIME);
            self.told[p as usize] = self.told[p as usize].max(self.clock);
        }
        header
    }

    /// Tells the clock to every partition of the topic that has not heard of it.
    pub fn flush(&mut self, topic: usize, cx: Cx<'_>) {
        let count = cx.env.partitions[topic].max(1);
        self.told.resize(self.told.len().max(count as usize), NO_TIME);
        for partition in 0..count {
            let told = std::mem::replace(&mut self.told[partition as usize], self.clock);
            if told < self.clock {
                let headers = vec![self.stamp(true, cx)];
                let timestamp = self.clock.max(0);
                cx.send(Outgoing { topic, partition, seq: 0, timestamp, key: None, value: None, headers });
            }
        }
    }

    pub fn save(&self, out: &mut Writer) {
        out.zigzag(self.clock);
        out.varint(self.told.len() as u64);
        self.told.iter().for_each(|told| out.zigzag(*told));
    }

    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.clock = saved.zigzag()?;
        self.told = (0..saved.varint()?).map(|_| saved.zigzag()).collect::<Option<_>>()?;
        Some(())
    }
}

/// Takes stamps off where records of the topic enter.
pub struct Unstamp;

impl Node for Unstamp {
    fn process(&mut self, _: usize, mut record: Record, cx: Cx<'_>) -> Done {
        let at = record.headers.iter().position(|(name, _)| name == HEADER);
        let Some(at) = at else {
            cx.env.lane.set(None);
            return cx.forward(record);
        };
        let mut headers = Headers::unwrap_or_clone(record.headers);
        let stamp = headers.remove(at).1.as_deref().and_then(Stamp::read);
        record.headers = headers.into();
        cx.env.lane.set(stamp);
        cx.forward_to(usize::from(stamp.is_some_and(|stamp| stamp.alone)), record)
    }
}

/// How far the lanes have come that a task reads.
#[derive(Default)]
pub struct Lanes(Vec<Lane>);

#[derive(Clone, Copy)]
struct Lane {
    clock: i64,
    /// What the logged clock showed when it was last heard of.
    heard: i64,
}

impl Lanes {
    /// The lane came to `clock`, and has been heard of now.
    pub fn hear(&mut self, stamp: Stamp, clock: i64, wall: i64) {
        let lanes = self.0.len().max(stamp.lanes as usize);
        self.0.resize(lanes, Lane { clock: NO_TIME, heard: wall });
        let lane = &mut self.0[stamp.lane as usize];
        *lane = Lane { clock: lane.clock.max(clock), heard: lane.heard.max(wall) };
    }

    /// The clock runs now: silence counts from here on.
    pub fn begin(&mut self, wall: i64) {
        self.0.iter_mut().filter(|lane| lane.heard == NO_TIME).for_each(|lane| lane.heard = wall);
    }

    /// Where the slowest is, of those that were heard of within `idle_ms`; if none was, where the fastest is.
    pub fn slowest(&self, idle_ms: Option<i64>, wall: i64) -> i64 {
        let idle = |lane: &&Lane| {
            let known = wall != NO_TIME && lane.heard != NO_TIME;
            known && idle_ms.is_some_and(|idle| wall.saturating_sub(lane.heard) >= idle)
        };
        let slowest = self.0.iter().filter(|lane| !idle(lane)).map(|lane| lane.clock).min();
        slowest.unwrap_or_else(|| self.fastest())
    }

    pub fn fastest(&self) -> i64 {
        self.0.iter().map(|lane| lane.clock).max().unwrap_or(NO_TIME)
    }

    /// Whether nothing of this time or before it is still to come by another lane.
    pub fn others_passed(&self, stamp: Stamp, ts: i64) -> bool {
        self.0.len() == stamp.lanes as usize
            && self.0.iter().enumerate().all(|(i, lane)| i == stamp.lane as usize || lane.clock > ts)
    }

    pub fn save(&self, out: &mut Writer) {
        out.varint(self.0.len() as u64);
        for lane in &self.0 {
            out.zigzag(lane.clock);
            out.zigzag(lane.heard);
        }
    }

    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        let lane = |r: &mut Reader<'_>| Some(Lane { clock: r.zigzag()?, heard: r.zigzag()? });
        self.0 = (0..saved.varint()?).map(|_| lane(saved)).collect::<Option<_>>()?;
        Some(())
    }
}
