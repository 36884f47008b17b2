//! Evaluation of a compiled tree over a batch: arguments first, then one kernel over whole columns.
//!
//! Nothing is decided per row: every node computes all physical rows, dead ones and unchosen branches too. That is
//! harmless because errors are values, and cheap because kernels do not branch. Callables of the host language are the
//! exception: they may have been written for the rows that a condition lets through, so each is handed only the rows
//! for which a program that evaluates from left to right would have come to it.

use std::sync::Arc;

use super::eval_logic::deciding;
use super::kernel::{finish, Kernel, Operand};
use super::Foreign;
use crate::batch::Batch;
use crate::column::{Column, Data, ERROR_MIN, NULL, VALID};
use crate::types::DataType;

/// What the row is besides its values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meta {
    Timestamp,
    Offset,
    Partition,
}

/// In which order an operation comes to its arguments, and what makes it stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// It needs all of them.
    Any,
    /// Until one is false (`And`) or true (`Or`).
    And,
    Or,
    /// Until one is not null.
    Coalesce,
    /// Conditions until one is true, then its value; else the last.
    When,
}

#[derive(Clone)]
pub enum Node {
    Column(usize),
    Meta(Meta),
    /// One row.
    Literal(Arc<Column>),
    Op {
        kernel: Kernel,
        args: Vec<Node>,
        dtype: DataType,
        order: Order,
        /// A callable stands behind the first argument of something with an order.
        lazy: bool,
    },
    Call {
        function: usize,
        args: Vec<Node>,
        dtype: DataType,
    },
}

impl Node {
    pub fn op(kernel: Kernel, args: Vec<Node>, dtype: DataType, order: Order) -> Node {
        let lazy = order != Order::Any && args[1..].iter().any(Node::calls);
        Node::Op { kernel, args, dtype, order, lazy }
    }

    pub fn calls(&self) -> bool {
        match self {
            Node::Call { .. } => true,
            Node::Op { args, .. } => args.iter().any(Node::calls),
            _ => false,
        }
    }

    pub fn eval(&self, batch: &Batch, foreign: &dyn Foreign) -> Operand {
        let rows = batch.rows;
        let column = match self {
            Node::Literal(column) => return Operand { column: column.clone(), scalar: true },
            Node::Column(index) => batch.columns[*index].clone(),
            Node::Meta(meta) => Arc::new(metadata(*meta, batch)),
            Node::Op { kernel, args, dtype, order, lazy } => {
                let args: Vec<Operand> = match lazy {
                    true => in_order(*order, args, batch, foreign),
                    false => args.iter().map(|a| a.eval(batch, foreign)).collect(),
                };
                let column = finish(kernel(&args, rows), &args, rows, dtype);
                with_messages(column, &args, *order == Order::When)
            }
            Node::Call { function, args, dtype } => {
                let args: Vec<Arc<Column>> = args.iter().map(|a| a.eval(batch, foreign).expand(rows)).collect();
                let column = foreign.call(*function, batch, &args, dtype);
                debug_assert_eq!((column.len(), &column.dtype), (rows, dtype), "what a callable returned");
                Arc::new(column)
            }
        };
        Operand { column, scalar: false }
    }
}

/// The arguments, each for the rows that come to it; what it is for others nobody reads.
fn in_order(order: Order, args: &[Node], batch: &Batch, foreign: &dyn Foreign) -> Vec<Operand> {
    let mut undecided: Vec<u32> = batch.live_rows().map(|r| r as u32).collect();
    let mut taken = vec![];
    let mut done: Vec<Operand> = Vec::with_capacity(args.len());
    for (i, arg) in args.iter().enumerate() {
        let is_value = order == Order::When && i % 2 == 1;
        let live = if is_value { std::mem::take(&mut taken) } else { undecided.clone() };
        let operand = arg.eval(&Batch { live: Some(live), ..batch.clone() }, foreign);
        if i + 1 < args.len() && !is_value {
            let states = operand.states();
            let is = |row: u32, want: u8| {
                states.at(row as usize) == VALID && operand.view::<u8>().at(row as usize) & 1 == want
            };
            let null = |row: u32| states.at(row as usize) == NULL;
            match order {
                Order::Any => {}
                Order::And => undecided.retain(|&r| null(r) || is(r, 1)),
                Order::Or => undecided.retain(|&r| null(r) || is(r, 0)),
                Order::Coalesce => undecided.retain(|&r| null(r)),
                Order::When => {
                    taken = undecided.iter().copied().filter(|&r| is(r, 1)).collect();
                    undecided.retain(|&r| null(r) || is(r, 0));
                }
            }
        }
        done.push(operand);
    }
    done
}

fn metadata(meta: Meta, batch: &Batch) -> Column {
    if meta == Meta::Timestamp {
        return Column::new(DataType::Timestamp, Data::I64(batch.ts.to_vec()), None);
    }
    let Some(rows) = &batch.origin_rows else {
        return Column::new(DataType::Int, Data::I64(vec![0; batch.rows]), Some(vec![NULL; batch.rows]));
    };
    let mut state = vec![VALID; batch.rows];
    let mut values = vec![0i64; batch.rows];
    for (i, &(origin, record)) in rows.iter().enumerate() {
        let origin = batch.origins.get(origin as usize);
        let value = match meta {
            Meta::Partition => origin.map(|o| i64::from(o.partition)),
            _ => origin.and_then(|o| o.raw.offsets.get(record as usize).copied()),
        };
        match value {
            Some(v) => values[i] = v,
            None => state[i] = NULL,
        }
    }
    Column::new(DataType::Int, Data::I64(values), super::kernel::tidy(state))
}

/// Error texts travel with the error they belong to.
fn with_messages(column: Arc<Column>, args: &[Operand], chooses: bool) -> Arc<Column> {
    if column.messages.is_some() || column.state.is_none() || args.iter().all(|a| a.column.messages.is_none()) {
        return column;
    }
    let mut messages = Vec::new();
    for row in 0..column.len() {
        let state = column.state_at(row);
        if state < ERROR_MIN {
            continue;
        }
        let source =
            if chooses { Some(&args[deciding(args, row)]) } else { args.iter().find(|a| a.states().at(row) == state) };
        if let Some(text) = source.filter(|s| !s.scalar).and_then(|s| s.column.message_at(row)) {
            messages.push((row as u32, text.to_string()));
        }
    }
    if messages.is_empty() {
        return column;
    }
    let mut column = Arc::unwrap_or_clone(column);
    column.messages = Some(Arc::new(messages));
    Arc::new(column)
}
