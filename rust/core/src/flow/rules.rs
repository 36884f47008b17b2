//! Rules: patterns that come, change and go while a job runs, said on a topic that every task hears whole.
//!
//! ```text
//!   topic ──worker──▶ RuleLog: every record, in order ──each task, before its next event──▶ Rules: which versions, from when to when
//! ```
//!
//! **When a rule begins.** A task takes up what it has not heard of before it looks at its next event. The rule is shown the events
//! from `from` on, an event time, and never those that the task has looked at already: `max(from, watermark + 1)`. A `from` that lies
//! ahead of all tasks is therefore the same place for all of them, and in every replay; without one each task begins where it stands.
//! How far a task has heard, and what it made of it, are committed with its events: after a crash it neither forgets a rule nor takes
//! one up twice, and one that was taken up in a generation that was never committed is taken up again.
//!
//! **Versions.** Each is a pattern of its own, with a number that is never given again. A new version ends the older ones at its
//! beginning: no event begins a run of theirs from there on, and what had begun goes on (`finish`) or goes (`drop`). A version whose
//! runs are over for certain is forgotten with what keys hold of it; one without a window never is certain, unless it is dropped.
//!
//! **What is refused** (an older version, another pattern under a known one, what is no rule) changes nothing, and is a dead letter of
//! one task, that of partition 0.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::func::Func;
use super::native::Native;
use super::patterns::{Asked, Condition};
use super::serde::{unavailable, UNAVAILABLE};
use super::store::ByteStore;
use super::Place;
use crate::cep::keyed::Life;
use crate::cep::{Automaton, Cap, Pattern};
use crate::datum::Datum;
use crate::error::{Fatal, PlanError};
use crate::expr::Foreign;
use crate::raw::RawBatch;
use crate::wire::{Reader, Writer};

/// One record of the topic.
pub struct Said {
    offset: i64,
    pub place: Place,
    /// The error says why it is no rule.
    change: Result<Change, String>,
}

/// What is to become of a rule.
#[derive(Deserialize)]
struct Change {
    id: String,
    version: i64,
    /// Event time, ms.
    #[serde(default)]
    from: Option<i64>,
    /// Whether runs of older versions, or of what ends, go at once.
    #[serde(default)]
    drop: bool,
    #[serde(default)]
    enabled: bool,
    #[serde(default)]
    removed: bool,
    /// The pattern as it was said: whether it is the same. Empty: nothing is said of it.
    #[serde(default)]
    text: String,
    /// What is looked for; none where nothing is.
    #[serde(default)]
    rule: Option<Box<RawValue>>,
}

/// What a topic of rules has said, in one copy for all tasks of a worker.
pub struct RuleLog {
    /// The host's function that reads a record: called with id and value, it answers with JSON.
    read: usize,
    end: AtomicI64,
    said: Mutex<Vec<Arc<Said>>>,
}

impl RuleLog {
    pub fn new(read: usize) -> RuleLog {
        RuleLog { read, end: AtomicI64::new(0), said: Mutex::default() }
    }

    pub fn read(&self, topic: &str, partition: u32, batch: &Arc<RawBatch>, foreign: &dyn Foreign) -> Result<(), Fatal> {
        if partition != 0 {
            let text = format!("`{topic}` has several partitions: rules have one order, and need a topic of one");
            return Err(Fatal::new("bad_topic", text));
        }
        let topic: Arc<str> = topic.into();
        for row in 0..batch.len() {
            let text = |bytes: Option<&[u8]>| match bytes {
                Some(bytes) => Datum::str(&String::from_utf8_lossy(bytes)),
                None => Datum::Null,
            };
            let said = foreign.apply(self.read, &[text(batch.keys.get(row)), text(batch.values.get(row))]);
            let change = match said {
                Ok(Datum::Str(json)) => serde_json::from_str(&json).map_err(|e| e.to_string()),
                Ok(other) => Err(format!("read as {other:?}")),
                Err((UNAVAILABLE, text)) => return Err(unavailable(text)),
                Err((_, text)) => Err(text),
            };
            let place = Place { topic: topic.clone(), partition, raw: batch.clone(), row };
            let said = Said { offset: batch.offsets[row], place, change };
            self.said.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::new(said));
        }
        self.end.store(batch.next_offset, Ordering::Release);
        Ok(())
    }

    /// The position behind all that was said.
    pub fn end(&self) -> i64 {
        self.end.load(Ordering::Acquire)
    }

    /// From a position on.
    pub fn from(&self, position: i64) -> Vec<Arc<Said>> {
        let said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let first = said.partition_point(|one| one.offset < position);
        said[first..].to_vec()
    }
}

/// A rule as it was said last.
#[derive(Clone, Serialize, Deserialize)]
struct Current {
    version: i64,
    enabled: bool,
    text: String,
}

/// A version that is looked for, or was.
#[derive(Clone, Serialize, Deserialize)]
struct Version {
    id: String,
    version: i64,
    from: i64,
    until: i64,
    gone: i64,
    rule: Box<RawValue>,
}

/// A version in the form in which it is looked for.
pub struct Known {
    pub number: u32,
    said: Version,
    pub automaton: Automaton,
    pub asked: Arc<Asked>,
}

impl Known {
    pub fn life(&self) -> Life {
        Life { from: self.said.from, until: self.said.until, gone: self.said.gone }
    }

    /// As matches name it.
    pub fn name(&self) -> Datum {
        let fields = [("id", Datum::str(&self.said.id)), ("version", Datum::Int(self.said.version))];
        Datum::Map(fields.into_iter().map(|(name, value)| (Arc::from(name), value)).collect())
    }

    /// When nothing of it is left for certain.
    fn over(&self, lag: i64) -> i64 {
        let Life { until, gone, .. } = self.life();
        match self.automaton.window_ms {
            window if window > 0 && until < i64::MAX => gone.min(until.saturating_add(window).saturating_add(lag)),
            _ => gone,
        }
    }
}

#[derive(Deserialize)]
struct Looked {
    pattern: Pattern,
    conditions: Vec<Condition>,
    natives: Vec<Box<RawValue>>,
}

/// Where a node's rules are said, and where it keeps what it made of them.
#[derive(Deserialize)]
pub struct Where {
    global: String,
    store: String,
}

impl Where {
    pub fn names(&self) -> (&str, &str) {
        (&self.global, &self.store)
    }
}

/// The rules of one task.
pub struct Rules {
    pub global: usize,
    pub store: usize,
    cap: Option<Cap>,
    sums: super::looks::Sums,
    lag: i64,
    /// How far the topic has been heard.
    position: i64,
    next: u32,
    /// By number.
    pub known: Vec<Known>,
}

type Refused = (&'static str, String);

impl Rules {
    pub fn new(global: usize, store: usize, cap: Option<Cap>, sums: super::looks::Sums, lag: i64) -> Rules {
        Rules { global, store, cap, sums, lag, position: 0, next: 0, known: vec![] }
    }

    pub fn numbers(&self) -> Vec<u32> {
        self.known.iter().map(|known| known.number).collect()
    }

    /// Whether something was said, or something is over; asked before each event.
    pub fn stale(&self, log: &RuleLog, watermark: i64) -> bool {
        log.end() > self.position || self.known.iter().any(|known| known.over(self.lag) <= watermark)
    }

    /// Takes up what was said. What begins or ends does so at `now` or later. Returns how many changes there were, and what is refused.
    pub fn hear(&mut self, log: &RuleLog, now: i64, store: &mut ByteStore) -> (u64, Vec<(Arc<Said>, Refused)>) {
        let (mut changes, mut refused) = (0, vec![]);
        for said in log.from(self.position) {
            self.position = said.offset + 1;
            let done = match &said.change {
                Ok(change) => self.change(change, now, store),
                Err(text) => Err(("bad_rule", text.clone())),
            };
            match done {
                Ok(changed) => changes += u64::from(changed),
                Err(why) => refused.push((said, why)),
            }
        }
        self.position = self.position.max(log.end());
        (changes, refused)
    }

    fn change(&mut self, change: &Change, now: i64, store: &mut ByteStore) -> Result<bool, Refused> {
        let at = change.from.map_or(now, |from| from.max(now));
        let key = current_key(&change.id);
        let current = store.get(&key).and_then(|bytes| serde_json::from_slice::<Current>(&bytes).ok());
        if change.removed {
            self.end(&change.id, at, change.drop, store);
            store.write(&key, None);
            return Ok(current.is_some());
        }
        let same = |current: &Current| change.text.is_empty() || current.text == change.text;
        match &current {
            Some(current) if change.version < current.version => {
                let text = format!("version {} of `{}` is older than {}", change.version, change.id, current.version);
                return Err(("stale_rule", text));
            }
            Some(current) if change.version == current.version && !same(current) => {
                let text = format!("version {} of `{}` is known with another pattern", change.version, change.id);
                return Err(("rule_conflict", text));
            }
            Some(current) if change.version == current.version && change.enabled == current.enabled => {
                if !change.enabled && change.drop {
                    self.end(&change.id, at, true, store); // what was to finish is not to, after all
                }
                return Ok(false);
            }
            _ => {}
        }
        let begins = match (&change.rule, change.enabled) {
            (Some(rule), true) => {
                let said = Version {
                    id: change.id.clone(),
                    version: change.version,
                    from: at,
                    until: i64::MAX,
                    gone: i64::MAX,
                    rule: rule.clone(),
                };
                Some(self.made(self.next, said).map_err(|e| ("bad_rule", e.to_string()))?)
            }
            (None, true) => return Err(("bad_rule", format!("`{}` has no pattern", change.id))),
            _ => None,
        };
        self.end(&change.id, at, change.drop, store);
        if let Some(known) = begins {
            self.next += 1;
            write(store, &version_key(known.number), &known.said);
            self.known.push(known);
        }
        let text = match change.text.as_str() {
            "" => current.map_or(String::new(), |current| current.text),
            text => text.into(),
        };
        write(store, &key, &Current { version: change.version, enabled: change.enabled, text });
        Ok(true)
    }

    /// All versions of a rule end.
    fn end(&mut self, id: &str, at: i64, drop: bool, store: &mut ByteStore) {
        for known in self.known.iter_mut().filter(|known| known.said.id == id) {
            known.said.until = known.said.until.min(at);
            if drop {
                known.said.gone = known.said.gone.min(at);
            }
            write(store, &version_key(known.number), &known.said);
        }
    }

    /// Forgets what is over; whether anything was.
    pub fn forget(&mut self, watermark: i64, store: &mut ByteStore) -> bool {
        let before = self.known.len();
        self.known.retain(|known| {
            let over = known.over(self.lag) <= watermark;
            if over {
                store.write(&version_key(known.number), None);
            }
            !over
        });
        self.known.len() < before
    }

    fn made(&self, number: u32, said: Version) -> Result<Known, PlanError> {
        let bad = |e: serde_json::Error| PlanError::new("bad_plan", e.to_string());
        let looked: Looked = serde_json::from_str(said.rule.get()).map_err(bad)?;
        let automaton = Automaton { cap: self.cap, ..Automaton::compile(&looked.pattern)? };
        let natives = looked.natives.iter().map(|n| Native::parse(n.get())).collect::<Result<_, _>>()?;
        let asked =
            Asked { conditions: looked.conditions, stages: vec![automaton.stages.clone()], sums: self.sums, natives };
        Ok(Known { number, said, automaton, asked: Arc::new(asked) })
    }

    pub fn save(&self, out: &mut Writer) {
        out.zigzag(self.position);
        out.varint(self.next.into());
    }

    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.position = saved.zigzag()?;
        self.next = saved.varint()? as u32;
        Some(())
    }

    /// The store has been put back.
    pub fn restored(&mut self, store: &ByteStore) -> Result<(), Fatal> {
        let broken = |e: String| Fatal::new("corrupt_state", format!("the rules cannot be read: {e}"));
        self.known.clear();
        for (key, bytes) in store.prefix(VERSION) {
            let number = u32::from_be_bytes(key[1..].try_into().map_err(|_| broken("a number".into()))?);
            let said = serde_json::from_slice(&bytes).map_err(|e| broken(e.to_string()))?;
            self.known.push(self.made(number, said).map_err(|e| broken(e.to_string()))?);
        }
        self.known.sort_by_key(|known| known.number);
        Ok(())
    }
}

const VERSION: &[u8] = b"v";

fn version_key(number: u32) -> Vec<u8> {
    [VERSION, &number.to_be_bytes()].concat()
}

fn current_key(id: &str) -> Vec<u8> {
    [b"r", id.as_bytes()].concat()
}

fn write<T: Serialize>(store: &mut ByteStore, key: &[u8], value: &T) {
    store.write(key, Some(&serde_json::to_vec(value).expect("plain data")));
}

impl Asked {
    /// Calls a function with values, and the key before them if it wants it.
    pub fn call(
        &self,
        func: &Func,
        key: &Datum,
        values: &[&Datum],
        cx: super::Cx<'_>,
    ) -> Result<Datum, super::Failure> {
        let Some(native) = self.natives.get(func.call) else { return func.apply(cx, key, values) };
        let args: Vec<&Datum> = func.with_key.then_some(key).into_iter().chain(values.iter().copied()).collect();
        Ok(native.ask(&args)?)
    }
}
