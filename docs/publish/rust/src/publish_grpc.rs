//! Publishes an event over gRPC.
//!
//! ```sh
//! FOGHORN_TOKEN=… publish-grpc http://127.0.0.1:50051 orders.eu.42 paid payment-7781 '{"amount":990}'
//! ```

use std::time::Duration;

use anyhow::{Result, bail};
use foghorn::publisher_client::PublisherClient;
use foghorn::{PublishRequest, PublishResponse};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

/// What `tonic-prost-build` makes of `foghorn/v1/foghorn.proto`. In a program of your own it is made by a `build.rs`,
/// and `tonic::include_proto!("foghorn.v1")` stands here.
#[allow(dead_code, missing_docs, unreachable_pub, clippy::all, reason = "generated")]
mod foghorn {
    include!("../../../../crates/rpc/src/generated/foghorn.v1.rs");
}

const ATTEMPTS: u32 = 6;
const DEADLINE: Duration = Duration::from_secs(25);

#[tokio::main]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [address, channel, event, id, data] = &arguments[..] else {
        bail!("usage: publish-grpc URL CHANNEL EVENT ID DATA");
    };
    // Connects when there is something to send, so that it tries again where there is nobody yet.
    let mut publisher = PublisherClient::new(Endpoint::from_shared(address.clone())?.connect_lazy());
    let event = PublishRequest {
        channel: channel.clone(),
        event: event.clone(),
        id: id.clone(),
        data: data.clone().into_bytes().into(),
        ..PublishRequest::default()
    };
    let at = publish(&mut publisher, &event).await?.position.unwrap_or_default();
    println!("stored at {}/{}/{}", at.shard, at.epoch, at.seq);
    Ok(())
}

/// The answer, or the error of the last attempt.
async fn publish(
    publisher: &mut PublisherClient<Channel>,
    event: &PublishRequest,
) -> Result<PublishResponse> {
    let mut attempt = 0;
    loop {
        let answer = tokio::time::timeout(DEADLINE, publisher.publish(request(event)?)).await;
        let status = match answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time"))) {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => status,
        };
        attempt += 1;
        // After these the same request may succeed. The id keeps it from being published twice.
        let retryable = [Code::Unavailable, Code::DeadlineExceeded, Code::ResourceExhausted];
        if !retryable.contains(&status.code()) || attempt == ATTEMPTS {
            return Err(status.into());
        }
        let bound = Duration::from_millis(100 << attempt).min(Duration::from_secs(5));
        tokio::time::sleep(bound.mul_f64(fastrand::f64())).await;
    }
}

fn request(event: &PublishRequest) -> Result<Request<PublishRequest>> {
    let mut request = Request::new(event.clone());
    if let Ok(token) = std::env::var("FOGHORN_TOKEN") {
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse()?);
    }
    Ok(request)
}
