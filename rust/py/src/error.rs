//! `CoreError`: both kinds of the core's errors as one exception with fields.

use adstream_core::error::{Fatal, PlanError};
use pyo3::create_exception;
use pyo3::exceptions::PyException;
use pyo3::prelude::*;

create_exception!(_core, CoreError, PyException, "A plan that cannot be built, or a state that must not go on.");

/// `args` is `(kind, code, message, hint, node)`.
pub fn plan_error(e: PlanError) -> PyErr {
    CoreError::new_err(("plan", e.code, e.message, e.hint, e.node))
}

pub fn fatal_error(e: Fatal) -> PyErr {
    CoreError::new_err(("fatal", e.code, e.message, None::<String>, None::<usize>))
}
