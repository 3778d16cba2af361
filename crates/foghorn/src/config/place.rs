//! Where in the file a value stands that is wrong.

use toml::de::{DeTable, DeValue};

/// The line, from 1, of what an error of [`Config::check`](super::Config::check) is about: these begin with
/// their key, or name the policies. None when it isn't in the file: then a default doesn't go with
/// something else.
pub(super) fn line_of(text: &str, error: &str) -> Option<usize> {
    let table = DeTable::parse(text).ok()?;
    let mut words = error.split([' ', ':']).filter(|word| !word.is_empty());
    let offset = match words.next()? {
        "policy" => of_policy(table.get_ref(), words.next()?),
        // Of two, the later one is where the trouble began.
        "policies" => of_policy(table.get_ref(), words.nth(2)?),
        key => of_key(table.get_ref(), key),
    };
    Some(text.get(..offset?)?.matches('\n').count() + 1)
}

fn of_key(table: &DeTable<'_>, key: &str) -> Option<usize> {
    let (name, rest) = key.split_once('.').map_or((key, None), |(name, rest)| (name, Some(rest)));
    let (at, value) = table.iter().find(|(known, _)| &**known.get_ref() == name)?;
    match rest {
        Some(rest) => of_key(value.get_ref().as_table()?, rest),
        None => Some(at.span().start),
    }
}

/// Of its pattern: the rest of a table may stand anywhere below it.
fn of_policy(table: &DeTable<'_>, pattern: &str) -> Option<usize> {
    let (_, policies) = table.iter().find(|(name, _)| &**name.get_ref() == "policy")?;
    let mut patterns = policies.get_ref().as_array()?.iter().filter_map(|policy| {
        let (_, value) =
            policy.get_ref().as_table()?.iter().find(|(key, _)| &**key.get_ref() == "pattern")?;
        Some(value)
    });
    let last = patterns.rfind(|value| matches!(value.get_ref(), DeValue::String(text) if text == pattern));
    last.map(|value| value.span().start)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_policies_are_found_however_they_are_written() {
        let text = "shards = 9\nnats.replicas = 7\n[fanout]\n\ninflight_bytes = 1\n[[policy]]\npattern = \"a.*\"\n\
                    [[policy]]\nretention = \"1s\"\npattern = \"*.b\"\n";
        for (error, line) in [
            ("shards: there are 1 to 8", Some(1)),
            ("nats.replicas must be between 1 and 5, not 7", Some(2)),
            ("fanout.inflight_bytes (1) must be at least", Some(5)),
            ("fanout.stream_bytes (4194304) must be", None),
            ("policy *.b: retention must be", Some(10)),
            ("policies a.* and *.b both match", Some(10)),
            ("gateway.retry must be", None),
        ] {
            assert_eq!(line_of(text, error), line, "{error}");
        }
        let twice = "policy = [{ pattern = \"a\" },\n { pattern = \"a\" }]";
        assert_eq!(line_of(twice, "policies a and a both match"), Some(2));
    }
}
