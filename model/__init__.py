"""The model: a DeepSeek-V3 mixture of experts, its FP8 arithmetic, its checkpoints, and the engines that sample it."""

from model.config import ModelConfig
from model.engine import Completion, Engine, Request, Sampling
from model.policy import Policy

__all__ = ["Completion", "Engine", "ModelConfig", "Policy", "Request", "Sampling"]
