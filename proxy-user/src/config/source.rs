//! A file that is read again and again.

use std::path::{Path, PathBuf};

use super::change::Change;
use super::layout::Layout;
use super::{Config, ConfigErrors, folder, parse_laid_out, read_file, without_mark};

/// The config file, and what it said when it was last right.
///
/// Of a file that changes in a few services only these are read. The answer is always that of [`load`](super::load), in
/// configs and in messages.
#[derive(Debug)]
pub struct Source {
    path: PathBuf,
    folder: PathBuf,
    text: String,
    config: Config,
    pub(super) layout: Option<Layout>,
}

/// How a text was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Not at all: it is the same.
    Unchanged,
    /// The services that changed.
    Changed,
    /// From its beginning to its end.
    Whole,
}

impl Source {
    /// Reads the file for the first time; blocks.
    ///
    /// # Errors
    /// As [`load`](super::load).
    pub fn open(path: &Path) -> Result<Self, ConfigErrors> {
        Self::new(path, read_file(path)?)
    }

    /// Reads the file again; blocks. After an error the config stays what it was.
    ///
    /// # Errors
    /// As [`load`](super::load).
    pub fn reload(&mut self) -> Result<Way, ConfigErrors> {
        self.take_up(read_file(&self.path)?)
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the file said when it was last right.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    pub(super) fn new(path: &Path, text: String) -> Result<Self, ConfigErrors> {
        let (text, folder) = (unmarked(text), folder(path));
        let (config, layout) = parse_laid_out(&path.display().to_string(), &folder, &text)?;
        Ok(Self { path: path.to_owned(), folder, text, config, layout })
    }

    pub(super) fn take_up(&mut self, text: String) -> Result<Way, ConfigErrors> {
        let text = unmarked(text);
        // Without it the whole is read, so a panic on the way leaves nothing half-changed to build on.
        let Some(mut layout) = self.layout.take() else { return self.read_whole(text) };
        if text == self.text {
            self.layout = Some(layout);
            return Ok(Way::Unchanged);
        }
        let Some(change) = Change::read(&self.config, &layout, &self.folder, (&self.text, &text)) else {
            self.layout = Some(layout);
            return self.read_whole(text);
        };
        change.apply(&mut self.config, &mut layout);
        (self.text, self.layout) = (text, Some(layout));
        Ok(Way::Changed)
    }

    fn read_whole(&mut self, text: String) -> Result<Way, ConfigErrors> {
        *self = Self::new(&self.path, text)?;
        Ok(Way::Whole)
    }
}

/// Takes the byte order mark away, so that places are counted from where the file begins to say something.
fn unmarked(text: String) -> String {
    match without_mark(&text) {
        rest if rest.len() == text.len() => text,
        rest => rest.to_owned(),
    }
}
