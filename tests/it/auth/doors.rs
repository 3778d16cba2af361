//! The same tokens as metadata of gRPC and as a header over NATS.

use foghorn_rpc::v1::{PublishBatchRequest, PublishRequest, publisher_client::PublisherClient};
use serde_json::{Value, json};
use tonic::metadata::MetadataValue;
use tonic::{Code, Request};

use super::{Issuer, bearer, claims};
use crate::deployment::Cluster;

/// A request with metadata `authorization`.
pub(super) fn of<T>(message: T, authorization: Option<&str>) -> Request<T> {
    let mut request = Request::new(message);
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", MetadataValue::try_from(value).unwrap());
    }
    request
}

fn event(channel: &str) -> PublishRequest {
    PublishRequest { channel: channel.to_owned(), data: "x".into(), ..Default::default() }
}

/// Every door but HTTP's answers alike.
pub(super) async fn check(issuer: &Issuer, cluster: &Cluster) {
    let publisher = bearer(&issuer.token("shop", &json!({ "publish": ["orders.>"] })));
    let expired =
        bearer(&issuer.ec.mint("ec", &claims("shop", -1, &json!({ "publish": ["orders.>"] }))).unwrap());

    let address = format!("http://{}", cluster.fanouts[0].grpc());
    let mut grpc = PublisherClient::connect(address).await.unwrap();
    for (authorization, channel, expected) in [
        (None, "orders.1", Err((Code::Unauthenticated, "unauthenticated"))),
        (Some(expired.as_str()), "orders.1", Err((Code::Unauthenticated, "bad-credential"))),
        (Some(publisher.as_str()), "other", Err((Code::PermissionDenied, "access-denied"))),
        (Some(publisher.as_str()), "orders.1", Ok(())),
    ] {
        let answer = grpc.publish(of(event(channel), authorization)).await.map(|_| ()).map_err(|status| {
            let named =
                status.metadata().get("foghorn-problem").map(|name| name.to_str().unwrap().to_owned());
            (status.code(), named.unwrap_or_default())
        });
        let expected = expected.map_err(|(code, name): (Code, &str)| (code, name.to_owned()));
        assert_eq!(answer, expected, "{channel}");
    }
    let events = vec![event("orders.1"), event("other")];
    let anonymous = grpc.publish_batch(of(PublishBatchRequest { events: events.clone() }, None)).await;
    assert_eq!(anonymous.unwrap_err().code(), Code::Unauthenticated);
    let batch =
        grpc.publish_batch(of(PublishBatchRequest { events: events.clone() }, Some(&publisher))).await;
    let stream = grpc.publish_stream(of(futures::stream::iter(events), Some(&publisher))).await;
    let mut stream = stream.unwrap().into_inner();
    let mut streamed = Vec::new();
    while let Some(result) = stream.message().await.unwrap() {
        streamed.push(result);
    }
    for results in [batch.unwrap().into_inner().results, streamed] {
        use foghorn_rpc::v1::publish_result::Result::{Error, Ok};
        let [one, other] = &results[..] else { panic!("{results:?}") };
        assert!(matches!(one.result, Some(Ok(_))), "{one:?}");
        assert!(matches!(&other.result, Some(Error(error)) if error.code == "access-denied"), "{other:?}");
    }

    let nats = async_nats::connect(cluster.nats.url()).await.unwrap();
    for (authorization, channel, expected) in [
        (None, "orders.1", "unauthenticated"),
        (Some(expired.as_str()), "orders.1", "bad-credential"),
        (Some(publisher.as_str()), "other", "access-denied"),
        (Some(publisher.as_str()), "orders.1", ""),
    ] {
        let mut headers = async_nats::HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert("Authorization", value);
        }
        let subject = format!("foghorn.publish.{channel}");
        let reply = nats.request_with_headers(subject, headers, "x".into()).await.unwrap();
        let reply: Value = serde_json::from_slice(&reply.payload).unwrap();
        let kind = reply["error"]["type"].as_str().unwrap_or_default().rsplit('/').next().unwrap();
        assert_eq!(kind, expected, "{reply}");
        assert_eq!(reply.get("position").is_some(), expected.is_empty(), "{reply}");
    }
}
