//! nchan, a module of nginx that does what a gateway does: compared with where it is installed.

use std::fs;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Where Debian's `libnginx-mod-nchan` puts it.
const MODULE: &str = "/usr/lib/nginx/modules/ngx_nchan_module.so";
/// How long it may take to start.
const START_DEADLINE: Duration = Duration::from_secs(10);

/// Whether there is one.
pub(super) fn is_installed() -> bool {
    Path::new(MODULE).is_file()
}

/// nginx with one worker, which does the work, and its folder.
pub(super) struct Nchan {
    child: Child,
    folder: PathBuf,
    pub(super) worker: u32,
    pub(super) address: SocketAddr,
}

impl Nchan {
    /// Starts it on one core.
    pub(super) fn start(core: usize) -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("foghorn-bench-nchan-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        // Free a moment ago: nginx can't say which it took.
        let address = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?;
        fs::write(folder.join("nginx.conf"), configuration(address))?;
        let child = Command::new("taskset")
            .args(["-c", &core.to_string(), "nginx", "-c", "nginx.conf", "-e", "stderr", "-p"])
            .arg(&folder)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("can't start nginx with taskset (of util-linux)")?;
        let mut nchan = Nchan { child, folder, worker: 0, address };
        let deadline = Instant::now() + START_DEADLINE;
        while TcpStream::connect(address).is_err() || !nchan.has_worker()? {
            ensure!(Instant::now() < deadline, "nginx with nchan did not start within {START_DEADLINE:?}");
            thread::sleep(Duration::from_millis(10));
        }
        Ok(nchan)
    }

    fn has_worker(&mut self) -> anyhow::Result<bool> {
        let master = self.child.id();
        let children = fs::read_to_string(format!("/proc/{master}/task/{master}/children"))?;
        self.worker = children.split(' ').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        Ok(self.worker != 0)
    }
}

impl Drop for Nchan {
    fn drop(&mut self) {
        // Killed, it would leave its worker behind.
        let master = Pid::from_raw(self.child.id().cast_signed());
        let ended =
            kill(master, Signal::SIGTERM).map_err(std::io::Error::from).and_then(|()| self.child.wait());
        if let Err(error) = ended.and_then(|_| fs::remove_dir_all(&self.folder)) {
            eprintln!("could not end nginx {master} and clear {}: {error}", self.folder.display());
        }
    }
}

/// Messages are kept as by default; nothing is logged, and nobody is sent away.
fn configuration(address: SocketAddr) -> String {
    format!(
        "daemon off; worker_processes 1; load_module {MODULE}; error_log stderr error; pid nginx.pid;\n\
         events {{ worker_connections 19900; }}\n\
         http {{\n\
         access_log off; keepalive_requests 1000000;\n\
         client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;\n\
         uwsgi_temp_path uwsgi; scgi_temp_path scgi;\n\
         server {{\n\
         listen {address} backlog=4096;\n\
         location = /api/events {{ nchan_subscriber eventsource; nchan_channel_id $arg_channels; \
         nchan_subscriber_first_message newest; nchan_subscriber_timeout 0; nchan_eventsource_ping_interval 0; }}\n\
         location = /api/publish {{ nchan_publisher; nchan_channel_id $arg_channels; \
         nchan_message_buffer_length 100; }}\n\
         }}\n}}\n"
    )
}
