//! Feature levels of the whole cluster (KIP-584).

use tidemark_model::{Image, MetadataRecord};
use tidemark_wire::ErrorCode;

use super::{Decision, Refusal};

/// Whether a level may go down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UpgradeType {
    /// Only up.
    Upgrade,
    /// Down as well, if nothing is lost by it.
    SafeDowngrade,
    /// Down as well, whatever is lost by it.
    UnsafeDowngrade,
}

/// A level that a feature should have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeatureUpdate {
    /// The feature.
    pub name: String,
    /// Its level; 0 turns it off.
    pub level: i16,
    /// Whether it may go down.
    pub upgrade_type: UpgradeType,
}

/// Decides UpdateFeatures: all or, when any is refused, none. Every broker that is
/// registered, fenced or not, must have the new level.
pub fn update_features(
    image: &Image,
    updates: &[FeatureUpdate],
    validate_only: bool,
) -> Decision<Vec<Result<(), Refusal>>> {
    let result: Vec<Result<(), Refusal>> = updates
        .iter()
        .enumerate()
        .map(|(at, update)| {
            if updates[..at].iter().any(|other| other.name == update.name) {
                return Err(Refusal::new(
                    ErrorCode::InvalidRequest,
                    "The feature is named twice.",
                ));
            }
            check(image, update)
        })
        .collect();
    let mut records = Vec::new();
    if !validate_only && result.iter().all(Result::is_ok) {
        let changed = updates.iter().filter(|u| image.feature(&u.name) != u.level);
        records.extend(changed.map(|update| MetadataRecord::FeatureLevel {
            name: update.name.clone(),
            level: update.level,
        }));
    }
    Decision { records, result }
}

fn check(image: &Image, update: &FeatureUpdate) -> Result<(), Refusal> {
    let FeatureUpdate {
        name,
        level,
        upgrade_type,
    } = update;
    let refuse = |message: String| Err(Refusal::new(ErrorCode::InvalidUpdateVersion, message));
    if *level < 0 {
        return refuse(format!(
            "Invalid update version {level} for feature {name}: it is negative."
        ));
    }
    let current = image.feature(name);
    if *level < current && *upgrade_type == UpgradeType::Upgrade {
        return refuse(format!(
            "Invalid update version {level} for feature {name}: it is below the level in force, {current}, and the request does not allow a downgrade."
        ));
    }
    if *level > current && *upgrade_type != UpgradeType::Upgrade {
        return refuse(format!(
            "Invalid update version {level} for feature {name}: it is above the level in force, {current}, and the request asks for a downgrade."
        ));
    }
    let lacks = |broker: &&std::sync::Arc<tidemark_model::Broker>| {
        let range = broker.features.iter().find(|range| range.name == *name);
        match range {
            Some(range) => *level != 0 && !(range.min..=range.max).contains(level),
            None => *level != 0,
        }
    };
    if let Some(broker) = image.brokers().find(lacks) {
        return refuse(format!(
            "Invalid update version {level} for feature {name}: broker {} does not have that level.",
            broker.id
        ));
    }
    Ok(())
}
