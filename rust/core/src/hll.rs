//! HyperLogLog: about how many different values there were, in 4 KB at most.
//!
//! Each value's hash names one of 4,096 registers by its first twelve bits; the register keeps the longest run of leading
//! zeros (plus one) that the other bits had. Registers merge by their maximum, so the order of anything does not matter.
//! The standard error is `1.04 / √4096 = 1.6 %`; small numbers are nearly exact.
//!
//! While few registers are in use they are written one by one, which is a function of what they hold: equal registers are
//! equal bytes.
//!
//! ```text
//!   sparse   (register u16 LE, rank u8) …   ascending; below `DENSE_FROM` registers
//!   dense    rank u8 × 4,096
//! ```
//!
//! The estimator is Otmar Ertl's ("New cardinality estimation algorithms for HyperLogLog sketches", 2017, algorithm 6): one
//! formula for the whole range, without tables of biases.

const BITS: u32 = 12;
pub const REGISTERS: usize = 1 << BITS;
const RANK_MAX: usize = 64 - BITS as usize + 1;
/// So many registers in use take as many bytes as all do.
const DENSE_FROM: usize = REGISTERS / 3;

fn is_dense(sketch: &[u8]) -> bool {
    sketch.len() == REGISTERS
}

/// Register and rank of a hash.
fn place(hash: u64) -> (usize, u8) {
    let rest = hash << BITS;
    let rank = if rest == 0 { RANK_MAX as u32 } else { rest.leading_zeros() + 1 };
    ((hash >> (64 - BITS)) as usize, rank as u8)
}

fn spread(sketch: &[u8]) -> [u8; REGISTERS] {
    let mut ranks = [0; REGISTERS];
    if is_dense(sketch) {
        ranks.copy_from_slice(sketch);
        return ranks;
    }
    for entry in sketch.chunks_exact(3) {
        ranks[u16::from_le_bytes([entry[0], entry[1]]) as usize % REGISTERS] = entry[2];
    }
    ranks
}

fn packed(ranks: &[u8; REGISTERS]) -> Vec<u8> {
    let used = ranks.iter().filter(|&&r| r != 0).count();
    if used >= DENSE_FROM {
        return ranks.to_vec();
    }
    let mut out = Vec::with_capacity(3 * used);
    for (register, &rank) in ranks.iter().enumerate().filter(|(_, &r)| r != 0) {
        out.extend_from_slice(&(register as u16).to_le_bytes());
        out.push(rank);
    }
    out
}

/// With a value's hash added; none: it is as it was.
pub fn add(sketch: &[u8], hash: u64) -> Option<Vec<u8>> {
    let (register, rank) = place(hash);
    if is_dense(sketch) {
        return (sketch[register] < rank).then(|| {
            let mut out = sketch.to_vec();
            out[register] = rank;
            out
        });
    }
    let of = |entry: &[u8]| u16::from_le_bytes([entry[0], entry[1]]) as usize;
    let entries = sketch.as_chunks::<3>().0;
    match entries.binary_search_by_key(&register, |entry| of(entry)) {
        Ok(at) if entries[at][2] >= rank => None,
        Ok(at) => {
            let mut out = sketch.to_vec();
            out[3 * at + 2] = rank;
            Some(out)
        }
        Err(_) if entries.len() + 1 >= DENSE_FROM => {
            let mut ranks = spread(sketch);
            ranks[register] = rank;
            Some(packed(&ranks))
        }
        Err(at) => {
            let mut out = Vec::with_capacity(sketch.len() + 3);
            out.extend_from_slice(&sketch[..3 * at]);
            out.extend_from_slice(&(register as u16).to_le_bytes());
            out.push(rank);
            out.extend_from_slice(&sketch[3 * at..]);
            Some(out)
        }
    }
}

pub fn merge(a: &[u8], b: &[u8]) -> Vec<u8> {
    let (mut ranks, others) = (spread(a), spread(b));
    ranks.iter_mut().zip(others).for_each(|(rank, other)| *rank = other.max(*rank));
    packed(&ranks)
}

pub fn estimate(sketch: &[u8]) -> i64 {
    let mut counts = [0.0f64; RANK_MAX + 1];
    let mut count = |rank: u8| counts[(rank as usize).min(RANK_MAX)] += 1.0;
    if is_dense(sketch) {
        sketch.iter().for_each(|&rank| count(rank));
    } else {
        let entries = sketch.as_chunks::<3>().0;
        entries.iter().for_each(|entry| count(entry[2]));
        counts[0] = (REGISTERS - entries.len().min(REGISTERS)) as f64;
    }
    let m = REGISTERS as f64;
    let mut z = m * tau(1.0 - counts[RANK_MAX] / m);
    for k in (1..RANK_MAX).rev() {
        z = 0.5 * (z + counts[k]);
    }
    z += m * sigma(counts[0] / m);
    (m * m / (2.0 * std::f64::consts::LN_2 * z)).round() as i64
}

fn sigma(mut x: f64) -> f64 {
    if x == 1.0 {
        return f64::INFINITY;
    }
    let (mut y, mut z) = (1.0, x);
    loop {
        x *= x;
        let before = z;
        z += x * y;
        y += y;
        if z == before {
            return z;
        }
    }
}

fn tau(mut x: f64) -> f64 {
    if x == 0.0 || x == 1.0 {
        return 0.0;
    }
    let (mut y, mut z) = (1.0, 1.0 - x);
    loop {
        x = x.sqrt();
        let before = z;
        y *= 0.5;
        z -= (1.0 - x).powi(2) * y;
        if z == before {
            return z / 3.0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use xxhash_rust::xxh3::xxh3_64;

    fn of(values: impl Iterator<Item = u64>) -> Vec<u8> {
        values.fold(vec![], |sketch, v| add(&sketch, xxh3_64(&v.to_le_bytes())).unwrap_or(sketch))
    }

    #[test]
    fn estimates_are_within_four_standard_errors() {
        assert_eq!(estimate(&[]), 0);
        assert_eq!(estimate(&of(0..1)), 1);
        for n in [10u64, 100, 1_000, 5_000, 20_000, 100_000, 1_000_000] {
            let found = estimate(&of(0..n)) as f64;
            assert!((found - n as f64).abs() <= 4.0 * 0.0163 * n as f64 + 0.5, "{n}: {found}");
        }
    }

    proptest! {
        #[test]
        fn parts_merge_to_the_whole_in_any_order(a in 0u64..3_000, b in 0u64..3_000, overlap in 0u64..500) {
            let from = a.saturating_sub(overlap);
            let (one, two) = (of(0..a), of(from..from + b));
            let whole = of((0..a).chain(from..from + b));
            prop_assert_eq!(&merge(&one, &two), &whole);
            prop_assert_eq!(merge(&two, &one), whole);
        }
    }
}
