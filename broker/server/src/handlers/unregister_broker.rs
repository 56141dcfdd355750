//! UnregisterBroker: takes a broker that is stopped and empty out of the cluster.

use super::prelude::*;
use tidemark_quorum::decide;
use tidemark_wire::messages::{UnregisterBrokerRequest, UnregisterBrokerResponse};

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: UnregisterBrokerRequest,
) -> UnregisterBrokerResponse {
    let decided = broker
        .change(move |image, _, _| decide::unregister_broker(image, request.broker_id))
        .await;
    let refused = match decided {
        Ok(Ok(())) => None,
        Ok(Err(refusal)) => Some((refusal.code, refusal.message)),
        Err(error) => {
            tracing::error!(%error, "a broker could not be unregistered");
            Some((error.error_code(), error.to_string()))
        }
    };
    let (error, message) = refused.unzip();
    UnregisterBrokerResponse {
        error_code: error.unwrap_or_default().code(),
        error_message: message,
        ..Default::default()
    }
}
