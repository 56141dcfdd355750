//! Start and stop of a broker.

use crate::broker::{Broker, Lifecycle};
use crate::controller::life::{self, Life};
use crate::controller::{Inbox, JoinError, Joined, Node, join};
use crate::fatal::{self, Failing, Fatal};
use crate::health::BrokerHealth;
use crate::listeners::{Advertised, Reached, advertised, bind, endpoints};
use crate::metrics::Metrics;
use crate::partition::{
    Ballast, FULL_RETRY, Registry, RegistryArgs, StartWaits, WalSettings, failed_mark, is_full,
};
use crate::register::register;
use crate::replica::{self, Replicas};
use crate::tier::{self, Tier};
use crate::tls::Tls;
use crate::{RegistryError, groups, http, maintenance};
use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;
use tidemark_config::{BrokerLayers, BrokerSettings, ConfigError, ConfigMap};
use tidemark_env::clock;
use tidemark_env::disk::{DirLock, Disk};
use tidemark_env::runtime::NetThreads;
use tidemark_env::task::{self, TaskError};
use tidemark_log::OnCorruption;
use tidemark_model::{BrokerEpoch, Image};
use tidemark_quorum::decide::Join;
use tidemark_quorum::{IdentityError, write_epoch};
use tidemark_tier::Bucket;
use tokio::sync::watch;

/// Connections get this long to finish what they are at when the broker stops.
const GRACE: Duration = Duration::from_secs(10);

/// What a broker is started with.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Settings by Kafka's names, from file and command line.
    pub settings: ConfigMap,
    /// The disk that `log.dirs` are on.
    pub disk: Arc<dyn Disk>,
    /// Threads that serve connections; 0 for one per core.
    pub net_threads: usize,
    /// Cut logs at damage in acknowledged records instead of refusing to start.
    pub cut_corrupt_logs: bool,
    /// Make directories that are all empty those of a new cluster of one, unless a listener of
    /// the quorum is named: then they were to be formatted with the others' in mind.
    pub format_if_empty: bool,
    /// The bucket of tiered topics, in place of the one that `tier.url` names; for simulations.
    pub bucket: Option<Bucket>,
}

/// Why a broker does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Settings make no sense.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The bucket's address cannot be used.
    #[error("tier.url: {0}")]
    Tier(#[from] tidemark_tier::TierError),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] tidemark_tls::TlsError),
    /// A data directory cannot be used, or another broker uses it.
    #[error("data directory: {source}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why, naming the path.
        source: std::io::Error,
    },
    /// A listener's address cannot be bound.
    #[error(
        "cannot listen on {address}: {source}. Is another broker running there? Choose another port, or stop it"
    )]
    Listen {
        /// The address.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// This node does not come to the metadata.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// What a data directory says of itself cannot be read or written.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// The registration was refused.
    #[error("the broker was not registered: {0}")]
    Refused(String),
    /// It cannot go on.
    #[error(transparent)]
    Failed(Fatal),
    /// A partition cannot be opened.
    #[error(transparent)]
    Partitions(#[from] RegistryError),
    /// No threads.
    #[error("cannot start threads: {0}")]
    Threads(std::io::Error),
    /// A start-up task ended early.
    #[error(transparent)]
    Task(#[from] TaskError),
}

impl StartError {
    /// Whether a disk had no room.
    fn is_full(&self) -> bool {
        match self {
            Self::Partitions(error) => error.is_full(),
            Self::Identity(IdentityError::Io { source, .. }) => is_full(source),
            _ => false,
        }
    }
}

/// A running broker. Dropping it without [`RunningServer::shutdown`] leaves logs to be recovered.
pub struct RunningServer {
    /// `None` where a data directory is marked as failed: then only health is served.
    broker: Option<Arc<Broker>>,
    threads: Option<Arc<NetThreads>>,
    marked_failed: Option<String>,
    stop: watch::Sender<bool>,
    /// Says when a data directory's disk has failed.
    failing: Failing,
    /// Ends the task that keeps in step with the metadata: last, as requests wait for it.
    unfollow: watch::Sender<bool>,
    reached: Reached,
    http: Option<SocketAddr>,
    abandon: Abandon,
    member: Option<Member>,
    locks: Vec<DirLock>,
}

/// The epoch of what is no broker.
const NOT_REGISTERED: BrokerEpoch = -1;

/// This node's part in the cluster.
struct Member {
    node: Arc<Node>,
    /// Of a broker.
    life: Option<Arc<Life>>,
    /// What a broker registered.
    join: Option<Join>,
}

impl Drop for Member {
    fn drop(&mut self) {
        self.node.metadata.abandon();
    }
}

/// Ends the threads of the data directories of a server that is dropped.
#[derive(Default)]
struct Abandon(Option<Arc<Registry>>);

impl Drop for Abandon {
    fn drop(&mut self) {
        for dir in self.0.iter().flat_map(|partitions| partitions.log_dirs()) {
            dir.abandon();
        }
    }
}

impl std::fmt::Debug for RunningServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RunningServer")
            .field("listeners", &self.listeners())
            .finish_non_exhaustive()
    }
}

pub(crate) fn layers(fixed: &ConfigMap) -> BrokerLayers<'_> {
    static NONE: ConfigMap = ConfigMap::new();
    BrokerLayers {
        dynamic: &NONE,
        dynamic_default: &NONE,
        fixed,
    }
}

/// Starts a broker; it serves when this returns.
///
/// Must be called inside a tokio runtime, which then runs the broker's background tasks.
pub async fn start(config: ServerConfig) -> Result<RunningServer, StartError> {
    let settings = BrokerSettings::resolve(layers(&config.settings))?;
    let dirs: Vec<PathBuf> = settings.log_dirs.iter().map(PathBuf::from).collect();
    let mut locks = Vec::with_capacity(dirs.len());
    for dir in &dirs {
        let failed = |source: std::io::Error| {
            let source = match source.kind() {
                // A file is in its place: directories that exist are no error.
                ErrorKind::AlreadyExists | ErrorKind::NotADirectory => std::io::Error::new(
                    ErrorKind::NotADirectory,
                    format!("{} is not a directory", dir.display()),
                ),
                _ => source,
            };
            let path = dir.clone();
            StartError::Directory { path, source }
        };
        config.disk.create_dir_all(dir).map_err(failed)?;
        locks.push(config.disk.lock_dir(dir).map_err(failed)?);
    }
    let tls = Arc::new(Tls::load(&settings)?);
    // Ports first: a broker that cannot listen must not register.
    let (mut acceptors, mut listeners) = (Vec::new(), Vec::new());
    for listener in &settings.listeners {
        let acceptor = bind(listener, &tls).await?;
        listeners.push(advertised(&settings, &listener.name, acceptor.address));
        acceptors.push(acceptor);
    }
    let mut of_quorum = None;
    if let Some(listener) = &settings.quorum.listener {
        let acceptor = bind(listener, &tls).await?;
        if !settings.roles.broker {
            listeners.push(advertised(&settings, &listener.name, acceptor.address));
        }
        of_quorum = Some(acceptor);
    }
    let metrics = Arc::new(Metrics::new());
    let (stop, stopped) = watch::channel(false);
    let reached: Reached = Arc::new(RwLock::new(listeners.clone()));
    let health = Arc::new(BrokerHealth::new(
        Arc::clone(&metrics),
        Arc::clone(&reached),
        Arc::clone(&tls),
    ));
    let http = match &settings.http_listen {
        None => None,
        Some(address) => {
            let failed = |source| StartError::Listen {
                address: address.clone(),
                source,
            };
            let server = http::bind(address).await.map_err(failed)?;
            let at = server.address;
            let answering = Arc::clone(&health) as Arc<dyn http::Health>;
            drop(task::spawn("http", server.run(answering, stopped.clone())));
            Some(at)
        }
    };

    let (failed, failing) = watch::channel(None);
    let (unfollow, unfollowed) = watch::channel(false);
    // An earlier process met an error of the disk: what its page cache made of the files since
    // is not known, so nothing of them is given out until the disk is replaced.
    if let Some((dir, reason)) = marked(&*config.disk, &dirs) {
        let reason = format!("data directory {} failed: {reason}", dir.display());
        tracing::error!(
            reason,
            "nothing is served. Replace the disk, then start with an empty directory in its place; \
             or, where the disk is known to be sound, remove the file tidemark-failed from it"
        );
        health.directory_failed(reason.clone());
        return Ok(RunningServer {
            broker: None,
            threads: None,
            marked_failed: Some(reason),
            stop,
            failing,
            unfollow,
            reached,
            http,
            abandon: Abandon::default(),
            member: None,
            locks,
        });
    }
    for dir in &dirs {
        Ballast::of(&config.disk, dir).start(&health.waits).await;
    }
    let inbox = Arc::new(Inbox::default());
    let joined = join(&config, &settings, &inbox, (of_quorum, &tls)).await?;
    let Joined {
        metadata,
        identities,
    } = joined;
    health.identified(&identities, settings.roles);
    let fixed = Arc::new(config.settings.clone());
    let node = Node::new(
        Arc::new(metadata),
        settings.clone(),
        fixed,
        Arc::clone(&tls),
    );
    tls.start_reloading(Arc::clone(&metrics), stopped.clone());
    inbox.open(&node);
    node.start(stopped.clone());
    let (watched, failing_log) = (Arc::clone(&node.metadata), failed.clone());
    let mut watching = stopped.clone();
    drop(task::spawn("metadata-failure", async move {
        tokio::select! {
            reason = watched.failed() => {
                failing_log.send_replace(Some(Fatal::Metadata(reason)));
            }
            _ = watching.wait_for(|stop| *stop) => {}
        }
    }));
    let life = match settings.roles.broker {
        true => {
            let registering = register(&node, &config, &dirs, &identities, &settings, &listeners);
            let (epoch, join) = unless_failed(&failing, registering).await??;
            let life = Life::start(&node, epoch, failed.clone(), stopped.clone());
            Some((life, join))
        }
        false => None,
    };
    let (life, join) = life.unzip();
    let epoch = life.as_ref().map_or(NOT_REGISTERED, |life| life.epoch);
    let image = node.metadata.image();
    // The metadata may hold settings that the file does not.
    let partitions = Arc::new(Registry::new(RegistryArgs {
        wal: wal_settings(&settings),
        failed,
        broker_id: settings.node_id,
        replicas: Arc::new(Replicas::new(epoch, &settings, Arc::clone(&metrics))),
        disk: Arc::clone(&config.disk),
        dirs: dirs.clone(),
        fixed: config.settings.clone(),
        on_corruption: if config.cut_corrupt_logs {
            OnCorruption::Truncate
        } else {
            OnCorruption::Refuse
        },
        metrics: Arc::clone(&metrics),
    }));
    let settings = BrokerSettings::resolve(partitions.layers(&image))?;
    let tier = settings
        .tier
        .as_ref()
        .map(|settings| {
            let shelf = tier::shelf(&config.disk, &dirs, settings.cache_disk_bytes);
            Tier::new(settings, config.bucket, shelf)
        })
        .transpose()?
        .map(Arc::new);
    let mut warned = BTreeSet::new();
    warn_of_unhonoured(partitions.layers(&image), &mut warned);
    let broker = Arc::new(Broker::new(
        epoch,
        Arc::clone(&node),
        Arc::clone(&partitions),
        Arc::new(config.settings),
        settings,
        tier,
        metrics,
    ));
    node.serve_with(&broker);
    health.started(&broker, life.as_ref());
    let Some(life) = life else {
        // What a controller is asked for is decided as a broker decides it, that holds nothing.
        broker.in_step(image.index());
        follow(&broker, image, warned, unfollowed);
        tier::start(&broker, stopped.clone());
        broker.set_lifecycle(Lifecycle::Running);
        return Ok(RunningServer {
            broker: Some(broker),
            threads: None,
            marked_failed: None,
            stop,
            failing,
            unfollow,
            reached,
            http,
            abandon: Abandon(Some(partitions)),
            member: Some(Member {
                node,
                life: None,
                join: None,
            }),
            locks,
        });
    };
    let opening = || {
        let (opening, to_open) = (Arc::clone(&partitions), Arc::clone(&image));
        let settings = broker.settings();
        async move {
            task::blocking(move || opening.open_all(&to_open, &settings)).await??;
            Ok::<(), StartError>(())
        }
    };
    unless_failed(&failing, once_there_is_room(&health.waits, opening)).await??;
    broker.groups.apply(&broker, &image, &image);
    broker.in_step(image.index());
    follow(&broker, image, warned, unfollowed);
    // What this directory holds is as new as any acknowledgement in this epoch.
    let writing = || {
        let (disk, dirs) = (Arc::clone(&config.disk), dirs.clone());
        async move {
            let all = move || {
                let mut dirs = dirs.iter();
                dirs.try_for_each(|dir| write_epoch(&*disk, dir, epoch))
            };
            task::blocking(all).await??;
            Ok::<(), StartError>(())
        }
    };
    unless_failed(&failing, once_there_is_room(&health.waits, writing)).await??;
    unless_failed(&failing, life.lead(&broker)).await?;
    let unfenced = node.metadata.image().index();
    partitions.applied(unfenced).await;
    groups::start_timers(&broker, stopped.clone());
    maintenance::start(&broker, stopped.clone());
    tier::start(&broker, stopped.clone());

    let count = match config.net_threads {
        0 => std::thread::available_parallelism().map_or(2, std::num::NonZero::get),
        count => count,
    };
    let threads = Arc::new(NetThreads::start(count).map_err(StartError::Threads)?);
    health.watch(&threads);
    replica::start(&broker, &threads, &stopped);
    broker.set_lifecycle(Lifecycle::Running);
    for (acceptor, listener) in acceptors.into_iter().zip(&listeners) {
        acceptor.run(
            Arc::clone(&broker),
            Arc::from(listener.name.as_str()),
            Arc::clone(&threads),
            stopped.clone(),
        );
    }
    Ok(RunningServer {
        broker: Some(broker),
        threads: Some(threads),
        marked_failed: None,
        stop,
        failing,
        unfollow,
        reached,
        http,
        abandon: Abandon(Some(partitions)),
        member: Some(Member {
            node,
            life: Some(life),
            join,
        }),
        locks,
    })
}

/// What `work` gives, unless a disk or the metadata log fails first: nobody would ever answer it.
async fn unless_failed<T>(
    failing: &Failing,
    work: impl Future<Output = T>,
) -> Result<T, StartError> {
    tokio::select! {
        done = work => Ok(done),
        fatal = fatal::first(failing) => Err(StartError::Failed(fatal)),
    }
}

/// Tries `work` again as long as a disk has no room for it. In a cluster others lead meanwhile.
async fn once_there_is_room<F>(
    waits: &StartWaits,
    mut work: impl FnMut() -> F,
) -> Result<(), StartError>
where
    F: Future<Output = Result<(), StartError>>,
{
    loop {
        match work().await {
            Err(error) if error.is_full() => {
                waits.because(&error.to_string());
                clock::sleep(FULL_RETRY).await;
            }
            done => {
                waits.no_more();
                return done;
            }
        }
    }
}

/// The first data directory that is marked as failed, and why.
fn marked<'a>(disk: &dyn Disk, dirs: &'a [PathBuf]) -> Option<(&'a PathBuf, String)> {
    dirs.iter()
        .find_map(|dir| Some((dir, failed_mark(disk, dir)?)))
}

pub(crate) fn wal_settings(settings: &BrokerSettings) -> WalSettings {
    let unsigned = |value: i64| u64::try_from(value).unwrap_or(0);
    WalSettings {
        dir: settings.wal_dir.as_ref().map(PathBuf::from),
        file_bytes: unsigned(settings.wal_file_bytes),
        max_bytes: unsigned(settings.wal_max_bytes),
        memory_bytes: usize::try_from(settings.wal_memory_bytes).unwrap_or(0),
    }
}

/// Warns of settings that are set and have no effect yet, of each once.
fn warn_of_unhonoured(layers: BrokerLayers<'_>, warned: &mut BTreeSet<&'static str>) {
    for setting in tidemark_config::unhonoured(layers) {
        if warned.insert(setting.name) {
            tracing::warn!(
                setting = setting.name,
                "the setting is kept, but this version does not act on it yet"
            );
        }
    }
}

/// Keeps everything in step with the metadata.
fn follow(
    broker: &Arc<Broker>,
    mut image: Arc<Image>,
    mut warned: BTreeSet<&'static str>,
    mut stop: watch::Receiver<bool>,
) {
    let broker = Arc::clone(broker);
    let mut images = broker.controller.watch();
    drop(task::spawn("metadata", async move {
        loop {
            let newest = Arc::clone(&images.borrow_and_update().image);
            if newest.index() != image.index() {
                warn_of_unhonoured(broker.partitions.layers(&newest), &mut warned);
                let (applying, before) = (Arc::clone(&broker), Arc::clone(&image));
                image = Arc::clone(&newest);
                if let Err(error) = task::blocking(move || applying.apply(&before, &newest)).await {
                    tracing::error!(%error, "metadata is not followed any more");
                    return;
                }
                continue;
            }
            let waits_for_room = broker.partitions.waits_for_room();
            let room = tokio::select! {
                changed = images.changed() => match changed {
                    Ok(()) => false,
                    Err(_) => return,
                },
                () = clock::sleep(FULL_RETRY), if waits_for_room => true,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            if room {
                let opening = Arc::clone(&broker);
                let opened = task::blocking(move || opening.open_what_had_no_room()).await;
                if let Err(error) = opened {
                    tracing::error!(%error, "metadata is not followed any more");
                    return;
                }
            }
        }
    }));
}

impl RunningServer {
    /// The address to bootstrap from: the first listener as it is advertised, `host:port`.
    pub fn bootstrap(&self) -> String {
        let mut advertised = self.listeners().into_iter().filter_map(|of| of.advertised);
        advertised.next().unwrap_or_default()
    }

    #[cfg(test)]
    pub(crate) fn broker(&self) -> Option<&Arc<Broker>> {
        self.broker.as_ref()
    }

    /// The newest metadata that this node has; `None` where nothing but health is served.
    pub fn image(&self) -> Option<Arc<Image>> {
        let member = self.member.as_ref()?;
        Some(member.node.metadata.image())
    }

    /// All listeners.
    pub fn listeners(&self) -> Vec<Advertised> {
        let reached = self.reached.read();
        reached.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Has clients and brokers reach this broker where `advertised.listeners` of `settings` says,
    /// while it runs on; says whether that is news. A listener that it leaves out is told to nobody.
    ///
    /// # Errors
    /// Settings that make no sense, or that leave out how other brokers reach this one.
    pub async fn advertise(&self, settings: &ConfigMap) -> Result<bool, StartError> {
        let Some(Member {
            node,
            join: Some(join),
            ..
        }) = &self.member
        else {
            return Ok(false);
        };
        let settings = BrokerSettings::resolve(layers(settings))?;
        let before = self.listeners();
        let now = before.iter();
        let now: Vec<Advertised> = now
            .map(|listener| advertised(&settings, &listener.name, listener.bound))
            .collect();
        if now == before {
            return Ok(false);
        }
        let among_brokers = &node.settings.inter_broker_listener;
        if !now
            .iter()
            .any(|of| of.name == *among_brokers && of.advertised.is_some())
        {
            return Err(StartError::Config(ConfigError::Conflict(format!(
                "advertised.listeners leaves out {among_brokers}, on which brokers reach each other: add it"
            ))));
        }
        let mut join = join.clone();
        join.registration.endpoints = endpoints(&node.settings, &now);
        life::register(node, &join)
            .await
            .map_err(StartError::Refused)?;
        *self.reached.write().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(true)
    }

    /// Waits until the process cannot go on; gives why. It should end.
    pub async fn failed(&self) -> Fatal {
        fatal::first(&self.failing).await
    }

    /// Where health and metrics are served, if they are.
    pub fn http(&self) -> Option<SocketAddr> {
        self.http
    }

    /// Why nothing but health is served: a data directory is marked as failed.
    pub fn marked_failed(&self) -> Option<&str> {
        self.marked_failed.as_deref()
    }

    /// Ends as a process that is killed: connections break off, and nothing is closed cleanly. None
    /// of it runs on when this returns.
    pub async fn kill(mut self) {
        let locks = std::mem::take(&mut self.locks);
        let metadata = self.member.as_ref();
        let metadata = metadata.map(|member| Arc::clone(&member.node.metadata));
        drop(self);
        if let Some(metadata) = metadata {
            metadata.close().await;
        }
        drop(locks);
    }

    /// Stops: no new requests, answers to those under way (for at most 10 s), logs closed cleanly.
    pub async fn shutdown(self) {
        if let Some(Member {
            node,
            life: Some(life),
            ..
        }) = &self.member
        {
            life.leave(node).await;
        }
        if let Some(broker) = &self.broker {
            broker.set_lifecycle(Lifecycle::Stopping);
        }
        self.stop.send_replace(true);
        if let Some(broker) = &self.broker {
            broker.groups.resign();
        }
        // Every connection and task holds a receiver until it ends.
        if clock::timeout(GRACE, self.stop.closed()).await.is_err() {
            tracing::warn!("connections are still busy and are cut off");
        }
        self.unfollow.send_replace(true);
        self.unfollow.closed().await;
        if let Some(broker) = self.broker {
            let partitions = Arc::clone(&broker.partitions);
            if let Err(error) = task::blocking(move || partitions.close()).await {
                tracing::error!(%error, "logs were not closed cleanly; the next start recovers them");
            }
        }
        if let Some(threads) = self.threads.and_then(Arc::into_inner)
            && let Err(error) = task::blocking(move || threads.shutdown()).await
        {
            tracing::error!(%error, "net threads did not stop");
        }
        if let Some(member) = self.member {
            member.node.metadata.close().await;
        }
        // All is written: nothing is left to be abandoned.
        let mut abandon = self.abandon;
        abandon.0 = None;
        drop((abandon, self.locks));
    }
}
