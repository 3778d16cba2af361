//! A database of the benchmark's own, for one turn: both sides begin with empty tables.

use std::str::FromStr as _;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use reqwest::Url;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use tokio::time::timeout;

/// How long PostgreSQL may take to let us in.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// How long making or dropping a database may take: dropping one waits for a checkpoint.
const DATABASE_DEADLINE: Duration = Duration::from_secs(120);
/// PostgreSQL's code for what one has no right to.
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// A PostgreSQL server on the command line, by one of its databases.
pub(super) fn database_url(text: &str) -> Result<Url, String> {
    let wrong = || "it is postgres://user:password@host:port/database".to_owned();
    let url = Url::parse(text).map_err(|_| wrong())?;
    if !matches!(url.scheme(), "postgres" | "postgresql") || PgConnectOptions::from_str(text).is_err() {
        return Err(wrong());
    }
    Ok(url)
}

/// A database that has to be dropped.
pub(super) struct Scratch {
    server: Url,
    name: String,
    url: Url,
}

impl Scratch {
    /// Makes a database on the server that `server` is a database of.
    pub(super) async fn create(server: &Url) -> anyhow::Result<Self> {
        let name = format!("foghorn_bench_{:08x}", rand::random::<u32>());
        let url = beside(server, &name)?;
        admin(server, format!("CREATE DATABASE {name}")).await.map_err(|error| {
            let code = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
            if code.and_then(|error| error.code()).as_deref() == Some(INSUFFICIENT_PRIVILEGE) {
                anyhow!(
                    "the user of --database may make no databases: it needs CREATEDB (ALTER ROLE … CREATEDB)"
                )
            } else {
                error.context(format!("can't make the database {name}"))
            }
        })?;
        Ok(Scratch { server: server.clone(), name, url })
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        self.url.as_str()
    }

    /// A connection to it.
    pub(super) async fn connect(&self) -> anyhow::Result<PgConnection> {
        connect(&self.url).await
    }

    /// Drops it, whoever is still connected.
    pub(super) async fn drop(self) -> anyhow::Result<()> {
        let Scratch { server, name, .. } = self;
        let dropped = admin(&server, format!("DROP DATABASE {name} WITH (FORCE)")).await;
        dropped.with_context(|| format!("the database {name} is left behind; drop it by hand"))
    }
}

/// The same server's database of another name.
fn beside(server: &Url, name: &str) -> anyhow::Result<Url> {
    let mut url = server.clone();
    url.set_path(name);
    let options = PgConnectOptions::from_str(url.as_str()).context("--database")?;
    ensure!(
        options.get_database() == Some(name),
        "--database: give the database in the path, not as dbname="
    );
    Ok(url)
}

async fn connect(url: &Url) -> anyhow::Result<PgConnection> {
    let options = PgConnectOptions::from_str(url.as_str()).context("--database")?;
    match timeout(CONNECT_DEADLINE, options.application_name("foghorn-bench").connect()).await {
        Ok(connected) => connected.context("can't connect to PostgreSQL"),
        Err(_) => bail!("can't connect to PostgreSQL within {CONNECT_DEADLINE:?}"),
    }
}

/// One statement on the database that was given. `sql` is made of our own words alone.
async fn admin(server: &Url, sql: String) -> anyhow::Result<()> {
    let mut connection = connect(server).await?;
    let done = timeout(DATABASE_DEADLINE, sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection)).await;
    done.map_err(|_| anyhow!("no answer within {DATABASE_DEADLINE:?}"))??;
    connection.close().await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked() {
        for good in ["postgres://u:p@h:1/db?sslmode=disable", "postgresql://h/db", "postgres:///db?host=/run"]
        {
            database_url(good).unwrap();
        }
        for bad in ["h/db", "mysql://u:p@h/db", "postgres://u:p@h:port/db"] {
            assert!(database_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_scratch_database_is_on_the_same_server_with_the_same_options() {
        let server = database_url("postgres://u:p@h:1/db?sslmode=disable").unwrap();
        let url = beside(&server, "foghorn_bench_1").unwrap();
        assert_eq!(url.as_str(), "postgres://u:p@h:1/foghorn_bench_1?sslmode=disable");
        let server = database_url("postgres://h/db?dbname=other").unwrap();
        assert!(
            beside(&server, "foghorn_bench_1").is_err(),
            "or it would be the product's own that is filled"
        );
    }
}
