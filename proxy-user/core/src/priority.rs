//! Which requests go first when not all can be served.

/// Priority of a request, as its rule says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Priority {
    /// Refused before the others, and does not take the last quarter of what a service may have under way.
    Low,
    /// Of every request of which nothing is said.
    #[default]
    Default,
    /// Refused after all others.
    High,
}

impl Priority {
    /// Every priority, the lowest first.
    pub const ALL: [Self; 3] = [Self::Low, Self::Default, Self::High];

    /// How many of `most` places such requests may take: a quarter is kept free of low ones, but never the only place.
    #[must_use]
    pub fn share(self, most: u32) -> u32 {
        match self {
            Self::Low => most - most / 4,
            Self::Default | Self::High => most,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn low_ones_leave_a_quarter_and_never_go_without_anything() {
        assert_eq!([0, 1, 2, 3, 4, 100].map(|most| Priority::Low.share(most)), [0, 1, 2, 3, 3, 75]);
        assert_eq!(Priority::Low.share(u32::MAX), u32::MAX / 4 * 3 + 3);
        assert_eq!([Priority::Default, Priority::High].map(|priority| priority.share(7)), [7, 7]);
    }
}
