//! `Topic`: brings one topic to its spec, and shows what it does not mend.

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use kube::api::ListParams;
use kube::runtime::controller::Action;
use kube::{Api, ResourceExt};
use serde_json::json;
use tidemark_client::admin::{ConfigChange, ConfigOp, ConfigResource, ConfigSource, NewTopic};
use tidemark_client::{ClientError, Cluster as Brokers, Topics};
use tidemark_crds::common::DeletionPolicy;
use tidemark_crds::topic::{Actual, Owner, Plan, Setting, Step, Wanted, owner_of, plan, validate};
use tidemark_crds::{Cluster, Invalid, Topic, TopicStatus, condition, set_condition};
use tidemark_env::clock;
use tidemark_wire::ErrorCode;

use crate::apply::{merge, status as write_status};
use crate::context::{Context, Error, WAITING};
use crate::watched::Watched;

/// Holds a Topic with deletionPolicy Delete until its topic is gone.
pub const FINALIZER: &str = "tidemark.dev/topic";
/// The annotation that approves changes that delete records.
const APPROVE: &str = "tidemark.dev/approve";

/// How soon a topic that is as it should be is looked at again: what somebody changes in the cluster
/// tells nobody.
const REST: Duration = Duration::from_secs(60);

/// Brings a topic to its spec.
///
/// # Errors
/// Kubernetes'. What brokers refuse stands in the status.
pub async fn reconcile(topic: Arc<Topic>, context: Arc<Context>) -> Result<Action, Error> {
    let topics: Api<Topic> = context.beside(&*topic);
    if topic.metadata.deletion_timestamp.is_some() {
        let cluster = context
            .cluster_now(&*topic, &topic.spec.cluster_ref)
            .await?;
        return delete(&context, &topics, &topic, cluster.as_ref()).await;
    }
    let cluster = context.cluster_of(&*topic, &topic.spec.cluster_ref).await?;
    let held = topic.finalizers().iter().any(|f| f == FINALIZER);
    let hold = topic.spec.deletion_policy == DeletionPolicy::Delete;
    if held != hold {
        hold_with(&topics, &topic, hold).await?;
    }
    let told = bring(&context, &topic, cluster.as_ref()).await?;
    let done = matches!(&told, Ok((_, plan)) if plan.pending.is_empty());
    let new = status(&topic, told, clock::now_ms());
    let name = topic.name_any();
    if topic.status.as_ref().map(|old| &old.message) != Some(&new.message)
        && !new.message.is_empty()
    {
        context.tell(&*topic, !done, "Topic", &new.message).await;
    }
    write_status(&topics, &name, topic.status.as_ref(), &new).await?;
    Ok(Action::requeue(if done { REST } else { WAITING }))
}

/// A topic, and what is left to do about it; or why nothing is done.
type Told = Result<(Actual, Plan), Invalid>;

async fn bring(context: &Context, topic: &Topic, cluster: Option<&Cluster>) -> Result<Told, Error> {
    let wanted = match validate(topic.topic_name(), &topic.spec) {
        Ok(wanted) => wanted,
        Err(invalid) => return Ok(Err(invalid)),
    };
    let Some(cluster) = cluster else {
        let text = format!("there is no Cluster {}", topic.spec.cluster_ref.name);
        return Ok(Err(Invalid::new("ClusterNotFound", text)));
    };
    let wanted = wanted.with_defaults(cluster.spec.tier.as_ref());
    // The watch told of this Topic, and before that of every older one.
    if let Some(owner) = other_owner(topic, &context.topics()) {
        let text = format!("topic {} belongs to the Topic {owner}", wanted.name);
        return Ok(Err(Invalid::new("NameTaken", text)));
    }
    let done = match context.brokers_of(cluster).await {
        Ok(brokers) => act(&brokers, topic, &wanted).await,
        Err(Error::Brokers(error)) => Err(error),
        Err(error) => return Err(error),
    };
    Ok(done.unwrap_or_else(|error| {
        context.forget_brokers_of(cluster);
        Err(refusal(&error))
    }))
}

/// What brokers refuse, or cannot be asked.
fn refusal(error: &ClientError) -> Invalid {
    match error {
        ClientError::Server { .. } => Invalid::new("RefusedByCluster", error.to_string()),
        _ => Invalid::new("ClusterUnreachable", error.to_string()),
    }
}

/// All Topics beside this one, read live: no topic is deleted by what a watch told. One that cannot be
/// read claims nothing, and must not stop the others.
async fn topics_now(context: &Context, topic: &Topic) -> Result<Vec<Arc<Watched<Topic>>>, Error> {
    let all: Api<Watched<Topic>> = context.beside(topic);
    let all = all
        .list(&ListParams::default())
        .await
        .map_err(Error::kube("listing topics"))?;
    Ok(all.into_iter().map(Arc::new).collect())
}

/// The name of another resource that this topic belongs to.
fn other_owner(topic: &Topic, all: &[Arc<Watched<Topic>>]) -> Option<String> {
    let claims: Vec<Owner> = all
        .iter()
        .filter_map(|other| other.0.as_ref().ok())
        .filter(|other| {
            other.topic_name() == topic.topic_name()
                && other.namespace() == topic.namespace()
                && other.spec.cluster_ref == topic.spec.cluster_ref
        })
        .map(|other| Owner {
            created_ms: other
                .creation_timestamp()
                .map_or(0, |time| time.0.as_millisecond()),
            uid: other.uid().unwrap_or_default(),
            name: other.name_any(),
        })
        .collect();
    let owner = owner_of(&claims).filter(|owner| Some(&owner.uid) != topic.uid().as_ref());
    owner.map(|owner| owner.name.clone())
}

async fn act(brokers: &Brokers, topic: &Topic, wanted: &Wanted) -> Result<Told, ClientError> {
    let actual = observe(brokers, &wanted.name).await?;
    let policies = (topic.spec.existing, topic.spec.management_policy);
    let known = topic.status.as_ref();
    let known = known.and_then(|status| status.topic_id.as_deref());
    let approved = topic.annotations().get(APPROVE).map(String::as_str);
    let mut plan = match plan(wanted, actual.as_ref(), policies, known, approved) {
        Ok(plan) => plan,
        Err(invalid) => return Ok(Err(invalid)),
    };
    let steps = std::mem::take(&mut plan.steps);
    if let (Some(actual), true) = (&actual, steps.is_empty()) {
        return Ok(Ok((actual.clone(), plan)));
    }
    for step in steps {
        carry_out(brokers, &wanted.name, &step).await?;
    }
    match observe(brokers, &wanted.name).await? {
        Some(actual) => Ok(Ok((actual, plan))),
        // Another broker was asked, and has not heard of it yet.
        None => Ok(Err(Invalid::new("Creating", "the topic is being made"))),
    }
}

/// A topic as it is, if it is.
///
/// # Errors
/// When brokers cannot be asked.
pub async fn observe(brokers: &Brokers, name: &str) -> Result<Option<Actual>, ClientError> {
    let info = brokers.metadata(Topics::Named(&[name])).await?;
    let Some(topic) = info.topics.get(name) else {
        return match info.topic_errors.get(name) {
            None | Some(ErrorCode::UnknownTopicOrPartition) => Ok(None),
            Some(code) => Err(ClientError::Server {
                what: format!("describing topic {name}"),
                code: *code,
                message: None,
            }),
        };
    };
    let replicas = topic.partitions.values().map(|p| p.replicas.len()).min();
    let settings = brokers
        .describe_configs(&ConfigResource::Topic(name.to_owned()))
        .await?;
    let settings = settings.into_iter().filter_map(|entry| {
        let setting = Setting {
            value: entry.value?,
            on_topic: entry.source == ConfigSource::Topic,
        };
        Some((entry.name, setting))
    });
    Ok(Some(Actual {
        id: topic.id.to_string(),
        partitions: topic.partition_count(),
        replicas: i32::try_from(replicas.unwrap_or(0)).unwrap_or(i32::MAX),
        settings: settings.collect(),
    }))
}

/// Does one step of a topic's plan.
///
/// # Errors
/// What brokers refuse, or that they cannot be asked.
pub async fn carry_out(brokers: &Brokers, name: &str, step: &Step) -> Result<(), ClientError> {
    match step {
        Step::Create {
            partitions,
            replicas,
            settings,
        } => {
            let new = NewTopic {
                name: name.to_owned(),
                partitions: Some(*partitions),
                replicas: replicas.and_then(|count| i16::try_from(count).ok()),
                assignment: Vec::new(),
                configs: settings.clone().into_iter().collect(),
            };
            brokers.create_topic(&new, false).await?;
        }
        Step::Grow { to } => brokers.create_partitions(name, *to, false).await?,
        Step::Alter(changes) => {
            let changes: Vec<ConfigChange> = changes.iter().map(change).collect();
            let resource = ConfigResource::Topic(name.to_owned());
            brokers.alter_configs(&resource, &changes, false).await?;
        }
    }
    tracing::info!(topic = name, ?step, "changed a topic");
    Ok(())
}

fn change((name, value): (&String, &Option<String>)) -> ConfigChange {
    ConfigChange {
        name: name.clone(),
        op: match value {
            Some(_) => ConfigOp::Set,
            None => ConfigOp::Delete,
        },
        value: value.clone(),
    }
}

/// Holds a resource with our finalizer, or lets it go.
async fn hold_with(topics: &Api<Topic>, topic: &Topic, hold: bool) -> Result<(), Error> {
    let mut finalizers = topic.finalizers().to_vec();
    finalizers.retain(|finalizer| finalizer != FINALIZER);
    if hold {
        finalizers.push(FINALIZER.to_owned());
    }
    // With the version that was read: others have finalizers here, too.
    let patch = json!({"metadata": {
        "finalizers": finalizers,
        "resourceVersion": topic.resource_version(),
    }});
    merge(
        topics,
        &topic.name_any(),
        &patch,
        "the finalizer of a topic",
    )
    .await
}

/// Deletes the topic with its resource, where the spec says so. A cluster that is gone or going
/// holds nobody up: the topic goes or stays with its disks.
async fn delete(
    context: &Context,
    topics: &Api<Topic>,
    topic: &Topic,
    cluster: Option<&Cluster>,
) -> Result<Action, Error> {
    if !topic.finalizers().iter().any(|f| f == FINALIZER) {
        return Ok(Action::await_change());
    }
    let cluster = cluster.filter(|cluster| cluster.metadata.deletion_timestamp.is_none());
    let theirs = other_owner(topic, &topics_now(context, topic).await?).is_some();
    if let Some(cluster) = cluster
        && !theirs
        && topic.spec.deletion_policy == DeletionPolicy::Delete
    {
        let brokers = context.brokers_of(cluster).await?;
        let name = topic.topic_name().to_owned();
        for (_, deleted) in brokers.delete_topics(&[name]).await? {
            match deleted {
                Err(error) if error.code() != Some(ErrorCode::UnknownTopicOrPartition) => {
                    return Err(error.into());
                }
                _ => {}
            }
        }
    }
    hold_with(topics, topic, false).await?;
    Ok(Action::await_change())
}

fn status(topic: &Topic, told: Told, now_ms: i64) -> TopicStatus {
    let old = topic.status.clone().unwrap_or_default();
    let generation = topic.metadata.generation;
    let mut new = TopicStatus {
        observed_generation: generation,
        topic_name: topic.topic_name().to_owned(),
        ..old
    };
    let mut set = |type_: &str, is: Option<bool>, reason: &str, text: &str| {
        let condition = condition(type_, is, reason, text, generation, now_ms);
        set_condition(&mut new.conditions, condition);
    };
    match told {
        Err(invalid) => {
            // That it cannot be asked says nothing of the spec, and that it is being made is good news.
            let accepted = match invalid.reason {
                "ClusterUnreachable" | "Creating" | "ClusterNotFound" => None,
                _ => Some(false),
            };
            set("Accepted", accepted, invalid.reason, &invalid.message);
            set("Synced", Some(false), invalid.reason, &invalid.message);
            if accepted.is_none() {
                set("Ready", None, invalid.reason, &invalid.message);
            }
            new.message = invalid.message;
        }
        Ok((actual, plan)) => {
            let replaced = new
                .topic_id
                .as_ref()
                .filter(|id| **id != actual.id)
                .cloned();
            set("Accepted", Some(true), "Valid", "");
            set("Ready", Some(true), "Exists", "");
            let pending: Vec<String> = plan.pending.iter().map(ToString::to_string).collect();
            let drift: Vec<String> = plan.drift.iter().map(ToString::to_string).collect();
            new.message = match (&replaced, pending.first(), drift.first()) {
                (Some(id), _, _) => format!("the topic was replaced: it had the id {id}"),
                (_, Some(change), _) => format!("waits for approval: {change}"),
                (_, _, Some(drift)) => drift.clone(),
                (None, None, None) => String::new(),
            };
            let (synced, reason) = match (pending.is_empty(), drift.is_empty()) {
                (false, _) => (false, "AwaitingApproval"),
                (_, false) => (false, "Drifted"),
                (true, true) => (true, "AsSpecified"),
            };
            let reason = if replaced.is_some() {
                "Replaced"
            } else {
                reason
            };
            let text = new.message.clone();
            let condition = condition("Synced", Some(synced), reason, text, generation, now_ms);
            set_condition(&mut new.conditions, condition);
            new.pending_id = plan.pending_id();
            (new.pending, new.drift) = (pending, drift);
            new.topic_id = Some(actual.id);
            new.partitions = Some(actual.partitions);
            new.replicas = Some(actual.replicas);
        }
    }
    new
}
