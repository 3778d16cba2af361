//! Gateways have fan-outs publish: who comes and goes by requests on `foghorn.presence.<channel>`, and their canaries on
//! `foghorn.canary.<gateway>.<lane>`. They are answered with nothing, or with why not.

use std::time::Duration;

use async_nats::{Request, RequestErrorKind};
use futures::FutureExt as _;
use tokio::time::timeout;

use foghorn_core::channel::Channel;

use super::Bus;
use super::request::NatsRequest;
use crate::Future;
use crate::announce::{AnnounceError, Announcer, Canary};
use crate::gateways::GatewayName;

/// Where those of who listens are sent.
pub(super) const PRESENCE: &str = "foghorn.presence.";
/// Where canaries are.
pub(super) const CANARY: &str = "foghorn.canary.";
/// How long an answer is waited for. A fan-out whose journal doesn't answer takes longer, and then it may be published.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(4);

/// What an answer to a refused one begins with.
const REFUSED: &str = "refused: ";

/// Has a fan-out publish. Cheap to clone.
#[derive(Debug, Clone)]
pub struct NatsAnnouncer(Bus);

impl NatsAnnouncer {
    pub(super) fn new(bus: Bus) -> Self {
        NatsAnnouncer(bus)
    }

    async fn ask(&self, subject: String, data: String) -> Result<(), AnnounceError> {
        let unavailable = |why: &str| AnnounceError::Unavailable(why.to_owned());
        // Not sent into a broken connection: by the time that is back, it may be untrue.
        let client = self.0.0.main.connected_client().ok_or_else(|| unavailable("no connection to NATS"))?;
        let request = Request::new().payload(data.into()).timeout(None);
        match timeout(ANSWER_TIMEOUT, client.send_request(subject, request)).await {
            Ok(Ok(answer)) => read(&answer.payload),
            Ok(Err(error)) if error.kind() == RequestErrorKind::NoResponders => {
                Err(unavailable("no fan-out takes what gateways have published"))
            }
            Ok(Err(error)) => Err(AnnounceError::Unavailable(error.to_string())),
            Err(_) => Err(unavailable("no answer in time")),
        }
    }
}

impl Announcer for NatsAnnouncer {
    fn announce(&self, channel: Channel, data: String) -> Future<'_, Result<(), AnnounceError>> {
        self.ask(format!("{PRESENCE}{channel}"), data).boxed()
    }

    fn canary(&self, canary: Canary) -> Future<'_, Result<(), AnnounceError>> {
        let Canary { gateway, lane, number } = canary;
        self.ask(format!("{CANARY}{gateway}.{lane}"), number.to_string()).boxed()
    }
}

impl NatsRequest {
    /// The canary that it asks for; none when it asks for something else.
    pub fn canary(&self) -> Option<Canary> {
        let (gateway, lane) = self.channel.split_once('.')?;
        let gateway: GatewayName = gateway.parse().ok()?;
        let number = std::str::from_utf8(&self.data).ok()?.parse().ok()?;
        Some(Canary { gateway, lane: lane.parse().ok()?, number })
    }
}

/// What a request is answered with.
pub(super) fn answer(announced: &Result<(), AnnounceError>) -> String {
    match announced {
        Ok(()) => String::new(),
        Err(AnnounceError::Unavailable(why)) => why.clone(),
        Err(AnnounceError::Refused(why)) => format!("{REFUSED}{why}"),
    }
}

fn read(answer: &[u8]) -> Result<(), AnnounceError> {
    if answer.is_empty() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(answer);
    Err(match why.strip_prefix(REFUSED) {
        Some(why) => AnnounceError::Refused(why.to_owned()),
        None => AnnounceError::Unavailable(why.into_owned()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_read_as_it_is_written() {
        let refused = Err(AnnounceError::Refused("no".to_owned()));
        for said in [Ok(()), refused, Err(AnnounceError::Unavailable("later".to_owned()))] {
            assert_eq!(read(answer(&said).as_bytes()), said);
        }
    }
}
