//! What all processes of a cluster must have alike.

use serde::{Deserialize, Serialize};

use foghorn_core::shard::ShardCount;

use super::api::ApiError;
use super::bucket::{Bucket, Put};
use super::setup::patiently;
use super::{Bus, BusError};

const BUCKET: &str = "FOGHORN_cluster";
const KEY: &str = "parameters";
const VERSION: u32 = 1;

/// Parameters that decide where an event goes and whether it is valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parameters {
    /// How many shards.
    pub shards: ShardCount,
    /// The most bytes an event may take as an encoded frame.
    pub event_bytes: usize,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Stored {
    version: u32,
    shards: u8,
    event_bytes: usize,
}

/// Compares with what the cluster has, or sets it as the first.
pub(super) async fn agree(bus: &Bus, parameters: &Parameters) -> Result<(), BusError> {
    let bucket = Bucket::new(bus.0.api.clone(), BUCKET, bus.0.options.replicas);
    let ours =
        Stored { version: VERSION, shards: parameters.shards.get(), event_bytes: parameters.event_bytes };
    let (bucket, ours) = (&bucket, &ours);
    patiently("read the cluster's parameters", &bus.0.metrics, || async move {
        bucket.ensure().await?;
        let record = bucket.get::<Stored>(KEY).await?;
        match record.value {
            Some(theirs) => Ok(compare(ours, &theirs)),
            None if record.absent => match bucket.put(KEY, ours, record.revision).await? {
                Put::Done(_) => Ok(Ok(())),
                // Another was first. A leader refuses the second while it has yet to store the first, so what
                // was set may not be there to read yet.
                Put::Conflict => Err(ApiError::Unreachable("another process is setting them".to_owned())),
            },
            None => Ok(Err(unreadable())),
        }
    })
    .await?
}

fn compare(ours: &Stored, theirs: &Stored) -> Result<(), BusError> {
    let differ = if ours.version != theirs.version {
        format!(
            "the cluster's parameters are of version {}, this binary knows version {}; run one version of Foghorn",
            theirs.version, ours.version
        )
    } else if ours.shards != theirs.shards {
        format!(
            "this process is configured for {} shards, the cluster runs {}; configure {1} here, or stop every \
             process and delete the key {KEY} of the NATS bucket {BUCKET} to begin anew with {0}, upon which \
             every listener is reset",
            ours.shards, theirs.shards
        )
    } else if ours.event_bytes != theirs.event_bytes {
        format!(
            "this process is configured for events of at most {} bytes, the cluster runs {}; configure {1} here, \
             or stop every process and delete the key {KEY} of the NATS bucket {BUCKET} to change it for all",
            ours.event_bytes, theirs.event_bytes
        )
    } else {
        return Ok(());
    };
    Err(BusError::Parameters(differ))
}

fn unreadable() -> BusError {
    let text = "isn't readable; delete it if no other version of Foghorn runs here";
    BusError::Parameters(format!("the key {KEY} of the NATS bucket {BUCKET} {text}"))
}
