//! The services that changed in a file, read without the others.
//!
//! They are read as a file of their own: the new text without the services that stayed as they were. That goes the usual
//! way, so that everything that can be wrong with it is found. What is left to compare are the promises that services
//! make to each other. Whatever is doubtful is no change to this module; then the whole is read, which alone gives
//! messages.

use std::collections::HashSet;
use std::ops::Range;
use std::path::Path;

use super::error::Mistakes;
use super::layout::{Layout, Touched};
use super::yaml::MAX_VALUES;
use super::{Config, RuleConfig, ServesConfig, check, read};

/// A part is read if it is at most this share (a half) of the whole, which is read besides if that was in vain.
const MOST_SHARE: usize = 2;

/// What is different in a new text, ready to be put in its place.
#[derive(Debug)]
pub(super) struct Change {
    touched: Touched,
    /// The new file with the services that stand in place of the touched ones, and no others.
    config: Config,
    /// Where they begin in the new text.
    starts: Vec<usize>,
    values_count: usize,
}

impl Change {
    /// Reads what is different in `new`. `None` where reading all of it might give anything else.
    ///
    /// `old` is a text without mistakes, `config` and `layout` what it says. Costs one comparison of the texts, one look at
    /// every service, and the reading of those that changed.
    pub(super) fn read(
        config: &Config,
        layout: &Layout,
        folder: &Path,
        (old, new): (&str, &str),
    ) -> Option<Self> {
        let touched = layout.touched(old, new)?;
        let part = Part::new(config, layout, &touched, old, new);
        if part.text.len() > new.len() / MOST_SHARE {
            return None;
        }
        let (changed, places) = part.read(config, folder)?;
        let change = Self {
            starts: places.starts.iter().map(|at| at - part.changed.start + touched.new.start).collect(),
            values_count: layout.values_count + places.values_count,
            config: changed,
            touched,
        };
        let is_sure = change.values_count <= MAX_VALUES
            && change.leaves_neighbours(config)
            && change.suits_others(config);
        is_sure.then_some(change)
    }

    /// Puts the change in its place.
    pub(super) fn apply(self, config: &mut Config, layout: &mut Layout) {
        let Self { touched, config: mut changed, starts, values_count } = self;
        layout.replace(&touched, starts.into_iter());
        layout.values_count = values_count;
        let mut services = std::mem::take(&mut config.services);
        services.splice(touched.items, changed.services.drain(..));
        *config = Config { services, ..changed };
    }

    fn leaves_neighbours(&self, config: &Config) -> bool {
        let (has_first, has_last) = self.touched.has_neighbours;
        let old = &config.services[self.touched.items.clone()];
        let new = &self.config.services;
        (!has_first || old.first() == new.first()) && (!has_last || old.last() == new.last())
    }

    fn suits_others(&self, config: &Config) -> bool {
        let others =
            [&config.services[..self.touched.items.start], &config.services[self.touched.items.end..]];
        check::can_share_a_file(&self.config.services, others.into_iter().flatten())
    }
}

/// The new text without the services that stayed as they were.
struct Part {
    text: String,
    /// Services that stayed and are there all the same, because listeners or routes name them; before the changed ones.
    named: Vec<usize>,
    /// Where the changed ones stand.
    changed: Range<usize>,
}

impl Part {
    fn new(config: &Config, layout: &Layout, touched: &Touched, old: &str, new: &str) -> Self {
        let named = named(config, &touched.items);
        let mut text = old[..layout.start(0)].to_owned();
        for index in &named {
            text.push_str(&old[layout.start(*index)..layout.start(index + 1)]);
            if !text.ends_with('\n') {
                text.push('\n');
            }
        }
        let start = text.len();
        text.push_str(&new[touched.new.clone()]);
        let changed = start..text.len();
        text.push_str(&old[layout.end..]);
        Self { text, named, changed }
    }

    /// Reads the part and gives what is in it of the changed services, which stand exactly where they were put.
    fn read(&self, config: &Config, folder: &Path) -> Option<(Config, Layout)> {
        let mut mistakes = Mistakes::default();
        let (mut changed, places) = read(&self.text, folder, &mut mistakes)?;
        let mut places = places.filter(|_| mistakes.is_empty())?;
        let count = self.named.len();
        if places.starts.get(count) != Some(&self.changed.start) || places.end != self.changed.end {
            return None;
        }
        let mut named = self.named.iter().map(|index| &config.services[*index]);
        if !changed.services.drain(..count).all(|service| named.next() == Some(&service)) {
            return None;
        }
        places.starts.drain(..count);
        Some((changed, places))
    }
}

/// Services that listeners and routes name, without those that were touched.
fn named(config: &Config, touched: &Range<usize>) -> Vec<usize> {
    let of_listeners = config.listeners.iter().filter_map(|listener| match &listener.serves {
        ServesConfig::Service(name) => Some(name.as_str()),
        ServesConfig::Routes(_) => None,
    });
    let rules = config.routes.iter().flat_map(|route| &route.rules);
    let names: HashSet<&str> = of_listeners.chain(rules.flat_map(RuleConfig::services)).collect();
    if names.is_empty() {
        return Vec::new();
    }
    let services = config.services.iter().enumerate();
    let all = services.filter(|(_, service)| names.contains(service.name.as_str()));
    all.map(|(index, _)| index).filter(|index| !touched.contains(index)).collect()
}
