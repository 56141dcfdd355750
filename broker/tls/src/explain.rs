//! Failed handshakes in words that say which end has to change what.

use std::io;

use rustls::{AlertDescription, CertificateError, Error};

use crate::TlsError;

/// Why a client was not let in. Many end the connection without a word when they do not like a
/// certificate: that one has `expired` this end knows by itself.
pub(crate) fn as_server(error: &io::Error, expired: bool) -> TlsError {
    let mut words = match tls(error) {
        Some(Error::NoCertificatesPresented) => {
            "the client shows no certificate, and ssl.client.auth=required".to_owned()
        }
        Some(Error::InvalidMessage(_)) => {
            "what came is not TLS: the client speaks PLAINTEXT to a listener of SSL".to_owned()
        }
        Some(Error::PeerIncompatible(reason)) => {
            format!("the client has no version or cipher in common with this broker: {reason:?}")
        }
        _ => by_either("client", error),
    };
    if expired {
        words.push_str("; the certificate that this broker shows has expired");
    }
    TlsError::Handshake(words)
}

/// Why a connection was given up.
pub(crate) fn as_client(error: &io::Error, host: &str) -> TlsError {
    let words = match tls(error) {
        Some(Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        )) => format!(
            "the broker's certificate is not for {host}: it needs that name among its subject alternative names, or the client another address"
        ),
        Some(Error::InvalidMessage(_)) => {
            "what came is not TLS: the listener speaks PLAINTEXT".to_owned()
        }
        Some(Error::PeerIncompatible(reason)) => {
            format!("the broker has no version or cipher in common with this client: {reason:?}")
        }
        _ => by_either("broker", error),
    };
    TlsError::Handshake(words)
}

/// Why certificate and key cannot be used together.
pub(crate) fn material(error: &Error) -> String {
    match error {
        Error::InconsistentKeys(_) => {
            "the private key is not the certificate's; the certificate of this host comes first in the chain".to_owned()
        }
        other => other.to_string(),
    }
}

/// What is said of `who`, whichever end that is.
fn by_either(who: &str, error: &io::Error) -> String {
    match tls(error) {
        Some(Error::InvalidCertificate(reason)) => certificate(who, reason),
        Some(Error::AlertReceived(alert)) => alerted(who, *alert),
        Some(other) => other.to_string(),
        None => lost(who, error),
    }
}

fn tls(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref::<Error>()
}

fn lost(who: &str, error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => format!(
            "the {who} ended the connection during the handshake: it may not speak TLS here, or not trust this certificate"
        ),
        _ => error.to_string(),
    }
}

fn certificate(whose: &str, reason: &CertificateError) -> String {
    match reason {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            format!("the {whose}'s certificate has expired")
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            format!("the {whose}'s certificate is not valid yet: compare the clocks")
        }
        CertificateError::UnknownIssuer => {
            format!(
                "the {whose}'s certificate is signed by an authority that is not in the trust store"
            )
        }
        CertificateError::Revoked => format!("the {whose}'s certificate was revoked"),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            format!("the {whose}'s certificate is not made for this use (extended key usage)")
        }
        other => format!("the {whose}'s certificate is not accepted: {other:?}"),
    }
}

fn alerted(who: &str, alert: AlertDescription) -> String {
    match alert {
        AlertDescription::UnknownCA => {
            format!("the {who} does not trust the authority that signed this end's certificate")
        }
        AlertDescription::CertificateExpired => {
            format!("the {who} says that this end's certificate has expired")
        }
        AlertDescription::CertificateRequired => {
            format!("the {who} asks for a certificate, and this end shows none")
        }
        AlertDescription::BadCertificate | AlertDescription::CertificateUnknown => {
            format!(
                "the {who} does not accept this end's certificate: its name, its dates or its authority ({alert:?})"
            )
        }
        other => format!("the {who} ended the handshake: {other:?}"),
    }
}
