"""Every loss on four kinds of images."""

from __future__ import annotations

from collections.abc import Sequence

from benchmarks.pages import measured, published
from benchmarks.pages.layout import Cell, Table, accuracy, figure
from benchmarks.pages.measured import PERCENT
from benchmarks.support.loss_names import CIFAR10_LOSSES

DIGITS, LONG, CIFAR10 = "losses-digits", "losses-digits-long", "losses-cifar10"
KINDS = ("real", "condensed", "synthetic", "union")
COMMAND = "python benchmarks/quality/losses.py"
SPREAD = "mean ± sample standard deviation over the seeds."
LOGITS = (
    "KD",
    "KD, temperature 20",
    "teacher's classes",
    "logits L1",
    "9 LSKD + 0.1 KD",
    "DKD",
    "DIST",
    "MLKD",
    "LumiNet + 2 KD",
    "OFA-KD",
)
FEATURES = (
    "RKD + KD",
    "30000 PKT + KD",
    "0.8 CRD + KD",
    "2 ND + KD (KD++)",
    "VkD + KD",
    "GenDD",
    "100 FitNet + KD",
    "1000 AT + KD",
    "ZSKT's KL/K + 250 AT",
    "3000 SP + KD",
    "VID + KD",
    "0.6 ReviewKD + KD",
    "mSARC + KD",
    "CAT",
    "SimKD",
)
CONTROLS = ("KD, second view of MLKD", "KD, mixup", "KD, CutMix")
ON_LONG = ("KD", "9 LSKD + 0.1 KD", "SimKD", "KD, mixup")
# class, what it compares, own parameters, its row
LOSSES: tuple[tuple[str, str, str, str], ...] = (
    ("KLDistillation", "logits", "-", "KD"),
    ("LSKD", "standardized logits, around any loss on logits", "-", "9 LSKD + 0.1 KD"),
    ("DKD", "logits", "-", "DKD"),
    ("DIST", "logits, within the batch", "-", "DIST"),
    ("MLKD", "logits of two views, within the batch", "-", "MLKD"),
    ("LumiNet", "logits, within the batch", "-", "LumiNet + 2 KD"),
    ("OFAKD", "logits at each stage", "heads", "OFA-KD"),
    ("SP", "a map, within the batch", "-", "3000 SP + KD"),
    ("RKD", "embeddings, within the batch", "-", "RKD + KD"),
    ("PKT", "embeddings, within the batch", "-", "30000 PKT + KD"),
    ("CRD", "embeddings, against all images", "projections, memory", "0.8 CRD + KD"),
    ("NormDirection", "embeddings and class means (KD++)", "linear map", "2 ND + KD (KD++)"),
    ("VkD", "embeddings (V_kD)", "orthogonal map", "VkD + KD"),
    ("FitNet", "a map", "regressor", "100 FitNet + KD"),
    ("AttentionTransfer", "maps (AT)", "-", "1000 AT + KD"),
    ("VID", "maps", "regressors", "VID + KD"),
    ("ReviewKD", "maps and embeddings", "fusion blocks", "0.6 ReviewKD + KD"),
    ("CATKD", "class activation maps", "-", "CAT"),
    ("MSARC", "class activation maps", "-", "mSARC + KD"),
    ("SimKD", "the last map; predicts by the teacher's final layer", "projector", "SimKD"),
    ("GenDD", "embeddings", "diffusion network", "GenDD"),
)


def budget(file: str) -> str:
    """Return the rounds and steps of the runs of a file."""
    flags = dict(flag.removeprefix("--").split("=") for flag in measured.entry(file, "base"))
    return f"{flags['rounds']} rounds of {flags['round_steps']} student steps at batch {flags['batch_size']}."


def grid(file: str, losses: Sequence[str], kinds: Sequence[str], command: str) -> Table:
    """Return the last accuracy of losses on kinds of images."""
    rows = [[loss, *(accuracy(file, f"{loss} on {kind}") for kind in kinds)] for loss in losses]
    says = f"Last accuracy in %, {SPREAD} {budget(file)}"
    return Table(("loss", *kinds), rows, says, (file,), (f"{COMMAND} {command}",))


def calibration(file: str, losses: Sequence[str], kinds: Sequence[str]) -> Table:
    """Return the expected calibration error of losses on kinds of images."""
    rows = [[loss, *(error(file, f"{loss} on {kind}") for kind in kinds)] for loss in losses]
    says = f"Expected calibration error in % (15 bins), mean over the seeds. {budget(file)}"
    return Table(("loss", *kinds), rows, says, (file,))


def error(file: str, row: str) -> Cell:
    """Return the calibration error of a row."""
    return figure(file, row, "figures/calibration_error", 0, PERCENT, spread=False)


def sampled(file: str) -> Table:
    """Return the accuracy of GenDD's other prediction."""
    rows = [
        [
            "GenDD, sampled (DDIM, 8 steps)",
            *(figure(file, f"GenDD on {kind}", "figures/sampled", 1, PERCENT) for kind in KINDS),
        ]
    ]
    return Table(("loss", *KINDS), rows, f"Last accuracy in %, {SPREAD}", (file,))


def overview() -> Table:
    """Return what every loss compares and what it trains."""
    rows = [[f"`{name}`", compares, own, *numbers(name)] for name, compares, own, _ in LOSSES]
    head = ("class", "compares", "own parameters", "CIFAR-100", "ImageNet")
    return Table(head, rows, f"Published: {published.source('losses')}.")


def numbers(name: str) -> list[str]:
    """Return the published numbers of a loss."""
    return [published.cell("losses", name, dataset) for dataset in ("CIFAR-100", "ImageNet")]


def ours(file: str, kinds: Sequence[str], task: str) -> Table:
    """Return our accuracies of every loss that has run, by its class."""
    known = [(f"`{name}`", row) for name, *_, row in LOSSES if measured.has_row(file, f"{row} on {kinds[0]}")]
    rows = [[name, *(accuracy(file, f"{row} on {kind}") for kind in kinds)] for name, row in known]
    says = f"Last accuracy in %, {SPREAD} {budget(file)}"
    return Table(("class", *kinds), rows, says, (file,), (f"{COMMAND} {task}",))


TABLES = {
    "losses-digits-logits": lambda: grid(DIGITS, LOGITS, KINDS, "digits"),
    "losses-digits-features": lambda: grid(DIGITS, FEATURES, KINDS, "digits"),
    "losses-digits-controls": lambda: grid(DIGITS, CONTROLS, KINDS, "digits"),
    "losses-digits-calibration": lambda: calibration(DIGITS, (*LOGITS, *FEATURES, *CONTROLS), KINDS),
    "losses-digits-sampled": lambda: sampled(DIGITS),
    "losses-digits-long": lambda: grid(LONG, ON_LONG, KINDS[1:3], "digits --rounds 36 --name losses-digits-long"),
    "losses-cifar10": lambda: grid(CIFAR10, CIFAR10_LOSSES, KINDS, "cifar10"),
    "losses-cifar10-calibration": lambda: calibration(CIFAR10, CIFAR10_LOSSES, KINDS),
    "losses-cifar10-sampled": lambda: sampled(CIFAR10),
    "losses-overview": overview,
    "losses-ours-digits": lambda: ours(DIGITS, KINDS, "digits"),
    "losses-ours-cifar10": lambda: ours(CIFAR10, KINDS, "cifar10"),
}
