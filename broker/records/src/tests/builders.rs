//! Building batches.

use super::{batch_of, only_batch, records_of};
use crate::{
    BatchBuilder, BatchOptions, BuildError, Compression, NO_TIMESTAMP_MS, RecordRef, crc32c,
};

#[test]
fn the_checksum_is_castagnoli() {
    assert_eq!(crc32c(b"123456789"), 0xe306_9283);
}

#[test]
fn an_empty_batch_is_refused() {
    let builder = BatchBuilder::new(BatchOptions::default());
    assert!(builder.is_empty());
    assert_eq!(builder.build(), Err(BuildError::Empty));
}

#[test]
fn producer_state_and_flags_land_in_the_header() {
    let mut builder = BatchBuilder::new(BatchOptions {
        transactional: true,
        control: true,
        ..BatchOptions::default()
    });
    builder.append(&RecordRef::default()).unwrap();
    builder.set_producer_state(9, 3, 100);
    let header = only_batch(&builder.build().unwrap()).header;
    assert_eq!(
        (
            header.producer_id,
            header.producer_epoch,
            header.base_sequence
        ),
        (9, 3, 100)
    );
    assert!(header.is_transactional() && header.is_control());
    assert!(header.has_producer_id());
    assert_eq!(header.delete_horizon_ms(), None);
}

#[test]
fn the_size_is_known_before_appending() {
    let mut builder = BatchBuilder::with_capacity(BatchOptions::default(), 1_000);
    let mut count = 0;
    let value = [7; 50];
    loop {
        let record = RecordRef {
            timestamp_ms: count,
            value: Some(&value),
            ..RecordRef::default()
        };
        let size_bytes = builder.size_bytes_with(&record);
        if size_bytes > 1_000 {
            break;
        }
        builder.append(&record).unwrap();
        assert_eq!(builder.size_bytes(), size_bytes);
        count += 1;
    }
    assert_eq!(builder.record_count() as i64, count);
    let bytes = builder.build().unwrap();
    assert!((900..=1_000).contains(&bytes.len()));
}

#[test]
fn gaps_are_kept_and_disorder_is_refused() {
    let mut builder = BatchBuilder::new(BatchOptions {
        base_offset: 10,
        ..BatchOptions::default()
    });
    let record = RecordRef::default();
    builder.append_at(12, &record).unwrap();
    for offset in [12, 11, 9] {
        assert_eq!(
            builder.append_at(offset, &record),
            Err(BuildError::OffsetOutOfOrder {
                offset,
                previous: 12
            })
        );
    }
    assert_eq!(
        builder.append_at(10 + (1 << 31), &record),
        Err(BuildError::TooLarge)
    );
    builder.append_at(20, &record).unwrap();
    let batch = only_batch(&builder.build().unwrap());
    assert_eq!(
        (batch.header.base_offset, batch.header.last_offset()),
        (10, 20)
    );
    let offsets: Vec<i64> = records_of(&batch).iter().map(|r| r.offset).collect();
    assert_eq!(offsets, [12, 20]);
}

#[test]
fn the_largest_timestamp_counts_wherever_it_is() {
    let mut builder = BatchBuilder::new(BatchOptions::default());
    for timestamp_ms in [50, 90, NO_TIMESTAMP_MS, 70] {
        builder
            .append(&RecordRef {
                timestamp_ms,
                ..RecordRef::default()
            })
            .unwrap();
    }
    let batch = only_batch(&builder.build().unwrap());
    assert_eq!(batch.header.base_timestamp_ms, 50);
    assert_eq!(batch.header.max_timestamp_ms, 90);
    let timestamps: Vec<i64> = records_of(&batch).iter().map(|r| r.timestamp_ms).collect();
    assert_eq!(timestamps, [50, 90, -1, 70]);
}

#[test]
fn compression_levels_are_honoured() {
    let values: Vec<Vec<u8>> = (0..2_000u32)
        .map(|n| format!("{} and {}", n.wrapping_mul(2_654_435_761), n % 7).into_bytes())
        .collect();
    let size = |compression, compression_level| {
        let mut builder = BatchBuilder::new(BatchOptions {
            compression,
            compression_level,
            ..BatchOptions::default()
        });
        for value in &values {
            builder
                .append(&RecordRef {
                    value: Some(value),
                    ..RecordRef::default()
                })
                .unwrap();
        }
        let bytes = builder.build().unwrap();
        assert_eq!(records_of(&only_batch(&bytes)).len(), values.len());
        bytes.len()
    };
    for (codec, fast, best) in [(Compression::Gzip, 1, 9), (Compression::Zstd, -5, 19)] {
        assert!(size(codec, Some(best)) < size(codec, Some(fast)), "{codec}");
    }
    // Gzip's -1 is Kafka's way of writing the default.
    assert_eq!(
        size(Compression::Gzip, Some(-1)),
        size(Compression::Gzip, None)
    );
}

#[test]
fn snappy_and_lz4_are_written_as_the_java_client_does() {
    let value = vec![b'x'; 200_000];
    let snappy = batch_of(Compression::Snappy, &[&value]);
    assert_eq!(snappy[61..77], *b"\x82SNAPPY\0\0\0\0\x01\0\0\0\x01");
    // 200,000 bytes are seven blocks of 32 KiB.
    let mut rest = &snappy[77..];
    let mut blocks = 0;
    while !rest.is_empty() {
        let len = u32::from_be_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        assert!(snap::raw::decompress_len(&rest[4..4 + len]).unwrap() <= 32 * 1024);
        rest = &rest[4 + len..];
        blocks += 1;
    }
    assert_eq!(blocks, 7);
    let lz4 = batch_of(Compression::Lz4, &[&value]);
    // Magic, independent 64 KiB blocks without checksums, header checksum.
    assert_eq!(lz4[61..68], [0x04, 0x22, 0x4d, 0x18, 0x60, 0x40, 0x82]);
    assert_eq!(lz4[lz4.len() - 4..], [0; 4]);
}
