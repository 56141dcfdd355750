//! Hostile messages: errors, in memory proportional to the input. Measured by
//! an allocator that counts.

// A global allocator is unsafe to write by nature; this one only counts.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use bytes::Bytes;
use tidemark_wire::messages::{
    CreateTopicsRequest, DescribeTopicPartitionsResponse, FetchRequest, FetchResponse,
    JoinGroupRequest, MetadataRequest, MetadataResponse, OffsetFetchResponse, ProduceRequest,
};
use tidemark_wire::{DecodeError, Message, decode};

struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(change: isize) {
    // The thread may be ending, and its counters gone.
    if LIVE.try_with(|live| live.set(live.get() + change)).is_ok() {
        PEAK.with(|peak| peak.set(peak.get().max(LIVE.get())));
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

/// Decodes, and gives the peak of bytes allocated meanwhile.
fn measure<M: Message>(body: Bytes, version: i16) -> (Result<M, DecodeError>, usize) {
    let before = LIVE.get();
    PEAK.set(before);
    let result = decode::<M>(body, version);
    (result, (PEAK.get() - before) as usize)
}

/// Five bytes that made another decoder allocate 154 GB and abort: a compact
/// array of topics whose count is the largest varint.
#[test]
fn a_five_byte_metadata_body_with_a_huge_topic_count_allocates_next_to_nothing() {
    for version in 9..=MetadataRequest::MAX_VERSION {
        let body = Bytes::from_static(&[0xff, 0xff, 0xff, 0xff, 0x0f]);
        let (result, peak_bytes) = measure::<MetadataRequest>(body, version);
        assert!(
            matches!(result, Err(DecodeError::Length { .. })),
            "version {version}: {result:?}"
        );
        assert!(peak_bytes < 1_024, "version {version}: {peak_bytes} bytes");
    }
}

#[test]
fn a_four_byte_metadata_body_with_a_huge_topic_count_allocates_next_to_nothing() {
    for version in 0..9 {
        let body = Bytes::from_static(&[0x7f, 0xff, 0xff, 0xff]);
        let (result, peak_bytes) = measure::<MetadataRequest>(body, version);
        assert!(
            matches!(result, Err(DecodeError::Length { .. })),
            "version {version}: {result:?}"
        );
        assert!(peak_bytes < 1_024, "version {version}: {peak_bytes} bytes");
    }
}

/// A quarter of a megabyte of one byte: arrays of arrays, strings of one letter, tagged
/// fields without end, each as large as its bytes allow.
fn one_byte_over_and_over<M: Message>() {
    const BODY_BYTES: usize = 256 * 1024;
    for byte in [0, 1, 2, 3, 0x41, 0x7f] {
        for version in M::MIN_VERSION..=M::MAX_VERSION {
            for start in [&[][..], &[0xff, 0xff, 0x3f], &[0, 0x0f, 0, 0]] {
                let mut body = start.to_vec();
                body.resize(BODY_BYTES, byte);
                let (_, peak_bytes) = measure::<M>(body.into(), version);
                assert!(
                    peak_bytes < 16 * BODY_BYTES + (1 << 20),
                    "{} version {version}, {byte}: {peak_bytes} bytes",
                    M::NAME
                );
            }
        }
    }
}

#[test]
fn bodies_of_one_repeated_byte_stay_in_proportion() {
    one_byte_over_and_over::<MetadataRequest>();
    one_byte_over_and_over::<MetadataResponse>();
    one_byte_over_and_over::<ProduceRequest>();
    one_byte_over_and_over::<FetchRequest>();
    one_byte_over_and_over::<FetchResponse>();
    one_byte_over_and_over::<CreateTopicsRequest>();
    one_byte_over_and_over::<JoinGroupRequest>();
    one_byte_over_and_over::<OffsetFetchResponse>();
    one_byte_over_and_over::<DescribeTopicPartitionsResponse>();
}
