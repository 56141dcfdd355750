//! The built binary as a process: started, waited for, killed.

use std::fs::{self, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::chance::Chance;

/// How long a start may take.
const START: Duration = Duration::from_secs(30);

/// What every start of a run has in common.
#[derive(Debug)]
pub struct Launch {
    binary: PathBuf,
    config: PathBuf,
    /// All output of all starts.
    pub log: PathBuf,
    /// `host:port` of the listener.
    pub address: String,
    disk: PathBuf,
    own_wal_dir: bool,
}

/// A broker that runs.
#[derive(Debug)]
pub struct Running {
    child: Child,
}

impl Launch {
    /// For data on `disk`; with `own_wal_dir` the write-ahead log is kept beside the data.
    pub fn new(binary: &Path, work: &Path, disk: &Path, own_wal_dir: bool) -> io::Result<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0")?
            .local_addr()?
            .port();
        Ok(Self {
            binary: binary.to_owned(),
            config: work.join("broker.yaml"),
            log: work.join("broker.log"),
            address: format!("127.0.0.1:{port}"),
            disk: disk.to_owned(),
            own_wal_dir,
        })
    }

    /// Writes the configuration: small segments, quick retention, and a write-ahead log that is often
    /// so small that a round goes around it several times.
    pub fn configure(&self, chance: &mut Chance) -> io::Result<()> {
        let (file, most) = [(1, 4), (1, 6), (2, 16), (16, 512)][chance.index(4)];
        let (disk, address) = (self.disk.display(), &self.address);
        let mut text = format!(
            "config:\n  node.id: 1\n  listeners: PLAINTEXT://{address}\n  log.dirs: {disk}/data\n  \
             http.listen: \"\"\n  auto.create.topics.enable: false\n  \
             log.segment.bytes: 1048576\n  log.segment.delete.delay.ms: 300\n  \
             log.retention.check.interval.ms: 200\n  offsets.topic.num.partitions: 3\n  \
             offsets.topic.segment.bytes: 1048576\n  wal.memory.bytes: 8388608\n  \
             wal.file.bytes: {}\n  wal.max.bytes: {}\n",
            file << 20,
            most << 20
        );
        if self.own_wal_dir {
            text += &format!("  wal.dir: {disk}/wal\n");
        }
        fs::write(&self.config, text)
    }

    /// Gives the data directory its identity, once: what it says of itself must outlive every cut.
    ///
    /// # Errors
    /// What the command said.
    pub fn format(&self) -> Result<(), String> {
        let done = Command::new(&self.binary)
            .args(["format", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .output()
            .map_err(|error| error.to_string())?;
        if done.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&done.stderr).into_owned())
    }

    /// Starts the process without waiting.
    pub fn spawn(&self) -> io::Result<Running> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)?;
        let child = Command::new(&self.binary)
            .args(["broker", "--config"])
            .arg(&self.config)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()?;
        Ok(Running { child })
    }

    /// Starts the broker and waits until it is ready; how long that took.
    ///
    /// # Errors
    /// What it said when it ended instead, or that it took too long.
    pub async fn start(&self) -> Result<(Running, Duration), String> {
        let from = Instant::now();
        let known = fs::metadata(&self.log).map_or(0, |m| m.len());
        let mut running = self.spawn().map_err(|e| e.to_string())?;
        loop {
            let said = fs::read(&self.log).unwrap_or_default();
            let said = said
                .get(usize::try_from(known).unwrap_or(0)..)
                .unwrap_or(&[]);
            let said = String::from_utf8_lossy(said);
            if said.lines().any(|line| line.starts_with("ready ")) {
                return Ok((running, from.elapsed()));
            }
            if let Ok(Some(status)) = running.child.try_wait() {
                return Err(format!("the broker ended at start with {status}: {said}"));
            }
            if from.elapsed() > START {
                running.kill();
                return Err(format!("the broker was not ready within {START:?}: {said}"));
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Running {
    /// Sends SIGKILL: no thread of the process runs its own code again.
    pub fn signal_kill(&mut self) {
        // It fails only for a process that has ended already.
        drop(self.child.kill());
    }

    /// Waits for the end of a killed process.
    pub fn reap(&mut self) {
        drop(self.child.wait());
    }

    /// Both.
    pub fn kill(&mut self) {
        self.signal_kill();
        self.reap();
    }

    /// Whether it has ended by itself.
    pub fn ended(&mut self) -> Option<String> {
        self.child.try_wait().ok().flatten().map(|s| s.to_string())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}
