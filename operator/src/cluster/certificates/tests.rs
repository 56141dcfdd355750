//! Secrets: what is written is read again, and what others give is looked at before brokers have it.

use super::*;

const NOW_MS: i64 = 1_800_000_000_000;
const DAY_MS: i64 = 86_400_000;

fn secret(files: &[(&str, &str)]) -> Secret {
    let data = files.iter().map(|(name, text)| {
        let bytes = ByteString(text.as_bytes().to_vec());
        ((*name).to_owned(), bytes)
    });
    Secret {
        data: Some(data.collect()),
        ..Secret::default()
    }
}

#[test]
fn authorities_are_read_as_they_were_written() {
    let document = json!({
        "apiVersion": "tidemark.dev/v1alpha1", "kind": "Cluster",
        "metadata": {"name": "orders", "namespace": "shop", "uid": "u-1"},
        "spec": {"pools": []},
    });
    let cluster: Cluster = serde_json::from_value(document).expect("a cluster");
    let pair = || Pair::authority("orders", NOW_MS, DAY_MS).expect("made");
    let all = Authorities {
        current: Some(pair()),
        next: Some((pair(), NOW_MS)),
        before: pair().certificate,
        asked: Some("again".to_owned()),
    };
    for authorities in [all, Authorities::default()] {
        let written = authority_secret(&cluster, &authorities);
        let read: Secret = serde_json::from_value(written).expect("a Secret");
        assert_eq!(read_authorities(&read), authorities);
    }
}

#[test]
fn what_brokers_could_not_use_is_refused_with_its_reason() {
    let authority = Pair::authority("acme", NOW_MS, 30 * DAY_MS).expect("made");
    let hosts = BTreeSet::from(["kafka.acme.com".to_owned()]);
    let issue = || {
        authority
            .issue(("acme", "kafka"), &hosts, NOW_MS, DAY_MS)
            .expect("signed")
    };
    let (one, other) = (issue(), issue());
    let good = secret(&[("tls.crt", &one.certificate), ("tls.key", &one.key)]);
    assert_eq!(pair(&good, NOW_MS), Ok(one.file()));
    let refused = |secret: &Secret, now_ms| pair(secret, now_ms).expect_err("refused");
    let text = refused(&good, NOW_MS + 2 * DAY_MS);
    assert!(text.starts_with("tls.crt ended at 2027-"), "{text}");
    let text = refused(&secret(&[("tls.crt", &one.certificate)]), NOW_MS);
    assert_eq!(text, "it has no tls.key");
    let mixed = secret(&[("tls.crt", &one.certificate), ("tls.key", &other.key)]);
    let text = refused(&mixed, NOW_MS);
    assert!(text.contains("not the certificate's"), "{text}");
    assert!(authorities(&secret(&[("ca.crt", "x")])).is_err());
    assert!(authorities(&secret(&[("ca.crt", &authority.certificate)])).is_ok());
}

#[test]
fn what_is_wrong_with_many_secrets_is_told_once() {
    let listener = |name: &str| serde_json::from_value(json!({"name": name, "port": 9093}));
    let (apps, partners) = (listener("apps").unwrap(), listener("partners").unwrap());
    let mut given = Given::default();
    for secret in ["orders-0-apps-tls", "orders-1-apps-tls"] {
        given.problem(&apps, Some(secret.to_owned()), "it is not there".to_owned());
    }
    for _ in 0..2 {
        given.problem(
            &partners,
            Some("ca".to_owned()),
            "it has no ca.crt".to_owned(),
        );
        given.problem(&partners, None, "there is no kind Certificate".to_owned());
    }
    let told = [
        "listener apps: Secret orders-0-apps-tls, orders-1-apps-tls: it is not there",
        "listener partners: Secret ca: it has no ca.crt",
        "listener partners: there is no kind Certificate",
    ];
    assert_eq!(given.told(), told);
}
