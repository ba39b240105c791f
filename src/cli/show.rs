//! What goes to standard output: tables for people, one JSON document for programs.

use std::io::{self, Write};

use serde_json::Value;
use unicode_width::UnicodeWidthStr;

use super::stop::Stop;

/// Writes to standard output. A reader that has seen enough (`| head`) is no fault.
pub(super) fn print(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    let written = out.write_all(text.as_bytes()).and_then(|()| if text.ends_with('\n') { Ok(()) } else { out.write_all(b"\n") });
    match written.and_then(|()| out.flush()) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Err(Stop { message: String::new(), code: 0 }),
        Err(error) => Err(format!("standard output cannot be written: {error}").into()),
    }
}

/// One JSON document, indented.
pub(super) fn print_json(value: &impl serde::Serialize) -> Result<(), Stop> {
    print(&serde_json::to_string_pretty(value).map_err(|e| e.to_string())?)
}

/// Columns under a head, aligned.
pub(super) fn columns(head: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let head = head.iter().map(|name| (*name).to_owned()).collect();
    aligned(std::iter::once(head).chain(rows).collect())
}

/// Names and what they stand for; what stands for nothing is left out.
pub(super) fn pairs(rows: impl IntoIterator<Item = (String, String)>) -> String {
    aligned(rows.into_iter().filter(|(_, value)| !value.is_empty()).map(|(name, value)| vec![name, value]).collect())
}

/// Every column but the last as wide as its widest cell. Lines are never wrapped or cut: they can be searched and copied.
fn aligned(rows: Vec<Vec<String>>) -> String {
    let rows: Vec<Vec<String>> = rows.into_iter().map(|row| row.iter().map(|cell| printable(cell)).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or_default();
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.width()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in &rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line += cell;
            line.extend(std::iter::repeat_n(' ', width + 2 - cell.width()));
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Cells may quote data: a control character in it must neither break the line nor reach the terminal.
fn printable(cell: &str) -> String {
    let escaped = |c: char| if c.is_control() { c.escape_default().to_string() } else { c.to_string() };
    if cell.contains(char::is_control) { cell.chars().map(escaped).collect() } else { cell.to_owned() }
}

/// A JSON value as a cell: texts bare, nothing for null.
pub(super) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_by_what_is_seen_and_data_cannot_move_the_cursor() {
        let rows = [vec!["日本".to_owned(), "1".to_owned()], vec!["a\u{1b}[2J".to_owned(), "2\n".to_owned()]];
        assert_eq!(columns(&["NAME", "N"], rows), "NAME        N\n日本        1\na\\u{1b}[2J  2\\n\n");
    }
}
