//! Percentiles, medians, paired ratios and their bootstrap intervals. Pure.

use serde::Serialize;

/// How often the pairs are drawn again for an interval.
const RESAMPLES: usize = 4000;

/// The value below which `fraction` of the samples lie (nearest rank), `None` without samples.
/// The slice is sorted in place.
pub fn percentile(samples: &mut [f64], fraction: f64) -> Option<f64> {
    samples.sort_by(f64::total_cmp);
    if samples.is_empty() {
        return None;
    }
    let rank = (fraction * samples.len() as f64).ceil() as usize;
    samples.get(rank.clamp(1, samples.len()) - 1).copied()
}

/// The median: the mean of the two in the middle when their number is even.
pub fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        n if n % 2 == 1 => Some(sorted[middle]),
        _ => Some((sorted[middle - 1] + sorted[middle]) / 2.0),
    }
}

/// One reading and whether the machine was quiet while it was taken.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Reading {
    /// The value in the unit of its measure.
    pub value: f64,
    /// False when the broker's threads waited for a core for more than the gate allows.
    pub quiet: bool,
}

/// The median of `subject / base` over pairs taken in the same round.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Ratio {
    /// The median ratio.
    pub median: f64,
    /// Lower end of the 95 % bootstrap interval of the median.
    pub low: f64,
    /// Upper end of the 95 % bootstrap interval of the median.
    pub high: f64,
    /// Pairs that the median is over.
    pub pairs: usize,
    /// Pairs of which a window failed the noise gate, kept or not.
    pub noisy: usize,
    /// True when too few quiet pairs were left, so that the noisy ones are in as well.
    pub kept_noisy: bool,
}

/// The paired ratio of two series; index = round, `None` = no reading in that round.
///
/// Noisy pairs are left out while at least `max(2, half)` of all pairs are quiet. On two cores
/// a saturated broker always waits for the load generator: there all pairs are kept and marked.
pub fn paired_ratio(subject: &[Option<Reading>], base: &[Option<Reading>]) -> Option<Ratio> {
    let pairs: Vec<(f64, bool)> = subject
        .iter()
        .zip(base)
        .filter_map(|(s, b)| {
            let (s, b) = ((*s)?, (*b)?);
            let ratio = s.value / b.value;
            ratio.is_finite().then_some((ratio, s.quiet && b.quiet))
        })
        .collect();
    let quiet: Vec<f64> = pairs.iter().filter(|p| p.1).map(|p| p.0).collect();
    let noisy = pairs.len() - quiet.len();
    let kept_noisy = noisy > 0 && quiet.len() < (pairs.len().div_ceil(2)).max(2);
    let ratios = if kept_noisy {
        pairs.iter().map(|p| p.0).collect()
    } else {
        quiet
    };
    let (low, high) = bootstrap_of_median(&ratios)?;
    Some(Ratio {
        median: median(&ratios)?,
        low,
        high,
        pairs: ratios.len(),
        noisy,
        kept_noisy,
    })
}

/// The 95 % percentile interval of the median, drawn with a fixed seed so that the same readings
/// print the same interval.
pub fn bootstrap_of_median(samples: &[f64]) -> Option<(f64, f64)> {
    if samples.is_empty() {
        return None;
    }
    let mut state = 0x7469_6465_6d61_726b_u64;
    let mut medians: Vec<f64> = (0..RESAMPLES)
        .filter_map(|_| {
            let drawn: Vec<f64> = samples
                .iter()
                .map(|_| samples[(split_mix(&mut state) % samples.len() as u64) as usize])
                .collect();
            median(&drawn)
        })
        .collect();
    let low = percentile(&mut medians, 0.025)?;
    let high = percentile(&mut medians, 0.975)?;
    Some((low, high))
}

/// SplitMix64: the next number of a small deterministic generator.
pub fn split_mix(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quiet(values: &[f64]) -> Vec<Option<Reading>> {
        values
            .iter()
            .map(|&value| Some(Reading { value, quiet: true }))
            .collect()
    }

    #[test]
    fn percentiles_are_nearest_rank() {
        let mut hundred: Vec<f64> = (1..=100).rev().map(f64::from).collect();
        assert_eq!(percentile(&mut hundred, 0.5), Some(50.0));
        assert_eq!(percentile(&mut hundred, 0.99), Some(99.0));
        assert_eq!(percentile(&mut hundred, 0.999), Some(100.0));
        assert_eq!(percentile(&mut hundred, 0.0), Some(1.0));
        assert_eq!(percentile(&mut [], 0.5), None);
        assert_eq!(percentile(&mut [7.0], 0.999), Some(7.0));
    }

    #[test]
    fn medians_of_odd_and_even_numbers() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), Some(2.5));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn a_ratio_pairs_rounds_and_not_medians() {
        // The machine slows down threefold on the way: medians of each series would say 1.0.
        let subject = quiet(&[1.0, 2.0, 3.0]);
        let base = quiet(&[2.0, 4.0, 6.0]);
        let ratio = paired_ratio(&subject, &base).unwrap();
        assert_eq!(
            (ratio.median, ratio.low, ratio.high, ratio.pairs),
            (0.5, 0.5, 0.5, 3)
        );
    }

    #[test]
    fn a_round_without_a_partner_is_left_out() {
        let subject = quiet(&[1.0, 9.0, 3.0]);
        let mut base = quiet(&[2.0, 1.0, 6.0]);
        base[1] = None;
        assert_eq!(paired_ratio(&subject, &base).unwrap().pairs, 2);
        assert_eq!(paired_ratio(&subject, &[]), None);
    }

    #[test]
    fn a_zero_base_is_no_ratio() {
        assert_eq!(paired_ratio(&quiet(&[1.0]), &quiet(&[0.0])), None);
    }

    #[test]
    fn noisy_pairs_go_while_enough_quiet_ones_stay() {
        let mut subject = quiet(&[1.0, 1.0, 1.0, 9.0]);
        let base = quiet(&[1.0; 4]);
        subject[3] = Some(Reading {
            value: 9.0,
            quiet: false,
        });
        let ratio = paired_ratio(&subject, &base).unwrap();
        assert_eq!((ratio.pairs, ratio.noisy, ratio.kept_noisy), (3, 1, false));
        assert_eq!(ratio.high, 1.0);
        for reading in &mut subject[..3] {
            *reading = reading.map(|r| Reading { quiet: false, ..r });
        }
        let ratio = paired_ratio(&subject, &base).unwrap();
        assert_eq!((ratio.pairs, ratio.noisy, ratio.kept_noisy), (4, 4, true));
        assert_eq!(ratio.high, 9.0);
    }

    #[test]
    fn the_interval_holds_the_median_and_narrows_with_agreement() {
        let wide = [0.5, 0.8, 1.0, 1.3, 2.0, 0.7, 1.1];
        let (low, high) = bootstrap_of_median(&wide).unwrap();
        assert!(low < 1.0 && 1.0 < high, "{low} {high}");
        assert!(low >= 0.5 && high <= 2.0);
        let (low, high) = bootstrap_of_median(&[0.99, 1.0, 1.01, 1.0, 1.0, 1.0, 1.0]).unwrap();
        assert!(high - low < 0.03, "{low} {high}");
        assert_eq!(
            bootstrap_of_median(&wide),
            bootstrap_of_median(&wide),
            "same readings, same interval"
        );
        assert_eq!(bootstrap_of_median(&[]), None);
    }
}
