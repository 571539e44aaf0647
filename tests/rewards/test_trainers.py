"""Other trainers on the reward service: TRL's GRPOTrainer, and a caller of verl's form."""

import asyncio

import httpx
import pytest

from tests.rewards.service import service


@pytest.fixture(scope="module")
def math():
    with service("--reward", "math") as running:
        yield running


ROWS = [{"prompt": f"what is {number}", "answer": str(number)} for number in range(8)]


def remote_reward(url):
    """The reward function that a TRL user writes: completions and columns to the service, its scores back. What could
    not be judged stays None, which TRL leaves out."""
    seen = []

    def reward(completions, answer, **kwargs):
        samples = [{"response": text, "answer": gold} for text, gold in zip(completions, answer, strict=True)]
        scores = httpx.post(f"{url}/score", json={"reward": "math", "samples": samples}, timeout=60).json()["scores"]
        seen.append([score["value"] for score in scores])
        return seen[-1]

    return reward, seen


async def compute_score(data_source, solution_str, ground_truth, extra_info=None, *, url):
    """The reward function that a verl user writes: one sample at a time, called by keyword."""
    async with httpx.AsyncClient(timeout=60) as http:
        body = {"reward": "math", "samples": [{"response": solution_str, "answer": ground_truth}]}
        (score,) = (await http.post(f"{url}/score", json=body)).json()["scores"]
    return {"score": score["value"], "acc": score["value"] == 1.0}


def test_a_verl_style_caller_scores_through_the_service(math):
    async def many():
        calls = [
            compute_score(
                data_source="d", solution_str=f"\\boxed{{{number}}}", ground_truth=str(number % 5), url=math.url
            )
            for number in range(20)
        ]
        return await asyncio.gather(*calls)

    assert [answer["score"] for answer in asyncio.run(many())] == [float(number < 5) for number in range(20)]


@pytest.mark.slow
def test_trl_grpo_trainer_trains_on_the_services_rewards(math, tmp_path, monkeypatch):
    """One step of GRPOTrainer on a tiny random model; every completion was scored by the service."""
    pytest.importorskip("trl")
    pytest.importorskip("datasets")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import Dataset
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
    from trl import GRPOConfig, GRPOTrainer

    words = {word: index for index, word in enumerate(["<pad>", "<eos>", "<unk>", "what", "is", *map(str, range(30))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=64, pad_token_id=0, eos_token_id=1, bos_token_id=1,
    )  # fmt: skip
    reward, seen = remote_reward(math.url)
    settings = GRPOConfig(
        output_dir=str(tmp_path), max_steps=1, per_device_train_batch_size=4, num_generations=4,
        max_completion_length=4, report_to=[], use_cpu=True, bf16=False, logging_steps=1, save_strategy="no",
    )  # fmt: skip
    trainer = GRPOTrainer(
        model=LlamaForCausalLM(config),
        processing_class=tokenizer,
        reward_funcs=reward,
        args=settings,
        train_dataset=Dataset.from_list(
            [{"prompt": f"what is {number}", "answer": str(number)} for number in range(8)]
        ),
    )
    trainer.train()
    assert trainer.state.global_step == 1
    assert len(seen) >= 1
    assert all(value in (0.0, 1.0) for scores in seen for value in scores)
