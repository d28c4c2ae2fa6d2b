//! The operator: from `PgPoolCluster` objects to running connection tiers.
//!
//! Reading order: [`api`] is what users write, [`manifest`] reads it from
//! files, [`controller`] turns it into a description of a tier, [`local`]
//! realises that as processes, [`kubernetes`] as objects of a cluster. [`watch`] asks the endpoints, [`endpoints`]
//! judges what they say, [`notify`] decides what people are told, [`courier`]
//! tells them in the form that each channel takes ([`slack`], [`json_webhook`],
//! [`alertmanager`]), [`heartbeat`] tells others that we live, [`overview`] shows people who ask.

pub mod alertmanager;
pub mod api;
pub mod controller;
pub mod courier;
pub mod destination;
pub mod endpoints;
pub mod heartbeat;
pub mod http;
pub mod json_webhook;
pub mod kubernetes;
pub mod local;
pub mod manifest;
pub mod metrics;
pub mod notify;
pub mod notify_test;
pub mod overview;
mod random;
pub mod slack;
pub mod watch;
pub mod webhook;

#[cfg(test)]
mod golden;
