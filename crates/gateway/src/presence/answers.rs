//! Answers to who listens to a channel, shared by those who ask at about the same time: however many ask, gateways are
//! asked once a second for each channel.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tokio::time::Instant;

use foghorn_core::channel::Channel;

use super::Counted;

/// For how long after gateways were asked their answers are given to others.
const HOLDS: Duration = Duration::from_secs(1);
/// Channels whose answers are shared. Those of more are each somebody's own.
const SHARED_MAX: usize = 256;
/// Users in all of these answers, about; about 10 MB of them.
const USERS_MAX: usize = 100_000;

#[derive(Debug, Default)]
pub(super) struct Answers(Mutex<HashMap<Channel, Asked>>);

#[derive(Debug)]
struct Asked {
    at: Instant,
    answer: Shared<BoxFuture<'static, Arc<Counted>>>,
}

impl Answers {
    /// The answer that others have had or wait for, or what `ask` brings.
    pub(super) async fn get(
        &self,
        channel: &Channel,
        ask: impl Future<Output = Counted> + Send + 'static,
    ) -> Arc<Counted> {
        let answer = {
            let (mut all, now) = (self.0.lock(), Instant::now());
            all.retain(|_, asked| now.duration_since(asked.at) < HOLDS);
            match all.get(channel) {
                Some(asked) => asked.answer.clone(),
                None => {
                    let answer = ask.map(Arc::new).boxed().shared();
                    let users = |asked: &Asked| asked.answer.peek().map_or(0, |counted| counted.users.len());
                    if all.len() < SHARED_MAX && all.values().map(users).sum::<usize>() < USERS_MAX {
                        all.insert(channel.detached(), Asked { at: now, answer: answer.clone() });
                    }
                    answer
                }
            }
        };
        answer.await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::future::join_all;

    use super::*;

    fn channel(name: impl std::fmt::Display) -> Channel {
        Channel::parse(format!("room.{name}")).unwrap()
    }

    #[derive(Default)]
    struct Stage {
        answers: Answers,
        asked: Arc<AtomicUsize>,
    }

    impl Stage {
        /// An answer that takes a while, with so many users.
        async fn get(&self, name: impl std::fmt::Display, users: usize) -> Arc<Counted> {
            let asked = self.asked.clone();
            let ask = async move {
                tokio::time::sleep(Duration::from_millis(200)).await;
                let connections = asked.fetch_add(1, Ordering::SeqCst);
                let users = (0..users).map(|n| (n.to_string(), 1)).collect();
                Counted { connections, users, ..Counted::default() }
            };
            self.answers.get(&channel(name), ask).await
        }

        fn asked(&self) -> usize {
            self.asked.load(Ordering::SeqCst)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_ask_within_a_second_have_one_answer_and_it_is_no_older() {
        let stage = Stage::default();
        let answers = join_all((0..100).map(|_| stage.get("a", 0))).await;
        assert!(answers.iter().all(|counted| counted.connections == 0));
        assert_eq!(stage.asked(), 1);
        tokio::time::advance(HOLDS - Duration::from_millis(201)).await;
        assert_eq!(stage.get("a", 0).await.connections, 0);
        assert_eq!(stage.get("b", 0).await.connections, 1, "of another channel");
        tokio::time::advance(Duration::from_millis(1)).await;
        assert_eq!(stage.get("a", 0).await.connections, 2);
        // Whoever asked first may go.
        tokio::time::advance(HOLDS).await;
        let first = tokio::time::timeout(Duration::from_millis(5), stage.get("a", 0));
        let (first, second) = tokio::join!(first, stage.get("a", 0));
        assert!(first.is_err());
        assert_eq!((second.connections, stage.asked()), (3, 4));
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_remembered_has_a_bound_in_channels_and_users() {
        let stage = Stage::default();
        join_all((0..2 * SHARED_MAX).map(|n| stage.get(n, 0))).await;
        assert_eq!(stage.answers.0.lock().len(), SHARED_MAX);
        let stage = Stage::default();
        drop(stage.get("large", USERS_MAX).await);
        drop(stage.get("other", 1).await);
        assert_eq!(stage.answers.0.lock().len(), 1);
        tokio::time::advance(HOLDS).await;
        drop(stage.get("other", 1).await);
        assert!(stage.answers.0.lock().contains_key(&channel("other")));
    }
}
