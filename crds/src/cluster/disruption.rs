//! `spec.disruption`: when brokers may be restarted.

use std::fmt;

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::common::Invalid;
use crate::units::{Limit, duration_ms};

const MINUTE_MS: i64 = 60_000;
const DAY_MS: i64 = 24 * 60 * MINUTE_MS;
const WEEK_MS: i64 = 7 * DAY_MS;

/// When brokers may be restarted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct Disruption {
    /// Automatic: as soon as it is safe. Approval: after the annotation tidemark.dev/approve names
    /// the plan that status.disruption shows. Never: not at all. Brokers that are down already are
    /// repaired in any case.
    #[serde(default)]
    pub mode: DisruptionMode,
    /// Times of each week at which restarts may begin; at any time where none is given. They hold for
    /// what is approved as well, and not for the repair of brokers that are down.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[x_kube(merge_strategy = ListMerge::Map(vec!["name".into()]))]
    #[schemars(length(max = 16))]
    pub windows: Vec<Window>,
    /// What to do about partitions that cannot keep their minimum in sync without the broker,
    /// however long one waits: those with a single replica, for example. Proceed: they are offline
    /// while it restarts. Block: it is not restarted.
    #[serde(default)]
    pub unreplicated: Unreplicated,
}

/// Who decides on a restart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum DisruptionMode {
    /// The operator, when it is safe.
    #[default]
    Automatic,
    /// A person, for each plan.
    Approval,
    /// Nobody.
    Never,
}

/// What happens to partitions that no order of restarts keeps available.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Unreplicated {
    /// They are offline while their broker restarts.
    #[default]
    Proceed,
    /// Their broker is not restarted.
    Block,
}

/// A time of each week at which restarts may begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Window {
    /// A DNS label.
    #[schemars(
        length(min = 1, max = 20),
        regex(pattern = r"^[a-z]([-a-z0-9]*[a-z0-9])?$")
    )]
    pub name: String,
    /// The days on which it opens; every day where none is given.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 7))]
    pub days: Vec<Day>,
    /// When it opens, in hours and minutes of UTC, such as 22:30.
    #[schemars(length(max = 5), regex(pattern = r"^([01][0-9]|2[0-3]):[0-5][0-9]$"))]
    pub start: String,
    /// For how long, such as 4h; a week at most.
    #[schemars(length(max = 40), regex(pattern = r"^([0-9]+(ms|s|m|h|d))+$"))]
    pub duration: String,
}

/// A day of the week.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Day {
    /// Monday.
    Monday,
    /// Tuesday.
    Tuesday,
    /// Wednesday.
    Wednesday,
    /// Thursday.
    Thursday,
    /// Friday.
    Friday,
    /// Saturday.
    Saturday,
    /// Sunday.
    Sunday,
}

/// From Thursday on: so the first day of 1970 was.
const DAYS: [Day; 7] = [
    Day::Thursday,
    Day::Friday,
    Day::Saturday,
    Day::Sunday,
    Day::Monday,
    Day::Tuesday,
    Day::Wednesday,
];

impl Window {
    /// When in the day it opens, and for how long, in ms.
    fn times(&self) -> Result<(i64, i64), Invalid> {
        let wrong = |text: String| {
            let text = format!("disruption.windows: {}: {text}", self.name);
            Invalid::new("InvalidWindow", text)
        };
        let part = |text: &str, below: i64| {
            let digits = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            let read = text.parse::<i64>().ok().filter(|_| digits);
            read.filter(|n| *n < below)
        };
        let start = self.start.split_once(':');
        let start = start.and_then(|(hour, minute)| Some((part(hour, 24)?, part(minute, 60)?)));
        let (hour, minute) = start.ok_or_else(|| {
            wrong(format!(
                "'{}' is no time of the day: write 22:30",
                self.start
            ))
        })?;
        let lasts = duration_ms(&self.duration).map_err(|error| wrong(error.to_string()))?;
        match lasts {
            Limit::Of(ms @ 1..=WEEK_MS) => Ok(((hour * 60 + minute) * MINUTE_MS, ms)),
            _ => Err(wrong(format!(
                "{} is no time for it to be open: write up to 7d",
                self.duration
            ))),
        }
    }
}

/// A window that is closed, and when it opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Opens {
    /// In ms since 1970.
    pub at_ms: i64,
    /// Its name.
    pub window: String,
}

impl fmt::Display for Opens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (day, minute) = (
            self.at_ms.div_euclid(DAY_MS),
            self.at_ms.rem_euclid(DAY_MS) / MINUTE_MS,
        );
        write!(
            f,
            "{} opens on {:?} at {:02}:{:02} UTC",
            self.window,
            weekday(day),
            minute / 60,
            minute % 60
        )
    }
}

fn weekday(day: i64) -> Day {
    DAYS[usize::try_from(day.rem_euclid(7)).unwrap_or(0)]
}

impl Disruption {
    /// The window that opens next, where there are windows and none is open.
    ///
    /// # Errors
    /// A window that is none.
    pub fn closed(&self, now_ms: i64) -> Result<Option<Opens>, Invalid> {
        let (mut next, mut open) = (None::<Opens>, self.windows.is_empty());
        for window in &self.windows {
            let (start_ms, lasts_ms) = window.times()?;
            let today = now_ms.div_euclid(DAY_MS);
            for day in today - 7..=today + 7 {
                if !window.days.is_empty() && !window.days.contains(&weekday(day)) {
                    continue;
                }
                let at_ms = day * DAY_MS + start_ms;
                open |= (at_ms..at_ms + lasts_ms).contains(&now_ms);
                if at_ms > now_ms && next.as_ref().is_none_or(|next| at_ms < next.at_ms) {
                    let window = window.name.clone();
                    next = Some(Opens { at_ms, window });
                }
            }
        }
        Ok(next.filter(|_| !open))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-30 was a Monday.
    const MONDAY_MS: i64 = 1_795_996_800_000;
    const HOUR_MS: i64 = 60 * MINUTE_MS;

    fn window(days: &[Day], start: &str, duration: &str) -> Window {
        Window {
            name: format!("at-{}", start.replace(':', "")),
            days: days.to_vec(),
            start: start.to_owned(),
            duration: duration.to_owned(),
        }
    }

    /// The next one to open, at so many hours of that week.
    fn closed(windows: &[Window], hours: i64) -> Option<String> {
        let disruption = Disruption {
            windows: windows.to_vec(),
            ..Disruption::default()
        };
        let closed = disruption.closed(MONDAY_MS + hours * HOUR_MS);
        closed.expect("windows").map(|next| next.to_string())
    }

    #[test]
    fn without_windows_it_is_always_open() {
        assert_eq!(closed(&[], 0), None);
    }

    #[test]
    fn a_window_opens_on_its_days_for_as_long_as_it_says() {
        let night = [window(&[Day::Tuesday, Day::Friday], "22:00", "4h")];
        let next = |day: &str| Some(format!("at-2200 opens on {day} at 22:00 UTC"));
        assert_eq!(closed(&night, 0), next("Tuesday"));
        assert_eq!(closed(&night, 24 + 21), next("Tuesday"));
        assert_eq!(closed(&night, 24 + 22), None);
        // Past midnight it is still Tuesday's.
        assert_eq!(closed(&night, 48 + 1), None);
        assert_eq!(closed(&night, 48 + 2), next("Friday"));
        // Next week's.
        assert_eq!(closed(&night, 6 * 24), next("Tuesday"));
    }

    #[test]
    fn of_several_any_may_be_open_and_the_next_is_named() {
        let daily = window(&[], "03:30", "30m");
        let weekend = window(&[Day::Saturday], "00:00", "2d");
        let both = [weekend, daily];
        let next = |day: &str| Some(format!("at-0330 opens on {day} at 03:30 UTC"));
        assert_eq!(closed(&both, 0), next("Monday"));
        assert_eq!(closed(&both, 4), next("Tuesday"));
        assert_eq!(closed(&both, 5 * 24), None);
        assert_eq!(closed(&both, 7 * 24 - 1), None);
        assert_eq!(closed(&both, 7 * 24), next("Monday"));
        assert_eq!(closed(&[window(&[], "00:00", "7d")], 50), None);
    }

    #[test]
    fn what_is_no_window_is_refused_with_its_name() {
        for (start, duration) in [
            ("24:00", "1h"),
            ("9:00", "1h"),
            ("+9:00", "1h"),
            ("0900", "1h"),
            ("09:60", "1h"),
            ("09:00", "0s"),
            ("09:00", "8d"),
            ("09:00", "unlimited"),
            ("09:00", "1w"),
        ] {
            let disruption = Disruption {
                windows: vec![window(&[], start, duration)],
                ..Disruption::default()
            };
            let refused = disruption.closed(0).expect_err("no window");
            assert_eq!(refused.reason, "InvalidWindow", "{start} {duration}");
            assert!(refused.message.contains("at-"), "{refused}");
        }
    }
}
