//! What `repo backup` leaves out, by restic's flags: patterns, tag files, sizes.
//!
//! Not here: reading files of patterns (`patterns`), what a pattern means (the engine).

use super::patterns::ExcludeFlags;
use super::prune::bytes;

/// The part of `repo backup`'s command line that is about what is left out.
// A group has its struct's name, and that of `repo backup` is the same.
#[derive(Debug, Default, clap::Args)]
#[group(id = "Exclude")]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) patterns: ExcludeFlags,
    /// Leave out the content of directories that hold a file of this name, which begins with HEADER where one is given;
    /// the file itself is backed up (may be given several times)
    #[arg(long, value_name = "NAME[:HEADER]", value_parser = marker)]
    pub(super) exclude_if_present: Vec<Marker>,
    /// Leave out the content of directories that hold a CACHEDIR.TAG
    #[arg(long)]
    pub(super) exclude_caches: bool,
    /// Leave out files of more than so many bytes; with K, M, G or T so many KiB, MiB, GiB or TiB
    #[arg(long, value_name = "SIZE", value_parser = bytes)]
    pub(super) exclude_larger_than: Option<u64>,
}

/// A file name, and what the file has to begin with.
pub(super) type Marker = (Vec<u8>, Vec<u8>);

fn marker(text: &str) -> Result<Marker, String> {
    let (name, header) = text.split_once(':').unwrap_or((text, ""));
    if name.is_empty() || name.contains('/') {
        return Err("it needs the name of a file, without a slash".to_owned());
    }
    Ok((name.as_bytes().to_vec(), header.as_bytes().to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_marker_may_have_a_header() {
        assert_eq!(marker(".nobackup").unwrap(), (b".nobackup".to_vec(), Vec::new()));
        assert_eq!(marker("a:b:c").unwrap(), (b"a".to_vec(), b"b:c".to_vec()));
        assert!(marker("").is_err() && marker(":x").is_err() && marker("a/b").is_err());
    }
}
