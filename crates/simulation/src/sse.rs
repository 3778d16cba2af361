//! Reads a stream as an EventSource does.

/// A block: an event, or only a position.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The last event id, if the block sets one.
    pub id: Option<String>,
    /// The type; empty for `message`.
    pub event: String,
    /// The data; none when nothing is fired.
    pub data: Option<String>,
    /// How long to wait before coming back, in milliseconds.
    pub retry: Option<u64>,
}

/// What has come and is no whole block yet.
#[derive(Debug, Default)]
pub struct Parser {
    waiting: Vec<u8>,
}

impl Parser {
    /// The blocks that `bytes` complete. What is not complete when the connection ends is discarded with the
    /// parser, as the standard has it.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<Block> {
        self.waiting.extend_from_slice(bytes);
        let mut blocks = Vec::new();
        while let Some(end) = self.waiting.windows(2).position(|two| two == b"\n\n") {
            let block: Vec<u8> = self.waiting.drain(..end + 2).collect();
            blocks.push(parse(&String::from_utf8_lossy(&block)));
        }
        blocks
    }
}

/// Foghorn ends lines with LF alone.
fn parse(text: &str) -> Block {
    let mut block = Block::default();
    for line in text.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => block.id = Some(value.to_owned()),
            "event" => value.clone_into(&mut block.event),
            "retry" => block.retry = value.parse().ok(),
            "data" => match &mut block.data {
                Some(data) => {
                    data.push('\n');
                    data.push_str(value);
                }
                None => block.data = Some(value.to_owned()),
            },
            _ => {}
        }
    }
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_whole_or_nothing() {
        let mut parser = Parser::default();
        assert_eq!(parser.take(b"id: 1\nevent: a\nda"), []);
        let blocks = parser.take(b"ta: x\ndata: y\n\nid: 2\n\nid: 3\n");
        let event = Block { id: Some("1".into()), event: "a".into(), data: Some("x\ny".into()), retry: None };
        let position = Block { id: Some("2".into()), ..Block::default() };
        assert_eq!(blocks, [event, position]);
    }
}
