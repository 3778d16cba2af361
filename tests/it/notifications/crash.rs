//! Committed means published, and the last number heard is the last one committed, whatever dies in between.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use foghorn_tests::http::{post, request};
use foghorn_tests::wait::until;
use http::Method;
use sqlx::Connection as _;

use super::stage::{LIMIT, Stage, heard, notice, titles};
use crate::deployment::Listener;

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_before_its_commit_is_neither_stored_nor_heard() {
    let mut stage = Stage::cluster("").await;
    let mut listener = stage.listen("ann").await;
    // Somebody else publishes on the user's channel, and takes their time: the service waits for them, with the
    // notification in its transaction already.
    let mut other = stage.database().await;
    let mut holding = other.begin().await.unwrap();
    sqlx::query("SELECT foghorn.publish('user.ann', 'other', '')").execute(&mut *holding).await.unwrap();
    let url = stage.service.url("/api/notifications");
    let asked = tokio::spawn(async move { post(&url, &notice("ann", "lost", Some("1"))).await });
    stage.wait_for_a_lock(1).await;
    stage.service.kill();
    assert!(asked.await.unwrap().is_err(), "nobody was answered");
    holding.rollback().await.unwrap();
    stage.nobody_is_connected().await;
    let mut database = stage.database().await;
    for table in ["notifications", "outbox"] {
        let rows = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM foghorn.{table}")));
        let rows: i64 = rows.fetch_one(&mut database).await.unwrap();
        assert_eq!(rows, 0, "{table}");
    }
    stage.service.restart().await;
    // The retry is the first.
    assert_eq!(stage.notify("ann", "kept", Some("1")).await.status, 201);
    assert_eq!(heard(&mut listener, 2).await, ["kept", "1 unread"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_changes_at_once_each_counts_what_the_one_before_has_committed() {
    let stage = Stage::cluster("").await;
    let mut listener = stage.listen("ann").await;
    for id in ["a", "b"] {
        stage.notify("ann", id, Some(id)).await;
    }
    assert_eq!(heard(&mut listener, 4).await.last().unwrap(), "2 unread");
    // Neither can publish meanwhile, so both are under way.
    let mut other = stage.database().await;
    let mut holding = other.begin().await.unwrap();
    sqlx::query("SELECT foghorn.publish('user.ann', 'other', '')").execute(&mut *holding).await.unwrap();
    let mut marking = Vec::new();
    for (id, waiting) in [("a", 1), ("b", 2)] {
        let url = stage.service.url(&format!("/api/notifications/{id}/read?user=ann"));
        marking.push(tokio::spawn(async move { request(Method::POST, &url, &[], None).await }));
        stage.wait_for_a_lock(waiting).await;
    }
    holding.rollback().await.unwrap();
    for marked in marking {
        assert_eq!(marked.await.unwrap().unwrap().status, 200);
    }
    assert_eq!(heard(&mut listener, 2).await, ["1 unread", "0 unread"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_dies_after_its_commit_is_heard_once_all_the_same() {
    let mut stage = Stage::cluster("").await;
    let mut listener = stage.listen("ann").await;
    // Nobody can take anything out of the outbox meanwhile.
    let mut other = stage.database().await;
    let mut holding = other.begin().await.unwrap();
    sqlx::query("SELECT FROM foghorn.outbox_state FOR UPDATE").execute(&mut *holding).await.unwrap();
    assert_eq!(stage.notify("ann", "kept", Some("1")).await.status, 201);
    stage.service.kill();
    stage.nobody_is_connected().await;
    holding.rollback().await.unwrap();
    stage.service.restart().await;
    // A publisher that heard no answer asks again.
    assert_eq!(stage.notify("ann", "kept", Some("1")).await.status, 200);
    stage.notify("ann", "next", None).await;
    assert_eq!(heard(&mut listener, 4).await, ["kept", "1 unread", "next", "2 unread"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_count_heard_is_the_last_committed_after_kills_in_a_cluster() {
    outlives_kills(Stage::cluster("").await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_count_heard_is_the_last_committed_after_kills_in_standalone() {
    outlives_kills(Stage::standalone("").await).await;
}

/// Producers and readers ask without pause while the service is killed again and again. After the last time nobody asks
/// any more: everything that is stored is heard all the same, exactly once, and the number of unread ones is right.
async fn outlives_kills(mut stage: Stage) {
    const KILLS: usize = 4;
    let stop = Arc::new(AtomicBool::new(false));
    let cursor = stage.listen("ann").await.cursor();
    let work = |who: usize| {
        let (url, stop) = (stage.service.url("/api/notifications"), stop.clone());
        tokio::spawn(async move {
            let mut answered = 0;
            for number in 0.. {
                if stop.load(Ordering::Relaxed) {
                    break;
                }
                let id = format!("{who}-{number}");
                // Tried until it is answered, by the same id.
                while !stop.load(Ordering::Relaxed) {
                    match post(&url, &notice("ann", &id, Some(&id))).await {
                        Ok(reply) if reply.status < 300 => break,
                        _ => tokio::task::yield_now().await,
                    }
                }
                answered += 1;
                if number % 3 == 0 {
                    drop(request(Method::POST, &format!("{url}/{id}/read?user=ann"), &[], None).await);
                }
            }
            answered
        })
    };
    let workers: Vec<_> = (0..3).map(work).collect();
    for kill in 1..=KILLS {
        let before = stored(&stage).await;
        until("some progress", LIMIT, async || (stored(&stage).await >= before + 20).then_some(())).await;
        stop.store(kill == KILLS, Ordering::Relaxed);
        stage.service.kill();
        if stage.cluster.is_some() {
            stage.nobody_is_connected().await;
        }
        stage.service.restart().await;
    }
    let mut answered = 0;
    for worker in workers {
        answered += worker.await.unwrap();
    }
    assert!(answered > 20 * KILLS, "{answered}");

    let mut listed = Vec::new();
    let mut path = "?user=ann&limit=200".to_owned();
    let unread = loop {
        let page = stage.get(&path).await;
        listed.extend(titles(&page).into_iter().map(str::to_owned));
        match page["next"].as_str() {
            Some(next) => path = format!("?user=ann&limit=200&before={next}"),
            None => break page["unread"].as_u64().unwrap(),
        }
    };
    listed.reverse();
    let url = stage.gateway().url("/api/events/user.ann");
    let mut listener = Listener::open(&url, Some(&cursor)).await;
    assert_eq!(listener.connected["recovered"], true);
    let (mut told, mut counts, mut all_read) = (Vec::new(), vec![0], false);
    let mut replayed = std::mem::take(&mut listener.replayed).into_iter();
    loop {
        // The number may have been the same before, too: what comes before the next change is the last of them.
        if !all_read && told.len() == listed.len() && counts.last() == Some(&unread) {
            stage.post("/read-all?user=ann").await;
            all_read = true;
        }
        let block = match replayed.next() {
            Some(block) => block,
            None => listener.event().await,
        };
        match block.event_type() {
            "notification" => told.push(block.json()["title"].as_str().unwrap().to_owned()),
            _ => counts.push(block.json()["unread"].as_u64().unwrap()),
        }
        if all_read && counts.last() == Some(&0) {
            break;
        }
    }
    assert_eq!(told, listed, "in the order in which they were stored, each once");
    assert_eq!(counts[counts.len() - 2], unread, "and nothing that says otherwise comes after");
}

/// How many there are, as far as that can be asked now.
async fn stored(stage: &Stage) -> u64 {
    let reply = stage.ask(Method::GET, "?user=ann&limit=1", None).await;
    let page = reply.ok().filter(|reply| reply.status == 200);
    page.and_then(|page| page.body["notifications"][0].as_object().map(|_| page.body["next"].clone()))
        .and_then(|next| next.as_str()?.parse().ok())
        .unwrap_or(0)
}
