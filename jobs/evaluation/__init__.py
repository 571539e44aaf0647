"""The evaluation harness behind `zeroth eval`.

suites (rows of data sets -> problems) -> sources (a checkpoint, an endpoint, a file -> answers)
    -> the rewards of training -> record (samples.jsonl, what a restart finds) -> summary (estimators -> a table)
"""
