//! A list of bids, best first, with what each would pay: kept current change by change.
//!
//! ```text
//! v      = 0.1 · ctr · cvr · value                          what a shown ad is worth beside its click
//! score  = bid · ctr + v                                    expected value of showing it once
//! price  = ceil((score of the next − v) / ctr)              the smallest bid that keeps the place, in whole ticks
//!          at least the reserve, at most the bid; the last one pays the reserve
//! ```
//!
//! The price rule is that of the generalised second-price auction (Varian, "Position auctions", 2007; Edelman, Ostrovsky
//! and Schwarz, 2007). All of it is integers: money in hundredths, rates in billionths, scores exact at 21 digits, so
//! that equal scores are equal and a price of exactly 700 is no 701. The largest amounts, 10¹³, fit into 128 bits.
//!
//! Order: score, then the higher bid, then who has been there longer, then the id. It is total, so every replay lists
//! alike.

use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// A rate of 1, in billionths.
pub const ONE: i64 = 1_000_000_000;
/// Amounts are below 10¹³ with two digits.
pub const AMOUNT_LIMIT: i64 = 1_000_000_000_000_000;
/// From hundredths × billionths (11 digits) to the 21 digits of a score.
const BID_SCALE: i128 = 10_000_000_000;
/// Scores have 21 digits; six are shown.
const SHOWN_SCALE: i128 = 1_000_000_000_000_000;

/// What is ranked. `bid` and `value` in hundredths, rates in billionths, `since` in ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bid {
    pub bid: i64,
    pub ctr: i64,
    pub cvr: i64,
    pub value: i64,
    pub since: i64,
}

/// What is wrong with a bid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Negative, or 10¹³ and more.
    Amount,
    /// Not between 0 and 1.
    Rate,
}

impl Bid {
    pub fn check(&self) -> Result<(), Refused> {
        if ![self.bid, self.value].iter().all(|amount| (0..AMOUNT_LIMIT).contains(amount)) {
            return Err(Refused::Amount);
        }
        if ![self.ctr, self.cvr].iter().all(|rate| (0..=ONE).contains(rate)) {
            return Err(Refused::Rate);
        }
        Ok(())
    }

    /// `0.1 · ctr · cvr · value`: one digit of the weight, nine of each rate, two of the amount.
    fn beside(&self) -> i128 {
        i128::from(self.ctr) * i128::from(self.cvr) * i128::from(self.value)
    }

    fn score(&self) -> i128 {
        i128::from(self.bid) * i128::from(self.ctr) * BID_SCALE + self.beside()
    }
}

type Place = (Reverse<i128>, Reverse<i64>, i64, Arc<str>);

fn place(id: &Arc<str>, bid: &Bid) -> Place {
    (Reverse(bid.score()), Reverse(bid.bid), bid.since, id.clone())
}

/// One line of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ranked {
    pub id: Arc<str>,
    /// With six digits, half to even.
    pub score: String,
    pub bid: i64,
    /// In hundredths.
    pub price: i64,
}

/// Bids of at least `reserve`, best first.
#[derive(Clone, Debug)]
pub struct Ranking {
    reserve: i64,
    tick: i64,
    bids: HashMap<Arc<str>, Bid>,
    order: BTreeSet<Place>,
}

impl Ranking {
    /// `reserve` and `tick` in hundredths; a tick is at least 1.
    pub fn new(reserve: i64, tick: i64) -> Self {
        Ranking { reserve: reserve.max(0), tick: tick.max(1), bids: HashMap::new(), order: BTreeSet::new() }
    }

    pub fn len(&self) -> usize {
        self.bids.len()
    }

    pub fn is_empty(&self) -> bool {
        self.bids.is_empty()
    }

    /// Lists a bid, in place of the id's earlier one; one below the reserve is not listed. Whether it is.
    pub fn put(&mut self, id: &str, bid: Bid) -> Result<bool, Refused> {
        bid.check()?;
        self.remove(id);
        if bid.bid < self.reserve {
            return Ok(false);
        }
        let id: Arc<str> = id.into();
        self.order.insert(place(&id, &bid));
        self.bids.insert(id, bid);
        Ok(true)
    }

    /// As `put` one after the other. Many are sorted at once, which is faster than finding a place for each.
    pub fn put_many(&mut self, bids: impl IntoIterator<Item = (Arc<str>, Bid)>) -> Result<(), Refused> {
        let bids: Vec<(Arc<str>, Bid)> = bids.into_iter().collect();
        for (_, bid) in &bids {
            bid.check()?;
        }
        if bids.len() < self.bids.len() / 8 {
            for (id, bid) in bids {
                self.put(&id, bid)?;
            }
            return Ok(());
        }
        for (id, bid) in bids {
            if bid.bid < self.reserve {
                self.bids.remove(&id);
            } else {
                self.bids.insert(id, bid);
            }
        }
        self.order = self.bids.iter().map(|(id, bid)| place(id, bid)).collect();
        Ok(())
    }

    /// Whether it was listed.
    pub fn remove(&mut self, id: &str) -> bool {
        let Some((id, bid)) = self.bids.remove_entry(id) else { return false };
        self.order.remove(&place(&id, &bid))
    }

    /// The first `k`, with what each pays.
    pub fn top(&self, k: usize) -> Vec<Ranked> {
        let mut lines = Vec::with_capacity(k.min(self.len()));
        let mut places = self.order.iter().take(k.saturating_add(1)).peekable();
        while let Some((Reverse(score), _, _, id)) = places.next() {
            if lines.len() == k {
                break;
            }
            let bid = self.bids[id];
            let next = places.peek().map(|(Reverse(score), ..)| *score);
            lines.push(Ranked { id: id.clone(), score: shown(*score), bid: bid.bid, price: self.price(&bid, next) });
        }
        lines
    }

    fn price(&self, bid: &Bid, next: Option<i128>) -> i64 {
        let short = next.map_or(0, |score| score - bid.beside());
        if short <= 0 {
            return self.reserve;
        }
        // Somebody with a rate of 0 keeps the place by `beside` alone, or by nothing.
        let a_tick = i128::from(bid.ctr) * BID_SCALE * i128::from(self.tick);
        let ticks = if a_tick == 0 { i128::MAX } else { (short + a_tick - 1) / a_tick };
        let price = ticks.saturating_mul(i128::from(self.tick));
        // A price is at most the bid, which is 64 bits.
        price.clamp(i128::from(self.reserve), i128::from(bid.bid)) as i64
    }
}

/// With six digits, half to even.
fn shown(score: i128) -> String {
    let (whole, rest) = (score / SHOWN_SCALE, score % SHOWN_SCALE);
    let half = SHOWN_SCALE / 2;
    let up = rest > half || (rest == half && whole % 2 == 1);
    let micros = whole + i128::from(up);
    format!("{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bid(bid: i64, ctr: i64, cvr: i64, value: i64) -> Bid {
        Bid { bid: bid * 100, ctr: ctr * 1_000, cvr: cvr * 1_000, value: value * 100, since: 0 }
    }

    fn listed(ranking: &Ranking) -> Vec<(String, String, i64)> {
        ranking.top(usize::MAX).into_iter().map(|line| (line.id.to_string(), line.score, line.price)).collect()
    }

    fn line(id: &str, score: &str, price: i64) -> (String, String, i64) {
        (id.into(), score.into(), price * 100)
    }

    #[test]
    fn scores_and_prices_are_exact() {
        let mut ranking = Ranking::new(10_000, 100);
        ranking.put("A", bid(1500, 10_000, 5_000, 1_000_000)).unwrap();
        ranking.put("B", bid(1200, 20_000, 10_000, 300_000)).unwrap();
        ranking.put("C", bid(3000, 5_000, 2_000, 50_000)).unwrap();
        let expected = [line("B", "30.000000", 700), line("A", "20.000000", 1005), line("C", "15.050000", 100)];
        assert_eq!(listed(&ranking), expected);
        assert!(ranking.remove("B") && !ranking.remove("B"));
        assert_eq!(listed(&ranking), expected[1..]);
    }

    #[test]
    fn ties_go_to_the_higher_bid_then_the_older_then_the_id() {
        let mut ranking = Ranking::new(0, 100);
        for (id, amount, ctr, since) in [("d", 10, 200, 5), ("c", 20, 100, 9), ("b", 20, 100, 7), ("a", 20, 100, 9)] {
            ranking.put(id, Bid { since, ..bid(amount, ctr, 0, 0) }).unwrap();
        }
        let order: Vec<String> = listed(&ranking).into_iter().map(|(id, ..)| id).collect();
        assert_eq!(order, ["b", "a", "c", "d"]);
    }

    #[test]
    fn below_the_reserve_is_not_listed() {
        let mut ranking = Ranking::new(10_000, 100);
        assert_eq!(ranking.put("a", bid(100, 10, 0, 0)), Ok(true));
        assert_eq!(ranking.put("a", bid(99, 10, 0, 0)), Ok(false));
        assert!(ranking.is_empty());
        assert_eq!(ranking.put("a", bid(1, 1_000_001, 0, 0)), Err(Refused::Rate));
        assert_eq!(ranking.put("a", bid(-1, 0, 0, 0)), Err(Refused::Amount));
    }

    #[test]
    fn scores_are_shown_half_to_even() {
        assert_eq!(shown(500_000_000_000_000), "0.000000");
        assert_eq!(shown(1_500_000_000_000_000), "0.000002");
        assert_eq!(shown(2_500_000_000_000_001), "0.000003");
    }

    #[test]
    fn the_largest_amounts_fit() {
        let mut ranking = Ranking::new(0, 1);
        let most = Bid { bid: AMOUNT_LIMIT - 1, ctr: ONE, cvr: ONE, value: AMOUNT_LIMIT - 1, since: 0 };
        ranking.put("a", most).unwrap();
        ranking.put("b", most).unwrap();
        assert_eq!(ranking.top(2)[0].price, most.bid);
    }

    fn any_bid() -> impl Strategy<Value = Bid> {
        let rate = prop_oneof![Just(0), Just(ONE), 0..=ONE, Just(10_000_000)];
        (0..40_000_i64, rate.clone(), rate, 0..100_000_i64, 0..3_i64).prop_map(|(bid, ctr, cvr, value, since)| Bid {
            bid,
            ctr,
            cvr,
            value,
            since,
        })
    }

    proptest! {
        #[test]
        fn change_by_change_is_as_sorted_at_once(
            changes in proptest::collection::vec((0..12_u8, proptest::option::of(any_bid())), 0..60),
            tick in prop_oneof![Just(1), Just(100)],
        ) {
            let mut ranking = Ranking::new(5_000, tick);
            let mut bids = HashMap::new();
            for (id, change) in changes {
                let id: Arc<str> = id.to_string().into();
                match change {
                    Some(bid) => {
                        ranking.put(&id, bid).unwrap();
                        bids.insert(id, bid);
                    }
                    None => {
                        ranking.remove(&id);
                        bids.remove(&id);
                    }
                }
            }
            let mut at_once = Ranking::new(5_000, tick);
            at_once.put_many(bids.clone()).unwrap();
            prop_assert_eq!(ranking.top(usize::MAX), at_once.top(usize::MAX));
            let lines = ranking.top(usize::MAX);
            prop_assert_eq!(lines.len(), bids.values().filter(|bid| bid.bid >= 5_000).count());
            for (i, line) in lines.iter().enumerate() {
                let own = bids[&line.id];
                prop_assert!(5_000 <= line.price && line.price <= own.bid);
                if let Some(next) = lines.get(i + 1) {
                    let next = bids[&next.id];
                    prop_assert!(own.score() >= next.score());
                    // The price keeps the place; a tick less would not, unless it is the reserve.
                    let at = |price: i64| Bid { bid: price, ..own }.score();
                    prop_assert!(at(line.price) >= next.score() || line.price == own.bid);
                    if line.price > 5_000 && line.price % tick == 0 {
                        prop_assert!(at(line.price - tick) < next.score());
                    }
                }
            }
            prop_assert_eq!(&ranking.top(2)[..], &lines[..lines.len().min(2)]);
        }
    }
}
