//! Switches as Hugging Face's argument parser reads them: `--bf16`, `--bf16 True`, `--bf16 no`.

/// Parses a value of `transformers.HfArgumentParser`'s `string_to_bool`.
pub fn parse(text: &str) -> Result<bool, String> {
    match text.to_lowercase().as_str() {
        "yes" | "true" | "t" | "y" | "1" => Ok(true),
        "no" | "false" | "f" | "n" | "0" => Ok(false),
        _ => Err("expected True or False".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_those_of_hugging_face() {
        for text in ["True", "true", "TRUE", "1", "yes", "Y", "t"] {
            assert_eq!(parse(text), Ok(true), "{text}");
        }
        for text in ["False", "false", "0", "no", "N", "f"] {
            assert_eq!(parse(text), Ok(false), "{text}");
        }
        for text in ["", "maybe", "2", "on"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
