//! Logic and choice: the operators that decide whose state is read.
//!
//! They follow a program that evaluates left to right and stops as early as it can: what it would not have looked at
//! cannot hurt, an error it would have met first is the result. For `and` and `or` a row is one byte: 0 false, 1 true,
//! 2 null, above that an error.

use super::kernel::{kernel, map1, map2, plain1, tidy, write_text, Element, Kernel, Operand, Out, View};
use crate::column::{Data, ERROR_MIN, NULL, VALID};

#[inline]
fn code(value: u8, state: u8) -> u8 {
    if state == VALID {
        value & 1
    } else {
        state + 1
    }
}

/// A byte per row; a scalar becomes a stream of its own in `own`.
fn stream<'a>(view: View<'a, u8>, rows: usize, own: &'a mut Vec<u8>) -> &'a [u8] {
    match view {
        View::Rows(v) => &v[..rows],
        View::One(x) => {
            own.resize(rows, x);
            own
        }
    }
}

fn junction(
    both: impl Fn(u8, u8) -> u8 + Copy + Send + Sync + 'static,
    combine: impl Fn(u8, u8) -> u8 + Copy + Send + Sync + 'static,
) -> Kernel {
    kernel(move |args, rows| {
        let (a, b) = (args[0].view::<u8>(), args[1].view::<u8>());
        let (sa, sb) = (args[0].states(), args[1].states());
        if let (View::One(VALID), View::One(VALID)) = (sa, sb) {
            return Out::New(Data::Bool(map2(a, b, rows, both)), None);
        }
        // Four byte streams in, two out, no branch: the loop is vectorised.
        let (mut o1, mut o2, mut o3, mut o4) = (vec![], vec![], vec![], vec![]);
        let (a, b) = (stream(a, rows, &mut o1), stream(b, rows, &mut o2));
        let (sa, sb) = (stream(sa, rows, &mut o3), stream(sb, rows, &mut o4));
        let (mut data, mut state) = (vec![0u8; rows], vec![0u8; rows]);
        let (d, s) = (&mut data[..rows], &mut state[..rows]);
        for i in 0..rows {
            let c = combine(code(a[i], sa[i]), code(b[i], sb[i]));
            d[i] = c & 1;
            s[i] = if c < 2 { VALID } else { c - 1 };
        }
        Out::New(Data::Bool(data), tidy(state))
    })
}

pub fn and() -> Kernel {
    junction(
        |a, b| a & b & 1,
        |a, b| {
            let undecided = if b == 1 { 2 } else { b };
            let decided = if a == 1 { b } else { a };
            if a == 2 {
                undecided
            } else {
                decided
            }
        },
    )
}

pub fn or() -> Kernel {
    junction(
        |a, b| (a | b) & 1,
        |a, b| {
            let undecided = if b == 0 { 2 } else { b };
            let decided = if a == 0 { b } else { a };
            if a == 2 {
                undecided
            } else {
                decided
            }
        },
    )
}

pub fn not() -> Kernel {
    plain1(|a: u8| (a & 1) ^ 1)
}

/// Whether a value is null (`want` 1) or is there (`want` 0). An error stays an error.
pub fn is_null(want: u8) -> Kernel {
    kernel(move |args, rows| match args[0].states() {
        View::One(s) if s < ERROR_MIN => Out::New(Data::Bool(vec![(s == NULL) as u8 ^ want ^ 1; rows]), None),
        View::One(s) => Out::New(Data::Bool(vec![0; rows]), Some(vec![s; rows])),
        View::Rows(states) => {
            let data = states[..rows].iter().map(|&s| (s == NULL) as u8 ^ want ^ 1).collect();
            let state = states[..rows].iter().map(|&s| if s == NULL { VALID } else { s }).collect();
            Out::New(Data::Bool(data), tidy(state))
        }
    })
}

/// The first argument that is not null, all of one physical type.
pub fn coalesce<T: Element>() -> Kernel {
    kernel(|args, rows| {
        if let View::One(VALID) = args[0].states() {
            return Out::Arg(0);
        }
        let mut values: Vec<T> = map1(args[0].view(), rows, |x| x);
        let mut state: Vec<u8> = map1(args[0].states(), rows, |s| s);
        for arg in &args[1..] {
            let (other, other_state) = (arg.view::<T>(), arg.states());
            match other {
                View::Rows(other) => values.iter_mut().zip(&state).zip(other).for_each(|((v, &s), &x)| {
                    *v = if s == NULL { x } else { *v };
                }),
                View::One(x) => values.iter_mut().zip(&state).for_each(|(v, &s)| {
                    *v = if s == NULL { x } else { *v };
                }),
            }
            match other_state {
                View::Rows(other) => state.iter_mut().zip(other).for_each(|(s, &x)| {
                    *s = if *s == NULL { x } else { *s };
                }),
                View::One(x) => state.iter_mut().for_each(|s| *s = if *s == NULL { x } else { *s }),
            }
        }
        Out::New(T::wrap(values), tidy(state))
    })
}

pub fn coalesce_text() -> Kernel {
    kernel(|args, rows| {
        if let View::One(VALID) = args[0].states() {
            return Out::Arg(0);
        }
        let states: Vec<View<u8>> = args.iter().map(|a| a.states()).collect();
        let texts: Vec<_> = args.iter().map(|a| a.text()).collect();
        write_text(rows, None, |row, out| {
            for (text, state) in texts.iter().zip(&states) {
                match state.at(row) {
                    VALID => {
                        out.extend_from_slice(text.at(row));
                        return VALID;
                    }
                    NULL => {}
                    error => return error,
                }
            }
            NULL
        })
    })
}

/// `c1, v1, c2, v2, …, otherwise`. From the last condition to the first, so that the first that decides wins.
pub fn when<T: Element>() -> Kernel {
    kernel(|args, rows| {
        let last = args.len() - 1;
        let mut values: Vec<T> = map1(args[last].view(), rows, |x| x);
        let mut state: Option<Vec<u8>> = match args[last].states() {
            View::One(VALID) => None,
            states => Some(map1(states, rows, |s| s)),
        };
        for pair in args[..last].chunks_exact(2).rev() {
            let (condition, cs) = (pair[0].view::<u8>(), pair[0].states());
            let (value, vs) = (pair[1].view::<T>(), pair[1].states());
            let taken: Vec<u8> = match cs {
                View::One(VALID) => map1(condition, rows, |c| c & 1),
                cs => map2(condition, cs, rows, |c, s| c & (s == VALID) as u8),
            };
            match value {
                View::Rows(value) => values.iter_mut().zip(&taken).zip(value).for_each(|((v, &t), &x)| {
                    *v = if t != 0 { x } else { *v };
                }),
                View::One(x) => values.iter_mut().zip(&taken).for_each(|(v, &t)| {
                    *v = if t != 0 { x } else { *v };
                }),
            }
            if state.is_some() || !matches!((cs, vs), (View::One(VALID), View::One(VALID))) {
                let state = state.get_or_insert_with(|| vec![VALID; rows]);
                let (mut o1, mut o2) = (vec![], vec![]);
                let (cs, vs) = (stream(cs, rows, &mut o1), stream(vs, rows, &mut o2));
                for (((s, &t), &c), &v) in state.iter_mut().zip(&taken).zip(cs).zip(vs) {
                    let chosen = if t != 0 { v } else { *s };
                    *s = if c >= ERROR_MIN { c } else { chosen };
                }
            }
        }
        Out::New(T::wrap(values), state.and_then(tidy))
    })
}

/// Which argument decides a row of a `when`: a condition that is an error, the value of the first true one, or the last.
pub fn deciding(args: &[Operand], row: usize) -> usize {
    for at in (0..args.len() - 1).step_by(2) {
        match args[at].states().at(row) {
            VALID if args[at].view::<u8>().at(row) & 1 == 1 => return at + 1,
            VALID | NULL => {}
            _ => return at,
        }
    }
    args.len() - 1
}

pub fn when_text() -> Kernel {
    kernel(|args, rows| {
        let texts: Vec<_> =
            args.iter().enumerate().map(|(i, a)| (i % 2 == 1 || i + 1 == args.len()).then(|| a.text())).collect();
        write_text(rows, None, |row, out| {
            let at = deciding(args, row);
            let state = args[at].states().at(row);
            if let (VALID, Some(text)) = (state, &texts[at]) {
                out.extend_from_slice(text.at(row));
            }
            state
        })
    })
}
