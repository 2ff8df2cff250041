"""Generate a video and lay every nth frame out on one picture.

python examples/contact_sheet.py OUT.png "a red seven moving left on a navy background"
"""

import sys
from itertools import islice

from PIL import Image

from video_infinity import VideoInfinityPipeline

COLUMNS, EVERY, ENLARGE = 16, 4, 2


def main(path: str, prompt: str) -> None:
    pipe = VideoInfinityPipeline.from_pretrained("demo")
    with pipe(prompt, num_frames=128) as video:
        tiles = [Image.fromarray(frame) for frame in islice(video, 0, None, EVERY)]
    width, height = tiles[0].size
    rows = -(-len(tiles) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width, rows * height))
    for index, tile in enumerate(tiles):
        sheet.paste(tile, (index % COLUMNS * width, index // COLUMNS * height))
    sheet.resize((sheet.width * ENLARGE, sheet.height * ENLARGE), Image.Resampling.NEAREST).save(
        path
    )


if __name__ == "__main__":
    main(*sys.argv[1:3])
