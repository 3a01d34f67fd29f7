"""Cut a full parity fixture down to what the project carries.

python tests/parity/cut_down.py FOLDER_OF_FULL_FIXTURES BEATs unilm_BEATs_finetuned
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

CLIP = "short_padded"
SAMPLES = 300


def rules(tensors: list[list[Any]]) -> list[dict[str, Any]]:
    """Rows that differ in their layer number only become one."""
    rows: dict[str, dict[str, Any]] = {}
    for key, shape, kind, values in tensors:
        if kind == "values":
            rows[key] = {"key": key, "values": values}
            continue
        mean, std, absolute, source = values
        row: dict[str, Any] = {"shape": shape, "mean": mean, "std": std, "absolute": absolute}
        if source != key:
            row["seeded_by"] = source
        numbered = re.fullmatch(r"(.*\.(?:layers|blocks)\.)(\d+)(\..*)", key)
        pattern = f"{numbered[1]}{{}}{numbered[3]}" if numbered else key
        known = rows.get(pattern)
        if numbered and (int(numbered[2]) == 0 if known is None else _continues(known, row, int(numbered[2]))):
            rows[pattern] = {"key": pattern, "count": int(numbered[2]) + 1, **row}
        else:
            rows[key] = {"key": key, **row}
    return list(rows.values())


def _continues(known: dict[str, Any], row: dict[str, Any], number: int) -> bool:
    return known["count"] == number and {**row, "key": known["key"], "count": number} == known


def sampled(outputs: Any, rng: np.random.Generator) -> dict[str, Any]:
    """Output name -> positions in the flattened array and the values there, of CLIP only."""
    found = {}
    for name in sorted(outputs.files):
        if name.startswith(f"{CLIP}."):
            flat = outputs[name].ravel()
            positions = np.sort(rng.choice(flat.size, size=min(SAMPLES, flat.size), replace=False))
            values = [float(np.format_float_positional(value, unique=True)) for value in flat[positions]]
            found[name.removeprefix(f"{CLIP}.")] = {
                "shape": list(outputs[name].shape),
                "positions": positions.tolist(),
                "values": values,
            }
    return found


def main(folder: Path, names: list[str]) -> None:
    for name in names:
        full = json.loads((folder / f"{name}.tensors.json").read_text())
        kept = {key: full[key] for key in ("seed", "cfg", "label_dict") if key in full}
        with np.load(folder / f"{name}.expected.npz") as outputs:
            kept["expected"] = sampled(outputs, np.random.default_rng(0))
        kept["tensors"] = rules(full["tensors"])
        text = json.dumps(kept, separators=(",", ":")).replace('{"key"', '\n{"key"')
        (Path(__file__).parent / f"{name}.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
