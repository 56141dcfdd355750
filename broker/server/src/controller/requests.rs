//! What brokers ask of the controller. No client can: these are on no listener.

use super::Node;
use crate::context::Context;
use crate::dispatch::{Answer, answered, decode};
use crate::handlers::{
    allocate_producer_ids, alter_partition, broker_heartbeat, broker_registration,
};
use crate::net::FrameError;
use bytes::Bytes;
use std::sync::Arc;
use tidemark_wire::ApiKey;

macro_rules! private {
    ($($api:ident => $handler:ident,)*) => {
        /// Whether only brokers ask for it.
        pub(super) fn is_private(api: ApiKey) -> bool {
            matches!(api, $(ApiKey::$api)|*)
        }

        /// Serves a broker's request.
        pub(super) async fn serve(node: &Arc<Node>, context: &Context, body: Bytes) -> Result<Answer, FrameError> {
            match context.api {
                $(ApiKey::$api => {
                    let request = decode(context, body)?;
                    answered(context, &$handler::handle(node, request).await)
                })*
                api => Err(FrameError::Api { key: api as i16, version: context.version }),
            }
        }
    };
}

private! {
    BrokerRegistration => broker_registration,
    BrokerHeartbeat => broker_heartbeat,
    AlterPartition => alter_partition,
    AllocateProducerIds => allocate_producer_ids,
}
