//! Punctuations: what a processor asked to be called for when time goes on, in one queue per task.
//!
//! ```text
//!   stream time   due at 0, 1·interval, 2·interval …     looked at after each record      called with the stream time
//!   wall clock    due at now + 1·interval, …             looked at when a generation ends  called with the logged clock
//! ```
//!
//! What is due earliest is called first. However many periods have passed, a schedule is called once, and is due again at
//! the next point of its own grid. All this is Kafka Streams' `PunctuationQueue`.
//!
//! *Restarts.* Kafka Streams forgets schedules with the task, so that a restart shows. Here those that `init` made are saved
//! with the task's small state, by their order in it, and go on where they were when `init` makes them again. What is
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
    /// `NO_TIME`: of a wall clock that nobody knew yet.
    due: i64,
    /// Among equals the one that has waited longest.
    turn: u64,
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

#[derive(Default)]
pub struct Schedules {
    list: Vec<Schedule>,
    saved: Vec<Saved>,
    next_id: u64,
    next_turn: u64,
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
    pub fn add(&mut self, node: usize, node_id: u64, clock: Clock, interval: i64, now: i64) -> u64 {
        let place = match &mut self.begins {
            Some((of, made)) if *of == node => {
                *made += 1;
                Some(*made - 1)
            }
            _ => None,
        };
        let before = self
            .saved
            .iter()
            .find(|s| s.node == node_id && Some(s.place) == place && (s.clock, s.interval) == (clock, interval));
        let fresh = match clock {
            Clock::Stream => 0,
            Clock::Wall if now == NO_TIME => NO_TIME,
            Clock::Wall => now.saturating_add(interval),
        };
        let (due, cancelled) = before.map_or((fresh, false), |s| (s.due, s.cancelled));
        let id = self.next_id;
        self.next_id += 1;
        let turn = self.turn();
        self.list.push(Schedule { id, node, place, clock, interval, due, turn, cancelled });
        id
    }

    fn turn(&mut self) -> u64 {
        self.next_turn += 1;
        self.next_turn
    }

    pub fn cancel(&mut self, id: u64) {
        for schedule in self.list.iter_mut().filter(|s| s.id == id) {
            schedule.cancelled = true;
        }
        self.list.retain(|s| !s.cancelled || s.place.is_some()); // that an init's schedule is cancelled is remembered
    }

    /// The next one to call, if one is due: its node and number. It is due again one interval later, or at the next point
    /// of its grid that lies ahead.
    pub fn take_due(&mut self, clock: Clock, now: i64) -> Option<(usize, u64)> {
        if now == NO_TIME {
            return None;
        }
        for schedule in self.list.iter_mut().filter(|s| s.clock == clock && s.due == NO_TIME) {
            schedule.due = now.saturating_add(schedule.interval);
        }
        let turn = self.turn();
        let due = |s: &&mut Schedule| s.clock == clock && !s.cancelled && s.due <= now;
        let next = self.list.iter_mut().filter(due).min_by_key(|s| (s.due, s.turn))?;
        let mut at = next.due.saturating_add(next.interval);
        if now >= at {
            at = next.due.saturating_add(((now - next.due) / next.interval + 1).saturating_mul(next.interval));
        }
        (next.due, next.turn) = (at, turn);
        Some((next.node, next.id))
    }

    /// All of them are forgotten, but for what is saved.
    pub fn clear(&mut self) {
        self.list.clear();
        self.begins = None;
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
                self.list.iter().filter_map(of).collect()
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
        let id = s.add(0, 7, Clock::Stream, 10, NO_TIME);
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
        let id = s.add(0, 7, Clock::Wall, 10, 100);
        let unknown = s.add(0, 7, Clock::Wall, 10, NO_TIME);
        assert!(calls(&mut s, Clock::Wall, 109).is_empty());
        assert_eq!(calls(&mut s, Clock::Wall, 110), [id]);
        assert_eq!(calls(&mut s, Clock::Wall, 119), [unknown]);
        s.cancel(id);
        assert!(calls(&mut s, Clock::Wall, 125).is_empty());
        assert_eq!(calls(&mut s, Clock::Wall, 129), [unknown]);
    }

    #[test]
    fn the_earliest_is_called_first() {
        let mut s = Schedules::default();
        let (slow, fast) = (s.add(0, 7, Clock::Stream, 20, NO_TIME), s.add(1, 8, Clock::Stream, 5, NO_TIME));
        assert_eq!(calls(&mut s, Clock::Stream, 1), [slow, fast]);
        assert_eq!(calls(&mut s, Clock::Stream, 20), [fast, slow]);
    }

    #[test]
    fn what_init_made_goes_on_after_a_restart() {
        let mut s = Schedules::default();
        s.begin(3);
        let (id, cancelled) = (s.add(3, 7, Clock::Stream, 10, NO_TIME), s.add(3, 7, Clock::Stream, 10, NO_TIME));
        s.begun();
        s.add(3, 7, Clock::Stream, 10, NO_TIME); // a closure: it ends with this life
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
        after.add(3, 7, Clock::Stream, 10, NO_TIME);
        after.add(3, 7, Clock::Stream, 10, NO_TIME);
        after.begun();
        assert!(calls(&mut after, Clock::Stream, 19).is_empty());
        assert_eq!(calls(&mut after, Clock::Stream, 20), [id]);
    }
}
