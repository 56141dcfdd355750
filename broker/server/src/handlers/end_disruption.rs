//! EndDisruption (ours): a broker that there was leave to stop is back.

use super::prelude::*;
use tidemark_quorum::decide::{self, Decision};
use tidemark_wire::messages::{EndDisruptionRequest, EndDisruptionResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: EndDisruptionRequest,
) -> EndDisruptionResponse {
    let decided = broker
        .change(move |image, _, _| Decision {
            records: decide::end_disruption(image, request.broker_id, request.token),
            result: (),
        })
        .await;
    match decided {
        Ok(()) => EndDisruptionResponse::default(),
        Err(error) => {
            tracing::error!(%error, "a disruption could not be ended");
            EndDisruptionResponse {
                error_code: error.error_code().code(),
                error_message: Some(error.to_string()),
                ..Default::default()
            }
        }
    }
}
