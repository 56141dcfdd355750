//! Numbers as bars, for a terminal; pure.

/// Eighths of a character, from none to all but whole.
const EIGHTHS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];

/// A bar of `value`, as wide as `width` characters where it is `most`. What is there at all is seen.
pub fn bar(value: i64, most: i64, width: usize) -> String {
    if value <= 0 || most <= 0 {
        return String::new();
    }
    let all = width.saturating_mul(8);
    let share = value.min(most) as f64 / most as f64;
    let eighths = ((share * all as f64).round() as usize).max(1);
    let mut text = "█".repeat(eighths / 8);
    text.push_str(EIGHTHS[eighths % 8]);
    text
}

/// At most `most` moments from the first to the last of `of`, evenly apart; all at once where there
/// is only one.
pub fn moments(first_ms: i64, last_ms: i64, most: usize) -> Vec<i64> {
    let steps = i64::try_from(most.max(2) - 1).unwrap_or(i64::MAX);
    if last_ms <= first_ms {
        return vec![last_ms];
    }
    let span = last_ms.saturating_sub(first_ms);
    let steps = steps.min(span);
    (0..=steps)
        .map(|step| {
            first_ms
                .saturating_add((i128::from(span) * i128::from(step) / i128::from(steps)) as i64)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_number_is_large() {
        assert_eq!(bar(0, 100, 10), "");
        assert_eq!(bar(100, 100, 10), "█".repeat(10));
        assert_eq!(
            bar(500, 100, 10),
            "█".repeat(10),
            "no longer than the widest"
        );
        assert_eq!(bar(50, 100, 1), "▌");
        assert_eq!(bar(1, 1_000_000, 10), "▏", "not nothing");
        assert_eq!(bar(i64::MAX, i64::MAX, 2), "██");
        assert_eq!(bar(5, 0, 10), "");
    }

    #[test]
    fn moments_are_evenly_apart_and_end_with_the_last() {
        assert_eq!(moments(0, 100, 5), [0, 25, 50, 75, 100]);
        assert_eq!(moments(7, 7, 5), [7]);
        assert_eq!(moments(0, 2, 20), [0, 1, 2]);
        assert_eq!(moments(i64::MIN, i64::MAX, 2).len(), 2);
    }
}
