//! The parameter `options`: ours is taken out of it, the rest goes to the server as it came.

/// Name of our option. No setting of PostgreSQL has it.
const NAME: &[u8] = b"endpoint=";

/// Why the option is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadOption {
    /// It stands there twice, with different values.
    #[error("the option \"endpoint\" is given twice, with different values")]
    Twice,
    /// Its value is empty or no text.
    #[error("the option \"endpoint\" has no usable value")]
    Value,
}

/// Takes `endpoint=VALUE` out of `options`, also written `-c endpoint=VALUE` or `--endpoint=VALUE`.
/// Gives the value and what is left. Words are split as PostgreSQL does: at white space, with a
/// backslash before what is to be taken literally.
///
/// # Errors
/// The option is there and says nothing, or two things.
pub fn take_endpoint(options: &[u8]) -> Result<(Option<String>, Vec<u8>), BadOption> {
    let words = split(options);
    let mut kept: Vec<&[u8]> = Vec::new();
    let mut endpoint: Option<String> = None;
    let mut place = 0;
    while let Some(word) = words.get(place) {
        let pair = (word.text == b"-c").then(|| words.get(place + 1)).flatten();
        let (value, length) = match pair {
            Some(next) => (next.text.strip_prefix(NAME), 2),
            None => (value_of(&word.text), 1),
        };
        let taken = &words[place..place + length];
        match value {
            Some(value) => {
                let value = std::str::from_utf8(value).map_err(|_| BadOption::Value)?;
                if value.is_empty() {
                    return Err(BadOption::Value);
                }
                if endpoint.as_deref().is_some_and(|other| other != value) {
                    return Err(BadOption::Twice);
                }
                endpoint = Some(value.to_owned());
            }
            None => kept.extend(taken.iter().map(|word| word.raw)),
        }
        place += length;
    }
    Ok((endpoint, kept.join(&b' ')))
}

fn value_of(word: &[u8]) -> Option<&[u8]> {
    let written = word.strip_prefix(b"--").or_else(|| word.strip_prefix(b"-c")).unwrap_or(word);
    written.strip_prefix(NAME)
}

struct Word<'a> {
    raw: &'a [u8],
    text: Vec<u8>,
}

fn split(options: &[u8]) -> Vec<Word<'_>> {
    let is_space = |byte: u8| byte.is_ascii_whitespace() || byte == 0x0b;
    let mut words = Vec::new();
    let mut place = 0;
    while place < options.len() {
        if is_space(options[place]) {
            place += 1;
            continue;
        }
        let begin = place;
        let mut text = Vec::new();
        while place < options.len() && !is_space(options[place]) {
            if options[place] == b'\\' && place + 1 < options.len() {
                place += 1;
            }
            text.push(options[place]);
            place += 1;
        }
        words.push(Word { raw: &options[begin..place], text });
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(options: &str) -> (Option<String>, String) {
        let (endpoint, rest) = take_endpoint(options.as_bytes()).unwrap();
        (endpoint, String::from_utf8(rest).unwrap())
    }

    #[test]
    fn every_way_to_write_it() {
        for options in
            ["endpoint=ep-1", "-c endpoint=ep-1", "-cendpoint=ep-1", "--endpoint=ep-1", r"end\point=ep-\1"]
        {
            assert_eq!(take(options), (Some("ep-1".to_owned()), String::new()), "{options}");
        }
    }

    #[test]
    fn the_rest_stays_as_it_was() {
        let rest = r"-c search_path=a\ b --work-mem=1MB -c geqo=off";
        assert_eq!(take(rest), (None, rest.to_owned()));
        let mixed = r"-c search_path=a\ b endpoint=shop/dev -c geqo=off";
        assert_eq!(take(mixed), (Some("shop/dev".to_owned()), r"-c search_path=a\ b -c geqo=off".to_owned()));
        // Its value is no word of its own.
        assert_eq!(take("-c a=endpoint=x"), (None, "-c a=endpoint=x".to_owned()));
        assert_eq!(take(""), (None, String::new()));
        assert_eq!(take("-c"), (None, "-c".to_owned()));
        assert_eq!(take(r"x\"), (None, r"x\".to_owned()));
    }

    #[test]
    fn what_says_nothing_or_two_things() {
        assert_eq!(take_endpoint(b"endpoint="), Err(BadOption::Value));
        assert_eq!(take_endpoint(b"endpoint=\xff"), Err(BadOption::Value));
        assert_eq!(take_endpoint(b"endpoint=a -c endpoint=b"), Err(BadOption::Twice));
        assert_eq!(take("endpoint=a -c endpoint=a").0.as_deref(), Some("a"));
    }
}
