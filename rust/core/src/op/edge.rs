//! The shuffle: from tasks of one sub-topology to tasks of another, by key, as frames.
//!
//! The upstream partition is the *lane*. Every frame says how far its lane's clock has come; frames of a lane to a
//! partition are numbered without gaps. What leaves in mid-generation (late rows, partials that need room) carries the clock
//! of the last generation: partials that a newer clock would close may still be in the combiner, and a partition that got late
//! rows only has to hear of its windows' closing when the generation ends.
//!
//! **Combine before shuffle.** Where all accumulators merge exactly, the upstream task folds rows by (window, key),
//! decides lateness itself, and ships partials when the generation ends; then it is empty again, so a combiner has
//! nothing to persist and a rollback just empties it. Otherwise rows travel one by one, each with its stamp.
//!
//! **Heartbeats.** A partition that got no frame in a generation still has to learn that a window closed: it gets the
//! clock alone, only when the clock passed such a boundary since it was last told.
//!
//! **Idle lanes.** Where it was asked for, a lane that has sent no row for a while on the logged clock tells every
//! partition that nobody need wait for it; its next row, or the clock alone, takes that back. Such rows travel one by
//! one: one that meets a closed window must still be a row. The mark is a record of the edge, so what it closes
//! downstream is a matter of logged data.

use std::sync::Arc;

use super::aggregate::{write_entry, Clocks, Destination, Fold, LateRow, Verdict};
use super::{Ctx, Message, Operator, Outgoing};
use crate::batch::Batch;
use crate::column::Column;
use crate::error::Fatal;
use crate::frame::{open, read_rows, row_frames, Beside, Draft, Header, Kind, BODY_BYTES_MAX};
use crate::key;
use crate::partitioner;
use crate::state::Store;
use crate::types::{DataType, Schema};
use crate::window::{Windows, NO_TIME};
use crate::wire::{Reader, Writer};

/// Groups a combiner holds before it ships in mid-generation: bounds its memory whatever the commit interval.
const GROUPS_MAX: usize = 500_000;

/// About what an entry takes besides its accumulators: window, time, a key of ordinary length.
const ENTRY_BYTES: usize = 56;

/// The sending end: frame numbers and the clock.
pub struct EdgeOut {
    topic: usize,
    lane: u32,
    schema: u64,
    window: Option<Windows>,
    /// The largest event time written on this edge.
    clock: i64,
    /// The clock when the current generation began.
    settled: i64,
    /// Per partition: frames sent, and the clock last told.
    sequences: Vec<u64>,
    told: Vec<i64>,
    quiet: Option<Quiet>,
}

/// How long a lane has been quiet.
struct Quiet {
    /// After how long it is idle. Zero behind another shuffle: idle as soon as everything that feeds it is.
    after_ms: i64,
    /// The tick at which it last sent rows, or at which counting began.
    since: i64,
    /// Downstream was told that it is idle.
    idle: bool,
    /// Rows were sent in this generation.
    spoke: bool,
}

/// `since` and `idle` as stored: a fixed size, which tells them from what another version of the plan left here.
const QUIET_BYTES: usize = 9;

impl EdgeOut {
    pub fn new(topic: usize, lane: u32, schema: u64, window: Option<Windows>, partitions: u32) -> Self {
        let n = partitions.max(1) as usize;
        EdgeOut {
            topic,
            lane,
            schema,
            window,
            clock: NO_TIME,
            settled: NO_TIME,
            sequences: vec![0; n],
            told: vec![NO_TIME; n],
            quiet: None,
        }
    }

    /// Declares the lane idle when it has been quiet for `after_ms`.
    pub fn idle_after(mut self, after_ms: Option<i64>) -> Self {
        self.quiet = after_ms.map(|after_ms| Quiet { after_ms, since: NO_TIME, idle: false, spoke: false });
        self
    }

    /// Whether the partitions have to be told that the lane fell silent, or speaks again.
    fn turn(&mut self, ctx: &Ctx<'_>) -> Option<Kind> {
        let quiet = self.quiet.as_mut()?;
        let spoke = std::mem::take(&mut quiet.spoke);
        if spoke || quiet.since == NO_TIME {
            quiet.since = ctx.tick;
        }
        if quiet.idle {
            quiet.idle = !spoke && ctx.inputs.asleep;
            return (!quiet.idle).then_some(Kind::Clock);
        }
        let long = ctx.tick != NO_TIME && ctx.tick.saturating_sub(quiet.since) >= quiet.after_ms;
        quiet.idle = !spoke && ctx.inputs.asleep && ctx.inputs.exhausted && long;
        quiet.idle.then_some(Kind::Idle)
    }

    fn partitions(&self) -> u32 {
        self.sequences.len() as u32
    }

    fn send(&mut self, partition: u32, kind: Kind, clock: i64, count: u32, frame: Draft, ctx: &mut Ctx<'_>) {
        let p = partition as usize;
        let header = Header { kind, lane: self.lane, sequence: self.sequences[p], clock, schema: self.schema, count };
        self.sequences[p] += 1;
        self.told[p] = self.told[p].max(clock);
        ctx.outgoing.push(Outgoing {
            topic: self.topic,
            partition,
            seq: ctx.seq_end,
            timestamp: self.clock.max(0),
            key: None,
            value: Some(frame.seal(&header)),
            headers: vec![],
        });
    }

    /// Tells the clock to partitions that would otherwise keep a window open.
    fn heartbeats(&mut self, ctx: &mut Ctx<'_>) {
        if let Some(kind) = self.turn(ctx) {
            (0..self.partitions()).for_each(|p| self.send(p, kind, self.clock, 0, Draft::with_capacity(0), ctx));
        }
        for p in 0..self.partitions() {
            let Some(w) = &self.window else { break };
            let told = self.told[p as usize];
            if self.clock > told && (told == NO_TIME || w.period(told) != w.period(self.clock)) {
                self.send(p, Kind::Clock, self.clock, 0, Draft::with_capacity(0), ctx);
            }
        }
        self.settled = self.clock;
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.clock);
        self.sequences.iter().for_each(|&s| out.varint(s));
        self.told.iter().for_each(|&t| out.zigzag(t));
        if let Some(quiet) = &self.quiet {
            out.u64(quiet.since as u64);
            out.u8(quiet.idle as u8);
        }
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.clock = saved.zigzag()?;
        self.settled = self.clock;
        for s in &mut self.sequences {
            *s = saved.varint()?;
        }
        for t in &mut self.told {
            *t = saved.zigzag()?;
        }
        if let Some(quiet) = &mut self.quiet {
            // What was stored before the lane could be idle: counting begins now.
            let stored = saved.rest.len() == QUIET_BYTES;
            quiet.since = if stored { saved.u64()? as i64 } else { NO_TIME };
            quiet.idle = stored && saved.u8()? != 0;
            quiet.spoke = false;
        }
        Some(())
    }

    /// Sends rows of a batch by key, each partition's as one frame.
    fn rows(
        &mut self,
        kind: Kind,
        batch: &Batch,
        stamps: Option<&[i64]>,
        by_partition: &[Vec<u32>],
        ctx: &mut Ctx<'_>,
    ) {
        let columns: Vec<&Column> = batch.columns.iter().map(|c| &**c).collect();
        // Rows bring their own stamps, and where a frame ends must not show: what they do not tell, a heartbeat will.
        let clock = if kind == Kind::Late { self.settled } else { NO_TIME };
        for (partition, rows) in by_partition.iter().enumerate() {
            if let Some(quiet) = self.quiet.as_mut().filter(|_| !rows.is_empty()) {
                quiet.spoke = true;
            }
            let signs = batch.sign.as_ref().map(|s| s.as_slice());
            let beside = Beside { ts: &batch.ts, stamps, signs };
            row_frames(&columns, beside, rows, &mut |chunk, frame| {
                self.send(partition as u32, kind, clock, chunk.len() as u32, frame, ctx);
                if let (Kind::Rows, Some(stamps), Some(&last)) = (kind, stamps, chunk.last()) {
                    self.told[partition] = self.told[partition].max(stamps[last as usize]);
                }
            });
        }
    }
}

/// Sends rows one by one.
pub struct Ship {
    pub out: EdgeOut,
    /// What the other end will read: rows that would die there die here, where their origin is known.
    pub fold: Fold,
}

impl Operator for Ship {
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let Message::Rows(batch) = message else {
            return Err(Fatal::new("bad_plan", "a shuffle takes rows"));
        };
        let keys: Vec<&Column> = self.fold.keys.iter().map(|&k| &*batch.columns[k]).collect();
        let prepared = self.fold.prepare(&batch, ctx.foreign);
        let mut stamps = vec![0i64; batch.rows];
        let mut by_partition: Vec<Vec<u32>> = vec![vec![]; self.out.partitions() as usize];
        let mut bytes = vec![];
        for row in batch.live_rows() {
            if prepared.dies(row, ctx) {
                continue;
            }
            if !key::user_key(&keys, row, &mut bytes) {
                ctx.count("dropped:null_key", 1);
                continue;
            }
            self.out.clock = self.out.clock.max(batch.ts[row]);
            stamps[row] = self.out.clock;
            by_partition[partitioner::partition(&bytes, self.out.partitions()) as usize].push(row as u32);
        }
        self.out.rows(Kind::Rows, &batch, Some(&stamps), &by_partition, ctx);
        Ok(())
    }

    fn flush(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        self.out.heartbeats(ctx);
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        self.out.save(out);
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.out.load(saved)
    }
}

/// Folds rows before the shuffle and sends partials.
pub struct Combine {
    pub out: EdgeOut,
    pub fold: Fold,
    pub key_types: Vec<DataType>,
    pub late_wanted: bool,
    store: Store,
    position: u64,
}

impl Combine {
    pub fn new(out: EdgeOut, fold: Fold, key_types: Vec<DataType>, late_wanted: bool, store: Store) -> Self {
        Combine { out, fold, key_types, late_wanted, store, position: 0 }
    }

    /// Sends what is held. `clock`: what the last frame of each partition tells; in mid-generation the settled one, since
    /// rows of windows that the new clock would close may still come.
    fn ship(&mut self, clock: i64, ctx: &mut Ctx<'_>) {
        let partitions = self.out.partitions() as usize;
        let (store, key_types) = (&self.store, &self.key_types);
        let entry = store.layout.size + ENTRY_BYTES;
        let room = (store.changed() * entry * 9 / 8 / partitions).min(BODY_BYTES_MAX + 4 * entry);
        let mut frames: Vec<(Draft, u32)> = (0..partitions).map(|_| (Draft::with_capacity(room), 0)).collect();
        let mut full: Vec<(u32, u32, Draft)> = vec![];
        let mut user = vec![];
        store.changes(|c, vars| {
            // Rows with a null key never came this far.
            key::to_user_key(key_types, c.key, &mut user);
            let p = partitioner::partition(&user, partitions as u32) as usize;
            let (frame, count) = &mut frames[p];
            let before = frame.len();
            write_entry(&mut frame.body, &store.layout, c.window, c.key, c.max_ts, c.new, vars);
            if frame.len() > BODY_BYTES_MAX && *count > 0 {
                let last = frame.split_off(before, room);
                full.push((p as u32, *count, std::mem::replace(frame, last)));
                *count = 0;
            }
            *count += 1;
        });
        // Every frame but a partition's last carries the old clock: the new one would close windows still being told.
        let settled = self.out.settled;
        for (p, count, frame) in full {
            self.out.send(p, Kind::Partials, settled, count, frame, ctx);
        }
        for (p, (frame, count)) in frames.into_iter().enumerate() {
            if count > 0 {
                self.out.send(p as u32, Kind::Partials, clock, count, frame, ctx);
            }
        }
        self.store.clear();
    }
}

impl Combine {
    /// Late rows travel as they are, so that `.late` stays one place.
    fn send_late(&mut self, batch: &Batch, late: &[LateRow], stamps: Option<&[i64]>, ctx: &mut Ctx<'_>) {
        if late.is_empty() {
            return;
        }
        if !self.late_wanted {
            ctx.count("late", late.len() as u64);
            return;
        }
        let keys: Vec<&Column> = self.fold.keys.iter().map(|&k| &*batch.columns[k]).collect();
        let mut by_partition: Vec<Vec<u32>> = vec![vec![]; self.out.partitions() as usize];
        let mut bytes = vec![];
        for (i, late_row) in late.iter().enumerate() {
            // A row that was late for several windows travels once.
            if i > 0 && late[i - 1].row == late_row.row {
                continue;
            }
            key::user_key(&keys, late_row.row as usize, &mut bytes);
            by_partition[partitioner::partition(&bytes, self.out.partitions()) as usize].push(late_row.row);
        }
        self.out.rows(Kind::Late, batch, stamps, &by_partition, ctx);
    }
}

impl Operator for Combine {
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let Message::Rows(batch) = message else {
            return Err(Fatal::new("bad_plan", "a combiner takes rows"));
        };
        let batch = Batch { lane: self.out.lane, stamp: None, ..batch };
        let prepared = self.fold.prepare(&batch, ctx.foreign);
        let mut late: Vec<LateRow> = vec![];
        // With what clock a row came: of windows that overlap, which are those for which it was late?
        let overlap = self.fold.window.as_ref().is_some_and(Windows::overlap);
        let mut stamps = vec![NO_TIME; if overlap { batch.rows } else { 0 }];
        let mut folded = 0;
        for (i, row) in batch.live_rows().enumerate() {
            self.fold.fetch(&prepared, i, &self.store);
            let clock = &mut self.out.clock;
            let into = Destination { store: &mut self.store, position: self.position };
            let verdict = self.fold.row(&prepared, (i, row), into, &mut late, ctx, &mut |to| {
                *clock = (*clock).max(to);
                Clocks { lane: *clock, slowest: NO_TIME }
            });
            if let Verdict::Folded { .. } = verdict {
                folded += 1;
                self.position += 1;
            }
            if overlap {
                stamps[row] = self.out.clock;
            }
        }
        ctx.count("counted", folded);
        drop(prepared);
        if self.store.changed() > GROUPS_MAX {
            self.ship(self.out.settled, ctx);
        }
        self.send_late(&batch, &late, overlap.then_some(&stamps[..]), ctx);
        Ok(())
    }

    fn flush(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        self.ship(self.out.clock, ctx);
        self.out.heartbeats(ctx);
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        self.out.save(out);
        out.varint(self.position);
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.out.load(saved)?;
        self.position = saved.varint()?;
        Some(())
    }

    fn rollback(&mut self) {
        self.store.clear();
    }
}

/// The receiving end: opens frames, audits their numbers, hands on what they hold.
pub struct EdgeSource {
    pub topic: Arc<str>,
    pub schema: Arc<Schema>,
    pub schema_hash: u64,
    /// The next number expected from each lane; audited under exactly-once only.
    sequences: Vec<u64>,
    /// The lanes that are idle.
    idle: Vec<bool>,
    pub audit: bool,
}

impl EdgeSource {
    pub fn new(topic: Arc<str>, schema: Arc<Schema>, schema_hash: u64, lanes: usize, audit: bool) -> Self {
        let n = lanes.max(1);
        EdgeSource { topic, schema, schema_hash, sequences: vec![0; n], idle: vec![false; n], audit }
    }

    /// Every lane is idle: nothing is to be expected.
    pub fn asleep(&self) -> bool {
        self.idle.iter().all(|&idle| idle)
    }

    /// One frame as a message for the node behind.
    pub fn open(&mut self, offset: i64, frame: &[u8]) -> Result<Message, Fatal> {
        let (header, body) = open(frame)?;
        if header.schema != self.schema_hash {
            return Err(Fatal::new(
                "plan_changed",
                format!("`{}` offset {offset} was written by another version of this topology: drain the old one first, or use a new application name", self.topic),
            ));
        }
        let Some(expected) = self.sequences.get_mut(header.lane as usize) else {
            return Err(Fatal::new(
                "lanes_changed",
                format!("`{}` offset {offset} comes from upstream partition {}, which did not exist when this job started: start under a new application name or reset this one", self.topic, header.lane),
            ));
        };
        if self.audit && header.sequence != *expected {
            return Err(Fatal::new(
                "shuffle_corrupt",
                format!("`{}` offset {offset}: frame {} of lane {} where {} was due: records of an internal topic were lost or repeated", self.topic, header.sequence, header.lane, *expected),
            ));
        }
        *expected = header.sequence + 1;
        self.idle[header.lane as usize] = header.kind == Kind::Idle;
        Ok(match header.kind {
            Kind::Rows => Message::Rows(read_rows(&self.schema, &header, body)?),
            Kind::Late => Message::Late(read_rows(&self.schema, &header, body)?),
            Kind::Partials => Message::Partials(header, Arc::new(body.to_vec())),
            Kind::Clock => Message::Clock { lane: header.lane, clock: header.clock, idle: false },
            Kind::Idle => Message::Clock { lane: header.lane, clock: header.clock, idle: true },
            _ => return Err(Fatal::new("corrupt_frame", "a state frame lies on a shuffle topic")),
        })
    }
}

impl Operator for EdgeSource {
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        ctx.emit(0, message);
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        out.varint(self.sequences.len() as u64);
        self.sequences.iter().for_each(|&s| out.varint(s));
        if self.idle.contains(&true) {
            self.idle.iter().for_each(|&idle| out.u8(idle as u8));
        }
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        if saved.varint()? as usize != self.sequences.len() {
            return None;
        }
        for s in &mut self.sequences {
            *s = saved.varint()?;
        }
        let stored = !saved.rest.is_empty();
        for idle in &mut self.idle {
            *idle = stored && saved.u8()? != 0;
        }
        Some(())
    }
}
