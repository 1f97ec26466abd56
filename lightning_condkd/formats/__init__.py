"""Readers and writers of the files in which other projects store condensed sets."""

from lightning_condkd.formats.contents import CondensedInfo, Contents
from lightning_condkd.formats.dc import export_dc, import_dc
from lightning_condkd.formats.dd_ranking import export_dd_ranking, import_dd_ranking
from lightning_condkd.formats.idc import import_idc
from lightning_condkd.formats.image_folder import export_png, import_folder
from lightning_condkd.formats.mtt import export_mtt, import_mtt
from lightning_condkd.formats.options import ImportOptions
from lightning_condkd.formats.parquet import export_parquet, import_parquet
from lightning_condkd.formats.read import import_condensed

__all__ = [
    "CondensedInfo",
    "Contents",
    "ImportOptions",
    "export_dc",
    "export_dd_ranking",
    "export_mtt",
    "export_parquet",
    "export_png",
    "import_condensed",
    "import_dc",
    "import_dd_ranking",
    "import_folder",
    "import_idc",
    "import_mtt",
    "import_parquet",
]
