//! `spec.listeners` and `spec.certificates`: where clients come in, and who is believed.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::common::Invalid;
use crate::units::{Limit, duration_ms};

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.type == oldSelf.type && self.port == oldSelf.port")
        .message("type and port of a listener cannot change: make another listener"),
    validation = Rule::new("!has(self.authentication) || size(self.authentication) == 0 || has(self.tls)")
        .message("MutualTLS needs tls")
)]
pub struct Listener {
    /// Its name: small letters and digits.
    #[schemars(length(min = 1, max = 15), regex(pattern = r"^[a-z][a-z0-9]*$"))]
    pub name: String,
    /// Where brokers listen. 8080, 9090 and 9091 are the cluster's own.
    #[schemars(range(min = 1024, max = 65_535))]
    pub port: i32,
    /// Internal: from within Kubernetes. NodePort: also by a port of each node. LoadBalancer: also
    /// by an address that the cloud gives to each broker; while it is pending, this listener alone
    /// waits for it.
    #[serde(rename = "type", default)]
    pub type_: ListenerType,
    /// With it the listener speaks TLS, without it plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ListenerTls>,
    /// How clients prove who they are; nothing where nobody has to.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 1))]
    pub authentication: Vec<Authentication>,
    /// The Service that clients begin with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bootstrap: Option<Bootstrap>,
    /// The Service of each broker, of NodePort and LoadBalancer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub per_broker: Option<PerBroker>,
}

/// From where a listener is reached.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ListenerType {
    /// From within Kubernetes.
    #[default]
    Internal,
    /// By a port of each node, too.
    NodePort,
    /// By an address of its own for each broker, too.
    LoadBalancer,
}

/// The certificate that a listener shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(self.source == 'Secret') == has(self.secretRef)")
        .message("source Secret needs secretRef, and no other source has one"),
    validation = Rule::new("(self.source == 'CertManager') == has(self.issuerRef)")
        .message("source CertManager needs issuerRef, and no other source has one")
)]
pub struct ListenerTls {
    /// Operator: signed by the cluster's own authority, whose certificate is ca.crt in ConfigMap
    /// NAME-trust. Secret: yours. CertManager: each broker's is asked of cert-manager.
    #[serde(default)]
    pub source: TlsSource,
    /// A Secret beside the cluster with tls.crt (the certificate, then its chain) and tls.key. It
    /// has to be for all addresses of this listener. What is changed in it is taken by brokers that
    /// run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<LocalObjectReference>,
    /// The issuer that cert-manager is to ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issuer_ref: Option<IssuerRef>,
}

/// Who makes a listener's certificate.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsSource {
    /// The operator.
    #[default]
    Operator,
    /// Whoever writes the Secret.
    Secret,
    /// cert-manager.
    CertManager,
}

/// An issuer of cert-manager.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IssuerRef {
    /// Its name.
    #[schemars(length(min = 1, max = 253))]
    pub name: String,
    /// Its kind: Issuer, which is the default, or ClusterIssuer.
    #[serde(default = "issuer")]
    #[schemars(length(min = 1, max = 63))]
    pub kind: String,
    /// Its API group.
    #[serde(default = "cert_manager")]
    #[schemars(length(min = 1, max = 253))]
    pub group: String,
}

fn issuer() -> String {
    "Issuer".to_owned()
}

fn cert_manager() -> String {
    "cert-manager.io".to_owned()
}

/// How clients prove who they are.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Authentication {
    /// The way.
    #[serde(rename = "type")]
    pub type_: AuthenticationType,
    /// A Secret beside the cluster whose ca.crt has the authorities that sign clients' certificates:
    /// yours, not the cluster's own, whose certificates open the ports among brokers.
    pub ca_secret_ref: LocalObjectReference,
}

/// A way to prove who one is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum AuthenticationType {
    /// By a certificate. Its subject is who the client is.
    MutualTLS,
}

/// The Service that clients begin with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Bootstrap {
    /// A name that you have for it; certificates of the operator and of cert-manager are for it, too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-zA-Z0-9.:-]+$"))]
    pub host: Option<String>,
    /// Annotations of the Service.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// The Service of each broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PerBroker {
    /// Where clients are told that a broker is, with {id} in place of its number, such as
    /// broker-{id}.kafka.acme.com. Without it that is the node's address (NodePort) or what the load
    /// balancer says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-zA-Z0-9.:{}-]+$"))]
    pub host_template: Option<String>,
    /// Annotations of each Service, with {id} in place of the broker's number.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(extend("maxProperties" = 32))]
    pub annotations: BTreeMap<String, String>,
}

/// How long certificates of the cluster's own authority are good.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Certificates {
    /// Each broker's, such as 365d.
    #[serde(default = "a_year")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub validity: String,
    /// They are made anew so long before they end. Brokers take them while they run.
    #[serde(default = "two_months")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub renew_before: String,
    /// The authority's own.
    #[serde(default = "five_years")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub ca_validity: String,
    /// A next authority is made so long before the one in use ends.
    #[serde(default = "half_a_year")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub ca_renew_before: String,
    /// A next authority is trusted for so long before anything is signed by it: give ca.crt of
    /// ConfigMap NAME-trust to clients elsewhere in that time.
    #[serde(default = "a_week")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub ca_overlap: String,
}

fn a_year() -> String {
    "365d".to_owned()
}

fn two_months() -> String {
    "60d".to_owned()
}

fn five_years() -> String {
    "1825d".to_owned()
}

fn half_a_year() -> String {
    "180d".to_owned()
}

fn a_week() -> String {
    "7d".to_owned()
}

impl Default for Certificates {
    fn default() -> Self {
        Self {
            validity: a_year(),
            renew_before: two_months(),
            ca_validity: five_years(),
            ca_renew_before: half_a_year(),
            ca_overlap: a_week(),
        }
    }
}

/// [`Certificates`] in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// Each broker's.
    pub validity_ms: i64,
    /// How long before its end it is made anew.
    pub renew_before_ms: i64,
    /// The authority's.
    pub ca_validity_ms: i64,
    /// How long before its end there is a next one.
    pub ca_renew_before_ms: i64,
    /// How long the next one is only trusted.
    pub ca_overlap_ms: i64,
}

impl Certificates {
    /// In milliseconds.
    ///
    /// # Errors
    /// A time that is not read, or that cannot be kept.
    pub fn times(&self) -> Result<Times, Invalid> {
        let of = |field: &str, text: &str| match duration_ms(text) {
            Ok(Limit::Of(ms)) => Ok(ms),
            Ok(Limit::Unlimited) => Err(format!("certificates.{field}: a certificate ends")),
            Err(error) => Err(format!("certificates.{field}: {error}")),
        };
        let read = || {
            let times = Times {
                validity_ms: of("validity", &self.validity)?,
                renew_before_ms: of("renewBefore", &self.renew_before)?,
                ca_validity_ms: of("caValidity", &self.ca_validity)?,
                ca_renew_before_ms: of("caRenewBefore", &self.ca_renew_before)?,
                ca_overlap_ms: of("caOverlap", &self.ca_overlap)?,
            };
            let shorter = |less: (&str, i64), more: (&str, i64)| match less.1 < more.1 {
                true => Ok(()),
                false => Err(format!(
                    "certificates: {} has to be less than {}",
                    less.0, more.0
                )),
            };
            shorter(
                ("renewBefore", times.renew_before_ms),
                ("validity", times.validity_ms),
            )?;
            shorter(
                ("caOverlap", times.ca_overlap_ms),
                ("caRenewBefore", times.ca_renew_before_ms),
            )?;
            shorter(
                ("caRenewBefore", times.ca_renew_before_ms),
                ("caValidity", times.ca_validity_ms),
            )?;
            Ok(times)
        };
        read().map_err(|text: String| Invalid::new("InvalidCertificates", text))
    }
}

/// A listener, as it is now.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ListenerStatus {
    /// Its name.
    pub name: String,
    /// Where clients begin; empty as long as there is no address.
    pub bootstrap: String,
    /// The ConfigMap whose ca.crt signs what it shows, where that is the cluster's own authority.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trust: Option<String>,
    /// What it waits for, if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pending: Option<String>,
}

/// When certificates end, and what is done about them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CertificatesStatus {
    /// When the authority's ends that signs now.
    pub authority_ends: String,
    /// What a change of authority waits for, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rotation: Option<String>,
    /// When the first of brokers' certificates ends.
    pub first_ends: String,
}

/// The listener of a cluster that names none.
#[must_use]
pub fn default_listeners() -> Vec<Listener> {
    vec![Listener {
        name: "client".to_owned(),
        port: 9092,
        type_: ListenerType::Internal,
        tls: None,
        authentication: Vec::new(),
        bootstrap: None,
        per_broker: None,
    }]
}

/// Ports that are not for clients: health, the quorum's, that among brokers.
const OWN_PORTS: [i32; 3] = [8080, 9090, 9091];
/// Names that are not for clients' listeners.
const OWN_NAMES: [&str; 4] = ["replication", "controller", "http", "quorum"];

/// Checks listeners as their rules do.
///
/// # Errors
/// The first rule that is broken.
pub fn validate_listeners(listeners: &[Listener]) -> Result<(), Invalid> {
    let refuse = |text: String| Err(Invalid::new("InvalidListener", text));
    for (at, one) in listeners.iter().enumerate() {
        let name = &one.name;
        if OWN_PORTS.contains(&one.port) {
            return refuse(format!(
                "listener {name}: ports 8080, 9090 and 9091 are the cluster's own"
            ));
        }
        if OWN_NAMES.contains(&&**name) {
            return refuse(format!(
                "listener {name}: the names replication, controller, http and quorum are the cluster's own"
            ));
        }
        if listeners[..at].iter().any(|other| other.port == one.port) {
            return refuse("each listener needs a port of its own".to_owned());
        }
        if !one.authentication.is_empty() && one.tls.is_none() {
            return refuse(format!("listener {name}: MutualTLS needs tls"));
        }
        let Some(tls) = &one.tls else { continue };
        for (source, given, what) in [
            (TlsSource::Secret, tls.secret_ref.is_some(), "secretRef"),
            (
                TlsSource::CertManager,
                tls.issuer_ref.is_some(),
                "issuerRef",
            ),
        ] {
            if (tls.source == source) != given {
                return refuse(format!(
                    "listener {name}: source {source:?} needs {what}, and no other source has one"
                ));
            }
        }
    }
    Ok(())
}

/// Checks what may not change in listeners.
///
/// # Errors
/// The first that does.
pub fn validate_listeners_change(old: &[Listener], new: &[Listener]) -> Result<(), Invalid> {
    for was in old {
        let is = new.iter().find(|one| one.name == was.name);
        if is.is_some_and(|is| is.type_ != was.type_ || is.port != was.port) {
            return Err(Invalid::new(
                "Immutable",
                format!(
                    "listener {}: type and port of a listener cannot change: make another listener",
                    was.name
                ),
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_have_to_fit_together() {
        let times = Certificates::default().times().expect("the defaults fit");
        assert_eq!(times.validity_ms, 365 * 86_400_000);
        let change = |change: fn(&mut Certificates)| {
            let mut changed = Certificates::default();
            change(&mut changed);
            changed.times().expect_err("refused").message
        };
        let text = change(|of| of.renew_before = "365d".to_owned());
        assert!(
            text.contains("renewBefore has to be less than validity"),
            "{text}"
        );
        let text = change(|of| of.ca_overlap = "180d".to_owned());
        assert!(text.contains("caOverlap has to be less"), "{text}");
        let text = change(|of| of.ca_validity = "99999999999999d".to_owned());
        assert!(text.starts_with("certificates.caValidity"), "{text}");
    }

    #[test]
    fn the_default_listener_is_a_good_one() {
        assert_eq!(validate_listeners(&default_listeners()), Ok(()));
        let mut own = default_listeners();
        own[0].port = 9091;
        assert!(validate_listeners(&own).is_err());
        let mut own = default_listeners();
        own[0].name = "controller".to_owned();
        assert!(validate_listeners(&own).is_err());
    }
}
