//! Making and removing topics.

use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::RDKafkaErrorCode;

use crate::client;
use crate::failure::{Failure, Result, while_doing};

/// No step waits longer for a broker.
const PATIENCE: Duration = Duration::from_secs(60);

fn admin(bootstrap: &str) -> Result<AdminClient<DefaultClientContext>> {
    client::config(bootstrap)
        .create()
        .map_err(while_doing("making an admin client"))
}

fn patient() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(PATIENCE))
        .operation_timeout(Some(PATIENCE))
}

/// Creates a topic with `replicas`, or as many as the broker gives by itself: one, or three in a
/// cluster. A topic of one replica needs no more than that one to have a record.
pub fn create_topic(
    bootstrap: &str,
    topic: &str,
    partitions: i32,
    replicas: Option<i32>,
) -> Result<()> {
    let mut new = NewTopic::new(
        topic,
        partitions,
        TopicReplication::Fixed(replicas.unwrap_or(-1)),
    );
    if replicas == Some(1) {
        new = new.set("min.insync.replicas", "1");
    }
    let admin = admin(bootstrap)?;
    let made = futures_executor::block_on(admin.create_topics([&new], &patient()))
        .map_err(while_doing("creating a topic"))?;
    match made.into_iter().next() {
        Some(Err((_, code))) => Err(Failure::Unreachable(format!("creating {topic}: {code}"))),
        _ => Ok(()),
    }
}

/// Deletes topics; those that are not there are no error.
pub fn delete_topics(bootstrap: &str, topics: &[&str]) -> Result<()> {
    let admin = admin(bootstrap)?;
    let gone = futures_executor::block_on(admin.delete_topics(topics, &patient()))
        .map_err(while_doing("deleting topics"))?;
    for result in gone {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::UnknownTopicOrPartition)) => {}
            Err((topic, code)) => {
                return Err(Failure::Unreachable(format!("deleting {topic}: {code}")));
            }
        }
    }
    Ok(())
}
