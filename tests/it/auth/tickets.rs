//! One-time tickets: who gets one, what it opens, once, and what its stream comes back by.

use std::time::Duration;

use foghorn_tests::PATIENCE;
use foghorn_tests::collector::Collector;
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::{Reply, get, metric, request};
use foghorn_tests::http2::Http2;
use foghorn_tests::nats::NatsServer;
use foghorn_tests::sse::{Block, SseClient};
use futures::future::join_all;
use http::Method;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::{Issuer, bearer};
use crate::deployment::{CLOSED, Listener};

const CHANNEL: &str = "channels=members.a";

fn kind(body: &Value) -> &str {
    body["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default()
}

async fn ask(server: &Foghorn, headers: &[(&str, &str)], body: Option<&Value>) -> Reply {
    request(Method::POST, &server.url("/api/events/ticket"), headers, body).await.unwrap()
}

/// A ticket for whoever has this token, as no page gets it.
async fn ticket(server: &Foghorn, token: &str, body: Option<&Value>) -> String {
    let reply = ask(server, &[("authorization", &bearer(token))], body).await;
    assert_eq!(reply.status, 200, "{}", reply.body);
    reply.body["ticket"].as_str().unwrap().to_owned()
}

async fn open(server: &Foghorn, ticket: &str, query: &str, headers: &[(&str, &str)]) -> SseClient {
    let url = server.url(&format!("/api/events?{query}&ticket={ticket}"));
    SseClient::connect(&url, headers).await.unwrap()
}

/// The cookie that a stream has set, as a browser sends it.
fn cookie(stream: &SseClient) -> String {
    let set = stream.header("set-cookie").unwrap_or_else(|| panic!("no cookie: {:?}", stream.headers()));
    set.split(';').next().unwrap().to_owned()
}

/// Status and problem of a stream that is refused.
async fn refused(stream: SseClient) -> (u16, String) {
    let status = stream.status();
    let body: Value = serde_json::from_str(&stream.text().await.unwrap()).unwrap();
    (status, kind(&body).to_owned())
}

fn bad() -> (u16, String) {
    (401, "bad-ticket".to_owned())
}

fn foreign() -> (u16, String) {
    (403, "origin".to_owned())
}

async fn publish(server: &Foghorn, token: &str, data: &str) {
    let event = json!({ "channel": "members.a", "data": data });
    let authorization = bearer(token);
    let headers = [("authorization", authorization.as_str())];
    let reply = request(Method::POST, &server.url("/api/publish"), &headers, Some(&event)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_opens_one_stream_which_its_cookie_resumes_without_loss_also_after_a_restart() {
    let issuer = Issuer::new();
    let folder = tempfile::tempdir().unwrap();
    let (config, data) = (issuer.config(""), folder.path().join("data").display().to_string());
    let mut server = crate::deployment::standalone(&["--data", &data, "--config", &config], &[CLOSED]).await;
    let ann = issuer.token("ann", &json!({ "publish": ["members.a"] }));
    let reply = ask(&server, &[("authorization", &bearer(&ann))], None).await;
    assert_eq!((reply.status, &reply.body["expiresIn"]), (200, &json!(30)), "{}", reply.body);
    assert_eq!(reply.headers["cache-control"], "no-store");
    let ticket = reply.body["ticket"].as_str().unwrap().to_owned();
    assert_eq!(ticket.len(), 43);

    let first = open(&server, &ticket, CHANNEL, &[]).await;
    let cookie = cookie(&first);
    let set = first.header("set-cookie").unwrap();
    assert!(
        set.contains("; Path=/api/events; Max-Age=") && set.ends_with("; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    let mut first = Listener::of(first).await;
    publish(&server, &ann, "one").await;
    assert_eq!(first.event().await.data.as_deref(), Some("one"));
    let cursor = first.cursor();
    drop(first);
    publish(&server, &ann, "two").await;

    // The URL alone, stolen, is worth nothing, nor is the cookie.
    assert_eq!(refused(open(&server, &ticket, CHANNEL, &[]).await).await, bad());
    let alone = server.url(&format!("/api/events?{CHANNEL}"));
    let alone = SseClient::connect(&alone, &[("cookie", &cookie)]).await.unwrap();
    assert_eq!(refused(alone).await, (401, "unauthenticated".to_owned()));

    let headers = [("cookie", cookie.as_str()), ("last-event-id", cursor.as_str())];
    let again = open(&server, &ticket, CHANNEL, &headers).await;
    assert_eq!(again.header("set-cookie"), None);
    let again = Listener::of(again).await;
    assert_eq!((&again.connected["recovered"], again.replayed_data()), (&json!(true), vec!["two"]));

    server.kill();
    server.restart().await;
    let again = Listener::of(open(&server, &ticket, CHANNEL, &headers).await).await;
    assert_eq!((&again.connected["recovered"], again.replayed_data()), (&json!(true), vec!["two"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_a_ticket_that_was_changed_to_more_than_the_ticket_allows_is_reset_and_not_refused() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let ann = issuer.token("ann", &json!({ "subscribe": ["members.>"] }));
    let ticket = ticket(&server, &ann, Some(&json!({ "channels": ["members.a"] }))).await;
    let first = open(&server, &ticket, CHANNEL, &[]).await;
    let cookie = cookie(&first);
    let first = Listener::of(first).await;
    let change = json!({ "clientId": first.connected["clientId"], "channels": ["members.b"] });
    let url = server.url("/api/events/subscribe");
    let headers = [("authorization", &*bearer(&ann))];
    let changed = request(Method::POST, &url, &headers, Some(&change)).await.unwrap();
    assert_eq!(changed.status, 200, "{}", changed.body);
    let cursor = changed.body["cursor"].as_str().unwrap();
    drop(first);
    let headers = [("cookie", cookie.as_str()), ("last-event-id", cursor)];
    let mut again = open(&server, &ticket, CHANNEL, &headers).await;
    assert_eq!(again.status(), 200);
    let blocks = again.collect_until(PATIENCE, |block| block.event_type() == "stream-live").await;
    let reset = blocks.iter().find(|block| block.event_type() == "stream-reset");
    assert_eq!(reset.map(|block| block.json()["reason"].clone()), Some(json!("subscription")), "{blocks:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_opens_no_other_tickets_url() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let ann = issuer.token("ann", &json!({}));
    let [one, other] = [ticket(&server, &ann, None).await, ticket(&server, &ann, None).await];
    let first = cookie(&open(&server, &one, CHANNEL, &[]).await);
    let second = cookie(&open(&server, &other, CHANNEL, &[]).await);
    assert_eq!(refused(open(&server, &other, CHANNEL, &[("cookie", &first)]).await).await, bad());
    // Nor under the other's name.
    let (name, value) = (second.split_once('=').unwrap().0, first.split_once('=').unwrap().1);
    let renamed = format!("{name}={value}");
    assert_eq!(refused(open(&server, &other, CHANNEL, &[("cookie", &renamed)]).await).await, bad());
    let both = format!("theme=dark; {first}; {second}");
    assert_eq!(open(&server, &other, CHANNEL, &[("cookie", &both)]).await.status(), 200);
    for made_up in ["x", "", &"A".repeat(43), "%00"] {
        assert_eq!(refused(open(&server, made_up, CHANNEL, &[]).await).await, bad(), "{made_up}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_for_the_origin_whose_page_asked_for_it() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let token = issuer.token("ann", &json!({}));
    let (page, other) = (("origin", "https://app.example"), ("origin", "https://one.pages.example"));
    // A cookie that is sent unasked counts only for a page that may use this server.
    let session = format!("foghorn_token={token}");
    let session = ("cookie", session.as_str());
    for headers in [&[session][..], &[session, ("origin", "https://evil.example")]] {
        let reply = ask(&server, headers, None).await;
        assert_eq!((reply.status, kind(&reply.body)), (403, "origin"), "{headers:?}");
    }
    let reply = ask(&server, &[session, page], None).await;
    assert_eq!(reply.headers["access-control-allow-origin"], "https://app.example");
    let ticket = reply.body["ticket"].as_str().unwrap();
    for headers in [&[][..], &[other], &[("sec-fetch-site", "same-origin")]] {
        assert_eq!(refused(open(&server, ticket, CHANNEL, headers).await).await, foreign(), "{headers:?}");
    }
    // Nobody has spent it by that.
    let stream = open(&server, ticket, CHANNEL, &[page]).await;
    let set = stream.header("set-cookie").unwrap();
    assert!(set.ends_with("; HttpOnly; SameSite=None; Secure; Partitioned"), "{set}");
    let cookie = cookie(&stream);
    let cookie = ("cookie", cookie.as_str());
    assert_eq!(open(&server, ticket, CHANNEL, &[page, cookie]).await.status(), 200);
    assert_eq!(refused(open(&server, ticket, CHANNEL, &[cookie]).await).await, foreign());
    assert_eq!(refused(open(&server, ticket, CHANNEL, &[other, cookie]).await).await, foreign());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_given_for_what_its_caller_may_hear_and_opens_no_more_than_it_was_asked_for() {
    let issuer = Issuer::new();
    let server = issuer.standalone("", &[]).await;
    let ann = issuer.token("ann", &json!({ "subscribe": ["members.>"] }));
    let authorization = bearer(&ann);
    let headers = [("authorization", authorization.as_str())];
    for (body, status, problem) in [
        (json!({ "channels": ["members.a", "other"] }), 403, "access-denied"),
        (json!({ "channels": ["user.bob"] }), 403, "access-denied"),
        (json!({ "channels": ["a..b"] }), 400, "bad-channel"),
        (json!({ "channels": vec!["members.a"; 101] }), 400, "too-many-channels"),
        (json!({ "channel": ["members.a"] }), 400, "bad-ticket-request"),
        (json!([]), 400, "bad-ticket-request"),
        (
            json!({ "channels": (0..100).map(|n| format!("members.{n:050}")).collect::<Vec<_>>() }),
            400,
            "bad-ticket-request",
        ),
    ] {
        let reply = ask(&server, &headers, Some(&body)).await;
        assert_eq!((reply.status, kind(&reply.body)), (status, problem), "{}", reply.body);
    }
    for (reply, status, problem) in [
        (ask(&server, &[], None).await, 401, "unauthenticated"),
        (ask(&server, &[("authorization", "Bearer x")], None).await, 401, "bad-credential"),
        (get(&server.url("/api/events/ticket")).await.unwrap(), 405, "method"),
    ] {
        assert_eq!((reply.status, kind(&reply.body)), (status, problem), "{}", reply.body);
    }

    let channels = json!({ "channels": ["members.a", "members.b.*"] });
    for (query, status) in [
        ("channels=members.a,members.b.c", 200),
        ("channels=members.b.*", 200),
        ("channels=user.ann,broadcast", 200),
        ("events=x", 200),
        ("channels=members.a,members.c", 403),
        ("channels=members.*", 403),
    ] {
        let ticket = ticket(&server, &ann, Some(&channels)).await;
        assert_eq!(open(&server, &ticket, query, &[]).await.status(), status, "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_ends_with_its_time_and_with_what_it_was_had_for() {
    let issuer = Issuer::new();
    let life = Duration::from_secs(1);
    let server = issuer.standalone("ticket_life = \"1s\"", &[]).await;
    let late = ticket(&server, &issuer.token("ann", &json!({})), None).await;
    // What is tested is that time passes.
    tokio::time::sleep(life + Duration::from_millis(100)).await;
    assert_eq!(refused(open(&server, &late, CHANNEL, &[]).await).await, bad());

    let server = issuer.standalone("", &[]).await;
    let ann = issuer.token("ann", &json!({}));
    let [used, unused] = [ticket(&server, &ann, None).await, ticket(&server, &ann, None).await];
    let cookie = cookie(&open(&server, &used, CHANNEL, &[]).await);
    let admin = bearer(&issuer.token("op", &json!({ "role": "admin" })));
    let (url, ann) = (server.url("/api/admin/revoke"), json!({ "subject": "ann" }));
    let reply = request(Method::POST, &url, &[("authorization", &admin)], Some(&ann)).await.unwrap();
    assert_eq!(reply.status, 200, "{}", reply.body);
    let revoked = (401, "bad-credential".to_owned());
    assert_eq!(refused(open(&server, &unused, CHANNEL, &[]).await).await, revoked);
    assert_eq!(refused(open(&server, &used, CHANNEL, &[("cookie", &cookie)]).await).await, revoked);
}

#[tokio::test(flavor = "multi_thread")]
async fn header_and_cookie_go_before_a_ticket_and_a_ticket_before_a_token_in_the_url() {
    let issuer = Issuer::new();
    let server = issuer.standalone("query_token = true", &[]).await;
    let [ann, bob] = ["ann", "bob"].map(|subject| issuer.token(subject, &json!({})));
    let ticket = ticket(&server, &ann, None).await;
    let (of_bob, session) = (bearer(&bob), format!("foghorn_token={bob}"));
    let (of_bob, session) = (of_bob.as_str(), session.as_str());
    let own = |subject: &str| format!("channels=user.{subject}&token={bob}");
    for (subject, headers, status) in [
        ("ann", &[("authorization", "Bearer x")][..], 401),
        ("bob", &[("authorization", of_bob)], 200),
        ("bob", &[("cookie", session), ("sec-fetch-site", "same-origin")], 200),
        ("ann", &[("cookie", session), ("sec-fetch-site", "same-origin")], 403),
        // Spent by none of these.
        ("ann", &[], 200),
        ("bob", &[], 401),
    ] {
        let stream = open(&server, &ticket, &own(subject), headers).await;
        assert_eq!(stream.status(), status, "{subject} {headers:?}");
    }
}

/// Whether a stream is told to come back later, and why.
fn waits(block: &Block) -> bool {
    block.event_type() == "stream-end"
        && block.json()["reason"] == "credential-unavailable"
        && block.retry.is_some()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_gateway_takes_a_ticket_one_of_them_spends_it_and_its_cookie_needs_no_nats() {
    let issuer = Issuer::new();
    let (mut nats, config) = (NatsServer::start().await, issuer.config(""));
    let (bus, nowhere) = (nats.url(), "http://127.0.0.1:1");
    let gateway = async || {
        let arguments = ["gateway", "--config", &config, "--nats", &bus, "--eventlog", nowhere];
        let sockets = ["--admin", "127.0.0.1:0", "--listen", "127.0.0.1:0"];
        // Nothing is known of the log: a stream is let in and soon ended.
        let environment = [CLOSED, ("FOGHORN_GATEWAY_LOG_PATIENCE", "1s")];
        Foghorn::spawn(&[&arguments[..], &sockets].concat(), &environment).await
    };
    let (one, other) = tokio::join!(gateway(), gateway());
    let ann = issuer.token("ann", &json!({}));
    let tickets = async |outcome: &str| {
        let name = format!("foghorn_gateway_tickets_total{{outcome=\"{outcome}\"}}");
        (metric(one.admin(), &name).await + metric(other.admin(), &name).await).to_string()
    };

    // Both take part in each race, and one of all wins it.
    for _ in 0..2 {
        let ticket = ticket(&one, &ann, None).await;
        let tries = (0..20).map(|n| {
            let (server, ticket) = (if n % 2 == 0 { &one } else { &other }, &ticket);
            async move { open(server, ticket, CHANNEL, &[]).await }
        });
        let tries = join_all(tries).await;
        let statuses: Vec<_> = tries.iter().map(SseClient::status).collect();
        assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
        let cookie = cookie(tries.iter().find(|stream| stream.status() == 200).unwrap());
        let headers = [("cookie", cookie.as_str())];
        let (here, there) =
            tokio::join!(open(&one, &ticket, CHANNEL, &headers), open(&other, &ticket, CHANNEL, &headers));
        assert_eq!([here.status(), there.status()], [200, 200]);
        assert_eq!(refused(open(&other, &ticket, CHANNEL, &[]).await).await, bad());
    }
    assert_eq!(
        [tickets("issued").await, tickets("redeemed").await, tickets("resumed").await],
        ["2", "2", "4"]
    );

    let [spent, unspent] = [ticket(&one, &ann, None).await, ticket(&one, &ann, None).await];
    let cookie = cookie(&open(&one, &spent, CHANNEL, &[]).await);
    nats.hang().await;
    let (headers, authorization) = ([("cookie", cookie.as_str())], bearer(&ann));
    let authorization = [("authorization", authorization.as_str())];
    let (resumed, mut waiting, reply) = tokio::join!(
        open(&other, &spent, CHANNEL, &headers),
        open(&other, &unspent, CHANNEL, &[]),
        ask(&one, &authorization, None),
    );
    assert_eq!((resumed.status(), tickets("resumed").await.as_str()), (200, "5"));
    // Nothing temporary is told by a status: a browser would never come back.
    assert_eq!((waiting.status(), waiting.header("set-cookie")), (200, None));
    waiting.collect_until(PATIENCE, waits).await;
    assert_eq!((reply.status, kind(&reply.body)), (503, "tickets-unavailable"));
    nats.signal(Signal::SIGCONT);
    foghorn_tests::wait::until("the ticket to be redeemed", PATIENCE, async || {
        open(&other, &unspent, CHANNEL, &[]).await.header("set-cookie").map(|_| ())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_ticket_and_no_cookie_of_one_is_in_a_log_a_metric_a_trace_or_an_answer() {
    let (issuer, collector) = (Issuer::new(), Collector::start().await);
    let endpoint = collector.endpoint();
    let variables = [&[("FOGHORN_LOG_FILTER", "trace")][..], &super::traced(&endpoint)].concat();
    let server = issuer.standalone("", &variables).await;
    let ann = issuer.token("ann", &json!({ "publish": ["members.a"] }));
    let http2 = Http2::connect(&server.url("")).await.unwrap();
    let mut answers = String::new();
    let mut secrets = Vec::new();
    for is_http2 in [false, true] {
        let ticket = ticket(&server, &ann, None).await;
        let path = format!("/api/events?{CHANNEL}&ticket={ticket}");
        let listen = async |path: &str, headers: &[(&str, &str)]| match is_http2 {
            true => http2.listen(path, headers).await.unwrap(),
            false => SseClient::connect(&server.url(path), headers).await.unwrap(),
        };
        let first = listen(&path, &[]).await;
        let cookie = cookie(&first);
        Listener::of(first).await;
        Listener::of(listen(&path, &[("cookie", &cookie)]).await).await;
        for (path, headers) in [
            (path.clone(), &[][..]),
            (format!("{path}x"), &[]),
            (format!("{path}&ticket=1"), &[]),
            (format!("{path}&tickets=1"), &[]),
            (format!("/api/events/members.a/no?ticket={ticket}"), &[]),
            (path.clone(), &[("cookie", cookie.as_str()), ("origin", "https://app.example")]),
        ] {
            let refused = listen(&path, headers).await;
            answers += &format!("{:?} {}\n", refused.headers().clone(), refused.text().await.unwrap());
        }
        secrets.push(ticket);
        secrets.push(cookie.split_once('=').unwrap().1.to_owned());
    }
    let traces = super::all_traces(&collector, &server, &ann, "members.a").await;
    let metrics = get(&format!("http://{}/metrics", server.admin())).await.unwrap().body.to_string();
    let log = server.process().log();
    assert!(log.contains("stream opened"), "the log says what goes on");
    for secret in &secrets {
        for (place, text) in
            [("metrics", &metrics), ("log", &log), ("traces", &traces), ("answers", &answers)]
        {
            assert!(!text.contains(&secret[..16]), "a ticket or its cookie is in the {place}");
        }
    }
}
