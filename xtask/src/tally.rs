//! Counting what `cargo test` says about itself.

use std::fmt;

/// Tests passed and failed, over every test program that ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
}

impl Tally {
    /// Adds a line of output, if it is one of libtest's `test result:` lines.
    pub(crate) fn see(&mut self, line: &str) {
        // With --nocapture a test may leave its own text before it on the line.
        let Some((_, counts)) = line.split_once("test result: ") else { return };
        self.passed += count_before(counts, " passed");
        self.failed += count_before(counts, " failed");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed", self.passed, self.failed)
    }
}

fn count_before(counts: &str, word: &str) -> u64 {
    let number = counts.split_once(word).and_then(|(before, _)| before.rsplit(' ').next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_are_summed_and_other_lines_ignored() {
        let mut tally = Tally::default();
        for line in [
            "running 3 tests",
            "test laws::detours_leave_no_trace ... ok",
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
            "test result: FAILED. 40 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 9.87s",
        ] {
            tally.see(line);
        }
        assert_eq!(tally, Tally { passed: 43, failed: 2 });
        assert_eq!(tally.to_string(), "43 passed, 2 failed");
    }
}
