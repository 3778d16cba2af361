//! The header with which a proxy says whom a connection is from, before anything else on it (PROXY protocol,
//! version 2).

use std::io;
use std::net::SocketAddr;

use proxy_header::{Error, ParseConfig, ProxyHeader};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// Bytes before the addresses: signature, command, family, and how many bytes come after.
const FIXED_BYTES: usize = 16;
/// Most bytes that come after. IPv6 takes 36; what proxies tell beside the addresses, some hundreds.
const REST_BYTES_MAX: usize = 2048;
const CONFIG: ParseConfig = ParseConfig { include_tlvs: false, allow_v1: false, allow_v2: true };

/// Reads the header from a connection, and not a byte more. Whom it is from; none when it is the proxy's own (a
/// check that somebody is here), or comes from no address. Waits for as long as the caller does.
pub(super) async fn read(socket: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<SocketAddr>> {
    let mut header = vec![0; FIXED_BYTES];
    socket.read_exact(&mut header).await?;
    match ProxyHeader::parse(&header, CONFIG) {
        // As far as it goes it is one.
        Ok(_) | Err(Error::BufferTooShort) => {}
        Err(error) => return Err(malformed(error)),
    }
    let rest = usize::from(u16::from_be_bytes([header[14], header[15]]));
    if rest > REST_BYTES_MAX {
        return Err(malformed(format!(
            "{rest} bytes after its beginning; at most {REST_BYTES_MAX} are read"
        )));
    }
    header.resize(FIXED_BYTES + rest, 0);
    socket.read_exact(&mut header[FIXED_BYTES..]).await?;
    let (header, _) = ProxyHeader::parse(&header, CONFIG).map_err(malformed)?;
    Ok(header.proxied_address().map(|address| address.source))
}

fn malformed(what: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the connection begins with no PROXY header: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

    fn header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = u16::try_from(rest.len()).unwrap().to_be_bytes();
        [SIGNATURE, &[command, family], &length, rest].concat()
    }

    /// What is read of some bytes, and how many of them are left.
    async fn read_of(bytes: &[u8]) -> (Result<Option<String>, io::ErrorKind>, usize) {
        let mut left = bytes;
        let read = read(&mut left).await;
        let read = read.map(|source| source.map(|address| address.to_string()));
        (read.map_err(|error| error.kind()), left.len())
    }

    #[tokio::test]
    async fn a_header_says_whom_a_connection_is_from_and_nothing_after_it_is_read() {
        let four = [[203, 0, 113, 9, 10, 0, 0, 1].as_slice(), &[0x12, 0x34, 0, 80]].concat();
        let more = [four.as_slice(), &[0x04, 0, 3, 1, 2, 3]].concat();
        let mut six = [0; 36];
        six[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        (six[15], six[33]) = (7, 99);
        for (header, expected) in [
            (header(0x21, 0x11, &four), Some("203.0.113.9:4660")),
            (header(0x21, 0x11, &more), Some("203.0.113.9:4660")),
            (header(0x21, 0x21, &six), Some("[2001:db8::7]:99")),
            // Its own, whatever else it says.
            (header(0x20, 0x11, &four), None),
            (header(0x20, 0x00, &[]), None),
            (header(0x21, 0x00, &[]), None),
            (header(0x21, 0x31, &[0; 216]), None),
        ] {
            let (read, left) = read_of(&[header.as_slice(), b"GET"].concat()).await;
            assert_eq!(read, Ok(expected.map(str::to_owned)), "{header:x?}");
            assert_eq!(left, 3);
        }
    }

    #[tokio::test]
    async fn what_is_no_header_is_refused_as_soon_as_that_shows() {
        let length = |bytes: u16| [SIGNATURE, &[0x21, 0x11], &bytes.to_be_bytes()].concat();
        for (bytes, expected) in [
            (b"GET /api/events HTTP/1.1\r\n".to_vec(), io::ErrorKind::InvalidData),
            (b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(), io::ErrorKind::InvalidData),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), io::ErrorKind::InvalidData),
            (header(0x31, 0x11, &[0; 12]), io::ErrorKind::InvalidData),
            (header(0x22, 0x11, &[0; 12]), io::ErrorKind::InvalidData),
            (header(0x21, 0x41, &[0; 12]), io::ErrorKind::InvalidData),
            (header(0x21, 0x11, &[0; 11]), io::ErrorKind::InvalidData),
            (length(2049), io::ErrorKind::InvalidData),
            (length(u16::MAX), io::ErrorKind::InvalidData),
            (length(2048), io::ErrorKind::UnexpectedEof),
            (SIGNATURE.to_vec(), io::ErrorKind::UnexpectedEof),
            (Vec::new(), io::ErrorKind::UnexpectedEof),
        ] {
            assert_eq!(read_of(&bytes).await.0, Err(expected), "{bytes:x?}");
        }
    }
}
