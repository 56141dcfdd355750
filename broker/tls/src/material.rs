//! Certificates, keys and trust, from PEM.

use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{RootCertStore, SupportedProtocolVersion};
use tidemark_config::{Pem, TlsSettings, TlsVersion};
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TlsError;

/// The text of everything that settings name, to tell whether it has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Texts {
    pub(crate) chain: Option<Vec<u8>>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) trust: Option<Vec<u8>>,
}

impl Texts {
    pub(crate) fn read(settings: &TlsSettings) -> Result<Texts, TlsError> {
        let read = |setting, pem: &Option<Pem>| pem.as_ref().map(|p| text(setting, p)).transpose();
        Ok(Texts {
            chain: read(CHAIN, &settings.certificate_chain)?,
            key: read(KEY, &settings.key)?,
            trust: read(TRUST, &settings.trusted)?,
        })
    }

    /// The certificates that this end shows, and the key of the first; `None` if it shows none.
    pub(crate) fn identity(&self) -> Result<Option<Identity>, TlsError> {
        let (chain, key) = match (&self.chain, &self.key) {
            (Some(chain), Some(key)) => (chain, key),
            (None, None) => return Ok(None),
            (Some(_), None) => return Err(wrong(KEY, "the certificate's private key is missing")),
            (None, Some(_)) => return Err(wrong(CHAIN, "there is a key and no certificate")),
        };
        let chain = certificates(CHAIN, chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            pem::Error::NoItemsFound if holds(key, "ENCRYPTED PRIVATE KEY") => wrong(
                KEY,
                "the private key is encrypted, which is not supported: `openssl pkcs8 -in KEY -out PLAIN` decrypts it; restrict who may read the file instead",
            ),
            pem::Error::NoItemsFound => wrong(KEY, "there is no PEM private key in it"),
            error => wrong(KEY, error.to_string()),
        })?;
        Ok(Some(Identity { chain, key }))
    }

    /// Whom this end trusts; `None` if nothing says so.
    pub(crate) fn trusted(&self) -> Result<Option<Arc<RootCertStore>>, TlsError> {
        let Some(trust) = &self.trust else {
            return Ok(None);
        };
        let mut roots = RootCertStore::empty();
        for certificate in certificates(TRUST, trust)? {
            roots
                .add(certificate)
                .map_err(|error| wrong(TRUST, format!("a certificate cannot be used: {error}")))?;
        }
        Ok(Some(Arc::new(roots)))
    }
}

/// What an end shows of itself.
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivateKeyDer<'static>,
}

impl Identity {
    /// When the first certificate of the chain ends, in seconds since 1970.
    pub(crate) fn expires_at_s(&self) -> Option<i64> {
        self.chain.first().and_then(expires_at_s)
    }
}

/// When a certificate ends, in seconds since 1970.
pub(crate) fn expires_at_s(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// What one end of connections uses now, by serial numbers in hexadecimal digits.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct InUse {
    /// The certificate that it shows, if any.
    pub shown: Option<String>,
    /// When that ends, in seconds since 1970.
    pub expires_at_s: Option<i64>,
    /// The authorities that it trusts; none where it trusts those of the system, or asks nobody.
    pub trusted: Vec<String>,
}

impl InUse {
    pub(crate) fn of(texts: &Texts) -> InUse {
        // What cannot be read is not in use: it was refused before.
        let read = |setting, text: &Option<Vec<u8>>| {
            let text = text.as_deref().unwrap_or_default();
            certificates(setting, text).unwrap_or_default()
        };
        let of = |certificate: &CertificateDer<'_>| {
            let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
            let ends_s = certificate.validity().not_after.timestamp();
            Some((hex(certificate.raw_serial()), ends_s))
        };
        let shown = read(CHAIN, &texts.chain).first().and_then(of);
        let trusted = read(TRUST, &texts.trust);
        InUse {
            expires_at_s: shown.as_ref().map(|(_, ends_s)| *ends_s),
            shown: shown.map(|(serial, _)| serial),
            trusted: trusted.iter().filter_map(of).map(|(of, _)| of).collect(),
        }
    }
}

/// A serial number as `openssl x509 -serial` prints it, in small letters and without zeros before.
fn hex(bytes: &[u8]) -> String {
    let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    digits.trim_start_matches('0').to_owned()
}

pub(crate) const CHAIN: &str = "ssl.keystore.certificate.chain or ssl.keystore.location";
pub(crate) const KEY: &str = "ssl.keystore.key or ssl.keystore.location";
pub(crate) const TRUST: &str = "ssl.truststore.certificates or ssl.truststore.location";

pub(crate) fn wrong(setting: &'static str, reason: impl Into<String>) -> TlsError {
    TlsError::Material {
        setting,
        reason: reason.into(),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "files that people name in settings, in nobody's data directory"
)]
fn text(setting: &'static str, pem: &Pem) -> Result<Vec<u8>, TlsError> {
    match pem {
        Pem::Text(text) => Ok(text.clone().into_bytes()),
        Pem::File(path) => std::fs::read(path).map_err(|error| TlsError::File {
            setting,
            path: path.into(),
            reason: error.to_string(),
        }),
    }
}

fn certificates(
    setting: &'static str,
    text: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|error| wrong(setting, error.to_string()))?;
    if found.is_empty() {
        return Err(wrong(setting, "there is no PEM certificate in it"));
    }
    Ok(found)
}

fn holds(text: &[u8], words: &str) -> bool {
    String::from_utf8_lossy(text).contains(words)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

pub(crate) fn versions(settings: &TlsSettings) -> Vec<&'static SupportedProtocolVersion> {
    let of = |version: &TlsVersion| match version {
        TlsVersion::V12 => &rustls::version::TLS12,
        TlsVersion::V13 => &rustls::version::TLS13,
    };
    settings.versions.iter().map(of).collect()
}
