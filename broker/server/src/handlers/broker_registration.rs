//! BrokerRegistration (KIP-631): a process becomes a broker of the cluster.

use crate::controller::Node;
use bytes::{Buf, BufMut, Bytes, BytesMut};
use std::sync::Arc;
use tidemark_model::{Endpoint, FeatureRange};
use tidemark_quorum::decide::{Join, RecordedDirectory, Registration};
use tidemark_wire::messages::{BrokerRegistrationRequest, BrokerRegistrationResponse};
use tidemark_wire::{ErrorCode, Uuid};

/// Tag of what the directories say of themselves, in the request.
const RECORDED: u32 = 10_000;
/// Tag of a message for people, in the answer.
const MESSAGE: u32 = 10_000;
/// Directory, cluster, broker, epoch.
const RECORDED_BYTES: usize = 16 + 16 + 4 + 8;

/// Adds what the directories say of themselves.
pub(crate) fn put_recorded(
    request: &mut BrokerRegistrationRequest,
    recorded: &[RecordedDirectory],
) {
    let mut bytes = BytesMut::with_capacity(recorded.len() * RECORDED_BYTES);
    for directory in recorded {
        bytes.put_slice(&directory.directory_id.0);
        bytes.put_slice(&directory.cluster_id.0);
        bytes.put_i32(directory.broker_id);
        bytes.put_i64(directory.broker_epoch.unwrap_or(-1));
    }
    request.unknown_tagged_fields.push(RECORDED, bytes.freeze());
}

fn recorded(request: &BrokerRegistrationRequest) -> Vec<RecordedDirectory> {
    let fields = request.unknown_tagged_fields.as_slice();
    let Some((_, bytes)) = fields.iter().find(|(tag, _)| *tag == RECORDED) else {
        return Vec::new();
    };
    let each = bytes.chunks_exact(RECORDED_BYTES).map(|mut bytes| {
        let mut uuid = || {
            let mut id = [0; 16];
            bytes.copy_to_slice(&mut id);
            Uuid(id)
        };
        let (directory_id, cluster_id) = (uuid(), uuid());
        RecordedDirectory {
            directory_id,
            cluster_id,
            broker_id: bytes.get_i32(),
            broker_epoch: Some(bytes.get_i64()).filter(|epoch| *epoch >= 0),
        }
    });
    each.collect()
}

/// Why a registration was refused, for people.
pub(crate) fn message_of(response: &BrokerRegistrationResponse) -> String {
    let fields = response.unknown_tagged_fields.as_slice();
    let message = fields.iter().find(|(tag, _)| *tag == MESSAGE);
    match message {
        Some((_, bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        None => ErrorCode::from_code(response.error_code).name().to_owned(),
    }
}

pub(crate) async fn handle(
    node: &Arc<Node>,
    request: BrokerRegistrationRequest,
) -> BrokerRegistrationResponse {
    let refuse = |code: ErrorCode, message: String| {
        let mut response = BrokerRegistrationResponse {
            error_code: code.code(),
            ..Default::default()
        };
        let message = Bytes::from(message.into_bytes());
        response.unknown_tagged_fields.push(MESSAGE, message);
        response
    };
    let Ok(cluster_id) = request.cluster_id.parse::<Uuid>() else {
        let message = format!("{:?} is no cluster id", request.cluster_id);
        return refuse(ErrorCode::InconsistentClusterId, message);
    };
    let join = Join {
        recorded: recorded(&request),
        cluster_id,
        features: request
            .features
            .into_iter()
            .map(|feature| FeatureRange {
                name: feature.name,
                min: feature.min_supported_version,
                max: feature.max_supported_version,
            })
            .collect(),
        registration: Registration {
            broker_id: request.broker_id,
            incarnation_id: request.incarnation_id,
            directories: request.log_dirs,
            endpoints: request
                .listeners
                .into_iter()
                .map(|listener| Endpoint {
                    name: listener.name,
                    host: listener.host,
                    port: listener.port,
                    security_protocol: listener.security_protocol,
                })
                .collect(),
            rack: request.rack,
        },
    };
    match node.register(join).await {
        Ok(Ok(broker_epoch)) => BrokerRegistrationResponse {
            broker_epoch,
            ..Default::default()
        },
        Ok(Err(refusal)) => refuse(refusal.code, refusal.message),
        Err(error) => refuse(error.error_code(), error.to_string()),
    }
}
