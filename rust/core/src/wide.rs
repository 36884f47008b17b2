//! Whole numbers of 512 bits, for sums of squares that lose nothing and quotients that are rounded once.
//!
//! A cell holds such a number in as many bytes as it can need, two's complement, little-endian. Adding to it wraps, so that
//! taking back what was added is the identity whatever lies between; it is the width of the cell that rules an overflow out.
//!
//! ```text
//!   at most 2^63 values, each below 2^127
//!     their sum                         below 2^190    24 bytes
//!     the sum of their squares          below 2^317    40 bytes
//!     count · squares, sum²             below 2^380    here
//! ```

use std::cmp::Ordering;

const LIMBS: usize = 8;

/// Least significant part first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wide([u64; LIMBS]);

/// (high, low) 128 bits of a product.
fn wide_mul(a: u128, b: u128) -> (u128, u128) {
    const HALF: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & HALF, b >> 64, b & HALF);
    let (low, cross, other, high) = (a0 * b0, a1 * b0, a0 * b1, a1 * b1);
    let middle = (low >> 64) + (cross & HALF) + (other & HALF);
    (high + (cross >> 64) + (other >> 64) + (middle >> 64), (middle << 64) | (low & HALF))
}

fn limbs(of: u128) -> [u64; 2] {
    [of as u64, (of >> 64) as u64]
}

/// Adds a number (its limbs, and what stands above them) to a cell, or subtracts it.
#[inline]
fn accumulate(cell: &mut [u8], of: &[u64], above: u64, minus: bool) {
    let mut carry = minus;
    for (i, bytes) in cell.chunks_exact_mut(8).enumerate() {
        let mut limb = of.get(i).copied().unwrap_or(above);
        if minus {
            limb = !limb;
        }
        let held = u64::from_le_bytes((&*bytes).try_into().expect("8 bytes"));
        let (sum, over) = held.overflowing_add(limb);
        let (sum, over_too) = sum.overflowing_add(carry as u64);
        bytes.copy_from_slice(&sum.to_le_bytes());
        carry = over || over_too;
    }
}

/// Adds `value` to a cell.
#[inline]
pub fn add(cell: &mut [u8], value: i128, minus: bool) {
    accumulate(cell, &limbs(value as u128), if value < 0 { u64::MAX } else { 0 }, minus);
}

/// Adds the square of `value` to a cell.
#[inline]
pub fn add_square(cell: &mut [u8], value: i128, minus: bool) {
    let (high, low) = wide_mul(value.unsigned_abs(), value.unsigned_abs());
    let ([a, b], [c, d]) = (limbs(low), limbs(high));
    accumulate(cell, &[a, b, c, d], 0, minus);
}

/// Adds one cell to another of the same size.
pub fn add_cell(cell: &mut [u8], other: &[u8]) {
    let Wide(other) = Wide::of_cell(other);
    accumulate(cell, &other, 0, false);
}

impl Wide {
    pub fn of(value: u128) -> Wide {
        let mut made = [0; LIMBS];
        made[..2].copy_from_slice(&limbs(value));
        Wide(made)
    }
    pub fn of_cell(cell: &[u8]) -> Wide {
        let above = if cell.last().is_some_and(|b| b >> 7 == 1) { u64::MAX } else { 0 };
        let mut made = [above; LIMBS];
        for (limb, bytes) in made.iter_mut().zip(cell.chunks_exact(8)) {
            *limb = u64::from_le_bytes(bytes.try_into().expect("8 bytes"));
        }
        Wide(made)
    }
    pub fn is_negative(&self) -> bool {
        self.0[LIMBS - 1] >> 63 == 1
    }
    pub fn minus(mut self, other: Wide) -> Wide {
        let mut borrow = false;
        for (limb, less) in self.0.iter_mut().zip(other.0) {
            let (left, under) = limb.overflowing_sub(less);
            let (left, under_too) = left.overflowing_sub(borrow as u64);
            *limb = left;
            borrow = under || under_too;
        }
        self
    }
    /// The product, of which the lowest 512 bits are right, also of negative numbers.
    pub fn times(self, other: Wide) -> Wide {
        let mut made = [0; LIMBS];
        for (i, &a) in self.0.iter().enumerate().filter(|(_, &a)| a != 0) {
            let mut carry = 0u128;
            for (j, &b) in other.0[..LIMBS - i].iter().enumerate() {
                let here = a as u128 * b as u128 + made[i + j] as u128 + carry;
                made[i + j] = here as u64;
                carry = here >> 64;
            }
        }
        Wide(made)
    }
    fn bits(&self) -> u32 {
        let top = self.0.iter().rposition(|&limb| limb != 0);
        top.map_or(0, |i| 64 * i as u32 + 64 - self.0[i].leading_zeros())
    }
    fn shifted_up(self, by: u32) -> Wide {
        let (whole, rest) = ((by / 64) as usize, by % 64);
        let mut made = [0; LIMBS];
        for (i, limb) in made.iter_mut().enumerate().skip(whole) {
            *limb = self.0[i - whole] << rest;
            if rest > 0 && i > whole {
                *limb |= self.0[i - whole - 1] >> (64 - rest);
            }
        }
        Wide(made)
    }
    fn order(&self, other: &Wide) -> Ordering {
        self.0.iter().rev().cmp(other.0.iter().rev())
    }

    /// `self / by` rounded once, half to even. Both are positive, and the numerator has room for 56 bits more than `by` has.
    pub fn quotient(self, by: Wide) -> f64 {
        const EXACT: u32 = f64::MANTISSA_DIGITS;
        let (bits, by_bits) = (self.bits(), by.bits());
        if bits <= EXACT && by_bits <= EXACT {
            return self.0[0] as f64 / by.0[0] as f64;
        }
        // A quotient of 56 bits or more: the two below the 53 of a float, and one for all that is below, decide the rounding.
        let up = (56 + by_bits).saturating_sub(bits);
        let mut rest = self.shifted_up(up);
        let mut down = rest.bits().saturating_sub(by_bits);
        let mut found: u64 = 0;
        // How far the bits that fit are below the point that the division is at.
        let mut scale = -(up as i32);
        loop {
            let step = by.shifted_up(down);
            let bit = rest.order(&step) != Ordering::Less;
            if bit {
                rest = rest.minus(step);
            }
            if found >> 62 == 0 {
                found = found << 1 | bit as u64;
            } else {
                // It is full: what follows is only whether there is anything.
                scale += 1;
                found |= bit as u64;
            }
            if down == 0 {
                break;
            }
            down -= 1;
        }
        found |= (rest.bits() != 0) as u64;
        found as f64 * 2f64.powi(scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cell(of: &[i128]) -> [u8; 24] {
        let mut cell = [0; 24];
        of.iter().for_each(|&v| add(&mut cell, v, false));
        cell
    }

    #[test]
    fn the_largest_numbers_have_room() {
        let (mut sum, mut squares) = ([0; 24], [0; 40]);
        for _ in 0..1000 {
            add(&mut sum, -i128::MAX, false);
            add_square(&mut squares, -i128::MAX, false);
        }
        let (n, all) = (Wide::of(1000), Wide::of_cell(&sum));
        assert!(all.is_negative());
        // (n · Σx²) = (Σx)²: they are all the same.
        assert_eq!(n.times(Wide::of_cell(&squares)), all.times(all));
        assert_eq!(n.times(Wide::of(i128::MAX as u128)).minus(Wide::of(0).minus(all)), Wide::of(0));
    }

    proptest! {
        #[test]
        fn cells_add_up(a: i128, b: i128, c: i64) {
            let mut all = cell(&[a, b]);
            prop_assert_eq!(Wide::of_cell(&all).is_negative(), a.checked_add(b).map_or(a < 0, |s| s < 0));
            add_cell(&mut all, &cell(&[c as i128]));
            add(&mut all, a, true);
            add(&mut all, b, true);
            prop_assert_eq!(all, cell(&[c as i128]));
            add(&mut all, c as i128, true);
            prop_assert_eq!(all, [0; 24]);
            let mut squares = [0; 40];
            add_square(&mut squares, a, false);
            prop_assert_eq!(Wide::of_cell(&squares), Wide::of(a.unsigned_abs()).times(Wide::of(a.unsigned_abs())));
            add_square(&mut squares, c as i128, false);
            add_square(&mut squares, a, true);
            prop_assert_eq!(Wide::of_cell(&squares), Wide::of((c as i128 * c as i128) as u128));
        }

        /// `x · m / m`, and one more or less than halfway between two floats.
        #[test]
        fn a_quotient_is_rounded_once(x in 1u64..1 << 53, m in 1u128..1 << 120, more in -1i32..2) {
            let (by, two) = (Wide::of(m).times(Wide::of(1 << 100)), Wide::of(2));
            prop_assert_eq!(Wide::of(x as u128).times(by).quotient(by), x as f64);
            // x + 1/2 (+ or - 1/2m): between x and x + 1 where those are neighbours.
            let x = x | 1 << 52;
            let twice = Wide::of(2 * x as u128 + 1).times(by);
            let near = match more {
                0 => twice,
                1 => twice.minus(Wide::of(0).minus(Wide::of(1))),
                _ => twice.minus(Wide::of(1)),
            };
            let even = x + (x & 1);
            let expected = match more { 0 => even, 1 => x + 1, _ => x };
            prop_assert_eq!(near.quotient(by.times(two)), expected as f64);
        }

        #[test]
        fn small_quotients_are_those_of_floats(a in 0u64..1 << 53, b in 1u64..1 << 53, up in 0u32..200) {
            let expected = a as f64 / b as f64;
            prop_assert_eq!(Wide::of(a as u128).quotient(Wide::of(b as u128)), expected);
            let (a, b) = (Wide::of(a as u128).shifted_up(up), Wide::of(b as u128).shifted_up(up));
            prop_assert_eq!(a.quotient(b), expected);
        }
    }
}
