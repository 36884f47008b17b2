//! Runs of an automaton over the events of one key, as in Flink's `NFA`: who goes on, who is a match, who is told when.
//!
//! *Longest* matches are not Flink's. Where a run is a match and may take more, Flink makes two of it: one that is told and one that
//! goes on. Here it goes on, and what it has come to is kept ([`Best`]), for all runs that come of it. As soon as one of them is a
//! longer match it is forgotten; when the last of them has ended, for whatever reason but pruning or the cap, it is told.

use std::cell::OnceCell;
use std::collections::BTreeMap;
use std::num::NonZeroU64;

use super::automaton::{Action, Automaton, CapPolicy, Kind};
use super::buffer::{Buffer, EventId, Path, Place, Version};
use super::heap::{Heap, Ranked};
use super::pattern::{Guard, Skip};
use crate::expr::Fault;

/// A partial match: where it waits, and what it took last. The start run has taken nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    pub state: u16,
    pub node: Option<Place>,
    pub version: Version,
    pub start: Option<EventId>,
    /// Of the latest taken event, ms.
    pub previous_ms: i64,
    /// The match that it is already, if longer ones are waited for: one of [`Runs::bests`], if that is still there.
    pub best: Option<NonZeroU64>,
}

impl Run {
    /// Of the first event, ms.
    pub fn start_ms(&self) -> i64 {
        self.start.map_or(-1, |start| start.ts)
    }
}

/// A match that is told unless one of the runs that hold it becomes a longer one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Best {
    pub node: Place,
    pub version: Version,
    pub start: Option<EventId>,
    pub held: u32,
}

impl Ranked for Run {
    type Rank = (i64, u32);
    /// By the first event; the start run last.
    fn rank(&self) -> (i64, u32) {
        self.start.map_or((i64::MAX, i32::MAX as u32), |id| (id.ts, id.n()))
    }
}

/// What the runs of one key are.
#[derive(Clone, Debug)]
pub struct Runs<E> {
    pub partial: Heap<Run>,
    /// Complete, and held back while an older run lives.
    pub complete: Heap<Run>,
    pub buffer: Buffer<E>,
    /// Matches that may become longer, and how many there have been.
    pub bests: BTreeMap<NonZeroU64, Best>,
    pub bests_made: u64,
    /// No run's window is over before that, ms; `i64::MIN`: that is not known.
    pub quiet_until: i64,
}

/// A match or what of it there is: its stages in order of their first event, with their events.
#[derive(Clone, Debug, PartialEq)]
pub struct Match<E>(pub Vec<(u16, Vec<E>)>);

/// What the runs took before this event, for conditions that look back.
pub struct History<'a, E> {
    buffer: &'a Buffer<E>,
    run: &'a Run,
    /// At hand, and its time, ms.
    pub event: &'a E,
    ts: i64,
    path: OnceCell<Path>,
}

impl<E: Clone> History<'_, E> {
    /// The events of a stage, oldest first.
    pub fn events(&self, stage: u16) -> impl Iterator<Item = &E> {
        let path = self.path.get_or_init(|| match self.run.node {
            Some(node) => self.buffer.path(node, &self.run.version),
            None => vec![],
        });
        let found = path.iter().find(|(s, _)| *s == stage).map_or(&[][..], |(_, events)| events);
        found.iter().map(|event| &self.buffer.event(*event).event)
    }
}

/// What conditions that look at the event alone have said of it: of the first 64, by their numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    told: u64,
    held: u64,
}

impl Known {
    fn bit(condition: u16) -> u64 {
        1u64.checked_shl(condition.into()).unwrap_or(0)
    }

    pub fn get(self, condition: u16) -> Option<bool> {
        let bit = Known::bit(condition);
        (self.told & bit != 0).then_some(self.held & bit != 0)
    }

    pub fn note(&mut self, condition: u16, holds: bool) {
        let bit = Known::bit(condition);
        self.told |= bit;
        self.held |= if holds { bit } else { 0 };
    }
}

/// The user's conditions.
pub trait Conditions<E> {
    fn holds(&mut self, condition: u16, history: &History<'_, E>) -> Result<bool, Fault>;

    /// Another event is being read; what is known of it.
    fn read(&mut self, _event: &E, _known: Known) {}

    /// What is known of it by now.
    fn known(&self) -> Known {
        Known::default()
    }

    /// By the runs of this pattern.
    fn turn(&mut self, _pattern: usize, _event: &E, _ts: i64) {}

    /// A condition that looks at the event alone; none: it looks at more, or fails.
    fn alone(&mut self, _condition: u16, _event: &E) -> Option<bool> {
        None
    }

    /// A run asked an edge of a state (by their places); for traces. Called run by run, edge by edge.
    fn asked(&mut self, _run: &Run, _state: usize, _edge: usize, _holds: bool) {}

    /// Whether an event may begin a run.
    fn may_begin(&self) -> bool {
        true
    }

    /// Whether `asked` is worth a call.
    fn traces(&self) -> bool {
        false
    }
}

/// `known`: what conditions have said of the event before this run was asked.
fn guarded<E>(
    guard: &Guard,
    conditions: &mut dyn Conditions<E>,
    history: &History<'_, E>,
    known: Known,
) -> Result<bool, Fault> {
    Ok(match guard {
        Guard::Always => true,
        Guard::Is(condition) => match known.get(*condition) {
            Some(holds) => holds,
            None => conditions.holds(*condition, history)?,
        },
        Guard::Within(ms) => history.run.start.is_none() || history.ts.saturating_sub(history.run.previous_ms) < *ms,
        Guard::Not(guard) => !guarded(guard, conditions, history, known)?,
        Guard::And(both) => {
            guarded(&both[0], conditions, history, known)? && guarded(&both[1], conditions, history, known)?
        }
        Guard::Or(both) => {
            guarded(&both[0], conditions, history, known)? || guarded(&both[1], conditions, history, known)?
        }
    })
}

/// What one run does with an event, decided before anything is changed.
struct Plan {
    /// Where its edges lie among those of all: from, to.
    edges: (usize, usize),
    takes: i64,
    ignores: i64,
}

/// The state it leaves from, the edge there; for TAKE the end, if the match is complete with it.
type Way = (usize, usize, Option<usize>);

/// What all runs do with an event, and room to find it out in.
#[derive(Default)]
struct Ways {
    all: Vec<Way>,
    todo: Vec<usize>,
}

/// The event at hand while runs take it.
struct Step<'e, E> {
    event: &'e E,
    ts: i64,
    /// Once one has taken it, and its nodes.
    taken: Option<Place>,
    nodes: Vec<Place>,
    /// What became of one run.
    made: Vec<Run>,
}

impl Plan {
    /// Whether the run is afterwards what it was: it let the event pass where it waits. To hold what it holds and let go of it, as
    /// [`Runs::next`] would, comes to nothing.
    fn stays(&self, automaton: &Automaton, run: &Run, ways: &Ways) -> bool {
        let waits = || {
            let [(at, i, _)] = ways.all[self.edges.0..self.edges.1] else { return false };
            let edge = &automaton.states[at].edges[i];
            edge.action == Action::Ignore && edge.target == run.state as usize
        };
        self.takes == 0
            && self.ignores == 0
            && match automaton.states[run.state as usize].kind {
                Kind::Start => run.start.is_none() && run.state as usize == automaton.start,
                _ => waits(),
            }
    }

    fn count(&self) -> usize {
        self.edges.1 - self.edges.0
    }
}

/// What a call made known.
#[derive(Clone, Debug, PartialEq)]
pub struct Told<E> {
    pub matches: Vec<Match<E>>,
    /// With the time at which each was given up, ms.
    pub timed_out: Vec<(Match<E>, i64)>,
    /// Whether a run began.
    pub began: bool,
    /// Runs that went because there were more than the cap allows.
    pub dropped: usize,
    /// Of matches that nobody waits for any more, since their skip strategy throws: the last event, its time, ms, and why.
    pub missed: Vec<(E, i64, Fault)>,
}

impl<E> Default for Told<E> {
    fn default() -> Self {
        Told { matches: vec![], timed_out: vec![], began: false, dropped: 0, missed: vec![] }
    }
}

impl<E: Clone> Runs<E> {
    pub fn new(automaton: &Automaton) -> Self {
        let mut partial = Heap::with_capacity(1);
        partial.offer(start(automaton, Version::first()));
        Runs {
            partial,
            complete: Heap::default(),
            buffer: Buffer::default(),
            bests: BTreeMap::new(),
            bests_made: 0,
            quiet_until: i64::MAX,
        }
    }

    /// Whether nothing is under way: the state is worth nothing.
    pub fn idle(&self) -> bool {
        self.partial.len() == 1 && self.complete.is_empty()
    }

    fn materialize(&self, path: Path) -> Match<E> {
        let event = |place: Place| self.buffer.event(place).event.clone();
        Match(path.into_iter().map(|(stage, events)| (stage, events.into_iter().map(event).collect())).collect())
    }

    /// Time is `now`, and no run ends by it, nor is a match told; else nothing has changed.
    pub fn quiet(&mut self, automaton: &Automaton, now: i64) -> bool {
        if !self.complete.is_empty() {
            return false;
        }
        if now >= self.quiet_until {
            if self.partial.iter().any(|run| over(automaton, run, now) != (false, false)) {
                return false;
            }
            if !automaton.windows_between {
                let ends = self.partial.iter().filter(|run| run.start.is_some()).map(|run| match automaton.window_ms {
                    window if window > 0 => run.start_ms().saturating_add(window),
                    _ => i64::MAX,
                });
                self.quiet_until = ends.min().unwrap_or(i64::MAX);
            }
        }
        self.buffer.advance(now);
        true
    }

    /// Time is `now`: runs whose window is over end. `told`: whether time-outs are to be said.
    pub fn advance(&mut self, automaton: &Automaton, now: i64, told: bool) -> Told<E> {
        if self.quiet(automaton, now) {
            return Told::default();
        }
        self.quiet_until = i64::MIN;
        let (mut kept, mut potential, mut timed_out) = (Heap::default(), Heap::default(), vec![]);
        for mut run in std::mem::take(&mut self.partial).into_array() {
            let state = &automaton.states[run.state as usize];
            let (by_previous, by_start) = over(automaton, &run, now);
            if !by_previous && !by_start {
                kept.offer(run);
            } else if state.kind == Kind::Pending {
                potential.offer(run);
            } else if let Some(best) = run.best.take() {
                potential.offer_all(self.ended(best, automaton));
                self.let_go(&run);
            } else {
                if told {
                    let path = run.node.map_or(vec![], |node| self.buffer.path(node, &run.version));
                    let at = match by_previous {
                        true => run.previous_ms + state.window_ms,
                        false => run.start_ms() + automaton.window_ms,
                    };
                    timed_out.push((self.materialize(path), at));
                }
                self.let_go(&run);
            }
        }
        self.complete.offer_all(potential.into_array());
        let mut missed = vec![];
        let matches = self.emit(automaton, &mut kept, |_| true, &mut missed).expect("nobody is to blame");
        self.partial = kept;
        self.buffer.advance(now);
        Told { matches, timed_out, began: false, dropped: 0, missed }
    }

    /// Reads an event. On an error nothing has changed.
    pub fn process(
        &mut self,
        automaton: &Automaton,
        event: &E,
        ts: i64,
        conditions: &mut dyn Conditions<E>,
    ) -> Result<Told<E>, Fault> {
        let (mut plans, mut ways): (Vec<(usize, Plan)>, _) = (vec![], Ways::default());
        for (place, run) in self.partial.iter().enumerate() {
            let plan = self.decide(automaton, run, event, ts, conditions, &mut ways)?;
            match plan.stays(automaton, run, &ways) {
                true => ways.all.truncate(plan.edges.0),
                false => plans.push((place, plan)),
            }
        }
        let within = |runs: usize| automaton.cap.is_none_or(|cap| runs <= cap.runs);
        if plans.is_empty() && self.complete.is_empty() && within(self.partial.len() - 1) {
            return Ok(Told::default());
        }
        let refusing = automaton.cap.filter(|cap| {
            // Each edge makes at most one run that stays.
            let made: usize = plans.iter().map(|(_, plan)| plan.count()).sum();
            cap.policy != CapPolicy::DropOldest && made + self.partial.len() - plans.len() > cap.runs
        });
        let before = match refusing {
            Some(_) => Some(Box::new(self.clone())),
            None => self.before_throwing(&automaton.skip),
        };
        let (mut potential, mut began) = (Heap::default(), false);
        let more: usize = plans.iter().map(|(_, plan)| plan.count().saturating_sub(1)).sum();
        let mut kept = Heap::with_capacity(self.partial.len() + more);
        let mut step = Step { event, ts, taken: None, nodes: vec![], made: vec![] };
        let mut retained = vec![];
        let mut plans = plans.into_iter().peekable();
        for (place, mut run) in std::mem::take(&mut self.partial).into_array().into_iter().enumerate() {
            let Some((_, plan)) = plans.next_if(|(of, _)| *of == place) else {
                kept.offer(run);
                continue;
            };
            let mut stopped = false;
            let (best, mut longer) = (run.best.take(), false);
            self.next(automaton, &run, &plan, &ways.all[plan.edges.0..plan.edges.1], &mut step);
            for next in step.made.drain(..) {
                began |= automaton.states[run.state as usize].kind == Kind::Start && next.start_ms() > 0;
                longer |= next.best.is_some();
                match automaton.states[next.state as usize].kind {
                    Kind::Final => {
                        longer = true;
                        potential.offer(next);
                    }
                    Kind::Stop => {
                        stopped = true;
                        self.let_go(&next);
                    }
                    _ => retained.push(next),
                }
            }
            match best {
                Some(best) if longer => {
                    if let Some(best) = self.bests.remove(&best) {
                        self.buffer.release(best.node, &best.version);
                    }
                }
                Some(best) if stopped || retained.is_empty() => potential.offer_all(self.ended(best, automaton)),
                Some(best) => {
                    self.bests.entry(best).and_modify(|b| b.held += retained.len() as u32 - 1);
                    retained.iter_mut().for_each(|next| next.best = Some(best));
                }
                None => {}
            }
            for next in retained.drain(..) {
                match stopped {
                    true => self.let_go(&next),
                    false => kept.offer(next),
                }
            }
        }
        let throws = before.is_some();
        let waited: Vec<Run> = self.complete.iter().filter(|_| throws).cloned().collect();
        self.complete.offer_all(potential.into_array());
        let mut missed = vec![];
        let matches = match self.emit(automaton, &mut kept, |run| waited.contains(run), &mut missed) {
            Ok(_) if refusing.is_some_and(|cap| kept.len() - 1 > cap.runs) => {
                let runs = kept.len() - 1;
                self.restore(before);
                return Err(("too_many_runs", format!("the event would leave its key {runs} runs")));
            }
            told => told.inspect_err(|_| self.restore(before))?,
        };
        let dropped = self.drop_oldest(automaton, &mut kept);
        self.partial = kept;
        if automaton.windows_between {
            self.quiet_until = i64::MIN;
        } else if automaton.window_ms > 0 {
            self.quiet_until = self.quiet_until.min(ts.saturating_add(automaton.window_ms));
        }
        if let Some(taken) = step.taken {
            self.buffer.release_event(taken);
        }
        Ok(Told { matches, timed_out: vec![], began, dropped, missed })
    }

    fn drop_oldest(&mut self, automaton: &Automaton, kept: &mut Heap<Run>) -> usize {
        let Some(cap) = automaton.cap.filter(|cap| cap.policy == CapPolicy::DropOldest) else { return 0 };
        let spare = (kept.len() - 1).saturating_sub(cap.runs);
        for _ in 0..spare {
            // The start run is the latest of all.
            let oldest = kept.poll().expect("more than the start run");
            self.let_go(&oldest);
        }
        spare
    }

    /// Strategies that throw do so when much has been done.
    fn before_throwing(&self, skip: &Skip) -> Option<Box<Self>> {
        let throws = matches!(skip, Skip::ToFirst { throws: true, .. } | Skip::ToLast { throws: true, .. });
        throws.then(|| Box::new(self.clone()))
    }

    fn restore(&mut self, before: Option<Box<Self>>) {
        if let Some(before) = before {
            *self = *before;
        }
    }

    fn let_go(&mut self, run: &Run) {
        if let Some(node) = run.node {
            self.buffer.release(node, &run.version);
        }
        if let Some(best) = run.best.and_then(|best| self.let_go_best(best)) {
            self.buffer.release(best.node, &best.version);
        }
    }

    /// One run less holds it; it comes back if that was the last one.
    fn let_go_best(&mut self, id: NonZeroU64) -> Option<Best> {
        let best = self.bests.get_mut(&id)?;
        best.held -= 1;
        if best.held == 0 {
            return self.bests.remove(&id);
        }
        None
    }

    /// A run that held it has ended: the match, if that was the last one.
    fn ended(&mut self, id: NonZeroU64, automaton: &Automaton) -> Option<Run> {
        let Best { node, version, start, .. } = self.let_go_best(id)?;
        let (state, node, previous_ms) = (automaton.end as u16, Some(node), start.map_or(-1, |start| start.ts));
        Some(Run { state, node, version, start, previous_ms, best: None })
    }

    /// When a window of one of its runs is over, if no event comes before.
    pub fn next_over(&self, automaton: &Automaton) -> Option<i64> {
        let over = |run: &Run| {
            let (state, after) = (&automaton.states[run.state as usize], |since: i64, window: i64| {
                (window > 0).then(|| since.saturating_add(window))
            });
            [after(run.start_ms(), automaton.window_ms), after(run.previous_ms, state.window_ms)]
                .into_iter()
                .flatten()
                .min()
        };
        self.partial.iter().filter(|run| run.start.is_some()).filter_map(over).min()
    }

    /// PROCEED edges depth first, the latest one first; what is true of TAKE and IGNORE on the way.
    fn decide(
        &self,
        automaton: &Automaton,
        run: &Run,
        event: &E,
        ts: i64,
        conditions: &mut dyn Conditions<E>,
        ways: &mut Ways,
    ) -> Result<Plan, Fault> {
        let history = History { buffer: &self.buffer, run, event, ts, path: OnceCell::new() };
        let (traces, known) = (conditions.traces(), conditions.known());
        let Ways { all, todo } = ways;
        let from = all.len();
        let mut plan = Plan { edges: (from, from), takes: 0, ignores: 0 };
        if run.start.is_none() && !conditions.may_begin() {
            return Ok(plan);
        }
        todo.clear();
        let mut next = Some(run.state as usize);
        while let Some(at) = next {
            for (i, edge) in automaton.states[at].edges.iter().enumerate() {
                let holds = guarded(&edge.guard, conditions, &history, known)?;
                if traces {
                    conditions.asked(run, at, i, holds);
                }
                if !holds {
                    continue;
                }
                match edge.action {
                    Action::Proceed => todo.push(edge.target),
                    Action::Take => {
                        plan.takes += 1;
                        all.push((at, i, None));
                    }
                    Action::Ignore => {
                        plan.ignores += i64::from(edge.target != run.state as usize);
                        all.push((at, i, None));
                    }
                }
            }
            next = todo.pop();
        }
        for (at, i, complete) in &mut all[from..] {
            let edge = &automaton.states[*at].edges[*i];
            if edge.action == Action::Take {
                *complete = completes(automaton, edge.target, conditions, &history, todo)?;
            }
        }
        plan.edges.1 = all.len();
        Ok(plan)
    }

    fn next(&mut self, automaton: &Automaton, run: &Run, plan: &Plan, ways: &[Way], step: &mut Step<'_, E>) {
        let Step { event, ts, taken, nodes, made } = step;
        let ts = *ts;
        let is_start = automaton.states[run.state as usize].kind == Kind::Start;
        let spare = (plan.takes - 1).max(0);
        let (mut takes_left, mut ignores_left) = (spare, plan.ignores);
        let by = if plan.takes == 0 && plan.ignores == 0 { 0 } else { plan.ignores + plan.takes.max(1) };
        for &(at, i, complete) in ways {
            let edge = &automaton.states[at].edges[i];
            let target = edge.target as u16;
            if edge.action == Action::Ignore {
                if is_start {
                    continue;
                }
                let version = if target == run.state {
                    run.version.increase(by)
                } else {
                    ignores_left -= 1;
                    run.version.increase(spare + ignores_left + 1).add_stage()
                };
                made.push(Run { state: target, version, ..run.clone() });
            } else {
                let label = run.version.increase(takes_left);
                takes_left -= 1;
                let taken = *taken.get_or_insert_with(|| self.buffer.register(event, ts));
                let version = label.add_stage();
                let node = self.buffer.put(automaton.states[at].stage, taken, run.node, label, nodes);
                let start = if is_start { Some(self.buffer.event(taken).id) } else { run.start };
                let mut next = Run { state: target, node: Some(node), version, start, previous_ms: ts, best: None };
                if complete.is_some() && automaton.longest {
                    self.hold(&next);
                    let id = NonZeroU64::MIN.saturating_add(self.bests_made);
                    self.bests_made += 1;
                    next.best = Some(id);
                    self.bests.insert(id, Best { node, version: next.version.clone(), start, held: 1 });
                } else if let Some(end) = complete {
                    let end = Run { state: end as u16, ..next.clone() };
                    self.hold(&next);
                    made.push(next);
                    self.hold(&end);
                    made.push(end);
                    continue;
                }
                made.push(next);
            }
            self.hold(made.last().expect("made"));
        }
        if is_start {
            made.push(start(automaton, run.version.increase(by)));
        }
        self.let_go(run);
    }

    fn hold(&mut self, run: &Run) {
        if let Some(node) = run.node {
            self.buffer.lock(node, &run.version);
        }
    }

    /// A strategy that throws blames the event at hand; of matches that it did not complete (`waited`), their own last event.
    fn emit(
        &mut self,
        automaton: &Automaton,
        kept: &mut Heap<Run>,
        waited: impl Fn(&Run) -> bool,
        missed: &mut Vec<(E, i64, Fault)>,
    ) -> Result<Vec<Match<E>>, Fault> {
        let mut found = vec![];
        while let Some(earliest) = self.complete.peek() {
            let older = kept.peek().is_some_and(|older| earliest.rank() > older.rank());
            if automaton.skip != Skip::No && older && !automaton.mended {
                break;
            }
            let run = self.complete.poll().expect("peeked");
            let path = run.node.map_or(vec![], |node| self.buffer.path(node, &run.version));
            let point = match prune_point(automaton, &path, &|event| self.buffer.event(event).id) {
                Err(fault) if waited(&run) => {
                    let events = path.iter().flat_map(|(_, events)| events).map(|event| self.buffer.event(*event));
                    let last = events.max_by_key(|event| event.id);
                    missed.extend(last.map(|last| (last.event.clone(), last.id.ts, fault)));
                    self.let_go(&run);
                    continue;
                }
                point => point?,
            };
            if let Some((limit, inclusive)) = point {
                let pruned = |run: &Run| run.start.is_some_and(|s| s < limit || (inclusive && s == limit));
                let mut gone: Vec<Run> = vec![];
                for heap in [&mut *kept, &mut self.complete] {
                    gone.extend(heap.iter().filter(|run| pruned(run)).cloned());
                    heap.remove_all(pruned);
                }
                gone.iter().for_each(|run| self.let_go(run));
            }
            found.push(self.materialize(path));
            self.let_go(&run);
        }
        Ok(found)
    }
}

/// Whether a run's window is over, the one since its last event and the one since its first.
fn over(automaton: &Automaton, run: &Run, now: i64) -> (bool, bool) {
    let state = &automaton.states[run.state as usize];
    let over = |since: i64, window: i64| state.kind != Kind::Start && window > 0 && now.saturating_sub(since) >= window;
    (over(run.previous_ms, state.window_ms), over(run.start_ms(), automaton.window_ms))
}

fn start(automaton: &Automaton, version: Version) -> Run {
    Run { state: automaton.start as u16, node: None, version, start: None, previous_ms: -1, best: None }
}

/// Whether the end can be reached without another event.
fn completes<E>(
    automaton: &Automaton,
    from: usize,
    conditions: &mut dyn Conditions<E>,
    history: &History<'_, E>,
    todo: &mut Vec<usize>,
) -> Result<Option<usize>, Fault> {
    let known = conditions.known();
    todo.clear();
    todo.push(from);
    while let Some(at) = todo.pop() {
        for edge in automaton.states[at].edges.iter().filter(|e| e.action == Action::Proceed) {
            if guarded(&edge.guard, conditions, history, known)? {
                if automaton.states[edge.target].kind == Kind::Final {
                    return Ok(Some(edge.target));
                }
                todo.push(edge.target);
            }
        }
    }
    Ok(None)
}

/// Runs that began before it go, or at it if that is said.
fn prune_point(
    automaton: &Automaton,
    path: &Path,
    id: &dyn Fn(Place) -> EventId,
) -> Result<Option<(EventId, bool)>, Fault> {
    let events = |pick: fn(&[Place]) -> Place| path.iter().map(move |(_, events)| id(pick(events)));
    let (stage, throws, first) = match &automaton.skip {
        Skip::No => return Ok(None),
        Skip::ToNext => return Ok(events(|e| e[0]).min().map(|id| (id, true))),
        Skip::PastLast => return Ok(events(|e| e[e.len() - 1]).max().map(|id| (id, true))),
        Skip::ToFirst { stage, throws } => (stage, *throws, true),
        Skip::ToLast { stage, throws } => (stage, *throws, false),
    };
    let found = path.iter().find(|(s, _)| automaton.stages[*s as usize] == *stage);
    let limit = found.map(|(_, events)| id(if first { events[0] } else { events[events.len() - 1] }));
    if throws {
        let earliest = path.iter().flat_map(|(_, events)| events).map(|event| id(*event)).min();
        if limit.is_none() {
            return Err(("nothing_to_skip_to", format!("the match has no event of `{stage}`")));
        }
        if limit == earliest {
            return Err(("skips_to_its_start", format!("`{stage}` begins the match: it would be found for ever")));
        }
    }
    Ok(limit.map(|id| (id, false)))
}
