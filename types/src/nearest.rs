//! Which known name did somebody probably mean?

/// The candidate with the fewest edits from `name`, if these are few for its length: for messages about unknown names.
pub fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Longer names are noise, and the distance's cost grows with the product of the lengths.
    if name.len() > 64 {
        return None;
    }
    let edits_max = (name.chars().count() / 3).max(2);
    let rated = candidates.into_iter().map(|candidate| (edits(name, candidate), candidate));
    rated.filter(|(edits, _)| *edits <= edits_max).min_by_key(|(edits, _)| *edits).map(|(_, candidate)| candidate)
}

/// How many letters must be inserted, removed or replaced to make `b` of `a`.
fn edits(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_letter) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, b_letter) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(a_letter != *b_letter);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
