//! InitProducerId: an identity for idempotent producers (KIP-98); transactions are refused.

use super::prelude::*;
use tidemark_wire::messages::{InitProducerIdRequest, InitProducerIdResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let refused = |error: ErrorCode| InitProducerIdResponse {
        error_code: error.code(),
        producer_id: -1,
        producer_epoch: -1,
        ..Default::default()
    };
    if request.transactional_id.is_some() {
        return refused(TRANSACTIONS_REFUSED);
    }
    match broker.next_producer_id().await {
        Ok(producer_id) => InitProducerIdResponse {
            producer_id,
            producer_epoch: 0,
            ..Default::default()
        },
        Err(error) => refused(error),
    }
}
