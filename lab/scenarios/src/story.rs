//! Faults by chance: a seed tells a story, always the same, which can be played on a lab.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use tartan_netlab::fault::{End, Fault, Pair};
use tartan_netlab::names::LabNode;

use crate::Lab;

/// How many things happen, at least and at most.
const ACTS: (u64, u64) = (8, 14);
/// The longest pause before something happens, in milliseconds; and now and then, long enough for neighbors to be given
/// up (three tries, a second apart).
const PAUSE: u64 = 400;
const LONG_PAUSE: u64 = 4000;
/// The port of the overlay.
const VXLAN: u16 = 8472;

/// What happens to a lab, in order. At the end at least one fault stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Story {
    seed: u64,
    acts: Vec<(Duration, Act)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Act {
    Add(Fault),
    Heal(Fault),
}

impl Story {
    /// The story of a seed, on nodes `n1` to `n{nodes}`, of which there are two at least.
    pub fn new(seed: u64, nodes: u32) -> Story {
        let mut chance = Chance::new(seed);
        let mut standing: Vec<Fault> = Vec::new();
        let mut acts = Vec::new();
        let length = ACTS.0 + chance.below(ACTS.1 - ACTS.0 + 1);
        while (acts.len() as u64) < length || standing.is_empty() {
            let longest = if chance.below(10) == 0 { LONG_PAUSE } else { PAUSE };
            let pause = Duration::from_millis(chance.below(longest + 1));
            let act = if !standing.is_empty() && chance.below(3) == 0 {
                let which = chance.below(standing.len() as u64) as usize;
                Act::Heal(standing.remove(which))
            } else {
                let fault = any_fault(&mut chance, nodes);
                if standing.iter().any(|other| other.clashes(&fault)) {
                    continue;
                }
                standing.push(fault.clone());
                Act::Add(fault)
            };
            acts.push((pause, act));
        }
        Story { seed, acts }
    }

    /// How many faults are put in.
    pub fn faults(&self) -> usize {
        self.acts.iter().filter(|(_, act)| matches!(act, Act::Add(_))).count()
    }

    /// Has it happen on a lab whose pods talk to each other all the while. What stands at the end stays.
    #[track_caller]
    pub fn play(&self, lab: &Lab) {
        let over = AtomicBool::new(false);
        let result = thread::scope(|scope| {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    lab.lab(&["matrix"]);
                }
            });
            let result = self.acts.iter().try_for_each(|(pause, act)| {
                thread::sleep(*pause);
                let run = lab.lab(&act.to_string().split(' ').collect::<Vec<_>>());
                if run.code == 0 { Ok(()) } else { Err(format!("{act}: {run:?}")) }
            });
            over.store(true, Ordering::Relaxed);
            result
        });
        assert_eq!(result, Ok(()), "{self}");
    }
}

fn any_fault(chance: &mut Chance, nodes: u32) -> Fault {
    let from = chance.below(nodes.into());
    let to = (from + 1 + chance.below(u64::from(nodes) - 1)) % u64::from(nodes);
    let node = |number: u64| LabNode::numbered(number as u32 + 1);
    let pair = Pair { from: End::Node(node(from)), to: End::Node(node(to)) };
    match chance.below(9) {
        0 => Fault::Partition(pair),
        1 => Fault::OneWay(pair),
        2 => Fault::BlockUdp { port: VXLAN, pair: None },
        3 => Fault::BlockUdp { port: VXLAN, pair: Some(pair) },
        4 => Fault::OneWayUdp { port: VXLAN, pair },
        5 => Fault::Mtu { pair, size: 100 + chance.below(1400) as u16 },
        6 => Fault::Loss { pair, percent: 10 + chance.below(91) as u8 },
        7 => Fault::Kill { node: node(from) },
        _ => Fault::Stop { node: node(from) },
    }
}

/// As somebody would do it by hand.
impl fmt::Display for Story {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "the story of seed {}:", self.seed)?;
        for (pause, act) in &self.acts {
            writeln!(f, "  sleep {:.3}; tartan lab {act}", pause.as_secs_f64())?;
        }
        Ok(())
    }
}

impl fmt::Display for Act {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Act::Add(fault) => write!(f, "fault add {fault}"),
            Act::Heal(fault) => write!(f, "fault rm {fault}"),
        }
    }
}

/// Numbers that a seed decides (SplitMix64, https://prng.di.unimi.it/splitmix64.c).
#[derive(Debug, Clone)]
pub struct Chance(u64);

impl Chance {
    /// The numbers of a seed.
    pub fn new(seed: u64) -> Chance {
        Chance(seed)
    }

    /// A number below a limit, which is not 0.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_seed_tells_the_same_story_and_another_seed_another() {
        assert_eq!(Story::new(7, 5), Story::new(7, 5));
        assert_ne!(Story::new(7, 5).acts, Story::new(8, 5).acts);
    }

    #[test]
    fn a_hundred_stories_have_every_kind_and_heal_only_what_stands() {
        let mut kinds = BTreeSet::new();
        for seed in 0..100 {
            let mut standing: Vec<Fault> = Vec::new();
            for (_, act) in Story::new(seed, 5).acts {
                match act {
                    Act::Add(fault) => {
                        kinds.insert(fault.to_string().split(' ').next().unwrap_or_default().to_owned());
                        standing.push(fault);
                    }
                    Act::Heal(fault) => {
                        let before = standing.len();
                        standing.retain(|other| *other != fault);
                        assert_eq!(standing.len(), before - 1);
                    }
                }
            }
            assert!(!standing.is_empty());
        }
        assert_eq!(kinds.len(), 8, "{kinds:?}");
    }
}
