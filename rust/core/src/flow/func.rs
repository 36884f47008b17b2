//! Functions of the user in a record flow, and how a table without a store is read.

use std::sync::Arc;

use serde::Deserialize;

use super::process::Access;
use super::stores::{key_bytes, StoreKind};
use super::transform::{Transformed, Transformer};
use super::{Cx, Failure, Globals};
use crate::datum::Datum;
use crate::error::PlanError;

/// A callable of the host, by its index in the plan's table, and what it wants to be called with.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Func {
    pub call: usize,
    /// (key, value…) instead of (value…).
    #[serde(default)]
    pub with_key: bool,
}

impl Func {
    /// Calls it with the values, and the key before them if it wants it.
    pub fn apply(&self, cx: Cx<'_>, key: &Datum, values: &[&Datum]) -> Result<Datum, Failure> {
        let all = self.with_key.then_some(key).into_iter().chain(values.iter().copied());
        let count = values.len() + usize::from(self.with_key);
        let mut few = [key; 3];
        match few.get_mut(..count) {
            Some(args) => {
                args.iter_mut().zip(all).for_each(|(to, from)| *to = from);
                cx.ask(self.call, args)
            }
            None => cx.ask(self.call, &all.collect::<Vec<_>>()),
        }
    }
    /// A condition: only *true* passes.
    pub fn holds(&self, cx: Cx<'_>, key: &Datum, values: &[&Datum]) -> Result<bool, Failure> {
        Ok(self.apply(cx, key, values)?.is_true())
    }
}

/// Where the present value of a table's key is found: in its store, or computed from another table (Kafka Streams'
/// value getters: a derived table without a name has no store, and its function runs again for each look).
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Getter {
    Store(String),
    /// A table that the worker has whole.
    Global(String),
    Filter {
        of: Box<Getter>,
        predicate: Func,
        negate: bool,
    },
    MapValues {
        of: Box<Getter>,
        mapper: Func,
    },
    /// By a transformer of its own, one that reaches these stores.
    Transform {
        of: Box<Getter>,
        factory: usize,
        stores: Vec<String>,
    },
    /// Of a key that waits in the buffer `store`, what was told last; of others what `of` says.
    Suppressed {
        store: String,
        of: Box<Getter>,
    },
    /// A table-table join: null sides by `left` and `right` outerness.
    Join {
        left: Box<Getter>,
        right: Box<Getter>,
        joiner: Func,
        left_outer: bool,
        right_outer: bool,
    },
}

/// A getter whose stores were found.
#[derive(Clone, Debug)]
pub enum Lookup {
    Store(usize),
    /// What those behind the table have been told of it: changes that wait in its cache do not count yet.
    Told(usize),
    Global(usize),
    Filter {
        of: Box<Lookup>,
        predicate: Func,
        negate: bool,
    },
    MapValues {
        of: Box<Lookup>,
        mapper: Func,
    },
    Transform(Transformed),
    Suppressed {
        store: usize,
        of: Box<Lookup>,
    },
    Join {
        left: Box<Lookup>,
        right: Box<Lookup>,
        joiner: Func,
        left_outer: bool,
        right_outer: bool,
    },
}

impl Getter {
    pub fn find(
        &self,
        store: &dyn Fn(&str) -> Result<usize, PlanError>,
        access: &dyn Fn(&[String]) -> Result<Access, PlanError>,
        globals: &Globals,
    ) -> Result<Lookup, PlanError> {
        Ok(match self {
            Getter::Store(name) => Lookup::Store(store(name)?),
            Getter::Global(name) => Lookup::Global(
                globals
                    .named(name)
                    .ok_or_else(|| PlanError::new("bad_plan", format!("there is no global table `{name}`")))?,
            ),
            Getter::Filter { of, predicate, negate } => Lookup::Filter {
                of: Box::new(of.find(store, access, globals)?),
                predicate: *predicate,
                negate: *negate,
            },
            Getter::MapValues { of, mapper } => {
                Lookup::MapValues { of: Box::new(of.find(store, access, globals)?), mapper: *mapper }
            }
            Getter::Transform { of, factory, stores } => Lookup::Transform(Transformed {
                of: Box::new(of.find(store, access, globals)?),
                transformer: Arc::new(Transformer::new(*factory, access(stores)?)),
            }),
            Getter::Suppressed { store: name, of } => {
                Lookup::Suppressed { store: store(name)?, of: Box::new(of.find(store, access, globals)?) }
            }
            Getter::Join { left, right, joiner, left_outer, right_outer } => Lookup::Join {
                left: Box::new(left.find(store, access, globals)?),
                right: Box::new(right.find(store, access, globals)?),
                joiner: *joiner,
                left_outer: *left_outer,
                right_outer: *right_outer,
            },
        })
    }
}

impl Lookup {
    /// The same for somebody who goes by what was told; `store` is called with each table's store.
    pub fn of_told(self, store: &mut dyn FnMut(usize)) -> Lookup {
        let mut boxed = |of: Box<Lookup>| Box::new(of.of_told(store));
        match self {
            Lookup::Store(index) | Lookup::Told(index) => {
                store(index);
                Lookup::Told(index)
            }
            Lookup::Global(index) => Lookup::Global(index),
            Lookup::Filter { of, predicate, negate } => Lookup::Filter { of: boxed(of), predicate, negate },
            Lookup::MapValues { of, mapper } => Lookup::MapValues { of: boxed(of), mapper },
            Lookup::Transform(Transformed { of, transformer }) => {
                Lookup::Transform(Transformed { of: boxed(of), transformer })
            }
            Lookup::Suppressed { store, of } => Lookup::Suppressed { store, of: boxed(of) },
            Lookup::Join { left, right, joiner, left_outer, right_outer } => {
                Lookup::Join { left: boxed(left), right: boxed(right), joiner, left_outer, right_outer }
            }
        }
    }

    /// The value and its time; `None`: the table has no such key.
    pub fn get(&self, cx: Cx<'_>, key: &Datum) -> Result<Option<(Datum, i64)>, Failure> {
        Ok(match self {
            Lookup::Store(index) => cx.latest(*index, key)?,
            Lookup::Told(index) => {
                let waiting = cx.store(*index).waiting_told(key)?;
                match waiting {
                    Some(told) => told,
                    None => cx.latest(*index, key)?,
                }
            }
            Lookup::Global(index) => cx.graph.globals.get(*index, &key_bytes(key)?),
            Lookup::Filter { of, predicate, negate } => match of.get(cx, key)? {
                Some((value, ts)) if predicate.holds(cx, key, &[&value])? != *negate => Some((value, ts)),
                _ => None,
            },
            Lookup::MapValues { of, mapper } => match of.get(cx, key)? {
                Some((value, ts)) => {
                    let mapped = mapper.apply(cx, key, &[&value])?;
                    (!mapped.is_null()).then_some((mapped, ts))
                }
                None => None,
            },
            Lookup::Transform(made) => made.of(key, made.of.get(cx, key)?, cx)?,
            Lookup::Suppressed { store, of } => match super::suppress::told(&cx.store(*store), key)? {
                Some(told) => (!told.is_null()).then_some((told, -1)), // when it was told is not known
                None => of.get(cx, key)?,
            },
            Lookup::Join { left, right, joiner, left_outer, right_outer } => {
                let (l, r) = (left.get(cx, key)?, right.get(cx, key)?);
                if (l.is_none() && !right_outer) || (r.is_none() && !left_outer) || (l.is_none() && r.is_none()) {
                    return Ok(None);
                }
                let ts = l.as_ref().map_or(i64::MIN, |l| l.1).max(r.as_ref().map_or(i64::MIN, |r| r.1));
                let side = |side: Option<(Datum, i64)>| side.map_or(Datum::Null, |s| s.0);
                let joined = joiner.apply(cx, key, &[&side(l), &side(r)])?;
                (!joined.is_null()).then_some((joined, ts))
            }
        })
    }

    /// As of a time, where the table is versioned; the latest where it is not.
    pub fn get_as_of(&self, cx: Cx<'_>, key: &Datum, ts: i64) -> Result<Option<(Datum, i64)>, Failure> {
        match self {
            Lookup::Store(index) if cx.store(*index).spec.kind == StoreKind::Versioned => {
                cx.store(*index).as_of(key, ts)
            }
            Lookup::Filter { of, predicate, negate } => match of.get_as_of(cx, key, ts)? {
                Some((value, at)) if predicate.holds(cx, key, &[&value])? != *negate => Ok(Some((value, at))),
                _ => Ok(None),
            },
            Lookup::MapValues { of, mapper } => match of.get_as_of(cx, key, ts)? {
                Some((value, at)) => {
                    let mapped = mapper.apply(cx, key, &[&value])?;
                    Ok((!mapped.is_null()).then_some((mapped, at)))
                }
                None => Ok(None),
            },
            Lookup::Transform(made) => made.of(key, made.of.get_as_of(cx, key, ts)?, cx),
            _ => self.get(cx, key),
        }
    }
}
