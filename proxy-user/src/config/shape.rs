//! What the schema asks of a value, and the search for everything that is not so.
//!
//! The JSON Schema of [`super::file`] is compiled once into [`Shape`]s. The walk reports each mistake with its place and
//! cuts it out of the tree, so that what remains can be read and checked further.

use std::sync::OnceLock;

use serde_json::Value as Json;

use super::error::{Finding, Mistakes, Position};
use super::suggest::{did_you_mean, nearest};
use super::text::Format;
use super::yaml::{Entry, Node, Origin, Tree, Value};

/// What one value has to look like.
#[derive(Clone, Debug)]
enum Shape {
    /// A text in a format.
    Text(Format),
    /// One of some words.
    Word(Vec<String>),
    /// `true` or `false`.
    Bool,
    /// A whole number between two bounds, both included.
    Integer(i64, i64),
    /// A list with a least length.
    List(Box<Shape>, usize),
    /// A mapping with fixed keys.
    Map(Vec<Key>),
    /// A mapping whose keys are texts in a format.
    Free(Format, Box<Shape>),
    /// A mapping with exactly one of some keys.
    OneKey(Vec<Key>),
    /// Whichever of some shapes the value's type fits.
    Any(Vec<Shape>),
}

#[derive(Clone, Debug)]
struct Key {
    name: String,
    shape: Shape,
    is_required: bool,
}

/// Reports everything in the tree that is not as the schema says, and cuts it out; tells whether the root is left.
pub(super) fn check(tree: &mut Tree<'_>, root: &mut Node<'_>, mistakes: &mut Mistakes) -> bool {
    static SHAPE: OnceLock<Shape> = OnceLock::new();
    let shape = SHAPE.get_or_init(|| {
        let schema = super::schema();
        Shape::compile(&schema, &schema)
    });
    Walk { tree, mistakes }.check(shape, root)
}

impl Shape {
    /// Compiles what schemars makes of the types in `file.rs`.
    ///
    /// # Panics
    /// On a schema with anything else in it: the types are ours, and every test passes here.
    fn compile(schema: &Json, root: &Json) -> Self {
        if let Some(reference) = schema["$ref"].as_str() {
            let target =
                root.pointer(reference.trim_start_matches('#')).expect("schemars defines what it refers to");
            return Self::compile(target, root);
        }
        if let Some(variants) = schema["oneOf"].as_array().or_else(|| schema["anyOf"].as_array()) {
            return Self::one_of(variants, root);
        }
        if let Some(word) = schema["const"].as_str() {
            return Self::Word(vec![word.to_owned()]);
        }
        match schema["type"].as_str() {
            Some("string") => {
                let format = schema["format"].as_str().and_then(Format::named);
                Self::Text(format.expect("every text in file.rs has a format of text.rs"))
            }
            Some("boolean") => Self::Bool,
            Some("integer") => Self::integer(schema),
            Some("array") => {
                let least = schema["minItems"].as_u64().and_then(|n| usize::try_from(n).ok()).unwrap_or(0);
                Self::List(Box::new(Self::compile(&schema["items"], root)), least)
            }
            Some("object") if schema["additionalProperties"].is_object() => {
                let format = schema["propertyNames"]["format"].as_str().and_then(Format::named);
                let format = format.expect("every mapping with free keys has a format for them");
                Self::Free(format, Box::new(Self::compile(&schema["additionalProperties"], root)))
            }
            Some("object") => Self::Map(Self::keys(schema, root)),
            _ => panic!("file.rs has a type that shape.rs does not know: {schema}"),
        }
    }

    fn integer(schema: &Json) -> Self {
        let most = match schema["format"].as_str() {
            Some("uint8") => u8::MAX.into(),
            Some("uint16") => u16::MAX.into(),
            _ => u32::MAX.into(),
        };
        Self::Integer(schema["minimum"].as_i64().unwrap_or(0), schema["maximum"].as_i64().unwrap_or(most))
    }

    fn one_of(variants: &[Json], root: &Json) -> Self {
        let shapes: Vec<_> = variants.iter().map(|variant| Self::compile(variant, root)).collect();
        let words =
            || shapes.iter().map(|s| if let Self::Word(words) = s { Some(words.clone()) } else { None });
        let keys = || shapes.iter().map(|s| if let Self::Map(keys) = s { Some(keys.clone()) } else { None });
        if let Some(words) = words().collect::<Option<Vec<_>>>() {
            Self::Word(words.concat())
        } else if let Some(keys) = keys().collect::<Option<Vec<_>>>() {
            let optional = |key| Key { is_required: false, ..key };
            Self::OneKey(keys.concat().into_iter().map(optional).collect())
        } else {
            Self::Any(shapes)
        }
    }

    fn keys(schema: &Json, root: &Json) -> Vec<Key> {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Json::as_str).collect();
        let properties = schema["properties"].as_object().into_iter().flatten();
        properties
            .map(|(name, schema)| Key {
                name: name.clone(),
                shape: Self::compile(schema, root),
                is_required: required.contains(&name.as_str()),
            })
            .collect()
    }

    /// Tells whether a value is of the type that the shape asks for, whatever its content.
    fn fits_type(&self, value: &Value<'_>) -> bool {
        match (self, value) {
            (Self::Any(shapes), _) => shapes.iter().any(|shape| shape.fits_type(value)),
            (Self::Text(_) | Self::Word(_), Value::Text(_))
            | (Self::Bool, Value::Bool(_))
            | (Self::Integer(..), Value::Integer(_))
            | (Self::List(..), Value::List(_))
            | (Self::Map(_) | Self::Free(..) | Self::OneKey(_), Value::Map(_)) => true,
            _ => false,
        }
    }

    /// Says what is expected.
    fn describe(&self) -> String {
        match self {
            Self::Text(format) => format.expected.to_owned(),
            Self::Word(words) => or(words.iter().map(String::as_str)),
            Self::Bool => "true or false".to_owned(),
            Self::Integer(least, most) if *most == i64::from(u32::MAX) => {
                format!("a whole number, {least} or more")
            }
            Self::Integer(least, most) => format!("a whole number from {least} to {most}"),
            Self::List(_, 0) => "a list".to_owned(),
            Self::List(..) => "a list that is not empty".to_owned(),
            Self::Free(..) => "a mapping of names to values".to_owned(),
            Self::Map(keys) if keys.is_empty() => "an empty mapping: {}".to_owned(),
            Self::Map(keys) => {
                let required: Vec<_> =
                    keys.iter().filter(|k| k.is_required).map(|k| k.name.as_str()).collect();
                let keys = if required.is_empty() {
                    keys.iter().map(|k| k.name.as_str()).collect()
                } else {
                    required
                };
                format!("a mapping with {}", keys.join(", "))
            }
            Self::OneKey(keys) => {
                format!("a mapping with exactly one of {}", or(keys.iter().map(|k| k.name.as_str())))
            }
            Self::Any(shapes) => shapes.iter().map(Self::describe).collect::<Vec<_>>().join(" or "),
        }
    }
}

/// Joins words as in `a, b or c`.
fn or<'a>(words: impl Iterator<Item = &'a str>) -> String {
    let words: Vec<_> = words.collect();
    match words.split_last() {
        Some((last, first)) if !first.is_empty() => format!("{} or {last}", first.join(", ")),
        _ => words.concat(),
    }
}

fn in_quotes(text: &str) -> String {
    format!("write it in quotes: \"{text}\"")
}

/// YAML before 1.2 had more words for it.
fn meant_bool(text: &str) -> Option<String> {
    match text.to_ascii_lowercase().as_str() {
        "yes" | "on" | "true" => Some("write true".to_owned()),
        "no" | "off" | "false" => Some("write false".to_owned()),
        _ => None,
    }
}

fn is_empty(node: &Node<'_>) -> bool {
    matches!(&node.value, Value::Map(entries) if entries.is_empty())
}

struct Walk<'w, 'a> {
    tree: &'w mut Tree<'a>,
    mistakes: &'w mut Mistakes,
}

impl Walk<'_, '_> {
    /// Checks a value and all below it; tells whether it may stay.
    fn check(&mut self, shape: &Shape, node: &mut Node<'_>) -> bool {
        let fitting = match shape {
            Shape::Any(shapes) => shapes.iter().find(|shape| shape.fits_type(&node.value)).unwrap_or(shape),
            single => single,
        };
        let result = match (fitting, &mut node.value) {
            (Shape::Text(format), Value::Text(text)) => (format.check)(text),
            (Shape::Text(format), Value::Integer(number)) => Err(Some(format.hint_for_number(*number))),
            (Shape::Text(_) | Shape::Word(_), Value::Bool(word)) => Err(Some(in_quotes(&word.to_string()))),
            (Shape::Text(_) | Shape::Word(_), Value::Float(text)) => Err(Some(in_quotes(text))),
            (Shape::Word(words), Value::Text(text)) if words.iter().any(|word| word == text) => Ok(()),
            (Shape::Word(words), Value::Text(text)) => {
                Err(nearest(text, words.iter().map(String::as_str)).map(did_you_mean))
            }
            (Shape::Bool, Value::Bool(_)) => Ok(()),
            (Shape::Bool, Value::Text(text)) => Err(meant_bool(text)),
            (Shape::Integer(least, most), Value::Integer(n)) if (*least..=*most).contains(n) => Ok(()),
            (Shape::List(_, least), Value::List(items)) if items.len() < *least => Err(None),
            (Shape::List(item, _), Value::List(items)) => {
                items.retain_mut(|node| self.check(item, node));
                return true;
            }
            (Shape::Free(key, value), Value::Map(_)) => {
                self.free_map(*key, value, node);
                return true;
            }
            (Shape::Map(keys), Value::Map(_)) => return self.map(keys, node) || self.cut(node),
            (Shape::OneKey(keys), Value::Map(entries)) if entries.len() == 1 => {
                return (self.map(keys, node) && !is_empty(node)) || self.cut(node);
            }
            (Shape::Any(shapes), Value::Integer(number)) => {
                Err(shapes.iter().find_map(|shape| match shape {
                    Shape::Text(format) => Some(format.hint_for_number(*number)),
                    _ => None,
                }))
            }
            (_, Value::Null) => Err(Some("give it a value or remove the key".to_owned())),
            _ => Err(None),
        };
        let Err(hint) = result else { return true };
        if matches!(node.value, Value::Map(_)) && !self.tree.is_whole(node.origin) {
            // It has a key that is none, which was reported: most likely it was not meant to be a mapping.
            return self.cut(node);
        }
        let problem = if fitting.fits_type(&node.value) { "wrong value" } else { "wrong type" };
        let finding =
            Finding::new(problem).found(node.value.describe()).expected(shape.describe()).suggest(hint);
        self.report(self.tree.position(node.origin), node.origin, finding);
        self.cut(node)
    }

    /// Remembers that a value goes; always false.
    fn cut(&mut self, node: &Node<'_>) -> bool {
        self.tree.cut(node.origin);
        false
    }

    /// Checks the keys of a mapping and their values; the mapping may stay if it has all that is required.
    fn map(&mut self, keys: &[Key], node: &mut Node<'_>) -> bool {
        let origin = node.origin;
        let Value::Map(entries) = &mut node.value else { return false };
        let mut meant: Vec<String> = Vec::new();
        let mut lost = false;
        entries.retain_mut(|entry| match keys.iter().find(|key| key.name == entry.key) {
            Some(key) => {
                let stays = self.check(&key.shape, &mut entry.node);
                lost |= !stays && key.is_required;
                if !stays {
                    meant.push(key.name.clone());
                }
                stays
            }
            None => {
                self.unknown_key(keys, entry, &mut meant);
                self.tree.cut(origin);
                false
            }
        });
        for key in keys.iter().filter(|key| key.is_required) {
            let is_there = entries.iter().any(|entry| entry.key == key.name);
            lost |= !is_there;
            if !is_there && !meant.contains(&key.name) {
                let finding =
                    Finding::new(format!("missing key '{}'", key.name)).expected(key.shape.describe());
                self.report(self.tree.position(origin), origin, finding);
            }
        }
        !lost
    }

    /// Checks keys and values of a mapping with free keys.
    fn free_map(&mut self, format: Format, shape: &Shape, node: &mut Node<'_>) {
        let origin = node.origin;
        let Value::Map(entries) = &mut node.value else { return };
        entries.retain_mut(|entry| {
            let stays = self.check(shape, &mut entry.node);
            let Err(hint) = (format.check)(&entry.key) else { return stays };
            let finding = Finding::new("wrong key").expected(format.expected).suggest(hint);
            let tree = &*self.tree;
            self.mistakes.push(entry.key_at, || tree.path(entry.node.origin), finding);
            self.tree.cut(origin);
            false
        });
    }

    fn unknown_key(&mut self, keys: &[Key], entry: &Entry<'_>, meant: &mut Vec<String>) {
        if self.mistakes.is_full() {
            return self.mistakes.push(entry.key_at, String::new, Finding::default());
        }
        let names = || keys.iter().map(|key| key.name.as_str());
        let mut finding = Finding::new("unknown key");
        match nearest(&entry.key, names()) {
            Some(name) => {
                meant.push(name.to_owned());
                finding = finding.suggest(Some(did_you_mean(name)));
            }
            None if keys.is_empty() => {}
            None => finding = finding.expected(or(names())),
        }
        let tree = &*self.tree;
        self.mistakes.push(entry.key_at, || tree.path(entry.node.origin), finding);
    }

    fn report(&mut self, position: Position, origin: Origin, finding: Finding) {
        let tree = &*self.tree;
        self.mistakes.push(position, || tree.path(origin), finding);
    }
}
