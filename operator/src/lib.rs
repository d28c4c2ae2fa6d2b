//! The operator: from `PgPoolCluster` objects to running connection tiers.
//!
//! Reading order: [`api`] is what users write, [`manifest`] reads it from
//! files, [`controller`] turns it into a description of a tier, [`local`]
//! realises that as processes, [`kubernetes`] as objects of a cluster. [`watch`] asks the endpoints, [`endpoints`]
//! judges what they say, [`notify`] decides what people are told, [`slack`]
//! tells them, [`overview`] shows people who ask.

pub mod api;
pub mod controller;
pub mod endpoints;
pub mod http;
pub mod kubernetes;
pub mod local;
pub mod manifest;
pub mod metrics;
pub mod notify;
pub mod overview;
mod random;
pub mod slack;
pub mod watch;
pub mod webhook;

#[cfg(test)]
mod golden;
