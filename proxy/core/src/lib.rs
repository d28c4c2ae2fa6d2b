//! Every decision of the pooler and the balancer, with no I/O.
//!
//! The types here take events and a clock reading and return actions. The same
//! types run in production, in seeded simulations and in fuzzers.
//!
//! Reading order: [`wire`] turns bytes into messages, [`session`] follows one
//! client and says when it needs a server and when it gives it back, [`pool`]
//! lends servers, [`balance`] picks a target, [`health`] judges observations.

pub mod auth;
pub mod balance;
pub mod config;
pub mod health;
pub mod login;
pub mod parameters;
pub mod peer;
pub mod pool;
mod sabotage;
pub mod saturation;
pub mod session;
pub mod shared_key;
#[cfg(test)]
mod simulation;
pub mod statement;
pub mod status;
pub mod upstream;
pub mod wire;
