//! Record by record: the operators of Kafka Streams on keys and values, run as Kafka Streams runs them.
//!
//! ```text
//!  records ──▶ source ──▶ node ──▶ node ──▶ to ──▶ outgoing        a node forwards to its children depth first, in the
//!                          │ ▲       │                             order in which they were said: what one record causes
//!                          ▼ │       ▼                             is done before the next one is looked at
//!                        store     store ◀── read by others
//! ```
//!
//! A sub-topology of this kind is one [`Flow`]: to the task around it an operator like any other (undo, changelog, small
//! state), inside a graph of [`Node`]s. Order, clocks and what a store holds at a given moment are Kafka Streams' by
//! construction, where a columnar operator would have to prove it. Columnar operators are for what can be proven.
//!
//! - *Topology is decided above.* The DSL says which nodes there are, which stores they have, whether old values are
//!   sent, how a table is read that has no store. Nothing here infers.
//! - *Nodes hold little*: what they keep for good is in stores; what is small (observed times) they `save`; what follows
//!   from stores (indices) they make again in `restored`.
//! - *A record that fails at a node* goes to the dead letters as it was read, with the node's name, and what the node had
//!   forwarded before stays: Kafka Streams' processing handler that continues.
//!
//! To add an operator: a file with a `#[derive(Deserialize)]` struct of its parameters, [`Node`] for it, and a line in
//! [`build`].

pub mod aggregate;
pub mod backend;
pub mod bridge;
pub mod build;
pub mod decoded;
pub mod detached;
pub mod foreign;
pub mod func;
pub mod globals;
pub mod in_order;
pub mod join_window;
pub mod json;
pub mod lanes;
pub mod looks;
pub mod lru;
pub mod native;
pub mod patterns;
pub mod pick_join;
pub mod process;
pub mod reads;
pub mod rolling;
pub mod rules;
pub mod scan;
pub mod schedule;
pub mod serde;
pub mod session;
pub mod sliding;
pub mod source;
pub mod stateless;
pub mod store;
pub mod stores;
pub mod stream_join;
pub mod stream_table;
pub mod suppress;
pub mod table;
pub mod table_join;
pub mod transform;
pub mod versions;
pub mod wait_until;
pub mod windowed;

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::sync::{Arc, OnceLock};

use crate::batch::Batch;
use crate::column::Value;
use crate::datum::Datum;
use crate::error::Fatal;
use crate::expr::{Fault, Foreign, NoForeign};
use crate::frame::{schema_hash, Kind};
use crate::op::{Changelog, Counters, Ctx, FoundTopics, Message, Operator, Outgoing, Stats};
use crate::raw::{Header, RawBatch};
use crate::types::Schema;
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

use backend::Backend;
use bridge::{FromRows, Leaving};
use schedule::{Clock, Schedules};
pub use source::{Extractor, FlowSource, Taken, UNTIMED};

pub use build::build;
pub use globals::{GlobalSpec, Globals};
pub use serde::Serde;
pub use stores::{Store, StoreSpec, StoreType};

/// Headers of a record, shared until somebody changes them.
pub type Headers = Arc<Vec<Header>>;

/// The same ones for all records that have none.
pub fn no_headers() -> Headers {
    static NONE: OnceLock<Headers> = OnceLock::new();
    NONE.get_or_init(Headers::default).clone()
}

/// A record between nodes. In a stream `value` is all there is; in a table it is the new value, `old` the one before (if
/// somebody asked for old values), and `latest` whether no newer version of the key is known (only versioned tables say no).
#[derive(Clone, Debug)]
pub struct Record {
    pub key: Datum,
    pub value: Datum,
    pub old: Datum,
    pub latest: bool,
    pub ts: i64,
    pub headers: Headers,
}

impl Record {
    pub fn new(key: Datum, value: Datum, ts: i64, headers: Headers) -> Record {
        Record { key, value, old: Datum::Null, latest: true, ts, headers }
    }
    pub fn with_value(&self, value: Datum) -> Record {
        Record {
            key: self.key.clone(),
            value,
            old: Datum::Null,
            latest: true,
            ts: self.ts,
            headers: self.headers.clone(),
        }
    }
    pub fn with_key(&self, key: Datum) -> Record {
        Record { key, ..self.clone() }
    }
    pub fn change(key: Datum, new: Datum, old: Datum, ts: i64, headers: Headers) -> Record {
        Record { key, value: new, old, latest: true, ts, headers }
    }
}

/// Why a node could not go on with a record.
#[derive(Debug)]
pub enum Failure {
    /// The record's fault: a reason for the dead letters, and more about it.
    Bad(&'static str, String),
    /// Nobody can go on.
    Fatal(Fatal),
}

impl From<Fatal> for Failure {
    fn from(fatal: Fatal) -> Self {
        Failure::Fatal(fatal)
    }
}

impl From<Fault> for Failure {
    fn from((reason, text): Fault) -> Self {
        match reason {
            serde::UNAVAILABLE => Failure::Fatal(serde::unavailable(text)),
            _ => Failure::Bad(reason, text),
        }
    }
}

impl Failure {
    /// A callable raised.
    pub fn raised(text: String) -> Failure {
        Failure::Bad("callable_raised", text)
    }
    /// A value that cannot become bytes.
    pub fn unstorable(text: String) -> Failure {
        Failure::Bad("not_storable", text)
    }
}

pub type Done = Result<(), Failure>;

/// One operator. `process` is called record by record and forwards what it makes before it returns.
pub trait Node: Send {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done;

    /// The task begins, anew or after a restore or a rollback: called before anything else, upstream first.
    fn begin(&mut self, _cx: Cx<'_>) -> Done {
        Ok(())
    }
    /// One of its schedules is due.
    fn fire(&mut self, _schedule: u64, _clock: Clock, _cx: Cx<'_>) -> Done {
        Ok(())
    }

    /// A commit is near: what was held back to be told once (a cache) is forwarded.
    fn flush(&mut self, _cx: Cx<'_>) -> Done {
        Ok(())
    }
    /// Whether it wants `punctuate`.
    fn timed(&self) -> bool {
        false
    }
    /// Time went on: stream time after a record, the logged clock when a generation ends.
    fn punctuate(&mut self, _cx: Cx<'_>) -> Done {
        Ok(())
    }
    /// Of a timed one: it has more to tell of the time that went on than it tells at once, and is asked to go on before the
    /// next input.
    fn closing(&self) -> bool {
        false
    }
    /// Tells some of that; returns how many records.
    fn go_on(&mut self, _cx: Cx<'_>) -> Result<usize, Failure> {
        Ok(0)
    }
    /// Small state, whole.
    fn save(&self, _out: &mut Writer) {}
    fn load(&mut self, _saved: &mut Reader<'_>) -> Option<()> {
        Some(())
    }
    /// Stores have been put back (a restore, a rollback): what was derived from them is made again.
    fn restored(&mut self, _cx: Cx<'_>) {}
}

/// What becomes of a record that fails at a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ::serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// It goes to the dead letters.
    #[default]
    DeadLetter,
    /// It is dropped and counted, as Kafka Streams' handlers that continue do.
    Continue,
    /// The task fails.
    Fail,
    /// A function of the host says which of these, each time.
    Call(usize),
}

/// What failed at a node.
#[derive(Clone, Copy)]
pub enum Failed<'a> {
    Record(&'a Record),
    /// No record: a call at this time, or at none.
    Call(i64),
    /// Bytes of which no record can be made.
    Unread,
}

impl OnError {
    /// What becomes of this failure. A function is told where the record came from and its bytes, time and headers of what failed,
    /// then the node, the reason and the text, then key and value of what failed, if it is a record; one that raises, or says
    /// something else, ends the task, as in Kafka Streams.
    fn asked(
        self,
        foreign: &dyn Foreign,
        place: Option<&Place>,
        origin: Option<Origin>,
        failed: Failed<'_>,
        node: &str,
        (reason, text): (&str, &str),
    ) -> Result<OnError, Fatal> {
        let OnError::Call(function) = self else { return Ok(self) };
        let bytes = |b: Option<&[u8]>| b.map_or(Datum::Null, |b| Datum::Bytes(b.into()));
        let place = place.filter(|p| !p.topic.is_empty());
        let origin = origin.as_ref().filter(|o| !o.topic.is_empty());
        let args = [
            origin.map_or(Datum::Null, |o| Datum::Str(o.topic.clone())),
            origin.map_or(Datum::Null, |o| Datum::Int(o.partition.into())),
            origin.map_or(Datum::Null, |o| Datum::Int(o.offset)),
            match failed {
                Failed::Record(record) => Datum::Int(record.ts),
                Failed::Call(NO_TIME) => Datum::Null,
                Failed::Call(time) => Datum::Int(time),
                Failed::Unread => place.map_or(Datum::Null, |p| Datum::Int(p.raw.timestamps[p.row])),
            },
            match failed {
                Failed::Record(record) => headers_datum(&record.headers),
                Failed::Call(_) => headers_datum(&[]),
                Failed::Unread => headers_datum(place.map_or(&[], |p| p.raw.headers_at(p.row))),
            },
            bytes(place.and_then(|p| p.raw.keys.get(p.row))),
            bytes(place.and_then(|p| p.raw.values.get(p.row))),
            Datum::str(node),
            Datum::str(reason),
            Datum::str(text),
            match failed {
                Failed::Record(record) => Datum::Tuple([record.key.clone(), record.value.clone()].into()),
                _ => Datum::Null,
            },
        ];
        let wrong = |said: String| {
            Fatal::new("record_failed", format!("`{node}`: its `on_error`: {said}, of {reason}: {text}"))
        };
        match foreign.apply(function, &args) {
            Ok(Datum::Str(word)) => match &*word {
                "dead_letter" => Ok(OnError::DeadLetter),
                "continue" => Ok(OnError::Continue),
                "fail" => Ok(OnError::Fail),
                other => Err(wrong(format!("no such word: {other}"))),
            },
            Ok(other) => Err(wrong(format!("no word: {other:?}"))),
            Err((serde::UNAVAILABLE, text)) => Err(serde::unavailable(text)),
            Err((_, raised)) => Err(wrong(raised)),
        }
    }
}

/// Headers as the host sees them: a list of (name, bytes or nothing).
pub fn headers_datum(headers: &[Header]) -> Datum {
    let one = |(name, value): &Header| {
        let value = value.as_ref().map_or(Datum::Null, |v| Datum::Bytes(v.as_slice().into()));
        Datum::Tuple([Datum::str(name), value].into())
    };
    Datum::List(headers.iter().map(one).collect())
}

pub struct Slot {
    pub name: Arc<str>,
    pub on_error: OnError,
    /// Names its small state in stored formats.
    pub id: u64,
    pub node: RefCell<Box<dyn Node>>,
    /// By port, in the order of saying: the node and its input.
    pub children: Vec<Vec<(usize, usize)>>,
}

/// Nodes and stores of one task. Shared while a record runs: a node is only ever inside itself once, the graph having no
/// circles; stores are borrowed for as long as one call.
pub struct Graph {
    pub nodes: Vec<Slot>,
    pub stores: Vec<RefCell<Store>>,
    /// Tables that this worker has whole, shared with its other tasks.
    pub globals: Arc<Globals>,
    /// Nodes that are told when time goes on.
    pub timed: Vec<usize>,
    /// What processors asked to be called for.
    pub schedules: RefCell<Schedules>,
    /// Goes up whenever the task begins anew: what the host made before is of another life.
    pub life: Cell<u64>,
}

impl Graph {
    pub fn store_named(&self, name: &str) -> Option<usize> {
        self.stores.iter().position(|s| s.borrow().spec.name == name)
    }
}

/// Where the record at hand came from.
#[derive(Clone)]
pub struct Place {
    pub topic: Arc<str>,
    pub partition: u32,
    pub raw: Arc<RawBatch>,
    pub row: usize,
}

impl Place {
    fn origin(&self) -> Origin {
        Origin { topic: self.topic.clone(), partition: self.partition, offset: self.raw.offsets[self.row] }
    }
}

/// Topic, partition and offset of a record: what processors are told of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    pub topic: Arc<str>,
    pub partition: u32,
    pub offset: i64,
}

impl Origin {
    /// Behind whatever else is stored of a record; nothing if there is none.
    pub fn write(origin: &Option<Origin>, w: &mut Writer) {
        if let Some(o) = origin {
            w.blob(o.topic.as_bytes());
            w.varint(o.partition.into());
            w.zigzag(o.offset);
        }
    }
    /// What the rest says; what was stored before origins were has none.
    pub fn read(r: &mut Reader<'_>) -> Option<Option<Origin>> {
        if r.rest.is_empty() {
            return Some(None);
        }
        let topic = Arc::from(std::str::from_utf8(r.blob()?).ok()?);
        Some(Some(Origin { topic, partition: u32::try_from(r.varint()?).ok()?, offset: r.zigzag()? }))
    }
}

/// A dead letter to be: the record it came from, the node, the reason, more about it.
pub type Letter = (Option<Place>, Arc<str>, &'static str, String);

/// What nodes reach beside their own.
pub struct Env<'a> {
    pub foreign: &'a dyn Foreign,
    pub outgoing: RefCell<Vec<Outgoing>>,
    pub counters: RefCell<Counters>,
    pub letters: RefCell<Vec<Letter>>,
    /// Partitions of each topic of the plan, by topic index.
    pub partitions: &'a [u32],
    pub topics: &'a [String],
    /// Topics that the plan does not name; their indices follow those of the plan.
    pub found: &'a FoundTopics,
    pub task_partition: u32,
    pub place: RefCell<Option<Place>>,
    /// Of a record that had waited: it is not the one at hand.
    pub origin: RefCell<Option<Origin>>,
    /// The largest time of a record that the task has taken; `NO_TIME` before the first.
    pub stream_time: Cell<i64>,
    /// The logged clock, ms; `NO_TIME` before the first tick.
    pub wall: i64,
    /// The place in the task's processing order of what is being done, and among forks.
    pub seq: Cell<u32>,
    pub path: Cell<u32>,
    /// Rows for columnar operators behind the flow.
    pub leaving: RefCell<Vec<Leaving>>,
    /// Somebody asked for a commit.
    pub commit: Cell<bool>,
    /// A schedule was due: when it is due next is to be kept.
    pub fired: Cell<bool>,
    /// Of the record at hand, where it came through a topic with lanes (see `lanes.rs`).
    pub lane: Cell<Option<lanes::Stamp>>,
}

impl<'a> Env<'a> {
    /// Where no record is at hand, no clock has ticked and nothing leaves.
    pub fn idle(topics: &'a [String], found: &'a FoundTopics) -> Env<'a> {
        Env {
            foreign: &NoForeign,
            outgoing: RefCell::default(),
            counters: RefCell::default(),
            letters: RefCell::default(),
            partitions: &[],
            topics,
            found,
            task_partition: 0,
            place: RefCell::default(),
            origin: RefCell::default(),
            stream_time: Cell::new(NO_TIME),
            wall: NO_TIME,
            seq: Cell::default(),
            path: Cell::default(),
            leaving: RefCell::default(),
            commit: Cell::default(),
            fired: Cell::default(),
            lane: Cell::default(),
        }
    }
}

/// What a node is handed along with a record.
#[derive(Clone, Copy)]
pub struct Cx<'a> {
    pub graph: &'a Graph,
    pub env: &'a Env<'a>,
    pub node: usize,
}

impl<'a> Cx<'a> {
    /// To all children.
    pub fn forward(&self, record: Record) -> Done {
        self.forward_to(0, record)
    }

    /// To the children of one port, depth first.
    pub fn forward_to(&self, port: usize, record: Record) -> Done {
        let Some(children) = self.graph.nodes[self.node].children.get(port) else { return Ok(()) };
        let Some((last, others)) = children.split_last() else { return Ok(()) };
        for &(node, input) in others {
            self.enter(node, input, record.clone())?;
        }
        self.enter(last.0, last.1, record)
    }

    /// To a child by its name, or to a port's children by the port's; none: there is no such child.
    pub fn forward_named(&self, name: &str, outputs: &[String], record: Record) -> Option<Done> {
        if let Some(port) = outputs.iter().position(|o| o == name) {
            return Some(self.forward_to(port + 1, record));
        }
        let mut children = self.graph.nodes[self.node].children.iter().flatten();
        let &(node, input) = children.find(|c| *self.graph.nodes[c.0].name == *name)?;
        Some(self.enter(node, input, record))
    }

    /// The names of all children.
    pub fn children(&self) -> Vec<&'a str> {
        let children = self.graph.nodes[self.node].children.iter().flatten();
        children.map(|c| &*self.graph.nodes[c.0].name).collect()
    }

    /// Where what is being done came from.
    pub fn origin(&self) -> Option<Origin> {
        self.env.origin.borrow().clone().or_else(|| {
            let place = self.env.place.borrow();
            place.as_ref().map(Place::origin)
        })
    }

    /// Hands on something that had waited, as coming from where it came from then.
    pub fn as_of(&self, origin: Option<Origin>, then: impl FnOnce() -> Done) -> Done {
        let before = self.env.origin.replace(origin);
        let done = then();
        self.env.origin.replace(before);
        done
    }

    /// The same of a row that had waited while others came: what it fails at, here or in a columnar operator behind, is told
    /// with the row, as it was kept, and where it came from; not with the record at hand.
    pub fn as_waited(&self, origin: Option<Origin>, record: &Record, then: impl FnOnce() -> Done) -> Done {
        let row = json::write(&record.value).ok();
        let mut raw = RawBatch::default();
        let key = match &record.key {
            Datum::Null => None,
            Datum::Str(text) => Some(text.as_bytes().to_vec()),
            Datum::Bytes(bytes) => Some(bytes.to_vec()),
            other => json::write(other).ok(),
        };
        raw.push(origin.as_ref().map_or(-1, |o| o.offset), record.ts, key.as_deref(), row.as_deref());
        let (topic, partition) = origin.as_ref().map_or(("".into(), 0), |o| (o.topic.clone(), o.partition));
        let before = self.env.place.replace(Some(Place { topic, partition, raw: Arc::new(raw), row: 0 }));
        let done = match self.as_of(origin, then) {
            // Its own letter, while it is the record at hand.
            Err(failure @ Failure::Bad(..)) => self.settle(Err(failure), Failed::Record(record)),
            done => done,
        };
        self.env.place.replace(before);
        done
    }

    /// What a clock shows; `NO_TIME` before it shows anything.
    pub fn time(&self, clock: Clock) -> i64 {
        match clock {
            Clock::Stream => self.env.stream_time.get(),
            Clock::Wall => self.env.wall,
        }
    }

    /// Has `fire` called after `interval` ms; see `schedule.rs`. Returns a number to cancel it by.
    pub fn schedule(&self, clock: Clock, interval: i64, start: Option<i64>) -> u64 {
        let id = self.graph.nodes[self.node].id;
        self.graph.schedules.borrow_mut().add(self.node, id, clock, interval, start, self.time(clock))
    }

    /// Calls everything that is due.
    fn fire(&self, clock: Clock) -> Done {
        loop {
            let due = self.graph.schedules.borrow_mut().take_due(clock, self.time(clock));
            let Some((node, schedule)) = due else { return Ok(()) };
            self.env.fired.set(true);
            let cx = Cx { node, ..*self };
            let done = self.graph.nodes[node].node.borrow_mut().fire(schedule, clock, cx);
            cx.settle(done, Failed::Call(self.time(clock)))?;
        }
    }

    /// Hands a record to a node; only a fatal failure comes back.
    pub fn enter(&self, node: usize, input: usize, record: Record) -> Done {
        let cx = Cx { node, ..*self };
        let slot = &self.graph.nodes[node];
        if matches!(slot.on_error, OnError::Call(_)) {
            let done = slot.node.borrow_mut().process(input, record.clone(), cx);
            return cx.settle(done, Failed::Record(&record));
        }
        let done = slot.node.borrow_mut().process(input, record, cx);
        cx.settle(done, Failed::Call(NO_TIME))
    }

    /// A record's own failure becomes a dead letter at this node, or what the node says.
    pub fn settle(&self, done: Done, failed: Failed<'_>) -> Done {
        let Err(Failure::Bad(reason, text)) = done else { return done };
        let place = self.env.place.borrow().clone();
        let said = self.graph.nodes[self.node].on_error;
        match said.asked(self.env.foreign, place.as_ref(), self.origin(), failed, self.name(), (reason, &text))? {
            OnError::Continue => self.count(&format!("dropped:{reason}")),
            OnError::Fail => return Err(self.refused(reason, &text).into()),
            _ => self.dead(reason, text),
        }
        Ok(())
    }

    fn refused(&self, reason: &str, text: &str) -> Fatal {
        let place = self.env.place.borrow();
        let of = place.as_ref().filter(|p| !p.topic.is_empty()).map_or(String::new(), |p| {
            format!(" (record {} of `{}`, partition {})", p.raw.offsets[p.row], p.topic, p.partition)
        });
        Fatal::new("record_failed", format!("`{}`: {reason}: {text}{of}", self.name()))
    }

    fn begin(&self) -> Done {
        let place = self.env.place.take();
        for (node, slot) in self.graph.nodes.iter().enumerate() {
            slot.node.borrow_mut().begin(Cx { node, ..*self })?;
        }
        self.env.place.replace(place);
        Ok(())
    }

    pub fn name(&self) -> &'a Arc<str> {
        &self.graph.nodes[self.node].name
    }

    pub fn count(&self, reason: &str) {
        self.count_many(reason, 1);
    }

    pub fn count_many(&self, reason: &str, n: u64) {
        if n > 0 {
            let mut counters = self.env.counters.borrow_mut();
            *counters.entry((self.name().clone(), reason.to_string())).or_insert(0) += n;
        }
    }

    /// Does something that is not the doing of the record at hand.
    pub fn apart(&self, then: impl FnOnce(&Self) -> Done) -> Done {
        let place = self.env.place.replace(None);
        let done = then(self);
        self.env.place.replace(place);
        done
    }

    pub fn dead(&self, reason: &'static str, text: String) {
        let place = self.env.place.borrow().clone();
        self.env.letters.borrow_mut().push((place, self.name().clone(), reason, text));
    }

    /// Calls a function of the host.
    pub fn apply(&self, function: usize, args: &[Datum]) -> Result<Datum, Failure> {
        self.env.foreign.apply(function, args).map_err(Failure::from)
    }

    /// The same with references.
    pub fn ask(&self, function: usize, args: &[&Datum]) -> Result<Datum, Failure> {
        self.env.foreign.ask(function, args).map_err(Failure::from)
    }

    /// Whether a function may be asked at another time, or more often.
    pub fn pure(&self, function: usize) -> bool {
        self.env.foreign.pure(function)
    }

    pub fn store(&self, index: usize) -> Ref<'a, Store> {
        self.graph.stores[index].borrow()
    }
    pub fn store_mut(&self, index: usize) -> RefMut<'a, Store> {
        self.graph.stores[index].borrow_mut()
    }
    /// The present value of a key of a table's store. Of one that forgets what was not used for longest, it is a use.
    pub fn latest(&self, store: usize, key: &Datum) -> Result<Option<stores::Timed>, Failure> {
        if self.store(store).spec.kind != stores::StoreKind::Lru {
            return self.store(store).latest(key);
        }
        Ok(self.store_mut(store).lru_get(&stores::key_bytes(key)?))
    }

    /// Writes a record out.
    pub fn send(&self, outgoing: Outgoing) {
        let seq = self.env.seq.get();
        self.env.outgoing.borrow_mut().push(Outgoing { seq, ..outgoing });
    }

    /// A row for the columnar operators behind this node.
    pub fn leave(&self, ts: i64, values: Vec<Value>) {
        let (seq, path) = (self.env.seq.get(), self.env.path.get());
        let place = self.env.place.borrow().clone();
        self.env.leaving.borrow_mut().push(Leaving { exit: self.node, seq, path, ts, values, place });
    }
}

/// A node at which rows become records.
pub struct Entry {
    pub node: usize,
    pub rows: FromRows,
}

/// A node at which records become rows of a schema.
pub struct Exit {
    pub node: usize,
    pub schema: Arc<Schema>,
    /// What is behind it is asked about many rows at once: they are told when there are many, or the generation ends. Nothing
    /// is later for that: what follows from them is seen when it is committed.
    pub gathered: bool,
}

const GATHERED_MAX: usize = 8_192;

pub struct Flow {
    pub graph: Graph,
    /// By input of the operator that the flow is.
    pub entries: Vec<Entry>,
    /// Rows of a batch that came so far, by input.
    held: Vec<(usize, Batch)>,
    /// Rows of exits that gather; none are left when a generation has ended.
    gathered: Vec<Leaving>,
    /// By port.
    pub exits: Vec<Exit>,
    topics: Arc<Vec<String>>,
    paths: bool,
    stream_time: i64,
    /// What the logged clock showed when schedules of it were looked at last: they are again when it has moved.
    looked: i64,
    /// Nodes have been told that the task begins.
    begun: bool,
    commit: bool,
    fired: bool,
    /// Its stores are in a backend.
    attached: bool,
}

impl Flow {
    /// `paths`: whether rows carry their way through forks.
    pub fn new(graph: Graph, entries: Vec<Entry>, exits: Vec<Exit>, topics: Arc<Vec<String>>, paths: bool) -> Flow {
        let (begun, commit, fired, attached) = (false, false, false, false);
        Flow {
            graph,
            entries,
            held: vec![],
            gathered: vec![],
            exits,
            topics,
            paths,
            stream_time: NO_TIME,
            looked: NO_TIME,
            begun,
            commit,
            fired,
            attached,
        }
    }

    /// Lets `run` work at `seq`; what it wrote, made and refused is in `ctx` afterwards.
    fn with_env(
        &mut self,
        ctx: &mut Ctx<'_>,
        seq: u32,
        place: Option<Place>,
        run: impl FnOnce(Cx<'_>) -> Done,
    ) -> Done {
        let env = Env {
            foreign: ctx.foreign,
            outgoing: RefCell::new(std::mem::take(ctx.outgoing)),
            counters: RefCell::new(std::mem::take(ctx.counters)),
            partitions: ctx.partitions,
            task_partition: ctx.task_partition,
            place: RefCell::new(place),
            stream_time: Cell::new(self.stream_time),
            wall: ctx.tick,
            seq: Cell::new(seq),
            ..Env::idle(&self.topics, ctx.found)
        };
        let cx = Cx { graph: &self.graph, env: &env, node: 0 };
        let begun = match std::mem::replace(&mut self.begun, true) {
            true => Ok(()),
            false => cx.begin(),
        };
        let out = begun.and_then(|()| run(cx));
        self.stream_time = env.stream_time.get();
        self.commit |= env.commit.get();
        self.fired |= env.fired.get();
        let (outgoing, letters, seq) = (env.outgoing.into_inner(), env.letters.into_inner(), env.seq.get());
        let (leaving, counters) = (env.leaving.into_inner(), env.counters.into_inner());
        self.emit(leaving, ctx);
        *ctx.outgoing = outgoing;
        *ctx.counters = counters;
        for (place, node, reason, text) in letters {
            *ctx.counters.entry((node.clone(), format!("dead:{reason}"))).or_insert(0) += 1;
            let mut ctx = Ctx {
                node: &node,
                emitted: &mut vec![],
                outgoing: &mut *ctx.outgoing,
                counters: &mut *ctx.counters,
                ..*ctx
            };
            match place {
                Some(p) => ctx.dead_record(&p.topic, p.partition, &p.raw, p.row, seq, reason, Some(&text)),
                None => ctx.dead_bytes(None, seq, reason, Some(&text)),
            }
        }
        out
    }
}

impl Flow {
    /// Rows that have left, to whoever is behind the node that made them; those that are gathered, when there are many.
    fn emit(&mut self, leaving: Vec<Leaving>, ctx: &mut Ctx<'_>) {
        if self.exits.iter().all(|e| !e.gathered) {
            return self.tell(leaving, ctx);
        }
        let gathers = |row: &Leaving| self.exits.iter().any(|e| e.node == row.exit && e.gathered);
        let (gathered, at_once): (Vec<_>, Vec<_>) = leaving.into_iter().partition(gathers);
        self.tell(at_once, ctx);
        self.gathered.extend(gathered);
        if self.gathered.len() >= GATHERED_MAX {
            self.tell_gathered(ctx);
        }
    }

    /// They came in several steps, each of which counts its places from 0 on: they stand as they came.
    fn tell_gathered(&mut self, ctx: &mut Ctx<'_>) {
        let mut rows = std::mem::take(&mut self.gathered);
        (0..).zip(&mut rows).for_each(|(seq, row)| (row.seq, row.path) = (seq, 0));
        self.tell(rows, ctx);
    }

    fn tell(&self, leaving: Vec<Leaving>, ctx: &mut Ctx<'_>) {
        if leaving.is_empty() {
            return;
        }
        let mut by_port: Vec<Vec<Leaving>> = self.exits.iter().map(|_| vec![]).collect();
        for row in leaving {
            if let Some(port) = self.exits.iter().position(|e| e.node == row.exit) {
                by_port[port].push(row);
            }
        }
        for (port, rows) in by_port.into_iter().enumerate().filter(|(_, rows)| !rows.is_empty()) {
            ctx.emit(port, Message::Rows(bridge::batch_of(&self.exits[port].schema, rows, self.paths)));
        }
    }
}

impl Flow {
    /// One record after the other, of all inputs in the order of processing: as if each had come alone.
    fn enter_rows(&mut self, batches: &[(usize, Batch)], ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let entries = std::mem::take(&mut self.entries);
        let path = |batch: &Batch, row: usize| batch.path.as_ref().map_or(0, |p| p[row]);
        let rows = batches.iter().flat_map(|held| held.1.live_rows().map(move |row| (held, row)));
        let mut rows: Vec<(&(usize, Batch), usize)> = rows.collect();
        if batches.len() > 1 {
            rows.sort_by_key(|((_, batch), row)| (batch.seq[*row], path(batch, *row)));
        }
        let done = self.with_env(ctx, 0, None, |cx| {
            for ((input, batch), row) in rows {
                let Entry { node, rows } = &entries[*input];
                let cx = Cx { node: *node, ..cx };
                let origin =
                    batch.origin_rows.as_ref().and_then(|o| Some((batch.origins.get(o[row].0 as usize)?, o[row].1)));
                cx.env.place.replace(origin.map(|(o, at)| Place {
                    topic: o.topic.clone(),
                    partition: o.partition,
                    raw: o.raw.clone(),
                    row: at as usize,
                }));
                cx.env.seq.set(batch.seq[row]);
                cx.env.path.set(path(batch, row));
                match rows.record(batch, row) {
                    Ok(record) => {
                        cx.env.stream_time.set(cx.env.stream_time.get().max(record.ts));
                        cx.forward(record)?;
                    }
                    Err((reason, text)) => cx.dead(reason, text),
                }
                cx.env.place.replace(None);
                for &node in &cx.graph.timed {
                    let cx = Cx { node, ..cx };
                    let done = cx.graph.nodes[node].node.borrow_mut().punctuate(cx);
                    cx.settle(done, Failed::Call(cx.time(Clock::Stream)))?;
                }
                cx.fire(Clock::Stream)?;
            }
            Ok(())
        });
        self.entries = entries;
        fatal(done)
    }
}

fn fatal(done: Done) -> Result<(), Fatal> {
    match done {
        Ok(()) => Ok(()),
        Err(Failure::Fatal(fatal)) => Err(fatal),
        Err(Failure::Bad(reason, text)) => Err(Fatal::new("flow_failed", format!("{reason}: {text}"))),
    }
}

impl Operator for Flow {
    fn take(&mut self, source: &FlowSource, place: Place, taken: Taken, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let record = match taken {
            Ok(record) => record,
            Err((serde::UNAVAILABLE, text)) => return Err(serde::unavailable(text)),
            Err((reason, text)) => {
                let node = &self.graph.nodes[source.node];
                let asked = || {
                    let origin = Some(place.origin());
                    node.on_error.asked(ctx.foreign, Some(&place), origin, Failed::Unread, &node.name, (reason, &text))
                };
                match if reason == UNTIMED { OnError::Fail } else { asked()? } {
                    OnError::DeadLetter | OnError::Call(_) => {}
                    OnError::Continue => {
                        ctx.count(&format!("dropped:{reason}"), 1);
                        return Ok(());
                    }
                    OnError::Fail => {
                        let done = self.with_env(ctx, ctx.seq_end, Some(place), |cx| {
                            Err(Cx { node: source.node, ..cx }.refused(reason, &text).into())
                        });
                        return fatal(done);
                    }
                }
                ctx.count(&format!("dead:{reason}"), 1);
                let seq = ctx.seq_end;
                ctx.dead_record(&place.topic, place.partition, &place.raw, place.row, seq, reason, Some(&text));
                return Ok(());
            }
        };
        if record.ts < 0 {
            ctx.count("dropped:negative_timestamp", 1);
            return Ok(());
        }
        let node = source.node;
        let done = self.with_env(ctx, ctx.seq_end, Some(place), |cx| {
            cx.env.stream_time.set(cx.env.stream_time.get().max(record.ts));
            cx.enter(node, 0, record)?;
            cx.env.place.replace(None);
            for &node in &cx.graph.timed {
                let cx = Cx { node, ..cx };
                let done = cx.graph.nodes[node].node.borrow_mut().punctuate(cx);
                cx.settle(done, Failed::Call(cx.time(Clock::Stream)))?;
            }
            cx.fire(Clock::Stream)
        });
        fatal(done)
    }

    /// Rows from columnar operators. Those of several inputs wait until all of them are there.
    fn process(&mut self, input: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let Message::Rows(batch) = message else {
            return Err(Fatal::new("bad_plan", "a flow takes rows"));
        };
        if self.entries.len() > 1 {
            self.held.push((input, batch));
            return Ok(());
        }
        self.enter_rows(&[(input, batch)], ctx)
    }

    fn end_batch(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        match std::mem::take(&mut self.held) {
            held if held.is_empty() => Ok(()),
            held => self.enter_rows(&held, ctx),
        }
    }

    fn begin(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        self.looked = ctx.tick;
        fatal(self.with_env(ctx, 0, None, |_| Ok(())))
    }

    fn closing(&self) -> bool {
        self.graph.timed.iter().any(|&node| self.graph.nodes[node].node.borrow().closing())
    }

    fn go_on(&mut self, ctx: &mut Ctx<'_>) -> Result<usize, Fatal> {
        let mut told = 0;
        let done = self.with_env(ctx, 0, None, |cx| {
            let node = cx.graph.timed.iter().find(|&&node| cx.graph.nodes[node].node.borrow().closing());
            let Some(&node) = node else { return Ok(()) };
            let cx = Cx { node, ..cx };
            let done = cx.graph.nodes[node].node.borrow_mut().go_on(cx);
            cx.settle(done.map(|n| told = n), Failed::Call(cx.time(Clock::Stream)))
        });
        fatal(done)?;
        Ok(told)
    }

    fn store(&self, name: &str) -> Option<Ref<'_, Store>> {
        Some(self.graph.stores[self.graph.store_named(name)?].borrow())
    }

    fn moved(&mut self) -> bool {
        std::mem::take(&mut self.fired)
    }

    fn commit_asked(&mut self) -> bool {
        std::mem::take(&mut self.commit)
    }

    fn flush(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let moved = std::mem::replace(&mut self.looked, ctx.tick) != ctx.tick;
        let done = self.with_env(ctx, ctx.seq_end, None, |cx| {
            if moved {
                cx.fire(Clock::Wall)?;
            }
            for node in 0..cx.graph.nodes.len() {
                let cx = Cx { node, ..cx };
                let mut slot = cx.graph.nodes[node].node.borrow_mut();
                cx.settle(slot.punctuate(cx), Failed::Call(cx.time(Clock::Stream)))?;
                cx.settle(slot.flush(cx), Failed::Call(NO_TIME))?;
            }
            Ok(())
        });
        self.tell_gathered(ctx);
        fatal(done)
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.stream_time);
        out.varint((self.graph.nodes.len() + self.graph.stores.len() + 1) as u64);
        let mut saved = Writer::default();
        self.graph.schedules.borrow().save(self.begun, |node| self.graph.nodes[node].id, &mut saved);
        out.u64(schedules_id());
        out.blob(&saved.bytes);
        for slot in &self.graph.nodes {
            let mut saved = Writer::default();
            slot.node.borrow().save(&mut saved);
            out.u64(slot.id);
            out.blob(&saved.bytes);
        }
        for store in &self.graph.stores {
            let store = store.borrow();
            let mut saved = Writer::default();
            store.save(&mut saved);
            out.u64(store.id);
            out.blob(&saved.bytes);
        }
    }

    /// Nodes that are new have nothing saved, and what was saved of nodes that are gone is nobody's.
    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.stream_time = saved.zigzag()?;
        self.commit = false;
        for _ in 0..saved.varint()? {
            let (id, blob) = (saved.u64()?, saved.blob()?);
            if id == schedules_id() {
                self.graph.schedules.borrow_mut().load(&mut Reader::new(blob))?;
            } else if let Some(slot) = self.graph.nodes.iter().find(|s| s.id == id) {
                slot.node.borrow_mut().load(&mut Reader::new(blob))?;
            } else if let Some(store) = self.graph.stores.iter().find(|s| s.borrow().id == id) {
                store.borrow_mut().load(&mut Reader::new(blob))?;
            }
        }
        self.make_again();
        Some(())
    }

    fn close_generation(&mut self, changelog: &mut dyn Changelog, _: u64) {
        for store in &self.graph.stores {
            let mut store = store.borrow_mut();
            let (id, logged) = (store.id, store.spec.logging);
            store.bytes.close_generation(&mut |count, body| {
                if logged {
                    changelog.delta_of(id, Kind::Store, count, body);
                }
            });
        }
    }

    fn rewrite(&mut self, limit: usize, changelog: &mut dyn Changelog) -> (usize, bool) {
        let mut passed = 0;
        for store in &self.graph.stores {
            let mut store = store.borrow_mut();
            let id = store.id;
            if !store.spec.logging || store.rewritten {
                continue;
            }
            let (n, ended) = store
                .bytes
                .rewrite(limit - passed, &mut |count, body| changelog.delta_of(id, Kind::Store, count, body));
            passed += n;
            store.rewritten = ended;
            if !ended {
                return (passed, false);
            }
        }
        self.graph.stores.iter().for_each(|s| s.borrow_mut().rewritten = false);
        (passed, true)
    }

    fn committed(&mut self) {
        self.graph.stores.iter().for_each(|s| s.borrow_mut().bytes.committed());
    }

    fn on_disk(&self, default: StoreType) -> bool {
        self.graph.stores.iter().any(|s| s.borrow().spec.on_disk(default))
    }

    /// All stores, so that the changelog's end is enough for a restore: those that stay in memory are written there as well.
    fn attach(&mut self, backend: &Arc<dyn Backend>, default: StoreType) {
        self.attached = true;
        for store in &self.graph.stores {
            let mut store = store.borrow_mut();
            let (id, resident) = (store.id, !store.spec.on_disk(default));
            if !store.spec.logging {
                backend.drop_store(id); // empty after a restart, wherever it is
            }
            store.bytes.attach(backend.clone(), id, resident);
        }
    }

    fn in_memory(&self) -> bool {
        !self.attached && self.graph.stores.iter().any(|s| s.borrow().spec.logging)
    }

    fn rollback(&mut self) {
        self.held.clear();
        self.gathered.clear();
        for store in &self.graph.stores {
            let mut store = store.borrow_mut();
            store.bytes.rollback();
            store.forget_told();
            store.rewritten = false;
        }
    }

    fn owns(&self, id: u64) -> bool {
        self.graph.stores.iter().any(|s| s.borrow().id == id)
    }

    fn restore_of(&mut self, id: u64, kind: Kind, count: u32, body: &[u8]) -> Option<()> {
        let store = self.graph.stores.iter().find(|s| s.borrow().id == id)?;
        (kind == Kind::Store).then_some(())?;
        store.borrow_mut().bytes.restore(count, body)
    }

    fn end_restore(&mut self) {
        self.make_again();
    }

    fn stats(&self, out: &mut Stats) {
        let stores = || self.graph.stores.iter().map(|s| s.borrow());
        out.push(("state_keys".into(), stores().map(|s| s.bytes.len() as i64).sum()));
        out.push(("state_bytes".into(), stores().map(|s| s.bytes.byte_size() as i64).sum()));
    }
}

impl Flow {
    fn make_again(&mut self) {
        let found = FoundTopics::default();
        let env = Env { stream_time: Cell::new(self.stream_time), ..Env::idle(&self.topics, &found) };
        self.begun = false;
        self.graph.life.set(self.graph.life.get() + 1);
        self.graph.schedules.borrow_mut().clear();
        for (node, slot) in self.graph.nodes.iter().enumerate() {
            slot.node.borrow_mut().restored(Cx { graph: &self.graph, env: &env, node });
        }
    }
}

/// How a store is named in stored formats: another kind under the same name is another store.
pub fn store_id(spec: &StoreSpec) -> u64 {
    schema_hash(&format!("store {} {}", spec.name, spec.meaning()))
}

/// How a node's small state is named.
pub fn node_id(name: &str) -> u64 {
    schema_hash(&format!("flow {name}"))
}

/// How the queue of punctuations is named.
fn schedules_id() -> u64 {
    schema_hash("flow's schedules")
}
