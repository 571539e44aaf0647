"""The native engine on a GPU: continuous batching over a paged cache, a decoding step recorded as a CUDA graph.

    host:    admit rows -> launch CHUNK steps -> look at how far the chunk before has come -> give back what ended
    device:  one recorded step after another, each for all rows in flight; tokens, counts, ends stay on the device

The device never waits for the host within a chunk, nor between chunks while rows are left: the host looks at one chunk
while the next one runs. A row is a place in the state's tensors, with pages of the cache for all it may sample, so that
it never has to be put off again. Rows of one prompt share its full pages.

A prompt is run but for its last token, which the first step then runs like any other; so there is one way to sample.
With drafts (the first MTP module), a step runs a row's last token and a guess at the next. A token is drawn with the
row's own key for its index, so the second draw counts just where the first one equals the guess: the same
tokens come out with drafts and without.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from model.engine import Sampling
from model.kernels import stream
from model.kernels.latent import PAGE, Places
from model.kernels.stream import Progress
from model.sampling import Sampled, Start, Stops, draw, keys
from model.serving import Routes, Served, new_pool

CHUNK = 8
ADMIT = 16
"""The part of all places that must be free before rows are taken in: a prompt of few tokens costs as long as a step."""
PREFILL_TOKENS = 16384
SIZES = (*range(1, 5), 8, 16, 24, *range(32, 128, 16), *range(128, 512, 32), *range(512, 4097, 128))
"""Rows a graph is recorded for; fewer are padded."""


class CacheFull(ValueError):
    """A completion that does not fit into the cache even alone."""

    exit_status = 2


@dataclass
class State:
    """What the device knows of R rows, the last of them a dummy for padding. ``keys`` int32 [R, most] are
    what tokens are drawn with, ``table`` int32 [R, pages] each row's pages, ``active`` int32 [R - 1] the rows
    in flight, ``routes`` int16 [R, context, MoE layers, K] by position, where they are recorded."""

    progress: Progress
    keys: Tensor
    table: Tensor
    active: Tensor
    temperature: Tensor
    pool: Tensor
    routes: Tensor | None

    @staticmethod
    def new(served: Served, rows: int, most: int, context: int, pages: int, record: bool) -> State:
        c, device, rows = served.c, served.device, rows + 1

        def zeros(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(*shape, dtype=dtype, device=device)

        long, kind = torch.int64, (c.num_hidden_layers - c.first_k_dense_replace, c.num_experts_per_tok)
        progress = Progress(
            zeros(rows, dtype=long), zeros(rows, dtype=long), zeros(rows), zeros(rows), zeros(rows), zeros(rows),
            zeros(rows, dtype=torch.int8), zeros(rows, most, dtype=long), zeros(rows, most, dtype=torch.float32),
        )  # fmt: skip
        return State(
            progress, zeros(rows, most), zeros(rows, -(-(context + 1) // PAGE)),
            zeros(rows - 1), torch.ones(1, device=device), new_pool(served, pages),
            zeros(rows, context, *kind, dtype=torch.int16) if record else None,
        )  # fmt: skip

    def holds(self, rows: int, most: int, context: int, pages: int) -> bool:
        kept = (len(self.active), self.keys.shape[1], self.table.shape[1] * PAGE - 1, self.pool.shape[1])
        return all(a >= b for a, b in zip(kept, (rows, most, context, pages), strict=True))


@dataclass
class _Row:
    """A row in flight. ``index`` is its place among the starts, ``launched`` the steps it was sent through."""

    slot: int
    index: int
    start: Start
    pages: list[int]
    launched: int = 0
    seen: int = 0


@dataclass
class _Look:
    """How far rows were after a chunk: ``counts`` and ``alive`` on the host once ``event`` has passed."""

    rows: list[_Row]
    counts: Tensor
    alive: Tensor
    tokens: Tensor | None
    event: torch.cuda.Event | None


@dataclass
class Tally:
    """What a call did: device steps, tokens sampled, and steps of rows that were not over."""

    steps: int = 0
    tokens: int = 0
    row_steps: int = 0


@dataclass
class Graphs:
    """``max_rows`` bounds the rows in flight, ``cache_bytes`` the cache. ``draft`` guesses with the MTP module."""

    served: Served
    max_rows: int
    cache_bytes: int
    draft: bool = False
    record_routes: bool = False
    state: State | None = None
    recorded: dict[tuple[object, ...], torch.cuda.CUDAGraph] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @torch.no_grad()
    def sample(self, starts: Sequence[Start], sampling: Sampling, stops: Stops | None = None) -> list[Sampled]:
        """For each start what it sampled. Raises CacheFull."""
        run = _Run(self, self._reserve(starts), starts, sampling, stops)
        return run.all()

    def _reserve(self, starts: Sequence[Start]) -> State:
        """The state for these rows: the one there is where it is large enough, so that graphs stay valid."""
        c, rows = self.served.c, min(self.max_rows, len(starts))
        most = max(start.room for start in starts)
        context = max(len(start.ids) + start.room for start in starts)
        need = sorted((-(-(len(s.ids) + s.room + 1) // PAGE) for s in starts), reverse=True)
        page = PAGE * self.served.width * self.served.dtype.itemsize * len(self.served.layers)
        pages = 1 + min(sum(need[:rows]), self.cache_bytes // page)
        if pages <= need[0]:
            raise CacheFull(
                f"a completion of up to {need[0] * PAGE} tokens needs {need[0] * page / 2**30:.1f} GiB of cache, and "
                f"{self.cache_bytes / 2**30:.1f} are free: shorten max_tokens, or use a GPU with more memory"
            )
        if self.state is None or not self.state.holds(rows, most, context, pages):
            self.recorded.clear()
            self.state = None
            self.state = State.new(
                self.served, rows, most, min(context, c.max_position_embeddings), pages, self.record_routes
            )
        return self.state

    def step(self, rows: int, sampling: Sampling) -> None:
        """One step of the first ``rows`` active rows, from a graph where there is a GPU."""
        ranked = (sampling.temperature, sampling.top_p) if sampling.top_p < 1 else None
        key = (rows, sampling.temperature == 0, ranked)
        if self.served.device.type != "cuda":
            self._step(rows, sampling)
            return
        if key not in self.recorded:
            # The kernels of this size are compiled by a step of rows that are all dummies.
            state = self.state
            assert state is not None
            kept = state.active.clone()
            state.active.fill_(len(state.active))
            self._step(rows, sampling)
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                self._step(rows, sampling)
            state.active.copy_(kept)
            self.recorded[key] = graph
        self.recorded[key].replay()

    def _step(self, rows: int, sampling: Sampling) -> None:
        state, served = self.state, self.served
        assert state is not None
        p, width = state.progress, 2 if self.draft else 1
        active = state.active[:rows]
        tokens, each, positions, numbers = stream.gather(active, width, p)
        places = Places(each, positions, state.table)
        hidden, routes = served.forward(tokens, places, state.pool)
        if state.routes is not None:
            _record(state.routes, places, routes)
        drawn, logp = self._draw(served.logits(hidden), each, numbers, sampling)
        last = stream.advance(active, width, drawn, logp, p, served.c.eos_token_id)
        if self.draft:
            further = served.draft(hidden, drawn, places, state.pool).index_select(0, last)
            guess, _ = self._draw(served.logits(further), active, p.done.index_select(0, active), sampling)
            # A row that has ended runs the same tokens again, so that what it left in the cache and in routes stays.
            alive = p.alive.index_select(0, active) != 0
            p.guess.index_copy_(0, active.long(), torch.where(alive, guess, p.guess.index_select(0, active)))

    def _draw(self, logits: Tensor, rows: Tensor, numbers: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        state = self.state
        assert state is not None
        if sampling.top_p == 1 or sampling.temperature == 0:
            greedy = sampling.temperature == 0
            return stream.draw(logits, state.keys, rows, numbers, state.temperature, greedy=greedy)
        tokens = draw(logits, state.keys[rows, numbers.clamp(max=state.keys.shape[1] - 1)], sampling)[0]
        return tokens, stream.token_logprobs(logits, tokens, sampling.temperature)[0]


class _Run:
    """One call: the queue, the rows in flight, and what has come out."""

    def __init__(
        self, graphs: Graphs, state: State, starts: Sequence[Start], sampling: Sampling, stops: Stops | None
    ) -> None:
        self.graphs, self.state, self.starts, self.sampling, self.stops = graphs, state, starts, sampling, stops
        self.device = graphs.served.device
        self.queue = deque(range(len(starts)))
        self.slots = list(range(len(state.active)))[: graphs.max_rows][::-1]
        self.pages = list(range(1, state.pool.shape[1]))[::-1]
        self.users = [0] * state.pool.shape[1]
        self.live: list[_Row] = []
        self.taken: list[tuple[list[_Row], list[int], list[bool], Tensor, Tensor, Tensor, Tensor | None]] = []
        state.temperature.fill_(sampling.temperature or 1.0)
        graphs.tally = Tally()

    def all(self) -> list[Sampled]:
        looks: deque[_Look] = deque()
        while self.queue or self.live or looks:
            self._admit()
            look = self._launch()
            if look is not None:
                looks.append(look)
            if looks and (len(looks) > 1 or look is None):
                self._settle(looks.popleft())
        return self._results()

    def _admit(self) -> None:
        """Rows from the queue's head while there is room, their prompts run and their state sent to the device."""
        if self.live and ADMIT * len(self.slots) < self.graphs.max_rows:
            return
        fresh: list[_Row] = []
        copies: list[tuple[_Row, _Row]] = []
        prompts: list[_Row] = []
        owners = {row.start.ids: row for row in self.live}
        while self.queue and self.slots:
            start = self.starts[self.queue[0]]
            owner = owners.get(start.ids)
            shared = owner.pages[: (len(start.ids) - 1) // PAGE] if owner else []
            need = -(-(len(start.ids) + start.room + 1) // PAGE) - len(shared)
            if need > len(self.pages):
                break
            pages = shared + [self.pages.pop() for _ in range(need)]
            for page in pages:
                self.users[page] += 1
            row = _Row(self.slots.pop(), self.queue.popleft(), start, pages)
            fresh.append(row)
            if owner is None:
                owners[start.ids] = row
                prompts.append(row)
            else:
                copies.append((owner, row))
        if fresh:
            self._seat(fresh)
            self._prefill(prompts)
            self._copy(copies)
            self._write(fresh)
            self.live += fresh

    def _seat(self, rows: list[_Row]) -> None:
        """Tells the device the pages of rows."""
        table = np.zeros((len(rows), self.state.table.shape[1]), np.int32)
        for i, row in enumerate(rows):
            table[i, : len(row.pages)] = row.pages
        self.state.table[self._tensor([row.slot for row in rows])] = torch.from_numpy(table).to(self.device)

    def _write(self, rows: list[_Row]) -> None:
        """What rows begin with. Their keys are made while the device runs their prompts."""
        state, p = self.state, self.state.progress
        slots = self._tensor([row.slot for row in rows])
        random = np.zeros((len(rows), state.keys.shape[1]), np.int32)
        for i, row in enumerate(rows):
            done = row.start.done
            random[i, : row.start.room] = keys(row.start.seed, done + row.start.room)[done:]
        state.keys[slots] = torch.from_numpy(random).to(self.device)
        p.token[slots] = self._tensor([row.start.ids[-1] for row in rows])
        p.position[slots] = self._tensor([len(row.start.ids) - 1 for row in rows]).int()
        p.room[slots] = self._tensor([row.start.room for row in rows]).int()
        p.done[slots] = 0
        p.steps[slots] = 0
        p.guess[slots] = 0
        p.alive[slots] = 1

    def _prefill(self, rows: list[_Row]) -> None:
        """Runs prompts but for their last tokens, at most PREFILL_TOKENS at a time."""
        served, state = self.graphs.served, self.state
        ids = [token for row in rows for token in row.start.ids[:-1]]
        following = [token for row in rows for token in row.start.ids[1:]]
        lengths = np.array([len(row.start.ids) - 1 for row in rows], dtype=np.int64)
        slots = np.repeat([row.slot for row in rows], lengths).astype(np.int32)
        positions = np.concatenate([np.arange(n, dtype=np.int32) for n in lengths]) if rows else slots
        for first in range(0, len(ids), PREFILL_TOKENS):
            part = slice(first, first + PREFILL_TOKENS)
            slot, position = (torch.from_numpy(x[part]).to(self.device) for x in (slots, positions))
            places = Places(slot, position, state.table)
            hidden, routes = served.forward(self._tensor(ids[part]), places, state.pool)
            if state.routes is not None:
                _record(state.routes, places, routes)
            if self.graphs.draft:
                served.draft(hidden, self._tensor(following[part]), places, state.pool)

    def _copy(self, pairs: list[tuple[_Row, _Row]]) -> None:
        """What a row cannot share with another row of its prompt: the prompt's last page, if it is not full."""
        parts = [(a.pages[n // PAGE], b.pages[n // PAGE]) for a, b in pairs if (n := len(a.start.ids) - 1) % PAGE]
        if parts:
            source, target = (self._tensor(list(side)) for side in zip(*parts, strict=True))
            self.state.pool[:, target] = self.state.pool[:, source]
        if self.state.routes is not None and pairs:
            source, target = (self._tensor([pair[side].slot for pair in pairs]) for side in (0, 1))
            self.state.routes[target] = self.state.routes[source]

    def _launch(self) -> _Look | None:
        """Sends rows that may still have tokens to sample through a chunk of steps."""
        rows = [row for row in self.live if row.launched < row.start.room]
        if not rows:
            return None
        state, graphs = self.state, self.graphs
        size = min(next(s for s in SIZES if s >= len(rows)), len(state.active))
        dummy = len(state.active)
        active = np.full(size, dummy, np.int32)
        active[: len(rows)] = [row.slot for row in rows]
        state.active[:size] = torch.from_numpy(active).to(self.device)
        steps = min(CHUNK, max(row.start.room - row.launched for row in rows))
        for _ in range(steps):
            graphs.step(size, self.sampling)
        for row in rows:
            row.launched += steps
        graphs.tally.steps += steps
        return self._look(rows)

    def _look(self, rows: list[_Row]) -> _Look:
        p = self.state.progress
        slots = self._tensor([row.slot for row in rows])
        found = [p.done[slots], p.alive[slots]]
        if self.stops is not None:
            width = 1 + int(self.graphs.draft)
            found.append(p.tokens[slots, : max(width * row.launched for row in rows)])
        if self.device.type != "cuda":
            return _Look(rows, found[0], found[1], found[2] if self.stops is not None else None, None)
        held = [torch.empty(t.shape, dtype=t.dtype, pin_memory=True).copy_(t, non_blocking=True) for t in found]
        event = torch.cuda.Event()
        event.record()
        return _Look(rows, held[0], held[1], held[2] if self.stops is not None else None, event)

    def _settle(self, look: _Look) -> None:
        """Takes out the rows that had ended by this look."""
        if look.event is not None:
            look.event.synchronize()
        ended: list[tuple[_Row, int, bool]] = []
        going = {row.index for row in self.live}
        for i, (row, count, alive) in enumerate(zip(look.rows, look.counts.tolist(), look.alive.tolist(), strict=True)):
            if row.index not in going:
                continue
            stop = None
            if look.tokens is not None and self.stops is not None:
                stop = self.stops.first(row.start, look.tokens[i, :count].tolist(), row.seen)
                row.seen = count
            if stop is not None or not alive:
                ended.append((row, count if stop is None else stop, stop is not None))
        if ended:
            self._take([row for row, _, _ in ended], [n for _, n, _ in ended], [stop for _, _, stop in ended])

    def _take(self, rows: list[_Row], counts: list[int], stopped: list[bool]) -> None:
        """Keeps what rows sampled, on the device, and frees their places."""
        p, routes = self.state.progress, self.state.routes
        slots = self._tensor([row.slot for row in rows])
        most = max(counts)
        longest = max(len(row.start.ids) + n - 1 for row, n in zip(rows, counts, strict=True))
        kept = None if routes is None else routes[slots, :longest]
        self.taken.append(
            (rows, counts, stopped, p.tokens[slots, :most], p.logprobs[slots, :most], p.steps[slots].sum(), kept)
        )
        gone = {row.index for row in rows}
        self.live = [row for row in self.live if row.index not in gone]
        for row in rows:
            self.slots.append(row.slot)
            for page in row.pages:
                self.users[page] -= 1
                if not self.users[page]:
                    self.pages.append(page)

    def _results(self) -> list[Sampled]:
        done: dict[int, Sampled] = {}
        end = self.graphs.served.c.eos_token_id
        for rows, counts, stopped, tokens, logprobs, steps, routes in self.taken:
            self.graphs.tally.row_steps += int(steps)
            ids, logps = tokens.cpu().tolist(), logprobs.cpu().tolist()
            kept = None if routes is None else routes.cpu().numpy()
            for i, (row, n, stop) in enumerate(zip(rows, counts, stopped, strict=True)):
                own = None if kept is None else kept[i, : len(row.start.ids) + n - 1]
                done[row.index] = Sampled(ids[i][:n], logps[i][:n], stop or ids[i][n - 1] == end, own)
                self.graphs.tally.tokens += n
        return [done[i] for i in range(len(self.starts))]

    def _tensor(self, values: Sequence[int]) -> Tensor:
        return torch.tensor(values, dtype=torch.int64, device=self.device)


def _record(routes: Tensor, places: Places, found: Sequence[Routes]) -> None:
    indices = torch.stack([layer.indices for layer in found], 1).to(routes.dtype)
    routes.index_put_((places.rows.long(), places.positions.long()), indices)
