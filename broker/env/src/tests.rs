//! Tasks, net threads and sockets do what their documentation says.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::runtime::{NetThreads, block_on};
use crate::task::TaskError;
use crate::{clock, net, random, task};

#[test]
fn net_threads_run_tasks_on_their_own_thread() {
    let threads = NetThreads::start(2).unwrap();
    let names = block_on(async {
        let mut names = Vec::new();
        for index in 0..3 {
            let task = threads.spawn_on(index, "name", async {
                std::thread::current().name().map(str::to_owned)
            });
            names.push(task.await.unwrap());
        }
        names
    })
    .unwrap();
    let expected: Vec<_> = ["net-0", "net-1", "net-0"]
        .map(|name| Some(name.to_owned()))
        .into();
    assert_eq!(names, expected);
    assert_eq!(
        [
            threads.next_index(),
            threads.next_index(),
            threads.next_index()
        ],
        [0, 1, 0]
    );
    threads.shutdown();
}

#[test]
fn a_task_that_ends_badly_says_so() {
    block_on(async {
        let endless = task::spawn("endless", std::future::pending::<()>());
        endless.abort();
        assert!(matches!(
            endless.await,
            Err(TaskError::Cancelled { name: "endless" })
        ));
        let failing = task::spawn("failing", async { panic!("broken") });
        let error: Result<(), _> = failing.await;
        assert!(error.unwrap_err().to_string().contains("broken"));
        assert_eq!(task::blocking(|| 7).await.unwrap(), 7);
    })
    .unwrap();
}

#[test]
fn bytes_pass_between_connect_and_accept() {
    block_on(async {
        let listener = net::listen("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = task::spawn("server", async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut bytes = [0u8; 4];
            stream.read_exact(&mut bytes).await.unwrap();
            stream.write_all(&bytes).await.unwrap();
        });
        let mut stream = net::connect(&address, Duration::from_secs(5))
            .await
            .unwrap();
        stream.write_all(b"ping").await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"ping");
        server.await.unwrap();
    })
    .unwrap();
}

#[test]
fn a_timeout_ends_what_does_not_end() {
    block_on(async {
        let waited = clock::timeout(Duration::from_millis(1), std::future::pending::<()>()).await;
        assert!(waited.is_err());
    })
    .unwrap();
    assert!(clock::now_ms() > 1_700_000_000_000);
}

#[test]
fn bounded_chance_stays_below_its_bound() {
    assert_eq!(random::below(0), 0);
    assert!((0..100).all(|_| random::below(3) < 3));
    assert_ne!(random::u64(), random::u64());
}
