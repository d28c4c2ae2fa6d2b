//! The pooler and the balancer: sockets and tasks around [`proxy_core`].

pub mod balancer;
pub mod boot;
pub mod metrics;
pub mod net;
pub mod pooler;
pub mod resolve;
pub mod telemetry;

/// A loop that panicked leaves its sessions hanging: the process ends, and its
/// supervisor starts a clean one. Release builds abort on any panic.
struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}
