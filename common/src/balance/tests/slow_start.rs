//! A target comes back and its share rises.

use proptest::prelude::*;

use super::*;
use crate::rng::Rng;

const BACK: usize = 2;
const WEIGHTS: [u16; 5] = [2, 1, 2, 1, 1];

fn at(part: Option<u32>) -> Vec<Candidate> {
    let mut candidates = idle(&WEIGHTS);
    candidates[BACK].share = part.map_or(0, |part| share(WEIGHTS[BACK], part));
    candidates
}

#[test]
fn clients_come_back_gradually_each_once_and_all_in_the_end() {
    let mut rng = Rng::new(5);
    let clients: Vec<Request> = (0..4000).map(|_| fresh(&mut rng)).collect();
    for algorithm in [Algorithm::ConsistentHash, Algorithm::FlowHash, Algorithm::SourceIpHash] {
        let mut balancer = plan(algorithm, &WEIGHTS).balancer(0);
        let mut homes = |part| -> Vec<Option<usize>> {
            let candidates = at(part);
            clients.iter().map(|client| balancer.pick(client, &candidates)).collect()
        };
        let (away, home) = (homes(None), homes(Some(256)));
        let moves = away.iter().zip(&home).filter(|(away, home)| away != home).count();
        assert!(moves > 800, "{algorithm:?}: {moves} clients have somewhere to come back from");
        let mut back = vec![false; clients.len()];
        for part in 0..=256 {
            let now = homes(Some(part));
            for (index, now) in now.iter().enumerate() {
                if away[index] == home[index] {
                    assert_eq!(*now, home[index], "{algorithm:?}: who need not move does not");
                } else if back[index] {
                    assert_eq!(*now, home[index], "{algorithm:?}: who is back stays");
                } else {
                    assert!(
                        *now == away[index] || *now == home[index],
                        "{algorithm:?}: nobody goes a third way"
                    );
                    back[index] = *now == home[index];
                }
            }
            let returned = back.iter().filter(|back| **back).count();
            let expected = moves as f64 * f64::from(part) / 256.0;
            let off = (returned as f64 - expected).abs();
            assert!(
                off < 6.0 * (moves as f64 / 4.0).sqrt() + 3.0,
                "{algorithm:?}: {returned} of {expected} at {part}"
            );
        }
    }
}

#[test]
fn turns_and_loads_follow_the_rising_share() {
    for part in [1, 16, 128, 256] {
        let expected = 28_000.0 * 2.0 * f64::from(part) / (5.0 * 256.0 + 2.0 * f64::from(part));
        for (algorithm, held) in [
            (Algorithm::RoundRobin, false),
            (Algorithm::LeastConnections, false),
            (Algorithm::LeastConnections, true),
            (Algorithm::PowerOfTwoChoices, true),
            (Algorithm::Random, false),
        ] {
            let mut balancer = plan(algorithm, &WEIGHTS).balancer(0);
            let mut candidates = at(Some(part));
            let mut count = 0;
            for _ in 0..28_000 {
                let index = balancer.pick(&Request::default(), &candidates).unwrap();
                count += u32::from(index == BACK);
                candidates[index].load += u32::from(held);
            }
            let off = (f64::from(count) - expected).abs();
            assert!(off <= 6.0 * expected.sqrt() + 3.0, "{algorithm:?} {held} {part}: {count} of {expected}");
        }
    }
}

proptest! {
    /// The only target in service is in slow start: it serves all the same.
    #[test]
    fn alone_it_serves_everyone(hash in any::<u64>(), part in 0_u32..=256) {
        let mut candidates = vec![Candidate::default(); WEIGHTS.len()];
        candidates[BACK].share = share(WEIGHTS[BACK], part);
        for algorithm in Algorithm::ALL {
            let picked = plan(algorithm, &WEIGHTS).balancer(hash).pick(&keyed(hash), &candidates);
            prop_assert_eq!(picked, Some(BACK), "{:?}", algorithm);
        }
    }
}
