//! Tasks, net threads and sockets do what their documentation says.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::disk::{Disk, DiskFile, FileDisk, FileRange, MemDisk, OpenMode};
use crate::runtime::{NetThreads, block_on};
use crate::task::TaskError;
use crate::wake::{Home, Sleeper};
use crate::{clock, net, random, task, wake};

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
    threads.shutdown();
}

/// Notes the thread that it is woken on.
struct Noting {
    home: Home,
    woken_on: Mutex<Vec<String>>,
    woken: tokio::sync::Notify,
}

impl Sleeper for Noting {
    fn wake(&self) {
        let thread = std::thread::current().name().unwrap_or("?").to_owned();
        self.woken_on.lock().unwrap().push(thread);
        self.woken.notify_one();
    }
}

fn noting() -> Arc<Noting> {
    Arc::new(Noting {
        home: Home::here(),
        woken_on: Mutex::default(),
        woken: tokio::sync::Notify::new(),
    })
}

#[test]
fn those_who_are_woken_together_are_woken_on_their_own_threads() {
    let threads = NetThreads::start(2).unwrap();
    let made = |index| threads.spawn_on(index, "making", async { noting() });
    let sleepers = block_on(async {
        let mut sleepers = Vec::new();
        for index in [0, 1, 0, 0, 1] {
            sleepers.push((index, made(index).await.unwrap()));
        }
        sleepers
    })
    .unwrap();
    for _ in 0..3 {
        wake::together(|| {
            for (_, sleeper) in &sleepers {
                sleeper.home.wake(sleeper);
                assert!(
                    sleeper.woken_on.lock().unwrap().is_empty(),
                    "not before the end"
                );
            }
        });
        for (index, sleeper) in &sleepers {
            block_on(sleeper.woken.notified()).unwrap();
            let woken_on = std::mem::take(&mut *sleeper.woken_on.lock().unwrap());
            assert_eq!(woken_on, [format!("net-{index}")]);
        }
    }
    // Outside of it, and for those of other threads, at once and here.
    let (_, sleeper) = &sleepers[0];
    sleeper.home.wake(sleeper);
    let nowhere = noting();
    wake::together(|| nowhere.home.wake(&nowhere));
    for sleeper in [sleeper, &nowhere] {
        let woken_on = sleeper.woken_on.lock().unwrap();
        assert!(
            woken_on.len() == 1 && !woken_on[0].starts_with("net-"),
            "{woken_on:?}"
        );
    }
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

const PATIENCE: Duration = Duration::from_secs(20);

/// A file of `len` bytes that differ.
fn file(disk: &dyn Disk, dir: &Path, len: usize) -> (Arc<dyn DiskFile>, Vec<u8>) {
    disk.create_dir_all(dir).unwrap();
    let file = disk.open(&dir.join("f"), OpenMode::Create).unwrap();
    let bytes: Vec<u8> = (0..len as u32)
        .map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    file.write_at(&bytes, 0).unwrap();
    (file, bytes)
}

/// Sends `range` between two writes to a reader that takes little at a time.
async fn sent(mut from: net::Stream, mut to: net::Stream, range: FileRange) -> Vec<u8> {
    let sender = task::spawn("sender", async move {
        let head = [io::IoSlice::new(b"head")];
        assert_eq!(from.write_slices(&head, true).await.unwrap(), 4);
        from.send_file(range, PATIENCE).await.unwrap();
        from.write_all(b"tail").await.unwrap();
    });
    let mut all = Vec::new();
    let mut piece = vec![0; 30_000];
    while let read @ 1.. = to.read(&mut piece).await.unwrap() {
        all.extend_from_slice(&piece[..read]);
        tokio::task::yield_now().await;
    }
    sender.await.unwrap();
    all
}

async fn tcp() -> (net::Stream, net::Stream) {
    let listener = net::listen("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let connected = net::connect(&address, PATIENCE).await.unwrap();
    (listener.accept().await.unwrap().0, connected)
}

fn pipe() -> (net::Stream, net::Stream) {
    let (one, other) = tokio::io::duplex(10_000);
    (net::Stream::new(one), net::Stream::new(other))
}

/// More than a socket's buffers hold, from a position in the middle of a page.
#[test]
fn a_part_of_a_file_arrives_whole_whatever_it_is_sent_over() {
    const FROM: usize = 4097;
    const LEN: usize = 9_000_001;
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let real = file(&FileDisk::new(), dir.path(), FROM + LEN + 5);
        let memory = file(&MemDisk::new(), Path::new("/d"), FROM + LEN + 5);
        for (file, bytes) in [real, memory] {
            for (from, to) in [tcp().await, pipe()] {
                let range = FileRange {
                    file: Arc::clone(&file),
                    position: FROM as u64,
                    len: LEN,
                };
                let arrived = sent(from, to, range).await;
                let expected = [b"head", &bytes[FROM..FROM + LEN], b"tail"].concat();
                assert!(arrived == expected, "{} bytes arrived", arrived.len());
            }
        }
    })
    .unwrap();
}

#[test]
fn a_file_that_is_shorter_than_announced_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (real, _) = file(&FileDisk::new(), dir.path(), 1000);
        let (memory, _) = file(&MemDisk::new(), Path::new("/d"), 1000);
        for file in [real, memory] {
            for (mut from, _to) in [tcp().await, pipe()] {
                let file = Arc::clone(&file);
                let range = FileRange {
                    file,
                    position: 900,
                    len: 101,
                };
                assert!(range.read().is_err());
                let error = from.send_file(range, PATIENCE).await.unwrap_err();
                assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{error}");
            }
        }
    })
    .unwrap();
}

/// How much `from` takes while nobody reads.
async fn swallowed(mut from: net::Stream) -> usize {
    let piece = [0; 4096];
    let mut taken = 0;
    while let Ok(written) = clock::timeout(Duration::from_millis(300), from.write(&piece)).await {
        taken += written.unwrap();
    }
    taken
}

#[test]
fn a_bounded_stream_holds_less_for_who_reads_nothing() {
    const BOUND: usize = 16 * 1024;
    block_on(async {
        let (free, _reader) = tcp().await;
        let free = swallowed(free).await;
        let (bounded, _reader) = tcp().await;
        bounded.bound_send_buffer(BOUND).unwrap();
        let bounded = swallowed(bounded).await;
        // What the other end holds is in both.
        assert!(bounded + 2 * BOUND < free, "{bounded} and {free} bytes");
    })
    .unwrap();
}

#[test]
fn a_reader_that_takes_nothing_is_given_up() {
    let dir = tempfile::tempdir().unwrap();
    block_on(async {
        let (real, _) = file(&FileDisk::new(), dir.path(), 30_000_000);
        for (mut from, _to) in [tcp().await, pipe()] {
            let range = FileRange {
                file: Arc::clone(&real),
                position: 0,
                len: 30_000_000,
            };
            let sending = from.send_file(range, Duration::from_millis(50));
            let error = sending.await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut, "{error}");
        }
    })
    .unwrap();
}

/// A file whose bytes are in memory once all of them were read.
#[derive(Debug)]
struct ColdFile {
    inner: Arc<dyn DiskFile>,
    end_read: AtomicBool,
}

impl DiskFile for ColdFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let read = self.inner.read_at(buffer, offset)?;
        let end = offset + read as u64 == self.inner.len()?;
        self.end_read.fetch_or(end, Ordering::Relaxed);
        Ok(read)
    }
    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        match self.end_read.load(Ordering::Relaxed) {
            true => self.inner.read_at(buffer, offset),
            // Only the beginning is there.
            false if offset < 100_000 => self.inner.read_at(buffer, offset),
            false => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
    fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
    fn sync_data(&self) -> io::Result<()> {
        Ok(())
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, _: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

#[test]
fn a_range_is_cached_when_all_of_it_is_and_warming_makes_it_so() {
    let (inner, _) = file(&MemDisk::new(), Path::new("/d"), 1_000_000);
    let file = Arc::new(ColdFile {
        inner,
        end_read: AtomicBool::new(false),
    });
    let range = |position, len| FileRange {
        file: Arc::clone(&file) as Arc<dyn DiskFile>,
        position,
        len,
    };
    assert!(range(0, 100_000).is_cached());
    assert!(!range(0, 100_001).is_cached(), "its last byte is not");
    assert!(!range(0, 1_000_000).is_cached());
    range(0, 1_000_000).warm().unwrap();
    assert!(range(0, 1_000_000).is_cached());
    assert!(range(500, 0).is_cached());
}

/// What was just written is in the page cache, and the real file says so.
#[test]
fn a_real_file_can_tell_what_is_in_memory() {
    let dir = tempfile::tempdir().unwrap();
    let (file, bytes) = file(&FileDisk::new(), dir.path(), 300_000);
    let mut buffer = [0; 10];
    match file.read_cached_at(&mut buffer, 299_995) {
        Ok(read) => assert_eq!(buffer[..read], bytes[299_995..]),
        // A file system that cannot tell.
        Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
    }
    assert!(file.as_fd().is_some());
}
