//! `operator local`: realises a tier as processes on this machine.

pub mod backoff;
pub mod logs;
pub mod ports;
pub mod process;
pub mod store;
