//! What becomes of versions and of what is said of them?

use super::*;

#[test]
fn the_same_bytes_are_the_same_version() {
    let mut world = World::new();
    assert_eq!(world.push(&dana(), content(1)), 1);
    assert_eq!(world.push(&dana(), content(2)), 2);
    let again = Content { description: "Something else.".into(), ..content(1) };
    let again = Wants::Push(Push { model: "risk".into(), content: Box::new(again), number_min: 0 });
    let decided = world.order(&ann(), again.into()).expect("it is answered");
    assert!(decided.facts.is_empty());
    assert_eq!(decided.outcome, Outcome::Version { model: "risk".into(), version: 1, is_new: false });
    assert_eq!(world.book.version("risk", 1).expect("it is there").description, "Scores applications.");
    let model = world.book.model("risk").expect("it was made with its first version");
    assert_eq!((model.owner.as_str(), model.versions.len()), ("dana", 2));
    // Another model may have them, too.
    let other = Wants::Push(Push { model: "fraud".into(), content: Box::new(content(1)), number_min: 0 });
    assert_eq!(world.does(&dana(), other), Outcome::Version { model: "fraud".into(), version: 1, is_new: true });
}

#[test]
fn numbers_may_have_gaps_and_never_fall() {
    let mut world = World::new();
    let push =
        |byte, number_min| Wants::Push(Push { model: "risk".into(), content: Box::new(content(byte)), number_min });
    let mut number = |byte, number_min| match world.does(&dana(), push(byte, number_min)) {
        Outcome::Version { version, .. } => version,
        other => panic!("{other:?}"),
    };
    assert_eq!([number(1, 0), number(2, 7), number(3, 0), number(4, 2)], [1, 7, 8, 9]);
    let text = world.book.resolve("risk@2").expect_err("nobody has it").to_string();
    assert!(text.contains("risk@2 is not on record: the versions of risk go up to 9"), "{text}");
    assert_eq!(world.book.resolve("risk@7").expect("it is there").artifact, digest(2));
    let refusal = world.refusal(&dana(), push(5, u64::MAX));
    assert!(refusal.message.contains("cannot follow version 9: expected 10 to 9007199254740991"), "{refusal}");
    // The number is the server's to find, and no part of what was ordered.
    let order = |number_min| Order { key: Some("k".into()), wants: push(6, number_min) };
    let first = world.order(&dana(), order(0)).expect("it is done");
    let again = world.order(&dana(), order(20)).expect("it is answered");
    assert_eq!((again.is_repeat, again.outcome), (true, first.outcome));
}

#[test]
fn names_lead_to_versions() {
    let mut world = World::new();
    for byte in 1..=3 {
        world.push(&dana(), content(byte));
    }
    let alias = |version| Wants::Alias(Aliased { model: "risk".into(), alias: "champion".into(), version });
    world.does(&dana(), alias(Some(2)));
    let promote = world.promote(1, "prod");
    world.does(&dana(), promote);
    world.does(&dana(), state(3, VersionState::Archived, ""));
    let check = |world: &World, text: &str, number: u64| {
        assert_eq!(world.book.resolve(text).map(|version| version.number), Ok(number), "{text}");
    };
    for (text, number) in [("risk", 2), ("risk@latest", 2), ("risk@3", 3), ("risk@prod", 1), ("risk@champion", 2)] {
        check(&world, text, number);
    }
    check(&world, "risk@team=fraud", 2);
    check(&world, "risk@sha256:0303", 3);
    let wrong = |text: &str, expected: &str| {
        let message = world.book.resolve(text).expect_err(text).to_string();
        assert!(message.contains(expected), "{message}");
    };
    wrong("rsk", "no model \"rsk\" is on record: did you mean \"risk\"?");
    wrong("risk@4", "the versions of risk go up to 3");
    wrong("risk@0", "the versions of risk go up to 3");
    wrong("risk@staging", "staging has no version of risk");
    wrong("risk@champoin", "did you mean \"champion\"?");
    wrong("risk@sha256:01", "expected 4 digits");
    wrong("risk@sha256:ffff", "no artifact's digest begins so");
    wrong("risk@team=x", "no version that is ready has the tag team=x");
    world.does(&dana(), alias(Some(1)));
    check(&world, "risk@champion", 1);
    world.does(&dana(), alias(None));
    assert!(world.book.resolve("risk@champion").is_err());
}

#[test]
fn what_is_searched_for_is_found() {
    let mut world = World::new();
    for (byte, value) in [(1, 0.75), (2, 0.8), (3, 0.85)] {
        world.push(&dana(), Content { metrics: vec![auc(value)], ..content(byte) });
    }
    world.does(&dana(), state(2, VersionState::Archived, ""));
    let set = [("stage".to_owned(), "blue".to_owned())].into();
    let tagged = Tagged { model: "risk".into(), version: Some(1), set, unset: vec!["team".into()] };
    world.does(&dana(), Wants::Tags(tagged));
    let check = |text: &str, expected: &[u64]| {
        let search = Search::read(text).expect(text);
        let found: Vec<_> = world.book.search(&search).map(|version| version.number).collect();
        assert_eq!(found, expected, "{text}");
    };
    check("", &[3, 2, 1]);
    check("model=risk state=ready", &[3, 1]);
    check("auc>=0.8", &[3, 2]);
    check("auc<=0.8 state=archived", &[2]);
    check("stage=blue", &[1]);
    check("team=fraud stage=blue", &[]);
    assert!(Search::read("auc>=x").is_err_and(|refusal| refusal.to_string().contains("expected such as model=risk")));
}

#[test]
fn quarantine_is_left_by_an_admin_with_a_reason() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let check = |world: &mut World, by: &Principal, wants: Wants, expected: &str| {
        let text = world.refusal(by, wants).to_string();
        assert!(text.contains(expected), "{text}");
    };
    check(&mut world, &dana(), state(1, VersionState::Quarantined, " "), "is to be quarantined: expected a reason");
    world.does(&dana(), state(1, VersionState::Archived, ""));
    check(
        &mut world,
        &dana(),
        state(1, VersionState::Ready, "back"),
        "is for an admin, and dana has the role deployer",
    );
    check(&mut world, &admin(), state(1, VersionState::Ready, "back"), "what is archived does not come back");
    world.does(&dana(), state(1, VersionState::Quarantined, "a pickle in its data"));
    check(&mut world, &admin(), state(1, VersionState::Ready, ""), "is to leave quarantine: expected a reason");
    check(&mut world, &admin(), state(1, VersionState::Archived, "x"), "expected its release by an admin first");
    world.does(&admin(), state(1, VersionState::Ready, "scanned"));
    // It was archived before.
    assert_eq!(world.book.version("risk", 1).expect("it is there").state, VersionState::Archived);
    check(&mut world, &dana(), state(1, VersionState::Archived, ""), "it is so already");
}

#[test]
fn what_is_in_an_environment_is_not_archived() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let promote = world.promote(1, "staging");
    world.does(&dana(), promote);
    let refusal = world.refusal(&dana(), state(1, VersionState::Archived, ""));
    assert_eq!(refusal.message, "risk@1 is in staging: expected another version there before it is archived");
}

#[test]
fn the_same_key_is_done_once() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let ask = |id: &str, reason: &str| {
        let wants =
            Ask { id: id.into(), model: "risk".into(), version: 1, environment: "prod".into(), reason: reason.into() };
        Order { key: Some("k1".into()), wants: Wants::Request(wants) }
    };
    let first = world.order(&dana(), ask("a", "now")).expect("it is done");
    assert_eq!((first.facts.len(), first.is_repeat), (1, false));
    let second = world.order(&dana(), ask("b", "now")).expect("it is answered");
    assert_eq!((second.facts.len(), second.is_repeat, second.outcome), (0, true, first.outcome));
    let other = world.order(&dana(), ask("c", "later")).expect_err("it is another order");
    assert!(other.to_string().contains("the key \"k1\" was that of another order"), "{other}");
    // Somebody else's key is another key, and finds the request there.
    let theirs = world.order(&ann(), ask("d", "now")).expect_err("there is a request");
    assert!(theirs.to_string().contains("approve, reject or withdraw a"), "{theirs}");
}

#[test]
fn orders_are_read_from_json_to_the_bit() {
    let text = r#"{"key":"k","wants":{"measure":{"model":"risk","version":1,"metrics":[{"key":{"dataset":"d","metric":"m"},
        "value":0.12345678901234567,"interval":[1e-300,2.2250738585072014e-308]}]}}}"#;
    let order: Order = serde_json::from_str(text).expect("it is read");
    let Wants::Measure(told) = &order.wants else { panic!("{order:?}") };
    let bits = |number: f64| number.to_bits();
    assert_eq!(bits(told.metrics[0].value), bits("0.12345678901234567".parse().expect("a number")));
    let again = serde_json::to_string(&order).expect("it is written");
    assert_eq!(serde_json::from_str::<Order>(&again).expect("it is read"), order);
    let wrong = serde_json::from_str::<Order>(r#"{"wants":{"measur":{}}}"#).expect_err("no such order").to_string();
    assert!(wrong.contains("unknown variant `measur`"), "{wrong}");
}

/// The page's example is what people begin with.
#[test]
fn the_policy_of_the_page_is_read_and_fits() {
    let page = include_str!("../../../../docs/registry.md");
    let example = page.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let policy: Policy = toml::from_str(example).expect("it is a policy");
    assert_eq!((policy.rollout, policy.metrics.len(), policy.freeze.len()), (Way::Canary, 1, 2));
    let mut world = World::new();
    world.rule("prod", policy.clone());
    assert_eq!(world.book.environment("prod").expect("it is there").policy, policy);
    let wrong = toml::from_str::<Policy>("golden = 1").expect_err("no such key").to_string();
    assert!(wrong.contains("unknown field `golden`"), "{wrong}");
}

/// Whoever reads the page finds each kind that there is.
#[test]
fn the_page_names_every_kind() {
    let page = include_str!("../../../../docs/registry.md");
    let missing: Vec<_> = Says::KINDS.iter().filter(|kind| !page.contains(&format!("`{kind}`"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn what_is_out_of_bounds_is_refused() {
    let mut world = World::new();
    world.push(&dana(), content(1));
    let mut check = |wants: Wants, expected: &str| {
        let text = world.refusal(&dana(), wants).to_string();
        assert!(text.contains(expected), "{text}");
    };
    let push = |model: &str, change: &dyn Fn(&mut Content)| {
        let mut content = content(9);
        change(&mut content);
        Wants::Push(Push { model: model.into(), content: Box::new(content), number_min: 0 })
    };
    check(push("a/b", &|_| ()), "\"a/b\" cannot be the name of model: it has '/'");
    check(push("", &|_| ()), "it is empty");
    check(push(".x", &|_| ()), "begins or ends with what is misread");
    check(push("risk", &|content| content.files.clear()), "a version without files");
    check(push("risk", &|content| content.files[0].path = "../x".into()), "expected a plain relative path");
    check(push("risk", &|content| content.files[0].path = "model.onnx".into()), "expected each path once");
    check(
        push("risk", &|content| content.description = "x".repeat(5_000)),
        "description has 5000 bytes: expected at most 4096",
    );
    check(push("risk", &|content| content.metrics = vec![auc(f64::NAN)]), "auc on holdout is not a finite number");
    check(push("risk", &|content| content.metrics = vec![auc(0.1), auc(0.2)]), "is told twice");
    check(
        push("risk", &|content| content.signature = (0..40).fold(json!(0), |inner, _| json!([inner]))),
        "nested deeper than 32",
    );
    let parent =
        |model: &str, version| Lineage { parent: Some(Parent { model: model.into(), version }), ..Lineage::default() };
    check(push("risk", &|content| content.lineage = parent("risk", 2)), "cannot be the parent of risk@2");
    let told = LineageTold { model: "risk".into(), version: 1, lineage: parent("risk", 1) };
    check(Wants::Lineage(told), "expected a version that was pushed before");
    let alias = |alias: &str| Wants::Alias(Aliased { model: "risk".into(), alias: alias.into(), version: Some(1) });
    check(alias("prod"), "\"prod\" cannot be an alias: risk@prod means something else");
    check(alias("7"), "cannot be an alias");
    let tags = (0..300).map(|n| (n.to_string(), String::new())).collect();
    check(
        Wants::Tags(Tagged { model: "risk".into(), version: Some(1), set: tags, unset: Vec::new() }),
        "expected at most 256",
    );
}
