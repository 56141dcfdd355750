use super::listener::Bounded;
use super::*;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use tidemark_env::net::Stream;
use tidemark_env::runtime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const TIMEOUT: Duration = Duration::from_secs(60);

/// A broker that is what the test says.
#[derive(Default)]
struct Fake {
    stuck: AtomicBool,
    ready: AtomicBool,
    scraping: AtomicUsize,
    most_at_once: AtomicUsize,
}

impl Health for Fake {
    fn live(&self) -> bool {
        !self.stuck.load(Ordering::SeqCst)
    }

    fn ready(&self) -> Result<(), String> {
        match self.ready.load(Ordering::SeqCst) {
            true => Ok(()),
            false => Err("opening logs, 312 of 4000".to_owned()),
        }
    }

    fn state(&self) -> serde_json::Value {
        serde_json::json!({"lifecycle": {"state": "Recovering", "done": 312, "total": 4000}})
    }

    fn scrape(&self) -> String {
        let now = self.scraping.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_at_once.fetch_max(now, Ordering::SeqCst);
        // Gives others every chance to come in between.
        (0..1000).for_each(|_| std::thread::yield_now());
        self.scraping.fetch_sub(1, Ordering::SeqCst);
        "tidemark_ready 1\n".to_owned()
    }

    fn scrape_partitions(&self) -> String {
        "tidemark_partition_online{topic=\"a\",partition=\"0\"} 1\n".to_owned()
    }
}

/// A server with a way to stop it.
struct Server {
    health: Arc<Fake>,
    address: String,
    stop: watch::Sender<bool>,
    task: task::Task<()>,
}

impl Server {
    async fn start() -> Server {
        let health = Arc::new(Fake::default());
        let server = bind("127.0.0.1:0").await.unwrap();
        let address = server.address.to_string();
        let (stop, stopping) = watch::channel(false);
        let answering = Arc::clone(&health) as Arc<dyn Health>;
        let task = task::spawn("http", server.run(answering, stopping));
        Server {
            health,
            address,
            stop,
            task,
        }
    }

    async fn connect(&self) -> Stream {
        net::connect(&self.address, TIMEOUT).await.unwrap()
    }

    /// Status line with headers, and body.
    async fn get(&self, path: &str) -> (String, String) {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
        ))
        .await
    }

    async fn ask(&self, request: &str) -> (String, String) {
        let mut stream = self.connect().await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        clock::timeout(TIMEOUT, stream.read_to_string(&mut answer))
            .await
            .unwrap()
            .unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_owned(), body.to_owned())
    }
}

fn with_server<F: Future<Output = ()>>(test: impl FnOnce(Server) -> F) {
    runtime::block_on(async { test(Server::start().await).await }).unwrap();
}

fn has_status(head: &str, status: u16) -> bool {
    head.starts_with(&format!("HTTP/1.1 {status} "))
}

#[test]
fn liveness_follows_the_watchdog() {
    with_server(|server| async move {
        let (head, body) = server.get("/livez").await;
        assert!(has_status(&head, 200), "{head}");
        assert_eq!(body, "live\n");
        server.health.stuck.store(true, Ordering::SeqCst);
        let (head, body) = server.get("/livez").await;
        assert!(has_status(&head, 503), "{head}");
        assert!(body.starts_with("not live: "), "{body}");
    });
}

#[test]
fn readiness_says_why_not() {
    with_server(|server| async move {
        let (head, body) = server.get("/readyz").await;
        assert!(has_status(&head, 503), "{head}");
        assert_eq!(body, "not ready: opening logs, 312 of 4000\n");
        server.health.ready.store(true, Ordering::SeqCst);
        let (head, body) = server.get("/readyz").await;
        assert!(has_status(&head, 200), "{head}");
        assert_eq!(body, "ready\n");
    });
}

#[test]
fn state_is_json() {
    with_server(|server| async move {
        let (head, body) = server.get("/state").await;
        assert!(has_status(&head, 200), "{head}");
        assert!(head.contains("content-type: application/json"), "{head}");
        let state: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(state, server.health.state());
    });
}

#[test]
fn metrics_have_the_type_that_scrapers_want() {
    with_server(|server| async move {
        for (path, page) in [
            ("/metrics", "tidemark_ready 1\n"),
            (
                "/metrics/partitions",
                "tidemark_partition_online{topic=\"a\",partition=\"0\"} 1\n",
            ),
        ] {
            let (head, body) = server.get(path).await;
            assert!(has_status(&head, 200), "{head}");
            assert!(
                head.contains("content-type: text/plain; version=0.0.4"),
                "{head}"
            );
            assert_eq!(body, page);
        }
    });
}

#[test]
fn the_index_lists_what_answers() {
    with_server(|server| async move {
        server.health.ready.store(true, Ordering::SeqCst);
        let (head, index) = server.get("/").await;
        assert!(has_status(&head, 200), "{head}");
        assert_eq!(index.lines().count(), 5);
        for line in index.lines() {
            let (head, _) = server.get(line.split(' ').next().unwrap()).await;
            assert!(has_status(&head, 200), "{line}: {head}");
        }
    });
}

#[test]
fn an_unknown_path_is_told_what_there_is() {
    with_server(|server| async move {
        for path in ["/health", "/metrics/", "/../etc/passwd", "/%00"] {
            let (head, body) = server.get(path).await;
            assert!(has_status(&head, 404), "{path}: {head}");
            assert!(body.contains("/readyz"), "{path}: {body}");
        }
        let (_, body) = server.get(&format!("/{}", "a".repeat(5000))).await;
        assert!(body.len() < 1000, "{body}");
    });
}

#[test]
fn only_reading_is_allowed() {
    with_server(|server| async move {
        let (head, _) = server
            .ask(
                "POST /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            )
            .await;
        assert!(has_status(&head, 405), "{head}");
    });
}

#[test]
fn what_is_not_http_is_answered_and_closed() {
    with_server(|server| async move {
        let (head, _) = server.ask("\u{0}\u{0}\u{0}\u{12}garbage\r\n\r\n").await;
        assert!(has_status(&head, 400), "{head}");
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "x: y\r\n".repeat(200));
        let (head, _) = server.ask(&many).await;
        assert!(has_status(&head, 431), "{head}");
        let (head, _) = server.get("/livez").await;
        assert!(has_status(&head, 200), "{head}");
    });
}

#[test]
fn one_page_at_a_time_is_collected() {
    with_server(|server| async move {
        let mut open = Vec::new();
        for _ in 0..8 {
            let mut stream = server.connect().await;
            let request = b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
            stream.write_all(request).await.unwrap();
            open.push(stream);
        }
        for mut stream in open {
            let mut answer = String::new();
            clock::timeout(TIMEOUT, stream.read_to_string(&mut answer))
                .await
                .unwrap()
                .unwrap();
            assert!(has_status(&answer, 200), "{answer}");
        }
        assert_eq!(server.health.most_at_once.load(Ordering::SeqCst), 1);
    });
}

#[test]
fn it_stops_with_connections_open() {
    with_server(|server| async move {
        // One that is idle between requests, and one in the middle of a request for ever.
        let mut kept = server.connect().await;
        kept.write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
            .await
            .unwrap();
        let mut answer = [0; 12];
        kept.read_exact(&mut answer).await.unwrap();
        let mut stuck = server.connect().await;
        stuck.write_all(b"GET /livez HT").await.unwrap();
        assert!(has_status(&server.get("/livez").await.0, 200));

        server.stop.send(true).unwrap();
        clock::timeout(TIMEOUT, server.task).await.unwrap().unwrap();
        assert!(net::connect(&server.address, TIMEOUT).await.is_err());
    });
}

#[test]
fn it_stops_when_nobody_is_left_to_stop_it() {
    with_server(|server| async move {
        drop(server.stop);
        clock::timeout(TIMEOUT, server.task).await.unwrap().unwrap();
    });
}

/// A server with limits of its own.
async fn limited(connections: usize, idle: Duration) -> (String, task::Task<()>) {
    let server = bind("127.0.0.1:0").await.unwrap();
    let address = server.address.to_string();
    let listener = Bounded::with(server.listener, server.address, connections, idle);
    let serve = axum::serve(listener, router(Arc::new(Fake::default())));
    (
        address,
        task::spawn("http", async move { drop(serve.await) }),
    )
}

#[test]
fn connections_are_bounded_and_come_free_again() {
    runtime::block_on(async {
        let (address, task) = limited(2, TIMEOUT).await;
        let ask = || async {
            let mut stream = net::connect(&address, TIMEOUT).await.unwrap();
            // Refused ones are closed under our hands.
            drop(
                stream
                    .write_all(b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n")
                    .await,
            );
            let mut answer = [0; 12];
            let read = stream.read_exact(&mut answer).await;
            read.is_ok().then_some(stream)
        };
        let first = ask().await;
        let second = ask().await;
        assert!(first.is_some() && second.is_some());
        assert!(ask().await.is_none(), "a third connection was served");
        drop(first);
        for _ in 0..1000 {
            if ask().await.is_some() {
                task.abort();
                return;
            }
            clock::sleep(Duration::from_millis(5)).await;
        }
        panic!("the freed place was not given away");
    })
    .unwrap();
}

#[test]
fn a_request_that_never_ends_is_cut_off() {
    runtime::block_on(async {
        let (address, task) = limited(8, Duration::from_millis(100)).await;
        let mut stream = net::connect(&address, TIMEOUT).await.unwrap();
        let trickle = async {
            // A byte now and then does not keep it open.
            for _ in 0..10_000 {
                if stream.write_all(b"G").await.is_err() {
                    return true;
                }
                let mut byte = [0];
                let read = clock::timeout(Duration::from_millis(10), stream.read(&mut byte)).await;
                if matches!(read, Ok(Ok(0) | Err(_))) {
                    return true;
                }
            }
            false
        };
        assert!(clock::timeout(TIMEOUT, trickle).await.unwrap());
        task.abort();
    })
    .unwrap();
}
