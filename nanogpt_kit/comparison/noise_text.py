"""The noise of an arm as lines and for programs."""

from __future__ import annotations

from nanogpt_kit.comparison.noise import POWER, Noise, measure_noise
from nanogpt_kit.comparison.numbers import decimal_text, spread_decimals
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.sentences import label_of
from nanogpt_kit.comparison.table import block_lines
from nanogpt_kit.comparison.text import arm_values

DETECTABLE = f"the smallest true difference that is called better or worse in {POWER:.0%} of comparisons"
PAIRED = "paired: with the same seeds in both arms, as `compare` does; name a contender to measure it"


def noise_of(comparison: Comparison) -> Noise:
    """Of the base, and of its pairs with a contender where there is one."""
    contender = arm_values(comparison, 1) if len(comparison.arms) > 1 else None
    return measure_noise(arm_values(comparison, 0), contender)


def noise_lines(comparison: Comparison, noise: Noise) -> list[str]:
    """The spread, and the smallest effects that numbers of seeds can detect."""
    sentences = spread_sentences(comparison, noise)
    return [*sentences, "", *effect_lines(noise)] if noise.sd else sentences


def spread_sentences(comparison: Comparison, noise: Noise) -> list[str]:
    """Mean and standard deviation over seeds, or why they are unknown."""
    base = label_of(comparison, 0)
    if not noise.sd:
        return [f"{base}: {noise.reason}"]
    decimals = noise_decimals(noise)
    sd, low, high = (decimal_text(value, decimals) for value in (noise.sd, noise.sd_low, noise.sd_high))
    mean = decimal_text(noise.mean, decimals)
    lines = [
        f"{base}: {comparison.metric} {mean} on average over {len(noise.seeds)} seeds",
        f"standard deviation over seeds: {sd} (95% interval {low} to {high})",
    ]
    if noise.difference_sd:
        contender, paired = label_of(comparison, 1), decimal_text(noise.difference_sd, decimals)
        lines.append(f"standard deviation of the differences of {contender} by seed: {paired} over {noise.pairs} seeds")
    elif noise.reason:
        lines.append(noise.reason)
    return lines


def noise_decimals(noise: Noise) -> int:
    return spread_decimals([noise.sd, noise.difference_sd])


def effect_lines(noise: Noise) -> list[str]:
    labels, *columns = effect_columns(noise)
    return [f"{DETECTABLE}:", *block_lines(labels, columns), *([PAIRED] if noise.difference_sd is None else [])]


def effect_columns(noise: Noise) -> list[list[str]]:
    """Numbers of seeds, and the smallest differences that they detect; each column begins with its name."""
    decimals = noise_decimals(noise)
    seeds = ["seeds of each arm", *(str(effect.seeds) for effect in noise.effects)]
    unpaired = ["unpaired", *(decimal_text(effect.unpaired, decimals) for effect in noise.effects)]
    paired = ["paired", *(decimal_text(effect.paired, decimals) for effect in noise.effects)]
    return [seeds, unpaired, paired] if noise.difference_sd else [seeds, unpaired]
