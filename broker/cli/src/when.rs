//! Durations and moments as people type and read them. Pure; times without a zone are UTC.

const SECOND_MS: i64 = 1_000;
const MINUTE_MS: i64 = 60 * SECOND_MS;
const HOUR_MS: i64 = 60 * MINUTE_MS;
const DAY_MS: i64 = 24 * HOUR_MS;

/// `500ms`, `90s`, `5m`, `6h`, `7d`, `2w`, `1h30m` in milliseconds.
pub fn parse_duration(text: &str) -> Result<i64, String> {
    let bad = || format!("'{text}' is not a duration: write 90s, 5m, 6h, 7d, 2w or 1h30m");
    let mut rest = text;
    let mut total_ms: i64 = 0;
    if rest.is_empty() {
        return Err(bad());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
        let number: i64 = rest[..digits].parse().map_err(|_| bad())?;
        rest = &rest[digits..];
        let letters = rest
            .find(|c: char| c.is_ascii_digit())
            .unwrap_or(rest.len());
        let unit_ms = match &rest[..letters] {
            "ms" => 1,
            "s" => SECOND_MS,
            "m" | "min" => MINUTE_MS,
            "h" => HOUR_MS,
            "d" => DAY_MS,
            "w" => 7 * DAY_MS,
            _ => return Err(bad()),
        };
        rest = &rest[letters..];
        total_ms = number
            .checked_mul(unit_ms)
            .and_then(|ms| total_ms.checked_add(ms))
            .ok_or_else(bad)?;
    }
    Ok(total_ms)
}

/// A duration for people: the two largest units that matter.
pub fn format_duration(ms: i64) -> String {
    let units = [
        (DAY_MS, "d"),
        (HOUR_MS, "h"),
        (MINUTE_MS, "m"),
        (SECOND_MS, "s"),
    ];
    for (index, (unit_ms, name)) in units.iter().enumerate() {
        if ms >= *unit_ms {
            let first = ms / unit_ms;
            let rest = units
                .get(index + 1)
                .map(|(next_ms, next)| ((ms % unit_ms) / next_ms, next));
            return match rest {
                Some((number, next)) if number > 0 => format!("{first}{name}{number}{next}"),
                _ => format!("{first}{name}"),
            };
        }
    }
    format!("{ms}ms")
}

/// A moment in milliseconds since the epoch: `now`, `-6h` (ago), `2026-11-22`, `2026-11-22T13:00[:05[.123]][Z|+02:00]`,
/// or `@` with seconds or milliseconds since the epoch.
pub fn parse_moment(text: &str, now_ms: i64) -> Result<i64, String> {
    if text == "now" {
        return Ok(now_ms);
    }
    if let Some(ago) = text.strip_prefix('-') {
        return Ok(now_ms.saturating_sub(parse_duration(ago)?));
    }
    let bad = || {
        format!(
            "'{text}' is not a time: write -6h (ago), 2026-11-22, 2026-11-22T13:00:00Z or @1700000000"
        )
    };
    if let Some(epoch) = text.strip_prefix('@') {
        let number: i64 = epoch.parse().map_err(|_| bad())?;
        // Eleven digits of seconds reach the year 5138; of milliseconds only 1973.
        return if epoch.len() <= 11 {
            number.checked_mul(SECOND_MS).ok_or_else(bad)
        } else {
            Ok(number)
        };
    }
    parse_date_time(text).ok_or_else(bad)
}

fn parse_date_time(text: &str) -> Option<i64> {
    if !text.is_ascii() {
        return None;
    }
    let (date, time) = match text.find(['T', 't', ' ']) {
        Some(at) => (&text[..at], &text[at + 1..]),
        None => (text, ""),
    };
    let mut parts = date.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || year.len() != 4 || month.len() != 2 || day.len() != 2 {
        return None;
    }
    let (year, month, day) = (number(year)?, number(month)?, number(day)?);
    if !(1..=12).contains(&month) || !(1..=days_in_month(year, month)).contains(&day) {
        return None;
    }
    let day_ms = days_from_civil(year, month, day) * DAY_MS;
    if time.is_empty() {
        return (text.len() == date.len()).then_some(day_ms);
    }
    let (clock, zone_ms) = split_zone(time)?;
    Some(day_ms + clock_ms(clock)? - zone_ms)
}

fn number(digits: &str) -> Option<i64> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

/// The time of day, and how far its zone is ahead of UTC.
fn split_zone(time: &str) -> Option<(&str, i64)> {
    if let Some(clock) = time.strip_suffix(['Z', 'z']) {
        return Some((clock, 0));
    }
    let Some(at) = time.find(['+', '-']) else {
        return Some((time, 0));
    };
    let sign = if time.as_bytes()[at] == b'-' { -1 } else { 1 };
    let zone = time[at + 1..].replace(':', "");
    let (hours, minutes) = match zone.len() {
        2 => (number(&zone)?, 0),
        4 => (number(&zone[..2])?, number(&zone[2..])?),
        _ => return None,
    };
    (hours < 24 && minutes < 60)
        .then_some((&time[..at], sign * (hours * HOUR_MS + minutes * MINUTE_MS)))
}

fn clock_ms(clock: &str) -> Option<i64> {
    let mut parts = clock.split(':');
    let hours = number(parts.next()?)?;
    let minutes = number(parts.next()?)?;
    let (seconds, fraction) = match parts.next() {
        None => (0, 0),
        Some(text) => match text.split_once('.') {
            None => (number(text)?, 0),
            Some((seconds, fraction)) => {
                number(fraction)?;
                let millis = format!("{fraction:0<3}");
                (number(seconds)?, number(&millis[..3])?)
            }
        },
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    Some(hours * HOUR_MS + minutes * MINUTE_MS + seconds * SECOND_MS + fraction)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01, by counting 400-year cycles from March (the leap day ends such a year).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let cycle = year.div_euclid(400);
    let of_cycle = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    cycle * 146_097 + of_cycle * 365 + of_cycle / 4 - of_cycle / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let cycle = days.div_euclid(146_097);
    let of_cycle = days.rem_euclid(146_097);
    let year = (of_cycle - of_cycle / 1_460 + of_cycle / 36_524 - of_cycle / 146_096) / 365;
    let of_year = of_cycle - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (cycle * 400 + year + i64::from(month <= 2), month, day)
}

/// A moment for people and scripts: `2026-11-22T13:36:25.123Z`; `-` for what has none.
pub fn format_moment(ms: i64) -> String {
    // Beyond this the year has more than four digits, or the arithmetic none.
    if !(0..253_402_300_800_000).contains(&ms) {
        return if ms == -1 {
            "-".to_owned()
        } else {
            format!("@{ms}")
        };
    }
    let (year, month, day) = civil_from_days(ms.div_euclid(DAY_MS));
    let of_day = ms.rem_euclid(DAY_MS);
    let (hour, minute) = (of_day / HOUR_MS, of_day / MINUTE_MS % 60);
    let (second, milli) = (of_day / SECOND_MS % 60, of_day % SECOND_MS);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_795_354_585_123; // 2026-11-22T13:36:25.123Z

    #[test]
    fn durations() {
        assert_eq!(parse_duration("500ms"), Ok(500));
        assert_eq!(parse_duration("90s"), Ok(90_000));
        assert_eq!(parse_duration("1h30m"), Ok(90 * 60_000));
        assert_eq!(parse_duration("2w"), Ok(14 * DAY_MS));
        for bad in [
            "",
            "6",
            "h",
            "6x",
            "1h30",
            "-6h",
            "99999999999999999999d",
            "9999999999999d",
            "6 h",
        ] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
        assert_eq!(format_duration(90 * 60_000), "1h30m");
        assert_eq!(format_duration(41 * DAY_MS), "41d");
        assert_eq!(format_duration(999), "999ms");
        assert_eq!(format_duration(61_500), "1m1s");
    }

    #[test]
    fn moments() {
        assert_eq!(parse_moment("now", NOW_MS), Ok(NOW_MS));
        assert_eq!(parse_moment("-6h", NOW_MS), Ok(NOW_MS - 6 * HOUR_MS));
        assert_eq!(parse_moment("2026-11-22T13:36:25.123Z", 0), Ok(NOW_MS));
        assert_eq!(parse_moment("2026-11-22 15:36:25.123+02:00", 0), Ok(NOW_MS));
        assert_eq!(
            parse_moment("2026-11-22T08:06:25.123456-0530", 0),
            Ok(NOW_MS)
        );
        assert_eq!(parse_moment("2026-11-22T13:36", 0), Ok(NOW_MS - 25_123));
        assert_eq!(parse_moment("1970-01-01", 0), Ok(0));
        assert_eq!(parse_moment("2000-02-29", 0), Ok(951_782_400_000));
        assert_eq!(parse_moment("@1700000000", 0), Ok(1_700_000_000_000));
        assert_eq!(parse_moment("@1700000000123", 0), Ok(1_700_000_000_123));
        for bad in [
            "",
            "yesterday",
            "2026-13-01",
            "2026-02-29",
            "2026-11-22T",
            "2026-11-22T25:00",
            "2026-11-22T10",
            "2026-11-22T10:00:00+99:00",
            "12345",
            "-6",
            "2026-1-1",
            "2026-11-22T10:00:00.é",
        ] {
            assert!(parse_moment(bad, NOW_MS).is_err(), "{bad}");
        }
    }

    #[test]
    fn every_day_comes_back() {
        for days in (-200_000..200_000).step_by(17) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
        for ms in [0, 951_782_400_000, NOW_MS, 253_402_300_799_999] {
            assert_eq!(parse_moment(&format_moment(ms), 0), Ok(ms));
        }
        assert_eq!(format_moment(NOW_MS), "2026-11-22T13:36:25.123Z");
        assert_eq!(format_moment(-1), "-");
        assert_eq!(format_moment(i64::MAX), format!("@{}", i64::MAX));
    }
}
