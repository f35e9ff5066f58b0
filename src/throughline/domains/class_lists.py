"""The class lists of the image sets that are evaluated out of distribution, spelled as their folders are and in folder
order, so that the answer parser can be tested on them, and prompts estimated, without the images.

Source: `data/dataset_info.json` of jiansheng-li/MLLMs (commit bc3a0f4), sorted here as DomainBed sorts folders
(Python's order: capitals first). A name that stands there twice stands here once: Fibrosis of NIH-Chest, and iWildCam's
`mazama temama`, once with two blanks. Otherwise the counts are those of arXiv 2402.06599. CheXpert and
Progression are of MIMIC-CXR and of MS-CXR-T.
"""

import json
from importlib import resources

_FILE = resources.files(__package__).joinpath("class_lists.json")

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    name: tuple(classes) for name, classes in json.loads(_FILE.read_text("utf-8")).items()
}
"""By image set."""
DOMAINBED = {name: CLASS_LISTS[name] for name in ("PACS", "VLCS", "OfficeHome", "TerraIncognita", "DomainNet")}
"""Those of DomainBed: 7, 5, 65, 10 and 345 names."""
