//! A name server that answers as told, by UDP and TCP on one port.

use std::{
    collections::HashMap,
    io::{ErrorKind, Read, Write},
    net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

const A: u16 = 1;
const SOA: u16 = 6;
const AAAA: u16 = 28;
/// What a resolver says it takes by UDP, in EDNS; longer answers are truncated.
const UDP_LENGTH_MAX: usize = 1232;

/// What is said of a name.
#[derive(Clone, Debug)]
pub struct Zone {
    pub addresses: Vec<IpAddr>,
    pub ttl_s: u32,
    pub mood: Mood,
}

/// How a question is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answered.
    Well,
    /// Answered by SERVFAIL.
    Failing,
    /// Not answered.
    Silent,
    /// Answered by NXDOMAIN.
    Unaware,
}

/// The server, which ends when it is dropped.
pub struct Dns {
    pub address: SocketAddr,
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    zones: Mutex<HashMap<String, Zone>>,
    over: AtomicBool,
    asked: AtomicU32,
    asked_by_tcp: AtomicU32,
}

impl Dns {
    pub fn start() -> Self {
        let (udp, tcp) = loop {
            let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
            match TcpListener::bind(udp.local_addr().unwrap()) {
                Ok(tcp) => break (udp, tcp),
                // Another has that port for TCP.
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
            }
        };
        let address = udp.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let (one, other) = (shared.clone(), shared.clone());
        let threads = vec![
            std::thread::spawn(move || one.serve_udp(&udp)),
            std::thread::spawn(move || other.serve_tcp(&tcp)),
        ];
        Self {
            address,
            shared,
            threads,
        }
    }

    /// From now on `name` stands for `addresses`.
    pub fn set(&self, name: &str, ttl_s: u32, addresses: &[IpAddr]) {
        let zone = Zone {
            addresses: addresses.to_vec(),
            ttl_s,
            mood: Mood::Well,
        };
        self.shared.zones.lock().unwrap().insert(name.into(), zone);
    }

    /// From now on questions for `name` are taken so.
    pub fn mood(&self, name: &str, mood: Mood) {
        let mut zones = self.shared.zones.lock().unwrap();
        zones.get_mut(name).unwrap().mood = mood;
    }

    /// Questions for A so far, whatever became of them.
    pub fn asked(&self) -> u32 {
        self.shared.asked.load(SeqCst)
    }

    /// Questions by TCP so far.
    pub fn asked_by_tcp(&self) -> u32 {
        self.shared.asked_by_tcp.load(SeqCst)
    }
}

impl Drop for Dns {
    fn drop(&mut self) {
        self.shared.over.store(true, SeqCst);
        let waker = UdpSocket::bind("127.0.0.1:0").unwrap();
        let _ = waker.send_to(&[], self.address);
        let _ = TcpStream::connect(self.address);
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

impl Shared {
    fn serve_udp(&self, socket: &UdpSocket) {
        let mut bytes = [0; 1500];
        while let Ok((count, from)) = socket.recv_from(&mut bytes) {
            if self.over.load(SeqCst) {
                return;
            }
            if let Some(mut answer) = self.answer(&bytes[..count]) {
                if answer.len() > UDP_LENGTH_MAX {
                    let end = question_end(&bytes[..count]);
                    answer.truncate(end);
                    answer[2] |= 0x02; // TC
                    answer[6..8].fill(0);
                }
                let _ = socket.send_to(&answer, from);
            }
        }
    }

    fn serve_tcp(&self, listener: &TcpListener) {
        while let Ok((mut stream, _)) = listener.accept() {
            if self.over.load(SeqCst) {
                return;
            }
            // A resolver that hangs up is no failure here.
            let _ = self.serve_stream(&mut stream);
        }
    }

    fn serve_stream(&self, stream: &mut TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(std::time::Duration::from_secs(1)))?;
        loop {
            let mut length = [0; 2];
            stream.read_exact(&mut length)?;
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question)?;
            self.asked_by_tcp.fetch_add(1, SeqCst);
            if let Some(answer) = self.answer(&question) {
                let length = u16::try_from(answer.len()).unwrap();
                stream.write_all(&[&length.to_be_bytes()[..], &answer].concat())?;
            }
        }
    }

    fn answer(&self, question: &[u8]) -> Option<Vec<u8>> {
        let end = question_end(question);
        let kind = u16::from_be_bytes([question[end - 4], question[end - 3]]);
        if kind == A {
            self.asked.fetch_add(1, SeqCst);
        }
        let zones = self.zones.lock().unwrap();
        let zone = zones.get(&name(&question[12..end - 5]));
        let (code, ttl_s, addresses) = match zone {
            Some(zone) => match zone.mood {
                Mood::Well => (0, zone.ttl_s, &zone.addresses[..]),
                Mood::Failing => (2, 0, &[][..]),
                Mood::Unaware => (3, zone.ttl_s, &[][..]),
                Mood::Silent => return None,
            },
            None => (3, 1, &[][..]),
        };
        let ttl = ttl_s.to_be_bytes();
        let records: Vec<Vec<u8>> = addresses
            .iter()
            .filter_map(|address| match address {
                IpAddr::V4(address) => (kind == A).then(|| address.octets().to_vec()),
                IpAddr::V6(address) => (kind == AAAA).then(|| address.octets().to_vec()),
            })
            .map(|data| record(kind, ttl, &data))
            .collect();
        let count = u16::try_from(records.len()).unwrap().to_be_bytes();
        let authority = u8::from(records.is_empty() && code != 2);
        let mut answer = question[..2].to_vec();
        answer.extend([
            0x81,
            0x80 | code,
            0,
            1,
            count[0],
            count[1],
            0,
            authority,
            0,
            0,
        ]);
        answer.extend(&question[12..end]);
        answer.extend(records.concat());
        if authority == 1 {
            // Two root names, serial, refresh, retry, expire, and the time to
            // live of an answer that there is nothing.
            let data = [&[0; 18][..], &ttl].concat();
            answer.extend(record(SOA, ttl, &data));
        }
        Some(answer)
    }
}

fn record(kind: u16, ttl: [u8; 4], data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    // The name is the question's, which begins at byte 12.
    let head = [&[0xC0, 12][..], &kind.to_be_bytes(), &[0, 1], &ttl, &length];
    [&head.concat()[..], data].concat()
}

/// Where the question, which follows the header, ends.
fn question_end(message: &[u8]) -> usize {
    let mut at = 12;
    while message[at] != 0 {
        at += 1 + usize::from(message[at]);
    }
    at + 5
}

/// Labels with dots between them.
fn name(mut labels: &[u8]) -> String {
    let mut parts = Vec::new();
    while let Some((&length, rest)) = labels.split_first() {
        let (label, rest) = rest.split_at(length.into());
        parts.push(String::from_utf8_lossy(label).to_lowercase());
        labels = rest;
    }
    parts.join(".")
}
