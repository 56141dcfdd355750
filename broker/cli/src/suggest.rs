//! Did you mean …? Pure.

/// The candidate nearest to what was typed, if it is near enough to be what was meant.
pub fn closest<'a>(typed: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let typed: Vec<char> = typed.chars().take(256).collect();
    candidates
        .into_iter()
        .map(|candidate| (distance(&typed, candidate), candidate))
        .min()
        .filter(|(distance, _)| *distance <= 1 + typed.len() / 4)
        .map(|(_, candidate)| candidate)
}

/// Insertions, deletions, replacements and swaps of neighbours between two texts, case ignored.
fn distance(a: &[char], b: &str) -> usize {
    let lower = |c: &char| c.to_lowercase().next().unwrap_or(*c);
    let a: Vec<char> = a.iter().map(lower).collect();
    let b: Vec<char> = b.chars().take(256).map(|c| lower(&c)).collect();
    let mut before_last: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let mut best = (last[j - 1] + usize::from(a[i - 1] != b[j - 1]))
                .min(last[j] + 1)
                .min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(before_last[j - 2] + 1);
            }
            row.push(best);
        }
        before_last = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_found_and_far_ones_are_not() {
        let topics = ["orders", "payments", "audit.log"];
        assert_eq!(closest("ordres", topics), Some("orders"));
        assert_eq!(closest("Payment", topics), Some("payments"));
        assert_eq!(closest("audit-log", topics), Some("audit.log"));
        assert_eq!(closest("inventory", topics), None);
        assert_eq!(closest("", topics), None);
        assert_eq!(closest("orders", []), None);
    }
}
