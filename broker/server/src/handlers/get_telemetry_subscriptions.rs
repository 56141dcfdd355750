//! GetTelemetrySubscriptions (KIP-714): no metrics are asked of clients.

use super::prelude::*;
use tidemark_wire::messages::{
    GetTelemetrySubscriptionsRequest, GetTelemetrySubscriptionsResponse,
};

/// How often a client without a subscription asks again.
const PUSH_INTERVAL_MS: i32 = 300_000;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: GetTelemetrySubscriptionsRequest,
) -> GetTelemetrySubscriptionsResponse {
    let id = if request.client_instance_id.is_zero() {
        random_uuid()
    } else {
        request.client_instance_id
    };
    GetTelemetrySubscriptionsResponse {
        client_instance_id: id,
        accepted_compression_types: vec![4, 3, 1, 2, 0],
        push_interval_ms: PUSH_INTERVAL_MS,
        telemetry_max_bytes: broker.settings().telemetry_max_bytes,
        delta_temporality: true,
        ..Default::default()
    }
}
