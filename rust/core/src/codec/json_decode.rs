use crate::codec::Decoded;
use crate::error::PlanError;
use crate::raw::OptBytes;
use crate::types::DataType;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum TimeUnit {
    Rfc3339,
    Seconds,
    Millis,
    Micros,
}

#[derive(Clone, Debug)]
pub struct JsonField {
    pub name: String,
    pub path: Vec<String>,
    pub dtype: DataType,
    pub nullable: bool,
    pub unit: TimeUnit,
    pub zone: Option<String>,
    pub content_id: bool,
}

pub struct JsonDecoder {}

impl JsonDecoder {
    pub fn new(_fields: Vec<JsonField>) -> Result<Self, PlanError> {
        unimplemented!()
    }
    pub fn decode(&mut self, _payloads: &OptBytes) -> Decoded {
        unimplemented!()
    }
}
