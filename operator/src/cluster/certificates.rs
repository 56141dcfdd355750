//! A cluster's certificates: the Secrets that hold them, and what is told of them. What is to be done
//! is decided in [`super::authority`].

pub mod cert_manager;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::jiff::Timestamp;
use kube::{Api, ResourceExt};
use serde_json::{Value, json};
use tidemark_config::{ClientAuth, Pem, TlsSettings, TlsVersion};
use tidemark_crds::Cluster;
use tidemark_crds::cluster::{CertificatesStatus, Listener, Times, TlsSource};

use super::authority::{self, Authorities, AuthorityError, Known, Pair, Seen};
use super::build::{self, Build, Node};
use super::observe::{Children, Observed};
use super::outside::{self, Addresses};
use crate::apply::ensure;
use crate::context::{Context, Error};

/// Where a broker finds its Secret.
pub const DIR: &str = "/etc/tidemark-tls";
/// A broker's own certificate, with its key.
pub const OWN: &str = "broker.pem";
/// Whom brokers believe.
pub const TRUST: &str = "trust.pem";
/// The annotation of a Cluster that asks for a new authority: any other value does.
pub const RENEW: &str = "tidemark.dev/renew-authority";

/// The file with what a listener shows.
#[must_use]
pub fn shown_file(listener: &Listener) -> String {
    format!("{}.pem", listener.name)
}

/// The file with whom a listener believes of its clients.
#[must_use]
pub fn clients_file(listener: &Listener) -> String {
    format!("{}-clients.pem", listener.name)
}

/// The Secret of a broker's certificates.
#[must_use]
pub fn secret_name(cluster: &Cluster, id: i32) -> String {
    format!("{}-tls", build::broker_name(cluster, id))
}

/// The Secret of the cluster's authority. No pod has it.
#[must_use]
pub fn authority_name(cluster: &Cluster) -> String {
    format!("{}-authority", cluster.name_any())
}

/// The ConfigMap that tells clients whom to trust.
#[must_use]
pub fn trust_name(cluster: &Cluster) -> String {
    format!("{}-trust", cluster.name_any())
}

fn text(secret: &Secret, key: &str) -> Option<String> {
    let bytes = secret.data.as_ref()?.get(key)?;
    String::from_utf8(bytes.0.clone()).ok()
}

fn data(files: &BTreeMap<String, String>) -> Value {
    let bytes = files
        .iter()
        .map(|(name, text)| (name, ByteString(text.clone().into_bytes())));
    json!(bytes.collect::<BTreeMap<_, _>>())
}

/// Reads what [`authority_secret`] wrote.
#[must_use]
pub fn read_authorities(secret: &Secret) -> Authorities {
    let pair = |name: &str| {
        Some(Pair {
            certificate: text(secret, &format!("{name}.crt"))?,
            key: text(secret, &format!("{name}.key"))?,
        })
    };
    let since_ms = text(secret, "next.since-ms").and_then(|text| text.parse().ok());
    Authorities {
        current: pair("ca"),
        next: pair("next").zip(since_ms),
        before: text(secret, "before.crt").unwrap_or_default(),
        asked: text(secret, "asked"),
    }
}

/// The Secret of a cluster's authority.
#[must_use]
pub fn authority_secret(cluster: &Cluster, authorities: &Authorities) -> Value {
    let mut files = BTreeMap::new();
    let mut put = |name: &str, text: &str| files.insert(name.to_owned(), text.to_owned());
    if let Some(current) = &authorities.current {
        put("ca.crt", &current.certificate);
        put("ca.key", &current.key);
    }
    if let Some((next, since_ms)) = &authorities.next {
        put("next.crt", &next.certificate);
        put("next.key", &next.key);
        put("next.since-ms", &since_ms.to_string());
    }
    if !authorities.before.is_empty() {
        put("before.crt", &authorities.before);
    }
    if let Some(asked) = &authorities.asked {
        put("asked", asked);
    }
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": build::of_cluster(cluster, &authority_name(cluster), &BTreeMap::new()),
        "data": data(&files),
    })
}

/// What clients are told to trust.
#[must_use]
pub fn trust_map(cluster: &Cluster, authorities: &Authorities) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": build::of_cluster(cluster, &trust_name(cluster), &BTreeMap::new()),
        "data": {"ca.crt": authorities.trusted()},
    })
}

fn malformed(error: &AuthorityError) -> Error {
    Error::Malformed(error.to_string())
}

/// The cluster's authorities, made where there are none.
///
/// # Errors
/// Kubernetes'.
pub async fn begin(
    context: &Context,
    cluster: &Cluster,
    children: &Children,
    times: &Times,
    now_ms: i64,
) -> Result<Authorities, Error> {
    if let Some(found) = children.secret(&authority_name(cluster)) {
        return Ok(read_authorities(found));
    }
    let (told, name) = (told(children), cluster.name_any());
    let seen = Seen {
        brokers: &[],
        written: &[],
        told: told.as_deref(),
        asked: asked(cluster),
        cluster: &name,
    };
    let new = authority::step(None, &seen, times, now_ms).map_err(|error| malformed(&error))?;
    let secrets: Api<Secret> = context.beside(cluster);
    ensure(&secrets, None, &authority_secret(cluster, &new)).await?;
    Ok(new)
}

fn asked(cluster: &Cluster) -> Option<&str> {
    cluster.annotations().get(RENEW).map(String::as_str)
}

fn told(children: &Children) -> Option<String> {
    children
        .trust
        .as_ref()?
        .data
        .as_ref()?
        .get("ca.crt")
        .cloned()
}

/// What is told of certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Certified {
    /// When they end.
    pub status: CertificatesStatus,
    /// What cannot be used of what others are to give.
    pub problems: Vec<String>,
}

/// Everything that certificates are decided on.
#[derive(Clone, Copy)]
pub struct Deciding<'a> {
    /// The objects to be.
    pub build: &'a Build<'a>,
    /// The objects that are.
    pub children: &'a Children,
    /// What brokers say.
    pub observed: &'a Observed,
    /// The brokers that are to have certificates.
    pub nodes: &'a [&'a Node],
    /// Where they are reached from elsewhere.
    pub addresses: &'a Addresses,
    /// How long certificates are good.
    pub times: Times,
    /// Now.
    pub now_ms: i64,
}

/// Takes the authorities' next step, and makes what is missing or ends soon.
///
/// # Errors
/// Kubernetes'.
pub async fn renew(
    context: &Context,
    of: &Deciding<'_>,
    found: &Authorities,
) -> Result<Certified, Error> {
    let cluster = of.build.cluster;
    let written: Vec<(i32, Known)> = of
        .nodes
        .iter()
        .filter_map(|node| Some((node.id, own_leaf(cluster, of.children, node.id)?.1)))
        .collect();
    let brokers: Vec<_> = of
        .nodes
        .iter()
        .map(|node| (node.id, of.observed.used.get(&node.id).cloned()))
        .collect();
    let told = told(of.children);
    let name = cluster.name_any();
    let seen = Seen {
        brokers: &brokers,
        written: &written,
        told: told.as_deref(),
        asked: asked(cluster),
        cluster: &name,
    };
    let (times, now_ms) = (&of.times, of.now_ms);
    let wrong = |error: AuthorityError| malformed(&error);
    let new = authority::step(Some(found), &seen, times, now_ms).map_err(wrong)?;
    let secrets: Api<Secret> = context.beside(cluster);
    let maps: Api<ConfigMap> = context.beside(cluster);
    if new != *found {
        // Before anything that follows from it: a key is not to be lost.
        let object = authority_secret(cluster, &new);
        crate::apply::apply(&secrets, &object).await?;
        context
            .tell(cluster, false, "AuthorityChanges", &rotation_note(&new))
            .await;
    }
    ensure(&maps, of.children.trust.as_ref(), &trust_map(cluster, &new)).await?;
    let mut certified = Certified::default();
    let signer = new.current.as_ref();
    let signer = signer
        .map(|pair| Ok::<_, AuthorityError>((pair, authority::read(&pair.certificate)?)))
        .transpose()
        .map_err(wrong)?;
    let given = given(context, of).await?;
    certified.problems = given.told();
    let mut first_ends_ms = i64::MAX;
    for node in of.nodes {
        let hosts = outside::hosts(cluster, of.children, node.id, of.addresses);
        let leaf = own_leaf(cluster, of.children, node.id);
        let stale = signer.as_ref().is_some_and(|(_, signer)| {
            let leaf = leaf.as_ref().map(|(_, leaf)| leaf);
            authority::is_stale(leaf, signer, &hosts, times, now_ms)
        });
        let own = match (&signer, leaf) {
            (Some((signer, _)), _) if stale => {
                let broker = build::broker_name(cluster, node.id);
                let made = signer.issue((&*name, &*broker), &hosts, now_ms, times.validity_ms);
                made.map_err(wrong)?.file()
            }
            (_, Some((file, _))) => file,
            // Nobody signs before all trust who is to: a broker that is new waits.
            (_, None) => continue,
        };
        let ends_ms = authority::read(&own).map_err(wrong)?.ends_ms;
        first_ends_ms = first_ends_ms.min(ends_ms);
        let mut files: BTreeMap<String, String> = [
            (OWN.to_owned(), own.clone()),
            (TRUST.to_owned(), new.trusted()),
        ]
        .into();
        let before = of.children.secret(&secret_name(cluster, node.id));
        for listener in &cluster.spec.listeners {
            for (file, fallback) in [
                (shown_file(listener), &own),
                (clients_file(listener), &new.trusted()),
            ] {
                if !given.wanted.contains(&file) {
                    continue;
                }
                let kept = || before.and_then(|secret| text(secret, &file));
                let good = given.files.get(&(file.clone(), node.id)).cloned();
                // What is not good takes nothing from what was. Nobody but brokers is let in by the
                // cluster's own authority.
                let content = good.or_else(kept).unwrap_or_else(|| fallback.clone());
                files.insert(file, content);
            }
        }
        let object = broker_secret(cluster, node, &files);
        ensure(&secrets, before, &object).await?;
    }
    let rotation = new.waits_for(&seen, times, now_ms).map_err(wrong)?;
    certified.status = CertificatesStatus {
        authority_ends: signer.map_or_else(String::new, |(_, signer)| day(signer.ends_ms)),
        rotation,
        first_ends: match first_ends_ms {
            i64::MAX => String::new(),
            ms => day(ms),
        },
    };
    Ok(certified)
}

fn rotation_note(new: &Authorities) -> String {
    match (&new.next, new.before.is_empty()) {
        (Some(_), _) => "a next authority is trusted, and signs nothing yet",
        (None, false) => "the next authority signs, and the one before is trusted",
        (None, true) => "the authority before is trusted no more",
    }
    .to_owned()
}

/// A time as people read it.
fn day(ms: i64) -> String {
    Timestamp::from_millisecond(ms)
        .unwrap_or_default()
        .to_string()
}

/// The certificate that was written for a broker, with its key, if it can be read.
fn own_leaf(cluster: &Cluster, children: &Children, id: i32) -> Option<(String, Known)> {
    let file = text(children.secret(&secret_name(cluster, id))?, OWN)?;
    let known = authority::read(&file).ok()?;
    Some((file, known))
}

/// A broker's Secret.
#[must_use]
pub fn broker_secret(cluster: &Cluster, node: &Node, files: &BTreeMap<String, String>) -> Value {
    let name = secret_name(cluster, node.id);
    json!({
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "metadata": build::of_broker(cluster, node, &name, &BTreeMap::new()),
        "data": data(files),
    })
}

/// What others give of certificates.
#[derive(Default)]
struct Given {
    /// Files that somebody else than the operator gives.
    wanted: BTreeSet<String>,
    /// Those that are good, of each broker.
    files: BTreeMap<(String, i32), String>,
    /// What is wrong with the others: of which listener, and with which Secrets.
    problems: BTreeMap<(String, String), Vec<String>>,
}

async fn given(context: &Context, of: &Deciding<'_>) -> Result<Given, Error> {
    let cluster = of.build.cluster;
    let mut given = Given::default();
    for listener in &cluster.spec.listeners {
        let Some(tls) = &listener.tls else { continue };
        for node in of.nodes {
            let (name, asked) = match (tls.source, &tls.secret_ref) {
                (TlsSource::CertManager, _) => {
                    let hosts = outside::hosts(cluster, of.children, node.id, of.addresses);
                    let wanted = cert_manager::wanted(cluster, listener, node, &hosts);
                    let asked = cert_manager::ask(context, cluster, &wanted).await?;
                    (cert_manager::name(cluster, listener, node.id), Some(asked))
                }
                (TlsSource::Secret, Some(named)) => (named.name.clone(), None),
                (TlsSource::Secret, None) | (TlsSource::Operator, _) => continue,
            };
            let file = shown_file(listener);
            given.wanted.insert(file.clone());
            let found = secret(context, cluster, &name)
                .await?
                .and_then(|secret| pair(&secret, of.now_ms));
            match (found, asked) {
                (Ok(content), asked) => {
                    given.files.insert((file, node.id), content);
                    if let Some(Err(problem)) = asked {
                        given.problem(listener, None, problem);
                    }
                }
                (Err(_), Some(Err(problem))) => given.problem(listener, None, problem),
                (Err(problem), None) => given.problem(listener, Some(name), problem),
                (Err(problem), Some(Ok(certificate))) => {
                    let said = cert_manager::said(context, cluster, &certificate).await;
                    let issuer = tls.issuer_ref.as_ref();
                    let issuer = issuer.map(|of| format!("{} {}", of.kind, of.name));
                    let problem = format!(
                        "{problem}. cert-manager: {said}. If that stays, mend {}, or name another one in issuerRef",
                        issuer.unwrap_or_default()
                    );
                    given.problem(listener, Some(name), problem);
                }
            }
        }
        for way in &listener.authentication {
            let file = clients_file(listener);
            given.wanted.insert(file.clone());
            let name = &way.ca_secret_ref.name;
            match secret(context, cluster, name)
                .await?
                .and_then(|secret| authorities(&secret))
            {
                Ok(content) => {
                    for node in of.nodes {
                        given.files.insert((file.clone(), node.id), content.clone());
                    }
                }
                Err(problem) => given.problem(listener, Some(name.clone()), problem),
            }
        }
    }
    let status = cluster.status.as_ref();
    if status.and_then(|status| status.observed_generation) != cluster.metadata.generation {
        // Only with another spec is something asked for no more.
        let wanted = cert_manager::names(cluster, of.nodes);
        cert_manager::forget(context, cluster, |found| wanted.contains(&found.name_any())).await?;
    }
    Ok(given)
}

impl Given {
    /// Each once, though every broker has it.
    fn problem(&mut self, listener: &Listener, secret: Option<String>, problem: String) {
        let of = (listener.name.clone(), problem);
        let secrets = self.problems.entry(of).or_default();
        secrets.extend(secret.filter(|name| !secrets.contains(name)));
    }

    fn told(&self) -> Vec<String> {
        let each = self.problems.iter();
        each.map(|((listener, problem), secrets)| match &**secrets {
            [] => format!("listener {listener}: {problem}"),
            secrets => format!(
                "listener {listener}: Secret {}: {problem}",
                secrets.join(", ")
            ),
        })
        .collect()
    }
}

async fn secret(
    context: &Context,
    cluster: &Cluster,
    name: &str,
) -> Result<Result<Secret, String>, Error> {
    let secrets: Api<Secret> = context.beside(cluster);
    let found = secrets.get_opt(name).await;
    let found = found.map_err(Error::kube(format!("reading Secret {name}")))?;
    Ok(found.ok_or_else(|| "it is not there".to_owned()))
}

/// A certificate, its chain and its key, if brokers could use them.
fn pair(secret: &Secret, now_ms: i64) -> Result<String, String> {
    let of = |key: &str| text(secret, key).ok_or_else(|| format!("it has no {key}"));
    let (chain, key) = (of("tls.crt")?, of("tls.key")?);
    let known = authority::read(&chain).map_err(|error| format!("tls.crt: {error}"))?;
    if known.ends_ms <= now_ms {
        return Err(format!("tls.crt ended at {}", day(known.ends_ms)));
    }
    let settings = TlsSettings {
        certificate_chain: Some(Pem::Text(chain.clone())),
        key: Some(Pem::Text(key.clone())),
        trusted: None,
        client_auth: ClientAuth::None,
        versions: vec![TlsVersion::V12, TlsVersion::V13],
        verify_host_name: true,
    };
    tidemark_tls::Server::load(settings).map_err(|error| error.to_string())?;
    let end = if chain.ends_with('\n') { "" } else { "\n" };
    Ok(format!("{chain}{end}{key}"))
}

/// Authorities that sign clients' certificates.
fn authorities(secret: &Secret) -> Result<String, String> {
    let text = text(secret, "ca.crt").ok_or_else(|| "it has no ca.crt".to_owned())?;
    authority::read(&text).map_err(|error| format!("ca.crt: {error}"))?;
    Ok(text)
}
