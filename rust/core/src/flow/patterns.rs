//! Pattern matching: the events of each key go through the automaton of `crate::cep`, in event time.
//!
//! ```text
//!   record ──▶ later than the watermark? ──no──▶ port 2, as it is
//!                   │ yes
//!              its key's waiting events ─▶ the watermark passes them ─▶ runs ─▶ port 0: matches   port 1: what was given up
//! ```
//!
//! The watermark is the largest time seen, less the bound, less 1; a record is asked before it moves it. In the store each key has its
//! state whole; between commits it lives decoded in memory. A match is an object: its stages, in order of their first event, with
//! their events, oldest first. Who asks has port 3: for each event which edges each run asked, and what it did.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use serde::Deserialize;

use super::func::Func;
use super::stores::key_bytes;
use super::{Cx, Done, Failure, Headers, Node, Record};
use crate::cep::automaton::{Action, Kind};
use crate::cep::keyed::{Keyed, Said};
use crate::cep::saved::{self, Unread};
use crate::cep::{Automaton, Cap, CapPolicy, Conditions, History, Match, Pattern, Run};
use crate::datum::Datum;
use crate::error::{Fatal, PlanError};
use crate::expr::{order, Fault};
use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

/// What a condition wants to know of the events that its run has taken.
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
struct Use {
    name: String,
    stage: String,
    look: Look,
    /// Of each event; none: the event itself.
    #[serde(default)]
    of: Option<Func>,
}

#[derive(Debug, Deserialize)]
struct Condition {
    #[serde(flatten)]
    func: Func,
    /// What it is called with beside the event, an object.
    #[serde(default)]
    uses: Vec<Use>,
    /// It is called with all taken events by stage.
    #[serde(default)]
    history: bool,
}

#[derive(Deserialize)]
pub struct Parameters {
    pattern: Pattern,
    conditions: Vec<Condition>,
    max_delay_ms: i64,
    /// Whether somebody hears of time-outs.
    timed_out: bool,
    /// By which events of one time are put in order: the value of each, ascending.
    #[serde(default)]
    order_by: Option<Func>,
    /// The most runs of a key; none: no bound.
    #[serde(default)]
    max_runs: Option<usize>,
    #[serde(default = "drop_oldest")]
    on_max_runs: CapPolicy,
    /// Whether somebody reads what each run did with each event.
    #[serde(default)]
    trace: bool,
    /// `a + b` and `a / b` on (a, b).
    add: Func,
    divide: Func,
}

fn drop_oldest() -> CapPolicy {
    CapPolicy::DropOldest
}

pub struct MatchPattern {
    asked: Arc<Asked>,
    automaton: Automaton,
    shape: u64,
    max_delay_ms: i64,
    timed_out: bool,
    order_by: Option<Func>,
    trace: bool,
    store: usize,
    seen: i64,
    /// Decoded, by key, and whether it was changed since it was stored.
    live: BTreeMap<Vec<u8>, (Datum, Keyed<Datum>, bool)>,
    /// What is due, of all keys.
    due: BTreeSet<(i64, Vec<u8>)>,
    broken: Option<Fatal>,
}

struct Asked {
    conditions: Vec<Condition>,
    stages: Vec<String>,
    add: Func,
    divide: Func,
}

/// Decoded keys that are kept after a commit.
const KEPT: usize = 10_000;

/// Whether the pattern of a node is one.
pub fn check(parameters: &serde_json::Map<String, serde_json::Value>) -> Result<(), PlanError> {
    let said = parameters.get("pattern").cloned().unwrap_or_default();
    let pattern: Pattern = serde_json::from_value(said).map_err(|e| PlanError::new("bad_plan", e.to_string()))?;
    Automaton::compile(&pattern).map(|_| ())
}

impl MatchPattern {
    pub fn new(p: Parameters, store: usize) -> Result<Self, PlanError> {
        let mut automaton = Automaton::compile(&p.pattern)?;
        automaton.cap = p.max_runs.map(|runs| Cap { runs, policy: p.on_max_runs });
        let asked = Asked { conditions: p.conditions, stages: automaton.stages.clone(), add: p.add, divide: p.divide };
        Ok(MatchPattern {
            asked: Arc::new(asked),
            shape: saved::shape(&automaton),
            automaton,
            max_delay_ms: p.max_delay_ms,
            timed_out: p.timed_out,
            order_by: p.order_by,
            trace: p.trace,
            store,
            seen: NO_TIME,
            live: BTreeMap::new(),
            due: BTreeSet::new(),
            broken: None,
        })
    }

    fn watermark(&self) -> i64 {
        match self.seen {
            NO_TIME => i64::MIN,
            seen => seen.saturating_sub(self.max_delay_ms).saturating_sub(1),
        }
    }

    fn load(&mut self, key: &[u8], cx: Cx<'_>) -> Done {
        if self.live.contains_key(key) {
            return Ok(());
        }
        let found = cx.store(self.store).bytes.get(key).map(|bytes| saved::read(&bytes, self.shape));
        let keyed = found.transpose().map_err(|unread| unreadable(cx, unread))?.unwrap_or_default();
        let datum = Datum::from_key_bytes(key).unwrap_or_default();
        self.live.insert(key.to_vec(), (datum, keyed, false));
        Ok(())
    }

    fn fire(&mut self, key: &[u8], headers: &Headers, cx: Cx<'_>) -> Done {
        self.load(key, cx)?;
        let watermark = self.watermark();
        let (datum, keyed, changed) = self.live.get_mut(key).expect("loaded");
        *changed = true;
        let datum = datum.clone();
        let mut said = vec![];
        let before = keyed.due.clone();
        keyed.due.retain(|ts| *ts > watermark);
        let asked = &self.asked;
        let traces = self.trace.then(|| Rc::new(RefCell::new(vec![])));
        let order_by = self.order_by;
        keyed.fire(
            &self.automaton,
            watermark,
            self.timed_out,
            &mut |events| {
                if let (Some(by), true) = (order_by, events.len() > 1) {
                    sort(events, by, &datum, cx);
                }
            },
            &mut |event, ts| {
                if let Some(traces) = &traces {
                    traces.borrow_mut().push(Trace { event: event.clone(), ts, edges: vec![] });
                }
                Box::new(Asking {
                    traces: traces.clone(),
                    asked: asked.clone(),
                    cx,
                    key: datum.clone(),
                    event: event.clone(),
                    known: BTreeMap::new(),
                })
            },
            &mut said,
        );
        for ts in before.difference(&keyed.due) {
            self.due.remove(&(*ts, key.to_vec()));
        }
        for ts in keyed.due.difference(&before) {
            self.due.insert((*ts, key.to_vec()));
        }
        for one in said {
            let record = |m: Match<Datum>, ts: i64| {
                let stages = m.0.into_iter().map(|(stage, events)| {
                    (Arc::from(self.automaton.stages[stage as usize].as_str()), Datum::List(events.into()))
                });
                Record::new(datum.clone(), Datum::Map(stages.collect()), ts, headers.clone())
            };
            match one {
                Said::Match(m, ts) => cx.forward_to(0, record(m, ts))?,
                Said::TimedOut(m, ts) => cx.forward_to(1, record(m, ts))?,
                Said::Dropped(n) => cx.count_many("runs_dropped", n as u64),
                Said::Many(_) => cx.count("many_runs"),
                Said::Failed(_, _, ("too_many_runs", text))
                    if self.automaton.cap.is_some_and(|cap| cap.policy == CapPolicy::Fail) =>
                {
                    let text = format!("`{}`: {text}; on_max_runs=\"fail\"", cx.name());
                    return Err(Failure::Fatal(Fatal::new("too_many_runs", text)));
                }
                Said::Failed(event, ts, (reason, text)) => {
                    cx.settle(Err(Failure::Bad(reason, format!("{text}; at {ts} ms: {event:?}"))))?
                }
            }
        }
        for trace in traces.map_or(vec![], |traces| traces.take()) {
            let value = trace.told(&self.automaton);
            cx.forward_to(3, Record::new(datum.clone(), value, trace.ts, headers.clone()))?;
        }
        Ok(())
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
                ("since", ms(begun, run.start_ms)),
                ("did", text(did(automaton, edges))),
                ("edges", Datum::List(all.into())),
            ])
        });
        let runs: Vec<Datum> = runs.collect();
        map([("event", self.event.clone()), ("at", Datum::Int(self.ts)), ("runs", Datum::List(runs.into()))])
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
fn sort(events: &mut Vec<Datum>, by: Func, key: &Datum, cx: Cx<'_>) {
    let mut ranked: Vec<(Datum, Datum)> =
        events.drain(..).map(|e| (by.apply(cx, key, &[&e]).unwrap_or_default(), e)).collect();
    ranked.sort_by(|a, b| order(&a.0, &b.0).unwrap_or(std::cmp::Ordering::Equal));
    events.extend(ranked.into_iter().map(|r| r.1));
}

/// The conditions on one event.
struct Asking<'a> {
    asked: Arc<Asked>,
    cx: Cx<'a>,
    key: Datum,
    event: Datum,
    traces: Option<Rc<RefCell<Vec<Trace>>>>,
    /// Of those that look at the event alone.
    known: BTreeMap<u16, Result<bool, Fault>>,
}

fn fault(failure: Failure) -> Fault {
    match failure {
        Failure::Bad(reason, text) => (reason, text),
        Failure::Fatal(fatal) => (fatal.code, fatal.message),
    }
}

impl Asking<'_> {
    fn call(&self, func: &Func, values: &[&Datum]) -> Result<Datum, Fault> {
        func.apply(self.cx, &self.key, values).map_err(fault)
    }

    fn looked(&self, wanted: &Use, history: &History<'_, Datum>) -> Result<Datum, Fault> {
        let stage = self.asked.stages.iter().position(|s| *s == wanted.stage);
        let events = stage.map_or(vec![], |s| history.events(s as u16).collect());
        let count = events.len();
        let of = |event: &Datum| match &wanted.of {
            // Conditions may compare taken events with the one at hand.
            Some(of) => self.call(of, &[event, &self.event]),
            None => Ok(event.clone()),
        };
        let values = match wanted.look {
            Look::Count if wanted.of.is_none() => return Ok(Datum::Int(count as i64)),
            Look::First => return events.first().map_or(Ok(Datum::Null), |e| of(e)),
            Look::Last => return events.last().map_or(Ok(Datum::Null), |e| of(e)),
            _ => events.into_iter().map(of).collect::<Result<Vec<_>, _>>()?,
        };
        let known = values.iter().filter(|v| !v.is_null());
        Ok(match wanted.look {
            Look::Count => Datum::Int(known.count() as i64),
            Look::Any => Datum::Bool(values.iter().any(Datum::is_true)),
            Look::All => Datum::Bool(values.iter().all(Datum::is_true)),
            Look::Values => Datum::List(values.into()),
            Look::Sum | Look::Mean => {
                let (mut sum, mut n) = (Datum::Int(0), 0);
                for value in known {
                    sum = self.call(&self.asked.add, &[&sum, value])?;
                    n += 1;
                }
                match wanted.look {
                    Look::Sum => sum,
                    _ if n == 0 => Datum::Null,
                    _ => self.call(&self.asked.divide, &[&sum, &Datum::Int(n)])?,
                }
            }
            _ => {
                let better =
                    if wanted.look == Look::Min { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater };
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

impl Conditions<Datum> for Asking<'_> {
    fn asked(&mut self, run: &Run, state: usize, edge: usize, holds: bool) {
        let last = self.traces.iter().flat_map(|t| t.borrow().len().checked_sub(1)).next();
        if let (Some(traces), Some(last)) = (&self.traces, last) {
            traces.borrow_mut()[last].edges.push((run.clone(), state, edge, holds));
        }
    }

    fn traces(&self) -> bool {
        self.traces.is_some()
    }

    fn holds(&mut self, condition: u16, history: &History<'_, Datum>) -> Result<bool, Fault> {
        let asked = self.asked.clone();
        let said = &asked.conditions[condition as usize];
        if said.history {
            let stages =
                asked.stages.iter().enumerate().map(|(i, name)| {
                    (Arc::from(name.as_str()), Datum::List(history.events(i as u16).cloned().collect()))
                });
            return Ok(self.call(&said.func, &[&self.event, &Datum::Map(stages.collect())])?.is_true());
        }
        if !said.uses.is_empty() {
            let fields = said.uses.iter().map(|u| Ok((Arc::from(u.name.as_str()), self.looked(u, history)?)));
            let fields = Datum::Map(fields.collect::<Result<_, Fault>>()?);
            return Ok(self.call(&said.func, &[&self.event, &fields])?.is_true());
        }
        if let Some(known) = self.known.get(&condition) {
            return known.clone();
        }
        let found = self.call(&said.func, &[&self.event]).map(|v| v.is_true());
        self.known.insert(condition, found.clone());
        found
    }
}

impl Node for MatchPattern {
    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        if let Some(broken) = self.broken.take() {
            return Err(Failure::Fatal(broken));
        }
        for (part, reason) in [(&record.key, "dropped:null_key"), (&record.value, "dropped:null_value")] {
            if part.is_null() {
                cx.count(reason);
                return Ok(());
            }
        }
        if record.ts <= self.watermark() {
            cx.count("late");
            return cx.forward_to(2, record);
        }
        let key = key_bytes(&record.key)?;
        self.load(&key, cx)?;
        let (_, keyed, changed) = self.live.get_mut(&key).expect("loaded");
        keyed.arrive(record.value, record.ts);
        *changed = true;
        self.due.insert((record.ts, key));
        self.seen = self.seen.max(record.ts);
        let watermark = self.watermark();
        while let Some((_, key)) = self.due.first().filter(|first| first.0 <= watermark).cloned() {
            self.fire(&key, &record.headers, cx)?;
        }
        Ok(())
    }

    fn flush(&mut self, cx: Cx<'_>) -> Done {
        let mut store = cx.store_mut(self.store);
        for (key, (_, keyed, changed)) in self.live.iter_mut().filter(|l| l.1 .2) {
            *changed = false;
            match keyed.empty() {
                true => store.bytes.write(key, None),
                false => {
                    let bytes = saved::write(keyed, self.shape).map_err(Failure::unstorable)?;
                    store.bytes.write(key, Some(&bytes));
                }
            }
        }
        match self.live.len() > KEPT {
            true => self.live.clear(),
            false => self.live.retain(|_, (_, keyed, _)| !keyed.empty()),
        }
        Ok(())
    }

    fn save(&self, out: &mut Writer) {
        out.zigzag(self.seen);
    }

    fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.seen = saved.zigzag()?;
        Some(())
    }

    fn restored(&mut self, cx: Cx<'_>) {
        self.live.clear();
        self.due.clear();
        self.broken = None;
        for (key, bytes) in cx.store(self.store).bytes.unordered() {
            match saved::read(&bytes, self.shape) {
                Ok(keyed) => self.due.extend(keyed.due.into_iter().map(|ts| (ts, key.to_vec()))),
                Err(unread) => {
                    if let Failure::Fatal(fatal) = unreadable(cx, unread) {
                        self.broken = Some(fatal);
                    }
                }
            }
        }
    }
}
