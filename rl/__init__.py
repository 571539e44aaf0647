"""Reinforcement learning with verifiable rewards, as small parts: problems, rollouts, advantages, the GRPO loss,
batches, one optimizer step, the bounded-lag pipeline and its journal. No Ray, no vLLM, no Triton: everything here runs
under test with fakes for the engine and the rewards."""
