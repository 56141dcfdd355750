//! What CEL does not say of a Cluster.

use super::listeners::{validate_listeners, validate_listeners_change};
use super::{ClusterSpec, restore};
use crate::common::Invalid;
use crate::units::{Limit, size_bytes};

/// Settings that follow from other fields, or from where the broker runs.
pub const OWNED_SETTINGS: &[&str] = &[
    "advertised.listeners",
    "broker.id",
    "broker.rack",
    "controller.listener.names",
    "controller.quorum.bootstrap.servers",
    "controller.quorum.voters",
    "cordoned.log.dirs",
    "http.listen",
    "inter.broker.listener.name",
    "listener.security.protocol.map",
    "listeners",
    "log.dir",
    "log.dirs",
    "metadata.log.dir",
    "node.id",
    "process.roles",
    "security.inter.broker.protocol",
    "tier.cache.bytes",
    "tier.credentials.dir",
    "tier.endpoint",
    "tier.region",
    "tier.upload.max.lag.ms",
    "tier.url",
    "wal.dir",
];

/// Beginnings of settings that follow from `spec.listeners`.
const OWNED_PREFIXES: [&str; 2] = ["listener.name.", "ssl."];

/// The smallest disk a broker starts on: its write-ahead log alone takes 512 MiB unless told otherwise.
const LEAST_DISK_BYTES: i64 = 64 << 20;

/// Checks what the schema cannot.
///
/// # Errors
/// The first thing that is wrong.
pub fn validate(spec: &ClusterSpec) -> Result<(), Invalid> {
    for pool in &spec.pools {
        match size_bytes(&pool.storage.size) {
            Ok(Limit::Of(bytes)) if bytes >= LEAST_DISK_BYTES => {}
            Ok(_) => {
                return Err(Invalid::new(
                    "StorageTooSmall",
                    format!(
                        "pool {}: a disk of {} is too small: give it at least 64Mi",
                        pool.name, pool.storage.size
                    ),
                ));
            }
            Err(error) => {
                return Err(Invalid::new(
                    "InvalidSize",
                    format!("pool {}: {error}", pool.name),
                ));
            }
        }
    }
    if ![1, 3, 5].contains(&spec.quorum.voters) {
        return Err(Invalid::new(
            "InvalidVoters",
            format!("{} voters: there are 1, 3 or 5", spec.quorum.voters),
        ));
    }
    let brokers: i64 = spec.pools.iter().map(|pool| i64::from(pool.replicas)).sum();
    if brokers < i64::from(spec.quorum.voters) {
        return Err(Invalid::new(
            "TooFewBrokers",
            format!(
                "{} voters need as many brokers, and there are {brokers}",
                spec.quorum.voters
            ),
        ));
    }
    restore::validate(spec)?;
    spec.disruption.closed(0)?;
    spec.features.soak_ms()?;
    spec.recovery.disk_lost.after_ms()?;
    validate_listeners(&spec.listeners)?;
    spec.certificates.times()?;
    let of_tier = spec.tier.as_ref().map(|tier| tier.settings()).transpose()?;
    for name in of_tier.iter().flatten().map(|(name, _)| name) {
        if spec.config.contains_key(name) {
            return Err(Invalid::new(
                "OwnedSetting",
                format!("config: {name} follows from tier; take it out"),
            ));
        }
    }
    for name in spec.config.keys() {
        if OWNED_SETTINGS.contains(&name.as_str())
            || OWNED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        {
            return Err(Invalid::new(
                "OwnedSetting",
                format!("config: {name} follows from other fields; take it out"),
            ));
        }
    }
    Ok(())
}

/// Checks a Cluster's name: its brokers and services are named after it.
///
/// # Errors
/// When it is no DNS label of at most 40 characters that begins with a letter.
pub fn validate_name(name: &str) -> Result<(), Invalid> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    if name.len() <= 40
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name.chars().all(legal)
    {
        return Ok(());
    }
    Err(Invalid::new(
        "InvalidName",
        format!(
            "metadata.name: '{name}' must be a DNS label of at most 40 characters that begins with a letter"
        ),
    ))
}

/// Checks what may not change in a Cluster, as its rules do.
///
/// # Errors
/// The first thing that may not.
pub fn validate_change(old: &ClusterSpec, new: &ClusterSpec) -> Result<(), Invalid> {
    let refuse = |text: String| Err(Invalid::new("Immutable", text));
    if old.quorum.voters != new.quorum.voters {
        return refuse("the number of voters is chosen when the cluster is made".to_owned());
    }
    if let Some(was) = &old.racks {
        let bound = "brokers are bound to where they are";
        match &new.racks {
            None => return refuse(format!("racks cannot be taken out: {bound}")),
            Some(is) if is.topology_key != was.topology_key => {
                return refuse(format!("racks.topologyKey cannot change: {bound}"));
            }
            Some(_) => {}
        }
    }
    restore::validate_change(old.restore.as_ref(), new.restore.as_ref())?;
    validate_listeners_change(&old.listeners, &new.listeners)?;
    if let Some(was) = &old.tier {
        let Some(is) = &new.tier else {
            let text =
                "tier cannot be taken out: what is in the bucket would be lost to the cluster";
            return refuse(text.to_owned());
        };
        if is.url != was.url {
            let text = "tier.url cannot change: what is in the bucket would be lost to the cluster";
            return refuse(text.to_owned());
        }
    }
    for was in &old.pools {
        let name = &was.name;
        let Some(is) = new.pools.iter().find(|pool| pool.name == *name) else {
            if was.replicas == 0 {
                continue;
            }
            return refuse(format!(
                "pool {name}: a pool is taken out when it has no brokers: set its replicas to 0 first"
            ));
        };
        let bytes = |text: &str| {
            size_bytes(text).map_err(|error| Invalid::new("InvalidSize", error.to_string()))
        };
        if bytes(&is.storage.size)? < bytes(&was.storage.size)? {
            return refuse(format!("pool {name}: a disk cannot shrink"));
        }
        if is.storage.storage_class_name != was.storage.storage_class_name {
            return refuse(format!("pool {name}: storageClassName cannot change"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::{Pool, Storage};

    fn spec() -> ClusterSpec {
        ClusterSpec {
            image: None,
            features: Default::default(),
            paused: false,
            disruption: Default::default(),
            quorum: Default::default(),
            racks: None,
            pools: vec![Pool {
                name: "brokers".into(),
                replicas: 3,
                remove: vec![],
                resources: None,
                storage: Storage {
                    size: "10Gi".into(),
                    storage_class_name: None,
                    on_scale_down: Default::default(),
                },
            }],
            listeners: crate::cluster::default_listeners(),
            certificates: Default::default(),
            config: Default::default(),
            tier: None,
            restore: None,
            recovery: Default::default(),
            deletion_policy: Default::default(),
        }
    }

    #[test]
    fn what_is_wrong_is_named_with_its_reason() {
        assert_eq!(validate(&spec()), Ok(()));
        let reason = |change: &dyn Fn(&mut ClusterSpec)| {
            let mut changed = spec();
            change(&mut changed);
            validate(&changed).expect_err("refused").reason
        };
        let set = |name: &str, value: &str| {
            let (name, value) = (name.to_owned(), value.to_owned());
            move |spec: &mut ClusterSpec| {
                spec.config.insert(name.clone(), value.clone());
            }
        };
        assert_eq!(
            reason(&|s| s.pools[0].storage.size = "1Mi".into()),
            "StorageTooSmall"
        );
        assert_eq!(
            reason(&|s| s.pools[0].storage.size = "unlimited".into()),
            "StorageTooSmall"
        );
        assert_eq!(
            reason(&|s| s.pools[0].storage.size = "1GB".into()),
            "InvalidSize"
        );
        assert_eq!(reason(&|s| s.pools[0].replicas = 2), "TooFewBrokers");
        assert_eq!(reason(&set("node.id", "7")), "OwnedSetting");
        assert_eq!(
            reason(&set("listener.name.client.ssl.client.auth", "none")),
            "OwnedSetting"
        );
        let mut good = spec();
        set("num.partitions", "6")(&mut good);
        assert_eq!(validate(&good), Ok(()));
    }

    #[test]
    fn owned_settings_are_settings() {
        for name in OWNED_SETTINGS {
            assert!(
                tidemark_config::setting(tidemark_config::Scope::Broker, name).is_ok(),
                "{name}"
            );
        }
    }
}
