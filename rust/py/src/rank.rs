//! `adstream._core.Ranking`: bids kept in order. What it means: `rust/core/src/rank.rs`.

use std::sync::Arc;

use adstream_core::rank::{Bid, Ranking, Refused};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

#[pyclass(name = "Ranking", module = "adstream._core")]
pub struct PyRanking(Ranking);

fn refused(refused: Refused) -> PyErr {
    PyValueError::new_err(match refused {
        Refused::Amount => "an amount is negative, or 10^13 or more",
        Refused::Rate => "a rate is not between 0 and 1: per cent are divided by 100 first",
    })
}

#[pymethods]
impl PyRanking {
    #[new]
    fn new(reserve: i64, tick: i64) -> Self {
        PyRanking(Ranking::new(reserve, tick))
    }

    fn __len__(&self) -> usize {
        self.0.len()
    }

    fn put(&mut self, id: &str, bid: i64, ctr: i64, cvr: i64, value: i64, since: i64) -> PyResult<bool> {
        self.0.put(id, Bid { bid, ctr, cvr, value, since }).map_err(refused)
    }

    fn put_many(
        &mut self,
        ids: Vec<String>,
        bids: Vec<i64>,
        ctrs: Vec<i64>,
        cvrs: Vec<i64>,
        values: Vec<i64>,
        since: Vec<i64>,
    ) -> PyResult<()> {
        if [bids.len(), ctrs.len(), cvrs.len(), values.len(), since.len()].iter().any(|n| *n != ids.len()) {
            return Err(PyValueError::new_err("the columns have different lengths"));
        }
        let rows = ids.into_iter().enumerate().map(|(i, id)| {
            let bid = Bid { bid: bids[i], ctr: ctrs[i], cvr: cvrs[i], value: values[i], since: since[i] };
            (Arc::from(id), bid)
        });
        self.0.put_many(rows).map_err(refused)
    }

    fn remove(&mut self, id: &str) -> bool {
        self.0.remove(id)
    }

    /// (id, score, bid, price) of the first `k`.
    fn top(&self, k: usize) -> Vec<(String, String, i64, i64)> {
        let lines = self.0.top(k).into_iter();
        lines.map(|line| (line.id.to_string(), line.score, line.bid, line.price)).collect()
    }
}
