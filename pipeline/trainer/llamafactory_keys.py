"""Keys that LLaMA-Factory reads from its training YAML and the native engine does not have.

They are named so that a user's mistake is told apart from a key of the other engine. The set is
the union over the releases in use: LLaMA-Factory 0.9.5 (model, data, finetuning, generating, ...),
the later additions that need no other backend, and `Seq2SeqTrainingArguments` of Transformers 4.57
and 5.23. Keys of the native engine and keys that other sections supply are not in it.
"""

LLAMAFACTORY_KEYS = frozenset(
    """
    accelerator_config activation_checkpointing activation_checkpointing_kwargs adafactor
    adapter_folder add_special_tokens add_tokens
    apollo_layerwise apollo_proj apollo_proj_type apollo_rank apollo_scale apollo_scale_front
    apollo_scale_type apollo_target apollo_update_interval asft_alpha audio_sampling_rate
    auto_find_batch_size average_tokens_across_devices badam_mask_mode badam_mode
    badam_start_block badam_switch_interval badam_switch_mode badam_update_ratio badam_verbose
    batch_eval_metrics bf16_full_eval buffer_size cache_dir
    crop_to_patches data_shared_file_system dataloader_drop_last dataloader_in_order
    dataloader_multiprocessing_context dataloader_persistent_workers dataloader_pin_memory
    dataloader_prefetch_factor ddp_backend ddp_broadcast_buffers ddp_bucket_cap_mb
    ddp_find_unused_parameters ddp_static_graph debug default_system disable_tqdm do_eval
    do_predict do_sample eaft_alpha
    enable_jit_checkpoint enable_torch_profiler eval_accumulation_steps
    eval_delay eval_do_concat_batches eval_num_beams
    eval_on_start eval_use_gather_object export_device export_dir
    export_hub_model_id export_legacy_format export_quantization_bit export_quantization_dataset
    export_quantization_maxlen export_quantization_nsamples export_size fp16_backend
    fp16_full_eval fp16_opt_level fp8_backend fp8_enable_fsdp_float8_all_gather
    freeze_language_model freeze_multi_modal_projector freeze_vision_tower
    fsdp_min_num_params fsdp_transformer_layer_cls_to_wrap galore_layerwise galore_proj_type
    galore_rank galore_scale galore_target galore_update_interval generation_config
    generation_max_length generation_num_beams gradient_checkpointing
    gradient_checkpointing_kwargs half_precision_backend
    hf_hub_token hub_always_push hub_model_id hub_private_repo hub_revision hub_strategy
    hub_token hyper_parallel_args hyper_parallel_cp_size ignore_data_skip
    ignore_pad_token_for_loss image_do_pan_and_scan image_max_pixels image_min_pixels
    include_effective_tokens_per_second include_for_metrics include_inputs_for_metrics
    include_tokens_per_second infer_backend infer_dtype init_special_tokens
    jit_mode_eval kt_cpu_activation kt_expert_checkpoint_path kt_lora_expert_intermediate_size
    kt_lora_expert_num kt_non_expert_weight_path kt_use_lora_experts kt_weight_path
    kto_chosen_weight kto_rejected_weight label_names label_smoothing_factor ld_alpha
    length_column_name length_penalty liger_kernel_config local_rank
    log_level log_level_replica log_on_each_node logging_dir logging_first_step
    logging_nan_inf_filter logging_strategy
    low_cpu_mem_usage
    master_addr master_port max_length max_new_tokens media_dir
    mixture_of_depths module_dropout ms_hub_token
    neftune_noise_alpha new_special_tokens_config no_cuda num_beams offload_folder
    oft_block_size oft_rank oft_target om_hub_token optim_args optim_target_modules
    parallelism_config past_index per_gpu_eval_batch_size
    per_gpu_train_batch_size ppo_buffer_size ppo_epochs
    ppo_score_norm ppo_target ppo_whiten_rewards predict_with_generate prediction_loss_only
    pref_bco_weight preprocessing_batch_size
    print_param_status profile_modules profiler_active_steps profiler_output_dir
    profiler_profile_memory profiler_record_shapes profiler_repeat profiler_wait_steps
    profiler_warmup_steps profiler_with_stack project pure_bf16 push_to_hub push_to_hub_model_id
    push_to_hub_organization push_to_hub_token quantization_device_map
    ray_init_kwargs ray_num_workers ray_scope
    ref_model_adapters ref_model_quantization_bit remove_unused_columns repetition_penalty
    resize_vocab restore_callback_states_from_checkpoint reward_model reward_model_adapters
    reward_model_quantization_bit reward_model_type save_on_each_node save_safetensors
    sglang_config sglang_lora_backend sglang_maxlen sglang_mem_fraction sglang_tp_size
    shift_attn skip_memory_metrics skip_special_tokens sortish_sampler
    split_special_tokens swanlab_api_key swanlab_lark_secret swanlab_lark_webhook_url
    swanlab_logdir swanlab_mode swanlab_project swanlab_run_name swanlab_workspace temperature
    tf32 tool_format top_k top_p torch_empty_cache_steps torchdynamo tpu_metrics_debug tpu_num_cores
    trackio_bucket_id trackio_space_id trackio_static_space_id train_from_scratch
    train_sampling_strategy upcast_layernorm upcast_lmhead_output use_adam_mini
    use_apollo use_asft_loss use_audio_in_video use_badam use_cache use_dft_loss
    use_eaft_loss use_fast_tokenizer use_galore use_hyper_parallel use_kt use_kv_cache
    use_legacy_prediction_loop use_liger_kernel use_llama_pro use_mca use_megatron_bridge
    use_mps_device use_reentrant_gc use_swanlab use_unsloth use_v1_kernels
    video_fps video_max_pixels video_maxlen video_min_pixels vllm_config
    vllm_enforce_eager vllm_gpu_util vllm_max_lora_rank vllm_maxlen
    """.split()
)

DROPPED_WHEN_FALSE = frozenset({"fp8", "group_by_length"})
"""Keys that not every release of Transformers takes, even as false."""
