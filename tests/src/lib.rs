//! The harness: builders for PostgreSQL, pooler, balancer and operator, and
//! the few clients that scenarios and `cargo xtask` need to drive them.
//!
//! Every builder starts a real process on a port of its own, waits until it
//! serves, and ends it when dropped, also when a test panics. A process whose
//! test is killed ends with it, and what it left on disk goes at the next start.
//!
//! Reading order: [`Scratch`] and [`Child`] own what must be cleaned up, and
//! [`Daemon`] is what our servers have in common;
//! [`Postgres`], [`Pooler`], [`Balancer`], [`Operator`] and [`Inbox`] are the
//! parts of a tier, [`kubernetes`] is what it may run on; [`Raw`], [`Pgbench`] and [`psql`] drive them.

pub mod balancer;
pub mod binaries;
mod certificate;
mod child;
mod daemon;
pub mod http;
mod inbox;
pub mod kubernetes;
pub mod load;
mod operator;
pub mod pgbench;
pub mod pooler;
pub mod ports;
mod postgres;
pub mod psql;
pub mod raw;
pub mod readme;
mod scratch;
pub mod wait;

pub use balancer::{Balancer, BalancerBuilder};
pub use certificate::{Authority, Certificate, Validity};
pub use child::{As, Child, CpuTime, Memory, Signal, command, cpu_time, descriptors, memory};
pub use daemon::Daemon;
pub use inbox::{Answer, Inbox, Message};
pub use kubernetes::{ControlPlane, ControlPlaneBuilder};
pub use load::Load;
pub use operator::{Operator, OperatorBuilder, Part};
pub use pgbench::{Pgbench, Report};
pub use pooler::{Pooler, PoolerBuilder};
pub use postgres::{Postgres, PostgresBuilder};
pub use raw::Raw;
pub use scratch::Scratch;
