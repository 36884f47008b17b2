//! An event as a pattern's state has it: as it came, or as the bytes that are stored.
//!
//! Most taken events are looked at when their match is told and never before. When a key's state is stored they become the bytes that
//! are written, which take a quarter of the memory and cost nothing to read or to write again; who looks at one reads it there.

use std::borrow::Cow;
use std::fmt;

use crate::datum::Datum;
use crate::wire::{Reader, Writer};

#[derive(Clone)]
pub enum Event {
    Live(Datum),
    /// What [`Datum::encode`] says of it.
    Kept(Box<[u8]>),
}

impl Event {
    pub fn datum(&self) -> Cow<'_, Datum> {
        match self {
            Event::Live(datum) => Cow::Borrowed(datum),
            Event::Kept(bytes) => {
                Cow::Owned(Datum::decode(&mut Reader::new(bytes)).expect("it was checked, or written"))
            }
        }
    }

    pub fn into_datum(self) -> Datum {
        match self {
            Event::Live(datum) => datum,
            kept => kept.datum().into_owned(),
        }
    }

    /// It is bytes from now on. The error is the host's, for a value of its own that cannot become bytes.
    pub fn keep(&mut self) -> Result<(), String> {
        if let Event::Live(datum) = self {
            *self = Event::Kept(datum.to_bytes()?.into());
        }
        Ok(())
    }

    /// Its bytes, which are not decoded but checked.
    pub fn read(r: &mut Reader<'_>) -> Option<Event> {
        let before = r.rest;
        Datum::skip(r)?;
        Some(Event::Kept(before[..before.len() - r.rest.len()].into()))
    }

    pub fn encode(&self, w: &mut Writer) -> Result<(), String> {
        match self {
            Event::Live(datum) => datum.encode(w)?,
            Event::Kept(bytes) => w.raw(bytes),
        }
        Ok(())
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.datum() == other.datum()
    }
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.datum().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_event_is_what_it_was() {
        let datum = Datum::List([Datum::str("a"), Datum::Int(-7), Datum::Decimal(-1250, 2), Datum::Null].into());
        let mut event = Event::Live(datum.clone());
        event.keep().unwrap();
        assert_eq!(*event.datum(), datum);
        let mut w = Writer::default();
        event.encode(&mut w).unwrap();
        w.u8(9);
        let mut r = Reader::new(&w.bytes);
        assert_eq!(Event::read(&mut r).unwrap().into_datum(), datum);
        assert_eq!(r.rest, [9]);
    }
}
