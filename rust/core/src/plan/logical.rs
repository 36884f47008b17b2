//! What was said, checked: schemas of every port, the columns somebody reads, where keys change, where to cut.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::aggregate::{Layout, Spec};
use crate::codec::{JsonField, TimeUnit};
use crate::error::PlanError;
use crate::expr::{compile, Compiled, Expr};
use crate::flow::{GlobalSpec, StoreSpec};
use crate::frame::schema_hash;
use crate::types::{DataType, Field, Schema};
use crate::window::Windows;

#[derive(Clone, Debug, Deserialize)]
pub struct FieldSpec {
    pub name: String,
    #[serde(rename = "type")]
    pub dtype: DataType,
    #[serde(default)]
    pub nullable: bool,
    #[serde(default)]
    pub path: Option<Vec<String>>,
    #[serde(default)]
    pub unit: Option<String>,
    #[serde(default)]
    pub zone: Option<String>,
    #[serde(default)]
    pub default: Option<String>,
}

impl FieldSpec {
    pub fn decoder_field(&self) -> Result<JsonField, PlanError> {
        let unit = match self.unit.as_deref() {
            None | Some("rfc3339") => TimeUnit::Rfc3339,
            Some("s") => TimeUnit::Seconds,
            Some("ms") => TimeUnit::Millis,
            Some("us") => TimeUnit::Micros,
            Some(other) => {
                return Err(PlanError::new("bad_unit", format!("`{}`: no time unit `{other}`", self.name))
                    .hint("rfc3339, s, ms or us"))
            }
        };
        Ok(JsonField {
            name: self.name.clone(),
            path: self.path.clone().unwrap_or_else(|| vec![self.name.clone()]),
            dtype: self.dtype.clone(),
            nullable: self.nullable,
            unit,
            zone: self.zone.clone(),
            content_id: self.default.as_deref() == Some("content_id"),
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct WindowSpec {
    pub kind: String,
    pub size_ms: i64,
    /// Of `hopping` windows.
    #[serde(default)]
    pub advance_ms: Option<i64>,
    /// Of `civil` windows, which are a day or a week long.
    #[serde(default)]
    pub zone: Option<String>,
    pub grace_ms: i64,
    pub retention_ms: i64,
}

const DAY_MS: i64 = 86_400_000;

impl WindowSpec {
    pub fn windows(&self) -> Result<Windows, PlanError> {
        let WindowSpec { size_ms, advance_ms, grace_ms, retention_ms, .. } = *self;
        if size_ms <= 0 || grace_ms < 0 || retention_ms < size_ms + grace_ms {
            return Err(PlanError::new(
                "bad_window",
                "a window needs a positive size, a grace of at least zero, and a retention of at least size + grace",
            ));
        }
        match (self.kind.as_str(), advance_ms, &self.zone) {
            ("tumbling", None, None) => Ok(Windows::tumbling(size_ms, grace_ms, retention_ms)),
            ("hopping", Some(advance_ms), None) if advance_ms <= 0 || advance_ms > size_ms => {
                Err(PlanError::new("bad_window", "windows advance by more than nothing and by their size at most"))
            }
            ("hopping", Some(advance_ms), None) => Ok(Windows::hopping(size_ms, advance_ms, grace_ms, retention_ms)),
            ("civil", None, Some(zone)) if size_ms == DAY_MS || size_ms == 7 * DAY_MS => {
                Windows::civil(zone, size_ms > DAY_MS, grace_ms, retention_ms).ok_or_else(|| {
                    PlanError::new("bad_zone", format!("unknown time zone `{zone}`"))
                        .hint("write one like \"Asia/Seoul\"")
                })
            }
            (kind, ..) => Err(PlanError::new("unknown_window", format!("there is no such window `{kind}`"))
                .hint("tumbling, hopping with an advance, or civil: days or weeks of a time zone")),
        }
    }
    /// What else than kind and size the stored groups rest on.
    pub fn more(&self) -> String {
        let advance = self.advance_ms.map_or(String::new(), |ms| format!(" every {ms} ms"));
        let zone = self.zone.as_ref().map_or(String::new(), |zone| format!(" in {zone}"));
        advance + &zone
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct AggregateSpec {
    pub name: String,
    #[serde(rename = "fn")]
    pub function: String,
    #[serde(default)]
    pub arg: Option<Expr>,
    #[serde(default, rename = "where")]
    pub condition: Option<Expr>,
    #[serde(default, rename = "type")]
    pub dtype: Option<DataType>,
    #[serde(default, rename = "function")]
    pub callable: Option<usize>,
    /// What it is ordered by, first things first.
    #[serde(default)]
    pub by: Vec<OrderBy>,
    /// `k` of `top_k`, `q` of `quantile`, `ddof` of `var` and `std`.
    #[serde(default)]
    pub parameter: Option<f64>,
    /// Of `quantile`: the relative error.
    #[serde(default)]
    pub error: Option<f64>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OrderBy {
    pub expr: Expr,
    #[serde(default)]
    pub descending: bool,
}

impl AggregateSpec {
    fn exprs(&self) -> impl Iterator<Item = &Expr> {
        self.arg.iter().chain(self.condition.iter()).chain(self.by.iter().map(|by| &by.expr))
    }
    /// What it does beside its function, argument and condition, for whoever compares meanings; nothing for most.
    pub fn more(&self) -> String {
        let parameter = self.parameter.map_or(String::new(), |p| format!(" {p}"));
        let error = self.error.map_or(String::new(), |e| format!(" within {e}"));
        let by = match self.by.is_empty() {
            true => String::new(),
            false => format!(" by {}", serde_json::to_string(&self.by).unwrap_or_default()),
        };
        parameter + &error + &by
    }
}

fn yes() -> bool {
    true
}

/// A node's parameters; see docs/plan.md.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Op {
    Source {
        topic: String,
        #[serde(default)]
        format: Option<String>,
        /// The callable that makes JSON of payloads in another format.
        #[serde(default)]
        decode: Option<usize>,
        fields: Vec<FieldSpec>,
        #[serde(default)]
        timestamp: Option<String>,
        #[serde(default)]
        key: Option<Vec<String>>,
        #[serde(default)]
        max_ahead_ms: Option<i64>,
        #[serde(default)]
        idle_ms: Option<i64>,
    },
    Filter {
        expr: Expr,
        #[serde(default)]
        reason: Option<String>,
    },
    Require {
        rules: Vec<(String, Expr)>,
    },
    WithColumns {
        exprs: Vec<(String, Expr)>,
    },
    Select {
        exprs: Vec<(String, Expr)>,
    },
    Map {
        function: usize,
        schema: Schema,
    },
    MapBatches {
        function: usize,
        schema: Schema,
    },
    MapAsync {
        function: usize,
        schema: Schema,
        /// So many rows are waited for at once, at most.
        rows_max: usize,
    },
    Branch {
        exprs: Vec<Expr>,
    },
    Merge,
    Deduplicate {
        columns: Vec<String>,
        within_ms: i64,
    },
    Aggregate {
        keys: Vec<String>,
        #[serde(default)]
        window: Option<WindowSpec>,
        aggregates: Vec<AggregateSpec>,
        #[serde(default = "yes")]
        combine: bool,
        #[serde(default)]
        ttl_ms: Option<i64>,
    },
    ToStream,
    ToTopic {
        topic: String,
        #[serde(default)]
        key: Option<Vec<String>>,
        columns: Vec<String>,
        /// The callable that makes another format of JSON.
        #[serde(default)]
        encode: Option<usize>,
    },
    Sink {
        kind: String,
        key: Vec<String>,
        columns: Vec<String>,
        #[serde(default)]
        options: serde_json::Value,
    },
    /// An operator that works record by record; see `flow/build.rs` for kinds and their parameters.
    Flow {
        kind: String,
        #[serde(flatten)]
        parameters: serde_json::Map<String, serde_json::Value>,
    },
}

impl Op {
    /// A text or a list of texts among the parameters of a flow's node.
    pub fn texts(&self, name: &str) -> Vec<String> {
        let Op::Flow { parameters, .. } = self else { return vec![] };
        match parameters.get(name) {
            Some(serde_json::Value::String(text)) => vec![text.clone()],
            Some(serde_json::Value::Array(items)) => {
                items.iter().filter_map(|i| i.as_str().map(str::to_string)).collect()
            }
            _ => vec![],
        }
    }
    /// A whole number among them.
    pub fn number(&self, name: &str) -> Option<u64> {
        let Op::Flow { parameters, .. } = self else { return None };
        parameters.get(name)?.as_u64()
    }
    pub fn flag(&self, name: &str) -> bool {
        matches!(self, Op::Flow { parameters, .. } if parameters.get(name) == Some(&serde_json::Value::Bool(true)))
    }
    pub fn is_flow(&self, of: &str) -> bool {
        matches!(self, Op::Flow { kind, .. } if kind == of)
    }
    /// The topics that a flow's source reads: (topic, whether the application writes it for itself).
    pub fn flow_sources(&self) -> Vec<(String, bool)> {
        match self.is_flow("source") {
            true => self.texts("topics").into_iter().map(|t| (t, self.flag("internal"))).collect(),
            false => vec![],
        }
    }
    /// The same of what it writes.
    pub fn flow_targets(&self) -> Vec<(String, bool)> {
        match self.is_flow("to") {
            true => self.texts("topics").into_iter().map(|t| (t, self.flag("internal"))).collect(),
            false => vec![],
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Node {
    pub id: usize,
    pub name: String,
    #[serde(default)]
    pub inputs: Vec<(usize, usize)>,
    #[serde(default)]
    pub line: Option<String>,
    #[serde(flatten)]
    pub op: Op,
}

#[derive(Clone, Debug, Deserialize)]
struct Document {
    app: String,
    nodes: Vec<Node>,
    #[serde(default)]
    stores: Vec<StoreSpec>,
    #[serde(default)]
    globals: Vec<GlobalSpec>,
    #[serde(default)]
    starts: BTreeMap<String, serde_json::Value>,
}

/// What is known of a node after checking.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// Columns of each output port, all of them.
    pub ports: Vec<Arc<Schema>>,
    /// Columns of each port that somebody reads, in the port's order.
    pub needed: Vec<Arc<Schema>>,
    /// The columns by which the rows are partitioned, if known.
    pub partitioned_by: Option<Vec<String>>,
    /// The rows are changes of a table.
    pub table: bool,
    /// An aggregate of a table.
    pub of_table: bool,
    /// An aggregate that needs a shuffle before it.
    pub shuffled: bool,
    /// Whether partials are formed before that shuffle.
    pub combined: bool,
    /// An aggregate with windows behind a shuffle: how long a lane is silent until it is idle, if it may be.
    pub idle_ms: Option<i64>,
    /// The sources that rows come from.
    pub sources: BTreeSet<usize>,
    pub readers: Vec<Vec<(usize, usize)>>,
    /// Distance, in forks, from the source (see `Batch::path`).
    pub fork_shift: Option<u32>,
}

#[derive(Clone, Debug)]
pub struct SinkInfo {
    pub name: String,
    pub kind: String,
    pub topic: String,
    pub key: Vec<String>,
    pub schema: Arc<Schema>,
    pub schema_hash: u64,
    pub options: serde_json::Value,
    pub subtopology: usize,
}

#[derive(Clone, Debug)]
pub struct SubTopology {
    /// Logical nodes that run here, ascending. A shuffled aggregate runs where its rows arrive.
    pub nodes: Vec<usize>,
    /// Shuffled aggregates fed from here.
    pub feeds: Vec<usize>,
    pub stateful: bool,
}

/// A checked topology.
pub struct Plan {
    pub app: String,
    pub nodes: Vec<Node>,
    pub facts: Vec<Facts>,
    pub subtopologies: Vec<SubTopology>,
    /// Every topic, user's and internal, by index.
    pub topics: Vec<String>,
    pub sinks: Vec<SinkInfo>,
    /// Stores of record flows.
    pub stores: Vec<StoreSpec>,
    /// Tables of record flows that every worker has whole.
    pub globals: Vec<GlobalSpec>,
    /// Where topics are read from that have no committed position, as the host understands it.
    pub starts: BTreeMap<String, serde_json::Value>,
    /// Whether rows that went different ways meet again, in a merge or as records of one flow: they carry their way along.
    pub has_merge: bool,
    /// Text of the whole plan, hashed.
    pub hash: u64,
}

fn bad_plan(text: impl Into<String>) -> PlanError {
    PlanError::new("bad_plan", text)
}

/// A column of `schema`, or the error every operation gives for a name that is none.
pub fn column(schema: &Schema, name: &str) -> Result<usize, PlanError> {
    schema.index(name).ok_or_else(|| {
        let names: Vec<&str> = schema.fields.iter().map(|f| f.name.as_str()).collect();
        PlanError::new("unknown_column", format!("there is no column `{name}`"))
            .hint(format!("columns here: {}", names.join(", ")))
    })
}

impl Plan {
    pub fn parse(text: &str) -> Result<Plan, PlanError> {
        let document: Document =
            serde_json::from_str(text).map_err(|e| bad_plan(format!("the plan is not one: {e}")))?;
        let mut plan = Plan {
            app: document.app,
            facts: vec![],
            subtopologies: vec![],
            topics: vec![],
            sinks: vec![],
            stores: document.stores,
            globals: document.globals,
            starts: document.starts,
            has_merge: document.nodes.iter().any(|n| matches!(n.op, Op::Merge))
                || document.nodes.iter().filter(|n| n.op.is_flow("from_rows")).count() > 1,
            hash: schema_hash(text),
            nodes: document.nodes,
        };
        plan.check_shape()?;
        for id in 0..plan.nodes.len() {
            let facts = plan.check_node(id).map_err(|e| e.at(id))?;
            plan.facts.push(facts);
        }
        plan.check_idle()?;
        plan.find_readers();
        plan.find_needed()?;
        plan.find_forks()?;
        plan.cut();
        plan.name_topics();
        Ok(plan)
    }

    fn check_shape(&self) -> Result<(), PlanError> {
        let mut topics = BTreeSet::new();
        let mut names = BTreeSet::new();
        for (i, node) in self.nodes.iter().enumerate() {
            if node.id != i || node.inputs.iter().any(|&(n, _)| n >= i) {
                return Err(bad_plan("nodes are numbered in topological order").at(i));
            }
            if !names.insert(&node.name) {
                return Err(PlanError::new("duplicate_name", format!("two operations are called `{}`", node.name))
                    .hint("give one of them another name with .named(\"…\")")
                    .at(i));
            }
            let mut read = node.op.flow_sources().into_iter().map(|t| t.0).collect::<Vec<_>>();
            if let Op::Source { topic, .. } = &node.op {
                read.push(topic.clone());
            }
            for topic in read {
                if !topics.insert(topic.clone()) {
                    return Err(PlanError::new("duplicate_source", format!("topic `{topic}` is read by two sources"))
                        .hint("read it once and use the stream twice")
                        .at(i));
                }
            }
            let inputs = match &node.op {
                Op::Source { .. } => node.inputs.is_empty(),
                Op::Merge => node.inputs.len() > 1,
                Op::Flow { .. } => true,
                _ => node.inputs.len() == 1,
            };
            if !inputs {
                return Err(bad_plan(format!("`{}` has the wrong number of inputs", node.name)).at(i));
            }
        }
        Ok(())
    }

    fn input_schema(&self, node: &Node) -> Result<Arc<Schema>, PlanError> {
        self.port_schema(node.inputs[0])
    }

    fn port_schema(&self, (node, port): (usize, usize)) -> Result<Arc<Schema>, PlanError> {
        self.facts[node]
            .ports
            .get(port)
            .cloned()
            .ok_or_else(|| bad_plan(format!("`{}` has no port {port}", self.nodes[node].name)))
    }

    fn check_node(&self, id: usize) -> Result<Facts, PlanError> {
        let node = &self.nodes[id];
        let mut facts = Facts::default();
        if let Some(&(from, port)) = node.inputs.first() {
            // Only the changes port of an aggregate carries changes.
            let from_aggregate = matches!(self.nodes[from].op, Op::Aggregate { .. });
            facts.table = self.facts[from].table && (!from_aggregate || port == 0);
            facts.partitioned_by = self.facts[from].partitioned_by.clone();
        }
        facts.sources = node.inputs.iter().flat_map(|&(from, _)| self.facts[from].sources.iter().copied()).collect();
        match &node.op {
            Op::Source { fields, timestamp, key, format, decode, .. } => {
                if decode.is_none() && format.as_deref().is_some_and(|f| f != "json") {
                    return Err(PlanError::new("unknown_format", "only `json` is read without a callable"));
                }
                for field in fields {
                    field.decoder_field()?;
                }
                let schema = Schema {
                    fields: fields.iter().map(|f| Field { name: f.name.clone(), dtype: f.dtype.clone() }).collect(),
                };
                if let Some(name) = timestamp {
                    let i = column(&schema, name)?;
                    if schema.fields[i].dtype != DataType::Timestamp {
                        return Err(PlanError::new(
                            "type_mismatch",
                            format!("`timestamp=\"{name}\"`: the column is `{}`", schema.fields[i].dtype),
                        )
                        .hint("declare it as a datetime"));
                    }
                }
                for name in key.iter().flatten() {
                    column(&schema, name)?;
                }
                facts.partitioned_by = key.clone();
                facts.sources.insert(id);
                facts.ports.push(Arc::new(schema));
            }
            Op::Filter { expr, .. } => {
                let schema = self.input_schema(node)?;
                boolean(expr, &schema)?;
                facts.ports.push(schema);
            }
            Op::Require { rules } => {
                let schema = self.input_schema(node)?;
                for (_, rule) in rules {
                    boolean(rule, &schema)?;
                }
                facts.ports.push(schema);
            }
            Op::WithColumns { exprs } => {
                let input = self.input_schema(node)?;
                let mut schema = (*input).clone();
                for (name, expr) in exprs {
                    let dtype = compile(expr, &input)?.dtype;
                    match schema.index(name) {
                        Some(i) => schema.fields[i].dtype = dtype,
                        None => schema.fields.push(Field { name: name.clone(), dtype }),
                    }
                    facts.partitioned_by = facts.partitioned_by.filter(|k| !k.contains(name));
                }
                facts.ports.push(Arc::new(schema));
            }
            Op::Select { exprs } => {
                let input = self.input_schema(node)?;
                let mut schema = Schema::default();
                let mut kept = vec![];
                for (name, expr) in exprs {
                    let dtype = compile(expr, &input)?.dtype;
                    if schema.index(name).is_some() {
                        return Err(PlanError::new("duplicate_column", format!("two columns are called `{name}`")));
                    }
                    if expr.op == "col" && expr.name.as_ref() == Some(name) {
                        kept.push(name.clone());
                    }
                    schema.fields.push(Field { name: name.clone(), dtype });
                }
                facts.partitioned_by = facts.partitioned_by.filter(|k| k.iter().all(|c| kept.contains(c)));
                facts.ports.push(Arc::new(schema));
            }
            Op::Map { schema, .. } | Op::MapBatches { schema, .. } | Op::MapAsync { schema, .. } => {
                facts.partitioned_by = None;
                facts.ports.push(Arc::new(schema.clone()));
            }
            Op::Branch { exprs } => {
                let schema = self.input_schema(node)?;
                for expr in exprs {
                    boolean(expr, &schema)?;
                    facts.ports.push(schema.clone());
                }
                facts.ports.push(schema);
            }
            Op::Merge => {
                let first = self.port_schema(node.inputs[0])?;
                for &input in &node.inputs[1..] {
                    let other = self.port_schema(input)?;
                    for field in &first.fields {
                        match other.dtype(&field.name) {
                            Some(t) if t.widened() == field.dtype.widened() => {}
                            Some(t) => {
                                return Err(PlanError::new(
                                    "type_mismatch",
                                    format!(
                                        "`{}` is `{}` in one stream and `{t}` in the other",
                                        field.name, field.dtype
                                    ),
                                )
                                .hint("cast one of them"))
                            }
                            None => {
                                return Err(PlanError::new(
                                    "schema_mismatch",
                                    format!("column `{}` is missing from `{}`", field.name, self.nodes[input.0].name),
                                )
                                .hint("merged streams have the same columns: use .select(…) first"))
                            }
                        }
                    }
                    if other.len() != first.len() {
                        return Err(PlanError::new("schema_mismatch", "merged streams have different columns")
                            .hint("use .select(…) first"));
                    }
                    if self.facts[input.0].partitioned_by != facts.partitioned_by {
                        facts.partitioned_by = None;
                    }
                }
                // Enums of different sets meet as text.
                let fields = first
                    .fields
                    .iter()
                    .map(|f| {
                        let same = node
                            .inputs
                            .iter()
                            .all(|&i| self.port_schema(i).is_ok_and(|s| s.dtype(&f.name) == Some(&f.dtype)));
                        Field { name: f.name.clone(), dtype: if same { f.dtype.clone() } else { f.dtype.widened() } }
                    })
                    .collect();
                facts.ports.push(Arc::new(Schema { fields }));
            }
            Op::Deduplicate { columns, within_ms } => {
                let schema = self.input_schema(node)?;
                for name in columns {
                    column(&schema, name)?;
                }
                if *within_ms <= 0 || columns.is_empty() {
                    return Err(bad_plan("deduplicate needs columns and a positive time"));
                }
                facts.ports.push(schema);
            }
            Op::Aggregate { keys, window, aggregates, combine, ttl_ms } => {
                let input = self.input_schema(node)?;
                let (layout, _) = aggregate_parts(aggregates, &input, facts.table)?;
                facts.of_table = facts.table;
                if keys.is_empty() {
                    return Err(PlanError::new("no_key", "an aggregate needs a key").hint("call .group_by(…) first"));
                }
                let mut schema = Schema::default();
                for key in keys {
                    let i = column(&input, key)?;
                    schema.fields.push(Field { name: key.clone(), dtype: input.fields[i].dtype.widened() });
                }
                let mut late = (*input).clone();
                if let Some(w) = window {
                    w.windows()?;
                    for name in ["$window_start", "$window_end"] {
                        schema.fields.push(Field { name: name.into(), dtype: DataType::Timestamp });
                        late.fields.push(Field { name: name.into(), dtype: DataType::Timestamp });
                    }
                    late.fields.push(Field { name: "$reason".into(), dtype: DataType::Str });
                }
                if facts.table {
                    if let Some(i) = layout.not_retractable() {
                        return Err(PlanError::new(
                            "not_retractable",
                            format!(
                                "`{}` ({}) over a table cannot take an old value back",
                                aggregates[i].name, aggregates[i].function
                            ),
                        )
                        .hint(
                            "say by what it is ordered (`order_by=`), cast floats to decimals, or aggregate the stream itself",
                        ));
                    }
                    if window.is_some() {
                        return Err(PlanError::new("window_on_table", "a table cannot be windowed again")
                            .hint("group by the window's start, or aggregate the stream"));
                    }
                }
                if ttl_ms.is_some_and(|ms| ms <= 0 || window.is_some() || facts.table) {
                    return Err(bad_plan("a ttl is positive, of groups of a stream without windows"));
                }
                for (spec, acc) in aggregates.iter().zip(&layout.accumulators) {
                    if schema.index(&spec.name).is_some() {
                        return Err(PlanError::new(
                            "duplicate_column",
                            format!("two columns are called `{}`", spec.name),
                        ));
                    }
                    schema.fields.push(Field { name: spec.name.clone(), dtype: acc.output.clone() });
                }
                facts.shuffled = facts.table || facts.partitioned_by.as_ref() != Some(keys);
                if facts.shuffled && (window.is_some() || ttl_ms.is_some()) {
                    facts.idle_ms = self.idle_after(&facts.sources, node.inputs[0].0)?;
                }
                // Where a lane may be idle, a row may meet a closed window downstream: then it must still be a row.
                facts.combined = facts.shuffled && *combine && layout.combines() && facts.idle_ms.is_none();
                if facts.shuffled && !facts.combined {
                    let mut read = BTreeSet::new();
                    let exprs = aggregates.iter().flat_map(AggregateSpec::exprs);
                    exprs.for_each(|e| names(e, &mut read));
                    if let Some(name) = read.iter().find(|n| matches!(n.as_str(), "$offset" | "$partition")) {
                        let name = name.trim_start_matches('$');
                        return Err(PlanError::new(
                            "metadata_behind_shuffle",
                            format!(
                                "an aggregate behind a shuffle cannot read the record's {name}: its rows have moved"
                            ),
                        )
                        .hint(format!("keep it as a column first: .with_columns({name}=ads.{name}())")));
                    }
                }
                let schema = Arc::new(schema);
                facts.table = true;
                facts.partitioned_by = Some(keys.clone());
                facts.ports = vec![schema.clone(), schema, Arc::new(late)];
            }
            Op::ToStream => {
                facts.table = false;
                facts.ports.push(self.input_schema(node)?);
            }
            Op::ToTopic { key, columns, .. } => {
                let schema = self.input_schema(node)?;
                for name in columns.iter().chain(key.iter().flatten()) {
                    column(&schema, name)?;
                }
            }
            Op::Sink { key, columns, .. } => {
                let schema = self.input_schema(node)?;
                if key.is_empty() {
                    return Err(PlanError::new("no_key", "a sink needs a key"));
                }
                for name in columns.iter().chain(key) {
                    column(&schema, name)?;
                }
            }
            Op::Flow { kind, parameters } if kind == "to_rows" => {
                let schema = parameters.get("schema").cloned().unwrap_or_default();
                let schema = serde_json::from_value(schema).map_err(|e| bad_plan(format!("schema: {e}")))?;
                facts.ports.push(Arc::new(schema));
                let keys = node.op.texts("keys");
                facts.partitioned_by = (!keys.is_empty()).then_some(keys);
                facts.table = false;
            }
            Op::Flow { kind, .. } if kind == "from_rows" => {
                let schema = self.input_schema(node)?;
                for name in node.op.texts("keys").iter().chain(&node.op.texts("columns")) {
                    column(&schema, name)?;
                }
                facts.ports.push(Arc::default());
            }
            Op::Flow { kind, parameters } => {
                if kind == "match" {
                    crate::flow::patterns::check(parameters).map_err(|e| e.at(id))?;
                }
                for store in node.op.texts("stores") {
                    if !self.stores.iter().any(|s| s.name == store) {
                        return Err(PlanError::new("unknown_store", format!("there is no store `{store}`"))
                            .hint(format!("declare it: `app.add_state_store(ads.store.key_value(\"{store}\"))`")));
                    }
                }
                let stranger = node.inputs.iter().find(|i| !matches!(self.nodes[i.0].op, Op::Flow { .. }));
                if let Some(&(from, _)) = stranger {
                    let from = &self.nodes[from].name;
                    return Err(bad_plan(format!("`{kind}` works record by record and `{from}` does not")));
                }
                let read = self.nodes.iter().flat_map(|n| &n.inputs).filter(|i| i.0 == id);
                let ports = read.map(|i| i.1 + 1).max().unwrap_or(1);
                facts.ports = std::iter::repeat_with(Arc::default).take(ports).collect();
            }
        }
        Ok(facts)
    }

    fn idle_of(&self, source: usize) -> Option<i64> {
        match &self.nodes[source].op {
            Op::Source { idle_ms, .. } => *idle_ms,
            _ => None,
        }
    }

    /// After how much silence a lane of a shuffle behind node `from` is idle: as long as the most patient of its sources
    /// says. Behind another shuffle silence means little (results come when windows close): there a lane is idle once all
    /// that feeds it is.
    fn idle_after(&self, sources: &BTreeSet<usize>, from: usize) -> Result<Option<i64>, PlanError> {
        let (with, without): (Vec<usize>, Vec<usize>) = sources.iter().partition(|&&s| self.idle_of(s).is_some());
        if let (Some(&with), Some(&without)) = (with.first(), without.first()) {
            let name = |s: usize| &self.nodes[s].name;
            return Err(PlanError::new(
                "idle_of_some",
                format!(
                    "`{}` may be idle and `{}` may not, and their rows meet before this window",
                    name(with),
                    name(without)
                ),
            )
            .hint(format!("give `{}` an `idle`, too", name(without))));
        }
        let behind_shuffle = |id: usize| {
            let mut above = vec![id];
            while let Some(id) = above.pop() {
                if self.facts[id].shuffled {
                    return true;
                }
                above.extend(self.nodes[id].inputs.iter().map(|i| i.0));
            }
            false
        };
        let longest = sources.iter().filter_map(|&s| self.idle_of(s)).max();
        Ok(longest.map(|ms| if behind_shuffle(from) { 0 } else { ms }))
    }

    /// An `idle` that nothing looks at is refused, so that nobody relies on it.
    fn check_idle(&self) -> Result<(), PlanError> {
        for (id, node) in self.nodes.iter().enumerate() {
            if let Op::Source { idle_ms: Some(ms), .. } = &node.op {
                if *ms <= 0 {
                    return Err(bad_plan("an idle time is positive").at(id));
                }
                if !self.facts.iter().any(|f| f.idle_ms.is_some() && f.sources.contains(&id)) {
                    return Err(PlanError::new(
                        "idle_without_lanes",
                        format!("`idle` on `{}` has no effect: none of its windows lies behind a shuffle", node.name),
                    )
                    .hint("leave it out: where rows stay in their partition, time passes with records only, as in Kafka Streams")
                    .at(id));
                }
            }
        }
        Ok(())
    }

    fn find_readers(&mut self) {
        for facts in &mut self.facts {
            facts.readers = vec![vec![]; facts.ports.len()];
        }
        for id in 0..self.nodes.len() {
            for (input, &(from, port)) in self.nodes[id].inputs.clone().iter().enumerate() {
                self.facts[from].readers[port].push((id, input));
            }
        }
    }

    /// Which columns of each port are read, from the ends back to the sources.
    fn find_needed(&mut self) -> Result<(), PlanError> {
        let n = self.nodes.len();
        let mut needed: Vec<Vec<BTreeSet<String>>> =
            self.facts.iter().map(|f| vec![BTreeSet::new(); f.ports.len()]).collect();
        for id in (0..n).rev() {
            let node = &self.nodes[id];
            let enters = node.op.is_flow("from_rows");
            let Some(&(from, port)) = node.inputs.first().filter(|_| enters || !matches!(node.op, Op::Flow { .. }))
            else {
                continue;
            };
            let input = self.facts[from].ports[port].clone();
            let out: BTreeSet<String> = needed[id].iter().flatten().cloned().collect();
            let mut read: BTreeSet<String> = BTreeSet::new();
            let mut reads = |expr: &Expr| names(expr, &mut read);
            match &node.op {
                Op::Source { .. } => {}
                Op::Flow { .. } => {
                    read.extend(node.op.texts("keys"));
                    read.extend(node.op.texts("columns"));
                }
                Op::Filter { expr, .. } => {
                    reads(expr);
                    read.extend(out);
                }
                Op::Require { rules } => {
                    rules.iter().for_each(|(_, e)| reads(e));
                    read.extend(out);
                }
                Op::WithColumns { exprs } => {
                    exprs.iter().for_each(|(_, e)| reads(e));
                    read.extend(out.into_iter().filter(|c| !exprs.iter().any(|(n, _)| n == c)));
                }
                Op::Select { exprs } => exprs.iter().for_each(|(_, e)| reads(e)),
                Op::Map { .. } | Op::MapBatches { .. } | Op::MapAsync { .. } => {
                    read.extend(input.fields.iter().map(|f| f.name.clone()))
                }
                Op::Branch { exprs } => {
                    exprs.iter().for_each(&mut reads);
                    read.extend(out);
                }
                Op::Merge | Op::ToStream => read.extend(out),
                Op::Deduplicate { columns, .. } => {
                    read.extend(columns.iter().cloned());
                    read.extend(out);
                }
                Op::Aggregate { keys, aggregates, .. } => {
                    for a in aggregates {
                        a.exprs().for_each(&mut reads);
                    }
                    read.extend(keys.iter().cloned());
                    let whole_row = aggregates.iter().any(|a| a.function == "python" && a.arg.is_none());
                    if whole_row || !self.facts[id].readers[2].is_empty() {
                        read.extend(input.fields.iter().map(|f| f.name.clone()));
                    }
                }
                Op::ToTopic { key, columns, .. } => {
                    read.extend(columns.iter().cloned());
                    read.extend(key.iter().flatten().cloned());
                }
                Op::Sink { key, columns, .. } => {
                    read.extend(columns.iter().cloned());
                    read.extend(key.iter().cloned());
                }
            }
            for &(from, port) in &node.inputs {
                needed[from][port].extend(read.iter().cloned());
            }
        }
        for (id, ports) in needed.into_iter().enumerate() {
            let whole = matches!(
                self.nodes[id].op,
                Op::Aggregate { .. } | Op::Map { .. } | Op::MapBatches { .. } | Op::MapAsync { .. } | Op::Flow { .. }
            );
            if let Op::Source { timestamp: Some(name), .. } = &self.nodes[id].op {
                // The time of a record is read whoever else reads it.
                let mut read = ports[0].clone();
                read.insert(name.clone());
                self.facts[id].needed = vec![restrict(&self.facts[id].ports[0], &read)];
                continue;
            }
            self.facts[id].needed = ports
                .iter()
                .enumerate()
                .map(|(p, read)| match whole {
                    // These make all their columns at once.
                    true => self.facts[id].ports[p].clone(),
                    false => restrict(&self.facts[id].ports[p], read),
                })
                .collect();
        }
        // Operators that pass rows on pass on what they got; branches too.
        for id in 0..n {
            let passes = matches!(
                self.nodes[id].op,
                Op::Filter { .. } | Op::Require { .. } | Op::Branch { .. } | Op::Deduplicate { .. } | Op::ToStream
            );
            if passes {
                let (from, port) = self.nodes[id].inputs[0];
                let schema = self.working_schema(from, port);
                let ports = self.facts[id].ports.len();
                self.facts[id].needed = vec![schema; ports];
            }
            if let Op::Aggregate { .. } = &self.nodes[id].op {
                // The late port has what the aggregate gets.
                let (from, port) = self.nodes[id].inputs[0];
                let mut late = (*self.working_schema(from, port)).clone();
                late.fields.extend(self.facts[id].ports[2].fields.iter().filter(|f| f.name.starts_with('$')).cloned());
                self.facts[id].needed[2] = Arc::new(late);
            }
        }
        Ok(())
    }

    /// The columns that rows of a port really have when they travel.
    pub fn working_schema(&self, node: usize, port: usize) -> Arc<Schema> {
        self.facts[node].needed[port].clone()
    }

    /// Bits of the path that each fork uses: a fork lies below every fork above it.
    fn find_forks(&mut self) -> Result<(), PlanError> {
        if !self.has_merge {
            return Ok(());
        }
        let mut used: Vec<u32> = vec![0; self.nodes.len()];
        for id in 0..self.nodes.len() {
            let above = self.nodes[id].inputs.iter().map(|&(n, _)| used[n]).max().unwrap_or(0);
            let children: usize = self.facts[id].readers.iter().map(Vec::len).sum();
            let bits = if children > 1 { usize::BITS - (children - 1).leading_zeros() } else { 0 };
            used[id] = above + bits;
            if used[id] > 32 {
                return Err(PlanError::new("too_many_forks", "branches fork too often before they merge")
                    .hint("merge earlier, or split the topology by a topic")
                    .at(id));
            }
            if bits > 0 {
                self.facts[id].fork_shift = Some(32 - used[id]);
            }
        }
        Ok(())
    }

    /// Sub-topologies: nodes connected by edges that are not shuffles.
    fn cut(&mut self) {
        let n = self.nodes.len();
        let mut group: Vec<usize> = (0..n).collect();
        fn root(group: &mut [usize], i: usize) -> usize {
            let mut i = i;
            while group[i] != i {
                group[i] = group[group[i]];
                i = group[i];
            }
            i
        }
        for id in 0..n {
            if self.facts[id].shuffled {
                continue;
            }
            for &(from, _) in &self.nodes[id].inputs {
                let (a, b) = (root(&mut group, from), root(&mut group, id));
                group[a.max(b)] = a.min(b);
            }
        }
        // Who shares a store shares a task.
        let mut users: std::collections::BTreeMap<String, usize> = Default::default();
        for id in 0..n {
            for store in self.nodes[id].op.texts("stores") {
                let first = *users.entry(store).or_insert(id);
                let (a, b) = (root(&mut group, first), root(&mut group, id));
                group[a.max(b)] = a.min(b);
            }
        }
        let roots: Vec<usize> = (0..n).map(|i| root(&mut group, i)).collect();
        let mut order: Vec<usize> = roots.clone();
        order.sort_unstable();
        order.dedup();
        self.subtopologies = order
            .iter()
            .map(|&r| {
                let nodes: Vec<usize> = (0..n).filter(|&i| roots[i] == r).collect();
                let feeds: Vec<usize> =
                    (0..n).filter(|&i| self.facts[i].shuffled && nodes.contains(&self.nodes[i].inputs[0].0)).collect();
                // An edge has sequence numbers and a clock: state too.
                let stateful = !feeds.is_empty()
                    || nodes.iter().any(|&i| {
                        matches!(self.nodes[i].op, Op::Aggregate { .. } | Op::Deduplicate { .. } | Op::Sink { .. })
                            || !self.nodes[i].op.texts("stores").is_empty()
                            || self.nodes[i].op.flag("timed")
                            || self.nodes[i].op.flag("lanes")
                    });
                SubTopology { nodes, feeds, stateful }
            })
            .collect();
    }

    /// The sub-topology that has a store.
    pub fn store_home(&self, store: &str) -> Option<usize> {
        let user = self.nodes.iter().find(|n| n.op.texts("stores").iter().any(|s| s == store))?;
        Some(self.subtopology_of(user.id))
    }

    pub fn subtopology_of(&self, node: usize) -> usize {
        self.subtopologies.iter().position(|s| s.nodes.contains(&node)).unwrap_or(0)
    }

    /// The topics whose partitions are the lanes of this aggregate.
    pub fn lane_topics(&self, aggregate: &str) -> Vec<String> {
        let Some(node) = self.nodes.iter().find(|n| n.name == aggregate) else { return vec![] };
        let shuffled = self.facts[node.id].shuffled;
        let from = if shuffled { node.inputs[0].0 } else { node.id };
        let above = &self.subtopologies[self.subtopology_of(from)].nodes;
        above
            .iter()
            .filter_map(|&n| match &self.nodes[n].op {
                Op::Source { topic, .. } => Some(topic.clone()),
                _ if self.facts[n].shuffled => Some(self.edge_topic(n)),
                _ => None,
            })
            .collect()
    }

    pub fn edge_topic(&self, aggregate: usize) -> String {
        format!("{}-{}-repartition", self.app, self.nodes[aggregate].name)
    }
    pub fn changelog_topic(&self, subtopology: usize) -> String {
        format!("{}-{subtopology}-changelog", self.app)
    }
    pub fn dead_letter_topic(source: &str) -> String {
        format!("{source}-dlq")
    }

    /// The topic of the rules that a node looks for.
    pub fn rules_topic(&self, op: &Op) -> Option<&str> {
        let Op::Flow { parameters, .. } = op else { return None };
        let global = parameters.get("rules")?.get("global")?.as_str()?;
        self.globals.iter().find(|g| g.name == global).map(|g| g.topic.as_str())
    }

    fn name_topics(&mut self) {
        let mut topics: Vec<String> = vec![];
        let mut add = |t: String| {
            if !topics.contains(&t) {
                topics.push(t);
            }
        };
        let mut sinks = vec![];
        for (id, node) in self.nodes.iter().enumerate() {
            match &node.op {
                Op::Source { topic, .. } => {
                    add(topic.clone());
                    add(Self::dead_letter_topic(topic));
                }
                Op::ToTopic { topic, .. } => add(topic.clone()),
                Op::Flow { .. } => {
                    for (topic, internal) in node.op.flow_sources() {
                        add(topic.clone());
                        if !internal {
                            add(Self::dead_letter_topic(&topic));
                        }
                    }
                    self.rules_topic(&node.op).into_iter().for_each(|topic| add(Self::dead_letter_topic(topic)));
                    node.op.flow_targets().into_iter().for_each(|(topic, _)| add(topic));
                }
                Op::Aggregate { .. } if self.facts[id].shuffled => add(self.edge_topic(id)),
                Op::Sink { kind, key, columns, options } => {
                    let (from, port) = node.inputs[0];
                    let input = self.facts[from].ports[port].clone();
                    let fields =
                        columns.iter().filter_map(|c| input.index(c).map(|i| input.fields[i].clone())).collect();
                    let schema = Arc::new(Schema { fields });
                    let topic = format!("{}-{}-sink", self.app, node.name);
                    add(topic.clone());
                    sinks.push(SinkInfo {
                        name: node.name.clone(),
                        kind: kind.clone(),
                        topic,
                        key: key.clone(),
                        schema_hash: schema_hash(&serde_json::to_string(&*schema).unwrap_or_default()),
                        schema,
                        options: options.clone(),
                        subtopology: self.subtopology_of(id),
                    });
                }
                _ => {}
            }
        }
        for s in 0..self.subtopologies.len() {
            if self.subtopologies[s].stateful {
                add(self.changelog_topic(s));
            }
        }
        self.topics = topics;
        self.sinks = sinks;
    }

    pub fn topic(&self, name: &str) -> usize {
        self.topics.iter().position(|t| t == name).unwrap_or(usize::MAX)
    }
}

fn restrict(schema: &Arc<Schema>, read: &BTreeSet<String>) -> Arc<Schema> {
    Arc::new(Schema { fields: schema.fields.iter().filter(|f| read.contains(&f.name)).cloned().collect() })
}

/// The columns an expression reads, by name.
pub fn names(expr: &Expr, found: &mut BTreeSet<String>) {
    if expr.op == "col" {
        if let Some(name) = &expr.name {
            found.insert(name.clone());
        }
    }
    expr.args.iter().for_each(|a| names(a, found));
}

/// Compiles a condition, which must be a bool.
pub fn boolean(expr: &Expr, schema: &Schema) -> Result<Compiled, PlanError> {
    let compiled = compile(expr, schema)?;
    if compiled.dtype != DataType::Bool {
        return Err(PlanError::new("type_mismatch", format!("a condition is `bool`, not `{}`", compiled.dtype))
            .hint("compare it with something"));
    }
    Ok(compiled)
}

/// What an aggregate reads.
pub struct CompiledArguments {
    pub arg: Option<Compiled>,
    pub condition: Option<Compiled>,
    pub by: Vec<Compiled>,
}

/// The accumulators of an aggregate and their compiled arguments. `table`: over a table, whose old values are taken back.
pub fn aggregate_parts(
    specs: &[AggregateSpec],
    schema: &Schema,
    table: bool,
) -> Result<(Layout, Vec<CompiledArguments>), PlanError> {
    let mut parts = vec![];
    let mut arguments = vec![];
    for spec in specs {
        let arg = spec.arg.as_ref().map(|e| compile(e, schema)).transpose()?;
        let condition = spec.condition.as_ref().map(|e| boolean(e, schema)).transpose()?;
        if arg.is_none() && !matches!(spec.function.as_str(), "count" | "python") {
            return Err(bad_plan(format!("`{}` needs an argument", spec.function)));
        }
        parts.push(Spec {
            function: spec.function.clone(),
            input: arg.as_ref().map(|a| a.dtype.clone()),
            callable: spec.callable,
            output: spec.dtype.clone(),
            descending: spec.by.iter().map(|by| by.descending).collect(),
            parameter: spec.parameter,
            error: spec.error,
            table,
        });
        let by = spec.by.iter().map(|by| compile(&by.expr, schema)).collect::<Result<_, _>>()?;
        arguments.push(CompiledArguments { arg, condition, by });
    }
    Ok((Layout::new(&parts)?, arguments))
}
