//! A stream's body, as text or compressed.

use anyhow::{Context as _, ensure};
use flate2::{Decompress, FlushDecompress, Status};

use crate::client::bench::scan::{Scanner, Seen};

/// A gzip text's head, where it has no optional parts.
const HEAD: &[u8] = &[0x1f, 0x8b, 8, 0];
const HEAD_BYTES: usize = 10;

/// What has come of a body.
pub(super) struct Content {
    scanner: Scanner,
    inflater: Option<Box<Inflater>>,
}

struct Inflater {
    head: Vec<u8>,
    state: Decompress,
}

impl Content {
    pub(super) fn new(gzip: bool) -> Self {
        let inflater = || Box::new(Inflater { head: Vec::new(), state: Decompress::new(false) });
        Content { scanner: Scanner::default(), inflater: gzip.then(inflater) }
    }

    /// Takes the next bytes; `room` is for what they become.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        room: &mut [u8],
        mut on_seen: impl FnMut(Seen),
    ) -> anyhow::Result<()> {
        let Some(inflater) = &mut self.inflater else {
            self.scanner.feed(bytes, on_seen);
            return Ok(());
        };
        let Inflater { head, state } = &mut **inflater;
        let missing = (HEAD_BYTES - head.len()).min(bytes.len());
        head.extend_from_slice(&bytes[..missing]);
        bytes = &bytes[missing..];
        ensure!(head.starts_with(&HEAD[..HEAD.len().min(head.len())]), "a stream is not gzip");
        loop {
            let (read, written) = (state.total_in(), state.total_out());
            let status =
                state.decompress(bytes, room, FlushDecompress::Sync).context("a stream is not gzip")?;
            ensure!(status != Status::StreamEnd, "the server ended a stream");
            bytes = &bytes[usize::try_from(state.total_in() - read)?..];
            let written = usize::try_from(state.total_out() - written)?;
            self.scanner.feed(&room[..written], &mut on_seen);
            // There may be more where the room was full.
            if bytes.is_empty() && written < room.len() {
                return Ok(());
            }
        }
    }
}
