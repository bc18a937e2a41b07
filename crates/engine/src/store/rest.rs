//! A repository behind a server of restic's REST protocol, version 2 (restic's documentation, "REST Backend"):
//! `rest-server`, `rclone serve restic` and others.
//!
//! Such a server holds a repository's files and nothing beside them: there are no extra files here.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use object_store::client::HttpRequestBody;
use reqwest::header::{ACCEPT, CONTENT_RANGE, RANGE};
use reqwest::{Client, Method, RequestBuilder, Response};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Deserialize;

use super::answer::{Answer, STALL, Stalled, find, innermost, patience, told};
use super::{Entry, FileKind, FileName, Login, PutMode, PutPayload, Store, StoreOptions};
use crate::error::{Error, ErrorKind, Result};
use crate::id::Id;

/// Asks for names with sizes; older servers send names alone, which cannot be used.
const VERSION_2: &str = "application/vnd.x.restic.rest.v2";
/// The longest listing that is read: about three million packs.
const MAX_LISTING: u64 = 256 << 20;
/// The most that is read of a refusal.
const MAX_REFUSAL: u64 = 64 << 10;

const KINDS: [FileKind; 5] =
    [FileKind::Key, FileKind::Lock, FileKind::Snapshot, FileKind::Index, FileKind::Pack];

pub(super) struct RestStore {
    client: Client,
    /// Ends with a slash.
    base: String,
    login: Option<(String, SecretString)>,
    description: String,
    /// A config was read or written: what lies here is a repository.
    made: AtomicBool,
    /// Locks that were written and not removed: the directory that they lie in is there.
    locks: Mutex<HashSet<Id>>,
}

#[derive(Deserialize)]
struct Listed {
    name: String,
    size: u64,
}

impl RestStore {
    pub(super) fn new(url: &str, login: Option<&Login>, options: &StoreOptions) -> Result<Self> {
        let mut client = Client::builder()
            .user_agent(concat!("holdfast/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(Duration::from_secs(15))
            .redirect(reqwest::redirect::Policy::none())
            .read_timeout(STALL);
        if let Some(pem) = &options.ca_pem {
            let bad = |e: reqwest::Error| super::cloud::bad_ca(e.into());
            let certificates = reqwest::Certificate::from_pem_bundle(pem).map_err(bad)?;
            if certificates.is_empty() {
                return Err(super::cloud::bad_ca("it holds no certificate".into()));
            }
            for certificate in certificates {
                client = client.add_root_certificate(certificate);
            }
        }
        let client = client.build().map_err(|e| {
            Error::with_source(ErrorKind::Internal, "a client for REST servers could not be made", e)
        })?;
        let login = match (login, &options.rest.username) {
            (Some(login), _) => Some((login.username().to_owned(), login.password().clone())),
            (None, Some(username)) => {
                Some((username.clone(), options.rest.password.clone().unwrap_or_default()))
            }
            (None, None) => None,
        };
        let base = if url.ends_with('/') { url.to_owned() } else { format!("{url}/") };
        Ok(Self {
            client,
            description: format!("rest:{base}"),
            base,
            login,
            made: AtomicBool::new(false),
            locks: Mutex::default(),
        })
    }

    /// Files have no two-digit directories here.
    fn url(&self, name: FileName) -> String {
        match name.kind {
            FileKind::Config => format!("{}config", self.base),
            kind => format!("{}{}/{}", self.base, kind.directory(), name.id),
        }
    }

    fn request(&self, method: Method, url: &str) -> RequestBuilder {
        let request = self.client.request(method, url).header(ACCEPT, VERSION_2);
        match &self.login {
            Some((name, password)) => request.basic_auth(name, Some(password.expose_secret())),
            None => request,
        }
    }

    /// Sends, and turns a refusal into an error.
    async fn send(&self, what: &str, request: RequestBuilder, carried: usize) -> Result<Response> {
        let limit = patience(carried as u64);
        let response = tokio::time::timeout(limit, request.send())
            .await
            .map_err(|_| self.stalled(what, limit))?
            .map_err(|e| self.broken(what, e))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = self.collect(what, response, MAX_REFUSAL).await.unwrap_or_default();
        let mut answer = Answer::new(status.as_u16(), None, &body);
        if answer.message.is_empty() {
            answer.message = told(&String::from_utf8_lossy(&body), 300);
        }
        Err(self.refused(what, answer))
    }

    fn refused(&self, what: &str, answer: Answer) -> Error {
        let kind = answer.kind();
        let advice = match kind {
            ErrorKind::Auth => "the server refuses the login: check user and password",
            ErrorKind::AccessDenied => {
                "the server does not allow it: it may be append-only, or this user may not use this path"
            }
            ErrorKind::Missing => "it does not exist on the server",
            ErrorKind::Full => "the server has no space left, or the quota is used up",
            ErrorKind::Unreachable => "the server has a problem",
            ErrorKind::Corrupt => "the file is shorter than expected",
            _ => "the server does not understand the request: check that it is a restic REST server",
        };
        Error::with_source(kind, format!("{what} in {} failed; {advice}", self.description), answer)
    }

    fn stalled(&self, what: &str, limit: Duration) -> Error {
        Error::with_source(
            ErrorKind::Timeout,
            format!("{what} in {} failed; the server does not answer", self.description),
            Stalled(limit),
        )
    }

    fn broken(&self, what: &str, error: reqwest::Error) -> Error {
        let (kind, advice) = if find::<rustls::Error>(&error).is_some() {
            (
                ErrorKind::Tls,
                "a trusted connection could not be made: check the CA certificate and the server's name",
            )
        } else if error.is_timeout() {
            (ErrorKind::Timeout, "the server does not answer")
        } else if error.is_builder() {
            (ErrorKind::Usage, "the address is malformed")
        } else {
            (ErrorKind::Unreachable, "the server cannot be reached: check address and network")
        };
        // The URL is in the description, and may not differ from one failure to the next.
        Error::with_source(
            kind,
            format!("{what} in {} failed; {advice}", self.description),
            innermost(&error.without_url()),
        )
    }

    /// An answer's body, whole, and no longer than announced or than `most`.
    async fn collect(&self, what: &str, mut response: Response, most: u64) -> Result<Bytes> {
        let announced = response.content_length();
        let too_long = || {
            Error::new(
                ErrorKind::Corrupt,
                format!(
                    "{what} in {} failed; more than {most} bytes come, which is too much",
                    self.description
                ),
            )
        };
        if announced.is_some_and(|length| length > most) {
            return Err(too_long());
        }
        let mut bytes =
            BytesMut::with_capacity(usize::try_from(announced.unwrap_or(0).min(64 << 20)).unwrap_or(0));
        while let Some(chunk) = tokio::time::timeout(STALL, response.chunk())
            .await
            .map_err(|_| self.stalled(what, STALL))?
            .map_err(|e| self.broken(what, e))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() as u64 > most {
                return Err(too_long());
            }
        }
        if announced.is_some_and(|n| n != bytes.len() as u64) {
            return Err(Error::new(
                ErrorKind::Unreachable,
                format!("{what} in {} failed; the answer was cut short", self.description),
            ));
        }
        Ok(bytes.freeze())
    }

    /// The stretch asked for, or the whole file (`false`) where the server ignores what was asked.
    async fn ranged(&self, what: &str, name: FileName, range: String, wanted: u64) -> Result<(Bytes, bool)> {
        let request = self.request(Method::GET, &self.url(name)).header(RANGE, range);
        let response = self.send(what, request, 0).await?;
        let partial = response.status().as_u16() == 206 || response.headers().contains_key(CONTENT_RANGE);
        let most = if partial { wanted } else { name.kind.longest() };
        Ok((self.collect(what, response, most).await?, partial))
    }

    fn no_extras(&self, path: &str) -> Error {
        Error::new(
            ErrorKind::Usage,
            format!(
                "{path:?} cannot be kept in {}: a REST server takes a repository's own files only",
                self.description
            ),
        )
    }

    /// What the server lists of a kind; `Missing` when it says that there is no such directory.
    async fn listed(&self, kind: FileKind) -> Result<Vec<Entry>> {
        let what = format!("listing {}", kind.directory());
        let request = self.request(Method::GET, &format!("{}{}/", self.base, kind.directory()));
        let response = self.send(&what, request, 0).await?;
        let bytes = self.collect(&what, response, MAX_LISTING).await?;
        let listed: Vec<Listed> = serde_json::from_slice(&bytes).map_err(|e| {
            Error::with_source(
                ErrorKind::Listing,
                format!(
                    "{what} in {} failed; the answer is no list of the protocol's version 2",
                    self.description
                ),
                e,
            )
        })?;
        Ok(listed
            .into_iter()
            .filter(|file| !(kind == FileKind::Lock && file.size == 0))
            .filter_map(|file| Some(Entry { id: file.name.parse().ok()?, size: file.size, modified: None }))
            .collect())
    }

    /// An error unless a directory that is "not found" can be believed to hold nothing. restic's server has no directories
    /// before a repository is made, and then all; it lacks those which a tool left out that copies no empty ones. Other
    /// servers list nothing instead. But old versions of `rclone serve restic` and of restic's server answer so to any
    /// trouble, and what stands in front of a server when that is away: restic lost a repository to a prune that took
    /// this for no snapshots (its issue 4612). So it is believed of locks, as long as none of them is our own, and of a
    /// repository that holds nothing at all.
    async fn refuse_absent(&self, kind: FileKind, refusal: Error) -> Result<()> {
        let absent = |why: &str, refusal: Error| {
            Err(Error::with_source(
                ErrorKind::Listing,
                format!(
                    "listing {} in {} failed; the server says that there is no such directory, {why}: look at the \
                     server, and at what stands between; if nothing was in it, make it anew on the server",
                    kind.directory(),
                    self.description
                ),
                refusal,
            ))
        };
        let made = self.made.load(Ordering::Relaxed);
        if !self.exists(FileName { kind: FileKind::Config, id: Id::default() }).await? {
            // No repository was made here yet, unless it was just read.
            return if made { absent("nor a config any more", refusal) } else { Ok(()) };
        }
        match kind {
            FileKind::Lock if self.locks().is_empty() => return Ok(()),
            FileKind::Lock => return absent("but this program has just written a lock into it", refusal),
            FileKind::Key => return absent("but without keys nobody can open the repository", refusal),
            _ => {}
        }
        for other in FileKind::CONTENT.into_iter().filter(|other| *other != kind) {
            match self.listed(other).await {
                Ok(found) if found.is_empty() => {}
                Err(e) if e.kind() == ErrorKind::Missing => {}
                Ok(_) => return absent(&format!("but lists files of {}", other.directory()), refusal),
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// Notes what is there, of what a call that went well was about.
    fn note(&self, name: FileName) {
        match name.kind {
            FileKind::Config => self.made.store(true, Ordering::Relaxed),
            FileKind::Lock => drop(self.locks().insert(name.id)),
            _ => {}
        }
    }

    fn locks(&self) -> MutexGuard<'_, HashSet<Id>> {
        self.locks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn exists(&self, name: FileName) -> Result<bool> {
        match self.size(name).await {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == ErrorKind::Missing => Ok(false),
            Err(e) => Err(e),
        }
    }
}

#[async_trait::async_trait]
impl Store for RestStore {
    async fn list(&self, kind: FileKind) -> Result<Vec<Entry>> {
        if kind == FileKind::Config {
            let config = FileName { kind, id: Id::default() };
            return match self.size(config).await {
                Ok(size) => Ok(vec![Entry { id: Id::default(), size, modified: None }]),
                Err(e) if e.kind() == ErrorKind::Missing => Ok(Vec::new()),
                Err(e) => Err(e),
            };
        }
        match self.listed(kind).await {
            Err(e) if e.kind() == ErrorKind::Missing => {
                self.refuse_absent(kind, e).await.map(|()| Vec::new())
            }
            other => other,
        }
    }

    async fn get(&self, name: FileName, range: Option<Range<u64>>) -> Result<Bytes> {
        let what = format!("reading {name}");
        let Some(range) = range else {
            let response = self.send(&what, self.request(Method::GET, &self.url(name)), 0).await?;
            let bytes = self.collect(&what, response, name.kind.longest()).await?;
            // Whose locks they read, programs do not remove.
            if name.kind == FileKind::Config {
                self.note(name);
            }
            return Ok(bytes);
        };
        let last = range.end.saturating_sub(1);
        let wanted = range.end.saturating_sub(range.start);
        let (bytes, partial) =
            self.ranged(&what, name, format!("bytes={}-{last}", range.start), wanted).await?;
        // A server may answer with the whole file instead.
        let bytes = if partial {
            bytes
        } else {
            let (start, end) = (usize::try_from(range.start), usize::try_from(range.end));
            match (start, end) {
                (Ok(start), Ok(end)) if end <= bytes.len() && start <= end => bytes.slice(start..end),
                _ => Bytes::new(),
            }
        };
        if bytes.len() as u64 == wanted {
            return Ok(bytes);
        }
        Err(Error::new(
            ErrorKind::Corrupt,
            format!("{what}: {} bytes came of the {wanted} that the index says it has there", bytes.len()),
        ))
    }

    async fn get_suffix(&self, name: FileName, len: u64) -> Result<Bytes> {
        let what = format!("reading the end of {name}");
        let (bytes, _) = self.ranged(&what, name, format!("bytes=-{len}"), len).await?;
        let surplus = bytes.len().saturating_sub(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(bytes.slice(surplus..))
    }

    async fn size(&self, name: FileName) -> Result<u64> {
        let what = format!("looking at {name}");
        let response = self.send(&what, self.request(Method::HEAD, &self.url(name)), 0).await?;
        // The body of this answer is empty, so its length is only in the header.
        let length = response.headers().get(reqwest::header::CONTENT_LENGTH);
        length.and_then(|v| v.to_str().ok()).and_then(|v| v.parse().ok()).ok_or_else(|| {
            Error::new(
                ErrorKind::Unreachable,
                format!("{what} in {} failed; the answer has no length", self.description),
            )
        })
    }

    async fn put(&self, name: FileName, body: PutPayload, mode: PutMode) -> Result<()> {
        let what = format!("writing {name}");
        let size = body.content_length();
        // Of known length, so that it is told beforehand.
        let sent = reqwest::Body::wrap(HttpRequestBody::from(body));
        let request = self.request(Method::POST, &self.url(name)).body(sent);
        match self.send(&what, request, size).await {
            Ok(_) => {
                self.note(name);
                Ok(())
            }
            // Servers of this protocol never replace a file, and say so with 403, as they do for other reasons.
            Err(e) if e.kind() == ErrorKind::AccessDenied => match (mode, self.size(name).await) {
                (PutMode::ContentAddressed, Ok(found)) if found == size as u64 => {
                    self.note(name);
                    Ok(())
                }
                (PutMode::CreateNew, Ok(_)) => Err(Error::with_source(
                    ErrorKind::AlreadyInitialized,
                    format!("{what}: it is there already"),
                    e,
                )),
                _ => Err(e),
            },
            Err(e) => Err(e),
        }
    }

    async fn delete(&self, name: FileName) -> Result<()> {
        let request = self.request(Method::DELETE, &self.url(name));
        match self.send(&format!("removing {name}"), request, 0).await {
            Err(e) if e.kind() != ErrorKind::Missing => Err(e),
            _ => {
                self.locks().remove(&name.id);
                Ok(())
            }
        }
    }

    async fn is_empty(&self) -> Result<bool> {
        Ok(self.list_extra("", 1).await?.is_empty())
    }

    async fn prepare(&self) -> Result<()> {
        let request = self.request(Method::POST, &format!("{}?create=true", self.base));
        self.send("making the repository", request, 0).await.map(drop)
    }

    async fn get_extra(&self, _path: &str) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn put_extra(&self, path: &str, _body: Bytes, _mode: PutMode) -> Result<()> {
        Err(self.no_extras(path))
    }

    async fn delete_extra(&self, _path: &str) -> Result<()> {
        Ok(())
    }

    /// The protocol lists no directories: what there is of a repository is found by asking for each kind.
    async fn list_extra(&self, directory: &str, limit: usize) -> Result<Vec<String>> {
        if !directory.is_empty() {
            return Err(self.no_extras(directory));
        }
        let mut names = Vec::new();
        if self.exists(FileName { kind: FileKind::Config, id: Id::default() }).await? {
            names.push("config".to_owned());
        }
        for kind in KINDS {
            if names.len() >= limit {
                break;
            }
            if !self.list(kind).await?.is_empty() {
                names.push(format!("{}/", kind.directory()));
            }
        }
        names.truncate(limit);
        names.sort_unstable();
        Ok(names)
    }

    fn describe(&self) -> String {
        self.description.clone()
    }
}
