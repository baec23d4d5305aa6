//! Is what a format tells a forest at all, and of what shape?
//!
//! In time and memory proportional to the forest, and without recursion: its author may be hostile.

use super::{Forest, ForestError, Node, Tree};

/// Nodes of a forest, and weights at its leaves. Leaves' numbers are the bits of a finite number of single precision.
pub(super) const NODES_MAX: usize = 1 << 30;

/// Scores of a row: kernels keep a few bytes for each.
const TARGETS_MAX: usize = 1 << 20;

/// Values in a row: layouts keep a few bytes for each.
const COLUMNS_MAX: usize = 1 << 21;

/// Finds whatever would keep a kernel from an answer.
pub(super) fn check(forest: &Forest) -> Result<(), ForestError> {
    for (what, found) in [("targets", forest.targets), ("columns", forest.columns)] {
        if found == 0 {
            return Err(ForestError::None { what });
        }
    }
    let most = |what, found, most| if found > most { Err(ForestError::TooMany { what, found, most }) } else { Ok(()) };
    most("targets", forest.targets, TARGETS_MAX)?;
    most("columns", forest.columns, COLUMNS_MAX)?;
    most("trees", forest.trees.len(), NODES_MAX)?;
    let weights = |node: &Node| match node {
        Node::Leaf { weights } => weights.len(),
        Node::Branch { .. } => 0,
    };
    let nodes = || forest.trees.iter().flat_map(|tree| &tree.nodes);
    most("nodes", nodes().count(), NODES_MAX)?;
    most("weights", nodes().map(weights).sum(), NODES_MAX)?;
    for (number, tree) in forest.trees.iter().enumerate() {
        check_nodes(forest, number, tree)?;
        if let Some(node) = cycle(tree) {
            return Err(ForestError::Cycle { tree: number, node });
        }
    }
    Ok(())
}

fn check_nodes(forest: &Forest, tree: usize, Tree { nodes }: &Tree) -> Result<(), ForestError> {
    if nodes.is_empty() {
        return Err(ForestError::Empty { tree });
    }
    for (node, of) in nodes.iter().enumerate() {
        match of {
            Node::Branch { column, then, other, .. } => {
                if let Some(&child) = [then, other].into_iter().find(|child| **child as usize >= nodes.len()) {
                    return Err(ForestError::Child { tree, node, child, nodes: nodes.len() });
                }
                if *column as usize >= forest.columns {
                    return Err(ForestError::Column { tree, node, column: *column, columns: forest.columns });
                }
            }
            // Where there is one target, nobody reads which.
            Node::Leaf { .. } if forest.targets == 1 => {}
            Node::Leaf { weights } => {
                if let Some(&(target, _)) = weights.iter().find(|(target, _)| *target as usize >= forest.targets) {
                    return Err(ForestError::Target { tree, node, target, targets: forest.targets });
                }
            }
        }
    }
    Ok(())
}

/// A node that can be reached from itself and from the root.
fn cycle(tree: &Tree) -> Option<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Seen {
        Not,
        Above,
        Done,
    }
    let mut seen = vec![Seen::Not; tree.nodes.len()];
    // A node is on the path while it is `Above`: it is met a second time when all below it is done.
    let mut path = vec![0u32];
    while let Some(&node) = path.last() {
        let at = node as usize;
        if seen[at] != Seen::Not {
            seen[at] = Seen::Done;
            path.pop();
            continue;
        }
        seen[at] = Seen::Above;
        if let Node::Branch { then, other, .. } = &tree.nodes[at] {
            for child in [*other, *then] {
                match seen[child as usize] {
                    Seen::Above => return Some(child as usize),
                    Seen::Not => path.push(child),
                    Seen::Done => {}
                }
            }
        }
    }
    None
}
