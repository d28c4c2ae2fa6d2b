//! A PostgreSQL that lets everybody in and answers every query with nothing,
//! unless it is told to do worse.

use std::{
    collections::{HashMap, HashSet},
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use proxy_core::wire::{
    self, CancelKey, FirstPacket, Severity, SqlState, cstr, error_response, first_packet, frontend,
    header,
};

/// It, and every connection to it; closed when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What becomes of a query.
#[derive(Clone, Debug)]
pub(crate) enum Play {
    /// It runs until it is released or cancelled.
    Hold,
    /// It is answered by these bytes and no more.
    Only(Vec<u8>),
    /// These bytes come, then the end of the connection.
    Last(Vec<u8>),
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    lingering: AtomicBool,
    /// Whether logins and cancel requests are not answered for now.
    held: AtomicBool,
    logins: AtomicU32,
    /// With what logins are refused.
    refusal: Mutex<Option<(SqlState, String)>>,
    stage: Mutex<Stage>,
    /// The stage has changed.
    changed: Condvar,
    connections: Mutex<Vec<TcpStream>>,
}

#[derive(Debug, Default)]
struct Stage {
    plays: HashMap<String, Play>,
    /// Servers, by their process id, whose query is to end.
    cancelled: HashSet<u32>,
    /// Cancel requests that have come, and those whose connection has ended.
    cancels: u32,
    cancels_ended: u32,
    /// Servers and queries in the order of arrival.
    queries: Vec<(u32, String)>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        Self::start_on(TcpListener::bind("127.0.0.1:0").unwrap())
    }

    /// From now on takes the connections of `listener`.
    pub(crate) fn start_on(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let acceptor = {
            let shared = shared.clone();
            std::thread::spawn(move || accept(&listener, &shared))
        };
        Self {
            address,
            shared,
            acceptor: Some(acceptor),
        }
    }

    /// From now on refuses logins with that error.
    pub(crate) fn refuse(&self, code: SqlState, text: &str) {
        *self.shared.refusal.lock().unwrap() = Some((code, text.to_owned()));
    }

    /// From now on lets everybody in again.
    pub(crate) fn accept(&self) {
        *self.shared.refusal.lock().unwrap() = None;
    }

    /// From now on does not answer logins and cancel requests, or answers all.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.store(held, SeqCst);
    }

    /// From now on a connection that is told to go is left open.
    pub(crate) fn linger(&self) {
        self.shared.lingering.store(true, SeqCst);
    }

    /// Says what becomes of queries with this text.
    pub(crate) fn play(&self, sql: &str, play: Play) {
        let mut stage = self.shared.stage.lock().unwrap();
        stage.plays.insert(sql.to_owned(), play);
    }

    /// Queries with this text are answered again, those that are held too.
    pub(crate) fn release(&self, sql: &str) {
        self.shared.stage.lock().unwrap().plays.remove(sql);
        self.shared.changed.notify_all();
    }

    /// Connections that have logged in, or tried to.
    pub(crate) fn logins(&self) -> u32 {
        self.shared.logins.load(SeqCst)
    }

    /// Requests to cancel that have come.
    pub(crate) fn cancels(&self) -> u32 {
        self.shared.stage.lock().unwrap().cancels
    }

    /// Requests to cancel that have come and are kept open.
    pub(crate) fn cancels_open(&self) -> u32 {
        let stage = self.shared.stage.lock().unwrap();
        stage.cancels - stage.cancels_ended
    }

    /// Whether such a query has come.
    pub(crate) fn has_seen(&self, sql: &str) -> bool {
        self.server_of(sql).is_some()
    }

    /// The server that got such a query first.
    pub(crate) fn server_of(&self, sql: &str) -> Option<u32> {
        let stage = self.shared.stage.lock().unwrap();
        let (server, _) = stage.queries.iter().find(|(_, query)| query == sql)?;
        Some(*server)
    }

    /// The entry of section [databases] that leads here.
    pub(crate) fn entry(&self) -> String {
        format!("host=127.0.0.1 port={} user=app", self.address.port())
    }

    /// The same, with servers under the name of each client.
    pub(crate) fn entry_of_each(&self) -> String {
        format!("host=127.0.0.1 port={}", self.address.port())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.shared.closing.store(true, SeqCst);
        // Ends the wait for a connection.
        let _ = TcpStream::connect(self.address);
        for connection in self.shared.connections.lock().unwrap().iter() {
            let _ = connection.shutdown(Shutdown::Both);
        }
        // Under the lock, or who is about to wait would miss it.
        let stage = self.shared.stage.lock();
        self.shared.changed.notify_all();
        drop(stage);
        if let Some(acceptor) = self.acceptor.take() {
            acceptor.join().unwrap();
        }
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut threads = Vec::new();
    while let Ok((stream, _)) = listener.accept() {
        let copy = stream.try_clone().unwrap();
        shared.connections.lock().unwrap().push(copy);
        if shared.closing.load(SeqCst) {
            let _ = stream.shutdown(Shutdown::Both);
            break;
        }
        let shared = shared.clone();
        threads.push(std::thread::spawn(move || {
            // The end of a connection ends it.
            let _ = shared.serve(&stream);
            if !shared.lingering.load(SeqCst) {
                // `connections` would keep it open.
                let _ = stream.shutdown(Shutdown::Both);
            }
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

impl Shared {
    fn serve(&self, mut stream: &TcpStream) -> std::io::Result<()> {
        stream.set_nodelay(true)?;
        let mut bytes = Vec::new();
        loop {
            match first_packet(&bytes) {
                Ok(Some((FirstPacket::Startup(_), used))) => {
                    bytes.drain(..used);
                    break;
                }
                // It has no certificate.
                Ok(Some((FirstPacket::Ssl, used))) => {
                    bytes.drain(..used);
                    stream.write_all(b"N")?;
                }
                Ok(Some((FirstPacket::Cancel(key), _))) => {
                    self.cancel(&key);
                    // Up to its end, should it be held.
                    if self.held.load(SeqCst) {
                        while read(stream, &mut bytes).is_ok() {}
                    }
                    self.stage.lock().unwrap().cancels_ended += 1;
                    return Ok(());
                }
                Ok(None) => read(stream, &mut bytes)?,
                // Nonsense.
                _ => return Ok(()),
            }
        }
        let server = self.logins.fetch_add(1, SeqCst) + 1;
        while self.held.load(SeqCst) && !self.closing.load(SeqCst) {
            std::thread::park_timeout(std::time::Duration::from_millis(2));
        }
        if let Some((code, text)) = &*self.refusal.lock().unwrap() {
            return stream.write_all(&error_response(Severity::Fatal, *code, text, ""));
        }
        let greeting = [
            wire::authentication_ok(),
            wire::parameter_status("server_version", "17.0"),
            wire::parameter_status("client_encoding", "UTF8"),
            wire::parameter_status("application_name", ""),
            wire::backend_key_data(&[server.to_be_bytes(), [0, 0, 0, 1]].concat()),
            wire::ready_for_query(b'I').to_vec(),
        ];
        stream.write_all(&greeting.concat())?;
        let mut status = b'I';
        loop {
            let head = header(&bytes)
                .unwrap()
                .filter(|head| head.total <= bytes.len());
            let Some(head) = head else {
                read(stream, &mut bytes)?;
                continue;
            };
            let message: Vec<u8> = bytes.drain(..head.total).collect();
            if head.kind != frontend::QUERY {
                return Ok(());
            }
            let (sql, _) = cstr(&message[5..]).unwrap();
            let sql = String::from_utf8(sql.to_vec()).unwrap();
            match sql.as_str() {
                "BEGIN" => status = b'T',
                "COMMIT" => status = b'I',
                _ => {}
            }
            let answer = match self.play(server, &sql) {
                Some(Play::Only(bytes)) => bytes,
                Some(Play::Last(bytes)) => return stream.write_all(&bytes),
                Some(Play::Hold) => [
                    error_response(Severity::Error, SqlState::QUERY_CANCELED, "cancelled", ""),
                    wire::ready_for_query(status).to_vec(),
                ]
                .concat(),
                None => [
                    reported(&sql),
                    wire::command_complete("SELECT 0"),
                    wire::ready_for_query(status).to_vec(),
                ]
                .concat(),
            };
            stream.write_all(&answer)?;
        }
    }

    /// What becomes of a query that has come: `None` if it is answered as
    /// usual, [`Play::Hold`] if it was cancelled while it was held.
    fn play(&self, server: u32, sql: &str) -> Option<Play> {
        let mut stage = self.stage.lock().unwrap();
        stage.cancelled.remove(&server);
        stage.queries.push((server, sql.to_owned()));
        loop {
            let play = stage.plays.get(sql)?.clone();
            let ended = stage.cancelled.remove(&server) || self.closing.load(SeqCst);
            if ended || !matches!(play, Play::Hold) {
                return Some(play);
            }
            stage = self.changed.wait(stage).unwrap();
        }
    }

    fn cancel(&self, key: &CancelKey) {
        let (server, _) = key.bytes().split_first_chunk().unwrap();
        let mut stage = self.stage.lock().unwrap();
        stage.cancelled.insert(u32::from_be_bytes(*server));
        stage.cancels += 1;
        self.changed.notify_all();
    }
}

/// ParameterStatus after a SET.
fn reported(sql: &str) -> Vec<u8> {
    let pair = sql.strip_prefix("SET ").and_then(|set| set.split_once('='));
    let Some((name, value)) = pair else {
        return Vec::new();
    };
    wire::parameter_status(name, value.trim_end_matches(';').trim_matches('\''))
}

fn read(mut stream: &TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => {
            bytes.extend(&buffer[..length]);
            Ok(())
        }
    }
}
