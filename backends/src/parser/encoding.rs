//! From bytes to text: which encoding it is, or that it is no text.

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_16BE, UTF_16LE};
use raglan_pipeline::ports::ParseError;

/// Bytes that are looked at where a part tells enough.
const SAMPLE: usize = 64 << 10;

/// Decodes text: a byte order mark decides, then UTF-8 if it is that, then the encoding that is `declared`, then the
/// likeliest one.
pub(super) fn decode(bytes: &[u8], declared: Option<&str>) -> Result<String, ParseError> {
    let text = if let Some((encoding, mark)) = Encoding::for_bom(bytes) {
        encoding.decode_without_bom_handling(&bytes[mark..]).0.into_owned()
    } else {
        match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            // Cut in the middle of the last character.
            Err(error) if error.error_len().is_none() && error.valid_up_to() > 0 => {
                String::from_utf8_lossy(&bytes[..error.valid_up_to()]).into_owned()
            }
            Err(_) => legacy(bytes, declared)?,
        }
    };
    if is_binary(&text) { Err(binary()) } else { Ok(text) }
}

/// Whether these bytes are likely to be text in some encoding.
pub(super) fn is_text(bytes: &[u8]) -> bool {
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    Encoding::for_bom(bytes).is_some() || (!sample.contains(&0) && decode(sample, None).is_ok())
}

fn legacy(bytes: &[u8], declared: Option<&str>) -> Result<String, ParseError> {
    let sample = &bytes[..bytes.len().min(SAMPLE)];
    if sample.contains(&0) {
        let encoding = utf16(sample).ok_or_else(binary)?;
        return Ok(encoding.decode_without_bom_handling(bytes).0.into_owned());
    }
    if is_damaged_utf8(sample) {
        return Ok(String::from_utf8_lossy(bytes).into_owned());
    }
    let encoding = declared.and_then(|label| Encoding::for_label(label.as_bytes())).unwrap_or_else(|| {
        let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
        detector.feed(bytes, true);
        detector.guess(None, Utf8Detection::Deny)
    });
    Ok(encoding.decode_without_bom_handling(bytes).0.into_owned())
}

/// UTF-16 without a mark: in most scripts' texts every other byte is often zero, at least for spaces and line ends.
fn utf16(sample: &[u8]) -> Option<&'static Encoding> {
    let zeros = |from: usize| sample.iter().skip(from).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, pairs) = (zeros(0), zeros(1), sample.len() / 2);
    if odd * 5 > pairs && even * 20 < odd.max(1) {
        Some(UTF_16LE)
    } else if even * 5 > pairs && odd * 20 < even.max(1) {
        Some(UTF_16BE)
    } else {
        None
    }
}

/// UTF-8 in which a few bytes are broken: many more characters of several bytes than errors.
fn is_damaged_utf8(sample: &[u8]) -> bool {
    let (mut good, mut bad) = (0, 0);
    for chunk in sample.utf8_chunks() {
        good += chunk.valid().chars().filter(|c| !c.is_ascii()).count();
        bad += usize::from(!chunk.invalid().is_empty());
    }
    good > bad * 4
}

/// Text has next to no control characters and hardly any that could not be decoded.
fn is_binary(text: &str) -> bool {
    let (mut odd, mut all) = (0, 0);
    for c in text.chars().take(SAMPLE) {
        all += 1;
        let control = c.is_control() && !matches!(c, '\n' | '\r' | '\t' | '\u{C}' | '\u{1B}');
        odd += usize::from(control || c == char::REPLACEMENT_CHARACTER);
        if c == '\0' {
            odd += 5;
        }
    }
    odd * 25 > all
}

fn binary() -> ParseError {
    ParseError::Unsupported("it is binary data, not text".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_told_apart() {
        let text = "Grüße aus Köln, schöne Übung.\nNoch eine Zeile, größer als die erste.";
        let utf16 = |bytes: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(bytes).collect() };
        let (latin, _, _) = encoding_rs::WINDOWS_1252.encode(text);
        let mut marked = vec![0xEF, 0xBB, 0xBF];
        marked.extend(text.as_bytes());
        for bytes in [
            text.as_bytes().to_vec(),
            utf16(u16::to_le_bytes),
            utf16(u16::to_be_bytes),
            latin.to_vec(),
            marked,
        ] {
            assert_eq!(decode(&bytes, None).unwrap(), text);
        }
        let russian = "Привет, как дела? Это обычный русский текст для проверки.";
        let (bytes, _, _) = encoding_rs::KOI8_R.encode(russian);
        assert_eq!(decode(&bytes, None).unwrap(), russian);
        assert_eq!(decode(&bytes, Some("koi8-r")).unwrap(), russian);
    }

    #[test]
    fn cut_and_damaged_utf8_stays_utf8() {
        let text = "schöne grüße übrigens äußerst höflich";
        assert_eq!(decode(&text.as_bytes()[..4], None).unwrap(), "sch");
        let mut bytes = text.as_bytes().to_vec();
        bytes.insert(10, 0xFF);
        assert!(decode(&bytes, None).unwrap().contains("höflich"));
    }

    #[test]
    fn binary_is_refused() {
        let noise: Vec<u8> = (0..4000_u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        assert_eq!(decode(&noise, None).unwrap_err().code(), "unsupported");
        assert!(!is_text(&noise));
        assert!(is_text(b"BM25 is a way to rank"));
    }
}
