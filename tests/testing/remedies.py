"""What the failures of the conformance suites must say: where it fails, and what its author can do."""

from __future__ import annotations

import re
from typing import Any

import pytest

REMEDIES = {  # patterns of the first line, by test
    # all suites
    "test_the_class_or_its_file_has_a_docstring": "say what it is, and its source",
    "test_every_option_has_a_description": r"option eps .*Field\(description=",
    "test_options_are_frozen": "option eps can be set: leave frozen = True|use tuples in place of lists",
    "test_unknown_options_are_refused": "leave extra = 'forbid'",
    "test_options_survive_toml": r"Halving\(eps=0.5\) is Halving\(eps=0.25\): a validator .* must not change it",
    # suites of modules
    "test_a_schedulable_option_may_change": "mix is in `schedulable`: .* should have the component as `options`"
    "|with mix set to 0.4 .*: read self.mix in each forward pass",
    "test_modules_share_no_weights": "2 parameters are shared by two modules.*build must make new ones",
    "test_weights_survive_being_saved": "register fixed tensors with register_buffer",
    "test_eval_mode_is_deterministic": "draw random numbers only if self.training",
    "test_two_threads_may_call_it_at_once": "keep such state out of the module, or set threads = False",
    "test_gradients_pass_gradcheck": "gradient of .* differs.*detach nothing.*gradcheck_step = .*differentiable = False"
    "|set gradcheck_step = 0.001",
    "test_extreme_features_stay_finite": "features of size (1e|0)[^;]* values|features of size .*; add an eps",
    "test_compiled_it_computes_the_same": r"let nothing depend on is_compiling\(\)|compiles = False",
    # norm and mlp
    "test_extras_are_scalars_in_fp32": r"'penalty' of mlp is .* in bfloat16; .*values.float\(\).sum\(\)",
    "test_extras_of_rows_add_up_and_so_do_their_gradients": "'penalty' of two rows .*return a sum over the tokens",
    "test_batch_statistics_are_weighted_by_the_tokens": "'penalty' .*multiply it by the number of tokens",
    "test_extras_depend_on_the_tokens_alone": "'penalty' .*must not remember earlier passes",
    "test_compiled_in_training_it_gives_the_same_extras": r"'penalty' is another one: .*is_compiling\(\)",
    "test_shape_and_dtype_are_kept": r"type_as\(x\)|compute sums over features in fp32|one vector of n_embd"
    "|return as many logits as it gets|convert the result to the logits' dtype",
    "test_positions_are_independent": r"at \[row, position\] \[0, 0\] changes .*compute each position by itself",
    "test_without_dropout_training_mode_computes_the_same": "use ctx.dropout, and no batch statistics",
    "test_heads_are_normalised_like_positions": "normalize over the last dimension",
    "test_dropout_is_for_training_only": r"use nn.Dropout, or F.dropout|apply nn.Dropout\(ctx.dropout\)",
    # attention
    "test_it_computes_what_is_expected": r"^[\w, ]+: it is not the softmax .*view.mask.*view.penalty.*computed_function"
    "|^[\\w, ]+: a query gets something else",
    "test_its_gradients_are_those_of_what_is_expected": "causal square: the gradient of k .*differentiable = False",
    "test_queries_share_keys_and_values_in_groups": r"view.mask\(window\)",
    "test_gradients_of_shared_keys_and_values_add_up": r"view.mask\(window\)|differentiable = False",
    "test_a_head_of_keys_belongs_to_consecutive_heads_of_queries": "repeat_interleave.*independent_heads = False",
    "test_bfloat16_stays_near_what_is_expected": "compute scores and weights in fp32|type_as",
    "test_a_row_that_attends_to_nothing_is_zero_and_gives_no_gradient": "set the weights of such rows to zero",
    "test_a_later_key_never_changes_an_earlier_row": r"^[\w, ]+: key \d .*view.mask\(window\)",
    "test_large_scores_stay_finite": "subtract the largest score",
    "test_layers_may_share_a_view": "layer 1 .*view.cached",
    "test_dropout_is_refused_or_for_training_only": "apply nn.Dropout.*raise a KitError|view.mask",
    # position
    "test_shapes_are_kept": "embed: .*return as many features as come in",
    "test_dtypes_are_kept": r"rotate: torch.bfloat16 gives .*type_as\(x\)",
    "test_each_row_may_have_its_own_positions": r"positions are \(1 or B, T\)",
    "test_tokens_fed_in_chunks_get_the_same": "rotate: tokens (5 to 9|9 to 10) .*`positions`",
    "test_a_rotation_keeps_lengths": "cosine and sine",
    "test_it_declares_whether_it_acts_in_mixers": "it rotates or has slopes: set acts_in_mixers = True in OfClass",
    "test_scores_depend_on_distance_alone": "leave out relative = True|relative = False here",
    "test_slopes_are_one_for_each_head": r"slopes are \(\), not \(6,\): return one for each head",
    "test_cropped_it_is_a_shorter_one": r"override crop\(block_size\)",
    # model
    "test_logits_are_one_row_for_each_token_and_none_for_padding": r"\(2, 11, 64\), not \(2, 11, 37\).*vocab_size",
    "test_a_later_token_never_changes_an_earlier_logit": r"at \[token, logit\] .*view.mask",
    "test_a_later_token_never_changes_an_earlier_logit_through_a_cache": r"at \[token, logit\] .*view.mask",
    "test_cached_logits_are_those_of_one_pass": r"in chunks of .*in the cache alone|call cache.advance\(T\) once",
    "test_cached_logits_stay_near_in_bfloat16": "keep a recurrent state in fp32",
    "test_two_caches_used_in_turn_stay_independent": "at token 1: keep what earlier tokens left in the cache alone",
    "test_the_initial_loss_is_near_uniform_guessing": r"guessing gives 3.611: .*set `init` here",
    "test_the_loss_is_the_cross_entropy_of_the_logits_and_so_are_its_gradients": "return the sum, not the mean",
    "test_without_targets_the_loss_is_zero": "not 0: return the sum, not the mean, over the targets that are not -1",
    "test_the_loss_is_in_fp32_under_autocast_too": "compute it with api.linear_cross_entropy",
    "test_losses_of_rows_add_up_and_so_do_their_gradients": "do not add up .*return the sum, not the mean",
    "test_in_training_the_objective_is_the_loss_of_evaluation_and_the_extras": "return api.TrainingLoss",
    "test_every_parameter_has_one_role_and_a_gradient": "idle.weight gets no gradient: use it in forward",
    "test_only_embedding_and_head_grow_with_the_vocabulary": "make it an nn.Embedding or an api.HeadLinear",
    "test_gradients_are_finite_differences": "detach nothing.*compute in the dtype of the weights",
    "test_merged_it_is_its_inner_model_and_computes_the_same": "return a copy that has|copy it first|keep their names",
    "test_it_applies_multipliers_where_it_says_so": "leave applies_multipliers = False",
    "test_a_cropped_model_is_a_shorter_one": "crop every table of positions",
    # sampler
    "test_its_inputs_are_not_modified": "in place: (return a new tensor|make a new tensor, as|copy them)",
    "test_the_same_input_always_gives_the_same": "draw no random numbers",
    "test_no_row_depends_on_its_neighbours": r"text 0 .*reduce over the last dimension only",
    "test_left_padding_changes_nothing": "text 1 .*leave out tokens that are -1",
    "test_some_possible_token_stays_possible": "keep at least one that is possible",
    "test_a_forbidden_token_stays_forbidden": "-inf must stay -inf",
    "test_probabilities_are_never_nan": "use torch.where or masked_fill|clamp them to the range of float32",
    "test_what_was_drawn_matters_to_a_sampler_with_memory": "derive it from api.Sampler",
    # optimizer
    "test_it_descends": "set an `lr` here that trains a small model",
    "test_every_role_moves_and_is_in_one_group": "pass on every group|embedding was not updated: update every group",
    "test_each_group_has_its_own_learning_rate": "use the lr of the parameter's own group",
    "test_the_length_of_the_run_matters_only_where_it_is_said_to": "set uses_total_steps = True",
    "test_groups_keep_the_keys_that_the_loop_reads": "groups it was given: copy|has names = .*: keep the keys.*split",
    "test_the_learning_rate_is_the_loops": r"matrix changed with lr = 0: use group\['lr'\]",
    "test_resumed_it_continues_bit_for_bit": "matrix differs after a resume: keep all state|load with weights_only",
    "test_frozen_parameters_have_no_state": "make state when a parameter is first updated",
    "test_a_parameter_without_a_gradient_is_left_alone": "skip those whose grad is None",
    "test_a_step_grows_with_the_shape_as_step_norm_says": "step_norm must return None|step_norm must be in proportion",
    "test_evaluations_and_checkpoints_leave_the_training_as_it_is": "keep what `eval` replaces in optimizer.state",
    # dataset
    "test_train_and_val_are_among_its_splits": r"splits is \('train', 'validation'\): add val",
    "test_every_pass_gives_the_same": "over train (gives other|marks other spans) .*sort what the file system or a set",
    "test_every_split_has_something": "val has no (text|tokens): test with a larger source",
    "test_documents_are_strings_or_can_be_iterated_again": "train .*(decode it to strings|opens its source)",
    "test_text_is_decoded_correctly": "document 5 of train .*Decode it with its encoding",
    "test_all_text_is_unicode": "document 5 of train .*use errors='replace'",
    "test_no_text_is_in_two_splits": "'three' is in train and in val: .*HashSplitDataset.*has_own_splits = True",
    "test_documents_with_split_are_those_of_the_splits": "(about|of) (train|val): .*leave documents_with_split to the",
    "test_something_counts_in_every_split": "of val has text: mark what is to be learnt, or yield strings",
    "test_the_fingerprint_is_a_stable_hash": "a hash of the options and of the source's content",
    "test_the_text_size_is_positive_or_unknown": r"text_bytes\(\) is 0.5: return a positive whole number",
    "test_tokens_are_flat_integer_arrays": "train (are float32: yield|holds .*is the dtype|.*flatten)",
    "test_the_token_count_is_right_or_unknown": "is 15, but there are 16: return the sum over all splits",
    "test_a_token_has_a_location": "train are both at somewhere: return the file and the position in it",
    "test_a_vocabulary_survives_json": "use strings as keys",
    "test_each_source_has_its_splits_and_no_sources": "source '.*: (use letters|leave it out|name those in its place)",
    "test_the_proportions_are_numbers_for_all_sources": r"proportions\(\) .*(give one, two|at least one of them)",
    # order
    "test_each_window_and_its_next_token_lie_in_the_text": "step 1 of 49 tokens .*block_size [+] 1 tokens",
    "test_the_same_step_always_gives_the_same_windows": "step 29 .*seeded with ctx.seed and the step",
    "test_windows_differ_by_step_and_by_seed": "set varies = False here",
    "test_an_epoch_sees_each_window_once_in_batches_of_any_size": "from ctx.first_window on|place them 16 tokens apart",
    "test_batches_of_any_size_are_filled": "return ctx.batch_windows starts",
    "test_a_late_step_takes_no_longer": "compute it from the step, not from the steps before",
    "test_pieces_fit_into_their_windows": "step 0, has_eot = True: .* have .* tokens .*see PackedOrder.packed",
    "test_a_piece_lies_within_one_document": "step 0, has_eot = True: .*opens with the end-of-text token before it",
    "test_the_same_step_always_gives_the_same_pieces": "step 29 .*follow from the context and the step alone",
    "test_no_token_is_in_an_epoch_twice": r"2 times: return from epoch\(\)|count windows from ctx.first_window on",
    # schedule
    "test_each_multiplier_is_a_finite_number_that_is_not_negative": r"step \d+ of \d+.*(keep it at 0 or above|float\()",
    "test_the_same_step_always_has_the_same_multiplier": "step 9.*from the step and total_steps alone",
    "test_a_length_need_not_be_whole": "step 0.*(treat both alike|any length, whole or not)",
    "test_a_note_is_a_sentence_or_none": r"note\(0\) is 3: return a sentence, or None",
    # parallel
    "test_it_accepts_its_processes_or_gives_a_reason": r"refuses 2 processes .*Sundays only\): set `processes` here",
    "test_each_rank_gets_the_loss_of_its_own_windows": "rank 0 gets another loss .*sum over its own windows"
    "|cannot train a small model: all ranks must call the same collectives .*rank",
    "test_it_passes_on_segments_and_auxiliary_losses": "pass all arguments on to the model|api.TrainingLoss",
    "test_gradients_are_summed_over_ranks_and_micro_steps": r"gradient of wte.weight, (0.5|1\.\d+) times as large: sum "
    "gradients over the processes, do not average them",
    "test_the_norm_is_that_of_all_gradients": r"clip\(0.01\) on rank 0 .*: reduce it over all shards",
    "test_the_clipped_gradient_is_a_smaller_one": "clip in place|wte.weight's gradient larger: only scale it down",
    "test_weights_keep_their_names_and_values": "change the model in place|lm_head.weight .*leave the weights as they",
    "test_an_update_is_the_same_on_all_ranks": "differs between ranks 0 and 1: reduce every gradient",
    # evaluator
    "test_it_accepts_a_small_model_and_its_vocabulary": r"\(it is tired\): test with options|set block_size here",
    "test_metrics_are_numbers_with_a_prefix": "cannot evaluate a small model|val/seven is inf: divide by"
    "|evaluate returns None: return a dict"
    "|val/seven is .*return a float|'seven' has no prefix: name it as in val/seven",
    "test_its_metrics_are_known_before_the_run": "return the keys of what evaluate returns|'val/bits'.*name some of",
    "test_a_second_evaluation_gives_the_same": "draw from a generator with its own seed",
    "test_the_batch_size_changes_nothing": "val/seven is .* in batches of 5: sum over .* no mean of means",
    "test_the_model_is_left_as_it_was": "copy what you change|leave its mode alone|compute without them|in a `finally`",
    "test_the_model_computes_in_the_precision_of_the_run": "wrap the call in `with ctx.autocast",
    "test_it_reads_the_splits_that_it_names": "reads val, .*name every split|leave refusal_reason to the base class",
    "test_it_ends_where_the_user_stops_the_run": r"call ctx.check_stop\(\) before each batch|do not catch what",
    "test_a_closed_test_split_stays_closed": "leave refusal_reason to the base class|measure on val",
    # callback
    "test_each_build_is_a_fresh_object": "return a new one for each run",
    "test_its_hooks_are_known": "unknown hook 'step_finishd'; did you mean 'step_finished'|the warning in the log",
    "test_it_takes_part_in_a_run": "nothing is wrong: .*step_finished: ValueError|the tracker was dropped"
    "|left ids from -7 to .*0 to 256",
    "test_after_an_evaluation_the_model_has_its_trained_weights": "changes wte.weight: undo in evaluation_ended",
    "test_a_tracker_only_reports": "changes wte.weight: .*set is_tracker = False",
    "test_torchs_random_numbers_stay_as_they_are": "draw from its own torch.Generator",
    "test_every_rank_does_the_same": "wte.weight differs .*let nothing depend on run.rank",
    "test_its_state_survives_a_checkpoint": "largest in its state is not finite: hold a bound|hold tensors, numbers,"
    "|load_state_dict must take all",
    "test_resumed_it_continues_as_if_it_had_not_stopped": "wte.weight is another: keep in state_dict",
    "test_the_metrics_that_it_reads_are_options": "'metric': 'val/other', .*name options and their values",
    # tokenizer
    "test_text_comes_back": "set lossless = False here|leave it to the base class",
    "test_ids_are_integers_in_the_vocabulary": "one-dimensional NumPy array of integers|count added tokens, too",
    "test_texts_of_a_batch_are_independent": "encode each text by itself",
    "test_an_empty_text_has_no_tokens": "add no special tokens",
    "test_no_text_ends_a_document": "'<|endoftext|>' contains .*encode special tokens as ordinary text",
    "test_the_end_of_a_document_has_no_bytes": r"eot_id .*(count it|leave it out of the text|any id below vocab_size)",
    "test_every_id_can_be_decoded_token_by_token": r"^\[.*override stream\(\)|^the ids \[.*any id below vocab_size",
    "test_a_text_follows_its_prompt": r"after a prompt of 3 tokens .*stream\(prompt\) must return",
    "test_decoding_is_that_of_its_library": r"override library\(\) here",
    "test_ids_may_come_as_any_iterable": r"ids as (list_iterator|uint32 ndarray) .*int\(token\) for token in ids",
    "test_unknown_counts_what_is_lost": "count_unknown of .*count only what decoding does not return",
    "test_tokens_stand_for_characters_of_the_text": "override it where|return an integer array of shape",
    "test_a_text_can_be_cut_where_it_reports": "0 is always right",
    "test_training_is_deterministic": "break ties by the token",
    "test_it_is_restored_from_its_state_as_json": r"put all that training chose into state\(\)"
    "|use lists and string keys|hold strings, numbers, lists and dicts",
    "test_the_vocabulary_has_the_announced_size": r"is 256, but vocab_size is 257: return that number",
}


def assert_fails(suite: Any, test: str, *arguments: Any) -> None:
    """The test fails with a first line that names the place and the remedy."""
    with pytest.raises((AssertionError, pytest.fail.Exception)) as caught:
        getattr(suite, test)(*arguments)
    first, _, _ = str(caught.value).partition("\n")
    assert re.search(REMEDIES[test], first), f"{test} names no remedy: {first}"
