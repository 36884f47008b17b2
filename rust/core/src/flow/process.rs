//! Processors of the user: code of the host language with its own stores, punctuations and a say in who gets what.
//!
//! The host makes one instance per task ([`Foreign::processor`](crate::expr::Foreign::processor)), which is told what
//! happens ([`Processor`]) and reaches back through the [`Cx`] of the call: it forwards, reads and writes the stores it is
//! connected to, schedules. All of it is synchronous; nothing of a `Cx` outlives the call.
//!
//! *Lives.* An instance begins before the first record and ends with the task. A rollback ends it, too: what it had in
//! fields of its own cannot be undone, what it had in stores can, so the next record meets a new one.

use serde::Deserialize;

use super::schedule::Clock;
use super::{Cx, Done, Failure, Node, Record};
use crate::datum::Datum;
use crate::error::Fatal;

/// An instance. Dropping it closes it.
pub trait Processor: Send {
    fn init(&mut self, cx: Cx<'_>) -> Done;
    fn process(&mut self, record: Record, cx: Cx<'_>) -> Done;
    /// Of a transformer: the value in place of another.
    fn transform(&mut self, key: &Datum, value: &Datum, cx: Cx<'_>) -> Result<Datum, Failure>;
    /// A schedule of its own is due; `time` is the clock's.
    fn punctuate(&mut self, schedule: u64, time: i64, cx: Cx<'_>) -> Done;
}

/// What an instance may reach, and how it is called.
#[derive(Clone, Debug, Default)]
pub struct Access {
    pub node: String,
    pub subtopology: usize,
    /// The stores it is connected to: name, and place in the graph.
    pub stores: Vec<(String, usize)>,
    /// Its named outputs, by port from 1 on.
    pub outputs: Vec<String>,
    /// It may not change keys.
    pub fixed_key: bool,
    /// It returns values, and forwards nothing.
    pub transforms: bool,
}

#[derive(Deserialize)]
pub struct Parameters {
    /// The host's function that makes instances.
    pub factory: usize,
    #[serde(default)]
    pub fixed_key: bool,
    #[serde(default)]
    pub outputs: Vec<String>,
    #[serde(default)]
    pub stores: Vec<String>,
}

pub struct Process {
    factory: usize,
    access: Access,
    host: Option<Box<dyn Processor>>,
}

impl Process {
    pub fn new(factory: usize, access: Access) -> Process {
        Process { factory, access, host: None }
    }
}

impl Node for Process {
    fn begin(&mut self, cx: Cx<'_>) -> Done {
        let made = cx.env.foreign.processor(self.factory, &self.access);
        let fail = |text: String| Fatal::new("processor_failed", format!("`{}` cannot be made: {text}", cx.name()));
        let host = self.host.insert(made.map_err(fail)?);
        cx.graph.schedules.borrow_mut().begin(cx.node);
        let done = host.init(cx);
        cx.graph.schedules.borrow_mut().begun();
        match done {
            Err(super::Failure::Bad(_, text)) => {
                Err(Fatal::new("processor_failed", format!("`{}`: init: {text}", cx.name())).into())
            }
            other => other,
        }
    }

    fn process(&mut self, _: usize, record: Record, cx: Cx<'_>) -> Done {
        match &mut self.host {
            Some(host) => host.process(record, cx),
            None => Err(Fatal::new("bad_plan", "a processor was not begun").into()),
        }
    }

    fn fire(&mut self, schedule: u64, clock: Clock, cx: Cx<'_>) -> Done {
        let time = cx.time(clock);
        self.host.as_mut().map_or(Ok(()), |host| host.punctuate(schedule, time, cx))
    }

    fn restored(&mut self, _: Cx<'_>) {
        self.host = None;
    }
}
