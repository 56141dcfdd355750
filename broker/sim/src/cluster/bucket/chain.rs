//! What is promised of manifests and of what they name, checked at every change of the bucket.

use std::collections::{BTreeMap, BTreeSet};

use tidemark_tier::catalog::Snapshot;
use tidemark_tier::manifest::Chunk;
use tidemark_tier::{Manifest, PartitionId, SegmentRef, document, layout};
use tidemark_wire::Uuid;

use super::{Object, PREFIX};

/// The newest manifest of a partition.
#[derive(Debug)]
struct Head {
    manifest: Manifest,
    crc32: u32,
    /// Keys of all that it names and counts.
    named: BTreeSet<String>,
    /// When it takes the partition over from another generation: keys of all that is there.
    fenced: BTreeSet<String>,
}

/// The chains of all partitions.
#[derive(Debug, Default)]
pub(super) struct Chains {
    heads: BTreeMap<PartitionId, Head>,
    /// How many partitions of each topic metadata in the bucket have named.
    named: BTreeMap<Uuid, usize>,
}

type Objects = BTreeMap<String, Object>;

fn key_of(path: &str) -> &str {
    path.strip_prefix(PREFIX)
        .map_or(path, |key| key.trim_start_matches('/'))
}

fn path_of(key: &str) -> String {
    format!("{PREFIX}/{key}")
}

pub(super) fn is_manifest(path: &str) -> bool {
    layout::manifest_sequence(path).is_some()
}

impl Chains {
    pub(super) fn head(&self, topic: &str, partition: i32) -> Option<&Manifest> {
        let mut heads = self.heads.values();
        let found =
            heads.find(|head| head.manifest.topic == topic && head.manifest.partition == partition);
        found.map(|head| &head.manifest)
    }

    /// `object` comes to lie at `path`, where nothing was.
    pub(super) fn put(
        &mut self,
        objects: &Objects,
        path: &str,
        object: &Object,
    ) -> Result<(), String> {
        let key = key_of(path);
        if layout::metadata_of(key).is_some() {
            return self.learn(key, object);
        }
        if !is_manifest(key) {
            return Ok(());
        }
        let id = layout::partition_of(key).ok_or_else(|| format!("{key} is nobody's manifest"))?;
        let (head, mut next) = self.follows(id, key, object)?;
        let mut wrong = next.holds(id, objects, head);
        let generation = head.map(|head| head.manifest.writer.generation);
        if generation.is_some_and(|before| before < next.manifest.writer.generation) {
            // Nobody who put them there writes another manifest.
            let before = objects.keys().map(|path| key_of(path));
            let before = before.filter(|key| layout::partition_of(key) == Some(id));
            next.fenced = before.map(str::to_owned).collect();
        }
        let named = self.named.get(&id.topic_id).copied().unwrap_or(0);
        if head.is_none() && usize::try_from(id.partition).is_ok_and(|index| index >= named) {
            wrong = Err("no metadata name its partition".to_owned());
        }
        self.heads.insert(id, next);
        wrong.map_err(|wrong| format!("{key}: {wrong}"))
    }

    /// Notes what metadata name.
    fn learn(&mut self, key: &str, object: &Object) -> Result<(), String> {
        let snapshot: Snapshot =
            document::decode(key, &object.bytes).map_err(|error| error.to_string())?;
        for topic in &snapshot.topics {
            let id = layout::parse_id(&topic.topic_id)
                .ok_or_else(|| format!("{key} names a topic {}", topic.topic_id))?;
            let named = self.named.entry(id).or_default();
            *named = (*named).max(topic.leader_epochs.len());
        }
        Ok(())
    }

    /// The next link of the chain.
    fn follows(
        &self,
        id: PartitionId,
        key: &str,
        object: &Object,
    ) -> Result<(Option<&Head>, Head), String> {
        let text = |error: tidemark_tier::TierError| error.to_string();
        let manifest: Manifest = document::decode(key, &object.bytes).map_err(text)?;
        manifest.check(key).map_err(text)?;
        let head = self.heads.get(&id);
        let said = manifest
            .predecessor
            .map(|before| (before.sequence, before.crc32));
        let is = head.map(|head| (head.manifest.sequence, head.crc32));
        if said != is {
            return Err(format!("{key} follows {said:?}, and the newest is {is:?}"));
        }
        let rank = |manifest: &Manifest| (manifest.writer.generation, manifest.writer.leader_epoch);
        if let Some(head) = head
            && rank(&manifest) < rank(&head.manifest)
        {
            return Err(format!(
                "{key} is of (generation, epoch) {:?}, after {:?}",
                rank(&manifest),
                rank(&head.manifest)
            ));
        }
        if let Some(head) = head
            && manifest.end_offset < head.manifest.end_offset
        {
            // No leader is elected here that lacks what was committed.
            return Err(format!(
                "{key} ends at {}, and the one before at {}",
                manifest.end_offset, head.manifest.end_offset
            ));
        }
        let next = Head {
            manifest,
            crc32: document::checksum(&object.bytes),
            named: BTreeSet::new(),
            fenced: BTreeSet::new(),
        };
        Ok((head, next))
    }

    /// `by` deleted `object`, which lay at `path`; gives what it was.
    pub(super) fn delete(
        &self,
        path: &str,
        object: &Object,
        by: &(String, u64),
    ) -> Result<&'static str, String> {
        let key = key_of(path);
        if key.starts_with("probe/") {
            return Ok("bucket: probe deleted");
        }
        if key.starts_with("metadata/") {
            return Ok("bucket: snapshot of the metadata deleted");
        }
        let head = layout::partition_of(key).and_then(|id| self.heads.get(&id));
        let Some(head) = head.filter(|_| !is_manifest(key)) else {
            return Err(format!("{key} was deleted, and is no garbage of anybody"));
        };
        if head.named.contains(key) {
            return Err(format!(
                "{key} was deleted, and the newest manifest counts it"
            ));
        }
        if head
            .manifest
            .garbage
            .iter()
            .any(|garbage| garbage.key == key)
        {
            return Ok("bucket: garbage deleted");
        }
        if layout::is_chunk(key) || head.fenced.contains(key) {
            return Ok("bucket: orphan deleted");
        }
        let epoch = layout::segment_epoch(key).ok_or_else(|| format!("{key} is no segment"))?;
        if epoch > head.manifest.writer.leader_epoch
            || epoch == head.manifest.writer.leader_epoch && object.by != *by
        {
            return Err(format!(
                "{key} was deleted, and its leader may still name it: the newest manifest is of \
                 epoch {}",
                head.manifest.writer.leader_epoch
            ));
        }
        Ok("bucket: orphan deleted")
    }
}

impl Head {
    /// All that is named is there and is what it should be; `before` was looked at when it came.
    fn holds(
        &mut self,
        id: PartitionId,
        objects: &Objects,
        before: Option<&Head>,
    ) -> Result<(), String> {
        let mut entries: Vec<SegmentRef> = self.manifest.head.clone();
        for chunk in &self.manifest.chunks {
            let key = id.chunk(chunk.id);
            let object = objects.get(&path_of(&key));
            let object = object.ok_or_else(|| format!("it names {key}, which is not there"))?;
            if document::checksum(&object.bytes) != chunk.crc32 {
                return Err(format!("it names {key}, which is another one"));
            }
            let loaded: Chunk =
                document::decode(&key, &object.bytes).map_err(|error| error.to_string())?;
            entries.extend(loaded.segments);
            self.named.insert(key);
        }
        entries.extend(self.manifest.segments.iter().cloned());
        let mut next = self.manifest.base_offset();
        for entry in entries {
            let key = entry.key(id);
            if entry.base_offset != next {
                return Err(format!(
                    "nothing holds offsets from {next} to {}",
                    entry.base_offset
                ));
            }
            next = entry.end_offset;
            let object = objects.get(&path_of(&key));
            let object = object.ok_or_else(|| format!("it names {key}, which is not there"))?;
            let is_known = before.is_some_and(|before| before.named.contains(&key));
            if !is_known
                && (object.bytes.len() as u64 != entry.size_bytes
                    || crc32fast::hash(&object.bytes) != entry.crc32)
            {
                return Err(format!("it names {key}, which has other bytes"));
            }
            self.named.insert(key);
        }
        Ok(())
    }
}
