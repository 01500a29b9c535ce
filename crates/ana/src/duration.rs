//! Durations as people write them: `7d`, `24h`, `90m`, `1h30m`, `2w`.

/// Seconds meant by the text.
///
/// # Errors
/// It is no such duration, with a sentence for the person who wrote it.
pub fn parse(text: &str) -> Result<u64, String> {
    let wrong = || format!("\"{text}\" is no duration; write for example 7d, 24h, 90m or 1h30m");
    let mut seconds: u64 = 0;
    let mut digits = String::new();
    for c in text.chars() {
        if c.is_ascii_digit() {
            digits.push(c);
            continue;
        }
        let unit = match c {
            's' => 1,
            'm' => 60,
            'h' => 3600,
            'd' => 86_400,
            'w' => 604_800,
            _ => return Err(wrong()),
        };
        let count: u64 = digits.parse().map_err(|_| wrong())?;
        seconds = count.checked_mul(unit).and_then(|part| seconds.checked_add(part)).ok_or_else(wrong)?;
        digits.clear();
    }
    if seconds == 0 || !digits.is_empty() { Err(wrong()) } else { Ok(seconds) }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn durations() {
        assert_eq!(parse("7d"), Ok(604_800));
        assert_eq!(parse("1h30m"), Ok(5400));
        assert_eq!(parse("2w"), Ok(1_209_600));
        assert_eq!(parse("45s"), Ok(45));
        for wrong in ["", "7", "d", "0s", "7 d", "-1h", "1y", "99999999999999999999d"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
