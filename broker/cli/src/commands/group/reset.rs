//! `tidemark group reset`: a plan first, then with `--execute` the move.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use tidemark_client::TopicPartition;
use tidemark_env::clock;
use tidemark_wire::ErrorCode;

use crate::commands::places::{Located, locate_all};
use crate::context::{Context, existing_topic};
use crate::failure::{Exit, Failure};
use crate::output::{Table, count};
use crate::position::{PLACES, parse_place};

/// Move a group's offsets (shows the plan; --execute does it)
///
/// The group must have no members when the plan is executed.
#[derive(Debug, clap::Args)]
#[command(after_help = format!("Places: {PLACES}"))]
pub struct Args {
    /// The group's id
    group: String,
    /// A topic, or partitions of it: orders, orders:0,3. All that the group has offsets in, if not given
    #[arg(long, short = 't', value_name = "TOPIC[:PARTITION,…]")]
    topic: Vec<String>,
    /// Where to
    #[arg(long, value_name = "PLACE", allow_hyphen_values = true)]
    to: String,
    /// Do it
    #[arg(long)]
    execute: bool,
}

/// One line of the plan.
#[derive(Debug, Serialize, PartialEq, Eq)]
struct Step {
    topic: String,
    partition: i32,
    from: Option<i64>,
    to: i64,
    /// Records read again (negative) or skipped; counted from where the group is.
    by: Option<i64>,
    lag_after: i64,
    note: &'static str,
}

#[derive(Debug, Serialize)]
struct Report {
    group: String,
    executed: bool,
    steps: Vec<Step>,
}

/// Runs the command.
pub async fn run(args: Args, context: &mut Context) -> Result<Exit, Failure> {
    let place = parse_place(&args.to, clock::now_ms()).map_err(Failure::usage)?;
    let cluster = context.cluster().await?;
    let committed = cluster.group_offsets(&args.group).await?;
    let current: BTreeMap<TopicPartition, i64> = committed
        .iter()
        .map(|(tp, c)| (tp.clone(), c.offset))
        .collect();
    let mut partitions: BTreeSet<TopicPartition> = BTreeSet::new();
    for text in &args.topic {
        let (name, wanted) = parse_topic(text).map_err(Failure::usage)?;
        let topic = existing_topic(&cluster, &name).await?;
        if let Some(missing) = wanted.iter().find(|p| !topic.partitions.contains_key(p)) {
            return Err(Failure::usage(format!(
                "topic {name} has no partition {missing}, only 0 to {}",
                topic.partition_count() - 1
            )));
        }
        let all = topic
            .partitions
            .keys()
            .filter(|p| wanted.is_empty() || wanted.contains(p));
        partitions.extend(all.map(|p| TopicPartition::new(name.clone(), *p)));
    }
    if args.topic.is_empty() {
        if current.is_empty() {
            let name = &args.group;
            return Err(Failure::finding(format!(
                "group {name} has no offsets, so a topic must be named"
            ))
            .next(format!(
                "tidemark group reset {name} --topic TOPIC --to {}",
                args.to
            )));
        }
        partitions.extend(current.keys().cloned());
    }
    let partitions: Vec<TopicPartition> = partitions.into_iter().collect();
    let located = locate_all(&cluster, &partitions, place, &current, false).await?;
    let steps: Vec<Step> = located.iter().map(|(tp, to)| step(tp, *to)).collect();
    if args.execute {
        let offsets = located
            .iter()
            .map(|(tp, to)| (tp.clone(), to.offset))
            .collect();
        cluster
            .alter_group_offsets(&args.group, &offsets)
            .await
            .map_err(|error| explain(error, &args.group))?;
    }
    let report = Report {
        group: args.group.clone(),
        executed: args.execute,
        steps,
    };
    context.out.show(&report, |out| {
        let mut table = Table::new(&[
            "TOPIC",
            "PARTITION",
            "FROM",
            "TO",
            "BY",
            "LAG AFTER",
            "NOTE",
        ]);
        for step in &report.steps {
            table.row(vec![
                step.topic.clone(),
                step.partition.to_string(),
                step.from.map_or("-".to_owned(), count),
                count(step.to),
                step.by.map_or("-".to_owned(), |by| {
                    if by > 0 {
                        format!("+{}", count(by))
                    } else {
                        count(by)
                    }
                }),
                count(step.lag_after),
                step.note.to_owned(),
            ]);
        }
        out.table(&table)?;
        if report.executed {
            out.line(&format!("Group {} was moved.", report.group))
        } else {
            let topics: String = args.topic.iter().map(|t| format!(" --topic {t}")).collect();
            out.line(&format!(
                "Nothing was done. To do it: tidemark group reset {}{topics} --to {} --execute",
                report.group, args.to
            ))
        }
    })?;
    Ok(Exit::Ok)
}

fn explain(error: tidemark_client::ClientError, group: &str) -> Failure {
    match error.code() {
        Some(
            ErrorCode::UnknownMemberId
            | ErrorCode::RebalanceInProgress
            | ErrorCode::NonEmptyGroup
            | ErrorCode::IllegalGeneration,
        ) => Failure::finding(format!(
            "group {group} has members, which would commit over the reset: stop them first"
        ))
        .next(format!("tidemark group describe {group} --members")),
        _ => error.into(),
    }
}

fn step(tp: &TopicPartition, to: Located) -> Step {
    let bounds = to.bounds;
    Step {
        topic: tp.topic.clone(),
        partition: tp.partition,
        from: bounds.current,
        to: to.offset,
        by: bounds.current.map(|from| to.offset - from),
        lag_after: bounds.end - to.offset,
        note: match (to.moved, to.offset == bounds.start) {
            (false, _) => "",
            (true, true) => "moved up to the first record",
            (true, false) => "moved back to the end",
        },
    }
}

/// `orders` or `orders:0,3`.
fn parse_topic(text: &str) -> Result<(String, Vec<i32>), String> {
    let Some((name, list)) = text.rsplit_once(':') else {
        return Ok((text.to_owned(), Vec::new()));
    };
    let partitions: Result<Vec<i32>, _> = list.split(',').map(str::parse).collect();
    match partitions {
        Ok(partitions) if !name.is_empty() => Ok((name.to_owned(), partitions)),
        _ => Err(format!("'{text}' is not TOPIC or TOPIC:PARTITION,…")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{Bounds, Place, locate};

    fn planned(place: Place, current: Option<i64>) -> Step {
        let bounds = Bounds {
            start: 100,
            end: 200,
            current,
            at_time: Some(150),
        };
        let (offset, moved) = locate(place, bounds);
        step(
            &TopicPartition::new("orders", 1),
            Located {
                offset,
                moved,
                bounds,
            },
        )
    }

    #[test]
    fn a_plan_says_from_where_to_where_and_by_how_much() {
        let step = planned(Place::Time(0), Some(180));
        assert_eq!(
            (step.from, step.to, step.by, step.lag_after),
            (Some(180), 150, Some(-30), 50)
        );
        assert_eq!(step.note, "");
        let step = planned(Place::End, None);
        assert_eq!(
            (step.from, step.to, step.by, step.lag_after),
            (None, 200, None, 0)
        );
    }

    #[test]
    fn a_plan_says_what_had_to_be_moved_into_the_log() {
        assert_eq!(
            planned(Place::Shift(-500), Some(180)).note,
            "moved up to the first record"
        );
        assert_eq!(
            planned(Place::Offset(999), Some(180)).note,
            "moved back to the end"
        );
    }

    #[test]
    fn topics_and_partitions() {
        assert_eq!(parse_topic("orders"), Ok(("orders".to_owned(), vec![])));
        assert_eq!(
            parse_topic("orders:0,3"),
            Ok(("orders".to_owned(), vec![0, 3]))
        );
        for bad in ["orders:", "orders:x", ":1", "orders:1,,2"] {
            assert!(parse_topic(bad).is_err(), "{bad}");
        }
    }
}
