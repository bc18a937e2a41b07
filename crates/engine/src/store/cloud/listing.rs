//! Listings come to an end, whatever the server says: pages that begin anew, pages without end, pages without files.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};

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

#[cfg(test)]
mod tests {
    use super::*;

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
}
