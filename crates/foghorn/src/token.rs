//! `foghorn token`: tokens for development. In production the application's own login makes them.

use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, bail};
use foghorn_auth::Authenticator;
use foghorn_auth::config::{Algorithm, Key};
use foghorn_auth::keys::{Keys, material};
use foghorn_auth::mint::{SigningKey, peek};
use foghorn_bus::clock::Clock;
use foghorn_core::pattern::Pattern;
use serde_json::{Value, json};

use crate::config::{self, Config};

/// Most bytes read of a token from standard input.
const INPUT_BYTES_MAX: u64 = 64 * 1024;

/// What `foghorn token` takes.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, clap::Subcommand)]
enum Action {
    /// Make a token that the configured servers take
    Mint(Mint),
    /// Show what a token says, and whether the configured servers would take it
    Inspect(Inspect),
}

#[derive(Debug, clap::Args)]
struct Mint {
    /// Configuration file (TOML) with [auth]; its keys may also stand in the environment
    #[arg(long, env = "FOGHORN_CONFIG")]
    config: Option<PathBuf>,
    /// Whom it is for: the claim sub
    #[arg(long, value_name = "ID")]
    subject: String,
    /// A pattern that may be listened to; several times for several. Without: as policies say
    #[arg(long, value_name = "PATTERN", value_parser = |text: &str| Pattern::parse(text))]
    subscribe: Vec<Pattern>,
    /// A pattern that may be published on; several times for several. Without: nothing
    #[arg(long, value_name = "PATTERN", value_parser = |text: &str| Pattern::parse(text))]
    publish: Vec<Pattern>,
    /// The role of operators
    #[arg(long)]
    admin: bool,
    /// For how long
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = humantime::parse_duration)]
    expires_in: Duration,
    /// Which of auth.keys it is for, by id [default: the only one]
    #[arg(long, value_name = "ID")]
    key: Option<String>,
    /// PEM file of the private key that signs it (not for HS256, whose secret is configured)
    #[arg(long, value_name = "FILE")]
    signing_key: Option<PathBuf>,
    /// Print JSON: the token and its claims
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Inspect {
    /// Configuration file (TOML) with [auth]; its keys may also stand in the environment
    #[arg(long, env = "FOGHORN_CONFIG")]
    config: Option<PathBuf>,
    /// The token. Without it, or with -, standard input is read: arguments are seen by others
    token: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Does what the arguments say. Exit codes: 0 done (inspect: and it would be taken), 1 not, 2 wrong usage.
pub(crate) fn run(args: &Args) -> anyhow::Result<ExitCode> {
    match &args.action {
        Action::Mint(args) => {
            let config = load(&args.config)?;
            let claims = args.claims(&config)?;
            let key = chosen(&config.auth.keys, args.key.as_deref())?;
            let signing = signing_key(key, args.signing_key.as_ref())?;
            let token = signing.mint(&key.id, &claims).map_err(anyhow::Error::msg)?;
            if args.json {
                println!("{}", json!({ "token": token, "claims": claims }));
            } else {
                println!("{token}");
            }
            Ok(ExitCode::SUCCESS)
        }
        Action::Inspect(args) => {
            let config = load(&args.config)?;
            inspect(&config, &read(args.token.as_deref())?, args.json)
        }
    }
}

fn load(file: &Option<PathBuf>) -> anyhow::Result<Config> {
    let environment = config::environment().map_err(anyhow::Error::msg)?;
    config::read(file.as_deref(), environment).map_err(anyhow::Error::msg)
}

impl Mint {
    fn claims(&self, config: &Config) -> anyhow::Result<Value> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).context("the clock is before 1970")?.as_secs();
        let mut grants = json!({});
        for (name, patterns) in [("subscribe", &self.subscribe), ("publish", &self.publish)] {
            if !patterns.is_empty() {
                grants[name] = patterns.iter().map(Pattern::as_str).collect();
            }
        }
        if self.admin {
            grants["role"] = "admin".into();
        }
        let expires = now.saturating_add(self.expires_in.as_secs());
        if self.subject.is_empty() {
            bail!("--subject: servers refuse a token whose subject is empty");
        }
        let mut claims = json!({ "sub": self.subject, "iat": now, "exp": expires, "foghorn": grants });
        for (name, value) in [("iss", &config.auth.issuer), ("aud", &config.auth.audience)] {
            if !value.is_empty() {
                claims[name] = value.as_str().into();
            }
        }
        Ok(claims)
    }
}

fn chosen<'a>(keys: &'a [Key], id: Option<&str>) -> anyhow::Result<&'a Key> {
    let known = || keys.iter().map(|key| format!("{:?}", key.id)).collect::<Vec<_>>().join(", ");
    match (keys, id) {
        ([], _) => bail!(
            "there are no auth.keys: for development, FOGHORN_AUTH_KEYS='[{{ id = \"dev\", algorithm = \"HS256\", \
             secret = \"…\" }}]' with a secret of 32 bytes or more (openssl rand -hex 32)"
        ),
        ([only], None) => Ok(only),
        (_, None) => bail!("--key: there are several keys; name one of {}", known()),
        (_, Some(id)) => match keys.iter().find(|key| key.id == id) {
            Some(key) => Ok(key),
            None => bail!("--key: there is no key {id:?}; there are {}", known()),
        },
    }
}

fn signing_key(key: &Key, private: Option<&PathBuf>) -> anyhow::Result<SigningKey> {
    let bytes = match (key.algorithm, private) {
        (Algorithm::HS256, Some(_)) => bail!("--signing-key: HS256 signs with the secret that is configured"),
        (Algorithm::HS256, None) => material(key).map_err(anyhow::Error::msg)?,
        (algorithm, None) => bail!("--signing-key: name the PEM file of the private key, for {algorithm:?}"),
        (_, Some(file)) => {
            std::fs::read(file).with_context(|| format!("{} can't be read", file.display()))?
        }
    };
    SigningKey::new(key.algorithm, &bytes).map_err(anyhow::Error::msg)
}

fn read(token: Option<&str>) -> anyhow::Result<String> {
    if let Some(token) = token.filter(|token| *token != "-") {
        return Ok(token.to_owned());
    }
    let mut text = String::new();
    std::io::stdin().take(INPUT_BYTES_MAX).read_to_string(&mut text).context("standard input")?;
    Ok(text.trim().to_owned())
}

fn inspect(config: &Config, token: &str, as_json: bool) -> anyhow::Result<ExitCode> {
    let (header, claims) = peek(token).map_err(anyhow::Error::msg)?;
    let keys = Keys::load(&config.auth).map_err(anyhow::Error::msg)?;
    let clock = Clock::default();
    let auth = Authenticator::new(&config.auth, keys, false, move || clock.now());
    let refused = auth.caller_by(Some(&format!("Bearer {token}"))).err().map(|why| why.to_string());
    if as_json {
        let valid = refused.is_none();
        println!("{}", json!({ "valid": valid, "why": refused, "header": header, "claims": claims }));
    } else {
        println!("{}", serde_json::to_string_pretty(&json!({ "header": header, "claims": claims }))?);
        println!("{}", refused.as_deref().unwrap_or("the token is good"));
    }
    Ok(if refused.is_none() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
