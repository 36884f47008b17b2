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
//! due as well. In processing time everything is due one millisecond later ([`Watched::lag`]).
//! When the last run is gone, what is due of it is forgotten, unless windows between events may need the look.
//!
//! Patterns share the events and nothing else: each does what it would do alone. One may have a [`Life`]: it is shown the events of
//! its time, and behind its end no event begins a run.

use super::automaton::Automaton;
use super::matcher::{Conditions, Known, Match, Runs};
use super::waiting::{Due, Read, Times, Waiting};
use crate::expr::Fault;

#[derive(Clone, Debug)]
pub struct Keyed<E> {
    pub waiting: Waiting<E>,
    /// When waiting events are.
    pub due: Times,
    /// By pattern.
    pub each: Vec<Watch<E>>,
}

/// What a key has of one pattern.
#[derive(Clone, Debug)]
pub struct Watch<E> {
    /// When windows of runs are over.
    pub due: Times,
    /// None: as new.
    pub runs: Option<Box<Runs<E>>>,
    /// While it is looked at: that it is.
    looked: bool,
    /// Once a run has begun, each later event of the same look counts as if it had begun one.
    began: bool,
}

impl<E> Default for Watch<E> {
    fn default() -> Self {
        Watch::of(Times::default(), None)
    }
}

impl<E> Watch<E> {
    pub fn of(due: Times, runs: Option<Runs<E>>) -> Self {
        Watch { due, runs: runs.map(Box::new), looked: false, began: false }
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

impl<E: Clone> Keyed<E> {
    pub fn of(patterns: usize) -> Self {
        Keyed {
            waiting: Waiting::default(),
            due: Times::default(),
            each: std::iter::repeat_with(Watch::default).take(patterns).collect(),
        }
    }

    /// `lane`: where it comes from. Of one time, what comes by one lane is before what comes by the next, so that it does not
    /// matter which is read first. `known`: what conditions have said of it already.
    pub fn arrive(&mut self, event: E, ts: i64, lane: u32, known: Known, watched: &Watched) {
        self.due.insert(ts.saturating_add(watched.lag));
        self.waiting.add((ts, lane), event, known);
    }

    /// When something is due next.
    pub fn next_due(&self) -> Option<i64> {
        let each = self.each.iter().filter_map(|watch| watch.due.first());
        self.due.first().into_iter().chain(each).min()
    }

    /// Something is due, and the watermark is there. `sort` puts events of one time in order.
    pub fn fire(
        &mut self,
        watched: &Watched,
        watermark: i64,
        sort: &mut dyn FnMut(&mut Vec<Read<E>>),
        conditions: &mut dyn Conditions<E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        let events = self.due.pass(watermark);
        for watch in &mut self.each {
            watch.looked = watch.due.pass(watermark) || events;
        }
        while let Some(Due { ts, first, mut others }) = self.waiting.take(watermark) {
            self.advance(watched, ts, said);
            if others.is_empty() {
                self.read(watched, &first, ts, conditions, said);
                continue;
            }
            others.insert(0, first);
            sort(&mut others);
            for event in &others {
                self.read(watched, event, ts, conditions, said);
            }
        }
        self.advance(watched, watermark, said);
        self.leave(watched);
    }

    /// As if an event had waited here, alone, and time had come to the watermark: nothing else of the key may be due before that.
    pub fn fire_one(
        &mut self,
        watched: &Watched,
        (event, ts): (&Read<E>, i64),
        watermark: i64,
        conditions: &mut dyn Conditions<E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        for watch in &mut self.each {
            watch.due.pass(watermark);
            watch.looked = true;
        }
        self.advance(watched, ts, said);
        self.read(watched, event, ts, conditions, said);
        self.advance(watched, watermark, said);
        self.leave(watched);
    }

    /// Reads an event as it comes: it is `now`.
    pub fn read_now(
        &mut self,
        watched: &Watched,
        event: &E,
        now: i64,
        conditions: &mut dyn Conditions<E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        conditions.read(event, Known::default());
        for (pattern, watch) in self.each.iter_mut().enumerate() {
            watch.looked = true;
            watch.advance(watched, pattern, now, said);
            watch.read(watched, pattern, event, now, conditions, said);
        }
        self.leave(watched);
    }

    fn advance(&mut self, watched: &Watched, ts: i64, said: &mut Vec<(usize, Said<E>)>) {
        for (pattern, watch) in self.each.iter_mut().enumerate().filter(|(_, watch)| watch.looked) {
            watch.advance(watched, pattern, ts, said);
        }
    }

    fn read(
        &mut self,
        watched: &Watched,
        (event, known): &Read<E>,
        ts: i64,
        conditions: &mut dyn Conditions<E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        conditions.read(event, *known);
        for (pattern, watch) in self.each.iter_mut().enumerate().filter(|(_, watch)| watch.looked) {
            watch.read(watched, pattern, event, ts, conditions, said);
        }
    }

    fn leave(&mut self, watched: &Watched) {
        for (pattern, watch) in self.each.iter_mut().enumerate().filter(|(_, watch)| watch.looked) {
            watch.leave(&watched.automata[pattern], watched.lag);
        }
    }

    /// Whether nothing is left to remember.
    pub fn empty(&self) -> bool {
        self.waiting.is_empty() && self.due.is_empty() && self.each.iter().all(|w| w.runs.is_none() && w.due.is_empty())
    }
}

impl<E: Clone> Watch<E> {
    fn advance(&mut self, watched: &Watched, p: usize, ts: i64, said: &mut Vec<(usize, Said<E>)>) {
        let Some(runs) = &mut self.runs else { return };
        let (automaton, life) = (&watched.automata[p], &watched.lives[p]);
        let gone = ts >= life.gone;
        // What was over before that is told, whenever somebody looks.
        let ts = if gone { life.gone.saturating_sub(1) } else { ts };
        if !runs.quiet(automaton, ts) {
            let told = runs.advance(automaton, ts, watched.timed_out[p]);
            said.extend(told.matches.into_iter().map(|m| (p, Said::Match(m, ts))));
            said.extend(told.timed_out.into_iter().map(|(m, at)| (p, Said::TimedOut(m, at))));
            said.extend(told.missed.into_iter().map(|(event, at, fault)| (p, Said::Failed(event, at, fault))));
        }
        if gone {
            self.runs = None;
        }
    }

    fn read(
        &mut self,
        watched: &Watched,
        p: usize,
        event: &E,
        ts: i64,
        conditions: &mut dyn Conditions<E>,
        said: &mut Vec<(usize, Said<E>)>,
    ) {
        let (automaton, life) = (&watched.automata[p], &watched.lives[p]);
        let idle = self.runs.as_ref().is_none_or(|runs| runs.idle());
        if ts < life.from || ts >= life.gone || (ts >= life.until && idle) {
            return;
        }
        conditions.turn(p, event, ts);
        let begins_none = |conditions: &mut dyn Conditions<E>| {
            !conditions.traces() && automaton.begins(&mut |condition| conditions.alone(condition, event)) == Some(false)
        };
        if self.runs.is_none() && begins_none(conditions) {
            return;
        }
        let runs = self.runs.get_or_insert_with(|| Box::new(Runs::new(automaton)));
        let runs_before = runs.partial.len() - 1;
        match runs.process(automaton, event, ts, conditions) {
            Ok(told) => {
                self.began |= told.began;
                if automaton.window_ms > 0 && self.began {
                    self.due.insert(ts.saturating_add(automaton.window_ms).saturating_add(watched.lag));
                }
                if !told.matches.is_empty() || !told.missed.is_empty() {
                    said.extend(told.matches.into_iter().map(|m| (p, Said::Match(m, ts))));
                    said.extend(told.missed.into_iter().map(|(event, at, fault)| (p, Said::Failed(event, at, fault))));
                }
                said.extend((told.dropped > 0).then_some((p, Said::Dropped(told.dropped))));
                let (many, runs_now) = (automaton.many_runs(), runs.partial.len() - 1);
                said.extend((runs_before < many && runs_now >= many).then_some((p, Said::Many(runs_now))));
            }
            Err(fault) => said.push((p, Said::Failed(event.clone(), ts, fault))),
        }
    }

    fn leave(&mut self, automaton: &Automaton, lag: i64) {
        (self.looked, self.began) = (false, false);
        let Some(runs) = &self.runs else { return };
        if automaton.mended {
            self.due.extend(runs.next_over(automaton).map(|ts| ts.saturating_add(lag)));
        }
        if runs.idle() {
            self.runs = None;
            if !automaton.windows_between {
                self.due = Times::default(); // of runs that are gone; where windows are between events, they set looks at later ones
            }
        }
    }
}
