//! `PublishStream`: events as they come, answers in their order, read no faster than the journal takes
//! them, the publisher reads the answers and its subject may publish.
//!
//! When the journal fails an event in a way that a retry can heal, the stream takes in no more: what it
//! has is answered (later events of that channel as not tried), then it ends with UNAVAILABLE. The
//! publisher goes on with a new stream, from the first event without a good answer; so each channel's
//! events keep their order through the retry.

use std::pin::pin;
use std::sync::Arc;

use foghorn_auth::Requester;
use foghorn_core::trace::TraceContext;
use foghorn_rpc::v1;
use futures::future::{BoxFuture, OptionFuture};
use tokio::sync::Semaphore;
use tokio::sync::mpsc::Sender;
use tonic::{Status, Streaming};

use crate::error::PublishError;
use crate::grpc::{input, result};
use crate::pipeline::Pipeline;
use crate::publish::{Checked, Door, Publisher};

/// An event that has been read, and waits for its turn and for room.
type Entering = BoxFuture<'static, Result<Checked, PublishError>>;

/// Why nothing more is read.
enum End {
    /// The publisher has no more.
    Done,
    /// The stream can't go on.
    Failed(Status),
}

/// Checks a request; what is refused is counted.
pub(crate) async fn check(
    publisher: &Publisher,
    by: &Requester,
    request: v1::PublishRequest,
    trace: Option<TraceContext>,
) -> Result<Checked, PublishError> {
    match input(request, trace) {
        Ok(input) => publisher.check(Door::Grpc, by, input).await,
        Err(error) => {
            publisher.refused(Door::Grpc, &error);
            Err(error)
        }
    }
}

/// Publishes `requests` until they end, the journal fails, the publisher goes away or may no longer publish, or it
/// is time to drain. Whatever was read is answered.
pub(crate) async fn run(
    publisher: Arc<Publisher>,
    by: Requester,
    mut requests: Streaming<v1::PublishRequest>,
    trace: Option<TraceContext>,
    answers: Sender<Result<v1::PublishResult, Status>>,
) {
    let own_room = Arc::new(Semaphore::new(publisher.config.stream_bytes));
    let mut pipeline = Pipeline::new(publisher.clone(), Door::Grpc);
    let mut entering: OptionFuture<Entering> = None.into();
    let mut is_entering = false;
    let by = Arc::new(by);
    let mut lapsed = pin!(publisher.auth.lapsed(&by.caller));
    let mut end = None;
    loop {
        if end.is_none()
            && let Some(error) = pipeline.broken()
        {
            end = Some(End::Failed(error.to_status()));
        }
        let may_read = end.is_none() && !is_entering && pipeline.len() < publisher.config.stream_events;
        tokio::select! {
            place = answers.reserve(), if pipeline.has_answer() => {
                // Nobody reads answers any more: what has none may or may not be stored.
                let Ok(place) = place else { return };
                if let Some(answer) = pipeline.take() {
                    place.send(Ok(result(&answer)));
                }
            }
            moved = pipeline.step(), if pipeline.is_working() => debug_assert!(moved, "something is on its way"),
            entered = &mut entering, if is_entering => {
                is_entering = false;
                entering = None.into();
                // If the journal failed meanwhile, this one may not overtake the failed one.
                let not_tried = pipeline.broken().map(PublishError::not_tried);
                if let Some(checked) = entered {
                    pipeline.push(not_tried.map_or(checked, Err));
                }
            }
            request = requests.message(), if may_read => match request {
                Ok(Some(request)) => {
                    let entered = enter(publisher.clone(), by.clone(), own_room.clone(), request, trace);
                    entering = Some(entered).into();
                    is_entering = true;
                }
                Ok(None) => end = Some(End::Done),
                Err(status) => end = Some(End::Failed(status)),
            },
            refusal = &mut lapsed, if end.is_none() => {
                let error = PublishError::from(refusal);
                publisher.refused(Door::Grpc, &error);
                // What waits to be let in is not, however long ago it came.
                if std::mem::take(&mut is_entering) {
                    entering = None.into();
                    pipeline.push(Err(error.clone()));
                }
                end = Some(End::Failed(error.to_status()));
            }
            () = publisher.shutdown.wait(), if end.is_none() => {
                end = Some(End::Failed(PublishError::draining().to_status()));
            }
            else => break,
        }
    }
    if let Some(End::Failed(status)) = end
        && answers.send(Err(status)).await.is_err()
    {
        tracing::debug!("the publisher was gone before the end of its stream");
    }
}

/// Checks a request, waits until its subject may publish one more, and for room in this stream and among all.
fn enter(
    publisher: Arc<Publisher>,
    by: Arc<Requester>,
    own_room: Arc<Semaphore>,
    request: v1::PublishRequest,
    trace: Option<TraceContext>,
) -> Entering {
    Box::pin(async move {
        // Each waits for a webhook by itself: the stream goes on when that answers again.
        let mut checked = check(&publisher, &by.again(), request, trace).await?;
        publisher.wait_for_rate(&by.caller).await?;
        let bytes = checked.bytes().min(publisher.config.stream_bytes);
        let own = own_room.acquire_many_owned(u32::try_from(bytes).unwrap_or(u32::MAX)).await;
        let own = own.map_err(|_| PublishError::draining())?;
        checked.room = Some((own, publisher.wait_for_room(checked.bytes()).await?));
        Ok(checked)
    })
}
