//! What can go wrong, by what the caller should do about it.
//!
//! - [`PlanError`]: the topology is wrong; fix it. Carries a stable code, the operation's node and one remedy.
//! - [`Fatal`]: this process must not go on (a corrupt shuffle, an unreadable state): stop, restore, report.
//!
//! A bad *record* is neither: it is data (see [`crate::column`]) and goes to the dead letters.

use std::fmt;

#[derive(Clone, Debug, PartialEq)]
pub struct PlanError {
    /// Stable, snake_case (`unknown_column`).
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
    /// The logical node it belongs to, once known.
    pub node: Option<usize>,
}

impl PlanError {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        PlanError { code, message: message.into(), hint: None, node: None }
    }
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    pub fn at(mut self, node: usize) -> Self {
        self.node.get_or_insert(node);
        self
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "\nhint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for PlanError {}

#[derive(Clone, Debug, PartialEq)]
pub struct Fatal {
    pub code: &'static str,
    pub message: String,
}

impl Fatal {
    pub fn new(code: &'static str, message: impl Into<String>) -> Self {
        Fatal { code, message: message.into() }
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}]", self.message, self.code)
    }
}

impl std::error::Error for Fatal {}
