//! Do other parsers agree with ours, and does what we write come back?

use bytes::Bytes;
use half::{bf16, f16};
use proptest::prelude::*;
use serde_json::Value;

use super::*;
use crate::{DataType, Element, Shape, Tensor};

/// The value that our reader sees, as serde_json's tree.
fn tree(reader: &mut Reader<'_>) -> Result<Value, JsonError> {
    Ok(match reader.peek_kind()? {
        Kind::Null => reader.read_null().map(|()| Value::Null)?,
        Kind::Bool => reader.read_bool()?.into(),
        Kind::String => reader.read_string()?.into_owned().into(),
        Kind::Number => match reader.read_number()? {
            Number::Int(value) => value.into(),
            Number::Uint(value) => value.into(),
            Number::Float(value) => value.into(),
        },
        Kind::Array => {
            let mut items = Vec::new();
            reader.read_array(|reader| tree(reader).map(|item| items.push(item)))?;
            items.into()
        }
        Kind::Object => {
            let mut fields = serde_json::Map::new();
            reader.read_object(|key, reader| tree(reader).map(|value| drop(fields.insert(key.to_owned(), value))))?;
            fields.into()
        }
    })
}

/// Floats may differ in their last bit: serde_json does not round rightly unless asked to.
fn agree(ours: &Value, theirs: &Value) -> bool {
    match (ours, theirs) {
        (Value::Array(ours), Value::Array(theirs)) => {
            ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| agree(ours, theirs))
        }
        (Value::Object(ours), Value::Object(theirs)) => {
            ours.len() == theirs.len()
                && ours.iter().all(|(key, value)| theirs.get(key).is_some_and(|theirs| agree(value, theirs)))
        }
        (Value::Number(ours), Value::Number(theirs)) if ours.is_f64() && theirs.is_f64() => {
            let (ours, theirs) = (ours.as_f64().unwrap(), theirs.as_f64().unwrap());
            // serde_json rounds within a few units of the last place, which among the subnormals are large for the value.
            // Ours is held against `str::parse`, to the bit, elsewhere.
            let slack = ours.abs() * 1e-15 + f64::MIN_POSITIVE * 1e-12;
            (ours - theirs).abs() <= slack && ours.is_sign_negative() == theirs.is_sign_negative()
        }
        _ => ours == theirs,
    }
}

/// Both parsers accept the text, and see the same, or both refuse it.
fn check_against_serde(text: &[u8]) {
    let shown = String::from_utf8_lossy(text);
    let theirs = serde_json::from_slice::<Value>(text);
    let mut reader = Reader::new(text);
    let ours = tree(&mut reader).and_then(|value| reader.finish().map(|()| value));
    let mut skipper = Reader::new(text);
    let skipped = skipper.skip_value().and_then(|_| skipper.finish());
    match (&ours, &theirs) {
        (Ok(ours), Ok(theirs)) => assert!(agree(ours, theirs), "{shown}: {ours} {theirs}"),
        (Err(_), Err(_)) => {}
        _ => panic!("{shown}: ours {ours:?}, theirs {theirs:?}"),
    }
    // To skip a number is not to know that it is too large.
    let too_large = matches!(&ours, Err(error) if error.message.contains("out of range"));
    assert!(skipped.is_ok() == ours.is_ok() || too_large, "{shown}: skipped {skipped:?}");
}

fn number_text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "-?(0|[1-9][0-9]{0,3})(\\.[0-9]{1,20})?",
        2 => "-?(0|[1-9][0-9]{0,22})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,3})?",
        1 => any::<f32>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| value.to_string()),
        1 => any::<f64>().prop_filter("finite", |value| value.is_finite()).prop_map(|value| format!("{value:e}")),
    ]
}

fn json_text() -> impl Strategy<Value = String> {
    let blank = "[ \n\r\t]{0,2}";
    let string = prop_oneof![
        Just("\"\"".to_owned()),
        any::<String>().prop_map(|string| Value::from(string).to_string()),
        r#""([a-z ]|\\n|\\u00[0-9a-fA-F]{2}|\\ud83e\\udd80|\\/){0,12}""#,
    ];
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number_text(),
        string.clone(),
    ];
    leaf.prop_recursive(5, 40, 5, move |inner| {
        let items = prop::collection::vec((blank, inner.clone(), blank), 0..5);
        let fields = prop::collection::vec((blank, string.clone(), blank, inner), 0..5);
        let join = |items: Vec<String>| items.join(",");
        prop_oneof![
            items.prop_map(move |items| {
                format!("[{}]", join(items.into_iter().map(|(before, item, after)| before + &item + &after).collect()))
            }),
            fields.prop_map(move |fields| {
                let field = |(before, key, after, value)| format!("{before}{key}{after}:{before}{value}{after}");
                format!("{{{}}}", join(fields.into_iter().map(field).collect()))
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn serde_json_agrees_on_json(text in json_text()) {
        check_against_serde(text.as_bytes());
    }

    #[test]
    fn serde_json_agrees_on_spoilt_json(text in json_text(), at: prop::sample::Index, byte in any::<u8>(), cut: bool) {
        let mut text = text.into_bytes();
        let at = at.index(text.len());
        if cut { text.truncate(at) } else { text[at] = byte }
        // The words are ours alone.
        prop_assume!(![&b"NaN"[..], b"Inf"].iter().any(|word| text.windows(3).any(|window| window == *word)));
        check_against_serde(&text);
    }

    #[test]
    fn strings_are_read_alike_where_the_text_is_known(
        text in json_text(),
        spoilt in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        before in prop_oneof![Just(0), 460usize..530],
    ) {
        let mut text = [b" ".repeat(before), text.into_bytes()].concat();
        if let Some((at, byte)) = spoilt {
            let at = before + at.index(text.len() - before);
            text[at] = byte;
        }
        let read = |mut reader: Reader<'_>| {
            let skipped = reader.clone().skip_value().map(<[u8]>::len);
            let value = tree(&mut reader).and_then(|value| reader.finish().map(|()| value));
            // Debug, as a NaN is not equal to itself.
            format!("{value:?} {skipped:?}")
        };
        prop_assert_eq!(read(Reader::new(&text)), read(Reader::new(&text).knowing_nothing()));
    }

    #[test]
    fn serde_json_agrees_on_soup(text in "[\\[\\]{}:,\"0-9eE.+\\-\\\\ultrfasn \n]{0,24}") {
        check_against_serde(text.as_bytes());
    }

    #[test]
    fn floats_are_rounded_rightly(text in number_text(), short: bool) {
        check_float(&text, short);
    }

    #[test]
    fn halves_between_floats_are_rounded_rightly(bits in any::<u32>(), digit in "[0-9]{0,30}", beside in -1i32..=1) {
        // The exact decimal of the middle between two neighbours, and what lies just beside it.
        let low = f32::from_bits(bits & 0x7fff_ffff);
        prop_assume!(low < f32::MAX);
        let middle = format!("{:.160}", (f64::from(low) + f64::from(low.next_up())) / 2.0);
        let text = match beside {
            0 => middle,
            1 => format!("{middle}{digit}1"),
            _ => format!("{:.160}", f64::from(low) + (f64::from(low.next_up()) - f64::from(low)) * 0.4999999),
        };
        check_float(&text, true);
    }

    #[test]
    fn halves_between_doubles_are_rounded_rightly(exponent in 1023u64 - 70..1023 + 60, bits in any::<u64>(), beside in "[1-9]{0,2}") {
        let low = f64::from_bits(exponent << 52 | bits >> 12);
        let middle = exact_middle(low);
        check_float(&format!("{middle}{beside}"), false);
        check_float(&low.to_string(), false);
    }

    #[test]
    fn quick_division_is_exact(mantissa in 1u64..10_000_000_000_000_000_000, places in 1usize..=18) {
        let digits = format!("{mantissa:020}");
        let (whole, fraction) = digits.split_at(20 - places);
        let whole = whole.trim_start_matches('0');
        check_float(&format!("{}.{fraction}", if whole.is_empty() { "0" } else { whole }), false);
    }

    #[test]
    fn narrow_floats_are_rounded_rightly(bits in any::<u16>(), beside in -1i32..=1, zeros in 1usize..40) {
        check_narrow(f16::from_bits(bits & 0x7fff), f16::from_bits, f16::to_bits, beside, zeros);
        check_narrow(bf16::from_bits(bits & 0x7fff), bf16::from_bits, bf16::to_bits, beside, zeros);
    }

    #[test]
    fn what_is_written_comes_back(bytes in prop::collection::vec(any::<u8>(), 0..200), bare: bool) {
        fn check<T: Element>(bytes: &[u8]) {
            let whole = bytes.len() - bytes.len() % size_of::<T>();
            let tensor = Tensor::fixed(T::DTYPE, Shape::from([whole / size_of::<T>(), 1]), bytes[..whole].to_vec()).unwrap();
            let back = round_trip(&tensor, NonFinite::Bare);
            for (ours, back) in tensor.to_vec::<T>().unwrap().iter().zip(back.to_vec::<T>().unwrap()) {
                // A NaN differs from itself, and may lose its payload.
                let same = bytemuck::bytes_of(ours) == bytemuck::bytes_of(&back);
                assert!(same || (ours.partial_cmp(ours).is_none() && back.partial_cmp(&back).is_none()), "{ours:?} {back:?}");
            }
        }
        check::<u8>(&bytes); check::<u16>(&bytes); check::<u32>(&bytes); check::<u64>(&bytes);
        check::<i8>(&bytes); check::<i16>(&bytes); check::<i32>(&bytes); check::<i64>(&bytes);
        check::<f16>(&bytes); check::<bf16>(&bytes); check::<f32>(&bytes); check::<f64>(&bytes);
        let truth: Vec<u8> = bytes.iter().map(|byte| byte & 1).collect();
        let truth = Tensor::fixed(DataType::Bool, Shape::from([truth.len()]), truth).unwrap();
        let non_finite = if bare { NonFinite::Bare } else { NonFinite::Null };
        prop_assert_eq!(&round_trip(&truth, non_finite), &truth);
    }

    #[test]
    fn strings_come_back(strings in prop::collection::vec(any::<String>(), 0..8)) {
        let elements: Vec<Bytes> = strings.iter().map(|string| Bytes::from(string.clone())).collect();
        let tensor = Tensor::strings(Shape::from([elements.len()]), elements).unwrap();
        prop_assert_eq!(&round_trip(&tensor, NonFinite::Bare), &tensor);
        let mut out = Vec::new();
        write_data(&tensor, &mut out, NonFinite::Bare).unwrap();
        prop_assert_eq!(serde_json::from_slice::<Vec<String>>(&out).unwrap(), strings);
    }

    #[test]
    fn nothing_panics(text in prop::collection::vec(any::<u8>(), 0..64), words in "[\\[\\]{}:,\"0-9eE.\\-NaInfityul ]{0,48}") {
        for text in [&text[..], words.as_bytes()] {
            let mut reader = Reader::new(text);
            // Whether any of these is accepted is for the other tests to say.
            let _ = read_tensor(&mut reader, &|_| None);
            for dtype in DataType::ALL {
                for shape in [Shape::from([]), Shape::from([3]), Shape::from([1, 2])] {
                    if let Ok(tensor) = read_data(&mut Reader::new(text), dtype, &shape) {
                        prop_assert_eq!(tensor.shape(), &shape);
                    }
                }
            }
        }
    }
}

fn round_trip(tensor: &Tensor, non_finite: NonFinite) -> Tensor {
    let mut out = Vec::new();
    write_data(tensor, &mut out, non_finite).unwrap();
    let mut reader = Reader::new(&out);
    let back = read_data(&mut reader, tensor.dtype(), tensor.shape()).unwrap();
    reader.finish().unwrap();
    back
}

/// The number that we read equals the standard library's, with and without text after it.
fn check_float(text: &str, single_only: bool) {
    let text = text.trim_start_matches('-');
    for text in [text.to_owned(), format!("-{text}")] {
        // With a tail, the number is far from the end of the text, where other code reads it.
        for tail in ["", "                                        "] {
            let padded = format!("{text}{tail}");
            let expected: f32 = text.parse().unwrap();
            let ours = read_data(&mut Reader::new(padded.as_bytes()), DataType::Fp32, &Shape::from([]));
            let ours = ours.map(|tensor| tensor.to_vec::<f32>().unwrap()[0].to_bits());
            assert_eq!(ours.ok(), expected.is_finite().then_some(expected.to_bits()), "{text}");
            if single_only {
                continue;
            }
            let expected: f64 = text.parse().unwrap();
            let ours = read_data(&mut Reader::new(padded.as_bytes()), DataType::Fp64, &Shape::from([]));
            let ours = ours.map(|tensor| tensor.to_vec::<f64>().unwrap()[0].to_bits());
            assert_eq!(ours.ok(), expected.is_finite().then_some(expected.to_bits()), "{text}");
        }
    }
}

/// The exact decimal of the middle between a double and the next one.
fn exact_middle(low: f64) -> String {
    // Both have the same sign and nearly the same size, so that the halves and their sum of digits are exact in text.
    let places = 130;
    let (low, high) = (format!("{low:.places$}"), format!("{:.places$}", low.next_up()));
    let digits = |text: &str| text.bytes().filter(u8::is_ascii_digit).map(|byte| byte - b'0').collect::<Vec<u8>>();
    let width = low.len().max(high.len());
    let (low, high) = (digits(&format!("{low:0>width$}")), digits(&format!("{high:0>width$}")));
    let mut sum = vec![0u8; low.len() + 1];
    let mut carry = 0;
    for index in (0..low.len()).rev() {
        let digit = low[index] + high[index] + carry;
        sum[index + 1] = digit % 10;
        carry = digit / 10;
    }
    sum[0] = carry;
    let mut half = String::new();
    let mut rest = 0;
    for (index, digit) in sum.iter().enumerate() {
        if index == sum.len() - places {
            half.push('.');
        }
        let value = rest * 10 + digit;
        half.push(char::from(b'0' + value / 2));
        rest = value % 2;
    }
    let trimmed = half.trim_start_matches('0');
    if trimmed.starts_with('.') { format!("0{trimmed}") } else { trimmed.to_owned() }
}

/// The middle between two neighbours goes to the even one, and what lies beside it to the nearer one.
fn check_narrow<T: Element + Into<f64>>(
    low: T,
    from_bits: impl Fn(u16) -> T,
    to_bits: impl Fn(T) -> u16,
    beside: i32,
    zeros: usize,
) {
    let bits = to_bits(low);
    let high = from_bits(bits + 1);
    let (low, high): (f64, f64) = (low.into(), high.into());
    if !low.is_finite() || !high.is_finite() {
        return;
    }
    let middle = format!("{:.140}", (low + high) / 2.0);
    let zeros = "0".repeat(zeros);
    let (text, expected) = match beside {
        0 => (middle, bits + (bits & 1)),
        1 => (format!("{middle}{zeros}1"), bits + 1),
        _ => (just_below(&middle, &zeros), bits),
    };
    let ours = read_data(&mut Reader::new(text.as_bytes()), T::DTYPE, &Shape::from([])).unwrap();
    assert_eq!(to_bits(ours.to_vec::<T>().unwrap()[0]), expected, "{text}");
}

/// A decimal a little below another, which is not zero: its last digit one less, and nines after it.
fn just_below(text: &str, zeros: &str) -> String {
    let mut digits = text.trim_end_matches('0').as_bytes().to_vec();
    let last = digits.iter().rposition(|byte| (b'1'..=b'9').contains(byte)).unwrap();
    digits[last] -= 1;
    for byte in &mut digits[last + 1..] {
        if *byte == b'0' {
            *byte = b'9';
        }
    }
    String::from_utf8(digits).unwrap() + &zeros.replace('0', "9")
}

#[test]
fn hard_floats_are_rounded_rightly() {
    for text in [
        "0.1",
        "0.30000000000000004",
        "16777217",
        "16777217.0000000000000000000000001",
        "9007199254740993",
        "9007199254740992.99999999999999999",
        "1.17549429e-38",
        "1.401298464324817e-45",
        "7.006492321624085e-46",
        "7.006492321624086e-46",
        "2.2250738585072011e-308",
        "4.9406564584124654e-324",
        "2.4703282292062327e-324",
        "2.4703282292062328e-324",
        "3.4028234663852886e38",
        "3.4028235677973366e38",
        "3.4028235677973362e38",
        "1.7976931348623158e308",
        "1.7976931348623159e308",
        "1e23",
        "8.5e22",
        "1e-400",
        "0e400",
        "0.000000000000000000000000000000000000000000000000000000000000001e63",
        "0.00012345678901234567",
        "0.0000000000000000000000000000000",
        "0.0000000000000000000000000",
        "1e99999999999999999999",
        "1e-99999999999999999999",
        "123456789012345678901234567890",
        "18446744073709551615",
        "9999999999999999999",
        "9.999999999999999999",
        "9.223372036854775808",
        "9.2233720368547758079",
    ] {
        check_float(text, false);
    }
    let long = "1234567890".repeat(80);
    check_float(&long[..300], false);
    check_float(&format!("0.{long}"), false);
    check_float(&format!("{long}e-790"), false);
    check_float(&format!("0.{}{long}", "0".repeat(300)), false);
    // The half between 1 and the next double, and beyond its 53 digits a one that decides.
    let middle = exact_middle(1.0);
    check_float(&format!("{middle}{}1", "0".repeat(700)), false);
}

#[test]
fn a_cut_text_is_refused_at_every_byte() {
    let text =
        br#"{"name": "caf\u00e9", "shape": [2, 2], "datatype": "FP32", "data": [[0.48235297, -1e3], [null, NaN]]}"#;
    assert!(read_tensor(&mut Reader::new(text), &|_| None).is_ok());
    let first = br#"{"data": [["a", "]"], ["\n", ""]], "name": "x", "shape": [2, 2], "datatype": "BYTES"}"#;
    assert!(read_tensor(&mut Reader::new(first), &|_| None).is_ok());
    for text in [&text[..], first] {
        for end in 0..text.len() {
            let cut = &text[..end];
            assert!(read_tensor(&mut Reader::new(cut), &|_| None).is_err(), "{end}");
            assert!(Reader::new(cut).skip_value().is_err(), "{end}");
            check_against_serde(cut);
        }
    }
}
