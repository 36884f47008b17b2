//! Complex event processing: patterns over the events of one key, with Flink CEP's semantics.
//!
//! A pattern becomes an automaton ([`automaton`]); its runs walk over the events and share what they took ([`buffer`]); which
//! matches are told, and in which order, is decided as in Flink ([`matcher`], [`heap`]). All of it is pure: events, time and
//! the user's conditions are handed in. Of Flink 2.3 it has the states, the edges, the versions, the order of everything and its
//! known faults; what makes Flink hang or fail is refused when the pattern is compiled.

pub mod automaton;
pub mod buffer;
pub mod event;
pub mod heap;
pub mod keyed;
pub mod matcher;
pub mod pattern;
pub mod saved;
pub mod waiting;

#[cfg(test)]
mod tests;

pub use automaton::{Automaton, Cap, CapPolicy};
pub use event::Event;
pub use matcher::{Best, Conditions, History, Known, Match, Run, Runs, Told};
pub use pattern::{Contiguity, Guard, Pattern, Skip, Stage, Times};
