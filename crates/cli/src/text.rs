//! Values as people read them: sizes, counts, durations, times, and tables.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use zeroize::Zeroizing;

/// Bytes in binary units with three digits or so: `512 B`, `1.5 KiB`, `12.3 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut value = bytes as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.into_iter().skip(1) {
        // 1023.95 would be written as 1024.0.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    format!("{value:.1} {unit}")
}

/// A count with a comma between thousands.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A count with its noun: `1 file`, `2,000 files`.
pub fn counted(n: u64, singular: &str, plural: &str) -> String {
    format!("{} {}", count(n), if n == 1 { singular } else { plural })
}

/// A duration as short as it can be said: `0.4 s`, `12 s`, `3 min 05 s`, `2 h 07 min`.
pub fn duration(d: Duration) -> String {
    let seconds = d.as_secs();
    match seconds {
        0..10 => format!("{:.1} s", d.as_secs_f64()),
        10..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        _ => format!("{} h {:02} min", seconds / 3600, seconds % 3600 / 60),
    }
}

/// A point in time in the local time zone, to the second.
pub fn local_time(at: Timestamp) -> String {
    at.to_zoned(TimeZone::system()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// How a file's mode is written: type and special bits as Go writes its `FileMode`, then permissions. restic's
/// `ls` prints it so, and scripts compare it.
pub fn mode(go_mode: u32) -> String {
    let mut out = String::with_capacity(12);
    for (i, letter) in "dalTLDpSugct?".chars().enumerate() {
        if go_mode.checked_shl(u32::try_from(i).unwrap_or(0)).is_some_and(|m| m & (1 << 31) != 0) {
            out.push(letter);
        }
    }
    if out.is_empty() {
        out.push('-');
    }
    for (i, letter) in "rwxrwxrwx".chars().enumerate() {
        out.push(if go_mode & (0o400 >> i) == 0 { '-' } else { letter });
    }
    out
}

/// Text from a repository made harmless for a terminal: control characters, and those that turn the direction of what
/// follows or begin a line, are shown, not obeyed.
pub fn safe(text: &str) -> String {
    let is_obeyed = |c: char| {
        c.is_control()
            || matches!(c, '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// Nothing is padded to more characters: what is longer stands out of its column.
const WIDEST: usize = 200;

/// A table with a heading; columns are as wide as their longest cell, and the last one is not padded.
#[derive(Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table of these columns.
    pub fn new(heading: &[&str]) -> Self {
        Self { rows: vec![heading.iter().map(ToString::to_string).collect()] }
    }

    /// Adds a row. A cell of several lines makes the row as high.
    pub fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    /// The table, every line ended by a line feed.
    pub fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .flat_map(|cell| cell.lines())
                .map(|line| line.chars().count())
                .max()
                .unwrap_or(0)
                .min(WIDEST)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for row in &self.rows {
            let height = row.iter().map(|cell| cell.lines().count()).max().unwrap_or(0).max(1);
            let mut cells: Vec<_> = row.iter().map(|cell| cell.lines()).collect();
            for _ in 0..height {
                let mut text = String::new();
                for (cell, width) in cells.iter_mut().zip(&widths) {
                    let part = cell.next().unwrap_or_default();
                    text.push_str(part);
                    let missing = width.saturating_sub(part.chars().count()).saturating_add(2);
                    text.extend(std::iter::repeat_n(' ', missing));
                }
                out.push_str(text.trim_end());
                out.push('\n');
            }
        }
        out
    }
}

/// Text in UTF-8, or in what its mark of the encoding says; without the mark. Wiped
/// when it is dropped, for it may be a password.
pub(crate) fn decode(bytes: &[u8]) -> Option<Zeroizing<String>> {
    let wide = |rest: &[u8], unit: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks::<2>();
        let units: Zeroizing<Vec<u16>> = Zeroizing::new(pairs.iter().map(|pair| unit(*pair)).collect());
        odd.is_empty().then(|| String::from_utf16(&units).ok()).flatten()
    };
    let text = match bytes {
        [0xef, 0xbb, 0xbf, rest @ ..] => std::str::from_utf8(rest).ok().map(str::to_owned),
        [0xff, 0xfe, rest @ ..] => wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => wide(rest, u16::from_be_bytes),
        _ => std::str::from_utf8(bytes).ok().map(str::to_owned),
    };
    text.map(Zeroizing::new)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_takes_cells_of_any_length() {
        let mut table = Table::new(&["A", "B"]);
        let long = "x".repeat(70_000);
        table.row(vec![long.clone(), "y".to_owned()]);
        table.row(vec!["one\ntwo".to_owned(), "z".to_owned()]);
        let text = table.render();
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[1], format!("{long}  y"));
        assert_eq!(lines[2], format!("one{}z", " ".repeat(WIDEST - 3 + 2)));
        assert_eq!((lines[3], lines.len()), ("two", 4));
    }

    #[test]
    fn what_a_terminal_would_obey_is_shown() {
        assert_eq!(safe("a\u{1b}[2Jb"), "a\\u{1b}[2Jb");
        assert_eq!(safe("txt.\u{202e}exe"), "txt.\\u{202e}exe");
        assert_eq!(safe("größe\u{200f}"), "größe\u{200f}");
    }

    #[test]
    fn sizes_keep_their_digits_at_the_edges() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (12 * 1024 * 1024 * 1024, "12.0 GiB"),
            (u64::MAX, "16.0 EiB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn counts_and_durations_read_well() {
        assert_eq!(["0", "999", "1,000", "1,234,567"], [0, 999, 1000, 1_234_567].map(count));
        assert_eq!(counted(1, "file", "files"), "1 file");
        let of = |ms| duration(Duration::from_millis(ms));
        assert_eq!(
            [of(420), of(12_000), of(185_000), of(7_650_000)],
            ["0.4 s", "12 s", "3 min 05 s", "2 h 07 min"]
        );
    }

    #[test]
    fn modes_are_written_as_go_does() {
        assert_eq!(mode(0o644), "-rw-r--r--");
        assert_eq!(mode(2_148_532_735), "dtrwxrwxrwx");
        assert_eq!(mode(2_147_484_141), "drwxr-xr-x");
        assert_eq!(mode(1 << 27 | 0o777), "Lrwxrwxrwx");
    }

    #[test]
    fn names_cannot_steer_the_terminal() {
        assert_eq!(safe("a\u{1b}[31mb\n"), "a\\u{1b}[31mb\\n");
    }

    #[test]
    fn table_cells_of_several_lines_stay_in_their_column() {
        let mut table = Table::new(&["ID", "Paths", "Size"]);
        table.row(vec!["1".into(), "/a\n/bcdefg".into(), "3 B".into()]);
        assert_eq!(table.render(), "ID  Paths    Size\n1   /a       3 B\n    /bcdefg\n");
    }
}
