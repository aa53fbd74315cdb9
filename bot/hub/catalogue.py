"""The models that `guildllama models` knows, from the weakest to the strongest. Data and look-ups; touches no network.

A model is one GGUF file. Each pin is a commit, a size and a sha256 that at least two unrelated projects have published;
docs/decisions.md says why. A model without a pin is resolved when it is first pulled; later pulls must match the record
beside it.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass

from bot.settings import EMBEDDED_MODEL


@dataclass(frozen=True, slots=True)
class HubFile:
    """One file of a repository, with its size in bytes and the sha256 that its bytes must have."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class CatalogueModel:
    """A model by the name that people type. `parameters` and `active` are in billions."""

    name: str
    repo: str
    licence: str
    languages: str
    parameters: float
    kv_bytes_per_token: int
    """Keys and values of one position in 16 bits, over all layers."""
    stored_bits: int
    """Bits per weight of the file: 4, 8 or 16."""
    revision: str | None = None
    file: HubFile | None = None
    pattern: str = ""
    """Without a pin: the name of the file to fetch, with wildcards."""
    active: float = 0.0
    """The parameters that each token is computed with, if not all."""

    @property
    def pinned(self) -> bool:
        """Whether commit and sums are known before anything is asked of the hub."""
        return self.file is not None

    @property
    def size(self) -> int:
        """Bytes to fetch; an estimate for a model without a pin."""
        if self.file is not None:
            return self.file.size
        return round(self.parameters * 1e9 * self.stored_bits * _OVERHEAD / 8)

    @property
    def active_parameters(self) -> float:
        """What the speed depends on, in billions."""
        return self.active or self.parameters


_OVERHEAD = 1.2
"""Ratio of a file's size to its nominal bits: scales, and tensors that are not quantized."""
_EIGHT = "English + 7"
_MANY = "100+, good Korean"


def _gguf(
    name: str, repo: str, revision: str, path: str, size: int, sha256: str, licence: str, languages: str,
    parameters: float, kv: int, *, bits: int = 4, active: float = 0.0,
) -> CatalogueModel:  # fmt: skip
    file = HubFile(path, size, sha256)
    return CatalogueModel(
        name, repo, licence, languages, parameters, kv, bits, revision=revision, file=file, active=active
    )


CATALOGUE: tuple[CatalogueModel, ...] = (
    _gguf("smollm2-360m", "HuggingFaceTB/SmolLM2-360M-Instruct-GGUF", "593b5a2e04c8f3e4ee880263f93e0bd2901ad47f",
          "smollm2-360m-instruct-q8_0.gguf", 386_404_992,
          "48ab3034d0dd401fbc721eb1df3217902fee7dab9078992d66431f09b7750201",
          "Apache-2.0", "English", 0.36, 40_960, bits=8),
    _gguf("qwen3-0.6b", "Qwen/Qwen3-0.6B-GGUF", "23749fefcc72300e3a2ad315e1317431b06b590a",
          "Qwen3-0.6B-Q8_0.gguf", 639_446_688,
          "9465e63a22add5354d9bb4b99e90117043c7124007664907259bd16d043bb031",
          "Apache-2.0", "100+", 0.6, 114_688, bits=8),
    _gguf("qwen2.5-1.5b", "Qwen/Qwen2.5-1.5B-Instruct-GGUF", "91cad51170dc346986eccefdc2dd33a9da36ead9",
          "qwen2.5-1.5b-instruct-q4_k_m.gguf", 1_117_320_736,
          "6a1a2eb6d15622bf3c96857206351ba97e1af16c30d7a74ee38970e434e9407e",
          "Apache-2.0", "29", 1.54, 28_672),
    _gguf("qwen3-1.7b", "Qwen/Qwen3-1.7B-GGUF", "90862c4b9d2787eaed51d12237eafdfe7c5f6077",
          "Qwen3-1.7B-Q8_0.gguf", 1_834_426_016,
          "061b54daade076b5d3362dac252678d17da8c68f07560be70818cace6590cb1a",
          "Apache-2.0", "100+", 1.72, 114_688, bits=8),
    _gguf("kanana-1.5-2.1b", "DevQuasar/kakaocorp.kanana-1.5-2.1b-instruct-2505-GGUF",
          "4d3b6203857d893ebfcaca6c51901e3ea1d00d00", "kakaocorp.kanana-1.5-2.1b-instruct-2505.Q4_K_M.gguf",
          1_522_796_768, "24d3db59d0af2c85c0afc0bbc99da1174b73ef6728bce2650bd91bec28ad1c81",
          "Apache-2.0", "good Korean, English", 2.32, 131_072),
    _gguf("gemma-2-2b", "bartowski/gemma-2-2b-it-GGUF", "855f67caed130e1befc571b52bd181be2e858883",
          "gemma-2-2b-it-Q4_K_M.gguf", 1_708_582_752,
          "e0aee85060f168f0f2d8473d7ea41ce2f3230c1bc1374847505ea599288a7787",
          "Gemma", "English", 2.61, 106_496),
    _gguf("llama-3.2-3b", "bartowski/Llama-3.2-3B-Instruct-GGUF", "5ab33fa94d1d04e903623ae72c95d1696f09f9e8",
          "Llama-3.2-3B-Instruct-Q4_K_M.gguf", 2_019_377_696,
          "6c1a2b41161032677be168d354123594c0e6e67d2b9227c84f296ad037c728ff",
          "Llama 3.2", _EIGHT, 3.21, 114_688),
    _gguf("phi-4-mini", "unsloth/Phi-4-mini-instruct-GGUF", "78eb92a46fc37e6b524df991ed9aca9bc6aa7b80",
          "Phi-4-mini-instruct-Q4_K_M.gguf", 2_491_874_272,
          "88c00229914083cd112853aab84ed51b87bdf6b9ce42f532d8c85c7c63b1730a",
          "MIT", "23", 3.84, 131_072),
    _gguf("gemma-3-4b", "ggml-org/gemma-3-4b-it-GGUF", "d0976223747697cb51e056d85c532013931fe52e",
          "gemma-3-4b-it-Q4_K_M.gguf", 2_489_757_856,
          "882e8d2db44dc554fb0ea5077cb7e4bc49e7342a1f0da57901c0802ea21a0863",
          "Gemma", "140+, good Korean", 3.88, 139_264),
    _gguf("qwen3-4b", "Qwen/Qwen3-4B-GGUF", "bc640142c66e1fdd12af0bd68f40445458f3869b",
          "Qwen3-4B-Q4_K_M.gguf", 2_497_280_256,
          "7485fe6f11af29433bc51cab58009521f205840f5b4ae3a32fa7f92e8534fdf5",
          "Apache-2.0", _MANY, 4.02, 147_456),
    _gguf("qwen3-4b-2507", "unsloth/Qwen3-4B-Instruct-2507-GGUF", "a06e946bb6b655725eafa393f4a9745d460374c9",
          "Qwen3-4B-Instruct-2507-Q4_K_M.gguf", 2_497_281_120,
          "3605803b982cb64aead44f6c1b2ae36e3acdb41d8e46c8a94c6533bc4c67e597",
          "Apache-2.0", _MANY, 4.02, 147_456),
    _gguf("llama-3.1-8b", "bartowski/Meta-Llama-3.1-8B-Instruct-GGUF", "bf5b95e96dac0462e2a09145ec66cae9a3f12067",
          "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf", 4_920_739_232,
          "7b064f5842bf9532c91456deda288a1b672397a54fa729aa665952863033557c",
          "Llama 3.1", _EIGHT, 8.03, 131_072),
    CatalogueModel("kanana-1.5-8b", "DevQuasar/kakaocorp.kanana-1.5-8b-instruct-2505-GGUF", "Apache-2.0",
                   "good Korean, English", 8.03, 131_072, 4, pattern="*.Q4_K_M.gguf"),
    _gguf("qwen3-8b", "Qwen/Qwen3-8B-GGUF", "7c41481f57cb95916b40956ab2f0b139b296d974",
          "Qwen3-8B-Q4_K_M.gguf", 5_027_783_488,
          "d98cdcbd03e17ce47681435b5150e34c1417f50b5c0019dd560e4882c5745785",
          "Apache-2.0", _MANY, 8.19, 147_456),
    _gguf("mistral-nemo-12b", "bartowski/Mistral-Nemo-Instruct-2407-GGUF", "a2dd64a0a76ea1bdb2bb6ab6fa5496b003c7c908",
          "Mistral-Nemo-Instruct-2407-Q4_K_M.gguf", 7_477_208_192,
          "7c1a10d202d8788dbe5628dc962254d10654c853cae6aaeca0618f05490d4a46",
          "Apache-2.0", "11 with Korean", 12.2, 163_840),
    _gguf("gemma-3-12b", "ggml-org/gemma-3-12b-it-GGUF", "ec0cbabd8dbff316f659876a50202295c3c4a314",
          "gemma-3-12b-it-Q4_K_M.gguf", 7_300_574_976,
          "7bb69bff3f48a7b642355d64a90e481182a7794707b3133890646b1efa778ff5",
          "Gemma", "140+, good Korean", 11.8, 393_216),
    _gguf("qwen3-14b", "Qwen/Qwen3-14B-GGUF", "530227a7d994db8eca5ab5ced2fb692b614357fd",
          "Qwen3-14B-Q4_K_M.gguf", 9_001_752_960,
          "500a8806e85ee9c83f3ae08420295592451379b4f8cf2d0f41c15dffeb6b81f0",
          "Apache-2.0", _MANY, 14.8, 163_840),
    _gguf("mistral-small-24b", "bartowski/Mistral-Small-24B-Instruct-2501-GGUF",
          "62a613c92d5a5f73bba6d348b51433b232c4640c", "Mistral-Small-24B-Instruct-2501-Q4_K_M.gguf", 14_333_908_672,
          "d1a6d049f09730c3f8ba26cf6b0b60c89790b5fdafa9a59c819acdfe93fffd1b",
          "Apache-2.0", "dozens, with Korean", 23.6, 163_840),
    _gguf("gemma-3-27b", "ggml-org/gemma-3-27b-it-GGUF", "f94c25afed0072339c5fa3b705a7b4222afe5f62",
          "gemma-3-27b-it-Q4_K_M.gguf", 16_546_404_736,
          "edc9aff4d811a285b9157618130b08688b0768d94ee5355b02dc0cb713012e15",
          "Gemma", "140+, good Korean", 27.0, 507_904),
    _gguf("qwen3-30b-a3b", "Qwen/Qwen3-30B-A3B-GGUF", "e4d4bafdfb96a411a163846265362aceb0b9c63a",
          "Qwen3-30B-A3B-Q4_K_M.gguf", 18_556_685_824,
          "0d003f6662faee786ed5da3e31b29c978de5ae5d275c8794c606a7f3c01aa8f5",
          "Apache-2.0", _MANY, 30.5, 98_304, active=3.3),
    _gguf("llama-3.3-70b", "bartowski/Llama-3.3-70B-Instruct-GGUF", "b6c5c9f176f3279204034e1d16d393105e95cb88",
          "Llama-3.3-70B-Instruct-Q4_K_M.gguf", 42_520_398_816,
          "32df3baccb556f9840059b2528b2dee4d3d516b24afdfb9d0c56ff5f63e3a664",
          "Llama 3.3", _EIGHT, 70.6, 327_680),
)  # fmt: skip


def find(name: str) -> CatalogueModel | None:
    """The model of this name, in any case."""
    return next((model for model in CATALOGUE if model.name == name.strip().lower()), None)


def nearest(name: str) -> list[str]:
    """At most three known names that resemble this one, the most similar first."""
    wanted = name.strip().lower().replace("_", "-").removesuffix(".gguf")
    names = [model.name for model in CATALOGUE] + [EMBEDDED_MODEL]
    begun = [known for known in names if wanted and (known.startswith(wanted) or wanted.startswith(known))]
    similar = difflib.get_close_matches(wanted, names, n=3, cutoff=0.55)
    return list(dict.fromkeys([*begun, *similar]))[:3]
