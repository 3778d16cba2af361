//! Transactional publishing: what an application's transactions put into the outbox of their own PostgreSQL.

mod call;
mod crash;
mod stage;

use foghorn_tests::http::metric;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::wait::until;
use sqlx::Connection as _;
use sqlx::postgres::PgListener;

use self::stage::{LIMIT, Stage, call, install, publish};
use crate::deployment::{Listener, standalone};

#[tokio::test(flavor = "multi_thread")]
async fn what_commits_is_heard_once_and_what_is_rolled_back_never() {
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    install(&url, &[]);
    let server = standalone(&["--ephemeral"], &[("FOGHORN_OUTBOX_POSTGRES", &url)]).await;
    let mut listener = Listener::open(&server.url("/api/events/shop?envelope=1"), None).await;
    let mut app = sqlx::PgConnection::connect(&url).await.unwrap();
    call(&mut app, "CREATE TABLE orders (number integer)").await;
    for number in 0..30 {
        call(&mut app, "BEGIN").await;
        sqlx::query("INSERT INTO orders VALUES ($1)").bind(number).execute(&mut app).await.unwrap();
        publish(&mut app, "shop", &number.to_string()).await;
        call(&mut app, "SAVEPOINT later").await;
        publish(&mut app, "shop", &format!("{number}, undone")).await;
        call(&mut app, "ROLLBACK TO later").await;
        call(&mut app, if number % 3 == 0 { "ROLLBACK" } else { "COMMIT" }).await;
    }
    let orders: Vec<i32> =
        sqlx::query_scalar("SELECT number FROM orders ORDER BY 1").fetch_all(&mut app).await.unwrap();
    let mut heard = Vec::new();
    for _ in &orders {
        let event = listener.event().await.json();
        heard.push(event["data"].as_str().unwrap().to_owned());
    }
    assert_eq!(heard, orders.iter().map(ToString::to_string).collect::<Vec<_>>());
    // Nothing else: what comes next comes after all of it.
    publish(&mut app, "shop", "last").await;
    assert_eq!(listener.event().await.json()["data"], "last");
    until("an empty outbox", LIMIT, async || {
        let waiting: i64 =
            sqlx::query_scalar("SELECT count(*) FROM foghorn.outbox").fetch_one(&mut app).await.unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    let published = metric(server.admin(), r#"foghorn_outbox_events_total{outcome="published"}"#).await;
    assert_eq!(published as usize, orders.len() + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_channels_order_is_that_of_commits_also_when_who_began_first_commits_last() {
    let stage = Stage::start("").await;
    let publisher = stage.publisher().await;
    let (mut first, mut second, mut third) = (stage.app().await, stage.app().await, stage.app().await);
    // It began first, and has the lowest serial of all, on another channel.
    call(&mut first, "BEGIN").await;
    publish(&mut first, "other", "began first").await;
    call(&mut second, "BEGIN").await;
    publish(&mut second, "c", "1").await;
    // Who publishes on a channel on which another has, waits for its end.
    let waits = tokio::spawn(async move {
        publish(&mut third, "c", "2").await;
        third
    });
    stage.somebody_waits_for_a_lock().await;
    publish(&mut second, "c", "1b").await;
    call(&mut second, "COMMIT").await;
    waits.await.unwrap();
    assert_eq!(stage.journalled(3).await, ["c: 1", "c: 1b", "c: 2"], "long before the first");
    // The first goes on after all these.
    publish(&mut first, "c", "3").await;
    call(&mut first, "COMMIT").await;
    let mut all = stage.journalled(5).await;
    all.retain(|event| event != "other: began first");
    assert_eq!(all, ["c: 1", "c: 1b", "c: 2", "c: 3"], "and one of another channel");
    drop(publisher);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_event_is_set_aside_and_its_channel_goes_on() {
    let stage = Stage::start("[[policy]]\npattern = \"small.>\"\nevent_bytes = 64\n").await;
    let mut app = stage.app().await;
    for data in ["before", &"x".repeat(100), "after"] {
        publish(&mut app, "small.c", data).await;
    }
    let publisher = stage.publisher().await;
    assert_eq!(stage.journalled(2).await, ["small.c: before", "small.c: after"]);
    let aside: Vec<(String, i32, String)> = until("an event set aside", LIMIT, async || {
        let rows = sqlx::query_as("SELECT channel, length(data), reason FROM foghorn.outbox_rejected");
        let rows: Vec<_> = rows.fetch_all(&mut app).await.unwrap();
        (!rows.is_empty()).then_some(rows)
    })
    .await;
    assert_eq!((aside.len(), aside[0].0.as_str(), aside[0].1), (1, "small.c", 100));
    assert!(
        aside[0].2.contains("event-too-large") && aside[0].2.contains("64 are allowed"),
        "{}",
        aside[0].2
    );
    until("its metric", LIMIT, async || {
        let counted = metric(publisher.admin(), r#"foghorn_outbox_events_total{outcome="rejected"}"#).await;
        let there = metric(publisher.admin(), "foghorn_outbox_rejected_events").await;
        ((counted, there) == (1.0, 1.0)).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_notify_a_publisher_that_sleeps_and_nobody_else() {
    let stage = Stage::start("").await;
    let mut app = stage.app().await;
    let mut doorbell = PgListener::connect(&stage.app_url).await.unwrap();
    doorbell.listen("foghorn_outbox").await.unwrap();
    // Nobody drains: no transaction is slowed for it.
    publish(&mut app, "c", "1").await;
    call(&mut app, "NOTIFY foghorn_outbox, 'mark'").await;
    assert_eq!(rung(&mut doorbell).await, "mark");
    let publisher = stage.publisher().await;
    stage.journalled(1).await;
    until("a publisher that sleeps", LIMIT, async || {
        let asleep = sqlx::query_scalar::<_, bool>("SELECT asleep FROM foghorn.outbox_state");
        asleep.fetch_one(&mut app).await.unwrap().then_some(())
    })
    .await;
    publish(&mut app, "c", "2").await;
    assert_eq!(rung(&mut doorbell).await, "");
    stage.journalled(2).await;
    let awake: bool =
        sqlx::query_scalar("SELECT NOT asleep FROM foghorn.outbox_state").fetch_one(&mut app).await.unwrap();
    assert!(awake, "it has work");
    drop(publisher);
}

/// The text of the next notification.
async fn rung(doorbell: &mut PgListener) -> String {
    let heard = tokio::time::timeout(LIMIT, doorbell.recv()).await;
    heard.expect("a notification").unwrap().payload().to_owned()
}
