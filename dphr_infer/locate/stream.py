"""Many photos one after the other: the next is decoded, and on a GPU copied, while one is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from dphr_infer.errors import ImageError
from dphr_infer.images.photo import Photo, PhotoLike, each_photo, worked_ahead
from dphr_infer.types import LocationEstimate, RowRanges

OnError = Callable[[PhotoLike, ImageError], None]


class Finder(Protocol):
    """What takes photos one after the other, and answers in their order."""

    @property
    def most_on_the_way(self) -> int:
        """Photos that `start` takes before the first `finish`."""
        ...

    def start(self, photo: Photo, rows: RowRanges | None = None) -> None:
        """Hand a photo over."""
        ...

    def finish(self) -> LocationEstimate:
        """The estimate of the photo that was started first."""
        ...


class Answerer(Finder, Protocol):
    """The same, which on some devices answers a photo at once: a `Localizer`."""

    @property
    def in_one_launch(self) -> bool:
        """Whether photos go by `start` and `finish`, else by `answer`."""
        ...

    def read(self, photo: PhotoLike) -> Photo:
        """A photo read as finely as it is needed; from any thread."""
        ...

    def answer(self, photo: Photo, rows: RowRanges | None) -> LocationEstimate:
        """The estimate of one photo."""
        ...

    def drop(self) -> None:
        """Forget the photos that are on their way."""
        ...


def located(
    finder: Answerer, photos: PhotoLike | Iterable[PhotoLike], rows: RowRanges | None, on_error: OnError | None
) -> Iterator[tuple[Photo, LocationEstimate]]:
    """Each photo with its estimate; arguments and errors as of `Localizer.locate_each`."""
    started = deque[Photo]()  # on a GPU's way; another photo is started before the first is waited for
    try:
        for given, reading in worked_ahead(each_photo(photos), finder.read):
            try:
                photo = reading.result()
                if not finder.in_one_launch:
                    found = photo, finder.answer(photo, rows)
                else:
                    finder.start(photo, rows)
            except ImageError as error:
                if on_error is None:
                    while started:  # the answers that a CPU has given by now
                        yield started.popleft(), finder.finish()
                    raise
                on_error(given, error)
                continue
            if not finder.in_one_launch:
                yield found
                continue
            started.append(photo)
            if len(started) == finder.most_on_the_way:
                yield started.popleft(), finder.finish()
        while started:
            yield started.popleft(), finder.finish()
    finally:
        if finder.in_one_launch:
            finder.drop()
