//! Brokers and commands as processes.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The binary under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_tidemark");
/// What every wait for a condition gives up after.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A `tidemark dev` with its data in a directory of its own; killed when dropped.
pub struct Broker {
    process: Child,
    /// Where it listens.
    pub address: String,
    /// Where its data is; kept while the broker is, and for [`Broker::restart`].
    data: Option<tempfile::TempDir>,
    /// What it says after it is ready.
    said: std::sync::mpsc::Receiver<String>,
}

impl Broker {
    /// A fresh broker.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// A fresh broker with more arguments for `dev`.
    pub fn start_with(arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        command.args(arguments_of_dev("127.0.0.1:0"));
        command.args(arguments);
        Self::spawn(command, tempfile::tempdir().expect("a directory for data"))
    }

    /// A fresh broker that may open so many files.
    pub fn start_with_open_files(limit: u32) -> Self {
        let mut command = Command::new("sh");
        let line = format!("ulimit -n {limit}; exec \"$0\" \"$@\"");
        command.arg("-c").arg(line).arg(BINARY);
        command.args(arguments_of_dev("127.0.0.1:0"));
        Self::spawn(command, tempfile::tempdir().expect("a directory for data"))
    }

    fn spawn(mut command: Command, data: tempfile::TempDir) -> Self {
        let process = command.arg("--data").arg(data.path());
        let mut process = process
            .env_remove("TIDEMARK_BOOTSTRAP")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut lines = BufReader::new(process.stdout.take().expect("a pipe")).lines();
        let ready = lines.next().and_then(Result::ok).unwrap_or_default();
        let Some(address) = ready.strip_prefix("ready  ") else {
            let output = process.wait_with_output().expect("its output");
            panic!(
                "not ready: {ready}{}",
                String::from_utf8_lossy(&output.stderr)
            );
        };
        let address = address.to_owned();
        // What it says later must not fill the pipes.
        let (sender, said) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                drop(sender.send(line));
            }
        });
        let mut errors = process.stderr.take().expect("a pipe");
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        Self {
            process,
            address,
            data: Some(data),
            said,
        }
    }

    /// Waits until it says something with this in it; the line.
    pub fn says(&self, what: &str) -> String {
        let begun = Instant::now();
        let mut seen = Vec::new();
        while let Some(left) = PATIENCE.checked_sub(begun.elapsed()) {
            match self.said.recv_timeout(left) {
                Ok(line) if line.contains(what) => return line,
                Ok(line) => seen.push(line),
                Err(_) => break,
            }
        }
        panic!("it did not say '{what}', but {seen:#?}");
    }

    /// Ends it with a signal and waits; answers its exit code, if it had one.
    pub fn stop(&mut self, signal: &str) -> Option<i32> {
        send_signal(&self.process, signal);
        self.process.wait().expect("it ends").code()
    }

    /// Starts it again over the same data at the same address. It must have been stopped.
    pub fn restart(self) -> Self {
        self.restart_with(&[])
    }

    /// As [`Broker::restart`], with more arguments for `dev`.
    pub fn restart_with(mut self, arguments: &[&str]) -> Self {
        let mut command = Command::new(BINARY);
        // The ports of a cluster are found anew.
        let several = self.address.contains(',');
        let listen = if several {
            "127.0.0.1:0"
        } else {
            &self.address
        };
        command.args(arguments_of_dev(listen)).args(arguments);
        let data = self
            .data
            .take()
            .expect("a broker has its data until it is started again");
        Self::spawn(command, data)
    }

    /// A command against this broker.
    pub fn run(&self, arguments: &[&str]) -> Done {
        self.run_with_input(arguments, b"")
    }

    /// A command against this broker with something on its standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &[u8]) -> Done {
        run_against(&self.address, arguments, input)
    }

    /// A command that must succeed; its standard output.
    pub fn ok(&self, arguments: &[&str]) -> String {
        self.run(arguments).ok()
    }

    /// As [`Broker::ok`], with something on standard input.
    pub fn ok_with_input(&self, arguments: &[&str], input: &[u8]) -> String {
        self.run_with_input(arguments, input).ok()
    }

    /// A command that must succeed, with `-o json`.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let mut all = arguments.to_vec();
        all.extend(["-o", "json"]);
        serde_json::from_str(&self.ok(&all)).expect("JSON")
    }

    /// Where its data is.
    pub fn data(&self) -> &std::path::Path {
        self.data
            .as_ref()
            .expect("a broker has its data until it is started again")
            .path()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.id()
    }

    /// A command that goes on beside the test.
    pub fn background(&self, arguments: &[&str]) -> Background {
        let child = command(&self.address, arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        Background::watch(child)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have been stopped before.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn arguments_of_dev(listen: &str) -> Vec<String> {
    ["dev", "--listen", listen]
        .iter()
        .map(ToString::to_string)
        .collect()
}

fn send_signal(process: &Child, signal: &str) {
    let sent = Command::new("kill")
        .args(["-s", signal, &process.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success(), "signal {signal} was not taken");
}

fn command(address: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(["--bootstrap", address, "--timeout", "20s"])
        .args(arguments)
        .env_remove("TIDEMARK_BOOTSTRAP")
        // What fills this machine's disk is not the broker's.
        .env("TIDEMARK_LOW_DISK_PERCENT", "2");
    command
}

/// A command against any address.
pub fn run_against(address: &str, arguments: &[&str], input: &[u8]) -> Done {
    let mut child = command(address, arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    // A command that ends before it has read everything closes the pipe.
    let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("the writer ends");
    Done::new(&output)
}

/// What a command said and how it ended.
#[derive(Debug)]
pub struct Done {
    /// Its exit code; -1 for a signal.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Done {
    fn new(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// Its standard output; the test fails unless it succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{self:?}");
        self.stdout
    }

    /// The test fails unless it ended with this code and said this on standard error.
    pub fn failed(self, code: i32, said: &str) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        assert!(self.stderr.contains(said), "no '{said}' in {self:?}");
        self
    }
}

/// A command that goes on beside the test; killed when dropped.
pub struct Background {
    child: Child,
    lines: std::sync::mpsc::Receiver<String>,
    /// What it has written so far.
    pub seen: Vec<String>,
}

impl Background {
    fn watch(mut child: Child) -> Self {
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let (sender, lines) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    /// Writes to its standard input.
    pub fn write(&mut self, input: &[u8]) {
        let stdin = self.child.stdin.as_mut().expect("a pipe");
        stdin
            .write_all(input)
            .and_then(|()| stdin.flush())
            .expect("it reads");
    }

    /// Takes what it has written until now.
    pub fn drain(&mut self) {
        self.seen.extend(self.lines.try_iter());
    }

    /// Waits until it has written at least so many lines.
    pub fn wait_for_lines(&mut self, count: usize) {
        until(&format!("{count} lines"), || {
            self.drain();
            self.seen.len() >= count
        });
    }

    /// Ends its input, waits for it, and takes the rest of what it writes; answers its exit code.
    pub fn finish(mut self) -> (i32, Vec<String>) {
        drop(self.child.stdin.take());
        let code = self.child.wait().expect("it ends").code().unwrap_or(-1);
        self.seen.extend(self.lines.iter());
        (code, std::mem::take(&mut self.seen))
    }

    /// Sends it a signal, then as [`Background::finish`].
    pub fn stop(self, signal: &str) -> (i32, Vec<String>) {
        send_signal(&self.child, signal);
        self.finish()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        // It may be over already.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// Asks again and again until it is so.
pub fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(
            begun.elapsed() < PATIENCE,
            "{what} did not come true in {PATIENCE:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Numbered lines.
pub fn numbers(range: std::ops::RangeInclusive<u32>) -> Vec<u8> {
    range
        .map(|n| format!("{n}\n"))
        .collect::<String>()
        .into_bytes()
}
