//! The end that connects.

use std::io;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tidemark_config::TlsSettings;
use tidemark_env::clock;
use tidemark_env::net::{self, Stream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::material::{CHAIN, InUse, TRUST, Texts, expires_at_s, provider, versions, wrong};
use crate::{TlsError, explain};

/// Whom connections trust, and what they show.
#[derive(Debug)]
pub struct Client {
    settings: TlsSettings,
    current: RwLock<(Texts, Arc<ClientConfig>)>,
}

impl Client {
    /// Loads what the settings name. Without a trust store the system's is taken.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not fit.
    pub fn load(settings: TlsSettings) -> Result<Client, TlsError> {
        let texts = Texts::read(&settings)?;
        let config = build(&settings, &texts)?;
        let current = RwLock::new((texts, config));
        Ok(Client { settings, current })
    }

    /// Reads the files again; says whether they had changed.
    ///
    /// # Errors
    /// As [`Client::load`]; what was in use stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let texts = Texts::read(&self.settings)?;
        let in_use = self.current.read().unwrap_or_else(PoisonError::into_inner);
        if in_use.0 == texts {
            return Ok(false);
        }
        drop(in_use);
        let config = build(&self.settings, &texts)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = (texts, config);
        Ok(true)
    }

    /// What is in use now.
    pub fn in_use(&self) -> InUse {
        let in_use = self.current.read().unwrap_or_else(PoisonError::into_inner);
        InUse::of(&in_use.0)
    }

    /// Makes a connection to `address` (`host:port`) a private one with whom it names, within
    /// `patience`.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] says in words what did not fit.
    pub async fn connect(
        &self,
        stream: Stream,
        address: &str,
        patience: Duration,
    ) -> Result<Stream, TlsError> {
        let private = self.handshake(stream, address, patience).await?;
        Ok(Stream::new(private))
    }

    /// When the certificate ends that whom `address` names shows, in seconds since 1970.
    ///
    /// # Errors
    /// As [`Client::connect`].
    pub async fn shown_until(
        &self,
        stream: Stream,
        address: &str,
        patience: Duration,
    ) -> Result<Option<i64>, TlsError> {
        let private = self.handshake(stream, address, patience).await?;
        let shown = private.get_ref().1.peer_certificates();
        Ok(shown.and_then(|chain| chain.first()).and_then(expires_at_s))
    }

    async fn handshake(
        &self,
        stream: Stream,
        address: &str,
        patience: Duration,
    ) -> Result<TlsStream<Stream>, TlsError> {
        let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| TlsError::Handshake(format!("{host:?} is no name of a host")))?;
        let config = {
            let current = self.current.read();
            Arc::clone(&current.unwrap_or_else(PoisonError::into_inner).1)
        };
        let connecting = TlsConnector::from(config).connect(name, stream);
        match clock::timeout(patience, connecting).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(explain::as_client(&error, host)),
            Err(_) => Err(TlsError::TimedOut(patience.as_millis())),
        }
    }
}

/// Connects to `address` (`host:port`), and speaks TLS there if there is any. `patience` is for
/// the connection, and again for the handshake.
///
/// # Errors
/// Those of [`net::connect`]; `ConnectionAborted` with a [`TlsError`] in it.
pub async fn connect(
    address: &str,
    tls: Option<&Client>,
    patience: Duration,
) -> io::Result<Stream> {
    let stream = net::connect(address, patience).await?;
    match tls {
        None => Ok(stream),
        Some(tls) => tls
            .connect(stream, address, patience)
            .await
            .map_err(|error| io::Error::new(io::ErrorKind::ConnectionAborted, error)),
    }
}

fn build(settings: &TlsSettings, texts: &Texts) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match texts.trusted()? {
        Some(roots) => roots,
        None => Arc::new(of_the_system()?),
    };
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(settings))
        .map_err(|error| wrong("ssl.enabled.protocols", error.to_string()))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(roots, provider())
        .build()
        .map_err(|error| wrong(TRUST, error.to_string()))?;
    let builder = if settings.verify_host_name {
        builder.with_webpki_verifier(verifier)
    } else {
        let verifier = Arc::new(AnyName(verifier));
        builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
    };
    let config = match texts.identity()? {
        Some(identity) => builder
            .with_client_auth_cert(identity.chain, identity.key)
            .map_err(|error| wrong(CHAIN, explain::material(&error)))?,
        None => builder.with_no_client_auth(),
    };
    Ok(Arc::new(config))
}

fn of_the_system() -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added == 0 {
        return Err(wrong(
            TRUST,
            "nothing says which authorities to trust, and the system has none: set ssl.truststore.type=PEM and ssl.truststore.location",
        ));
    }
    Ok(roots)
}

/// Takes a certificate that a trusted authority signed for whatever host
/// (`ssl.endpoint.identification.algorithm` empty).
#[derive(Debug)]
struct AnyName(Arc<WebPkiServerVerifier>);

impl ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let of_name =
            self.0
                .verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match of_name {
            // The name is looked at last: all else was found right.
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}
