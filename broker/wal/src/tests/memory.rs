//! Chunks are used again, and only when nobody holds anything of them.

use super::*;
use crate::pool::{Pool, aligned};

#[test]
fn buffers_begin_at_multiples_of_a_block() {
    for len in [1, 4096, 5000, 4 << 20] {
        let buffer = aligned(len);
        assert_eq!(buffer.as_ptr().align_offset(4096), 0);
        assert!(buffer.capacity() >= len);
    }
}

#[test]
fn a_chunk_comes_back_as_the_same_memory() {
    let mut pool = Pool::new(16 << 10, 32 << 10);
    pool.next_chunk();
    pool.push(&[&[1; 5000]]);
    let first = pool.split_padded().freeze();
    assert_eq!((first.len(), first.as_ptr().align_offset(4096)), (8192, 0));
    pool.push(&[&[2; 5000]]);
    let second = pool.split_padded().freeze();
    assert_eq!(second.as_ptr().align_offset(4096), 0);
    let address = first.as_ptr();
    let slice = second.slice(100..200);
    drop((first, second));
    assert!(!pool.has_room(1));
    pool.next_chunk();
    assert_eq!((pool.allocations, pool.free_chunks()), (2, 0));
    pool.collect();
    assert_eq!(pool.free_chunks(), 0, "a slice is held");
    assert_eq!(pool.used_bytes(), 32 << 10);
    assert!(slice.iter().all(|byte| *byte == 2));
    drop(slice);
    pool.collect();
    assert_eq!(pool.free_chunks(), 1);
    pool.push(&[&[3; 16 << 10]]);
    let _held = pool.split_padded();
    pool.next_chunk();
    pool.push(&[&[4; 100]]);
    assert_eq!(
        pool.split_padded().as_ptr(),
        address,
        "the first chunk again"
    );
    assert_eq!(pool.allocations, 2);
}

#[test]
fn a_long_run_lives_in_few_chunks() {
    let (_, disk) = memory_disk();
    let mut config = small();
    config.memory_bytes = 128 << 10;
    let wal = create(&disk, config);
    let mut held = std::collections::VecDeque::new();
    for offset in 0..2000 {
        let told = Arc::new(Told::default());
        let member = told.clone();
        let len = 100 + (offset as usize * 37) % 9000;
        let bytes = batch(offset, len);
        wal.append(LogId(1), &batches(offset, &[&bytes]), |_| Some(member))
            .unwrap();
        while !wal.write_next() {
            wal.recycle(wal.durable_lsn());
        }
        held.push_back((told, bytes));
        if held.len() > 4 {
            let (told, bytes) = held.pop_front().unwrap();
            // What was held did not change under its holder.
            assert_eq!(&told.durable.lock().unwrap()[0].1[..], bytes);
        }
    }
    let (allocations, _) = wal.chunks();
    assert!((2..=8).contains(&allocations), "{allocations}");
}

#[test]
fn callers_wait_while_too_much_memory_is_held() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    let told = Arc::new(Told::default());
    let mut offset = 0;
    while wal.pressure().memory <= 1.0 {
        let bytes = batch(offset, 16 << 10);
        let member = told.clone();
        wal.append(LogId(1), &batches(offset, &[&bytes]), |_| Some(member))
            .unwrap();
        offset += 1;
        wal.write_next();
        wal.recycle(wal.durable_lsn());
    }
    assert_eq!(offset, 5, "of four chunks and one above");
    let admitted = {
        let wal = wal.clone();
        tidemark_env::task::thread("admitted", move || {
            tidemark_env::runtime::block_on(wal.admit()).unwrap();
        })
        .unwrap()
    };
    // It is let in by nothing but this.
    told.durable.lock().unwrap().remove(0);
    wal.memory_freed();
    admitted.join().unwrap();
    assert!(wal.pressure().memory <= 1.0);
    // Nobody says that these were let go of.
    told.durable.lock().unwrap().clear();
    tidemark_env::runtime::block_on(wal.admit()).unwrap();
    assert!(wal.pressure().memory < 0.5, "{:?}", wal.pressure());
}

#[test]
fn admission_is_refused_while_memory_is_held_and_ends_with_a_failure() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    for offset in 0..6 {
        append(&wal, 1, offset, 16 << 10);
    }
    let mut admit = std::pin::pin!(wal.admit());
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    tidemark_env::runtime::block_on(async {
        assert!(admit.as_mut().poll(&mut context).is_pending());
        wal.fail("gone".into());
        admit.await;
    })
    .unwrap();
}

#[test]
fn large_records_have_memory_of_their_own_that_is_given_back() {
    let (_, disk) = memory_disk();
    let wal = create(&disk, small());
    for offset in 0..20 {
        append(&wal, 1, offset, 100_000);
        assert!(wal.pressure().memory_bytes >= 100_000);
        while !wal.write_next() {
            wal.recycle(wal.durable_lsn());
        }
        assert_eq!(wal.pressure().memory_bytes, 0);
    }
    assert_eq!(wal.chunks(), (0, 0));
}
