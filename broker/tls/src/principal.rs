//! Who a client is, by its certificate.

use std::fmt;

use rustls::pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::TlsError;

/// A user as Kafka names it: `User:` and the certificate's subject, by RFC 2253 with the most
/// particular part first (`User:CN=billing,OU=shop,O=acme`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Principal(String);

impl Principal {
    /// Who has shown no certificate.
    #[must_use]
    pub fn anonymous() -> Principal {
        Principal("User:ANONYMOUS".to_owned())
    }

    pub(crate) fn of(certificate: &CertificateDer<'_>) -> Result<Principal, TlsError> {
        let unreadable = |error: String| {
            TlsError::Handshake(format!("the client's certificate cannot be read: {error}"))
        };
        let (_, certificate) = X509Certificate::from_der(certificate)
            .map_err(|error| unreadable(error.to_string()))?;
        // A part may have several attributes, joined by a plus.
        let parts: Vec<String> = certificate
            .subject()
            .iter_rdn()
            .map(|part| {
                let attributes: Vec<String> = part
                    .iter()
                    .map(|attribute| {
                        let oid = attribute.attr_type();
                        let name = x509_parser::objects::oid2abbrev(
                            oid,
                            x509_parser::objects::oid_registry(),
                        )
                        .map_or_else(|_| oid.to_id_string(), ToOwned::to_owned);
                        let value = attribute.as_str().unwrap_or_default();
                        format!("{name}={}", escaped(value))
                    })
                    .collect();
                attributes.join("+")
            })
            .collect();
        let subject: Vec<&str> = parts.iter().rev().map(String::as_str).collect();
        Ok(Principal(format!("User:{}", subject.join(","))))
    }
}

/// RFC 2253: what would end a value is escaped.
fn escaped(value: &str) -> String {
    let mut out = String::with_capacity(value.len());
    let last = value.chars().count().saturating_sub(1);
    for (at, c) in value.chars().enumerate() {
        let outer_space = c == ' ' && (at == 0 || at == last);
        let first_hash = c == '#' && at == 0;
        if outer_space || first_hash || matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

impl fmt::Display for Principal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
