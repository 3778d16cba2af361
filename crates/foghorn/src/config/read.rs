//! Reading file and environment into a [`Config`].

use std::path::Path;

use toml::{Table, Value};

use super::Config;

const PREFIX: &str = "FOGHORN_";
/// Variables with our prefix that are not keys: the client commands' and the tests'.
const NOT_KEYS: &[&str] = &["FOGHORN_URL", "FOGHORN_CONFIG", "FOGHORN_BIN", "FOGHORN_ADMIN_URL"];

/// The configuration of file and environment. The error names the place.
pub(crate) fn read(
    file: Option<&Path>,
    environment: impl IntoIterator<Item = (String, String)>,
) -> Result<Config, String> {
    let mut table = Table::new();
    if let Some(path) = file {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        // Once as the type, for errors with their line; once as a table, to lay the environment over.
        let _checked: Config =
            toml::from_str(&text).map_err(|error| format!("{}: {}", path.display(), explain(&error)))?;
        table = text.parse().map_err(|error| format!("{}: {error}", path.display()))?;
    }
    let known = keys()?;
    let mut environment: Vec<_> =
        environment.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
    environment.sort();
    for (name, text) in environment {
        let Some((path, example)) = known.iter().find(|(path, _)| variable(path) == name) else {
            if !NOT_KEYS.contains(&name.as_str())
                && !name.starts_with("FOGHORN_TEST_")
                && !from_kubernetes(&name)
            {
                eprintln!(
                    "foghorn: {name} in the environment is no configuration key{}; ignored",
                    near(&name, &known)
                );
            }
            continue;
        };
        let value = parse(&text, example).map_err(|error| format!("{name} in the environment: {error}"))?;
        set(&mut table, path, value);
        Config::try_from_table(&table).map_err(|error| format!("{name} in the environment: {error}"))?;
    }
    let config = Config::try_from_table(&table)?;
    config.check().map_err(|error| match file {
        Some(path) => format!("{}: {error}", path.display()),
        None => error,
    })?;
    Ok(config)
}

impl Config {
    fn try_from_table(table: &Table) -> Result<Self, String> {
        table.clone().try_into().map_err(|error: toml::de::Error| error.message().to_owned())
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
    let parsed: Result<Table, _> = format!("value = {text}").parse();
    match parsed {
        Ok(mut table) => table.remove("value").ok_or_else(|| format!("{text:?} is not a value")),
        // A list of one text or a few is often written without quotes.
        Err(_) if matches!(example, Value::Array(_)) => {
            Ok(Value::Array(text.split(',').map(|item| Value::String(item.trim().to_owned())).collect()))
        }
        Err(_) => Err(format!("{text:?} is not a {}", example.type_str())),
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

/// Kubernetes tells every pod about services, `foghorn-gateway` among them, in variables like ours.
fn from_kubernetes(name: &str) -> bool {
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || name.contains("_PORT_")
        || name.ends_with("_PORT")
}

fn near(name: &str, known: &[(Vec<String>, Value)]) -> String {
    let names = known.iter().map(|(path, _)| variable(path));
    match names.max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name))) {
        Some(near) if strsim::jaro_winkler(&near, name) > 0.85 => format!(" (did you mean {near}?)"),
        _ => String::new(),
    }
}

/// The parser's message with its line, and the near match of an unknown key.
fn explain(error: &toml::de::Error) -> String {
    let text = error.to_string();
    let text = text.trim_end();
    let Some((_, rest)) = text.split_once("unknown field `") else { return text.to_owned() };
    let Some((unknown, rest)) = rest.split_once('`') else { return text.to_owned() };
    let known: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    let near = known
        .iter()
        .max_by(|a, b| strsim::jaro_winkler(a, unknown).total_cmp(&strsim::jaro_winkler(b, unknown)));
    match near.filter(|near| strsim::jaro_winkler(near, unknown) > 0.7) {
        Some(near) => format!("{text}\ndid you mean {near}?"),
        None => text.to_owned(),
    }
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

    #[test]
    fn listening_beyond_loopback_needs_a_word() {
        let mut config = Config::default();
        let open = ["0.0.0.0:8080".parse().unwrap()];
        assert!(config.check_exposure(&["127.0.0.1:1".parse().unwrap(), "[::1]:1".parse().unwrap()]).is_ok());
        assert!(config.check_exposure(&open).unwrap_err().contains("--allow-anonymous"));
        config.allow_anonymous = true;
        assert!(config.check_exposure(&open).is_ok());
    }
}
