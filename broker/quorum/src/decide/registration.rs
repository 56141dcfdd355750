//! Registering a broker with a cluster of many: identities of process and disks (KIP-631).

use tidemark_model::{BrokerEpoch, BrokerId, FeatureRange, Image, MetadataRecord};
use tidemark_wire::{ErrorCode, Uuid};

use super::brokers::{check_registration, moved, next_broker_epoch};
use super::fencing::take_down;
use super::{Context, Decision, Refusal, Registration, Sessions};

/// What a log directory says of the epoch that it was used in last: written and fsynced
/// before the broker asks to be unfenced in that epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordedDirectory {
    /// Identity of the directory.
    pub directory_id: Uuid,
    /// The cluster it belongs to.
    pub cluster_id: Uuid,
    /// The broker it belongs to.
    pub broker_id: BrokerId,
    /// The broker's epoch; `None` for a directory never used.
    pub broker_epoch: Option<BrokerEpoch>,
}

/// A process that wants to be a broker of a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Join {
    /// What is registered.
    pub registration: Registration,
    /// The cluster that it believes to join.
    pub cluster_id: Uuid,
    /// What its directories say, one entry for each that says something.
    pub recorded: Vec<RecordedDirectory>,
    /// Levels of features that it has.
    pub features: Vec<FeatureRange>,
}

/// Decides a registration; answers with the broker's epoch. The broker is fenced until it
/// has caught up ([`Sessions::heartbeat`]).
///
/// - The same process again gets its epoch again; where it is reached may be elsewhere.
/// - Another process with one of the directories takes over at once: the directory's lock
///   proves that the old one is gone. One with other directories waits until the old one's
///   session has expired.
/// - In the same batch the broker is out of every ISR, others lead what it led, and it
///   stays eligible (KIP-966) where too few are in sync. If one of its directories is
///   missing, or older than the last epoch in which it was unfenced, its logs are lost: it
///   is eligible for nothing.
pub fn register(
    image: &Image,
    context: Context<'_>,
    sessions: &Sessions,
    now_ms: i64,
    join: &Join,
) -> Decision<Result<BrokerEpoch, Refusal>> {
    match decide(image, context, sessions, now_ms, join) {
        Ok((epoch, records)) => Decision {
            records,
            result: Ok(epoch),
        },
        Err(refusal) => Decision {
            records: Vec::new(),
            result: Err(refusal),
        },
    }
}

fn decide(
    image: &Image,
    context: Context<'_>,
    sessions: &Sessions,
    now_ms: i64,
    join: &Join,
) -> Result<(BrokerEpoch, Vec<MetadataRecord>), Refusal> {
    let new = &join.registration;
    check_registration(image, new)?;
    check_cluster(image, join)?;
    check_features(image, join)?;
    let previous = image.broker(new.broker_id);
    let mut logs_lost = false;
    if let Some(previous) = previous {
        let same_process = previous.incarnation_id == new.incarnation_id;
        if same_process
            && previous.directories == new.directories
            && previous.endpoints == new.endpoints
            && previous.rack == new.rack
            && previous.features == join.features
        {
            return Ok((previous.epoch, Vec::new()));
        }
        if same_process && previous.directories == new.directories {
            let record = moved(previous, new, join.features.clone());
            return Ok((previous.epoch, vec![record]));
        }
        let shares_a_disk = previous
            .directories
            .iter()
            .any(|d| new.directories.contains(d));
        let alive = !previous.fenced && sessions.is_live(previous.id, now_ms);
        if !same_process && !shares_a_disk && alive {
            return Err(Refusal::new(
                ErrorCode::DuplicateBrokerRegistration,
                format!(
                    "Another process with other log directories is broker {} and was heard of within its session. Stop it, or wait until its session has expired.",
                    previous.id
                ),
            ));
        }
        for known in &previous.directories {
            logs_lost |= !still_holds(previous.epoch, previous.unfenced_epoch, join, *known)?;
        }
    }
    let broker_epoch = next_broker_epoch(image, new.broker_id);
    let mut records = vec![MetadataRecord::BrokerRegistered {
        broker_id: new.broker_id,
        incarnation_id: new.incarnation_id,
        broker_epoch,
        previous_epoch: previous.map(|p| p.epoch),
        directories: new.directories.clone(),
        endpoints: new.endpoints.clone(),
        rack: new.rack.clone(),
        fenced: true,
        logs_lost,
        features: join.features.clone(),
        restored: None,
    }];
    let id = [new.broker_id];
    let lost = if logs_lost { &id[..] } else { &[] };
    take_down(image, context, &id.into(), lost, &mut records);
    Ok((broker_epoch, records))
}

/// Whether a directory that the broker had holds all that the broker acknowledged.
///
/// It does if it was in use in the last epoch in which the broker was unfenced, or in a
/// later one: before that, nothing was acknowledged that it could lack.
fn still_holds(
    current: BrokerEpoch,
    unfenced: Option<BrokerEpoch>,
    join: &Join,
    directory: Uuid,
) -> Result<bool, Refusal> {
    if !join.registration.directories.contains(&directory) {
        return Ok(false);
    }
    let recorded = join.recorded.iter().find(|r| r.directory_id == directory);
    let recorded = recorded.and_then(|r| r.broker_epoch);
    if recorded.is_some_and(|epoch| epoch > current) {
        return Err(invalid(format!(
            "Log directory {directory} was used in epoch {} of broker {}, and the cluster's metadata only knows epoch {current}: the metadata is older than the disk.",
            recorded.unwrap_or_default(),
            join.registration.broker_id
        )));
    }
    Ok(match unfenced {
        None => true,
        Some(unfenced) => recorded.is_some_and(|epoch| epoch >= unfenced),
    })
}

fn check_cluster(image: &Image, join: &Join) -> Result<(), Refusal> {
    if let Some(cluster_id) = image.cluster_id()
        && cluster_id != join.cluster_id
    {
        return Err(Refusal::new(
            ErrorCode::InconsistentClusterId,
            format!(
                "This is cluster {cluster_id}, and the broker belongs to cluster {}.",
                join.cluster_id
            ),
        ));
    }
    let id = join.registration.broker_id;
    let foreign = |r: &&RecordedDirectory| r.cluster_id != join.cluster_id || r.broker_id != id;
    match join.recorded.iter().find(foreign) {
        Some(r) => Err(invalid(format!(
            "Log directory {} belongs to broker {} of cluster {}.",
            r.directory_id, r.broker_id, r.cluster_id
        ))),
        None => Ok(()),
    }
}

fn check_features(image: &Image, join: &Join) -> Result<(), Refusal> {
    for (name, level) in image.features() {
        let range = join.features.iter().find(|range| range.name == name);
        if !range.is_some_and(|range| (range.min..=range.max).contains(&level)) {
            return Err(Refusal::new(
                ErrorCode::UnsupportedVersion,
                format!(
                    "Broker {} does not have level {level} of {name}, which the cluster uses: run a version that has it.",
                    join.registration.broker_id
                ),
            ));
        }
    }
    Ok(())
}

fn invalid(message: String) -> Refusal {
    Refusal::new(ErrorCode::InvalidRegistration, message)
}
