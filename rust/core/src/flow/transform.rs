//! `transform_values` of a table: each value becomes what a transformer of the user returns for key and value, one with stores
//! and punctuations, but without a say in who gets what.
//!
//! It is called with deletions, too (a null value). Where the table has no store, whoever looks into it (a join) has a
//! transformer of its own, called again for each look; and where old values are wanted, it is called with them. All as in
//! Kafka Streams' `KTableTransformValues`.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use super::func::Lookup;
use super::process::{Access, Processor};
use super::table::Teller;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;
use crate::error::Fatal;

/// One instance, made when it is first called and again in each life of the task.
pub struct Transformer {
    factory: usize,
    access: Access,
    host: Mutex<Option<(u64, Box<dyn Processor>)>>,
}

impl fmt::Debug for Transformer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Transformer({})", self.factory)
    }
}

impl Transformer {
    pub fn new(factory: usize, access: Access) -> Transformer {
        Transformer { factory, access: Access { transforms: true, ..access }, host: Mutex::default() }
    }

    /// Makes the instance, if this life has none.
    fn begin(&self, cx: Cx<'_>) -> Done {
        let life = cx.graph.life.get();
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        if host.as_ref().is_some_and(|h| h.0 == life) {
            return Ok(());
        }
        let fail = |text: String| Fatal::new("processor_failed", format!("`{}` cannot be made: {text}", cx.name()));
        let made = cx.env.foreign.processor(self.factory, &self.access).map_err(fail)?;
        match host.insert((life, made)).1.init(cx) {
            Err(Failure::Bad(_, text)) => {
                Err(Fatal::new("processor_failed", format!("`{}`: init: {text}", cx.name())).into())
            }
            other => other,
        }
    }

    fn apply(&self, key: &Datum, value: &Datum, cx: Cx<'_>) -> Result<Datum, Failure> {
        self.begin(cx)?;
        let mut host = self.host.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *host {
            Some((_, host)) => host.transform(key, value, cx),
            None => Err(Fatal::new("bad_plan", "a transformer was not begun").into()),
        }
    }
}

/// How somebody looks into such a table.
#[derive(Clone, Debug)]
pub struct Transformed {
    pub of: Box<Lookup>,
    pub transformer: Arc<Transformer>,
}

impl Transformed {
    /// A row with its time; what is made of a key that is not there has none, and counts as of before all time.
    pub fn of(&self, key: &Datum, row: Option<(Datum, i64)>, cx: Cx<'_>) -> Result<Option<(Datum, i64)>, Failure> {
        let (value, ts) = row.unwrap_or((Datum::Null, -1));
        let made = self.transformer.apply(key, &value, cx)?;
        Ok((!made.is_null()).then_some((made, ts)))
    }
}

pub struct TransformValues {
    pub transformer: Transformer,
    pub store: Option<usize>,
    pub teller: Teller,
}

impl Node for TransformValues {
    fn begin(&mut self, cx: Cx<'_>) -> Done {
        cx.graph.schedules.borrow_mut().begin(cx.node);
        let done = self.transformer.begin(cx);
        cx.graph.schedules.borrow_mut().begun();
        done
    }
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let value = self.transformer.apply(&record.key, &record.value, cx)?;
        match self.store {
            None => {
                let old = match self.teller.sends_old() {
                    true => self.transformer.apply(&record.key, &record.old, cx)?,
                    false => Datum::Null,
                };
                cx.forward(Record { value, old, ..record })
            }
            Some(store) => {
                let before = cx.latest(store, &record.key)?.map(|b| b.0);
                let change = Record { value, old: before.clone().unwrap_or_default(), ..record };
                self.teller.keep(store, change, before, cx)
            }
        }
    }
    fn fire(&mut self, schedule: u64, clock: super::Clock, cx: Cx<'_>) -> Done {
        let mut host = self.transformer.host.lock().unwrap_or_else(PoisonError::into_inner);
        host.as_mut().map_or(Ok(()), |h| h.1.punctuate(schedule, cx.time(clock), cx))
    }
    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.teller.flush(cx)
    }
    fn restored(&mut self, _: Cx<'_>) {
        self.teller.clear();
    }
}
