"""Runs VBench on a task of `environment.py`. Is run by another Python; imports nothing of ours.

in_environment.py TASK.json OUT_DIR
"""

import json
import sys
from pathlib import Path


def stub_operators() -> None:
    """Declare torchvision's compiled operators where its build does not fit the torch there.

    VBench imports torchvision for its transforms, which need none of them.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.startswith("torchvision")]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        stub_operators.kept = library  # type: ignore[attr-defined]


def main() -> None:
    task, out = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    stub_operators()
    import torch
    from vbench import VBench

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    bench = VBench(device, "", str(out))
    bench.evaluate(
        videos_path=task["videos"],
        name="ours",
        prompt_list=task["prompts"],
        dimension_list=task["dimensions"],
        local=True,
        mode="custom_input",
    )
    results = json.loads((out / "ours_eval_results.json").read_text())
    scores = {dimension: float(result[0]) for dimension, result in results.items()}
    (out / "scores.json").write_text(json.dumps(scores))


if __name__ == "__main__":
    main()
