//! The end that listens.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rustls::ServerConfig;
use rustls::server::WebPkiClientVerifier;
use tidemark_config::{ClientAuth, TlsSettings};
use tidemark_env::clock;
use tidemark_env::net::Stream;
use tokio_rustls::TlsAcceptor;

use crate::material::{CHAIN, InUse, TRUST, Texts, provider, versions, wrong};
use crate::{Principal, TlsError, explain};

/// What a listener shows and asks for.
#[derive(Debug)]
pub struct Server {
    settings: TlsSettings,
    current: RwLock<Current>,
}

#[derive(Debug, Clone)]
struct Current {
    texts: Texts,
    config: Arc<ServerConfig>,
    expires_at_s: Option<i64>,
}

impl Server {
    /// Loads what the settings of a listener name.
    ///
    /// # Errors
    /// Files that cannot be read, or that do not fit.
    pub fn load(settings: TlsSettings) -> Result<Server, TlsError> {
        let current = RwLock::new(build(&settings, Texts::read(&settings)?)?);
        Ok(Server { settings, current })
    }

    /// Reads the files again; says whether they had changed. Connections that are open go on.
    ///
    /// # Errors
    /// As [`Server::load`]; what was in use stays in use.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let texts = Texts::read(&self.settings)?;
        if self.current().texts == texts {
            return Ok(false);
        }
        let new = build(&self.settings, texts)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = new;
        Ok(true)
    }

    /// When the certificate that is shown ends, in seconds since 1970.
    pub fn expires_at_s(&self) -> Option<i64> {
        self.current().expires_at_s
    }

    /// What is in use now.
    pub fn in_use(&self) -> InUse {
        InUse::of(&self.current().texts)
    }

    /// Has a client that connected prove itself and agree on keys, within `patience`. The
    /// principal is [`Principal::anonymous`] for one without a certificate.
    ///
    /// # Errors
    /// [`TlsError::Handshake`] says in words what did not fit.
    pub async fn accept(
        &self,
        stream: Stream,
        patience: Duration,
    ) -> Result<(Stream, Principal), TlsError> {
        let current = self.current();
        let accepting = TlsAcceptor::from(current.config).accept(stream);
        let stream = match clock::timeout(patience, accepting).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => {
                let now_s = clock::now_ms() / 1_000;
                let expired = current.expires_at_s.is_some_and(|ends_s| ends_s < now_s);
                return Err(explain::as_server(&error, expired));
            }
            Err(_) => return Err(TlsError::TimedOut(patience.as_millis())),
        };
        let shown = stream.get_ref().1.peer_certificates();
        let principal = match shown.and_then(|chain| chain.first()) {
            Some(certificate) => Principal::of(certificate)?,
            None => Principal::anonymous(),
        };
        Ok((Stream::new(stream), principal))
    }

    fn current(&self) -> Current {
        let current = self.current.read();
        current.unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn build(settings: &TlsSettings, texts: Texts) -> Result<Current, TlsError> {
    let Some(identity) = texts.identity()? else {
        return Err(wrong(
            CHAIN,
            "a listener with TLS needs a certificate: set ssl.keystore.type=PEM and ssl.keystore.location to a file with the certificate, its chain and its key",
        ));
    };
    let expires_at_s = identity.expires_at_s();
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&versions(settings))
        .map_err(|error| wrong("ssl.enabled.protocols", error.to_string()))?;
    let builder = match settings.client_auth {
        ClientAuth::None => builder.with_no_client_auth(),
        asked => {
            let Some(roots) = texts.trusted()? else {
                return Err(wrong(
                    TRUST,
                    "ssl.client.auth asks for certificates, and nothing says which authorities sign them",
                ));
            };
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider());
            let verifier = match asked {
                ClientAuth::Required => verifier,
                _ => verifier.allow_unauthenticated(),
            };
            let verifier = verifier.build();
            builder.with_client_cert_verifier(
                verifier.map_err(|error| wrong(TRUST, error.to_string()))?,
            )
        }
    };
    let config = builder
        .with_single_cert(identity.chain, identity.key)
        .map_err(|error| wrong(CHAIN, explain::material(&error)))?;
    Ok(Current {
        texts,
        config: Arc::new(config),
        expires_at_s,
    })
}
