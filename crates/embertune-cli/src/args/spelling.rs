//! Both spellings of every flag: `--foo-bar` becomes `--foo_bar` before clap sees it.

use std::ffi::OsString;

/// The argument with the underscores of the original scripts, if it is a flag; the value after `=` stays as it is.
pub fn underscored(argument: OsString) -> OsString {
    let Some(flag) = argument.to_str().and_then(|text| text.strip_prefix("--")) else { return argument };
    let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value)));
    let name = name.replace('-', "_");
    match value {
        Some(value) => format!("--{name}={value}").into(),
        None => format!("--{name}").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_flags_change() {
        for (given, expected) in [
            ("--train-data", "--train_data"),
            ("--train_data", "--train_data"),
            ("--train-data=a-b.jsonl", "--train_data=a-b.jsonl"),
            ("--max-steps=-1", "--max_steps=-1"),
            ("-h", "-h"),
            ("2-10", "2-10"),
            ("all-MiniLM-L6-v2", "all-MiniLM-L6-v2"),
            ("--", "--"),
            ("", ""),
        ] {
            assert_eq!(underscored(given.into()), expected, "{given}");
        }
    }
}
