use futures::future::join_all;
use prometheus_client::registry::Registry;

use super::*;
use crate::testing::{TestLog, batch};

fn question(after: u64) -> Question {
    Question {
        shard: Shard::ZERO,
        epoch: Epoch::new(1),
        after,
        topics: [Pattern::parse("a").unwrap()].into(),
        events: 500,
        bytes: 1 << 19,
    }
}

/// Answers `most` questions at a time.
fn rig(
    most: usize,
    answer: impl FnMut(&ReplayQuery) -> Result<Replay, LogError> + Send + 'static,
) -> (Replays, Arc<TestLog>) {
    let log = TestLog::new(1, 0, 0, answer);
    (Replays::new(log.clone(), most, Metrics::register(&mut Registry::default())), log)
}

fn ten(query: &ReplayQuery) -> Result<Replay, LogError> {
    Ok(Replay::Page(batch(1, query.after, query.after + 10, "a", None, "x")))
}

fn page(answer: Result<Answer, LogError>) -> Arc<Batch> {
    match answer {
        Ok(Answer::Page(page)) => page,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn what_many_ask_at_once_is_asked_once_and_all_have_the_answer() {
    let (replays, log) = rig(1, ten);
    let answers = join_all((0..1000).map(|number| replays.ask(question(number % 2)))).await;
    assert_eq!(log.asked(), 2);
    for (number, answer) in answers.into_iter().enumerate() {
        assert_eq!(page(answer).from, number as u64 % 2);
    }
    let other = Question { topics: [Pattern::parse("b").unwrap()].into(), ..question(0) };
    page(replays.ask(other).await);
    assert_eq!(log.asked(), 3, "another filter is another question");
}

#[tokio::test(start_paused = true)]
async fn a_page_stands_for_a_moment_and_what_is_not_there_yet_does_not() {
    let (replays, log) = rig(1, ten);
    for _ in 0..3 {
        page(replays.ask(question(0)).await);
    }
    assert_eq!(log.asked(), 1);
    tokio::time::sleep(KEPT_FOR).await;
    page(replays.ask(question(0)).await);
    assert_eq!(log.asked(), 2);

    let nothing = |query: &ReplayQuery| Ok(Replay::Page(batch(1, query.after, query.after, "a", None, "")));
    let (replays, log) = rig(1, nothing);
    for _ in 0..3 {
        page(replays.ask(question(0)).await);
    }
    assert_eq!(log.asked(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_of_those_who_waited_for_it_and_of_nobody_after_them() {
    let mut failures = 1;
    let (replays, log) =
        rig(
            1,
            move |query| {
                if std::mem::take(&mut failures) > 0 { Err(LogError("away".to_owned())) } else { ten(query) }
            },
        );
    let answers = join_all((0..10).map(|_| replays.ask(question(0)))).await;
    assert!(answers.iter().all(Result::is_err) && log.asked() == 1);
    page(replays.ask(question(0)).await);
    assert_eq!(log.asked(), 2);
}

#[tokio::test(start_paused = true)]
async fn who_gives_up_takes_nobody_along_and_leaves_nothing_behind() {
    let (replays, log) = rig(1, ten);
    let mut first = Box::pin(replays.ask(question(0)));
    let mut second = Box::pin(replays.ask(question(0)));
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    assert_eq!(log.asked(), 1);
    drop(first);
    page(second.await);
    assert_eq!(log.asked(), 1, "it went on for the second");

    let mut alone = Box::pin(replays.ask(question(1)));
    assert!(alone.as_mut().now_or_never().is_none());
    drop(alone);
    // Neither an answer that nobody fetches, nor a turn that nobody gives back.
    page(replays.ask(question(1)).await);
    assert_eq!(log.asked(), 3);
    tokio::time::sleep(KEPT_FOR).await;
    page(replays.ask(question(2)).await);
    let answers = replays.0.answers.lock();
    assert_eq!((answers.of.len(), answers.kept.len()), (1, 1), "only the last page");
}

#[tokio::test(start_paused = true)]
async fn only_so_many_questions_are_asked_at_a_time_and_the_others_are_counted() {
    let (replays, log) = rig(2, ten);
    let turns = [replays.turn().await.unwrap(), replays.turn().await.unwrap()];
    let mut waiting: Vec<_> = (0..3).map(|after| Box::pin(replays.ask(question(after)))).collect();
    assert!(waiting.iter_mut().all(|asking| asking.as_mut().now_or_never().is_none()));
    assert_eq!((log.asked(), replays.0.metrics.replays_waiting.get()), (0, 3));
    drop(turns);
    join_all(waiting).await.into_iter().for_each(|answer| drop(page(answer)));
    assert_eq!((log.asked(), replays.0.metrics.replays_waiting.get()), (3, 0));
}

#[tokio::test(start_paused = true)]
async fn the_pages_that_are_kept_have_a_bound_in_bytes() {
    let large = "x".repeat(100_000);
    let (replays, _log) =
        rig(8, move |query| Ok(Replay::Page(batch(1, query.after, query.after + 5, "a", None, &large))));
    for after in 0..100 {
        page(replays.ask(question(after)).await);
        let answers = replays.0.answers.lock();
        assert!(answers.kept_bytes <= KEPT_BYTES, "{}", answers.kept_bytes);
        assert_eq!(answers.kept.len(), answers.of.len());
    }
    assert!(replays.0.answers.lock().kept.len() < 40);
}
