//! Those who listen, as a client that does what it is told: at a reset it gives up what came after the
//! position that the stream goes on from.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::cursor;
use foghorn_tests::sse::{Block, SseClient};
use foghorn_tests::wait::until;
use parking_lot::Mutex;
use tokio::task::JoinHandle;

use super::SHARD;

/// What a client comes back with.
pub(super) type Cursor = String;

/// What a client has.
#[derive(Debug, Clone, Default)]
pub(super) struct Heard {
    /// Seqs and data, without what was given up.
    events: Vec<(u64, String)>,
    /// Reasons, in order.
    pub(super) resets: Vec<String>,
}

impl Heard {
    /// Takes in a block.
    fn take(&mut self, block: &Block) {
        let position = |block: &Block| {
            let cursor = cursor::Cursor::parse(block.id.as_deref().unwrap_or_default()).unwrap();
            cursor.get(SHARD).unwrap().1
        };
        match block.event_type() {
            "stream-reset" => {
                let after = position(block);
                self.events.retain(|(seq, _)| *seq <= after);
                self.resets.push(block.json()["reason"].as_str().unwrap().to_owned());
            }
            "message" if block.is_event() => {
                self.events.push((position(block), block.data.clone().unwrap()));
            }
            _ => {}
        }
    }

    /// That all events from its first on are those of the journal, each once.
    pub(super) fn assert_is(&self, journal: &[(u64, String)], turn: usize) {
        let first = self.events.first().map_or(0, |(seq, _)| *seq);
        let right: Vec<_> = journal.iter().filter(|(seq, _)| *seq >= first).cloned().collect();
        assert_eq!(self.events, right, "listener {turn}");
    }
}

/// A client on a stream, which comes back with its cursor when that ends.
pub(super) struct Listening {
    shared: Arc<Mutex<(Cursor, Heard)>>,
    task: JoinHandle<()>,
}

impl Listening {
    /// Opens a stream and waits until it is live.
    pub(super) async fn start(url: &str, cursor: Option<&Cursor>) -> Self {
        Listening::open(url, cursor.cloned().unwrap_or_default(), Heard::default()).await
    }

    /// The same, of one who has heard something before.
    pub(super) async fn come_back(url: &str, cursor: &Cursor, heard: Heard) -> Self {
        Listening::open(url, cursor.clone(), heard).await
    }

    async fn open(url: &str, cursor: Cursor, heard: Heard) -> Self {
        let shared = Arc::new(Mutex::new((cursor, heard)));
        let (live, is_live) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(listen(url.to_owned(), shared.clone(), live));
        is_live.await.expect("the stream becomes live");
        Listening { shared, task }
    }

    /// Waits until an event with these data is among what it has.
    pub(super) async fn until_heard(&self, data: &str, limit: Duration) {
        until(&format!("event {data}"), limit, async || {
            let heard = &self.shared.lock().1;
            heard.events.iter().any(|(_, text)| text == data).then_some(())
        })
        .await;
    }

    /// Whether it has been told of a loss.
    pub(super) fn was_reset(&self) -> bool {
        !self.shared.lock().1.resets.is_empty()
    }

    /// Closes the stream; where it was, and what it has.
    pub(super) async fn leave(self) -> (Cursor, Heard) {
        self.task.abort();
        drop(self.task.await);
        let state = self.shared.lock();
        state.clone()
    }
}

async fn listen(url: String, shared: Arc<Mutex<(Cursor, Heard)>>, live: tokio::sync::oneshot::Sender<()>) {
    let mut live = Some(live);
    loop {
        let cursor = shared.lock().0.clone();
        let headers: Vec<_> =
            Some(("Last-Event-ID", &*cursor)).filter(|_| !cursor.is_empty()).into_iter().collect();
        if let Ok(mut stream) = SseClient::connect(&url, &headers).await {
            while let Ok(block) = stream.next_within(Duration::from_secs(60)).await {
                let mut state = shared.lock();
                if block.id.is_some() {
                    stream.last_event_id().clone_into(&mut state.0);
                }
                state.1.take(&block);
                drop(state);
                if block.event_type() == "stream-live"
                    && let Some(live) = live.take()
                {
                    live.send(()).expect("somebody waits for it");
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
