//! What goes wrong, and when.

use std::sync::Arc;
use std::time::Duration;

use foghorn_core::shard::Shard;
use tokio::time::{Instant, sleep};

use crate::cluster::{Cluster, Kind, POLICIES};
use crate::world::{Cause, Weather};

/// Which kinds of faults a run has.
#[derive(Debug, Clone, Copy)]
pub struct Trouble {
    /// The journal may lose what it has acked.
    pub losses: bool,
    /// Retention and purges may take what somebody has not read yet.
    pub purges: bool,
    /// Clocks of processes may jump.
    pub clocks: bool,
    /// The longest pause between two faults, in milliseconds.
    pub pace: u64,
    /// For how long.
    pub lasts: Duration,
}

impl Trouble {
    /// What the dice say.
    pub fn new(cluster: &Cluster) -> Self {
        let world = &cluster.world;
        Trouble {
            losses: world.chance(0.4),
            purges: world.chance(0.4),
            clocks: world.chance(0.3),
            pace: world.one(&[700, 2000, 6000]),
            lasts: Duration::from_secs(world.one(&[10, 20, 40])),
        }
    }
}

const KINDS: [Kind; 3] = [Kind::Gateway, Kind::Fanout, Kind::Log];

/// Makes trouble, and heals everything at the end.
pub async fn make(cluster: Arc<Cluster>, trouble: Trouble) {
    let world = cluster.world.clone();
    let ends = Instant::now() + trouble.lasts;
    let mut backups = Vec::new();
    loop {
        sleep(world.millis(50..trouble.pace)).await;
        if Instant::now() >= ends {
            break;
        }
        let lasts = world.millis(100..6000);
        match world.pick(0..26) {
            0..4 => weather(&cluster, lasts, trouble.purges),
            4..6 => kill(&cluster, lasts),
            6 => terminate(&cluster, lasts),
            7 => stop(&cluster, lasts),
            // Past every lease and deadline.
            8 => stop(&cluster, lasts * 3),
            9..11 => cut_from_nats(&cluster, lasts),
            11 => cut_from_log(&cluster, lasts),
            12..14 => reconnect(&cluster),
            14 => kill_tails(&cluster),
            15 => {
                let (outage, lacks) = (world.millis(0..5000), world.pick(0..4) as u64);
                // Beyond that, looks take it for a loss.
                let for_long = world.millis(50..700);
                if cluster.servers.change_leader(outage, lacks, for_long) {
                    let text =
                        format!("has no leader for {outage:?}, then one that lacks {lacks} for {for_long:?}");
                    world.tell("journal", &text);
                }
            }
            16 => postgres_away(&cluster, lasts),
            17 => {
                let shard = any_shard(&cluster);
                cluster.servers.put_invalid(shard);
            }
            18 if trouble.purges => purge(&cluster, trouble.losses),
            19..21 if trouble.losses => lose(&cluster, &mut backups),
            21 if trouble.losses => put_all_back(&cluster, &mut backups, lasts),
            22 if trouble.clocks => clock_jumps(&cluster),
            23 => {
                let which = world.pick(0..POLICIES);
                world.tell("operator", &format!("policies {which} hold from now on"));
                cluster.change_policies(which);
            }
            24 => lavish(&cluster, lasts),
            _ => {}
        }
    }
    heal(&cluster);
}

/// Everything works again.
pub fn heal(cluster: &Cluster) {
    cluster.world.tell("world", "everything is healed");
    cluster.world.set_weather(|weather| *weather = Weather::default());
    *cluster.postgres_down.lock() = false;
    cluster.bucket.set_lavish(false);
    for kind in KINDS {
        for at in 0..cluster.count(kind) {
            if let Some(process) = cluster.process(kind, at) {
                process.set(|flags| {
                    (flags.stopped, flags.no_nats, flags.no_log) = (false, false, false);
                });
            }
            cluster.start(kind, at);
        }
    }
}

fn any_shard(cluster: &Cluster) -> Shard {
    let shards: Vec<Shard> = cluster.world.shards.shards().collect();
    cluster.world.one(&shards)
}

fn any(cluster: &Cluster) -> (Kind, usize) {
    let kind = cluster.world.one(&KINDS);
    (kind, cluster.world.pick(0..cluster.count(kind)))
}

/// Has `end` happen after a while.
fn later(cluster: &Arc<Cluster>, after: Duration, end: impl FnOnce(&Arc<Cluster>) + Send + 'static) {
    let cluster = cluster.clone();
    tokio::spawn(async move {
        sleep(after).await;
        end(&cluster);
    });
}

fn weather(cluster: &Arc<Cluster>, lasts: Duration, purges: bool) {
    let world = &cluster.world;
    let much = world.one(&[0.02, 0.2, 0.6]);
    let what = world.pick(0..7);
    let slow = world.one(&[20, 200, 900]);
    let set = |weather: &mut Weather, much: f64, slow: u64| match what {
        0 => weather.live_loss = much,
        1 => weather.live_double = much,
        2 => weather.ack_loss = much,
        3 => weather.statement_loss = much / 3.0,
        4 => weather.live_bare = much,
        5 => weather.drops_while_read = much,
        _ => weather.slow = Duration::from_millis(slow),
    };
    if what == 5 && !purges {
        return;
    }
    let name = [
        "batches are lost",
        "batches are doubled",
        "acks are lost",
        "statements fail",
        "batches come without digests",
        "retention drops while somebody reads",
        "slow",
    ][what];
    world.tell("network", &format!("{name} for {lasts:?}"));
    world.set_weather(|weather| set(weather, much, slow));
    later(cluster, lasts, move |cluster| {
        cluster.world.set_weather(|weather| match what {
            0 => weather.live_loss = 0.0,
            1 => weather.live_double = 0.0,
            2 => weather.ack_loss = 0.0,
            3 => weather.statement_loss = 0.0,
            4 => weather.live_bare = 0.0,
            5 => weather.drops_while_read = 0.0,
            _ => weather.slow = Duration::ZERO,
        });
    });
}

fn kill(cluster: &Arc<Cluster>, lasts: Duration) {
    let (kind, at) = any(cluster);
    cluster.kill(kind, at);
    later(cluster, lasts, move |cluster| cluster.start(kind, at));
}

fn terminate(cluster: &Arc<Cluster>, lasts: Duration) {
    let (kind, at) = any(cluster);
    tokio::spawn(cluster.clone().terminate(kind, at));
    later(cluster, lasts + Duration::from_secs(5), move |cluster| cluster.start(kind, at));
}

fn stop(cluster: &Arc<Cluster>, lasts: Duration) {
    let (kind, at) = any(cluster);
    let Some(process) = cluster.process(kind, at) else { return };
    cluster.world.tell(&process.name, &format!("is stopped for {lasts:?}"));
    process.set(|flags| flags.stopped = true);
    later(cluster, lasts, move |_| process.set(|flags| flags.stopped = false));
}

fn cut_from_nats(cluster: &Arc<Cluster>, lasts: Duration) {
    let (kind, at) = any(cluster);
    let Some(process) = cluster.process(kind, at) else { return };
    cluster.world.tell(&process.name, &format!("is cut off from NATS for {lasts:?}"));
    process.set(|flags| flags.no_nats = true);
    later(cluster, lasts, move |_| {
        process.set(|flags| {
            flags.no_nats = false;
            flags.reconnects += 1;
        });
    });
}

fn cut_from_log(cluster: &Arc<Cluster>, lasts: Duration) {
    let (kind, at) = any(cluster);
    let Some(process) = cluster.process(kind, at) else { return };
    let from = if kind == Kind::Log { "PostgreSQL" } else { "the log" };
    cluster.world.tell(&process.name, &format!("is cut off from {from} for {lasts:?}"));
    process.set(|flags| flags.no_log = true);
    later(cluster, lasts, move |_| process.set(|flags| flags.no_log = false));
}

fn reconnect(cluster: &Arc<Cluster>) {
    let (kind, at) = any(cluster);
    let Some(process) = cluster.process(kind, at) else { return };
    cluster.world.tell(&process.name, "reconnects to NATS");
    process.set(|flags| flags.reconnects += 1);
}

fn kill_tails(cluster: &Arc<Cluster>) {
    let at = cluster.world.pick(0..cluster.count(Kind::Fanout));
    let Some(process) = cluster.process(Kind::Fanout, at) else { return };
    cluster.world.tell(&process.name, "tails of dead consumers");
    process.set(|flags| flags.tails_dead += 1);
}

/// A process's clock is set.
fn clock_jumps(cluster: &Arc<Cluster>) {
    let (kind, at) = any(cluster);
    let Some(process) = cluster.process(kind, at) else { return };
    let by = cluster.world.one(&[-600_000, -5_000, 1_500, 100_000, 600_000]);
    cluster.world.tell(&process.name, &format!("has its clock set by {by} ms"));
    cluster.world.note(Cause::ClockJumped);
    process.set(|flags| flags.clock_ms += by);
}

/// Leases are hints: whoever asks for one has it.
fn lavish(cluster: &Arc<Cluster>, lasts: Duration) {
    cluster.world.tell("leases", &format!("are given to whoever asks for {lasts:?}"));
    cluster.bucket.set_lavish(true);
    later(cluster, lasts, |cluster| cluster.bucket.set_lavish(false));
}

fn postgres_away(cluster: &Arc<Cluster>, lasts: Duration) {
    cluster.world.tell("postgres", &format!("is away for {lasts:?}"));
    *cluster.postgres_down.lock() = true;
    later(cluster, lasts, |cluster| *cluster.postgres_down.lock() = false);
}

/// What is old goes: by retention, or out of the journal before the log has it.
fn purge(cluster: &Arc<Cluster>, losses: bool) {
    let world = &cluster.world;
    // What was lost and then purged, nobody can compare.
    if losses || world.chance(0.6) {
        let ahead = Duration::from_secs(world.one(&[70, 110, 150]));
        let gone = cluster.tables.expire(world.now().plus(ahead));
        world.tell("retention", &format!("drops {gone} events"));
        return;
    }
    let shard = any_shard(cluster);
    let (_, first, last) = cluster.servers.bounds(shard);
    let epoch = cluster.servers.record(shard).map(|record| record.epoch);
    let head = cluster.tables.head(shard).filter(|(of, _)| Some(*of) == epoch).map_or(0, |(_, head)| head);
    let through = first + world.pick(0..usize::try_from(last + 1 - first).unwrap_or(0).max(1)) as u64;
    world.tell("journal", &format!("shard {shard} is purged up to {through}, the log has {head}"));
    cluster.servers.purge(shard, through, head);
}

/// The journal, or the log, loses what it had.
fn lose(cluster: &Arc<Cluster>, backups: &mut Vec<Backup>) {
    let world = &cluster.world;
    let shard = any_shard(cluster);
    match world.pick(0..8) {
        0..3 => {
            let (many, (.., last)) = (world.pick(1..15) as u64, cluster.servers.bounds(shard));
            cluster.witness(shard, last.saturating_sub(many));
            let lost = cluster.servers.lose_tail(shard, many);
            world.tell("journal", &format!("shard {shard} loses its last {lost} entries"));
        }
        3 => {
            let with_record = world.chance(0.5);
            world.tell("journal", &format!("shard {shard} is wiped, its epoch's record too: {with_record}"));
            cluster.servers.wipe(shard, with_record);
            if with_record {
                cluster.bucket.wipe();
            }
        }
        4..6 => {
            let found = backups.iter().rev().find_map(|backup| match backup {
                Backup::Journal(of, copy) if *of == shard => Some(copy),
                _ => None,
            });
            let Some(copy) = found else {
                world.tell("journal", &format!("shard {shard} is copied"));
                backups.push(Backup::Journal(shard, Box::new(cluster.servers.copy(shard))));
                return;
            };
            cluster.witness(shard, copy.last());
            let with_record = world.chance(0.3);
            world.tell(
                "journal",
                &format!("shard {shard} is restored, its epoch's record too: {with_record}"),
            );
            cluster.servers.restore(shard, copy, with_record);
        }
        _ => {
            let found = backups.iter().rev().find_map(|backup| match backup {
                Backup::Tables(tables) => Some(tables),
                Backup::Journal(..) | Backup::All(..) => None,
            });
            let Some(tables) = found else {
                world.tell("postgres", "is backed up");
                backups.push(Backup::Tables(Box::new(cluster.tables.backup())));
                return;
            };
            world.tell("postgres", "is restored from its backup");
            world.note(Cause::DatabaseBack);
            cluster.tables.restore(tables);
            return;
        }
    }
    // Servers that lose power lose their connections.
    for kind in KINDS {
        for at in 0..cluster.count(kind) {
            if let Some(process) = cluster.process(kind, at) {
                process.set(|flags| flags.reconnects += 1);
            }
        }
    }
}

/// Journal, epochs and log are put back together, and of the processes that know better only gateways are left,
/// if any.
fn put_all_back(cluster: &Arc<Cluster>, backups: &mut Vec<Backup>, lasts: Duration) {
    let world = &cluster.world;
    // Later copies are of a time that is given up with this. Put back afterwards, what they have may be all that is
    // left to compare: a known limit.
    if let Some(all) = backups.iter().rposition(|backup| matches!(backup, Backup::All(..))) {
        backups.truncate(all + 1);
    }
    let found = backups.iter().rev().find_map(|backup| match backup {
        Backup::All(copies, tables) => Some((copies, tables)),
        _ => None,
    });
    let Some((copies, tables)) = found else {
        world.tell("operator", "backs everything up");
        let copies = world.shards.shards().map(|shard| (shard, cluster.servers.copy(shard))).collect();
        backups.push(Backup::All(copies, Box::new(cluster.tables.backup())));
        return;
    };
    world.tell("operator", "puts everything back");
    for (shard, copy) in copies {
        cluster.witness(*shard, copy.last());
        cluster.servers.restore(*shard, copy, true);
    }
    // It takes longer than a second: epochs are numbered by seconds, and their record is put back too.
    cluster.servers.change_leader(world.millis(1000..3000), 0, Duration::ZERO);
    world.note(Cause::DatabaseBack);
    cluster.tables.restore(tables);
    cluster.bucket.wipe();
    for kind in KINDS {
        for at in 0..cluster.count(kind) {
            if kind != Kind::Gateway || world.chance(0.3) {
                cluster.kill(kind, at);
                let after = world.millis(0..1 + u64::try_from(lasts.as_millis()).unwrap_or(0));
                later(cluster, after, move |cluster| cluster.start(kind, at));
            }
        }
    }
}

enum Backup {
    Journal(Shard, Box<crate::journal::Copy>),
    Tables(Box<foghorn_eventlog::postgres::tables::Backup>),
    All(Vec<(Shard, crate::journal::Copy)>, Box<foghorn_eventlog::postgres::tables::Backup>),
}
