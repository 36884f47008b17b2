//! Committed records of some partitions, by Kafka's fetch protocol itself.
//!
//! ```text
//!  broker ═ TCP ═▶ Connection ─ answer ─▶ Partition.queue: Chunk … ─ read ─▶ RawBatch
//!         ◀═════ one Fetch in flight per leader, of the partitions that have room
//! ```
//!
//! There is no thread. Work is done inside `read` and `wait`: answers are taken from the sockets, and the next request leaves as
//! soon as an answer is complete, so the broker prepares it and the kernel receives it while records are being processed. An
//! answer stays as it came (compressed, and shared by the partitions in it) until its rows are asked for; then each byte is
//! inflated if need be, checked, and copied once, into the batch.
//!
//! A batch that nobody holds any more is filled again ([`Spent`]): its memory is mapped, and mostly in the cache.
//!
//! What must hold:
//! * Positions only go forward, past markers and aborted records as well. An answer counts only if it is of the partition as it
//!   is now being read (`serial`) and starts where its queue ends; so a leader that moved, or a partition that was added again,
//!   cannot repeat or skip records.
//! * A partition is at its end when everything received is read and the position is the last stable offset of the newest answer.
//! * What is not read costs bounded memory: `queued.max.messages.kbytes` per partition and [`TOTAL_BYTES`] in all. Beyond that,
//!   only partitions of which nothing is queued are asked for, a little each: one that is waited for never starves behind others
//!   that are full.
//! * What passes by itself (a broker that is away, a leader that moved, a topic that is just being made) is retried for ever and
//!   told in [`Waker::errors`]; what does not is an error of the partition, said by every read until it is added again.

mod compression;
mod connection;
mod records;
mod settings;
mod wire;

use std::collections::{HashMap, HashSet, VecDeque};
use std::io::{ErrorKind, Read, Write};
use std::ops::Range;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use adstream_core::raw::RawBatch;

use connection::{Asked, Buffers, Connection, Limits, WORTH_KEEPING};
use records::{Chunk, Wanted};
pub use settings::unsupported;
use settings::Settings;
use wire::{Ask, FetchLimits, FetchedPartition, Metadata, TopicId, TopicMetadata, NO_ID};

/// Unread records of all partitions, as they came.
const TOTAL_BYTES: usize = 64 << 20;
/// Batches watched by [`Spent`], and the largest of them: what it holds beyond their use is small beside what is queued.
const SPENT_BATCHES: usize = 4;
const SPENT_BYTES: usize = 8 << 20;
/// Beyond that, so much of a partition of which nothing is queued.
const TIGHT_BYTES: u32 = 64 << 10;
/// A part of an answer that is smaller than this share of it gets a buffer of its own: it must not keep all of it alive.
const SHARED_PART: usize = 8;
/// A request that leaves full partitions out may not hold them up when they have room again.
const SHORT_WAIT_MS: u32 = 5;
/// So long a broker waits at most for records when answers in a row had none; the wait doubles with each of them. A request costs it
/// as much as the partitions in it, whether there is anything or not. A partition that is added in the meantime waits as long.
const QUIET_WAIT_MS: u32 = 160;
/// Reading partition by partition looks at the sockets no more often than this.
const LOOK_EVERY: Duration = Duration::from_micros(200);
/// Without an answer for so long, others are asked who leads.
const STALLED: Duration = Duration::from_secs(3);
const KEPT_ERRORS: usize = 100;
/// The same trouble is told again after this.
const TOLD_EVERY: Duration = Duration::from_secs(10);
/// Stands for the first broker, until all are known.
const BOOTSTRAP: i32 = -1;

type Link = connection::Connection<Vec<Asking>>;

/// A part of a Fetch in flight.
struct Asking {
    topic: Arc<str>,
    id: TopicId,
    partition: i32,
    serial: u64,
    offset: i64,
}

struct Partition {
    /// Tells a partition from itself before it was added again.
    serial: u64,
    /// After what was read.
    position: i64,
    /// After what is queued.
    fetched: i64,
    queue: VecDeque<Chunk>,
    queued: usize,
    /// The last stable offset in the newest answer.
    end: Option<i64>,
    error: Option<String>,
    leader: Option<i32>,
    epoch: i32,
    retry_at: Option<Instant>,
    /// What the last read gave: the next one makes room for as much.
    last: Sizes,
}

/// Batches that were handed out, for when everybody is done with them.
#[derive(Default)]
struct Spent(VecDeque<Arc<RawBatch>>);

impl Spent {
    /// An empty batch, with the memory of one that only we still hold, if there is one.
    fn take(&mut self) -> RawBatch {
        let free = self.0.iter().position(|batch| Arc::strong_count(batch) == 1);
        let batch = free.and_then(|at| self.0.remove(at)).and_then(|batch| Arc::try_unwrap(batch).ok());
        let mut batch = batch.unwrap_or_default();
        batch.clear();
        batch
    }

    fn watch(&mut self, batch: &Arc<RawBatch>) {
        if (WORTH_KEEPING..=SPENT_BYTES).contains(&batch.values.values.bytes.capacity()) {
            if self.0.len() == SPENT_BATCHES {
                self.0.pop_front();
            }
            self.0.push_back(batch.clone());
        }
    }
}

#[derive(Clone, Copy, Default)]
struct Sizes {
    rows: usize,
    keys: usize,
    values: usize,
}

impl Partition {
    fn at_end(&self) -> bool {
        self.queue.is_empty() && self.end.is_some_and(|end| self.position >= end)
    }

    fn fail(&mut self, topic: &str, partition: i32, why: &str) {
        if self.error.is_none() {
            self.error = Some(format!("{topic}-{partition} at {}: {why}", self.fetched));
        }
    }
}

struct Topic {
    name: Arc<str>,
    id: TopicId,
    partitions: HashMap<i32, Partition>,
}

/// A broker that leads, or may.
struct Broker {
    address: (String, u16),
    link: Option<Link>,
    /// Not to be connected to before.
    retry_at: Instant,
    backoff: Duration,
    /// Not to be asked for records before: it said that its quota is used up.
    resume_at: Instant,
    /// Answers in a row that had no records.
    quiet: u32,
}

impl Broker {
    fn new(address: (String, u16), now: Instant) -> Self {
        Broker { address, link: None, retry_at: now, backoff: Duration::ZERO, resume_at: now, quiet: 0 }
    }
    /// How long it may wait for records.
    fn wait_ms(&self, settings: &Settings) -> u32 {
        let doubled = settings.wait_ms.saturating_mul(1 << self.quiet.min(16));
        doubled.min(QUIET_WAIT_MS).max(settings.wait_ms)
    }
    /// The connection, once it can be asked for anything.
    fn ready(&mut self) -> Option<&mut Link> {
        self.link.as_mut().filter(|link| link.versions.is_some())
    }
}

/// When to ask who leads.
struct Leaders {
    wanted: bool,
    asked_at: Option<Instant>,
    /// After the last request, before the next.
    pause: Duration,
}

#[derive(Default)]
struct Shared {
    errors: VecDeque<String>,
    told: VecDeque<(String, Instant)>,
}

impl Shared {
    fn tell(&mut self, text: String, now: Instant) {
        self.told.retain(|(_, at)| now.saturating_duration_since(*at) < TOLD_EVERY);
        if self.told.iter().any(|(told, _)| *told == text) {
            return;
        }
        if self.errors.len() == KEPT_ERRORS {
            self.errors.pop_front();
        }
        self.errors.push_back(text.clone());
        self.told.push_back((text, now));
    }
}

/// Used beside the reader, from any thread.
#[derive(Clone)]
pub struct Waker {
    pipe: Arc<UnixStream>,
    shared: Arc<Mutex<Shared>>,
}

impl Waker {
    /// Ends a wait.
    pub fn wake(&self) {
        let _ = (&*self.pipe).write(&[1]); // full: it is awake
    }
    /// What went wrong and is being retried: oldest first; forgotten once taken.
    pub fn errors(&self) -> Vec<String> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner).errors.drain(..).collect()
    }
}

/// Not thread-safe: one caller at a time. [`Waker`] may be used beside it.
pub struct FetchReader {
    settings: Settings,
    limits: Limits,
    headers: bool,
    pid: u32,
    closed: bool,
    topics: HashMap<String, Topic>,
    /// In which order they are asked for: what has just been given goes to the end.
    order: VecDeque<(Arc<str>, i32)>,
    brokers: HashMap<i32, Broker>,
    leaders: Leaders,
    /// Which of the bootstrap addresses is next.
    next_bootstrap: usize,
    /// Why a broker cannot be read from at all.
    refused: Option<String>,
    next_serial: u64,
    queued: usize,
    buffers: Buffers,
    /// For inflating.
    spare: Vec<u8>,
    spent: Spent,
    /// Since the last wait something has come, or was left by a read.
    news: bool,
    looked_at: Instant,
    woken: UnixStream,
    waker: Waker,
}

impl FetchReader {
    /// `settings`: by librdkafka's names. `headers`: whether batches carry them. An error: a setting that it does not honour
    /// ([`unsupported`]) or that is wrong.
    pub fn new(settings: &[(String, String)], headers: bool) -> Result<Self, String> {
        let settings = Settings::parse(settings)?;
        let pipe = UnixStream::pair().and_then(|(woken, waker)| {
            woken.set_nonblocking(true)?;
            waker.set_nonblocking(true)?;
            Ok((woken, waker))
        });
        let (woken, pipe) = pipe.map_err(|e| format!("cannot make a pipe: {e}"))?;
        let now = Instant::now();
        Ok(FetchReader {
            limits: settings.limits(),
            leaders: Leaders { wanted: false, asked_at: None, pause: Duration::from_millis(settings.retry_ms.into()) },
            settings,
            headers,
            pid: std::process::id(),
            closed: false,
            topics: HashMap::new(),
            order: VecDeque::new(),
            brokers: HashMap::new(),
            next_bootstrap: 0,
            refused: None,
            next_serial: 0,
            queued: 0,
            buffers: Buffers::default(),
            spare: Vec::new(),
            spent: Spent::default(),
            news: false,
            looked_at: now,
            woken,
            waker: Waker { pipe: Arc::new(pipe), shared: Arc::default() },
        })
    }

    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Starts reading at `position`; a partition that is being read already starts again there.
    pub fn add(&mut self, topic: &str, partition: i32, position: i64) -> Result<(), String> {
        self.check()?;
        if position < 0 {
            return Err(format!("{topic}-{partition}: {position} is not a position"));
        }
        let known = self.topics.get(topic).and_then(|t| t.partitions.get(&partition));
        let (leader, epoch) = known.map_or((None, -1), |p| (p.leader, p.epoch));
        self.remove(topic, partition)?;
        let entry = Partition {
            serial: self.next_serial,
            position,
            fetched: position,
            queue: VecDeque::new(),
            queued: 0,
            end: None,
            error: None,
            leader,
            epoch,
            retry_at: None,
            last: Sizes::default(),
        };
        self.next_serial += 1;
        let of = self.topics.entry(topic.to_string()).or_insert_with(|| Topic {
            name: topic.into(),
            id: NO_ID,
            partitions: HashMap::new(),
        });
        self.order.push_front((of.name.clone(), partition));
        of.partitions.insert(partition, entry);
        self.brokers.values_mut().for_each(|broker| broker.quiet = 0);
        self.plan(Instant::now());
        Ok(())
    }

    /// Stops reading a partition; nothing if it was not read.
    pub fn remove(&mut self, topic: &str, partition: i32) -> Result<(), String> {
        self.check()?;
        let Some(of) = self.topics.get_mut(topic) else { return Ok(()) };
        let Some(entry) = of.partitions.remove(&partition) else { return Ok(()) };
        if of.partitions.is_empty() {
            self.topics.remove(topic);
        }
        self.order.retain(|(name, number)| (&**name, *number) != (topic, partition));
        self.queued -= entry.queued;
        for chunk in entry.queue {
            reuse(&mut self.buffers, chunk);
        }
        Ok(())
    }

    /// Up to `max_rows` records without waiting; `None` when there is nothing new, not even a position.
    pub fn read(&mut self, topic: &str, partition: i32, max_rows: usize) -> Result<Option<Arc<RawBatch>>, String> {
        self.check()?;
        let now = Instant::now();
        if now.saturating_duration_since(self.looked_at) >= LOOK_EVERY {
            self.look(now);
        }
        let entry = self.topics.get_mut(topic).and_then(|t| t.partitions.get_mut(&partition));
        let Some(entry) = entry else {
            return Err(format!("{topic}-{partition} is not being read"));
        };
        let before = entry.position;
        let mut out = RawBatch::default();
        if !entry.queue.is_empty() {
            out = self.spent.take();
        }
        out.next_offset = before;
        let wanted = Wanted { position: before, rows: max_rows, headers: self.headers };
        let mut freed = false;
        while let Some(chunk) = entry.queue.front_mut() {
            if records::is_full(&out, max_rows) {
                break;
            }
            if out.is_empty() {
                reserve(&mut out, entry.last, max_rows);
            }
            let done = chunk.read(&wanted, &mut out, &mut self.spare);
            match done {
                Ok(false) => {}
                Ok(true) => {
                    if let Some(chunk) = entry.queue.pop_front() {
                        entry.queued -= chunk.size();
                        self.queued -= chunk.size();
                        reuse(&mut self.buffers, chunk);
                    }
                    freed = true;
                }
                Err(why) => {
                    entry.error = Some(format!("{topic}-{partition} at {}: {why}", out.next_offset));
                    self.queued -= entry.queued;
                    entry.queued = 0;
                    entry.queue.clear();
                }
            }
        }
        entry.position = out.next_offset;
        self.news |= !entry.queue.is_empty();
        if out.next_offset > before {
            if !out.is_empty() {
                let (keys, values) = (out.keys.values.bytes.len(), out.values.values.bytes.len());
                entry.last = Sizes { rows: out.len(), keys, values };
            }
            if freed {
                self.plan(now);
            }
            let out = Arc::new(out);
            self.spent.watch(&out);
            return Ok(Some(out));
        }
        match entry.error.as_ref().or(self.refused.as_ref()) {
            Some(error) => Err(error.clone()),
            None => Ok(None),
        }
    }

    /// Whether the last read reached the end of the committed records, as far as is known here.
    pub fn at_end(&self, topic: &str, partition: i32) -> bool {
        self.topics.get(topic).and_then(|t| t.partitions.get(&partition)).is_some_and(Partition::at_end)
    }

    /// Returns at once when something came (or was left by a read) since the last wait, else when something does, when it is
    /// woken, or after `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> Result<(), String> {
        self.check()?;
        let mut now = Instant::now();
        let deadline = now.checked_add(timeout);
        loop {
            self.look(now);
            let woken = matches!(self.woken.read(&mut [0; 64]), Ok(1..));
            if std::mem::take(&mut self.news) || woken || deadline.is_some_and(|at| now >= at) {
                return Ok(());
            }
            let until = self.next_timer(now).into_iter().chain(deadline).min();
            if !self.poll(until.map(|at| at.saturating_duration_since(now))) {
                return Ok(()); // a signal: its handler may want to run
            }
            now = Instant::now();
        }
    }

    /// Gives everything back; what follows is an error.
    pub fn close(&mut self) {
        self.closed = true;
        self.brokers.clear();
        self.topics.clear();
        self.order.clear();
        self.queued = 0;
        self.buffers = Buffers::default();
        self.spent = Spent::default();
    }

    fn check(&self) -> Result<(), String> {
        if self.pid != std::process::id() {
            return Err("a Kafka reader cannot be used in a forked process: start workers by spawn".into());
        }
        if self.closed {
            return Err("the Kafka reader is closed".into());
        }
        Ok(())
    }

    fn tell(&self, text: String, now: Instant) {
        self.waker.shared.lock().unwrap_or_else(PoisonError::into_inner).tell(text, now);
    }

    // What the sockets have, and what to ask next.

    fn look(&mut self, now: Instant) {
        self.looked_at = now;
        let nodes: Vec<i32> = self.brokers.keys().copied().collect();
        for node in nodes {
            while let Some(link) = self.brokers.get_mut(&node).and_then(|b| b.link.as_mut()) {
                let handled = match link.step(&self.limits, now, &mut self.buffers) {
                    Ok(None) => break,
                    Ok(Some((asked, answer))) => self.take(node, asked, answer, now),
                    Err(error) => Err(error.to_string()),
                };
                if let Err(why) = handled {
                    self.disconnect(node, &why, now);
                }
            }
        }
        self.plan(now);
    }

    /// An error: the connection is of no use.
    fn take(&mut self, node: i32, asked: Asked<Vec<Asking>>, answer: Vec<u8>, now: Instant) -> Result<(), String> {
        let malformed = |_| "an answer that cannot be understood".to_string();
        let Some(broker) = self.brokers.get_mut(&node) else { return Ok(()) };
        let versions = broker.link.as_ref().and_then(|link| link.versions);
        match (asked, versions) {
            (Asked::Versions, _) => {
                let told = wire::versions_answer(&answer).map_err(malformed)?;
                self.refused =
                    told.as_ref().err().map(|why| format!("{}:{}: {why}", broker.address.0, broker.address.1));
                if let Some(link) = &mut broker.link {
                    link.versions = Some(told?);
                }
            }
            (Asked::Metadata, Some(versions)) => {
                let metadata = wire::metadata_answer(versions.metadata, &answer).map_err(malformed)?;
                broker.backoff = Duration::ZERO;
                self.learn(node, metadata, now);
            }
            (Asked::Fetch(asked), Some(versions)) => {
                let fetched = wire::fetch_answer(versions.fetch, &answer).map_err(malformed)?;
                broker.backoff = Duration::ZERO;
                broker.resume_at = now + Duration::from_millis(fetched.throttle_ms.max(0) as u64);
                if fetched.error != 0 {
                    return Err(wire::error_text(fetched.error));
                }
                let some = self.receive(asked, fetched.topics, answer, now);
                if let Some(broker) = self.brokers.get_mut(&node) {
                    broker.quiet = if some { 0 } else { broker.quiet.saturating_add(1) };
                }
            }
            (_, None) => return Err("an answer before its versions".into()),
        }
        Ok(())
    }

    fn disconnect(&mut self, node: i32, why: &str, now: Instant) {
        let Some(broker) = self.brokers.get_mut(&node) else { return };
        broker.link = None;
        let least = Duration::from_millis(self.settings.reconnect_ms.into());
        let most = Duration::from_millis(self.settings.reconnect_max_ms.into());
        broker.backoff = (broker.backoff * 2).clamp(least.min(most), most);
        broker.retry_at = now + broker.backoff;
        let text = format!("{}:{}: {why}", broker.address.0, broker.address.1);
        self.leaders.wanted = true; // whoever else leads now will say so
        self.tell(text, now);
    }

    /// Returns whether there were records.
    fn receive(&mut self, asked: Vec<Asking>, topics: Vec<wire::FetchedTopic>, answer: Vec<u8>, now: Instant) -> bool {
        let answer = Arc::new(answer);
        let mut given = HashSet::new();
        let mut next = 0;
        for topic in topics {
            for part in topic.partitions {
                // In the order of the request, as a rule.
                let same = |a: &Asking| if topic.name.is_empty() { a.id == topic.id } else { *a.topic == *topic.name };
                let is = |a: &Asking| a.partition == part.partition && same(a);
                let found = (next..asked.len()).chain(0..next).find(|&at| is(&asked[at]));
                let Some(at) = found else { continue };
                next = at + 1;
                if self.accept(&asked[at], part, &answer, now) {
                    given.insert((asked[at].topic.clone(), asked[at].partition));
                }
            }
        }
        let some = !given.is_empty();
        if some {
            let (last, first) = std::mem::take(&mut self.order).into_iter().partition(|name| given.contains(name));
            self.order = first;
            self.order.extend::<VecDeque<_>>(last);
        }
        if let Ok(answer) = Arc::try_unwrap(answer) {
            self.buffers.give(answer);
        }
        some
    }

    /// Returns whether there were records.
    fn accept(&mut self, asked: &Asking, part: FetchedPartition, answer: &Arc<Vec<u8>>, now: Instant) -> bool {
        let entry = self.topics.get_mut(&*asked.topic).and_then(|t| t.partitions.get_mut(&asked.partition));
        let Some(entry) = entry.filter(|e| e.serial == asked.serial && e.fetched == asked.offset && e.error.is_none())
        else {
            return false; // of another time
        };
        if part.error != 0 {
            let why = wire::error_text(part.error);
            if wire::is_transient(part.error) {
                entry.leader = None;
                entry.retry_at = Some(now + Duration::from_millis(self.settings.retry_ms.into()));
                self.leaders.wanted = true;
                self.tell(format!("{}-{}: {why}", asked.topic, asked.partition), now);
            } else {
                entry.fail(&asked.topic, asked.partition, &why);
                self.news = true;
            }
            return false;
        }
        entry.retry_at = None;
        let was_at_end = entry.at_end();
        let data = &answer[part.records.clone()];
        let got = match records::whole(data) {
            Ok(found) => found.filter(|found| found.next_offset > entry.fetched),
            Err(why) => {
                entry.fail(&asked.topic, asked.partition, &why);
                self.news = true;
                return false;
            }
        };
        entry.end = Some(part.stable_offset);
        if let Some(found) = &got {
            let bytes = part.records.start..part.records.start + found.bytes;
            let chunk = part_of(answer, bytes, part.aborted);
            entry.fetched = found.next_offset;
            entry.queued += chunk.size();
            self.queued += chunk.size();
            entry.queue.push_back(chunk);
        }
        self.news |= got.is_some() || (entry.at_end() && !was_at_end);
        got.is_some()
    }

    /// Who leads what.
    fn learn(&mut self, node: i32, metadata: Metadata, now: Instant) {
        for (id, host, port) in &metadata.brokers {
            let address = (host.clone(), *port);
            match self.brokers.get_mut(id) {
                Some(broker) if broker.address == address => {}
                _ => drop(self.brokers.insert(*id, Broker::new(address, now))),
            }
        }
        let listed: HashSet<i32> = metadata.brokers.iter().map(|(id, ..)| *id).collect();
        self.brokers.retain(|id, _| *id == BOOTSTRAP || listed.contains(id));
        if node == BOOTSTRAP {
            if let Some(first) = self.brokers.remove(&BOOTSTRAP) {
                let same = self.brokers.values_mut().find(|b| b.address == first.address && b.link.is_none());
                if let Some(broker) = same {
                    broker.link = first.link;
                }
            }
        }
        let mut settled = true;
        let mut told = Vec::new();
        for topic in metadata.topics {
            if let Some(of) = self.topics.get_mut(&topic.name) {
                settled &= of.learn(topic, &mut told, &mut self.news);
            }
        }
        for text in told {
            self.tell(text, now);
        }
        let (least, most) = (self.settings.retry_ms, self.settings.reconnect_max_ms);
        let pause = Duration::from_millis(least.into());
        self.leaders.pause =
            if settled { pause } else { (self.leaders.pause * 2).min(Duration::from_millis(most.into())).max(pause) };
    }

    fn plan(&mut self, now: Instant) {
        if self.topics.is_empty() {
            return;
        }
        self.plan_metadata(now);
        let leaders: HashSet<i32> =
            self.topics.values().flat_map(|t| t.partitions.values()).filter_map(|p| p.leader).collect();
        for node in leaders {
            let Some(broker) = self.brokers.get_mut(&node) else {
                self.leaders.wanted = true;
                continue;
            };
            if broker.link.is_none() {
                if now >= broker.retry_at {
                    self.connect(node, now);
                }
                continue;
            }
            let resumed = now >= broker.resume_at;
            let idle = |link: &&mut Link| !link.asked().any(|asked| matches!(asked, Asked::Fetch(_)));
            if resumed && broker.ready().as_ref().is_some_and(idle) {
                self.ask_for_records(node, now);
            }
        }
    }

    fn plan_metadata(&mut self, now: Instant) {
        let since = self.leaders.asked_at.map(|at| now.saturating_duration_since(at));
        let stalled = |b: &Broker| b.link.as_ref().is_some_and(|link| link.waited(now) > STALLED);
        let wanted = self.leaders.wanted
            || since.is_none_or(|since| since >= Duration::from_millis(self.settings.refresh_ms.into()))
            || since.is_some_and(|since| since > STALLED) && self.brokers.values().any(stalled)
            || self
                .topics
                .values()
                .flat_map(|t| t.partitions.values())
                .any(|p| p.leader.is_none() && p.error.is_none());
        if !wanted || since.is_some_and(|since| since < self.leaders.pause) {
            return;
        }
        let is_asked = |b: &Broker| {
            b.link.as_ref().is_some_and(|l| !stalled(b) && l.asked().any(|a| matches!(a, Asked::Metadata)))
        };
        if self.brokers.values().any(is_asked) {
            return;
        }
        let mut found: Option<&mut Link> = None;
        for link in self.brokers.values_mut().filter_map(Broker::ready) {
            if found.as_ref().is_none_or(|f| link.waited(now) < f.waited(now)) {
                found = Some(link);
            }
        }
        let Some(link) = found.filter(|link| link.waited(now) <= STALLED) else {
            let coming = |b: &Broker| b.link.as_ref().is_some_and(|l| l.versions.is_none()) && !stalled(b);
            if !self.brokers.values().any(coming) {
                self.connect_any(now);
            }
            return;
        };
        let version = link.versions.map_or(0, |v| v.metadata);
        let names: Vec<&str> = self.topics.keys().map(String::as_str).collect();
        let asked = link.ask(&self.limits, now, Asked::Metadata, |correlation, client| {
            wire::metadata_request(version, correlation, client, &names)
        });
        self.leaders.wanted = asked.is_err();
        self.leaders.asked_at = Some(now);
    }

    /// To a broker of whatever address: it will tell the others'.
    fn connect_any(&mut self, now: Instant) {
        if self.brokers.get(&BOOTSTRAP).is_some_and(|b| now < b.retry_at) {
            return;
        }
        let known = self.brokers.iter().filter(|(id, _)| **id != BOOTSTRAP).map(|(_, b)| &b.address);
        let all: Vec<_> = self.settings.bootstrap.iter().chain(known).collect();
        let address = all[self.next_bootstrap % all.len()].clone();
        self.next_bootstrap = (self.next_bootstrap + 1) % all.len();
        let broker = self.brokers.entry(BOOTSTRAP).or_insert_with(|| Broker::new(address.clone(), now));
        broker.address = address;
        self.connect(BOOTSTRAP, now);
    }

    fn connect(&mut self, node: i32, now: Instant) {
        let Some(broker) = self.brokers.get_mut(&node) else { return };
        match Connection::open(&broker.address, now) {
            Ok(link) => broker.link = Some(link),
            Err(error) => self.disconnect(node, &error.to_string(), now),
        }
    }

    fn ask_for_records(&mut self, node: i32, now: Instant) {
        let tight = self.queued >= TOTAL_BYTES;
        let settings = &self.settings;
        let max_bytes = if tight { settings.partition_bytes.min(TIGHT_BYTES) } else { settings.partition_bytes };
        let (mut asks, mut asked) = (Vec::new(), Vec::new());
        let mut left_out = false;
        for (name, number) in &self.order {
            let Some(topic) = self.topics.get(&**name) else { continue };
            let Some(entry) = topic.partitions.get(number) else { continue };
            if entry.leader != Some(node) || entry.error.is_some() || entry.retry_at.is_some_and(|at| now < at) {
                continue;
            }
            let more = entry.queued + max_bytes as usize;
            if !entry.queue.is_empty() && (tight || more > settings.queue_bytes as usize) {
                left_out = true;
                continue;
            }
            let ask = (topic.id, *number, entry.epoch, entry.fetched);
            asks.push(Ask {
                topic: name,
                id: ask.0,
                partition: ask.1,
                leader_epoch: ask.2,
                offset: ask.3,
                max_bytes: max_bytes as i32,
            });
            asked.push(Asking {
                topic: name.clone(),
                id: ask.0,
                partition: ask.1,
                serial: entry.serial,
                offset: ask.3,
            });
        }
        let Some(broker) = self.brokers.get_mut(&node) else { return };
        let wait_ms = broker.wait_ms(settings);
        let Some(link) = broker.ready() else { return };
        if asks.is_empty() {
            return;
        }
        let room = TOTAL_BYTES.saturating_sub(self.queued).max(1 << 20);
        let limits = FetchLimits {
            max_wait_ms: if left_out { wait_ms.min(SHORT_WAIT_MS) } else { wait_ms } as i32,
            min_bytes: settings.min_bytes as i32,
            max_bytes: room.min(settings.answer_bytes as usize) as i32,
        };
        let version = link.versions.map_or(0, |v| v.fetch);
        let sent = link.ask(&self.limits, now, Asked::Fetch(asked), |correlation, client| {
            wire::fetch_request(version, correlation, client, &limits, &asks)
        });
        if let Err(error) = sent {
            self.disconnect(node, &error.to_string(), now);
        }
    }

    /// When something is to be done though nothing arrives.
    fn next_timer(&self, now: Instant) -> Option<Instant> {
        let partitions = self.topics.values().flat_map(|t| t.partitions.values());
        let again = partitions.clone().filter_map(|p| p.retry_at);
        let leaderless = self.leaders.wanted || partitions.clone().any(|p| p.leader.is_none() && p.error.is_none());
        let metadata = self.leaders.asked_at.map(|at| {
            let pause = Duration::from_millis(self.settings.refresh_ms.into());
            at + if leaderless { self.leaders.pause } else { pause.min(STALLED) }
        });
        let brokers = self.brokers.values().filter_map(|b| match &b.link {
            None => Some(b.retry_at),
            Some(link) => link.deadline(&self.limits).into_iter().chain([b.resume_at]).filter(|at| *at > now).min(),
        });
        again.chain(metadata).chain(brokers).filter(|at| *at > now).min()
    }

    /// Until a socket has something, for at most so long; false when a signal came.
    fn poll(&self, timeout: Option<Duration>) -> bool {
        let mut sockets = vec![libc::pollfd { fd: self.woken.as_raw_fd(), events: libc::POLLIN, revents: 0 }];
        for link in self.brokers.values().filter_map(|b| b.link.as_ref()) {
            let events = if link.is_sending() { libc::POLLIN | libc::POLLOUT } else { libc::POLLIN };
            sockets.push(libc::pollfd { fd: link.descriptor(), events, revents: 0 });
        }
        // Rounded up: else the last millisecond would be spent in a loop.
        let ms = timeout.map_or(-1, |t| t.as_micros().div_ceil(1000).min(60_000) as libc::c_int);
        // SAFETY: the descriptors are open, they belong to `self`, and the array is as long as it says.
        let done = unsafe { libc::poll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, ms) };
        done >= 0 || std::io::Error::last_os_error().kind() != ErrorKind::Interrupted
    }
}

impl Topic {
    /// Returns whether all of its partitions have a leader.
    fn learn(&mut self, told: TopicMetadata, trouble: &mut Vec<String>, news: &mut bool) -> bool {
        let name = self.name.clone();
        if told.error != 0 {
            let why = wire::error_text(told.error);
            if wire::is_transient(told.error) {
                trouble.push(format!("{name}: {why}"));
                return false;
            }
            for (number, entry) in &mut self.partitions {
                entry.fail(&name, *number, &why);
                *news = true;
            }
            return true;
        }
        let another = self.id != NO_ID && told.id != self.id;
        self.id = told.id;
        let mut settled = true;
        for (number, entry) in &mut self.partitions {
            if another {
                entry.fail(&name, *number, "the topic was deleted, and another was made under its name");
                *news = true;
                continue;
            }
            let Some(found) = told.partitions.iter().find(|p| p.partition == *number) else {
                entry.fail(&name, *number, &format!("the topic has no such partition, only {}", told.partitions.len()));
                *news = true;
                continue;
            };
            if found.leader < 0 {
                trouble.push(format!("{name}-{number}: {}", wire::error_text(found.error)));
                entry.leader = None;
            } else if found.leader_epoch >= entry.epoch {
                (entry.leader, entry.epoch) = (Some(found.leader), found.leader_epoch);
            } // else: of before what is known already
            settled &= entry.leader.is_some();
        }
        settled
    }
}

fn part_of(answer: &Arc<Vec<u8>>, bytes: Range<usize>, aborted: Vec<(i64, i64)>) -> Chunk {
    if bytes.len() * SHARED_PART >= answer.len() {
        return Chunk::new(answer.clone(), bytes, aborted);
    }
    let size = bytes.len();
    Chunk::new(Arc::new(answer[bytes].to_vec()), 0..size, aborted)
}

fn reuse(buffers: &mut Buffers, chunk: Chunk) {
    if let Ok(buffer) = Arc::try_unwrap(chunk.into_buffer()) {
        buffers.give(buffer);
    }
}

/// Room for as much as the last batch had, scaled to the rows that are wanted.
fn reserve(out: &mut RawBatch, last: Sizes, max_rows: usize) {
    let rows = last.rows.min(max_rows);
    if rows == 0 {
        return;
    }
    out.offsets.reserve(rows);
    out.timestamps.reserve(rows);
    for (column, bytes) in [(&mut out.keys, last.keys), (&mut out.values, last.values)] {
        column.values.ends.reserve(rows);
        let bytes = bytes / last.rows * rows;
        column.values.bytes.reserve(bytes + bytes / 8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(bytes: usize) -> RawBatch {
        let mut batch = RawBatch::default();
        batch.push_with_headers(7, 1, None, Some(&vec![1; bytes]), vec![("h".into(), None)]);
        batch
    }

    #[test]
    fn a_broker_waits_longer_while_nothing_comes_but_never_shorter_than_asked() {
        let waits = |wait_ms| {
            let mut settings = Settings::default();
            settings.wait_ms = wait_ms;
            let broker = |quiet| Broker { quiet, ..Broker::new(("b".into(), 1), Instant::now()) };
            [0, 1, 2, 3, 4, u32::MAX].map(|quiet| broker(quiet).wait_ms(&settings))
        };
        assert_eq!(waits(20), [20, 40, 80, 160, 160, 160]);
        assert_eq!(waits(500), [500; 6]);
        assert_eq!(waits(0), [0; 6]);
    }

    #[test]
    fn only_what_nobody_holds_is_filled_again_and_it_is_empty() {
        let mut spent = Spent::default();
        let held = Arc::new(batch(WORTH_KEEPING));
        spent.watch(&held);
        assert_eq!(spent.take().values.values.bytes.capacity(), 0, "somebody reads it");
        let at = held.values.values.bytes.as_ptr();
        drop(held);
        let again = spent.take();
        assert_eq!(again.values.values.bytes.as_ptr(), at);
        assert_eq!(again, RawBatch::default());
        assert!(spent.0.is_empty());
    }

    #[test]
    fn what_is_kept_for_that_is_bounded() {
        let mut spent = Spent::default();
        spent.watch(&Arc::new(batch(WORTH_KEEPING - 1)));
        spent.watch(&Arc::new(batch(SPENT_BYTES + 1)));
        assert!(spent.0.is_empty(), "too small to be worth it, too large to be kept");
        (0..2 * SPENT_BATCHES).for_each(|_| spent.watch(&Arc::new(batch(WORTH_KEEPING))));
        assert_eq!(spent.0.len(), SPENT_BATCHES);
    }
}
