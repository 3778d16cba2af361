use foghorn_bus::journal::AppendError;
use foghorn_rpc::v1::publisher_client::PublisherClient;
use futures::StreamExt as _;
use tokio::sync::{mpsc, watch};
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::config::Config;
use crate::error::PROBLEM_METADATA;
use crate::testing::{Bench, bench};

async fn connect(bench: &Bench) -> (PublisherClient<Channel>, watch::Sender<bool>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (stop, stopped) = watch::channel(false);
    let routes = tonic::service::Routes::new(publisher(bench.publisher.clone()));
    let connections = foghorn_rpc::serve::Connections::up_to(16);
    tokio::spawn(foghorn_rpc::serve::serve(listener, routes, &[SERVICE], connections, None, stopped));
    (PublisherClient::connect(format!("http://{address}")).await.unwrap(), stop)
}

fn request(channel: &str, data: &str) -> v1::PublishRequest {
    v1::PublishRequest { channel: channel.into(), data: data.to_owned().into(), ..Default::default() }
}

fn code(result: &v1::PublishResult) -> &str {
    match result.result.as_ref().unwrap() {
        publish_result::Result::Ok(_) => "ok",
        publish_result::Result::Error(error) => &error.code,
    }
}

#[tokio::test]
async fn a_unary_publish_is_stored_or_refused_with_a_status() {
    let bench = bench(Config::default());
    let (mut client, _stop) = connect(&bench).await;
    let with_id = v1::PublishRequest { id: "7".into(), ..request("a", "x") };
    for duplicate in [false, true] {
        let answer = client.publish(with_id.clone()).await.unwrap().into_inner();
        assert_eq!(answer.position, Some(v1::Position { shard: 0, epoch: 1, seq: 1 }));
        assert_eq!((answer.duplicate, answer.durable), (duplicate, false));
    }
    for (request, status, problem) in [
        (request("a..b", ""), Code::InvalidArgument, "bad-channel"),
        (request("", ""), Code::InvalidArgument, "bad-event"),
        (v1::PublishRequest { user: "u".into(), ..request("a", "") }, Code::InvalidArgument, "bad-event"),
        (v1::PublishRequest { ack: 9, ..request("a", "") }, Code::InvalidArgument, "bad-ack"),
        (v1::PublishRequest { ttl_seconds: u32::MAX, ..request("a", "") }, Code::InvalidArgument, "bad-ttl"),
        (
            v1::PublishRequest { data: vec![0xff].into(), ..request("a", "") },
            Code::InvalidArgument,
            "not-utf8",
        ),
    ] {
        let error = client.publish(request).await.unwrap_err();
        assert_eq!(error.code(), status);
        assert_eq!(error.metadata().get(PROBLEM_METADATA).unwrap(), problem);
    }
    for (error, status) in [
        (AppendError::Full(foghorn_core::shard::Shard::ZERO), Code::ResourceExhausted),
        (AppendError::Unavailable("down".into()), Code::Unavailable),
        (AppendError::Refused("no".into()), Code::FailedPrecondition),
    ] {
        bench.journal.failing.lock().insert("f".into(), error);
        assert_eq!(client.publish(request("f", "")).await.unwrap_err().code(), status);
    }
    bench.trigger.fire();
    assert_eq!(client.publish(request("a", "")).await.unwrap_err().code(), Code::Unavailable);
}

#[tokio::test]
async fn a_batch_answers_each_event_and_is_bounded() {
    let bench = bench(Config::default());
    let (mut client, _stop) = connect(&bench).await;
    let events = vec![request("a", "1"), request("a b", "2"), request("a", "3")];
    let answer = client.publish_batch(v1::PublishBatchRequest { events }).await.unwrap().into_inner();
    assert_eq!(answer.results.iter().map(code).collect::<Vec<_>>(), ["ok", "bad-channel", "ok"]);
    let data: Vec<String> = bench.journal.stored().into_iter().map(|(_, data)| data).collect();
    assert_eq!(data, ["1", "3"]);
    let events = vec![request("a", "x"); 1001];
    let error = client.publish_batch(v1::PublishBatchRequest { events }).await.unwrap_err();
    assert_eq!(error.metadata().get(PROBLEM_METADATA).unwrap(), "too-many-events");
    assert_eq!(bench.journal.stored().len(), 2);
}

#[tokio::test]
async fn a_stream_keeps_order_and_answers_in_order() {
    // Small bounds, so that the stream is held up by each of them.
    let bench = bench(Config { stream_events: 5, stream_bytes: 1 << 20, ..Config::default() });
    let (mut client, _stop) = connect(&bench).await;
    let pad = "x".repeat(200_000);
    let asked: Vec<v1::PublishRequest> = (0..60)
        .map(|n| match n {
            30 => request("a b", ""),
            n => request(&format!("c{}", n % 3), &format!("{n:03}{pad}")),
        })
        .collect();
    let answers = client.publish_stream(futures::stream::iter(asked.clone())).await.unwrap().into_inner();
    let answers: Vec<_> = answers.map(|answer| answer.unwrap()).collect().await;
    assert_eq!(answers.len(), 60);
    let stored = bench.journal.stored();
    for (n, answer) in answers.iter().enumerate() {
        match answer.result.as_ref().unwrap() {
            publish_result::Result::Ok(ok) => {
                let seq = usize::try_from(ok.position.unwrap().seq).unwrap();
                assert!(stored[seq - 1].1.starts_with(&format!("{n:03}")));
            }
            publish_result::Result::Error(error) => assert_eq!((n, &*error.code), (30, "bad-channel")),
        }
    }
    for channel in ["c0", "c1", "c2"] {
        let of_channel: Vec<_> = stored.iter().filter(|(c, _)| c == channel).map(|(_, d)| d).collect();
        assert!(of_channel.is_sorted());
    }
    assert_eq!(bench.journal.most_at_once(), 1);
}

#[tokio::test]
async fn a_stream_ends_when_the_journal_fails_so_that_nothing_overtakes() {
    let bench = bench(Config::default());
    let (mut client, _stop) = connect(&bench).await;
    bench.journal.failing.lock().insert("a".into(), AppendError::Unavailable("down".into()));
    let (sender, requests) = mpsc::channel(16);
    let mut answers = client.publish_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    for event in [request("b", "1"), request("a", "2")] {
        sender.send(event).await.unwrap();
    }
    assert_eq!(code(&answers.message().await.unwrap().unwrap()), "ok");
    assert_eq!(code(&answers.message().await.unwrap().unwrap()), "journal-unavailable");
    bench.journal.failing.lock().clear();
    // The publisher sent this before it heard of the failure.
    drop(sender.send(request("a", "3")).await);
    let end = loop {
        match answers.message().await {
            Ok(Some(answer)) => assert_eq!(code(&answer), "journal-unavailable", "not tried"),
            Ok(None) => panic!("ended as if all was well"),
            Err(status) => break status,
        }
    };
    assert_eq!(end.code(), Code::Unavailable);
    assert_eq!(bench.journal.stored(), [("b".to_owned(), "1".to_owned())]);
}

#[tokio::test]
async fn a_stream_ends_at_shutdown_with_everything_taken_in_answered() {
    let bench = bench(Config::default());
    let (mut client, stop) = connect(&bench).await;
    let (sender, requests) = mpsc::channel(16);
    let mut answers = client.publish_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
    sender.send(request("a", "1")).await.unwrap();
    assert_eq!(code(&answers.message().await.unwrap().unwrap()), "ok");
    bench.trigger.fire();
    stop.send_replace(true);
    assert_eq!(answers.message().await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(bench.journal.stored().len(), 1);
}
