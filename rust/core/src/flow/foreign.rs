//! Foreign-key joins: a row of the left table with the row of the right one whose key it names.
//!
//! ```text
//!   left task                                   right task of the foreign key
//!   change ─▶ Subscribe ── subscription ──▶ Answer ── now ──────────┐
//!                (key: the foreign key)        │ keeps who asked     ▼
//!                                              ▼ for what        response ──▶ Resolve, back in the left row's partition
//!   right change ─────────────────────────▶ Propagate ── to all ────┘            │ is it of the present left row?
//!                                                                                ▼ then joiner(left, right)
//! ```
//!
//! Left and right are cut into partitions by different keys, so a left row subscribes with the right one in a task of
//! another sub-topology, and answers come by a topic. They may come late: each carries the hash of the left value that
//! asked, and is dropped unless the left row still has that value. What is sent when, and what for, is Kafka Streams' (KIP-213,
//! with KIP-962 and KAFKA-18713).
//!
//! In the topics, values are tuples: a subscription `(hash, instruction, left key, left partition)`, a response `(hash, right
//! value, left partition)`. The hash of no value is null. The store of subscriptions has `length of foreign key, foreign
//! key, left key -> (hash, left key, left partition)`: who asked for one key is together, in the order of their keys.
//!
//! A right value that is no bytes in a topic (an empty text, with the serde for texts) is answered as none: Kafka Streams'
//! responses cannot tell the two apart, and results are to be the same.

use xxhash_rust::xxh3::xxh3_128;

use super::func::{Func, Lookup};
use super::stores::{key_bytes, key_prefix, read_timed};
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;

/// Forget the subscription; answer nothing.
const FORGET: i64 = 0;
/// Forget it, and answer that there is no right row.
const FORGET_AND_ANSWER: i64 = 1;
/// Keep it, and answer in any case.
const ANSWER: i64 = 2;
/// Keep it, and answer if there is a right row.
const ANSWER_IF_FOUND: i64 = 3;

/// Tells the present left value from others; of no value null.
fn hash(value: &Datum) -> Result<Datum, Failure> {
    if value.is_null() {
        return Ok(Datum::Null);
    }
    let bytes = value.to_bytes().map_err(Failure::unstorable)?;
    Ok(Datum::Bytes(xxh3_128(&bytes).to_be_bytes().as_slice().into()))
}

fn parts<const N: usize>(value: &Datum) -> Result<[Datum; N], Failure> {
    match value {
        Datum::Tuple(items) if items.len() == N => Ok(std::array::from_fn(|i| items[i].clone())),
        other => Err(Failure::Bad("malformed_value", format!("not a message of a foreign-key join: {other:?}"))),
    }
}

/// Tells the right side what a change of a left row means for its subscription.
pub struct Subscribe {
    /// Of (value) or (key, value): the foreign key, or null.
    pub foreign_key: Func,
    /// Rows without a right one are results, too.
    pub left: bool,
    pub versioned: bool,
}

impl Subscribe {
    fn key_of(&self, record: &Record, value: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        match value.is_null() {
            true => Ok(Datum::Null),
            false => self.foreign_key.apply(cx, &record.key, &[value]),
        }
    }
}

impl Node for Subscribe {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if self.versioned && !record.latest {
            cx.count("dropped:older_version");
            return Ok(());
        }
        if record.value.is_null() && record.old.is_null() {
            return Ok(());
        }
        let old = self.key_of(&record, &record.old, cx)?;
        let new = self.key_of(&record, &record.value, cx)?;
        let hash = hash(&record.value)?;
        let send = |foreign: &Datum, instruction: i64| {
            let partition = Datum::Int(cx.env.task_partition.into());
            let value = Datum::Tuple([hash.clone(), Datum::Int(instruction), record.key.clone(), partition].into());
            cx.forward(record.with_value(value).with_key(foreign.clone()))
        };
        let moved = !old.is_null() && key_bytes(&old)? != key_bytes(&new)?;
        if self.left {
            if moved {
                send(&old, FORGET)?;
            }
            return send(&new, ANSWER); // to no key as well: it is answered that there is no right row
        }
        if record.value.is_null() {
            return if old.is_null() { Ok(()) } else { send(&old, FORGET_AND_ANSWER) };
        }
        if new.is_null() {
            cx.count("dropped:null_foreign_key");
            return if old.is_null() { Ok(()) } else { send(&old, FORGET_AND_ANSWER) };
        }
        if moved {
            send(&old, FORGET)?;
            return send(&new, ANSWER); // what was joined with the old one is to be deleted
        }
        send(&new, ANSWER_IF_FOUND)
    }
}

/// The right value of a response. `empty_is_none`: see the module's head.
fn answered(value: Datum, empty_is_none: bool) -> Datum {
    match &value {
        Datum::Str(text) if empty_is_none && text.is_empty() => Datum::Null,
        Datum::Bytes(bytes) if empty_is_none && bytes.is_empty() => Datum::Null,
        _ => value,
    }
}

/// Keeps subscriptions, and answers each with what the right table has now.
pub struct Answer {
    pub store: usize,
    pub empty_is_none: bool,
    pub right: Lookup,
}

fn subscription_key(foreign: &Datum, left: &Datum) -> Result<Vec<u8>, Failure> {
    let mut key = key_prefix(&key_bytes(foreign)?);
    key.extend(key_bytes(left)?);
    Ok(key)
}

impl Node for Answer {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let [hash, instruction, left, partition] = parts::<4>(&record.value)?;
        let Datum::Int(instruction) = instruction else {
            return Err(Failure::Bad("malformed_value", format!("not an instruction: {instruction:?}")));
        };
        let mut right = None;
        if !record.key.is_null() {
            let key = subscription_key(&record.key, &left)?;
            let kept = Datum::Tuple([hash.clone(), left.clone(), partition.clone()].into());
            let forget = matches!(instruction, FORGET | FORGET_AND_ANSWER);
            cx.store_mut(self.store).put_raw(&key, (!forget).then_some((&kept, record.ts)))?;
            right = self.right.get(cx, &record.key)?;
        } else if instruction != ANSWER {
            cx.count("dropped:null_key");
            return Ok(());
        }
        let ts = right.as_ref().map_or(record.ts, |r| record.ts.max(r.1));
        let value = match (instruction, right) {
            (FORGET, _) | (ANSWER_IF_FOUND, None) => return Ok(()),
            (FORGET_AND_ANSWER, _) | (_, None) => Datum::Null,
            (_, Some((value, _))) => answered(value, self.empty_is_none),
        };
        let response = Datum::Tuple([hash, value, partition].into());
        cx.forward(Record { ts, ..record.with_value(response).with_key(left) })
    }
}

/// Tells a change of a right row to all who subscribed to it.
pub struct Propagate {
    pub store: usize,
    pub empty_is_none: bool,
    pub versioned: bool,
}

impl Node for Propagate {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if record.key.is_null() {
            cx.count("dropped:null_key");
            return Ok(());
        }
        if self.versioned && !record.latest {
            cx.count("dropped:older_version");
            return Ok(());
        }
        let prefix = key_prefix(&key_bytes(&record.key)?);
        let subscribed: Vec<Datum> = {
            let store = cx.store(self.store);
            store.bytes.prefix(&prefix).filter_map(|(_, v)| read_timed(&v)).map(|t| t.0).collect()
        };
        let value = answered(record.value.clone(), self.empty_is_none);
        for subscription in subscribed {
            let [hash, left, partition] = parts::<3>(&subscription)?;
            let response = Datum::Tuple([hash, value.clone(), partition].into());
            cx.forward(record.with_value(response).with_key(left))?;
        }
        Ok(())
    }
}

/// Joins a response with the left row that asked, if it is still that row.
pub struct Resolve {
    pub left: Lookup,
    pub joiner: Func,
    /// Rows without a right one are results, too.
    pub outer: bool,
}

impl Node for Resolve {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let [asked, right, _] = parts::<3>(&record.value)?;
        let left = self.left.get(cx, &record.key)?.map_or(Datum::Null, |l| l.0);
        if hash(&left)? != asked {
            cx.count("dropped:stale_response");
            return Ok(());
        }
        let value = match left.is_null() || (right.is_null() && !self.outer) {
            true => Datum::Null,
            false => self.joiner.apply(cx, &record.key, &[&left, &right])?,
        };
        cx.forward(record.with_value(value))
    }
}
