//! Certificates that cert-manager is asked for: one for each broker of a listener, and what it says
//! of those that it has not issued.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::api::{
    ApiResource, DeleteParams, DynamicObject, ListParams, Patch, PatchParams, ResourceExt,
};
use kube::core::GroupVersionKind;
use kube::{Api, Resource};
use serde_json::{Value, json};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{Listener, TlsSource};

use super::super::build::{self, Node};
use super::super::outside;
use crate::apply::{MANAGER, contains};
use crate::context::{Context, Error};

/// The annotation by which cert-manager numbers its requests.
const REVISION: &str = "cert-manager.io/certificate-revision";

/// The Certificate for a broker's listener, and the Secret that it fills.
#[must_use]
pub fn name(cluster: &Cluster, listener: &Listener, id: i32) -> String {
    format!("{}-tls", outside::service_name(cluster, listener, Some(id)))
}

/// Those that are asked for.
#[must_use]
pub fn names(cluster: &Cluster, nodes: &[&Node]) -> BTreeSet<String> {
    let asks = |listener: &&Listener| {
        let tls = listener.tls.as_ref();
        tls.is_some_and(|tls| tls.source == TlsSource::CertManager)
    };
    let asking = cluster.spec.listeners.iter().filter(asks);
    asking
        .flat_map(|listener| nodes.iter().map(|node| name(cluster, listener, node.id)))
        .collect()
}

/// A Certificate as it should be.
#[must_use]
pub fn wanted(
    cluster: &Cluster,
    listener: &Listener,
    node: &Node,
    hosts: &BTreeSet<String>,
) -> Value {
    let is_address = |host: &&String| host.parse::<IpAddr>().is_ok();
    let name = name(cluster, listener, node.id);
    let issuer = listener
        .tls
        .as_ref()
        .and_then(|tls| tls.issuer_ref.as_ref());
    json!({
        "apiVersion": "cert-manager.io/v1",
        "kind": "Certificate",
        "metadata": build::of_broker(cluster, node, &name, &[].into()),
        "spec": {
            "secretName": name,
            "issuerRef": issuer,
            "dnsNames": hosts.iter().filter(|host| !is_address(host)).collect::<Vec<_>>(),
            "ipAddresses": hosts.iter().filter(is_address).collect::<Vec<_>>(),
            "usages": ["digital signature", "server auth"],
            "privateKey": {"algorithm": "ECDSA", "size": 256, "rotationPolicy": "Always"},
        },
    })
}

fn api(context: &Context, cluster: &Cluster, kind: &str) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("cert-manager.io", "v1", kind));
    let namespace = cluster.namespace().unwrap_or_default();
    Api::namespaced_with(context.client.clone(), &namespace, &resource)
}

/// Whether there is no such object, or no such kind: of that the API server speaks in plain text,
/// which has no reason, and for which `get_opt` fails.
fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

fn of_cluster(cluster: &Cluster) -> ListParams {
    ListParams::default().labels(&format!("{}={}", build::CLUSTER, cluster.name_any()))
}

/// Has a Certificate be as it should; says what hinders it, if something does.
///
/// # Errors
/// Kubernetes'.
pub async fn ask(
    context: &Context,
    cluster: &Cluster,
    wanted: &Value,
) -> Result<Result<DynamicObject, String>, Error> {
    let api = api(context, cluster, "Certificate");
    let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
    let failed = |error| Error::kube(format!("asking cert-manager for {name}"))(error);
    match api.get(name).await {
        Ok(found) if contains(&found.data["spec"], &wanted["spec"]) => return Ok(Ok(found)),
        Err(error) if !is_absent(&error) => return Err(failed(error)),
        Ok(_) | Err(_) => {}
    }
    let params = PatchParams::apply(MANAGER).force();
    match api.patch(name, &params, &Patch::Apply(wanted)).await {
        Ok(new) => Ok(Ok(new)),
        Err(error) if is_absent(&error) => Ok(Err(
            "cert-manager is not installed: there is no kind Certificate".to_owned(),
        )),
        Err(error) => Err(failed(error)),
    }
}

/// What cert-manager says of a Certificate that it has not issued.
pub async fn said(context: &Context, cluster: &Cluster, certificate: &DynamicObject) -> String {
    let requests = api(context, cluster, "CertificateRequest");
    match requests.list(&of_cluster(cluster)).await {
        Ok(requests) => words(certificate, &requests.items),
        Err(error) => format!("its CertificateRequests cannot be read: {error}"),
    }
}

/// The issuer's words are in the request, of which the Certificate tells nothing while it waits.
fn words(certificate: &DynamicObject, requests: &[DynamicObject]) -> String {
    let number = |request: &&DynamicObject| {
        let number = request.annotations().get(REVISION);
        number.and_then(|number| number.parse::<u64>().ok())
    };
    let of_it = |request: &&DynamicObject| {
        let mut owners = request.owner_references().iter();
        owners.any(|owner| Some(&owner.uid) == certificate.meta().uid.as_ref())
    };
    let newest = requests.iter().filter(of_it).max_by_key(number);
    let refused = |object: &DynamicObject, type_: &str| {
        let conditions = object.data["status"]["conditions"].as_array()?;
        let mut of_type = conditions.iter().filter(|one| one["type"] == type_);
        let refused = of_type.find(|one| one["status"] == "False")?;
        let text = refused["message"].as_str()?;
        Some(text.trim_end_matches('.').to_owned())
    };
    newest
        .and_then(|request| refused(request, "Ready"))
        .or_else(|| refused(certificate, "Issuing"))
        .or_else(|| refused(certificate, "Ready"))
        .unwrap_or_else(|| "nothing is said; does its controller run?".to_owned())
}

/// Deletes this cluster's Certificates but those that are wanted: cert-manager would renew them for
/// ever.
///
/// # Errors
/// Kubernetes'.
pub async fn forget(
    context: &Context,
    cluster: &Cluster,
    wanted: impl Fn(&DynamicObject) -> bool,
) -> Result<(), Error> {
    let api = api(context, cluster, "Certificate");
    let found = match api.list(&of_cluster(cluster)).await {
        // cert-manager is not installed.
        Err(error) if is_absent(&error) => return Ok(()),
        found => found.map_err(Error::kube("reading Certificates"))?,
    };
    let ours = |found: &&DynamicObject| {
        let mut owners = found.owner_references().iter();
        owners.any(|owner| Some(&owner.uid) == cluster.meta().uid.as_ref())
    };
    for found in found.items.iter().filter(ours).filter(|one| !wanted(one)) {
        let name = found.name_any();
        match api.delete(&name, &DeleteParams::default()).await {
            Ok(_) => {}
            Err(error) if is_absent(&error) => {}
            Err(error) => return Err(Error::kube(format!("deleting Certificate {name}"))(error)),
        }
    }
    Ok(())
}
