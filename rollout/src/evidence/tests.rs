//! Is evidence the same whoever counted it, and in whatever order it is put together?

use proptest::prelude::*;

use super::*;

fn outcomes() -> impl Strategy<Value = Outcomes> {
    prop::collection::vec((-1e6f64..1e6, -1.0f64..1.0), 0..4).prop_map(|values| {
        let mut outcomes = Outcomes::default();
        values.into_iter().for_each(|(y, z)| outcomes.add(y, z));
        outcomes
    })
}

fn labels() -> impl Strategy<Value = Labels> {
    let matured = prop::collection::btree_map(1u32..4, (outcomes(), outcomes(), 0u64..9), 0..3);
    (matured, prop::collection::vec(0.0f64..1.0, 0..4), any::<bool>()).prop_map(|(matured, paired, is_binary)| {
        let mut moments = Moments::default();
        paired.into_iter().for_each(|x| moments.add(x));
        let matured = matured.into_iter().rev();
        let matured =
            matured.map(|(share, (a, b, n))| Matured { share: Share::of(share), outcomes: [a, b], arrived: [n, 1] });
        let mut matured: Vec<_> = matured.collect();
        matured.sort_by_key(|matured| matured.share);
        Labels { matured, paired: moments, discordant: [1, 2], is_binary }
    })
}

fn blocks() -> impl Strategy<Value = Block> {
    let keys = || prop::collection::btree_set(0u64..30, 0..9).prop_map(|keys| keys.into_iter().collect::<Vec<_>>());
    let counts = || (0u64..1_000, 0u64..1_000).prop_map(|(a, b)| [a, b]);
    (counts(), keys(), keys(), counts(), prop::option::of(labels()), 0u64..9).prop_map(
        |(units, champions, challengers, events, labels, dropped)| {
            let mut block = Block::new(7, dropped, Share::of(50_000));
            block.units = units;
            block.pairs.dropped = dropped;
            block.events.insert("errors".into(), Events::Firsts { of: units, keys: [champions, challengers] });
            block.events.insert("slow".into(), Events::Every { of: units, events });
            block.bins.insert("score".into(), vec![events, units]);
            block.labels.extend(labels.map(|labels| ("label".to_owned(), labels)));
            block
        },
    )
}

proptest! {
    #[test]
    fn replicas_merge_in_any_order_to_the_bit(a in blocks(), b in blocks(), c in blocks()) {
        let merge = |x: &Block, y: &Block| x.clone().merge(y.clone()).expect("they are of one stretch");
        prop_assert_eq!(merge(&a, &b), merge(&b, &a));
        prop_assert_eq!(merge(&merge(&a, &b), &c), merge(&a, &merge(&b, &c)));
        prop_assert!(merge(&a, &b).validate().is_ok());
    }

    #[test]
    fn a_block_survives_its_record_to_the_bit(block in blocks()) {
        let text = serde_json::to_string(&block).expect("it is JSON");
        prop_assert_eq!(serde_json::from_str::<Block>(&text).expect("it is a block"), block);
    }

    /// Which keys are held does not depend on the order in which they came.
    #[test]
    fn seen_keys_are_the_same_in_any_order(keys in prop::collection::vec(any::<u64>(), 0..300), swaps in any::<u64>()) {
        let mut shuffled = keys.clone();
        shuffled.sort_by_key(|key| key.wrapping_mul(swaps | 1));
        let see = |keys: &[u64]| {
            let mut seen = Seen::new(20);
            keys.iter().for_each(|&key| { seen.is_first(key); });
            seen.0
        };
        prop_assert!(see(&keys) == see(&shuffled));
    }
}

#[test]
fn a_key_counts_once_and_memory_has_a_bound() {
    let mut seen = Seen::new(100);
    assert!(seen.is_first(5) && !seen.is_first(5));
    assert_eq!(seen.sampling(), 1.0);
    let spread = |key: u64| key.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    let counted = (0..10_000u64).filter(|&key| seen.is_first(spread(key))).count();
    assert!(seen.0.len() <= 100 && counted >= 100, "{} held, {counted} counted", seen.0.len());
    assert_eq!(seen.sampling(), 1.0 / 256.0);
}

#[test]
fn blocks_that_do_not_belong_together_are_refused() {
    let block = Block::new(1, 0, Share::of(10));
    let message = |other: Block| block.clone().merge(other).map_err(|error| error.message().to_owned());
    assert!(message(Block::new(2, 0, Share::of(10))).is_err_and(|text| text.contains("not of one stretch")));
    assert!(message(Block::new(1, 0, Share::of(11))).is_err_and(|text| text.contains("not of one stretch")));
    let with = |events| Block { events: [("errors".to_owned(), events)].into(), ..block.clone() };
    let every = with(Events::Every { of: [1, 1], events: [0, 0] });
    let firsts = with(Events::Firsts { of: [1, 1], keys: [vec![2, 1], vec![]] });
    assert!(
        every.merge(firsts.clone()).is_err_and(|error| error.message().contains("errors is not counted the same way"))
    );
    assert!(firsts.validate().is_err(), "keys that are not sorted");
}

#[test]
fn sums_are_exact_where_floats_are_not() {
    let mut moments = Moments::default();
    (0..10).for_each(|_| moments.add(0.5));
    moments.add(1e15);
    moments.add(-1e15);
    assert_eq!((moments.n, moments.x.value()), (12, 5.0));
    assert!(serde_json::from_str::<Sum>("\"1.5\"").is_err());
}
