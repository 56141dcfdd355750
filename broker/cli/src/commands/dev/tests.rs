//! The clusters of `dev`: what each broker is told, and what becomes of a data directory.

use std::sync::Arc;

use tidemark_config::BrokerSettings;
use tidemark_env::disk::MemDisk;

use super::*;

fn plan(brokers: u8) -> Plan {
    let voter = |n: u8| Voter {
        port: 19_000 + u16::from(n),
        directory_id: format::random_uuid().to_string(),
    };
    Plan {
        cluster_id: format::random_uuid().to_string(),
        brokers,
        voters: (1..=voters_of(brokers)).map(voter).collect(),
    }
}

fn settings(plan: &Plan, listen: &str, sets: &[(&str, &str)]) -> Vec<BrokerSettings> {
    let sets: Vec<(String, String)> = sets
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    let each = plan.settings(Path::new("/data"), listen, &sets).unwrap();
    each.iter()
        .map(|map| format::resolve(map).unwrap())
        .collect()
}

#[test]
fn each_of_five_brokers_has_its_own_directory_and_ports_and_three_vote() {
    let plan = plan(5);
    let all = settings(
        &plan,
        "127.0.0.1:9092",
        &[("http.listen", "127.0.0.1:8080")],
    );
    for (n, settings) in (1_u16..).zip(&all) {
        assert_eq!(settings.node_id, i32::from(n));
        assert_eq!(settings.log_dirs, [format!("/data/broker-{n}")]);
        assert_eq!(settings.listeners.len(), 1);
        assert_eq!(settings.listeners[0].port, 9091 + n);
        let http = format!("127.0.0.1:{}", 8079 + n);
        assert_eq!(settings.http_listen, Some(http));
        assert_eq!(settings.roles.controller, n <= 3);
        let listener = settings.quorum.listener.as_ref();
        assert_eq!(listener.map(|at| at.port), (n <= 3).then_some(19_000 + n));
        assert_eq!(settings.quorum.bootstrap_servers.len(), 3);
        assert_eq!(settings.default_replication_factor, 3);
    }
    assert_eq!(all.len(), 5);
    let two = settings(&self::plan(2), "[::1]:0", &[]);
    assert_eq!(two[1].default_replication_factor, 2);
    assert_eq!((two[0].listeners[0].port, two[1].listeners[0].port), (0, 0));
}

#[test]
fn what_cannot_be_the_same_for_all_is_not_set_for_all() {
    let set = [("node.id".to_owned(), "3".to_owned())];
    let refused = plan(3).settings(Path::new("/data"), "127.0.0.1:9092", &set);
    assert!(refused.unwrap_err().message.contains("node.id"));
    for listen in ["127.0.0.1", "127.0.0.1:65534", "127.0.0.1:x"] {
        let refused = plan(3).settings(Path::new("/data"), listen, &[]);
        assert_eq!(refused.unwrap_err().exit, Exit::Usage, "{listen}");
    }
}

#[test]
fn a_cluster_is_formatted_as_one_and_found_again() {
    let disk: Arc<dyn Disk> = Arc::new(MemDisk::default());
    let data = Path::new("/data");
    assert_eq!(find(&*disk, data).unwrap(), Found::Nothing);
    let plan = plan(4);
    keep(&*disk, data, &plan).unwrap();
    assert_eq!(find(&*disk, data).unwrap(), Found::Cluster(plan.clone()));
    let all = settings(&plan, "127.0.0.1:0", &[]);
    for (node_id, settings) in plan.nodes().zip(&all) {
        let (cluster_id, voters) = plan.identity(node_id).unwrap();
        let made = tidemark_server::format(
            &disk,
            settings,
            Some(cluster_id),
            &voters,
            format::random_uuid,
        );
        let made = made.unwrap();
        assert_eq!(made.cluster_id.to_string(), plan.cluster_id);
        assert_eq!(made.quorum.is_some(), node_id <= 3);
        if let Some(voter) = plan.voters.get(usize::from(node_id) - 1) {
            assert_eq!(made.directories[0].1.to_string(), voter.directory_id);
        }
        assert_eq!(
            tidemark_server::read_formatted(&disk, settings)
                .unwrap()
                .unwrap(),
            made
        );
    }
}

#[test]
fn a_data_directory_keeps_its_brokers_and_may_get_more() {
    let data = Path::new("/data");
    let three = plan(3);
    let cluster = || Found::Cluster(three.clone());
    assert_eq!(choose(Found::Nothing, None, data).unwrap(), Run::Single);
    assert_eq!(choose(Found::Single, Some(1), data).unwrap(), Run::Single);
    assert_eq!(choose(Found::Nothing, Some(3), data).unwrap(), Run::New(3));
    assert_eq!(
        choose(cluster(), None, data).unwrap(),
        Run::Cluster(three.clone())
    );
    let more = choose(cluster(), Some(5), data).unwrap();
    let five = Plan {
        brokers: 5,
        ..three.clone()
    };
    assert_eq!(more, Run::Cluster(five.clone()));
    // Those that are added follow the quorum without a vote.
    assert_eq!(five.identity(4).unwrap().1, Voters::Others);
    for (found, asked, next) in [
        (Found::Single, 3, "--brokers 1"),
        (cluster(), 1, "--brokers 3"),
        (cluster(), 2, "--brokers 3"),
    ] {
        let failure = choose(found, Some(asked), data).unwrap_err();
        assert_eq!(failure.exit, Exit::Usage);
        assert!(failure.next.unwrap().contains(next), "{asked}");
    }
}

#[tokio::test]
async fn the_ports_of_a_new_quorum_differ_and_stay_free() {
    let plan = new_plan(9, 3).await.unwrap();
    let mut ports: Vec<u16> = plan.voters.iter().map(|voter| voter.port).collect();
    ports.sort_unstable();
    ports.dedup();
    assert_eq!(ports.len(), 3);
    let system = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap();
    let lowest: u16 = system.split_whitespace().next().unwrap().parse().unwrap();
    if lowest >= 32_768 {
        assert!(ports.iter().all(|port| *port < lowest), "{ports:?}");
    }
}

#[test]
fn a_file_that_is_no_cluster_of_ours_is_refused() {
    let disk = MemDisk::default();
    let data = Path::new("/data");
    keep(&disk, data, &plan(3)).unwrap();
    for text in ["{}", "{\"cluster_id\":\"x\",\"brokers\":200,\"voters\":[]}"] {
        write_file_atomic(&disk, &data.join(FILE_NAME), text.as_bytes()).unwrap();
        assert!(find(&disk, data).unwrap_err().message.contains(FILE_NAME));
    }
}
