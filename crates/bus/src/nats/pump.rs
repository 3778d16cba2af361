//! From a client subscription, whose queue counts messages and drops without a word, into a queue that
//! counts bytes and says so.

use std::sync::Arc;

use async_nats::{Message, Subscriber};
use futures::StreamExt;
use prometheus_client::metrics::counter::Counter;
use tokio::sync::Notify;

use super::setup::Aborted;
use crate::queue::{self, NotTaken};

/// Messages of a subscription, held in at most so many bytes; what doesn't fit is dropped and counted.
#[derive(Debug)]
pub(super) struct Pumped {
    messages: queue::Receiver<Message>,
    /// No more messages, please; those on their way still come.
    enough: Arc<Notify>,
    _pumping: Aborted,
}

impl Pumped {
    pub(super) fn new(subscriber: Subscriber, bytes: usize, dropped: Counter) -> Self {
        let (sender, messages) = queue::bounded(bytes);
        let enough = Arc::new(Notify::new());
        let pumping = Aborted::spawn(pump(subscriber, sender, dropped, enough.clone()));
        Pumped { messages, enough, _pumping: pumping }
    }

    /// The next message; `None` when the subscription has ended. Cancel-safe.
    pub(super) async fn next(&mut self) -> Option<Message> {
        self.messages.next().await
    }

    /// Ends the subscription; what was sent before still comes.
    pub(super) fn drain(&self) {
        self.enough.notify_one();
    }
}

async fn pump(
    mut subscriber: Subscriber,
    sender: queue::Sender<Message>,
    dropped: Counter,
    enough: Arc<Notify>,
) {
    loop {
        let message = tokio::select! {
            message = subscriber.next() => message,
            () = sender.closed() => return,
            () = enough.notified() => match subscriber.drain().await {
                Ok(()) => continue,
                Err(_) => return,
            },
        };
        let Some(message) = message else { return };
        let bytes = message.length;
        match sender.offer(message, bytes) {
            Ok(()) => {}
            Err(NotTaken::Full) => {
                dropped.inc();
            }
            Err(NotTaken::Closed) => return,
        }
    }
}
