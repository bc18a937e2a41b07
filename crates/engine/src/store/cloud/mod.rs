//! A repository below a prefix of a bucket: S3, Google Cloud Storage or Azure Blob Storage.
//!
//! The client library's own retries are off (see `retry`), and its view of failures is sharpened (see `watched`).

mod bucket;
mod clients;
mod keys;
pub(super) mod lifecycle;
mod listing;
mod retention;
mod watched;

use std::ops::Range;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::{StreamExt as _, TryStreamExt as _};
use object_store::client::HttpError;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectStore, ObjectStoreExt as _, PutOptions, WriteMultipart};

use super::answer::{Answer, STALL, Stalled, find, innermost};
use super::{
    Entry, FileKind, FileName, Location, ObjectLock, PutMode, PutPayload, Retention, Store, StoreOptions,
};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;
use bucket::Bucket;
use clients::Checked;
pub(super) use clients::bad_ca;
use keys::Keys;

/// Above this a file is sent in parts: some servers take no more in one request, and a broken connection then
/// costs one part.
const MAX_SINGLE: usize = 64 << 20;
/// Bytes of a part.
const PART: usize = 16 << 20;

pub(super) struct CloudStore {
    client: Arc<dyn ObjectStore>,
    pages: Arc<dyn PaginatedListStore>,
    checked: Option<Checked>,
    keys: Option<Arc<Keys>>,
    /// Where the cloud knows object lock.
    bucket: Option<Bucket>,
    suffix_ranges: bool,
    prefix: Vec<String>,
    description: String,
}

/// Why an object was not written.
enum Refused {
    /// The server wants a checksum with it.
    NoChecksum(Error),
    Other(Error),
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl From<Refused> for Error {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::NoChecksum(error) | Refused::Other(error) => error,
        }
    }
}

impl CloudStore {
    pub(super) fn new(location: &Location, options: &StoreOptions) -> Result<Self> {
        let ca = options.ca_pem.as_deref();
        let client = match location {
            Location::S3 { endpoint, bucket, prefix } => {
                clients::s3(location, (endpoint, bucket, prefix), &options.s3, ca)?
            }
            Location::Gcs { bucket, prefix } => clients::gcs(location, (bucket, prefix), &options.gcs, ca)?,
            Location::Azure { container, prefix } => {
                clients::azure(location, (container, prefix), &options.azure, ca)?
            }
            Location::Local(_) | Location::Rest { .. } => {
                return Err(Error::new(ErrorKind::Internal, format!("{location} is in no cloud")));
            }
        };
        Ok(Self {
            client: client.store,
            pages: client.pages,
            checked: client.checked,
            keys: client.keys,
            bucket: client.bucket,
            suffix_ranges: client.suffix_ranges,
            prefix: client.prefix.split('/').filter(|p| !p.is_empty()).map(str::to_owned).collect(),
            description: location.to_string(),
        })
    }

    #[expect(clippy::needless_pass_by_value, reason = "errors come here by `map_err`")]
    fn error(&self, what: &str, error: object_store::Error) -> Error {
        classify(&format!("{what} in {}", self.description), &error)
    }

    /// The object's path for one relative to the location; `..` may climb up to the bucket's root.
    fn path(&self, relative: &str) -> Result<Path> {
        let usage = |why: String| {
            Error::new(ErrorKind::Usage, format!("{relative:?} is no path in {}: {why}", self.description))
        };
        let mut parts: Vec<&str> = self.prefix.iter().map(String::as_str).collect();
        for part in relative.split('/') {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop().ok_or_else(|| usage("it leads out of the bucket".to_owned()))?;
                }
                part => parts.push(part),
            }
        }
        Path::parse(parts.join("/")).map_err(|e| usage(e.to_string()))
    }

    /// Reads an object or a stretch of it, nothing at all when that has more than `most` bytes.
    async fn read(
        &self,
        what: &str,
        path: &Path,
        range: Option<GetRange>,
        most: u64,
    ) -> Result<(Range<u64>, Bytes)> {
        let options = GetOptions { range, ..GetOptions::default() };
        let result = match self.client.get_opts(path, options).await {
            Ok(result) => result,
            Err(e) => return Err(self.denied_or_absent(what, path, e).await),
        };
        let range = result.range.clone();
        let announced = range.end.saturating_sub(range.start);
        let length = usize::try_from(announced)
            .ok()
            .filter(|_| announced <= most)
            .ok_or_else(|| super::too_long(what, announced, most))?;
        let mut stream = result.into_stream();
        let mut bytes = BytesMut::with_capacity(length.min(64 << 20));
        loop {
            let chunk = tokio::time::timeout(STALL, stream.next()).await.map_err(|_| {
                Error::new(ErrorKind::Timeout, format!("{what}: no byte came for {} s", STALL.as_secs()))
            })?;
            match chunk {
                None => break,
                Some(chunk) => bytes.extend_from_slice(&chunk.map_err(|e| self.error(what, e))?),
            }
        }
        if bytes.len() != length {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!("{what}: {} bytes came where {length} were announced", bytes.len()),
            ));
        }
        Ok((range, bytes.freeze()))
    }

    /// What writes: with checksums once the server has asked for them.
    fn writer(&self) -> &Arc<dyn ObjectStore> {
        self.checked.as_ref().and_then(Checked::get).unwrap_or(&self.client)
    }

    async fn write(&self, what: &str, path: &Path, body: PutPayload, mode: PutMode) -> Result<()> {
        let failure = match self.write_once(what, path, body.clone(), mode).await {
            Err(Refused::NoChecksum(e)) => e,
            Err(Refused::Other(e)) => return Err(e),
            Ok(()) => return Ok(()),
        };
        let Some(checked) = &self.checked else { return Err(failure) };
        checked.make().map_err(|e| self.error(what, e))?;
        self.write_once(what, path, body, mode).await.map_err(Refused::into)
    }

    async fn write_once(
        &self,
        what: &str,
        path: &Path,
        body: PutPayload,
        mode: PutMode,
    ) -> Result<(), Refused> {
        let mode = match mode {
            PutMode::ContentAddressed => object_store::PutMode::Overwrite,
            PutMode::CreateNew => object_store::PutMode::Create,
        };
        let create = mode == object_store::PutMode::Create;
        if create && self.exists(what, path).await? {
            return Err(
                Error::new(ErrorKind::AlreadyInitialized, format!("{what}: it is there already")).into()
            );
        }
        if !create && body.content_length() > MAX_SINGLE {
            return self.write_parts(what, path, body).await;
        }
        let options = PutOptions { mode, ..PutOptions::default() };
        match self.writer().put_opts(path, body.clone(), options).await {
            Ok(_) => Ok(()),
            // The server does not know conditional writes; the look beforehand has to do.
            Err(e) if create && find::<Answer>(&e).is_some_and(|a| a.status == 501) => {
                self.writer().put(path, body).await.map(|_| ()).map_err(|e| self.refused(what, e))
            }
            Err(e) => Err(self.refused(what, e)),
        }
    }

    fn refused(&self, what: &str, error: object_store::Error) -> Refused {
        // AWS: "Content-MD5 OR x-amz-checksum- HTTP header is required for Put Object requests with Object Lock
        // parameters"; others use its words.
        let asked = find::<Answer>(&error).is_some_and(|a| {
            a.status == 400 && ["Content-MD5", "x-amz-checksum"].iter().any(|word| a.message.contains(word))
        });
        let error = self.error(what, error);
        if asked { Refused::NoChecksum(error) } else { Refused::Other(error) }
    }

    /// The object appears when the last part is confirmed; a failure leaves none.
    async fn write_parts(&self, what: &str, path: &Path, body: PutPayload) -> Result<(), Refused> {
        let upload = self.writer().put_multipart(path).await.map_err(|e| self.refused(what, e))?;
        let mut parts = WriteMultipart::new_with_chunk_size(upload, PART);
        body.into_iter().for_each(|piece| parts.put(piece));
        // Ends the upload on the server's side too when a part fails.
        parts.finish().await.map(|_| ()).map_err(|e| self.refused(what, e))
    }

    fn bucket(&self) -> Result<&Bucket> {
        self.bucket.as_ref().ok_or_else(|| super::retention::not_offered(&self.description))
    }

    async fn exists(&self, what: &str, path: &Path) -> Result<bool> {
        match self.client.head(path).await {
            Ok(_) => Ok(true),
            Err(object_store::Error::NotFound { .. }) => Ok(false),
            Err(e) => match self.denied_or_absent(what, path, e).await {
                e if e.kind() == ErrorKind::Missing => Ok(false),
                e => Err(e),
            },
        }
    }

    /// What a refusal means. It may say no more than that the object is not there: S3 answers so instead of "not found" to
    /// keys that may list only a part of the bucket (the condition `s3:prefix`), for such a request has no prefix to
    /// compare. And a refusal without a body, as every one of a HEAD request is, does not tell keys that have ended from
    /// rights that are missing. A listing of the directory tells both for certain.
    async fn denied_or_absent(&self, what: &str, path: &Path, refusal: object_store::Error) -> Error {
        // AWS answers 400 to keys that have ended, and says why only in a body.
        let unexplained = find::<Answer>(&refusal).is_some_and(|a| a.status == 400 && a.code.is_empty());
        let error = self.error(what, refusal);
        let denied = error.kind() == ErrorKind::AccessDenied;
        if !(denied || unexplained) || self.bucket.is_none() {
            return error;
        }
        match self.is_listed(what, path).await {
            Ok(false) if denied => Error::with_source(
                ErrorKind::Missing,
                format!("{what} failed; the object does not exist"),
                error,
            ),
            Err(e) if matches!(e.kind(), ErrorKind::Auth | ErrorKind::Unreachable | ErrorKind::Timeout) => e,
            // Who may not list either may do nothing here.
            Ok(_) | Err(_) => error,
        }
    }

    /// Whether a listing of its directory has the object.
    async fn is_listed(&self, what: &str, path: &Path) -> Result<bool> {
        let key: &str = path.as_ref();
        // Parsed, not made of parts: what the store calls it must not be escaped once more.
        let parse = |text: &str| {
            Path::parse(text).map_err(|e| Error::new(ErrorKind::Usage, format!("{what}: {text:?}: {e}")))
        };
        let directory = key.rsplit_once('/').map(|(directory, _)| parse(directory)).transpose()?;
        // Listed from what comes just before its name on.
        let mut before = key.to_owned();
        before.pop();
        let mut listed = self.client.list_with_offset(directory.as_ref(), &parse(&before)?);
        let mut watch = listing::Watch::default();
        while let Some(found) =
            listing::in_time(what, listed.try_next()).await?.map_err(|e| self.error(what, e))?
        {
            let name = found.location.as_ref();
            if name >= key {
                return Ok(name == key);
            }
            watch.next(what, name)?;
        }
        Ok(false)
    }

    async fn remove(&self, what: &str, path: &Path) -> Result<()> {
        match self.client.delete(path).await {
            Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
            Err(e) => Err(self.error(what, e)),
        }
    }
}

#[async_trait::async_trait]
impl Store for CloudStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        let prefix = self.path(kind.directory())?;
        let what = format!("listing {}", kind.directory());
        let mut stream = self.client.list(Some(&prefix));
        let mut entries = Vec::new();
        let mut watch = listing::Watch::default();
        while let Some(meta) =
            listing::in_time(&what, stream.try_next()).await?.map_err(|e| match self.error(&what, e) {
                e if e.kind() == ErrorKind::Missing => Error::with_source(
                    ErrorKind::BucketNotFound,
                    format!("{} cannot be listed: its bucket does not exist", self.description),
                    e,
                ),
                e => e,
            })?
        {
            watch.next(&what, meta.location.as_ref())?;
            let Some(id) = meta.location.filename().and_then(|n| n.parse::<Id>().ok()) else { continue };
            if kind == FileKind::Lock && meta.size == 0 {
                continue;
            }
            entries.push(Entry { id, size: meta.size, modified: Some(meta.last_modified.timestamp()) });
        }
        Ok(entries)
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let path = self.path(&name.path())?;
        let what = format!("reading {name}");
        if range.as_ref().is_some_and(Range::is_empty) {
            // HTTP has no range of nothing.
            return Ok(Bytes::new());
        }
        let wanted = range.clone();
        let most = range.as_ref().map_or(name.kind.longest(), |range| range.end.saturating_sub(range.start));
        let (got, bytes) = self.read(&what, &path, range.map(GetRange::Bounded), most).await?;
        match wanted {
            Some(wanted) if wanted != got => Err(Error::new(
                ErrorKind::Corrupt,
                format!("{what}: the object ends at byte {}, the index says it has {}", got.end, wanted.end),
            )),
            _ => Ok(bytes),
        }
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        if !self.suffix_ranges {
            let size = self.size(name).await?;
            return self.get(name, Some(size.saturating_sub(len)..size)).await;
        }
        let path = self.path(&name.path())?;
        let (_, bytes) =
            self.read(&format!("reading the end of {name}"), &path, Some(GetRange::Suffix(len)), len).await?;
        Ok(bytes)
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        let path = self.path(&name.path())?;
        let what = format!("looking at {name}");
        match self.client.head(&path).await {
            Ok(meta) => Ok(meta.size),
            Err(e) => Err(self.denied_or_absent(&what, &path, e).await),
        }
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        let path = self.path(&name.path())?;
        self.write(&format!("writing {name}"), &path, body, mode).await
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        let path = self.path(&name.path())?;
        self.remove(&format!("removing {name}"), &path).await
    }

    async fn is_empty(&self) -> Result<bool> {
        let prefix = self.path("")?;
        let mut all = self.client.list(Some(&prefix));
        let first =
            listing::in_time("listing", all.try_next()).await?.map_err(|e| self.error("listing", e))?;
        Ok(first.is_none())
    }

    async fn prepare(&self) -> Result<()> {
        Ok(())
    }

    async fn get_extra(&self, path: &str) -> Result<Option<Bytes>> {
        match self.read(&format!("reading {path}"), &self.path(path)?, None, super::LONGEST_EXTRA).await {
            Ok((_, bytes)) => Ok(Some(bytes)),
            Err(e) if e.kind() == ErrorKind::Missing => Ok(None),
            Err(e) => Err(e),
        }
    }

    async fn put_extra(&self, path: &str, body: Bytes, mode: PutMode) -> Result<()> {
        self.write(&format!("writing {path}"), &self.path(path)?, body.into(), mode).await
    }

    async fn delete_extra(&self, path: &str) -> Result<()> {
        self.remove(&format!("removing {path}"), &self.path(path)?).await
    }

    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        let path = self.path(directory)?;
        // A page's prefix is of letters and not of parts: without the slash, `a` lists what is in `ab`, too.
        let prefix = Some(path.as_ref()).filter(|path| !path.is_empty()).map(|path| format!("{path}/"));
        let what = format!("listing {directory:?}");
        let mut below = listing::Below::new(&path, limit);
        let mut page_token = None;
        let whole = async {
            loop {
                let options =
                    PaginatedListOptions { delimiter: Some("/".into()), page_token, ..Default::default() };
                let page = self.pages.list_paginated(prefix.as_deref(), options).await;
                let page = page.map_err(|e| self.error(&what, e))?;
                page_token = page.page_token;
                let files = page.result.objects.iter().map(|object| &object.location);
                if below.has_enough(&page.result.common_prefixes, files) || page_token.is_none() {
                    return Ok::<_, Error>(());
                }
            }
        };
        listing::in_time(&what, whole).await??;
        Ok(below.names())
    }

    async fn object_lock(&self) -> Result<Option<ObjectLock>> {
        self.bucket()?.configuration().await.map_err(|e| self.error("asking for the bucket's object lock", e))
    }

    async fn retention(&self, name: FileName) -> Result<Option<Retention>> {
        let path = self.path(&name.path())?;
        let found = self.bucket()?.get(&path).await;
        found.map_err(|e| self.error(&format!("asking until when {name} is protected"), e))
    }

    async fn retain(&self, name: FileName, retention: Retention) -> Result<()> {
        let path = self.path(&name.path())?;
        let done = self.bucket()?.put(&path, retention).await;
        done.map_err(|e| self.error(&format!("protecting {name}"), e))
    }

    fn describe(&self) -> String {
        self.description.clone()
    }

    fn credentials_epoch(&self) -> u64 {
        self.keys.as_ref().map_or(0, |keys| keys.epoch())
    }

    fn renew_credentials(&self, epoch: u64) -> bool {
        self.keys.as_ref().is_some_and(|keys| keys.renew(epoch))
    }
}

fn classify(what: &str, error: &object_store::Error) -> Error {
    let (kind, advice) = if let Some(answer) = find::<Answer>(error) {
        let kind = answer.kind();
        let advice = match kind {
            ErrorKind::Auth => "the server refuses the credentials: check keys, tokens and region",
            ErrorKind::Retained => "the bucket's object lock protects the object until a date",
            ErrorKind::AccessDenied => "the credentials are not allowed to do this: check the key's policy",
            ErrorKind::BucketNotFound => "the bucket does not exist: create it, or check its name",
            ErrorKind::ClockSkew => "this machine's clock and the server's differ too much: set the clock",
            ErrorKind::Missing => "the object does not exist",
            ErrorKind::Full => "the server has no space left",
            ErrorKind::Unreachable => "the server has a problem",
            ErrorKind::Corrupt => "the object is shorter than expected",
            _ => "the server does not understand the request: check endpoint and region",
        };
        (kind, advice)
    } else if find::<listing::Unusable>(error).is_some() {
        (
            ErrorKind::Listing,
            "the server's listings cannot be trusted; look at it, and at what stands between",
        )
    } else if find::<rustls::Error>(error).is_some() {
        (
            ErrorKind::Tls,
            "a trusted connection could not be made: check the CA certificate and the endpoint's name",
        )
    } else if matches!(error, object_store::Error::NotFound { .. }) {
        (ErrorKind::Missing, "the object does not exist")
    } else if matches!(
        error,
        object_store::Error::AlreadyExists { .. } | object_store::Error::Precondition { .. }
    ) {
        (ErrorKind::AlreadyInitialized, "it is there already")
    } else if find::<Stalled>(error).is_some() {
        (ErrorKind::Timeout, "the server does not answer")
    } else if find::<HttpError>(error).is_some() {
        (ErrorKind::Unreachable, "the server cannot be reached: check endpoint and network")
    } else {
        // What the client library itself finds wrong with an answer, e.g. a listing that is no XML.
        (
            ErrorKind::Unreachable,
            "the server's answer makes no sense: check that the endpoint is a server of this kind",
        )
    };
    Error::with_source(kind, format!("{what} failed; {advice}"), innermost(error))
}

#[cfg(test)]
mod tests {
    use object_store::client::HttpErrorKind;

    use super::*;
    use crate::store::S3Options;

    #[test]
    fn a_failure_reads_the_same_each_time() {
        let answer = Answer { status: 404, code: "NoSuchBucket".into(), message: "none".into() };
        let said = answer.to_string();
        let wrapped = std::io::Error::other(HttpError::new(HttpErrorKind::Unknown, answer));
        let error = object_store::Error::Generic { store: "S3", source: Box::new(wrapped) };
        let text = classify("listing", &error).chain();
        assert_eq!(
            text,
            format!("listing failed; the bucket does not exist: create it, or check its name: {said}")
        );
    }

    #[test]
    fn extra_paths_stay_in_the_bucket() {
        let s3 = S3Options {
            access_key_id: Some("k".into()),
            secret_access_key: Some("s".to_owned().into()),
            ..S3Options::default()
        };
        let options = StoreOptions { s3, ..StoreOptions::default() };
        let store = CloudStore::new(&"s3:https://localhost/bucket/a/b".parse().unwrap(), &options).unwrap();
        assert_eq!(store.path("../metadata.yaml").unwrap().to_string(), "a/metadata.yaml");
        assert_eq!(store.path("x//y/./z").unwrap().to_string(), "a/b/x/y/z");
        assert_eq!(store.path("../../../x").unwrap_err().kind(), ErrorKind::Usage);
        assert!(!format!("{options:?}").contains("\"s\""), "the secret must not show");
    }

    #[test]
    fn missing_keys_are_said_before_anything_is_sent() {
        for location in ["s3:https://localhost/bucket", "azure:container:/"] {
            let error = CloudStore::new(&location.parse().unwrap(), &StoreOptions::default()).err().unwrap();
            assert_eq!(error.kind(), ErrorKind::Auth);
        }
    }
}
