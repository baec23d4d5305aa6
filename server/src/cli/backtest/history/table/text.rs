//! What would a value of Parquet be in a cell of CSV?

use std::io::Write;

use half::f16;
use parquet::basic::{ConvertedType, LogicalType, TimeUnit, Type};
use parquet::data_type::{ByteArray, FixedLenByteArray, Int96};
use parquet::schema::types::ColumnDescriptor;
use uuid::Uuid;

use crate::cli::backtest::dates::date_of;

const DAY_SECONDS: i64 = 86_400;

/// Digits that a decimal may have.
const DIGITS_MAX: usize = 38;

/// Bytes of a value where all have as many.
const WIDTH_MAX: i32 = 1 << 16;

/// What the values of a column stand for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// What they are: numbers, truth values, text.
    Plain,
    /// Whole numbers that are never negative.
    Unsigned,
    /// Whole numbers with so many digits behind the point.
    Decimal(usize),
    /// Days since 1970.
    Date,
    /// A count since midnight.
    Time(Unit),
    /// A count since 1970, in UTC or in a time that nobody named.
    Timestamp(Unit, bool),
    /// A number of 16 bits.
    Half,
    Uuid,
}

/// How many there are in a second, in digits behind the point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis = 3,
    Micros = 6,
    Nanos = 9,
}

impl Form {
    /// What a column's values stand for. Fails with what they are where that is nothing that fits in a cell.
    pub(super) fn of(column: &ColumnDescriptor) -> Result<Form, String> {
        let fixed = column.physical_type() == Type::FIXED_LEN_BYTE_ARRAY;
        if fixed && !(1..=WIDTH_MAX).contains(&column.type_length()) {
            return Err(format!("values of {} bytes", column.type_length()));
        }
        let form = match column.logical_type_ref() {
            Some(LogicalType::Decimal(decimal)) => Form::decimal(decimal.scale)?,
            Some(LogicalType::Date) => Form::Date,
            Some(LogicalType::Time(time)) => Form::Time(Unit::of(&time.unit)),
            Some(LogicalType::Timestamp(time)) => Form::Timestamp(Unit::of(&time.unit), time.is_adjusted_to_u_t_c),
            Some(LogicalType::Integer(integer)) if !integer.is_signed => Form::Unsigned,
            Some(LogicalType::Float16) => Form::Half,
            Some(LogicalType::Uuid) => Form::Uuid,
            Some(
                LogicalType::String
                | LogicalType::Enum
                | LogicalType::Json
                | LogicalType::Integer(_)
                // The type of a column that is missing in every row.
                | LogicalType::Unknown,
            ) => Form::Plain,
            Some(other) => return Err(format!("values of type {other:?}")),
            None => Form::converted(column)?,
        };
        let is_wide_enough = match form {
            Form::Half => column.type_length() == 2,
            Form::Uuid => column.type_length() == 16,
            _ => true,
        };
        if is_wide_enough { Ok(form) } else { Err(format!("values of {} bytes", column.type_length())) }
    }

    /// The same in the words of older files.
    fn converted(column: &ColumnDescriptor) -> Result<Form, String> {
        Ok(match column.converted_type() {
            ConvertedType::DECIMAL => Form::decimal(column.type_scale())?,
            ConvertedType::DATE => Form::Date,
            ConvertedType::TIME_MILLIS => Form::Time(Unit::Millis),
            ConvertedType::TIME_MICROS => Form::Time(Unit::Micros),
            ConvertedType::TIMESTAMP_MILLIS => Form::Timestamp(Unit::Millis, true),
            ConvertedType::TIMESTAMP_MICROS => Form::Timestamp(Unit::Micros, true),
            ConvertedType::UINT_8 | ConvertedType::UINT_16 | ConvertedType::UINT_32 | ConvertedType::UINT_64 => {
                Form::Unsigned
            }
            other @ (ConvertedType::INTERVAL | ConvertedType::BSON) => return Err(format!("values of type {other}")),
            _ => Form::Plain,
        })
    }

    fn decimal(scale: i32) -> Result<Form, String> {
        let scale = usize::try_from(scale).ok().filter(|scale| *scale <= DIGITS_MAX);
        scale.map(Form::Decimal).ok_or_else(|| "decimals of another scale than 0 to 38".to_owned())
    }
}

impl Unit {
    fn of(unit: &TimeUnit) -> Unit {
        match unit {
            TimeUnit::MILLIS => Unit::Millis,
            TimeUnit::MICROS => Unit::Micros,
            TimeUnit::NANOS => Unit::Nanos,
        }
    }

    fn per_second(self) -> i64 {
        10i64.pow(self as u32)
    }
}

/// A value that can be told.
pub(super) trait Told {
    /// Writes it as the text of a cell. Fails with what is wrong with it.
    fn tell(&self, form: Form, out: &mut Vec<u8>) -> Result<(), String>;
}

impl Told for bool {
    fn tell(&self, _: Form, out: &mut Vec<u8>) -> Result<(), String> {
        write(out, format_args!("{self}"))
    }
}

impl Told for i32 {
    fn tell(&self, form: Form, out: &mut Vec<u8>) -> Result<(), String> {
        match form {
            Form::Unsigned => write(out, format_args!("{}", *self as u32)),
            form => i64::from(*self).tell(form, out),
        }
    }
}

impl Told for i64 {
    fn tell(&self, form: Form, out: &mut Vec<u8>) -> Result<(), String> {
        match form {
            Form::Unsigned => write(out, format_args!("{}", *self as u64)),
            Form::Decimal(scale) => write_decimal(i128::from(*self), scale, out),
            Form::Date => write_date(*self, out),
            Form::Time(unit) => {
                let (seconds, rest) = (self.div_euclid(unit.per_second()), self.rem_euclid(unit.per_second()));
                write_clock(seconds, rest, unit, out)
            }
            Form::Timestamp(unit, is_utc) => {
                let (seconds, rest) = (self.div_euclid(unit.per_second()), self.rem_euclid(unit.per_second()));
                write_timestamp(seconds, rest, unit, out)?;
                if is_utc { write(out, format_args!("+00:00")) } else { Ok(()) }
            }
            Form::Plain | Form::Half | Form::Uuid => write(out, format_args!("{self}")),
        }
    }
}

/// A time as some programs still write it: nanoseconds of a day, and the day as astronomers count.
impl Told for Int96 {
    fn tell(&self, _: Form, out: &mut Vec<u8>) -> Result<(), String> {
        const DAY_OF_1970: i64 = 2_440_588;
        let &[low, high, day] = self.data() else { return Err("a time is cut off".to_owned()) };
        let nanos = (i64::from(high as i32) << 32) | i64::from(low);
        let unit = Unit::Nanos;
        let seconds = (i64::from(day as i32) - DAY_OF_1970) * DAY_SECONDS + nanos.div_euclid(unit.per_second());
        write_timestamp(seconds, nanos.rem_euclid(unit.per_second()), unit, out)
    }
}

/// By the fewest digits that mean this number and no other; of two such texts the even one, as tables have it.
impl Told for f32 {
    fn tell(&self, _: Form, out: &mut Vec<u8>) -> Result<(), String> {
        match self.is_finite() {
            true => serde_json::to_writer(out, self).map_err(|error| error.to_string()),
            false => write(out, format_args!("{self}")),
        }
    }
}

impl Told for f64 {
    fn tell(&self, _: Form, out: &mut Vec<u8>) -> Result<(), String> {
        match self.is_finite() {
            true => serde_json::to_writer(out, self).map_err(|error| error.to_string()),
            false => write(out, format_args!("{self}")),
        }
    }
}

impl Told for FixedLenByteArray {
    fn tell(&self, form: Form, out: &mut Vec<u8>) -> Result<(), String> {
        ByteArray::tell(self, form, out)
    }
}

impl Told for ByteArray {
    fn tell(&self, form: Form, out: &mut Vec<u8>) -> Result<(), String> {
        let bytes = self.data();
        let of_width = |_| format!("a value has {} bytes", bytes.len());
        match form {
            Form::Decimal(scale) => write_decimal(integer(bytes)?, scale, out),
            Form::Half => f16::from_le_bytes(bytes.try_into().map_err(of_width)?).to_f32().tell(Form::Plain, out),
            Form::Uuid => {
                let uuid = Uuid::from_slice(bytes).map_err(|_| format!("a value has {} bytes", bytes.len()))?;
                write(out, format_args!("{uuid}"))
            }
            _ if std::str::from_utf8(bytes).is_err() => Err("it is not UTF-8".to_owned()),
            // As the reader of CSV takes cells.
            _ => {
                out.extend_from_slice(bytes.trim_ascii());
                Ok(())
            }
        }
    }
}

/// A whole number, its highest byte first.
fn integer(bytes: &[u8]) -> Result<i128, String> {
    let Some(&first) = bytes.first() else { return Err("a decimal has no bytes".to_owned()) };
    let sign = if first & 0x80 == 0 { 0 } else { 0xff };
    let (more, last) = bytes.split_at(bytes.len().saturating_sub(16));
    let mut all = [sign; 16];
    all[16 - last.len()..].copy_from_slice(last);
    let is_short = more.iter().all(|byte| *byte == sign) && (more.is_empty() || (all[0] ^ sign) & 0x80 == 0);
    if is_short { Ok(i128::from_be_bytes(all)) } else { Err(format!("a decimal has more than {DIGITS_MAX} digits")) }
}

fn write(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) -> Result<(), String> {
    out.write_fmt(text).map_err(|error| error.to_string())
}

fn write_decimal(number: i128, scale: usize, out: &mut Vec<u8>) -> Result<(), String> {
    if scale == 0 {
        return write(out, format_args!("{number}"));
    }
    let (sign, digits) =
        (if number < 0 { "-" } else { "" }, format!("{:0width$}", number.unsigned_abs(), width = scale + 1));
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    write(out, format_args!("{sign}{whole}.{fraction}"))
}

fn write_date(days: i64, out: &mut Vec<u8>) -> Result<(), String> {
    let (year, month, day) = date_of(days);
    write(out, format_args!("{year:04}-{month:02}-{day:02}"))
}

/// `rest` is what is left of a second, and not told where nothing is.
fn write_clock(seconds: i64, rest: i64, unit: Unit, out: &mut Vec<u8>) -> Result<(), String> {
    write(out, format_args!("{:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60))?;
    if rest == 0 { Ok(()) } else { write(out, format_args!(".{rest:0width$}", width = unit as usize)) }
}

fn write_timestamp(seconds: i64, rest: i64, unit: Unit, out: &mut Vec<u8>) -> Result<(), String> {
    write_date(seconds.div_euclid(DAY_SECONDS), out)?;
    out.push(b' ');
    write_clock(seconds.rem_euclid(DAY_SECONDS), rest, unit, out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cli::backtest::dates::parse_time;

    fn told(value: &impl Told, form: Form) -> Result<String, String> {
        let mut out = Vec::new();
        value.tell(form, &mut out).map(|()| String::from_utf8(out).unwrap())
    }

    #[test]
    fn values_are_told_as_tables_write_them() {
        let check =
            |value: &dyn Fn() -> Result<String, String>, expected: &str| assert_eq!(value().as_deref(), Ok(expected));
        check(&|| told(&true, Form::Plain), "true");
        check(&|| told(&-1i32, Form::Plain), "-1");
        check(&|| told(&-1i32, Form::Unsigned), "4294967295");
        check(&|| told(&-1i64, Form::Unsigned), "18446744073709551615");
        check(&|| told(&0.1f32, Form::Plain), "0.1");
        check(&|| told(&1_420.156_2f32, Form::Plain), "1420.1562");
        check(&|| told(&f64::NAN, Form::Plain), "NaN");
        check(&|| told(&1e300f64, Form::Plain), "1e+300");
        check(&|| told(&17f64, Form::Plain), "17.0");
        check(&|| told(&-5i32, Form::Decimal(3)), "-0.005");
        check(&|| told(&12_345i64, Form::Decimal(2)), "123.45");
        check(&|| told(&i64::MIN, Form::Decimal(0)), "-9223372036854775808");
        check(&|| told(&ByteArray::from(vec![0xff, 0x85]), Form::Decimal(1)), "-12.3");
        check(&|| told(&ByteArray::from([vec![0; 20], vec![1]].concat()), Form::Decimal(1)), "0.1");
        check(&|| told(&ByteArray::from(vec![0x00, 0x3e]), Form::Half), "1.5");
        check(&|| told(&ByteArray::from(vec![7; 16]), Form::Uuid), "07070707-0707-0707-0707-070707070707");
        check(&|| told(&ByteArray::from(" a b\n"), Form::Plain), "a b");
        check(&|| told(&-1i32, Form::Date), "1969-12-31");
        check(&|| told(&45_000_005i64, Form::Time(Unit::Millis)), "12:30:00.005");
        check(&|| told(&1_772_323_200_000_000i64, Form::Timestamp(Unit::Micros, false)), "2026-03-01 00:00:00");
        check(&|| told(&-1i64, Form::Timestamp(Unit::Nanos, true)), "1969-12-31 23:59:59.999999999+00:00");
        let mut old = Int96::new();
        old.set_data(1_000_000, 0, 2_440_588 + 1);
        check(&|| told(&old, Form::Plain), "1970-01-02 00:00:00.001000000");
        assert_eq!(told(&ByteArray::from(vec![0xff]), Form::Plain), Err("it is not UTF-8".to_owned()));
        for long in [[vec![1], vec![0; 16]].concat(), [vec![0], vec![0x80; 16]].concat(), Vec::new()] {
            assert!(told(&ByteArray::from(long), Form::Decimal(1)).is_err());
        }
    }

    proptest! {
        #[test]
        fn times_are_read_as_they_are_told(ms in -62_167_219_200_000i64..253_402_300_800_000) {
            let text = told(&ms, Form::Timestamp(Unit::Millis, true)).unwrap();
            prop_assert_eq!(parse_time(&text), Some(ms), "{}", text);
        }

        #[test]
        fn no_value_breaks_it(number in any::<i64>(), day in any::<[u32; 3]>(), bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let units = [Unit::Millis, Unit::Micros, Unit::Nanos];
            let mut forms = vec![Form::Plain, Form::Unsigned, Form::Decimal(38), Form::Date, Form::Half, Form::Uuid];
            forms.extend(units.map(Form::Time).into_iter().chain(units.map(|unit| Form::Timestamp(unit, true))));
            let mut old = Int96::new();
            old.set_data(day[0], day[1], day[2]);
            for form in forms {
                drop((told(&number, form), told(&(number as i32), form), told(&old, form)));
                drop(told(&ByteArray::from(bytes.clone()), form));
            }
        }
    }
}
