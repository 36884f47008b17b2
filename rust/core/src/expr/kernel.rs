//! What every kernel is made of: operands that are a column or a scalar, and loops over them.
//!
//! A kernel is chosen at compile time and sees whole physical columns. Values and states are computed apart: first the
//! states are merged (a byte loop), then the values, without looking at the states. A kernel that can fail computes
//! first, remembers whether *any* row failed, and only then goes back to mark the rows: the usual batch pays nothing.

use std::sync::Arc;

use crate::column::{Bytes, Column, Data, ERROR_MIN, ERR_RANGE, NULL, VALID};
use crate::types::DataType;

/// A column with one value per physical row, or one value for all of them (then the column has one row).
#[derive(Clone, Debug)]
pub struct Operand {
    pub column: Arc<Column>,
    pub scalar: bool,
}

pub type State = Option<Vec<u8>>;

/// What a kernel makes: new values, or one of its arguments as it is.
pub enum Out {
    New(Data, State),
    Arg(usize),
}

pub type Kernel = Arc<dyn Fn(&[Operand], usize) -> Out + Send + Sync>;

pub fn kernel(f: impl Fn(&[Operand], usize) -> Out + Send + Sync + 'static) -> Kernel {
    Arc::new(f)
}

#[derive(Clone, Copy)]
pub enum View<'a, T> {
    Rows(&'a [T]),
    One(T),
}

impl<T: Copy> View<'_, T> {
    #[inline]
    pub fn at(&self, row: usize) -> T {
        match self {
            View::Rows(v) => v[row],
            View::One(x) => *x,
        }
    }
}

#[derive(Clone, Copy)]
pub enum Text<'a> {
    Rows(&'a Bytes),
    Codes(&'a [u32], &'a [String]),
    One(&'a [u8]),
}

impl<'a> Text<'a> {
    #[inline]
    pub fn at(&self, row: usize) -> &'a [u8] {
        match *self {
            Text::Rows(b) => b.get(row),
            Text::Codes(codes, values) => values.get(codes[row] as usize).map_or(b"", |s| s.as_bytes()),
            Text::One(b) => b,
        }
    }
}

impl Text<'_> {
    /// All rows in order; faster than asking for each.
    #[inline]
    pub fn map<T>(&self, rows: usize, mut f: impl FnMut(usize, &[u8]) -> T) -> Vec<T> {
        match *self {
            Text::Rows(b) => {
                let mut start = 0;
                let ends = b.ends[..rows].iter().enumerate();
                ends.map(|(row, &end)| {
                    let value = &b.bytes[start..end as usize];
                    start = end as usize;
                    f(row, value)
                })
                .collect()
            }
            text => (0..rows).map(|row| f(row, text.at(row))).collect(),
        }
    }
}

/// A physical element type and its place in [`Data`].
pub trait Element: Copy + Default + Send + Sync + 'static {
    fn slice(data: &Data) -> &[Self];
    fn wrap(values: Vec<Self>) -> Data;
}

macro_rules! element {
    ($type:ty, $variant:ident) => {
        impl Element for $type {
            fn slice(data: &Data) -> &[Self] {
                match data {
                    Data::$variant(v) => v,
                    _ => unreachable!("the compiler chose the kernel by type"),
                }
            }
            fn wrap(values: Vec<Self>) -> Data {
                Data::$variant(values)
            }
        }
    };
}
element!(u8, Bool);
element!(i64, I64);
element!(f64, F64);
element!(i128, I128);
element!(u32, Code);

impl Operand {
    pub fn view<T: Element>(&self) -> View<'_, T> {
        let slice = T::slice(&self.column.data);
        if self.scalar {
            View::One(slice[0])
        } else {
            View::Rows(slice)
        }
    }
    pub fn text(&self) -> Text<'_> {
        if self.scalar {
            return Text::One(self.column.text_at(0));
        }
        match (&self.column.data, &self.column.dtype) {
            (Data::Str(b), _) => Text::Rows(b),
            (Data::Code(c), DataType::Enum(values)) => Text::Codes(c, values),
            _ => unreachable!("the compiler chose the kernel by type"),
        }
    }
    pub fn states(&self) -> View<'_, u8> {
        match &self.column.state {
            None => View::One(VALID),
            Some(s) if self.scalar => View::One(s[0]),
            Some(s) => View::Rows(s),
        }
    }
    /// The same values as one per row.
    pub fn expand(&self, rows: usize) -> Arc<Column> {
        if self.scalar {
            Arc::new(self.column.take(&vec![0; rows]))
        } else {
            self.column.clone()
        }
    }
}

/// The first error among the arguments, else null if any is null.
pub fn merge_states(args: &[Operand], rows: usize) -> State {
    let mut merged: State = None;
    for arg in args {
        merged = match (merged, arg.states()) {
            (merged, View::One(VALID)) => merged,
            (None, View::One(s)) => Some(vec![s; rows]),
            (None, View::Rows(s)) => Some(s.to_vec()),
            (Some(mut m), states) => {
                let first = |a: u8, b: u8| if a >= ERROR_MIN { a } else { a.max(b) };
                match states {
                    View::One(s) => m.iter_mut().for_each(|a| *a = first(*a, s)),
                    View::Rows(s) => m.iter_mut().zip(s).for_each(|(a, &b)| *a = first(*a, b)),
                }
                Some(m)
            }
        };
    }
    merged
}

/// `None` where all rows are valid after all: whoever comes next takes its fast path.
pub fn tidy(state: Vec<u8>) -> State {
    if state.iter().fold(0, |a, &b| a | b) == 0 {
        None
    } else {
        Some(state)
    }
}

#[inline]
pub fn map1<A: Copy, T>(a: View<A>, rows: usize, mut f: impl FnMut(A) -> T) -> Vec<T> {
    match a {
        View::Rows(a) => a[..rows].iter().map(|&x| f(x)).collect(),
        View::One(x) => (0..rows).map(|_| f(x)).collect(),
    }
}

#[inline]
pub fn map2<A: Copy, B: Copy, T>(a: View<A>, b: View<B>, rows: usize, mut f: impl FnMut(A, B) -> T) -> Vec<T> {
    match (a, b) {
        (View::Rows(a), View::Rows(b)) => a[..rows].iter().zip(&b[..rows]).map(|(&x, &y)| f(x, y)).collect(),
        (View::Rows(a), View::One(y)) => a[..rows].iter().map(|&x| f(x, y)).collect(),
        (View::One(x), View::Rows(b)) => b[..rows].iter().map(|&y| f(x, y)).collect(),
        (View::One(x), View::One(y)) => (0..rows).map(|_| f(x, y)).collect(),
    }
}

/// Marks the valid rows for which `of` says something else than valid.
#[cold]
fn mark(state: State, rows: usize, of: impl Fn(usize) -> u8) -> State {
    let mut state = state.unwrap_or_else(|| vec![VALID; rows]);
    for (row, s) in state.iter_mut().enumerate() {
        if *s == VALID {
            *s = of(row);
        }
    }
    tidy(state)
}

/// One argument, cannot fail.
pub fn plain1<A: Element, T: Element>(f: impl Fn(A) -> T + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| Out::New(T::wrap(map1(args[0].view(), rows, &f)), merge_states(args, rows)))
}

/// Two arguments, cannot fail.
pub fn plain2<A: Element, B: Element, T: Element>(f: impl Fn(A, B) -> T + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        Out::New(T::wrap(map2(args[0].view(), args[1].view(), rows, &f)), merge_states(args, rows))
    })
}

/// One argument; `f` gives a value and its state.
pub fn checked1<A: Element, T: Element>(f: impl Fn(A) -> (T, u8) + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let a = args[0].view::<A>();
        let mut bad = VALID;
        let values = map1(a, rows, |x| {
            let (value, state) = f(x);
            bad |= state;
            value
        });
        let mut state = merge_states(args, rows);
        if bad != VALID {
            state = mark(state, rows, |row| f(a.at(row)).1);
        }
        Out::New(T::wrap(values), state)
    })
}

/// Two arguments; `f` gives a value and its state.
pub fn checked2<A: Element, B: Element, T: Element>(f: impl Fn(A, B) -> (T, u8) + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let (a, b) = (args[0].view::<A>(), args[1].view::<B>());
        let mut bad = VALID;
        let values = map2(a, b, rows, |x, y| {
            let (value, state) = f(x, y);
            bad |= state;
            value
        });
        let mut state = merge_states(args, rows);
        if bad != VALID {
            state = mark(state, rows, |row| f(a.at(row), b.at(row)).1);
        }
        Out::New(T::wrap(values), state)
    })
}

/// A text argument to an element; `f` gives a value and its state.
pub fn text_to<T: Element>(f: impl Fn(&str) -> (T, u8) + Send + Sync + 'static) -> Kernel {
    kernel(move |args, rows| {
        let merged = merge_states(args, rows);
        let mut bad: State = None;
        let values = args[0].text().map(rows, |row, text| {
            if merged.as_ref().is_some_and(|s| s[row] != VALID) {
                return T::default();
            }
            let (value, state) = f(utf8(text));
            if state != VALID {
                bad.get_or_insert_with(|| vec![VALID; rows])[row] = state;
            }
            value
        });
        let state = match (merged, bad) {
            (Some(m), Some(b)) => Some(m.iter().zip(b).map(|(&m, b)| m.max(b)).collect()),
            (m, b) => m.or(b),
        };
        Out::New(T::wrap(values), state)
    })
}

/// Text is valid UTF-8 by contract; should it ever not be, it is empty rather than undefined behaviour.
#[inline]
pub fn utf8(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or("")
}

/// Writes one text per row; `write` appends bytes to the arena and returns the row's state. Rows already not valid are
/// skipped.
pub fn write_text(rows: usize, state: State, mut write: impl FnMut(usize, &mut Vec<u8>) -> u8) -> Out {
    let mut state = state;
    let mut out = Bytes::with_capacity(rows, rows * 8);
    for row in 0..rows {
        if state.as_ref().is_none_or(|s| s[row] == VALID) {
            let start = out.bytes.len();
            let mut s = write(row, &mut out.bytes);
            if out.bytes.len() > u32::MAX as usize {
                s = ERR_RANGE;
            }
            if s != VALID {
                out.bytes.truncate(start);
                state.get_or_insert_with(|| vec![VALID; rows])[row] = s;
            }
        }
        out.close();
    }
    Out::New(Data::Str(out), state)
}

/// A kernel over one enum column (argument `at`) and literals, computed once per member of the enum: per row it is a
/// look-up of the member's result.
pub fn by_member(
    kernel_: &Kernel,
    args: &[Operand],
    at: usize,
    values: &Arc<Vec<String>>,
    result: &DataType,
) -> Kernel {
    let mut dictionary = Bytes::default();
    values.iter().for_each(|v| dictionary.push(v.as_bytes()));
    let mut operands = args.to_vec();
    operands[at] = Operand { column: Arc::new(Column::new(DataType::Str, Data::Str(dictionary), None)), scalar: false };
    let table = finish(kernel_(&operands, values.len()), &operands, values.len(), result);
    kernel(move |args, rows| {
        let codes = args[0].view::<u32>();
        let mut state = merge_states(&args[..1], rows);
        if let Some(of_member) = &table.state {
            let found = map1(codes, rows, |c| of_member.get(c as usize).copied().unwrap_or(NULL));
            state = Some(match state {
                None => found,
                Some(s) => s.iter().zip(found).map(|(&a, b)| if a == VALID { b } else { a }).collect(),
            });
        }
        fn pick<T: Element>(table: &Data, codes: View<u32>, rows: usize) -> Data {
            let table = T::slice(table);
            T::wrap(map1(codes, rows, |c| table.get(c as usize).copied().unwrap_or_default()))
        }
        let data = match &table.data {
            Data::Bool(_) => pick::<u8>(&table.data, codes, rows),
            Data::I64(_) => pick::<i64>(&table.data, codes, rows),
            Data::F64(_) => pick::<f64>(&table.data, codes, rows),
            Data::I128(_) => pick::<i128>(&table.data, codes, rows),
            Data::Code(_) => pick::<u32>(&table.data, codes, rows),
            Data::Str(texts) => {
                let mut out = Bytes::with_capacity(rows, rows * 8);
                for row in 0..rows {
                    let code = codes.at(row) as usize;
                    out.push(if code < texts.len() { texts.get(code) } else { b"" });
                }
                Data::Str(out)
            }
        };
        Out::New(data, state)
    })
}

/// A kernel's result as a column of `rows` rows.
pub fn finish(out: Out, args: &[Operand], rows: usize, dtype: &DataType) -> Arc<Column> {
    match out {
        Out::New(data, state) => {
            debug_assert_eq!(data.len(), rows);
            Arc::new(Column::new(dtype.clone(), data, state))
        }
        Out::Arg(i) => {
            let column = args[i].expand(rows);
            if column.dtype == *dtype {
                return column;
            }
            Arc::new(Column { dtype: dtype.clone(), ..(*column).clone() })
        }
    }
}
