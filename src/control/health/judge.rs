//! When findings make a host healthy or unhealthy.

use super::probe::Finding;

/// What to do after a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Verdict {
    /// The host counts as failed from now on.
    pub(super) failed: bool,
    /// That is different from before.
    pub(super) turned: bool,
    pub(super) pace: Pace,
}

/// Which interval follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    Healthy,
    /// On its way to healthy.
    TurningHealthy,
    Unhealthy,
    /// On its way to unhealthy.
    TurningUnhealthy,
}

/// Counts in a row.
pub(super) struct Judge {
    healthy_threshold: u32,
    unhealthy_threshold: u32,
    passed: u32,
    failed: u32,
}

impl Judge {
    pub(super) fn new(healthy_threshold: u32, unhealthy_threshold: u32) -> Self {
        Judge { healthy_threshold, unhealthy_threshold, passed: 0, failed: 0 }
    }

    /// Judges `finding` of a host that counts as `failed` so far. `first`: it was never checked.
    pub(super) fn judge(&mut self, finding: Finding, failed: bool, first: bool) -> Verdict {
        let verdict = |failed, turned, pace| Verdict { failed, turned, pace };
        if finding.passed() {
            self.failed = 0;
            if !failed {
                return verdict(false, false, Pace::Healthy);
            }
            self.passed += 1;
            // The first result counts at once, so that starting does not take the whole threshold.
            if first || self.passed >= self.healthy_threshold {
                self.passed = 0;
                return verdict(false, true, Pace::Healthy);
            }
            return verdict(true, false, Pace::TurningHealthy);
        }
        self.passed = 0;
        if failed {
            return verdict(true, first, Pace::Unhealthy);
        }
        self.failed += 1;
        // A host that answers "no" is believed at once; one that does not answer gets its chances.
        if finding == Finding::Refused || self.failed >= self.unhealthy_threshold {
            self.failed = 0;
            return verdict(true, true, Pace::Unhealthy);
        }
        verdict(false, false, Pace::TurningUnhealthy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Finding::{Lost, Passed, Refused, Retriable};

    fn run(findings: &[Finding], mut failed: bool) -> Vec<bool> {
        let mut judge = Judge::new(2, 3);
        let mut first = failed;
        let one = |finding: &Finding| {
            failed = judge.judge(*finding, failed, std::mem::take(&mut first)).failed;
            failed
        };
        findings.iter().map(one).collect()
    }

    #[test]
    fn thresholds_first_results_and_plain_refusals() {
        assert_eq!(run(&[Passed], true), [false], "first: at once");
        assert_eq!(run(&[Lost, Passed, Passed], true), [true, true, false]);
        assert_eq!(run(&[Lost, Lost, Lost], false), [false, false, true]);
        assert_eq!(run(&[Lost, Lost, Passed, Lost, Lost], false), [false; 5]);
        assert_eq!(run(&[Refused], false), [true], "an answer counts at once");
        assert_eq!(run(&[Retriable, Retriable, Retriable], false), [false, false, true]);
    }

    #[test]
    fn edges_have_their_own_pace() {
        let mut judge = Judge::new(2, 2);
        assert_eq!(judge.judge(Lost, false, false).pace, Pace::TurningUnhealthy);
        assert_eq!(judge.judge(Lost, false, false).pace, Pace::Unhealthy);
        assert_eq!(judge.judge(Passed, true, false).pace, Pace::TurningHealthy);
        assert_eq!(judge.judge(Passed, true, false).pace, Pace::Healthy);
    }
}
