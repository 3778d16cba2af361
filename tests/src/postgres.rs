//! PostgreSQL.

mod template;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::sys::signal::Signal;
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use tempfile::TempDir;

use crate::PATIENCE;
use crate::env;
use crate::network::Site;
use crate::port::Port;
use crate::process::{Process, Program, others};
use crate::tls::Authority;
use crate::wait::until;

/// A server of our own, which syncs to disk as a real one does, or the one of FOGHORN_TEST_POSTGRES_URL.
#[derive(Debug)]
pub struct PostgresServer(Server);

#[derive(Debug)]
enum Server {
    Ours { process: Box<Process>, address: String, query: String, _port: Port, _data: TempDir },
    Theirs { url: String, created: Mutex<Vec<String>> },
}

impl PostgresServer {
    /// A server, ready, with nothing in it.
    pub async fn start() -> Self {
        if let Some(url) = env::postgres_url() {
            return Self(Server::Theirs { url, created: Mutex::default() });
        }
        Self::start_at(&Site::default()).await
    }

    /// A server of our own at a site, ready, with nothing in it.
    pub async fn start_at(site: &Site) -> Self {
        Self::start_on(template::fresh_data().await, site, &[], String::new()).await
    }

    /// A server of our own that speaks TLS and nothing else, with a certificate by this authority. Its
    /// [`url`](Self::url) says to check that.
    pub async fn start_with_tls(authority: &Authority) -> Self {
        let data = template::fresh_data().await;
        template::put(data.path(), "server.crt", &authority.certificate);
        template::put(data.path(), "server.key", &authority.key);
        template::put(data.path(), "pg_hba.conf", "hostssl all all 127.0.0.1/32 trust\n");
        let ca = template::put(data.path(), "ca.crt", &authority.ca);
        let query = format!("?sslmode=verify-full&sslrootcert={}", ca.display());
        Self::start_on(data, &Site::default(), &["-c", "ssl=on"], query).await
    }

    async fn start_on(data: TempDir, site: &Site, settings: &[&str], query: String) -> Self {
        let port = Port::lease();
        let program = program(data.path(), site.address(), port.number()).args(settings);
        let process = Box::new(Process::spawn(site.place(program)));
        ready(&process).await;
        Self(Server::Ours { process, address: port.at(site), query, _port: port, _data: data })
    }

    /// `postgres://postgres@127.0.0.1:20017/<database>`
    #[must_use]
    pub fn url(&self, database: &str) -> String {
        match &self.0 {
            Server::Ours { address, query, .. } => format!("postgres://postgres@{address}/{database}{query}"),
            Server::Theirs { url, .. } => with_database(url, database),
        }
    }

    /// A new, empty database; gives its name, which no other has.
    pub async fn create_database(&self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("foghorn_test_{}_{}_{count}", std::process::id(), seconds_since_1970());
        let sql = format!("CREATE DATABASE {name}");
        let create = execute(self.url("postgres"), sql);
        tokio::time::timeout(PATIENCE, create)
            .await
            .unwrap_or_else(|_| {
                panic!("{} did not create a database within {PATIENCE:?}", self.url("postgres"))
            })
            .unwrap_or_else(|error| panic!("creating a database in {}: {error}", self.url("postgres")));
        if let Server::Theirs { created, .. } = &self.0 {
            created.lock().expect("no holder panics").push(name.clone());
        }
        name
    }

    /// As a power cut would: SIGKILL to the postmaster and to every process of it, at once, and waits until all
    /// are gone.
    pub fn kill(&mut self) {
        let process = self.ours("killed");
        // Stopped, it can start no more children while we count them. They are not in its process group.
        process.signal(Signal::SIGSTOP);
        let children = others::children(process.pid());
        process.kill();
        assert!(others::kill(&children, PATIENCE), "{}", process.report("is gone, its children are not"));
    }

    /// SIGSTOP to the postmaster and to every process of it: nothing is answered from then on.
    pub fn hang(&mut self) {
        let process = self.ours("stopped");
        process.signal(Signal::SIGSTOP);
        others::signal(&others::children(process.pid()), Signal::SIGSTOP);
    }

    /// SIGCONT, after [`hang`](Self::hang).
    pub fn resume(&mut self) {
        let process = self.ours("resumed");
        others::signal(&others::children(process.pid()), Signal::SIGCONT);
        process.signal(Signal::SIGCONT);
    }

    /// As `pg_ctl stop -m immediate` does: an end at once, without a checkpoint, and waits for it.
    pub fn stop_at_once(&mut self) {
        self.ours("stopped").stop(Signal::SIGQUIT);
    }

    /// A standby that follows this server by way of `upstream`, which leads here; ready to be read from.
    pub async fn standby(&self, upstream: SocketAddr) -> Self {
        let port = Port::lease();
        let data = template::empty_data();
        let (host, upstream_port) = (upstream.ip().to_string(), upstream.port().to_string());
        let copying = Program::new(env::postgres_bin().join("pg_basebackup"))
            .args([
                "-h",
                &host,
                "-p",
                &upstream_port,
                "-U",
                "postgres",
                "-R",
                "-X",
                "stream",
                "-c",
                "fast",
                "-D",
            ])
            .arg(data.path())
            .folder(data.path())
            .user(template::user());
        let copying = Process::spawn(copying);
        let status = copying.wait(PATIENCE).await;
        assert!(status.success(), "{}", copying.report(&format!("failed ({status})")));
        let site = Site::default();
        let process = Process::spawn(program(data.path(), site.address(), port.number()));
        process.wait_for_log_line("ready to accept read-only connections", PATIENCE).await;
        let (process, address) = (Box::new(process), port.at(&site));
        Self(Server::Ours { process, address, query: String::new(), _port: port, _data: data })
    }

    /// `127.0.0.1:20017` of a server of our own.
    pub fn address(&mut self) -> SocketAddr {
        self.ours("connected to");
        match &self.0 {
            Server::Ours { address, .. } => address.parse().expect("an address of ours"),
            Server::Theirs { .. } => unreachable!("it is ours"),
        }
    }

    /// Has a server of our own write every statement to its log from now on, for [`statements`](Self::statements).
    pub async fn log_statements(&mut self) {
        for sql in ["ALTER SYSTEM SET log_statement = 'all'", "SELECT pg_reload_conf()"] {
            execute(self.url("postgres"), sql.to_owned()).await.expect("a superuser may");
        }
        until("a statement in the server's log", PATIENCE, async || {
            (!self.statements().await.is_empty()).then_some(())
        })
        .await;
    }

    /// All statements that the log has by now; empty while it has none.
    pub async fn statements(&mut self) -> String {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let mark = format!("mark {} of the log", COUNT.fetch_add(1, Ordering::Relaxed));
        // A statement is in the log before it is executed: what came before this one is there when it is answered.
        execute(self.url("postgres"), format!("SELECT '{mark}'")).await.expect("anybody may");
        let log = self.ours("read").log();
        log.split_once(&mark).map(|(before, _)| before.to_owned()).unwrap_or_default()
    }

    /// Starts it again on the same port and data, after killing it if it runs.
    pub async fn restart(&mut self) {
        self.kill();
        let process = self.ours("restarted");
        process.restart();
        ready(process).await;
    }

    fn ours(&mut self, what: &str) -> &mut Process {
        match &mut self.0 {
            Server::Ours { process, .. } => process,
            Server::Theirs { url, .. } => {
                panic!("{url} (FOGHORN_TEST_POSTGRES_URL) is not ours to be {what}: unset it for this test")
            }
        }
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        match &mut self.0 {
            // An immediate end, and no child left that would write on to a folder about to be removed.
            Server::Ours { process, .. } => process.stop(Signal::SIGQUIT),
            Server::Theirs { url, created } => {
                let created = std::mem::take(created.get_mut().expect("no holder panics"));
                drop_databases(with_database(url, "postgres"), created);
            }
        }
    }
}

fn program(data: &Path, address: &str, port: u16) -> Program {
    let settings = [
        format!("listen_addresses={address}"),
        format!("port={port}"),
        // Its folder may not be ours to write to, and a file in it would be left behind.
        "unix_socket_directories=".to_owned(),
        "fsync=on".to_owned(),
        // In its own folder, which goes with it: what a killed server leaves in /dev/shm stays there.
        "dynamic_shared_memory_type=mmap".to_owned(),
        "max_connections=200".to_owned(),
    ];
    let settings = settings.iter().flat_map(|setting| ["-c", setting]);
    Program::new(env::postgres_bin().join("postgres"))
        .arg("-D")
        .arg(data)
        .args(settings)
        .folder(data)
        .user(template::user())
        // On SIGQUIT a postmaster ends its children at once; on SIGKILL they would have to notice.
        .farewell(Signal::SIGQUIT)
}

async fn ready(process: &Process) {
    process.wait_for_log_line("database system is ready to accept connections", PATIENCE).await;
}

async fn execute(url: String, sql: String) -> sqlx::Result<()> {
    let mut connection = PgConnection::connect(&url).await?;
    connection.execute(AssertSqlSafe(sql)).await?;
    connection.close().await
}

/// Of somebody's server we leave nothing but what was there. A thread of its own, because there may be no
/// runtime left to wait in.
fn drop_databases(url: String, names: Vec<String>) {
    let work = async move {
        for name in names {
            let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
            if let Err(error) = execute(url.clone(), sql).await {
                eprintln!("{url} keeps database {name}: {error}");
            }
        }
    };
    let limited = async { tokio::time::timeout(PATIENCE, work).await };
    let thread = std::thread::spawn(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(limited)
    });
    if !matches!(thread.join(), Ok(Ok(()))) {
        eprintln!("not all databases of this test could be dropped");
    }
}

/// `url` with another database: the path, between authority and query.
fn with_database(url: &str, database: &str) -> String {
    let (base, query) =
        url.split_once('?').map_or((url, String::new()), |(base, query)| (base, format!("?{query}")));
    let host = base.find("://").map_or(0, |scheme| scheme + 3);
    let server = base[host..].find('/').map_or(base, |slash| &base[..host + slash]);
    format!("{server}/{database}{query}")
}

fn seconds_since_1970() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.expect("the clock is set").as_secs()
}

#[cfg(test)]
mod tests {
    use super::with_database;

    #[test]
    fn the_database_of_a_url_is_replaced() {
        let expected = "postgres://u:p@db:5432/other?sslmode=disable";
        assert_eq!(with_database("postgres://u:p@db:5432/main?sslmode=disable", "other"), expected);
        assert_eq!(with_database("postgres://db", "other"), "postgres://db/other");
    }
}
