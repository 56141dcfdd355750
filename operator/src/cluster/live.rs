//! Settings that brokers take while they run: brought to what the spec says.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use serde_json::json;
use tidemark_client::admin::{ConfigChange, ConfigOp, ConfigResource};
use tidemark_client::{ClientError, Cluster as Brokers};
use tidemark_crds::cluster::{Changes, ConfigStatus, Settings, changes};
use tidemark_wire::ErrorCode;

use super::build::{self, Build, LIVE};
use super::leave;
use super::observe::Observed;
use crate::context::{Context, Error};

/// Sets what differs; answers with what is told of it, or nothing while nobody can be asked.
///
/// # Errors
/// Kubernetes', and the brokers' where it is not about a setting.
pub async fn apply(
    context: &Context,
    build: &Build<'_>,
    observed: &Observed,
) -> Result<Option<ConfigStatus>, Error> {
    let Some((brokers, _)) = &observed.contact else {
        return Ok(None);
    };
    let now = brokers
        .describe_configs(&ConfigResource::BrokerDefault)
        .await?;
    let now = now
        .into_iter()
        .filter_map(|entry| Some((entry.name, entry.value?)));
    let ours = &build.formation.live;
    let plan = changes(build.settings, &now.collect(), ours);
    // Written down before it is done.
    let until_then: BTreeSet<String> = plan.ours.union(&plan.delete).cloned().collect();
    if *ours != until_then {
        let maps: Api<ConfigMap> = context.beside(build.cluster);
        let noted = json!({LIVE: json!(until_then).to_string()});
        leave::annotate(&maps, &build::formation_name(build.cluster), &noted).await?;
    }
    let refused = carry_out(brokers, &plan).await?;
    Ok(Some(status(build.settings, &refused, &plan)))
}

/// What was refused by the brokers, and why.
async fn carry_out(
    brokers: &Brokers,
    plan: &Changes,
) -> Result<BTreeMap<String, String>, ClientError> {
    let set = plan.set.iter().map(|(name, value)| ConfigChange {
        name: name.clone(),
        op: ConfigOp::Set,
        value: Some(value.clone()),
    });
    let delete = plan.delete.iter().map(|name| ConfigChange {
        name: name.clone(),
        op: ConfigOp::Delete,
        value: None,
    });
    let all: Vec<ConfigChange> = set.chain(delete).collect();
    let mut refused = BTreeMap::new();
    if all.is_empty() {
        return Ok(refused);
    }
    let of_all = ConfigResource::BrokerDefault;
    match brokers.alter_configs(&of_all, &all, false).await {
        Ok(()) => return Ok(refused),
        Err(error) if !is_about_settings(&error) => return Err(error),
        Err(_) => {}
    }
    // One of them is wrong: the others are taken one by one.
    for change in all {
        match brokers
            .alter_configs(&of_all, std::slice::from_ref(&change), false)
            .await
        {
            Ok(()) => {}
            Err(error) if is_about_settings(&error) => {
                refused.insert(change.name, error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    Ok(refused)
}

fn is_about_settings(error: &ClientError) -> bool {
    matches!(
        error.code(),
        Some(ErrorCode::InvalidConfig | ErrorCode::InvalidRequest | ErrorCode::PolicyViolation)
    )
}

/// What is told of a cluster's settings.
fn status(settings: &Settings, refused: &BTreeMap<String, String>, plan: &Changes) -> ConfigStatus {
    let all = settings.refused.iter().chain(refused);
    ConfigStatus {
        refused: all.map(|(name, why)| format!("{name}: {why}")).collect(),
        foreign: plan.foreign.iter().cloned().collect(),
    }
}
