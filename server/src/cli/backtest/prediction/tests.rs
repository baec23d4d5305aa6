//! Is the right output read, in the words of its label?

use tiltyard_types::Dim;

use super::*;

const CLASSES: Loss = Loss::ZeroOne { threshold: None };

fn signature(outputs: &[(&str, DataType, Option<usize>)]) -> Signature {
    let spec = |&(name, dtype, width): &(&str, DataType, Option<usize>)| {
        let dims = [Some(Dim::Dynamic(Some("batch".into()))), width.map(Dim::Fixed)].into_iter().flatten().collect();
        TensorSpec { name: name.into(), dtype, dims: Some(dims), optional: false }
    };
    Signature { inputs: Vec::new(), outputs: outputs.iter().map(spec).collect() }
}

fn prediction(loss: Loss, names: &[&str]) -> Prediction {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    Prediction { output: "y".into(), position: 0, names, loss }
}

#[test]
fn the_output_that_can_be_meant_is_found() {
    use DataType::{Bytes, Fp32, Int64};
    let check = |outputs: &[(&str, DataType, Option<usize>)], loss, wanted, expected: &str| {
        let found = Prediction::find(&signature(outputs), |_| Vec::new(), loss, wanted);
        let found = found.map_or_else(|error| error, |prediction| prediction.output);
        assert!(found.contains(expected), "{found}, expected {expected}");
    };
    let risk = [("probability", Fp32, None), ("label", Int64, None)];
    let threshold = Loss::ZeroOne { threshold: Some(0.3) };
    let squared = Loss::Squared { scale: 1.0 };
    check(&risk, CLASSES, None, "label");
    check(&risk, threshold, None, "probability");
    check(&risk, squared, None, "probability");
    check(&risk, CLASSES, Some("probability"), "probability");
    check(&risk, CLASSES, Some("score"), "no output is called \"score\"; there are");
    check(&[("label", Bytes, None), ("scores", Fp32, Some(3))], CLASSES, None, "label");
    check(&[("label", Bytes, None), ("scores", Fp32, Some(3))], squared, None, "name it with --prediction");
    check(&[("a", Fp32, None), ("b", Fp32, None)], CLASSES, None, "name it with --prediction; there are");
    check(&[("scores", Fp32, Some(24))], CLASSES, None, "scores");
    check(&[("word", Bytes, None)], squared, None, "is text");
}

#[test]
fn rows_say_classes_names_or_numbers() {
    let scores = Tensor::from_slice([2, 3], &[0.1f32, 0.7, 0.7, f32::NAN, 0.0, 1.0]).unwrap();
    assert_eq!(
        prediction(CLASSES, &[]).read(&scores, 2).unwrap(),
        [Said::Class(1), Said::Nothing],
        "the first of equals"
    );
    let lone = Tensor::from_slice([4, 1], &[0.5f32, 0.500_1, 0.0, f32::INFINITY]).unwrap();
    let classes = [0, 1, 0, 1].map(Said::Class);
    assert_eq!(prediction(CLASSES, &[]).read(&lone, 4).unwrap(), classes, "at the threshold it is not above it");
    let low = Loss::ZeroOne { threshold: Some(0.0) };
    assert_eq!(prediction(low, &[]).read(&lone, 4).unwrap(), [1, 1, 0, 1].map(Said::Class));
    let squared = prediction(Loss::Squared { scale: 1.0 }, &[]);
    let said = squared.read(&lone, 4).unwrap();
    assert_eq!((&said[0], &said[3]), (&Said::Number(0.5), &Said::Nothing));
    let whole = Tensor::from_slice([2], &[3i64, -1]).unwrap();
    assert_eq!(prediction(CLASSES, &[]).read(&whole, 2).unwrap(), [Said::Class(3), Said::Class(-1)]);
    let words = Tensor::strings([1].into(), vec![bytes::Bytes::from_static(b"cat")]).unwrap();
    assert_eq!(prediction(CLASSES, &[]).read(&words, 1).unwrap(), [Said::Name("cat".into())]);
    assert!(squared.read(&scores, 2).unwrap_err().contains("3 values for each row"));
    assert!(squared.read(&lone, 3).unwrap_err().contains("not a row for each of 3"));
}

#[test]
fn labels_are_read_in_the_words_of_the_prediction() {
    let check = |names: &[&str], text: &str, said: &Said, expected: Result<Said, &str>| {
        let found = prediction(CLASSES, names).read_label(text, said);
        match expected {
            Ok(expected) => assert_eq!(found, Ok(expected), "{text}"),
            Err(expected) => assert!(found.clone().is_err_and(|error| error.contains(expected)), "{text}: {found:?}"),
        }
    };
    let class = Said::Class(0);
    check(&[], "1", &class, Ok(Said::Class(1)));
    check(&[], " 1.0 ", &class, Ok(Said::Class(1)));
    check(&[], "True", &class, Ok(Said::Class(1)));
    check(&[], "false", &class, Ok(Said::Class(0)));
    check(&[], "1.5", &class, Err("expected a class's number"));
    check(&[], "yes", &class, Err("the label is \"yes\""));
    check(&["no", "yes"], "yes", &class, Ok(Said::Class(1)));
    check(&["no", "yes"], "0", &class, Ok(Said::Class(0)));
    check(&["no", "yes"], "perhaps", &class, Err("or one of no, yes"));
    check(&[], "1", &Said::Name("1".into()), Ok(Said::Name("1".into())));
    let numbers = prediction(Loss::Absolute { scale: 2.0 }, &[]);
    assert_eq!(numbers.read_label("1e3", &Said::Nothing), Ok(Said::Number(1_000.0)));
    assert_eq!(numbers.read_label("true", &Said::Nothing), Ok(Said::Number(1.0)));
    assert!(numbers.read_label("inf", &Said::Nothing).is_err());
}

#[test]
fn losses_are_from_nothing_to_one() {
    let [class, absolute, squared] =
        [CLASSES, Loss::Absolute { scale: 4.0 }, Loss::Squared { scale: 4.0 }].map(|loss| prediction(loss, &[]));
    assert_eq!(class.loss(&Said::Class(1), &Said::Class(1)), 0.0);
    assert_eq!(class.loss(&Said::Class(1), &Said::Class(0)), 1.0);
    assert_eq!(class.loss(&Said::Nothing, &Said::Class(0)), 1.0);
    let number = Said::Number;
    assert_eq!(absolute.loss(&number(1.0), &number(3.0)), 0.5);
    assert_eq!(absolute.loss(&number(1.0), &number(30.0)), 1.0);
    assert_eq!(squared.loss(&number(1.0), &number(3.0)), 0.25);
    assert_eq!(squared.loss(&Said::Nothing, &number(3.0)), 1.0);
}

#[test]
fn versions_agree_by_what_they_mean() {
    let (named, plain) = (prediction(CLASSES, &["no", "yes"]), prediction(CLASSES, &[]));
    assert_eq!(named.distance(&Said::Class(1), &plain, &Said::Name("yes".into())), 0.0);
    assert_eq!(named.distance(&Said::Class(1), &named, &Said::Class(0)), 1.0);
    assert_eq!(plain.distance(&Said::Class(1), &plain, &Said::Nothing), 1.0);
    assert_eq!(plain.distance(&Said::Nothing, &plain, &Said::Nothing), 0.0);
    let numbers = prediction(Loss::Absolute { scale: 4.0 }, &[]);
    assert_eq!(numbers.distance(&Said::Number(1.0), &numbers, &Said::Number(2.0)), 0.25);
}
