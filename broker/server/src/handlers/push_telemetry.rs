//! PushTelemetry (KIP-714): accepted, so that clients are content, and dropped.

use super::prelude::*;
use tidemark_wire::messages::{PushTelemetryRequest, PushTelemetryResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: PushTelemetryRequest,
) -> PushTelemetryResponse {
    let most = usize::try_from(broker.settings().telemetry_max_bytes).unwrap_or(0);
    let error = if request.client_instance_id.is_zero() {
        ErrorCode::InvalidRequest
    } else if request.metrics.len() > most {
        ErrorCode::TelemetryTooLarge
    } else {
        ErrorCode::None
    };
    PushTelemetryResponse {
        error_code: error.code(),
        ..Default::default()
    }
}
