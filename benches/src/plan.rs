//! How much is measured.

use std::time::Duration;

use crate::options::Run;

const MIB: u64 = 1 << 20;

/// Bytes of a TPC-B database for each unit of scale, roughly: the tables and the index of accounts.
pub const BYTES_PER_SCALE: u64 = 15 * MIB;

/// A database to branch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// As written in the tables.
    pub label: &'static str,
    /// Bytes of data wanted.
    pub bytes: u64,
}

/// Sizes, rounds and durations of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Rounds of everything; what is compared changes places in each.
    pub rounds: u32,
    /// Databases that create is measured on.
    pub sizes: Vec<Size>,
    /// Scale of the TPC-B tables elsewhere, and the highest under load on a database of a size.
    pub scale: i32,
    /// Branches created in a round on each database, idle and under load each.
    pub creates: u32,
    /// First rows in a round.
    pub first_rows: u32,
    /// Length of a TPC-B run; several checkpoints long in full.
    pub tpcb: Duration,
    /// Length of a select-only run.
    pub select: Duration,
    /// Length of a run with (or without) a cut each second.
    pub gate: Duration,
    /// Time a load runs before anything is measured under it.
    pub warm_up: Duration,
    /// Fresh branches weighed in a round.
    pub spaces: u32,
    /// Calls of each kind in a round of `micro`.
    pub calls: u32,
    /// Connections made in a round, on each side.
    pub connects: u32,
    /// Endpoints woken in a round.
    pub wakes: u32,
    /// Idle clients of the daemon.
    pub idle: u32,
    /// Branches created and asked at once.
    pub crowd: u32,
    /// Rows that the query of `sizes` works on.
    pub work_rows: u32,
    /// Clients that come at once, each to a branch of its own, with room for a few.
    pub turns: u32,
    /// Branches of `many`.
    pub many: u32,
    /// Of these, how many are written to.
    pub many_written: u32,
    /// And how many are awake at once.
    pub many_awake: u32,
    /// Samples of each step of `many`.
    pub many_steps: u32,
    /// How long its daemon is watched at rest.
    pub many_pause: Duration,
    /// How long its clients create and delete.
    pub many_churn: Duration,
    /// What is less than in full.
    pub reductions: Vec<String>,
}

impl Plan {
    /// The plan that the options ask for, with every reduction named.
    pub fn of(run: &Run) -> Plan {
        let full = Plan::full();
        let mut plan = if run.extent.quick { Plan::quick() } else { full.clone() };
        plan.rounds = run.rounds.unwrap_or(plan.rounds).max(1);
        plan.scale = run.scale.unwrap_or(plan.scale).max(1);
        if let Some(seconds) = run.seconds {
            let length = Duration::from_secs(seconds.max(1));
            (plan.tpcb, plan.select, plan.gate) = (length, length, length);
            plan.many_churn = length;
        }
        plan.many = run.branches.unwrap_or(plan.many);
        plan.reductions = plan.reductions_from(&full);
        plan
    }

    fn full() -> Plan {
        Plan {
            rounds: 5,
            sizes: vec![
                Size { label: "10 MB", bytes: 10 * MIB },
                Size { label: "1 GB", bytes: 1024 * MIB },
                Size { label: "5 GB", bytes: 5 * 1024 * MIB },
            ],
            scale: 100,
            creates: 20,
            first_rows: 10,
            tpcb: Duration::from_secs(20),
            select: Duration::from_secs(10),
            gate: Duration::from_secs(30),
            warm_up: Duration::from_secs(5),
            spaces: 3,
            calls: 400_000,
            connects: 100,
            wakes: 40,
            idle: 2000,
            crowd: 16,
            work_rows: 2_000_000,
            turns: 200,
            many: 10_000,
            many_written: 1000,
            many_awake: 200,
            many_steps: 50,
            many_pause: Duration::from_secs(30),
            many_churn: Duration::from_secs(120),
            reductions: Vec::new(),
        }
    }

    fn quick() -> Plan {
        Plan {
            rounds: 2,
            sizes: vec![
                Size { label: "10 MB", bytes: 10 * MIB },
                Size { label: "60 MB", bytes: 60 * MIB },
                Size { label: "120 MB", bytes: 120 * MIB },
            ],
            scale: 3,
            creates: 4,
            first_rows: 3,
            tpcb: Duration::from_secs(3),
            select: Duration::from_secs(2),
            gate: Duration::from_secs(4),
            warm_up: Duration::from_secs(1),
            spaces: 1,
            calls: 20_000,
            connects: 5,
            wakes: 2,
            idle: 40,
            crowd: 4,
            work_rows: 200_000,
            turns: 20,
            many: 60,
            many_written: 3,
            many_awake: 3,
            many_steps: 10,
            many_pause: Duration::from_secs(4),
            many_churn: Duration::from_secs(5),
            reductions: Vec::new(),
        }
    }

    fn reductions_from(&self, full: &Plan) -> Vec<String> {
        let sizes = |plan: &Plan| plan.sizes.iter().map(|size| size.label).collect::<Vec<_>>().join(", ");
        let seconds = |duration: Duration| format!("{} s", duration.as_secs());
        let pairs = [
            ("rounds", self.rounds < full.rounds, self.rounds.to_string(), full.rounds.to_string()),
            ("sizes", self.sizes != full.sizes, sizes(self), sizes(full)),
            ("scale", self.scale < full.scale, self.scale.to_string(), full.scale.to_string()),
            (
                "creates a round",
                self.creates < full.creates,
                self.creates.to_string(),
                full.creates.to_string(),
            ),
            (
                "first rows a round",
                self.first_rows < full.first_rows,
                self.first_rows.to_string(),
                full.first_rows.to_string(),
            ),
            ("a TPC-B run", self.tpcb < full.tpcb, seconds(self.tpcb), seconds(full.tpcb)),
            ("a select-only run", self.select < full.select, seconds(self.select), seconds(full.select)),
            ("a run with cuts", self.gate < full.gate, seconds(self.gate), seconds(full.gate)),
            (
                "clients that come and go",
                self.many_churn < full.many_churn,
                seconds(self.many_churn),
                seconds(full.many_churn),
            ),
            (
                "a rest of many branches",
                self.many_pause < full.many_pause,
                seconds(self.many_pause),
                seconds(full.many_pause),
            ),
            ("warm-up", self.warm_up < full.warm_up, seconds(self.warm_up), seconds(full.warm_up)),
            (
                "fresh branches a round",
                self.spaces < full.spaces,
                self.spaces.to_string(),
                full.spaces.to_string(),
            ),
        ];
        let counts = [
            ("calls", self.calls, full.calls),
            ("connections a round", self.connects, full.connects),
            ("endpoints woken a round", self.wakes, full.wakes),
            ("idle clients", self.idle, full.idle),
            ("branches at once", self.crowd, full.crowd),
            ("rows of work", self.work_rows, full.work_rows),
            ("clients that take turns", self.turns, full.turns),
            ("branches of many", self.many, full.many),
            ("of these written", self.many_written, full.many_written),
            ("of these awake", self.many_awake, full.many_awake),
            ("steps with many", self.many_steps, full.many_steps),
        ];
        let counts = counts.map(|(what, is, should)| (what, is < should, is.to_string(), should.to_string()));
        pairs
            .into_iter()
            .chain(counts)
            .filter(|(_, reduced, ..)| *reduced)
            .map(|(what, _, is, should)| format!("{what}: {is} instead of {should}"))
            .collect()
    }
}

/// The order of `count` things in a round: each comes first equally often.
pub fn rotated(count: usize, round: u32) -> impl Iterator<Item = usize> {
    (0..count).map(move |place| (place + round as usize) % count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::options::Extent;

    fn run(quick: bool) -> Run {
        Run {
            extent: Extent { quick, full: !quick },
            rounds: None,
            scale: None,
            seconds: None,
            branches: None,
            dir: None,
            out: "x".into(),
            pg_bin: None,
            daemon: None,
            run_as: None,
            own_load: false,
        }
    }

    #[test]
    fn every_reduction_is_named_and_full_has_none() {
        assert_eq!(Plan::of(&run(false)).reductions, [""; 0]);
        let quick = Plan::of(&run(true)).reductions;
        assert_eq!(quick.len(), 23, "{quick:?}");
        assert_eq!(quick[0], "rounds: 2 instead of 5");
        let fewer = Plan::of(&Run { rounds: Some(3), ..run(false) }).reductions;
        assert_eq!(fewer, ["rounds: 3 instead of 5"]);
        let more = Plan::of(&Run { rounds: Some(9), scale: Some(200), ..run(false) }).reductions;
        assert_eq!(more, [""; 0]);
    }

    #[test]
    fn rotation_lets_everyone_begin_once() {
        let firsts: Vec<usize> = (0..3).filter_map(|round| rotated(3, round).next()).collect();
        assert_eq!(firsts, [0, 1, 2]);
        assert_eq!(rotated(3, 4).collect::<Vec<_>>(), [1, 2, 0]);
    }
}
