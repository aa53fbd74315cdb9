"""Parameters of OpenAI's API and of other servers that this engine does not implement.

One that would change the reply is refused by name, unless its value is neutral: the value that switches it off, or the
server's default. Knows names and values only. Names that are in no list here are ignored: clients send many that
change nothing (`store`, `metadata`, `service_tier`, `parallel_tool_calls`, `cache_prompt`, …).
"""

import re
from collections.abc import Callable, Mapping

from engine.server.protocol.errors import RequestError

Neutral = Callable[[object], bool]


def _is_off(value: object) -> bool:
    return not value


def _is_one_of(*neutral: object) -> Neutral:
    return lambda value: value in neutral


def _is_at_most_zero(value: object) -> bool:
    return not value or (isinstance(value, int | float) and value <= 0)


def _is_plain_text(value: object) -> bool:
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


# By name. A pattern below covers the rest of each family.
_NEUTRAL: Mapping[str, Neutral] = {
    # OpenAI
    "tools": _is_off,
    "functions": _is_off,
    "tool_choice": _is_one_of("none", "auto"),
    "function_call": _is_one_of("none", "auto"),
    "logit_bias": _is_off,
    "logprobs": _is_false,
    "top_logprobs": _is_off,
    "prompt_logprobs": _is_false,
    "audio": _is_off,
    "prediction": _is_off,
    "web_search_options": _never,
    "verbosity": _is_one_of("medium"),
    "response_format": _is_plain_text,
    # How the prompt is made
    "documents": _is_off,
    "images": _is_off,
    "system": _is_off,
    "system_prompt": _is_off,
    "negative_prompt": _is_off,
    "truncate_prompt_tokens": _never,
    "echo": _is_off,
    "suffix": _is_off,
    "options": _is_off,
    "format": _is_off,
    "template": _is_off,
    "context": _is_off,
    "raw": _is_off,
    "safe_prompt": _is_off,
    "response_prefix": _is_off,
    "plugins": _is_off,
    "transforms": _is_off,
    "enable_thinking": _never,
    "chat_template_kwargs": _is_off,
    "mm_processor_kwargs": _is_off,
    # What is sampled
    "do_sample": _is_one_of(True),
    "early_stopping": _is_off,
    "num_beams": _is_one_of(1),
    "num_beam_groups": _is_one_of(1),
    "num_return_sequences": _is_one_of(1),
    "length_penalty": _is_one_of(1),
    "penalty_alpha": _is_off,
    "guidance_scale": _is_one_of(1),
    "cfg_scale": _is_one_of(1),
    "temperature_last": _is_off,
    "skew": _is_off,
    "top_k": _is_at_most_zero,
    "top_n_sigma": _is_at_most_zero,
    "nsigma": _is_at_most_zero,
    "min_p": _is_off,
    "adaptive_target": _is_at_most_zero,
    "thinking": _is_disabled,
    "reasoning": _is_disabled,
    "think": _is_off,
    "reasoning_effort": _is_one_of("none"),
    "reasoning_format": _is_one_of("none", "auto"),
    # Which tokens may come, and when the reply ends
    "ban_eos_token": _is_off,
    "stop_token_ids": _is_off,
    "include_stop_str_in_output": _is_off,
    "skip_special_tokens": _is_one_of(True),
    "t_max_predict_ms": _is_at_most_zero,
    "n_indent": _is_off,
    "stop_regex": _is_off,
    "no_stop_trim": _is_off,
    "regex": _is_off,
    "ebnf": _is_off,
    "structural_tag": _is_off,
    "return_token_ids": _is_off,
    "return_tokens_as_token_ids": _is_off,
    "n_probs": _is_off,
    "vllm_xargs": _is_off,
    "custom_params": _is_off,
}

_SUPPORTED = frozenset({"top_p"})  # names that a family below would catch
_OTHER_NAMES: Mapping[str, str] = {
    **dict.fromkeys(("n_predict", "num_predict", "max_new_tokens", "max_length", "max_gen_len"), "max_tokens"),
    **dict.fromkeys(("stop_sequences", "stop_sequence", "stopping_strings", "custom_stopping_strings"), "stop"),
    **dict.fromkeys(("random_seed", "sampler_seed"), "seed"),
}

_FAMILIES: tuple[tuple[re.Pattern[str], Neutral], ...] = tuple(
    (re.compile(pattern), neutral)
    for pattern, neutral in (
        (r"(presence|frequency|freq|pres)_?(penalty|pen)|penalty_(freq|present)", _is_off),
        (r".*(repeat|repetition|rep)_?(penalty|pen)|penalty_repeat", _is_one_of(1)),
        (r"(typ_p|typical.*|tfs.*)", _is_one_of(1)),
        (r"(dry|xtc|dynatemp|dynamic_temp|smoothing|mirostat)\w*", _is_off),
        (
            r"(guided_(?!decoding_backend|whitespace)|structured|lora|adapter|forced?|suppress|banned|bad_words|allowed_token|custom_token)\w*",
            _is_off,
        ),
        (r"\w*(grammar|json_?schema|logits?_?(processor|bias)|beam|token_bans?|samplers?|sampler_\w+)\w*", _is_off),
        (r"\w+_cutoff|no_repeat_ngram\w*|top_[a-z]|min_(?!p$)\w+", _is_off),
        (r"chat_template\w*|reasoning_\w+|thinking_\w+", _is_off),
    )
)

# A parameter of another one, which does nothing as long as that one is off.
_SWITCHES: tuple[tuple[re.Pattern[str], tuple[str, ...]], ...] = (
    (re.compile(r"mirostat_(tau|eta)"), ("mirostat", "mirostat_mode")),
    (re.compile(r"dry_\w+"), ("dry_multiplier",)),
    (re.compile(r"xtc_threshold"), ("xtc_probability",)),
    (re.compile(r"dynatemp_\w+|(min|max)_temp"), ("dynatemp_range", "dynamic_temperature")),
    (re.compile(r"smoothing_curve"), ("smoothing_factor",)),
)


def refuse_unsupported(body: Mapping[str, object]) -> None:
    """Raises RequestError for the first parameter that would change the reply. A parameter that is null is absent."""
    for name, value in body.items():
        if value is None or name in _SUPPORTED:
            continue
        if name in _OTHER_NAMES:
            if value and value != -1:
                raise _refused(name, f"is not a parameter of this API: send '{_OTHER_NAMES[name]}'")
            continue
        neutral = _NEUTRAL.get(name) or _family(name)
        if neutral is not None and not neutral(value) and not _is_switched_off(name, body):
            raise _refused(name, "is not supported by this engine")


def _family(name: str) -> Neutral | None:
    return next((neutral for pattern, neutral in _FAMILIES if pattern.fullmatch(name)), None)


def _is_switched_off(name: str, body: Mapping[str, object]) -> bool:
    for pattern, switches in _SWITCHES:
        if pattern.fullmatch(name) and name not in switches:
            given = [body[switch] for switch in switches if switch in body]
            return bool(given) and not any(given)
    return False


def _refused(name: str, reason: str) -> RequestError:
    return RequestError(f"'{name}' {reason}.", param=name, code="unsupported_parameter")
