//! Repositories near a location that holds none. Whoever has only a bucket and a password knows no directory: the
//! bucket tells them. Looks only, and gives up early: the command has failed already.

use std::sync::Arc;
use std::time::Duration;

use holdfast_engine::error::{ErrorKind, Result};
use holdfast_engine::store::{Location, Store};

use crate::failure::Failure;

/// Levels of directories looked at: a storage's prefix, and `<cluster>/<namespace>/<name>` below it.
const LEVELS: usize = 4;
/// Most entries looked at in one directory.
const WIDTH: usize = 1_000;
/// Most directories looked at in all: each is a request.
const LISTINGS: usize = 500;
/// Most repositories that are named.
const NAMED: usize = 20;
/// How long the look around may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// Names the repositories that lie below the location, or else below the directories above it in its bucket.
/// `failure` says that there is none at the location itself.
pub(super) async fn named(
    failure: Failure,
    location: &Location,
    open: impl Fn(&Location) -> Result<Arc<dyn Store>>,
) -> Failure {
    let mut left = LISTINGS;
    let mut place = Some(location.clone());
    while let Some(base) = place {
        let Ok(store) = open(&base) else { break };
        let found = below(store.as_ref(), &base, &mut left).await;
        if !found.is_empty() {
            return Failure { advice: Some(advice(&found)), ..failure };
        }
        place = above(&base);
    }
    failure
}

/// Whether this failure says that there is no repository.
pub(super) fn applies(failure: &Failure) -> bool {
    failure.kind == ErrorKind::NotARepository.as_str()
}

fn advice(found: &[Location]) -> String {
    let names: Vec<String> = found.iter().take(NAMED).map(ToString::to_string).collect();
    let more = if found.len() > NAMED { ", and more" } else { "" };
    format!("name one with -r: there is {}{more}", names.join(", "))
}

/// The repositories below a location, in the order of their names; one more than are named when there are more.
async fn below(store: &dyn Store, base: &Location, left: &mut usize) -> Vec<Location> {
    let mut found = Vec::new();
    let mut waiting = vec![(String::new(), 0_usize)];
    while let Some((directory, level)) = waiting.pop() {
        if *left == 0 || found.len() > NAMED {
            break;
        }
        *left = left.saturating_sub(1);
        // What cannot be listed cannot be named: the failure that is reported is another.
        let Ok(names) = store.list_extra(&directory, WIDTH).await else { break };
        let has = |name: &str| names.iter().any(|n| n == name);
        if has("config") && has("keys/") {
            found.push(base.join(&directory));
            continue;
        }
        if level == LEVELS {
            continue;
        }
        // The last is looked at first: reversed, the look goes in the order of names.
        for name in names.iter().rev().filter_map(|name| name.strip_suffix('/')) {
            let path = if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") };
            waiting.push((path, level.saturating_add(1)));
        }
    }
    found
}

/// The directory above a location within its bucket. A file system has no such end: there nobody goes up.
fn above(location: &Location) -> Option<Location> {
    let cut = |prefix: &str| {
        (!prefix.is_empty()).then(|| prefix.rsplit_once('/').map_or("", |(above, _)| above).to_owned())
    };
    match location {
        Location::S3 { endpoint, bucket, prefix } => {
            let (endpoint, bucket) = (endpoint.clone(), bucket.clone());
            cut(prefix).map(|prefix| Location::S3 { endpoint, bucket, prefix })
        }
        Location::Gcs { bucket, prefix } => {
            cut(prefix).map(|prefix| Location::Gcs { bucket: bucket.clone(), prefix })
        }
        Location::Azure { container, prefix } => {
            cut(prefix).map(|prefix| Location::Azure { container: container.clone(), prefix })
        }
        Location::Local(_) | Location::Rest { .. } => None,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use holdfast_engine::error::Error;
    use holdfast_engine::event::Ctx;
    use holdfast_engine::store::{self, StoreOptions};

    use super::*;

    fn repository(root: &Path, path: &str) {
        fs::create_dir_all(root.join(path).join("keys")).unwrap();
        fs::write(root.join(path).join("config"), "x").unwrap();
    }

    fn none() -> Failure {
        Error::new(ErrorKind::NotARepository, "there is none").into()
    }

    /// Looks around with a directory in the place of a bucket.
    async fn look(root: &Path, location: &str) -> Failure {
        let location: Location = location.parse().unwrap();
        let open = |place: &Location| {
            let Location::S3 { prefix, .. } = place else { panic!("{place}") };
            store::open(&Location::Local(root.join(prefix)), &StoreOptions::default(), &Ctx::default())
        };
        named(none(), &location, open).await
    }

    #[tokio::test]
    async fn the_bucket_tells_its_repositories_from_any_place_in_it() {
        let root = tempfile::tempdir().unwrap();
        repository(root.path(), "prod/shop/offsite-x7k2p");
        repository(root.path(), "prod/blog/offsite-9ab3c");
        // No repository: no keys; and the packs of one are not looked through.
        fs::create_dir_all(root.path().join("prod/shop/other")).unwrap();
        fs::write(root.path().join("prod/shop/other/config"), "x").unwrap();
        repository(root.path(), "prod/shop/offsite-x7k2p/data/00");

        let shop = "s3:https://h/b/prod/shop/offsite-x7k2p";
        let both = format!("name one with -r: there is s3:https://h/b/prod/blog/offsite-9ab3c, {shop}");
        for (from, advice) in [
            ("s3:https://h/b", both.as_str()),
            ("s3:https://h/b/prod", &both),
            ("s3:https://h/b/prdo/shop/offsite-x7k2p", &both),
            ("s3:https://h/b/prod/shop/offsite-typo", &format!("name one with -r: there is {shop}")),
        ] {
            let told = look(root.path(), from).await;
            assert_eq!(
                (told.advice.as_deref(), told.cause.as_str()),
                (Some(advice), "there is none"),
                "{from}"
            );
        }
    }

    #[tokio::test]
    async fn a_place_without_any_is_told_as_before() {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join("photos/2026")).unwrap();
        assert_eq!(look(root.path(), "s3:https://h/b/photos").await.advice, none().advice);
    }

    #[tokio::test]
    async fn many_are_not_all_named() {
        let root = tempfile::tempdir().unwrap();
        for n in 0..=NAMED.saturating_add(5) {
            repository(root.path(), &format!("prod/shop-{n:02}/offsite"));
        }
        let advice = look(root.path(), "s3:https://h/b").await.advice.unwrap();
        assert!(advice.ends_with("prod/shop-19/offsite, and more"), "{advice}");
    }

    #[test]
    fn one_goes_up_to_the_bucket_and_no_further() {
        let mut place: Option<Location> = Some("gs:b:/x/y".parse().unwrap());
        let mut seen = Vec::new();
        while let Some(at) = place {
            seen.push(at.to_string());
            place = above(&at);
        }
        assert_eq!(seen, ["gs:b:/x/y", "gs:b:/x", "gs:b:/"]);
        assert_eq!(above(&"/srv/backups".parse().unwrap()), None);
    }
}
