//! Global tables: a topic that every worker has whole, one copy for all of its tasks.
//!
//! Nothing of it belongs to a task: no changelog (the topic is one), no undo, no place in the order of records. What has
//! arrived is seen by whoever looks next, also if its time lies ahead. The last record of a key to arrive is its value.
//!
//! Instead of a table it may be a store that a processor of the user keeps ([`Kept`]): Kafka Streams' global store. The processor
//! sees every record, also after a restart, and forwards to nobody.
//!
//! Or they are rules ([`RuleLog`]): every record counts, in order, and tasks say how far they have come.
//!
//! The worker reads the topic and calls [`Globals::apply`]; tasks look. A record that cannot be read, has no key or a
//! negative time is counted and passed over: it is nobody's dead letter, since no task has read it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use super::process::{Access, Process};
use super::rules::RuleLog;
use super::serde::{unavailable, UNAVAILABLE};
use super::stateless::Pass;
use super::store::View;
use super::stores::{key_bytes, write_timed, Store, StoreKind, StoreSpec, Timed};
use super::{Extractor, Flow, FlowSource, Graph, Node, OnError, Place, Serde, Slot, UNTIMED};
use crate::error::Fatal;
use crate::expr::Foreign;
use crate::frame::Kind;
use crate::op::{Changelog, Counters, Ctx, DeadLetters, FoundTopics, Inputs, Operator};
use crate::raw::RawBatch;
use crate::window::NO_TIME;

#[derive(Clone, Debug, Deserialize)]
pub struct GlobalSpec {
    pub name: String,
    pub topic: String,
    pub key: Serde,
    pub value: Serde,
    #[serde(default)]
    pub timestamp: Option<Extractor>,
    /// A processor keeps it, instead of the last record of a key being its value.
    #[serde(default)]
    pub kept: Option<Kept>,
    /// It is a topic of rules: the function that reads one.
    #[serde(default)]
    pub rules: Option<usize>,
}

/// A store that a processor of the user keeps from the topic.
#[derive(Clone, Debug, Deserialize)]
pub struct Kept {
    pub node: String,
    pub factory: usize,
    pub store: StoreSpec,
}

impl Kept {
    /// A flow of its own: where records enter, and the processor.
    fn flow(&self) -> Flow {
        let access =
            Access { node: self.node.clone(), stores: vec![(self.store.name.clone(), 0)], ..Access::default() };
        let slot = |name: &str, node: Box<dyn Node>, children| Slot {
            id: super::node_id(name),
            name: name.into(),
            on_error: OnError::default(),
            node: RefCell::new(node),
            children,
        };
        let nodes = vec![
            slot("source", Box::new(Pass), vec![vec![(1, 0)]]),
            slot(&self.node, Box::new(Process::new(self.factory, access)), vec![]),
        ];
        let graph = Graph {
            nodes,
            stores: vec![RefCell::new(Store::new(self.store.clone()))],
            globals: Arc::default(),
            timed: vec![],
            schedules: RefCell::default(),
            life: std::cell::Cell::default(),
        };
        Flow::new(graph, vec![], vec![], Arc::default(), false)
    }
}

/// What a store of the worker writes to no changelog.
struct Nowhere;

impl Changelog for Nowhere {
    fn delta(&mut self, _: Kind, _: u32, _: &[u8]) {}
    fn delta_of(&mut self, _: u64, _: Kind, _: u32, _: &[u8]) {}
}

struct State {
    store: Store,
    /// The largest time seen, by partition.
    clocks: BTreeMap<u32, i64>,
    counters: BTreeMap<String, u64>,
}

struct Global {
    spec: GlobalSpec,
    state: Mutex<State>,
    /// Where a processor keeps it.
    kept: Option<Mutex<Flow>>,
    rules: Option<RuleLog>,
}

impl Global {
    fn new(spec: &GlobalSpec) -> Global {
        let store =
            Store::new(StoreSpec { name: spec.name.clone(), kind: StoreKind::KeyValue, ..StoreSpec::default() });
        let state = Mutex::new(State { store, clocks: BTreeMap::new(), counters: BTreeMap::new() });
        let kept = spec.kept.as_ref().map(|kept| Mutex::new(kept.flow()));
        Global { spec: spec.clone(), state, kept, rules: spec.rules.map(RuleLog::new) }
    }

    /// Looks into it.
    fn store<T>(&self, look: impl FnOnce(&Store) -> T) -> T {
        let Some(flow) = &self.kept else { return look(&self.lock().store) };
        let flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
        let store = flow.graph.stores[0].borrow();
        look(&store)
    }

    fn source(&self) -> FlowSource {
        FlowSource {
            key: self.spec.key.clone(),
            value: self.spec.value.clone(),
            timestamp: self.spec.timestamp.unwrap_or_default(),
            node: 0,
            name: self.spec.name.as_str().into(),
            internal: false,
        }
    }

    /// The processor's turn, record by record.
    fn keep(
        &self,
        flow: &Mutex<Flow>,
        partition: u32,
        batch: &Arc<RawBatch>,
        foreign: &dyn Foreign,
    ) -> Result<(), Fatal> {
        let mut flow = flow.lock().unwrap_or_else(PoisonError::into_inner);
        let source = self.source();
        let topic: Arc<str> = self.spec.topic.as_str().into();
        let mut clock = self.lock().clocks.get(&partition).copied().unwrap_or(NO_TIME);
        let mut counters = Counters::new();
        let nobody = DeadLetters { application: "".into(), by_source: vec![], fallback: None };
        let mut done = Ok(());
        for row in 0..batch.len() {
            let mut ctx = Ctx {
                node: &source.name,
                foreign,
                emitted: &mut vec![],
                outgoing: &mut vec![],
                counters: &mut counters,
                partitions: &[],
                found: &FoundTopics::default(),
                dead_letters: &nobody,
                task_partition: partition,
                seq_end: 0,
                tick: NO_TIME,
                inputs: Inputs::default(),
            };
            // Global tables pass over what they cannot read: no task is there to fail.
            let missing = |(reason, text)| (if reason == UNTIMED { "missing_timestamp" } else { reason }, text);
            let taken = source.read((&topic, partition), (batch, row), clock, NO_TIME, foreign).map_err(missing);
            clock = taken.as_ref().map_or(clock, |record| clock.max(record.ts));
            ctx.count("read", 1);
            let place = Place { topic: topic.clone(), partition, raw: batch.clone(), row };
            done = flow.take(&source, place, taken, &mut ctx);
            if done.is_err() {
                break;
            }
        }
        flow.close_generation(&mut Nowhere, 0);
        flow.committed();
        let mut state = self.lock();
        state.clocks.insert(partition, clock);
        for ((_, reason), n) in counters {
            *state.counters.entry(reason).or_default() += n;
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The global tables of one worker.
#[derive(Default)]
pub struct Globals {
    tables: Vec<Global>,
}

impl Globals {
    pub fn new(specs: &[GlobalSpec]) -> Globals {
        Globals { tables: specs.iter().map(Global::new).collect() }
    }

    pub fn named(&self, name: &str) -> Option<usize> {
        self.tables.iter().position(|t| t.spec.name == name)
    }

    /// The value and its time.
    pub fn get(&self, table: usize, key: &[u8]) -> Option<Timed> {
        self.tables[table].store(|s| s.get_in(View::Present, key))
    }

    /// A table as a store, for queries.
    pub fn with<T>(&self, name: &str, read: impl FnOnce(&Store) -> T) -> Option<T> {
        Some(self.tables[self.named(name)?].store(read))
    }

    /// The rules that a topic has said.
    pub fn rules(&self, table: usize) -> &RuleLog {
        self.tables[table].rules.as_ref().expect("a topic of rules")
    }

    /// Applies records of a topic's partition, in order.
    pub fn apply(
        &self,
        topic: &str,
        partition: u32,
        batch: &Arc<RawBatch>,
        foreign: &dyn Foreign,
    ) -> Result<(), Fatal> {
        for table in self.tables.iter().filter(|t| t.spec.topic == topic) {
            if let Some(flow) = &table.kept {
                table.keep(flow, partition, batch, foreign)?;
                continue;
            }
            if let Some(rules) = &table.rules {
                rules.read(topic, partition, batch, foreign)?;
                *table.lock().counters.entry("read".into()).or_default() += batch.len() as u64;
                continue;
            }
            let source = table.source();
            let place: Arc<str> = topic.into();
            let mut clock = table.lock().clocks.get(&partition).copied().unwrap_or(NO_TIME);
            for row in 0..batch.len() {
                // The host's functions run without the lock: they may take as long as they like.
                let read = source.read((&place, partition), (batch, row), clock, NO_TIME, foreign).and_then(|r| {
                    clock = clock.max(r.ts);
                    match (r.ts < 0, r.key.is_null()) {
                        (true, _) => Err(("dropped:negative_timestamp", String::new())),
                        (_, true) => Err(("dropped:null_key", String::new())),
                        _ => {
                            let bytes = |f: super::Failure| ("dropped:not_storable", format!("{f:?}"));
                            let key = key_bytes(&r.key).map_err(bytes)?;
                            let value = (!r.value.is_null()).then(|| write_timed(&r.value, r.ts)).transpose();
                            Ok((key, value.map_err(bytes)?))
                        }
                    }
                });
                let mut state = table.lock();
                match read {
                    Ok((key, value)) => state.store.bytes.write(&key, value.as_deref()),
                    Err((UNAVAILABLE, text)) => return Err(unavailable(text)),
                    Err((reason, _)) => {
                        let reason = if reason == UNTIMED { "missing_timestamp" } else { reason };
                        let reason = reason.strip_prefix("dropped:").unwrap_or(reason);
                        *state.counters.entry(format!("dropped:{reason}")).or_default() += 1;
                    }
                }
                *state.counters.entry("read".into()).or_default() += 1;
                state.clocks.insert(partition, clock);
            }
            // Nothing of it is ever undone.
            let mut state = table.lock();
            state.store.bytes.close_generation(&mut |_, _| {});
            state.store.bytes.committed();
        }
        Ok(())
    }

    /// How many keys each table has, and what became of records, by table.
    pub fn stats(&self) -> Vec<(String, usize, BTreeMap<String, u64>)> {
        let of = |t: &Global| {
            let keys = t.store(Store::entries) as usize;
            (t.spec.name.clone(), keys, t.lock().counters.clone())
        };
        self.tables.iter().map(of).collect()
    }
}
