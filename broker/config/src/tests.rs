//! Tests of the table, of its bounds, of precedence and of the reference.
#![expect(
    clippy::disallowed_methods,
    reason = "the reference is a file of the repository, not a disk of the broker"
)]

use std::path::Path;

use super::alter::{Change, Operation, Target, apply, difference, replace};
use super::*;

fn map(pairs: &[(&str, &str)]) -> ConfigMap {
    pairs
        .iter()
        .map(|(k, v)| ((*k).to_owned(), (*v).to_owned()))
        .collect()
}

static EMPTY: ConfigMap = ConfigMap::new();

fn fixed(fixed: &ConfigMap) -> BrokerLayers<'_> {
    BrokerLayers {
        dynamic: &EMPTY,
        dynamic_default: &EMPTY,
        fixed,
    }
}

fn message(scope: Scope, name: &str, value: &str) -> String {
    check(scope, name, value).unwrap_err().to_string()
}

#[test]
fn every_row_of_the_tables_parses_and_its_default_is_valid() {
    for (scope, at_least) in [(Scope::Topic, 33), (Scope::Group, 17), (Scope::Broker, 340)] {
        assert!(settings(scope).len() >= at_least, "{scope}");
        for s in settings(scope) {
            assert!(!s.doc.is_empty(), "{} has no documentation", s.name);
            if let Some(default) = s.default {
                s.check(default)
                    .unwrap_or_else(|e| panic!("default of {}: {e}", s.name));
            }
        }
    }
}

#[test]
fn names_in_the_exceptions_exist() {
    for d in exceptions::DEVIATIONS {
        assert!(setting(d.scope, d.name).is_ok(), "{}", d.name);
    }
    for r in exceptions::REFUSED {
        let s = setting(r.scope(), r.name()).unwrap();
        assert!(matches!(s.status, Status::Refused(_)), "{}", s.name);
    }
    for name in exceptions::broker_lists() {
        assert!(setting(Scope::Broker, name).is_ok(), "{name}");
    }
    for name in exceptions::topic_kept() {
        assert!(setting(Scope::Topic, name).is_ok(), "{name}");
    }
    for s in settings(Scope::Topic) {
        for (name, _) in exceptions::topic_synonyms(s.name) {
            let broker = setting(Scope::Broker, name).unwrap();
            if *name == s.name || exceptions::topic_synonyms(s.name).len() == 1 {
                assert_eq!(broker.default, s.default, "{name} against {}", s.name);
            }
        }
    }
    for s in settings(Scope::Group) {
        let own = [
            "share.auto.offset.reset",
            "share.isolation.level",
            "share.renew.acknowledge.enable",
            "tidemark.reset",
        ];
        assert_eq!(
            exceptions::group_synonym(s.name).is_none(),
            own.contains(&s.name),
            "{}",
            s.name
        );
    }
}

#[test]
fn messages_are_those_of_kafka() {
    assert_eq!(
        message(Scope::Topic, "retention.ms", "-5"),
        "Invalid value -5 for configuration retention.ms: Value must be at least -1"
    );
    assert_eq!(
        message(Scope::Topic, "retention.ms", "week"),
        "Invalid value week for configuration retention.ms: Not a number of type LONG"
    );
    assert_eq!(
        message(Scope::Topic, "segment.bytes", "9999999999"),
        "Invalid value 9999999999 for configuration segment.bytes: Not a number of type INT"
    );
    assert_eq!(
        message(Scope::Topic, "preallocate", "yes"),
        "Invalid value yes for configuration preallocate: Expected value to be either true or false"
    );
    assert_eq!(
        message(Scope::Topic, "compression.type", "brotli"),
        "Invalid value brotli for configuration compression.type: String must be one of: uncompressed, zstd, lz4, snappy, gzip, producer"
    );
    assert_eq!(
        message(Scope::Topic, "min.cleanable.dirty.ratio", "1.5"),
        "Invalid value 1.5 for configuration min.cleanable.dirty.ratio: Value must be no more than 1"
    );
    assert_eq!(
        message(Scope::Topic, "retension.ms", "5"),
        "Unknown topic config name: retension.ms; did you mean retention.ms?"
    );
    assert_eq!(
        message(Scope::Topic, "zzz", "5"),
        "Unknown topic config name: zzz"
    );
}

#[test]
fn bounds_of_every_notation_hold() {
    for (name, good, bad) in [
        (
            "compression.gzip.level",
            &["-1", "1", "9"][..],
            &["0", "10", "-2"][..],
        ),
        (
            "cleanup.policy",
            &["compact", "delete", "compact, delete", ""],
            &["compact,compact", "purge", "delete,"],
        ),
        (
            "follower.replication.throttled.replicas",
            &["*", "0:1,1:2", ""],
            &["0", "*,0:1", "a:b"],
        ),
        (
            "min.cleanable.dirty.ratio",
            &["0", "0.5", "1"],
            &["-0.1", "NaN", "inf"],
        ),
        ("preallocate", &["true", "FALSE", " true "], &["1", ""]),
    ] {
        for value in good {
            assert!(check(Scope::Topic, name, value).is_ok(), "{name}={value}");
        }
        for value in bad {
            assert!(check(Scope::Topic, name, value).is_err(), "{name}={value}");
        }
    }
    for good in [
        "latest",
        "by_duration:P1D",
        "by_duration:PT1.5S",
        "by_duration:P2DT3H4M",
    ] {
        assert!(
            check(Scope::Group, "share.auto.offset.reset", good).is_ok(),
            "{good}"
        );
    }
    for bad in [
        "",
        "by_duration:",
        "by_duration:P",
        "by_duration:PT",
        "by_duration:P1H",
        "by_duration:PT1.5H",
        "by_duration:PT1M1H",
        "by_duration:P-1D",
    ] {
        assert!(
            check(Scope::Group, "share.auto.offset.reset", bad).is_err(),
            "{bad}"
        );
    }
    assert!(check(Scope::Broker, "group.consumer.migration.policy", "Upgrade").is_ok());
}

#[test]
fn what_would_lose_data_or_protection_is_refused() {
    for (name, bad) in [
        ("authorizer.class.name", "org.example.Authorizer"),
        ("config.providers", "file"),
    ] {
        assert!(
            matches!(
                check(Scope::Broker, name, bad),
                Err(ConfigError::Refused { .. })
            ),
            "{name}"
        );
    }
}

#[test]
fn broker_values_reach_topics_by_layer_then_by_spelling() {
    let hours = map(&[
        ("log.retention.hours", "2"),
        ("log.retention.minutes", "90"),
    ]);
    let resolve = |topic: &ConfigMap, layers| TopicSettings::resolve(topic, layers).unwrap();
    assert_eq!(
        resolve(&EMPTY, fixed(&EMPTY)).retention_ms,
        Some(604_800_000)
    );
    assert_eq!(resolve(&EMPTY, fixed(&hours)).retention_ms, Some(5_400_000));
    let dynamic_default = map(&[("log.retention.ms", "1000")]);
    let layers = BrokerLayers {
        dynamic: &EMPTY,
        dynamic_default: &dynamic_default,
        fixed: &hours,
    };
    assert_eq!(resolve(&EMPTY, layers).retention_ms, Some(1000));
    assert_eq!(
        resolve(&map(&[("retention.ms", "-1")]), layers).retention_ms,
        None
    );
    let forever = map(&[("log.retention.hours", "-1")]);
    assert_eq!(resolve(&EMPTY, fixed(&forever)).retention_ms, None);

    let described = describe_topic(&map(&[("retention.ms", "7")]), layers);
    let retention = described.iter().find(|d| d.name == "retention.ms").unwrap();
    assert_eq!(retention.value.as_deref(), Some("7"));
    let places: Vec<(&str, &str, i8)> = retention
        .synonyms
        .iter()
        .map(|s| (s.name, s.value.as_deref().unwrap(), s.source.code()))
        .collect();
    assert_eq!(
        places,
        [
            ("retention.ms", "7", 1),
            ("log.retention.ms", "1000", 3),
            ("log.retention.minutes", "90", 4),
            ("log.retention.hours", "2", 4),
            ("log.retention.hours", "168", 5),
        ]
    );
    let described = describe_topic(&EMPTY, fixed(&hours));
    let retention = described.iter().find(|d| d.name == "retention.ms").unwrap();
    assert_eq!(
        (retention.value.as_deref(), retention.source),
        (Some("5400000"), Source::StaticBroker)
    );
}

#[test]
fn min_isr_is_two_capped_by_the_replicas() {
    let settings = TopicSettings::default();
    assert_eq!(settings.effective_min_isr(1), 1);
    assert_eq!(settings.effective_min_isr(2), 2);
    assert_eq!(settings.effective_min_isr(5), 2);
}

#[test]
fn describe_hides_passwords_and_marks_what_has_no_effect() {
    let file = map(&[("ssl.key.password", "hunter2"), ("node.id", "3")]);
    let described = describe_broker(fixed(&file));
    let find = |name: &str| described.iter().find(|d| d.name == name).unwrap();
    let password = find("ssl.key.password");
    assert!(password.sensitive && password.value.is_none());
    assert_eq!(password.synonyms[0].value, None);
    assert!(!password.honoured && password.documentation.starts_with("Not honoured yet"));
    assert!(find("node.id").read_only && find("node.id").honoured);
    assert!(!find("message.max.bytes").read_only);
    assert!(!format!("{described:?}").contains("hunter2"));
    let warned: Vec<&str> = unhonoured(fixed(&file)).iter().map(|s| s.name).collect();
    assert_eq!(warned, ["ssl.key.password"]);
}

#[test]
fn group_settings_fall_back_to_the_brokers() {
    let file = map(&[("group.consumer.session.timeout.ms", "50000")]);
    let of = |group: &ConfigMap| GroupSettings::resolve(group, fixed(&file)).unwrap();
    assert_eq!(of(&EMPTY).consumer_session_timeout_ms, 50_000);
    let own = map(&[("consumer.session.timeout.ms", "46000")]);
    assert_eq!(of(&own).consumer_session_timeout_ms, 46_000);
    let described = describe_group(&own, fixed(&file));
    let session = described
        .iter()
        .find(|d| d.name == "consumer.session.timeout.ms")
        .unwrap();
    assert_eq!(session.source.code(), 8);
}

fn change(name: &str, operation: Operation, value: Option<&str>) -> Change {
    Change {
        name: name.to_owned(),
        operation,
        value: value.map(str::to_owned),
    }
}

#[test]
fn incremental_changes_apply_as_a_whole() {
    let before = map(&[("retention.ms", "5"), ("segment.bytes", "2097152")]);
    let after = apply(
        Target::Topic,
        &before,
        &[
            change("retention.ms", Operation::Delete, None),
            change("max.message.bytes", Operation::Set, Some("99")),
            change("cleanup.policy", Operation::Append, Some("compact")),
        ],
    )
    .unwrap();
    assert_eq!(
        after,
        map(&[
            ("cleanup.policy", "delete,compact"),
            ("max.message.bytes", "99"),
            ("segment.bytes", "2097152")
        ])
    );
    let removed = apply(
        Target::Topic,
        &after,
        &[change(
            "cleanup.policy",
            Operation::Subtract,
            Some("delete"),
        )],
    )
    .unwrap();
    assert_eq!(removed["cleanup.policy"], "compact");
    assert_eq!(
        difference(&before, &after),
        [
            (
                "cleanup.policy".to_owned(),
                Some("delete,compact".to_owned())
            ),
            ("max.message.bytes".to_owned(), Some("99".to_owned())),
            ("retention.ms".to_owned(), None),
        ]
    );
    for bad in [
        change("retention.ms", Operation::Append, Some("5")),
        change("retention.ms", Operation::Set, None),
        change("retention.ms", Operation::Set, Some("-2")),
        change("no.such", Operation::Delete, None),
    ] {
        assert!(
            apply(Target::Topic, &before, std::slice::from_ref(&bad)).is_err(),
            "{bad:?}"
        );
    }
    let twice = [
        change("retention.ms", Operation::Set, Some("5")),
        change("retention.ms", Operation::Delete, None),
    ];
    assert!(apply(Target::Topic, &before, &twice).is_err());
    assert_eq!(
        replace(
            Target::Topic,
            &[("retention.ms".to_owned(), Some("9".to_owned()))]
        )
        .unwrap(),
        map(&[("retention.ms", "9")])
    );
}

#[test]
fn broker_settings_that_need_a_restart_are_not_altered() {
    let set = |target, name: &str, value: &str| {
        apply(target, &EMPTY, &[change(name, Operation::Set, Some(value))])
    };
    assert!(set(Target::AllBrokers, "log.retention.ms", "5").is_ok());
    assert!(set(Target::Broker, "message.max.bytes", "5").is_ok());
    for name in ["log.retention.hours", "num.partitions", "node.id"] {
        assert_eq!(
            set(Target::Broker, name, "5"),
            Err(ConfigError::ReadOnly(name.to_owned()))
        );
    }
    assert!(set(Target::AllBrokers, "cordoned.log.dirs", "/d").is_err());
    assert!(set(Target::AllBrokers, "leader.replication.throttled.rate", "5").is_ok());
}

#[test]
fn a_broker_resolves_its_defaults_and_its_listeners() {
    let settings = BrokerSettings::resolve(fixed(&EMPTY)).unwrap();
    assert_eq!(settings.node_id, 0);
    assert_eq!(settings.log_dirs, ["/var/lib/tidemark"]);
    assert_eq!(settings.listeners[0].to_string(), "PLAINTEXT://:9092");
    assert_eq!(settings.advertised_listeners, settings.listeners);
    assert_eq!(settings.offsets_retention_ms, 604_800_000);
    assert_eq!(settings.socket_send_buffer_bytes, Some(262_144));

    let file = map(&[
        ("listeners", "inside://[::1]:9092,PLAINTEXT://0.0.0.0:9093"),
        (
            "listener.security.protocol.map",
            "INSIDE:PLAINTEXT,PLAINTEXT:PLAINTEXT",
        ),
        ("advertised.listeners", "INSIDE://kafka.example:19092"),
        ("broker.id", "7"),
        ("log.dirs", "/a, /b"),
        ("socket.send.buffer.bytes", "-1"),
    ]);
    let settings = BrokerSettings::resolve(fixed(&file)).unwrap();
    assert_eq!(settings.socket_send_buffer_bytes, None);
    for bytes in ["0", "-2"] {
        let refused = BrokerSettings::resolve(fixed(&map(&[("socket.send.buffer.bytes", bytes)])));
        assert!(refused.is_err(), "{bytes}");
    }
    assert_eq!(settings.node_id, 7);
    assert_eq!(settings.listeners[0].to_string(), "INSIDE://[::1]:9092");
    assert_eq!(settings.listeners[0].host, "::1");
    assert_eq!(settings.advertised_listeners[0].port, 19092);
    assert_eq!(settings.log_dirs, ["/a", "/b"]);
}

#[test]
fn a_broker_refuses_contradictions_and_what_it_cannot_serve() {
    for pairs in [
        &[("listeners", "SSL://:9093")][..],
        &[("listeners", "OTHER://:9093")],
        &[("listeners", "PLAINTEXT://:9093,plaintext://:9094")],
        &[("listeners", "PLAINTEXT://:99999")],
        &[("listeners", "PLAINTEXT://::1:9092")],
        &[("listeners", "localhost:9092")],
        &[("listeners", "")],
        &[("advertised.listeners", "SSL://a:1")],
        &[("listeners", "SASL_SSL://:9093")],
        &[
            ("listeners", "SSL://:9093"),
            ("ssl.keystore.location", "/k.jks"),
        ],
        &[
            ("listeners", "SSL://:9093"),
            ("ssl.keystore.type", "PEM"),
            ("ssl.keystore.location", "/k.pem"),
            ("ssl.enabled.protocols", "TLSv1.1"),
        ],
        &[("security.inter.broker.protocol", "SSL")],
        &[("log.dirs", "/a,/a")],
        &[("log.dirs", ""), ("log.dir", "")],
        &[("node.id", "1"), ("broker.id", "2")],
        &[("node.id", "-1")],
        &[("queued.max.request.bytes", "1000")],
        &[
            ("group.min.session.timeout.ms", "9"),
            ("group.max.session.timeout.ms", "8"),
        ],
        &[("default.replication.factor", "0")],
        &[("default.replication.factor", "40000")],
        &[("no.such.setting", "1")],
        &[("authorizer.class.name", "x")],
    ] {
        let file = map(pairs);
        assert!(BrokerSettings::resolve(fixed(&file)).is_err(), "{pairs:?}");
    }
}

#[test]
fn a_single_broker_is_a_quorum_of_one_without_a_listener() {
    let settings = BrokerSettings::resolve(fixed(&EMPTY)).unwrap();
    assert!(settings.roles.broker && settings.roles.controller);
    assert_eq!(settings.quorum.listener, None);
    assert_eq!(settings.quorum.bootstrap_servers, Vec::<String>::new());
    assert_eq!(settings.quorum.log_dir, settings.log_dirs[0]);
}

#[test]
fn a_member_of_a_cluster_knows_its_quorum() {
    let file = map(&[
        ("listeners", "PLAINTEXT://10.0.0.1:9092,controller://:9093"),
        (
            "advertised.listeners",
            "PLAINTEXT://a:9092,CONTROLLER://a:9093",
        ),
        ("controller.listener.names", "CONTROLLER"),
        ("controller.quorum.voters", "1@a:9093,2@b:9093,3@c:9093"),
        ("metadata.log.dir", "/meta"),
    ]);
    let settings = BrokerSettings::resolve(fixed(&file)).unwrap();
    let names = |all: &[Listener]| -> Vec<String> { all.iter().map(ToString::to_string).collect() };
    assert_eq!(names(&settings.listeners), ["PLAINTEXT://10.0.0.1:9092"]);
    assert_eq!(
        names(&settings.advertised_listeners),
        ["PLAINTEXT://a:9092"]
    );
    let quorum = settings.quorum;
    assert_eq!(quorum.listener.unwrap().to_string(), "CONTROLLER://:9093");
    assert_eq!(
        quorum.advertised.unwrap().to_string(),
        "CONTROLLER://a:9093"
    );
    assert_eq!(quorum.bootstrap_servers, ["a:9093", "b:9093", "c:9093"]);
    assert_eq!(quorum.log_dir, "/meta");
}

#[test]
fn roles_and_listeners_have_to_fit() {
    let three = ("controller.quorum.bootstrap.servers", "a:1,b:1,c:1");
    let controllers = ("controller.listener.names", "CONTROLLER");
    for pairs in [
        &[("process.roles", "broker")][..],
        &[("process.roles", "observer")],
        &[three],
        &[controllers],
        &[controllers, ("listeners", "CONTROLLER://:9093")],
        &[("process.roles", "controller"), three],
        &[("controller.quorum.bootstrap.servers", "a")],
        &[("broker.session.timeout.ms", "1000")],
        &[("controller.quorum.election.timeout.ms", "99")],
        &[("replica.fetch.wait.max.ms", "-1")],
        &[("replica.lag.time.max.ms", "499")],
        &[("replica.socket.timeout.ms", "500")],
        &[("socket.connection.setup.timeout.ms", "0")],
        &[("replica.selector.class", "org.example.Selector")],
        &[("leader.imbalance.per.broker.percentage", "101")],
    ] {
        let file = map(pairs);
        assert!(BrokerSettings::resolve(fixed(&file)).is_err(), "{pairs:?}");
    }
    for pairs in [
        &[("process.roles", "broker"), three][..],
        &[
            ("process.roles", "controller"),
            three,
            controllers,
            ("listeners", "CONTROLLER://:9093"),
        ],
    ] {
        let file = map(pairs);
        let settings = BrokerSettings::resolve(fixed(&file)).unwrap();
        assert_ne!(settings.roles.broker, settings.roles.controller);
    }
}

#[test]
fn the_settings_reference_is_current() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/settings.md");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, reference()).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == reference(),
        "docs/settings.md is stale: run UPDATE=1 cargo test -p tidemark-config and commit it"
    );
}

#[test]
fn throttled_replicas_are_named_by_partition_and_broker() {
    let topic = map(&[
        ("leader.replication.throttled.replicas", "*"),
        ("follower.replication.throttled.replicas", "0:1, 1:2"),
    ]);
    let settings = TopicSettings::resolve(&topic, fixed(&EMPTY)).unwrap();
    assert!(settings.leader_throttled_replicas.contains(7, 7));
    let throttled = &settings.follower_throttled_replicas;
    assert!(throttled.contains(0, 1) && throttled.contains(1, 2));
    assert!(!throttled.contains(1, 1) && !throttled.contains(0, 2));
    let unset = TopicSettings::default();
    assert!(!unset.leader_throttled_replicas.contains(0, 0));
}

#[test]
fn a_tiered_topic_needs_a_bucket() {
    let topic = map(&[("remote.storage.enable", "true")]);
    let without = map(&[]);
    let refused = TopicSettings::resolve(&topic, fixed(&without)).unwrap_err();
    assert!(refused.to_string().contains("tier.url"), "{refused}");
    let with = map(&[("tier.url", "s3://bucket/prefix")]);
    let settings = TopicSettings::resolve(&topic, fixed(&with)).unwrap();
    assert!(settings.remote_storage_enable);
    let broker = BrokerSettings::resolve(fixed(&with)).unwrap();
    assert_eq!(broker.tier.unwrap().url, "s3://bucket/prefix");
    assert!(
        BrokerSettings::resolve(fixed(&without))
            .unwrap()
            .tier
            .is_none()
    );
}

#[test]
fn a_listener_has_tls_settings_of_its_own_before_those_of_all() {
    let file = map(&[
        ("listeners", "INSIDE://:9091,OUTSIDE://:9092"),
        ("listener.security.protocol.map", "INSIDE:SSL,OUTSIDE:SSL"),
        ("security.inter.broker.protocol", "SSL"),
        ("ssl.keystore.type", "PEM"),
        ("ssl.keystore.location", "/all.pem"),
        ("ssl.client.auth", "required"),
        ("ssl.endpoint.identification.algorithm", ""),
        ("listener.name.outside.ssl.client.auth", "none"),
        (
            "listener.name.outside.ssl.keystore.location",
            "/outside.pem",
        ),
    ]);
    let settings = BrokerSettings::resolve(fixed(&file)).unwrap();
    assert_eq!(settings.inter_broker_listener, "INSIDE");
    let (inside, outside) = (&settings.tls["INSIDE"], &settings.tls["OUTSIDE"]);
    assert_eq!(inside.client_auth, ClientAuth::Required);
    assert_eq!(outside.client_auth, ClientAuth::None);
    assert_eq!(inside.key, Some(Pem::File("/all.pem".to_owned())));
    assert_eq!(outside.key, Some(Pem::File("/outside.pem".to_owned())));
    assert!(!inside.verify_host_name);
    let text = message(Scope::Broker, "listener.name.x.ssl.client.auth", "maybe");
    assert!(text.contains("required"), "{text}");
    assert!(check(Scope::Broker, "listener.name.x.node.id", "1").is_err());
}

#[test]
fn a_certificate_in_one_line_is_one_in_lines() {
    let line = "-----BEGIN CERTIFICATE----- AAAA BBBB -----END CERTIFICATE-----\\n-----BEGIN CERTIFICATE-----\\nCC\\n-----END CERTIFICATE-----";
    let lines = "-----BEGIN CERTIFICATE-----\nAAAA\nBBBB\n-----END CERTIFICATE-----\n-----BEGIN CERTIFICATE-----\nCC\n-----END CERTIFICATE-----\n";
    let properties = map(&[
        ("security.protocol", "SSL"),
        ("ssl.truststore.type", "PEM"),
        ("ssl.truststore.certificates", line),
    ]);
    let settings = tls::of_client(&properties).unwrap();
    assert_eq!(settings.trusted, Some(Pem::Text(lines.to_owned())));
    assert!(settings.verify_host_name);
    assert!(!format!("{settings:?}").contains("AAAA"));
}
