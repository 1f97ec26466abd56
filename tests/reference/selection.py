"""Plain transcriptions of how images are chosen, in Python lists; they share nothing with the package."""

from __future__ import annotations

from itertools import combinations, product

Point = list[float]


def _distance(a: Point, b: Point) -> float:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True)) ** 0.5


def _mean(points: list[Point]) -> Point:
    return [sum(values) / len(points) for values in zip(*points, strict=True)]


def herding(points: list[Point], count: int) -> list[int]:
    """Try every row that is left, keep the one whose running mean is nearest to the mean of all."""
    target, chosen = _mean(points), []
    for _ in range(count):
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(min(left, key=lambda row: _distance(_mean([points[i] for i in [*chosen, row]]), target)))
    return chosen


def k_center(points: list[Point], count: int) -> list[int]:
    """Start at the row nearest to the mean; add the row that is farthest from what is chosen."""
    target = _mean(points)
    chosen = [min(range(len(points)), key=lambda row: _distance(points[row], target))]
    while len(chosen) < count:
        left = [row for row in range(len(points)) if row not in chosen]
        chosen.append(max(left, key=lambda row: min(_distance(points[row], points[i]) for i in chosen)))
    return chosen


def radius(points: list[Point], chosen: list[int]) -> float:
    """The greatest distance from a row to the nearest chosen one."""
    return max(min(_distance(point, points[i]) for i in chosen) for point in points)


def least_radius(points: list[Point], count: int) -> float:
    """The least radius of all choices of so many rows."""
    return min(radius(points, list(chosen)) for chosen in combinations(range(len(points)), count))


def best_k_means_nearest(points: list[Point], count: int) -> list[int]:
    """Of all partitions the one with the least squared distances; the nearest row of each part, largest part first."""
    best: tuple[float, list[list[int]]] = (float("inf"), [])
    for labels in product(range(count), repeat=len(points)):
        parts = [[row for row, label in enumerate(labels) if label == part] for part in range(count)]
        if all(parts):
            means = [_mean([points[row] for row in part]) for part in parts]
            loss = sum(_distance(points[r], m) ** 2 for part, m in zip(parts, means, strict=True) for r in part)
            if loss < best[0]:
                best = (loss, parts)
    parts = sorted(best[1], key=len, reverse=True)
    return [min(part, key=lambda row: _distance(points[row], _mean([points[i] for i in part]))) for part in parts]


def tile(images: list[list[list[float]]], factor: int) -> list[list[list[float]]]:
    """Write pixel after pixel of single-channel images: image k of cell (i, j) is number (i * factor + j) * n + k."""
    n, height, width = len(images) // factor**2, len(images[0]), len(images[0][0])
    large = [[[0.0] * (width * factor) for _ in range(height * factor)] for _ in range(n)]
    for k, i, j, y, x in product(range(n), range(factor), range(factor), range(height), range(width)):
        large[k][i * height + y][j * width + x] = images[(i * factor + j) * n + k][y][x]
    return large
