"""Meta's package against this engine, on the same weights. Collected only where that package is installed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.engine.server.process import GOLDEN, ROOT

SCRIPT = """
import json, sys
from tests.engine.llama.reference_package import Reference
from engine.llama import Llama
model, kind, out = sys.argv[1:]
build = Reference if kind == "reference" else Llama.build
llama = build(model, model + "/tokenizer.model", 256, 4)
golden = json.load(open(model + "/golden.json"))
dialogs = [entry["dialog"] for entry in golden["dialogs"]]
json.dump(llama.chat_completion(dialogs, temperature=0, max_gen_len=8), open(out, "w"))
"""


@pytest.mark.timeout(600)
def test_replies_match_meta_s(tmp_path: Path) -> None:
    """float16 against the checkpoint's bfloat16: the first words agree, later ones may differ at a near tie."""
    script = tmp_path / "both.py"
    script.write_text(SCRIPT)
    replies = []
    for kind in ("reference", "engine"):
        out = tmp_path / kind
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1"]
        command = [sys.executable, *launcher, str(script), str(GOLDEN / "llama2-tiny"), kind, str(out)]
        subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True, timeout=300)
        replies.append([reply["generation"]["content"] for reply in json.loads(out.read_text())])
    assert [reply[:2] for reply in replies[0]] == [reply[:2] for reply in replies[1]]
