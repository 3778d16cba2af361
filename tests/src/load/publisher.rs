//! A publisher: an event at a time, the same one until it is acked.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::{Connection, PgConnection};
use tokio::time::{Instant, sleep, timeout};

use super::Shared;
use super::door::{Door, Event, Refusal};
use super::ledger::At;

/// An id is remembered for two minutes; an event that takes longer could be stored twice by right.
const PATIENCE: Duration = Duration::from_secs(100);
/// Every so many durable acks one is not believed, but looked for in PostgreSQL.
const LOOK_EVERY: usize = 16;
/// How long PostgreSQL may take to say; one that is down says nothing.
const LOOK: Duration = Duration::from_secs(3);

pub(super) async fn publish(shared: Arc<Shared>, publisher: usize) {
    let mut random = fastrand::Rng::with_seed(shared.plan.seed ^ (publisher as u64) << 32);
    let ledger = &shared.ledger;
    let mut door = Door::new(&shared.addresses, ledger, publisher).await;
    let mut number = 0;
    let mut durables = 0;
    loop {
        sleep(shared.plan.pause.mul_f64(random.f64() * 2.0)).await;
        hold(&shared).await;
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        // What makes it long is of no interest, that events differ in length is.
        let filler = "·".repeat(random.usize(0..400));
        let event = Event {
            channel: ledger.name(publisher),
            id: format!("{}-{number}", ledger.name(publisher)),
            data: format!("{publisher} {number} {} {filler}", ledger.now_ms()),
            durable: random.bool(),
        };
        let Some((at, durable)) = until_acked(&shared, &mut door, &event).await else { return };
        ledger.acked(publisher, number, at, durable);
        if durable {
            durables += 1;
            if usize::is_multiple_of(durables, LOOK_EVERY) {
                look_for(&shared, &event, at).await;
            }
        }
        number += 1;
    }
}

/// Waits while publishers are to wait.
async fn hold(shared: &Shared) {
    if shared.hold.load(Ordering::SeqCst) {
        shared.held.fetch_add(1, Ordering::SeqCst);
        while shared.hold.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(20)).await;
        }
        shared.held.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Where it is in the end, and whether it was acked as durable.
async fn until_acked(shared: &Shared, door: &mut Door, event: &Event<'_>) -> Option<(At, bool)> {
    let begun = Instant::now();
    loop {
        match door.publish(event).await {
            Ok(acked) => {
                return Some((acked.at, acked.durable));
            }
            Err(Refusal::Never(why)) => {
                shared.ledger.violation(&format!("{} was refused: {why}", event.id));
                return None;
            }
            Err(Refusal::Later(why)) => {
                if begun.elapsed() > PATIENCE {
                    shared.ledger.violation(&format!("{} not acked within {PATIENCE:?}: {why}", event.id));
                    return None;
                }
            }
        }
        shared.ledger.tried_again();
        door.turn();
        sleep(Duration::from_millis(100).mul_f64(0.5 + fastrand::f64())).await;
    }
}

/// An event that was acked as durable is in PostgreSQL now.
async fn look_for(shared: &Shared, event: &Event<'_>, at: At) {
    let look = async {
        let mut connection = PgConnection::connect(&shared.addresses.database).await.ok()?;
        let sql = "SELECT count(*) FROM foghorn.events WHERE shard = $1 AND seq = $2 AND id = $3";
        let found: i64 = sqlx::query_scalar(sql)
            .bind(i16::from(at.shard))
            .bind(at.seq.cast_signed())
            .bind(&event.id)
            .fetch_one(&mut connection)
            .await
            .ok()?;
        connection.close().await.ok();
        Some(found)
    };
    match timeout(LOOK, look).await {
        Ok(Some(1)) => shared.ledger.looked_for(),
        Ok(Some(found)) => shared
            .ledger
            .violation(&format!("{} was acked as durable and is {found} times in PostgreSQL", event.id)),
        _ => {}
    }
}
