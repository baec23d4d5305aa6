//! Is the tree that of RFC 9162, whatever its size?

use super::*;

/// Those of the tests of RFC 6962 that certificate transparency's programs share: eight leaves and the roots of 1 to 8.
const LEAVES: [&[u8]; 8] = [
    b"",
    b"\x00",
    b"\x10",
    b"\x20\x21",
    b"\x30\x31",
    b"\x40\x41\x42\x43",
    b"\x50\x51\x52\x53\x54\x55\x56\x57",
    b"\x60\x61\x62\x63\x64\x65\x66\x67\x68\x69\x6a\x6b\x6c\x6d\x6e\x6f",
];

const ROOTS: [&str; 8] = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
];

fn leaves(count: u64) -> Vec<Digest> {
    (0..count).map(|n| leaf(&n.to_be_bytes())).collect()
}

fn root(leaves: &[Digest]) -> Digest {
    let mut frontier = Frontier::default();
    leaves.iter().for_each(|&leaf| frontier.push(leaf));
    frontier.root()
}

fn seen(mut roots: Roots, leaves: &[Digest]) -> Vec<Digest> {
    assert!(leaves.len() as u64 >= roots.size());
    leaves.iter().enumerate().for_each(|(index, &leaf)| roots.see(index as u64, leaf));
    roots.finish()
}

#[test]
fn roots_are_those_of_certificate_transparency() {
    let mut frontier = Frontier::default();
    assert_eq!(frontier.root().to_string(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    for (bytes, expected) in LEAVES.iter().zip(ROOTS) {
        frontier.push(leaf(bytes));
        assert_eq!(frontier.root().to_string(), expected, "{} leaves", frontier.size());
    }
}

#[test]
fn every_leaf_of_every_tree_is_proved_and_no_other() {
    for size in 1..=40u64 {
        let all = leaves(size);
        let expected = root(&all);
        for index in 0..size {
            let path = seen(Roots::inclusion(index, size), &all);
            let at = |index, leaf, path: &[Digest]| root_by_inclusion(leaf, index, size, path);
            let own = all[index as usize];
            assert_eq!(at(index, own, &path), Some(expected), "leaf {index} of {size}");
            assert_ne!(at(index, leaf(b"another"), &path), Some(expected));
            for other in (0..size).filter(|&other| other != index) {
                assert_ne!(at(other, own, &path), Some(expected), "leaf {index} of {size} as {other}");
            }
            let longer: Vec<_> = path.iter().copied().chain([own]).collect();
            assert_ne!(at(index, own, &longer), Some(expected));
            assert!(path.is_empty() || at(index, own, &path[1..]) != Some(expected));
        }
        assert_eq!(root_by_inclusion(all[0], size, size, &[]), None);
    }
}

#[test]
fn every_earlier_tree_is_a_beginning_and_no_other() {
    for new in 1..=40u64 {
        let all = leaves(new);
        let after = (new, root(&all));
        for old in 1..=new {
            let before = (old, root(&all[..old as usize]));
            let path = seen(Roots::consistency(old, new), &all);
            assert!(is_beginning(before, after, &path), "{old} of {new}");
            assert!(!is_beginning((old, leaf(b"another")), after, &path), "{old} of {new}");
            assert!(!is_beginning(before, (new, leaf(b"another")), &path), "{old} of {new}");
            for at in 0..path.len() {
                let mut changed = path.clone();
                changed[at] = leaf(b"another");
                assert!(!is_beginning(before, after, &changed), "{old} of {new}, step {at}");
                changed.remove(at);
                assert!(!is_beginning(before, after, &changed), "{old} of {new} without step {at}");
            }
        }
        assert!(!is_beginning(after, (new - 1, root(&all[1..])), &[]), "none begins with a larger one");
    }
    assert!(is_beginning((0, root(&[])), (3, root(&leaves(3))), &[]));
    assert!(!is_beginning((0, leaf(b"another")), (3, root(&leaves(3))), &[]));
}

#[test]
fn a_part_and_what_surrounds_it_make_the_tree() {
    for size in 1..=24u64 {
        let all = leaves(size);
        let expected = root(&all);
        for from in 0..size {
            for to in from + 1..=size {
                let around = seen(Roots::beside(&(from..to), size), &all);
                let (left, right) = around.split_at(from.count_ones() as usize);
                let mut frontier = Frontier::of(from, left.to_vec()).expect("as many as there must be");
                assert_eq!(frontier.root(), root(&all[..from as usize]), "what is left of {from} is a tree");
                all[from as usize..to as usize].iter().for_each(|&leaf| frontier.push(leaf));
                assert_eq!(root_by_rest(&frontier, size, right), Some(expected), "{from}..{to} of {size}");
                let longer: Vec<_> = right.iter().copied().chain([expected]).collect();
                assert_eq!(root_by_rest(&frontier, size, &longer), None);
                assert!(right.is_empty() || root_by_rest(&frontier, size, &right[1..]).is_none());
            }
        }
    }
}
