//! NATS and PostgreSQL, killed and brought back.

use async_nats::jetstream;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::postgres::PostgresServer;
use sqlx::{Connection, PgConnection, Row};

#[tokio::test]
async fn a_stream_outlives_the_nats_server() {
    let mut nats = NatsServer::start().await;
    let url = nats.url();
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    let stream = jetstream::stream::Config {
        name: "KEPT".into(),
        subjects: vec!["kept.>".into()],
        ..Default::default()
    };
    context.create_stream(stream).await.unwrap();
    let ack = context.publish("kept.a", "one".into()).await.unwrap().await.unwrap();
    assert_eq!(ack.sequence, 1);

    nats.kill();
    assert!(async_nats::connect(&url).await.is_err(), "a killed server answers");
    nats.restart().await;

    assert_eq!(nats.url(), url);
    let context = jetstream::new(async_nats::connect(&url).await.unwrap());
    let message = context.get_stream("KEPT").await.unwrap().get_raw_message(1).await.unwrap();
    assert_eq!(message.payload, "one");
}

#[tokio::test]
async fn a_row_outlives_the_postgres_server() {
    let mut postgres = PostgresServer::start().await;
    let name = postgres.create_database().await;
    assert_ne!(name, postgres.create_database().await);
    let url = postgres.url(&name);
    let mut connection = PgConnection::connect(&url).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int); INSERT INTO kept VALUES (7)")
        .execute(&mut connection)
        .await
        .unwrap();

    postgres.kill();
    assert!(sqlx::raw_sql("SELECT 1").execute(&mut connection).await.is_err(), "a killed server answers");
    postgres.restart().await;

    let mut connection = PgConnection::connect(&url).await.unwrap();
    let row = sqlx::query("SELECT n FROM kept").fetch_one(&mut connection).await.unwrap();
    assert_eq!(row.get::<i32, _>(0), 7);
    let fsync = sqlx::query("SHOW fsync").fetch_one(&mut connection).await.unwrap();
    assert_eq!(fsync.get::<&str, _>(0), "on");
}
