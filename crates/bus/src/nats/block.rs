//! Header blocks of stored messages, read in one way whichever way they come.
//!
//! The server takes any bytes as a header block, and gives them back in three forms: `STREAM.MSG.GET` as
//! they are, a push consumer through the client library, which trims and unfolds, and a direct get with
//! the last two bytes replaced by headers of the server's own, whatever those bytes were. Digests must not
//! depend on the form. So the stored bytes decide, by [`canonical`], and a message that came in another
//! form is taken from it only where that surely reads the same: the lengths add up exactly as they do
//! for a block in the usual form. Any other is read again as it is stored.

use async_nats::{HeaderMap, HeaderName, HeaderValue, Message, header};

#[cfg(any(test, fuzzing))]
pub(super) mod forms;

const VERSION: &str = "NATS/1.0";
/// Line ends of the version line and of the block.
const LINE_ENDS: usize = 4;
/// Beside its name and value a header takes `: ` and a line end.
const PER_HEADER: usize = 4;

/// How many entries follow, in a direct get of a batch.
pub(super) const PENDING: HeaderName = HeaderName::from_static("Nats-Num-Pending");

/// Headers in their order, continued lines joined.
#[derive(Debug)]
pub(super) struct Block<'a> {
    pub(super) headers: Vec<(&'a str, String)>,
    /// Whether the client library can read it, and finds no status in it.
    readable: bool,
}

impl<'a> Block<'a> {
    /// As the client library reads it. What is no header is passed over, and makes it unreadable. None
    /// when it is no text: nobody can say which header the bad bytes were meant for.
    fn parse(block: &'a [u8]) -> Option<Self> {
        let mut lines = std::str::from_utf8(block).ok()?.lines().peekable();
        let version = lines.next().unwrap_or_default();
        let mut readable = version.strip_prefix(VERSION).is_some_and(|rest| rest.trim().is_empty());
        let mut headers = Vec::new();
        while let Some(line) = lines.next() {
            let Some((name, value)) = line.split_once(':').filter(|(name, _)| is_name(name)) else {
                readable &= line.is_empty();
                continue;
            };
            let mut value = value.trim_start().to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with(char::is_whitespace)) {
                value.push_str(more);
            }
            value.truncate(value.trim_end().len());
            readable &= !value.contains('\r');
            headers.push((name, value));
        }
        Some(Block { headers, readable })
    }

    /// How long it is in the usual form; none when the client library can't read it.
    fn usual_len(&self) -> Option<usize> {
        let headers = self.headers.iter().map(|(name, value)| (name.len(), value.len()));
        self.readable.then(|| usual_len(headers))
    }
}

fn is_name(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_graphic())
}

fn usual_len(headers: impl Iterator<Item = (usize, usize)>) -> usize {
    let headers: usize = headers.map(|(name, value)| name + value + PER_HEADER).sum();
    VERSION.len() + LINE_ENDS + headers
}

/// What a stored block says; none when it can't be said, which makes the entry invalid. `trimmed` is how
/// many bytes of white space the message's subject ends in.
///
/// The first case is what a push consumer's form shows, the second what a direct get's does. Where both
/// hold they say the same.
pub(super) fn canonical(block: &[u8], trimmed: usize) -> Option<Block<'_>> {
    if block.is_empty() {
        return Some(Block { headers: Vec::new(), readable: true });
    }
    let whole = Block::parse(block);
    if whole.as_ref().and_then(Block::usual_len) == Some(block.len()) {
        return whole;
    }
    let cut = match block.len() {
        // The server begins a new block in place of one so short.
        ..=2 => &b"NATS/1.0\r\n"[..],
        len => &block[..len - 2],
    };
    if cut.ends_with(b"\n")
        && let Some(cut_block) = Block::parse(cut)
        && cut_block.usual_len() == Some(cut.len() + 2 + trimmed)
    {
        return Some(cut_block);
    }
    whole.filter(|_| block.ends_with(b"\r\n\r\n"))
}

/// Whether a stored block is one that the client library surely reads, in whatever form.
pub(super) fn is_harmless(block: &[u8]) -> bool {
    block.is_empty() || Block::parse(block).and_then(|block| block.usual_len()) == Some(block.len())
}

/// Whether a message from a push consumer says what [`canonical`] would.
pub(super) fn is_usual(message: &Message) -> bool {
    match &message.headers {
        None => true,
        Some(headers) => message.status.is_none() && block_len(message) == Some(map_len(headers)),
    }
}

/// Whether a message from a batched direct get of `stream` says what [`canonical`] would.
pub(super) fn is_usual_direct(message: &Message, stream: &str) -> bool {
    let Some(headers) = &message.headers else { return false };
    let once = |name: HeaderName| headers.get_all(name).count() == 1;
    let of_server =
        [header::NATS_STREAM, header::NATS_SUBJECT, header::NATS_SEQUENCE, header::NATS_TIME_STAMP];
    // A line without its end becomes one with the first header that the server adds.
    let glued = || {
        let stream: &str = header::NATS_STREAM.as_ref();
        headers.iter().any(|(name, values)| {
            let name: &str = name.as_ref();
            let in_value =
                |value: &HeaderValue| value.as_str().split(stream).skip(1).any(|rest| rest.starts_with(':'));
            (name != stream && name.ends_with(stream)) || values.iter().any(in_value)
        })
    };
    message.status.is_none()
        && block_len(message) == Some(map_len(headers))
        && of_server.into_iter().chain([PENDING, header::NATS_LAST_SEQUENCE]).all(once)
        && headers.get(header::NATS_STREAM).is_some_and(|value| value.as_str() == stream)
        && !glued()
}

fn map_len(headers: &HeaderMap) -> usize {
    usual_len(headers.iter().flat_map(|(name, values)| {
        let name: &str = name.as_ref();
        values.iter().map(|value| (name.len(), value.as_str().len()))
    }))
}

/// How long the header block was as it came.
fn block_len(message: &Message) -> Option<usize> {
    let reply = message.reply.as_ref().map_or(0, |reply| reply.len());
    message.length.checked_sub(message.subject.len() + reply + message.payload.len())
}

#[cfg(test)]
mod tests {
    use super::forms::{STREAM, direct, pushed};
    use super::*;

    const NAMES: [&str; 2] = ["Foghorn-Event", "Nats-Msg-Id"];

    /// What counts of a block, by each of the ways that take it; at least one, the stored form.
    fn readings(block: &[u8], subject: &str) -> Vec<[Option<String>; 2]> {
        let of_map =
            |headers: &HeaderMap| NAMES.map(|name| headers.get(name).map(|value| value.as_str().to_owned()));
        let stored = canonical(block, subject.len() - subject.trim_end().len());
        let mut readings = vec![NAMES.map(|name| match &stored {
            None => Some("no reading".to_owned()),
            Some(stored) => {
                let found = stored.headers.iter().find(|(found, _)| *found == name);
                found.map(|(_, value)| value.clone())
            }
        })];
        if let Some(pushed) = pushed(subject, block, b"x").filter(is_usual) {
            readings.push(of_map(pushed.headers.as_ref().unwrap_or(&HeaderMap::new())));
        }
        let direct = direct(subject, block, b"x");
        if let Some(direct) = direct.filter(|direct| is_usual_direct(direct, STREAM)) {
            readings.push(of_map(direct.headers.as_ref().unwrap()));
        }
        readings
    }

    #[test]
    fn usual_blocks_are_taken_as_they_come_and_all_readings_agree() {
        for block in [
            &b""[..],
            b"NATS/1.0\r\n\r\n",
            b"NATS/1.0\r\nNats-Msg-Id: k\r\n\r\n",
            b"NATS/1.0\r\nNats-Msg-Id: k\r\nFoghorn-Event: tick\r\nX: y\r\n\r\n",
        ] {
            let readings = readings(block, "foghorn.journal.0.a");
            assert_eq!(readings.len(), 3, "{block:?}");
            assert!(readings.iter().all(|reading| *reading == readings[0]), "{readings:?}");
        }
    }

    #[test]
    fn a_block_without_an_end_is_never_taken_from_a_direct_get() {
        let block = b"NATS/1.0\r\nFoghorn-Event: a";
        let glued = direct("foghorn.journal.0.a", block, b"x").unwrap();
        assert_eq!(
            glued.headers.as_ref().unwrap().get("Foghorn-Event").unwrap().as_str(),
            "Nats-Stream: FOGHORN_0"
        );
        assert!(!is_usual_direct(&glued, STREAM));
        assert!(canonical(block, 0).is_none());
    }

    /// Every sequence of some pieces, many of which are made to look like what they are not.
    #[test]
    fn no_block_has_two_readings() {
        const PIECES: [&str; 11] = [
            "Foghorn-Event:",
            "Nats-Msg-Id: k",
            " ",
            "a",
            "\r\n",
            "\n",
            ":",
            " b",
            "\r",
            "Nats-Stream: FOGHORN_0\r\n",
            "z",
        ];
        let (mut taken_pushed_or_direct, mut blocks) = (0, vec!["NATS/1.0\r\n".to_owned()]);
        for _ in 0..4 {
            let longer = |block: &String| PIECES.map(|piece| format!("{block}{piece}"));
            blocks = blocks.iter().flat_map(longer).collect();
            for block in &blocks {
                // The ends of most.
                for block in [block.clone(), format!("{block}\r\n\r\n"), format!("{block}\r\n b")] {
                    for subject in ["foghorn.journal.0.a", "foghorn.journal.0.a\u{2003}"] {
                        let readings = readings(block.as_bytes(), subject);
                        taken_pushed_or_direct += readings.len() - 1;
                        assert!(readings.iter().all(|r| *r == readings[0]), "{block:?}: {readings:?}");
                    }
                }
            }
        }
        assert!(taken_pushed_or_direct > 1000, "{taken_pushed_or_direct}");
    }
}
