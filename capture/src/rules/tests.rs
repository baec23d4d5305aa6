//! Does nothing get through that the rules do not let through?

use proptest::prelude::*;

use super::*;

fn layout() -> Layout {
    let columns = Form::Columns(["age", "income", "name"].map(String::from).to_vec());
    Layout {
        inputs: vec![
            Field { name: "features".into(), dtype: DataType::Fp32, axes: 2, form: columns.clone() },
            Field { name: "text".into(), dtype: DataType::Bytes, axes: 1, form: Form::One },
        ],
        outputs: vec![Field { name: "score".into(), dtype: DataType::Fp64, axes: 1, form: Form::One }],
        ..Layout::default()
    }
}

fn rules(columns: Option<&[&str]>, actions: &[(&str, Action)]) -> Rules {
    Rules {
        columns: columns.map(|columns| columns.iter().map(|name| (*name).to_owned()).collect()),
        actions: actions.iter().map(|(name, action)| ((*name).to_owned(), *action)).collect(),
        key: Some([3; 32]),
        ..Rules::default()
    }
}

/// What is left of two rows, a line for each tensor.
#[track_caller]
fn check(rules: &Rules, expected: &[&str]) {
    let selection = rules.select(&layout()).expect("they fit");
    let features = Tensor::from_slice([2, 3], &[1f32, 2., 3., 4., 5., 6.]).expect("six");
    let text = Tensor::strings(Shape::from([2]), vec!["ann".into(), "bob".into()]).expect("two");
    let score = Tensor::from_slice([2], &[0.5f64, 0.25]).expect("two");
    let inputs =
        selection.inputs(&[Value::of("features", &features), Value::of("text", &text), Value::of("else", &text)]);
    let outputs = selection.outputs(&[Value::of("score", &score)]);
    let layout = selection.layout();
    let told = inputs.iter().chain(&outputs).zip(layout.inputs.iter().chain(&layout.outputs)).map(|(value, field)| {
        assert_eq!((&*value.name, value.tensor.dtype()), (field.name.as_str(), field.dtype));
        let elements = match value.tensor.data() {
            TensorData::Strings(strings) => {
                strings.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
            }
            TensorData::Fixed(_) if field.dtype == DataType::Fp64 => {
                value.tensor.to_vec::<f64>().expect("numbers").iter().map(f64::to_string).collect()
            }
            TensorData::Fixed(_) => {
                value.tensor.to_vec::<f32>().expect("numbers").iter().map(f32::to_string).collect::<Vec<_>>()
            }
        };
        format!("{} {:?} {}", value.name, field.form, elements.join(" "))
    });
    assert_eq!(told.collect::<Vec<_>>(), expected);
    assert_eq!(inputs.len() + outputs.len(), layout.inputs.len() + layout.outputs.len());
}

#[test]
fn rules_leave_what_they_allow() {
    const ALL: &str = "features Columns([\"age\", \"income\", \"name\"]) 1 2 3 4 5 6";
    check(&rules(None, &[]), &[ALL, "text One ann bob", "score One 0.5 0.25"]);
    check(&rules(Some(&["output_score"]), &[]), &["score One 0.5 0.25"]);
    check(&rules(Some(&[]), &[]), &[]);
    check(&rules(Some(&["input_name", "input_age"]), &[]), &["features Columns([\"age\", \"name\"]) 1 3 4 6"]);
    check(
        &rules(None, &[("input_income", Action::Drop), ("input_text", Action::Redact), ("output_score", Action::Drop)]),
        &["features Columns([\"age\", \"name\"]) 1 3 4 6", "text One [redacted] [redacted]"],
    );
}

/// The digits are those of another program: `hmac.new(bytes([3] * 32), b"ann", "sha256").hexdigest()[:32]`.
#[test]
fn hashes_are_keyed() {
    let all = rules(Some(&["input_age", "input_text"]), &[("input_age", Action::Hash), ("input_text", Action::Hash)]);
    check(
        &all,
        &[
            "features/age Columns([\"age\"]) 693e734164d5fbb77b7d3495ab159a0d fe09b9d72626338a5778d66f7bf5e5c5",
            "text One 2c2345600e4b347ea1c500cc8c3d99d1 82dc7e5fdc9d9eef14aa76b766a6b7e1",
        ],
    );
    let other = Rules { key: Some([4; 32]), ..all.clone() };
    let text = Tensor::strings(Shape::from([1]), vec!["ann".into()]).expect("one");
    let hashed =
        |rules: &Rules| rules.select(&layout()).expect("they fit").inputs(&[Value::of("text", &text)])[0].clone();
    assert_ne!(hashed(&all), hashed(&other));
}

#[test]
fn rules_that_do_not_fit_are_refused() {
    #[track_caller]
    fn check(rules: &Rules, expected: &str) {
        assert_eq!(rules.select(&layout()).expect_err(expected).to_string(), expected);
    }
    check(&rules(Some(&["input_aeg"]), &[]), "there is no column \"input_aeg\"; did you mean \"input_age\"?");
    check(&rules(None, &[("zip", Action::Drop)]), "there is no column \"zip\"");
    check(
        &rules(None, &[("input_age", Action::Redact)]),
        "column \"input_age\" holds numbers, which cannot be redacted: expected \"drop\" or \"hash\"",
    );
    let keyless = Rules { key: None, ..rules(None, &[("input_text", Action::Hash)]) };
    check(&keyless, "column \"input_text\" is to be hashed, and no key is given");
    check(
        &rules(Some(&["input_age"]), &[("input_text", Action::Hash)]),
        "column \"input_text\" has an action but is not among the columns that are captured: expected it there too",
    );
}

proptest! {
    /// A tensor that is not what the layout says gives nothing away.
    #[test]
    fn what_does_not_fit_is_left_out(rows in 0usize..4, width in 0usize..6) {
        let rules = rules(Some(&["input_age"]), &[]);
        let tensor = Tensor::from_slice([rows, width], &vec![1f32; rows * width]).expect("as many as the shape says");
        let left = rules.select(&layout()).expect("they fit").inputs(&[Value::of("features", &tensor)]);
        prop_assert_eq!(left.len(), usize::from(width == 3));
        prop_assert!(left.iter().all(|value| value.tensor.elements() == rows));
    }
}

#[test]
fn samples_hang_on_the_id_alone() {
    let select =
        |sample_per_million| Rules { sample_per_million, ..Rules::default() }.select(&layout()).expect("they fit");
    let (tenth, half) = (select(100_000), select(500_000));
    let ids = || (0..20_000u128).map(RequestId::from_bits);
    let drawn = ids().filter(|id| tenth.draws(*id)).count();
    assert!((1800..2200).contains(&drawn), "{drawn} of 20,000");
    assert!(ids().filter(|id| tenth.draws(*id)).all(|id| half.draws(id)), "a smaller sample is part of a larger one");
    assert!(ids().all(|id| select(1_000_000).draws(id) && !select(0).draws(id)));
    // The same on every node, for ever.
    assert_eq!(ids().take(20).map(|id| u32::from(half.draws(id))).fold(0, |bits, bit| bits << 1 | bit), SAMPLE);
}

/// Found by another program.
const SAMPLE: u32 = 0b00000110101100111101;
