//! Taking a broker out of the cluster for good: cordoned first, empty then, gone last.

use tidemark_model::{BrokerId, Image, MetadataRecord};
use tidemark_wire::ErrorCode;

use super::brokers::unregistered;
use super::{Decision, Refusal};

/// Decides that a broker gets no new replicas, or may have them again.
pub fn cordon_broker(
    image: &Image,
    broker_id: BrokerId,
    cordoned: bool,
) -> Decision<Result<(), Refusal>> {
    let Some(broker) = image.broker(broker_id) else {
        return Decision {
            records: Vec::new(),
            result: Err(unregistered(broker_id)),
        };
    };
    let record = MetadataRecord::BrokerCordoned {
        broker_id,
        broker_epoch: broker.epoch,
        cordoned,
    };
    Decision {
        records: if broker.cordoned == cordoned {
            Vec::new()
        } else {
            vec![record]
        },
        result: Ok(()),
    }
}

/// Decides UnregisterBroker. Unlike Kafka's it is refused while the broker holds replicas
/// or is up: the cluster would count on copies that nobody will ever see again.
pub fn unregister_broker(image: &Image, broker_id: BrokerId) -> Decision<Result<(), Refusal>> {
    let refuse = |refusal| Decision {
        records: Vec::new(),
        result: Err(refusal),
    };
    let Some(broker) = image.broker(broker_id) else {
        return refuse(unregistered(broker_id));
    };
    let held = image.replica_count(broker_id);
    if held > 0 {
        return refuse(Refusal::new(
            ErrorCode::InvalidRequest,
            format!(
                "Broker {broker_id} still holds {held} replica(s). Cordon it and move them to other brokers first."
            ),
        ));
    }
    if !broker.fenced {
        return refuse(Refusal::new(
            ErrorCode::InvalidRequest,
            format!("Broker {broker_id} is running. Stop it first."),
        ));
    }
    Decision {
        records: vec![MetadataRecord::BrokerUnregistered {
            broker_id,
            broker_epoch: broker.epoch,
        }],
        result: Ok(()),
    }
}
