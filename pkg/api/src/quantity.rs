//! `resource.Quantity`: an exact number with a suffix (`k8s.io/apimachinery/pkg/api/resource`).
//!
//! A value is `mantissa * 10^exponent` with at most nine decimal places; what is finer is rounded away from zero,
//! so that a request is never lost. Its text keeps the family of suffixes that it came with.
use serde_json::Value;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::fmt;

/// The finest power of ten that is kept.
const NANO: i32 = -9;
/// Powers of ten that a 128-bit mantissa can be multiplied by; past it, sums saturate.
const MAX_POWER: i32 = 38;
/// Longest text that is read: far above any sensible quantity, and it bounds the work.
const MAX_LEN_BYTES: usize = 128;

/// The family of suffixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Format {
    /// `1500m`, `12M`
    #[default]
    DecimalSi,
    /// `12Mi`
    BinarySi,
    /// `12e6`
    DecimalExponent,
}

/// Texts are upstream's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Quantity {
    /// Without trailing zeros (they are in the exponent), zero with exponent zero.
    mantissa: i128,
    exponent: i32,
    format: Format,
}

impl Quantity {
    pub const ZERO: Self = Self { mantissa: 0, exponent: 0, format: Format::DecimalSi };

    /// `value` in units: bytes, cores, pods.
    pub fn new(value: i64, format: Format) -> Self {
        Self::of(value.into(), 0, format)
    }

    /// `milli` in thousandths.
    pub fn from_milli(milli: i64, format: Format) -> Self {
        Self::of(milli.into(), -3, format)
    }

    /// Reads a text such as `100m`, `1.5Gi`, `2e3`.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Ok(Parts::scan(text)?.quantity()?.0)
    }

    /// Reads a JSON string or number. Surrounding blanks are ignored, as upstream does for JSON.
    pub fn from_json(value: &Value) -> Result<Self, Error> {
        match value {
            Value::String(text) => Self::parse(text.trim()),
            Value::Number(number) => Self::parse(&number.to_string()),
            _ => Err(Error::Format),
        }
    }

    fn of(mut mantissa: i128, mut exponent: i32, format: Format) -> Self {
        if mantissa == 0 {
            return Self { format, ..Self::ZERO };
        }
        while exponent < NANO {
            mantissa = div_away_from_zero(mantissa, 10);
            exponent += 1;
        }
        while mantissa % 10 == 0 {
            mantissa /= 10;
            exponent += 1;
        }
        Self { mantissa, exponent, format }
    }

    pub fn is_zero(&self) -> bool {
        self.mantissa == 0
    }

    pub fn is_negative(&self) -> bool {
        self.mantissa < 0
    }

    pub fn format(&self) -> Format {
        self.format
    }

    /// Whole units, rounded away from zero: bytes of memory. Saturates at 64 bits.
    pub fn value(&self) -> i64 {
        self.scaled(0)
    }

    /// Thousandths, rounded away from zero: millicores. Saturates at 64 bits.
    pub fn milli_value(&self) -> i64 {
        self.scaled(-3)
    }

    /// The value as a float, for scores and metrics.
    pub fn to_f64(&self) -> f64 {
        self.mantissa as f64 * 10f64.powi(self.exponent)
    }

    /// The value over `10^scale`, rounded away from zero.
    fn scaled(&self, scale: i32) -> i64 {
        let shift = self.exponent - scale;
        let exact = if shift >= 0 {
            shift_up(self.mantissa, shift)
        } else {
            div_away_from_zero(self.mantissa, power(-shift).unwrap_or(i128::MAX))
        };
        exact.clamp(i64::MIN.into(), i64::MAX.into()) as i64
    }

    /// Both mantissas at the smaller exponent; saturates when that is out of 128 bits.
    fn align(&self, other: &Self) -> (i128, i128, i32) {
        let exponent = self.exponent.min(other.exponent);
        let at = |q: &Self| if q.is_zero() { 0 } else { shift_up(q.mantissa, q.exponent - exponent) };
        (at(self), at(other), exponent)
    }

    /// The sum, in the format of the first unless that is zero.
    pub fn add(&self, other: &Self) -> Self {
        let (a, b, exponent) = self.align(other);
        Self::of(a.saturating_add(b), exponent, if self.is_zero() { other.format } else { self.format })
    }

    /// The difference, in the format of the first unless that is zero.
    pub fn sub(&self, other: &Self) -> Self {
        self.add(&Self { mantissa: other.mantissa.saturating_neg(), ..*other })
    }

    /// The whole number that a binary suffix can show: no fraction, and at least 1024.
    fn binary_mantissa(&self) -> Option<i128> {
        if self.exponent < 0 || self.exponent > MAX_POWER {
            return None;
        }
        let whole = self.mantissa.checked_mul(power(self.exponent)?)?;
        (whole.abs() >= 1024).then_some(whole)
    }
}

fn power(exponent: i32) -> Option<i128> {
    10i128.checked_pow(u32::try_from(exponent).ok()?)
}

/// `mantissa * 10^by`, saturating.
fn shift_up(mantissa: i128, by: i32) -> i128 {
    let saturated = if mantissa < 0 { i128::MIN } else { i128::MAX };
    power(by).and_then(|p| mantissa.checked_mul(p)).unwrap_or(saturated)
}

fn div_away_from_zero(mantissa: i128, by: i128) -> i128 {
    let quotient = mantissa / by;
    if mantissa % by == 0 { quotient } else { quotient + mantissa.signum() }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        // Trailing zeros are never in the mantissa, so equal values look equal.
        self.mantissa == other.mantissa && self.exponent == other.exponent
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        if self == other {
            return Ordering::Equal;
        }
        let (a, b, _) = self.align(other);
        // Saturation makes large numbers look alike; then the exponent tells them apart.
        a.cmp(&b).then_with(|| {
            let order = self.exponent.cmp(&other.exponent);
            if self.is_negative() { order.reverse() } else { order }
        })
    }
}

/// The canonical text: no fraction, the largest suffix that loses nothing.
impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_zero() {
            return f.write_str("0");
        }
        match self.format {
            Format::BinarySi => match self.binary_mantissa() {
                Some(whole) => write_binary(f, whole),
                None => self.write_decimal(f, Format::DecimalSi),
            },
            format => self.write_decimal(f, format),
        }
    }
}

fn write_binary(f: &mut fmt::Formatter<'_>, mut whole: i128) -> fmt::Result {
    const SUFFIXES: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut times = 0;
    while whole % 1024 == 0 && times < SUFFIXES.len() - 1 {
        whole /= 1024;
        times += 1;
    }
    write!(f, "{whole}{}", SUFFIXES[times])
}

impl Quantity {
    fn write_decimal(&self, f: &mut fmt::Formatter<'_>, format: Format) -> fmt::Result {
        const SUFFIXES: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        let mut exponent = self.exponent.div_euclid(3) * 3;
        if format == Format::DecimalSi {
            // Nothing is written above exa; the digits grow instead.
            exponent = exponent.min(18);
        }
        let zeros = usize::try_from(self.exponent - exponent).unwrap_or_default();
        write!(f, "{}{:0<zeros$}", self.mantissa, "")?;
        match format {
            Format::DecimalExponent if exponent == 0 => Ok(()),
            Format::DecimalExponent => write!(f, "e{exponent}"),
            _ => f.write_str(SUFFIXES[usize::try_from((exponent - NANO) / 3).unwrap_or_default()]),
        }
    }
}

/// What the API writes back for a quantity that was sent as `text`. Usually the canonical form; some texts that
/// are nearly canonical (`1.500`) pass unchanged, as upstream keeps them.
pub fn canonical(text: &str) -> Result<Cow<'_, str>, Error> {
    if text == "0" {
        return Ok(Cow::Borrowed(text));
    }
    let (quantity, keeps_text) = Parts::scan(text)?.quantity()?;
    Ok(if keeps_text { Cow::Borrowed(text) } else { Cow::Owned(quantity.to_string()) })
}

/// A quantity's text, taken apart.
struct Parts<'a> {
    negative: bool,
    /// Digits before the point, without leading zeros; `0` where none are left.
    whole: &'a str,
    fraction: &'a str,
    suffix: &'a str,
}

impl<'a> Parts<'a> {
    fn scan(text: &'a str) -> Result<Self, Error> {
        if text.is_empty() || text.len() > MAX_LEN_BYTES {
            return Err(Error::Format);
        }
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let (whole, rest) = split_digits(unsigned.trim_start_matches('0'));
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        let letters = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
        let exponent = letters.strip_prefix(['+', '-']).unwrap_or(letters);
        if !exponent.bytes().all(|b| b.is_ascii_digit()) {
            return Err(Error::Format);
        }
        let whole = if whole.is_empty() { "0" } else { whole };
        Ok(Self { negative: text.starts_with('-'), whole, fraction, suffix })
    }

    /// The value, and whether upstream would keep the text as it is.
    fn quantity(&self) -> Result<(Quantity, bool), Error> {
        let (base, exponent, format) = interpret(self.suffix).ok_or(Error::Suffix)?;
        let (mantissa, places) = self.digits()?;
        let mantissa = if self.negative { -mantissa } else { mantissa };
        if base == 10 {
            let scale = exponent.saturating_sub(places);
            let keeps = scale >= NANO
                && scale % 3 == 0
                && self.whole.len() + self.fraction.len() <= 18
                && !self.whole.starts_with('0')
                && !(self.whole.to_owned() + self.fraction).ends_with("000");
            return Ok((Quantity::of(mantissa, scale, format), keeps));
        }
        let factor = 1i128 << exponent;
        let scaled = mantissa.checked_mul(factor).ok_or(Error::Numeric)?;
        let keeps = places == 0 && mantissa & 7 != 0 && self.whole.len() as i32 + exponent * 3 / 10 < 15;
        Ok((cap_binary(Quantity::of(scaled, -places, format)), keeps))
    }

    /// All digits as one number, and how many of them are decimal places. Places past what is kept are folded
    /// into one, so that rounding still sees them.
    fn digits(&self) -> Result<(i128, i32), Error> {
        const PLACES: usize = 18;
        let (kept, finer) = self.fraction.split_at(self.fraction.len().min(PLACES));
        let mut digits = format!("{}{kept}", self.whole);
        let mut places = kept.len() as i32;
        if finer.bytes().any(|b| b != b'0') {
            digits.push('1');
            places += 1;
        }
        Ok((digits.parse().map_err(|_| Error::Numeric)?, places))
    }
}

/// Binary quantities stop at 2^63-1, and below one they turn decimal.
fn cap_binary(quantity: Quantity) -> Quantity {
    let max = Quantity::new(i64::MAX, Format::BinarySi);
    let below_one = Quantity { mantissa: quantity.mantissa.abs(), ..quantity } < Quantity::new(1, Format::BinarySi);
    if quantity > max {
        max
    } else if below_one && !quantity.is_zero() {
        Quantity { format: Format::DecimalSi, ..quantity }
    } else {
        quantity
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Base, exponent of that base, and family.
fn interpret(suffix: &str) -> Option<(u8, i32, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSi));
    let binary = |exponent| Some((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?;
            Some((10, exponent.parse().ok()?, Format::DecimalExponent))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(input: &str) -> String {
        canonical(input).unwrap_or_else(|e| panic!("{input}: {e}")).into_owned()
    }

    #[test]
    fn canonical_text() {
        // Seen from an upstream API server.
        for (input, expected) in [
            ("0", "0"),
            ("-0", "0"),
            ("0.0", "0"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5", "1500m"),
            ("0.5", "500m"),
            ("0.1m", "100u"),
            ("0.5Gi", "512Mi"),
            ("1.5Gi", "1536Mi"),
            ("1024Ki", "1Mi"),
            ("1000Ki", "1000Ki"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("1000000", "1M"),
            ("12e6", "12e6"),
            ("1.2e7", "1.2e7"),
            ("1.25e4", "12500"),
            ("1E3", "1E3"),
            ("5E", "5E"),
            ("0.1Ki", "102400m"),
            ("+1", "+1"),
            ("1.500", "1.500"),
            ("0.0000000001", "1n"),
            ("100Ei", "9223372036854775807"),
            ("1.", "1."),
            ("2000Mi", "2000Mi"),
            ("008Mi", "8Mi"),
            ("007Mi", "007Mi"),
            ("10k", "10k"),
            ("100000k", "100M"),
        ] {
            assert_eq!(text(input), expected, "{input}");
        }
    }

    #[test]
    fn malformed() {
        for (input, error) in [
            ("", Error::Format),
            ("1 Gi", Error::Format),
            ("abc", Error::Format),
            ("1Zi", Error::Format),
            ("1.2.3", Error::Format),
            ("1KI", Error::Format),
            ("1mm", Error::Suffix),
            ("1K", Error::Suffix),
            ("1e", Error::Suffix),
            ("1Gi5", Error::Suffix),
            ("--1", Error::Suffix),
        ] {
            assert_eq!(Quantity::parse(input), Err(error), "{input}");
        }
    }

    #[test]
    fn values_round_away_from_zero() {
        let q = |t| Quantity::parse(t).unwrap();
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -2);
        assert_eq!(q("1.5Gi").value(), 1536 << 20);
        assert_eq!(q("0.1m").milli_value(), 1);
        assert_eq!(q("2").milli_value(), 2000);
        assert_eq!(q("1e30").value(), i64::MAX);
    }

    #[test]
    fn order_and_sums() {
        let q = |t| Quantity::parse(t).unwrap();
        assert!(q("1Gi") > q("1G"));
        assert_eq!(q("1000m"), q("1"));
        assert!(q("-1") < q("1n"));
        assert!(q("1e60") > q("1e50"));
        assert!(q("-1e60") < q("-1e50"));
        assert_eq!(q("1Gi").add(&q("512Mi")).to_string(), "1536Mi");
        assert_eq!(q("1").sub(&q("100m")).to_string(), "900m");
        assert_eq!(Quantity::ZERO.add(&q("1Mi")).to_string(), "1Mi");
        assert_eq!(q("1Gi").sub(&q("1Gi")).to_string(), "0");
    }
}
