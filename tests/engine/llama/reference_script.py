"""A script for Meta's package with only the import changed; run by torchrun.

    reference_script.py CKPT_DIR TOKENIZER GOLDEN_JSON OUT_DIR

Each rank writes its results to OUT_DIR/rankN.json.
"""

import json
import os
import sys
from pathlib import Path

from engine.llama import Dialog, Llama


def run(ckpt_dir: str, tokenizer_path: str, golden: str) -> dict[str, list[dict[str, object]]]:
    generator = Llama.build(ckpt_dir=ckpt_dir, tokenizer_path=tokenizer_path, max_seq_len=160, max_batch_size=4)
    expected = json.loads(Path(golden).read_text())
    dialogs: list[Dialog] = [entry["dialog"] for entry in expected["dialogs"]]
    greedy = generator.chat_completion(dialogs, max_gen_len=24, temperature=0, top_p=0.9, logprobs=True)
    text = generator.text_completion([expected["text_prompt"]], temperature=0, max_gen_len=16)
    sampled = generator.chat_completion(dialogs, max_gen_len=8, temperature=0.9, top_p=0.9)
    return {"greedy": greedy, "text": text, "sampled": sampled}


if __name__ == "__main__":
    *arguments, out = sys.argv[1:]
    results = run(*arguments)
    for result in results["greedy"]:
        sys.stdout.write(f"> {result['generation']['role'].capitalize()}\n")
    Path(out, f"rank{os.environ['RANK']}.json").write_text(json.dumps(results))
