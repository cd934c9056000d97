"""Rounding with error feedback, one weight after the other in plain Python: what csrc/feedback/round_rows.cpp computes.

The arithmetic is that of doubles, and nothing is kept up to date: every decision looks at the whole row anew.
"""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from hobbit_py.pack.integers import IntegerFormat, Integers

Doubles = npt.NDArray[np.float64]


def row_values(own: IntegerFormat, row: Integers) -> Doubles:
    """Weights [n_in] of a row of one or more blocks."""
    doubles = replace(row, supers=row.supers.astype(np.float64))
    if row.super_mins is not None:
        doubles = replace(doubles, super_mins=row.super_mins.astype(np.float64))
    return own.values(doubles).astype(np.float64).reshape(-1)


def weighted_error(own: IntegerFormat, row: Integers, weights: Doubles, moments: Doubles) -> float:
    errors = row_values(own, row) - weights
    return float(errors @ moments @ errors)


def best_integer(now: int, effect: Doubles, errors: Doubles, moments: Doubles, lowest: int, highest: int) -> int:
    """Of something that adds `effect` [n_in] to the weights with each step: where the weighted error is least."""
    slope = effect @ moments @ effect
    if slope <= 0:
        return now
    return int(np.floor(np.clip(now - effect @ moments @ errors / slope, lowest, highest) + 0.5))


def best_level(own: IntegerFormat, now: int, effect: Doubles, errors: Doubles, moments: Doubles) -> int:
    """Of a weight to which `effect` [n_in] is added with each unit of its level's value."""
    value = own.level_values[now] - effect @ moments @ errors / (effect @ moments @ effect)
    distances = [abs(value - level_value) for level_value in own.level_values]
    return max(level for level, distance in enumerate(distances) if distance == min(distances))


def improve_row(own: IntegerFormat, row: Integers, weights: Doubles, moments: Doubles, n_rounds: int) -> Integers:
    """One row's blocks, all of whose columns are in one block of moments [n_in, n_in]."""
    row = replace(
        row,
        levels=row.levels.copy(),
        steps=row.steps.copy(),
        minimums=None if row.minimums is None else row.minimums.copy(),
    )

    def errors() -> Doubles:
        return row_values(own, row) - weights

    def sweep_levels() -> bool:
        changed = False
        for block, level_idx in np.ndindex(*row.levels.shape):
            step = float(row.supers[block, 0]) * float(row.steps[block, level_idx // own.group])
            if step != 0:
                effect = np.zeros(len(weights))
                effect[block * own.block + level_idx] = step  # of a level's value one more
                now = int(row.levels[block, level_idx])
                best = best_level(own, now, effect, errors(), moments)
                changed |= best != now
                row.levels[block, level_idx] = best
        return changed

    def sweep_groups() -> bool:
        changed = False
        for block, group in np.ndindex(*row.steps.shape):
            columns = slice(group * own.group, (group + 1) * own.group)
            place = slice(block * own.block + columns.start, block * own.block + columns.stop)
            effect = np.zeros(len(weights))
            effect[place] = float(row.supers[block, 0]) * np.array(own.level_values)[row.levels[block, columns]]
            now = int(row.steps[block, group])
            if own.min_step < own.max_step:
                row.steps[block, group] = best_integer(now, effect, errors(), moments, own.min_step, own.max_step)
                changed |= int(row.steps[block, group]) != now
            if row.minimums is not None and row.super_mins is not None:
                effect[place] = -float(row.super_mins[block, 0])
                now = int(row.minimums[block, group])
                row.minimums[block, group] = best_integer(now, effect, errors(), moments, 0, own.max_minimum)
                changed |= int(row.minimums[block, group]) != now
        return changed

    for _ in range(n_rounds):
        changed_levels = sweep_levels()
        if not sweep_groups() and not changed_levels:
            break
    sweep_levels()
    return row
