//! Where a request goes among the connections to one endpoint, each of which carries many.

/// Connections of one worker to one endpoint: each has room for a hundred requests and more.
const MAX_CONNECTIONS: usize = 64;
/// Requests that wait on one connection for others to end, once there may be no more connections: each holds its client's memory.
const MAX_WAITING: usize = 128;

/// Where a request goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// On this connection, or behind the requests on it.
    On(usize),
    /// On a new one.
    New,
    /// Nowhere: as many wait as may.
    Full,
}

impl Place {
    /// Chooses by how many requests each connection has, and how many both of its sides allow at a time.
    #[must_use]
    pub fn choose(conns: impl Iterator<Item = (usize, usize)> + Clone) -> Self {
        // The first with room, so that those that are not needed any more come to rest.
        if let Some(free) = conns.clone().position(|(active, most)| active < most) {
            return Self::On(free);
        }
        if conns.clone().count() < MAX_CONNECTIONS {
            return Self::New;
        }
        let waiting = conns.map(|(active, most)| active - most).enumerate();
        match waiting.min_by_key(|(_, waiting)| *waiting) {
            Some((least, waiting)) if waiting < MAX_WAITING => Self::On(least),
            _ => Self::Full,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choose(conns: &[(usize, usize)]) -> Place {
        Place::choose(conns.iter().copied())
    }

    #[test]
    fn the_first_with_room_is_used_until_none_has() {
        assert_eq!(choose(&[]), Place::New);
        assert_eq!(choose(&[(100, 100), (3, 100), (0, 100)]), Place::On(1));
        assert_eq!(choose(&[(100, 100), (8, 1), (0, 0)]), Place::New, "settings may take room back");
    }

    #[test]
    fn who_finds_all_full_waits_where_fewest_do_and_is_refused_in_the_end() {
        let mut conns = [(100, 100); MAX_CONNECTIONS];
        conns[7] = (5, 1);
        conns[9] = (60, 59);
        assert_eq!(choose(&conns), Place::On(0), "nobody waits there yet");
        for (active, _) in &mut conns {
            *active += 1;
        }
        assert_eq!(choose(&conns), Place::On(0));
        conns.fill((100 + MAX_WAITING, 100));
        assert_eq!(choose(&conns), Place::Full);
        conns[63] = (MAX_WAITING - 1, 0);
        assert_eq!(choose(&conns), Place::On(63));
    }
}
