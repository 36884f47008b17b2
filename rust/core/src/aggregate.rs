//! Accumulators: what a group remembers, as fixed bytes, with four verbs.
//!
//! - *add* a value, *merge* another accumulator, *retract* a value added earlier (where that is possible), *result*.
//! - Laws (tested at the foot): merging in any order and grouping gives equal bytes; merge of parts = one pass over all;
//!   retract after add is the identity. Float sums obey them only in one order, so they are never combined before a
//!   shuffle and fold in processing order.
//!
//! The accumulators of one group lie one behind the other in a row of fixed size ([`Layout`]); text and host-language
//! values lie in a side arena ([`Vars`]) and the row holds a handle. What an earlier generation put there is immutable: a
//! change takes a new handle, so that undoing a row is copying its bytes back.
//!
//! Aggregates that have to know single values (of the largest, the different ones, a quantile) keep a sorted multiset
//! ([`bag`]): it takes values back, and merges to equal bytes in any order.

use std::sync::Arc;

use crate::bag::{self, Entry};
use crate::batch::Batch;
use crate::codec::json_encode::write_value;
use crate::column::{Column, ColumnBuilder, Data, Value, ERR_OVERFLOW, VALID};
use crate::error::PlanError;
use crate::expr::Foreign;
use crate::hll;
use crate::key;
use crate::types::{DataType, DECIMAL_PRECISION_MAX};
use crate::wide::{self, Wide};
use crate::wire::{Reader, Writer};

/// Where a row stands among all rows: the order behind first and last. Ties of time are broken by lane and position, so
/// that the answer does not depend on how lanes interleave.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub ts: i64,
    pub lane: u32,
    pub position: u64,
}

const PLACE_BYTES: usize = 20;
const SPAN_BYTES: usize = 16;
/// Where in a variance its sum ends, and its squares do; before them, the count.
const VARIANCE_SUM: usize = 8 + 24;
const VARIANCE_BYTES: usize = VARIANCE_SUM + 40;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    Count,
    /// Ints, decimals, durations: exact in 128 bits.
    SumExact,
    SumFloat,
    MeanExact,
    MeanFloat,
    Min,
    Max,
    First,
    Last,
    /// Exact, of ints and decimals: count, sum, sum of squares (`wide.rs`).
    Variance {
        root: bool,
        ddof: i64,
    },
    /// Of floats, in processing order (Welford): count, mean, sum of squared distances.
    VarianceFloat {
        root: bool,
        ddof: i64,
    },
    Bag(Bag),
    /// How many different values, about.
    Sketch,
    /// Folded by the host language; state is its bytes.
    Python(usize),
}

/// What is kept in a bag, and asked of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bag {
    pub what: What,
    /// What comes first: by which place in time among equals; `None`: equals are told apart by their values alone, as over
    /// tables, whose old values come back at another place.
    place: Option<Towards>,
    /// Without columns to order by, the value itself does.
    by_value: Option<Towards>,
    /// So many entries are kept.
    most: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Towards {
    Smallest,
    Largest,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum What {
    /// How many different values there are.
    Distinct,
    /// Which ones, ascending.
    Set,
    /// All of them.
    List,
    /// The first few.
    Top(usize),
    /// The first.
    Pick,
    /// The one in the middle, or the mean of the two.
    Median,
    /// The smallest value that so many (a share) do not exceed.
    Quantile(f64),
    /// The same within a relative error: values are put into buckets `(γ^(i-1), γ^i]` (DDSketch, Masson and others 2019).
    QuantileSketch { q: f64, gamma: f64 },
}

impl Bag {
    fn of_values(what: What) -> Bag {
        Bag { what, place: None, by_value: Some(Towards::Smallest), most: usize::MAX }
    }
    /// The aggregates that take the first entry or the first few, in the order of columns or of the value.
    fn ordered(what: What, place: Towards, by_value: Option<Towards>, table: bool) -> Bag {
        let most = match what {
            What::Pick if !table => 1,
            What::Top(k) if !table => k,
            _ => usize::MAX,
        };
        Bag { what, place: (!table).then_some(place), by_value, most }
    }
}

/// How a value is held in a row.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Slot {
    I64,
    F64,
    I128,
    Bool,
    Var,
}

impl Slot {
    fn of(dtype: &DataType) -> Slot {
        match dtype {
            DataType::Bool => Slot::Bool,
            DataType::Int | DataType::Timestamp | DataType::Duration => Slot::I64,
            DataType::Float => Slot::F64,
            DataType::Decimal { .. } => Slot::I128,
            DataType::Str | DataType::Json | DataType::Enum(_) => Slot::Var,
        }
    }
    fn bytes(self) -> usize {
        match self {
            Slot::I64 | Slot::F64 => 8,
            Slot::I128 => 16,
            Slot::Bool => 1,
            Slot::Var => 4,
        }
    }
}

/// One accumulator and where it lies in the row.
#[derive(Clone, Debug)]
pub struct Accumulator {
    pub kind: Kind,
    /// Of the argument (`Int` for a bare count).
    input: DataType,
    pub output: DataType,
    offset: usize,
    slot: Slot,
    /// Of a bag: for each column that it is ordered by, whether downwards.
    descending: Vec<bool>,
}

/// The side arena.
#[derive(Default, Debug)]
pub struct Vars {
    values: Vec<Option<Box<[u8]>>>,
    /// In which generation each was made.
    born: Vec<u32>,
    free: Vec<u32>,
    pub bytes: usize,
    generation: u32,
}

impl Vars {
    pub fn get(&self, handle: u32) -> &[u8] {
        if handle == 0 {
            return b"";
        }
        self.values[handle as usize - 1].as_deref().unwrap_or(b"")
    }
    pub fn put(&mut self, value: &[u8]) -> u32 {
        self.bytes += value.len();
        let boxed = Some(Box::from(value));
        match self.free.pop() {
            Some(handle) => {
                self.values[handle as usize - 1] = boxed;
                self.born[handle as usize - 1] = self.generation;
                handle
            }
            None => {
                self.values.push(boxed);
                self.born.push(self.generation);
                self.values.len() as u32
            }
        }
    }
    /// Whether nobody but the current generation knows it.
    fn is_new(&self, handle: u32) -> bool {
        handle != 0 && self.born[handle as usize - 1] == self.generation
    }
    fn overwrite(&mut self, handle: u32, value: &[u8]) {
        let old = self.values[handle as usize - 1].replace(Box::from(value));
        self.bytes = self.bytes + value.len() - old.map_or(0, |old| old.len());
    }
    /// A generation has ended, or all that are open were undone: what there is now must not change any more.
    pub fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
    pub fn release(&mut self, handle: u32) {
        if handle != 0 {
            if let Some(old) = self.values[handle as usize - 1].take() {
                self.bytes -= old.len();
                self.free.push(handle);
            }
        }
    }
}

/// The arena and the handles that the current generation took and gave up.
pub struct VarScope<'a> {
    pub vars: &'a mut Vars,
    pub taken: &'a mut Vec<u32>,
    pub given_up: &'a mut Vec<u32>,
}

impl VarScope<'_> {
    fn replace(&mut self, old: u32, value: &[u8]) -> u32 {
        if self.vars.is_new(old) {
            self.vars.overwrite(old, value);
            return old;
        }
        let new = self.vars.put(value);
        self.taken.push(new);
        if old != 0 {
            self.given_up.push(old);
        }
        new
    }
}

/// What adding one value needs to know of its row.
pub struct Input<'a> {
    pub batch: &'a Batch,
    pub row: usize,
    pub place: Place,
    pub foreign: &'a dyn Foreign,
}

#[derive(Clone, Debug, Default)]
pub struct Layout {
    pub accumulators: Vec<Accumulator>,
    pub size: usize,
    has_vars: bool,
    /// Where a row says from when to when its group lived, where groups are forgotten (`state/lives.rs`).
    span: Option<usize>,
}

/// One line of an `aggregate` node, types known.
#[derive(Default)]
pub struct Spec {
    pub function: String,
    pub input: Option<DataType>,
    /// For `python`.
    pub callable: Option<usize>,
    pub output: Option<DataType>,
    /// For each column that it is ordered by, whether downwards.
    pub descending: Vec<bool>,
    /// `k` of `top_k`, `q` of `quantile`, `ddof` of `var` and `std`.
    pub parameter: Option<f64>,
    /// Of `quantile`: the relative error that is borne.
    pub error: Option<f64>,
    /// Over a table: values are taken back.
    pub table: bool,
}

macro_rules! cell {
    ($read:ident, $write:ident, $t:ty) => {
        #[inline]
        fn $read(row: &[u8], at: usize) -> $t {
            let mut b = [0u8; std::mem::size_of::<$t>()];
            b.copy_from_slice(&row[at..at + std::mem::size_of::<$t>()]);
            <$t>::from_le_bytes(b)
        }
        #[inline]
        fn $write(row: &mut [u8], at: usize, v: $t) {
            row[at..at + std::mem::size_of::<$t>()].copy_from_slice(&v.to_le_bytes());
        }
    };
}
cell!(get_i64, set_i64, i64);
cell!(get_u64, set_u64, u64);
cell!(get_u32, set_u32, u32);
cell!(get_i128, set_i128, i128);
cell!(get_f64, set_f64, f64);

/// `sum / count` with `scale` more digits than needed cut off, rounded half to even.
fn divide_half_even(sum: i128, count: i128, shift: u8) -> Option<i128> {
    let scaled = sum.checked_mul(10i128.checked_pow(shift as u32)?)?;
    let (q, r) = (scaled / count, scaled % count);
    let twice = r.unsigned_abs().checked_mul(2)?;
    let up = match twice.cmp(&count.unsigned_abs()) {
        std::cmp::Ordering::Less => false,
        std::cmp::Ordering::Equal => q % 2 != 0,
        std::cmp::Ordering::Greater => true,
    };
    Some(if up { q + scaled.signum() } else { q })
}

/// `(count · squares − sum²) / (count · (count − ddof))` in units of `10^-scale`, rounded once. None: there are too few values.
fn variance(count: i64, sum: &[u8], squares: &[u8], ddof: i64, scale: u8) -> Option<f64> {
    if count <= ddof || count <= 0 {
        return None;
    }
    let (n, sum) = (Wide::of(count as u128), Wide::of_cell(sum));
    let apart = n.times(Wide::of_cell(squares)).minus(sum.times(sum));
    let unit = Wide::of(10u128.pow(scale as u32));
    Some(apart.quotient(Wide::of(count as u128 * (count - ddof) as u128).times(unit).times(unit)))
}

/// The bucket of a number, as a key: buckets of larger numbers come later.
fn bucket(x: f64, gamma: f64) -> [u8; 9] {
    let index = (x.abs().ln() / gamma.ln()).ceil() as i64;
    let key = match x {
        x if x > 0.0 => (1 << 32) + index,
        x if x < 0.0 => -(1 << 32) - index,
        _ => 0,
    };
    let mut out = [1; 9];
    out[1..].copy_from_slice(&((key as u64) ^ (1 << 63)).to_be_bytes());
    out
}

/// The number that stands for a bucket.
fn bucket_value(key: &[u8], gamma: f64) -> Option<f64> {
    let key = (u64::from_be_bytes(key.get(1..9)?.try_into().ok()?) ^ (1 << 63)) as i64;
    let size = |index: i64| 2.0 * gamma.powf(index as f64) / (gamma + 1.0);
    Some(match key {
        0 => 0.0,
        k if k > 0 => size(k - (1 << 32)),
        k => -size(-k - (1 << 32)),
    })
}

/// A number as the sketch sees it.
fn number(column: &Column, row: usize) -> f64 {
    match (&column.data, &column.dtype) {
        (Data::I64(v), _) => v[row] as f64,
        (Data::F64(v), _) => v[row],
        (Data::I128(v), DataType::Decimal { scale, .. }) => v[row] as f64 / 10f64.powi(*scale as i32),
        _ => 0.0,
    }
}

impl Layout {
    pub fn new(specs: &[Spec]) -> Result<Layout, PlanError> {
        let mut layout = Layout::default();
        for spec in specs {
            let input = spec.input.clone().unwrap_or(DataType::Int);
            let exact = matches!(input, DataType::Int | DataType::Decimal { .. } | DataType::Duration);
            let mismatch = || {
                PlanError::new("type_mismatch", format!("`{}` cannot take a column of type `{input}`", spec.function))
                    .hint("use a number, or cast first")
            };
            let mean_type = || match input {
                DataType::Int | DataType::Float => Ok(DataType::Float),
                DataType::Duration => Ok(DataType::Duration),
                DataType::Decimal { scale, .. } => Ok(DataType::decimal(scale.max(6))),
                _ => Err(mismatch()),
            };
            let sum_type = || match &input {
                DataType::Decimal { scale, .. } => {
                    DataType::Decimal { precision: DECIMAL_PRECISION_MAX, scale: *scale }
                }
                other => other.clone(),
            };
            let bad = |text: &str| PlanError::new("bad_plan", format!("`{}`: {text}", spec.function));
            let bag = |bag: Bag, output: DataType| (Kind::Bag(bag), output, Slot::Var, 4);
            let parameter = || spec.parameter.ok_or_else(|| bad("it has no parameter"));
            let (table, by) = (spec.table, !spec.descending.is_empty());
            let mut descending = spec.descending.clone();
            let (smallest, largest) = (Towards::Smallest, Towards::Largest);
            if matches!(spec.function.as_str(), "last" | "arg_max" | "top_k") {
                descending.iter_mut().for_each(|d| *d = !*d);
            }
            let numeric = exact || input == DataType::Float;
            let (kind, output, slot, size) = match spec.function.as_str() {
                "var" | "std" => {
                    let (root, ddof) = (spec.function == "std", parameter()? as i64);
                    match input {
                        DataType::Int | DataType::Decimal { .. } => {
                            (Kind::Variance { root, ddof }, DataType::Float, Slot::I128, VARIANCE_BYTES)
                        }
                        DataType::Float => (Kind::VarianceFloat { root, ddof }, DataType::Float, Slot::F64, 24),
                        _ => return Err(mismatch()),
                    }
                }
                "count_distinct" => bag(Bag::of_values(What::Distinct), DataType::Int),
                "approx_count_distinct" => (Kind::Sketch, DataType::Int, Slot::Var, 4),
                "collect_set" => bag(Bag::of_values(What::Set), DataType::Json),
                "collect_list" => {
                    let by_value = (table && !by).then_some(smallest);
                    bag(Bag::ordered(What::List, smallest, by_value, table), DataType::Json)
                }
                "top_k" => {
                    let top = What::Top(parameter()? as usize);
                    bag(Bag::ordered(top, smallest, (!by).then_some(largest), table), DataType::Json)
                }
                "median" => bag(Bag::of_values(What::Median), mean_type()?),
                "quantile" => match spec.error {
                    Some(_) if !numeric => return Err(mismatch()),
                    Some(error) => {
                        let (q, gamma) = (parameter()?, (1.0 + error) / (1.0 - error));
                        bag(Bag::of_values(What::QuantileSketch { q, gamma }), DataType::Float)
                    }
                    None => bag(Bag::of_values(What::Quantile(parameter()?)), input.widened()),
                },
                "arg_min" | "arg_max" | "first" if by => {
                    bag(Bag::ordered(What::Pick, smallest, None, table), input.widened())
                }
                "last" if by => bag(Bag::ordered(What::Pick, largest, None, table), input.widened()),
                "min" | "max" if table => {
                    let towards = if spec.function == "min" { smallest } else { largest };
                    bag(Bag::ordered(What::Pick, smallest, Some(towards), table), input.widened())
                }
                "count" => (Kind::Count, DataType::Int, Slot::I64, 8),
                "sum" if exact => (Kind::SumExact, sum_type(), Slot::I128, 16),
                "sum" if input == DataType::Float => (Kind::SumFloat, DataType::Float, Slot::F64, 8),
                "mean" if exact => (Kind::MeanExact, mean_type()?, Slot::I128, 24),
                "mean" if input == DataType::Float => (Kind::MeanFloat, DataType::Float, Slot::F64, 16),
                "sum" | "mean" => return Err(mismatch()),
                "min" | "max" => {
                    let slot = Slot::of(&input);
                    let kind = if spec.function == "min" { Kind::Min } else { Kind::Max };
                    (kind, input.widened(), slot, 1 + slot.bytes())
                }
                "first" | "last" => {
                    let slot = Slot::of(&input);
                    let kind = if spec.function == "first" { Kind::First } else { Kind::Last };
                    (kind, input.widened(), slot, 1 + PLACE_BYTES + slot.bytes())
                }
                "python" => {
                    let missing = || PlanError::new("bad_plan", "a `python` aggregate needs `function` and `type`");
                    let callable = spec.callable.ok_or_else(missing)?;
                    (Kind::Python(callable), spec.output.clone().ok_or_else(missing)?, Slot::Var, 4)
                }
                other => {
                    return Err(PlanError::new("unknown_aggregate", format!("there is no aggregate `{other}`"))
                        .hint("count, sum, min, max, mean, first, last and their neighbours, or a user-defined one"))
                }
            };
            layout.has_vars |= slot == Slot::Var;
            layout.accumulators.push(Accumulator { kind, input, output, offset: layout.size, slot, descending });
            layout.size += size;
        }
        Ok(layout)
    }

    /// With room for the span of a life.
    pub fn with_span(mut self) -> Layout {
        self.span = Some(self.size);
        self.size += SPAN_BYTES;
        self
    }

    /// When the first and the last row of the group came; None: it is empty.
    #[inline]
    pub fn span(&self, row: &[u8]) -> Option<(i64, i64)> {
        let at = self.span?;
        let after = get_i64(row, at + 8);
        (after != 0).then(|| (get_i64(row, at), after - 1))
    }

    #[inline]
    pub fn set_span(&self, row: &mut [u8], (first, last): (i64, i64)) {
        if let Some(at) = self.span {
            set_i64(row, at, first);
            set_i64(row, at + 8, last.saturating_add(1));
        }
    }

    /// Whether partial results may be formed upstream of a shuffle: exact in any order.
    pub fn combines(&self) -> bool {
        let in_order = |kind: &Kind| {
            matches!(kind, Kind::SumFloat | Kind::MeanFloat | Kind::VarianceFloat { .. } | Kind::Python(_))
        };
        self.accumulators.iter().all(|a| !in_order(&a.kind))
    }

    /// The first accumulator that cannot take values back.
    pub fn not_retractable(&self) -> Option<usize> {
        let takes_back = |kind: &Kind| match kind {
            Kind::Count | Kind::SumExact | Kind::MeanExact | Kind::Variance { .. } => true,
            Kind::Bag(bag) => bag.place.is_none(),
            _ => false,
        };
        self.accumulators.iter().position(|a| !takes_back(&a.kind))
    }

    /// Adds row `input.row`'s value (`arg`; None for a bare count) to accumulator `index` of `row`; `sign` is −1 to take
    /// it back. The value must not be an error. Returns an error text only from host-language folds.
    #[inline]
    pub fn add(
        &self,
        index: usize,
        row: &mut [u8],
        (arg, by): (Option<&Column>, &[Arc<Column>]),
        sign: i64,
        input: &Input<'_>,
        vars: &mut VarScope<'_>,
    ) -> Result<(), String> {
        let acc = &self.accumulators[index];
        let at = acc.offset;
        let i = input.row;
        let Some(column) = arg else {
            match acc.kind {
                Kind::Python(function) => {
                    let handle = get_u32(row, at);
                    let state = (handle != 0).then(|| vars.vars.get(handle));
                    let next = input.foreign.fold(function, state, input.batch, i)?;
                    set_u32(row, at, vars.replace(handle, &next));
                }
                _ => set_i64(row, at, get_i64(row, at) + sign),
            }
            return Ok(());
        };
        if column.state_at(i) != VALID {
            return Ok(());
        }
        match acc.kind {
            Kind::Count => set_i64(row, at, get_i64(row, at) + sign),
            Kind::SumExact | Kind::MeanExact => {
                let value = match &column.data {
                    Data::I64(v) => v[i] as i128,
                    Data::I128(v) => v[i],
                    _ => 0,
                };
                // A sum of 2^127 units is beyond any money; saturating marks it for `result`.
                set_i128(row, at, get_i128(row, at).saturating_add(value.saturating_mul(sign as i128)));
                if acc.kind == Kind::MeanExact {
                    set_i64(row, at + 16, get_i64(row, at + 16) + sign);
                }
            }
            Kind::SumFloat | Kind::MeanFloat => {
                let Data::F64(v) = &column.data else { return Ok(()) };
                set_f64(row, at, get_f64(row, at) + v[i]);
                if acc.kind == Kind::MeanFloat {
                    set_i64(row, at + 8, get_i64(row, at + 8) + 1);
                }
            }
            Kind::Min | Kind::Max => {
                let better = row[at] == 0
                    || match self.compare_value(acc, &row[at + 1..], column, i, vars.vars) {
                        std::cmp::Ordering::Less => acc.kind == Kind::Min,
                        std::cmp::Ordering::Greater => acc.kind == Kind::Max,
                        std::cmp::Ordering::Equal => false,
                    };
                if better {
                    row[at] = 1;
                    self.set_value(acc, &mut row[at + 1..], column, i, vars);
                }
            }
            Kind::First | Kind::Last => {
                let held = (row[at] != 0).then(|| read_place(row, at + 1));
                let better = match held {
                    None => true,
                    Some(held) if acc.kind == Kind::First => input.place < held,
                    Some(held) => input.place > held,
                };
                if better {
                    row[at] = 1;
                    write_place(row, at + 1, input.place);
                    self.set_value(acc, &mut row[at + 1 + PLACE_BYTES..], column, i, vars);
                }
            }
            Kind::Variance { .. } => {
                let value = match &column.data {
                    Data::I64(v) => v[i] as i128,
                    Data::I128(v) => v[i],
                    _ => 0,
                };
                set_i64(row, at, get_i64(row, at) + sign);
                wide::add(&mut row[at + 8..at + VARIANCE_SUM], value, sign < 0);
                wide::add_square(&mut row[at + VARIANCE_SUM..at + VARIANCE_BYTES], value, sign < 0);
            }
            Kind::VarianceFloat { .. } => {
                let Data::F64(v) = &column.data else { return Ok(()) };
                let (count, mean) = (get_i64(row, at) + 1, get_f64(row, at + 8));
                let away = v[i] - mean;
                let mean = mean + away / count as f64;
                set_i64(row, at, count);
                set_f64(row, at + 8, mean);
                set_f64(row, at + 16, get_f64(row, at + 16) + away * (v[i] - mean));
            }
            Kind::Bag(bag) => {
                let (mut place, mut value) = (vec![], vec![]);
                if !acc.entry(bag, column, by, i, input.place, &mut place, &mut value) {
                    return Ok(());
                }
                let handle = get_u32(row, at);
                let entry = Entry { key: &place, value: &value, count: sign };
                if let Some(next) = bag::add(vars.vars.get(handle), entry, bag.most) {
                    set_u32(row, at, vars.replace(handle, &next));
                }
            }
            Kind::Sketch => {
                let mut value = vec![];
                encode_equal(column, i, &mut value);
                let handle = get_u32(row, at);
                if let Some(next) = hll::add(vars.vars.get(handle), xxhash_rust::xxh3::xxh3_64(&value)) {
                    set_u32(row, at, vars.replace(handle, &next));
                }
            }
            Kind::Python(_) => {}
        }
        Ok(())
    }

    /// How the column's value compares with the one held.
    fn compare_value(
        &self,
        acc: &Accumulator,
        held: &[u8],
        column: &Column,
        i: usize,
        vars: &Vars,
    ) -> std::cmp::Ordering {
        match (&column.data, acc.slot) {
            (Data::I64(v), _) => v[i].cmp(&get_i64(held, 0)),
            (Data::F64(v), _) => v[i].total_cmp(&get_f64(held, 0)),
            (Data::I128(v), _) => v[i].cmp(&get_i128(held, 0)),
            (Data::Bool(v), _) => v[i].cmp(&held[0]),
            _ => column.text_at(i).cmp(vars.get(get_u32(held, 0))),
        }
    }

    fn set_value(&self, acc: &Accumulator, held: &mut [u8], column: &Column, i: usize, vars: &mut VarScope<'_>) {
        match (&column.data, acc.slot) {
            (Data::I64(v), _) => set_i64(held, 0, v[i]),
            (Data::F64(v), _) => set_f64(held, 0, v[i]),
            (Data::I128(v), _) => set_i128(held, 0, v[i]),
            (Data::Bool(v), _) => held[0] = v[i],
            _ => {
                let handle = vars.replace(get_u32(held, 0), column.text_at(i));
                set_u32(held, 0, handle);
            }
        }
    }

    /// Merges `other` (whose values lie in `other_vars`) into `row`.
    pub fn merge(&self, row: &mut [u8], other: &[u8], other_vars: &Vars, vars: &mut VarScope<'_>) {
        for acc in &self.accumulators {
            let at = acc.offset;
            match acc.kind {
                Kind::Count => set_i64(row, at, get_i64(row, at) + get_i64(other, at)),
                Kind::SumExact => set_i128(row, at, get_i128(row, at).saturating_add(get_i128(other, at))),
                Kind::MeanExact => {
                    set_i128(row, at, get_i128(row, at).saturating_add(get_i128(other, at)));
                    set_i64(row, at + 16, get_i64(row, at + 16) + get_i64(other, at + 16));
                }
                Kind::SumFloat => set_f64(row, at, get_f64(row, at) + get_f64(other, at)),
                Kind::MeanFloat => {
                    set_f64(row, at, get_f64(row, at) + get_f64(other, at));
                    set_i64(row, at + 8, get_i64(row, at + 8) + get_i64(other, at + 8));
                }
                Kind::Min | Kind::Max | Kind::First | Kind::Last => {
                    if other[at] == 0 {
                        continue;
                    }
                    let ordered = matches!(acc.kind, Kind::First | Kind::Last);
                    let value = at + 1 + if ordered { PLACE_BYTES } else { 0 };
                    let better = row[at] == 0
                        || match acc.kind {
                            Kind::First => read_place(other, at + 1) < read_place(row, at + 1),
                            Kind::Last => read_place(other, at + 1) > read_place(row, at + 1),
                            _ => {
                                let order = match acc.slot {
                                    Slot::I64 => get_i64(other, value).cmp(&get_i64(row, value)),
                                    Slot::F64 => get_f64(other, value).total_cmp(&get_f64(row, value)),
                                    Slot::I128 => get_i128(other, value).cmp(&get_i128(row, value)),
                                    Slot::Bool => other[value].cmp(&row[value]),
                                    Slot::Var => {
                                        other_vars.get(get_u32(other, value)).cmp(vars.vars.get(get_u32(row, value)))
                                    }
                                };
                                order
                                    == if acc.kind == Kind::Min {
                                        std::cmp::Ordering::Less
                                    } else {
                                        std::cmp::Ordering::Greater
                                    }
                            }
                        };
                    if better {
                        let end = value + acc.slot.bytes();
                        if acc.slot == Slot::Var {
                            let held = if row[at] == 0 { 0 } else { get_u32(row, value) };
                            let handle = vars.replace(held, other_vars.get(get_u32(other, value)));
                            row[at..value].copy_from_slice(&other[at..value]);
                            set_u32(row, value, handle);
                        } else {
                            row[at..end].copy_from_slice(&other[at..end]);
                        }
                    }
                }
                Kind::Variance { .. } => {
                    set_i64(row, at, get_i64(row, at) + get_i64(other, at));
                    for cell in [at + 8..at + VARIANCE_SUM, at + VARIANCE_SUM..at + VARIANCE_BYTES] {
                        wide::add_cell(&mut row[cell.clone()], &other[cell]);
                    }
                }
                Kind::VarianceFloat { .. } => {
                    let (n, more) = (get_i64(row, at), get_i64(other, at));
                    if more == 0 {
                        continue;
                    }
                    let (mean, apart) = (get_f64(row, at + 8), get_f64(other, at + 8) - get_f64(row, at + 8));
                    let (n, more, all) = (n as f64, more as f64, (n + more) as f64);
                    set_i64(row, at, get_i64(row, at) + get_i64(other, at));
                    set_f64(row, at + 8, mean + apart * more / all);
                    let squares = get_f64(row, at + 16) + get_f64(other, at + 16);
                    set_f64(row, at + 16, squares + apart * apart * n * more / all);
                }
                Kind::Bag(_) | Kind::Sketch => {
                    let theirs = other_vars.get(get_u32(other, at));
                    if theirs.is_empty() {
                        continue;
                    }
                    let handle = get_u32(row, at);
                    let mine = vars.vars.get(handle);
                    let next = match acc.kind {
                        Kind::Bag(bag) => bag::merge(mine, theirs, bag.most),
                        _ => hll::merge(mine, theirs),
                    };
                    set_u32(row, at, vars.replace(handle, &next));
                }
                Kind::Python(_) => {}
            }
        }
    }

    /// Appends accumulator `index`'s result.
    pub fn result(&self, index: usize, row: &[u8], vars: &Vars, foreign: &dyn Foreign, out: &mut ColumnBuilder) {
        let acc = &self.accumulators[index];
        let at = acc.offset;
        match acc.kind {
            Kind::Count => out.push_i64(get_i64(row, at)),
            Kind::SumExact => {
                let sum = get_i128(row, at);
                if sum == i128::MAX || sum == i128::MIN {
                    return out.push_state(ERR_OVERFLOW);
                }
                match acc.output {
                    DataType::Decimal { .. } if sum.unsigned_abs() < 10u128.pow(38) => out.push_i128(sum),
                    DataType::Decimal { .. } => out.push_state(ERR_OVERFLOW),
                    _ => match i64::try_from(sum) {
                        Ok(v) => out.push_i64(v),
                        Err(_) => out.push_state(ERR_OVERFLOW),
                    },
                }
            }
            Kind::SumFloat => push_float(get_f64(row, at), out),
            Kind::MeanExact => {
                let (sum, count) = (get_i128(row, at), get_i64(row, at + 16));
                if count == 0 {
                    return out.push_null();
                }
                if sum == i128::MAX || sum == i128::MIN {
                    return out.push_state(ERR_OVERFLOW);
                }
                match (&acc.input, &acc.output) {
                    (DataType::Decimal { scale, .. }, DataType::Decimal { scale: to, .. }) => {
                        match divide_half_even(sum, count as i128, to - scale) {
                            Some(v) => out.push_i128(v),
                            None => out.push_state(ERR_OVERFLOW),
                        }
                    }
                    (DataType::Duration, _) => match divide_half_even(sum, count as i128, 0).map(i64::try_from) {
                        Some(Ok(ms)) => out.push_i64(ms),
                        _ => out.push_state(ERR_OVERFLOW),
                    },
                    _ => push_float(sum as f64 / count as f64, out),
                }
            }
            Kind::MeanFloat => match get_i64(row, at + 8) {
                0 => out.push_null(),
                count => push_float(get_f64(row, at) / count as f64, out),
            },
            Kind::Min | Kind::Max | Kind::First | Kind::Last => {
                if row[at] == 0 {
                    return out.push_null();
                }
                let ordered = matches!(acc.kind, Kind::First | Kind::Last);
                let value = at + 1 + if ordered { PLACE_BYTES } else { 0 };
                match acc.slot {
                    Slot::I64 => out.push_i64(get_i64(row, value)),
                    Slot::F64 => out.push_f64(get_f64(row, value)),
                    Slot::I128 => out.push_i128(get_i128(row, value)),
                    Slot::Bool => out.push_bool(row[value] != 0),
                    Slot::Var => out.push_str(vars.get(get_u32(row, value))),
                }
            }
            Kind::Variance { root, ddof } => {
                let (sum, squares) = row[at + 8..at + VARIANCE_BYTES].split_at(VARIANCE_SUM - 8);
                let scale = if let DataType::Decimal { scale, .. } = acc.input { scale } else { 0 };
                match variance(get_i64(row, at), sum, squares, ddof, scale) {
                    None => out.push_null(),
                    Some(found) => push_float(if root { found.sqrt() } else { found }, out),
                }
            }
            Kind::VarianceFloat { root, ddof } => {
                let count = get_i64(row, at);
                if count <= ddof || count == 0 {
                    return out.push_null();
                }
                let found = get_f64(row, at + 16) / (count - ddof) as f64;
                push_float(if root { found.sqrt() } else { found }, out);
            }
            Kind::Bag(bag) => acc.told(bag, vars.get(get_u32(row, at)), out),
            Kind::Sketch => out.push_i64(hll::estimate(vars.get(get_u32(row, at)))),
            Kind::Python(function) => {
                let handle = get_u32(row, at);
                let state = (handle != 0).then(|| vars.get(handle));
                out.push_value(&foreign.fold_result(function, state, &acc.output));
            }
        }
    }

    /// Writes a row with its side values inline.
    pub fn write(&self, row: &[u8], vars: &Vars, out: &mut Writer) {
        if !self.has_vars {
            return out.raw(&row[..self.size]);
        }
        for acc in &self.accumulators {
            let (head, has) = acc.var_position(row);
            match head {
                None => out.raw(&row[acc.offset..acc.offset + acc.bytes()]),
                Some(value) => {
                    out.raw(&row[acc.offset..value]);
                    if has {
                        out.blob(vars.get(get_u32(row, value)));
                    }
                }
            }
        }
        if let Some(at) = self.span {
            out.raw(&row[at..at + SPAN_BYTES]);
        }
    }

    /// Reads what [`write`](Self::write) wrote into a zeroed row, putting side values into `vars`.
    pub fn read(&self, r: &mut Reader<'_>, row: &mut [u8], put: &mut dyn FnMut(&[u8]) -> u32) -> Option<()> {
        if !self.has_vars {
            row[..self.size].copy_from_slice(r.raw(self.size)?);
            return Some(());
        }
        for acc in &self.accumulators {
            if acc.slot != Slot::Var {
                row[acc.offset..acc.offset + acc.bytes()].copy_from_slice(r.raw(acc.bytes())?);
                continue;
            }
            let value = acc.offset + acc.bytes() - 4;
            row[acc.offset..value].copy_from_slice(r.raw(value - acc.offset)?);
            let (_, has) = acc.var_position(row);
            if has || acc.is_blob() {
                let blob = r.blob()?;
                if matches!(acc.kind, Kind::Python(_)) || !blob.is_empty() {
                    let handle = put(blob);
                    set_u32(row, value, handle);
                }
            }
        }
        if let Some(at) = self.span {
            row[at..at + SPAN_BYTES].copy_from_slice(r.raw(SPAN_BYTES)?);
        }
        Some(())
    }

    /// The handles a row holds.
    pub fn handles(&self, row: &[u8], found: &mut Vec<u32>) {
        if !self.has_vars {
            return;
        }
        for acc in &self.accumulators {
            if let (Some(value), true) = acc.var_position(row) {
                found.push(get_u32(row, value));
            }
        }
    }
}

impl Accumulator {
    fn bytes(&self) -> usize {
        match self.kind {
            Kind::Count | Kind::SumFloat => 8,
            Kind::SumExact | Kind::MeanFloat => 16,
            Kind::MeanExact => 24,
            Kind::Min | Kind::Max => 1 + self.slot.bytes(),
            Kind::First | Kind::Last => 1 + PLACE_BYTES + self.slot.bytes(),
            Kind::Variance { .. } => VARIANCE_BYTES,
            Kind::VarianceFloat { .. } => 24,
            Kind::Bag(_) | Kind::Sketch | Kind::Python(_) => 4,
        }
    }
    /// Whether it is a handle and nothing else.
    fn is_blob(&self) -> bool {
        matches!(self.kind, Kind::Bag(_) | Kind::Sketch | Kind::Python(_))
    }

    /// A row's entry in a bag; false: it has none, a column that it would be ordered by is null.
    #[allow(clippy::too_many_arguments)]
    fn entry(
        &self,
        bag: Bag,
        column: &Column,
        by: &[Arc<Column>],
        row: usize,
        place: Place,
        entry: &mut Vec<u8>,
        value: &mut Vec<u8>,
    ) -> bool {
        if let What::QuantileSketch { gamma, .. } = bag.what {
            entry.extend_from_slice(&bucket(number(column, row), gamma));
            return true;
        }
        for (column, &descending) in by.iter().zip(&self.descending) {
            if column.state_at(row) != VALID {
                return false;
            }
            ordered(column, row, descending, entry);
        }
        match bag.by_value {
            // The value is the key: what is decoded is there.
            Some(Towards::Smallest) if bag.place.is_none() => {
                ordered(column, row, false, entry);
                return true;
            }
            Some(towards) => ordered(column, row, towards == Towards::Largest, entry),
            None => {}
        }
        if let Some(towards) = bag.place {
            let from = entry.len();
            entry.extend_from_slice(&((place.ts as u64) ^ (1 << 63)).to_be_bytes());
            entry.extend_from_slice(&place.lane.to_be_bytes());
            entry.extend_from_slice(&place.position.to_be_bytes());
            if towards == Towards::Largest {
                entry[from..].iter_mut().for_each(|b| *b = !*b);
            }
        }
        key::encode(column, row, value);
        true
    }

    /// What is asked of a bag.
    fn told(&self, bag: Bag, bytes: &[u8], out: &mut ColumnBuilder) {
        let live = || bag::entries(bytes).filter(|entry| entry.count > 0);
        let dtype = self.input.widened();
        let value = |entry: &Entry<'_>| {
            let from = if entry.value.is_empty() { entry.key } else { entry.value };
            key::decode_value(&dtype, from).map_or(Value::Null, |(value, _)| value)
        };
        match bag.what {
            What::Distinct => out.push_i64(live().count() as i64),
            What::Pick => match live().next() {
                None => out.push_null(),
                Some(entry) => out.push_value(&value(&entry)),
            },
            What::Set | What::List | What::Top(_) => {
                let most = if let What::Top(k) = bag.what { k } else { usize::MAX };
                let times = |entry: Entry<'_>| {
                    let times = if bag.what == What::Set { 1 } else { entry.count as usize };
                    std::iter::repeat_n(value(&entry), times)
                };
                let mut values = ColumnBuilder::new(dtype.clone());
                live().flat_map(times).take(most).for_each(|value| values.push_value(&value));
                let values = values.finish();
                let mut text = vec![b'['];
                for row in 0..values.len() {
                    if row > 0 {
                        text.push(b',');
                    }
                    write_value(&values, row, &mut text);
                }
                text.push(b']');
                out.push_str(&text);
            }
            What::Median => {
                let all: i64 = live().map(|entry| entry.count).sum();
                let at = |place: i64| {
                    let mut left = place;
                    live().find(|entry| {
                        left -= entry.count;
                        left <= 0
                    })
                };
                match (at((all + 1) / 2).map(|e| value(&e)), at(all / 2 + 1).map(|e| value(&e))) {
                    (Some(Value::Int(a)), Some(Value::Int(b))) => push_float((a as i128 + b as i128) as f64 / 2.0, out),
                    (Some(Value::Float(a)), Some(Value::Float(b))) => push_float(f64::midpoint(a, b), out),
                    (Some(Value::Duration(a)), Some(Value::Duration(b))) => {
                        match divide_half_even(a as i128 + b as i128, 2, 0).map(i64::try_from) {
                            Some(Ok(ms)) => out.push_i64(ms),
                            _ => out.push_state(ERR_OVERFLOW),
                        }
                    }
                    (Some(Value::Decimal(a, scale)), Some(Value::Decimal(b, _))) => {
                        let DataType::Decimal { scale: to, .. } = self.output else { return out.push_null() };
                        match a.checked_add(b).and_then(|sum| divide_half_even(sum, 2, to - scale)) {
                            Some(v) => out.push_i128(v),
                            None => out.push_state(ERR_OVERFLOW),
                        }
                    }
                    _ => out.push_null(),
                }
            }
            What::Quantile(q) | What::QuantileSketch { q, .. } => {
                let all: i64 = live().map(|entry| entry.count).sum();
                let mut left = ((q * all as f64).ceil() as i64).max(1);
                let found = live().find(|entry| {
                    left -= entry.count;
                    left <= 0
                });
                match (found, bag.what) {
                    (None, _) => out.push_null(),
                    (Some(entry), What::QuantileSketch { gamma, .. }) => match bucket_value(entry.key, gamma) {
                        Some(x) => push_float(x, out),
                        None => out.push_null(),
                    },
                    (Some(entry), _) => out.push_value(&value(&entry)),
                }
            }
        }
    }
    /// Where the handle lies (None: no handle), and whether it is in use.
    fn var_position(&self, row: &[u8]) -> (Option<usize>, bool) {
        if self.slot != Slot::Var {
            return (None, false);
        }
        let value = self.offset + self.bytes() - 4;
        let used = self.is_blob() || row[self.offset] != 0;
        (Some(value), used)
    }
}

/// A value so that equal ones have equal bytes: -0.0 is 0.0.
fn encode_equal(column: &Column, row: usize, out: &mut Vec<u8>) {
    match &column.data {
        Data::F64(v) if v[row] == 0.0 && v[row].is_sign_negative() => {
            key::encode(&Column::new(DataType::Float, Data::F64(vec![0.0]), None), 0, out);
        }
        _ => key::encode(column, row, out),
    }
}

/// A value so that bytes come in its order, or in the reverse one (the encoding is free of prefixes, so its complement is).
fn ordered(column: &Column, row: usize, descending: bool, out: &mut Vec<u8>) {
    let from = out.len();
    encode_equal(column, row, out);
    if descending {
        out[from..].iter_mut().for_each(|b| *b = !*b);
    }
}

fn push_float(x: f64, out: &mut ColumnBuilder) {
    if x.is_finite() {
        out.push_f64(x);
    } else {
        out.push_state(crate::column::ERR_NOT_A_NUMBER);
    }
}

fn read_place(row: &[u8], at: usize) -> Place {
    Place { ts: get_i64(row, at), lane: get_u32(row, at + 8), position: get_u64(row, at + 12) }
}

fn write_place(row: &mut [u8], at: usize, place: Place) {
    set_i64(row, at, place.ts);
    set_u32(row, at + 8, place.lane);
    set_u64(row, at + 12, place.position);
}

/// The value columns of an aggregate for one batch: argument and `where`, evaluated.
pub struct Arguments {
    pub arg: Option<Arc<Column>>,
    pub condition: Option<Arc<Column>>,
    /// What it is ordered by.
    pub by: Vec<Arc<Column>>,
}

/// The first error that reading row `row` of these would meet, in order: a condition always, an argument only where its
/// condition is true.
#[inline]
pub fn error_of(arguments: &[Arguments], row: usize) -> Option<(u8, Option<String>)> {
    for a in arguments {
        if let Some(c) = &a.condition {
            let state = c.state_at(row);
            if state > crate::column::NULL {
                return Some((state, c.message_at(row).map(str::to_string)));
            }
            if !c.is_true(row) {
                continue;
            }
        }
        for c in a.arg.iter().chain(&a.by) {
            let state = c.state_at(row);
            if state > crate::column::NULL {
                return Some((state, c.message_at(row).map(str::to_string)));
            }
        }
    }
    None
}

/// A value read back, for tests and messages.
pub fn result_value(layout: &Layout, index: usize, row: &[u8], vars: &Vars) -> Value {
    let mut out = ColumnBuilder::new(layout.accumulators[index].output.clone());
    layout.result(index, row, vars, &crate::expr::NoForeign, &mut out);
    out.finish().value_at(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::expr::NoForeign;
    use crate::types::Schema;
    use proptest::prelude::*;

    fn layout(functions: &[(&str, DataType)]) -> Layout {
        layout_over(functions, false)
    }

    /// The last `first` and what follows it are ordered by a number, downwards.
    fn layout_over(functions: &[(&str, DataType)], table: bool) -> Layout {
        let ordered = functions.iter().rposition(|f| f.0 == "first").filter(|&at| at > 5).unwrap_or(functions.len());
        let specs: Vec<Spec> = functions
            .iter()
            .enumerate()
            .map(|(i, (f, t))| Spec {
                function: f.to_string(),
                input: Some(t.clone()),
                descending: if i >= ordered { vec![true] } else { vec![] },
                parameter: Some(if *f == "quantile" { 0.3 } else { 1.0 }),
                table,
                ..Spec::default()
            })
            .collect();
        Layout::new(&specs).unwrap()
    }

    fn all() -> Layout {
        layout(&[
            ("count", DataType::Int),
            ("sum", DataType::Int),
            ("mean", DataType::decimal(2)),
            ("min", DataType::Int),
            ("max", DataType::Str),
            ("first", DataType::Str),
            ("last", DataType::Int),
            ("min", DataType::Str),
            ("var", DataType::Int),
            ("std", DataType::decimal(2)),
            ("count_distinct", DataType::Str),
            ("approx_count_distinct", DataType::Int),
            ("collect_set", DataType::Int),
            ("collect_list", DataType::Str),
            ("top_k", DataType::Int),
            ("quantile", DataType::decimal(2)),
            ("median", DataType::Int),
            ("first", DataType::Str),
            ("arg_max", DataType::Str),
        ])
    }

    struct Group {
        row: Vec<u8>,
        vars: Vars,
    }

    /// (int, text, ts, position)
    type Item = (Option<i64>, String, i64, u64);

    fn batch_of(items: &[Item]) -> (Batch, Arc<Column>, Arc<Column>, Arc<Column>) {
        let mut ints = ColumnBuilder::new(DataType::Int);
        let mut decimals = ColumnBuilder::new(DataType::decimal(2));
        let mut texts = ColumnBuilder::new(DataType::Str);
        for (i, t, ..) in items {
            match i {
                Some(i) => {
                    ints.push_i64(*i);
                    decimals.push_i128(*i as i128);
                }
                None => {
                    ints.push_null();
                    decimals.push_null();
                }
            }
            texts.push_str(t.as_bytes());
        }
        let batch = Batch {
            schema: Arc::new(Schema::default()),
            columns: vec![],
            rows: items.len(),
            live: None,
            seq: Arc::new(vec![0; items.len()]),
            path: None,
            ts: Arc::new(items.iter().map(|i| i.2).collect()),
            key: None,
            sign: None,
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![]),
            origin_rows: None,
        };
        (batch, Arc::new(ints.finish()), Arc::new(decimals.finish()), Arc::new(texts.finish()))
    }

    fn fold(layout: &Layout, items: &[Item], sign: i64, group: &mut Group) {
        let (batch, ints, decimals, texts) = batch_of(items);
        let (mut taken, mut given) = (vec![], vec![]);
        for (row, item) in items.iter().enumerate() {
            let place = Place { ts: item.2, lane: 0, position: item.3 };
            let input = Input { batch: &batch, row, place, foreign: &NoForeign };
            for (index, acc) in layout.accumulators.iter().enumerate() {
                let by = acc.descending.iter().map(|_| ints.clone()).collect::<Vec<_>>();
                let column = match acc.input {
                    DataType::Str => &texts,
                    DataType::Decimal { .. } => &decimals,
                    _ => &ints,
                };
                let mut scope = VarScope { vars: &mut group.vars, taken: &mut taken, given_up: &mut given };
                layout.add(index, &mut group.row, (Some(column), &by), sign, &input, &mut scope).unwrap();
            }
        }
    }

    fn group(layout: &Layout) -> Group {
        Group { row: vec![0; layout.size], vars: Vars::default() }
    }

    fn bytes(layout: &Layout, g: &Group) -> Vec<u8> {
        let mut w = Writer::default();
        layout.write(&g.row, &g.vars, &mut w);
        w.bytes
    }

    fn merge(layout: &Layout, into: &mut Group, other: &Group) {
        let (mut taken, mut given) = (vec![], vec![]);
        let mut scope = VarScope { vars: &mut into.vars, taken: &mut taken, given_up: &mut given };
        layout.merge(&mut into.row, &other.row, &other.vars, &mut scope);
    }

    fn items() -> impl Strategy<Value = Vec<Item>> {
        prop::collection::vec((prop::option::of(-1000i64..1000), "[a-c]{0,3}", 0i64..5), 0..12)
            .prop_map(|v| v.into_iter().enumerate().map(|(p, (i, t, ts))| (i, t, ts, p as u64)).collect())
    }

    proptest! {
        #[test]
        fn merging_parts_in_any_order_equals_one_pass(items in items(), cut in 0usize..12, swap: bool) {
            let layout = all();
            let mut whole = group(&layout);
            fold(&layout, &items, 1, &mut whole);
            let cut = cut.min(items.len());
            let (mut a, mut b) = (group(&layout), group(&layout));
            fold(&layout, &items[..cut], 1, &mut a);
            fold(&layout, &items[cut..], 1, &mut b);
            let merged = if swap { merge(&layout, &mut b, &a); b } else { merge(&layout, &mut a, &b); a };
            prop_assert_eq!(bytes(&layout, &whole), bytes(&layout, &merged));
        }

        #[test]
        fn adding_in_any_order_gives_equal_bytes(items in items(), seed: u64) {
            let layout = all();
            let mut shuffled = items.clone();
            let mut state = seed | 1;
            for i in (1..shuffled.len()).rev() {
                state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                shuffled.swap(i, (state >> 33) as usize % (i + 1));
            }
            let (mut a, mut b) = (group(&layout), group(&layout));
            fold(&layout, &items, 1, &mut a);
            fold(&layout, &shuffled, 1, &mut b);
            prop_assert_eq!(bytes(&layout, &a), bytes(&layout, &b));
        }

        #[test]
        fn retracting_what_was_added_is_the_identity(kept in items(), gone in items()) {
            let layout = layout_over(
                &[
                    ("count", DataType::Int),
                    ("sum", DataType::Int),
                    ("mean", DataType::decimal(2)),
                    ("var", DataType::Int),
                    ("min", DataType::Str),
                    ("max", DataType::Int),
                    ("count_distinct", DataType::Str),
                    ("collect_list", DataType::Int),
                    ("collect_set", DataType::Str),
                    ("top_k", DataType::decimal(2)),
                    ("quantile", DataType::Int),
                    ("median", DataType::decimal(2)),
                    ("first", DataType::Str),
                    ("last", DataType::Str),
                    ("arg_max", DataType::Int),
                ],
                true,
            );
            prop_assert_eq!(layout.not_retractable(), None);
            let (mut a, mut b) = (group(&layout), group(&layout));
            fold(&layout, &kept, 1, &mut a);
            fold(&layout, &gone, 1, &mut b);
            fold(&layout, &kept, 1, &mut b);
            fold(&layout, &gone, -1, &mut b);
            prop_assert_eq!(bytes(&layout, &a), bytes(&layout, &b));
        }

        #[test]
        fn written_rows_read_back(items in items()) {
            let layout = all();
            let mut a = group(&layout);
            fold(&layout, &items, 1, &mut a);
            let stored = bytes(&layout, &a);
            let mut b = group(&layout);
            let vars = &mut b.vars;
            layout.read(&mut Reader::new(&stored), &mut b.row, &mut |v| vars.put(v)).unwrap();
            prop_assert_eq!(&stored, &bytes(&layout, &b));
            for cut in 0..stored.len() {
                let mut row = vec![0; layout.size];
                let mut vars = Vars::default();
                let _ = layout.read(&mut Reader::new(&stored[..cut]), &mut row, &mut |v| vars.put(v));
            }
        }
    }

    #[test]
    fn sum_of_nothing_is_zero_and_mean_of_nothing_is_null() {
        let layout = layout(&[("sum", DataType::decimal(2)), ("mean", DataType::Int), ("min", DataType::Float)]);
        let g = group(&layout);
        assert_eq!(result_value(&layout, 0, &g.row, &g.vars), Value::Decimal(0, 2));
        assert_eq!(result_value(&layout, 1, &g.row, &g.vars), Value::Null);
        assert_eq!(result_value(&layout, 2, &g.row, &g.vars), Value::Null);
    }

    /// A sum that has left its 128 bits is no sum any more, nor is its mean.
    #[test]
    fn the_mean_of_what_has_no_sum_is_an_error() {
        let dtype = DataType::decimal(6);
        let layout = layout(&[("mean", dtype.clone()), ("sum", dtype.clone())]);
        let mut values = ColumnBuilder::new(dtype);
        (0..2).for_each(|_| values.push_i128(99_999_999_999_999_999_999_999_999_999_999_999_999));
        let column = values.finish();
        let (batch, ..) = batch_of(&[(None, String::new(), 0, 0), (None, String::new(), 0, 1)]);
        let mut one = group(&layout);
        for row in 0..2 {
            let place = Place { ts: 0, lane: 0, position: row as u64 };
            let input = Input { batch: &batch, row, place, foreign: &NoForeign };
            for index in 0..2 {
                let (mut taken, mut given) = (vec![], vec![]);
                let mut scope = VarScope { vars: &mut one.vars, taken: &mut taken, given_up: &mut given };
                layout.add(index, &mut one.row, (Some(&column), &[]), 1, &input, &mut scope).unwrap();
            }
        }
        for index in 0..2 {
            assert_eq!(result_value(&layout, index, &one.row, &one.vars), Value::Error(ERR_OVERFLOW));
        }
    }

    /// In one generation a value is replaced in place, in the next one the old one stays as it was.
    #[test]
    fn values_of_an_earlier_generation_are_left_alone() {
        let mut vars = Vars::default();
        let (mut taken, mut given_up) = (vec![], vec![]);
        let mut scope = VarScope { vars: &mut vars, taken: &mut taken, given_up: &mut given_up };
        let first = scope.replace(0, b"a");
        assert_eq!(scope.replace(first, b"bc"), first);
        assert_eq!((&*scope.taken, scope.given_up.len()), (&vec![first], 0));
        scope.vars.next_generation();
        let second = scope.replace(first, b"d");
        assert_ne!(second, first);
        assert_eq!((vars.get(first), vars.get(second), vars.bytes), (&b"bc"[..], &b"d"[..], 3));
        assert_eq!(given_up, [first]);
    }

    fn variance_of(values: &[i128], ddof: i64, scale: u8) -> Option<f64> {
        let (mut sum, mut squares) = ([0; VARIANCE_SUM - 8], [0; VARIANCE_BYTES - VARIANCE_SUM]);
        values.iter().for_each(|&v| wide::add(&mut sum, v, false));
        values.iter().for_each(|&v| wide::add_square(&mut squares, v, false));
        variance(values.len() as i64, &sum, &squares, ddof, scale)
    }

    #[test]
    fn variance_loses_nothing_to_cancellation() {
        let n = 10i128.pow(38) - 3;
        assert_eq!(variance_of(&[n, n + 1, n + 2], 1, 0), Some(1.0));
        assert_eq!(variance_of(&[-(1 << 120), 1 << 120], 0, 0), Some(2f64.powi(240)));
        assert_eq!(variance_of(&[-10i128.pow(38), 10i128.pow(38)], 0, 38), Some(1.0));
        assert_eq!(variance_of(&[0, 1, 2], 0, 1), Some(2.0 / 300.0));
        assert_eq!(variance_of(&[5], 1, 0), None);
        assert_eq!(variance_of(&[5], 0, 0), Some(0.0));
        assert_eq!(variance_of(&[], 0, 0), None);
    }

    #[test]
    fn zero_has_one_place_whatever_its_sign() {
        let layout = layout(&[("count_distinct", DataType::Float), ("approx_count_distinct", DataType::Float)]);
        let mut floats = ColumnBuilder::new(DataType::Float);
        [0.0, -0.0, 1.0].iter().for_each(|&x| floats.push_f64(x));
        let (floats, mut g) = (floats.finish(), group(&layout));
        let (batch, ..) = batch_of(&[]);
        for row in 0..3 {
            let place = Place { ts: 0, lane: 0, position: row as u64 };
            let input = Input { batch: &batch, row, place, foreign: &NoForeign };
            let (mut taken, mut given) = (vec![], vec![]);
            for index in 0..2 {
                let mut scope = VarScope { vars: &mut g.vars, taken: &mut taken, given_up: &mut given };
                layout.add(index, &mut g.row, (Some(&floats), &[]), 1, &input, &mut scope).unwrap();
            }
        }
        assert_eq!(result_value(&layout, 0, &g.row, &g.vars), Value::Int(2));
        assert_eq!(result_value(&layout, 1, &g.row, &g.vars), Value::Int(2));
    }

    #[test]
    fn a_median_is_the_mean_of_the_middle() {
        let of = |values: &[i64]| {
            let layout = layout(&[("median", DataType::Int), ("median", DataType::decimal(2))]);
            let mut g = group(&layout);
            let items: Vec<Item> =
                values.iter().enumerate().map(|(p, &v)| (Some(v), String::new(), 0, p as u64)).collect();
            fold(&layout, &items, 1, &mut g);
            [0, 1].map(|index| result_value(&layout, index, &g.row, &g.vars))
        };
        assert_eq!(of(&[]), [Value::Null, Value::Null]);
        assert_eq!(of(&[7]), [Value::Float(7.0), Value::Decimal(70_000, 6)]);
        assert_eq!(of(&[9, 4, 4, 4]), [Value::Float(4.0), Value::Decimal(40_000, 6)]);
        assert_eq!(of(&[9, 4, 4, 7]), [Value::Float(5.5), Value::Decimal(55_000, 6)]);
        assert_eq!(of(&[i64::MAX, i64::MAX])[0], Value::Float(i64::MAX as f64));
    }

    proptest! {
        #[test]
        fn a_bucket_stands_for_its_numbers_within_the_error(x in -1e12f64..1e12, y in -1e12f64..1e12, small: bool) {
            let error = 0.01;
            let gamma = (1.0 + error) / (1.0 - error);
            let x = if small { x / 1e12 } else { x };
            let found = bucket_value(&bucket(x, gamma), gamma).unwrap();
            prop_assert!((found - x).abs() <= x.abs() * error * (1.0 + 1e-9), "{x} {found}");
            if x < y {
                prop_assert!(bucket(x, gamma) <= bucket(y, gamma));
            }
        }
    }

    #[test]
    fn means_of_decimals_round_half_to_even() {
        assert_eq!(divide_half_even(5, 2, 0), Some(2));
        assert_eq!(divide_half_even(7, 2, 0), Some(4));
        assert_eq!(divide_half_even(-5, 2, 0), Some(-2));
        assert_eq!(divide_half_even(1, 3, 6), Some(333_333));
    }
}
