//! Listings come to an end, whatever the server says: pages that begin anew, pages without end, pages without files. And
//! not before their end: a page after which more follow says how they are asked for.

use std::time::Duration;

use object_store::path::Path;
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::error::{Error, ErrorKind, Result};
use crate::store::answer::told;

/// The most files of one kind that a listing may have. As packs of 16 MiB they would be a PiB; listed they take some
/// 3 GiB of memory.
const MOST: u64 = 64 << 20;
/// How long a server may answer without naming a file: it may send pages of none.
const PATIENCE: Duration = Duration::from_mins(10);

/// Looks at the names of one listing as they come.
#[derive(Debug, Default)]
pub(super) struct Watch {
    seen: u64,
    /// A name that was seen, and after how many the next one is remembered instead. Should it come again, the listing
    /// goes in a circle: no file is listed twice. This finds a circle of any length, at the latest in its third round.
    remembered: String,
    until: u64,
}

impl Watch {
    /// The next name; an error when the listing will not end.
    pub(super) fn next(&mut self, what: &str, name: &str) -> Result<()> {
        self.up_to(MOST, what, name)
    }

    fn up_to(&mut self, most: u64, what: &str, name: &str) -> Result<()> {
        let endless = |why: String| {
            let advice = "the server's listings cannot be trusted; look at it, and at what stands between";
            Err(Error::new(ErrorKind::Listing, format!("{what} failed; {why}: {advice}")))
        };
        if self.seen > 0 && name == self.remembered {
            return endless(format!("{name:?} is listed again after {} names", self.seen));
        }
        self.seen = self.seen.saturating_add(1);
        if self.seen > most {
            return endless(format!("it has more than {most} names"));
        }
        if self.seen >= self.until {
            name.clone_into(&mut self.remembered);
            self.until = self.seen.saturating_mul(2);
        }
        Ok(())
    }
}

/// How many names are looked at for what lies directly below a directory: at a thousand a page some minutes of asking.
const MOST_BELOW: usize = 1_000_000;

/// What lies directly below a directory, taken from a listing page by page. However many objects lie there, no more is kept than is
/// asked for.
#[derive(Debug)]
pub(super) struct Below<'p> {
    own: &'p Path,
    limit: usize,
    seen: usize,
    directories: Vec<String>,
    files: Vec<String>,
}

impl<'p> Below<'p> {
    pub(super) fn new(own: &'p Path, limit: usize) -> Self {
        Self { own, limit, seen: 0, directories: Vec::new(), files: Vec::new() }
    }

    /// Takes a page. Whether no other is needed: directories go before files, and are all there.
    pub(super) fn has_enough<'f>(
        &mut self,
        directories: &[Path],
        files: impl ExactSizeIterator<Item = &'f Path>,
    ) -> bool {
        self.seen = self.seen.saturating_add(directories.len()).saturating_add(files.len());
        let directories = directories.iter().filter_map(|path| Some(format!("{}/", path.filename()?)));
        self.directories.extend(directories.take(self.limit.saturating_sub(self.directories.len())));
        // An object named like the directory itself stands for it with some programs.
        let files = files.filter(|path| *path != self.own).filter_map(|path| path.filename());
        self.files.extend(files.map(str::to_owned).take(self.limit.saturating_sub(self.files.len())));
        self.directories.len() >= self.limit || self.seen >= MOST_BELOW
    }

    /// Names, of directories with a `/` at their end, in order.
    pub(super) fn names(self) -> Vec<String> {
        let mut names: Vec<String> =
            self.directories.into_iter().chain(self.files).take(self.limit).collect();
        names.sort_unstable();
        names
    }
}

/// Waits for the next name, or for all of a short listing, but not for ever.
pub(super) async fn in_time<T>(what: &str, next: impl Future<Output = T>) -> Result<T> {
    within(PATIENCE, what, next).await
}

async fn within<T>(patience: Duration, what: &str, next: impl Future<Output = T>) -> Result<T> {
    tokio::time::timeout(patience, next).await.map_err(|_| {
        let seconds = patience.as_secs();
        Error::new(ErrorKind::Listing, format!("{what} failed; the server named no file for {seconds} s"))
    })
}

/// An answer that is no page of a listing, or one after which names are missing.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct Unusable(String);

/// A page of a listing: of S3 and Google (`ListObjectsV2` in the S3 API reference), or of Azure ("List Blobs").
#[derive(Deserialize)]
enum Answered {
    ListBucketResult(Page),
    /// Tells by the marker alone that more follow.
    EnumerationResults(IgnoredAny),
}

/// What a page says of the next one.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Page {
    #[serde(default)]
    is_truncated: String,
    #[serde(default)]
    next_continuation_token: String,
}

/// Refuses what the client library would take for a whole list. It goes by the continuation token alone and asks for no
/// element by name: a server that knows only the first version of the request, which has no such token, would have its
/// first thousand names taken for all, and a page of HTML would be a list of none.
pub(super) fn usable(body: &[u8]) -> std::result::Result<(), Unusable> {
    match quick_xml::de::from_reader(body) {
        Ok(Answered::ListBucketResult(page)) => {
            let more = matches!(page.is_truncated.trim().to_ascii_lowercase().as_str(), "true" | "1");
            if more && page.next_continuation_token.trim().is_empty() {
                let why =
                    "it says that more names follow, but not how to ask for them (no continuation token)";
                return Err(Unusable(why.to_owned()));
            }
            Ok(())
        }
        Ok(Answered::EnumerationResults(_)) => Ok(()),
        Err(e) => Err(Unusable(format!("the answer is no list: {}", told(&e.to_string(), 300)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_after_which_more_follow_says_how_to_ask_for_them() {
        let page = |inside: &str| {
            let xml = format!(
                "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
                 <ListBucketResult xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{inside}</ListBucketResult>"
            );
            usable(xml.as_bytes())
        };
        let more = "<IsTruncated>true</IsTruncated>";
        let token = "<NextContinuationToken>t</NextContinuationToken>";
        let file = "<Contents><Key>a</Key><Size>1</Size></Contents>";
        for whole in [
            String::new(),
            file.repeat(2),
            format!("<IsTruncated>false</IsTruncated>{file}"),
            format!("{more}{token}{file}"),
            format!("{file}{token}<Name>b</Name>{more}"),
        ] {
            assert!(page(&whole).is_ok(), "{whole}");
        }
        // What names say is no word of the server's.
        let named =
            "<Contents><Key>&lt;NextContinuationToken&gt;t&lt;/NextContinuationToken&gt;</Key></Contents>";
        let nested = format!("<Contents>{token}</Contents>");
        for short in [
            more.to_owned(),
            format!("{file}{more}"),
            format!("{more}<NextContinuationToken></NextContinuationToken>{file}"),
            format!("{more}<NextContinuationToken/>{file}"),
            format!("{more}<NextContinuationToken> </NextContinuationToken>{file}"),
            format!("<IsTruncated> True </IsTruncated>{file}"),
            // The request's first version.
            format!("{more}<Marker></Marker><NextMarker>a</NextMarker>{file}"),
            format!("{named}{more}"),
            format!("{more}<!-- {token} -->{nested}"),
        ] {
            let why = page(&short).expect_err(&short).to_string();
            assert!(why.contains("no continuation token"), "{why}");
        }
        let named = "<Contents><Key>&lt;IsTruncated&gt;true&lt;/IsTruncated&gt;</Key></Contents>";
        assert!(page(named).is_ok());
    }

    #[test]
    fn what_is_no_list_is_not_taken_for_one_of_nothing() {
        for other in
            ["", "<html></html>", "<Error><Code>x</Code></Error>", "<ListBucketResult><Contents>", "no"]
        {
            assert!(usable(other.as_bytes()).is_err(), "{other}");
        }
        let azure = "\u{feff}<?xml version=\"1.0\" encoding=\"utf-8\"?><EnumerationResults ContainerName=\"c\">\
                     <Prefix>a/</Prefix><Blobs><Blob><Name>b</Name></Blob></Blobs><NextMarker /></EnumerationResults>";
        usable(azure.as_bytes()).unwrap();
    }

    fn listed(names: impl Iterator<Item = u64>, most: u64) -> (u64, Option<Error>) {
        let mut watch = Watch::default();
        let mut taken = 0;
        for name in names {
            if let Err(error) = watch.up_to(most, "listing data", &name.to_string()) {
                return (taken, Some(error));
            }
            taken += 1;
        }
        (taken, None)
    }

    #[test]
    fn a_circle_of_any_length_is_found_soon() {
        for (before, round) in [(0, 1), (0, 1000), (5000, 1000), (1, 7), (1000, 100_000)] {
            let names = (0..before).chain((before..before + round).cycle());
            let (taken, error) = listed(names, u64::MAX);
            let error = error.expect("a circle");
            assert_eq!(error.kind(), ErrorKind::Listing);
            assert!(error.to_string().contains("is listed again"), "{error}");
            assert!(taken <= 2 * before + 3 * round, "{before} {round}: {taken}");
        }
    }

    #[test]
    fn a_listing_has_an_end() {
        assert!(matches!(listed(0..100_000, 100_000), (100_000, None)));
        let (taken, error) = listed(0.., 100_000);
        assert_eq!(taken, 100_000);
        assert!(error.expect("an end").to_string().contains("more than 100000 names"));
    }

    #[tokio::test]
    async fn pages_without_a_name_end_too() {
        let never = within(Duration::from_millis(5), "listing data", std::future::pending::<()>());
        assert_eq!(never.await.unwrap_err().kind(), ErrorKind::Listing);
        assert_eq!(in_time("listing data", async { 7 }).await.unwrap(), 7);
    }

    #[test]
    fn of_what_lies_below_no_more_is_kept_than_is_asked_for() {
        let own = Path::from("a/b");
        let paths = |names: &[String]| -> Vec<Path> {
            names.iter().map(|name| Path::from(format!("a/b/{name}"))).collect()
        };
        let thousand = paths(&(0..1000).map(|n| format!("f{n:04}")).collect::<Vec<_>>());
        let directories = |names: &[&str]| paths(&names.iter().map(ToString::to_string).collect::<Vec<_>>());
        let mut below = Below::new(&own, 3);
        let pages = (0..MOST_BELOW).find(|_| below.has_enough(&[], thousand.iter())).unwrap();
        assert_eq!((pages + 1) * 1000, MOST_BELOW, "it ends though there is more");
        assert_eq!(below.files.len(), 3);
        assert_eq!(below.names(), ["f0000", "f0001", "f0002"]);

        // Of directories one that comes late is not passed over for files.
        let mut below = Below::new(&own, 3);
        assert!(!below.has_enough(&directories(&["x"]), thousand.iter()));
        assert!(!below.has_enough(&directories(&["y"]), thousand.iter()));
        assert_eq!(below.names(), ["f0000", "x/", "y/"]);
        let mut below = Below::new(&own, 3);
        assert!(below.has_enough(&directories(&["v", "w", "x", "y"]), [].iter()));
        assert_eq!(below.names(), ["v/", "w/", "x/"]);

        let mut below = Below::new(&own, 3);
        assert!(!below.has_enough(&[], [own.clone()].iter()));
        assert_eq!(below.names(), Vec::<String>::new());
    }
}
