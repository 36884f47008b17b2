use crate::batch::Batch;
use crate::types::Schema;

pub struct JsonEncoder {}

impl JsonEncoder {
    /// Writes the named columns of batches of `schema`, in that order.
    pub fn new(_schema: &Schema, _columns: &[String]) -> Self {
        unimplemented!()
    }
    /// Appends one row as a compact JSON object.
    pub fn encode_row(&self, _batch: &Batch, _row: usize, _out: &mut Vec<u8>) {
        unimplemented!()
    }
}
