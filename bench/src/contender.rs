//! Starting and ending the brokers, each on its own loopback port and data directory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result, while_doing};
use crate::plan::Contender;

/// Where things are.
#[derive(Debug, Clone)]
pub struct Places {
    /// Root of the repository.
    pub root: PathBuf,
    /// The built `tidemark`, when there is one.
    pub tidemark: Option<PathBuf>,
    /// Data directories of this run.
    pub data: PathBuf,
    /// First port that is tried.
    pub base_port: u16,
}

/// A broker that was started by us; ended by its process id when dropped.
pub struct Running {
    /// Who it is.
    pub contender: Contender,
    /// `host:port`.
    pub bootstrap: String,
    /// When its process was spawned.
    pub spawned: Instant,
    child: Child,
    log: PathBuf,
    dir: PathBuf,
    port: u16,
    sets: Vec<String>,
}

/// Finds a port that nobody listens on, and for Kafka's controller the next one as well.
pub fn free_port(from: u16) -> Result<u16> {
    (from..from.saturating_add(400))
        .step_by(2)
        .find(|port| {
            [*port, port + 1]
                .iter()
                .all(|p| TcpListener::bind(("127.0.0.1", *p)).is_ok())
        })
        .ok_or_else(|| Failure::Unreachable(format!("no free port from {from} on: try --port")))
}

impl Places {
    /// Starts a contender on a fresh directory and does not wait for it.
    pub fn start(&self, contender: Contender, name: &str) -> Result<Running> {
        self.start_with(contender, name, &[])
    }

    /// The same with settings, `name=value`.
    pub fn start_with(&self, contender: Contender, name: &str, sets: &[String]) -> Result<Running> {
        let dir = self.data.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(while_doing("emptying a data directory"))?;
        }
        fs::create_dir_all(&dir).map_err(while_doing("creating a data directory"))?;
        let port = free_port(self.base_port)?;
        if contender != Contender::Tidemark {
            self.format_kafka(&dir, port)?;
        }
        self.spawn(contender, &dir, port, sets)
    }

    /// Starts a broker that has ended again: same directory, port and settings.
    pub fn restart(&self, ended: Running) -> Result<Running> {
        let (contender, port) = (ended.contender, ended.port);
        let (dir, sets) = (ended.dir.clone(), ended.sets.clone());
        drop(ended);
        self.spawn(contender, &dir, port, &sets)
    }

    fn spawn(
        &self,
        contender: Contender,
        dir: &Path,
        port: u16,
        sets: &[String],
    ) -> Result<Running> {
        let log = dir.join("output.log");
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(while_doing("creating a log file"))?;
        let errors = output
            .try_clone()
            .map_err(while_doing("creating a log file"))?;
        let mut command = match contender {
            Contender::Tidemark => self.tidemark_command(dir, port)?,
            Contender::Kafka | Contender::KafkaFsync => self.kafka_command(contender, dir, port),
        };
        for set in sets {
            command.args(["--set", set]);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let spawned = Instant::now();
        let child = command
            .spawn()
            .map_err(|e| Failure::Unreachable(format!("starting {}: {e}", contender.name())))?;
        // For whoever cleans up after a harness that was killed itself.
        fs::write(dir.join("pid"), child.id().to_string()).map_err(while_doing("writing a pid"))?;
        Ok(Running {
            contender,
            bootstrap: format!("127.0.0.1:{port}"),
            spawned,
            child,
            log,
            dir: dir.to_owned(),
            port,
            sets: sets.to_vec(),
        })
    }

    fn tidemark_command(&self, dir: &Path, port: u16) -> Result<Command> {
        let binary = self.tidemark.as_ref().ok_or_else(|| {
            Failure::Unreachable("TIDEMARK_BIN is not set: start through bench/run".into())
        })?;
        let mut command = Command::new(binary);
        command
            .args(["dev", "--listen", &format!("127.0.0.1:{port}")])
            .arg("--data")
            .arg(dir.join("data"));
        Ok(command)
    }

    /// Kafka's storage is formatted first, so that a start is a start: one JVM and not two.
    fn format_kafka(&self, dir: &Path, port: u16) -> Result<()> {
        let logs = dir.join("logs");
        let properties = dir.join("format.properties");
        fs::write(&properties, format_properties(&logs, port))
            .map_err(while_doing("writing Kafka's properties"))?;
        let formatted = Command::new(self.root.join("lab/bin/kafka"))
            .args([
                "StorageTool",
                "format",
                "--cluster-id",
                "tidemark-bench-peer000",
                "--config",
            ])
            .arg(&properties)
            .output()
            .map_err(while_doing("running lab/bin/kafka"))?;
        if !formatted.status.success() {
            let why = String::from_utf8_lossy(&formatted.stderr).into_owned();
            return Err(Failure::Unreachable(format!(
                "formatting Kafka's storage: {why}"
            )));
        }
        Ok(())
    }

    fn kafka_command(&self, contender: Contender, dir: &Path, port: u16) -> Command {
        let mut command = Command::new(self.root.join("lab/bin/kafka-broker"));
        command
            .args([
                "start",
                "--foreground",
                "--port",
                &port.to_string(),
                "--data",
            ])
            .arg(dir);
        if contender == Contender::KafkaFsync {
            command.args(["--set", "log.flush.interval.messages=1"]);
        }
        command
    }
}

/// The least that Kafka's format command asks for.
fn format_properties(logs: &Path, port: u16) -> String {
    format!(
        "process.roles=broker,controller\nnode.id=1\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\nlog.dirs={logs}\n",
        controller = port + 1,
        logs = logs.display(),
    )
}

impl Running {
    /// The process id of the broker itself: its start script execs.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// An error with the end of the broker's output when it is not alive any more.
    pub fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(Failure::Unreachable(format!(
                "{} ended with {status}; the end of {}:\n{}",
                self.contender.name(),
                self.log.display(),
                tail(&self.log, 15),
            ))),
            Err(e) => Err(while_doing("looking after a broker")(e)),
        }
    }

    /// The last line of its output.
    pub fn last_words(&self) -> String {
        tail(&self.log, 1)
    }

    /// Where its metrics are, when its output says so: `host:port`.
    pub fn metrics_address(&self) -> Option<String> {
        let text = fs::read_to_string(&self.log).ok()?;
        let line = text
            .lines()
            .rev()
            .find(|l| l.contains("has health and metrics"))?;
        let (_, rest) = line.split_once("http://")?;
        Some(rest.split_once('/')?.0.to_owned())
    }

    /// Asks the broker to stop and waits for it; seconds, or `None` when it had to be killed.
    pub fn stop_within(&mut self, patience: Duration) -> Option<f64> {
        let began = Instant::now();
        self.signal(rustix::process::Signal::TERM);
        while began.elapsed() < patience {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return Some(began.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        None
    }

    /// kill -9, and waits until it is gone.
    pub fn kill(&mut self) {
        self.child.kill().unwrap_or_default();
        self.child.wait().ok();
    }

    fn signal(&mut self, signal: rustix::process::Signal) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let pid = rustix::process::Pid::from_child(&self.child);
            // An error means that it is gone, which waiting for it tells.
            rustix::process::kill_process(pid, signal).unwrap_or_default();
        }
    }

    /// Asks the broker to stop, kills it after 20 s, and removes its data.
    pub fn stop(mut self, keep: bool) {
        self.end();
        if !keep {
            // Left-over data is removed by bench/run as well.
            fs::remove_dir_all(&self.dir).unwrap_or_default();
        }
    }

    fn end(&mut self) {
        self.stop_within(Duration::from_secs(20));
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn tail(path: &Path, lines: usize) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_in_use_are_passed_over() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = taken.local_addr().unwrap().port();
        let found = free_port(port).unwrap();
        assert!(found > port);
        // The odd one counts as well: it is the controller's.
        assert_ne!(free_port(port - 1).unwrap(), port - 1);
    }

    #[test]
    fn a_process_that_ended_is_reported_with_its_last_words() {
        let dir = std::env::temp_dir().join(format!("tidemark-bench-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let log = dir.join("output.log");
        fs::write(&log, "first\nlast words\n").unwrap();
        let mut child = Command::new("false").spawn().unwrap();
        child.wait().unwrap();
        let mut running = Running {
            contender: Contender::Kafka,
            bootstrap: String::new(),
            spawned: Instant::now(),
            child,
            log,
            dir: dir.clone(),
            port: 0,
            sets: Vec::new(),
        };
        let text = running.check_alive().unwrap_err().to_string();
        assert!(text.contains("last words"), "{text}");
        running.stop(false);
        assert!(!dir.exists());
    }
}
