//! Flags of the original and of Hugging Face's TrainingArguments that are not supported, each with the reason.
//!
//! They are refused by name, before clap calls them unknown: whoever brings a command line along should learn what happens
//! instead, and never believe that a setting was followed. A value that asks for what is so anyway is let through.

use std::ffi::OsString;

use embertune::{Error, Result};

use super::boolean;

/// `(flags, what is so instead, what to do)`.
const REFUSED: &[(&[&str], &str, &str)] = &[
    (
        &["deepspeed", "fsdp", "fsdp_config"],
        "mpirun or srun starts the ranks, and each has all weights",
        "`--shard_optimizer` divides the optimizer's state among them, as ZeRO-1 does",
    ),
    (
        &[
            "local_rank",
            "ddp_backend",
            "ddp_broadcast_buffers",
            "ddp_bucket_cap_mb",
            "ddp_find_unused_parameters",
            "ddp_static_graph",
            "ddp_timeout",
            "accelerator_config",
            "parallelism_config",
            "average_tokens_across_devices",
            "log_on_each_node",
            "log_level_replica",
            "save_on_each_node",
            "eval_use_gather_object",
        ],
        "mpirun or srun starts the ranks, and there is nothing to set of them",
        "leave it out",
    ),
    (&["no_cuda", "use_cpu"], "`--device` chooses what computes", "pass `--device cpu`"),
    (
        &[
            "use_mps_device",
            "tf32",
            "torch_compile",
            "torch_compile_backend",
            "torch_compile_mode",
            "jit_mode_eval",
            "use_liger_kernel",
            "liger_kernel_config",
        ],
        "it chooses how PyTorch computes; here `--device` and `--precision` do",
        "leave it out",
    ),
    (
        &["bf16_full_eval", "fp16_full_eval", "fp16_opt_level", "fp16_backend", "half_precision_backend"],
        "an evaluation computes as the training does, by `--precision`",
        "leave it out",
    ),
    (
        &[
            "gradient_checkpointing",
            "gradient_checkpointing_kwargs",
            "activation_checkpointing",
            "activation_checkpointing_kwargs",
            "auto_find_batch_size",
            "torch_empty_cache_steps",
            "use_cache",
        ],
        "activations that do not fit into `--memory_budget` are computed twice, whatever the batch",
        "leave it out; `--find_batch_size` takes the largest batch that needs none of it",
    ),
    (&["optim_target_modules"], "it belongs to the optimizers GaLore and APOLLO, which are not there", "leave it out"),
    (
        &["learning_rate_mapping", "router_mapping"],
        "it is not supported: rates differ by layer alone, by `--layer_decay`",
        "leave it out",
    ),
    (
        &["prompts"],
        "prompts are two flags here",
        "pass `--query_instruction_for_retrieval` and `--passage_instruction_for_retrieval`",
    ),
    (
        &["multi_dataset_batch_sampler"],
        "batches are drawn from the data sets in proportion to their rows and weights",
        "pass `--dataset_weights`",
    ),
    (&["optim_args"], "the optimizers take no further arguments", "leave it out"),
    (&["adafactor"], "it is the old name of another flag", "pass `--optim adafactor`"),
    (
        &["ignore_data_skip", "restore_callback_states_from_checkpoint", "save_only_model", "enable_jit_checkpoint"],
        "every checkpoint is complete, and a resumed run goes on exactly where it was",
        "leave it out; Ctrl-C and SIGTERM end a run with a checkpoint",
    ),
    (&["do_eval"], "rows to evaluate on are all that an evaluation needs", "pass `--eval_data` or `--eval_split`"),
    (
        &["eval_on_start", "eval_delay"],
        "the base model is always evaluated before the first step",
        "leave it out; `--eval_strategy` and `--eval_steps` say when to evaluate later",
    ),
    (
        &[
            "per_device_eval_batch_size",
            "eval_accumulation_steps",
            "eval_do_concat_batches",
            "batch_eval_metrics",
            "include_for_metrics",
            "label_names",
            "prediction_loss_only",
        ],
        "an evaluation chooses its batches and its metrics itself",
        "leave it out; `--metric_for_best_model` names the metric that counts",
    ),
    (
        &["run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"],
        "a run is named by its output folder, and nothing is sent anywhere",
        "leave it out; `--logging_dir` says where TensorBoard finds the run",
    ),
    (
        &["log_level", "include_num_input_tokens_seen", "skip_memory_metrics", "debug"],
        "the log always has the same entries: losses, rates, tokens, time; run.json has the memory",
        "leave it out; what is said goes to standard error",
    ),
    (&["logging_nan_inf_filter"], "a loss that is no number ends the run with an error", "leave it out"),
    (
        &[
            "push_to_hub",
            "hub_model_id",
            "hub_token",
            "hub_strategy",
            "hub_private_repo",
            "hub_always_push",
            "hub_revision",
        ],
        "nothing is uploaded",
        "upload the output folder with the tools of the hub",
    ),
    (
        &[
            "dataloader_num_workers",
            "dataloader_pin_memory",
            "dataloader_persistent_workers",
            "dataloader_prefetch_factor",
            "dataloader_multiprocessing_context",
            "dataloader_in_order",
            "remove_unused_columns",
            "preprocessing_num_workers",
        ],
        "there is no data loader to set up: rows are tokenized once, in parallel",
        "leave it out",
    ),
    (&["length_column_name"], "lengths are counted in tokens here", "leave it out"),
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

/// `(value, flags)`: what is so anyway, so a command line that asks for it is followed.
const SO_ANYWAY: &[(&str, &[&str])] = &[
    (
        "False",
        &[
            "activation_checkpointing",
            "auto_find_batch_size",
            "batch_eval_metrics",
            "bf16_full_eval",
            "enable_jit_checkpoint",
            "do_predict",
            "fp16_full_eval",
            "gradient_checkpointing",
            "hub_always_push",
            "hub_private_repo",
            "ignore_data_skip",
            "jit_mode_eval",
            "logging_nan_inf_filter",
            "no_cuda",
            "prediction_loss_only",
            "push_to_hub",
            "restore_callback_states_from_checkpoint",
            "save_only_model",
            "torch_compile",
            "unified_finetuning",
            "use_cpu",
            "use_liger_kernel",
            "use_cache",
            "use_mps_device",
            "use_self_distill",
        ],
    ),
    (
        "True",
        &[
            "do_train",
            "eval_on_start",
            "full_determinism",
            "remove_unused_columns",
            "same_dataset_within_batch",
            "save_safetensors",
        ],
    ),
    ("0", &["label_smoothing_factor", "dataloader_num_workers"]),
    ("-1", &["local_rank"]),
    ("proportional", &["multi_dataset_batch_sampler"]),
];

/// Why a flag is not supported, and what to do.
pub fn reason(name: &str) -> Option<(&'static str, &'static str)> {
    REFUSED.iter().find(|(names, _, _)| names.contains(&name)).map(|(_, reason, hint)| (*reason, *hint))
}

/// The value of an unsupported flag that asks for what is so anyway.
pub fn so_anyway(name: &str) -> Option<&'static str> {
    SO_ANYWAY.iter().find(|(_, names)| names.contains(&name)).map(|(value, _)| *value)
}

/// Refuses a command line that has one of these flags; gives it back without those that ask for what is so anyway. `argv` is in the
/// spelling with underscores.
///
/// # Errors
/// The first such flag, with the reason.
pub fn check(argv: Vec<OsString>) -> Result<Vec<OsString>> {
    let mut checked = Vec::with_capacity(argv.len());
    let mut argv = argv.into_iter().peekable();
    while let Some(argument) = argv.next() {
        let flag = argument.to_str().and_then(|text| text.strip_prefix("--")).unwrap_or_default();
        let (name, value) = flag.split_once('=').map_or((flag, None), |(name, value)| (name, Some(value.to_string())));
        let Some((reason, hint)) = reason(name) else {
            checked.push(argument);
            continue;
        };
        let is_value = |next: &OsString| !next.to_string_lossy().starts_with("--");
        // A switch without a value is on.
        let value = value.or_else(|| Some(argv.next_if(is_value)?.to_string_lossy().into_owned()));
        let value = value.unwrap_or_else(|| "True".into());
        if !so_anyway(name).is_some_and(|so| is_same(so, &value)) {
            return Err(Error::Setting {
                problem: format!("`--{name}` is not supported: {reason}"),
                hint: Some(match so_anyway(name) {
                    Some(so) => format!("{hint}; `--{name} {so}` is accepted"),
                    None => hint.into(),
                }),
            });
        }
    }
    Ok(checked)
}

fn is_same(a: &str, b: &str) -> bool {
    let same_switch = || boolean::parse(a).is_ok_and(|a| boolean::parse(b) == Ok(a));
    let same_number = || a.parse::<f64>().is_ok_and(|a| b.parse() == Ok(a));
    a == b || same_switch() || same_number()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn refused_flags_are_named_with_the_reason() {
        let check = |argv: &str| check(argv.split(' ').map(OsString::from).collect());
        let error = check("train --fsdp=full_shard --deepspeed x.json").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`--fsdp` is not supported: mpirun or srun starts the ranks, and each has all weights"
        );
        assert!(check("train --seed deepspeed").is_ok());
        assert_eq!(
            check("train --use_cpu True").unwrap_err().hint(),
            Some("pass `--device cpu`; `--use_cpu False` is accepted")
        );
        let error = check("train --push_to_hub --seed 1").unwrap_err();
        assert!(error.hint().unwrap().ends_with("`--push_to_hub False` is accepted"), "{error}");
    }

    #[test]
    fn what_is_so_anyway_may_be_asked_for() {
        let argv = "train --push_to_hub no --seed 1 --do_train --label_smoothing_factor=0.0 --use_cpu False --fp16";
        let checked = check(argv.split(' ').map(OsString::from).collect()).unwrap();
        assert_eq!(checked, ["train", "--seed", "1", "--fp16"]);
        for (_, names) in SO_ANYWAY {
            names.iter().for_each(|name| assert!(reason(name).is_some(), "{name}"));
        }
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
