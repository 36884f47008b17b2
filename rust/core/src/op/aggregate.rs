//! Windowed and unwindowed aggregation: one state, three views (changes, final, late).
//!
//! **Lanes.** Rows come from one or several upstream partitions; each is a lane with a clock of its own, the largest
//! event time seen from it. A row is late by its own lane's clock, so what counts depends on nothing but the order within
//! each input partition. A window is closed when the slowest lane has passed its end and grace.
//!
//! ```text
//! lane 0 clock ──────────────▶|        late here: end + grace <= clock of lane 0
//! lane 1 clock ───────▶|               closed:    end + grace <= min of all clocks
//! window [start ── end)   grace
//! ```
//!
//! A lane that is idle (see `edge.rs`) holds no window open. Should it speak again, a row that is not late by its own
//! lane may meet a window that closed without it: it goes the way of late rows, with a reason of its own.
//!
//! With one lane these are exactly Kafka Streams' rules. Rows that an upstream combiner folded arrive as partials: it has
//! decided lateness with the same clock, and ships its partials before the clock that closes their windows.
//!
//! *Changes* are told once per commit and group, in order of each group's latest update; *final* results when the row
//! that moved the clock is processed, by window, then key; *late* rows at once.

use std::sync::Arc;

use super::{Changelog, Ctx, Message, Operator, Stats};
use crate::aggregate::{error_of, Accumulator, Arguments, Input, Layout, Place, Vars};
use crate::batch::Batch;
use crate::column::{reason, Bytes, Column, ColumnBuilder, Data};
use crate::error::Fatal;
use crate::expr::Foreign;
use crate::frame::{Header, Kind, BODY_BYTES_MAX};
use crate::key;
use crate::plan::logical::CompiledArguments;
use crate::state::{hash, lives, Store};
use crate::types::{DataType, Schema};
use crate::window::{Starts, Windows, NO_TIME, UNWINDOWED};
use crate::wire::{Reader, Writer};

/// How an aggregate reads its rows: keys, arguments, window. Shared by the aggregate and the combiner before a shuffle.
pub struct Fold {
    pub keys: Vec<usize>,
    pub window: Option<Windows>,
    /// Argument and condition of each accumulator.
    pub arguments: Vec<CompiledArguments>,
    /// Of windows that overlap, before a shuffle: rows are folded by slices of this length, whose results are merged into
    /// their windows behind it. A row is folded once, and what is sent is as much less.
    pub slices: Option<i64>,
    /// Without windows: after how much time without a row of it a group is forgotten.
    pub ttl: Option<Ttl>,
}

/// How long groups live (`state/lives.rs`).
#[derive(Clone, Copy, Debug)]
pub struct Ttl {
    pub ms: i64,
    /// Before a shuffle: of a lane's rows those of one pane are in one life, and are folded together. Which of them continue
    /// one another, the aggregate finds out.
    pub partial: bool,
}

impl Ttl {
    /// The pane into which rows of a group are folded that came from `first` to `last`.
    #[inline]
    fn pane(self, store: &mut Store, key: &[u8], hash: u32, first: i64, last: i64) -> i64 {
        if !self.partial {
            return store.join(self.ms, key, hash, first, last);
        }
        let pane = lives::pane(last, self.ms);
        store.update(pane, key, hash, i64::MIN, |layout, cells, _| {
            let (from, to) = layout.span(cells).unwrap_or((first, last));
            layout.set_span(cells, (from.min(first), to.max(last)));
        });
        pane
    }
}

impl Fold {
    fn nothing() -> Fold {
        Fold { keys: vec![], window: None, arguments: vec![], slices: None, ttl: None }
    }
}

/// Why a row found its window closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Late {
    /// Its own lane had passed the window.
    Lane,
    /// The others had, while its own lane was idle.
    Idle,
}

impl Late {
    /// As counters and the `.late` view name it.
    pub fn reason(self) -> &'static str {
        match self {
            Late::Lane => "late",
            Late::Idle => "closed_while_idle",
        }
    }
}

/// How far time has come for a row: in its lane, and for windows to close.
#[derive(Clone, Copy)]
pub struct Clocks {
    pub lane: i64,
    pub slowest: i64,
}

/// What became of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Folded into its windows, of which the first is this one.
    Folded {
        from: i64,
    },
    /// Late for all windows that it is in.
    Late,
    Dropped,
}

/// A row that was late for a window.
#[derive(Clone, Copy)]
pub struct LateRow {
    pub row: u32,
    pub start: i64,
    pub why: Late,
}

/// A batch with its arguments evaluated.
pub struct Prepared<'a> {
    pub batch: &'a Batch,
    columns: Vec<&'a Column>,
    arguments: Vec<Arguments>,
    may_err: bool,
    /// Of the live rows in turn.
    keys: Bytes,
    hashes: Vec<u32>,
}

/// Where a row is folded: the groups, and the row's position in its lane.
pub struct Destination<'a> {
    pub store: &'a mut Store,
    pub position: u64,
}

/// Groups that are looked up are fetched so many at a time: enough misses at once to hide them, few enough to stay.
const AHEAD: usize = 64;

impl Prepared<'_> {
    /// Sends the row to the dead letters if the aggregate would read an error in it.
    #[inline]
    pub fn dies(&self, row: usize, ctx: &mut Ctx<'_>) -> bool {
        if !self.may_err {
            return false;
        }
        let error = key::error_at(&self.columns, row).map(|s| (s, None)).or_else(|| error_of(&self.arguments, row));
        if let Some((state, message)) = &error {
            ctx.dead(self.batch, row, reason(*state), message.as_deref());
        }
        error.is_some()
    }
}

impl Fold {
    pub fn prepare<'a>(&self, batch: &'a Batch, foreign: &dyn Foreign) -> Prepared<'a> {
        let arguments: Vec<Arguments> = self
            .arguments
            .iter()
            .map(|a| Arguments {
                arg: a.arg.as_ref().map(|e| e.eval(batch, foreign)),
                condition: a.condition.as_ref().map(|e| e.eval(batch, foreign)),
                by: a.by.iter().map(|e| e.eval(batch, foreign)).collect(),
            })
            .collect();
        let errs = |c: &Column| c.state.as_ref().is_some_and(|s| s.iter().any(|&s| s > crate::column::NULL));
        let columns: Vec<&Column> = self.keys.iter().map(|&k| &*batch.columns[k]).collect();
        let mut keys = Bytes::with_capacity(batch.live_len(), batch.live_len() * 16 * columns.len());
        key::encode_rows(&columns, batch.live_rows(), &mut keys);
        let hashes = (0..keys.len()).map(|i| hash(keys.get(i))).collect();
        let may_err = columns.iter().any(|c| errs(c))
            || arguments.iter().any(|a| a.arg.iter().chain(&a.condition).chain(&a.by).any(|c| errs(c)));
        Prepared { batch, columns, arguments, may_err, keys, hashes }
    }

    /// The `i`-th live row is next: fetches the groups of those that follow, now and then.
    #[inline]
    pub fn fetch(&self, prepared: &Prepared<'_>, i: usize, store: &Store) {
        if i.is_multiple_of(AHEAD) {
            let rows = prepared.batch.live_rows().skip(i).take(AHEAD);
            let window = |row: usize| self.pane(prepared.batch.ts[row]);
            store.prefetch(rows.enumerate().map(|(n, row)| (window(row), prepared.hashes[i + n])));
        }
    }

    /// The pane that most rows of a time go to.
    #[inline]
    fn pane(&self, ts: i64) -> i64 {
        match (&self.window, self.slices) {
            (None, _) => self.ttl.map_or(UNWINDOWED, |ttl| lives::pane(ts, ttl.ms)),
            (Some(_), Some(ms)) => slice_pane(ts, ms),
            (Some(w), None) => w.start(ts),
        }
    }

    /// Folds one row, the `i`-th live one, into its windows, unless it is in error or without a key, and except for those
    /// for which it is late by `clock` (which must include it): they are added to `late`. `advance` raises the lane's clock;
    /// it is called only for rows that reach the aggregate.
    #[inline]
    pub fn row(
        &self,
        prepared: &Prepared<'_>,
        (i, row): (usize, usize),
        into: Destination<'_>,
        late: &mut Vec<LateRow>,
        ctx: &mut Ctx<'_>,
        advance: &mut dyn FnMut(i64) -> Clocks,
    ) -> Verdict {
        let Destination { store, position } = into;
        let batch = prepared.batch;
        if prepared.dies(row, ctx) {
            return Verdict::Dropped;
        }
        let key = prepared.keys.get(i);
        if key::is_null_key(key) {
            ctx.count("dropped:null_key", 1);
            return Verdict::Dropped;
        }
        let ts = batch.ts[row];
        let clocks = advance(batch.stamp.as_ref().map_or(ts, |s| s[row]));
        let sign = batch.sign.as_ref().map_or(1, |s| s[row] as i64);
        let input = Input { batch, row, place: Place { ts, lane: batch.lane, position }, foreign: ctx.foreign };
        let mut failed = None;
        // A lane that was idle comes back to where time is.
        let came = clocks.lane.max(clocks.slowest);
        let life = self.ttl.map(|ttl| ttl.pane(store, key, prepared.hashes[i], came, came));
        let mut fold = |pane: i64| {
            store.update(pane, key, prepared.hashes[i], ts, |layout, cells, vars| {
                for (index, a) in prepared.arguments.iter().enumerate() {
                    if a.condition.as_ref().is_none_or(|c| c.is_true(row)) {
                        if let Err(text) = layout.add(index, cells, (a.arg.as_deref(), &a.by), sign, &input, vars) {
                            failed.get_or_insert(text);
                        }
                    }
                }
            });
        };
        let mut from = None;
        match &self.window {
            None => {
                fold(life.unwrap_or(UNWINDOWED));
                from = Some(UNWINDOWED);
            }
            Some(w) => {
                for start in w.starts(ts) {
                    let why = match start {
                        // Starts and closes ascend together: behind one that is in time all are.
                        _ if from.is_some() => None,
                        _ if w.is_late(start, clocks.lane) => Some(Late::Lane),
                        _ if w.is_late(start, clocks.slowest) => Some(Late::Idle),
                        _ => None,
                    };
                    if let Some(why) = why {
                        late.push(LateRow { row: row as u32, start, why });
                        continue;
                    }
                    let first = from.is_none();
                    from.get_or_insert(start);
                    match self.slices {
                        None => fold(start),
                        // In time for all its windows: folded once.
                        Some(ms) if first && w.starts(ts).next() == from => {
                            fold(slice_pane(ts, ms));
                            break;
                        }
                        Some(_) => fold(window_pane(start)),
                    }
                }
            }
        }
        if let Some(text) = failed {
            ctx.dead(batch, row, "callable_raised", Some(&text));
        }
        from.map_or(Verdict::Late, |from| Verdict::Folded { from })
    }
}

/// Where partial results are formed by slices ([`Fold::slices`]) a pane is that of a slice, or that of a window: rows that
/// are late for some of their windows go to each of the others by themselves.
fn slice_pane(ts: i64, slice_ms: i64) -> i64 {
    ts.div_euclid(slice_ms) * slice_ms * 2
}

fn window_pane(start: i64) -> i64 {
    start * 2 + 1
}

/// Clocks of lanes, which of them are idle, and how far the slowest of the others has come. That never goes back, also
/// when a lane wakes up behind it.
#[derive(Clone, Debug)]
pub struct Lanes {
    clocks: Vec<i64>,
    idle: Vec<bool>,
    slowest: i64,
}

impl Lanes {
    pub fn new(lanes: usize) -> Lanes {
        let n = lanes.max(1);
        Lanes { clocks: vec![NO_TIME; n], idle: vec![false; n], slowest: NO_TIME }
    }
    #[inline]
    pub fn advance(&mut self, lane: u32, to: i64) -> Clocks {
        let clock = &mut self.clocks[lane as usize];
        if to > *clock {
            let was = *clock;
            *clock = to;
            if was <= self.slowest {
                self.settle();
            }
        }
        Clocks { lane: self.clocks[lane as usize], slowest: self.slowest }
    }
    /// Of lanes that are all idle none is waited for: time is where the fastest was.
    fn settle(&mut self) {
        let awake = self.clocks.iter().zip(&self.idle).filter(|(_, &idle)| !idle).map(|(&clock, _)| clock).min();
        let reached = awake.or(self.clocks.iter().copied().max()).unwrap_or(NO_TIME);
        self.slowest = self.slowest.max(reached);
    }
    /// The lane fell silent, or spoke again.
    pub fn set_idle(&mut self, lane: usize, idle: bool) {
        if self.idle[lane] != idle {
            self.idle[lane] = idle;
            self.settle();
        }
    }
    pub fn slowest(&self) -> i64 {
        self.slowest
    }
    pub fn fastest(&self) -> i64 {
        self.clocks.iter().copied().max().unwrap_or(NO_TIME)
    }
    /// The lane that holds windows open.
    pub fn held_by(&self) -> usize {
        let waited_for = self.clocks.iter().enumerate().filter(|c| !self.idle[c.0]);
        waited_for.min_by_key(|c| *c.1).map_or(0, |c| c.0)
    }
    pub fn save(&self, out: &mut Writer) {
        out.varint(self.clocks.len() as u64);
        self.clocks.iter().for_each(|&c| out.zigzag(c));
    }
    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        let n = saved.varint()? as usize;
        if n != self.clocks.len() {
            return None;
        }
        for clock in &mut self.clocks {
            *clock = saved.zigzag()?;
        }
        self.idle.fill(false);
        self.slowest = NO_TIME;
        self.settle();
        Some(())
    }
    /// What is only worth storing where lanes have been idle.
    fn save_idle(&self, out: &mut Writer, always: bool) {
        let behind = self.clocks.iter().any(|&clock| clock < self.slowest);
        if always || behind || self.idle.contains(&true) {
            self.idle.iter().for_each(|&idle| out.u8(idle as u8));
            out.zigzag(self.slowest);
        }
    }
    fn load_idle(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        if !saved.rest.is_empty() {
            for idle in &mut self.idle {
                *idle = saved.u8()? != 0;
            }
            self.slowest = saved.zigzag()?;
        }
        Some(())
    }
}

/// Which views somebody reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wanted {
    pub changes: bool,
    /// Old values go along with new ones (a table aggregation reads them).
    pub old: bool,
    pub last: bool,
    pub late: bool,
}

pub struct Aggregate {
    pub fold: Fold,
    pub key_types: Vec<DataType>,
    pub schema: Arc<Schema>,
    pub late_schema: Arc<Schema>,
    pub wanted: Wanted,
    /// Partial results come by slices of windows: see [`Fold::slices`].
    pub sliced: bool,
    store: Store,
    lanes: Lanes,
    positions: Vec<u64>,
    /// Every window that starts before this is closed.
    next_close: i64,
    /// The slowest clock at which something closes.
    boundary: i64,
    /// The key of window `next_close` (or the first behind it) up to which its rows are told; none: not begun.
    told: Option<(i64, Vec<u8>)>,
    /// The rows of the window that is being told, by key, and how many are told; derived.
    telling: Option<(i64, Vec<u32>, usize)>,
    /// How many more rows of closed windows are told at once.
    room: usize,
    room_max: usize,
}

/// Writes groups as entries: window, key, largest time, accumulators.
pub fn write_entry(w: &mut Writer, layout: &Layout, window: i64, key: &[u8], ts: i64, cells: &[u8], vars: &Vars) {
    w.zigzag(window);
    w.blob(key);
    w.zigzag(ts);
    layout.write(cells, vars, w);
}

impl Aggregate {
    pub fn new(
        fold: Fold,
        layout: Layout,
        key_types: Vec<DataType>,
        schema: Arc<Schema>,
        late_schema: Arc<Schema>,
        wanted: Wanted,
        lanes: usize,
    ) -> Self {
        Aggregate {
            fold,
            key_types,
            schema,
            late_schema,
            wanted,
            sliced: false,
            store: Store::new(layout),
            lanes: Lanes::new(lanes),
            positions: vec![0; lanes.max(1)],
            next_close: i64::MIN,
            boundary: i64::MAX,
            told: None,
            telling: None,
            room: usize::MAX,
            room_max: usize::MAX,
        }
    }

    /// Tells up to so many rows of closed windows at once, and the others when it is asked to go on. The cursor is small
    /// state: where a generation ends in between, what is left is told with the next.
    pub fn at_once(mut self, rows: Option<usize>) -> Self {
        self.room_max = rows.map_or(usize::MAX, |rows| rows.max(1));
        self.room = self.room_max;
        self
    }

    fn rows(&mut self, batch: &Batch, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let lane = self.lane(batch.lane)?;
        self.lanes.set_idle(lane, false);
        let fold = std::mem::replace(&mut self.fold, Fold::nothing());
        let prepared = fold.prepare(batch, ctx.foreign);
        let mut late: Vec<LateRow> = vec![];
        let mut folded = 0;
        for (i, row) in batch.live_rows().enumerate() {
            fold.fetch(&prepared, i, &self.store);
            let position = self.positions[lane];
            let lanes = &mut self.lanes;
            let into = Destination { store: &mut self.store, position };
            let advance = &mut |to| lanes.advance(lane as u32, to);
            if let Verdict::Folded { from } = fold.row(&prepared, (i, row), into, &mut late, ctx, advance) {
                folded += 1;
                self.positions[lane] += 1;
                if let Some(w) = &fold.window {
                    self.boundary = self.boundary.min(w.close_at(from));
                }
            }
            if self.lanes.slowest() >= self.boundary {
                self.close_windows(&fold, batch.seq[row], batch.path.as_ref().map(|p| p[row]), ctx);
            }
        }
        ctx.count("counted", folded);
        drop(prepared);
        self.fold = fold;
        if !late.is_empty() {
            self.late(batch, &late, ctx);
        }
        Ok(())
    }

    fn lane(&self, lane: u32) -> Result<usize, Fatal> {
        if (lane as usize) < self.positions.len() {
            return Ok(lane as usize);
        }
        Err(Fatal::new(
            "lanes_changed",
            format!(
                "rows of upstream partition {lane} came, but this job was started with {} upstream partitions: the \
                 number of input partitions was changed; start under a new application name or reset this one",
                self.positions.len()
            ),
        ))
    }

    fn late(&self, batch: &Batch, late: &[LateRow], ctx: &mut Ctx<'_>) {
        let idle = late.iter().filter(|l| l.why == Late::Idle).count() as u64;
        ctx.count(Late::Lane.reason(), late.len() as u64 - idle);
        ctx.count(Late::Idle.reason(), idle);
        let Some(window) = self.fold.window.as_ref().filter(|_| self.wanted.late) else { return };
        let rows = late.iter().map(|l| l.row).collect();
        let picked = Batch { live: Some(rows), ..batch.clone() }.compact();
        let mut columns = picked.columns.clone();
        let starts = late.iter().map(|l| l.start).collect();
        columns.push(Arc::new(Column::new(DataType::Timestamp, Data::I64(starts), None)));
        let ends = late.iter().map(|l| window.end(l.start)).collect();
        columns.push(Arc::new(Column::new(DataType::Timestamp, Data::I64(ends), None)));
        let mut why = Bytes::default();
        late.iter().for_each(|l| why.push(l.why.reason().as_bytes()));
        columns.push(Arc::new(Column::new(DataType::Str, Data::Str(why), None)));
        ctx.emit(2, Message::Rows(Batch { schema: self.late_schema.clone(), columns, key: None, ..picked }));
    }

    fn late_rows(&self, batch: &Batch, ctx: &mut Ctx<'_>) {
        let Some(window) = &self.fold.window else { return };
        let mut late = vec![];
        for row in batch.live_rows() {
            // Of windows that overlap, those for which it was late by the clock that it brings.
            let clock = batch.stamp.as_ref().map_or(i64::MAX, |s| s[row]);
            let starts = window.starts(batch.ts[row]).take_while(|&start| window.is_late(start, clock));
            late.extend(starts.map(|start| LateRow { row: row as u32, start, why: Late::Lane }));
        }
        self.late(batch, &late, ctx);
    }

    fn partials(&mut self, header: &Header, body: &[u8], ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let lane = self.lane(header.lane)?;
        let corrupt =
            || Fatal::new("corrupt_frame", "partial aggregates end before their count, or have keys that are none");
        let mut r = Reader::new(body);
        let mut side = Vars::default();
        let size = self.store.layout.size;
        let mut cells = vec![0u8; size * AHEAD];
        let mut groups = Vec::with_capacity(AHEAD);
        let mut left = header.count as usize;
        while left > 0 {
            groups.clear();
            cells.fill(0);
            for n in 0..left.min(AHEAD) {
                let window = r.zigzag().ok_or_else(corrupt)?;
                let key = r.blob().filter(|k| key::fits(&self.key_types, k)).ok_or_else(corrupt)?;
                let ts = r.zigzag().ok_or_else(corrupt)?;
                let cells = &mut cells[n * size..][..size];
                self.store.layout.read(&mut r, cells, &mut |v| side.put(v)).ok_or_else(corrupt)?;
                groups.push((window, key, hash(key), ts));
            }
            if !self.sliced {
                self.store.prefetch(groups.iter().map(|&(window, _, hash, _)| (window, hash)));
            }
            for (n, &(pane, key, hash, ts)) in groups.iter().enumerate() {
                let cells = &cells[n * size..][..size];
                if let Some(ttl) = self.fold.ttl {
                    let (first, last) = self.store.layout.span(cells).ok_or_else(corrupt)?;
                    let pane = ttl.pane(&mut self.store, key, hash, first, last);
                    self.store.update(pane, key, hash, ts, |layout, row, vars| layout.merge(row, cells, &side, vars));
                    continue;
                }
                let panes = match (&self.fold.window, self.sliced) {
                    (Some(w), true) if pane % 2 == 0 => w.starts(pane / 2),
                    (Some(_), true) => Starts::one(pane.div_euclid(2)),
                    _ => Starts::one(pane),
                };
                for (i, window) in panes.enumerate() {
                    self.store.update(window, key, hash, ts, |layout, row, vars| layout.merge(row, cells, &side, vars));
                    if let Some(w) = self.fold.window.as_ref().filter(|_| i == 0) {
                        self.boundary = self.boundary.min(w.close_at(window));
                    }
                }
            }
            left -= groups.len();
        }
        self.clock(lane as u32, header.clock, ctx);
        Ok(())
    }

    fn clock(&mut self, lane: u32, clock: i64, ctx: &mut Ctx<'_>) {
        self.lanes.advance(lane, clock);
        if self.lanes.slowest() >= self.boundary {
            let fold = std::mem::replace(&mut self.fold, Fold::nothing());
            self.close_windows(&fold, ctx.seq_end, None, ctx);
            self.fold = fold;
        }
    }

    /// Changes of groups that are forgotten one day: a key's row is that of its newest life. Those that went are told to
    /// tables behind this one alone: rows that were written elsewhere stay as they are.
    fn tell_lives(&self, ttl: i64, ctx: &mut Ctx<'_>) {
        if !self.wanted.changes {
            return;
        }
        let (layout, old) = (&self.store.layout, self.wanted.old);
        let rows = || TableRows::new(&self.key_types, layout, None, 0);
        let mut out = rows();
        let mut told = vec![];
        let mut tell = |key: &[u8], ts: i64, cells: &[u8], vars: &Vars, sign: i8, foreign: &dyn Foreign| {
            if out.len() >= TABLE_ROWS {
                told.push(std::mem::replace(&mut out, rows()));
            }
            out.push(UNWINDOWED, key, ts, cells, vars, layout, foreign, sign);
        };
        self.store.life_changes(|c, vars| {
            if let Some(cells) = c.old.filter(|_| old) {
                tell(c.key, c.max_ts, cells, vars, -1, ctx.foreign);
            }
            tell(c.key, c.max_ts, c.new, vars, 1, ctx.foreign);
        });
        if old {
            self.store.ends_of_lives(ttl, self.lanes.slowest(), |c, vars| {
                tell(c.key, c.max_ts, c.new, vars, -1, ctx.foreign);
            });
        }
        told.push(out);
        for rows in told {
            ctx.emit(0, Message::Rows(rows.finish(&self.schema, ctx.seq_end, true)));
        }
    }

    /// Forgets what time has passed.
    fn expire(&mut self) {
        let clock = self.lanes.slowest();
        if let Some(window) = &self.fold.window {
            // Not what is still being told.
            let told = if self.closing() { self.next_close } else { i64::MAX };
            self.store.expire(|start| start < told && window.is_expired(start, clock));
        } else if let Some(ttl) = self.fold.ttl {
            self.store.expire(|pane| lives::is_over(pane, ttl.ms, clock));
        }
    }

    /// How many windows are open only because the slowest lane is not as far as the fastest.
    fn held_windows(&self) -> i64 {
        let Some(window) = &self.fold.window else { return 0 };
        let mut next = self.store.next_window(self.next_close);
        let mut held = 0;
        while let Some(start) = next.filter(|&start| window.close_at(start) <= self.lanes.fastest()) {
            held += 1;
            next = self.store.next_window(start + 1);
        }
        held
    }

    /// Emits every window that the slowest clock has passed, by start, then key; as far as there is room.
    fn close_windows(&mut self, fold: &Fold, seq: u32, path: Option<u32>, ctx: &mut Ctx<'_>) {
        let Some(window) = &fold.window else { return };
        let clock = self.lanes.slowest();
        while let Some(start) = self.store.next_window(self.next_close) {
            if window.close_at(start) > clock {
                break;
            }
            if self.wanted.last && !self.tell_window(window, start, seq, path, ctx) {
                return; // the boundary stays where it is: there is more to tell
            }
            self.next_close = start + 1;
        }
        self.boundary = self.store.next_window(self.next_close).map_or(i64::MAX, |w| window.close_at(w));
    }

    /// Emits rows of a window that is closed, so that nothing changes it any more; whether that was all of it.
    fn tell_window(&mut self, window: &Windows, start: i64, seq: u32, path: Option<u32>, ctx: &mut Ctx<'_>) -> bool {
        if self.room == 0 {
            return false;
        }
        if self.telling.as_ref().is_none_or(|t| t.0 != start) {
            let rows = self.store.by_key(start);
            let told = self.told.take().filter(|told| told.0 == start);
            let from = told.map_or(0, |(_, key)| rows.partition_point(|&row| self.store.key(start, row) <= &key[..]));
            self.telling = Some((start, rows, from));
        }
        let Some((_, rows, next)) = &mut self.telling else { return true };
        while *next < rows.len() && self.room > 0 {
            let some = &rows[*next..][..TABLE_ROWS.min(self.room).min(rows.len() - *next)];
            let mut out = TableRows::new(&self.key_types, &self.store.layout, Some(window.clone()), some.len());
            self.store.rows(start, some, |key, ts, cells, vars| {
                out.push(start, key, ts, cells, vars, &self.store.layout, ctx.foreign, 1)
            });
            let mut batch = out.finish(&self.schema, seq, false);
            // Where several branches meet again, these rows stand where the row that closed the window stands.
            batch.path = path.map(|p| Arc::new(vec![p; batch.rows]));
            ctx.emit(1, Message::Rows(batch));
            *next += some.len();
            self.room = self.room.saturating_sub(some.len());
        }
        let all = *next == rows.len();
        self.told = match all || *next == 0 {
            true => None,
            false => Some((start, self.store.key(start, rows[*next - 1]).to_vec())),
        };
        if all {
            self.telling = None;
        }
        all
    }
}

/// Rows of a table that are told at once.
const TABLE_ROWS: usize = 4096;

/// Builds the rows of a table: keys, window bounds, results.
pub struct TableRows {
    window: Option<Windows>,
    key_types: Vec<DataType>,
    columns: Vec<ColumnBuilder>,
    ts: Vec<i64>,
    sign: Vec<i8>,
}

impl TableRows {
    pub fn new(key_types: &[DataType], layout: &Layout, window: Option<Windows>, rows: usize) -> Self {
        let bounds = if window.is_some() { 2 } else { 0 };
        let types = key_types.iter().cloned();
        let types = types.chain(std::iter::repeat_n(DataType::Timestamp, bounds));
        let types = types.chain(layout.accumulators.iter().map(|a: &Accumulator| a.output.clone()));
        TableRows {
            window,
            key_types: key_types.to_vec(),
            columns: types.map(|dtype| ColumnBuilder::with_capacity(dtype, rows)).collect(),
            ts: Vec::with_capacity(rows),
            sign: Vec::with_capacity(rows),
        }
    }

    pub fn len(&self) -> usize {
        self.ts.len()
    }

    #[allow(clippy::too_many_arguments)]
    pub fn push(
        &mut self,
        start: i64,
        key: &[u8],
        ts: i64,
        cells: &[u8],
        vars: &Vars,
        layout: &Layout,
        foreign: &dyn Foreign,
        sign: i8,
    ) {
        let mut rest = key;
        for (i, dtype) in self.key_types.iter().enumerate() {
            // A key that was encoded by this layout decodes; anything else was refused when it was read.
            rest = key::decode(dtype, rest, &mut self.columns[i]).unwrap_or(b"");
        }
        let mut next = self.key_types.len();
        if let Some(w) = &self.window {
            self.columns[next].push_i64(start);
            self.columns[next + 1].push_i64(w.end(start));
            next += 2;
        }
        for index in 0..layout.accumulators.len() {
            layout.result(index, cells, vars, foreign, &mut self.columns[next + index]);
        }
        self.ts.push(ts);
        self.sign.push(sign);
    }

    pub fn finish(self, schema: &Arc<Schema>, seq: u32, signed: bool) -> Batch {
        let rows = self.ts.len();
        Batch {
            schema: schema.clone(),
            columns: self.columns.into_iter().map(|c| Arc::new(c.finish())).collect(),
            rows,
            live: None,
            seq: Arc::new(vec![seq; rows]),
            path: None,
            ts: Arc::new(self.ts),
            key: None,
            sign: signed.then(|| Arc::new(self.sign)),
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![]),
            origin_rows: None,
        }
    }
}

/// Collects entries into blocks of the changelog that a broker takes as one message.
struct Blocks<'a> {
    changelog: &'a mut dyn Changelog,
    w: Writer,
    count: u32,
}

impl<'a> Blocks<'a> {
    fn new(changelog: &'a mut dyn Changelog) -> Self {
        Blocks { changelog, w: Writer::default(), count: 0 }
    }
    fn entry(&mut self, write: impl FnOnce(&mut Writer)) {
        let before = self.w.bytes.len();
        write(&mut self.w);
        if self.w.bytes.len() > BODY_BYTES_MAX && self.count > 0 {
            let last = self.w.bytes.split_off(before);
            self.end();
            self.w.raw(&last);
        }
        self.count += 1;
    }
    fn end(&mut self) {
        if self.count > 0 {
            self.changelog.delta(Kind::State, self.count, &self.w.bytes);
            self.w.bytes.clear();
            self.count = 0;
        }
    }
}

impl Operator for Aggregate {
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        match message {
            Message::Rows(batch) => self.rows(&batch, ctx),
            Message::Late(batch) => {
                self.late_rows(&batch, ctx);
                Ok(())
            }
            Message::Partials(header, body) => self.partials(&header, &body, ctx),
            Message::Clock { lane, clock, idle } => {
                let index = self.lane(lane)?;
                self.lanes.set_idle(index, idle);
                self.clock(lane, clock, ctx);
                Ok(())
            }
        }
    }

    fn flush(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        if let Some(ttl) = self.fold.ttl {
            self.tell_lives(ttl.ms, ctx);
            return Ok(());
        }
        if self.wanted.changes && self.store.changed() > 0 {
            let layout = &self.store.layout;
            // In batches that stay in the cache on their way through the operators behind.
            let rows =
                |left: usize| TableRows::new(&self.key_types, layout, self.fold.window.clone(), left.min(TABLE_ROWS));
            let mut left = self.store.changed() * 2;
            let mut out = rows(left);
            let old = self.wanted.old;
            self.store.changes(|c, vars| {
                if out.len() + 2 > TABLE_ROWS {
                    left = left.saturating_sub(out.len());
                    let full = std::mem::replace(&mut out, rows(left));
                    ctx.emit(0, Message::Rows(full.finish(&self.schema, ctx.seq_end, true)));
                }
                if let Some(cells) = c.old.filter(|_| old) {
                    // Taking an old value back is an update of now, as in Kafka Streams.
                    out.push(c.window, c.key, c.max_ts, cells, vars, layout, ctx.foreign, -1);
                }
                out.push(c.window, c.key, c.max_ts, c.new, vars, layout, ctx.foreign, 1);
            });
            let batch = out.finish(&self.schema, ctx.seq_end, true);
            ctx.emit(0, Message::Rows(batch));
        }
        Ok(())
    }

    fn closing(&self) -> bool {
        self.boundary <= self.lanes.slowest()
    }

    fn go_on(&mut self, ctx: &mut Ctx<'_>) -> Result<usize, Fatal> {
        self.room = self.room_max;
        let fold = std::mem::replace(&mut self.fold, Fold::nothing());
        self.close_windows(&fold, ctx.seq_end, None, ctx);
        self.fold = fold;
        Ok(self.room_max - self.room)
    }

    fn save(&self, out: &mut Writer) {
        self.lanes.save(out);
        self.positions.iter().for_each(|&p| out.varint(p));
        out.zigzag(self.next_close);
        out.zigzag(self.boundary);
        self.lanes.save_idle(out, self.told.is_some());
        if let Some((start, key)) = &self.told {
            out.zigzag(*start);
            out.blob(key);
        }
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.lanes.load(saved)?;
        for p in &mut self.positions {
            *p = saved.varint()?;
        }
        self.next_close = saved.zigzag()?;
        self.boundary = saved.zigzag()?;
        self.lanes.load_idle(saved)?;
        self.told = match saved.rest.is_empty() {
            true => None,
            false => Some((saved.zigzag()?, saved.blob()?.to_vec())),
        };
        self.telling = None;
        self.room = self.room_max;
        Some(())
    }

    fn rewrite(&mut self, limit: usize, changelog: &mut dyn Changelog) -> (usize, bool) {
        let mut blocks = Blocks::new(changelog);
        let mut written = 0;
        let layout = self.store.layout.clone();
        let mortal = self.fold.ttl.is_some();
        let ended = self.store.rewrite(limit, |window, key, ts, cells, vars| {
            // A life that moved on left an empty row: who has not seen what was here before need not know.
            if mortal && layout.span(cells).is_none() {
                return;
            }
            blocks.entry(|w| write_entry(w, &layout, window, key, ts, cells, vars));
            written += 1;
        });
        blocks.end();
        (written, ended)
    }

    fn close_generation(&mut self, changelog: &mut dyn Changelog, _: u64) {
        let mut blocks = Blocks::new(changelog);
        let store = &self.store;
        store.touched(|c, vars| {
            blocks.entry(|w| write_entry(w, &store.layout, c.window, c.key, c.max_ts, c.new, vars));
        });
        blocks.end();
        self.expire();
        self.store.close_generation();
        self.room = self.room_max;
    }

    fn committed(&mut self) {
        self.store.committed();
    }

    fn rollback(&mut self) {
        self.store.rollback();
        self.telling = None;
    }

    fn restore(&mut self, kind: Kind, count: u32, body: &[u8]) -> Option<()> {
        if kind != Kind::State {
            return None;
        }
        let mut r = Reader::new(body);
        for _ in 0..count {
            let window = r.zigzag()?;
            let key = r.blob().filter(|k| key::fits(&self.key_types, k))?;
            let ts = r.zigzag()?;
            self.store.restore_row(window, key, ts, &mut r)?;
        }
        Some(())
    }

    fn begin_restore(&mut self) {
        self.store.begin_restore();
    }

    fn settle(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.load(saved)?;
        self.expire();
        Some(())
    }

    fn end_restore(&mut self) {
        self.expire();
        self.store.end_restore();
    }

    fn stats(&self, out: &mut Stats) {
        out.push(("state_keys".into(), self.store.keys() as i64));
        out.push(("state_bytes".into(), self.store.bytes() as i64));
        if self.fold.window.is_some() {
            out.push(("slowest_clock".into(), self.lanes.slowest()));
            out.push(("held_by_lane".into(), self.lanes.held_by() as i64));
            out.push(("held_windows".into(), self.held_windows()));
        }
    }
}
