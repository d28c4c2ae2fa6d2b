//! What tests of the real binaries need: processes, HTTP, name servers, waiting.

#[allow(dead_code, reason = "not every test asks it everything")]
pub mod dns;
#[allow(dead_code, reason = "not every test asks it everything")]
pub mod http;
pub mod process;

use std::{
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

/// Nothing in a test takes longer.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `found` gives something.
#[track_caller]
pub fn wait_for<T>(what: &str, mut found: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = found() {
            return value;
        }
        assert!(Instant::now() < deadline, "waited in vain for {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

/// A connection that gives up after [`PATIENCE`].
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}
