//! A cluster's own authority: whom its brokers believe, and what each of them shows. Pure but for the
//! keys, which are random.
//!
//! A change of authority has three steps, each of them seen in what brokers say that they use: the
//! next one is trusted by all, then it signs what brokers show, then the one before is forgotten. At
//! every moment all believe what any of them shows.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use tidemark_crds::cluster::Times;
use time::OffsetDateTime;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::Pem;

/// Clocks may differ by so much.
const SKEW_MS: i64 = 10 * 60 * 1_000;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// It could not be made.
    #[error("a certificate could not be made: {0}")]
    Made(#[from] rcgen::Error),
    /// What was found is none.
    #[error("{0}")]
    Read(String),
}

/// A certificate, as far as it is looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Its serial number in hexadecimal digits, as brokers tell it.
    pub serial: String,
    /// Who it is of.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// When it ends.
    pub ends_ms: i64,
    /// For which hosts it is, sorted.
    pub hosts: BTreeSet<String>,
}

/// Reads the first certificate of a PEM text.
///
/// # Errors
/// What is wrong with it.
pub fn read(pem: &str) -> Result<Known, AuthorityError> {
    let wrong = |text: &str| AuthorityError::Read(text.to_owned());
    let mut all = Pem::iter_from_buffer(pem.as_bytes());
    let first = all.find_map(|one| one.ok().filter(|one| one.label == "CERTIFICATE"));
    let first = first.ok_or_else(|| wrong("there is no PEM certificate in it"))?;
    let certificate = first
        .parse_x509()
        .map_err(|error| AuthorityError::Read(format!("it is no certificate: {error}")))?;
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|error| AuthorityError::Read(error.to_string()))?;
    let host = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            let v6 = || <[u8; 16]>::try_from(*bytes).map(IpAddr::from);
            Some(v4.or_else(|_| v6()).ok()?.to_string())
        }
        _ => None,
    };
    let hosts = names.iter().flat_map(|names| &names.value.general_names);
    let digits: String = certificate
        .raw_serial()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    Ok(Known {
        serial: digits.trim_start_matches('0').to_owned(),
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        ends_ms: certificate.validity().not_after.timestamp() * 1_000,
        hosts: hosts.filter_map(host).collect(),
    })
}

/// A certificate and its key, in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Pair {
    /// The certificate.
    pub certificate: String,
    /// Its key.
    pub key: String,
}

impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Pair").field(&self.certificate).finish()
    }
}

fn at(ms: i64) -> OffsetDateTime {
    // Within what a certificate can say.
    let most_s = 253_402_300_799;
    let seconds = (ms / 1_000).clamp(0, most_s);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn params(name: &str, cluster: &str, now_ms: i64, validity_ms: i64) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    let subject = &mut params.distinguished_name;
    subject.push(DnType::OrganizationName, cluster);
    subject.push(DnType::CommonName, name);
    params.not_before = at(now_ms - SKEW_MS);
    params.not_after = at(now_ms.saturating_add(validity_ms));
    params
}

impl Pair {
    /// An authority. Its name is one of its own, so that what it signed is told from what others did.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn authority(cluster: &str, now_ms: i64, validity_ms: i64) -> Result<Self, AuthorityError> {
        let key = KeyPair::generate()?;
        let mut mark = [0; 4];
        tidemark_env::random::fill(&mut mark);
        let name = format!("{cluster} authority {:08x}", u32::from_be_bytes(mark));
        let mut params = params(&name, cluster, now_ms, validity_ms);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        Ok(Self {
            certificate: params.self_signed(&key)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// A certificate of `name` in a cluster, for these hosts, by which it answers and by which it asks.
    ///
    /// # Errors
    /// When this is no authority.
    pub fn issue(
        &self,
        (cluster, name): (&str, &str),
        hosts: &BTreeSet<String>,
        now_ms: i64,
        validity_ms: i64,
    ) -> Result<Self, AuthorityError> {
        let own = read(&self.certificate)?;
        let issuer = Issuer::from_ca_cert_pem(&self.certificate, KeyPair::from_pem(&self.key)?)?;
        // It ends no later than who signed it.
        let validity_ms = validity_ms.min(own.ends_ms - now_ms);
        let mut params = params(name, cluster, now_ms, validity_ms);
        for host in hosts {
            let name = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.clone().try_into()?),
            };
            params.subject_alt_names.push(name);
        }
        params.use_authority_key_identifier_extension = true;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        let key = KeyPair::generate()?;
        Ok(Self {
            certificate: params.signed_by(&key, &issuer)?.pem(),
            key: key.serialize_pem(),
        })
    }

    /// One file with both, as brokers read it.
    #[must_use]
    pub fn file(&self) -> String {
        format!("{}{}", self.certificate, self.key)
    }
}

/// Whom a cluster believes, and who signs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Authorities {
    /// Who signs; nobody after the Secret was lost, until all believe the next one.
    pub current: Option<Pair>,
    /// Who is to sign, and since when it is trusted.
    pub next: Option<(Pair, i64)>,
    /// Certificates in PEM of those who signed before.
    pub before: String,
    /// The request for a new one that was heard last.
    pub asked: Option<String>,
}

/// What a broker says that it uses among brokers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Used {
    /// Serial numbers of what it shows.
    pub shown: BTreeSet<String>,
    /// Serial numbers of the authorities that all its ends trust.
    pub trusted: BTreeSet<String>,
}

/// What is seen of those who use certificates.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// Brokers, each with what it says; nothing of one that does not answer.
    pub brokers: &'a [(i32, Option<Used>)],
    /// The certificates that were written for each broker.
    pub written: &'a [(i32, Known)],
    /// What clients are told to trust, which is there though the Secret may be lost.
    pub told: Option<&'a str>,
    /// The request for a new authority.
    pub asked: Option<&'a str>,
    /// What a new authority is called after.
    pub cluster: &'a str,
}

impl Authorities {
    /// All who are trusted, in PEM.
    #[must_use]
    pub fn trusted(&self) -> String {
        let next = self.next.as_ref().map(|(pair, _)| pair);
        let pairs = self.current.iter().chain(next);
        let mut all: String = pairs.map(|pair| pair.certificate.as_str()).collect();
        all.push_str(&self.before);
        all
    }

    /// What a change of authority waits for, while there is one.
    ///
    /// # Errors
    /// An authority that cannot be read.
    pub fn waits_for(
        &self,
        seen: &Seen<'_>,
        times: &Times,
        now_ms: i64,
    ) -> Result<Option<String>, AuthorityError> {
        if let Some((next, since_ms)) = &self.next {
            let serial = read(&next.certificate)?.serial;
            return Ok(Some(match distrusts(seen, &serial) {
                Some(id) => format!("broker {id} does not trust the next authority yet"),
                None => {
                    let left_ms = since_ms + times.ca_overlap_ms - now_ms;
                    format!(
                        "the next authority is trusted, and signs in {} min",
                        (left_ms / 60_000).max(0)
                    )
                }
            }));
        }
        if self.before.is_empty() {
            return Ok(None);
        }
        Ok(self
            .shows_other(seen)?
            .map(|id| format!("broker {id} still shows what the authority before has signed")))
    }

    /// A broker that does not show what the one who signs now has signed.
    fn shows_other(&self, seen: &Seen<'_>) -> Result<Option<i32>, AuthorityError> {
        let Some(current) = &self.current else {
            return Ok(None);
        };
        let subject = read(&current.certificate)?.subject;
        let is_ours = |id: &i32, used: &Used| {
            let written = seen.written.iter().find(|(of, _)| of == id);
            written.is_some_and(|(_, leaf)| {
                leaf.issuer == subject && used.shown.iter().all(|serial| *serial == leaf.serial)
            })
        };
        let mut brokers = seen.brokers.iter();
        let other = brokers.find(|(id, used)| !used.as_ref().is_some_and(|used| is_ours(id, used)));
        Ok(other.map(|(id, _)| *id))
    }
}

/// A broker that does not trust an authority, or does not say.
fn distrusts(seen: &Seen<'_>, serial: &str) -> Option<i32> {
    let trusts = |used: &Option<Used>| used.as_ref().is_some_and(|u| u.trusted.contains(serial));
    let mut brokers = seen.brokers.iter();
    brokers.find(|(_, used)| !trusts(used)).map(|(id, _)| *id)
}

/// The next step of a cluster's authorities; what was found where there is nothing to do.
///
/// # Errors
/// An authority that cannot be read or made.
pub fn step(
    found: Option<&Authorities>,
    seen: &Seen<'_>,
    times: &Times,
    now_ms: i64,
) -> Result<Authorities, AuthorityError> {
    let asked = seen.asked.map(str::to_owned);
    let made = || Pair::authority(seen.cluster, now_ms, times.ca_validity_ms);
    let Some(found) = found else {
        let new = made()?;
        return Ok(match seen.told {
            // Nobody believes anything yet.
            None => Authorities {
                current: Some(new),
                asked,
                ..Authorities::default()
            },
            // The Secret is lost: brokers show what they have until all trust the new one.
            Some(told) => Authorities {
                next: Some((new, now_ms)),
                before: told.to_owned(),
                asked,
                ..Authorities::default()
            },
        });
    };
    let mut new = found.clone();
    if let Some((next, since_ms)) = &found.next {
        let serial = read(&next.certificate)?.serial;
        let waited = found.current.is_none() || now_ms - since_ms >= times.ca_overlap_ms;
        if waited && distrusts(seen, &serial).is_none() {
            let was = new.current.replace(next.clone());
            new.next = None;
            if let Some(was) = was {
                new.before.push_str(&was.certificate);
            }
        }
        return Ok(new);
    }
    if !found.before.is_empty() {
        if found.shows_other(seen)?.is_none() {
            new.before.clear();
        }
        return Ok(new);
    }
    let ends_ms = match &found.current {
        Some(current) => read(&current.certificate)?.ends_ms,
        None => 0,
    };
    if ends_ms - now_ms <= times.ca_renew_before_ms || found.asked != asked {
        new.next = Some((made()?, now_ms));
        new.asked = asked;
    }
    Ok(new)
}

/// Whether a broker's certificate is to be made anew.
#[must_use]
pub fn is_stale(
    leaf: Option<&Known>,
    signer: &Known,
    hosts: &BTreeSet<String>,
    times: &Times,
    now_ms: i64,
) -> bool {
    let renew_before_ms = times.renew_before_ms;
    leaf.is_none_or(|leaf| {
        // One that ends with its authority is not made anew again and again.
        let as_long_as_can_be = leaf.ends_ms >= signer.ends_ms;
        leaf.issuer != signer.subject
            || leaf.hosts != *hosts
            || (leaf.ends_ms - now_ms <= renew_before_ms && !as_long_as_can_be)
    })
}
