//! Random scripts: whatever both sides do in whatever order, bytes arrive as they were given or not at all, and nothing is left.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ask {
        has_body: bool,
    },
    /// The client's stream of that index gives so many bytes.
    Give {
        index: usize,
        bytes: usize,
        is_last: bool,
    },
    /// The server's stream answers, if it has not, and gives.
    Answer {
        index: usize,
        bytes: usize,
        is_last: bool,
    },
    TakeThere {
        index: usize,
    },
    TakeHere {
        index: usize,
    },
    DropHere {
        index: usize,
    },
    DropThere {
        index: usize,
    },
    Carry {
        to_server: usize,
        to_client: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (index, bytes) = (0..8_usize, prop_oneof![0..300_usize, 0..100_000_usize]);
    prop_oneof![
        2 => any::<bool>().prop_map(|has_body| Step::Ask { has_body }),
        4 => (index.clone(), bytes.clone(), prop::bool::weighted(0.3))
            .prop_map(|(index, bytes, is_last)| Step::Give { index, bytes, is_last }),
        4 => (index.clone(), bytes, prop::bool::weighted(0.3))
            .prop_map(|(index, bytes, is_last)| Step::Answer { index, bytes, is_last }),
        4 => index.clone().prop_map(|index| Step::TakeThere { index }),
        4 => index.clone().prop_map(|index| Step::TakeHere { index }),
        1 => index.clone().prop_map(|index| Step::DropHere { index }),
        1 => index.prop_map(|index| Step::DropThere { index }),
        6 => (0..80_000_usize, 0..80_000_usize)
            .prop_map(|(to_server, to_client)| Step::Carry { to_server, to_client }),
    ]
}

/// One direction of a stream: bytes count up from a begin of their own.
#[derive(Default)]
struct Flow {
    given: usize,
    taken: usize,
    is_over: bool,
}

fn byte(number: usize, at: usize) -> u8 {
    u8::try_from((number * 31 + at) % 251).unwrap()
}

impl Flow {
    fn next(&mut self, number: usize, bytes: usize, is_last: bool) -> Piece {
        let all: Vec<u8> = (self.given..self.given + bytes).map(|at| byte(number, at)).collect();
        self.given += bytes;
        self.is_over = is_last;
        data(&all, is_last)
    }

    fn check(&mut self, number: usize, some: &[u8]) {
        for byte_taken in some {
            assert_eq!(*byte_taken, byte(number, self.taken), "stream {number} at {}", self.taken);
            self.taken += 1;
        }
        assert!(self.taken <= self.given);
    }
}

#[derive(Default)]
struct World {
    here: Vec<(usize, Stream)>,
    there: Vec<(usize, Stream, bool)>,
    up: HashMap<usize, Flow>,
    down: HashMap<usize, Flow>,
    count: usize,
}

impl World {
    fn run(&mut self, pair: &mut Pair, step: &Step) {
        match *step {
            Step::Ask { has_body } => {
                self.count += 1;
                let stream = pair.ask(&format!("/{}", self.count), !has_body);
                self.here.push((self.count, stream));
                self.up.insert(self.count, Flow { is_over: !has_body, ..Flow::default() });
                self.down.insert(self.count, Flow::default());
            }
            Step::Give { index, bytes, is_last } => {
                let Some((number, stream)) = self.here.get_mut(index) else { return };
                let flow = self.up.get_mut(number).unwrap();
                if !flow.is_over && once(|cx| stream.poll_sent(cx)) == Some(Ok(())) {
                    let _ = stream.give(flow.next(*number, bytes, is_last));
                }
            }
            Step::Answer { index, bytes, is_last } => {
                let Some((number, stream, is_answered)) = self.there.get_mut(index) else { return };
                if !std::mem::replace(is_answered, true) {
                    let _ = stream.respond(&ok(), false);
                }
                let flow = self.down.get_mut(number).unwrap();
                if !flow.is_over && once(|cx| stream.poll_sent(cx)) == Some(Ok(())) {
                    let _ = stream.give(flow.next(*number, bytes, is_last));
                }
            }
            Step::TakeThere { index } => {
                let Some((number, stream, _)) = self.there.get_mut(index) else { return };
                if let Ok((some, _)) = take_all(stream) {
                    self.up.get_mut(number).unwrap().check(*number, &some);
                }
            }
            Step::TakeHere { index } => {
                let Some((number, stream)) = self.here.get_mut(index) else { return };
                let _ = once(|cx| stream.poll_response(cx));
                if let Ok((some, _)) = take_all(stream) {
                    self.down.get_mut(number).unwrap().check(*number, &some);
                }
            }
            Step::DropHere { index } => {
                if index < self.here.len() {
                    self.here.remove(index);
                }
            }
            Step::DropThere { index } => {
                if index < self.there.len() {
                    self.there.remove(index);
                }
            }
            Step::Carry { to_server, to_client } => {
                pair.carry(to_server, to_client);
                while let Some((path, stream)) = pair.asked() {
                    self.there.push((path[1..].parse().unwrap(), stream, false));
                }
            }
        }
    }

    /// Everybody says and takes all; whoever is not given up arrives at its end with every byte.
    fn finish(mut self, pair: &mut Pair) {
        for round in 0.. {
            pair.settle();
            self.run(pair, &Step::Carry { to_server: 0, to_client: 0 });
            let mut is_moving = false;
            for index in 0..self.here.len() {
                self.run(pair, &Step::Give { index, bytes: 1, is_last: true });
                let before = self.down[&self.here[index].0].taken;
                self.run(pair, &Step::TakeHere { index });
                is_moving |= self.down[&self.here[index].0].taken > before;
            }
            for index in 0..self.there.len() {
                self.run(pair, &Step::Answer { index, bytes: 1, is_last: true });
                let before = self.up[&self.there[index].0].taken;
                self.run(pair, &Step::TakeThere { index });
                is_moving |= self.up[&self.there[index].0].taken > before;
            }
            if !is_moving && round > 2 {
                break;
            }
        }
        for (number, stream) in &mut self.here {
            if once(|cx| stream.poll_reset(cx)).is_none() {
                let flow = &self.down[number];
                assert_eq!((flow.taken, flow.is_over), (flow.given, true), "answer {number}");
                let flow = &self.up[number];
                let is_there = self.there.iter().any(|(there, ..)| there == number);
                assert!(!is_there || flow.taken == flow.given, "request {number}");
            }
        }
        drop(self);
        pair.settle();
        pair.assert_nothing_is_left();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn bytes_arrive_as_they_were_given_and_nothing_is_left(steps in prop::collection::vec(step(), 1..120)) {
        let (mut pair, mut world) = (Pair::new(), World::default());
        for step in &steps {
            world.run(&mut pair, step);
        }
        world.finish(&mut pair);
    }
}
