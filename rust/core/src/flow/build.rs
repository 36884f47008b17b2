//! From the plan's nodes to a graph. One line per kind of node.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::Deserialize;
use serde_json::Value;

use super::aggregate::{Aggregate, Fold, TableAggregate};
use super::bridge::{FromRows, ToRows};
use super::foreign::{Answer, Propagate, Resolve, Subscribe};
use super::func::{Func, Getter, Lookup};
use super::in_order::InOrder;
use super::lanes::{Sending, Unstamp};
use super::looks::SelectMatch;
use super::patterns::{self, MatchPattern};
use super::pick_join::PickJoin;
use super::process::{self, Access, Process};
use super::rolling::Rolling;
use super::scan::Scan;
use super::session::SessionAggregate;
use super::sliding::SlidingAggregate;
use super::stateless;
use super::stream_join::StreamJoin;
use super::stream_table::StreamTableJoin;
use super::suppress::{Suppress, Terms};
use super::table::{Derivation, Derived, Regroup, Source, Teller, Telling, ToStream};
use super::table_join::TableJoin;
use super::transform::{TransformValues, Transformer};
use super::wait_until::WaitUntil;
use super::windowed::{Closing, Seen, WindowAggregate, Windowing};
use super::{Entry, Exit, Extractor, Flow, FlowSource, Globals, Graph, Node, OnError, Serde, Slot, Store};
use crate::error::PlanError;
use crate::plan::feeds;
use crate::plan::logical::{Op, Plan};
use crate::task::Options;

/// Makes sense of one node's parameters.
pub struct Builder<'a> {
    pub name: &'a str,
    pub parameters: &'a Value,
    stores: &'a [RefCell<Store>],
    globals: &'a Globals,
    plan: &'a Plan,
    /// Whether tables may have caches at all.
    cache: bool,
    /// How much a node tells at once of time that went on.
    closing_rows: usize,
    subtopology: usize,
}

impl Builder<'_> {
    pub fn wrong(&self, text: impl std::fmt::Display) -> PlanError {
        PlanError::new("bad_plan", format!("`{}`: {text}", self.name))
    }
    /// The parameters as a struct of their own.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, PlanError> {
        serde_json::from_value(self.parameters.clone()).map_err(|e| self.wrong(e))
    }
    /// One parameter.
    pub fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, PlanError> {
        let value = self.parameters.get(name).cloned().unwrap_or_default();
        serde_json::from_value(value).map_err(|e| self.wrong(format!("{name}: {e}")))
    }
    /// A store by its name.
    pub fn store(&self, name: &str) -> Result<usize, PlanError> {
        let found = self.stores.iter().position(|s| s.borrow().spec.name == name);
        found.ok_or_else(|| self.wrong(format!("there is no store `{name}`")))
    }
    /// The store that a parameter names.
    pub fn store_of(&self, parameter: &str) -> Result<usize, PlanError> {
        self.store(&self.get::<String>(parameter)?)
    }
    pub fn optional_store(&self, parameter: &str) -> Result<Option<usize>, PlanError> {
        self.get::<Option<String>>(parameter)?.map(|name| self.store(&name)).transpose()
    }
    pub fn lookup(&self, parameter: &str) -> Result<Lookup, PlanError> {
        self.get::<Getter>(parameter)?.find(&|name| self.store(name), &|stores| self.access(stores), self.globals)
    }
    /// What an instance of the host's reaches here.
    fn access(&self, stores: &[String]) -> Result<Access, PlanError> {
        let stores = stores.iter().map(|s| Ok((s.clone(), self.store(s)?))).collect::<Result<_, PlanError>>()?;
        Ok(Access { node: self.name.into(), subtopology: self.subtopology, stores, ..Access::default() })
    }
    /// The same as those behind it have been told.
    fn told(&self, parameter: &str) -> Result<Lookup, PlanError> {
        Ok(self.lookup(parameter)?.of_told(&mut |store| {
            self.stores[store].borrow_mut().told.get_or_insert_default();
        }))
    }
    pub fn teller(&self) -> Result<Teller, PlanError> {
        let how = self.read::<Telling>()?;
        Ok(Teller::new(Telling { cached: how.cached && self.cache, ..how }))
    }
    fn topic(&self, name: &str) -> usize {
        self.plan.topic(name)
    }
}

fn node(kind: &str, b: &Builder<'_>) -> Result<Box<dyn Node>, PlanError> {
    Ok(match kind {
        "source" if b.get::<Option<bool>>("lanes")? == Some(true) => Box::new(Unstamp),
        "source" | "merge" => Box::new(stateless::Pass),
        "changes" => Box::new(stateless::Changes),
        "filter" => Box::new(b.read::<stateless::Filter>()?),
        "map" => Box::new(b.read::<stateless::Map>()?),
        "map_values" => Box::new(b.read::<stateless::MapValues>()?),
        "flat_map" => Box::new(b.read::<stateless::FlatMap>()?),
        "flat_map_values" => Box::new(b.read::<stateless::FlatMapValues>()?),
        "select_key" => Box::new(b.read::<stateless::SelectKey>()?),
        "peek" => Box::new(b.read::<stateless::Peek>()?),
        "branch" => Box::new(b.read::<stateless::Branch>()?),
        "to" => {
            let topics = b.get::<Vec<String>>("topics")?.iter().map(|t| b.topic(t)).collect();
            let laned = b.get::<Option<bool>>("lanes")? == Some(true);
            let lane = laned.then(|| Sending::new(feeds(b.plan, b.subtopology)));
            Box::new(stateless::To::new(b.parameters.clone(), topics, lane).map_err(|e| b.wrong(e))?)
        }
        "table_source" => Box::new(Source {
            store: b.optional_store("store")?,
            older: b.get::<Option<Func>>("older")?,
            teller: b.teller()?,
        }),
        "table_filter" => Box::new(Derived {
            what: Derivation::Filter { predicate: b.get::<Func>("predicate")?, negate: b.get("negate")? },
            store: b.optional_store("store")?,
            teller: b.teller()?,
            versioned: b.get::<Option<bool>>("versioned")?.unwrap_or(false),
        }),
        "table_map_values" => Box::new(Derived {
            what: Derivation::MapValues(b.get::<Func>("mapper")?),
            store: b.optional_store("store")?,
            teller: b.teller()?,
            versioned: false,
        }),
        "table_join" => Box::new(TableJoin {
            joiner: b.get("joiner")?,
            tables: [b.lookup("left")?, b.lookup("right")?],
            outer: [b.get("left_outer")?, b.get("right_outer")?],
            versioned: b.get("versioned")?,
            store: b.optional_store("store")?,
            teller: b.teller()?,
        }),
        "fk_subscribe" => Box::new(Subscribe {
            foreign_key: b.get("foreign_key")?,
            left: b.get("left")?,
            versioned: b.get("versioned")?,
        }),
        "fk_answer" => Box::new(Answer {
            store: b.store_of("store")?,
            empty_is_none: b.get("empty_is_none")?,
            right: b.told("right")?,
        }),
        "fk_propagate" => Box::new(Propagate {
            store: b.store_of("store")?,
            empty_is_none: b.get("empty_is_none")?,
            versioned: b.get("versioned")?,
        }),
        "fk_resolve" => Box::new(Resolve { left: b.told("left")?, joiner: b.get("joiner")?, outer: b.get("outer")? }),
        "to_stream" => Box::new(ToStream),
        "process" => {
            let p: process::Parameters = b.read()?;
            Box::new(Process::new(
                p.factory,
                Access { outputs: p.outputs, fixed_key: p.fixed_key, ..b.access(&p.stores)? },
            ))
        }
        "table_transform_values" => Box::new(TransformValues {
            transformer: Transformer::new(b.get("factory")?, b.access(&b.get::<Vec<String>>("reached")?)?),
            store: b.optional_store("store")?,
            teller: b.teller()?,
        }),
        "regroup" => Box::new(b.read::<Regroup>()?),
        "aggregate" => Box::new(Aggregate {
            folds: b.get::<Vec<Fold>>("folds")?,
            store: b.store_of("store")?,
            teller: b.teller()?,
        }),
        "table_aggregate" => {
            Box::new(TableAggregate { fold: b.get::<Fold>("fold")?, store: b.store_of("store")?, teller: b.teller()? })
        }
        "stream_join" => {
            let windows = [b.store_of("left")?, b.store_of("right")?];
            Box::new(StreamJoin::new(b.read()?, windows, b.optional_store("waiting")?))
        }
        "rolling" => Box::new(Rolling::new(b.read()?, b.store_of("store")?)?),
        "in_order" => Box::new(InOrder::new(b.read()?, b.store_of("store")?)),
        "wait_until" => Box::new(WaitUntil::new(b.read()?, b.store_of("store")?, b.closing_rows)),
        "scan" => Box::new(Scan::new(b.read()?, b.store_of("store")?)),
        "pick_join" => Box::new(PickJoin::new(b.read()?, b.store_of("right")?, b.store_of("waiting")?)),
        "stream_table_join" => {
            Box::new(StreamTableJoin { p: b.read()?, table: b.lookup("table")?, buffer: b.optional_store("buffer")? })
        }
        "window_aggregate" => windowed(b)?,
        "match" => {
            let p: patterns::Parameters = b.read()?;
            let rules = p.rules.as_ref().map(|rules| {
                let (global, store) = rules.names();
                let global = b.globals.named(global).ok_or_else(|| b.wrong(format!("there is no `{global}`")))?;
                Ok::<_, PlanError>((global, b.store(store)?))
            });
            Box::new(MatchPattern::new(p, b.store_of("store")?, rules.transpose()?)?)
        }
        "select_match" => Box::new(b.read::<SelectMatch>()?),
        "suppress" => Box::new(Suppress::new(b.read::<Terms>()?, b.store_of("store")?)),
        other => return Err(b.wrong(format!("there is no operation `{other}`"))),
    })
}

/// Aggregation by key and window, each kind of window with its own operator.
fn windowed(b: &Builder<'_>) -> Result<Box<dyn Node>, PlanError> {
    let (folds, store, teller, seen) = (b.get("folds")?, b.store_of("store")?, b.teller()?, Seen::default());
    let closing = Closing::new(b.get::<Option<bool>>("on_close")?.unwrap_or(false));
    closing.hold(&mut b.stores[store].borrow_mut());
    Ok(match b.get::<Windowing>("window")? {
        Windowing::Sliding { difference_ms, grace_ms } => {
            Box::new(SlidingAggregate { difference_ms, grace_ms, folds, store, teller, closing, seen })
        }
        Windowing::Session { gap_ms, grace_ms } => {
            let merger = b.get("merger")?;
            Box::new(SessionAggregate { gap_ms, grace_ms, folds, merger, store, teller, closing, seen })
        }
        windowing => Box::new(WindowAggregate { windowing, folds, store, teller, closing, seen, place: vec![] }),
    })
}

#[derive(Deserialize)]
struct SourceParameters {
    topics: Vec<String>,
    key: Serde,
    value: Serde,
    #[serde(default)]
    timestamp: Option<Extractor>,
    #[serde(default)]
    internal: bool,
}

/// The flow of some nodes, and what it reads, by topic. `cache`: whether tables may have caches at all.
pub fn build(
    plan: &Plan,
    ids: &[usize],
    options: Options,
    globals: &Arc<Globals>,
) -> Result<(Flow, BTreeMap<String, FlowSource>), PlanError> {
    let names: BTreeSet<String> = ids.iter().flat_map(|&id| plan.nodes[id].op.texts("stores")).collect();
    let used = plan.stores.iter().filter(|s| names.contains(&s.name));
    let stores: Vec<RefCell<Store>> = used.map(|s| RefCell::new(Store::new(s.clone()))).collect();
    let (mut entries, mut exits) = (vec![], vec![]);
    let place = |id: usize| ids.iter().position(|&n| n == id);
    let subtopology = ids.first().map_or(0, |&id| plan.subtopology_of(id));
    let mut nodes = vec![];
    let mut sources = BTreeMap::new();
    for &id in ids {
        let said = &plan.nodes[id];
        let Op::Flow { kind, parameters } = &said.op else {
            return Err(PlanError::new("bad_plan", format!("`{}` does not work record by record", said.name)).at(id));
        };
        let parameters = Value::Object(parameters.clone());
        let (cache, closing_rows) = (options.cache, options.closing_rows);
        let b = Builder {
            name: &said.name,
            parameters: &parameters,
            stores: &stores,
            globals,
            plan,
            cache,
            closing_rows,
            subtopology,
        };
        let name: Arc<str> = Arc::from(said.name.as_str());
        let made = match kind.as_str() {
            "from_rows" => {
                let (from, port) = *said.inputs.first().ok_or_else(|| b.wrong("it has no input").at(id))?;
                let schema = plan.working_schema(from, port);
                let names = (b.get::<Vec<String>>("keys")?, b.get::<Vec<String>>("columns")?);
                let rows =
                    FromRows::new(&schema, &names.0, &names.1).ok_or_else(|| b.wrong("a column is missing").at(id))?;
                entries.push(Entry { node: nodes.len(), rows });
                Box::new(stateless::Pass) as Box<dyn Node>
            }
            "to_rows" => {
                let schema = plan.facts[id].ports[0].clone();
                exits.push(Exit {
                    node: nodes.len(),
                    schema: schema.clone(),
                    gathered: b.get("gathered").unwrap_or(false),
                });
                Box::new(ToRows { schema, fill: b.get("fill").map_err(|e| e.at(id))? })
            }
            _ => node(kind, &b).map_err(|e| e.at(id))?,
        };
        if kind == "source" {
            let p: SourceParameters = b.read().map_err(|e| e.at(id))?;
            for topic in p.topics {
                let source = FlowSource {
                    key: p.key.clone(),
                    value: p.value.clone(),
                    timestamp: p.timestamp.unwrap_or_default(),
                    node: nodes.len(),
                    name: name.clone(),
                    internal: p.internal,
                };
                sources.insert(topic, source);
            }
        }
        let children = plan.facts[id]
            .readers
            .iter()
            .map(|readers| readers.iter().filter_map(|&(reader, input)| Some((place(reader)?, input))).collect())
            .collect();
        let on_error = b.get::<Option<OnError>>("on_error").map_err(|e| e.at(id))?.unwrap_or_default();
        nodes.push(Slot { id: super::node_id(&said.name), name, on_error, node: RefCell::new(made), children });
    }
    let timed = (0..nodes.len()).filter(|&n| nodes[n].node.borrow().timed()).collect();
    let topics = Arc::new(plan.topics.clone());
    let graph =
        Graph { nodes, stores, globals: globals.clone(), timed, schedules: RefCell::default(), life: Cell::default() };
    Ok((Flow::new(graph, entries, exits, topics, plan.has_merge), sources))
}
