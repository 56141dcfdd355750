//! ApiVersions (KIP-35, KIP-511): what this broker serves.

use crate::broker::Broker;
use crate::context::Context;
use crate::dispatch::{SERVED, advertised};
use crate::features;
use std::sync::Arc;
use tidemark_wire::messages::api_versions_response::{
    ApiVersion, FinalizedFeatureKey, SupportedFeatureKey,
};
use tidemark_wire::messages::{ApiVersionsRequest, ApiVersionsResponse};
use tidemark_wire::{ApiKey, ErrorCode};

/// The advertised versions of every API that has a handler, but for what brokers ask one another.
pub(crate) fn table() -> Vec<ApiVersion> {
    let mut table: Vec<ApiVersion> = SERVED
        .iter()
        .filter(|api| **api != ApiKey::DurableAck)
        .map(|api| {
            let (min_version, max_version) = advertised(*api);
            ApiVersion {
                api_key: *api as i16,
                min_version,
                max_version,
                ..Default::default()
            }
        })
        .collect();
    table.sort_by_key(|entry| entry.api_key);
    table
}

/// A client's name and version for its own software, as far as Kafka allows them.
fn is_legal_name(name: &str) -> bool {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    let inner = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    edge(name.chars().next()) && edge(name.chars().last()) && name.chars().all(inner)
}

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    context: &Context,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    let named = is_legal_name(&request.client_software_name)
        && is_legal_name(&request.client_software_version);
    if context.version >= 3 && !named {
        return ApiVersionsResponse {
            error_code: ErrorCode::InvalidRequest.code(),
            ..Default::default()
        };
    }
    let image = broker.image();
    let supported = features::supported().into_iter();
    let finalized = image.features().map(|(name, level)| FinalizedFeatureKey {
        name: name.to_owned(),
        max_version_level: level,
        min_version_level: level,
        ..Default::default()
    });
    ApiVersionsResponse {
        api_keys: table(),
        supported_features: supported
            .map(|range| SupportedFeatureKey {
                name: range.name,
                min_version: range.min,
                max_version: range.max,
                ..Default::default()
            })
            .collect(),
        finalized_features: finalized.collect(),
        finalized_features_epoch: i64::try_from(image.index()).unwrap_or(i64::MAX),
        ..Default::default()
    }
}
