"""The class lists of five DomainBed image sets, spelled as their folders are and in folder order, so that the
answer parser can be tested on them, and prompts estimated, without the images.

Source: `data/dataset_info.json` of jiansheng-li/MLLMs (commit bc3a0f4), sorted here as DomainBed sorts folders
(Python's order: capitals first). The counts agree with DomainBed's: 7, 5, 65, 10 and 345.
"""

import json
from importlib import resources

_FILE = resources.files(__package__).joinpath("class_lists.json")

CLASS_LISTS: dict[str, tuple[str, ...]] = {
    name: tuple(classes) for name, classes in json.loads(_FILE.read_text("utf-8")).items()
}
"""By image set (PACS, VLCS, OfficeHome, TerraIncognita, DomainNet): 7, 5, 65, 10 and 345 class names."""
