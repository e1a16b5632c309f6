import numpy as np
import pytest

from crkd_core.drawing.style import canvas
from crkd_core.drawing.text import draw_label, draw_text, text_width


def marked(image: np.ndarray) -> np.ndarray:
    """Columns that hold text."""
    return np.flatnonzero((image > 60).any(axis=(0, 2)))


def test_text_is_written_at_its_anchor():
    width = text_width("pedestrian", 20)
    for anchor, left in (("left", 100), ("center", 100 - width // 2), ("right", 100 - width)):
        image = canvas(40, 300, (0, 0, 0))
        draw_text(image, "pedestrian", (100, 5), 20, anchor=anchor)
        columns = marked(image)
        assert left <= columns.min() <= left + 4
        assert left + width - 5 <= columns.max() < left + width


@pytest.mark.parametrize("position", [(-20, 5), (290, 5), (10, -10), (10, 35), (-500, -500), (400, 100)])
def test_text_over_the_border_is_cut_off(position: tuple[int, int]):
    image = canvas(40, 300, (0, 0, 0))
    draw_text(image, "pedestrian", position, 20)
    assert image.shape == (40, 300, 3)


def test_text_has_its_colour():
    image = canvas(40, 300, (0, 0, 0))
    draw_text(image, "M", (5, 5), 30, color=(0, 255, 0))
    assert image[..., 1].max() > 240
    assert image[..., [0, 2]].max() == 0


def test_larger_text_is_wider():
    assert text_width("car 0.95", 30) > 1.4 * text_width("car 0.95", 20)


def test_a_label_darkens_what_lies_under_it():
    image = canvas(40, 300, (240, 240, 240))
    draw_label(image, "car", (10, 5), 20, color=(255, 150, 0))
    assert image[6, 11].max() <= 80
    assert (image[:, 200:] == 240).all()
