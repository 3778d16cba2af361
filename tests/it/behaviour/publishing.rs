//! The doors.

use std::sync::Arc;

use foghorn_rpc::v1::publisher_client::PublisherClient;
use foghorn_rpc::v1::{Ack, PublishBatchRequest, PublishRequest, publish_result};
use serde_json::{Value, json};

use crate::deployment::Deployment;

pub(super) async fn an_idempotency_key_dedupes_within_its_channel(d: Arc<Deployment>) {
    let (channel, other) = (d.name("dedupe"), d.name("dedupe"));
    let query = format!("channels={channel},{other}");
    let mut listener = d.listen(&query, None).await;
    let event = json!({ "channel": channel, "id": "order-7", "data": "first" });
    let first = d.publish(event.clone()).await;
    assert_eq!((&first["duplicate"], &first["id"]), (&json!(false), &json!("order-7")));
    for _ in 0..3 {
        let again = d.publish(event.clone()).await;
        assert_eq!((&again["duplicate"], &again["position"]), (&json!(true), &first["position"]));
    }
    let elsewhere = d.publish(json!({ "channel": other, "id": "order-7", "data": "second" })).await;
    assert_eq!(elsewhere["duplicate"], false);
    let last = d.publish(json!({ "channel": channel, "id": "order-8", "data": "third" })).await;
    assert_eq!(last["duplicate"], false);
    let mut heard = listener.data(3).await;
    heard.sort();
    assert_eq!(heard, ["first", "second", "third"]);
}

pub(super) async fn durable_says_so(d: Arc<Deployment>) {
    let channel = d.name("durable");
    let answer = d.publish(json!({ "channel": channel, "data": "x", "ack": "durable" })).await;
    assert_eq!(answer["durable"], true, "{answer}");
    let plain = d.publish(json!({ "channel": channel, "data": "x" })).await;
    assert!(plain.get("durable").is_none());
}

pub(super) async fn several_channels_and_arrays_are_answered_in_order(d: Arc<Deployment>) {
    let base = d.name("array");
    let channels: Vec<String> = (0..3).map(|n| format!("{base}.{n}")).collect();
    let mut listener = d.listen(&format!("channels={base}.*&envelope=1"), None).await;
    let answers = d.publish(json!({ "channels": channels, "data": "all", "id": "k" })).await;
    assert_eq!(answers.as_array().unwrap().len(), 3, "{answers}");
    let mut heard = Vec::new();
    for _ in 0..3 {
        heard.push(listener.event().await.json()["channel"].as_str().unwrap().to_owned());
    }
    heard.sort();
    assert_eq!(heard, channels);
    let events: Vec<Value> =
        (0..50).map(|n| json!({ "channel": channels[0], "data": n.to_string() })).collect();
    let answers = d.publish(Value::Array(events)).await;
    let seqs: Vec<u64> =
        answers.as_array().unwrap().iter().map(|a| a["position"]["seq"].as_u64().unwrap()).collect();
    assert!(seqs.is_sorted() && seqs.len() == 50, "{seqs:?}");
}

pub(super) async fn json_data_survive_unharmed(d: Arc<Deployment>) {
    let channel = d.name("json");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    for (data, heard) in [
        (json!({ "z": 1, "a": [true, null, "\u{e9}\n"] }), r#"{"z":1,"a":[true,null,"é\n"]}"#),
        (json!("text, not JSON"), "text, not JSON"),
        (json!(12_345_678_901_234_567_890_u64), "12345678901234567890"),
        (json!(null), "null"),
        (json!([]), "[]"),
    ] {
        d.publish(json!({ "channel": channel, "data": data })).await;
        assert_eq!(listener.data(1).await, [heard]);
    }
}

pub(super) async fn grpc_publishes_one_a_batch_and_a_stream(d: Arc<Deployment>) {
    let channel = d.name("grpc");
    let mut listener = d.listen(&format!("channels={channel}"), None).await;
    let mut publisher = PublisherClient::connect(format!("http://{}", d.grpc())).await.unwrap();
    let event = |data: String| PublishRequest {
        channel: channel.clone(),
        data: data.into(),
        ..PublishRequest::default()
    };
    let one =
        publisher.publish(PublishRequest { ack: Ack::Durable.into(), ..event("0".into()) }).await.unwrap();
    assert!(one.get_ref().durable && one.get_ref().position.is_some());
    let events = (1..10).map(|n| event(n.to_string())).collect();
    let batch = publisher.publish_batch(PublishBatchRequest { events }).await.unwrap().into_inner();
    assert_eq!(batch.results.len(), 9);
    let events: Vec<_> = (10..200).map(|n| event(n.to_string())).collect();
    let mut results = publisher.publish_stream(futures::stream::iter(events)).await.unwrap().into_inner();
    let mut seqs = Vec::new();
    while let Some(result) = results.message().await.unwrap() {
        match result.result {
            Some(publish_result::Result::Ok(ok)) => seqs.push(ok.position.unwrap().seq),
            other => panic!("{other:?}"),
        }
    }
    assert!(seqs.len() == 190 && seqs.is_sorted(), "{seqs:?}");
    let expected: Vec<String> = (0..200).map(|n| n.to_string()).collect();
    assert_eq!(listener.data(200).await, expected);
    let refused = publisher
        .publish(PublishRequest { channel: "a..b".into(), ..PublishRequest::default() })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
    assert!(refused.message().contains("token 2 is empty"), "{refused:?}");
}
