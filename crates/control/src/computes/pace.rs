//! Which size inside its range a compute has at the moment. Pure: told what was used, says what to be.
//!
//! It starts at the smallest. Two looks in a row that find it using 80 % of its processors or more
//! double it; a minute in which it would have used less than 40 % of half its size halves it. Growing
//! is quick, since somebody waits; shrinking is slow, since sizes that swing help nobody.

use std::time::Duration;

use compute::limits::Load;

/// Looks that come closer together than this are too uncertain.
const SHORTEST: Duration = Duration::from_secs(1);

const BUSY: f64 = 0.8;
const BUSY_LOOKS: u32 = 2;
const CALM: f64 = 0.4;
const CALM_TIME: Duration = Duration::from_secs(60);

/// The size of one compute over time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pace {
    cu: f64,
    last: Option<(Duration, Load)>,
    busy: u32,
    calm_since: Option<Duration>,
}

impl Pace {
    /// Just started, with the smallest size.
    pub fn new(min_cu: f64) -> Pace {
        Pace { cu: min_cu, last: None, busy: 0, calm_since: None }
    }

    /// The size now, in compute units.
    pub fn cu(&self) -> f64 {
        self.cu
    }

    /// The range was changed.
    pub fn fit(&mut self, min_cu: f64, max_cu: f64) {
        self.cu = self.cu.max(min_cu).min(max_cu);
    }

    /// What was used in all by now; the new size where that changes it.
    pub fn look(&mut self, now: Duration, load: Load, min_cu: f64, max_cu: f64) -> Option<f64> {
        let Some((before, earlier)) = self.last else {
            self.last = Some((now, load));
            return None;
        };
        let passed = now.saturating_sub(before);
        if passed < SHORTEST {
            return None;
        }
        self.last = Some((now, load));
        let used = load.used_us.saturating_sub(earlier.used_us) as f64 / passed.as_micros() as f64;
        self.busy = if used >= BUSY * self.cu { self.busy + 1 } else { 0 };
        let calm = used < CALM * self.cu / 2.0;
        self.calm_since = calm.then(|| self.calm_since.unwrap_or(before));
        let next = if self.busy >= BUSY_LOOKS {
            (self.cu * 2.0).min(max_cu)
        } else if self.calm_since.is_some_and(|since| now.saturating_sub(since) >= CALM_TIME) {
            (self.cu / 2.0).max(min_cu)
        } else {
            return None;
        };
        (self.busy, self.calm_since) = (0, None);
        if next == self.cu {
            return None;
        }
        self.cu = next;
        Some(next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lets it use so many processors for so many looks of two seconds; the sizes it took.
    struct Run {
        pace: Pace,
        now: Duration,
        load: Load,
    }

    impl Run {
        fn new(min: f64) -> Run {
            let mut run = Run { pace: Pace::new(min), now: Duration::ZERO, load: Load::default() };
            assert_eq!(run.pace.look(run.now, run.load, min, min), None);
            run.now += Duration::from_secs(2);
            run
        }

        fn use_up(&mut self, processors: f64, looks: u32, range: (f64, f64)) -> Vec<f64> {
            (0..looks)
                .filter_map(|_| {
                    self.load.used_us += (processors * 2e6) as u64;
                    let change = self.pace.look(self.now, self.load, range.0, range.1);
                    self.now += Duration::from_secs(2);
                    change
                })
                .collect()
        }
    }

    #[test]
    fn work_makes_it_grow_to_the_largest() {
        let mut run = Run::new(0.5);
        assert_eq!(run.use_up(0.5, 1, (0.5, 3.0)), [0.0; 0], "one look is no trend");
        assert_eq!(run.use_up(0.5, 1, (0.5, 3.0)), [1.0]);
        assert_eq!(run.use_up(1.0, 2, (0.5, 3.0)), [2.0]);
        assert_eq!(run.use_up(2.0, 6, (0.5, 3.0)), [3.0]);
        assert_eq!(run.pace.cu(), 3.0);
    }

    #[test]
    fn a_minute_of_calm_makes_it_shrink_to_the_smallest() {
        let mut run = Run::new(0.5);
        run.use_up(4.0, 10, (0.5, 4.0));
        assert_eq!(run.pace.cu(), 4.0);
        assert_eq!(run.use_up(0.1, 29, (0.5, 4.0)), [0.0; 0]);
        assert_eq!(run.use_up(0.1, 1, (0.5, 4.0)), [2.0]);
        assert_eq!(run.use_up(0.9, 60, (0.5, 4.0)), [0.0; 0], "neither busy nor calm");
        assert_eq!(run.use_up(0.0, 200, (0.5, 4.0)), [1.0, 0.5]);
    }

    #[test]
    fn a_burst_among_calm_begins_the_minute_again() {
        let mut run = Run::new(2.0);
        assert_eq!(run.use_up(0.1, 29, (1.0, 4.0)), [0.0; 0]);
        assert_eq!(run.use_up(1.0, 1, (1.0, 4.0)), [0.0; 0]);
        assert_eq!(run.use_up(0.1, 29, (1.0, 4.0)), [0.0; 0]);
        assert_eq!(run.use_up(0.1, 1, (1.0, 4.0)), [1.0]);
    }

    #[test]
    fn a_new_range_counts_at_once() {
        let mut pace = Pace::new(1.0);
        for (min, max, size) in [(0.5, 4.0, 1.0), (2.0, 4.0, 2.0), (0.5, 1.0, 1.0)] {
            pace.fit(min, max);
            assert_eq!(pace.cu(), size, "{min}-{max}");
        }
    }

    #[test]
    fn a_counter_that_starts_anew_is_no_work() {
        let mut run = Run::new(1.0);
        run.use_up(1.0, 1, (1.0, 4.0));
        run.load.used_us = 0;
        assert_eq!(run.use_up(0.0, 3, (1.0, 4.0)), [0.0; 0]);
    }
}
