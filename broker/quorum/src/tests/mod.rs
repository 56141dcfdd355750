//! Tests of the decisions, and of what directories say of themselves.

mod cluster;
mod decisions;
mod identity;

use tidemark_config::{BrokerSettings, ConfigMap};
use tidemark_model::{BrokerId, Endpoint, Image};
use tidemark_wire::Uuid;

use crate::decide::{Context, LostDirectories, NewTopic, Registration, register_broker};

/// Hands out ids 1, 2, 3, … as random ids would be.
fn ids_from(first: u8) -> impl FnMut() -> Uuid {
    let mut next = first;
    move || {
        next += 1;
        Uuid([next; 16])
    }
}

fn registration(broker_id: BrokerId, incarnation: u8) -> Registration {
    Registration {
        broker_id,
        incarnation_id: Uuid([incarnation; 16]),
        directories: vec![Uuid([100 + u8::try_from(broker_id).unwrap(); 16])],
        endpoints: vec![Endpoint {
            name: "PLAINTEXT".into(),
            host: "localhost".into(),
            port: 9092,
            security_protocol: 0,
        }],
        rack: None,
    }
}

/// An image in which brokers 0 to `count - 1` are registered.
fn image_with_brokers(count: i32) -> Image {
    (0..count).fold(Image::default(), |image, id| {
        let decision = register_broker(&image, &registration(id, 1), LostDirectories::Refuse);
        decision.result.unwrap();
        image.apply(&decision.records).unwrap()
    })
}

static NOTHING_SET: ConfigMap = ConfigMap::new();

fn context() -> Context<'static> {
    Context {
        broker_id: 0,
        fixed: &NOTHING_SET,
    }
}

fn settings() -> BrokerSettings {
    BrokerSettings::resolve(context().layers(&Image::default())).unwrap()
}

fn new_topic(name: &str, num_partitions: i32, replication_factor: i16) -> NewTopic {
    NewTopic {
        name: name.into(),
        num_partitions,
        replication_factor,
        ..NewTopic::default()
    }
}
