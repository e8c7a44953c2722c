//! The fields that the sets name, as one tree that a walk over the event follows.

use std::borrow::Cow;

/// The node of the event itself.
pub const ROOT: usize = 0;

/// All dotted paths, and for each a slot that a walk fills.
#[derive(Clone, Debug)]
pub struct Fields {
    nodes: Vec<Node>,
    paths: Vec<String>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    children: Vec<(String, usize)>,
    /// Where a value found here is kept, if a set asks for it.
    slot: Option<usize>,
    /// The slots here and below: emptied when a duplicate key replaces what was found before.
    slots_within: Vec<usize>,
}

/// What a walk found at one path.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Captured<'a> {
    /// Absent or null: adds nothing.
    #[default]
    Absent,
    One(Scalar<'a>),
    Many(Vec<Scalar<'a>>),
    /// A value that no member can be made of, and what it is.
    Unfit(&'static str),
}

/// A value that can be a member, or a part of one.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    Text(Cow<'a, str>),
    Signed(i64),
    Unsigned(u64),
    Bool(bool),
}

impl Fields {
    /// The slot of the event's own `id`.
    pub const ID: usize = 0;
    /// The slot of the event's own `occurred_at`.
    pub const OCCURRED_AT: usize = 1;

    pub(super) fn new() -> Self {
        let mut fields = Self { nodes: vec![Node::default()], paths: Vec::new() };
        assert_eq!(fields.slot("id"), Self::ID);
        assert_eq!(fields.slot("occurred_at"), Self::OCCURRED_AT);
        fields
    }

    /// The slot of a dotted path; a path named twice shares it.
    pub(super) fn slot(&mut self, path: &str) -> usize {
        let mut node = ROOT;
        let mut trail = vec![ROOT];
        for name in path.split('.') {
            node = match self.child(node, name) {
                Some(child) => child,
                None => {
                    let child = self.nodes.len();
                    self.nodes.push(Node::default());
                    self.nodes[node].children.push((name.to_owned(), child));
                    child
                }
            };
            trail.push(node);
        }
        if let Some(slot) = self.nodes[node].slot {
            return slot;
        }
        let slot = self.paths.len();
        self.paths.push(path.to_owned());
        self.nodes[node].slot = Some(slot);
        for above in trail {
            self.nodes[above].slots_within.push(slot);
        }
        slot
    }

    /// One empty place for each path.
    pub fn empty<'a>(&self) -> Vec<Captured<'a>> {
        vec![Captured::Absent; self.paths.len()]
    }

    pub fn path(&self, slot: usize) -> &str {
        &self.paths[slot]
    }

    pub fn child(&self, node: usize, name: &str) -> Option<usize> {
        let children = &self.nodes[node].children;
        children.iter().find(|(child, _)| child == name).map(|(_, node)| *node)
    }

    pub fn slot_of(&self, node: usize) -> Option<usize> {
        self.nodes[node].slot
    }

    pub fn slots_within(&self, node: usize) -> &[usize] {
        &self.nodes[node].slots_within
    }
}

impl<'a> Captured<'a> {
    /// The text here, `None` where nothing is; or what else there is.
    pub fn text(&self) -> Result<Option<&str>, &'static str> {
        match self {
            Self::Absent => Ok(None),
            Self::One(Scalar::Text(text)) => Ok(Some(text)),
            Self::One(Scalar::Bool(_)) => Err("a boolean"),
            Self::One(Scalar::Signed(_) | Scalar::Unsigned(_)) => Err("a number"),
            Self::Many(_) => Err("an array"),
            Self::Unfit(found) => Err(found),
        }
    }

    /// The scalars found, in order; none where the field is absent or null.
    pub(super) fn scalars(&self) -> &[Scalar<'a>] {
        match self {
            Self::Absent | Self::Unfit(_) => &[],
            Self::One(scalar) => std::slice::from_ref(scalar),
            Self::Many(scalars) => scalars,
        }
    }
}
