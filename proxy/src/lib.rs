//! The pooler and the balancer: sockets and tasks around [`proxy_core`].

pub mod balancer;
pub mod http;
pub mod metrics;
pub mod net;
pub mod pooler;
pub mod telemetry;
