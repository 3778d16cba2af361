use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper::body::{Body as _, Frame, SizeHint};
use tokio::time::{Sleep, sleep};

use super::*;

const SECOND: Duration = Duration::from_secs(1);

/// Sends pieces, each after a wait; then nothing for ever, unless it ends.
struct Pieces {
    pieces: VecDeque<(Duration, usize)>,
    ends: bool,
    declared: Option<u64>,
    wait: Option<Pin<Box<Sleep>>>,
}

impl hyper::body::Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some((wait, bytes)) = self.pieces.front().copied() else {
            return if self.ends { Poll::Ready(None) } else { Poll::Pending };
        };
        let timer = self.wait.get_or_insert_with(|| Box::pin(sleep(wait)));
        if timer.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.wait = None;
        self.pieces.pop_front();
        Poll::Ready(Some(Ok(Frame::data(vec![b'x'; bytes].into()))))
    }

    fn size_hint(&self) -> SizeHint {
        self.declared.map(SizeHint::with_exact).unwrap_or_default()
    }
}

/// Has room up to a limit, and makes one wait for it.
struct TestRoom {
    taken: usize,
    limit: usize,
    wait: Duration,
}

impl BodyRoom for TestRoom {
    async fn grow(&mut self, bytes: usize) -> Result<(), Problem> {
        sleep(self.wait).await;
        self.taken += bytes;
        if self.taken <= self.limit { Ok(()) } else { Err(Problem::not_found("room")) }
    }
}

fn plenty() -> TestRoom {
    TestRoom { taken: 0, limit: usize::MAX, wait: Duration::ZERO }
}

fn pieces(pieces: impl IntoIterator<Item = (Duration, usize)>, ends: bool) -> http::Request<Pieces> {
    let body = Pieces { pieces: pieces.into_iter().collect(), ends, declared: None, wait: None };
    http::Request::builder().header("Content-Type", "application/json").body(body).unwrap()
}

fn code<T>(read: Result<T, Problem>) -> &'static str {
    read.map_or_else(|problem| problem.code, |_| "ok")
}

#[tokio::test(start_paused = true)]
async fn a_body_has_to_keep_a_pace() {
    let piece = 16 * 1024;
    for (sent, ends, expected, within) in [
        // Nothing at all, and a byte and then nothing.
        (vec![], false, "body-too-slow", 10),
        (vec![(SECOND * 3, 1)], false, "body-too-slow", 10),
        // Drops do not count as progress.
        (vec![(SECOND, 1); 60], true, "body-too-slow", 10),
        // Slow, but at the pace; then too slow as a whole.
        (vec![(SECOND * 2, piece); 12], true, "ok", 24),
        (vec![(SECOND * 2, piece); 20], true, "body-too-slow", 30),
        // At the pace, then still.
        (vec![(SECOND, piece); 8], false, "body-too-slow", 18),
    ] {
        let began = Instant::now();
        let read = read_json(pieces(sent.clone(), ends), 1 << 20, &mut plenty()).await;
        assert_eq!(code(read), expected, "{sent:?}");
        assert_eq!(began.elapsed().as_secs(), within, "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_for_room_is_not_the_senders_fault() {
    let mut room = TestRoom { wait: SECOND * 9, ..plenty() };
    let read = read_json(pieces(vec![(SECOND, 10); 5], true), 1 << 20, &mut room).await;
    assert_eq!(read.map(|bytes| bytes.len()).map_err(|problem| problem.code), Ok(50));
    assert_eq!(room.taken, 50);
}

#[tokio::test(start_paused = true)]
async fn room_is_taken_for_what_has_arrived_and_no_more() {
    let mut room = TestRoom { limit: 100, ..plenty() };
    let announced = pieces(vec![(SECOND, 60)], false).map(|body| Pieces { declared: Some(1 << 20), ..body });
    assert_eq!(code(read_json(announced, 1 << 20, &mut room).await), "body-too-slow");
    assert_eq!(room.taken, 60);
    let more = pieces(vec![(SECOND, 60)], false);
    assert_eq!(code(read_json(more, 1 << 20, &mut room).await), "not-found", "the room's own answer");
}

#[tokio::test(start_paused = true)]
async fn what_the_head_tells_is_refused_by_the_head() {
    let began = Instant::now();
    let ask = async |name: &'static str, value: &'static str, declared| {
        // Would be too slow if anybody read it.
        let mut request = pieces(vec![], false).map(|body| Pieces { declared, ..body });
        request.headers_mut().insert(name, value.parse().unwrap());
        assert_eq!(request.body().size_hint().exact(), declared);
        code(read_json(request, 1000, &mut plenty()).await)
    };
    assert_eq!(ask("Content-Type", "text/plain", None).await, "content-type");
    assert_eq!(ask("X", "x", Some(1001)).await, "body-too-large");
    for other in ["gzip, chunked", "chunked, chunked", "gzip", "?"] {
        assert_eq!(ask("Transfer-Encoding", other, None).await, "transfer-coding", "{other}");
    }
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert_eq!(ask("Transfer-Encoding", "Chunked", None).await, "body-too-slow", "is read");
    let large = pieces(vec![(SECOND, 600); 2], false);
    assert_eq!(code(read_json(large, 1000, &mut plenty()).await), "body-too-large");
}
