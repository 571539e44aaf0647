"""`zeroth view`: a run in the browser, while it runs and afterwards.

    RUN_DIR/metrics.jsonl ---> /api/curves             panels of curves, thinned to what a screen can show
    RUN_DIR/samples.jsonl ---> /api/groups, /api/group  what passes a filter, newest first; one group, whole

``index.py`` keeps a few numbers a sample in memory and reads the rest from the file when it is asked for; ``server.py``
answers; ``page.html``, ``page.js`` and ``page.css`` are the page, which loads nothing from anywhere else. What models
wrote is hostile: it reaches the page as JSON and the document as text, and the page may run no script but its own.
"""
