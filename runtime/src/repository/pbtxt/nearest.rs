//! Which known name did somebody probably mean?

/// The candidate that is the fewest edits away from `name`; `None` if even that is another word.
pub(super) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // No known name is nearly as long, and the cost grows with the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    let (edits, candidate) = candidates.map(|candidate| (edits(name, candidate), candidate)).min()?;
    (edits <= (name.len() / 3).max(2)).then_some(candidate)
}

/// The number of bytes to insert, remove or replace between two names, which are ASCII.
fn edits(from: &str, to: &str) -> usize {
    let mut costs: Vec<usize> = (0..=to.len()).collect();
    for (done, &letter) in from.as_bytes().iter().enumerate() {
        let mut before = costs[0];
        costs[0] = done + 1;
        for (column, &other) in to.as_bytes().iter().enumerate() {
            let replace = before + usize::from(letter != other);
            before = costs[column + 1];
            costs[column + 1] = replace.min(before + 1).min(costs[column] + 1);
        }
    }
    costs[to.len()]
}
