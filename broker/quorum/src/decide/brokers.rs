//! Registering brokers, and handing out producer ids.

use tidemark_model::{
    Broker, BrokerEpoch, BrokerId, Endpoint, FeatureRange, Image, MetadataRecord, NO_LEADER,
    Partition, ProducerId,
};
use tidemark_wire::{ErrorCode, Uuid};

use super::{Decision, Refusal};

/// A process that wants to be a broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// Its number.
    pub broker_id: BrokerId,
    /// Identity of the process: another one after every start.
    pub incarnation_id: Uuid,
    /// Identities of its log directories.
    pub directories: Vec<Uuid>,
    /// Where to reach it.
    pub endpoints: Vec<Endpoint>,
    /// Its rack.
    pub rack: Option<String>,
}

/// What to do when a broker comes back without a log directory that it had.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LostDirectories {
    /// Refuse it, naming the directories, as they may only not be mounted.
    Refuse,
    /// Take it out of every ISR and ELR, as its logs are lost. Partitions that nobody
    /// else had in sync have no leader then.
    OutOfSync,
}

/// Decides a registration; answers with the broker's epoch.
///
/// Another incarnation raises the leader epoch of all that the broker led, in the same
/// batch; other members of the ISR that are up are preferred as leaders. The same
/// incarnation registering again changes where it is reached, and nothing else.
pub fn register_broker(
    image: &Image,
    registration: &Registration,
    lost: LostDirectories,
) -> Decision<Result<BrokerEpoch, Refusal>> {
    match register(image, registration, lost) {
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

fn register(
    image: &Image,
    new: &Registration,
    lost: LostDirectories,
) -> Result<(BrokerEpoch, Vec<MetadataRecord>), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidRegistration, message));
    check_registration(image, new)?;
    let previous = image.broker(new.broker_id);
    let mut logs_lost = false;
    let mut raise_epochs = false;
    if let Some(previous) = previous {
        let missing: Vec<String> = previous
            .directories
            .iter()
            .filter(|d| !new.directories.contains(d))
            .map(Uuid::to_string)
            .collect();
        if !missing.is_empty() {
            if lost == LostDirectories::Refuse {
                return refuse(format!(
                    "Broker {} has registered log directories before that are missing now: {}. Mount them, and name them in log.dirs.",
                    new.broker_id,
                    missing.join(", ")
                ));
            }
            logs_lost = true;
        }
        raise_epochs = previous.incarnation_id != new.incarnation_id;
        if !raise_epochs
            && !logs_lost
            && previous.directories == new.directories
            && previous.endpoints == new.endpoints
            && previous.rack == new.rack
        {
            return Ok((previous.epoch, Vec::new()));
        }
        if !raise_epochs && previous.directories == new.directories {
            return Ok((previous.epoch, vec![moved(previous, new, Vec::new())]));
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
        fenced: false,
        logs_lost,
        features: Vec::new(),
        restored: None,
    }];
    for (at, state) in image.partitions_on(new.broker_id) {
        let after = after_registration(image, new.broker_id, state, raise_epochs, logs_lost);
        if let Some(after) = after {
            let epoch_of = |id| image.broker(id).map(|b| b.epoch);
            records.push(MetadataRecord::partition_change(at, state, after, epoch_of));
        }
    }
    Ok((broker_epoch, records))
}

/// The same process with the same directories says where it is reached now: its epoch goes on, and
/// so does what it leads.
pub(super) fn moved(
    previous: &Broker,
    new: &Registration,
    features: Vec<FeatureRange>,
) -> MetadataRecord {
    MetadataRecord::BrokerRegistered {
        broker_id: previous.id,
        incarnation_id: previous.incarnation_id,
        broker_epoch: previous.epoch,
        previous_epoch: Some(previous.epoch),
        directories: previous.directories.clone(),
        endpoints: new.endpoints.clone(),
        rack: new.rack.clone(),
        fenced: previous.fenced,
        logs_lost: false,
        features,
        restored: None,
    }
}

/// What no registration may be without, or share with another broker's.
pub(super) fn check_registration(image: &Image, new: &Registration) -> Result<(), Refusal> {
    let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidRegistration, message));
    if new.broker_id < 0 {
        return refuse(format!("Broker id {} is negative.", new.broker_id));
    }
    if new.directories.is_empty() || new.endpoints.is_empty() {
        return refuse("A broker needs a log directory and a listener.".to_owned());
    }
    if let Some(taken) = image.brokers().find(|b| {
        b.id != new.broker_id && b.directories.iter().any(|d| new.directories.contains(d))
    }) {
        return refuse(format!(
            "Broker {} has registered a log directory of this broker: one is a copy of the other.",
            taken.id
        ));
    }
    Ok(())
}

/// The epoch of a registration decided on `image`: the index of the batch that brings it,
/// and in any case above the last one.
pub(super) fn next_broker_epoch(image: &Image, broker_id: BrokerId) -> BrokerEpoch {
    let next_index = i64::try_from(image.index())
        .unwrap_or(i64::MAX)
        .saturating_add(1);
    let previous = image.broker(broker_id);
    previous.map_or(next_index, |p| next_index.max(p.epoch.saturating_add(1)))
}

/// The broker of that id and epoch.
pub(super) fn check_epoch(
    image: &Image,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Result<&Broker, Refusal> {
    match image.broker(broker_id) {
        None => Err(unregistered(broker_id)),
        Some(broker) if broker.epoch != broker_epoch => Err(Refusal::new(
            ErrorCode::StaleBrokerEpoch,
            format!(
                "Broker {broker_id} has epoch {}, and the request is of epoch {broker_epoch}.",
                broker.epoch
            ),
        )),
        Some(broker) => Ok(broker),
    }
}

pub(super) fn unregistered(broker_id: BrokerId) -> Refusal {
    Refusal::new(
        ErrorCode::BrokerIdNotRegistered,
        format!("Broker {broker_id} is not registered."),
    )
}

/// A partition after broker `id` came back; `None` if it stays as it is.
fn after_registration(
    image: &Image,
    id: BrokerId,
    state: &Partition,
    raise_epochs: bool,
    logs_lost: bool,
) -> Option<Partition> {
    let is_up = |other: BrokerId| image.broker(other).is_some_and(|b| !b.fenced);
    let mut after = state.clone();
    if logs_lost {
        after.isr.retain(|other| *other != id);
        after.elr.retain(|other| *other != id);
    }
    if state.leader == id && (raise_epochs || logs_lost) {
        let others = after.isr.iter().copied().filter(|other| *other != id);
        let preferred = state
            .replicas
            .iter()
            .copied()
            .find(|replica| others.clone().any(|other| other == *replica) && is_up(*replica));
        after.leader = match preferred {
            Some(other) => other,
            None if logs_lost => NO_LEADER,
            None => id,
        };
        after.leader_epoch = state.leader_epoch.saturating_add(1);
    } else if state.leader == NO_LEADER && after.isr.contains(&id) {
        // It was offline for want of this member.
        after.leader = id;
        after.leader_epoch = state.leader_epoch.saturating_add(1);
    }
    (after != *state).then_some(after)
}

/// Producer ids that a broker may hand out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerIds {
    /// The first.
    pub first: ProducerId,
    /// How many.
    pub count: i64,
}

/// How many producer ids a broker takes at once.
pub const PRODUCER_ID_BLOCK_SIZE: i64 = 1000;

/// Decides a block of producer ids for a registered broker (KIP-730).
pub fn allocate_producer_ids(
    image: &Image,
    broker_id: BrokerId,
    broker_epoch: BrokerEpoch,
) -> Decision<Result<ProducerIds, Refusal>> {
    let refuse = |code, message: String| Decision {
        records: Vec::new(),
        result: Err(Refusal::new(code, message)),
    };
    if let Err(refusal) = check_epoch(image, broker_id, broker_epoch) {
        return refuse(refusal.code, refusal.message);
    }
    let first = image.next_producer_id();
    let Some(next) = first.checked_add(PRODUCER_ID_BLOCK_SIZE) else {
        return refuse(
            ErrorCode::UnknownServerError,
            "All producer ids are used up.".to_owned(),
        );
    };
    Decision {
        records: vec![MetadataRecord::ProducerIdBlock {
            broker_id,
            broker_epoch,
            first,
            next,
        }],
        result: Ok(ProducerIds {
            first,
            count: PRODUCER_ID_BLOCK_SIZE,
        }),
    }
}
