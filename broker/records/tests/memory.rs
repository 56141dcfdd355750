//! Memory that batches make us allocate, measured by a counting allocator:
//! validation needs little whatever a batch decompresses to, and reading
//! records no more than the caller's limit.

// A global allocator is unsafe to write by nature; this one only counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use tidemark_records::{
    BatchBuilder, BatchOptions, Compression, Limits, ProducePolicy, RecordRef, patch,
    validate_produce,
};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
    static CALLS: Cell<usize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // The thread may be ending, and its counters gone.
    if LIVE.try_with(|live| live.set(live.get() + change)).is_ok() {
        PEAK.with(|peak| peak.set(peak.get().max(LIVE.get())));
        CALLS.with(|calls| calls.set(calls.get() + usize::from(change > 0)));
    }
}

// SAFETY: every call goes to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Runs `f` and gives its peak of live bytes and its number of allocations.
fn measure<T>(f: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    CALLS.set(0);
    let result = f();
    (result, (PEAK.get() - before) as usize, CALLS.get())
}

fn batch(compression: Compression, count: usize, value: &[u8]) -> bytes::Bytes {
    let mut builder = BatchBuilder::new(BatchOptions {
        compression,
        ..BatchOptions::default()
    });
    for _ in 0..count {
        builder
            .append(&RecordRef {
                timestamp_ms: 1,
                key: Some(b"key"),
                value: Some(value),
                headers: &[(b"h", Some(b"v")), (b"h", None)],
            })
            .expect("the batch has room");
    }
    builder.build().expect("the batch has records")
}

const MIB: usize = 1 << 20;

#[test]
fn validation_allocates_nothing_per_record() {
    for compression in Compression::ALL {
        let (mut calls, mut bytes) = ([0; 2], [0; 2]);
        for (at, count) in [100, 10_000].into_iter().enumerate() {
            let batch = batch(compression, count, b"value");
            let (result, peak, allocations) =
                measure(|| validate_produce(batch, &ProducePolicy::default(), 0));
            assert!(result.is_ok());
            (calls[at], bytes[at]) = (allocations, peak);
        }
        // Snappy has a block per 32 KiB, whose buffer may grow once or twice.
        assert!(calls[1] <= calls[0] + 8, "{compression}: {calls:?}");
        assert!(bytes[1] < 256 << 10, "{compression}: {bytes:?}");
        if compression == Compression::None {
            assert!(calls[1] <= 2 && bytes[1] < 128, "{calls:?} {bytes:?}");
        }
    }
}

#[test]
fn a_bomb_is_validated_in_little_memory_and_read_within_the_limit() {
    let value = vec![0; 64 * MIB];
    for compression in Compression::ALL {
        if compression == Compression::None {
            continue;
        }
        let bytes = batch(compression, 1, &value);
        let policy = ProducePolicy {
            max_message_bytes: usize::MAX,
            limits: Limits {
                max_decompressed_bytes: 128 * MIB,
            },
            ..ProducePolicy::default()
        };
        let (result, peak, _) = measure(|| validate_produce(bytes.clone(), &policy, 0));
        assert!(result.is_ok());
        assert!(peak < MIB / 4, "{compression}: {peak}");

        let limits = Limits {
            max_decompressed_bytes: 8 * MIB,
        };
        let mut rest = bytes.clone();
        let batch = tidemark_records::Batch::split_first(&mut rest)
            .expect("it parses")
            .expect("it is there");
        let (result, peak, _) = measure(|| batch.records(limits).err());
        assert!(result.is_some());
        // A buffer of a quarter of the limit is held while it is copied.
        let allowed = limits.max_decompressed_bytes * 5 / 4 + MIB / 4;
        assert!(peak < allowed, "{compression}: {peak}");
    }
}

#[test]
fn headers_cost_nothing_until_they_are_asked_for() {
    let headers = vec![(&b""[..], None); 400_000];
    let mut builder = BatchBuilder::new(BatchOptions::default());
    builder
        .append(&RecordRef {
            headers: &headers,
            ..RecordRef::default()
        })
        .expect("the batch has room");
    let mut bytes = builder.build().expect("it has a record");
    let batch = tidemark_records::Batch::split_first(&mut bytes)
        .expect("it parses")
        .expect("it is there");
    let (count, peak, _) = measure(|| {
        let mut records = batch.records(Limits::default()).expect("not compressed");
        let record = records.next().expect("one record").expect("well formed");
        record.headers.iter().count()
    });
    assert_eq!(count, 400_000);
    assert!(peak < 1_024, "{peak}");
}

/// Frames of a few bytes that declare large blocks, windows or lengths.
#[test]
fn small_frames_with_large_claims_stay_small() {
    let claims: [(Compression, &[u8]); 3] = [
        // An LZ4 frame of 4 MiB blocks and one block of five bytes.
        (
            Compression::Lz4,
            &[
                0x04, 0x22, 0x4d, 0x18, 0x60, 0x70, 0x73, 5, 0, 0, 0, 0x1f, 0x61, 0x01, 0x00, 0xff,
            ],
        ),
        (
            Compression::Snappy,
            &[0xff, 0xff, 0xff, 0xff, 0x0f, 0x00, 0x41],
        ),
        // A zstd frame of one segment that says it has 2^40 bytes.
        (
            Compression::Zstd,
            &[
                0x28, 0xb5, 0x2f, 0xfd, 0xe0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 0, 0,
            ],
        ),
    ];
    for (compression, payload) in claims {
        let mut forged = batch(Compression::None, 1, b"v")[..61].to_vec();
        forged.extend_from_slice(payload);
        let length = (forged.len() - 12) as i32;
        forged[8..12].copy_from_slice(&length.to_be_bytes());
        forged[21..23].copy_from_slice(&i16::from(compression.id()).to_be_bytes());
        patch::recompute_crc(&mut forged).expect("a whole batch");
        let (result, peak, _) =
            measure(|| validate_produce(forged.into(), &ProducePolicy::default(), 0));
        assert!(result.is_err());
        assert!(peak < 64 << 10, "{compression}: {peak}");
    }
}
