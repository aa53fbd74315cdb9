"""What is known of models, and which ones a machine can run."""

from __future__ import annotations

import re

import pytest

from bot.hub.catalogue import CATALOGUE, find, nearest
from bot.hub.fit import Fit, best_fit, memory_needed, recommended
from bot.hub.machine import Gpu, Machine, parse_gpus, this_machine
from bot.settings import load_settings

GB = 10**9


class TestCatalogue:
    def test_it_has_small_and_large_ones_and_korean(self):
        sizes = [model.parameters for model in CATALOGUE]
        assert len(CATALOGUE) >= 12
        assert (min(sizes) < 0.5, max(sizes) >= 70) == (True, True)
        assert sum("good Korean" in model.languages for model in CATALOGUE) >= 2

    def test_names_are_as_people_type_them_and_differ(self):
        names = [model.name for model in CATALOGUE]
        assert len(set(names)) == len(names)
        assert all(re.fullmatch(r"[a-z0-9.-]+", name) for name in names)

    def test_pins_are_whole(self):
        """A mistyped digit would refuse the true file."""
        for model in CATALOGUE:
            assert model.pinned == (model.revision is not None)
            assert model.pinned != bool(model.pattern)
            if model.revision is not None:
                assert re.fullmatch("[0-9a-f]{40}", model.revision), model.name
            if model.file is not None:
                assert re.fullmatch("[0-9a-f]{64}", model.file.sha256), model.name
                assert "/" not in model.file.path
        sums = [model.file.sha256 for model in CATALOGUE if model.file is not None]
        assert len(set(sums)) == len(sums)

    def test_sizes_agree_with_parameters_and_bits(self):
        for model in CATALOGUE:
            bits = model.size * 8 / (model.parameters * 1e9)
            assert model.stored_bits <= bits < model.stored_bits + 2, model.name

    def test_a_name_in_any_case(self):
        assert find(" Qwen3-4B ") is find("qwen3-4b") is not None
        assert find("qwen3-4") is None

    @pytest.mark.parametrize(
        ("typed", "meant"), [("qwen3_4b", "qwen3-4b"), ("quen3-8b", "qwen3-8b"), ("smolm2", "smollm2"), ("xyz", None)]
    )
    def test_what_someone_may_have_meant(self, typed: str, meant: str | None):
        assert (nearest(typed) or [None])[0] == meant


class TestFit:
    def test_memory_grows_with_bits_and_covers_the_weights(self):
        for model in CATALOGUE:
            at4, at8, at16 = (memory_needed(model, bits) for bits in (4, 8, 16))
            assert at4 < at8 < at16
            assert at16 > model.parameters * 2 * GB

    @pytest.mark.parametrize(
        ("machine", "name", "fit"),
        [
            (Machine(16 * GB, 8), "qwen3-4b", Fit("CPU", 4)),
            (Machine(16 * GB, 2), "qwen3-4b", Fit("CPU", 4, slow=True)),
            (Machine(16 * GB, 8), "qwen3-14b", Fit("CPU", 4, slow=True)),
            (Machine(4 * GB, 8), "qwen3-4b", None),
            (Machine(32 * GB, 8), "qwen3-30b-a3b", Fit("CPU", 4)),
            (Machine(0), "smollm2-360m", None),
            (Machine(16 * GB, 8, (Gpu("small", 8 * GB),)), "llama-3.1-8b", Fit("GPU", 4)),
            (Machine(16 * GB, 8, (Gpu("tiny", 2 * GB),)), "smollm2-360m", Fit("GPU", 8)),
            (Machine(16 * GB, 8, (Gpu("tiny", 14 * GB // 10),)), "smollm2-360m", Fit("GPU", 4, fewer_bits=True)),
            (Machine(16 * GB, 8, (Gpu("a", 24 * GB),)), "llama-3.1-8b", Fit("GPU", 4)),
            (Machine(64 * GB, 8, (Gpu("a", 24 * GB), Gpu("b", 24 * GB))), "qwen3-14b", Fit("GPU", 4)),
            (Machine(64 * GB, 8, (Gpu("a", 80 * GB),) * 2), "llama-3.3-70b", Fit("GPU", 4)),
            (Machine(64 * GB, 8, (Gpu("a", 40 * GB),) * 2), "llama-3.3-70b", Fit("GPU", 4, 2)),
            (
                Machine(64 * GB, 8, (Gpu("a", 24 * GB),) * 3),
                "llama-3.3-70b",
                Fit("CPU", 4, slow=True, gpus_are_too_small=True),
            ),
        ],
    )
    def test_where_a_model_runs(self, machine: Machine, name: str, fit: Fit | None):
        model = find(name)
        assert model is not None
        assert best_fit(model, machine) == fit

    @pytest.mark.parametrize(
        ("fit", "settings"),
        [
            (Fit("CPU", 4), ""),
            (Fit("GPU", 4), ""),
            (Fit("GPU", 4, fewer_bits=True), " GUILDLLAMA_QUANTIZE=int4"),
            (Fit("GPU", 16, 2), " GUILDLLAMA_GPUS=2"),
            (Fit("GPU", 8, 4, fewer_bits=True), " GUILDLLAMA_QUANTIZE=int8 GUILDLLAMA_GPUS=4"),
            (Fit("CPU", 8, gpus_are_too_small=True), " GUILDLLAMA_DEVICE=cpu"),
        ],
    )
    def test_what_the_engine_does_not_choose_by_itself_is_to_be_set(self, fit: Fit, settings: str):
        assert fit.settings == settings
        values = {name.lower(): value for name, _, value in (each.partition("=") for each in settings.split())}
        loaded = load_settings(env_file=None, **{name.removeprefix("guildllama_"): v for name, v in values.items()})
        assert (loaded.gpus or 1, loaded.quantize == "auto") == (fit.gpus, not fit.fewer_bits)

    def test_the_recommended_one_answers_quickly(self):
        by_machine = {
            Machine(8 * GB, 2): "qwen3-1.7b",
            Machine(8 * GB, 8): "qwen3-4b-2507",
            Machine(32 * GB, 8): "qwen3-30b-a3b",
            Machine(16 * GB, 8, (Gpu("a", 48 * GB),)): "qwen3-30b-a3b",
            Machine(2 * GB, 8): None,
        }
        for machine, name in by_machine.items():
            model = recommended(machine)
            assert (model.name if model else None) == name, machine


class TestMachine:
    def test_this_one(self):
        machine = this_machine()
        assert machine.memory > GB
        assert machine.cores >= 1

    def test_what_nvidia_smi_prints(self):
        assert parse_gpus("NVIDIA H200, 143771\nTesla, V100, 16384\nnonsense\nX, [N/A]\n") == (
            Gpu("NVIDIA H200", 143771 << 20),
            Gpu("Tesla, V100", 16384 << 20),
        )
