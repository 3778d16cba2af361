//! Standalone loses power at any moment. What the real process writes is recorded, call by call, and replayed
//! onto a disk that keeps what was synced, and of the rest nothing, all, or any pieces.
//!
//! Whatever it keeps, the database opens, every event that anybody was told of is there as it was, where it was,
//! and publishing goes on behind it.

mod disk;
mod trace;

use std::collections::HashMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use foghorn_bus::journal::Journal as _;
use foghorn_core::position::Epoch;
use foghorn_core::shard::Shard;
use foghorn_eventlog::sqlite::{SqliteLog, SqliteOptions};
use foghorn_tests::foghorn::Foghorn;
use foghorn_tests::http::post;
use foghorn_tests::sse::SseClient;
use foghorn_tests::wait::until;
use foghorn_tests::{PATIENCE, env};
use futures::StreamExt as _;
use parking_lot::Mutex;
use serde_json::json;
use tempfile::TempDir;

use self::disk::{Disk, Luck};
use self::trace::Step;
use crate::deployment::{Listener, standalone};
use crate::log_suite::{TestClock, new_entry, with_id};

const CHANNEL: &str = "power";
/// Below the root of what is recorded: made by the process itself, one in the other.
const DATA: &str = "var/data";
const LIMIT: Duration = Duration::from_secs(60);
/// Losses of power that are tried; each disk is opened as it is after no luck, much, and some.
const CUTS: usize = 120;

/// Where an event is.
type At = (Epoch, u64);

/// A process's life on a disk.
struct Record {
    folder: TempDir,
    steps: Vec<Step>,
    /// Where each event is that was acked.
    positions: HashMap<usize, At>,
    /// When it was, as long as ids are remembered.
    clock: TestClock,
}

/// What event `number` says; some take several pages of the database.
fn text(number: usize) -> String {
    let most = if number.is_multiple_of(10) { 20_000 } else { 1500 };
    format!("e-{number} {}", "x".repeat(number * number * 131 % most))
}

/// Publishers that try each event until it is acked, as numbers are given out.
#[derive(Debug, Default)]
struct Publishing {
    next: AtomicUsize,
    acked: Mutex<HashMap<usize, At>>,
}

impl Publishing {
    /// Publishes one event after the other until `last` is given out.
    async fn run(&self, url: &str, last: usize) {
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= last {
                return;
            }
            let event = json!({ "channel": CHANNEL, "id": format!("e-{number}"), "data": text(number) });
            let what = format!("an ack for {number}");
            let at = until(&what, LIMIT, async || {
                let reply = post(url, &event).await.ok().filter(|reply| reply.status == 200)?;
                let part = |name: &str| reply.body["position"][name].as_u64().unwrap();
                Some((Epoch::new(part("epoch")), part("seq")))
            });
            let at = at.await;
            self.acked.lock().insert(number, at);
        }
    }
}

impl Record {
    /// Several lives: killed in the middle of a sync, also with several publishers, and stopped in peace.
    async fn take() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (trace, deadly, script) =
            (folder.path().join("trace"), folder.path().join("deadly"), folder.path().join("foghorn"));
        let root = folder.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let commands = format!(
            "#!/bin/sh\nexec {} -f -qq -y -xx -s 1048576 -A -o {} -e trace={} $(cat {}) {} \"$@\"\n",
            env::strace().display(),
            trace.display(),
            trace::CALLS,
            deadly.display(),
            env::foghorn().display(),
        );
        std::fs::write(&script, commands).unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let kill_at = |sync: usize| {
            let inject = match sync {
                0 => String::new(),
                sync => format!("--inject=fsync:signal=SIGKILL:when={sync}"),
            };
            std::fs::write(&deadly, inject).unwrap();
        };
        kill_at(30);
        let data = root.join(DATA).display().to_string();
        let ports = ["--listen", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
        let arguments = [&["standalone", "--data", &data][..], &ports].concat();
        let mut process = Foghorn::spawn_binary(&script, &arguments, &[]).await;
        let url = process.url("/api/publish");
        let listening = tokio::spawn(listen(process.url(&format!("/api/events/{CHANNEL}?since=1h"))));
        let publishing = Arc::new(Publishing::default());

        let publish = async |publishers: usize, last: usize| {
            // Beyond the last one before are those that were not to be published then.
            let acked = publishing.acked.lock().len();
            publishing.next.store(acked, Ordering::SeqCst);
            futures::future::join_all((0..publishers).map(|_| publishing.run(&url, last))).await;
        };
        // At first a single publisher: what it tries again after a kill is the first thing that anybody asks.
        let all = async {
            publish(1, 60).await;
            publish(4, 300).await;
        };
        let kills = async {
            for next in [25, 40, 0] {
                process.wait(LIMIT).await;
                kill_at(next);
                process.restart().await;
            }
        };
        tokio::join!(all, kills);
        process.sigterm();
        assert!(process.wait(PATIENCE).await.success());
        process.restart().await;
        publish(4, 340).await;
        process.kill();
        listening.abort();

        let steps = trace::read(&std::fs::read_to_string(&trace).unwrap(), &root);
        let positions = publishing.acked.lock().clone();
        assert_eq!(positions.len(), 340);
        Record { folder, steps, positions, clock: TestClock::new() }
    }

    /// Lets the disk lose power after each of these numbers of steps, in rising order; what is wrong then.
    async fn lose_power(&self, mut disk: Disk, cuts: &[usize]) -> Vec<String> {
        let root = self.folder.path().join("root");
        let (mut told, mut done) = (Vec::new(), 0);
        let mut images = Vec::new();
        for &cut in cuts {
            for step in &self.steps[done..cut] {
                disk.apply(step);
                if let Step::Told(numbers) = step {
                    told.extend(numbers);
                }
            }
            done = cut;
            let seed = cut as u64;
            for luck in [Luck::Nothing, Luck::Everything, Luck::Some(fastrand::Rng::with_seed(seed))] {
                let image = tempfile::tempdir().unwrap();
                let what = format!("power lost after step {cut}, {luck:?}");
                disk.lose_power(&mut { luck }, &root, image.path());
                images.push((image, what, told.clone()));
            }
            // Before they fill the disk.
            if images.len() >= 12 || cut == *cuts.last().unwrap() {
                let wrong = self.open_all(std::mem::take(&mut images)).await;
                if !wrong.is_empty() {
                    return wrong;
                }
            }
        }
        Vec::new()
    }

    async fn open_all(&self, images: Vec<(TempDir, String, Vec<usize>)>) -> Vec<String> {
        let opened = futures::stream::iter(images).map(async |(image, what, told)| {
            let wrong = self.open(&image.path().join(DATA), &told).await.err()?;
            Some(format!("{what}: {wrong}"))
        });
        opened.buffer_unordered(4).filter_map(futures::future::ready).collect().await
    }

    /// Opens a data directory, of whose events these were told to somebody.
    async fn open(&self, data: &Path, told: &[usize]) -> Result<(), String> {
        let options = SqliteOptions { clock: self.clock.clock(), ..SqliteOptions::at(data) };
        let log = SqliteLog::open(options).await.map_err(|error| error.to_string())?;
        let (mut after, mut events) = (0, HashMap::new());
        let epoch = loop {
            let page =
                log.read(Shard::ZERO, after, 10_000, 1 << 22).await.map_err(|error| error.to_string())?;
            for entry in page.entries {
                let data = entry.event.map_err(|error| error.to_string())?.data.to_string();
                events.insert(entry.seq, data);
            }
            after = page.to;
            if page.to >= page.tip {
                break page.epoch;
            }
        };
        let mut seen: Vec<usize> = Vec::new();
        for (seq, data) in &events {
            let number = data[2..].split(' ').next().unwrap().parse().unwrap();
            if *data != text(number) {
                return Err(format!("seq {seq} has another text"));
            }
            seen.push(number);
        }
        seen.sort_unstable();
        if events.len() as u64 != after || seen.windows(2).any(|two| two[0] == two[1]) {
            return Err(format!("{} events up to seq {after}", events.len()));
        }
        for number in told {
            let (then, seq) = self.positions[number];
            if then != epoch || events.get(&seq) != Some(&text(*number)) {
                return Err(format!("event {number} at {then} {seq} is gone: {after} events of {epoch}"));
            }
        }
        let again = told.last().map(|number| (number, self.positions[number].1));
        for (name, expected, duplicate) in again
            .map(|(number, seq)| (format!("e-{number}"), seq, true))
            .into_iter()
            .chain([("fresh".to_owned(), after + 1, false)])
        {
            let appended = log.append(new_entry(with_id(CHANNEL, "again", &name))).await;
            let appended = appended.map_err(|error| error.to_string())?;
            if (appended.position.seq, appended.duplicate) != (expected, duplicate) {
                return Err(format!("{name} is {appended:?}, not at {expected}"));
            }
        }
        log.close().await;
        Ok(())
    }

    /// Moments at which power is lost: when somebody has just been told something, above all when it is what a
    /// new life says first, for what a killed one has written is not synced by that; and any others.
    fn moments(&self) -> Vec<usize> {
        let mut rng = fastrand::Rng::with_seed(8);
        let (mut after, mut cuts, mut first) = (Vec::new(), Vec::new(), 0);
        for (at, step) in self.steps.iter().enumerate() {
            match step {
                Step::Killed => first = 4,
                Step::Told(_) if first > 0 => {
                    first -= 1;
                    cuts.push(at + 1);
                }
                Step::Told(_) => after.push(at + 1),
                _ => {}
            }
        }
        cuts.extend(rng.choose_multiple(after, CUTS / 2));
        cuts.extend((0..CUTS / 2).map(|_| rng.usize(..=self.steps.len())));
        cuts.sort_unstable();
        cuts.dedup();
        cuts
    }
}

/// Somebody who hears what is stored, in every life of the process.
async fn listen(url: String) {
    loop {
        if let Ok(mut stream) = SseClient::connect(&url, &[]).await {
            while stream.next_within(LIMIT).await.is_ok() {}
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn power_lost_at_any_write_loses_nothing_that_anybody_was_told() {
    let record = Record::take().await;
    let cuts = record.moments();
    let wrong = record.lose_power(Disk::default(), &cuts).await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    // It would be noticed.
    for lies_about in ["foghorn.db-wal", "foghorn.db"] {
        let wrong = record.lose_power(Disk::lying_about(lies_about), &cuts).await;
        assert!(!wrong.is_empty(), "a disk that doesn't sync {lies_about} passes");
    }
    the_whole_process(&record, &cuts).await;
}

/// The same, seen by a client of the whole process.
async fn the_whole_process(record: &Record, cuts: &[usize]) {
    let root = record.folder.path().join("root");
    let (mut disk, mut told, mut done) = (Disk::default(), Vec::new(), 0);
    for part in 1..=3 {
        let cut = cuts[cuts.len() * part / 3 - 1];
        for step in &record.steps[done..cut] {
            disk.apply(step);
            if let Step::Told(numbers) = step {
                told.extend(numbers);
            }
        }
        done = cut;
        let image = tempfile::tempdir().unwrap();
        let mut luck = Luck::Some(fastrand::Rng::with_seed(cut as u64));
        disk.lose_power(&mut luck, &root, image.path());
        let data = image.path().join(DATA).display().to_string();
        let process = standalone(&["--data", &data], &[]).await;
        let listener = Listener::open(&process.url(&format!("/api/events/{CHANNEL}?since=1h")), None).await;
        let heard = listener.replayed_data();
        for number in &told {
            assert!(heard.contains(&text(*number).as_str()), "event {number} is gone after step {cut}");
        }
        let event = json!({ "channel": CHANNEL, "data": "more" });
        assert_eq!(post(&process.url("/api/publish"), &event).await.unwrap().status, 200);
    }
}
