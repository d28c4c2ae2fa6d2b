//! Chooses a target for a new connection.

use crate::config::balancer::Algorithm;

/// Chooses targets by one algorithm; keeps whose turn it is.
///
/// Each event loop has its own: what they share is the connection counts that
/// they pass in.
#[derive(Clone, Debug)]
pub struct Balance {
    algorithm: Algorithm,
    /// Index at which the next scan begins.
    turn: usize,
}

impl Balance {
    /// Begins with the first target.
    #[must_use]
    pub const fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, turn: 0 }
    }

    /// Goes on by another algorithm.
    pub const fn set_algorithm(&mut self, algorithm: Algorithm) {
        self.algorithm = algorithm;
    }

    /// Index of the target for a new connection among `count`, or `None` if
    /// none may be chosen.
    ///
    /// `connections` says how many connections a target has now, `None` if it
    /// may not be chosen: it is not up, or was tried already. Leastconn takes
    /// the fewest, ties in turn; roundrobin takes each in turn. Targets may come
    /// and go between two calls.
    pub fn pick(
        &mut self,
        count: usize,
        connections: impl Fn(usize) -> Option<u32>,
    ) -> Option<usize> {
        if count == 0 {
            return None;
        }
        let first = self.turn % count;
        let in_turn = (first..count).chain(0..first);
        let mut open = in_turn.filter_map(|index| Some((index, connections(index)?)));
        let (chosen, _) = match self.algorithm {
            // min_by_key takes the first of equals, which is the next in turn.
            Algorithm::Leastconn => open.min_by_key(|&(_, connections)| connections),
            Algorithm::Roundrobin => open.next(),
        }?;
        self.turn = chosen + 1;
        Some(chosen)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Picks `picks` times, each pick adding a connection.
    fn spread(algorithm: Algorithm, loads: &mut [Option<u32>], picks: usize) -> Vec<usize> {
        let mut balance = Balance::new(algorithm);
        (0..picks)
            .map_while(|_| {
                let index = balance.pick(loads.len(), |index| loads[index])?;
                *loads[index].as_mut().unwrap() += 1;
                Some(index)
            })
            .collect()
    }

    #[test]
    fn leastconn_fills_the_emptiest_and_takes_turns_at_ties() {
        let cases: [(&[Option<u32>], &[usize]); 5] = [
            (&[Some(0), Some(0), Some(0)], &[0, 1, 2, 0, 1]),
            (&[Some(2), Some(0), Some(1)], &[1, 2, 1, 2, 0]),
            (&[Some(0), None, Some(0)], &[0, 2, 0, 2, 0]),
            (&[None, None], &[]),
            (&[], &[]),
        ];
        for (loads, expected) in cases {
            let picked = spread(Algorithm::Leastconn, &mut loads.to_vec(), 5);
            assert_eq!(picked, expected, "{loads:?}");
        }
    }

    #[test]
    fn ties_go_in_turn_when_connections_end_at_once() {
        let mut balance = Balance::new(Algorithm::Leastconn);
        let picked: Vec<_> = (0..4).map(|_| balance.pick(3, |_| Some(0))).collect();
        assert_eq!(picked, [Some(0), Some(1), Some(2), Some(0)]);
    }

    #[test]
    fn roundrobin_takes_each_in_turn_whatever_its_load() {
        let mut loads = [Some(9), None, Some(0), Some(5)];
        let picked = spread(Algorithm::Roundrobin, &mut loads, 5);
        assert_eq!(picked, [0, 2, 3, 0, 2]);
    }

    #[test]
    fn turn_survives_targets_that_leave() {
        let mut balance = Balance::new(Algorithm::Roundrobin);
        for _ in 0..5 {
            balance.pick(5, |_| Some(0));
        }
        assert_eq!(balance.pick(2, |_| Some(0)), Some(1));
        assert_eq!(balance.pick(0, |_| Some(0)), None);
    }

    proptest! {
        #[test]
        fn leastconn_never_passes_over_a_smaller_load(
            loads in prop::collection::vec(prop::option::of(0u32..9), 0..20),
            picks in 0usize..40,
        ) {
            let mut loads = loads;
            let mut balance = Balance::new(Algorithm::Leastconn);
            for _ in 0..picks {
                let least = loads.iter().copied().flatten().min();
                let picked = balance.pick(loads.len(), |index| loads[index]);
                prop_assert_eq!(picked.and_then(|index| loads[index]), least);
                if let Some(index) = picked {
                    *loads[index].as_mut().unwrap() += 1;
                }
            }
        }
    }
}
