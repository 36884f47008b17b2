//! Comparisons, membership: null if any side is null. Least and greatest: of what is not null. Texts by their bytes.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::hash::Hash;

use super::decimal;
use super::kernel::{
    kernel, map1, map2, merge_states, plain1, plain2, tidy, write_text, Element, Kernel, Out, Text, View,
};
use crate::column::{Data, ERROR_MIN, NULL, VALID};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cmp {
    Eq,
    Ne,
    Lt,
    Le,
    Gt,
    Ge,
}

/// Integers, times, bools, codes, floats.
pub fn elements<T: Element + PartialOrd>(op: Cmp) -> Kernel {
    match op {
        Cmp::Eq => plain2(|a: T, b: T| (a == b) as u8),
        Cmp::Ne => plain2(|a: T, b: T| (a != b) as u8),
        Cmp::Lt => plain2(|a: T, b: T| (a < b) as u8),
        Cmp::Le => plain2(|a: T, b: T| (a <= b) as u8),
        Cmp::Gt => plain2(|a: T, b: T| (a > b) as u8),
        Cmp::Ge => plain2(|a: T, b: T| (a >= b) as u8),
    }
}

/// Decimals, `a*10^ea` against `b*10^eb`.
pub fn decimals(op: Cmp, ea: u32, eb: u32) -> Kernel {
    if ea == 0 && eb == 0 {
        return elements::<i128>(op);
    }
    let (fa, fb) = (decimal::pow10(ea), decimal::pow10(eb));
    macro_rules! by {
        ($test:expr) => {
            plain2(move |a: i128, b: i128| $test(decimal::cmp(a, fa, b, fb)) as u8)
        };
    }
    match op {
        Cmp::Eq => by!(Ordering::is_eq),
        Cmp::Ne => by!(Ordering::is_ne),
        Cmp::Lt => by!(Ordering::is_lt),
        Cmp::Le => by!(Ordering::is_le),
        Cmp::Gt => by!(Ordering::is_gt),
        Cmp::Ge => by!(Ordering::is_ge),
    }
}

/// An enum's code against one code known beforehand.
pub fn code_is(code: u32, want: bool) -> Kernel {
    if want {
        plain1(move |c: u32| (c == code) as u8)
    } else {
        plain1(move |c: u32| (c != code) as u8)
    }
}

pub fn texts(op: Cmp) -> Kernel {
    fn with(test: impl Fn(&[u8], &[u8]) -> bool + Send + Sync + 'static) -> Kernel {
        kernel(move |args, rows| {
            let (a, b) = (args[0].text(), args[1].text());
            let data = match b {
                Text::One(b) => a.map(rows, |_, a| test(a, b) as u8),
                b => a.map(rows, |row, a| test(a, b.at(row)) as u8),
            };
            Out::New(Data::Bool(data), merge_states(args, rows))
        })
    }
    match op {
        Cmp::Eq => with(|a, b| a == b),
        Cmp::Ne => with(|a, b| a != b),
        Cmp::Lt => with(|a, b| a < b),
        Cmp::Le => with(|a, b| a <= b),
        Cmp::Gt => with(|a, b| a > b),
        Cmp::Ge => with(|a, b| a >= b),
    }
}

/// Membership in a set known beforehand; `null_listed`: no match is null.
pub fn is_in<T: Element + Eq + Hash>(set: Vec<T>, null_listed: bool) -> Kernel {
    match set.as_slice() {
        // A short list is a few comparisons without a branch.
        short if short.len() <= 8 => {
            let short = short.to_vec();
            membership(move |x: T| short.iter().fold(false, |hit, y| hit | (x == *y)), null_listed)
        }
        long => {
            let long: HashSet<T> = long.iter().copied().collect();
            membership(move |x: T| long.contains(&x), null_listed)
        }
    }
}

pub fn is_in_floats(set: Vec<f64>, null_listed: bool) -> Kernel {
    membership(move |x: f64| set.iter().fold(false, |hit, y| hit | (x == *y)), null_listed)
}

fn membership<T: Element>(test: impl Fn(T) -> bool + Send + Sync + 'static, null_listed: bool) -> Kernel {
    kernel(move |args, rows| {
        let found = map1(args[0].view::<T>(), rows, |x| test(x) as u8);
        missing(found, merge_states(&args[..1], rows), null_listed)
    })
}

pub fn is_in_texts(set: HashSet<Vec<u8>>, null_listed: bool) -> Kernel {
    kernel(move |args, rows| {
        let found = args[0].text().map(rows, |_, text| set.contains(text) as u8);
        missing(found, merge_states(&args[..1], rows), null_listed)
    })
}

fn missing(found: Vec<u8>, state: Option<Vec<u8>>, null_listed: bool) -> Out {
    if !null_listed {
        return Out::New(Data::Bool(found), state);
    }
    let mut state = state.unwrap_or_else(|| vec![VALID; found.len()]);
    state.iter_mut().zip(&found).for_each(|(s, &hit)| {
        if *s == VALID && hit == 0 {
            *s = NULL;
        }
    });
    Out::New(Data::Bool(found), Some(state))
}

/// The least (or greatest) of the arguments that are not null, all of one physical type. An error stays an error.
pub fn extreme<T: Element + PartialOrd>(greatest: bool) -> Kernel {
    kernel(move |args, rows| {
        let better = |a: T, b: T| if greatest { b > a } else { b < a };
        let mut best: Vec<T> = map1(args[0].view(), rows, |x| x);
        if args.iter().all(|a| matches!(a.states(), View::One(VALID))) {
            for arg in &args[1..] {
                best = map2(View::Rows(&best), arg.view(), rows, |a: T, b: T| if better(a, b) { b } else { a });
            }
            return Out::New(T::wrap(best), None);
        }
        let mut state: Vec<u8> = map1(args[0].states(), rows, |s| s);
        for arg in &args[1..] {
            let (values, states) = (arg.view::<T>(), arg.states());
            for (row, (best, state)) in best.iter_mut().zip(&mut state).enumerate() {
                match (*state, states.at(row)) {
                    (held, _) if held >= ERROR_MIN => {}
                    (_, error) if error >= ERROR_MIN => *state = error,
                    (_, NULL) => {}
                    (held, _) => {
                        let value = values.at(row);
                        if held == NULL || better(*best, value) {
                            (*best, *state) = (value, VALID);
                        }
                    }
                }
            }
        }
        Out::New(T::wrap(best), tidy(state))
    })
}

pub fn extreme_text(greatest: bool) -> Kernel {
    kernel(move |args, rows| {
        let texts: Vec<Text> = args.iter().map(|a| a.text()).collect();
        let states: Vec<View<u8>> = args.iter().map(|a| a.states()).collect();
        write_text(rows, None, |row, out| {
            if let Some(error) = states.iter().map(|s| s.at(row)).find(|&s| s >= ERROR_MIN) {
                return error;
            }
            let all = texts.iter().zip(&states).filter(|(_, s)| s.at(row) == VALID).map(|(t, _)| t.at(row));
            let best = if greatest { all.max() } else { all.min() };
            out.extend_from_slice(best.unwrap_or_default());
            if best.is_some() {
                VALID
            } else {
                NULL
            }
        })
    })
}
