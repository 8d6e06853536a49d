//! Random scripts: whatever both sides do in whatever order, bytes arrive as they were given or not at all, whoever waits is woken, and
//! nothing is left.

mod world;

use proptest::prelude::*;

use self::world::World;
use super::super::error::End;
use super::*;

/// Which side of a connection does it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One thing that somebody does; streams by their index among those that a side has.
#[derive(Clone, Debug)]
enum Step {
    Ask {
        has_body: bool,
    },
    /// Gives so many bytes, and trailers behind them or not; a server answers first.
    Give {
        side: Side,
        index: usize,
        bytes: usize,
        end: Option<Last>,
    },
    Take {
        side: Side,
        index: usize,
    },
    Drop {
        side: Side,
        index: usize,
    },
    Reset {
        side: Side,
        index: usize,
    },
    /// The other side changes the window of every stream.
    Window {
        side: Side,
        bytes: u32,
    },
    /// The server changes how many streams it takes.
    Allow {
        count: u32,
    },
    Ping {
        side: Side,
    },
    Leave,
    Carry {
        to_server: usize,
        to_client: usize,
    },
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Data,
    Trailers,
}

fn step() -> impl Strategy<Value = Step> {
    let side = || prop_oneof![Just(Side::Client), Just(Side::Server)];
    let stream = || (side(), 0..8_usize);
    let bytes = || prop_oneof![Just(0), 0..300_usize, 0..100_000_usize];
    let last = prop_oneof![4 => Just(None), 1 => Just(Some(Last::Data)), 1 => Just(Some(Last::Trailers))];
    let window = prop_oneof![Just(0), 0..1000_u32, 0..=STREAM_WINDOW_BYTES];
    prop_oneof![
        8 => any::<bool>().prop_map(|has_body| Step::Ask { has_body }),
        32 => (stream(), bytes(), last)
            .prop_map(|((side, index), bytes, end)| Step::Give { side, index, bytes, end }),
        32 => stream().prop_map(|(side, index)| Step::Take { side, index }),
        6 => stream().prop_map(|(side, index)| Step::Drop { side, index }),
        3 => stream().prop_map(|(side, index)| Step::Reset { side, index }),
        3 => (side(), window).prop_map(|(side, bytes)| Step::Window { side, bytes }),
        3 => (0..6_u32).prop_map(|count| Step::Allow { count }),
        2 => side().prop_map(|side| Step::Ping { side }),
        1 => Just(Step::Leave),
        24 => (0..80_000_usize, 0..80_000_usize)
            .prop_map(|(to_server, to_client)| Step::Carry { to_server, to_client }),
    ]
}

/// Of the whole connection, if not the usual one.
fn window() -> impl Strategy<Value = Option<u32>> {
    prop_oneof![Just(None), (1000..4000_u32).prop_map(Some), (1000..100_000_u32).prop_map(Some)]
}

fn steps(most: usize) -> impl Strategy<Value = Vec<Step>> {
    prop::collection::vec(step(), 1..most)
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        Just(End::Eof),
        Just(End::Died(std::io::ErrorKind::ConnectionReset)),
        Just(End::GivenUp(proxy_core::http2::Code::CANCEL)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn bytes_arrive_as_they_were_given_and_nothing_is_left(window in window(), steps in steps(120)) {
        let mut world = World::new(window);
        steps.iter().for_each(|step| world.run(step));
        world.finish();
    }

    #[test]
    fn an_end_at_any_time_reaches_everybody(window in window(), steps in steps(60), end in ends()) {
        let mut world = World::new(window);
        steps.iter().for_each(|step| world.run(step));
        world.end(end);
    }
}
