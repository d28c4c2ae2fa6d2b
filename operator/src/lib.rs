//! The operator.

pub mod api;
#[cfg(test)]
mod golden;
