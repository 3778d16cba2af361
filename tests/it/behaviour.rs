//! What a user is promised, on every backend: one suite over standalone (in-process bus, SQLite) and
//! over a cluster (NATS, PostgreSQL), with one shard and with four; and on HTTP/2 over TLS.

mod bad_input;
mod listening;
mod operations;
mod policies;
mod publishing;
mod resuming;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use futures::future::LocalBoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};

use crate::deployment::Deployment;

/// A named behaviour.
type Scenario = (&'static str, fn(Arc<Deployment>) -> LocalBoxFuture<'static, ()>);

/// Lists functions as scenarios under their own names.
macro_rules! scenarios {
    ($($module:ident :: $name:ident),* $(,)?) => {
        [$((stringify!($name), (|d| Box::pin($module::$name(d))) as fn(Arc<Deployment>) -> LocalBoxFuture<'static, ()>)),*]
    };
}

const SCENARIOS: &[Scenario] = &scenarios![
    listening::a_stream_begins_with_connected_and_says_when_it_is_live,
    listening::events_of_a_channel_come_in_the_order_of_their_acks,
    listening::several_channels_and_patterns_on_one_connection_give_each_event_once,
    listening::data_come_through_line_by_line,
    listening::the_envelope_names_the_channel,
    listening::a_type_filter_lets_only_those_types_pass,
    listening::a_batch_holds_several_events_in_one_block_and_each_can_be_resumed_from,
    listening::broadcast_reaches_everyone_and_a_user_channel_its_user,
    listening::a_quiet_stream_is_kept_alive_with_its_cursor,
    resuming::a_cursor_in_the_ring_is_continued_exactly,
    resuming::a_cursor_older_than_the_ring_is_continued_from_the_log,
    resuming::reconnecting_under_load_loses_and_doubles_nothing,
    resuming::a_listener_may_change_its_gateway,
    resuming::a_keep_alive_moves_the_cursor_of_a_quiet_channel,
    resuming::a_strange_cursor_is_a_reset_and_never_refused,
    resuming::since_and_last_begin_in_the_past_and_a_cursor_wins,
    resuming::history_is_json,
    publishing::an_idempotency_key_dedupes_within_its_channel,
    publishing::durable_says_so,
    publishing::several_channels_and_arrays_are_answered_in_order,
    publishing::json_data_survive_unharmed,
    publishing::grpc_publishes_one_a_batch_and_a_stream,
    policies::a_count_limits_what_is_replayed,
    policies::an_event_past_its_ttl_is_not_replayed,
    policies::a_policy_bounds_the_size_and_names_what_metrics_count,
    // Not beside what fills the ring: what is never replayed is for those who keep up with it.
    policies::of_a_channel_with_latest_who_is_behind_or_batches_gets_the_newest,
    policies::without_replay_nothing_comes_back,
    bad_input::bad_publishes_say_what_is_wrong,
    bad_input::one_bad_event_does_not_spoil_a_batch,
    bad_input::bad_queries_say_what_is_wrong,
    bad_input::other_websites_are_refused,
    operations::health_metrics_and_stats_are_there,
    operations::what_an_operator_erases_of_a_channel_is_no_longer_in_its_history,
];

#[tokio::test(flavor = "multi_thread")]
async fn standalone_with_one_shard() {
    run(Deployment::standalone(1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_with_four_shards() {
    run(Deployment::standalone(4).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn standalone_over_tls_and_http2() {
    run(Deployment::standalone_over_tls(1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_one_shard() {
    run(Deployment::cluster(1).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_four_shards() {
    run(Deployment::cluster(4).await).await;
}

/// Runs every scenario on one deployment, a few at a time; they keep to channels of their own.
async fn run(deployment: Deployment) {
    let deployment = Arc::new(deployment);
    let mut failed = Vec::new();
    // One scenario alone, for whoever looks for a fault.
    let only = std::env::var("FOGHORN_TEST_SCENARIO").unwrap_or_default();
    let scenarios: Vec<_> = SCENARIOS.iter().filter(|(name, _)| name.contains(&only)).collect();
    for some in scenarios.chunks(4) {
        let mut running: FuturesUnordered<_> = some
            .iter()
            .map(|(name, scenario)| {
                let ended = AssertUnwindSafe(scenario(deployment.clone())).catch_unwind();
                async move { (*name, ended.await) }
            })
            .collect();
        while let Some((name, ended)) = running.next().await {
            println!("{} {name}", if ended.is_ok() { "ok    " } else { "FAILED" });
            if ended.is_err() {
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
