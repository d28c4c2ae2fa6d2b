//! Clients of the test's own.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
};

use proxy_core::wire;

use crate::support::connect;

/// A client that has said who it is and read which target greets it.
pub struct Client {
    pub stream: TcpStream,
    pub target: String,
}

impl Client {
    /// Connects through `address` to a [`crate::target::Target`].
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        let mut stream = connect(address);
        stream
            .write_all(&wire::startup(&[("user", "ann")]))
            .unwrap();
        let target = read_line(&mut stream);
        Self { stream, target }
    }

    /// Sends a line and reads its echo.
    #[track_caller]
    pub fn talk(&mut self, line: &str) {
        self.stream
            .write_all(format!("{line}\n").as_bytes())
            .unwrap();
        assert_eq!(read_line(&mut self.stream), line);
    }

    /// Whether the connection is closed or reset, and nothing was left to read.
    #[track_caller]
    pub fn is_closed(&mut self) -> bool {
        match self.stream.read(&mut [0; 1]) {
            Ok(0) => true,
            Ok(_) => panic!("more came"),
            Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
        }
    }
}

/// Reads up to a line end, which is dropped.
#[track_caller]
pub fn read_line(stream: &mut TcpStream) -> String {
    let mut line = Vec::new();
    let mut byte = [0; 1];
    loop {
        stream.read_exact(&mut byte).unwrap();
        if byte[0] == b'\n' {
            return String::from_utf8(line).unwrap();
        }
        line.push(byte[0]);
    }
}

/// Reads an ErrorResponse and the close after it: its code and text.
#[track_caller]
pub fn read_error(stream: &mut TcpStream) -> (String, String) {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let frames: Vec<_> = wire::messages(&bytes).collect();
    assert_eq!(frames.len(), 1, "{bytes:?}");
    assert_eq!(frames[0].kind, wire::backend::ERROR_RESPONSE);
    let fields = wire::ErrorFields::read(frames[0].body);
    assert!(fields.ends_connection());
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (text(fields.code), text(fields.text))
}
