"""`zeroth lm-eval`: EleutherAI's lm-evaluation-harness over our engine, and with our rewards as metrics.

The harness finds models in a registry that only code can add to; this command adds ``zeroth`` and the tasks of
`jobs/harness/tasks`, and hands everything else to the harness's own command line.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from jobs.config import RecipeError

TASKS = Path(__file__).parent / "tasks"


CONTEXT = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""All options are the harness's, --help too."""


def command(
    arguments: Annotated[list[str] | None, typer.Argument(help="What lm_eval takes: run --model zeroth ...")] = None,
) -> None:
    """Run lm-evaluation-harness, with --model zeroth --model_args pretrained=CHECKPOINT among its models."""
    if find_spec("lm_eval") is None:
        raise RecipeError("zeroth lm-eval needs the extra: pip install 'zeroth[eval]'")
    from lm_eval._cli import HarnessCLI
    from lm_eval.utils import setup_logging

    register()
    own = [] if not arguments or "--include_path" in arguments else ["--include_path", str(TASKS)]
    sys.argv = ["lm_eval", *(arguments or []), *own]
    setup_logging()
    parser = HarnessCLI()
    parser.execute(parser.parse_args())


def register() -> None:
    """Adds the model ``zeroth`` to the harness's registry; may be called again."""
    from lm_eval.api.registry import model_registry

    if "zeroth" not in model_registry:
        model_registry.register("zeroth", target="jobs.harness.lm:ZerothLM")
