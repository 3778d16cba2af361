//! Data as `{"compressed":true,"payload":"…"}`, for listeners behind proxies that take `Accept-Encoding` away.
//!
//! They are so from here on: in the journal, the event log, every ring and every stream. So they are compressed once
//! for each event that is published, and are the same bytes by whatever way they come.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytestring::ByteString;
use flate2::Compression;
use flate2::write::GzEncoder;

const BEFORE: &str = r#"{"compressed":true,"payload":""#;
const AFTER: &str = r#""}"#;
/// Time is worth more than the last percent: other events wait meanwhile.
const LEVEL: u32 = 4;

/// The data so, if that has fewer bytes. What was compressed before doesn't.
pub(crate) fn pack(data: &ByteString) -> Option<ByteString> {
    let mut gzip = GzEncoder::new(Vec::with_capacity(data.len() / 2), Compression::new(LEVEL));
    gzip.write_all(data.as_bytes()).ok()?;
    let gzip = gzip.finish().ok()?;
    let length = BEFORE.len() + gzip.len().div_ceil(3) * 4 + AFTER.len();
    if length >= data.len() {
        return None;
    }
    let mut packed = String::with_capacity(length);
    packed.push_str(BEFORE);
    STANDARD.encode_string(&gzip, &mut packed);
    packed.push_str(AFTER);
    Some(packed.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn unpack(data: &str) -> String {
        let value: serde_json::Value = serde_json::from_str(data).unwrap();
        assert_eq!((&value["compressed"], value.as_object().unwrap().len()), (&true.into(), 2));
        let gzip = STANDARD.decode(value["payload"].as_str().unwrap()).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&gzip[..]).read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn data_are_packed_only_when_they_have_fewer_bytes_then_and_not_twice() {
        let text: ByteString = format!("{{\"rows\":\"{}\"}}", "é, ü\r\n".repeat(500)).into();
        let packed = pack(&text).unwrap();
        assert!(packed.len() < text.len() / 4);
        assert_eq!(unpack(&packed), *text, "line breaks included");
        assert_eq!(pack(&text), Some(packed.clone()), "the same bytes each time");
        assert_eq!(pack(&packed), None);
        assert_eq!(pack(&"x".repeat(20).into()), None);
        let random: String = std::iter::repeat_with(|| rand::random_range(' '..='~')).take(5000).collect();
        assert_eq!(pack(&random.into()), None, "base64 takes a third more");
    }
}
