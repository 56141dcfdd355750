//! How librdkafka is told where brokers are, and whether they speak TLS.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use rdkafka::config::ClientConfig;

use crate::failure::{Failure, Result, while_doing};

/// Between the authority's file and the addresses, where brokers speak TLS.
const BY: char = '@';

/// Addresses of brokers that speak TLS, with a certificate that this authority signed.
pub fn by_tls(authority: &Path, addresses: &str) -> String {
    format!("{}{BY}{addresses}", authority.display())
}

/// The addresses alone.
pub fn addresses(bootstrap: &str) -> &str {
    bootstrap.rsplit(BY).next().unwrap_or(bootstrap)
}

/// A client of brokers at `host:port,…`, or as [`by_tls`] writes them.
pub fn config(bootstrap: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", addresses(bootstrap))
        .set("broker.address.family", "v4");
    if let Some((authority, _)) = bootstrap.rsplit_once(BY) {
        config
            .set("security.protocol", "ssl")
            .set("ssl.ca.location", authority);
    }
    config
}

/// Makes a certificate of P-256 for 127.0.0.1, that is its own authority, with its key in one file.
/// Both sides show it, and speak TLS 1.3 with AES-256-GCM, which each prefers.
pub fn certificate(folder: &Path) -> Result<PathBuf> {
    let (key, certificate, both) = (
        folder.join("tls.key"),
        folder.join("tls.crt"),
        folder.join("tls.pem"),
    );
    let done = Command::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2", "-subj", "/CN=bench"])
        .args(["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
        .args(["-addext", "subjectAltName=IP:127.0.0.1", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .output()
        .map_err(while_doing("making a certificate with openssl"))?;
    if !done.status.success() {
        let why = String::from_utf8_lossy(&done.stderr).into_owned();
        return Err(Failure::Unreachable(format!("making a certificate: {why}")));
    }
    let read = |path: &Path| fs::read_to_string(path).map_err(while_doing("reading a certificate"));
    let text = read(&key)? + &read(&certificate)?;
    fs::write(&both, text).map_err(while_doing("writing a certificate"))?;
    Ok(both)
}

/// What both sides are told to speak TLS with that file.
pub fn settings(both: &Path) -> Vec<String> {
    let both = both.display();
    vec![
        "listener.security.protocol.map=PLAINTEXT:SSL,CONTROLLER:PLAINTEXT".to_owned(),
        "ssl.keystore.type=PEM".to_owned(),
        format!("ssl.keystore.location={both}"),
        "ssl.truststore.type=PEM".to_owned(),
        format!("ssl.truststore.location={both}"),
        "ssl.enabled.protocols=TLSv1.3".to_owned(),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_found_with_and_without_tls() {
        let plain = "127.0.0.1:1,127.0.0.1:2";
        assert_eq!(addresses(plain), plain);
        assert_eq!(config(plain).get("security.protocol"), None);
        let private = by_tls(Path::new("/a@b/tls.crt"), plain);
        assert_eq!(addresses(&private), plain);
        let config = config(&private);
        assert_eq!(config.get("ssl.ca.location"), Some("/a@b/tls.crt"));
        assert_eq!(config.get("bootstrap.servers"), Some(plain));
    }
}
