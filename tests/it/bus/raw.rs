//! Publishing what no decent client would.

use std::io::{BufRead, BufReader, Lines, Write};
use std::net::TcpStream;

use super::{LIMIT, Nats};

/// Publishes, and waits until the server has taken it.
pub(super) fn publish(nats: &Nats, subject: &str, headers: &[u8], payload: &[u8]) {
    let mut lines = send(nats, subject, headers, payload);
    lines.find(|line| line.as_ref().unwrap() == "PONG").unwrap().unwrap();
}

/// Publishes to a stream, and waits until it is stored; answers its seq.
pub(super) fn store(nats: &Nats, subject: &str, headers: &[u8], payload: &[u8]) -> u64 {
    let mut lines = send(nats, &format!("{subject} ack"), headers, payload);
    let ack = lines.find(|line| line.as_ref().unwrap().contains("\"stream\"")).unwrap().unwrap();
    let ack: serde_json::Value = serde_json::from_str(&ack).unwrap();
    ack["seq"].as_u64().unwrap()
}

fn send(nats: &Nats, subject: &str, headers: &[u8], payload: &[u8]) -> Lines<BufReader<TcpStream>> {
    let address = nats.server.url().replace("nats://", "");
    let mut socket = TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(LIMIT)).unwrap();
    let lines = BufReader::new(socket.try_clone().unwrap()).lines();
    socket.write_all(b"CONNECT {\"verbose\":false,\"headers\":true}\r\nSUB ack 1\r\n").unwrap();
    let (sizes, verb) = if headers.is_empty() {
        (payload.len().to_string(), "PUB")
    } else {
        (format!("{} {}", headers.len(), headers.len() + payload.len()), "HPUB")
    };
    write!(socket, "{verb} {subject} {sizes}\r\n").unwrap();
    socket.write_all(headers).unwrap();
    socket.write_all(payload).unwrap();
    socket.write_all(b"\r\nPING\r\n").unwrap();
    lines
}
