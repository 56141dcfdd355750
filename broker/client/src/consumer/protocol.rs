//! The bytes that members of a classic group send each other: subscriptions and assignments. Pure.

use bytes::Bytes;
use tidemark_wire::messages::{
    ConsumerProtocolAssignment, ConsumerProtocolSubscription, consumer_protocol_assignment,
    consumer_protocol_subscription,
};
use tidemark_wire::{Message, Reader, Writer};

use super::assignor::Member;
use crate::admin::by_topic;
use crate::error::ClientError;
use crate::metadata::TopicPartition;

/// The protocol type of consumers.
pub(crate) const TYPE: &str = "consumer";

/// The version that the bytes begin with, and the message in it.
fn encode<M: Message>(message: &M, version: i16) -> Result<Bytes, ClientError> {
    let mut writer = Writer::new();
    writer.i16(version);
    message
        .encode(&mut writer, version)
        .map_err(|error| ClientError::Invalid(format!("{} cannot be written: {error}", M::NAME)))?;
    Ok(writer.into_bytes())
}

/// Later versions only add fields at the end, so the newest that we know reads them (what follows is left).
fn decode<M: Message>(bytes: Bytes) -> Result<M, ClientError> {
    let unreadable = |error: tidemark_wire::DecodeError| {
        ClientError::Invalid(format!(
            "another member's {} cannot be read: {error}",
            M::NAME
        ))
    };
    let mut reader = Reader::new(bytes);
    let version = reader.i16().map_err(unreadable)?;
    if version < 0 {
        return Err(ClientError::Invalid(format!(
            "another member's {} has version {version}",
            M::NAME
        )));
    }
    M::decode(&mut reader, version.min(M::MAX_VERSION)).map_err(unreadable)
}

/// A member's topics and what it owns.
pub(crate) fn encode_subscription(
    topics: &[String],
    owned: &[TopicPartition],
    generation: i32,
) -> Result<Bytes, ClientError> {
    let mut topics = topics.to_vec();
    topics.sort();
    let subscription = ConsumerProtocolSubscription {
        topics,
        owned_partitions: by_topic(owned.iter().map(|tp| (tp, ())))
            .into_iter()
            .map(
                |(topic, partitions)| consumer_protocol_subscription::TopicPartition {
                    topic,
                    partitions: partitions.into_iter().map(|(p, ())| p).collect(),
                    ..Default::default()
                },
            )
            .collect(),
        generation_id: generation,
        ..ConsumerProtocolSubscription::default()
    };
    encode(&subscription, ConsumerProtocolSubscription::MAX_VERSION)
}

/// What a member said of itself.
pub(crate) fn decode_subscription(
    member_id: String,
    instance_id: Option<String>,
    bytes: Bytes,
) -> Result<Member, ClientError> {
    let subscription: ConsumerProtocolSubscription = decode(bytes)?;
    Ok(Member {
        member_id,
        instance_id,
        topics: subscription.topics,
        owned: subscription
            .owned_partitions
            .into_iter()
            .flat_map(|topic| {
                let name = topic.topic;
                topic
                    .partitions
                    .into_iter()
                    .map(move |partition| TopicPartition::new(name.clone(), partition))
            })
            .collect(),
        generation: subscription.generation_id,
    })
}

/// What a member gets.
pub(crate) fn encode_assignment(partitions: &[TopicPartition]) -> Result<Bytes, ClientError> {
    let assignment = ConsumerProtocolAssignment {
        assigned_partitions: by_topic(partitions.iter().map(|tp| (tp, ())))
            .into_iter()
            .map(
                |(topic, partitions)| consumer_protocol_assignment::TopicPartition {
                    topic,
                    partitions: partitions.into_iter().map(|(p, ())| p).collect(),
                    ..Default::default()
                },
            )
            .collect(),
        ..ConsumerProtocolAssignment::default()
    };
    encode(&assignment, ConsumerProtocolAssignment::MAX_VERSION)
}

/// What this member gets; no bytes are nothing.
pub(crate) fn decode_assignment(bytes: Bytes) -> Result<Vec<TopicPartition>, ClientError> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let assignment: ConsumerProtocolAssignment = decode(bytes)?;
    let mut partitions: Vec<TopicPartition> = assignment
        .assigned_partitions
        .into_iter()
        .flat_map(|topic| {
            let name = topic.topic;
            topic
                .partitions
                .into_iter()
                .map(move |partition| TopicPartition::new(name.clone(), partition))
        })
        .collect();
    partitions.sort();
    Ok(partitions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subscriptions_and_assignments_come_back() {
        let owned = [TopicPartition::new("t", 0), TopicPartition::new("u", 2)];
        let topics = ["u".to_owned(), "t".to_owned()];
        let bytes = encode_subscription(&topics, &owned, 4).unwrap();
        let member = decode_subscription("m".to_owned(), None, bytes).unwrap();
        assert_eq!(member.topics, ["t", "u"]);
        assert_eq!(member.owned, owned);
        assert_eq!(member.generation, 4);
        let bytes = encode_assignment(&owned).unwrap();
        assert_eq!(decode_assignment(bytes).unwrap(), owned);
        assert_eq!(decode_assignment(Bytes::new()).unwrap(), []);
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let mut bytes = encode_assignment(&[TopicPartition::new("t", 0)])
            .unwrap()
            .to_vec();
        bytes[1] = 9;
        bytes.extend_from_slice(b"new field");
        assert_eq!(
            decode_assignment(bytes.into()).unwrap(),
            [TopicPartition::new("t", 0)]
        );
    }

    #[test]
    fn garbage_is_an_error() {
        assert!(decode_assignment(Bytes::from_static(b"\x00")).is_err());
        assert!(decode_assignment(Bytes::from_static(b"\xff\xff\x00\x00\x00\x01")).is_err());
        assert!(decode_assignment(Bytes::from_static(b"\x00\x00\x7f\xff\xff\xff")).is_err());
    }
}
