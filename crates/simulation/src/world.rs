//! What all parts of a run share: its time, its dice, its weather, its story.

use std::fmt::Write as _;
use std::time::Duration;

use foghorn_core::shard::{Shard, ShardCount};
use foghorn_core::time::Timestamp;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::time::{Instant, sleep};

use crate::mutant::Mutant;
use crate::oracle::Violation;

/// When every run begins.
const BEGIN: Timestamp = Timestamp::from_micros(1_767_225_600_000_000);

/// The surroundings of one run.
#[derive(Debug)]
pub struct World {
    /// How many shards there are.
    pub shards: ShardCount,
    /// What is broken on purpose.
    pub mutant: Option<Mutant>,
    began: Instant,
    dice: Mutex<fastrand::Rng>,
    weather: Mutex<Weather>,
    causes: Mutex<Vec<(Duration, Cause)>>,
    wrongs: Mutex<Vec<Violation>>,
    story: Mutex<String>,
    /// Told while it happens too: for runs that never end.
    aloud: bool,
}

/// What somebody may have to be told of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The journal of a shard has no longer what it had after this seq.
    Lost(Shard, u64),
    /// The record of a shard's epoch is what it once was.
    RecordBack(Shard),
    /// Entries up to this seq were purged that the log had not.
    Purged(Shard, u64),
    /// PostgreSQL is what it once was.
    DatabaseBack,
    /// A process's clock has jumped.
    ClockJumped,
}

/// How bad the network is at the moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// What a hop takes at most beyond a millisecond or two.
    pub slow: Duration,
    /// How likely a live batch is lost on its way to a gateway.
    pub live_loss: f64,
    /// How likely it comes twice.
    pub live_double: f64,
    /// How likely it comes without its digests, as where a relay knows none.
    pub live_bare: f64,
    /// How likely the ack of an append is lost.
    pub ack_loss: f64,
    /// How likely a statement fails, before it is carried out or after.
    pub statement_loss: f64,
    /// How likely retention drops what is old while somebody reads.
    pub drops_while_read: f64,
}

impl World {
    /// The surroundings that follow from a seed. To be made within the run's runtime.
    pub fn new(seed: u64, shards: ShardCount, mutant: Option<Mutant>) -> Arc<Self> {
        Arc::new(World {
            shards,
            mutant,
            began: Instant::now(),
            dice: Mutex::new(fastrand::Rng::with_seed(seed ^ 0x0f09_4042)),
            weather: Mutex::default(),
            causes: Mutex::default(),
            wrongs: Mutex::default(),
            story: Mutex::default(),
            aloud: std::env::var_os("FOGHORN_SIMULATION_ALOUD").is_some(),
        })
    }

    /// Whether this is what is broken.
    pub fn is(&self, mutant: Mutant) -> bool {
        self.mutant == Some(mutant)
    }

    /// How long the run has taken.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        BEGIN.plus(self.elapsed())
    }

    /// Notes what somebody may have to be told of.
    pub fn note(&self, cause: Cause) {
        self.causes.lock().push((self.elapsed(), cause));
    }

    /// What somebody may have to be told of, and since when.
    pub fn causes(&self) -> Vec<(Duration, Cause)> {
        self.causes.lock().clone()
    }

    /// Notes what should not be.
    pub fn wrong(&self, who: &str, what: String) {
        self.wrongs.lock().push(Violation { who: who.to_owned(), what });
    }

    /// What should not have been, as far as it was seen while it was.
    pub fn wrongs(&self) -> Vec<Violation> {
        self.wrongs.lock().clone()
    }

    /// The weather now.
    pub fn weather(&self) -> Weather {
        *self.weather.lock()
    }

    /// Changes it.
    pub fn set_weather(&self, change: impl FnOnce(&mut Weather)) {
        change(&mut self.weather.lock());
    }

    /// True with this probability.
    pub fn chance(&self, probability: f64) -> bool {
        probability > 0.0 && self.dice.lock().f64() < probability
    }

    /// A number in the range.
    pub fn pick(&self, range: std::ops::Range<usize>) -> usize {
        self.dice.lock().usize(range)
    }

    /// One of these.
    pub fn one<T: Copy>(&self, of: &[T]) -> T {
        of[self.pick(0..of.len())]
    }

    /// A span in whole milliseconds.
    pub fn millis(&self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.dice.lock().u64(range))
    }

    /// The time that a hop takes.
    pub fn latency(&self) -> Duration {
        let slow = u64::try_from(self.weather.lock().slow.as_millis()).unwrap_or(0);
        self.millis(0..3 + slow)
    }

    /// A hop over the network.
    pub async fn hop(&self) {
        let latency = self.latency();
        if latency.is_zero() {
            tokio::task::yield_now().await;
        } else {
            sleep(latency).await;
        }
    }

    /// Writes a line of the story.
    pub fn tell(&self, who: &str, what: &str) {
        let line = self.line(who, what);
        if self.aloud {
            eprint!("{line}");
        }
        self.story.lock().push_str(&line);
    }

    /// A line as the story has them.
    pub fn line(&self, who: &str, what: &str) -> String {
        let mut line = String::new();
        let at = self.elapsed();
        // A string takes whatever is written.
        let _ok = writeln!(line, "{:>4}.{:03}  {who:<10} {what}", at.as_secs(), at.subsec_millis()).is_ok();
        line
    }

    /// What was told so far.
    pub fn story(&self) -> String {
        self.story.lock().clone()
    }
}
