//! W3C Trace Context: of which trace an event is a part.
//!
//! Only `traceparent` is carried. `tracestate` is the tracing systems' own, may be passed over, and is.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

/// The header and metadata key, the same in HTTP, gRPC and NATS.
pub const HEADER_TRACEPARENT: &str = "traceparent";

/// Bytes of a version 00 header.
const LEN: usize = 55;
/// The only flag that we know: whoever set it records the trace.
const SAMPLED: u8 = 1;

/// A place in a trace: what a `traceparent` header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// The trace.
    pub trace: NonZeroU128,
    /// The span in it that what follows is a child of.
    pub span: NonZeroU64,
    /// Whether it is recorded.
    pub sampled: bool,
}

impl TraceContext {
    /// Reads a header's value; none when it is invalid, which the specification has everybody pass over. Of
    /// a later version than 00 what version 00 has is read, and the rest is not passed on.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.get(..LEN)?;
        let mut parts = known.split('-');
        let mut part = |len: usize| parts.next().filter(|part| part.len() == len && is_hex(part));
        let (version, trace, span, flags) = (part(2)?, part(32)?, part(16)?, part(2)?);
        let may_end_so = match version {
            "00" => text.len() == LEN,
            "ff" => false,
            _ => text.len() == LEN || text.as_bytes()[LEN] == b'-',
        };
        let flags = u8::from_str_radix(flags, 16).ok()?;
        may_end_so.then_some(TraceContext {
            trace: NonZeroU128::new(u128::from_str_radix(trace, 16).ok()?)?,
            span: NonZeroU64::new(u64::from_str_radix(span, 16).ok()?)?,
            sampled: flags & SAMPLED != 0,
        })
    }

    /// The same place, recorded by nobody from here on.
    #[must_use]
    pub fn unsampled(self) -> Self {
        TraceContext { sampled: false, ..self }
    }
}

/// The header's value, version 00.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.sampled))
    }
}

/// Lower case only, as the specification has it.
fn is_hex(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_the_specification_calls_valid_is_read_and_everything_else_passed_over() {
        let context = TraceContext::parse(VALID).unwrap();
        assert_eq!(context.trace.get(), 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736);
        assert_eq!((context.span.get(), context.sampled), (0x00f0_67aa_0ba9_02b7, true));
        assert_eq!(context.to_string(), VALID);
        let with = |from: &str, to: &str| TraceContext::parse(&VALID.replacen(from, to, 1));
        // Flags that are not known are passed over, and not passed on.
        assert_eq!(with("-01", "-fe").map(|context| context.to_string()), Some(VALID.replace("-01", "-00")));
        assert_eq!(with("-01", "-ff"), Some(context));
        // A later version may have more behind a dash.
        assert_eq!(with("00-", "cc-"), Some(context));
        assert_eq!(
            TraceContext::parse(&format!("{}-what-the-future", VALID.replacen("00", "cc", 1))),
            Some(context)
        );
        for invalid in [
            String::new(),
            "yes".to_owned(),
            VALID.to_uppercase(),
            VALID[..54].to_owned(),
            format!("{VALID}-extra"),
            format!("{VALID}-"),
            format!(" {VALID}"),
            VALID.replacen("00-", "ff-", 1),
            VALID.replacen("00-", "0-0", 1),
            VALID.replacen("00-", "cc-", 1) + ".",
            VALID.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            VALID.replace("00f067aa0ba902b7", &"0".repeat(16)),
            VALID.replace("4bf9", "4bg9"),
            VALID.replace("4bf9", "+bf9"),
            VALID.replace("-01", "-0."),
            VALID.replace("-01", "_01"),
        ] {
            assert_eq!(TraceContext::parse(&invalid), None, "{invalid:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(trace in 1u128.., span in 1u64.., sampled: bool) {
            let (trace, span) = (NonZeroU128::new(trace).unwrap(), NonZeroU64::new(span).unwrap());
            let context = TraceContext { trace, span, sampled };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn no_text_makes_it_panic(text in "\\PC{0,80}", at: prop::sample::Index, byte in "\\PC") {
            TraceContext::parse(&text);
            let mut near = VALID.to_owned();
            let at = at.index(VALID.len());
            near.replace_range(at..=at, &byte);
            TraceContext::parse(&near);
        }
    }
}
