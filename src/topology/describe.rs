//! A topology for people: as text, and as a graph for mermaid or Graphviz.

use std::fmt::Write;

use super::{GlobalDef, NodeDef, NodeKind, StoreKind, SubTopology, Topology};

impl Topology {
    /// A part of the topology: the sub-topologies whose name, a node, a store or a topic begins with `prefix`; all for an empty one.
    fn part<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = &'a SubTopology> {
        self.subs.iter().filter(move |sub| {
            let nodes = sub.nodes.iter().map(|node| &self.nodes[node.0]);
            let topics = nodes.clone().filter_map(|node| node.topic).map(|topic| self.topics[topic.0].name.as_str());
            let stores = sub.stores.iter().map(|store| self.stores[store.0].name.as_str());
            let mut names = nodes.map(|node| node.name.as_str()).chain(topics).chain(stores).chain([sub.name.as_str()]);
            names.any(|name| name.starts_with(prefix))
        })
    }

    /// As text, in the manner of Kafka Streams' `describe`. `prefix` chooses sub-topologies by a name in them.
    #[must_use]
    pub fn to_text(&self, prefix: &str) -> String {
        let mut out = format!("Topology: {}\n", self.application);
        for sub in self.part(prefix) {
            let _ = writeln!(out, "  Sub-topology: {}", sub.name);
            for &id in &sub.nodes {
                let node = &self.nodes[id.0];
                let kind = match node.kind {
                    NodeKind::Source => "Source",
                    NodeKind::Processor => "Processor",
                    NodeKind::Sink => "Sink",
                };
                let _ = write!(out, "    {kind}: {}", node.name);
                if let Some(topic) = node.topic {
                    let _ = write!(out, " (topic: {})", self.topics[topic.0].name);
                } else if !node.stores.is_empty() {
                    let _ = write!(out, " (stores: {})", self.store_names(node).collect::<Vec<_>>().join(", "));
                }
                out.push('\n');
                let names = |nodes: Vec<&NodeDef>| nodes.iter().map(|node| node.name.clone()).collect::<Vec<_>>().join(", ");
                let children = sub.nodes.iter().map(|n| &self.nodes[n.0]).filter(|n| n.parents.contains(&id)).collect::<Vec<_>>();
                if !children.is_empty() {
                    let _ = writeln!(out, "      --> {}", names(children));
                }
                if !node.parents.is_empty() {
                    let _ = writeln!(out, "      <-- {}", names(node.parents.iter().map(|p| &self.nodes[p.0]).collect()));
                }
            }
        }
        for (global, store, topic) in self.globals(prefix) {
            let what = if self.stores[global.store.0].kind == StoreKind::Feed { "Feed" } else { "Global table" };
            let _ = writeln!(out, "  {what}: {store} (topic: {topic})");
        }
        out
    }

    /// The global tables and feeds whose store's name begins with `prefix`, with the names of store and topic.
    fn globals<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a GlobalDef, &'a str, &'a str)> {
        let named = |global: &'a GlobalDef| (global, &*self.stores[global.store.0].name, &*self.topics[global.topic.0].name);
        self.globals.iter().map(named).filter(move |(_, store, _)| store.starts_with(prefix))
    }

    fn store_names<'a>(&'a self, node: &'a NodeDef) -> impl Iterator<Item = &'a str> {
        node.stores.iter().map(|store| self.stores[store.0].name.as_str())
    }

    /// The edges of the picture: `topic -> source`, `node -> node`, `node -- store`, `sink -> topic`.
    fn edges(&self, sub: &SubTopology, mut edge: impl FnMut(Shape<'_>, Shape<'_>)) {
        for &id in &sub.nodes {
            let node = &self.nodes[id.0];
            let topic = node.topic.map(|topic| Shape::Topic(&self.topics[topic.0].name));
            match (node.kind, topic) {
                (NodeKind::Source, Some(topic)) => edge(topic, Shape::Node(&node.name)),
                (NodeKind::Sink, Some(topic)) => edge(Shape::Node(&node.name), topic),
                _ => {}
            }
            node.parents.iter().for_each(|parent| edge(Shape::Node(&self.nodes[parent.0].name), Shape::Node(&node.name)));
            self.store_names(node).for_each(|store| edge(Shape::Node(&node.name), Shape::Store(store)));
        }
    }

    /// As a mermaid flowchart.
    #[must_use]
    pub fn to_mermaid(&self, prefix: &str) -> String {
        let mut out = String::from("flowchart LR\n");
        for sub in self.part(prefix) {
            let _ = writeln!(out, "  subgraph {}[\"{}\"]", id("sub", &sub.name), sub.name);
            for node in &sub.nodes {
                let name = &self.nodes[node.0].name;
                let _ = writeln!(out, "    {}[\"{name}\"]", id("node", name));
            }
            out.push_str("  end\n");
            self.edges(sub, |from, to| {
                let _ = writeln!(out, "  {} --> {}", from.mermaid(), to.mermaid());
            });
        }
        for (_, store, topic) in self.globals(prefix) {
            let _ = writeln!(out, "  {} --> {}", Shape::Topic(topic).mermaid(), Shape::Store(store).mermaid());
        }
        out
    }

    /// As a Graphviz digraph.
    #[must_use]
    pub fn to_dot(&self, prefix: &str) -> String {
        let mut out = format!("digraph {:?} {{\n  rankdir=LR;\n", self.application);
        for (i, sub) in self.part(prefix).enumerate() {
            let _ = writeln!(out, "  subgraph cluster_{i} {{\n    label={:?};", sub.name);
            for node in &sub.nodes {
                let name = &self.nodes[node.0].name;
                let _ = writeln!(out, "    {} [label={name:?}, shape=box];", id("node", name));
            }
            out.push_str("  }\n");
            self.edges(sub, |from, to| {
                for shape in [from, to] {
                    out.push_str(&shape.dot_declaration());
                }
                let _ = writeln!(out, "  {} -> {};", from.id(), to.id());
            });
        }
        for (_, store, topic) in self.globals(prefix) {
            let (topic, store) = (Shape::Topic(topic), Shape::Store(store));
            let _ = writeln!(out, "{}{}  {} -> {};", topic.dot_declaration(), store.dot_declaration(), topic.id(), store.id());
        }
        out.push_str("}\n");
        out
    }
}

#[derive(Clone, Copy)]
enum Shape<'a> {
    Topic(&'a str),
    Node(&'a str),
    Store(&'a str),
}

impl Shape<'_> {
    fn id(self) -> String {
        match self {
            Shape::Topic(name) => id("topic", name),
            Shape::Node(name) => id("node", name),
            Shape::Store(name) => id("store", name),
        }
    }

    fn mermaid(self) -> String {
        match self {
            Shape::Topic(name) => format!("{}([\"{name}\"])", self.id()),
            Shape::Node(_) => self.id(),
            Shape::Store(name) => format!("{}[(\"{name}\")]", self.id()),
        }
    }

    fn dot_declaration(self) -> String {
        match self {
            Shape::Topic(name) => format!("  {} [label={name:?}, shape=ellipse];\n", self.id()),
            Shape::Node(_) => String::new(),
            Shape::Store(name) => format!("  {} [label={name:?}, shape=cylinder];\n", self.id()),
        }
    }
}

/// An identifier for both formats: letters, digits and underscores; other characters become their code, so that none collide.
fn id(kind: &str, name: &str) -> String {
    let mut id = format!("{kind}_");
    for c in name.chars() {
        if c.is_ascii_alphanumeric() {
            id.push(c);
        } else {
            let _ = write!(id, "_{:x}_", u32::from(c));
        }
    }
    id
}
