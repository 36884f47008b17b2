//! Pattern matching: the events of each key go through the automata of `crate::cep`.
//!
//! ```text
//!   record ──▶ later than the watermark? ──no──▶ port 2, as it is
//!                   │ yes
//!              its key's waiting events ─▶ the watermark passes them ─▶ runs ─▶ port 0: matches   port 1: what was given up
//! ```
//!
//! In event time the watermark is the largest time seen, less the bound, less 1; a record is asked before it moves it. With `idle_ms`
//! time goes on as the logged clock does, once no record has come for so long. Behind a shuffle (`lanes.rs`) a record is asked by the
//! largest time of its own lane, and the watermark is that of the slowest lane, as Flink takes the least of its inputs': what is late and
//! what matches depends on the order within each lane alone. In processing time an event's time is what the
//! logged clock shows when it comes, and what is due is looked at when the clock has passed it.
//!
//! An event that begins no run, of a key that has none, is forgotten when it comes, if nothing can still come before it: it has no
//! bound to wait for. Its conditions are asked at once then, those of expressions; the user's functions are asked when time passes.
//!
//! Events that come in order of time wait in one queue of the operator, and each is read when time has passed it. Where one comes out of
//! order, where more of its key is due at once, and when a generation ends, they go to their keys' states: what is read, and when, is
//! as if all had waited there.
//!
//! In the store each key has its state whole; what was touched of late lives decoded in memory (`decoded.rs`), its taken events as bytes
//! once they were stored. A match is an object: its stages, in order
//! of their first event, with their events, oldest first. Who asks has port 3: for each event which edges each run asked, and what it
//! did. Further patterns have three ports each, behind these: matches, what was given up, traces. They share events, and what
//! conditions that look at the event alone have said of it.

use std::collections::VecDeque;
use std::sync::Arc;

use serde::Deserialize;

use super::decoded::{Decoded, Kept, Open, NEVER};
use super::func::Func;
use super::lanes::{Lanes, Stamp};
use super::looks::{Sums, Use};
use super::native::Native;
use super::rules::{self, Rules};
use super::stores::key_bytes;
use super::{Cx, Done, Failed, Failure, Headers, Node, Record};
use crate::cep::automaton::{Action, Kind};
use crate::cep::keyed::{Keyed, Life, Said, Watch, Watched};
use crate::cep::saved::{self, Unread};
use crate::cep::waiting::Read;
use crate::cep::{Automaton, Cap, CapPolicy, Conditions, Event, History, Known, Match, Pattern, Run};
use crate::datum::Datum;
use crate::error::{Fatal, PlanError};
use crate::expr::{order, Fault};
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Debug, Deserialize)]
pub struct Condition {
    #[serde(flatten)]
    func: Func,
    /// What it is called with beside the event, an object.
    #[serde(default)]
    uses: Vec<Use>,
    /// It is called with all taken events by stage.
    #[serde(default)]
    history: bool,
}

/// One pattern, and who reads what is said of it.
#[derive(Deserialize)]
struct Wanted {
    /// None: rules are looked for.
    #[serde(default)]
    pattern: Option<Pattern>,
    /// Whether somebody hears of time-outs.
    #[serde(default)]
    timed_out: bool,
    /// Whether somebody reads what each run did with each event.
    #[serde(default)]
    trace: bool,
}

#[derive(Deserialize)]
pub struct Parameters {
    #[serde(flatten)]
    first: Wanted,
    #[serde(default)]
    others: Vec<Wanted>,
    /// Of all patterns.
    conditions: Vec<Condition>,
    /// None: in processing time.
    max_delay_ms: Option<i64>,
    /// After how much silence time goes on as the clock does.
    #[serde(default)]
    idle_ms: Option<i64>,
    /// Events come by several lanes, the clocks of which come by input 1.
    #[serde(default)]
    lanes: bool,
    /// All events of the task are of one key.
    #[serde(default)]
    unkeyed: bool,
    /// By which events of one time are put in order: the value of each, ascending.
    #[serde(default)]
    order_by: Option<Func>,
    /// The most runs of a key and a pattern; none: no bound.
    #[serde(default)]
    max_runs: Option<usize>,
    #[serde(default = "drop_oldest")]
    on_max_runs: CapPolicy,
    #[serde(flatten)]
    sums: Sums,
    /// Instead of patterns.
    #[serde(default)]
    pub rules: Option<rules::Where>,
}

fn drop_oldest() -> CapPolicy {
    CapPolicy::DropOldest
}

pub struct MatchPattern {
    /// By pattern, and its place there.
    asked: Vec<(Arc<Asked>, usize)>,
    rules: Option<Rules>,
    watched: Watched,
    shape: u64,
    max_delay_ms: Option<i64>,
    idle_ms: Option<i64>,
    unkeyed: bool,
    order_by: Option<Func>,
    /// By pattern.
    trace: Vec<bool>,
    /// Of rules: whether time-outs are told.
    gone_told: bool,
    cap: Option<Cap>,
    store: usize,
    /// How far time has come.
    seen: i64,
    /// How far it had come with the latest record, and what the clock showed then.
    latest: (i64, i64),
    /// Where time goes by lanes.
    lanes: Option<Lanes>,
    live: Decoded,
    /// Events that wait for the watermark and came in order of time and lane; those of their keys' states came before them.
    queue: VecDeque<Queued>,
    broken: Option<Fatal>,
}

/// What is asked about an event.
pub struct Asked {
    pub conditions: Vec<Condition>,
    /// By pattern.
    pub stages: Vec<Vec<String>>,
    pub sums: Sums,
    /// Functions of a rule: not those of the plan.
    pub natives: Vec<Native>,
}

/// An event that waits, and its key's place.
struct Queued {
    ts: i64,
    lane: u32,
    place: usize,
    event: Read<Event>,
}

/// Why a key is looked at.
enum Look<'a> {
    /// Something of it is due.
    Due,
    /// An event of it has waited in the queue.
    Waited(&'a Read<Event>, i64),
    /// An event is to be read now.
    Now(&'a Event),
}

/// What stays decoded after a commit.
const KEPT: Kept = Kept { keys: 10_000, bytes: 4 << 20 };

/// Whether the patterns of a node are such.
pub fn check(parameters: &serde_json::Map<String, serde_json::Value>) -> Result<(), PlanError> {
    #[derive(Deserialize)]
    struct Patterns {
        #[serde(flatten)]
        first: Wanted,
        #[serde(default)]
        others: Vec<Wanted>,
    }
    let said = serde_json::Value::Object(parameters.clone());
    let said: Patterns = serde_json::from_value(said).map_err(|e| PlanError::new("bad_plan", e.to_string()))?;
    let patterns = std::iter::once(&said.first).chain(&said.others).filter_map(|w| w.pattern.as_ref());
    patterns.map(Automaton::compile).try_for_each(|compiled| compiled.map(|_| ()))
}

/// Where what is said of a pattern goes.
fn ports(pattern: usize) -> [usize; 3] {
    match pattern {
        0 => [0, 1, 3],
        n => [3 * n + 1, 3 * n + 2, 3 * n + 3],
    }
}

impl MatchPattern {
    /// `rules`: the place of their topic among the global tables, and of their store.
    pub fn new(p: Parameters, store: usize, rules: Option<(usize, usize)>) -> Result<Self, PlanError> {
        let cap = p.max_runs.map(|runs| Cap { runs, policy: p.on_max_runs });
        let wanted: Vec<Wanted> = std::iter::once(p.first).chain(p.others).collect();
        let automata = wanted.iter().filter_map(|w| w.pattern.as_ref());
        let automata = automata.map(|pattern| Ok(Automaton { cap, ..Automaton::compile(pattern)? }));
        let automata = automata.collect::<Result<Vec<_>, PlanError>>()?;
        let stages = automata.iter().map(|a| a.stages.clone()).collect();
        let asked = Arc::new(Asked { conditions: p.conditions, stages, sums: p.sums, natives: vec![] });
        let lag = i64::from(p.max_delay_ms.is_none());
        Ok(MatchPattern {
            asked: (0..automata.len()).map(|place| (asked.clone(), place)).collect(),
            rules: rules.map(|(global, store)| Rules::new(global, store, cap, p.sums, lag)),
            shape: saved::shape_of(&automata),
            watched: Watched {
                lives: vec![Life::ALWAYS; automata.len()],
                automata,
                timed_out: wanted.iter().map(|w| w.timed_out).collect(),
                lag,
            },
            max_delay_ms: p.max_delay_ms,
            idle_ms: p.idle_ms,
            unkeyed: p.unkeyed,
            order_by: p.order_by,
            trace: wanted.iter().map(|w| w.trace).collect(),
            gone_told: wanted[0].timed_out,
            cap,
            store,
            seen: NO_TIME,
            latest: (NO_TIME, NO_TIME),
            lanes: p.lanes.then(Lanes::default),
            live: Decoded::default(),
            queue: VecDeque::new(),
            broken: None,
        })
    }

    fn watermark(&self, cx: Cx<'_>) -> i64 {
        match self.max_delay_ms {
            None => cx.env.wall,
            Some(delay) => behind(self.seen, delay),
        }
    }

    /// Where a record came from, if that matters.
    fn stamp(&self, cx: Cx<'_>) -> Option<Stamp> {
        self.lanes.as_ref().and(cx.env.lane.get())
    }

    /// Whether a record comes too late: behind its own lane's time, or behind that of all.
    fn late(&self, ts: i64, stamp: Option<Stamp>, cx: Cx<'_>) -> bool {
        let own = stamp.zip(self.max_delay_ms).map_or(i64::MIN, |(stamp, delay)| behind(stamp.clock, delay));
        ts <= own.max(self.watermark(cx))
    }

    /// Time has come to `ts` where a record came from.
    fn progress(&mut self, ts: i64, stamp: Option<Stamp>, cx: Cx<'_>) {
        let wall = cx.env.wall;
        let (seen, latest) = match (&mut self.lanes, stamp) {
            (Some(lanes), Some(stamp)) => {
                lanes.hear(stamp, ts.max(stamp.clock), wall);
                (lanes.slowest(self.idle_ms, wall), lanes.fastest())
            }
            _ => (ts, self.seen.max(ts)),
        };
        self.seen = self.seen.max(seen);
        self.latest = (latest, wall);
    }

    /// A key's place, with what it has decoded.
    fn load(&mut self, key: &[u8], cx: Cx<'_>) -> Result<usize, Failure> {
        let place = self.live.find(key).unwrap_or_else(|| self.live.add(key));
        self.open(place, cx)?;
        Ok(place)
    }

    /// Decodes what a place's key has.
    fn open(&mut self, place: usize, cx: Cx<'_>) -> Done {
        let live = self.live.at(place);
        if live.open.is_none() {
            let none = live.due == NEVER && self.live.knows_all();
            let store = (!none).then(|| cx.store(self.store));
            let found = store.and_then(|store| store.bytes.get(&live.key).map(|bytes| self.decoded(&bytes)));
            let keyed = found.transpose().map_err(|unread| unreadable(cx, unread))?;
            self.live.open(place, keyed.unwrap_or_else(|| Keyed::of(self.watched.automata.len())));
        }
        Ok(())
    }

    fn decoded(&self, bytes: &[u8]) -> Result<Keyed<Event>, Unread> {
        match &self.rules {
            Some(rules) => saved::read_numbered(bytes, &rules.numbers()),
            None => saved::read(bytes, self.shape),
        }
    }

    /// Takes up what was said of rules, and forgets those that are over.
    fn hear(&mut self, cx: Cx<'_>) -> Done {
        let watermark = self.watermark(cx);
        let Some(rules) = &mut self.rules else { return Ok(()) };
        let log = cx.graph.globals.rules(rules.global);
        if !rules.stale(log, watermark) {
            return Ok(());
        }
        let before = rules.numbers();
        let mut store = cx.store_mut(rules.store);
        let forgotten = rules.forget(watermark, &mut store.bytes);
        // In processing time the event at hand is of this moment.
        let now = watermark.saturating_add(i64::from(self.max_delay_ms.is_some()));
        let (changes, refused) = rules.hear(log, now, &mut store.bytes);
        drop(store);
        cx.count_many("rule_changes", changes);
        if cx.env.task_partition == 0 {
            for (said, (reason, text)) in refused {
                let place = Some(said.place.clone());
                cx.env.letters.borrow_mut().push((place, cx.name().clone(), reason, text));
            }
        }
        if forgotten {
            self.forget(&before, cx)?;
        }
        self.renumber(&before);
        Ok(())
    }

    /// What keys hold of versions that are over goes. All keys are looked at.
    fn forget(&mut self, before: &[u32], cx: Cx<'_>) -> Done {
        let kept = self.rules.as_ref().expect("rules").numbers();
        let gone: Vec<usize> = (0..before.len()).filter(|place| !kept.contains(&before[*place])).collect();
        let holds = |keyed: &Keyed<Event>| {
            gone.iter().any(|place| keyed.each[*place].runs.is_some() || !keyed.each[*place].due.is_empty())
        };
        let mut found = vec![];
        for (key, bytes) in cx.store(self.store).bytes.unordered() {
            if self.live.find(&key).is_none_or(|place| self.live.at(place).open.is_none()) {
                let keyed = saved::read_numbered(&bytes, before).map_err(|unread| unreadable(cx, unread))?;
                found.extend(holds(&keyed).then(|| (key.to_vec(), keyed)));
            }
        }
        for (key, keyed) in found {
            let place = self.live.find(&key).unwrap_or_else(|| self.live.add(&key));
            self.live.open(place, keyed);
        }
        for open in self.live.opened().filter(|open| holds(&open.keyed)) {
            open.changed = true;
            for place in &gone {
                open.keyed.each[*place] = Watch::default();
            }
        }
        Ok(())
    }

    /// The rules are others than those with these numbers: what is looked for, and what keys have of each.
    fn renumber(&mut self, before: &[u32]) {
        let Some(rules) = &self.rules else { return };
        self.asked = rules.known.iter().map(|known| (known.asked.clone(), 0)).collect();
        self.watched.automata = rules.known.iter().map(|known| known.automaton.clone()).collect();
        self.watched.lives = rules.known.iter().map(|known| known.life()).collect();
        self.watched.timed_out = vec![self.gone_told; rules.known.len()];
        self.trace = vec![false; rules.known.len()];
        let places: Vec<_> = rules.numbers().iter().map(|n| before.iter().position(|b| b == n)).collect();
        for live in self.live.opened() {
            let mut each: Vec<_> = std::mem::take(&mut live.keyed.each).into_iter().map(Some).collect();
            let taken = places.iter().map(|place| place.and_then(|p| each[p].take()).unwrap_or_default());
            live.keyed.each = taken.collect();
        }
    }

    /// What is not looked at says how far its lane has come, nevertheless: nothing else may.
    fn pass(&mut self, ts: i64, stamp: Option<Stamp>, cx: Cx<'_>) -> Done {
        if stamp.is_some() {
            self.progress(ts, stamp, cx);
            self.fire_due(&Headers::default(), cx)?;
        }
        Ok(())
    }

    /// Whether an event that is not late could be said to change nothing before time has passed it: nothing comes before it any more.
    fn settled(&self, ts: i64, stamp: Option<Stamp>) -> bool {
        let asks_more = self.order_by.is_some() || self.rules.is_some() || self.trace.contains(&true);
        let lanes = self.lanes.as_ref().zip(stamp);
        self.max_delay_ms == Some(0) && !asks_more && lanes.is_none_or(|(lanes, stamp)| lanes.others_passed(stamp, ts))
    }

    /// Of such an event, whether it changes nothing. `place`: of its key. What it took to say so is `known`.
    fn passes_by(&self, record: &Record, key: &[u8], place: Option<usize>, known: &mut Known, cx: Cx<'_>) -> bool {
        let live = place.map(|place| self.live.at(place));
        let open = live.and_then(|live| live.open.as_ref());
        let under_way = match (live, open) {
            (Some(live), _) if live.queued > 0 => true,
            (_, Some(open)) => !open.keyed.empty(),
            (Some(live), None) if live.due != NEVER => true,
            _ => !self.live.knows_all() && cx.store(self.store).bytes.get(key).is_some(),
        };
        let Some((asked, _)) = self.asked.first().filter(|_| !under_way) else { return false };
        let mut holds = |condition: u16| {
            let said = &asked.conditions[condition as usize];
            let alone = !said.history && said.uses.is_empty() && cx.pure(said.func.call);
            known.get(condition).or_else(|| {
                let held = alone.then(|| said.func.holds(cx, &record.key, &[&record.value]).ok()).flatten()?;
                known.note(condition, held);
                Some(held)
            })
        };
        self.watched.automata.iter().all(|a| a.begins(&mut holds) == Some(false))
    }

    /// An event waits for time to pass it.
    fn arrive(&mut self, place: usize, event: Read<Event>, ts: i64, stamp: Option<Stamp>, cx: Cx<'_>) -> Done {
        let lane = stamp.map_or(0, |stamp| stamp.lane);
        let waits = Queued { ts, lane, place, event };
        if self.max_delay_ms.is_some() && self.queue.back().is_none_or(|last| (last.ts, last.lane) <= (ts, lane)) {
            self.live.at_mut(place).queued += 1;
            self.queue.push_back(waits);
            return Ok(());
        }
        self.spill(i64::MAX, cx)?;
        self.keep(waits, cx)
    }

    /// Events up to a time wait with their keys from now on.
    fn spill(&mut self, until: i64, cx: Cx<'_>) -> Done {
        while self.queue.front().is_some_and(|first| first.ts <= until) {
            let Some(waits) = self.queue.pop_front() else { break };
            self.live.at_mut(waits.place).queued -= 1;
            self.keep(waits, cx)?;
        }
        Ok(())
    }

    fn keep(&mut self, Queued { ts, lane, place, event: (event, known) }: Queued, cx: Cx<'_>) -> Done {
        self.open(place, cx)?;
        let open = self.live.at_mut(place).open.as_mut().expect("opened");
        open.keyed.arrive(event, ts, lane, known, &self.watched);
        open.changed = true;
        let due = open.keyed.next_due();
        self.live.note(place, due);
        Ok(())
    }

    /// Everything that is due, the earliest first, of one time by keys; whether anything was.
    fn fire_due(&mut self, headers: &Headers, cx: Cx<'_>) -> Result<bool, Failure> {
        let (watermark, mut any) = (self.watermark(cx), false);
        loop {
            // What is due of a rule that is over is due of nothing.
            let due = self.live.first_due().filter(|first| first.0 <= watermark);
            let Some(waits) = self.queue.front().filter(|first| first.ts <= watermark) else {
                let Some((_, place)) = due else { return Ok(any) };
                self.look(place, Look::Due, headers, cx)?;
                any = true;
                continue;
            };
            let several = self.queue.get(1).is_some_and(|next| next.ts <= watermark);
            if several || self.live.at(waits.place).due <= watermark {
                self.spill(watermark, cx)?; // they go key by key, and with what else is due of theirs
                continue;
            }
            let at = |ts: i64, place: usize| (ts, &self.live.at(place).key);
            let before = due.filter(|&(ts, place)| at(ts, place) < at(waits.ts, waits.place));
            if let Some((_, place)) = before {
                self.look(place, Look::Due, headers, cx)?;
            } else if let Some(Queued { ts, place, event, .. }) = self.queue.pop_front() {
                self.live.at_mut(place).queued -= 1;
                self.look(place, Look::Waited(&event, ts), headers, cx)?;
            }
            any = true;
        }
    }

    fn look(&mut self, place: usize, look: Look<'_>, headers: &Headers, cx: Cx<'_>) -> Done {
        self.open(place, cx)?;
        let watermark = self.watermark(cx);
        let Open { datum, keyed, changed, .. } = self.live.at_mut(place).open.as_deref_mut().expect("opened");
        *changed = true;
        let datum = datum.clone();
        let mut said = vec![];
        let mut conditions = Asking {
            asked: &self.asked,
            traced: &self.trace,
            lives: &self.watched.lives,
            cx,
            key: &datum,
            pattern: 0,
            begins: true,
            known: Known::default(),
            faults: vec![],
            traces: vec![],
        };
        match &look {
            Look::Now(event) => keyed.read_now(&self.watched, event, watermark, &mut conditions, &mut said),
            Look::Waited(event, ts) => {
                keyed.fire_one(&self.watched, (event, *ts), watermark, &mut conditions, &mut said)
            }
            Look::Due => {
                let order_by = self.order_by;
                let mut sort = |events: &mut Vec<Read<Event>>| {
                    if let (Some(by), true) = (order_by, events.len() > 1) {
                        sort(events, by, &datum, cx);
                    }
                };
                keyed.fire(&self.watched, watermark, &mut sort, &mut conditions, &mut said);
            }
        }
        let traces = conditions.traces;
        let due = keyed.next_due();
        self.live.note(place, due);
        for (pattern, one) in said {
            let automaton = &self.watched.automata[pattern];
            let rule = self.rules.as_ref().map(|rules| rules.known[pattern].name());
            let pattern = if rule.is_some() { 0 } else { pattern };
            let record = |m: Match<Event>, ts: i64| {
                let stages = m.0.into_iter().map(|(stage, events)| {
                    (
                        Arc::from(automaton.stages[stage as usize].as_str()),
                        Datum::List(events.into_iter().map(Event::into_datum).collect()),
                    )
                });
                let stages =
                    stages.chain(rule.iter().map(|rule| (Arc::from("$rule"), Datum::List([rule.clone()].into()))));
                Record::new(datum.clone(), Datum::Map(stages.collect()), ts, headers.clone())
            };
            match one {
                Said::Match(m, ts) => cx.forward_to(ports(pattern)[0], record(m, ts))?,
                Said::TimedOut(m, ts) => cx.forward_to(ports(pattern)[1], record(m, ts))?,
                Said::Dropped(n) => cx.count_many("runs_dropped", n as u64),
                Said::Many(_) => cx.count("many_runs"),
                Said::Failed(_, _, ("too_many_runs", text))
                    if self.cap.is_some_and(|cap| cap.policy == CapPolicy::Fail) =>
                {
                    let text = format!("`{}`: {text}; on_max_runs=\"fail\"", cx.name());
                    return Err(Failure::Fatal(Fatal::new("too_many_runs", text)));
                }
                Said::Failed(failed, ts, (reason, text)) => {
                    let failure = Failure::Bad(reason, format!("{text}; at {ts} ms: {failed:?}"));
                    match look {
                        Look::Now(event) if *event == failed => {
                            let record = Record::new(datum.clone(), failed.into_datum(), ts, headers.clone());
                            cx.settle(Err(failure), Failed::Record(&record))?
                        }
                        // It had waited: the record at hand is another one, with nothing wrong.
                        _ => {
                            let record = Record::new(datum.clone(), failed.into_datum(), ts, Headers::default());
                            cx.as_waited(None, &record, || Err(failure))?
                        }
                    }
                }
            }
        }
        for (pattern, trace) in traces {
            let value = trace.told(&self.watched.automata[pattern]);
            cx.forward_to(ports(pattern)[2], Record::new(datum.clone(), value, trace.ts, headers.clone()))?;
        }
        Ok(())
    }

    /// No record has come for a while: time is as far ahead of the latest one's as the clock is.
    fn pass_silence(&mut self, cx: Cx<'_>) {
        let (Some(idle), wall, (seen, then)) = (self.idle_ms, cx.env.wall, self.latest) else { return };
        if wall == NO_TIME || seen == NO_TIME {
            return;
        }
        if let Some(lanes) = &mut self.lanes {
            lanes.begin(wall);
            self.seen = self.seen.max(lanes.slowest(Some(idle), wall));
        }
        if then == NO_TIME {
            self.latest.1 = wall;
        } else if wall.saturating_sub(then) >= idle {
            self.seen = self.seen.max(seen.saturating_add(wall - then));
        }
    }
}

/// What the runs of a key asked about one event.
struct Trace {
    event: Datum,
    ts: i64,
    /// The run, a state, one of its edges, and whether its condition held; a run's edges in a row.
    edges: Vec<(Run, usize, usize, bool)>,
}

impl Trace {
    fn told(&self, automaton: &Automaton) -> Datum {
        let text = |s: &str| Datum::Str(Arc::from(s));
        let runs = self.edges.chunk_by(|a, b| a.0 == b.0).map(|edges| {
            let run = &edges[0].0;
            let all = edges.iter().map(|(_, state, edge, holds)| {
                let (from, edge) = (&automaton.states[*state], &automaton.states[*state].edges[*edge]);
                map([
                    ("from", text(&from.name)),
                    ("action", text(&format!("{:?}", edge.action).to_lowercase())),
                    ("to", text(&automaton.states[edge.target].name)),
                    ("guard", text(&edge.guard.describe().to_string())),
                    ("holds", Datum::Bool(*holds)),
                ])
            });
            let all: Vec<Datum> = all.collect();
            let begun = run.start.is_some();
            let ms = |known: bool, ms: i64| if known { Datum::Int(ms) } else { Datum::Null };
            map([
                ("state", text(&automaton.states[run.state as usize].name)),
                ("version", text(&run.version.digits().iter().map(u32::to_string).collect::<Vec<_>>().join("."))),
                ("since", ms(begun, run.start_ms())),
                ("did", text(did(automaton, edges))),
                ("edges", Datum::List(all.into())),
            ])
        });
        let runs: Vec<Datum> = runs.collect();
        map([("event", self.event.clone()), ("at", Datum::Int(self.ts)), ("runs", Datum::List(runs.into()))])
    }
}

/// The watermark where the largest time is `seen`.
fn behind(seen: i64, delay_ms: i64) -> i64 {
    match seen {
        NO_TIME => i64::MIN,
        seen => seen.saturating_sub(delay_ms).saturating_sub(1),
    }
}

fn map<const N: usize>(fields: [(&str, Datum); N]) -> Datum {
    Datum::Map(fields.into_iter().map(|(name, value)| (Arc::from(name), value)).collect())
}

/// In one word. A start run that does not take goes on waiting.
fn did(automaton: &Automaton, edges: &[(Run, usize, usize, bool)]) -> &'static str {
    let true_ones = || {
        let held = edges.iter().filter(|(_, _, _, holds)| *holds);
        held.map(|(_, state, edge, _)| &automaton.states[*state].edges[*edge])
    };
    let any = |action: Action| true_ones().any(|e| e.action == action && automaton.states[e.target].kind != Kind::Stop);
    let ends = true_ones().any(|e| automaton.states[e.target].kind == Kind::Stop);
    match (ends, any(Action::Take), any(Action::Ignore), edges[0].0.start.is_none()) {
        (true, ..) => "stopped",
        (_, true, true, false) => "took and skipped",
        (_, true, ..) => "took",
        (_, _, _, true) => "waits",
        (_, _, true, _) => "skipped",
        _ => "dropped",
    }
}

fn unreadable(cx: Cx<'_>, unread: Unread) -> Failure {
    Failure::Fatal(match unread {
        Unread::OtherShape => Fatal::new(
            "pattern_changed",
            format!(
                "`{}` has runs of another pattern: give the new one another name, or reset the application",
                cx.name()
            ),
        ),
        Unread::Broken => Fatal::new("corrupt_state", format!("the state of `{}` cannot be read", cx.name())),
    })
}

/// Stable; events that cannot be compared stay as they came.
fn sort(events: &mut Vec<Read<Event>>, by: Func, key: &Datum, cx: Cx<'_>) {
    let mut ranked: Vec<(Datum, Read<Event>)> =
        events.drain(..).map(|e| (by.apply(cx, key, &[&*e.0.datum()]).unwrap_or_default(), e)).collect();
    ranked.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(std::cmp::Ordering::Equal));
    events.extend(ranked.into_iter().map(|r| r.1));
}

/// The conditions on the events of a key.
struct Asking<'a> {
    /// By pattern, and its place there.
    asked: &'a [(Arc<Asked>, usize)],
    traced: &'a [bool],
    lives: &'a [Life],
    cx: Cx<'a>,
    key: &'a Datum,
    /// Whose turn it is, and whether the event may begin a run of it.
    pattern: usize,
    begins: bool,
    /// What conditions that look at the event alone have said of it, whoever asked; and of those that `known` has no room for or that failed.
    known: Known,
    faults: Vec<(u16, Result<bool, Fault>)>,
    traces: Vec<(usize, Trace)>,
}

fn fault(failure: Failure) -> Fault {
    match failure {
        Failure::Bad(reason, text) => (reason, text),
        Failure::Fatal(fatal) => (fatal.code, fatal.message),
    }
}

impl Asking<'_> {
    fn call(&self, func: &Func, values: &[&Datum]) -> Result<Datum, Fault> {
        self.asked[self.pattern].0.call(func, self.key, values, self.cx).map_err(fault)
    }

    fn looked(&self, wanted: &Use, history: &History<'_, Event>) -> Result<Datum, Fault> {
        let (asked, place) = &self.asked[self.pattern];
        let stage = asked.stages[*place].iter().position(|s| wanted.is_of(s));
        let events: Vec<_> = stage.map_or(vec![], |s| history.events(s as u16).map(Event::datum).collect());
        let events: Vec<&Datum> = events.iter().map(|event| &**event).collect();
        let call = |func: &Func, values: &[&Datum]| asked.call(func, self.key, values, self.cx);
        wanted.value(&events, &history.event.datum(), &asked.sums, self.cx, self.key, &call).map_err(fault)
    }

    /// Of a condition that looks at the event alone.
    fn said(&mut self, condition: u16, func: &Func, event: &Datum) -> Result<bool, Fault> {
        if let Some(known) = self.known.get(condition) {
            return Ok(known);
        }
        if let Some((_, found)) = self.faults.iter().find(|(of, _)| *of == condition) {
            return found.clone();
        }
        let found = self.call(func, &[event]).map(|v| v.is_true());
        found.iter().for_each(|held| self.known.note(condition, *held));
        if self.known.get(condition).is_none() {
            self.faults.push((condition, found.clone()));
        }
        found
    }
}

impl Conditions<Event> for Asking<'_> {
    fn read(&mut self, _: &Event, known: Known) {
        self.known = known;
        self.faults.clear();
    }

    fn known(&self) -> Known {
        self.known
    }

    fn turn(&mut self, pattern: usize, event: &Event, ts: i64) {
        (self.pattern, self.begins) = (pattern, ts < self.lives[pattern].until);
        if pattern > 0 && self.asked[pattern].1 == 0 {
            self.read(event, Known::default()); // conditions of another rule have numbers of their own
        }
        if self.traced[pattern] {
            self.traces.push((pattern, Trace { event: event.datum().into_owned(), ts, edges: vec![] }));
        }
    }

    fn asked(&mut self, run: &Run, state: usize, edge: usize, holds: bool) {
        if let Some((_, trace)) = self.traces.last_mut() {
            trace.edges.push((run.clone(), state, edge, holds));
        }
    }

    fn traces(&self) -> bool {
        self.traced[self.pattern]
    }

    fn may_begin(&self) -> bool {
        self.begins
    }

    fn alone(&mut self, condition: u16, event: &Event) -> Option<bool> {
        let asked = &self.asked[self.pattern].0;
        let said = &asked.conditions[condition as usize];
        (!said.history && said.uses.is_empty()).then(|| self.said(condition, &said.func, &event.datum()).ok()).flatten()
    }

    fn holds(&mut self, condition: u16, history: &History<'_, Event>) -> Result<bool, Fault> {
        let (asked, place) = &self.asked[self.pattern];
        let said = &asked.conditions[condition as usize];
        if said.history {
            let stages = asked.stages[*place].iter().enumerate().map(|(i, name)| {
                (
                    Arc::from(name.as_str()),
                    Datum::List(history.events(i as u16).map(|event| event.datum().into_owned()).collect()),
                )
            });
            return Ok(self.call(&said.func, &[&*history.event.datum(), &Datum::Map(stages.collect())])?.is_true());
        }
        if !said.uses.is_empty() {
            let fields = said.uses.iter().map(|u| Ok((u.name(), self.looked(u, history)?)));
            let fields = Datum::Map(fields.collect::<Result<_, Fault>>()?);
            return Ok(self.call(&said.func, &[&*history.event.datum(), &fields])?.is_true());
        }
        self.said(condition, &said.func, &history.event.datum())
    }
}

impl Node for MatchPattern {
    fn process(&mut self, input: usize, record: Record, cx: Cx<'_>) -> Done {
        if let Some(broken) = self.broken.take() {
            return Err(Failure::Fatal(broken));
        }
        if self.max_delay_ms.is_none() {
            // First what is due: a task that begins again finds the clock further on, and forgets rules that ended meanwhile.
            self.fire_due(&Headers::default(), cx)?;
        }
        self.hear(cx)?;
        let stamp = self.stamp(cx);
        if input == 1 {
            return self.pass(NO_TIME, stamp, cx);
        }
        for (part, reason) in [(&record.key, "dropped:null_key"), (&record.value, "dropped:null_value")] {
            if part.is_null() && !(self.unkeyed && reason == "dropped:null_key") {
                cx.count(reason);
                return self.pass(record.ts, stamp, cx);
            }
        }
        let key = match self.unkeyed {
            true => key_bytes(&Datum::Null)?,
            false => key_bytes(&record.key)?,
        };
        if self.max_delay_ms.is_none() {
            let place = self.load(&key, cx)?;
            return match self.order_by {
                None => self.look(place, Look::Now(&Event::Live(record.value)), &record.headers, cx),
                Some(_) => self.arrive(place, (Event::Live(record.value), Known::default()), cx.env.wall, stamp, cx),
            };
        }
        if self.late(record.ts, stamp, cx) {
            cx.count("late");
            let ts = record.ts;
            cx.forward_to(2, record)?;
            return self.pass(ts, stamp, cx);
        }
        // It is behind the watermark that it makes: what is due is due without it, and the key has less to keep.
        let settled = self.settled(record.ts, stamp);
        self.progress(record.ts, stamp, cx);
        let fired = self.fire_due(&record.headers, cx);
        let (place, mut known) = (self.live.find(&key), Known::default());
        if !settled || !self.passes_by(&record, &key, place, &mut known, cx) {
            let place = place.unwrap_or_else(|| self.live.add(&key));
            self.arrive(place, (Event::Live(record.value), known), record.ts, stamp, cx)?;
        }
        fired.map(|_| ())
    }

    /// The logged clock may have moved.
    fn punctuate(&mut self, cx: Cx<'_>) -> Done {
        if self.max_delay_ms.is_some() && self.idle_ms.is_none() {
            return Ok(());
        }
        self.pass_silence(cx);
        if self.fire_due(&Headers::default(), cx)? {
            cx.env.fired.set(true);
        }
        Ok(())
    }

    fn flush(&mut self, cx: Cx<'_>) -> Done {
        self.spill(i64::MAX, cx)?;
        let numbers = self.rules.as_ref().map(Rules::numbers);
        let mut store = cx.store_mut(self.store);
        self.live.stored(KEPT, |key, keyed| {
            if keyed.empty() {
                store.bytes.write(key, None);
                return Ok(0);
            }
            let bytes = match &numbers {
                Some(numbers) => saved::write_numbered(keyed, numbers),
                None => saved::write(keyed, self.shape),
            };
            let bytes = bytes.map_err(Failure::unstorable)?;
            store.bytes.write(key, Some(&bytes));
            Ok(bytes.len())
        })
    }

    fn save(&self, out: &mut Writer) {
        self.rules.iter().for_each(|rules| rules.save(out));
        out.zigzag(self.seen);
        self.lanes.iter().for_each(|lanes| lanes.save(out));
        if self.idle_ms.is_some() {
            out.zigzag(self.latest.0);
            out.zigzag(self.latest.1);
        }
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.rules.iter_mut().try_for_each(|rules| rules.load(saved))?;
        self.seen = saved.zigzag()?;
        if !saved.rest.is_empty() {
            self.lanes.iter_mut().try_for_each(|lanes| lanes.load(saved))?;
        }
        self.latest = match saved.rest.is_empty() {
            true => (self.seen, NO_TIME),
            false => (saved.zigzag()?, saved.zigzag()?),
        };
        Some(())
    }

    fn restored(&mut self, cx: Cx<'_>) {
        self.live = Decoded::default();
        self.queue.clear();
        self.broken = None;
        if let Some(rules) = &mut self.rules {
            self.broken = rules.restored(&cx.store(rules.store).bytes).err();
            self.renumber(&[]);
        }
        for (key, bytes) in cx.store(self.store).bytes.unordered() {
            match self.decoded(&bytes) {
                Ok(keyed) => match keyed.next_due() {
                    Some(ts) => {
                        let place = self.live.add(&key);
                        self.live.note(place, Some(ts));
                    }
                    None => self.live.forget_some(),
                },
                Err(unread) => {
                    if let Failure::Fatal(fatal) = unreadable(cx, unread) {
                        self.broken = Some(fatal);
                    }
                }
            }
        }
    }
}
