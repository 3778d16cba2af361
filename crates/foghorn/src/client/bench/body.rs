//! HTTP/1.1 responses, read without a copy: hyper's client would cost more than the servers measured.

/// Most bytes of a response's head.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Most bytes kept of an error's body.
const ERROR_BYTES_MAX: usize = 1024;

/// Why a response can't be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BodyError {
    #[error("the answer is no HTTP/1.1 response, or its head is too long")]
    Head,
    #[error("the body is badly chunked")]
    Chunk,
}

/// A response, byte by byte as they come.
#[derive(Debug, Default)]
pub(super) struct Reader {
    head: Vec<u8>,
    status: Option<u16>,
    chunks: Option<Chunks>,
    error: Vec<u8>,
}

impl Reader {
    /// Takes the next bytes; those of the body are passed on. False when the body is complete.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_body: impl FnMut(&[u8]),
    ) -> Result<bool, BodyError> {
        if self.status.is_none() {
            let before = self.head.len();
            self.head.extend_from_slice(bytes);
            let search = before.saturating_sub(3);
            let Some(end) = memchr::memmem::find(&self.head[search..], b"\r\n\r\n").map(|at| search + at + 4)
            else {
                return if self.head.len() > HEAD_BYTES_MAX { Err(BodyError::Head) } else { Ok(true) };
            };
            bytes = &bytes[end - before..];
            let head = String::from_utf8_lossy(&self.head[..end]).to_ascii_lowercase();
            let status = head.strip_prefix("http/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
            self.status = Some(status.ok_or(BodyError::Head)?);
            let chunked = head.lines().any(|line| {
                line.split_once(':').is_some_and(|(k, v)| k == "transfer-encoding" && v.trim() == "chunked")
            });
            self.chunks = chunked.then(Chunks::default);
            self.head = Vec::new();
        }
        if self.status != Some(200) {
            let room = ERROR_BYTES_MAX - self.error.len();
            self.error.extend_from_slice(&bytes[..bytes.len().min(room)]);
        }
        match &mut self.chunks {
            Some(chunks) => chunks.feed(bytes, on_body),
            None => {
                on_body(bytes);
                Ok(true)
            }
        }
    }

    /// What the server says, when it is not 200.
    pub(super) fn refusal(&self) -> Option<String> {
        let status = self.status.filter(|status| *status != 200)?;
        Some(format!("{status}: {}", String::from_utf8_lossy(&self.error)))
    }
}

/// The chunked transfer coding (RFC 9112, section 7.1).
#[derive(Debug, Default)]
pub(super) struct Chunks {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Within the hexadecimal size: so far, and how many digits.
    Size(u64, u8),
    /// Within what follows the size on its line.
    Extension(u64),
    Data(u64),
    /// Within the line break that follows the data.
    AfterData,
    /// Within the trailer's lines: bytes of the line so far (0, or more).
    Trailer(bool),
    Done,
}

impl Default for State {
    fn default() -> Self {
        State::Size(0, 0)
    }
}

impl Chunks {
    /// Takes the next bytes of the coded body; the data are passed on. False when the body is complete.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut on_data: impl FnMut(&[u8]),
    ) -> Result<bool, BodyError> {
        while let Some(byte) = bytes.first().copied() {
            if let State::Data(left) = self.state {
                let length = usize::try_from(left).unwrap_or(usize::MAX).min(bytes.len());
                on_data(&bytes[..length]);
                bytes = &bytes[length..];
                let left = left - length as u64;
                self.state = if left == 0 { State::AfterData } else { State::Data(left) };
                continue;
            }
            bytes = &bytes[1..];
            self.state = match (self.state, byte) {
                (State::Size(size, digits), _) if byte.is_ascii_hexdigit() && digits < 15 => {
                    let digit = char::from(byte).to_digit(16).unwrap_or_default();
                    State::Size(size << 4 | u64::from(digit), digits + 1)
                }
                (State::Size(size, 1..), b';' | b' ' | b'\t' | b'\r') => State::Extension(size),
                (State::Extension(0), b'\n') => State::Trailer(false),
                (State::Extension(size), b'\n') => State::Data(size),
                (State::Extension(size), _) => State::Extension(size),
                (State::AfterData, b'\r') => State::AfterData,
                (State::AfterData, b'\n') => State::default(),
                (State::Trailer(false), b'\n') => State::Done,
                (State::Trailer(_), b'\n') => State::Trailer(false),
                (State::Trailer(begun), b'\r') => State::Trailer(begun),
                (State::Trailer(_), _) => State::Trailer(true),
                (State::Done, _) => return Ok(false),
                _ => return Err(BodyError::Chunk),
            };
        }
        Ok(self.state != State::Done)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(pieces: &[&[u8]]) -> Result<(Vec<u8>, bool), BodyError> {
        let (mut reader, mut body, mut more) = (Reader::default(), Vec::new(), true);
        for piece in pieces {
            more = reader.feed(piece, |data| body.extend_from_slice(data))?;
        }
        Ok((body, more))
    }

    #[test]
    fn what_is_no_answer_is_said() {
        assert_eq!(read(&[b"SSH-2.0-x\r\n\r\n"]), Err(BodyError::Head));
        let head: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        for bad in [&b"xyz\r\n"[..], b"\r\n", b"1\r\nab", b"fffffffffffffffff\r\n"] {
            assert_eq!(read(&[head, bad]), Err(BodyError::Chunk), "{bad:?}");
        }
        let mut refused = Reader::default();
        refused.feed(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", |_| {}).unwrap();
        assert_eq!(refused.refusal().unwrap(), "403: no");
        assert_eq!(read(&[b"HTTP/1.1 200 OK\r\n\r\nplain"]).unwrap(), (b"plain".to_vec(), true));
    }

    proptest! {
        /// Whatever the chunks and wherever TCP cuts them, the body is the same.
        #[test]
        fn any_split_reads_the_same_body(
            chunks in prop::collection::vec((prop::collection::vec(any::<u8>(), 1..40), 0u8..3), 0..6),
            trailer in any::<bool>(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        ) {
            let mut wire = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            let mut body = Vec::new();
            for (data, form) in &chunks {
                let size = match form {
                    0 => format!("{:x}\r\n", data.len()),
                    1 => format!("{:04X}\r\n", data.len()),
                    _ => format!("{:x};name=\"value\"\r\n", data.len()),
                };
                wire.extend_from_slice(size.as_bytes());
                wire.extend_from_slice(data);
                wire.extend_from_slice(b"\r\n");
                body.extend_from_slice(data);
            }
            wire.extend_from_slice(if trailer { b"0\r\nX-End: yes\r\n\r\n" } else { b"0\r\n\r\n" });
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(wire.len())).collect();
            cuts.sort_unstable();
            let mut pieces = Vec::new();
            let mut from = 0;
            for cut in cuts {
                pieces.push(&wire[from..cut]);
                from = cut;
            }
            pieces.push(&wire[from..]);
            prop_assert_eq!(read(&pieces).unwrap(), (body, false));
        }
    }
}
