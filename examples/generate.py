"""A long video from Python: a prompt that changes half way.

python examples/generate.py
torchrun --nproc-per-node 2 examples/generate.py     the same video, on two ranks
"""

import argparse

from video_infinity import VideoInfinityPipeline


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="demo")
    parser.add_argument("--num-frames", type=int, default=64)
    parser.add_argument(
        "--steps", type=int, default=None, help="the model's own number if left out"
    )
    parser.add_argument("--output", default="example.mp4")
    arguments = parser.parse_args()

    half = arguments.num_frames // 2
    pipe = VideoInfinityPipeline.from_pretrained(arguments.model)
    video = pipe(
        timeline=[
            {"start": 0, "prompt": "a red seven moving left on a navy background"},
            {
                "start": half,
                "prompt": "a green two moving up on a gray background",
                "transition": 4,
            },
        ],
        num_frames=arguments.num_frames,
        num_inference_steps=arguments.steps,
        seed=1,
    )
    # Rank 0 has the frames; on the others this loop is empty and saving does nothing.
    for index, frame_HWC in enumerate(video):
        if index % half == 0:
            print(f"frame {index}: {frame_HWC.shape}, mean level {frame_HWC.mean():.0f}")
    video.save(arguments.output, overwrite=True)


if __name__ == "__main__":
    main()
