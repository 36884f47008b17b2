//! Plans: what the DSL said ([`logical`]), what was understood of it ([`Plan`]), and the operators that do it ([`lower`]).
//!
//! A plan is cut into *sub-topologies* at every shuffle; a task is one sub-topology on one partition. All checks happen
//! here, once: names, types, keys. The schema a node works on holds only the columns that something downstream reads.

mod describe;
pub mod logical;
mod lower;

pub use logical::{Plan, SinkInfo, SubTopology};
pub use lower::{feeds, lower, Lowered, Physical, Route, SourceKind};
