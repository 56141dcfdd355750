//! Hosts that end, pause and are cut off.

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{Death, Host, Weather, World};
use crate::disk::{Disk, OpenMode};
use crate::{clock, net, random, task};

const LONG: Duration = Duration::from_secs(100);

/// Two hosts in a world whose messages take 10 ms.
fn in_a_world<F: Future<Output = ()>>(test: impl FnOnce(Arc<World>, Arc<Host>, Arc<Host>) -> F) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let world = World::new(1);
        world.set_weather(Weather {
            delay_ms: (10, 10),
            late_one_in: 0,
            defer_one_in: 3,
            ..Weather::default()
        });
        let (one, other) = (world.add_host("one"), world.add_host("other"));
        test(world, one, other).await;
    });
}

/// Answers each byte with the next one.
async fn answer() {
    let listener = net::listen("0.0.0.0:9092").await.unwrap();
    loop {
        let (mut stream, _) = listener.accept().await.unwrap();
        drop(task::spawn("answers", async move {
            while let Ok(byte) = stream.read_u8().await {
                if stream.write_u8(byte + 1).await.is_err() {
                    return;
                }
            }
        }));
    }
}

async fn ask(stream: &mut net::Stream, byte: u8) -> io::Result<u8> {
    stream.write_u8(byte).await?;
    let answer = clock::timeout(LONG, stream.read_u8()).await;
    answer.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn connect() -> io::Result<net::Stream> {
    net::connect("other:9092", LONG).await
}

/// Does `work` on `host`.
async fn on<T: Send + 'static>(
    host: &Arc<Host>,
    work: impl Future<Output = T> + Send + 'static,
) -> T {
    host.spawn("test", work).await.unwrap()
}

#[test]
fn bytes_take_their_time_and_a_host_that_is_down_refuses() {
    in_a_world(|world, one, other| async move {
        let refused = on(&one, connect()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        drop(other.spawn("server", answer()));
        let before = world.elapsed();
        let asked = async {
            let mut stream = connect().await.unwrap();
            ask(&mut stream, 7).await
        };
        assert_eq!(on(&one, asked).await.unwrap(), 8);
        let took = (world.elapsed() - before).as_millis();
        assert!((40..60).contains(&took), "there and back twice: {took} ms");
        other.end(Death::Kill, 0).await;
        let refused = on(&one, connect()).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn what_is_sent_over_a_cut_arrives_when_it_is_mended_or_never() {
    in_a_world(|world, one, other| async move {
        drop(other.spawn("server", answer()));
        let mut streams = Vec::new();
        for _ in 0..40 {
            streams.push(on(&one, connect()).await.unwrap());
        }
        // One way is enough.
        world.cut(&other, &one);
        let asking: Vec<_> = streams
            .into_iter()
            .map(|mut stream| one.spawn("asks", async move { ask(&mut stream, 1).await }))
            .collect();
        clock::sleep(Duration::from_secs(20)).await;
        assert!(asking.iter().all(|task| !task.is_finished()));
        world.heal();
        let (mut answered, mut reset) = (0, 0);
        for task in asking {
            match task.await.unwrap() {
                Ok(2) => answered += 1,
                Ok(byte) => panic!("{byte}"),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                    reset += 1;
                }
            }
        }
        assert!(answered > 10 && reset > 0, "{answered} and {reset}");
    });
}

#[test]
fn a_killed_host_closes_its_connections_and_one_without_power_says_nothing() {
    in_a_world(|_, one, other| async move {
        for death in [Death::Kill, Death::Power] {
            other.start();
            drop(other.spawn("server", answer()));
            clock::sleep(Duration::from_secs(1)).await;
            let mut stream = on(&one, connect()).await.unwrap();
            let waiting = one.spawn("waits", async move {
                let read = clock::timeout(LONG, stream.read_u8()).await;
                (read.map_err(drop), stream)
            });
            clock::sleep(Duration::from_secs(1)).await;
            other.end(death, 0).await;
            let (read, mut stream) = waiting.await.unwrap();
            match death {
                Death::Kill => {
                    let error = read.unwrap().unwrap_err();
                    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
                }
                Death::Power => {
                    assert!(read.is_err(), "nobody said anything");
                    // The system that comes up knows of no connection.
                    other.start();
                    let error = on(&one, async move { ask(&mut stream, 1).await }).await;
                    assert_eq!(error.unwrap_err().kind(), io::ErrorKind::ConnectionReset);
                    other.end(Death::Kill, 0).await;
                }
            }
        }
    });
}

#[test]
fn a_paused_host_does_nothing_and_then_goes_on() {
    in_a_world(|_, one, other| async move {
        drop(other.spawn("server", answer()));
        let mut stream = on(&one, connect()).await.unwrap();
        other.pause();
        let asking = one.spawn("asks", async move { ask(&mut stream, 1).await });
        // Its system takes connections meanwhile.
        let mut second = on(&one, connect()).await.unwrap();
        clock::sleep(Duration::from_secs(20)).await;
        assert!(!asking.is_finished());
        other.resume();
        assert_eq!(asking.await.unwrap().unwrap(), 2);
        assert_eq!(
            on(&one, async move { ask(&mut second, 4).await })
                .await
                .unwrap(),
            5
        );
    });
}

#[test]
fn the_end_of_a_host_ends_its_tasks_and_what_it_did_not_sync() {
    in_a_world(|_, one, _| async move {
        let count = Arc::new(AtomicU64::new(0));
        let counting = Arc::clone(&count);
        drop(one.spawn("outer", async move {
            drop(task::spawn("inner", async move {
                loop {
                    clock::sleep(Duration::from_millis(1)).await;
                    counting.fetch_add(1, Ordering::Relaxed);
                }
            }));
            std::future::pending::<()>().await;
        }));
        let disk = one.disk();
        disk.create_dir_all(Path::new("/d")).unwrap();
        disk.sync_dir(Path::new("/")).unwrap();
        let file = disk.open(Path::new("/d/f"), OpenMode::Create).unwrap();
        disk.sync_dir(Path::new("/d")).unwrap();
        clock::sleep(Duration::from_secs(1)).await;
        let counted = count.load(Ordering::Relaxed);
        assert!(counted > 100);
        file.write_at(b"abc", 0).unwrap();
        one.end(Death::Kill, 0).await;
        assert_eq!(Arc::strong_count(&count), 1, "its tasks are gone");
        clock::sleep(Duration::from_secs(1)).await;
        assert_eq!(count.load(Ordering::Relaxed), counted);
        assert!(file.write_at(b"d", 0).is_err(), "its handles are dead");
        let file = disk.open(Path::new("/d/f"), OpenMode::ReadWrite).unwrap();
        assert_eq!(file.len().unwrap(), 3, "a kill loses nothing of the disk");
        file.sync_data().unwrap();
        file.write_at(&[7; 100_000], 0).unwrap();
        one.end(Death::Power, 4).await;
        let file = disk.open(Path::new("/d/f"), OpenMode::Read).unwrap();
        assert!(file.len().unwrap() >= 3);
    });
}

#[test]
fn power_that_goes_in_the_middle_of_something_ends_it_there() {
    in_a_world(|_, one, _| async move {
        let disk = one.disk();
        let writing = disk.clone();
        disk.cut_power_after(2);
        let task = one.spawn("writes", async move {
            let file = writing.open(Path::new("/f"), OpenMode::Create).unwrap();
            let first = file.write_at(b"a", 0).is_ok();
            let second = file.write_at(b"b", 1).is_ok();
            // It runs to here, and nobody will ever know.
            tokio::task::yield_now().await;
            (first, second)
        });
        clock::sleep(Duration::from_secs(1)).await;
        assert!(!task.is_finished());
        assert!(!one.is_up());
        one.end(Death::Power, 1).await;
        assert!(task.is_finished() && !one.is_up());
        one.start();
        assert!(one.is_up());
    });
}

#[test]
fn clocks_and_chance_belong_to_hosts() {
    in_a_world(|world, one, other| async move {
        one.set_skew_ms(-3_600_000);
        let clocks = || async { (clock::now_ms(), clock::steady_ms()) };
        let (now_ms, steady_ms) = on(&one, clocks()).await;
        assert_eq!(steady_ms - now_ms, 3_600_000);
        let (now_ms, steady_ms) = on(&other, clocks()).await;
        assert!(now_ms - steady_ms < 10);
        let draw = || async { random::u64() };
        assert_ne!(on(&one, draw()).await, on(&other, draw()).await);
        let again = World::new(1);
        let host = again.add_host("one");
        let first = on(&host, draw()).await;
        let other_seed = World::new(2).add_host("one");
        assert_ne!(on(&other_seed, draw()).await, first);
        let same = World::new(1).add_host("one");
        assert_eq!(on(&same, draw()).await, first);
        assert!(world.hash() != again.hash());
    });
}

#[test]
fn what_would_be_threads_are_tasks_of_the_host() {
    in_a_world(|_, one, _| async move {
        let here = std::thread::current().id();
        let (send, told) = tokio::sync::oneshot::channel();
        let threads = on(&one, async move {
            task::background("background", move || {
                send.send(std::thread::current().id()).unwrap();
            })
            .unwrap();
            let blocking = task::blocking(|| std::thread::current().id())
                .await
                .unwrap();
            let threads = crate::runtime::NetThreads::start(3).unwrap();
            assert_eq!(threads.len(), 3);
            let net = threads.spawn_on(1, "net", async { std::thread::current().id() });
            (blocking, net.await.unwrap())
        })
        .await;
        assert_eq!((threads, told.await.unwrap()), ((here, here), here));
    });
}
