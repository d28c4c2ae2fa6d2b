//! A PostgreSQL that lets everybody in and answers every query with nothing.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::JoinHandle,
};

use proxy_core::wire::{
    self, FirstPacket, Severity, SqlState, cstr, first_packet, frontend, header,
};

/// It, and every connection to it; closed when dropped.
#[derive(Debug)]
pub(crate) struct Postgres {
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    closing: AtomicBool,
    logins: AtomicU32,
    /// Whether logins are not answered for now.
    held: AtomicBool,
    /// Cancel requests that have come, and those whose connection has ended.
    cancels: AtomicU32,
    cancels_ended: AtomicU32,
    /// With what logins are refused.
    refusal: Mutex<Option<(SqlState, String)>>,
    /// Queries in the order of arrival.
    queries: Mutex<Vec<String>>,
    connections: Mutex<Vec<TcpStream>>,
}

impl Postgres {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
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

    /// Cancel requests that have come and are kept open.
    pub(crate) fn cancels_open(&self) -> u32 {
        self.shared.cancels.load(SeqCst) - self.shared.cancels_ended.load(SeqCst)
    }

    /// Cancel requests that have come.
    pub(crate) fn cancels(&self) -> u32 {
        self.shared.cancels.load(SeqCst)
    }

    /// From now on does not answer logins, or answers all.
    pub(crate) fn hold(&self, held: bool) {
        self.shared.held.store(held, SeqCst);
    }

    /// From now on refuses logins with that error.
    pub(crate) fn refuse(&self, code: SqlState, text: &str) {
        *self.shared.refusal.lock().unwrap() = Some((code, text.to_owned()));
    }

    /// From now on lets everybody in again.
    pub(crate) fn accept(&self) {
        *self.shared.refusal.lock().unwrap() = None;
    }

    /// Connections that have logged in, or tried to.
    pub(crate) fn logins(&self) -> u32 {
        self.shared.logins.load(SeqCst)
    }

    /// Whether such a query has come.
    pub(crate) fn has_seen(&self, sql: &str) -> bool {
        let queries = self.shared.queries.lock().unwrap();
        queries.iter().any(|query| query == sql)
    }

    /// The entry of section [databases] that leads here.
    pub(crate) fn entry(&self) -> String {
        format!("host=127.0.0.1 port={} user=app", self.address.port())
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
            let _ = serve(stream, &shared);
        }));
    }
    for thread in threads {
        thread.join().unwrap();
    }
}

fn serve(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut bytes = Vec::new();
    loop {
        match first_packet(&bytes) {
            Ok(Some((FirstPacket::Startup(_), used))) => {
                bytes.drain(..used);
                break;
            }
            Ok(None) => read(&mut stream, &mut bytes)?,
            Ok(Some((FirstPacket::Cancel(_), _))) => {
                shared.cancels.fetch_add(1, SeqCst);
                // Up to its end, should it be held.
                if shared.held.load(SeqCst) {
                    while read(&mut stream, &mut bytes).is_ok() {}
                }
                shared.cancels_ended.fetch_add(1, SeqCst);
                return Ok(());
            }
            // Nonsense.
            _ => return Ok(()),
        }
    }
    shared.logins.fetch_add(1, SeqCst);
    while shared.held.load(SeqCst) && !shared.closing.load(SeqCst) {
        std::thread::park_timeout(std::time::Duration::from_millis(2));
    }
    if let Some((code, text)) = &*shared.refusal.lock().unwrap() {
        let error = wire::error_response(Severity::Fatal, *code, text, "");
        return stream.write_all(&error);
    }
    let greeting = [
        wire::authentication_ok(),
        wire::parameter_status("server_version", "17.0"),
        wire::parameter_status("client_encoding", "UTF8"),
        wire::parameter_status("application_name", ""),
        wire::backend_key_data(&[0, 0, 0, 1, 0, 0, 0, 1]),
        wire::ready_for_query(b'I').to_vec(),
    ];
    stream.write_all(&greeting.concat())?;
    let mut status = b'I';
    loop {
        let head = header(&bytes)
            .unwrap()
            .filter(|head| head.total <= bytes.len());
        let Some(head) = head else {
            read(&mut stream, &mut bytes)?;
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
            // Never answered.
            "HANG" => {
                while read(&mut stream, &mut bytes).is_ok() {}
                return Ok(());
            }
            _ => {}
        }
        let answer = [
            reported(&sql),
            wire::command_complete("SELECT 0"),
            wire::ready_for_query(status).to_vec(),
        ];
        shared.queries.lock().unwrap().push(sql);
        stream.write_all(&answer.concat())?;
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

fn read(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 4096];
    match stream.read(&mut buffer)? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        length => {
            bytes.extend(&buffer[..length]);
            Ok(())
        }
    }
}
