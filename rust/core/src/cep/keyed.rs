//! One key's share of the operator, as Flink's `CepOperator` keeps it: events that wait for the watermark, in order of time and of
//! arrival; times at which something is due; the runs.
//!
//! Nothing is told before the watermark passes an event's time. When something is due, time is moved to each waiting event's
//! and then to the watermark; a key for which nothing is due is not looked at. A run's window is due (`start + window`), one
//! between two events is not: without another event of its key it is noticed only when something else is.

use std::collections::{BTreeMap, BTreeSet};

use super::automaton::Automaton;
use super::matcher::{Conditions, Match, Runs};
use crate::expr::Fault;

#[derive(Clone, Debug)]
pub struct Keyed<E> {
    /// By time, as they came.
    pub waiting: BTreeMap<i64, Vec<E>>,
    pub due: BTreeSet<i64>,
    /// None: as new.
    pub runs: Option<Runs<E>>,
}

impl<E> Default for Keyed<E> {
    fn default() -> Self {
        Keyed { waiting: BTreeMap::new(), due: BTreeSet::new(), runs: None }
    }
}

/// What became of it, in order.
#[derive(Debug)]
pub enum Said<E> {
    /// A match and its time: of its last event, or when time released it.
    Match(Match<E>, i64),
    /// With the time at which it was given up.
    TimedOut(Match<E>, i64),
    /// So many runs went, because there were more than the cap allows.
    Dropped(usize),
    /// The key has come to so many runs that somebody should know.
    Many(usize),
    /// An event on which a condition failed; the runs did not see it.
    Failed(E, i64, Fault),
}

impl<E: Clone> Keyed<E> {
    pub fn arrive(&mut self, event: E, ts: i64) {
        self.due.insert(ts);
        self.waiting.entry(ts).or_default().push(event);
    }

    /// Something is due, and the watermark is there. `timed_out`: whether time-outs are told; `sort` puts events of one time in
    /// order.
    pub fn fire<'c>(
        &mut self,
        automaton: &Automaton,
        watermark: i64,
        timed_out: bool,
        sort: &mut dyn FnMut(&mut Vec<E>),
        conditions: &mut dyn FnMut(&E, i64) -> Box<dyn Conditions<E> + 'c>,
        said: &mut Vec<Said<E>>,
    ) {
        let mut runs = self.runs.take().unwrap_or_else(|| Runs::new(automaton));
        let mut began = false;
        let many = automaton.many_runs();
        while let Some(entry) = self.waiting.first_entry().filter(|e| *e.key() <= watermark) {
            let (ts, mut events) = entry.remove_entry();
            advance(&mut runs, automaton, ts, timed_out, said);
            sort(&mut events);
            for event in events {
                let runs_before = runs.partial.len() - 1;
                match runs.process(automaton, &event, ts, &mut *conditions(&event, ts)) {
                    Ok(told) => {
                        // Once a run has begun, each later event that is due now counts as if it had begun one.
                        began |= told.began;
                        if automaton.window_ms > 0 && began {
                            self.due.insert(ts.saturating_add(automaton.window_ms));
                        }
                        said.extend(told.matches.into_iter().map(|m| Said::Match(m, ts)));
                        said.extend((told.dropped > 0).then_some(Said::Dropped(told.dropped)));
                        let runs_now = runs.partial.len() - 1;
                        said.extend((runs_before < many && runs_now >= many).then_some(Said::Many(runs_now)));
                    }
                    Err(fault) => said.push(Said::Failed(event, ts, fault)),
                }
            }
        }
        advance(&mut runs, automaton, watermark, timed_out, said);
        self.runs = (!runs.idle()).then_some(runs);
    }

    /// Whether nothing is left to remember.
    pub fn empty(&self) -> bool {
        self.runs.is_none() && self.waiting.is_empty() && self.due.is_empty()
    }
}

fn advance<E: Clone>(runs: &mut Runs<E>, automaton: &Automaton, ts: i64, timed_out: bool, said: &mut Vec<Said<E>>) {
    // It can fail only by a strategy that throws; time has no event to blame: what was to be told waits for the next one.
    if let Ok(told) = runs.advance(automaton, ts, timed_out) {
        said.extend(told.matches.into_iter().map(|m| Said::Match(m, ts)));
        said.extend(told.timed_out.into_iter().map(|(m, at)| Said::TimedOut(m, at)));
    }
}
