//! Evaluation of a compiled tree over a batch: arguments first, then one kernel over whole columns.
//!
//! Nothing is decided per row: every node computes all physical rows, dead ones and unchosen branches too. That is
//! harmless because errors are values, and cheap because kernels do not branch.

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
        /// A `when`: which argument a row's error came from is not simply the first.
        chooses: bool,
    },
    Call {
        function: usize,
        args: Vec<Node>,
        dtype: DataType,
    },
}

impl Node {
    pub fn eval(&self, batch: &Batch, foreign: &dyn Foreign) -> Operand {
        let rows = batch.rows;
        let column = match self {
            Node::Literal(column) => return Operand { column: column.clone(), scalar: true },
            Node::Column(index) => batch.columns[*index].clone(),
            Node::Meta(meta) => Arc::new(metadata(*meta, batch)),
            Node::Op { kernel, args, dtype, chooses } => {
                let args: Vec<Operand> = args.iter().map(|a| a.eval(batch, foreign)).collect();
                let column = finish(kernel(&args, rows), &args, rows, dtype);
                with_messages(column, &args, *chooses)
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
