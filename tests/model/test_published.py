"""Published models of the family: their config.json is read and written, and their shape has as many parameters as
their files."""

from __future__ import annotations

import math
from typing import Any

import pytest

from model import config, layout
from model.config import ConfigError
from tests.model import published
from tests.model.published import DEEPSEEK_V2_LITE, DEEPSEEK_V3, MOONLIGHT

ALL = {"V3": DEEPSEEK_V3, "V2-Lite": DEEPSEEK_V2_LITE, "Moonlight": MOONLIGHT}


def parameters(values: dict[str, Any]) -> int:
    return sum(math.prod(shape) for shape in layout.shapes(config.from_hf(values, "test")).values())


def test_deepseek_v3_has_the_published_parameters_of_each_dtype() -> None:
    c = config.from_hf(DEEPSEEK_V3, "test")
    shapes = layout.shapes(c)
    shapes |= {copy: shapes[source] for copy, source in layout.copies(c).items()}
    count = {"BF16": 0, "F8_E4M3": 0, "F32": 0}
    for name, shape in shapes.items():
        if layout.in_blocks(name):
            count["F8_E4M3"] += math.prod(shape)
            count["F32"] += math.prod(layout.scale_shape(shape))
        else:
            count["F32" if name.endswith("correction_bias") else "BF16"] += math.prod(shape)
    assert count == published.DEEPSEEK_V3_PARAMETERS


def test_v2_lite_and_moonlight_have_the_published_parameters() -> None:
    assert parameters(DEEPSEEK_V2_LITE) == published.DEEPSEEK_V2_LITE_PARAMETERS
    assert parameters(MOONLIGHT) + published.MOONLIGHT_CONSTANTS == published.MOONLIGHT_PARAMETERS


@pytest.mark.parametrize("name", ALL)
def test_what_decides_the_numbers_survives_reading_and_writing(name: str) -> None:
    values = ALL[name]
    c = config.from_hf(values, "test")
    written = config.to_hf(c)
    assert config.from_hf(written, "test") == c
    ignored = {"rope_scaling", "quantization_config"}
    assert {k: written[k] for k in values.keys() & written.keys() - ignored} == {
        k: values[k] for k in values.keys() & written.keys() - ignored
    }
    for key, value in (values["rope_scaling"] or {"factor": 1, "type": "yarn"}).items():
        assert written["rope_scaling"][key] == value


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"model_type": "llama"}, "llama.*deepseek_v3"),
        ({"attention_bias": True}, "attention_bias"),
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"moe_layer_freq": 2}, "moe_layer_freq"),
        ({"scoring_func": "tanh"}, "scoring_func.*'sigmoid' or 'softmax'"),
        ({"scoring_func": "softmax"}, "norm_topk_prob"),
        ({"hidden_size": "7168"}, "hidden_size must be a whole number"),
        ({"norm_topk_prob": 1}, "norm_topk_prob must be true or false"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope of type 'linear'"),
        ({"rope_scaling": {**DEEPSEEK_V3["rope_scaling"], "mscale": 0.5}}, "mscale"),
        ({"quantization_config": {"weight_block_size": [64, 64]}}, "blocks of"),
    ],
)
def test_a_config_that_is_not_of_the_family_is_refused_by_name(changes: dict[str, Any], word: str) -> None:
    with pytest.raises(ConfigError, match=word):
        config.from_hf({**DEEPSEEK_V3, **changes}, "config.json")
