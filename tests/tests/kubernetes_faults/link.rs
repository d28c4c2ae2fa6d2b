//! A network between two parties that can be cut, in one direction or both.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU8, Ordering},
    },
    thread,
};

use anyhow::Result;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Passes {
    Everything = 0,
    /// What is asked arrives and is done; the answers are lost.
    Requests = 1,
    Nothing = 2,
    /// Connections break, and new ones do as soon as they begin.
    NoConnection = 3,
}

/// Relays connections to an address. What is lost is never delivered later, as
/// with packets that nobody sends again. Its threads end with its connections.
pub(crate) struct Link {
    address: SocketAddr,
    passes: Arc<AtomicU8>,
    /// Whoever came, to be cut off.
    near: Arc<Mutex<Vec<TcpStream>>>,
}

impl Link {
    pub(crate) fn to(target: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let link = Self {
            address: listener.local_addr()?,
            passes: Arc::default(),
            near: Arc::default(),
        };
        let (passes, all) = (link.passes.clone(), link.near.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                if passes.load(Ordering::SeqCst) == Passes::NoConnection as u8 {
                    continue;
                }
                if let Ok(near) = near.try_clone() {
                    all.lock().expect("nobody panics holding it").push(near);
                }
                let Ok(far) = TcpStream::connect(target) else {
                    continue;
                };
                if let (Ok(near_too), Ok(far_too)) = (near.try_clone(), far.try_clone()) {
                    let requests = passes.clone();
                    thread::spawn(move || relay(near, far, &requests, Passes::Requests));
                    let answers = passes.clone();
                    thread::spawn(move || relay(far_too, near_too, &answers, Passes::Everything));
                }
            }
        });
        Ok(link)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on. Connections that lost something are of no use afterwards.
    pub(crate) fn let_pass(&self, passes: Passes) {
        self.passes.store(passes as u8, Ordering::SeqCst);
        if passes == Passes::NoConnection {
            let mut near = self.near.lock().expect("nobody panics holding it");
            for stream in near.drain(..) {
                let _ = stream.shutdown(Shutdown::Both);
            }
        }
    }
}

/// Copies one direction, as long as no more is cut than `most`. What has lost
/// something goes on losing, so that no stream continues with a gap.
fn relay(mut from: TcpStream, mut to: TcpStream, passes: &AtomicU8, most: Passes) {
    let mut buffer = [0; 16 * 1024];
    let mut lost = false;
    while let Ok(count) = from.read(&mut buffer) {
        if count == 0 {
            break;
        }
        lost |= passes.load(Ordering::SeqCst) > most as u8;
        if !lost && to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
