//! TLS as settings say it: protocols of listeners, certificates, keys and trust (KIP-651).

use crate::ConfigError;
use crate::layers::BrokerLayers;

/// Certificates or a key in PEM.
#[derive(Clone, PartialEq, Eq)]
pub enum Pem {
    /// In the setting itself.
    Text(String),
    /// In the file of this name.
    File(String),
}

impl std::fmt::Debug for Pem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("Text([hidden])"),
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
        }
    }
}

/// Whether who connects must show a certificate: `ssl.client.auth`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ClientAuth {
    /// It is not asked for one.
    #[default]
    None,
    /// One that it shows has to be good.
    Requested,
    /// It has to show a good one.
    Required,
}

/// A version of TLS: `ssl.enabled.protocols`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsVersion {
    /// `TLSv1.2`
    V12,
    /// `TLSv1.3`
    V13,
}

/// What one end of TLS connections shows, trusts and asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// `ssl.keystore.location` or `ssl.keystore.certificate.chain`: this end's own, the
    /// certificate of this host first.
    pub certificate_chain: Option<Pem>,
    /// `ssl.keystore.location` or `ssl.keystore.key`.
    pub key: Option<Pem>,
    /// `ssl.truststore.location` or `ssl.truststore.certificates`: authorities.
    pub trusted: Option<Pem>,
    /// `ssl.client.auth`; of a listener.
    pub client_auth: ClientAuth,
    /// `ssl.enabled.protocols`.
    pub versions: Vec<TlsVersion>,
    /// `ssl.endpoint.identification.algorithm`; of who connects.
    pub verify_host_name: bool,
}

/// What a listener speaks: `listener.security.protocol.map`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Nothing is encrypted, nobody proves who they are.
    Plaintext,
    /// TLS.
    Ssl,
}

/// The protocol of each listener, by the map of names.
///
/// A controllers' listener that the map does not name is a plain one, as in Kafka.
pub(crate) fn protocol_of(
    layers: BrokerLayers<'_>,
    listener: &str,
    controllers: &[String],
) -> Result<Protocol, ConfigError> {
    let map = layers
        .text("listener.security.protocol.map")?
        .unwrap_or_default();
    let named = map
        .split(',')
        .filter_map(|pair| pair.trim().split_once(':'))
        .find(|(name, _)| name.trim().eq_ignore_ascii_case(listener));
    match named.map(|(_, protocol)| protocol.trim()) {
        Some("PLAINTEXT") => Ok(Protocol::Plaintext),
        Some("SSL") => Ok(Protocol::Ssl),
        None if controllers.iter().any(|name| name == listener) => Ok(Protocol::Plaintext),
        Some(_) => Err(ConfigError::Refused {
            name: "listeners".to_owned(),
            value: listener.to_owned(),
            reason: "this version serves PLAINTEXT and SSL, so clients meant to log in would not have to; remove the listener, or use SSL with ssl.client.auth=required.",
        }),
        None => Err(ConfigError::Conflict(format!(
            "listener.security.protocol.map does not say which protocol listener {listener} speaks: add {listener}:PLAINTEXT or {listener}:SSL to it"
        ))),
    }
}

/// TLS of a listener: its own settings (`listener.name.NAME.ssl.*`) before those of all.
pub(crate) fn of_listener(
    layers: BrokerLayers<'_>,
    listener: &str,
) -> Result<TlsSettings, ConfigError> {
    let prefix = format!("listener.name.{}.", listener.to_ascii_lowercase());
    let own = |name: &str| {
        let own = format!("{prefix}{name}");
        if layers.is_set(&own) {
            own
        } else {
            name.to_owned()
        }
    };
    resolve(
        |name| layers.text(&own(name)),
        &layers.list(&own("ssl.enabled.protocols"))?,
        // What is set to nothing means something here.
        layers
            .get(&own("ssl.endpoint.identification.algorithm"))
            .is_some_and(|(text, _)| !text.trim().is_empty()),
    )
}

/// TLS of a client, by the names that Kafka's clients use.
///
/// # Errors
/// A value that makes no sense, or a store that is not PEM.
pub fn of_client(properties: &crate::ConfigMap) -> Result<TlsSettings, ConfigError> {
    let empty = crate::ConfigMap::new();
    for (name, text) in properties
        .iter()
        .filter(|(name, _)| name.starts_with("ssl."))
    {
        crate::check(crate::Scope::Broker, name, text)?;
    }
    of_listener(
        BrokerLayers {
            dynamic: &empty,
            dynamic_default: &empty,
            fixed: properties,
        },
        "",
    )
}

fn resolve(
    text: impl Fn(&str) -> Result<Option<String>, ConfigError>,
    versions: &[String],
    verify_host_name: bool,
) -> Result<TlsSettings, ConfigError> {
    let stored = |kind: &str, inline: &str| -> Result<Option<Pem>, ConfigError> {
        let type_name = format!("ssl.{kind}.type");
        let (location, within) = (text(&format!("ssl.{kind}.location"))?, text(inline)?);
        let store_type = text(&type_name)?.unwrap_or_default();
        if (location.is_some() || within.is_some()) && !store_type.eq_ignore_ascii_case("PEM") {
            return Err(not_pem(&type_name, &store_type, kind));
        }
        match (location, within) {
            (Some(_), Some(_)) => Err(ConfigError::Conflict(format!(
                "ssl.{kind}.location and {inline} are both set: remove one"
            ))),
            (Some(path), None) => Ok(Some(Pem::File(path))),
            (None, Some(text)) => Ok(Some(Pem::Text(unescaped(&text)))),
            (None, None) => Ok(None),
        }
    };
    let certificate_chain = stored("keystore", "ssl.keystore.certificate.chain")?;
    let key = match &certificate_chain {
        // One file holds both.
        Some(Pem::File(_)) => certificate_chain.clone(),
        _ => stored("keystore", "ssl.keystore.key")?,
    };
    let client_auth = match text("ssl.client.auth")?.as_deref() {
        Some("required") => ClientAuth::Required,
        Some("requested") => ClientAuth::Requested,
        _ => ClientAuth::None,
    };
    let version = |name: &String| match name.as_str() {
        "TLSv1.2" => Ok(TlsVersion::V12),
        "TLSv1.3" => Ok(TlsVersion::V13),
        other => Err(ConfigError::InvalidValue {
            name: "ssl.enabled.protocols".to_owned(),
            value: other.to_owned(),
            reason: "TLSv1.2 and TLSv1.3 are served; what came before is broken".to_owned(),
        }),
    };
    let versions: Vec<TlsVersion> = versions.iter().map(version).collect::<Result<_, _>>()?;
    if versions.is_empty() {
        return Err(ConfigError::Conflict(
            "ssl.enabled.protocols is empty: set it to TLSv1.2,TLSv1.3".to_owned(),
        ));
    }
    Ok(TlsSettings {
        certificate_chain,
        key,
        trusted: stored("truststore", "ssl.truststore.certificates")?,
        client_auth,
        versions,
        verify_host_name,
    })
}

/// PEM in one line, as properties files have it: its line ends are written out or gone. Gives it
/// in lines again.
fn unescaped(text: &str) -> String {
    const MARK: &str = "-----";
    let text = text.replace("\\n", "\n");
    let mut out = String::with_capacity(text.len() + 64);
    // What lies between marks is by turns the name of a beginning or end, and what is in between.
    for (at, part) in text.split(MARK).enumerate() {
        if at % 2 == 1 {
            out.push_str(MARK);
            out.push_str(part);
            out.push_str(MARK);
            out.push('\n');
        } else {
            for line in part.split_whitespace() {
                out.push_str(line);
                out.push('\n');
            }
        }
    }
    out
}

fn not_pem(setting: &str, value: &str, kind: &str) -> ConfigError {
    let convert = match kind {
        "keystore" => "openssl pkcs12 -in STORE.p12 -nodes -out BROKER.pem",
        _ => "openssl pkcs12 -in STORE.p12 -nokeys -out TRUST.pem",
    };
    ConfigError::InvalidValue {
        name: setting.to_owned(),
        value: value.to_owned(),
        reason: format!(
            "Java's key stores are not read: make it PEM (`{convert}`, after `keytool -importkeystore -deststoretype pkcs12` for a JKS one) and set {setting}=PEM"
        ),
    }
}
