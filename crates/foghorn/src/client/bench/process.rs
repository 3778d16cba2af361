//! What a server's process uses, from /proc.

use std::io::{self, Write};

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Clock ticks a second in /proc/PID/stat: USER_HZ, 100 wherever Foghorn runs.
const TICKS: f64 = 100.0;

/// A process at a moment.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Usage {
    pub(super) pid: u32,
    /// In user and kernel, since it began.
    pub(super) cpu_seconds: f64,
    /// In user alone.
    pub(super) user_seconds: f64,
    pub(super) rss_bytes: u64,
    /// RSS with shared pages counted by share; not readable for other users' processes.
    pub(super) pss_bytes: Option<u64>,
}

/// A process over a time.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Used {
    pub(super) pid: u32,
    pub(super) cpu_seconds: f64,
    pub(super) rss_bytes_before: u64,
    pub(super) rss_bytes: u64,
    pub(super) pss_bytes_before: Option<u64>,
    pub(super) pss_bytes: Option<u64>,
}

/// Looks at each process.
pub(super) fn look(pids: &[u32]) -> anyhow::Result<Vec<Usage>> {
    pids.iter().map(|pid| usage(*pid)).collect()
}

/// CPU time from `from` to `to`, memory at `before` and at `to`.
pub(super) fn used(before: &[Usage], from: &[Usage], to: &[Usage]) -> Vec<Used> {
    let looks = before.iter().zip(from).zip(to);
    looks
        .map(|((before, from), to)| Used {
            pid: to.pid,
            cpu_seconds: to.cpu_seconds - from.cpu_seconds,
            rss_bytes_before: before.rss_bytes,
            rss_bytes: to.rss_bytes,
            pss_bytes_before: before.pss_bytes,
            pss_bytes: to.pss_bytes,
        })
        .collect()
}

/// The same processes over several times: CPU time in all, memory before the first and after the last.
pub(super) fn in_all<'a>(times: impl IntoIterator<Item = &'a [Used]>) -> Vec<Used> {
    let mut all: Vec<Used> = Vec::new();
    for (at, used) in times.into_iter().flat_map(|time| time.iter().enumerate()) {
        match all.get_mut(at) {
            None => all.push(used.clone()),
            Some(sum) => {
                sum.cpu_seconds += used.cpu_seconds;
                (sum.rss_bytes, sum.pss_bytes) = (used.rss_bytes, used.pss_bytes);
            }
        }
    }
    all
}

/// This process's CPU time since it began, in user and kernel. Finer than what /proc tells of others.
pub(super) fn own_cpu_seconds() -> anyhow::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_SELF).context("can't read this process's CPU time")?;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[expect(clippy::cast_precision_loss, reason = "below 2^53")]
fn seconds(time: TimeVal) -> f64 {
    time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6
}

/// Looks at one process.
pub(super) fn usage(pid: u32) -> anyhow::Result<Usage> {
    let read = |file: &str| {
        let path = format!("/proc/{pid}/{file}");
        std::fs::read_to_string(&path).with_context(|| format!("can't read {path}; is --pid {pid} running?"))
    };
    let (stat, status) = (read("stat")?, read("status")?);
    let (user_seconds, kernel_seconds) =
        cpu_seconds(&stat).with_context(|| format!("/proc/{pid}/stat is not as expected"))?;
    let rss_bytes = kilobytes(&status, "VmRSS:").unwrap_or(0);
    let pss_bytes = read("smaps_rollup").ok().and_then(|rollup| kilobytes(&rollup, "Pss:"));
    let cpu_seconds = user_seconds + kernel_seconds;
    Ok(Usage { pid, cpu_seconds, user_seconds, rss_bytes, pss_bytes })
}

/// For people.
pub(super) fn print(out: &mut impl Write, all: &[Used]) -> io::Result<()> {
    let mebibytes = |bytes: u64| bytes >> 20;
    for used in all {
        let Used { pid, cpu_seconds, rss_bytes_before, rss_bytes, .. } = used;
        write!(out, "process {pid:<5} {cpu_seconds:.2} CPU s; memory in MiB, before and after: ")?;
        write!(out, "RSS {} and {}", mebibytes(*rss_bytes_before), mebibytes(*rss_bytes))?;
        if let (Some(before), Some(after)) = (used.pss_bytes_before, used.pss_bytes) {
            write!(out, ", PSS {} and {}", mebibytes(before), mebibytes(after))?;
        }
        writeln!(out)?;
    }
    Ok(())
}

/// In user and in kernel. The process's name, in brackets, may hold anything: counted is from the last bracket.
fn cpu_seconds(stat: &str) -> Option<(f64, f64)> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user / TICKS, system / TICKS))
}

fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_text_is_read() {
        let stat = "42 (a (b) c) S 1 42 42 0 -1 4194560 100 0 0 0 250 150 7 7 20 0 9 0 100 1 2";
        assert_eq!(cpu_seconds(stat), Some((2.5, 1.5)));
        assert_eq!(kilobytes("Name:\tx\nVmRSS:\t    2048 kB\n", "VmRSS:"), Some(2_097_152));
        let this = usage(std::process::id()).unwrap();
        assert!(this.rss_bytes > 0 && this.pss_bytes.is_some());
        assert!(usage(u32::MAX).unwrap_err().to_string().contains("running?"));
    }
}
