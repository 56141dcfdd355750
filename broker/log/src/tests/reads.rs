//! Where a read ends: against the definition, over all batches of the log.

use proptest::prelude::*;

use super::basics::{Spec, batch};
use super::*;
use crate::Piece;

/// A batch as the log has it, and the segment that it is in.
struct Placed {
    batch: Batch,
    segment: usize,
}

#[derive(Debug, Clone)]
struct Question {
    offset: i64,
    max_bytes: usize,
    upper: i64,
    at_least_one_batch: bool,
}

/// Records, first offset, next offset, whether there was more.
type Answer = (Vec<u8>, Option<i64>, i64, bool);

/// What a read of the whole batches one by one gives.
fn expected(placed: &[Placed], question: &Question) -> Answer {
    let (mut records, mut first) = (Vec::new(), None);
    let (mut next, mut more) = (question.offset, false);
    let holding = placed.partition_point(|one| one.batch.header.next_offset() <= question.offset);
    let mut rest = placed[holding..].iter().peekable();
    let segment = rest.peek().map(|one| one.segment);
    while let Some(one) = rest.next_if(|one| Some(one.segment) == segment) {
        let header = &one.batch.header;
        if question.offset >= question.upper || header.next_offset() > question.upper {
            break;
        }
        let fits = records.len() + one.batch.bytes.len() <= question.max_bytes;
        let allowed = fits || records.is_empty() && question.at_least_one_batch;
        if !allowed {
            more = true;
            break;
        }
        records.extend_from_slice(&one.batch.bytes);
        first.get_or_insert(header.base_offset);
        next = header.next_offset();
        if !fits {
            let same = rest.next_if(|one| Some(one.segment) == segment);
            more = same.is_some() && next < question.upper;
            break;
        }
    }
    (records, first, next, more)
}

fn check(log: &Log, placed: &[Placed], question: &Question) {
    let plan = log.read_plan(
        question.offset,
        question.max_bytes,
        question.upper,
        question.at_least_one_batch,
    );
    let plan = plan.unwrap();
    let loaded = plan.load().unwrap();
    let answer = (
        loaded.records.to_vec(),
        loaded.first_offset,
        loaded.next_offset,
        loaded.more,
    );
    let right = expected(placed, question);
    let told = |(records, first, next, more): &Answer| (records.len(), *first, *next, *more);
    assert_eq!(told(&answer), told(&right), "{question:?}");
    assert!(answer == right, "{question:?} gives other bytes");
    let found = plan.run().unwrap();
    assert_eq!(found.size_bytes(), answer.0.len());
    assert_eq!(found.pieces.is_empty(), answer.0.is_empty());
    assert!(found.pieces.iter().all(|piece| match piece {
        Piece::Memory(_) => false,
        Piece::File(range) => range.read().unwrap() == answer.0,
    }));
    // What was just read is open and in memory.
    let cached = plan.run_cached().unwrap().unwrap();
    assert_eq!(cached.size_bytes(), answer.0.len());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn reads_end_where_walking_over_every_batch_ends(
        sizes in prop::collection::vec((1usize..6, 0usize..900), 1..120),
        segment_bytes in 1500u32..60_000,
        interval in 0u32..5000,
        // Entries of the active segment in memory, in the file, or some in each.
        released_at in prop::option::of(0usize..120),
        reopened in any::<bool>(),
        questions in prop::collection::vec((any::<u16>(), 0usize..40_000, any::<u16>(), any::<bool>()), 40),
    ) {
        let disk = memory_disk();
        let config = LogConfig {
            segment_bytes,
            index_interval_bytes: interval,
            ..LogConfig::default()
        };
        let (mut log, _) = open(&disk, &config).unwrap();
        for (index, (records, value_bytes)) in sizes.iter().enumerate() {
            let spec = Spec { records: *records, value_bytes: *value_bytes / records, ..Spec::default() };
            log.append_as_leader(&batch(&spec), 0, NOW_MS).unwrap();
            if released_at == Some(index) {
                flush(&mut log);
                log.checkpoint();
                log.release_idle();
                log.release_idle();
            }
        }
        // From here on all of it lies in files.
        flush(&mut log);
        log.checkpoint();
        if reopened {
            log.close(NOW_MS).unwrap();
            log = open(&disk, &config).unwrap().0;
        }
        let placed: Vec<Placed> = read_all(&log, 0)
            .into_iter()
            .map(|batch| Placed {
                segment: log.segments.partition_point(|s| s.base_offset() <= batch.header.base_offset),
                batch,
            })
            .collect();
        prop_assert_eq!(placed.len(), sizes.len());
        let end = log.end_offset();
        let whole = [0, 1, 5000, 1 << 20].map(|max_bytes| (0, max_bytes, u16::MAX, true));
        for (offset, max_bytes, upper, at_least_one_batch) in questions.into_iter().chain(whole) {
            let question = Question {
                offset: i64::from(offset) % (end + 1),
                max_bytes,
                upper: if upper == u16::MAX { end } else { i64::from(upper) % (end + 1) },
                at_least_one_batch,
            };
            check(&log, &placed, &question);
        }
    }
}

#[test]
fn a_read_of_files_that_are_not_open_does_not_open_them_on_the_spot() {
    let disk = memory_disk();
    let config = LogConfig {
        segment_bytes: 1500,
        ..LogConfig::default()
    };
    let (mut log, _) = open(&disk, &config).unwrap();
    for _ in 0..60 {
        log.append_as_leader(&batch(&Spec::default()), 0, NOW_MS)
            .unwrap();
    }
    assert!(log.segment_count() > 2);
    log.close(NOW_MS).unwrap();
    let (log, _) = open(&disk, &config).unwrap();
    let plan = log.read_plan(2, 200, 60, true).unwrap();
    assert!(plan.run_cached().unwrap().is_none());
    let found = plan.run().unwrap();
    assert_eq!(
        plan.run_cached().unwrap().unwrap().next_offset,
        found.next_offset
    );
}

#[test]
fn a_long_read_looks_at_the_index_and_few_headers() {
    let disk = memory_disk();
    let (mut log, _) = open(&disk, &LogConfig::default()).unwrap();
    let spec = Spec {
        value_bytes: 16_000,
        ..Spec::default()
    };
    for _ in 0..400 {
        log.append_as_leader(&batch(&spec), 0, NOW_MS).unwrap();
    }
    flush(&mut log);
    log.release_idle();
    log.release_idle();
    let size = batch(&spec).bytes.len();
    for offset in [0, 7, 200] {
        let before = disk.reads();
        let found = log
            .read_plan(offset, 100 * size, 400, true)
            .unwrap()
            .run()
            .unwrap();
        assert_eq!(found.next_offset, offset + 100);
        let reads = disk.reads() - before;
        assert!(reads <= 8, "{reads} reads for 100 batches");
    }
    let before = disk.reads();
    let tail = log
        .read_plan(380, 100 * size, 400, true)
        .unwrap()
        .run()
        .unwrap();
    assert_eq!((tail.next_offset, tail.more), (400, false));
    assert!(disk.reads() - before <= 4);
}
