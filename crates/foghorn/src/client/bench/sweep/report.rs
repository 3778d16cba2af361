//! The result of `foghorn bench sweep`.

use std::fmt;
use std::io::Write as _;

use serde::Serialize;

use super::Args;
use super::audience::Heard;
use crate::client::bench::rounds::Spread;

/// One turn of one server.
#[derive(Debug, Clone)]
pub(super) struct Row {
    /// Deliveries per CPU second of the server's process.
    pub(super) per_cpu_second: f64,
    /// Writes per CPU second of the threads that write. A server that is interrupted more sweeps more slowly,
    /// writes more at a time, and so has more deliveries for its CPU time; and publishing costs a server
    /// what it doesn't cost a bare loop.
    pub(super) writes_per_cpu_second: f64,
    /// User CPU time of a delivery, in microseconds.
    pub(super) user_micros: f64,
    pub(super) per_second: f64,
    /// User-space memory by which an idle stream makes the server grow.
    pub(super) idle_bytes: f64,
    pub(super) missing: u64,
    pub(super) heard: Heard,
}

impl Row {
    #[expect(clippy::cast_precision_loss, reason = "below 2^53: microseconds")]
    fn millis(&self, quantile: f64) -> f64 {
        self.heard.latencies.value_at_quantile(quantile) as f64 / 1000.0
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { per_cpu_second, user_micros, idle_bytes, .. } = self;
        let (p50, p99) = (self.millis(0.5), self.millis(0.99));
        write!(f, "{per_cpu_second:.0} deliveries per CPU second, {user_micros:.2} us of it user each, ")?;
        write!(f, "p50 {p50:.1} ms, p99 {p99:.1} ms; {idle_bytes:.0} bytes an idle stream")
    }
}

/// All turns of one server.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Summary {
    per_cpu_second: Spread,
    writes_per_cpu_second: Spread,
    user_micros: Spread,
    per_second: Spread,
    p50_ms: Spread,
    p99_ms: Spread,
    max_ms: Spread,
    idle_bytes: Spread,
    missing: u64,
    disordered: u64,
}

impl Summary {
    fn of(rows: &[Row]) -> anyhow::Result<Self> {
        let spread = |figure: &dyn Fn(&Row) -> f64| Spread::of(rows.iter().map(figure));
        Ok(Summary {
            per_cpu_second: spread(&|row| row.per_cpu_second)?,
            writes_per_cpu_second: spread(&|row| row.writes_per_cpu_second)?,
            user_micros: spread(&|row| row.user_micros)?,
            per_second: spread(&|row| row.per_second)?,
            p50_ms: spread(&|row| row.millis(0.5))?,
            p99_ms: spread(&|row| row.millis(0.99))?,
            max_ms: spread(&|row| row.millis(1.0))?,
            idle_bytes: spread(&|row| row.idle_bytes)?,
            missing: rows.iter().map(|row| row.missing).sum(),
            disordered: rows.iter().map(|row| row.heard.disordered).sum(),
        })
    }

    fn is_exact(&self) -> bool {
        self.missing == 0 && self.disordered == 0
    }
}

/// What came out.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    rounds: usize,
    connections: usize,
    events: usize,
    rate: u32,
    foghorn: Summary,
    bare: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    nchan: Option<Summary>,
    /// Of deliveries per CPU second.
    ratio: Spread,
    /// Of writes per CPU second of the threads that write.
    write_ratio: Spread,
    /// Of deliveries per CPU second, to nchan's.
    #[serde(skip_serializing_if = "Option::is_none")]
    nchan_ratio: Option<Spread>,
}

impl Report {
    pub(super) fn of(args: &Args, ours: &[Row], bare: &[Row], nchan: &[Row]) -> anyhow::Result<Self> {
        let ratio = |theirs: &[Row], figure: &dyn Fn(&Row) -> f64| {
            Spread::of(ours.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
        };
        Ok(Report {
            rounds: args.pinned.rounds,
            connections: args.connections,
            events: args.events,
            rate: args.rate,
            foghorn: Summary::of(ours)?,
            bare: Summary::of(bare)?,
            nchan: (!nchan.is_empty()).then(|| Summary::of(nchan)).transpose()?,
            ratio: ratio(bare, &|row| row.per_cpu_second)?,
            write_ratio: ratio(bare, &|row| row.writes_per_cpu_second)?,
            nchan_ratio: (!nchan.is_empty()).then(|| ratio(nchan, &|row| row.per_cpu_second)).transpose()?,
        })
    }

    /// Whether everybody heard everything, in order.
    pub(super) fn is_exact(&self) -> bool {
        self.foghorn.is_exact() && self.bare.is_exact()
    }

    /// For people, or as JSON.
    pub(super) fn print(&self, json: bool) -> anyhow::Result<()> {
        let mut out = std::io::stdout().lock();
        if json {
            serde_json::to_writer(&mut out, self)?;
            return Ok(writeln!(out)?);
        }
        let Report { rounds, connections, events, rate, ratio, write_ratio, .. } = self;
        let pace = if *rate == 0 { "one at a time".to_owned() } else { format!("{rate} a second") };
        writeln!(out, "events     {events}, {pace}, to {connections} listeners; {rounds} rounds")?;
        let nchan = self.nchan.as_ref().map(|side| ("nchan", side));
        for (name, side) in [("foghorn", &self.foghorn), ("bare loop", &self.bare)].into_iter().chain(nchan) {
            let Summary { per_cpu_second, user_micros, per_second, p50_ms, p99_ms, max_ms, .. } = side;
            writeln!(out, "{name:<10} {per_cpu_second} deliveries per CPU second, {per_second}/s")?;
            let writes = side.writes_per_cpu_second;
            writeln!(
                out,
                "           {writes} writes per CPU second, {user_micros:.2} us of user CPU time a delivery"
            )?;
            writeln!(out, "           p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, longest {max_ms:.1} ms")?;
            let Summary { idle_bytes, missing, disordered, .. } = side;
            writeln!(
                out,
                "           {idle_bytes} bytes an idle stream; {missing} lost, {disordered} disordered"
            )?;
        }
        writeln!(out, "ratio      {ratio:.2} by CPU time; of writes {write_ratio:.2}")?;
        if let Some(ratio) = &self.nchan_ratio {
            writeln!(out, "           {ratio:.2} by CPU time, to nchan")?;
        }
        Ok(())
    }
}
