//! `kubectl tidemark plan`, `approve` and `restart`.

use serde::Serialize;
use serde_json::json;
use tidemark_crds::cluster::{DisruptionMode, DisruptionStatus};
use tidemark_crds::{Cluster, Topic};
use tidemark_env::clock;

use super::{Kubectl, Place, cluster, typed};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::plural;
use crate::when::format_moment;

/// The annotation that approves.
const APPROVE: &str = "tidemark.dev/approve";
/// The annotation that asks for restarts.
const RESTART: &str = "tidemark.dev/restart";
/// What a plan waits with while nobody approved it.
const AWAITING: &str = "AwaitingApproval";

#[derive(Debug, Serialize)]
struct Report<'a> {
    cluster: &'a str,
    plan: Option<&'a DisruptionStatus>,
    topics: Vec<Pending<'a>>,
}

/// Changes of a Topic that would delete records.
#[derive(Debug, Serialize)]
struct Pending<'a> {
    topic: &'a str,
    plan: &'a str,
    changes: &'a [String],
}

/// The operator speaks of the newest spec.
pub fn is_current(cluster: &Cluster) -> bool {
    let status = cluster.status.as_ref();
    status.and_then(|status| status.observed_generation) == cluster.metadata.generation
}

fn pending(topics: &[Topic]) -> Vec<Pending<'_>> {
    topics
        .iter()
        .filter_map(|topic| {
            let status = topic.status.as_ref()?;
            Some(Pending {
                topic: topic.metadata.name.as_deref()?,
                plan: status.pending_id.as_deref()?,
                changes: &status.pending,
            })
        })
        .collect()
}

/// Topics of a cluster.
pub async fn topics_of(kubectl: &Kubectl, cluster: &str) -> Result<Vec<Topic>, Failure> {
    let topics: Vec<Topic> = kubectl.list(&["topics.tidemark.dev"]).await?;
    let ours = topics
        .into_iter()
        .filter(|topic| topic.spec.cluster_ref.name == cluster);
    Ok(ours.collect())
}

/// Shows what a pending change does.
pub async fn show(
    kubectl: &Kubectl,
    place: &Place,
    name: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let cluster = cluster(kubectl, place, name).await?;
    let topics = topics_of(kubectl, name).await?;
    let status = cluster.status.as_ref();
    let report = Report {
        cluster: name,
        plan: status.and_then(|status| status.disruption.as_ref()),
        topics: pending(&topics),
    };
    context.out.show(&report, |out| {
        if !is_current(&cluster) {
            out.line("The operator has not seen the newest spec yet: this is of the one before.")?;
        }
        match report.plan {
            None => out.line(&format!("Nothing of {name} is to be restarted."))?,
            Some(plan) => {
                for line in lines(plan) {
                    out.line(&line)?;
                }
                if plan.state == AWAITING {
                    let next = typed(place, &format!("approve {name} {}", plan.id));
                    out.line(&format!("next: {next}"))?;
                }
            }
        }
        for one in &report.topics {
            out.line(&format!("Plan {}   topic {}", one.plan, one.topic))?;
            for change in one.changes {
                out.line(&format!("  {change}"))?;
            }
            let next = typed(
                place,
                &format!("approve --topic {} {}", one.topic, one.plan),
            );
            out.line(&format!("next: {next}"))?;
        }
        Ok(())
    })?;
    Ok(Exit::Ok)
}

fn lines(plan: &DisruptionStatus) -> Vec<String> {
    let order: Vec<String> = plan.restarts.iter().map(ToString::to_string).collect();
    let mut lines = vec![
        format!("Plan {}   {}", plan.id, plan.reasons.join(", ")),
        format!(
            "  restarts       {}, one at a time: {}",
            plural(plan.restarts.len() as i64, "broker"),
            order.join(", ")
        ),
    ];
    if !plan.unavoidable.is_empty() {
        lines.push(format!(
            "  briefly offline: {}",
            plan.unavoidable.join(", ")
        ));
    }
    let text = match plan.message.is_empty() {
        true => plan.state.clone(),
        false => format!("{}: {}", plan.state, plan.message),
    };
    lines.push(format!("  now            {text}"));
    lines
}

/// Approves a plan, if it is the one that the operator shows.
pub async fn approve(
    kubectl: &Kubectl,
    place: &Place,
    name: &str,
    plan: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let cluster = cluster(kubectl, place, name).await?;
    let see = || typed(place, &format!("plan {name}"));
    let current = cluster
        .status
        .as_ref()
        .and_then(|status| status.disruption.as_ref());
    let Some(current) = current else {
        return Err(Failure::finding(format!(
            "nothing of {name} is to be restarted: there is nothing to approve"
        ))
        .next(see()));
    };
    if current.id != plan {
        let text = format!(
            "the plan of {name} is {} now: look at it before it is approved",
            current.id
        );
        return Err(Failure::finding(text).next(see()));
    }
    if cluster.spec.disruption.mode == DisruptionMode::Never {
        let text = format!("{name} has disruption.mode: Never, so that no approval counts");
        return Err(Failure::finding(text).next(format!(
            "kubectl patch cluster.tidemark.dev {name} --type=merge -p '{{\"spec\":{{\"disruption\":{{\"mode\":\"Approval\"}}}}}}'"
        )));
    }
    annotate(kubectl, "cluster.tidemark.dev", name, APPROVE, plan).await?;
    let report = json!({"cluster": name, "plan": plan, "approved": true});
    context.out.show(&report, |out| {
        out.line(&format!(
            "Approved {plan}: {} of {name} restart one at a time.",
            plural(current.restarts.len() as i64, "broker")
        ))?;
        out.line(&format!(
            "next: {}",
            typed(place, &format!("status {name}"))
        ))
    })?;
    Ok(Exit::Ok)
}

/// Approves a topic's pending changes.
pub async fn approve_topic(
    kubectl: &Kubectl,
    name: &str,
    plan: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let topic: Topic = kubectl.get(&["topic.tidemark.dev", name]).await?;
    let status = topic.status.unwrap_or_default();
    if status.pending_id.as_deref() != Some(plan) {
        return Err(Failure::finding(match &status.pending_id {
            None => format!("nothing of topic {name} waits for approval"),
            Some(other) => format!("what waits is {other} now: {}", status.pending.join("; ")),
        }));
    }
    annotate(kubectl, "topic.tidemark.dev", name, APPROVE, plan).await?;
    let report = json!({"topic": name, "plan": plan, "approved": true});
    context.out.show(&report, |out| {
        out.line(&format!("Approved {plan}: {}.", status.pending.join("; ")))
    })?;
    Ok(Exit::Ok)
}

/// Asks for a restart of all brokers.
pub async fn restart(
    kubectl: &Kubectl,
    place: &Place,
    name: &str,
    context: &mut Context,
) -> Result<Exit, Failure> {
    let cluster = cluster(kubectl, place, name).await?;
    let at = format_moment(clock::now_ms());
    annotate(kubectl, "cluster.tidemark.dev", name, RESTART, &at).await?;
    let report = json!({"cluster": name, "restart": at});
    context.out.show(&report, |out| {
        out.line(&match cluster.spec.disruption.mode {
            DisruptionMode::Automatic => {
                format!("The brokers of {name} restart one at a time, each when it is safe.")
            }
            DisruptionMode::Approval => format!("The restart of {name} waits for approval."),
            DisruptionMode::Never => {
                format!("{name} has disruption.mode: Never: nothing restarts before that changes.")
            }
        })?;
        out.line(&format!("next: {}", typed(place, &format!("plan {name}"))))
    })?;
    Ok(Exit::Ok)
}

async fn annotate(
    kubectl: &Kubectl,
    kind: &str,
    name: &str,
    annotation: &str,
    value: &str,
) -> Result<(), Failure> {
    let pair = format!("{annotation}={value}");
    kubectl
        .text(&["annotate", "--overwrite", kind, name, &pair])
        .await
        .map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_says_what_it_disturbs() {
        let plan = DisruptionStatus {
            id: "d-7f3a".into(),
            state: AWAITING.into(),
            message: "restart of 3 brokers awaits approval d-7f3a".into(),
            restarts: vec![2, 0, 1],
            reasons: vec!["ImageChange".into()],
            unavoidable: vec!["legacy-0".into()],
        };
        assert_eq!(
            lines(&plan),
            [
                "Plan d-7f3a   ImageChange",
                "  restarts       3 brokers, one at a time: 2, 0, 1",
                "  briefly offline: legacy-0",
                "  now            AwaitingApproval: restart of 3 brokers awaits approval d-7f3a",
            ]
        );
    }
}
