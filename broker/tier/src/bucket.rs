//! The bucket: an object store behind a prefix, with deadlines.
//!
//! **Create-only has three outcomes.** When a store says that an object is there already, it may
//! be our own, whose answer was lost. [`Bucket::create`] reads it back and tells which it is.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt};
use object_store::path::Path as Key;
use object_store::{
    GetOptions, GetRange, GetResultPayload, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt, PutMode, PutMultipartOptions, PutOptions, PutPayload,
};
use tidemark_env::clock;

use crate::budget::BytesPerSecond;
use crate::credentials::Credentials;
use crate::document::{self, Document};
use crate::error::TierError;
use crate::layout::PartitionId;
use crate::manifest::{Chunk, ChunkRef, Manifest, SegmentRef};
use crate::store;
use crate::upload::{PART_BYTES, new_id};

/// A request that carries little is given so long.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// How often the outcome of a create is looked for.
const CREATE_TRIES: usize = 3;
/// A manifest that was let go of between a list and a read is rare, and two in a row are rarer.
const NEWEST_LOOKS: usize = 10;

/// How a bucket is reached, beside its address.
#[derive(Debug, Clone, Default)]
pub struct BucketOptions {
    /// Where the store is, when the address does not say: `http://127.0.0.1:8333`.
    pub endpoint: Option<String>,
    /// The region.
    pub region: Option<String>,
    /// Credentials, before those of the environment. Names that the store does not know are passed
    /// over.
    pub credentials: Credentials,
}

/// What became of a create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Created {
    /// The object is there and is ours.
    Ours,
    /// Another one is there, with these bytes.
    Theirs(Bytes),
}

/// An object in a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// Its key, without the bucket's prefix.
    pub key: String,
    /// Its size.
    pub size_bytes: u64,
    /// When it was written, in milliseconds since 1970, by the store's clock.
    pub modified_ms: i64,
}

/// A place in an object store.
#[derive(Debug, Clone)]
pub struct Bucket {
    /// Replaced when its credentials are.
    store: Arc<RwLock<Arc<dyn ObjectStore>>>,
    prefix: Key,
    address: Arc<str>,
    part_bytes: usize,
    up: BytesPerSecond,
    down: BytesPerSecond,
}

impl Bucket {
    /// Opens `s3://bucket/prefix`, `gs://…`, `az://container/prefix` or `file:///directory`. Asks
    /// nothing of it yet.
    ///
    /// # Errors
    /// The address or an option cannot be used.
    pub fn open(address: &str, options: &BucketOptions) -> Result<Bucket, TierError> {
        let (store, prefix) = store::open(address, options)?;
        Ok(Bucket::new(store, prefix, address))
    }

    /// Goes on with other credentials; requests that are under way end with those before. All clones
    /// of this bucket take them.
    ///
    /// # Errors
    /// An option cannot be used: what was in use stays so.
    pub fn reopen(&self, options: &BucketOptions) -> Result<(), TierError> {
        let (store, _) = store::open(&self.address, options)?;
        *self.store.write().unwrap_or_else(PoisonError::into_inner) = store;
        Ok(())
    }

    fn store(&self) -> Arc<dyn ObjectStore> {
        let store = self.store.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&store)
    }

    /// A bucket in a store that is open already.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: Key, address: &str) -> Bucket {
        Bucket {
            store: Arc::new(RwLock::new(store)),
            prefix,
            address: address.into(),
            part_bytes: PART_BYTES,
            up: BytesPerSecond::default(),
            down: BytesPerSecond::default(),
        }
    }

    /// Uploads in parts of this size instead of [`PART_BYTES`].
    #[must_use]
    pub fn with_part_bytes(self, part_bytes: usize) -> Bucket {
        Bucket { part_bytes, ..self }
    }

    /// Moves no more than this, to the bucket and from it.
    #[must_use]
    pub fn with_budgets(self, up: BytesPerSecond, down: BytesPerSecond) -> Bucket {
        Bucket { up, down, ..self }
    }

    /// Waits until so many bytes may go to the bucket.
    pub(crate) async fn may_send(&self, bytes: u64) {
        self.up.take(bytes).await;
    }

    /// Bytes of one part of an upload.
    pub(crate) fn part_bytes(&self) -> usize {
        self.part_bytes
    }

    /// The address that it was opened by.
    pub fn address(&self) -> &str {
        &self.address
    }

    fn path(&self, key: &str) -> Key {
        key.split('/')
            .fold(self.prefix.clone(), |path, part| path.join(part))
    }

    fn key(&self, path: &Key) -> String {
        match path.prefix_match(&self.prefix) {
            Some(parts) => {
                let parts: Vec<_> = parts.map(|part| part.as_ref().to_owned()).collect();
                parts.join("/")
            }
            None => path.to_string(),
        }
    }

    /// The whole object.
    ///
    /// # Errors
    /// It is not there, or the bucket does not answer.
    pub async fn get(&self, key: &str) -> Result<Bytes, TierError> {
        let path = self.path(key);
        let store = self.store();
        let whole = async {
            let found = store.get(&path).await?;
            if found.meta.size > document::MAX_BYTES {
                return Ok(None);
            }
            found.bytes().await.map(Some)
        };
        let bytes = within(key, REQUEST_TIMEOUT, whole).await?;
        bytes.ok_or_else(|| TierError::damaged(key, "it is far larger than what it should be"))
    }

    /// `len` bytes from `at` on.
    ///
    /// # Errors
    /// It is not there, is shorter, or the bucket does not answer.
    pub async fn get_range(&self, key: &str, at: u64, len: u64) -> Result<Bytes, TierError> {
        let path = self.path(key);
        self.down.take(len).await;
        let store = self.store();
        let range = async {
            let found = store.get_opts(&path, bounded(at, len)).await?;
            found.bytes().await
        };
        let bytes = within(key, deadline(len), range).await?;
        match bytes.len() as u64 {
            got if got == len => Ok(bytes),
            got => Err(cut_short(key, at, len, got)),
        }
    }

    /// Bytes of an object by one request, in pieces of `piece_bytes` with memory of their own (the
    /// last may be smaller): `take` has each as soon as it is whole.
    ///
    /// # Errors
    /// As [`Bucket::get_range`]; what was taken before is right.
    pub async fn get_pieces(
        &self,
        key: &str,
        (at, len): (u64, u64),
        piece_bytes: usize,
        mut take: impl FnMut(Bytes),
    ) -> Result<(), TierError> {
        let path = self.path(key);
        self.down.take(len).await;
        let store = self.store();
        let mut left = len;
        let pieces = async {
            let found = store.get_opts(&path, bounded(at, len)).await?;
            let mut stream = match found.payload {
                GetResultPayload::Stream(stream) => stream,
                // A stream of a file would be one of very small reads.
                GetResultPayload::File(..) => {
                    let whole = found.bytes().await;
                    futures_util::stream::iter([whole]).boxed()
                }
            };
            let mut piece = BytesMut::new();
            while let Some(mut bytes) = stream.try_next().await? {
                while !bytes.is_empty() && left > 0 {
                    let wanted = left.min(piece_bytes as u64) as usize;
                    if piece.is_empty() {
                        piece.reserve(wanted);
                    }
                    let more = bytes.split_to(bytes.len().min(wanted - piece.len()));
                    piece.extend_from_slice(&more);
                    if piece.len() == wanted {
                        left -= wanted as u64;
                        take(std::mem::take(&mut piece).freeze());
                    }
                }
            }
            Ok(piece.len() as u64)
        };
        let begun = within(key, deadline(len), pieces).await?;
        match len - left + begun {
            got if got == len => Ok(()),
            got => Err(cut_short(key, at, len, got)),
        }
    }

    /// The size of an object.
    ///
    /// # Errors
    /// It is not there, or the bucket does not answer.
    pub async fn size_bytes(&self, key: &str) -> Result<u64, TierError> {
        let path = self.path(key);
        let store = self.store();
        let head = store.head(&path);
        Ok(within(key, REQUEST_TIMEOUT, head).await?.size)
    }

    /// Writes an object whose key nobody else uses.
    ///
    /// # Errors
    /// The bucket does not take it.
    pub async fn put(&self, key: &str, bytes: Bytes) -> Result<(), TierError> {
        let path = self.path(key);
        let limit = deadline(bytes.len() as u64);
        self.may_send(bytes.len() as u64).await;
        let store = self.store();
        let put = store.put(&path, PutPayload::from_bytes(bytes));
        within(key, limit, put).await.map(|_| ())
    }

    /// Writes an object unless there is one with that key. Another object with the same bytes is
    /// taken for ours: bytes that name their writer are its own.
    ///
    /// # Errors
    /// The bucket does not answer. The object may be there then.
    pub async fn create(&self, key: &str, bytes: &Bytes) -> Result<Created, TierError> {
        let path = self.path(key);
        let mut tries = 0;
        loop {
            tries += 1;
            let options = PutOptions::from(PutMode::Create);
            let payload = PutPayload::from_bytes(bytes.clone());
            let store = self.store();
            let put = store.put_opts(&path, payload, options);
            let there = match clock::timeout(REQUEST_TIMEOUT, put).await {
                Ok(Ok(_)) => return Ok(Created::Ours),
                Ok(Err(object_store::Error::AlreadyExists { .. })) => true,
                Ok(Err(object_store::Error::Precondition { .. })) => true,
                Ok(Err(error)) => return Err(TierError::of(key, &error)),
                Err(_) => false,
            };
            match self.get(key).await {
                Ok(found) if found == *bytes => return Ok(Created::Ours),
                Ok(found) => return Ok(Created::Theirs(found)),
                // Gone again, or it never came: once more.
                Err(TierError::NotFound { .. }) if tries < CREATE_TRIES => {}
                Err(TierError::NotFound { .. }) => {
                    let what = if there {
                        "is and is not there"
                    } else {
                        "does not arrive"
                    };
                    return Err(TierError::Away {
                        key: key.to_owned(),
                        reason: format!("the object {what}"),
                    });
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Writes a document unless there is one with that key.
    ///
    /// # Errors
    /// As [`Bucket::create`].
    pub async fn create_document<T: Document>(
        &self,
        key: &str,
        body: &T,
    ) -> Result<(Created, u32), TierError> {
        let bytes = document::encode(key, body)?;
        let crc32 = document::checksum(&bytes);
        Ok((self.create(key, &bytes).await?, crc32))
    }

    /// Writes a document whose key nobody else uses; its checksum.
    ///
    /// # Errors
    /// The bucket does not take it.
    pub async fn put_document<T: Document>(&self, key: &str, body: &T) -> Result<u32, TierError> {
        let bytes = document::encode(key, body)?;
        let crc32 = document::checksum(&bytes);
        self.put(key, bytes).await?;
        Ok(crc32)
    }

    /// Reads a document; it and its checksum.
    ///
    /// # Errors
    /// It is not there, damaged, or the bucket does not answer.
    pub async fn document<T: Document>(&self, key: &str) -> Result<(T, u32), TierError> {
        let bytes = self.get(key).await?;
        Ok((document::decode(key, &bytes)?, document::checksum(&bytes)))
    }

    /// Reads a manifest of `partition`; it and its checksum.
    ///
    /// # Errors
    /// It is not there, damaged, another's, or the bucket does not answer.
    pub async fn manifest(
        &self,
        partition: PartitionId,
        key: &str,
    ) -> Result<(Manifest, u32), TierError> {
        let (manifest, crc32) = self.document::<Manifest>(key).await?;
        manifest.check(key)?;
        if partition.manifest(manifest.sequence) != key || manifest.id() != partition {
            return Err(TierError::damaged(
                key,
                "it is another partition's, or number's",
            ));
        }
        Ok((manifest, crc32))
    }

    /// The newest manifest of `partition`, its checksum, and its entries, those in chunks included,
    /// oldest first; none when there is none. `listed` is its key, where a list has had it. A broker
    /// may be at work: one that was let go of since for a newer one is looked for again.
    ///
    /// # Errors
    /// It is damaged, something of it is not there, or the bucket does not answer.
    pub async fn newest_manifest(
        &self,
        partition: PartitionId,
        listed: Option<String>,
    ) -> Result<Option<(Manifest, u32, Vec<SegmentRef>)>, TierError> {
        let mut key = match listed {
            Some(key) => Some(key),
            None => self.first_key(&partition.manifests()).await?,
        };
        let mut looks = 0..NEWEST_LOOKS;
        while let Some(at) = key {
            match self.whole_manifest(partition, &at).await {
                Err(missing @ TierError::NotFound { .. }) if looks.next().is_some() => {
                    key = self.first_key(&partition.manifests()).await?;
                    if key.as_deref() == Some(&at) {
                        return Err(missing);
                    }
                }
                read => return read.map(Some),
            }
        }
        Ok(None)
    }

    async fn whole_manifest(
        &self,
        partition: PartitionId,
        key: &str,
    ) -> Result<(Manifest, u32, Vec<SegmentRef>), TierError> {
        let (manifest, crc32) = self.manifest(partition, key).await?;
        let mut entries = manifest.head.clone();
        for chunk in &manifest.chunks {
            entries.extend(self.chunk(partition, chunk).await?.segments);
        }
        entries.extend(manifest.segments.iter().cloned());
        Ok((manifest, crc32, entries))
    }

    /// Reads the chunk of `partition` that a manifest names.
    ///
    /// # Errors
    /// It is not there, damaged, another one, or the bucket does not answer.
    pub async fn chunk(
        &self,
        partition: PartitionId,
        chunk: &ChunkRef,
    ) -> Result<Chunk, TierError> {
        let key = partition.chunk(chunk.id);
        let (found, crc32) = self.document::<Chunk>(&key).await?;
        if crc32 != chunk.crc32 {
            return Err(TierError::damaged(
                &key,
                "it is not the one that was written",
            ));
        }
        Ok(found)
    }

    /// Begins an upload in parts.
    pub(crate) async fn multipart(&self, key: &str) -> Result<Box<dyn MultipartUpload>, TierError> {
        let path = self.path(key);
        let store = self.store();
        let begin = store.put_multipart_opts(&path, PutMultipartOptions::default());
        within(key, REQUEST_TIMEOUT, begin).await
    }

    /// Deletes an object; one that is gone already is fine.
    ///
    /// # Errors
    /// The bucket does not answer, or refuses.
    pub async fn delete(&self, key: &str) -> Result<(), TierError> {
        let path = self.path(key);
        let store = self.store();
        match within(key, REQUEST_TIMEOUT, store.delete(&path)).await {
            Err(TierError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }

    /// All objects whose keys begin with the folder `under`; all there are, with an empty one.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn list(&self, under: &str) -> Result<Vec<Listed>, TierError> {
        self.list_most(under, usize::MAX).await
    }

    /// The first key under the folder `under`, in the order of keys. One request, for a store
    /// that lists in that order, as S3 and those like it do; a local directory is listed whole.
    ///
    /// # Errors
    /// The bucket does not answer.
    pub async fn first_key(&self, under: &str) -> Result<Option<String>, TierError> {
        let most = match self.address.starts_with("file:") {
            true => usize::MAX,
            // What one request gives.
            false => 1000,
        };
        let listed = self.list_most(under, most).await?;
        Ok(listed.into_iter().map(|listed| listed.key).min())
    }

    fn listed(&self, found: &ObjectMeta) -> Listed {
        Listed {
            key: self.key(&found.location),
            size_bytes: found.size,
            modified_ms: found.last_modified.timestamp_millis(),
        }
    }

    async fn list_most(&self, under: &str, most: usize) -> Result<Vec<Listed>, TierError> {
        let path = match under {
            "" => self.prefix.clone(),
            under => self.path(under),
        };
        let what = match under {
            "" => "a listing",
            under => under,
        };
        let store = self.store();
        let mut stream = store.list(Some(&path)).take(most);
        let mut listed = Vec::new();
        while let Some(found) = within(what, REQUEST_TIMEOUT, stream.try_next()).await? {
            listed.push(self.listed(&found));
        }
        Ok(listed)
    }

    /// Makes sure that an object can be created only once, on which everything rests: a store
    /// that overwrites would let two leaders both write the next manifest.
    ///
    /// # Errors
    /// [`TierError::NoCreateOnly`], or the bucket does not answer.
    pub async fn probe(&self) -> Result<(), TierError> {
        let key = format!("probe/{}", new_id());
        let created = self.create(&key, &Bytes::from_static(b"first")).await?;
        let again = self.create(&key, &Bytes::from_static(b"second")).await?;
        self.delete(&key).await?;
        match (created, again) {
            (Created::Ours, Created::Theirs(found)) if found == "first" => Ok(()),
            _ => Err(TierError::NoCreateOnly),
        }
    }
}

/// Waits for an answer about `key`, for so long.
pub(crate) async fn within<T>(
    key: &str,
    limit: Duration,
    request: impl Future<Output = object_store::Result<T>>,
) -> Result<T, TierError> {
    match clock::timeout(limit, request).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(TierError::of(key, &error)),
        Err(_) => Err(TierError::Away {
            key: key.to_owned(),
            reason: format!("no answer within {} s", limit.as_secs()),
        }),
    }
}

fn bounded(at: u64, len: u64) -> GetOptions {
    GetOptions {
        range: Some(GetRange::Bounded(at..at + len)),
        ..GetOptions::default()
    }
}

fn cut_short(key: &str, at: u64, len: u64, got: u64) -> TierError {
    let reason = format!("{len} bytes at {at} were asked for, and {got} came");
    TierError::damaged(key, reason)
}

/// So long may it take to move so many bytes: a store that is slower is taken for one that hangs.
pub(crate) fn deadline(bytes: u64) -> Duration {
    const SLOWEST_BYTES_PER_SECOND: u64 = 256 * 1024;
    REQUEST_TIMEOUT + Duration::from_secs(bytes / SLOWEST_BYTES_PER_SECOND)
}
