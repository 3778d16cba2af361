//! Installing, and calling `foghorn.publish`.

use foghorn_tests::postgres::PostgresServer;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::stage::{call, install, publish};

#[tokio::test(flavor = "multi_thread")]
async fn installing_twice_changes_nothing_and_a_later_version_is_refused() {
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    // The event log may live in the same database.
    foghorn_eventlog::postgres::migrate(&url).await.unwrap();
    let said = |output: &std::process::Output| {
        [&output.stdout[..], &output.stderr].map(String::from_utf8_lossy).concat()
    };
    let first = install(&url, &[]);
    assert!(first.status.success() && said(&first).contains("from version 0 to 2"), "{}", said(&first));
    let mut app = PgConnection::connect(&url).await.unwrap();
    publish(&mut app, "kept", "x").await;
    let second = install(&url, &[]);
    assert!(second.status.success() && said(&second).contains("at version 2 already"), "{}", said(&second));
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM foghorn.outbox").fetch_one(&mut app).await.unwrap();
    assert_eq!(waiting, 1);
    call(&mut app, "UPDATE foghorn._outbox_migrations SET version = 99 WHERE version = 2").await;
    let later = install(&url, &[]);
    assert_eq!(later.status.code(), Some(2), "{}", said(&later));
    assert!(said(&later).contains("version 99"), "{}", said(&later));
    assert_eq!(install("postgres://nobody@127.0.0.1:9/none", &[]).status.code(), Some(1));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_applications_role_may_publish_and_see_nothing() {
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    // Roles are the whole server's.
    let role = format!("shop \"{}\"", std::process::id());
    let quoted = format!("\"{}\"", role.replace('"', "\"\""));
    let missing = install(&url, &["--application", &role]);
    assert_eq!(missing.status.code(), Some(1));
    let mut other = PgConnection::connect(&url).await.unwrap();
    call(&mut owner, &format!("CREATE ROLE {quoted}")).await;
    let become_it = format!("SET ROLE {quoted}");
    call(&mut other, &become_it).await;
    // Not even with a right to look into the schema, as the event log's may have been given.
    call(&mut owner, &format!("GRANT USAGE ON SCHEMA foghorn TO {quoted}")).await;
    let refused =
        sqlx::query("SELECT foghorn.publish('c', NULL, 'x')").execute(&mut other).await.unwrap_err();
    assert!(refused.to_string().contains("permission denied for function"), "{refused}");
    assert!(install(&url, &["--application", &role]).status.success());
    publish(&mut other, "c", "x").await;
    for table in ["outbox", "outbox_state", "outbox_rejected", "_outbox_migrations"] {
        for sql in [format!("SELECT * FROM foghorn.{table}"), format!("DELETE FROM foghorn.{table}")] {
            let refused = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&mut other).await.unwrap_err();
            assert!(refused.to_string().contains("permission denied"), "{sql}: {refused}");
        }
    }
    drop(other);
    call(&mut owner, &format!("DROP OWNED BY {quoted}; DROP ROLE {quoted}")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_an_event_is_said_at_the_call() {
    let postgres = PostgresServer::start().await;
    let url = postgres.url(&postgres.create_database().await);
    assert!(install(&url, &[]).status.success());
    let mut app = PgConnection::connect(&url).await.unwrap();
    let mut refused = async |arguments: &str| {
        let sql = format!("SELECT foghorn.publish({arguments})");
        let error = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut app).await.expect_err(arguments);
        let sqlx::Error::Database(error) = error else { panic!("{error}") };
        (error.code().unwrap_or_default().into_owned(), error.message().to_owned())
    };
    for (arguments, code, words) in [
        ("NULL, NULL, 'x'", "22023", "channel: a channel can't be empty"),
        ("'a..b', NULL, 'x'", "22023", "a token is empty"),
        ("'.a', NULL, 'x'", "22023", "a token is empty"),
        ("'a.', NULL, 'x'", "22023", "a token is empty"),
        ("'a.*', NULL, 'x'", "22023", "is a pattern"),
        ("'a b', NULL, 'x'", "22023", "' ' can't be in a channel"),
        ("E'a\\n', NULL, 'x'", "22023", "can't be in a channel"),
        ("'ä', NULL, 'x'", "22023", "'ä' can't be in a channel"),
        ("repeat('a', 201), NULL, 'x'", "22023", "at most 200 bytes; this one has 201"),
        ("repeat('a.', 16) || 'a', NULL, 'x'", "22023", "at most 16 dot-separated tokens; this one has 17"),
        ("'a', '', 'x'", "22023", "event: can't be empty"),
        ("'a', 'b,c', 'x'", "22023", "event: has a comma"),
        ("'a', E'b\\nc', 'x'", "22023", "event: has a line break"),
        ("'a', ' b', 'x'", "22023", "event: begins or ends with white space"),
        ("'a', 'stream-reset', 'x'", "22023", "is reserved"),
        ("'a', 'heartbeat', 'x'", "22023", "is reserved"),
        ("'a', repeat('b', 129), 'x'", "22023", "event: has 129 bytes, at most 128"),
        ("'a', NULL, 'x', ''", "22023", "id: can't be empty"),
        ("'a', NULL, 'x', repeat('b', 257)", "22023", "id: has 257 bytes, at most 256"),
        ("'a', NULL, 'x', NULL, 0", "22023", "ttl: must be from 1"),
        ("'a', NULL, NULL", "22004", "data: can't be null"),
        ("'a', NULL, repeat('x', 262145)", "54000", "data: 262145 bytes, 262144 are allowed"),
    ] {
        let (found, said) = refused(arguments).await;
        assert_eq!(found, code, "{arguments}: {said}");
        assert!(said.starts_with("foghorn.publish: ") && said.contains(words), "{arguments}: {said}");
    }
    call(&mut app, "UPDATE foghorn.outbox_state SET rows_max = 2").await;
    // Named by the application, or made here.
    let named = "SELECT foghorn.publish(channel => 'a', event => 'e', data => '', id => '7')";
    assert_eq!(sqlx::query_scalar::<_, String>(named).fetch_one(&mut app).await.unwrap(), "7");
    assert_eq!(publish(&mut app, "a", "x").await.len(), 36);
    let full = sqlx::query("SELECT foghorn.publish('a', NULL, 'x')").execute(&mut app).await.unwrap_err();
    assert!(full.to_string().contains("the outbox is full: about 3 events wait, 2 may"), "{full}");
    let waiting: i64 =
        sqlx::query_scalar("SELECT count(*) FROM foghorn.outbox").fetch_one(&mut app).await.unwrap();
    assert_eq!(waiting, 2, "what was refused is not there");
    // However often it was refused: once there is room again, it is taken.
    for _ in 0..5 {
        sqlx::query("SELECT foghorn.publish('a', NULL, 'x')").execute(&mut app).await.unwrap_err();
    }
    call(&mut app, "DELETE FROM foghorn.outbox").await;
    assert_eq!(publish(&mut app, "a", "x").await.len(), 36);
}
