//! The least of an HTTP client.

use std::{
    io::{Read, Write},
    net::SocketAddr,
};

use super::connect;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub tag: Option<String>,
    pub body: String,
}

/// GETs `path`.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    get_unless(address, path, None)
}

/// GETs `path` unless what it says has this tag.
#[track_caller]
pub fn get_unless(address: SocketAddr, path: &str, tag: Option<&str>) -> Answer {
    let mut stream = connect(address);
    let known = tag.map(|tag| format!("If-None-Match: {tag}\r\n"));
    let known = known.unwrap_or_default();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n{known}Connection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: "));
    Answer {
        tag: tag.map(str::to_owned),
        status: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}
