//! BeginDisruption (ours): leave to stop a broker for a while, granted only while nothing becomes
//! unavailable by it.

use super::prelude::*;
use std::collections::BTreeMap;
use tidemark_env::clock;
use tidemark_model::{Image, TopicPartition};
use tidemark_quorum::decide::{self, Decision, Disruption, DisruptionRefused, Refusal};
use tidemark_wire::messages::begin_disruption_response::HinderingTopic;
use tidemark_wire::messages::{BeginDisruptionRequest, BeginDisruptionResponse};

/// Partitions that are named at most, of those that hinder.
const NAMED: usize = 100;

pub(crate) async fn handle(
    broker: &Arc<Broker>,
    _: &Context,
    request: BeginDisruptionRequest,
) -> BeginDisruptionResponse {
    let now_ms = clock::now_ms();
    let decided = broker
        .change(move |image, context, _| decide_on(image, context, now_ms, &request))
        .await;
    let refused = |code: ErrorCode, message: String| BeginDisruptionResponse {
        error_code: code.code(),
        error_message: Some(message),
        ..Default::default()
    };
    match decided {
        Ok(Ok(until_ms)) => BeginDisruptionResponse {
            until_ms,
            ..Default::default()
        },
        Ok(Err(DisruptionRefused::Refused(refusal))) => refused(refusal.code, refusal.message),
        Ok(Err(DisruptionRefused::Held { until_ms })) => {
            let left_s = until_ms.saturating_sub(now_ms).max(0) / 1000;
            let message = format!("Somebody else has leave to stop it, for {left_s} s more.");
            refused(ErrorCode::NotEnoughReplicas, message)
        }
        Ok(Err(DisruptionRefused::Partitions(hindering))) => {
            let message = format!(
                "{} partitions would have fewer in sync than acks=all needs.",
                hindering.len()
            );
            BeginDisruptionResponse {
                topics: named(&broker.image(), &hindering),
                ..refused(ErrorCode::NotEnoughReplicas, message)
            }
        }
        Err(error) => {
            tracing::error!(%error, "a disruption could not be decided");
            refused(error.error_code(), error.to_string())
        }
    }
}

fn decide_on(
    image: &Image,
    context: decide::Context<'_>,
    now_ms: i64,
    request: &BeginDisruptionRequest,
) -> Decision<Result<i64, DisruptionRefused>> {
    let Some(broker) = image.broker(request.broker_id) else {
        let text = format!("Broker {} is not registered.", request.broker_id);
        let refusal = Refusal {
            code: ErrorCode::BrokerIdNotRegistered,
            message: text,
        };
        return Decision {
            records: Vec::new(),
            result: Err(DisruptionRefused::Refused(refusal)),
        };
    };
    let disruption = Disruption {
        broker_id: broker.id,
        broker_epoch: broker.epoch,
        token: request.token,
        ttl_ms: request.ttl_ms,
    };
    decide::begin_disruption(image, context, now_ms, disruption)
}

fn named(image: &Image, partitions: &[TopicPartition]) -> Vec<HinderingTopic> {
    let mut topics: BTreeMap<String, Vec<i32>> = BTreeMap::new();
    for at in partitions.iter().take(NAMED) {
        if let Some(topic) = image.topic_by_id(at.topic_id) {
            let of_topic = topics.entry(topic.name.to_string()).or_default();
            of_topic.push(at.partition);
        }
    }
    let topic = |(name, partitions)| HinderingTopic {
        name,
        partitions,
        ..Default::default()
    };
    topics.into_iter().map(topic).collect()
}
