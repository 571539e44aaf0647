"""`zeroth serve model`, in parts.

request -> schemas (what may be asked) -> prompts (token ids) -> batcher (rows of all requests, sampled together)
    -> text (what may be shown of a row) -> answers (OpenAI's shapes, whole or as a stream)
"""
