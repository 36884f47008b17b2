//! Stores without a task, and without an end: what a unit test of a processor puts under it. They are the real ones; nothing
//! is written anywhere, and nothing commits.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use super::schedule::Schedules;
use super::stateless::Pass;
use super::{Cx, Env, Globals, Graph, OnError, Slot, Store, StoreSpec};
use crate::op::FoundTopics;

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
        let found = FoundTopics::default();
        let env = Env::idle(&[], &found);
        then(Cx { graph: &self.graph, env: &env, node: 0 })
    }
}
