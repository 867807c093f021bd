"""A loop of your own: frames from anywhere go in, positions come out. On a GPU two frames are on their way at once.

python examples/camera.py samples/bundle runs/brighton.gallery film.mp4 [cuda]
"""

import sys
from collections.abc import Iterator

import cv2
import numpy as np

import dphr_infer as dphr
from dphr_infer.images.frame_format import rgb_frames
from dphr_infer.images.photo import Photo


def frames(source: str) -> Iterator[np.ndarray]:
    """Each frame of a film or camera, uint8 (H, W, 3) RGB: replace it by your camera."""
    film = cv2.VideoCapture(source)
    while (read := film.read())[0]:
        yield cv2.cvtColor(read[1], cv2.COLOR_BGR2RGB)


def main(bundle: str, gallery: str, source: str, device: str = "cpu") -> None:
    """Hand over each frame; take an answer as soon as no further frame may wait."""
    with dphr.open(bundle, gallery, device=device) as localizer:
        number = -1
        for number, rgb in enumerate(frames(source)):
            kind = rgb_frames(rgb.shape[1], rgb.shape[0])
            if (memory := localizer.frame_memory(kind)) is not None:  # the GPU's own; a camera may write here itself
                memory[: rgb.size], rgb = rgb.reshape(-1), memory
            localizer.start(Photo(rgb, f"frame {number}", frame_format=None if memory is None else kind))
            if number + 1 >= localizer.most_on_the_way:
                print(localizer.finish())
        for _ in range(min(number + 1, localizer.most_on_the_way - 1)):
            print(localizer.finish())


if __name__ == "__main__":
    main(*sys.argv[1:])
