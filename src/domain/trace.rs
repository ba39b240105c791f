//! The place of a piece of work in a distributed trace.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// A span to be the parent of others, as the header `traceparent` names it: <https://www.w3.org/TR/trace-context/>.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceParent {
    /// The trace; never 0.
    pub trace_id: u128,
    /// The span in it; never 0.
    pub span_id: u64,
    /// Bit 0 says that whoever made it records the trace.
    pub flags: u8,
}

impl TraceParent {
    /// Reads the header; `None` for what the specification calls invalid, which is to be treated as if it were not there. Fields that
    /// a later version may append are left out, as the specification asks.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = |text: &str, digits: usize| -> Option<u128> {
            let lower = text.len() == digits && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
            lower.then(|| u128::from_str_radix(text, 16).ok()).flatten()
        };
        let mut fields = text.split('-');
        let mut field = |digits| hex(fields.next()?, digits);
        let (version, trace_id, span_id, flags) = (field(2)?, field(32)?, field(16)?, field(2)?);
        let whole = fields.next().is_none();
        let valid = version != 0xff && (version > 0 || whole) && trace_id != 0 && span_id != 0;
        // The patterns above bound what the casts see.
        valid.then_some(Self { trace_id, span_id: span_id as u64, flags: flags as u8 })
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

impl Serialize for TraceParent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for TraceParent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?} is no traceparent")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_valid_header_is_read_and_written_as_it_was() {
        let header = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(TraceParent::parse(header).unwrap().to_string(), header);
        let later = "cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-the-future-brings";
        assert_eq!(TraceParent::parse(later).unwrap().to_string(), header);
    }

    #[test]
    fn an_invalid_header_is_none() {
        let (trace, span) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
        let invalid = [
            String::new(),
            format!("ff-{trace}-{span}-01"),
            format!("00-{trace}-{span}-01-more"),
            format!("00-{trace}-{span}"),
            format!("00-{trace}-{span}-1"),
            format!("00-{}-{span}-01", trace.to_uppercase()),
            format!("00-{}-{span}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{span}-01", &trace[1..]),
            format!("00-+{}-{span}-01", &trace[1..]),
            format!("00-{trace}\u{e9}-{span}-01"),
        ];
        for header in invalid {
            assert_eq!(TraceParent::parse(&header), None, "{header}");
        }
    }
}
