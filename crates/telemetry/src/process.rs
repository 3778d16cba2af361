//! What the system knows of this process, under the names that Prometheus's own clients give it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Ticks of `/proc/self/stat` in a second. Linux fixes it for what user space sees.
const TICKS: f64 = 100.0;
/// Bytes in what `/proc/self/status` counts memory in.
const KIB: i64 = 1024;
/// The open files, as a folder.
const OPEN_FILES: &str = "/proc/self/fd";

/// Registers `foghorn_build_info` and `process_…`; what `/proc` doesn't tell is left out.
pub fn register(registry: &mut Registry, version: &'static str) {
    registry.register("foghorn_build", "The version that runs", Info::new([("version", version)]));
    let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs_f64();
    registry.register_collector(Box::new(System { began }));
}

/// Read anew for each scrape.
#[derive(Debug)]
struct System {
    /// In seconds since 1970.
    began: f64,
}

impl Collector for System {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut gauge = |name: &str, help: &str, value: Option<i64>| -> Result<(), std::fmt::Error> {
            let Some(value) = value else { return Ok(()) };
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
        gauge("process_resident_memory_bytes", "Memory that the process occupies.", resident(&status))?;
        gauge("process_open_fds", "Open files and sockets.", open_files())?;
        gauge("process_max_fds", "Files and sockets that may be open.", most_files(&limits))?;
        let began = ConstGauge::new(self.began);
        let help = "When the process began, in seconds since 1970.";
        began.encode(encoder.encode_descriptor(
            "process_start_time_seconds",
            help,
            None,
            began.metric_type(),
        )?)?;
        let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
        if let Some(seconds) = cpu_seconds(&stat) {
            let cpu = ConstCounter::new(seconds);
            let help = "Processor time that the process has taken.";
            cpu.encode(encoder.encode_descriptor("process_cpu_seconds", help, None, cpu.metric_type())?)?;
        }
        Ok(())
    }
}

/// User and system time are the 14th and 15th word; the second, in parentheses, may itself have spaces.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut ticks = after_name.split_whitespace().skip(11).map(str::parse::<u32>);
    Some(f64::from(ticks.next()?.ok()?) / TICKS + f64::from(ticks.next()?.ok()?) / TICKS)
}

fn resident(status: &str) -> Option<i64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?;
    Some(kib.parse::<i64>().ok()?.saturating_mul(KIB))
}

fn most_files(limits: &str) -> Option<i64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The folder's size is their number since Linux 6.2. Listing them has the kernel keep an entry for each, some 2 KiB.
fn open_files() -> Option<i64> {
    match std::fs::metadata(OPEN_FILES).ok()?.len() {
        0 => listed_files(),
        number => i64::try_from(number).ok(),
    }
}

/// The listing itself holds one open.
fn listed_files() -> Option<i64> {
    i64::try_from(std::fs::read_dir(OPEN_FILES).ok()?.count().saturating_sub(1)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 9 0 0 0 250 50 0 0 20 0 8 0 9 1 1";
        assert_eq!(cpu_seconds(stat), Some(3.0));
        assert_eq!(resident("Name:\tx\nVmRSS:\t    2048 kB\n"), Some(2 << 20));
        let limits =
            "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024     4096     files\n";
        assert_eq!(most_files(limits), Some(1024));
        assert_eq!(most_files("Max open files  unlimited unlimited files"), None);
        assert_eq!((cpu_seconds(""), resident("")), (None, None));
    }

    #[test]
    fn open_files_are_counted_without_listing_them() {
        let _open: Vec<_> = (0..100).map(|_| std::fs::File::open("/proc/self/stat").unwrap()).collect();
        // Other tests open and close files meanwhile.
        let (counted, listed) = (open_files().unwrap(), listed_files().unwrap());
        assert!(counted.abs_diff(listed) < 50 && counted >= 100, "{counted}, and {listed} are listed");
    }

    #[test]
    fn this_process_is_shown() {
        let mut registry = Registry::default();
        register(&mut registry, "1.2.3");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        assert!(text.contains("foghorn_build_info{version=\"1.2.3\"} 1\n"), "{text}");
        for name in [
            "process_cpu_seconds_total",
            "process_resident_memory_bytes",
            "process_open_fds",
            "process_start_time_seconds",
        ] {
            assert!(text.lines().any(|line| line.starts_with(&format!("{name} "))), "no {name} in {text}");
        }
    }
}
