//! Stores without a task, and without an end: what a unit test of a processor puts under it. They are the real ones; nothing
//! is written anywhere, and nothing commits.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::schedule::Schedules;
use super::stateless::Pass;
use super::{Cx, Env, Globals, Graph, OnError, Slot, Store, StoreSpec};
use crate::expr::NoForeign;
use crate::op::FoundTopics;
use crate::window::NO_TIME;

pub struct Detached {
    graph: Graph,
}

impl Detached {
    /// Of a processor by this name.
    pub fn new(node: &str, specs: Vec<StoreSpec>) -> Detached {
        let slot = Slot {
            id: super::node_id(node),
            name: node.into(),
            on_error: OnError::default(),
            node: RefCell::new(Box::new(Pass)),
            children: vec![],
        };
        Detached {
            graph: Graph {
                nodes: vec![slot],
                stores: specs.into_iter().map(|spec| RefCell::new(Store::new(spec))).collect(),
                globals: Arc::new(Globals::default()),
                timed: vec![],
                schedules: RefCell::new(Schedules::default()),
                life: Cell::default(),
            },
        }
    }

    pub fn with<T>(&self, then: impl FnOnce(Cx<'_>) -> T) -> T {
        let env = Env {
            foreign: &NoForeign,
            outgoing: RefCell::default(),
            counters: RefCell::default(),
            letters: RefCell::default(),
            partitions: &[],
            topics: &[],
            found: &FoundTopics::default(),
            task_partition: 0,
            place: RefCell::new(None),
            origin: RefCell::default(),
            stream_time: Cell::new(NO_TIME),
            wall: NO_TIME,
            seq: Cell::new(0),
            path: Cell::new(0),
            leaving: RefCell::default(),
            commit: Cell::new(false),
            fired: Cell::new(false),
            lane: Cell::new(None),
        };
        then(Cx { graph: &self.graph, env: &env, node: 0 })
    }
}
