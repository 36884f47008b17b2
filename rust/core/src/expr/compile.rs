use std::sync::Arc;

use crate::batch::Batch;
use crate::column::Column;
use crate::error::PlanError;
use crate::expr::{Expr, Foreign};
use crate::types::{DataType, Schema};

pub struct Compiled {
    pub dtype: DataType,
    /// Schema indices of the columns it reads, ascending, without repeats.
    pub columns: Vec<usize>,
}

pub fn compile(_expr: &Expr, _schema: &Schema) -> Result<Compiled, PlanError> {
    unimplemented!()
}

impl Compiled {
    /// One value per physical row.
    pub fn eval(&self, _batch: &Batch, _foreign: &dyn Foreign) -> Arc<Column> {
        unimplemented!()
    }
}
