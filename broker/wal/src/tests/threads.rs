//! The writer's thread: batching, wake-ups, waiting.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use tidemark_env::disk::{DirEntry, DirLock, DiskFile, OpenMode, Space};
use tidemark_env::task;

use super::*;

const LONG: Duration = Duration::from_secs(60);

/// A disk on which groups wait for the test.
#[derive(Debug)]
struct Gated {
    inner: MemDisk,
    gate: Arc<Gate>,
}

#[derive(Debug, Default)]
struct Gate {
    /// Whether it is shut, and how many wait before it.
    state: Mutex<(bool, usize)>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, shut: bool) {
        self.state.lock().unwrap().0 = shut;
        self.changed.notify_all();
    }
    fn pass(&self) {
        let mut state = self.state.lock().unwrap();
        state.1 += 1;
        self.changed.notify_all();
        let mut state = self.changed.wait_while(state, |state| state.0).unwrap();
        state.1 -= 1;
    }
    fn wait_for_someone(&self) {
        let state = self.state.lock().unwrap();
        drop(
            self.changed
                .wait_while(state, |state| state.1 == 0)
                .unwrap(),
        );
    }
}

#[derive(Debug)]
struct GatedFile {
    inner: Arc<dyn DiskFile>,
    gate: Arc<Gate>,
}

impl Disk for Gated {
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        self.inner.open(path, mode)
    }
    fn open_direct(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn DiskFile>> {
        let inner = self.inner.open(path, mode)?;
        if path.extension().is_none_or(|extension| extension != "wal") {
            return Ok(inner);
        }
        let gate = Arc::clone(&self.gate);
        Ok(Arc::new(GatedFile { inner, gate }))
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        self.inner.remove(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn space(&self, path: &Path) -> io::Result<Space> {
        self.inner.space(path)
    }
    fn lock_dir(&self, path: &Path) -> io::Result<DirLock> {
        self.inner.lock_dir(path)
    }
}

impl DiskFile for GatedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn write_durable_at(&self, slices: &mut [IoSlice<'_>], offset: u64) -> io::Result<()> {
        self.gate.pass();
        self.inner.write_durable_at(slices, offset)
    }
}

#[test]
fn what_queues_up_during_a_write_is_the_next_group() {
    let (memory, _) = memory_disk();
    let gate = Arc::new(Gate::default());
    let disk: Arc<dyn Disk> = Arc::new(Gated {
        inner: memory,
        gate: gate.clone(),
    });
    let written = Arc::new(Mutex::new(Vec::new()));
    let seen = written.clone();
    let observer = Box::new(move |group: &GroupWritten| {
        seen.lock().unwrap().push((group.lsn, group.records));
    });
    let wal = Wal::create(disk, small(), RING, 1, observer).unwrap();
    wal.run_writer().unwrap();
    gate.set(true);
    assert_eq!(append(&wal, 1, 0, 100).lsn, 1);
    gate.wait_for_someone();
    for offset in 1..=10 {
        assert_eq!(append(&wal, 1, offset, 100).lsn, 2);
    }
    assert_eq!(wal.durable_lsn(), 0);
    gate.set(false);
    wal.wait_durable(2).unwrap();
    wal.stop();
    assert_eq!(*written.lock().unwrap(), [(1, 1), (2, 10)]);
}

#[test]
fn a_failure_from_elsewhere_reaches_the_group_in_flight() {
    let (memory, _) = memory_disk();
    let gate = Arc::new(Gate::default());
    let disk: Arc<dyn Disk> = Arc::new(Gated {
        inner: memory,
        gate: gate.clone(),
    });
    let wal = create(&disk, small());
    wal.run_writer().unwrap();
    gate.set(true);
    let told = Arc::new(Told::default());
    let bytes = batch(0, 30);
    let member = told.clone();
    wal.append(LogId(1), &batches(0, &[&bytes]), |_| Some(member))
        .unwrap();
    gate.wait_for_someone();
    wal.fail("gone".into());
    gate.set(false);
    assert!(wal.wait_durable(1).is_err());
    wal.stop();
    assert_eq!(told.failed.lock().unwrap().len(), 1);
    assert!(told.durable.lock().unwrap().is_empty());
    assert_eq!(wal.durable_lsn(), 0);
}

#[test]
fn nobody_is_left_waiting() {
    let (_, disk) = memory_disk();
    let mut config = small();
    config.max_bytes = 1 << 20;
    let wal = create(&disk, config);
    wal.run_writer().unwrap();
    // Quiet moments say nothing: a checkpointer that left at one left the ring full.
    let appended = Arc::new(AtomicBool::new(false));
    let checkpointer = {
        let (wal, appended) = (wal.clone(), appended.clone());
        task::thread("checkpointer", move || {
            let limits = Limits {
                memory: 0.9,
                ring: 0.5,
            };
            while !appended.load(Ordering::Acquire) {
                wal.wait_for_pressure(limits, LONG);
                wal.recycle(wal.durable_lsn());
                wal.prepare().unwrap();
            }
        })
        .unwrap()
    };
    let threads: Vec<_> = (0..4u64)
        .map(|log| {
            let wal = wal.clone();
            task::thread("appender", move || {
                for offset in 0..400 {
                    let told = Arc::new(Told::default());
                    let member = told.clone();
                    let bytes = batch(offset, 30 + (offset as usize * 61) % 3000);
                    if offset % 2 == 0 {
                        let placed = wal
                            .append(LogId(log), &batches(offset, &[&bytes]), |_| Some(member))
                            .unwrap();
                        wal.wait_durable(placed.lsn).unwrap();
                    } else {
                        tidemark_env::runtime::block_on(async {
                            wal.admit().await;
                            let placed = wal
                                .append(LogId(log), &batches(offset, &[&bytes]), |_| Some(member))
                                .unwrap();
                            wal.when_durable(placed.lsn).await.unwrap();
                        })
                        .unwrap();
                    }
                    let durable = told.durable.lock().unwrap();
                    assert_eq!(durable.len(), 1, "told before those who wait");
                }
            })
            .unwrap()
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    appended.store(true, Ordering::Release);
    wal.nudge();
    checkpointer.join().unwrap();
    wal.stop();
    assert_eq!(wal.pressure().queued_bytes, 0);
}

#[test]
fn a_sleeping_writer_is_woken_by_the_first_append_alone() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    wal.run_writer().unwrap();
    for offset in 0..200 {
        while !wal.writer_sleeps() {
            std::thread::yield_now();
        }
        let placed = append(&wal, 1, offset, 100);
        wal.wait_durable(placed.lsn).unwrap();
        wal.recycle(placed.lsn);
    }
    wal.stop();
}

#[test]
fn a_writer_before_a_full_ring_goes_on_when_it_is_recycled() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    wal.run_writer().unwrap();
    for offset in 0..100 {
        append(&wal, 1, offset, 12_000);
    }
    let full = Limits {
        memory: f64::INFINITY,
        ring: 1.0,
    };
    let mut released = 0;
    while wal.durable_lsn() < 100 {
        let pressure = wal.wait_for_pressure(full, Duration::from_millis(1));
        if pressure.ring >= 1.0 {
            // As little as that may be: a few of these free a file.
            released += 1;
            wal.recycle(released);
        }
    }
    wal.stop();
    assert_eq!(wal.durable_lsn(), 100);
}

#[test]
fn waiting_for_pressure_ends_with_a_nudge_a_limit_a_failure_or_the_time() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    wal.nudge();
    let pressure = wal.wait_for_pressure(Limits::NONE, LONG);
    assert!(pressure.memory < 0.01 && pressure.ring < 0.01);
    wal.wait_for_pressure(Limits::NONE, Duration::from_millis(1));
    let waits = {
        let wal = wal.clone();
        task::thread("waits", move || {
            wal.wait_for_pressure(
                Limits {
                    memory: 0.5,
                    ring: 1.0,
                },
                LONG,
            )
        })
        .unwrap()
    };
    append(&wal, 1, 0, 16 << 10);
    append(&wal, 1, 1, 16 << 10);
    assert!(waits.join().unwrap().memory >= 0.5);
    let waits = {
        let wal = wal.clone();
        task::thread("waits", move || wal.wait_for_pressure(Limits::NONE, LONG)).unwrap()
    };
    wal.fail("gone".into());
    waits.join().unwrap();
}
