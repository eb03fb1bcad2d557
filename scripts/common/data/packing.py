"""Put examples of different lengths into sequences of one length, without splitting any.

Padding every example to 512 tokens wastes two thirds of the arithmetic on a data set of short
answers; packing wastes almost nothing. Packed examples must not see each other, so each position
carries the number of its example (its segment).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Sequence

import numpy as np

IGNORED = -100  # the label that Hugging Face and torch's cross entropy leave out of the loss


def pack(lengths: Sequence[int], seq_len: int) -> list[list[int]]:
    """Best-fit-decreasing bin packing: the longest example first, each into the fullest sequence that holds it.

    Returns the indices into `lengths` that share each sequence. Every length must lie in 1..seq_len.
    Equal lengths go in the order given. At most 11/9 of the fewest sequences possible plus one
    (Johnson et al. 1974, "Worst-case performance bounds for simple one-dimensional packing algorithms").
    """
    sequences: list[list[int]] = []
    with_space: dict[int, list[int]] = {}  # free tokens -> sequences that have just so many
    spaces: list[int] = []  # the keys of with_space, sorted
    for example in sorted(range(len(lengths)), key=lambda index: -lengths[index]):
        at = bisect_left(spaces, lengths[example])
        space = spaces[at] if at < len(spaces) else seq_len
        if at < len(spaces):
            sequence = with_space[space].pop()
            if not with_space[space]:
                del with_space[space], spaces[at]
        else:
            sequence = len(sequences)
            sequences.append([])
        sequences[sequence].append(example)
        left = space - lengths[example]
        if left not in with_space:
            with_space[left] = []
            insort(spaces, left)
        with_space[left].append(sequence)
    return sequences


def lay_out(
    examples: Sequence[tuple[np.ndarray, np.ndarray]],
    input_ids: np.ndarray,
    labels: np.ndarray,
    segment_ids: np.ndarray,
) -> None:
    """Fill one sequence, three arrays of (seq_len,), with `examples` one after the other.

    An example is its token ids and which of them are learnt (bool). What is left free is padding: id 0,
    label -100, segment 0.
    """
    labels[:] = IGNORED
    start = 0
    for segment, (ids, learnt) in enumerate(examples, 1):
        end = start + len(ids)
        input_ids[start:end] = ids
        labels[start:end][learnt] = ids[learnt]
        segment_ids[start:end] = segment
        start = end
    input_ids[start:] = segment_ids[start:] = 0
