//! A pattern as it is said: a chain of stages, each with its contiguity, quantifier, conditions and windows.
//!
//! It comes as JSON from the host language, which has refused by then whatever Flink's `Pattern` refuses call by call
//! (quantifiers twice, conditions on groups); [`super::Automaton::compile`] refuses what shows only in the whole.

use serde::Deserialize;
use serde_json::{json, Value};

/// How a stage relates to the event before it. In Flink: `ConsumingStrategy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Contiguity {
    Strict,
    SkipTillNext,
    SkipTillAny,
    NotFollow,
    NotNext,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub struct Times {
    pub from: u32,
    pub to: u32,
    /// Between repetitions, ms.
    #[serde(default)]
    pub window: Option<i64>,
}

/// A condition of the user by its number, or several of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Guard {
    Always,
    Is(u16),
    /// The event comes less than this after the run's last one, ms; true of who has none.
    Within(i64),
    Not(Box<Guard>),
    And(Box<[Guard; 2]>),
    Or(Box<[Guard; 2]>),
}

impl Guard {
    pub fn and(self, other: Guard) -> Guard {
        match (self, other) {
            (Guard::Always, other) => other,
            (this, Guard::Always) => this,
            (this, other) => Guard::And(Box::new([this, other])),
        }
    }

    /// `true`, a number, `["within", ms]`, `["not", g]`, `["and", g, h]`, `["or", g, h]`.
    pub fn describe(&self) -> Value {
        match self {
            Guard::Always => json!(true),
            Guard::Is(condition) => json!(condition),
            Guard::Within(ms) => json!(["within", ms]),
            Guard::Not(guard) => json!(["not", guard.describe()]),
            Guard::And(both) => json!(["and", both[0].describe(), both[1].describe()]),
            Guard::Or(both) => json!(["or", both[0].describe(), both[1].describe()]),
        }
    }

    /// Of a run that has taken nothing; none if a condition says nothing.
    pub fn of_start(&self, holds: &mut dyn FnMut(u16) -> Option<bool>) -> Option<bool> {
        Some(match self {
            Guard::Always | Guard::Within(_) => true,
            Guard::Is(condition) => holds(*condition)?,
            Guard::Not(guard) => !guard.of_start(holds)?,
            Guard::And(both) => both[0].of_start(holds)? && both[1].of_start(holds)?,
            Guard::Or(both) => both[0].of_start(holds)? || both[1].of_start(holds)?,
        })
    }

    pub fn negated(self) -> Guard {
        Guard::Not(Box::new(self))
    }
}

#[derive(Clone, Debug, Deserialize)]
pub struct Stage {
    /// Of a group none is given.
    #[serde(default)]
    pub name: String,
    pub contiguity: Contiguity,
    /// Between repetitions.
    #[serde(default = "skip_till_next")]
    pub inner: Contiguity,
    #[serde(default, rename = "where")]
    pub condition: Option<Guard>,
    #[serde(default)]
    pub until: Option<Guard>,
    /// Of a stage with a quantifier.
    #[serde(default)]
    pub times: Option<Times>,
    /// Whether there is no upper bound.
    #[serde(default)]
    pub looping: bool,
    #[serde(default)]
    pub optional: bool,
    #[serde(default)]
    pub greedy: bool,
    /// From the first event to the last, ms.
    #[serde(default)]
    pub within: Option<i64>,
    /// From the event before to this stage's, ms.
    #[serde(default)]
    pub within_previous: Option<i64>,
    #[serde(default)]
    pub group: Option<Vec<Stage>>,
}

fn skip_till_next() -> Contiguity {
    Contiguity::SkipTillNext
}

/// Which runs go when a match was found. In Flink: `AfterMatchSkipStrategy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Skip {
    #[default]
    No,
    ToNext,
    PastLast,
    ToFirst {
        stage: String,
        #[serde(default)]
        throws: bool,
    },
    ToLast {
        stage: String,
        #[serde(default)]
        throws: bool,
    },
}

#[derive(Clone, Debug, Deserialize)]
pub struct Pattern {
    pub stages: Vec<Stage>,
    #[serde(default)]
    pub skip: Skip,
    /// Without Flink's known faults.
    #[serde(default)]
    pub mended: bool,
    /// A match that may become longer is told when it no longer can.
    #[serde(default)]
    pub longest: bool,
}
