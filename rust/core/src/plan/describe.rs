//! The plan as data for the runtime and for people: sub-topologies, topics, sinks.

use serde_json::{json, Value};

use super::logical::{Op, Plan};
use super::lower::spelled_meaning;

impl Plan {
    /// See `Plan.describe` in `_core.pyi`.
    pub fn describe(&self) -> Value {
        let subtopologies: Vec<Value> = self
            .subtopologies
            .iter()
            .enumerate()
            .map(|(id, sub)| {
                let mut sources = vec![];
                let mut outputs = vec![];
                let mut nodes = vec![];
                for &n in &sub.nodes {
                    let node = &self.nodes[n];
                    let mut operation = match &node.op {
                        Op::Source { topic, key, .. } => {
                            sources.push(json!({"topic": topic, "kind": "user", "node": node.name}));
                            outputs.push(json!({"topic": Plan::dead_letter_topic(topic), "kind": "dead_letters", "source": topic}));
                            json!({"op": "source", "topic": topic, "key": key})
                        }
                        Op::Filter { .. } => json!({"op": "filter"}),
                        Op::Require { .. } => json!({"op": "require"}),
                        Op::WithColumns { .. } => json!({"op": "with_columns"}),
                        Op::Select { .. } => json!({"op": "select"}),
                        Op::Map { .. } => json!({"op": "map"}),
                        Op::MapBatches { .. } => json!({"op": "map_batches"}),
                        Op::MapAsync { .. } => json!({"op": "map_async"}),
                        Op::Branch { .. } => json!({"op": "branch"}),
                        Op::Merge => json!({"op": "merge"}),
                        Op::Deduplicate { columns, within_ms } => {
                            json!({"op": "deduplicate", "columns": columns, "within_ms": within_ms})
                        }
                        Op::Aggregate { keys, .. } => json!({"op": "aggregate", "keys": keys, "shuffled": self.facts[n].shuffled, "combined": self.facts[n].combined}),
                        Op::ToStream => json!({"op": "to_stream"}),
                        Op::ToTopic { topic, .. } => {
                            outputs.push(json!({"topic": topic, "kind": "user"}));
                            json!({"op": "to_topic", "topic": topic})
                        }
                        Op::Sink { kind, .. } => json!({"op": "sink", "kind": kind}),
                        Op::Flow { kind, .. } => {
                            for (topic, internal) in node.op.flow_sources() {
                                let of = if internal { "edge" } else { "user" };
                                sources.push(json!({"topic": topic, "kind": of, "node": node.name}));
                                if !internal {
                                    outputs.push(json!({"topic": Plan::dead_letter_topic(&topic), "kind": "dead_letters", "source": topic}));
                                }
                            }
                            if let Some(topic) = self.rules_topic(&node.op) {
                                outputs.push(json!({"topic": Plan::dead_letter_topic(topic), "kind": "dead_letters", "source": topic}));
                            }
                            for (topic, internal) in node.op.flow_targets() {
                                let mut output = json!({"topic": topic, "kind": if internal { "edge" } else { "user" }, "node": node.name});
                                if let Some(asked) = node.op.number("partitions") {
                                    output["partitions"] = json!(asked);
                                }
                                outputs.push(output);
                            }
                            json!({"op": "flow", "kind": kind, "stores": node.op.texts("stores")})
                        }
                    };
                    if self.facts[n].shuffled {
                        sources.push(json!({"topic": self.edge_topic(n), "kind": "edge", "node": node.name}));
                    }
                    operation["id"] = json!(n);
                    operation["name"] = json!(node.name);
                    operation["inputs"] = json!(node.inputs);
                    operation["line"] = json!(node.line);
                    let columns: Vec<Vec<String>> = self.facts[n]
                        .needed
                        .iter()
                        .map(|s| s.fields.iter().map(|f| format!("{}: {}", f.name, f.dtype)).collect())
                        .collect();
                    operation["columns"] = json!(columns);
                    let meaning = spelled_meaning(self, n);
                    if !meaning.is_empty() {
                        operation["meaning"] = json!(meaning);
                    }
                    nodes.push(operation);
                }
                for &n in &sub.feeds {
                    outputs.push(json!({"topic": self.edge_topic(n), "kind": "edge", "node": self.nodes[n].name}));
                }
                for sink in self.sinks.iter().filter(|s| s.subtopology == id) {
                    outputs.push(json!({"topic": sink.topic, "kind": "sink", "sink": sink.name}));
                }
                let changelog = sub.stateful.then(|| self.changelog_topic(id));
                if let Some(topic) = &changelog {
                    outputs.push(json!({"topic": topic, "kind": "changelog"}));
                }
                json!({"id": id, "sources": sources, "nodes": nodes, "outputs": outputs, "stateful": sub.stateful, "changelog": changelog})
            })
            .collect();
        let sinks: Vec<Value> = self
            .sinks
            .iter()
            .map(|s| {
                let columns: serde_json::Map<String, Value> =
                    s.schema.fields.iter().map(|f| (f.name.clone(), json!(f.dtype.to_string()))).collect();
                json!({"name": s.name, "kind": s.kind, "topic": s.topic, "key": s.key, "columns": columns,
                       "options": s.options, "subtopology": s.subtopology})
            })
            .collect();
        let globals: Vec<Value> = self
            .globals
            .iter()
            .map(|g| json!({"name": g.name, "topic": g.topic, "rules": g.rules.is_some()}))
            .collect();
        let store = |s: &crate::flow::StoreSpec| json!({"name": s.name, "kind": s.kind, "flavour": s.flavour, "store_type": s.store_type});
        let of_worker = |g: &crate::flow::GlobalSpec| match &g.kept {
            Some(kept) => store(&kept.store),
            None => json!({"name": g.name, "kind": "key_value", "flavour": null, "store_type": null}),
        };
        let tables = self.globals.iter().filter(|g| g.rules.is_none()).map(of_worker);
        let stores: Vec<Value> = self.stores.iter().map(store).chain(tables).collect();
        json!({"app": self.app, "topics": self.topics, "subtopologies": subtopologies, "sinks": sinks, "globals": globals,
               "stores": stores, "starts": self.starts,
               "formats": {"frame": crate::frame::VERSION}})
    }
}
