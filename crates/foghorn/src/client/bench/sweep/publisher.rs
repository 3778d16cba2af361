//! How something is published to a server.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::ops::Range;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::asks::TYPE;
use super::server::{Kind, Server};
use super::variant::{UNASKED, place};
use crate::client::bench::publisher::{nanos, seconds};
use crate::client::bench::scan::Stamp;

/// The channel, unless others are named.
const CHANNEL: &str = "bench";
/// How long a server may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of an answer.
const ANSWER_BYTES: usize = 4 * 1024 * 1024;

/// Publishes to one server, one request after the other.
pub(in crate::client::bench) struct Publisher {
    link: Link,
    kind: Kind,
    channels: Vec<String>,
    /// Each event has a type, and one of another type goes with it.
    types: bool,
    token: Option<String>,
    size: usize,
    began: Instant,
}

enum Link {
    Bare(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Publisher {
    /// For events of so many bytes, whose stamps count from `began`.
    pub(in crate::client::bench) fn connect(
        server: &Server,
        size: usize,
        began: Instant,
    ) -> anyhow::Result<Self> {
        let socket = TcpStream::connect(server.publish_to)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let (link, channels) = (Link::Bare(socket), vec![CHANNEL.to_owned()]);
        Ok(Publisher { link, kind: server.kind, channels, types: false, token: None, size, began })
    }

    /// On other channels, in turn.
    pub(in crate::client::bench) fn on(self, channels: Vec<String>) -> Self {
        Publisher { channels, ..self }
    }

    /// With types, or not.
    pub(super) fn typed(self, types: bool) -> Self {
        Publisher { types, ..self }
    }

    /// Known by a token.
    pub(super) fn known_by(self, token: Option<String>) -> Self {
        Publisher { token, ..self }
    }

    /// Over TLS, if there is a configuration. It speaks HTTP/1.1 then too.
    pub(super) fn over(self, tls: Option<&Arc<ClientConfig>>) -> anyhow::Result<Self> {
        let (Some(config), Link::Bare(socket)) = (tls, &self.link) else { return Ok(self) };
        let mut config = ClientConfig::clone(config);
        config.alpn_protocols = Vec::new();
        let tls = ClientConnection::new(Arc::new(config), ServerName::try_from("localhost")?)?;
        let link = Link::Tls(Box::new(StreamOwned::new(tls, socket.try_clone()?)));
        Ok(Publisher { link, ..self })
    }

    /// Publishes so many a second, numbered from `first`.
    pub(in crate::client::bench) fn publish_at(
        &mut self,
        first: u64,
        rate: f64,
        events: usize,
    ) -> anyhow::Result<()> {
        let started = self.began.elapsed();
        for nth in 0..events as u64 {
            let due = started + seconds(nth, rate);
            thread::sleep(due.saturating_sub(self.began.elapsed()));
            self.publish(first + nth, due)?;
        }
        Ok(())
    }

    /// Returns when the server has taken the event.
    pub(in crate::client::bench) fn publish(&mut self, number: u64, due: Duration) -> anyhow::Result<()> {
        self.publish_all(number..number + 1, due)
    }

    /// The same, of several in one request, if the server knows such.
    pub(super) fn publish_all(&mut self, numbers: Range<u64>, due: Duration) -> anyhow::Result<()> {
        match self.kind {
            Kind::Foghorn | Kind::Axum => {
                let mut events = Vec::new();
                for number in numbers {
                    let (channel, data) = self.event(number, due)?;
                    let kind = if self.types { format!(",\"event\":\"{TYPE}\"") } else { String::new() };
                    events.push(format!("{{\"channel\":\"{channel}\"{kind},\"data\":\"{data}\"}}"));
                    if self.types {
                        let other = data_of(UNASKED, due, self.size)?;
                        events.push(format!(
                            "{{\"channel\":\"{channel}\",\"event\":\"another\",\"data\":\"{other}\"}}"
                        ));
                    }
                }
                let several = format!("[{}]", events.join(","));
                self.post("/api/publish", if let [one] = &events[..] { one } else { &several })
            }
            Kind::Nchan => numbers.into_iter().try_for_each(|number| {
                let (channel, data) = self.event(number, due)?;
                self.post(&format!("/api/publish?channels={channel}"), &data)
            }),
            Kind::Bare { .. } => {
                let (mut lines, events) = (String::new(), numbers.clone().count());
                for number in numbers {
                    let (channel, data) = self.event(number, due)?;
                    lines.push_str(&format!("PUBLISH {channel} {data}\n"));
                }
                self.link.write_all(lines.as_bytes())?;
                Ok(self.link.read_exact(&mut vec![0; events])?)
            }
        }
    }

    /// Channel and data of an event.
    fn event(&self, number: u64, due: Duration) -> anyhow::Result<(String, String)> {
        let (channel, stamp) = place(number, self.channels.len());
        Ok((self.channels[channel].clone(), data_of(stamp, due, self.size)?))
    }

    fn post(&mut self, path: &str, body: &str) -> anyhow::Result<()> {
        let length = body.len();
        let token = self.token.as_ref().map(|token| format!("Authorization: Bearer {token}\r\n"));
        let token = token.unwrap_or_default();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{token}\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.link.write_all(request.as_bytes())?;
        self.link.flush()?;
        let answer = answer(&mut self.link)?;
        // Of several events one may be refused and the others not.
        let taken = answer.starts_with("HTTP/1.1 2") && !answer.contains("\"error\"");
        ensure!(taken, "publishing was answered {answer:?}");
        Ok(())
    }
}

fn data_of(stamp: u64, due: Duration, size: usize) -> anyhow::Result<String> {
    let mut data = Vec::with_capacity(size);
    Stamp { seq: stamp, sent: nanos(due) }.write(&mut data, size);
    Ok(String::from_utf8(data)?)
}

/// Reads an answer whose length is known, or that has no body.
fn answer(link: &mut impl Read) -> anyhow::Result<String> {
    let mut answer = Vec::new();
    let mut piece = [0; 64 * 1024];
    loop {
        let count = link.read(&mut piece).context("no answer to a publish")?;
        ensure!(count > 0, "the server closed a publisher's connection");
        answer.extend_from_slice(&piece[..count]);
        ensure!(answer.len() < ANSWER_BYTES, "an answer has no end");
        let Some(head) = memchr::memmem::find(&answer, b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&answer[..head]).to_ascii_lowercase();
        let length = text.split("\r\ncontent-length:").nth(1).and_then(|rest| rest.lines().next());
        let length: usize = length.map_or(Ok(0), |length| length.trim().parse()).context("no length")?;
        if answer.len() >= head + 4 + length {
            return Ok(String::from_utf8_lossy(&answer).into_owned());
        }
    }
}

impl Read for Link {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Link::Bare(socket) => socket.read(bytes),
            Link::Tls(stream) => stream.read(bytes),
        }
    }
}

impl Write for Link {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Link::Bare(socket) => socket.write(bytes),
            Link::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Link::Bare(socket) => socket.flush(),
            Link::Tls(stream) => stream.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_to_its_end_and_not_beyond() {
        let wire = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n[{}]\n";
        // One byte at a time: anything more would be read of the next.
        let mut bytes = OneByOne(wire.as_bytes());
        assert_eq!(answer(&mut bytes).unwrap(), wire);
        assert!(answer(&mut OneByOne(b"HTTP/1.1 204 No Content\r\n\r\n")).unwrap().contains("204"));
        assert!(answer(&mut OneByOne(b"HTTP/1.1 200 OK\r\n")).unwrap_err().to_string().contains("closed"));
    }

    struct OneByOne<'a>(&'a [u8]);

    impl Read for OneByOne<'_> {
        fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
            let count = bytes.len().min(1);
            self.0.read(&mut bytes[..count])
        }
    }
}
