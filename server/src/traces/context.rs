//! How do callers say that a request belongs to a trace? W3C Trace Context.

use http::HeaderMap;
use tiltyard_types::RequestId;

use super::Trace;

/// What a caller's `traceparent` says.
#[derive(Debug, PartialEq, Eq)]
pub struct Parent {
    /// The trace, which is never 0.
    pub trace: u128,
    /// The caller's span, which is never 0.
    pub span: u64,
    /// Whether the caller keeps it.
    pub is_sampled: bool,
}

/// Reads the header, if there is one that is right: whoever gets a broken one begins anew, as the standard has it.
pub fn read(headers: &HeaderMap) -> Option<Parent> {
    parse(headers.get("traceparent")?.as_bytes())
}

/// `00-<32 digits>-<16 digits>-<2 digits>`; later versions may have more behind.
fn parse(text: &[u8]) -> Option<Parent> {
    let text = text.trim_ascii();
    let (head, more) = text.split_at_checked(55)?;
    let part = |from: usize, to: usize| hex(&head[from..to]);
    let dashes = [2, 35, 52].iter().all(|at| head[*at] == b'-');
    let (version, trace, span, flags) = (part(0, 2)?, part(3, 35)?, part(36, 52)?, part(53, 55)?);
    let ends_well = more.is_empty() || (version > 0 && more[0] == b'-');
    let is_right = dashes && version < 0xff && ends_well && trace != 0 && span != 0;
    is_right.then_some(Parent { trace, span: span as u64, is_sampled: flags & 1 == 1 })
}

/// Lower case only, as the standard wants it.
fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |sum: u128, digit| match digit {
        b'0'..=b'9' => Some(sum << 4 | u128::from(digit - b'0')),
        b'a'..=b'f' => Some(sum << 4 | u128::from(digit - b'a' + 10)),
        _ => None,
    })
}

/// The request's own span as `traceparent` and `traceresponse` write it. Only what is sampled is written.
pub fn written(trace: &Trace) -> String {
    format!("00-{:032x}-{:016x}-01", trace.id, trace.span)
}

/// A share from 0 to 1 in parts of 2^56.
pub(super) fn parts(share: f64) -> u64 {
    (share.clamp(0.0, 1.0) * (1u64 << 56) as f64) as u64
}

/// The bits of a trace's name by which it is sampled.
pub(super) fn last_bits(id: u128) -> u64 {
    id as u64 & ((1 << 56) - 1)
}

/// The name of a request's span, which is never 0.
pub(super) fn span_of(id: RequestId) -> u64 {
    mixed((id.bits() >> 64) as u64 ^ (id.bits() as u64).rotate_left(17))
}

/// The name of the `number`-th span below it.
pub(super) fn span_below(span: u64, number: u64) -> u64 {
    mixed(span.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
}

/// The mixing step of SplitMix64.
fn mixed(bits: u64) -> u64 {
    let mut mixed = bits;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_right_is_read_and_nothing_else() {
        let parent = |is_sampled| Parent {
            trace: 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736,
            span: 0x00f0_67aa_0ba9_02b7,
            is_sampled,
        };
        let read = |text: &str| parse(text.as_bytes());
        assert_eq!(read(GOOD), Some(parent(true)));
        assert_eq!(read(&GOOD.replace("-01", "-00")), Some(parent(false)));
        assert_eq!(read(&format!("01{}-more", &GOOD[2..])), Some(parent(true)));
        for wrong in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-more"),
            &format!("{GOOD}x"),
            &GOOD.replace('f', "F"),
            &GOOD.replace("00-4", "ff-4"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
        ] {
            assert_eq!(read(wrong), None, "{wrong:?}");
        }
        let trace = Trace { id: parent(true).trace, span: parent(true).span, parent: 0 };
        assert_eq!(written(&trace), GOOD);
    }

    #[test]
    fn shares_are_of_what_is_random() {
        assert_eq!((parts(0.0), parts(1.0), parts(0.25)), (0, 1 << 56, 1 << 54));
        assert!(last_bits(u128::MAX) < parts(1.0));
        let (one, other) = (span_of(RequestId::from_bits(1)), span_of(RequestId::from_bits(2)));
        assert!(one != other && one != 0 && span_below(one, 1) != span_below(one, 2));
    }
}
