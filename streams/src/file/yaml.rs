//! A YAML document as a tree that knows where everything stands. Anchors, aliases, tags and a second document are
//! mistakes: a pipeline file says everything where it counts.

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, SpannedEventReceiver};

use super::mistake::{Mistakes, Place};

/// How deep a pipeline file may be nested.
const DEPTH_MAX: usize = 32;
/// The longest pipeline file, in bytes.
const BYTES_MAX: usize = 1 << 20;

/// A value and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    pub place: Place,
    pub value: Value,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Value {
    /// A word, number or text; whether it stood in quotes.
    Scalar {
        text: String,
        is_quoted: bool,
    },
    List(Vec<Node>),
    /// Members in the order of the file, each name once.
    Map(Vec<(Name, Node)>),
}

/// A member's name and its place.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Name {
    pub text: String,
    pub place: Place,
}

impl Node {
    /// What it is, for a message.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Scalar { text, .. } if text.is_empty() => "nothing".to_owned(),
            Value::Scalar { text, .. } => format!("`{}`", text.chars().take(60).collect::<String>()),
            Value::List(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }
}

/// Reads the document, or notes why it cannot be read.
pub(crate) fn parse(text: &str, mistakes: &mut Mistakes) -> Option<Node> {
    if text.len() > BYTES_MAX {
        mistakes.add(Place::START, format!("the file is longer than {BYTES_MAX} bytes"));
        return None;
    }
    let mut builder = Builder { mistakes, open: Vec::new(), root: None, documents: 0 };
    let mut parser = Parser::new_from_str(text);
    let read = parser.load(&mut builder, true);
    let root = builder.root.take();
    if let Err(error) = read {
        let place = place(error.marker());
        mistakes.add(place, format!("not YAML: {}", error.info()));
        return None;
    }
    if root.is_none() && mistakes.is_empty() {
        mistakes.add(Place::START, "the file is empty".to_owned());
    }
    root
}

/// Builds the tree from the parser's events.
struct Builder<'m> {
    mistakes: &'m mut Mistakes,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
}

struct Open {
    node: Node,
    /// In a map: the name whose value comes next.
    name: Option<Name>,
}

impl Builder<'_> {
    fn start(&mut self, place: Place, value: Value) {
        if self.open.len() == DEPTH_MAX {
            self.mistakes.add(place, format!("nested deeper than {DEPTH_MAX} levels"));
        }
        self.open.push(Open { node: Node { place, value }, name: None });
    }

    fn end(&mut self) {
        if let Some(open) = self.open.pop() {
            self.put(open.node);
        }
    }

    fn put(&mut self, node: Node) {
        let Some(open) = self.open.last_mut() else {
            if self.root.is_none() {
                self.root = Some(node);
            }
            return;
        };
        match (&mut open.node.value, open.name.take()) {
            (Value::List(list), _) => list.push(node),
            (Value::Map(members), Some(name)) => {
                if let Some((first, _)) = members.iter().find(|(known, _)| known.text == name.text) {
                    let line = first.place.line;
                    self.mistakes
                        .add(name.place, format!("`{}` stands twice: first in line {line}", name.text));
                } else {
                    members.push((name, node));
                }
            }
            (Value::Map(_), None) => match node.value {
                Value::Scalar { text, .. } => open.name = Some(Name { text, place: node.place }),
                _ => {
                    self.mistakes.add(node.place, "a name must be a word".to_owned());
                    open.name = Some(Name { text: String::new(), place: node.place });
                }
            },
            (Value::Scalar { .. }, _) => {}
        }
    }
}

impl<'input> SpannedEventReceiver<'input> for Builder<'_> {
    fn on_event(&mut self, event: Event<'input>, span: Span) {
        let place = place(&span.start);
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents == 2 {
                    self.mistakes.add(place, "one document per file: a second one begins here".to_owned());
                }
            }
            Event::Alias(_) => {
                self.mistakes.add(place, "aliases are not supported: write the value out".to_owned());
                self.put(Node { place, value: Value::Scalar { text: String::new(), is_quoted: true } });
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                let is_quoted = style != ScalarStyle::Plain;
                self.put(Node { place, value: Value::Scalar { text: text.into_owned(), is_quoted } });
            }
            Event::SequenceStart(anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                self.start(place, Value::List(Vec::new()));
            }
            Event::MappingStart(anchor, tag) => {
                self.refuse(place, anchor, tag.is_some());
                self.start(place, Value::Map(Vec::new()));
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => {}
        }
    }
}

impl Builder<'_> {
    fn refuse(&mut self, place: Place, anchor: usize, has_tag: bool) {
        if anchor != 0 {
            self.mistakes.add(place, "anchors are not supported: write the value out".to_owned());
        }
        if has_tag {
            self.mistakes.add(place, "tags are not supported".to_owned());
        }
    }
}

fn place(marker: &Marker) -> Place {
    Place { line: marker.line(), column: marker.col() + 1 }
}
