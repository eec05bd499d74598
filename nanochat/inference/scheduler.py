"""Continuous batching (Orca, OSDI 2022): answers of different lengths join and leave the batch between steps.

`submit` queues a prompt; each `step` lets waiting prompts in, reads a piece of those that are not yet read, and adds
one token to every answer under way. Promises: a prompt is read once for all its samples, and a beginning that another
prompt shares is not read again while a row holds it; what an answer says does not depend on the others (each brings its
own random numbers); every tool call is answered; memory is bounded by `max_rows`, the rest waits its turn; whoever
cancels frees the row within a step. Not here: threads (worker.py), prompts (data/chat_template.py).
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nanochat.inference.decode import LEAST, Decoder
from nanochat.inference.requests import Answer, Completion, Counts, Deliver, Delta, Request
from nanochat.inference.rows import Rows, State
from nanochat.inference.sampling import Sampling, choose, draws, penalised
from nanochat.inference.text_stream import TextStream
from nanochat.inference.tool_calls import ToolCalls
from nanochat.model.gpt import GPT
from nanochat.model.kv_cache import STEP, KVCache

if TYPE_CHECKING:
    from nanochat.data.tokenizer import Tokenizer

READ_ALONE = 16_384  # tokens of prompts read in one forward: bounds the memory of its activations
READ_BESIDE = 512  # the same while answers are under way, which wait for it
CROWDED = 7 / 8  # rows are moved together when fewer of those decoded speak: moving one costs about a step


class Scheduler:
    """Answers to many prompts with one model. Not for several threads at once."""

    def __init__(
        self,
        model: GPT,
        tokenizer: "Tokenizer",
        calculator: bool = True,
        max_rows: int = 64,
        max_len: int | None = None,
        compile: bool = False,
    ) -> None:
        self.model, self.tokenizer, self.device = model, tokenizer, model.wte.weight.device
        max_rows = max(LEAST, max_rows)  # as many as the smallest batch is padded to
        self.cache = KVCache(model.config, max_rows, max_len, self.device, model.compute_dtype)
        self.rows, self.decoder = Rows(self.cache), Decoder(model, self.cache, compile)
        self.terminals = tokenizer.terminals
        self.tools = ToolCalls(tokenizer) if calculator else None
        self.waiting: deque[Request] = deque()
        self.counts = Counts()
        self._first: dict[int, list[int]] = {}  # by the row that reads a prompt, the rows of its other samples

    def submit(
        self, prompt: Sequence[int], sampling: Sampling, samples: range | int = 1, deliver: Deliver | None = None
    ) -> list[Request]:
        """Queues a prompt. Its samples come as one request, or as several where they are more than the rows.

        Raises ValueError for a prompt that is empty, does not fit into the context or holds unknown ids.
        """
        samples = range(samples) if isinstance(samples, int) else samples
        if not samples:
            raise ValueError(f"num_samples={len(samples)}: must be at least 1")
        checked, most = self.check(prompt), self.cache.max_rows
        pieces = [samples[at : at + most] for at in range(0, len(samples), most)]
        requests = [Request(checked, sampling, piece, deliver) for piece in pieces]
        self.waiting.extend(requests)
        return requests

    @property
    def busy(self) -> bool:
        """Whether a step has something to do."""
        return bool(self.waiting) or bool(self.rows.state.any())

    @torch.inference_mode()
    def step(self) -> bool:
        """One unit of work; False when nothing is left."""
        self.counts.steps += 1
        self._drop_cancelled()
        self._admit()
        spoke = bool((self.rows.state == State.SPEAKING).any())
        if (reading := self.rows.in_state(State.READING)).size:
            self._read(reading)
            if not spoke:  # the first tokens go out at once: nobody waits for a second one
                return self.busy
        if (speaking := self.rows.in_state(State.SPEAKING)).size:
            self._decode(speaking)
        return self.busy

    def abandon(self, error: Exception) -> None:
        """Gives up everything under way, as after an error in a step; whoever waits for it is told."""
        owners = [answer for answer in self.rows.owner if answer is not None]
        open_answers = [(answer.request, answer.sample) for answer in owners]
        open_answers += [(request, sample) for request in self.waiting for sample in request.samples]
        for row in np.flatnonzero(self.rows.state).tolist():
            self._leave(row)
        self.waiting.clear()
        self._first.clear()
        self.forget()
        for request, sample in open_answers:
            request.error = error
            if request.deliver:
                request.deliver(Delta(sample, -1, "", finish="error"))

    def forget(self) -> None:
        """What rows have read is no longer of use, as after the weights have changed."""
        self._drop_cancelled()  # a stream that was closed gives up its row with the next step, or now
        assert not self.busy
        self.cache.forget(range(self.cache.max_rows))

    def check(self, prompt: Sequence[int]) -> np.ndarray:
        """The prompt as an array; raises what `submit` raises for it."""
        context, vocab_size = self.cache.max_len, self.model.config.vocab_size
        if not 1 <= len(prompt) < context:
            raise ValueError(
                f"a prompt of {len(prompt)} tokens: the context takes 1 to {context - 1}; shorten the conversation"
            )
        checked = np.asarray(prompt, np.int64)
        if not 0 <= checked.min() <= checked.max() < vocab_size:
            raise ValueError(f"a prompt holds ids outside 0..{vocab_size - 1}: take the model's own tokenizer")
        return checked

    def _drop_cancelled(self) -> None:
        # Looked at once: another thread, or whoever is told of it, may cancel more meanwhile. A row that reads for rows
        # that were given away would fill those of somebody else.
        dropped = {request for request in self.waiting if request.cancelled}
        open_answers = [(row, self.rows.owner[row]) for row in np.flatnonzero(self.rows.state).tolist()]
        leaving = {request for request in {answer.request for _, answer in open_answers} if request.cancelled}
        if dropped:
            waiting, self.waiting = self.waiting, deque(each for each in self.waiting if each not in dropped)
            for request in waiting:
                if request in dropped and request.deliver:
                    self._say_cancelled(request, request.samples)
        for row, answer in open_answers:
            if answer.request in leaving:
                self._first.pop(row, None)  # its other samples are cancelled as well
                self._leave(row)
                if answer.request.deliver:
                    self._say_cancelled(answer.request, [answer.sample])

    def _say_cancelled(self, request: Request, samples: Sequence[int]) -> None:
        for sample in samples:
            assert request.deliver
            request.deliver(Delta(sample, -1, "", finish="cancelled"))

    def _admit(self) -> None:
        """Lets in who has waited longest, as far as rows are free.

        A few newcomers wait for each other while many answers are under way: reading a prompt costs those a step.
        """
        while self.waiting:
            request, rows = self.waiting[0], self.rows
            free, speaking = int((rows.state == State.FREE).sum()), int((rows.state == State.SPEAKING).sum())
            if free < max(len(request.samples), min(len(self.waiting), speaking // 8)):
                return
            source, shared, soon = rows.source(request.prompt)
            if soon:
                return
            self.waiting.popleft()
            row = self._place(request, request.samples[0], State.READING, keep=source)
            if shared:
                rows.share(source, [row], shared)
            else:
                self.cache.forget([row])
            rows.tokens[row, : len(request.prompt)] = request.prompt
            request.shared = shared
            self.counts.shared += shared
            self._first[row] = [
                self._place(request, sample, State.RESERVED, keep=row) for sample in request.samples[1:]
            ]

    def _place(self, request: Request, sample: int, state: State, keep: int) -> int:
        """A row for the sample."""
        rows, sampling, length = self.rows, request.sampling, len(request.prompt)
        row = rows.take(keep)
        rows.state[row], rows.prompt[row], rows.length[row] = state, length, length
        rows.limit[row] = min(length + sampling.max_new_tokens, self.cache.max_len)
        wants_text = request.deliver is not None or bool(sampling.stop)
        rows.owner[row] = Answer(request, sample, TextStream(self.tokenizer, sampling.stop) if wants_text else None)
        if not sampling.greedy:
            count = int(rows.limit[row]) - length
            rows.uniform[row, length : length + count] = draws(sampling.seed, sample, count)
        return row

    def _read(self, reading: np.ndarray) -> None:
        """A piece of the prompts; those that end with it say their first token."""
        rows, speaking = self.rows, (self.rows.state == State.SPEAKING).any()
        left = rows.prompt[reading] - self.cache.lengths[reading]
        budget = (READ_BESIDE if speaking else READ_ALONE) // len(reading)
        width = max(min(int(left.max()), max(STEP, budget // STEP * STEP)), LEAST)
        counts = np.minimum(left, width)
        tokens = np.zeros((len(reading), width), np.int64)
        for index, (row, count) in enumerate(zip(reading.tolist(), counts.tolist(), strict=True)):
            at = int(self.cache.lengths[row])
            tokens[index, :count] = rows.tokens[row, at : at + count]
        given = torch.from_numpy(tokens)
        chunk = self.cache.reading(given, reading, counts)
        padding = [0] * max(0, LEAST - len(reading))  # the head, too, multiplies no fewer
        ends = torch.from_numpy(np.append(counts - 1, padding).astype(np.int64)).to(self.device)
        which = torch.tensor([*range(len(reading)), *padding], device=self.device)
        logits = self.model.logits(self.model.features(given.to(self.device), chunk)[which, ends])  # (B, V)
        chunk.finish()
        self.counts.read += int(counts.sum())
        done = np.flatnonzero(left == counts)
        if not len(done):
            return
        first = [[row, *self._first.pop(row)] for row in reading[done].tolist()]
        for leader, *others in first:
            if others:
                rows.share(leader, others, int(rows.prompt[leader]))
                rows.tokens[others, : rows.prompt[leader]] = rows.tokens[leader, : rows.prompt[leader]]
        speak = np.array([row for group in first for row in group])
        rows.state[speak] = State.SPEAKING
        copies = torch.from_numpy(done.repeat([len(group) for group in first])).to(self.device)
        self._write(speak, logits[copies])

    def _decode(self, speaking: np.ndarray) -> None:
        """One token more of every answer under way."""
        rows, cache = self.rows, self.cache
        speaking = self._moved_together(speaking)
        count = self.decoder.bucket(int(speaking[-1]) + 1)
        tokens, lengths = np.zeros(count, np.int64), np.full(count, -1)
        lengths[speaking] = cache.lengths[speaking]
        tokens[speaking] = rows.tokens[speaking, lengths[speaking]]
        longest = int(lengths[speaking].max()) + 1
        before = torch.from_numpy(cache.latest[:count])
        logits, likeliest, log_probs = self.decoder(
            torch.from_numpy(tokens), torch.from_numpy(lengths), before, longest
        )
        cache.advance(speaking, 1, tokens[speaking])
        rows.used[speaking] = self.counts.steps
        if len(speaking) < count:
            picked = torch.from_numpy(speaking).to(self.device)
            logits, likeliest, log_probs = logits[picked], likeliest[picked], log_probs[picked]
        self._write(speaking, logits, (likeliest, log_probs))

    def _moved_together(self, speaking: np.ndarray) -> np.ndarray:
        """The rows that speak, after the last of them were moved into gaps where there are too many."""
        rows, last = self.rows, int(speaking[-1]) + 1
        if len(speaking) >= CROWDED * last or self.decoder.bucket(len(speaking)) == self.decoder.bucket(last):
            return speaking
        gaps = rows.in_state(State.FREE).tolist()
        for row in speaking[::-1].tolist():
            if not gaps or gaps[0] > row:
                break
            to = gaps.pop(0)
            rows.move(row, to)
            if self.tools:
                self.tools.move(row, to)
        return rows.in_state(State.SPEAKING)

    def _write(self, speaking: np.ndarray, logits: Tensor, greedy: tuple[Tensor, Tensor] | None = None) -> None:
        """Chooses and enters the next token of these rows; `greedy` has the likeliest ones where they are known."""
        rows = self.rows
        chosen, log_probs = self._chosen(speaking, logits, greedy)
        at = rows.length[speaking]
        forced = self._forced(speaking, chosen)
        rows.tokens[speaking, at], rows.spoken[speaking, at] = chosen, ~forced
        rows.log_probs[speaking, at] = np.where(forced, 0, log_probs)
        rows.length[speaking] = at + 1
        self.counts.generated += len(speaking)
        if self.tools and (self.tools.calls or (chosen == self.tools.start).any()):
            for row, token in zip(speaking[~forced].tolist(), chosen[~forced].tolist(), strict=True):
                self.tools.watch(row, token)
        ended = ~forced & ((chosen == self.terminals[0]) | (chosen == self.terminals[1]))
        full = at + 1 >= rows.limit[speaking]
        for index, row in enumerate(speaking.tolist()):
            answer = rows.owner[row]
            finish = "stop" if ended[index] else "length" if full[index] else None
            if answer.text is not None:
                finish = self._tell(row, answer, bool(forced[index]), finish, logits, index)
            if finish:
                self._end(row, answer, finish)

    def _chosen(
        self, speaking: np.ndarray, logits: Tensor, greedy: tuple[Tensor, Tensor] | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and log-probabilities (B,), rows that want the same drawn together."""
        rows = self.rows
        wanted = [rows.owner[row].request.sampling for row in speaking.tolist()]
        if penalties := [i for i, sampling in enumerate(wanted) if sampling.repetition_penalty != 1]:
            logits, greedy = logits.clone(), None
            for i in penalties:
                row = speaking[i]
                seen = torch.from_numpy(rows.tokens[row, : rows.length[row]]).to(self.device)
                logits[i] = penalised(logits[i], seen, wanted[i].repetition_penalty)
        if greedy and all(sampling.greedy for sampling in wanted):
            return greedy[0].cpu().numpy(), greedy[1].cpu().numpy()
        uniform = rows.uniform[speaking, rows.length[speaking]]
        alike: dict[tuple[float, int | None, float, float], list[int]] = {}
        for i, sampling in enumerate(wanted):
            alike.setdefault(sampling.cut, []).append(i)
        drawn = torch.from_numpy(uniform).to(self.device)
        if len(alike) == 1:
            tokens, log_probs = choose(logits, drawn, *wanted[0].cut)
            return tokens.cpu().numpy(), log_probs.cpu().numpy()
        chosen, given = np.zeros(len(speaking), np.int64), np.zeros(len(speaking), np.float32)
        for cut, some in alike.items():
            tokens, log_probs = choose(logits[some], drawn[some], *cut)
            chosen[some], given[some] = tokens.cpu().numpy(), log_probs.cpu().numpy()
        return chosen, given

    def _forced(self, speaking: np.ndarray, chosen: np.ndarray) -> np.ndarray:
        """Puts pending answers of tools in place of what was chosen, (B,) in place; (B,) bool, True where it was."""
        forced = np.zeros(len(speaking), bool)
        if self.tools and self.tools.pending:
            for index, row in enumerate(speaking.tolist()):
                if row in self.tools.pending:
                    chosen[index], forced[index] = self.tools.forced(row), True
        return forced

    def _tell(
        self, row: int, answer: Answer, forced: bool, finish: str | None, logits: Tensor, index: int
    ) -> str | None:
        """Delivers what the row's newest token adds; returns why the answer ends, if it does."""
        rows, request, stream = self.rows, answer.request, answer.text
        assert stream is not None
        at = int(rows.length[row]) - 1
        token, log_prob = int(rows.tokens[row, at]), float(rows.log_probs[row, at])
        text = "" if finish == "stop" else stream.push(token)
        if finish:
            text += stream.flush()
        if stream.stopped:
            finish = "stop"
        if request.deliver is None:
            return finish
        top: tuple[tuple[int, float], ...] = ()
        if request.sampling.top_log_probs is not None and not forced:
            own = logits[index].log_softmax(dim=-1)
            log_prob = float(own[token])
            best, which = own.topk(request.sampling.top_log_probs)
            top = tuple(zip(which.tolist(), best.tolist(), strict=True))
        request.deliver(Delta(answer.sample, token, text, forced, log_prob, top, finish))
        return finish

    def _end(self, row: int, answer: Answer, finish: str) -> None:
        """Hands the answer over and frees its row."""
        rows, start, stop = self.rows, int(self.rows.prompt[row]), int(self.rows.length[row])
        tokens = rows.tokens[row, start:stop].tolist()
        last = finish == "stop" and tokens[-1] in self.terminals and bool(rows.spoken[row, stop - 1])
        text = self.tokenizer.decode(tokens[:-1] if last else tokens)
        if answer.text is not None and answer.text.stopped:
            text = text[: min(at for end in answer.request.sampling.stop if (at := text.find(end)) >= 0)]
        self.counts.ended += 1
        answer.request.completions[answer.sample] = Completion(
            tokens,
            rows.spoken[row, start:stop].astype(int).tolist(),
            rows.log_probs[row, start:stop].tolist(),
            text,
            finish == "stop",
        )
        self._leave(row)

    def _leave(self, row: int) -> None:
        if self.tools:
            self.tools.forget(row)
        self.rows.used[row] = self.counts.steps
        self.rows.release(row)
