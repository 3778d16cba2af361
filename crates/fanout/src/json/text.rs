//! The value of `data` as the text that goes out.

use crate::error::PublishError;

/// A JSON string's text, or any other value's text without the white space between its tokens.
pub(super) fn data_text(value: &str) -> Result<String, PublishError> {
    // Its syntax has been read already, so this is all that can be wrong with it.
    let lone_surrogate = || {
        let what = "data: a string has a lone surrogate (\\ud800 to \\udfff), which is no character";
        PublishError::invalid("not-utf8", what)
    };
    if value.starts_with('"') {
        return serde_json::from_str(value).map_err(|_| lone_surrogate());
    }
    compact(value).ok_or_else(lone_surrogate)
}

/// Valid JSON without the white space between tokens; `None` when a string holds a lone surrogate.
fn compact(json: &str) -> Option<String> {
    let bytes = json.as_bytes();
    let mut out = String::with_capacity(json.len());
    let (mut kept, mut at, mut in_string) = (0, 0, false);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' => {
                at += escape_len(&bytes[at..])?;
                continue;
            }
            b' ' | b'\t' | b'\r' | b'\n' if !in_string => {
                out.push_str(&json[kept..at]);
                kept = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    out.push_str(&json[kept..]);
    Some(out)
}

/// The length of the escape that `rest` begins with, a surrogate pair being one; `None` when it is a
/// lone surrogate.
fn escape_len(rest: &[u8]) -> Option<usize> {
    let unit = |from: &[u8]| {
        let digits = from.strip_prefix(b"\\u")?.get(..4)?;
        u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
    };
    match unit(rest) {
        None => Some(2),
        Some(0xd800..=0xdbff) => match rest.get(6..).and_then(unit) {
            Some(0xdc00..=0xdfff) => Some(12),
            _ => None,
        },
        Some(0xdc00..=0xdfff) => None,
        Some(_) => Some(6),
    }
}
