//! The operator: from `PgPoolCluster` objects to running connection tiers.
//!
//! Reading order: [`api`] is what users write, [`manifest`] reads it from
//! files, [`controller`] turns it into a description of a tier.

pub mod api;
pub mod controller;
pub mod endpoints;
pub mod local;
pub mod manifest;
pub mod metrics;
pub mod notify;
pub mod slack;
pub mod watch;
pub mod webhook;

#[cfg(test)]
mod golden;
