//! What a connection says, whatever it is wrapped in.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use anyhow::{Context as _, ensure};
use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use super::http1::Http1;
use super::http2::{self, Http2};
use crate::client::bench::scan::{Scanner, Seen};
use crate::client::bench::sweep::asks::Asks;

/// A connection's state.
pub(super) struct Wire {
    tls: Option<Box<ClientConnection>>,
    speaks: Speaks,
}

enum Speaks {
    /// HTTP/1.1 of a server whose chunks are events: their sizes are lines that are none of a stream, too.
    Lines(Scanner),
    Http1(Box<Http1>),
    Http2(Box<Http2>),
}

/// Where bytes become others, shared by all connections.
pub(super) struct Room {
    plain: Vec<u8>,
    inflated: Vec<u8>,
}

/// Bytes at a time.
const ROOM_BYTES: usize = 64 * 1024;

impl Room {
    pub(super) fn new() -> Self {
        Room { plain: vec![0; ROOM_BYTES], inflated: vec![0; ROOM_BYTES] }
    }
}

impl Wire {
    /// Has these listeners ask, on a socket that blocks.
    pub(super) fn begin(
        mut socket: &TcpStream,
        asks: &Asks,
        first: usize,
        listeners: usize,
    ) -> anyhow::Result<Self> {
        let gzip = asks.variant.gzip;
        let (speaks, hello) = match asks.variant.h2 {
            Some(_) => {
                let speaks = Speaks::Http2(Box::new(Http2::new(listeners, gzip)));
                (speaks, http2::hello(asks, first, listeners))
            }
            None if gzip || asks.tls.is_some() => {
                (Speaks::Http1(Box::new(Http1::new(gzip))), asks.request(first).into_bytes())
            }
            None => (Speaks::Lines(Scanner::default()), asks.request(first).into_bytes()),
        };
        let Some(config) = &asks.tls else {
            socket.write_all(&hello)?;
            return Ok(Wire { tls: None, speaks });
        };
        let mut tls = ClientConnection::new(config.clone(), ServerName::try_from("localhost")?)?;
        let mut stream = rustls::Stream::new(&mut tls, &mut socket);
        stream.write_all(&hello).and_then(|()| stream.flush()).context("no TLS")?;
        let agreed = tls.alpn_protocol() == Some(b"h2");
        ensure!(agreed == asks.variant.h2.is_some(), "the server didn't agree on the version of HTTP");
        Ok(Wire { tls: Some(Box::new(tls)), speaks })
    }

    /// Takes the next bytes, or none to look at what came with the handshake. Gives what the server is to be told.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        room: &mut Room,
        mut on_seen: impl FnMut(usize, Seen),
    ) -> anyhow::Result<Vec<u8>> {
        let Room { plain, inflated } = room;
        let Wire { tls, speaks } = self;
        let Some(tls) = tls else {
            speaks.feed(bytes, inflated, &mut on_seen)?;
            return Ok(speaks.replies());
        };
        loop {
            if !bytes.is_empty() {
                tls.read_tls(&mut bytes)?;
                tls.process_new_packets().context("the server broke TLS")?;
            }
            loop {
                match tls.reader().read(plain) {
                    Ok(count @ 1..) => speaks.feed(&plain[..count], inflated, &mut on_seen)?,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                    ended => ensure!(ended? > 0, "the server ended a stream"),
                }
            }
            if bytes.is_empty() {
                break;
            }
        }
        let mut sealed = Vec::new();
        tls.writer().write_all(&speaks.replies())?;
        while tls.wants_write() {
            tls.write_tls(&mut sealed)?;
        }
        Ok(sealed)
    }
}

impl Speaks {
    fn feed(
        &mut self,
        bytes: &[u8],
        room: &mut [u8],
        on_seen: &mut impl FnMut(usize, Seen),
    ) -> anyhow::Result<()> {
        match self {
            Speaks::Lines(scanner) => {
                scanner.feed(bytes, |seen| on_seen(0, seen));
                Ok(())
            }
            Speaks::Http1(answer) => answer.feed(bytes, room, |seen| on_seen(0, seen)),
            Speaks::Http2(connection) => connection.feed(bytes, room, on_seen),
        }
    }

    fn replies(&mut self) -> Vec<u8> {
        match self {
            Speaks::Http2(connection) => connection.replies(),
            Speaks::Lines(_) | Speaks::Http1(_) => Vec::new(),
        }
    }
}
