//! Reading file and environment into a [`Config`].

use std::collections::BTreeSet;
use std::path::Path;

use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use foghorn_core::policy::{Policies, Policy};

use super::{Config, place, secrets};

const PREFIX: &str = "FOGHORN_";
/// Variables with our prefix that are not keys: the commands' and the tests'. (Those that docker-compose.yml
/// reads itself end in `_PORT`, like Kubernetes' own.)
const NOT_KEYS: &[&str] =
    &["FOGHORN_URL", "FOGHORN_TOKEN", "FOGHORN_CONFIG", "FOGHORN_BIN", "FOGHORN_ADMIN_URL"];

/// What is said of a value that may be a secret.
const NOT_SHOWN: &str = "the value is not what this key takes (not shown, it may be a secret)";

/// What is wrong with the text of a socket address.
pub(crate) const ADDRESS: &str = "not an address and a port: write it like 127.0.0.1:8080 or [::1]:8080, with 0.0.0.0 \
                                  for every address there is; names are not looked up";

/// The variables of this process that may be meant for us.
pub(crate) fn environment() -> Result<Vec<(String, String)>, String> {
    let ours = std::env::vars_os().filter_map(|(name, text)| Some((name.into_string().ok()?, text)));
    ours.filter(|(name, _)| name.starts_with(PREFIX))
        .map(|(name, text)| match text.into_string() {
            Ok(text) => Ok((name, text)),
            Err(_) => Err(format!("{name} in the environment is not UTF-8")),
        })
        .collect()
}

/// The configuration of file and environment. The error names the place.
pub(crate) fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, String> {
    let text = match file {
        Some(path) => {
            std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?
        }
        None => String::new(),
    };
    read_text(file, &text, environment)
}

/// The same of what is in the file.
pub(crate) fn read_text(
    file: Option<&Path>,
    text: &str,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, String> {
    let named = |error: String| file.map_or(error.clone(), |path| format!("{}: {error}", path.display()));
    let mut table = parse_text(text).map_err(named)?;
    let given = overlay(&mut table, environment)?;
    let config = Config { file: file.map(Path::to_owned), ..Config::try_from_table(&table)? };
    config.check().map_err(|error| {
        // The error begins with the key.
        let key = error.split([' ', ':']).next().unwrap_or_default();
        let variable = format!("{PREFIX}{}", key.replace('.', "_").to_uppercase());
        match file {
            _ if given.contains(&variable) => format!("{variable} in the environment: {error}"),
            Some(path) => match place::line_of(text, &error) {
                Some(line) => format!("{}: line {line}: {error}", path.display()),
                None => format!("{}: {error}", path.display()),
            },
            None => error,
        }
    })?;
    Ok(config)
}

/// A file of policies and nothing else.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PoliciesFile {
    #[serde(default, rename = "policy")]
    policies: Vec<Policy>,
}

/// The policies of a file that has nothing else, checked against each other. The error names the place.
pub(crate) fn read_policies(path: &Path) -> Result<Vec<Policy>, String> {
    let named = |error: String| format!("{}: {error}", path.display());
    let text = std::fs::read_to_string(path).map_err(|error| named(error.to_string()))?;
    let PoliciesFile { policies } = toml::from_str(&text).map_err(|error| named(explain(&text, &error)))?;
    match Policies::new(policies.clone()) {
        Ok(_) => Ok(policies),
        Err(error) => {
            let error = error.to_string();
            let line = place::line_of(&text, &error).map_or(String::new(), |line| format!("line {line}: "));
            Err(named(format!("{line}{error}")))
        }
    }
}

/// The text of such a file.
pub(crate) fn policies_to_toml(policies: &[Policy]) -> Result<String, toml::ser::Error> {
    toml::to_string(&PoliciesFile { policies: policies.to_vec() })
}

fn parse_text(text: &str) -> Result<Table, String> {
    // First as a table, whose errors are about what the text looks like; then as the type, whose errors
    // may quote values.
    let table: Table = text.parse().map_err(|error| at(text, &error, error.message()))?;
    let _checked: Config = toml::from_str(text).map_err(|error| explain(text, &error))?;
    Ok(table)
}

/// Lays the variables over the file's keys. Returns the names of those that were given.
fn overlay(
    table: &mut Table,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<BTreeSet<String>, String> {
    let known = keys()?;
    let mut environment: Vec<_> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    environment.sort();
    let mut given = BTreeSet::new();
    for (name, text) in environment {
        let Some((path, example)) = known.iter().find(|(path, _)| variable(path) == name) else {
            if is_no_key(&name) {
                continue;
            }
            // Not passed over: what was meant by it would silently not hold.
            return Err(format!("{name} in the environment is no configuration key{}", near(&name, &known)));
        };
        let value = parse(&text, example).map_err(|error| format!("{name} in the environment: {error}"))?;
        set(table, path, value);
        Config::try_from_table(table).map_err(|error| {
            let hidden = secrets::may_hold_one(&name.to_lowercase());
            format!("{name} in the environment: {}", if hidden { NOT_SHOWN } else { &error })
        })?;
        given.insert(name);
    }
    Ok(given)
}

impl Config {
    fn try_from_table(table: &Table) -> Result<Self, String> {
        table.clone().try_into().map_err(|error: toml::de::Error| hinted(error.message()))
    }
}

/// Every key, with its default as an example of its type.
fn keys() -> Result<Vec<(Vec<String>, Value)>, String> {
    let defaults = Table::try_from(Config::default()).map_err(|error| error.to_string())?;
    let mut keys = Vec::new();
    collect(&defaults, &mut Vec::new(), &mut keys);
    Ok(keys)
}

fn collect(table: &Table, path: &mut Vec<String>, keys: &mut Vec<(Vec<String>, Value)>) {
    for (name, value) in table {
        path.push(name.clone());
        match value {
            Value::Table(inner) => collect(inner, path, keys),
            value => keys.push((path.clone(), value.clone())),
        }
        path.pop();
    }
}

fn variable(path: &[String]) -> String {
    format!("{PREFIX}{}", path.join("_").to_uppercase())
}

/// Text is taken as it is where the key is text; other values are written as in the file.
fn parse(text: &str, example: &Value) -> Result<Value, String> {
    if matches!(example, Value::String(_)) {
        return Ok(Value::String(text.to_owned()));
    }
    // A whole number is a number, too.
    if matches!(example, Value::Float(_)) {
        let number = text.trim().parse().map(Value::Float);
        return number.map_err(|_| format!("{text:?} is not {}", wanted(example)));
    }
    let parsed: Result<Table, _> = format!("value = {text}").parse();
    match parsed.ok().and_then(|mut table| table.remove("value")) {
        Some(value) if value.same_type(example) => Ok(value),
        // A list of one text or a few is often written without brackets and quotes.
        _ if matches!(example, Value::Array(_)) => {
            let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
            Ok(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
        }
        _ => Err(format!("{text:?} is not {}", wanted(example))),
    }
}

fn wanted(example: &Value) -> &'static str {
    match example {
        Value::Integer(_) => "a whole number",
        Value::Boolean(_) => "true or false",
        Value::Float(_) => "a number",
        Value::Datetime(_) => "a time",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Table(_) => "a table",
    }
}

fn set(table: &mut Table, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => {
            table.insert(name.clone(), value);
        }
        [section, rest @ ..] => {
            let inner = table.entry(section.clone()).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                set(inner, rest, value);
            }
        }
    }
}

/// Whether a variable is for somebody else.
fn is_no_key(name: &str) -> bool {
    NOT_KEYS.contains(&name) || name.starts_with("FOGHORN_TEST_") || from_kubernetes(name)
}

/// Kubernetes tells every pod about services, `foghorn-gateway` among them, in variables like ours.
fn from_kubernetes(name: &str) -> bool {
    // As in `FOGHORN_GATEWAY_PORT_8080_TCP_ADDR`.
    let numbered = |rest: &str| {
        let mut words = rest.split('_');
        let number = words.next().unwrap_or_default();
        let protocol = matches!(words.next(), Some("TCP" | "UDP" | "SCTP"));
        protocol && !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
    };
    let port = "_PORT_";
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.ends_with("_PORT")
        || name.match_indices(port).any(|(at, _)| numbered(&name[at + port.len()..]))
}

fn near(name: &str, known: &[(Vec<String>, Value)]) -> String {
    let names = known.iter().map(|(path, _)| variable(path));
    match names.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name))) {
        Some(near) if strsim::jaro_winkler(&near, name) > 0.85 => format!(" (did you mean {near}?)"),
        _ => String::new(),
    }
}

/// A message with its place. Never the source line itself: it may hold a secret.
fn at(text: &str, error: &toml::de::Error, message: &str) -> String {
    let Some(span) = error.span() else { return message.to_owned() };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: {message}")
}

/// The parser's message with its place, and the near match of an unknown key.
fn explain(text: &str, error: &toml::de::Error) -> String {
    let message = error.message();
    let near = near_field(message).map(|near| format!("\ndid you mean {near}?"));
    let is_about_a_key = message.starts_with("unknown field") || message.starts_with("missing field");
    let line = error.span().and_then(|span| line_at(text, span.start)).unwrap_or_default();
    if !is_about_a_key && secrets::may_hold_one(line) {
        return at(text, error, NOT_SHOWN);
    }
    at(text, error, &hinted(message)) + near.as_deref().unwrap_or_default()
}

/// The message, and what to write where it doesn't say so.
fn hinted(message: &str) -> String {
    match message {
        "invalid socket address syntax" => ADDRESS.to_owned(),
        other => other.to_owned(),
    }
}

fn line_at(text: &str, offset: usize) -> Option<&str> {
    let start = text.get(..offset)?.rfind('\n').map_or(0, |at| at + 1);
    text.get(start..)?.lines().next()
}

/// Of the keys that the message lists, the one nearest to the unknown one.
fn near_field(message: &str) -> Option<&str> {
    let (_, rest) = message.split_once("unknown field `")?;
    let (unknown, rest) = rest.split_once('`')?;
    let known = rest.split('`').skip(1).step_by(2);
    let near =
        known.max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)))?;
    (strsim::jaro_winkler(near, unknown) > 0.7).then_some(near)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn with_file(text: &str, environment: &[(&str, &str)]) -> Result<Config, String> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        read(Some(file.path()), environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn a_typo_is_named_with_its_line_and_its_near_match() {
        let error = with_file("shards = 1\n\n[gateway]\nring_byts = 5\n", &[]).unwrap_err();
        assert!(error.contains("line 4"), "{error}");
        assert!(error.contains("did you mean ring_bytes?"), "{error}");
        let error = with_file("[[policy]]\npattern = \"a.>.b\"\n", &[]).unwrap_err();
        assert!(error.contains("line 2") && error.contains("> stands for"), "{error}");
        let error = with_file("shards = 9\n", &[]).unwrap_err();
        assert!(error.contains("1 to 8"), "{error}");
    }

    #[test]
    fn the_environment_is_over_the_file_and_wrong_values_name_the_variable() {
        let config = with_file(
            "shards = 2\n",
            &[
                ("FOGHORN_SHARDS", "4"),
                ("FOGHORN_GATEWAY_KEEP_ALIVE", "20s"),
                ("FOGHORN_HTTP_HOSTS", "a.example, b.example"),
            ],
        )
        .unwrap();
        assert_eq!(config.shards, 4);
        assert_eq!(config.gateway.keep_alive.as_secs(), 20);
        assert_eq!(config.http.hosts, ["a.example", "b.example"]);
        let error = with_file("", &[("FOGHORN_SHARDS", "many")]).unwrap_err();
        assert!(error.contains("FOGHORN_SHARDS") && error.contains("many"), "{error}");
        let error = with_file("", &[("FOGHORN_GATEWAY_KEEP_ALIVE", "soon")]).unwrap_err();
        assert!(error.contains("FOGHORN_GATEWAY_KEEP_ALIVE"), "{error}");
    }

    #[test]
    fn every_key_has_a_variable_of_its_own() {
        let keys = keys().unwrap();
        let mut names: Vec<_> = keys.iter().map(|(path, _)| variable(path)).collect();
        let all = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), all);
    }

    /// `section.key` and default of every row of the document, policies aside.
    fn documented() -> Vec<(String, String)> {
        let mut rows = Vec::new();
        let mut section = "";
        for line in include_str!("../../../../docs/configuration.md").lines() {
            if let Some(title) = line.strip_prefix("## ") {
                section = title.trim_matches(|c| "`[]".contains(c));
            }
            let mut cells = line.split('|').skip(1).map(str::trim);
            let (Some(names), Some(default)) = (cells.next(), cells.next()) else { continue };
            for name in names.split(", ").filter_map(|name| name.strip_prefix('`')?.strip_suffix('`')) {
                let key = match section {
                    "Top level" => name.to_owned(),
                    section => format!("{section}.{name}"),
                };
                rows.push((key, default.trim_matches('`').to_owned()));
            }
        }
        rows.retain(|(key, _)| !key.starts_with("policy."));
        rows
    }

    #[test]
    fn the_document_has_every_key_with_its_default_and_no_other() {
        let documented = documented();
        let mut real: Vec<_> =
            keys().unwrap().into_iter().map(|(path, value)| (path.join("."), value)).collect();
        real.retain(|(key, _)| key != "policy");
        let real: Vec<_> = real
            .into_iter()
            .map(|(key, value)| match value {
                Value::String(text) => (key, text),
                other => (key, other.to_string()),
            })
            .collect();
        // The same time has several spellings.
        let spelt = |(key, value): (String, String)| match humantime::parse_duration(&value) {
            Ok(time) => (key, format!("{time:?}")),
            Err(_) => (key, value),
        };
        let mut documented: Vec<_> = documented.into_iter().map(spelt).collect();
        let mut real: Vec<_> = real.into_iter().map(spelt).collect();
        documented.sort();
        real.sort();
        assert_eq!(documented, real);
    }

    #[test]
    fn a_mistyped_variable_is_an_error_and_kubernetes_own_are_not() {
        let error = with_file("", &[("FOGHORN_GATEWAY_RING_BYTE", "5")]).unwrap_err();
        assert!(error.contains("did you mean FOGHORN_GATEWAY_RING_BYTES?"), "{error}");
        assert!(with_file("", &[("FOGHORN_SOMETHING", "")]).is_err());
        let others = [
            "FOGHORN_SERVICE_HOST",
            "FOGHORN_GATEWAY_SERVICE_PORT",
            "FOGHORN_GATEWAY_SERVICE_PORT_HTTP",
            "FOGHORN_GATEWAY_PORT",
            "FOGHORN_GATEWAY_PORT_8080_TCP",
            "FOGHORN_PORT_8080_TCP_ADDR",
            "FOGHORN_CONFIG",
            "FOGHORN_TEST_NATS_URL",
            "OTHER",
        ];
        with_file("", &others.map(|name| (name, "tcp://10.0.0.1:8080"))).unwrap();
        for (path, _) in keys().unwrap() {
            assert!(!is_no_key(&variable(&path)), "{path:?}");
        }
    }

    #[test]
    fn errors_say_where_a_wrong_value_comes_from() {
        let error = with_file("", &[("FOGHORN_NATS_REPLICAS", "7")]).unwrap_err();
        assert!(error.starts_with("FOGHORN_NATS_REPLICAS in the environment: nats.replicas"), "{error}");
        let error = with_file("nats.replicas = 7", &[("FOGHORN_NATS_USER", "a")]).unwrap_err();
        assert!(!error.contains("environment") && error.contains(": nats.replicas"), "{error}");
        let error = with_file("", &[("FOGHORN_NATS_REPLICAS", "three")]).unwrap_err();
        assert!(error.contains("\"three\" is not a whole number"), "{error}");
        let error = with_file("", &[("FOGHORN_ALLOW_ANONYMOUS", "1")]).unwrap_err();
        assert!(error.contains("is not true or false"), "{error}");
        assert!(with_file("", &[("FOGHORN_HTTP_HOSTS", "")]).unwrap().http.hosts.is_empty());
    }

    #[test]
    fn values_out_of_range_are_named_with_their_line() {
        for (text, place) in [
            ("shards = 1\n\n[nats]\nreplicas = 7\n", ": line 4: nats.replicas"),
            ("[fanout]\ninflight_bytes = 1000\n", ": line 2: fanout.inflight_bytes"),
            (
                "[[policy]]\npattern = \"a.*\"\n[[policy]]\npattern = \"*.b\"\n",
                ": line 4: policies a.* and *.b",
            ),
            ("[[policy]]\npattern = \"a\"\nretention = \"1s\"\n", ": line 2: policy a: retention"),
            ("[[policy]]\npattern = \"a\"\nmetric_types = [\"a,b\"]\n", ": line 2: policy a: metric_types"),
            ("[http]\nconnections = 5\n", ": line 2: http.connections"),
            ("[listen]\nhttp = \"localhost:8090\"\n", ": line 2, column 8: not an address and a port"),
        ] {
            let error = with_file(text, &[]).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
        let error = with_file("", &[("FOGHORN_LISTEN_HTTP", "localhost:8090")]).unwrap_err();
        assert!(error.contains("FOGHORN_LISTEN_HTTP") && error.contains("127.0.0.1:8080"), "{error}");
    }

    #[test]
    fn no_error_shows_a_secret() {
        for text in [
            "[nats]\npassword = \"hunter2\npassword = 5",
            "[nats]\npassword = \"hunter2\" x",
            "[nats]\nuser = \"a\"\ntoken = [\"hunter2\"]",
            "nats = \"nats://u:hunter2@a\"",
            "nats = { url = [\"nats://u:hunter2@a\"] }",
            "[postgres]\nurl = { password = \"hunter2\" }",
            "[nats]\npasswort = \"hunter2\"",
            "[nats]\nurl = \"nats://u:hunter2@bad host:1\"",
        ] {
            let error = with_file(text, &[]).unwrap_err();
            assert!(!error.contains("hunter2"), "{text}: {error}");
            assert!(error.contains("line ") || error.contains("nats.url"), "{text}: {error}");
        }
        let secret = "hunter2-hunter2-hunter2-hunter2-hunter2";
        for keys in [
            secret,
            &format!("[\"{secret}\"]"),
            &format!("[{{ algorithm = \"none\", secret = \"{secret}\" }}]"),
        ] {
            let error = with_file("", &[("FOGHORN_AUTH_KEYS", keys)]).unwrap_err();
            assert!(error.contains("FOGHORN_AUTH_KEYS") && !error.contains("hunter2"), "{error}");
            let error = with_file(&format!("auth.keys = {keys}"), &[]).unwrap_err();
            assert!(error.contains("line 1") && !error.contains("hunter2"), "{error}");
        }
        let keys = format!("[{{ id = \"a\", algorithm = \"HS256\", secret = \"{secret}\" }}]");
        let config = with_file("", &[("FOGHORN_AUTH_KEYS", &keys)]).unwrap();
        assert_eq!((config.auth.keys.len(), config.auth.keys[0].id.as_str()), (1, "a"));
        let error = with_file("[nats]\ntoken = 12345", &[]).unwrap_err();
        assert!(error.contains("line 2, column 9") && !error.contains("12345"), "{error}");
    }
}
