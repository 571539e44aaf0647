"""An exported folder in vLLM, beside our forward pass on the same folder."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from model import checkpoint
from model.segments import Segments
from model.transformer import build
from tests.fakes import TINY, tiny_tokenizer
from tests.model.test_hf import varied

# vLLM's latent attention on a CPU takes these head sizes alone.
HEADS = {"kv_lora_rank": 512, "qk_rope_head_dim": 64, "qk_nope_head_dim": 128, "v_head_dim": 128}
SHAPE = replace(
    TINY, **HEADS, hidden_size=128, q_lora_rank=128, intermediate_size=128, moe_intermediate_size=64,
    n_routed_experts=8, n_group=4, topk_group=2, routed_scaling_factor=2.5, num_nextn_predict_layers=1,
    num_hidden_layers=3,
)  # fmt: skip


THEIRS = """
import json, sys, vllm
folder, prompts = sys.argv[1], json.loads(sys.argv[2])
engine = vllm.LLM(folder, dtype="float32", enforce_eager=True, max_model_len=64, block_size=16, max_num_seqs=4)
outputs = engine.generate(
    [{"prompt_token_ids": ids} for ids in prompts], vllm.SamplingParams(max_tokens=1, prompt_logprobs=0)
)
found = [
    [place[token].logprob for token, place in zip(ids[1:], output.prompt_logprobs[1:])]
    for ids, output in zip(prompts, outputs)
]
print("RESULT" + json.dumps(found))
"""


@pytest.mark.vllm
@pytest.mark.slow
def test_log_probabilities_in_vllm_are_ours(tmp_path: Path) -> None:
    """In a process of its own: an engine leaves threads and process groups behind."""
    pytest.importorskip("vllm")
    if torch.cuda.is_available():
        pytest.skip("compares in FP32, which vLLM's latent attention takes on a CPU alone")
    model = varied(build(SHAPE, seed=3))
    checkpoint.save(model, tiny_tokenizer(), tmp_path, "bf16", shard_bytes=1_000_000)
    generator = torch.Generator().manual_seed(0)
    prompts = [torch.randint(2, 300, (n,), generator=generator).tolist() for n in (40, 23)]
    done = subprocess.run(
        [sys.executable, "-c", THEIRS, str(tmp_path), json.dumps(prompts)], capture_output=True, text=True, check=False,
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    theirs = json.loads(done.stdout.partition("RESULT")[2].splitlines()[0])
    ours, _ = checkpoint.load(tmp_path)
    for ids, expected in zip(prompts, theirs, strict=True):
        tokens = torch.tensor(ids)
        with torch.no_grad():
            logits = ours.logits(ours(tokens, Segments.of([len(ids)])).hidden[:-1])
        got = logits.log_softmax(-1).gather(-1, tokens[1:, None]).squeeze(-1)
        assert (got - torch.tensor(expected)).abs().max() < 1e-5
