//! What a log is held against.

use bytes::Bytes;
use tidemark_log::{Log, SequenceCheck};
use tidemark_records::Batch;
use tidemark_wal::Lsn;

use crate::shadow::{Change, Shadow, State};

/// Splits records as they are read into batches.
///
/// # Errors
/// They are not whole and genuine batches.
pub fn split(mut bytes: Bytes) -> Result<Vec<Batch>, String> {
    let mut batches = Vec::new();
    while let Some(batch) = Batch::split_first(&mut bytes).map_err(|error| error.to_string())? {
        batch.verify_crc().map_err(|error| error.to_string())?;
        batches.push(batch);
    }
    Ok(batches)
}

/// All batches of `log` from its start up to its durable end.
///
/// # Errors
/// It cannot be read.
pub fn read_all(log: &Log) -> Result<Vec<Batch>, String> {
    let mut batches = Vec::new();
    let mut offset = log.log_start_offset();
    let end = log.durable_offset();
    while offset < end {
        let read = log
            .read_plan(offset, 1 << 20, end, true)
            .and_then(|plan| plan.load())
            .map_err(|error| format!("cannot be read at {offset}: {error}"))?;
        if read.next_offset <= offset {
            return Err(format!(
                "a read at {offset} below the end {end} gives nothing"
            ));
        }
        offset = read.next_offset;
        batches.extend(split(read.records)?);
    }
    Ok(batches)
}

fn offsets(batches: &[Batch]) -> Vec<(i64, i64, u32)> {
    let of = |batch: &Batch| {
        let header = &batch.header;
        (header.base_offset, header.next_offset(), header.crc)
    };
    batches.iter().map(of).collect()
}

/// What is wrong with the order of offsets and epochs, and with the bytes: they
/// must be `expected`, up to the durable end.
///
/// # Errors
/// What is wrong.
pub fn contents(log: &Log, expected: &State) -> Result<(), String> {
    let (start, durable, end) = (
        log.log_start_offset(),
        log.durable_offset(),
        log.end_offset(),
    );
    if !(start <= durable && durable <= end) {
        return Err(format!("I3: start {start}, durable {durable}, end {end}"));
    }
    let found = read_all(log)?;
    let wanted: Vec<Batch> = expected
        .batches
        .iter()
        .filter(|batch| batch.header.last_offset() >= start)
        .filter(|batch| batch.header.next_offset() <= durable)
        .cloned()
        .collect();
    if found != wanted {
        return Err(format!(
            "I4: it holds {:?}, and should hold {:?}",
            offsets(&found),
            offsets(&wanted)
        ));
    }
    let mut epoch = i32::MIN;
    for pair in found.windows(2) {
        if pair[0].header.next_offset() != pair[1].header.base_offset {
            return Err(format!("I3: a gap in {:?}", offsets(&found)));
        }
    }
    for batch in &found {
        let own = batch.header.partition_leader_epoch;
        if own < epoch {
            return Err(format!("I3: epoch {own} after epoch {epoch}"));
        }
        epoch = own;
        if batch.header.base_offset < expected.epochs_from {
            continue;
        }
        let noted = log.epochs().epoch_at(batch.header.last_offset());
        if noted != Some(own) {
            return Err(format!("epoch {own} is noted as {noted:?}"));
        }
    }
    Ok(())
}

/// What is wrong with the producers: of each the newest batch is known, and no
/// batch is known that is not in the log.
///
/// # Errors
/// What is wrong.
pub fn producers(log: &Log, expected: &State) -> Result<(), String> {
    let wanted = expected.producers();
    for entry in log.producers().iter() {
        let id = entry.producer_id;
        let Some(own) = wanted.get(id) else {
            return Err(format!(
                "I15: producer {id} is known and never wrote: {entry:?}"
            ));
        };
        if own.epoch != entry.epoch || !own.batches().ends_with(entry.batches()) {
            return Err(format!("I15: producer {id} is {entry:?}, not {own:?}"));
        }
    }
    for entry in wanted.iter() {
        let id = entry.producer_id;
        let found = log.producers().get(id).and_then(|found| found.last_batch());
        if found != entry.last_batch() {
            return Err(format!(
                "I15: the newest batch of producer {id} is {:?}, and is known as {found:?}",
                entry.last_batch()
            ));
        }
    }
    for batch in &expected.batches {
        let header = &batch.header;
        let newest = wanted
            .get(header.producer_id)
            .and_then(|entry| entry.last_batch())
            .is_some_and(|last| last.last_offset == header.last_offset());
        if !newest {
            continue;
        }
        match log.producers().check(header) {
            Ok(SequenceCheck::Duplicate(original))
                if original.first_offset() == header.base_offset => {}
            other => {
                return Err(format!(
                    "I15: sent again, the batch at {} is {other:?}",
                    header.base_offset
                ));
            }
        }
    }
    Ok(())
}

/// What is wrong with a log after a start that found the groups up to `lsn`; if nothing
/// is, what it is from then on.
///
/// # Errors
/// What is wrong.
pub fn recovered(log: &Log, shadow: &Shadow, lsn: Lsn) -> Result<State, String> {
    let mut expected = shadow.at(lsn);
    let end = log.end_offset();
    if !shadow.keeps_promise(lsn, end) {
        return Err(format!(
            "I4: it ends at {end}, below what was reported durable"
        ));
    }
    if end != expected.end || log.durable_offset() != end {
        return Err(format!(
            "I11: it ends at {end}, durable {}; with the groups up to {lsn} it ends at {}",
            log.durable_offset(),
            expected.end
        ));
    }
    let start = log.log_start_offset();
    let newest = shadow.newest_start().max(expected.log_start);
    if start < expected.log_start || start > newest {
        return Err(format!(
            "I11: it starts at {start}, and should at {} to {newest}",
            expected.log_start
        ));
    }
    expected.apply(&Change::LogStart(start));
    expected.epochs_from = expected.epochs_from.max(newest);
    contents(log, &expected)?;
    producers(log, &expected)?;
    let latest = log.epochs().latest().unwrap_or(-1);
    if latest < expected.durable_epoch() || latest > shadow.newest_epoch() {
        return Err(format!(
            "A29: its newest epoch is {latest}, and should be {} to {}",
            expected.durable_epoch(),
            shadow.newest_epoch()
        ));
    }
    expected.phantom = (latest > expected.durable_epoch()).then_some(latest);
    Ok(expected)
}
