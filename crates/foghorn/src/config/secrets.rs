//! Keeping secrets out of what is printed.

use serde_json::Value;

use super::Config;

/// What stands where a secret was.
const HIDDEN: &str = "(hidden)";
/// Keys whose values are secrets from the first byte to the last.
const SECRETS: [&str; 4] = ["password", "token", "secret", "headers"];

/// The configuration without its secrets: passwords, tokens, and in every URL what stands before the host
/// and in the query. Keys keep their order; those that hold nothing are left out.
pub(crate) fn without_secrets(config: &Config) -> serde_json::Result<Value> {
    let mut value = serde_json::to_value(config)?;
    hide("", &mut value);
    Ok(value)
}

/// Whether a line of a configuration file may hold a secret.
pub(super) fn may_hold_one(line: &str) -> bool {
    let others = ["url", "keys"];
    SECRETS.iter().chain(&others).any(|key| line.contains(key)) || line.contains(['@', '/'])
}

fn hide(key: &str, value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.retain(|_, member| !member.is_null());
            members.iter_mut().for_each(|(key, member)| hide(key, member));
        }
        Value::Array(items) => items.iter_mut().for_each(|item| hide(key, item)),
        Value::String(text) if SECRETS.contains(&key) && !text.is_empty() => HIDDEN.clone_into(text),
        Value::String(text) => *text = hide_in_urls(text, key == "url"),
        _ => {}
    }
}

/// Hides up to the last `@` after each `://`, so that neither a comma nor a slash in a password lets a part
/// of it through. With `is_url` the text need not begin with a scheme.
fn hide_in_urls(text: &str, is_url: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for (number, part) in text.split_inclusive("://").enumerate() {
        if number == 0 && !is_url {
            shown.push_str(part);
            continue;
        }
        let open = match part.rsplit_once('@') {
            Some((_, open)) => {
                shown.push_str(HIDDEN);
                shown.push('@');
                open
            }
            None => part,
        };
        match open.split_once('?') {
            Some((open, _)) => shown.extend([open, "?", HIDDEN]),
            None => shown.push_str(open),
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn no_secret_is_shown_wherever_it_stands() {
        let text = r#"
            [nats]
            url = "nats://fog:hunter2@a:4222,nats://b:4222"
            user = "fog"
            password = "hunter2"
            token = "hunter2"
            [postgres]
            url = "postgres://foghorn:hunter2@db:5432/foghorn?sslmode=require&password=hunter2"
            [eventlog]
            url = "http://hunter2@log:50052"
            [telemetry.traces]
            headers = "authorization=Bearer%20hunter2"
            [[policy]]
            pattern = "a.>"
            [[auth.keys]]
            id = "main"
            algorithm = "HS256"
            secret = "hunter2"
        "#;
        let shown = without_secrets(&toml::from_str(text).unwrap()).unwrap();
        let text = toml::to_string_pretty(&shown).unwrap();
        assert!(!text.contains("hunter2"), "{text}");
        assert_eq!(shown["nats"]["url"], "nats://(hidden)@a:4222,nats://b:4222");
        assert_eq!(shown["postgres"]["url"], "postgres://(hidden)@db:5432/foghorn?(hidden)");
        assert_eq!(shown["nats"]["user"], "fog");
        assert_eq!(shown["nats"]["password"], "(hidden)");
        assert_eq!(
            (&shown["auth"]["keys"][0]["id"], &shown["auth"]["keys"][0]["secret"]),
            (&json!("main"), &json!(HIDDEN))
        );
        assert_eq!(shown["policy"][0]["pattern"], "a.>");
        let defaults = without_secrets(&Config::default()).unwrap();
        assert_eq!(defaults["nats"]["password"], "", "nothing is no secret");
        assert_eq!(defaults["shards"], 1);
    }

    #[test]
    fn odd_passwords_are_hidden_whole() {
        for (url, shown) in [
            ("nats://u:hun,ter2@a,nats://v:hunter2@b", "nats://(hidden)@a,nats://(hidden)@b"),
            ("postgres://u:hun/ter2@a/db", "postgres://(hidden)@a/db"),
            ("postgres://u:hun@ter2@a/db", "postgres://(hidden)@a/db"),
            ("u:hunter2@a:4222", "(hidden)@a:4222"),
            ("nats://hunter2@a", "nats://(hidden)@a"),
            ("http://a:1", "http://a:1"),
        ] {
            assert_eq!(hide_in_urls(url, true), shown);
        }
        assert_eq!(hide_in_urls("a@b", false), "a@b");
    }
}
