"""DrugOOD's molecules, drawn from their SMILES by RDKit. Called by `archives`, for `throughline data import`.

Form: what `data_saving` of tencent-ailab/DrugOOD's `drugood/curators/curator.py` writes; a case has `smiles`,
`cls_label` (1 is active: a benchmark's form says so) and `domain_id`. Size: 224 pixels, as arXiv 2402.06599 has them.
"""

from collections.abc import Mapping
from typing import Any

from throughline.core.errors import ThroughlineError, extra
from throughline.domains.tables import TableRows, fill

PIXELS = 224


def read_molecules(content: Mapping[str, Any], given: Mapping[str, str]) -> TableRows:
    """A row for each case of all splits, whose picture is drawn when it is asked for. `given` columns are keys of a
    case."""
    columns = {"domain": "domain_id", "label": "cls_label", **given}
    cases = [case for split in content["split"].values() for case in split]
    filled = ({ours: fill(column, case) for ours, column in columns.items()} for case in cases)
    rows = [{**row, "image": str(number)} for number, row in enumerate(filled)]
    pictures = ({"bytes": draw_molecule(case["smiles"]), "path": None} for case in cases)
    return TableRows("DrugOOD JSON", {"image": "smiles", **columns}, rows, pictures)


def draw_molecule(smiles: str) -> bytes:
    """A PNG of the molecule. Raises a ThroughlineError for a text that is none, and where RDKit is missing."""
    try:
        from rdkit import Chem, rdBase
        from rdkit.Chem.Draw import rdMolDraw2D
    except ImportError as error:
        what = f"molecules are drawn by RDKit, which cannot be loaded ({error})"
        raise ThroughlineError(what, do=extra("molecules")) from error
    with rdBase.BlockLogs():  # it prints the fault, too
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        raise ThroughlineError("no molecule that RDKit can read", smiles, "remove the case from the file")
    drawing = rdMolDraw2D.MolDraw2DCairo(PIXELS, PIXELS)
    rdMolDraw2D.PrepareAndDrawMolecule(drawing, molecule)
    drawing.FinishDrawing()
    return bytes(drawing.GetDrawingText())
