//! Global tables: a topic that every worker has whole, one copy for all of its tasks.
//!
//! Nothing of it belongs to a task: no changelog (the topic is one), no undo, no place in the order of records. What has
//! arrived is seen by whoever looks next, also if its time lies ahead. The last record of a key to arrive is its value.
//!
//! The worker reads the topic and calls [`Globals::apply`]; tasks look. A record that cannot be read, has no key or a
//! negative time is counted and passed over: it is nobody's dead letter, since no task has read it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::Deserialize;

use super::func::Func;
use super::stores::{key_bytes, write_timed, Store, StoreKind, StoreSpec, Timed};
use super::{FlowSource, Serde};
use crate::expr::Foreign;
use crate::raw::RawBatch;
use crate::window::NO_TIME;

#[derive(Clone, Debug, Deserialize)]
pub struct GlobalSpec {
    pub name: String,
    pub topic: String,
    pub key: Serde,
    pub value: Serde,
    #[serde(default)]
    pub timestamp: Option<Func>,
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
}

impl Global {
    fn new(spec: &GlobalSpec) -> Global {
        let store =
            Store::new(StoreSpec { name: spec.name.clone(), kind: StoreKind::KeyValue, ..StoreSpec::default() });
        let state = Mutex::new(State { store, clocks: BTreeMap::new(), counters: BTreeMap::new() });
        Global { spec: spec.clone(), state }
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
        self.tables[table].lock().store.get_raw(key)
    }

    /// A table as a store, for queries.
    pub fn with<T>(&self, name: &str, read: impl FnOnce(&Store) -> T) -> Option<T> {
        Some(read(&self.tables[self.named(name)?].lock().store))
    }

    /// Applies records of a topic's partition, in order.
    pub fn apply(&self, topic: &str, partition: u32, batch: &RawBatch, foreign: &dyn Foreign) {
        for table in self.tables.iter().filter(|t| t.spec.topic == topic) {
            let source = FlowSource {
                key: table.spec.key.clone(),
                value: table.spec.value.clone(),
                timestamp: table.spec.timestamp.map(|f| f.call),
                node: 0,
                name: table.spec.name.as_str().into(),
                internal: false,
            };
            let mut clock = table.lock().clocks.get(&partition).copied().unwrap_or(NO_TIME);
            for row in 0..batch.len() {
                // The host's functions run without the lock: they may take as long as they like.
                let read = source.read(batch, row, clock, foreign).and_then(|r| {
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
                    Err((reason, _)) => {
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
    }

    /// How many keys each table has, and what became of records, by table.
    pub fn stats(&self) -> Vec<(String, usize, BTreeMap<String, u64>)> {
        let of = |t: &Global| {
            let state = t.lock();
            (t.spec.name.clone(), state.store.bytes.len(), state.counters.clone())
        };
        self.tables.iter().map(of).collect()
    }
}
