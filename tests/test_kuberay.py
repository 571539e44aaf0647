"""The Kubernetes manifest of the docs: KubeRay's types outside, Kubernetes' own schema for the pods inside."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs import config
from jobs.config import GrpoRecipe

MANIFEST = Path(__file__).parents[1] / "docs" / "kuberay-rayjob.yaml"


def exactly(required: list[str], **properties: Any) -> dict[str, Any]:
    return {"type": "object", "required": required, "properties": properties, "additionalProperties": False}


TEXTS = {"type": "object", "additionalProperties": {"type": "string"}}
COUNT = {"type": "integer", "minimum": 0}
POD = {"type": "object"}

SCHEMA = exactly(
    ["apiVersion", "kind", "metadata", "spec"],
    apiVersion={"const": "ray.io/v1"},
    kind={"const": "RayJob"},
    metadata=exactly(["name"], name={"type": "string", "pattern": "^[a-z0-9-]{1,47}$"}),
    spec=exactly(
        ["entrypoint", "rayClusterSpec"],
        entrypoint={"type": "string"},
        backoffLimit=COUNT,
        shutdownAfterJobFinishes={"type": "boolean"},
        ttlSecondsAfterFinished=COUNT,
        runtimeEnvYAML={"type": "string"},
        rayClusterSpec=exactly(
            ["headGroupSpec"],
            rayVersion={"type": "string"},
            authOptions=exactly([], mode={"enum": ["token", "disabled"]}),
            headGroupSpec=exactly(["rayStartParams", "template"], rayStartParams=TEXTS, template=POD),
            workerGroupSpecs={
                "type": "array",
                "items": exactly(
                    ["groupName", "minReplicas", "maxReplicas", "rayStartParams", "template"],
                    groupName={"type": "string"},
                    replicas=COUNT,
                    minReplicas=COUNT,
                    maxReplicas=COUNT,
                    rayStartParams=TEXTS,
                    template=POD,
                ),
            },
        ),
    ),
)
"""The fields that the manifest uses of RayJobSpec and RayClusterSpec (KubeRay, ray-operator/apis/ray/v1)."""


@pytest.fixture
def manifest() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load(MANIFEST.read_text())
    return loaded


def templates(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    cluster = manifest["spec"]["rayClusterSpec"]
    return [cluster["headGroupSpec"]["template"], *(group["template"] for group in cluster["workerGroupSpecs"])]


def test_it_fits_the_types_of_kuberay(manifest: dict[str, Any]) -> None:
    import jsonschema

    jsonschema.validate(manifest, SCHEMA)
    wrong = copy.deepcopy(manifest)
    wrong["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["replica"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replica"):
        jsonschema.validate(wrong, SCHEMA)


def test_its_pods_fit_the_schema_of_kubernetes(manifest: dict[str, Any]) -> None:
    import kubernetes_validate

    for template in templates(manifest):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, **template}
        kubernetes_validate.validate(pod, "1.31", strict=True)
        pod["spec"]["containers"][0]["volumeMount"] = []
        with pytest.raises(kubernetes_validate.ValidationError):
            kubernetes_validate.validate(pod, "1.31", strict=True)


def test_its_pods_let_the_sandbox_work_and_nothing_more(manifest: dict[str, Any]) -> None:
    for template in templates(manifest):
        for container in template["spec"]["containers"]:
            context = container["securityContext"]
            assert context["seccompProfile"] == {"type": "Unconfined"}
            assert context["runAsNonRoot"]
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "privileged" not in context


def test_its_override_is_a_key_of_a_recipe_and_its_storage_is_mounted(manifest: dict[str, Any]) -> None:
    command, name, recipe, override, *_ = manifest["spec"]["entrypoint"].split()
    key, _, path = override.partition("=")
    assert (command, name) == ("zeroth", "grpo")
    assert key in config.keys(GrpoRecipe)
    for template in templates(manifest):
        mounts = [mount["mountPath"] for mount in template["spec"]["containers"][0]["volumeMounts"]]
        assert all(any(place.startswith(mount) for mount in mounts) for place in (recipe, path))
