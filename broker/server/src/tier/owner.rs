//! Whose the bucket is: nothing is written or deleted there before that is known, and nothing any more
//! once a restored cluster has taken it over. And the credentials, which may change while it is used.

use super::{ROUND, Tier, lock, longer};
use crate::broker::Broker;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_config::TierSettings;
use tidemark_env::{clock, task};
use tidemark_model::LeaderEpoch;
use tidemark_tier::catalog::Owner;
use tidemark_tier::{
    BucketOptions, Created, Credentials, TierError, Writer, document, layout, restore,
};
use tidemark_wire::Uuid;
use tokio::sync::watch;

/// Credentials are read again this often.
const RELOAD: Duration = Duration::from_secs(5);

/// What the bucket is opened with.
pub(super) fn options(settings: &TierSettings, credentials: Credentials) -> BucketOptions {
    BucketOptions {
        endpoint: settings.endpoint.clone(),
        region: settings.region.clone(),
        credentials,
    }
}

impl Tier {
    /// Takes credentials that were changed. Blocks.
    fn reload(&self) {
        let taken = self.credential_files.read();
        let taken = taken.map_err(|error| error.to_string());
        let taken = taken.and_then(|now| {
            if *lock(&self.credentials) == now {
                return Ok(false);
            }
            let options = options(&self.settings, now.clone());
            self.bucket
                .reopen(&options)
                .map_err(|error| error.to_string())?;
            *lock(&self.credentials) = now;
            Ok(true)
        });
        match taken {
            Ok(false) => {}
            Ok(true) => {
                self.reopened_ms
                    .store(clock::steady_ms(), Ordering::Release);
                self.mended.store(true, Ordering::Release);
                tracing::info!(bucket = self.bucket.address(), "new credentials are in use");
            }
            Err(error) => {
                tracing::warn!(
                    error,
                    "credentials for the bucket: those before stay in use"
                );
            }
        }
    }

    /// This broker as one that writes, once it is known that it may.
    pub(super) fn writer(&self, leader_epoch: LeaderEpoch) -> Result<Writer, TierError> {
        match self.generation.load(Ordering::Acquire) {
            0 => Err(TierError::Away {
                key: layout::OWNERS.to_owned(),
                reason: "it is not known yet whether the bucket is this cluster's".to_owned(),
            }),
            generation => Ok(Writer {
                generation,
                leader_epoch,
                id: self.id,
            }),
        }
    }

    /// Makes sure that no restore has made another cluster the owner of the bucket: from then on
    /// this one neither writes nor deletes there.
    pub(super) async fn check_owner(&self) -> Result<(), TierError> {
        let next = match self.generation.load(Ordering::Acquire) {
            0 => return Ok(()),
            generation => layout::owner(generation.saturating_add(1)),
        };
        match self.bucket.size_bytes(&next).await {
            Err(TierError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
            Ok(_) => {
                self.generation.store(0, Ordering::Release);
                Err(TierError::Superseded {
                    key: next,
                    reason: "the bucket was taken over by a restored cluster".to_owned(),
                })
            }
        }
    }

    /// Makes sure that the bucket is this cluster's: the first to come says so in it.
    async fn open(&self, cluster_id: Uuid) -> Result<(), TierError> {
        let mine = Owner {
            cluster_id: cluster_id.to_string(),
            generation: 1,
        };
        let owner = match restore::owner(&self.bucket).await? {
            Some(owner) => owner,
            None => {
                self.bucket.probe().await?;
                let key = layout::owner(1);
                match self.bucket.create_document(&key, &mine).await?.0 {
                    Created::Ours => mine.clone(),
                    Created::Theirs(bytes) => document::decode(&key, &bytes)?,
                }
            }
        };
        if owner.cluster_id != mine.cluster_id {
            return Err(TierError::Superseded {
                key: layout::owner(owner.generation),
                reason: format!(
                    "{} holds the logs of cluster {}: give this one another prefix in tier.url",
                    self.bucket.address(),
                    owner.cluster_id
                ),
            });
        }
        self.generation.store(owner.generation, Ordering::Release);
        Ok(())
    }
}

/// Finds out whether the bucket is this cluster's, until it is known; and again when a restore has
/// taken it over.
pub(super) async fn open(tier: Arc<Tier>, broker: Arc<Broker>, mut stop: watch::Receiver<bool>) {
    let (mut pause_ms, mut failed_ms) = (0, 0);
    loop {
        tokio::select! {
            () = clock::sleep(ROUND) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        // Credentials that were mended are tried at once.
        let waits = clock::steady_ms() < failed_ms + pause_ms
            && tier.reopened_ms.load(Ordering::Acquire) <= failed_ms;
        let Some(cluster_id) = broker.image().cluster_id() else {
            continue;
        };
        if waits || tier.generation.load(Ordering::Acquire) > 0 {
            continue;
        }
        match tier.open(cluster_id).await {
            Ok(()) => {
                (pause_ms, failed_ms) = (0, 0);
                tier.troubled.store(false, Ordering::Release);
                *lock(&tier.trouble) = None;
                let bucket = tier.bucket.address();
                tracing::info!(bucket, "the bucket is this cluster's");
            }
            Err(error) => {
                broker.metrics.tier_failed(error.outcome());
                let bucket = tier.bucket.address();
                tracing::error!(bucket, %error, "tiered topics stay on local disks");
                tier.troubled.store(true, Ordering::Release);
                *lock(&tier.trouble) = Some(error.to_string());
                // Readers that wait are told.
                let waiting = broker.partitions.all();
                waiting
                    .iter()
                    .for_each(|partition| partition.log_start_moved());
                (pause_ms, failed_ms) = (longer(pause_ms), clock::steady_ms());
            }
        }
    }
}

/// Looks for changed credentials, until `stop` turns true.
pub(super) fn start_reloading(tier: Arc<Tier>, mut stop: watch::Receiver<bool>) {
    drop(task::spawn("tier-credentials", async move {
        loop {
            tokio::select! {
                () = clock::sleep(RELOAD) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let reloading = Arc::clone(&tier);
            if task::blocking(move || reloading.reload()).await.is_err() {
                return;
            }
        }
    }));
}
