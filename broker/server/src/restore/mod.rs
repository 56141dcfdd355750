//! A cluster comes back from its bucket: what is there is looked through, the bucket is taken over,
//! and a new cluster is given the records that its metadata begin with.
//!
//! What a restore decides is written into the bucket, create-only, before anything begins: the
//! first metadata of the new generation ([`Snapshot::restored`]). Each controller that begins the
//! new cluster reads them from there, so that all begin alike, however many of them ran this.
//!
//! **Invariant:** once the plan is written, no broker of an earlier generation can change what the
//! plan tells of: the newest manifest of each partition is of the new generation. No leader epoch
//! and no producer id of before is given out again, and no group's offset is beyond its partition's
//! end.

mod offsets;
mod report;

use std::collections::BTreeSet;

use tidemark_coordinator::Clamped;
use tidemark_env::clock;
use tidemark_model::{
    CONSUMER_OFFSETS, ConfigResource, MetadataRecord, Restore, RestoredPartition,
};
use tidemark_tier::catalog::{Owner, Restored, Snapshot, Topic, TopicName};
use tidemark_tier::restore::{self, Part};
use tidemark_tier::{Bucket, Created, TierError, Writer, document, layout};
use tidemark_wire::Uuid;

use crate::broker::new_id;
use offsets::{ends, offsets_of, read_offsets, rewrite};
use report::report;
pub use report::{ClampReport, PartReport, RestoreReport, TopicReport};

/// Between the highest leader epoch that is known of before and the first one after: elections
/// that no snapshot and no manifest tells of have room in it.
const EPOCH_GAP: i32 = 1_000_000;
/// Producer ids carry the generation in what is above so many bits.
const PRODUCER_ID_BITS: u32 = 40;
/// How often a partition is taken over from somebody who still writes.
const MOST_TRIES: usize = 5;
/// Nobody leads in this epoch: a restore writes manifests in it.
pub(crate) const RESTORE_EPOCH: i32 = 0;

/// What is to come back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RestoreOptions {
    /// Topics by name, in which `*` stands for anything; all of them when it is empty.
    pub topics: Vec<String>,
    /// As of this moment, in milliseconds since 1970; the latest without.
    pub at_ms: Option<i64>,
    /// Topics that have more replicas get so many.
    pub replication_factor: Option<i32>,
    /// Topics are placed once there are so many brokers; those of the source without.
    pub brokers: Option<i32>,
}

/// Why nothing is restored.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The bucket.
    #[error(transparent)]
    Tier(#[from] TierError),
    /// Nobody owns it.
    #[error("{0} holds no cluster: nothing is there to be restored")]
    Empty(String),
    /// It belongs to the cluster that is to be made.
    #[error(
        "{bucket} belongs to cluster {cluster_id} itself, or did once: a restored cluster needs an id of its own, so that the old one stops writing"
    )]
    Same {
        /// The bucket's address.
        bucket: String,
        /// The cluster.
        cluster_id: String,
    },
    /// What is to be copied into is another's.
    #[error("{bucket} holds the logs of cluster {cluster_id}: copy into an empty one")]
    NotEmpty {
        /// The bucket's address.
        bucket: String,
        /// Whose it is.
        cluster_id: String,
    },
    /// There are no metadata.
    #[error(
        "{0} has no metadata of the cluster (metadata/…): its topics are not known. `tidemark tier ls` tells what is there"
    )]
    NoMetadata(String),
    /// Another restore was quicker.
    #[error("cluster {0} has taken the bucket over meanwhile")]
    TakenOver(String),
    /// No topic has such a name.
    #[error("no topic in the bucket is called {0}")]
    NoSuchTopic(String),
    /// Offsets of groups cannot be read.
    #[error("{key} cannot be read as offsets of groups: {reason}")]
    Offsets {
        /// The object.
        key: String,
        /// What is wrong.
        reason: String,
    },
}

/// A topic of the source, with what the bucket has of it.
struct Source {
    topic: Topic,
    parts: Vec<Part>,
}

/// What there is, and what of it was asked for.
struct Survey {
    owner: Owner,
    snapshot: Snapshot,
    sources: Vec<Source>,
    warnings: Vec<String>,
}

/// What would come back. Only reads.
///
/// # Errors
/// The bucket does not answer, or holds nothing that could come back.
pub async fn preview_restore(
    bucket: &Bucket,
    options: &RestoreOptions,
) -> Result<RestoreReport, RestoreError> {
    let owner = restore::owner(bucket).await?;
    let owner = owner.ok_or_else(|| RestoreError::Empty(bucket.address().to_owned()))?;
    let survey = survey(bucket, owner, options).await?;
    let generation = survey.owner.generation.saturating_add(1);
    let mut clamped = Vec::new();
    let ends = ends(&survey.sources);
    for (id, part) in offsets_of(&survey.sources) {
        clamped.extend(read_offsets(bucket, id, part, &ends).await?.1);
    }
    Ok(report(bucket, &survey, generation, clamped))
}

/// Gives the cluster `cluster_id` what `bucket` holds: takes the bucket over, and from then on the
/// one that it belonged to writes nothing more there; or copies it `into` another, which is empty,
/// and leaves it as it is. Gives what came of it, and the records that the metadata of the new
/// cluster begin with ([`crate::format_with`]). Done again for the same cluster, it gives the same.
///
/// # Errors
/// See [`RestoreError`]. What was begun can be done again.
pub async fn restore(
    bucket: &Bucket,
    into: Option<&Bucket>,
    cluster_id: Uuid,
    options: &RestoreOptions,
) -> Result<(RestoreReport, Vec<MetadataRecord>), RestoreError> {
    let owner = restore::owner(bucket).await?;
    let owner = owner.ok_or_else(|| RestoreError::Empty(bucket.address().to_owned()))?;
    if let Some(into) = into {
        return copy_into(bucket, into, owner, cluster_id, options).await;
    }
    let mine = Owner {
        cluster_id: cluster_id.to_string(),
        generation: match owner.cluster_id == cluster_id.to_string() {
            // Begun earlier, or by another node of the same cluster.
            true => owner.generation,
            false => owner.generation.saturating_add(1),
        },
    };
    if mine.generation == 1 || was_owner(bucket, &mine).await? {
        return Err(RestoreError::Same {
            bucket: bucket.address().to_owned(),
            cluster_id: mine.cluster_id,
        });
    }
    let source = source_owner(bucket, mine.generation).await?;
    let mut survey = survey(bucket, source, options).await?;
    claim(bucket, &mine).await?;
    let clamped = take_over(bucket, &mut survey, mine.generation, options).await?;
    let records = begin_with(bucket, bucket, &survey, &mine, options).await?;
    let report = report(bucket, &survey, mine.generation, clamped);
    Ok((report, records))
}

/// Makes `mine` the owner of the bucket.
async fn claim(bucket: &Bucket, mine: &Owner) -> Result<(), RestoreError> {
    bucket.probe().await?;
    let key = layout::owner(mine.generation);
    if let Created::Theirs(bytes) = bucket.create_document(&key, mine).await?.0 {
        let theirs: Owner = document::decode(&key, &bytes)?;
        if theirs != *mine {
            return Err(RestoreError::TakenOver(theirs.cluster_id));
        }
    }
    Ok(())
}

/// Writes into `bucket` what the new cluster begins with, unless that was done, and gives it.
async fn begin_with(
    source: &Bucket,
    bucket: &Bucket,
    survey: &Survey,
    mine: &Owner,
    options: &RestoreOptions,
) -> Result<Vec<MetadataRecord>, RestoreError> {
    let plan = plan(source, survey, mine, options);
    let key = layout::metadata(mine.generation, 0);
    let plan = match bucket.create_document(&key, &plan).await?.0 {
        Created::Ours => plan,
        Created::Theirs(bytes) => document::decode(&key, &bytes)?,
    };
    Ok(first_records(&plan, options))
}

/// Copies what is to come back into an empty bucket, which becomes that of the new cluster.
async fn copy_into(
    source: &Bucket,
    into: &Bucket,
    owner: Owner,
    cluster_id: Uuid,
    options: &RestoreOptions,
) -> Result<(RestoreReport, Vec<MetadataRecord>), RestoreError> {
    let mine = Owner {
        cluster_id: cluster_id.to_string(),
        generation: 1,
    };
    if owner.cluster_id == mine.cluster_id {
        return Err(RestoreError::Same {
            bucket: source.address().to_owned(),
            cluster_id: mine.cluster_id,
        });
    }
    if let Some(theirs) = restore::owner(into).await?
        && theirs != mine
    {
        return Err(RestoreError::NotEmpty {
            bucket: into.address().to_owned(),
            cluster_id: theirs.cluster_id,
        });
    }
    let survey = survey(source, owner, options).await?;
    claim(into, &mine).await?;
    let writer = Writer {
        generation: mine.generation,
        leader_epoch: RESTORE_EPOCH,
        id: new_id(),
    };
    let ends = ends(&survey.sources);
    let mut all = Vec::new();
    for one in &survey.sources {
        let name = &one.topic.name;
        for part in &one.parts {
            let mut entries = None;
            if name == CONSUMER_OFFSETS && part.backup_at_ms().is_some() {
                let (newest, clamped) = read_offsets(source, name, part, &ends).await?;
                if !clamped.is_empty() {
                    let to = (into, writer);
                    entries = Some(rewrite(source, to, name, part, (&newest, &ends)).await?);
                }
                all.extend(clamped);
            }
            restore::copy(source, into, part, writer, entries).await?;
        }
        if let Some(topic_id) = layout::parse_id(&one.topic.topic_id) {
            let named = TopicName { name: name.clone() };
            into.create_document(&layout::topic(topic_id), &named)
                .await?;
        }
    }
    let records = begin_with(source, into, &survey, &mine, options).await?;
    Ok((report(source, &survey, mine.generation, all), records))
}

/// Whether a cluster of that id had the bucket before: its brokers would take it for theirs again.
async fn was_owner(bucket: &Bucket, mine: &Owner) -> Result<bool, RestoreError> {
    for listed in bucket.list(layout::OWNERS).await? {
        let owner = bucket.document::<Owner>(&listed.key).await?.0;
        if owner.generation < mine.generation && owner.cluster_id == mine.cluster_id {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The owner before `generation`.
async fn source_owner(bucket: &Bucket, generation: u32) -> Result<Owner, RestoreError> {
    let key = layout::owner(generation.saturating_sub(1));
    Ok(bucket.document::<Owner>(&key).await?.0)
}

async fn survey(
    bucket: &Bucket,
    owner: Owner,
    options: &RestoreOptions,
) -> Result<Survey, RestoreError> {
    let mut warnings = Vec::new();
    let snapshot = restore::metadata(bucket, owner.generation, options.at_ms).await?;
    let snapshot = snapshot.ok_or_else(|| RestoreError::NoMetadata(bucket.address().to_owned()))?;
    if let Some(at_ms) = options.at_ms
        && snapshot.taken_at_ms > at_ms
    {
        warnings.push(
            "no metadata in the bucket are as old as that moment: topics and settings come back \
             as they were later"
                .to_owned(),
        );
    }
    for pattern in &options.topics {
        if !snapshot.topics.iter().any(|t| matches(pattern, &t.name)) {
            return Err(RestoreError::NoSuchTopic(pattern.clone()));
        }
    }
    let wanted = |name: &str| {
        let all = options.topics.is_empty() || name == CONSUMER_OFFSETS;
        all || options.topics.iter().any(|pattern| matches(pattern, name))
    };
    let mut sources = Vec::new();
    for topic in snapshot.topics.iter().filter(|topic| wanted(&topic.name)) {
        let parts = restore::parts(bucket, topic, options.at_ms).await?;
        if parts.iter().all(|part| part.manifest.is_none()) {
            warnings.push(match topic.settings.get("remote.storage.enable") {
                Some(tiered) if tiered == "true" => format!(
                    "topic {} comes back empty: nothing of it had been uploaded",
                    topic.name
                ),
                _ if topic.name == CONSUMER_OFFSETS => {
                    "groups come back without offsets: no backup of them had been made".to_owned()
                }
                _ => format!(
                    "topic {} comes back empty: it was not tiered (remote.storage.enable)",
                    topic.name
                ),
            });
        }
        for part in &parts {
            if let (Some(at_ms), Some(backup_ms)) = (options.at_ms, part.backup_at_ms())
                && backup_ms > at_ms
            {
                warnings.push(format!(
                    "{}-{} is compacted: it comes back as it was at its last backup, which is younger",
                    topic.name, part.id.partition
                ));
            }
        }
        sources.push(Source {
            topic: topic.clone(),
            parts,
        });
    }
    let known: BTreeSet<&str> = snapshot
        .topics
        .iter()
        .map(|t| t.topic_id.as_str())
        .collect();
    let listed = bucket.list(layout::TOPICS).await?;
    let deleted = |id: &str| {
        let marker = format!("{}/{id}/deleted", layout::TOPICS);
        listed.iter().any(|listed| listed.key == marker)
    };
    for listed in &listed {
        let id = listed.key.split('/').nth(1).unwrap_or_default();
        if listed.key.ends_with("/topic.json") && !known.contains(id) && !deleted(id) {
            warnings.push(format!(
                "topic {id} is in the bucket and not in these metadata, as one is that was created \
                 since they were taken: it does not come back, and its records stay where they are"
            ));
        }
    }
    Ok(Survey {
        owner,
        snapshot,
        sources,
        warnings,
    })
}

/// Whether a name fits a pattern, in which `*` stands for anything.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((before, after)) = pattern.split_once('*') else {
        return pattern == name;
    };
    let Some(rest) = name.strip_prefix(before) else {
        return false;
    };
    (0..=rest.len())
        .filter(|at| rest.is_char_boundary(*at))
        .any(|at| matches(after, &rest[at..]))
}

/// Makes the newest manifest of each partition one of the new generation; the backups of groups'
/// offsets with what was clamped in them.
async fn take_over(
    bucket: &Bucket,
    survey: &mut Survey,
    generation: u32,
    options: &RestoreOptions,
) -> Result<Vec<Clamped>, RestoreError> {
    let writer = Writer {
        generation,
        leader_epoch: RESTORE_EPOCH,
        id: new_id(),
    };
    let now_ms = clock::now_ms();
    let is_offsets = |source: &Source| source.topic.name == CONSUMER_OFFSETS;
    for source in survey
        .sources
        .iter_mut()
        .filter(|source| !is_offsets(source))
    {
        for part in &mut source.parts {
            let mut tries = 0;
            while let Err(error) = restore::take_over(bucket, part, writer, now_ms, |_| {}).await {
                tries += 1;
                look_again(bucket, part, options, error, tries).await?;
            }
            if part.manifest.is_some() {
                // Another node of the cluster may have come first, and the end is what it wrote.
                *part = restore::part(bucket, part.id, None).await?;
            }
        }
    }
    let ends = ends(&survey.sources);
    let mut all = Vec::new();
    for source in survey
        .sources
        .iter_mut()
        .filter(|source| is_offsets(source))
    {
        let topic = source.topic.name.clone();
        for part in &mut source.parts {
            let mut tries = 0;
            while let Some((manifest, _)) = &part.manifest {
                let done = manifest.writer.generation >= generation;
                let (newest, clamped) = read_offsets(bucket, &topic, part, &ends).await?;
                let entries = match clamped.is_empty() || done {
                    true => None,
                    false => {
                        let to = (bucket, writer);
                        Some(rewrite(bucket, to, &topic, part, (&newest, &ends)).await?)
                    }
                };
                let start = part.start_offset();
                let taken = restore::take_over(bucket, part, writer, now_ms, |next| {
                    if let Some(entries) = &entries {
                        next.replace(start, entries.clone(), &[], now_ms);
                    }
                });
                match taken.await {
                    Ok(_) => {
                        *part = restore::part(bucket, part.id, options.at_ms).await?;
                        all.extend(clamped);
                        break;
                    }
                    Err(error) => {
                        tries += 1;
                        look_again(bucket, part, options, error, tries).await?;
                    }
                }
            }
        }
    }
    Ok(all)
}

/// Somebody else wrote the partition's next manifest: a broker of the old cluster, which finds the
/// new owner before it writes another, or another node of the new one.
async fn look_again(
    bucket: &Bucket,
    part: &mut Part,
    options: &RestoreOptions,
    error: TierError,
    tries: usize,
) -> Result<(), RestoreError> {
    if tries >= MOST_TRIES || !error.is_transient() {
        return Err(error.into());
    }
    *part = restore::part(bucket, part.id, options.at_ms).await?;
    Ok(())
}

/// What the new cluster begins with.
fn plan(bucket: &Bucket, survey: &Survey, mine: &Owner, options: &RestoreOptions) -> Snapshot {
    let snapshot = &survey.snapshot;
    let manifests = survey.sources.iter().flat_map(|source| &source.parts);
    let manifests = manifests.filter_map(|part| Some(part.manifest.as_ref()?.0.highest_epoch()));
    let highest = manifests.max().unwrap_or(0).max(snapshot.highest_epoch());
    let epoch = highest.saturating_add(EPOCH_GAP);
    let topics = survey.sources.iter().map(|source| {
        let parts = &source.parts;
        let from_backup = |part: &Part| part.backup_at_ms().is_some() && !part.entries.is_empty();
        let first = |part: &Part| match from_backup(part) {
            true => part.start_offset(),
            false => part.end_offset,
        };
        let factor = source.topic.replication_factor;
        Topic {
            replication_factor: factor.min(options.replication_factor.unwrap_or(factor)),
            leader_epochs: vec![epoch; parts.len()],
            first_offsets: parts.iter().map(first).collect(),
            from_backup: parts.iter().map(from_backup).collect(),
            ..source.topic.clone()
        }
    });
    let generation = mine.generation.max(survey.owner.generation + 1);
    let of_generation = i64::from(generation) << PRODUCER_ID_BITS;
    Snapshot {
        cluster_id: mine.cluster_id.clone(),
        generation: mine.generation,
        index: 0,
        taken_at_ms: clock::now_ms(),
        next_producer_id: snapshot.next_producer_id.max(of_generation),
        topics: topics.collect(),
        restored: Some(Restored {
            bucket: bucket.address().to_owned(),
            cluster_id: survey.owner.cluster_id.clone(),
            generation: survey.owner.generation,
            at_ms: options.at_ms,
            restored_at_ms: clock::now_ms(),
        }),
        ..snapshot.clone()
    }
}

/// The records that the metadata of the new cluster begin with, beside its id.
fn first_records(plan: &Snapshot, options: &RestoreOptions) -> Vec<MetadataRecord> {
    let mut records = Vec::new();
    for (name, level) in &plan.features {
        records.push(MetadataRecord::FeatureLevel {
            name: name.clone(),
            level: *level,
        });
    }
    let of_groups = plan.groups.iter();
    let of_groups = of_groups.map(|(name, map)| (ConfigResource::Group(name.clone()), map));
    for (resource, map) in of_groups.chain([(ConfigResource::AllBrokers, &plan.settings)]) {
        for (name, value) in map {
            records.push(MetadataRecord::ConfigChanged {
                resource: resource.clone(),
                name: name.clone(),
                value: Some(value.clone()),
            });
        }
    }
    records.push(MetadataRecord::NextProducerId {
        next: plan.next_producer_id,
    });
    let brokers = i32::try_from(plan.brokers.len()).unwrap_or(i32::MAX);
    let brokers = options.brokers.unwrap_or(brokers);
    for topic in &plan.topics {
        let Some(topic_id) = layout::parse_id(&topic.topic_id) else {
            continue;
        };
        let partitions = topic.leader_epochs.iter().enumerate();
        let partitions = partitions.map(|(at, leader_epoch)| RestoredPartition {
            leader_epoch: *leader_epoch,
            first_offset: topic.first_offsets.get(at).copied().unwrap_or(0),
            from_backup: topic.from_backup.get(at).copied().unwrap_or(false),
        });
        records.push(MetadataRecord::TopicRestorePending(Restore {
            topic_id,
            name: topic.name.clone(),
            replication_factor: topic.replication_factor,
            brokers,
            configs: topic.settings.clone(),
            partitions: partitions.collect(),
        }));
    }
    records
}
