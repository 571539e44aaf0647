"""A Rubric as users of the verifiers package write it; imported only where that package is installed."""

import verifiers  # type: ignore[import-not-found]


def exact(completion, answer, **kwargs):
    return float(completion == answer)


async def short(completion):
    return float(len(completion) < 5)


rubric = verifiers.Rubric(funcs=[exact, short], weights=[1.0, 0.5])
