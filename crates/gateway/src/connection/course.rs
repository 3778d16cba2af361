//! Where a connection is in one shard.

use foghorn_core::cursor::Cursor;
use foghorn_core::position::{Epoch, Position};
use foghorn_core::shard::Shard;

use crate::ring::Ring;

/// A position that moves towards the head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Course {
    pub(crate) shard: Shard,
    pub(crate) epoch: Epoch,
    /// Everything owed at or below this seq has been written.
    pub(crate) at: u64,
    /// Where the head was when the stream began: reaching it ends the catch-up.
    pub(super) level_at: u64,
}

/// Why the ring can't serve a course now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lack {
    /// It is older than the ring, or of another epoch: the log knows what to do.
    Log,
    /// It is beyond the head.
    Ahead,
}

impl Course {
    /// One that has caught up.
    pub(crate) fn level(shard: Shard, epoch: Epoch, at: u64) -> Self {
        Course { shard, epoch, at, level_at: at }
    }

    /// The same at another seq.
    pub(crate) fn moved_to(self, at: u64) -> Self {
        Course { at, ..self }
    }

    /// Whether the ring can be read from here.
    pub(crate) fn check(&self, ring: &Ring) -> Result<(), Lack> {
        if self.epoch != ring.epoch() || self.at < ring.floor() {
            Err(Lack::Log)
        } else if self.at > ring.head() {
            Err(Lack::Ahead)
        } else {
            Ok(())
        }
    }

    /// Whether it has caught up with where the head was at the start.
    pub(super) fn is_level(&self) -> bool {
        self.at >= self.level_at
    }
}

/// The cursor of a connection at these positions.
pub(crate) fn cursor(courses: &[Course]) -> Cursor {
    let mut cursor = Cursor::default();
    for course in courses {
        cursor.set(Position { shard: course.shard, epoch: course.epoch, seq: course.at });
    }
    cursor
}
