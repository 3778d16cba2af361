use std::sync::atomic::AtomicUsize;

use foghorn_core::policy::{Access, Policies, Policy};
use futures::future::join_all;

use super::*;
use crate::config::Config as Auth;
use crate::keys::Keys;
use crate::{Authenticator, Caller, Refusal, Requester};

/// Answers after some time, and remembers what it was asked.
#[derive(Clone)]
struct Script(Arc<Scripted>);

struct Scripted {
    answer: Mutex<Result<&'static str, Failure>>,
    takes: Mutex<Duration>,
    questions: Mutex<Vec<String>>,
    at_once: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Script {
    fn new(answer: &'static str) -> Self {
        Script(Arc::new(Scripted {
            answer: Mutex::new(Ok(answer)),
            takes: Mutex::new(Duration::from_millis(10)),
            questions: Mutex::default(),
            at_once: AtomicUsize::new(0),
            most_at_once: AtomicUsize::new(0),
        }))
    }

    fn now(&self, answer: Result<&'static str, Failure>) {
        *self.0.answer.lock() = answer;
    }

    fn asked(&self) -> usize {
        self.0.questions.lock().len()
    }
}

impl Authoriser for Script {
    fn ask(&self, question: Bytes) -> BoxFuture<'_, Result<Bytes, Failure>> {
        self.0.questions.lock().push(String::from_utf8(question.to_vec()).unwrap());
        let (answer, takes) = (self.0.answer.lock().clone(), *self.0.takes.lock());
        async move {
            let at_once = self.0.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.0.most_at_once.fetch_max(at_once, Ordering::SeqCst);
            tokio::time::sleep(takes).await;
            self.0.at_once.fetch_sub(1, Ordering::SeqCst);
            answer.map(Bytes::from)
        }
        .boxed()
    }
}

fn webhook(script: &Script, config: &Config) -> Webhook {
    Webhook::new(config, script.clone())
}

fn p(text: &str) -> Pattern {
    Pattern::parse(text).unwrap()
}

async fn listens(webhook: &Webhook, topic: &str) -> Result<Grant, Refused> {
    webhook.may_listen(&Requester::from(Caller::Anonymous), &p(topic)).await
}

fn counted(webhook: &Webhook, line: &str) -> bool {
    let (series, value) = line.rsplit_once(' ').unwrap();
    count(webhook, series) == value.parse::<usize>().unwrap()
}

fn count(webhook: &Webhook, series: &str) -> usize {
    let mut registry = Registry::default();
    webhook.register(&mut registry);
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {series}")).parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn equal_questions_are_asked_once_and_an_answer_holds_as_long_as_it_says_within_a_bound() {
    let script = Script::new(r#"{"allow": true, "ttl": 20}"#);
    let webhook = webhook(&script, &Config { ttl_max: Duration::from_secs(60), ..Config::default() });
    let answers = join_all((0..500).map(|_| listens(&webhook, "a"))).await;
    assert!(answers.iter().all(Result::is_ok));
    assert_eq!(script.asked(), 1);
    assert!(listens(&webhook, "a").await.is_ok() && script.asked() == 1, "from memory");
    assert!(listens(&webhook, "a.*").await.is_ok() && script.asked() == 2, "a pattern is another question");
    tokio::time::advance(Duration::from_secs(21)).await;
    script.now(Ok(r#"{"allow": false, "ttl": 1000000}"#));
    for _ in 0..3 {
        assert_eq!(listens(&webhook, "a").await.err(), Some(Refused::Denied));
    }
    assert_eq!(script.asked(), 3, "refusals hold too");
    tokio::time::advance(Duration::from_secs(61)).await;
    script.now(Ok(r#"{"allow": true, "ttl": 0}"#));
    for _ in 0..3 {
        assert!(listens(&webhook, "a").await.is_ok());
    }
    assert_eq!(script.asked(), 6, "no longer than the bound, and not at all where it says so");
    script.now(Ok(r#"{"allow": true}"#));
    for _ in 0..3 {
        assert!(listens(&webhook, "b").await.is_ok());
    }
    assert_eq!(script.asked(), 7, "auth.webhook.ttl where it doesn't say");
    tokio::time::advance(Duration::from_secs(11)).await;
    assert!(listens(&webhook, "b").await.is_ok() && script.asked() == 8);
    assert!(counted(&webhook, "webhook_answers_total{from=\"flight\"} 499"));
    assert!(counted(&webhook, "webhook_questions_total{outcome=\"denied\"} 1"));
}

#[tokio::test(start_paused = true)]
async fn whoever_asks_first_may_go_and_the_others_have_their_answer() {
    let script = Script::new(r#"{"allow": true}"#);
    let webhook = webhook(&script, &Config::default());
    let first = tokio::time::timeout(Duration::from_millis(5), listens(&webhook, "a"));
    let (first, second) = tokio::join!(first, listens(&webhook, "a"));
    assert!(first.is_err() && second.is_ok());
    assert_eq!(script.asked(), 1);
    // When all have gone nobody is waited for.
    drop(tokio::time::timeout(Duration::from_millis(5), listens(&webhook, "b")).await);
    assert!(webhook.0.state.lock().under_way.is_empty());
    assert!(counted(&webhook, "webhook_under_way 0"));
    assert!(listens(&webhook, "b").await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn whatever_is_no_answer_refuses_is_not_remembered_and_is_counted_by_what_it_was() {
    let script = Script::new("");
    let webhook = webhook(&script, &Config::default());
    for (failure, word) in [
        (Failure::Unreachable("reset".to_owned()), "unreachable"),
        (Failure::Status(500), "status"),
        (Failure::Status(302), "status"),
        (Failure::Status(401), "status"),
        (Failure::Oversized, "oversized"),
    ] {
        script.now(Err(failure));
        assert_eq!(listens(&webhook, "a").await.err(), Some(Refused::Unavailable), "{word}");
    }
    script.now(Ok("{}"));
    assert_eq!(listens(&webhook, "a").await.err(), Some(Refused::Unavailable));
    *script.0.takes.lock() = Duration::from_secs(60);
    let began = Instant::now();
    assert_eq!(listens(&webhook, "a").await.err(), Some(Refused::Unanswered));
    assert_eq!(began.elapsed().as_secs(), 2, "auth.webhook.deadline");
    *script.0.takes.lock() = Duration::ZERO;
    script.now(Err(Failure::Status(403)));
    assert_eq!(listens(&webhook, "a").await.err(), Some(Refused::Denied), "it has looked at it");
    script.now(Ok(r#"{"allow": true}"#));
    assert!(listens(&webhook, "a").await.is_ok(), "nothing of that is remembered");
    for (word, count) in
        [("unreachable", 1), ("status", 3), ("oversized", 1), ("malformed", 1), ("late", 1), ("denied", 1)]
    {
        assert!(
            counted(&webhook, &format!("webhook_questions_total{{outcome=\"{word}\"}} {count}")),
            "{word}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_an_answer_that_does_not_come_once_and_no_other_request_for_less() {
    let script = Script::new(r#"{"allow": true, "ttl": 60}"#);
    let webhook = webhook(&script, &Config::default());
    assert!(listens(&webhook, "known").await.is_ok());
    *script.0.takes.lock() = Duration::from_secs(60);
    let (by, began) = (Requester::from(Caller::Anonymous), Instant::now());
    let channels: Vec<_> = (0..16).map(|n| Channel::parse(format!("a.{n}")).unwrap()).collect();
    for _ in 0..10 {
        let answers = join_all(channels.iter().map(|channel| webhook.may_publish(&by, channel))).await;
        assert!(answers.iter().all(Result::is_err));
    }
    assert_eq!(began.elapsed().as_secs(), 2, "auth.webhook.deadline");
    assert_eq!(script.asked(), 1 + channels.len());
    assert!(counted(&webhook, "webhook_questions_total{outcome=\"unasked\"} 144"));
    assert!(webhook.may_listen(&by, &p("known")).await.is_ok(), "what is known needs no wait");
    *script.0.takes.lock() = Duration::ZERO;
    assert!(webhook.may_publish(&by, &channels[0]).await.is_err());
    assert!(webhook.may_publish(&by.again(), &channels[0]).await.is_ok(), "the next request asks again");
    // What fails at once has nobody wait, and says nothing of what else is asked.
    let by = by.again();
    script.now(Err(Failure::Status(500)));
    assert_eq!(webhook.may_listen(&by, &p("b")).await.err(), Some(Refused::Unavailable));
    script.now(Ok(r#"{"allow": true}"#));
    assert!(webhook.may_listen(&by, &p("b")).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn so_many_questions_are_under_way_at_a_time_and_memory_has_a_bound() {
    let script = Script::new(r#"{"allow": true, "ttl": 60}"#);
    let webhook = webhook(&script, &Config { questions: 8, cache_entries: 100, ..Config::default() });
    let topics: Vec<String> = (0..1000).map(|n| format!("a.{n}")).collect();
    let answers = join_all(topics.iter().map(|topic| listens(&webhook, topic))).await;
    assert!(answers.iter().all(Result::is_ok), "1.25 s of the deadline's 2");
    assert_eq!(script.0.most_at_once.load(Ordering::SeqCst), 8);
    assert!(webhook.0.state.lock().known.len() <= 100);
    assert!(counted(&webhook, "webhook_answers_forgotten_total 900"));
    // Those that had no turn in time are refused, and so is what is beyond the most.
    *script.0.takes.lock() = Duration::from_millis(1900);
    let topics: Vec<String> = (0..UNDER_WAY_MAX + 10).map(|n| format!("b.{n}")).collect();
    let answers = join_all(topics.iter().map(|topic| listens(&webhook, topic))).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 8);
    let [busy, late] = ["busy", "late"]
        .map(|outcome| count(&webhook, &format!("webhook_questions_total{{outcome=\"{outcome}\"}}")));
    assert_eq!(busy + late, UNDER_WAY_MAX + 10 - 8);
    assert!(busy > 10 && late >= 8, "{busy} {late}");
    assert!(webhook.0.state.lock().under_way.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_asked_for_again_in_time_whatever_was_known_and_by_all_streams_at_once() {
    let script = Script::new(r#"{"allow": true, "ttl": 60}"#);
    let webhook = webhook(&script, &Config::default());
    let granted = listens(&webhook, "a").await.unwrap();
    assert_eq!(granted.ends - granted.due, Duration::from_secs(6));
    tokio::time::advance(granted.due - Instant::now()).await;
    let renewed = join_all((0..50).map(|_| webhook.renew(&granted))).await;
    assert_eq!(script.asked(), 2);
    let renewed = renewed.into_iter().next().unwrap().unwrap();
    assert!(renewed.ends > granted.ends);
    // One that comes a moment later has the same answer.
    assert_eq!(webhook.renew(&granted).await.unwrap().ends, renewed.ends);
    script.now(Ok(r#"{"allow": false}"#));
    assert_eq!(webhook.renew(&renewed).await.err(), Some(Refused::Denied));
    script.now(Ok(r#"{"allow": true, "ttl": 0}"#));
    let short = listens(&webhook, "b").await.unwrap();
    assert_eq!(
        (short.ends - Instant::now()).as_secs(),
        HOLDS_MIN.as_secs() - 1,
        "an open stream's own least"
    );
}

#[tokio::test(start_paused = true)]
async fn it_is_asked_about_whom_and_what_and_only_where_a_policy_leaves_it_to_it() {
    let script = Script::new(r#"{"allow": true}"#);
    let config = Config { forward: vec!["x-tenant".to_owned()], address: true, ..Config::default() };
    let policy = |pattern, access| Policy { access: Some(access), ..Policy::new(p(pattern)) };
    let policies = Policies::new(vec![policy("rooms.>", Access::Webhook), policy("open.>", Access::Public)]);
    let policies = policies.unwrap();
    let auth = |webhook| {
        Authenticator::new(&Auth::default(), Keys::default(), false, foghorn_core::time::Timestamp::default)
            .with_webhook(webhook)
    };
    let asking = auth(Some(webhook(&script, &config)));
    let mut headers = http::HeaderMap::new();
    headers.insert("x-tenant", "acme".parse().unwrap());
    let context = asking.context(&headers, Some([203, 0, 113, 9].into()));
    let by = Requester::new(Caller::Anonymous, context);
    let room = Channel::parse("rooms.1").unwrap();
    assert!(asking.check_listen(&by, &p("rooms.*"), &policies).await.unwrap().is_some());
    assert!(asking.check_listen(&by, &p("open.a"), &policies).await.unwrap().is_none());
    assert!(asking.check_publish(&by, &room, &policies).await.is_ok());
    let questions: Vec<serde_json::Value> =
        script.0.questions.lock().iter().map(|text| serde_json::from_str(text).unwrap()).collect();
    let said = json!({ "user": null, "address": "203.0.113.9", "headers": { "x-tenant": "acme" } });
    let with = |more: serde_json::Value| {
        let mut said = said.clone();
        said.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        said
    };
    assert_eq!(
        questions,
        [
            with(json!({ "action": "subscribe", "pattern": "rooms.*" })),
            with(json!({ "action": "publish", "channel": "rooms.1" })),
        ]
    );
    for refused in ["orders.1", "rooms.1.>", ">"] {
        let answer = asking.check_listen(&by, &p(refused), &policies).await;
        assert_eq!(answer.is_ok(), refused == "rooms.1.>", "{refused}");
    }
    script.now(Ok(r#"{"allow": false}"#));
    let denied = asking.check_publish(&by, &Channel::parse("rooms.2").unwrap(), &policies).await.unwrap_err();
    assert_eq!((denied.code(), denied.to_problem().status.as_u16()), ("access-denied", 403));
    script.now(Err(Failure::Status(500)));
    let failed = asking.check_listen(&by, &p("rooms.3"), &policies).await.unwrap_err();
    assert_eq!((failed.code(), failed.to_problem().status.as_u16()), ("authoriser-unavailable", 503));
    assert!(failed.passes_after().is_some());
    // A process that has none grants nothing by it.
    let alone = auth(None);
    assert!(matches!(alone.check_listen(&by, &p("rooms.1"), &policies).await, Err(Refusal::NoCredential(_))));
    assert!(matches!(alone.check_publish(&by, &room, &policies).await, Err(Refusal::NoCredential(_))));
    assert!(alone.check_publisher(&by.caller, &policies).is_err());
    assert!(asking.check_publisher(&by.caller, &policies).is_ok());
}
