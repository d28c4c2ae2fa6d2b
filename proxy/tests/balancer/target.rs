//! Targets that do as told.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use proxy_core::wire::{CheckRequest, FirstPacket, TargetReport, TargetState, first_packet};

use crate::support::wait_for;

/// A pooler to its balancer: answers checks with a report. To a client it
/// greets with its name and echoes; at the client's end it says `bye`.
pub struct Target {
    pub name: String,
    pub address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    name: String,
    report: Mutex<TargetReport>,
    frozen: AtomicBool,
    closing: AtomicBool,
    checks: AtomicU32,
    /// Every connection, to be closed at the end.
    connections: Mutex<Vec<TcpStream>>,
}

impl Target {
    /// A ready one.
    pub fn start(name: &str) -> Self {
        Self::on(name, TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// A ready one that listens there.
    pub fn on(name: &str, listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            report: Mutex::new(TargetReport {
                upstream: None,
                saturation: None,
                version: None,
                state: TargetState::Ready,
                boot_id: format!("{name}-boot-1"),
                name: Some(format!("{name}.example")),
                config_revision: Some("r1".into()),
                clients: 5,
                waiting: 2,
            }),
            frozen: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            checks: AtomicU32::new(0),
            connections: Mutex::default(),
        });
        let mut target = Self {
            name: name.to_owned(),
            address,
            shared,
            acceptor: None,
        };
        target.accept(listener);
        target
    }

    /// Changes what it says of itself.
    pub fn report(&self, change: impl FnOnce(&mut TargetReport)) {
        change(&mut self.shared.report.lock().unwrap());
    }

    /// From now on it answers nothing, as a stopped process, or does again.
    pub fn freeze(&self, frozen: bool) {
        self.shared.frozen.store(frozen, SeqCst);
    }

    /// Checks answered or left unanswered.
    pub fn checks(&self) -> u32 {
        self.shared.checks.load(SeqCst)
    }

    /// Closes its port; its sessions go on.
    pub fn close_port(&mut self) {
        if let Some(acceptor) = self.acceptor.take() {
            self.shared.closing.store(true, SeqCst);
            // Ends its wait for a connection.
            let _ = TcpStream::connect(self.address);
            acceptor.join().unwrap();
            // A process that another test is starting holds a copy of the
            // listening socket until its exec.
            wait_for("the port to close", || {
                TcpStream::connect(self.address).err()
            });
        }
    }

    /// Ends as a killed process does: port and sessions.
    pub fn kill(&mut self) {
        self.close_port();
        for connection in self.shared.connections.lock().unwrap().drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Listens again on the same port.
    pub fn open_port(&mut self) {
        self.shared.closing.store(false, SeqCst);
        self.accept(TcpListener::bind(self.address).unwrap());
    }

    fn accept(&mut self, listener: TcpListener) {
        let shared = self.shared.clone();
        self.acceptor = Some(std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                if shared.closing.load(SeqCst) {
                    return;
                }
                let kept = stream.try_clone().unwrap();
                shared.connections.lock().unwrap().push(kept);
                let shared = shared.clone();
                std::thread::spawn(move || {
                    // A client or balancer that hangs up is no failure here.
                    let _ = shared.serve(stream);
                });
            }
        }));
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Shared {
    fn serve(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut received = Vec::new();
        let parameters = loop {
            let mut bytes = [0; 1024];
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return stream.shutdown(Shutdown::Both);
            }
            received.extend_from_slice(&bytes[..count]);
            match first_packet(&received) {
                Ok(Some((FirstPacket::Startup(parameters), length))) => {
                    received.drain(..length);
                    break parameters;
                }
                Ok(None) => {}
                other => panic!("{other:?}"),
            }
        };
        let check = CheckRequest::read(&parameters).is_some();
        if check {
            self.checks.fetch_add(1, SeqCst);
        }
        if self.frozen.load(SeqCst) {
            // `connections` keeps it open.
            return Ok(());
        }
        if check {
            let report = self.report.lock().unwrap().encode();
            stream.write_all(&report)?;
            return stream.shutdown(Shutdown::Both);
        }
        stream.write_all(format!("{}\n", self.name).as_bytes())?;
        stream.write_all(&received)?;
        let mut bytes = vec![0; 64 * 1024];
        loop {
            let count = stream.read(&mut bytes)?;
            if self.frozen.load(SeqCst) {
                return Ok(());
            }
            if count == 0 {
                stream.write_all(b"bye\n")?;
                return stream.shutdown(Shutdown::Both);
            }
            stream.write_all(&bytes[..count])?;
        }
    }
}
