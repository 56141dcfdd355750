//! The command that formats, on disks of a test.

use super::formation::format_by;
use super::*;

#[test]
fn voters_are_read_as_kafka_writes_them() {
    let id = random_uuid();
    let voter = parse_voter(&format!("3@[::1]:9093:{id}")).unwrap();
    assert_eq!((voter.node_id, voter.address.as_str()), (3, "[::1]:9093"));
    assert_eq!(voter.directory_id, id);
    let rest = random_uuid();
    for bad in [
        "3".to_owned(),
        "3@host:9093".to_owned(),
        format!("x@host:9093:{rest}"),
        format!("-3@host:9093:{rest}"),
        format!("3@host:0:{rest}"),
        format!("3@:9093:{rest}"),
    ] {
        assert!(
            parse_voter(&bad).unwrap_err().contains("NODE@HOST"),
            "{bad}"
        );
    }
    assert_eq!(
        others_voters(&[voter]),
        format!("--initial-voters 3@[::1]:9093:{id}")
    );
}

#[test]
fn ids_are_ids_and_none_of_kafkas_own() {
    let id = random_uuid();
    assert_eq!(parse_id(&id.to_string()), Ok(id));
    for bad in [
        "",
        "abc",
        "AAAAAAAAAAAAAAAAAAAAAA",
        "AAAAAAAAAAAAAAAAAAAAAQ",
    ] {
        assert!(
            parse_id(bad).unwrap_err().contains("--random-uuid"),
            "{bad}"
        );
    }
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a test writes a file")]
async fn a_formation_formats_once_and_never_a_lost_disk() {
    let parent = tempfile::tempdir().unwrap();
    let (cluster, directory) = (random_uuid(), random_uuid());
    let formation = |cluster: Uuid, may_format: bool| {
        let path = parent.path().join("formation.json");
        let voter = format!("0@localhost:9090:{directory}");
        let text = serde_json::json!({"clusterId": cluster.to_string(), "voters": [voter], "mayFormat": may_format});
        std::fs::write(&path, text.to_string()).unwrap();
        path
    };
    let settings = |folder: &str| {
        let dir = parent.path().join(folder).display().to_string();
        let map = [
            ("node.id", "0"),
            ("log.dirs", &dir),
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9090"),
            ("controller.listener.names", "CONTROLLER"),
            ("controller.quorum.bootstrap.servers", "localhost:9090"),
        ];
        let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
        resolve(&ConfigMap::from(map)).unwrap()
    };
    let first = format_by(&formation(cluster, true), &settings("a"), None)
        .await
        .unwrap();
    assert_eq!(first.cluster_id, cluster);
    assert_eq!(first.directories[0].1, directory);
    // Again, before and after the operator has seen it work.
    for may_format in [true, false] {
        let again = format_by(&formation(cluster, may_format), &settings("a"), None).await;
        assert_eq!(again.unwrap(), first);
    }
    let lost = format_by(&formation(cluster, false), &settings("b"), None).await;
    assert!(lost.unwrap_err().message.contains("its disk is lost"));
    let other = format_by(&formation(random_uuid(), true), &settings("a"), None).await;
    assert!(
        other
            .unwrap_err()
            .message
            .contains("the disk is of cluster")
    );
}

#[tokio::test]
#[allow(clippy::disallowed_methods, reason = "a test writes a file")]
async fn a_broker_that_is_to_vote_gets_the_quorums_directory_and_nothing_else() {
    let parent = tempfile::tempdir().unwrap();
    let cluster = random_uuid();
    let formation = |more: serde_json::Value| {
        let path = parent.path().join("formation.json");
        let mut text =
            serde_json::json!({"clusterId": cluster.to_string(), "voters": [], "mayFormat": false});
        for (key, value) in more.as_object().unwrap() {
            text[key] = value.clone();
        }
        std::fs::write(&path, text.to_string()).unwrap();
        path
    };
    let settings = |folder: &str, roles: &str| {
        let dir = parent.path().join(folder).display().to_string();
        let map = [
            ("node.id", "3"),
            ("process.roles", roles),
            ("log.dirs", &dir),
            ("listeners", "PLAINTEXT://:9092,CONTROLLER://:9090"),
            ("controller.listener.names", "CONTROLLER"),
            ("controller.quorum.bootstrap.servers", "localhost:9090"),
        ];
        let map = map.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let mut map = ConfigMap::from(map);
        if roles == "broker" {
            map.insert("listeners".to_owned(), "PLAINTEXT://:9092".to_owned());
        }
        resolve(&map).unwrap()
    };
    let new = formation(serde_json::json!({"mayFormat": true}));
    let broker = format_by(&new, &settings("a", "broker"), None)
        .await
        .unwrap();
    let voter = settings("a", "broker,controller");
    let lost = format_by(&formation(serde_json::json!({})), &voter, None).await;
    assert!(lost.unwrap_err().message.contains("its disk is lost"));
    let joins = formation(serde_json::json!({"mayJoinQuorum": true}));
    let joined = format_by(&joins, &voter, None).await.unwrap();
    assert_eq!(joined.directories, broker.directories, "it keeps its ids");
    assert_eq!(joined.quorum, Some(tidemark_server::quorum_dir(&voter)));
    // A disk that is empty is lost all the same.
    let empty = format_by(&joins, &settings("b", "broker,controller"), None).await;
    assert!(empty.unwrap_err().message.contains("its disk is lost"));
}

#[tokio::test]
async fn a_broker_in_an_unformatted_directory_says_what_to_type() {
    let parent = tempfile::tempdir().unwrap();
    let (file, data) = (Path::new("my broker.yaml"), parent.path().join("data"));
    let set = [("log.dirs".to_owned(), data.display().to_string())];
    let settings = resolve(&ConfigMap::from(set.clone())).unwrap();
    let failure = require_formatted(file, &set, &settings).await.unwrap_err();
    assert_eq!(failure.exit, Exit::Usage);
    assert_eq!(
        failure.message,
        format!("not formatted: {}", data.display())
    );
    let command = format!(
        "tidemark format --config 'my broker.yaml' --set log.dirs={}",
        data.display()
    );
    assert_eq!(failure.next, Some(command));
    let first = format_once(&settings, None, Voters::Standalone, None)
        .await
        .unwrap();
    require_formatted(file, &set, &settings).await.unwrap();
    let second = format_once(&settings, None, Voters::Standalone, None)
        .await
        .unwrap();
    assert_eq!(second, first);
}
