//! A handle of the store, and what becomes of each request.

use std::fmt;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult,
    MultipartUpload, ObjectMeta, ObjectStore, PutMode, PutMultipartOptions, PutOptions, PutPayload,
    PutResult, Result, UploadPart,
};
use tidemark_env::clock;
use tidemark_env::sim::Host;

use super::{Late, Placed, SimBucket, Sky, chain};

const STORE: &str = "simulated";
/// Bytes of a lie.
const FLIPPED: u8 = 0x20;

/// What becomes of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Done,
    /// Not done.
    Fails,
    Throttled,
    Denied,
    /// Done or not, nobody hears of it.
    Silence {
        done: bool,
    },
    /// Done, and the answer is that it failed.
    Lost,
    /// Failed, and done later.
    Late,
    /// Done, with other bytes.
    Lies,
}

/// The store, as one host reaches it.
#[derive(Clone)]
pub(in super::super) struct Handle {
    bucket: SimBucket,
    /// Without one, nothing goes wrong.
    host: Option<Arc<Host>>,
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Handle")
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

fn failed(what: &str) -> Error {
    Error::Generic {
        store: STORE,
        source: io::Error::other(what.to_owned()).into(),
    }
}

fn not_found(key: &str) -> Error {
    Error::NotFound {
        path: key.to_owned(),
        source: io::Error::from(io::ErrorKind::NotFound).into(),
    }
}

fn there_already(key: &str) -> Error {
    Error::AlreadyExists {
        path: key.to_owned(),
        source: io::Error::from(io::ErrorKind::AlreadyExists).into(),
    }
}

fn denied(key: &str) -> Error {
    Error::PermissionDenied {
        path: key.to_owned(),
        source: io::Error::from(io::ErrorKind::PermissionDenied).into(),
    }
}

fn answer() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
        extensions: Default::default(),
    }
}

fn joined(payload: &PutPayload) -> Bytes {
    let mut bytes = BytesMut::with_capacity(payload.content_length());
    payload
        .iter()
        .for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}

fn meta_of(key: &str, size: u64) -> ObjectMeta {
    ObjectMeta {
        location: Path::from(key),
        last_modified: UNIX_EPOCH.into(),
        size,
        e_tag: None,
        version: None,
    }
}

impl Handle {
    pub(super) fn new(bucket: SimBucket, host: Option<Arc<Host>>) -> Handle {
        Handle { bucket, host }
    }

    fn by(&self) -> (String, u64) {
        let host = self.host.as_ref();
        host.map_or((String::new(), 0), |host| {
            (host.name().to_owned(), host.life())
        })
    }

    /// What becomes of a request, and how long it takes until then.
    fn fate(&self, writes: bool) -> (Fate, Duration) {
        if self.host.is_none() {
            return (Fate::Done, Duration::ZERO);
        }
        let mut state = self.bucket.lock();
        let sky = state.sky;
        let random = &mut state.random;
        let (from, to) = match sky {
            Sky::Slow => (200, 6000),
            _ => (1, 30),
        };
        let mut takes_ms = random.between(from, to);
        let wrong = match sky {
            Sky::Flaky => random.one_in(2),
            Sky::Lying => random.one_in(if writes { 6 } else { 2 }),
            Sky::Throttled => random.below(4) > 0,
            Sky::Away | Sky::Silent | Sky::Denied => true,
            Sky::Fair | Sky::Slow => random.one_in(60),
            Sky::Clear => false,
        };
        let fate = match sky {
            _ if !wrong => Fate::Done,
            Sky::Away => Fate::Fails,
            Sky::Silent => Fate::Silence { done: false },
            Sky::Denied => Fate::Denied,
            Sky::Throttled => Fate::Throttled,
            Sky::Lying => Fate::Lies,
            Sky::Clear | Sky::Fair | Sky::Slow | Sky::Flaky => match random.below(6) {
                0 => Fate::Fails,
                1 => Fate::Throttled,
                2 => Fate::Silence {
                    done: random.one_in(2),
                },
                3 if writes => Fate::Late,
                4 if !writes => Fate::Lies,
                _ => Fate::Lost,
            },
        };
        if fate == Fate::Late {
            takes_ms += 1000;
        }
        (
            fate,
            Duration::from_millis(u64::try_from(takes_ms).unwrap_or(0)),
        )
    }

    /// Waits for what becomes of a request; `Ok` when it is to be done.
    async fn request(&self, key: &str, writes: bool) -> Result<Fate> {
        let (fate, takes) = self.fate(writes);
        if !takes.is_zero() {
            clock::sleep(takes).await;
        }
        let what = match fate {
            Fate::Done => return Ok(fate),
            Fate::Fails => "request failed",
            Fate::Throttled => "throttled",
            Fate::Denied => "denied",
            Fate::Silence { .. } => "no answer",
            Fate::Lost => "lost answer",
            Fate::Late => "late write",
            Fate::Lies => "lie",
        };
        self.bucket.record.saw(format!("bucket: {what}"));
        match fate {
            Fate::Fails => Err(failed("connection refused")),
            Fate::Throttled => Err(failed("503 Slow Down")),
            Fate::Denied => Err(denied(key)),
            Fate::Silence { done: false } => std::future::pending().await,
            fate => Ok(fate),
        }
    }

    /// The answer to what was done, if there is one.
    async fn answered(&self, fate: Fate) -> Result<()> {
        match fate {
            Fate::Lost => Err(failed("connection reset")),
            Fate::Silence { .. } => std::future::pending().await,
            _ => Ok(()),
        }
    }

    async fn write(&self, key: &str, bytes: Bytes, create: bool) -> Result<PutResult> {
        let by = self.by();
        let fate = self.request(key, true).await?;
        if fate == Fate::Late {
            let mut state = self.bucket.lock();
            let later = Duration::from_millis(500 + state.random.below(40_000));
            state.late.push(Late {
                at: clock::monotonic() + later,
                key: key.to_owned(),
                bytes,
                create,
                by,
            });
            return Err(failed("connection reset"));
        }
        let placed = self.placed(key, create).await;
        let bytes = match fate {
            // What else there is has nobody to read it back, or is read by all.
            Fate::Lies if key.ends_with(".segment") => self.lie(&bytes),
            _ => bytes,
        };
        let is_new = self.bucket.put(key, bytes, create, by);
        if placed == Some(Placed::Crash) {
            self.strike(Placed::Crash);
            std::future::pending::<()>().await;
        }
        self.answered(fate).await?;
        match is_new {
            true => Ok(answer()),
            false => Err(there_already(key)),
        }
    }

    /// What is to happen at this create of a manifest. A pause happens here.
    async fn placed(&self, key: &str, create: bool) -> Option<Placed> {
        self.host.as_ref()?;
        if !create || !chain::is_manifest(key) {
            return None;
        }
        let placed = self.bucket.lock().placed.take()?;
        if placed == Placed::Pause {
            self.strike(placed);
            // The request is on its way while its sender does not run.
            clock::sleep(Duration::from_millis(60)).await;
        }
        Some(placed)
    }

    fn strike(&self, placed: Placed) {
        if let Some(host) = &self.host {
            let mut state = self.bucket.lock();
            state.struck.push((host.name().to_owned(), placed));
        }
    }

    fn range_of(range: Option<&GetRange>, len: u64) -> Range<u64> {
        match range {
            None => 0..len,
            Some(GetRange::Bounded(range)) => range.start.min(len)..range.end.min(len),
            Some(GetRange::Offset(from)) => (*from).min(len)..len,
            Some(GetRange::Suffix(last)) => len.saturating_sub(*last)..len,
        }
    }

    /// Other bytes than these.
    fn lie(&self, bytes: &Bytes) -> Bytes {
        if bytes.is_empty() {
            return bytes.clone();
        }
        let mut state = self.bucket.lock();
        let at = state.random.index(bytes.len());
        match state.random.one_in(2) {
            true => bytes.slice(..at),
            false => {
                let mut flipped = BytesMut::from(&bytes[..]);
                flipped[at] ^= FLIPPED;
                flipped.freeze()
            }
        }
    }
}

#[async_trait]
impl ObjectStore for Handle {
    async fn put_opts(
        &self,
        location: &Path,
        payload: PutPayload,
        options: PutOptions,
    ) -> Result<PutResult> {
        let create = options.mode == PutMode::Create;
        self.write(location.as_ref(), joined(&payload), create)
            .await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        _: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let key = location.as_ref();
        let fate = self.request(key, true).await?;
        self.answered(fate).await?;
        Ok(Box::new(Parts {
            handle: self.clone(),
            key: key.to_owned(),
            bytes: BytesMut::new(),
        }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let key = location.as_ref();
        let fate = self.request(key, false).await?;
        self.answered(fate).await?;
        let object = self.bucket.lock().objects.get(key).cloned();
        let object = object.ok_or_else(|| not_found(key))?;
        let len = object.bytes.len() as u64;
        let range = Self::range_of(options.range.as_ref(), len);
        let part = |at: u64| usize::try_from(at).unwrap_or(usize::MAX);
        let mut bytes = object.bytes.slice(part(range.start)..part(range.end));
        if fate == Fate::Lies && !options.head {
            bytes = self.lie(&bytes);
        }
        Ok(GetResult {
            payload: GetResultPayload::Stream(stream::iter([Ok(bytes)]).boxed()),
            meta: meta_of(key, len),
            range,
            attributes: Default::default(),
            extensions: Default::default(),
        })
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<Path>>,
    ) -> BoxStream<'static, Result<Path>> {
        let handle = self.clone();
        let deleting = locations.then(move |location| {
            let handle = handle.clone();
            async move {
                let location = location?;
                let fate = handle.request(location.as_ref(), true).await?;
                handle.bucket.delete(location.as_ref(), &handle.by());
                match fate {
                    Fate::Late => Err(failed("connection reset")),
                    fate => handle.answered(fate).await.map(|()| location),
                }
            }
        });
        deleting.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let handle = self.clone();
        let prefix = prefix.cloned().unwrap_or_default();
        let listing = async move {
            let listed = async {
                let fate = handle.request(prefix.as_ref(), false).await?;
                handle.answered(fate).await?;
                let state = handle.bucket.lock();
                let all = state.objects.iter();
                let below = all.filter(|(key, _)| Path::from(key.as_str()).prefix_matches(&prefix));
                let listed: Vec<Result<ObjectMeta>> = below
                    .map(|(key, object)| Ok(meta_of(key, object.bytes.len() as u64)))
                    .collect();
                Ok::<_, Error>(listed)
            };
            stream::iter(listed.await.unwrap_or_else(|error| vec![Err(error)]))
        };
        stream::once(listing).flatten().boxed()
    }

    async fn list_with_delimiter(&self, _: Option<&Path>) -> Result<ListResult> {
        Err(unused("list_with_delimiter"))
    }

    async fn copy_opts(&self, _: &Path, _: &Path, _: CopyOptions) -> Result<()> {
        Err(unused("copy"))
    }
}

fn unused(operation: &str) -> Error {
    Error::NotImplemented {
        operation: operation.to_owned(),
        implementer: STORE.to_owned(),
    }
}

/// An upload in parts.
struct Parts {
    handle: Handle,
    key: String,
    bytes: BytesMut,
}

impl fmt::Debug for Parts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)
    }
}

#[async_trait]
impl MultipartUpload for Parts {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.bytes.extend_from_slice(&joined(&data));
        let (handle, key) = (self.handle.clone(), self.key.clone());
        Box::pin(async move {
            let fate = handle.request(&key, true).await?;
            match fate {
                Fate::Late => Err(failed("connection reset")),
                fate => handle.answered(fate).await,
            }
        })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let bytes = self.bytes.split().freeze();
        self.handle.bucket.record.saw("bucket: upload in parts");
        self.handle.write(&self.key, bytes, false).await
    }

    async fn abort(&mut self) -> Result<()> {
        let fate = self.handle.request(&self.key, true).await?;
        self.handle.answered(fate).await
    }
}
