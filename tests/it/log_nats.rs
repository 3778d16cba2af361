//! The event log on PostgreSQL with NATS as its journal: the real cluster's. NATS has its own clock, so
//! what needs time to pass between publishes is left to the other journal.

use std::sync::Arc;

use foghorn_bus::journal::Journal;
use foghorn_bus::log::EventLog;
use foghorn_bus::nats::{Bus, NatsJournal, NatsOptions, Parameters};
use foghorn_bus::policies::SharedPolicies;
use foghorn_core::event::FRAME_BYTES_DEFAULT;
use foghorn_core::policy::Policies;
use foghorn_core::shard::ShardCount;
use foghorn_tests::nats::NatsServer;
use futures::future::BoxFuture;

use crate::log_postgres::{Pg, quiet_on};
use crate::log_suite::{Subject, TestClock};

struct Cluster {
    log: Pg<NatsJournal>,
    _nats: NatsServer,
}

impl Subject for Cluster {
    fn journal(&self) -> &dyn Journal {
        self.log.journal()
    }

    fn log(&self) -> &dyn EventLog {
        self.log.log()
    }

    fn clock(&self) -> &TestClock {
        self.log.clock()
    }

    fn policies(&self) -> &SharedPolicies {
        self.log.policies()
    }

    fn settle(&self) -> BoxFuture<'_, ()> {
        self.log.settle()
    }

    fn retain(&self) -> BoxFuture<'_, ()> {
        self.log.retain()
    }
}

async fn cluster(shards: ShardCount, policies: Policies) -> Cluster {
    let nats = NatsServer::start().await;
    let options = NatsOptions { urls: vec![nats.url()], ..NatsOptions::default() };
    let bus = Bus::connect(options, foghorn_bus::metrics::Metrics::default()).await.unwrap();
    let parameters = Parameters { shards, event_bytes: FRAME_BYTES_DEFAULT };
    let journal = Arc::new(bus.journal(&parameters).await.unwrap());
    let leases = Arc::new(bus.leases().await.unwrap());
    let mut log = quiet_on(journal, Some(leases), policies, TestClock::new()).await;
    log.write();
    Cluster { log, _nats: nats }
}

crate::log_suite::suite!(cluster:
    a_tail_gives_everything_in_order,
    the_journal_is_read_and_searched,
    duplicates_are_recognised,
    a_run_is_stored_in_its_order,
    replays_from_every_position_in_pages_of_every_size,
    pages_are_bounded_in_bytes,
    foreign_cursors_are_reset,
    a_policy_change_loses_nothing_in_silence,
    count_and_ttl_hold_when_reading,
    what_is_not_replayed_is_covered,
    a_ring_is_filled_with_what_is_never_replayed,
    the_newest_of_each_channel,
    history_in_both_directions,
    history_goes_on_past_what_has_expired,
    history_is_bounded_as_it_is_sent,
    committed_means_this_very_event,
    shards_are_apart,
);
