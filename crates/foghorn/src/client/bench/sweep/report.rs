//! The result of `foghorn bench sweep`.

use std::fmt;
use std::io::Write;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::audience::Heard;
use super::variant::Variant;
use super::{Args, Rows, quiet};
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
    pub(super) quiet: Option<quiet::Row>,
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53: microseconds")]
fn millis(latencies: &Histogram<u64>, quantile: f64) -> f64 {
    latencies.value_at_quantile(quantile) as f64 / 1000.0
}

impl Row {
    fn millis(&self, quantile: f64) -> f64 {
        millis(&self.heard.latencies, quantile)
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { per_cpu_second, user_micros, idle_bytes, .. } = self;
        let (p50, p99) = (self.millis(0.5), self.millis(0.99));
        write!(f, "{per_cpu_second:.0} deliveries per CPU second, {user_micros:.2} us of it user each, ")?;
        write!(f, "p50 {p50:.1} ms, p99 {p99:.1} ms; {idle_bytes:.0} bytes an idle stream")?;
        if let Some(quiet) = &self.quiet {
            write!(f, "; quiet channel p99 {:.1} ms", millis(&quiet.heard.latencies, 0.99))?;
        }
        Ok(())
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
    p999_ms: Spread,
    max_ms: Spread,
    /// Until the last listener has an event: the median of the events of the first channel.
    last_p50_ms: Spread,
    idle_bytes: Spread,
    missing: u64,
    disordered: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quiet: Option<Quiet>,
}

/// What the quiet channel's listeners noticed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Quiet {
    p50_ms: Spread,
    p99_ms: Spread,
    p999_ms: Spread,
    max_ms: Spread,
    missing: u64,
    disordered: u64,
}

impl Quiet {
    /// Of turns that have such a channel.
    fn of(rows: &[Row]) -> anyhow::Result<Option<Self>> {
        let rows: Vec<_> = rows.iter().filter_map(|row| row.quiet.as_ref()).collect();
        if rows.is_empty() {
            return Ok(None);
        }
        let spread = |quantile| Spread::of(rows.iter().map(|row| millis(&row.heard.latencies, quantile)));
        Ok(Some(Quiet {
            p50_ms: spread(0.5)?,
            p99_ms: spread(0.99)?,
            p999_ms: spread(0.999)?,
            max_ms: spread(1.0)?,
            missing: rows.iter().map(|row| row.missing).sum(),
            disordered: rows.iter().map(|row| row.heard.disordered).sum(),
        }))
    }
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
            p999_ms: spread(&|row| row.millis(0.999))?,
            max_ms: spread(&|row| row.millis(1.0))?,
            last_p50_ms: spread(&|row| row.heard.last_ms())?,
            idle_bytes: spread(&|row| row.idle_bytes)?,
            missing: rows.iter().map(|row| row.missing).sum(),
            disordered: rows.iter().map(|row| row.heard.disordered).sum(),
            quiet: Quiet::of(rows)?,
        })
    }

    /// Of a server that isn't always there.
    fn of_some(rows: &[Row]) -> anyhow::Result<Option<Self>> {
        (!rows.is_empty()).then(|| Summary::of(rows)).transpose()
    }

    fn is_exact(&self) -> bool {
        let quiet = self.quiet.as_ref().is_none_or(|quiet| quiet.missing == 0 && quiet.disordered == 0);
        self.missing == 0 && self.disordered == 0 && quiet
    }

    fn print(&self, name: &str, out: &mut impl Write) -> std::io::Result<()> {
        let Summary { per_cpu_second, writes_per_cpu_second, user_micros, per_second, .. } = self;
        writeln!(out, "{name:<10} {per_cpu_second} deliveries per CPU second, {per_second}/s")?;
        writeln!(
            out,
            "           {writes_per_cpu_second} writes per CPU second, {user_micros:.2} us of user CPU time a delivery"
        )?;
        let Summary { p50_ms, p99_ms, p999_ms, max_ms, last_p50_ms, .. } = self;
        let Summary { idle_bytes, missing, disordered, quiet, .. } = self;
        writeln!(
            out,
            "           p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, p99.9 {p999_ms:.1} ms, longest {max_ms:.1} ms; \
             to the last listener {last_p50_ms:.1} ms"
        )?;
        writeln!(
            out,
            "           {idle_bytes} bytes an idle stream; {missing} lost, {disordered} disordered"
        )?;
        if let Some(Quiet { p50_ms, p99_ms, p999_ms, max_ms, missing, disordered }) = quiet {
            write!(out, "   quiet   p50 {p50_ms:.1} ms, p99 {p99_ms:.1} ms, p99.9 {p999_ms:.1} ms, ")?;
            writeln!(out, "longest {max_ms:.1} ms; {missing} lost, {disordered} disordered")?;
        }
        Ok(())
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
    size: usize,
    variant: Variant,
    foghorn: Summary,
    bare: Summary,
    #[serde(skip_serializing_if = "Option::is_none")]
    nchan: Option<Summary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    axum: Option<Summary>,
    /// Of deliveries per CPU second.
    ratio: Spread,
    /// Of writes per CPU second of the threads that write.
    write_ratio: Spread,
    /// Of deliveries per CPU second, to nchan's.
    #[serde(skip_serializing_if = "Option::is_none")]
    nchan_ratio: Option<Spread>,
    /// Of deliveries per CPU second, to the axum service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    axum_ratio: Option<Spread>,
}

impl Report {
    pub(super) fn of(args: &Args, rows: &Rows) -> anyhow::Result<Self> {
        let Rows { foghorn, bare, nchan, axum } = rows;
        let ratio = |theirs: &[Row], figure: &dyn Fn(&Row) -> f64| {
            Spread::of(foghorn.iter().zip(theirs).map(|(ours, theirs)| figure(ours) / figure(theirs)))
        };
        let some = |theirs: &[Row]| {
            (!theirs.is_empty()).then(|| ratio(theirs, &|row| row.per_cpu_second)).transpose()
        };
        Ok(Report {
            rounds: args.pinned.rounds,
            connections: args.connections,
            events: args.events,
            rate: args.rate,
            size: args.pinned.size,
            variant: args.variant.clone(),
            foghorn: Summary::of(foghorn)?,
            bare: Summary::of(bare)?,
            nchan: Summary::of_some(nchan)?,
            axum: Summary::of_some(axum)?,
            ratio: ratio(bare, &|row| row.per_cpu_second)?,
            write_ratio: ratio(bare, &|row| row.writes_per_cpu_second)?,
            nchan_ratio: some(nchan)?,
            axum_ratio: some(axum)?,
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
        let Report { rounds, connections, events, rate, size, ratio, write_ratio, .. } = self;
        let pace = match rate {
            0 if self.variant.in_one() > 1 => format!("{} at a time", self.variant.in_one()),
            0 => "one at a time".to_owned(),
            rate => format!("{rate} a second"),
        };
        writeln!(
            out,
            "events     {events} of {size} bytes, {pace}, to {connections} listeners; {rounds} rounds"
        )?;
        self.foghorn.print("foghorn", &mut out)?;
        self.bare.print("bare loop", &mut out)?;
        let others = [("nchan", &self.nchan, &self.nchan_ratio), ("axum", &self.axum, &self.axum_ratio)];
        for (name, side, _) in others {
            side.iter().try_for_each(|side| side.print(name, &mut out))?;
        }
        writeln!(out, "ratio      {ratio:.2} by CPU time; of writes {write_ratio:.2}")?;
        for (name, _, ratio) in others {
            ratio
                .iter()
                .try_for_each(|ratio| writeln!(out, "           {ratio:.2} by CPU time, to {name}"))?;
        }
        Ok(())
    }
}
