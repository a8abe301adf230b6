"""The noise of an arm as lines and for programs."""

from __future__ import annotations

from nanogpt_kit.comparison.noise import POWER, Noise, measure_noise
from nanogpt_kit.comparison.numbers import decimal_text, spread_decimals
from nanogpt_kit.comparison.record import Comparison
from nanogpt_kit.comparison.sentences import label_of
from nanogpt_kit.comparison.table import block_lines
from nanogpt_kit.comparison.text import arm_values


def noise_of(comparison: Comparison) -> Noise:
    """Of the base, and of its pairs with a contender where there is one."""
    contender = arm_values(comparison, 1) if len(comparison.arms) > 1 else None
    return measure_noise(arm_values(comparison, 0), contender)


def noise_lines(comparison: Comparison, noise: Noise) -> list[str]:
    """The spread, and the smallest effects that numbers of seeds can detect."""
    base = label_of(comparison, 0)
    if not noise.sd:
        return [f"{base}: {noise.reason}"]
    decimals = spread_decimals([noise.sd, noise.difference_sd])
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
    return [*lines, "", *effect_lines(noise, decimals)]


def effect_lines(noise: Noise, decimals: int) -> list[str]:
    unpaired = ["unpaired", *(decimal_text(effect.unpaired, decimals) for effect in noise.effects)]
    paired = ["paired", *(decimal_text(effect.paired, decimals) for effect in noise.effects)]
    columns = [unpaired, paired] if noise.difference_sd else [unpaired]
    labels = ["seeds of each arm", *(str(effect.seeds) for effect in noise.effects)]
    heading = f"the smallest true difference that is called better or worse in {POWER:.0%} of comparisons:"
    remark = "paired: with the same seeds in both arms, as `compare` does; name a contender to measure it"
    return [heading, *block_lines(labels, columns), *([remark] if noise.difference_sd is None else [])]
