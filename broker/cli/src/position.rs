//! Places in a partition as people type them: beginning, end, an offset, a time, so many from here. Pure.

use crate::when::parse_moment;

/// A place in a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The first record that is there.
    Beginning,
    /// Behind the last record.
    End,
    /// So many records before the end.
    BeforeEnd(i64),
    /// This offset.
    Offset(i64),
    /// So many records on from where one is; negative is back.
    Shift(i64),
    /// The first record at or after this many milliseconds since the epoch.
    Time(i64),
}

/// What [`parse_place`] understands, for error messages and help.
pub const PLACES: &str = "beginning, end, end-100, an offset such as 12345, a time such as -6h (ago) or 2026-11-22T13:00:00Z, or shift:-100";

/// Reads a place; `now_ms` is what `-6h` counts from.
pub fn parse_place(text: &str, now_ms: i64) -> Result<Place, String> {
    let number = |digits: &str| -> Result<i64, String> {
        digits
            .parse()
            .map_err(|_| format!("'{digits}' is not a number in '{text}'"))
    };
    match text {
        "beginning" | "earliest" | "start" => return Ok(Place::Beginning),
        "end" | "latest" => return Ok(Place::End),
        _ => {}
    }
    if let Some(back) = text
        .strip_prefix("end-")
        .or_else(|| text.strip_prefix("latest-"))
    {
        return match number(back)? {
            back if back >= 0 => Ok(Place::BeforeEnd(back)),
            _ => Err(format!("'{text}' is not a place")),
        };
    }
    if let Some(by) = text.strip_prefix("shift:") {
        return Ok(Place::Shift(number(by.strip_prefix('+').unwrap_or(by))?));
    }
    let offset = text.strip_prefix("offset:").unwrap_or(text);
    if !offset.is_empty() && offset.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(Place::Offset(number(offset)?));
    }
    if text
        .strip_prefix('-')
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!(
            "'{text}' could mean records or time: write shift:{text}, end{text}, or a time such as {text}s"
        ));
    }
    parse_moment(text, now_ms)
        .map(Place::Time)
        .map_err(|_| format!("'{text}' is not a place: write {PLACES}"))
}

/// What is known of a partition when a place in it is looked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bounds {
    /// The log start offset.
    pub start: i64,
    /// The offset of the next record.
    pub end: i64,
    /// Where one is now (a committed offset), if anywhere.
    pub current: Option<i64>,
    /// The first offset at the time asked for; `None` if no record is that late.
    pub at_time: Option<i64>,
}

/// Where a place is, and whether it had to be moved into the log.
pub fn locate(place: Place, bounds: Bounds) -> (i64, bool) {
    let wanted = match place {
        Place::Beginning => bounds.start,
        Place::End => bounds.end,
        Place::BeforeEnd(back) => bounds.end.saturating_sub(back),
        Place::Offset(offset) => offset,
        Place::Shift(by) => bounds.current.unwrap_or(bounds.start).saturating_add(by),
        Place::Time(_) => bounds.at_time.unwrap_or(bounds.end),
    };
    let inside = wanted.max(bounds.start).min(bounds.end.max(bounds.start));
    (inside, inside != wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read() {
        let now = 1_000_000_000;
        for (text, place) in [
            ("earliest", Place::Beginning),
            ("beginning", Place::Beginning),
            ("latest", Place::End),
            ("end", Place::End),
            ("end-100", Place::BeforeEnd(100)),
            ("12345", Place::Offset(12345)),
            ("offset:7", Place::Offset(7)),
            ("shift:-5", Place::Shift(-5)),
            ("shift:+5", Place::Shift(5)),
            ("-6h", Place::Time(now - 21_600_000)),
            ("1970-01-01", Place::Time(0)),
        ] {
            assert_eq!(parse_place(text, now), Ok(place), "{text}");
        }
        for bad in [
            "",
            "-",
            "-100",
            "offset:",
            "offset:x",
            "shift:",
            "end-",
            "end--1",
            "soon",
            "99999999999999999999",
        ] {
            assert!(parse_place(bad, now).is_err(), "{bad}");
        }
        assert!(parse_place("-100", now).unwrap_err().contains("shift:-100"));
    }

    #[test]
    fn places_stay_inside_the_log() {
        let bounds = Bounds {
            start: 10,
            end: 50,
            current: Some(30),
            at_time: Some(20),
        };
        assert_eq!(locate(Place::Beginning, bounds), (10, false));
        assert_eq!(locate(Place::End, bounds), (50, false));
        assert_eq!(locate(Place::BeforeEnd(5), bounds), (45, false));
        assert_eq!(locate(Place::BeforeEnd(500), bounds), (10, true));
        assert_eq!(locate(Place::Offset(25), bounds), (25, false));
        assert_eq!(locate(Place::Offset(5), bounds), (10, true));
        assert_eq!(locate(Place::Offset(99), bounds), (50, true));
        assert_eq!(locate(Place::Shift(-10), bounds), (20, false));
        assert_eq!(locate(Place::Shift(i64::MIN), bounds), (10, true));
        assert_eq!(locate(Place::Shift(i64::MAX), bounds), (50, true));
        assert_eq!(locate(Place::Time(0), bounds), (20, false));
        let late = Bounds {
            at_time: None,
            ..bounds
        };
        assert_eq!(locate(Place::Time(0), late), (50, false));
        let nowhere = Bounds {
            current: None,
            ..bounds
        };
        assert_eq!(locate(Place::Shift(3), nowhere), (13, false));
    }
}
