//! Decimals as 128-bit integers times `10^-scale`, exact to 38 digits.
//!
//! Every result is checked against 38 digits, not against 128 bits, so that what fits does not depend on the machine's
//! integers. Division needs up to 256 bits in between.

use std::cmp::Ordering;

use crate::column::{ERR_OVERFLOW, NULL, VALID};

/// The largest unscaled value: 38 nines.
pub const MAX: i128 = 10i128.pow(38) - 1;

/// `10^e` for `e` up to 38.
pub const fn pow10(e: u32) -> i128 {
    10i128.pow(e)
}

const POWERS: [u128; 39] = {
    let mut powers = [1; 39];
    let mut e = 1;
    while e < 39 {
        powers[e] = powers[e - 1] * 10;
        e += 1;
    }
    powers
};

/// The largest unscaled value of a precision.
pub fn max_of(precision: u8) -> i128 {
    pow10(precision as u32) - 1
}

#[inline]
fn bounded(value: Option<i128>) -> (i128, u8) {
    match value {
        Some(v) if (-MAX..=MAX).contains(&v) => (v, VALID),
        _ => (0, ERR_OVERFLOW),
    }
}

#[inline]
fn times(a: i128, factor: i128) -> Option<i128> {
    if factor == 1 {
        Some(a)
    } else {
        a.checked_mul(factor)
    }
}

/// `a*fa + b*fb`.
#[inline]
pub fn add(a: i128, fa: i128, b: i128, fb: i128) -> (i128, u8) {
    bounded(times(a, fa).zip(times(b, fb)).and_then(|(x, y)| x.checked_add(y)))
}

/// `a*fa - b*fb`.
#[inline]
pub fn sub(a: i128, fa: i128, b: i128, fb: i128) -> (i128, u8) {
    bounded(times(a, fa).zip(times(b, fb)).and_then(|(x, y)| x.checked_sub(y)))
}

#[inline]
pub fn mul(a: i128, b: i128) -> (i128, u8) {
    bounded(match (i64::try_from(a), i64::try_from(b)) {
        (Ok(x), Ok(y)) => Some(x as i128 * y as i128),
        _ => a.checked_mul(b),
    })
}

/// `a*fa` against `b*fb`; at most one factor is not 1. A product beyond 128 bits is larger than anything on the other
/// side.
#[inline]
pub fn cmp(a: i128, fa: i128, b: i128, fb: i128) -> Ordering {
    match (times(a, fa), times(b, fb)) {
        (Some(x), Some(y)) => x.cmp(&y),
        (None, _) => a.cmp(&0),
        (_, None) => 0.cmp(&b),
    }
}

/// `high * 2^128 + low`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Wide {
    high: u128,
    low: u128,
}

fn wide_mul(a: u128, b: u128) -> Wide {
    const LOW: u128 = u64::MAX as u128;
    let (a1, a0, b1, b0) = (a >> 64, a & LOW, b >> 64, b & LOW);
    let (p00, p01, p10, p11) = (a0 * b0, a0 * b1, a1 * b0, a1 * b1);
    let middle = (p00 >> 64) + (p01 & LOW) + (p10 & LOW);
    Wide { high: p11 + (p01 >> 64) + (p10 >> 64) + (middle >> 64), low: (middle << 64) | (p00 & LOW) }
}

impl Wide {
    fn times(self, factor: u128) -> Option<Wide> {
        let low = wide_mul(self.low, factor);
        let high = self.high.checked_mul(factor)?.checked_add(low.high)?;
        Some(Wide { high, low: low.low })
    }
    /// Quotient (if it fits 128 bits) and remainder.
    fn div_rem(self, by: u128) -> Option<(u128, u128)> {
        if self.high == 0 {
            return Some((self.low / by, self.low % by));
        }
        if self.high >= by {
            return None;
        }
        // Schoolbook, bit by bit: `rest < by` holds, and the bit shifted out at the top is remembered.
        let (mut rest, mut quotient) = (self.high, 0u128);
        for bit in (0..128).rev() {
            let carry = rest >> 127;
            rest = (rest << 1) | ((self.low >> bit) & 1);
            quotient <<= 1;
            if carry == 1 || rest >= by {
                rest = rest.wrapping_sub(by);
                quotient |= 1;
            }
        }
        Some((quotient, rest))
    }
}

/// `a * 10^e` as 256 bits, `e` up to 76.
fn shifted(a: u128, e: u32) -> Option<Wide> {
    match e.checked_sub(38) {
        None | Some(0) => Some(wide_mul(a, POWERS[e as usize])),
        Some(more) => wide_mul(a, POWERS[38]).times(POWERS[more as usize]),
    }
}

/// Half to even, from a quotient and what is left of the divisor.
#[inline]
fn half_even(quotient: u128, rest: u128, by: u128) -> u128 {
    match rest.cmp(&(by - rest)) {
        Ordering::Less => quotient,
        Ordering::Greater => quotient + 1,
        Ordering::Equal => quotient + (quotient & 1),
    }
}

#[inline]
fn signed(negative: bool, magnitude: u128) -> (i128, u8) {
    if magnitude > MAX as u128 {
        return (0, ERR_OVERFLOW);
    }
    (if negative { -(magnitude as i128) } else { magnitude as i128 }, VALID)
}

/// `a * 10^e / b`, half to even; by zero null.
pub fn div(a: i128, b: i128, e: u32) -> (i128, u8) {
    if b == 0 {
        return (0, NULL);
    }
    let by = b.unsigned_abs();
    // The usual case: all in 64 bits.
    if let (Ok(n), Ok(small), 0..=18) = (u64::try_from(a.unsigned_abs()), u64::try_from(by), e) {
        if let Some(n) = n.checked_mul(POWERS[e as usize] as u64) {
            let quotient = half_even((n / small) as u128, (n % small) as u128, by);
            return signed((a < 0) != (b < 0), quotient);
        }
    }
    // A dividend beyond 256 bits over a divisor below 2^127 is beyond 38 digits too.
    match shifted(a.unsigned_abs(), e).and_then(|n| n.div_rem(by)) {
        Some((quotient, rest)) if quotient <= MAX as u128 => signed((a < 0) != (b < 0), half_even(quotient, rest, by)),
        _ => (0, ERR_OVERFLOW),
    }
}

/// Floor quotient and the remainder with the divisor's sign, of `a*10^ea` by `b*10^eb` (one exponent is 0).
fn floor_parts(a: i128, ea: u32, b: i128, eb: u32) -> Option<(i128, i128)> {
    let negative = (a < 0) != (b < 0);
    let (quotient, rest, by) = if eb == 0 {
        let by = b.unsigned_abs();
        // Remainder without the quotient's overflow: reduce the high part first.
        let n = shifted(a.unsigned_abs(), ea)?;
        match n.div_rem(by) {
            Some((q, r)) => (q, r, by),
            None => return Some((i128::MAX, rest_only(n, by, b < 0, negative))),
        }
    } else {
        match shifted(b.unsigned_abs(), eb) {
            Some(Wide { high: 0, low }) => (a.unsigned_abs() / low, a.unsigned_abs() % low, low),
            // The divisor is larger than any dividend.
            _ => {
                let q = if a != 0 && negative { -1 } else { 0 };
                // With unlike signs the remainder is `a + b`, which no 38 digits hold.
                return Some((q, if q == 0 { a } else { i128::MAX }));
            }
        }
    };
    let (quotient, rest) = if negative && rest != 0 { (quotient.checked_add(1)?, by - rest) } else { (quotient, rest) };
    let quotient = i128::try_from(quotient).unwrap_or(i128::MAX);
    let rest = i128::try_from(rest).ok()?;
    Some((if negative { -quotient } else { quotient }, if b < 0 { -rest } else { rest }))
}

fn rest_only(n: Wide, by: u128, by_negative: bool, negative: bool) -> i128 {
    let reduced = Wide { high: n.high % by, low: n.low };
    let rest = reduced.div_rem(by).map_or(0, |(_, r)| r);
    let rest = if negative && rest != 0 { by - rest } else { rest } as i128;
    if by_negative {
        -rest
    } else {
        rest
    }
}

/// Quotient towards minus infinity, scale 0.
pub fn floordiv(a: i128, ea: u32, b: i128, eb: u32) -> (i128, u8) {
    if b == 0 {
        return (0, NULL);
    }
    bounded(floor_parts(a, ea, b, eb).map(|p| p.0))
}

/// What the floor quotient leaves: it has the divisor's sign.
pub fn modulo(a: i128, ea: u32, b: i128, eb: u32) -> (i128, u8) {
    if b == 0 {
        return (0, NULL);
    }
    bounded(floor_parts(a, ea, b, eb).map(|p| p.1))
}

/// To another scale: exact upwards (`ERR_OVERFLOW` if it does not fit), half to even downwards.
#[inline]
pub fn rescale(a: i128, from: u8, to: u8) -> (i128, u8) {
    if to >= from {
        bounded(a.checked_mul(pow10((to - from) as u32)))
    } else {
        let by = pow10((from - to) as u32) as u128;
        let magnitude = a.unsigned_abs();
        signed(a < 0, half_even(magnitude / by, magnitude % by, by))
    }
}

/// Towards minus (`up` false) or plus infinity, to scale 0.
#[inline]
pub fn to_whole(a: i128, scale: u8, up: bool) -> i128 {
    let by = pow10(scale as u32);
    let floor = a.div_euclid(by);
    if up && a.rem_euclid(by) != 0 {
        floor + 1
    } else {
        floor
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn division_is_exact_and_half_even() {
        assert_eq!(div(1, 3, 6), (333_333, VALID));
        assert_eq!(div(2, 3, 6), (666_667, VALID));
        assert_eq!(div(-2, 3, 6), (-666_667, VALID));
        assert_eq!(div(1, 2, 0), (0, VALID));
        assert_eq!(div(3, 2, 0), (2, VALID));
        assert_eq!(div(-5, 2, 0), (-2, VALID));
        assert_eq!(div(1, 0, 6), (0, NULL));
        // Through 256 bits: (10^38-1) * 10^38 / (10^38-1).
        assert_eq!(div(MAX, MAX, 37), (pow10(37), VALID));
        assert_eq!(div(MAX, MAX, 38), (0, ERR_OVERFLOW));
        assert_eq!(div(MAX, 1, 38), (0, ERR_OVERFLOW));
        assert_eq!(div(MAX, 1, 76), (0, ERR_OVERFLOW));
        assert_eq!(div(1, MAX, 75), (pow10(37), VALID));
        assert_eq!(div(0, 7, 76), (0, VALID));
    }

    #[test]
    fn floor_division_agrees_with_its_remainder() {
        for (a, b) in [(7, 2), (-7, 2), (7, -2), (-7, -2), (6, 3), (-6, 3), (0, 5)] {
            let (q, r) = (floordiv(a, 0, b, 0).0, modulo(a, 0, b, 0).0);
            assert_eq!(q * b + r, a, "{a} {b}");
            assert!(r == 0 || (r < 0) == (b < 0), "{a} {b}");
        }
        // 1.5 // 0.25 = 6, 1.6 % 0.25 = 0.10
        assert_eq!(floordiv(15, 1, 25, 0), (6, VALID));
        assert_eq!(modulo(16, 1, 25, 0), (10, VALID));
        // 1.75 // 0.5 = 3, rest 0.25; the divisor is the one to scale.
        assert_eq!(floordiv(175, 0, 5, 1), (3, VALID));
        assert_eq!(modulo(175, 0, 5, 1), (25, VALID));
        // The quotient has 39 digits and more, the remainder does not.
        assert_eq!(floordiv(MAX, 10, 7, 0), (0, ERR_OVERFLOW));
        // 10^48 - 10^10 modulo 7: 10^6 = 1, so 10^48 = 1 and 10^10 = 10^4 = 4.
        assert_eq!(modulo(MAX, 10, 7, 0), ((1i128 - 4).rem_euclid(7), VALID));
        assert_eq!(modulo(-MAX, 10, 7, 0), (3, VALID));
        assert_eq!(floordiv(-1, 0, MAX, 38), (-1, VALID));
        assert_eq!(modulo(-1, 0, MAX, 38), (0, ERR_OVERFLOW));
        assert_eq!(modulo(1, 0, MAX, 38), (1, VALID));
    }

    #[test]
    fn comparison_survives_the_factor() {
        assert_eq!(cmp(MAX, pow10(10), 1, 1), Ordering::Greater);
        assert_eq!(cmp(-MAX, pow10(10), 1, 1), Ordering::Less);
        assert_eq!(cmp(1, 1, MAX, pow10(10)), Ordering::Less);
        assert_eq!(cmp(5, 10, 50, 1), Ordering::Equal);
    }
}
