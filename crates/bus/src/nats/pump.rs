//! From a client subscription, whose queue counts messages and drops without a word, into a queue that
//! counts bytes and says so.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::{Message, SubscribeError, Subscriber};
use futures::StreamExt;
use futures::future::OptionFuture;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;
use tokio::time::{Sleep, sleep, timeout};

use super::link::Link;
use super::setup::Aborted;
use crate::backoff::Backoff;
use crate::queue::{self, NotTaken};

/// How long messages that were on their way when the subscription ended may still come. A server that is
/// gone sends none and never says so.
const DRAIN_DEADLINE: Duration = Duration::from_secs(2);

/// Messages of a subscription, held in at most so many bytes; what doesn't fit is dropped and counted.
#[derive(Debug)]
pub(super) struct Pumped {
    messages: queue::Receiver<Message>,
    /// No more messages, please; those on their way still come.
    enough: Arc<Notify>,
    _pumping: Aborted,
}

/// What a queue subscription is made of.
#[derive(Debug, Clone)]
pub(super) struct Shared {
    pub(super) link: Link,
    pub(super) subject: String,
    pub(super) group: String,
}

impl Shared {
    async fn subscribe(&self) -> Result<Subscriber, SubscribeError> {
        let client = self.link.live_client().await;
        client.queue_subscribe(self.subject.clone(), self.group.clone()).await
    }

    /// Until it succeeds: the first time it did.
    async fn subscribe_anew(&self) -> Subscriber {
        let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(1));
        loop {
            match self.subscribe().await {
                Ok(subscriber) => return subscriber,
                // That client is dead too.
                Err(error) => tracing::debug!(%error, subject = self.subject, "can't subscribe anew"),
            }
            backoff.wait().await;
        }
    }
}

impl Pumped {
    /// Ends with the subscription.
    pub(super) fn new(subscriber: Subscriber, bytes: usize, dropped: Counter) -> Self {
        Pumped::spawn(bytes, |sender, enough| async move {
            pump(subscriber, &sender, &dropped, &enough).await;
        })
    }

    /// Subscribes anew whenever the client under the subscription dies. An error is of the first time.
    pub(super) async fn lasting(
        shared: Shared,
        bytes: usize,
        dropped: Counter,
    ) -> Result<Self, SubscribeError> {
        let mut subscriber = shared.subscribe().await?;
        Ok(Pumped::spawn(bytes, |sender, enough| async move {
            while let Ended::Lost = pump(subscriber, &sender, &dropped, &enough).await {
                subscriber = tokio::select! {
                    subscriber = shared.subscribe_anew() => subscriber,
                    () = sender.closed() => return,
                    () = enough.notified() => return,
                };
            }
        }))
    }

    fn spawn<F: Future<Output = ()> + Send + 'static>(
        bytes: usize,
        pumping: impl FnOnce(queue::Sender<Message>, Arc<Notify>) -> F,
    ) -> Self {
        let (sender, messages) = queue::bounded(bytes);
        let enough = Arc::new(Notify::new());
        let pumping = Aborted::spawn(pumping(sender, enough.clone()));
        Pumped { messages, enough, _pumping: pumping }
    }

    /// The next message; `None` when the subscription has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.messages.next().await
    }

    /// Ends the subscription; what was sent before still comes, for at most 2 s.
    pub(super) fn drain(&self) {
        self.enough.notify_one();
    }
}

/// Why no more messages come.
enum Ended {
    /// They are not wanted any more.
    Unwanted,
    /// The client is dead.
    Lost,
}

async fn pump(
    mut subscriber: Subscriber,
    sender: &queue::Sender<Message>,
    dropped: &Counter,
    enough: &Notify,
) -> Ended {
    let mut ended = Ended::Lost;
    let mut drained_by = pin!(OptionFuture::from(None::<Sleep>));
    loop {
        let message = tokio::select! {
            message = subscriber.next() => message,
            () = sender.closed() => return Ended::Unwanted,
            Some(()) = &mut drained_by => return ended,
            () = enough.notified() => {
                ended = Ended::Unwanted;
                drained_by.set(Some(sleep(DRAIN_DEADLINE)).into());
                match timeout(DRAIN_DEADLINE, subscriber.drain()).await {
                    Ok(Ok(())) => continue,
                    Ok(Err(_)) | Err(_) => return ended,
                }
            }
        };
        let Some(message) = message else { return ended };
        let bytes = message.length;
        match sender.offer(message, bytes) {
            Ok(()) => {}
            Err(NotTaken::Full) => {
                dropped.inc();
            }
            Err(NotTaken::Closed) => return Ended::Unwanted,
        }
    }
}
