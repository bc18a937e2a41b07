//! `repo stats`: how much is in a repository.

use holdfast_engine::repository::Repository;
use holdfast_engine::stats::{CountMode, Stats, stats};
use serde_json::{Map, Value, json};

use super::select::Filter;
use super::session::Session;
use crate::exit;
use crate::failure::Result;
use crate::text::{count, size};

/// Command line of `repo stats`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// Only these snapshots: ids, beginnings of ids, or `latest`
    #[arg(value_name = "SNAPSHOT")]
    snapshots: Vec<String>,
    /// What to count
    #[arg(long, value_enum, default_value_t)]
    mode: Mode,
    #[command(flatten)]
    filter: Filter,
}

#[derive(Debug, Clone, Copy, Default, clap::ValueEnum)]
enum Mode {
    /// What restoring the snapshots would write
    #[default]
    RestoreSize,
    /// Files of different content
    FilesByContents,
    /// Blobs a file
    BlobsPerFile,
    /// What the snapshots take in the repository
    RawData,
}

impl Mode {
    fn to_engine(self) -> CountMode {
        match self {
            Self::RestoreSize => CountMode::RestoreSize,
            Self::FilesByContents => CountMode::FilesByContents,
            Self::BlobsPerFile => CountMode::BlobsPerFile,
            Self::RawData => CountMode::RawData,
        }
    }
}

pub(super) async fn run(session: &Session<'_>, args: &Args) -> Result<u8> {
    let repository = session.open().await?;
    session.reading(&repository, async |_| read(session, &repository, args).await).await
}

async fn read(session: &Session<'_>, repository: &Repository, args: &Args) -> Result<u8> {
    let snapshots = session.select(repository, &args.snapshots, &args.filter).await?;
    let mode = args.mode.to_engine();
    let found = session.bound(stats(repository, &snapshots, mode, &session.ctx)).await?;
    session.ui.close();
    if session.ui.json() {
        session.ui.print(&to_json(&found).to_string())?;
    } else {
        session.ui.print(&describe(&found, mode))?;
    }
    Ok(exit::OK)
}

/// Compression ratio, share of compressed bytes and saving, the latter two in percent.
#[expect(clippy::cast_precision_loss, reason = "ratios for people; restic computes them the same way")]
fn ratios(stats: &Stats) -> (f64, f64, f64) {
    let share = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let saving =
        if stats.uncompressed == 0 { 0.0 } else { 1.0 - share(stats.total_size, stats.uncompressed) };
    (
        share(stats.compressed_blobs_plain, stats.compressed_blobs),
        share(stats.compressed_blobs_plain, stats.uncompressed) * 100.0,
        saving * 100.0,
    )
}

/// A number as Go writes it: 100, not 100.0.
fn number(value: f64) -> Value {
    #[expect(clippy::cast_possible_truncation, reason = "used only where it is whole and small")]
    let whole = value as i64;
    if value.fract() == 0.0 && value.abs() < 1e15 { json!(whole) } else { json!(value) }
}

/// restic's object: what is 0 is left out.
fn to_json(stats: &Stats) -> Value {
    let (ratio, progress, saving) = ratios(stats);
    let mut out = Map::new();
    out.insert("total_size".to_owned(), json!(stats.total_size));
    for (key, value) in [
        ("total_uncompressed_size", stats.uncompressed),
        ("total_file_count", stats.files),
        ("total_blob_count", stats.blobs),
    ] {
        if value != 0 {
            out.insert(key.to_owned(), json!(value));
        }
    }
    for (key, value) in [
        ("compression_ratio", ratio),
        ("compression_progress", progress),
        ("compression_space_saving", saving),
    ] {
        if value != 0.0 {
            out.insert(key.to_owned(), number(value));
        }
    }
    out.insert("snapshots_count".to_owned(), json!(stats.snapshots));
    Value::Object(out)
}

fn describe(stats: &Stats, mode: CountMode) -> String {
    let mut lines = vec![("Snapshots", count(stats.snapshots))];
    match mode {
        CountMode::RestoreSize => lines.push(("Files and directories", count(stats.files))),
        CountMode::FilesByContents => lines.push(("Files of different content", count(stats.files))),
        CountMode::BlobsPerFile => {
            lines.push(("Blobs", count(stats.blobs)));
            lines.push(("Files", count(stats.files)));
        }
        CountMode::RawData => {
            let (ratio, progress, saving) = ratios(stats);
            lines.push(("Blobs", count(stats.blobs)));
            lines.push(("Uncompressed size", size(stats.uncompressed)));
            lines.push(("Compressed share", format!("{progress:.1} %")));
            lines.push(("Compression ratio", format!("{ratio:.2}x")));
            lines.push(("Space saved", format!("{saving:.1} %")));
        }
    }
    lines.push(("Total size", size(stats.total_size)));
    let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    lines.iter().map(|(name, value)| format!("{name:>width$}: {value}")).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_counted_is_not_said() {
        let found = Stats { snapshots: 2, total_size: 10, files: 3, ..Stats::default() };
        assert_eq!(to_json(&found), json!({"total_size": 10, "total_file_count": 3, "snapshots_count": 2}));
        let all =
            Stats { uncompressed: 8, compressed_blobs: 4, compressed_blobs_plain: 8, total_size: 5, ..found };
        assert_eq!(
            to_json(&all).to_string(),
            r#"{"compression_progress":100,"compression_ratio":2,"compression_space_saving":37.5,"snapshots_count":2,"total_file_count":3,"total_size":5,"total_uncompressed_size":8}"#
        );
        let text = describe(&found, CountMode::RestoreSize);
        assert!(text.ends_with("Total size: 10 B") && text.lines().count() == 3, "{text}");
    }
}
