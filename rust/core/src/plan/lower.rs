//! The register: from logical nodes to operators wired together. The only file that knows all operators.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::logical::{aggregate_parts, boolean, column, AggregateSpec, Op, Plan, WindowSpec};
use crate::codec::{JsonDecoder, JsonEncoder};
use crate::error::PlanError;
use crate::expr::{compile, Expr};
use crate::flow::{FlowSource, Globals};
use crate::frame::schema_hash;
use crate::op::{
    Aggregate, Branch, Combine, Deduplicate, EdgeOut, EdgeSource, Filter, Map, Merge, Operator, Project, Require, Ship,
    SinkRows, ToStream, ToTopic,
};
use crate::op::{Fold, ProjectColumn, Ttl, Wanted, Way};
use crate::state::Store;
use crate::task::Options;
use crate::types::{DataType, Schema};
use crate::window::Windows;

/// Where a node's port leads: (physical node, its input, bits to set in `path`).
pub type Route = (usize, usize, u32);

pub struct Physical {
    pub name: Arc<str>,
    /// Names the node's state in stored formats. A sending end shares its aggregate's name, and may share its task.
    pub state_id: u64,
    pub operator: Box<dyn Operator>,
    pub routes: Vec<Vec<Route>>,
}

pub enum SourceKind {
    /// A user topic: records are decoded and enter at `node`.
    User {
        decoder: JsonDecoder,
        /// The callable that makes JSON of what is no JSON.
        decode: Option<usize>,
        schema: Arc<Schema>,
        timestamp: Option<usize>,
        max_ahead_ms: Option<i64>,
        routes: Vec<Route>,
        name: Arc<str>,
    },
    /// An edge: frames are opened by the source and its messages enter at `node`.
    Edge { source: EdgeSource, routes: Vec<Route>, name: Arc<str> },
    /// A topic of a record flow, user's or internal: records enter the flow, the physical node `unit`, one by one.
    Records { source: FlowSource, unit: usize },
}

pub struct Lowered {
    pub sources: BTreeMap<String, SourceKind>,
    pub nodes: Vec<Physical>,
}

/// What a node's state means: another meaning under the same name is refused, not silently taken over.
fn meaning(plan: &Plan, id: usize) -> String {
    match &plan.nodes[id].op {
        Op::Aggregate { keys, window, aggregates, ttl_ms, .. } => {
            let text = |e: &Option<Expr>| serde_json::to_string(e).unwrap_or_default();
            let folds: Vec<_> =
                aggregates.iter().map(|a| (&a.name, &a.function, &a.dtype, text(&a.arg), text(&a.condition))).collect();
            let beside: String = aggregates.iter().map(AggregateSpec::more).collect();
            // Grace and retention may change: they say how long state matters, not what it is.
            let size = window.as_ref().map(|w| (&w.kind, w.size_ms));
            let more = window.as_ref().map_or(String::new(), WindowSpec::more);
            let lives = ttl_ms.map_or(String::new(), |ms| format!(" ttl {ms}"));
            format!("{keys:?} {size:?}{more}{lives} {folds:?}{beside}")
        }
        Op::Deduplicate { columns, .. } => format!("{columns:?}"),
        _ => String::new(),
    }
}

/// The same as people read it, part by part, and with the types of what is stored; none: it has no state of its own. An
/// application is held against it when it starts.
pub fn spelled_meaning(plan: &Plan, id: usize) -> Vec<(String, String)> {
    let node = &plan.nodes[id];
    let input = || plan.facts[node.inputs[0].0].ports[node.inputs[0].1].clone();
    let typed = |columns: &[String]| {
        let schema = input();
        let dtype =
            |c: &String| schema.fields.iter().find(|f| f.name == *c).map_or(String::new(), |f| f.dtype.to_string());
        columns.iter().map(|c| format!("{c}: {}", dtype(c))).collect::<Vec<_>>().join(", ")
    };
    match &node.op {
        Op::Aggregate { keys, window, aggregates, ttl_ms, .. } => {
            let schema = input();
            // Grace and retention may change: they say how long state matters, not what it is.
            let size =
                window.as_ref().map_or("none".to_string(), |w| format!("{} {} ms{}", w.kind, w.size_ms, w.more()));
            let mut parts = vec![("key".to_string(), typed(keys)), ("window".to_string(), size)];
            parts.extend(ttl_ms.map(|ms| ("ttl".to_string(), format!("{ms} ms"))));
            for a in aggregates {
                let text = |e: &Expr| serde_json::to_string(e).unwrap_or_default();
                let input = a
                    .arg
                    .as_ref()
                    .and_then(|e| compile(e, &schema).ok())
                    .map_or(String::new(), |e| e.dtype.to_string());
                let output = a.dtype.as_ref().map_or(String::new(), |t| format!(" as {t}"));
                let of = a.arg.as_ref().map_or(String::new(), |e| format!(" of {}", text(e)));
                let condition = a.condition.as_ref().map_or(String::new(), |e| format!(" where {}", text(e)));
                parts.push((a.name.clone(), format!("{}({input}){output}{of}{}{condition}", a.function, a.more())));
            }
            parts
        }
        Op::Deduplicate { columns, .. } => vec![("columns".to_string(), typed(columns))],
        Op::Flow { kind, .. } => {
            let stores = node.op.texts("stores");
            let told = stores.iter().filter_map(|name| plan.stores.iter().find(|s| s.name == **name));
            let mut parts: Vec<_> = told.map(|s| (s.name.to_string(), s.meaning())).collect();
            if !parts.is_empty() {
                parts.insert(0, ("operation".to_string(), kind.clone()));
            }
            parts
        }
        _ => vec![],
    }
}

/// What an edge's frames mean: the columns, and how they are folded.
fn edge_hash(plan: &Plan, aggregate: usize, schema: &Schema) -> u64 {
    let spec = meaning(plan, aggregate);
    schema_hash(&format!(
        "{spec} {} {}",
        plan.facts[aggregate].combined,
        serde_json::to_string(schema).unwrap_or_default()
    ))
}

/// Builds the operators of one task. `partitions`: of each topic of the plan, by index.
pub fn lower(
    plan: &Plan,
    subtopology: usize,
    partition: u32,
    partitions: &[u32],
    options: Options,
    globals: &Arc<Globals>,
) -> Result<Lowered, PlanError> {
    let sub = &plan.subtopologies[subtopology];
    let mut lowered = Lowered { sources: BTreeMap::new(), nodes: vec![] };
    // Logical node -> physical index; shuffled aggregates fed from here get a sending end of their own.
    let mut physical: BTreeMap<usize, usize> = BTreeMap::new();
    let mut sending: BTreeMap<usize, usize> = BTreeMap::new();
    // A node of a flow -> the physical node that its flow is, and its input or port there.
    let mut islands: BTreeMap<usize, (usize, usize)> = BTreeMap::new();
    for unit in units(plan, subtopology)? {
        let (id, feeds) = match unit {
            Unit::Node(id) => (id, false),
            Unit::Sender(id) => (id, true),
            Unit::Flow(ids) => {
                let index = lowered.nodes.len();
                let (flow, sources) = crate::flow::build(plan, &ids, options, globals)?;
                for (topic, source) in sources {
                    lowered.sources.insert(topic, SourceKind::Records { source, unit: index });
                }
                let places = |at: Vec<usize>| at.into_iter().enumerate().map(|(i, node)| (ids[node], (index, i)));
                islands.extend(places(flow.entries.iter().map(|e| e.node).collect()));
                islands.extend(places(flow.exits.iter().map(|e| e.node).collect()));
                // Its stores have ids of their own; this one is of small state, which new and lost nodes do not confuse.
                let state_id = schema_hash(&format!("flow of {}", plan.nodes[ids[0]].name));
                let operator: Box<dyn Operator> = Box::new(flow);
                lowered.nodes.push(Physical { name: Arc::from("flow"), state_id, operator, routes: vec![] });
                continue;
            }
        };
        let node = &plan.nodes[id];
        let operator = match feeds {
            true => sender(plan, id, partition, partitions)?,
            false => operator(plan, id, partitions, options)?,
        };
        let index = lowered.nodes.len();
        let state_id = schema_hash(&format!("{}{} {}", node.name, if feeds { ">" } else { "" }, meaning(plan, id)));
        lowered.nodes.push(Physical { name: Arc::from(node.name.as_str()), state_id, operator, routes: vec![] });
        if feeds { &mut sending } else { &mut physical }.insert(id, index);
    }
    let route = |id: usize| -> Vec<Vec<Route>> {
        let facts = &plan.facts[id];
        let mut child = 0u32;
        facts
            .readers
            .iter()
            .map(|readers| {
                readers
                    .iter()
                    .filter_map(|&(reader, input)| {
                        let path = facts.fork_shift.map_or(0, |shift| child << shift);
                        child += 1;
                        if let Some(&(unit, entry)) = islands.get(&reader) {
                            return Some((unit, entry, path));
                        }
                        let target = match plan.facts[reader].shuffled {
                            true => sending.get(&reader),
                            false => physical.get(&reader),
                        };
                        target.map(|&t| (t, input, path))
                    })
                    .collect()
            })
            .collect()
    };
    for (&id, &index) in &physical {
        lowered.nodes[index].routes = route(id);
    }
    for (&id, &(unit, port)) in islands.iter().filter(|i| plan.nodes[*i.0].op.is_flow("to_rows")) {
        let routes = &mut lowered.nodes[unit].routes;
        routes.resize(routes.len().max(port + 1), vec![]);
        routes[port] = route(id).pop().unwrap_or_default();
    }
    for &id in &sub.nodes {
        let node = &plan.nodes[id];
        let name: Arc<str> = Arc::from(node.name.as_str());
        if let Op::Source { topic, fields, timestamp, max_ahead_ms, decode, .. } = &node.op {
            let schema = plan.working_schema(id, 0);
            let used = fields.iter().filter(|f| schema.index(&f.name).is_some());
            let decoder = JsonDecoder::new(used.map(|f| f.decoder_field()).collect::<Result<_, _>>()?)?;
            let timestamp = timestamp.as_ref().map(|t| column(&schema, t)).transpose()?;
            let routes = route(id).pop().unwrap_or_default();
            lowered.sources.insert(
                topic.clone(),
                SourceKind::User {
                    decoder,
                    decode: *decode,
                    schema,
                    timestamp,
                    max_ahead_ms: *max_ahead_ms,
                    routes,
                    name: name.clone(),
                },
            );
        }
        if plan.facts[id].shuffled {
            let (from, port) = node.inputs[0];
            let schema = plan.working_schema(from, port);
            let hash = edge_hash(plan, id, &schema);
            let lanes = lanes(plan, plan.subtopology_of(from), partitions);
            let topic = plan.edge_topic(id);
            let source = EdgeSource::new(Arc::from(topic.as_str()), schema, hash, lanes, options.exactly_once);
            lowered.sources.insert(topic, SourceKind::Edge { source, routes: vec![(physical[&id], 0, 0)], name });
        }
    }
    Ok(lowered)
}

/// What becomes one physical node.
enum Unit {
    Node(usize),
    /// The sending end of a shuffle.
    Sender(usize),
    /// Nodes that work record by record and are connected, or share stores.
    Flow(Vec<usize>),
}

/// The units of a sub-topology, each behind all that it takes from.
fn units(plan: &Plan, subtopology: usize) -> Result<Vec<Unit>, PlanError> {
    let sub = &plan.subtopologies[subtopology];
    let is_flow = |id: usize| matches!(plan.nodes[id].op, Op::Flow { .. });
    // The smallest node of the flow that a node belongs to.
    let mut flow_of: BTreeMap<usize, usize> = BTreeMap::new();
    let mut users: BTreeMap<String, usize> = BTreeMap::new();
    for &id in sub.nodes.iter().filter(|&&id| is_flow(id)) {
        let mut joined: Vec<usize> = vec![id];
        joined.extend(plan.nodes[id].inputs.iter().filter_map(|i| flow_of.get(&i.0).copied()));
        for store in plan.nodes[id].op.texts("stores") {
            let first = *users.entry(store).or_insert(id);
            joined.extend(flow_of.get(&first).copied());
        }
        let root = joined.iter().copied().min().unwrap_or(id);
        flow_of.insert(id, root);
        flow_of.values_mut().filter(|r| joined.contains(r)).for_each(|r| *r = root);
    }
    let mut waiting: BTreeMap<usize, Unit> = BTreeMap::new();
    for &id in &sub.nodes {
        match flow_of.get(&id) {
            Some(&root) => match waiting.entry(2 * root).or_insert_with(|| Unit::Flow(vec![])) {
                Unit::Flow(ids) => ids.push(id),
                _ => return Err(PlanError::new("bad_plan", "a flow begins where something else is").at(id)),
            },
            None if matches!(plan.nodes[id].op, Op::Source { .. }) => {}
            None => {
                waiting.insert(2 * id, Unit::Node(id));
            }
        }
    }
    waiting.extend(sub.feeds.iter().map(|&id| (2 * id + 1, Unit::Sender(id))));
    let taken_from = |unit: &Unit| -> Vec<usize> {
        let (ids, inside): (Vec<usize>, bool) = match unit {
            Unit::Node(id) if plan.facts[*id].shuffled => (vec![], false),
            Unit::Node(id) | Unit::Sender(id) => (vec![*id], false),
            Unit::Flow(ids) => (ids.clone(), true),
        };
        let inputs = ids.iter().flat_map(|&id| plan.nodes[id].inputs.iter().map(|i| i.0));
        let outside = inputs.filter(|from| !(inside && ids.contains(from)));
        outside.map(|from| 2 * flow_of.get(&from).copied().unwrap_or(from)).collect()
    };
    let mut ordered = vec![];
    while !waiting.is_empty() {
        let ready = waiting.iter().find(|(_, unit)| taken_from(unit).iter().all(|from| !waiting.contains_key(from)));
        let Some(next) = ready.map(|(&at, _)| at) else {
            let id = waiting.keys().next().map_or(0, |at| at / 2);
            return Err(PlanError::new("bridge_loop", "rows come back into the records that they were made of")
                .hint("go through a topic in between: `.repartition()`")
                .at(id));
        };
        ordered.extend(waiting.remove(&next));
    }
    Ok(ordered)
}

/// How many tasks a sub-topology has: the widest of its inputs.
pub fn lanes(plan: &Plan, subtopology: usize, partitions: &[u32]) -> usize {
    let count = |topic: usize| partitions.get(topic).copied().unwrap_or(1) as usize;
    feeds(plan, subtopology).into_iter().map(count).max().unwrap_or(1)
}

/// The topics that a sub-topology reads, by their places in the plan.
pub fn feeds(plan: &Plan, subtopology: usize) -> Vec<usize> {
    let read = plan.subtopologies[subtopology].nodes.iter().flat_map(|&n| match &plan.nodes[n].op {
        Op::Source { topic, .. } => vec![topic.clone()],
        Op::Aggregate { .. } if plan.facts[n].shuffled => vec![plan.edge_topic(n)],
        op => op.flow_sources().into_iter().map(|(topic, _)| topic).collect(),
    });
    read.map(|topic| plan.topic(&topic)).collect()
}

fn aggregate_fold(plan: &Plan, id: usize) -> Result<(Fold, Store, Vec<DataType>), PlanError> {
    let node = &plan.nodes[id];
    let Op::Aggregate { keys, window, aggregates, ttl_ms, .. } = &node.op else {
        return Err(PlanError::new("bad_plan", "not an aggregate"));
    };
    let (from, port) = node.inputs[0];
    let schema = plan.working_schema(from, port);
    let (layout, arguments) = aggregate_parts(aggregates, &schema, plan.facts[id].of_table)?;
    let keys: Vec<usize> = keys.iter().map(|k| column(&schema, k)).collect::<Result<_, _>>()?;
    let types = keys.iter().map(|&k| schema.fields[k].dtype.widened()).collect();
    let window = window.as_ref().map(WindowSpec::windows).transpose()?;
    let layout = if ttl_ms.is_some() { layout.with_span() } else { layout };
    let ttl = ttl_ms.map(|ms| Ttl { ms, partial: false });
    Ok((Fold { keys, window, arguments, slices: None, ttl }, Store::new(layout), types))
}

/// The length of the slices by which partial results of windows that overlap cross a shuffle.
fn slices(plan: &Plan, id: usize, fold: &Fold) -> Option<i64> {
    fold.window.as_ref().filter(|_| plan.facts[id].combined).and_then(Windows::slice_ms)
}

/// The sending end of a shuffle.
fn sender(plan: &Plan, id: usize, partition: u32, partitions: &[u32]) -> Result<Box<dyn Operator>, PlanError> {
    let (from, port) = plan.nodes[id].inputs[0];
    let schema = plan.working_schema(from, port);
    let (mut fold, store, key_types) = aggregate_fold(plan, id)?;
    fold.slices = slices(plan, id, &fold);
    fold.ttl.iter_mut().for_each(|ttl| ttl.partial = true);
    // Where lives end it matters as much how far the lane has come.
    let window = fold.window.clone().or(fold.ttl.map(|ttl| Windows::tumbling(ttl.ms, 0, ttl.ms)));
    let topic = plan.topic(&plan.edge_topic(id));
    let count = partitions.get(topic).copied().unwrap_or(1);
    let out =
        EdgeOut::new(topic, partition, edge_hash(plan, id, &schema), window, count).idle_after(plan.facts[id].idle_ms);
    Ok(match plan.facts[id].combined {
        true => Box::new(Combine::new(out, fold, key_types, !plan.facts[id].readers[2].is_empty(), store)),
        false => Box::new(Ship { out, fold }),
    })
}

/// Whether what an aggregate's closed windows tell may come behind what later rows do: nobody can tell if, on its way to a
/// topic of its own or to a shuffle, it meets nothing else, neither where streams meet nor in a record flow.
fn one_order(plan: &Plan, id: usize) -> bool {
    let alone = |topic: &String| {
        let written = plan.nodes.iter().filter(|n| match &n.op {
            Op::ToTopic { topic: other, .. } => other == topic,
            // One that is computed, and not one of a list, may be this one.
            op => op.is_flow("to") && (op.texts("topics").is_empty() || op.texts("topics").contains(topic)),
        });
        written.count() == 1
    };
    let mut ahead = vec![(id, 1)];
    while let Some((from, port)) = ahead.pop() {
        for &(reader, _) in &plan.facts[from].readers[port] {
            let node = &plan.nodes[reader];
            match &node.op {
                Op::Flow { .. } => return false,
                _ if node.inputs.len() > 1 => return false,
                Op::ToTopic { topic, .. } if !alone(topic) => return false,
                // The frames of a shuffle are those of its aggregate alone.
                Op::Aggregate { .. } if plan.facts[reader].shuffled => {}
                _ => ahead.extend((0..plan.facts[reader].readers.len()).map(|port| (reader, port))),
            }
        }
    }
    true
}

/// Whether something behind these changes subtracts old values.
fn reads_old(plan: &Plan, id: usize, port: usize) -> bool {
    plan.facts[id].readers[port].iter().any(|&(reader, _)| match &plan.nodes[reader].op {
        Op::Aggregate { .. } => true,
        Op::WithColumns { .. } | Op::Select { .. } => reads_old(plan, reader, 0),
        _ => false,
    })
}

fn operator(plan: &Plan, id: usize, partitions: &[u32], options: Options) -> Result<Box<dyn Operator>, PlanError> {
    let node = &plan.nodes[id];
    let facts = &plan.facts[id];
    let (from, port) = node.inputs[0];
    let input = plan.working_schema(from, port);
    Ok(match &node.op {
        Op::Source { .. } | Op::Flow { .. } => return Err(PlanError::new("bad_plan", "a source is not an operator")),
        Op::Filter { expr, reason } => Box::new(Filter {
            condition: boolean(expr, &input)?,
            reason: reason.clone().unwrap_or_else(|| node.name.clone()),
        }),
        Op::Require { rules } => Box::new(Require {
            rules: rules
                .iter()
                .map(|(reason, e)| Ok((reason.clone(), boolean(e, &input)?)))
                .collect::<Result<_, PlanError>>()?,
        }),
        Op::WithColumns { exprs } | Op::Select { exprs } => {
            let schema = plan.working_schema(id, 0);
            let columns = schema
                .fields
                .iter()
                .map(|f| {
                    Ok(match exprs.iter().rev().find(|(name, _)| *name == f.name) {
                        Some((_, e)) => ProjectColumn::Computed(compile(e, &input)?),
                        None => ProjectColumn::Input(column(&input, &f.name)?),
                    })
                })
                .collect::<Result<_, PlanError>>()?;
            Box::new(Project { schema, columns })
        }
        Op::Map { function, schema } | Op::MapBatches { function, schema } | Op::MapAsync { function, schema, .. } => {
            Box::new(Map {
                function: *function,
                schema: Arc::new(schema.clone()),
                way: match node.op {
                    Op::MapBatches { .. } => Way::Batches,
                    Op::MapAsync { .. } => Way::Together,
                    _ => Way::OneByOne,
                },
            })
        }
        Op::Branch { exprs } => {
            Box::new(Branch { conditions: exprs.iter().map(|e| boolean(e, &input)).collect::<Result<_, _>>()? })
        }
        Op::Merge => {
            let schema = plan.working_schema(id, 0);
            let columns = node
                .inputs
                .iter()
                .map(|&(from, port)| {
                    let input = plan.working_schema(from, port);
                    schema.fields.iter().map(|f| column(&input, &f.name)).collect()
                })
                .collect::<Result<_, _>>()?;
            Box::new(Merge { schema, columns, held: vec![] })
        }
        Op::Deduplicate { columns, within_ms } => {
            let columns = columns.iter().map(|c| column(&input, c)).collect::<Result<_, _>>()?;
            Box::new(Deduplicate::new(columns, *within_ms))
        }
        Op::Aggregate { .. } => {
            let (fold, store, key_types) = aggregate_fold(plan, id)?;
            let wanted = Wanted {
                changes: !facts.readers[0].is_empty(),
                old: reads_old(plan, id, 0),
                last: !facts.readers[1].is_empty(),
                late: !facts.readers[2].is_empty(),
            };
            let lanes = match facts.shuffled {
                true => lanes(plan, plan.subtopology_of(from), partitions),
                // Everything this task reads is one lane, as in Kafka Streams.
                false => 1,
            };
            let sliced = slices(plan, id, &fold).is_some();
            let (schema, late) = (plan.working_schema(id, 0), plan.working_schema(id, 2));
            let mut aggregate = Aggregate::new(fold, store.layout, key_types, schema, late, wanted, lanes);
            aggregate.sliced = sliced;
            Box::new(aggregate.at_once(one_order(plan, id).then_some(options.closing_rows)))
        }
        Op::ToStream => Box::new(ToStream),
        Op::ToTopic { topic, key, columns, encode } => {
            let keys: Vec<usize> = key.iter().flatten().map(|k| column(&input, k)).collect::<Result<_, _>>()?;
            let mut read: Vec<usize> = columns.iter().map(|c| column(&input, c)).collect::<Result<_, _>>()?;
            read.extend(&keys);
            let encoder = JsonEncoder::new(&input, columns);
            Box::new(ToTopic { topic: plan.topic(topic), keys, read, encoder, encode: *encode })
        }
        Op::Sink { columns, .. } => {
            let info = plan.sinks.iter().find(|s| s.name == node.name);
            let info = info.ok_or_else(|| PlanError::new("bad_plan", "a sink without a topic"))?;
            Box::new(SinkRows {
                topic: plan.topic(&info.topic),
                columns: columns.iter().map(|c| column(&input, c)).collect::<Result<_, _>>()?,
                schema: info.schema_hash,
                sequence: 0,
            })
        }
    })
}
