//! Medians and percentiles.

/// What is said of a set of samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// Number of samples.
    pub count: usize,
    pub min: f64,
    pub median: f64,
    pub p95: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

/// The summary of some samples; none of no samples.
pub fn summary(samples: impl IntoIterator<Item = f64>) -> Option<Summary> {
    let mut sorted: Vec<f64> = samples.into_iter().collect();
    sorted.sort_by(f64::total_cmp);
    let (min, max) = (*sorted.first()?, *sorted.last()?);
    Some(Summary {
        count: sorted.len(),
        min,
        median: median_of_sorted(&sorted),
        p95: nearest_rank(&sorted, 0.95),
        p99: nearest_rank(&sorted, 0.99),
        p999: nearest_rank(&sorted, 0.999),
        max,
    })
}

/// Median of some samples; 0 of none.
pub fn median(samples: impl IntoIterator<Item = f64>) -> f64 {
    summary(samples).map_or(0.0, |summary| summary.median)
}

fn median_of_sorted(sorted: &[f64]) -> f64 {
    let middle = sorted.len() / 2;
    if sorted.len() % 2 == 1 { sorted[middle] } else { (sorted[middle - 1] + sorted[middle]) / 2.0 }
}

/// The smallest sample that at least this share of all samples do not exceed.
fn nearest_rank(sorted: &[f64], share: f64) -> f64 {
    let rank = (sorted.len() as f64 * share).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_of_a_hundred_and_of_a_thousand() {
        let hundred = summary((1..=100).rev().map(f64::from)).unwrap();
        assert_eq!((hundred.count, hundred.min, hundred.median, hundred.max), (100, 1.0, 50.5, 100.0));
        assert_eq!((hundred.p95, hundred.p99, hundred.p999), (95.0, 99.0, 100.0));
        assert_eq!(summary((1..=2000).map(f64::from)).unwrap().p999, 1998.0);
    }

    #[test]
    fn of_one_and_of_none() {
        let one = summary([7.0]).unwrap();
        assert_eq!((one.median, one.p99, one.max), (7.0, 7.0, 7.0));
        assert_eq!(summary([]), None);
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    }
}
