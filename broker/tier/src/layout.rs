//! What lies where in a bucket.
//!
//! ```text
//! owner/<generation>                                   who the bucket belongs to
//! metadata/<generation>-<index>                        the cluster's metadata
//! topics/<topic id>/topic.json                         a topic's name
//! topics/<topic id>/deleted                            the topic was deleted
//! <hash>/<topic id>/<partition>/<base>-<epoch>-<id>.segment
//! <hash>/<topic id>/<partition>/chunk/<id>             older entries of manifests
//! <hash>/<topic id>/<partition>/manifest/<number>
//! ```
//!
//! Numbers are padded with zeros. Manifests count down from the largest number that there is, so
//! that the newest is the first of a listing: a new leader finds it with one request, however
//! many there are.

use std::fmt;

use tidemark_wire::Uuid;

/// A partition, by identity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionId {
    /// The topic's id.
    pub topic_id: Uuid,
    /// The partition's index.
    pub partition: i32,
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.topic_id, self.partition)
    }
}

impl PartitionId {
    /// What all keys of the partition begin with. Two digits of a hash come first, so that
    /// stores that split their load by key spread a cluster's partitions.
    pub fn prefix(&self) -> String {
        let mut hash = crc32fast::Hasher::new();
        hash.update(&self.topic_id.0);
        hash.update(&self.partition.to_be_bytes());
        let hash = hash.finalize() & 0xff;
        format!("{hash:02x}/{}/{}", self.topic_id, self.partition)
    }

    /// The key of an object with records.
    pub fn segment(&self, base_offset: i64, leader_epoch: i32, id: Uuid) -> String {
        let prefix = self.prefix();
        format!("{prefix}/{base_offset:020}-{leader_epoch:010}-{id}.segment")
    }

    /// The key of a chunk.
    pub fn chunk(&self, id: Uuid) -> String {
        format!("{}/chunk/{id}", self.prefix())
    }

    /// What the keys of all manifests begin with.
    pub fn manifests(&self) -> String {
        format!("{}/manifest", self.prefix())
    }

    /// The key of manifest `sequence`.
    pub fn manifest(&self, sequence: u64) -> String {
        format!("{}/{:020}", self.manifests(), u64::MAX - sequence)
    }
}

/// Which manifest a key names.
pub fn manifest_sequence(key: &str) -> Option<u64> {
    let (rest, number) = key.rsplit_once('/')?;
    if !rest.ends_with("/manifest") || number.len() != 20 {
        return None;
    }
    number.parse::<u64>().ok().map(|number| u64::MAX - number)
}

/// The leader epoch in which an object with records was uploaded, by its key.
pub fn segment_epoch(key: &str) -> Option<i32> {
    let name = key.rsplit_once('/')?.1.strip_suffix(".segment")?;
    // An id may have dashes of its own.
    let mut parts = name.splitn(3, '-');
    let (base, epoch, id) = (parts.next()?, parts.next()?, parts.next()?);
    base.parse::<i64>().ok()?;
    parse_id(id)?;
    epoch.parse().ok()
}

/// Whether a key is one of a chunk.
pub fn is_chunk(key: &str) -> bool {
    let parts = key.rsplit_once('/');
    parts.is_some_and(|(rest, id)| rest.ends_with("/chunk") && parse_id(id).is_some())
}

/// Which partition a key belongs to, if it is one of a partition's.
pub fn partition_of(key: &str) -> Option<PartitionId> {
    let mut parts = key.split('/');
    let hash = parts.next()?;
    let topic_id = parse_id(parts.next()?)?;
    let partition = parts.next()?.parse().ok().filter(|index| *index >= 0)?;
    parts.next()?;
    let id = PartitionId {
        topic_id,
        partition,
    };
    (id.prefix().split('/').next() == Some(hash)).then_some(id)
}

/// An id as it is written in keys.
pub fn parse_id(text: &str) -> Option<Uuid> {
    text.parse().ok()
}

/// The key of the record of who owns the bucket in `generation`.
pub fn owner(generation: u32) -> String {
    format!("owner/{generation:010}")
}

/// What the keys of all owners begin with.
pub const OWNERS: &str = "owner";

/// What the keys of all snapshots of metadata begin with.
pub const METADATA: &str = "metadata";

/// The key of the metadata as of record `index`.
pub fn metadata(generation: u32, index: u64) -> String {
    format!("{METADATA}/{generation:010}-{index:020}")
}

/// What the keys of all topics begin with.
pub const TOPICS: &str = "topics";

/// Which metadata a key names: the generation and the index.
pub fn metadata_of(key: &str) -> Option<(u32, u64)> {
    let (generation, index) = key
        .strip_prefix(METADATA)?
        .strip_prefix('/')?
        .split_once('-')?;
    Some((generation.parse().ok()?, index.parse().ok()?))
}

/// The key of the word that a topic was deleted.
pub fn deleted(topic_id: Uuid) -> String {
    format!("{TOPICS}/{topic_id}/deleted")
}

/// The key of a topic's name.
pub fn topic(topic_id: Uuid) -> String {
    format!("{TOPICS}/{topic_id}/topic.json")
}
