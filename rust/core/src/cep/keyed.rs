//! One key's share of the operator, as Flink's `CepOperator` keeps it: events that wait for the watermark, in order of time and of
//! arrival; times at which something is due; the runs of each pattern.
//!
//! ```text
//!   event time        arrive ──▶ waiting ──(due: its time)──▶ fire ──▶ runs of every pattern
//!   processing time   read_now ─────────────────────────────────────▶ runs of every pattern
//! ```
//!
//! In event time nothing is told before the watermark passes an event's time. When something is due, time is moved to each waiting
//! event's and then to the watermark; a key for which nothing is due is not looked at. A run's window is due (`start + window`), one
//! between two events is not: without another event of its key it is noticed only when something else is; that of a mended pattern is
//! due as well. In processing time
//! everything is due one millisecond later ([`Watched::lag`]).
//!
//! Patterns share the events and nothing else: each does what it would do alone. One may have a [`Life`]: it is shown the events of
//! its time, and behind its end no event begins a run.

use std::collections::{BTreeMap, BTreeSet};

use super::automaton::Automaton;
use super::matcher::{Conditions, Match, Runs};
use crate::expr::Fault;

#[derive(Clone, Debug)]
pub struct Keyed<E> {
    /// By time and lane, as they came.
    pub waiting: BTreeMap<(i64, u32), Vec<E>>,
    /// When waiting events are.
    pub due: BTreeSet<i64>,
    /// By pattern.
    pub each: Vec<Watch<E>>,
}

/// What a key has of one pattern.
#[derive(Clone, Debug)]
pub struct Watch<E> {
    /// When windows of runs are over.
    pub due: BTreeSet<i64>,
    /// None: as new.
    pub runs: Option<Runs<E>>,
}

impl<E> Default for Watch<E> {
    fn default() -> Self {
        Watch { due: BTreeSet::new(), runs: None }
    }
}

/// From when to when a pattern is looked for, in the time of the events, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub from: i64,
    /// From then on no event begins a run; what had begun goes on.
    pub until: i64,
    /// From then on nothing is left of it; what had begun goes, untold.
    pub gone: i64,
}

impl Life {
    pub const ALWAYS: Life = Life { from: i64::MIN, until: i64::MAX, gone: i64::MAX };
}

/// What is looked for.
#[derive(Debug)]
pub struct Watched {
    pub automata: Vec<Automaton>,
    /// By pattern.
    pub lives: Vec<Life>,
    /// By pattern: whether time-outs are told.
    pub timed_out: Vec<bool>,
    /// How long after its time something is due, ms.
    pub lag: i64,
}

/// What became of it, in order, and of which pattern.
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
    /// An event on which a condition failed, or which ended a match whose skip strategy throws, and its time.
    Failed(E, i64, Fault),
}

/// The conditions of a pattern on an event of this time.
pub type Asking<'a, 'c, E> = &'a mut dyn FnMut(usize, &E, i64) -> Box<dyn Conditions<E> + 'c>;

impl<E: Clone> Keyed<E> {
    pub fn of(patterns: usize) -> Self {
        Keyed {
            waiting: BTreeMap::new(),
            due: BTreeSet::new(),
            each: std::iter::repeat_with(Watch::default).take(patterns).collect(),
        }
    }

    /// `lane`: where it comes from. Of one time, what comes by one lane is before what comes by the next, so that it does not
    /// matter which is read first.
    pub fn arrive(&mut self, event: E, ts: i64, lane: u32, watched: &Watched) {
        self.due.insert(ts.saturating_add(watched.lag));
        self.waiting.entry((ts, lane)).or_default().push(event);
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<i64> {
        let each = self.each.iter().filter_map(|watch| watch.due.first());
        self.due.first().into_iter().chain(each).min().copied()
    }

    /// Something is due, and the watermark is there. `sort` puts events of one time in order.
    pub fn fire(
        &mut self,
        watched: &Watched,
        watermark: i64,
        sort: &mut dyn FnMut(&mut Vec<E>),
        conditions: Asking<'_, '_, E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        let passed = |due: &mut BTreeSet<i64>| {
            let any = due.first().is_some_and(|ts| *ts <= watermark);
            due.retain(|ts| *ts > watermark);
            any
        };
        let events = passed(&mut self.due);
        let mut looked: Vec<Looked<E>> = vec![];
        for (pattern, watch) in self.each.iter_mut().enumerate() {
            if passed(&mut watch.due) || events {
                looked.push(Looked::new(watched, pattern, watch));
            }
        }
        while let Some(entry) = self.waiting.first_entry().filter(|e| e.key().0 <= watermark) {
            let ((ts, _), mut events) = entry.remove_entry();
            while let Some(entry) = self.waiting.first_entry().filter(|e| e.key().0 == ts) {
                events.extend(entry.remove());
            }
            looked.iter_mut().for_each(|one| one.advance(watched, ts, said));
            sort(&mut events);
            for event in events {
                for one in &mut looked {
                    one.read(watched, &event, ts, conditions, said);
                }
            }
        }
        for mut one in looked {
            one.advance(watched, watermark, said);
            one.leave(watched, &mut self.each);
        }
    }

    /// Reads an event as it comes: it is `now`.
    pub fn read_now(
        &mut self,
        watched: &Watched,
        event: &E,
        now: i64,
        conditions: Asking<'_, '_, E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        for pattern in 0..self.each.len() {
            let mut one = Looked::new(watched, pattern, &mut self.each[pattern]);
            one.advance(watched, now, said);
            one.read(watched, event, now, conditions, said);
            one.leave(watched, &mut self.each);
        }
    }

    /// Whether nothing is left to remember.
    pub fn empty(&self) -> bool {
        self.waiting.is_empty() && self.due.is_empty() && self.each.iter().all(|w| w.runs.is_none() && w.due.is_empty())
    }
}

/// A pattern's runs while they are looked at.
struct Looked<E> {
    pattern: usize,
    runs: Runs<E>,
    /// Once a run has begun, each later event of the same look counts as if it had begun one.
    began: bool,
    due: BTreeSet<i64>,
}

impl<E: Clone> Looked<E> {
    fn new(watched: &Watched, pattern: usize, watch: &mut Watch<E>) -> Self {
        let runs = watch.runs.take().unwrap_or_else(|| Runs::new(&watched.automata[pattern]));
        Looked { pattern, runs, began: false, due: BTreeSet::new() }
    }

    fn advance(&mut self, watched: &Watched, ts: i64, said: &mut Vec<(usize, Said<E>)>) {
        let (p, automaton, life) = (self.pattern, &watched.automata[self.pattern], &watched.lives[self.pattern]);
        let gone = ts >= life.gone;
        // What was over before that is told, whenever somebody looks.
        let ts = if gone { life.gone.saturating_sub(1) } else { ts };
        let told = self.runs.advance(automaton, ts, watched.timed_out[p]);
        said.extend(told.matches.into_iter().map(|m| (p, Said::Match(m, ts))));
        said.extend(told.timed_out.into_iter().map(|(m, at)| (p, Said::TimedOut(m, at))));
        said.extend(told.missed.into_iter().map(|(event, at, fault)| (p, Said::Failed(event, at, fault))));
        if gone {
            self.runs = Runs::new(automaton);
        }
    }

    fn read(
        &mut self,
        watched: &Watched,
        event: &E,
        ts: i64,
        conditions: Asking<'_, '_, E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        let (p, automaton, life) = (self.pattern, &watched.automata[self.pattern], &watched.lives[self.pattern]);
        if ts < life.from || ts >= life.gone || (ts >= life.until && self.runs.idle()) {
            return;
        }
        let runs_before = self.runs.partial.len() - 1;
        match self.runs.process(automaton, event, ts, &mut *conditions(p, event, ts)) {
            Ok(told) => {
                self.began |= told.began;
                if automaton.window_ms > 0 && self.began {
                    self.due.insert(ts.saturating_add(automaton.window_ms).saturating_add(watched.lag));
                }
                said.extend(told.matches.into_iter().map(|m| (p, Said::Match(m, ts))));
                said.extend(told.missed.into_iter().map(|(event, at, fault)| (p, Said::Failed(event, at, fault))));
                said.extend((told.dropped > 0).then_some((p, Said::Dropped(told.dropped))));
                let (many, runs_now) = (automaton.many_runs(), self.runs.partial.len() - 1);
                said.extend((runs_before < many && runs_now >= many).then_some((p, Said::Many(runs_now))));
            }
            Err(fault) => said.push((p, Said::Failed(event.clone(), ts, fault))),
        }
    }

    fn leave(mut self, watched: &Watched, each: &mut [Watch<E>]) {
        let (watch, automaton) = (&mut each[self.pattern], &watched.automata[self.pattern]);
        if automaton.mended {
            self.due.extend(self.runs.next_over(automaton).map(|ts| ts.saturating_add(watched.lag)));
        }
        watch.due.extend(self.due);
        watch.runs = (!self.runs.idle()).then_some(self.runs);
    }
}
