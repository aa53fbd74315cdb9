"""Request fields of OpenAI's API and of other servers that this engine does not have, and the values that mean "off".

Tables only; unsupported.py uses them. Names are in snake case. Fields in no table do not change a reply and are
ignored: `store`, `metadata`, `priority`, `cache_prompt`, `keep_alive`, the range of a penalty, the size of a context.
"""

import re
from collections.abc import Callable, Mapping

Neutral = Callable[[object], bool]


def _is_off(value: object) -> bool:
    return not value


def _is_one_of(*neutral: object) -> Neutral:
    return lambda value: value in neutral


def _is_at_most_zero(value: object) -> bool:
    return not value or (isinstance(value, int | float) and value <= 0)


def _is_plain_text(value: object) -> bool:
    """For `response_format`, and for `text`, which has it inside."""
    if isinstance(value, dict) and "format" in value:
        value = value["format"]
    return not value or (isinstance(value, dict) and value.get("type") == "text")


def _is_disabled(value: object) -> bool:
    """For `thinking` and `reasoning`, which are objects."""
    switched_off = {"type": ("disabled",), "enabled": (False,), "effort": ("none",)}
    return not value or (
        isinstance(value, dict) and any(name in value and value[name] in off for name, off in switched_off.items())
    )


def _never(_value: object) -> bool:
    return False


def _is_false(value: object) -> bool:
    """For counts of log-probabilities, where 0 asks for those of the sampled tokens."""
    return value is False


def _is_no_schema(value: object) -> bool:
    """{} is a schema: any JSON."""
    return not value and value != {}


# By name. A pattern below covers the rest of each family.
NEUTRAL: Mapping[str, Neutral] = {
    # Input, and how the answer is made
    **dict.fromkeys(("tools", "functions", "audio", "prediction", "images", "mcp_servers", "guardrails"), _is_off),
    **dict.fromkeys(("tool_choice", "function_call"), _is_one_of("none", "auto")),
    **dict.fromkeys(("logprobs", "prompt_logprobs"), _is_false),
    **dict.fromkeys(("response_format", "text"), _is_plain_text),
    **dict.fromkeys(("thinking", "reasoning"), _is_disabled),
    **dict.fromkeys(("num_return_sequences", "candidate_count", "n_cmpl"), _is_one_of(1)),
    "web_search_options": _never,
    "verbosity": _is_one_of("medium"),
    "top_logprobs": _is_off,
    "think": _is_off,
    "enable_thinking": _never,
    "reasoning_effort": _is_one_of("none"),
    "reasoning_format": _is_one_of("none", "auto"),
    "reasoning_budget": _is_at_most_zero,
    "response_mime_type": _is_one_of("text/plain"),
    "truncate_prompt_tokens": _never,
    "add_bos_token": _is_one_of(True),
    # Sampling
    **dict.fromkeys(("do_sample", "skip_special_tokens", "trim_stop"), _is_one_of(True)),
    **dict.fromkeys(("num_beams", "num_beam_groups", "beam_width"), _is_one_of(1)),
    **dict.fromkeys(("guidance_scale", "cfg_scale"), _is_one_of(1)),
    **dict.fromkeys(("top_k", "top_n_sigma", "nsigma", "adaptive_target", "t_max_predict_ms"), _is_at_most_zero),
    **dict.fromkeys(("min_p", "penalty_alpha", "skew", "temperature_last", "early_stopping", "n_indent"), _is_off),
    "decoding_method": _is_one_of("sample"),
}

SUPPORTED = frozenset({"top_p"})  # names that a family below would catch
OTHER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("n_predict", "num_predict", "max_length", "max_gen_len", "max_output_tokens"), "max_tokens"),
    **dict.fromkeys(("max_new_tokens", "max_new_token", "max_completion_token", "max_tokens_to_sample"), "max_tokens"),
    **dict.fromkeys(("stop_sequences", "stop_sequence", "stopping_strings", "custom_stopping_strings"), "stop"),
    **dict.fromkeys(("stop_words", "stop_strings", "stop_str", "stop_conditions"), "stop"),
    **dict.fromkeys(("random_seed", "sampler_seed"), "seed"),
    **dict.fromkeys(("repeat_penalty", "rep_pen"), "repetition_penalty"),
    "temp": "temperature",
    "bypass_eos": "ignore_eos",
}

_INERT = r"(?!\w*(_range|_slope|_decay|_sustain|_last_n|_context_size)$)"  # parameters of another one
_OFF_FAMILIES = (
    # Which tokens may come, and when the reply ends
    r"guided_(?!decoding_backend|whitespace)\w+|structured\w*|json_(object|mode)|(output|text)_(format|config)|format",
    r"regex\w*|ebnf|choices?|constraints?|guided|structural_tag|\w*grammar\w*",
    r"(forced?|suppress|banned|bad_words|allowed_token|custom_token|preserved_token)\w*|\w*token_bans?",
    r"\w*(logits?|token|embedding)s?_?bias\w*|bias|\w*logits?_?processors?\w*",
    r"ban_eos_token|use_default_badwordsids|repetition_detection|min_(?!p$)\w+|no_repeat_ngram\w*",
    r"(eos|bos|end|stop)_(token_?)?ids?|(eos|bos|stop)_tokens?|stop_regex|no_stop_trim|include_stop_str_in_output",
    r"singleline|frmt\w+|token_healing|watermark",
    # Other ways to sample
    r"(dry|xtc|dynatemp|dynamic_temp|smoothing|mirostat)\w*",
    r"\w*beam\w*|\w*samplers?|sampler_\w+|\w+_cutoff|top_[a-z]|top_p_\w+|\w+_top_k|greedy|decoding",
    r"(lora|adapter|steering|control_vector)\w*|vllm_xargs|custom_params|reasoning_\w+|thinking_\w+",
    # Another prompt
    r"(chat_|prompt_|instruction_)?template\w*|chat_format|role_mapping|mm_processor_kwargs|raw|context|documents",
    r"instructions?|system(_prompt|_instruction)?|negative_prompt|safe_prompt|prompt_mode|tool_prompt|guideline",
    r"input(s|_ids|_prefix|_suffix|_extra)?|prompt_embeds|(image|audio|video|multimodal)_data|echo|suffix",
    r"prefix|prefill|(assistant|response)_prefix|generation_prompt|memory|character|persona|greeting|user_bio|preset",
    r"previous_response_id|conversation|session_params|impersonate|chat_instruct_command|plugins|transforms",
    r"(enable_|web_)?search(_\w+)?|citations",
    # More in the response
    r"return_(tokens?_\w+|tokens|hidden_states|logprob|routed_experts|full_text)|n_probs|render_special",
    r"decoder_input_details|top_n_tokens|top_logits|logprob_token_ids",
    # Fields inside a field, where clients that merge `extra_body` never put them
    r"options|parameters|sampling(_params|_parameters)?|gener(ation_config|ate_kwargs|ation_kwargs)|gen_kwargs",
    r"extra_body|google",
)
FAMILIES: tuple[tuple[re.Pattern[str], Neutral], ...] = tuple(
    (re.compile(pattern), neutral)
    for pattern, neutral in (
        (r"(presence|frequency|freq|pres)_?(penalty|pen)|penalty_(freq|present)", _is_off),
        (_INERT + r"(.*(repeat|repetition|rep|len|length)_?(penalty|pen)|penalty_repeat)", _is_one_of(1)),
        (_INERT + r"\w*penalty\w*", _is_off),
        (r"typ_p|typical.*|tfs.*", _is_one_of(1)),
        (r"(guided_)?json|guided_json\w*|json_?schema|(output|response|guided)_?schema|schema", _is_no_schema),
        *((pattern, _is_off) for pattern in _OFF_FAMILIES),
    )
)

# A parameter that has no effect while the one it belongs to is off.
SWITCHES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"mirostat_(tau|eta)"), ("mirostat", "mirostat_mode")),
    (re.compile(r"dry_\w+"), ("dry_multiplier",)),
    (re.compile(r"xtc_\w+"), ("xtc_probability",)),
    (re.compile(r"dynatemp_\w+|(min|max)_temp"), ("dynatemp_range", "dynamic_temperature")),
    (re.compile(r"smoothing_curve"), ("smoothing_factor",)),
)
