//! Whether the peer takes what it is given of an answer, where several share a socket.
//!
//! A socket's [`StallLimit`](crate::stall::StallLimit) sees that a peer takes nothing at all. Over HTTP/2 it may
//! take everything but one answer: that answer's window is full then, the others go on, and whoever sends it is
//! not asked for more. So each answer is given out in pieces, and what counts is how long the next one has
//! been at hand.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use tokio::time::{Instant, sleep};

use crate::body::Body;

/// Bytes of a piece. A peer that takes so much within the limit makes progress; it is also what h2 puts into
/// one frame.
const PIECE_BYTES: usize = 16 * 1024;

/// Since when a piece of an answer waits.
#[derive(Debug)]
pub(crate) struct Pace {
    began: Instant,
    /// Milliseconds after the beginning, and one more; 0 while nothing waits.
    waits_since: AtomicU64,
}

impl Pace {
    pub(crate) fn new() -> Self {
        Pace { began: Instant::now(), waits_since: AtomicU64::new(0) }
    }

    /// Returns when a piece has waited for so long.
    pub(crate) async fn stalled(&self, limit: Duration) {
        loop {
            let waited = self.waited();
            if waited.is_some_and(|waited| waited >= limit) {
                return;
            }
            // Whatever is given meanwhile will not have waited for longer by then.
            sleep(limit.saturating_sub(waited.unwrap_or_default())).await;
        }
    }

    fn waited(&self) -> Option<Duration> {
        let since = self.waits_since.load(Ordering::Relaxed).checked_sub(1)?;
        Some(self.began.elapsed().saturating_sub(Duration::from_millis(since)))
    }

    fn gave(&self) {
        let now = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX - 1);
        self.waits_since.store(now + 1, Ordering::Relaxed);
    }

    fn taken(&self) {
        self.waits_since.store(0, Ordering::Relaxed);
    }
}

/// A body in pieces, each of which is known to be taken when the next one is asked for.
pub(crate) struct Paced {
    body: Body,
    rest: Bytes,
    pace: Arc<Pace>,
}

impl Paced {
    pub(crate) fn new(body: Body, pace: Arc<Pace>) -> Self {
        Paced { body, rest: Bytes::new(), pace }
    }
}

impl hyper::body::Body for Paced {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.pace.taken();
        if self.rest.is_empty() {
            match ready!(hyper::body::Body::poll_frame(Pin::new(&mut self.body), cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        let length = self.rest.len().min(PIECE_BYTES);
        let piece = self.rest.split_to(length);
        self.pace.gave();
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && hyper::body::Body::is_end_stream(&self.body)
    }

    fn size_hint(&self) -> SizeHint {
        let (here, body) = (self.rest.len() as u64, hyper::body::Body::size_hint(&self.body));
        let mut hint = SizeHint::new();
        hint.set_lower(body.lower() + here);
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + here);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use tokio::time::timeout;

    use super::*;
    use crate::body::full;

    const LIMIT: Duration = Duration::from_secs(60);

    #[tokio::test(start_paused = true)]
    async fn an_answer_that_is_not_taken_is_found_out_on_time_and_a_slow_one_is_not() {
        let pace = Arc::new(Pace::new());
        let mut body = Paced::new(full(vec![b'x'; 5 * PIECE_BYTES]), pace.clone());
        let taking = async {
            let mut taken = 0;
            for _ in 0..4 {
                let piece = body.frame().await.unwrap().unwrap().into_data().unwrap();
                taken += piece.len();
                sleep(LIMIT * 9 / 10).await;
            }
            assert_eq!(
                (taken, hyper::body::Body::size_hint(&body).exact()),
                (4 * PIECE_BYTES, Some(PIECE_BYTES as u64))
            );
            Instant::now()
        };
        let began = Instant::now();
        let (last, ()) = tokio::join!(taking, pace.stalled(LIMIT));
        assert!(last - began > LIMIT * 3, "as long as it takes something");
        // The fourth piece was given a tenth of the limit before the last one was not asked for.
        assert_eq!(began.elapsed(), LIMIT * 9 / 10 * 3 + LIMIT);
        // What waits for nothing but its own body is never too slow.
        let idle = Pace::new();
        assert!(timeout(LIMIT * 10, idle.stalled(LIMIT)).await.is_err());
    }
}
