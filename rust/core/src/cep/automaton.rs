//! From a pattern to an automaton, as Flink's `NFACompiler` does it, state for state and edge for edge: the order of states
//! gives them their names, which windows between events go by, and the order of edges decides the order of matches.
//!
//! The chain is walked from its end. A state takes an event (TAKE), lets it pass (IGNORE) or goes on without one (PROCEED, asked
//! with the event that is about to be read). A negated stage becomes edges to a stop state; where it ends the pattern, a state
//! that waits (`Pending`).
//!
//! *Mended* patterns have none of Flink's known faults. Its windows between two events belong to states, and end a run whatever else it
//! could do there, or do not apply where it waits. Mended ones are conditions of the edges that take an event or let it pass
//! ([`Guard::Within`]), on every state of the stage, between repetitions and not before them; what may go on without the stage goes
//! on. They end runs too, where there is no way but to take. What must not come at the end goes by `within` wherever that is said,
//! and of several such stages in a row each counts.

use std::collections::{HashMap, HashSet};

use serde::Deserialize;
use serde_json::{json, Value};

use super::pattern::{Contiguity, Guard, Pattern, Skip, Stage, Times};
use crate::error::PlanError;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    Take,
    Ignore,
    Proceed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Start,
    Normal,
    /// Waits for its window to end: then it is a match.
    Pending,
    Stop,
    Final,
}

#[derive(Clone, Debug)]
pub struct Edge {
    pub action: Action,
    pub target: usize,
    pub guard: Guard,
}

#[derive(Clone, Debug)]
pub struct State {
    /// The stage's name; of all but the one nearest the end with `:` and a number.
    pub name: String,
    /// Index in [`Automaton::stages`].
    pub stage: u16,
    pub kind: Kind,
    pub edges: Vec<Edge>,
    /// From the last taken event on, ms; 0: none.
    pub window_ms: i64,
}

#[derive(Clone, Debug)]
pub struct Automaton {
    pub states: Vec<State>,
    pub start: usize,
    /// From the first event to the last, ms; 0: none.
    pub window_ms: i64,
    /// Whether some state has a window of its own.
    pub windows_between: bool,
    pub stages: Vec<String>,
    pub skip: Skip,
    /// Not Flink's: how many runs a key may have.
    pub cap: Option<Cap>,
    pub mended: bool,
    pub longest: bool,
    /// The state in which a run is a match.
    pub end: usize,
}

/// A bound on a key's runs, and what happens to the event that would leave more of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cap {
    pub runs: usize,
    pub policy: CapPolicy,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapPolicy {
    /// It is read; the runs that began first go.
    DropOldest,
    /// It is a dead letter, and the runs are as before.
    DeadLetter,
    /// It stops the task.
    Fail,
}

const END: &str = "$endState$";

fn malformed(text: String, hint: &str) -> PlanError {
    PlanError::new("malformed_pattern", text).hint(hint)
}

impl Automaton {
    /// Errors are `malformed_pattern`, with the stage's name and a hint.
    pub fn compile(pattern: &Pattern) -> Result<Automaton, PlanError> {
        check(pattern)?;
        let last = pattern.stages.last().expect("checked");
        let mut c = Compiler {
            states: vec![],
            names: HashSet::new(),
            stops: HashMap::new(),
            window: None,
            group: None,
            first_of_loop: HashMap::new(),
            chain: &pattern.stages,
            at: pattern.stages.len() - 1,
            following: None,
            originals: HashMap::new(),
            broken: false,
            mended: pattern.mended,
            repeats: false,
        };
        let end = c.new_state(END, Kind::Final);
        c.window = if pattern.mended { shortest(&pattern.stages) } else { last.within };
        let sink = c.middle(end);
        let start = c.convert(sink);
        c.states[start].kind = Kind::Start;
        if pattern.mended {
            c.guard_windows();
        }
        let window_ms = c.window.unwrap_or(0);
        if c.window.is_some_and(|window| c.states.iter().any(|s| s.window_ms > window)) {
            let text = "a window between two events is longer than the whole pattern's".to_string();
            return Err(malformed(text, "make `within` the longer one"));
        }
        let waits = c.states.iter().any(|s| s.name == last.name && s.window_ms > 0);
        if last.contiguity == Contiguity::NotFollow && !waits && window_ms <= 0 {
            let text = format!("`{}` ends the pattern: nothing says how long it must not come", last.name);
            return Err(malformed(text, "write `.within(…)` behind it"));
        }
        let ends = last.group.is_none() && (last.inner == Contiguity::Strict || last.until.is_some());
        if pattern.longest && window_ms <= 0 && !ends {
            let text = "nothing says when the longest match is the longest".to_string();
            return Err(malformed(text, "write `.within(…)`, or end the loop by `consecutive()` or `until(…)`"));
        }
        let mut made = Automaton {
            windows_between: c.states.iter().any(|state| state.window_ms > 0),
            states: c.states,
            start,
            window_ms,
            stages: vec![],
            skip: pattern.skip.clone(),
            cap: None,
            mended: pattern.mended,
            longest: pattern.longest,
            end,
        };
        if c.broken {
            let text = "an optional greedy stage with `until` behind a negated one has nowhere to go".to_string();
            return Err(malformed(text, "leave `greedy` or `optional` out"));
        }
        made.name_stages();
        made.check_epsilon()?;
        Ok(made)
    }

    fn name_stages(&mut self) {
        for state in &mut self.states {
            let base = state.name.split(':').next().expect("the first part");
            let known = self.stages.iter().position(|s| s == base);
            state.stage = known.unwrap_or(self.stages.len()) as u16;
            if known.is_none() {
                self.stages.push(base.to_string());
            }
        }
    }

    /// Whether an event begins a run where there is none. `holds`: a condition on it; none, and none comes back: that cannot be said
    /// of it now.
    pub fn begins(&self, holds: &mut dyn FnMut(u16) -> Option<bool>) -> Option<bool> {
        self.takes(self.start, holds)
    }

    /// All edges are asked that [`super::Runs::process`] would ask of a start run: a condition may fail on any of them.
    fn takes(&self, at: usize, holds: &mut dyn FnMut(u16) -> Option<bool>) -> Option<bool> {
        for edge in &self.states[at].edges {
            if !edge.guard.of_start(holds)? {
                continue;
            }
            match edge.action {
                Action::Take => return Some(true),
                Action::Proceed if self.takes(edge.target, holds)? => return Some(true),
                Action::Proceed | Action::Ignore => {}
            }
        }
        Some(false)
    }

    pub fn stage_of(&self, state: usize) -> &str {
        &self.stages[self.states[state].stage as usize]
    }

    /// From how many runs of a key on a warning is due: well before a cap is reached, and without one, too.
    pub fn many_runs(&self) -> usize {
        const MANY: usize = 1000;
        self.cap.map_or(MANY, |cap| (cap.runs / 2).clamp(1, MANY))
    }

    /// For who draws it: states with their edges, in the order in which they are asked; conditions by their numbers.
    pub fn describe(&self) -> Value {
        let edge = |e: &Edge| json!({"action": format!("{:?}", e.action).to_lowercase(), "target": e.target, "guard": e.guard.describe()});
        let states = self.states.iter().map(|s| {
            json!({
                "name": s.name,
                "stage": self.stages[s.stage as usize],
                "kind": format!("{:?}", s.kind).to_lowercase(),
                "window": s.window_ms,
                "edges": s.edges.iter().map(edge).collect::<Vec<_>>(),
            })
        });
        json!({"start": self.start, "window": self.window_ms, "states": states.collect::<Vec<_>>()})
    }

    /// What makes Flink hang, or fail at the first event, is refused.
    fn check_epsilon(&self) -> Result<(), PlanError> {
        let proceeds =
            |at: usize| self.states[at].edges.iter().filter(|e| e.action == Action::Proceed).map(|e| e.target);
        for from in 0..self.states.len() {
            let (mut seen, mut todo) = (HashSet::new(), proceeds(from).collect::<Vec<_>>());
            while let Some(at) = todo.pop() {
                if at == from {
                    let text =
                        format!("a group that repeats around `{}` can match nothing at all", self.states[at].name);
                    return Err(malformed(text, "make one of its stages mandatory"));
                }
                if seen.insert(at) {
                    todo.extend(proceeds(at));
                }
            }
            if from == self.start {
                if let Some(stop) = seen.iter().find(|&&at| self.states[at].kind == Kind::Stop) {
                    let text = format!("nothing need have come before `{}` must not", self.stage_of(*stop));
                    return Err(malformed(text, "make the stage or group before it mandatory"));
                }
            }
        }
        Ok(())
    }
}

/// The smallest window of all stages, of those in groups, too.
fn shortest(stages: &[Stage]) -> Option<i64> {
    let inner = |stage: &Stage| stage.group.as_ref().and_then(|group| shortest(group));
    stages.iter().flat_map(|stage| [stage.within, inner(stage)]).flatten().filter(|ms| *ms > 0).min()
}

fn check(pattern: &Pattern) -> Result<(), PlanError> {
    fn names<'p>(stages: &'p [Stage], seen: &mut HashSet<&'p str>) -> Result<(), PlanError> {
        if stages.is_empty() {
            return Err(malformed("a pattern without stages".to_string(), "begin it with `Pattern.begin(name)`"));
        }
        for stage in stages {
            if let Some(group) = &stage.group {
                names(group, seen)?;
            } else if stage.name.is_empty() || stage.name.contains(':') {
                let text = format!("`{}` is no name of a stage", stage.name);
                return Err(malformed(text, "name it without `:`, which names of states are made with"));
            } else if stage.name == END || !seen.insert(&stage.name) {
                let text = format!("the name `{}` is taken", stage.name);
                return Err(malformed(text, "give each stage a name of its own, in groups, too"));
            }
        }
        Ok(())
    }
    names(&pattern.stages, &mut HashSet::new())?;
    if let Skip::ToFirst { stage, .. } | Skip::ToLast { stage, .. } = &pattern.skip {
        if !pattern.stages.iter().any(|s| s.group.is_none() && s.name == *stage) {
            let text = format!("there is no stage `{stage}` to skip to");
            return Err(malformed(text, "name a stage of the pattern itself, not of a group in it"));
        }
    }
    Ok(())
}

struct Compiler<'p> {
    states: Vec<State>,
    names: HashSet<String>,
    stops: HashMap<&'p str, usize>,
    window: Option<i64>,
    group: Option<&'p Stage>,
    /// By a group's place in memory.
    first_of_loop: HashMap<*const Stage, bool>,
    chain: &'p [Stage],
    at: usize,
    following: Option<&'p Stage>,
    originals: HashMap<String, usize>,
    broken: bool,
    mended: bool,
    /// What is made is for a second or later event of the stage.
    repeats: bool,
}

impl<'p> Compiler<'p> {
    fn current(&self) -> &'p Stage {
        &self.chain[self.at]
    }

    fn new_state(&mut self, base: &str, kind: Kind) -> usize {
        let mut name = base.to_string();
        let mut n = 0;
        while !self.names.insert(name.clone()) {
            name = format!("{base}:{n}");
            n += 1;
        }
        self.states.push(State { name, stage: 0, kind, edges: vec![], window_ms: 0 });
        self.states.len() - 1
    }

    /// A state of the current stage, with its window if it is one that takes.
    fn stage_state(&mut self, kind: Kind, takes: bool) -> usize {
        let stage = self.current();
        let made = self.new_state(stage_name(stage), kind);
        if self.mended {
            self.states[made].window_ms = self.gap(kind);
        } else if takes {
            self.states[made].window_ms = match &stage.times {
                None => stage.within_previous.unwrap_or(0),
                // All but the one nearest the end: a fault of Flink's that its users' patterns rest on.
                Some(times) if self.states[made].name.contains(':') => times.window.unwrap_or(0),
                Some(_) => 0,
            };
        }
        made
    }

    /// How much time there may be between the event before and the one that the state is for, if Flink's faults are mended.
    fn gap(&self, kind: Kind) -> i64 {
        let stage = self.current();
        if stage.group.is_some() {
            return 0; // a state between two passes: the next one's first is asked
        }
        let between = |stage: &Stage| stage.times.as_ref().and_then(|times| times.window);
        let head = self.headed(stage);
        let all = [
            stage.within_previous,
            between(stage).filter(|_| self.repeats && kind == Kind::Normal),
            head.and_then(|group| group.within_previous),
            head.filter(|group| !self.group_is_first_of_loop(group)).and_then(between),
        ];
        all.into_iter().flatten().filter(|ms| *ms > 0).min().unwrap_or(0)
    }

    /// Windows as conditions of what takes an event or lets it pass; where that is the only way, of the state as well.
    fn guard_windows(&mut self) {
        let kinds: Vec<Kind> = self.states.iter().map(|s| s.kind).collect();
        for state in &mut self.states {
            if state.window_ms <= 0 || !state.edges.iter().any(|e| e.action == Action::Take) {
                continue;
            }
            for edge in state.edges.iter_mut().filter(|e| e.action != Action::Proceed) {
                edge.guard = Guard::Within(state.window_ms).and(edge.guard.clone());
            }
            let on = |e: &Edge| e.action == Action::Proceed && kinds[e.target] != Kind::Stop;
            if state.kind == Kind::Start || state.edges.iter().any(on) {
                state.window_ms = 0;
            }
        }
    }

    fn edge(&mut self, from: usize, action: Action, target: usize, guard: Guard) {
        self.states[from].edges.push(Edge { action, target, guard });
    }

    /// The negated stages that are open before the current one, nearest first.
    fn open_nots(&self) -> Vec<(Guard, &'p str)> {
        let mut found = vec![];
        let mut at = self.at;
        let passes = |stage: &Stage| {
            let nothing = self.mended && stage.contiguity == Contiguity::NotNext;
            stage.optional || stage.contiguity == Contiguity::NotFollow || nothing
        };
        while at > 0 && passes(&self.chain[at - 1]) {
            at -= 1;
            let stage = &self.chain[at];
            if stage.contiguity == Contiguity::NotFollow {
                found.push((self.take_guard(stage), stage.name.as_str()));
            }
        }
        found
    }

    fn middle(&mut self, sink: usize) -> usize {
        let mut last = sink;
        while self.at > 0 {
            let stage = self.current();
            match stage.contiguity {
                Contiguity::NotFollow => {
                    let windowed = stage.within_previous.is_some() || self.window.unwrap_or(0) > 0;
                    if windowed && self.states[last].kind == Kind::Final {
                        let pending = self.stage_state(Kind::Pending, true);
                        let not = self.take_guard(stage);
                        let stop = self.stop(&not, &stage.name);
                        self.edge(pending, Action::Proceed, stop, not.clone());
                        self.edge(pending, Action::Ignore, pending, not.negated());
                        last = pending;
                    } else if self.mended && self.states[last].kind == Kind::Pending {
                        let not = self.take_guard(stage);
                        let stop = self.stop(&not, &stage.name);
                        self.edge(last, Action::Proceed, stop, not);
                    }
                }
                Contiguity::NotNext => {
                    let next = self.stage_state(Kind::Normal, true);
                    let not = self.take_guard(stage);
                    let stop = self.stop(&not, &stage.name);
                    let action = if self.states[last].kind == Kind::Final { Action::Ignore } else { Action::Proceed };
                    self.edge(next, action, last, not.clone().negated());
                    self.edge(next, Action::Proceed, stop, not);
                    if self.mended {
                        self.add_stops(next);
                    }
                    last = next;
                }
                _ => last = self.convert(last),
            }
            self.following = Some(stage);
            self.at -= 1;
            if let Some(ms) = self.current().within {
                if !self.mended && ms < self.window.unwrap_or(i64::MAX) {
                    self.window = Some(ms);
                }
            }
        }
        last
    }

    fn convert(&mut self, sink: usize) -> usize {
        let stage = self.current();
        let last = match (&stage.times, stage.looping) {
            (Some(times), true) => {
                self.set_first_of_loop(false);
                let bare = self.without_nots(sink);
                let looping = self.looping(bare);
                self.set_first_of_loop(true);
                self.repeated(looping, sink, *times)
            }
            (Some(times), false) => self.repeated(sink, sink, *times),
            (None, _) => {
                let ignore = self.ignore_guard(stage);
                let take = self.take_guard(stage);
                self.single(sink, Some(sink), take, ignore, stage.optional)
            }
        };
        self.add_stops(last);
        last
    }

    /// One stop state for each negated stage, whoever points to it.
    fn stop(&mut self, not: &Guard, name: &'p str) -> usize {
        if let Some(made) = self.stops.get(name) {
            return *made;
        }
        let made = self.new_state(name, Kind::Stop);
        self.edge(made, Action::Take, made, not.clone());
        self.stops.insert(name, made);
        made
    }

    fn add_stops(&mut self, state: usize) {
        for (not, name) in self.open_nots() {
            let stop = self.stop(&not, name);
            self.edge(state, Action::Proceed, stop, not);
        }
    }

    fn add_stop_to_loop(&mut self, state: usize) {
        if let Some(following) = self.following.filter(|f| f.contiguity == Contiguity::NotFollow) {
            let not = self.take_guard(following);
            let stop = self.stop(&not, &following.name);
            self.edge(state, Action::Proceed, stop, not);
        }
    }

    /// Once an optional stage has taken an event, what was negated before it is over.
    fn without_nots(&mut self, sink: usize) -> usize {
        let nots = self.open_nots();
        if nots.is_empty() || !self.current().optional {
            return sink;
        }
        let (name, kind) = (self.states[sink].name.clone(), self.states[sink].kind);
        let copy = self.new_state(&name, kind);
        self.keep_window(sink, copy);
        for edge in self.states[sink].edges.clone() {
            let target = match edge.action {
                Action::Proceed if self.states[edge.target].kind == Kind::Stop => {
                    let name = &self.states[edge.target].name;
                    if nots.iter().any(|n| n.1 == name) {
                        continue;
                    }
                    edge.target
                }
                Action::Proceed => self.without_nots(edge.target),
                _ if edge.target == sink => copy,
                _ => edge.target,
            };
            self.edge(copy, edge.action, target, edge.guard);
        }
        copy
    }

    fn copy(&mut self, state: usize) -> usize {
        let name = self.states[state].name.split(':').next().expect("the first part").to_string();
        let kind = self.states[state].kind;
        let copy = self.new_state(&name, kind);
        self.keep_window(state, copy);
        for edge in self.states[state].edges.clone() {
            let target = if edge.target == state { copy } else { edge.target };
            self.edge(copy, edge.action, target, edge.guard);
        }
        copy
    }

    /// Flink's copies have none.
    fn keep_window(&mut self, of: usize, copy: usize) {
        if self.mended {
            self.states[copy].window_ms = self.states[of].window_ms;
        }
    }

    fn repeated(&mut self, sink: usize, proceed: usize, times: Times) -> usize {
        let stage = self.current();
        let mut last = sink;
        self.set_first_of_loop(false);
        let inner = until(self.inner_ignore_guard(stage), &stage.until);
        let take = until(Some(self.take_guard(stage)), &stage.until).expect("a guard");
        if stage.greedy && times.from != times.to {
            if stage.until.is_some() {
                let copy = self.copy(sink);
                self.originals.insert(self.states[sink].name.clone(), copy);
            }
            self.yield_to(sink, &take);
        }
        self.repeats = stage.group.is_none();
        for _ in times.from..times.to {
            last = self.single(last, Some(proceed), take.clone(), inner.clone(), true);
            self.add_stop_to_loop(last);
        }
        for _ in 1..times.from {
            last = self.single(last, None, take.clone(), inner.clone(), false);
            self.add_stop_to_loop(last);
        }
        self.repeats = false;
        self.set_first_of_loop(true);
        let ignore = self.ignore_guard(stage);
        self.single(last, Some(proceed), take, ignore, stage.optional)
    }

    fn single(
        &mut self,
        sink: usize,
        proceed: Option<usize>,
        take: Guard,
        ignore: Option<Guard>,
        optional: bool,
    ) -> usize {
        let stage = self.current();
        if stage.group.is_some() {
            return self.group(stage, sink, proceed, optional);
        }
        let state = self.stage_state(Kind::Normal, true);
        let taken = self.without_nots(sink);
        self.edge(state, Action::Take, taken, take.clone());
        if let (true, Some(proceed)) = (optional, proceed) {
            let always = self.always();
            if let (true, Some(until)) = (stage.greedy, &stage.until) {
                match self.originals.get(&self.states[proceed].name) {
                    Some(original) => self.edge(state, Action::Proceed, *original, always.clone().and(until.clone())),
                    None => self.broken = true,
                }
                self.edge(state, Action::Proceed, proceed, always.and(until.clone().negated()));
            } else {
                self.edge(state, Action::Proceed, proceed, always);
            }
        }
        if let Some(ignore) = ignore {
            let waiting = if optional || self.heads_optional_group() {
                let twin = self.stage_state(Kind::Normal, false);
                self.edge(twin, Action::Take, taken, take);
                self.edge(twin, Action::Ignore, twin, ignore.clone());
                self.add_stops(twin);
                twin
            } else {
                state
            };
            self.edge(state, Action::Ignore, waiting, ignore);
        }
        state
    }

    /// The chain of a group in place.
    fn inside(&mut self, group: &'p Stage, sink: usize) -> usize {
        let outside = (self.chain, self.at, self.following, self.group);
        self.group = Some(group);
        self.chain = group.group.as_deref().expect("a group");
        self.at = self.chain.len() - 1;
        let last = self.middle(sink);
        let first = self.convert(last);
        (self.chain, self.at, self.following, self.group) = outside;
        first
    }

    fn group(&mut self, group: &'p Stage, sink: usize, proceed: Option<usize>, optional: bool) -> usize {
        let always = self.always();
        let first = self.inside(group, sink);
        if let (true, Some(proceed)) = (optional, proceed) {
            self.edge(first, Action::Proceed, proceed, always);
        }
        first
    }

    fn looping(&mut self, sink: usize) -> usize {
        let stage = self.current();
        if stage.group.is_some() {
            let always = self.always();
            let dummy = self.stage_state(Kind::Normal, true);
            let first = self.inside(stage, dummy);
            self.edge(first, Action::Proceed, sink, always.clone());
            self.edge(dummy, Action::Proceed, first, always);
            return first;
        }
        let ignore = until(self.inner_ignore_guard(stage), &stage.until);
        let take = until(Some(self.take_guard(stage)), &stage.until).expect("a guard");
        let always = self.always();
        self.repeats = true;
        let state = self.stage_state(Kind::Normal, true);
        if stage.greedy {
            let mut proceed = always.clone();
            if let Some(until) = &stage.until {
                let copy = self.copy(sink);
                self.edge(state, Action::Proceed, copy, always.and(until.clone()));
                self.originals.insert(self.states[sink].name.clone(), copy);
                proceed = proceed.and(until.clone().negated());
            }
            self.edge(state, Action::Proceed, sink, proceed);
            let plain = self.take_guard(stage);
            self.yield_to(sink, &plain);
        } else {
            self.edge(state, Action::Proceed, sink, always);
        }
        self.edge(state, Action::Take, state, take.clone());
        self.add_stop_to_loop(state);
        if let Some(ignore) = ignore {
            let twin = self.stage_state(Kind::Normal, false);
            self.edge(twin, Action::Take, state, take);
            self.edge(twin, Action::Ignore, twin, ignore.clone());
            self.edge(state, Action::Ignore, twin, ignore);
            self.add_stop_to_loop(twin);
        }
        self.repeats = false;
        state
    }

    /// Greedy: the state that follows leaves the event to the one before.
    fn yield_to(&mut self, state: usize, take: &Guard) {
        for edge in &mut self.states[state].edges {
            edge.guard = edge.guard.clone().and(take.clone().negated());
        }
    }

    fn set_first_of_loop(&mut self, first: bool) {
        let stage = self.current();
        if stage.group.is_some() {
            self.first_of_loop.insert(stage, first);
        }
    }

    fn group_is_first_of_loop(&self, group: &'p Stage) -> bool {
        self.first_of_loop.get(&(group as *const Stage)).copied().unwrap_or(true)
    }

    /// The group whose first stage this is.
    fn headed(&self, stage: &Stage) -> Option<&'p Stage> {
        self.group.filter(|_| std::ptr::eq(&self.chain[0], stage))
    }

    fn heads_optional_group(&self) -> bool {
        self.headed(self.current()).is_some_and(|group| self.group_is_first_of_loop(group) && group.optional)
    }

    fn inner_ignore_guard(&self, stage: &'p Stage) -> Option<Guard> {
        let contiguity = self.headed(stage).map_or(stage.inner, |group| group.inner);
        self.ignoring(stage, contiguity)
    }

    fn ignore_guard(&self, stage: &'p Stage) -> Option<Guard> {
        let contiguity = match self.headed(stage) {
            Some(group) if self.group_is_first_of_loop(group) => group.contiguity,
            Some(group) => group.inner,
            None => stage.contiguity,
        };
        self.ignoring(stage, contiguity)
    }

    fn ignoring(&self, stage: &'p Stage, contiguity: Contiguity) -> Option<Guard> {
        let guard = match contiguity {
            Contiguity::SkipTillNext => Some(stage.condition.clone().unwrap_or(Guard::Always).negated()),
            Contiguity::SkipTillAny => Some(Guard::Always),
            _ => None,
        };
        until(guard, self.group_until())
    }

    fn take_guard(&self, stage: &'p Stage) -> Guard {
        let guard = stage.condition.clone().unwrap_or(Guard::Always);
        until(Some(guard), self.group_until()).expect("a guard")
    }

    fn always(&self) -> Guard {
        until(Some(Guard::Always), self.group_until()).expect("a guard")
    }

    fn group_until(&self) -> &'p Option<Guard> {
        self.group.map_or(&None, |group| &group.until)
    }
}

fn stage_name(stage: &Stage) -> &str {
    if stage.group.is_some() {
        "GroupPattern"
    } else {
        &stage.name
    }
}

/// No longer once the stop condition holds, which is asked first.
fn until(guard: Option<Guard>, until: &Option<Guard>) -> Option<Guard> {
    match until {
        Some(until) => guard.map(|guard| until.clone().negated().and(guard)),
        None => guard,
    }
}
