//! What is asked of the events that a run has taken: by conditions that look back, and by what is made of a match.
//!
//! ```text
//!   {"stage": "w", "look": "sum", "of": f}     f of each event of `w`, oldest first ──▶ their sum
//!   {"look": "first", "of": f}                 without a stage: of the events of all stages, as the match has them
//! ```
//!
//! Nulls are left out of sums, means, extremes and counts; the first and the last are what they are.

use std::cmp::Ordering;
use std::sync::Arc;

use serde::Deserialize;

use super::func::Func;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;
use crate::expr::order;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Look {
    Count,
    First,
    Last,
    Sum,
    Mean,
    Min,
    Max,
    Any,
    All,
    Values,
}

#[derive(Debug, Deserialize)]
pub struct Use {
    /// Under which a function finds it.
    name: String,
    /// None: of all.
    #[serde(default)]
    stage: Option<String>,
    look: Look,
    /// Of each event; none: the event itself.
    #[serde(default)]
    of: Option<Func>,
}

/// `a + b` and `a / b` on (a, b), by the rules of expressions.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sums {
    add: Func,
    divide: Func,
}

/// How a function is called with values, and the key before them if it wants it.
pub type Call<'a> = &'a dyn Fn(&Func, &[&Datum]) -> Result<Datum, Failure>;

impl Use {
    pub fn name(&self) -> Arc<str> {
        Arc::from(self.name.as_str())
    }

    pub fn is_of(&self, stage: &str) -> bool {
        self.stage.as_deref().is_none_or(|wanted| wanted == stage)
    }

    /// `at_hand`: the event that taken ones may be compared with. `call`: of functions.
    pub fn value(
        &self,
        events: &[&Datum],
        at_hand: &Datum,
        sums: &Sums,
        cx: Cx<'_>,
        key: &Datum,
        call: Call<'_>,
    ) -> Result<Datum, Failure> {
        let of = |event: &&Datum| match &self.of {
            Some(of) => call(of, &[event, at_hand]),
            None => Ok((*event).clone()),
        };
        let values = match self.look {
            Look::Count if self.of.is_none() => return Ok(Datum::Int(events.len() as i64)),
            Look::First => return events.first().map_or(Ok(Datum::Null), of),
            Look::Last => return events.last().map_or(Ok(Datum::Null), of),
            Look::Sum | Look::Mean => {
                let (mut sum, mut n) = (Datum::Int(0), 0);
                for event in events {
                    let value = of(event)?;
                    n += i64::from(!value.is_null());
                    sum = match (&sum, &value) {
                        (_, Datum::Null) => continue,
                        // The plain case by itself.
                        (Datum::Int(a), Datum::Int(b)) if a.checked_add(*b).is_some() => Datum::Int(a + b),
                        (one, other) => sums.add.apply(cx, key, &[one, other])?,
                    };
                }
                return match self.look {
                    Look::Sum => Ok(sum),
                    _ if n == 0 => Ok(Datum::Null),
                    _ => sums.divide.apply(cx, key, &[&sum, &Datum::Int(n)]),
                };
            }
            _ => events.iter().map(of).collect::<Result<Vec<_>, _>>()?,
        };
        let known = values.iter().filter(|v| !v.is_null());
        Ok(match self.look {
            Look::Count => Datum::Int(known.count() as i64),
            Look::Any => Datum::Bool(values.iter().any(Datum::is_true)),
            Look::All => Datum::Bool(values.iter().all(Datum::is_true)),
            Look::Values => Datum::List(values.into()),
            _ => {
                let better = if self.look == Look::Min { Ordering::Less } else { Ordering::Greater };
                let mut best = Datum::Null;
                for value in known {
                    if best.is_null() || order(value, &best)? == better {
                        best = value.clone();
                    }
                }
                best
            }
        })
    }
}

/// What is made of a match, which is an object of its stages with their events.
#[derive(Deserialize)]
pub struct SelectMatch {
    /// Of (the match, the object of what is asked).
    make: Func,
    uses: Vec<Use>,
    #[serde(flatten)]
    sums: Sums,
}

impl Node for SelectMatch {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        let Datum::Map(stages) = &record.value else {
            return Err(Failure::Bad("bad_type", format!("{:?} is no match", record.value)));
        };
        let asked = |wanted: &Use| {
            let of = stages.iter().filter(|(stage, _)| wanted.is_of(stage));
            let events: Vec<&Datum> = of
                .flat_map(|(_, events)| match events {
                    Datum::List(events) => &events[..],
                    _ => &[],
                })
                .collect();
            let call = |func: &Func, values: &[&Datum]| func.apply(cx, &record.key, values);
            Ok((wanted.name(), wanted.value(&events, &Datum::Null, &self.sums, cx, &record.key, &call)?))
        };
        let fields = Datum::Map(self.uses.iter().map(asked).collect::<Result<_, Failure>>()?);
        let value = self.make.apply(cx, &record.key, &[&record.value, &fields])?;
        cx.forward(record.with_value(value))
    }
}
