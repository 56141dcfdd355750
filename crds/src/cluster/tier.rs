//! `spec.tier`: the bucket that records move to, in Kafka's and Kubernetes' terms.

use k8s_openapi::api::core::v1::LocalObjectReference;
use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::{Config, Invalid, LocalRetention};
use crate::units::{Limit, UnitError, duration_ms, size_bytes};

/// The bucket that records of tiered topics move to. It can be added later, and stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Tier {
    /// s3://bucket/prefix, gs://bucket/prefix, az://container/prefix or file:///directory. It belongs
    /// to this cluster alone.
    #[schemars(
        length(min = 8, max = 1024),
        regex(pattern = r"^(s3|gs|az)://[^ ]+$|^file:///[^ ]+$")
    )]
    #[x_kube(validation = Rule::new("self == oldSelf")
        .message("tier.url cannot change: what is in the bucket would be lost to the cluster"))]
    pub url: String,
    /// Where the object store is, when the url does not say, such as http://minio.storage.svc:9000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024), regex(pattern = r"^https?://[^ ]+$"))]
    pub endpoint: Option<String>,
    /// The object store's region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 64))]
    pub region: Option<String>,
    /// Who brokers are to the object store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Credentials>,
    /// When records are in the bucket.
    #[serde(default)]
    pub upload: Upload,
    /// What brokers keep of what was read from the bucket.
    #[serde(default)]
    pub cache: Cache,
    /// What Topics of this cluster are where they do not say.
    #[serde(default)]
    pub defaults: Defaults,
}

/// Who brokers are to the object store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credentials {
    /// A Secret beside the cluster whose keys are named as in the environment: AWS_ACCESS_KEY_ID and
    /// AWS_SECRET_ACCESS_KEY, for example. Changes of it reach brokers without a restart.
    pub secret_ref: LocalObjectReference,
}

/// When records are in the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Upload {
    /// Records are in the bucket after so long, though their segment is not full, such as 5m, which
    /// is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub max_lag: Option<String>,
}

/// What brokers keep of what was read from the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Cache {
    /// Memory for it in each broker, such as 64Mi, which is the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(
        length(max = 20),
        regex(pattern = r"^[1-9][0-9]*(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$")
    )]
    pub size: Option<String>,
}

/// What Topics are where they do not say.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Defaults {
    /// Whether they move to the bucket.
    #[serde(default)]
    pub enabled: bool,
    /// What of them stays on local disks.
    #[serde(flatten)]
    pub local: LocalRetention,
}

/// What is told of the bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TierStatus {
    /// How long the oldest record waits to be in the bucket, rounded; of all brokers the longest.
    pub lag: String,
    /// What went wrong last, while something does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_error: Option<String>,
}

/// Where brokers find the credentials.
pub const CREDENTIALS_DIR: &str = "/etc/tidemark-tier";

impl Tier {
    /// Settings by Kafka's names.
    ///
    /// # Errors
    /// A unit that is not read.
    pub fn settings(&self) -> Result<Config, Invalid> {
        let of = |field: &str, read: Result<Limit, UnitError>| match read {
            Ok(limit) => Ok(limit.to_string()),
            Err(error) => {
                let text = format!("tier.{field}: {error}");
                Err(Invalid::new("InvalidUnit", text))
            }
        };
        let mut all = vec![("tier.url", self.url.clone())];
        all.extend(self.endpoint.clone().map(|text| ("tier.endpoint", text)));
        all.extend(self.region.clone().map(|text| ("tier.region", text)));
        if self.credentials.is_some() {
            all.push(("tier.credentials.dir", CREDENTIALS_DIR.to_owned()));
        }
        if let Some(text) = &self.upload.max_lag {
            let value = of("upload.maxLag", duration_ms(text))?;
            all.push(("tier.upload.max.lag.ms", value));
        }
        if let Some(text) = &self.cache.size {
            all.push(("tier.cache.bytes", of("cache.size", size_bytes(text))?));
        }
        let local = self.defaults.local.settings().map_err(|invalid| {
            let text = format!("tier.defaults.{}", invalid.message);
            Invalid::new(invalid.reason, text)
        })?;
        let local = local.into_iter();
        let of_topics = local.map(|(name, value)| (format!("log.{name}"), value));
        let owned = all.into_iter().map(|(k, v)| (k.to_owned(), v));
        Ok(owned.chain(of_topics).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tier(more: &serde_json::Value) -> Tier {
        let mut tier = json!({"url": "s3://acme/orders"});
        for (key, value) in more.as_object().into_iter().flatten() {
            tier[key] = value.clone();
        }
        serde_json::from_value(tier).expect("a tier")
    }

    #[test]
    fn fields_become_settings_that_a_broker_takes() {
        let settings = tier(&json!({
            "endpoint": "http://s3:8333", "region": "lab", "credentials": {"secretRef": {"name": "s"}},
            "upload": {"maxLag": "1m"}, "cache": {"size": "128Mi"},
            "defaults": {"enabled": true, "localRetention": "1d", "localRetentionBytes": "unlimited"},
        }))
        .settings()
        .expect("good units");
        let expected = [
            ("log.local.retention.bytes", "-1"),
            ("log.local.retention.ms", "86400000"),
            ("tier.cache.bytes", "134217728"),
            ("tier.credentials.dir", CREDENTIALS_DIR),
            ("tier.endpoint", "http://s3:8333"),
            ("tier.region", "lab"),
            ("tier.upload.max.lag.ms", "60000"),
            ("tier.url", "s3://acme/orders"),
        ];
        let found: Vec<(&str, &str)> = settings.iter().map(|(k, v)| (&**k, &**v)).collect();
        assert_eq!(found, expected);
        for (name, value) in &settings {
            tidemark_config::check(tidemark_config::Scope::Broker, name, value).expect(name);
        }
        let least = tier(&json!({})).settings().expect("good");
        assert_eq!(least.len(), 1);
    }

    #[test]
    fn a_unit_that_is_not_read_is_named_with_its_field() {
        let wrong = tier(&json!({"upload": {"maxLag": "9999999999999d"}})).settings();
        let message = wrong.expect_err("too long").message;
        assert!(message.starts_with("tier.upload.maxLag"), "{message}");
    }
}
