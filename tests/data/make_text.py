"""Writes prose.txt and small.tiktoken beside this file: text and a vocabulary for tests that have no network.

The text is made by the grammar below, so that it is ours, is the same on every machine, and is still something that a
model can learn: words of very different frequency, speakers, verse and prose, numbers, contractions, leading blanks,
and characters of two, three and four bytes in UTF-8. After a change of the grammar: `python tests/data/make_text.py`.
"""

from __future__ import annotations

import base64
import random
from pathlib import Path

HERE = Path(__file__).parent
BYTES = 200_000  # of prose.txt, about
TOKENS = 1_000  # of small.tiktoken

SPEAKERS = ("MIRA", "TOBIAS", "The Ferryman", "OLD ANNE", "First Clerk", "Second Clerk", "Zoë", "CAPTAIN REED")
PLACES = ("the harbour", "a mill by the river", "the counting-house", "Königsfeld", "the high road", "an empty café")
PEOPLE = ("the miller", "my brother", "the clerk", "a stranger", "the captain", "our neighbour", "the old woman")
THINGS = ("the ledger", "a lantern", "the key", "an apple", "the map", "a letter", "the last boat", "the bell")
QUALITIES = ("quiet", "heavy", "honest", "broken", "patient", "foolish", "bright", "narrow", "weary", "kind")
DEEDS = ("carried", "forgot", "counted", "found", "hid", "promised", "sold", "burned", "followed", "kept")
TIMES = ("at dawn", "before the rain", "in the ninth hour", "when nobody looked", "all winter", "once more", "too late")
SYLLABLES = ("ka", "lo", "men", "tir", "sha", "ve", "dun", "or", "bel", "ni", "plo", "est", "fa", "wick", "ra", "the")
CLAUSES = (
    "{person} spoke of {word} and of {word}",
    "no {word} is like the {word} of {name}",
    "{name} {deed} the {word} {time}",
    "let us go to {name}, {name} and the {quality} {word}",
    "{person} {deed} {thing} {time}",
    "{thing} is {quality}, and {person} isn't",
    "there were {number} of them in {place}",
    "I've never seen {person} so {quality}",
    "{person} {deed} {number} coins and {deed} {thing}",
    "you'll find {thing} near {place}",
    "it costs {number}.{cents} a day",
    "{quality} as {thing}, {person} {deed} on",
)
LINKS = ("; ", ", but ", ", for ", " \u2014 ", ", and then ")
ENDS = (".", ".", ".", "!", "?", "...")
ASIDES = ("[Exit {speaker}.]", "  (A bell rings {number} times.)", "\u2603 \u2603 \u2603", "   Scene: {place}, {time}.")


def filled(form: str, draw: random.Random) -> str:
    """A form with every field drawn anew, so that a field that stands twice differs."""
    choices = {
        "{speaker}": SPEAKERS,
        "{place}": PLACES,
        "{person}": PEOPLE,
        "{thing}": THINGS,
        "{quality}": QUALITIES,
        "{deed}": DEEDS,
        "{time}": TIMES,
    }
    for field, words in choices.items():
        while field in form:
            form = form.replace(field, rare(words, draw), 1)
    while "{word}" in form:
        form = form.replace("{word}", word(draw), 1)
    while "{name}" in form:
        form = form.replace("{name}", word(draw).capitalize(), 1)
    number = str(draw.choice((2, 3, 7, 12, 40, 365, 1_024, 17_493)))
    return form.replace("{number}", number).replace("{cents}", f"{draw.randrange(100):02}")


def rare(words: tuple[str, ...], draw: random.Random) -> str:
    """The first word most often, each later one more seldom, as in real text."""
    return words[min(int(draw.expovariate(0.5)), len(words) - 1)]


def word(draw: random.Random) -> str:
    """One of thousands, rarer the longer they are."""
    number = min(int(draw.paretovariate(0.35)), 16**4)
    text = ""
    while number:
        number, syllable = divmod(number, len(SYLLABLES))
        text += SYLLABLES[syllable]
    return text


def sentence(draw: random.Random) -> str:
    clauses = [filled(draw.choice(CLAUSES), draw) for _ in range(draw.choice((1, 1, 2, 3)))]
    text = clauses[0] + "".join(rare(LINKS, draw) + clause for clause in clauses[1:])
    return text[0].upper() + text[1:] + draw.choice(ENDS)


def speech(draw: random.Random) -> str:
    if draw.random() < 0.06:
        return filled(draw.choice(ASIDES), draw)
    if draw.random() < 0.02:
        return "\U0001f9ed " + sentence(draw)
    between = "\n" if draw.random() < 0.3 else " "
    return f"{rare(SPEAKERS, draw)}:\n" + between.join(sentence(draw) for _ in range(draw.randint(1, 5)))


def prose() -> str:
    draw, speeches, size = random.Random(1), [], 0
    while size < BYTES:
        speeches.append(speech(draw))
        size += len(speeches[-1].encode()) + 2
    return "\n\n".join(speeches) + "\n"


def main() -> None:
    from nanogpt_kit.components.tokenizer.bpe import BPE
    from nanogpt_kit.core.kinds import TextContext

    text = prose()
    (HERE / "prose.txt").write_bytes(text.encode())
    encoder = BPE(vocab_size=TOKENS).build(TextContext(splits=("train",), documents=lambda split: iter([text])))
    tokens = [encoder.decode_bytes([token]) for token in range(encoder.vocab_size - 1)]  # without <|endoftext|>
    lines = (f"{base64.b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    (HERE / "small.tiktoken").write_bytes("".join(lines).encode())


if __name__ == "__main__":
    main()
