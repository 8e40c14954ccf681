//! Flags of the original and of Hugging Face's TrainingArguments that are not supported, each with the reason.
//!
//! They are refused by name, before clap calls them unknown: whoever brings a command line along should learn what happens
//! instead, and never believe that a setting was followed.

use std::ffi::OsString;

use embertune::{Error, Result};

/// `(flags, what is so instead, what to do)`.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &["deepspeed", "fsdp", "fsdp_config", "local_rank", "ddp_backend", "ddp_find_unused_parameters", "ddp_timeout"],
        "training runs in one process, so there is nothing to distribute",
        "leave it out",
    ),
    (
        &[
            "no_cuda",
            "use_cpu",
            "use_mps_device",
            "device",
            "tf32",
            "torch_compile",
            "torch_compile_backend",
            "jit_mode_eval",
        ],
        "it chooses how PyTorch computes; this program always computes on the CPU, in f32",
        "leave it out",
    ),
    (
        &["bf16_full_eval", "fp16_full_eval", "fp16_opt_level", "fp16_backend", "half_precision_backend"],
        "everything is computed in f32 for now",
        "leave it out",
    ),
    (
        &["gradient_checkpointing", "gradient_checkpointing_kwargs", "auto_find_batch_size", "torch_empty_cache_steps"],
        "activations of a batch are kept in memory",
        "leave it out; where memory is short, choose a smaller `--per_device_train_batch_size`",
    ),
    (&["optim_args", "optim_target_modules"], "the optimizers take no further arguments", "leave it out"),
    (&["adafactor"], "it is the old name of another flag", "pass `--optim adafactor`"),
    (
        &["ignore_data_skip", "restore_callback_states_from_checkpoint", "save_only_model"],
        "a resumed run goes on exactly where it was",
        "leave it out",
    ),
    (&["do_eval"], "rows to evaluate on are all that an evaluation needs", "pass `--eval_data` or `--eval_split`"),
    (
        &["eval_on_start", "eval_delay"],
        "the base model is always evaluated before the first step",
        "leave it out; `--eval_strategy` and `--eval_steps` say when to evaluate later",
    ),
    (
        &["per_device_eval_batch_size", "eval_accumulation_steps"],
        "an evaluation chooses its batches itself: no result depends on them",
        "leave it out",
    ),
    (
        &["report_to", "run_name", "logging_dir", "log_level", "disable_tqdm", "logging_nan_inf_filter"],
        "the log is a file of JSON lines in the output folder",
        "leave it out",
    ),
    (
        &["push_to_hub", "hub_model_id", "hub_token", "hub_strategy", "hub_private_repo"],
        "nothing is uploaded",
        "upload the output folder with the tools of the hub",
    ),
    (
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "remove_unused_columns",
            "preprocessing_num_workers",
        ],
        "there is no data loader to set up: rows are tokenized once, in parallel",
        "leave it out",
    ),
    (
        &["group_by_length", "length_column_name"],
        "no padding is computed, so there is nothing to gain from grouping by length",
        "leave it out",
    ),
    (&["do_train", "do_predict"], "`embertune train` always trains", "leave it out"),
    (&["save_safetensors"], "models are always saved as safetensors", "leave it out"),
    (&["label_smoothing_factor", "neftune_noise_alpha"], "it is not part of the loss here", "leave it out"),
    (
        &["data_seed", "full_determinism"],
        "`--seed` seeds everything, and every run is deterministic",
        "pass `--seed N`",
    ),
    (&["per_gpu_train_batch_size"], "it is the old name of another flag", "pass `--per_device_train_batch_size N`"),
    (
        &["config_name", "tokenizer_name"],
        "config and tokenizer are those of the model's folder",
        "pass `--model_name_or_path` alone",
    ),
    (&["cache_dir"], "models are kept in the cache that Hugging Face's tools use", "set HF_HUB_CACHE or HF_HOME"),
    (&["max_example_num_per_dataset"], "all rows are used", "cut the file, with `head -n` or `shuf -n`"),
    (
        &[
            "unified_finetuning",
            "use_self_distill",
            "sub_batch_size",
            "same_dataset_within_batch",
            "small_threshold",
            "drop_threshold",
        ],
        "it belongs to a newer FlagEmbedding and is not supported",
        "leave it out; `--loss` says what is minimised",
    ),
    (&["use_lora"], "adapters are trained where their width is given", "pass `--lora_r N`"),
    (&["use_dora", "init_lora_weights", "modules_to_save"], "adapters are plain LoRA, or rsLoRA", "leave it out"),
];

/// Refuses a command line that has one of these flags. `argv` is in the spelling with underscores.
///
/// # Errors
/// The first such flag, with the reason.
pub fn check(argv: &[OsString]) -> Result<()> {
    let flags = argv.iter().filter_map(|argument| argument.to_str()?.strip_prefix("--"));
    for flag in flags {
        let name = flag.split('=').next().unwrap_or(flag);
        if let Some((_, reason, hint)) = REFUSED.iter().find(|(names, _, _)| names.contains(&name)) {
            return Err(Error::Setting {
                problem: format!("`--{name}` is not supported: {reason}"),
                hint: Some((*hint).into()),
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn refused_flags_are_named_with_the_reason() {
        let error = check(&["train", "--fsdp=full_shard", "--deepspeed", "x.json"].map(OsString::from)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "`--fsdp` is not supported: training runs in one process, so there is nothing to distribute"
        );
        assert!(check(&["train", "--seed", "deepspeed"].map(OsString::from)).is_ok());
    }

    #[test]
    fn no_flag_is_both_supported_and_refused_or_refused_twice() {
        let refused: Vec<_> = REFUSED.iter().flat_map(|(names, _, _)| names.iter()).collect();
        for (i, name) in refused.iter().enumerate() {
            assert!(!refused[..i].contains(name), "{name}");
            for command in Cli::command().get_subcommands() {
                assert!(command.get_arguments().all(|flag| flag.get_long() != Some(name)), "{name}");
            }
        }
    }
}
