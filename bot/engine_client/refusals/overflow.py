"""Recognises the refusal of a prompt that is too long, and the numbers of tokens in its sentence.

Servers agree on no wording. A wrong limit is worse than none (the client would cut every later reply to fit it), so a
number counts only where the sentence says what it is. Knows the wordings of OpenAI, vLLM, SGLang, TGI, llama.cpp's
server, LM Studio, Ollama, Anthropic, Google, Mistral, Cohere, OpenRouter and of our own engine.
"""

from __future__ import annotations

import re

from bot.engine_client.refusals.refusal import Refusal, tokens

_CODES = {"context_length_exceeded", "exceed_context_size_error", "string_above_max_length", "model_max_prompt_tokens"}
_CODES |= {"model_max_prompt_tokens_exceeded", "request_too_large", "tokens_limit_reached"}
_PROMPT_PARAMS = {"messages", "prompt", "input", "inputs", "body"}
_TOO_LONG = re.compile(
    r"""context[ _-]*(?:length|size|window|limit) | context[ ]holds | \bn_ctx\b | token[ ]limit
    | when[ ]context[ ]the[ ]overflows | maximum[ ]allowed[ ]length
    | max(?:imum)?[ _](?:model|input|prompt|sequence|seq)[ _]?(?:len|length)
    | (?:prompt|inputs?|request|messages?|conversation|query|sequence)`?[ ](?:is|are|was|has)[ ](?:far[ ]|much[ ])?
      (?:too[ ](?:long|large|big)|longer[ ]than|larger[ ]than)
    | (?:prompt|input)[ ]too[ ](?:long|large|big) | request[ ](?:body[ ])?too[ ]large
    | too[ ]many[ ](?:(?:input|prompt|total)[ ])?tokens
    | (?:prompt|input|sequence|context|history|max_new)\w*[ ](?:\w+[ ]){0,2}\(?\d[^.]{0,50}
      (?:exceed|(?:greater|longer|larger|more)[ ]than|less[ ]than)[^.]{0,40}\d
    | sequence[ ]length[ ]exceeds | range[ ]of[ ]input[ ]length
    | prompt_tokens[^.]{0,20}must[ ]be[ ]less
    | (?:prompt|input|request)[^.]{0,60}exceed\w*[^.]{0,40}(?:length|tokens|limit|max)
    | exceed\w*[ ](?:the[ ])?(?:max\w*|allowed)[ _](?:\w+[ _])?(?:length|tokens|tokens[ ]allowed)
    | maximum[ ]number[ ]of[ ](?:input[ ])?tokens | token[ ]count[^.]{0,40}exceed
    | max_new_tokens`?[ ]must[ ]be[ ]<= | inputs`?[ ]must[ ]have[ ]less[ ]than | prompt[ ]contains[ ]\d+[ ]tokens
    | reduce[ ](?:the[ ]|your[ ])?(?:length|prompt|input)""",
    re.IGNORECASE | re.VERBOSE,
)
_ONLY_THE_REPLY = re.compile(
    r"^\W*max_(?:completion_|output_)?tokens\W+(?:must|should|cannot|can not)\b", re.IGNORECASE
)
_THE_PROMPT = re.compile(r"\b(?:input|prompt|messages?)\b", re.IGNORECASE)
_MORE = r"(?:exceed\w*|(?:greater|longer|larger|more|less|bigger) than)"
_WORDS = r"[^.\d;+<>]{0,40}?"
_LIMITS = [
    # Both sides of a comparison: `5000 > 4096`, `188240 + 21333 > 200000`, but not `512 > 4096 - 4000`.
    r"\d[^<>\d]{0,12}(?:\+ \d+ )?> *(\d+)\b(?! *[-+]) *(?!\w*output)",
    rf"\d\)?[^.\d]{{0,20}}{_MORE}[^.\d]{{0,30}}(?:context|len(?:gth)?)\b[^.\d<>]{{0,12}}(\d+)",
    rf"\d\)?[^.\d]{{0,20}}{_MORE} (\d+)",
    r"\bn_ctx\b\W{0,4}(\d+)",
    r"range of input length should be \[\d+ (\d+)\]",
    r"inputs`? tokens \+ `?max_new_tokens`? must be <= (\d+)",
    rf"context[ _-]*(?:length|size|window|limit){_WORDS}\b(\d+)",
    r"context holds (?:only )?(\d+)",
    r"(\d+)[ -](?:tokens? )?(?:maximum |max )?context[ _-]*(?:length|size|window|limit)",
    rf"max(?:imum)?[ _]model[ _]?len(?:gth)?{_WORDS}\b(\d+)",
    r"\bmax_?(?:seq_?|total_?|context_?)?(?:len|length)\b(?: is| of|:|=)? ?(\d+)",
    rf"model(?:'s)? token limit{_WORDS}\b(\d+)",
    r"(?:maximum|limit)(?: length)?(?: is| of|:) (\d+)",
    r"maximum (?:prompt|sequence) length(?: is| of|:) (\d+)",
    r"(?:maximum number of tokens allowed|maximum allowed length) \(?(\d+)",
    r"prompt cannot exceed (\d+)",
]
_PROMPTS = [
    r"n_prompt_tokens\W{0,4}(\d+)",
    r"(\d+) \+ \d+ > *\d",
    r"\bn_keep\b\W{0,4}(\d+)",
    r"first (\d+) tokens",
    r"(\d+)(?: tokens)? (?:in|from|of) (?:the |your )?(?:text |input |prompt )?(?:messages|input|prompt)\b",
    r"(\d+) `?(?:input|prompt|inputs)`? tokens",
    r"(\d+) of text input",
    r"(?:prompt|inputs?|request|messages?) (?:\w+ )?(?:takes|contains|has|is too long|resulted in|uses)\W{1,3}"
    r"(?:about |at least )?(\d+)",
    r"(?<!maximum )(?:prompt|input|request|sequence) (?:token count |length |with size |of length |of size )?(?:of |is )?"  # noqa: E501
    r"\(?(?:length )?(\d+)",
    r"(?<!maximum )(?:prompt|input)[^.\d]{0,20}length\W{0,3}(?:is |of )?(\d+)",
    r"(?:input|prompt)[_ ]tokens \(?(\d+)",
    r"exceeded: (\d+)",
    r"Given: (\d+)",
    r"received (\d+)",
    r"\b(\d+)[^<>\d]{0,12}> *\d",
    rf"(?<!max_tokens )\b(\d+)\)?[^.\d]{{0,20}}{_MORE}[^.]{{0,40}}\d",
    r"at least (\d+)",
    r"input_tokens, value=(\d+)",
]
_LIMIT = [re.compile(pattern, re.IGNORECASE) for pattern in _LIMITS]
_PROMPT = [re.compile(pattern, re.IGNORECASE) for pattern in _PROMPTS]
_GROUPED = re.compile(r"(?<=\d)[,_](?=\d{3})")
_NUMBER = re.compile(r"(?<![\w.])\d+(?![\w.]*\w)")


def overflow(refusal: Refusal) -> tuple[int, int] | None:
    """(context, prompt) in tokens if this says that a prompt is too long: 0 where it names none. None if it does not.

    A refused field is not mistaken for it: "max_tokens is too large" alone says nothing of the prompt.
    """
    text = _GROUPED.sub("", refusal.text)
    if "string_above_max_length" in refusal.codes and not _is_about_prompt(refusal.params):
        return None
    if not (refusal.codes & _CODES or _TOO_LONG.search(text)):
        return None
    if not refusal.codes & _CODES and _ONLY_THE_REPLY.search(text) and not _THE_PROMPT.search(text):
        return None
    if refusal.limit and refusal.prompt_tokens:
        return refusal.limit, refusal.prompt_tokens
    limit = refusal.limit or _first(_LIMIT, text)
    if not limit:
        return 0, 0
    prompt = refusal.prompt_tokens or _first(_PROMPT, text, other_than=limit) or _larger(text, limit)
    return limit, prompt


def _is_about_prompt(params: list[str]) -> bool:
    return not params or any(re.split(r"[.\[]", param)[0] in _PROMPT_PARAMS for param in params)


def _first(patterns: list[re.Pattern[str]], text: str, other_than: int = 0) -> int:
    for pattern in patterns:
        for found in pattern.finditer(text):
            number = tokens(int(found[1][:10]))
            if number and number != other_than:
                return number
    return other_than if other_than and any(pattern.search(text) for pattern in patterns) else 0


def _larger(text: str, limit: int) -> int:
    """The one number over the limit, if there is only one: nothing else than the prompt can be too much."""
    over = {int(number[:10]) for number in _NUMBER.findall(text)}
    over = {number for number in over if number > limit}
    return tokens(over.pop()) if len(over) == 1 else 0
