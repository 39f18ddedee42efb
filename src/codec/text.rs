//! Text and raw bytes: UTF-8 strings, integers written as decimal text (as ids in external topics are), and bytes as they are.

use super::{Codec, Data, Error, Format, Presence, present};

/// UTF-8 text as it is; ordered as strings are.
#[derive(Clone, Copy, Debug, Default)]
pub struct Utf8;

fn utf8(bytes: &[u8]) -> Result<&str, Error> {
    std::str::from_utf8(bytes).map_err(|e| Error::invalid("utf-8", e))
}

impl Format for Utf8 {
    fn name(&self) -> &'static str {
        "utf-8"
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        super::json(utf8(bytes)?, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Codec<String> for Utf8 {
    fn encode(&self, value: &String, out: &mut Vec<u8>) -> Result<Presence, Error> {
        out.extend_from_slice(value.as_bytes());
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<String, Error> {
        utf8(present(bytes, "utf-8")?).map(str::to_owned)
    }
}

impl Data for String {
    const CODEC: &'static dyn Codec<String> = &Utf8;
}

/// An unsigned integer as decimal text without leading zeros. Not ordered as numbers are: for topics, not for scanned stores.
#[derive(Clone, Copy, Debug, Default)]
pub struct Decimal;

fn decimal(bytes: &[u8]) -> Result<u64, Error> {
    let text = utf8(bytes)?;
    let canonical = text == "0" || (text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0'));
    match text.parse() {
        Ok(number) if canonical => Ok(number),
        _ => Err(Error::invalid("decimal", format_args!("{text:?}"))),
    }
}

impl Format for Decimal {
    fn name(&self) -> &'static str {
        "decimal"
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        super::json(&decimal(bytes)?, out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        decimal(text.as_bytes())?;
        out.extend_from_slice(text.as_bytes());
        Ok(())
    }
}

impl Codec<u64> for Decimal {
    fn encode(&self, value: &u64, out: &mut Vec<u8>) -> Result<Presence, Error> {
        use std::io::Write;
        write!(out, "{value}").map_err(|e| Error::invalid("decimal", e))?;
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<u64, Error> {
        decimal(present(bytes, "decimal")?)
    }
}

/// Bytes as they are. As JSON they are shown as hexadecimal text.
#[derive(Clone, Copy, Debug, Default)]
pub struct RawBytes;

impl Format for RawBytes {
    fn name(&self) -> &'static str {
        "bytes"
    }

    fn to_json(&self, bytes: &[u8], out: &mut Vec<u8>) -> Result<(), Error> {
        super::json(&bytes.iter().map(|b| format!("{b:02x}")).collect::<String>(), out)
    }

    fn parse_text(&self, text: &str, out: &mut Vec<u8>) -> Result<(), Error> {
        let digits = text.as_bytes().chunks(2).map(|pair| {
            let pair = std::str::from_utf8(pair).ok().filter(|p| p.len() == 2)?;
            u8::from_str_radix(pair, 16).ok()
        });
        for digit in digits {
            out.push(digit.ok_or_else(|| Error::invalid("hexadecimal bytes", text))?);
        }
        Ok(())
    }
}

impl Codec<Vec<u8>> for RawBytes {
    fn encode(&self, value: &Vec<u8>, out: &mut Vec<u8>) -> Result<Presence, Error> {
        out.extend_from_slice(value);
        Ok(Presence::Present)
    }

    fn decode(&self, bytes: Option<&[u8]>) -> Result<Vec<u8>, Error> {
        present(bytes, "bytes").map(<[u8]>::to_vec)
    }
}

impl Data for Vec<u8> {
    const CODEC: &'static dyn Codec<Vec<u8>> = &RawBytes;
}
