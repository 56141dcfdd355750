//! `tidemark tier growth`: how a bucket has filled, as a picture.

use serde::Serialize;
use tidemark_tier::verify;

use super::{Args, away, open, wanted};
use crate::context::Context;
use crate::failure::{Exit, Failure};
use crate::output::bytes;
use crate::picture::{bar, moments};
use crate::progress::Progress;
use crate::when::format_moment;

/// Characters of the longest bar.
const WIDTH: usize = 40;
/// Lines of the picture.
const LINES: usize = 16;

/// An object of records.
#[derive(Debug, Clone, Copy)]
struct Object {
    /// Its newest record.
    newest_ms: i64,
    bytes: u64,
}

/// How much there was at a moment.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Point {
    at_ms: i64,
    bytes: u64,
    objects: usize,
}

/// Runs the command.
pub async fn run(args: &Args, context: &mut Context) -> Result<Exit, Failure> {
    let bucket = open(args)?;
    let found = verify::by_partition(&bucket).await;
    let (partitions, _) = found.map_err(|error| away(&error))?;
    let mut progress = Progress::new();
    let mut objects = Vec::new();
    for (done, (id, keys)) in partitions.iter().enumerate() {
        progress.update(|| {
            format!(
                "reading manifests: {done} of {} partitions",
                partitions.len()
            )
        });
        let newest = verify::newest(&bucket, *id, keys).await;
        let Some(found) = newest.map_err(|error| away(&error))? else {
            continue;
        };
        if wanted(args, &found.manifest.topic) {
            let dated = found
                .entries
                .iter()
                .filter(|entry| entry.max_timestamp_ms >= 0);
            objects.extend(dated.map(|entry| Object {
                newest_ms: entry.max_timestamp_ms,
                bytes: entry.size_bytes,
            }));
        }
    }
    progress.clear();
    let points = points(&objects);
    context.out.show(&points, |out| {
        let Some(last) = points.last() else {
            return out.line("Nothing is tiered there.");
        };
        let most = i64::try_from(last.bytes).unwrap_or(i64::MAX);
        for point in &points {
            let size = i64::try_from(point.bytes).unwrap_or(i64::MAX);
            let moment = format_moment(point.at_ms);
            let moment = moment.get(..19).unwrap_or(&moment);
            let drawn = bar(size, most, WIDTH);
            out.line(format!("{moment}  {:>10}  {drawn}", bytes(size)).trim_end())?;
        }
        out.line("By the time of the newest record in each object that is there still.")
    })?;
    Ok(Exit::Ok)
}

/// What there is of records up to each moment, from the first object's newest record to the last's.
fn points(objects: &[Object]) -> Vec<Point> {
    let times = || objects.iter().map(|object| object.newest_ms);
    let (Some(first), Some(last)) = (times().min(), times().max()) else {
        return Vec::new();
    };
    let up_to = |at_ms: i64| {
        let mut point = Point {
            at_ms,
            bytes: 0,
            objects: 0,
        };
        for object in objects.iter().filter(|object| object.newest_ms <= at_ms) {
            point.bytes = point.bytes.saturating_add(object.bytes);
            point.objects += 1;
        }
        point
    };
    moments(first, last, LINES).into_iter().map(up_to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_grows_with_the_time_of_its_records() {
        let object = |newest_ms, bytes| Object { newest_ms, bytes };
        assert_eq!(points(&[]), []);
        let of_one = points(&[object(5, 70)]);
        assert_eq!((of_one.len(), of_one[0].bytes), (1, 70));
        let grown = points(&[object(100, 30), object(0, 10), object(50, 20)]);
        assert_eq!(grown.len(), LINES);
        assert_eq!((grown[0].bytes, grown[0].objects), (10, 1));
        assert!(grown.windows(2).all(|two| two[0].bytes <= two[1].bytes));
        assert_eq!(
            grown
                .last()
                .map(|point| (point.at_ms, point.bytes, point.objects)),
            Some((100, 60, 3))
        );
    }
}
