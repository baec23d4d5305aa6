//! Which JSON value does a cell of a table stand for?

use tiltyard_types::json::write_string;

/// Writes a cell as the JSON value that it stands for.
pub(crate) fn write_cell(cell: &str, datatype: Option<&str>, out: &mut Vec<u8>) {
    let is_text = datatype == Some("BYTES");
    if cell.is_empty() || (!is_text && cell.eq_ignore_ascii_case("nan")) {
        out.extend_from_slice(b"null");
    } else if is_text {
        write_string(cell, out);
    } else if datatype == Some("BOOL") && ["true", "false"].contains(&cell.to_ascii_lowercase().as_str()) {
        out.extend_from_slice(cell.to_ascii_lowercase().as_bytes());
    } else if let Some(number) = number(cell) {
        out.extend_from_slice(number.as_bytes());
    } else {
        write_string(cell, out);
    }
}

/// The cell as a JSON number, digit for digit. `None` for all that is none, and for what has zeros in front: those
/// are codes, such as postal ones.
fn number(cell: &str) -> Option<String> {
    let (sign, digits) = match cell.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", cell.strip_prefix('+').unwrap_or(cell)),
    };
    let (whole, rest) = digits.split_at(digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len()));
    let (fraction, exponent) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len())),
        None => ("", rest),
    };
    let starts_like_a_code = whole.len() > 1 && whole.starts_with('0');
    if whole.len() + fraction.len() == 0 || starts_like_a_code {
        return None;
    }
    let exponent_digits = exponent.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    let is_exponent = exponent_digits
        .map_or(exponent.is_empty(), |digits| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()));
    let whole = if whole.is_empty() { "0" } else { whole };
    let point = if fraction.is_empty() { "" } else { "." };
    is_exponent.then(|| format!("{sign}{whole}{point}{fraction}{exponent}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_by_their_look() {
        let check = |cell: &str, expected: &str| {
            let mut out = Vec::new();
            write_cell(cell, None, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        };
        check("41", "41");
        check("-0.5e-3", "-0.5e-3");
        check("12345678901234567890", "12345678901234567890");
        check("+7", "7");
        check(".5", "0.5");
        check("-.5", "-0.5");
        check("1.", "1");
        check("1.e5", "1e5");
        check("0", "0");
        check("007", "\"007\"");
        check("1e", "\"1e\"");
        check("1,5", "\"1,5\"");
        check("-", "\"-\"");
        check(".", "\".\"");
        check("0x1f", "\"0x1f\"");
        check("true", "\"true\"");
        check("inf", "\"inf\"");
        check("", "null");
        check("NaN", "null");
    }
}
