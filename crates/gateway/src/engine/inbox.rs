//! What others tell a reactor.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mio::{Poll, Token, Waker};
use parking_lot::Mutex;

use foghorn_http::connections::Open;

use crate::connection::Stream;
use crate::hub::Membership;

/// The waker's.
pub(super) const WAKE: Token = Token(usize::MAX);

/// A stream and its socket, on the way between a task and a reactor.
#[derive(Debug)]
pub(super) struct Handed {
    pub(super) stream: Stream,
    pub(super) socket: TcpStream,
    pub(super) open: Open,
}

/// A reactor's door.
#[derive(Debug)]
pub(crate) struct Inbox {
    waker: Waker,
    signalled: AtomicBool,
    stopped: AtomicBool,
    /// A queue, bounded by what may be open at all: each is a stream that has its place already.
    adoptees: Mutex<Vec<(Handed, Membership)>>,
    /// How many streams it serves that are not about to leave.
    staying: AtomicUsize,
    /// How many of them may stay.
    may_stay: AtomicUsize,
    /// How many are to end because others have more room, and weren't chosen yet.
    to_shed: AtomicUsize,
    /// How many have had a full socket for over a second.
    slow: AtomicUsize,
}

impl Inbox {
    pub(super) fn new(poll: &Poll) -> std::io::Result<Self> {
        Ok(Inbox {
            waker: Waker::new(poll.registry(), WAKE)?,
            signalled: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            adoptees: Mutex::default(),
            staying: AtomicUsize::new(0),
            may_stay: AtomicUsize::new(usize::MAX),
            to_shed: AtomicUsize::new(0),
            slow: AtomicUsize::new(0),
        })
    }

    /// Has the reactor look at the rings, at what is stale and at what is in here.
    pub(crate) fn wake(&self) {
        if !self.signalled.swap(true, Ordering::SeqCst)
            && let Err(error) = self.waker.wake()
        {
            // It looks by itself a few times a second.
            tracing::warn!(%error, "could not wake a reactor");
        }
    }

    /// Everything told until now will have been seen by whoever looks after this.
    pub(super) fn listen(&self) {
        self.signalled.store(false, Ordering::SeqCst);
    }

    pub(super) fn adopt(&self, handed: Handed, membership: Membership) {
        self.adoptees.lock().push((handed, membership));
        self.wake();
    }

    pub(super) fn adoptees(&self, taken: &mut Vec<(Handed, Membership)>) {
        taken.append(&mut self.adoptees.lock());
    }

    pub(super) fn stop(&self) {
        self.stopped.store(true, Ordering::SeqCst);
        self.wake();
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }

    /// Streams that are not about to leave.
    pub(crate) fn staying(&self) -> usize {
        self.staying.load(Ordering::SeqCst)
    }

    pub(super) fn set_staying(&self, staying: usize) {
        self.staying.store(staying, Ordering::SeqCst);
    }

    /// Lets up to `most` more go; returns how many that is, and how many stay. Whoever comes later goes too:
    /// who lets go takes nobody on.
    pub(crate) fn let_go(&self, most: usize) -> (usize, usize) {
        let staying = self.staying().min(self.may_stay());
        let going = most.min(staying);
        self.may_stay.store(staying - going, Ordering::SeqCst);
        self.wake();
        (going, staying - going)
    }

    pub(super) fn may_stay(&self) -> usize {
        self.may_stay.load(Ordering::SeqCst)
    }

    /// Has so many streams end that are to begin again elsewhere.
    pub(crate) fn shed(&self, streams: usize) {
        self.to_shed.fetch_add(streams, Ordering::SeqCst);
        self.wake();
    }

    /// How many more are to be chosen now.
    pub(super) fn take_shed(&self) -> usize {
        self.to_shed.swap(0, Ordering::SeqCst)
    }

    /// Streams whose socket has been full for over a second.
    pub(crate) fn slow(&self) -> usize {
        self.slow.load(Ordering::Relaxed)
    }

    pub(super) fn set_slow(&self, slow: usize) {
        self.slow.store(slow, Ordering::Relaxed);
    }
}
