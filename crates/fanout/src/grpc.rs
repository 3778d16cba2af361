//! The gRPC door: `foghorn.v1.Publisher`.

use std::sync::Arc;

use foghorn_auth::Requester;
use foghorn_core::event::Ttl;
use foghorn_core::trace::TraceContext;
use foghorn_rpc::v1::publisher_server::PublisherServer;
use foghorn_rpc::v1::{self, publish_result};
use foghorn_telemetry::traces::carried;
use futures::stream::{self, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

use crate::error::PublishError;
use crate::grpc_stream;
use crate::http::CHECKED_AT_A_TIME;
use crate::pipeline::{Answer, Pipeline};
use crate::publish::{Ack, Door, PublishInput, Published, Publisher, Target};

/// What gRPC health knows the service as.
pub const SERVICE: &str = "foghorn.v1.Publisher";

/// `foghorn.v1.Publisher`, to be added to the routes of [`foghorn_rpc::serve`].
pub fn publisher(publisher: Arc<Publisher>) -> PublisherServer<GrpcDoor> {
    let most = publisher.config.body_bytes;
    PublisherServer::new(GrpcDoor { publisher }).max_decoding_message_size(most)
}

/// The service behind [`publisher`].
pub struct GrpcDoor {
    publisher: Arc<Publisher>,
}

impl GrpcDoor {
    /// Who calls, if they may publish at all.
    async fn requester(&self, metadata: &MetadataMap) -> Result<Requester, Status> {
        let auth = &self.publisher.auth;
        let caller = auth.patiently(|| auth.caller_of_service(metadata.as_ref())).await;
        let caller = caller.map_err(PublishError::from);
        let caller = caller.and_then(|caller| self.publisher.check_may(&caller).map(|()| caller));
        let caller = caller.map_err(|error| self.refuse(&error))?;
        Ok(Requester::new(caller, auth.context(metadata.as_ref(), None)))
    }

    fn refuse(&self, error: &PublishError) -> Status {
        self.publisher.refused(Door::Grpc, error);
        error.to_status()
    }
}

#[tonic::async_trait]
impl v1::publisher_server::Publisher for GrpcDoor {
    async fn publish(
        &self,
        request: Request<v1::PublishRequest>,
    ) -> Result<Response<v1::PublishResponse>, Status> {
        self.publisher.check_open().map_err(|error| self.refuse(&error))?;
        let by = self.requester(request.metadata()).await?;
        let trace = trace_of(&request);
        let request = request.into_inner();
        self.publisher.check_rate(&by.caller, 1).map_err(|error| self.refuse(&error))?;
        let _room = self.publisher.room(1, request.data.len()).await.map_err(|error| self.refuse(&error))?;
        let input = input(request, trace).map_err(|error| self.refuse(&error))?;
        let published = self.publisher.publish(Door::Grpc, &by, input).await;
        let published = published.map_err(|error| error.to_status())?;
        Ok(Response::new(response(&published)))
    }

    async fn publish_batch(
        &self,
        request: Request<v1::PublishBatchRequest>,
    ) -> Result<Response<v1::PublishBatchResponse>, Status> {
        self.publisher.check_open().map_err(|error| self.refuse(&error))?;
        let by = self.requester(request.metadata()).await?;
        let trace = trace_of(&request);
        let events = request.into_inner().events;
        let most = self.publisher.config.batch_events;
        if events.len() > most {
            let what = format!("{} events in one batch; at most {most} are taken", events.len());
            return Err(self.refuse(&PublishError::too_large("too-many-events", what)));
        }
        self.publisher.check_rate(&by.caller, events.len()).map_err(|error| self.refuse(&error))?;
        let bytes = events.iter().map(|event| event.data.len()).sum();
        let _room = self.publisher.room(events.len(), bytes).await.map_err(|error| self.refuse(&error))?;
        let checked =
            stream::iter(events).map(|event| grpc_stream::check(&self.publisher, &by, event, trace));
        let checked = checked.buffered(CHECKED_AT_A_TIME).collect().await;
        let answers = Pipeline::run(self.publisher.clone(), Door::Grpc, checked).await;
        Ok(Response::new(v1::PublishBatchResponse { results: answers.iter().map(result).collect() }))
    }

    type PublishStreamStream = ReceiverStream<Result<v1::PublishResult, Status>>;

    async fn publish_stream(
        &self,
        request: Request<Streaming<v1::PublishRequest>>,
    ) -> Result<Response<Self::PublishStreamStream>, Status> {
        self.publisher.check_open().map_err(|error| self.refuse(&error))?;
        let by = self.requester(request.metadata()).await?;
        let trace = trace_of(&request);
        let (sender, answers) = tokio::sync::mpsc::channel(16);
        tokio::spawn(grpc_stream::run(self.publisher.clone(), by, request.into_inner(), trace, sender));
        Ok(Response::new(ReceiverStream::new(answers)))
    }
}

fn trace_of<T>(request: &Request<T>) -> Option<TraceContext> {
    carried(request.metadata().as_ref())
}

/// A request as input. proto3 knows no absence of texts: empty is not given.
pub(crate) fn input(
    request: v1::PublishRequest,
    traceparent: Option<TraceContext>,
) -> Result<PublishInput, PublishError> {
    let v1::PublishRequest { channel, user, event, data, id, ttl_seconds, ack } = request;
    let target = match (channel.is_empty(), user.is_empty()) {
        (false, true) => Target::Channel(channel.into()),
        (true, false) => Target::User(user.into()),
        (true, true) => {
            let what = "channel: is missing: say where the event goes with channel or user";
            return Err(PublishError::invalid("bad-event", what).at("channel"));
        }
        (false, false) => {
            return Err(
                PublishError::invalid("bad-event", "channel: give channel or user, not both").at("channel")
            );
        }
    };
    let given = |text: String| if text.is_empty() { None } else { Some(text.into()) };
    let ack = match v1::Ack::try_from(ack) {
        Ok(v1::Ack::Unspecified | v1::Ack::Accepted) => Ack::Accepted,
        Ok(v1::Ack::Durable) => Ack::Durable,
        Err(_) => {
            let what = format!("ack: {ack} is no ack class; it is ACK_ACCEPTED or ACK_DURABLE");
            return Err(PublishError::invalid("bad-ack", what).at("ack"));
        }
    };
    let ttl = match ttl_seconds {
        0 => None,
        seconds => Some(Ttl::new(u64::from(seconds))?),
    };
    Ok(PublishInput { target, event: given(event), data, id: given(id), ttl, ack, traceparent })
}

pub(crate) fn result(answer: &Answer) -> v1::PublishResult {
    let result = match answer {
        Ok(published) => publish_result::Result::Ok(response(published)),
        Err(error) => publish_result::Result::Error(v1::PublishError {
            code: error.code.to_owned(),
            message: error.message.clone(),
            retryable: error.retryable,
        }),
    };
    v1::PublishResult { result: Some(result) }
}

fn response(published: &Published) -> v1::PublishResponse {
    let position = published.position;
    v1::PublishResponse {
        position: Some(v1::Position {
            shard: u32::from(position.shard.get()),
            epoch: position.epoch.get(),
            seq: position.seq,
        }),
        duplicate: published.duplicate,
        durable: published.durable.unwrap_or(false),
    }
}

#[cfg(test)]
mod tests;
