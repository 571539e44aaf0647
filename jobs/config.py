"""Recipes: TOML files with strict keys. A wrong key is an error that names the file, the key and the nearest known one.

Each table of a recipe is a small model here; a command composes the tables it needs. ``key=value`` on the command line
overrides one key: ``zeroth grpo recipe.toml optimizer.lr=1e-4 rollout.lag=0``.
"""

from __future__ import annotations

import difflib
import importlib.util
import re
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args, get_origin

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from jobs import console
from jobs.files import changes, held, write_whole
from rl.problems import R1_ZERO

Precision = Literal["fp32", "bf16", "fp8"]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
NonNegative = Annotated[float, Field(ge=0)]


RECIPE = "recipe.toml"
"""The resolved recipe, in a run directory."""

JOB_COPIES = "working_dir_files"
"""The folder under which Ray unpacks the working directories of jobs."""


class RecipeError(ValueError):
    """A recipe that cannot be run; the message names the file, the key and the remedy."""

    exit_status = 2


def precision_of(value: str, option: str = "--precision") -> Precision:
    """What a value of a command's option says. Raises RecipeError."""
    if value not in get_args(Precision):
        raise RecipeError(f"{option} {value!r}: it is one of {', '.join(get_args(Precision))}")
    return cast(Precision, value)


def names_of(values: str, known: Sequence[str], option: str) -> list[str]:
    """What a command's option says, with commas between. Raises RecipeError."""
    names = [name.strip() for name in values.split(",")]
    if unknown := [name for name in names if name not in known]:
        raise RecipeError(f"{option}: {unknown[0]!r} is none of {', '.join(known)}")
    return names


def counts_of(values: str, option: str) -> list[int]:
    """What a command's option says, with commas between. Raises RecipeError."""
    for value in values.split(","):
        if not value.strip().isdecimal() or int(value) < 1:
            raise RecipeError(f"{option}: {value!r} is no number from 1 up; several have commas between")
    return [int(value) for value in values.split(",")]


def precisions_of(values: str) -> list[Precision]:
    """What --precisions says, with commas between. Raises RecipeError."""
    return [precision_of(value, "--precisions") for value in values.split(",")]


class Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class RunTable(Table):
    """``dir``: the run directory. ``checkpoint_every`` steps; ``keep_checkpoints`` newest ones stay. ``trackers`` are
    told the metrics beside metrics.jsonl."""

    dir: Path
    seed: int = 0
    checkpoint_every: int = Field(50, ge=0)
    keep_checkpoints: Count = 2
    trackers: tuple[Literal["tensorboard", "wandb"], ...] = ("tensorboard",)

    @field_validator("trackers")
    @classmethod
    def _installed(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if "wandb" in names and importlib.util.find_spec("wandb") is None:
            raise ValueError("wandb is not installed (pip install wandb)")
        return names


class RunRecipe(Table):
    """What the recipe of every trainer has."""

    run: RunTable


class OptimizerTable(Table):
    """AdamW. ``moments``: bf16 keeps 12 instead of 16 bytes a weight, as DeepSeek-V3 was trained."""

    lr: float = Field(gt=0)
    warmup_steps: int = Field(0, ge=0)
    decay_steps: int = Field(0, ge=0)
    lr_floor: Share = 0.1
    weight_decay: NonNegative = 0.0
    beta2: float = Field(0.95, gt=0, lt=1)
    clip_norm: float = Field(1.0, gt=0)
    bias_speed: NonNegative = 1e-3
    moments: Literal["fp32", "bf16"] = "fp32"


class TrainPrecisionTable(Table):
    """``train``: of the policy. ``recompute``: between forward and backward pass only each layer's input is kept."""

    train: Precision = "fp32"
    recompute: bool = False


class PrecisionTable(TrainPrecisionTable):
    """``rollout``: of the weights that engines are given and sample from. ``exact``: on a GPU, the trainer's
    log-probabilities are the native engine's to the bit, for one more forward pass an update."""

    rollout: Precision = "fp8"
    exact: bool = False


class DataTable(Table):
    """Problem files. ``template`` holds {prompt}; its text is what the policy completes."""

    train: Path
    held_out: Path | None = None
    template: str = R1_ZERO


class RolloutTable(Table):
    """``engine`` samples; ``vllm`` holds arguments for vLLM, by their names there, and ``on_publish`` says what it does
    with completions that are being sampled when new weights come (`model.vllm_engine`). ``routes``: the engine
    records each token's experts, and the policy replays them. ``step_tokens``: a sample that is not over after so many
    tokens goes on in a later step, under newer weights; 0 for no such limit. ``draft``: the native engine guesses
    tokens with the model's first MTP module; the same tokens come out."""

    engine: Literal["native", "vllm"] = "native"
    vllm: dict[str, Any] = Field(default_factory=dict)
    on_publish: Literal["drained", "paused", "mixed"] = "drained"
    routes: Literal["off", "record", "replay"] = "off"
    groups_per_step: Count = 16
    samples_per_group: Annotated[int, Field(ge=2)] = 8
    lag: int = Field(1, ge=0)
    temperature: float = Field(1.0, gt=0)
    top_p: float = Field(1.0, gt=0, le=1)
    max_tokens: Count = 1024
    step_tokens: int = Field(0, ge=0)
    stop: tuple[str, ...] = ()
    dynamic_sampling: bool = False
    max_dropped_groups: Count = 1000
    max_rows: Count = 512
    draft: bool = False


class RewardTable(Table):
    """``added``: rewards beside each problem's own, by name and weight. ``settings``: by reward name."""

    added: dict[str, float] = Field(default_factory=dict)
    settings: dict[str, dict[str, Any]] = Field(default_factory=dict)


class LossTable(Table):
    clip_low: float = Field(0.2, gt=0, lt=1)
    clip_high: float = Field(0.28, gt=0)
    kl: NonNegative = 0.001
    importance: Literal["token", "sequence"] = "token"
    importance_cap: float = Field(2.0, ge=1)
    importance_floor: Share = 0.0
    importance_mask: bool = False
    aggregation: Literal["token", "sequence"] = "token"
    advantage_by_std: bool = True
    mask_truncated: bool = False
    balance: NonNegative = 0.0
    reference_every: Count = 400


class TrainTable(Table):
    steps: Count
    minibatches: Count = 1
    micro_batch_tokens: Count = 8192


class EvaluateTable(Table):
    """``every`` steps, and before and after: ``problems`` held-out ones, greedily and with ``samples`` each."""

    every: int = Field(0, ge=0)
    problems: Count = 128
    samples: Count = 1


class ClusterTable(Table):
    """Where Ray runs: ``address`` of a cluster, or none to start one on this machine. ``trainers`` share each step, and
    each holds all weights. ``*_threads`` are CPU threads and ``gpus_per_*`` GPUs of one process. ``transport``: the way
    of new weights to rollout workers (`model.transport`); by default what suits the GPUs. ``publish_timeout_s``: for
    processes to meet, and for one broadcast, or sum of gradients."""

    address: str | None = None
    trainers: Count = 1
    rollout_workers: Count = 1
    reward_workers: Count = 1
    trainer_threads: Count = 1
    rollout_threads: Count = 1
    gpus_per_rollout_worker: NonNegative = 0
    gpus_per_trainer: NonNegative = 0
    transport: Literal["auto", "store", "ipc", "broadcast"] = "auto"
    publish_timeout_s: float = Field(600.0, gt=0)


class GrpoRecipe(RunRecipe):
    """``base``: the checkpoint folder that training starts from."""

    base: Path
    data: DataTable
    train: TrainTable
    optimizer: OptimizerTable
    rollout: RolloutTable = RolloutTable()
    reward: RewardTable = RewardTable()
    loss: LossTable = LossTable()
    precision: PrecisionTable = PrecisionTable()
    evaluate: EvaluateTable = EvaluateTable()
    cluster: ClusterTable = ClusterTable()


class PretrainDataTable(Table):
    """``documents``: a JSONL file of {"text"} objects."""

    documents: Path
    vocab_size: Count = 512


class PretrainTrainTable(Table):
    """``sequence_tokens`` cuts longer documents; ``mtp_weight`` weighs multi-token prediction, ``balance`` the
    sequence-wise or batch-wise auxiliary loss."""

    steps: Count
    batch_documents: Count = 64
    sequence_tokens: Count = 1024
    mtp_weight: NonNegative = 0.0
    balance: NonNegative = 0.0
    balance_over: Literal["sequence", "batch"] = "sequence"
    threads: Count | None = None


class PretrainRecipe(RunRecipe):
    """``model``: the fields of `model.config.ModelConfig`."""

    data: PretrainDataTable
    train: PretrainTrainTable
    optimizer: OptimizerTable
    model: dict[str, Any] = Field(default_factory=dict)
    precision: TrainPrecisionTable = TrainPrecisionTable()


class LayoutTable(Table):
    """How a prompt and what answers it become text: ``template`` holds {prompt}, as in GRPO; where it is empty a chat
    template in Jinja lays out the turns: the file ``chat_template``, or the checkpoint's own."""

    template: str = ""
    chat_template: Path | None = None


class SftDataTable(LayoutTable):
    """JSONL files of {"prompt", "response"} or {"messages"} objects."""

    train: Path
    held_out: Path | None = None


class SftTrainTable(Table):
    """Samples of more than ``sequence_tokens`` are left out; ``micro_batch_tokens`` bounds memory and changes nothing
    else."""

    steps: Count
    batch_samples: Count = 32
    sequence_tokens: Count = 8192
    micro_batch_tokens: Count = 8192
    threads: Count | None = None


class ValidateTable(Table):
    """Validation on held-out lines, at most ``lines`` of them, ``every`` so many steps, before and after."""

    every: int = Field(0, ge=0)
    lines: Count = 1000


class SftRecipe(RunRecipe):
    """``base``: the checkpoint folder that training starts from, ours or one of transformers'."""

    base: Path
    data: SftDataTable
    train: SftTrainTable
    optimizer: OptimizerTable
    precision: TrainPrecisionTable = TrainPrecisionTable()
    evaluate: ValidateTable = ValidateTable()


class PreferenceDataTable(LayoutTable):
    """JSONL files of {"prompt", "chosen", "rejected"} or {"prompt", "response", "label"} objects."""

    train: Path
    held_out: Path


class RewardEvaluateTable(ValidateTable):
    every: Count = 100


class RewardModelRecipe(RunRecipe):
    """``base``: an SFT checkpoint, ours or one of transformers'."""

    base: Path
    data: PreferenceDataTable
    train: SftTrainTable
    optimizer: OptimizerTable
    precision: TrainPrecisionTable = TrainPrecisionTable()
    evaluate: RewardEvaluateTable = RewardEvaluateTable()


class SampleTable(Table):
    """How a teacher is sampled: ``samples`` a problem, kept where the problem's own reward gives ``keep_from`` or more.
    Temperature and top-p are R1's."""

    template: str = R1_ZERO
    samples: Count = 4
    temperature: NonNegative = 0.6
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: Count = 1024
    precision: Precision = "fp32"
    keep_from: float = 1.0
    seed: int = 0


class DistillRecipe(Table):
    """``teacher``: a checkpoint of our architecture. ``problems``: JSONL. ``sft``: the student's recipe, whose
    data.train is made here."""

    teacher: Path
    problems: Path
    sample: SampleTable = SampleTable()
    sft: dict[str, Any]


class ChainEvalTable(Table):
    """``suites``: problem files that every checkpoint of the chain is evaluated on."""

    suites: tuple[Path, ...] = ()
    template: str = R1_ZERO
    samples: Count = 4
    temperature: NonNegative = 0.6
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: Count = 1024
    precision: Precision = "fp32"


class ChainRecipe(Table):
    """Every stage's table is a recipe of its own; ``base``, ``run.dir`` and ``run.seed`` come from the chain where they
    are not set."""

    dir: Path
    seed: int = 0
    pretrain: dict[str, Any] = Field(default_factory=dict)
    sft: dict[str, Any] = Field(default_factory=dict)
    reward_model: dict[str, Any] = Field(default_factory=dict)
    grpo: dict[str, Any] = Field(default_factory=dict)
    eval: ChainEvalTable = ChainEvalTable()


R = TypeVar("R", bound=Table)


def read(path: Path, kind: type[R], overrides: Sequence[str] = ()) -> R:
    """A recipe with its overrides applied and checked. Paths in it are relative to the working directory. Raises
    RecipeError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"{path}: no such recipe; recipes that come with zeroth: {', '.join(shipped())}") from None
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not TOML: {error}") from None
    for override in overrides:
        _set(values, override)
    return build(values, kind, str(path))


def build(values: dict[str, Any], kind: type[R], source: str) -> R:
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        messages = [_message(dict(problem), kind, source) for problem in error.errors()]
        raise RecipeError("\n".join(messages)) from None


def resolved(recipe: Table) -> dict[str, Any]:
    """Every key with its value, defaults included, as TOML has them."""
    return recipe.model_dump(mode="json", exclude_none=True)


def check_run(run: RunTable, *, resume: bool) -> None:
    """Raises RecipeError where a run would write over another, has nothing to resume, would go on in another order, or
    would be lost."""
    folder = run.dir
    if JOB_COPIES in folder.resolve().parts:
        raise RecipeError(
            f"{folder} lies in the copy of the working directory that Ray makes for a job and deletes after it: set "
            "run.dir to an absolute path on storage that stays (and that every node sees, if there are several)"
        )
    if has_begun(folder) and not resume:
        with held(folder):  # where the run still goes on, that is what to say
            raise RecipeError(f"{folder} holds a run already: continue it with --resume, or set another run.dir")
    if resume and not folder.is_dir():
        raise RecipeError(f"{folder}: there is no run to resume here")
    if resume and (seed := recorded(folder).get("run", {}).get("seed", run.seed)) != run.seed:
        raise RecipeError(f"{folder}: the run was begun with run.seed = {seed}, and goes on in its order alone")


def has_begun(folder: Path) -> bool:
    """Whether a run directory holds steps, and so is gone on from and not begun."""
    return (folder / "metrics.jsonl").exists()


def recorded(folder: Path) -> dict[str, Any]:
    """The recipe that a run directory holds; empty where there is none."""
    path = folder / RECIPE
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@contextmanager
def begun(run: RunTable, *, resume: bool) -> Iterator[None]:
    """The run directory, held. Raises as `check_run` and `held` do."""
    with held(run.dir):
        check_run(run, resume=resume)  # once more: another run may have gone through it since the first time
        yield


def settle(recipe: RunRecipe) -> None:
    """Puts the resolved recipe into the run directory, in place of that of a run which goes on, and says what has
    changed. Only once the checkpoint is restored: until then it may be a recipe that the checkpoints do not fit."""
    before, now = recorded(recipe.run.dir), resolved(recipe)
    if before and (other := changes(before, now)):
        console.say(f"{recipe.run.dir} goes on with another recipe: {'; '.join(other)}")
    write_whole(recipe.run.dir / RECIPE, tomli_w.dumps(now))


def shipped() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(path.stem for path in (Path(__file__).parent / "recipes").glob("*.toml"))


def find(name: str) -> Path:
    """A recipe by path, or by the name of one that comes with the package."""
    path = Path(name)
    inside = Path(__file__).parent / "recipes" / f"{path.name.removesuffix('.toml')}.toml"
    return inside if not path.exists() and path.parent == Path() and inside.exists() else path


def _set(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key.strip('".'):
        raise RecipeError(f"{override!r}: an override is key=value, as in optimizer.lr=1e-4")
    try:
        value = tomllib.loads(f"v = {text}")["v"]
    except tomllib.TOMLDecodeError:
        value = text
    # As in TOML, quotes are around a name with dots, such as a reward's in reward.settings."verl:file.py:f".timeout_s.
    *tables, last = (part.strip('"') for part in re.findall(r'"[^"]+"|[^."]+', key))
    for table in tables:
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            raise RecipeError(f"{override!r}: {table!r} is a value, not a table")
    values[last] = value


def _message(problem: dict[str, Any], kind: type[Table], source: str) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = keys(kind, tables=isinstance(problem["input"], dict))
        near = difflib.get_close_matches(place, known, n=1, cutoff=0.0)[0]
        return f"{source}: unknown key {place!r}; the nearest known key is {near!r}"
    if problem["type"] == "missing":
        return f"{source}: the key {place!r} is missing"
    if problem["type"] == "model_type":
        return f"{source}: {place!r} is a table with keys of its own, not {problem['input']!r}"
    return f"{source}: {place}: {problem['msg']}, not {problem['input']!r}"


def keys(kind: type[Table], prefix: str = "", *, tables: bool = False) -> list[str]:
    """Every key of a recipe, as table.key; or the names of its tables, those that hold keys of the user's included."""
    found: list[str] = []
    for name, info in kind.model_fields.items():
        inner = info.annotation
        if isinstance(inner, type) and issubclass(inner, Table):
            found += [prefix + name] * tables + keys(inner, f"{prefix}{name}.", tables=tables)
        elif not tables or get_origin(inner) is dict:
            found.append(prefix + name)
    return found
