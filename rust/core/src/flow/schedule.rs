//! Punctuations: what a processor asked to be called for when time goes on, in one queue per task.
//!
//! ```text
//!   stream time   due at 0, 1·interval, 2·interval …     looked at after each record      called with the stream time
//!   wall clock    due at now + 1·interval, …             looked at when a generation ends  called with the logged clock
//!                                                        and the clock has moved
//!   with a start  due at start + n·interval, not before now, of either clock (KIP-1146)
//! ```
//!
//! What is due earliest is called first. However many periods have passed, a schedule is called once, and is due again at
//! the next point of its own grid. All this is Kafka Streams' `PunctuationQueue`, down to who is first among equals: its
//! queue is a `java.util.PriorityQueue`, a binary heap in an array, and so is ours, moved by the same steps.
//!
//! *Restarts.* Kafka Streams forgets schedules with the task, so that a restart shows. Here those that `init` made are saved
//! with the task's small state, in the order of the heap, and go on where they were when `init` makes them again. What is
//! scheduled later is a closure of that life and ends with it.

use crate::window::NO_TIME;
use crate::wire::{Reader, Writer};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clock {
    Stream,
    Wall,
}

struct Schedule {
    id: u64,
    node: usize,
    /// The how-manieth that its node's `init` made.
    place: Option<usize>,
    clock: Clock,
    interval: i64,
    start: Option<i64>,
    /// `NO_TIME`: of a wall clock that nobody knew yet.
    due: i64,
    /// Its place in the heap before a restart; behind all others if there was none.
    rank: usize,
    cancelled: bool,
}

/// What is kept of a schedule that `init` made.
#[derive(Clone)]
struct Saved {
    node: u64,
    place: usize,
    clock: Clock,
    interval: i64,
    due: i64,
    cancelled: bool,
}

impl Saved {
    /// Whether a schedule like this may have left it.
    fn on_grid(&self, clock: Clock, interval: i64, start: Option<i64>) -> bool {
        let begins = start.is_none_or(|start| self.due == NO_TIME || (self.due - start) % interval == 0);
        (self.clock, self.interval) == (clock, interval) && begins
    }
}

/// The next point of the grid behind `due`, and behind `now` if that is later.
fn next(due: i64, interval: i64, now: i64) -> i64 {
    let passed = if now >= due.saturating_add(interval) { (now - due) / interval } else { 0 };
    due.saturating_add((passed + 1).saturating_mul(interval))
}

/// The first point of a grid that begins at `start`, none that has passed already.
fn first_from(start: i64, interval: i64, now: i64) -> i64 {
    if now != NO_TIME && start < now {
        next(start, interval, now)
    } else {
        start
    }
}

/// Java's `PriorityQueue`, by the time at which they are due.
#[derive(Default)]
struct Heap(Vec<Schedule>);

impl Heap {
    fn push(&mut self, schedule: Schedule) {
        self.0.push(schedule);
        let mut at = self.0.len() - 1;
        while at > 0 && self.0[at].due < self.0[(at - 1) / 2].due {
            self.0.swap(at, (at - 1) / 2);
            at = (at - 1) / 2;
        }
    }
    fn pop(&mut self) -> Schedule {
        let first = self.0.swap_remove(0);
        let mut at = 0;
        while 2 * at + 1 < self.0.len() {
            let (left, right) = (2 * at + 1, 2 * at + 2);
            let less = if right < self.0.len() && self.0[left].due > self.0[right].due { right } else { left };
            if self.0[at].due <= self.0[less].due {
                break;
            }
            self.0.swap(at, less);
            at = less;
        }
        first
    }
}

#[derive(Default)]
pub struct Schedules {
    stream: Heap,
    wall: Heap,
    /// Made, and not in its heap yet: what a restart makes again goes in together.
    made: Vec<Schedule>,
    /// Being called, and at what time: it goes back into its heap when that is over.
    called: Option<(Schedule, i64)>,
    /// Out of its heap for good; that an `init`'s schedule was cancelled is remembered.
    ended: Vec<Schedule>,
    saved: Vec<Saved>,
    next_id: u64,
    /// The node whose `init` runs, and how many it has made.
    begins: Option<(usize, usize)>,
}

impl Schedules {
    /// `init` of a node begins; what it schedules is found again after a restart.
    pub fn begin(&mut self, node: usize) {
        self.begins = Some((node, 0));
    }
    pub fn begun(&mut self) {
        self.begins = None;
    }

    /// `node_id` names the node in stored formats, `now` is the clock's time. Returns a number to cancel it by.
    pub fn add(&mut self, node: usize, node_id: u64, clock: Clock, interval: i64, start: Option<i64>, now: i64) -> u64 {
        let place = match &mut self.begins {
            Some((of, made)) if *of == node => {
                *made += 1;
                Some(*made - 1)
            }
            _ => None,
        };
        let rank = self
            .saved
            .iter()
            .position(|s| s.node == node_id && Some(s.place) == place && s.on_grid(clock, interval, start));
        let fresh = match (clock, start) {
            (Clock::Wall, _) if now == NO_TIME => NO_TIME,
            (_, Some(start)) => first_from(start, interval, now),
            (Clock::Stream, None) => 0,
            (Clock::Wall, None) => now.saturating_add(interval),
        };
        let (due, cancelled) = rank.map_or((fresh, false), |at| (self.saved[at].due, self.saved[at].cancelled));
        let id = self.next_id;
        self.next_id += 1;
        let rank = rank.unwrap_or(usize::MAX);
        self.made.push(Schedule { id, node, place, clock, interval, start, due, rank, cancelled });
        id
    }

    fn all(&self) -> impl Iterator<Item = &Schedule> {
        let out = self.called.iter().map(|c| &c.0);
        self.stream.0.iter().chain(&self.wall.0).chain(out).chain(&self.made).chain(&self.ended)
    }

    pub fn cancel(&mut self, id: u64) {
        let out = self.called.iter_mut().map(|c| &mut c.0);
        let all = self.stream.0.iter_mut().chain(&mut self.wall.0).chain(out).chain(&mut self.made);
        all.filter(|s| s.id == id).for_each(|s| s.cancelled = true); // it leaves the heap when it is its turn
    }

    fn heap(&mut self, clock: Clock) -> &mut Heap {
        match clock {
            Clock::Stream => &mut self.stream,
            Clock::Wall => &mut self.wall,
        }
    }

    /// Into their heaps: what was made meanwhile, then what was called. `now` of `clock` is known.
    fn settle(&mut self, clock: Clock, now: i64) {
        let mut made = std::mem::take(&mut self.made);
        made.sort_by_key(|s| s.rank); // stable: a heap's own order makes the same heap
        for mut schedule in made {
            if schedule.due == NO_TIME && schedule.clock == clock {
                schedule.due = match schedule.start {
                    Some(start) => first_from(start, schedule.interval, now),
                    None => now.saturating_add(schedule.interval),
                };
            }
            match schedule.due == NO_TIME {
                true => self.made.push(schedule),
                false => self.heap(schedule.clock).push(schedule),
            }
        }
        if let Some((mut schedule, at)) = self.called.take() {
            if schedule.cancelled {
                self.ended.extend(schedule.place.is_some().then_some(schedule));
                return;
            }
            schedule.due = next(schedule.due, schedule.interval, at);
            self.heap(schedule.clock).push(schedule);
        }
    }

    /// The next one to call, if one is due: its node and number. It is due again one interval later, or at the next point
    /// of its grid that lies ahead. The call is over when the next one is asked for.
    pub fn take_due(&mut self, clock: Clock, now: i64) -> Option<(usize, u64)> {
        if now == NO_TIME {
            return None;
        }
        self.settle(clock, now);
        while self.heap(clock).0.first().is_some_and(|s| s.due <= now) {
            let schedule = self.heap(clock).pop();
            if schedule.cancelled {
                self.ended.extend(schedule.place.is_some().then_some(schedule));
                continue;
            }
            let call = (schedule.node, schedule.id);
            self.called = Some((schedule, now));
            return Some(call);
        }
        None
    }

    /// All of them are forgotten, but for what is saved.
    pub fn clear(&mut self) {
        let Schedules { stream, wall, made, called, ended, begins, .. } = self;
        (*stream, *wall, *called, *begins) = (Heap::default(), Heap::default(), None, None);
        made.clear();
        ended.clear();
    }

    /// `id_of` names a node in stored formats. Before any `init` what was loaded is still what there is.
    pub fn save(&self, begun: bool, id_of: impl Fn(usize) -> u64, out: &mut Writer) {
        let live: Vec<Saved> = match begun {
            false => self.saved.clone(),
            true => {
                let of = |s: &Schedule| {
                    let (clock, interval, due, cancelled) = (s.clock, s.interval, s.due, s.cancelled);
                    Some(Saved { node: id_of(s.node), place: s.place?, clock, interval, due, cancelled })
                };
                self.all().filter_map(of).collect()
            }
        };
        out.varint(live.len() as u64);
        for s in live {
            out.u64(s.node);
            out.varint(s.place as u64);
            out.u8(matches!(s.clock, Clock::Wall) as u8 | (s.cancelled as u8) << 1);
            out.zigzag(s.interval);
            out.zigzag(s.due);
        }
    }

    pub fn load(&mut self, saved: &mut Reader<'_>) -> Option<()> {
        self.saved.clear();
        for _ in 0..saved.varint()? {
            let (node, place, flags) = (saved.u64()?, saved.varint()? as usize, saved.u8()?);
            let clock = if flags & 1 == 0 { Clock::Stream } else { Clock::Wall };
            let (interval, due) = (saved.zigzag()?, saved.zigzag()?);
            self.saved.push(Saved { node, place, clock, interval, due, cancelled: flags & 2 != 0 });
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calls(schedules: &mut Schedules, clock: Clock, now: i64) -> Vec<u64> {
        std::iter::from_fn(|| schedules.take_due(clock, now).map(|d| d.1)).collect()
    }

    #[test]
    fn missed_periods_are_one_call_and_the_grid_stays() {
        let mut s = Schedules::default();
        let id = s.add(0, 7, Clock::Stream, 10, None, NO_TIME);
        assert!(calls(&mut s, Clock::Stream, NO_TIME).is_empty());
        assert_eq!(calls(&mut s, Clock::Stream, 3), [id]); // as soon as there is any
        assert!(calls(&mut s, Clock::Stream, 9).is_empty());
        assert_eq!(calls(&mut s, Clock::Stream, 35), [id]);
        assert!(calls(&mut s, Clock::Stream, 39).is_empty());
        assert_eq!(calls(&mut s, Clock::Stream, 40), [id]);
        assert!(calls(&mut s, Clock::Wall, 1000).is_empty());
    }

    #[test]
    fn a_wall_clock_begins_after_one_interval() {
        let mut s = Schedules::default();
        let id = s.add(0, 7, Clock::Wall, 10, None, 100);
        let unknown = s.add(0, 7, Clock::Wall, 10, None, NO_TIME);
        assert!(calls(&mut s, Clock::Wall, 109).is_empty());
        assert_eq!(calls(&mut s, Clock::Wall, 110), [id]);
        assert_eq!(calls(&mut s, Clock::Wall, 119), [unknown]);
        s.cancel(id);
        assert!(calls(&mut s, Clock::Wall, 125).is_empty());
        assert_eq!(calls(&mut s, Clock::Wall, 129), [unknown]);
    }

    #[test]
    fn a_start_makes_the_grid_and_what_has_passed_is_not_called() {
        let mut s = Schedules::default();
        let ahead = s.add(0, 7, Clock::Wall, 10, Some(125), 100);
        let behind = s.add(0, 7, Clock::Wall, 10, Some(33), 100);
        let now = s.add(0, 7, Clock::Wall, 10, Some(100), 100);
        let unknown = s.add(0, 7, Clock::Wall, 10, Some(91), NO_TIME);
        let stream = s.add(0, 7, Clock::Stream, 10, Some(5), NO_TIME);
        assert_eq!(calls(&mut s, Clock::Wall, 100), [now]);
        assert_eq!(calls(&mut s, Clock::Wall, 102), [unknown]);
        assert_eq!(calls(&mut s, Clock::Wall, 103), [behind]);
        assert_eq!(calls(&mut s, Clock::Wall, 109), [unknown; 0]);
        assert_eq!(calls(&mut s, Clock::Wall, 124), [now, unknown, behind]);
        assert_eq!(calls(&mut s, Clock::Wall, 125), [ahead]);
        assert!(calls(&mut s, Clock::Stream, 4).is_empty());
        assert_eq!(calls(&mut s, Clock::Stream, 6), [stream]);
        assert!(calls(&mut s, Clock::Stream, 14).is_empty());
        assert_eq!(calls(&mut s, Clock::Stream, 15), [stream]);
    }

    #[test]
    fn another_grid_is_another_schedule() {
        let mut s = Schedules::default();
        s.begin(3);
        s.add(3, 7, Clock::Wall, 10, Some(5), 0);
        s.begun();
        calls(&mut s, Clock::Wall, 20);
        let mut saved = Writer::default();
        s.save(true, |_| 7, &mut saved);
        for (start, due) in [(5, 25), (6, 106)] {
            let mut after = Schedules::default();
            after.load(&mut Reader::new(&saved.bytes)).unwrap();
            after.begin(3);
            after.add(3, 7, Clock::Wall, 10, Some(start), 100);
            assert_eq!(after.made[0].due, due);
        }
    }

    #[test]
    fn the_earliest_is_called_first() {
        let mut s = Schedules::default();
        let (slow, fast) =
            (s.add(0, 7, Clock::Stream, 20, None, NO_TIME), s.add(1, 8, Clock::Stream, 5, None, NO_TIME));
        assert_eq!(calls(&mut s, Clock::Stream, 1), [slow, fast]);
        assert_eq!(calls(&mut s, Clock::Stream, 20), [fast, slow]);
    }

    #[test]
    fn among_equals_the_order_is_that_of_javas_heap() {
        // Seven that are due at once: as `java.util.PriorityQueue` gives them out and takes them back.
        let mut s = Schedules::default();
        let ids: Vec<u64> = (0..7).map(|n| s.add(n, 7, Clock::Stream, 10, None, NO_TIME)).collect();
        assert_eq!(calls(&mut s, Clock::Stream, 0), [0, 6, 1, 3, 4, 2, 5].map(|n| ids[n]));
        assert_eq!(calls(&mut s, Clock::Stream, 10), [2, 5, 1, 0, 6, 4, 3].map(|n| ids[n]));
        // As if each were its node's `init`'s: a restart keeps the heap.
        s.settle(Clock::Stream, 10);
        s.stream.0.iter_mut().for_each(|schedule| schedule.place = Some(0));
        let mut saved = Writer::default();
        s.save(true, |node| node as u64, &mut saved);
        let mut after = Schedules::default();
        after.load(&mut Reader::new(&saved.bytes)).unwrap();
        for n in 0..7 {
            after.begin(n);
            after.add(n, n as u64, Clock::Stream, 10, None, NO_TIME);
        }
        assert_eq!(calls(&mut s, Clock::Stream, 20), [4, 3, 1, 2, 5, 6, 0].map(|n| ids[n]));
        assert_eq!(calls(&mut after, Clock::Stream, 20), [4, 3, 1, 2, 5, 6, 0].map(|n| n as u64));
    }

    #[test]
    fn what_init_made_goes_on_after_a_restart() {
        let mut s = Schedules::default();
        s.begin(3);
        let (id, cancelled) =
            (s.add(3, 7, Clock::Stream, 10, None, NO_TIME), s.add(3, 7, Clock::Stream, 10, None, NO_TIME));
        s.begun();
        s.add(3, 7, Clock::Stream, 10, None, NO_TIME); // a closure: it ends with this life
        assert_eq!(calls(&mut s, Clock::Stream, 12).len(), 3);
        s.cancel(cancelled);
        let mut saved = Writer::default();
        s.save(true, |_| 7, &mut saved);
        let mut after = Schedules::default();
        after.load(&mut Reader::new(&saved.bytes)).unwrap();
        let mut again = Writer::default();
        after.save(false, |_| 7, &mut again);
        assert_eq!(saved.bytes, again.bytes);
        after.begin(3);
        after.add(3, 7, Clock::Stream, 10, None, NO_TIME);
        after.add(3, 7, Clock::Stream, 10, None, NO_TIME);
        after.begun();
        assert!(calls(&mut after, Clock::Stream, 19).is_empty());
        assert_eq!(calls(&mut after, Clock::Stream, 20), [id]);
    }
}
