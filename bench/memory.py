"""What the memory's filter saves: `Memory` beside Algorithm 3 with all distances, on the same images, in one process.

    (echo "# The memory's filter"; python bench/memory.py) > bench/memory.md
    python bench/memory.py --images 10000 --kinds 1/f --norms l2 >> bench/memory.md

Both give the same answers, or the program stops. The images are of CIFAR-10's form (3 x 32 x 32, 8 bits): of independent pixels, and of random
fields with the spectrum of photographs (amplitude 1/f), which are nearer to each other; one in fifty is a near copy of an earlier one. Radii are
uniform up to `--reach`; the default is what sigma = 0.5 certifies at n = 100,000. Takes a minute, and six for the second table.
"""

import argparse
import time

import numpy as np

from ddrs.memory.memory import Memory

CLASSES, SHAPE, SEED = 10, (3, 32, 32), 0
ABSTAINED, COPIED = 0.2, 0.02  # of the images


class AllDistances(Memory):
    """The same without its filter: every insert looks at all entries of other classes."""

    def _reached(self, sums: np.ndarray, error: float, label: int, radius: float) -> np.ndarray:
        return np.flatnonzero(self._labels[: len(self)] != label)


def images(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 images of one kind, a few of them near copies."""
    made = independent(kind, count, rng)
    copies = np.flatnonzero(rng.random(count) < COPIED)[1:]
    noise = rng.integers(-2, 3, (len(copies), *SHAPE))
    made[copies] = np.clip(made[rng.integers(0, copies)].astype(int) + noise, 0, 255)
    return made


def independent(kind: str, count: int, rng: np.random.Generator) -> np.ndarray:
    """uint8 images, none of which knows of another."""
    if kind == "pixels":
        return rng.integers(0, 256, (count, *SHAPE), np.uint8)
    rows, columns = (np.fft.fftfreq(size)[: size if i == 0 else size // 2 + 1] for i, size in enumerate(SHAPE[1:]))
    frequency = np.hypot(rows[:, None], columns)
    frequency[0, 0] = 1 / SHAPE[1]
    field = np.stack([np.fft.irfft2(np.fft.rfft2(rng.normal(size=SHAPE)) / frequency) for _ in range(count)])
    return (np.clip(0.5 + 0.25 * field / field.std(), 0, 1) * 255).astype(np.uint8)


def seconds(memory: Memory, pictures: np.ndarray, labels: np.ndarray, radii: np.ndarray) -> tuple[float, list[tuple[int, float]]]:
    """Processor time of a pass, and its answers."""
    started = time.process_time()
    queries = zip(pictures, labels.tolist(), radii.tolist(), strict=True)
    answers = [memory.insert(picture / np.float32(255), label, radius) for picture, label, radius in queries]
    return time.process_time() - started, answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=1500)
    parser.add_argument("--kinds", nargs="+", default=["pixels", "1/f"], choices=["pixels", "1/f"])
    parser.add_argument("--norms", nargs="+", default=["l2", "l1"], choices=["l2", "l1"])
    parser.add_argument("--reach", type=float, default=1.9)
    given = parser.parse_args()
    count = given.images
    print(f"""
`bench/memory.py`: one pass of {count:,} images, processor time. {ABSTAINED:.0%} abstain, the other radii are uniform in [0, {given.reach:g}].
"All distances" is the same class without its filter. The answers are equal, bit by bit.

| images | kind | norm | all distances | filtered | ratio | adopted, shrunk |
| --- | --- | --- | --- | --- | --- | --- |""")
    for kind in given.kinds:
        rng = np.random.default_rng(SEED)
        pictures, labels = images(kind, count, rng), np.where(rng.random(count) < ABSTAINED, -1, rng.integers(0, CLASSES, count))
        radii = np.where(labels == -1, 0.0, rng.uniform(0, given.reach, count))
        for norm in given.norms:
            memory = Memory(norm)
            (slow, expected), (fast, found) = (seconds(one, pictures, labels, radii) for one in (AllDistances(norm), memory))
            if found != expected:
                raise SystemExit(f"{count} {kind} {norm}: the answers differ")
            changed = f"{memory.adopted}, {memory.shrunk}"
            print(f"| {count:,} | {kind} | {norm} | {slow:.1f} s | {fast:.2f} s | {slow / fast:.0f} | {changed} |", flush=True)


if __name__ == "__main__":
    main()
