"""Callbacks that report on a run: progress line, pictures, baseline, final table, files; and checkpoint callbacks."""

from lightning_condkd.callbacks.best_checkpoint import BestCheckpoint
from lightning_condkd.callbacks.beta2_ramp import Beta2Ramp
from lightning_condkd.callbacks.compile_networks import CompileNetworks
from lightning_condkd.callbacks.condensed_accuracy import CondensedAccuracy
from lightning_condkd.callbacks.condensed_only import CondensedOnlyBaseline
from lightning_condkd.callbacks.epoch_lines import EpochLines
from lightning_condkd.callbacks.feature_tsne import FeatureTSNE
from lightning_condkd.callbacks.prediction_file import PredictionFile
from lightning_condkd.callbacks.progress_bar import PhaseProgressBar
from lightning_condkd.callbacks.run_summary import RunSummary, closing_table
from lightning_condkd.callbacks.synthetic_images import SyntheticImages, latest_sheet, set_sheet
from lightning_condkd.callbacks.timed_checkpoint import TimedCheckpoint
from lightning_condkd.training.student_averaging import StudentAveraging

__all__ = [
    "BestCheckpoint",
    "Beta2Ramp",
    "CompileNetworks",
    "CondensedAccuracy",
    "CondensedOnlyBaseline",
    "EpochLines",
    "FeatureTSNE",
    "PhaseProgressBar",
    "PredictionFile",
    "RunSummary",
    "StudentAveraging",
    "SyntheticImages",
    "TimedCheckpoint",
    "closing_table",
    "latest_sheet",
    "set_sheet",
]
