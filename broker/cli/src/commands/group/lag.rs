//! `tidemark group lag`: how far a group is behind, again and again, as a picture.

use std::time::Duration;

use serde::Serialize;
use tidemark_client::Cluster;
use tidemark_env::clock;

use super::describe::{self, ends};
use super::unknown_group;
use crate::context::{Context, parse_timeout};
use crate::failure::{Exit, Failure};
use crate::output::count;
use crate::picture::bar;
use crate::when::{format_duration, format_moment};

/// Characters of the longest bar.
const WIDTH: usize = 40;

/// Draw how far a group is behind while time goes by
///
/// A line for each look, and at the end when the group will have caught up at this pace.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Its id
    group: String,
    /// How often to look
    #[arg(long, default_value = "1s", value_parser = parse_timeout, value_name = "DURATION")]
    every: Duration,
    /// For how long
    #[arg(long = "for", default_value = "15s", value_parser = parse_timeout, value_name = "DURATION")]
    last: Duration,
}

/// What was seen at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Sample {
    at_ms: i64,
    lag: i64,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let cluster = context.cluster().await?;
    let mut samples = Vec::new();
    let (begun, mut most) = (clock::monotonic(), 0);
    loop {
        let Some(lag) = lag_of(&cluster, &args.group).await? else {
            return Err(unknown_group(&cluster, &args.group).await);
        };
        let sample = Sample {
            at_ms: clock::now_ms(),
            lag,
        };
        samples.push(sample);
        most = most.max(lag);
        if !context.out.is_json() {
            context.out.line(&line(sample, most))?;
            context.out.flush()?;
        }
        if begun.elapsed() + args.every > args.last {
            break;
        }
        clock::sleep(args.every).await;
    }
    context
        .out
        .show(&samples, |out| out.line(&sentence(&samples)))?;
    Ok(Exit::Ok)
}

/// Records that the group has not committed, of partitions that it has offsets of.
async fn lag_of(cluster: &Cluster, group: &str) -> Result<Option<i64>, Failure> {
    if cluster.describe_group(group).await?.is_none() {
        return Ok(None);
    }
    let committed = cluster.group_offsets(group).await?;
    let partitions = committed.keys().cloned().collect();
    let ends = ends(cluster, &partitions).await?;
    Ok(Some(describe::lag(&committed, &ends)))
}

fn line(sample: Sample, most: i64) -> String {
    let moment = format_moment(sample.at_ms);
    let time = moment.get(11..19).unwrap_or(&moment);
    let drawn = bar(sample.lag, most, WIDTH);
    format!("{time}  {:>12}  {drawn}", count(sample.lag))
        .trim_end()
        .to_owned()
}

/// What the samples come to.
fn sentence(samples: &[Sample]) -> String {
    let (Some(first), Some(last)) = (samples.first(), samples.last()) else {
        return "Nothing was seen.".to_owned();
    };
    let (took_ms, less) = (last.at_ms - first.at_ms, first.lag - last.lag);
    match (last.lag, less) {
        (0, _) => "It has caught up.".to_owned(),
        _ if took_ms <= 0 => format!("It is {} records behind.", count(last.lag)),
        (_, 0) => "It is as far behind as it was.".to_owned(),
        (_, less) if less < 0 => format!(
            "It falls behind: {} records more within {}.",
            count(-less),
            format_duration(took_ms)
        ),
        (lag, less) => {
            let left_ms = i128::from(lag) * i128::from(took_ms) / i128::from(less);
            let left_ms = i64::try_from(left_ms).unwrap_or(i64::MAX).max(1_000);
            format!(
                "It gets on: at this pace it has caught up in {}.",
                format_duration(left_ms)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(lags: &[i64]) -> Vec<Sample> {
        (0..)
            .zip(lags)
            .map(|(at, lag)| Sample {
                at_ms: 1_700_000_000_000 + at * 1_000,
                lag: *lag,
            })
            .collect()
    }

    #[test]
    fn what_the_samples_come_to_is_said() {
        for (lags, says) in [
            (&[300, 200, 100][..], "caught up in 1s"),
            (&[100, 0], "has caught up"),
            (&[100, 100], "as far behind as it was"),
            (&[100, 150, 160], "60 records more within 2s"),
            (&[70], "70 records behind"),
            (&[], "Nothing was seen"),
        ] {
            let said = sentence(&samples(lags));
            assert!(said.contains(says), "{said}");
        }
    }

    #[test]
    fn a_line_has_time_number_and_bar() {
        let sample = samples(&[1_500])[0];
        assert_eq!(
            line(sample, 3_000),
            format!("22:13:20         1,500  {}", "█".repeat(20))
        );
        assert_eq!(line(samples(&[0])[0], 10), "22:13:20             0");
    }
}
