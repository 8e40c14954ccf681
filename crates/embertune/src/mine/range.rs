//! `--range_for_sampling`: the ranks that negatives are taken from.

use std::ops::Range;

use crate::error::{Error, Result};

/// Parses `2-10`: ranks 2 up to but not including 10, 0-based, as the original slices them. So the best two candidates, and
/// all beyond the tenth, are never negatives.
///
/// # Errors
/// Where `text` is not two numbers with the smaller one first.
pub fn parse_range(text: &str) -> Result<Range<usize>> {
    let numbers = text.split_once('-').and_then(|(a, b)| Some((a.trim().parse().ok()?, b.trim().parse().ok()?)));
    match numbers {
        Some((start, end)) if start < end => Ok(start..end),
        Some((start, end)) => Err(Error::Setting {
            problem: format!("`{text}` holds no rank: {start} is not less than {end}"),
            hint: Some("put the smaller number first, like `10-210`".into()),
        }),
        None => Err(Error::Setting {
            problem: format!("`{text}` is not two numbers with `-` between them"),
            hint: Some("write the first rank and the one after the last, like `10-210`".into()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_numbers_the_smaller_first() {
        assert_eq!(parse_range("2-10").unwrap(), 2..10);
        assert_eq!(parse_range(" 0 - 1 ").unwrap(), 0..1);
        for bad in
            ["10-2", "5-5", "", "-", "10", "2-", "-10", "a-b", "2-10-20", "2.5-10", "2,10", "99999999999999999999-1"]
        {
            let error = parse_range(bad).unwrap_err();
            assert!(error.to_string().starts_with(&format!("`{bad}` ")), "{error}");
            assert!(error.hint().is_some());
        }
    }
}
