"""`zeroth plan`: what a recipe takes, in memory and time by component, on hardware that one need not have; and where a
run's measured load puts its experts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from jobs import config, console
from jobs.config import (
    ChainRecipe,
    DistillRecipe,
    GrpoRecipe,
    PretrainRecipe,
    RecipeError,
    RewardModelRecipe,
    SftRecipe,
)
from jobs.distill import student_of
from jobs.options import AsJson, Out, Overrides, RecipeArgument

if TYPE_CHECKING:
    from model import placement
    from model.budget import Hardware
    from model.config import ModelConfig, Precision


Recipe = GrpoRecipe | SftRecipe | RewardModelRecipe | PretrainRecipe
KINDS: dict[str, type[Recipe | DistillRecipe]] = {
    "grpo": GrpoRecipe, "sft": SftRecipe, "reward-model": RewardModelRecipe, "pretrain": PretrainRecipe,
    "distill": DistillRecipe,
}  # fmt: skip


@dataclass(frozen=True)
class Work:
    """One step: ``trained`` tokens in micro-batches of at most ``micro_batch``, in sequences of ``sequence``, after
    ``samples`` completions of ``prompt`` + ``response`` tokens in ``rows`` at a time (0: nothing is sampled).
    ``references`` counts forward passes beside the trained one."""

    trained: int
    micro_batch: int
    sequence: int
    samples: int = 0
    rows: int = 0
    prompt: int = 0
    response: int = 0
    references: int = 0


def command(
    recipe: RecipeArgument,
    overrides: Overrides = None,
    trainer: Annotated[
        str, typer.Option(help=f"{', '.join(KINDS)}; by default the first of these whose keys the recipe has.")
    ] = "",
    hardware: Annotated[str, typer.Option(help="h100, h200, or cpu: this machine, its rates measured.")] = "h200",
    devices: Annotated[int, typer.Option(min=1, help="Devices that share memory and work evenly.")] = 1,
    efficiency: Annotated[
        float, typer.Option(min=0.01, max=1, help="The share of the hardware's rates reached.")
    ] = 0.4,
    prompt_tokens: Annotated[
        int, typer.Option(min=0, help="Of a prompt (GRPO); 0: 256, or half of a shorter context.")
    ] = 0,
    response_tokens: Annotated[int, typer.Option(min=0, help="Of a response; 0: rollout.max_tokens.")] = 0,
    load: Annotated[Path | None, typer.Option(help="A run directory, whose measured load places experts.")] = None,
    expert_gpus: Annotated[int, typer.Option(min=1, help="GPUs that hold the experts of a layer.")] = 8,
    nodes: Annotated[int, typer.Option(min=1, help="Nodes that these GPUs lie in.")] = 1,
    redundant: Annotated[int, typer.Option(min=0, help="Copies of experts beside the first.")] = 0,
    out: Out = None,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe takes in memory and time, by component; and place experts by a run's measured load."""
    from jobs.bench import record

    kind, resolved = read(recipe, overrides or [], trainer)
    shape = shape_of(resolved)
    at = rates(hardware)
    work = work_of(resolved, shape, prompt_tokens, response_tokens)
    result = {
        "recipe": recipe,
        "trainer": kind,
        **budgets(shape, work, resolved, at, devices, efficiency),
    }
    if load is not None:
        result["placement"] = placements(load, shape, expert_gpus, nodes, redundant)
    if as_json or out:
        record.emit(record.stamped(result), out)
    show(result)


def read(name: str, overrides: list[str], trainer: str = "") -> tuple[str, Recipe]:
    """A recipe, and whose it is: ``trainer``'s, or the first's that it fits. Of a distillation it is the student's."""
    if trainer and trainer not in KINDS:
        raise RecipeError(f"--trainer {trainer!r}: it is one of {', '.join(KINDS)}")
    path, errors = config.find(name), []
    for kind in [trainer] if trainer else KINDS:
        try:
            found = config.read(path, KINDS[kind], overrides)
        except RecipeError as error:
            errors.append(error)
        else:
            return kind, student_of(found, str(path)) if isinstance(found, DistillRecipe) else found
    try:
        config.read(path, ChainRecipe, overrides)
    except RecipeError:
        raise min(errors, key=lambda error: str(error).count("\n")) from None
    raise RecipeError(f"{path}: a chain has no plan; each of its tables has, as a recipe of its own")


def shape_of(recipe: Recipe) -> ModelConfig:
    from model.config import from_recipe, load

    if isinstance(recipe, PretrainRecipe):
        return from_recipe({"vocab_size": recipe.data.vocab_size, **recipe.model}, "[model]")
    return load(recipe.base)


def work_of(recipe: Recipe, c: ModelConfig, prompt: int, response: int) -> Work:
    """A step at its largest: every sequence as long as the recipe lets it be, or as the call says."""
    if isinstance(recipe, PretrainRecipe):
        sequence = min(recipe.train.sequence_tokens, c.max_position_embeddings)
        tokens = recipe.train.batch_documents * sequence
        return Work(tokens, tokens, sequence)
    if isinstance(recipe, SftRecipe | RewardModelRecipe):
        sequence = min(recipe.train.sequence_tokens, c.max_position_embeddings)
        tokens = recipe.train.batch_samples * sequence
        return Work(tokens, max(sequence, recipe.train.micro_batch_tokens), sequence)
    table, prompt = recipe.rollout, prompt or min(256, c.max_position_embeddings // 2)
    response = min(response or table.max_tokens, table.max_tokens, c.max_position_embeddings - prompt)
    if response < 1:
        raise RecipeError(f"--prompt-tokens {prompt} leaves no room in a context of {c.max_position_embeddings} tokens")
    samples = table.groups_per_step * table.samples_per_group
    tokens = table.groups_per_step * prompt + samples * response  # a group's prompt is run once
    starts = (recipe.train.minibatches - 1) / recipe.train.minibatches
    references = math.ceil((recipe.loss.kl > 0) + starts)
    sequence = prompt + response
    micro = min(tokens, max(sequence, recipe.train.micro_batch_tokens))
    rows = min(samples, table.max_rows * recipe.cluster.rollout_workers)
    return Work(tokens, micro, sequence, samples, rows, prompt, response, references)


def rates(name: str) -> Hardware:
    from model.budget import HARDWARE

    if name in HARDWARE:
        return HARDWARE[name]
    if name != "cpu":
        raise RecipeError(f"--hardware {name!r}: it is one of {', '.join((*HARDWARE, 'cpu'))}")
    return this_machine()


def this_machine() -> Hardware:
    """This machine's rates, measured by an FP32 product and by a copy: the best of a few tries."""
    import os
    import time

    import torch

    from model.budget import Hardware

    size = 1536
    a, b, out = (torch.randn(size, size) for _ in range(3))
    much, into = torch.zeros(2**26), torch.zeros(2**26)

    def best(work: Any) -> float:
        seconds = []
        for _ in range(5):
            started = time.perf_counter()
            work()
            seconds.append(time.perf_counter() - started)
        return min(seconds)

    flops = 2 * size**3 / best(lambda: torch.mm(a, b, out=out))
    bandwidth = 2 * much.nbytes / best(lambda: into.copy_(much))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    same: dict[Precision, float] = {"fp32": flops, "bf16": flops, "fp8": flops}
    return Hardware("this machine's CPU", same, bandwidth, memory)


def budgets(
    c: ModelConfig,
    work: Work,
    recipe: Recipe,
    at: Hardware,
    devices: int,
    efficiency: float,
) -> dict[str, Any]:
    from dataclasses import asdict

    from model import budget

    memory = memory_of(c, work, recipe, on_cpu=at.name not in {h.name for h in budget.HARDWARE.values()})
    total = sum(memory.values())
    seconds = seconds_of(c, work, recipe, at, devices, efficiency)
    return {
        "parameters": [asdict(each) for each in budget.components(c)],
        "work": asdict(work),
        "hardware": {"name": at.name, "devices": devices, "bytes": at.memory, "efficiency": efficiency},
        "bytes": memory,
        "bytes_a_device": total / devices,
        "devices_needed": math.ceil(total / at.memory),
        "flops": budget.forward_flops(c, work.trained, work.sequence / 2),
        "seconds": seconds,
        "seconds_a_step": sum(seconds.values()),
    }


def memory_of(c: ModelConfig, work: Work, recipe: Recipe, *, on_cpu: bool) -> dict[str, int]:
    """Trainer and engine together. FP32 masters and gradients, two moments; a reference where KL is paid for."""
    from model import budget

    parameters = sum(each.parameters for each in budget.components(c))
    train = recipe.precision.train
    width = 4 if train == "fp32" or on_cpu else 2
    activations = budget.recomputed_bytes if recipe.precision.recompute else budget.activation_bytes
    kept = activations(c, work.micro_batch, width, on_cpu=on_cpu)
    found = {"weights, FP32": 4 * parameters, "gradients, FP32": 4 * parameters}
    found["moments"] = 2 * moment_width(recipe) * parameters
    if train != "fp32":
        found["weights as multiplied"] = width * parameters
    found |= {f"activations: {name}": each for name, each in kept.items()}
    if isinstance(recipe, GrpoRecipe):
        if recipe.loss.kl > 0:
            found["reference, FP32"] = 4 * parameters
        found["published weights"] = budget.weight_bytes(c, recipe.precision.rollout)
        found["engine: weights, FP32"] = 4 * parameters
        found["engine: cache"] = budget.cache_bytes(c, work.rows, work.prompt + work.response, 4 if on_cpu else 2)
    return found


def seconds_of(
    c: ModelConfig,
    work: Work,
    recipe: Recipe,
    at: Hardware,
    devices: int,
    efficiency: float,
) -> dict[str, float]:
    """A step's parts, one after the other. What no product and no copy takes (scoring, waiting) is not in it."""
    from model import budget

    forward = math.fsum(budget.forward_flops(c, work.trained, work.sequence / 2).values())
    parameters = sum(each.parameters for each in budget.components(c))
    product = at.flops[recipe.precision.train] * efficiency * devices
    copy = at.bandwidth * efficiency * devices
    found: dict[str, float] = {}
    if isinstance(recipe, GrpoRecipe):
        rollout = recipe.precision.rollout
        prompts = work.samples // recipe.rollout.samples_per_group * work.prompt
        prefill = math.fsum(budget.forward_flops(c, prompts, work.prompt / 2).values())
        found["prefill"] = prefill / (at.flops[rollout] * efficiency * devices)
        waves = work.samples / work.rows
        context = work.prompt + work.response / 2
        rows = max(1, work.rows // devices)
        found["decoding"] = budget.decode_seconds(c, at, rollout, rows, work.response, context, efficiency) * waves
        found["reference and start"] = work.references * forward / product
        published = 4 * parameters + budget.weight_bytes(c, rollout)
        found["publishing"] = published / copy
    found["forward and backward"] = (4 if recipe.precision.recompute else 3) * forward / product
    # Weights, gradients and moments are read, weights and moments written.
    found["optimizer"] = (12 + 4 * moment_width(recipe)) * parameters / copy
    return found


def moment_width(recipe: Recipe) -> int:
    """Bytes of one of AdamW's two moments."""
    return 2 if recipe.optimizer.moments == "bf16" else 4


def placements(run_dir: Path, c: ModelConfig, gpus: int, nodes: int, redundant: int) -> dict[str, Any]:
    """A placement of every layer's experts from the first half of a run's steps, judged by the second half."""
    from model import placement
    from rl.journal import read_load

    steps = read_load(run_dir)
    if len(steps) < 2:
        raise RecipeError(f"{run_dir}: there is no measured load of two steps or more (expert_load.jsonl)")
    experts = {len(counts) for counts in steps[0][1].values()}
    if experts != {c.n_routed_experts}:
        raise RecipeError(f"{run_dir}: its layers have {sorted(experts)} experts, the recipe's {c.n_routed_experts}")
    at = placement.site(c.n_routed_experts, gpus, nodes, redundant)
    half = len(steps) // 2
    layers = {
        layer: _placed(
            [load[layer] for _, load in steps[:half]], [load[layer] for _, load in steps[half:]], at, c.n_group
        )
        for layer in steps[0][1]
    }
    means = {
        way: math.fsum(layer["busiest_over_mean"][way] for layer in layers.values()) / len(layers)
        for way in ("in_order", "planned", "in_hindsight")
    }
    return {
        "run": str(run_dir), "steps_planned_from": half, "steps_judged_by": len(steps) - half, "expert_gpus": gpus,
        "nodes": nodes, "redundant": redundant, "busiest_over_mean": means, "layers": layers,
    }  # fmt: skip


def _placed(
    seen: Sequence[Sequence[int]], later: Sequence[Sequence[int]], at: placement.Site, groups: int
) -> dict[str, Any]:
    """One layer's experts by GPU, planned from ``seen``; and the busiest GPU's tokens over the mean, averaged over
    ``later`` steps: in order, as planned, and as a plan from those steps themselves would have it."""
    from model import placement

    def total(steps: Sequence[Sequence[int]]) -> list[float]:
        return [float(sum(counts)) for counts in zip(*steps, strict=True)]

    ways = {
        "in_order": placement.in_order(len(seen[0]), at.nodes * at.gpus),
        "planned": placement.place(total(seen), at, groups),
        "in_hindsight": placement.place(total(later), at, groups),
    }
    judged = {
        way: math.fsum(placement.imbalance(placement.gpu_loads(gpus, load)) for load in later) / len(later)
        for way, gpus in ways.items()
    }
    return {"busiest_over_mean": judged, "gpus": ways["planned"]}


def short(number: float) -> str:
    """With two decimals, or two digits of what is less than one."""
    return f"{number:.2g}" if number < 1 else f"{number:,.2f}"


def show(result: Mapping[str, Any]) -> None:
    from rich.table import Table

    parameters = Table("parameters", "in all", "a token is multiplied with")
    for each in result["parameters"]:
        parameters.add_row(each["name"], f"{each['parameters']:,}", f"{each['multiplied']:,}")
    at = result["hardware"]
    memory = Table("memory", "GB")
    for name, size in result["bytes"].items():
        memory.add_row(name, short(size / 1e9))
    memory.add_row(f"a device of {at['devices']}, of {at['bytes'] / 1e9:,.0f}", short(result["bytes_a_device"] / 1e9))
    memory.add_row("devices needed, were all shared evenly", str(result["devices_needed"]))
    seconds = Table(f"a step on {at['devices']} x {at['name']} at {at['efficiency']:.0%} of its rates", "seconds")
    for name, each in result["seconds"].items():
        seconds.add_row(name, short(each))
    seconds.add_row("all, one after the other", short(result["seconds_a_step"]))
    console.say(f"{result['recipe']}, as a recipe of zeroth {result['trainer']}")
    for table in (parameters, memory, seconds):
        console.console.print(table)
    if placed := result.get("placement"):
        console.say(
            f"experts on {placed['expert_gpus']} GPUs: the busiest takes {placed['busiest_over_mean']['in_order']:.2f} "
            f"times the mean in order, {placed['busiest_over_mean']['planned']:.2f} as planned with "
            f"{placed['redundant']} copies (planned from {placed['steps_planned_from']} steps, judged by "
            f"{placed['steps_judged_by']} later ones)"
        )
