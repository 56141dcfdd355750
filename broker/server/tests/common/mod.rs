//! A broker in this process, and a client that speaks in frames.

#![allow(clippy::panic, reason = "these are helpers of tests")]

use bytes::{BufMut, Bytes, BytesMut};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tidemark_config::ConfigMap;
use tidemark_env::clock;
use tidemark_env::disk::{Disk, FileDisk};
use tidemark_env::net::{self, Stream};
use tidemark_server::{RunningServer, ServerConfig, StartError};
use tidemark_wire::messages::{RequestHeader, ResponseHeader};
use tidemark_wire::{
    ApiKey, Message, Reader, Request, Writer, request_header_version, response_header_version,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Longer than any answer takes.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// `host:port` that nobody else has: an address within 127/8 of its own. A port of 127.0.0.1 that
/// was free when it was chosen may be another's when it is used, or between two uses.
pub fn own_address() -> String {
    static TAKEN: AtomicU16 = AtomicU16::new(0);
    let nth = TAKEN.fetch_add(1, Ordering::Relaxed) % 200;
    let [_, _, high, low] = std::process::id().to_be_bytes();
    format!("127.{}.{high}.{low}:19093", nth + 1)
}

/// A broker on a free port, with its data in a directory that goes with it.
pub struct TestBroker {
    pub server: RunningServer,
    pub dir: TempDir,
}

/// Starts a broker with these settings on top.
pub async fn broker(settings: &[(&str, &str)]) -> TestBroker {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let server = start_in(&dir, settings).await;
    TestBroker { server, dir }
}

/// Starts a broker on the data of an earlier one. One that was dropped, not shut down, lets its
/// directories go as its tasks end: this waits for that.
pub async fn start_in(dir: &TempDir, settings: &[(&str, &str)]) -> RunningServer {
    let deadline = clock::monotonic() + PATIENCE;
    loop {
        match try_start(Arc::new(FileDisk::new()), dir.path(), settings).await {
            Ok(server) => return server,
            Err(error)
                if format!("{error:?}").contains("InUse") && clock::monotonic() < deadline =>
            {
                clock::sleep(Duration::from_millis(5)).await;
            }
            Err(error) => panic!("the broker does not start: {error:?}"),
        }
    }
}

/// Starts a broker on this disk, if it can.
pub async fn try_start(
    disk: Arc<dyn Disk>,
    dir: &Path,
    settings: &[(&str, &str)],
) -> Result<RunningServer, StartError> {
    let mut map = ConfigMap::from([
        (
            "listeners".to_string(),
            "PLAINTEXT://127.0.0.1:0".to_string(),
        ),
        ("http.listen".to_string(), "127.0.0.1:0".to_string()),
        ("log.dirs".to_string(), dir.display().to_string()),
        (
            "group.initial.rebalance.delay.ms".to_string(),
            "0".to_string(),
        ),
        ("offsets.topic.num.partitions".to_string(), "3".to_string()),
    ]);
    map.extend(
        settings
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string())),
    );
    let config = ServerConfig {
        settings: map,
        disk,
        net_threads: 2,
        cut_corrupt_logs: false,
        format_if_empty: true,
        bucket: None,
    };
    tidemark_server::start(config).await
}

/// One connection.
pub struct Connection {
    stream: Stream,
    correlation_id: i32,
}

impl Connection {
    pub async fn open(server: &RunningServer) -> Connection {
        Connection::to(&server.bootstrap()).await
    }

    /// To an address.
    pub async fn to(address: &str) -> Connection {
        let stream = net::connect(address, PATIENCE)
            .await
            .expect("the broker listens");
        Connection {
            stream,
            correlation_id: 0,
        }
    }

    /// Sends bytes as they are.
    pub async fn send_raw(&mut self, bytes: &[u8]) {
        assert!(self.try_send_raw(bytes).await, "the connection takes bytes");
    }

    async fn try_send_raw(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Sends a frame with this header and body.
    pub async fn send_body(
        &mut self,
        api: i16,
        version: i16,
        header_version: i16,
        body: &[u8],
    ) -> i32 {
        let sent = self.try_send_body(api, version, header_version, body).await;
        sent.expect("the connection takes bytes")
    }

    async fn try_send_body(
        &mut self,
        api: i16,
        version: i16,
        header_version: i16,
        body: &[u8],
    ) -> Option<i32> {
        self.correlation_id += 1;
        let header = RequestHeader {
            request_api_key: api,
            request_api_version: version,
            correlation_id: self.correlation_id,
            client_id: Some("test".into()),
            ..Default::default()
        };
        let mut writer = Writer::new();
        header
            .encode(&mut writer, header_version)
            .expect("a header");
        let header = writer.into_bytes();
        let mut frame = BytesMut::new();
        frame.put_u32((header.len() + body.len()) as u32);
        frame.put_slice(&header);
        frame.put_slice(body);
        let sent = self.try_send_raw(&frame).await;
        sent.then_some(self.correlation_id)
    }

    /// Sends a request without waiting for its answer.
    pub async fn send<R: Request>(&mut self, request: &R, version: i16) -> i32 {
        let sent = self.try_send(request, version).await;
        sent.expect("the connection takes bytes")
    }

    /// Sends a request; `None` when the broker has closed the connection.
    pub async fn try_send<R: Request>(&mut self, request: &R, version: i16) -> Option<i32> {
        let body = tidemark_wire::encode(request, version).expect("the request fits its version");
        let header = request_header_version(R::API_KEY, version);
        self.try_send_body(R::API_KEY as i16, version, header, &body)
            .await
    }

    /// The next frame; `None` when the broker closed the connection.
    pub async fn frame(&mut self) -> Option<Bytes> {
        let read = async {
            let length = self.stream.read_u32().await.ok()?;
            let mut frame = vec![0; length as usize];
            self.stream.read_exact(&mut frame).await.ok()?;
            Some(Bytes::from(frame))
        };
        tidemark_env::clock::timeout(PATIENCE, read)
            .await
            .expect("the broker answers in time")
    }

    /// The next answer, which must be to `correlation_id`.
    pub async fn answer<R: Request>(
        &mut self,
        version: i16,
        correlation_id: i32,
    ) -> Option<R::Response> {
        let frame = self.frame().await?;
        let mut reader = Reader::new(frame);
        let header_version = response_header_version(R::API_KEY, version);
        let header =
            ResponseHeader::decode(&mut reader, header_version).expect("a response header");
        assert_eq!(
            header.correlation_id, correlation_id,
            "answers come in the order of requests"
        );
        let response =
            R::Response::decode(&mut reader, version).expect("an answer of the version asked for");
        reader.finish().expect("nothing after the answer");
        Some(response)
    }

    /// Asks and waits for the answer; `None` when the broker closed the connection.
    pub async fn try_ask<R: Request>(&mut self, request: &R, version: i16) -> Option<R::Response> {
        let id = self.try_send(request, version).await?;
        self.answer::<R>(version, id).await
    }

    /// Asks and waits for the answer.
    pub async fn ask<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        let answer = self.try_ask(request, version).await;
        answer.unwrap_or_else(|| {
            panic!(
                "{} version {version}: the broker closed the connection",
                R::NAME
            )
        })
    }
}

/// Every API that the broker serves, at every version.
pub fn versions(api: ApiKey) -> std::ops::RangeInclusive<i16> {
    let (first, last) = api.stable_versions();
    first..=last
}

/// Status line and body of a page of the broker's HTTP port.
pub async fn get(server: &RunningServer, path: &str) -> (String, String) {
    let address = server.http().expect("an HTTP port").to_string();
    get_from(&address, path).await
}

/// The same of a server that may not serve clients yet.
pub async fn get_from(address: &str, path: &str) -> (String, String) {
    let mut stream = net::connect(address, PATIENCE).await.expect("a connection");
    let request = format!("GET {path} HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it is taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (
        head.lines().next().expect("a status").to_owned(),
        body.to_owned(),
    )
}

/// The value of one series of a page of metrics.
pub fn series(page: &str, name: &str) -> String {
    let line = page.lines().find(|line| {
        line.rsplit_once(' ')
            .is_some_and(|(found, _)| found == name)
    });
    let line = line.unwrap_or_else(|| panic!("no {name} in {page}"));
    line.rsplit_once(' ').expect("a value").1.to_owned()
}
