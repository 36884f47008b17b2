//! A task: one sub-topology on one partition, from records in to records out.
//!
//! ```text
//!              feed                       process                         close_generation
//! records ──▶ queues ──▶ next in order ──▶ operators ──▶ outputs ─────▶ generation n  ──▶ committed: forgotten
//!                                             │ state                         │
//!                                             └──────── undo ◀────────── rollback: as if n (and n+1) had never been
//! ```
//!
//! **Order.** One record after another in the sense of §"Choice of next record" of Kafka Streams: among the inputs, the one
//! whose head has the smallest time (a record's time being the largest of its partition so far), ties by topic. An input
//! known to have unread data is waited for. How many records are taken at once never shows in the output.
//!
//! **Generations.** Everything between two `close_generation` calls is committed or undone together. One may be in commit
//! while the next is processed. The small state of all operators is one `meta` frame per generation; keyed state tells
//! its delta; both go to the changelog, in the same transaction as the outputs.
//!
//! **On disk.** A task whose stores are in a backend (`flow/backend.rs`) restores from the backend's mark on. The chain (below)
//! tells whether the two belong together: it is stored with the mark, goes on with each frame that is read, and the next `meta`
//! has to agree.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::{json, Value};
use xxhash_rust::xxh3::xxh3_64;

use crate::batch::{Batch, Origin};
use crate::error::{Fatal, PlanError};
use crate::expr::Foreign;
use crate::flow::backend::{self, Backend};
use crate::flow::{Globals, Place, StoreType, Taken};
use crate::frame::{open, seal, Header, Kind};
use crate::op::{
    failed, Changelog, Counters, Ctx, DeadLetters, FindTopic, FoundTopics, Inputs, Message, Needs, Outgoing,
};
use crate::plan::logical::Op;
use crate::plan::{lower, Lowered, Plan, Route, SourceKind};
use crate::raw::{OptBytes, RawBatch};
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

/// Rows decoded and evaluated at once: enough to amortise a kernel, few enough to stay in the cache.
const DECODE_ROWS: usize = 4096;

/// Decoded rows of a user topic that are not processed yet.
struct Pending {
    batch: Batch,
    raw: Arc<RawBatch>,
    /// The record of `raw` behind row 0.
    base: usize,
    bad: Vec<(u32, Bad)>,
    /// The partition's time at each row.
    prefix: Vec<i64>,
    cursor: usize,
}

/// Why a record is a dead letter.
#[derive(Clone)]
struct Bad {
    reason: String,
    message: Option<String>,
}

impl Bad {
    fn new(reason: impl Into<String>, message: Option<String>) -> Bad {
        Bad { reason: reason.into(), message }
    }
}

struct Input {
    topic: Arc<str>,
    source: SourceKind,
    queue: VecDeque<(Arc<RawBatch>, usize)>,
    pending: Option<Pending>,
    buffered: usize,
    position: Option<i64>,
    clock: i64,
    caught_up: bool,
    /// Its topic has no such partition: merged topics need not have as many partitions. Then nothing will ever come.
    absent: bool,
    /// The next record of a record flow, read: so that its time is known.
    head: Option<Taken>,
}

impl Input {
    /// Nothing comes from it now: the others need not wait for it.
    fn ended(&self) -> bool {
        self.caught_up || self.absent
    }
}

/// What one commit of a task consists of.
pub struct Generation {
    pub outputs: Vec<(String, u32, RawBatch)>,
    pub positions: Vec<(String, i64)>,
}

/// What a rollback returns to.
struct Mark {
    meta: Vec<u8>,
    positions: Vec<Option<i64>>,
    /// Where the last full round of rewriting began (a generation's number).
    rewritten_from: Option<u64>,
    chain: u64,
    /// It has a `meta` record.
    logged: bool,
}

/// Where stores are that are not in memory alone, and how far what it has agrees with the changelog.
struct Local {
    backend: Arc<dyn Backend>,
    /// The chain at the record that is next; none: not known yet.
    chain: Option<u64>,
    /// The chain at the mark, until the changelog has agreed with it.
    unproven: Option<u64>,
    /// A restore has come to the mark.
    beyond: bool,
}

pub struct Task {
    plan: Arc<Plan>,
    subtopology: usize,
    partition: u32,
    partitions: Vec<u32>,
    found: FoundTopics,
    inputs: Vec<Input>,
    nodes: Vec<crate::plan::Physical>,
    inboxes: Vec<Vec<(usize, Message)>>,
    outgoing: Vec<Outgoing>,
    outputs: BTreeMap<(usize, u32), RawBatch>,
    /// Their partitions in the order of their first records, as they are handed on.
    written: Vec<(usize, u32)>,
    counters: Counters,
    dead_letters: DeadLetters,
    foreign: Arc<dyn Foreign>,
    marks: VecDeque<Mark>,
    touched: bool,
    restoring: Option<Option<Vec<u8>>>,
    decode_rows: usize,
    /// As many rows as one call takes, where functions are waited for: the caller has other things to do as well.
    rows_max: usize,
    /// Number of the open generation.
    number: u64,
    round: Round,
    /// Entries of keyed state that the last generation changed.
    changed: usize,
    /// Bytes that the last generation wrote to the changelog: the next one makes room for as much.
    logged: usize,
    /// A hash of everything ever written to the changelog. It goes along in `meta`, so that two changelogs which agree in
    /// one `meta` agree in all that lies before it: how a local copy knows that it is one of this log.
    chain: u64,
    /// The logged clock; `NO_TIME` until the first tick, and where nothing looks at it.
    tick: i64,
    /// Whether something here looks at the logged clock.
    ticks: bool,
    /// Operators may ask what time it is.
    timed: bool,
    /// Somebody asked for a commit.
    commit_asked: bool,
    local: Option<Local>,
}

/// Clean state is written again, a little with each generation, so that the changelog can forget its beginning: once a
/// round has gone through everything, nothing from before the round is needed.
#[derive(Clone, Copy, Default)]
struct Round {
    from: u64,
    node: usize,
    /// Where the last full round began.
    done: Option<u64>,
}

/// Clean entries written again with a generation: at least this many, and half as many as the one before
/// changed.
const REWRITE_MIN: usize = 16;

/// How tasks run; results of columnar operators do not depend on it.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Nothing on an edge is ever there twice.
    pub exactly_once: bool,
    /// Tables with a cache tell each key once per commit; else every change, at once.
    pub cache: bool,
    /// So many rows of windows that one row closes are told at once; the others before the next input, in as many
    /// generations as it takes.
    pub closing_rows: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { exactly_once: true, cache: true, closing_rows: 16_384 }
    }
}

impl Task {
    /// `partitions`: the partition count of every topic of the plan, by name; `globals`: the plan's global tables, which
    /// somebody else fills.
    pub fn new(
        plan: Arc<Plan>,
        subtopology: usize,
        partition: u32,
        partitions: &BTreeMap<String, u32>,
        foreign: Arc<dyn Foreign>,
        options: Options,
        globals: &Arc<Globals>,
    ) -> Result<Task, PlanError> {
        let counts: Vec<u32> = plan.topics.iter().map(|t| partitions.get(t).copied().unwrap_or(1)).collect();
        if subtopology >= plan.subtopologies.len() {
            return Err(PlanError::new("bad_plan", format!("there is no sub-topology {subtopology}")));
        }
        let Lowered { sources, nodes } = lower(&plan, subtopology, partition, &counts, options, globals)?;
        let inputs = sources
            .into_iter()
            .map(|(topic, source)| Input {
                topic: Arc::from(topic.as_str()),
                source,
                queue: VecDeque::new(),
                pending: None,
                buffered: 0,
                position: None,
                clock: NO_TIME,
                caught_up: false,
                absent: partitions.get(&topic).is_some_and(|&count| partition >= count),
                head: None,
            })
            .collect();
        let by_source: Vec<(Arc<str>, usize)> = plan
            .topics
            .iter()
            .enumerate()
            .filter_map(|(i, t)| t.strip_suffix("-dlq").map(|source| (Arc::from(source), i)))
            .collect();
        let fallback = by_source.first().map(|d| d.1);
        let dead_letters = DeadLetters { application: plan.app.as_str().into(), by_source, fallback };
        let mut task = Task {
            subtopology,
            partition,
            partitions: counts,
            found: FoundTopics::default(),
            inputs,
            inboxes: nodes.iter().map(|_| vec![]).collect(),
            nodes,
            outgoing: vec![],
            outputs: BTreeMap::new(),
            written: vec![],
            counters: Counters::new(),
            dead_letters,
            foreign,
            marks: VecDeque::new(),
            touched: false,
            restoring: None,
            decode_rows: DECODE_ROWS,
            rows_max: plan.subtopologies[subtopology]
                .nodes
                .iter()
                .filter_map(|&n| match plan.nodes[n].op {
                    Op::MapAsync { rows_max, .. } => Some(rows_max.max(1)),
                    _ => None,
                })
                .min()
                .unwrap_or(usize::MAX),
            number: 0,
            round: Round::default(),
            changed: 0,
            logged: 0,
            chain: 0,
            tick: NO_TIME,
            commit_asked: false,
            local: None,
            timed: plan.subtopologies[subtopology].nodes.iter().any(|&n| plan.nodes[n].op.flag("timed")),
            ticks: plan.subtopologies[subtopology].feeds.iter().any(|&n| plan.facts[n].idle_ms.is_some())
                || plan.subtopologies[subtopology].nodes.iter().any(|&n| plan.nodes[n].op.flag("timed")),
            plan,
        };
        let mark = task.mark();
        task.marks.push_back(mark);
        Ok(task)
    }

    /// How topics are found that the plan does not name (see [`FoundTopics`]).
    pub fn find_topics(&mut self, find: FindTopic) {
        self.found = FoundTopics::new(find);
    }

    pub fn topics(&self) -> Vec<String> {
        self.inputs.iter().map(|i| i.topic.to_string()).collect()
    }

    fn input(&mut self, topic: &str) -> Result<&mut Input, Fatal> {
        self.inputs
            .iter_mut()
            .find(|i| &*i.topic == topic)
            .ok_or_else(|| Fatal::new("unknown_topic", format!("this task does not read `{topic}`")))
    }

    /// Hands over records that continue where the last ones ended.
    pub fn feed(&mut self, topic: &str, batch: Arc<RawBatch>) -> Result<(), Fatal> {
        self.finish_restore()?;
        let input = self.input(topic)?;
        if let (Some(position), Some(&first)) = (input.position, batch.offsets.first()) {
            let expected = input.queue.back().map_or(position, |(b, _)| b.next_offset);
            if first < expected {
                return Err(Fatal::new(
                    "repeated_input",
                    format!("`{topic}`: offset {first} was handed over again; {expected} was due"),
                ));
            }
        }
        if input.position.is_none() {
            input.position = Some(batch.offsets.first().copied().unwrap_or(batch.next_offset));
            // Where a rollback of the first generation returns to.
            let first = input.position;
            let index = self.inputs.iter().position(|i| &*i.topic == topic).unwrap_or(0);
            for mark in &mut self.marks {
                mark.positions[index].get_or_insert(first.unwrap_or(0));
            }
        }
        let input = self.input(topic)?;
        input.buffered += batch.len();
        input.queue.push_back((batch, 0));
        Ok(())
    }

    pub fn buffered(&self, topic: &str) -> usize {
        self.inputs.iter().find(|i| &*i.topic == topic).map_or(0, |i| i.buffered)
    }

    pub fn caught_up(&mut self, topic: &str, value: bool) -> Result<(), Fatal> {
        self.input(topic)?.caught_up = value;
        Ok(())
    }

    /// Moves the logged clock (ms, never backwards). It is stored with the generation that is open.
    pub fn tick(&mut self, now: i64) -> Result<(), Fatal> {
        self.finish_restore()?;
        if self.ticks {
            // The first one is worth a commit: from here on, silence counts, also through a restart.
            self.touched |= self.tick == NO_TIME;
            self.tick = self.tick.max(now);
        }
        Ok(())
    }

    /// Whether time that passes is anything to it. If not, a generation in which nothing came has nothing to say.
    pub fn ticks(&self) -> bool {
        self.ticks
    }

    /// What happens once when a task begins, after a restore or a rollback as well; `now` is the clock's time.
    pub fn begin(&mut self, now: i64) -> Result<(), Fatal> {
        self.finish_restore()?;
        if self.timed {
            self.tick = self.tick.max(now); // no reason to commit by itself
        }
        for node in &mut self.nodes {
            let mut ctx = Ctx {
                node: &node.name,
                foreign: &*self.foreign,
                emitted: &mut vec![],
                outgoing: &mut self.outgoing,
                counters: &mut self.counters,
                partitions: &self.partitions,
                found: &self.found,
                dead_letters: &self.dead_letters,
                task_partition: self.partition,
                seq_end: 0,
                tick: self.tick,
                inputs: Inputs::default(),
            };
            node.operator.begin(&mut ctx)?;
        }
        Ok(())
    }

    /// A store of this task by its name, for queries.
    pub fn store(&self, name: &str) -> Option<std::cell::Ref<'_, crate::flow::Store>> {
        self.nodes.iter().find_map(|n| n.operator.store(name))
    }

    /// Whether a commit was asked for since the last one.
    pub fn commit_asked(&self) -> bool {
        self.commit_asked
    }

    fn inputs_now(&self) -> Inputs {
        Inputs {
            exhausted: self.inputs.iter().all(|i| i.ended() && i.buffered == 0),
            asleep: self.inputs.iter().all(|i| match &i.source {
                SourceKind::User { .. } | SourceKind::Records { .. } => true,
                SourceKind::Edge { source, .. } => source.asleep(),
            }),
        }
    }

    /// The time of the record that is next; none: there is none to go on with.
    pub fn next_time(&mut self) -> Result<Option<i64>, Fatal> {
        self.finish_restore()?;
        if self.nodes.iter().any(|n| n.operator.closing()) {
            return Ok(Some(i64::MIN));
        }
        for index in 0..self.inputs.len() {
            self.fill(index, 1)?;
        }
        let Some((index, _)) = self.choose() else { return Ok(None) };
        let input = &self.inputs[index];
        Ok(match (&input.head, &input.pending) {
            (Some(taken), _) => Some(taken.as_ref().map_or(i64::MIN, |record| record.ts)),
            (None, Some(pending)) => Some(pending.prefix[pending.cursor]),
            (None, None) => Some(input.clock),
        })
    }

    /// Processes up to `max_rows` buffered records; returns how many. A record behind which a commit is asked for is the
    /// last one.
    pub fn process(&mut self, max_rows: usize) -> Result<usize, Fatal> {
        self.finish_restore()?;
        let mut done = 0;
        let before = self.commit_asked;
        let max_rows = max_rows.min(self.rows_max);
        while done < max_rows && self.commit_asked == before {
            if self.nodes.iter().any(|n| n.operator.closing()) {
                done += self.go_on()?;
                continue;
            }
            let budget = max_rows - done;
            for index in 0..self.inputs.len() {
                self.fill(index, budget.min(self.decode_rows))?;
            }
            let Some((index, bound)) = self.choose() else { break };
            done += self.run(index, bound, budget)?;
            for node in &mut self.nodes {
                self.commit_asked |= node.operator.commit_asked();
            }
        }
        Ok(done)
    }

    /// Windows that are closed and not told: some more of them.
    fn go_on(&mut self) -> Result<usize, Fatal> {
        self.touched = true;
        let Some(index) = self.nodes.iter().position(|n| n.operator.closing()) else { return Ok(0) };
        let mut emitted = vec![];
        let node = &mut self.nodes[index];
        let mut ctx = Ctx {
            node: &node.name,
            foreign: &*self.foreign,
            emitted: &mut emitted,
            outgoing: &mut self.outgoing,
            counters: &mut self.counters,
            partitions: &self.partitions,
            found: &self.found,
            dead_letters: &self.dead_letters,
            task_partition: self.partition,
            seq_end: 0,
            tick: self.tick,
            inputs: Inputs::default(),
        };
        let rows = node.operator.go_on(&mut ctx)?;
        for (port, message) in emitted {
            let routes = self.nodes[index].routes.get(port).cloned().unwrap_or_default();
            self.route(&routes, message);
        }
        self.run_nodes(false, 0)?;
        Ok(rows.max(1))
    }

    /// Moves past what needs no processing and decodes the next rows of an input.
    fn fill(&mut self, index: usize, rows: usize) -> Result<(), Fatal> {
        let input = &mut self.inputs[index];
        if input.pending.is_some() {
            return Ok(());
        }
        while let Some((batch, cursor)) = input.queue.front() {
            if *cursor < batch.len() {
                break;
            }
            // Where the task stands when it begins is nothing to write down.
            self.touched |= input.position.is_some_and(|position| position != batch.next_offset);
            input.position = Some(batch.next_offset);
            input.queue.pop_front();
        }
        if let (SourceKind::Records { source, .. }, Some((raw, cursor))) = (&input.source, input.queue.front()) {
            if input.head.is_none() {
                input.head = Some(source.read(
                    (&input.topic, self.partition),
                    (raw, *cursor),
                    input.clock,
                    self.tick,
                    &*self.foreign,
                ));
            }
        }
        let SourceKind::User { decoder, decode, schema, timestamp, max_ahead_ms, .. } = &mut input.source else {
            return Ok(());
        };
        let Some((raw, cursor)) = input.queue.front_mut() else { return Ok(()) };
        let n = rows.min(raw.len() - *cursor);
        let (raw, base) = (raw.clone(), *cursor);
        *cursor += n;
        let mut unread: Vec<(u32, Bad)> = vec![];
        let decoded = match *decode {
            None => decoder.decode_range(&raw.values, base..base + n),
            Some(function) => {
                let given: Vec<Option<&[u8]>> = (base..base + n).map(|row| raw.values.get(row)).collect();
                let mut json = OptBytes::default();
                for (row, answer) in self.foreign.translate(function, &given).map_err(failed)?.into_iter().enumerate() {
                    match answer {
                        Ok(payload) => json.push(payload.as_deref()),
                        Err(text) => {
                            json.push(None);
                            unread.push((row as u32, Bad::new("malformed_value", Some(text))));
                        }
                    }
                }
                decoder.decode_translated(&json, 0..n, Some((&raw.values, base)))
            }
        };
        let mut live: Vec<u32> = Vec::with_capacity(n);
        let mut unread = unread.into_iter().peekable();
        let mut bad = decoded.bad.into_iter().peekable();
        let mut dead = vec![];
        let mut prefix = Vec::with_capacity(n);
        let mut clock = input.clock;
        let mut ts = vec![0i64; n];
        let times = timestamp.map(|t| &decoded.columns[t]);
        for row in 0..n {
            let here = bad.next_if(|b| b.0 as usize == row).map(|(row, reason)| (row, Bad::new(reason, None)));
            if let Some(found) = unread.next_if(|u| u.0 as usize == row).or(here) {
                dead.push(found);
            } else {
                let time = match times {
                    None => Some(raw.timestamps[base + row]),
                    Some(column) => match &column.data {
                        crate::column::Data::I64(v) if column.is_valid(row) => Some(v[row]),
                        _ => None,
                    },
                };
                let bound = max_ahead_ms.map_or(i64::MAX, |m| raw.timestamps[base + row].saturating_add(m));
                match time {
                    // A clock that runs ahead would make everybody else late.
                    Some(t) if t > bound => dead.push((row as u32, Bad::new("ahead_of_clock", None))),
                    Some(t) if t >= 0 => {
                        ts[row] = t;
                        clock = clock.max(t);
                        live.push(row as u32);
                    }
                    _ => dead.push((row as u32, Bad::new("missing_timestamp", None))),
                }
            }
            prefix.push(clock);
        }
        let origin = Origin { topic: input.topic.clone(), partition: self.partition, raw: raw.clone() };
        let batch = Batch {
            schema: schema.clone(),
            columns: decoded.columns.into_iter().map(Arc::new).collect(),
            rows: n,
            live: (live.len() < n).then_some(live),
            seq: Arc::new((0..n as u32).collect()),
            path: None,
            ts: Arc::new(ts),
            key: None,
            sign: None,
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![origin]),
            origin_rows: Some(Arc::new((base as u32..(base + n) as u32).map(|r| (0, r)).collect())),
        };
        input.pending = Some(Pending { batch, raw, base, bad: dead, prefix, cursor: 0 });
        Ok(())
    }

    /// The input to go on with, and the time up to which (exclusive; inclusive for ties it wins).
    fn choose(&self) -> Option<(usize, (i64, bool))> {
        let head = |input: &Input| -> Option<i64> {
            match &input.source {
                SourceKind::User { .. } => input.pending.as_ref().map(|p| p.prefix[p.cursor]),
                SourceKind::Edge { .. } => {
                    let (batch, cursor) = input.queue.front()?;
                    let frame = batch.values.get(*cursor)?;
                    // A broken frame comes first, to be refused.
                    Some(open(frame).map_or(i64::MIN, |(h, _)| h.clock))
                }
                // The record's own time, as in Kafka Streams; what cannot be read comes first, to be refused.
                SourceKind::Records { .. } => {
                    input.head.as_ref().map(|h| h.as_ref().map_or(i64::MIN, |record| record.ts))
                }
            }
        };
        if let [only] = self.inputs.as_slice() {
            let waiting = only.pending.is_some() || !only.queue.is_empty();
            return waiting.then_some((0, (i64::MAX, true)));
        }
        let heads: Vec<Option<i64>> = self.inputs.iter().map(head).collect();
        let waits = self.inputs.iter().zip(&heads).any(|(input, h)| h.is_none() && !input.ended());
        if waits {
            return None;
        }
        let (best, _) = heads.iter().enumerate().filter_map(|(i, h)| h.map(|h| (i, h))).min_by_key(|&(i, h)| (h, i))?;
        let others = heads.iter().enumerate().filter(|&(i, _)| i != best).filter_map(|(i, h)| h.map(|h| (h, i))).min();
        Some((best, others.map_or((i64::MAX, true), |(h, i)| (h, best < i))))
    }

    /// Processes rows of one input up to `bound` and `budget`.
    fn run(&mut self, index: usize, bound: (i64, bool), budget: usize) -> Result<usize, Fatal> {
        self.touched = true;
        match self.inputs[index].source {
            SourceKind::Edge { .. } => return self.run_frame(index),
            SourceKind::Records { .. } => return self.run_records(index, bound, budget),
            SourceKind::User { .. } => {}
        }
        let input = &mut self.inputs[index];
        let Some(mut pending) = input.pending.take() else { return Ok(0) };
        let from = pending.cursor;
        let limit = pending.batch.rows.min(from + budget);
        let mut to = from;
        while to < limit && (pending.prefix[to] < bound.0 || (bound.1 && pending.prefix[to] <= bound.0)) {
            to += 1;
        }
        let to = to.max(from + 1);
        input.clock = pending.prefix[to - 1];
        input.buffered -= to - from;
        let done = to == pending.batch.rows;
        input.position = Some(match done {
            true => pending.raw.offsets[pending.base + to - 1] + 1,
            false => pending.raw.offsets[pending.base + to],
        });
        let SourceKind::User { routes, name, .. } = &input.source else { return Ok(0) };
        let (routes, name) = (routes.clone(), name.clone());
        let mut batch = pending.batch.clone();
        if from > 0 || !done {
            let live = batch.live_rows().filter(|&r| r >= from && r < to).map(|r| r as u32).collect::<Vec<_>>();
            let sparse = live.len() * 2 < batch.rows;
            batch.live = Some(live);
            if sparse {
                batch = batch.compact();
            }
        }
        let bad: Vec<(u32, Bad)> =
            pending.bad.iter().filter(|b| (from..to).contains(&(b.0 as usize))).cloned().collect();
        let raw = pending.raw.clone();
        let (base, topic) = (pending.base, self.inputs[index].topic.clone());
        pending.cursor = to;
        if !done {
            self.inputs[index].pending = Some(pending);
        }
        {
            let mut emitted = vec![];
            let mut ctx = Ctx {
                node: &name,
                foreign: &*self.foreign,
                emitted: &mut emitted,
                outgoing: &mut self.outgoing,
                counters: &mut self.counters,
                partitions: &self.partitions,
                found: &self.found,
                dead_letters: &self.dead_letters,
                task_partition: self.partition,
                seq_end: to as u32,
                tick: self.tick,
                inputs: Inputs::default(),
            };
            ctx.count("read", (to - from) as u64);
            for (row, Bad { reason, message }) in bad {
                ctx.count(&format!("dead:{reason}"), 1);
                let message = message.as_deref();
                ctx.dead_record(&topic, self.partition, &raw, base + row as usize, row, &reason, message);
            }
        }
        if !batch.is_empty() {
            self.route(&routes, Message::Rows(batch));
        }
        self.run_nodes(false, to as u32)?;
        Ok(to - from)
    }

    /// Records of one input, one by one, as long as it is the one to go on with.
    fn run_records(&mut self, index: usize, bound: (i64, bool), budget: usize) -> Result<usize, Fatal> {
        let mut done = 0;
        let mut emitted: Vec<(usize, Message)> = vec![];
        let SourceKind::Records { unit, .. } = self.inputs[index].source else { return Ok(0) };
        while done < budget {
            self.fill(index, 1)?;
            let input = &mut self.inputs[index];
            let Some(taken) = input.head.take() else { break };
            let time = taken.as_ref().map_or(i64::MIN, |record| record.ts);
            if done > 0 && (time > bound.0 || (time == bound.0 && !bound.1)) {
                input.head = Some(taken);
                break;
            }
            let Some((raw, cursor)) = input.queue.front_mut() else { break };
            let (raw, row) = (raw.clone(), *cursor);
            *cursor += 1;
            input.buffered -= 1;
            input.clock = input.clock.max(time);
            input.position = Some(raw.offsets.get(row + 1).copied().unwrap_or(raw.offsets[row] + 1));
            let place = Place { topic: input.topic.clone(), partition: self.partition, raw, row };
            let SourceKind::Records { source, .. } = &input.source else { break };
            let node = &mut self.nodes[unit];
            let mut ctx = Ctx {
                node: &source.name,
                foreign: &*self.foreign,
                emitted: &mut emitted,
                outgoing: &mut self.outgoing,
                counters: &mut self.counters,
                partitions: &self.partitions,
                found: &self.found,
                dead_letters: &self.dead_letters,
                task_partition: self.partition,
                seq_end: done as u32,
                tick: self.tick,
                inputs: Inputs::default(),
            };
            node.operator.take(source, place, taken, &mut ctx)?;
            done += 1;
            if node.operator.commit_asked() {
                self.commit_asked = true;
                break;
            }
        }
        if let SourceKind::Records { source, .. } = &self.inputs[index].source {
            *self.counters.entry((source.name.clone(), "read".to_string())).or_insert(0) += done as u64;
        }
        for (port, message) in emitted {
            let routes = self.nodes[unit].routes.get(port).cloned().unwrap_or_default();
            self.route(&routes, message);
        }
        self.run_nodes(false, done as u32)?;
        Ok(done)
    }

    fn run_frame(&mut self, index: usize) -> Result<usize, Fatal> {
        let input = &mut self.inputs[index];
        let Some((batch, cursor)) = input.queue.front_mut() else { return Ok(0) };
        let row = *cursor;
        let batch = batch.clone();
        *cursor += 1;
        input.buffered -= 1;
        input.position = Some(match row + 1 < batch.len() {
            true => batch.offsets[row + 1],
            false => batch.offsets[row] + 1,
        });
        let SourceKind::Edge { source, routes, .. } = &mut input.source else { return Ok(0) };
        let Some(frame) = batch.values.get(row) else { return Ok(1) };
        let message = source.open(batch.offsets[row], frame)?;
        let routes = routes.clone();
        let (rows, seq_end) = match &message {
            Message::Rows(b) | Message::Late(b) => (b.rows, b.rows as u32),
            Message::Partials(h, _) => (h.count as usize, 1),
            Message::Clock { .. } => (1, 1),
        };
        self.route(&routes, message);
        self.run_nodes(false, seq_end)?;
        Ok(rows.max(1))
    }

    /// Puts a message into the inboxes it leads to.
    fn route(&mut self, routes: &[Route], message: Message) {
        let Some((last, others)) = routes.split_last() else { return };
        let with_path = |batch: &Batch, bits: u32| -> Batch {
            let mut batch = batch.clone();
            if bits != 0 || (self.plan.has_merge && batch.path.is_none()) {
                let path = match &batch.path {
                    None => vec![bits; batch.rows],
                    Some(p) => p.iter().map(|p| p | bits).collect(),
                };
                batch.path = Some(Arc::new(path));
            }
            batch
        };
        for &(node, input, bits) in others {
            let copy = match &message {
                Message::Rows(b) => Message::Rows(with_path(b, bits)),
                Message::Late(b) => Message::Late(b.clone()),
                Message::Partials(h, b) => Message::Partials(h.clone(), b.clone()),
                Message::Clock { lane, clock, idle } => Message::Clock { lane: *lane, clock: *clock, idle: *idle },
            };
            self.inboxes[node].push((input, copy));
        }
        let message = match message {
            Message::Rows(b) if self.plan.has_merge => Message::Rows(with_path(&b, last.2)),
            other => other,
        };
        self.inboxes[last.0].push((last.1, message));
    }

    /// Runs every node once, in topological order, until all inboxes are empty.
    fn run_nodes(&mut self, flush: bool, seq_end: u32) -> Result<(), Fatal> {
        let inputs = if flush { self.inputs_now() } else { Inputs::default() };
        for index in 0..self.nodes.len() {
            let inbox = std::mem::take(&mut self.inboxes[index]);
            if inbox.is_empty() && !flush {
                continue;
            }
            let mut emitted = vec![];
            {
                let node = &mut self.nodes[index];
                let mut ctx = Ctx {
                    node: &node.name,
                    foreign: &*self.foreign,
                    emitted: &mut emitted,
                    outgoing: &mut self.outgoing,
                    counters: &mut self.counters,
                    partitions: &self.partitions,
                    found: &self.found,
                    dead_letters: &self.dead_letters,
                    task_partition: self.partition,
                    seq_end,
                    tick: self.tick,
                    inputs,
                };
                for (input, message) in inbox {
                    node.operator.process(input, message, &mut ctx)?;
                }
                node.operator.end_batch(&mut ctx)?;
                if flush {
                    node.operator.flush(&mut ctx)?;
                }
            }
            for (port, message) in emitted {
                let empty = matches!(&message, Message::Rows(b) | Message::Late(b) if b.is_empty());
                if empty {
                    continue;
                }
                let routes = self.nodes[index].routes.get(port).cloned().unwrap_or_default();
                self.route(&routes, message);
            }
        }
        self.collect();
        Ok(())
    }

    /// Orders what the operators wrote as one record at a time would have, and appends it to the outputs.
    fn collect(&mut self) {
        let mut outgoing = std::mem::take(&mut self.outgoing);
        if !outgoing.is_sorted_by_key(|o| o.seq) {
            outgoing.sort_by_key(|o| o.seq);
        }
        // Frames come many at a time: growing by doubling would copy them again and again.
        if outgoing.len() > 1 {
            let mut sizes: BTreeMap<(usize, u32), (usize, usize)> = BTreeMap::new();
            for o in &outgoing {
                let size = sizes.entry((o.topic, o.partition)).or_default();
                *size = (size.0 + 1, size.1 + o.value.as_ref().map_or(0, Vec::len));
            }
            for (to, (records, bytes)) in sizes {
                self.outputs.entry(to).or_default().reserve(records, bytes);
            }
        }
        for o in outgoing.drain(..) {
            let batch = self.outputs.entry((o.topic, o.partition)).or_default();
            let offset = batch.len() as i64;
            if offset == 0 {
                self.written.push((o.topic, o.partition));
            }
            batch.push_with_headers(offset, o.timestamp, o.key.as_deref(), o.value.as_deref(), o.headers);
        }
        self.outgoing = outgoing;
    }

    fn mark(&self) -> Mark {
        let mut w = Writer::default();
        w.varint(self.nodes.len() as u64);
        for node in &self.nodes {
            let mut saved = Writer::default();
            node.operator.save(&mut saved);
            w.u64(node.state_id);
            w.blob(&saved.bytes);
        }
        w.varint(self.inputs.len() as u64);
        for input in &self.inputs {
            w.blob(input.topic.as_bytes());
            w.zigzag(input.clock);
            let mut saved = Writer::default();
            if let SourceKind::Edge { source, .. } = &input.source {
                crate::op::Operator::save(source, &mut saved);
            }
            w.blob(&saved.bytes);
        }
        w.varint(self.counters.len() as u64);
        for ((node, reason), n) in &self.counters {
            w.blob(node.as_bytes());
            w.blob(reason.as_bytes());
            w.varint(*n);
        }
        w.u64(self.chain);
        if self.tick != NO_TIME {
            w.zigzag(self.tick);
        }
        Mark {
            meta: w.bytes,
            positions: self.inputs.iter().map(|i| i.position).collect(),
            rewritten_from: self.round.done,
            chain: self.chain,
            logged: false,
        }
    }

    fn load(&mut self, meta: &[u8]) -> Option<()> {
        let mut r = Reader::new(meta);
        for _ in 0..r.varint()? {
            let (hash, saved) = (r.u64()?, r.blob()?);
            if !saved.is_empty() {
                let node = self.nodes.iter_mut().find(|n| n.state_id == hash)?;
                node.operator.load(&mut Reader::new(saved))?;
            }
        }
        for _ in 0..r.varint()? {
            let (topic, clock, saved) = (r.blob()?, r.zigzag()?, r.blob()?);
            let input = self.inputs.iter_mut().find(|i| i.topic.as_bytes() == topic)?;
            input.clock = clock;
            if let SourceKind::Edge { source, .. } = &mut input.source {
                crate::op::Operator::load(source, &mut Reader::new(saved))?;
            }
        }
        self.counters.clear();
        for _ in 0..r.varint()? {
            let node = std::str::from_utf8(r.blob()?).ok()?;
            let reason = std::str::from_utf8(r.blob()?).ok()?.to_string();
            self.counters.insert((Arc::from(node), reason), r.varint()?);
        }
        self.chain = r.u64().unwrap_or(0); // the first version had none
        self.tick = if r.rest.is_empty() || !self.ticks { NO_TIME } else { r.zigzag()? };
        Some(())
    }

    /// Ends the current generation.
    pub fn close_generation(&mut self) -> Result<Generation, Fatal> {
        self.finish_restore()?;
        self.run_nodes(true, 0)?;
        for node in &mut self.nodes {
            self.touched |= node.operator.moved();
        }
        // What was flushed may have moved on to nodes behind that had flushed already: none, the order is topological.
        debug_assert!(self.inboxes.iter().all(Vec::is_empty));
        let stateful = self.plan.subtopologies[self.subtopology].stateful;
        let mut log = ChangelogWriter { batch: RawBatch::default(), node: 0, entries: 0, chain: self.chain };
        log.batch.reserve(0, self.logged);
        if stateful && self.touched {
            self.rewrite(&mut log);
        }
        let rewritten = log.entries;
        for node in &mut self.nodes {
            log.node = node.state_id;
            node.operator.close_generation(&mut log, self.number);
        }
        self.changed = log.entries - rewritten;
        self.number += 1;
        self.chain = log.chain;
        let mut mark = self.mark();
        let mut batches = std::mem::take(&mut self.outputs);
        let mut outputs: Vec<(String, u32, RawBatch)> = std::mem::take(&mut self.written)
            .into_iter()
            .filter_map(|(t, p)| Some((self.topic_name(t), p, batches.remove(&(t, p))?)))
            .collect();
        if stateful && (self.touched || !outputs.is_empty() || !log.batch.is_empty()) {
            let header = Header { kind: Kind::Meta, lane: 0, sequence: 0, clock: 0, schema: self.plan.hash, count: 1 };
            log.push(&header, &mark.meta);
            mark.logged = true;
            self.logged = log.batch.values.values.bytes.len();
            outputs.push((self.plan.changelog_topic(self.subtopology), self.partition, log.batch));
        }
        self.sound()?;
        (self.touched, self.commit_asked) = (false, false);
        let positions = self.inputs.iter().filter_map(|i| i.position.map(|p| (i.topic.to_string(), p))).collect();
        self.marks.push_back(mark);
        Ok(Generation { outputs, positions })
    }

    fn topic_name(&self, topic: usize) -> String {
        match self.plan.topics.get(topic) {
            Some(name) => name.clone(),
            None => self.found.about(topic - self.plan.topics.len()).0.to_string(),
        }
    }

    /// Writes some clean state again (see [`Round`]). Rows that this generation changed are skipped: their delta follows.
    fn rewrite(&mut self, log: &mut ChangelogWriter) {
        let mut left = REWRITE_MIN.max(self.changed / 2);
        while self.round.node < self.nodes.len() {
            let node = &mut self.nodes[self.round.node];
            log.node = node.state_id;
            let (written, ended) = node.operator.rewrite(left, log);
            left -= written.min(left);
            if !ended {
                return;
            }
            self.round.node += 1;
        }
        self.round = Round { from: self.number + 1, node: 0, done: Some(self.round.from) };
    }

    /// The number of the generation that is open: what it will write lies behind everything written so far.
    pub fn generation(&self) -> u64 {
        self.number
    }

    /// The oldest generation whose changelog records a restore would need; None: all there are.
    pub fn needed_from(&self) -> Option<u64> {
        let mut from = self.marks.front()?.rewritten_from?;
        for node in &self.nodes {
            match node.operator.needs() {
                Needs::Everything => return None,
                Needs::From(number) => from = from.min(number),
                Needs::Nothing => {}
            }
        }
        Some(from)
    }

    /// The oldest closed generation was committed. `end`: the end of the changelog, asked for when nothing of the generation
    /// was written yet: all that lies before it is in the generations before.
    pub fn committed(&mut self, end: Option<i64>) {
        if self.marks.len() > 1 {
            let before = self.marks.pop_front();
            self.nodes.iter_mut().for_each(|n| n.operator.committed());
            // Only before a `meta` record: that proves it.
            let logged = self.marks.front().is_some_and(|m| m.logged);
            if let (Some(local), Some(position), Some(mark), true) = (&self.local, end, before, logged) {
                local.backend.mark(backend::Mark { position, chain: mark.chain });
            }
        }
    }

    /// Whether it has stores that are to be on disk.
    pub fn on_disk(&self, default: StoreType) -> bool {
        self.nodes.iter().any(|n| n.operator.on_disk(default))
    }

    /// Keeps its stores in a backend, before anything else is done with it.
    pub fn attach(&mut self, backend: Arc<dyn Backend>, default: StoreType) {
        self.nodes.iter_mut().for_each(|n| n.operator.attach(&backend, default));
        let unproven = backend.marked().map(|mark| mark.chain);
        self.local = Some(Local { backend, chain: None, unproven, beyond: false });
    }

    /// Whether a restore has to read the changelog from its beginning, whatever the backend has.
    pub fn in_memory(&self) -> bool {
        self.nodes.iter().any(|n| n.operator.in_memory())
    }

    /// Undoes what is not committed, drops all buffers; returns the positions to read from again.
    pub fn rollback(&mut self) -> Result<Vec<(String, i64)>, Fatal> {
        for node in &mut self.nodes {
            node.operator.rollback();
        }
        self.marks.truncate(1);
        self.round = Round { from: self.number, node: 0, done: self.marks[0].rewritten_from };
        let meta = self.marks[0].meta.clone();
        self.load(&meta).ok_or_else(|| Fatal::new("corrupt_meta", "the task's own mark does not load"))?;
        let positions = self.marks[0].positions.clone();
        for (input, position) in self.inputs.iter_mut().zip(positions) {
            input.queue.clear();
            input.pending = None;
            input.head = None;
            input.buffered = 0;
            input.caught_up = false;
            input.position = position;
        }
        self.inboxes.iter_mut().for_each(Vec::clear);
        self.outgoing.clear();
        self.outputs.clear();
        self.written.clear();
        self.touched = false;
        Ok(self.inputs.iter().filter_map(|i| i.position.map(|p| (i.topic.to_string(), p))).collect())
    }

    /// Applies records of the changelog, in order, before the first `feed`. `known`: they lie before the backend's mark, and
    /// matter to what is in memory alone.
    pub fn restore(&mut self, batch: &RawBatch, known: bool) -> Result<(), Fatal> {
        if let Some(local) = self.local.as_mut().filter(|l| !known && !l.beyond) {
            // From here on; what was read before the mark may have told already what is to be there.
            local.beyond = true;
            match (local.chain, local.unproven) {
                (Some(found), Some(expected)) if found != expected => return Err(disagrees()),
                (None, Some(expected)) => local.chain = Some(expected),
                _ => {}
            }
        }
        if self.restoring.is_none() {
            self.nodes.iter_mut().for_each(|n| n.operator.begin_restore());
            self.restoring = Some(None);
        }
        for row in 0..batch.len() {
            let Some(value) = batch.values.get(row) else { continue };
            let (header, body) = open(value)?;
            if header.kind == Kind::Meta {
                self.restoring = Some(Some(body.to_vec()));
                self.settle(body);
                if let (Some(local), Some(chain)) = (&mut self.local, chain_of(body)) {
                    if !known {
                        if local.unproven.take().is_some() && local.chain != Some(chain) {
                            return Err(disagrees());
                        }
                        // The next restore begins with this record: it proves that the two belong together.
                        local.backend.mark(backend::Mark { position: batch.offsets[row], chain });
                    }
                    local.chain = Some(chain);
                }
                continue;
            }
            if let Some(chain) = self.local.as_mut().and_then(|l| l.chain.as_mut()) {
                *chain = link(*chain, value);
            }
            let unknown = || {
                Fatal::new(
                    "unknown_state",
                    format!("the changelog holds state of an operation that this topology does not have (offset {}): an operation was renamed, removed or made to mean something else; put it back, or start under a new application name", batch.offsets[row]),
                )
            };
            let whose = |n: &&mut crate::plan::Physical| n.state_id == header.schema || n.operator.owns(header.schema);
            let node = self.nodes.iter_mut().find(whose).ok_or_else(unknown)?;
            if known && !node.operator.in_memory() {
                continue;
            }
            node.operator.restore_of(header.schema, header.kind, header.count, body).ok_or_else(|| {
                Fatal::new(
                    "corrupt_state",
                    format!("state of `{}` at offset {} cannot be read", node.name, batch.offsets[row]),
                )
            })?;
        }
        self.sound()
    }

    /// Lets go of what the owner had let go of when it wrote this `meta`. One that cannot be read says nothing: only the last
    /// one of a restore has to (`finish_restore`).
    fn settle(&mut self, meta: &[u8]) -> Option<()> {
        let mut r = Reader::new(meta);
        for _ in 0..r.varint()? {
            let (hash, saved) = (r.u64()?, r.blob()?);
            if let (false, Some(node)) = (saved.is_empty(), self.nodes.iter_mut().find(|n| n.state_id == hash)) {
                node.operator.settle(&mut Reader::new(saved))?;
            }
        }
        Some(())
    }

    /// What was computed from rows that could not be read goes nowhere.
    fn sound(&self) -> Result<(), Fatal> {
        match self.local.as_ref().and_then(|l| l.backend.fault()) {
            Some(fault) => Err(Fatal::new("local_state_damaged", format!("stores on disk cannot be read: {fault}"))),
            None => Ok(()),
        }
    }

    /// Inputs that the owner of what was restored did not read: they are new to the application, and have no position. To be
    /// asked before anything is fed.
    pub fn new_inputs(&self) -> Vec<String> {
        let Some(known) = self.restoring.iter().flatten().find_map(|meta| inputs_of(meta)) else { return vec![] };
        let new = self.inputs.iter().filter(|i| !known.iter().any(|topic| topic == i.topic.as_bytes()));
        new.map(|i| i.topic.to_string()).collect()
    }

    fn finish_restore(&mut self) -> Result<(), Fatal> {
        if self.local.as_ref().is_some_and(|l| l.unproven.is_some()) {
            return Err(disagrees()); // the log has nothing behind the mark
        }
        let Some(meta) = self.restoring.take() else { return Ok(()) };
        if let Some(meta) = meta {
            self.load(&meta).ok_or_else(|| {
                Fatal::new("plan_changed", "the stored state belongs to another shape of this topology (operations or input partitions changed): start under a new application name or reset this one")
            })?;
        }
        self.nodes.iter_mut().for_each(|n| n.operator.end_restore());
        let mark = self.mark();
        self.marks = VecDeque::from([mark]);
        Ok(())
    }

    pub fn positions(&self) -> Vec<(String, i64)> {
        self.inputs.iter().filter_map(|i| i.position.map(|p| (i.topic.to_string(), p))).collect()
    }

    /// Bytes of output that wait for the generation to be closed.
    pub fn output_bytes(&self) -> usize {
        self.outputs.values().map(RawBatch::byte_size).sum()
    }

    /// Numbers for metrics.
    pub fn stats(&self) -> Value {
        let mut counters = serde_json::Map::new();
        for ((node, reason), n) in &self.counters {
            let entry = counters.entry(node.to_string()).or_insert_with(|| json!({}));
            entry[reason] = json!(n);
        }
        let mut nodes = serde_json::Map::new();
        let mut held = serde_json::Map::new();
        for node in &self.nodes {
            let mut stats = vec![];
            node.operator.stats(&mut stats);
            if stats.iter().any(|s| s.0 == "held_windows" && s.1 > 0) {
                held.insert(node.name.to_string(), json!(self.plan.lane_topics(&node.name)));
            }
            if !stats.is_empty() {
                let entry: serde_json::Map<String, Value> =
                    stats.into_iter().filter(|s| s.1 != NO_TIME).map(|(k, v)| (k, json!(v))).collect();
                nodes.insert(node.name.to_string(), Value::Object(entry));
            }
        }
        let clocks: serde_json::Map<String, Value> =
            self.inputs.iter().filter(|i| i.clock != NO_TIME).map(|i| (i.topic.to_string(), json!(i.clock))).collect();
        json!({"subtopology": self.subtopology, "partition": self.partition, "counters": counters, "nodes": nodes, "held": held, "clocks": clocks})
    }
}

/// The chain behind a frame.
fn link(chain: u64, frame: &[u8]) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&chain.to_le_bytes());
    both[8..].copy_from_slice(&frame[frame.len() - 8..]); // the frame's own hash
    xxh3_64(&both)
}

/// The topics that a `meta` record has clocks of.
fn inputs_of(meta: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut r = Reader::new(meta);
    for _ in 0..r.varint()? {
        r.u64()?;
        r.blob()?;
    }
    (0..r.varint()?)
        .map(|_| {
            let topic = r.blob()?.to_vec();
            r.zigzag()?;
            r.blob()?;
            Some(topic)
        })
        .collect()
}

/// The chain that a `meta` record tells.
fn chain_of(meta: &[u8]) -> Option<u64> {
    let mut r = Reader::new(meta);
    for _ in 0..r.varint()? {
        let _ = (r.u64()?, r.blob()?);
    }
    for _ in 0..r.varint()? {
        let _ = (r.blob()?, r.zigzag()?, r.blob()?);
    }
    for _ in 0..r.varint()? {
        let _ = (r.blob()?, r.blob()?, r.varint()?);
    }
    r.u64()
}

fn disagrees() -> Fatal {
    Fatal::new("local_state_disagrees", "the stores on disk are not those of this changelog")
}

struct ChangelogWriter {
    batch: RawBatch,
    node: u64,
    entries: usize,
    chain: u64,
}

impl ChangelogWriter {
    fn push(&mut self, header: &Header, body: &[u8]) {
        let offset = self.batch.len() as i64;
        let frame = seal(header, body);
        self.chain = link(self.chain, &frame);
        self.batch.push(offset, 0, None, Some(&frame));
    }
}

impl Changelog for ChangelogWriter {
    fn delta(&mut self, kind: Kind, count: u32, body: &[u8]) {
        self.delta_of(self.node, kind, count, body);
    }
    fn delta_of(&mut self, id: u64, kind: Kind, count: u32, body: &[u8]) {
        self.entries += count as usize;
        let header = Header { kind, lane: 0, sequence: 0, clock: 0, schema: id, count };
        self.push(&header, body);
    }
}
