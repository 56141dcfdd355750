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

#[test]
fn work_in_parallel_is_done_once_each_by_as_many_threads_as_were_asked_for() {
    use std::collections::BTreeSet;
    use std::sync::{Barrier, Mutex};
    // All four must be at work at once to get past the barrier.
    let (together, done) = (Barrier::new(4), Mutex::new(Vec::new()));
    let names = Mutex::new(BTreeSet::new());
    let result: Result<(), ()> = task::in_parallel("worker", 4, (0..40).collect(), |item| {
        if item < 4 {
            together.wait();
        }
        let name = std::thread::current().name().map(str::to_owned);
        names.lock().unwrap().insert(name);
        done.lock().unwrap().push(item);
        Ok(())
    });
    assert_eq!(result, Ok(()));
    let mut done = done.into_inner().unwrap();
    done.sort_unstable();
    assert_eq!(done, (0..40).collect::<Vec<_>>());
    let names = names.into_inner().unwrap();
    assert!(names.contains(&Some("worker".to_owned())), "{names:?}");
    assert_eq!(
        task::in_parallel("idle", 4, Vec::<()>::new(), |()| Err("called")),
        Ok(())
    );
}

#[test]
fn an_error_in_parallel_work_leaves_what_was_not_begun() {
    let begun = std::sync::atomic::AtomicUsize::new(0);
    let result = task::in_parallel("worker", 1, (0..1000).collect(), |item| {
        begun.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        if item == 3 { Err(item) } else { Ok(()) }
    });
    assert_eq!(result, Err(3));
    assert_eq!(begun.into_inner(), 4);
}
