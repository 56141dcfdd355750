//! May brokers on this machine open enough files? The protocol does not say, so /proc is asked.

use std::io::Read;
use std::path::Path;

use tidemark_client::Broker;

use super::{Check, Finding, Patient};

/// Files of one replica that may be open at once: log, two indexes, and the next segment's.
const FILES_PER_REPLICA: u64 = 6;
/// What connections and the process itself need at least.
const FILES_BESIDE: u64 = 512;

/// Looks at the limits of every broker whose process is on this machine and ours to look at.
pub fn check(patient: &Patient<'_>) -> Check {
    let mut findings = Vec::new();
    let mut seen = Vec::new();
    for broker in patient.info.brokers.values() {
        let Some(limit) = local_limit(broker) else {
            continue;
        };
        seen.push(format!("broker {} may open {limit}", broker.id));
        let partitions = patient
            .info
            .topics
            .values()
            .flat_map(|t| t.partitions.values());
        let replicas = partitions
            .filter(|p| p.replicas.contains(&broker.id))
            .count();
        findings.extend(judge(broker.id, limit, replicas as u64));
    }
    let seen = match seen.is_empty() {
        true => {
            "not looked at: no broker of this cluster runs on this machine as this user".to_owned()
        }
        false => seen.join(", "),
    };
    Check::new("open files", seen, findings)
}

fn judge(broker: i32, limit: u64, replicas: u64) -> Option<Finding> {
    let needed = FILES_BESIDE + replicas * FILES_PER_REPLICA;
    (limit < needed).then(|| {
        Finding::new(
            format!(
                "broker {broker} may open {limit} files, its {replicas} replicas may need {needed}"
            ),
            "a broker out of file descriptors refuses connections and cannot roll its logs",
            format!(
                "restart it with more: ulimit -n {} (or LimitNOFILE= in its unit)",
                needed.next_power_of_two().max(65_536)
            ),
        )
    })
}

/// The soft limit of the process that listens where the broker says it is.
fn local_limit(broker: &Broker) -> Option<u64> {
    let port = u16::try_from(broker.port).ok()?;
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| read(Path::new(table)))
        .flat_map(|table| listening_inodes(&table, port))
        .collect();
    let loopback = broker.host == "localhost"
        || broker
            .host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if inodes.is_empty() || !(loopback || is_here(&broker.host)) {
        return None;
    }
    let limits = read(&owner_of(&inodes)?.join("limits"))?;
    parse_limit(&limits)
}

/// Whether the host name is this machine's own.
fn is_here(host: &str) -> bool {
    read(Path::new("/proc/sys/kernel/hostname")).is_some_and(|name| name.trim() == host)
}

/// The inodes of sockets that listen on a port, from the table of all TCP sockets.
fn listening_inodes(table: &str, port: u16) -> Vec<String> {
    const LISTEN: &str = "0A";
    table
        .lines()
        .skip(1)
        .filter_map(|line| {
            let mut columns = line.split_whitespace();
            let local = columns.nth(1)?;
            let state = columns.nth(1)?;
            let inode = columns.nth(5)?;
            let listens =
                state == LISTEN && local.rsplit(':').next() == Some(&format!("{port:04X}"));
            listens.then(|| inode.to_owned())
        })
        .collect()
}

/// `Max open files  1024  4096  files`: the first number; unlimited is very many.
fn parse_limit(limits: &str) -> Option<u64> {
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    match line.split_whitespace().nth(3)? {
        "unlimited" => Some(u64::MAX),
        number => number.parse().ok(),
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "/proc is the machine's, not the product's data: no simulation stands in for it"
)]
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    std::fs::File::open(path)
        .ok()?
        .read_to_string(&mut text)
        .ok()?;
    Some(text)
}

/// The /proc directory of the process that holds one of these sockets.
#[allow(
    clippy::disallowed_methods,
    reason = "/proc is the machine's, not the product's data: no simulation stands in for it"
)]
fn owner_of(inodes: &[String]) -> Option<std::path::PathBuf> {
    let wanted: Vec<String> = inodes
        .iter()
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        // Processes of others cannot be looked into.
        let Ok(files) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        for file in files.flatten() {
            let target = std::fs::read_link(file.path());
            if target.is_ok_and(|target| wanted.iter().any(|w| target.as_os_str() == w.as_str())) {
                return Some(process.path());
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_below_what_the_replicas_need_is_found() {
        assert_eq!(judge(0, 1024, 0), None);
        assert_eq!(judge(0, 512 + 60, 10), None);
        let finding = judge(0, 1024, 100).unwrap();
        assert!(finding.what.contains("need 1112"), "{}", finding.what);
        assert!(finding.next.contains("ulimit -n 65536"), "{}", finding.next);
        assert_eq!(judge(0, u64::MAX, 1_000_000), None);
    }

    #[test]
    fn listening_sockets_are_found_in_the_kernels_table() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:2384 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4711 1 0 100 0 0 10 0\n\
            \x20  1: 0100007F:2384 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4712 1 0 100 0 0 10 0\n";
        assert_eq!(listening_inodes(table, 9092), ["4711"]);
        assert!(listening_inodes(table, 9093).is_empty());
    }

    #[test]
    fn limits_are_read() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
            Max open files            1024                 4096                 files\n";
        assert_eq!(parse_limit(limits), Some(1024));
        assert_eq!(
            parse_limit(
                "Max open files            unlimited            unlimited            files\n"
            ),
            Some(u64::MAX)
        );
        assert_eq!(parse_limit(""), None);
    }
}
