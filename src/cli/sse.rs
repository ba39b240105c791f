//! Reads a stream of Server-Sent Events, as the HTML standard lays it out: lines, a blank one after each event.

use std::time::Duration;

/// A stream on which nothing comes for so long, not even a sign of life, is broken.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest line, bytes: who sends more is no service of ours.
const LONGEST: usize = 1024 * 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Event {
    /// What it is; empty when that is not said.
    pub(super) kind: String,
    /// What it tells.
    pub(super) data: String,
    /// Where to go on after it, if it has an id.
    pub(super) id: Option<String>,
}

/// An open stream.
#[derive(Debug)]
pub(super) struct Events {
    answer: reqwest::Response,
    lines: Lines,
}

impl Events {
    pub(super) fn of(answer: reqwest::Response) -> Self {
        Self { answer, lines: Lines::default() }
    }

    /// The next event; `None` when the stream has ended, or broke.
    pub(super) async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.lines.event() {
                return Some(event);
            }
            let block = tokio::time::timeout(SILENCE, self.answer.chunk()).await.ok()?.ok()??;
            self.lines.push(&block)?;
        }
    }
}

/// Bytes that have come, and the event that they begin.
#[derive(Debug, Default)]
struct Lines {
    bytes: Vec<u8>,
    begun: Event,
    has_data: bool,
}

impl Lines {
    fn push(&mut self, block: &[u8]) -> Option<()> {
        self.bytes.extend_from_slice(block);
        (self.bytes.len() <= LONGEST).then_some(())
    }

    /// The next whole event of what has come. One that has no data is none.
    fn event(&mut self) -> Option<Event> {
        while let Some(end) = self.bytes.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.bytes.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line[..end]);
            if self.line(line.strip_suffix('\r').unwrap_or(&line)) {
                return Some(std::mem::take(&mut self.begun));
            }
        }
        None
    }

    /// Takes a line; whether it ends an event.
    fn line(&mut self, line: &str) -> bool {
        if line.is_empty() {
            let whole = std::mem::take(&mut self.has_data);
            if !whole {
                self.begun = Event::default();
            }
            return whole;
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.begun.kind = value.to_owned(),
            "id" => self.begun.id = Some(value.to_owned()),
            "data" => {
                if std::mem::replace(&mut self.has_data, true) {
                    self.begun.data.push('\n');
                }
                self.begun.data.push_str(value);
            }
            // A comment, or a field that is not known: the standard says to pass over it.
            _ => {}
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_read_whatever_blocks_they_come_in() {
        let text = ": hello\n\nevent: state\nid: 7\ndata: {\"a\":\ndata: 1}\n\nid: 8\n\r\ndata:x\r\n\r\nevent: cut off\ndata: y\n";
        for size in 1..text.len() {
            let mut lines = Lines::default();
            let mut events = Vec::new();
            for block in text.as_bytes().chunks(size) {
                lines.push(block).unwrap();
                events.extend(std::iter::from_fn(|| lines.event()));
            }
            let first = Event { kind: "state".to_owned(), data: "{\"a\":\n1}".to_owned(), id: Some("7".to_owned()) };
            assert_eq!(events, [first, Event { data: "x".to_owned(), ..Event::default() }], "in blocks of {size}");
        }
    }
}
