//! Do rows come back as they went in, whatever shares their run?

use proptest::prelude::*;
use tiltyard_types::{DataType, Dim, Signature, TensorSpec};

use super::*;

fn spec(name: &str, dtype: DataType, dims: &[&str]) -> TensorSpec {
    let dim = |dim: &&str| match dim.parse() {
        Ok(fixed) => Dim::Fixed(fixed),
        Err(_) => Dim::Dynamic((!dim.is_empty()).then(|| (*dim).into())),
    };
    TensorSpec { name: name.into(), dtype, dims: Some(dims.iter().map(dim).collect()), optional: false }
}

fn layout(inputs: &[&[&str]], outputs: &[&[&str]]) -> Option<Layout> {
    Layout::of(&signature(inputs, outputs))
}

fn signature(inputs: &[&[&str]], outputs: &[&[&str]]) -> Signature {
    let specs = |dims: &[&[&str]]| {
        dims.iter().enumerate().map(|(number, dims)| spec(&format!("t{number}"), DataType::Fp32, dims)).collect()
    };
    Signature { inputs: specs(inputs), outputs: specs(outputs) }
}

fn floats(rows: usize, start: f32) -> Tensor {
    let values: Vec<f32> = (0..rows * 2).map(|i| start + i as f32).collect();
    Tensor::from_slice([rows, 2], &values).unwrap()
}

/// Gathers jobs whose inputs all have rows, and gives the inputs.
fn gather(jobs: &[&[Option<Tensor>]], frame: Extent) -> Result<Vec<Option<Tensor>>, BatchError> {
    let dims: Vec<&[&str]> = vec![&["batch", "2"]; jobs[0].len()];
    layout(&dims, &[&["batch"]]).unwrap().gather(jobs, frame)
}

/// Cuts outputs that are like the inputs into answers.
fn split(outputs: &[Tensor], rows: &[usize], frame: usize) -> Result<Vec<Vec<Tensor>>, BatchError> {
    let parts: Vec<Extent> = rows.iter().map(|&rows| Extent::of_rows(rows)).collect();
    let wanted: Vec<usize> = (0..outputs.len()).collect();
    layout(&[&["batch", "2"]], &[&["batch"]]).unwrap().split(outputs, &wanted, &parts, Extent::of_rows(frame))
}

#[test]
fn strings_and_numbers_travel_together() {
    let text = |words: &[&str]| {
        let words: Vec<Bytes> = words.iter().map(|word| Bytes::copy_from_slice(word.as_bytes())).collect();
        Tensor::strings(Shape::from([words.len()]), words).unwrap()
    };
    let one = [Some(floats(1, 0.)), None, Some(text(&["a"]))];
    let two = [Some(floats(2, 9.)), None, Some(text(&["b", "c"]))];
    let joined = gather(&[&one, &two], Extent::of_rows(3)).unwrap();
    assert_eq!(joined[0].as_ref().unwrap().to_vec::<f32>().unwrap(), [0., 1., 9., 10., 11., 12.]);
    assert!(joined[1].is_none());
    let outputs: Vec<Tensor> = joined.into_iter().flatten().collect();
    let answers = split(&outputs, &[1, 2], 3).unwrap();
    assert_eq!(answers[1][0], floats(2, 9.));
    assert_eq!(answers[1][1].as_strings().unwrap(), ["b", "c"]);
}

#[test]
fn what_does_not_fit_is_an_error() {
    assert!(gather(&[&[Some(floats(1, 0.))], &[None]], Extent::of_rows(2)).is_err());
    let wide = Tensor::from_slice([1, 3], &[0f32; 3]).unwrap();
    assert!(gather(&[&[Some(floats(1, 0.))], &[Some(wide)]], Extent::of_rows(2)).is_err());
    assert!(split(&[floats(3, 0.)], &[1, 1], 2).is_err());
}

#[test]
fn a_batch_is_filled_up_with_its_last_row() {
    let joined = gather(&[&[Some(floats(1, 0.))], &[Some(floats(2, 9.))]], Extent::of_rows(5)).unwrap();
    let joined = joined[0].clone().unwrap();
    assert_eq!(joined.to_vec::<f32>().unwrap(), [0., 1., 9., 10., 11., 12., 11., 12., 11., 12.]);
    let answers = split(&[joined], &[1, 2], 5).unwrap();
    assert_eq!((&answers[0][0], &answers[1][0]), (&floats(1, 0.), &floats(2, 9.)));
}

#[test]
fn a_batch_axis_is_one_that_nothing_else_can_be() {
    assert!(layout(&[&["batch", "2"]], &[&["batch"]]).is_some());
    assert!(layout(&[&["batch", "2"], &["3"], &[]], &[&["batch"]]).unwrap().has_shared());
    assert!(layout(&[&["", "2"], &["3", "n"]], &[&[""]]).is_some(), "n has another name than any first axis");
    assert_eq!(layout(&[&["1", "2"]], &[&["batch"]]), None, "no input has rows");
    assert_eq!(layout(&[&["batch"]], &[&["batch"], &["2", "batch"]]), None, "one output has none");
    assert_eq!(layout(&[&["batch"], &["2", "batch"]], &[&["batch"]]), None, "the state's rows are on axis 1");
    assert_eq!(layout(&[&["batch"], &["2", ""]], &[&["batch"]]), None, "nobody knows what is on axis 1");
}

#[test]
fn inputs_without_rows_are_passed_once_and_must_be_equal() {
    let layout = layout(&[&["batch", "2"], &["2"]], &[&["batch", "2"]]).unwrap();
    let job =
        |start: f32, shared: f32| [Some(floats(1, start)), Some(Tensor::from_slice([2], &[shared, f32::NAN]).unwrap())];
    let (one, like, unlike) = (job(0., 5.), job(9., 5.), job(9., 6.));
    assert!(layout.joins(&one, &like, false) && !layout.joins(&one, &unlike, false));
    let joined = layout.gather(&[&one, &like], Extent::of_rows(2)).unwrap();
    assert_eq!((joined[0].as_ref().unwrap().shape()[0], &joined[1]), (2, &one[1]));
    assert_eq!(layout.gather(&[&one, &unlike], Extent::of_rows(2)), Err(BatchError::Gather(1)));
}

#[test]
fn nothing_is_padded_where_there_are_no_rows() {
    let huge = 1usize << 40;
    let signature = signature(&[&["batch", "length", ""]], &[&["batch", "length", ""]]);
    let declared: PadDeclaration = toml::from_str("axis = \"length\"").unwrap();
    let layout = Layout::of(&signature).unwrap().padded(Some(Pad::new(&signature, &declared).unwrap()));
    let numbers = Tensor::from_slice::<f32>([0, 5, huge], &[]).unwrap();
    let texts = Tensor::strings(Shape::from([0, 5, huge]), Vec::new()).unwrap();
    for tensor in [numbers, texts] {
        let frame = Extent { rows: 0, length: Some(usize::MAX) };
        let joined = layout.gather(&[&[Some(tensor.clone())]], frame).unwrap()[0].clone().unwrap();
        assert_eq!((joined.shape(), joined.dtype()), (&Shape::from([0, usize::MAX, huge]), tensor.dtype()));
        let part = Extent { length: Some(5), ..frame };
        assert_eq!(layout.split(&[joined], &[0], &[part], frame).unwrap(), [[tensor]]);
    }
}

fn padded() -> (Signature, Layout) {
    let signature = signature(&[&["batch", "length", "2"], &["batch", "length"]], &[&["batch", "length", "2"]]);
    let declared: PadDeclaration = toml::from_str("axis = \"length\"\nvalues = { t1 = -1.5 }").unwrap();
    let pad = Pad::new(&signature, &declared).unwrap();
    let layout = Layout::of(&signature).unwrap().padded(Some(pad));
    (signature, layout)
}

#[test]
fn a_declaration_must_fit_the_signature() {
    let (mut signature, _) = padded();
    let error = |signature: &Signature, text: &str| Pad::new(signature, &toml::from_str(text).unwrap()).unwrap_err();
    assert!(error(&signature, "axis = \"lenght\"").contains("expected one of: \"length\""));
    assert!(error(&signature, "axis = \"batch\"").contains("batch axis"));
    assert!(error(&signature, "axis = \"length\"\nvalues = { t9 = 0 }").contains("no input \"t9\""));
    signature.inputs[1].dtype = DataType::Uint8;
    assert!(error(&signature, "axis = \"length\"\nvalues = { t1 = -1 }").contains("none of datatype UINT8"));
}

proptest! {
    #[test]
    fn splitting_undoes_gathering(rows in prop::collection::vec(0usize..5, 1..8), more in 0usize..4) {
        let jobs: Vec<Vec<Option<Tensor>>> =
            rows.iter().enumerate().map(|(i, &rows)| vec![Some(floats(rows, i as f32 * 100.))]).collect();
        let views: Vec<&[Option<Tensor>]> = jobs.iter().map(Vec::as_slice).collect();
        // Only a row that is there can be repeated.
        let more = if rows.iter().any(|&rows| rows > 0) { more } else { 0 };
        let frame = rows.iter().sum::<usize>() + more;
        let joined: Vec<Tensor> = gather(&views, Extent::of_rows(frame)).unwrap().into_iter().flatten().collect();
        let apart = split(&joined, &rows, frame).unwrap();
        for (job, answer) in jobs.iter().zip(apart) {
            prop_assert_eq!(job[0].as_ref().unwrap(), &answer[0]);
        }
    }

    /// The first input goes out as it came in, so that each answer must be its own job's.
    #[test]
    fn cutting_back_undoes_padding(sizes in prop::collection::vec((1usize..4, 0usize..6), 1..6), more in 0usize..3) {
        let (_, layout) = padded();
        let jobs: Vec<Vec<Option<Tensor>>> = sizes.iter().enumerate().map(|(i, &(rows, length))| {
            let values: Vec<f32> = (0..rows * length * 2).map(|at| (i * 1000 + at) as f32).collect();
            let mask = vec![1f32; rows * length];
            vec![
                Some(Tensor::from_slice([rows, length, 2], &values).unwrap()),
                Some(Tensor::from_slice([rows, length], &mask).unwrap()),
            ]
        }).collect();
        let views: Vec<&[Option<Tensor>]> = jobs.iter().map(Vec::as_slice).collect();
        let length = sizes.iter().map(|&(_, length)| length).max().unwrap_or(0) + more;
        let frame = Extent { rows: sizes.iter().map(|&(rows, _)| rows).sum::<usize>() + more, length: Some(length) };
        let joined = layout.gather(&views, frame).unwrap();
        let mask = joined[1].as_ref().unwrap().to_vec::<f32>().unwrap();
        let filled = mask.iter().filter(|&&value| value == -1.5).count();
        let real = |&(rows, length): &(usize, usize)| rows * length;
        let real = sizes.iter().map(real).sum::<usize>() + more * sizes.last().map_or(0, |&(_, length)| length);
        prop_assert_eq!(mask.len() - filled, real);
        let parts: Vec<Extent> = sizes.iter().map(|&(rows, length)| Extent { rows, length: Some(length) }).collect();
        let outputs = [joined[0].clone().unwrap()];
        for (job, answer) in jobs.iter().zip(layout.split(&outputs, &[0], &parts, frame).unwrap()) {
            prop_assert_eq!(job[0].as_ref().unwrap(), &answer[0]);
        }
    }
}
