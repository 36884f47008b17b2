//! Operators: what a node does with the rows that reach it.
//!
//! **Contract.** `process` takes everything in, emits what that made, and keeps no row back but in state. Output must be
//! what a record-at-a-time program would give: rows carry `seq` (and `path`), stateful operators run plain loops over
//! rows in that order, and what the passing of time causes is emitted with the `seq` of the row that moved the clock.
//! `flush` is called once at the end of a generation, after all rows: what is told per commit (table changes, partial
//! aggregates) leaves here. State comes in two sizes: small state (clocks, cursors, sequence numbers) is saved and loaded
//! whole (`save`, `load`); keyed state undoes itself (`close_generation`, `committed`, `rollback`) and tells the changelog
//! its delta. To add an operator, write a file beside these, say what it takes and gives in `plan/logical.rs`, and wire it in
//! `plan/lower.rs`.

mod aggregate;
mod deduplicate;
mod edge;
mod output;
mod stateless;

pub use aggregate::{Aggregate, Fold, Ttl, Wanted};
pub use deduplicate::Deduplicate;
pub use edge::{Combine, EdgeOut, EdgeSource, Ship};
pub use output::{failed, SinkRows, ToTopic};
pub use stateless::{Branch, Filter, Map, Merge, Project, ProjectColumn, Require, ToStream, Way};

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::batch::Batch;
use crate::error::Fatal;
use crate::expr::Foreign;
use crate::flow::backend::Backend;
use crate::flow::{FlowSource, Place, StoreType, Taken};
use crate::frame::Header;
use crate::raw::RawBatch;
use crate::wire::{Reader, Writer};

/// What travels between operators.
pub enum Message {
    Rows(Batch),
    /// Rows that an upstream task found late for this aggregate.
    Late(Batch),
    /// Partial aggregates of one lane (a frame's header and body).
    Partials(Header, Arc<Vec<u8>>),
    /// A lane's clock, without rows, and whether the lane is idle.
    Clock {
        lane: u32,
        clock: i64,
        idle: bool,
    },
}

/// A record on its way out.
#[derive(Clone)]
pub struct Outgoing {
    pub topic: usize,
    pub partition: u32,
    pub seq: u32,
    pub timestamp: i64,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

/// How many partitions a topic has, none if there is no such topic; the error: nobody can say.
pub type FindTopic = Box<dyn Fn(&str) -> Result<Option<u32>, String> + Send>;

/// Topics that the plan does not name, because a function says where a record goes: found as they are met, and kept.
#[derive(Default)]
pub struct FoundTopics {
    find: Option<FindTopic>,
    found: std::cell::RefCell<Vec<(Arc<str>, u32)>>,
}

impl FoundTopics {
    pub fn new(find: FindTopic) -> FoundTopics {
        FoundTopics { find: Some(find), found: Default::default() }
    }
    /// Its place here and its partitions; none: there is no such topic.
    pub fn of(&self, topic: &str) -> Result<Option<(usize, u32)>, String> {
        let known = self.found.borrow().iter().position(|(name, _)| **name == *topic);
        if let Some(place) = known {
            return Ok(Some((place, self.found.borrow()[place].1)));
        }
        let Some(find) = &self.find else { return Err("nobody here knows topics by name".into()) };
        let Some(partitions) = find(topic)? else { return Ok(None) };
        let mut found = self.found.borrow_mut();
        found.push((topic.into(), partitions.max(1)));
        Ok(Some((found.len() - 1, partitions.max(1))))
    }
    /// The name and the partitions of the one at this place.
    pub fn about(&self, place: usize) -> (Arc<str>, u32) {
        self.found.borrow()[place].clone()
    }
}

/// What happened to rows, by node and reason. A source's ends are disjoint: read = passed + filtered + repeated + dead.
pub type Counters = BTreeMap<(Arc<str>, String), u64>;

/// What an operator may reach while it runs.
pub struct Ctx<'a> {
    pub node: &'a Arc<str>,
    pub foreign: &'a dyn Foreign,
    pub emitted: &'a mut Vec<(usize, Message)>,
    pub outgoing: &'a mut Vec<Outgoing>,
    pub counters: &'a mut Counters,
    /// Partitions of each topic of the plan, by topic index.
    pub partitions: &'a [u32],
    /// Topics that the plan does not name; their indices follow those of the plan.
    pub found: &'a FoundTopics,
    pub dead_letters: &'a DeadLetters,
    /// The partition of this task.
    pub task_partition: u32,
    /// The largest `seq` given out so far (for what is emitted at a generation's end).
    pub seq_end: u32,
    /// The logged clock, ms; `NO_TIME` until the first tick.
    pub tick: i64,
    pub inputs: Inputs,
}

/// What a task knows of what it reads.
#[derive(Clone, Copy, Debug, Default)]
pub struct Inputs {
    /// All that there is has been processed.
    pub exhausted: bool,
    /// Every lane of every shuffle it reads from is idle.
    pub asleep: bool,
}

/// Where dead letters go: by source topic, and for rows that lost their origin in a shuffle.
pub struct DeadLetters {
    /// Whose they are: several applications may read one topic, and share its dead letters' topic.
    pub application: Arc<str>,
    pub by_source: Vec<(Arc<str>, usize)>,
    pub fallback: Option<usize>,
}

impl Ctx<'_> {
    pub fn emit(&mut self, port: usize, message: Message) {
        self.emitted.push((port, message));
    }

    pub fn count(&mut self, reason: &str, n: u64) {
        if n > 0 {
            *self.counters.entry((self.node.clone(), reason.to_string())).or_insert(0) += n;
        }
    }

    /// Sends a row to the dead letters with its reason and counts it.
    pub fn dead(&mut self, batch: &Batch, row: usize, reason: &str, message: Option<&str>) {
        self.count(&format!("dead:{reason}"), 1);
        let origin = batch
            .origin_rows
            .as_ref()
            .and_then(|o| batch.origins.get(o[row].0 as usize).map(|origin| (origin, o[row].1 as usize)));
        match origin {
            Some((origin, raw_row)) => self.dead_record(
                &origin.topic.clone(),
                origin.partition,
                &origin.raw.clone(),
                raw_row,
                batch.seq[row],
                reason,
                message,
            ),
            None => self.dead_row(batch, row, reason, message),
        }
    }

    /// A record as it was read.
    #[allow(clippy::too_many_arguments)]
    pub fn dead_record(
        &mut self,
        topic: &Arc<str>,
        partition: u32,
        raw: &RawBatch,
        row: usize,
        seq: u32,
        reason: &str,
        message: Option<&str>,
    ) {
        let to = self.dead_letters.by_source.iter().find(|(t, _)| t == topic).map(|(_, i)| *i);
        let Some(to) = to.or(self.dead_letters.fallback) else { return };
        let mut headers = raw.headers_at(row).to_vec();
        // A row that had waited, and whose record is not known, is told without.
        if !topic.is_empty() {
            let coordinates = [
                ("adstream.topic", topic.to_string()),
                ("adstream.partition", partition.to_string()),
                ("adstream.offset", raw.offsets[row].to_string()),
                ("adstream.timestamp", raw.timestamps[row].to_string()),
            ];
            headers.extend(coordinates.into_iter().map(|(k, v)| (k.to_string(), Some(v.into_bytes()))));
        }
        headers.extend(self.refusal(reason, message));
        self.outgoing.push(Outgoing {
            topic: to,
            partition: partition % self.partitions[to].max(1),
            seq,
            timestamp: raw.timestamps[row],
            key: raw.keys.get(row).map(<[u8]>::to_vec),
            value: raw.values.get(row).map(<[u8]>::to_vec),
            headers,
        });
    }

    /// The headers that say who refused it, and why.
    fn refusal(&self, reason: &str, message: Option<&str>) -> Vec<crate::raw::Header> {
        let said = [
            ("adstream.application", Some(&*self.dead_letters.application)),
            ("adstream.operator", Some(&**self.node)),
            ("adstream.reason", Some(reason)),
            ("adstream.message", message),
        ];
        said.into_iter().filter_map(|(name, text)| Some((name.to_string(), Some(text?.as_bytes().to_vec())))).collect()
    }

    /// What exists only inside and has no record behind it.
    pub fn dead_bytes(&mut self, value: Option<Vec<u8>>, seq: u32, reason: &str, message: Option<&str>) {
        let Some(to) = self.dead_letters.fallback else { return };
        let headers = self.refusal(reason, message);
        self.outgoing.push(Outgoing {
            topic: to,
            partition: self.task_partition % self.partitions[to].max(1),
            seq,
            timestamp: 0,
            key: None,
            value,
            headers,
        });
    }

    /// A row that exists only inside (after a shuffle or an aggregate): its columns as JSON.
    fn dead_row(&mut self, batch: &Batch, row: usize, reason: &str, message: Option<&str>) {
        let Some(to) = self.dead_letters.fallback else { return };
        let names: Vec<String> = batch.schema.fields.iter().map(|f| f.name.clone()).collect();
        let mut value = Vec::new();
        crate::codec::JsonEncoder::new(&batch.schema, &names).encode_row(batch, row, &mut value);
        let headers = self.refusal(reason, message);
        self.outgoing.push(Outgoing {
            topic: to,
            partition: self.task_partition % self.partitions[to].max(1),
            seq: batch.seq[row],
            timestamp: batch.ts[row],
            key: None,
            value: Some(value),
            headers,
        });
    }
}

/// Receives a generation's delta of keyed state.
pub trait Changelog {
    /// `count` entries of `kind`, in the encoding that `restore` of the same operator reads.
    fn delta(&mut self, kind: crate::frame::Kind, count: u32, body: &[u8]);
    /// The same of one of several stores of an operator, under the store's own id.
    fn delta_of(&mut self, id: u64, kind: crate::frame::Kind, count: u32, body: &[u8]);
}

/// Which part of its changelog an operator still needs, apart from what it writes again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Needs {
    Everything,
    From(u64),
    Nothing,
}

/// Numbers for metrics, by name.
pub type Stats = Vec<(String, i64)>;

pub trait Operator: Send {
    /// Takes a message in on `input`.
    fn process(&mut self, input: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal>;

    /// Takes one record of a topic (record flows only); returns its time if it was processed.
    fn take(&mut self, _: &FlowSource, _: Place, _: Taken, _: &mut Ctx<'_>) -> Result<(), Fatal> {
        Err(Fatal::new("bad_plan", "this operator takes no single records"))
    }

    /// The task begins, anew or after a restore; called at the latest with the first thing that happens.
    fn begin(&mut self, _ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        Ok(())
    }
    /// A store by its name, for queries.
    fn store(&self, _name: &str) -> Option<std::cell::Ref<'_, crate::flow::Store>> {
        None
    }
    /// Whether time alone has changed its small state since the last look, so that it is worth a commit.
    fn moved(&mut self) -> bool {
        false
    }
    /// Whether somebody asked for a commit since the last look.
    fn commit_asked(&mut self) -> bool {
        false
    }

    /// There is more output of time that has passed than is emitted at once: before the next input it is asked to go on.
    fn closing(&self) -> bool {
        false
    }
    /// Emits some of that; returns how many rows.
    fn go_on(&mut self, _ctx: &mut Ctx<'_>) -> Result<usize, Fatal> {
        Ok(0)
    }

    /// All messages of a batch have arrived (operators with several inputs act here).
    fn end_batch(&mut self, _ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        Ok(())
    }

    /// The generation ends: emit what is told per commit.
    fn flush(&mut self, _ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        Ok(())
    }

    /// Small state, whole.
    fn save(&self, _out: &mut Writer) {}
    fn load(&mut self, _saved: &mut Reader<'_>) -> Option<()> {
        Some(())
    }

    /// Keyed state: tells the delta of the current generation, the `number`-th, and begins the next.
    fn close_generation(&mut self, _changelog: &mut dyn Changelog, _number: u64) {}
    /// Keyed state that does not age writes up to `limit` clean entries again, going round and round; returns how many,
    /// and whether a round ended. Called before `close_generation`.
    fn rewrite(&mut self, _limit: usize, _changelog: &mut dyn Changelog) -> (usize, bool) {
        (0, true)
    }
    /// Keyed state that ages instead: the oldest generation whose entries may still matter.
    fn needs(&self) -> Needs {
        Needs::Nothing
    }
    fn committed(&mut self) {}
    fn rollback(&mut self) {}

    /// Whether it has stores that are to be on disk, where nobody says otherwise in this way.
    fn on_disk(&self, _default: StoreType) -> bool {
        false
    }
    /// Its stores are kept in a backend from now on; called before anything else.
    fn attach(&mut self, _backend: &Arc<dyn Backend>, _default: StoreType) {}
    /// Whether it has state that a restore must read from the changelog's beginning: what is not in a backend.
    fn in_memory(&self) -> bool {
        true
    }

    /// Keyed state: an entry block of the changelog; between `begin_restore` and `end_restore` (`load` comes before the latter).
    fn restore(&mut self, _kind: crate::frame::Kind, _count: u32, _body: &[u8]) -> Option<()> {
        None
    }
    /// Whether a store of this id is the operator's, apart from the one under its own.
    fn owns(&self, _id: u64) -> bool {
        false
    }
    /// As `restore`, of the store `id`.
    fn restore_of(&mut self, _id: u64, kind: crate::frame::Kind, count: u32, body: &[u8]) -> Option<()> {
        self.restore(kind, count, body)
    }
    fn begin_restore(&mut self) {}
    /// Between entries of a restore: the small state as it was saved behind those read so far. What ages quietly, without an
    /// entry that says so, ages here: whoever follows a changelog for days must hold no more than its owner does.
    fn settle(&mut self, _saved: &mut Reader<'_>) -> Option<()> {
        Some(())
    }
    fn end_restore(&mut self) {}

    fn stats(&self, _out: &mut Stats) {}
}
