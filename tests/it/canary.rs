//! Gateways that hear themselves, through fan-out, journal, relay, live feed, ring and a socket.

use foghorn_rpc::v1::{PublishRequest, publisher_client::PublisherClient};
use foghorn_tests::PATIENCE;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, metric, post, request};
use foghorn_tests::wait::until;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sqlx::Connection as _;

use crate::deployment::{Cluster, Deployment, Listener, standalone};

const HEARD: &str = "foghorn_canary_delivery_seconds_count";
const LOST: &str = "foghorn_canary_lost_total";

/// Waits until a metric is at least this.
async fn reaches(process: &Foghorn, name: &str, least: f64) -> f64 {
    let admin = process.admin();
    until(&format!("{name} to be {least} at {admin}"), PATIENCE, async || {
        Some(metric(admin, name).await).filter(|value| *value >= least)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn gateways_hear_themselves_through_every_shard_and_nobody_else_hears_them() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    // Of all that patterns match only the newest is owed, and it is kept: not of what is Foghorn's own.
    std::fs::write(&config, "[[policy]]\npattern = \">\"\nlatest = true\n").unwrap();
    let cluster = Cluster::start_with_frequent_canaries(2, config.to_str().unwrap()).await;
    cluster.ready().await;
    let [here, there] = &cluster.gateways[..] else { panic!("two gateways") };
    let url = here.url("/api/events?channels=%3E,*.%3E,*.canary.*.*,*.*.*.*");
    let mut everything = Listener::open(&url, None).await;
    for gateway in [here, there] {
        // What was published before there was a relay may have come too late.
        reaches(gateway, HEARD, 5.0).await;
        let admin = gateway.admin();
        let (heard, lost) = (metric(admin, HEARD).await, metric(admin, LOST).await);
        reaches(gateway, HEARD, heard + 20.0).await;
        assert_eq!(metric(admin, LOST).await, lost);
        assert_eq!(metric(admin, "foghorn_canary_duplicates_total").await, 0.0);
        // Each hears its own alone: not twice as many as it had published, or is about to be told of.
        let published = r#"foghorn_canary_published_total{result="published"}"#;
        assert!(metric(admin, HEARD).await <= metric(admin, published).await + 10.0);
    }

    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    for shard in 0..2 {
        let query = json!({ "seq": 1, "next_by_subj": format!("foghorn.journal.{shard}.~foghorn.canary.>") });
        let subject = format!("$JS.API.STREAM.MSG.GET.FOGHORN_{shard}");
        let found = nats.request(subject, query.to_string().into()).await.unwrap();
        let found: Value = serde_json::from_slice(&found.payload).unwrap();
        assert!(found["message"]["seq"].is_u64(), "shard {shard}: {found}");
    }

    // What others listen by, count and keep knows nothing of them.
    let event = json!({ "channel": "a.b.c.d", "data": "one" });
    assert_eq!(post(&cluster.fanouts[0].url("/api/publish"), &event).await.unwrap().status, 200);
    assert_eq!(everything.event().await.data.as_deref(), Some("one"));
    let stats = get(&here.url("/api/events/stats")).await.unwrap();
    assert_eq!(stats.body["connectedClients"], 1, "{}", stats.body);
    assert_eq!(metric(there.admin(), "foghorn_gateway_connections ").await, 0.0);
    assert_eq!(metric(there.admin(), "foghorn_gateway_streams_opened_total").await, 0.0);
    assert_eq!(metric(here.admin(), "foghorn_gateway_events_delivered_total").await, 1.0);
    let busiest = get(&here.url("/api/admin/channels")).await.unwrap();
    let names: Vec<_> = busiest.body["channels"].as_array().unwrap().iter().map(|c| &c["channel"]).collect();
    assert_eq!(names, ["a.b.c.d"]);
    let url = cluster.postgres.url(&database(&cluster).await);
    let mut rows = sqlx::PgConnection::connect(&url).await.unwrap();
    let kept = until("the log to have the one event", PATIENCE, async || {
        let sql = "SELECT channel FROM foghorn.events";
        let kept: Vec<String> = sqlx::query_scalar(sql).fetch_all(&mut rows).await.unwrap();
        (!kept.is_empty()).then_some(kept)
    })
    .await;
    assert_eq!(kept, ["a.b.c.d"]);

    // A drain waits for clients, and not for what is the gateway's own.
    drop(everything);
    there.sigterm();
    assert!(there.wait(PATIENCE).await.success());
}

/// The one database of a cluster's that isn't the server's own.
async fn database(cluster: &Cluster) -> String {
    let mut server = sqlx::PgConnection::connect(&cluster.postgres.url("postgres")).await.unwrap();
    let sql = "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres' \
               AND EXISTS (SELECT 1 FROM pg_stat_activity a WHERE a.datname = pg_database.datname)";
    sqlx::query_scalar(sql).fetch_one(&mut server).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_come_through_is_counted_as_lost_until_it_does_again() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("foghorn.toml");
    std::fs::write(&config, "").unwrap();
    let mut cluster = Cluster::start_with_frequent_canaries(1, config.to_str().unwrap()).await;
    cluster.ready().await;
    let gateway = &cluster.gateways[0];
    reaches(gateway, HEARD, 5.0).await;
    let lost = metric(gateway.admin(), r#"foghorn_canary_lost_total{stage="publish"}"#).await;

    // Hung, all of them: nothing is published, nor relayed.
    for fanout in &cluster.fanouts {
        fanout.signal(Signal::SIGSTOP);
    }
    reaches(gateway, r#"foghorn_canary_lost_total{stage="publish"}"#, lost + 5.0).await;
    reaches(gateway, r#"foghorn_canary_published_total{result="unavailable"}"#, 1.0).await;
    for fanout in &cluster.fanouts {
        fanout.signal(Signal::SIGCONT);
    }
    let heard = metric(gateway.admin(), HEARD).await;
    reaches(gateway, HEARD, heard + 20.0).await;

    // Gone, all of them; then there is one again.
    for fanout in &mut cluster.fanouts {
        fanout.kill();
    }
    let gateway = &cluster.gateways[0];
    let lost = metric(gateway.admin(), LOST).await;
    reaches(gateway, LOST, lost + 5.0).await;
    cluster.fanouts[0].restart().await;
    let gateway = &cluster.gateways[0];
    // What was sent before is counted within the deadline; from then on nothing more is.
    until("canaries to be lost no more", PATIENCE, async || {
        let lost = metric(gateway.admin(), LOST).await;
        let heard = metric(gateway.admin(), HEARD).await;
        reaches(gateway, HEARD, heard + 30.0).await;
        (metric(gateway.admin(), LOST).await == lost).then_some(())
    })
    .await;
    assert_eq!(metric(gateway.admin(), "foghorn_canary_duplicates_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_hears_itself_where_it_is_asked_to() {
    let variables = [("FOGHORN_CANARY_EVERY", "100ms"), ("FOGHORN_CANARY_STANDALONE", "true")];
    let server = standalone(&["--ephemeral", "--shards", "2"], &variables).await;
    until("ten canaries", PATIENCE, async || (metric(server.admin(), HEARD).await >= 10.0).then_some(()))
        .await;
    assert_eq!(metric(server.admin(), LOST).await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_may_listen_to_or_publish_on_what_is_foghorns_own_through_any_door() {
    // Everybody may do everything there.
    let d = Deployment::cluster(1).await;
    let crate::deployment::Shape::Cluster(cluster) = &d.shape else {
        unreachable!("a cluster was asked for")
    };
    let own = "~foghorn.canary.000000000001.0";
    let is_refused = |door: &str, body: &Value| {
        let problem = body.get("error").unwrap_or(body);
        let kind = problem["type"].as_str().unwrap_or_default();
        let detail = problem["detail"].as_str().unwrap_or_default();
        assert!(kind.ends_with("/bad-channel") && detail.contains("is reserved"), "{door}: {body}");
    };

    let publish = d.publish_url();
    let alone = post(&publish, &json!({ "channel": own, "data": "1" })).await.unwrap();
    assert_eq!(alone.status, 400, "{}", alone.body);
    is_refused("publish", &alone.body);
    let both = post(&publish, &json!({ "channels": ["a", own], "data": "1" })).await.unwrap();
    is_refused("publish to several", &both.body[1]);
    let several = post(&publish, &json!([{ "channel": own, "data": "1" }])).await.unwrap();
    is_refused("publish several", &several.body[0]);
    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    let answer = nats.request(format!("foghorn.publish.{own}"), "1".into()).await.unwrap();
    is_refused("NATS", &serde_json::from_slice(&answer.payload).unwrap());
    let mut grpc = PublisherClient::connect(format!("http://{}", d.grpc())).await.unwrap();
    let event = PublishRequest { channel: own.to_owned(), data: b"1".to_vec().into(), ..Default::default() };
    let refused = grpc.publish(event).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("is reserved"), "{refused}");

    let gateway = |path: &str| d.gateway_url(0, path);
    for path in [
        format!("/api/events?channels={own}"),
        "/api/events?channels=a,~foghorn.%3E".to_owned(),
        "/api/events?channels=~foghorn.canary.*.0".to_owned(),
        format!("/api/events/{own}"),
        format!("/api/channels/{own}/events"),
        format!("/api/channels/{own}/presence"),
        format!("/api/admin/trace?channel={own}&id=1&user=a"),
    ] {
        let answer = get(&gateway(&path)).await.unwrap();
        assert_eq!(answer.status, 400, "{path}: {}", answer.body);
        is_refused(&path, &answer.body);
    }
    let erase = request(Method::DELETE, &gateway(&format!("/api/channels/{own}/events")), &[], None).await;
    is_refused("erase", &erase.unwrap().body);
    let ticket = post(&gateway("/api/events/ticket"), &json!({ "channels": ["~foghorn.>"] })).await.unwrap();
    is_refused("ticket", &ticket.body);
    let stream = d.listen("channels=a", None).await;
    let change = json!({ "clientId": stream.connected["clientId"], "channels": ["a", own] });
    let changed = post(&gateway("/api/events/subscribe"), &change).await.unwrap();
    is_refused("subscribe", &changed.body);
}
