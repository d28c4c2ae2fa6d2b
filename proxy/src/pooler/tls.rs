//! TLS over buffers that belong to nobody: rustls's unbuffered API.
//!
//! A session keeps its keys and no buffer (decision 3): records are decrypted
//! in the loop's scratch buffer, and encrypted into one that lives for the write.
//! Clients' sessions and those with PostgreSQL differ in who says hello.

mod config;
#[cfg(test)]
mod tests;
mod verifier;

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, ServerConfig,
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic},
};
use rustls_pki_types::ServerName;

pub(super) use config::{Connector, TlsConfigError, server_config};
pub(super) use verifier::explain;

/// Most plaintext in one record (RFC 8446, 5.1).
const RECORD_PLAIN_MAX: usize = 16 * 1024;
/// Longest record: header, ciphertext and expansion (RFC 8446, 5.2; TLS 1.2 allows more).
const RECORD_MAX: usize = 5 + RECORD_PLAIN_MAX + 2_048;
/// Most bytes kept during the handshake: its messages, such as long chains of
/// certificates, take several records, and are dealt with as a whole.
const HANDSHAKE_MAX: usize = 64 * 1024;

/// One TLS session.
pub(super) struct Tls {
    side: Side,
    state: State,
}

/// Who said hello.
enum Side {
    Client(UnbufferedServerConnection),
    Us {
        connection: UnbufferedClientConnection,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    },
}

#[derive(Default)]
struct State {
    /// The start of a record whose end has not come.
    pending: Vec<u8>,
    established: bool,
    closed: bool,
}

/// What both sides' connections have in common.
trait Connection {
    type Data;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
}

impl Connection for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl Connection for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("established", &self.state.established)
            .finish_non_exhaustive()
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Tls {
    /// A session that begins with the client's hello.
    ///
    /// # Errors
    /// The configuration cannot serve anybody.
    pub(super) fn accept(config: Arc<ServerConfig>) -> io::Result<Self> {
        let connection = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Ok(Self {
            side: Side::Client(connection),
            state: State::default(),
        })
    }

    /// A session with the server `name` that begins with our hello, which
    /// [`Tls::receive`] gives when it is called with nothing.
    ///
    /// # Errors
    /// The configuration can reach nobody.
    pub(super) fn connect(
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let connection = UnbufferedClientConnection::new(config.clone(), name.clone());
        Ok(Self {
            side: Side::Us {
                connection: connection.map_err(invalid)?,
                config,
                name,
            },
            state: State::default(),
        })
    }

    /// Another session with the same server under the same settings; `None` if
    /// the other side said hello.
    ///
    /// # Errors
    /// See [`Tls::connect`].
    pub(super) fn again(&self) -> Option<io::Result<Self>> {
        match &self.side {
            Side::Client(_) => None,
            Side::Us { config, name, .. } => Some(Self::connect(config.clone(), name.clone())),
        }
    }

    /// Bytes kept of a record that is not whole yet.
    pub(super) fn pending_len(&self) -> usize {
        self.state.pending.len()
    }

    /// Whether the handshake is done.
    pub(super) fn is_established(&self) -> bool {
        self.state.established
    }

    /// Whether the peer said that it sends no more.
    pub(super) fn is_closed(&self) -> bool {
        self.state.closed
    }

    /// `TLSv1.3` and the like; empty before the handshake is done.
    pub(super) fn protocol(&self) -> &'static str {
        let version = match &self.side {
            Side::Client(connection) => connection.protocol_version(),
            Side::Us { connection, .. } => connection.protocol_version(),
        };
        match version {
            Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
            Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
            _ => "",
        }
    }

    /// Moves the kept start of a record to the front of `cipher`, where what is
    /// read next is to follow it. Returns its length.
    pub(super) fn take_pending(&mut self, cipher: &mut [u8]) -> usize {
        let length = self.state.pending.len();
        cipher[..length].copy_from_slice(&self.state.pending);
        self.state.pending = Vec::new();
        length
    }

    /// Keeps the start of a record again: nothing came after it.
    pub(super) fn put_back(&mut self, cipher: &[u8]) {
        self.state.pending = cipher.to_vec();
    }

    /// Decrypts `cipher` (what [`Tls::take_pending`] put there, and what was
    /// read after it). Appends plaintext to `plain` and what must be sent to
    /// `out`.
    ///
    /// # Errors
    /// The peer broke the protocol, or is not who it should be; `out` holds the
    /// alert to send.
    pub(super) fn receive(
        &mut self,
        cipher: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        match &mut self.side {
            Side::Client(connection) => self.state.receive(connection, cipher, plain, out),
            Side::Us { connection, .. } => self.state.receive(connection, cipher, plain, out),
        }
    }

    /// Encrypts `plain` and appends the records to `out`.
    ///
    /// # Errors
    /// The session cannot send any more.
    pub(super) fn send(&mut self, plain: &[u8], out: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.side {
            Side::Client(connection) => self.state.send(connection, plain, out),
            Side::Us { connection, .. } => self.state.send(connection, plain, out),
        }
    }

    /// Says that no more will be sent.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        match &mut self.side {
            Side::Client(connection) => self.state.close(connection, out),
            Side::Us { connection, .. } => self.state.close(connection, out),
        }
    }
}

impl State {
    fn receive<C: Connection>(
        &mut self,
        connection: &mut C,
        cipher: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        let mut at = 0;
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = connection.process(&mut cipher[at..]);
            let mut stop = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        plain.extend_from_slice(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::WriteTraffic(_)) => {
                    self.established = true;
                    stop = true;
                }
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(ConnectionState::Closed) => {
                    self.closed = true;
                    stop = true;
                }
                Ok(_) => stop = true,
                Err(error) => {
                    alert(connection, out);
                    return Err(invalid(error));
                }
            }
            at += discard;
            if stop {
                break;
            }
        }
        if !self.closed {
            let rest = &cipher[at..];
            let max = if self.established {
                RECORD_MAX
            } else {
                HANDSHAKE_MAX
            };
            if rest.len() > max {
                let error = format!("{} bytes that are no whole message", rest.len());
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
            self.pending = rest.to_vec();
        }
        Ok(())
    }

    fn send<C: Connection>(
        &mut self,
        connection: &mut C,
        plain: &[u8],
        out: &mut Vec<u8>,
    ) -> io::Result<()> {
        for chunk in plain.chunks(RECORD_PLAIN_MAX) {
            self.write_traffic(connection, out, |mut traffic, out| {
                let from = out.len();
                // 256 bytes more than any cipher suite adds to a record.
                out.resize(from + chunk.len() + 256, 0);
                match traffic.encrypt(chunk, &mut out[from..]) {
                    Ok(length) => {
                        out.truncate(from + length);
                        Ok(())
                    }
                    Err(error) => Err(invalid(error)),
                }
            })?;
        }
        Ok(())
    }

    fn close<C: Connection>(&mut self, connection: &mut C, out: &mut Vec<u8>) {
        // Best effort: the connection is closed in any case.
        let _ = self.write_traffic(connection, out, |mut traffic, out| {
            encode_close(out, |room| traffic.queue_close_notify(room))
        });
    }

    fn write_traffic<C: Connection>(
        &mut self,
        connection: &mut C,
        out: &mut Vec<u8>,
        write: impl FnOnce(WriteTraffic<'_, C::Data>, &mut Vec<u8>) -> io::Result<()>,
    ) -> io::Result<()> {
        loop {
            match connection.process(&mut []).state {
                Ok(ConnectionState::WriteTraffic(traffic)) => return write(traffic, out),
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(out, |room| data.encode(room))?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.closed = true,
                Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
                Err(error) => return Err(invalid(error)),
            }
        }
    }
}

/// After an error rustls has one alert to send.
fn alert<C: Connection>(connection: &mut C, out: &mut Vec<u8>) {
    let status = connection.process(&mut []);
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state {
        // The connection ends anyway; an alert that does not fit is no loss.
        let _ = encode(out, |room| data.encode(room));
    }
}

/// Appends what `fill` writes, asking it first how much room it needs.
fn encode(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>,
) -> io::Result<()> {
    let from = out.len();
    let needed = match fill(&mut []) {
        Ok(_) => return Ok(()),
        Err(EncodeError::InsufficientSize(size)) => size.required_size,
        Err(error @ EncodeError::AlreadyEncoded) => return Err(invalid(error)),
    };
    out.resize(from + needed, 0);
    let length = fill(&mut out[from..]).map_err(invalid)?;
    out.truncate(from + length);
    Ok(())
}

fn encode_close(
    out: &mut Vec<u8>,
    mut fill: impl FnMut(&mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<()> {
    let from = out.len();
    out.resize(from + 256, 0);
    let length = fill(&mut out[from..]).map_err(invalid)?;
    out.truncate(from + length);
    Ok(())
}
