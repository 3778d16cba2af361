//! nginx, with the product's configuration or any other.

use std::path::Path;

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::port::Port;
use crate::process::{Process, Program};
use crate::{PATIENCE, env, tls};

/// A running nginx, under whoever runs the test.
#[derive(Debug)]
pub struct Nginx {
    process: Process,
    port: Port,
    folder: TempDir,
    scheme: &'static str,
}

/// What nginx would otherwise write to the system's folders. For an `http` block.
const TEMPORARY: &str = "
client_body_temp_path client_body;
proxy_temp_path proxy;
fastcgi_temp_path fastcgi;
uwsgi_temp_path uwsgi;
scgi_temp_path scgi;
";

impl Nginx {
    /// nginx with `configuration`, a whole nginx.conf but for `user`, `pid` and `daemon`. In it stand `{port}` for the
    /// port to listen on, `{dir}` for nginx's folder, which has `cert.pem` and `key.pem`, and `{temporary}`, in the
    /// `http` block, for where nginx keeps its temporary files.
    pub async fn start(configuration: &str) -> Self {
        let (folder, port) = (folder(), Port::lease());
        let filled = configuration
            .replace("{port}", &port.number().to_string())
            .replace("{dir}", &folder.path().display().to_string())
            .replace("{temporary}", TEMPORARY);
        write(&folder, "nginx.conf", &filled);
        let scheme = if filled.contains("ssl_certificate") { "https" } else { "http" };
        Self::run(folder, port, scheme).await
    }

    /// The product's own configuration, `deploy/nginx`, to the letter, in front of these gateways and fan-outs
    /// (`127.0.0.1:20017`). Only the two files that are there to be replaced are.
    pub async fn foghorn(gateways: &[&str], fanouts: &[&str]) -> Self {
        Self::foghorn_with(gateways, fanouts, &[]).await
    }

    /// The same, also in front of these processes that keep notifications.
    pub async fn foghorn_with(gateways: &[&str], fanouts: &[&str], notifications: &[&str]) -> Self {
        let (folder, port) = (folder(), Port::lease());
        for (name, shipped) in [("nginx.conf", "foghorn.conf"), ("streams.conf", "streams.conf")] {
            write(&folder, name, &read(&env::checkout().join("deploy/nginx").join(shipped)));
        }
        write(&folder, "upstreams.conf", &upstreams(gateways, fanouts, notifications));
        let listen = format!(
            "listen {} ssl http2;\nssl_certificate cert.pem;\nssl_certificate_key key.pem;\n",
            port.address()
        );
        write(&folder, "listen.conf", &listen);
        Self::run(folder, port, "https").await
    }

    async fn run(folder: TempDir, port: Port, scheme: &'static str) -> Self {
        let program = Program::new(env::nginx())
            .arg("-p")
            .arg(folder.path())
            .arg("-c")
            .arg(folder.path().join("nginx.conf"))
            .args(["-e", "stderr", "-g"])
            .arg(globals(folder.path()))
            // A master that is killed leaves its workers; asked to end, it ends them.
            .farewell(Signal::SIGTERM);
        let process = Process::spawn(program);
        process.wait_for_log_line("start worker process ", PATIENCE).await;
        Self { process, port, folder, scheme }
    }

    /// `https://127.0.0.1:20017<path>`
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.port.address())
    }

    /// Its folder, the `{dir}` of its configuration.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Its process, for the log and for signals: SIGHUP reads the configuration again.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Has it lead to other gateways from now on, as an ingress does that is told of them: it reads its configuration again.
    /// Streams that it has go on where they are. Once only.
    pub async fn lead_to(&self, gateways: &[&str]) {
        write(&self.folder, "upstreams.conf", &upstreams(gateways, &[], &[]));
        self.process.signal(Signal::SIGHUP);
        // Its new workers are there by then.
        self.process.wait_for_log_line("gracefully shutting down", PATIENCE).await;
    }

    /// SIGKILL to master and workers: every connection through it breaks off.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same port, after killing it if it runs.
    pub async fn restart(&mut self) {
        self.process.restart();
        self.process.wait_for_log_line("start worker process ", PATIENCE).await;
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // The master takes its workers along and buries them; killed workers nobody may be there to bury.
        self.process.stop(Signal::SIGTERM);
    }
}

fn folder() -> TempDir {
    let folder = tempfile::Builder::new().prefix("foghorn-test-nginx-").tempdir();
    let folder = folder.expect("a temporary folder can be made");
    write(&folder, "cert.pem", &tls::certificate_pem());
    write(&folder, "key.pem", &tls::key_pem());
    folder
}

fn upstreams(gateways: &[&str], fanouts: &[&str], notifications: &[&str]) -> String {
    format!(
        "{}{}{}{TEMPORARY}",
        upstream("gateway", gateways),
        upstream("fanout", fanouts),
        upstream("notifications", notifications)
    )
}

/// What depends on how nginx is run, as opposed to what for.
fn globals(folder: &Path) -> String {
    let pid = folder.join("nginx.pid");
    // Root's workers would be nobody, who cannot get into the folder.
    let user = if nix::unistd::geteuid().is_root() { "user root;" } else { "" };
    // At this level it tells when it is ready.
    format!("daemon off; pid {}; error_log stderr notice; {user}", pid.display())
}

fn upstream(name: &str, servers: &[&str]) -> String {
    // nginx wants one; nothing answers on port 9.
    let servers = if servers.is_empty() { &["127.0.0.1:9"] } else { servers };
    let servers: String =
        servers.iter().map(|server| format!("    server {server} max_fails=0;\n")).collect();
    format!("upstream {name} {{\n    least_conn;\n{servers}}}\n")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("reading {}: {error}", path.display()))
}

fn write(folder: &TempDir, name: &str, text: &str) {
    let path = folder.path().join(name);
    std::fs::write(&path, text).unwrap_or_else(|error| panic!("writing {}: {error}", path.display()));
}
