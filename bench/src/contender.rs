//! Starting and ending the brokers, each on its own loopback port and data directory.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::client;
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

/// A broker, or a cluster of some, that was started by us; ended by process id when dropped.
pub struct Running {
    /// Who it is.
    pub contender: Contender,
    /// `host:port` of each broker, with commas between; see [`crate::client`] for TLS.
    pub bootstrap: String,
    /// When its first process was spawned.
    pub spawned: Instant,
    nodes: Vec<Node>,
}

/// One process.
struct Node {
    child: Child,
    log: PathBuf,
    place: Place,
}

/// Where a node is, and what it is told.
#[derive(Clone)]
struct Place {
    dir: PathBuf,
    port: u16,
    sets: Vec<String>,
    /// The file that a member of a cluster of ours is started with.
    config: Option<PathBuf>,
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
        let dir = self.fresh(name)?;
        let port = free_port(self.base_port)?;
        if contender != Contender::Tidemark {
            self.format_kafka(&dir, &format_properties(&dir.join("logs"), port))?;
        }
        let place = Place {
            dir,
            port,
            sets: sets.to_vec(),
            config: None,
        };
        self.spawn_all(contender, vec![place])
    }

    /// Starts a contender whose listener speaks TLS.
    pub fn start_private(&self, contender: Contender, name: &str) -> Result<Running> {
        let certificate = client::certificate(&self.data)?;
        let mut running = self.start_with(contender, name, &client::settings(&certificate))?;
        running.bootstrap = client::by_tls(&certificate, &running.bootstrap);
        Ok(running)
    }

    /// Starts a cluster of three on fresh directories, each both broker and controller, with
    /// three replicas of everything, two of which have to have a record that is acknowledged.
    pub fn start_cluster(&self, contender: Contender, name: &str) -> Result<Running> {
        let mut members = Vec::new();
        let mut from = self.base_port;
        for id in 1..=CLUSTER {
            let port = free_port(from)?;
            from = port + 2;
            let dir = self.fresh(&format!("{name}-{id}"))?;
            members.push(Member { id, dir, port });
        }
        let places = match contender {
            Contender::Tidemark => self.form(&members)?,
            Contender::Kafka | Contender::KafkaFsync => self.form_kafka(&members)?,
        };
        self.spawn_all(contender, places)
    }

    /// Starts what has ended again: same directories, ports and settings.
    pub fn restart(&self, ended: Running) -> Result<Running> {
        let contender = ended.contender;
        let places = ended.nodes.iter().map(|node| node.place.clone()).collect();
        drop(ended);
        self.spawn_all(contender, places)
    }

    fn fresh(&self, name: &str) -> Result<PathBuf> {
        let dir = self.data.join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir).map_err(while_doing("emptying a data directory"))?;
        }
        fs::create_dir_all(&dir).map_err(while_doing("creating a data directory"))?;
        Ok(dir)
    }

    fn spawn_all(&self, contender: Contender, places: Vec<Place>) -> Result<Running> {
        let at: Vec<String> = places
            .iter()
            .map(|place| format!("127.0.0.1:{}", place.port))
            .collect();
        let mut running = Running {
            contender,
            bootstrap: at.join(","),
            spawned: Instant::now(),
            nodes: Vec::new(),
        };
        for place in places {
            running.nodes.push(self.spawn(contender, place)?);
        }
        Ok(running)
    }

    fn spawn(&self, contender: Contender, place: Place) -> Result<Node> {
        let log = place.dir.join("output.log");
        let output = File::options()
            .create(true)
            .append(true)
            .open(&log)
            .map_err(while_doing("creating a log file"))?;
        let errors = output
            .try_clone()
            .map_err(while_doing("creating a log file"))?;
        let mut command = match contender {
            Contender::Tidemark => self.tidemark_command(&place)?,
            Contender::Kafka | Contender::KafkaFsync => self.kafka_command(contender, &place),
        };
        for set in &place.sets {
            command.args(["--set", set]);
        }
        command.stdin(Stdio::null()).stdout(output).stderr(errors);
        let child = command
            .spawn()
            .map_err(|e| Failure::Unreachable(format!("starting {}: {e}", contender.name())))?;
        // For whoever cleans up after a harness that was killed itself.
        fs::write(place.dir.join("pid"), child.id().to_string())
            .map_err(while_doing("writing a pid"))?;
        Ok(Node { child, log, place })
    }

    fn tidemark_binary(&self) -> Result<Command> {
        let binary = self.tidemark.as_ref().ok_or_else(|| {
            Failure::Unreachable("TIDEMARK_BIN is not set: start through bench/run".into())
        })?;
        Ok(Command::new(binary))
    }

    fn tidemark_command(&self, place: &Place) -> Result<Command> {
        let mut command = self.tidemark_binary()?;
        match &place.config {
            Some(config) => command.args(["broker", "--config"]).arg(config),
            None => command
                .args(["dev", "--listen", &format!("127.0.0.1:{}", place.port)])
                .arg("--data")
                .arg(place.dir.join("data")),
        };
        Ok(command)
    }

    /// Writes the three files and formats the three directories.
    fn form(&self, members: &[Member]) -> Result<Vec<Place>> {
        let voters: Vec<String> = members
            .iter()
            .map(|m| format!("{}@127.0.0.1:{}:{}", m.id, m.port + 1, directory_id(m.id)))
            .collect();
        let mut places = Vec::new();
        for member in members {
            let config = member.dir.join("broker.properties");
            let text = format!(
                "node.id={id}\nprocess.roles=broker,controller\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}\n\
                 controller.listener.names=CONTROLLER\n\
                 controller.quorum.bootstrap.servers={servers}\n\
                 log.dirs={data}\nhttp.listen=127.0.0.1:0\n{REPLICATED}",
                id = member.id,
                port = member.port,
                controller = member.port + 1,
                servers = controllers(members, |_, address| address),
                data = member.dir.join("data").display(),
            );
            fs::write(&config, text).map_err(while_doing("writing a configuration"))?;
            let mut format = self.tidemark_binary()?;
            format
                .args(["format", "--cluster-id", CLUSTER_ID, "--initial-voters"])
                .arg(voters.join(","))
                .arg("--config")
                .arg(&config);
            run("formatting our storage", format)?;
            places.push(Place {
                dir: member.dir.clone(),
                port: member.port,
                sets: Vec::new(),
                config: Some(config),
            });
        }
        Ok(places)
    }

    fn form_kafka(&self, members: &[Member]) -> Result<Vec<Place>> {
        let voters = controllers(members, |id, address| format!("{id}@{address}"));
        let mut places = Vec::new();
        for member in members {
            let mut sets = vec![
                format!("node.id={}", member.id),
                format!("controller.quorum.voters={voters}"),
            ];
            sets.extend(REPLICATED.lines().map(str::to_owned));
            // A later line of a properties file replaces an earlier one.
            let text =
                format_properties(&member.dir.join("logs"), member.port) + &sets.join("\n") + "\n";
            self.format_kafka(&member.dir, &text)?;
            places.push(Place {
                dir: member.dir.clone(),
                port: member.port,
                sets,
                config: None,
            });
        }
        Ok(places)
    }

    /// Kafka's storage is formatted first, so that a start is a start: one JVM and not two.
    fn format_kafka(&self, dir: &Path, text: &str) -> Result<()> {
        let properties = dir.join("format.properties");
        fs::write(&properties, text).map_err(while_doing("writing Kafka's properties"))?;
        let mut format = Command::new(self.root.join("lab/bin/kafka"));
        format
            .args(["StorageTool", "format", "--cluster-id", CLUSTER_ID])
            .arg("--config")
            .arg(&properties);
        run("formatting Kafka's storage", format)
    }

    fn kafka_command(&self, contender: Contender, place: &Place) -> Command {
        let mut command = Command::new(self.root.join("lab/bin/kafka-broker"));
        command
            .args(["start", "--foreground", "--port", &place.port.to_string()])
            .arg("--data")
            .arg(&place.dir);
        if contender == Contender::KafkaFsync {
            command.args(["--set", "log.flush.interval.messages=1"]);
        }
        command
    }
}

/// Brokers of a cluster.
const CLUSTER: u16 = 3;
const CLUSTER_ID: &str = "tidemark-bench-peer00A";
/// What all members of a cluster are told.
const REPLICATED: &str = "default.replication.factor=3\nmin.insync.replicas=2\n\
    offsets.topic.replication.factor=3\n";

/// A member of a cluster that is to be formed.
struct Member {
    id: u16,
    dir: PathBuf,
    port: u16,
}

/// The controllers' addresses, each as `written`, with commas between.
fn controllers(members: &[Member], written: impl Fn(u16, String) -> String) -> String {
    let all: Vec<String> = members
        .iter()
        .map(|m| written(m.id, format!("127.0.0.1:{}", m.port + 1)))
        .collect();
    all.join(",")
}

/// An id in the form of a uuid, another one for each member.
fn directory_id(id: u16) -> String {
    format!("tidemark-bench-dir{id}000")
        .chars()
        .take(21)
        .chain(['A'])
        .collect()
}

/// Runs a command to its end.
fn run(what: &'static str, mut command: Command) -> Result<()> {
    let done = command.output().map_err(while_doing(what))?;
    if done.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&done.stderr).into_owned();
    Err(Failure::Unreachable(format!("{what}: {why}")))
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
    /// The process ids of the brokers themselves: their start scripts exec.
    pub fn pids(&self) -> Vec<u32> {
        self.nodes.iter().map(|node| node.child.id()).collect()
    }

    /// An error with the end of a broker's output when it is not alive any more.
    pub fn check_alive(&mut self) -> Result<()> {
        for node in &mut self.nodes {
            match node.child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    return Err(Failure::Unreachable(format!(
                        "{} ended with {status}; the end of {}:\n{}",
                        self.contender.name(),
                        node.log.display(),
                        tail(&node.log, 15),
                    )));
                }
                Err(e) => return Err(while_doing("looking after a broker")(e)),
            }
        }
        Ok(())
    }

    /// The last line of the first broker's output.
    pub fn last_words(&self) -> String {
        self.nodes
            .first()
            .map_or_else(String::new, |node| tail(&node.log, 1))
    }

    /// Where the metrics of each broker are, when its output says so: `host:port`.
    pub fn metrics_addresses(&self) -> Vec<Option<String>> {
        let address = |node: &Node| {
            let text = fs::read_to_string(&node.log).ok()?;
            let line = text
                .lines()
                .rev()
                .find(|l| l.contains("has health and metrics"))?;
            let (_, rest) = line.split_once("http://")?;
            Some(rest.split_once('/')?.0.to_owned())
        };
        self.nodes.iter().map(address).collect()
    }

    /// Asks the brokers to stop and waits for them; seconds, or `None` when one had to be killed.
    pub fn stop_within(&mut self, patience: Duration) -> Option<f64> {
        let began = Instant::now();
        for node in &mut self.nodes {
            node.signal(rustix::process::Signal::TERM);
        }
        while began.elapsed() < patience {
            if self.nodes.iter_mut().all(Node::has_ended) {
                return Some(began.elapsed().as_secs_f64());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.kill();
        None
    }

    /// kill -9, and waits until all are gone.
    pub fn kill(&mut self) {
        for node in &mut self.nodes {
            node.child.kill().unwrap_or_default();
            node.child.wait().ok();
        }
    }

    /// Asks the brokers to stop, kills them after 20 s, and removes their data.
    pub fn stop(mut self, keep: bool) {
        self.end();
        if !keep {
            for node in &self.nodes {
                // Left-over data is removed by bench/run as well.
                fs::remove_dir_all(&node.place.dir).unwrap_or_default();
            }
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

impl Node {
    fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    fn signal(&mut self, signal: rustix::process::Signal) {
        if !self.has_ended() {
            let pid = rustix::process::Pid::from_child(&self.child);
            // An error means that it is gone, which waiting for it tells.
            rustix::process::kill_process(pid, signal).unwrap_or_default();
        }
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
        let place = Place {
            dir: dir.clone(),
            port: 0,
            sets: Vec::new(),
            config: None,
        };
        let mut running = Running {
            contender: Contender::Kafka,
            bootstrap: String::new(),
            spawned: Instant::now(),
            nodes: vec![Node { child, log, place }],
        };
        let text = running.check_alive().unwrap_err().to_string();
        assert!(text.contains("last words"), "{text}");
        running.stop(false);
        assert!(!dir.exists());
    }
}
