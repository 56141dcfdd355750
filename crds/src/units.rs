//! What people write for times and sizes: `7d`, `1h30m`, `unlimited`, `100Gi`.

use std::fmt;

/// What durations match, for the schema.
pub const DURATION_PATTERN: &str = r"^([0-9]+(ms|s|m|h|d))+$|^unlimited$";
/// What sizes match, for the schema: whole numbers with Kubernetes' suffixes.
pub const SIZE_PATTERN: &str = r"^[0-9]+(k|M|G|T|P|Ki|Mi|Gi|Ti|Pi)?$|^unlimited$";

/// Text that is no duration or size, and what one looks like.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnitError {
    /// Not a duration.
    #[error("'{0}' is no duration: write 90s, 7d, 1h30m or unlimited")]
    Duration(String),
    /// Not a size.
    #[error("'{0}' is no size: write 512Mi, 100Gi or unlimited")]
    Size(String),
    /// More than a 64-bit number holds.
    #[error("'{0}' is too large: write unlimited where there is to be no bound")]
    TooLarge(String),
}

/// A bound, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Limit {
    /// So many milliseconds or bytes.
    Of(i64),
    /// No bound; more than any number.
    Unlimited,
}

impl Limit {
    /// As Kafka's settings have it: -1 for none.
    #[must_use]
    pub fn kafka(self) -> i64 {
        match self {
            Self::Of(value) => value,
            Self::Unlimited => -1,
        }
    }

    /// From Kafka's settings: negative is none.
    #[must_use]
    pub fn from_kafka(value: i64) -> Self {
        if value < 0 {
            Self::Unlimited
        } else {
            Self::Of(value)
        }
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.kafka())
    }
}

/// An age that is told: it does not change with every look.
#[must_use]
pub fn rounded(ms: i64) -> String {
    match ms.max(0) / 1_000 {
        s @ ..10 => format!("{s}s"),
        s @ 10..60 => format!("{}s", s / 10 * 10),
        s @ 60..3_600 => format!("{}m", s / 60),
        s @ 3_600..172_800 => format!("{}h", s / 3_600),
        s => format!("{}d", s / 86_400),
    }
}

/// Milliseconds of a duration.
///
/// # Errors
/// [`UnitError`] for what does not match [`DURATION_PATTERN`], or is too large.
pub fn duration_ms(text: &str) -> Result<Limit, UnitError> {
    if text == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    let wrong = || UnitError::Duration(text.to_owned());
    let too_large = || UnitError::TooLarge(text.to_owned());
    let mut rest = text;
    let mut total: i64 = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(wrong());
        }
        let units = [
            ("ms", 1),
            ("s", 1_000),
            ("m", 60_000),
            ("h", 3_600_000),
            ("d", 86_400_000),
        ];
        let unit = units.iter().find(|(unit, _)| after.starts_with(unit));
        let (unit, factor) = unit.ok_or_else(wrong)?;
        let value: i64 = number.parse().map_err(|_| too_large())?;
        total = value
            .checked_mul(*factor)
            .and_then(|part| total.checked_add(part))
            .ok_or_else(too_large)?;
        rest = &after[unit.len()..];
    }
    if text.is_empty() {
        return Err(wrong());
    }
    Ok(Limit::Of(total))
}

/// Bytes of a size.
///
/// # Errors
/// [`UnitError`] for what does not match [`SIZE_PATTERN`], or is too large.
pub fn size_bytes(text: &str) -> Result<Limit, UnitError> {
    if text == "unlimited" {
        return Ok(Limit::Unlimited);
    }
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, suffix) = text.split_at(digits);
    let factor: i64 = match suffix {
        "" => 1,
        "k" => 1_000,
        "M" => 1_000_000,
        "G" => 1_000_000_000,
        "T" => 1_000_000_000_000,
        "P" => 1_000_000_000_000_000,
        "Ki" => 1 << 10,
        "Mi" => 1 << 20,
        "Gi" => 1 << 30,
        "Ti" => 1 << 40,
        "Pi" => 1 << 50,
        _ => return Err(UnitError::Size(text.to_owned())),
    };
    if number.is_empty() {
        return Err(UnitError::Size(text.to_owned()));
    }
    let value: Option<i64> = number.parse().ok();
    let bytes = value.and_then(|value| value.checked_mul(factor));
    bytes
        .map(Limit::Of)
        .ok_or_else(|| UnitError::TooLarge(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_what_people_write() {
        for (text, ms) in [
            ("0s", 0),
            ("250ms", 250),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h30m", 5_400_000),
            ("7d", 604_800_000),
            ("1d1ms", 86_400_001),
        ] {
            assert_eq!(duration_ms(text), Ok(Limit::Of(ms)), "{text}");
        }
        assert_eq!(duration_ms("unlimited"), Ok(Limit::Unlimited));
        for text in ["", "7", "d", "7 d", "-1s", "7w", "unlimited1s", "1.5h"] {
            assert!(
                matches!(duration_ms(text), Err(UnitError::Duration(_))),
                "{text}"
            );
        }
        for text in ["99999999999999999999s", "9999999999999999d"] {
            assert!(
                matches!(duration_ms(text), Err(UnitError::TooLarge(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn sizes_are_kubernetes_own() {
        for (text, bytes) in [
            ("0", 0),
            ("1k", 1_000),
            ("1Ki", 1_024),
            ("100Gi", 107_374_182_400),
        ] {
            assert_eq!(size_bytes(text), Ok(Limit::Of(bytes)), "{text}");
        }
        assert_eq!(size_bytes("unlimited"), Ok(Limit::Unlimited));
        for text in ["", "Gi", "1GB", "1.5Gi", "-1"] {
            assert!(
                matches!(size_bytes(text), Err(UnitError::Size(_))),
                "{text}"
            );
        }
        assert!(matches!(
            size_bytes("99999999Pi"),
            Err(UnitError::TooLarge(_))
        ));
    }

    #[test]
    fn no_bound_is_more_than_any() {
        assert!(Limit::Unlimited > Limit::Of(i64::MAX));
        assert_eq!(
            Limit::from_kafka(Limit::Unlimited.kafka()),
            Limit::Unlimited
        );
    }
}
