"""TextGenerator: a model, its tokenizer and its samplers, which together generate texts from prompts."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pydantic import ValidationError
from torch import nn

from nanogpt_kit.core.experiment import Experiment
from nanogpt_kit.core.kinds import Encoder, Model, Sampler
from nanogpt_kit.core.sections import Sample
from nanogpt_kit.generate.decode import Decoder
from nanogpt_kit.generate.decoding_model import DecodingModel, count_linear_multiplications
from nanogpt_kit.generate.prompt import encode_prompt
from nanogpt_kit.generate.text import StreamedText
from nanogpt_kit.generate.threads import ThreadedDecoder, count_thread_chunks
from nanogpt_kit.nn.compiler import compiler_obstacle

# New tokens from which a CUDA graph is recorded: a guess, not measured yet. On a CPU (two cores of an AMD EPYC)
# torch.compile took 10 to 37 s and gained nothing: 5.2 to 6.1 ms a token of the baby GPT in fp32 and 4.8 to 5.4 in
# bf16, where eager decoding takes 5.1 to 5.4 and 3.6 to 3.9.
MIN_TOKENS_FOR_GRAPH = 32

logger = logging.getLogger(__name__)

ASampler = str | Mapping[str, Any] | Sampler  # its name, its table, or itself


@dataclass(frozen=True)
class GeneratedToken:
    """A token of one of the texts, or the end of one."""

    text_index: int  # of its prompt
    text: str  # to be shown now: whole characters, and no beginning of a stop string; may be empty
    token: int | None = None  # None where a text ends before its first token
    logprob: float | None = None  # by the model's logits, before any sampler; None without `logprobs`
    finish_reason: str | None = None  # "length", "stop" (a stop string), "eot" (end of text); None where more follows


@dataclass(frozen=True, repr=False)
class TextGenerator:
    """Generates texts: `generate` returns whole ones, `stream` yields one in parts, `stream_tokens` yields tokens.

    Data flow: `stream_tokens` encodes the prompts; `generate_batch` makes a `Decoder` over a `DecodingModel` for each
    batch; the decoder draws one token of each text in a step; `StreamedText` turns tokens into characters.
    """

    experiment: Experiment
    model: nn.Module
    encoder: Encoder
    device: str
    decoding_models: dict[tuple[str, int, str, int, int, int], DecodingModel] = field(
        default_factory=dict, repr=False, compare=False
    )

    def __repr__(self) -> str:
        """One line: the experiment, the size of the model, where it is."""
        parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return f"<TextGenerator {self.experiment.name}: {parameters:,} parameters on {self.device}>"

    def generate(self, prompts: str | Sequence[str], max_new_tokens: int | None = None, **options: Any) -> list[str]:
        """A text for each prompt, prompt included; one text is one prompt. The options are those of `stream_tokens`."""
        texts = list_of_texts(prompts)
        for token in self.stream_tokens(prompts, max_new_tokens, **options):
            texts[token.text_index] += token.text
        return texts

    def stream(self, prompt: str, max_new_tokens: int | None = None, **options: Any) -> Iterator[str]:
        """Yields the prompt, then the text while it is generated, in whole characters."""
        tokens = self.stream_tokens([prompt], max_new_tokens, **options)  # raises before anything is shown
        yield prompt
        for token in tokens:
            yield token.text

    def stream_tokens(
        self,
        prompts: str | Sequence[str],
        max_new_tokens: int | None = None,
        *,
        seed: int | None = None,
        samplers: ASampler | Sequence[ASampler] | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: bool = False,
    ) -> Iterator[GeneratedToken]:
        """The texts that follow the prompts, one token of each in turn. Omitted arguments are as in [sample].

        One text is one prompt, or one stop string. Text i draws with seed + i, and does not depend on the others. A
        sampler is a name, a table such as {"use": "temperature", "value": 0.5}, or a component. Raises KitError for a
        wrong argument or a prompt that cannot be encoded, before anything is generated, and where the samplers leave
        no token.
        """
        stops = None if stop is None else list_of_texts(stop)
        options = self.sample_options(max_new_tokens=max_new_tokens, seed=seed, stop=stops)
        chosen = self.experiment.sampler if samplers is None else self.resolve_samplers(samplers)
        encoded = [encode_prompt(self.encoder, prompt) for prompt in list_of_texts(prompts)]
        return self.generate_batches(encoded, options, chosen, logprobs)

    def sample_options(self, **arguments: Any) -> Sample:
        """[sample] with those arguments that are not None. Raises KitError with every fault."""
        changes = {name: value for name, value in arguments.items() if value is not None}
        try:
            return Sample.model_validate({**dict(self.experiment.sample), **changes})
        except ValidationError:
            return self.experiment.with_(sample=changes).sample  # which explains the faults

    def resolve_samplers(self, samplers: ASampler | Sequence[ASampler]) -> Sequence[Sampler]:
        """The components of samplers that may be names or tables. Raises KitError with every fault."""
        given = [samplers] if isinstance(samplers, str | Mapping | Sampler) else list(samplers)
        components = [sampler for sampler in given if isinstance(sampler, Sampler)]
        return components if len(components) == len(given) else self.experiment.with_(sampler=given).sampler

    def generate_batches(
        self,
        prompts: list[list[int]],
        options: Sample,
        samplers: Sequence[Sampler],
        logprobs: bool,
    ) -> Iterator[GeneratedToken]:
        """The texts after all prompts, in batches of sample.batch_size."""
        stops = [text for text in options.stop if text]
        batch_size = min(options.batch_size, len(prompts))
        for first in range(0, len(prompts), options.batch_size):
            batch = range(first, min(first + options.batch_size, len(prompts)))
            if not options.max_new_tokens:
                yield from (GeneratedToken(index, "", finish_reason="length") for index in batch)
                continue
            model = self.get_decoding_model(batch_size, options)
            ids, seeds = [prompts[index] for index in batch], [options.seed + index for index in batch]
            decoder = self.build_decoder(ids, seeds, options, samplers, model, logprobs)
            texts = {index: StreamedText(self.encoder, stops, prompts[index]) for index in batch}
            yield from self.generate_batch(decoder, texts, options.max_new_tokens)

    def build_decoder(
        self,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        options: Sample,
        samplers: Sequence[Sampler],
        model: DecodingModel,
        logprobs: bool = False,
    ) -> Decoder | ThreadedDecoder:
        """The decoder of one batch of encoded prompts; on a CPU it may be split among threads."""
        size = -(-len(prompts) // model.caller_threads)  # rounded up
        decoders = [
            Decoder(
                model,
                prompts[first : first + size],
                samplers,
                seeds[first : first + size],
                self.experiment.model.block_size,
                options.max_new_tokens,
                on_overflow=overflow_policy(options.on_overflow, self.experiment.model),
                static_cache=model.compile_mode != "off",
                with_logprobs=logprobs,
                device=self.device,
            )
            for first in range(0, len(prompts), size)
        ]
        return decoders[0] if len(decoders) == 1 else ThreadedDecoder(decoders)

    def generate_batch(
        self, decoder: Decoder | ThreadedDecoder, texts: dict[int, StreamedText], max_new_tokens: int
    ) -> Iterator[GeneratedToken]:
        """The texts of one batch, by their index; each has a row of the decoder. Those that have ended are removed."""
        indices = list(texts)  # by row
        is_compiled = isinstance(decoder, Decoder) and decoder.static_cache
        for count in range(1, max_new_tokens + 1):
            drawn = decoder.draw_next()
            for row, index in enumerate(indices):
                if index not in texts:
                    continue  # it has ended, and its row has not been taken out yet
                token, logprob = drawn.tokens[row], drawn.logprobs[row] if drawn.logprobs else None
                text, reason = self.add_token(texts[index], token, is_last=count == max_new_tokens)
                yield GeneratedToken(index, text, token, logprob, reason)
                if reason:
                    del texts[index]
            if not texts:
                return
            if 2 * len(texts) <= len(indices) and not is_compiled:  # not earlier, since it copies the cache
                rows = [row for row, index in enumerate(indices) if index in texts]
                indices = [indices[row] for row in rows]
                decoder.keep_rows(rows)

    def add_token(self, text: StreamedText, token: int, is_last: bool) -> tuple[str, str | None]:
        """The characters that can be shown once a text has this token, and the finish reason if it ends with it."""
        is_end = token == self.encoder.eot_id
        shown = "" if is_end else text.add(token)
        reason = "eot" if is_end else "stop" if text.stopped else "length" if is_last else None
        if reason:
            shown += text.rest()
            reason = "stop" if text.stopped else reason
        return shown, reason

    def get_decoding_model(self, texts: int, options: Sample) -> DecodingModel:
        """The model for a batch of `texts`; made again where the weights or the hooks have changed."""
        mode: str = options.compile
        if mode == "auto":
            mode = "graph" if self.device == "cuda" and options.max_new_tokens >= MIN_TOKENS_FOR_GRAPH else "off"
        elif mode != "off" and (obstacle := compiler_obstacle(self.device)):
            logger.warning("decoding is not compiled: %s", obstacle)
            mode = "off"
        can_split = self.device == "cpu" and mode == "off"
        threads = (
            count_thread_chunks(self.experiment.model, texts, count_linear_multiplications(self.model)[0])
            if can_split
            else 1
        )
        rows = -(-texts // threads)  # of each thread, rounded up
        weight_changes = sum(parameter._version for parameter in self.model.parameters())
        hooks = sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in self.model.modules())
        key = options.precision, rows, mode, threads, weight_changes, hooks
        if key not in self.decoding_models:
            self.decoding_models.clear()  # each holds a copy of most weights
            self.decoding_models[key] = DecodingModel(self.model, options.precision, rows, mode, threads)
        return self.decoding_models[key]


def list_of_texts(texts: str | Sequence[str]) -> list[str]:
    return [texts] if isinstance(texts, str) else list(texts)


def overflow_policy(setting: str, model: Model) -> str:
    """The policy for texts longer than the model's context: `setting`, or the best for the model if it is "auto"."""
    return setting if setting != "auto" else "rolling" if model.relative else "refill"
