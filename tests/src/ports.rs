//! Ports for processes that must be told one in advance.
//!
//! A port found free and let go may be taken by another test process before
//! the server binds it. So each process of ours holds, by a file lock for as
//! long as it lives, a block of ports below the range that the kernel gives to
//! outgoing connections, and hands out only those.

use std::{
    fs::File,
    net::TcpListener,
    sync::{
        Mutex,
        atomic::{AtomicU16, Ordering},
    },
};

use anyhow::{Context, Result, bail};

use crate::scratch;

const FIRST: u16 = 10_000;
const BLOCK: u16 = 100;
const BLOCKS: u16 = 70;

struct Block {
    first: u16,
    next: AtomicU16,
    _lock: File,
}

static HELD: Mutex<Option<Block>> = Mutex::new(None);

/// A port that nothing listens on and no other process of ours will be given.
///
/// # Errors
/// When every port of the block is taken.
pub fn free() -> Result<u16> {
    let mut held = HELD
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    if held.is_none() {
        let (index, lock) = lock_one("ports", BLOCKS)?;
        *held = Some(Block {
            first: FIRST + index * BLOCK,
            next: AtomicU16::new(0),
            _lock: lock,
        });
    }
    let block = held.as_ref().expect("was just made");
    (0..BLOCK)
        .map(|_| block.first + block.next.fetch_add(1, Ordering::Relaxed) % BLOCK)
        .find(|&port| is_free(port))
        .context("every port of this process is taken")
}

/// Whether nothing listens on `port` of any address.
#[must_use]
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("0.0.0.0", port)).is_ok()
}

/// A `--port-offset` for a tier, held until dropped: every well-known port,
/// moved by it, is free.
#[derive(Debug)]
pub struct Offset {
    /// What to add to the well-known ports.
    pub ports: u16,
    _lock: Option<File>,
}

/// The ports that a tier of two balancers takes, before any offset.
pub const WELL_KNOWN: [u16; 4] = [5432, 8404, 8405, 8080];

/// Steps of ten: then no two offsets can bring two different well-known ports together.
const OFFSET_FIRST: u16 = 12_000;
const OFFSETS: u16 = 780;

impl Offset {
    /// None if all well-known ports are free, else some other.
    ///
    /// # Errors
    /// When no offset is free.
    pub fn zero_or_free() -> Result<Self> {
        if WELL_KNOWN.iter().all(|&port| is_free(port)) {
            return Ok(Self {
                ports: 0,
                _lock: None,
            });
        }
        Self::free()
    }

    /// One that another already holds.
    #[must_use]
    pub(crate) fn shared(ports: u16) -> Self {
        Self { ports, _lock: None }
    }

    /// One that no other process of ours uses.
    ///
    /// # Errors
    /// When no offset is free.
    pub fn free() -> Result<Self> {
        let mut from = 0;
        loop {
            let (index, lock) = lock_from("offset", from, OFFSETS)?;
            let ports = OFFSET_FIRST + index * 10;
            if WELL_KNOWN.iter().all(|&port| is_free(port + ports)) {
                return Ok(Self {
                    ports,
                    _lock: Some(lock),
                });
            }
            from = index + 1;
        }
    }
}

fn lock_one(what: &str, count: u16) -> Result<(u16, File)> {
    lock_from(what, 0, count)
}

fn lock_from(what: &str, from: u16, count: u16) -> Result<(u16, File)> {
    let above = std::env::temp_dir().join(format!("poolkeeper-locks-{}", scratch::uid()));
    std::fs::create_dir_all(&above)?;
    for index in from..count {
        let lock = File::create(above.join(format!("{what}-{index}")))?;
        if lock.try_lock().is_ok() {
            return Ok((index, lock));
        }
    }
    bail!("all {count} locks for {what} are held")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_one_in_use_is_passed_over() {
        let first = free().unwrap();
        let second = free().unwrap();
        assert_ne!(first, second);
        let _taken = TcpListener::bind(("127.0.0.1", second + 1));
        assert_ne!(free().unwrap(), second + 1);
    }

    #[test]
    fn offsets_never_meet() {
        let ports = |offset: u16| WELL_KNOWN.map(|port| port + offset);
        for other in (10..7_800).step_by(10) {
            for port in ports(0) {
                assert!(!ports(other).contains(&port), "offset {other}");
            }
        }
    }
}
