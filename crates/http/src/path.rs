//! Paths of requests.

use percent_encoding::percent_decode_str;

use crate::problem::Problem;

/// The segments of a path, each decoded by itself: an encoded slash separates nothing. The path may begin with any number
/// of slashes. An error, the answer `404`, where a segment isn't UTF-8: nothing is called that.
pub fn segments(path: &str) -> Result<Vec<String>, Problem> {
    let decode = |segment: &str| percent_decode_str(segment).decode_utf8().map(Into::into);
    let segments: Result<_, _> = path.trim_start_matches('/').split('/').map(decode).collect();
    segments.map_err(|_| Problem::not_found(path))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::*;

    #[test]
    fn each_segment_is_decoded_by_itself() {
        for (path, found) in [
            ("/api/events", &["api", "events"][..]),
            ("//api/events/", &["api", "events", ""]),
            ("/api//events", &["api", "", "events"]),
            ("/", &[""]),
            ("/api/order%201%2Fx/read", &["api", "order 1/x", "read"]),
            ("/api/%C3%A4+b", &["api", "ä+b"]),
            // What is decoded is not decoded again, and what only looks encoded stays.
            ("/%252F/%2/%zz", &["%2F", "%2", "%zz"]),
            ("/..%2F../.", &["../..", "."]),
        ] {
            assert_eq!(segments(path).unwrap(), found, "{path}");
        }
    }

    #[test]
    fn what_is_no_text_is_not_found() {
        for path in ["/api/%FF", "/%C3/%A4"] {
            assert_eq!(segments(path).unwrap_err().status, StatusCode::NOT_FOUND, "{path}");
        }
    }
}
