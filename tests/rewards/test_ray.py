"""The math reward inside Ray actors, sync and async, on a real local Ray."""

import pytest

pytestmark = pytest.mark.cluster

PAIRS = [(f"{number}x", f"x\\cdot {number + number % 2}") for number in range(1, 41)]
EXPECTED = [float(number % 2 == 0) for number in range(1, 41)]


@pytest.mark.usefixtures("only_ray")
def test_actors_share_nothing_and_mix_up_nothing():
    """Two actors with a reward each, asked at once; one of them is also given an answer that has to be killed."""
    import ray

    @ray.remote(num_cpus=0)
    class Scorer:
        def __init__(self):
            from rewards import find

            self.reward = find("math", workers=1, timeout_s=20.0)

        async def score(self, pairs):
            from rewards import Sample

            samples = [Sample({"answer": gold}, f"\\boxed{{{answer}}}") for gold, answer in pairs]
            return [score.value for score in await self.reward(samples)]

        def compare(self, gold, answer):
            from rewards.math_answer import equivalent

            return equivalent(gold, answer, timeout_s=20.0)

    actors = [Scorer.remote(), Scorer.remote()]
    answers = ray.get([actor.score.remote(PAIRS) for actor in actors for _ in range(3)], timeout=300)
    assert answers == [EXPECTED] * 6
    assert ray.get(actors[0].compare.remote("x+1", "1+x"), timeout=120) is True
