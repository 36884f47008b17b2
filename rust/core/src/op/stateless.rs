//! Filters, projections, branches, merges: operators that remember nothing.

use std::sync::Arc;

use super::{Ctx, Message, Operator};
use crate::batch::Batch;
use crate::column::{reason, Bytes, Column, ColumnBuilder, Data, NULL, VALID};
use crate::error::Fatal;
use crate::expr::Compiled;
use crate::types::Schema;

fn rows(message: Message) -> Result<Batch, Fatal> {
    match message {
        Message::Rows(batch) => Ok(batch),
        _ => Err(Fatal::new("bad_plan", "an internal message reached an operator that does not know it")),
    }
}

/// Passes rows for which the condition is true; an error is a dead letter, anything else is counted by `reason`.
pub struct Filter {
    pub condition: Compiled,
    pub reason: String,
}

impl Operator for Filter {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let mut batch = rows(message)?;
        let verdict = self.condition.eval(&batch, ctx.foreign);
        let mut live = Vec::with_capacity(batch.live_len());
        let mut dropped = 0;
        for row in batch.live_rows() {
            if verdict.is_true(row) {
                live.push(row as u32);
            } else if verdict.state_at(row) > NULL {
                ctx.dead(&batch, row, reason(verdict.state_at(row)), verdict.message_at(row));
            } else {
                dropped += 1;
            }
        }
        ctx.count(&format!("filtered:{}", self.reason), dropped);
        if live.len() < batch.live_len() {
            batch.live = Some(live);
        }
        ctx.emit(0, Message::Rows(thin(batch)));
        Ok(())
    }
}

/// Conditions asked one after the other: a row comes to the next one if `on` says so. Only callables can tell.
fn in_turn<'a>(
    conditions: impl Iterator<Item = &'a Compiled>,
    batch: &Batch,
    ctx: &Ctx<'_>,
    on: impl Fn(&Column, usize) -> bool,
) -> Vec<Arc<Column>> {
    let mut asked = batch.clone();
    let mut verdicts: Vec<Arc<Column>> = vec![];
    let mut passed = 0;
    for condition in conditions {
        if condition.calls() {
            for verdict in &verdicts[passed..] {
                asked.live = Some(asked.live_rows().filter(|&r| on(verdict, r)).map(|r| r as u32).collect());
            }
            passed = verdicts.len();
        }
        verdicts.push(condition.eval(&asked, ctx.foreign));
    }
    verdicts
}

/// Copies a batch together once fewer than half of its rows live: kernels pay for dead rows.
fn thin(batch: Batch) -> Batch {
    if batch.live_len() * 2 < batch.rows {
        batch.compact()
    } else {
        batch
    }
}

/// Sends rows for which a rule is not true to the dead letters, with the rule's name as the reason.
pub struct Require {
    pub rules: Vec<(String, Compiled)>,
}

impl Operator for Require {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let mut batch = rows(message)?;
        let verdicts = in_turn(self.rules.iter().map(|r| &r.1), &batch, ctx, |verdict, row| verdict.is_true(row));
        let mut live = Vec::with_capacity(batch.live_len());
        for row in batch.live_rows() {
            match verdicts.iter().position(|v| !v.is_true(row)) {
                None => live.push(row as u32),
                Some(broken) => {
                    ctx.dead(&batch, row, &self.rules[broken].0, verdicts[broken].message_at(row));
                }
            }
        }
        if live.len() < batch.live_len() {
            batch.live = Some(live);
        }
        ctx.emit(0, Message::Rows(thin(batch)));
        Ok(())
    }
}

/// `with_columns` and `select`: each output column is an input column or an expression.
pub struct Project {
    pub schema: Arc<Schema>,
    pub columns: Vec<ProjectColumn>,
}

pub enum ProjectColumn {
    Input(usize),
    Computed(Compiled),
}

impl Operator for Project {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let batch = rows(message)?;
        let columns = self
            .columns
            .iter()
            .map(|c| match c {
                ProjectColumn::Input(i) => batch.columns[*i].clone(),
                ProjectColumn::Computed(e) => e.eval(&batch, ctx.foreign),
            })
            .collect();
        ctx.emit(0, Message::Rows(Batch { schema: self.schema.clone(), columns, ..batch }));
        Ok(())
    }
}

/// `map(fn, schema=…)`: a callable of the host language makes each row anew, one by one or many at once.
///
/// The callable reads whole rows: a value of a row that is an error makes a dead letter of it, and the callable never sees it.
pub struct Map {
    pub function: usize,
    pub schema: Arc<Schema>,
    pub way: Way,
}

/// How rows are handed to a callable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    OneByOne,
    /// To be asked about at the same time.
    Together,
    /// As columns.
    Batches,
}

/// As much text as 32-bit offsets reach, which is how the host gets a column of it.
const TEXT_MAX: usize = i32::MAX as usize;

/// A batch as one or several that have no column with more text than that.
fn parts(batch: Batch, text_max: usize) -> Vec<Batch> {
    let wide = |c: &Arc<Column>| matches!(&c.data, Data::Str(b) if b.bytes.len() > text_max);
    if batch.rows < 2 || !batch.columns.iter().any(wide) {
        return vec![batch];
    }
    let middle = batch.rows as u32 / 2;
    [0..middle, middle..batch.rows as u32]
        .into_iter()
        .flat_map(|rows| parts(Batch { live: Some(rows.collect()), ..batch.clone() }.compact(), text_max))
        .collect()
}

impl Operator for Map {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let mut batch = rows(message)?;
        let read: Vec<Arc<Column>> = batch
            .schema
            .fields
            .iter()
            .zip(&batch.columns)
            .filter(|(field, column)| !field.name.starts_with('$') && column.state.is_some())
            .map(|(_, column)| column.clone())
            .collect();
        let mut whole = Vec::with_capacity(batch.live_len());
        for row in batch.live_rows() {
            match read.iter().find(|c| c.state_at(row) > NULL) {
                None => whole.push(row as u32),
                Some(c) => ctx.dead(&batch, row, reason(c.state_at(row)), c.message_at(row)),
            }
        }
        if whole.len() < batch.live_len() {
            batch.live = Some(whole);
        }
        let parts = match self.way {
            Way::Batches => parts(batch.compact(), TEXT_MAX),
            Way::OneByOne | Way::Together => vec![batch.compact()],
        };
        parts.into_iter().try_for_each(|batch| self.made(batch, ctx))
    }
}

impl Map {
    fn made(&self, batch: Batch, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let columns = match self.way {
            Way::OneByOne => ctx.foreign.map(self.function, &batch, &self.schema),
            Way::Together => ctx.foreign.map_async(self.function, &batch, &self.schema),
            Way::Batches => ctx
                .foreign
                .map_batches(self.function, &batch, &self.schema)
                .map_err(|said| Fatal::new("target_unavailable", said))?,
        };
        let mut live = Vec::with_capacity(batch.rows);
        for row in 0..batch.rows {
            match columns.iter().find(|c| c.state_at(row) > NULL) {
                None => live.push(row as u32),
                Some(c) => ctx.dead(&batch, row, reason(c.state_at(row)), c.message_at(row)),
            }
        }
        let all = live.len() == batch.rows;
        let columns = columns.into_iter().map(Arc::new).collect();
        let live = (!all).then_some(live);
        ctx.emit(0, Message::Rows(Batch { schema: self.schema.clone(), columns, live, key: None, ..batch }));
        Ok(())
    }
}

/// Sends each row to the port of the first condition that is true, or to the last port.
pub struct Branch {
    pub conditions: Vec<Compiled>,
}

impl Operator for Branch {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let batch = rows(message)?;
        let on = |verdict: &Column, row| verdict.state_at(row) <= NULL && !verdict.is_true(row);
        let verdicts = in_turn(self.conditions.iter(), &batch, ctx, on);
        let mut ports: Vec<Vec<u32>> = vec![vec![]; self.conditions.len() + 1];
        'rows: for row in batch.live_rows() {
            for (port, verdict) in verdicts.iter().enumerate() {
                // An error counts only when it is reached: an earlier branch may have taken the row.
                if verdict.state_at(row) > NULL {
                    ctx.dead(&batch, row, reason(verdict.state_at(row)), verdict.message_at(row));
                    continue 'rows;
                }
                if verdict.is_true(row) {
                    ports[port].push(row as u32);
                    continue 'rows;
                }
            }
            ports[self.conditions.len()].push(row as u32);
        }
        for (port, live) in ports.into_iter().enumerate() {
            if !live.is_empty() {
                ctx.emit(port, Message::Rows(thin(Batch { live: Some(live), ..batch.clone() })));
            }
        }
        Ok(())
    }
}

/// New values of a table as a stream; old ones stay behind.
pub struct ToStream;

impl Operator for ToStream {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, _: usize, message: Message, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let mut batch = rows(message)?;
        if let Some(sign) = batch.sign.take() {
            batch.live = Some(batch.live_rows().filter(|&r| sign[r] > 0).map(|r| r as u32).collect());
            batch = thin(batch);
        }
        ctx.emit(0, Message::Rows(batch));
        Ok(())
    }
}

/// Several streams as one, in processing order (and depth-first where one row came by several ways).
pub struct Merge {
    pub schema: Arc<Schema>,
    /// Per input: where each output column lies in it.
    pub columns: Vec<Vec<usize>>,
    pub held: Vec<Batch>,
}

impl Operator for Merge {
    fn in_memory(&self) -> bool {
        false
    }
    fn process(&mut self, input: usize, message: Message, _: &mut Ctx<'_>) -> Result<(), Fatal> {
        let batch = rows(message)?;
        if batch.is_empty() {
            return Ok(());
        }
        let columns = self.columns[input].iter().map(|&i| batch.columns[i].clone()).collect();
        self.held.push(Batch { schema: self.schema.clone(), columns, ..batch });
        Ok(())
    }

    fn end_batch(&mut self, ctx: &mut Ctx<'_>) -> Result<(), Fatal> {
        let held = std::mem::take(&mut self.held);
        if held.len() == 1 {
            held.into_iter().for_each(|batch| ctx.emit(0, Message::Rows(batch)));
        } else if !held.is_empty() {
            ctx.emit(0, Message::Rows(interleave(&held, &self.schema)));
        }
        Ok(())
    }
}

/// One batch of several, ordered by (seq, path).
fn interleave(batches: &[Batch], schema: &Arc<Schema>) -> Batch {
    let mut order: Vec<(u32, u32, u32, u32)> = Vec::new();
    for (b, batch) in batches.iter().enumerate() {
        for row in batch.live_rows() {
            let path = batch.path.as_ref().map_or(0, |p| p[row]);
            order.push((batch.seq[row], path, b as u32, row as u32));
        }
    }
    order.sort_by_key(|o| (o.0, o.1));
    let mut origins = vec![];
    let mut origin_base = vec![];
    for batch in batches {
        origin_base.push(origins.len() as u32);
        origins.extend(batch.origins.iter().cloned());
    }
    let columns = (0..schema.len())
        .map(|c| {
            let parts: Vec<&Column> = batches.iter().map(|b| &*b.columns[c]).collect();
            Arc::new(gather(&parts, &schema.fields[c].dtype, order.iter().map(|o| (o.2 as usize, o.3 as usize))))
        })
        .collect();
    let has_origin = batches.iter().all(|b| b.origin_rows.is_some());
    let pick = |f: &dyn Fn(&Batch, usize) -> i64| -> Vec<i64> {
        order.iter().map(|o| f(&batches[o.2 as usize], o.3 as usize)).collect()
    };
    let keyed = batches.iter().all(|b| b.key.is_some());
    Batch {
        schema: schema.clone(),
        columns,
        rows: order.len(),
        live: None,
        seq: Arc::new(order.iter().map(|o| o.0).collect()),
        path: Some(Arc::new(order.iter().map(|o| o.1).collect())),
        ts: Arc::new(pick(&|b, r| b.ts[r])),
        key: keyed.then(|| {
            let mut out = Bytes::default();
            for o in &order {
                out.push(batches[o.2 as usize].key.as_ref().map_or(&[][..], |k| k.get(o.3 as usize)));
            }
            Arc::new(out)
        }),
        sign: None,
        lane: batches[0].lane,
        stamp: None,
        origins: Arc::new(origins),
        origin_rows: has_origin.then(|| {
            Arc::new(
                order
                    .iter()
                    .map(|o| {
                        let rows = batches[o.2 as usize].origin_rows.as_ref().map_or((0, 0), |r| r[o.3 as usize]);
                        (rows.0 + origin_base[o.2 as usize], rows.1)
                    })
                    .collect(),
            )
        }),
    }
}

/// Rows of several columns of one type (enums of different sets meet as text).
fn gather(
    parts: &[&Column],
    dtype: &crate::types::DataType,
    rows: impl Iterator<Item = (usize, usize)> + Clone,
) -> Column {
    let mut out = ColumnBuilder::new(dtype.clone());
    let mut messages = vec![];
    for (i, (part, row)) in rows.enumerate() {
        let column = parts[part];
        if let Some(m) = column.message_at(row) {
            messages.push((i as u32, m.to_string()));
        }
        match column.state_at(row) {
            VALID => match (&column.data, &out.data) {
                (Data::Bool(v), _) => out.push_bool(v[row] != 0),
                (Data::I64(v), _) => out.push_i64(v[row]),
                (Data::F64(v), _) => out.push_f64(v[row]),
                (Data::I128(v), _) => out.push_i128(v[row]),
                (Data::Code(v), Data::Code(_)) if &column.dtype == dtype => out.push_code(v[row]),
                _ => match dtype {
                    crate::types::DataType::Str => out.push_str(column.text_at(row)),
                    _ => out.push_value(&column.value_at(row)),
                },
            },
            state => out.push_state(state),
        }
    }
    let mut column = out.finish();
    column.messages = (!messages.is_empty()).then(|| Arc::new(messages));
    column
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::DataType;

    #[test]
    fn a_batch_with_much_text_is_cut_and_no_row_is_lost() {
        let texts: Vec<String> = (0..50).map(|i| "x".repeat(i * 7 % 11)).collect();
        let mut column = ColumnBuilder::new(DataType::Str);
        texts.iter().for_each(|t| column.push_str(t.as_bytes()));
        let rows = texts.len();
        let batch = Batch {
            schema: Arc::new(Schema::new([("t", DataType::Str)])),
            columns: vec![Arc::new(column.finish())],
            rows,
            live: None,
            seq: Arc::new((0..rows as u32).collect()),
            path: None,
            ts: Arc::new((0..rows as i64).collect()),
            key: None,
            sign: None,
            lane: 0,
            stamp: None,
            origins: Arc::new(vec![]),
            origin_rows: None,
        };
        assert_eq!(parts(batch.clone(), TEXT_MAX).len(), 1);
        for text_max in [0, 1, 10, 40, 200] {
            let cut = parts(batch.clone(), text_max);
            assert!(cut.len() > 1, "{text_max}");
            for part in &cut {
                let Data::Str(text) = &part.columns[0].data else { unreachable!() };
                assert!(part.rows == 1 || text.bytes.len() <= text_max, "{text_max}");
            }
            let found = cut.iter().flat_map(|p| (0..p.rows).map(|r| (p.seq[r], p.columns[0].text_at(r).to_vec())));
            assert!(found.eq(texts.iter().enumerate().map(|(i, t)| (i as u32, t.clone().into_bytes()))), "{text_max}");
        }
    }
}
