//! One YAML document as a tree in which every value knows its place.
//!
//! Stricter than YAML where YAML sets traps: keys are plain words and not repeated, tags, merge keys and further
//! documents are refused. Anchors and aliases work. Built from events without recursion, in linear time, with bounds on
//! depth and size.

use std::borrow::Cow;
use std::collections::HashMap;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, ScanError};

use super::error::{Finding, Mistakes, Position, quoted};

/// Deepest nesting; the format itself needs ten.
const MAX_DEPTH: usize = 32;

/// Most values, aliases expanded: 10,000 services with 100,000 endpoints have 600,000.
pub(super) const MAX_VALUES: usize = 4_000_000;

/// Number of a value in its [`Tree`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Origin(pub(super) u32);

/// A value and its number.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub(super) origin: Origin,
    pub(super) value: Value<'a>,
}

/// What a value is, by the core schema of YAML 1.2 (10.3.2).
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`, and neither `yes` nor `off`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number, as written.
    Float(Cow<'a, str>),
    /// Everything else, and everything in quotes.
    Text(Cow<'a, str>),
    /// A list.
    List(Vec<Node<'a>>),
    /// A mapping, in the order of the file, without duplicates.
    Map(Vec<Entry<'a>>),
}

impl Value<'_> {
    /// Names the value for a message.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Bool(value) => format!("{value}"),
            Self::Integer(value) => format!("the number {value}"),
            Self::Float(text) => format!("the number {}", text.chars().take(40).collect::<String>()),
            Self::Text(text) => quoted(text),
            Self::List(items) if items.is_empty() => "an empty list".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
        }
    }
}

/// One `key: value`.
#[derive(Clone, Debug)]
pub(super) struct Entry<'a> {
    pub(super) key: Cow<'a, str>,
    pub(super) key_at: Position,
    pub(super) node: Node<'a>,
}

/// Places of all values of a document, and how each is reached.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    values: Vec<Meta<'a>>,
    has_anchors: bool,
}

#[derive(Debug)]
struct Meta<'a> {
    position: Position,
    parent: Option<Origin>,
    step: Step<'a>,
    is_cut: bool,
}

#[derive(Clone, Debug)]
enum Step<'a> {
    Root,
    Key(Cow<'a, str>),
    Index(usize),
}

impl<'a> Tree<'a> {
    /// Tells where a value begins.
    pub(super) fn position(&self, origin: Origin) -> Position {
        self.meta(origin).position
    }

    /// Spells how a value is reached, for example `services[2].health`.
    pub(super) fn path(&self, origin: Origin) -> String {
        let mut steps = Vec::new();
        let mut next = Some(origin);
        while let Some(origin) = next {
            let meta = self.meta(origin);
            steps.push(&meta.step);
            next = meta.parent;
        }
        steps.iter().rev().fold(String::new(), |path, step| match step {
            Step::Root => path,
            Step::Key(key) => join(path, key),
            Step::Index(index) => format!("{path}[{index}]"),
        })
    }

    /// Remembers that something under a value was wrong and is missing from the tree.
    pub(super) fn cut(&mut self, origin: Origin) {
        let mut next = Some(origin);
        while let Some(origin) = next {
            let meta = &mut self.values[index(origin)];
            next = if meta.is_cut { None } else { meta.parent };
            meta.is_cut = true;
        }
    }

    /// Tells whether a value is as it was written, so that what it lacks was left out by its author.
    pub(super) fn is_whole(&self, origin: Origin) -> bool {
        !self.meta(origin).is_cut
    }

    /// Counts the values, aliases expanded.
    pub(super) fn values_count(&self) -> usize {
        self.values.len()
    }

    /// Tells whether anything was named by an anchor, so that one place of the text may mean what another says.
    pub(super) fn has_anchors(&self) -> bool {
        self.has_anchors
    }

    fn meta(&self, origin: Origin) -> &Meta<'a> {
        &self.values[index(origin)]
    }

    fn add(&mut self, position: Position, parent: Option<Origin>, step: Step<'a>) -> Origin {
        let origin = Origin(u32::try_from(self.values.len()).expect("MAX_VALUES fits"));
        self.values.push(Meta { position, parent, step, is_cut: false });
        origin
    }
}

fn index(origin: Origin) -> usize {
    usize::try_from(origin.0).expect("32 bits fit a usize on every supported machine")
}

/// Appends a key to a path.
pub(super) fn join(path: String, key: &str) -> String {
    let key: Cow<'_, str> =
        if key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-') && !key.is_empty() {
            key.into()
        } else {
            quoted(key).into()
        };
    if path.is_empty() { key.into_owned() } else { format!("{path}.{key}") }
}

/// Reads a text that holds exactly one YAML document.
///
/// Mistakes go into `mistakes`; the tree then lacks them. Without a root there is nothing left to check.
pub(super) fn read<'a>(text: &'a str, mistakes: &mut Mistakes) -> (Tree<'a>, Option<Node<'a>>) {
    let mut builder =
        Builder { mistakes, tree: Tree::default(), open: Vec::new(), anchors: HashMap::new(), root: None };
    let result = builder.read(text);
    let (tree, root) = (builder.tree, builder.root);
    match result {
        Ok(()) => (tree, root),
        Err(Stop { position, finding }) => {
            mistakes.push(position, String::new, finding);
            (tree, None)
        }
    }
}

struct Builder<'a, 'm> {
    mistakes: &'m mut Mistakes,
    tree: Tree<'a>,
    open: Vec<Open<'a>>,
    anchors: HashMap<usize, Node<'a>>,
    root: Option<Node<'a>>,
}

/// A list or mapping whose end has not come yet.
struct Open<'a> {
    origin: Origin,
    anchor: usize,
    items: Items<'a>,
}

enum Items<'a> {
    List(Vec<Node<'a>>),
    Map { entries: Vec<Entry<'a>>, seen: HashMap<Cow<'a, str>, u32>, key: Key<'a> },
}

/// The key of a mapping whose value has not come yet.
enum Key<'a> {
    None,
    Word(Cow<'a, str>, Position),
    /// Already reported; its value is dropped.
    Bad,
}

/// A mistake after which the rest of the file cannot be understood.
struct Stop {
    position: Position,
    finding: Finding,
}

impl<'a> Builder<'a, '_> {
    fn read(&mut self, text: &'a str) -> Result<(), Stop> {
        let mut parser = Parser::new_from_str(text);
        let mut documents_count = 0;
        while let Some(event) = parser.next_event() {
            let (event, span) = event.map_err(|error| syntax(text, &error))?;
            let at = position(&span.start);
            match event {
                Event::DocumentStart(_) => {
                    documents_count += 1;
                    if documents_count > 1 {
                        let finding = Finding::new("a second document begins; a config is one document");
                        return Err(Stop { position: at, finding });
                    }
                }
                Event::Scalar(text, style, anchor, tag) => {
                    self.refuse_tag(tag.is_some(), at);
                    let value = scalar(text, style);
                    if anchor == 0 && self.expects_key() {
                        self.key(value, at);
                    } else {
                        let origin = self.begin(at)?;
                        self.finish(Node { origin, value }, anchor, at)?;
                    }
                }
                Event::SequenceStart(anchor, tag) => {
                    self.refuse_tag(tag.is_some(), at);
                    self.open(at, anchor, Items::List(Vec::new()))?;
                }
                Event::MappingStart(anchor, tag) => {
                    self.refuse_tag(tag.is_some(), at);
                    let items = Items::Map { entries: Vec::new(), seen: HashMap::new(), key: Key::None };
                    self.open(at, anchor, items)?;
                }
                Event::SequenceEnd | Event::MappingEnd => self.close(at)?,
                Event::Alias(anchor) => self.alias(anchor, at)?,
                Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
            }
        }
        Ok(())
    }

    fn refuse_tag(&mut self, is_tagged: bool, at: Position) {
        if is_tagged {
            let finding =
                Finding::new("YAML tags (!...) are not supported; quote a text that begins with '!'");
            self.mistakes.push(at, String::new, finding);
        }
    }

    /// Gives a number to the value that begins here.
    fn begin(&mut self, at: Position) -> Result<Origin, Stop> {
        if self.tree.values.len() >= MAX_VALUES {
            let finding = Finding::new(format!("more than {MAX_VALUES} values"));
            return Err(Stop { position: at, finding });
        }
        let parent = self.open.last().map(|open| open.origin);
        let step = match self.open.last().map(|open| &open.items) {
            None => Step::Root,
            Some(Items::List(items)) => Step::Index(items.len()),
            Some(Items::Map { key: Key::Word(key, _), .. }) => Step::Key(key.clone()),
            Some(Items::Map { .. }) => Step::Key("?".into()),
        };
        Ok(self.tree.add(at, parent, step))
    }

    fn open(&mut self, at: Position, anchor: usize, items: Items<'a>) -> Result<(), Stop> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Stop { position: at, finding: too_deep() });
        }
        let origin = self.begin(at)?;
        self.open.push(Open { origin, anchor, items });
        Ok(())
    }

    fn close(&mut self, at: Position) -> Result<(), Stop> {
        let Some(Open { origin, anchor, items }) = self.open.pop() else {
            return Err(Stop { position: at, finding: Finding::new("an end without a beginning") });
        };
        let value = match items {
            Items::List(items) => Value::List(items),
            Items::Map { entries, .. } => Value::Map(entries),
        };
        let start = self.tree.position(origin);
        self.finish(Node { origin, value }, anchor, start)
    }

    /// Puts a complete value where it belongs: into its list, behind its key, or it is a key itself.
    fn finish(&mut self, node: Node<'a>, anchor: usize, at: Position) -> Result<(), Stop> {
        if anchor != 0 {
            self.tree.has_anchors = true;
            let copy = self.copy(&node, None, &Step::Root)?;
            self.anchors.insert(anchor, copy);
        }
        let Some(Open { origin, items, .. }) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        match items {
            Items::List(items) => items.push(node),
            Items::Map { entries, seen, key } => match std::mem::replace(key, Key::None) {
                Key::Bad => {}
                Key::None => self.key(node.value, at),
                Key::Word(key, key_at) => match first_line(&key, entries, seen) {
                    None => entries.push(Entry { key, key_at, node }),
                    Some(line) => {
                        let finding = Finding::new(format!("duplicate key; first written in line {line}"));
                        let parent = *origin;
                        self.mistakes.push(key_at, || join(self.tree.path(parent), &key), finding);
                    }
                },
            },
        }
        Ok(())
    }

    fn expects_key(&self) -> bool {
        matches!(self.open.last(), Some(Open { items: Items::Map { key: Key::None, .. }, .. }))
    }

    /// Takes a value as the next key of the mapping that is open.
    fn key(&mut self, value: Value<'a>, at: Position) {
        let Some(Open { origin, items: Items::Map { key, .. }, .. }) = self.open.last_mut() else { return };
        match word(value) {
            Ok(word) => *key = Key::Word(word, at),
            Err(finding) => {
                *key = Key::Bad;
                let parent = *origin;
                self.tree.cut(parent);
                self.mistakes.push(at, || self.tree.path(parent), *finding);
            }
        }
    }

    fn alias(&mut self, anchor: usize, at: Position) -> Result<(), Stop> {
        let Some(anchored) = self.anchors.remove(&anchor) else {
            let finding = Finding::new("this alias stands inside of what it stands for");
            return Err(Stop { position: at, finding });
        };
        let parent = self.open.last().map(|open| open.origin);
        let step = match self.open.last().map(|open| &open.items) {
            Some(Items::List(items)) => Step::Index(items.len()),
            Some(Items::Map { key: Key::Word(key, _), .. }) => Step::Key(key.clone()),
            _ => Step::Root,
        };
        let copy = self.copy(&anchored, parent, &step)?;
        self.anchors.insert(anchor, anchored);
        self.finish(copy, 0, at)
    }

    /// Copies an anchored value to another place; the copies count as values, which bounds what aliases can grow to.
    fn copy(&mut self, node: &Node<'a>, parent: Option<Origin>, step: &Step<'a>) -> Result<Node<'a>, Stop> {
        let position = self.tree.position(node.origin);
        if self.tree.values.len() >= MAX_VALUES {
            let finding = Finding::new(format!("more than {MAX_VALUES} values, aliases included"));
            return Err(Stop { position, finding });
        }
        let origin = self.tree.add(position, parent, step.clone());
        let value = match &node.value {
            Value::List(items) => {
                let copies =
                    items.iter().enumerate().map(|(i, item)| self.copy(item, Some(origin), &Step::Index(i)));
                Value::List(copies.collect::<Result<_, _>>()?)
            }
            Value::Map(entries) => {
                let copies = entries.iter().map(|entry| {
                    let node = self.copy(&entry.node, Some(origin), &Step::Key(entry.key.clone()))?;
                    Ok(Entry { key: entry.key.clone(), key_at: entry.key_at, node })
                });
                Value::Map(copies.collect::<Result<_, _>>()?)
            }
            plain => plain.clone(),
        };
        Ok(Node { origin, value })
    }
}

/// Finds the line of an earlier entry with the same key. Remembers keys in a set once there are many: the real mappings
/// have few, where looking is faster, and a mapping of a million must not take a million times a million looks.
fn first_line<'a>(key: &str, entries: &[Entry<'a>], seen: &mut HashMap<Cow<'a, str>, u32>) -> Option<u32> {
    const FEW: usize = 16;
    if entries.len() < FEW {
        return entries.iter().find(|entry| entry.key == *key).map(|entry| entry.key_at.line);
    }
    for entry in &entries[seen.len()..] {
        seen.insert(entry.key.clone(), entry.key_at.line);
    }
    seen.get(key).copied()
}

fn word(value: Value<'_>) -> Result<Cow<'_, str>, Box<Finding>> {
    match value {
        Value::Text(word) if word == "<<" => {
            Err(Box::new(Finding::new("merge keys (<<) are not part of YAML 1.2; write the keys out")))
        }
        Value::Text(word) => Ok(word),
        Value::List(_) | Value::Map(_) => {
            let hint = "an IPv6 address needs quotes: \"[fd00::10]:80\"".to_owned();
            let finding = Finding::new("a key must be a word").found(value.describe());
            Err(Box::new(finding.suggest(Some(hint))))
        }
        other => Err(Box::new(Finding::new("a key must be a word").found(other.describe()))),
    }
}

/// Resolves a plain scalar; what is in quotes is always text.
fn scalar(text: Cow<'_, str>, style: ScalarStyle) -> Value<'_> {
    if style != ScalarStyle::Plain {
        return Value::Text(text);
    }
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    if !text.starts_with(|c: char| c.is_ascii_digit() || "+-.".contains(c)) {
        return Value::Text(text);
    }
    let radix =
        |prefix: &str, radix| text.strip_prefix(prefix).and_then(|d| i64::from_str_radix(d, radix).ok());
    if let Some(integer) = text.parse().ok().or_else(|| radix("0x", 16)).or_else(|| radix("0o", 8)) {
        return Value::Integer(integer);
    }
    let is_number =
        text.chars().all(|c| c.is_ascii_digit() || "+-.eE".contains(c)) && text.parse::<f64>().is_ok();
    if is_number { Value::Float(text) } else { Value::Text(text) }
}

fn position(marker: &Marker) -> Position {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    Position { line: number(marker.line()), column: number(marker.col() + 1) }
}

fn too_deep() -> Finding {
    Finding::new(format!("nested deeper than {MAX_DEPTH} levels"))
}

/// Says what the parser did not understand, with the usual causes.
fn syntax(text: &str, error: &ScanError) -> Stop {
    let position = position(error.marker());
    let line = text.lines().nth(error.marker().line().saturating_sub(1)).unwrap_or_default();
    let blanks = &line[..line.len() - line.trim_start().len()];
    let hint = if blanks.contains('\t') {
        Some("indent with blanks, not with tabs".to_owned())
    } else if line.contains("[") && line.contains("]:") && !line.contains('"') {
        Some("an IPv6 address needs quotes: \"[fd00::10]:80\"".to_owned())
    } else {
        None
    };
    if error.info() == "recursion limit exceeded" {
        // The parser looks ahead and meets its own limit (255) before ours.
        return Stop { position, finding: too_deep() };
    }
    Stop { position, finding: Finding::new(format!("not valid YAML: {}", error.info())).suggest(hint) }
}
