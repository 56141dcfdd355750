//! Both ends over a pipe, with certificates made on the spot.
#![allow(
    clippy::disallowed_methods,
    reason = "certificates are files outside of any data directory"
)]

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tidemark_config::{ClientAuth, Pem, TlsSettings, TlsVersion};
use tidemark_env::net::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{Client, Principal, Server, TlsError};

const PATIENCE: Duration = Duration::from_secs(10);

struct Authority {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
struct Issued {
    chain: String,
    key: String,
}

impl Authority {
    fn new(name: &str) -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        let issuer = Issuer::new(params, key);
        Authority { pem, issuer }
    }

    fn issue(&self, host: &str, change: impl FnOnce(&mut CertificateParams)) -> Issued {
        let mut params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, "acme, inc");
        params.distinguished_name.push(DnType::CommonName, host);
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Issued {
            chain: certificate.pem(),
            key: key.serialize_pem(),
        }
    }
}

fn settings(shown: Option<&Issued>, trusted: Option<&Authority>) -> TlsSettings {
    TlsSettings {
        certificate_chain: shown.map(|of| Pem::Text(of.chain.clone())),
        key: shown.map(|of| Pem::Text(of.key.clone())),
        trusted: trusted.map(|of| Pem::Text(of.pem.clone())),
        client_auth: ClientAuth::None,
        versions: vec![TlsVersion::V12, TlsVersion::V13],
        verify_host_name: true,
    }
}

/// What came of a handshake at both ends, after a byte went each way.
async fn handshake(
    server: &Server,
    client: &Client,
) -> (Result<Principal, TlsError>, Result<(), TlsError>) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let accepting = async {
        let (mut stream, principal) = server.accept(Stream::new(far), PATIENCE).await?;
        // In TLS 1.3 a client is done before the server has judged its certificate.
        drop(stream.write_all(b"a").await);
        drop(stream.flush().await);
        Ok(principal)
    };
    let connecting = async {
        let near = Stream::new(near);
        let mut stream = client.connect(near, "broker-1:9093", PATIENCE).await?;
        let mut byte = [0];
        match stream.read_exact(&mut byte).await {
            Ok(_) => Ok(()),
            Err(error) => Err(crate::explain::as_client(&error, "broker-1")),
        }
    };
    tokio::join!(accepting, connecting)
}

fn words<T>(result: Result<T, TlsError>) -> String {
    match result {
        Ok(_) => "it came about".to_owned(),
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn a_client_that_trusts_the_authority_is_let_in() {
    let authority = Authority::new("ca");
    let broker = authority.issue("broker-1", |_| {});
    let server = Server::load(settings(Some(&broker), None)).unwrap();
    for versions in [vec![TlsVersion::V12], vec![TlsVersion::V13]] {
        let mut of_client = settings(None, Some(&authority));
        of_client.versions = versions;
        let client = Client::load(of_client).unwrap();
        let (accepted, connected) = handshake(&server, &client).await;
        assert_eq!(accepted.unwrap(), Principal::anonymous());
        connected.unwrap();
    }
}

#[tokio::test]
async fn who_has_a_certificate_is_known_by_its_subject() {
    let authority = Authority::new("ca");
    let (broker, user) = (
        authority.issue("broker-1", |_| {}),
        authority.issue("billing", |_| {}),
    );
    let mut of_server = settings(Some(&broker), Some(&authority));
    of_server.client_auth = ClientAuth::Required;
    let server = Server::load(of_server).unwrap();
    let client = Client::load(settings(Some(&user), Some(&authority))).unwrap();
    let (accepted, connected) = handshake(&server, &client).await;
    let principal = accepted.unwrap().to_string();
    assert_eq!(principal, "User:CN=billing,O=acme\\, inc");
    connected.unwrap();

    let nobody = Client::load(settings(None, Some(&authority))).unwrap();
    let (accepted, connected) = handshake(&server, &nobody).await;
    let text = words(accepted);
    assert!(text.contains("shows no certificate"), "{text}");
    let text = words(connected);
    assert!(text.contains("asks for a certificate"), "{text}");

    let stranger = Authority::new("other").issue("billing", |_| {});
    let stranger = Client::load(settings(Some(&stranger), Some(&authority))).unwrap();
    let (accepted, _) = handshake(&server, &stranger).await;
    let text = words(accepted);
    assert!(text.contains("not in the trust store"), "{text}");
}

#[tokio::test]
async fn each_refusal_says_which_end_has_to_change_what() {
    let authority = Authority::new("ca");
    let expired = authority.issue("broker-1", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let elsewhere = authority.issue("broker-2", |_| {});
    let foreign = Authority::new("other").issue("broker-1", |_| {});
    for (shown, at_client, at_server) in [
        (
            &expired,
            "the broker's certificate has expired",
            "says that this end's certificate has expired; the certificate that this broker shows has expired",
        ),
        (&elsewhere, "is not for broker-1", "does not accept"),
        (&foreign, "not in the trust store", "does not trust"),
    ] {
        let server = Server::load(settings(Some(shown), None)).unwrap();
        let client = Client::load(settings(None, Some(&authority))).unwrap();
        let (accepted, connected) = handshake(&server, &client).await;
        let (accepted, connected) = (words(accepted), words(connected));
        assert!(connected.contains(at_client), "{connected}");
        assert!(accepted.contains(at_server), "{accepted}");
    }
}

#[tokio::test]
async fn a_client_that_goes_without_a_word_leaves_what_is_known_here() {
    let authority = Authority::new("ca");
    let expired = authority.issue("broker-1", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let good = authority.issue("broker-1", |_| {});
    for (shown, known) in [(&expired, true), (&good, false)] {
        let server = Server::load(settings(Some(shown), None)).unwrap();
        let (near, far) = tokio::io::duplex(64 * 1024);
        drop(near);
        let text = words(server.accept(Stream::new(far), PATIENCE).await);
        assert!(
            text.contains("may not speak TLS here, or not trust"),
            "{text}"
        );
        assert_eq!(
            text.ends_with("this broker shows has expired"),
            known,
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_client_is_told_until_when_it_lasts() {
    let authority = Authority::new("ca");
    let broker = authority.issue("broker-1", |params| {
        params.not_after = rcgen::date_time_ymd(2101, 1, 1);
    });
    let server = Server::load(settings(Some(&broker), None)).unwrap();
    let client = Client::load(settings(None, Some(&authority))).unwrap();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let (shown, _) = tokio::join!(
        client.shown_until(Stream::new(near), "broker-1:9093", PATIENCE),
        server.accept(Stream::new(far), PATIENCE)
    );
    assert_eq!(shown.unwrap(), Some(4_133_980_800));
}

#[tokio::test]
async fn the_name_need_not_fit_where_nobody_asks() {
    let authority = Authority::new("ca");
    let elsewhere = authority.issue("broker-2", |_| {});
    let server = Server::load(settings(Some(&elsewhere), None)).unwrap();
    let mut of_client = settings(None, Some(&authority));
    of_client.verify_host_name = false;
    let client = Client::load(of_client.clone()).unwrap();
    handshake(&server, &client).await.1.unwrap();
    // All else has to.
    let foreign = Authority::new("other").issue("broker-2", |_| {});
    let server = Server::load(settings(Some(&foreign), None)).unwrap();
    assert!(handshake(&server, &client).await.1.is_err());
}

#[tokio::test]
async fn plain_text_is_told_apart() {
    let authority = Authority::new("ca");
    let broker = authority.issue("broker-1", |_| {});
    let server = Server::load(settings(Some(&broker), None)).unwrap();
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(&[0, 0, 0, 20, 0, 18, 0, 3, 0, 0])
        .await
        .unwrap();
    let refused = server.accept(Stream::new(far), PATIENCE).await;
    let text = words(refused);
    assert!(text.contains("not TLS"), "{text}");
}

#[tokio::test]
async fn what_was_renewed_is_in_use_for_the_next_connection() {
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("broker.pem");
    let write = |of: &Issued| {
        std::fs::write(&path, format!("{}{}", of.chain, of.key)).unwrap();
    };
    write(&old.issue("broker-1", |_| {}));
    let mut of_server = settings(None, None);
    let file = Some(Pem::File(path.display().to_string()));
    (of_server.certificate_chain, of_server.key) = (file.clone(), file);
    let server = Server::load(of_server).unwrap();
    assert!(!server.reload().unwrap(), "nothing has changed");
    let of_new = Client::load(settings(None, Some(&new))).unwrap();
    assert!(handshake(&server, &of_new).await.1.is_err());

    let before = server.in_use();
    assert!(before.shown.is_some() && before.expires_at_s.is_some());
    assert_eq!(before.trusted, Vec::<String>::new());
    write(&new.issue("broker-1", |params| {
        params.serial_number = Some(vec![0, 0x1f, 0x0a].into());
    }));
    assert!(server.reload().unwrap());
    assert_eq!(server.in_use().shown.as_deref(), Some("1f0a"));
    assert_eq!(of_new.in_use().trusted.len(), 1);
    handshake(&server, &of_new).await.1.unwrap();

    // Half a file changes nothing.
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\n").unwrap();
    assert!(server.reload().is_err());
    handshake(&server, &of_new).await.1.unwrap();
}

#[test]
fn what_cannot_work_is_refused_when_it_is_loaded() {
    let authority = Authority::new("ca");
    let (one, other) = (authority.issue("a", |_| {}), authority.issue("b", |_| {}));
    let load = |change: &dyn Fn(&mut TlsSettings)| {
        let mut of_server = settings(Some(&one), None);
        change(&mut of_server);
        words(Server::load(of_server))
    };
    let text = load(&|of| of.key = Some(Pem::Text(other.key.clone())));
    assert!(text.contains("not the certificate's"), "{text}");
    let text = load(&|of| of.key = None);
    assert!(text.contains("private key is missing"), "{text}");
    let text = load(&|of| of.client_auth = ClientAuth::Required);
    assert!(text.contains("which authorities"), "{text}");
    let text = load(&|of| of.certificate_chain = Some(Pem::File("/no/such".to_owned())));
    assert!(text.contains("/no/such cannot be read"), "{text}");
    let text = load(&|of| {
        of.key = Some(Pem::Text(
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
                .to_owned(),
        ));
    });
    assert!(text.contains("encrypted"), "{text}");
}
