//! UpdateFeatures (KIP-584, KIP-778): levels of features of the whole cluster.

use super::prelude::*;
use tidemark_quorum::decide::{self, FeatureUpdate, UpgradeType};
use tidemark_wire::messages::update_features_response::UpdatableFeatureResult;
use tidemark_wire::messages::{UpdateFeaturesRequest, UpdateFeaturesResponse};

/// From here on there are kinds of upgrades.
const FIRST_VERSION_OF_UPGRADE_TYPE: i16 = 1;
/// The last version in which each feature has a result of its own.
const LAST_VERSION_OF_RESULTS: i16 = 1;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: UpdateFeaturesRequest,
) -> UpdateFeaturesResponse {
    let mut updates = Vec::with_capacity(request.feature_updates.len());
    for update in request.feature_updates {
        let upgrade_type = match (context.version, update.upgrade_type) {
            (version, _) if version < FIRST_VERSION_OF_UPGRADE_TYPE => match update.allow_downgrade
            {
                true => UpgradeType::SafeDowngrade,
                false => UpgradeType::Upgrade,
            },
            (_, 1) => UpgradeType::Upgrade,
            (_, 2) => UpgradeType::SafeDowngrade,
            (_, 3) => UpgradeType::UnsafeDowngrade,
            (_, other) => {
                return refused(
                    ErrorCode::InvalidUpdateVersion,
                    format!("there is no upgrade type {other}"),
                );
            }
        };
        updates.push(FeatureUpdate {
            name: update.feature,
            level: update.max_version_level,
            upgrade_type,
        });
    }
    let names: Vec<String> = updates.iter().map(|update| update.name.clone()).collect();
    let validate_only = request.validate_only;
    let decided = broker
        .change(move |image, _, _| decide::update_features(image, &updates, validate_only))
        .await;
    let results = match decided {
        Ok(results) => results,
        Err(error) => {
            tracing::error!(%error, "features could not be changed");
            return refused(error.error_code(), error.to_string());
        }
    };
    if let Some(refusal) = results.iter().find_map(|result| result.as_ref().err()) {
        return refused(
            refusal.code,
            format!(
                "The update failed for all features since the following feature had an error: {}",
                refusal.message
            ),
        );
    }
    let results = names.into_iter().map(|feature| UpdatableFeatureResult {
        feature,
        ..Default::default()
    });
    UpdateFeaturesResponse {
        results: match context.version <= LAST_VERSION_OF_RESULTS {
            true => results.collect(),
            false => Vec::new(),
        },
        ..Default::default()
    }
}

fn refused(error: ErrorCode, message: String) -> UpdateFeaturesResponse {
    UpdateFeaturesResponse {
        error_code: error.code(),
        error_message: Some(message),
        ..Default::default()
    }
}
