//! Operators without state. Null keys and values reach the user's functions untouched; timestamps and headers travel on.

use std::sync::Arc;

use serde::Deserialize;

use super::func::Func;
use super::lanes::Sending;
use super::serde::Trouble;
use super::{headers_datum, Cx, Done, Failure, Headers, Node, Record, Serde};
use crate::datum::Datum;
use crate::error::Fatal;
use crate::op::Outgoing;
use crate::partitioner;
use crate::wire::{Reader, Writer};

/// Where records of a topic enter, and where streams merge.
pub struct Pass;

impl Node for Pass {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        cx.forward(record)
    }
}

#[derive(Deserialize)]
pub struct Filter {
    predicate: Func,
    #[serde(default)]
    negate: bool,
}

impl Node for Filter {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        match self.predicate.holds(cx, &record.key, &[&record.value])? != self.negate {
            true => cx.forward(record),
            false => Ok(()),
        }
    }
}

/// (key, value) → (key, value).
#[derive(Deserialize)]
pub struct Map {
    mapper: Func,
}

fn pair(made: &Datum) -> Option<(Datum, Datum)> {
    match made {
        Datum::Tuple(items) | Datum::List(items) => match &items[..] {
            [key, value] => Some((key.clone(), value.clone())),
            _ => None,
        },
        _ => None,
    }
}

fn not_a_pair(made: &Datum) -> Failure {
    Failure::Bad("not_a_pair", format!("a mapper returns a (key, value) tuple, not {made:?}"))
}

/// What a mapper returns for many.
fn items(made: Datum) -> Result<Arc<[Datum]>, Failure> {
    match made {
        Datum::List(items) | Datum::Tuple(items) => Ok(items),
        other => Err(Failure::Bad("not_a_list", format!("a flat mapper returns a list, not {other:?}"))),
    }
}

impl Node for Map {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let made = self.mapper.apply(cx, &record.key, &[&record.value])?;
        let (key, value) = pair(&made).ok_or_else(|| not_a_pair(&made))?;
        cx.forward(record.with_value(value).with_key(key))
    }
}

#[derive(Deserialize)]
pub struct MapValues {
    mapper: Func,
}

impl Node for MapValues {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let value = self.mapper.apply(cx, &record.key, &[&record.value])?;
        cx.forward(record.with_value(value))
    }
}

#[derive(Deserialize)]
pub struct FlatMap {
    mapper: Func,
}

impl Node for FlatMap {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        for made in items(self.mapper.apply(cx, &record.key, &[&record.value])?)?.iter() {
            let (key, value) = pair(made).ok_or_else(|| not_a_pair(made))?;
            cx.forward(record.with_value(value).with_key(key))?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
pub struct FlatMapValues {
    mapper: Func,
}

impl Node for FlatMapValues {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        for value in items(self.mapper.apply(cx, &record.key, &[&record.value])?)?.iter() {
            cx.forward(record.with_value(value.clone()))?;
        }
        Ok(())
    }
}

#[derive(Deserialize)]
pub struct SelectKey {
    mapper: Func,
}

impl Node for SelectKey {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let key = self.mapper.apply(cx, &record.key, &[&record.value])?;
        cx.forward(record.with_key(key))
    }
}

/// Looks at records and passes them on; `foreach` has nobody behind it.
#[derive(Deserialize)]
pub struct Peek {
    action: Func,
}

impl Node for Peek {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        self.action.apply(cx, &record.key, &[&record.value])?;
        cx.forward(record)
    }
}

/// To the port of the first predicate that holds; the last port is for what none held for.
#[derive(Deserialize)]
pub struct Branch {
    predicates: Vec<Func>,
}

impl Node for Branch {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        for (port, predicate) in self.predicates.iter().enumerate() {
            if predicate.holds(cx, &record.key, &[&record.value])? {
                return cx.forward_to(port, record);
            }
        }
        cx.forward_to(self.predicates.len(), record)
    }
}

#[derive(Deserialize)]
struct Target {
    key: Serde,
    value: Serde,
    /// By whose bytes records are spread; by default those of `key`.
    #[serde(default)]
    partition_by: Option<Serde>,
    /// Called with (key, value): the topic.
    #[serde(default)]
    extractor: Option<Func>,
    /// And with (topic, partition, offset, time, headers) of the record.
    #[serde(default)]
    contextual: bool,
    /// Called with (topic, key, value, partitions): a partition, a list of them, or none (null).
    #[serde(default)]
    partitioner: Option<Func>,
    /// The place in the value, a tuple, where the partition stands; for answers to who asked.
    #[serde(default)]
    partition_in: Option<usize>,
    /// Writes both halves of changes, for an aggregation of a table.
    #[serde(default)]
    changes: bool,
    /// Drops records without a key, which no aggregation behind the topic would take.
    #[serde(default)]
    drop_null_keys: bool,
}

/// Writes records to a topic.
pub struct To {
    topics: Vec<usize>,
    target: Target,
    /// Written since the last flush: counted there, once.
    written: u64,
    /// Where readers go by lanes. Then it has one topic.
    lane: Option<Sending>,
}

impl To {
    /// `lane`: of a task that says how far its time has come.
    pub fn new(
        parameters: serde_json::Value,
        topics: Vec<usize>,
        lane: Option<Sending>,
    ) -> Result<To, serde_json::Error> {
        Ok(To { topics, target: serde_json::from_value(parameters)?, written: 0, lane })
    }

    fn topic(&self, record: &Record, cx: Cx<'_>) -> Result<usize, Failure> {
        let Some(extractor) = &self.target.extractor else { return Ok(self.topics[0]) };
        let name = match self.target.contextual {
            false => extractor.apply(cx, &record.key, &[&record.value])?,
            true => {
                let origin = cx.origin();
                let origin = origin.as_ref();
                let context = [
                    origin.map_or(Datum::Null, |o| Datum::Str(o.topic.clone())),
                    origin.map_or(Datum::Null, |o| Datum::Int(o.partition.into())),
                    origin.map_or(Datum::Null, |o| Datum::Int(o.offset)),
                    Datum::Int(record.ts),
                    headers_datum(&record.headers),
                ];
                extractor.apply(cx, &record.key, &[&[&record.value], &context.each_ref()[..]].concat())?
            }
        };
        let Datum::Str(name) = &name else {
            return Err(Failure::Bad("unknown_topic", format!("a topic is named by text, not by {name:?}")));
        };
        if self.topics.is_empty() {
            return self.any_topic(name, cx);
        }
        let found = self.topics.iter().find(|&&t| cx.env.topics[t] == **name);
        found.copied().ok_or_else(|| {
            let known: Vec<&str> = self.topics.iter().map(|&t| cx.env.topics[t].as_str()).collect();
            Failure::Bad("unknown_topic", format!("{name:?} is not one of the topics declared: {}", known.join(", ")))
        })
    }

    /// No topic was declared: whichever there is.
    fn any_topic(&self, name: &str, cx: Cx<'_>) -> Result<usize, Failure> {
        if let Some(known) = cx.env.topics.iter().position(|t| t == name) {
            return Ok(known);
        }
        let found = cx.env.found.of(name).map_err(|text| Failure::Fatal(Fatal::new("topics_unknown", text)))?;
        let none = || Failure::Bad("unknown_topic", format!("there is no topic {name:?}: create it"));
        Ok(cx.env.topics.len() + found.ok_or_else(none)?.0)
    }

    /// A topic's name and how many partitions it has.
    fn about(topic: usize, cx: Cx<'_>) -> (Datum, u32) {
        match cx.env.topics.get(topic) {
            Some(name) => (Datum::str(name), cx.env.partitions[topic].max(1)),
            None => {
                let (name, partitions) = cx.env.found.about(topic - cx.env.topics.len());
                (Datum::Str(name), partitions)
            }
        }
    }

    /// Where a record goes that nobody else has an opinion on: by its key, as that is written. None: see `partitions`.
    fn partition_of(&self, topic: usize, record: &Record, key: Option<&[u8]>, cx: Cx<'_>) -> Option<u32> {
        let target = &self.target;
        if target.partitioner.is_some() || target.partition_in.is_some() {
            return None;
        }
        if target.partition_by.as_ref().is_some_and(|by| *by != target.key) {
            return None;
        }
        let count = (*cx.env.partitions.get(topic)?).max(1);
        Some(partitioner::partition(target.key.partition_part(&record.key, key?)?, count))
    }

    fn partitions(&self, topic: usize, record: &Record, cx: Cx<'_>) -> Result<Vec<u32>, Failure> {
        let target = &self.target;
        let (name, count) = Self::about(topic, cx);
        if let Some(f) = &target.partitioner {
            let made = cx.apply(f.call, &[name, record.key.clone(), record.value.clone(), Datum::Int(count.into())])?;
            let one = |d: &Datum| match d {
                Datum::Int(p) if (0..i64::from(count)).contains(p) => Ok(*p as u32),
                other => {
                    Err(Failure::Bad("bad_partition", format!("a partition is 0 to {}, not {other:?}", count - 1)))
                }
            };
            match &made {
                Datum::Null => {} // the default
                Datum::List(items) | Datum::Tuple(items) => return items.iter().map(one).collect(),
                other => return Ok(vec![one(other)?]),
            }
        }
        if let (Some(place), Datum::Tuple(items)) = (target.partition_in, &record.value) {
            if let Some(Datum::Int(partition)) = items.get(place) {
                return Ok(vec![*partition as u32 % count]);
            }
        }
        let by = target.partition_by.as_ref().unwrap_or(&target.key);
        // A partitioner that leaves it to the default leaves it to the producer's, as in Kafka Streams: that goes by all bytes
        // of a key with a window.
        let bytes = match (&target.partitioner, by) {
            (Some(_), Serde::TimeWindowed { .. } | Serde::SessionWindowed { .. }) => {
                by.write(&record.key, cx.env.foreign)
            }
            _ => by.partition_bytes(&record.key, cx.env.foreign),
        };
        Ok(vec![match bytes.map_err(unwritable_key)? {
            Some(bytes) => partitioner::partition(&bytes, count),
            // Without a key the task's own partition: the same records land in the same place on every run.
            None => cx.env.task_partition % count,
        }])
    }
}

fn unwritable_key(trouble: Trouble) -> Failure {
    trouble.fault("unwritable_key").into()
}

impl Node for To {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if self.target.drop_null_keys && record.key.is_null() {
            cx.count("filtered:null_key");
            return Ok(());
        }
        let topic = self.topic(&record, cx)?;
        let key = self.target.key.write(&record.key, cx.env.foreign).map_err(unwritable_key)?;
        let value = match self.target.changes {
            true => &Datum::Tuple(Arc::from([record.value.clone(), record.old.clone()])),
            false => &record.value,
        };
        let value = self.target.value.write(value, cx.env.foreign);
        let value = value.map_err(|trouble| trouble.fault("unwritable_value"))?;
        let (one, many);
        let partitions: &[u32] = match self.partition_of(topic, &record, key.as_deref(), cx) {
            Some(partition) => {
                one = [partition];
                &one
            }
            None => {
                many = self.partitions(topic, &record, cx)?;
                &many
            }
        };
        let mut headers = Headers::unwrap_or_clone(record.headers);
        headers.extend(self.lane.as_mut().map(|lane| lane.record(record.ts, partitions, cx)));
        let timestamp = record.ts.max(0);
        self.written += partitions.len() as u64;
        match partitions.split_last() {
            None => cx.count("dropped:no_partition"),
            Some((&partition, others)) => {
                let last = Outgoing { topic, partition, seq: 0, timestamp, key, value, headers };
                others.iter().for_each(|&partition| cx.send(Outgoing { partition, ..last.clone() }));
                cx.send(last);
            }
        }
        Ok(())
    }

    fn flush(&mut self, cx: Cx<'_>) -> Done {
        cx.count_many("out", std::mem::take(&mut self.written));
        if let Some(lane) = &mut self.lane {
            lane.flush(self.topics[0], cx);
        }
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        self.lane.iter().for_each(|lane| lane.save(out));
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        match &mut self.lane {
            // It had no lanes yet.
            Some(_) if saved.rest.is_empty() => Some(()),
            lane => lane.iter_mut().try_for_each(|lane| lane.load(saved)),
        }
    }

    fn restored(&mut self, _: Cx<'_>) {
        self.written = 0;
    }
}

/// Reads both halves of changes behind a topic (see `changes` of [`To`]).
pub struct Changes;

impl Node for Changes {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let (value, old) = pair(&record.value).ok_or_else(|| not_a_pair(&record.value))?;
        cx.forward(Record { value, old, ..record })
    }
}
