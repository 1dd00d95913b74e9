//! Several ways to do the same, measured in turns.

use anyhow::{Context, Result};

use super::usage::{Usage, measure};

/// One way to do it.
pub(super) struct Contender<'a> {
    /// What it is called.
    pub(super) name: &'static str,
    /// Does it once.
    pub(super) work: Box<dyn Fn() -> Result<()> + 'a>,
}

/// How two of them shall compare.
pub(super) struct Target {
    /// Whose time is divided.
    pub(super) of: &'static str,
    /// By whose.
    pub(super) by: &'static str,
    /// What DESIGN §9 wants the ratio to be; empty where it says nothing.
    pub(super) wanted: &'static str,
}

/// What is to be compared.
pub(super) struct Contest<'a> {
    /// What they all do.
    pub(super) name: String,
    /// Who does it.
    pub(super) contenders: Vec<Contender<'a>>,
    /// What to tell of it.
    pub(super) targets: Vec<Target>,
    /// How often each does it.
    pub(super) rounds: usize,
}

/// What came of it.
pub(super) struct Standing {
    /// What they all did.
    pub(super) name: String,
    /// Each with its rounds.
    pub(super) times: Vec<(&'static str, Vec<Usage>)>,
    /// What to tell of it.
    pub(super) targets: Vec<Target>,
}

impl Contest<'_> {
    /// Lets each do it once unmeasured, then all in turns.
    pub(super) fn hold(self) -> Result<Standing> {
        let mut times: Vec<_> =
            self.contenders.iter().map(|contender| (contender.name, Vec::new())).collect();
        for round in 0..=self.rounds {
            eprintln!("{}: round {round} of {}", self.name, self.rounds);
            for (contender, (_, times)) in self.contenders.iter().zip(&mut times) {
                let usage = measure(&contender.work).with_context(|| contender.name)?;
                if round > 0 {
                    times.push(usage);
                }
            }
        }
        Ok(Standing { name: self.name, times, targets: self.targets })
    }
}

impl Standing {
    /// The ratio of two contenders' times in each round; none where one did not take part.
    pub(super) fn ratios(&self, target: &Target) -> Vec<f64> {
        let walls = |name| {
            let found = self.times.iter().find(|(contender, _)| *contender == name);
            found.into_iter().flat_map(|(_, times)| times).map(|usage| usage.wall.as_secs_f64())
        };
        walls(target.of).zip(walls(target.by)).map(|(of, by)| of / by).collect()
    }
}

/// The middle of some values, their smallest, and their largest.
pub(super) fn spread(values: impl IntoIterator<Item = f64>) -> Option<(f64, f64, f64)> {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    let (first, last) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let median = if values.len() % 2 == 1 {
        values[middle]
    } else {
        f64::midpoint(values[middle - 1], values[middle])
    };
    Some((median, first, last))
}
