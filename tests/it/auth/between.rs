//! Services of a cluster that believe nobody but each other: users of NATS that may do what they need and no more
//! (`deploy/nats/accounts.conf`), and certificates between gateways, fan-outs and the event log.

use std::process::Command;

use async_nats::{Client, ConnectOptions, HeaderMap};
use foghorn_tests::PATIENCE;
use foghorn_tests::env::{checkout, foghorn as foghorn_binary};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{get, metric, post, request};
use foghorn_tests::kubernetes::ApiServer;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::network::Site;
use foghorn_tests::postgres::PostgresServer;
use foghorn_tests::sse::SseClient;
use foghorn_tests::tls;
use foghorn_tests::wait::until;
use http::Method;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::{Issuer, bearer};
use crate::deployment::{CLOSED, Cluster, Listener, wait_ready};

/// The variable of `accounts.conf` for a user, and what it is set to.
const PASSWORDS: [(&str, &str); 7] = [
    ("NATS_GATEWAY_PASSWORD", "of-gateways"),
    ("NATS_FANOUT_PASSWORD", "of-fanouts"),
    ("NATS_EVENTLOG_PASSWORD", "of-eventlogs"),
    ("NATS_OUTBOX_PASSWORD", "of-outboxes"),
    ("NATS_NOTIFICATIONS_PASSWORD", "of-notifications"),
    ("NATS_OPERATOR_PASSWORD", "of-operators"),
    ("NATS_PUBLISHER_PASSWORD", "of-publishers"),
];

fn password(user: &str) -> &'static str {
    let variable = format!("NATS_{}_PASSWORD", user.to_uppercase());
    PASSWORDS.into_iter().find(|(name, _)| *name == variable).unwrap().1
}

async fn nats() -> NatsServer {
    let accounts = checkout().join("deploy/nats/accounts.conf").display().to_string();
    NatsServer::start_in(&Site::default(), &["-c", &accounts], &PASSWORDS).await
}

/// A client of this user's, and what the server has to say to it.
async fn client(nats: &NatsServer, user: &str) -> (Client, mpsc::UnboundedReceiver<String>) {
    let (said, heard) = mpsc::unbounded_channel();
    let options = ConnectOptions::with_user_and_password(user.to_owned(), password(user).to_owned());
    let options = options.event_callback(move |event| {
        // Nobody listens any more when the test is over.
        let _over = said.send(event.to_string()).is_err();
        std::future::ready(())
    });
    (options.connect(nats.url()).await.unwrap(), heard)
}

/// Publishes over NATS; what is answered.
async fn publish(publisher: &Client, token: &str, data: &str) -> Option<Value> {
    let mut headers = HeaderMap::new();
    headers.insert("Authorization", bearer(token).as_str());
    headers.insert("Foghorn-Ack", "durable");
    headers.insert("Foghorn-Id", data);
    let subject = "foghorn.publish.members.a";
    let answer = publisher.request_with_headers(subject, headers, data.to_owned().into()).await.ok()?;
    serde_json::from_slice(&answer.payload).ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_works_with_the_accounts_that_are_shipped_and_with_certificates_between_its_services() {
    let (issuer, folder) = (Issuer::new(), tempfile::tempdir().unwrap());
    let file = |name: &str, pem: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, pem).unwrap();
        path.display().to_string()
    };
    let (certificate, key) = (file("tls.crt", tls::certificate_pem()), file("tls.key", tls::key_pem()));
    let (mut nats, postgres) = tokio::join!(nats(), PostgresServer::start());
    let (database, url) = (postgres.url(&postgres.create_database().await), nats.url());
    let config = issuer.config(
        "[gateway]\npresence_debounce = \"1s\"\n[[policy]]\npattern = \"told.a\"\npresence = \"events\"\n",
    );
    let user =
        |user: &'static str| [("FOGHORN_NATS_USER", user), ("FOGHORN_NATS_PASSWORD", password(user)), CLOSED];
    let common = ["--config", &config, "--admin", "127.0.0.1:0", "--nats", &url];
    let served = [
        ("FOGHORN_GRPC_TLS_CERTIFICATE", certificate.as_str()),
        ("FOGHORN_GRPC_TLS_KEY", &key),
        ("FOGHORN_GRPC_TLS_CLIENT_CA", &certificate),
    ];
    let own = ["eventlog", "--grpc", "127.0.0.1:0", "--postgres", &database];
    let eventlog =
        Foghorn::spawn(&[&own[..], &common].concat(), &[&served[..], &user("eventlog")].concat()).await;
    let log = format!("https://{}", eventlog.grpc());
    let shown = [
        ("FOGHORN_CANARY_EVERY", "100ms"),
        ("FOGHORN_EVENTLOG_URL", log.as_str()),
        ("FOGHORN_EVENTLOG_CA", &certificate),
        ("FOGHORN_EVENTLOG_CERTIFICATE", &certificate),
        ("FOGHORN_EVENTLOG_KEY", &key),
    ];
    let listen = ["--listen", "127.0.0.1:0"];
    let spawn = async |own: &[&str], name| {
        Foghorn::spawn(&[own, &listen, &common].concat(), &[&shown[..], &user(name)].concat()).await
    };
    let (fanout, gateway) =
        tokio::join!(spawn(&["fanout", "--grpc", "127.0.0.1:0"], "fanout"), spawn(&["gateway"], "gateway"));

    let ann = issuer.token("ann", &json!({ "publish": ["members.>", "user.ann"], "role": "admin" }));
    let authorization = bearer(&ann);
    let headers = [("authorization", authorization.as_str())];
    let listen = async |query: &str| {
        let url = gateway.url(&format!("/api/events?channels=members.a{query}"));
        Listener::of(SseClient::connect(&url, &headers).await.unwrap()).await
    };
    let mut live = listen("").await;
    let (publisher, _) = client(&nats, "publisher").await;
    let one = publish(&publisher, &ann, "one").await;
    // Fan-out has asked the event log.
    assert!(one.as_ref().is_some_and(|answer| answer["durable"] == true), "{one:?}");
    assert_eq!(live.event().await.data.as_deref(), Some("one"));
    // The gateway asks it.
    assert_eq!(listen("&last=1").await.replayed_data(), ["one"]);
    let post = async |path: &str, body: Value| {
        let reply = request(Method::POST, &gateway.url(path), &headers, Some(&body)).await.unwrap();
        assert_eq!(reply.status, 200, "{path}: {}", reply.body);
    };
    post("/api/events/ticket", json!({})).await;
    post("/api/admin/revoke", json!({ "subject": "eve" })).await;
    // What a gateway has a fan-out publish, and is answered.
    let mut told = SseClient::connect(&gateway.url("/api/events?channels=told.a"), &headers).await.unwrap();
    told.collect_until(PATIENCE, |block| block.event_type() == "presence").await;
    until("the gateway to be answered", PATIENCE, async || {
        let told = metric(gateway.admin(), "foghorn_gateway_presence_events_total").await;
        (told >= 1.0).then_some(())
    })
    .await;
    assert_eq!(metric(gateway.admin(), "foghorn_gateway_presence_failures_total").await, 0.0);
    until("the gateway to hear itself", PATIENCE, async || {
        let heard = metric(gateway.admin(), "foghorn_canary_delivery_seconds_count").await;
        (heard >= 3.0).then_some(())
    })
    .await;

    // What is notified is appended, and gateways are told how much is unread.
    let notifications = spawn(&["notifications", "--postgres", &database], "notifications").await;
    let notice = json!({ "userId": "ann", "type": "info", "title": "t", "message": "m" });
    let notify = notifications.url("/api/notifications");
    let reply = request(Method::POST, &notify, &headers, Some(&notice)).await.unwrap();
    assert_eq!(reply.status, 201, "{}", reply.body);
    for kind in ["notification", "notification-count"] {
        assert_eq!(live.event().await.event_type(), kind);
    }
    let stream = SseClient::connect(&gateway.url("/api/notifications/stream"), &headers).await.unwrap();
    assert_eq!(Listener::of(stream).await.replayed[0].json(), json!({ "unread": 1 }));

    // What whoever operates them gives the services.
    let policies = folder.path().join("policies.toml");
    let small = "[[policy]]\npattern = \"members.>\"\naccess = \"public\"\n\
                 [[policy]]\npattern = \"user.*\"\nevent_bytes = 64\n";
    std::fs::write(&policies, small).unwrap();
    let applied = Command::new(foghorn_binary())
        .args(["policies", "apply", policies.to_str().unwrap(), "--nats", &url])
        .envs(user("operator"))
        .output()
        .unwrap();
    assert!(applied.status.success(), "{applied:?}");
    for service in [&gateway, &fanout, &eventlog, &notifications] {
        until("every service to have it", PATIENCE, async || {
            (metric(service.admin(), "foghorn_policies_revision ").await > 0.5).then_some(())
        })
        .await;
    }
    let reply = request(Method::POST, &notify, &headers, Some(&notice)).await.unwrap();
    let too_large = json!("The event is too large");
    assert_eq!((reply.status, &reply.body["title"]), (413, &too_large), "{}", reply.body);

    nats.kill();
    nats.restart().await;
    until("an event after NATS is back", PATIENCE, async || {
        publish(&publisher, &ann, "two").await.filter(|answer| answer["durable"] == true)
    })
    .await;
    assert_eq!(live.event().await.data.as_deref(), Some("two"));
}

#[tokio::test(flavor = "multi_thread")]
async fn services_speak_tls_to_a_postgresql_of_their_authority_and_say_of_another_why_they_do_not() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (authority, empty) = (tls::authority(), write("foghorn.toml", ""));
    let (ca, another) = (write("ca.crt", &authority.ca), write("another.crt", &tls::authority().ca));
    let (nats, postgres) = tokio::join!(NatsServer::start(), PostgresServer::start_with_tls(&authority));
    let database = postgres.create_database().await;
    // Its query says to check the certificate.
    let (url, bus) = (postgres.url(&database), nats.url());
    let cluster = Cluster::start_on(nats, postgres, &database, 1, &empty).await;
    cluster.ready().await;
    let log = format!("http://{}", cluster.eventlogs[0].grpc());
    let common = ["--nats", &bus, "--admin", "127.0.0.1:0"];
    let service = |own: &[&'static str]| [own, &["--eventlog", &log, "--postgres", &url], &common].concat();
    let installed = std::process::Command::new(foghorn_tests::env::foghorn())
        .args(["outbox", "install", "--postgres", &url])
        .output()
        .unwrap();
    assert!(installed.status.success(), "{installed:?}");
    let outbox = Foghorn::spawn(&service(&["outbox"]), &[]).await;
    let notifications = Foghorn::spawn(&service(&["notifications", "--listen", "127.0.0.1:0"]), &[]).await;
    wait_ready(outbox.admin()).await;
    wait_ready(notifications.admin()).await;

    let event = json!({ "channel": "a", "data": "stored" });
    let reply = post(&cluster.fanouts[0].url("/api/publish"), &event).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    until("the event to be in the log", PATIENCE, async || {
        let page = get(&cluster.gateways[0].url("/api/channels/a/events")).await.unwrap();
        (page.body["events"][0]["data"] == "stored").then_some(())
    })
    .await;
    let notice = json!({ "userId": "ann", "type": "info", "title": "t", "message": "m" });
    let reply = post(&notifications.url("/api/notifications"), &notice).await.unwrap();
    assert_eq!(reply.status, 201, "{}", reply.body);
    // What the server says of those who are connected.
    let mut connection = PgConnection::connect(&url).await.unwrap();
    let whose = "SELECT application_name, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name LIKE 'foghorn-%' GROUP BY 1 ORDER BY 1";
    let encrypted: Vec<(String, bool)> = sqlx::query_as(whose).fetch_all(&mut connection).await.unwrap();
    let services = ["eventlog-reader", "eventlog-writer", "notifications", "outbox"];
    let all: Vec<_> = services.iter().map(|service| (format!("foghorn-{service}"), true)).collect();
    assert_eq!(encrypted, all);

    // Told as the chart tells them.
    let bare = url.split('?').next().unwrap();
    let start = async |mode: &str, ca: &str| {
        let own = ["eventlog", "--grpc", "127.0.0.1:0", "--postgres", bare];
        Foghorn::spawn_waiting(&[&own[..], &common].concat(), &[("PGSSLMODE", mode), ("PGSSLROOTCERT", ca)])
            .await
    };
    wait_ready(start("verify-full", &ca).await.admin()).await;
    for (mode, ca, said) in [
        ("verify-full", another.as_str(), "UnknownIssuer; PostgreSQL's certificate has to be"),
        ("verify-full", "/nowhere/ca.crt", "the file that sslrootcert names"),
        ("disable", &ca, "no encryption"),
    ] {
        let refused = start(mode, ca).await;
        refused.process().wait_for_log_line(said, PATIENCE).await;
    }
}

enum Wants {
    Publish(&'static str),
    Subscribe(&'static str),
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_that_are_shipped_let_gateways_append_nothing_and_publishers_read_nothing() {
    use Wants::{Publish, Subscribe};
    let nats = nats().await;
    for (user, wants) in [
        ("gateway", Publish("foghorn.journal.0.a")),
        ("gateway", Publish("foghorn.live.0")),
        ("gateway", Publish("foghorn.publish.a")),
        ("gateway", Publish("$KV.FOGHORN_epochs.0")),
        ("gateway", Publish("$KV.FOGHORN_leases.relay.0")),
        ("gateway", Publish("$JS.API.STREAM.PURGE.FOGHORN_0")),
        ("gateway", Publish("$JS.API.STREAM.DELETE.FOGHORN_0")),
        ("gateway", Publish("$KV.FOGHORN_policies.policies")),
        ("fanout", Publish("$KV.FOGHORN_policies.policies")),
        ("eventlog", Publish("$KV.FOGHORN_policies.policies")),
        ("operator", Publish("$KV.FOGHORN_epochs.0")),
        ("operator", Publish("foghorn.journal.0.a")),
        ("operator", Publish("$JS.API.STREAM.MSG.GET.FOGHORN_0")),
        ("operator", Subscribe("foghorn.live.0")),
        ("operator", Publish("foghorn.gateway.x")),
        ("gateway", Subscribe("foghorn.rollout")),
        ("fanout", Publish("foghorn.rollout")),
        ("fanout", Subscribe("foghorn.rollout")),
        ("publisher", Publish("foghorn.rollout")),
        ("fanout", Publish("_INBOX.gateway.a")),
        ("eventlog", Publish("foghorn.presence.a")),
        ("publisher", Publish("foghorn.presence.a")),
        ("gateway", Publish("foghorn.journal.0.~foghorn.canary.000000000001.0")),
        ("eventlog", Publish("foghorn.canary.000000000001.0")),
        ("publisher", Publish("foghorn.canary.000000000001.0")),
        ("fanout", Publish("$JS.API.STREAM.PURGE.FOGHORN_0")),
        ("fanout", Publish("$JS.API.STREAM.DELETE.FOGHORN_0")),
        ("fanout", Publish("$KV.FOGHORN_tickets.secret")),
        ("fanout", Publish("$KV.FOGHORN_subscriptions.AAAAAAAAAAA")),
        ("eventlog", Publish("foghorn.live.0")),
        ("eventlog", Publish("$JS.API.STREAM.DELETE.FOGHORN_0")),
        ("eventlog", Publish("$KV.FOGHORN_revocations.all")),
        ("gateway", Publish("_INBOX.fanout.x")),
        ("gateway", Subscribe("_INBOX.eventlog.>")),
        ("outbox", Publish("foghorn.live.0")),
        ("outbox", Subscribe("foghorn.live.0")),
        ("notifications", Publish("foghorn.live.0")),
        ("notifications", Publish("foghorn.gateway.x")),
        ("notifications", Subscribe("foghorn.live.0")),
        ("publisher", Publish("foghorn.journal.0.a")),
        ("publisher", Publish("foghorn.live.0")),
        ("publisher", Publish("$JS.API.STREAM.MSG.GET.FOGHORN_0")),
        ("publisher", Subscribe("foghorn.live.0")),
        ("publisher", Subscribe("foghorn.publish.>")),
        ("publisher", Subscribe("$KV.>")),
        ("publisher", Subscribe(">")),
    ] {
        let (client, mut heard) = client(&nats, user).await;
        let subject = match wants {
            Publish(subject) => {
                client.publish(subject, "x".into()).await.unwrap();
                subject
            }
            Subscribe(subject) => {
                drop(client.subscribe(subject).await.unwrap());
                subject
            }
        };
        let refused = async {
            while let Some(said) = heard.recv().await {
                if said.to_lowercase().contains("permissions violation") {
                    return said;
                }
            }
            panic!("{user} is not refused {subject}")
        };
        let said = timeout(PATIENCE, refused).await.unwrap_or_else(|_| panic!("{user} may use {subject}"));
        assert!(said.contains(subject), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_accounts_that_are_shipped_let_gateways_ask_the_operator_when_to_drain_and_hear_its_answer() {
    let (nats, api, folder) = (nats().await, ApiServer::start().await, tempfile::tempdir().unwrap());
    api.apply_fleet("foghorn-gateway", 50, 25);
    let kubeconfig = api.kubeconfig(folder.path());
    let environment = [
        ("KUBECONFIG", kubeconfig.as_str()),
        ("FOGHORN_NATS_USER", "operator"),
        ("FOGHORN_NATS_PASSWORD", password("operator")),
    ];
    let url = nats.url();
    let arguments = ["operator", "--admin", "127.0.0.1:0", "--nats", &url];
    let operator = Foghorn::spawn(&arguments, &environment).await;
    wait_ready(operator.admin()).await;
    let options =
        ConnectOptions::with_user_and_password("gateway".to_owned(), password("gateway").to_owned());
    let gateway = options.custom_inbox_prefix("_INBOX.gateway").connect(nats.url()).await.unwrap();
    let report = json!({
        "gateway": "000000000001", "pod": "one", "phase": "waiting", "streams": 1, "streamsMax": 10, "pace": 1.0,
        "streamsPerSecond": 1000, "shedding": 0,
    });
    until("the operator's order", PATIENCE, async || {
        let answered = gateway.request("foghorn.rollout", report.to_string().into()).await.ok()?;
        let order: Value = serde_json::from_slice(&answered.payload).ok()?;
        (order["order"] == "wait").then_some(())
    })
    .await;
}
